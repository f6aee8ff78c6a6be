"""The log-partition function of behavior: its derivatives in the reward are what the behavior visits.

    causal       log Z(s) = V_0(s) / tau,    V_t(s) = tau log sum_a b(a|s) exp((r(s, a) + E V_{t+1}(s')) / tau)
    trajectory   log Z(s) = log sum over trajectories from s of  prod b(a|s) p(s'|s, a) exp(r / tau)

    tau d (p_0 . log Z) / d r(s, a) = sum_t discount^t P(s_t = s, a_t = a)

of the policy `b exp((Q_t - V_t) / tau)` started from `p_0` (Ziebart, Bagnell and Dey 2010), in the second form under
the posterior dynamics too (Ziebart et al. 2008; the expert that it describes also chooses its luck). The two agree
where nothing is random, else the second is larger (Jensen). Everything that a maximum-entropy inverse method needs is a
derivative of this one function; horizon and discount enter here and nowhere else. `model_visits` is the forward pass
written out, which hands the visits back and checks the derivative.
"""

from functools import partial
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from optimality.core.numerics import Real, at_precision, is_traced
from optimality.core.result import Result
from optimality.planning.backups import Plan, Sweep, action_values, occupancies, plan, stationary, terminal_values
from optimality.problems.criterion import AverageReward, FiniteHorizon
from optimality.problems.tabular import Prior, TabularMDP

LARGEST_KEPT = 4_000_000
"""Numbers `H S A` that the backward pass keeps for its derivative; beyond them each step is computed once more."""


class ListedVisits(eqx.Module):
    """Weighted visits of each step (one row without a horizon), padded with weight 0."""

    state: Int[Array | np.ndarray, "time entries"]
    action: Int[Array | np.ndarray, "time entries"]
    weight: Float[Array | np.ndarray, "time entries"]


Visits = ListedVisits | Float[Array | np.ndarray, "time states actions"]


class Backward(NamedTuple):
    """`log_partition [S]`; `log_likelihood`, the sum of `weight log pi_t(a | s)` over the visits that were given;
    `value`, of the first step; and how a fixed point was reached."""

    log_partition: Float[Array, " states"]
    log_likelihood: Float[Array, ""]
    value: Float[Array, " states"]
    code: Int[Array, ""]


def log_partition(
    problem: TabularMDP,
    temperature: Real = 1.0,
    *,
    causal: bool = True,
    prior: Prior = "none",
    tolerance: Real = 1e-12,
    max_steps: int = 200_000,
    dtype: Any = np.float64,
) -> Float[Array | np.ndarray, " states"]:
    """`log Z(s)` of each first state; differentiable in the problem's numbers and the temperature, to second order.

    Args:
        problem: with any criterion but the average reward.
        temperature: `tau`, above zero.
        causal: the expert does not choose the outcomes of its actions. False: the trajectory form, in which a discount
            is a chance of ending.
        prior: the base measure `b`.
        tolerance: largest accepted change of a value in the last sweep, where a fixed point is sought.
        max_steps: bound on the sweeps, where a fixed point is sought.
        dtype: precision of concrete arguments.

    Returns:
        `[S]`; infinite where the sum over behavior diverges, which only `UntilTermination` allows.

    Raises:
        ValueError: average reward, a prior that the problem has not, or a temperature that is not positive.
    """
    require_partition(problem, temperature, prior)
    return at_precision(
        partial(_log_partition, causal=causal, prior=prior, max_steps=max_steps),
        problem,
        temperature,
        tolerance,
        dtype=dtype,
    )


@partial(jax.jit, static_argnames=("causal", "prior", "max_steps"))
def _log_partition(problem, temperature, tolerance, *, causal, prior, max_steps):
    return backward_pass(problem, temperature, causal, prior, tolerance, max_steps).log_partition


def require_partition(problem: Any, temperature: Real, prior: str) -> None:
    """Raises `ValueError` where there is no log-partition function."""
    if not isinstance(problem, TabularMDP):
        raise ValueError(f"a TabularMDP is needed, but a {type(problem).__name__} was given.")
    if isinstance(problem.criterion, AverageReward):
        raise ValueError(
            "AverageReward has no log-partition function of a first state: use FiniteHorizon, Discounted or "
            "UntilTermination."
        )
    problem.require_prior(prior)
    if not is_traced(temperature) and not 0.0 < float(np.asarray(temperature)) < np.inf:
        raise ValueError(f"temperature must be positive and finite, but {temperature} was given.")


