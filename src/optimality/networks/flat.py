"""A network whose parameters are one vector: a compiled call costs microseconds a leaf, and small updates fuse."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float


class FlatNetwork(eqx.Module):
    """The function that `network` is, with its leaves laid end to end in `vector`."""

    vector: Float[Array, " parameters"]
    unravel: Callable[[Array], Any] = eqx.field(static=True)

    @classmethod
    def of(cls, network: Any) -> "FlatNetwork":
        return cls(*ravel_pytree(network))

    def with_vector(self, vector: Float[Array, " parameters"]) -> "FlatNetwork":
        return FlatNetwork(vector, self.unravel)

    @property
    def network(self) -> Any:
        """With its own leaves again."""
        return self.unravel(self.vector)

    def __call__(self, x: Array) -> Array:
        return self.network(x)
