"""A bandit under a belief: what to pull when every pull pays and teaches, solved exactly by dynamic programming.

    V_t(s, n) = max_a  m_a (1 + discount V_{t+1}(after a one of a)) + (1 - m_a) discount V_{t+1}(after a zero of a)

over all successes s and pulls n with sum_a n_a = t: the state of knowledge is the state (Bellman 1956). With K arms and
H pulls there are about `(H + 1)^(2 K - 1)` of them at a time, so few arms and short horizons; for discounted rewards
without an end the Gittins index (`gittins`) needs one arm at a time.
"""

import math
from dataclasses import KW_ONLY
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from optimality.beliefs import BetaBernoulli
from optimality.core.numerics import is_traced
from optimality.core.result import Result
from optimality.core.solve import AbstractDirect, Solution
from optimality.exploration.bandit_policy import ArmStatistics, Numbers, choose
from optimality.problems.criterion import Discounted, FiniteHorizon


class BernoulliBandit(eqx.Module):
    """Arms that pay 0 or 1, each with an unknown chance, and the expected sum of their rewards.

    The criterion is `FiniteHorizon(pulls, discount)`, or `Discounted(discount)`, where after `most_pulls` of the method
    one commits to an arm for ever.
    """

    prior: BetaBernoulli
    """Belief about the arms: leaves `[arms]`."""
    criterion: FiniteHorizon | Discounted

    name = "bernoulli-bandit"

    def __check_init__(self):
        shape = np.shape(self.prior.successes)
        if len(shape) != 1 or shape[0] < 2:
            raise ValueError(
                f"a bandit's prior has one entry for each of at least two arms, but its shape is {shape}: for two "
                f"uniform ones BetaBernoulli([1.0, 1.0], [1.0, 1.0])."
            )
        if not isinstance(self.criterion, FiniteHorizon | Discounted):
            raise ValueError(
                f"the criterion of a bandit is FiniteHorizon(pulls) or Discounted(discount), but {self.criterion} was "
                f"given."
            )
        if isinstance(self.criterion, FiniteHorizon):
            terminal = self.criterion.terminal_reward
            if is_traced(terminal) or np.any(np.asarray(terminal) != 0.0):
                raise ValueError("a bandit has no terminal reward: leave terminal_reward at 0.")

    @property
    def arms(self) -> int:
        return np.shape(self.prior.successes)[0]


class BeliefPolicy(eqx.Module):
    """The best arms for every state of knowledge within the horizon."""

    gains: Float[Array | np.ndarray, "pulls arms *states"]
    """Value of each arm after 0, 1, ... pulls; the axes of states are the pulls of all arms but the last, then the
    successes of every arm."""

    def index(self, statistics: ArmStatistics, time: Any) -> Numbers:
        """The value of pulling each arm and going on optimally."""
        gains = jnp.asarray(self.gains)[time]
        return gains[(slice(None), *statistics.pulls[:-1], *statistics.earned)]

    def probabilities(self, statistics: ArmStatistics, time: Any) -> Numbers:
        """All on the best arm, on the first of equally good ones."""
        index = self.index(statistics, time)
        best = jnp.max(index, axis=0, keepdims=True)
        return choose(jnp.where(index >= best - 1e-12 * jnp.abs(best), best, index), "lowest")


class BernoulliBanditDetails(eqx.Module):
    """What `ExactBandit` found beside value and policy."""

    first: Float[Array | np.ndarray, " arms"]
    """Value of each arm as the first pull."""
    informed: Float[Array | np.ndarray | np.generic, ""]
    """What would be earned by someone who knows the arms, `E max_a mu_a` every time."""
    regret: Float[Array | np.ndarray | np.generic, ""]
    """Bayes regret of the optimal policy: their difference."""


