"""Demonstrations that a policy gives: drawn exactly from a table, or played in an environment."""

import math
from typing import Any

import jax
import numpy as np
from jaxtyping import PRNGKeyArray

from optimality.environments.abstract import AbstractEnvironment
from optimality.environments.gymnasium_environment import GymnasiumEnvironment
from optimality.environments.tabular import TabularEnvironment
from optimality.environments.wrappers import TimeLimit
from optimality.policies.tabular import TabularPolicy
from optimality.problems.criterion import AverageReward, Discounted, FiniteHorizon
from optimality.problems.tabular import TabularMDP
from optimality.sampling.acting import ActingPolicy
from optimality.sampling.compiled_runner import CompiledRunner
from optimality.sampling.demonstration_arrays import from_arrays
from optimality.sampling.demonstrations import Demonstrations
from optimality.sampling.gymnasium_runner import GymnasiumRunner
from optimality.sampling.loop import play, strong
from optimality.sampling.transitions import MaskedObservation

SIDE_BY_SIDE = 100
"""Most episodes that are played at once."""
STEP_CAP = 10_000
"""Longest episode where nothing else bounds it."""
NEGLIGIBLE = 1e-3
"""A discounted episode is cut off where later rewards count less than this."""


def demonstrate(
    problem_or_environment: Any, policy: Any, episodes: int, key: PRNGKeyArray, *, steps: int | None = None
) -> Demonstrations:
    """Plays `episodes` whole episodes; all that are begun are kept.

    Args:
        problem_or_environment: a `TabularMDP`, one of our environments, or anything that `train` takes from Gymnasium.
        policy: a `TabularPolicy` for a table; otherwise a policy that acts, or what `load_policy` gives, which then
            draws its actions.
        episodes: how many.
        key: everything random follows from it.
        steps: where episodes that go on are cut off. By default the horizon or time limit; with a discount
            where later rewards count less than a thousandth; until termination, and at the latest after 10,000 steps.
            An average reward, and an environment without time limit, need it.

    Returns:
        With rewards and, for a table, log-probabilities. The terminal reward of a finite horizon is no step's and is
        left out for a table; an environment pays it on top of the last reward.

    Raises:
        ValueError: a number of episodes or steps below one, a policy that does not fit, no bound on the steps.
    """
    if episodes < 1:
        raise ValueError(f"episodes must be at least 1, but {episodes} was given.")
    if steps is not None and steps < 1:
        raise ValueError(f"steps must be at least 1, but {steps} was given.")
    source = problem_or_environment
    if isinstance(policy, TabularPolicy):
        table = source.problem if isinstance(source, TabularEnvironment) else source
        if not isinstance(table, TabularMDP):
            raise ValueError(
                f"a TabularPolicy demonstrates in a TabularMDP, but {type(source).__name__} was given: read its table, "
                "TabularMDP.from_gymnasium(...)."
            )
        return from_table(table, policy, episodes, key, steps=steps)
    acting = policy.sampling(True) if isinstance(policy, ActingPolicy) else policy
    if not (hasattr(acting, "start") and hasattr(acting, "act")):
        raise ValueError(f"{type(policy).__name__} is no policy: it needs `start` and `act`, or to be a TabularPolicy.")
    source = TabularEnvironment(source) if isinstance(source, TabularMDP) else source
    number = min(episodes, SIDE_BY_SIDE)
    if isinstance(source, AbstractEnvironment):
        limited = source if steps is None else TimeLimit(source, steps)
        return from_runner(strong(CompiledRunner(limited, number)), acting, episodes, key)
    runner = GymnasiumRunner(GymnasiumEnvironment(source, number if _is_many(source) else None))
    if steps is not None:
        runner.time_limit = steps if runner.time_limit is None else min(steps, runner.time_limit)
    try:
        return from_runner(runner, acting, episodes, key)
    finally:
        if _is_many(source):
            runner.environment.close()


