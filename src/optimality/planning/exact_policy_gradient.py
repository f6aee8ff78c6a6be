"""Ascent along the exact policy gradient of a table (`softmax_gradient`), natural or plain.

    w <- w + step A(w)                  natural
    w <- w + step d(s) pi(a | s) A      plain

A natural step of length `1 / tau` is soft policy iteration, `pi' = b exp(Q / tau) / Z`; without entropy a long one is
policy iteration. The gain of a step is computed without the difference of two nearly equal returns (Kakade and Langford
2002), so that the search for its length is right to the last digits:

    J(pi') - J(pi) = sum_s d'(s) [sum_a (pi'(a | s) - pi(a | s)) A(s, a) - tau KL(pi'(. | s) || pi(. | s))]
"""

from dataclasses import KW_ONLY
from typing import Any, ClassVar, Literal, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from optimality.core.gibbs import soft_maximum
from optimality.core.information import entropy
from optimality.core.numerics import Real, is_traced
from optimality.core.result import Result
from optimality.core.solve import RUNNING, AbstractDirect, Solution
from optimality.planning.backups import require_criterion
from optimality.planning.softmax_gradient import Evaluated, evaluate, gradient_at, normalized
from optimality.policies.tabular import TabularPolicy
from optimality.problems.criterion import Discounted, FiniteHorizon
from optimality.problems.tabular import Prior, TabularMDP

_SUFFICIENT = 0.25  # share of the first-order gain that a step must bring
_HALVINGS = 60


class ExactPolicyGradientDetails(eqx.Module):
    """The course of the ascent, iterations after the last as NaN, and where it ended.

    `objective`, `gradient_norm` (Euclidean, of the gradient in the logits) and `expected_entropy` (nats, summed over
    the visits) `[iterations + 1]` belong to the policies, from the first one on; `kl` and `step_size` `[iterations]` to
    the steps: `KL(new || old)` in nats, the mean over the visits of the new policy. `gradient`, `advantage` and `q` are
    those of the last policy. `optimality_gap` bounds what any policy could gain over it, by the Bellman residuals
    `sum_t discount^t max_s (tau log sum b exp(Q / tau) - V)` of the states that it visits.
    """

    objective: Float[Array, " policies"]
    gradient_norm: Float[Array, " policies"]
    expected_entropy: Float[Array, " policies"]
    kl: Float[Array, " iterations"]
    step_size: Float[Array, " iterations"]
    gradient: Float[Array, "..."]
    advantage: Float[Array, "..."]
    q: Float[Array, "..."]
    optimality_gap: Float[Array, ""]


