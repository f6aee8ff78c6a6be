"""Potential-based shaping: another reward with the same optimal policies.

    r'(s, a, s', terminated) = r(s, a, s', terminated) + discount Phi(s') (1 - terminated) - Phi(s)

(Ng, Harada and Russell 1999). The potential of what has terminated is zero. So is that of the end of a finite horizon:
there the shaped reward pays `-Phi(s_H)` (`terminal`), without which states would differ in worth for where the clock
stops. With both, every policy's value falls by `Phi` of its first state and no policy changes, the soft-optimal ones
included.
"""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from optimality.core.numerics import Real
from optimality.problems.tabular import TabularMDP
from optimality.rewards.abstract import AbstractReward, Scope, as_floats
from optimality.rewards.linear import require_table
from optimality.rewards.on_tables import entered


class PotentialShaping(AbstractReward):
    """A reward with a potential's differences added. Make one with `of`, which takes the discount from the problem."""

    reward: AbstractReward
    potential: Float[Array | np.ndarray, " states"] | Callable[[Any], Array]
    """`[S]` on a table, or a module from an observation to a number."""
    discount: Real
    """The problem's: any other makes the shaping change what is best."""
    scope: Scope = eqx.field(static=True, default="transition")

    @classmethod
    def of(cls, problem: TabularMDP, reward: AbstractReward, potential: Any) -> "PotentialShaping":
        """With the problem's discount; an array as potential has one number a state."""
        given = as_floats(potential) if not callable(potential) else potential
        if not callable(given) and given.shape != problem.shape[:1]:
            raise ValueError(f"the potential has shape {given.shape}, but needs {problem.shape[:1]}.")
        return cls(reward=reward, potential=given, discount=problem.discount)  # pyright: ignore[reportArgumentType]

    def __call__(self, observation, action, next_observation, terminated):
        plain = self.reward(observation, action, next_observation, terminated)
        ahead = jnp.where(terminated, 0.0, self._at(next_observation))
        return plain + jnp.asarray(self.discount, plain.dtype) * ahead - self._at(observation)

    def table(self, problem: TabularMDP) -> Float[Array, "states actions"]:
        plain, potential = self.reward.table(problem), self._table(problem)
        ahead = entered(problem, potential, ended=False)
        return plain + jnp.asarray(self.discount, plain.dtype) * ahead - potential[:, None]

    def terminal(self, problem: TabularMDP) -> Float[Array, " states"]:
        return self.reward.terminal(problem) - self._table(problem)

    def parameters(self) -> Any:
        nothing = jax.tree.map(lambda _: False, self)
        parts = self.reward.parameters(), jax.tree.map(eqx.is_inexact_array, self.potential)
        return eqx.tree_at(lambda shaped: (shaped.reward, shaped.potential), nothing, parts)

    def _at(self, observation):
        if callable(self.potential):
            return self.potential(observation)
        return jnp.asarray(self.potential)[observation]

    def _table(self, problem: TabularMDP):
        if callable(self.potential):
            return jax.vmap(self.potential)(jnp.arange(problem.shape[0]))
        require_table(self, problem, self.potential.shape)
        return jnp.asarray(self.potential)
