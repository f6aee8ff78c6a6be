"""Minimizers around one compiled function: limited-memory quasi-Newton, and Newton, both with an optional 1-norm.

    min_x  f(x) + l1 |x|_1

Optimal is where the smallest subgradient is zero: `f' + l1 sign(x)` where `x` is not zero, and `|f'| <= l1` where it is
(Andrew and Gao 2007). Near the optimum the values of `f` differ by roundings only, so that a step is judged by its
slopes (the approximate Wolfe conditions of Hager and Zhang 2005): gradients far below the square root of the precision
are reached. A value that is not finite is a step too long, never an end. On the host, in NumPy float64.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from optimality.core.result import Result

Vector = Float[np.ndarray, " parameters"]
ValueAndGradient = Callable[[Vector], tuple[float, Vector]]

_SUFFICIENT, _CURVATURE = 1e-4, 0.9
_TRIALS = 60
_ROUNDING = 1e-11  # of values, relative: sums that cancel lose more than one digit


class Minimum(NamedTuple):
    """Where it ended; `residual` is the largest entry of the smallest subgradient, `course` its value at each step."""

    x: Vector
    value: float
    gradient: Vector
    residual: float
    steps: int
    evaluations: int
    course: np.ndarray
    code: Result


class _Point(NamedTuple):
    x: Vector
    smooth: float
    gradient: Vector
    value: float


class _Counted:
    """The objective with its penalty, counting calls."""

    def __init__(self, function: ValueAndGradient, l1: float, noise: float):
        self.function, self.l1, self.noise, self.calls = function, l1, noise, 0

    def __call__(self, x: Vector) -> _Point:
        self.calls += 1
        smooth, gradient = self.function(x)
        value = smooth + self.l1 * float(np.abs(x).sum())
        finite = np.isfinite(value) and np.isfinite(gradient).all()
        return _Point(x, float(smooth), gradient, value if finite else np.inf)


def subgradient(x: Vector, gradient: Vector, l1: float) -> Vector:
    """The smallest subgradient of `f + l1 |x|_1`."""
    if l1 == 0.0:
        return gradient
    shrunk = np.sign(gradient) * np.maximum(np.abs(gradient) - l1, 0.0)
    return np.where(x != 0.0, gradient + l1 * np.sign(x), shrunk)


def quasi_newton(
    function: ValueAndGradient,
    start: Vector,
    *,
    l1: float = 0.0,
    tolerance: float,
    max_steps: int,
    noise: float = 0.0,
    memory: int = 20,
) -> Minimum:
    """L-BFGS, with a 1-norm within one orthant at a time (OWL-QN; Andrew and Gao 2007), which nears an ill-conditioned
    optimum slowly: `newton` finishes such a search. `noise` is what values may be
    wrong by beyond float64's rounding."""
    objective = _Counted(function, l1, noise)
    at = objective(np.asarray(start, np.float64))
    pairs: list[tuple[Vector, Vector]] = []
    course: list[float] = []

    def direction(slope: Vector) -> Vector:
        move = -_inverse_times(pairs, slope)
        if l1:
            move = np.where(move * slope < 0.0, move, 0.0)
        return move

    code, step = Result.ITERATION_LIMIT, 0
    for step in range(max_steps + 1):
        slope = subgradient(at.x, at.gradient, l1)
        course.append(float(np.abs(slope).max(initial=0.0)))
        if (ended := _ended(at, course[-1], tolerance, step, max_steps)) is not None:
            code = ended
            break
        move = direction(slope)
        first = 1.0 if pairs else min(1.0, 1.0 / max(float(np.linalg.norm(slope)), 1e-300))
        new = _search(objective, at, slope, move, first)
        if new is None and pairs:
            pairs.clear()
            new = _search(objective, at, slope, direction(slope), min(1.0, 1.0 / float(np.linalg.norm(slope))))
        if new is None:
            code = Result.LINE_SEARCH_FAILED
            break
        change, curvature = new.x - at.x, new.gradient - at.gradient
        if change @ curvature > 1e-14 * float(np.linalg.norm(change) * np.linalg.norm(curvature)):
            pairs.append((change, curvature))
            del pairs[:-memory]
        at = new
    return Minimum(at.x, at.smooth, at.gradient, course[-1], step, objective.calls, np.array(course), code)


def newton(
    function: ValueAndGradient,
    hessian: Callable[[Vector], np.ndarray],
    start: Vector,
    *,
    l1: float = 0.0,
    tolerance: float,
    max_steps: int,
    noise: float = 0.0,
) -> Minimum:
    """Newton's method on the absolute values of the Hessian's eigenvalues, which is a descent where `f` is not convex
    too; directions without curvature are left alone. With a 1-norm each quadratic model is solved by coordinates."""
    objective = _Counted(function, l1, noise)
    at = objective(np.asarray(start, np.float64))
    course: list[float] = []
    code, step = Result.ITERATION_LIMIT, 0
    for step in range(max_steps + 1):
        slope = subgradient(at.x, at.gradient, l1)
        course.append(float(np.abs(slope).max(initial=0.0)))
        if (ended := _ended(at, course[-1], tolerance, step, max_steps)) is not None:
            code = ended
            break
        eigenvalues, vectors = np.linalg.eigh(hessian(at.x))
        size = np.abs(eigenvalues)
        size = np.maximum(size, max(1e-12 * float(size.max(initial=0.0)), 1e-300))
        if l1:
            move = _coordinate_descent((vectors * size) @ vectors.T, at.gradient, at.x, l1)
        else:
            move = -vectors @ ((vectors.T @ slope) / size)
        new = _search(objective, at, slope, move, 1.0, within_orthant=False)
        if new is None:
            code = Result.LINE_SEARCH_FAILED
            break
        at = new
    return Minimum(at.x, at.smooth, at.gradient, course[-1], step, objective.calls, np.array(course), code)


