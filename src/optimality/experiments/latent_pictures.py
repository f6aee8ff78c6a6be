"""Pictures of what a latent-variable model makes: samples, reconstructions, a walk through its latents, its density."""

from collections.abc import Sequence
from typing import Any

import matplotlib
import numpy as np
import scipy.stats
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from optimality.experiments.latent_plots import label_features
from optimality.experiments.plots import BLUE, GRAY, GREEN, ORANGE, STYLE

_SIDE = 12
"""Pictures in a row of a walk."""
_WIDE = 2.0
"""How far a walk goes, in deviations of the prior."""
_MOST_SHOWN = 4
"""Features of a scatter matrix."""
_POINTS = 500
_GRID = 90
_COLORS = (BLUE, ORANGE, GREEN, GRAY, "#7c3aed", "#b45309", "#0e7490", "#be123c")

Shape = tuple[int, ...] | None


def plot_samples(data: np.ndarray, samples: np.ndarray, shape: Shape, names: Sequence[str] | None = None) -> Figure:
    """New observations beside given ones."""
    if shape is not None:
        limits = _limits(data)
        with matplotlib.rc_context(STYLE):
            figure = Figure(figsize=(9.0, 0.4 + 4.4 * 5 / 12 * shape[0] / shape[1]), layout="constrained")
            for axes, title, rows in zip(figure.subplots(1, 2), ("data", "samples"), (data, samples), strict=True):
                _show(axes, _tiled(rows[:60], shape, 12), limits)
                axes.set_title(title)
        return figure
    return _scatter(data, samples, names)


def plot_reconstructions(
    data: np.ndarray, decoded: np.ndarray, shape: Shape, names: Sequence[str] | None = None
) -> Figure:
    """What the decoder makes of what the encoder says of each point."""
    if shape is not None:
        count = min(16, len(data))
        pairs = np.concatenate([data[:count], decoded[:count]])
        with matplotlib.rc_context(STYLE):
            figure = Figure(figsize=(9.0, 0.15 + 9.0 * 2 / count * shape[0] / shape[1]), layout="constrained")
            _show(figure.subplots(), _tiled(pairs, shape, count), _limits(data))
        return figure
    explained = 1.0 - np.mean((data - decoded) ** 2, axis=0) / np.maximum(np.var(data, axis=0), 1e-300)
    explained = np.where(np.var(data, axis=0) > 0.0, np.clip(explained, -0.05, 1.0), np.nan)
    shown = _shown(data)
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(9.0, 2.8), layout="constrained")
        parts = figure.subplots(
            1, 1 + len(shown), width_ratios=[max(1.0, min(2.5, data.shape[1] / 8)), *[1] * len(shown)]
        )
        parts[0].bar(np.arange(data.shape[1]), explained, width=0.7, color=BLUE)
        label_features(parts[0], data.shape[1], names, letters=14)
        parts[0].set(title="share of variance", ylim=(min(0.0, float(np.nanmin(explained, initial=0.0))), 1.02))
        for axes, feature in zip(parts[1:], shown, strict=True):
            x, y = data[:_POINTS, feature], decoded[:_POINTS, feature]
            axes.plot(x, x, color=GRAY, linewidth=0.8)
            axes.plot(x, y, ".", color=BLUE, markersize=3, alpha=0.6)
            axes.set(title=_name(feature, names), xlabel="data")
            if feature == shown[0]:
                axes.set_ylabel("decoded")
    return figure


def plot_walk(
    decode: Any, latents: int, rates: np.ndarray, shape: Shape, data: np.ndarray, names: Sequence[str] | None = None
) -> Figure:
    """Decoded means along the two latents with the largest rates, the others at zero."""
    order = np.argsort(-np.asarray(rates))
    first, second = int(order[0]), int(order[1]) if latents > 1 else None
    if shape is not None:
        return _picture_walk(decode, latents, first, second, shape, data)
    if data.shape[1] == 2:
        return _plane_walk(decode, latents, first, second, data, names)
    t = np.linspace(-_WIDE, _WIDE, 41)
    chosen = [first] if second is None else [first, second]
    deviation = np.where(np.std(data, axis=0) > 0.0, np.std(data, axis=0), 1.0)
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(4.6 * len(chosen), 3.0), layout="constrained")
        parts = figure.subplots(1, len(chosen), sharey=True, squeeze=False)[0]
        for axes, latent in zip(parts, chosen, strict=True):
            moved = (decode(_along(latents, {latent: t})) - np.mean(data, axis=0)[None]) / deviation[None]
            most = np.argsort(-np.ptp(moved, axis=0))[: len(_COLORS)]
            for feature, color in zip(sorted(most.tolist()), _COLORS, strict=False):
                axes.plot(t, moved[:, feature], color=color, label=_name(feature, names))
            axes.set(title=f"latent {latent}", xlabel="z")
            axes.legend(fontsize=7)
        parts[0].set_ylabel("decoded, in deviations of the data")
    return figure


