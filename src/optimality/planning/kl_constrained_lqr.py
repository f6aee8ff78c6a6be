"""A step of linear-quadratic control that stays near an old policy (Levine and Abbeel 2014, with a known model).

    min_pi E sum_t d^t [cost_t - temperature H(pi)]   subject to   E sum_t d^t KL(pi(. | x_t) || old(. | x_t)) <= kl

States are those of the new policy. With a multiplier eta the minimum is maximum-entropy control of the cost
`cost - eta log old(u | x)` at temperature `eta + temperature`: another linear-quadratic problem. Eta is found by
bisection of its logarithm, as the divergence falls when eta grows; where the cost alone has no minimum, eta makes it
convex.
With temperature 0 the bound always binds, since LQR's policy is infinitely far from any with noise.
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
from optimality.core.small_matrices import apply, cholesky, log_determinant, product, solve_cholesky, solve_lower
from optimality.core.solve import AbstractDirect, Solution
from optimality.planning.lqr import LQRDetails, Planned, explain_failure, plan_linear, require_linear_quadratic
from optimality.planning.marginals import law, marginals, require_fitting
from optimality.policies.affine_gaussian import AffineGaussian
from optimality.problems.criterion import FiniteHorizon
from optimality.problems.linear_quadratic import LinearQuadratic


class NearPolicy(eqx.Module):
    """A linear-quadratic problem and the policy, with noise, to stay near: what `KLConstrainedLQR` solves."""

    problem: LinearQuadratic
    policy: AffineGaussian

    def __check_init__(self):
        require_fitting(self.problem, self.policy)
        if self.policy.covariance is None:
            raise ValueError(
                "the old policy has no noise, and every other policy is infinitely far from it: give it a covariance."
            )


class KLConstrainedLQRDetails(eqx.Module):
    """The cost-to-go of the penalized problem, the multiplier and the divergence reached, in nats."""

    control: LQRDetails
    multiplier: Float[Array | np.ndarray, ""]
    kl: Float[Array | np.ndarray, ""]
    expected_cost: Float[Array | np.ndarray, ""]
    """Of the new policy, without penalty and entropy."""


class KLConstrainedLQR(AbstractDirect[NearPolicy]):
    """The cheapest affine Gaussian policy within `kl` nats of the old one, over a finite horizon."""

    _: KW_ONLY
    kl: Real = 1.0
    """Bound on the divergence, summed (and discounted) over the trajectory."""
    temperature: Real = 0.0
    """What a nat of entropy is worth, in units of cost; keeps the noise from collapsing over repeated steps."""

    accepts: ClassVar[tuple[type, ...]] = (FiniteHorizon,)

    def __check_init__(self):
        if not is_traced(self.kl) and not 0.0 < float(np.asarray(self.kl)) < np.inf:
            raise ValueError(f"kl must be positive and finite, but {self.kl} was given.")
        if not is_traced(self.temperature) and not 0.0 <= float(np.asarray(self.temperature)) < np.inf:
            raise ValueError(f"temperature must be finite and at least 0, but {self.temperature} was given.")

    def check(self, problem: Any) -> None:
        if not isinstance(problem, NearPolicy):
            raise ValueError(
                f"KLConstrainedLQR solves NearPolicy(problem, old_policy), but a {type(problem).__name__} was given."
            )
        require_linear_quadratic(self, problem.problem, self.accepts)

    def compute(self, problem: NearPolicy, key=None) -> Solution:
        dtype = jnp.asarray(problem.problem.A).dtype
        bound, temperature = jnp.asarray(self.kl, dtype), jnp.asarray(self.temperature, dtype)

        def excess(log_multiplier):
            policy = penalized(problem, jnp.exp(log_multiplier), temperature)[0]
            divergence = path_kl(problem, policy)
            return jnp.log(jnp.where(jnp.isfinite(divergence), divergence, jnp.inf)) - jnp.log(bound)

        limit = 0.25 * float(np.log(float(jnp.finfo(dtype).max)))

        def bisect(function, _):
            def body(_, interval):
                low, high = interval
                middle = 0.5 * (low + high)
                far = function(middle) > 0.0
                return jnp.where(far, middle, low), jnp.where(far, high, middle)

            low, high = jax.lax.fori_loop(0, 70, body, (jnp.asarray(-limit, dtype), jnp.asarray(limit, dtype)))
            return 0.5 * (low + high)

        found = jax.lax.custom_root(
            excess, jnp.zeros((), dtype), bisect, lambda slope, y: y / slope(jnp.ones((), dtype))
        )
        free = excess(jnp.asarray(-limit, dtype)) <= 0.0
        multiplier = jnp.where(free, 0.0, jnp.exp(found))
        policy, planned = penalized(problem, multiplier, temperature)
        reached = path_kl(problem, policy)
        binds = jnp.where(free, int(Result.CONSTRAINT_INACTIVE), int(Result.CONVERGED))
        code = jnp.where(planned.result == Result.CONVERGED, binds, planned.result)
        off = jnp.abs(reached - bound) > 1e3 * jnp.finfo(dtype).eps ** 0.5 * bound
        code = jnp.where((code == Result.CONVERGED) & off, int(Result.NOT_CONVERGED), code).astype(jnp.int32)
        planned = eqx.tree_at(lambda p: p.result, planned, code)
        cost = marginals(problem.problem, policy).expected_cost
        return planned.solution(policy, KLConstrainedLQRDetails(planned.details, multiplier, reached, cost))

    def explain(self, problem: NearPolicy, solution: Solution) -> str:
        return explain_failure(solution)


def penalized(problem: NearPolicy, multiplier, temperature) -> tuple[AffineGaussian, Planned]:
    """The best policy for `cost - multiplier log old(u | x)` at temperature `multiplier + temperature`."""
    stage, horizon = problem.problem.arrays(), problem.problem.horizon
    old = law(problem.policy, jnp.asarray(stage.A).dtype)
    n, m = problem.problem.shape
    factor = cholesky(old.covariance)
    identity = jnp.broadcast_to(jnp.eye(m, dtype=factor.dtype), factor.shape)
    precision = multiplier * solve_cholesky(factor, identity)
    K, k = old.gains[..., :n], old.gains[..., n]
    to_state = product(jnp.swapaxes(K, -1, -2), precision)
    pulled = apply(precision, k)

    def plus(array, change):
        array = jnp.asarray(array)
        whole = (array if array.ndim == change.ndim else array[None]) + change
        return jnp.broadcast_to(whole, (horizon, *whole.shape[1:]))

    constant = 0.5 * jnp.sum(k * pulled, axis=-1) + 0.5 * multiplier * (
        m * float(np.log(2.0 * np.pi)) + log_determinant(factor)
    )
    new = eqx.tree_at(
        lambda p: (p.Q, p.R, p.N, p.q, p.r, p.s),
        problem.problem,
        (
            plus(stage.Q, product(to_state, K)),
            plus(stage.R, precision),
            plus(stage.N, -to_state),
            plus(stage.q, apply(to_state, k)),
            plus(stage.r, -pulled),
            plus(stage.s, constant),
        ),
    )
    planned = plan_linear(new, temperature=multiplier + temperature)
    return AffineGaussian(planned.K, planned.k, planned.covariance(multiplier + temperature)), planned


def path_kl(problem: NearPolicy, policy: AffineGaussian) -> Float[Array, ""]:
    """`E sum_t discount^t KL(policy(. | x_t) || old(. | x_t))` in nats, over the states of `policy`."""
    reached = marginals(problem.problem, policy)
    dtype = jnp.asarray(reached.mean).dtype
    new, old = law(policy, dtype), law(problem.policy, dtype)
    n, m = problem.problem.shape
    new_factor, old_factor = cholesky(new.covariance), cholesky(old.covariance)
    time = jnp.asarray(reached.action_mean).shape[0]

    def whitened(x):
        return solve_lower(jnp.broadcast_to(old_factor, (time, m, m)), jnp.broadcast_to(x, (time, *x.shape[1:])))

    ratio = whitened(new_factor)
    gap = whitened(new.gains - old.gains)
    mean, covariance = jnp.asarray(reached.mean)[:-1], jnp.asarray(reached.covariance)[:-1]
    offset = apply(gap[..., :n], mean) + gap[..., n]
    spread = jnp.sum(product(gap[..., :n], covariance) * gap[..., :n], axis=(-2, -1))
    squares = jnp.sum(ratio * ratio, axis=(-2, -1)) - m + jnp.sum(offset * offset, axis=-1) + spread
    each = 0.5 * (squares + log_determinant(old_factor) - log_determinant(new_factor))
    discount = jnp.asarray(problem.problem.discount, dtype) ** jnp.arange(time, dtype=dtype)
    return jnp.sum(discount * each)
