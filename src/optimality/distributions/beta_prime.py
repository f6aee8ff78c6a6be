"""The beta prime distribution of a positive number with a scale: the compound gamma law.

    log p(x) = (a - 1) log u - (a + b) log(1 + u) - log scale - log B(a, b),       u = x / scale

A gamma number of shape `a` whose rate is itself gamma, of shape `b` and rate `scale` (Dubey 1970). Its tail falls as
`x^-(b+1)`: the mean exists for b above 1, the variance for b above 2, and no exponential moment ever.
"""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import betainc, digamma, gammaln
from jaxtyping import Array, Float, PRNGKeyArray

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


class BetaPrime(AbstractDistribution):
    """Independent positive numbers, one an entry of the parameters; every result is entry by entry."""

    a: Float[Array | np.ndarray, "..."] = eqx.field(converter=parameter)
    """Shape at zero."""
    b: Float[Array | np.ndarray, "..."] = eqx.field(converter=parameter)
    """Shape of the tail: moments below it are finite."""
    scale: Float[Array | np.ndarray, "..."] = eqx.field(converter=parameter)

    def __check_init__(self):
        require_equal_shapes(self, a=self.a, b=self.b, scale=self.scale)
        require_range(self, 0.0, above=True, a=self.a, b=self.b, scale=self.scale)

    def _parameters(self) -> tuple[Float[Array, "..."], Float[Array, "..."], Float[Array, "..."]]:
        return jnp.asarray(self.a), jnp.asarray(self.b), jnp.asarray(self.scale)

    def sample(self, key: PRNGKeyArray) -> Float[Array, "..."]:
        """A ratio of two gamma variables, in logarithms."""
        a, b, scale = self._parameters()
        key_a, key_b = jax.random.split(key)
        log_u = jax.random.loggamma(key_a, a, a.shape, a.dtype) - jax.random.loggamma(key_b, b, b.shape, b.dtype)
        return scale * jnp.exp(log_u)

    def log_prob(self, value: Numbers) -> Float[Array, "..."]:
        """`-inf` below zero."""
        a, b, scale = self._parameters()
        value = jnp.asarray(value, a.dtype)
        inside = value >= 0.0
        u = jnp.where(inside, value, scale) / scale
        power = jnp.where(a == 1.0, 0.0, (a - 1.0) * jnp.log(jnp.where((a == 1.0) & (u == 0.0), 1.0, u)))
        log_p = power - (a + b) * jnp.log1p(u) - jnp.log(scale) - log_beta(a, b)
        return jnp.where(inside, log_p, -jnp.inf)

    def sample_and_log_prob(self, key: PRNGKeyArray) -> tuple[Float[Array, "..."], Float[Array, "..."]]:
        value = self.sample(key)
        return value, self.log_prob(value)

    def cdf(self, value: Numbers) -> Float[Array, "..."]:
        """`P(x <= value)`."""
        a, b, scale = self._parameters()
        value = jnp.maximum(jnp.asarray(value, a.dtype), 0.0)
        return betainc(a, b, value / (value + scale))

    def survival(self, value: Numbers) -> Float[Array, "..."]:
        """`P(x > value)`, without the cancellation of `1 - cdf`."""
        a, b, scale = self._parameters()
        value = jnp.maximum(jnp.asarray(value, a.dtype), 0.0)
        return betainc(b, a, scale / (value + scale))

    def quantile(self, probability: Numbers) -> Float[Array, "..."]:
        """The value that `cdf` maps to `probability`; its derivatives by a and b do not exist."""
        require_probability(probability)
        a, b, scale = self._parameters()
        return scale * jnp.exp(beta_logit_quantile(a, b, jnp.asarray(probability, a.dtype)))

    def entropy(self) -> Float[Array, "..."]:
        a, b, scale = self._parameters()
        digammas = (a - 1.0) * digamma(a) + (b + 1.0) * digamma(b) - (a + b) * digamma(a + b)
        return jnp.log(scale) + log_beta(a, b) - digammas

    def mean(self) -> Float[Array, "..."]:
        """`scale a / (b - 1)`, infinite unless b is above 1."""
        a, b, scale = self._parameters()
        exists = b > 1.0
        return jnp.where(exists, scale * a / jnp.where(exists, b - 1.0, 1.0), jnp.inf)

    def mode(self) -> Float[Array, "..."]:
        a, b, scale = self._parameters()
        return scale * jnp.maximum(a - 1.0, 0.0) / (b + 1.0)

    def variance(self) -> Float[Array, "..."]:
        """`scale^2 a (a + b - 1) / ((b - 1)^2 (b - 2))`, infinite unless b is above 2."""
        a, b, scale = self._parameters()
        exists = b > 2.0
        c = jnp.where(exists, b, 3.0)
        return jnp.where(exists, scale**2 * a * (a + c - 1.0) / ((c - 1.0) ** 2 * (c - 2.0)), jnp.inf)

    def mean_log(self) -> Float[Array, "..."]:
        """`E log x = log scale + psi(a) - psi(b)`."""
        a, b, scale = self._parameters()
        return jnp.log(scale) + digamma(a) - digamma(b)

    def mean_excess(self, threshold: Numbers) -> Float[Array, "..."]:
        """`E max(x - threshold, 0)` for a threshold at or above zero; infinite unless b is above 1."""
        a, b, scale = self._parameters()
        threshold = jnp.asarray(threshold, a.dtype)
        exists = b > 1.0
        c = jnp.where(exists, b, 2.0)
        heavier = BetaPrime(a + 1.0, c - 1.0, scale)
        excess = scale * a / (c - 1.0) * heavier.survival(threshold) - threshold * self.survival(threshold)
        return jnp.where(exists, excess, jnp.inf)

    def kl(self, other: AbstractDistribution) -> Float[Array, "..."]:
        """By a quadrature of `E log(1 + x / other scale)`, the one term without a closed form; to about 1e-12."""
        if not isinstance(other, BetaPrime):
            refuse_kl(self, other)
        return _kl(*self._parameters(), *other._parameters())


def _kl(a, b, scale, c, d, other_scale):
    if jnp.ndim(a) > 0:
        return jax.vmap(_kl)(a, b, scale, c, d, other_scale)
    log_ratio = jnp.log(scale) - jnp.log(other_scale)
    z, weights = logit_rule(a, b)
    # E log(1 + u) is known; what is left is the difference that the other scale makes.
    difference = jnp.sum(weights * (jnp.logaddexp(0.0, z + log_ratio) - jnp.logaddexp(0.0, z)))
    mean_log_u = digamma(a) - digamma(b)
    mean_log_one_plus_u = digamma(a + b) - digamma(b)
    normalizers = gammaln(a + b) - gammaln(a) - gammaln(b) - gammaln(c + d) + gammaln(c) + gammaln(d)
    same_scale = normalizers + (a - c) * mean_log_u + (c + d - a - b) * mean_log_one_plus_u
    return same_scale + (c + d) * difference - c * log_ratio
