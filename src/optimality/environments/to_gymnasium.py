"""Our environments for others: as `gymnasium.Env`, as `gymnasium.vector.VectorEnv`, and registered by name.

    register_environments()
    gymnasium.make("optimality/CartPole-v1")
    gymnasium.make_vec("optimality/CartPole-v1", num_envs=8, autoreset_mode="SameStep")

Infinite bounds of observations become the largest float32, which no observation exceeds either. Where the environment
says which actions a state offers, `info["action_mask"]` has it.
"""

import functools
from typing import Any

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
from gymnasium import spaces
from gymnasium.vector import AutoresetMode
from gymnasium.vector.utils import batch_space

from optimality.environments.abstract import AbstractEnvironment
from optimality.environments.catalog import CATALOG, PREFIX, make_bare
from optimality.environments.wrappers import TimeLimit


def register_environments() -> None:
    """Registers every environment of the catalog with Gymnasium, as `optimality/NAME`; again is harmless."""
    for name, entry in CATALOG.items():
        if PREFIX + name not in gymnasium.registry:
            gymnasium.register(
                PREFIX + name,
                entry_point=f"{__name__}:single_from_catalog",
                vector_entry_point=f"{__name__}:vector_from_catalog",
                max_episode_steps=entry.time_limit,
                reward_threshold=entry.reward_threshold,
                kwargs={"name": name},
            )


def single_from_catalog(name: str, **parameters: Any) -> "ExportedEnv":
    """Entry point of Gymnasium, which puts its own time limit around it."""
    return ExportedEnv(make_bare(name, **parameters))


def vector_from_catalog(
    name: str,
    num_envs: int,
    max_episode_steps: int | None = None,
    autoreset_mode: str | AutoresetMode = AutoresetMode.NEXT_STEP,
    **parameters: Any,
) -> "ExportedVectorEnv":
    """Vector entry point of Gymnasium; the time limit is part of the compiled environment."""
    environment = make_bare(name, **parameters)
    if max_episode_steps is not None:
        environment = TimeLimit(environment, max_episode_steps)
    return ExportedVectorEnv(environment, num_envs, autoreset_mode)


def to_gymnasium(environment: AbstractEnvironment) -> "ExportedEnv":
    """`environment` as a `gymnasium.Env`."""
    return ExportedEnv(environment)


def to_gymnasium_vector(
    environment: AbstractEnvironment, number: int, autoreset_mode: str | AutoresetMode = AutoresetMode.NEXT_STEP
) -> "ExportedVectorEnv":
    """`number` copies of `environment` as a `gymnasium.vector.VectorEnv`, one compiled call a step."""
    return ExportedVectorEnv(environment, number, autoreset_mode)


@jax.jit
def _reset(environment, key):
    state, observation = environment.reset(jax.random.fold_in(key, 0))
    return state, observation, environment.action_mask(state)


@jax.jit
def _step(environment, key, time, state, action):
    state, *moved = environment.step(jax.random.fold_in(key, time), state, action)
    return state, *moved, environment.action_mask(state)


class ExportedEnv(gymnasium.Env):
    """One of our environments with the interface of Gymnasium; randomness comes from `np_random`."""

    metadata = {"render_modes": []}  # noqa: RUF012

    def __init__(self, environment: AbstractEnvironment):
        self.environment = environment
        self.observation_space = _finite(environment.observation_space)
        self.action_space = environment.action_space
        self.render_mode = None
        self._state: Any = None

    def reset(self, *, seed: int | None = None, options: dict | None = None):
        super().reset(seed=seed)
        self._key, self._time = _draw_key(self.np_random), 0
        self._state, observation, mask = _reset(self.environment, self._key)
        return self._host(observation), _info(mask)

    def step(self, action):
        if self._state is None:
            raise gymnasium.error.ResetNeeded("call reset before step.")
        if isinstance(self.action_space, spaces.Discrete) and not self.action_space.contains(action):
            raise ValueError(f"action {action!r} is not in {self.action_space}.")
        kind = np.float32 if isinstance(self.action_space, spaces.Box) else np.int32
        self._time += 1
        self._state, observation, reward, terminated, truncated, mask = _step(
            self.environment, self._key, np.int32(self._time), self._state, np.asarray(action, kind)
        )
        return self._host(observation), float(reward), bool(terminated), bool(truncated), _info(mask)

    def _host(self, observation):
        if isinstance(self.observation_space, spaces.Discrete):
            return np.int64(observation)
        return np.array(observation, self.observation_space.dtype)


@jax.jit
def _reset_vector(environment, key, time, state, observation, mask):
    """Fresh rows where `mask` is true, the old ones elsewhere."""
    size = mask.shape[0]
    keys = jax.random.split(jax.random.fold_in(jax.random.fold_in(key, time), 1), size)
    fresh = jax.vmap(environment.reset)(keys)
    return fresh if state is None else _where(mask, fresh, (state, observation))


