"""Small problems with known character: chains, a river, a deep sea, two states, and random ones."""

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


def river_swim(
    length: int = 6,
    ahead: float = 0.35,
    back: float = 0.05,
    from_first: float = 0.6,
    from_last: float = 0.4,
    small_reward: float = 0.005,
    reward_for: str = "swimming",
    *,
    criterion: Criterion | None = None,
) -> TabularMDP:
    """Swim right against the current for a reward of 1, or drift left for 0.005 (Strehl and Littman 2008).

    Action 0 drifts left for sure, in the first state for the small reward. Action 1 swims: up with probability `ahead`
    (`from_first` from the first state), back with `back` (`from_last` from the last), else it stays. In the last
    state it is paid 1 for `reward_for="swimming"`, or for `"staying"` there only. Nothing terminates. With
    `ahead=0.9, from_first=0.9, from_last=0.1, reward_for="staying"` it is the milder river of Bas-Serrano et al.
    2021.
    """
    _whole("length", length, 2)
    if reward_for not in ("swimming", "staying"):
        raise ValueError(f"reward_for must be 'swimming' or 'staying', but {reward_for!r} was given.")
    rows = []
    for state in range(length):
        rows.append((state, 0, max(state - 1, 0), 1.0, small_reward if state == 0 else 0.0, False))
        if state == 0:
            swim = ((0, 1.0 - from_first), (1, from_first))
        elif state == length - 1:
            swim = ((state - 1, from_last), (state, 1.0 - from_last))
        else:
            swim = ((state - 1, back), (state, 1.0 - ahead - back), (state + 1, ahead))
        for successor, probability in swim:
            is_paid = state == length - 1 and (reward_for == "swimming" or successor == state)
            rows.append((state, 1, successor, probability, float(is_paid), False))
    grid = GridMap.row_by_row(("." * length,), ((0, -1), (0, 1)))
    return TabularMDP.from_outcomes(Outcomes.of(rows), criterion=criterion, initial=0, grid=grid, name="river-swim")


def two_state(stochastic: bool = False, *, criterion: Criterion | None = None) -> TabularMDP:
    """Two states and two actions (Bagnell and Schneider 2003): action `a` leads to state `a`, and staying is paid, 1 in
    the first state and 2 in the second. Nothing terminates.

    With `stochastic` it is the problem that one sampled next state gets wrong (Bas-Serrano et al. 2021): in state 0
    action 0 stays for a reward of 1, action 1 is paid 6 and leads to state 1; there every action costs 3 and leads to
    either state alike. Leaving is worth nothing on average, but half of all samples of what follows look free.
    """
    if stochastic:
        rows = [(0, 0, 0, 1.0, 1.0, False), (0, 1, 1, 1.0, 6.0, False)]
        rows += [(1, action, successor, 0.5, -3.0, False) for action in (0, 1) for successor in (0, 1)]
    else:
        rows = [
            (state, action, action, 1.0, float(state + 1) if state == action else 0.0, False)
            for state in (0, 1)
            for action in (0, 1)
        ]
    return TabularMDP.from_outcomes(Outcomes.of(rows), criterion=criterion, initial=0, name="two-state")


def single_chain(length: int = 5, *, criterion: Criterion | None = None) -> TabularMDP:
    """A corridor without noise (Furmston and Barber 2010): action 0 goes one step on, at the end it stays and is paid
    `2 length`; action 1 goes back to the first state and is paid 2. Nothing terminates."""
    _whole("length", length, 2)
    rows = []
    for state in range(length):
        last = state == length - 1
        rows.append((state, 0, state if last else state + 1, 1.0, 2.0 * length if last else 0.0, False))
        rows.append((state, 1, 0, 1.0, 2.0, False))
    grid = GridMap.row_by_row(("." * length,), ((0, 1), None))
    return TabularMDP.from_outcomes(Outcomes.of(rows), criterion=criterion, initial=0, grid=grid, name="single-chain")


def double_chain(length: int = 5, *, criterion: Criterion | None = None) -> TabularMDP:
    """Two corridors from one first state (Furmston and Barber 2010), of `length` states each with that one.

    Action 0 goes one step on, from the first state along the first corridor, and stays at an end, where it is paid
    `2 length` in the first corridor and `length` in the second. Action 1 goes back to the first state and is paid 2;
    from there it enters the second corridor, for a reward of 2. Nothing terminates.
    """
    _whole("length", length, 3)
    rows = [(0, 0, 1, 1.0, 0.0, False), (0, 1, length, 1.0, 2.0, False)]
    for first, end, reward in ((1, length - 1, 2.0 * length), (length, 2 * length - 2, float(length))):
        for state in range(first, end + 1):
            last = state == end
            rows.append((state, 0, state if last else state + 1, 1.0, reward if last else 0.0, False))
            rows.append((state, 1, 0, 1.0, 2.0, False))
    return TabularMDP.from_outcomes(Outcomes.of(rows), criterion=criterion, initial=0, name="double-chain")


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
