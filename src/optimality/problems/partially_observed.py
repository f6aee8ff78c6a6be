"""Problems whose state is not seen: a process, and how it is observed.

    finite     o_0 ~ first(o | s_0),          o_{t+1} ~ p(o | a_t, s_{t+1})
    linear     y_0 = C x_0 + d + v_0,         y_{t+1} = C x_{t+1} + D u_t + d + v_{t+1},        v ~ N(0, V)

The first state is observed too: T actions go with T+1 observations. An observation may depend on the action before it
(a look that is chosen, a sensor that feels its motor), and the first one has no action before it
(Kaelbling, Littman and Cassandra 1998; Anderson and Moore 1979, chapter 5).
"""

from typing import Any, NamedTuple

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from optimality.core.numerics import is_traced
from optimality.problems.linear_quadratic import LinearQuadratic
from optimality.problems.tabular import TabularMDP


def _array(value: Any) -> Any:
    """Concrete arrays as NumPy float64; traced ones as they are."""
    return value if value is None or is_traced(value) else np.asarray(value, np.float64)


def _matrix(value: Any) -> Any:
    return value if value is None or is_traced(value) else np.atleast_2d(np.asarray(value, np.float64))


def _vector(value: Any) -> Any:
    return value if value is None or is_traced(value) else np.atleast_1d(np.asarray(value, np.float64))


class TabularObservation(eqx.Module):
    """Observations `0 .. O-1` of a finite state.

    Raises `ValueError` for rows that are no probability distributions, for shapes that do not fit each other, and
    for a `first` that is missing where `probability` depends on the action.
    """

    probability: Float[Array | np.ndarray, "..."] = eqx.field(converter=_array)
    """`p(o | s')` as `[S, O]`, or `p(o | a, s')` as `[A, S, O]` with `a` the action that led to `s'`."""
    first: Float[Array | np.ndarray, "..."] = eqx.field(converter=_array, default=None)
    """`p(o_0 | s_0)` as `[S, O]`; by default `probability`, where that has no action axis."""

    def __post_init__(self):
        if self.first is None:
            if np.ndim(self.probability) == 3:
                raise ValueError(
                    f"first is missing: probability, {np.shape(self.probability)}, depends on the action before the "
                    f"observation, and no action comes before the first one. Pass first=, states by observations."
                )
            self.first = self.probability

    def __check_init__(self):
        shape, first = np.shape(self.probability), np.shape(self.first)
        if len(shape) not in (2, 3) or 0 in shape:
            raise ValueError(f"probability has shape {shape}, but needs [S, O] or [A, S, O]: one row for each state.")
        if first != shape[-2:]:
            raise ValueError(f"first has shape {first}, but needs {shape[-2:]}: states by observations.")
        for name in ("probability", "first"):
            table = getattr(self, name)
            if not is_traced(table):
                _check_rows(name, np.asarray(table))

    @property
    def shape(self) -> tuple[int, int]:
        """Numbers of states and of observations."""
        states, observations = self.probability.shape[-2:]
        return states, observations

    @property
    def depends_on_action(self) -> bool:
        return self.probability.ndim == 3

    def likelihood(self, observation: Any, action: Any) -> Float[Array, " states"]:
        """`p(observation | action, s')` of every state entered by `action`."""
        table = jnp.asarray(self.probability)
        return table[action, :, observation] if self.depends_on_action else table[:, observation]

    def first_likelihood(self, observation: Any) -> Float[Array, " states"]:
        """`p(observation | s_0)` of every first state."""
        return jnp.asarray(self.first)[:, observation]


class ObservationStage(NamedTuple):
    """What changes in time: measurements and covariance of their noise."""

    C: Float[Array | np.ndarray, "p n"]
    V: Float[Array | np.ndarray, "p p"]


