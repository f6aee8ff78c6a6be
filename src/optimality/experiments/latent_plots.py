"""Figures of a latent-variable model's numbers: bounds, rates, weights, deviations and the course of the fit."""

from collections.abc import Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure

from optimality.experiments.latent_judgment import Bar
from optimality.experiments.plots import BLUE, GRAY, GREEN, ORANGE, STYLE
from optimality.experiments.report import format_number
from optimality.latent.autoencoder_details import IN_USE
from optimality.latent.collapse_law import collapse_law

FEW = 10.0
"""Effective samples below which a bound says little."""
_LONG = 40
"""Features from which on they are not named one by one."""


def plot_bounds(bars: Sequence[Bar]) -> Figure:
    """Means in nats with two standard errors, the model's bounds blue and linear models orange."""
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(8.4, 0.55 + 0.36 * len(bars)), layout="constrained")
        axes = figure.subplots()
        means = np.asarray([bar.mean for bar in bars])
        errors = np.nan_to_num(np.asarray([bar.standard_error for bar in bars]))
        low, high = float(np.min(means - 2.0 * errors)), float(np.max(means + 2.0 * errors))
        span = max(high - low, 1e-9 + 0.05 * float(np.max(np.abs(means))))
        base = 0.0 if low > 0.0 and low < 1.5 * span else low - 0.15 * span
        base = min(base, 0.0) if low > 0.0 and base < 0.0 else base
        place = np.arange(len(bars))[::-1]
        colors = [BLUE if bar.kind == "bound" else ORANGE for bar in bars]
        axes.barh(place, means - base, left=base, height=0.62, color=colors, alpha=0.85)
        axes.errorbar(means, place, xerr=2.0 * errors, fmt="none", color="#111827", capsize=3, linewidth=1.0)
        for row, mean, error in zip(place, means, errors, strict=True):
            axes.annotate(
                format_number(float(mean)), (mean + 2.0 * error, row), (6, 0), textcoords="offset points", va="center"
            )
        axes.set_yticks(place, [bar.name for bar in bars])
        axes.set(xlabel="nats a point", xlim=(base, high + 0.14 * (high - base)))
        axes.grid(visible=False, axis="y")
        axes.tick_params(axis="y", length=0)
    return figure


def plot_rates(rates: np.ndarray) -> Figure:
    """Of each latent, the largest first."""
    rates = np.asarray(rates, np.float64)
    order = np.argsort(-rates)
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(min(9.0, 2.6 + 0.34 * rates.size), 2.6), layout="constrained")
        axes = figure.subplots()
        used = rates[order] > IN_USE
        place = np.arange(rates.size)
        axes.bar(place, rates[order], width=0.7, color=np.where(used, BLUE, GRAY))
        if rates.size <= _LONG:
            axes.set_xticks(place, [str(int(latent)) for latent in order])
        axes.set(xlabel="latent", ylabel="rate, nats", xlim=(-0.6, max(rates.size, 3) - 0.4))
        axes.set_ylim(0.0, max(1.1 * float(rates.max()), 0.05))
        axes.grid(visible=False, axis="x")
    return figure


def plot_collapse(eigenvalues: np.ndarray, latents: int, own: float | None) -> Figure:
    """Latents that a linear model of fixed noise deviation uses at its best, and its rate. `own`: the decoder's."""
    largest = float(np.sqrt(np.max(eigenvalues)))
    marks = [1.0] + ([] if own is None else [own])
    low = 0.7 * min(*marks, 0.05 * largest)
    high = 1.4 * max(*marks, largest)
    deviations = np.geomspace(low, high, 160)
    laws = [collapse_law(eigenvalues, float(s) ** 2, latents) for s in deviations]
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(8.4, 2.6), layout="constrained")
        left, right = figure.subplots(1, 2)
        left.step(deviations, [float(law.used) for law in laws], where="mid", color=BLUE)
        left.set(ylabel="latents used", ylim=(-0.03 * latents, 1.08 * latents))
        left.yaxis.get_major_locator().set_params(integer=True)
        right.plot(deviations, [float(law.rate) for law in laws], color=BLUE)
        right.set(ylabel="rate, nats", ylim=(0.0, None))
        for axes in (left, right):
            axes.axvline(1.0, color=GRAY, linestyle="--", linewidth=1.0, label="1: squared error + KL")
            if own is not None:
                axes.axvline(own, color=ORANGE, linewidth=1.2, label="this decoder")
            axes.set(xscale="log", xlabel="fixed noise deviation", xlim=(low, high))
        right.legend(fontsize=7.5)
    return figure


