"""Demonstrations counted on a table.

    visits(t, s, a) = discount^t sum_episodes weight 1[s_t = s, a_t = a]

With the discount and horizon of the problem, so that they compare with the occupancies of a policy there.
"""

from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

from optimality.problems.criterion import FiniteHorizon
from optimality.problems.models import AbstractModel, DenseModel, OutcomeLists
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


class DemonstratedStates(NamedTuple):
    """The same where actions are not looked at."""

    states: Float[np.ndarray, "..."]
    """`discount^t 1[s_t = s]` for the state before each step: `[H, S]`, or `[S]` summed over time."""
    next_states: Float[np.ndarray, "..."]
    """`discount^t 1[s_{t+1} = s]` for the state after each step, of the same shape: what features of the next state are
    weighted by. States in which an episode terminated are among them."""
    initial: Float[np.ndarray, " states"]
    horizon: int


def demonstrated_visits(problem: TabularMDP, demonstrations: Demonstrations) -> DemonstratedVisits:
    """Counts of state and action.

    Raises `ValueError` where actions were not recorded, and for whatever `check_demonstrations` refuses.
    """
    check_demonstrations(problem, demonstrations, actions=True)
    states, actions = problem.shape
    here = np.asarray(demonstrations.observation)[:, :-1].astype(np.int64)
    pair = here * actions + np.asarray(demonstrations.action)
    counted = _counted(problem, demonstrations, pair, states * actions)
    return DemonstratedVisits(
        counted.reshape(*counted.shape[:-1], states, actions), *_beginning(problem, demonstrations)
    )


def demonstrated_states(problem: TabularMDP, demonstrations: Demonstrations) -> DemonstratedStates:
    """Counts of states before and after each step; actions may be missing. Raises as `check_demonstrations` does."""
    check_demonstrations(problem, demonstrations)
    observation, states = np.asarray(demonstrations.observation), problem.shape[0]
    before = _counted(problem, demonstrations, observation[:, :-1], states)
    after = _counted(problem, demonstrations, observation[:, 1:], states)
    return DemonstratedStates(before, after, *_beginning(problem, demonstrations))


def check_demonstrations(problem: TabularMDP, demonstrations: Demonstrations, *, actions: bool = False) -> None:
    """Raises `ValueError` for demonstrations that cannot have happened in the problem, naming episode, step, state and
    action: indices out of range, actions that a state does not offer, transitions without probability, ends where the
    problem goes on or the other way round, episodes longer than the horizon. `actions` says that they are needed."""
    number, offered = problem.shape
    valid = np.asarray(demonstrations.valid)
    lengths = valid.sum(axis=1)
    if lengths.size == 0:
        raise ValueError("the demonstrations are empty: there must be at least one episode.")
    observation = _indices("observations", demonstrations.observation, "state", number)
    visible = np.arange(observation.shape[1]) <= lengths[:, None]
    _require_inside("state", observation, visible, number)
    observation = np.where(visible, observation, 0)
    if isinstance(problem.criterion, FiniteHorizon) and lengths.max() > problem.criterion.horizon:
        episode = int(lengths.argmax())
        raise ValueError(
            f"episode {episode} has {lengths[episode]} steps, but the horizon of {problem.name} is "
            f"{problem.criterion.horizon}: cut the episode off or choose a longer horizon."
        )
    action = None
    if demonstrations.action is not None:
        action = _indices("actions", demonstrations.action, "action", offered)
        _require_inside("action", action, valid, offered)
        action = np.where(valid, action, 0)
        wrong = np.argwhere(valid & ~np.asarray(problem.allowed)[observation[:, :-1], action])
        if wrong.size:
            raise ValueError(f"{_place(wrong[0], observation, action)}: the model does not offer this action there.")
    elif actions:
        raise ValueError(
            "the demonstrations have no actions, but these are needed: match features of states instead, or record "
            "what was done."
        )
    _check_transitions(problem, demonstrations, observation, action)


