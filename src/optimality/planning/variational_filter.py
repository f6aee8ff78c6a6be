"""Hidden states by variational inference: the closest law of a family to `p(states | observations, actions)`.

    log p(o | a) = ELBO(q) + KL(q || p(. | o, a)),        ELBO(q) = E_q log p(states, o | a) + entropy(q)

**Linear and Gaussian**: q is any normal law of the whole path. A natural-gradient step of length one sets its precision
to `-E_q[d2 log p]`, block tridiagonal, and its mean to `mean + precision^-1 E_q[d log p]` (Barber 2012, section 28.4).
The log joint is quadratic, so that one step from anywhere reaches the stationary point, the Kalman smoother, and the
bound is the evidence. **Finite**: q is a product of one law a time (mean field), improved one time after the other,

    q_t(s) ~ exp(sum q_{t-1}(s-) log p(s | s-, a_{t-1}) + log p(o_t | s) + sum q_{t+1}(s+) log p(s+ | s, a_t))

each of which raises the bound (section 28.3). It starts from the likeliest path, whose bound is finite where the
evidence is, and ends at a maximum that need not be the highest. Neighbors are independent under q, so the bound stays
below the evidence by their divergence.
"""

import functools
import math
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from optimality.core.fixed_point import largest_change
from optimality.core.numerics import Real, at_precision, is_traced
from optimality.core.result import Result
from optimality.core.small_matrices import cholesky, solve_cholesky
from optimality.planning.hmm_filter import check_data, hmm_filter, log_likelihoods, log_transitions
from optimality.planning.kalman_filter import check_measurements, inputs, kalman_filter, log_normal
from optimality.planning.normal_chain import NormalChain, normal_chain
from optimality.problems.linear_quadratic import LinearQuadratic
from optimality.problems.partially_observed import PartiallyObserved


class VariationalFiltered(eqx.Module):
    """`q`, a `NormalChain` or `[T+1, S]` one law a time; `elbo <= log_evidence`, and `gap`, their difference, is
    `KL(q || posterior)`, all in nats. `elbos [max_steps + 1]` starts with that of the start, one a step, and the last
    is repeated."""

    q: Any
    elbo: Float[Array | np.ndarray, ""]
    log_evidence: Float[Array | np.ndarray, ""]
    gap: Float[Array | np.ndarray, ""]
    elbos: Float[Array | np.ndarray, " steps_and_start"]
    steps: Any
    result: Any


def variational_filter(
    problem: PartiallyObserved,
    observations: Any,
    actions: Any,
    *,
    tolerance: Real = 1e-12,
    max_steps: int = 1000,
    dtype: Any = np.float64,
) -> VariationalFiltered:
    """The best q for a path of states, with its bound on the evidence beside the exact evidence.

    Args:
        problem: a partially observed table, or a linear-quadratic problem with noise in every direction.
        observations: `[T+1]` or `[T+1, p]`.
        actions: `[T]`, or controls `[T, m]`.
        tolerance: largest accepted change of q in the last step, in its probabilities or its means and covariances.
        max_steps: bound on the steps.
        dtype: precision of a concrete computation.

    Raises:
        ValueError: what `hmm_filter` and `kalman_filter` refuse, and a W or a first covariance that is singular.
    """
    if isinstance(getattr(problem, "problem", None), LinearQuadratic):
        observations, actions = check_measurements(problem, observations, actions)
        _require_densities(problem)
        compiled = functools.partial(_gaussian, max_steps)
    else:
        observations, actions = check_data(problem, observations, actions)
        if not is_traced((problem, observations, actions)):
            hmm_filter(problem, observations, actions)  # which refuses impossible observations
        compiled = functools.partial(_mean_field, max_steps)
    found = at_precision(compiled, problem, observations, actions, tolerance, dtype=dtype)
    if is_traced(found):
        return found
    return eqx.tree_at(lambda f: f.result, found, Result.of(found.result))


