"""Any finite Markov decision problem as an environment: observations are states.

An outcome of the table is drawn at every step, with its own reward and termination. `FiniteHorizon` gives the time
limit; its terminal reward is paid, times the discount, on top of the last reward of an episode that has not
terminated, so that discounted returns are those of the problem. Other criteria leave the episode open; wrap it in
`TimeLimit`.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from gymnasium import spaces
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from optimality.core.numerics import is_traced
from optimality.environments.abstract import AbstractEnvironment
from optimality.problems.criterion import FiniteHorizon
from optimality.problems.tabular import TabularMDP


class TabularState(NamedTuple):
    """Index of the state, and the number of steps taken."""

    state: Int[Array, ""]
    time: Int[Array, ""]


class TabularEnvironment(AbstractEnvironment):
    """`problem` as an environment, and still there to be solved exactly.

    Rewards are float32, or of the precision of `problem.reward` where that is a JAX array. An action that the state
    does not offer has no outcome: its reward is NaN and the state stays; `action_mask` says so beforehand.
    """

    problem: TabularMDP

    def reset(self, key: PRNGKeyArray) -> tuple[TabularState, Int[Array, ""]]:
        cumulative = jnp.cumsum(jnp.asarray(self.problem.initial))
        draw = jax.random.uniform(key, dtype=cumulative.dtype) * cumulative[-1]
        state = jnp.minimum(jnp.sum(draw >= cumulative), cumulative.size - 1).astype(jnp.int32)
        return TabularState(state, jnp.zeros((), jnp.int32)), state

    def step(
        self, key: PRNGKeyArray, state: TabularState, action: Int[Array, ""] | int
    ) -> tuple[TabularState, Int[Array, ""], Float[Array, ""], Bool[Array, ""], Bool[Array, ""]]:
        new, reward, terminated = self.problem.sample(key, state.state, action)
        new, reward = new.astype(jnp.int32), reward.astype(self._precision)
        offered = jnp.asarray(self.problem.allowed)[state.state, action]
        new = jnp.where(offered, new, state.state)
        reward = jnp.where(offered, reward, jnp.nan)
        terminated = terminated & offered
        time, truncated = state.time + 1, jnp.zeros((), bool)
        criterion = self.problem.criterion
        if isinstance(criterion, FiniteHorizon):
            truncated = time >= criterion.horizon
            terminal = jnp.asarray(criterion.terminal_reward, self._precision)
            paid = jnp.asarray(criterion.discount, self._precision) * (terminal[new] if terminal.ndim else terminal)
            reward = reward + jnp.where(truncated & ~terminated, paid, 0.0)
        return TabularState(new, time), new, reward, terminated, truncated

    @property
    def _precision(self):
        return self.problem.reward.dtype if isinstance(self.problem.reward, jax.Array) else jnp.float32

    @property
    def observation_space(self) -> spaces.Discrete:
        return spaces.Discrete(self.problem.shape[0])

    @property
    def action_space(self) -> spaces.Discrete:
        return spaces.Discrete(self.problem.shape[1])

    @property
    def time_limit(self) -> int | None:
        criterion = self.problem.criterion
        return int(criterion.horizon) if isinstance(criterion, FiniteHorizon) else None

    def action_mask(self, state: TabularState) -> Bool[Array, " actions"] | None:
        """None where the table is concrete and allows everything everywhere."""
        if not is_traced(self.problem.allowed) and np.all(self.problem.allowed):
            return None
        return jnp.asarray(self.problem.allowed)[state.state]
