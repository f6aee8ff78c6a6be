"""Recorded episodes at the door: lists or padded arrays become `Demonstrations`, or an error that names the fault."""

from typing import Any

import numpy as np

from optimality.sampling.demonstrations import Demonstrations


def from_arrays(
    observation: Any,
    action: Any = None,
    *,
    terminated: Any = None,
    lengths: Any = None,
    reward: Any = None,
    log_probability: Any = None,
    log_weight: Any = None,
) -> Demonstrations:
    """See `Demonstrations.from_arrays`."""
    per_step = {"action": action, "reward": reward, "log_probability": log_probability}
    if isinstance(observation, list | tuple):
        if lengths is not None:
            raise ValueError("lengths are for padded arrays: a list of episodes has its lengths already.")
        parts = _episodes("observation", observation)
        lengths = np.array([len(part) - 1 for part in parts])
        if (lengths < 1).any():
            raise ValueError(
                f"episode {int(np.argmax(lengths < 1))} has {len(parts[int(np.argmax(lengths < 1))])} observation(s): "
                "an episode has at least one step, and an observation before and after it."
            )
        seen = _stacked("observation", parts)
        taken = {n: None if v is None else _stacked(n, _matching(n, v, lengths)) for n, v in per_step.items()}
    else:
        seen = _array("observation", observation)
        if seen.ndim < 2 or seen.shape[0] == 0 or seen.shape[1] < 2:
            raise ValueError(
                f"observation has shape {seen.shape}, but padded arrays need [episodes, steps + 1, ...], at least one "
                "of each; episodes of their own lengths are given as a list of arrays."
            )
        taken = {n: None if v is None else _padded(n, v, seen.shape) for n, v in per_step.items()}
        lengths = _lengths(lengths, *seen.shape[:2])
    return _assemble(seen, taken, lengths, terminated, log_weight)


def _assemble(seen, taken, lengths, terminated, log_weight) -> Demonstrations:
    number, steps = seen.shape[0], seen.shape[1] - 1
    valid = np.arange(steps) < lengths[:, None]
    visible = np.arange(steps + 1) <= lengths[:, None]
    seen = _clean("observation", seen, visible)
    taken = {name: None if array is None else _clean(name, array, valid) for name, array in taken.items()}
    return Demonstrations(
        seen,
        taken["action"],
        valid,
        _terminated(terminated, number),
        _number_a_step("reward", taken["reward"]),
        _number_a_step("log_probability", taken["log_probability"]),
        _log_weight(log_weight, number),
    )


def _number_a_step(name: str, array: np.ndarray | None) -> np.ndarray | None:
    if array is None:
        return None
    if array.ndim != 2:
        raise ValueError(f"{name} must be one number for each step, but a step has {array.shape[2:]}.")
    return array if array.dtype.kind == "f" else array.astype(np.float64)


def _episodes(name: str, given: Any) -> list[np.ndarray]:
    if not given:
        raise ValueError("there are no episodes: demonstrations need at least one.")
    parts = [_array(f"{name} of episode {i}", part) for i, part in enumerate(given)]
    for i, part in enumerate(parts):
        if part.ndim == 0:
            raise ValueError(
                f"{name} of episode {i} is a single value: give a list of episodes, each an array over its steps; "
                f"one episode alone is [{name}]."
            )
        if part.shape[1:] != parts[0].shape[1:]:
            raise ValueError(
                f"{name} of episode {i} has shape {part.shape[1:]} at each step, but in episode 0 it is "
                f"{parts[0].shape[1:]}."
            )
    return parts


def _matching(name: str, given: Any, lengths: np.ndarray) -> list[np.ndarray]:
    """The episodes of something that there is once a step."""
    parts = _episodes(name, given if isinstance(given, list | tuple) else list(given))
    if len(parts) != lengths.size:
        raise ValueError(f"{name} has {len(parts)} episodes, but observation has {lengths.size}.")
    for i, part in enumerate(parts):
        if len(part) == lengths[i] + 1:
            raise ValueError(
                f"episode {i} has {len(part)} observations and as many entries of {name}: an episode of T steps has "
                "T + 1 observations, the last of them what was seen after its last step. Where that was not "
                f"recorded, leave out the last {name}."
            )
        if len(part) != lengths[i]:
            raise ValueError(f"episode {i} has {len(part)} entries of {name}, but {lengths[i]} steps.")
    return parts


