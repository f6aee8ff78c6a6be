"""What is believed about a finite hidden state: the forward message of observations, and the backward one.

    predict   p(s_{t+1} | o_{0..t}, a_{0..t})     ~ sum_s b_t(s) p(s_{t+1} | s, a_t)
    update    b_{t+1}(s') = p(s' | o_{0..t+1}, a)  ~ p(o_{t+1} | a_t, s') p(s' | o_{0..t}, a)
    smooth    p(s_t | everything) = b_t(s_t) sum_{s'} p(s' | s_t, a_t) p(s' | everything) / p(s' | o_{0..t}, a)

Each `~` is an equality only after division by the sum; the logarithms of these sums, `log p(o_t | o_{0..t-1}, a)`,
add up to the log evidence (Barber 2012, section 23.2; with actions Kaelbling, Littman and Cassandra 1998).

An observation is made only while the episode runs, so that each is also evidence of not having ended: beliefs are
among running episodes, and the evidence is that of the observations and of running so far. The discount of the
criterion says what rewards are worth and is no part of the data.
"""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from optimality.core.numerics import at_precision, is_traced
from optimality.problems.partially_observed import PartiallyObserved
from optimality.problems.tabular import TabularMDP

Integers = Any
"""Whole numbers as a list, NumPy or JAX array."""


class HMMFiltered(eqx.Module):
    """Beliefs at the times `0 .. T` of T+1 observations.

    `beliefs [T+1, S]` are `p(s_t | o_0 .. o_t, a)`, `predicted [T+1, S]` the same before the observation, and
    `log_probabilities [T+1]` are `log p(o_t, still running | o_0 .. o_{t-1}, a)`, with sum `log_evidence`. From an
    impossible observation on beliefs are zero and log-probabilities `-inf`.
    """

    beliefs: Float[Array | np.ndarray, "time_and_end states"]
    predicted: Float[Array | np.ndarray, "time_and_end states"]
    log_probabilities: Float[Array | np.ndarray, " time_and_end"]
    log_evidence: Float[Array | np.ndarray, ""]


class HMMSmoothed(eqx.Module):
    """`beliefs [T+1, S]` given all observations, and `pairs [T, S, S]`, the joint law of each state and the next."""

    beliefs: Float[Array | np.ndarray, "time_and_end states"]
    pairs: Float[Array | np.ndarray, "time states states"]
    filtered: HMMFiltered


def hmm_filter(
    problem: PartiallyObserved,
    observations: Integers,
    actions: Integers,
    *,
    throw: bool = True,
    dtype: Any = np.float64,
) -> HMMFiltered:
    """Beliefs about the state of a partially observed table.

    Args:
        problem: a `PartiallyObserved` with a `TabularMDP` and a `TabularObservation`.
        observations: `[T+1]`, the first of which comes before any action.
        actions: `[T]`; may be empty.
        throw: refuse impossible observations; otherwise they have log evidence `-inf`, as where arguments are traced.
        dtype: precision of a concrete computation.

    Raises:
        ValueError: wrong lengths, numbers out of range, or an observation that no state can have led to.
    """
    observations, actions = check_data(problem, observations, actions)
    filtered = at_precision(_filter, problem, observations, actions, dtype=dtype)
    if throw and not is_traced(filtered):
        _refuse_impossible(filtered, observations, actions)
    return filtered


def hmm_smoother(
    problem: PartiallyObserved,
    observations: Integers,
    actions: Integers,
    *,
    throw: bool = True,
    dtype: Any = np.float64,
) -> HMMSmoothed:
    """`hmm_filter`, and what is believed of each time in the end; `pairs` takes `T S^2` numbers."""
    observations, actions = check_data(problem, observations, actions)
    smoothed = at_precision(_smooth, problem, observations, actions, dtype=dtype)
    if throw and not is_traced(smoothed):
        _refuse_impossible(smoothed.filtered, observations, actions)
    return smoothed


def belief_update(
    problem: PartiallyObserved,
    belief: Any,
    action: Any,
    observation: Any,
    *,
    dtype: Any = np.float64,
) -> tuple[Float[Array | np.ndarray, " states"], Float[Array | np.ndarray, ""]]:
    """One step: the belief after `action` and the observation that follows it, and
    `log p(observation, still running | belief, action)`; zeros and `-inf` where that is impossible."""
    _check_kind(problem)
    if not is_traced(action):
        _in_range("action", np.asarray(action), problem.problem.shape[1])
    if not is_traced(observation):
        _in_range("observation", np.asarray(observation), problem.observation.shape[1])
    belief = belief if is_traced(belief) else np.asarray(belief, np.float64)
    if np.shape(belief) != problem.problem.shape[:1]:
        raise ValueError(f"belief has shape {np.shape(belief)}, but the problem has {problem.problem.shape[0]} states.")
    action, observation = (x if is_traced(x) else np.asarray(x, np.int32) for x in (action, observation))
    return at_precision(_update_once, problem, belief, action, observation, dtype=dtype)


def log_transitions(problem: Any, actions: Any) -> Float[Array, "time states states"]:
    """`log p(s_{t+1}, still running | s_t, a_t)` of each step, `-inf` where it cannot be."""
    return jnp.log(jax.vmap(lambda action: problem.problem.model.under(action).dense()[0])(actions))


def log_likelihoods(problem: Any, observations: Any, actions: Any) -> Float[Array, "time_and_end states"]:
    """`log p(o_t | a_{t-1}, s_t)` of each time, `-inf` where it cannot be."""
    first = problem.observation.first_likelihood(observations[0])
    rest = jax.vmap(problem.observation.likelihood)(observations[1:], actions)
    return jnp.log(jnp.concatenate([first[None], rest]))


