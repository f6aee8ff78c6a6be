"""The gradient of a tabular softmax policy's return, exactly: what every estimate of a policy gradient estimates.

    J(w)      = E sum_t discount^t [r_t - tau log (pi / b)(a_t | s_t)],        pi(a | s) = exp w(s, a) / sum exp w(s, .)
    dJ/dw     = d(s) pi(a | s) A(s, a),            A = Q - tau log (pi / b) - V
    F^+ dJ/dw = A,                                 F = d(s) (diag pi(. | s) - pi(. | s) pi(. | s)')

`d` are the expected, discounted visits of the policy (Sutton et al. 2000, theorem 1), and `b` is the counting measure
in the entropy form. The advantage has mean zero in each state, so that the plus one of `d(pi log pi)` drops out. `F`
is the Fisher matrix of trajectories, and the natural gradient is the advantage itself, one of its solutions (Kakade
2001; Agarwal et al. 2021, lemma 15).
"""

from functools import partial
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from optimality.core.gibbs import gibbs
from optimality.core.numerics import Real, at_precision, is_traced
from optimality.planning.backups import action_values, occupancies, terminal_values
from optimality.problems.criterion import Discounted, FiniteHorizon
from optimality.problems.tabular import Prior, TabularMDP

Table = Float[Array, "..."]


class PolicyGradient(eqx.Module):
    """`gradient` of `J` in the logits and `natural_gradient`, in the shape of the logits; `objective` is `J`.

    `advantage`, `q` `[S, A]` (or `[H, S, A]`), `value` `[S]` (or `[H + 1, S]`) and `visits` `[S]` (or `[H, S]`) are
    those of the policy.
    """

    gradient: Float[Array | np.ndarray, "..."]
    natural_gradient: Float[Array | np.ndarray, "..."]
    objective: Float[Array | np.ndarray, ""]
    advantage: Float[Array | np.ndarray, "..."]
    q: Float[Array | np.ndarray, "..."]
    value: Float[Array | np.ndarray, "..."]
    visits: Float[Array | np.ndarray, "..."]


def exact_policy_gradient(
    problem: TabularMDP, logits: Any, *, temperature: Real = 0.0, prior: Prior = "none", dtype: Any = np.float64
) -> PolicyGradient:
    """The exact gradient of a tabular softmax policy's return.

    Args:
        problem: with a finite horizon or a discount; memory and time of a discounted one are those of an `[S, S]`
            solve.
        logits: `[S, A]`, the same at every step, or with a finite horizon `[H, S, A]`; what they say of actions that
            are not allowed does not count. A softmax of temperature `c` has `logits = w / c`, and its gradient in `w`
            is this one over `c`.
        temperature: what a nat of entropy (or of KL to the prior) counts in `J`.
        prior: the base measure `b`.
        dtype: precision where the arguments are concrete.

    Raises:
        ValueError: another criterion or another shape, or a prior that the problem has not.
    """
    _require_criterion(problem)
    shapes: list[tuple[int, ...]] = [problem.shape]
    if isinstance(problem.criterion, FiniteHorizon):
        shapes.append((problem.criterion.horizon, *problem.shape))
    if np.shape(logits) not in shapes:
        expected = " or ".join(str(shape) for shape in shapes)
        raise ValueError(f"logits have shape {np.shape(logits)}, but the problem needs {expected}.")
    return at_precision(partial(_gradient, prior=prior), problem, _as_floats(logits), temperature, dtype=dtype)


def _require_criterion(problem: Any) -> None:
    if not isinstance(problem, TabularMDP):
        raise ValueError(f"exact_policy_gradient takes a TabularMDP, but a {type(problem).__name__} was given.")
    if not isinstance(problem.criterion, FiniteHorizon | Discounted):
        raise ValueError(
            "exact_policy_gradient takes the criteria FiniteHorizon and Discounted, but the problem has "
            f"{type(problem.criterion).__name__}."
        )


def _as_floats(logits: Any) -> Any:
    return logits if is_traced(logits) or isinstance(logits, jax.Array) else np.asarray(logits, np.float64)


