"""Gittins indices of arms that pay 0 or 1, and the policy that is optimal for discounted rewards.

The index of Beta(a, b) is the sure reward per round lambda at which going on with the arm, with the right to retire
later, is worth as much as retiring at once (for normal rewards: `normal_gittins`):

    V(a, b) = max(lambda / (1 - discount), m (1 + discount V(a + 1, b)) + (1 - m) discount V(a, b + 1)), m = a / (a + b)

Pulling the arm of the largest index maximizes the expected discounted reward over an unlimited time (Gittins 1979). The
recursion starts `truncation` pulls ahead, where one commits to the better of the arm's mean and lambda.
"""

from dataclasses import KW_ONLY
from typing import Any

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from optimality.core.numerics import Real, is_traced, require_range
from optimality.exploration.arm_beliefs import NormalArms, Prior, arm_belief
from optimality.exploration.bandit_policy import AbstractIndexPolicy, ArmStatistics, Numbers, Ties, require_ties
from optimality.exploration.normal_gittins import normal_gittins_table
from optimality.problems.bandits import AbstractArms, BernoulliArms, ExponentialArms

_GRID = 512
_MOST_NEWTON = 60


def gittins_index(
    a: Any, b: Any, discount: float, *, truncation: int | None = None, tolerance: float = 1e-9
) -> Float[np.ndarray, "..."]:
    """The index of each Beta(a, b), float64.

    The gain of going on is a decreasing convex function of lambda, piecewise linear, with a derivative from the same
    recursion: Newton's iteration from the mean climbs to its root and stops there exactly.

    Args:
        a: pseudo-counts of ones, above 0.
        b: of zeros.
        discount: in [0, 1).
        truncation: pulls that are planned; by default as many as make the discount smaller than the tolerance.
        tolerance: largest change of an index at which the iteration ends.
    """
    a, b = np.broadcast_arrays(np.asarray(a, np.float64), np.asarray(b, np.float64))
    depth = _depth(discount, truncation, tolerance)
    if not np.all((a > 0.0) & (b > 0.0) & np.isfinite(a + b)):
        raise ValueError("pseudo-counts of a Beta belief must be above 0 and finite.")
    shape, a, b = a.shape, a.reshape(-1, 1), b.reshape(-1, 1)
    index = a / (a + b)
    for _ in range(_MOST_NEWTON):
        gain, slope = _gain(a, b, index, discount, depth)
        step = np.maximum(gain / -slope, 0.0)
        index = index + step
        if step.max() <= tolerance:
            break
    return np.minimum(index, 1.0).reshape(shape)


def _gain(a: np.ndarray, b: np.ndarray, index: np.ndarray, discount: float, depth: int):
    """Of going on over retiring, times `1 - discount`, and its derivative."""
    total = a + b
    ones = np.arange(depth + 1.0)[None]
    mean = (a + ones) / (total + depth)
    value = np.maximum(index, mean)
    slope = (mean < index).astype(np.float64)
    for level in range(depth - 1, -1, -1):
        mean = (a + ones[:, : level + 1]) / (total + level)
        ahead = mean * (1.0 - discount + discount * value[:, 1:]) + (1.0 - mean) * discount * value[:, :-1]
        ahead_slope = discount * (mean * slope[:, 1:] + (1.0 - mean) * slope[:, :-1])
        if level:
            stops = ahead < index
            value, slope = np.where(stops, index, ahead), np.where(stops, 1.0, ahead_slope)
        else:
            value, slope = ahead, ahead_slope
    return value - index, slope - 1.0


def _depth(discount: float, truncation: int | None, tolerance: float) -> int:
    if not 0.0 <= discount < 1.0:
        raise ValueError(f"discount of a Gittins index must be in [0, 1), but {discount} was given.")
    if truncation is not None:
        if truncation < 1:
            raise ValueError(f"truncation must be at least 1, but {truncation} was given.")
        return truncation
    return 1 if discount == 0.0 else max(2, int(np.ceil(np.log(tolerance) / np.log(discount))))


