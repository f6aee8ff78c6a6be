"""The categorical distribution on the indices 0, ..., n - 1.

    p_i = exp(logits_i) / sum_j exp(logits_j)

Logits need no normalization. One that is `-inf` gives its outcome probability zero; derivatives stay finite.
"""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, PRNGKeyArray

from optimality.core.gibbs import gibbs
from optimality.core.information import entropy, kl_divergence
from optimality.core.numerics import is_traced
from optimality.distributions.abstract import AbstractDistribution, parameter, refuse_kl


class Categorical(AbstractDistribution):
    """One of `n` outcomes; values are indices."""

    logits: Float[Array | np.ndarray, "..."] = eqx.field(converter=parameter)
    """Unnormalized log probabilities, `[n]`."""

    def __check_init__(self):
        if np.ndim(self.logits) != 1:
            raise ValueError(
                f"logits must have shape [n], but {np.shape(self.logits)} was given: batches go through jax.vmap."
            )
        if is_traced(self.logits):
            return
        logits = np.asarray(self.logits)
        if np.any(np.isnan(logits)) or np.any(np.isposinf(logits)):
            raise ValueError(f"logits must be finite or -inf, but {logits} were given: an input overflowed.")
        if np.all(np.isneginf(logits)):
            raise ValueError(f"One of the logits must be above -inf, but all {logits.size} are -inf: allow an outcome.")

    @classmethod
    def masked(cls, logits: Any, where: Any) -> "Categorical":
        """Only the outcomes where `where [n]` is true, in their proportions by `logits [n]`."""
        logits = parameter(logits)
        if np.shape(where) != np.shape(logits):
            raise ValueError(
                f"where must have the shape of the logits, {np.shape(logits)}, but {np.shape(where)} was given."
            )
        if not isinstance(logits, jax.Array) and not is_traced(where):
            return cls(np.where(where, logits, np.asarray(-np.inf, logits.dtype)))
        return cls(jnp.where(jnp.asarray(where), logits, -jnp.inf))

    def log_probabilities(self) -> Float[Array, " outcomes"]:
        return gibbs(self.logits)

    def probabilities(self) -> Float[Array, " outcomes"]:
        return jnp.exp(self.log_probabilities())

    def sample(self, key: PRNGKeyArray) -> Int[Array, ""]:
        return jax.random.categorical(key, jnp.asarray(self.logits))

    def log_prob(self, value: Int[Array | np.ndarray | np.generic, "..."] | int) -> Float[Array, "..."]:
        """`log p` at each index; `-inf` where it has no probability, outside 0, ..., n - 1 too."""
        log_p, value = self.log_probabilities(), jnp.asarray(value)
        exists = (value >= 0) & (value < log_p.shape[-1])
        return jnp.where(exists, log_p[jnp.where(exists, value, 0)], -jnp.inf)

    def sample_and_log_prob(self, key: PRNGKeyArray) -> tuple[Int[Array, ""], Float[Array, ""]]:
        value = self.sample(key)
        return value, self.log_prob(value)

    def entropy(self) -> Float[Array, ""]:
        """`-sum p log p`."""
        return entropy(self.log_probabilities())

    def mean(self) -> Float[Array, ""]:
        """Of the index."""
        p = self.probabilities()
        return jnp.sum(p * jnp.arange(p.shape[-1], dtype=p.dtype))

    def mode(self) -> Int[Array, ""]:
        """The likeliest index, of several the lowest."""
        return jnp.argmax(jnp.asarray(self.logits))

    def variance(self) -> Float[Array, ""]:
        """Of the index."""
        p = self.probabilities()
        return jnp.sum(p * (jnp.arange(p.shape[-1], dtype=p.dtype) - self.mean()) ** 2)

    def kl(self, other: AbstractDistribution) -> Float[Array, ""]:
        """`sum p (log p - log q)`; `inf` where `other` lacks an outcome that this one has."""
        if not isinstance(other, Categorical):
            refuse_kl(self, other)
        if np.shape(self.logits) != np.shape(other.logits):
            raise ValueError(
                f"KL needs two distributions on the same outcomes, but {np.shape(self.logits)[-1]} and "
                f"{np.shape(other.logits)[-1]} were given: give impossible outcomes the logit -inf."
            )
        return kl_divergence(self.log_probabilities(), other.log_probabilities())
