"""Maximum-entropy control of a linear-quadratic problem: variational inference, in closed form.

    max_pi E sum_t [-cost_t + temperature H(pi(. | x_t))],     pi(u | x) = N(K x + k, temperature Q_uu^-1)

The gains are those of LQR, whatever the temperature and the noise: entropy adds to the value a number that does not
depend on the state. Divided by the temperature, the expected soft value is a bound on the evidence of optimality under
true dynamics (Levine 2018, section 4); with deterministic dynamics it is that evidence. Controls are unbounded, so the
base measure is Lebesgue's, and a log evidence is relative to it: it changes with the unit of the controls.
"""

from dataclasses import KW_ONLY
from typing import Any, ClassVar

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from optimality.core.numerics import Real, is_traced
from optimality.core.solve import AbstractDirect, Solution
from optimality.planning.lqr import LQRDetails, explain_failure, plan_linear, require_linear_quadratic
from optimality.planning.marginals import policy_cost
from optimality.policies.affine_gaussian import AffineGaussian
from optimality.problems.criterion import AverageReward, Discounted, FiniteHorizon
from optimality.problems.linear_quadratic import LinearQuadratic


class MaximumEntropyLQRDetails(eqx.Module):
    """The soft cost-to-go, whose `s` has the entropy in it, and what the policy does."""

    control: LQRDetails
    elbo: Float[Array | np.ndarray, ""]
    """The expected soft value over the temperature, in nats, relative to Lebesgue measure; on average of a step."""
    expected_cost: Float[Array | np.ndarray, ""]
    """Of the policy, noise of the controls included; on average of a step."""
    expected_entropy: Float[Array | np.ndarray, ""]
    """Differential entropy of the controls in nats, discounted and summed; on average of a step."""


class MaximumEntropyLQR(AbstractDirect[LinearQuadratic]):
    """LQR's gains with normal exploration of covariance `temperature Q_uu^-1`."""

    _: KW_ONLY
    temperature: Real = 1.0
    """What a nat of entropy is worth, in units of cost."""
    tolerance: Real = 1e-14
    """Largest accepted change of P, relative to it, where there is no horizon."""
    max_steps: int = eqx.field(static=True, default=10_000)
    """Bound on the iterations where there is no horizon."""

    accepts: ClassVar[tuple[type, ...]] = (FiniteHorizon, Discounted, AverageReward)

    def __check_init__(self):
        require_positive_temperature(self.temperature)

    def check(self, problem: Any) -> None:
        require_linear_quadratic(self, problem, self.accepts)

    def compute(self, problem: LinearQuadratic, key=None) -> Solution:
        temperature = jnp.asarray(self.temperature, jnp.asarray(problem.A).dtype)
        planned = plan_linear(problem, temperature=temperature, tolerance=self.tolerance, max_steps=self.max_steps)
        policy = AffineGaussian(planned.K, planned.k, planned.covariance(temperature))
        cost = policy_cost(problem, policy).expected_cost
        objective = planned.details.objective
        details = MaximumEntropyLQRDetails(
            planned.details, objective / temperature, cost, (objective + cost) / temperature
        )
        return planned.solution(policy, details)

    def explain(self, problem: LinearQuadratic, solution: Solution) -> str:
        return explain_failure(solution)


def require_positive_temperature(temperature: Real) -> None:
    """Raises `ValueError` for a temperature that is not a positive number."""
    if not is_traced(temperature) and not 0.0 < float(np.asarray(temperature)) < np.inf:
        raise ValueError(
            f"temperature must be positive and finite, but {temperature} was given; without entropy use LQR()."
        )
