"""Measured means with their uncertainty, and the law of a return that they are compared with."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy import stats

from optimality.policies.tabular import TabularPolicy
from optimality.problems.criterion import AverageReward, FiniteHorizon
from optimality.problems.tabular import TabularMDP

DISAGREEMENT = 4.0
"""A measured mean this many standard errors from the exact one is reported as a disagreement."""


class MeanInterval(NamedTuple):
    """A sample mean and its 95 % Student interval; one sample has no interval (infinite)."""

    mean: float
    low: float
    high: float
    standard_deviation: float
    samples: int


def mean_interval(samples: np.ndarray) -> MeanInterval:
    """Raises `ValueError` for no sample or one that is not finite."""
    samples = np.asarray(samples, np.float64)
    if samples.ndim != 1 or samples.size == 0:
        raise ValueError(f"a mean needs a list of at least one sample, but the shape is {samples.shape}.")
    if not np.all(np.isfinite(samples)):
        raise ValueError(f"sample {int(np.flatnonzero(~np.isfinite(samples))[0])} is not finite.")
    mean = float(samples.mean())
    if samples.size == 1:
        return MeanInterval(mean, -math.inf, math.inf, math.nan, 1)
    deviation = float(samples.std(ddof=1))
    half = float(stats.t.ppf(0.975, samples.size - 1)) * deviation / math.sqrt(samples.size)
    return MeanInterval(mean, mean - half, mean + half, deviation, samples.size)


def interquartile_mean(samples: np.ndarray) -> float:
    """The mean without the lowest and the highest quarter (Agarwal et al. 2021); of fewer than four, of all."""
    return float(stats.trim_mean(np.asarray(samples, np.float64).reshape(-1), 0.25))


def bootstrap_interval(
    groups: Sequence[np.ndarray], *, resamples: int = 2000, seed: int = 0
) -> tuple[float, float, float]:
    """Interquartile mean over all groups, and its 95 % percentile interval from resampling runs within each group.

    A group is what may not be mixed, the runs of one environment (stratified bootstrap, Agarwal et al. 2021). Groups of
    one run have no spread to resample.
    """
    groups = [np.asarray(group, np.float64) for group in groups]
    if not groups or min(group.size for group in groups) == 0:
        raise ValueError("an interval needs at least one run in each group.")
    random = np.random.default_rng(seed)
    drawn = [group[random.integers(0, group.size, (resamples, group.size))] for group in groups]
    means = stats.trim_mean(np.concatenate(drawn, axis=1), 0.25, axis=1)
    low, high = np.quantile(means, [0.025, 0.975])
    return interquartile_mean(np.concatenate(groups)), float(low), float(high)


def z_score(measured: float, exact: float, standard_deviation: float, count: int) -> float:
    """`(measured - exact) / (standard deviation / sqrt(count))`; without any spread 0 or infinite."""
    difference = measured - exact
    if abs(difference) <= 1e-9 * max(1.0, abs(exact)):
        return 0.0
    if standard_deviation <= 1e-12 * max(1.0, abs(exact)):
        return math.copysign(math.inf, difference)
    return difference / (standard_deviation / math.sqrt(count))


class ReturnMoments(NamedTuple):
    mean: float
    standard_deviation: float
    converged: bool


def return_moments(
    mdp: TabularMDP, policy: TabularPolicy, *, tolerance: float = 1e-10, max_steps: int = 100_000
) -> ReturnMoments:
    """Exact mean and standard deviation of the (discounted) return, by the recursion of its first two moments.

        m(s) = E[r + discount m(s')],    q(s) = E[r^2 + 2 discount r m(s') + discount^2 q(s')]      (Sobel 1982)

    In plain NumPy over the list of outcomes, so that it shares nothing with the compiled planners. Not for average
    reward.
    """
    if isinstance(mdp.criterion, AverageReward):
        raise ValueError("the return has no law under AverageReward(); its mean per step is the gain.")
    outcomes = mdp.outcomes()
    states, actions = mdp.shape
    pair = outcomes.state * actions + outcomes.action
    discount = float(np.asarray(mdp.discount))
    going = np.where(outcomes.terminated, 0.0, discount)
    reward, probability, successor = outcomes.reward, outcomes.probability, outcomes.successor

    def sweep(first, second, table):
        ahead = going * first[successor]
        mean = np.bincount(pair, probability * (reward + ahead), states * actions)
        square = reward**2 + 2.0 * reward * ahead + going**2 * second[successor]
        square = np.bincount(pair, probability * square, states * actions)
        return (table * mean.reshape(states, actions)).sum(1), (table * square.reshape(states, actions)).sum(1)

    tables = np.asarray(policy.probabilities, np.float64)
    first, second, converged = np.zeros(states), np.zeros(states), True
    if isinstance(mdp.criterion, FiniteHorizon):
        first = np.broadcast_to(np.asarray(mdp.criterion.terminal_reward, np.float64), (states,)).copy()
        second = first**2
        for time in reversed(range(mdp.criterion.horizon)):
            first, second = sweep(first, second, tables[time] if tables.ndim == 3 else tables)
    else:
        converged = False
        for _ in range(max_steps):
            new_first, new_second = sweep(first, second, tables)
            change = max(np.abs(new_first - first).max(), np.abs(new_second - second).max())
            first, second = new_first, new_second
            if change <= tolerance * max(1.0, np.abs(second).max()):
                converged = True
                break
    initial = np.asarray(mdp.initial, np.float64)
    mean = float(initial @ first)
    variance = float(initial @ second) - mean**2
    return ReturnMoments(mean, math.sqrt(max(variance, 0.0)), converged)
