"""Information projection: the best reweighting of a sample that matches moments and stays near its base measure.

    max_p  <p, f>        subject to  E_p[C] = target  and  KL(p || b) <= epsilon        (or, in place of the bound,
                                                                                         less temperature KL(p || b))
    p = b exp(delta / eta) / Z,       delta = f + (C - target) v

By its dual, jointly convex in the temperature eta and the multipliers v,

    g(eta, v) = eta epsilon + eta log E_b exp(delta / eta),
    dg/deta = epsilon - KL(p || b),      dg/dv = E_p[C] - target

(Peters, Muelling and Altun 2010, equations 7 to 10, whose gradient has a factor eta too many; Csiszar 1975 for the
projection at constant f). REPS, MPO, maximum-entropy inverse RL and the weights of advantage-weighted regression are
this one problem.

`f` is standardized and the moments are whitened under `b` by a triangular factorization of the sample, not of its
covariance; directions in which they do not vary, relative to their own size 1e-12, are dropped. It is always solved in
float64.
"""

from functools import partial
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from optimality.core.information import effective_sample_size
from optimality.core.numerics import Real, float_dtype, is_traced, precision, to_numpy
from optimality.core.result import Result
from optimality.core.tilting import flattening, log_mean_exp, match_moments, meet_bound, tilt

Numbers = Float[Array | np.ndarray, "..."]

SMALLEST_DIRECTION = 1e-12
"""Of the moments, relative to the largest once each is scaled to one: what varies less is dropped."""
LARGEST_DIRECT = 1000
"""Moments above which Newton's equations are solved by conjugate gradients: both costs are linear in the samples, and
some thirty passes over them cost what the covariance of so many moments does."""


class InformationProjection(eqx.Module):
    """The weights and their certificate.

    `result` says what they are: `CONVERGED`, the bound is met; `CONSTRAINT_INACTIVE`, f is constant on all weights that
    match the moments, of which these are the nearest (the I-projection), with temperature 0; `COLLAPSED`, even the best
    weights of all are within the bound; `INFEASIBLE`, no weights match the moments; `BELOW_MINIMAL_KL`, none within the
    bound do; `NON_FINITE`, f or a moment is not finite. For the two before the last the weights match the moments as
    well as the bound allows: f is left out, the temperature infinite, and `multipliers` are those of `log_p`. With
    slack they are what the slack makes of it within the bound.
    """

    log_p: Float[Array | np.ndarray, " samples"]
    """Of the weights, which sum to one."""
    temperature: Float[Array | np.ndarray | np.generic, ""]
    """eta, in units of f: the multiplier of the bound, or what was given."""
    multipliers: Float[Array | np.ndarray, " moments"]
    """v, in units of f per moment; of smallest norm in the whitened moments where they are not unique."""
    value: Float[Array | np.ndarray | np.generic, ""]
    """`<p, f>`."""
    dual: Float[Array | np.ndarray | np.generic, ""]
    """`g(eta, v)`: an upper bound on the value of all weights within the constraints, equal to it at the optimum."""
    kl: Float[Array | np.ndarray | np.generic, ""]
    """`KL(p || b)`, in nats."""
    kl_min: Float[Array | np.ndarray | np.generic, ""]
    """The smallest at which the moments can be matched, `inf` where they cannot; NaN where a temperature was given."""
    residual: Float[Array | np.ndarray, " moments"]
    """`E_p[C] - target`, in units of the moments."""
    gradient_norm: Float[Array | np.ndarray | np.generic, ""]
    """Of the dual's gradient, `f` standardized and the moments whitened: the certificate of the optimum."""
    effective_sample_size: Float[Array | np.ndarray | np.generic, ""]
    """`1 / sum p^2`."""
    iterations: Any
    """Newton steps, those for `kl_min` included."""
    result: Any
    """A `Result`, inside `jit` its code."""


