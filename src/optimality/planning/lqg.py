"""The linear-quadratic-Gaussian regulator: the best control of a state that is seen through a noisy observation.

Estimate and control separate: the gains `K, k` are those of full observation, the estimate is the Kalman filter's,
and what is not seen costs extra, with S_t the filter's covariance after the observation of time t,

    u_t = K_t E[x_t | y_0 .. y_t] + k_t
    expected cost = E V_0(x_0) + sum_t discount^t 1/2 tr(K_t' Q_uu,t K_t S_t)

(Anderson and Moore 1989, chapter 8; Bertsekas 2017, section 4.2.) It takes linear dynamics, Gaussian noise and a
quadratic cost; elsewhere acting on the estimate may be far from optimal, because it never acts in order to learn.

Over a finite horizon no system is too unstable or too hidden, though costs may be large. Without an end, unstable modes
must be moved by the controls, and on average also seen: `(A, B)` stabilizable, `(A, C)` detectable.
"""

from dataclasses import KW_ONLY
from typing import Any, ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from optimality.core.numerics import Real, at_precision, is_traced
from optimality.core.result import Result
from optimality.core.small_matrices import apply, product, transposed_product
from optimality.core.solve import AbstractDirect, Solution
from optimality.planning.kalman_filter import FilterCovariances, filter_covariances, require_normal
from optimality.planning.lqr import explain_failure, plan_linear, require_linear_quadratic
from optimality.planning.quadratic_value import QuadraticValue
from optimality.policies.affine_gaussian import AffineGaussian
from optimality.policies.lqg_policy import LQGPolicy
from optimality.problems.controllability import observability
from optimality.problems.criterion import AverageReward, Discounted, FiniteHorizon
from optimality.problems.linear_quadratic import LinearQuadratic
from optimality.problems.partially_observed import PartiallyObserved

_Tensor = Float[Array | np.ndarray, "..."]


class LQGDetails(eqx.Module):
    """Arrays have `T+1` or, of controls, `T` entries over a finite horizon.

    `P, p, s` are the cost-to-go of full observation and `Q_uu` its curvature in the control; `predicted_covariances`,
    `filtered_covariances` and `gains` those of the Kalman filter, on average the stationary ones. `expected_cost` is
    `full_information_cost + price`, the last being what it costs not to see the state; on average all three are
    per step.
    """

    P: _Tensor
    p: _Tensor
    s: _Tensor
    Q_uu: _Tensor
    predicted_covariances: _Tensor
    filtered_covariances: _Tensor
    gains: _Tensor
    expected_cost: _Tensor
    full_information_cost: _Tensor
    price: _Tensor