def from_runner(runner: Any, policy: Any, episodes: int, key: PRNGKeyArray) -> Demonstrations:
    """`episodes` whole episodes from a runner that is at rest. Masks of actions are not kept."""
    if runner.time_limit is None:
        raise ValueError("nothing bounds the episodes here: give steps, after which they are cut off.")
    # One round a call: rounds inside one compiled call are unrolled, and compile for as long as they are many.
    keys = jax.random.split(key, -(-episodes // runner.environments))
    rounds = [jax.tree.map(np.asarray, play(policy, runner, round_key)) for round_key in keys]
    played = jax.tree.map(lambda *parts: np.concatenate(parts, axis=1), *rounds)
    valid = played.valid.T[:episodes]
    lengths = valid.sum(axis=1)
    first, following = _plain(played.observation), _plain(played.next_observation)
    longest = int(lengths.max())
    observation = np.concatenate([first[:1], following[:longest]]).swapaxes(0, 1)[:episodes]
    last = (np.arange(lengths.size), lengths - 1)
    kept = lambda array: np.asarray(array).swapaxes(0, 1)[:episodes, :longest]  # noqa: E731
    extras = played.extras if isinstance(played.extras, dict) else {}
    return from_arrays(
        observation,
        kept(played.action),
        lengths=lengths,
        terminated=played.terminated.T[:episodes][last],
        reward=kept(played.reward),
        log_probability=kept(extras["log_prob"]) if "log_prob" in extras else None,
    )


def from_table(
    problem: TabularMDP, policy: TabularPolicy, episodes: int, key: PRNGKeyArray, *, steps: int | None = None
) -> Demonstrations:
    """Episodes of a table, side by side: each action from the policy, each outcome from the table, in float64."""
    limit = _limit(problem, steps)
    log_policy = np.asarray(policy.log_probabilities, np.float64)
    _check_policy(problem, log_policy)
    draw_outcome, outcomes = _outcome_sampler(problem)
    # JAX draws float32 uniforms; rare outcomes of a float64 table need more bits.
    random = np.random.default_rng(np.asarray(jax.random.key_data(key)).ravel().astype(np.uint32))
    cumulative = np.cumsum(np.exp(log_policy), axis=-1)
    state = _draw(np.cumsum(np.asarray(problem.initial, np.float64))[None], random.random(episodes))
    seen, actions, rewards, log_p = [state], [], [], []
    alive, lengths, terminated = np.ones(episodes, bool), np.zeros(episodes, np.int64), np.zeros(episodes, bool)
    for time in range(limit):
        place = min(time, len(cumulative) - 1)
        table, log_table = (cumulative[place], log_policy[place]) if cumulative.ndim == 3 else (cumulative, log_policy)
        action = _draw(table[state], random.random(episodes))
        outcome = draw_outcome(state, action, random.random(episodes))
        actions.append(action)
        rewards.append(outcomes.reward[outcome])
        log_p.append(log_table[state, action])
        lengths += alive
        over = outcomes.terminated[outcome]
        terminated |= alive & over
        state = np.where(alive, outcomes.successor[outcome], state)
        seen.append(state)
        alive = alive & ~over
        if not alive.any():
            break
    stacked = [np.stack(rows, axis=1) for rows in (seen, actions, rewards, log_p)]
    return from_arrays(
        stacked[0],
        stacked[1],
        lengths=lengths,
        terminated=terminated,
        reward=stacked[2],
        log_probability=stacked[3],
    )


def _limit(problem: TabularMDP, steps: int | None) -> int:
    criterion = problem.criterion
    if isinstance(criterion, FiniteHorizon):
        return criterion.horizon if steps is None else min(steps, criterion.horizon)
    if steps is not None:
        return steps
    if isinstance(criterion, AverageReward):
        raise ValueError("episodes of an average-reward problem have no end: give steps, after which they are cut off.")
    if isinstance(criterion, Discounted):
        discount = float(np.asarray(criterion.discount))
        return 1 if discount == 0.0 else max(math.ceil(math.log(NEGLIGIBLE) / math.log(discount)), 1)
    return STEP_CAP


def _check_policy(problem: TabularMDP, log_policy: np.ndarray) -> None:
    if log_policy.shape[-2:] != problem.shape:
        raise ValueError(
            f"the policy is for {log_policy.shape[-2]} states and {log_policy.shape[-1]} actions, but {problem.name} "
            f"has {problem.shape[0]} and {problem.shape[1]}."
        )
    likely = np.exp(log_policy) * ~np.asarray(problem.allowed) > 1e-9
    if likely.any():
        state, action = np.argwhere(likely)[0][-2:]
        raise ValueError(f"the policy takes action {action} in state {state}, which does not offer it.")


def _outcome_sampler(problem: TabularMDP):
    outcomes = problem.outcomes()
    states, actions = problem.shape
    pair = outcomes.state * actions + outcomes.action
    order = np.argsort(pair, kind="stable")
    first = np.searchsorted(pair[order], np.arange(states * actions + 1))
    total = np.concatenate([[0.0], np.cumsum(outcomes.probability[order])])

    def draw(state: np.ndarray, action: np.ndarray, uniform: np.ndarray) -> np.ndarray:
        here = state * actions + action
        low, high = total[first[here]], total[first[here + 1]]
        place = np.searchsorted(total, low + uniform * (high - low), side="right") - 1
        return order[np.clip(place, first[here], np.maximum(first[here + 1] - 1, first[here]))]

    return draw, outcomes


def _draw(cumulative: np.ndarray, uniform: np.ndarray) -> np.ndarray:
    return np.minimum((uniform[:, None] * cumulative[:, -1:] >= cumulative).sum(axis=1), cumulative.shape[1] - 1)


def _plain(observation: Any) -> np.ndarray:
    return observation.observation if isinstance(observation, MaskedObservation) else observation


def _is_many(source: Any) -> bool:
    """Whether copies of it are made here."""
    return isinstance(source, str) or (callable(source) and not hasattr(source, "step"))
