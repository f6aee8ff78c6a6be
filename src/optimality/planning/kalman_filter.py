"""What is believed about a linear-Gaussian hidden state: the Kalman filter and the smoother.

    predict   m_{t+1|t} = A m_t + B u_t + c,                  P_{t+1|t} = A P_t A' + W
    update    e = y - C m_{t|t-1} - D u_{t-1} - d,            F = C P_{t|t-1} C' + V,       G = P_{t|t-1} C' F^-1
              m_t = m_{t|t-1} + G e,                          P_t = (I - G C) P_{t|t-1} (I - G C)' + G V G'
    smooth    J = P_t A' P_{t+1|t}^-1,                        m_t^s = m_t + J (m_{t+1}^s - m_{t+1|t})
              P_t^s = (I - J A) P_t (I - J A)' + J (P_{t+1}^s + W) J'
    evidence  log p(y) = sum_t log N(e_t; 0, F_t)

(Kalman 1960; Rauch, Tung and Striebel 1965; Anderson and Moore 1979.) The updates of P are those of Joseph, sums of
positive semidefinite terms: the shorter `P - G F G'` loses its sign in float32 where a measurement is much more exact
than the prediction. Covariances do not depend on the data, and their recursion is kept apart from it: under `vmap`
over observations it runs once (return what you need from the mapped function: covariances that leave it are copied for
each sequence). The dual of the filter is the regulator: `P_{t+1|t}` is the Riccati recursion of `(A', C', W, V)`.
"""

import math
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from optimality.core.numerics import at_precision, is_traced
from optimality.core.small_matrices import (
    apply,
    cholesky,
    log_determinant,
    product,
    solve_cholesky,
    solve_lower,
    symmetric,
)
from optimality.problems.linear_quadratic import LinearQuadratic
from optimality.problems.partially_observed import PartiallyObserved

_Tensor = Float[Array | np.ndarray, "..."]
Data = Any
"""Numbers as a list, NumPy or JAX array."""


class KalmanFiltered(eqx.Module):
    """Laws of the state at the times `0 .. T` of T+1 observations.

    `means [T+1, n]` and `covariances [T+1, n, n]` given the observations up to each time, `predicted_means` and
    `predicted_covariances` given those before it; `gains [T+1, n, p]`; `innovations [T+1, p]`, what was observed less
    what was expected, and their covariances; `log_probabilities [T+1]`, `log p(y_t | y_0 .. y_{t-1})`, whose sum is
    `log_evidence`.
    """

    means: _Tensor
    covariances: _Tensor
    predicted_means: _Tensor
    predicted_covariances: _Tensor
    gains: _Tensor
    innovations: _Tensor
    innovation_covariances: _Tensor
    log_probabilities: _Tensor
    log_evidence: _Tensor


class KalmanSmoothed(eqx.Module):
    """`means [T+1, n]` and `covariances [T+1, n, n]` given all observations; `cross_covariances [T, n, n]` of each
    state with the next."""

    means: _Tensor
    covariances: _Tensor
    cross_covariances: _Tensor
    filtered: KalmanFiltered


class FilterCovariances(NamedTuple):
    """What the filter knows before any data, each with a leading axis of `steps`."""

    predicted: Float[Array, "time n n"]
    filtered: Float[Array, "time n n"]
    gains: Float[Array, "time n p"]
    innovation: Float[Array, "time p p"]


def kalman_filter(
    problem: PartiallyObserved, observations: Data, controls: Data | None = None, *, dtype: Any = np.float64
) -> KalmanFiltered:
    """The law of the state of a linear-Gaussian problem, as it is observed.

    Args:
        problem: a `PartiallyObserved` with a `LinearQuadratic`, whose costs play no part, and a `LinearObservation`.
        observations: `[T+1, p]`, the first of which comes before any control.
        controls: `[T, m]`; zero by default.
        dtype: precision of a concrete computation.

    Raises:
        ValueError: shapes, numbers that are not finite, or noise that depends on state or control.
    """
    observations, controls = check_measurements(problem, observations, controls)
    return at_precision(_filter, problem, observations, controls, dtype=dtype)


def kalman_smoother(
    problem: PartiallyObserved, observations: Data, controls: Data | None = None, *, dtype: Any = np.float64
) -> KalmanSmoothed:
    """`kalman_filter`, and the law of each state given all observations. Noise and first state may be singular."""
    observations, controls = check_measurements(problem, observations, controls)
    return at_precision(_smooth, problem, observations, controls, dtype=dtype)


