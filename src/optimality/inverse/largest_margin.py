"""The weights under which an expert leads its rivals by most (Abbeel and Ng 2004, equation 7).

    max_{t, w} t   such that   w . mu_E >= w . mu_i + t  for all i,   |w| <= 1

Without the bound on `w` any positive margin grows for ever by scaling. With the Euclidean norm the margin is the
distance of the expert to the hull of its rivals; with the 1-norm that of the largest entry, and the other way round.
It is zero when the expert is among them, or a mixture of them.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from scipy.optimize import linprog

from optimality.inverse.minimum_norm_point import minimum_norm_point

NORMS = ("2", "1", "inf")


class LargestMargin(NamedTuple):
    margin: float
    weights: Float[np.ndarray, " k"]
    """Zero where the margin is."""
    mixture: Float[np.ndarray, " rivals"]
    """Of the rivals, the nearest to the expert in the dual norm."""


def largest_margin(
    expert: Float[np.ndarray, " k"], rivals: Float[np.ndarray, "rivals k"], norm: str = "2"
) -> LargestMargin:
    """Margin, weights and nearest mixture. Raises `ValueError` for an unknown norm or numbers that are not finite."""
    require_norm(norm)
    differences = np.asarray(expert, np.float64)[None] - np.asarray(rivals, np.float64)
    if not np.isfinite(differences).all():
        raise ValueError("feature expectations must be finite, but some are not.")
    if norm == "2":
        nearest = minimum_norm_point(differences)
        distance = float(np.linalg.norm(nearest.point))
        weights = nearest.point / distance if distance > 0.0 else np.zeros(differences.shape[1])
        return LargestMargin(distance, weights, nearest.mixture)
    return _linear_program(differences, norm)


def require_norm(norm: str) -> None:
    if norm not in NORMS:
        raise ValueError(
            f"norm must be one of {', '.join(NORMS)}, but {norm!r} was given: without a bound on the weights the "
            "margin is unbounded, since scaling the weights scales it."
        )


def _linear_program(differences, norm: str) -> LargestMargin:
    """In `w = p - n` with `p, n >= 0`, and the margin last."""
    rows, size = differences.shape
    lead = np.hstack([-differences, differences, np.ones((rows, 1))])
    objective = np.append(np.zeros(2 * size), -1.0)
    above, bounds = np.zeros(rows), [(0.0, 1.0)] * (2 * size) + [(None, None)]
    if norm == "1":
        lead, above = np.vstack([lead, np.append(np.ones(2 * size), 0.0)]), np.append(above, 1.0)
    solved = linprog(objective, lead, above, bounds=bounds, method="highs")
    assert solved.success, solved.message
    mixture = np.maximum(-solved.ineqlin.marginals[:rows], 0.0)
    margin = max(float(solved.x[-1]), 0.0)
    return LargestMargin(margin, solved.x[:size] - solved.x[size : 2 * size], mixture / mixture.sum())
