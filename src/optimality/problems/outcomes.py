"""From a flat list of outcomes to the arrays of a problem, and the checks at that door. NumPy, on the host."""

from typing import NamedTuple

import numpy as np

from optimality.problems.models import AbstractModel, DenseModel, OutcomeLists, SuccessorModel

_SUM_TOLERANCE = 1e-8
_DENSE_CELLS = 50_000_000


class Outcomes(NamedTuple):
    """One entry per outcome: from `state` by `action` to `successor`, with its probability and reward.

    `terminated` marks outcomes after which the episode is over. The same pair may reach the same successor with
    different rewards, or both ending and not.
    """

    state: np.ndarray
    action: np.ndarray
    successor: np.ndarray
    probability: np.ndarray
    reward: np.ndarray
    terminated: np.ndarray

    @classmethod
    def of(cls, rows: list[tuple[int, int, int, float, float, bool]]) -> "Outcomes":
        """From rows `(state, action, successor, probability, reward, terminated)`."""
        if not rows:
            raise ValueError("there are no outcomes: give at least one for each state and allowed action.")
        columns = list(zip(*rows, strict=True))
        kinds = (np.int64, np.int64, np.int64, np.float64, np.float64, np.bool_)
        return cls(*(np.asarray(column, kind) for column, kind in zip(columns, kinds, strict=True)))


def check_indices(outcomes: Outcomes, states: int, actions: int) -> None:
    """Raises `ValueError` for a state or an action that there is not."""
    for name, index, size in (
        ("state", outcomes.state, states),
        ("action", outcomes.action, actions),
        ("successor", outcomes.successor, states),
    ):
        bad = np.flatnonzero((index < 0) | (index >= size))
        if bad.size:
            raise ValueError(f"{name} {index[bad[0]]} is outside 0..{size - 1}.")


def check_outcomes(outcomes: Outcomes, states: int, actions: int, allowed: np.ndarray) -> None:
    """Raises `ValueError` for what is not a model, naming the first place and the size of the fault."""

    def place(i: np.integer) -> str:
        return f"state {outcomes.state[i]}, action {outcomes.action[i]}"

    bad = np.flatnonzero(~np.isfinite(outcomes.probability) | (outcomes.probability < 0.0))
    if bad.size:
        i = bad[0]
        raise ValueError(
            f"probability {outcomes.probability[i]} at {place(i)}, successor {outcomes.successor[i]}: "
            "probabilities must be finite and not negative."
        )
    bad = np.flatnonzero(~np.isfinite(outcomes.reward))
    if bad.size:
        i = bad[0]
        raise ValueError(
            f"reward {outcomes.reward[i]} at {place(i)}, successor {outcomes.successor[i]}: rewards must be finite; "
            "to forbid an action use `allowed`."
        )
    total = np.bincount(outcomes.state * actions + outcomes.action, outcomes.probability, states * actions).reshape(
        states, actions
    )
    wrong = allowed & (np.abs(total - 1.0) > _SUM_TOLERANCE)
    if wrong.any():
        s, a = np.argwhere(wrong)[0]
        others = f" ({int(wrong.sum())} pairs in all)" if wrong.sum() > 1 else ""
        raise ValueError(
            f"probabilities at state {s}, action {a} sum to {total[s, a]:.10g}, off by {total[s, a] - 1.0:+.3g}"
            f"{others}: continuing and terminated mass together must sum to one; forbid an action with `allowed`."
        )


def mean_reward(outcomes: Outcomes, states: int, actions: int) -> tuple[np.ndarray, np.ndarray]:
    """`[S, A]` mean rewards, and each outcome's deviation from its pair's mean (exactly 0 where all agree)."""
    pair = outcomes.state * actions + outcomes.action
    size = states * actions
    likely = outcomes.probability > 0.0
    highest, lowest = np.full(size, -np.inf), np.full(size, np.inf)
    np.maximum.at(highest, pair[likely], outcomes.reward[likely])
    np.minimum.at(lowest, pair[likely], outcomes.reward[likely])
    mean = np.bincount(pair, outcomes.probability * outcomes.reward, size)
    mean = np.where(highest == lowest, highest, mean)
    mean = np.where(np.isfinite(mean), mean, 0.0)
    return mean.reshape(states, actions), outcomes.reward - mean[pair]


