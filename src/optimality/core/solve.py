"""The first verb: `solve(problem, method)`, for problems whose model is known.

A method is a frozen module whose fields are its hyper-parameters. It is *direct* (one `compute`) or *iterative*
(`init`, `step`, `terminate`, `finish`). Both are compiled once per shape: numbers are leaves, so that changing them
compiles nothing, and the same method object may be mapped over with `vmap`.
"""

import abc
import dataclasses
import importlib
from collections.abc import Callable
from functools import partial
from typing import Any, Generic, NamedTuple, TypeVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, PRNGKeyArray, PyTree

from optimality import registry
from optimality.core.fixed_point import Trace, empty_trace, largest_change, record
from optimality.core.numerics import cast_floats, float_dtype, is_traced, precision, to_numpy
from optimality.core.result import Result, SolverError

Problem = TypeVar("Problem")
State = TypeVar("State")


class Solution(eqx.Module):
    """What every solver returns.

    `value` is in reward units, `policy` acts, `result` says how the computation ended, `stats` holds counts and
    residuals, and `details` is the method's own typed record.
    """

    value: PyTree
    policy: Any
    result: Any
    stats: dict[str, Any]
    details: Any


RUNNING = -1
"""What `terminate` returns while an iterative method goes on."""


class AbstractDirect(eqx.Module, Generic[Problem]):
    """A method that is one computation, differentiated by autodiff or by rules of its own."""

    @abc.abstractmethod
    def compute(self, problem: Problem, key: PRNGKeyArray | None) -> Solution: ...

    def check(self, problem: Problem) -> None:
        """Raises `ValueError` for a problem that the method cannot take. Reads no traced values."""

    def explain(self, problem: Problem, solution: Solution) -> str:
        """What a person should know of a failure beyond the result's sentence."""
        return ""


class AbstractIterative(eqx.Module, Generic[Problem, State]):
    """A method that repeats `step` until `terminate` says how it ended.

    Derivatives are never taken through the loop. They follow from `condition(problem, point)`, which is zero at the
    solution `point(state)`:  `d point = -(dc/dpoint)^-1 dc/dproblem dproblem`.
    """

    max_steps: eqx.AbstractVar[int]

    @abc.abstractmethod
    def init(self, problem: Problem, guess: PyTree | None, key: PRNGKeyArray | None) -> State: ...

    @abc.abstractmethod
    def step(self, problem: Problem, state: State) -> State: ...

    @abc.abstractmethod
    def terminate(self, problem: Problem, state: State) -> Int[Array, ""]: ...

    @abc.abstractmethod
    def point(self, state: State) -> Float[Array, "..."]: ...

    @abc.abstractmethod
    def condition(self, problem: Problem, point: Float[Array, "..."]) -> Float[Array, "..."]: ...

    @abc.abstractmethod
    def finish(self, problem: Problem, state: State, point: Float[Array, "..."]) -> Solution: ...

    def check(self, problem: Problem) -> None:
        """Raises `ValueError` for a problem that the method cannot take. Reads no traced values."""

    def explain(self, problem: Problem, solution: Solution) -> str:
        """What a person should know of a failure beyond the result's sentence."""
        return ""


class AbstractFit(eqx.Module, Generic[Problem, State]):
    """A method that fits a model to data by stochastic steps, each a pass over the data.

    `init`, `step`, `terminate` and `finish` are as of an iterative method, but where such a fit ends depends on the
    noise of its steps, so that nothing is differentiated through it. With concrete arguments the loop runs on the host,
    a compiled call for each step, so that each may be reported; the default precision is float32.
    """

    max_steps: eqx.AbstractVar[int]

    @abc.abstractmethod
    def init(self, problem: Problem, guess: PyTree | None, key: PRNGKeyArray) -> State: ...

    @abc.abstractmethod
    def step(self, problem: Problem, state: State) -> State: ...

    @abc.abstractmethod
    def terminate(self, problem: Problem, state: State) -> Int[Array, ""]: ...

    @abc.abstractmethod
    def progress(self, problem: Problem, state: State) -> dict[str, Array]:
        """Numbers of the last step for a callback."""

    @abc.abstractmethod
    def finish(self, problem: Problem, state: State) -> Solution: ...

    def check(self, problem: Problem) -> None:
        """Raises `ValueError` for a problem that the method cannot take. Reads no traced values."""

    def explain(self, problem: Problem, solution: Solution) -> str:
        """What a person should know of a failure beyond the result's sentence."""
        return ""


