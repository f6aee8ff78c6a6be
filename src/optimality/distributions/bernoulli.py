"""The Bernoulli distribution: one with a probability, else zero."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import entr, xlog1py, xlogy
from jaxtyping import Array, Float, Int, PRNGKeyArray

from optimality.core.numerics import require_range
from optimality.distributions.abstract import AbstractDistribution, parameter, refuse_kl

Outcomes = Int[Array | np.ndarray | np.generic, "..."] | Float[Array | np.ndarray | np.generic, "..."] | int | float


class Bernoulli(AbstractDistribution):
    """Independent zeros and ones, one an entry of the probability; every result is entry by entry."""

    probability: Float[Array | np.ndarray, "..."] = eqx.field(converter=parameter)
    """Of a one, in [0, 1]."""

    def __check_init__(self):
        require_range(self, 0.0, 1.0, probability=self.probability)

    def sample(self, key: PRNGKeyArray) -> Int[Array, "..."]:
        p = jnp.asarray(self.probability)
        return (jax.random.uniform(key, p.shape, p.dtype) < p).astype(jnp.int32)

    def log_prob(self, value: Outcomes) -> Float[Array, "..."]:
        """`-inf` for values other than 0 and 1."""
        p = jnp.asarray(self.probability)
        value = jnp.asarray(value, p.dtype)
        inside = (value == 0.0) | (value == 1.0)
        x = jnp.where(inside, value, 0.0)
        return jnp.where(inside, xlogy(x, p) + xlog1py(1.0 - x, -p), -jnp.inf)

    def sample_and_log_prob(self, key: PRNGKeyArray) -> tuple[Int[Array, "..."], Float[Array, "..."]]:
        value = self.sample(key)
        return value, self.log_prob(value)

    def entropy(self) -> Float[Array, "..."]:
        p = jnp.asarray(self.probability)
        return entr(p) + entr(1.0 - p)

    def mean(self) -> Float[Array, "..."]:
        return jnp.asarray(self.probability)

    def mode(self) -> Int[Array, "..."]:
        """The likelier outcome, zero at one half."""
        return (jnp.asarray(self.probability) > 0.5).astype(jnp.int32)

    def variance(self) -> Float[Array, "..."]:
        p = jnp.asarray(self.probability)
        return p * (1.0 - p)

    def kl(self, other: AbstractDistribution) -> Float[Array, "..."]:
        """`p log(p / q) + (1 - p) log((1 - p) / (1 - q))`; `inf` where `other` excludes what this one does not."""
        if not isinstance(other, Bernoulli):
            refuse_kl(self, other)
        p, q = jnp.asarray(self.probability), jnp.asarray(other.probability)
        return _relative(p, q) + _relative(1.0 - p, 1.0 - q)


def _relative(p, q):
    both = (p > 0.0) & (q > 0.0)
    log_ratio = jnp.log(jnp.where(both, p, 1.0)) - jnp.log(jnp.where(both, q, 1.0))
    return jnp.where(p > 0.0, jnp.where(q > 0.0, p * log_ratio, jnp.inf), 0.0)
