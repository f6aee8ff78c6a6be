"""Relative entropy policy search with a known model (Peters, Muelling and Altun 2010): the best policy within a bound
on the information lost, again and again.

    max_p  sum p(s, a) r(s, a)        subject to  sum_a p(s', a) = sum p(s, a) P'(s' | s, a),   sum p = 1,
                                                  KL(p || q) <= epsilon,    q(s, a) = mu_pi(s) pi(a | s)
    p = q exp(delta / eta) / Z,       delta = r + E' V(s') - V(s),       pi_new(a | s) = p(s, a) / sum_b p(s, b)

`mu_pi` is the stationary law of the process `P'` under the policy (`stationary_process`: the problem's own for
average reward, with restarts from the initial law where it is discounted). `(eta, V)` are the multipliers of bound
and stationarity, the minimum of the dual `eta epsilon + eta log E_q exp(delta / eta)`, whose value is the reward of
the new policy. The constraints of all states but one are kept: V is determined up to a constant, which cancels.

States that lose all their mass keep their policy. `q` satisfies the constraints, so that the reward never falls. Once
the best policy of all is within the bound, the temperature is zero and the search has ended: after finitely many
iterations, fewer than ten at an epsilon near one.
"""

from dataclasses import KW_ONLY
from typing import Any, ClassVar, Literal, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from optimality.core.numerics import Real, is_traced
from optimality.core.result import Result
from optimality.core.solve import RUNNING, AbstractDirect, Solution
from optimality.planning.backups import action_values, require_criterion
from optimality.planning.policy_evaluation import PolicyEvaluation, UnderPolicy
from optimality.planning.policy_iteration import evaluate_exactly
from optimality.planning.reps_step import expected_reward, extended, project, require_endless, stationary_mass
from optimality.planning.stationary_process import AfterTermination, Process, as_process, require_recurrent
from optimality.policies.tabular import TabularPolicy
from optimality.problems.criterion import AverageReward, Discounted
from optimality.problems.tabular import TabularMDP


class ExactREPSDetails(eqx.Module):
    """The course of the search, iterations after the last as NaN, and its last projection.

    `expected_reward [iterations + 1]` is each policy's reward per step under its own stationary law, from the first
    policy on; `temperature`, `kl` and `dual` `[iterations]` belong to the projections. `log_p [S, A]` and `v [S]` are
    the last solution and its value weights, 0 in the last state. `upper_bound` is `max (r + E' V - V)`, the least of
    all iterations: no policy within the first one's support has a larger reward per step. `q` are the action values
    of the solution's policy and value, and `gain` its reward per step (of the discounted occupancy, normalized, where
    the problem is discounted).
    """

    expected_reward: Float[Array, " policies"]
    temperature: Float[Array, " iterations"]
    kl: Float[Array, " iterations"]
    dual: Float[Array, " iterations"]
    upper_bound: Float[Array, ""]
    log_p: Float[Array, "states actions"]
    v: Float[Array, " states"]
    q: Float[Array, "states actions"]
    gain: Float[Array, ""]


class ExactREPS(AbstractDirect[TabularMDP]):
    """REPS on a table, every expectation exact; average reward, or discounted with restarts from the initial law.

    For average reward every state must be recurrent under the first policy: what it never visits is never improved.
    Where transitions of a discounted problem terminate, `after_termination` says what follows. `wait` maximizes the
    criterion; with `restart` the objective is reward per step of a process that starts again at once, as in learning
    from episodes, and a policy may gain by ending early.
    """

    _: KW_ONLY
    epsilon: Real = 0.5
    """Bound on the information lost in an iteration, `KL(p || q)` over states and actions, in nats."""
    prior: Literal["uniform", "problem"] = eqx.field(static=True, default="uniform")
    """The first policy: uniform over the allowed actions, or the problem's own."""
    after_termination: AfterTermination = eqx.field(static=True, default="wait")
    """`restart`: again from the initial law, at once. `wait`: no reward until the discount's chance of a restart."""
    iterations: int = eqx.field(static=True, default=1_000)
    """Bound on the iterations."""
    tolerance: Real = 1e-9
    """The search ends where no bound holds it back and the reward per step grows by less, or has come as near to its
    upper bound; relative to the rewards' range."""

    accepts: ClassVar[tuple[type, ...]] = (AverageReward, Discounted)

    def __check_init__(self):
        if not is_traced(self.epsilon) and not 0.0 < float(jnp.asarray(self.epsilon)) < np.inf:
            raise ValueError(
                f"epsilon must be positive and finite, but {self.epsilon} was given: it bounds the information lost in "
                "an iteration, in nats; 0.1 is careful, 1 is bold."
            )
        if not isinstance(self.iterations, int) or self.iterations < 1:
            raise ValueError(f"iterations must be a whole number, at least 1, but {self.iterations!r} was given.")

    def check(self, problem: Any) -> None:
        if isinstance(problem, TabularMDP):
            require_endless(problem)
        require_criterion(self, problem, self.accepts)
        if self.prior not in ("uniform", "problem"):
            raise ValueError(f"prior must be 'uniform' or 'problem', but {self.prior!r} was given.")
        if self.after_termination not in ("restart", "wait"):
            raise ValueError(
                f"after_termination must be 'restart' or 'wait', but {self.after_termination!r} was given."
            )
        problem.require_prior(self.prior)
        if isinstance(problem.criterion, AverageReward) and not is_traced(problem):
            prior = np.exp(np.asarray(problem.log_prior)) if self.prior == "problem" else np.ones(problem.shape)
            require_recurrent(problem, np.asarray(problem.allowed) & (prior > 0.0))

    def compute(self, problem: TabularMDP, key=None) -> Solution:
        states, _ = problem.shape
        process = as_process(problem, self.after_termination)
        log_first = extended(problem.log_base(self.prior), process)
        end = _search(process, log_first, self.epsilon, self.tolerance, self.iterations)
        log_policy = end.log_policy[:states]
        code = end.code
        if isinstance(problem.criterion, AverageReward):
            evaluated = PolicyEvaluation().compute(UnderPolicy(problem, TabularPolicy(log_policy)))
            value, several = evaluated.value, evaluated.result == Result.MULTICHAIN
            code = jnp.where(several & (code == Result.CONVERGED), Result.MULTICHAIN, code).astype(jnp.int32)
        else:
            value = evaluate_exactly(problem, jnp.exp(log_policy))
        details = ExactREPSDetails(
            expected_reward=end.course[0],
            temperature=end.course[1][:-1],
            kl=end.course[2][:-1],
            dual=end.course[3][:-1],
            upper_bound=end.upper_bound,
            log_p=end.log_p[:states],
            v=end.v[:states],
            q=action_values(problem, value, 0.0).T,
            gain=end.gain,
        )
        return Solution(value, TabularPolicy(log_policy), code, {"steps": end.steps}, details)

    def explain(self, problem: Any, solution: Solution) -> str:
        if solution.result is not Result.ITERATION_LIMIT:
            return ""
        steps, details = int(solution.stats["steps"]), solution.details
        return (
            f"After {steps} iterations the reward per step is {float(details.gain):.6g}, and at most "
            f"{float(details.upper_bound):.6g} is possible: raise iterations or epsilon, or take what was reached with "
            "throw=False."
        )