def information_projection(
    f: Numbers,
    moments: Numbers | None = None,
    target: Numbers | None = None,
    *,
    log_base: Numbers | None = None,
    epsilon: Real | None = None,
    temperature: Real | None = None,
    slack: Real = 0.0,
    tolerance: float = 1e-9,
    max_steps: int = 200,
) -> InformationProjection:
    """Solves the problem above for one sample; batches go through `jax.vmap`.

    With concrete arguments the answer is NumPy; with traced float32 ones it is solved in float64 all the same and
    rounded at the end, without derivatives. In float64 `log_p`, `value`, `temperature` and all that follows from them
    are differentiable in `f`, `moments`, `target`, `log_base` and `epsilon` by the implicit rule, where the result is
    `CONVERGED`; elsewhere the temperature and multipliers count as constants. With slack its units, the deviations of
    `f` and of the moments, count as constants too.

    Args:
        f: `[N]`, what is to be large, in any unit and with any offset.
        moments: `[N, K]`, what must have the average `target`.
        target: `[K]`, 0 by default.
        log_base: `[N]`, logarithm of `b`, normalized or not; uniform by default, `-inf` leaves a sample out.
        epsilon: bound on `KL(p || b)` in nats.
        temperature: price of a nat of `KL(p || b)` in units of `f`, in place of a bound.
        slack: 0 matches the moments exactly. Above, their residual is `slack` times the multipliers (f standardized,
            moments whitened): what sampling noise asks for, and where no exact match exists.
        tolerance: largest accepted gradient, and relative error of the bound.
        max_steps: bound on the Newton steps of each of the two stages.

    Raises:
        ValueError: shapes that do not agree; no samples; both or neither of `epsilon` and `temperature`; one that is
            not positive; negative slack; values that are not finite (inside `jit` the result is `NON_FINITE`, with the
            base as weights).
        TypeError: a derivative of a float32 call.
    """
    if (epsilon is None) == (temperature is None):
        raise ValueError(
            f"give either epsilon, a bound on the KL divergence, or temperature, its price: epsilon={epsilon}, "
            f"temperature={temperature} were given."
        )
    shape = jnp.shape(f)
    if len(shape) != 1 or shape[0] == 0:
        raise ValueError(f"f must be one number a sample, [N] with N >= 1, but its shape is {shape}.")
    number = shape[0]
    moments = jnp.zeros((number, 0), jnp.result_type(f)) if moments is None else moments
    if len(jnp.shape(moments)) != 2 or jnp.shape(moments)[0] != number:
        raise ValueError(
            f"moments must be [N, K] with the {number} samples of f, but their shape is {jnp.shape(moments)}."
        )
    size = jnp.shape(moments)[1]
    target = np.zeros(size) if target is None else target
    log_base = np.zeros(number) if log_base is None else log_base
    for name, array, wanted in (("target", target, (size,)), ("log_base", log_base, (number,))):
        if jnp.shape(array) != wanted:
            raise ValueError(f"{name} must have shape {wanted}, but it has {jnp.shape(array)}.")
    bounded = epsilon is not None
    bound = epsilon if bounded else temperature
    arguments = (f, moments, target, log_base, bound, slack)
    if not is_traced(arguments):
        _check(*arguments, "epsilon" if bounded else "temperature")
        with precision(np.float64):
            exact = to_numpy(_compiled(*_as_float64(arguments), bounded, tolerance, max_steps))
        return eqx.tree_at(lambda p: p.result, exact, Result.of(exact.result))
    dtype = float_dtype(arguments)
    if dtype == jnp.float64:
        return _compiled(*_as_float64(arguments), bounded, tolerance, max_steps)
    arguments = _without_derivative(arguments)
    with precision(np.float64):
        exact = _compiled(*_as_float64(arguments), bounded, tolerance, max_steps)
        return jax.tree.map(lambda x: x.astype(dtype) if jnp.issubdtype(x.dtype, jnp.floating) else x, exact)


@jax.custom_jvp
def _without_derivative(arguments):
    return arguments


@_without_derivative.defjvp
def _without_derivative_jvp(primals, tangents):
    raise TypeError(
        "information_projection is differentiated in float64 only: pass float64 arguments under jax.enable_x64(True), "
        "or stop the gradient before it."
    )


def _as_float64(arguments):
    return jax.tree.map(lambda x: jnp.asarray(x, jnp.float64), arguments)


def _check(f, moments, target, log_base, bound, slack, name: str) -> None:
    base = np.asarray(log_base, np.float64)
    if np.any(np.isnan(base)) or np.any(base == np.inf) or not np.any(np.isfinite(base)):
        raise ValueError("log_base must be finite, or -inf for samples to be left out, and not -inf everywhere.")
    used = np.isfinite(base)
    for label, array in (("f", f), ("moments", moments)):
        bad = ~np.isfinite(np.asarray(array, np.float64)[used]).reshape(int(used.sum()), -1).all(axis=1)
        if bad.any():
            where = int(np.flatnonzero(used)[int(np.argmax(bad))])
            raise ValueError(
                f"{label} is not finite in {int(bad.sum())} of {used.sum()} samples, first in sample {where}: "
                "remove them, or give them log_base = -inf."
            )
    if not np.all(np.isfinite(np.asarray(target, np.float64))):
        raise ValueError(f"target must be finite, but {target} was given.")
    if not (np.isfinite(float(bound)) and float(bound) > 0.0):
        raise ValueError(f"{name} must be positive and finite, but {bound} was given.")
    if not (np.isfinite(float(slack)) and float(slack) >= 0.0):
        raise ValueError(f"slack must be zero or positive, but {slack} was given.")