def _ended(at: _Point, residual: float, tolerance: float, step: int, max_steps: int) -> Result | None:
    if not np.isfinite(at.value):
        return Result.NON_FINITE
    if residual <= tolerance:
        return Result.CONVERGED
    return Result.ITERATION_LIMIT if step == max_steps else None


def _inverse_times(pairs: list[tuple[Vector, Vector]], slope: Vector) -> Vector:
    """The two-loop recursion (Nocedal 1980)."""
    if not pairs:
        return slope
    product, weights = slope.copy(), []
    for change, curvature in reversed(pairs):
        weight = (change @ product) / (change @ curvature)
        product -= weight * curvature
        weights.append(weight)
    change, curvature = pairs[-1]
    product *= (change @ curvature) / (curvature @ curvature)
    for (change, curvature), weight in zip(pairs, reversed(weights), strict=True):
        product += change * (weight - (curvature @ product) / (change @ curvature))
    return product


def _search(
    objective: _Counted, at: _Point, slope: Vector, move: Vector, first: float, *, within_orthant: bool = True
) -> _Point | None:
    """A step along `move`: by bisection to the weak Wolfe conditions, or with a 1-norm by halving; None if there is
    none."""
    descent = float(slope @ move)
    if not descent < 0.0:
        return None
    noise = objective.noise + _ROUNDING * max(1.0, abs(at.value))
    if objective.l1:
        return _halve(objective, at, slope, move, first, within_orthant, noise)
    low, high, size = 0.0, np.inf, first
    for _ in range(_TRIALS):
        new = objective(at.x + size * move)
        rate = float(new.gradient @ move) if np.isfinite(new.value) else np.inf
        decreased = new.value <= at.value + _SUFFICIENT * size * descent
        flat = new.value <= at.value + noise and rate <= (2 * _SUFFICIENT - 1) * descent
        if not (decreased or flat):
            high = size
        elif rate < _CURVATURE * descent:
            low = size
        else:
            return new
        size = 0.5 * (low + high) if high < np.inf else 2.0 * size
        if not np.any(at.x + size * move != at.x):
            return None
    return None


def _halve(objective, at, slope, move, first, within_orthant, noise) -> _Point | None:
    orthant = np.where(at.x != 0.0, np.sign(at.x), -np.sign(slope))
    residual = float(np.abs(slope).max())
    for halving in range(_TRIALS):
        x = at.x + first * 0.5**halving * move
        if within_orthant:
            x = np.where(x * orthant > 0.0, x, 0.0)
        change = x - at.x
        if not change.any():
            return None
        new = objective(x)
        predicted = float(at.gradient @ change) + objective.l1 * float(np.abs(x).sum() - np.abs(at.x).sum())
        if new.value <= at.value + _SUFFICIENT * min(predicted, float(slope @ change)):
            return new
        flat = abs(new.value - at.value) <= noise
        if flat and float(np.abs(subgradient(new.x, new.gradient, objective.l1)).max()) < residual:
            return new
    return None


def _coordinate_descent(matrix: np.ndarray, gradient: Vector, x: Vector, l1: float) -> Vector:
    """`min_d g d + d' A d / 2 + l1 |x + d|_1` for a positive definite `A`."""
    move, product = np.zeros_like(x), np.zeros_like(x)
    for _ in range(100):
        largest = 0.0
        for i in range(x.size):
            diagonal = matrix[i, i]
            rest = gradient[i] + product[i] - diagonal * move[i]
            goal = x[i] - rest / diagonal
            goal = np.sign(goal) * max(abs(goal) - l1 / diagonal, 0.0) - x[i]
            change = goal - move[i]
            if change != 0.0:
                product += matrix[:, i] * change
                move[i] = goal
                largest = max(largest, abs(change))
        if largest <= 1e-15 * (1.0 + float(np.abs(x).max())):
            break
    return _on_support(matrix, gradient, x, l1, move)


def _on_support(matrix, gradient, x, l1, move) -> Vector:
    """The exact minimizer among moves to the same signs, if it has them: coordinates find signs long before digits."""
    signs = np.sign(x + move)
    free = signs != 0.0
    if not free.any():
        return move
    held = matrix[np.ix_(free, ~free)] @ -x[~free]
    exact = -x.copy()
    right = -(gradient[free] + l1 * signs[free] + held)
    exact[free] = np.linalg.solve(matrix[np.ix_(free, free)], right)
    return exact if np.array_equal(np.sign(x + exact), signs) else move
