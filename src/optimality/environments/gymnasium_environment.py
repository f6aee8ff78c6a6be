"""A vector environment of Gymnasium as a runner needs it: the same few calls in all three autoreset modes.

environment = GymnasiumEnvironment("CartPole-v1", 8)
observation, mask = environment.reset(seed=0)
moved = environment.step(action)                    # true next observations, fakes marked
observation, mask = environment.restart()           # fresh rows where episodes ended; what to act on next
"""

from typing import Any, NamedTuple

import numpy as np
from gymnasium import spaces
from gymnasium.vector import AutoresetMode

from optimality.environments.from_gymnasium import (
    EnvironmentFailure,
    Source,
    as_vector,
    autoreset_mode,
    environment_name,
    failure_place,
    has_nan,
    is_true_step,
    true_next_observation,
    vector_time_limit,
)
from optimality.environments.gymnasium_spaces import (
    action_masks,
    flat_observation_space,
    flatten_observations,
    to_gymnasium_actions,
)


class HostMoved(NamedTuple):
    """One step of every environment: NumPy, the first axis is the environment.

    `next_observation` is the true one, also where an episode ended; rows with `valid` false are no transitions.
    `next_mask` says which actions it offers (None: environments without masks): everything where an episode ended and
    its last mask is not known, as it is where the reset came in the same step.
    """

    next_observation: np.ndarray
    reward: np.ndarray
    terminated: np.ndarray
    truncated: np.ndarray
    valid: np.ndarray
    next_mask: np.ndarray | None

    @property
    def done(self) -> np.ndarray:
        return self.terminated | self.truncated


class GymnasiumEnvironment:
    """Flattened observations, converted actions, float32 rewards, masks; whatever goes wrong is named.

    `observation_space` and `action_space` are those of one environment as a learner sees them: see
    `gymnasium_spaces`. `mode` is the autoreset mode, `time_limit` None where it is not known.
    """

    def __init__(self, environment: Source | Any, number: int | None = None, **options: Any):
        self.vector = as_vector(environment, number, **options)
        self.number = self.vector.num_envs
        self.mode = autoreset_mode(self.vector)
        self.name = environment_name(self.vector)
        self.observation_space = flat_observation_space(self.vector.single_observation_space)
        self.action_space = self.vector.single_action_space
        self.time_limit = vector_time_limit(self.vector)
        self._batch_shape = self.vector.observation_space.shape
        self._steps = 0
        self._done = np.zeros(self.number, bool)
        self._observation: np.ndarray | None = None
        self._mask: np.ndarray | None = None
        self._masked: bool | None = None

    @property
    def masked(self) -> bool:
        """Whether the environment restricts actions, which its first reset tells; made here where there was none."""
        if isinstance(self.action_space, spaces.Box):
            return False
        if self._masked is None:
            self.reset()
        return bool(self._masked)

    def reset(self, seed: int | None = None) -> tuple[np.ndarray, np.ndarray | None]:
        """Begins an episode everywhere. Give a seed once, at the start: environment i gets seed + i.

        Returns observations, and which actions they offer (None: all)."""
        raw, info = self._call("reset", self.vector.reset, seed=seed)
        self._done = np.zeros(self.number, bool)
        return self._seen(raw, info)

    def step(self, action: Any) -> HostMoved:
        """One step; call `restart` after it and before the next."""
        if self._observation is None:
            raise ValueError("call reset before step.")
        self._steps += 1
        converted = to_gymnasium_actions(self.action_space, action)
        raw, reward, terminated, truncated, info = self._call(f"step {self._steps}", self.vector.step, converted)
        terminated, truncated = np.asarray(terminated, bool), np.asarray(truncated, bool)
        valid = is_true_step(self._done, self.mode)
        self._done = terminated | truncated
        final = true_next_observation(raw, self._done, info, self.mode)
        reward = np.asarray(reward, np.float32)
        self._check(final, reward, valid)
        flat = flatten_observations(self.vector.single_observation_space, final)
        if final is raw:
            self._observation, self._mask = flat, self._masks(info, self._done)
            next_mask = self._mask
        else:
            _, mask = self._seen(raw, info)
            next_mask = None if mask is None else mask | self._done[:, None]
        return HostMoved(flat, reward, terminated, truncated, valid, next_mask)

    def restart(self) -> tuple[np.ndarray, np.ndarray | None]:
        """What to act on next, and which actions it offers: first observations where an episode ended.

        In NEXT_STEP mode they come with the next step, which is no transition there; until then these rows are the
        last observations."""
        if self._observation is None:
            raise ValueError("call reset before restart.")
        if self.mode is AutoresetMode.DISABLED and self._done.any():
            raw, info = self._call("reset", self.vector.reset, options={"reset_mask": self._done.copy()})
            over, old = self._done, self._mask
            self._done = np.zeros(self.number, bool)
            self._seen(raw, info)
            if old is not None:  # environments that were not reset give no mask here
                new = np.ones_like(old) if self._mask is None else self._mask
                self._mask = np.where(over[:, None], new, old)
        return self._observation, self._mask

    def close(self) -> None:
        self.vector.close()

    def _seen(self, raw: Any, info: dict[str, Any]) -> tuple[np.ndarray, np.ndarray | None]:
        self._observation = flatten_observations(self.vector.single_observation_space, raw)
        self._mask = self._masks(info)
        return self._observation, self._mask

    def _masks(self, info: dict[str, Any], over: np.ndarray | None = None) -> np.ndarray | None:
        try:
            masks = action_masks(info, self.action_space, self.number, over)
        except (ValueError, TypeError) as error:
            raise EnvironmentFailure(f"{self.name}: step {self._steps}: {error}") from error
        if self._masked is None:
            self._masked = masks is not None
        if masks is not None and not self._masked:
            raise EnvironmentFailure(
                f"{self.name}: step {self._steps} gave an action_mask, but the first reset gave none: reset must give "
                "one too, for the first action."
            )
        if masks is None and self._masked:
            return np.ones_like(self._mask)
        return masks

    def _call(self, what: str, function: Any, *arguments: Any, **named: Any) -> Any:
        try:
            return function(*arguments, **named)
        except EnvironmentFailure:
            raise
        except Exception as error:
            values = f" for action {arguments[0].tolist()}" if arguments else ""
            raise EnvironmentFailure(f"{self.name}: {what} raised {type(error).__name__}{values}: {error}") from error

    def _check(self, observation: Any, reward: np.ndarray, valid: np.ndarray) -> None:
        if reward.shape != (self.number,):
            raise EnvironmentFailure(
                f"{self.name}: step {self._steps} gave rewards of shape {reward.shape} for {self.number} environments."
            )
        wrong = ~np.isfinite(reward) & valid
        if wrong.any():
            row = int(np.flatnonzero(wrong)[0])
            raise EnvironmentFailure(f"{failure_place(self.vector, row, self._steps)} the reward is {reward[row]}")
        if has_nan(observation):
            flat = flatten_observations(self.vector.single_observation_space, observation)
            row = int(np.argwhere(np.isnan(flat))[0][0])
            raise EnvironmentFailure(f"{failure_place(self.vector, row, self._steps)} the observation is {flat[row]}")
        if isinstance(observation, np.ndarray) and observation.shape != self._batch_shape:
            raise EnvironmentFailure(
                f"{self.name}: step {self._steps}: observations have shape {observation.shape}, but the space has "
                f"{self._batch_shape}: {observation}"
            )
