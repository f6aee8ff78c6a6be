"""Apprenticeship learning (Abbeel and Ng 2004): policies whose mixture has the expert's feature expectations.

    t_i = |mu_E - sum_j lam_j mu_j|,    w_i = (mu_E - sum_j lam_j mu_j) / t_i,    pi_i = argmax_pi w_i . mu(pi)

In the max-margin form the mixture is the point of the hull nearest to the expert; in the projection form the last
mixture moves straight towards the newest policy. For every reward `w . f` with `|w| <= 1` the mixture is worth
within `t` of the expert, in reward per step, whatever the true weights are.
"""

from dataclasses import KW_ONLY
from typing import Any, Literal, NamedTuple

import equinox as eqx
import numpy as np
from jaxtyping import Float

from optimality.core.numerics import Real, require_range
from optimality.core.result import Result
from optimality.inverse.best_response import Planner, Response
from optimality.inverse.demonstrated import DemonstratedVisits, checked_visits, demonstrated_visits
from optimality.inverse.feature_map import Identifiable, expert_expectations, feature_map, identifiable, linear_family
from optimality.inverse.infer_reward import AbstractInverse, RewardSolution
from optimality.inverse.largest_margin import LargestMargin, largest_margin, require_norm
from optimality.policies.tabular import TabularPolicy
from optimality.problems.tabular import TabularMDP
from optimality.rewards.linear import LinearReward
from optimality.sampling.mixture_policy import MixturePolicy

_DUAL_NORM = {"2": 2, "1": np.inf, "inf": 1}


class ApprenticeshipDetails(NamedTuple):
    """What the rounds gave; expectations are per discounted step."""

    mixture: Float[np.ndarray, " policies"]
    """Weight of each policy in the mixture; the first is the uniform one."""
    expectations: Float[np.ndarray, "policies k"]
    expert: Float[np.ndarray, " k"]
    margins: Float[np.ndarray, " rounds"]
    weights: Float[np.ndarray, "rounds k"]
    """Those that the policies after the first are best for."""
    single: TabularPolicy
    """Of the policies found, the nearest to the expert: the returned reward is the one it is best for."""
    single_distance: float
    markov: TabularPolicy
    """One table with the visits of the whole mixture, for those who do not want to draw."""


