"""A belief about a probability, from outcomes 0 and 1.

    probability ~ Beta(successes, failures);        after x:  successes + x, failures + 1 - x

The next outcome is a one with probability `successes / (successes + failures)`.
"""

from typing import Any

import equinox as eqx
import jax.numpy as jnp
import numpy as np
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
from optimality.core.gamma_functions import digamma_excess, log_beta
from optimality.core.numerics import require_range
from optimality.distributions import Bernoulli, Beta
from optimality.distributions.abstract import parameter, require_equal_shapes


class BetaBernoulli(AbstractPredictiveBelief):
    """A probability by pseudo-counts; (1, 1) is uniform."""

    successes: Float[Array | np.ndarray, "..."] = eqx.field(converter=parameter, default=1.0)
    failures: Float[Array | np.ndarray, "..."] = eqx.field(converter=parameter, default=1.0)

    def __check_init__(self):
        require_equal_shapes(self, successes=self.successes, failures=self.failures)
        require_range(self, 0.0, above=True, successes=self.successes, failures=self.failures)

    def law(self) -> Beta:
        return Beta(self.successes, self.failures)

    def likelihood(self, parameter: Any) -> Bernoulli:
        return Bernoulli(like(parameter, self.successes))

    def predictive(self) -> Bernoulli:
        return Bernoulli(self.law().mean())

    def update(self, data: Any, weight: Number = 1.0) -> "BetaBernoulli":
        _require_outcomes(data)
        require_weight(weight)
        x, w = like(data, self.successes), like(weight, self.successes)
        return BetaBernoulli(jnp.asarray(self.successes) + w * x, jnp.asarray(self.failures) + w * (1.0 - x))

    def update_batch(self, data: Any, weight: Number | None = None) -> "BetaBernoulli":
        data = observations(data)
        _require_outcomes(data)
        x, w = like(data, self.successes), batch_weights(weight, np.shape(data)[0], self.successes)
        successes, failures = jnp.sum(w * x), jnp.sum(w * (1.0 - x))
        return BetaBernoulli(jnp.asarray(self.successes) + successes, jnp.asarray(self.failures) + failures)

    def log_evidence(self, data: Any) -> Float[Array, ""]:
        """`log B(posterior) - log B(prior)`, of the outcomes in their order."""
        posterior = self.update_batch(data)
        ours = log_beta(jnp.asarray(self.successes), jnp.asarray(self.failures))
        return log_beta(jnp.asarray(posterior.successes), jnp.asarray(posterior.failures)) - ours

    def quantile(self, probability: Number) -> Float[Array, "..."]:
        return self.law().quantile(probability)

    def outcome_mean_quantile(self, probability: Number) -> Float[Array, "..."]:
        return self.quantile(probability)

    def mutual_information(self) -> Float[Array, "..."]:
        """`H(mean) - E H(probability)`, written as differences that do not cancel."""
        a, b = jnp.asarray(self.successes), jnp.asarray(self.failures)
        total = a + b
        return (a * digamma_excess(a) + b * digamma_excess(b)) / total - digamma_excess(total)


def _require_outcomes(data: Any) -> None:
    require_data("outcomes are 0 or 1", lambda x: (x == 0) | (x == 1), data)
