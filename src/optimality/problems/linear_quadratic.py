"""Linear dynamics, quadratic costs: the continuous problem whose optimum is known.

    x' = A x + B u + w,   w ~ N(0, W),       cost of a step  1/2 x'Q x + 1/2 u'R u,       x_0 ~ N(mean, covariance)

Costs are minimized, as every control text has it; values elsewhere in the library are rewards, minus the cost.
"""

from typing import Any

import equinox as eqx
import numpy as np
from jaxtyping import Array, Float

from optimality.core.numerics import is_traced
from optimality.problems.criterion import Criterion, Discounted, FiniteHorizon


def _matrix(value: Any) -> Any:
    """Concrete arrays as NumPy float64; a number as a 1 x 1 matrix; traced arrays as they are."""
    return value if value is None or is_traced(value) else np.atleast_2d(np.asarray(value, np.float64))


def _vector(value: Any) -> Any:
    return value if value is None or is_traced(value) else np.atleast_1d(np.asarray(value, np.float64))


class LinearQuadratic(eqx.Module):
    """A linear-quadratic problem with `n` state coordinates and `m` controls, constant in time.

    What is not given is zero, except that Q and R must be. Raises `ValueError` for wrong shapes, numbers that are not
    finite, asymmetry, an R that is not positive definite or covariances or a Q that are not positive semidefinite.
    """

    A: Float[Array | np.ndarray, "n n"] = eqx.field(converter=_matrix)
    """Dynamics of the state."""
    B: Float[Array | np.ndarray, "n m"] = eqx.field(converter=_matrix)
    """Effect of the controls."""
    Q: Float[Array | np.ndarray, "n n"] = eqx.field(converter=_matrix)
    """Cost of states, symmetric and positive semidefinite; costs are `1/2 x'Q x`."""
    R: Float[Array | np.ndarray, "m m"] = eqx.field(converter=_matrix)
    """Cost of controls, symmetric and positive definite; costs are `1/2 u'R u`."""
    criterion: Criterion = eqx.field(kw_only=True)
    """`FiniteHorizon(horizon, discount)` without terminal reward, or another."""
    W: Float[Array | np.ndarray, "n n"] | None = eqx.field(converter=_matrix, kw_only=True, default=None)
    """Covariance of the noise."""
    initial_mean: Float[Array | np.ndarray, " n"] | None = eqx.field(converter=_vector, kw_only=True, default=None)
    """Mean of the first state."""
    initial_covariance: Float[Array | np.ndarray, "n n"] | None = eqx.field(
        converter=_matrix, kw_only=True, default=None
    )
    """Covariance of the first state."""

    def __post_init__(self):
        n = _matrix(self.A).shape[-1]  # converters come after
        for name, shape in (("W", (n, n)), ("initial_mean", (n,)), ("initial_covariance", (n, n))):
            if getattr(self, name) is None:
                setattr(self, name, np.zeros(shape))

    def __check_init__(self):
        n, m = self.A.shape[-1], self.B.shape[-1]
        for name, shape in _shapes(n, m).items():
            given = getattr(self, name).shape
            if given != shape:
                raise ValueError(
                    f"{name} has shape {given}, but needs {shape}: A is [n, n] and B is [n, m], here n = {n}, m = {m}."
                )
        if isinstance(self.criterion, FiniteHorizon):
            terminal = self.criterion.terminal_reward
            if np.ndim(terminal) or (not is_traced(terminal) and terminal != 0.0):
                raise ValueError("a terminal_reward of the criterion has no meaning here: leave it 0.")
        for name in _shapes(n, m):
            matrix = getattr(self, name)
            if not is_traced(matrix):
                _check(name, np.asarray(matrix))

    @property
    def shape(self) -> tuple[int, int]:
        """Numbers of state coordinates and of controls."""
        return self.A.shape[0], self.B.shape[1]

    @property
    def horizon(self) -> int | None:
        """Number of steps, or None where the criterion has no end."""
        return int(self.criterion.horizon) if isinstance(self.criterion, FiniteHorizon) else None

    @property
    def discount(self) -> Any:
        return self.criterion.discount if isinstance(self.criterion, FiniteHorizon | Discounted) else 1.0


def _shapes(n: int, m: int) -> dict[str, tuple[int, ...]]:
    square = (n, n)
    return {
        "A": square,
        "B": (n, m),
        "Q": square,
        "R": (m, m),
        "W": square,
        "initial_mean": (n,),
        "initial_covariance": square,
    }


def _check(name: str, matrix: np.ndarray) -> None:
    wrong = np.argwhere(~np.isfinite(matrix))
    if wrong.size:
        raise ValueError(f"{name} at {tuple(wrong[0].tolist())} is {matrix[tuple(wrong[0])]}: entries must be finite.")
    if name not in ("Q", "R", "W", "initial_covariance"):
        return
    scale = max(float(np.abs(matrix).max(initial=0.0)), np.finfo(float).tiny)
    gap = np.abs(matrix - matrix.T)
    if gap.max(initial=0.0) > 1e-9 * scale:
        row, column = np.unravel_index(gap.argmax(), gap.shape)
        raise ValueError(
            f"{name} must be symmetric, but entries ({row}, {column}) and ({column}, {row}) are "
            f"{matrix[row, column]:.10g} and {matrix[column, row]:.10g}: pass (M + M.T) / 2, the same quadratic form."
        )
    smallest = float(np.linalg.eigvalsh((matrix + matrix.T) / 2)[0])
    if name == "R" and smallest <= 1e-12 * scale:
        raise ValueError(
            f"R must be positive definite, but its smallest eigenvalue is {smallest:.3g}: every control must cost."
        )
    if smallest < -1e-9 * scale:
        raise ValueError(f"{name} must be positive semidefinite, but its smallest eigenvalue is {smallest:.3g}.")
