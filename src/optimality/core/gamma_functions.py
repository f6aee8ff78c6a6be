"""Differences of gamma functions and logarithms that keep their digits, where the plain formulas cancel.

    digamma_excess(x) = psi(x + 1) - log x                                  about 1 / (2 x)
    gamma_information(x, step) = G(x + step) - G(x)                         about log(1 + step / x) / 2
        with G(x) = x psi(x) - log Gamma(x) - x
    log_beta(a, b) = log Gamma(a) + log Gamma(b) - log Gamma(a + b)

Above ten by their asymptotic series (Abramowitz and Stegun 1964, 6.1.40 and 6.3.18).
"""

import jax.numpy as jnp
import numpy as np
from jax.scipy.special import digamma, gammaln
from jaxtyping import Array, Float

_LARGE = 10.0


def digamma_excess(x: Float[Array | np.ndarray, "..."]) -> Float[Array, "..."]:
    """`psi(x + 1) - log x`, positive and falling, for x above zero."""
    x = jnp.asarray(x)
    near, far = jnp.where(x < _LARGE, x, 1.0), jnp.where(x < _LARGE, _LARGE, x)
    y = 1.0 / (far * far)
    tail = 1 / 12 - y * (1 / 120 - y * (1 / 252 - y * (1 / 240 - y * (1 / 132 - y * (691 / 32760)))))
    return jnp.where(x < _LARGE, digamma(near + 1.0) - jnp.log(near), 0.5 / far - tail * y)


def gamma_information(
    x: Float[Array | np.ndarray, "..."], step: Float[Array | np.ndarray, "..."]
) -> Float[Array, "..."]:
    """`G(x + step) - G(x)`, positive for x and step above zero."""
    x, step = jnp.asarray(x), jnp.asarray(step)
    near, far = jnp.where(x < _LARGE, x, 1.0), jnp.where(x < _LARGE, _LARGE, x)
    large = 0.5 * jnp.log1p(step / far) + _remainder(far + step) - _remainder(far)
    return jnp.where(x < _LARGE, _plain(near + step) - _plain(near), large)


def log_beta(a: Float[Array | np.ndarray, "..."], b: Float[Array | np.ndarray, "..."]) -> Float[Array, "..."]:
    """The logarithm of the beta function; `jax.scipy.special.betaln` has nine digits where a parameter is large."""
    a, b = jnp.asarray(a), jnp.asarray(b)
    small, large = jnp.minimum(a, b), jnp.maximum(a, b)
    far = jnp.where(large < _LARGE, _LARGE, large)
    by_large = (0.5 - far) * jnp.log1p(small / far) - small * jnp.log(far + small) + small
    far_value = gammaln(small) + by_large + _stirling(far) - _stirling(far + small)
    return jnp.where(large < _LARGE, gammaln(small) + gammaln(large) - gammaln(large + small), far_value)


def _stirling(x):
    """`log Gamma(x) - (x - 1/2) log x + x - log(2 pi) / 2`."""
    y = 1.0 / (x * x)
    return (1 / 12 - y * (1 / 360 - y * (1 / 1260 - y * (1 / 1680 - y * (1 / 1188 - y * (691 / 360360)))))) / x


def _plain(x):
    return x * digamma(x) - gammaln(x) - x


def _remainder(x):
    """`G(x) - log(x) / 2` less its limit."""
    y = 1.0 / (x * x)
    return -(1 / 6 - y * (1 / 90 - y * (1 / 210 - y * (1 / 210 - y * (5 / 594))))) / x
