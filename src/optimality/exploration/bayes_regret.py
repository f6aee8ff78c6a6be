"""Exact Bayes regret of any bandit policy that has probabilities: no simulation.

    regret(T) = T E max_a mu_a - sum_{t < T} sum_states P(state at t) sum_a pi_a(state, t) m_a(state)

The law of the state of knowledge (pulls and successes of every arm) is carried forward from the prior, under the
policy's own chances and the predictive law of each outcome. States are counted out: few arms, short horizons.
"""

from typing import Any, NamedTuple

import equinox as eqx
import jax
import numpy as np
from jaxtyping import Float

from optimality.beliefs import BetaBernoulli
from optimality.exploration.bandit_policy import AbstractHostPolicy, ArmStatistics
from optimality.exploration.bernoulli_bandit import best_mean
from optimality.problems.bandits import BernoulliArms

_MOST_STATES = 3_000_000


class BayesRegret(NamedTuple):
    """Of one policy, after 1, 2, ..., horizon pulls."""

    reward: Float[np.ndarray, " horizon"]
    """Expected sum of rewards."""
    regret: Float[np.ndarray, " horizon"]
    pulls: Float[np.ndarray, " arms"]
    """Expected pulls of each arm in all."""


def bayes_regret(policy: Any, prior: BetaBernoulli, horizon: int) -> BayesRegret:
    """Expected reward and regret under the prior of a policy with `probabilities(statistics, time)`.

    Args:
        policy: a bandit policy, prepared here, or the policy of a solution.
        prior: belief about the arms, leaves `[arms]`; a policy may act on another one.
        horizon: pulls.

    Raises:
        ValueError: too many states of knowledge, or chances that are not a distribution.
    """
    a, b = (np.asarray(p, np.float64) for p in (prior.successes, prior.failures))
    if a.ndim != 1 or a.size < 2:
        raise ValueError(f"the prior has one entry for each of at least two arms, but its shape is {a.shape}.")
    if horizon < 1:
        raise ValueError(f"horizon must be at least 1, but {horizon} was given.")
    arms = a.size
    if hasattr(policy, "prepare"):
        problem = BernoulliArms(a / (a + b))
        policy.check(problem, horizon)
        policy = policy.prepare(problem, horizon)
    state, mass = np.zeros((2 * arms, 1), np.int32), np.ones(1)
    earned, expected_pulls = np.empty(horizon), np.zeros(arms)
    with jax.enable_x64(True):
        for time in range(horizon):
            pulls, ones = state[:arms], state[arms:]
            chances = _chances(policy, pulls, ones, time)
            _require_distribution(policy, chances, pulls.shape)
            mean = (a[:, None] + ones) / ((a + b)[:, None] + pulls)
            earned[time] = np.sum(mass * np.sum(chances * mean, axis=0))
            expected_pulls += np.sum(mass * chances, axis=1)
            if time < horizon - 1:
                state, mass = _advance(state, mass * chances, mean, time + 2)
        best = float(best_mean(jax.numpy.asarray(a), jax.numpy.asarray(b)))
    reward = np.cumsum(earned)
    return BayesRegret(reward, best * np.arange(1, horizon + 1) - reward, expected_pulls)


def _chances(policy: Any, pulls: np.ndarray, ones: np.ndarray, time: int) -> np.ndarray:
    if not isinstance(policy, eqx.Module) or isinstance(policy, AbstractHostPolicy):
        return np.asarray(policy.probabilities(ArmStatistics(pulls, ones), time), np.float64)
    count = pulls.shape[1]
    size = 16
    while size < count:  # few shapes, few compilations
        size *= 4
    padding = ((0, 0), (0, size - count))
    statistics = ArmStatistics(np.pad(pulls, padding), np.pad(ones, padding))
    return np.asarray(_compiled_chances(policy, statistics, np.int32(time)), np.float64)[:, :count]


@jax.jit
def _compiled_chances(policy: Any, statistics: ArmStatistics, time: Any) -> Any:
    return policy.probabilities(statistics, time)


def _advance(state: np.ndarray, flow: np.ndarray, mean: np.ndarray, base: int) -> tuple[np.ndarray, np.ndarray]:
    """States after one more pull, each once, and their probabilities."""
    arms = flow.shape[0]
    states, masses = [], []
    for arm in range(arms):
        going = flow[arm] > 0.0
        for outcome in (0, 1):
            new = state[:, going].copy()
            new[arm] += 1
            new[arms + arm] += outcome
            chance = mean[arm, going] if outcome else 1.0 - mean[arm, going]
            states.append(new)
            masses.append(flow[arm, going] * chance)
    stacked, weights = np.concatenate(states, axis=1), np.concatenate(masses)
    code = np.zeros(stacked.shape[1], np.int64)
    for row in stacked[np.arange(2 * arms) != arms - 1]:  # the last arm's pulls follow from the others'
        code = code * base + row
    _, first, where = np.unique(code, return_index=True, return_inverse=True)
    if first.size > _MOST_STATES:
        raise ValueError(
            f"there are {first.size} states of knowledge after {base - 1} pulls of {arms} arms, more than "
            f"{_MOST_STATES}: give a shorter horizon or fewer arms."
        )
    return stacked[:, first], np.bincount(where, weights)


def _require_distribution(policy: Any, chances: np.ndarray, shape: tuple[int, ...]) -> None:
    name = type(policy).__name__
    if chances.shape != shape:
        raise ValueError(f"probabilities of {name} have shape {chances.shape}, but {shape} is needed.")
    if not np.all(chances >= -1e-9) or not np.allclose(chances.sum(axis=0), 1.0, rtol=0.0, atol=1e-6):
        raise ValueError(f"probabilities of {name} are not a distribution over the arms.")
