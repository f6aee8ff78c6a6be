"""CartPole: keep a pole upright on a cart by pushing left or right (Barto, Sutton and Anderson 1983).

With force F, pole angle theta (0 is upright), masses m of the pole and M in total, half length l:

    temp     = (F + m l theta_dot^2 sin theta) / M
    theta_dd = (g sin theta - cos theta temp) / (l (4/3 - m cos^2 theta / M))
    x_dd     = temp - m l theta_dd cos theta / M

(Florian 2007, without friction), integrated by Euler's rule. As `CartPole-v1` of Gymnasium.
"""

import math
from dataclasses import KW_ONLY
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from gymnasium import spaces
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from optimality.core.numerics import Real, cast_floats
from optimality.environments.abstract import AbstractEnvironment

State = Float[Array, "4"]


class CartPole(AbstractEnvironment):
    """State and observation: position [m], velocity [m/s], angle [rad], angular velocity [rad/s]. Actions: 0 pushes
    left, 1 right. Reward 1 for every step, the last one included; terminates where position or angle leaves its range.
    """

    _: KW_ONLY
    gravity: Real = 9.8
    """Gravitational acceleration, m/s^2."""
    cart_mass: Real = 1.0
    """Mass of the cart, kg."""
    pole_mass: Real = 0.1
    """Mass of the pole, kg."""
    half_length: Real = 0.5
    """Half the length of the pole, m."""
    force: Real = 10.0
    """Size of a push, N."""
    time_step: Real = 0.02
    """Seconds between states."""
    angle_limit: Real = 12 * 2 * math.pi / 360
    """Largest angle of the pole, rad."""
    position_limit: Real = 2.4
    """Largest distance of the cart from the middle, m."""
    reset_bound: Real = 0.05
    """First states are uniform in plus or minus this, each coordinate."""
    semi_implicit: bool = eqx.field(static=True, default=False)
    """Velocities first, positions from the new velocities; Gymnasium's other integrator."""
    sutton_barto_reward: bool = eqx.field(static=True, default=False)
    """Reward 0, and -1 on termination, instead of 1 for every step."""

    def reset(self, key: PRNGKeyArray) -> tuple[State, State]:
        state = jax.random.uniform(key, (4,), jnp.float32, -1.0, 1.0) * jnp.asarray(self.reset_bound, jnp.float32)
        return state, state

    def step(
        self, key: PRNGKeyArray, state: State, action: Int[Array, ""] | int
    ) -> tuple[State, State, Float[Array, ""], Bool[Array, ""], Bool[Array, ""]]:
        p = cast_floats(self, state.dtype)
        x, x_dot, theta, theta_dot = state
        force = jnp.where(jnp.asarray(action) == 1, p.force, -p.force)
        cos, sin = jnp.cos(theta), jnp.sin(theta)
        total, moment = p.pole_mass + p.cart_mass, p.pole_mass * p.half_length
        temp = (force + moment * theta_dot**2 * sin) / total
        theta_dd = (p.gravity * sin - cos * temp) / (p.half_length * (4.0 / 3.0 - p.pole_mass * cos**2 / total))
        x_dd = temp - moment * theta_dd * cos / total
        new_x_dot, new_theta_dot = x_dot + p.time_step * x_dd, theta_dot + p.time_step * theta_dd
        if self.semi_implicit:
            x_dot, theta_dot = new_x_dot, new_theta_dot
        new = jnp.stack([x + p.time_step * x_dot, new_x_dot, theta + p.time_step * theta_dot, new_theta_dot])
        terminated = _fallen(p, new)
        # Gymnasium pays nothing for a fallen pole that stays fallen; only a driver that goes on too long sees it.
        if self.sutton_barto_reward:
            reward = -terminated.astype(state.dtype)
        else:
            reward = 1.0 - (terminated & _fallen(p, state)).astype(state.dtype)
        return new, new, reward, terminated, jnp.zeros((), bool)

    @property
    def observation_space(self) -> spaces.Box:
        high = np.array([2 * float(self.position_limit), np.inf, 2 * float(self.angle_limit), np.inf], np.float32)
        return spaces.Box(-high, high, dtype=np.float32)

    @property
    def action_space(self) -> spaces.Discrete:
        return spaces.Discrete(2)

    @property
    def time_limit(self) -> None:
        return None

    def action_mask(self, state: State) -> None:
        return None


def _fallen(parameters: Any, state: State) -> Bool[Array, ""]:
    return (jnp.abs(state[0]) > parameters.position_limit) | (jnp.abs(state[2]) > parameters.angle_limit)
