"""Value iteration (Bellman 1957): the best expected reward, exactly or as a fixed point.

V(s) = max_a Q(s, a),        Q(s, a) = r(s, a) + discount E V(s')
"""

from dataclasses import KW_ONLY
from typing import Any, ClassVar, Literal

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from optimality.core.numerics import Real
from optimality.core.solve import AbstractDirect, Solution
from optimality.planning.backups import Sweep, plan, require_criterion
from optimality.planning.soft_value_iteration import PlanDetails
from optimality.policies.tabular import TabularPolicy
from optimality.problems.criterion import AverageReward, Discounted, FiniteHorizon, UntilTermination
from optimality.problems.tabular import TabularMDP

Ties = Literal["lowest", "uniform"]


class ValueIteration(AbstractDirect[TabularMDP]):
    """Optimal values and a greedy policy of a finite problem, for every criterion."""

    _: KW_ONLY
    ties: Ties = eqx.field(static=True, default="lowest")
    """Among equally good actions: `lowest` takes the first, `uniform` each alike."""
    tie_tolerance: Real = 1e-9
    """Actions within this of the best, relative to the largest value, count as equally good."""
    risk: Real = 0.0
    """Taste for uncertain outcomes, in one over reward: 0 neutral, positive seeks, negative avoids."""
    tolerance: Real = 1e-12
    """Largest accepted change of a value in the last sweep, where a fixed point is sought."""
    max_steps: int = eqx.field(static=True, default=200_000)
    """Bound on the sweeps, where a fixed point is sought."""

    accepts: ClassVar[tuple[type, ...]] = (FiniteHorizon, Discounted, AverageReward, UntilTermination)

    def check(self, problem: Any) -> None:
        require_criterion(self, problem, self.accepts)

    def compute(self, problem: TabularMDP, key=None) -> Solution:
        planned = plan(problem, Sweep(problem.log_base("none").T, 0.0, self.risk), self.tolerance, self.max_steps)
        log_policy = greedy(planned.q, problem.allowed, self.ties, self.tie_tolerance)
        return Solution(
            value=planned.value,
            policy=TabularPolicy(log_policy),
            result=planned.result,
            stats=planned.stats,
            details=PlanDetails(planned.q, planned.gain),
        )


def greedy(
    q: Float[Array, "... states actions"], allowed, ties: Ties, tie_tolerance: Real
) -> Float[Array, "... states actions"]:
    """Log-probabilities of the greedy policy; which actions are best does not depend on a rounding."""
    q = jnp.where(jnp.broadcast_to(jnp.asarray(allowed), q.shape), q, -jnp.inf)
    best = jnp.max(q, axis=-1, keepdims=True)
    scale = jnp.maximum(jnp.max(jnp.abs(best)), 1.0)
    is_best = q >= best - jnp.asarray(tie_tolerance, q.dtype) * scale
    if ties == "lowest":
        is_best = jax.nn.one_hot(jnp.argmax(is_best, axis=-1), q.shape[-1], dtype=bool)
    elif ties != "uniform":
        raise ValueError(f"ties must be 'lowest' or 'uniform', but {ties!r} was given.")
    count = jnp.sum(is_best, axis=-1, keepdims=True).astype(q.dtype)
    return jnp.where(is_best, -jnp.log(count), -jnp.inf)
