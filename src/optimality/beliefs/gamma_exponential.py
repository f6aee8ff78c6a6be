"""A belief about the rate of exponential times.

    rate ~ Gamma(shape, rate);        after a time t:  shape + 1, rate + t

The next time is Lomax with the posterior's shape and rate; shapes need not be whole. Its mean, `rate / (shape - 1)`,
is infinite unless the shape is above 1.
"""

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
    require_data,
    require_weight,
)
from optimality.core.gamma_functions import digamma_excess
from optimality.distributions import Gamma, Lomax
from optimality.distributions.abstract import parameter


class GammaExponential(AbstractPredictiveBelief):
    """The rate of exponential times: `shape` of them (plus the prior's) took `rate` together."""

    shape: Float[Array | np.ndarray, "..."] = eqx.field(converter=parameter)
    rate: Float[Array | np.ndarray, "..."] = eqx.field(converter=parameter)

    def __check_init__(self):
        Gamma(self.shape, self.rate)

    def law(self) -> Gamma:
        return Gamma(self.shape, self.rate)

    def likelihood(self, parameter: Any) -> Gamma:
        """The exponential law, which is the gamma law of shape one."""
        rate = like(parameter, self.shape)
        return Gamma(jnp.ones_like(rate), rate)

    def predictive(self) -> Lomax:
        return Lomax(self.shape, self.rate)

    def update(self, data: Any, weight: Number = 1.0) -> "GammaExponential":
        _require_times(data)
        require_weight(weight)
        t, w = like(data, self.shape), like(weight, self.shape)
        return GammaExponential(jnp.asarray(self.shape) + w, jnp.asarray(self.rate) + w * t)

    def update_batch(self, data: Any, weight: Number | None = None) -> "GammaExponential":
        data = observations(data)
        _require_times(data)
        t, w = like(data, self.shape), batch_weights(weight, np.shape(data)[0], self.shape)
        return GammaExponential(jnp.asarray(self.shape) + jnp.sum(w), jnp.asarray(self.rate) + jnp.sum(w * t))

    def log_evidence(self, data: Any) -> Float[Array, ""]:
        return _log_normalizer(self.update_batch(data)) - _log_normalizer(self)

    def quantile(self, probability: Number) -> Float[Array, "..."]:
        return self.law().quantile(probability)

    def outcome_mean_quantile(self, probability: Number) -> Float[Array, "..."]:
        """Of one over the rate."""
        return 1.0 / self.quantile(1.0 - like(probability, self.shape))

    def mutual_information(self) -> Float[Array, "..."]:
        """`psi(shape + 1) - log shape`, whatever the rate."""
        return digamma_excess(jnp.asarray(self.shape))


def _require_times(data: Any) -> None:
    require_data("times are numbers at or above 0", lambda t: np.isfinite(t) & (t >= 0.0), data)


def _log_normalizer(belief: GammaExponential) -> Float[Array, ""]:
    shape, rate = jnp.asarray(belief.shape), jnp.asarray(belief.rate)
    return gammaln(shape) - shape * jnp.log(rate)
