"""Variational inference: the closest behavior to the posterior that keeps the true dynamics and first state.

    q(trajectory) = p(s_1) prod_t pi(a_t | s_t) p(s_{t+1} | s_t, a_t)
    log p(O) >= ELBO(q) = E_q sum_t [r_t / tau - log pi(a_t | s_t) + log p(a_t | s_t)],    gap = KL(q || p(. | O))

The best `q` is the soft-optimal policy with `Q = r + E V`, risk-neutral in the dynamics (Levine 2018, section 4),
so it cannot believe in luck. Its bound is the expected first value divided by the temperature.
"""

from dataclasses import KW_ONLY
from typing import Any, ClassVar

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float

from optimality.core.numerics import Real
from optimality.core.solve import AbstractDirect, Solution
from optimality.planning.backups import require_criterion
from optimality.planning.exact_inference import ExactInference
from optimality.planning.soft_value_iteration import SoftValueIteration
from optimality.problems.criterion import Discounted, FiniteHorizon, UntilTermination
from optimality.problems.tabular import Prior, TabularMDP


class VariationalInferenceDetails(eqx.Module):
    """`elbo <= log_evidence`; `gap` is their difference, `KL(q || posterior)`; all three in nats."""

    elbo: Float[Array, ""]
    log_evidence: Float[Array, ""]
    gap: Float[Array, ""]
    q: Float[Array, "..."]


class VariationalInference(AbstractDirect[TabularMDP]):
    """The restricted posterior with true dynamics, its evidence bound, and the gap to the evidence."""

    _: KW_ONLY
    temperature: Real = 1.0
    """Reward is divided by it before it becomes a log-likelihood."""
    prior: Prior = eqx.field(static=True, default="uniform")
    """`uniform` or `problem`: a law over actions, so that `log_evidence` is one; `none`: the counting measure."""
    tolerance: Real = 1e-12
    """Largest accepted change of a value in the last sweep, where a fixed point is sought."""
    max_steps: int = eqx.field(static=True, default=200_000)
    """Bound on the sweeps, where a fixed point is sought."""

    accepts: ClassVar[tuple[type, ...]] = (FiniteHorizon, Discounted, UntilTermination)

    def __check_init__(self):
        self._exact()

    def check(self, problem: Any) -> None:
        require_criterion(self, problem, self.accepts)
        problem.require_prior(self.prior)

    def compute(self, problem: TabularMDP, key=None) -> Solution:
        restricted = SoftValueIteration(
            temperature=self.temperature, prior=self.prior, tolerance=self.tolerance, max_steps=self.max_steps
        ).compute(problem)
        exact = self._exact().compute(problem)
        first = restricted.value[0] if isinstance(problem.criterion, FiniteHorizon) else restricted.value
        elbo = jnp.sum(jnp.asarray(problem.initial) * first) / jnp.asarray(self.temperature, first.dtype)
        evidence = exact.details.log_evidence
        details = VariationalInferenceDetails(elbo, evidence, evidence - elbo, restricted.details.q)
        result = jnp.maximum(restricted.result, exact.result)
        return Solution(restricted.value, restricted.policy, result, restricted.stats, details)

    def _exact(self) -> ExactInference:
        return ExactInference(
            temperature=self.temperature, prior=self.prior, tolerance=self.tolerance, max_steps=self.max_steps
        )
