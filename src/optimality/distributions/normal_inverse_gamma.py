"""The normal-inverse-gamma distribution of a mean and a variance together.

    1 / variance ~ Gamma(shape, rate),       mean given variance ~ N(location, variance / count)

Values are arrays `[2]` of mean and variance (DeGroot 1970, section 9.6).
"""

import math
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from optimality.core.numerics import require_range
from optimality.distributions.abstract import AbstractDistribution, parameter, refuse_kl, require_equal_shapes
from optimality.distributions.gamma import Gamma
from optimality.distributions.student_t import StudentT


class NormalInverseGamma(AbstractDistribution):
    """A mean and a variance, `[2]`; parameters are numbers."""

    location: Float[Array | np.ndarray, ""] = eqx.field(converter=parameter)
    count: Float[Array | np.ndarray, ""] = eqx.field(converter=parameter)
    """How many observations the location is worth."""
    shape: Float[Array | np.ndarray, ""] = eqx.field(converter=parameter)
    rate: Float[Array | np.ndarray, ""] = eqx.field(converter=parameter)

    def __check_init__(self):
        require_equal_shapes(self, location=self.location, count=self.count, shape=self.shape, rate=self.rate)
        require_range(self, 0.0, above=True, count=self.count, shape=self.shape, rate=self.rate)
        require_range(self, -np.inf, location=self.location)

    def _parameters(self) -> tuple[Float[Array, ""], Float[Array, ""]]:
        return jnp.asarray(self.location), jnp.asarray(self.count)

    def precision(self) -> Gamma:
        """The marginal law of one over the variance."""
        return Gamma(self.shape, self.rate)

    def marginal_mean(self) -> StudentT:
        """The marginal law of the mean."""
        location, count = self._parameters()
        shape, rate = jnp.asarray(self.shape), jnp.asarray(self.rate)
        return StudentT(2.0 * shape, location, jnp.sqrt(rate / (shape * count)))

    def sample(self, key: PRNGKeyArray) -> Float[Array, "2"]:
        key_variance, key_mean = jax.random.split(key)
        location, count = self._parameters()
        variance = 1.0 / self.precision().sample(key_variance)
        mean = location + jnp.sqrt(variance / count) * jax.random.normal(key_mean, location.shape, location.dtype)
        return jnp.stack([mean, variance], axis=-1)

    def log_prob(self, value: Any) -> Float[Array, ""]:
        """Of `[mean, variance]`; `-inf` for a variance that is not above zero."""
        location, count = self._parameters()
        mean, variance = jnp.moveaxis(jnp.asarray(value, location.dtype), -1, 0)
        inside = variance > 0.0
        variance = jnp.where(inside, variance, 1.0)
        normal = 0.5 * jnp.log(count / (2.0 * math.pi * variance)) - 0.5 * count * (mean - location) ** 2 / variance
        # The density of the variance is that of the precision times the derivative 1 / variance^2.
        log_p = normal + self.precision().log_prob(1.0 / variance) - 2.0 * jnp.log(variance)
        return jnp.where(inside, log_p, -jnp.inf)

    def sample_and_log_prob(self, key: PRNGKeyArray) -> tuple[Float[Array, "2"], Float[Array, ""]]:
        value = self.sample(key)
        return value, self.log_prob(value)

    def entropy(self) -> Float[Array, ""]:
        _, count = self._parameters()
        mean_log_variance = -self.precision().mean_log()
        variance = self.precision().entropy() + 2.0 * mean_log_variance
        return variance + 0.5 * (math.log(2.0 * math.pi) + 1.0 + mean_log_variance - jnp.log(count))

    def mean(self) -> Float[Array, "2"]:
        """Of each: the location (the mean only for shapes above one half) and `rate / (shape - 1)`, else infinite."""
        location, _ = self._parameters()
        shape, rate = jnp.asarray(self.shape), jnp.asarray(self.rate)
        exists = shape > 1.0
        variance = jnp.where(exists, rate / jnp.where(exists, shape - 1.0, 1.0), jnp.inf)
        return jnp.stack([location, variance], axis=-1)

    def mode(self) -> Float[Array, "2"]:
        location, _ = self._parameters()
        shape, rate = jnp.asarray(self.shape), jnp.asarray(self.rate)
        return jnp.stack([location, rate / (shape + 1.5)], axis=-1)

    def variance(self) -> Float[Array, "2"]:
        """Of each, infinite where it does not exist."""
        shape, rate = jnp.asarray(self.shape), jnp.asarray(self.rate)
        exists = shape > 2.0
        c = jnp.where(exists, shape, 3.0)
        of_variance = jnp.where(exists, rate**2 / ((c - 1.0) ** 2 * (c - 2.0)), jnp.inf)
        return jnp.stack([self.marginal_mean().variance(), of_variance], axis=-1)

    def quantile(self, probability: Any) -> Float[Array, "2"]:
        """Of each by itself."""
        probability = jnp.asarray(probability, self._parameters()[0].dtype)
        of_variance = 1.0 / self.precision().quantile(1.0 - probability)
        return jnp.stack([self.marginal_mean().quantile(probability), of_variance], axis=-1)

    def kl(self, other: AbstractDistribution) -> Float[Array, ""]:
        if not isinstance(other, NormalInverseGamma):
            refuse_kl(self, other)
        (location, count), (other_location, other_count) = self._parameters(), other._parameters()
        log_ratio = jnp.log(other_count) - jnp.log(count)
        distance = other_count * (location - other_location) ** 2 * self.precision().mean()
        normal = 0.5 * (jnp.expm1(log_ratio) - log_ratio + distance)
        return self.precision().kl(other.precision()) + normal
