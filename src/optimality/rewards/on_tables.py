"""Rewards on a table: their expectation over a pair's outcomes, and the problem that pays them.

    r(s, a) = sum_{s', terminated} p(s', terminated | s, a) r(s, a, s', terminated)

Outcomes that end the episode count like the others, at the state that they lead to; the discount has no part in it.
"""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from optimality.core.numerics import cast_floats, is_traced, precision, to_numpy
from optimality.problems.criterion import FiniteHorizon
from optimality.problems.models import AbstractModel, DenseModel, OutcomeLists, SuccessorModel
from optimality.problems.tabular import TabularMDP
from optimality.rewards.abstract import AbstractReward

OfOutcome = Callable[[Any, Any, Any, Any], Any]
"""Of (state, action, next state, terminated)."""


def entered(
    problem: TabularMDP, values: Float[Array | np.ndarray, " states"], *, ended: bool = True
) -> Float[Array, "states actions"]:
    """`E v(s')` over all outcomes of each pair; with `ended=False` those that terminate count 0."""
    values = jnp.asarray(values)
    model = _in(problem.model, values.dtype)
    expected = model.expect_linear(values)
    if ended and model.ending is not None:
        at_ends = values[jnp.asarray(model.ending.successor)]
        expected += jnp.sum(jnp.asarray(model.ending.probability) * at_ends, axis=0)
    return expected.T


def over_outcomes(problem: TabularMDP, function: OfOutcome) -> tuple[Array, Array | None]:
    """`function` at every outcome that goes on and at every one that ends, in the order of the model's arrays:
    `[A, S, S']` of a dense model, else `[K, A, S]`."""
    states, actions = problem.shape
    state, action = jnp.arange(states)[None, :], jnp.arange(actions)[:, None]
    everywhere = jax.vmap(jax.vmap(function, (0, None, 0, None)), (None, 0, 0, None))  # over states inside actions
    if isinstance(problem.model, DenseModel):
        each = jax.vmap(function, (None, None, 0, None))
        going = jax.vmap(jax.vmap(each, (0, None, None, None)), (None, 0, None, None))(
            state[0], action[:, 0], jnp.arange(states), jnp.asarray(False)
        )
    else:
        going = _listed(everywhere, state, action, _lists(problem.model), False)
    ending = problem.model.ending
    return going, None if ending is None else _listed(everywhere, state, action, ending, True)


def _listed(everywhere, state, action, lists: OutcomeLists, over: bool):
    rows = [
        everywhere(state[0], action[:, 0], jnp.asarray(successor), jnp.asarray(over)) for successor in lists.successor
    ]
    return jnp.stack(rows)


def _lists(model: AbstractModel) -> OutcomeLists:
    if not isinstance(model, SuccessorModel):
        raise ValueError(f"{type(model).__name__} has no list of outcomes.")
    return model.going_on


def expected(problem: TabularMDP, function: OfOutcome) -> Float[Array, "states actions"]:
    """`E function(s, a, s', terminated)` of each pair."""
    going, ended = over_outcomes(problem, function)
    model = _in(problem.model, going.dtype)
    if isinstance(model, DenseModel):
        mean = jnp.sum(jnp.asarray(model.probability) * going, axis=2)
    else:
        mean = jnp.sum(jnp.asarray(_lists(model).probability) * going, axis=0)
    if ended is not None and model.ending is not None:
        mean += jnp.sum(jnp.asarray(model.ending.probability) * ended, axis=0)
    return mean.T


def with_reward(
    problem: TabularMDP, reward: AbstractReward, *, terminal_reward: Any = 0.0, per_outcome: bool | None = None
) -> TabularMDP:
    """The same dynamics, first states and criterion, with `reward` in place of every reward that the problem had.

    Args:
        problem: its reward, deviations and terminal reward are not looked at.
        reward: what is paid; with traced leaves the problem can be planned with under `jit` and `grad`.
        terminal_reward: paid at the end of a finite horizon, on top of what the reward itself pays there
            (`AbstractReward.terminal`, which is zero but for shaping).
        per_outcome: keep the reward of each outcome beside its pair's mean. Only risk and exact inference see them. By
            default where the reward looks at the next state.
    """
    per_outcome = reward.scope in ("next-state", "transition") if per_outcome is None else per_outcome
    if is_traced((problem, reward, terminal_reward)):
        return _with_reward(problem, reward, terminal_reward, per_outcome)
    with precision(np.float64):
        problem, reward, terminal_reward = cast_floats((problem, reward, terminal_reward), np.float64)
        made = to_numpy(_with_reward(problem, reward, terminal_reward, per_outcome))
    return eqx.tree_at(lambda mdp: mdp.model, made, _without_zeros(made.model), is_leaf=lambda x: x is None)


def _with_reward(problem: TabularMDP, reward: AbstractReward, terminal_reward: Any, per_outcome: bool) -> TabularMDP:
    mean = reward.table(problem)
    deviations = (None, None)
    if per_outcome:
        deviations = _deviations(problem.model, mean.T, *over_outcomes(problem, reward))
    criterion = problem.criterion
    if isinstance(criterion, FiniteHorizon):
        last = reward.terminal(problem)
        criterion = FiniteHorizon(
            criterion.horizon, criterion.discount, last + jnp.asarray(terminal_reward, last.dtype)
        )
    return TabularMDP(
        _with_deviations(problem.model, *deviations),
        mean,
        problem.initial,
        criterion,
        problem.allowed,
        problem.log_prior,
        problem.grid,
        problem.name,
    )


def _deviations(model: AbstractModel, mean, going, ended):
    """Zero where nothing can happen, so that an impossible outcome's reward means nothing."""
    dense = isinstance(model, DenseModel)
    probability = jnp.asarray(model.probability if dense else _lists(model).probability)
    going = jnp.where(probability > 0.0, going - (mean[:, :, None] if dense else mean[None]), 0.0)
    if ended is not None and model.ending is not None:
        ended = jnp.where(jnp.asarray(model.ending.probability) > 0.0, ended - mean[None], 0.0)
    return going, ended


def _with_deviations(model: AbstractModel, going, ended) -> AbstractModel:
    ending = model.ending
    if ending is not None:
        ending = OutcomeLists(ending.successor, ending.probability, ended)
    if isinstance(model, DenseModel):
        return DenseModel(probability=model.probability, deviation=going, ending=ending)
    lists = _lists(model)
    return SuccessorModel(going_on=OutcomeLists(lists.successor, lists.probability, going), ending=ending)


def _without_zeros(model: AbstractModel) -> AbstractModel:
    """Concrete models lose deviations that are all zero, up to rounding: the cheap kernels may then be used."""
    dense = isinstance(model, DenseModel)
    going = model.deviation if dense else _lists(model).deviation
    ended = None if model.ending is None else model.ending.deviation
    if all(part is None or not np.any(np.abs(part) > 1e-14) for part in (going, ended)):
        return _with_deviations(model, None, None)
    return model


def _in(model: AbstractModel, dtype: Any) -> AbstractModel:
    """The model's probabilities in the reward's precision; traced ones have it already."""
    if is_traced(model):
        return model
    return cast_floats(model, dtype)
