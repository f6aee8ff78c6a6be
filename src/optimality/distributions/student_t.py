"""Student's distribution, by degrees of freedom, location and scale.

    p(x) proportional to (1 + ((x - location) / scale)^2 / degrees)^-((degrees + 1) / 2)

A normal number whose variance is itself unknown. The mean exists for more than one degree of freedom, the variance for
more than two.
"""

import math

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import betainc, digamma, gammaln
from jaxtyping import Array, Bool, Float, PRNGKeyArray

from optimality.core.gamma_functions import log_beta
from optimality.core.numerics import Real, require_range
from optimality.distributions.abstract import (
    AbstractDistribution,
    parameter,
    refuse_kl,
    require_equal_shapes,
    require_probability,
)
from optimality.distributions.logit_quadrature import logit_rule
from optimality.distributions.quantiles import beta_logit_quantile

Numbers = Float[Array | np.ndarray, "..."] | Real


class StudentT(AbstractDistribution):
    """Independent numbers, one an entry of the parameters; every result is entry by entry."""

    degrees: Float[Array | np.ndarray, "..."] = eqx.field(converter=parameter)
    location: Float[Array | np.ndarray, "..."] = eqx.field(converter=parameter)
    scale: Float[Array | np.ndarray, "..."] = eqx.field(converter=parameter)
    """Positive; the standard deviation only in the limit of many degrees."""

    def __check_init__(self):
        require_equal_shapes(self, degrees=self.degrees, location=self.location, scale=self.scale)
        require_range(self, 0.0, above=True, degrees=self.degrees, scale=self.scale)
        require_range(self, -np.inf, location=self.location)

    def _parameters(self) -> tuple[Float[Array, "..."], Float[Array, "..."], Float[Array, "..."]]:
        return jnp.asarray(self.degrees), jnp.asarray(self.location), jnp.asarray(self.scale)

    def sample(self, key: PRNGKeyArray) -> Float[Array, "..."]:
        degrees, location, scale = self._parameters()
        return location + scale * jax.random.t(key, degrees, degrees.shape, degrees.dtype)

    def log_prob(self, value: Numbers) -> Float[Array, "..."]:
        degrees, location, scale = self._parameters()
        z = (jnp.asarray(value, location.dtype) - location) / scale
        normalizer = jnp.log(scale) + 0.5 * jnp.log(degrees) + log_beta(0.5 * degrees, jnp.full_like(degrees, 0.5))
        return -0.5 * (degrees + 1.0) * jnp.log1p(z * z / degrees) - normalizer

    def sample_and_log_prob(self, key: PRNGKeyArray) -> tuple[Float[Array, "..."], Float[Array, "..."]]:
        value = self.sample(key)
        return value, self.log_prob(value)

    def cdf(self, value: Numbers) -> Float[Array, "..."]:
        """`P(x <= value)`, with its digits in the lower tail."""
        degrees, location, scale = self._parameters()
        z = (jnp.asarray(value, location.dtype) - location) / scale
        half = jnp.full_like(degrees, 0.5)
        outside = 0.5 * betainc(0.5 * degrees, half, degrees / (degrees + z * z))
        return jnp.where(z < 0.0, outside, 1.0 - outside)

    def quantile(self, probability: Numbers) -> Float[Array, "..."]:
        """The value that `cdf` maps to `probability`; its derivative by the degrees does not exist."""
        require_probability(probability)
        degrees, location, scale = self._parameters()
        p = jnp.asarray(probability, location.dtype)
        # z^2 / degrees is beta prime: its logarithm from the two tails together, the sign from the side.
        log_ratio = -beta_logit_quantile(0.5 * degrees, jnp.full_like(degrees, 0.5), 2.0 * jnp.minimum(p, 1.0 - p))
        distance = jnp.where(p == 0.5, 0.0, jnp.sqrt(degrees) * jnp.exp(0.5 * log_ratio))
        return location + scale * jnp.where(p < 0.5, -distance, distance)

    def entropy(self) -> Float[Array, "..."]:
        degrees, _, scale = self._parameters()
        half = 0.5 * degrees
        digammas = (half + 0.5) * (digamma(half + 0.5) - digamma(half))
        return digammas + 0.5 * jnp.log(degrees) + log_beta(half, jnp.full_like(half, 0.5)) + jnp.log(scale)

    def mean_exists(self) -> Bool[Array, "..."]:
        """Whether there are more than one degree of freedom."""
        return jnp.asarray(self.degrees) > 1.0

    def mean(self) -> Float[Array, "..."]:
        """The location. It is the mean only where `mean_exists()`; with one degree or less only the median."""
        return jnp.asarray(self.location)

    def mode(self) -> Float[Array, "..."]:
        return jnp.asarray(self.location)

    def variance(self) -> Float[Array, "..."]:
        """`scale^2 degrees / (degrees - 2)`, infinite unless there are more than two degrees."""
        degrees, _, scale = self._parameters()
        exists = degrees > 2.0
        return jnp.where(exists, scale**2 * degrees / jnp.where(exists, degrees - 2.0, 1.0), jnp.inf)

    def kl(self, other: AbstractDistribution) -> Float[Array, "..."]:
        """By quadrature of `log other`, to about 1e-11."""
        if not isinstance(other, StudentT):
            refuse_kl(self, other)
        return _kl(*self._parameters(), *other._parameters())


def _kl(degrees, location, scale, other_degrees, other_location, other_scale):
    if jnp.ndim(degrees) > 0:
        return jax.vmap(_kl)(degrees, location, scale, other_degrees, other_location, other_scale)
    half = jnp.full_like(degrees, 0.5)
    log_square, weights = logit_rule(half, 0.5 * degrees)  # of ((x - location) / scale)^2 / degrees
    distance = scale * jnp.sqrt(degrees) * jnp.exp(0.5 * log_square)
    gain = 0.0
    for side in (-1.0, 1.0):
        x = location + side * distance
        ours = (x - location) / scale
        theirs = (x - other_location) / other_scale
        kernel = 0.5 * (other_degrees + 1.0) * jnp.log1p(theirs**2 / other_degrees)
        gain += 0.5 * jnp.sum(weights * (kernel - 0.5 * (degrees + 1.0) * jnp.log1p(ours**2 / degrees)))
    return gain + _log_normalizer(other_degrees, other_scale) - _log_normalizer(degrees, scale)


def _log_normalizer(degrees, scale):
    gammas = gammaln(0.5 * degrees) - gammaln(0.5 * degrees + 0.5)
    return jnp.log(scale) + 0.5 * jnp.log(degrees) + gammas + 0.5 * math.log(math.pi)