class ExactPolicyGradient(AbstractDirect[TabularMDP]):
    """Gradient ascent on the logits of a table, every gradient exact, every step one that gains.

    With a finite horizon each step of time has its own table. It starts from the base measure: uniform over the allowed
    actions, or the problem's own. Each step's length is twice that of the last, halved until the step brings a quarter
    of what its slope promises. Where a policy is almost deterministic its gradient is near zero, whatever it does, and
    a plain ascent may end far from the best policy; `optimality_gap` in the details tells.
    """

    _: KW_ONLY
    temperature: Real = 0.0
    """What a nat of entropy (or of KL to the prior) counts in the return; 0 maximizes rewards alone."""
    prior: Prior = eqx.field(static=True, default="none")
    """The base measure `b`: counting, uniform or the problem's. Also the first policy."""
    step: Literal["natural", "gradient"] = eqx.field(static=True, default="natural")
    """Along the natural gradient, which is the advantage, or along the gradient itself, which takes far more steps."""
    tolerance: Real = 1e-9
    """Gradient norm at which the ascent ends, relative to the rewards' range, or to the temperature if that is
    larger."""
    iterations: int = eqx.field(static=True, default=10_000)
    """Bound on the steps."""

    accepts: ClassVar[tuple[type, ...]] = (FiniteHorizon, Discounted)

    def __check_init__(self):
        if not is_traced(self.temperature) and not 0.0 <= float(np.asarray(self.temperature)) < np.inf:
            raise ValueError(f"temperature must be at least 0 and finite, but {self.temperature} was given.")
        if not isinstance(self.iterations, int) or self.iterations < 1:
            raise ValueError(f"iterations must be a whole number, at least 1, but {self.iterations!r} was given.")

    def check(self, problem: Any) -> None:
        require_criterion(self, problem, self.accepts)
        if self.step not in ("natural", "gradient"):
            raise ValueError(f"step must be 'natural' or 'gradient', but {self.step!r} was given.")
        problem.require_prior(self.prior)

    def compute(self, problem: TabularMDP, key=None) -> Solution:
        log_base = problem.log_base(self.prior)
        temperature = jnp.asarray(self.temperature, jnp.asarray(problem.reward).dtype)
        end = _ascend(problem, log_base, temperature, self.step, self.tolerance, self.iterations)
        at = end.at
        details = ExactPolicyGradientDetails(
            objective=end.course[0],
            gradient_norm=end.course[1],
            expected_entropy=end.course[2],
            kl=end.course[3][:-1],
            step_size=end.course[4][:-1],
            gradient=gradient_at(at),
            advantage=at.advantage,
            q=at.q,
            optimality_gap=_optimality_gap(problem, at, log_base, temperature),
        )
        return Solution(at.value, TabularPolicy(at.log_policy), end.code, {"steps": end.steps}, details)

    def explain(self, problem: Any, solution: Solution) -> str:
        if solution.result is not Result.ITERATION_LIMIT:
            return ""
        steps, details = int(solution.stats["steps"]), solution.details
        return (
            f"After {steps} steps the objective is {float(details.objective[steps]):.6g}, the gradient's norm "
            f"{float(details.gradient_norm[steps]):.3g}, and at most {float(details.optimality_gap):.3g} can be "
            "gained: raise iterations or tolerance, take step='natural', or what was reached with throw=False."
        )


class _Loop(NamedTuple):
    at: Evaluated
    step_size: Float[Array, ""]
    course: Float[Array, "5 policies"]
    steps: Array
    code: Array


class _Trial(NamedTuple):
    at: Evaluated
    step_size: Float[Array, ""]
    kl: Float[Array, ""]
    accepted: Array
    halvings: Array


def _ascend(problem, log_base, temperature, kind: str, tolerance, iterations: int) -> _Loop:
    possible = ~jnp.isneginf(log_base)
    reward = jnp.asarray(problem.reward)
    dtype = reward.dtype
    spread = jnp.max(jnp.where(possible, reward, -jnp.inf)) - jnp.min(jnp.where(possible, reward, jnp.inf))
    scale = jnp.maximum(spread, temperature)
    shape = problem.shape
    if isinstance(problem.criterion, FiniteHorizon):
        last = jnp.broadcast_to(jnp.asarray(problem.criterion.terminal_reward, dtype), shape[:1])
        scale = jnp.maximum(scale, jnp.max(last) - jnp.min(last))
        shape = (problem.criterion.horizon, *shape)
    # Soft policy iteration is the longest natural step that always gains.
    soft = (kind == "natural") & (temperature > 0.0)
    longest = jnp.where(soft, 1.0 / jnp.where(soft, temperature, 1.0), jnp.asarray(jnp.finfo(dtype).max ** 0.25, dtype))

    def measured(at: Evaluated):
        norm = jnp.sqrt(jnp.sum(gradient_at(at) ** 2))
        return jnp.stack([at.objective, norm, jnp.sum(at.visits * entropy(at.log_policy))])

    def enough(at: Evaluated, norm):
        rounding = 16 * jnp.finfo(dtype).eps * jnp.max(jnp.abs(at.value)) * jnp.sum(at.visits)
        return norm <= jnp.maximum(jnp.asarray(tolerance, dtype) * scale, rounding)

    def search(at: Evaluated, first) -> _Trial:
        direction = at.advantage if kind == "natural" else gradient_at(at)
        slope = jnp.sum(gradient_at(at) * direction)

        def attempt(trial: _Trial) -> _Trial:
            size = jnp.where(trial.halvings >= 0, trial.step_size / 2, trial.step_size)
            finite = jnp.where(jnp.isneginf(at.log_policy), 0.0, at.log_policy)
            new = evaluate(problem, normalized(finite + size * direction, log_base), log_base, temperature)
            gain, kl = _gain(at, new, temperature)
            return _Trial(new, size, kl, gain >= _SUFFICIENT * size * slope, trial.halvings + 1)

        start = _Trial(at, first, jnp.zeros((), dtype), jnp.asarray(False), jnp.asarray(-1, jnp.int32))
        return jax.lax.while_loop(lambda t: ~t.accepted & (t.halvings < _HALVINGS), attempt, start)

    def body(loop: _Loop) -> _Loop:
        trial = search(loop.at, loop.step_size)
        at = jax.tree.map(lambda new, old: jnp.where(trial.accepted, new, old), trial.at, loop.at)
        steps = loop.steps + 1
        numbers = measured(at)
        code = jnp.where(steps >= iterations, Result.ITERATION_LIMIT, RUNNING)
        code = jnp.where(trial.accepted, code, Result.LINE_SEARCH_FAILED)
        code = jnp.where(enough(at, numbers[1]), Result.CONVERGED, code)
        code = jnp.where(jnp.all(jnp.isfinite(numbers)), code, Result.NON_FINITE).astype(jnp.int32)
        moved = jnp.stack([trial.kl, trial.step_size])
        course = loop.course.at[:3, steps].set(numbers).at[3:, loop.steps].set(moved)
        longer = jnp.where(trial.halvings == 0, 2 * trial.step_size, trial.step_size)
        return _Loop(at, jnp.minimum(longer, longest), course, steps, code)

    start = evaluate(problem, normalized(jnp.broadcast_to(log_base, shape), log_base), log_base, temperature)
    numbers = measured(start)
    course = jnp.full((5, iterations + 1), jnp.nan, dtype).at[:3, 0].set(numbers)
    code = jnp.where(enough(start, numbers[1]), Result.CONVERGED, RUNNING).astype(jnp.int32)
    first = jnp.minimum(longest, 1.0 / jnp.where(scale > 0.0, scale, 1.0))
    first = jnp.where(soft, longest, first)
    loop = _Loop(start, first, course, jnp.asarray(0, jnp.int32), code)
    return jax.lax.while_loop(lambda loop: loop.code == RUNNING, body, loop)


