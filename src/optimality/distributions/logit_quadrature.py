"""Expectations over the logarithm of a beta prime variable, that is over the logit of a beta variable.

    E f(z) = sum_j w_j f(z_j),      z = mean + deviation sinh(t),      t equally spaced

The density of z, `exp(a z) / ((1 + exp z)^(a + b) B(a, b))`, is analytic with exponential tails, and so the
trapezoidal rule after the substitution converges exponentially (Takahasi and Mori 1974).
"""

import jax.numpy as jnp
from jax.scipy.special import digamma, polygamma
from jaxtyping import Array, Float

from optimality.core.gamma_functions import log_beta

NODES = 641


def logit_rule(a: Float[Array, ""], b: Float[Array, ""]) -> tuple[Float[Array, " nodes"], Float[Array, " nodes"]]:
    """Nodes z and weights of the rule for `log u`, u beta prime with shapes a and b; the weights sum to one."""
    mean, deviation = digamma(a) - digamma(b), jnp.sqrt(polygamma(1, a) + polygamma(1, b))
    reach = jnp.maximum(12.0, 42.0 / (jnp.minimum(a, b) * deviation))
    span = jnp.arcsinh(reach)
    t = jnp.linspace(-1.0, 1.0, NODES, dtype=deviation.dtype) * span
    z = mean + deviation * jnp.sinh(t)
    log_density = a * -jnp.logaddexp(0.0, -z) + b * -jnp.logaddexp(0.0, z) - log_beta(a, b)
    weights = jnp.exp(log_density) * deviation * jnp.cosh(t) * (2.0 * span / (NODES - 1))
    return z, weights / jnp.sum(weights)