Method = AbstractDirect | AbstractIterative | AbstractFit


class FitProgress(NamedTuple):
    """What a callback of `solve` sees after each step of a fit."""

    step: int
    max_steps: int
    numbers: dict[str, float]


def solve(
    problem: Any,
    method: AbstractDirect | AbstractIterative | AbstractFit | None = None,
    *,
    guess: PyTree | None = None,
    key: PRNGKeyArray | None = None,
    max_steps: int | None = None,
    throw: bool = True,
    dtype: Any = None,
    callback: Callable[[FitProgress], None] | None = None,
) -> Solution:
    """Solves `problem` with `method` (by default the one its class has in `registry`).

    With concrete arguments the computation runs in `dtype`, float64 unless asked otherwise and whatever JAX's flag
    says (float32 for methods that fit by stochastic steps), and the solution holds NumPy arrays of that precision. With
    traced arguments (inside the caller's `jit`, `vmap` or `grad`) precision is the arguments' own, `result` is the
    integer code, and nothing is raised.

    Args:
        problem: what is to be solved; for example a `TabularMDP`.
        method: a method object; its fields are its hyper-parameters.
        guess: where an iterative method starts.
        key: randomness, for methods that use it; those that fit by stochastic steps take seed 0 without one.
        max_steps: bound on the iterations, in place of the method's own.
        throw: raise `SolverError` when the result is not a success (concrete arguments only); a fit that used all its
            steps is none, but its result says `ITERATION_LIMIT`.
        dtype: precision of a concrete computation, float64 or float32.
        callback: called after each step of a method that fits by stochastic steps (concrete arguments only).

    Raises:
        ValueError: the method cannot take this problem or these arguments.
        SolverError: the computation did not succeed; `error.solution` holds what was reached.
    """
    method = _default_method(problem) if method is None else method
    if not isinstance(method, AbstractDirect | AbstractIterative | AbstractFit):
        raise ValueError(f"method must be a method object such as SoftValueIteration(), but {method!r} was given.")
    name = type(method).__name__
    if guess is not None and isinstance(method, AbstractDirect):
        raise ValueError(f"{name} computes its answer directly and starts from nothing: leave guess out.")
    if max_steps is not None:
        if not any(field.name == "max_steps" for field in dataclasses.fields(method)):
            raise ValueError(f"{name} does not iterate: leave max_steps out.")
        method = dataclasses.replace(method, max_steps=max_steps)
    fits = isinstance(method, AbstractFit)
    if callback is not None and not fits:
        raise ValueError(f"{name} has no steps to report: leave callback out.")
    if fits and key is None:
        key = jax.random.key(0)
    dtype = dtype or (np.float32 if fits else np.float64)
    method.check(problem)
    if is_traced((problem, method, guess, key)):
        problem, method, guess = cast_floats((problem, method, guess), float_dtype((problem, method, guess)))
        return _run(problem, method, guess, key)
    with precision(dtype):
        arguments: tuple[Any, ...] = (*cast_floats((problem, method, guess), dtype), key)
        solution = to_numpy(_fit(*arguments, callback=callback) if fits else _run_compiled(*arguments))
    result = Result.of(solution.result)
    solution = eqx.tree_at(lambda s: s.result, solution, result)
    used_up = fits and result is Result.ITERATION_LIMIT
    if throw and not result.is_success and not used_up:
        raise SolverError(name, result, solution, method.explain(problem, solution))
    return solution


def _default_method(problem: Any) -> Method:
    kind = type(problem).__name__
    entry = registry.find((*registry.METHODS, *registry.EVALUATION), registry.DEFAULT_METHODS.get(kind, ""))
    if entry is None:
        raise ValueError(f"{kind} has no default method: pass one, solve(problem, method).")
    return getattr(importlib.import_module(entry.module), entry.attribute)()


