"""The gamma distribution of a positive number, by shape and rate.

    log p(x) = shape log rate + (shape - 1) log x - rate x - log Gamma(shape)

Shape one is the exponential distribution.
"""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import digamma, gammainc, gammaln, xlogy
from jaxtyping import Array, Float, PRNGKeyArray

from optimality.core.numerics import Real, require_range
from optimality.distributions.abstract import (
    AbstractDistribution,
    parameter,
    refuse_kl,
    require_equal_shapes,
    require_probability,
)
from optimality.distributions.quantiles import gamma_log_quantile

Numbers = Float[Array | np.ndarray, "..."] | Real


class Gamma(AbstractDistribution):
    """Independent gamma numbers, one an entry of the parameters; every result is entry by entry."""

    shape: Float[Array | np.ndarray, "..."] = eqx.field(converter=parameter)
    rate: Float[Array | np.ndarray, "..."] = eqx.field(converter=parameter)
    """One over the scale, of the shape of `shape`."""

    def __check_init__(self):
        require_equal_shapes(self, shape=self.shape, rate=self.rate)
        require_range(self, 0.0, above=True, shape=self.shape, rate=self.rate)

    def _parameters(self) -> tuple[Float[Array, "..."], Float[Array, "..."]]:
        return jnp.asarray(self.shape), jnp.asarray(self.rate)

    def sample(self, key: PRNGKeyArray) -> Float[Array, "..."]:
        """Differentiable in both parameters."""
        shape, rate = self._parameters()
        return jax.random.gamma(key, shape, shape.shape, shape.dtype) / rate

    def log_prob(self, value: Numbers) -> Float[Array, "..."]:
        """`-inf` below zero."""
        shape, rate = self._parameters()
        value = jnp.asarray(value, shape.dtype)
        inside = value >= 0.0
        x = jnp.where(inside, value, 1.0)
        log_p = xlogy(shape, rate) + xlogy(shape - 1.0, x) - rate * x - gammaln(shape)
        return jnp.where(inside, log_p, -jnp.inf)

    def sample_and_log_prob(self, key: PRNGKeyArray) -> tuple[Float[Array, "..."], Float[Array, "..."]]:
        value = self.sample(key)
        return value, self.log_prob(value)

    def cdf(self, value: Numbers) -> Float[Array, "..."]:
        """`P(x <= value)`."""
        shape, rate = self._parameters()
        return gammainc(shape, rate * jnp.maximum(jnp.asarray(value, shape.dtype), 0.0))

    def quantile(self, probability: Numbers) -> Float[Array, "..."]:
        """The value that `cdf` maps to `probability`."""
        require_probability(probability)
        shape, rate = self._parameters()
        return jnp.exp(gamma_log_quantile(shape, jnp.asarray(probability, shape.dtype))) / rate

    def entropy(self) -> Float[Array, "..."]:
        """`shape - log rate + log Gamma(shape) + (1 - shape) psi(shape)`."""
        shape, rate = self._parameters()
        return shape - jnp.log(rate) + gammaln(shape) + (1.0 - shape) * digamma(shape)

    def mean(self) -> Float[Array, "..."]:
        shape, rate = self._parameters()
        return shape / rate

    def mode(self) -> Float[Array, "..."]:
        """Zero for shapes below one, where the density has its pole."""
        shape, rate = self._parameters()
        return jnp.maximum(shape - 1.0, 0.0) / rate

    def variance(self) -> Float[Array, "..."]:
        shape, rate = self._parameters()
        return shape / rate**2

    def mean_log(self) -> Float[Array, "..."]:
        """`E log x = psi(shape) - log rate`."""
        shape, rate = self._parameters()
        return digamma(shape) - jnp.log(rate)

    def kl(self, other: AbstractDistribution) -> Float[Array, "..."]:
        """`(a - c) psi(a) - log Gamma(a) + log Gamma(c) + c log(rate / other rate) + a (other rate / rate - 1)`."""
        if not isinstance(other, Gamma):
            refuse_kl(self, other)
        (a, rate), (c, other_rate) = self._parameters(), other._parameters()
        log_ratio = jnp.log(other_rate) - jnp.log(rate)
        by_shape = (a - c) * digamma(a) - gammaln(a) + gammaln(c) + (a - c) * log_ratio
        return by_shape + a * (jnp.expm1(log_ratio) - log_ratio)