def plot_density(model: Any, data: np.ndarray, samples: np.ndarray, names: Sequence[str] | None = None) -> Figure:
    """Of data in the plane: points, the model's density on a grid, and its samples.

    The density is a mean over draws of the prior, `model` being a function from the grid to log densities.
    """
    low, high = np.min(data, axis=0), np.max(data, axis=0)
    low, high = low - 0.12 * (high - low), high + 0.12 * (high - low)
    x, y = np.linspace(low[0], high[0], _GRID), np.linspace(low[1], high[1], _GRID)
    grid = np.stack(np.meshgrid(x, y), axis=-1).reshape(-1, 2)
    density = np.exp(np.asarray(model(grid), np.float64)).reshape(_GRID, _GRID)
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(9.6, 3.4), layout="constrained")
        parts = figure.subplots(1, 3, sharex=True, sharey=True)
        shown = min(len(data), len(samples))
        parts[0].plot(*data[:shown].T, ".", color=GRAY, markersize=2)
        top = float(np.quantile(density, 0.998))
        parts[1].imshow(
            density, origin="lower", extent=(low[0], high[0], low[1], high[1]), cmap="Blues", aspect="auto", vmax=top
        )
        parts[2].plot(*samples[:shown].T, ".", color=BLUE, markersize=2)
        for axes, title in zip(parts, ("data", "density of the model", "samples"), strict=True):
            axes.set(title=title, xlim=(low[0], high[0]), ylim=(low[1], high[1]), xlabel=_name(0, names))
            axes.grid(visible=False)
        parts[0].set_ylabel(_name(1, names))
    return figure


def plot_loading(loading: np.ndarray, shape: Shape, names: Sequence[str] | None = None) -> Figure:
    """What a unit of each latent adds to each feature: as pictures, or as bars."""
    loading = np.asarray(loading, np.float64)
    count = min(loading.shape[1], 16)
    largest = float(np.max(np.abs(loading))) or 1.0
    with matplotlib.rc_context(STYLE):
        if shape is not None and len(shape) == 2:
            columns = min(count, 8)
            lines = -(-count // columns)
            figure = Figure(figsize=(1.15 * columns + 0.6, 1.3 * lines), layout="constrained")
            parts = figure.subplots(lines, columns, squeeze=False).reshape(-1)
            for latent, axes in enumerate(parts):
                axes.set_axis_off()
                if latent < count:
                    picture = loading[:, latent].reshape(shape)
                    axes.imshow(picture, cmap="RdBu_r", vmin=-largest, vmax=largest)
                    axes.set_title(f"{latent}", fontsize=8)
            figure.colorbar(parts[0].images[0], ax=parts.tolist(), shrink=0.8)
            return figure
        figure = Figure(figsize=(9.0, 0.5 + 1.1 * count), layout="constrained")
        parts = figure.subplots(count, 1, sharex=True, sharey=True, squeeze=False)[:, 0]
        for latent, axes in enumerate(parts):
            axes.bar(np.arange(loading.shape[0]), loading[:, latent], width=0.7, color=BLUE)
            axes.axhline(0.0, color=GRAY, linewidth=0.8)
            axes.set(ylabel=f"latent {latent}", ylim=(-1.1 * largest, 1.1 * largest))
        label_features(parts[-1], loading.shape[0], names)
    return figure


def _picture_walk(decode, latents: int, first: int, second: int | None, shape: Any, data: np.ndarray) -> Figure:
    t = scipy.stats.norm.ppf(np.linspace(0.03, 0.97, _SIDE))
    with matplotlib.rc_context(STYLE):
        if second is None:
            figure = Figure(figsize=(9.0, 0.3 + 9.0 / _SIDE * shape[0] / shape[1]), layout="constrained")
            _show(figure.subplots(), _tiled(decode(_along(latents, {first: t})), shape, _SIDE), _limits(data))
            return figure
        figure = Figure(figsize=(5.4, 5.4 * shape[0] / shape[1] + 0.3), layout="constrained")
        axes = figure.subplots()
        across, down = np.meshgrid(t, t[::-1])
        z = _along(latents, {first: across.reshape(-1), second: down.reshape(-1)})
        _show(axes, _tiled(decode(z), shape, _SIDE), _limits(data))
        axes.set(xlabel=f"latent {first}", ylabel=f"latent {second}")
    return figure


def _plane_walk(decode, latents: int, first: int, second: int | None, data: np.ndarray, names: Any) -> Figure:
    fine, coarse = np.linspace(-2.5, 2.5, 201), scipy.stats.norm.ppf(np.linspace(0.02, 0.98, 21))
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(4.4, 4.0), layout="constrained")
        axes = figure.subplots()
        axes.plot(*data[:2000].T, ".", color=GRAY, markersize=2, alpha=0.5)
        lines = [(first, second, BLUE), (second, first, ORANGE)] if second is not None else [(first, None, BLUE)]
        for along, other, color in lines:
            for place in coarse if other is not None else [0.0]:
                moving = {along: fine} if other is None else {along: fine, other: np.full_like(fine, place)}
                axes.plot(*decode(_along(latents, moving)).T, color=color, linewidth=0.7)
            axes.plot([], [], color=color, label=f"along latent {along}")
        axes.set(xlabel=_name(0, names), ylabel=_name(1, names))
        axes.legend(fontsize=7.5)
    return figure


