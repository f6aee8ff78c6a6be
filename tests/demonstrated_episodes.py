"""Episodes of a policy on a table, sampled in NumPy, and linear problems whose experts are known."""

import functools

import numpy as np

from optimality import FiniteHorizon, LinearReward, SoftValueIteration, TabularMDP, random_mdp, solve, with_reward
from optimality.sampling.demonstrations import Demonstrations


def sample_episodes(problem: TabularMDP, policy: np.ndarray, episodes: int, length: int, seed: int) -> Demonstrations:
    """`policy [S, A]` or `[H, S, A]`, as probabilities."""
    random = np.random.default_rng(seed)
    states, actions = problem.shape
    outcomes = problem.outcomes()
    chance = np.zeros((states, actions, 2, states))
    np.add.at(
        chance,
        (outcomes.state, outcomes.action, outcomes.terminated.astype(int), outcomes.successor),
        outcomes.probability,
    )
    cumulative = np.cumsum(chance.reshape(states, actions, 2 * states), axis=-1)
    policy = np.broadcast_to(policy, (length, states, actions))
    observation = np.zeros((episodes, length + 1), int)
    action = np.zeros((episodes, length), int)
    valid = np.zeros((episodes, length), bool)
    over = np.zeros(episodes, bool)
    observation[:, 0] = random.choice(states, episodes, p=problem.initial)
    for time in range(length):
        valid[:, time] = ~over
        here = observation[:, time]
        chosen = _draw(np.cumsum(policy[time, here], axis=-1), random)
        outcome = _draw(cumulative[here, chosen], random)
        action[:, time] = np.where(over, 0, chosen)
        observation[:, time + 1] = np.where(over, here, outcome % states)
        over = over | (outcome >= states)
    return Demonstrations(observation, action, valid, over)


def _draw(cumulative, random):
    draw = random.uniform(size=cumulative.shape[0]) * cumulative[:, -1]
    return np.minimum((draw[:, None] >= cumulative).sum(axis=1), cumulative.shape[1] - 1)


@functools.cache
def linear_expert(criterion=FiniteHorizon(20), *, seed=3, termination=0.0, states=12, scope="state-action"):  # noqa: B008
    """A random problem of 3 actions, features, the true weights, and the soft-optimal policy under them."""
    problem = random_mdp(states, 3, 4, termination, seed, criterion=criterion)
    random = np.random.default_rng(seed)
    shape = (states, 3, 3) if scope == "state-action" else (states, 3)
    features, weights = random.normal(size=shape), np.array([1.0, -0.7, 0.5])
    paying = with_reward(problem, LinearReward(features, weights, scope))
    policy = solve(paying, SoftValueIteration(temperature=1.0)).policy
    return problem, features, weights, policy
