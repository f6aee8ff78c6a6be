"""Small problems with known character: a chain, a river, a deep sea, and random ones."""

import numpy as np

from optimality.problems.criterion import Criterion, FiniteHorizon
from optimality.problems.grid_map import GridMap
from optimality.problems.outcomes import Outcomes
from optimality.problems.tabular import TabularMDP


def chain(
    length: int = 5,
    slip: float = 0.2,
    small_reward: float = 0.2,
    large_reward: float = 1.0,
    *,
    criterion: Criterion | None = None,
) -> TabularMDP:
    """A corridor (Dearden, Friedman and Russell 1998): action 0 goes one step on, at the end it stays and is paid the
    large reward; action 1 goes back to the first state for the small one. With probability `slip` the other
    action happens. Nothing terminates."""
    _whole("length", length, 2)
    rows = []
    for state in range(length):
        forward = (min(state + 1, length - 1), large_reward if state == length - 1 else 0.0)
        for action, ways in enumerate(((forward, (0, small_reward)), ((0, small_reward), forward))):
            for probability, (successor, reward) in zip((1.0 - slip, slip), ways, strict=True):
                rows.append((state, action, successor, probability, reward, False))
    grid = GridMap.row_by_row(("." * length,), ((0, 1), None))
    return TabularMDP.from_outcomes(Outcomes.of(rows), criterion=criterion, initial=0, grid=grid, name="chain")


def river_swim(length: int = 6, *, criterion: Criterion | None = None) -> TabularMDP:
    """Swim right against the current for a reward of 1, or drift left for 0.005 (Strehl and Littman 2008).

    Action 0 drifts left for sure. Action 1 swims: up with probability 0.35 (0.6 from the first state), back with 0.05
    (0.4 from the last), else it stays. Nothing terminates.
    """
    _whole("length", length, 2)
    rows = []
    for state in range(length):
        rows.append((state, 0, max(state - 1, 0), 1.0, 0.005 if state == 0 else 0.0, False))
        if state == 0:
            swim = ((0, 0.4), (1, 0.6))
        elif state == length - 1:
            swim = ((state - 1, 0.4), (state, 0.6))
        else:
            swim = ((state - 1, 0.05), (state, 0.6), (state + 1, 0.35))
        reward = 1.0 if state == length - 1 else 0.0
        rows.extend((state, 1, successor, probability, reward, False) for successor, probability in swim)
    grid = GridMap.row_by_row(("." * length,), ((0, -1), (0, 1)))
    return TabularMDP.from_outcomes(Outcomes.of(rows), criterion=criterion, initial=0, grid=grid, name="river-swim")


def deep_sea(size: int = 10, move_cost: float = 0.01, *, criterion: Criterion | None = None) -> TabularMDP:
    """One of `2^size` action sequences leads to the treasure (Osband et al. 2019).

    Each step goes one row down; action 0 also left, action 1 right at a cost of `move_cost / size`. Only going right
    every time ends in the bottom right corner, for a reward of 1. The last row terminates, so that the criterion
    is `FiniteHorizon(size)` unless another is given.
    """
    _whole("size", size, 1)
    rows = []
    for depth in range(size):
        for column in range(size):
            for action, step in ((0, -1), (1, 1)):
                last = depth == size - 1
                across = min(max(column + step, 0), size - 1)
                successor = depth * size + column if last else (depth + 1) * size + across
                reward = -move_cost / size * action + float(last and column == size - 1 and action == 1)
                rows.append((depth * size + column, action, successor, 1.0, reward, last))
    grid = GridMap.row_by_row(("." * size,) * size, ((1, -1), (1, 1)))
    criterion = FiniteHorizon(size) if criterion is None else criterion
    return TabularMDP.from_outcomes(Outcomes.of(rows), criterion=criterion, initial=0, grid=grid, name="deep-sea")


def random_mdp(
    states: int = 20,
    actions: int = 4,
    successors: int = 4,
    termination: float = 0.0,
    seed: int = 0,
    *,
    criterion: Criterion | None = None,
) -> TabularMDP:
    """Random successors, probabilities (uniform on the simplex) and standard normal rewards of the pairs.

    `termination` is the probability that a step ends the episode; the first state is state 0.
    """
    _whole("states", states, 1)
    _whole("actions", actions, 1)
    _whole("successors", successors, 1)
    if successors > states:
        raise ValueError(f"successors ({successors}) cannot exceed states ({states}).")
    if not 0.0 <= termination <= 1.0:
        raise ValueError(f"termination must be a probability, but {termination} was given.")
    random = np.random.default_rng(seed)
    rows = []
    for state in range(states):
        for action in range(actions):
            reward = float(random.normal())
            follow = random.choice(states, successors, replace=False)
            chances = (1.0 - termination) * random.dirichlet(np.ones(successors))
            for successor, probability in zip(follow.tolist(), chances.tolist(), strict=True):
                rows.append((state, action, successor, probability, reward, False))
            if termination > 0.0:
                rows.append((state, action, state, termination, reward, True))
    return TabularMDP.from_outcomes(
        Outcomes.of(rows), criterion=criterion, initial=0, states=states, actions=actions, name="random"
    )


def _whole(name: str, value: int, least: int) -> None:
    if not isinstance(value, int | np.integer) or value < least:
        raise ValueError(f"{name} must be a whole number, at least {least}, but {value!r} was given.")
