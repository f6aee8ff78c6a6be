"""Figures of bandit policies, each a public function that returns a matplotlib `Figure`."""

from collections.abc import Mapping

import matplotlib
import numpy as np
from matplotlib.figure import Figure

from optimality.experiments.plots import BLUE, GRAY, GREEN, ORANGE, STYLE
from optimality.exploration.bandit_simulation import BanditTrace

COLORS = (BLUE, ORANGE, GREEN, "#8b5cf6", "#b91c1c", "#0e7490", "#a16207", "#be185d")


def plot_regret(traces: Mapping[str, BanditTrace], lai_robbins: float | np.ndarray | None = None) -> Figure:
    """Mean regret with its 95 % band over a logarithmic time, and the line `C log T`, the slope of a good policy."""
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(7.5, 4.0), layout="constrained")
        axes = figure.subplots()
        for color, (name, trace) in zip(COLORS, traces.items(), strict=False):
            regret = trace.regret
            mean = regret.mean(axis=1)
            axes.plot(trace.times, mean, color=color, label=name)
            if regret.shape[1] > 1:
                half = 1.96 * regret.std(axis=1, ddof=1) / np.sqrt(regret.shape[1])
                axes.fill_between(trace.times, mean - half, mean + half, color=color, alpha=0.2, linewidth=0)
        if lai_robbins is not None:
            times = next(iter(traces.values())).times
            line = float(np.mean(lai_robbins)) * np.log(times)
            axes.plot(times, line, color=GRAY, linestyle="--", label="Lai and Robbins' slope")
        axes.set(xscale="log", xlabel="pulls", ylabel="regret")
        axes.legend(loc="upper left")
    return figure


def plot_pulls(traces: Mapping[str, BanditTrace]) -> Figure:
    """Share of the pulls of each arm so far, one panel a policy."""
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(max(4.0, 2.6 * len(traces)), 2.8), layout="constrained")
        panels = figure.subplots(1, len(traces), sharey=True, squeeze=False)[0]
        for axes, (name, trace) in zip(panels, traces.items(), strict=True):
            shares = trace.pulls.mean(axis=2) / trace.times[:, None]
            arms = shares.shape[1]
            colors = matplotlib.colormaps["viridis"](np.linspace(0.1, 0.9, arms))
            labels = [f"arm {k}, mean {np.mean(trace.arms.means[k]):.3g}" for k in range(arms)]
            axes.stackplot(trace.times, shares.T, colors=colors, labels=labels)
            axes.set(xscale="log", xlabel="pulls", title=name, ylim=(0, 1))
        panels[0].set_ylabel("share of pulls")
        if next(iter(traces.values())).arms.size <= 6:
            panels[-1].legend(loc="upper left", frameon=True, fontsize=7)
    return figure


def plot_last_regret(traces: Mapping[str, BanditTrace]) -> Figure:
    """Regret at the end of every run: a policy may be good on average and bad in one run of ten."""
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(7.5, 0.9 + 0.5 * len(traces)), layout="constrained")
        axes = figure.subplots()
        last = [trace.regret[-1] for trace in traces.values()]
        parts = axes.boxplot(
            last, orientation="horizontal", whis=(5, 95), showmeans=True, patch_artist=True, widths=0.6
        )
        for patch, color in zip(parts["boxes"], COLORS, strict=False):
            patch.set(facecolor=color, alpha=0.35)
        axes.set_yticks(range(1, len(traces) + 1), list(traces))
        axes.invert_yaxis()
        axes.set(xlabel="regret at the end", xlim=(0, None))
    return figure


def plot_bayes_regret(regret: Mapping[str, np.ndarray]) -> Figure:
    """Exact Bayes regret against the number of pulls; no simulation."""
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(7.5, 3.4), layout="constrained")
        axes = figure.subplots()
        for color, (name, values) in zip(COLORS, regret.items(), strict=False):
            axes.plot(np.arange(1, values.size + 1), values, color=color, label=name, marker=".")
        axes.set(xlabel="pulls", ylabel="Bayes regret")
        axes.legend(loc="upper left")
    return figure