def filter_covariances(problem: Any, steps: int) -> FilterCovariances:
    """The covariances and gains of the first `steps` observations, in the precision of the arrays."""
    process, observation = problem.problem, problem.observation

    def step(predicted, t):
        C, V = map(jnp.asarray, observation.stage(t))
        gain, filtered, innovation = condition(predicted, C, V)
        A, W = (jnp.asarray(x) for x in (process.stage(t).A, process.stage(t).W))
        ahead = symmetric(product(product(A, filtered), A.T) + W)
        return ahead, FilterCovariances(predicted, filtered, gain, innovation)

    return jax.lax.scan(step, jnp.asarray(process.initial_covariance), jnp.arange(steps))[1]


def condition(predicted: Float[Array, "n n"], C: Float[Array, "p n"], V: Float[Array, "p p"]) -> tuple[Array, ...]:
    """Gain, the covariance after an observation, and that of the innovation."""
    seen = product(C, predicted)
    innovation = symmetric(product(seen, C.T) + V)
    gain = solve_cholesky(cholesky(innovation), seen).T
    left = jnp.eye(predicted.shape[0], dtype=predicted.dtype) - product(gain, C)
    return gain, _sum_of_squares(left, predicted, gain, V), innovation


def _sum_of_squares(a: Array, P: Array, b: Array, V: Array) -> Float[Array, "n n"]:
    """`a P a' + b V b'`, as one product of the two beside each other."""
    moved, both = jnp.concatenate([product(a, P), product(b, V)], axis=1), jnp.concatenate([a, b], axis=1)
    return symmetric(product(moved, both.T))


def log_normal(deviation: Float[Array, "time p"], covariance: Float[Array, "time p p"]) -> Float[Array, " time"]:
    """`log N(deviation; 0, covariance)` of each time."""
    factor = cholesky(covariance)
    whitened = solve_lower(factor, deviation[..., None])[..., 0]
    constant = deviation.shape[-1] * math.log(2.0 * math.pi)
    return -0.5 * (jnp.sum(whitened * whitened, axis=-1) + log_determinant(factor) + constant)


def inputs(process: Any, controls: Float[Array, "time m"]) -> Float[Array, "time n"]:
    """`B u_t + c` of each step."""

    def one(t, u):
        stage = process.stage(t)
        return jnp.asarray(stage.B) @ u + jnp.asarray(stage.c)

    return jax.vmap(one)(jnp.arange(controls.shape[0]), controls)


@jax.jit
def _filter(problem, observations, controls) -> KalmanFiltered:
    process, observation, steps = problem.problem, problem.observation, observations.shape[0]
    known = filter_covariances(problem, steps)
    residual = observations - observation.offsets(controls)
    # The step after the last has no input; its prediction is not used, and its index is that of the last step.
    ahead = jnp.concatenate([inputs(process, controls), jnp.zeros((1, process.shape[0]), observations.dtype)])

    def step(predicted, data):
        t, y, drift, gain = data
        innovation = y - apply(jnp.asarray(observation.stage(t).C), predicted)
        mean = predicted + apply(gain, innovation)
        return apply(jnp.asarray(process.stage(t).A), mean) + drift, (mean, predicted, innovation)

    first = jnp.asarray(process.initial_mean)
    data = jnp.arange(steps), residual, ahead, known.gains
    _, (means, predicted, innovations) = jax.lax.scan(step, first, data)
    log_probabilities = log_normal(innovations, known.innovation)
    return KalmanFiltered(
        means,
        known.filtered,
        predicted,
        known.predicted,
        known.gains,
        innovations,
        known.innovation,
        log_probabilities,
        jnp.sum(log_probabilities),
    )


