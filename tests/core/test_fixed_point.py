"""Fixed points and their derivatives, against dense linear algebra."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from clauses import against
from optimality.core.fixed_point import TRACE, empty_trace, fixed_point, record
from optimality.core.result import Result

RANDOM = np.random.default_rng(0)
P = RANDOM.dirichlet(np.ones(6), 6)
REWARD = RANDOM.normal(size=6)
DISCOUNT = 0.93


def bellman(value, arguments):
    reward, discount = arguments
    return reward + discount * (jnp.asarray(P) @ value)


def evaluate(arguments, max_steps=5_000, tolerance=1e-13):
    guess = jnp.zeros_like(arguments[0])
    return fixed_point(bellman, guess, arguments, tolerance=tolerance, max_steps=max_steps)


def arguments():
    return jnp.asarray(REWARD), jnp.asarray(DISCOUNT)


def frozen(arguments):
    """Differentiates one step only, as if the fixed point inside it were a constant."""
    return bellman(jax.lax.stop_gradient(evaluate(arguments).point), arguments)


def test_linear_contraction(x64):
    solved = evaluate(arguments())
    assert Result.of(solved.code) is Result.CONVERGED
    np.testing.assert_allclose(
        solved.point, np.linalg.solve(np.eye(6) - DISCOUNT * P, REWARD), rtol=1e-11 if x64 else 1e-4
    )
    assert solved.point.dtype == (jnp.float64 if x64 else jnp.float32)
    assert 0 < solved.steps < 1000


@pytest.mark.parametrize("mode", [jax.jacfwd, jax.jacrev])
@against(lambda a: evaluate(a).point, one_step=frozen, none=lambda a: jax.lax.stop_gradient(evaluate(a).point))
def test_derivative(implementation, mode):
    with jax.enable_x64(True):
        by_reward, by_discount = jax.jit(mode(implementation))(arguments())
        inverse = np.linalg.inv(np.eye(6) - DISCOUNT * P)
        np.testing.assert_allclose(by_reward, inverse, rtol=1e-10)
        np.testing.assert_allclose(by_discount, inverse @ P @ inverse @ REWARD, rtol=1e-10)


def test_derivative_in_single_precision():
    with jax.enable_x64(False):
        by_reward, _ = jax.jit(jax.jacrev(lambda a: evaluate(a).point))(arguments())
        np.testing.assert_allclose(by_reward, np.linalg.inv(np.eye(6) - DISCOUNT * P), rtol=1e-4)


def test_second_derivative():
    with jax.enable_x64(True):
        value = lambda discount: evaluate((jnp.asarray(REWARD), discount)).point[0]  # noqa: E731
        inverse = np.linalg.inv(np.eye(6) - DISCOUNT * P)
        expected = 2 * (inverse @ P @ inverse @ P @ inverse @ REWARD)[0]
        np.testing.assert_allclose(jax.jit(jax.grad(jax.grad(value)))(DISCOUNT), expected, rtol=1e-9)


def test_tree_of_points(x64):
    def function(point, angle):
        return {"x": jnp.cos(point["x"]) + angle, "y": 0.5 * point["x"]}

    guess = {"x": jnp.zeros(()), "y": jnp.zeros(())}
    solve = lambda angle: fixed_point(function, guess, angle, tolerance=1e-6, max_steps=500).point["y"]  # noqa: E731
    y, slope = jax.jit(jax.value_and_grad(solve))(0.0)
    np.testing.assert_allclose(y, 0.5 * 0.7390851332, rtol=1e-5)
    np.testing.assert_allclose(slope, 0.5 / (1 + np.sin(0.7390851332)), rtol=1e-4)


def test_vmap_equals_loop(x64):
    discounts = jnp.asarray([0.1, 0.9, 0.6])
    run = jax.jit(jax.vmap(lambda discount: evaluate((jnp.asarray(REWARD), discount), tolerance=1e-6)))
    mapped = run(discounts)
    for i, discount in enumerate(discounts):
        one = evaluate((jnp.asarray(REWARD), discount), tolerance=1e-6)
        np.testing.assert_allclose(mapped.point[i], one.point, rtol=1e-4, atol=1e-5)
        assert abs(int(mapped.steps[i]) - int(one.steps)) <= 3  # programs of two shapes round apart


def test_iteration_limit(x64):
    solved = evaluate(arguments(), max_steps=3)
    assert Result.of(solved.code) is Result.ITERATION_LIMIT
    assert solved.steps == 3
    np.testing.assert_allclose(solved.point, REWARD + DISCOUNT * P @ (REWARD + DISCOUNT * P @ REWARD), rtol=1e-5)


@pytest.mark.parametrize("function", [lambda x, a: x + a, lambda x, a: -x + a], ids=["grows", "oscillates"])
def test_not_converged(function, x64):
    solved = fixed_point(function, jnp.zeros(2) + 3.0, jnp.ones(()), tolerance=1e-6, max_steps=10**6)
    assert Result.of(solved.code) is Result.NOT_CONVERGED
    assert solved.steps < 10_000


@pytest.mark.parametrize(
    "function",
    [lambda x, a: x * 2.0 + a, lambda x, a: x * jnp.nan, lambda x, a: jnp.log(x - a)],
    ids=["overflows", "is not a number", "leaves the domain"],
)
def test_non_finite(function, x64):
    solved = fixed_point(function, jnp.zeros(2), jnp.ones(()), tolerance=1e-6, max_steps=10**6)
    assert Result.of(solved.code) is Result.NON_FINITE
    assert solved.steps < 2000


def test_tolerance_below_rounding_still_ends(x64):
    reward, discount = arguments()
    solved = evaluate((1e6 * reward, discount), tolerance=0.0)
    assert Result.of(solved.code) is Result.CONVERGED


def test_trace(x64):
    solved = evaluate(arguments(), tolerance=1e-5)
    used = np.asarray(solved.trace.step) >= 0
    steps = np.asarray(solved.trace.step)[used]
    residuals = np.asarray(solved.trace.residual)[used]
    assert np.all(np.diff(steps) > 0)
    assert steps[0] == 1
    assert steps[-1] == solved.steps
    assert residuals[-1] == solved.residual
    assert np.all(np.diff(residuals) < 0)


@against(record, every_step=lambda trace, step, residual: record(trace, step % TRACE, residual))
def test_trace_spaces_steps_geometrically(implementation, x64):
    trace = empty_trace(jnp.result_type(float))
    for step in (1, 2, 102, 103, 10**4, 10**6):
        trace = implementation(trace, jnp.asarray(step, jnp.int32), jnp.asarray(1.0 / step))
    kept = np.asarray(trace.step)[np.asarray(trace.step) >= 0]
    np.testing.assert_array_equal(kept, [1, 2, 103, 10**4, 10**6])
