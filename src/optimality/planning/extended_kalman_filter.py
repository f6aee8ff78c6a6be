"""The extended Kalman filter: a nonlinear model, linearized where the state is believed to be.

    predict   m_{t+1|t} = f(m_t, u_t),             P_{t+1|t} = A P_t A' + W,          A = df/dx at m_t
    update    e = y - h(m_{t|t-1}),                gains and P_t of the Kalman filter, C = dh/dx at m_{t|t-1}

(Anderson and Moore 1979, section 8.2.) It is the Kalman filter where `f` and `h` are linear. Otherwise its laws are
approximations, and its evidence is that of the linearized model; covariances depend on the data.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from optimality.core.numerics import at_precision, is_traced
from optimality.core.small_matrices import apply, product, symmetric
from optimality.planning.kalman_filter import KalmanFiltered, condition, log_normal

Data = Any
"""Numbers as a list, NumPy or JAX array."""


def extended_kalman_filter(
    dynamics: Callable[[Any, Any], Any],
    observe: Callable[[Any], Any],
    observations: Data,
    controls: Data,
    *,
    W: Data,
    V: Data,
    initial_mean: Data,
    initial_covariance: Data,
    dtype: Any = np.float64,
) -> KalmanFiltered:
    """Approximate laws of the state of `x' = f(x, u) + w`, `y = h(x) + v`.

    Args:
        dynamics: `f(x, u)`, the mean of the next state, written in `jax.numpy`.
        observe: `h(x)`, the mean of an observation.
        observations: `[T+1, p]`, the first of which comes before any control.
        controls: `[T, m]`.
        W: covariance of the process noise, `[n, n]`.
        V: covariance of the measurement noise, `[p, p]`, positive definite.
        initial_mean: mean of the first state, `[n]`.
        initial_covariance: its covariance, `[n, n]`.
        dtype: precision of a concrete computation.

    Raises:
        ValueError: shapes that do not fit, or numbers that are not finite.
    """
    data = {
        "observations": observations,
        "controls": controls,
        "W": W,
        "V": V,
        "initial_mean": initial_mean,
        "initial_covariance": initial_covariance,
    }
    data = {name: a if is_traced(a) else np.asarray(a, np.float64) for name, a in data.items()}
    _check(data)
    return at_precision(functools.partial(_filter, dynamics, observe), *data.values(), dtype=dtype)


class _Step(NamedTuple):
    means: Array
    covariances: Array
    predicted_means: Array
    predicted_covariances: Array
    gains: Array
    innovations: Array
    innovation_covariances: Array


@functools.partial(jax.jit, static_argnums=(0, 1))
def _filter(dynamics, observe, observations, controls, W, V, mean, covariance) -> KalmanFiltered:
    def update(predicted, P, y):
        gain, filtered, innovation = condition(P, jax.jacfwd(observe)(predicted), V)
        surprise = y - observe(predicted)
        now = predicted + apply(gain, surprise)
        found = _Step(now, filtered, predicted, P, gain, surprise, innovation)
        return now, filtered, found

    def step(carry, data):
        (mean, P), (u, y) = carry, data
        A = jax.jacfwd(dynamics)(mean, u)
        ahead = symmetric(product(product(A, P), A.T) + W)
        mean, P, found = update(dynamics(mean, u), ahead, y)
        return (mean, P), found

    mean, covariance, first = update(mean, covariance, observations[0])
    _, rest = jax.lax.scan(step, (mean, covariance), (controls, observations[1:]))
    found = jax.tree.map(lambda a, b: jnp.concatenate([a[None], b]), first, rest)
    log_probabilities = log_normal(found.innovations, found.innovation_covariances)
    return KalmanFiltered(
        **found._asdict(), log_probabilities=log_probabilities, log_evidence=jnp.sum(log_probabilities)
    )


def _check(data: dict[str, Any]) -> None:
    n, p = data["initial_mean"].shape[-1:], data["V"].shape[-1:]
    steps = data["observations"].shape[:1]
    shapes = {"observations": (*steps, *p), "W": (*n, *n), "V": (*p, *p), "initial_mean": n}
    for name, shape in {**shapes, "initial_covariance": (*n, *n)}.items():
        if data[name].shape != shape or not shape:
            raise ValueError(
                f"{name} has shape {data[name].shape}, but needs {shape}: initial_mean is [n], V [p, p], observations "
                f"[T+1, p]. Batches go through jax.vmap."
            )
    controls = data["controls"].shape
    if len(controls) != 2 or controls[0] + 1 != steps[0]:
        raise ValueError(f"controls have shape {controls}, but {steps[0]} observations need [{steps[0] - 1}, m].")
    for name, array in data.items():
        wrong = np.zeros((0, 2), int) if is_traced(array) else np.argwhere(~np.isfinite(array))
        if wrong.size:
            index = tuple(wrong[0].tolist())
            raise ValueError(f"{name} at {index} is {array[index]}: the filter needs finite numbers.")