def _standardized(f, q):
    """`(f - mean) / deviation`, both, and whether f is constant up to its own rounding."""
    mean = jnp.sum(q * f)
    gap = jnp.where(q > 0.0, f - mean, 0.0)
    widest = jnp.max(jnp.abs(gap))
    unit = jnp.where(widest > 0.0, widest, 1.0)
    deviation = unit * jnp.sqrt(jnp.sum(q * (gap / unit) ** 2))
    rounding = 64 * jnp.finfo(f.dtype).eps * jnp.max(jnp.where(q > 0.0, jnp.abs(f), 0.0))
    constant = deviation <= rounding
    scale = jax.lax.stop_gradient(jnp.where(constant, 1.0, deviation))
    mean = jax.lax.stop_gradient(mean)
    return jnp.where(constant, 0.0, (f - mean) / scale), mean, scale, rounding / scale


def _whitening(c, q, largest):
    """`W` such that `c W` has unit second moments under `q`, or is zero in the directions that are dropped."""
    unit = jnp.max(jnp.abs(c), axis=0, initial=0.0, keepdims=True)
    safe = jnp.where(unit > 0.0, unit, 1.0)
    size = safe * jnp.sqrt(jnp.sum(q[:, None] * (c / safe) ** 2, axis=0, keepdims=True))
    nothing = size <= 64 * jnp.finfo(c.dtype).eps * largest[None]  # what the subtraction of the target rounded
    size = jnp.where(nothing, 1.0, size)
    scaled = jnp.where(nothing, 0.0, c / size) * jnp.sqrt(q)[:, None]
    if c.shape[0] < c.shape[1]:
        scaled = jnp.concatenate([scaled, jnp.zeros((c.shape[1] - c.shape[0], c.shape[1]), c.dtype)])
    triangle = jnp.linalg.qr(scaled, mode="r")
    _, sizes, directions = jnp.linalg.svd(triangle)
    kept = sizes > SMALLEST_DIRECTION * jnp.maximum(sizes[0], 1e-300)
    kept, sizes = kept[None], sizes[None]
    columns = jnp.where(kept, directions.T / jnp.where(kept, sizes, 1.0), 0.0)
    return jnp.where(nothing, 0.0, 1.0 / size).T * columns


def _regular(matrix, z):
    """Dropped directions, which are zero, as the identity."""
    dropped = jnp.concatenate([jnp.zeros(1, bool), jnp.all(z == 0.0, axis=0)])
    return matrix + jnp.diag(dropped.astype(matrix.dtype))


def _no_tangent(x):
    return jnp.zeros(x.shape, x.dtype if jnp.issubdtype(x.dtype, jnp.floating) else jax.dtypes.float0)