class ApprenticeshipLearning(AbstractInverse):
    """Matches the expert's feature expectations by planning for one reward after another."""

    _: KW_ONLY
    variant: Literal["max-margin", "projection"] = eqx.field(static=True, default="max-margin")
    """How the next weights are found: by the nearest mixture of all policies, or a step from the last mixture."""
    norm: Literal["2", "1", "inf"] = eqx.field(static=True, default="2")
    """Which norm of the weights is at most one; `1` and `inf` solve a linear program a round."""
    tolerance: Real = 1e-3
    """Margin at which to stop, in the features' units; also the accepted doubt about a margin that stays above it."""
    max_steps: int = eqx.field(static=True, default=200)
    """Bound on the rounds, each of which plans once."""

    def __check_init__(self):
        if self.variant not in ("max-margin", "projection"):
            raise ValueError(f"variant must be 'max-margin' or 'projection', but {self.variant!r} was given.")
        require_norm(self.norm)
        require_range(self, 0.0, above=True, tolerance=self.tolerance)
        require_range(self, 1.0, max_steps=self.max_steps)
        if self.variant == "projection" and self.norm != "2":
            raise ValueError("the projection is Euclidean: use norm='2', or variant='max-margin'.")

    def check(self, problem: TabularMDP, demonstrations: Any, reward: Any) -> None:
        linear_family("ApprenticeshipLearning", problem, reward)
        checked_visits(problem, demonstrations)

    def infer(self, problem: TabularMDP, demonstrations: Any, reward: Any, key: Any, dtype: Any) -> RewardSolution:
        family = linear_family("ApprenticeshipLearning", problem, reward)
        seen = demonstrated_visits(problem, demonstrations, check=False)
        planner, known = Planner(problem, seen.initial), feature_map(problem, family)
        expert = expert_expectations("ApprenticeshipLearning", seen, family, known, planner.steps)
        told_apart = identifiable(planner, known)
        if told_apart.rank == 0:
            raise ValueError("all policies have the same feature expectations: no reward of these features matters.")
        responses = [planner.evaluate(planner.uniform(), np.zeros(problem.shape))]
        expectations = [known.total(responses[0].pairs) / planner.steps]
        rounds: list[LargestMargin] = []
        now, result, tolerance = None, Result.ITERATION_LIMIT, float(np.asarray(self.tolerance))
        for _ in range(self.max_steps + 1):
            now = self._nearest(expert, np.stack(expectations), now)
            rounds.append(now)
            if now.margin <= tolerance:
                result = Result.CONVERGED
                break
            if len(rounds) > self.max_steps:
                break
            response = planner.respond(known.reward(now.weights))
            responses.append(response)
            expectations.append(known.total(response.pairs) / planner.steps)
            if now.margin - self._attained(expert, expectations, rounds) <= tolerance * 1e-3:
                result = Result.CONVERGED
                break
        return self._answer(family, seen, responses, np.stack(expectations), expert, rounds, result, told_apart)

    def _attained(self, expert, expectations, rounds) -> float:
        """A bound from below on the distance to every mixture there is: the best lead over a best response."""
        leads = [r.weights @ (expert - mu) for r, mu in zip(rounds, expectations[1:], strict=True)]
        return max(0.0, float(max(leads)))

    def _nearest(self, expert, expectations, before: LargestMargin | None) -> LargestMargin:
        if self.variant == "max-margin" or before is None:
            return largest_margin(expert, expectations, self.norm)
        point = before.mixture @ expectations[:-1]
        toward = expectations[-1] - point
        length = float(toward @ toward)
        step = min(max(float(toward @ (expert - point)) / length, 0.0), 1.0) if length > 0.0 else 0.0
        mixture = np.append((1.0 - step) * before.mixture, step)
        left = expert - (point + step * toward)
        distance = float(np.linalg.norm(left))
        return LargestMargin(distance, left / distance if distance > 0.0 else 0.0 * left, mixture)

    def _answer(
        self,
        family: LinearReward,
        seen: DemonstratedVisits,
        responses: list[Response],
        expectations: Float[np.ndarray, "policies k"],
        expert: Float[np.ndarray, " k"],
        rounds: list[LargestMargin],
        result: Result,
        told_apart: Identifiable,
    ) -> RewardSolution:
        last = rounds[-1]
        weight = np.append(last.mixture, np.zeros(len(responses) - len(last.mixture)))
        weight = weight / weight.sum()
        distances = np.linalg.norm(expert - expectations, ord=_DUAL_NORM[self.norm], axis=1)
        found = distances[1:] if len(responses) > 1 else distances
        best = int(np.argmin(found))
        single = responses[best + 1 if len(responses) > 1 else 0]
        weights = np.stack([r.weights for r in rounds])
        mixed = np.sum([lam * response.visits for lam, response in zip(weight, responses, strict=True)], axis=0)
        reached = mixed.sum(axis=-1, keepdims=True)
        markov = np.where(reached > 0.0, mixed / np.where(reached > 0.0, reached, 1.0), single.probabilities)
        with np.errstate(divide="ignore"):
            kept = np.flatnonzero(weight > 0.0)
            policy = MixturePolicy(np.log(weight[kept]), np.log(np.stack([responses[i].probabilities for i in kept])))
        details = ApprenticeshipDetails(
            mixture=weight,
            expectations=expectations,
            expert=expert,
            margins=np.array([each.margin for each in rounds]),
            weights=weights,
            single=single.policy,
            single_distance=float(found[best]),
            markov=TabularPolicy.from_probabilities(markov),
        )
        distance = float(np.linalg.norm(expert - weight @ expectations, ord=_DUAL_NORM[self.norm]))
        planned = rounds[: len(responses) - 1]
        certificates = {
            "margin": last.margin,
            "distance": distance,
            "attainable_distance": self._attained(expert, expectations, planned) if planned else 0.0,
            "rank": float(told_apart.rank),
        }
        stats = {
            "rounds": len(rounds),
            "policies": len(responses),
            "cut_off": seen.cut_off,
            "features": told_apart.size,
        }
        reward = eqx.tree_at(lambda linear: linear.weights, family, weights[min(best, len(weights) - 1)])
        return RewardSolution(reward, policy, result, stats, certificates, details)

    def explain(self, problem: TabularMDP, solution: RewardSolution) -> str:
        return f"The mixture is {solution.certificates['distance']:.3g} from the expert, per step and in features."
