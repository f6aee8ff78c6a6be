"""Environments around environments: time limit, scaled actions, past observations, partial view, running return.

Each is a pure module whose state holds the inner one, and they nest in any order.
"""

from typing import Any, NamedTuple

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from gymnasium import spaces
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from optimality.environments.abstract import AbstractEnvironment, Moved

Bounds = Float[Array | np.ndarray, "..."]


class Timed(NamedTuple):
    """State of `TimeLimit`; `time` counts the steps taken."""

    inner: Any
    time: Int[Array, ""]


class TimeLimit(AbstractEnvironment):
    """Truncates after `limit` steps, on top of what the environment itself truncates or terminates."""

    environment: AbstractEnvironment
    limit: int = eqx.field(static=True)

    def __check_init__(self):
        if not isinstance(self.limit, int) or isinstance(self.limit, bool) or self.limit < 1:
            raise ValueError(f"limit must be a whole number of steps, at least 1, but {self.limit!r} was given.")

    def reset(self, key: PRNGKeyArray) -> tuple[Timed, Any]:
        inner, observation = self.environment.reset(key)
        return Timed(inner, jnp.zeros((), jnp.int32)), observation

    def step(self, key: PRNGKeyArray, state: Timed, action: Any) -> Moved:
        inner, observation, reward, terminated, truncated = self.environment.step(key, state.inner, action)
        time = state.time + 1
        return Timed(inner, time), observation, reward, terminated, truncated | (time >= self.limit)

    @property
    def observation_space(self) -> spaces.Space:
        return self.environment.observation_space

    @property
    def action_space(self) -> spaces.Space:
        return self.environment.action_space

    @property
    def time_limit(self) -> int:
        inner = self.environment.time_limit
        return self.limit if inner is None else min(self.limit, inner)

    def action_mask(self, state: Timed) -> Bool[Array, " actions"] | None:
        return self.environment.action_mask(state.inner)


class RescaleAction(AbstractEnvironment):
    """Takes actions in [-1, 1] to the bounds of the environment: `low + (action + 1) (high - low) / 2`.

    Actions beyond [-1, 1] go beyond the bounds; what then happens is the environment's affair. The bounds are leaves,
    read once when the wrapper is made.
    """

    environment: AbstractEnvironment
    low: Bounds
    high: Bounds

    def __init__(self, environment: AbstractEnvironment):
        space = environment.action_space
        name = type(environment).__name__
        if not isinstance(space, spaces.Box):
            raise TypeError(f"RescaleAction is for Box actions, but {name} has {space}.")
        if not (np.isfinite(space.low).all() and np.isfinite(space.high).all()):
            raise ValueError(f"RescaleAction needs finite bounds, but the actions of {name} are in {space}.")
        self.environment = environment
        self.low, self.high = np.asarray(space.low), np.asarray(space.high)

    def reset(self, key: PRNGKeyArray) -> tuple[Any, Any]:
        return self.environment.reset(key)

    def step(self, key: PRNGKeyArray, state: Any, action: Float[Array, "..."]) -> Moved:
        action = jnp.asarray(action)
        low, high = jnp.asarray(self.low, action.dtype), jnp.asarray(self.high, action.dtype)
        return self.environment.step(key, state, low + (action + 1.0) * 0.5 * (high - low))

    @property
    def observation_space(self) -> spaces.Space:
        return self.environment.observation_space

    @property
    def action_space(self) -> spaces.Box:
        return spaces.Box(-1.0, 1.0, np.shape(self.low), np.float32)

    @property
    def time_limit(self) -> int | None:
        return self.environment.time_limit

    def action_mask(self, state: Any) -> Bool[Array, " actions"] | None:
        return self.environment.action_mask(state)


class Framed(NamedTuple):
    """State of `FrameStack`; `frames` are the last observations, oldest first."""

    inner: Any
    frames: Float[Array, "frames ..."]


