"""Gymnasium's environments for us: anything becomes a vector environment, and every transition is a true one.

What a vector environment does at the end of an episode decides what a transition is (Gymnasium 1.1 and later):

| mode | the step that ends an episode returns | the step after |
| --- | --- | --- |
| DISABLED | the true last observation | an ordinary one, after `reset(options={"reset_mask": done})` |
| NEXT_STEP | the true last observation | a fake: the action is ignored, the reward 0, the observation a first one |
| SAME_STEP | the first observation of the next episode; the last is in `info["final_obs"]` | an ordinary one |

`as_vector` makes DISABLED ones; a vector environment that is handed in keeps its own mode.
"""

from collections.abc import Callable
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, SyncVectorEnv, VectorEnv

from optimality.environments.abstract import AbstractEnvironment
from optimality.environments.gymnasium_spaces import check_action_space, flat_observation_space
from optimality.environments.to_gymnasium import to_gymnasium_vector
from optimality.problems.gymnasium_table import make, time_limit

Source = str | gymnasium.Env | VectorEnv | AbstractEnvironment | Callable[[], gymnasium.Env]


class EnvironmentFailure(RuntimeError):
    """An environment raised, gave NaN, or changed its shape; the message names it, the step and the value."""


def as_vector(environment: Source | Any, number: int | None = None, **options: Any) -> VectorEnv:
    """Any source of environments as a vector environment.

    Args:
        environment: an id of Gymnasium, one constructed environment with its wrappers (then `number` is 1), a function
            that constructs one, one of our own, or a vector environment, which is returned as it is.
        number: how many copies, by default 1; of a vector environment, to check.
        options: arguments of `gymnasium.make`, with an id.

    Returns:
        With autoreset disabled, except for a vector environment of another mode; `autoreset_mode` tells. Its single
        environments are watched: what goes wrong in one is an `EnvironmentFailure` that says where.

    Raises:
        ValueError: unknown id, options without an id, or a number that cannot be had.
        TypeError: not an environment, or spaces that no policy can use.
    """
    if options and not isinstance(environment, str):
        raise ValueError(f"options {sorted(options)} are for an id; this environment is made already.")
    if number is not None and (isinstance(number, bool) or number < 1):
        raise ValueError(f"number of environments must be at least 1, but {number} was given.")
    if isinstance(environment, VectorEnv):
        if number not in (None, environment.num_envs):
            raise ValueError(f"this vector environment has {environment.num_envs} environments, not {number}.")
        autoreset_mode(environment)
        vector = environment
    elif isinstance(environment, AbstractEnvironment):
        vector = to_gymnasium_vector(environment, number or 1, AutoresetMode.DISABLED)
    else:
        copies = _watched(_copies(environment, number or 1, options))
        vector = SyncVectorEnv([lambda copy=copy: copy for copy in copies], autoreset_mode=AutoresetMode.DISABLED)
    flat_observation_space(vector.single_observation_space)
    check_action_space(vector.single_action_space)
    return vector


def _copies(environment: Any, number: int, options: dict[str, Any]) -> list[gymnasium.Env]:
    if isinstance(environment, str):
        return [make(environment, **options) for _ in range(number)]
    if isinstance(environment, gymnasium.Env):
        if number != 1:
            raise ValueError(
                f"one constructed environment cannot become {number}: pass a function that constructs it, "
                "for example `lambda: MyWrapper(gymnasium.make(...))`, or number=1."
            )
        return [environment]
    if not callable(environment):
        raise TypeError(
            f"{type(environment).__name__} is no environment: pass an id of Gymnasium, a gymnasium.Env, a function "
            "that constructs one, a gymnasium.vector.VectorEnv, or one of optimality's environments."
        )
    copies: list[Any] = [environment() for _ in range(number)]
    for copy in copies:
        if not isinstance(copy, gymnasium.Env):
            raise TypeError(f"the function must construct a gymnasium.Env, but it returned {type(copy).__name__}.")
    if len({id(copy) for copy in copies}) != number:
        raise ValueError("the function returned the same environment twice: it must construct a new one at each call.")
    return copies


def autoreset_mode(vector: VectorEnv) -> AutoresetMode:
    """The mode that a vector environment declares; `ValueError` where it declares none."""
    mode = vector.metadata.get("autoreset_mode")
    if mode is None:
        raise ValueError(
            f"{environment_name(vector)} does not say what it does when an episode ends: set "
            'metadata["autoreset_mode"] to a gymnasium.vector.AutoresetMode.'
        )
    return AutoresetMode(mode)


