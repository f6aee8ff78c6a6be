"""Gibbs maps and the certainty equivalent: the one identity that the library is built on.

For a base measure `b`, a function `f` and a temperature `tau`

    max_p  <p, f> - tau KL(p || b)  =  tau log sum b exp(f / tau),        p* = b exp(f / tau) / Z

(Donsker and Varadhan 1983; Levine 2018, section 2). `soft_maximum` is the value, `gibbs` the maximizer. Read over
outcomes instead of actions the same map is the certainty equivalent `(1 / risk) log E exp(risk x)`
(Howard and Matheson 1972, equation 1.3). All of it stays in logarithms, is defined at both limits of the
temperature and of the risk, and has derivatives that are finite where an entry is `-inf`.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from optimality.core.numerics import Real

Numbers = Float[Array, "..."] | Float[np.ndarray, "..."]
Mask = Bool[Array, "..."] | Bool[np.ndarray, "..."]


def soft_maximum(
    f: Numbers,
    temperature: Real = 1.0,
    log_base: Numbers | Real = 0.0,
    axis: int = -1,
    where: Mask | None = None,
) -> Float[Array, "..."]:
    """`tau log sum_i b_i exp(f_i / tau)` over `axis`.

    With the counting measure (`log_base = 0`) this is the entropy form, with a normalized `log_base` the KL form.
    Temperature 0 gives the maximum over the support, infinity the mean under the base (plus `tau log sum b`, which
    is infinite unless the base is normalized). Entries with `f = -inf`, `log_base = -inf` or `where = False`
    have no weight; with none left the value is `-inf`. Derivatives: `d/df_i` is `gibbs(...)_i`, at temperature 0
    uniform over ties.
    """
    f, log_base = _prepared(f, log_base, axis, where)
    return _soft_maximum(f, log_base, jnp.asarray(temperature, f.dtype))


def gibbs(
    f: Numbers,
    temperature: Real = 1.0,
    log_base: Numbers | Real = 0.0,
    axis: int = -1,
    where: Mask | None = None,
) -> Float[Array, "..."]:
    """`log p_i = log b_i + f_i / tau - log Z`, the maximizer of `<p, f> - tau KL(p || b)`, same shape as `f`.

    Temperature 0 gives the base restricted to the maximizers (uniform over ties for a uniform base), infinity the
    normalized base. Excluded entries get `-inf`, all of them where nothing is left.
    """
    f, log_base = _prepared(f, log_base, axis, where)
    return jnp.moveaxis(_gibbs(f, log_base, jnp.asarray(temperature, f.dtype)), 0, axis)


def certainty_equivalent(
    x: Numbers,
    log_p: Numbers,
    risk: Real = 0.0,
    axis: int = -1,
    where: Mask | None = None,
) -> Float[Array, "..."]:
    """`(1 / risk) log sum_i p_i exp(risk x_i)` for a normalized `log_p`; risk in units of one over `x`.

    Risk 0 is the mean, positive risk seeks it (`risk = 1 / temperature` is exact inference), negative risk avoids
    it, plus and minus infinity are the largest and the smallest possible outcome. Accurate for every size of risk,
    tiny ones too, because small exponents go through `expm1`. An outcome of `-inf` that has probability makes the
    value `-inf` unless the risk is positive, which gives it no weight but keeps its probability out of the others'.
    """
    hopeless = _hopeless(x, log_p, axis, where)
    x, log_p = _prepared(x, log_p, axis, where)
    return _certainty_equivalent(x, log_p, jnp.asarray(risk, x.dtype), hopeless)


def tilted(
    x: Numbers,
    log_p: Numbers,
    risk: Real = 0.0,
    axis: int = -1,
    where: Mask | None = None,
) -> Float[Array, "..."]:
    """`log p_i + risk x_i - log sum_j p_j exp(risk x_j)`: the law under which the certainty equivalent's outcome
    seems to be drawn (the posterior dynamics, for `risk = 1 / temperature`)."""
    x, log_p = _prepared(x, log_p, axis, where)
    return jnp.moveaxis(_tilted(x, log_p, jnp.asarray(risk, x.dtype)), 0, axis)


def _prepared(f, log_base, axis: int, where):
    """The axis first; excluded entries get a finite `f` and `log_base = -inf`, so that no derivative sees an inf."""
    f = jnp.asarray(f)
    log_base = jnp.broadcast_to(jnp.asarray(log_base, f.dtype), f.shape)
    excluded = jnp.isneginf(f) | jnp.isneginf(log_base)
    if where is not None:
        excluded |= ~jnp.broadcast_to(jnp.asarray(where), f.shape)
    f = jnp.where(excluded, 0.0, f)
    log_base = jnp.where(excluded, -jnp.inf, log_base)
    return jnp.moveaxis(f, axis, 0), jnp.moveaxis(log_base, axis, 0)


def _hopeless(x, log_p, axis: int, where):
    """Whether an outcome of `-inf` has probability."""
    x = jnp.asarray(x)
    lost = jnp.isneginf(x) & ~jnp.isneginf(jnp.broadcast_to(jnp.asarray(log_p, x.dtype), x.shape))
    if where is not None:
        lost &= jnp.broadcast_to(jnp.asarray(where), x.shape)
    return jnp.any(lost, axis=axis)


def _largest(f, log_base):
    top = jnp.max(jnp.where(jnp.isneginf(log_base), -jnp.inf, f), axis=0, keepdims=True)
    top = jnp.where(jnp.isneginf(top), 0.0, top)
    return top, jnp.where(f == top, 0.0, f - top)


def _inverse(temperature):
    """`1 / tau`, 0 where the temperature is too small to be divided by (the caller treats that as the limit)."""
    is_zero = temperature < jnp.finfo(temperature.dtype).tiny
    return jnp.where(is_zero, 0.0, 1.0 / jnp.where(is_zero, 1.0, temperature)), is_zero


def _log_weights(gap, log_base, temperature):
    """`log b + (f - max f) / tau`, at temperature 0 the base on the maximizers."""
    inverse, is_zero = _inverse(temperature)
    warm = log_base + gap * inverse
    return jnp.where(is_zero, jnp.where(gap == 0.0, log_base, -jnp.inf), warm)


def _log_sum(log_weights):
    top = jnp.max(log_weights, axis=0, keepdims=True)
    top = jnp.where(jnp.isneginf(top), 0.0, top)
    return (top + jnp.log(jnp.sum(jnp.exp(log_weights - top), axis=0, keepdims=True)))[0]


@jax.custom_jvp
def _soft_maximum(f, log_base, temperature):
    _, gap = _largest(f, log_base)
    widest = jnp.max(jnp.where(jnp.isneginf(log_base), 0.0, -gap), initial=0.0)
    regime = jnp.where(jnp.isinf(temperature), 2, jnp.where(temperature > widest, 1, 0)).astype(jnp.int32)
    return jax.lax.switch(regime, (_warm_value, _hot_value, _infinite_value), f, log_base, temperature)


def _warm_value(f, log_base, temperature):
    top, gap = _largest(f, log_base)
    log_z = _log_sum(_log_weights(gap, log_base, temperature))
    return jnp.where(jnp.isneginf(log_z), -jnp.inf, top[0] + temperature * log_z)


def _hot_value(f, log_base, temperature):
    """The same where no exponent is below -1: `tau log(1 + <b, expm1(gap / tau)>)`, in which a large temperature does
    not multiply a rounding."""
    base, log_mass = _normalized(log_base)
    top, gap = _largest(f, log_base)
    fraction = jnp.sum(base * jnp.expm1(gap * _inverse(temperature)[0]), axis=0)
    value = top[0] + temperature * (log_mass + jnp.log1p(jnp.maximum(fraction, -0.75)))
    return jnp.where(jnp.isneginf(log_mass), -jnp.inf, value)


def _infinite_value(f, log_base, temperature):
    """The mean under the normalized base, plus `inf` times the logarithm of the base's mass."""
    base, log_mass = _normalized(log_base)
    value = jnp.sum(base * f, axis=0) + jnp.where(log_mass == 0.0, 0.0, jnp.inf * jnp.sign(log_mass))
    return jnp.where(jnp.isneginf(log_mass), -jnp.inf, value)


