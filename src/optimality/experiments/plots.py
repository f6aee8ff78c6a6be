"""Figures, each a public function that returns a matplotlib `Figure`; nothing here opens a window."""

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from optimality.core.fixed_point import Trace
from optimality.experiments.statistics import MeanInterval, bootstrap_interval
from optimality.experiments.temperature_sweep import TemperatureSweep
from optimality.planning.optimism import Optimism
from optimality.policies.tabular import TabularPolicy
from optimality.problems.grid_map import GridMap
from optimality.problems.tabular import TabularMDP

BLUE, ORANGE, GREEN, GRAY = "#2563a8", "#c8641e", "#2f8f5b", "#6b7280"
STYLE: Any = {
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": 10,
    "axes.titlelocation": "left",
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#e5e7eb",
    "legend.frameon": False,
    "svg.hashsalt": "optimality",
    "svg.fonttype": "none",
}
_LARGEST_TABLE = 64


def _figure(width: float, height: float, columns: int = 1, **options: Any) -> tuple[Figure, Any]:
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(width, height), layout="constrained")
        return figure, figure.subplots(1, columns, **options)


def plot_map(
    mdp: TabularMDP, values: np.ndarray, policy: TabularPolicy | None = None, *, title: str = "value and policy"
) -> Figure | None:
    """Values and first-step action probabilities where the states lie; as a table where they lie nowhere.

    `values` is `[S]`, or `[H+1, S]`, of which the first step is drawn. None where there are too many states to draw.
    """
    values = np.asarray(values)
    values = values[0] if values.ndim == 2 else values
    log_policy = None if policy is None else np.asarray(policy.at(0))
    if mdp.grid is not None:
        return _grid_map(mdp, mdp.grid, values, log_policy, title)
    if mdp.shape[0] > _LARGEST_TABLE:
        return None
    return _table_map(values, log_policy, title)


def _grid_map(mdp: TabularMDP, grid: GridMap, values, log_policy, title) -> Figure:
    rows, columns = grid.shape
    size = min(0.95, 10.5 / columns)
    figure, axes = _figure(size * columns + 1.3, size * rows + 0.6)
    axes.grid(False)
    ends = _ending_states(mdp)
    picture = np.full((rows, columns), np.nan)
    for row in range(rows):
        for column in range(columns):
            state = grid.states[row][column]
            if state >= 0 and not ends[state]:
                picture[row, column] = values[state]
    color_map = matplotlib.colormaps["viridis"].with_extremes(bad="#f3f4f6")
    image = axes.imshow(picture, cmap=color_map)
    if np.isfinite(picture).any():
        figure.colorbar(image, ax=axes, shrink=0.9, label="value", pad=0.02)
    middle = np.nanmean([np.nanmin(picture), np.nanmax(picture)]) if np.isfinite(picture).any() else 0.0
    arrows = log_policy is not None and sum(move is not None for move in grid.moves) == len(grid.moves)
    for row in range(rows):
        for column in range(columns):
            state, label = grid.states[row][column], grid.labels[row][column]
            if state < 0:
                axes.add_patch(_square(column, row, "#4b5563"))
                continue
            dark = np.isfinite(picture[row, column]) and picture[row, column] <= middle
            ink = "white" if dark else "#111827"
            if label in "SGH":
                axes.text(column - 0.42, row - 0.28, label, color=ink, fontsize=7 * size + 1, fontweight="bold")
            if ends[state]:
                continue
            if size > 0.6:
                axes.text(column, row + 0.42, f"{values[state]:.3g}", color=ink, ha="center", fontsize=6.5)
            if arrows:
                _arrows(axes, column, row, np.exp(np.asarray(log_policy)[state]), grid.moves, ink)
    axes.set_xticks([])
    axes.set_yticks([])
    for spine in axes.spines.values():
        spine.set_visible(False)
    axes.set_title(title)
    return figure


def _arrows(axes: Axes, column: int, row: int, probabilities: np.ndarray, moves, ink: str) -> None:
    for probability, move in zip(probabilities, moves, strict=True):
        if move is None or probability < 0.02:
            continue
        down, right = move
        length = 0.34 * probability / max(1.0, np.hypot(down, right))
        axes.annotate(
            "",
            xy=(column + right * length, row + down * length),
            xytext=(column, row),
            arrowprops={"arrowstyle": "-|>", "color": ink, "lw": 1.1, "shrinkA": 0, "shrinkB": 0, "mutation_scale": 7},
        )


def _square(column: int, row: int, color: str):
    from matplotlib.patches import Rectangle

    return Rectangle((column - 0.5, row - 0.5), 1, 1, color=color, linewidth=0)


def _ending_states(mdp: TabularMDP) -> np.ndarray:
    """States in which no policy ever acts: all that is done there ends at once without reward."""
    going = np.asarray(mdp.model.dense()).sum(axis=(0, 2)) > 0.0
    return ~going & (np.abs(np.asarray(mdp.reward)).sum(axis=1) == 0.0)


