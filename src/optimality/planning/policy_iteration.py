"""Policy iteration (Howard 1960): evaluate a policy exactly, act greedily on its values, repeat.

    V_k = (I - discount P_k)^-1 r_k,        pi_{k+1}(s) = argmax_a r(s, a) + discount E V_k(s')

It ends after finitely many steps, a handful in practice, because no policy is visited twice.
"""

from dataclasses import KW_ONLY
from typing import Any, ClassVar

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from optimality.core.numerics import Real
from optimality.core.result import Result
from optimality.core.solve import RUNNING, AbstractIterative, Solution
from optimality.planning.backups import action_values, require_criterion
from optimality.planning.soft_value_iteration import PlanDetails
from optimality.planning.value_iteration import Ties, greedy
from optimality.policies.tabular import TabularPolicy
from optimality.problems.criterion import Discounted
from optimality.problems.tabular import TabularMDP


class PolicyIterationState(eqx.Module):
    value: Float[Array, " states"]
    residual: Float[Array, ""]


class PolicyIteration(AbstractIterative[TabularMDP, PolicyIterationState]):
    """Optimal values of a discounted problem by exact evaluation steps; memory and time as a dense `[S, S]` solve."""

    _: KW_ONLY
    ties: Ties = eqx.field(static=True, default="lowest")
    """Among equally good actions of the final policy: `lowest` takes the first, `uniform` each alike."""
    tie_tolerance: Real = 1e-9
    """Actions within this of the best, relative to the largest value, count as equally good."""
    tolerance: Real = 1e-10
    """Largest accepted Bellman residual `max |max_a Q - V|`, relative to the largest value."""
    max_steps: int = eqx.field(static=True, default=1_000)
    """Bound on the improvements."""

    accepts: ClassVar[tuple[type, ...]] = (Discounted,)

    def check(self, problem: Any) -> None:
        require_criterion(self, problem, self.accepts)

    def init(self, problem: TabularMDP, guess, key) -> PolicyIterationState:
        states, _ = problem.shape
        value = jnp.zeros(states, jnp.asarray(problem.reward).dtype) if guess is None else jnp.asarray(guess)
        return PolicyIterationState(value, jnp.asarray(jnp.inf, value.dtype))

    def step(self, problem: TabularMDP, state: PolicyIterationState) -> PolicyIterationState:
        q = action_values(problem, state.value, 0.0).T
        choice = jnp.exp(greedy(q, problem.allowed, "lowest", 0.0))
        value = evaluate_exactly(problem, choice)
        return PolicyIterationState(value, jnp.max(jnp.abs(self.condition(problem, value))))

    def terminate(self, problem: TabularMDP, state: PolicyIterationState) -> Int[Array, ""]:
        scale = jnp.maximum(jnp.max(jnp.abs(state.value)), 1.0)
        done = (
            state.residual
            <= jnp.maximum(jnp.asarray(self.tolerance, scale.dtype), 64 * jnp.finfo(scale.dtype).eps) * scale
        )
        code = jnp.where(done, Result.CONVERGED, RUNNING)
        return jnp.where(jnp.isfinite(state.residual), code, Result.NON_FINITE)

    def point(self, state: PolicyIterationState) -> Float[Array, " states"]:
        return state.value

    def condition(self, problem: TabularMDP, point: Float[Array, " states"]) -> Float[Array, " states"]:
        q = action_values(problem, point, 0.0)
        return jnp.max(jnp.where(jnp.asarray(problem.allowed).T, q, -jnp.inf), axis=0) - point

    def finish(self, problem: TabularMDP, state: PolicyIterationState, point) -> Solution:
        q = action_values(problem, point, 0.0).T
        policy = TabularPolicy(greedy(q, problem.allowed, self.ties, self.tie_tolerance))
        return Solution(point, policy, Result.CONVERGED, {"residual": state.residual}, PlanDetails(q, None))


def evaluate_exactly(problem: TabularMDP, policy: Float[Array, "states actions"]) -> Float[Array, " states"]:
    """`(I - discount P_pi)^-1 r_pi` by one dense solve."""
    states, _ = problem.shape
    reward = jnp.sum(policy * jnp.asarray(problem.reward), axis=1)
    transition = jnp.einsum("sa,sat->st", policy, problem.dense())
    system = jnp.eye(states, dtype=reward.dtype) - jnp.asarray(problem.discount, reward.dtype) * transition
    return jnp.linalg.solve(system, reward)