@partial(jax.jit, static_argnames="prior")
def _gradient(problem: TabularMDP, logits: Table, temperature: Real, *, prior: Prior) -> PolicyGradient:
    log_base = problem.log_base(prior)
    at = evaluate(problem, normalized(logits, log_base), log_base, jnp.asarray(temperature, logits.dtype))
    by_step = gradient_at(at)
    gradient, natural = by_step, at.advantage
    if logits.ndim < by_step.ndim:  # one table for all steps
        gradient, visits = jnp.sum(by_step, axis=0), jnp.sum(at.visits, axis=0)
        weighted = jnp.sum(at.visits[..., None] * at.advantage, axis=0)
        natural = weighted / jnp.where(visits > 0.0, visits, jnp.inf)[:, None]
    return PolicyGradient(gradient, natural, at.objective, at.advantage, at.q, at.value, at.visits)


class Evaluated(NamedTuple):
    """A policy and what it is worth; with a finite horizon every leaf but the objective begins with an axis of time."""

    log_policy: Table
    value: Table
    q: Table
    advantage: Table
    visits: Table
    objective: Float[Array, ""]


def normalized(logits: Table, log_base: Table) -> Table:
    """`log pi` over the base's support."""
    return gibbs(logits, where=jnp.broadcast_to(~jnp.isneginf(log_base), logits.shape))


def evaluate(problem: TabularMDP, log_policy: Table, log_base: Table, temperature: Float[Array, ""]) -> Evaluated:
    """One backward and one forward pass, or two dense solves where the problem is discounted."""
    policy = jnp.exp(log_policy)
    inside = ~jnp.isneginf(log_policy)
    ratio = jnp.where(inside, log_policy - jnp.where(inside, log_base, 0.0), 0.0)
    bonus = -temperature * jnp.sum(policy * ratio, axis=-1)
    initial = jnp.asarray(problem.initial, policy.dtype)
    if isinstance(problem.criterion, FiniteHorizon):
        horizon = problem.criterion.horizon
        every = lambda x, rank: x if x.ndim > rank else jnp.broadcast_to(x, (horizon, *x.shape))  # noqa: E731
        log_policy, policy, ratio, inside = (every(x, 2) for x in (log_policy, policy, ratio, inside))
        value, q = _backward(problem, policy, every(bonus, 1))
        visited, _, _ = occupancies(problem, policy, initial, tolerance=0.0, max_steps=0)
        visits, now = jnp.sum(visited, axis=-1), value[:-1]
        objective = jnp.sum(initial * value[0])
    else:
        value, visits = _solved(problem, policy, bonus, initial)
        q, now, objective = action_values(problem, value, 0.0).T, value, jnp.sum(initial * value)
    advantage = jnp.where(inside, q - temperature * ratio - now[..., None], 0.0)
    return Evaluated(log_policy, value, q, advantage, visits, objective)


def _backward(problem, policy, bonus):
    def step(values, at):
        table, extra = at
        q = action_values(problem, values, 0.0).T
        new = jnp.sum(table * q, axis=-1) + extra
        return new, (new, q)

    last = terminal_values(problem)
    _, (values, q) = jax.lax.scan(step, last, (policy, bonus), reverse=True)
    return jnp.concatenate([values, last[None]]), q


def _solved(problem, policy, bonus, initial):
    """`(I - discount P_pi) V = r_pi + bonus`, and visits by the transposed system."""
    states, _ = problem.shape
    chain = jnp.einsum("sa,sat->st", policy, problem.dense())
    system = jnp.eye(states, dtype=policy.dtype) - jnp.asarray(problem.discount, policy.dtype) * chain
    reward = jnp.sum(policy * jnp.asarray(problem.reward), axis=1) + bonus
    visits = jnp.linalg.solve(system.T, initial)
    return jnp.linalg.solve(system, reward), jnp.maximum(visits, 0.0)


def gradient_at(at: Evaluated) -> Table:
    """In the logits of each step: `d pi A`."""
    return at.visits[..., None] * jnp.exp(at.log_policy) * at.advantage