@functools.partial(jax.jit, static_argnames="mode")
def _step_vector(environment, key, time, state, action, done, mode):
    """Also returns the observation before any reset of this step."""
    key = jax.random.fold_in(key, time)
    keys = jax.random.split(jax.random.fold_in(key, 0), done.shape[0])
    new, *moved = jax.vmap(environment.step)(keys, state, action)
    final, reward, terminated, truncated = moved
    observed = final
    if mode is AutoresetMode.NEXT_STEP:
        fresh = done
        reward = jnp.where(done, jnp.zeros_like(reward), reward)
        terminated, truncated = terminated & ~done, truncated & ~done
    else:
        fresh = terminated | truncated
    if mode is not AutoresetMode.DISABLED:
        reset_keys = jax.random.split(jax.random.fold_in(key, 1), done.shape[0])
        new, observed = jax.lax.cond(
            fresh.any(),
            lambda: _where(fresh, jax.vmap(environment.reset)(reset_keys), (new, final)),
            lambda: (new, final),
        )
    return new, observed, final, reward, terminated, truncated


@jax.jit
def _masks(environment, state):
    return jax.vmap(environment.action_mask)(state)


class ExportedVectorEnv(gymnasium.vector.VectorEnv):
    """Copies of one of our environments; `metadata["autoreset_mode"]` says which of the three modes it follows."""

    def __init__(
        self,
        environment: AbstractEnvironment,
        number: int,
        autoreset_mode: str | AutoresetMode = AutoresetMode.NEXT_STEP,
    ):
        self.environment, self.num_envs = environment, number
        self.autoreset_mode = AutoresetMode(autoreset_mode)
        self.metadata = {"render_modes": [], "autoreset_mode": self.autoreset_mode}
        self.render_mode = None
        self.single_observation_space = _finite(environment.observation_space)
        self.single_action_space = environment.action_space
        self.observation_space = batch_space(self.single_observation_space, number)
        self.action_space = batch_space(self.single_action_space, number)
        self._state = self._observation = None
        self._time, self._done = 0, np.zeros(number, bool)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None):
        super().reset(seed=seed)
        mask = (options or {}).get("reset_mask")
        if mask is None:
            mask, self._state, self._observation = np.ones(self.num_envs, bool), None, None
        elif np.shape(mask) != (self.num_envs,) or np.asarray(mask).dtype != bool:
            raise ValueError(f"reset_mask must be {self.num_envs} booleans, but {mask!r} was given.")
        elif self._state is None:
            raise gymnasium.error.ResetNeeded("the first reset is of all environments: leave reset_mask out.")
        if seed is not None or self._state is None:
            self._key, self._time = _draw_key(self.np_random), 0
        self._time += 1
        self._state, self._observation = _reset_vector(
            self.environment, self._key, np.int32(self._time), self._state, self._observation, mask
        )
        self._done = self._done & ~mask
        return self._host(self._observation), self._mask_info()

    def step(self, actions):
        if self._state is None:
            raise gymnasium.error.ResetNeeded("call reset before step.")
        if self.autoreset_mode is AutoresetMode.DISABLED and self._done.any():
            over = np.flatnonzero(self._done).tolist()
            raise gymnasium.error.ResetNeeded(
                f"environments {over} are over: call reset(options={{'reset_mask': done}}) before step."
            )
        kind = np.float32 if isinstance(self.single_action_space, spaces.Box) else np.int32
        self._time += 1
        self._state, self._observation, final, reward, terminated, truncated = _step_vector(
            self.environment,
            self._key,
            np.int32(self._time),
            self._state,
            np.asarray(actions, kind),
            self._done,
            self.autoreset_mode,
        )
        terminated, truncated = np.array(terminated), np.array(truncated)
        self._done = terminated | truncated
        info = self._mask_info()
        if self.autoreset_mode is AutoresetMode.SAME_STEP and self._done.any():
            info |= self._final_info(self._host(final))
        return self._host(self._observation), np.array(reward, np.float64), terminated, truncated, info

    def _host(self, observation):
        return np.array(observation, self.observation_space.dtype)

    def _mask_info(self) -> dict[str, Any]:
        mask = _masks(self.environment, self._state)
        return {} if mask is None else {"action_mask": np.array(mask), "_action_mask": np.ones(self.num_envs, bool)}

    def _final_info(self, final: np.ndarray) -> dict[str, Any]:
        rows = np.full(self.num_envs, None, object)
        for index in np.flatnonzero(self._done):
            rows[index] = final[index]
        return {
            "final_obs": rows,
            "_final_obs": self._done.copy(),
            "final_info": {},
            "_final_info": self._done.copy(),
        }


def _where(mask, yes, no):
    return jax.tree.map(lambda y, n: jnp.where(mask.reshape(mask.shape + (1,) * (y.ndim - 1)), y, n), yes, no)


def _draw_key(random: np.random.Generator):
    return jax.random.key(int(random.integers(2**31)))


def _info(mask) -> dict[str, Any]:
    return {} if mask is None else {"action_mask": np.array(mask)}


def _finite(space: spaces.Space) -> spaces.Space:
    if not isinstance(space, spaces.Box) or np.isfinite([space.low, space.high]).all():
        return space
    largest = np.finfo(np.float32).max
    return spaces.Box(np.maximum(space.low, -largest), np.minimum(space.high, largest), dtype=np.float32)