def _ascend(
    step: Callable[[Any], Any], elbo: Callable[[Any], Array], start: Any, tolerance: Array, max_steps: int
) -> tuple[Any, Float[Array, " steps_and_start"], Int[Array, ""], Int[Array, ""]]:
    """Repeats `step` until q stays where it is: q, the bounds, the number of steps and how it ended."""
    first = elbo(start)
    smallest = jnp.maximum(tolerance, 8 * jnp.finfo(first.dtype).eps)

    def going(loop):
        _, _, steps, change = loop
        return (change > smallest) & (steps < max_steps)

    def body(loop):
        q, elbos, steps, _ = loop
        new = step(q)
        size = jnp.max(jnp.stack([jnp.max(jnp.abs(leaf)) for leaf in jax.tree.leaves(new)]))
        change = largest_change(new, q) / jnp.maximum(size, 1.0)
        return new, elbos.at[steps + 1].set(elbo(new)), steps + 1, change

    elbos = jnp.zeros(max_steps + 1, first.dtype).at[0].set(first)
    loop = start, elbos, jnp.asarray(0), jnp.asarray(jnp.inf, first.dtype)
    q, elbos, steps, change = jax.lax.while_loop(going, body, loop)
    last = elbos[steps]
    elbos = jnp.where(jnp.arange(max_steps + 1) > steps, last, elbos)
    code = jnp.where(change <= smallest, Result.CONVERGED, Result.ITERATION_LIMIT)
    code = jnp.where(jnp.isfinite(last) & jnp.isfinite(change), code, Result.NON_FINITE)
    return q, elbos, steps, code.astype(jnp.int32)


def _found(q, elbos, steps, code, log_evidence) -> VariationalFiltered:
    return VariationalFiltered(q, elbos[-1], log_evidence, log_evidence - elbos[-1], elbos, steps, code)


@functools.partial(jax.jit, static_argnums=0)
def _gaussian(max_steps, problem, observations, controls, tolerance) -> VariationalFiltered:
    process, observation, steps = problem.problem, problem.observation, controls.shape[0]
    residual = observations - observation.offsets(controls)
    C, V = jax.vmap(observation.stage)(jnp.arange(steps + 1))
    A, W = jax.vmap(lambda t: (jnp.asarray(process.stage(t).A), jnp.asarray(process.stage(t).W)))(jnp.arange(steps))
    start_law, moves = jnp.asarray(process.initial_covariance)[None], inputs(process, controls)
    laws = start_law, V, W
    constants = sum(jnp.sum(log_normal(jnp.zeros_like(law[..., 0]), law)) for law in laws)
    first_precision, seen_precision, moved_precision = (_inverse(law) for law in laws)

    def first(x):
        return _square(x - jnp.asarray(process.initial_mean), first_precision[0])

    def seen(C, precision, y, x):
        return _square(y - C @ x, precision)

    def moved(A, precision, move, x, after):
        return _square(after - A @ x - move, precision)

    seeing, moving = (C, seen_precision, residual), (A, moved_precision, moves)

    def log_joint(x):
        pairs = jnp.sum(jax.vmap(moved)(*moving, x[:-1], x[1:]))
        return constants + first(x[0]) + jnp.sum(jax.vmap(seen)(*seeing, x)) + pairs

    # Minus the second derivative of the log joint: blocks of each time, and of each with the one before it.
    carried = moved_precision @ A
    own = (jnp.swapaxes(C, -1, -2) @ seen_precision @ C).at[0].add(first_precision[0])
    own = own.at[:-1].add(jnp.swapaxes(A, -1, -2) @ carried).at[1:].add(moved_precision)

    def elbo(q):
        spread = jnp.sum(own * q.covariances) - 2 * jnp.sum(carried * jnp.swapaxes(q.cross_covariances, -1, -2))
        return log_joint(q.means) - 0.5 * spread + q.entropy  # its expectation, as it is quadratic

    def step(q):
        return normal_chain(q.means, jax.grad(log_joint)(q.means), own, -carried)

    zeros = jnp.zeros((steps + 1, process.shape[0]), residual.dtype)
    unit = jnp.broadcast_to(jnp.eye(zeros.shape[1], dtype=zeros.dtype), (*zeros.shape, zeros.shape[1]))
    entropy = jnp.asarray(0.5 * zeros.size * (1.0 + math.log(2 * math.pi)), zeros.dtype)
    start = NormalChain(zeros, unit, jnp.zeros_like(unit[1:]), entropy)
    evidence = kalman_filter(problem, observations, controls).log_evidence
    return _found(*_ascend(step, elbo, start, tolerance, max_steps), evidence)


