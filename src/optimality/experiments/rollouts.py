"""Episodes of a table's policy: in the real Gymnasium environment, or drawn from the table itself."""

from typing import NamedTuple

import gymnasium
import numpy as np

from optimality.policies.tabular import TabularPolicy
from optimality.problems.criterion import AverageReward, Discounted, FiniteHorizon
from optimality.problems.tabular import TabularMDP

STEP_CAP = 10_000
"""Longest episode where neither a horizon nor a discount bounds it."""


class Rollouts(NamedTuple):
    """Return and length of each episode; `cut` counts those stopped at `STEP_CAP` before they were over."""

    returns: np.ndarray
    lengths: np.ndarray
    cut: int


def step_limit(mdp: TabularMDP) -> int:
    """Steps after which the rest of an episode does not count: the horizon, or where the discount leaves 1e-10."""
    if isinstance(mdp.criterion, FiniteHorizon):
        return mdp.criterion.horizon
    if isinstance(mdp.criterion, Discounted):
        discount = float(np.asarray(mdp.criterion.discount))
        return 1 if discount == 0.0 else int(np.ceil(np.log(1e-10) / np.log(discount))) + 1
    return STEP_CAP


def in_environment(
    environment: gymnasium.Env, mdp: TabularMDP, policy: TabularPolicy, *, episodes: int, seed: int
) -> Rollouts:
    """Plays `episodes` episodes; the table says only how long they count and how rewards are discounted.

    Raises `ValueError` where the environment gives an observation that is no state, or a reward that is not finite,
    naming the episode and the step.
    """
    _at_least_one(episodes)
    cumulative = np.cumsum(np.asarray(policy.probabilities, np.float64), axis=-1)
    states = mdp.shape[0]
    discount = float(np.asarray(mdp.discount))
    limit, bounded = step_limit(mdp), not np.isinf(_bound(mdp))
    terminal = _terminal_rewards(mdp)
    random = np.random.default_rng(seed)
    returns, lengths, cut = np.zeros(episodes), np.zeros(episodes, np.int64), 0
    for episode in range(episodes):
        state, _ = environment.reset(seed=seed if episode == 0 else None)
        weight, terminated, truncated, time = 1.0, False, False, 0
        while time < limit and not (terminated or truncated):
            table = cumulative[min(time, len(cumulative) - 1)] if cumulative.ndim == 3 else cumulative
            row = table[state]
            action = int(min(np.searchsorted(row, random.random() * row[-1], side="right"), row.size - 1))
            state, reward, terminated, truncated, _ = environment.step(action)
            time, reward = time + 1, float(reward)
            if not np.isfinite(reward):
                raise ValueError(f"the environment gave reward {reward} in episode {episode}, step {time}.")
            if not 0 <= state < states:
                raise ValueError(
                    f"the environment gave observation {state} in episode {episode}, step {time}, "
                    f"but its table has states 0..{states - 1}."
                )
            returns[episode] += weight * reward
            weight *= discount
        if not terminated and time == limit and bounded:
            returns[episode] += weight * terminal[state]
        cut += int(not terminated and not bounded)
        lengths[episode] = time
    return Rollouts(returns, lengths, cut)


def in_model(mdp: TabularMDP, policy: TabularPolicy, *, episodes: int, seed: int) -> Rollouts:
    """The same from the table's own outcomes, all episodes side by side. A check of planning, not of the table.

    For average reward each episode is 1,000 steps from the stationary law given as `mdp.initial`, and its return is
    the mean reward per step.
    """
    _at_least_one(episodes)
    outcomes = mdp.outcomes()
    states, actions = mdp.shape
    pair = outcomes.state * actions + outcomes.action
    order = np.argsort(pair, kind="stable")
    first = np.searchsorted(pair[order], np.arange(states * actions + 1))
    running_total = np.concatenate([[0.0], np.cumsum(outcomes.probability[order])])
    tables = np.cumsum(np.asarray(policy.probabilities, np.float64), axis=-1)
    average = isinstance(mdp.criterion, AverageReward)
    limit, bounded = (1_000, True) if average else (step_limit(mdp), not np.isinf(_bound(mdp)))
    discount = float(np.asarray(mdp.discount))
    random = np.random.default_rng(seed)
    state = _draw(np.cumsum(np.asarray(mdp.initial, np.float64))[None], random.random(episodes))
    returns, lengths, alive = np.zeros(episodes), np.zeros(episodes, np.int64), np.ones(episodes, bool)
    weight = 1.0
    for time in range(limit):
        if not alive.any():
            break
        table = tables[min(time, len(tables) - 1)] if tables.ndim == 3 else tables
        action = _draw(table[state], random.random(episodes))
        here = state * actions + action
        low, high = running_total[first[here]], running_total[first[here + 1]]
        target = low + random.random(episodes) * (high - low)
        drawn = np.clip(np.searchsorted(running_total, target, side="right") - 1, first[here], first[here + 1] - 1)
        outcome = order[drawn]
        returns += np.where(alive, weight * outcomes.reward[outcome], 0.0)
        lengths += alive
        state = np.where(alive, outcomes.successor[outcome], state)
        alive = alive & ~outcomes.terminated[outcome]
        weight *= discount
    if bounded and not average:
        returns += np.where(alive, weight * _terminal_rewards(mdp)[state], 0.0)
    return Rollouts(returns / limit if average else returns, lengths, 0 if bounded else int(alive.sum()))


def _draw(cumulative: np.ndarray, uniform: np.ndarray) -> np.ndarray:
    return np.minimum((uniform[:, None] * cumulative[:, -1:] >= cumulative).sum(axis=1), cumulative.shape[1] - 1)


def _bound(mdp: TabularMDP) -> float:
    return float(step_limit(mdp)) if isinstance(mdp.criterion, FiniteHorizon | Discounted) else np.inf


def _terminal_rewards(mdp: TabularMDP) -> np.ndarray:
    rewards = mdp.criterion.terminal_reward if isinstance(mdp.criterion, FiniteHorizon) else 0.0
    return np.broadcast_to(np.asarray(rewards, np.float64), (mdp.shape[0],))


def _at_least_one(episodes: int) -> None:
    if episodes < 1:
        raise ValueError(f"episodes must be at least 1, but {episodes} was given.")
