"""The normal distribution of a number.

log p(x) = -((x - location) / scale)^2 / 2 - log scale - log(2 pi) / 2
"""

import math

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from optimality.core.numerics import Real, is_traced
from optimality.distributions.abstract import AbstractDistribution, parameter, refuse_kl

Numbers = Float[Array | np.ndarray, "..."] | Real


class Normal(AbstractDistribution):
    """Independent normal numbers, one an entry of the parameters; every result is entry by entry.

    A sum over entries gives the joint log probability, entropy or divergence.
    """

    location: Float[Array | np.ndarray, "..."] = eqx.field(converter=parameter)
    scale: Float[Array | np.ndarray, "..."] = eqx.field(converter=parameter)
    """Standard deviation, positive, of the shape of the location."""

    def __check_init__(self):
        if np.shape(self.location) != np.shape(self.scale):
            raise ValueError(
                f"location and scale must have the same shape, but {np.shape(self.location)} and "
                f"{np.shape(self.scale)} were given: broadcast one to the other."
            )
        if is_traced((self.location, self.scale)):
            return
        location, scale = np.asarray(self.location), np.asarray(self.scale)
        if not np.all(np.isfinite(location)):
            raise ValueError(f"location must be finite, but {location} was given: look for NaN or overflow.")
        if not np.all(np.isfinite(scale) & (scale > 0.0)):
            raise ValueError(
                f"scale must be positive and finite, but {scale} was given: pass standard deviations, "
                f"for example exp or softplus of a free parameter."
            )

    def _parameters(self) -> tuple[Float[Array, "..."], Float[Array, "..."]]:
        return jnp.asarray(self.location), jnp.asarray(self.scale)

    def sample(self, key: PRNGKeyArray) -> Float[Array, "..."]:
        """`location + scale * noise`, differentiable in both."""
        location, scale = self._parameters()
        return location + scale * jax.random.normal(key, location.shape, location.dtype)

    def log_prob(self, value: Numbers) -> Float[Array, "..."]:
        location, scale = self._parameters()
        z = (jnp.asarray(value, location.dtype) - location) / scale
        return -0.5 * z * z - jnp.log(scale) - 0.5 * math.log(2 * math.pi)

    def sample_and_log_prob(self, key: PRNGKeyArray) -> tuple[Float[Array, "..."], Float[Array, "..."]]:
        value = self.sample(key)
        return value, self.log_prob(value)

    def entropy(self) -> Float[Array, "..."]:
        """`log scale + (1 + log(2 pi)) / 2`."""
        _, scale = self._parameters()
        return jnp.log(scale) + 0.5 * (1.0 + math.log(2 * math.pi))

    def mean(self) -> Float[Array, "..."]:
        return jnp.asarray(self.location)

    def mode(self) -> Float[Array, "..."]:
        return jnp.asarray(self.location)

    def variance(self) -> Float[Array, "..."]:
        return jnp.asarray(self.scale) ** 2

    def kl(self, other: AbstractDistribution) -> Float[Array, "..."]:
        """`(r^2 - 1) / 2 - log r + (location - other's)^2 / (2 other scale^2)`, r the ratio of the scales."""
        if not isinstance(other, Normal):
            refuse_kl(self, other)
        location, scale = self._parameters()
        other_location, other_scale = other._parameters()
        log_ratio = jnp.log(scale) - jnp.log(other_scale)
        distance = (location - other_location) / other_scale
        return 0.5 * jnp.expm1(2.0 * log_ratio) - log_ratio + 0.5 * distance * distance
