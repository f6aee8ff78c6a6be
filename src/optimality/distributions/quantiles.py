"""Quantiles of gamma and beta laws, which JAX lacks: Newton's iteration in a coordinate where it cannot fail.

In `z = log x` of a gamma and `z = log(x / (1 - x))` of a beta variable the density is log-concave, hence so are both
tails, and Newton's iteration on the logarithm of the smaller tail converges from anywhere; a bracket catches tails
that underflow. One step outside the loop carries the derivatives.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.scipy.special import betainc, digamma, gammainc, gammaincc, gammaln
from jaxtyping import Array, Float

from optimality.core.gamma_functions import log_beta

Numbers = Float[Array, "..."]
_MOST_STEPS = 200


class _Law(NamedTuple):
    """Of the coordinate z: both tails and the logarithm of the density."""

    lower: Callable[[Numbers], Numbers]
    upper: Callable[[Numbers], Numbers]
    log_density: Callable[[Numbers], Numbers]


def gamma_log_quantile(shape: Numbers, probability: Numbers) -> Numbers:
    """`log x` with `P(Gamma(shape, 1) <= x) = probability`; `-inf` and `inf` at 0 and 1."""

    def law(shape):
        return _Law(
            lambda z: gammainc(shape, jnp.exp(z)),
            lambda z: gammaincc(shape, jnp.exp(z)),
            lambda z: shape * z - jnp.exp(z) - gammaln(shape),
        )

    return _invert(law, (shape,), digamma(jax.lax.stop_gradient(shape)), probability)


def beta_logit_quantile(a: Numbers, b: Numbers, probability: Numbers) -> Numbers:
    """`log(x / (1 - x))` with `P(Beta(a, b) <= x) = probability`; only its derivative by the probability exists."""

    def law(a, b):
        return _Law(
            lambda z: betainc(a, b, jax.nn.sigmoid(z)),
            lambda z: betainc(b, a, jax.nn.sigmoid(-z)),
            lambda z: a * jax.nn.log_sigmoid(z) + b * jax.nn.log_sigmoid(-z) - log_beta(a, b),
        )

    still_a, still_b = jax.lax.stop_gradient((a, b))
    return _invert(law, (a, b), digamma(still_a) - digamma(still_b), probability)


def _invert(law: Callable[..., _Law], parameters: tuple[Numbers, ...], start: Numbers, probability: Numbers) -> Numbers:
    probability = jnp.asarray(probability, start.dtype)
    shape = jnp.broadcast_shapes(start.shape, probability.shape)
    inside = jnp.broadcast_to((probability > 0.0) & (probability < 1.0), shape)
    p = jnp.where(inside, jnp.broadcast_to(probability, shape), 0.5)
    low_side = p <= 0.5
    tail = jnp.where(low_side, p, 1.0 - p)
    parameters = tuple(jnp.broadcast_to(value, shape) for value in parameters)
    still = law(*jax.lax.stop_gradient(parameters))
    z = jax.lax.stop_gradient(_search(still, jax.lax.stop_gradient(tail), low_side, jnp.broadcast_to(start, shape)))
    moving = law(*parameters)
    reached = jnp.where(low_side, moving.lower(z), moving.upper(z))
    # From the smaller tail, so that a relative error there is a relative error here.
    change = jnp.where(low_side, reached - tail, tail - reached) * jnp.exp(-still.log_density(z))
    z = z - jnp.where(jnp.isfinite(change), change, 0.0)
    return jnp.where(inside, z, jnp.where(probability > 0.0, jnp.inf, -jnp.inf))


def _search(law: _Law, tail: Numbers, low_side: Any, start: Numbers) -> Numbers:
    info = jnp.finfo(start.dtype)
    low = jnp.full_like(start, 4.0 * jnp.log(info.tiny))
    high = jnp.full_like(start, jnp.log(info.max))
    log_tail = jnp.log(tail)
    sign = jnp.where(low_side, 1.0, -1.0).astype(start.dtype)

    def body(state):
        z, low, high, step, _ = state
        mass = jnp.where(low_side, law.lower(z), law.upper(z))
        gap = sign * (jnp.log(mass) - log_tail)  # rises with z
        slope = jnp.exp(law.log_density(z)) / mass
        low, high = jnp.where(gap <= 0.0, z, low), jnp.where(gap >= 0.0, z, high)
        newton = z - gap / slope
        new = jnp.where((newton > low) & (newton < high), newton, 0.5 * (low + high))
        new = jnp.where(gap == 0.0, z, new)
        change = jnp.max(jnp.abs(new - z) / jnp.maximum(1.0, jnp.abs(z)), initial=0.0)
        return new, low, high, step + 1, change > 4.0 * info.eps

    goes_on = lambda state: state[4] & (state[3] < _MOST_STEPS)  # noqa: E731
    return jax.lax.while_loop(goes_on, body, (start, low, high, jnp.asarray(0), jnp.asarray(True)))[0]
