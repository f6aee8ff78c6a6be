"""The runner of a JAX environment: the whole loop compiles."""

from typing import Any

import equinox as eqx
import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Key, PRNGKeyArray

from optimality.sampling.transitions import MaskedObservation, Spec, Transition, where

Keys = Key[Array, " environments"]


class EpisodeStatistics(eqx.Module):
    """Running return and length of each environment's episode, and sums over finished ones."""

    running_return: Float[Array, " environments"]
    running_length: Float[Array, " environments"]
    finished: Float[Array, "3"]
    """Sum of returns, sum of lengths, and number of the finished episodes."""

    @classmethod
    def zero(cls, environments: int) -> "EpisodeStatistics":
        return cls(jnp.zeros(environments), jnp.zeros(environments), jnp.zeros(3))

    def after(
        self, reward: Float[Array, "time n"], done: Bool[Array, "time n"], valid: Bool[Array, "time n"]
    ) -> "EpisodeStatistics":
        """Once a rollout, not at every step. Episodes follow one another, so that the sum over finished ones is what
        there was until the last end."""
        total = jnp.stack([jnp.where(valid, reward, 0.0), valid.astype(reward.dtype)])
        last = reward.shape[0] - 1 - jnp.argmax((done & valid)[::-1], axis=0)
        any_over = jnp.any(done & valid, axis=0)
        running = jnp.stack([self.running_return, self.running_length])
        until = jnp.arange(reward.shape[0])[:, None] <= jnp.where(any_over, last, -1)[None, :]
        ended = jnp.where(any_over[None], running, 0.0) + jnp.sum(jnp.where(until[None], total, 0.0), axis=1)
        running = running + jnp.sum(total, axis=1) - ended
        number = jnp.sum((done & valid).astype(reward.dtype))
        return EpisodeStatistics(running[0], running[1], self.finished + jnp.append(jnp.sum(ended, axis=1), number))


