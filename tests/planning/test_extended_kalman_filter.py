"""The extended Kalman filter: exact where the model is linear, better than a fixed linearization elsewhere."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from clauses import against
from instances import close
from optimality import FiniteHorizon
from optimality.planning.extended_kalman_filter import extended_kalman_filter
from optimality.planning.kalman_filter import kalman_filter
from optimality.problems.linear_quadratic import LinearQuadratic
from optimality.problems.partially_observed import LinearObservation, PartiallyObserved

STEP = 0.05
W, V = np.diag([1e-4, 1e-3]), np.array([[0.05]])
MEAN, COVARIANCE = np.array([1.0, 0.0]), np.diag([0.2, 0.2])


def pendulum(x, u):
    rate = x[1] + STEP * (u[0] - 9.81 * jnp.sin(x[0]))
    return jnp.stack([x[0] + STEP * rate, rate])


def height(x):
    return jnp.sin(x[:1])


def linear():
    rng = np.random.default_rng(0)
    A, B, C = 0.5 * rng.normal(size=(3, 3)), rng.normal(size=(3, 2)), rng.normal(size=(2, 3))
    arrays = {"W": np.diag([0.1, 0.2, 0.3]), "initial_mean": np.ones(3), "initial_covariance": np.eye(3)}
    return A, B, C, arrays, rng.normal(size=(21, 2)), rng.normal(size=(20, 2))


def test_it_is_the_kalman_filter_of_a_linear_model():
    A, B, C, arrays, observations, controls = linear()
    process = LinearQuadratic(A, B, np.eye(3), np.eye(2), criterion=FiniteHorizon(20), **arrays)
    expected = kalman_filter(PartiallyObserved(process, LinearObservation(C, np.eye(2))), observations, controls)
    found = extended_kalman_filter(
        lambda x, u: A @ x + B @ u, lambda x: C @ x, observations, controls, V=np.eye(2), **arrays
    )
    for ours, theirs in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        close(ours, theirs)


@functools.cache
def swings(seeds=20, steps=100):
    """States and observations of a pendulum that swings freely."""

    def one(key):
        start, moving, seeing = jax.random.split(key, 3)
        first = MEAN + np.sqrt(np.diag(COVARIANCE)) * jax.random.normal(start, (2,))
        noise = jax.random.normal(moving, (steps, 2)) * np.sqrt(np.diag(W))[None]
        _, rest = jax.lax.scan(lambda x, w: (pendulum(x, jnp.zeros(1)) + w,) * 2, first, noise)
        states = jnp.concatenate([first[None], rest])
        seen = jax.vmap(height)(states) + np.sqrt(V[0, 0]) * jax.random.normal(seeing, (steps + 1, 1))
        return states, seen

    with jax.enable_x64(True):
        states, seen = jax.vmap(one)(jax.random.split(jax.random.key(0), seeds))
    return np.asarray(states), np.asarray(seen)


def errors(dynamics, observe):
    """Root mean square error of the angle for each seed."""
    states, seen = swings()
    arrays = {"W": W, "V": V, "initial_mean": MEAN, "initial_covariance": COVARIANCE}

    def means(y):
        return extended_kalman_filter(dynamics, observe, y, np.zeros((y.shape[0] - 1, 1)), **arrays).means

    with jax.enable_x64(True):
        found = np.asarray(jax.jit(jax.vmap(means))(seen))
    return np.sqrt(((found - states)[:, 20:, 0] ** 2).mean(axis=1))


def about_the_bottom(x, u):
    """Linearized once, hanging: `sin x = x`."""
    rate = x[1] + STEP * (u[0] - 9.81 * x[0])
    return jnp.stack([x[0] + STEP * rate, rate])


@against(
    lambda: errors(pendulum, height),
    linearized_once=lambda: errors(about_the_bottom, lambda x: x[:1]),
    linear_dynamics=lambda: errors(about_the_bottom, height),
)
def test_a_pendulum_is_followed(implementation):
    found = implementation()
    assert np.median(found) < 0.08
    assert (found < 0.15).mean() >= 0.9


def test_it_traces_in_the_precision_of_its_data(x64):
    _, seen = swings()
    arrays = {"W": W, "V": V, "initial_mean": MEAN, "initial_covariance": COVARIANCE}
    run = jax.jit(lambda y: extended_kalman_filter(pendulum, height, y, np.zeros((100, 1)), **arrays).means)
    found = run(seen[0].astype(np.float64 if x64 else np.float32))
    assert found.dtype == (np.float64 if x64 else np.float32)
    expected = extended_kalman_filter(pendulum, height, seen[0], np.zeros((100, 1)), **arrays).means
    close(found, expected, 1e-12 if x64 else 1e-4)


def test_refusals():
    arrays = {"W": W, "V": V, "initial_mean": MEAN, "initial_covariance": COVARIANCE}
    with pytest.raises(ValueError, match=r"controls have shape \(5, 1\), but 5 observations need \[4, m\]"):
        extended_kalman_filter(pendulum, height, np.zeros((5, 1)), np.zeros((5, 1)), **arrays)
    with pytest.raises(ValueError, match=r"observations has shape \(5, 2\), but needs \(5, 1\)"):
        extended_kalman_filter(pendulum, height, np.zeros((5, 2)), np.zeros((4, 1)), **arrays)
    with pytest.raises(ValueError, match=r"observations at \(2, 0\) is nan"):
        extended_kalman_filter(pendulum, height, [[0.0], [0.0], [np.nan]], np.zeros((2, 1)), **arrays)