class FrameStack(AbstractEnvironment):
    """Observes the last `number` observations, `[number, ...]`, oldest first; at the start copies of the first one."""

    environment: AbstractEnvironment
    number: int = eqx.field(static=True)

    def __check_init__(self):
        if not isinstance(self.number, int) or isinstance(self.number, bool) or self.number < 1:
            raise ValueError(f"number must be a whole number of frames, at least 1, but {self.number!r} was given.")
        _box(self.environment, "FrameStack")

    def reset(self, key: PRNGKeyArray) -> tuple[Framed, Float[Array, "frames ..."]]:
        inner, observation = self.environment.reset(key)
        frames = jnp.broadcast_to(observation[None], (self.number, *observation.shape))
        return Framed(inner, frames), frames

    def step(self, key: PRNGKeyArray, state: Framed, action: Any) -> Moved:
        inner, observation, reward, terminated, truncated = self.environment.step(key, state.inner, action)
        frames = jnp.concatenate([state.frames[1:], observation[None].astype(state.frames.dtype)])
        return Framed(inner, frames), frames, reward, terminated, truncated

    @property
    def observation_space(self) -> spaces.Box:
        space = _box(self.environment, "FrameStack")
        low, high = (np.repeat(bound[None], self.number, 0) for bound in (space.low, space.high))
        return spaces.Box(low, high, dtype=np.float32)

    @property
    def action_space(self) -> spaces.Space:
        return self.environment.action_space

    @property
    def time_limit(self) -> int | None:
        return self.environment.time_limit

    def action_mask(self, state: Framed) -> Bool[Array, " actions"] | None:
        return self.environment.action_mask(state.inner)


class PartialObservation(AbstractEnvironment):
    """Leaves out the coordinates `dropped` of a vector observation: without velocities most of classic control needs
    a memory."""

    environment: AbstractEnvironment
    dropped: tuple[int, ...] = eqx.field(static=True)

    def __check_init__(self):
        space = _box(self.environment, "PartialObservation")
        if len(space.shape) != 1:
            raise ValueError(f"PartialObservation drops coordinates of vectors, but observations are {space}.")
        size = space.shape[0]
        wrong = [index for index in self.dropped if not 0 <= index < size]
        if wrong:
            raise ValueError(f"dropped has {wrong}, but the coordinates of an observation are 0..{size - 1}.")
        if len(set(self.dropped)) == size:
            raise ValueError("dropped names every coordinate: nothing would be observed.")

    def reset(self, key: PRNGKeyArray) -> tuple[Any, Float[Array, " kept"]]:
        state, observation = self.environment.reset(key)
        return state, observation[self._kept(observation.shape[0])]

    def step(self, key: PRNGKeyArray, state: Any, action: Any) -> Moved:
        state, observation, reward, terminated, truncated = self.environment.step(key, state, action)
        return state, observation[self._kept(observation.shape[0])], reward, terminated, truncated

    def _kept(self, size: int) -> np.ndarray:
        return np.setdiff1d(np.arange(size), self.dropped)

    @property
    def observation_space(self) -> spaces.Box:
        space = _box(self.environment, "PartialObservation")
        kept = self._kept(space.shape[0])
        return spaces.Box(space.low[kept], space.high[kept], dtype=np.float32)

    @property
    def action_space(self) -> spaces.Space:
        return self.environment.action_space

    @property
    def time_limit(self) -> int | None:
        return self.environment.time_limit

    def action_mask(self, state: Any) -> Bool[Array, " actions"] | None:
        return self.environment.action_mask(state)


class Scored(NamedTuple):
    """State of `EpisodeStatistics`: undiscounted return and number of steps since the reset."""

    inner: Any
    episode_return: Float[Array, ""]
    length: Int[Array, ""]


class EpisodeStatistics(AbstractEnvironment):
    """Keeps the return and the length of the episode in the state, complete on the step that ends it."""

    environment: AbstractEnvironment

    def reset(self, key: PRNGKeyArray) -> tuple[Scored, Any]:
        inner, observation = self.environment.reset(key)
        return Scored(inner, jnp.zeros((), jnp.float32), jnp.zeros((), jnp.int32)), observation

    def step(self, key: PRNGKeyArray, state: Scored, action: Any) -> Moved:
        inner, observation, reward, terminated, truncated = self.environment.step(key, state.inner, action)
        total = state.episode_return + reward.astype(state.episode_return.dtype)
        return Scored(inner, total, state.length + 1), observation, reward, terminated, truncated

    @property
    def observation_space(self) -> spaces.Space:
        return self.environment.observation_space

    @property
    def action_space(self) -> spaces.Space:
        return self.environment.action_space

    @property
    def time_limit(self) -> int | None:
        return self.environment.time_limit

    def action_mask(self, state: Scored) -> Bool[Array, " actions"] | None:
        return self.environment.action_mask(state.inner)


def _box(environment: AbstractEnvironment, wrapper: str) -> spaces.Box:
    space = environment.observation_space
    if not isinstance(space, spaces.Box):
        raise TypeError(f"{wrapper} is for Box observations, but {type(environment).__name__} has {space}.")
    return space
