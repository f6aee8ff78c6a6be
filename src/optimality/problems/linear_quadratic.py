"""Linear dynamics, quadratic costs: the continuous problem whose optimum is known.

    x' = A x + B u + c + w + sum_i (o_i + C_i x + D_i u) xi_i,   w ~ N(0, W),  xi_i ~ N(0, 1),  x_0 ~ N(mean, cov)
    cost of a step    1/2 x'Q x + 1/2 u'R u + x'N u + q'x + r'u + s
    cost at the end   1/2 x'Qf x + qf'x + sf

Costs are minimized and carry the half, as every control text has it; policies are `u = K x + k`; values elsewhere in
the library are rewards, minus the cost. All noise is independent; a channel `i` is a vector, affine in state and
control, times one scalar, so its size may depend on both, and its constant part is correlated with the rest.
"""

from typing import Any, NamedTuple

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from optimality.core.numerics import Real, is_traced
from optimality.problems.criterion import AverageReward, Criterion, Discounted, FiniteHorizon


def stored(dimensions: int):
    """Converter: concrete values to NumPy float64 of at least that many dimensions; traced or absent ones stay."""

    def convert(value: Any) -> Any:
        if value is None or is_traced(value):
            return value
        value = np.asarray(value, np.float64)
        return value.reshape((1,) * (dimensions - value.ndim) + value.shape)

    return convert


_Tensor = Float[Array | np.ndarray, "..."]


class NoiseChannels(eqx.Module):
    """Noise whose size depends on state and control: `sum_i (offset_i + state_i x + control_i u) xi_i`, `L` channels.

    Each array may have a leading axis of time. What is not given is zero.
    """

    state: _Tensor = eqx.field(converter=stored(3), default=None)
    """`[L, n, n]` or `[T, L, n, n]`: the vector of each channel as it depends on the state."""
    control: _Tensor = eqx.field(converter=stored(3), default=None)
    """`[L, n, m]` or `[T, L, n, m]`: as it depends on the control."""
    offset: _Tensor = eqx.field(converter=stored(2), default=None)
    """`[L, n]` or `[T, L, n]`: its constant part."""

    def filled(self, n: int, m: int) -> "NoiseChannels":
        """With zeros in place of what was not given. Raises `ValueError` where nothing was."""
        given = [value for value in (self.state, self.control) if value is not None]
        counts = [value.shape[-3] for value in given] + ([] if self.offset is None else [self.offset.shape[-2]])
        if not counts:
            raise ValueError("NoiseChannels has no arrays: give state, control or offset, or leave channels out.")

        def fill(value, *shape):
            return np.zeros((counts[0], *shape)) if value is None else value

        return NoiseChannels(fill(self.state, n, n), fill(self.control, n, m), fill(self.offset, n))


class Stage(NamedTuple):
    """Dynamics and cost of one step, or of all with a leading axis of time."""

    A: _Tensor
    B: _Tensor
    c: _Tensor
    W: _Tensor
    Q: _Tensor
    R: _Tensor
    N: _Tensor
    q: _Tensor
    r: _Tensor
    s: _Tensor
    channels: NoiseChannels | None


