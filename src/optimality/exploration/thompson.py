"""Thompson sampling: each arm as often as one believes it to be the best.

    draw mu_a from the posterior of each arm, pull argmax_a mu_a          P(a) = P(mu_a = max_b mu_b | data)

(Thompson 1933). Draws are exact. `probabilities` are by quadrature, to about 14 digits:
`P(a) = int p_a(z) prod_{b != a} F_b(z) dz`, z an unbounded function of the mean, by the trapezoidal rule.
"""

from collections.abc import Callable
from dataclasses import KW_ONLY
from typing import Any

import numpy as np

from optimality.exploration.arm_beliefs import AbstractArmBelief, Prior, arm_belief, distinct, prepared, with_belief
from optimality.exploration.bandit_policy import AbstractHostPolicy, ArmStatistics, Numbers
from optimality.problems.bandits import AbstractArms

_MOST_NODES = 200_000
_CHUNK = 4_000_000


class Thompson(AbstractHostPolicy):
    """Posterior sampling."""

    _: KW_ONLY
    prior: Prior | None = None
    """Belief about every arm before the first pull (one, or leaves with an entry an arm); None: see `arm_beliefs`."""
    belief: AbstractArmBelief | None = None
    """What `prepare` makes of it."""

    def check(self, arms: AbstractArms, horizon: int) -> None:
        arm_belief(self.prior, arms)

    def prepare(self, arms: AbstractArms, horizon: int) -> "Thompson":
        return with_belief(self, arm_belief(self.prior, arms))

    def probabilities(self, statistics: ArmStatistics, time: Any) -> Numbers:
        """By quadrature, NumPy float64."""
        return best_arm(prepared(self.belief), statistics)

    def start_on_host(self, statistics: ArmStatistics, random: np.random.Generator) -> Callable[[int], np.ndarray]:
        draw = prepared(self.belief).start_drawing(statistics, random)
        return lambda time: np.argmax(draw(), axis=0)


def best_arm(belief: AbstractArmBelief, statistics: ArmStatistics) -> Numbers:
    """`P(mean of arm a is the largest)`, `[arms, ...]`; where nothing is known of some arms, evenly over those."""
    first, second = (np.asarray(p, np.float64) for p in belief.parameters(statistics))
    unknown = belief.unknown(first, second)
    (a, b), where = distinct(np.where(unknown, 1.0, first), np.where(unknown, 1.0, second))
    z, step = _nodes(belief, a, b)
    density, below = belief.density_and_cdf(a[:, None], b[:, None], z[None])
    arms = first.shape[0]
    where = where.reshape(arms, -1)
    answer = np.empty(where.shape)
    if arms == 2:
        pairs = density @ below.T * step
        answer[0], answer[1] = pairs[where[0], where[1]], pairs[where[1], where[0]]
    else:
        size = max(1, _CHUNK // (z.size * arms))
        for start in range(0, where.shape[1], size):
            chosen = where[:, start : start + size]
            for k in range(arms):
                others = np.prod([below[chosen[j]] for j in range(arms) if j != k], axis=0)
                answer[k, start : start + size] = np.sum(density[chosen[k]] * others, axis=-1) * step
    answer /= answer.sum(axis=0)
    unknown = unknown.reshape(arms, -1)
    share = unknown / np.maximum(unknown.sum(axis=0), 1)
    return np.where(unknown.any(axis=0), share, answer).reshape(first.shape)


def _nodes(belief: AbstractArmBelief, a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, float]:
    low, high, deviation = belief.coordinate(a, b)
    step = float(deviation.min()) / 2.5
    count = int(np.ceil((high.max() - low.min()) / step)) + 1
    if count > _MOST_NODES:
        raise ValueError(
            f"chances of {a.size} posteriors need {count} nodes because their widths differ so much; ask for fewer "
            f"states at once."
        )
    z = low.min() + step * np.arange(count)
    return z, step