def true_next_observation(observation: Any, done: np.ndarray, info: dict[str, Any], mode: AutoresetMode) -> Any:
    """What the step really led to, given what it returned: a batch of raw observations, nested or not.

    Only SAME_STEP needs a look into `info`; there the result is a copy. In NEXT_STEP the step after an end is a fake
    whatever its observation; `is_true_step` says which.
    """
    if mode is not AutoresetMode.SAME_STEP or not done.any():
        return observation
    if "final_obs" not in info:
        raise EnvironmentFailure(
            'an episode ended, but info has no "final_obs": a vector environment that resets in the same step must '
            "give the last observation there (the old key `final_observation` is not read)."
        )
    rows = np.flatnonzero(done)
    return _replace_rows(observation, rows, [info["final_obs"][row] for row in rows])


def _replace_rows(batch: Any, rows: np.ndarray, values: list[Any]) -> Any:
    if isinstance(batch, dict):
        return {name: _replace_rows(part, rows, [value[name] for value in values]) for name, part in batch.items()}
    if isinstance(batch, tuple):
        return tuple(_replace_rows(part, rows, [value[i] for value in values]) for i, part in enumerate(batch))
    replaced = np.array(batch)
    replaced[rows] = np.stack(values)
    return replaced


def is_true_step(previous_done: np.ndarray, mode: AutoresetMode) -> np.ndarray:
    """Which rows of a step are transitions: in NEXT_STEP not those whose episode the step before had ended."""
    return ~previous_done if mode is AutoresetMode.NEXT_STEP else np.ones_like(previous_done)


def vector_time_limit(vector: VectorEnv) -> int | None:
    """The smallest registered or wrapped time limit of a vector environment, or None where none is known."""
    plain = vector.unwrapped
    own = getattr(plain, "environment", None)
    if isinstance(own, AbstractEnvironment):
        return own.time_limit
    if isinstance(plain, SyncVectorEnv):
        limits = [time_limit(environment) for environment in plain.envs]
        return None if None in limits else max(limit for limit in limits if limit is not None)
    return None if vector.spec is None else vector.spec.max_episode_steps


def environment_name(environment: gymnasium.Env | VectorEnv) -> str:
    """Its id, or the name of its class."""
    if environment.spec is not None:
        return environment.spec.id
    plain = environment.unwrapped
    if isinstance(plain, SyncVectorEnv):
        return environment_name(plain.envs[0])
    own = getattr(plain, "environment", None)
    return type(plain if own is None else own).__name__


def _watched(copies: list[gymnasium.Env]) -> list[gymnasium.Env]:
    alone = len(copies) == 1
    return [_Watched(copy, "" if alone else f", copy {index}") for index, copy in enumerate(copies)]


class _Watched(gymnasium.Wrapper):
    """Says which environment raised or changed its shape, when, and with what. NaN is looked for in the whole batch,
    by `GymnasiumEnvironment`, which is cheaper."""

    def __init__(self, env: gymnasium.Env, which: str):
        super().__init__(env)
        self._which, self._episode, self._time = environment_name(env) + which, -1, 0
        space = env.observation_space
        self._shape = space.shape if isinstance(space, spaces.Box) else None

    def reset(self, *, seed=None, options=None):
        self._episode, self._time = 0 if seed is not None else self._episode + 1, 0
        try:
            observation, info = self.env.reset(seed=seed, options=options)
        except Exception as error:
            raise EnvironmentFailure(f"{self.where} raised {type(error).__name__} in reset: {error}") from error
        self._check(observation)
        return observation, info

    def step(self, action):
        self._time += 1
        try:
            observation, reward, terminated, truncated, info = self.env.step(action)
        except Exception as error:
            raise EnvironmentFailure(
                f"{self.where} raised {type(error).__name__} for action {action}: {error}"
            ) from error
        self._check(observation)
        return observation, reward, terminated, truncated, info

    @property
    def where(self) -> str:
        return f"{self._which}: episode {self._episode}, step {self._time}:"

    def _check(self, observation: Any) -> None:
        if self._shape is not None and np.shape(observation) != self._shape:
            raise EnvironmentFailure(
                f"{self.where} the observation has shape {np.shape(observation)}, but the space has {self._shape}: "
                f"{observation}"
            )


def failure_place(vector: VectorEnv, row: int, steps: int) -> str:
    """Which copy, and when: in its own episode where it is watched, else in steps of the whole."""
    plain = vector.unwrapped
    copy = plain.envs[row] if isinstance(plain, SyncVectorEnv) else None
    return copy.where if isinstance(copy, _Watched) else f"{environment_name(vector)}, copy {row}: step {steps}:"


def has_nan(observation: Any) -> bool:
    """Whether any number of a nested observation is NaN."""
    if isinstance(observation, dict):
        return any(has_nan(part) for part in observation.values())
    if isinstance(observation, tuple):
        return any(has_nan(part) for part in observation)
    array = np.asarray(observation)
    return array.dtype.kind == "f" and bool(np.isnan(array).any())
