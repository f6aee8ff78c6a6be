"""A linear-quadratic problem as an environment: rewards are minus the costs, observations are the states.

    reward = -(1/2 x'Q x + 1/2 u'R u + x'N u + q'x + r'u + s)
    x' = A x + B u + c + w + sum_i (o_i + C_i x + D_i u) xi_i,      w ~ N(0, W),   xi_i ~ N(0, 1)

`FiniteHorizon` gives the time limit; the cost of the last state is paid, times the discount, inside the last reward, so
that discounted returns are minus the objective. Other criteria leave the episode open: wrap it in `TimeLimit`, or let
a discount end it, `ending=True`, where undiscounted returns have the discounted objective as their mean.
"""

from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from gymnasium import spaces
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from optimality.core.numerics import Real, cast_floats
from optimality.environments.abstract import AbstractEnvironment
from optimality.problems.criterion import Discounted
from optimality.problems.linear_quadratic import LinearQuadratic


class LinearQuadraticState(NamedTuple):
    """Coordinates, and the number of steps taken."""

    x: Float[Array, " n"]
    time: Int[Array, ""]


class LinearQuadraticEnvironment(AbstractEnvironment):
    """`problem` as an environment, and still there to be solved exactly.

    Controls are clipped to plus or minus `action_limit`, one number or one a control, infinite by default: then the
    optimum is linear. With `ending`, an episode of a `Discounted` problem terminates with probability
    `1 - discount` after each reward; it raises `ValueError` for other criteria. The roots of the covariances are leaves
    beside the problem, so that no step factors a matrix; make a new environment for other covariances.
    """

    problem: LinearQuadratic
    action_limit: Real | Float[Array | np.ndarray, " m"]
    ending: bool = eqx.field(static=True)
    noise_root: Float[Array | np.ndarray, "... n n"]
    initial_root: Float[Array | np.ndarray, "n n"]

    def __init__(
        self,
        problem: LinearQuadratic,
        *,
        action_limit: Real | Float[Array | np.ndarray, " m"] = np.inf,
        ending: bool = False,
    ):
        if ending and not isinstance(problem.criterion, Discounted):
            raise ValueError(
                f"ending=True is for Discounted(discount), where each step may be the last, but the criterion is "
                f"{problem.criterion}: leave it out."
            )
        self.problem, self.action_limit, self.ending = problem, action_limit, ending
        self.noise_root, self.initial_root = _root(problem.W), _root(problem.initial_covariance)

    def reset(self, key: PRNGKeyArray) -> tuple[LinearQuadraticState, Float[Array, " n"]]:
        noise = jax.random.normal(key, (self.problem.shape[0],), jnp.float32)
        x = jnp.asarray(self.problem.initial_mean, jnp.float32) + jnp.asarray(self.initial_root, jnp.float32) @ noise
        return LinearQuadraticState(x, jnp.zeros((), jnp.int32)), x

    def step(
        self, key: PRNGKeyArray, state: LinearQuadraticState, action: Float[Array, " m"]
    ) -> tuple[LinearQuadraticState, Float[Array, " n"], Float[Array, ""], Bool[Array, ""], Bool[Array, ""]]:
        noise_key, end_key = jax.random.split(key)
        x, dtype = state.x, state.x.dtype
        problem, limit, roots, action = cast_floats(
            (self.problem, self.action_limit, self.noise_root, jnp.asarray(action)), dtype
        )
        u = jnp.clip(action, -limit, limit)
        channels = problem.stage(state.time).channels
        count = 0 if channels is None else channels.offset.shape[0]
        noise = jax.random.normal(noise_key, (x.size + count,), dtype)
        new = problem.drift(x, u, state.time) + (roots if roots.ndim == 2 else roots[state.time]) @ noise[: x.size]
        if channels is not None:
            new = new + noise[x.size :] @ (channels.offset + channels.state @ x + channels.control @ u)
        cost, time = problem.stage_cost(x, u, state.time), state.time + 1
        terminated = truncated = jnp.zeros((), bool)
        if self.ending:
            terminated = jax.random.uniform(end_key, dtype=dtype) >= problem.discount
        if problem.horizon is not None:
            truncated = time >= problem.horizon
            cost = cost + jnp.where(truncated, problem.discount * problem.terminal_cost(new), 0.0)
        return LinearQuadraticState(new, time), new, -cost, terminated, truncated

    @property
    def observation_space(self) -> spaces.Box:
        return spaces.Box(-np.inf, np.inf, (self.problem.shape[0],), np.float32)

    @property
    def action_space(self) -> spaces.Box:
        high = np.broadcast_to(np.asarray(self.action_limit, np.float32), (self.problem.shape[1],))
        return spaces.Box(-high, high, dtype=np.float32)

    @property
    def time_limit(self) -> int | None:
        return self.problem.horizon

    def action_mask(self, state: LinearQuadraticState) -> None:
        return None


def _root(covariance):
    """A matrix whose product with its transpose is `covariance`, which may be singular."""
    numbers = np if isinstance(covariance, np.ndarray) else jnp
    values, vectors = numbers.linalg.eigh(covariance)
    return vectors * numbers.sqrt(numbers.maximum(values, 0.0))[..., None, :]
