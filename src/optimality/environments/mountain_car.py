"""MountainCar: rock out of a valley with an engine too weak to climb directly (Moore 1990).

    velocity' = clip(velocity + (action - 1) force - gravity cos(3 position))
    position' = clip(position + velocity')

The left wall takes all velocity. As `MountainCar-v0` of Gymnasium.
"""

from dataclasses import KW_ONLY

import jax
import jax.numpy as jnp
import numpy as np
from gymnasium import spaces
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from optimality.core.numerics import Real, cast_floats
from optimality.environments.abstract import AbstractEnvironment

State = Float[Array, "2"]


class MountainCar(AbstractEnvironment):
    """State and observation: position and velocity. Actions: 0 left, 1 nothing, 2 right. Reward -1 for every step;
    terminates at the goal."""

    _: KW_ONLY
    min_position: Real = -1.2
    """Where the left wall is."""
    max_position: Real = 0.6
    """Where the road ends on the right."""
    max_speed: Real = 0.07
    """Largest velocity, per step."""
    goal_position: Real = 0.5
    """Where the goal begins."""
    goal_velocity: Real = 0.0
    """Least velocity at the goal."""
    force: Real = 0.001
    """Acceleration by the engine."""
    gravity: Real = 0.0025
    """Acceleration by the steepest slope."""
    reset_low: Real = -0.6
    """Smallest first position."""
    reset_high: Real = -0.4
    """Largest first position."""

    def reset(self, key: PRNGKeyArray) -> tuple[State, State]:
        state = rest_in_valley(key, self.reset_low, self.reset_high)
        return state, state

    def step(
        self, key: PRNGKeyArray, state: State, action: Int[Array, ""] | int
    ) -> tuple[State, State, Float[Array, ""], Bool[Array, ""], Bool[Array, ""]]:
        p = cast_floats(self, state.dtype)
        push = (jnp.asarray(action, state.dtype) - 1.0) * p.force
        new = roll(state, push, p.gravity, p.max_speed, p.min_position, p.max_position)
        terminated = (new[0] >= p.goal_position) & (new[1] >= p.goal_velocity)
        return new, new, -jnp.ones((), state.dtype), terminated, jnp.zeros((), bool)

    @property
    def observation_space(self) -> spaces.Box:
        speed = float(self.max_speed)
        low, high = [float(self.min_position), -speed], [float(self.max_position), speed]
        return spaces.Box(np.array(low, np.float32), np.array(high, np.float32), dtype=np.float32)

    @property
    def action_space(self) -> spaces.Discrete:
        return spaces.Discrete(3)

    @property
    def time_limit(self) -> None:
        return None

    def action_mask(self, state: State) -> None:
        return None


def rest_in_valley(key: PRNGKeyArray, low: Real, high: Real) -> State:
    """At rest, the position uniform from `low` to `high`; shared with the continuous version."""
    low_, high_ = jnp.asarray(low, jnp.float32), jnp.asarray(high, jnp.float32)
    position = low_ + (high_ - low_) * jax.random.uniform(key, (), jnp.float32)
    return jnp.stack([position, jnp.zeros((), jnp.float32)])


def roll(state: State, push, gravity, max_speed, min_position, max_position) -> State:
    """One step of the car under an acceleration `push`; shared with the continuous version."""
    position, velocity = state
    velocity = jnp.clip(velocity + push - gravity * jnp.cos(3.0 * position), -max_speed, max_speed)
    position = jnp.clip(position + velocity, min_position, max_position)
    at_wall = (position == min_position) & (velocity < 0.0)
    return jnp.stack([position, jnp.where(at_wall, 0.0, velocity)])
