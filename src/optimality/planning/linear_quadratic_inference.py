"""The exact posterior of a linear-quadratic problem: what was done, given that all went well.

Give each step an optimality variable with `p(O_t | x, u) = exp(-cost_t / temperature)` and each control Lebesgue
measure as its prior. The posterior of the whole trajectory is normal, and its messages are quadratic:

    log beta_t(x) = -J_t(x) / temperature,   J by the Riccati equation with risk 1 / temperature
    p(u | x, O) = N(K x + k, temperature Q_uu^-1),    log p(O) = log E exp(-J_0(x_0) / temperature)
    p(x' | x, u, O) = N((I + W P' / temperature)^-1 (A x + B u + c - W p' / temperature), (W^-1 + P' / temperature)^-1)

It bends the noise and the first state towards luck. Maximum-entropy control keeps both as they are and is another law:
its value is a bound, the ELBO, and the gap is the divergence between the two. Without noise, and with a known first
state, they are the same; as W vanishes the gains become LQR's, linearly in W. Controls are unbounded, so the evidence
is relative to Lebesgue measure: it changes with the unit of the controls (Toussaint 2009; Levine 2018).
"""

from dataclasses import KW_ONLY
from typing import Any, ClassVar

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from optimality.core.numerics import Real
from optimality.core.small_matrices import product
from optimality.core.solve import AbstractDirect, Solution
from optimality.planning.gaussian_risk import Ahead, certainty_equivalent
from optimality.planning.lqr import LQRDetails, explain_failure, plan_linear, require_plain_risk
from optimality.planning.marginals import closed_loop, control_noise, controls_of, law, propagate
from optimality.planning.maximum_entropy_lqr import require_positive_temperature
from optimality.planning.quadratic_forms import FORM_AXES, forms, homogeneous, with_time
from optimality.policies.affine_gaussian import AffineGaussian
from optimality.problems.criterion import AverageReward, FiniteHorizon
from optimality.problems.linear_quadratic import LinearQuadratic


class SmoothedTrajectory(eqx.Module):
    """The posterior's normal marginals."""

    mean: Float[Array | np.ndarray, "..."]
    """Of the state, `[T+1, n]`."""
    covariance: Float[Array | np.ndarray, "..."]
    """`[T+1, n, n]`."""
    action_mean: Float[Array | np.ndarray, "..."]
    """Of the control, `[T, m]`."""
    action_covariance: Float[Array | np.ndarray, "..."]
    """`[T, m, m]`."""


class LinearQuadraticInferenceDetails(eqx.Module):
    """Messages and marginals; numbers of evidence in nats, relative to Lebesgue measure, and on average of a step."""

    control: LQRDetails
    log_evidence: Float[Array | np.ndarray, ""]
    elbo: Float[Array | np.ndarray, ""]
    """The bound of maximum-entropy control, which keeps the true dynamics and first state."""
    gap: Float[Array | np.ndarray, ""]
    """`log_evidence - elbo`, the divergence of that law from the posterior."""
    smoothed: SmoothedTrajectory | None
    """None without a horizon."""


class LinearQuadraticInference(AbstractDirect[LinearQuadratic]):
    """The exact posterior over behavior given optimality, noise and first state included."""

    _: KW_ONLY
    temperature: Real = 1.0
    """Cost is divided by it before it becomes minus a log-likelihood."""
    tolerance: Real = 1e-14
    """Largest accepted change of P, relative to it, where there is no horizon."""
    max_steps: int = eqx.field(static=True, default=10_000)
    """Bound on the iterations where there is no horizon."""

    accepts: ClassVar[tuple[type, ...]] = (FiniteHorizon, AverageReward)

    def __check_init__(self):
        require_positive_temperature(self.temperature)

    def check(self, problem: Any) -> None:
        require_plain_risk(self, problem)

    def compute(self, problem: LinearQuadratic, key=None) -> Solution:
        temperature = jnp.asarray(self.temperature, jnp.asarray(problem.A).dtype)
        options = {"temperature": temperature, "tolerance": self.tolerance, "max_steps": self.max_steps}
        planned = plan_linear(problem, risk=1.0 / temperature, **options)
        bound = plan_linear(problem, **options)
        policy = AffineGaussian(planned.K, planned.k, planned.covariance(temperature))
        evidence, elbo = planned.details.objective / temperature, bound.details.objective / temperature
        smoothed = None if problem.horizon is None else _smoothed(problem, policy, planned.details, temperature)
        details = LinearQuadraticInferenceDetails(planned.details, evidence, elbo, evidence - elbo, smoothed)
        return planned.solution(policy, details)

    def explain(self, problem: LinearQuadratic, solution: Solution) -> str:
        return explain_failure(solution)


def _smoothed(problem: LinearQuadratic, policy: AffineGaussian, control: LQRDetails, temperature) -> SmoothedTrajectory:
    steps, risk = forms(problem.arrays()), 1.0 / temperature
    n, dtype = steps.W.shape[-1], steps.F.dtype
    assert problem.horizon is not None
    F, _, W, _ = (with_time(x, axes) for x, axes in zip(steps, FORM_AXES, strict=True))
    acting = law(policy, dtype)
    P, p, s = (jnp.asarray(array) for array in (control.P, control.p, control.s))
    ahead = Ahead.of(P[1:], p[1:], s[1:], W, risk)
    closed = product(ahead.moved, homogeneous(closed_loop(F, acting.gains), 1.0))[..., :n, :]
    noise = ahead.chance + control_noise(product(ahead.moved[..., :n, :n], F[..., n:-1]), acting.covariance)
    prior_mean, prior_covariance = jnp.asarray(problem.initial_mean), jnp.asarray(problem.initial_covariance)
    tilted = certainty_equivalent(P[0], p[0], prior_covariance, risk)[0]
    covariance = prior_covariance - risk * prior_covariance @ tilted @ prior_covariance
    mean = prior_mean - risk * covariance @ (P[0] @ prior_mean + p[0])
    means, covariances = propagate(closed, noise, None, acting, mean, covariance, problem.horizon)
    return SmoothedTrajectory(means, covariances, *controls_of(acting, means[:-1], covariances[:-1]))
