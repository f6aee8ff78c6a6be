"""Fixed points of contractions, with derivatives by the implicit function theorem.

    x* = T(x*, theta),        dx* = (I - dT/dx)^-1 dT/dtheta dtheta

The loop itself is never differentiated; the linear system is solved by the same kind of iteration, which converges
because `dT/dx` has the contraction's spectral radius (Krantz and Parks 2002, theorem 3.3.1).
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float, Int, PyTree

from optimality.core.numerics import Real
from optimality.core.result import Result

TRACE = 128
_SLOTS_PER_OCTAVE = 6
_WINDOW = 2048


class Trace(NamedTuple):
    """Residuals of a loop at steps that grow geometrically; unused places have step -1."""

    step: Int[Array, " trace"]
    residual: Float[Array, " trace"]


class FixedPoint(NamedTuple):
    point: PyTree
    code: Int[Array, ""]
    steps: Int[Array, ""]
    residual: Float[Array, ""]
    trace: Trace


def empty_trace(dtype: jnp.dtype) -> Trace:
    return Trace(jnp.full((TRACE,), -1, jnp.int32), jnp.zeros((TRACE,), dtype))


def _slot(step: Int[Array, ""]) -> Int[Array, ""]:
    slot = jnp.log2(step.astype(jnp.float32) + 1.0) * _SLOTS_PER_OCTAVE
    return jnp.minimum(slot.astype(jnp.int32), TRACE - 1)


def record(trace: Trace, step: Int[Array, ""], residual: Float[Array, ""]) -> Trace:
    """Writes into the slot of `step`; a later step of the same slot replaces an earlier one."""
    slot = _slot(step)
    return Trace(trace.step.at[slot].set(step), trace.residual.at[slot].set(residual))


def largest_change(new: PyTree, old: PyTree) -> Float[Array, ""]:
    """`max |new - old|` over all leaves; NaN where any entry is."""
    changes = jax.tree.map(lambda a, b: jnp.max(jnp.abs(a - b)), new, old)
    return jnp.max(jnp.stack(jax.tree.leaves(changes)))


def fixed_point(
    function: Callable[[PyTree, PyTree], PyTree],
    guess: PyTree,
    arguments: PyTree,
    *,
    tolerance: Real,
    max_steps: int,
) -> FixedPoint:
    """Iterates `x <- function(x, arguments)` until `max |change| <= tolerance`.

    The tolerance is raised to a few roundings of the values' own size, below which no change can be seen. The code
    is `CONVERGED`, `ITERATION_LIMIT`, `NON_FINITE`, or `NOT_CONVERGED` when the change has not shrunk over thousands
    of steps or, at the limit, falls too slowly to have a finite sum. `arguments` may be differentiated; nothing that
    `function` closes over may.
    """
    solved = _iterate(function, guess, jax.lax.stop_gradient(arguments), tolerance, max_steps)
    point = _attach_derivative(function, jax.lax.stop_gradient(solved.point), arguments, max_steps)
    return solved._replace(point=point)


class _Loop(NamedTuple):
    point: PyTree
    residual: Float[Array, ""]
    earlier_residual: Float[Array, ""]
    steps: Int[Array, ""]
    code: Int[Array, ""]
    trace: Trace


_RUNNING = -1


def _iterate(function, guess, arguments, tolerance, max_steps) -> FixedPoint:
    dtype = jax.tree.leaves(guess)[0].dtype
    eps = jnp.finfo(dtype).eps

    def body(loop: _Loop) -> _Loop:
        new = function(loop.point, arguments)
        residual = largest_change(new, loop.point)
        size = jnp.max(jnp.stack([jnp.max(jnp.abs(leaf)) for leaf in jax.tree.leaves(new)]))
        steps = loop.steps + 1
        done = residual <= jnp.maximum(jnp.asarray(tolerance, dtype), 4 * eps * size)
        at_window = steps % _WINDOW == 0
        stuck = at_window & (steps > _WINDOW) & (residual > 0.999 * loop.earlier_residual)
        code = jnp.where(stuck, Result.NOT_CONVERGED, _RUNNING)
        code = jnp.where(steps >= max_steps, Result.ITERATION_LIMIT, code)
        code = jnp.where(done, Result.CONVERGED, code)
        code = jnp.where(jnp.isfinite(residual), code, Result.NON_FINITE).astype(jnp.int32)
        earlier = jnp.where(at_window, residual, loop.earlier_residual)
        return _Loop(new, residual, earlier, steps, code, record(loop.trace, steps, residual))

    infinity = jnp.asarray(jnp.inf, dtype)
    start = _Loop(
        guess,
        infinity,
        infinity,
        jnp.asarray(0, jnp.int32),
        jnp.asarray(_RUNNING, jnp.int32),
        empty_trace(dtype),
    )
    end = jax.lax.while_loop(lambda loop: loop.code == _RUNNING, body, start)
    diverges = (end.code == Result.ITERATION_LIMIT) & _not_summable(end.trace, end.steps)
    code = jnp.where(diverges, Result.NOT_CONVERGED, end.code).astype(jnp.int32)
    return FixedPoint(end.point, code, end.steps, end.residual, end.trace)


def _not_summable(trace: Trace, steps: Int[Array, ""]):
    """Whether changes fall like `1 / step` or slower, so that their sum, the point, grows without bound.

    Read off the slopes of the last two octaves: a geometric decay, however slow, doubles its slope between them.
    """
    last = _slot(steps)
    at = jnp.maximum(last - _SLOTS_PER_OCTAVE * jnp.arange(3, dtype=jnp.int32), 0)
    step, residual = jnp.log(trace.step[at].astype(trace.residual.dtype)), jnp.log(trace.residual[at])
    slope = (residual[1:] - residual[:-1]) / (step[:-1] - step[1:])
    return (steps > 2 * _WINDOW) & (slope[0] < 1.1) & (slope[0] < 1.5 * slope[1])


def _attach_derivative(function, point, arguments, max_steps):
    """`point`, as a function of `arguments` whose derivative solves the linearized fixed-point equation."""

    def residual(x):
        return jax.tree.map(lambda a, b: a - b, x, function(x, arguments))

    def solve_linear(matvec, b):
        # As one vector: JAX cannot transpose the solve of a tree of which only some leaves are used afterwards.
        flat, unravel = ravel_pytree(b)
        eps = jnp.finfo(flat.dtype).eps

        def flat_matvec(x):
            return ravel_pytree(matvec(unravel(x)))[0]

        def richardson(matvec, b):
            def body(carry):
                x, _, steps = carry
                correction = b - matvec(x)
                change = jnp.max(jnp.abs(correction)) / jnp.maximum(jnp.max(jnp.abs(x)), eps)
                return x + correction, change, steps + 1

            def running(carry):
                _, change, steps = carry
                return (change > 4 * eps) & (steps < max_steps)

            start = (b, jnp.asarray(jnp.inf, b.dtype), jnp.asarray(0, jnp.int32))
            return jax.lax.while_loop(running, body, start)[0]

        return unravel(jax.lax.custom_linear_solve(flat_matvec, flat, richardson, transpose_solve=richardson))

    return jax.lax.custom_root(residual, point, lambda _, x: x, lambda g, y: solve_linear(g, y))
