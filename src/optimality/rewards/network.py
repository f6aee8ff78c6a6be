"""A reward computed by a network, from vectors or from the indices of a table."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from optimality.networks.abstract import AbstractNetwork
from optimality.networks.mlp import MLP
from optimality.problems.tabular import TabularMDP
from optimality.rewards.abstract import AbstractReward, Scope, as_floats, require_finite, require_scope
from optimality.rewards.linear import as_pairs
from optimality.rewards.on_tables import expected


class NetworkReward(AbstractReward):
    """A network of the parts of a transition that its scope names, side by side. Make one with `build`.

    A state on a table enters as its row of `features`, or else as a unit vector; observations that are vectors enter
    as they are. Actions likewise, without features. With scope `transition` termination is an input too.
    """

    network: Any
    """From one vector to one number, `[inputs] -> [1]`; for example a perceptron."""
    features: Float[Array | np.ndarray, "states features"] | None
    """A vector for each state of a table; None: unit vectors, or observations that are vectors."""
    scope: Scope = eqx.field(static=True)
    states: int = eqx.field(static=True, default=0)
    """Of the table; 0 where observations are vectors."""
    actions: int = eqx.field(static=True, default=0)
    """How many there are; 0 where they are vectors."""

    def __check_init__(self):
        require_scope(self, self.scope, ("state", "state-action", "next-state", "transition"))
        require_finite(self, features=self.features)

    @classmethod
    def build(
        cls,
        key: PRNGKeyArray,
        problem: TabularMDP | None = None,
        *,
        network: AbstractNetwork | None = None,
        scope: Scope = "state",
        features: Any = None,
        observation_size: int = 0,
        action_size: int = 0,
    ) -> "NetworkReward":
        """A fresh network with first rewards near zero.

        Args:
            key: of its weights.
            problem: a table, whose indices become inputs; None for vectors, whose sizes are then needed.
            network: a recipe; by default two hidden layers of 32.
            scope: what the reward looks at.
            features: `[S, d]`, a vector for each state of the table, in place of unit vectors.
            observation_size: length of an observation that is a vector.
            action_size: length of an action that is a vector.

        Raises:
            ValueError: features of another number of states, or a size that is missing.
        """
        network = MLP(hidden=(32, 32)) if network is None else network
        states, actions = (0, 0) if problem is None else problem.shape
        features = None if features is None else as_floats(features)
        if features is not None and (features.ndim != 2 or features.shape[0] != states):
            raise ValueError(f"features must be [{states}, d], one row a state, but their shape is {features.shape}.")
        state_size = observation_size if problem is None else (states if features is None else features.shape[1])
        action_size = action_size if problem is None else actions
        sizes = {
            "state": state_size,
            "next-state": state_size,
            "state-action": state_size + action_size,
            "transition": 2 * state_size + action_size + 1,
        }
        require_scope(cls, scope, tuple(sizes))
        if state_size < 1 or (action_size < 1 and scope in ("state-action", "transition")):
            raise ValueError(
                "without a problem the network needs observation_size, and action_size if it sees actions."
            )
        return cls(
            network=network.build(key, sizes[scope], 1, output_gain=0.1),
            features=features,
            scope=scope,
            states=states,
            actions=actions,
        )

    def __call__(self, observation, action, next_observation, terminated):
        state, entered = self._state(observation), self._state(next_observation)
        if self.scope == "state":
            inputs = state
        elif self.scope == "next-state":
            inputs = entered
        elif self.scope == "state-action":
            inputs = jnp.concatenate([state, self._action(action, state.dtype)])
        else:
            ended = jnp.asarray(terminated, state.dtype)[None]
            inputs = jnp.concatenate([state, self._action(action, state.dtype), entered, ended])
        return self.network(inputs)[0]

    def table(self, problem: TabularMDP) -> Float[Array, "states actions"]:
        if (self.states, self.actions) != problem.shape:
            raise ValueError(
                f"the network is made for {self.states} states and {self.actions} actions, but the problem has "
                f"{problem.shape[0]} and {problem.shape[1]}."
            )
        if self.scope == "transition":
            return expected(problem, self)
        states, actions = jnp.arange(self.states), jnp.arange(self.actions)
        if self.scope == "state-action":
            return jax.vmap(lambda s: jax.vmap(lambda a: self(s, a, s, False))(actions))(states)
        return as_pairs(problem, jax.vmap(lambda s: self(s, 0, s, False))(states), self.scope)

    def parameters(self) -> Any:
        spec = jax.tree.map(eqx.is_inexact_array, self)
        return spec if self.features is None else eqx.tree_at(lambda reward: reward.features, spec, False)

    def _state(self, observation):
        dtype = jax.tree.leaves(eqx.filter(self.network, eqx.is_inexact_array))[0].dtype
        if self.features is not None:
            return jnp.asarray(self.features, dtype)[observation]
        if self.states:
            return jax.nn.one_hot(observation, self.states, dtype=dtype)
        return jnp.asarray(observation, dtype)

    def _action(self, action, dtype):
        return jax.nn.one_hot(action, self.actions, dtype=dtype) if self.actions else jnp.asarray(action, dtype)