class _Loop(NamedTuple):
    log_policy: Float[Array, "states actions"]
    mass: Float[Array, " states"]
    gain: Float[Array, ""]
    upper_bound: Float[Array, ""]
    log_p: Float[Array, "states actions"]
    v: Float[Array, " states"]
    course: Float[Array, "4 policies"]
    steps: Array
    code: Array


def _search(process: Process, log_first, epsilon, tolerance, iterations: int) -> _Loop:
    dtype = process.reward.dtype
    possible = ~jnp.isneginf(log_first)
    high = jnp.max(jnp.where(possible, process.reward, -jnp.inf))
    low = jnp.min(jnp.where(possible, process.reward, jnp.inf))
    rounding = 64 * jnp.finfo(dtype).eps * jnp.maximum(jnp.abs(high), jnp.abs(low))
    near = jnp.asarray(tolerance, dtype) * (high - low) + rounding
    states = log_first.shape[0]
    features = jnp.eye(states, dtype=dtype)[:, :-1]

    def body(loop: _Loop) -> _Loop:
        projection, log_p, log_policy, bound = project(
            process, loop.log_policy, loop.mass, features, possible, epsilon=epsilon
        )
        best = (projection.result == Result.COLLAPSED) | (projection.result == Result.CONSTRAINT_INACTIVE)
        mass = stationary_mass(process, log_policy)
        gain = expected_reward(process, log_policy, mass)
        better = (gain > loop.gain) & (projection.kl <= 1.001 * epsilon)  # exactly so, whatever the weights are
        accepted = best | (projection.result == Result.CONVERGED) | better
        log_policy, mass, gain = jax.tree.map(
            lambda new, old: jnp.where(accepted, new, old),
            (log_policy, mass, gain),
            (loop.log_policy, loop.mass, loop.gain),
        )
        upper_bound = jnp.where(bound < loop.upper_bound, bound, loop.upper_bound)
        steps = loop.steps + 1
        code = jnp.where(steps >= iterations, Result.ITERATION_LIMIT, RUNNING)
        code = jnp.where(accepted, code, projection.result)
        ended = (best & (gain - loop.gain <= near)) | (upper_bound - gain <= near)
        code = jnp.where(ended, Result.CONVERGED, code).astype(jnp.int32)
        # The infimum of the dual, at the best face.
        temperature = jnp.where(best, 0.0, jnp.asarray(projection.temperature))
        dual = jnp.where(best, jnp.asarray(projection.value), jnp.asarray(projection.dual))
        projected = jnp.stack([temperature, jnp.asarray(projection.kl), dual])
        course = loop.course.at[0, steps].set(gain).at[1:, loop.steps].set(projected)
        v = jnp.concatenate([projection.multipliers, jnp.zeros(1, dtype)])
        return _Loop(log_policy, mass, gain, upper_bound, log_p, v, course, steps, code)

    mass = stationary_mass(process, log_first)
    gain = expected_reward(process, log_first, mass)
    course = jnp.full((4, iterations + 1), jnp.nan, dtype).at[0, 0].set(gain)
    start = _Loop(
        log_first,
        mass,
        gain,
        high,
        jnp.full_like(log_first, -jnp.inf),
        jnp.zeros(states, dtype),
        course,
        jnp.asarray(0, jnp.int32),
        jnp.asarray(RUNNING, jnp.int32),
    )
    return jax.lax.while_loop(lambda loop: loop.code == RUNNING, body, start)
