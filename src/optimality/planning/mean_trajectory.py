"""The mean trajectory of a linear-quadratic plan, and its derivative.

The trajectory alone is the optimum of a deterministic problem, so its change is that of the same problem with other
linear terms: one affine pass with the gains that are known, and no products of matrices. With the costate `l = P x + p`
and `l'` that of the next state, the conditions of the optimum are

    l = Q x + N u + q + d A'l',     0 = R u + N'x + r + d B'l',     x' = A x + B u + c

and where they change by `a`, `b` and `e` at a given trajectory, with `w = P'e + y'`,

    dl = P dx + y,    y = a + K'b + d (A + B K)'w,    du = K dx - Q_uu^-1 (b + d B'w)

Under risk, or with noise that depends on state and control, the plan is not the optimum of its mean, and the derivative
goes through the gains.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from optimality.core.small_matrices import apply, cholesky, product, solve_cholesky, symmetric
from optimality.planning.quadratic_forms import with_time
from optimality.planning.riccati import Sweep
from optimality.problems.linear_quadratic import LinearQuadratic, Stage

_Tensor = Float[Array, "..."]


def mean_trajectory(problem: LinearQuadratic, swept: Sweep, risk: Any) -> tuple[_Tensor, _Tensor]:
    """States `[T+1, n]` and controls `[T, m]` from the mean of the first state, without noise."""
    stage = jax.tree.map(jnp.asarray, problem.arrays())
    mean = jnp.asarray(problem.initial_mean)
    if risk is not None or stage.channels is not None:
        return _rollout(stage, mean, swept)
    discount = jnp.asarray(problem.discount, mean.dtype)
    return _optimal_trajectory(stage, jnp.asarray(problem.Qf), jnp.asarray(problem.qf), discount, mean, swept)


def _rollout(stage: Stage, mean: _Tensor, swept: Sweep) -> tuple[_Tensor, _Tensor]:
    A, B, c = with_time(stage.A, 2), with_time(stage.B, 2), with_time(stage.c, 1)
    closed, drift = A + product(B, swept.K), c + apply(B, swept.k)

    def body(x, here):
        closed, drift = here
        return apply(closed, x) + drift, x

    last, states = jax.lax.scan(body, mean, (closed, drift))
    return jnp.concatenate([states, last[None]]), apply(swept.K, states) + swept.k


@jax.custom_jvp
def _optimal_trajectory(stage: Stage, Qf, qf, discount, mean, swept: Sweep):
    return _rollout(stage, mean, swept)


@_optimal_trajectory.defjvp
def _optimal_trajectory_jvp(primals, tangents):
    stage, _, _, d, _, swept = primals
    d_stage, d_Qf, d_qf, d_d, d_mean, _ = tangents
    states, controls = _optimal_trajectory(*primals)
    x, u = states[:-1], controls
    costate = apply(swept.P[1:], states[1:]) + swept.p[1:]
    A, B, K = with_time(stage.A, 2), with_time(stage.B, 2), swept.K
    d_A, d_B, d_Q, d_R, d_N = (with_time(getattr(d_stage, name), 2) for name in ("A", "B", "Q", "R", "N"))
    d_c, d_q, d_r = (with_time(getattr(d_stage, name), 1) for name in ("c", "q", "r"))
    e = apply(d_A, x) + apply(d_B, u) + d_c
    a = apply(symmetric(d_Q), x) + apply(d_N, u) + d_q + _apply_transposed(d * d_A + d_d * A, costate)
    b = apply(symmetric(d_R), u) + _apply_transposed(d_N, x) + d_r + _apply_transposed(d * d_B + d_d * B, costate)
    end = apply(symmetric(d_Qf), states[-1]) + d_qf
    closed = A + product(B, K)
    drive, known = a + _apply_transposed(K, b), apply(swept.P[1:], e)

    def back(y, here):
        drive, known, closed = here
        w = known + y
        return drive + d * _apply_transposed(closed, w), w

    _, w = jax.lax.scan(back, end, (drive, known, closed), reverse=True)
    change = b + d * _apply_transposed(B, w)
    d_k = -solve_cholesky(cholesky(swept.Q_uu), change[..., None])[..., 0]

    def ahead(dx, here):
        moved, closed = here
        return apply(closed, dx) + moved, dx

    last, dx = jax.lax.scan(ahead, d_mean, (apply(B, d_k) + e, closed))
    return (states, controls), (jnp.concatenate([dx, last[None]]), apply(K, dx) + d_k)


def _apply_transposed(a: _Tensor, x: _Tensor) -> _Tensor:
    return apply(jnp.swapaxes(a, -1, -2), x)
