"""Information-directed sampling: the least squared regret per bit about which arm is best.

    min over pi of  (sum_a pi_a Delta_a)^2 / sum_a pi_a g_a,      Delta_a = E max_b mu_b - E mu_a,
    g_a = I(A*; Y_a) = sum_{a*} P(A* = a*) KL(Bernoulli(E[mu_a | A* = a*]) || Bernoulli(E mu_a))

(Russo and Van Roy 2014, for rewards 0 and 1). The minimum is attained by at most two arms, and for two arms it is a
root of a linear equation. All expectations are sums over a grid of midpoints; the ratio at the minimum, and
Thompson sampling's too, is at most half the number of arms.
"""

from dataclasses import KW_ONLY
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from optimality.exploration.arm_beliefs import BetaArms, Prior, arm_belief
from optimality.exploration.bandit_policy import AbstractBanditPolicy, ArmStatistics, Numbers
from optimality.problems.bandits import AbstractArms, BernoulliArms

_ROW = 32
_LANES = 16
"""Runs at once: their grids fit the cache."""


class ArmInformation(NamedTuple):
    """Of every arm."""

    best: Float[Array, " arms"]
    """`P(A* = a)`."""
    regret: Float[Array, " arms"]
    """Delta."""
    information: Float[Array, " arms"]
    """g, in nats."""


class InformationDirectedSampling(AbstractBanditPolicy):
    """Least information ratio."""

    _: KW_ONLY
    grid: int = eqx.field(static=True, default=1024)
    """Midpoints of [0, 1]."""
    prior: Prior | None = None
    """Belief about every arm before the first pull, Beta-Bernoulli; None: uniform."""
    belief: BetaArms | None = None
    """What `prepare` makes of the prior."""

    def __check_init__(self):
        if self.grid < _ROW or self.grid % _ROW:
            raise ValueError(
                f"grid of InformationDirectedSampling must be a multiple of {_ROW}, but {self.grid} was given."
            )

    def check(self, arms: AbstractArms, horizon: int) -> None:
        if not isinstance(arms, BernoulliArms):
            raise ValueError("information-directed sampling is for rewards 0 and 1: it needs Bernoulli arms.")
        arm_belief(self.prior, arms)

    def prepare(self, arms: AbstractArms, horizon: int) -> "InformationDirectedSampling":
        belief = arm_belief(self.prior, arms)
        assert isinstance(belief, BetaArms)
        return InformationDirectedSampling(grid=self.grid, prior=self.prior, belief=belief)

    def probabilities(self, statistics: ArmStatistics, time: Any) -> Numbers:
        if self.belief is None:
            raise ValueError("InformationDirectedSampling needs its belief: call prepare(arms, horizon) first.")
        a, b = (jnp.asarray(p) for p in self.belief.parameters(statistics))
        arms = a.shape[0]
        flat = jnp.stack([a.reshape(arms, -1), b.reshape(arms, -1)]).transpose(2, 0, 1)

        def one(pair: Float[Array, "2 arms"]) -> Float[Array, " arms"]:
            return least_ratio(arm_information(pair[0], pair[1], self.grid))

        chances = jax.lax.map(one, flat, batch_size=min(_LANES, flat.shape[0]))
        return chances.T.reshape(a.shape)


def arm_information(a: Float[Array, " arms"], b: Float[Array, " arms"], grid: int) -> ArmInformation:
    """What is expected of one pull of each arm."""
    x = (jnp.arange(grid, dtype=a.dtype) + 0.5) / grid
    log_density = (a[:, None] - 1.0) * jnp.log(x)[None] + (b[:, None] - 1.0) * jnp.log1p(-x)[None]
    weight = jnp.exp(log_density - jnp.max(log_density, axis=1, keepdims=True))
    weight = weight / jnp.sum(weight, axis=1, keepdims=True)
    below = _up_to(weight)
    partial = _up_to(weight * x[None])
    others = _products_of_others(below)
    joint = weight * others  # P(A* = a, mu_a = x)
    best = jnp.sum(joint, axis=1)
    share = jnp.where(below > 0.0, partial / jnp.where(below > 0.0, below, 1.0), 0.5 * x[None])  # E[mu_b | mu_b <= x]
    known = best > 0.0
    total = jnp.where(known, best, 1.0)[:, None]
    own = (joint @ x)[:, None] / total
    conditional = jnp.where(jnp.eye(a.shape[0], dtype=bool), own, joint @ share.T / total)  # E[mu_b | A* = a], [a, b]
    best = best / jnp.sum(best)
    mean = best @ conditional
    divergence = _bernoulli_divergence(conditional, mean[None])
    information = jnp.sum(best[:, None] * jnp.where(known[:, None], divergence, 0.0), axis=0)
    regret = jnp.maximum(best @ jnp.diagonal(conditional) - mean, 0.0)
    return ArmInformation(best, regret, information)


