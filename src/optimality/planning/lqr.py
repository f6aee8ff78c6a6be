"""The linear-quadratic regulator: the controls of least expected cost.

    u_t = K_t x_t + k_t,     cost-to-go J_t(x) = 1/2 x'P_t x + p_t'x + s_t

by the Riccati equation (Kalman 1960; Bertsekas 2017, section 3.1). Exactly optimal at every horizon, however short;
only the stationary gain is not optimal over a finite one. Additive noise changes the cost, not the gains; noise that
depends on state and control changes both. A finite horizon needs `Q_uu` positive definite and no more; without an end
the system must be stabilizable and every mode that does not decay must cost something; controllable it need not be.
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
from optimality.core.small_matrices import apply, cholesky, solve_cholesky
from optimality.core.solve import AbstractDirect, Solution
from optimality.planning.gaussian_risk import certainty_equivalent
from optimality.planning.mean_trajectory import mean_trajectory
from optimality.planning.quadratic_value import QuadraticValue
from optimality.planning.riccati import sweep
from optimality.planning.stationary_riccati import stationary
from optimality.policies.affine_gaussian import AffineGaussian
from optimality.problems.controllability import require_detectable, require_stabilizable
from optimality.problems.criterion import AverageReward, Discounted, FiniteHorizon
from optimality.problems.linear_quadratic import LinearQuadratic

_Tensor = Float[Array | np.ndarray, "..."]


class LQRDetails(eqx.Module):
    """Cost-to-go, in units of cost, and the mean trajectory. Arrays over time where there is a horizon, else the
    stationary ones, and None for what only the other case has."""

    P: _Tensor
    """`[T+1, n, n]` or `[n, n]`."""
    p: _Tensor
    """`[T+1, n]` or `[n]`."""
    s: _Tensor
    """`[T+1]` or `[]`; zero on average, where `average_cost` is the constant of each step."""
    Q_uu: _Tensor
    """Curvature of the cost in the control, `[T, m, m]` or `[m, m]`."""
    objective: _Tensor
    """What the method maximizes, from the first state's law, in reward units; on average that of a step."""
    states: _Tensor | None
    """`[T+1, n]`, from the mean of the first state under the mode of the policy and without noise."""
    controls: _Tensor | None
    """`[T, m]`."""
    costates: _Tensor | None
    """`P x + p`, `[T+1, n]`: derivatives of the cost-to-go, at current value (not discounted to the start)."""
    average_cost: _Tensor | None
    spectral_radius: _Tensor | None
    """Of the closed loop, with the root of the discount, in mean square where noise depends on the state."""
    residual: _Tensor | None
    """Error of the Riccati equation, relative to P."""


class LQR(AbstractDirect[LinearQuadratic]):
    """The controls of least expected cost: over a horizon, discounted or on average."""

    _: KW_ONLY
    tolerance: Real = 1e-14
    """Largest accepted change of P, relative to it, where there is no horizon; not below four roundings."""
    max_steps: int = eqx.field(static=True, default=10_000)
    """Bound on the iterations where there is no horizon; doubling takes about seven."""

    accepts: ClassVar[tuple[type, ...]] = (FiniteHorizon, Discounted, AverageReward)

    def check(self, problem: Any) -> None:
        require_linear_quadratic(self, problem, self.accepts)

    def compute(self, problem: LinearQuadratic, key=None) -> Solution:
        planned = plan_linear(problem, tolerance=self.tolerance, max_steps=self.max_steps)
        return planned.solution(AffineGaussian(planned.K, planned.k))

    def explain(self, problem: LinearQuadratic, solution: Solution) -> str:
        return explain_failure(solution)


class Planned(eqx.Module):
    """Gains with what comes beside them; the methods of this family differ in the policy they make of it."""

    K: Float[Array, "..."]
    k: Float[Array, "..."]
    details: LQRDetails
    result: Any
    stats: dict[str, Any]

    def solution(self, policy: AffineGaussian, details: Any = None) -> Solution:
        cost = self.details
        value = QuadraticValue(-cost.P, -cost.p, -cost.s)
        return Solution(value, policy, self.result, self.stats, cost if details is None else details)

    def covariance(self, temperature: Float[Array, ""]) -> Float[Array, "..."]:
        """`temperature Q_uu^-1`."""
        Q_uu = jnp.asarray(self.details.Q_uu)
        identity = jnp.broadcast_to(jnp.eye(Q_uu.shape[-1], dtype=Q_uu.dtype), Q_uu.shape)
        return temperature * solve_cholesky(cholesky(Q_uu), identity)


