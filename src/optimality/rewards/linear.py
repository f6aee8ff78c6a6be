"""A reward that is linear in features, `r(s, a) = f(s, a) . w` (Ng and Russell 2000, section 3.2)."""

from typing import Any, Literal

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from optimality.problems.tabular import TabularMDP
from optimality.rewards.abstract import AbstractReward, Scope, as_floats, require_finite, require_scope
from optimality.rewards.on_tables import entered


class LinearReward(AbstractReward):
    """`features . weights` on a table; the weights are what is learned."""

    features: Float[Array | np.ndarray, "*pairs features"]
    """`[S, k]`, of the state or of the one that is entered; `[S, A, k]` of state and action."""
    weights: Float[Array | np.ndarray, " features"]
    scope: Scope = eqx.field(static=True)

    def __init__(
        self,
        features: Any,
        weights: Any = None,
        scope: Literal["state", "next-state", "state-action"] | None = None,
    ):
        """Zero weights by default; the scope follows from the features' shape, `state` for `[S, k]`."""
        self.features = as_floats(features)
        if self.features.ndim not in (2, 3):
            raise ValueError(f"features must be [S, k] or [S, A, k], but their shape is {self.features.shape}.")
        size = self.features.shape[-1]
        self.weights = np.zeros(size) if weights is None else as_floats(weights)
        default = "state" if self.features.ndim == 2 else "state-action"
        self.scope = default if scope is None else scope
        require_scope(self, self.scope, ("state", "next-state") if self.features.ndim == 2 else ("state-action",))
        if self.weights.shape != (size,):
            raise ValueError(f"weights must have shape ({size},), one a feature, but they have {self.weights.shape}.")
        require_finite(self, features=self.features, weights=self.weights)

    @property
    def table_is_linear(self) -> bool:
        return True

    def __call__(self, observation, action, next_observation, terminated):
        weights = jnp.asarray(self.weights)
        features = jnp.asarray(self.features, weights.dtype)
        place = {"state": (observation,), "next-state": (next_observation,), "state-action": (observation, action)}
        return features[place[self.scope]] @ weights

    def table(self, problem: TabularMDP) -> Float[Array, "states actions"]:
        require_table(self, problem, self.features.shape[:-1])
        weights = jnp.asarray(self.weights)
        values = jnp.asarray(self.features, weights.dtype) @ weights
        return as_pairs(problem, values, self.scope)

    def parameters(self) -> Any:
        nothing = jax.tree.map(lambda _: False, self)
        return eqx.tree_at(lambda reward: reward.weights, nothing, True)


def require_table(owner: Any, problem: TabularMDP, shape: tuple[int, ...]) -> None:
    """Raises `ValueError` for a table of another problem's size."""
    states, actions = problem.shape
    if shape != (states, actions)[: len(shape)]:
        raise ValueError(
            f"{type(owner).__name__} is made for {shape} {'states and actions' if len(shape) == 2 else 'states'}, "
            f"but the problem has {states} states and {actions} actions."
        )


def as_pairs(problem: TabularMDP, values: Float[Array, "..."], scope: str) -> Float[Array, "states actions"]:
    """A value of each state, of each pair, or of each state that is entered, as one of each pair."""
    if scope == "next-state":
        return entered(problem, values)
    return jnp.broadcast_to(values if values.ndim == 2 else values[:, None], problem.shape)