def backward_pass(
    problem: TabularMDP,
    temperature: Real,
    causal: bool,
    prior: Prior,
    tolerance: Real,
    max_steps: int,
    *,
    visits: Visits | None = None,
    guess: Float[Array, " states"] | None = None,
) -> Backward:
    """Traceable. Nothing of size `[H, S, A]` is computed but what the derivative keeps."""
    log_base = problem.log_base(prior).T
    temperature = jnp.asarray(temperature, log_base.dtype)
    sweep = Sweep(log_base, temperature, 0.0 if causal else 1.0 / temperature)
    if isinstance(problem.criterion, FiniteHorizon):
        return _backward(problem, sweep, visits)
    planned = stationary(problem, sweep, tolerance, max_steps, guess)
    value = jnp.where(planned.result == Result.CONVERGED, planned.value, jnp.inf)
    likelihood = jnp.zeros((), value.dtype)
    if visits is not None:
        at = jax.tree.map(lambda leaf: jnp.asarray(leaf)[0], visits)
        likelihood = _log_likelihood(at, planned.q.T, planned.value, sweep)
        likelihood = jnp.where(planned.result == Result.CONVERGED, likelihood, -jnp.inf)
    return Backward(value / temperature, likelihood, planned.value, planned.result)


def _backward(problem: TabularMDP, sweep: Sweep, visits: Visits | None) -> Backward:
    assert isinstance(problem.criterion, FiniteHorizon)
    horizon, (states, actions) = problem.criterion.horizon, problem.shape
    last = terminal_values(problem)

    def step(values, at):
        q = action_values(problem, values, sweep.risk)
        new = _warm_maximum(q, sweep)
        return new, None if at is None else _log_likelihood(at, q, new, sweep)

    if horizon * states * actions > LARGEST_KEPT:
        step = jax.checkpoint(step)
    in_time = None if visits is None else jax.tree.map(jnp.asarray, visits)
    value, terms = jax.lax.scan(step, last, in_time, length=horizon, reverse=True)
    code = jnp.where(jnp.all(jnp.isfinite(value)), Result.CONVERGED, Result.NON_FINITE).astype(jnp.int32)
    likelihood = jnp.zeros((), value.dtype) if terms is None else jnp.sum(terms)
    return Backward(value / jnp.asarray(sweep.temperature), likelihood, value, code)


def _warm_maximum(q: Float[Array, "actions states"], sweep: Sweep) -> Float[Array, " states"]:
    """`soft_maximum` over actions at a temperature above zero and finite: without its limits it is one fused pass."""
    temperature = jnp.asarray(sweep.temperature)
    top = jax.lax.stop_gradient(jnp.max(jnp.where(jnp.isneginf(sweep.log_base), -jnp.inf, q), axis=0))
    weights = jnp.exp((q - top[None]) / temperature + sweep.log_base)
    return top + temperature * jnp.log(jnp.sum(weights, axis=0))


def _log_likelihood(visits, q, value, sweep: Sweep) -> Float[Array, ""]:
    """`sum weight (log b + (Q - V) / tau)` of one step."""
    if isinstance(visits, ListedVisits):
        state, action, weight = visits.state, visits.action, visits.weight
        log_policy = sweep.log_base[action, state] + (q[action, state] - value[state]) / sweep.temperature
        return jnp.sum(jnp.where(weight > 0.0, weight * log_policy, 0.0))
    weight = visits.T
    log_policy = sweep.log_base + (q - value[None]) / sweep.temperature
    return jnp.sum(jnp.where(weight > 0.0, weight * log_policy, 0.0))


def model_visits(
    problem: TabularMDP,
    temperature: Real,
    initial: Float[Array, " states"],
    causal: bool,
    prior: Prior,
    tolerance: Real,
    max_steps: int,
) -> tuple[Plan, Float[Array, "..."], Float[Array, " states"], Int[Array, ""]]:
    """The forward pass: the plan, expected visits `[H, S, A]` (or `[S, A]`), the mass left at the horizon, and how it
    ended. In the trajectory form the visits are those under the posterior dynamics. Traceable."""
    log_base = problem.log_base(prior).T
    temperature = jnp.asarray(temperature, log_base.dtype)
    risk = 0.0 if causal else 1.0 / temperature
    planned = plan(problem, Sweep(log_base, temperature, risk), tolerance, max_steps)
    pairs, last, code = occupancies(
        problem,
        jnp.exp(planned.log_policy),
        initial,
        values=None if causal else planned.value,
        risk=risk,
        tolerance=tolerance,
        max_steps=max_steps,
    )
    return planned, pairs, last, jnp.maximum(planned.result, code)