def gittins_table(
    discount: float, pulls: int, *, prior: tuple[float, float] = (1.0, 1.0), truncation: int | None = None
) -> Float[np.ndarray, "ones zeros"]:
    """Indices after `ones` and `zeros` seen, together at most `pulls`; NaN beyond.

    One backward pass on a grid of lambda serves all states; between its points the gain is interpolated, which leaves
    errors below 1e-4 (the gain has kinks). `gittins_index` has all digits.
    """
    if pulls < 0:
        raise ValueError(f"pulls must be at least 0, but {pulls} was given.")
    a, b = prior
    require_range(gittins_table, 0.0, above=True, prior=np.asarray(prior))
    depth = pulls + _depth(discount, truncation, 1e-7)
    grid = np.linspace(0.0, 1.0, _GRID + 1)[None]
    table = np.full((pulls + 1, pulls + 1), np.nan)
    ones = np.arange(depth + 1.0)[:, None]
    value = np.maximum(grid, (a + ones) / (a + b + depth))
    for level in range(depth - 1, -1, -1):
        mean = (a + ones[: level + 1]) / (a + b + level)
        ahead = value[:-1] + mean * (value[1:] - value[:-1])
        ahead *= discount
        ahead += (1.0 - discount) * mean
        if level <= pulls:
            table[np.arange(level + 1), level - np.arange(level + 1)] = _crossings(ahead - grid, 1.0 / _GRID)
        value = np.maximum(ahead, grid, out=ahead)
    return table


def _crossings(gain: np.ndarray, step: float) -> np.ndarray:
    """Where each row, decreasing and convex, passes zero: of the cubic through the four samples around."""
    rows = np.arange(gain.shape[0])
    last = np.sum(gain > 0.0, axis=1) - 1
    first = np.clip(last - 1, 0, gain.shape[1] - 4)
    y = gain[rows[:, None], first[:, None] + np.arange(4)]
    d1, d2, d3 = y[:, 1] - y[:, 0], y[:, 2] - 2.0 * y[:, 1] + y[:, 0], np.diff(y, 3)[:, 0]
    c1, c2, c3 = d1 - d2 / 2.0 + d3 / 3.0, (d2 - d3) / 2.0, d3 / 6.0
    low = (last - first).astype(np.float64)
    left, right = gain[rows, np.maximum(last, 0)], gain[rows, np.minimum(last + 1, gain.shape[1] - 1)]
    x = low + np.where(left > right, left / np.where(left > right, left - right, 1.0), 0.0)
    for _ in range(6):
        x = x - (y[:, 0] + x * (c1 + x * (c2 + x * c3))) / (c1 + x * (2.0 * c2 + 3.0 * x * c3))
        x = np.clip(x, low, low + 1.0)
    return np.clip((first + x) * step, 0.0, 1.0)


