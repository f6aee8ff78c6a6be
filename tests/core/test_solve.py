"""The first verb, with small methods whose answers are known."""

import dataclasses

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from clauses import against
from compilations import counted_compilations
from optimality.core.numerics import Real
from optimality.core.result import Result, SolverError
from optimality.core.solve import RUNNING, AbstractDirect, AbstractIterative, Solution, solve


class Squares(eqx.Module):
    """Find `x` with `x^2 = a`, entry by entry."""

    a: jax.Array | np.ndarray


class SquareRoot(AbstractDirect[Squares]):
    scale: Real = 1.0

    def compute(self, problem, key):
        noise = 0.0 if key is None else jax.random.normal(key, problem.a.shape, problem.a.dtype)
        value = self.scale * jnp.sqrt(problem.a) + noise
        return Solution(value, None, jnp.asarray(Result.CONVERGED), {}, None)


class Newton(AbstractIterative[Squares, jax.Array]):
    _: dataclasses.KW_ONLY
    tolerance: Real = 1e-12
    shift: Real = 0.0
    max_steps: int = eqx.field(default=50, static=True)

    def check(self, problem):
        if problem.a.ndim != 1:
            raise ValueError("one axis, please")

    def init(self, problem, guess, key):
        return 1.0 + jnp.abs(problem.a) if guess is None else guess

    def step(self, problem, state):
        return 0.5 * (state + (problem.a + self.shift) / state)

    def terminate(self, problem, state):
        error = jnp.max(jnp.abs(self.condition(problem, state)))
        size = jnp.max(jnp.abs(problem.a))
        done = error <= jnp.maximum(self.tolerance, 4 * jnp.finfo(error.dtype).eps * size)
        return jnp.where(done, Result.CONVERGED, jnp.where(jnp.isfinite(error), RUNNING, Result.NON_FINITE))

    def point(self, state):
        return state

    def condition(self, problem, point):
        return point * point - problem.a - self.shift

    def finish(self, problem, state, point):
        return Solution(point, None, jnp.asarray(0), {"state": state}, None)


class WithoutDerivative(Newton):
    """Hands out the last iterate instead of the point that carries the derivative."""

    def finish(self, problem, state, point):
        return Solution(state, None, jnp.asarray(0), {}, None)


class ForgetsItself(Newton):
    """Differentiates by the problem and not by the method."""

    def condition(self, problem, point):
        return point * point - problem.a - jax.lax.stop_gradient(self.shift)


class OtherCondition(Newton):
    """A condition that is zero somewhere else."""

    def condition(self, problem, point):
        return point * point * point - problem.a - self.shift

    def terminate(self, problem, state):
        return Newton.terminate(Newton(tolerance=self.tolerance, shift=self.shift), problem, state)


A = np.array([2.0, 9.0, 0.25])


@pytest.mark.parametrize("method", [SquareRoot(), Newton()], ids=["direct", "iterative"])
def test_answers_in_float64_whatever_the_flag(method, x64):
    solution = solve(Squares(A), method)
    assert isinstance(solution.value, np.ndarray)
    assert solution.value.dtype == np.float64
    np.testing.assert_allclose(solution.value, np.sqrt(A), rtol=1e-12)
    assert solution.result is Result.CONVERGED


def test_flag_is_left_alone(x64):
    solve(Squares(A), Newton())
    assert jnp.zeros(()).dtype == (jnp.float64 if x64 else jnp.float32)


def test_float32_on_request(x64):
    solution = solve(Squares(A), Newton(), dtype=np.float32)
    assert solution.value.dtype == np.float32
    np.testing.assert_allclose(solution.value, np.sqrt(A), rtol=1e-6)
    with pytest.raises(ValueError, match="dtype must be float64 or float32, but float16"):
        solve(Squares(A), Newton(), dtype=np.float16)


def test_stats(x64):
    solution = solve(Squares(A), Newton())
    steps, trace = solution.stats["steps"], solution.stats["trace"]
    assert 0 < steps < 20
    assert trace.step.max() == steps
    assert np.all(np.diff(trace.residual[trace.step >= 0]) < 0)
    assert "state" in solution.stats


def test_iteration_limit_raises_or_reports(x64):
    with pytest.raises(SolverError, match=r"Newton: iteration limit\. Stopped at the iteration limit") as caught:
        solve(Squares(A), Newton(), max_steps=2)
    assert caught.value.result is Result.ITERATION_LIMIT
    reported = solve(Squares(A), Newton(), max_steps=2, throw=False)
    assert reported.result is Result.ITERATION_LIMIT
    assert reported.stats["steps"] == 2
    np.testing.assert_array_equal(caught.value.solution.value, reported.value)
    assert solve(Squares(A), Newton(max_steps=1), max_steps=50).result is Result.CONVERGED


