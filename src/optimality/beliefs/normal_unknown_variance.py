"""A belief about mean and variance of normal numbers: normal-inverse-gamma.

    1 / variance ~ Gamma(shape, rate),       mean given variance ~ N(location, variance / count)

    after x:  count + 1, shape + 1/2, location + (x - location) / (count + 1),
              rate + count (x - location)^2 / (2 (count + 1))

The next number is Student's with `2 shape` degrees of freedom, `location`, and squared scale
`rate (count + 1) / (shape count)` (Murphy 2007). Its mean exists for shapes above one half, its variance above one.
"""

import math
from typing import Any

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import gammaln
from jaxtyping import Array, Float

from optimality.beliefs.abstract import (
    AbstractPredictiveBelief,
    Number,
    batch_weights,
    like,
    observations,
    require_weight,
)
from optimality.beliefs.normal_known_variance import require_numbers
from optimality.distributions import Normal, NormalInverseGamma, StudentT
from optimality.distributions.abstract import parameter


class NormalUnknownVariance(AbstractPredictiveBelief):
    """Mean and variance of normal numbers; the parameter is `[2]`: the mean, then the variance."""

    location: Float[Array | np.ndarray, "..."] = eqx.field(converter=parameter)
    count: Float[Array | np.ndarray, "..."] = eqx.field(converter=parameter)
    """How many observations the location is worth."""
    shape: Float[Array | np.ndarray, "..."] = eqx.field(converter=parameter)
    """Half as many observations as the variance is worth."""
    rate: Float[Array | np.ndarray, "..."] = eqx.field(converter=parameter)

    def __check_init__(self):
        NormalInverseGamma(self.location, self.count, self.shape, self.rate)

    def _parameters(self) -> tuple[Float[Array, ""], ...]:
        return tuple(jnp.asarray(p) for p in (self.location, self.count, self.shape, self.rate))

    def law(self) -> NormalInverseGamma:
        return NormalInverseGamma(self.location, self.count, self.shape, self.rate)

    def likelihood(self, parameter: Any) -> Normal:
        mean, variance = jnp.moveaxis(like(parameter, self.location), -1, 0)
        return Normal(mean, jnp.sqrt(variance))

    def predictive(self) -> StudentT:
        location, count, shape, rate = self._parameters()
        return StudentT(2.0 * shape, location, jnp.sqrt(rate * (count + 1.0) / (shape * count)))

    def update(self, data: Any, weight: Number = 1.0) -> "NormalUnknownVariance":
        require_numbers(data)
        require_weight(weight)
        x, w = like(data, self.location), like(weight, self.location)
        return self._plus(w, x, jnp.zeros_like(x))

    def update_batch(self, data: Any, weight: Number | None = None) -> "NormalUnknownVariance":
        data = observations(data)
        require_numbers(data)
        location = jnp.asarray(self.location)
        x, w = like(data, location), batch_weights(weight, np.shape(data)[0], location)
        total = jnp.sum(w)
        mean = location + jnp.sum(w * (x - location)) / jnp.where(total > 0.0, total, 1.0)
        return self._plus(total, mean, jnp.sum(w * (x - mean) ** 2))

    def _plus(self, weight, mean, spread) -> "NormalUnknownVariance":
        location, count, shape, rate = self._parameters()
        new_count = count + weight
        distance = mean - location
        return NormalUnknownVariance(
            location + weight / new_count * distance,
            new_count,
            shape + 0.5 * weight,
            rate + 0.5 * (spread + count * weight / new_count * distance**2),
        )

    def log_evidence(self, data: Any) -> Float[Array, ""]:
        posterior = self.update_batch(data)
        n = np.shape(observations(data))[0]
        return _log_normalizer(posterior) - _log_normalizer(self) - 0.5 * n * math.log(2.0 * math.pi)

    def quantile(self, probability: Number) -> Float[Array, "2"]:
        return self.law().quantile(probability)

    def outcome_mean_quantile(self, probability: Number) -> Float[Array, ""]:
        return self.law().marginal_mean().quantile(probability)

    def mutual_information(self) -> Float[Array, ""]:
        """The entropy of the Student law less the mean entropy of the normal ones, whatever location and rate."""
        of_known = 0.5 * (math.log(2.0 * math.pi) + 1.0 - self.law().precision().mean_log())
        return self.predictive().entropy() - of_known


def _log_normalizer(belief: NormalUnknownVariance) -> Float[Array, ""]:
    _, count, shape, rate = belief._parameters()
    return gammaln(shape) - shape * jnp.log(rate) - 0.5 * jnp.log(count)