def _table_map(values, log_policy, title) -> Figure:
    states = values.size
    columns = 1 if log_policy is None else 2
    figure, axes = _figure(4.2 * columns, 2.8, columns)
    first = np.atleast_1d(axes)[0]
    first.bar(np.arange(states), values, color=BLUE)
    first.set(xlabel="state", ylabel="value", title=title)
    if log_policy is not None:
        second = axes[1]
        second.grid(False)
        image = second.imshow(np.exp(log_policy).T, aspect="auto", cmap="Blues", vmin=0.0, vmax=1.0)
        second.set(xlabel="state", ylabel="action", title="action probabilities, first step")
        second.set_yticks(range(log_policy.shape[1]))
        figure.colorbar(image, ax=second)
    return figure


def plot_convergence(trace: Trace, tolerance: float | None = None) -> Figure:
    """Largest change of a value against the number of sweeps."""
    steps, residuals = np.asarray(trace.step), np.asarray(trace.residual)
    used = (steps > 0) & (residuals > 0.0)
    figure, axes = _figure(4.6, 2.9)
    axes.loglog(steps[used], residuals[used], color=BLUE, marker="o", markersize=2.5, linewidth=1)
    if tolerance:
        axes.axhline(tolerance, color=GRAY, linestyle="--", linewidth=0.8)
        axes.annotate("tolerance", (1, tolerance), color=GRAY, fontsize=7, va="bottom")
    axes.set(xlabel="sweep", ylabel="largest change", title="convergence")
    return figure


def plot_value_in_time(values: np.ndarray, initial: np.ndarray) -> Figure:
    """Expected value of the first state against the number of steps to go, `values [H+1, S]`."""
    expected = np.asarray(values) @ np.asarray(initial)
    figure, axes = _figure(4.6, 2.9)
    axes.plot(np.arange(expected.size), expected[::-1], color=BLUE)
    axes.set(xlabel="steps to go", ylabel="value of the first state", title="the backward pass")
    return figure


def plot_temperature_sweep(
    sweep: TemperatureSweep, *, optimum: float | None = None, temperature: float | None = None
) -> Figure:
    """Return, entropy and evidence against temperature, for both forms; the optimum and the chosen temperature."""
    has_evidence = sweep.log_evidence is not None
    figure, axes = _figure(10.5 if has_evidence else 7.2, 3.0, 3 if has_evidence else 2)
    pairs = (
        ("entropy form", BLUE, sweep.entropy_form_return, sweep.entropy_form_entropy),
        ("KL form, uniform prior", ORANGE, sweep.kl_form_return, sweep.kl_form_entropy),
    )
    for label, color, returns, entropies in pairs:
        axes[0].plot(sweep.temperature, returns, color=color, label=label, marker="o", markersize=2.5, linewidth=1.2)
        axes[1].plot(sweep.temperature, entropies, color=color, label=label, marker="o", markersize=2.5, linewidth=1.2)
    if optimum is not None and np.isfinite(optimum):
        axes[0].axhline(optimum, color=GRAY, linestyle="--", linewidth=0.9, label="optimum")
    axes[0].set(title="expected return", xlabel="temperature")
    axes[0].legend(fontsize=7.5)
    axes[1].set(title="expected entropy of the actions (nats)", xlabel="temperature")
    if has_evidence:
        evidence, bound = sweep.temperature * sweep.log_evidence, sweep.temperature * np.asarray(sweep.elbo)
        axes[2].plot(sweep.temperature, evidence, color=GREEN, label="temperature x log p(O)", linewidth=1.4)
        axes[2].plot(sweep.temperature, bound, color=ORANGE, label="its bound, true dynamics", linewidth=1.2)
        axes[2].set(title="evidence in reward units", xlabel="temperature")
        axes[2].legend(fontsize=7.5)
    for axis in axes:
        axis.set_xscale("log")
        if temperature and sweep.temperature[0] <= temperature <= sweep.temperature[-1]:
            axis.axvline(temperature, color=GRAY, linestyle=":", linewidth=1.0)
    return figure


Rows = Sequence[dict[str, Any]]
"""Metrics of one run."""