def test_non_finite(x64):
    with pytest.raises(SolverError, match=r"Newton: non finite\. A value became infinite or NaN"):
        solve(Squares(np.array([np.nan, 1.0])), Newton())


def test_guess(x64):
    near = solve(Squares(A), Newton(), guess=np.sqrt(A) * (1 + 1e-9))
    assert near.stats["steps"] == 1
    np.testing.assert_allclose(solve(Squares(A), Newton(), guess=-A).value, -np.sqrt(A), rtol=1e-12)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: solve(Squares(A), SquareRoot(), guess=A), "SquareRoot computes its answer directly.*leave guess out"),
        (lambda: solve(Squares(A), SquareRoot(), max_steps=3), "SquareRoot does not iterate: leave max_steps out"),
        (lambda: solve(3.0), "float has no default method: pass one"),
        (lambda: solve(Squares(np.ones((2, 2))), Newton()), "one axis, please"),
    ],
)
def test_refusals(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_key(x64):
    key = jax.random.key(0)
    one, same = solve(Squares(A), SquareRoot(), key=key), solve(Squares(A), SquareRoot(), key=key)
    np.testing.assert_array_equal(one.value, same.value)
    mapped = jax.vmap(lambda k: solve(Squares(A), SquareRoot(), key=k).value)(jax.random.split(key, 3))
    assert mapped.shape == (3, 3)
    assert len(np.unique(mapped)) == 9


def test_traced_arguments_keep_their_precision(x64):
    result = jax.jit(lambda a: solve(Squares(a), Newton()))(jnp.asarray(A))
    assert result.value.dtype == (jnp.float64 if x64 else jnp.float32)
    assert int(result.result) == Result.CONVERGED
    if x64:
        single = jax.jit(lambda a: solve(Squares(a), Newton(tolerance=1e-5)))(jnp.asarray(A, jnp.float32))
        assert single.value.dtype == jnp.float32
    limited = jax.jit(lambda a: solve(Squares(a), Newton(), max_steps=1))(jnp.asarray(A))
    assert int(limited.result) == Result.ITERATION_LIMIT


@pytest.mark.parametrize("mode", [jax.jacfwd, jax.jacrev])
@against(Newton, none=WithoutDerivative, forgets_itself=ForgetsItself, other_condition=OtherCondition)
def test_implicit_derivative(implementation, mode):
    """Of `sqrt(a + shift)`, by the problem and by the method."""
    with jax.enable_x64(True):
        value = lambda a, shift: solve(Squares(a), implementation(shift=shift)).value  # noqa: E731
        by_a, by_shift = jax.jit(mode(value, (0, 1)))(A, 0.5)
        np.testing.assert_allclose(by_a, np.diag(0.5 / np.sqrt(A + 0.5)), rtol=1e-10, atol=1e-14)
        np.testing.assert_allclose(by_shift, 0.5 / np.sqrt(A + 0.5), rtol=1e-10)


def test_direct_derivative():
    with jax.enable_x64(True):
        by_a = jax.jacrev(lambda a: solve(Squares(a), SquareRoot()).value)(A)
        np.testing.assert_allclose(by_a, np.diag(0.5 / np.sqrt(A)), rtol=1e-12)


def test_vmap_over_a_hyper_parameter(x64):
    shifts = np.array([0.0, 0.5, 7.0])
    mapped = jax.vmap(lambda shift: solve(Squares(A), Newton(tolerance=1e-5, shift=shift)))(shifts)
    for i, shift in enumerate(shifts):
        one = solve(Squares(A), Newton(tolerance=1e-5, shift=shift))
        np.testing.assert_allclose(mapped.value[i], one.value, rtol=1e-5)
        assert mapped.result[i] == one.result


def test_numbers_compile_nothing(x64):
    solve(Squares(A), Newton(tolerance=1e-9))
    with counted_compilations() as compilations:
        for shift in (1, 0.25, np.float64(3.0)):
            solve(Squares(A + shift), Newton(tolerance=1e-8, shift=shift))
    assert compilations.count == 0
    with counted_compilations() as compilations:
        solve(Squares(np.ones(7 + x64)), Newton())  # a new shape
    assert compilations.count > 0
