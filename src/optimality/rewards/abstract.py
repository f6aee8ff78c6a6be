"""Rewards that can be learned, shaped, planned with and saved."""

import abc
from typing import Any, Literal

import equinox as eqx
from jaxtyping import Array, Float

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
