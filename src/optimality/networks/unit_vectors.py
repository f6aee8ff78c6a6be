"""Networks of finitely many observations: an index is shown as a unit vector, so that each has weights of its own."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import PRNGKeyArray

from optimality.networks.abstract import AbstractNetwork


class OfIndex(eqx.Module):
    """`x -> inner(e_x)`, or with a memory `(carry, x) -> inner(carry, e_x)`; the index comes as a vector `[1]`."""

    inner: Any
    number: int = eqx.field(static=True)

    def start(self) -> Any:
        """Of a memory."""
        return self.inner.start()

    def __call__(self, *carry_and_index: Any) -> Any:
        *carry, x = carry_and_index
        return self.inner(*carry, jax.nn.one_hot(x[0].astype(jnp.int32), self.number, dtype=jnp.float32))


class UnitVectors(AbstractNetwork):
    """A recipe, of a network or of a memory, whose input is one of `number` indices."""

    recipe: Any
    number: int = eqx.field(static=True)

    def build(self, key: PRNGKeyArray, inputs: int, *outputs: int, **options: Any) -> OfIndex:  # pyright: ignore[reportIncompatibleMethodOverride]
        """`inputs` is 1, the index."""
        return OfIndex(self.recipe.build(key, self.number, *outputs, **options), self.number)
