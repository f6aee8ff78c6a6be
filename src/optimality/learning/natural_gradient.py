"""Natural gradients and trust regions as functions of one parameter vector.

    F = Hessian of E_s KL(pi_old(. | s) || pi(. | s)) at pi = pi_old          (the Fisher information)
    x = (F + damping I)^-1 g,        g the gradient of the objective
    step = sqrt(2 epsilon / x' F x) x,     whose divergence is epsilon to second order

F is never formed: its products are derivatives of derivatives, and x comes by conjugate gradients (Kakade 2001;
Schulman et al. 2015, appendix C). To first order x improves the most for the divergence it costs, whatever the
parametrization.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.scipy.sparse.linalg import cg
from jaxtyping import Array, Bool, Float, Int

from optimality.core.numerics import Real

Vector = Float[Array, " parameters"]
Number = Float[Array, ""]
Function = Callable[[Vector], Number]


class NaturalDirection(NamedTuple):
    """`x`, with `x' F x`, `g' x`, and `|F x + damping x - g| / |g|`: what conjugate gradients left."""

    direction: Vector
    curvature: Number
    slope: Number
    residual: Number


def fisher_product(divergence: Function, point: Vector, vector: Vector) -> Vector:
    """`F vector`, F the Hessian of the divergence at `point`, forward over reverse."""
    return jax.jvp(jax.grad(divergence), (point,), (vector,))[1]


def natural_direction(
    divergence: Function, gradient: Vector, point: Vector, *, damping: Real, iterations: int
) -> NaturalDirection:
    """Conjugate gradients from zero, at most `iterations` of them."""
    damping = jnp.asarray(damping, point.dtype)

    def product(vector):
        return fisher_product(divergence, point, vector) + damping * vector

    x, _ = cg(product, gradient, maxiter=iterations, tol=1e-6)
    image = product(x)
    size = jnp.linalg.norm(gradient)
    residual = jnp.linalg.norm(image - gradient) / jnp.where(size > 0.0, size, 1.0)
    return NaturalDirection(x, x @ (image - damping * x), x @ gradient, residual)


def step_of_divergence(direction: NaturalDirection, epsilon: Real) -> Vector:
    """`sqrt(2 epsilon / x' F x) x`; zero where the direction is flat or points nowhere."""
    epsilon = jnp.asarray(epsilon, direction.direction.dtype)
    useful = (direction.curvature > 0.0) & (direction.slope > 0.0)
    length = jnp.sqrt(2.0 * epsilon / jnp.where(useful, direction.curvature, 1.0))
    return jnp.where(useful, length, 0.0) * direction.direction


class LineSearch(NamedTuple):
    """`fraction` of the step that was taken: `shrink^k`, or 0 where none served."""

    point: Vector
    fraction: Number
    divergence: Number
    improvement: Number
    trials: Int[Array, ""]
    accepted: Bool[Array, ""]


def trust_region_search(
    objective: Function, divergence: Function, point: Vector, step: Vector, *, epsilon: Real, shrink: Real, trials: int
) -> LineSearch:
    """The longest of `step, shrink step, shrink^2 step, ...` that improves the objective with `divergence <= epsilon`.

    Both are those of the sample, so that the bound holds whatever the quadratic model promised. Where none serves, the
    point stays as it is.
    """
    epsilon, shrink = jnp.asarray(epsilon, point.dtype), jnp.asarray(shrink, point.dtype)
    start = objective(point)

    def attempt(fraction):
        new = point + fraction * step
        far, better = divergence(new), objective(new) - start
        return far, better, (far <= epsilon) & (better > 0.0)  # comparisons with NaN are false

    def unfinished(carry):
        number, _, _, _, accepted = carry
        return ~accepted & (number < trials)

    def again(carry):
        number, fraction, *_ = carry
        fraction = jnp.where(number == 0, fraction, shrink * fraction)
        return number + 1, fraction, *attempt(fraction)

    zero = jnp.zeros((), point.dtype)
    first = jnp.zeros((), jnp.int32), jnp.ones((), point.dtype), zero, zero, jnp.zeros((), bool)
    number, fraction, far, better, accepted = jax.lax.while_loop(unfinished, again, first)
    keep = lambda x: jnp.where(accepted, x, 0.0)  # noqa: E731
    moved = jnp.where(accepted, point + fraction * step, point)
    return LineSearch(moved, keep(fraction), keep(far), keep(better), number, accepted)


def noise_of_sum(gradients: Float[Array, "parts parameters"]) -> Number:
    """Norm of the standard error of `sum_i g_i`, the `g_i` independent and alike; NaN for one alone.

    `sqrt(n / (n - 1) sum_i |g_i - mean|^2)`, to be read beside the norm of the sum.
    """
    n = gradients.shape[0]
    if n < 2:
        return jnp.full((), jnp.nan, gradients.dtype)
    apart = gradients - jnp.mean(gradients, axis=0, keepdims=True)
    return jnp.sqrt(n / (n - 1) * jnp.sum(apart**2))
