"""Demonstrations counted on a table.

    visits(t, s, a) = discount^t sum_episodes weight 1[s_t = s, a_t = a]

With the discount and horizon of the problem, so that they compare with the occupancies of a policy there.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from optimality.problems.criterion import FiniteHorizon
from optimality.problems.tabular import TabularMDP
from optimality.sampling.demonstrations import Demonstrations


class DemonstratedVisits(NamedTuple):
    """Expected discounted visits in the demonstrations."""

    pairs: Float[np.ndarray, "..."]
    """`[H, S, A]` with a finite horizon, each step discounted; otherwise `[S, A]`, summed over time."""
    initial: Float[np.ndarray, " states"]
    """Law of the first state in the demonstrations."""
    horizon: int
    """Steps of the longest episode."""


def demonstrated_visits(problem: TabularMDP, demonstrations: Demonstrations) -> DemonstratedVisits:
    """Counts of state and action; needs actions, and episodes no longer than the problem's horizon."""
    states, actions = problem.shape
    observation, valid = np.asarray(demonstrations.observation), np.asarray(demonstrations.valid)
    episode, time = np.nonzero(valid)
    finite = isinstance(problem.criterion, FiniteHorizon)
    horizon = problem.criterion.horizon if isinstance(problem.criterion, FiniteHorizon) else valid.shape[1]
    weights = demonstrations.weights
    discount = float(np.asarray(problem.discount)) ** np.arange(horizon)
    pairs = np.zeros((horizon if finite else 1, states, actions))
    place = (
        time if finite else np.zeros_like(time),
        observation[episode, time],
        np.asarray(demonstrations.action)[episode, time],
    )
    np.add.at(pairs, place, weights[episode] * discount[time])
    initial = np.bincount(observation[:, 0], weights, states)
    return DemonstratedVisits(pairs if finite else pairs[0], initial, int(demonstrations.lengths.max()))
