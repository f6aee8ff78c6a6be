"""The knowledge gradient: the best mean, and what one more look at an arm is worth for all pulls that remain.

    argmax_a  m_a + (T - t - 1) nu_a,      nu_a = E max_b m_b(after a pull of a) - max_b m_b

(Ryzhov, Powell and Frazier 2012). With c the largest mean of the other arms, nu is, for

    rewards 0 and 1      a sum over both outcomes
    normal rewards       s (z Phi(z) + phi(z)),  z = -|m - c| / s,  s the deviation of the mean after a pull
                         (Frazier, Powell and Dayanik 2008)
    exponential rewards  (m / alpha) (beta / (alpha c))^(alpha - 1) where m <= c, since beta + reward is a Pareto
                         variable; where m > c plus c - m, or 0 if c <= beta / alpha (Ryzhov and Powell 2011)

A single look may be unable to change the decision; its worth is then zero, and the policy may lock on to a worse arm:
its regret has a heavy tail. Arms whose mean is not finite yet are pulled first: by the default priors normal arms once,
exponential ones twice.
"""

from dataclasses import KW_ONLY
from typing import Any

import equinox as eqx
import jax.numpy as jnp
import jax.scipy.stats
import numpy as np

from optimality.beliefs import GammaExponential
from optimality.core.numerics import is_traced
from optimality.exploration.arm_beliefs import (
    AbstractArmBelief,
    BetaArms,
    InverseGammaArms,
    NormalArms,
    Prior,
    arm_belief,
    with_belief,
)
from optimality.exploration.bandit_policy import AbstractIndexPolicy, ArmStatistics, Numbers, Ties, require_ties
from optimality.problems.bandits import AbstractArms


class KnowledgeGradient(AbstractIndexPolicy):
    """Greedy plus the value of information one step ahead."""

    _: KW_ONLY
    prior: Prior | None = None
    """Belief about every arm before the first pull; None: see `arm_beliefs`."""
    ties: Ties = eqx.field(static=True, default="lowest")
    """Among equal indices the first arm, or any by chance."""
    belief: AbstractArmBelief | None = None
    """What `prepare` makes of the prior."""
    horizon: int | None = eqx.field(static=True, default=None)
    """Likewise."""

    def __check_init__(self):
        require_ties(self, self.ties)

    def check(self, arms: AbstractArms, horizon: int) -> None:
        arm_belief(self.prior, arms)
        prior = self.prior
        if isinstance(prior, GammaExponential) and not is_traced(prior.shape) and np.any(np.asarray(prior.shape) <= 1):
            raise ValueError(
                f"the knowledge gradient compares expected means, and under a Gamma belief about the rate of shape "
                f"{np.asarray(prior.shape)} they are infinite: give a shape above 1, or no prior, which pulls each "
                f"arm twice first."
            )

    def prepare(self, arms: AbstractArms, horizon: int) -> "KnowledgeGradient":
        policy = KnowledgeGradient(prior=self.prior, ties=self.ties, horizon=horizon)
        return with_belief(policy, arm_belief(self.prior, arms))

    def index(self, statistics: ArmStatistics, time: Any) -> Numbers:
        if self.belief is None or self.horizon is None:
            raise ValueError("KnowledgeGradient needs the horizon: call prepare(arms, horizon) first.")
        mean = jnp.asarray(self.belief.mean(statistics))
        left = (self.horizon - 1 - jnp.asarray(time)).astype(mean.dtype)
        unknown = jnp.isinf(mean)
        return jnp.where(unknown, jnp.inf, mean + left * self._look_value(statistics, unknown))

    def _look_value(self, statistics: ArmStatistics, unknown: Any) -> Numbers:
        """Any finite number where the mean is not known yet."""
        first, second = (jnp.asarray(p) for p in self.belief.parameters(statistics))  # pyright: ignore[reportOptionalMemberAccess]
        if isinstance(self.belief, BetaArms):
            return look_value(first, second)
        if isinstance(self.belief, NormalArms):
            deviation = jnp.asarray(self.belief.next_deviation(statistics))
            return normal_look_value(first, jnp.where(unknown, 1.0, deviation))
        assert isinstance(self.belief, InverseGammaArms)
        return exponential_look_value(jnp.where(unknown, 2.0, first), jnp.where(unknown, 1.0, second))


def look_value(a: Numbers, b: Numbers) -> Numbers:
    """`nu` of rewards 0 and 1 under Beta beliefs; exactly zero where a look cannot change what is best."""
    total = a + b
    mean = a / total
    best, first, second = _best_and_second(mean)
    better = mean * jnp.maximum((a + 1.0) / (total + 1.0) - best, 0.0)
    worse = (1.0 - mean) * jnp.maximum(second - a / (total + 1.0), 0.0)
    return jnp.where(first & (second < best), worse, better)  # of equally good arms the two agree, up to rounding


def normal_look_value(mean: Numbers, deviation: Numbers) -> Numbers:
    """`nu` of arms whose means after a pull are normal with these means and standard deviations."""
    best, first, second = _best_and_second(mean)
    z = -jnp.abs(mean - jnp.where(first, second, best)) / deviation
    normal = jax.scipy.stats.norm
    return deviation * jnp.maximum(z * normal.cdf(z) + normal.pdf(z), 0.0)


def exponential_look_value(shape: Numbers, rate: Numbers) -> Numbers:
    """`nu` of exponential rewards whose rates have Gamma beliefs, of shapes above 1."""
    mean = rate / (shape - 1.0)
    best, first, second = _best_and_second(mean)
    # beta + reward has at least the value beta; log of the number that it must pass for another decision, over beta
    above = jnp.log(jnp.where(first, second, best) * shape / rate)
    better = jnp.exp(-(shape - 1.0) * jnp.where(first & (second < best), 0.0, above))
    near = jnp.where(first, jnp.maximum(above, 0.0), 0.0)
    worse = jnp.maximum((shape - 1.0) * jnp.expm1(near) + jnp.expm1(-(shape - 1.0) * near), 0.0)
    return mean / shape * jnp.where(first & (second < best), worse, better)


def _best_and_second(mean: Numbers) -> tuple[Any, Any, Any]:
    """The largest mean, at which arm it is first, and the largest of the others."""
    best = jnp.max(mean, axis=0, keepdims=True)
    first = (mean == best) & (jnp.cumsum(mean == best, axis=0) == 1)
    return best, first, jnp.max(jnp.where(first, -jnp.inf, mean), axis=0, keepdims=True)