def plan_linear(
    problem: LinearQuadratic,
    *,
    temperature: Float[Array, ""] | None = None,
    risk: Float[Array, ""] | None = None,
    tolerance: Real = 1e-14,
    max_steps: int = 10_000,
) -> Planned:
    """Cost-to-go and gains with entropy worth `temperature` a nat, under `risk`; None for neither."""
    if problem.horizon is None:
        return _endless(problem, temperature, risk, tolerance, max_steps)
    swept = sweep(problem, temperature, risk)
    states, controls = mean_trajectory(problem, swept, risk)
    result, stats = _diagnosis(swept, problem.horizon)
    objective = _objective(problem, swept.P[0], swept.p[0], swept.s[0], risk)
    details = LQRDetails(
        P=swept.P,
        p=swept.p,
        s=swept.s,
        Q_uu=swept.Q_uu,
        objective=objective,
        states=states,
        controls=controls,
        costates=apply(swept.P, states) + swept.p,
        average_cost=None,
        spectral_radius=None,
        residual=None,
    )
    return Planned(swept.K, swept.k, details, result, stats)


def _endless(problem: LinearQuadratic, temperature, risk, tolerance, max_steps: int) -> Planned:
    dtype = jnp.asarray(problem.A).dtype
    least = jnp.maximum(jnp.asarray(tolerance, dtype), 4.0 * jnp.finfo(dtype).eps)
    found = stationary(problem, temperature, risk, least, max_steps)
    average = isinstance(problem.criterion, AverageReward)
    objective = -found.average_cost if average else _objective(problem, found.P, found.p, found.s, risk)
    details = LQRDetails(
        P=found.P,
        p=found.p,
        s=found.s,
        Q_uu=found.Q_uu,
        objective=objective,
        states=None,
        controls=None,
        costates=None,
        average_cost=found.average_cost if average else None,
        spectral_radius=found.spectral_radius,
        residual=found.residual,
    )
    return Planned(found.K, found.k, details, found.code, {"steps": found.steps, **_smallest(found.Q_uu)})


def _objective(problem: LinearQuadratic, P, p, s, risk) -> Float[Array, ""]:
    mean, covariance = jnp.asarray(problem.initial_mean), jnp.asarray(problem.initial_covariance)
    if risk is None:
        at_start = 0.5 * jnp.sum(P * covariance)
    else:
        P, p, at_start = certainty_equivalent(P, p, covariance, risk)
    return -(0.5 * mean @ P @ mean + p @ mean + s + at_start)


def _diagnosis(swept, horizon: int) -> tuple[Any, dict[str, Any]]:
    """The result, and the step at which a `Q_uu` was not positive definite, -1 if none was."""
    bad = jnp.isnan(jnp.sum(swept.K, axis=(-2, -1)) + jnp.sum(swept.k, axis=-1))
    step = jnp.max(jnp.where(bad, jnp.arange(horizon), -1))
    at = jnp.maximum(step, 0)
    finite_ahead = jnp.all(jnp.isfinite(swept.P[at + 1])) & jnp.all(jnp.isfinite(swept.p[at + 1]))
    code = jnp.where(finite_ahead, Result.NOT_POSITIVE_DEFINITE, Result.NON_FINITE)
    finite = jnp.all(jnp.isfinite(swept.P)) & jnp.all(jnp.isfinite(swept.s))
    code = jnp.where(step >= 0, code, jnp.where(finite, Result.CONVERGED, Result.NON_FINITE))
    stats = {"steps": jnp.asarray(horizon, jnp.int32), "indefinite_step": step.astype(jnp.int32)}
    return code.astype(jnp.int32), stats | _smallest(swept.Q_uu[at])


def _smallest(Q_uu) -> dict[str, Any]:
    still = jax.lax.stop_gradient(Q_uu)
    return {"smallest_eigenvalue": jnp.linalg.eigvalsh(still)[0]}


