"""MountainCarContinuous: the same valley with a continuous engine. As `MountainCarContinuous-v0` of Gymnasium.

    velocity' = clip(velocity + power clip(action) - gravity cos(3 position))
    position' = clip(position + velocity')
    reward    = 100 [at the goal] - 0.1 action^2          of the action as given, before it is clipped

Gymnasium rounds its state to float32 after every step; here the state keeps its own precision.
"""

from dataclasses import KW_ONLY

import jax.numpy as jnp
import numpy as np
from gymnasium import spaces
from jaxtyping import Array, Bool, Float, PRNGKeyArray

from optimality.core.numerics import Real, cast_floats
from optimality.environments.abstract import AbstractEnvironment
from optimality.environments.mountain_car import State, rest_in_valley, roll


class MountainCarContinuous(AbstractEnvironment):
    """State and observation: position and velocity. Action: one acceleration in [-1, 1]. Terminates at the goal."""

    _: KW_ONLY
    min_position: Real = -1.2
    """Where the left wall is."""
    max_position: Real = 0.6
    """Where the road ends on the right."""
    max_speed: Real = 0.07
    """Largest velocity, per step."""
    goal_position: Real = 0.45
    """Where the goal begins."""
    goal_velocity: Real = 0.0
    """Least velocity at the goal."""
    power: Real = 0.0015
    """Acceleration by the engine at full action."""
    gravity: Real = 0.0025
    """Acceleration by the steepest slope."""
    goal_reward: Real = 100.0
    """Paid on reaching the goal."""
    action_cost: Real = 0.1
    """Paid for each squared unit of action."""
    reset_low: Real = -0.6
    """Smallest first position."""
    reset_high: Real = -0.4
    """Largest first position."""

    def reset(self, key: PRNGKeyArray) -> tuple[State, State]:
        state = rest_in_valley(key, self.reset_low, self.reset_high)
        return state, state

    def step(
        self, key: PRNGKeyArray, state: State, action: Float[Array, "1"]
    ) -> tuple[State, State, Float[Array, ""], Bool[Array, ""], Bool[Array, ""]]:
        p = cast_floats(self, state.dtype)
        given = jnp.asarray(action, state.dtype)[0]
        push = jnp.clip(given, -1.0, 1.0) * p.power
        new = roll(state, push, p.gravity, p.max_speed, p.min_position, p.max_position)
        terminated = (new[0] >= p.goal_position) & (new[1] >= p.goal_velocity)
        reward = jnp.where(terminated, p.goal_reward, 0.0) - p.action_cost * given**2
        return new, new, reward, terminated, jnp.zeros((), bool)

    @property
    def observation_space(self) -> spaces.Box:
        speed = float(self.max_speed)
        low, high = [float(self.min_position), -speed], [float(self.max_position), speed]
        return spaces.Box(np.array(low, np.float32), np.array(high, np.float32), dtype=np.float32)

    @property
    def action_space(self) -> spaces.Box:
        return spaces.Box(-1.0, 1.0, (1,), np.float32)

    @property
    def time_limit(self) -> None:
        return None

    def action_mask(self, state: State) -> None:
        return None
