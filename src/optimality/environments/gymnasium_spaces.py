"""Gymnasium's spaces as arrays: which are supported, observations flattened, actions converted, masks read.

A learner sees observations of one array: a Box keeps its shape (real numbers become float32, integers stay), Discrete
stays an index counted from 0, and Dict, Tuple, MultiDiscrete and MultiBinary become one float32 vector, one-hot where
they are discrete, in the order of `gymnasium.spaces.flatten`. Actions are Box, Discrete or MultiDiscrete, indices
counted from 0.
"""

from typing import Any

import numpy as np
from gymnasium import spaces


def flat_observation_space(space: spaces.Space) -> spaces.Box | spaces.Discrete:
    """The space of `flatten_observations` for one environment.

    Raises `TypeError` for what has no fixed size: Text, Sequence, Graph, OneOf.
    """
    if isinstance(space, spaces.Discrete):
        return spaces.Discrete(int(space.n))
    if isinstance(space, spaces.Box):
        if space.dtype.kind != "f":
            return space
        return spaces.Box(space.low.astype(np.float32), space.high.astype(np.float32), dtype=np.float32)
    low, high = _bounds(space, "")
    return spaces.Box(low, high, dtype=np.float32)


def flatten_observations(space: spaces.Space, observations: Any) -> np.ndarray:
    """A batch of observations, as vector environments give them, as one array `[environments, ...]`.

    Always a copy: Gymnasium reuses its own arrays.
    """
    if isinstance(space, spaces.Discrete):
        return np.asarray(observations).astype(np.int32) - np.int32(space.start)
    if isinstance(space, spaces.Box):
        return np.array(observations, np.float32 if space.dtype.kind == "f" else space.dtype)
    return np.concatenate(_columns(space, observations), axis=1)


def _bounds(space: spaces.Space, path: str) -> tuple[np.ndarray, np.ndarray]:
    if isinstance(space, spaces.Box):
        return space.low.reshape(-1).astype(np.float32), space.high.reshape(-1).astype(np.float32)
    if isinstance(space, spaces.Dict | spaces.Tuple):
        bounds = [_bounds(part, f"{path}[{name!r}]") for name, part in _parts(space)]
        if not bounds:
            raise TypeError(f"the observation space{path} has no parts: {space}.")
        return np.concatenate([low for low, _ in bounds]), np.concatenate([high for _, high in bounds])
    if isinstance(space, spaces.Discrete):
        size = int(space.n)
    elif isinstance(space, spaces.MultiDiscrete):
        size = int(np.sum(space.nvec))
    elif isinstance(space, spaces.MultiBinary):
        size = int(np.prod(space.shape))
    else:
        where = f"the part {path} of the observations" if path else "the observation space"
        raise TypeError(
            f"{where} is {space}, which has no fixed size: supported are Box, Discrete, MultiDiscrete, MultiBinary, "
            "and Dict and Tuple of them. Put a gymnasium.ObservationWrapper around the environment that makes it one."
        )
    return np.zeros(size, np.float32), np.ones(size, np.float32)


def _parts(space: Any):
    return space.spaces.items() if isinstance(space, spaces.Dict) else enumerate(space.spaces)


def _columns(space: spaces.Space, batch: Any) -> list[np.ndarray]:
    if isinstance(space, spaces.Dict | spaces.Tuple):
        return [column for name, part in _parts(space) for column in _columns(part, batch[name])]
    batch = np.asarray(batch)
    if isinstance(space, spaces.Discrete):
        return [_one_hot(batch - space.start, int(space.n))]
    if isinstance(space, spaces.MultiDiscrete):
        digits = (batch - space.start).reshape(len(batch), -1)
        return [_one_hot(digits[:, i], int(size)) for i, size in enumerate(np.ravel(space.nvec))]
    return [batch.reshape(len(batch), -1).astype(np.float32)]


def _one_hot(index: np.ndarray, size: int) -> np.ndarray:
    return (index[:, None] == np.arange(size)).astype(np.float32)


def check_action_space(space: spaces.Space) -> None:
    """Raises `TypeError` for actions that no policy here draws."""
    if isinstance(space, spaces.Box) and space.dtype.kind == "f":
        return
    if isinstance(space, spaces.Discrete):
        return
    if isinstance(space, spaces.MultiDiscrete) and len(space.shape) == 1:
        return
    raise TypeError(
        f"the action space is {space}: supported are Discrete, MultiDiscrete (one axis) and Box of real numbers. "
        "Put a gymnasium.ActionWrapper around the environment that makes it one."
    )


def to_gymnasium_actions(space: spaces.Space, actions: Any) -> np.ndarray:
    """A batch of a policy's actions in the dtype and counting of `space`, the action space of one environment.

    Numbers outside a Box are handed on as they are: clipping is the environment's affair, as in the compiled ones.
    """
    actions = np.asarray(actions)
    if isinstance(space, spaces.Discrete | spaces.MultiDiscrete):
        return actions.astype(space.dtype) + space.start
    return actions.astype(space.dtype, copy=False)


def action_masks(
    info: dict[str, Any], space: spaces.Space, number: int, over: np.ndarray | None = None
) -> np.ndarray | None:
    """`[environments, actions]` booleans from `info["action_mask"]` of a vector environment, or None without one.

    An environment that gave none this time offers everything. For MultiDiscrete the mask of an environment is a tuple
    with an array a digit, and here all of them side by side. The mask belongs to the observation it came with: after
    a reset in the same step, to the new one. Where `over` is true the episode has ended: nobody acts there, and a mask
    that offers nothing counts as one that offers everything.
    """
    given = info.get("action_mask")
    if given is None:
        return None
    if isinstance(space, spaces.Discrete):
        size = int(space.n)
    elif isinstance(space, spaces.MultiDiscrete):
        size = int(np.sum(space.nvec))
    else:
        raise TypeError(
            f"the environment gives an action_mask, but its actions are {space}: masks are for discrete ones."
        )
    present = np.asarray(info.get("_action_mask", np.ones(number, bool)))
    masks = np.ones((number, size), bool)
    for index in np.flatnonzero(present):
        row = given[index]
        row = np.concatenate([np.ravel(part) for part in row]) if isinstance(row, tuple | list) else np.ravel(row)
        if row.size != size:
            raise ValueError(
                f"the action_mask of environment {index} has {row.size} entries for {size} actions: {row}."
            )
        if not row.any():
            if over is not None and over[index]:
                continue
            raise ValueError(f"the action_mask of environment {index} offers no action.")
        masks[index] = row.astype(bool)
    return masks
