"""Can the controls move every mode of a linear system, and does the cost or a sensor see it?

A mode is an eigenvalue `lambda` of A. By the test of Popov, Belevitch and Hautus it can be moved if and only if

    sigma_min [lambda I - A, B] > 0,

and how far that singular value is from zero, its margin, says how large a gain it takes. A system is controllable if
every mode can be moved, and stabilizable if every mode that does not decay can: one with `|lambda| >= 1`, or with
a discount `|lambda| >= 1 / sqrt(discount)`, since the system then is `(sqrt(discount) A, sqrt(discount) B)`.
Observable and detectable are the same of (A', C'). A finite horizon needs none of this; an infinite one needs
stabilizable and detectable, no more.

Everything here runs on the host in float64. The rank is that of the staircase form (Van Dooren 1981), orthogonal
steps only, so that it does not suffer from powers of A; Paige 1981 compares the ways.
"""

import math
import warnings
from typing import Any, NamedTuple

import numpy as np
import scipy.linalg

TOLERANCE = 1e-12
"""Margins below this, relative to the size of A and B, are rounding."""
ILL_CONDITIONED = 1e-6
"""Below this margin of a mode that does not decay, solvers disagree about the gain by orders of magnitude."""
_BOUNDARY = 1e-8  # rounding of an eigenvalue on the boundary, of one in a Jordan block too


class IllConditionedWarning(UserWarning):
    """A mode that has to be moved, or seen, barely can: the answer may be off by orders of magnitude."""


class Mode(NamedTuple):
    """An eigenvalue, `sigma_min [lambda I - A, B] / max(1, |A|)`, whether it can be moved, whether it decays."""

    eigenvalue: complex
    pbh_margin: float
    controllable: bool
    decays: bool


class ControllabilityReport(NamedTuple):
    """What the controls can reach; `gramian_condition` is that of the Gramian over as many steps as states."""

    rank: int
    controllable: bool
    stabilizable: bool
    modes: tuple[Mode, ...]
    gramian_condition: float
    message: str


class ObservabilityReport(NamedTuple):
    """What the sensors see; in its modes, `controllable` is that of the dual: whether they see it."""

    rank: int
    observable: bool
    detectable: bool
    modes: tuple[Mode, ...]
    gramian_condition: float
    message: str


def controllability(A: Any, B: Any, tolerance: float | None = None, *, discount: float = 1.0) -> ControllabilityReport:
    """Rank, modes with their margins, and a sentence about them.

    Args:
        A: dynamics of the state, `[n, n]`.
        B: effect of the controls, `[n, m]`.
        tolerance: smallest singular value that counts, relative to the size of A and B; by default `TOLERANCE`.
        discount: of the cost; modes with `|lambda| < 1 / sqrt(discount)` count as decaying.

    Raises:
        ValueError: wrong shapes, numbers that are not finite, or a discount outside of (0, 1].
    """
    A, B = _pair(A, B, "B")
    return ControllabilityReport(*_report(A, B, tolerance, discount, _CONTROLS))


def observability(A: Any, C: Any, tolerance: float | None = None, *, discount: float = 1.0) -> ObservabilityReport:
    """The same of what is seen, `y = C x` with C `[p, n]`: controllability of (A', C')."""
    A, C = _pair(A, C, "C")
    return ObservabilityReport(*_report(A.T, C.T, tolerance, discount, _SENSORS))


def require_stabilizable(A: Any, B: Any, discount: float = 1.0) -> None:
    """Nothing where an infinite horizon has an answer.

    Raises `ValueError` naming the modes that no feedback can move and the ways out. Warns, `IllConditionedWarning`,
    where a mode that does not decay has a margin below `ILL_CONDITIONED`.
    """
    A, B = _pair(A, B, "B")
    _require(_modes(A, B, None, _checked(discount))[1], _CONTROLS, discount)


def require_detectable(A: Any, Q: Any, discount: float = 1.0) -> None:
    """The same for the cost: nothing where every mode of A that does not decay costs something.

    Q `[n, n]` is the cost of states and A the dynamics under no control; with a cross term N of the cost these are
    `Q - N R^-1 N'` and `A - B R^-1 N'`. Q enters as it is, not by its root, which would make rounding look like cost.
    """
    A, Q = _pair(A, Q, "C")
    _require(_modes(A.T, Q.T, None, _checked(discount))[1], _COST, discount)


def reachability_matrix(A: Any, B: Any, steps: int | None = None) -> np.ndarray:
    """`R [n, steps * m]` in `x_T = Phi x_0 + R [u_0; u_1; ...]`, for constant or time-varying `A`, `B`.

    Args:
        A: `[n, n]`, or `[T, n, n]`.
        B: `[n, m]`, or `[T, n, m]`.
        steps: T, where neither array has a time axis; by default the number of states.

    Raises:
        ValueError: lengths that differ, or wrong shapes.
    """
    A, B, steps = _in_time(A, B, steps)
    n, m = B.shape[1:]
    columns, transition = np.empty((steps, n, m)), np.eye(n)
    for time in reversed(range(steps)):
        columns[time] = transition @ B[time]
        transition = transition @ A[time]
    return columns.transpose(1, 0, 2).reshape(n, steps * m)


