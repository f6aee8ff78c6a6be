"""The sweeps that all planning on tables is made of, in the kernels' order `[A, S]`.

    Q(s, a) = r(s, a) + expect(V)(s, a)          V(s) = tau log sum_a b(a | s) exp(Q(s, a) / tau)

A method differs from another by its temperature, base measure and risk only.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from optimality.core.fixed_point import FixedPoint, fixed_point
from optimality.core.gibbs import gibbs, soft_maximum
from optimality.core.numerics import Real
from optimality.core.result import Result
from optimality.problems.criterion import AverageReward, FiniteHorizon
from optimality.problems.tabular import TabularMDP


class Sweep(NamedTuple):
    """How actions are weighed: the arguments of the soft maximum and of the certainty equivalent."""

    log_base: Float[Array, "actions states"]
    temperature: Real
    risk: Real


class Plan(NamedTuple):
    """Values and what was computed on the way, in the public order."""

    value: Float[Array, "..."]
    q: Float[Array, "..."]
    log_policy: Float[Array, "..."]
    gain: Float[Array, ""] | None
    result: Any
    stats: dict[str, Any]


def action_values(mdp: TabularMDP, values: Float[Array, " states"], risk: Real) -> Float[Array, "actions states"]:
    """`Q = reward + expect(V)`."""
    return jnp.asarray(mdp.reward).T + mdp.expect_action_first(values, risk)


def backup(mdp: TabularMDP, values: Float[Array, " states"], sweep: Sweep) -> Float[Array, " states"]:
    """One soft (or hard, at temperature 0) Bellman backup."""
    return soft_maximum(action_values(mdp, values, sweep.risk), sweep.temperature, sweep.log_base, axis=0)


def terminal_values(mdp: TabularMDP) -> Float[Array, " states"]:
    states, _ = mdp.shape
    dtype = jnp.asarray(mdp.reward).dtype
    assert isinstance(mdp.criterion, FiniteHorizon)
    return jnp.broadcast_to(jnp.asarray(mdp.criterion.terminal_reward, dtype), (states,))


def backward(mdp: TabularMDP, sweep: Sweep) -> Plan:
    """The finite-horizon recursion from the last step to the first: `value [H+1, S]`, `q` and policy `[H, S, A]`."""

    def step(values, _):
        q = action_values(mdp, values, sweep.risk)
        new = soft_maximum(q, sweep.temperature, sweep.log_base, axis=0)
        log_policy = gibbs(q, sweep.temperature, sweep.log_base, axis=0)
        return new, (new, q, log_policy)

    assert isinstance(mdp.criterion, FiniteHorizon)
    last = terminal_values(mdp)
    _, (values, q, log_policy) = jax.lax.scan(step, last, length=mdp.criterion.horizon, xs=None)
    values = jnp.concatenate([values[::-1], last[None]])
    in_time = jnp.swapaxes(q[::-1], 1, 2), jnp.swapaxes(log_policy[::-1], 1, 2)
    finite = jnp.all(jnp.isfinite(values))
    result = jnp.where(finite, Result.CONVERGED, Result.NON_FINITE).astype(jnp.int32)
    return Plan(values, *in_time, None, result, {"steps": jnp.asarray(mdp.criterion.horizon, jnp.int32)})


def stationary(
    mdp: TabularMDP,
    sweep: Sweep,
    tolerance: Real,
    max_steps: int,
    guess: Float[Array, " states"] | None = None,
) -> Plan:
    """The fixed point of the backup for an unlimited time: `value [S]`, `q` and policy `[S, A]`.

    Discounted and until termination it is `V = B V` from `V = 0`, or from a guess. For average reward it is
    `h + gain = B h` with `h(0) = 0`, by the half-way step `h <- h + (B h - h - gain) / 2`, which converges for
    periodic chains too (Puterman 1994, section 8.5.4).
    """
    states, _ = mdp.shape
    average = isinstance(mdp.criterion, AverageReward)

    def improve(values, arguments):
        problem, weighing = arguments
        new = backup(problem, values, weighing)
        if not average:
            return new
        change = new - values
        return values + 0.5 * (change - change[0])

    start = jnp.zeros(states, jnp.asarray(mdp.reward).dtype) if guess is None else guess
    solved = fixed_point(improve, start, (mdp, sweep), tolerance=tolerance, max_steps=max_steps)
    values = solved.point
    q = action_values(mdp, values, sweep.risk)
    log_policy = gibbs(q, sweep.temperature, sweep.log_base, axis=0)
    gain = (soft_maximum(q, sweep.temperature, sweep.log_base, axis=0) - values)[0] if average else None
    return Plan(values, q.T, log_policy.T, gain, result_of(mdp, solved), statistics(solved))


def result_of(mdp: TabularMDP, solved: FixedPoint):
    """Relative values that drift apart for ever mean that the gain depends on the state."""
    if isinstance(mdp.criterion, AverageReward):
        return jnp.where(solved.code == Result.NOT_CONVERGED, Result.MULTICHAIN, solved.code).astype(jnp.int32)
    return solved.code


def statistics(solved: FixedPoint) -> dict[str, Any]:
    return {"steps": solved.steps, "residual": solved.residual, "trace": solved.trace}


def plan(mdp: TabularMDP, sweep: Sweep, tolerance: Real, max_steps: int) -> Plan:
    """The backward recursion or the fixed point, as the criterion asks."""
    if isinstance(mdp.criterion, FiniteHorizon):
        return backward(mdp, sweep)
    return stationary(mdp, sweep, tolerance, max_steps)


def occupancies(
    mdp: TabularMDP,
    policy: Float[Array, "..."],
    initial: Float[Array, " states"],
    *,
    values: Float[Array, "..."] | None = None,
    risk: Real = 0.0,
    tolerance: Real,
    max_steps: int,
) -> tuple[Float[Array, "..."], Float[Array, " states"], Int[Array, ""]]:
    """Expected visits of each pair under a policy (probabilities), the mass of states left at the horizon, and how
    the computation ended: visits grow for ever where an undiscounted policy may never end.

    Finite horizon: `[H, S, A]`, the mass of each step by itself; `values [H+1, S]` tilt the dynamics. Otherwise
    `[S, A]`, summed over time by the fixed point `d = initial + push(d pi)`. A chance of ending counts as an ending.
    """
    if isinstance(mdp.criterion, FiniteHorizon):
        tilts = None if values is None else values[1:]

        def step(mass, at):
            table, ahead = at
            pairs = mass[None] * table.T
            return mdp.push_action_first(pairs, ahead, risk), pairs.T

        per_step = jnp.broadcast_to(policy, (mdp.criterion.horizon, *policy.shape[-2:]))
        last, visits = jax.lax.scan(step, initial, (per_step, tilts))
        return visits, last, jnp.asarray(Result.CONVERGED, jnp.int32)

    def spread(mass, arguments):
        problem, table, start, ahead, attraction = arguments
        return start + problem.push_action_first(mass[None] * table.T, ahead, attraction)

    arguments = (mdp, policy, initial, values, risk)
    solved = fixed_point(spread, initial, arguments, tolerance=tolerance, max_steps=max_steps)
    return solved.point[:, None] * policy, jnp.zeros_like(initial), solved.code


def require_criterion(method: Any, mdp: Any, accepted: tuple[type, ...]) -> None:
    """Raises `ValueError` unless `mdp` is a table whose criterion the method declares."""
    name = type(method).__name__
    if not isinstance(mdp, TabularMDP):
        raise ValueError(f"{name} solves a TabularMDP, but a {type(mdp).__name__} was given.")
    if not isinstance(mdp.criterion, accepted):
        names = ", ".join(kind.__name__ for kind in accepted)
        raise ValueError(f"{name} takes the criteria {names}, but the problem has {type(mdp.criterion).__name__}.")
