"""Judging a recovered reward: by what it makes one do, by its distance, and by how it carries over.

    expected value difference = V*(true) - V^pi(true),     pi optimal for the learned reward

Several measures, because each ignores something else: `IGNORES` says what.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import Float

from optimality.inverse.best_response import Planner
from optimality.inverse.demonstrated import demonstrated_visits
from optimality.inverse.demonstration_checks import check_demonstrations
from optimality.inverse.feature_map import FeatureMap, Identifiable, identifiable
from optimality.inverse.maxent_certificates import log_likelihood
from optimality.inverse.reward_distances import (
    canonical_reward,
    dard_distance,
    epic_distance,
    pearson_correlation,
    transitions_of,
)
from optimality.policies.tabular import TabularPolicy
from optimality.problems.tabular import TabularMDP
from optimality.sampling.demonstrations import Demonstrations

IGNORES = {
    "expected_value_difference": "everything but the best policy: scale, shaping, rewards that tie or are not met",
    "normalized_value_difference": "the same; it also depends on where the true reward's zero is",
    "regret": "the same, but not on the true reward's scale or zero: 0 is best and 1 the worst there is",
    "policy_regret": "the reward: it judges the policy that was returned, not what a new plan would do",
    "epic": "scale, shaping and the dynamics; it counts transitions that can never happen",
    "dard": "scale and shaping under the true dynamics; it counts states that no good policy enters",
    "correlation": "scale and shaping, as EPIC; it is EPIC's distance read as a correlation",
    "feature_distance": "all that features do not see, and the reward",
    "held_out_likelihood": "the true reward, which it does not need, and states that demonstrations do not visit",
    "identifiable_rank": "the answer: it counts the directions of the weights that behavior can show at all",
    "transfer": "all but the changed dynamics that were tried",
}
"""What each measure does not see."""


@dataclasses.dataclass(frozen=True)
class Transfer:
    """Returns from the first states of a changed problem, under the true reward."""

    expert: float
    """Of the best policy there."""
    copied: float | None
    """Of the policy learned in the old dynamics."""
    transferred: float
    """Of a new plan for the learned reward."""
    uniform: float


@dataclasses.dataclass(frozen=True)
class Judgment:
    """Measures of one learned reward; None where what they need was not given. Returns are discounted sums."""

    expected_value_difference: float
    normalized_value_difference: float
    """Divided by the size of the optimal return."""
    regret: float
    """Divided by the spread from the best to the worst policy."""
    policy_regret: float | None
    epic: float | None
    dard: float | None
    correlation: float | None
    feature_distance: float | None
    held_out_likelihood: float | None
    """Mean log-probability of a demonstrated action; minus infinity where one is impossible."""
    identifiable_rank: int | None
    transfer: dict[str, Transfer]

    def rows(self) -> list[tuple[str, Any, str]]:
        """(measure, figure, what it ignores) of those that were taken, for a report."""
        taken = [(name, getattr(self, name)) for name in IGNORES if name != "transfer"]
        table = [(name, figure, IGNORES[name]) for name, figure in taken if figure is not None]
        for name, figures in self.transfer.items():
            table.append((f"transfer: {name}", figures.transferred, IGNORES["transfer"]))
        return table


def judge(
    problem: TabularMDP,
    true_reward: Float[np.ndarray, "..."],
    learned_reward: Float[np.ndarray, "..."],
    *,
    policy: TabularPolicy | None = None,
    features: Float[np.ndarray, "..."] | None = None,
    held_out: Demonstrations | None = None,
    changed: Mapping[str, TabularMDP] | None = None,
    distances: bool = True,
) -> Judgment:
    """Takes every measure that the arguments allow.

    Args:
        problem: dynamics, first states and criterion, `Discounted` or `FiniteHorizon`; its reward is not looked at.
        true_reward: `[S, A]`.
        learned_reward: `[S, A]`, for example `solution.reward.table(problem)`.
        policy: the one that was learned with it; for `policy_regret`, held-out likelihood, features and copying.
        features: `[S, k]` or `[S, A, k]`, for the feature distance and the rank.
        held_out: demonstrations that were not used, with actions.
        changed: names and problems of the same states and actions with other dynamics, for rewards that are the same
            tables there; else call `transfer`.
        distances: take EPIC and DARD; the second holds arrays `[S, A, S]`.

    Raises:
        ValueError: shapes do not agree, or a number is not finite.
    """
    true_reward, learned_reward = np.asarray(true_reward, np.float64), np.asarray(learned_reward, np.float64)
    for name, table in (("true_reward", true_reward), ("learned_reward", learned_reward)):
        if table.shape != problem.shape or not np.isfinite(table).all():
            raise ValueError(f"{name} must be {problem.shape} and finite, but has shape {table.shape}.")
    planner = Planner(problem)
    best, worst = (
        _return(planner, planner.respond(sign * true_reward).probabilities, true_reward) for sign in (1.0, -1.0)
    )
    replanned = _return(planner, planner.respond(learned_reward).probabilities, true_reward)
    difference = max(best - replanned, 0.0)
    spread = best - worst
    own = None if policy is None else _return(planner, policy.probabilities, true_reward)
    discount = planner.discount
    epic = dard = correlation = None
    if distances:
        epic = epic_distance(true_reward, learned_reward, discount)
        correlation = 1.0 - 2.0 * epic**2
        dard = dard_distance(true_reward, learned_reward, transitions_of(problem), discount)
    known = None if features is None else FeatureMap(np.asarray(features, np.float64), problem.shape[1])
    return Judgment(
        expected_value_difference=difference,
        normalized_value_difference=difference / max(abs(best), np.finfo(float).tiny),
        regret=difference / spread if spread > 0.0 else 0.0,
        policy_regret=None if own is None or spread <= 0.0 else (best - own) / spread,
        epic=epic,
        dard=dard,
        correlation=correlation,
        feature_distance=None if known is None or policy is None else _apart(planner, known, true_reward, policy),
        held_out_likelihood=None if held_out is None or policy is None else held_out_likelihood(
            problem, policy, held_out
        ),
        identifiable_rank=None if known is None else identifiable(planner, known).rank,
        transfer={
            name: transfer(new, true_reward, learned_reward, policy) for name, new in (changed or {}).items()
        },
    )  # fmt: skip


def transfer(
    changed: TabularMDP,
    true_reward: Float[np.ndarray, "states actions"],
    learned_reward: Float[np.ndarray, "states actions"],
    policy: TabularPolicy | None = None,
) -> Transfer:
    """Plans anew where the dynamics are others. A reward of what is entered has another table there: give both tables
    of the changed problem. Raises `ValueError` for a problem of another size."""
    if changed.shape != true_reward.shape:
        raise ValueError(f"the changed problem has {changed.shape} states and actions, not {true_reward.shape}.")
    planner = Planner(changed)
    tables = [planner.respond(true_reward).probabilities, planner.respond(learned_reward).probabilities]
    returns = [_return(planner, table, true_reward) for table in (*tables, planner.uniform())]
    copied = None if policy is None else _return(planner, policy.probabilities, true_reward)
    return Transfer(returns[0], copied, returns[1], returns[2])


def held_out_likelihood(problem: TabularMDP, policy: TabularPolicy, demonstrations: Demonstrations) -> float:
    """Mean log-probability of the demonstrated actions, each episode by its weight: needs no true reward.

    Raises `ValueError` for demonstrations without actions, or ones that the problem cannot have made.
    """
    check_demonstrations(problem, demonstrations, allow_unmodelled=True)
    if demonstrations.action is None:
        raise ValueError("the likelihood of actions needs demonstrations with actions, but these have none.")
    return log_likelihood(policy, demonstrations)


def feature_distance(problem: TabularMDP, features: Any, policy: TabularPolicy, demonstrations: Any) -> float:
    """Euclidean distance of feature expectations per step, policy to demonstrations (or exact visits), with actions."""
    seen = demonstrated_visits(problem, demonstrations)
    if seen.pairs is None:
        raise ValueError("the feature distance needs demonstrations with actions, but these have none.")
    planner = Planner(problem, seen.initial)
    known = FeatureMap(np.asarray(features, np.float64), problem.shape[1])
    visits = planner.evaluate(policy.probabilities, np.zeros(problem.shape)).pairs
    pairs = seen.pairs.sum(axis=0) if seen.pairs.ndim == 3 else seen.pairs
    return float(np.linalg.norm(known.total(visits) - known.total(pairs)) / planner.steps)


def canonical_correlation(first: Any, second: Any, discount: float) -> float:
    """Pearson correlation of both rewards' canonical forms, over all transitions alike."""
    forms = [canonical_reward(np.asarray(table, np.float64), discount) for table in (first, second)]
    return pearson_correlation(*forms)


def identifiable_weights(problem: TabularMDP, features: Any) -> Identifiable:
    """Rank of a feature set's weights that behavior can show, and the directions it cannot."""
    return identifiable(Planner(problem), FeatureMap(np.asarray(features, np.float64), problem.shape[1]))


def _return(planner: Planner, probabilities, reward) -> float:
    return float(planner.initial @ planner.evaluate(probabilities, reward).value)


def _apart(planner: Planner, known: FeatureMap, true_reward, policy: TabularPolicy) -> float:
    best = planner.respond(true_reward).pairs
    own = planner.evaluate(policy.probabilities, true_reward).pairs
    return float(np.linalg.norm(known.total(best - own)) / planner.steps)