def explain_failure(solution: Solution) -> str:
    """Which step failed, for the error's text."""
    step, smallest = int(solution.stats.get("indefinite_step", -1)), float(solution.stats["smallest_eigenvalue"])
    if solution.result == Result.NOT_POSITIVE_DEFINITE and np.isnan(smallest):
        return (
            "The certainty equivalent of the cost-to-go is infinite: the risk is beyond the breakdown point, so take "
            "one nearer to zero, or less noise."
        )
    if solution.result == Result.NOT_POSITIVE_DEFINITE:
        where = f" at step {step}" if step >= 0 else ""
        return (
            f"Q_uu = R + B'PB has the eigenvalue {smallest:.3g}{where}, so the cost has no minimum over the controls "
            "there: make R larger, or Q and Qf convex."
        )
    radius = getattr(solution.details, "spectral_radius", None)
    if solution.result == Result.NOT_CONVERGED and radius is not None:
        return (
            f"The closed loop's spectral radius is {float(radius):.6g}, and it must be below 1: the cost is infinite "
            "without an end, in mean square too where noise depends on the state. Take a finite horizon or a discount."
        )
    return ""


_ACCEPTED = (FiniteHorizon, Discounted, AverageReward)


def require_linear_quadratic(method: Any, problem: Any, accepted: tuple[type, ...] = _ACCEPTED) -> None:
    """Raises `ValueError` unless the method can take the problem; without a horizon this includes that it has an
    answer. Warns where a mode that must be moved barely can be."""
    name = type(method).__name__
    if not isinstance(problem, LinearQuadratic):
        raise ValueError(f"{name} solves a LinearQuadratic problem, but a {type(problem).__name__} was given.")
    if not isinstance(problem.criterion, accepted):
        names = ", ".join(kind.__name__ for kind in accepted)
        raise ValueError(f"{name} takes the criteria {names}, but the problem has {type(problem.criterion).__name__}.")
    if problem.horizon is not None or is_traced(problem):
        return
    A, B, Q, R, N = (np.asarray(array) for array in (problem.A, problem.B, problem.Q, problem.R, problem.N))
    smallest = float(np.linalg.eigvalsh(R)[0])
    if smallest <= 1e-12 * max(float(np.abs(R).max()), np.finfo(float).tiny):
        raise ValueError(
            f"R must be positive definite without a horizon, but its smallest eigenvalue is {smallest:.3g}: every "
            "control must cost, or take FiniteHorizon(horizon)."
        )
    solved = np.linalg.solve(R, np.concatenate([N.T, B.T], axis=1))
    projected = Q - N @ solved[:, : A.shape[0]]
    projected = (projected + projected.T) / 2
    smallest = float(np.linalg.eigvalsh(projected)[0])
    if smallest < -1e-9 * max(float(np.abs(Q).max()), np.finfo(float).tiny):
        raise ValueError(
            f"the cost must be convex without a horizon, but Q - N R^-1 N' has the eigenvalue {smallest:.3g}: make Q "
            "larger or N smaller, or take FiniteHorizon(horizon)."
        )
    discount = float(np.asarray(problem.discount))
    require_stabilizable(A, B, discount)
    require_detectable(A - B @ solved[:, : A.shape[0]], projected, discount)


def require_plain_risk(method: Any, problem: Any) -> None:
    """`require_linear_quadratic`, and `ValueError` for what is not linear-quadratic under risk: a discount, or noise of
    changing size."""
    if isinstance(problem, LinearQuadratic) and isinstance(problem.criterion, Discounted):
        raise ValueError(
            f"{type(method).__name__} needs discount 1: a discount is a chance of ending, and the certainty equivalent "
            "of a quadratic that may end is not quadratic. Take FiniteHorizon(horizon) or AverageReward()."
        )
    require_linear_quadratic(method, problem, (FiniteHorizon, AverageReward))
    discount = problem.discount
    if not is_traced(discount) and float(np.asarray(discount)) != 1.0:
        raise ValueError(
            f"{type(method).__name__} needs discount 1, but {float(np.asarray(discount)):g} was given: a discount is a "
            "chance of ending, and the certainty equivalent of a quadratic that may end is not quadratic."
        )
    if problem.channels is not None:
        raise ValueError(
            f"{type(method).__name__} takes additive noise W only: under noise that depends on state or control the "
            "certainty equivalent is not quadratic."
        )
