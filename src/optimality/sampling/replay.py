"""Uniform replay: a ring of transitions, written and sampled in time proportional to the batch."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Int, PRNGKeyArray, PyTree

from optimality.sampling.transitions import Transition


class Replay(eqx.Module):
    """`rows` leaves `[capacity, ...]`; `position` is where the next row goes, `size` how many hold data."""

    rows: Transition
    position: Int[Array, ""]
    size: Int[Array, ""]
    capacity: int = eqx.field(static=True)

    @classmethod
    def empty(cls, example: PyTree, capacity: int) -> "Replay":
        """For rows of the shapes of `example` (arrays or shape structs of one transition)."""
        if capacity < 1:
            raise ValueError(f"a replay needs a capacity of at least 1, but {capacity} was given.")
        rows = jax.tree.map(lambda x: jnp.zeros((capacity, *x.shape), x.dtype), example)
        return cls(rows, jnp.zeros((), jnp.int32), jnp.zeros((), jnp.int32), capacity)

    def add(self, batch: Transition) -> "Replay":
        """Appends rows `[n, ...]`, the oldest giving way; rows with `valid = False` are dropped.

        Raises `ValueError` where one batch would overwrite itself.
        """
        number = batch.valid.shape[0]
        if number > self.capacity:
            raise ValueError(f"a batch of {number} does not fit into a replay of {self.capacity}.")
        valid = batch.valid.astype(jnp.int32)
        place = self.position + jnp.cumsum(valid) - 1
        index = jnp.where(batch.valid, place % self.capacity, self.capacity)  # out of bounds: dropped
        rows = jax.tree.map(lambda ring, new: ring.at[index].set(new, mode="drop"), self.rows, batch)
        count = jnp.sum(valid)
        return Replay(
            rows,
            (self.position + count) % self.capacity,
            jnp.minimum(self.size + count, self.capacity),
            self.capacity,
        )

    def sample(self, key: PRNGKeyArray, number: int) -> Transition:
        """`number` rows, uniformly with replacement."""
        index = jax.random.randint(key, (number,), 0, jnp.maximum(self.size, 1))
        return jax.tree.map(lambda ring: ring[index], self.rows)


def flat(transitions: Transition) -> Transition:
    """`[time, environment, ...]` to `[time * environment, ...]`."""
    return jax.tree.map(lambda x: x.reshape(x.shape[0] * x.shape[1], *x.shape[2:]), transitions)


def example_transition(spec: Any, policy: Any) -> Transition:
    """Shapes of one transition of this policy in environments of this spec."""
    key = jax.eval_shape(lambda: jax.random.key(0))
    act = lambda observation, key: policy.act(policy.start(observation, key), observation, key)  # noqa: E731
    _, action, extras = jax.eval_shape(act, spec.observation, key)
    number, flag = jax.ShapeDtypeStruct((), jnp.float32), jax.ShapeDtypeStruct((), jnp.bool_)
    return Transition(spec.observation, action, number, spec.observation, flag, flag, flag, extras)
