"""Risk-sensitive control of a linear-quadratic problem: the certainty equivalent of the cost instead of its mean.

    max_pi (1 / risk) log E exp(-risk sum_t cost_t)

Positive risk is optimism, negative risk caution (Jacobson 1973; Whittle 1981, who writes theta = -risk), and risk 0
is LQR. Unlike the mean, it feels the noise: the gains change with W. Caution has a limit, the breakdown point, beyond
which the expectation is infinite whatever is done; as the noise vanishes, so does the effect of risk on the gains.
"""

from dataclasses import KW_ONLY
from typing import Any, ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from optimality.core.numerics import Real, is_traced
from optimality.core.result import Result
from optimality.core.small_matrices import symmetric, transposed_product
from optimality.core.solve import AbstractDirect, Solution
from optimality.planning.gaussian_risk import root
from optimality.planning.lqr import LQRDetails, Planned, explain_failure, plan_linear, require_plain_risk
from optimality.planning.marginals import policy_cost
from optimality.policies.affine_gaussian import AffineGaussian
from optimality.problems.criterion import AverageReward, FiniteHorizon
from optimality.problems.linear_quadratic import LinearQuadratic


class RiskSensitiveLQRDetails(eqx.Module):
    """The risk-sensitive cost-to-go, the plain cost of the policy, and how far caution could go."""

    control: LQRDetails
    expected_cost: Float[Array | np.ndarray, ""]
    """Mean cost of the policy; on average of a step."""
    breakdown: Float[Array | np.ndarray, ""]
    """The negative risk at which the certainty equivalent becomes infinite; minus infinity if there is none."""


class RiskSensitiveLQR(AbstractDirect[LinearQuadratic]):
    """The controls of greatest certainty equivalent; risk is in units of one over cost."""

    _: KW_ONLY
    risk: Real = -0.01
    """Negative is caution, positive optimism; 0 is LQR."""
    tolerance: Real = 1e-14
    """Largest accepted change of P, relative to it, where there is no horizon."""
    max_steps: int = eqx.field(static=True, default=10_000)
    """Bound on the iterations where there is no horizon."""

    accepts: ClassVar[tuple[type, ...]] = (FiniteHorizon, AverageReward)

    def __check_init__(self):
        if not is_traced(self.risk) and not np.isfinite(float(np.asarray(self.risk))):
            raise ValueError(f"risk must be finite, but {self.risk} was given.")

    def check(self, problem: Any) -> None:
        require_plain_risk(self, problem)

    def compute(self, problem: LinearQuadratic, key=None) -> Solution:
        dtype = jnp.asarray(problem.A).dtype
        risk = jnp.asarray(self.risk, dtype)

        def plan(risk) -> Planned:
            return plan_linear(problem, risk=risk, tolerance=self.tolerance, max_steps=self.max_steps)

        planned = plan(risk)
        finite = _exists(problem, planned, risk)
        code = jnp.where(
            finite | (planned.result != Result.CONVERGED), planned.result, int(Result.NOT_POSITIVE_DEFINITE)
        )
        planned = eqx.tree_at(lambda p: p.result, planned, code)
        policy = AffineGaussian(planned.K, planned.k)
        still = jax.lax.stop_gradient((problem, self.tolerance))
        breakdown = _breakdown(still[0], still[1], self.max_steps)
        details = RiskSensitiveLQRDetails(planned.details, policy_cost(problem, policy).expected_cost, breakdown)
        return planned.solution(policy, details)

    def explain(self, problem: LinearQuadratic, solution: Solution) -> str:
        if solution.result != Result.NOT_POSITIVE_DEFINITE:
            return explain_failure(solution)
        return f"{explain_failure(solution)} The breakdown point is at risk {float(solution.details.breakdown):.6g}."


def _exists(problem: LinearQuadratic, planned: Planned, risk) -> Any:
    """Whether the certainty equivalent is finite, over the first state too."""
    P = jnp.asarray(planned.details.P)
    first = P[0] if P.ndim == 3 else P
    good = planned.result == Result.CONVERGED
    if problem.horizon is None:
        return good
    noise_root = root(jnp.asarray(problem.initial_covariance))
    spread = jnp.linalg.eigvalsh(symmetric(transposed_product(noise_root, first @ noise_root)))
    return good & jnp.all(1.0 + risk * spread > 0.0)


def _breakdown(problem: LinearQuadratic, tolerance, max_steps: int) -> Float[Array, ""]:
    """By bisection over the logarithm of minus the risk, down to rounding."""
    dtype = jnp.asarray(problem.A).dtype

    def exists(log_risk):
        risk = -jnp.exp(log_risk)
        return _exists(problem, plan_linear(problem, risk=risk, tolerance=tolerance, max_steps=max_steps), risk)

    limit = 0.2 * float(np.log(float(jnp.finfo(dtype).max)))
    low, high = jnp.asarray(-limit, dtype), jnp.asarray(limit, dtype)

    def body(count, interval):
        low, high = interval
        middle = jnp.where(count == 0, high, 0.5 * (low + high))  # whether there is a limit at all comes first
        good = exists(middle)
        return jnp.where(good, middle, low), jnp.where(good, high, middle)

    low, high = jax.lax.fori_loop(0, 60, body, (low, high))
    return jnp.where(low >= limit, -jnp.inf, -jnp.exp(low))
