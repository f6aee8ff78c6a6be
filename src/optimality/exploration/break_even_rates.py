"""Each criterion of play or not as a rate: the largest rate of the opportunity at which it says play.

On one scale the criteria can be compared: each plays exactly against the opportunities below its break-even rate. Most
are rates already; the chance that one game pays and CVaR fall as the opportunity's rate rises and are solved for it.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from scipy.optimize import brentq

from optimality.beliefs import GammaExponential, GammaKnownShape
from optimality.core.numerics import Real
from optimality.exploration.play_criteria import PlayCriteria, play_criteria

_FARTHEST = 200.0
"""In the logarithm of the rate."""


def break_even_rates(
    rewards: GammaKnownShape, times: GammaExponential, *, level: Real = 0.05, risk: Real = 0.05
) -> dict[str, float]:
    """By the names of `PlayCriteria.rows`; 0 for a criterion that never plays, infinite for one that always does.

    Args:
        rewards: the belief about rewards, concrete.
        times: the belief about times, concrete.
        level: of quantiles and CVaR, as in `play_criteria`.
        risk: of exponential utility of `r / t`, as in `play_criteria`.

    Raises:
        ValueError: level or risk out of range.
    """

    def at(rate: float) -> PlayCriteria:
        return play_criteria(rewards, times, rate, level=level, risk=risk)

    c = at(1.0)
    start = float(c.median_rate)
    return {
        "best case": np.inf,
        "worst case": 0.0,
        "mean of the ratio": np.inf,
        "exponential utility, seeking": np.inf,
        "exponential utility, averse": 0.0,
        "exponential utility of r / t, averse": float(c.averse_ratio),
        "one game": float(c.ratio_of_means),
        "ratio of means": float(c.ratio_of_means),
        "long run": float(c.long_run),
        "low quantile of the rate": float(c.low_rate),
        "median rate": float(c.median_rate),
        "high quantile of the rate": float(c.high_rate),
        "chance that the rate beats K": float(c.median_rate),
        "chance that one game pays": _crossing(lambda rate: float(at(rate).chance_of_game) - 0.5, start),
        "log growth": float(np.exp(c.log_growth)),
        "CVaR": _crossing(lambda rate: float(at(rate).cvar), start) if np.isfinite(c.cvar) else 0.0,
    }


def _crossing(function: Callable[[float], float], start: float) -> float:
    """Where a function that falls with the rate is zero; the bracket grows from `start` in both directions. 0 or
    infinity where it has one sign at all rates that can be told from these."""
    low = high = np.log(start)
    while function(float(np.exp(low))) < 0.0:
        low -= 2.0
        if low < -_FARTHEST:
            return 0.0
    while function(float(np.exp(high))) > 0.0:
        high += 2.0
        if high > _FARTHEST:
            return np.inf
    if low == high:
        return start
    root: Any = brentq(lambda z: function(float(np.exp(z))), low, high, xtol=1e-10)
    return float(np.exp(root))