def _condition(predicted, likelihood):
    """The law after an observation of that likelihood, and the log of the probability of both."""
    log_joint = jnp.log(predicted) + jnp.log(likelihood)
    top = jnp.max(log_joint)
    joint = jnp.exp(log_joint - jnp.where(jnp.isneginf(top), 0.0, top))  # a small likelihood of all does not underflow
    total = jnp.sum(joint)
    possible = total > 0.0
    log_probability = jnp.where(possible, top + jnp.log(jnp.where(possible, total, 1.0)), -jnp.inf)
    return jnp.where(possible, joint / jnp.where(possible, total, 1.0), 0.0), log_probability


def _predict(problem, belief, action):
    """The next state's law among running episodes, and the probability of still running."""
    ahead = problem.problem.model.under(action).push_linear(belief[None])
    running = jnp.sum(ahead)
    return ahead / jnp.where(running > 0.0, running, 1.0), running


def _step(problem, belief, action, observation):
    predicted, running = _predict(problem, belief, action)
    belief, log_probability = _condition(predicted, problem.observation.likelihood(observation, action))
    return predicted, belief, log_probability + jnp.where(running > 0.0, jnp.log(running), -jnp.inf)


@jax.jit
def _update_once(problem, belief, action, observation):
    _, belief, log_probability = _step(problem, belief, action, observation)
    return belief, log_probability


@jax.jit
def _filter(problem, observations, actions) -> HMMFiltered:
    initial = jnp.asarray(problem.problem.initial)
    first, log_first = _condition(initial, problem.observation.first_likelihood(observations[0]))

    def step(belief, data):
        predicted, belief, log_probability = _step(problem, belief, *data)
        return belief, (predicted, belief, log_probability)

    _, (predicted, beliefs, log_probabilities) = jax.lax.scan(step, first, (actions, observations[1:]))
    log_probabilities = jnp.concatenate([log_first[None], log_probabilities])
    return HMMFiltered(
        jnp.concatenate([first[None], beliefs]),
        jnp.concatenate([initial[None], predicted]),
        log_probabilities,
        jnp.sum(log_probabilities),
    )


@jax.jit
def _smooth(problem, observations, actions) -> HMMSmoothed:
    filtered = _filter(problem, observations, actions)

    def step(after, data):
        belief, predicted, action = data
        known = predicted > 0.0
        ratio = jnp.where(known, after / jnp.where(known, predicted, 1.0), 0.0)
        pairs = belief[:, None] * problem.problem.model.under(action).dense()[0] * ratio[None, :]
        total = jnp.sum(pairs)
        pairs = pairs / jnp.where(total > 0.0, total, 1.0)
        now = jnp.sum(pairs, axis=1)
        return now, (now, pairs)

    last = filtered.beliefs[-1]
    data = filtered.beliefs[:-1], filtered.predicted[1:], actions
    _, (beliefs, pairs) = jax.lax.scan(step, last, data, reverse=True)
    return HMMSmoothed(jnp.concatenate([beliefs, last[None]]), pairs, filtered)


def check_data(problem: PartiallyObserved, observations: Integers, actions: Integers) -> tuple[Any, Any]:
    """Observations and actions of a table as arrays of int32. Raises `ValueError` for lengths and numbers."""
    _check_kind(problem)
    observations, actions = (
        x if is_traced(x) else _whole(name, x) for name, x in (("observations", observations), ("actions", actions))
    )
    if observations.ndim != 1 or actions.ndim != 1 or observations.shape[0] != actions.shape[0] + 1:
        raise ValueError(
            f"observations have shape {observations.shape} and actions {actions.shape}, but T actions need [T] and "
            f"[T+1] observations, the first of them before any action. Batches go through jax.vmap."
        )
    for name, array, number in (
        ("observations", observations, problem.observation.shape[1]),
        ("actions", actions, problem.problem.shape[1]),
    ):
        if not is_traced(array):
            _in_range(name, array, number)
    return observations, actions


def _check_kind(problem: Any) -> None:
    if not isinstance(problem, PartiallyObserved) or not isinstance(problem.problem, TabularMDP):
        given = type(getattr(problem, "problem", problem)).__name__
        raise ValueError(
            f"this filter needs PartiallyObserved(TabularMDP, TabularObservation), but a {given} was given; "
            f"linear problems have kalman_filter."
        )


def _whole(name: str, value: Any) -> np.ndarray:
    array = np.asarray(value)
    if array.size and not np.issubdtype(array.dtype, np.integer):
        raise ValueError(f"{name} must be whole numbers, but {array.dtype} was given.")
    return array.astype(np.int32)


def _in_range(name: str, array: np.ndarray, number: int) -> None:
    wrong = np.argwhere((array < 0) | (array >= number))
    if wrong.size:
        index = tuple(wrong[0].tolist())
        where = f" at time {index[0]}" if index else ""
        raise ValueError(f"{name}{where} is {array[index]}, but the problem's are 0 to {number - 1}.")


def _refuse_impossible(filtered: HMMFiltered, observations: np.ndarray, actions: np.ndarray) -> None:
    impossible = np.flatnonzero(np.isneginf(filtered.log_probabilities))
    if impossible.size:
        t = int(impossible[0])
        before = f" after action {int(actions[t - 1])}" if t else ""
        raise ValueError(
            f"observation {int(observations[t])} at time {t} is impossible{before}: no state in which the episode "
            f"still runs can have led to it, so the evidence is zero. Check the tables and the data, or pass "
            f"throw=False for log evidence -inf."
        )