def plot_learning_curve(groups: Mapping[str, Sequence[Rows]], *, target: float | None = None) -> Figure:
    """Evaluation returns against environment steps; a group of several runs as interquartile mean and 95 % interval.

    One run is drawn with the standard error over its evaluation's episodes left out: that says nothing of other seeds.
    """
    figure, axes = _figure(7.0, 3.4)
    for color, (label, runs) in zip(itertools.cycle((BLUE, ORANGE, GREEN, GRAY)), groups.items(), strict=False):
        if len(runs) == 1:
            axes.plot(_column(runs[0], "step"), _column(runs[0], "evaluation_return"), color=color, label=label)
            collected = _column(runs[0], "episode_return")
            axes.plot(_column(runs[0], "step"), collected, color=color, alpha=0.35, linewidth=1.0)
            continue
        steps = _column(min(runs, key=lambda run: run[-1]["step"]), "step")
        scores = np.stack([np.interp(steps, _column(run, "step"), _column(run, "evaluation_return")) for run in runs])
        bands = np.array([bootstrap_interval([column]) for column in scores.T])
        axes.fill_between(steps, bands[:, 1], bands[:, 2], color=color, alpha=0.2, linewidth=0.0)
        axes.plot(steps, bands[:, 0], color=color, label=f"{label}, {len(runs)} runs")
    if target is not None:
        axes.axhline(target, color=GRAY, linestyle=":", linewidth=1.0)
    axes.set(xlabel="environment steps", ylabel="return", title="return of an evaluation (pale: while exploring)")
    if len(groups) > 1 or any(len(runs) > 1 for runs in groups.values()):
        axes.legend()
    return figure


def plot_metrics(runs: Sequence[Rows], names: Sequence[str]) -> Figure | None:
    """The course of some metrics, one small panel each, with its bound dotted; None where no run has any of them."""
    names = [name for name in names if any(np.isfinite(_column(run, name)).any() for run in runs)]
    if not names:
        return None
    columns = min(3, len(names))
    rows = -(-len(names) // columns)
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(3.1 * columns, 2.2 * rows), layout="constrained")
        panels = np.asarray(figure.subplots(rows, columns, squeeze=False)).reshape(-1)
        for axes, name in zip(panels, names, strict=False):
            for run in runs:
                axes.plot(_column(run, "step"), _column(run, name), color=BLUE, alpha=1.0 if len(runs) == 1 else 0.5)
                if f"{name}_bound" in run[-1]:
                    axes.plot(_column(run, "step"), _column(run, f"{name}_bound"), color=GRAY, linestyle=":")
            axes.set(title=name.replace("_", " "))
        for axes in panels[len(names) :]:
            axes.set_axis_off()
    return figure


def _column(rows: Rows, name: str) -> np.ndarray:
    return np.array([math.nan if row.get(name) is None else row[name] for row in rows], np.float64)


def plot_returns(returns: np.ndarray, interval: MeanInterval, exact: float | None) -> Figure:
    """Measured returns, their mean with its interval, and the exact mean."""
    figure, axes = _figure(4.6, 2.9)
    distinct = np.unique(returns)
    axes.hist(returns, bins=min(40, max(10, distinct.size)), color="#bcd3ea", edgecolor="white", linewidth=0.4)
    axes.axvspan(interval.low, interval.high, color=BLUE, alpha=0.25, label="mean, 95 % interval")
    axes.axvline(interval.mean, color=BLUE, linewidth=1.2)
    if exact is not None:
        axes.axvline(exact, color=ORANGE, linestyle="--", linewidth=1.2, label="exact mean")
    axes.set(xlabel="return", ylabel="episodes", title="measured returns")
    axes.legend(fontsize=7.5)
    return figure


def plot_optimism(problem: TabularMDP, beliefs: Optimism) -> Figure:
    """What each posterior believes it will get against what it gets, and how far it bends each state's dynamics."""
    figure, axes = _figure(9.6, 3.2, 2, gridspec_kw={"width_ratios": [1.0, 1.4]})
    labels = ("exact posterior", "true dynamics kept")
    position = np.arange(2.0)
    pair = (beliefs.exact, beliefs.restricted)
    believed, true = [b.believed_return for b in pair], [b.true_return for b in pair]
    for offset, numbers, color, label in ((-0.19, believed, ORANGE, "believed"), (0.19, true, BLUE, "true")):
        bars = axes[0].bar(position + offset, numbers, 0.36, color=color, label=label)
        axes[0].bar_label(bars, fmt="%.3g", fontsize=7.5, padding=1)
    axes[0].set_xticks(position, labels)
    axes[0].margins(y=0.15)
    axes[0].set(title="expected return of the posterior's policy")
    axes[0].legend(fontsize=7.5)
    likely = np.exp(np.asarray(beliefs.exact.solution.policy.at(0)))
    bend = (likely * beliefs.distance).sum(axis=1)
    if problem.grid is None:
        axes[1].bar(np.arange(bend.size), bend, color=ORANGE)
        axes[1].set(xlabel="state")
    else:
        rows, columns = problem.grid.shape
        picture = np.full((rows, columns), np.nan)
        for row in range(rows):
            for column in range(columns):
                state = problem.grid.states[row][column]
                picture[row, column] = bend[state] if state >= 0 else np.nan
                axes[1].text(column, row, problem.grid.labels[row][column].strip(".F"), ha="center", va="center")
        axes[1].grid(False)
        figure.colorbar(axes[1].imshow(picture, cmap="Oranges", vmin=0.0), ax=axes[1])
        axes[1].set_xticks([])
        axes[1].set_yticks([])
    axes[1].set(title="belief in luck: distance from the true dynamics")
    return figure
