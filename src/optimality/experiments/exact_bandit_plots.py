"""Figures of the Bayes-optimal way to pull arms, each a public function that returns a matplotlib `Figure`."""

from collections.abc import Mapping

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import LinearSegmentedColormap, Normalize
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from optimality.beliefs import BetaBernoulli
from optimality.experiments.plots import BLUE, GRAY, GREEN, ORANGE, STYLE
from optimality.exploration.bernoulli_bandit import BeliefPolicy

RECORDS = ((0, 0), (1, 1), (3, 1))
"""Ones and zeros of arm 1, one panel each."""
SHOWN = 16
"""Ones and zeros of arm 0 at most."""
_ARMS = LinearSegmentedColormap.from_list("arms", [ORANGE, "#ffffff", BLUE])


def plot_horizon_regret(regret: Mapping[str, np.ndarray], best: Mapping[int, float], *, discounted: bool) -> Figure:
    """Bayes regret of policies after each number of pulls, and that of the best policy for each horizon."""
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(7.5, 3.6), layout="constrained")
        axes = figure.subplots()
        for color, (name, values) in zip((BLUE, ORANGE, GREEN, GRAY), regret.items(), strict=False):
            one = name == "Bayes-optimal" and len(best) > 0
            label = f"{name}, for {max(best)} pulls" if one else name
            curve = [0.0, *values]
            axes.plot(range(len(curve)), curve, color=color, label=label, linestyle="--" if one else "-")
        if best:
            axes.plot(list(best), list(best.values()), "o", color=BLUE, label="Bayes-optimal, for so many pulls")
        axes.set(xlabel="pulls", ylabel="discounted Bayes regret" if discounted else "Bayes regret")
        axes.set(xlim=(0, None), ylim=(0, None))
        axes.legend(loc="upper left")
    return figure


def plot_optimal_pulls(policy: BeliefPolicy, prior: BetaBernoulli) -> Figure:
    """Two arms: by how much pulling arm 0 is worth more than arm 1, over what arm 0 has paid, for some records of arm
    1. The drawn line is where they are worth the same, the dashed one where their posterior means are."""
    gains = np.asarray(policy.gains)
    pulls = gains.shape[0]
    records = [(ones, zeros) for ones, zeros in RECORDS if ones + zeros < pulls]
    maps = [_advantage(gains, ones, zeros) for ones, zeros in records]
    largest = max(float(np.nanmax(np.abs(m))) for m in maps)
    limit = 0.5 * largest if largest > 0.0 else 1.0
    with matplotlib.rc_context({**STYLE, "axes.grid": False}):
        figure = Figure(figsize=(1.3 + 2.5 * len(records), 3.1), layout="compressed")
        panels = figure.subplots(1, len(records), squeeze=False, sharey=True)[0]
        colors = ScalarMappable(Normalize(-limit, limit), _ARMS)
        for axes, values, (ones, zeros) in zip(panels, maps, records, strict=True):
            axes.imshow(values, origin="lower", cmap=colors.cmap, norm=colors.norm, aspect="equal")
            axes.set_facecolor("#e5e7eb")
            axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
            axes.yaxis.set_major_locator(MaxNLocator(5, integer=True))
            _borders(axes, values, prior, ones, zeros)
            seen = "not pulled yet" if ones + zeros == 0 else f"paid {ones} of {ones + zeros}"
            axes.set(title=f"arm 1 {seen}", xlabel="zeros of arm 0")
        panels[0].set_ylabel("ones of arm 0")
        bar = figure.colorbar(colors, ax=list(panels), shrink=0.8, extend="both")
        bar.set_label("arm 0 is worth more by")
    return figure


def _advantage(gains: np.ndarray, ones: int, zeros: int) -> np.ndarray:
    """`[ones of arm 0, zeros of arm 0]`, NaN after the last pull."""
    last = gains.shape[0] - ones - zeros
    size = min(gains.shape[0], SHOWN + 1)
    values = np.full((size, size), np.nan)
    for won in range(size):
        for lost in range(min(size, last - won)):
            time = won + lost + ones + zeros
            first, second = gains[time, :, won + lost, won, ones]
            values[won, lost] = first - second
    return values


def _borders(axes: Axes, values: np.ndarray, prior: BetaBernoulli, ones: int, zeros: int) -> None:
    size = values.shape[0]
    known = np.where(np.isnan(values), np.inf, values)
    for won in range(size):
        for lost in range(size):
            arm = known[won, lost] >= -1e-12
            for up, right in ((1, 0), (0, 1)):
                w, z = won + up, lost + right
                if w >= size or z >= size or not np.isfinite([known[won, lost], known[w, z]]).all():
                    continue
                if arm != (known[w, z] >= -1e-12):
                    line = (
                        ([lost - 0.5, lost + 0.5], [won + 0.5] * 2)
                        if up
                        else ([lost + 0.5] * 2, [won - 0.5, won + 0.5])
                    )
                    axes.plot(*line, color="#111827", linewidth=1.6, solid_capstyle="round")
    a, b = (np.asarray(p, np.float64) for p in (prior.successes, prior.failures))
    mean = (a[1] + ones) / (a[1] + b[1] + ones + zeros)
    lost = np.array([-0.5, size - 0.5])
    axes.plot(lost, (mean * (a[0] + b[0] + lost) - a[0]) / (1.0 - mean), color="#111827", linestyle=":", linewidth=1.2)
    axes.set(xlim=(-0.5, size - 0.5), ylim=(-0.5, size - 0.5))
