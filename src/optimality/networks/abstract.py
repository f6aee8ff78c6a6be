"""What a learner asks of a network: a recipe with sizes that builds, for given inputs and outputs, a function."""

import abc
from collections.abc import Callable
from typing import Any

import equinox as eqx
from jaxtyping import Array, PRNGKeyArray


class AbstractNetwork(eqx.Module):
    """The recipe is a hyper-parameter: every field is static. What it builds is a module whose leaves are learned."""

    @abc.abstractmethod
    def build(
        self, key: PRNGKeyArray, inputs: int, outputs: int, *, output_gain: float = 1.0
    ) -> Callable[[Array], Array]:
        """A module from one vector `[inputs]` to one vector `[outputs]`; batches are made by `vmap`.

        `output_gain` scales the first weights of the output: small ones make first policies near uniform.
        """


class AbstractMemory(eqx.Module):
    """The recipe of a recurrent core, which policies carry over the steps of an episode."""

    units: eqx.AbstractVar[int]
    """Size of what it gives to the network behind it."""

    @abc.abstractmethod
    def build(self, key: PRNGKeyArray, inputs: int) -> Any:
        """A module with `start() -> carry` and `cell(carry, [inputs]) -> (carry, [units])`."""
