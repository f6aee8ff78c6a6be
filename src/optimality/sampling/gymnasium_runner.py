"""The runner of a Gymnasium vector environment: the same two methods, in Python.

Policy calls are compiled once at module level; keys stay inside them, because splitting one eagerly costs more than
a step of a small environment.
"""

from functools import partial
from typing import Any

import jax
import numpy as np
from gymnasium.vector import AutoresetMode
from jaxtyping import PRNGKeyArray

from optimality.environments.gymnasium_environment import GymnasiumEnvironment
from optimality.sampling.compiled_runner import spec_of
from optimality.sampling.transitions import MaskedObservation, Spec, Transition, assembled, where


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
        remembers = bool(jax.tree.leaves(self.carry))
        keys = key if steps == 1 else _block(key, steps, self.environments)  # one key is split where it is used
        alive, rows = np.ones(self.environments, bool), []
        for time in range(steps):
            after.carry, action, extras = _act(policy, after.carry, after.observation, keys, np.int32(time))
            action = np.asarray(action)
            moved = self.environment.step(action)
            following, done = _seen(moved.next_observation, moved.next_mask), moved.done
            step = (action, moved.reward, following, moved.terminated, moved.truncated)
            rows.append((after.observation, *step, alive & moved.valid, extras))
            if not restart:
                alive = alive & ~done
                if not alive.any():
                    break
            after.observation = _seen(*self.environment.restart())
            if restart and remembers:
                fresh = ~moved.valid if late else done
                if fresh.any():
                    after.carry = _start(policy, after.carry, after.observation, fresh, key, np.int32(time + 1))

        def stacked(*leaves):
            if steps == 1:  # one step at a time is the case where the host's microseconds count
                return np.asarray(leaves[0])[None]
            array = np.stack([np.asarray(leaf) for leaf in leaves])
            missing = steps - len(leaves)
            return array if not missing else np.concatenate([array, np.zeros((missing, *array.shape[1:]), array.dtype)])

        transitions = assembled(Transition, *jax.tree.map(stacked, *rows))
        after._count(transitions)
        return after, transitions

    def _count(self, transitions: Transition) -> None:
        """Returns and lengths of episodes; at the end of a rollout, because counting at each step costs as much as a
        step of a small environment."""
        valid = transitions.valid
        if len(valid) == 1:
            self.running[0] += np.where(valid[0], transitions.reward[0], 0.0)
            self.running[1] += valid[0]
            ended = transitions.done[0] & valid[0]
            if ended.any():
                self.finished += (*self.running[:, ended].sum(axis=1), ended.sum())
                self.running[:, ended] = 0.0
            return
        steps = np.stack([np.where(valid, transitions.reward, 0.0), valid], dtype=np.float64)
        total = steps.cumsum(axis=1) + self.running[:, None]
        over = transitions.done & valid
        begun = np.zeros((2, self.environments))
        for time in np.flatnonzero(over.any(axis=1)):
            ended = over[time]
            self.finished += (*(total[:, time, ended] - begun[:, ended]).sum(axis=1), ended.sum())
            begun[:, ended] = total[:, time, ended]
        self.running = total[:, -1] - begun


def _seen(observation: np.ndarray, mask: np.ndarray | None) -> Any:
    return observation if mask is None else MaskedObservation(observation, mask)


@partial(jax.jit, static_argnums=(1, 2))
def _block(key, steps, environments):
    return jax.random.split(jax.random.fold_in(key, 0), (steps, environments))


@jax.jit
def _act(policy, carry, observation, keys, time):
    keys = jax.random.split(keys, _number(observation)) if keys.ndim == 0 else keys[time]
    return jax.vmap(policy.act)(carry, observation, keys)


@jax.jit
def _start(policy, carry, observation, fresh, key, time):
    keys = jax.random.split(jax.random.fold_in(key, time), _number(observation))
    started = jax.vmap(policy.start)(observation, keys)
    return where(fresh, started, started if carry is None else carry)


def _number(observation: Any) -> int:
    return jax.tree.leaves(observation)[0].shape[0]
