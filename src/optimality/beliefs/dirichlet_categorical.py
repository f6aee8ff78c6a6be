"""A belief about the probabilities of n outcomes, from indices.

    probabilities ~ Dirichlet(counts);        after outcome i:  counts + e_i

The next outcome is i with probability `counts_i / sum counts`.
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
from optimality.distributions import Beta, Categorical, Dirichlet
from optimality.distributions.abstract import parameter


class DirichletCategorical(AbstractPredictiveBelief):
    """The probabilities of `n` outcomes by pseudo-counts `[n]`; ones are uniform."""

    counts: Float[Array | np.ndarray, "..."] = eqx.field(converter=parameter)

    def __check_init__(self):
        Dirichlet(self.counts)

    def law(self) -> Dirichlet:
        return Dirichlet(self.counts)

    def likelihood(self, parameter: Any) -> Categorical:
        return Categorical(jnp.log(like(parameter, self.counts)))

    def predictive(self) -> Categorical:
        return Categorical(jnp.log(jnp.asarray(self.counts)))

    def update(self, data: Any, weight: Number = 1.0) -> "DirichletCategorical":
        self._require_indices(data)
        require_weight(weight)
        counts = jnp.asarray(self.counts)
        return DirichletCategorical(counts.at[jnp.asarray(data)].add(like(weight, counts)))

    def update_batch(self, data: Any, weight: Number | None = None) -> "DirichletCategorical":
        data = observations(data)
        self._require_indices(data)
        counts = jnp.asarray(self.counts)
        return DirichletCategorical(counts.at[jnp.asarray(data)].add(batch_weights(weight, np.shape(data)[0], counts)))

    def log_evidence(self, data: Any) -> Float[Array, ""]:
        """Of the outcomes in their order."""
        return _log_normalizer(self.update_batch(data).counts) - _log_normalizer(self.counts)

    def quantile(self, probability: Number) -> Float[Array, " n"]:
        """Of each probability by itself: each is a beta variable."""
        counts = jnp.asarray(self.counts)
        return Beta(counts, jnp.sum(counts) - counts).quantile(probability)

    def outcome_mean_quantile(self, probability: Number) -> Float[Array, " n"]:
        """An outcome is a label: of each label's indicator."""
        return self.quantile(probability)

    def mutual_information(self) -> Float[Array, ""]:
        counts = jnp.asarray(self.counts)
        total = jnp.sum(counts)
        return jnp.sum(counts * digamma_excess(counts)) / total - digamma_excess(total)

    def _require_indices(self, data: Any) -> None:
        n = np.shape(self.counts)[-1]
        if not np.issubdtype(np.asarray(data).dtype if not hasattr(data, "dtype") else data.dtype, np.integer):
            raise ValueError(f"outcomes are indices 0 to {n - 1}, whole numbers, but {data} was given.")
        require_data(f"outcomes are indices 0 to {n - 1}", lambda i: (i >= 0) & (i < n), data)


def _log_normalizer(counts: Any) -> Float[Array, ""]:
    counts = jnp.asarray(counts)
    return jnp.sum(gammaln(counts)) - gammaln(jnp.sum(counts))