class LinearQuadratic(eqx.Module):
    """A linear-quadratic problem with `n` state coordinates and `m` controls.

    Each array is constant, or has a leading axis of `T` steps where the criterion is `FiniteHorizon(T)`; `A` maps time
    t to t + 1. What is not given is zero. The objective is `sum_t discount^t cost_t + discount^T cost at the end`, or
    its average.

    Raises `ValueError` for wrong shapes, numbers that are not finite, asymmetry, and covariances that are not positive
    semidefinite. Whether costs are convex enough is found by the solver: `Q_uu = R + B'PB` must be positive definite.
    """

    A: _Tensor = eqx.field(converter=stored(2))
    """Dynamics of the state, `[n, n]` or `[T, n, n]`."""
    B: _Tensor = eqx.field(converter=stored(2))
    """Effect of the controls, `[n, m]` or `[T, n, m]`."""
    Q: _Tensor = eqx.field(converter=stored(2))
    """Cost of states, symmetric; costs are `1/2 x'Q x`."""
    R: _Tensor = eqx.field(converter=stored(2))
    """Cost of controls, symmetric; costs are `1/2 u'R u`."""
    criterion: Criterion = eqx.field(kw_only=True)
    """`FiniteHorizon(horizon, discount)` without terminal reward, `Discounted(discount)` or `AverageReward()`."""
    c: _Tensor = eqx.field(converter=stored(1), kw_only=True, default=None)
    """Constant drift, `[n]`."""
    N: _Tensor = eqx.field(converter=stored(2), kw_only=True, default=None)
    """Cost of states and controls together, `x'N u`, `[n, m]`."""
    q: _Tensor = eqx.field(converter=stored(1), kw_only=True, default=None)
    """Linear cost of states, `[n]`."""
    r: _Tensor = eqx.field(converter=stored(1), kw_only=True, default=None)
    """Linear cost of controls, `[m]`."""
    s: _Tensor = eqx.field(converter=stored(0), kw_only=True, default=None)
    """Constant cost of a step."""
    Qf: _Tensor = eqx.field(converter=stored(2), kw_only=True, default=None)
    """Cost of the last state, symmetric; finite horizons only."""
    qf: _Tensor = eqx.field(converter=stored(1), kw_only=True, default=None)
    """Linear cost of the last state."""
    sf: _Tensor = eqx.field(converter=stored(0), kw_only=True, default=None)
    """Constant cost at the end."""
    W: _Tensor = eqx.field(converter=stored(2), kw_only=True, default=None)
    """Covariance of the noise, `[n, n]`."""
    channels: NoiseChannels | None = eqx.field(kw_only=True, default=None)
    """Noise that depends on state and control."""
    initial_mean: _Tensor = eqx.field(converter=stored(1), kw_only=True, default=None)
    """Mean of the first state."""
    initial_covariance: _Tensor = eqx.field(converter=stored(2), kw_only=True, default=None)
    """Covariance of the first state."""
    name: str = eqx.field(kw_only=True, static=True, default="linear-quadratic problem")
    """For reports."""
    state_names: tuple[str, ...] = eqx.field(kw_only=True, static=True, default=())
    """One name a coordinate, `x0`, `x1`, ... by default."""
    control_names: tuple[str, ...] = eqx.field(kw_only=True, static=True, default=())
    """One name a control, `u0`, `u1`, ... by default."""

    def __post_init__(self):
        n, m = stored(2)(self.A).shape[-1], stored(2)(self.B).shape[-1]  # converters come after
        for name, shape in _shapes(n, m).items():
            if getattr(self, name) is None:
                setattr(self, name, np.zeros(shape))
        if self.channels is not None:
            self.channels = self.channels.filled(n, m)
        self.state_names = tuple(self.state_names) or tuple(f"x{i}" for i in range(n))
        self.control_names = tuple(self.control_names) or tuple(f"u{i}" for i in range(m))

    def __check_init__(self):
        n, m = self.shape
        for name, array in self._arrays().items():
            self._check_shape(name, array, _all_shapes(self, n, m)[name], n, m)
            if not is_traced(array):
                check(name, np.asarray(array))
        if isinstance(self.criterion, FiniteHorizon):
            terminal = self.criterion.terminal_reward
            if np.ndim(terminal) or (not is_traced(terminal) and terminal != 0.0):
                raise ValueError(
                    "a terminal_reward of the criterion has no meaning here: the last state costs Qf, qf, sf."
                )
        else:
            for name in _TERMINAL:
                array = getattr(self, name)
                if not is_traced(array) and np.any(np.asarray(array)):
                    raise ValueError(
                        f"{name} is the cost of the last state, but {self.criterion} has none: leave it out."
                    )
        if len(self.state_names) != n or len(self.control_names) != m:
            raise ValueError(
                f"state_names needs {n} names and control_names {m}, but {len(self.state_names)} and "
                f"{len(self.control_names)} were given."
            )

    def _arrays(self) -> dict[str, Any]:
        arrays = {name: getattr(self, name) for name in _shapes(*self.shape)}
        if self.channels is not None:
            arrays |= {f"channels.{name}": getattr(self.channels, name) for name in ("state", "control", "offset")}
        return arrays

    def _check_shape(self, name: str, array: Any, shape: tuple[int, ...], n: int, m: int) -> None:
        given = array.shape
        if given == shape:
            return
        where = f"A is [n, n] and B is [n, m], here n = {n}, m = {m}"
        if name in _CONSTANT or not isinstance(self.criterion, FiniteHorizon):
            raise ValueError(f"{name} has shape {given}, but needs {shape}: {where}.")
        timed = (int(self.criterion.horizon), *shape)
        if given != timed:
            raise ValueError(f"{name} has shape {given}, but needs {shape}, or {timed} for one a step: {where}.")

    @property
    def shape(self) -> tuple[int, int]:
        """Numbers of state coordinates and of controls."""
        return self.A.shape[-1], self.B.shape[-1]

    @property
    def horizon(self) -> int | None:
        """Number of steps, or None where the criterion has no end."""
        return int(self.criterion.horizon) if isinstance(self.criterion, FiniteHorizon) else None

    @property
    def discount(self) -> Any:
        return self.criterion.discount if isinstance(self.criterion, FiniteHorizon | Discounted) else 1.0

    @property
    def depends_on_time(self) -> bool:
        """Whether any array has an axis of time."""
        shapes = _all_shapes(self, *self.shape)
        return any(array.ndim > len(shapes[name]) for name, array in self._arrays().items())

    def stage(self, time: int | Int[Array, ""] = 0) -> Stage:
        """Dynamics and cost of step `time`."""

        def at(array, dimensions):
            if array.ndim == dimensions:
                return array
            return array[time] if isinstance(time, int) else jnp.asarray(array)[time]

        return self._stage(at)

    def stages(self) -> Stage:
        """Those of all steps, each array `[T, ...]`: views, not copies, of what is constant. Finite horizons only."""
        horizon = self.horizon
        if horizon is None:
            raise ValueError(f"stages() lists the steps of a finite horizon, but the criterion is {self.criterion}.")

        def over_time(array, dimensions):
            if array.ndim > dimensions:
                return array
            broadcast = np.broadcast_to if isinstance(array, np.ndarray) else jnp.broadcast_to
            return broadcast(array, (horizon, *array.shape))

        return self._stage(over_time)

    def arrays(self) -> Stage:
        """Dynamics and cost as they are stored: only what changes has an axis of time."""
        return self._stage(lambda array, _: array)

    def _stage(self, take) -> Stage:
        shapes = _shapes(*self.shape)
        arrays = {name: take(getattr(self, name), len(shapes[name])) for name in Stage._fields[:-1]}
        channels = self.channels
        if channels is not None:
            channels = NoiseChannels(take(channels.state, 3), take(channels.control, 3), take(channels.offset, 2))
        return Stage(**arrays, channels=channels)

    def drift(self, x: Any, u: Any, time: int | Int[Array, ""] = 0) -> Any:
        """Mean of the next state, `A x + B u + c`."""
        stage = self.stage(time)
        return stage.A @ x + stage.B @ u + stage.c

    def stage_cost(self, x: Any, u: Any, time: int | Int[Array, ""] = 0) -> Any:
        """Cost of one step, in units of the objective and not discounted."""
        stage = self.stage(time)
        quadratic = 0.5 * (x @ (stage.Q @ x)) + 0.5 * (u @ (stage.R @ u)) + x @ (stage.N @ u)
        return quadratic + stage.q @ x + stage.r @ u + stage.s

    def terminal_cost(self, x: Any) -> Any:
        """Cost of the last state."""
        return 0.5 * (x @ (self.Qf @ x)) + self.qf @ x + self.sf

    @classmethod
    def stationary(
        cls, A: Any, B: Any, Q: Any, R: Any, *, horizon: int | None = None, discount: Real = 1.0, **fields: Any
    ) -> "LinearQuadratic":
        """Constant in time: over `horizon` steps, or without an end, discounted or, with discount 1, on average.

        Nothing is copied a step; `stages()` gives views.
        """
        if horizon is not None:
            criterion = FiniteHorizon(horizon, discount)
        else:
            undiscounted = not is_traced(discount) and float(discount) == 1.0
            criterion = AverageReward() if undiscounted else Discounted(discount)
        return cls(A, B, Q, R, criterion=criterion, **fields)

    @staticmethod
    def tracking(A: Any, B: Any, Q: Any, R: Any, states: Any, *more: Any, **options: Any) -> "LinearQuadratic":
        """To follow a reference trajectory: `linear_quadratic_forms.tracking`."""
        from optimality.problems.linear_quadratic_forms import tracking

        return tracking(A, B, Q, R, states, *more, **options)

    @staticmethod
    def from_quadratic_forms(F: Any, f: Any, C: Any, c: Any, **options: Any) -> "LinearQuadratic":
        """From forms over `[x; u]`: `linear_quadratic_forms.from_quadratic_forms`."""
        from optimality.problems.linear_quadratic_forms import from_quadratic_forms

        return from_quadratic_forms(F, f, C, c, **options)

    @staticmethod
    def from_rewards(A: Any, B: Any, **options: Any) -> "LinearQuadratic":
        """From quadratic rewards, whose sign changes there: `linear_quadratic_forms.from_rewards`."""
        from optimality.problems.linear_quadratic_forms import from_rewards

        return from_rewards(A, B, **options)

    @staticmethod
    def from_continuous(F: Any, G: Any, Q: Any, R: Any, **options: Any) -> "LinearQuadratic":
        """In continuous time, sampled and held exactly: `sampled_data.from_continuous`."""
        from optimality.problems.sampled_data import from_continuous

        return from_continuous(F, G, Q, R, **options)

    @staticmethod
    def from_system(system: Any, Q: Any, R: Any, **options: Any) -> "LinearQuadratic":
        """A system of SciPy or python-control: `sampled_data.from_system`."""
        from optimality.problems.sampled_data import from_system

        return from_system(system, Q, R, **options)

    @staticmethod
    def from_functions(dynamics: Any, cost: Any, states: Any, controls: Any, **options: Any) -> "LinearQuadratic":
        """Functions, expanded about a trajectory: `linearization.from_functions`."""
        from optimality.problems.linearization import from_functions

        return from_functions(dynamics, cost, states, controls, **options)