def plot_effective_samples(sizes: np.ndarray, samples: int) -> Figure:
    """Histogram over points, on a logarithmic scale."""
    sizes = np.asarray(sizes, np.float64)
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(5.4, 2.5), layout="constrained")
        axes = figure.subplots()
        edges = np.geomspace(1.0, max(float(samples), 2.0), 31)
        counts, _ = np.histogram(np.clip(sizes, 1.0, edges[-1]), edges)
        colors = [ORANGE if right <= FEW * 1.0001 else BLUE for right in edges[1:]]
        axes.bar(edges[:-1], counts, width=np.diff(edges), align="edge", color=colors, edgecolor="white", linewidth=0.5)
        median = float(np.median(sizes))
        axes.axvline(median, color="#111827", linewidth=1.0, linestyle="--")
        axes.annotate(
            f"median {format_number(median)}",
            (median, axes.get_ylim()[1]),
            (-4 if median > samples**0.5 else 4, -2),
            textcoords="offset points",
            ha="right" if median > samples**0.5 else "left",
            va="top",
            fontsize=8,
        )
        axes.axvline(FEW, color=ORANGE, linewidth=1.0)
        axes.set(xscale="log", xlabel=f"effective samples of {samples:,}", ylabel="points", xlim=(1.0, edges[-1]))
    return figure


def plot_history(history: np.ndarray, best_step: int, value: float, *, bits: Any = None) -> Figure:
    """Bounds after each pass, on the batches and on the validation points, and the pass that is kept.

    Args:
        history: `[passes, 2]`.
        best_step: counted from 1.
        value: the bound on the test points.
        bits: two functions, nats to bits a dimension and back, for a second axis.
    """
    history = np.asarray(history, np.float64)
    steps = np.arange(1, history.shape[0] + 1)
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(8.4, 3.0), layout="constrained")
        axes = figure.subplots()
        few = steps.size <= 3
        axes.plot(steps, history[:, 0], color=GRAY, linewidth=1.0, marker="o" if few else None, label="batches")
        if np.any(np.isfinite(history[:, 1])):
            axes.plot(steps, history[:, 1], color=BLUE, marker="o" if few else None, label="validation points")
        axes.axhline(value, color=GREEN, linestyle=":", linewidth=1.0, label="test points, of the pass kept")
        axes.axvline(best_step, color=ORANGE, linewidth=1.0, label=f"kept: pass {best_step}")
        late = history[min(steps.size // 10, steps.size - 1) :]
        late = late[np.isfinite(late)]
        low, high = float(np.min(late, initial=value)), float(np.max(late, initial=value))
        margin = 0.08 * max(high - low, 1e-6)
        axes.set(xlabel="passes over the data", ylabel="bound, nats a point", ylim=(low - margin, high + margin))
        axes.legend(fontsize=7.5, loc="lower right", frameon=True, edgecolor="none", framealpha=0.85)
        if bits is not None:
            second = axes.secondary_yaxis("right", functions=bits)
            second.set_ylabel("bits a dimension")
    return figure


def plot_deviations(deviations: np.ndarray, names: Sequence[str] | None, shape: tuple[int, int] | None) -> Figure:
    """Of the decoder, feature by feature: as a picture, or as bars."""
    deviations = np.asarray(deviations, np.float64)
    with matplotlib.rc_context(STYLE):
        if shape is not None:
            figure = Figure(figsize=(3.6, 2.9), layout="constrained")
            axes = figure.subplots()
            image = axes.imshow(deviations.reshape(shape), cmap="viridis", vmin=0.0)
            figure.colorbar(image, ax=axes, shrink=0.85)
            axes.set(xticks=[], yticks=[])
            axes.grid(visible=False)
            return figure
        figure = Figure(figsize=(min(9.0, 2.6 + 0.34 * deviations.size), 2.6), layout="constrained")
        axes = figure.subplots()
        axes.bar(np.arange(deviations.size), deviations, width=0.7, color=BLUE)
        label_features(axes, deviations.size, names)
        axes.set(ylabel="deviation", xlim=(-0.6, max(deviations.size, 3) - 0.4))
    return figure


def label_features(axes: Any, count: int, names: Sequence[str] | None, *, letters: int = 60) -> None:
    """Names below a row of features, where there are few; on end where they have more letters in all."""
    if count > _LONG:
        axes.set_xlabel("feature")
        return
    axes.set_xticks(np.arange(count), [str(n) for n in range(count)] if names is None else list(names))
    if names is not None and sum(map(len, names)) > letters:
        axes.tick_params(axis="x", rotation=90)
    if names is None:
        axes.set_xlabel("feature")
    axes.grid(visible=False, axis="x")
