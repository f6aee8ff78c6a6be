"""The Riccati equation without an end: discounted, or on average.

    P = Q + d A'P~A - (N + d A'P~B)(R + d B'P~B)^-1(N + d A'P~B)',    P~ = (I + risk P W)^-1 P

By structure-preserving doubling (Chu, Fan and Lin 2005), which squares the closed loop at each step, on

    A_0 = d^1/2 (A - B R^-1 N'),   G_0 = d B R^-1 B' + risk W,   H_0 = Q - N R^-1 N'
    A+ = A (I + G H)^-1 A,   G+ = G + A (I + G H)^-1 G A',   H+ = H + A'H (I + G H)^-1 A,      H -> P

With channels of noise doubling has no form, and the equation is iterated from `P = 0`. The linear term then solves a
linear system; derivatives of P follow from the equation, by the Lyapunov equation of the closed loop.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from optimality.core.result import Result
from optimality.core.small_matrices import product, symmetric
from optimality.planning.gaussian_risk import certainty_equivalent, root, tilt
from optimality.planning.quadratic_forms import Forms, forms
from optimality.planning.riccati import backward_step, constant_terms
from optimality.problems.criterion import AverageReward
from optimality.problems.linear_quadratic import LinearQuadratic

_Tensor = Float[Array, "..."]
_Number = Float[Array, ""]


class StationarySolution(NamedTuple):
    """Cost-to-go and gains of every step; on average `average_cost` is per step and `s` is zero. `residual` is the
    error of the equation, relative to P; `spectral_radius` that of the closed loop, with the discount's root, in mean
    square where noise depends on the state."""

    P: _Tensor
    p: _Tensor
    s: _Tensor
    K: _Tensor
    k: _Tensor
    Q_uu: _Tensor
    average_cost: _Number
    residual: _Number
    spectral_radius: _Number
    steps: Int[Array, ""]
    code: Int[Array, ""]


def stationary(
    problem: LinearQuadratic, temperature: Any, risk: Any, tolerance: _Number, max_steps: int
) -> StationarySolution:
    """The solution under which the state does not grow."""
    step = forms(problem.arrays())
    discount = jnp.asarray(problem.discount, step.F.dtype)
    P, iterations = _fixed_point(max_steps, step, discount, risk, tolerance)
    n = P.shape[-1]
    start = _ahead(P, jnp.zeros((n,), P.dtype), step.W, risk)
    _, at_zero = backward_step(step, start, discount)
    K = at_zero.gains()[:, :n]
    closed, channels = _closed_loop(step, P, K, risk)
    offset = backward_step(step, start, discount)[0][:, n]
    p = jnp.linalg.solve(jnp.eye(n, dtype=P.dtype) - discount * closed.T, offset)
    new, solved = backward_step(step, _ahead(P, p, step.W, risk), discount)
    gains = solved.gains()
    once = jax.tree.map(lambda x: x[None], solved)
    constant = constant_terms(step, P[None], p[None], once, discount, temperature, risk)
    average = isinstance(problem.criterion, AverageReward)
    s = jnp.zeros((), P.dtype) if average else constant[0] / (1.0 - discount)
    average_cost = constant[0] if average else jnp.asarray(jnp.nan, P.dtype)
    scale = jnp.maximum(jnp.max(jnp.abs(P)), jnp.finfo(P.dtype).tiny)
    residual = jnp.max(jnp.abs(new[:, :n] - P)) / scale
    radius = _radius(closed, channels, discount)
    limit = jnp.maximum(1e3 * tolerance, 1e4 * jnp.finfo(P.dtype).eps)
    good = (residual <= limit) & (radius < 1.0)
    code = jnp.where(good, Result.CONVERGED, Result.NOT_CONVERGED)
    code = jnp.where(good | (iterations < max_steps), code, Result.ITERATION_LIMIT)
    indefinite = jnp.isnan(jnp.sum(solved.factor))
    if risk is not None:
        still = jax.lax.stop_gradient((jnp.concatenate([P, p[:, None]], axis=1), step.W, risk))
        indefinite = indefinite | jnp.isnan(jnp.sum(tilt(still[0], root(still[1]), still[2])))
    bad = indefinite & jnp.all(jnp.isfinite(P))
    code = jnp.where(bad, Result.NOT_POSITIVE_DEFINITE, code)
    return StationarySolution(
        P,
        p,
        s,
        gains[:, :n],
        gains[:, n],
        solved.Q_uu,
        average_cost,
        residual,
        radius,
        iterations.astype(jnp.int32),
        code.astype(jnp.int32),
    )


def _ahead(P, p, W, risk) -> Float[Array, "n n1"]:
    if risk is not None:
        P, p, _ = certainty_equivalent(P, p, W, risk)
    return jnp.concatenate([P, p[:, None]], axis=1)


def _closed_loop(step: Forms, P, K, risk) -> tuple[_Tensor, _Tensor | None]:
    """Mean of the next state as the cost-to-go sees it, `T (A + B K)`, and `C_i + D_i K`."""
    n = P.shape[-1]
    closed = step.F[:, :n] + product(step.F[:, n:-1], K)
    if risk is not None:
        closed = jnp.linalg.solve(jnp.eye(n, dtype=P.dtype) + risk * product(step.W, P), closed)
    if step.S is None:
        return closed, None
    return closed, step.S[..., :n] + product(step.S[..., n:-1], K[None])


@functools.partial(jax.custom_jvp, nondiff_argnums=(0,))
def _fixed_point(max_steps: int, step: Forms, discount, risk, tolerance) -> tuple[_Tensor, _Number]:
    """P, and the number of steps as a real number, so that it may stand beside what has derivatives."""
    if step.S is None:
        return _doubling(max_steps, step, discount, risk, tolerance)
    n = step.W.shape[-1]

    def body(state):
        P, _, count = state
        new = backward_step(step, jnp.concatenate([P, jnp.zeros((n, 1), P.dtype)], axis=1), discount)[0][:, :n]
        return new, _change(new, P), count + 1.0

    return _repeat(body, (jnp.zeros((n, n), step.F.dtype),), max_steps, tolerance)


def _doubling(max_steps: int, step: Forms, discount, risk, tolerance) -> tuple[_Tensor, _Number]:
    n = step.W.shape[-1]
    A, B = step.F[:, :n], step.F[:, n:-1]
    Q, R, N = step.C[:n, :n], step.C[n:-1, n:-1], step.C[:n, n:-1]
    solved = jnp.linalg.solve(R, jnp.concatenate([N.T, B.T], axis=1))
    G = discount * B @ solved[:, n:] + (0.0 if risk is None else risk * step.W)
    start = (symmetric(Q - N @ solved[:, :n]), jnp.sqrt(discount) * (A - B @ solved[:, :n]), symmetric(G))

    def body(state):
        H, A, G, _, count = state
        solved = jnp.linalg.solve(jnp.eye(n, dtype=A.dtype) + G @ H, jnp.concatenate([A, G], axis=1))
        new = symmetric(H + A.T @ H @ solved[:, :n])
        return new, A @ solved[:, :n], symmetric(G + A @ solved[:, n:] @ A.T), _change(new, H), count + 1.0

    return _repeat(body, start, max_steps, tolerance)


def _repeat(body, start, max_steps: int, tolerance) -> tuple[_Tensor, _Number]:
    """Until the change of the first entry, relative to its size, is below the tolerance, or not a number."""
    dtype = start[0].dtype
    state = (*start, jnp.asarray(jnp.inf, dtype), jnp.zeros((), dtype))
    end = jax.lax.while_loop(lambda s: (s[-2] > tolerance) & (s[-1] < max_steps), body, state)
    return end[0], end[-1]


def _change(new, old) -> _Number:
    return jnp.max(jnp.abs(new - old)) / jnp.maximum(jnp.max(jnp.abs(new)), jnp.finfo(new.dtype).tiny)


@_fixed_point.defjvp
def _fixed_point_jvp(max_steps: int, primals, tangents):
    step, discount, risk, _ = primals
    P, count = _fixed_point(max_steps, *primals)
    n = P.shape[-1]
    zero = jnp.zeros((n,), P.dtype)

    def equation(step, discount, risk):
        return backward_step(step, _ahead(P, zero, step.W, risk), discount)

    (_, solved), (d_new, _) = jax.jvp(equation, (step, discount, risk), tangents[:3])
    K = solved.gains()[:, :n]
    closed, channels = _closed_loop(step, P, K, risk)
    return (P, count), (lyapunov(d_new[:, :n], closed, channels, discount), jnp.zeros_like(count))


def lyapunov(H: _Tensor, closed: _Tensor, channels: _Tensor | None, discount: _Number) -> _Tensor:
    """`X = H + discount (closed'X closed + sum_i channels_i'X channels_i)`; linear in H."""
    n = H.shape[-1]
    if channels is None:

        def body(state, _):
            X, M = state
            return (X + M.T @ X @ M, M @ M), None

        return jax.lax.scan(body, (H, jnp.sqrt(discount) * closed), length=_DOUBLINGS)[0][0]
    every = jnp.concatenate([closed[None], channels])
    operator = discount * jnp.einsum("lki,lmj->ijkm", every, every).reshape(n * n, n * n)
    return jnp.linalg.solve(jnp.eye(n * n, dtype=H.dtype) - operator, H.reshape(-1)).reshape(n, n)


_DOUBLINGS = 40
"""Enough for a spectral radius within 1e-10 of one."""


def _radius(closed: _Tensor, channels: _Tensor | None, discount: _Number) -> _Number:
    """Spectral radius of the closed loop; with channels the root of that of `X -> closed X closed' + ...`."""
    tiny = jnp.finfo(closed.dtype).tiny
    if channels is None:

        def square(state, k):
            M, log_radius = state
            size = jnp.maximum(jnp.sqrt(jnp.sum(M * M)), tiny)
            M = M / size
            return (M @ M, log_radius + jnp.log(size) / 2.0**k), None

        start = (jnp.sqrt(discount) * closed, jnp.zeros((), closed.dtype))
        return jnp.exp(jax.lax.scan(square, start, jnp.arange(_DOUBLINGS, dtype=closed.dtype))[0][1])
    every = jnp.concatenate([closed[None], channels])

    def power(state, _):
        X, _ = state
        X = discount * jnp.sum(product(product(every, X[None]), jnp.swapaxes(every, -1, -2)), axis=0)
        size = jnp.maximum(jnp.trace(X), tiny)
        return (X / size, size), None

    identity = jnp.eye(closed.shape[-1], dtype=closed.dtype)
    start = (identity / closed.shape[-1], jnp.zeros((), closed.dtype))
    return jnp.sqrt(jax.lax.scan(power, start, length=500)[0][1])
