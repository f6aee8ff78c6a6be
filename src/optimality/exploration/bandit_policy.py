"""What a bandit policy is: from the statistics of the arms to the chances of the next pull.

Everything is written for arrays `[arms, ...]`: trailing axes are runs of a simulation, or states of a belief. A
policy is a frozen module; a new one is a file with `probabilities`, and with `select` where drawing is cheaper than
computing chances.
"""

import abc
from collections.abc import Callable
from typing import Any, Literal

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from optimality.problems.bandits import AbstractArms

Ties = Literal["lowest", "random"]
Numbers = Float[Array | np.ndarray, "arms *batch"]


class ArmStatistics(eqx.Module):
    """What was seen of each arm."""

    pulls: Int[Array | np.ndarray, "arms *batch"]
    """How often each arm was pulled."""
    earned: Int[Array | np.ndarray, "arms *batch"] | Float[Array | np.ndarray, "arms *batch"]
    """Of rewards 0 and 1 the number of ones, a whole number; of others their mean, updated incrementally."""

    @property
    def mean(self) -> Any:
        """Mean reward of each arm, 0 where there was none."""
        if jnp.issubdtype(self.earned.dtype, jnp.integer):
            return self.earned.astype(self.count.dtype) / self.count
        return self.earned

    @property
    def count(self) -> Any:
        """Pulls as real numbers, at least 1."""
        return self.space.maximum(self.pulls, 1).astype(self.precision)

    @property
    def space(self) -> Any:
        """NumPy or `jax.numpy`, whichever the arrays are of."""
        return np if isinstance(self.pulls, np.ndarray) else jnp

    @property
    def precision(self) -> Any:
        """Of the numbers computed from them: of NumPy arrays float64."""
        return np.float64 if self.space is np else jnp.result_type(float)


class AbstractBanditPolicy(eqx.Module):
    """A rule for the next pull."""

    @property
    def uniforms(self) -> int:
        """How many uniform variables `select` uses in a round."""
        return 1

    def check(self, arms: AbstractArms, horizon: int) -> None:
        """Raises `ValueError` for arms or a horizon that the policy is not made for."""

    def prepare(self, arms: AbstractArms, horizon: int) -> "AbstractBanditPolicy":
        """The policy with what it must know beforehand: tables, the horizon, the noise of the arms."""
        return self

    @abc.abstractmethod
    def probabilities(self, statistics: ArmStatistics, time: Any) -> Numbers:
        """Chance of each arm after `time` pulls in all."""

    def select(self, statistics: ArmStatistics, time: Any, uniforms: Float[Array, "uniforms *batch"]) -> Any:
        """The next arm, drawn by `uniforms`."""
        return draw(self.probabilities(statistics, time), uniforms[0])


class AbstractIndexPolicy(AbstractBanditPolicy):
    """Pulls the arm of the largest index."""

    ties: eqx.AbstractVar[Ties]

    @property
    def uniforms(self) -> int:
        return int(self.ties == "random")

    @abc.abstractmethod
    def index(self, statistics: ArmStatistics, time: Any) -> Numbers:
        """What an arm is worth; infinite for one that must be pulled first."""

    def probabilities(self, statistics: ArmStatistics, time: Any) -> Numbers:
        return choose(self.index(statistics, time), self.ties)

    def select(self, statistics: ArmStatistics, time: Any, uniforms: Float[Array, "uniforms *batch"]) -> Any:
        index = self.index(statistics, time)
        return first_largest(index) if self.ties == "lowest" else draw(choose(index, self.ties), uniforms[0])


class AbstractHostPolicy(AbstractBanditPolicy):
    """A policy that NumPy and SciPy simulate faster than JAX can on a CPU, because of what it draws or inverts."""

    @abc.abstractmethod
    def start_on_host(
        self, statistics: ArmStatistics, random: np.random.Generator
    ) -> Callable[[int], Int[np.ndarray, " runs"]]:
        """A function from the number of pulls to the next arm, which reads `statistics`, NumPy arrays `[arms, runs]`
        that change from round to round."""


def choose(index: Any, ties: Ties) -> Any:
    """Chances of the arms by their index: all on the first of the largest, or evenly over the largest."""
    index = jnp.asarray(index)
    largest = index == jnp.max(index, axis=0, keepdims=True)
    if ties == "random":
        share = largest.astype(index.dtype)
        return share / jnp.sum(share, axis=0, keepdims=True)
    first = largest & (jnp.cumsum(largest, axis=0) == 1)
    return first.astype(index.dtype)


def first_largest(values: Any) -> Any:
    """The arm of the largest entry, of equal ones the first."""
    largest = values == jnp.max(values, axis=0, keepdims=True)
    count = values.shape[0]
    numbers = jnp.arange(count, dtype=jnp.int32).reshape(-1, *[1] * (values.ndim - 1))
    return jnp.min(jnp.where(largest, numbers, count - 1), axis=0)


def draw(probabilities: Any, uniform: Any) -> Any:
    """The arm at which the running sum of chances passes `uniform`."""
    probabilities = jnp.asarray(probabilities)
    passed = jnp.zeros(probabilities.shape[1:], jnp.int32)
    last = jnp.zeros(probabilities.shape[1:], jnp.int32)
    total = jnp.zeros(probabilities.shape[1:], probabilities.dtype)
    for k in range(probabilities.shape[0]):
        total = total + probabilities[k]
        passed = passed + (total <= uniform).astype(jnp.int32)
        last = jnp.where(probabilities[k] > 0.0, jnp.int32(k), last)
    return jnp.minimum(passed, last)


def unseen_first(index: Any, pulls: Any) -> Any:
    """The index with infinity where an arm was never pulled."""
    return jnp.where(pulls == 0, jnp.inf, index)


def require_ties(policy: Any, ties: str) -> None:
    """Raises `ValueError` for a rule that there is not."""
    if ties not in ("lowest", "random"):
        raise ValueError(f"ties of {type(policy).__name__} is 'lowest' or 'random', but {ties!r} was given.")