def _normalized(log_base):
    """The base as probabilities, and the logarithm of its mass, 0 where that is a rounding."""
    log_mass = _log_sum(log_base)
    base = jnp.exp(log_base - jnp.where(jnp.isneginf(log_mass), 0.0, log_mass)[None])
    rounding = 8 * jnp.finfo(log_base.dtype).eps * log_base.shape[0]
    return base, jnp.where(jnp.abs(log_mass) <= rounding, 0.0, log_mass)


@_soft_maximum.defjvp
def _soft_maximum_jvp(primals, tangents):
    f, log_base, temperature = primals
    f_dot, base_dot, temperature_dot = tangents
    value = _soft_maximum(f, log_base, temperature)
    log_p = _gibbs(f, log_base, temperature)
    p = jnp.exp(log_p)
    # d value / d temperature = -KL(p || b); scaled by tau where tau is infinite it would be inf * 0, so it is cut.
    minus_kl = -jnp.sum(jnp.where(p > 0.0, p * (log_p - jnp.where(p > 0.0, log_base, 0.0)), 0.0), axis=0)
    warm = jnp.where(jnp.isinf(temperature), 0.0, temperature)
    base_dot = jnp.where(p > 0.0, base_dot, 0.0)
    tangent = jnp.sum(p * f_dot, axis=0) + warm * jnp.sum(p * base_dot, axis=0) + minus_kl * temperature_dot
    return value, tangent