def controllability_gramian(A: Any, B: Any, steps: int | None = None) -> np.ndarray:
    """`W = sum_t Phi(T, t+1) B_t B_t' Phi(T, t+1)'`, `[n, n]`; the least energy that reaches x is `x' W^-1 x`.

    Constant arrays without `steps` have the infinite sum, the solution of `W = A W A' + B B'`.

    Raises:
        ValueError: wrong shapes, or an infinite sum that does not converge.
    """
    if steps is None and np.ndim(A) == np.ndim(B) == 2:
        A, B = _pair(A, B, "B")
        largest = float(np.abs(np.linalg.eigvals(A)).max())
        if largest >= 1.0:
            raise ValueError(
                f"the infinite Gramian does not exist: A has a mode of size {largest:.4g}, and all must be below 1. "
                "Give a number of steps."
            )
        return scipy.linalg.solve_discrete_lyapunov(A, B @ B.T)
    A, B, steps = _in_time(A, B, steps)
    gramian = np.zeros(A.shape[1:])
    for time in range(steps):
        gramian = A[time] @ gramian @ A[time].T + B[time] @ B[time].T
    return (gramian + gramian.T) / 2


class _Wording(NamedTuple):
    """How a message speaks of controls, sensors or the cost."""

    pair: str
    good: tuple[str, str]
    unable: str
    consequence: str
    ways_out: str
    barely: str


_CONTROLS = _Wording(
    "(A, B)",
    ("controllable", "stabilizable"),
    "no feedback can move it",
    "and the infinite-horizon cost is infinite",
    "another actuator",
    "moved",
)
_SENSORS = _Wording(
    "(A, C)",
    ("observable", "detectable"),
    "no sensor sees it",
    "and its estimate has infinite variance in the long run",
    "another sensor",
    "seen",
)
_COST = _Wording(
    "(A, Q)",
    ("observable", "detectable"),
    "it costs nothing",
    "and the best controls let it grow for ever",
    "a cost on it in Q",
    "seen by the cost",
)


def _report(A, B, tolerance, discount, wording: _Wording) -> tuple[int, bool, bool, tuple[Mode, ...], float, str]:
    rank, modes = _modes(A, B, tolerance, _checked(discount))
    whole = all(mode.controllable for mode in modes)
    enough = all(mode.controllable or mode.decays for mode in modes)
    values = np.linalg.eigvalsh(controllability_gramian(A, B, steps=len(A)))
    condition = math.inf if values[0] <= 0.0 else float(values[-1] / values[0])
    return rank, whole, enough, modes, condition, _message(modes, wording, discount)


def _modes(A, B, tolerance, discount) -> tuple[int, tuple[Mode, ...]]:
    size = max(1.0, float(np.linalg.norm(A, 2)))
    least = (TOLERANCE if tolerance is None else tolerance) * max(size, float(np.linalg.norm(B, 2)))
    rank, reached, left = _staircase(A, B, least)
    found = []
    for eigenvalue in np.concatenate([np.linalg.eigvals(reached), np.linalg.eigvals(left)]):
        pencil = np.concatenate([eigenvalue * np.eye(len(A)) - A, B], axis=1)
        margin = float(np.linalg.svd(pencil, compute_uv=False)[-1])
        controllable = len(found) < rank and margin > least
        decays = abs(eigenvalue) * math.sqrt(discount) < 1.0 - _BOUNDARY
        found.append(Mode(complex(eigenvalue), margin / size, controllable, bool(decays)))
    found.sort(key=lambda mode: (-abs(mode.eigenvalue), -mode.eigenvalue.real, -mode.eigenvalue.imag))
    return rank, tuple(found)


def _staircase(A, B, least) -> tuple[int, np.ndarray, np.ndarray]:
    """Dimension of what B reaches, and A on that subspace and on what is left, by orthogonal steps."""
    n, rank, entering = len(A), 0, B
    A = A.copy()
    while rank < n:
        vectors, values, _ = np.linalg.svd(entering)
        new = int((values > least).sum())
        if new == 0:
            break
        A[rank:] = vectors.T @ A[rank:]
        A[:, rank:] = A[:, rank:] @ vectors
        entering = A[rank + new :, rank : rank + new]
        rank += new
    return rank, A[:rank, :rank], A[rank:, rank:]


