"""Concave quadratics on the simplex, by an active set (Wolfe 1976, with a linear term).

    max_{alpha in simplex}  b . alpha - |A' alpha|^2 / (2 l2)

It is the dual of `min_w l2 / 2 |w|^2 + max_i (a_i . w + b_i)`, whose answer is `w = -A' alpha / l2`.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float


class SimplexProgram(NamedTuple):
    weights: Float[np.ndarray, " k"]
    multipliers: Float[np.ndarray, " cuts"]
    value: float
    """Of the dual, a lower bound on the primal."""


def simplex_program(
    slopes: Float[np.ndarray, "cuts k"],
    heights: Float[np.ndarray, " cuts"],
    l2: float,
    start: Float[np.ndarray, " cuts"] | None = None,
) -> SimplexProgram:
    """Solves the dual exactly, from `start` if given; each step solves one small linear system."""
    gram, linear = slopes @ slopes.T / l2, heights
    count = len(heights)
    alpha = np.eye(count)[int(np.argmax(linear - np.diag(gram) / 2))] if start is None else start.copy()
    scale = max(float(np.abs(gram).max()), float(np.abs(linear).max()), np.finfo(float).tiny)
    for _ in range(50 * count + 100):
        climb = linear - gram @ alpha
        entering = int(np.argmax(climb))
        if climb[entering] <= climb @ alpha + 1e-14 * scale or (
            alpha[entering] > 0.0 and climb[entering] <= climb @ alpha + 1e-12 * scale
        ):
            break
        face = np.flatnonzero((alpha > 0.0) | (np.arange(count) == entering))
        alpha = _on_face(gram, linear, alpha, face, scale)
    alpha = alpha / alpha.sum()
    weights = -(alpha @ slopes) / l2
    return SimplexProgram(weights, alpha, float(heights @ alpha - l2 / 2 * weights @ weights))


def _on_face(gram, linear, alpha, face, scale):
    """Moves to the best point of the face's plane, leaving through a wall where that point is outside."""
    while True:
        size = len(face)
        system = np.zeros((size + 1, size + 1))
        system[:size, :size] = gram[np.ix_(face, face)] / scale
        system[size, :size] = system[:size, size] = 1.0
        climb = (linear - gram @ alpha)[face] / scale
        wanted = np.append(climb, 0.0)
        step = np.linalg.lstsq(system, wanted, rcond=1e-13)[0]
        left = wanted - system @ step
        if np.abs(left).max() > 1e-10 * max(np.abs(climb).max(), 1e-300):
            direction, longest = left[:size] - left[:size].mean(), np.inf  # nothing curves along it
        else:
            direction, longest = step[:size], 1.0
        shrinking = direction < 0.0
        walls = np.where(shrinking, -alpha[face] / np.where(shrinking, direction, 1.0), np.inf)
        length = min(longest, float(walls.min()))
        if not np.isfinite(length):
            return alpha
        alpha = alpha.copy()
        alpha[face] = np.maximum(alpha[face] + length * direction, 0.0)
        if length == longest:
            return alpha
        hit = walls <= length
        alpha[face[hit]] = 0.0
        face = face[~hit]
