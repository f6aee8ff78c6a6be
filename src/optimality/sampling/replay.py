"""Uniform replay: a ring of transitions, written and sampled in time proportional to the batch.

A transition is packed into one row of 32-bit words, bit for bit, so that the whole replay is one matrix: a write is one
scatter, a sample one gather, and a compiled loop that carries a donated replay moves nothing else.
"""

import math
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int, PRNGKeyArray, PyTree, UInt32

from optimality.sampling.transitions import Transition


class Layout(eqx.Module):
    """What a row of words means: shapes and types of the leaves of one transition, in order."""

    structure: Any = eqx.field(static=True)
    shapes: tuple[tuple[int, ...], ...] = eqx.field(static=True)
    types: tuple[np.dtype, ...] = eqx.field(static=True)

    @classmethod
    def of(cls, example: PyTree) -> "Layout":
        """Of arrays or shape structs."""
        leaves, structure = jax.tree.flatten(example)
        return cls(structure, tuple(tuple(x.shape) for x in leaves), tuple(np.dtype(x.dtype) for x in leaves))

    def __str__(self) -> str:
        return ", ".join(f"{kind}{list(shape)}" for shape, kind in zip(self.shapes, self.types, strict=True))

    @property
    def widths(self) -> list[int]:
        """Words of each leaf; a flag takes one, smaller types share one."""
        sizes = [4 if kind == np.bool_ else kind.itemsize for kind in self.types]
        return [-(-math.prod(shape) * size // 4) for shape, size in zip(self.shapes, sizes, strict=True)]

    def pack(self, rows: PyTree) -> UInt32[Array, "rows words"]:
        """Raises `ValueError` where the rows are not of this layout."""
        given = Layout.of(jax.eval_shape(lambda tree: jax.tree.map(lambda x: x[0], tree), rows))
        if given != self:
            raise ValueError(f"a replay of ({self}) was given rows of ({given}): transitions must keep their form.")
        return jnp.concatenate([_words(jnp.asarray(x)) for x in jax.tree.leaves(rows)], axis=1)

    def unpack(self, words: UInt32[Array, "rows words"]) -> PyTree:
        ends = np.cumsum(self.widths).tolist()
        parts = [words[:, end - width : end] for end, width in zip(ends, self.widths, strict=True)]
        leaves = [_numbers(*part) for part in zip(parts, self.shapes, self.types, strict=True)]
        return jax.tree.unflatten(self.structure, leaves)


class Replay(eqx.Module):
    """`words` `[capacity, width]`; `cursor` is where the next row goes, and how many rows hold data."""

    words: UInt32[Array, "capacity width"]
    cursor: Int[Array, "2"]
    layout: Layout

    @classmethod
    def empty(cls, example: PyTree, capacity: int) -> "Replay":
        """For rows of the shapes of `example` (arrays or shape structs of one transition)."""
        if capacity < 1:
            raise ValueError(f"a replay needs a capacity of at least 1, but {capacity} was given.")
        layout = Layout.of(example)
        return cls(jnp.zeros((capacity, sum(layout.widths)), jnp.uint32), jnp.zeros(2, jnp.int32), layout)

    @property
    def capacity(self) -> int:
        return self.words.shape[-2]

    @property
    def position(self) -> Int[Array, ""]:
        return self.cursor[0]

    @property
    def size(self) -> Int[Array, ""]:
        return self.cursor[1]

    @property
    def rows(self) -> Transition:
        """Everything, leaves `[capacity, ...]`: for inspection, a copy of the whole replay."""
        return self.layout.unpack(self.words)

    def add(self, batch: Transition) -> "Replay":
        """Appends rows `[n, ...]`, the oldest giving way; rows with `valid = False` are dropped.

        Raises `ValueError` where one batch would overwrite itself.
        """
        number = batch.valid.shape[0]
        if number > self.capacity:
            raise ValueError(f"a batch of {number} does not fit into a replay of {self.capacity}.")
        valid = jnp.asarray(batch.valid).astype(jnp.int32)
        place = self.position + jnp.cumsum(valid, dtype=jnp.int32) - 1
        index = jnp.where(batch.valid, place % self.capacity, self.capacity)  # out of bounds: dropped
        words = self.words.at[index].set(self.layout.pack(batch), mode="drop")
        count = jnp.sum(valid, dtype=jnp.int32)
        cursor = jnp.stack([(self.position + count) % self.capacity, jnp.minimum(self.size + count, self.capacity)])
        return Replay(words, cursor, self.layout)

    def sample(self, key: PRNGKeyArray, number: int) -> Transition:
        """`number` rows, uniformly with replacement."""
        index = jax.random.randint(key, (number,), 0, jnp.maximum(self.size, 1))
        return self.layout.unpack(self.words.at[index].get(mode="promise_in_bounds"))


class MixedReplay(eqx.Module):
    """Two replays as one: of each batch `fraction` comes from `demonstrations`, which are never written to.

    The number of demonstrated rows is `fraction * number`, rounded, in every batch; they come last.
    """

    own: Replay
    demonstrations: Replay
    fraction: float = eqx.field(static=True)

    def __check_init__(self):
        if not 0.0 <= self.fraction <= 1.0:
            raise ValueError(f"fraction must be in [0, 1], but {self.fraction} was given.")
        if self.own.layout != self.demonstrations.layout:
            raise ValueError(
                f"demonstrations are rows of ({self.demonstrations.layout}), the replay's of ({self.own.layout}): "
                "give them the same observations, actions and extras."
            )

    def add(self, batch: Transition) -> "MixedReplay":
        """Into the own replay."""
        return MixedReplay(self.own.add(batch), self.demonstrations, self.fraction)

    def sample(self, key: PRNGKeyArray, number: int) -> Transition:
        """`number` rows, uniformly with replacement within each source."""
        own_key, demonstrations_key = jax.random.split(key)
        shown = round(self.fraction * number)
        parts = self.own.sample(own_key, number - shown), self.demonstrations.sample(demonstrations_key, shown)
        return jax.tree.map(lambda a, b: jnp.concatenate([a, b]), *parts)


def _words(leaf: Array) -> UInt32[Array, "rows words"]:
    if leaf.dtype == jnp.bool_:
        leaf = leaf.astype(jnp.uint32)
    flat_leaf = leaf.reshape(leaf.shape[0], -1)
    share = 4 // leaf.dtype.itemsize
    if share > 1:
        flat_leaf = jnp.pad(flat_leaf, ((0, 0), (0, -flat_leaf.shape[1] % share)))
        flat_leaf = flat_leaf.reshape(leaf.shape[0], -1, share)
    return jax.lax.bitcast_convert_type(flat_leaf, jnp.uint32).reshape(leaf.shape[0], -1)


def _numbers(words: UInt32[Array, "rows words"], shape: tuple[int, ...], kind: np.dtype) -> Array:
    if kind == np.bool_:
        return (words != 0).reshape(-1, *shape)
    if kind.itemsize == 8:
        words = words.reshape(words.shape[0], -1, 2)
    numbers = jax.lax.bitcast_convert_type(words, kind).reshape(words.shape[0], -1)
    return numbers[:, : math.prod(shape)].reshape(-1, *shape)


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
