"""The knowledge gradient: the best mean, and what one more look at an arm is worth for all pulls that remain.

    argmax_a  m_a + (T - t - 1) (E max_b m_b(after a pull of a) - max_b m_b)

(Ryzhov, Powell and Frazier 2012, for rewards 0 and 1.) A single look may be unable to change the decision; its worth is
then zero, and the policy may lock on to a worse arm: its regret has a heavy tail.
"""

from dataclasses import KW_ONLY
from typing import Any

import equinox as eqx
import jax.numpy as jnp

from optimality.exploration.arm_beliefs import BetaArms, Prior, arm_belief
from optimality.exploration.bandit_policy import AbstractIndexPolicy, ArmStatistics, Numbers, Ties, require_ties
from optimality.problems.bandits import AbstractArms, BernoulliArms


class KnowledgeGradient(AbstractIndexPolicy):
    """Greedy plus the value of information one step ahead."""

    _: KW_ONLY
    prior: Prior | None = None
    """Belief about every arm before the first pull, Beta-Bernoulli; None: uniform."""
    ties: Ties = eqx.field(static=True, default="lowest")
    """Among equal indices the first arm, or any by chance."""
    belief: BetaArms | None = None
    """What `prepare` makes of the prior."""
    horizon: int | None = eqx.field(static=True, default=None)
    """Likewise."""

    def __check_init__(self):
        require_ties(self, self.ties)

    def check(self, arms: AbstractArms, horizon: int) -> None:
        if not isinstance(arms, BernoulliArms):
            raise ValueError("the knowledge gradient is implemented for rewards 0 and 1: it needs Bernoulli arms.")
        arm_belief(self.prior, arms)

    def prepare(self, arms: AbstractArms, horizon: int) -> "KnowledgeGradient":
        belief = arm_belief(self.prior, arms)
        assert isinstance(belief, BetaArms)
        return KnowledgeGradient(prior=self.prior, ties=self.ties, belief=belief, horizon=horizon)

    def index(self, statistics: ArmStatistics, time: Any) -> Numbers:
        if self.belief is None or self.horizon is None:
            raise ValueError("KnowledgeGradient needs the horizon: call prepare(arms, horizon) first.")
        a, b = (jnp.asarray(p) for p in self.belief.parameters(statistics))
        left = (self.horizon - 1 - jnp.asarray(time)).astype(a.dtype)
        return a / (a + b) + left * look_value(a, b)


def look_value(a: Numbers, b: Numbers) -> Numbers:
    """`E max_b m_b - max_b m_b` of one look at each arm; exactly zero where it cannot change what is best."""
    total = a + b
    mean = a / total
    best = jnp.max(mean, axis=0, keepdims=True)
    first = (mean == best) & (jnp.cumsum(mean == best, axis=0) == 1)
    second = jnp.max(jnp.where(first, -jnp.inf, mean), axis=0, keepdims=True)
    better = mean * jnp.maximum((a + 1.0) / (total + 1.0) - best, 0.0)
    worse = (1.0 - mean) * jnp.maximum(second - a / (total + 1.0), 0.0)
    return jnp.where(first & (second < best), worse, better)  # of equally good arms the two agree, up to rounding