_TERMINAL = ("Qf", "qf", "sf")
_CONSTANT = (*_TERMINAL, "initial_mean", "initial_covariance")
_SYMMETRIC = ("Q", "R", "Qf", "W", "initial_covariance", "C")


def _shapes(n: int, m: int) -> dict[str, tuple[int, ...]]:
    square = (n, n)
    return {
        "A": square,
        "B": (n, m),
        "Q": square,
        "R": (m, m),
        "c": (n,),
        "N": (n, m),
        "q": (n,),
        "r": (m,),
        "s": (),
        "Qf": square,
        "qf": (n,),
        "sf": (),
        "W": square,
        "initial_mean": (n,),
        "initial_covariance": square,
    }


def _all_shapes(problem: LinearQuadratic, n: int, m: int) -> dict[str, tuple[int, ...]]:
    shapes = _shapes(n, m)
    if problem.channels is not None:
        count = problem.channels.offset.shape[-2]
        shapes |= {
            "channels.state": (count, n, n),
            "channels.control": (count, n, m),
            "channels.offset": (count, n),
        }
    return shapes


def check(name: str, array: np.ndarray) -> None:
    """Raises `ValueError` for an array that is not finite, or not as symmetric or semidefinite as its name says."""
    wrong = np.argwhere(~np.isfinite(array))
    if wrong.size:
        place = tuple(wrong[0].tolist())
        raise ValueError(f"{name} at {place} is {array[place]}: entries must be finite.")
    if name not in _SYMMETRIC or array.size == 0:
        return
    scale = max(float(np.abs(array).max(initial=0.0)), np.finfo(float).tiny)
    gap = np.abs(array - np.swapaxes(array, -1, -2))
    if gap.max(initial=0.0) > 1e-9 * scale:
        *time, row, column = (int(i) for i in np.unravel_index(gap.argmax(), gap.shape))
        matrix, when = array[tuple(time)], f" at step {time[0]}" if time else ""
        raise ValueError(
            f"{name} must be symmetric, but{when} entries ({row}, {column}) and ({column}, {row}) are "
            f"{matrix[row, column]:.10g} and {matrix[column, row]:.10g}: pass (M + M.T) / 2, the same quadratic form."
        )
    if name in ("W", "initial_covariance"):
        smallest = float(np.linalg.eigvalsh(array)[..., 0].min())
        if smallest < -1e-9 * scale:
            raise ValueError(f"{name} must be positive semidefinite, but its smallest eigenvalue is {smallest:.3g}.")
