"""Maximum margin planning (Ratliff et al. 2006): the expert leads other policies by how much they differ.

    min_w  l2 / 2 |w|^2 + slack,     slack = max(0, max_pi [w . mu(pi) + D(pi)] - w . mu_E),    D(pi) = sum d_pi loss

The support vector form of max margin: `D` keeps the margin positive when the expert is among the policies, and slack
lets an expert be imperfect; without slack a stochastic expert makes the program infeasible. Cutting planes: planning
with the loss added to the reward finds the most violated constraint, a small dual gives the next weights, and the
difference of both sides certifies the answer. Visits and losses are per discounted step.
"""

from dataclasses import KW_ONLY
from typing import Any, Literal, NamedTuple

import equinox as eqx
import numpy as np
from jaxtyping import Float

from optimality.core.numerics import Real, require_range
from optimality.core.result import Result
from optimality.inverse.best_response import Planner
from optimality.inverse.demonstrated import DemonstratedVisits, checked_visits, demonstrated_visits
from optimality.inverse.feature_map import FeatureMap, expert_expectations, feature_map, identifiable, linear_family
from optimality.inverse.infer_reward import AbstractInverse, RewardSolution
from optimality.inverse.minimum_norm_point import least_vector
from optimality.inverse.simplex_program import simplex_program
from optimality.problems.tabular import TabularMDP


class MaximumMarginDetails(NamedTuple):
    """The program at its end."""

    objective: float
    """At the returned weights, an upper bound on the optimum."""
    bound: float
    """The dual's value, a lower bound."""
    slack: float
    multipliers: Float[np.ndarray, " cuts"]
    """Of the constraints found; they sum to one with slack."""
    slopes: Float[np.ndarray, "cuts k"]
    """`mu(pi) - mu_E` of each constraint; the first is the expert's own, zero."""
    losses: Float[np.ndarray, " cuts"]
    """`D(pi)` of each constraint."""
    loss: Float[np.ndarray, "states actions"]


