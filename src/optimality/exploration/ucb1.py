"""UCB1: optimism by the mean and a bonus that shrinks with the pulls of an arm.

    argmax_a  mean_a + scale sqrt(2 log T / N_a),      T = sum_a N_a, each arm once first

(Auer, Cesa-Bianchi and Fischer 2002). For rewards in [0, 1] and `scale` 1 its regret after T pulls is at most
`sum_a 8 log T / gap_a + (1 + pi^2 / 3) sum_a gap_a`. For rewards within an interval `scale` is its length, for normal
ones twice their standard deviation; a scale that is too small costs linear regret.
"""

from dataclasses import KW_ONLY
from typing import Any

import equinox as eqx
import jax.numpy as jnp
import numpy as np

from optimality.core.numerics import Real, require_range
from optimality.exploration.bandit_policy import (
    AbstractIndexPolicy,
    ArmStatistics,
    Numbers,
    Ties,
    require_ties,
    unseen_first,
)
from optimality.problems.bandits import AbstractArms, BernoulliArms, ExponentialArms


class UCB1(AbstractIndexPolicy):
    """Upper confidence bounds by Hoeffding's inequality."""

    _: KW_ONLY
    scale: Real | None = None
    """Length of the interval that rewards lie in, or twice their sub-Gaussian scale; None: they must lie in [0, 1]."""
    ties: Ties = eqx.field(static=True, default="lowest")
    """Among equal bounds the first arm, or any by chance."""

    def __check_init__(self):
        require_range(self, 0.0, above=True, scale=self.scale)
        require_ties(self, self.ties)

    def check(self, arms: AbstractArms, horizon: int) -> None:
        if isinstance(arms, ExponentialArms):
            raise ValueError(
                "UCB1 needs rewards within an interval, or normal ones, but the arms are exponential, whose tail no "
                "scale bounds: use thompson or bayes-ucb."
            )
        if self.scale is None and not isinstance(arms, BernoulliArms):
            raise ValueError(
                "UCB1 takes rewards in [0, 1] unless a scale is given, but the arms are normal: give "
                "scale=2 * standard deviation (a smaller one may cost linear regret)."
            )

    def index(self, statistics: ArmStatistics, time: Any) -> Numbers:
        mean, count = jnp.asarray(statistics.mean), jnp.asarray(statistics.count)
        length = jnp.asarray(1.0 if self.scale is None else self.scale, mean.dtype)
        log_time = jnp.log(jnp.maximum(jnp.asarray(time), 1).astype(mean.dtype))
        return unseen_first(mean + jnp.sqrt(2.0 * length**2 * log_time / count), statistics.pulls)


def ucb1_bound(arms: AbstractArms, horizon: int) -> float:
    """The bound on UCB1's expected regret with rewards in [0, 1]."""
    gaps = arms.gaps[arms.gaps > 0.0]
    return float(np.sum(8.0 * np.log(horizon) / gaps) + (1.0 + np.pi**2 / 3.0) * np.sum(gaps))
