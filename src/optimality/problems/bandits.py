"""Arms of a bandit: each pays a reward of its own law, and nothing else ever changes.

    regret after T pulls = sum_a (mu* - mu_a) N_a(T),     mu* = max_a mu_a

recomputed from the numbers of pulls N_a, never summed up. Rewards come from one standard variable a round through
each arm's inverse law, so that all methods that are compared can be given the same luck. A policy that is good on
every problem of a family pays at least `lai_robbins(arms) log T` (Lai and Robbins 1985).
"""

import abc
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, PRNGKeyArray

from optimality.core.numerics import require_range

_Numbers = Float[Array | np.ndarray, "arms *runs"]


def _floats(value: Any) -> Any:
    return value if isinstance(value, jax.Array) else np.asarray(value, np.float64)


class AbstractArms(eqx.Module):
    """Arms `[arms]`, or `[arms, runs]` where every run has arms of its own."""

    @property
    @abc.abstractmethod
    def means(self) -> _Numbers:
        """Of the arms' rewards."""

    @abc.abstractmethod
    def draw(self, key: PRNGKeyArray, shape: tuple[int, ...]) -> Float[Array, "..."]:
        """Standard variables, float32, from which `reward` makes rewards."""

    @abc.abstractmethod
    def reward(self, mean: Any, luck: Any) -> Any:
        """Of an arm with this mean; a whole number where rewards are 0 or 1. NumPy or JAX, as the arguments are."""

    @abc.abstractmethod
    def divergence(self, mean: Any, other: Any) -> np.ndarray:
        """`KL` of the reward laws with these means."""

    @property
    def size(self) -> int:
        return self.means.shape[0]

    @property
    def gaps(self) -> np.ndarray:
        """`mu* - mu_a`, float64."""
        means = np.asarray(self.means, np.float64)
        return means.max(axis=0) - means

    def _require_shape(self) -> None:
        if self.means.ndim not in (1, 2) or self.means.shape[0] < 2:
            raise ValueError(
                f"a bandit has at least two arms, along the first axis, but shape {self.means.shape} was given."
            )


class BernoulliArms(AbstractArms):
    """Rewards 0 and 1."""

    probabilities: _Numbers = eqx.field(converter=_floats)

    def __check_init__(self):
        self._require_shape()
        require_range(self, 0.0, 1.0, probabilities=self.probabilities)

    @property
    def means(self) -> _Numbers:
        return self.probabilities

    def draw(self, key: PRNGKeyArray, shape: tuple[int, ...]) -> Float[Array, "..."]:
        return jax.random.uniform(key, shape, jnp.float32)

    def reward(self, mean: Any, luck: Any) -> Any:
        return (luck < mean).astype("int32")

    def divergence(self, mean: Any, other: Any) -> np.ndarray:
        return bernoulli_kl(mean, other)


class GaussianArms(AbstractArms):
    """Normal rewards of one known standard deviation."""

    locations: _Numbers = eqx.field(converter=_floats)
    scale: Any = eqx.field(converter=_floats, default=1.0)
    """Standard deviation of a reward, of every arm the same."""

    def __check_init__(self):
        self._require_shape()
        require_range(self, -np.inf, locations=self.locations)
        require_range(self, 0.0, above=True, scale=self.scale)
        if np.ndim(self.scale) != 0:
            raise ValueError(f"scale of GaussianArms is one number, but shape {np.shape(self.scale)} was given.")

    @property
    def means(self) -> _Numbers:
        return self.locations

    def draw(self, key: PRNGKeyArray, shape: tuple[int, ...]) -> Float[Array, "..."]:
        return jax.random.normal(key, shape, jnp.float32)

    def reward(self, mean: Any, luck: Any) -> Any:
        return mean + self.scale.astype(luck.dtype) * luck

    def divergence(self, mean: Any, other: Any) -> np.ndarray:
        return 0.5 * ((np.asarray(mean, np.float64) - np.asarray(other)) / np.asarray(self.scale)) ** 2


class ExponentialArms(AbstractArms):
    """Exponential rewards."""

    expectations: _Numbers = eqx.field(converter=_floats)

    def __check_init__(self):
        self._require_shape()
        require_range(self, 0.0, above=True, expectations=self.expectations)

    @property
    def means(self) -> _Numbers:
        return self.expectations

    def draw(self, key: PRNGKeyArray, shape: tuple[int, ...]) -> Float[Array, "..."]:
        return jax.random.exponential(key, shape, jnp.float32)

    def reward(self, mean: Any, luck: Any) -> Any:
        return mean * luck

    def divergence(self, mean: Any, other: Any) -> np.ndarray:
        ratio = np.asarray(mean, np.float64) / np.asarray(other, np.float64)
        return ratio - 1.0 - np.log(ratio)


def regret(arms: AbstractArms, pulls: Int[np.ndarray, "..."]) -> np.ndarray:
    """`sum_a (mu* - mu_a) N_a` in float64, of pulls `[arms]` or `[..., arms, runs]`."""
    gaps, pulls = arms.gaps, np.asarray(pulls)
    axis = -1 if pulls.ndim == 1 else -2
    if pulls.shape[axis] != arms.size:
        raise ValueError(f"pulls has {pulls.shape[axis]} arms along axis {axis}, but the problem has {arms.size} arms.")
    if gaps.ndim == 1 and pulls.ndim >= 2:
        gaps = gaps[:, None]
    return np.sum(pulls * gaps, axis=axis)


def lai_robbins(arms: AbstractArms) -> float | np.ndarray:
    """`sum_{a: mu_a < mu*} (mu* - mu_a) / KL(a || best)`: least regret per log T of a uniformly good policy.

    One number, or one a run. Where an arm rules itself out after finitely many pulls (infinite divergence) it costs
    nothing here.
    """
    means, gaps = np.asarray(arms.means, np.float64), arms.gaps
    best = np.broadcast_to(means.max(axis=0), means.shape)
    worse = gaps > 0.0
    with np.errstate(divide="ignore", invalid="ignore"):
        cost = np.where(worse, gaps / arms.divergence(means, best), 0.0)
    total = cost.sum(axis=0)
    return float(total) if total.ndim == 0 else total


def bernoulli_kl(p: Any, q: Any) -> np.ndarray:
    """`KL(Bernoulli(p) || Bernoulli(q))`, infinite where q rules out what p allows."""
    p, q = np.asarray(p, np.float64), np.asarray(q, np.float64)
    with np.errstate(divide="ignore", invalid="ignore"):
        ones = np.where(p > 0.0, p * np.log(np.where(p > 0.0, p, 1.0) / q), 0.0)
        zeros = np.where(p < 1.0, (1.0 - p) * (np.log1p(-np.where(p < 1.0, p, 0.0)) - np.log1p(-q)), 0.0)
    return ones + zeros