class LQG(AbstractDirect[PartiallyObserved]):
    """Regulator gains on the Kalman estimate, optimal for linear dynamics, Gaussian noise and quadratic cost.

    `solution.value` is that of the estimate: `value(m, t)` is minus the expected cost from time t on, when the state is
    estimated as m from the observations up to t.
    """

    _: KW_ONLY
    tolerance: Real = 1e-14
    """Largest accepted change of a Riccati solution, relative to it, where there is no horizon."""
    max_steps: int = eqx.field(static=True, default=10_000)
    """Bound on the iterations where there is no horizon; doubling takes about seven."""
    filter_steps: int = eqx.field(static=True, default=1000)
    """Discounted without a horizon: for how many steps the filter's gains are listed; then the last is kept."""

    accepts: ClassVar[tuple[type, ...]] = (FiniteHorizon, Discounted, AverageReward)

    def check(self, problem: Any) -> None:
        if not isinstance(problem, PartiallyObserved) or not isinstance(problem.problem, LinearQuadratic):
            given = type(getattr(problem, "problem", problem)).__name__
            raise ValueError(
                f"LQG solves PartiallyObserved(LinearQuadratic, LinearObservation), but a {given} was given; a problem "
                f"whose state is seen has LQR."
            )
        require_linear_quadratic(self, problem.problem, self.accepts)
        require_normal(problem.problem)
        if isinstance(problem.problem.criterion, AverageReward) and not is_traced(problem):
            seen: Any = problem.observation
            report = observability(problem.problem.A, seen.C)
            if not report.detectable:
                raise ValueError(report.message)

    def compute(self, problem: PartiallyObserved, key=None) -> Solution:
        process = problem.problem
        assert isinstance(process, LinearQuadratic)
        control = plan_linear(process, tolerance=self.tolerance, max_steps=self.max_steps)
        if isinstance(process.criterion, AverageReward):
            known, code = self._stationary_filter(problem, process)
            price = _price(control.K, control.details.Q_uu, known.filtered)
            return _solution(problem, control, known, price, jnp.zeros_like(price), code)
        steps = self.filter_steps if process.horizon is None else process.horizon + 1
        known = filter_covariances(problem, steps)
        discount = jnp.asarray(process.discount, known.filtered.dtype)
        if process.horizon is not None:
            prices = _price(control.K, control.details.Q_uu, known.filtered[:-1])

            def add(later, price):
                now = price + discount * later
                return now, now

            last = jnp.zeros((), prices.dtype)
            _, to_come = jax.lax.scan(add, last, prices, reverse=True)
            code = jnp.where(jnp.all(jnp.isfinite(known.filtered)), Result.CONVERGED, Result.NON_FINITE)
            return _solution(problem, control, known, to_come[0], jnp.append(to_come, last), code)
        prices = _price(control.K, control.details.Q_uu, known.filtered)
        rest = discount**steps / (1.0 - discount)
        price = jnp.sum(discount ** jnp.arange(steps, dtype=prices.dtype) * prices) + rest * prices[-1]
        # What lies behind the last step is known where prices have settled or hardly count.
        unsure = jnp.abs(prices[-1] - prices[-2]) * rest / (1.0 - discount)
        code = jnp.where(unsure <= 1e-6 * jnp.abs(price), Result.CONVERGED, Result.ITERATION_LIMIT)
        code = jnp.where(jnp.isfinite(price), code, Result.NON_FINITE)
        return _solution(problem, control, known, price, prices[-1] / (1.0 - discount), code)

    def explain(self, problem: PartiallyObserved, solution: Solution) -> str:
        if solution.result == Result.ITERATION_LIMIT and isinstance(problem.problem.criterion, Discounted):
            return f"The price of not seeing has not settled after {self.filter_steps} steps: raise filter_steps."
        return explain_failure(solution)

    def _stationary_filter(self, problem, process) -> tuple[FilterCovariances, Array]:
        """The filter's limit, by the Riccati equation of its dual."""
        C = jnp.asarray(problem.observation.stage(0).C)
        A, W, V = jnp.asarray(process.A), jnp.asarray(process.W), jnp.asarray(problem.observation.V)
        dual = LinearQuadratic(A.T, C.T, W, V, criterion=AverageReward())
        found = plan_linear(dual, tolerance=self.tolerance, max_steps=self.max_steps)
        settled = eqx.tree_at(lambda o: o.problem.initial_covariance, problem, found.details.P)
        return jax.tree.map(lambda x: x[0], filter_covariances(settled, 1)), found.result


def lqg_cost(
    problem: PartiallyObserved, controller: AffineGaussian, gains: Any, *, dtype: Any = np.float64
) -> Float[Array | np.ndarray, ""]:
    """Expected cost of `u = K m + k` on the estimate m of a filter, for any gains of both; finite horizons.

    The law of state and estimate together is carried forward, nothing is assumed of either gain: at those of `LQG` the
    derivatives of the cost in all of them vanish.

    Args:
        problem: a partially observed linear-quadratic problem.
        controller: `K [T, m, n]` and `k [T, m]`, or constant ones; without noise of its own.
        gains: of the filter's updates, `[T+1, n, p]`, or `[n, p]`; the last one meets no control.
        dtype: precision of a concrete computation.
    """
    LQG().check(problem)
    process: Any = problem.problem
    if process.horizon is None:
        raise ValueError(f"lqg_cost adds the costs of a finite horizon, but the criterion is {process.criterion}.")
    if controller.covariance is not None:
        raise ValueError("the controller draws its controls, but lqg_cost is for u = K m + k: leave covariance out.")
    gains = gains if is_traced(gains) else np.asarray(gains, np.float64)
    n, p = process.shape[0], problem.observation.shape[0]
    if gains.shape not in ((n, p), (process.horizon + 1, n, p)):
        raise ValueError(f"gains have shape {gains.shape}, but need {(process.horizon + 1, n, p)} or {(n, p)}.")
    return at_precision(_cost, problem, controller, gains, dtype=dtype)


