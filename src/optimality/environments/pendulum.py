"""Pendulum: swing up and balance with a torque too weak to lift directly. As `Pendulum-v1` of Gymnasium.

With angle theta (0 is upright), torque u, mass m, length l:

    theta_dd = 3 g / (2 l) sin theta + 3 / (m l^2) u
    reward   = -(theta^2 + 0.1 theta_dot^2 + 0.001 u^2)       of the state before the step, theta in [-pi, pi)

integrated by the semi-implicit Euler rule, the angular velocity clipped.
"""

import math
from dataclasses import KW_ONLY

import jax
import jax.numpy as jnp
import numpy as np
from gymnasium import spaces
from jaxtyping import Array, Bool, Float, PRNGKeyArray

from optimality.core.numerics import Real, cast_floats
from optimality.environments.abstract import AbstractEnvironment

State = Float[Array, "2"]
Observation = Float[Array, "3"]


class Pendulum(AbstractEnvironment):
    """State: angle [rad], counted through all turns, and angular velocity [rad/s]. Observation: cosine, sine, angular
    velocity. The action, one torque [N m], is clipped to its range, and so is its cost. Nothing terminates."""

    _: KW_ONLY
    gravity: Real = 10.0
    """Gravitational acceleration, m/s^2."""
    mass: Real = 1.0
    """Mass of the rod, kg."""
    length: Real = 1.0
    """Length of the rod, m."""
    time_step: Real = 0.05
    """Seconds between states."""
    max_torque: Real = 2.0
    """Largest torque, N m."""
    max_speed: Real = 8.0
    """Largest angular velocity, rad/s."""
    reset_angle: Real = math.pi
    """First angles are uniform in plus or minus this, rad."""
    reset_speed: Real = 1.0
    """First angular velocities are uniform in plus or minus this, rad/s."""

    def reset(self, key: PRNGKeyArray) -> tuple[State, Observation]:
        p = cast_floats(self, jnp.float32)
        unit = jax.random.uniform(key, (2,), jnp.float32, -1.0, 1.0)
        state = unit * jnp.stack([p.reset_angle, p.reset_speed])
        return state, _observe(state)

    def step(
        self, key: PRNGKeyArray, state: State, action: Float[Array, "1"]
    ) -> tuple[State, Observation, Float[Array, ""], Bool[Array, ""], Bool[Array, ""]]:
        p = cast_floats(self, state.dtype)
        theta, speed = state
        torque = jnp.clip(jnp.asarray(action, state.dtype)[0], -p.max_torque, p.max_torque)
        angle = (theta + math.pi) % (2 * math.pi) - math.pi
        reward = -(angle**2 + 0.1 * speed**2 + 0.001 * torque**2)
        pull = 3.0 * p.gravity / (2.0 * p.length) * jnp.sin(theta) + 3.0 / (p.mass * p.length**2) * torque
        speed = jnp.clip(speed + pull * p.time_step, -p.max_speed, p.max_speed)
        new = jnp.stack([theta + speed * p.time_step, speed])
        return new, _observe(new), reward, jnp.zeros((), bool), jnp.zeros((), bool)

    @property
    def observation_space(self) -> spaces.Box:
        high = np.array([1.0, 1.0, self.max_speed], np.float32)
        return spaces.Box(-high, high, dtype=np.float32)

    @property
    def action_space(self) -> spaces.Box:
        high = np.array([self.max_torque], np.float32)
        return spaces.Box(-high, high, dtype=np.float32)

    @property
    def time_limit(self) -> None:
        return None

    def action_mask(self, state: State) -> None:
        return None


def _observe(state: State) -> Observation:
    return jnp.stack([jnp.cos(state[0]), jnp.sin(state[0]), state[1]])
