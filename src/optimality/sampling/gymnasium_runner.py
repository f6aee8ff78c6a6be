"""The runner of a Gymnasium vector environment: the same two methods, in Python.

The vector environment's autoreset is disabled, so that every observation is the true next one and resets happen here.
Policy calls are compiled once at module level; keys stay inside them, because splitting one eagerly costs more than
a step of a small environment.
"""

from typing import Any

import jax
import numpy as np
from jaxtyping import PRNGKeyArray

from optimality.sampling.compiled_runner import spec_of
from optimality.sampling.transitions import Spec, Transition, where


class GymnasiumRunner:
    """Steps `environment` (a `gymnasium.vector.VectorEnv` with autoreset disabled) by hand.

    `finished` holds the sum of returns, the sum of lengths and the number of finished episodes.
    """

    def __init__(self, environment: Any, time_limit: int | None, previous: "GymnasiumRunner | None" = None):
        self.environment = environment
        self.environments = environment.num_envs
        self.time_limit = time_limit
        self.observation: Any = None if previous is None else previous.observation
        self.carry: Any = None if previous is None else previous.carry
        shape = (self.environments,)
        self.running = np.zeros((2, *shape)) if previous is None else previous.running.copy()
        self.finished = np.zeros(3) if previous is None else previous.finished.copy()
        self.is_seeded = previous is not None and previous.is_seeded
        self.steps = 0 if previous is None else previous.steps

    @property
    def spec(self) -> Spec:
        space = self.environment
        return spec_of(space.single_observation_space, space.single_action_space, self.environments, self.time_limit)

    def reset(self, policy: Any, key: PRNGKeyArray) -> "GymnasiumRunner":
        """Fresh episodes everywhere. The environment is seeded from the first key, and never again."""
        after = GymnasiumRunner(self.environment, self.time_limit, self)
        seed = None if self.is_seeded else int(jax.random.randint(key, (), 0, 2**31 - 1))
        observation, _ = self.environment.reset(seed=seed)
        after.is_seeded = True
        after.observation = self._numbers(observation)
        after.carry = _start(policy, None, after.observation, np.ones(self.environments, bool), key, np.int32(0))
        after.running[:] = 0.0
        return after

    def run(self, policy: Any, key: PRNGKeyArray, steps: int, *, restart: bool) -> tuple["GymnasiumRunner", Transition]:
        """As `CompiledRunner.run`; raises `ValueError` where the environment returns what is no number."""
        after = GymnasiumRunner(self.environment, self.time_limit, self)
        alive, rows = np.ones(self.environments, bool), []
        for time in range(steps):
            after.carry, action, extras = _act(policy, after.carry, after.observation, key, np.int32(2 * time))
            action = np.asarray(action)
            following, reward, terminated, truncated, _ = self.environment.step(action)
            following, reward = self._numbers(following), np.asarray(reward, np.float32)
            after.steps += 1
            self._check(following, reward, alive, after.steps)
            done = terminated | truncated
            rows.append((after.observation, action, reward, following, terminated, truncated, alive, extras))
            after.running += np.stack([reward * alive, alive])
            if done.any():
                ended = done & alive
                after.finished += (*after.running[:, ended].sum(axis=1), ended.sum())
                after.running[:, done] = 0.0
                if not restart:
                    alive = alive & ~done
                    if not alive.any():
                        break
                following = following.copy()
                fresh, _ = self.environment.reset(options={"reset_mask": done})
                following[done] = self._numbers(fresh)[done]
                if restart:
                    after.carry = _start(policy, after.carry, following, done, key, np.int32(2 * time + 1))
            after.observation = following

        def stacked(*leaves):
            array = np.stack([np.asarray(leaf) for leaf in leaves])
            missing = steps - len(leaves)
            return array if not missing else np.concatenate([array, np.zeros((missing, *array.shape[1:]), array.dtype)])

        return after, Transition(*jax.tree.map(stacked, *rows))

    def _numbers(self, observation: Any) -> np.ndarray:
        discrete = np.issubdtype(np.asarray(observation).dtype, np.integer)
        return np.asarray(observation, np.int32 if discrete else np.float32)

    def _check(self, observation: np.ndarray, reward: np.ndarray, alive: np.ndarray, step: int) -> None:
        if np.isfinite(reward).all() and np.isfinite(observation).all():
            return
        rows = observation.reshape(self.environments, -1)
        bad = int(np.flatnonzero(~(np.isfinite(reward) & np.isfinite(rows).all(axis=1)))[0])
        raise ValueError(
            f"environment {bad} gave reward {reward[bad]} and observation {observation[bad]} at step {step}: "
            "both must be finite."
        )


@jax.jit
def _act(policy, carry, observation, key, time):
    keys = jax.random.split(jax.random.fold_in(key, time), len(observation))
    return jax.vmap(policy.act)(carry, observation, keys)


@jax.jit
def _start(policy, carry, observation, done, key, time):
    keys = jax.random.split(jax.random.fold_in(key, time), len(observation))
    fresh = jax.vmap(policy.start)(observation, keys)
    return where(done, fresh, fresh if carry is None else carry)
