"""How good an answer is without the true reward, and how sure.

    gap = w . (f_model - f_expert) / tau + l1 |w|_1 + l2 |w|^2 / 2 + |(|f_expert - f_model| / tau - l1)_+|^2 / (2 l2)

is the distance from the dual's value to the primal's (largest entropy with matched features, or near them with
penalties), zero at the optimum and never negative. Laplace's approximation has the inverse of the number of episodes
times the Hessian as covariance.
"""

from typing import Any

import numpy as np
from jaxtyping import Float

from optimality.inverse.demonstrated import DemonstratedVisits
from optimality.inverse.minimization import Minimum
from optimality.policies.tabular import TabularPolicy
from optimality.sampling.demonstrations import Demonstrations

Vector = Float[np.ndarray, " parameters"]


def certificates(
    minimum: Minimum,
    expert: Vector,
    model: Vector,
    *,
    temperature: float,
    l1: float,
    l2: float,
    objective: str,
    linear: bool,
    visits: DemonstratedVisits,
    policy: TabularPolicy,
    fitted: Demonstrations | None,
    others: Demonstrations | None,
) -> dict[str, float]:
    """`gradient_norm`, of the smallest subgradient, and `feature_residual`, both largest entries; by objective
    `duality_gap`, `forward_error` (of the two ways to the gradient), `log_likelihood` and `held_out_log_likelihood` a
    step, and `cut_off`, the discounted share of visits that the demonstrations lack for having been cut off."""
    residual = expert - model
    numbers = {"gradient_norm": minimum.residual, "feature_residual": float(np.abs(residual).max(initial=0.0))}
    if objective == "matching":
        by_hand = -residual / temperature + l2 * minimum.x
        numbers["forward_error"] = float(np.abs(by_hand - minimum.gradient).max(initial=0.0))
        if linear:
            numbers["duality_gap"] = duality_gap(minimum.x, residual / temperature, l1, l2)
    for name, episodes in (("log_likelihood", fitted), ("held_out_log_likelihood", others)):
        if episodes is not None and episodes.action is not None:
            numbers[name] = log_likelihood(policy, episodes)
    if visits.cut_off > 0.0:
        numbers["cut_off"] = visits.cut_off
    return numbers


def duality_gap(weights: Vector, residual: Vector, l1: float, l2: float) -> float:
    """With `residual = (f_expert - f_model) / tau`. Without `l2` the primal's constraint may be missed by what the
    residual says, and the gap be below zero by that times the weights."""
    gap = -float(weights @ residual) + l1 * float(np.abs(weights).sum()) + 0.5 * l2 * float(weights @ weights)
    if l2 > 0.0:
        gap += float(np.sum(np.maximum(np.abs(residual) - l1, 0.0) ** 2)) / (2.0 * l2)
    return gap


def log_likelihood(policy: TabularPolicy, demonstrations: Demonstrations) -> float:
    """Mean `log pi_t(a | s)` of the demonstrated actions, nats a step."""
    episode, time = np.nonzero(np.asarray(demonstrations.valid))
    state = np.asarray(demonstrations.observation)[episode, time]
    action = np.asarray(demonstrations.action)[episode, time]
    table = np.asarray(policy.log_probabilities)
    logs = table[np.minimum(time, table.shape[0] - 1), state, action] if table.ndim == 3 else table[state, action]
    weight = demonstrations.weights[episode]
    return float(np.sum(np.where(weight > 0.0, weight * logs, 0.0)) / np.sum(weight))


def posterior(
    hessian: Float[np.ndarray, "parameters parameters"] | None, l2: float, episodes: float | None, dtype: Any
) -> tuple[int | None, Float[np.ndarray, "parameters parameters"] | None]:
    """Rank of the data's Hessian and, for so many episodes, the covariance; the penalty counts as a prior."""
    if hessian is None or not np.isfinite(hessian).all():
        return None, None
    eigenvalues, vectors = np.linalg.eigh(hessian)
    largest = float(np.abs(eigenvalues).max(initial=0.0))
    seen = np.abs(eigenvalues) > max(largest, 1e-300) * float(np.finfo(np.dtype(dtype)).eps) ** 0.5
    if episodes is None:
        return int(seen.sum()), None
    precision = np.where(seen, eigenvalues, 0.0) + l2
    inverse = np.where(precision > 0.0, 1.0 / np.where(precision > 0.0, precision, 1.0), 0.0) / episodes
    return int(seen.sum()), (vectors * inverse) @ vectors.T
