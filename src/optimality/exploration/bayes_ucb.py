"""Bayes-UCB: the upper quantile of what is believed of each arm.

    argmax_a  Q_a(1 - 1 / (t (log T)^power)),     t = 1 + pulls so far, T the horizon

(Kaufmann, Cappe and Garivier 2012; their analysis has power 5, their experiments 0.)
"""

from collections.abc import Callable
from dataclasses import KW_ONLY
from typing import Any

import equinox as eqx
import numpy as np

from optimality.core.numerics import Real, require_range
from optimality.exploration.arm_beliefs import AbstractArmBelief, Prior, arm_belief, prepared
from optimality.exploration.bandit_policy import AbstractHostPolicy, ArmStatistics, Numbers, Ties, require_ties
from optimality.problems.bandits import AbstractArms


class BayesUCB(AbstractHostPolicy):
    """Optimism by a quantile."""

    _: KW_ONLY
    power: Real = 0.0
    """Of the logarithm of the horizon."""
    prior: Prior | None = None
    """Belief about every arm before the first pull; None: see `arm_beliefs`."""
    ties: Ties = eqx.field(static=True, default="lowest")
    """Among equal quantiles the first arm, or any by chance."""
    belief: AbstractArmBelief | None = None
    """What `prepare` makes of the prior."""
    horizon: int | None = eqx.field(static=True, default=None)
    """Likewise."""

    def __check_init__(self):
        require_range(self, 0.0, power=self.power)
        require_ties(self, self.ties)

    def check(self, arms: AbstractArms, horizon: int) -> None:
        arm_belief(self.prior, arms)

    def prepare(self, arms: AbstractArms, horizon: int) -> "BayesUCB":
        return BayesUCB(
            power=self.power, prior=self.prior, ties=self.ties, belief=arm_belief(self.prior, arms), horizon=horizon
        )

    def index(self, statistics: ArmStatistics, time: int) -> Numbers:
        """The quantiles, NumPy float64."""
        return prepared(self.belief).quantile(statistics, self._level(time))

    def probabilities(self, statistics: ArmStatistics, time: Any) -> Numbers:
        index = self.index(statistics, int(time))
        largest = index == index.max(axis=0)
        if self.ties == "random":
            return largest / largest.sum(axis=0)
        return (largest & (np.cumsum(largest, axis=0) == 1)).astype(np.float64)

    def start_on_host(self, statistics: ArmStatistics, random: np.random.Generator) -> Callable[[int], np.ndarray]:
        quantile, level = prepared(self.belief).quantile, self._level

        def select(time: int) -> np.ndarray:
            index = quantile(statistics, level(time))
            if self.ties == "random":
                index = np.where(index == index.max(axis=0), random.random(index.shape), -1.0)
            return np.argmax(index, axis=0)

        return select

    def _level(self, time: int) -> float:
        spread = max(np.log(self.horizon or 1), 1.0) ** float(np.asarray(self.power))
        return 1.0 - 1.0 / ((time + 1) * spread)
