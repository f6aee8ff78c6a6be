"""Features of a linear reward on a table, and what of its weights any policy can show.

    r(s, a) = F(s, a) . w,        mu(pi) = sum_{s, a} d_pi(s, a) F(s, a) / steps

Expectations are per discounted step, so that they are in the features' own units. By the performance difference
identity `mu(pi) - mu(b) = sum d_pi A_b`, with `A_b` the features' advantages under any policy `b`: weights whose
advantage vanishes everywhere change no return, and the rank of `A_b` counts those that can be told apart.
"""

from typing import NamedTuple

import jax
import numpy as np
from jaxtyping import Float

from optimality.core.numerics import precision
from optimality.inverse.best_response import Planner
from optimality.inverse.demonstrated import DemonstratedVisits
from optimality.problems.tabular import TabularMDP
from optimality.rewards.abstract import AbstractReward
from optimality.rewards.linear import LinearReward
from optimality.rewards.on_tables import entered


class FeatureMap(NamedTuple):
    """`[S, k]` where features belong to states, otherwise `[S, A, k]`, in expectation over what follows."""

    features: Float[np.ndarray, "..."]
    actions: int

    @property
    def size(self) -> int:
        return self.features.shape[-1]

    def reward(self, weights: Float[np.ndarray, " k"]) -> Float[np.ndarray, "states actions"]:
        table = self.features @ weights
        return table if table.ndim == 2 else np.repeat(table[:, None], self.actions, axis=1)

    def total(self, pairs: Float[np.ndarray, "states actions"]) -> Float[np.ndarray, " k"]:
        """`sum visits(s, a) F(s, a)`."""
        if self.features.ndim == 2:
            return pairs.sum(axis=1) @ self.features
        return pairs.reshape(-1) @ self.features.reshape(-1, self.size)


def linear_family(method: str, problem: TabularMDP, reward: AbstractReward | None) -> LinearReward:
    """The family to search: `reward`, or one number for each state that is entered. Raises `ValueError` for a reward
    that is not linear, features of another problem, or ones that are all zero."""
    if reward is None:
        return LinearReward(np.eye(problem.shape[0]), scope="next-state")
    if not isinstance(reward, LinearReward):
        raise ValueError(
            f"{method} searches rewards that are linear in features: pass reward=LinearReward(features), but a "
            f"{type(reward).__name__} was given. A table is linear too: LinearReward(np.eye(states))."
        )
    wanted = problem.shape[: reward.features.ndim - 1]
    if reward.features.shape[:-1] != wanted:
        raise ValueError(f"features must be {wanted} times k for this problem, but have {reward.features.shape}.")
    if not np.isfinite(reward.features).all():
        raise ValueError("features must be finite, but some are not.")
    return reward


def feature_map(problem: TabularMDP, reward: LinearReward) -> FeatureMap:
    features = np.asarray(reward.features, np.float64)
    if reward.scope == "next-state":
        with precision(np.float64):
            columns = jax.jit(jax.vmap(lambda column: entered(problem, column), 1, 2))(features)
            features = np.asarray(columns)
    return FeatureMap(features, problem.shape[1])


def expert_expectations(
    method: str, visits: DemonstratedVisits, reward: LinearReward, known: FeatureMap, steps: float
) -> Float[np.ndarray, " k"]:
    """The demonstrations' feature expectations per step; needs actions where features look at them."""
    if visits.pairs is not None:
        pairs = np.asarray(visits.pairs, np.float64)
        return known.total(pairs.sum(axis=0) if pairs.ndim == 3 else pairs) / steps
    if reward.scope == "state-action" or visits.transitions is None:
        raise ValueError(f"{method}: features of actions need demonstrations with actions, but these have none.")
    seen = visits.transitions.state if reward.scope == "state" else visits.transitions.successor
    return visits.transitions.visits @ np.asarray(reward.features, np.float64)[seen] / steps


class Identifiable(NamedTuple):
    """How much of the weights behavior can show."""

    rank: int
    size: int
    hidden: Float[np.ndarray, "hidden k"]
    """Orthonormal directions of the weights that change no policy's return by anything but a constant."""


def identifiable(planner: Planner, known: FeatureMap, tolerance: float = 1e-9) -> Identifiable:
    """Rank and null space of the features' advantages under the uniform policy, at the states that can be reached."""
    uniform = planner.uniform()
    blocks = []
    at = known.features if known.features.ndim == 3 else np.repeat(known.features[:, None], known.actions, axis=1)
    advantage = _advantages_over_time if planner.horizon is not None else _advantages
    for block in advantage(planner, uniform, at):
        blocks.append(np.linalg.qr(block, mode="r"))
        blocks = [np.linalg.qr(np.vstack(blocks), mode="r")]
    _, singular, directions = np.linalg.svd(blocks[0])
    scale = max(float(np.abs(known.features).max(initial=0.0)) * np.sqrt(at.shape[0]), np.finfo(float).tiny)
    rank = int(np.sum(singular > tolerance * scale))
    return Identifiable(rank, known.size, directions[rank:])


def _advantages(planner: Planner, uniform, at):
    reached = planner.evaluate(uniform, np.zeros(planner.shape)).visits > 0.0
    values = planner.values_of(uniform, at)
    yield _advantage(planner, at, values, values)[reached]


def _advantages_over_time(planner: Planner, uniform, at):
    assert planner.horizon is not None
    visits = planner.evaluate(uniform, np.zeros(planner.shape)).visits
    after = np.zeros((planner.shape[0], at.shape[-1]))
    for t in range(planner.horizon - 1, -1, -1):
        q = _advantage(planner, at, after, 0.0)
        now = np.sum(uniform[..., None] * q, axis=1)
        yield (q - now[:, None])[visits[t] > 0.0]
        after = now


def _advantage(planner: Planner, at, after, now):
    ahead = (planner.transition @ after).reshape(at.shape)
    return at + planner.discount * ahead - (now[:, None] if isinstance(now, np.ndarray) else now)
