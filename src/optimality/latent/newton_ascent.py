"""Ascent of a smooth function of a few numbers by Newton's steps, each of them a rise.

    v <- v + t |H|^-1 g,        t the best of 1, 1/2, 1/4, ..., 0

g the gradient, `|H|` the Hessian with its eigenvalues' absolute values, so that a saddle is left and not approached
(Nocedal and Wright 2006, section 3.4; Dauphin et al. 2014).
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

Numbers = Float[Array, " numbers"]
_HALVINGS = 14
_LONGEST = 0.5
"""Of a step."""
_LEAST = 1e-4
"""Smallest curvature a step counts with, relative to the largest: flat directions are taken no faster."""
_ROUNDING = 8.0
"""Units of rounding that a rise must exceed; within them a full step is still taken if it halves the gradient."""


def newton_ascent(function: Callable[[Numbers], Float[Array, ""]], start: Numbers, *, max_steps: int) -> Numbers:
    """Where the ascent of `function` from `start` ends: where no step is a rise, or after `max_steps`."""
    gradient = jax.grad(function)

    def direction(v: Numbers, g: Numbers) -> Numbers:
        eigenvalues, vectors = jnp.linalg.eigh(jax.hessian(function)(v))
        curvature = jnp.abs(eigenvalues)
        curvature = jnp.maximum(curvature, _LEAST * jnp.max(curvature))
        curvature = jnp.where(curvature > 0.0, curvature, 1.0)
        step = vectors @ ((vectors.T @ g) / curvature)
        longest = jnp.sqrt(jnp.sum(step * step))
        return step * jnp.where(longest > _LONGEST, _LONGEST / jnp.where(longest > 0.0, longest, 1.0), 1.0)

    shares = jnp.asarray([0.5**i for i in range(_HALVINGS)], start.dtype)

    def climb(loop):
        v, value, g, steps, _ = loop
        candidates = v[None] + shares[:, None] * direction(v, g)[None]
        values = jax.vmap(function)(candidates)
        values = jnp.where(jnp.isnan(values), -jnp.inf, values)
        rounding = _ROUNDING * jnp.finfo(v.dtype).eps * (1.0 + jnp.abs(value))
        rises = jnp.max(values) > value + rounding
        chosen = jnp.where(rises, jnp.argmax(values), 0)
        new_g = gradient(candidates[chosen])
        level = values[chosen] >= value - rounding
        accepted = rises | (level & (jnp.max(jnp.abs(new_g)) < 0.5 * jnp.max(jnp.abs(g))))
        keep = lambda new, old: jnp.where(accepted, new, old)  # noqa: E731
        return keep(candidates[chosen], v), keep(values[chosen], value), keep(new_g, g), steps + 1, accepted

    first = (start, function(start), gradient(start), jnp.asarray(0, jnp.int32), jnp.asarray(True))
    return jax.lax.while_loop(lambda loop: loop[4] & (loop[3] < max_steps), climb, first)[0]
