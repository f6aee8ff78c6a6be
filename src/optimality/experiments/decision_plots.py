"""Figures of a decision to play or to stop: beliefs, break-even rates, more games, and when to quit."""

from typing import Any

import matplotlib
import numpy as np
import scipy.stats
from matplotlib.figure import Figure

from optimality.beliefs import GammaExponential, GammaKnownShape
from optimality.experiments.plots import BLUE, GRAY, GREEN, ORANGE, STYLE
from optimality.exploration.exact_play import DeadlinePolicy, PlayPolicy
from optimality.exploration.play_horizons import PlayHorizons
from optimality.exploration.play_or_not import PlayOrNot

_POINTS = 400
_INK = "#111827"
_MOST_SHOWN = 200


def plot_unknowns(
    problem: PlayOrNot, prior: PlayOrNot, rewards: list[float], times: list[float], opportunity: float
) -> Figure:
    """Densities of the mean reward, the mean time and the rate of playing for ever, before the data (dashed) and after
    them; ticks are the data, dotted lines their means."""
    laws = [[reward_mean(p.rewards), time_mean(p.times), long_rate(p.rewards, p.times)] for p in (prior, problem)]
    titles = "mean reward of a game", "mean time of a game", "reward per unit time, in the long run"
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(10.4, 2.9), layout="constrained")
        for place, axes in enumerate(figure.subplots(1, 3)):
            before, after = (laws[k][place] for k in (0, 1))
            data = (rewards, times, [])[place]
            high = min(float(after.ppf(0.985)), 6.0 * float(after.median()))
            high = max(high, 1.05 * max(data, default=0.0), 1.15 * opportunity * (place == 2))
            x = np.linspace(high / _POINTS, high, _POINTS)
            density = after.pdf(x)
            axes.plot(x, density, color=BLUE)
            if data or place == 2:
                axes.plot(x, before.pdf(x), color=GRAY, linestyle="--", linewidth=1.0)
            if data:
                axes.plot(data, np.zeros(len(data)), "|", color=_INK, markersize=12, clip_on=False)
                axes.axvline(float(np.mean(data)), color=GRAY, linestyle=":", linewidth=1.0)
            if place < 2:
                axes.fill_between(x, density, color=BLUE, alpha=0.15, linewidth=0.0)
            else:
                better = x >= opportunity
                axes.fill_between(x[better], density[better], color=GREEN, alpha=0.25, linewidth=0.0)
                axes.axvline(opportunity, color=ORANGE, linewidth=1.2)
                chance = float(after.sf(opportunity))
                label = f"P = {chance:.3g} above\nthe opportunity"
                axes.text(0.98, 0.95, label, transform=axes.transAxes, ha="right", va="top", color=GREEN)
            axes.set(title=titles[place], xlim=(0.0, high), ylim=(0.0, 1.15 * float(density.max())))
            axes.set_yticks([])
    return figure


def reward_mean(belief: GammaKnownShape) -> Any:
    """The law of `alpha / beta`, inverse gamma, as SciPy's."""
    alpha, epsilon, omega = (float(np.asarray(p)) for p in (belief.outcome_shape, belief.shape, belief.rate))
    return scipy.stats.invgamma(epsilon, scale=alpha * omega)


def time_mean(belief: GammaExponential) -> Any:
    """The law of `1 / lambda`, inverse gamma, as SciPy's."""
    return scipy.stats.invgamma(float(np.asarray(belief.shape)), scale=float(np.asarray(belief.rate)))


def long_rate(rewards: GammaKnownShape, times: GammaExponential) -> Any:
    """The law of `alpha lambda / beta`, beta prime, as SciPy's."""
    alpha, epsilon, omega = (float(np.asarray(p)) for p in (rewards.outcome_shape, rewards.shape, rewards.rate))
    theta, eta = float(np.asarray(times.shape)), float(np.asarray(times.rate))
    return scipy.stats.betaprime(theta, epsilon, scale=alpha * omega / eta)


def plot_predictions(problem: PlayOrNot, rewards: list[float], times: list[float]) -> Figure:
    """Predictive densities of the next reward and the next time, with what was measured below."""
    alpha, epsilon, omega = (
        float(np.asarray(p)) for p in (problem.rewards.outcome_shape, problem.rewards.shape, problem.rewards.rate)
    )
    theta, eta = float(np.asarray(problem.times.shape)), float(np.asarray(problem.times.rate))
    laws: Any = (
        ("reward of the next game", scipy.stats.betaprime(alpha, epsilon, scale=omega), rewards),
        ("time of the next game", scipy.stats.lomax(theta, scale=eta), times),
    )
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(8.4, 2.6), layout="constrained")
        for axes, (name, law, data) in zip(figure.subplots(1, 2), laws, strict=True):
            high = max(3.0 * float(law.median()), 1.1 * max(data, default=0.0))
            x = np.linspace(high / _POINTS, high, _POINTS)
            axes.plot(x, law.pdf(x), color=BLUE)
            axes.fill_between(x, law.pdf(x), color=BLUE, alpha=0.15, linewidth=0.0)
            axes.plot(data, np.zeros(len(data)), "|", color=_INK, markersize=12, clip_on=False)
            axes.set(title=name, xlim=(0.0, high), ylim=(0.0, None))
            axes.set_yticks([])
    return figure