def _gain(old: Evaluated, new: Evaluated, temperature):
    """What the new policy gains over the old one, and their mean KL over the new one's visits."""
    inside = ~jnp.isneginf(old.log_policy)
    change = jnp.where(inside, new.log_policy - jnp.where(inside, old.log_policy, 0.0), 0.0)
    before, after = jnp.exp(old.log_policy), jnp.exp(new.log_policy)
    near = jnp.abs(change) < 1.0
    difference = jnp.where(near, before * jnp.expm1(jnp.where(near, change, 0.0)), after - before)
    kl = jnp.sum(_kl_terms(before, after, change), axis=-1)
    gain = jnp.sum(new.visits * (jnp.sum(difference * old.advantage, axis=-1) - temperature * kl))
    return gain, jnp.sum(new.visits * kl) / jnp.sum(new.visits)


def _kl_terms(before, after, change):
    """`p' x - p' + p` at `x = log p' / p`, whose sum is the KL: no term is negative; by its series where it would
    cancel."""
    near = jnp.abs(change) < 0.02
    x = jnp.where(near, change, 0.0)
    series = x**2 * (1 / 2 + x * (1 / 3 + x * (1 / 8 + x * (1 / 30 + x * (1 / 144 + x / 840)))))
    return jnp.where(near, before * series, after * change - after + before)


def _optimality_gap(problem: TabularMDP, at: Evaluated, log_base, temperature):
    """By the performance difference: no policy gains more in a state than the soft maximum's residual."""
    base = jnp.broadcast_to(log_base, at.q.shape)
    now = at.value[:-1] if isinstance(problem.criterion, FiniteHorizon) else at.value
    residual = jnp.maximum(soft_maximum(at.q, temperature, base) - now, 0.0)
    worst = jnp.max(jnp.where(at.visits > 0.0, residual, 0.0), axis=-1)
    discount = jnp.asarray(problem.discount, worst.dtype)
    if isinstance(problem.criterion, FiniteHorizon):
        return jnp.sum(discount ** jnp.arange(worst.size, dtype=worst.dtype) * worst)
    return worst / (1.0 - discount)
