"""A linear-quadratic problem from functions, expanded about a trajectory.

    f(x, u) = f + f_x dx + f_u du,   cost(x, u) = l + l_x'dx + l_u'du + 1/2 [dx; du]'[l_xx, l_xu; l_ux, l_uu][dx; du]

and each column i of the noise's matrix `noise(x, u)` to first order, as a channel. Everything is written in x and u,
not in deviations, so that the policy acts on states as they are. The expansion is exact for an affine f, an affine
noise and a quadratic cost, and elsewhere as good as the trajectory is near: what is optimal for it can be bad where it
is not.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from optimality.core.numerics import cast_floats, float_dtype, is_traced, precision, to_numpy
from optimality.problems.criterion import FiniteHorizon
from optimality.problems.linear_quadratic import LinearQuadratic, NoiseChannels

Function = Callable[[Any, Any, Any], Any]
_Tensor = Float[Array, "..."]


def from_functions(
    dynamics: Function,
    cost: Function,
    states: Any,
    controls: Any,
    *,
    final_cost: Callable[[Any], Any] | None = None,
    noise: Function | None = None,
    convex: bool = True,
    discount: Any = 1.0,
    **fields: Any,
) -> LinearQuadratic:
    """The expansion about `states [T+1, n]` and `controls [T, m]`.

    Args:
        dynamics: `f(x, u, t)`, the mean of the next state, `[n]`, in JAX.
        cost: `cost(x, u, t)` of a step, a number.
        states: where to expand; the last is for `final_cost`.
        controls: likewise.
        final_cost: of the last state.
        noise: `noise(x, u, t)`, the matrix `[n, L]` by which L independent standard normal numbers enter.
        convex: make the quadratic parts convex: eigenvalues of R are raised to 1e-6 of the largest, those of
            `Q - N R^-1 N'` and of the last state's to 0. To raise those of Q alone would not do.
        discount: of a step.
        fields: those of `LinearQuadratic`; the first state is `states[0]` by default.

    Raises:
        ValueError: shapes that do not fit, or an expansion that is not finite, with the step where it is not.
    """
    states, controls = (x if is_traced(x) else np.asarray(x, np.float64) for x in (states, controls))
    if states.ndim != 2 or controls.ndim != 2 or states.shape[0] != controls.shape[0] + 1 or controls.shape[0] < 1:
        raise ValueError(
            f"states and controls have shapes {states.shape} and {controls.shape}, but need [T+1, n] and [T, m]."
        )

    def expand(states, controls):
        return _expand(dynamics, cost, final_cost, noise, convex, states, controls)

    if is_traced((states, controls)):
        parts = expand(*cast_floats((states, controls), float_dtype((states, controls))))
    else:
        with precision(np.float64):
            parts = to_numpy(jax.jit(expand)(*cast_floats((states, controls), np.float64)))
        _require_finite(parts)
    fields = {"initial_mean": states[0], **fields}
    return LinearQuadratic(**parts, criterion=FiniteHorizon(controls.shape[0], discount), **fields)


def _expand(dynamics, cost, final_cost, noise, convex: bool, states, controls) -> dict[str, Any]:
    x, u, time = states[:-1], controls, jnp.arange(controls.shape[0])
    n, m = x.shape[1], u.shape[1]
    f = jax.vmap(dynamics)(x, u, time)
    A, B = jax.vmap(jax.jacfwd(dynamics, argnums=(0, 1)))(x, u, time)
    if f.shape != x.shape:
        raise ValueError(f"dynamics returned shape {f.shape[1:]}, but the states have {(n,)}.")
    value = jax.vmap(cost)(x, u, time)
    if value.shape != x.shape[:1]:
        raise ValueError(f"cost must return a number, but returned shape {value.shape[1:]}.")
    l_x, l_u = jax.vmap(jax.grad(cost, argnums=(0, 1)))(x, u, time)
    (Q, N), (_, R) = jax.vmap(jax.hessian(cost, argnums=(0, 1)))(x, u, time)
    if convex:
        Q, R = _convex(Q, R, N)
    quadratic = _quadratic(Q, x, x) / 2 + _quadratic(R, u, u) / 2 + _quadratic(N, x, u)
    q = l_x - _apply(Q, x) - _apply(N, u)
    r = l_u - _apply(R, u) - _apply(jnp.swapaxes(N, -1, -2), x)
    parts = {
        "A": A,
        "B": B,
        "c": f - _apply(A, x) - _apply(B, u),
        "Q": Q,
        "R": R,
        "N": N,
        "q": q,
        "r": r,
        "s": value - quadratic - jnp.sum(q * x, axis=-1) - jnp.sum(r * u, axis=-1),
        "channels": None if noise is None else _channels(noise, x, u, time),
    }
    if final_cost is not None:
        end = states[-1]
        slope, Qf = jax.grad(final_cost)(end), jax.hessian(final_cost)(end)
        Qf = _raised(Qf, 0.0) if convex else Qf
        qf = slope - Qf @ end
        parts |= {"Qf": Qf, "qf": qf, "sf": final_cost(end) - 0.5 * end @ Qf @ end - qf @ end}
    assert R.shape[-1] == m
    return parts


def _channels(noise: Function, x, u, time) -> NoiseChannels:
    def columns(x, u, time):
        return jnp.asarray(noise(x, u, time)).T

    offset = jax.vmap(columns)(x, u, time)
    if offset.ndim != 3 or offset.shape[-1] != x.shape[-1]:
        raise ValueError(f"noise must return [n, L] with n = {x.shape[-1]}, but returned {offset.shape[:0:-1]}.")
    C, D = jax.vmap(jax.jacfwd(columns, argnums=(0, 1)))(x, u, time)
    constant = offset - jnp.einsum("tlij,tj->tli", C, x) - jnp.einsum("tlij,tj->tli", D, u)
    return NoiseChannels(C, D, constant)


def _convex(Q: _Tensor, R: _Tensor, N: _Tensor) -> tuple[_Tensor, _Tensor]:
    """The nearest convex cost with this N: `R` raised, then `Q - N R^-1 N'`."""
    R = _raised(R, 1e-6)
    through = N @ jnp.linalg.solve(R, jnp.swapaxes(N, -1, -2))
    return _raised(Q - through, 0.0) + (through + jnp.swapaxes(through, -1, -2)) / 2, R


def _raised(matrix: _Tensor, least: float) -> _Tensor:
    """With eigenvalues raised to at least that part of the largest."""
    values, vectors = jnp.linalg.eigh((matrix + jnp.swapaxes(matrix, -1, -2)) / 2)
    floor = least * jnp.maximum(jnp.max(jnp.abs(values), axis=-1, keepdims=True), jnp.finfo(matrix.dtype).tiny)
    values = jnp.maximum(values, floor)
    return (vectors * values[..., None, :]) @ jnp.swapaxes(vectors, -1, -2)


def _apply(matrix: _Tensor, x: _Tensor) -> _Tensor:
    return (matrix @ x[..., None])[..., 0]


def _quadratic(matrix: _Tensor, x: _Tensor, y: _Tensor) -> _Tensor:
    return jnp.sum(x * _apply(matrix, y), axis=-1)


def _require_finite(parts: dict[str, Any]) -> None:
    for name, array in parts.items():
        if array is None or isinstance(array, NoiseChannels) or np.all(np.isfinite(array)):
            continue
        where = f" at step {int(np.argwhere(~np.isfinite(array))[0][0])}" if name not in ("Qf", "qf", "sf") else ""
        raise ValueError(f"the expansion is not finite: {name}{where}. Look at the functions there.")