def _stacked(name: str, parts: list[np.ndarray]) -> np.ndarray:
    kind = np.result_type(*{part.dtype for part in parts})
    stacked = np.zeros((len(parts), max(len(part) for part in parts), *parts[0].shape[1:]), kind)
    for row, part in zip(stacked, parts, strict=True):
        row[: len(part)] = part
    return stacked


def _padded(name: str, given: Any, seen: tuple[int, ...]) -> np.ndarray:
    array = _array(name, given)
    if array.shape[:2] != (seen[0], seen[1] - 1):
        raise ValueError(
            f"{name} has shape {array.shape}, but observation of shape {seen} needs [{seen[0]}, {seen[1] - 1}, ...]: "
            "there is one observation more than steps."
        )
    return array


def _array(name: str, given: Any) -> np.ndarray:
    try:
        array = np.asarray(given)
    except ValueError as error:
        raise ValueError(f"{name} is no array: {error}") from error
    if array.dtype.kind not in "biuf":
        raise ValueError(f"{name} must hold numbers, but its type is {array.dtype}; dictionaries are to be flattened.")
    if array.dtype == np.float16:
        array = array.astype(np.float32)
    return array


def _clean(name: str, array: np.ndarray, valid: np.ndarray) -> np.ndarray:
    """Padding set to zero, what remains checked; indices become int32."""
    mask = valid.reshape(valid.shape + (1,) * (array.ndim - 2))
    array = np.where(mask, array, np.zeros((), array.dtype))
    if array.dtype.kind == "f":
        bad = np.argwhere(~np.isfinite(array))
        if bad.size:
            episode, step = bad[0][:2]
            raise ValueError(f"{name} of episode {episode}, step {step} is not finite: {array[episode, step]}.")
    elif array.ndim == 2 and array.dtype != np.int32:
        if array.size and (array.max() > np.iinfo(np.int32).max or array.min() < np.iinfo(np.int32).min):
            raise ValueError(f"{name} has whole numbers beyond 32 bits: indices count from 0.")
        array = array.astype(np.int32)
    return array


def _lengths(given: Any, number: int, seen: int) -> np.ndarray:
    if given is None:
        return np.full(number, seen - 1)
    lengths = np.asarray(given)
    if lengths.shape != (number,) or lengths.dtype.kind not in "iu":
        raise ValueError(
            f"lengths must be {number} whole numbers, one for each episode, but its shape is {lengths.shape} and its "
            f"type {lengths.dtype}."
        )
    wrong = np.flatnonzero((lengths < 1) | (lengths > seen - 1))
    if wrong.size:
        raise ValueError(f"episode {wrong[0]} has {lengths[wrong[0]]} steps, but must have between 1 and {seen - 1}.")
    return lengths.astype(np.int64)


def _terminated(given: Any, number: int) -> np.ndarray:
    asked = (
        "say for each episode whether its last step ended it (terminated=True: a goal, a fall) or it was only cut off "
        "(False: a time limit, the end of the recording)"
    )
    flags = None if given is None else np.asarray(given)
    if flags is None or flags.dtype == object:
        raise ValueError(f"terminal flags are unknown: {asked}.")
    if flags.shape not in ((), (number,)):
        raise ValueError(f"terminated has shape {flags.shape}, but there are {number} episodes: {asked}.")
    wrong = np.flatnonzero(~np.isin(flags, (0, 1)))
    if wrong.size:
        raise ValueError(f"the terminal flag of episode {wrong[0]} is {np.ravel(flags)[wrong[0]]}: {asked}.")
    return np.broadcast_to(flags.astype(bool), (number,)).copy()


def _log_weight(given: Any, number: int) -> np.ndarray | None:
    if given is None:
        return None
    weight = np.asarray(given, np.float64)
    if weight.shape != (number,):
        raise ValueError(f"log_weight has shape {weight.shape}, but there are {number} episodes.")
    wrong = np.flatnonzero(np.isnan(weight) | (weight == np.inf))
    if wrong.size:
        raise ValueError(f"the log-weight of episode {wrong[0]} is {weight[wrong[0]]}: it must be a number, or -inf.")
    if np.all(weight == -np.inf):
        raise ValueError("every episode has log-weight -inf: at least one must count.")
    return weight
