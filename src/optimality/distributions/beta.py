"""The beta distribution of a probability.

log p(x) = (a - 1) log x + (b - 1) log(1 - x) - log B(a, b)
"""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import betainc, digamma, xlog1py, xlogy
from jaxtyping import Array, Float, PRNGKeyArray

from optimality.core.gamma_functions import log_beta
from optimality.core.numerics import Real, require_range
from optimality.distributions.abstract import (
    AbstractDistribution,
    parameter,
    refuse_kl,
    require_equal_shapes,
    require_probability,
)
from optimality.distributions.quantiles import beta_logit_quantile

Numbers = Float[Array | np.ndarray, "..."] | Real


class Beta(AbstractDistribution):
    """Independent numbers in [0, 1], one an entry of the parameters; every result is entry by entry."""

    a: Float[Array | np.ndarray, "..."] = eqx.field(converter=parameter)
    b: Float[Array | np.ndarray, "..."] = eqx.field(converter=parameter)

    def __check_init__(self):
        require_equal_shapes(self, a=self.a, b=self.b)
        require_range(self, 0.0, above=True, a=self.a, b=self.b)

    def _parameters(self) -> tuple[Float[Array, "..."], Float[Array, "..."]]:
        return jnp.asarray(self.a), jnp.asarray(self.b)

    def sample(self, key: PRNGKeyArray) -> Float[Array, "..."]:
        """By two gamma variables, in logarithms so that small parameters do not underflow to 0 / 0."""
        a, b = self._parameters()
        key_a, key_b = jax.random.split(key)
        log_x = jax.random.loggamma(key_a, a, a.shape, a.dtype)
        return jax.nn.sigmoid(log_x - jax.random.loggamma(key_b, b, b.shape, b.dtype))

    def log_prob(self, value: Numbers) -> Float[Array, "..."]:
        """`-inf` outside [0, 1]."""
        a, b = self._parameters()
        value = jnp.asarray(value, a.dtype)
        inside = (value >= 0.0) & (value <= 1.0)
        x = jnp.where(inside, value, 0.5)
        return jnp.where(inside, xlogy(a - 1.0, x) + xlog1py(b - 1.0, -x) - log_beta(a, b), -jnp.inf)

    def sample_and_log_prob(self, key: PRNGKeyArray) -> tuple[Float[Array, "..."], Float[Array, "..."]]:
        value = self.sample(key)
        return value, self.log_prob(value)

    def cdf(self, value: Numbers) -> Float[Array, "..."]:
        """`P(x <= value)`."""
        a, b = self._parameters()
        return betainc(a, b, jnp.clip(jnp.asarray(value, a.dtype), 0.0, 1.0))

    def quantile(self, probability: Numbers) -> Float[Array, "..."]:
        """The value that `cdf` maps to `probability`; its derivative by the probability exists, those by a and b do
        not."""
        require_probability(probability)
        a, b = self._parameters()
        return jax.nn.sigmoid(beta_logit_quantile(a, b, jnp.asarray(probability, a.dtype)))

    def entropy(self) -> Float[Array, "..."]:
        a, b = self._parameters()
        total = a + b
        digammas = (a - 1.0) * digamma(a) + (b - 1.0) * digamma(b) - (total - 2.0) * digamma(total)
        return log_beta(a, b) - digammas

    def mean(self) -> Float[Array, "..."]:
        a, b = self._parameters()
        return a / (a + b)

    def mode(self) -> Float[Array, "..."]:
        """Where the density is highest or has a pole, of two poles the steeper one; one half where it is flat."""
        a, b = self._parameters()
        above_a, above_b = jnp.maximum(a - 1.0, 0.0), jnp.maximum(b - 1.0, 0.0)
        total = above_a + above_b
        poles = jnp.where(a < b, 0.0, jnp.where(a > b, 1.0, 0.5))
        return jnp.where(total > 0.0, above_a / jnp.where(total > 0.0, total, 1.0), poles)

    def variance(self) -> Float[Array, "..."]:
        a, b = self._parameters()
        total = a + b
        return (a / total) * (b / total) / (total + 1.0)

    def kl(self, other: AbstractDistribution) -> Float[Array, "..."]:
        if not isinstance(other, Beta):
            refuse_kl(self, other)
        (a, b), (c, d) = self._parameters(), other._parameters()
        digammas = (a - c) * digamma(a) + (b - d) * digamma(b) - (a + b - c - d) * digamma(a + b)
        return log_beta(c, d) - log_beta(a, b) + digammas
