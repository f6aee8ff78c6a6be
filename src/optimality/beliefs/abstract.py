"""What every belief offers: a law of an unknown parameter that data update within its family.

    p(parameter | data) proportional to p(parameter) prod_i p(x_i | parameter)^weight_i

A belief is a frozen module of few numbers. Many beliefs (the arms of a bandit, the rows of a table) are one object
whose leaves have a leading axis, made and used under `jax.vmap`. A weight says how many times an observation counts:
0 leaves the belief as it was, 0.5 counts half. Logarithms are natural, information is in nats.
"""

import abc
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from optimality.core.numerics import is_traced
from optimality.distributions import AbstractDistribution

Number = Float[Array | np.ndarray | np.generic, "..."] | float | int


class AbstractBelief(eqx.Module):
    """A conjugate law of a parameter."""

    @abc.abstractmethod
    def law(self) -> AbstractDistribution:
        """The law of the parameter."""

    @abc.abstractmethod
    def update(self, data: Any, weight: Number = 1.0) -> "AbstractBelief":
        """The belief after one observation that counts `weight` times."""

    @abc.abstractmethod
    def update_batch(self, data: Any, weight: Number | None = None) -> "AbstractBelief":
        """The belief after observations along the leading axis of `data`; `weight` is one number for each, or one."""

    @abc.abstractmethod
    def log_evidence(self, data: Any) -> Float[Array, ""]:
        """`log p(data)` of observations along the leading axis, the parameter integrated out."""

    @abc.abstractmethod
    def quantile(self, probability: Number) -> Float[Array, "..."]:
        """Of the parameter; of one with several entries each by itself."""

    def sample(self, key: PRNGKeyArray) -> Array:
        """One draw of the parameter."""
        return self.law().sample(key)

    def log_prob(self, parameter: Any) -> Array:
        """The logarithm of the density of a parameter."""
        return self.law().log_prob(parameter)

    def mean(self) -> Array:
        """Of the parameter; `inf` where it does not exist."""
        return self.law().mean()

    def variance(self) -> Array:
        """Of the parameter; `inf` where it does not exist."""
        return self.law().variance()

    def entropy(self) -> Array:
        """Of the law of the parameter, relative to the Lebesgue measure."""
        return self.law().entropy()

    def kl(self, other: "AbstractBelief") -> Array:
        """`KL(self || other)` of the two laws of the parameter; `TypeError` for another family."""
        return self.law().kl(other.law())

    def realized_information(self, data: Any, weight: Number = 1.0) -> Array:
        """`KL(posterior || prior)` of one observation: what it taught. Never negative; its expectation is the mutual
        information."""
        return self.update(data, weight).kl(self)

    def realized_entropy_drop(self, data: Any, weight: Number = 1.0) -> Array:
        """`H(prior) - H(posterior)` of one observation. It has the same expectation as `realized_information`, but a
        surprise may make it negative."""
        return self.entropy() - self.update(data, weight).entropy()


class AbstractPredictiveBelief(AbstractBelief):
    """A belief whose observations all have one law given the parameter, so that the next one has a law by itself."""

    @abc.abstractmethod
    def likelihood(self, parameter: Any) -> AbstractDistribution:
        """The law of an observation where the parameter is known."""

    @abc.abstractmethod
    def predictive(self) -> AbstractDistribution:
        """The law of the next observation, the parameter integrated out."""

    @abc.abstractmethod
    def mutual_information(self) -> Float[Array, "..."]:
        """Of the next observation and the parameter: the expected information gain of looking once."""

    @abc.abstractmethod
    def outcome_mean_quantile(self, probability: Number) -> Float[Array, "..."]:
        """Quantile of what the mean of an observation is under the unknown parameter (an arm's value)."""


def like(value: Any, parameter: Any) -> Float[Array, "..."]:
    """Data, whole numbers and booleans too, in the precision of a parameter."""
    return jnp.asarray(value, jnp.asarray(parameter).dtype)


def batch_weights(weight: Number | None, count: int, parameter: Any) -> Float[Array, " n"]:
    """One weight an observation; `ValueError` for a shape that does not fit, or a concrete weight below zero."""
    weight = 1.0 if weight is None else weight
    if np.shape(weight) not in ((), (count,)):
        raise ValueError(f"weight must be one number or have shape ({count},), but {np.shape(weight)} was given.")
    require_weight(weight)
    return jnp.broadcast_to(like(weight, parameter), (count,))


def require_weight(weight: Any) -> None:
    """Raises `ValueError` for a concrete weight that is negative or not finite."""
    if not is_traced(weight) and not np.all(np.isfinite(weight) & (np.asarray(weight) >= 0.0)):
        raise ValueError(f"weight must be at least 0 and finite, but {weight} was given.")


def observations(data: Any, rank: int = 1) -> Any:
    """A batch with its leading axis; `ValueError` for one that has none."""
    if np.ndim(data) < rank:
        raise ValueError(
            f"a batch has its observations along the leading axis, but shape {np.shape(data)} was given: use update "
            f"for a single one."
        )
    return data if isinstance(data, jax.Array) else np.asarray(data)


def require_data(what: str, fits: Any, data: Any) -> None:
    """Raises `ValueError` where concrete `data` lie outside the support; `fits` maps them to booleans."""
    if is_traced(data):
        return
    inside = np.asarray(fits(np.asarray(data)))
    if not np.all(inside):
        values = np.asarray(data)
        first = values if values.ndim == 0 else values[tuple(np.argwhere(~inside)[0])]
        raise ValueError(f"{what}, but {first} was given.")