def plot_break_evens(rates: dict[str, float], opportunity: float) -> Figure:
    """The largest rate of an opportunity at which each criterion still says play, in their order, on a logarithmic
    axis: those to the right of the line play. Zero and infinity stand at the edges."""
    ordered = dict(sorted(rates.items(), key=lambda item: item[1]))
    values = np.array(list(ordered.values()))
    inside = values[np.isfinite(values) & (values > 0.0)]
    low, high = float(inside.min(initial=opportunity)) / 2.2, float(inside.max(initial=opportunity)) * 2.2
    place = np.arange(values.size)
    shown = np.clip(values, low * 1.12, high / 1.12)
    colors = [GREEN if value >= opportunity else GRAY for value in values]
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(7.8, 0.27 * values.size + 0.9), layout="constrained")
        axes = figure.subplots()
        axes.axvspan(opportunity, high, color=GREEN, alpha=0.06, linewidth=0.0)
        axes.hlines(place, np.minimum(shown, opportunity), np.maximum(shown, opportunity), color="#d1d5db")
        for value, at, row, color in zip(values, shown, place, colors, strict=True):
            axes.plot(at, row, ">" if value > high else "<" if value < low else "o", color=color, zorder=3)
            text = "never plays" if value == 0.0 else "always plays" if np.isinf(value) else f"{value:.3g}"
            side = value < opportunity
            axes.annotate(
                text,
                (at, row),
                (-7 if side else 7, 0),
                textcoords="offset points",
                va="center",
                ha="right" if side and value > 0.0 else "left",
                fontsize=7.5,
                color=color,
            ) if 0.0 < value < np.inf else axes.annotate(
                text,
                (at, row),
                (7 if side else -7, 6),
                textcoords="offset points",
                va="center",
                ha="left" if side else "right",
                fontsize=7.5,
                color=color,
            )
        axes.axvline(opportunity, color=ORANGE, linewidth=1.2)
        axes.set_yticks(place, list(ordered))
        for label, name in zip(axes.get_yticklabels(), ordered, strict=True):
            label.set_fontweight("bold" if name.startswith("Bayes-optimal") else "normal")
        axes.set(xscale="log", xlim=(low, high), ylim=(-0.7, values.size - 0.3), xlabel="per unit time")
        axes.grid(visible=False, axis="y")
    return figure


def plot_horizons(
    found: PlayHorizons, opportunity: float, one_game: float, now: tuple[int, float] | None = None
) -> Figure:
    """By the number of games that may follow: what playing is worth, free to stop and not, and the phase diagram of the
    decision, whose border is the break-even rate. `now`: the number of games and the rate of this decision."""
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(9.6, 3.3), layout="constrained")
        left, right = figure.subplots(1, 2)
        games = found.games
        left.axhline(0.0, color=GRAY, linewidth=1.0)
        left.plot(games, found.value, color=BLUE, marker="o", markersize=3, label="free to quit after any game")
        left.plot(games, found.commitment, color=GRAY, linestyle="--", label="all games, whatever happens")
        span = max(float(found.value.max()), 1e-9 * opportunity)
        lowest = max(float(np.min(found.commitment)), -0.6 * span) if np.isfinite(found.commitment).all() else -0.1
        left.set(title="value over the opportunity", xlabel="games that may follow", xscale="log")
        if np.isfinite(span):
            left.set_ylim(min(-0.08 * span, lowest), 1.1 * max(span, float(found.commitment.max())))
        left.legend(fontsize=7.5, loc="upper left")

        top = 1.15 * max(opportunity, float(np.nanmax(np.where(np.isfinite(found.break_even), found.break_even, 0.0))))
        border = np.minimum(found.break_even, top)
        right.fill_between(games, 0.0, border, color=GREEN, alpha=0.18, linewidth=0.0)
        right.fill_between(games, border, top, color=GRAY, alpha=0.15, linewidth=0.0)
        right.plot(games, border, color=BLUE)
        right.axhline(opportunity, color=ORANGE, linewidth=1.0, linestyle=":")
        if 0.0 < one_game < np.inf:
            right.axhline(one_game, color=GRAY, linewidth=1.0, linestyle="--")
            right.annotate(
                "a single game",
                (games[-1], one_game),
                (-4, -3),
                textcoords="offset points",
                ha="right",
                va="top",
                fontsize=7.5,
                color=GRAY,
            )
        if now is not None:
            right.plot(*now, "o", color=ORANGE, zorder=4, clip_on=False)
        right.text(0.97, 0.06, "play", transform=right.transAxes, ha="right", color=GREEN, fontweight="bold")
        right.text(0.03, 0.94, "stop", transform=right.transAxes, va="top", color=GRAY, fontweight="bold")
        right.set(title="decision now", xlabel="games that may follow", ylabel="rate of the opportunity")
        right.set(xscale="log", xlim=(games[0], games[-1]), ylim=(0.0, top))
        for axes in (left, right):
            ticks = [n for n in (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000) if games[0] <= n <= games[-1]]
            axes.set_xticks(ticks, [str(n) for n in ticks])
            axes.minorticks_off()
    return figure