def build_model(outcomes: Outcomes, deviation: np.ndarray, states: int, actions: int, form: str) -> AbstractModel:
    """Merges equal outcomes and picks the cheapest exact form: `"dense"`, `"successors"`, or `"auto"`."""
    if form not in ("auto", "dense", "successors"):
        raise ValueError(f"form must be 'auto', 'dense' or 'successors', but {form!r} was given.")
    going = ~outcomes.terminated & (outcomes.probability > 0.0)
    over = outcomes.terminated & (outcomes.probability > 0.0)
    pair = outcomes.state * actions + outcomes.action
    lists = _padded(
        pair[going], outcomes.successor[going], outcomes.probability[going], deviation[going], states, actions
    )
    ending = None
    if over.any():
        ending = _padded(
            pair[over], outcomes.successor[over], outcomes.probability[over], deviation[over], states, actions
        )
    repeated = _has_repeats(lists)
    if form == "dense" and repeated:
        raise ValueError(
            "form='dense' cannot hold this problem: some pair reaches one successor with different rewards. "
            "Use form='successors' or 'auto'."
        )
    worth_it = 4 * lists.successor.shape[0] >= states and states * states * actions <= _DENSE_CELLS
    if form == "dense" or (form == "auto" and worth_it and not repeated):
        return _dense(lists, ending, states, actions)
    return SuccessorModel(going_on=lists, ending=ending)


def _padded(pair, successor, probability, deviation, states: int, actions: int) -> OutcomeLists:
    """Outcomes of each pair side by side, `[K, A, S]`; equal ones merged, missing ones with probability 0."""
    keys = np.stack([pair.astype(np.float64), successor.astype(np.float64), deviation])
    merged, where = np.unique(keys, axis=1, return_inverse=True)
    total = np.bincount(where.reshape(-1), probability, merged.shape[1])
    pair, successor, deviation = merged[0].astype(np.int64), merged[1].astype(np.int32), merged[2]
    rank = np.arange(pair.size) - np.searchsorted(pair, pair)
    width = max(1, int(rank.max(initial=-1)) + 1)
    position = (rank, pair % actions, pair // actions)
    shape = (width, actions, states)
    lists = np.zeros(shape, np.int32), np.zeros(shape), np.zeros(shape)
    for array, column in zip(lists, (successor, total, deviation), strict=True):
        array[position] = column
    return OutcomeLists(lists[0], lists[1], lists[2] if np.any(deviation != 0.0) else None)


def _has_repeats(lists: OutcomeLists) -> bool:
    marked = np.where(np.asarray(lists.probability) > 0.0, np.asarray(lists.successor), -1)
    ordered = np.sort(marked, axis=0)
    return bool(np.any((ordered[1:] == ordered[:-1]) & (ordered[1:] >= 0)))


def _dense(lists: OutcomeLists, ending: OutcomeLists | None, states: int, actions: int) -> DenseModel:
    successor = np.asarray(lists.successor)
    action, state = np.meshgrid(np.arange(actions), np.arange(states), indexing="ij")
    probability = np.zeros((actions, states, states))
    deviation = None if lists.deviation is None else np.zeros((actions, states, states))
    for k in range(successor.shape[0]):
        likely = np.asarray(lists.probability)[k] > 0.0
        cell = (action[likely], state[likely], successor[k][likely])
        probability[cell] += np.asarray(lists.probability)[k][likely]
        if deviation is not None:
            deviation[cell] = np.asarray(lists.deviation)[k][likely]
    return DenseModel(probability=probability, deviation=deviation, ending=ending)


def flatten(model: AbstractModel, reward: np.ndarray) -> Outcomes:
    """The outcomes that a model holds, with their rewards: the way back from `build_model`."""
    if isinstance(model, DenseModel):
        probability = np.asarray(model.probability)
        action, state, successor = np.nonzero(probability)
        cell = (action, state, successor)
        deviation = np.zeros(state.size) if model.deviation is None else np.asarray(model.deviation)[cell]
        parts = [(state, action, successor, probability[cell], deviation, False)]
    elif isinstance(model, SuccessorModel):
        parts = [(*_listed(model.going_on), False)]
    else:
        raise ValueError(f"{type(model).__name__} has no outcomes to list.")
    if model.ending is not None:
        parts.append((*_listed(model.ending), True))
    columns = [np.concatenate([np.asarray(part[i]) for part in parts]) for i in range(5)]
    terminated = np.concatenate([np.full(len(part[0]), part[5]) for part in parts])
    state, action, successor, probability, deviation = columns
    return Outcomes(state, action, successor, probability, reward[state, action] + deviation, terminated)


def _listed(lists: OutcomeLists):
    probability = np.asarray(lists.probability)
    outcome, action, state = np.nonzero(probability)
    cell = (outcome, action, state)
    deviation = np.zeros(state.size) if lists.deviation is None else np.asarray(lists.deviation)[cell]
    return state, action, np.asarray(lists.successor)[cell], probability[cell], deviation