def _project(f, moments, target, log_base, bound, slack, bounded, tolerance, max_steps):
    inside = ~jnp.isneginf(log_base)
    finite = inside & jnp.isfinite(f) & jnp.all(jnp.isfinite(moments), axis=1) & (log_base < jnp.inf)
    is_finite = jnp.all(finite == inside) & jnp.any(inside) & jnp.all(jnp.isfinite(target)) & (bound > 0.0)
    f = jnp.where(finite, f, 0.0)
    moments = jnp.where(finite[:, None], moments, 0.0)
    bound = jnp.where(bound > 0.0, bound, 1.0)
    log_q = jnp.where(inside, log_base, -jnp.inf)
    log_q = log_q - jax.nn.logsumexp(log_q)
    q = jnp.exp(log_q)

    scaled_f, mean, scale, rounding = _standardized(f, q)
    c = jnp.where(finite[:, None], moments - target[None], 0.0)
    if c.shape[1] == 0:
        whitening = jnp.zeros((0, 0), c.dtype)
    else:
        largest = jnp.max(jnp.abs(moments), axis=0) + jnp.abs(target)
        whitening = _whitening(*jax.lax.stop_gradient((c, q, largest)))
    z = c @ whitening
    level = bound if bounded else scale / bound
    search = (jax.lax.stop_gradient(rounding), bounded, tolerance, max_steps)
    beta, u, found = _multipliers(scaled_f, z, log_q, level, slack, *search)
    kl_min, code = found.kl_min, found.code

    objective = jnp.where(found.alone, 0.0, scaled_f)
    chosen = tilt(objective, z, q, beta, u, slack)
    log_p = jnp.where(inside, log_q + chosen.x - chosen.log_partition, -jnp.inf)
    log_p = log_p - jax.nn.logsumexp(log_p)  # what a huge x has rounded
    if c.shape[1] == 0 and bounded:  # the best face is known: the largest entries
        best = inside & (scaled_f == jnp.max(jnp.where(inside, scaled_f, -jnp.inf)))
        log_best = jnp.where(best, log_q, -jnp.inf)
        log_mass = jax.nn.logsumexp(log_best)
        is_face = (code == Result.COLLAPSED) | ((code == Result.CONVERGED) & (-log_mass <= bound))
        log_p = jnp.where(is_face, log_best - log_mass, log_p)
        beta, code = jnp.where(is_face, jnp.inf, beta), jnp.where(is_face, Result.COLLAPSED, code)
    log_p = jnp.where(is_finite, log_p, log_q)
    p = jnp.exp(log_p)
    value = jnp.sum(p * scaled_f)
    kl = jnp.where(is_finite & jnp.isfinite(beta), chosen.kl, jnp.sum(jnp.where(p > 0.0, p * (log_p - log_q), 0.0)))

    is_inactive = code == Result.CONSTRAINT_INACTIVE
    is_flat = is_inactive | (code == Result.COLLAPSED)
    eta = jnp.where(beta > 0.0, 1.0 / jnp.where(beta > 0.0, beta, 1.0), 0.0)
    v = jnp.where(is_inactive, found.flattening, jnp.where(found.alone, u, u * eta))
    dual = jnp.where(is_inactive | jnp.isinf(beta), value, eta * (chosen.log_partition + (bound if bounded else 0.0)))
    gap = jnp.where(is_flat, 0.0, bound - kl) if bounded else 0.0
    pull = jnp.where(is_inactive | found.alone, 0.0, slack * eta)
    gradient = jnp.sqrt(gap**2 + jnp.sum((p @ z + pull * u) ** 2))
    impossible = (code == Result.INFEASIBLE) | (code == Result.BELOW_MINIMAL_KL)
    return InformationProjection(
        log_p=log_p,
        temperature=jnp.where(found.alone, jnp.inf, eta * scale) if bounded else bound,
        multipliers=whitening @ v * jnp.where(found.alone, 1.0, scale),
        value=mean + scale * value,
        dual=jnp.where(impossible, -jnp.inf, mean + scale * dual),
        kl=kl,
        kl_min=kl_min,
        residual=p @ c,
        gradient_norm=gradient,
        effective_sample_size=effective_sample_size(log_p),
        iterations=found.steps,
        result=jnp.where(is_finite, code, Result.NON_FINITE).astype(jnp.int32),
    )


class _Found(NamedTuple):
    kl_min: Float[Array, ""]
    flattening: Float[Array, " moments"]
    """Multipliers that make `f + z v` constant where f is inactive."""
    alone: Bool[Array, ""]
    """Whether `f` was left out, because nothing meets both constraints."""
    steps: Int[Array, ""]
    code: Int[Array, ""]


