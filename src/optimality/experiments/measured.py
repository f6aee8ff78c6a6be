"""A check of an exact expectation against episodes, with a verdict, and how long each part of a run took."""

import math
import time
from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

from optimality.experiments.rollouts import Rollouts
from optimality.experiments.statistics import DISAGREEMENT, MeanInterval, mean_interval, z_score

Answer = TypeVar("Answer")


class Measured(NamedTuple):
    """A check against episodes: `verdict` is `agrees`, `disagrees` or `not comparable`, with the reason."""

    where: str
    rollouts: Rollouts
    interval: MeanInterval
    exact: float
    exact_deviation: float
    z: float
    verdict: str
    reason: str

    def summary(self) -> dict[str, Any]:
        """The numbers, for `run.json` and `--json`."""
        return {
            "where": self.where,
            "episodes": self.interval.samples,
            "mean": self.interval.mean,
            "interval_95": [self.interval.low, self.interval.high],
            "mean_length": float(self.rollouts.lengths.mean()),
            "exact_standard_deviation": self.exact_deviation,
            "z": self.z,
            "verdict": self.verdict,
            "reason": self.reason,
        }


def compare(
    where: str, rollouts: Rollouts, exact: float, deviation: float | None = None, *, known: bool = True
) -> Measured:
    """The mean return of the episodes against the `exact` one.

    Args:
        where: the episodes were played, in words.
        rollouts: the episodes.
        exact: expectation of their return.
        deviation: exact standard deviation of a return; the sample's where there is none.
        known: whether the exact numbers converged.
    """
    interval = mean_interval(rollouts.returns)
    episodes = interval.samples
    known = known and (deviation is not None or episodes > 1)
    deviation = interval.standard_deviation if deviation is None else deviation
    if rollouts.cut:
        reason = f"{rollouts.cut} of {episodes} episodes were cut before they ended"
        return Measured(where, rollouts, interval, exact, deviation, math.nan, "not comparable", reason)
    if not known:
        reason = "the exact return did not converge" if episodes > 1 else "one episode has no spread"
        return Measured(where, rollouts, interval, exact, deviation, math.nan, "not comparable", reason)
    z = z_score(interval.mean, exact, deviation, episodes)
    verdict = "agrees" if abs(z) < DISAGREEMENT else "disagrees"
    reason = f"the measured mean is {z:+.2f} standard errors from the exact one"
    return Measured(where, rollouts, interval, exact, deviation, z, verdict, reason)


def stopwatch(seconds: dict[str, float], name: str, function: Callable[[], Answer]) -> Answer:
    """What the function returns; its time goes into `seconds[name]`."""
    start = time.perf_counter()
    result = function()
    seconds[name] = round(time.perf_counter() - start, 3)
    return result
