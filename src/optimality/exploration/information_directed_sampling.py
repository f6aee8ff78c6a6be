"""Information-directed sampling: the least squared regret per bit about which arm is best.

    min over pi of  (sum_a pi_a Delta_a)^2 / sum_a pi_a g_a,      Delta_a = E max_b mu_b - E mu_a,
    entropy:   g_a = I(A*; Y_a) = sum_{a*} P(A* = a*) KL(law of Y_a given A* = a* || law of Y_a)
    variance:  g_a = sum_{a*} P(A* = a*) (E[mu_a | A* = a*] - E mu_a)^2

(Russo and Van Roy 2014). For rewards 0 and 1 the laws are Bernoulli; for normal ones they belong to no family, and the
variance is taken instead. For rewards within an interval of length L, `I(A*; Y_a) >= 2 / L^2` times the variance. The
minimum is attained by at most two arms, and for two arms it is a root of a linear equation. All expectations are sums
over cells of the means. The ratio at the minimum, and Thompson sampling's too, is at most half the number of arms, to
the variance at most the number.
"""

from dataclasses import KW_ONLY
from typing import Any, Literal, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import scipy.special
from jaxtyping import Array, Float

from optimality.exploration.arm_beliefs import AbstractArmBelief, NormalArms, Prior, arm_belief, with_belief
from optimality.exploration.bandit_policy import AbstractBanditPolicy, ArmStatistics, Numbers
from optimality.problems.bandits import AbstractArms, ExponentialArms, GaussianArms

InformationKind = Literal["entropy", "variance"]

_ROW = 32
_LANES = 16
"""Runs at once: their grids fit the cache."""
_STRETCH = 2.2
"""Of quantiles, about the mean: at 1 a tail that decides between two arms may lie in one cell."""


class ArmInformation(NamedTuple):
    """Of every arm."""

    best: Float[Array, " arms"]
    """`P(A* = a)`."""
    regret: Float[Array, " arms"]
    """Delta."""
    information: Float[Array, " arms"]
    """g, in nats or as a variance."""


class InformationDirectedSampling(AbstractBanditPolicy):
    """Least information ratio."""

    _: KW_ONLY
    information: InformationKind = eqx.field(static=True, default="entropy")
    """What an arm tells about which is best: nats (rewards 0 and 1), or the variance of its mean that is explained."""
    grid: int = eqx.field(static=True, default=1024)
    """Cells of the means: of rewards 0 and 1 even ones of [0, 1], of normal ones between quantiles of all arms."""
    prior: Prior | None = None
    """Belief about every arm before the first pull; None: see `arm_beliefs`."""
    belief: AbstractArmBelief | None = None
    """What `prepare` makes of the prior."""

    def __check_init__(self):
        if self.grid < _ROW or self.grid % _ROW:
            raise ValueError(
                f"grid of InformationDirectedSampling must be a multiple of {_ROW}, but {self.grid} was given."
            )
        if self.information not in ("entropy", "variance"):
            raise ValueError(
                f"information of InformationDirectedSampling is 'entropy' or 'variance', but {self.information!r} was "
                f"given."
            )

    def check(self, arms: AbstractArms, horizon: int) -> None:
        if isinstance(arms, ExponentialArms):
            raise ValueError(
                "information-directed sampling is for rewards 0 and 1 and for normal ones, but the arms are "
                "exponential: use thompson or bayes-ucb."
            )
        if isinstance(arms, GaussianArms):
            if self.information == "entropy":
                raise ValueError(
                    "which normal arm is best makes the law of a reward a mixture whose entropy has no closed form: "
                    'give information="variance", or use Bernoulli arms.'
                )
            if arms.size >= self.grid:
                raise ValueError(
                    f"grid of InformationDirectedSampling must be larger than the number of arms, {arms.size}, but "
                    f"{self.grid} was given."
                )
        arm_belief(self.prior, arms)

    def prepare(self, arms: AbstractArms, horizon: int) -> "InformationDirectedSampling":
        return with_belief(self, arm_belief(self.prior, arms))

    def probabilities(self, statistics: ArmStatistics, time: Any) -> Numbers:
        if self.belief is None:
            raise ValueError("InformationDirectedSampling needs its belief: call prepare(arms, horizon) first.")
        first, second = (jnp.asarray(p) for p in self.belief.parameters(statistics))
        normal = isinstance(self.belief, NormalArms)
        unknown = jnp.isinf(second) if normal else jnp.zeros(second.shape, bool)
        arms = first.shape[0]
        pairs = jnp.stack([first, jnp.where(unknown, 1.0, second)]).reshape(2, arms, -1).transpose(2, 0, 1)

        def one(pair: Float[Array, "2 arms"]) -> Float[Array, " arms"]:
            if normal:
                return least_ratio(normal_arm_information(pair[0], pair[1], self.grid))
            return least_ratio(arm_information(pair[0], pair[1], self.grid, self.information))

        chances = jax.lax.map(one, pairs, batch_size=min(_LANES, pairs.shape[0])).T.reshape(first.shape)
        share = unknown.astype(chances.dtype)
        count = jnp.sum(share, axis=0, keepdims=True)
        return jnp.where(count > 0.0, share / jnp.maximum(count, 1.0), chances)


