"""Rewards that can be learned, shaped, planned with and saved."""

import abc
from typing import Any, Literal

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from optimality.core.numerics import is_traced
from optimality.problems.tabular import TabularMDP

Scope = Literal["state", "state-action", "next-state", "transition"]
"""What a reward looks at: the observation, it and the action, the next observation, or all three."""


class AbstractReward(eqx.Module):
    """A function of one transition, unbatched, differentiable in its leaves."""

    scope: eqx.AbstractVar[Scope]

    @abc.abstractmethod
    def __call__(self, observation: Any, action: Any, next_observation: Any, terminated: Any) -> Float[Array, ""]:
        """The reward of one step."""

    @abc.abstractmethod
    def table(self, problem: TabularMDP) -> Float[Array, "states actions"]:
        """Its expectation for every pair of a table, `E[r(s, a, s', terminated)]` under the problem's own dynamics:
        all that risk-neutral planning needs. Traceable and differentiable."""

    def terminal(self, problem: TabularMDP) -> Float[Array, " states"]:
        """What is paid for the state in which a finite horizon cuts the episode off; nothing, but for shaping."""
        return jnp.zeros(problem.shape[0], self.table_dtype(problem))

    def parameters(self) -> Any:
        """The reward's own shape with True at the leaves that inverse methods fit; by default at all real arrays."""
        return jax.tree.map(eqx.is_inexact_array, self)

    @property
    def table_is_linear(self) -> bool:
        """Whether it is linear in its parameters, without a constant: then maximum-entropy duals are convex."""
        return False

    def table_dtype(self, problem: TabularMDP) -> Any:
        """Precision of the tables."""
        return jax.eval_shape(self.table, problem).dtype


def as_floats(array: Any) -> Any:
    """JAX arrays as they are, anything else as NumPy float64."""
    return array if isinstance(array, jax.Array) or is_traced(array) else np.asarray(array, np.float64)


def require_scope(owner: Any, scope: str, possible: tuple[str, ...]) -> None:
    """Raises `ValueError` for a scope that the kind of reward has not."""
    if scope not in possible:
        raise ValueError(f"scope of {type(owner).__name__} must be one of {', '.join(possible)}, but is {scope!r}.")


def require_finite(owner: Any, **arrays: Any) -> None:
    """Raises `ValueError` for a concrete array with an entry that is not finite, naming the entry."""
    for name, array in arrays.items():
        if is_traced(array) or not isinstance(array, np.ndarray | jax.Array | np.generic | float):
            continue
        bad = np.argwhere(~np.isfinite(np.asarray(array)))
        if bad.size:
            where = tuple(int(i) for i in bad[0])
            raise ValueError(
                f"{name} of {type(owner).__name__} is {np.asarray(array)[where]} at {where}: make it finite."
            )
