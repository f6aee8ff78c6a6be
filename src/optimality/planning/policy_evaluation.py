"""What a given policy is worth, how often it visits what, and how random it is.

V(s) = sum_a pi(a | s) [Q(s, a) - tau (log pi(a | s) - log b(a | s))],        Q = r + discount E V
d(s, a) = expected (discounted) visits; for average reward the stationary law
"""

from dataclasses import KW_ONLY
from typing import Any, ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from optimality.core.fixed_point import fixed_point
from optimality.core.information import entropy, kl_divergence
from optimality.core.numerics import Real, is_traced
from optimality.core.result import Result
from optimality.core.solve import AbstractDirect, Solution
from optimality.planning.backups import (
    action_values,
    occupancies,
    require_criterion,
    statistics,
    terminal_values,
)
from optimality.policies.tabular import TabularPolicy
from optimality.problems.criterion import AverageReward, Discounted, FiniteHorizon, UntilTermination
from optimality.problems.tabular import Prior, TabularMDP


class UnderPolicy(eqx.Module):
    """A problem in which the policy is given: what `PolicyEvaluation` solves."""

    mdp: TabularMDP
    policy: TabularPolicy

    def __check_init__(self):
        expected, given = self.mdp.shape, self.policy.log_probabilities.shape
        if given[-2:] != expected:
            raise ValueError(f"the policy's table is {given[-2:]}, but the problem has {expected} (states, actions).")
        horizon = getattr(self.mdp.criterion, "horizon", None)
        if self.policy.depends_on_time and given[0] != horizon:
            raise ValueError(
                f"the policy has a table for each of {given[0]} steps, but the problem's criterion is "
                f"{type(self.mdp.criterion).__name__}{'' if horizon is None else f' of {horizon} steps'}."
            )
        if not is_traced((self.mdp.allowed, self.policy.log_probabilities)):
            forbidden = ~np.asarray(self.mdp.allowed) & (np.asarray(self.policy.log_probabilities) > -np.inf)
            if forbidden.any():
                *_, state, action = np.argwhere(forbidden)[0]
                raise ValueError(f"the policy takes action {action} in state {state}, where it is not allowed.")


class PolicyEvaluationDetails(eqx.Module):
    """`q`; `occupancy [S, A]` (or `[H, S, A]`), expected visits or the stationary law; and expectations from the
    initial law: `expected_return` of rewards alone, `expected_entropy` and `expected_kl` (to the base measure of
    `prior`) of the actions in nats, all summed over the visits; for average reward each is per step."""

    q: Float[Array, "..."]
    occupancy: Float[Array, "..."]
    expected_return: Float[Array, ""]
    expected_entropy: Float[Array, ""]
    expected_kl: Float[Array, ""]
    gain: Float[Array, ""] | None