@partial(jax.custom_jvp, nondiff_argnums=(6, 7, 8))
def _multipliers(f, z, log_q, level, slack, rounding, bounded, tolerance, max_steps):
    """`(beta, u)` and what was found on the way; `level` is the bound, or the inverse temperature."""
    q = jnp.exp(log_q)
    size = z.shape[1]
    search = {
        "tolerance": jnp.asarray(tolerance, f.dtype),
        "max_steps": max_steps,
        "direct": size <= LARGEST_DIRECT,
    }
    nothing, zero = jnp.zeros(size, f.dtype), jnp.zeros((), f.dtype)
    if not bounded:
        matched = match_moments(f, z, q, level, nothing, slack, **search)
        return (
            level,
            matched.u,
            _Found(jnp.asarray(jnp.nan, f.dtype), nothing, jnp.zeros((), bool), matched.steps, matched.code),
        )

    epsilon = level
    if size == 0:
        u0, kl_min, before = nothing, zero, jnp.zeros((), jnp.int32)
        impossible = jnp.zeros((), bool)
        path = nothing
        p0 = q
    else:
        # Under q the covariance of whitened moments is known: Newton's first step is free, and taken where it is short.
        mean = q @ z
        squares = jnp.sum(mean**2)
        first = -mean / jnp.maximum(1.0 - squares, 0.5)
        first = jnp.where((squares < 0.25) & (log_mean_exp(z @ first, q)[0] <= 0.0), first, 0.0)
        nearest = match_moments(jnp.zeros_like(f), z, q, zero, first, zero, **search)
        u0, p0, before = nearest.u, nearest.now.p, nearest.steps
        impossible = nearest.code == Result.INFEASIBLE
        kl_min = jnp.where(impossible, jnp.inf, nearest.now.kl)
        path = flattening(f, z, nearest.now, direct=search["direct"])
    is_above = impossible | (kl_min > epsilon)
    error = f + z @ path
    spread = jnp.sqrt(jnp.sum(p0 * (error - jnp.sum(p0 * error)) ** 2))
    inactive = ~is_above & (spread <= 1e-10 + rounding)

    # Without slack nothing meets both constraints: then the moments are matched as well as the bound allows.
    alone = is_above & (slack == 0.0)
    goal, leeway = jnp.where(alone, 0.0, f), jnp.where(alone, 1.0, slack)
    room = jnp.where(is_above, epsilon, epsilon - kl_min)
    beta = jnp.sqrt(2.0 * room) / jnp.where(spread > 0.0, spread, 1.0)
    # With slack the moments' mean m is matched by u = -m beta / (beta + slack), nearly, and KL is half its square.
    mean = q @ z
    length, wanted = jnp.linalg.norm(mean), jnp.sqrt(2.0 * epsilon)
    beta = jnp.where(is_above, jnp.minimum(leeway * wanted / jnp.maximum(length - wanted, 0.1 * length), 1.0), beta)
    u_soft = -beta / (beta + jnp.where(is_above, leeway, 1.0)) * mean
    start_x, start_path = jnp.where(is_above, z @ u_soft, z @ u0), jnp.where(is_above, goal, error)

    def too_far(beta):
        return log_mean_exp(start_x + beta * start_path, q)[2] > 2.0 * epsilon

    beta = jax.lax.while_loop(lambda b: (b > 1e-12) & too_far(b), lambda b: 0.5 * b, beta)
    u = jnp.where(is_above, u_soft, u0 + beta * path)
    met = meet_bound(
        goal, z, q, epsilon, leeway, floor=jnp.where(is_above, 0.0, kl_min), beta=beta, u=u, skip=inactive, **search
    )
    code = jnp.where(is_above, jnp.where(impossible, Result.INFEASIBLE, Result.BELOW_MINIMAL_KL), met.code)
    code = jnp.where(inactive, Result.CONSTRAINT_INACTIVE, code).astype(jnp.int32)
    return (
        jnp.where(inactive, 0.0, jnp.exp(met.log_beta)),
        jnp.where(inactive, u0, met.u),
        _Found(kl_min, path, alone, before + met.steps, code),
    )


@_multipliers.defjvp
def _multipliers_jvp(bounded, tolerance, max_steps, primals, tangents):
    """By the conditions `E_p z + slack u / beta = 0` and `KL = epsilon`, linearized in (u, beta)."""
    beta, u, found = _multipliers(*primals, bounded, tolerance, max_steps)
    f, z, log_q, level, slack, _ = primals
    f_dot, z_dot, log_q_dot, level_dot, slack_dot, _ = tangents

    def conditions(point, f, z, log_q, level, slack):
        now = tilt(f, z, jnp.exp(log_q), point[0], point[1], slack)
        return now.kl - level if bounded else point[0] - level, now.gradient

    still = (f, z, log_q, level, slack)
    _, right = jax.jvp(partial(conditions, (beta, u)), still, (f_dot, z_dot, log_q_dot, level_dot, slack_dot))
    (kl_beta, kl_u), (gradient_beta, gradient_u) = jax.jacfwd(conditions)((beta, u), *still)
    matrix = jnp.block([[kl_beta[None, None], kl_u[None, :]], [gradient_beta[:, None], gradient_u]])
    known = found.code == Result.CONVERGED
    matrix = jnp.where(known, matrix, jnp.eye(matrix.shape[0], dtype=matrix.dtype))
    dot = -jnp.linalg.solve(_regular(matrix, z), jnp.concatenate([right[0][None], right[1]]))
    dot = jnp.where(known, dot, 0.0)
    return (beta, u, found), (dot[0], dot[1:], jax.tree.map(_no_tangent, found))


_compiled = partial(jax.jit, static_argnums=(6, 7, 8))(_project)