@jax.custom_jvp
def _gibbs(f, log_base, temperature):
    _, gap = _largest(f, log_base)
    weights = jnp.where(jnp.isinf(temperature), log_base, _log_weights(gap, log_base, temperature))
    log_z = _log_sum(weights)[None]
    return jnp.where(jnp.isneginf(weights), -jnp.inf, weights - log_z)


@_gibbs.defjvp
def _gibbs_jvp(primals, tangents):
    f, log_base, temperature = primals
    f_dot, base_dot, temperature_dot = tangents
    log_p = _gibbs(f, log_base, temperature)
    p = jnp.exp(log_p)
    inverse, _ = _inverse(temperature)
    inverse = jnp.where(jnp.isinf(temperature), 0.0, inverse)
    _, gap = _largest(f, log_base)
    inside = p > 0.0
    # gap / tau is bounded wherever p is above zero; 1 / tau^2 by itself would overflow.
    exponent = jnp.where(inside, inverse * gap, 0.0)
    change = inverse * f_dot + base_dot - (inverse * temperature_dot) * exponent
    change = jnp.where(inside, change, 0.0)
    return log_p, jnp.where(inside, change - jnp.sum(p * change, axis=0, keepdims=True), 0.0)


def _exponents(x, log_p, risk):
    """`risk x` less its largest value over the support, and that value; infinite risk keeps the extremes only."""
    inside = ~jnp.isneginf(log_p)
    seeking = risk >= 0.0
    extreme = jnp.where(
        seeking,
        jnp.max(jnp.where(inside, x, -jnp.inf), axis=0, keepdims=True),
        jnp.min(jnp.where(inside, x, jnp.inf), axis=0, keepdims=True),
    )
    extreme = jnp.where(jnp.isinf(extreme), 0.0, extreme)
    gap = jnp.where(inside, x - extreme, 0.0)
    finite_risk = jnp.where(jnp.isinf(risk), 0.0, risk)
    exponents = jnp.where(jnp.isinf(risk) & (gap != 0.0), -jnp.inf, finite_risk * gap)
    return extreme[0], exponents


@jax.custom_jvp
def _certainty_equivalent(x, log_p, risk, hopeless):
    p = jnp.exp(log_p)
    mean = jnp.sum(p * x, axis=0)
    extreme, exponents = _exponents(x, log_p, risk)
    fraction = jnp.sum(p * jnp.expm1(exponents), axis=0)
    near = (fraction > -0.5) & ~hopeless
    log_sum = jnp.where(near, jnp.log1p(jnp.where(near, fraction, 0.0)), _log_sum(log_p + exponents))
    is_neutral = jnp.abs(risk) < jnp.finfo(x.dtype).tiny
    safe = jnp.where(is_neutral | jnp.isinf(risk), 1.0, risk)
    averse_or_seeking = extreme + jnp.where(jnp.isinf(risk), 0.0, log_sum / safe)
    value = jnp.where(is_neutral, mean, averse_or_seeking)
    return jnp.where(_is_lost(log_p, risk, hopeless), -jnp.inf, value)


