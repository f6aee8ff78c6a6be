"""A belief about the rate of gamma numbers whose shape is known.

    x given rate ~ Gamma(outcome_shape, rate),      rate ~ Gamma(shape, rate)

    after x:  shape + outcome_shape, rate + x

The next number is compound gamma: `x / rate` is beta prime with shapes `outcome_shape` and `shape` of the posterior.
Its mean, `outcome_shape rate / (shape - 1)`, is infinite unless the shape is above 1. What texts get wrong: the
posterior's shape grows by the outcome's shape, not by that less one, which is only an exponent.
"""

from typing import Any

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import gammaln, xlogy
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
from optimality.core.gamma_functions import gamma_information
from optimality.core.numerics import require_range
from optimality.distributions import BetaPrime, Gamma
from optimality.distributions.abstract import parameter, require_equal_shapes


class GammaKnownShape(AbstractPredictiveBelief):
    """The rate of gamma numbers of known shape."""

    outcome_shape: Float[Array | np.ndarray, "..."] = eqx.field(converter=parameter)
    """Of the numbers, known."""
    shape: Float[Array | np.ndarray, "..."] = eqx.field(converter=parameter)
    rate: Float[Array | np.ndarray, "..."] = eqx.field(converter=parameter)

    def __check_init__(self):
        require_equal_shapes(self, outcome_shape=self.outcome_shape, shape=self.shape, rate=self.rate)
        require_range(self, 0.0, above=True, outcome_shape=self.outcome_shape, shape=self.shape, rate=self.rate)

    def law(self) -> Gamma:
        return Gamma(self.shape, self.rate)

    def likelihood(self, parameter: Any) -> Gamma:
        rate = like(parameter, self.shape)
        return Gamma(jnp.broadcast_to(jnp.asarray(self.outcome_shape), rate.shape), rate)

    def predictive(self) -> BetaPrime:
        return BetaPrime(self.outcome_shape, self.shape, self.rate)

    def update(self, data: Any, weight: Number = 1.0) -> "GammaKnownShape":
        _require_numbers(data)
        require_weight(weight)
        x, w = like(data, self.shape), like(weight, self.shape)
        return self._plus(w, w * x)

    def update_batch(self, data: Any, weight: Number | None = None) -> "GammaKnownShape":
        data = observations(data)
        _require_numbers(data)
        x, w = like(data, self.shape), batch_weights(weight, np.shape(data)[0], self.shape)
        return self._plus(jnp.sum(w), jnp.sum(w * x))

    def _plus(self, count: Float[Array, "..."], total: Float[Array, "..."]) -> "GammaKnownShape":
        shape = jnp.asarray(self.shape) + count * jnp.asarray(self.outcome_shape)
        return GammaKnownShape(self.outcome_shape, shape, jnp.asarray(self.rate) + total)

    def log_evidence(self, data: Any) -> Float[Array, ""]:
        x = like(observations(data), self.shape)
        outcome_shape = jnp.asarray(self.outcome_shape)
        base = jnp.sum(xlogy(outcome_shape - 1.0, x) - gammaln(outcome_shape))
        return base + _log_normalizer(self.update_batch(data)) - _log_normalizer(self)

    def quantile(self, probability: Number) -> Float[Array, "..."]:
        return self.law().quantile(probability)

    def outcome_mean_quantile(self, probability: Number) -> Float[Array, "..."]:
        """Of the outcome's shape over the rate."""
        return jnp.asarray(self.outcome_shape) / self.quantile(1.0 - like(probability, self.shape))

    def mutual_information(self) -> Float[Array, "..."]:
        """Whatever the rate, `G(shape + outcome_shape) - G(shape)` with `G(x) = x psi(x) - log Gamma(x) - x`."""
        return gamma_information(jnp.asarray(self.shape), jnp.asarray(self.outcome_shape))


def _require_numbers(data: Any) -> None:
    require_data("gamma numbers lie above 0", lambda x: np.isfinite(x) & (x > 0.0), data)


def _log_normalizer(belief: GammaKnownShape) -> Float[Array, ""]:
    shape, rate = jnp.asarray(belief.shape), jnp.asarray(belief.rate)
    return gammaln(shape) - shape * jnp.log(rate)