def arm_information(
    a: Float[Array, " arms"], b: Float[Array, " arms"], grid: int, information: InformationKind = "entropy"
) -> ArmInformation:
    """What is expected of one pull of each arm that pays 0 or 1, under Beta beliefs, on midpoints of [0, 1]."""
    x = (jnp.arange(grid, dtype=a.dtype) + 0.5) / grid
    log_density = (a[:, None] - 1.0) * jnp.log(x)[None] + (b[:, None] - 1.0) * jnp.log1p(-x)[None]
    weight = jnp.exp(log_density - jnp.max(log_density, axis=1, keepdims=True))
    weight = weight / jnp.sum(weight, axis=1, keepdims=True)
    return _expected(weight, weight * x[None], _bernoulli_divergence if information == "entropy" else _squared)


def normal_arm_information(location: Float[Array, " arms"], scale: Float[Array, " arms"], grid: int) -> ArmInformation:
    """What is expected of one pull of each arm with a normal belief about its mean: regret and explained variance.

    The cells lie between quantiles of all arms, spread out, so that every posterior is resolved whatever the others'
    widths; the mass and the mean of each arm in each cell are exact.
    """
    arms = location.shape[0]
    each = (grid - 1) // arms
    levels = (np.arange(each)[None] + (np.arange(arms)[:, None] + 0.5) / arms) / each
    edges = location[:, None] + scale[:, None] * jnp.asarray(_STRETCH * scipy.special.ndtri(levels), location.dtype)
    edges = jnp.pad(jnp.sort(edges.reshape(-1)), (0, grid - 1 - arms * each), constant_values=jnp.inf)
    z = (edges[None] - location[:, None]) / scale[:, None]
    tail = jnp.pad(jax.scipy.special.ndtr(-jnp.abs(z)), ((0, 0), (1, 1)))
    above = jnp.pad(z > 0.0, ((0, 0), (1, 1)), constant_values=((0, 0), (0, 1)))
    within = jnp.abs(tail[:, :-1] - tail[:, 1:])
    around = 1.0 - tail[:, :-1] - tail[:, 1:]
    weight = jnp.where(above[:, 1:] & ~above[:, :-1], around, within)
    density = jnp.pad(jnp.exp(-0.5 * z**2) / np.sqrt(2.0 * np.pi), ((0, 0), (1, 1)))
    total = location[:, None] * weight + scale[:, None] * (density[:, :-1] - density[:, 1:])
    return _expected(weight, total, _squared)


def _expected(weight: Float[Array, "arms grid"], total: Float[Array, "arms grid"], divergence: Any) -> ArmInformation:
    """From the mass of every arm's mean in every cell, and `E[mean; cell]`."""
    below, partial = _up_to(weight), _up_to(total)
    others = _products_of_others(below)
    joint = weight * others  # P(A* = a, mu_a in cell)
    best = jnp.sum(joint, axis=1)
    share = jnp.where(below > 0.0, partial / jnp.where(below > 0.0, below, 1.0), 0.0)  # E[mu_b | mu_b <= x]
    known = best > 0.0
    mass = jnp.where(known, best, 1.0)[:, None]
    own = jnp.sum(total * others, axis=1, keepdims=True) / mass
    conditional = jnp.where(jnp.eye(best.size, dtype=bool), own, joint @ share.T / mass)  # E[mu_b | A* = a], [a, b]
    best = best / jnp.sum(best)
    mean = best @ conditional
    gained = jnp.where(known[:, None], divergence(conditional, mean[None]), 0.0)
    regret = jnp.maximum(best @ jnp.diagonal(conditional) - mean, 0.0)
    return ArmInformation(best, regret, jnp.sum(best[:, None] * gained, axis=0))


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


def _squared(p: Array, q: Array) -> Array:
    return (p - q) ** 2


def _bernoulli_divergence(p: Array, q: Array) -> Array:
    """`q phi(d / q) + (1 - q) phi(-d / (1 - q))`, `phi(u) = (1 + u) log(1 + u) - u`: it does not cancel."""
    d = p - q
    return q * _phi(d / q) + (1.0 - q) * _phi(-d / (1.0 - q))


def _phi(u: Array) -> Array:
    small = jnp.abs(u) < 0.02
    v = jnp.where(small, 0.0, jnp.maximum(u, -1.0))
    exact = jax.scipy.special.xlog1py(1.0 + v, v) - v
    return jnp.where(small, u * u * (0.5 - u * (1 / 6 - u * (1 / 12 - u * (1 / 20 - u / 30)))), exact)
