"""Whether a table can have made these demonstrations: checks at the door, each naming episode, step and place."""

from typing import Any

import numpy as np

from optimality.problems.criterion import FiniteHorizon
from optimality.problems.tabular import TabularMDP
from optimality.sampling.demonstrations import Demonstrations


def check_demonstrations(
    problem: TabularMDP, demonstrations: Demonstrations, *, allow_unmodelled: bool = False
) -> None:
    """Raises `ValueError` for what is empty, out of range, too long, or impossible in the model.

    With `allow_unmodelled` transitions that the model gives no chance pass; states and actions that it does not have
    never do.
    """
    if not isinstance(demonstrations, Demonstrations):
        raise ValueError(
            f"demonstrations must be Demonstrations or DemonstratedVisits, but a {type(demonstrations).__name__} was "
            "given."
        )
    valid = np.asarray(demonstrations.valid, bool)
    if valid.size == 0:
        raise ValueError("demonstrations need at least one episode, but there are none.")
    lengths = valid.sum(axis=1)
    states, actions = problem.shape
    steps = np.arange(valid.shape[1] + 1)[None]
    observation = _indices("observation", demonstrations.observation, (valid.shape[0], valid.shape[1] + 1))
    _in_range("state", observation, steps <= lengths[:, None], states)
    action = None
    if demonstrations.action is not None:
        action = _indices("action", demonstrations.action, valid.shape)
        _in_range("action", action, valid, actions)
    if demonstrations.log_weight is not None:
        weight = np.asarray(demonstrations.log_weight)
        if np.isnan(weight).any() or (weight == np.inf).any() or not np.isfinite(weight).any():
            raise ValueError("log_weight must be finite, or -inf for episodes to be left out, and not -inf everywhere.")
    if isinstance(problem.criterion, FiniteHorizon) and lengths.max() > problem.criterion.horizon:
        longest = int(np.argmax(lengths))
        raise ValueError(
            f"episode {longest} has {lengths[longest]} steps, but the problem's horizon is "
            f"{problem.criterion.horizon}: cut the episodes, or give the problem a longer horizon."
        )
    episode, time = np.nonzero(valid)
    over = np.asarray(demonstrations.terminated, bool)[episode] & (time == lengths[episode] - 1)
    here, there = observation[episode, time], observation[episode, time + 1]
    if action is not None:
        _check_allowed(problem, episode, time, here, action[episode, time])
    if not allow_unmodelled:
        _check_transitions(problem, episode, time, here, None if action is None else action[episode, time], there, over)


def _indices(name: str, array: Any, shape: tuple[int, ...]) -> np.ndarray:
    array = np.asarray(array)
    if array.shape != shape:
        raise ValueError(f"{name} must have shape {shape} on a table, one index a step, but it has {array.shape}.")
    if not np.issubdtype(array.dtype, np.integer):
        raise ValueError(f"{name} must hold whole numbers, the table's indices, but its type is {array.dtype}.")
    return array


def _in_range(name: str, index: np.ndarray, counted: np.ndarray, size: int) -> None:
    bad = np.argwhere(counted & ((index < 0) | (index >= size)))
    if bad.size:
        episode, step = (int(i) for i in bad[0])
        raise ValueError(
            f"episode {episode}, step {step}: {name} {index[episode, step]} is outside 0..{size - 1} of the problem."
        )


def _check_allowed(problem, episode, time, state, action) -> None:
    bad = np.flatnonzero(~np.asarray(problem.allowed)[state, action])
    if bad.size:
        i = bad[0]
        raise ValueError(
            f"episode {episode[i]}, step {time[i]}: action {action[i]} is taken in state {state[i]}, where the problem "
            f"does not allow it ({bad.size} such steps in all)."
        )


def _check_transitions(problem, episode, time, state, action, successor, over) -> None:
    outcomes = problem.outcomes()
    size = np.asarray(problem.shape[0], np.int64)
    pairs = problem.shape[1] if action is not None else 1
    known = outcomes.action if action is not None else np.zeros_like(outcomes.state)
    seen = action if action is not None else np.zeros_like(state)

    def code(s, a, t, ends):
        return ((s.astype(np.int64) * pairs + a) * size + t) * 2 + ends

    possible = code(outcomes.state, known, outcomes.successor, outcomes.terminated)
    bad = np.flatnonzero(~np.isin(code(state, seen, successor, over), possible))
    if not bad.size:
        return
    i = bad[0]
    by = "" if action is None else f" by action {action[i]}"
    other = np.isin(code(state[i], seen[i], successor[i], ~over[i]), possible)
    ending = "ends there" if over[i] else "goes on from there or is cut off"
    why = (
        f"as the episode {ending}, while in the model it {'goes on' if over[i] else 'ends'}"
        if other
        else ("which has no probability in the model")
    )
    raise ValueError(
        f"episode {episode[i]}, step {time[i]}: from state {state[i]}{by} to state {successor[i]}, {why} "
        f"({bad.size} such steps in all). If the model is only roughly right, allow_unmodelled=True lets them pass."
    )