def _run(problem, method, guess, key) -> Solution:
    if isinstance(method, AbstractDirect):
        return method.compute(problem, key)
    if isinstance(method, AbstractFit):
        return _fit_in_one(problem, method, guess, key)
    return _iterate(problem, method, guess, key)


_run_compiled = jax.jit(_run)


def _fit(problem, method: AbstractFit, guess, key, *, callback) -> Solution:
    """The loop on the host."""
    state = _init_fit(problem, method, guess, key)
    code, steps = RUNNING, 0
    while code == RUNNING:
        state, reached, numbers = _step_fit(problem, method, state)
        steps, code = steps + 1, int(reached)
        if callback is not None:
            callback(FitProgress(steps, method.max_steps, {name: float(value) for name, value in numbers.items()}))
        if code == RUNNING and steps >= method.max_steps:
            code = int(Result.ITERATION_LIMIT)
    return _finish_fit(problem, method, state, jnp.asarray(code, jnp.int32), jnp.asarray(steps, jnp.int32))


@jax.jit
def _init_fit(problem, method: AbstractFit, guess, key):
    return method.init(problem, guess, key)


@partial(jax.jit, donate_argnums=2)
def _step_fit(problem, method: AbstractFit, state):
    state = method.step(problem, state)
    return state, method.terminate(problem, state), method.progress(problem, state)


@jax.jit
def _finish_fit(problem, method: AbstractFit, state, code, steps) -> Solution:
    solution = method.finish(problem, state)
    return dataclasses.replace(solution, result=code, stats={**solution.stats, "steps": steps})


def _fit_in_one(problem, method: AbstractFit, guess, key) -> Solution:
    """The same loop inside a user's transformation."""

    def body(loop):
        state, _, steps = loop
        state = method.step(problem, state)
        code = method.terminate(problem, state).astype(jnp.int32)
        steps = steps + 1
        return state, jnp.where((code == RUNNING) & (steps >= method.max_steps), Result.ITERATION_LIMIT, code), steps

    start = (method.init(problem, guess, key), jnp.asarray(RUNNING, jnp.int32), jnp.asarray(0, jnp.int32))
    state, code, steps = jax.lax.while_loop(lambda loop: loop[1] == RUNNING, body, start)
    return _finish_fit(problem, method, state, code, steps)


class _Loop(NamedTuple):
    state: PyTree
    code: Int[Array, ""]
    steps: Int[Array, ""]
    trace: Trace


def _iterate(problem, method: AbstractIterative, guess, key) -> Solution:
    still_problem, still_method = jax.lax.stop_gradient((problem, method))
    state = still_method.init(still_problem, guess, key)
    dtype = still_method.point(state).dtype

    def body(loop: _Loop) -> _Loop:
        new = still_method.step(still_problem, loop.state)
        steps = loop.steps + 1
        change = largest_change(still_method.point(new), still_method.point(loop.state))
        code = still_method.terminate(still_problem, new).astype(jnp.int32)
        code = jnp.where((code == RUNNING) & (steps >= method.max_steps), Result.ITERATION_LIMIT, code)
        return _Loop(new, code.astype(jnp.int32), steps, record(loop.trace, steps, change))

    start = _Loop(state, jnp.asarray(RUNNING, jnp.int32), jnp.asarray(0, jnp.int32), empty_trace(dtype))
    end = jax.lax.while_loop(lambda loop: loop.code == RUNNING, body, start)
    reached = jax.lax.stop_gradient(still_method.point(end.state))

    def solve_linear(g, y):
        flat = y.reshape(-1)
        matrix = jax.jacobian(lambda v: g(v.reshape(y.shape)).reshape(-1))(jnp.zeros_like(flat))
        return jnp.linalg.solve(matrix, flat).reshape(y.shape)

    point = jax.lax.custom_root(lambda x: method.condition(problem, x), reached, lambda _, x: x, solve_linear)
    solution = method.finish(problem, end.state, point)
    stats = {**solution.stats, "steps": end.steps, "trace": end.trace}
    return dataclasses.replace(solution, result=end.code, stats=stats)
