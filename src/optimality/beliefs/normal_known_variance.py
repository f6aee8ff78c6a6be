"""A belief about the mean of normal numbers whose variance is known.

    mean ~ N(location, scale^2),      x given mean ~ N(mean, noise_scale^2)

Precisions add; the location moves by the gain `scale^2 / (scale^2 + noise_scale^2)` towards x, so that no large sum is
kept. The next number is `N(location, scale^2 + noise_scale^2)`.
"""

from typing import Any

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import ndtri
from jaxtyping import Array, Float

from optimality.beliefs.abstract import (
    AbstractPredictiveBelief,
    Number,
    batch_weights,
    like,
    observations,
    require_data,
    require_weight,
)
from optimality.core.numerics import require_range
from optimality.distributions import Normal
from optimality.distributions.abstract import parameter, require_equal_shapes, require_probability


class NormalKnownVariance(AbstractPredictiveBelief):
    """The mean of normal numbers of known variance."""

    location: Float[Array | np.ndarray, "..."] = eqx.field(converter=parameter)
    scale: Float[Array | np.ndarray, "..."] = eqx.field(converter=parameter)
    """Standard deviation of the belief."""
    noise_scale: Float[Array | np.ndarray, "..."] = eqx.field(converter=parameter)
    """Standard deviation of an observation, known."""

    def __check_init__(self):
        require_equal_shapes(self, location=self.location, scale=self.scale, noise_scale=self.noise_scale)
        require_range(self, 0.0, above=True, scale=self.scale, noise_scale=self.noise_scale)
        require_range(self, -np.inf, location=self.location)

    def law(self) -> Normal:
        return Normal(self.location, self.scale)

    def likelihood(self, parameter: Any) -> Normal:
        mean = like(parameter, self.location)
        return Normal(mean, jnp.broadcast_to(jnp.asarray(self.noise_scale), mean.shape))

    def predictive(self) -> Normal:
        return Normal(self.location, jnp.hypot(jnp.asarray(self.scale), jnp.asarray(self.noise_scale)))

    def update(self, data: Any, weight: Number = 1.0) -> "NormalKnownVariance":
        require_numbers(data)
        require_weight(weight)
        return self._towards(like(data, self.location), like(weight, self.location))

    def update_batch(self, data: Any, weight: Number | None = None) -> "NormalKnownVariance":
        data = observations(data)
        require_numbers(data)
        x, w = like(data, self.location), batch_weights(weight, np.shape(data)[0], self.location)
        total = jnp.sum(w)
        distance = jnp.sum(w * (x - jnp.asarray(self.location))) / jnp.where(total > 0.0, total, 1.0)
        return self._towards(jnp.asarray(self.location) + distance, total)

    def _towards(self, x: Float[Array, "..."], weight: Float[Array, "..."]) -> "NormalKnownVariance":
        location, scale = jnp.asarray(self.location), jnp.asarray(self.scale)
        signal = weight * (scale / jnp.asarray(self.noise_scale)) ** 2
        return NormalKnownVariance(
            location + signal / (1.0 + signal) * (x - location), scale / jnp.sqrt(1.0 + signal), self.noise_scale
        )

    def log_evidence(self, data: Any) -> Float[Array, ""]:
        """By the mean of the observations and their spread around it."""
        x = like(observations(data), self.location)
        n = np.shape(x)[0]
        if n == 0:
            return jnp.zeros_like(jnp.asarray(self.location))
        location, scale, noise = (jnp.asarray(p) for p in (self.location, self.scale, self.noise_scale))
        mean = location + jnp.mean(x - location)
        spread = jnp.sum((x - mean) ** 2)
        # Without the law of the mean the n observations have one normal density less.
        log_p = -0.5 * spread / noise**2 - (n - 1) * (jnp.log(noise) + 0.5 * np.log(2 * np.pi)) - 0.5 * np.log(n)
        return log_p + Normal(location, jnp.hypot(scale, noise / np.sqrt(n))).log_prob(mean)

    def quantile(self, probability: Number) -> Float[Array, "..."]:
        require_probability(probability)
        return jnp.asarray(self.location) + jnp.asarray(self.scale) * ndtri(like(probability, self.location))

    def outcome_mean_quantile(self, probability: Number) -> Float[Array, "..."]:
        return self.quantile(probability)

    def mutual_information(self) -> Float[Array, "..."]:
        """`log(1 + scale^2 / noise_scale^2) / 2`."""
        return 0.5 * jnp.log1p((jnp.asarray(self.scale) / jnp.asarray(self.noise_scale)) ** 2)


def require_numbers(data: Any) -> None:
    """Raises `ValueError` for a concrete number that is not finite."""
    require_data("observations are finite numbers", np.isfinite, data)