class MaximumMarginPlanning(AbstractInverse):
    """The smallest weights under which the expert beats each policy by a margin that grows with their difference."""

    _: KW_ONLY
    l2: Real = 1e-2
    """Weight of `|w|^2 / 2` against the slack; without slack it only scales the objective."""
    slack: bool = eqx.field(static=True, default=True)
    """Whether constraints may be broken at a price; without, an expert who is not the best of any reward is refused."""
    loss: Literal["hamming", "none"] = eqx.field(static=True, default="hamming")
    """What a step costs a rival: 1 where it takes a pair that the expert never took, or nothing."""
    tolerance: Real = 1e-8
    """Largest accepted gap between the objective and its lower bound, relative to one plus the objective."""
    max_steps: int = eqx.field(static=True, default=500)
    """Bound on the constraints, each of which is one planning."""

    def __check_init__(self):
        if self.loss not in ("hamming", "none"):
            raise ValueError(f"loss must be 'hamming' or 'none', but {self.loss!r} was given.")
        require_range(self, 0.0, above=True, l2=self.l2, tolerance=self.tolerance)
        require_range(self, 1.0, max_steps=self.max_steps)

    def check(self, problem: TabularMDP, demonstrations: Any, reward: Any) -> None:
        linear_family("MaximumMarginPlanning", problem, reward)
        given = checked_visits(problem, demonstrations)
        actions = demonstrations.action if given is None else given.pairs
        if self.loss == "hamming" and actions is None:
            raise ValueError("loss='hamming' compares actions, but the demonstrations have none: use loss='none'.")

    def infer(self, problem: TabularMDP, demonstrations: Any, reward: Any, key: Any, dtype: Any) -> RewardSolution:
        seen = demonstrated_visits(problem, demonstrations, check=False)
        loss = hamming_loss(seen) if self.loss == "hamming" else np.zeros(problem.shape)
        return self.infer_with_loss(problem, seen, reward, loss)

    def infer_with_loss(
        self, problem: TabularMDP, seen: DemonstratedVisits, reward: Any, loss: Float[np.ndarray, "states actions"]
    ) -> RewardSolution:
        """With a loss of your own, `[S, A]`, in place of the named one.

        Raises `ValueError` for a loss of another shape, negative or not finite, or features that tell no policies
        apart.
        """
        loss = np.asarray(loss, np.float64)
        if loss.shape != problem.shape or not np.isfinite(loss).all() or (loss < 0.0).any():
            raise ValueError(f"loss must be {problem.shape}, finite and not negative, but is {loss.shape}.")
        family = linear_family("MaximumMarginPlanning", problem, reward)
        planner, known = Planner(problem, seen.initial), feature_map(problem, family)
        expert = expert_expectations("MaximumMarginPlanning", seen, family, known, planner.steps)
        told_apart = identifiable(planner, known)
        if told_apart.rank == 0:
            raise ValueError("all policies have the same feature expectations: no reward of these features matters.")
        search = self._soft if self.slack else self._hard
        weights, details, result, rounds = search(planner, known, expert, loss)
        response = planner.respond(known.reward(weights))
        certificates = optimality_conditions(weights, details, float(np.asarray(self.l2)), self.slack)
        certificates["gap"] = details.objective - details.bound
        certificates["suboptimality"] = float(weights @ (known.total(response.pairs) / planner.steps - expert))
        certificates["rank"] = float(told_apart.rank)
        stats = {"rounds": rounds, "cut_off": seen.cut_off, "features": told_apart.size}
        learned = eqx.tree_at(lambda linear: linear.weights, family, weights)
        return RewardSolution(learned, response.policy, result, stats, certificates, details)

    def _soft(self, planner: Planner, known: FeatureMap, expert, loss):
        l2, tolerance = float(np.asarray(self.l2)), float(np.asarray(self.tolerance))
        slopes, losses = np.zeros((1, known.size)), np.zeros(1)
        weights, multipliers, bound = np.zeros(known.size), np.ones(1), 0.0
        best: tuple[float, Any, float] = (np.inf, weights, 0.0)
        rounds = 0
        for _ in range(self.max_steps):
            rounds += 1
            slope, lost = _most_violated(planner, known, expert, loss, weights)
            slack = max(0.0, float(slope @ weights) + lost)
            objective = l2 / 2 * float(weights @ weights) + slack
            best = min(best, (objective, weights, slack), key=lambda at: at[0])
            if best[0] - bound <= tolerance * (1.0 + abs(best[0])):
                break
            slopes, losses = np.vstack([slopes, slope]), np.append(losses, lost)
            solved = simplex_program(slopes, losses, l2, np.append(multipliers, 0.0))
            weights, multipliers, bound = solved.weights, solved.multipliers, max(bound, solved.value)
        closed = best[0] - bound <= tolerance * (1.0 + abs(best[0]))
        result = Result.CONVERGED if closed else Result.ITERATION_LIMIT
        return best[1], MaximumMarginDetails(best[0], bound, best[2], multipliers, slopes, losses, loss), result, rounds

    def _hard(self, planner: Planner, known: FeatureMap, expert, loss):
        l2, tolerance = float(np.asarray(self.l2)), float(np.asarray(self.tolerance))
        slopes, losses, rounds = np.zeros((0, known.size)), np.zeros(0), 0
        weights, multipliers, result, violation = np.zeros(known.size), np.zeros(0), Result.ITERATION_LIMIT, np.inf
        for _ in range(self.max_steps):
            rounds += 1
            slope, lost = _most_violated(planner, known, expert, loss, weights)
            violation = float(slope @ weights) + lost
            if violation <= tolerance * (1.0 + abs(lost)):
                result = Result.CONVERGED
                break
            slopes, losses = np.vstack([slopes, slope]), np.append(losses, lost)
            solved = least_vector(-slopes, losses)
            if solved.vector is None:
                multipliers, result = solved.multipliers, Result.INFEASIBLE
                break
            weights, multipliers = solved.vector, solved.multipliers * l2
        bound = l2 / 2 * float(weights @ weights)
        details = MaximumMarginDetails(bound, bound, max(violation, 0.0), multipliers, slopes, losses, loss)
        return weights, details, result, rounds

    def explain(self, problem: TabularMDP, solution: RewardSolution) -> str:
        if solution.result == Result.INFEASIBLE:
            return (
                "A mixture of other policies has the expert's feature expectations, as for every stochastic expert, so "
                "that no weights make it better than each by a margin: use slack=True."
            )
        return f"Objective and lower bound differ by {solution.certificates['gap']:.3g}."


def hamming_loss(seen: DemonstratedVisits) -> Float[np.ndarray, "states actions"]:
    """1 for pairs that the expert never takes, 0 for those it does."""
    assert seen.pairs is not None
    pairs = np.asarray(seen.pairs)
    taken = pairs.sum(axis=0) if pairs.ndim == 3 else pairs
    return (taken <= 0.0).astype(np.float64)


def optimality_conditions(
    weights: Float[np.ndarray, " k"], details: MaximumMarginDetails, l2: float, slack: bool
) -> dict[str, float]:
    """Karush, Kuhn and Tucker: how far from holding each of the conditions is, on the constraints found."""
    lead = details.slopes @ weights + details.losses
    allowance = details.slack if slack else 0.0
    conditions = {
        "stationarity": float(np.abs(l2 * weights + details.multipliers @ details.slopes).max(initial=0.0)),
        "complementarity": float(np.abs(details.multipliers * (allowance - lead)).max(initial=0.0)),
        "infeasibility": float(max(0.0, (lead - allowance).max(initial=0.0))),
        "negative_multiplier": float(max(0.0, -details.multipliers.min(initial=0.0))),
    }
    if slack:
        conditions["multiplier_sum"] = float(abs(details.multipliers.sum() - 1.0))
    return conditions


def _most_violated(planner: Planner, known: FeatureMap, expert, loss, weights):
    """The constraint of the policy that is best when the loss is added to the reward."""
    response = planner.respond(known.reward(weights) + loss)
    pairs = response.pairs / planner.steps
    return known.total(pairs) - expert, float(np.sum(pairs * loss))