class PolicyEvaluation(AbstractDirect[UnderPolicy]):
    """Values and occupancies of a policy, for every criterion."""

    _: KW_ONLY
    temperature: Real = 0.0
    """What a nat of entropy (or of KL to the prior) counts in the value; 0 counts rewards alone."""
    prior: Prior = eqx.field(static=True, default="none")
    """The base measure `b`: counting, uniform or the problem's."""
    tolerance: Real = 1e-12
    """Largest accepted change in the last sweep, where a fixed point is sought."""
    max_steps: int = eqx.field(static=True, default=1_000_000)
    """Bound on the sweeps, where a fixed point is sought."""

    accepts: ClassVar[tuple[type, ...]] = (FiniteHorizon, Discounted, AverageReward, UntilTermination)

    def check(self, problem: Any) -> None:
        if not isinstance(problem, UnderPolicy):
            raise ValueError(
                f"PolicyEvaluation solves UnderPolicy(mdp, policy), but a {type(problem).__name__} was given."
            )
        require_criterion(self, problem.mdp, self.accepts)
        problem.mdp.require_prior(self.prior)

    def compute(self, problem: UnderPolicy, key=None) -> Solution:
        mdp = problem.mdp
        log_policy = jnp.asarray(problem.policy.log_probabilities, jnp.asarray(mdp.reward).dtype)
        log_base = jnp.broadcast_to(mdp.log_base(self.prior), log_policy.shape)
        cost = kl_divergence(log_policy, log_base)  # minus the entropy, for the counting measure
        policy = jnp.exp(log_policy)
        temperature = jnp.asarray(self.temperature, policy.dtype)
        bonus = jnp.where(temperature == 0.0, 0.0, -temperature * cost)  # the cost may be infinite
        if isinstance(mdp.criterion, FiniteHorizon):
            value, q, result, stats = self._backward(mdp, policy, bonus)
            occupancy, last, _ = self._occupancies(mdp, policy)
            ending = jnp.sum(last * terminal_values(mdp))
            gain = None
        elif isinstance(mdp.criterion, AverageReward):
            value, gain, stationary, result, stats = self._average(mdp, policy, bonus)
            q, occupancy, ending = action_values(mdp, value, 0.0).T, stationary[:, None] * policy, 0.0
        else:
            value, result, stats = self._fixed_point(mdp, policy, bonus)
            occupancy, _, visited = self._occupancies(mdp, policy)
            result = jnp.maximum(result, visited)
            q, ending, gain = action_values(mdp, value, 0.0).T, 0.0, None
        visits = jnp.sum(occupancy, axis=-1)
        cost = jnp.broadcast_to(cost, visits.shape)
        details = PolicyEvaluationDetails(
            q=q,
            occupancy=occupancy,
            expected_return=jnp.sum(occupancy * jnp.broadcast_to(jnp.asarray(mdp.reward), occupancy.shape)) + ending,
            expected_entropy=jnp.sum(visits * jnp.broadcast_to(entropy(log_policy), visits.shape)),
            expected_kl=jnp.sum(jnp.where(visits > 0.0, visits * cost, 0.0)),
            gain=gain,
        )
        return Solution(value, problem.policy, result, stats, details)

    def _occupancies(self, mdp, policy):
        initial = jnp.asarray(mdp.initial, policy.dtype)
        return occupancies(mdp, policy, initial, tolerance=self.tolerance, max_steps=self.max_steps)

    def _backward(self, mdp, policy, bonus):
        def step(values, at):
            table, extra = at
            q = action_values(mdp, values, 0.0).T
            new = jnp.sum(table * q, axis=-1) + extra
            return new, (new, q)

        horizon, last = mdp.criterion.horizon, terminal_values(mdp)
        per_step = jnp.broadcast_to(policy, (horizon, *policy.shape[-2:]))
        extras = jnp.broadcast_to(bonus, per_step.shape[:-1])
        _, (values, q) = jax.lax.scan(step, last, (per_step, extras), reverse=True)
        values = jnp.concatenate([values, last[None]])
        result = jnp.where(jnp.all(jnp.isfinite(values)), Result.CONVERGED, Result.NON_FINITE).astype(jnp.int32)
        return values, q, result, {"steps": jnp.asarray(horizon, jnp.int32)}

    def _fixed_point(self, mdp, policy, bonus):
        def improve(values, arguments):
            problem, table, extra = arguments
            return jnp.sum(table * action_values(problem, values, 0.0).T, axis=-1) + extra

        solved = fixed_point(
            improve,
            jnp.zeros(mdp.shape[0], policy.dtype),
            (mdp, policy, bonus),
            tolerance=self.tolerance,
            max_steps=self.max_steps,
        )
        return solved.point, solved.code, statistics(solved)

    def _average(self, mdp, policy, bonus):
        """One dense solve each for the stationary law and the relative values (Puterman 1994, section 8.2)."""
        states, _ = mdp.shape
        transition = jnp.einsum("sa,sat->st", policy, mdp.dense())
        reward = jnp.sum(policy * jnp.asarray(mdp.reward), axis=1) + bonus
        uniform = jnp.full((states, states), 1.0 / states, policy.dtype)
        system = jnp.eye(states, dtype=policy.dtype) - transition + uniform
        stationary = jnp.linalg.solve(system.T, uniform[0])
        gain = jnp.sum(stationary * reward)
        relative = jnp.linalg.solve(system, reward - gain)
        result = jnp.where(has_one_class(transition), Result.CONVERGED, Result.MULTICHAIN)
        return relative - relative[0], gain, stationary, result.astype(jnp.int32), {}


def has_one_class(transition: Float[Array, "states states"]):
    """Whether a chain has one recurrent class, from which entries are zero: by reachability, squared log S times."""
    states = transition.shape[0]
    reach = (transition > 0.0) | jnp.eye(states, dtype=bool)
    for _ in range(max(1, (states - 1).bit_length())):
        counts = reach.astype(transition.dtype)
        reach = counts @ counts > 0.0
    recurrent = jnp.all(~reach | reach.T, axis=1)
    apart = recurrent[:, None] & recurrent[None, :] & ~reach
    return ~jnp.any(apart)
