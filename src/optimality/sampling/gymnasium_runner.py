"""The runner of a Gymnasium vector environment: the same two methods, in Python.

Policy calls are compiled once at module level; keys stay inside them, because splitting one eagerly costs more than
a step of a small environment.
"""

from typing import Any

import jax
import numpy as np
from gymnasium.vector import AutoresetMode
from jaxtyping import PRNGKeyArray

from optimality.environments.gymnasium_environment import GymnasiumEnvironment
from optimality.sampling.compiled_runner import spec_of
from optimality.sampling.transitions import MaskedObservation, Spec, Transition, where

TRANSITION = jax.tree.structure(Transition(*range(8)))
"""Building a module through its structure takes a tenth of the time of its constructor."""


class GymnasiumRunner:
    """Steps a host environment by hand, in any autoreset mode; each call gives a new runner around the same one.

    `finished` holds the sum of returns, the sum of lengths and the number of finished episodes.
    """

    def __init__(self, environment: GymnasiumEnvironment, previous: "GymnasiumRunner | None" = None):
        self.environment = environment
        self.environments = environment.number
        self.time_limit = environment.time_limit
        self.observation: Any = None if previous is None else previous.observation
        self.carry: Any = None if previous is None else previous.carry
        self.running = np.zeros((2, self.environments)) if previous is None else previous.running.copy()
        self.finished = np.zeros(3) if previous is None else previous.finished.copy()
        self.is_seeded = previous is not None and previous.is_seeded

    @property
    def spec(self) -> Spec:
        host = self.environment
        return spec_of(
            host.observation_space, host.action_space, self.environments, self.time_limit, masked=host.masked
        )

    def reset(self, policy: Any, key: PRNGKeyArray) -> "GymnasiumRunner":
        """Fresh episodes everywhere. The environment is seeded from the first key, and never again."""
        after = GymnasiumRunner(self.environment, self)
        seed = None if self.is_seeded else int(jax.random.randint(key, (), 0, 2**31 - 1))
        after.is_seeded = True
        after.observation = _seen(*self.environment.reset(seed))
        after.carry = _start(policy, None, after.observation, np.ones(self.environments, bool), key, np.int32(0))
        after.running[:] = 0.0
        return after

    def run(self, policy: Any, key: PRNGKeyArray, steps: int, *, restart: bool) -> tuple["GymnasiumRunner", Transition]:
        """As `CompiledRunner.run`; the environment's own failures name it, the step and the value."""
        after = GymnasiumRunner(self.environment, self)
        late = self.environment.mode is AutoresetMode.NEXT_STEP
        alive, rows = np.ones(self.environments, bool), []
        for time in range(steps):
            after.carry, action, extras = _act(policy, after.carry, after.observation, key, np.int32(2 * time))
            action = np.asarray(action)
            moved = self.environment.step(action)
            counts = alive & moved.valid
            following = _seen(moved.next_observation, moved.next_mask)
            step = (action, moved.reward, following, moved.terminated, moved.truncated)
            rows.append((after.observation, *step, counts, extras))
            after.running += np.stack([moved.reward * counts, counts])
            ended = moved.done & counts
            if ended.any():
                after.finished += (*after.running[:, ended].sum(axis=1), ended.sum())
                after.running[:, ended] = 0.0
            if not restart:
                alive = alive & ~moved.done
                if not alive.any():
                    break
            after.observation = _seen(*self.environment.restart())
            fresh = ~moved.valid if late else moved.done
            if restart and fresh.any():
                after.carry = _start(policy, after.carry, after.observation, fresh, key, np.int32(2 * time + 1))

        def stacked(*leaves):
            if steps == 1:  # one step at a time is the case where the host's microseconds count
                return np.asarray(leaves[0])[None]
            array = np.stack([np.asarray(leaf) for leaf in leaves])
            missing = steps - len(leaves)
            return array if not missing else np.concatenate([array, np.zeros((missing, *array.shape[1:]), array.dtype)])

        return after, jax.tree.unflatten(TRANSITION, jax.tree.map(stacked, *rows))


def _seen(observation: np.ndarray, mask: np.ndarray | None) -> Any:
    return observation if mask is None else MaskedObservation(observation, mask)


@jax.jit
def _act(policy, carry, observation, key, time):
    keys = jax.random.split(jax.random.fold_in(key, time), _number(observation))
    return jax.vmap(policy.act)(carry, observation, keys)


@jax.jit
def _start(policy, carry, observation, fresh, key, time):
    keys = jax.random.split(jax.random.fold_in(key, time), _number(observation))
    started = jax.vmap(policy.start)(observation, keys)
    return where(fresh, started, started if carry is None else carry)


def _number(observation: Any) -> int:
    return jax.tree.leaves(observation)[0].shape[0]
