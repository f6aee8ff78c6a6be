"""The Dirichlet distribution of the probabilities of n outcomes.

    log p(x) = sum_i (c_i - 1) log x_i + log Gamma(sum c) - sum_i log Gamma(c_i)

a density relative to the Lebesgue measure of the first n - 1 probabilities.
"""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import digamma, gammaln, xlogy
from jaxtyping import Array, Float, PRNGKeyArray

from optimality.core.numerics import require_range
from optimality.distributions.abstract import AbstractDistribution, parameter, refuse_kl


class Dirichlet(AbstractDistribution):
    """The probabilities of `n` outcomes, `[n]`."""

    concentration: Float[Array | np.ndarray, "..."] = eqx.field(converter=parameter)
    """Positive, `[n]`."""

    def __check_init__(self):
        if np.ndim(self.concentration) != 1:
            raise ValueError(
                f"concentration must have shape [n], but {np.shape(self.concentration)} was given: batches go through "
                f"jax.vmap."
            )
        require_range(self, 0.0, above=True, concentration=self.concentration)

    def _parameters(self) -> tuple[Float[Array, " n"], Float[Array, ""]]:
        concentration = jnp.asarray(self.concentration)
        return concentration, jnp.sum(concentration)

    def sample(self, key: PRNGKeyArray) -> Float[Array, " n"]:
        """By gamma variables in logarithms, so that small concentrations do not underflow to 0 / 0."""
        concentration, _ = self._parameters()
        return jax.nn.softmax(jax.random.loggamma(key, concentration, concentration.shape, concentration.dtype))

    def log_prob(self, value: Any) -> Float[Array, ""]:
        """Of probabilities `[n]`, which are taken to sum to one; `-inf` where one is negative."""
        concentration, total = self._parameters()
        value = jnp.asarray(value, concentration.dtype)
        inside = value >= 0.0
        powers = jnp.sum(xlogy(concentration - 1.0, jnp.where(inside, value, 1.0)))
        return jnp.where(jnp.all(inside), powers + gammaln(total) - jnp.sum(gammaln(concentration)), -jnp.inf)

    def sample_and_log_prob(self, key: PRNGKeyArray) -> tuple[Float[Array, " n"], Float[Array, ""]]:
        value = self.sample(key)
        return value, self.log_prob(value)

    def entropy(self) -> Float[Array, ""]:
        c, total = self._parameters()
        digammas = jnp.sum((c - 1.0) * digamma(c)) - (total - c.size) * digamma(total)
        return jnp.sum(gammaln(c)) - gammaln(total) - digammas

    def mean(self) -> Float[Array, " n"]:
        concentration, total = self._parameters()
        return concentration / total

    def mode(self) -> Float[Array, " n"]:
        """Where the density is highest, if every concentration is at least one; the mean where all are one."""
        concentration, _ = self._parameters()
        above = jnp.maximum(concentration - 1.0, 0.0)
        total = jnp.sum(above)
        return jnp.where(total > 0.0, above / jnp.where(total > 0.0, total, 1.0), self.mean())

    def variance(self) -> Float[Array, " n"]:
        """Of each probability."""
        _, total = self._parameters()
        mean = self.mean()
        return mean * (1.0 - mean) / (total + 1.0)

    def kl(self, other: AbstractDistribution) -> Float[Array, ""]:
        if not isinstance(other, Dirichlet):
            refuse_kl(self, other)
        if np.shape(self.concentration) != np.shape(other.concentration):
            raise ValueError(
                f"KL needs two laws of the same number of outcomes, but {np.shape(self.concentration)[-1]} and "
                f"{np.shape(other.concentration)[-1]} were given."
            )
        (c, total), (d, other_total) = self._parameters(), other._parameters()
        normalizers = gammaln(total) - jnp.sum(gammaln(c)) - gammaln(other_total) + jnp.sum(gammaln(d))
        return normalizers + jnp.sum((c - d) * (digamma(c) - digamma(total)))
