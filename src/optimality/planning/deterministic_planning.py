"""The best action sequence where nothing is random: `argmax sum_t r(s_t, a_t)` with `s_{t+1} = f(s_t, a_t)`.

There is one best value; sequences that reach it may tie, and are counted.
"""

from dataclasses import KW_ONLY
from typing import Any, ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from optimality.core.numerics import Real, is_traced
from optimality.core.solve import AbstractDirect, Solution
from optimality.planning.backups import require_criterion
from optimality.planning.value_iteration import ValueIteration, greedy
from optimality.problems.criterion import FiniteHorizon
from optimality.problems.tabular import TabularMDP


class DeterministicPlanDetails(eqx.Module):
    """The sequence from the first state, lowest actions first among ties. Entries after a termination have
    `running = False`. `optimal_plans` counts the action sequences that reach the best value."""

    states: Int[Array, " time_and_end"]
    actions: Int[Array, " time"]
    rewards: Float[Array, " time"]
    running: Bool[Array, " time"]
    optimal_plans: Float[Array, ""]
    q: Float[Array, "time states actions"]


class DeterministicPlanning(AbstractDirect[TabularMDP]):
    """Hard planning of an action sequence in a deterministic problem with one first state."""

    _: KW_ONLY
    tie_tolerance: Real = 1e-9
    """Actions within this of the best, relative to the largest value, count as equally good."""

    accepts: ClassVar[tuple[type, ...]] = (FiniteHorizon,)

    def check(self, problem: Any) -> None:
        require_criterion(self, problem, self.accepts)
        if is_traced(problem):
            return
        discount = float(problem.discount)
        if discount < 1.0:
            raise ValueError(f"DeterministicPlanning needs discount 1 (a chance of ending is random), not {discount}.")
        certain = _certainty(problem)
        random = np.asarray(problem.allowed) & (certain < 1.0 - 1e-12)
        if random.any():
            state, action = np.argwhere(random)[0]
            raise ValueError(
                f"DeterministicPlanning needs one outcome for each pair, but state {state}, action {action} has "
                f"several (the likeliest has probability {certain[state, action]:.4g}): use ValueIteration()."
            )
        if np.max(problem.initial) < 1.0 - 1e-12:
            raise ValueError(
                "DeterministicPlanning needs one first state, but initial spreads over several: give initial=STATE."
            )

    def compute(self, problem: TabularMDP, key=None) -> Solution:
        best = ValueIteration(tie_tolerance=self.tie_tolerance).compute(problem)
        successor, over = _successors(problem)
        is_best = ~jnp.isneginf(greedy(best.details.q, problem.allowed, "uniform", self.tie_tolerance))
        choice = jnp.argmax(best.policy.log_probabilities, axis=-1)

        def walk(carry, chosen):
            state, running = carry
            action = chosen[state]
            reward = jnp.where(running, jnp.asarray(problem.reward)[state, action], 0.0)
            after = jnp.where(running, successor[state, action], state)
            return (after, running & ~over[state, action]), (state, action, reward, running)

        first = jnp.argmax(jnp.asarray(problem.initial)).astype(jnp.int32)
        (last, _), (states, actions, rewards, running) = jax.lax.scan(walk, (first, jnp.asarray(True)), choice)

        def count(ahead, best_now):
            ways = jnp.where(over, 1.0, ahead[successor])
            return jnp.sum(jnp.where(best_now, ways, 0.0), axis=1), None

        ones = jnp.ones(problem.shape[0], best.value.dtype)
        plans, _ = jax.lax.scan(count, ones, is_best, reverse=True)
        details = DeterministicPlanDetails(
            jnp.append(states, last), actions, rewards, running, plans[first], best.details.q
        )
        return Solution(best.value, best.policy, best.result, best.stats, details)


def _certainty(problem: TabularMDP) -> np.ndarray:
    """Probability of the likeliest outcome of each pair, `[S, A]`."""
    states, actions = problem.shape
    everything = jax.vmap(lambda s: jax.vmap(lambda a: problem.model.law(s, a).probability)(jnp.arange(actions)))
    return np.asarray(everything(jnp.arange(states))).max(axis=-1)


def _successors(problem: TabularMDP):
    """The outcome of each pair: successor, and whether it ends the episode."""
    states, actions = problem.shape

    def outcome(state, action):
        law = problem.model.law(state, action)
        certain = jnp.argmax(law.probability)
        return law.successor[certain].astype(jnp.int32), law.terminated[certain]

    pairs = jax.vmap(lambda s: jax.vmap(lambda a: outcome(s, a))(jnp.arange(actions)))
    return pairs(jnp.arange(states))