def least_ratio(arms: ArmInformation) -> Float[Array, " arms"]:
    """Chances that minimize squared regret over information, on at most two arms."""
    regret, count = arms.regret, arms.regret.shape[0]
    information = jnp.maximum(arms.information, jnp.finfo(regret.dtype).tiny)
    d, g = regret[:, None] - regret[None], information[:, None] - information[None]
    slope = d * g
    safe = jnp.where(slope != 0.0, slope, 1.0)
    # of (Delta_j + q d)^2 / (g_j + q g): stationary in q where 2 d (g_j + q g) = g (Delta_j + q d)
    q = jnp.where(slope != 0.0, (g * regret[None] - 2.0 * d * information[None]) / safe, jnp.where(d > 0.0, 0.0, 1.0))
    q = jnp.clip(q, 0.0, 1.0)
    ratio = (regret[None] + q * d) ** 2 / (information[None] + q * g)
    place = jnp.argmin(ratio.reshape(-1))
    first, second, chance = place // count, place % count, q.reshape(-1)[place]
    numbers = jnp.arange(count)
    return jnp.where(numbers == first, chance, 0.0) + jnp.where(numbers == second, 1.0 - chance, 0.0)


def information_ratio(arms: ArmInformation, chances: Float[Array, " arms"]) -> Float[Array, ""]:
    """Squared expected regret over expected information."""
    return (chances @ arms.regret) ** 2 / (chances @ arms.information)


def _up_to(weight: Float[Array, "arms grid"]) -> Float[Array, "arms grid"]:
    """Mass up to each midpoint: half of its own cell counts. By rows of a triangle, which is faster than `cumsum`."""
    rows = weight.reshape(weight.shape[0], -1, _ROW)
    within = rows @ (jnp.triu(jnp.ones((_ROW, _ROW), weight.dtype)) - 0.5 * jnp.eye(_ROW, dtype=weight.dtype))
    count = rows.shape[1]
    before = jnp.sum(rows, axis=2) @ jnp.triu(jnp.ones((count, count), weight.dtype), 1)
    return (within + before[:, :, None]).reshape(weight.shape)


def _products_of_others(below: Float[Array, "arms grid"]) -> Float[Array, "arms grid"]:
    """`prod_{b != a} F_b`, by products from both ends, without a division."""
    one = jnp.ones_like(below[0])
    left, right = [one], [one]
    for k in range(below.shape[0] - 1):
        left.append(left[-1] * below[k])
        right.append(right[-1] * below[-1 - k])
    return jnp.stack([before * after for before, after in zip(left, reversed(right), strict=True)])


def _bernoulli_divergence(p: Array, q: Array) -> Array:
    """`q phi(d / q) + (1 - q) phi(-d / (1 - q))`, `phi(u) = (1 + u) log(1 + u) - u`: it does not cancel."""
    d = p - q
    return q * _phi(d / q) + (1.0 - q) * _phi(-d / (1.0 - q))


def _phi(u: Array) -> Array:
    small = jnp.abs(u) < 0.02
    v = jnp.where(small, 0.0, jnp.maximum(u, -1.0))
    exact = jax.scipy.special.xlog1py(1.0 + v, v) - v
    return jnp.where(small, u * u * (0.5 - u * (1 / 6 - u * (1 / 12 - u * (1 / 20 - u / 30)))), exact)
