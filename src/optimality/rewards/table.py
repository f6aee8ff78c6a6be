"""A reward as a table: one number for each state, each pair, or each state that is entered."""

from typing import Any, Literal

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from optimality.problems.tabular import TabularMDP
from optimality.rewards.abstract import AbstractReward, Scope, as_floats, require_finite, require_scope
from optimality.rewards.linear import as_pairs, require_table


class TableReward(AbstractReward):
    """One number a place; all of them are learned."""

    values: Float[Array | np.ndarray, "..."]
    """`[S]`, of the state or of the one that is entered; `[S, A]` of state and action."""
    scope: Scope = eqx.field(static=True)

    def __init__(self, values: Any, scope: Literal["state", "next-state", "state-action"] | None = None):
        """The scope follows from the shape, `state` for `[S]`."""
        self.values = as_floats(values)
        if self.values.ndim not in (1, 2):
            raise ValueError(f"values must be [S] or [S, A], but their shape is {self.values.shape}.")
        default = "state" if self.values.ndim == 1 else "state-action"
        self.scope = default if scope is None else scope
        require_scope(self, self.scope, ("state", "next-state") if self.values.ndim == 1 else ("state-action",))
        require_finite(self, values=self.values)

    @classmethod
    def of(cls, problem: TabularMDP) -> "TableReward":
        """The problem's own mean reward of each pair."""
        return cls(problem.reward)

    @property
    def table_is_linear(self) -> bool:
        return True

    def __call__(self, observation, action, next_observation, terminated):
        place = {"state": (observation,), "next-state": (next_observation,), "state-action": (observation, action)}
        return jnp.asarray(self.values)[place[self.scope]]

    def table(self, problem: TabularMDP) -> Float[Array, "states actions"]:
        require_table(self, problem, self.values.shape)
        return as_pairs(problem, jnp.asarray(self.values), self.scope)
