"""Figures of policy search: reward, information lost and temperature from one policy to the next."""

from collections.abc import Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from optimality.experiments.plots import BLUE, GRAY, ORANGE, STYLE


def plot_policy_search(
    rows: Sequence[dict[str, Any]], *, epsilon: float | None = None, upper_bound: float | None = None
) -> Figure:
    """`expected_reward`, `kl` and `temperature` against `step`; the bound of the second, the largest possible first."""
    step = np.array([row["step"] for row in rows])
    columns = {
        name: np.array([row.get(name, np.nan) for row in rows], np.float64)
        for name in ("expected_reward", "kl", "temperature")
    }
    style = {"marker": "o", "markersize": 3.0, "linewidth": 1.2}
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(9.6, 2.9), layout="constrained")
        axes = figure.subplots(1, 3)
    axes[0].plot(step, columns["expected_reward"], color=BLUE, **style)
    if upper_bound is not None and np.isfinite(upper_bound):
        axes[0].axhline(upper_bound, color=GRAY, linestyle="--", linewidth=0.9, label="upper bound")
        axes[0].legend(fontsize=7.5, loc="lower right")
    axes[0].set(title="reward per step")
    axes[1].plot(step, columns["kl"], color=ORANGE, **style)
    if epsilon is not None:
        axes[1].axhline(epsilon, color=GRAY, linestyle="--", linewidth=0.9, label="bound")
        axes[1].legend(fontsize=7.5, loc="lower left")
    axes[1].set(title="information lost (nats)", ylim=(0.0, None))
    positive = columns["temperature"] > 0.0
    axes[2].semilogy(step[positive], columns["temperature"][positive], color=ORANGE, **style)
    axes[2].set(title="temperature (units of reward)")
    for axis in axes:
        axis.set(xlabel="iteration", xlim=(-0.3, step[-1] + 0.3))
        axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    return figure


def plot_policy_gradient(rows: Sequence[dict[str, Any]], *, optimum: float | None = None) -> Figure:
    """`objective`, `gradient_norm`, `expected_entropy` and `kl` against `step`; the best return with the first."""
    step = np.array([row["step"] for row in rows])
    columns = {
        name: np.array([row.get(name, np.nan) for row in rows], np.float64)
        for name in ("objective", "gradient_norm", "expected_entropy", "kl")
    }
    style = {"marker": "o" if step.size < 60 else "", "markersize": 3.0, "linewidth": 1.2}
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(12.4, 2.9), layout="constrained")
        axes = figure.subplots(1, 4)
    axes[0].plot(step, columns["objective"], color=BLUE, **style)
    if optimum is not None:
        axes[0].axhline(optimum, color=GRAY, linestyle="--", linewidth=0.9, label="optimum")
        axes[0].legend(fontsize=7.5, loc="lower right")
    axes[0].set(title="objective (units of reward)")
    _positive(axes[1], step, columns["gradient_norm"], style)
    axes[1].set(title="norm of the gradient")
    axes[2].plot(step, columns["expected_entropy"], color=ORANGE, **style)
    axes[2].set(title="expected entropy (nats)", ylim=(0.0, None))
    _positive(axes[3], step, columns["kl"], style)
    axes[3].set(title="KL of a step (nats)")
    for axis in axes:
        axis.set(xlabel="iteration", xlim=(-0.3, step[-1] + 0.3))
        axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    return figure


def _positive(axis: Any, step: np.ndarray, values: np.ndarray, style: dict[str, Any]) -> None:
    """On a logarithmic axis, which has no room for zeros."""
    inside = values > 0.0
    if inside.any():
        axis.semilogy(step[inside], values[inside], color=ORANGE, **style)
