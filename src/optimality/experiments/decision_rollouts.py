"""Courses of a decision to play or to stop: worlds drawn from the belief, played by the policy until it stops."""

from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int

from optimality.exploration.exact_play import PlayPolicy
from optimality.exploration.play_or_not import PlayOrNot
from optimality.problems.criterion import Discounted, FiniteHorizon

LONGEST = 1000
"""Games after which a course is cut."""


class Courses(NamedTuple):
    """Of each world."""

    played: Int[np.ndarray, " worlds"]
    earned: Float[np.ndarray, " worlds"]
    """Rewards less `rate` times the time, of the games that were played."""
    cut: int
    """How many worlds would have gone on after `LONGEST` games."""
    ratios: list[Float[np.ndarray, " games"]]
    """Of the first worlds: `omega / eta` before the first game and after each."""


def play_courses(problem: PlayOrNot, policy: PlayPolicy, *, worlds: int, shown: int, seed: int) -> Courses:
    """Draws rates from the belief, then games, which `policy` goes on with or not.

    With `Discounted` there is another game with that chance; a discount of `FiniteHorizon` is one too.
    """
    criterion: Any = problem.criterion
    assert isinstance(criterion, FiniteHorizon | Discounted)
    rng = np.random.default_rng(seed)
    rewards, times, rate = problem.rewards, problem.times, float(np.asarray(problem.rate))
    alpha, omega, eta = (float(np.asarray(p)) for p in (rewards.outcome_shape, rewards.rate, times.rate))
    slow = rng.gamma(float(np.asarray(times.shape)), 1.0 / eta, worlds)
    beta = rng.gamma(float(np.asarray(rewards.shape)), 1.0 / omega, worlds)
    last = min(criterion.horizon, LONGEST) if isinstance(criterion, FiniteHorizon) else LONGEST
    thresholds = rate * np.asarray(policy.thresholds, np.float64)
    reward, time, earned = np.full(worlds, omega), np.full(worlds, eta), np.zeros(worlds)
    played, going = np.zeros(worlds, int), np.ones(worlds, bool)
    ratios = [[omega / eta] for _ in range(min(shown, worlds))]
    for n in range(last):
        going = going & (reward >= thresholds[min(n, thresholds.size - 1)] * time)
        if n > 0:
            going = going & (rng.random(worlds) < float(np.asarray(criterion.discount)))
        if not going.any():
            break
        r, t = rng.gamma(alpha, 1.0 / beta), rng.exponential(1.0 / slow)
        reward, time = np.where(going, reward + r, reward), np.where(going, time + t, time)
        earned += np.where(going, r - rate * t, 0.0)
        played += going
        for k, course in enumerate(ratios):
            if going[k]:
                course.append(float(reward[k] / time[k]))
    cut = 0 if isinstance(criterion, FiniteHorizon) and criterion.horizon <= LONGEST else int(np.sum(going))
    return Courses(played, earned, cut, [np.array(course) for course in ratios])