class LinearObservation(eqx.Module):
    """`p` linear measurements of a state with `n` coordinates, with Gaussian noise.

    Raises `ValueError` for wrong shapes, numbers that are not finite, an asymmetric V or one that is not positive
    definite: an exact measurement has no density, so give it a small variance.
    """

    C: Float[Array | np.ndarray, "..."] = eqx.field(converter=_matrix)
    """What is measured, `[p, n]`, or `[T+1, p, n]` where it changes in time."""
    V: Float[Array | np.ndarray, "..."] = eqx.field(converter=_matrix)
    """Covariance of the measurement noise, `[p, p]` or `[T+1, p, p]`."""
    D: Float[Array | np.ndarray, "..."] | None = eqx.field(converter=_matrix, kw_only=True, default=None)
    """Effect of the control before, `[p, m]`; None: there is none. The first observation has no control before it."""
    d: Float[Array | np.ndarray, "..."] = eqx.field(converter=_vector, kw_only=True, default=None)
    """Offset `[p]`; by default zero."""

    def __post_init__(self):
        if self.d is None:
            self.d = np.zeros(np.shape(_matrix(self.C))[-2])  # converters come after

    def __check_init__(self):
        p, shapes = self.C.shape[-2], {"C": self.C.shape, "V": self.V.shape}
        for name, shape in shapes.items():
            if len(shape) not in (2, 3):
                raise ValueError(f"{name} has shape {shape}, but needs two axes, or three where it changes in time.")
        if self.V.shape[-2:] != (p, p):
            raise ValueError(f"V has shape {self.V.shape}, but needs ({p}, {p}): C has {p} rows, the measurements.")
        lengths = {name: shape[0] for name, shape in shapes.items() if len(shape) == 3}
        if len(set(lengths.values())) > 1:
            raise ValueError(f"C and V change in time, but have {lengths['C']} and {lengths['V']} entries.")
        if self.D is not None and (self.D.ndim != 2 or self.D.shape[0] != p):
            raise ValueError(f"D has shape {self.D.shape}, but needs ({p}, m): measurements by controls.")
        if np.shape(self.d) != (p,):
            raise ValueError(f"d has shape {np.shape(self.d)}, but needs ({p},): one offset for each measurement.")
        for name in ("C", "V", "D", "d"):
            array = getattr(self, name)
            if array is not None and not is_traced(array):
                _check_finite(name, np.asarray(array))
        if not is_traced(self.V):
            _check_positive_definite(np.asarray(self.V))

    @property
    def shape(self) -> tuple[int, int]:
        """Numbers of measurements and of state coordinates."""
        return self.C.shape[-2], self.C.shape[-1]

    @property
    def steps(self) -> int | None:
        """Number of observations that C or V are given for, T+1, or None where both are constant."""
        return next((array.shape[0] for array in (self.C, self.V) if array.ndim == 3), None)

    @property
    def depends_on_time(self) -> bool:
        return self.steps is not None

    def stage(self, t: Any) -> ObservationStage:
        """C and V of time `t`, which may be traced."""

        def at(array):
            if array.ndim == 2:
                return array
            return array[t] if isinstance(t, int) else jnp.asarray(array)[t]

        return ObservationStage(at(self.C), at(self.V))

    def offsets(self, controls: Float[Array, "time m"]) -> Float[Array, "time_and_end p"]:
        """What `D u + d` adds to each of the T+1 observations, the first of which no control comes before."""
        d = jnp.asarray(self.d, controls.dtype)
        added = jnp.zeros((controls.shape[0] + 1, d.shape[0]), d.dtype) + d[None]
        return added if self.D is None else added.at[1:].add(controls @ jnp.asarray(self.D, d.dtype).T)


class PartiallyObserved(eqx.Module):
    """A problem with a state that is only seen through an observation.

    Raises `ValueError` where the observation does not fit the problem: other numbers of states, actions, coordinates,
    controls or times, or a table for a linear problem.
    """

    problem: TabularMDP | LinearQuadratic
    observation: TabularObservation | LinearObservation
    name: str = eqx.field(static=True, default="PartiallyObserved", kw_only=True)

    def __check_init__(self):
        problem, observation = self.problem, self.observation
        if isinstance(problem, TabularMDP) and isinstance(observation, TabularObservation):
            _check_tables(problem, observation)
        elif isinstance(problem, LinearQuadratic) and isinstance(observation, LinearObservation):
            _check_linear(problem, observation)
        else:
            raise ValueError(
                f"a {type(problem).__name__} cannot be observed through a {type(observation).__name__}: a TabularMDP "
                f"needs a TabularObservation, a LinearQuadratic a LinearObservation."
            )


