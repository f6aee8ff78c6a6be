"""Exponential tilts of a weighted sample under moment constraints: the inner and outer iterations of
`information_projection`.

With `q` the base measure, `f` an objective, `z` moments that have zero target and unit second moments under `q`,

    p = q exp(x) / Z,    x = beta f + z u,    A = log E_q exp(x),    KL(p || q) = E_p x - A.

For a fixed `beta` the moments are matched by the minimum over `u` of the convex `A + slack |u|^2 / (2 beta)`, whose
gradient is `E_p z + slack u / beta`. Along these minima, `u(beta)`, the divergence increases:

    du / dbeta  = -H^-1 (Cov(z, f) - slack u / beta^2),        H = Cov(z, z) + slack / beta,
    dKL / dbeta = Cov(x, f) + Cov(x, z) du / dbeta

(covariances under `p`), so that `KL = epsilon` is a root in one variable. With `eta = 1 / beta`, `v = u / beta` these
are the stationarity conditions of the dual `eta epsilon + eta A + slack |v|^2 / 2` in both variables (Peters, Muelling
and Altun 2010, equations 7 to 10). Newton's steps are taken in `(log beta, u)`, in which the path is nearly straight,
and accepted where that dual, convex in `(eta, v)`, falls.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from optimality.core.result import Result

RUNNING = -1
LARGEST_INVERSE_TEMPERATURE = 1e8
"""Where the objective is within `1e-8 epsilon` of its deviations of the best: beyond it the weights have collapsed."""
LONGEST_STEP = 2.0
"""Of the logarithm of the inverse temperature."""
CONJUGATE_GRADIENT_STEPS = 200

Sample = Float[Array, " samples"]
Moments = Float[Array, "samples moments"]
Vector = Float[Array, " moments"]
Scalar = Float[Array, ""]


class Tilt(NamedTuple):
    """`p` at a point `x`, with its divergence, the gradient of the objective over `u`, and covariances with `z`."""

    x: Sample
    p: Sample
    log_partition: Scalar
    kl: Scalar
    mean: Vector
    with_f: Vector
    with_x: Vector
    gradient: Vector


def log_mean_exp(x: Sample, q: Sample) -> tuple[Scalar, Sample, Scalar]:
    """`log E_q exp(x)`, the tilted weights, and their divergence from `q`, accurate for tiny `x` too."""
    center = jnp.sum(q * x)
    x = jnp.where(q > 0.0, x - center, 0.0)
    top = jnp.max(jnp.where(q > 0.0, x, -jnp.inf))
    small = jnp.max(jnp.abs(x)) < 0.5
    near = jnp.log1p(jnp.sum(q * jnp.expm1(jnp.where(small, x, 0.0))))
    far = top + jnp.log(jnp.sum(q * jnp.exp(x - top)))
    a = jnp.where(small, near, far)
    ratio = x - a
    p = q * jnp.exp(ratio)
    p = p / jnp.sum(p)  # where x is huge its rounding is no small factor
    return a + center, p, jnp.maximum(jnp.sum(p * ratio), 0.0)


def tilt(f: Sample, z: Moments, q: Sample, beta: Scalar, u: Vector, slack: Scalar) -> Tilt:
    return _tilt_at(beta * f + z @ u, f, z, q, beta, u, slack)


def _tilt_at(x: Sample, f: Sample, z: Moments, q: Sample, beta: Scalar, u: Vector, slack: Scalar) -> Tilt:
    a, p, kl = log_mean_exp(x, q)
    gap_f, gap_x = f - jnp.sum(p * f), jnp.where(q > 0.0, x, 0.0) - jnp.sum(p * x)
    mean, with_f, with_x = jnp.stack([p, p * gap_f, p * gap_x]) @ z  # one pass over the moments
    return Tilt(x, p, a, kl, mean, with_f, with_x, mean + _per(slack, beta) * u)


def _per(slack: Scalar, beta: Scalar) -> Scalar:
    """`slack / beta`; without slack 0 at every beta."""
    return jnp.where(slack > 0.0, slack / jnp.where(beta > 0.0, beta, 1.0), 0.0)


def _solve(z: Moments, now: Tilt, ridge: Scalar, right: Float[Array, "moments columns"], direct: bool):
    """`(Cov_p(z, z) + ridge)^-1 right`: by Cholesky, or by conjugate gradients where a covariance costs too much."""
    if z.shape[1] == 0:
        return right
    if direct:
        centered = (z - now.mean[None]) * jnp.sqrt(now.p)[:, None]  # positive semidefinite whatever the rounding
        covariance = centered.T @ centered
        factor = jnp.linalg.cholesky(covariance + ridge * jnp.eye(z.shape[1], dtype=z.dtype))
        half = jax.lax.linalg.triangular_solve(factor, right, left_side=True, lower=True)
        return jax.lax.linalg.triangular_solve(factor, half, left_side=True, lower=True, transpose_a=True)

    def product(columns):
        inner = z @ columns
        inner = inner - (now.p @ inner)[None]
        return z.T @ (now.p[:, None] * inner) + ridge * columns

    def body(loop):
        step, solution, residual, direction, squares = loop
        image = product(direction)
        rate = (squares / jnp.maximum(jnp.sum(direction * image, axis=0), 1e-300))[None]
        solution, residual = solution + rate * direction, residual - rate * image
        new = jnp.sum(residual * residual, axis=0)
        return step + 1, solution, residual, residual + (new / jnp.maximum(squares, 1e-300))[None] * direction, new

    goal = 1e-8 * jnp.sum(right * right, axis=0)  # relative residual 1e-4: Newton needs no better direction
    start = (jnp.zeros((), jnp.int32), jnp.zeros_like(right), right, right, jnp.sum(right * right, axis=0))
    return jax.lax.while_loop(lambda loop: (loop[0] < CONJUGATE_GRADIENT_STEPS) & jnp.any(loop[4] > goal), body, start)[
        1
    ]


def _ridge(now: Tilt, slack: Scalar, beta: Scalar) -> Scalar:
    """Slack, and where the gradient is large a share of it, which keeps Newton's step bounded where the sample hardly
    curves the dual; it vanishes with the gradient, faster than linearly convergent."""
    length = jnp.linalg.norm(now.gradient)
    return _per(slack, beta) + 1e-13 + 0.1 * jnp.minimum(length, 1.0) ** 2


def _descend(q: Sample, beta: Scalar, u: Vector, slack: Scalar, now: Tilt, step: Vector, along: Sample):
    """`(x, u)` after the step, halved until the convex objective over `u` falls enough; `along = z step`, so that a
    trial costs no pass over the moments."""
    slope = jnp.sum(now.gradient * step)
    weight = _per(slack, beta)

    def objective(t):
        return log_mean_exp(now.x + t * along, q)[0] + 0.5 * weight * jnp.sum((u + t * step) ** 2)

    here = now.log_partition + 0.5 * weight * jnp.sum(u**2)
    rounding = 1e-14 * (1.0 + jnp.abs(here))

    def too_high(t):
        return ~(objective(t) <= here + 1e-4 * t * slope + rounding)

    t = jax.lax.while_loop(lambda t: (t > 1e-10) & too_high(t), lambda t: 0.5 * t, jnp.ones((), u.dtype))
    return now.x + t * along, u + t * step


class Matching(NamedTuple):
    u: Vector
    now: Tilt
    steps: Int[Array, ""]
    code: Int[Array, ""]


def match_moments(
    f: Sample,
    z: Moments,
    q: Sample,
    beta: Scalar,
    u: Vector,
    slack: Scalar,
    *,
    tolerance: Scalar,
    max_steps: int,
    direct: bool,
) -> Matching:
    """The minimum over `u` at a fixed `beta`.

    No weights can match the moments once the objective is below what any of them could reach
    (`beta min f + min log q`): then the target is outside the convex hull, and the search stops there.
    """
    least = jnp.min(jnp.where(q > 0.0, beta * f + jnp.log(jnp.where(q > 0.0, q, 1.0)), jnp.inf)) - 1e-6

    def ended(now, steps):
        code = jnp.where(steps >= max_steps, Result.ITERATION_LIMIT, RUNNING)
        code = jnp.where((slack == 0.0) & (now.log_partition < least), Result.INFEASIBLE, code)
        return jnp.where(jnp.linalg.norm(now.gradient) <= tolerance, Result.CONVERGED, code).astype(jnp.int32)

    def body(loop):
        u, now = loop.u, loop.now
        step = -_solve(z, now, _ridge(now, slack, beta), now.gradient[:, None], direct)[:, 0]
        x, u = _descend(q, beta, u, slack, now, step, z @ step)
        now = _tilt_at(x, f, z, q, beta, u, slack)
        return Matching(u, now, loop.steps + 1, ended(now, loop.steps + 1))

    now, zero = tilt(f, z, q, beta, u, slack), jnp.zeros((), jnp.int32)
    return jax.lax.while_loop(lambda loop: loop.code == RUNNING, body, Matching(u, now, zero, ended(now, zero)))


def flattening(f: Sample, z: Moments, now: Tilt, *, direct: bool) -> Vector:
    """`v` for which `f + z v` varies least under the weights: `du / dbeta` of the path at 0."""
    ridge = jnp.asarray(1e-13, f.dtype)
    solved = -_solve(z, now, ridge, now.with_f[:, None], direct)[:, 0]
    left = f + z @ solved
    with_left = (now.p * (left - jnp.sum(now.p * left))) @ z  # what rounding and the ridge left over
    return solved - _solve(z, now, ridge, with_left[:, None], direct)[:, 0]


class Bounding(NamedTuple):
    log_beta: Scalar
    low: Scalar
    high: Scalar
    u: Vector
    now: Tilt
    steps: Int[Array, ""]
    code: Int[Array, ""]


def meet_bound(
    f: Sample,
    z: Moments,
    q: Sample,
    epsilon: Scalar,
    slack: Scalar,
    *,
    floor: Scalar,
    beta: Scalar,
    u: Vector,
    skip: Bool[Array, ""],
    tolerance: Scalar,
    max_steps: int,
    direct: bool,
) -> Bounding:
    """`(beta, u)` with matched moments and `KL = epsilon`, from a start.

    Newton's method on `log(KL - floor) = log(epsilon - floor)` in `log beta`, `floor` being the divergence at 0 (there
    the two logarithms are related linearly), kept inside a bracket; `u` follows along the path. Where the moments are
    badly matched `beta` waits, the longer the larger it is: its path carries the ridge of the step, times `beta`, into
    the exponents. A `KL` that stays below the bound up to the largest `beta` ends as `COLLAPSED`.
    """
    top = jnp.log(jnp.asarray(LARGEST_INVERSE_TEMPERATURE, f.dtype))

    def ended(now, log_beta, steps):
        code = jnp.where(steps >= max_steps, Result.ITERATION_LIMIT, RUNNING)
        length = jnp.linalg.norm(now.gradient)
        matched = length <= tolerance
        met = jnp.abs(now.kl - epsilon) <= tolerance * epsilon
        # So near the best face rounding limits how well the moments are matched.
        below = (log_beta >= top - 1e-9) & (now.kl < epsilon)
        code = jnp.where(below & ((length <= 1e-6) | (code != RUNNING)), Result.COLLAPSED, code)
        return jnp.where(matched & met, Result.CONVERGED, code).astype(jnp.int32)

    def body(loop):
        u, now, beta = loop.u, loop.now, jnp.exp(loop.log_beta)
        bend = _per(slack, beta) / beta * u
        right = jnp.stack([now.gradient, now.with_f - bend], axis=1)
        solved = -_solve(z, now, _ridge(now, slack, beta), right, direct)
        step, path = solved.T
        along_step, along_path = (z @ solved).T
        decrement = -jnp.sum(now.gradient * step)

        correction = jnp.sum(now.with_x * step)
        kl = now.kl + correction  # what it will be once the moments are matched
        x_with_f = jnp.sum(now.p * (now.x - jnp.sum(now.p * now.x)) * (f - jnp.sum(now.p * f)))
        slope = beta * (x_with_f + jnp.sum(now.with_x * path))
        excess, goal = kl - floor, epsilon - floor
        known = (excess > 0.0) & (slope > 0.0)
        change = jnp.log(goal / jnp.where(known, excess, 1.0)) * excess / jnp.where(known, slope, 1.0)
        change = jnp.where(known, change, jnp.where(kl < epsilon, LONGEST_STEP, -LONGEST_STEP))
        change = jnp.clip(change, -LONGEST_STEP, LONGEST_STEP)
        sure = (decrement < 1e-3 * jnp.minimum(1.0, epsilon)) & (jnp.abs(correction) <= 0.1 * jnp.abs(kl - epsilon))
        low = jnp.where(sure & (kl <= epsilon), jnp.maximum(loop.low, loop.log_beta), loop.low)
        high = jnp.where(sure & (kl > epsilon), jnp.minimum(loop.high, loop.log_beta), loop.high)
        goal_beta = loop.log_beta + change
        outside = ((goal_beta < low) | (goal_beta > high)) & jnp.isfinite(low + high)
        goal_beta = jnp.minimum(jnp.where(outside, 0.5 * (low + high), goal_beta), top)
        change = goal_beta - loop.log_beta

        def trial(t):
            new_beta = jnp.exp(loop.log_beta + t * change)
            moved = new_beta - beta
            return new_beta, now.x + moved * f + t * along_step + moved * along_path, u + t * step + moved * path

        def dual(beta, x, u):
            return (epsilon + log_mean_exp(x, q)[0] + 0.5 * _per(slack, beta) * jnp.sum(u**2)) / beta

        here = dual(beta, now.x, u)
        rounding = 1e-14 * (jnp.abs(here) + (1.0 + jnp.abs(now.log_partition)) / beta)
        shortest = 1.0 / 64.0
        t = jax.lax.while_loop(
            lambda t: (t >= shortest) & ~(dual(*trial(t)) <= here + rounding), lambda t: 0.5 * t, jnp.ones((), f.dtype)
        )
        together = (decrement < 0.1 / (1.0 + beta)) & (t >= shortest)

        def careful():
            return beta, *_descend(q, beta, u, slack, now, step, along_step)

        beta, x, u = jax.lax.cond(together, lambda: trial(t), careful)
        log_beta = jnp.where(together, loop.log_beta + t * change, loop.log_beta)
        now = _tilt_at(x, f, z, q, beta, u, slack)
        return Bounding(log_beta, low, high, u, now, loop.steps + 1, ended(now, log_beta, loop.steps + 1))

    log_beta = jnp.minimum(jnp.log(beta), top)
    now, zero = tilt(f, z, q, jnp.exp(log_beta), u, slack), jnp.zeros((), jnp.int32)
    unknown = jnp.asarray(jnp.inf, f.dtype)
    code = jnp.where(skip, Result.CONSTRAINT_INACTIVE, ended(now, log_beta, zero)).astype(jnp.int32)
    start = Bounding(log_beta, -unknown, unknown, u, now, zero, code)
    return jax.lax.while_loop(lambda loop: loop.code == RUNNING, body, start)