class CompiledRunner(eqx.Module):
    """Holds the environment, so that a batch of tasks is a `vmap` over runners."""

    environment: Any
    environments: int = eqx.field(static=True)
    state: Any = None
    observation: Any = None
    carry: Any = None
    statistics: EpisodeStatistics | None = None
    masked: bool | None = eqx.field(static=True, default=None)
    """Whether observations carry action masks; by default where some state restricts the actions."""

    def __post_init__(self):
        if self.masked is None:
            self.masked = _restricts_actions(self.environment)

    @property
    def spec(self) -> Spec:
        return spec_of(
            self.environment.observation_space,
            self.environment.action_space,
            self.environments,
            self.environment.time_limit,
            masked=bool(self.masked),
        )

    @property
    def time_limit(self) -> int | None:
        return self.environment.time_limit

    def reset(self, policy: Any, key: PRNGKeyArray) -> "CompiledRunner":
        """Fresh episodes everywhere; counts of finished ones are kept."""
        statistics = EpisodeStatistics.zero(self.environments)
        if self.statistics is not None:
            statistics = eqx.tree_at(lambda s: s.finished, statistics, self.statistics.finished)
        reset_keys, start_keys = jax.random.split(key, (2, self.environments))
        return self._at(self._fresh(policy, reset_keys, start_keys), statistics)

    def run(self, policy: Any, key: PRNGKeyArray, steps: int, *, restart: bool) -> tuple["CompiledRunner", Transition]:
        """`steps` steps of each environment. With `restart`, finished episodes begin anew; without, they are padded."""
        keys = jax.random.split(key, (steps, 4, self.environments))  # in one block: splitting inside a scan is slow

        def advance(runner, alive, step_keys):
            act_keys, move_keys, reset_keys, start_keys = step_keys
            carry, action, extras = jax.vmap(policy.act)(runner.carry, runner.observation, act_keys)
            state, observation, reward, terminated, truncated = jax.vmap(self.environment.step)(
                move_keys, runner.state, action
            )
            done = terminated | truncated
            observation = self._seen(state, observation, done)
            transition = Transition(
                runner.observation, action, reward, observation, terminated, truncated, alive, extras
            )
            now = (state, observation, carry)
            if restart:  # behind a cond: a reset costs only where one happens
                fresh = lambda: where(done, self._fresh(policy, reset_keys, start_keys), now)  # noqa: E731
                now = jax.lax.cond(jnp.any(done), fresh, lambda: now)
            else:
                alive = alive & ~done
            return self._at(now, self.statistics), alive, transition

        def body(loop, step_keys):
            runner, alive = loop
            if restart:
                runner, alive, transition = advance(runner, alive, step_keys)
                return (runner, alive), transition
            shapes = jax.eval_shape(advance, runner, alive, step_keys)[2]
            padding = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
            runner, alive, transition = jax.lax.cond(
                jnp.any(alive), lambda: advance(runner, alive, step_keys), lambda: (runner, alive, padding)
            )
            return (runner, alive), transition

        start = (self, jnp.ones(self.environments, bool))
        (runner, _), transitions = jax.lax.scan(body, start, keys)
        assert self.statistics is not None
        statistics = self.statistics.after(transitions.reward, transitions.done, transitions.valid)
        return eqx.tree_at(lambda r: r.statistics, runner, statistics), transitions

    def _at(self, place: tuple[Any, Any, Any], statistics: EpisodeStatistics | None) -> "CompiledRunner":
        return CompiledRunner(self.environment, self.environments, *place, statistics, self.masked)

    def _fresh(self, policy: Any, reset_keys: Keys, start_keys: Keys) -> tuple[Any, Any, Any]:
        state, observation = jax.vmap(self.environment.reset)(reset_keys)
        observation = self._seen(state, observation, jnp.zeros(self.environments, bool))
        return state, observation, jax.vmap(policy.start)(observation, start_keys)

    def _seen(self, state: Any, observation: Any, done: Bool[Array, " n"]) -> Any:
        if not self.masked:
            return observation
        mask = jax.vmap(self.environment.action_mask)(state)
        nothing = done & ~jnp.any(mask, axis=1)  # a last state may offer nothing; nobody acts there
        return MaskedObservation(observation, mask | nothing[:, None])


def _restricts_actions(environment: Any) -> bool:
    """Decided by the shape of a mask, or by its absence; a table that allows everything gives none."""
    mask = jax.eval_shape(lambda: environment.action_mask(environment.reset(jax.random.key(0))[0]))
    return mask is not None


def spec_of(
    observation_space: Any, action_space: Any, environments: int, time_limit: int | None, *, masked: bool = False
) -> Spec:
    """Shapes from Gymnasium spaces: a box or a discrete set of observations, a box or a discrete set of actions."""
    count = None
    if isinstance(observation_space, gymnasium.spaces.Discrete):
        count = int(observation_space.n)
        observation = jax.ShapeDtypeStruct((), np.int32)
    elif isinstance(observation_space, gymnasium.spaces.Box):
        observation = jax.ShapeDtypeStruct(observation_space.shape, np.float32)
    else:
        raise ValueError(f"observations must be a Box or Discrete space, but the space is {observation_space}.")
    if isinstance(action_space, gymnasium.spaces.Discrete):
        if masked:
            mask = jax.ShapeDtypeStruct((int(action_space.n),), np.bool_)
            observation = MaskedObservation(observation, mask)
        action = jax.ShapeDtypeStruct((), np.int32)
        return Spec(observation, action, int(action_space.n), None, None, environments, time_limit, count)
    if isinstance(action_space, gymnasium.spaces.Box):
        action = jax.ShapeDtypeStruct(action_space.shape, np.float32)
        low, high = np.asarray(action_space.low, np.float32), np.asarray(action_space.high, np.float32)
        return Spec(observation, action, None, low, high, environments, time_limit, count)
    raise ValueError(f"actions must be a Box or Discrete space, but the space is {action_space}.")
