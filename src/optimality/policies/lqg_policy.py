"""The policy of a linear-quadratic problem that is seen through an observation: act on an estimate of the state.

act      u_t = K_t m_t + k_t
update   m_{t+1} = m' + L_{t+1} (y_{t+1} - C m' - D u_t - d),        m' = A m_t + B u_t + c
"""

from typing import Any, NamedTuple

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from optimality.policies.affine_gaussian import AffineGaussian
from optimality.problems.partially_observed import PartiallyObserved

Vector = Float[Array | np.ndarray, "..."]


class Estimate(NamedTuple):
    """What is remembered: the estimated state, given all observations so far, and the time."""

    mean: Vector
    time: int | Int[Array, ""]


class LQGPolicy(eqx.Module):
    """A controller on the estimate of a filter with given gains.

    `start` takes the first observation, `act` gives the control, and `update` takes the control that was applied,
    which may be another one, and the observation after it. With NumPy arrays all three return NumPy.
    """

    problem: PartiallyObserved
    """The model that predicts."""
    controller: AffineGaussian
    """`K` and `k`, over time or constant."""
    gains: Float[Array | np.ndarray, "..."]
    """Of the filter, `[T+1, n, p]` or `[n, p]`; after the last one it is kept."""

    def start(self, observation: Vector) -> Estimate:
        """The estimate after the first observation."""
        return self._correct(self.problem.problem.initial_mean, observation, None, 0)  # pyright: ignore

    def act(self, state: Estimate) -> Vector:
        """The control at the estimate, without noise."""
        return self.controller.mean(state.mean, state.time)

    def update(self, state: Estimate, control: Vector, observation: Vector) -> Estimate:
        """The estimate after a control and the observation that followed."""
        predicted = self.problem.problem.drift(state.mean, control, state.time)  # pyright: ignore
        return self._correct(predicted, observation, control, state.time + 1)

    def _correct(self, predicted: Any, observation: Vector, control: Any, time: Any) -> Estimate:
        seen: Any = self.problem.observation
        innovation = observation - seen.stage(time).C @ predicted - seen.d
        if control is not None and seen.D is not None:
            innovation = innovation - seen.D @ control
        return Estimate(predicted + self._gain(time) @ innovation, time)

    def _gain(self, time: Any) -> Any:
        if self.gains.ndim == 2:
            return self.gains
        last = self.gains.shape[0] - 1
        return self.gains[min(time, last)] if isinstance(time, int) else jnp.asarray(self.gains)[time]
