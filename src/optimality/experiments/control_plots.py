"""Figures of linear-quadratic problems, each a public function that returns a matplotlib `Figure`."""

from collections.abc import Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from optimality.experiments.plots import BLUE, GRAY, GREEN, ORANGE, STYLE

MOST_PANELS = 12
"""Coordinates that are drawn; of larger systems the first ones."""
_COLORS = (BLUE, ORANGE, GREEN, "#8b5cf6", "#b45309", "#0891b2", "#be185d", GRAY)


def plot_trajectories(
    mean: np.ndarray,
    covariance: np.ndarray,
    names: Sequence[str],
    samples: np.ndarray | None = None,
    believed: np.ndarray | None = None,
    *,
    held: bool = False,
) -> Figure:
    """Mean and two-sigma band of each coordinate against the step, with a few sampled episodes.

    Args:
        mean: `[T, n]`.
        covariance: `[T, n, n]`.
        names: one a coordinate.
        samples: `[episodes, T, n]`.
        believed: another mean, `[T, n]`: what an exact posterior expects.
        held: draw steps, as of a control that is held between them.
    """
    mean, covariance = np.asarray(mean), np.asarray(covariance)
    time = np.arange(len(mean))
    deviation = np.sqrt(np.maximum(np.diagonal(covariance, axis1=-2, axis2=-1), 0.0))
    figure, panels = _panels(min(len(names), MOST_PANELS))
    style: Any = {"drawstyle": "steps-post"} if held else {}
    for i, (axes, name) in enumerate(zip(panels, names, strict=False)):
        low, high = mean[:, i] - 2.0 * deviation[:, i], mean[:, i] + 2.0 * deviation[:, i]
        axes.fill_between(
            time, low, high, step="post" if held else None, color=BLUE, alpha=0.18, linewidth=0, label="± 2 sigma"
        )
        for number, episode in enumerate([] if samples is None else samples):
            label = "sampled" if number == 0 else None
            axes.plot(time, episode[: len(time), i], color=GRAY, alpha=0.55, linewidth=0.6, label=label, **style)
        axes.plot(time, mean[:, i], color=BLUE, linewidth=1.4, label="mean", **style)
        if believed is not None:
            axes.plot(time, believed[:, i], color=ORANGE, linestyle="--", linewidth=1.1, label="believed", **style)
        axes.axhline(0.0, color=GRAY, linewidth=0.5)
        axes.set(title=name)
    panels[0].legend(fontsize=7)
    return figure


def plot_costs(step_cost: np.ndarray, cost_to_go: np.ndarray) -> Figure:
    """Expected cost of each step, and what the value says is still to come, both against the step."""
    figure, panels = _panels(2)
    panels[0].plot(np.arange(len(step_cost)), step_cost, color=ORANGE, linewidth=1.3)
    panels[0].set(title="expected cost of a step")
    panels[1].plot(np.arange(len(cost_to_go)), cost_to_go, color=BLUE, linewidth=1.3)
    panels[1].set(title="cost to go, minus the value")
    for axes in panels:
        axes.set_ylim(bottom=min(0.0, axes.get_ylim()[0]))
    return figure


def plot_gains(K: np.ndarray, state_names: Sequence[str], control_names: Sequence[str]) -> Figure | None:
    """Entries of the gain `[T, m, n]` against the step, a panel a control; None where it is the same at every step."""
    K = np.asarray(K)
    if K.ndim == 2:
        return None
    figure, panels = _panels(min(len(control_names), MOST_PANELS))
    for i, (axes, control) in enumerate(zip(panels, control_names, strict=False)):
        for j, state in enumerate(state_names[: len(_COLORS)]):
            axes.plot(np.arange(len(K)), K[:, i, j], color=_COLORS[j], linewidth=1.2, label=state)
        axes.axhline(0.0, color=GRAY, linewidth=0.5)
        axes.set(title=f"{control} per unit of")
    panels[0].legend(fontsize=7)
    return figure


def plot_modes(open_loop: np.ndarray, closed_loop: np.ndarray) -> Figure:
    """Eigenvalues without control and under the first gain, and where they lie to the unit circle: outside of it they
    grow."""
    figure, panels = _panels(1, height=3.8)
    axes = panels[0]
    axes.xaxis.set_major_locator(MaxNLocator(6))
    angle = np.linspace(0.0, 2.0 * np.pi, 200)
    axes.plot(np.cos(angle), np.sin(angle), color=GRAY, linewidth=0.8)
    axes.scatter(np.real(open_loop), np.imag(open_loop), marker="x", color=ORANGE, label="without control", zorder=3)
    axes.scatter(
        np.real(closed_loop), np.imag(closed_loop), facecolors="none", edgecolors=BLUE, label="under control", zorder=3
    )
    every = np.concatenate([open_loop, closed_loop])
    middle = (np.real(every).min() + np.real(every).max()) / 2.0
    half = 1.25 * max(0.15, (np.real(every) - middle).max(), np.abs(np.imag(every)).max())
    axes.set(xlim=(middle - 1.3 * half, middle + 1.3 * half), ylim=(-half, half), aspect="equal")
    axes.set(xlabel="real part", ylabel="imaginary part", title="modes of a step, and the unit circle")
    axes.legend(fontsize=7, loc="upper left")
    return figure


def _panels(number: int, height: float = 2.2) -> tuple[Figure, list[Axes]]:
    columns = min(2, number)
    rows = -(-number // columns)
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(4.6 * columns, height * rows + 0.2), layout="constrained")
        figure.get_layout_engine().set(hspace=0.08)  # pyright: ignore[reportCallIssue, reportOptionalMemberAccess]
        axes = list(np.asarray(figure.subplots(rows, columns, squeeze=False)).reshape(-1))
    for unused in axes[number:]:
        unused.set_axis_off()
    for used in axes[:number]:
        used.xaxis.set_major_locator(MaxNLocator(integer=True))
    for used in axes[max(0, number - columns) : number]:
        used.set_xlabel("step")
    return figure, axes[:number]
