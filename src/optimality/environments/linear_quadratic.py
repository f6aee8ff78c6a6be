"""A linear-quadratic problem as an environment: rewards are minus the costs, observations are the states.

    reward = -(1/2 x'Q x + 1/2 u'R u),        x' = A x + B u + w,   w ~ N(0, W)

`FiniteHorizon` gives the time limit; other criteria leave the episode open; wrap it in `TimeLimit`.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from gymnasium import spaces
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from optimality.core.numerics import Real
from optimality.environments.abstract import AbstractEnvironment
from optimality.problems.linear_quadratic import LinearQuadratic


class LinearQuadraticState(NamedTuple):
    """Coordinates, and the number of steps taken."""

    x: Float[Array, " n"]
    time: Int[Array, ""]


class LinearQuadraticEnvironment(AbstractEnvironment):
    """`problem` as an environment, and still there to be solved exactly.

    Controls are clipped to plus or minus `action_limit`, infinite by default: then the optimum is linear. The roots of
    the covariances are leaves beside the problem, so that no step factors a matrix; make a new environment for other
    covariances.
    """

    problem: LinearQuadratic
    action_limit: Real
    noise_root: Float[Array | np.ndarray, "n n"]
    initial_root: Float[Array | np.ndarray, "n n"]

    def __init__(self, problem: LinearQuadratic, *, action_limit: Real = np.inf):
        self.problem, self.action_limit = problem, action_limit
        self.noise_root, self.initial_root = _root(problem.W), _root(problem.initial_covariance)

    def reset(self, key: PRNGKeyArray) -> tuple[LinearQuadraticState, Float[Array, " n"]]:
        noise = jax.random.normal(key, (self.problem.shape[0],), jnp.float32)
        x = jnp.asarray(self.problem.initial_mean, jnp.float32) + jnp.asarray(self.initial_root, jnp.float32) @ noise
        return LinearQuadraticState(x, jnp.zeros((), jnp.int32)), x

    def step(
        self, key: PRNGKeyArray, state: LinearQuadraticState, action: Float[Array, " m"]
    ) -> tuple[LinearQuadraticState, Float[Array, " n"], Float[Array, ""], Bool[Array, ""], Bool[Array, ""]]:
        x, dtype = state.x, state.x.dtype
        problem = self.problem
        a, b, q, r, root = (
            jnp.asarray(matrix, dtype) for matrix in (problem.A, problem.B, problem.Q, problem.R, self.noise_root)
        )
        limit = jnp.asarray(self.action_limit, dtype)
        u = jnp.clip(jnp.asarray(action, dtype), -limit, limit)
        reward = -0.5 * (x @ q @ x + u @ r @ u)
        new = a @ x + b @ u + root @ jax.random.normal(key, x.shape, dtype)
        time = state.time + 1
        truncated = jnp.zeros((), bool) if self.time_limit is None else time >= self.time_limit
        return LinearQuadraticState(new, time), new, reward, jnp.zeros((), bool), truncated

    @property
    def observation_space(self) -> spaces.Box:
        return spaces.Box(-np.inf, np.inf, (self.problem.shape[0],), np.float32)

    @property
    def action_space(self) -> spaces.Box:
        limit = float(self.action_limit)
        return spaces.Box(-limit, limit, (self.problem.shape[1],), np.float32)

    @property
    def time_limit(self) -> int | None:
        return self.problem.horizon

    def action_mask(self, state: LinearQuadraticState) -> None:
        return None


def _root(covariance):
    """A matrix whose product with its transpose is `covariance`, which may be singular."""
    numbers = np if isinstance(covariance, np.ndarray) else jnp
    values, vectors = numbers.linalg.eigh(covariance)
    return vectors * numbers.sqrt(numbers.maximum(values, 0.0))[None, :]