@jax.jit
def _cost(problem, controller, gains):
    process, observation = problem.problem, problem.observation
    n, horizon = process.shape[0], process.horizon
    unit = jnp.eye(n, dtype=gains.dtype)
    discount = jnp.asarray(process.discount, gains.dtype)

    def step(law, t):
        (mean, joint), stage = law, jax.tree.map(jnp.asarray, process.stage(t))
        C, V = map(jnp.asarray, observation.stage(t))
        K, k, _ = jax.tree.map(jnp.asarray, controller.at(t))
        L = gains if gains.ndim == 2 else gains[t]
        zero = jnp.zeros_like(unit)
        see = jnp.block([[unit, zero], [product(L, C), unit - product(L, C)]])
        joint = product(product(see, joint), see.T).at[n:, n:].add(product(product(L, V), L.T))
        act = jnp.concatenate([jnp.zeros_like(K), K], axis=1)
        both, estimate = jnp.concatenate([jnp.eye(2 * n, dtype=gains.dtype)[:n], act]), mean[1]
        spread, control = product(product(both, joint), both.T), apply(K, estimate) + k
        centre = jnp.concatenate([mean[0], control])
        form = jnp.block([[stage.Q, stage.N], [stage.N.T, stage.R]])
        slope = jnp.concatenate([stage.q, stage.r])
        cost = 0.5 * (jnp.sum(form * spread) + centre @ form @ centre) + slope @ centre + stage.s
        move = jnp.block([[stage.A, product(stage.B, K)], [zero, stage.A + product(stage.B, K)]])
        joint = product(product(move, joint), move.T).at[:n, :n].add(stage.W)
        drift = apply(stage.B, control) + stage.c
        return (mean @ stage.A.T + drift[None], joint), discount ** t.astype(cost.dtype) * cost

    first = jnp.asarray(process.initial_mean)
    joint = jnp.zeros((2 * n, 2 * n), gains.dtype).at[:n, :n].set(jnp.asarray(process.initial_covariance))
    (mean, joint), costs = jax.lax.scan(step, (jnp.stack([first, first]), joint), jnp.arange(horizon))
    end = 0.5 * jnp.sum(jnp.asarray(process.Qf) * joint[:n, :n]) + process.terminal_cost(mean[0])
    return jnp.sum(costs) + discount**horizon * end


def _price(K: Any, Q_uu: Any, covariance: Any) -> Float[Array, "..."]:
    """What the error of the estimate costs at each step, `1/2 tr(K'Q_uu K S)`."""
    form = transposed_product(K, product(Q_uu, K))
    return 0.5 * jnp.sum(jnp.broadcast_to(form, covariance.shape) * covariance, axis=(-2, -1))


def _solution(problem, control, known: FilterCovariances, price, to_come, code) -> Solution:
    """`to_come` is the price from each time on, or from any time on."""
    cost = control.details
    filtered = known.filtered if known.filtered.ndim == cost.P.ndim else known.filtered[-1]
    constant = cost.s + to_come + 0.5 * jnp.sum(cost.P * filtered, axis=(-2, -1))
    details = LQGDetails(
        cost.P,
        cost.p,
        cost.s,
        cost.Q_uu,
        known.predicted,
        known.filtered,
        known.gains,
        price - cost.objective,
        -cost.objective,
        price,
    )
    policy = LQGPolicy(problem, AffineGaussian(control.K, control.k), known.gains)
    value = QuadraticValue(-cost.P, -cost.p, -constant)
    code = jnp.where(control.result == Result.CONVERGED, code, control.result)
    return Solution(value, policy, code.astype(jnp.int32), control.stats, details)