def _check_transitions(problem, demonstrations, observation, action) -> None:
    valid = np.asarray(demonstrations.valid)
    episode, time = np.nonzero(valid)
    last = time == valid.sum(axis=1)[episode] - 1
    ended = last & np.asarray(demonstrations.terminated)[episode]
    step = observation[episode, time], None if action is None else action[episode, time], observation[episode, time + 1]
    goes_on, ends = possible(problem, *step)
    wrong = np.flatnonzero(~np.where(ended, ends, goes_on))
    if not wrong.size:
        return
    first = wrong[0]
    where = f"{_place((episode[first], time[first]), observation, action)}, next state {step[2][first]}"
    if not (goes_on[first] or ends[first]):
        raise ValueError(f"{where}: this transition has probability 0 in {problem.name}.")
    if ended[first]:
        raise ValueError(
            f"{where}: the episode terminated there, but in {problem.name} it goes on; if it was cut off, terminated "
            "is False."
        )
    reason = "terminated is False" if last[first] else "the episode has further steps"
    raise ValueError(f"{where}: in {problem.name} this ends the episode, but {reason}.")


def possible(
    problem: TabularMDP, state: np.ndarray, action: np.ndarray | None, successor: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Whether each step can go on into its successor, and whether it can end there; without actions, by any that the
    state offers."""
    if action is None:
        allowed = np.asarray(problem.allowed)
        goes_on, ends = np.zeros(state.shape, bool), np.zeros(state.shape, bool)
        for choice in range(problem.shape[1]):
            on, over = possible(problem, state, np.full_like(state, choice), successor)
            goes_on |= on & allowed[state, choice]
            ends |= over & allowed[state, choice]
        return goes_on, ends
    return _going_on(problem.model, state, action, successor), _listed(problem.model.ending, state, action, successor)


def _going_on(model: AbstractModel, state, action, successor) -> np.ndarray:
    if isinstance(model, DenseModel):
        return np.asarray(model.probability)[action, state, successor] > 0.0
    return _listed(model.going_on, state, action, successor)  # pyright: ignore[reportAttributeAccessIssue]


def _listed(lists: OutcomeLists | None, state, action, successor) -> np.ndarray:
    if lists is None:
        return np.zeros(np.shape(state), bool)
    reached = np.asarray(lists.successor)[:, action, state] == successor[None]
    return (reached & (np.asarray(lists.probability)[:, action, state] > 0.0)).any(axis=0)


def _counted(problem: TabularMDP, demonstrations: Demonstrations, place: np.ndarray, cells: int) -> np.ndarray:
    valid = np.asarray(demonstrations.valid)
    episode, time = np.nonzero(valid)
    weight = demonstrations.weights[episode] * float(np.asarray(problem.discount)) ** time
    if not isinstance(problem.criterion, FiniteHorizon):
        return np.bincount(place[episode, time], weight, cells)
    horizon = problem.criterion.horizon
    return np.bincount(time * cells + place[episode, time], weight, horizon * cells).reshape(horizon, cells)


def _beginning(problem: TabularMDP, demonstrations: Demonstrations) -> tuple[np.ndarray, int]:
    first = np.asarray(demonstrations.observation)[:, 0]
    return np.bincount(first, demonstrations.weights, problem.shape[0]), int(demonstrations.lengths.max())


def _indices(name: str, given: Any, what: str, size: int) -> np.ndarray:
    array = np.asarray(given)
    if array.ndim != 2 or array.dtype.kind not in "iu":
        raise ValueError(
            f"{name} of the demonstrations have type {array.dtype} and shape {array.shape[2:]} at each step, but on a "
            f"table each is the index of a {what}, a whole number from 0 to {size - 1}."
        )
    return array


def _require_inside(name: str, index: np.ndarray, mask: np.ndarray, size: int) -> None:
    wrong = np.argwhere(mask & ((index < 0) | (index >= size)))
    if wrong.size:
        episode, step = wrong[0]
        raise ValueError(
            f"episode {episode}, step {step}: {name} {index[episode, step]} is outside 0..{size - 1} of the model."
        )


def _place(where: Any, observation: np.ndarray, action: np.ndarray | None) -> str:
    episode, step = int(where[0]), int(where[1])
    done = "" if action is None else f", action {action[episode, step]}"
    return f"episode {episode}, step {step}: state {observation[episode, step]}{done}"
