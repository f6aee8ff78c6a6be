"""The arm with the largest posterior mean, always or most of the time.

    greedy:          argmax_a E[mu_a | data]
    epsilon-greedy:  the same with probability 1 - epsilon, else any arm

Both pay linear regret: greedy may lock on to a worse arm, epsilon-greedy never stops looking.
"""

from dataclasses import KW_ONLY
from typing import Any

import equinox as eqx
import jax.numpy as jnp

from optimality.core.numerics import Real, require_range
from optimality.exploration.arm_beliefs import AbstractArmBelief, Prior, arm_belief, prepared, with_belief
from optimality.exploration.bandit_policy import (
    AbstractBanditPolicy,
    AbstractIndexPolicy,
    ArmStatistics,
    Numbers,
    Ties,
    choose,
    require_ties,
)
from optimality.problems.bandits import AbstractArms


class Greedy(AbstractIndexPolicy):
    """What is best by what is known."""

    _: KW_ONLY
    prior: Prior | None = None
    """Belief about every arm before the first pull; None: see `arm_beliefs`."""
    ties: Ties = eqx.field(static=True, default="lowest")
    """Among equal means the first arm, or any by chance."""
    belief: AbstractArmBelief | None = None
    """What `prepare` makes of the prior."""

    def __check_init__(self):
        require_ties(self, self.ties)

    def check(self, arms: AbstractArms, horizon: int) -> None:
        arm_belief(self.prior, arms)

    def prepare(self, arms: AbstractArms, horizon: int) -> "Greedy":
        return with_belief(self, arm_belief(self.prior, arms))

    def index(self, statistics: ArmStatistics, time: Any) -> Numbers:
        return prepared(self.belief).mean(statistics)


class EpsilonGreedy(AbstractBanditPolicy):
    """Greedy with a constant share of pulls at random."""

    _: KW_ONLY
    epsilon: Real = 0.1
    """Probability of a pull at random, in [0, 1]."""
    prior: Prior | None = None
    """Belief about every arm before the first pull; None: see `arm_beliefs`."""
    ties: Ties = eqx.field(static=True, default="lowest")
    """Among equal means the first arm, or any by chance."""
    belief: AbstractArmBelief | None = None
    """What `prepare` makes of the prior."""

    def __check_init__(self):
        require_range(self, 0.0, 1.0, epsilon=self.epsilon)
        require_ties(self, self.ties)

    def check(self, arms: AbstractArms, horizon: int) -> None:
        arm_belief(self.prior, arms)

    def prepare(self, arms: AbstractArms, horizon: int) -> "EpsilonGreedy":
        return with_belief(self, arm_belief(self.prior, arms))

    def probabilities(self, statistics: ArmStatistics, time: Any) -> Numbers:
        best = choose(prepared(self.belief).mean(statistics), self.ties)
        epsilon = jnp.asarray(self.epsilon, best.dtype)
        return (1.0 - epsilon) * best + epsilon / best.shape[0]