def _check_tables(problem: TabularMDP, observation: TabularObservation) -> None:
    states, actions = problem.shape
    if observation.shape[0] != states:
        raise ValueError(f"the observation has rows for {observation.shape[0]} states, but the problem has {states}.")
    if observation.depends_on_action and observation.probability.shape[0] != actions:
        raise ValueError(
            f"the observation depends on {observation.probability.shape[0]} actions, but the problem has {actions}."
        )


def _check_linear(problem: LinearQuadratic, observation: LinearObservation) -> None:
    n, m = problem.shape
    if observation.shape[1] != n:
        raise ValueError(f"C measures {observation.shape[1]} coordinates, but the problem's state has {n}.")
    if observation.D is not None and observation.D.shape[1] != m:
        raise ValueError(f"D takes {observation.D.shape[1]} controls, but the problem has {m}.")
    if observation.depends_on_time and problem.horizon is None:
        raise ValueError("C or V change in time, but the problem's criterion has no end: use FiniteHorizon(horizon).")
    if observation.depends_on_time and observation.steps != problem.horizon + 1:  # pyright: ignore
        raise ValueError(
            f"C or V are given for {observation.steps} observations, but a horizon of {problem.horizon} has "
            f"{problem.horizon + 1}: the first state is observed too."  # pyright: ignore
        )


def _check_rows(name: str, table: np.ndarray) -> None:
    wrong = np.argwhere(~np.isfinite(table) | (table < 0.0))
    if wrong.size:
        index = tuple(wrong[0].tolist())
        raise ValueError(f"{name} at {index} is {table[index]}: probabilities must be finite and not negative.")
    total = table.sum(axis=-1)
    wrong = np.argwhere(np.abs(total - 1.0) > 1e-6)
    if wrong.size:
        index = tuple(wrong[0].tolist())
        axes = ("action", "state")[-len(index) :]
        where = ", ".join(f"{axis} {i}" for axis, i in zip(axes, index, strict=True))
        raise ValueError(f"{name} at {where} sums to {total[index]:.10g} over observations, not to 1.")


def _check_finite(name: str, array: np.ndarray) -> None:
    wrong = np.argwhere(~np.isfinite(array))
    if wrong.size:
        raise ValueError(f"{name} at {tuple(wrong[0].tolist())} is {array[tuple(wrong[0])]}: entries must be finite.")


def _check_positive_definite(V: np.ndarray) -> None:
    for t, matrix in enumerate(V if V.ndim == 3 else V[None]):
        where = f" at time {t}" if V.ndim == 3 else ""
        scale = max(float(np.abs(matrix).max(initial=0.0)), np.finfo(float).tiny)
        gap = np.abs(matrix - matrix.T)
        if gap.max(initial=0.0) > 1e-9 * scale:
            row, column = np.unravel_index(gap.argmax(), gap.shape)
            raise ValueError(
                f"V{where} must be symmetric, but entries ({row}, {column}) and ({column}, {row}) are "
                f"{matrix[row, column]:.10g} and {matrix[column, row]:.10g}: pass (V + V.T) / 2."
            )
        deviation = np.sqrt(np.maximum(np.diagonal(matrix), np.finfo(float).tiny))
        smallest = float(np.linalg.eigvalsh(matrix / np.outer(deviation, deviation))[0])
        if smallest <= 1e-12 or matrix.diagonal().min() <= 0.0:
            raise ValueError(
                f"V{where} must be positive definite, but the smallest eigenvalue of its correlation matrix is "
                f"{smallest:.3g}: give an exact measurement a small variance, and drop one that repeats another."
            )