@jax.jit
def _smooth(problem, observations, controls) -> KalmanSmoothed:
    filtered, process = _filter(problem, observations, controls), problem.problem
    times = jnp.arange(controls.shape[0])

    def dynamics(t):
        return jnp.asarray(process.stage(t).A), jnp.asarray(process.stage(t).W)

    moved = jax.vmap(lambda t, P: product(dynamics(t)[0], P))(times, filtered.covariances[:-1])
    gains = jnp.swapaxes(_solve_semidefinite(filtered.predicted_covariances[1:], moved), -1, -2)

    def back(after, data):
        t, covariance, gain = data
        A, W = dynamics(t)
        left = jnp.eye(A.shape[0], dtype=A.dtype) - product(gain, A)
        now = _sum_of_squares(left, covariance, gain, after + W)
        return now, (now, product(gain, after))

    def back_mean(after, data):
        mean, predicted, gain = data
        now = mean + apply(gain, after - predicted)
        return now, now

    last, last_mean = filtered.covariances[-1], filtered.means[-1]
    data = times, filtered.covariances[:-1], gains
    _, (covariances, cross) = jax.lax.scan(back, last, data, reverse=True)
    data = filtered.means[:-1], filtered.predicted_means[1:], gains
    _, means = jax.lax.scan(back_mean, last_mean, data, reverse=True)
    return KalmanSmoothed(
        jnp.concatenate([means, last_mean[None]]), jnp.concatenate([covariances, last[None]]), cross, filtered
    )


def _solve_semidefinite(P: Float[Array, "time n n"], b: Float[Array, "time n k"]) -> Float[Array, "time n k"]:
    """`P^-1 b`, by the pseudo-inverse where one of the P is singular; `b` lies in its range."""
    factor, eps = cholesky(P), jnp.finfo(P.dtype).eps
    variance = jnp.diagonal(P, axis1=-2, axis2=-1)
    left = jnp.diagonal(factor, axis1=-2, axis2=-1) ** 2  # of each variance, given the coordinates before it
    regular = jnp.all(left > 1e3 * eps * variance)  # false for NaN

    def pseudo_inverse(P, factor, b):
        values, vectors = jnp.linalg.eigh(P)
        smallest = P.shape[-1] * 10 * eps * jnp.max(values, axis=-1, keepdims=True)
        inverse = jnp.where(values > smallest, 1.0 / jnp.where(values > smallest, values, 1.0), 0.0)
        return vectors @ (inverse[..., None] * (jnp.swapaxes(vectors, -1, -2) @ b))

    return jax.lax.cond(regular, lambda P, factor, b: solve_cholesky(factor, b), pseudo_inverse, P, factor, b)


def check_measurements(problem: Any, observations: Any, controls: Any) -> tuple[Any, Any]:
    """Observations `[T+1, p]` and controls `[T, m]` as arrays. Raises `ValueError` for what the filter cannot take."""
    if not isinstance(getattr(problem, "problem", None), LinearQuadratic):
        given = type(getattr(problem, "problem", problem)).__name__
        raise ValueError(
            f"this filter needs PartiallyObserved(LinearQuadratic, LinearObservation), but a {given} was given; "
            f"tables have hmm_filter."
        )
    process, observation = problem.problem, problem.observation
    horizon, (p, _) = process.horizon, observation.shape
    require_normal(process)
    observations = observations if is_traced(observations) else np.asarray(observations, np.float64)
    m, steps = process.shape[1], observations.shape[0] - 1 if observations.ndim else -1
    controls = np.zeros((max(steps, 0), m)) if controls is None else controls
    controls = controls if is_traced(controls) else np.asarray(controls, np.float64)
    if observations.ndim != 2 or steps < 0 or observations.shape[1] != p or controls.shape != (steps, m):
        raise ValueError(
            f"observations have shape {observations.shape} and controls {controls.shape}, but T controls need [T, {m}] "
            f"and [T+1, {p}] observations, the first of them before any control. Batches go through jax.vmap."
        )
    if (process.depends_on_time or observation.depends_on_time) and steps > horizon:
        raise ValueError(f"the problem is given for {horizon} steps, but {steps} controls were given.")
    for name, array in (("observations", observations), ("controls", controls)):
        wrong = np.zeros((0, 2), int) if is_traced(array) else np.argwhere(~np.isfinite(array))
        if wrong.size:
            t, i = wrong[0].tolist()
            raise ValueError(f"{name} at time {t}, entry {i} are {array[t, i]}: the filter needs finite numbers.")
    return observations, controls


def require_normal(process: LinearQuadratic) -> None:
    """Raises `ValueError` for a problem whose noise depends on state or control."""
    if process.channels is not None:
        raise ValueError(
            "the problem has noise channels, whose size depends on the state: its laws are not normal, and no Kalman "
            "filter is exact. Put their size at a nominal state and control into W, or drop them."
        )