@functools.partial(jax.jit, static_argnums=0)
def _mean_field(max_steps, problem, observations, actions, tolerance) -> VariationalFiltered:
    moving, seeing = log_transitions(problem, actions), log_likelihoods(problem, observations, actions)
    local = seeing.at[0].add(jnp.log(jnp.asarray(problem.problem.initial)))
    nothing = jnp.zeros((1, *moving.shape[1:]), moving.dtype)
    before, after = jnp.concatenate([nothing, moving]), jnp.concatenate([moving, nothing])

    def sweep(q):
        def one(earlier, data):
            later, from_earlier, to_later, own = data
            left = jnp.sum(_weighted(earlier[:, None], from_earlier), axis=0)
            right = jnp.sum(_weighted(later[None, :], to_later), axis=1)
            now = jax.nn.softmax(left + right + own)
            return now, now

        ahead = jnp.concatenate([q[1:], q[:1]])  # beside the ends there is nothing to weigh
        return jax.lax.scan(one, q[0], (ahead, before, after, local))[1]

    def elbo(q):
        pairs = _weighted(q[:-1, :, None] * q[1:, None, :], moving)
        return jnp.sum(_weighted(q, local)) + jnp.sum(pairs) - jnp.sum(_weighted(q, jnp.log(q)))

    start = jax.nn.one_hot(_likeliest_path(moving, local), local.shape[1], dtype=local.dtype)
    evidence = hmm_filter(problem, observations, actions).log_evidence
    return _found(*_ascend(sweep, elbo, start, tolerance, max_steps), evidence)


def _square(deviation, precision):
    return -0.5 * (deviation @ (precision @ deviation))


def _inverse(covariance: Float[Array, "time n n"]) -> Float[Array, "time n n"]:
    unit = jnp.broadcast_to(jnp.eye(covariance.shape[-1], dtype=covariance.dtype), covariance.shape)
    return solve_cholesky(cholesky(covariance), unit)


def _weighted(weight, logarithm):
    """`weight * logarithm`, and nothing where the weight is zero, whatever the logarithm."""
    used = weight > 0.0
    return jnp.where(used, weight * jnp.where(used, logarithm, 0.0), 0.0)


def _likeliest_path(moving, local) -> Int[Array, " time_and_end"]:
    """The state of each time of the most probable path."""

    def forward(best, data):
        step, own = data
        ways = best[:, None] + step
        return jnp.max(ways, axis=0) + own, jnp.argmax(ways, axis=0)

    best, came_from = jax.lax.scan(forward, local[0], (moving, local[1:]))
    last = jnp.argmax(best)
    _, path = jax.lax.scan(lambda state, source: (source[state], source[state]), last, came_from, reverse=True)
    return jnp.append(path, last)


def _require_densities(problem: Any) -> None:
    process = problem.problem
    for name in ("W", "initial_covariance"):
        array = getattr(process, name)
        if is_traced(array):
            continue
        smallest = float(np.linalg.eigvalsh(np.asarray(array))[..., 0].min())
        if smallest <= 1e-12 * float(np.abs(array).max()):
            raise ValueError(
                f"{name} has an eigenvalue of {smallest:.3g}: a path then has no density, and there is no bound to "
                f"maximize. Give every direction some noise, or use kalman_smoother, which needs none."
            )
