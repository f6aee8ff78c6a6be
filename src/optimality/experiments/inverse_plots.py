"""Figures of inverse runs: rewards side by side, features matched, the course of the fit."""

from typing import Any

import matplotlib
import numpy as np
from jaxtyping import Float
from matplotlib.figure import Figure

from optimality.experiments.plots import BLUE, ORANGE, STYLE
from optimality.problems.tabular import TabularMDP

_MOST_STATES, _MOST_FEATURES = 128, 40


def plot_rewards(mdp: TabularMDP, rewards: dict[str, Float[np.ndarray, " states"]], *, entered: bool) -> Figure | None:
    """Rewards by state side by side, each on its own color scale around zero: what a reward is only known up to differs
    between them. On the map where states lie on one, else as bars; None where there are too many states."""
    if mdp.grid is None and mdp.shape[0] > _MOST_STATES:
        return None
    with matplotlib.rc_context(STYLE):
        rows, columns = (1, 1) if mdp.grid is None else mdp.grid.shape
        size = 0.0 if mdp.grid is None else min(0.8, 4.6 / columns)
        width = 4.2 if mdp.grid is None else size * columns + 1.2
        height = 2.6 if mdp.grid is None else size * rows + 0.7
        figure = Figure(figsize=(width * len(rewards), height), layout="constrained")
        for axes, (title, values) in zip(np.atleast_1d(figure.subplots(1, len(rewards))), rewards.items(), strict=True):
            if mdp.grid is None:
                axes.bar(np.arange(values.size), values, color=BLUE)
                axes.axhline(0.0, color="#111827", linewidth=0.6)
                axes.set(xlabel="state entered" if entered else "state", ylabel="reward", title=title)
            else:
                _map(figure, axes, mdp, values, size)
                axes.set_title(title)
    return figure


def _map(figure: Figure, axes: Any, mdp: TabularMDP, values, size: float) -> None:
    assert mdp.grid is not None
    index = np.asarray(mdp.grid.states)
    picture = np.where(index >= 0, np.asarray(values)[np.maximum(index, 0)], np.nan)
    largest = max(float(np.nanmax(np.abs(picture), initial=0.0)), 1e-12)
    color_map = matplotlib.colormaps["RdBu"].with_extremes(bad="#d1d5db")
    image = axes.imshow(picture, cmap=color_map, vmin=-largest, vmax=largest)
    figure.colorbar(image, ax=axes, shrink=0.9, pad=0.02)
    axes.grid(False)
    for (row, column), number in np.ndenumerate(picture):
        if not np.isfinite(number) or size < 0.5:
            continue
        ink = "white" if abs(number) > 0.6 * largest else "#111827"
        axes.text(column, row + 0.12, f"{number:.2g}", color=ink, ha="center", fontsize=7)
        label = mdp.grid.labels[row][column]
        if label in "SGH":
            axes.text(column - 0.42, row - 0.26, label, color=ink, fontsize=7, fontweight="bold")
    axes.set_xticks([])
    axes.set_yticks([])


def plot_feature_matching(expert: Float[np.ndarray, " features"], model: Float[np.ndarray, " features"]) -> Figure:
    """Expected features in the demonstrations and under the recovered policy; those of most weight where there are
    many."""
    expert, model = np.asarray(expert), np.asarray(model)
    order = np.argsort(-np.maximum(np.abs(expert), np.abs(model)), kind="stable")[:_MOST_FEATURES]
    order = np.sort(order)
    place = np.arange(order.size)
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(max(4.2, 0.22 * order.size + 1.5), 2.8), layout="constrained")
        axes = figure.subplots()
        axes.bar(place - 0.2, expert[order], 0.4, color=BLUE, label="demonstrations")
        axes.bar(place + 0.2, model[order], 0.4, color=ORANGE, label="recovered policy")
        axes.set_xticks(place, [str(k) for k in order], fontsize=7)
        axes.set(xlabel="parameter of the reward", ylabel="expected feature", title="feature expectations")
        axes.legend()
    return figure


def plot_fit(trace: Float[np.ndarray, " steps"], tolerance: Any) -> Figure:
    """The largest entry of the gradient (or the margin) after each step, on a logarithmic axis."""
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(5.2, 2.6), layout="constrained")
        axes = figure.subplots()
        shown = np.where(trace > 0.0, trace, np.nan)
        axes.semilogy(np.arange(trace.size), shown, color=BLUE, marker="." if trace.size < 60 else None)
        if tolerance is not None:
            axes.axhline(float(np.asarray(tolerance)), color="#6b7280", linestyle=":")
        axes.set(xlabel="step", ylabel="residual", title="convergence")
    return figure
