"""Methods that fit by stochastic steps: one compiled step, reported, in the caller's transformations too."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from compilations import counted_compilations
from optimality.core.numerics import Real
from optimality.core.result import Result, SolverError
from optimality.core.solve import RUNNING, AbstractFit, Solution, solve


class Points(eqx.Module):
    x: jax.Array | np.ndarray


class FitState(eqx.Module):
    mean: jax.Array
    count: jax.Array
    key: jax.Array


class RunningMean(AbstractFit[Points, FitState]):
    """Stochastic approximation of a mean: `m <- m + rate (x_i - m) / (1 + count)`, i at random."""

    rate: Real = 1.0
    max_steps: int = eqx.field(static=True, default=200)
    stop_after: int = eqx.field(static=True, default=50)

    def init(self, problem, guess, key):
        start = jnp.zeros((), problem.x.dtype) if guess is None else guess
        return FitState(start, jnp.asarray(0, jnp.int32), key)

    def step(self, problem, state):
        key, draw_key = jax.random.split(state.key)
        x = problem.x[jax.random.randint(draw_key, (), 0, problem.x.shape[0])]
        mean = state.mean + self.rate * (x - state.mean) / (1 + state.count).astype(x.dtype)
        return FitState(mean, state.count + 1, key)

    def terminate(self, problem, state):
        code = jnp.where(state.count >= self.stop_after, Result.CONVERGED, RUNNING)
        return jnp.where(jnp.isfinite(state.mean), code, Result.NON_FINITE)

    def progress(self, problem, state):
        return {"mean": state.mean}

    def finish(self, problem, state):
        return Solution(state.mean, None, 0, {"count": state.count}, None)


POINTS = Points(np.arange(8.0))


def test_each_step_is_reported_and_the_default_is_float32():
    seen = []
    solution = solve(POINTS, RunningMean(), key=jax.random.key(3), callback=seen.append)
    assert [progress.step for progress in seen] == list(range(1, 51))
    assert seen[-1].numbers["mean"] == float(solution.value)
    assert seen[0].max_steps == 200
    assert solution.value.dtype == np.float32
    assert solution.result is Result.CONVERGED
    assert int(solution.stats["steps"]) == 50


def test_without_a_key_it_takes_seed_zero():
    assert float(solve(POINTS, RunningMean()).value) == float(solve(POINTS, RunningMean(), key=jax.random.key(0)).value)


def test_the_same_numbers_in_the_callers_jit(x64):
    keys = jax.random.split(jax.random.key(1), 3)
    mapped = jax.jit(jax.vmap(lambda key: solve(POINTS, RunningMean(), key=key).value))(keys)
    dtype = np.float64 if x64 else np.float32
    single = [solve(POINTS, RunningMean(), key=key, dtype=dtype).value for key in keys]
    np.testing.assert_allclose(mapped, single, rtol=4 * np.finfo(dtype).eps)


def test_it_maps_over_a_hyper_parameter():
    rates = jnp.asarray([0.0, 1.0])
    found = jax.vmap(lambda rate: solve(POINTS, RunningMean(rate), key=jax.random.key(1)).value)(rates)
    assert found[0] == 0.0
    assert 1.0 < found[1] < 6.0


def test_another_number_compiles_nothing():
    solve(POINTS, RunningMean())
    with counted_compilations() as compilations:
        solve(POINTS, RunningMean(rate=0.5), key=jax.random.key(9))
    assert compilations.count == 0


def test_used_up_steps_are_no_error_but_are_said():
    solution = solve(POINTS, RunningMean(), max_steps=20)
    assert solution.result is Result.ITERATION_LIMIT
    assert int(solution.stats["count"]) == 20


def test_a_value_that_is_not_finite_is_an_error():
    with pytest.raises(SolverError, match="non finite"):
        solve(Points(np.full(8, np.nan)), RunningMean())


def test_a_guess_is_where_it_starts():
    assert float(solve(POINTS, RunningMean(rate=0.0), guess=2.5).value) == 2.5


def test_other_methods_refuse_a_callback():
    import optimality as ox

    with pytest.raises(ValueError, match="no steps to report"):
        ox.solve(ox.two_state(criterion=ox.Discounted(0.9)), ox.ValueIteration(), callback=print)