def _along(latents: int, values: dict[int, np.ndarray]) -> np.ndarray:
    z = np.zeros((len(next(iter(values.values()))), latents))
    for latent, numbers in values.items():
        z[:, latent] = numbers
    return z


def _scatter(data: np.ndarray, samples: np.ndarray, names: Sequence[str] | None) -> Figure:
    """Samples over data, for the first features that vary; histograms on the diagonal."""
    shown = _shown(data)
    points = min(_POINTS, len(data), len(samples))
    data, samples = data[:points, shown], samples[:points, shown]
    count = len(shown)
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(min(9.0, 1.0 + 2.0 * count), min(8.0, 0.8 + 1.8 * count)), layout="constrained")
        parts = figure.subplots(count, count, squeeze=False)
        for row in range(count):
            for column in range(count):
                axes: Axes = parts[row, column]
                low, high = np.min(data[:, column]), np.max(data[:, column])
                wide = 0.1 * (high - low) or 0.5
                axes.set_xlim(low - wide, high + wide)
                if row == column:
                    edges = np.linspace(low - wide, high + wide, 25)
                    axes.hist(data[:, column], edges, density=True, color=ORANGE, alpha=0.35, label="data")
                    axes.hist(samples[:, column], edges, density=True, histtype="step", color=BLUE, label="samples")
                    axes.set_yticks([])
                else:
                    axes.plot(data[:, column], data[:, row], ".", color=ORANGE, markersize=3, alpha=0.7)
                    axes.plot(samples[:, column], samples[:, row], ".", color=BLUE, markersize=3, alpha=0.5)
                if row == count - 1:
                    axes.set_xlabel(_name(shown[column], names))
                if column == 0:
                    axes.set_ylabel(_name(shown[row], names))
        parts[0, 0].legend(fontsize=7)
    return figure


def _shown(data: np.ndarray) -> list[int]:
    """The first features that vary, at most four."""
    varied = np.flatnonzero(np.ptp(data, axis=0) > 0.0)[:_MOST_SHOWN]
    return varied.tolist() or [0]


def _name(feature: int, names: Sequence[str] | None) -> str:
    return f"feature {feature}" if names is None else names[feature]


def _limits(data: np.ndarray) -> tuple[float, float]:
    return float(np.min(data)), float(np.max(data))


def _tiled(rows: np.ndarray, shape: tuple[int, ...], columns: int) -> np.ndarray:
    """Pictures beside each other, NaN between them."""
    lines = -(-len(rows) // columns)
    height, width, *colors = shape
    gap = max(1, height // 12)
    canvas = np.full((lines * (height + gap) - gap, columns * (width + gap) - gap, *colors), np.nan)
    for number, row in enumerate(rows):
        top, left = (number // columns) * (height + gap), (number % columns) * (width + gap)
        canvas[top : top + height, left : left + width] = row.reshape(shape)
    return canvas


def _show(axes: Axes, canvas: np.ndarray, limits: tuple[float, float]) -> None:
    low, high = limits
    if canvas.ndim == 3:
        scaled = np.clip((canvas - low) / max(high - low, 1e-300), 0.0, 1.0)
        axes.imshow(np.where(np.isnan(scaled), 1.0, scaled), interpolation="nearest")
    else:
        axes.imshow(canvas, cmap="gray", vmin=low, vmax=high if high > low else low + 1.0, interpolation="nearest")
    axes.set(xticks=[], yticks=[])
    axes.grid(visible=False)
    for side in axes.spines.values():
        side.set_visible(False)