def plot_decision_rule(policy: PlayPolicy | DeadlinePolicy, paths: list[np.ndarray] | None = None) -> Figure:
    """When to go on: by games played so far, the least of what must have been earned per unit time; with a deadline,
    what must have been earned by then. `paths`: what was earned per unit time in courses of play, until they stop."""
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(7.2, 3.4), layout="constrained")
        axes = figure.subplots()
        if isinstance(policy, DeadlinePolicy):
            _with_deadline(axes, policy)
        else:
            _by_games(axes, policy, [] if paths is None else paths)
    return figure


def _by_games(axes: Any, policy: PlayPolicy, paths: list[np.ndarray]) -> None:
    rate = float(np.asarray(policy.rate))
    needed = rate * np.asarray(policy.thresholds, np.float64)[:_MOST_SHOWN]
    longest = max((len(path) for path in paths), default=0)
    needed = needed[: max(longest, 20)] if policy.endless else needed
    games = np.arange(needed.size)
    now = float(np.asarray(policy.omega)) / float(np.asarray(policy.eta))
    known = np.isfinite(needed)
    reached = [float(np.max(path)) for path in paths]
    top = 1.2 * max(float(needed[known].max(initial=0.0)), now, float(np.quantile(reached, 0.8)) if reached else 0.0)
    level = np.where(known, np.minimum(needed, top), top)
    axes.fill_between(games, level, top, color=GREEN, alpha=0.15, linewidth=0.0)
    axes.fill_between(games, 0.0, level, color=GRAY, alpha=0.15, linewidth=0.0)
    for path in paths:
        axes.plot(np.arange(len(path)), np.minimum(path, 2.0 * top), color=GRAY, linewidth=0.8, alpha=0.8)
        if len(path) <= needed.size and path[-1] < needed[min(len(path), needed.size) - 1]:
            axes.plot(len(path) - 1, path[-1], "x", color=_INK, markersize=5)
    axes.plot(games[known], needed[known], color=BLUE)
    axes.plot([0], [now], "o", color=ORANGE, clip_on=False, zorder=4)
    axes.annotate("now", (0, now), (6, 5), textcoords="offset points", color=ORANGE, fontsize=8)
    axes.text(0.98, 0.94, "play on", transform=axes.transAxes, ha="right", va="top", color=GREEN, fontweight="bold")
    axes.text(0.98, 0.05, "stop", transform=axes.transAxes, ha="right", color=GRAY, fontweight="bold")
    axes.set(
        xlabel="games played from now on",
        ylabel="(omega + earned) / (eta + time)",
        xlim=(0, max(1, needed.size - 1)),
        ylim=(0.0, top),
    )


def _with_deadline(axes: Any, policy: DeadlinePolicy) -> None:
    eta, end, rate, omega = (float(np.asarray(x)) for x in (policy.eta, policy.end, policy.rate, policy.omega))
    elapsed = np.linspace(0.0, 0.98 * (end - eta), _POINTS)
    thresholds, nodes = np.asarray(policy.thresholds), np.asarray(policy.times)
    left = np.log(end / (eta + elapsed))
    for games, color in ((0, BLUE), (1, GREEN), (3, ORANGE), (10, GRAY)):
        if games < thresholds.shape[0]:
            needed = rate * end * np.exp(np.interp(left, nodes, thresholds[games])) - omega
            name = {0: "before the first game", 1: "after 1 game"}.get(games, f"after {games} games")
            axes.plot(elapsed, np.maximum(needed, 0.0), color=color, label=name)
    axes.set(xlabel="time since now", ylabel="earned since now, at least", xlim=(0.0, None), ylim=(0.0, None))
    axes.legend()