class Gittins(AbstractIndexPolicy):
    """The largest Gittins index; optimal for discounted rewards without an end."""

    _: KW_ONLY
    discount: Real = 0.99
    """Of rewards, in [0, 1)."""
    successes: Real = 1.0
    """Of the Beta prior of every arm that pays 0 or 1."""
    failures: Real = 1.0
    """Likewise."""
    prior: Prior | None = None
    """Belief about every arm with normal rewards; None: flat, each arm once first."""
    most: int = eqx.field(static=True, default=300)
    """Pulls of one arm that the table covers; beyond, the bonus over the mean shrinks as one over the pulls."""
    ties: Ties = eqx.field(static=True, default="lowest")
    """Among equal indices the first arm, or any by chance."""
    table: Float[Array | np.ndarray, "..."] | None = None
    """What `prepare` computes: indices `[ones, zeros]`, of normal arms the bonus by the number of pulls."""
    belief: NormalArms | None = None
    """Of normal arms, likewise."""

    def __check_init__(self):
        require_range(self, 0.0, 1.0 - 1e-6, discount=self.discount)
        require_range(self, 0.0, above=True, successes=self.successes, failures=self.failures)
        require_ties(self, self.ties)

    def check(self, arms: AbstractArms, horizon: int) -> None:
        if isinstance(arms, ExponentialArms):
            raise ValueError(
                "gittins has indices of rewards 0 and 1 and of normal ones, but the arms are exponential: use thompson "
                "or bayes-ucb."
            )
        if isinstance(arms, BernoulliArms):
            if self.prior is not None:
                raise ValueError("the prior of gittins is for normal arms: give successes and failures instead.")
            return
        belief = arm_belief(self.prior, arms)
        if isinstance(belief, NormalArms) and not (_same(belief.precision) and _same(belief.noise)):
            raise ValueError(
                "gittins has one table for all arms: give a prior whose scale and noise_scale are the same for each; "
                "its location may differ."
            )

    def prepare(self, arms: AbstractArms, horizon: int) -> "Gittins":
        discount, pulls = float(self.discount), min(horizon, self.most)
        if isinstance(arms, BernoulliArms):
            prior = (float(self.successes), float(self.failures))
            belief, table = None, gittins_table(discount, pulls, prior=prior)
        else:
            belief = arm_belief(self.prior, arms)
            assert isinstance(belief, NormalArms)
            table = normal_gittins_table(discount, pulls, prior_pulls=float(_prior_pulls(belief)))
        return eqx.tree_at(lambda p: (p.table, p.belief), self, (table, belief), is_leaf=lambda leaf: leaf is None)

    def index(self, statistics: ArmStatistics, time: Any) -> Numbers:
        if self.table is None:
            raise ValueError("Gittins needs its table: call prepare(arms, horizon) first, as simulate_bandit does.")
        if self.belief is not None:
            return self._normal_index(self.belief, jnp.asarray(self.table), statistics)
        dtype = jnp.result_type(float)
        size = self.table.shape[0] - 1
        pulls, earned = (jnp.asarray(counts).astype(dtype) for counts in (statistics.pulls, statistics.earned))
        shrink = jnp.minimum(1.0, size / jnp.maximum(pulls, 1.0))
        ones = jnp.round(earned * shrink).astype(jnp.int32)
        zeros = jnp.round(pulls * shrink).astype(jnp.int32) - ones
        a = jnp.asarray(self.successes, dtype)
        total = a + jnp.asarray(self.failures, dtype)
        near = (a + ones.astype(dtype)) / (total + (ones + zeros).astype(dtype))
        bonus = jnp.asarray(self.table, dtype)[ones, zeros] - near
        return (a + earned) / (total + pulls) + bonus * shrink

    def _normal_index(self, belief: NormalArms, table: Array, statistics: ArmStatistics) -> Numbers:
        mean = jnp.asarray(belief.parameters(statistics)[0])
        size, pulls = table.shape[0] - 1, jnp.asarray(statistics.pulls)
        prior_pulls = jnp.asarray(_prior_pulls(belief), mean.dtype)
        near = table.astype(mean.dtype)[jnp.minimum(pulls, size)]
        beyond = (prior_pulls + size) / jnp.maximum(prior_pulls + pulls.astype(mean.dtype), 1.0)
        noise = jnp.asarray(_first(belief.noise), mean.dtype)
        return mean + noise * near * jnp.where(pulls > size, beyond, 1.0)


def _prior_pulls(belief: NormalArms) -> Any:
    """How many pulls the prior is worth."""
    return _first(belief.noise) ** 2 * _first(belief.precision)


def _first(numbers: Any) -> Any:
    return numbers.reshape(-1)[0]


def _same(numbers: Any) -> bool:
    return is_traced(numbers) or bool(np.all(np.asarray(numbers) == _first(np.asarray(numbers))))