def _require(modes, wording: _Wording, discount) -> None:
    if any(not mode.controllable and not mode.decays for mode in modes):
        raise ValueError(_message(modes, wording, discount))
    weak = [mode for mode in modes if not mode.decays and mode.pbh_margin < ILL_CONDITIONED]
    if weak:
        warnings.warn(
            f"{wording.pair} is barely {wording.good[1]}: mode {_number(weak[0].eigenvalue)} has PBH margin "
            f"{weak[0].pbh_margin:.1g}, below {ILL_CONDITIONED:.0e}. It can hardly be {wording.barely}, and gains may "
            f"be wrong by orders of magnitude. Check units, or add {wording.ways_out}.",
            IllConditionedWarning,
            stacklevel=3,
        )


def _message(modes, wording: _Wording, discount) -> str:
    whole, enough = wording.good
    lost = [mode for mode in modes if not mode.controllable]
    if not lost:
        weakest = min(modes, key=lambda mode: mode.pbh_margin)
        return (
            f"{wording.pair} is {whole}: the smallest PBH margin is {weakest.pbh_margin:.2g}, "
            f"of mode {_number(weakest.eigenvalue)}."
        )
    growing = [mode for mode in lost if not mode.decays]
    if not growing:
        return (
            f"{wording.pair} is not {whole} but {enough}: {_list(lost)} cannot be {wording.barely}, "
            f"and {'decays' if len(lost) == 1 else 'decay'} without."
        )
    largest = abs(growing[0].eigenvalue)
    boundary = "1" if discount == 1.0 else f"{1.0 / math.sqrt(discount):.4g} = 1 / sqrt(discount)"
    several = "" if len(growing) == 1 else f" (the largest of {len(growing)} such modes)"
    return (
        f"{wording.pair} is not {enough}: mode {_number(growing[0].eigenvalue)} (|lambda| >= {boundary}) has PBH "
        f"margin {growing[0].pbh_margin:.1g}{several}, {wording.unable} {wording.consequence}. "
        f"Options: finite horizon, discount < 1/|lambda|^2 = {1.0 / largest**2:.3g}, or {wording.ways_out}."
    )


def _list(modes) -> str:
    shown = ", ".join(_number(mode.eigenvalue) for mode in modes[:4]) + (", ..." if len(modes) > 4 else "")
    return f"{'mode' if len(modes) == 1 else 'modes'} {shown}"


def _number(eigenvalue: complex) -> str:
    if abs(eigenvalue.imag) <= 1e-6 * max(1.0, abs(eigenvalue)):  # two of one Jordan block may part by a root of eps
        return f"{eigenvalue.real:.3g}"
    return f"{eigenvalue.real:.3g}{eigenvalue.imag:+.3g}i"


def _checked(discount: Any) -> float:
    if not 0.0 < float(discount) <= 1.0:
        raise ValueError(f"discount must be in (0, 1], but {discount} was given.")
    return float(discount)


def _pair(A: Any, other: Any, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Both as float64 matrices; B has as many rows, C as many columns as A."""
    A, other = np.atleast_2d(np.asarray(A, np.float64)), np.atleast_2d(np.asarray(other, np.float64))
    if A.ndim != 2 or A.shape[0] != A.shape[1] or not A.size:
        raise ValueError(
            f"A has shape {A.shape}, but needs [n, n]: one matrix, of one step. "
            "For a system that changes in time use controllability_gramian."
        )
    axis = 0 if name == "B" else 1
    if other.ndim != 2 or other.shape[axis] != len(A):
        needed = f"[{len(A)}, m]" if name == "B" else f"[p, {len(A)}]"
        raise ValueError(f"{name} has shape {other.shape}, but needs {needed}: A is {len(A)} x {len(A)}.")
    for label, matrix in (("A", A), (name, other)):
        if not np.isfinite(matrix).all():
            raise ValueError(f"{label} has entries that are not finite.")
    return A, other


def _in_time(A: Any, B: Any, steps: int | None) -> tuple[np.ndarray, np.ndarray, int]:
    A, B = np.atleast_2d(np.asarray(A, np.float64)), np.atleast_2d(np.asarray(B, np.float64))
    lengths = {len(array) for array in (A, B) if array.ndim == 3} | ({steps} if steps is not None else set())
    lengths = lengths or {A.shape[-1]}
    n = A.shape[-1]
    if len(lengths) > 1 or A.shape[-2:] != (n, n) or B.shape[-2] != n or max(A.ndim, B.ndim) > 3 or min(lengths) < 1:
        raise ValueError(
            f"A {A.shape} and B {B.shape} with steps {steps} do not fit: they are [n, n] or [T, n, n] and [n, m] or "
            "[T, n, m], and T is the number of steps."
        )
    steps = lengths.pop()
    return np.broadcast_to(A, (steps, n, n)), np.broadcast_to(B, (steps, *B.shape[-2:])), steps