def _is_lost(log_p, risk, hopeless):
    is_seeking = risk >= jnp.finfo(log_p.dtype).tiny
    return hopeless & (~is_seeking | jnp.all(jnp.isneginf(log_p), axis=0))


def _derivative_by_log_p(x, p, q, value, risk, hopeless):
    """`(q - p) / risk`, in the limit `p (x - value)`: `q / risk` along the simplex, without its cancellation."""
    distance = jnp.where(p > 0.0, x - value[None], 0.0)
    exponent = jnp.where(jnp.isinf(risk), 0.0, risk) * distance
    small = jnp.abs(exponent) < jnp.finfo(x.dtype).eps
    near = jnp.abs(exponent) < 1.0
    difference = jnp.where(near, p * jnp.expm1(jnp.where(near, exponent, 0.0)), q - p)
    by_log_p = jnp.where(small, p * distance, difference / jnp.where(small, 1.0, risk))
    # With mass on -inf the rest is no simplex, and the full derivative counts.
    full = q / jnp.where(risk > 0.0, risk, 1.0)
    return jnp.where(jnp.isinf(risk), 0.0, jnp.where(hopeless[None], full, by_log_p))


def _derivative_by_risk(x, p, q, value, risk, hopeless):
    """`(<q, x> - value) / risk`; below the cube root of the rounding its series `Var / 2 + risk kappa_3 / 3`."""
    centered = x - jnp.sum(p * x, axis=0, keepdims=True)
    spread = jnp.max(jnp.where(p > 0.0, jnp.abs(centered), 0.0), axis=0)
    series = jnp.sum(p * centered**2, axis=0) / 2 + risk * jnp.sum(p * centered**3, axis=0) / 3
    small = (jnp.abs(risk) * spread < jnp.finfo(x.dtype).eps ** (1 / 3)) & ~hopeless
    exact = jnp.sum(q * (x - value[None]), axis=0) / jnp.where(small | (risk == 0.0), 1.0, risk)
    return jnp.where(small, series, exact)


@_certainty_equivalent.defjvp
def _certainty_equivalent_jvp(primals, tangents):
    x, log_p, risk, hopeless = primals
    x_dot, log_p_dot, risk_dot, _ = tangents
    value = _certainty_equivalent(x, log_p, risk, hopeless)
    lost = _is_lost(log_p, risk, hopeless)
    finite = jnp.where(lost, 0.0, value)
    p = jnp.exp(log_p)
    q = jnp.exp(_tilted(x, log_p, risk))
    by_log_p = _derivative_by_log_p(x, p, q, finite, risk, hopeless)
    by_risk = jnp.where(jnp.isinf(risk) | lost, 0.0, _derivative_by_risk(x, p, q, finite, risk, hopeless))
    log_p_dot = jnp.where(p > 0.0, log_p_dot, 0.0)
    tangent = jnp.sum(q * x_dot, axis=0) + jnp.sum(by_log_p * log_p_dot, axis=0) + by_risk * risk_dot
    return value, jnp.where(lost, 0.0, tangent)


@jax.custom_jvp
def _tilted(x, log_p, risk):
    _, exponents = _exponents(x, log_p, risk)
    weights = log_p + exponents
    return jnp.where(jnp.isneginf(weights), -jnp.inf, weights - _log_sum(weights)[None])


@_tilted.defjvp
def _tilted_jvp(primals, tangents):
    x, log_p, risk = primals
    x_dot, log_p_dot, risk_dot = tangents
    log_q = _tilted(x, log_p, risk)
    q = jnp.exp(log_q)
    inside = q > 0.0
    finite_risk = jnp.where(jnp.isinf(risk), 0.0, risk)
    change = jnp.where(inside, log_p_dot + finite_risk * x_dot + risk_dot * x, 0.0)
    return log_q, jnp.where(inside, change - jnp.sum(q * change, axis=0, keepdims=True), 0.0)
