"""A reward on another scale, `r' = scale r + shift`.

A positive scale is a temperature by another name: `scale` times the reward at temperature `tau` is the reward at
`tau / scale`. A shift changes no policy where every episode has the same length; where episodes terminate it pays for
staying alive, or for ending.
"""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from optimality.core.numerics import Real, cast_floats, is_traced, precision
from optimality.problems.tabular import TabularMDP
from optimality.rewards.abstract import AbstractReward, Scope


class NormalizedReward(AbstractReward):
    """`scale * reward + shift`; neither number is learned."""

    reward: AbstractReward
    scale: Real = 1.0
    shift: Real = 0.0

    def __check_init__(self):
        if not is_traced((self.scale, self.shift)) and not np.isfinite([float(self.scale), float(self.shift)]).all():
            raise ValueError(f"scale and shift must be finite, but {self.scale} and {self.shift} were given.")

    @classmethod
    def of(cls, problem: TabularMDP, reward: AbstractReward) -> "NormalizedReward":
        """With mean 0 and deviation 1 over the pairs that the problem allows; raises `ValueError` for a reward that is
        constant there, which has no scale. Concrete arguments only."""
        with precision(np.float64):
            values = np.asarray(cast_floats(reward, np.float64).table(problem))[np.asarray(problem.allowed)]
        deviation = float(values.std())
        if not deviation > 1e-12 * max(1.0, float(np.abs(values).max())):
            raise ValueError("the reward is the same for every pair: it has no scale to normalize by.")
        return cls(reward=reward, scale=1.0 / deviation, shift=-float(values.mean()) / deviation)  # pyright: ignore[reportCallIssue]

    @property
    def scope(self) -> Scope:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self.reward.scope

    def __call__(self, observation, action, next_observation, terminated):
        return self._changed(self.reward(observation, action, next_observation, terminated))

    def table(self, problem: TabularMDP) -> Float[Array, "states actions"]:
        return self._changed(self.reward.table(problem))

    def terminal(self, problem: TabularMDP) -> Float[Array, " states"]:
        last = self.reward.terminal(problem)
        return jnp.asarray(self.scale, last.dtype) * last

    def parameters(self) -> Any:
        nothing = jax.tree.map(lambda _: False, self)
        return eqx.tree_at(lambda normalized: normalized.reward, nothing, self.reward.parameters())

    def _changed(self, plain):
        return jnp.asarray(self.scale, plain.dtype) * plain + jnp.asarray(self.shift, plain.dtype)
