"""Figures of a decision to play or to stop: beliefs, rates, and when to quit."""

from typing import Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure

from optimality.experiments.plots import BLUE, GRAY, GREEN, ORANGE, STYLE
from optimality.exploration.exact_play import DeadlinePolicy
from optimality.exploration.play_or_not import PlayOrNot

_POINTS = 400


def plot_beliefs(problem: PlayOrNot, rewards: list[float], times: list[float]) -> Figure:
    """Predictive densities of the next reward and the next time, with what was measured below."""
    laws = (
        ("next reward", problem.rewards.predictive(), rewards, BLUE),
        ("time of the next game", problem.times.predictive(), times, ORANGE),
    )
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(8.4, 2.8), layout="constrained")
        for axes, (name, law, data, color) in zip(figure.subplots(1, 2), laws, strict=True):
            high = max(3.0 * float(np.asarray(law.quantile(np.asarray(0.5)))), 1.1 * max(data, default=0.0))
            x = np.linspace(high / _POINTS, high, _POINTS)
            density = np.exp(np.asarray([float(np.asarray(law.log_prob(np.asarray(point)))) for point in x]))
            axes.plot(x, density, color=color)
            axes.fill_between(x, density, color=color, alpha=0.15, linewidth=0.0)
            axes.plot(data, np.zeros(len(data)), "|", color="#111827", markersize=12, clip_on=False)
            axes.set(xlabel=name, ylabel="density", xlim=(0.0, high), ylim=(0.0, None))
    return figure


def plot_rates(rates: dict[str, float], opportunity: float) -> Figure:
    """What a game earns per unit time, by each reading of it, against the opportunity, on a logarithmic axis."""
    shown = {name: value for name, value in rates.items() if np.isfinite(value) and value > 0.0}
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(7.2, 0.32 * len(shown) + 1.1), layout="constrained")
        axes = figure.subplots()
        place = np.arange(len(shown))[::-1]
        values = np.array(list(shown.values()))
        axes.hlines(place, np.minimum(values, opportunity), np.maximum(values, opportunity), color="#d1d5db")
        axes.scatter(values, place, color=[GREEN if value >= opportunity else GRAY for value in values], zorder=3)
        axes.axvline(opportunity, color=ORANGE, linewidth=1.2)
        axes.set_yticks(place, list(shown))
        axes.set(xscale="log", xlabel="per unit time; the line is what not playing earns", title="rates")
        axes.grid(visible=False, axis="y")
    return figure


def plot_decision_rule(problem: PlayOrNot, policy: Any) -> Figure:
    """When to go on: by games played so far, the least of what must have been earned per unit time; with a deadline,
    what must have been earned by then. Dot: now."""
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(6.4, 3.4), layout="constrained")
        axes = figure.subplots()
        if isinstance(policy, DeadlinePolicy):
            _with_deadline(axes, policy)
        else:
            _by_games(axes, problem, policy)
    return figure


def _by_games(axes: Any, problem: PlayOrNot, policy: Any) -> None:
    rate = float(np.asarray(policy.rate))
    needed = rate * np.asarray(policy.thresholds, np.float64)[:200]
    games = np.arange(needed.size)
    now = float(np.asarray(policy.omega)) / float(np.asarray(policy.eta))
    known = np.isfinite(needed)
    top = 1.25 * max(float(needed[known].max(initial=0.0)), now)
    level = np.where(known, needed, top)
    axes.fill_between(games, level, top, color=GREEN, alpha=0.15, linewidth=0.0, label="play on")
    axes.fill_between(games, 0.0, level, color=GRAY, alpha=0.15, linewidth=0.0, label="stop")
    axes.plot(games[known], needed[known], color=BLUE)
    axes.plot([0], [now], "o", color=ORANGE, clip_on=False, zorder=4, label="now")
    axes.set(
        xlabel="games played from now on",
        ylabel="(omega + earned) / (eta + time)",
        title="when to go on",
        ylim=(0.0, top),
    )
    axes.legend(loc="upper right")


def _with_deadline(axes: Any, policy: DeadlinePolicy) -> None:
    eta, end, rate, omega = (float(np.asarray(x)) for x in (policy.eta, policy.end, policy.rate, policy.omega))
    elapsed = np.linspace(0.0, 0.98 * (end - eta), _POINTS)
    thresholds, nodes = np.asarray(policy.thresholds), np.asarray(policy.times)
    left = np.log(end / (eta + elapsed))
    for games, color in ((0, BLUE), (1, GREEN), (3, ORANGE), (10, GRAY)):
        if games < thresholds.shape[0]:
            needed = rate * end * np.exp(np.interp(left, nodes, thresholds[games])) - omega
            axes.plot(elapsed, np.maximum(needed, 0.0), color=color, label=f"after {games} games")
    axes.set(xlabel="time since now", ylabel="earned since now, at least", title="when to go on", ylim=(0.0, None))
    axes.legend()
