"""Soft value iteration: planning in which entropy, or closeness to a prior, is worth something.

    Q(s, a) = (1 / risk) log E[exp(risk r) (discount exp(risk V(s')) + 1 - discount)],    at risk 0: r + discount E V
    V(s)    = tau log sum_a b(a | s) exp(Q(s, a) / tau)
    pi(a|s) = b(a | s) exp((Q(s, a) - V(s)) / tau)

With `b = 1` this maximizes return plus `tau` times entropy (Ziebart 2010, chapter 6), with a normalized `b` return less
`tau` times KL to the prior (Todorov 2006; Levine 2018, equations 17-19). Temperature 0 is value iteration.
"""

from dataclasses import KW_ONLY
from typing import Any, ClassVar

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float

from optimality.core.numerics import Real, is_traced
from optimality.core.solve import AbstractDirect, Solution
from optimality.planning.backups import Sweep, plan, require_criterion
from optimality.policies.tabular import TabularPolicy
from optimality.problems.criterion import AverageReward, Discounted, FiniteHorizon, UntilTermination
from optimality.problems.tabular import Prior, TabularMDP


class PlanDetails(eqx.Module):
    """`q [S, A]` or `[H, S, A]`; `gain`, the reward per step, for average reward only."""

    q: Float[Array, "..."]
    gain: Float[Array, ""] | None


class SoftValueIteration(AbstractDirect[TabularMDP]):
    """Soft-optimal values and policy of a finite problem, for every criterion."""

    _: KW_ONLY
    temperature: Real = 0.003
    """What a nat of entropy (or of KL to the prior) is worth, in units of reward; 0 is hard planning."""
    prior: Prior = eqx.field(static=True, default="none")
    """`none`: entropy form. `uniform`, `problem`: KL form, against that law over the allowed actions."""
    risk: Real = 0.0
    """Taste for uncertain outcomes, in one over reward: 0 neutral, positive seeks, negative avoids."""
    tolerance: Real = 1e-12
    """Largest accepted change of a value in the last sweep, where a fixed point is sought."""
    max_steps: int = eqx.field(static=True, default=200_000)
    """Bound on the sweeps, where a fixed point is sought."""

    accepts: ClassVar[tuple[type, ...]] = (FiniteHorizon, Discounted, AverageReward, UntilTermination)

    def __check_init__(self):
        if not is_traced(self.temperature) and not float(jnp.asarray(self.temperature)) >= 0.0:
            raise ValueError(f"temperature must be at least 0, but {self.temperature} was given.")

    def check(self, problem: Any) -> None:
        require_criterion(self, problem, self.accepts)
        problem.require_prior(self.prior)

    def compute(self, problem: TabularMDP, key=None) -> Solution:
        sweep = Sweep(problem.log_base(self.prior).T, self.temperature, self.risk)
        planned = plan(problem, sweep, self.tolerance, self.max_steps)
        return Solution(
            value=planned.value,
            policy=TabularPolicy(planned.log_policy),
            result=planned.result,
            stats=planned.stats,
            details=PlanDetails(planned.q, planned.gain),
        )
