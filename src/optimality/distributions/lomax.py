"""The Lomax distribution of a positive number, a power law that starts at zero.

    p(x) = (shape / scale) (1 + x / scale)^-(shape + 1)

An exponential number whose rate is itself gamma, of that shape and with `scale` as its rate (Lomax 1954). The shape
need not be whole. The mean exists for shapes above 1, the variance above 2; `E 1/x` never, since the density is
positive at zero.
"""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from optimality.core.numerics import Real, require_range
from optimality.distributions.abstract import (
    AbstractDistribution,
    parameter,
    refuse_kl,
    require_equal_shapes,
    require_probability,
)
from optimality.distributions.beta_prime import BetaPrime

Numbers = Float[Array | np.ndarray, "..."] | Real


class Lomax(AbstractDistribution):
    """Independent positive numbers, one an entry of the parameters; every result is entry by entry."""

    shape: Float[Array | np.ndarray, "..."] = eqx.field(converter=parameter)
    """Of the tail: moments below it are finite."""
    scale: Float[Array | np.ndarray, "..."] = eqx.field(converter=parameter)

    def __check_init__(self):
        require_equal_shapes(self, shape=self.shape, scale=self.scale)
        require_range(self, 0.0, above=True, shape=self.shape, scale=self.scale)

    def _parameters(self) -> tuple[Float[Array, "..."], Float[Array, "..."]]:
        return jnp.asarray(self.shape), jnp.asarray(self.scale)

    def sample(self, key: PRNGKeyArray) -> Float[Array, "..."]:
        """`scale (exp(noise / shape) - 1)` of exponential noise, differentiable in both parameters."""
        shape, scale = self._parameters()
        return scale * jnp.expm1(jax.random.exponential(key, shape.shape, shape.dtype) / shape)

    def log_prob(self, value: Numbers) -> Float[Array, "..."]:
        """`-inf` below zero."""
        shape, scale = self._parameters()
        value = jnp.asarray(value, shape.dtype)
        inside = value >= 0.0
        log_p = jnp.log(shape) - jnp.log(scale) - (shape + 1.0) * jnp.log1p(jnp.where(inside, value, 0.0) / scale)
        return jnp.where(inside, log_p, -jnp.inf)

    def sample_and_log_prob(self, key: PRNGKeyArray) -> tuple[Float[Array, "..."], Float[Array, "..."]]:
        value = self.sample(key)
        return value, self.log_prob(value)

    def cdf(self, value: Numbers) -> Float[Array, "..."]:
        """`P(x <= value) = 1 - (1 + value / scale)^-shape`."""
        return -jnp.expm1(self._log_survival(value))

    def survival(self, value: Numbers) -> Float[Array, "..."]:
        """`P(x > value)`, without the cancellation of `1 - cdf`."""
        return jnp.exp(self._log_survival(value))

    def _log_survival(self, value: Numbers) -> Float[Array, "..."]:
        shape, scale = self._parameters()
        return -shape * jnp.log1p(jnp.maximum(jnp.asarray(value, shape.dtype), 0.0) / scale)

    def quantile(self, probability: Numbers) -> Float[Array, "..."]:
        """The value that `cdf` maps to `probability`."""
        require_probability(probability)
        shape, scale = self._parameters()
        return scale * jnp.expm1(-jnp.log1p(-jnp.asarray(probability, shape.dtype)) / shape)

    def entropy(self) -> Float[Array, "..."]:
        """`log(scale / shape) + 1 + 1 / shape`."""
        shape, scale = self._parameters()
        return jnp.log(scale) - jnp.log(shape) + 1.0 + 1.0 / shape

    def mean(self) -> Float[Array, "..."]:
        """`scale / (shape - 1)`, infinite unless the shape is above 1."""
        shape, scale = self._parameters()
        exists = shape > 1.0
        return jnp.where(exists, scale / jnp.where(exists, shape - 1.0, 1.0), jnp.inf)

    def mode(self) -> Float[Array, "..."]:
        return jnp.zeros_like(jnp.asarray(self.scale))

    def variance(self) -> Float[Array, "..."]:
        """Infinite unless the shape is above 2."""
        shape, scale = self._parameters()
        exists = shape > 2.0
        c = jnp.where(exists, shape, 3.0)
        return jnp.where(exists, scale**2 * c / ((c - 1.0) ** 2 * (c - 2.0)), jnp.inf)

    def mean_excess(self, threshold: Numbers) -> Float[Array, "..."]:
        """`E max(x - threshold, 0)` for any threshold; infinite unless the shape is above 1."""
        shape, scale = self._parameters()
        threshold = jnp.asarray(threshold, shape.dtype)
        exists = shape > 1.0
        c = jnp.where(exists, shape, 2.0)
        over = scale / (c - 1.0) * jnp.exp((1.0 - c) * jnp.log1p(jnp.maximum(threshold, 0.0) / scale))
        return jnp.where(exists, over - jnp.minimum(threshold, 0.0), jnp.inf)

    def kl(self, other: AbstractDistribution) -> Float[Array, "..."]:
        """Of the beta prime laws that both are, with first shape 1: see `BetaPrime.kl`."""
        if not isinstance(other, Lomax):
            refuse_kl(self, other)
        return self.as_beta_prime().kl(other.as_beta_prime())

    def as_beta_prime(self) -> BetaPrime:
        """The same law in the larger family."""
        shape, scale = self._parameters()
        return BetaPrime(jnp.ones_like(shape), shape, scale)
