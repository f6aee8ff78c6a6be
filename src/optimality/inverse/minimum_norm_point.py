"""The shortest vector of a convex hull, and the least vector above half-spaces, both by non-negative least squares.

    min_{lam in simplex} |X' lam|        min |w|  such that  G w >= h

The first appends a row of ones to the system `X' lam = 0`; whatever multiple of a point of the simplex comes out has
the direction of the answer (Lawson and Hanson 1974, chapter 23). The second is their least-distance programming.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from scipy.optimize import nnls


class HullPoint(NamedTuple):
    """A point of the hull and how it is made."""

    point: Float[np.ndarray, " k"]
    mixture: Float[np.ndarray, " points"]
    gap: float
    """`|x|^2 - min_i x . x_i`: zero at the shortest point, and an upper bound on `|x - x*|^2`."""


def minimum_norm_point(points: Float[np.ndarray, "points k"]) -> HullPoint:
    """The point of the hull of the rows that is nearest to the origin.

    Raises `ValueError` for no points, or numbers that are not finite.
    """
    points = _checked("points", points)
    scale = max(float(np.abs(points).max(initial=0.0)), np.finfo(float).tiny)
    system = np.vstack([points.T / scale, np.ones(len(points))])
    target = np.zeros(len(system))
    target[-1] = 1.0
    multiples, _ = nnls(system, target, maxiter=30 * len(points) + 100)
    mixture = multiples / multiples.sum()
    point = mixture @ points
    return HullPoint(point, mixture, float(point @ point - np.min(points @ point)))


class LeastVector(NamedTuple):
    """The shortest `w` with `G w >= h`, and multipliers with `w = G' u`; None where no `w` satisfies them, and then
    `multipliers` prove it: they are non-negative, with `G' u = 0` and `h . u = 1`."""

    vector: Float[np.ndarray, " k"] | None
    multipliers: Float[np.ndarray, " rows"]


def least_vector(
    directions: Float[np.ndarray, "rows k"], heights: Float[np.ndarray, " rows"], tolerance: float = 1e-10
) -> LeastVector:
    """`min |w|` such that `directions @ w >= heights`; distances to infeasibility below `tolerance`, relative to the
    largest entry, count as infeasible."""
    directions, heights = _checked("directions", directions), np.asarray(heights, np.float64)
    scale, height = float(np.abs(directions).max(initial=0.0)) or 1.0, float(np.abs(heights).max(initial=0.0)) or 1.0
    system = np.vstack([directions.T / scale, heights[None] / height])
    target = np.zeros(len(system))
    target[-1] = 1.0
    multipliers, distance = nnls(system, target, maxiter=30 * len(heights) + 100)
    if distance**2 <= tolerance:
        return LeastVector(None, multipliers / (heights @ multipliers))
    residual = target - system @ multipliers  # its last entry is the squared distance
    vector = -residual[:-1] / residual[-1] * height / scale
    return LeastVector(vector, multipliers / residual[-1] * height / scale**2)


def _checked(name: str, rows: Float[np.ndarray, "points k"]) -> Float[np.ndarray, "points k"]:
    rows = np.asarray(rows, np.float64)
    if rows.ndim != 2 or rows.shape[0] == 0:
        raise ValueError(f"{name} must be a matrix of at least one row, but have shape {rows.shape}.")
    if not np.isfinite(rows).all():
        raise ValueError(f"{name} must be finite, but row {int(np.argwhere(~np.isfinite(rows))[0][0])} is not.")
    return rows