class ExactBandit(AbstractDirect[BernoulliBandit]):
    """The Bayes-optimal policy of few arms."""

    _: KW_ONLY
    most_pulls: int = eqx.field(static=True, default=60)
    """Without a horizon, pulls that are planned before one commits to an arm for ever."""
    most_numbers: int = eqx.field(static=True, default=50_000_000)
    """Largest table that is computed, in numbers."""

    def check(self, problem: Any) -> None:
        if not isinstance(problem, BernoulliBandit):
            raise ValueError(f"ExactBandit solves BernoulliBandit problems, but {type(problem).__name__} was given.")
        if self.most_pulls < 1:
            raise ValueError(f"most_pulls of ExactBandit must be at least 1, but {self.most_pulls} was given.")
        pulls, arms = self._pulls(problem), problem.arms
        numbers = pulls * arms * (pulls + 1) ** (2 * arms - 1)
        if numbers > self.most_numbers:
            longest = max(h for h in range(1, pulls) if h * arms * (h + 1) ** (2 * arms - 1) <= self.most_numbers)
            raise ValueError(
                f"{arms} arms and {pulls} pulls make a table of {numbers:.2g} numbers, but most_numbers is "
                f"{self.most_numbers:.2g}: give at most {longest} pulls, fewer arms, or a larger most_numbers; without "
                f"an end, gittins_index needs one arm at a time."
            )

    def compute(self, problem: BernoulliBandit, key=None) -> Solution:
        pulls, arms = self._pulls(problem), problem.arms
        a, b = jnp.asarray(problem.prior.successes), jnp.asarray(problem.prior.failures)
        discount = jnp.asarray(problem.criterion.discount, a.dtype)
        grids = _Grids(pulls, arms)
        if isinstance(problem.criterion, Discounted):
            last = jnp.max(grids.means(a, b, jnp.asarray(pulls)), axis=0) / (1.0 - discount)
            total = 1.0 / (1.0 - discount)
        else:
            last = jnp.zeros(grids.shape, a.dtype)
            total = jnp.sum(discount ** jnp.arange(pulls, dtype=a.dtype))

        def back(value, time):
            mean = grids.means(a, b, time)
            gains = []
            for k in range(arms):
                zero, one = grids.after(value, k)
                gains.append(mean[k] * (1.0 + discount * one) + (1.0 - mean[k]) * discount * zero)
            gains = jnp.stack(gains)
            return jnp.max(gains, axis=0), gains

        value, gains = jax.lax.scan(back, last, jnp.arange(pulls), reverse=True)
        root = (0,) * len(grids.shape)
        informed = total * best_mean(a, b)
        details = BernoulliBanditDetails(gains[(0, slice(None), *root)], informed, informed - value[root])
        finite = jnp.isfinite(value[root])
        result = jnp.where(finite, Result.CONVERGED, Result.NON_FINITE).astype(jnp.int32)
        return Solution(value[root], BeliefPolicy(gains), result, {"states": math.prod(grids.shape)}, details)

    def _pulls(self, problem: BernoulliBandit) -> int:
        criterion = problem.criterion
        return criterion.horizon if isinstance(criterion, FiniteHorizon) else self.most_pulls


class _Grids(eqx.Module):
    """States of knowledge at one time: pulls of all arms but the last, then successes of each; impossible ones hold
    numbers that nothing possible reads."""

    pulls: int = eqx.field(static=True)
    arms: int = eqx.field(static=True)

    @property
    def shape(self) -> tuple[int, ...]:
        return (self.pulls + 1,) * (2 * self.arms - 1)

    def means(self, a: Float[Array, " arms"], b: Float[Array, " arms"], time: Int[Array, ""]):
        """Posterior mean of each arm, one array each."""
        axes = len(self.shape)
        along = [jnp.arange(self.pulls + 1, dtype=a.dtype).reshape([-1 if i == j else 1 for j in range(axes)])
                 for i in range(axes)]  # fmt: skip
        pulls = along[: self.arms - 1]
        pulls.append(jnp.maximum(time.astype(a.dtype) - sum(pulls[1:], pulls[0]), 0.0))
        ones = along[self.arms - 1 :]
        means = [
            jnp.broadcast_to((a[k] + jnp.minimum(ones[k], pulls[k])) / (a[k] + b[k] + pulls[k]), self.shape)
            for k in range(self.arms)
        ]
        return jnp.stack(means)

    def after(self, value: Array, arm: int) -> tuple[Array, Array]:
        """Of the next time, after a zero and after a one of an arm."""
        zero = _next(value, arm) if arm < self.arms - 1 else value
        return zero, _next(zero, self.arms - 1 + arm)


def _next(value: Array, axis: int) -> Array:
    """`value` at one more along an axis; the last entry again at its end."""
    return jnp.concatenate(
        [jax.lax.slice_in_dim(value, 1, None, axis=axis), jax.lax.slice_in_dim(value, -1, None, axis=axis)], axis=axis
    )


def best_mean(a: Float[Array, " arms"], b: Float[Array, " arms"]) -> Float[Array, ""]:
    """`E max_k theta_k` of independent Beta variables, `int 1 - prod_k F_k`: exact to rounding for moderate counts."""
    nodes, weights = np.polynomial.legendre.leggauss(400)
    angle = jnp.asarray(0.25 * np.pi * (nodes + 1.0), a.dtype)  # x = sin^2: roots at the ends turn into powers
    weight = jnp.asarray(0.25 * np.pi * weights, a.dtype) * jnp.sin(2.0 * angle)
    x = jnp.sin(angle) ** 2
    below = jax.vmap(lambda p, q: jax.scipy.special.betainc(p, q, x))(a, b)
    return jnp.sum(weight * (1.0 - jnp.prod(below, axis=0)))
