"""Acrobot: swing the free end of two links above a line by a torque between them (Sutton 1996).

The equations of motion are those of Sutton and Barto's book (`book=False`: of the paper, which lacks a term), with one
step of the classical fourth-order Runge-Kutta rule. As `Acrobot-v1` of Gymnasium.
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
Observation = Float[Array, "6"]


class Acrobot(AbstractEnvironment):
    """State: angle of the first link (0 hangs down), angle of the second relative to it, in [-pi, pi], and both angular
    velocities. Observation: cosine and sine of each angle, angular velocities. Actions: torque -1, 0, 1. Reward -1 for
    every step, 0 for the one that terminates, with `-cos theta_1 - cos(theta_1 + theta_2) > 1`."""

    _: KW_ONLY
    gravity: Real = 9.8
    """Gravitational acceleration, m/s^2."""
    length: Real = 1.0
    """Length of the first link, m. (That of the second only matters for drawing.)"""
    mass_1: Real = 1.0
    """Mass of the first link, kg."""
    mass_2: Real = 1.0
    """Mass of the second link, kg."""
    center_1: Real = 0.5
    """Distance of the first link's center of mass from its joint, m."""
    center_2: Real = 0.5
    """Distance of the second link's center of mass from its joint, m."""
    inertia: Real = 1.0
    """Moment of inertia of either link, kg m^2."""
    torque: Real = 1.0
    """Size of the torque, N m."""
    torque_noise_max: Real = 0.0
    """A uniform number in plus or minus this is added to the torque, N m."""
    time_step: Real = 0.2
    """Seconds between states."""
    max_speed_1: Real = 4 * math.pi
    """Largest angular velocity of the first link, rad/s."""
    max_speed_2: Real = 9 * math.pi
    """Largest angular velocity of the second link, rad/s."""
    reset_bound: Real = 0.1
    """First states are uniform in plus or minus this, each coordinate."""
    book: bool = eqx.field(static=True, default=True)
    """Equations of the book; else of the 1996 paper."""

    def reset(self, key: PRNGKeyArray) -> tuple[State, Observation]:
        state = jax.random.uniform(key, (4,), jnp.float32, -1.0, 1.0) * jnp.asarray(self.reset_bound, jnp.float32)
        return state, _observe(state)

    def step(
        self, key: PRNGKeyArray, state: State, action: Int[Array, ""] | int
    ) -> tuple[State, Observation, Float[Array, ""], Bool[Array, ""], Bool[Array, ""]]:
        p = cast_floats(self, state.dtype)
        noise = jax.random.uniform(key, (), state.dtype, -1.0, 1.0) * p.torque_noise_max
        torque = (jnp.asarray(action, state.dtype) - 1.0) * p.torque + noise
        h = p.time_step
        k1 = rates(p, state, torque)
        k2 = rates(p, state + h / 2 * k1, torque)
        k3 = rates(p, state + h / 2 * k2, torque)
        k4 = rates(p, state + h * k3, torque)
        moved = state + h / 6 * (k1 + 2 * k2 + 2 * k3 + k4)
        speed_1 = jnp.clip(moved[2], -p.max_speed_1, p.max_speed_1)
        speed_2 = jnp.clip(moved[3], -p.max_speed_2, p.max_speed_2)
        new = jnp.stack([_wrap(moved[0]), _wrap(moved[1]), speed_1, speed_2])
        terminated = -jnp.cos(new[0]) - jnp.cos(new[1] + new[0]) > 1.0
        return new, _observe(new), terminated.astype(state.dtype) - 1.0, terminated, jnp.zeros((), bool)

    @property
    def observation_space(self) -> spaces.Box:
        high = np.array([1.0, 1.0, 1.0, 1.0, self.max_speed_1, self.max_speed_2], np.float32)
        return spaces.Box(-high, high, dtype=np.float32)

    @property
    def action_space(self) -> spaces.Discrete:
        return spaces.Discrete(3)

    @property
    def time_limit(self) -> None:
        return None

    def action_mask(self, state: State) -> None:
        return None


def rates(parameters: Any, state: State, torque: Float[Array, ""]) -> State:
    """Time derivative of the state; `parameters` is an `Acrobot` of the precision of the state."""
    theta_1, theta_2, speed_1, speed_2 = state
    p = parameters
    m1, m2, l1, c1, c2, inertia = p.mass_1, p.mass_2, p.length, p.center_1, p.center_2, p.inertia
    cos, sin = jnp.cos(theta_2), jnp.sin(theta_2)
    d1 = m1 * c1**2 + m2 * (l1**2 + c2**2 + 2 * l1 * c2 * cos) + 2 * inertia
    d2 = m2 * (c2**2 + l1 * c2 * cos) + inertia
    phi2 = m2 * c2 * p.gravity * jnp.cos(theta_1 + theta_2 - math.pi / 2)
    phi1 = (
        -m2 * l1 * c2 * speed_2**2 * sin
        - 2 * m2 * l1 * c2 * speed_2 * speed_1 * sin
        + (m1 * c1 + m2 * l1) * p.gravity * jnp.cos(theta_1 - math.pi / 2)
        + phi2
    )
    drive = torque + d2 / d1 * phi1 - phi2
    if p.book:
        drive = drive - m2 * l1 * c2 * speed_1**2 * sin
    acceleration_2 = drive / (m2 * c2**2 + inertia - d2**2 / d1)
    acceleration_1 = -(d2 * acceleration_2 + phi1) / d1
    return jnp.stack([speed_1, speed_2, acceleration_1, acceleration_2])


def _wrap(angle: Float[Array, ""]) -> Float[Array, ""]:
    """Into [-pi, pi] by whole turns; an angle inside stays as it is, to the bit."""
    turns = jnp.ceil((jnp.abs(angle) - math.pi) / (2 * math.pi))
    return angle - jnp.sign(angle) * jnp.maximum(turns, 0.0) * 2 * math.pi


def _observe(state: State) -> Observation:
    cos, sin = jnp.cos(state[:2]), jnp.sin(state[:2])
    return jnp.stack([cos[0], sin[0], cos[1], sin[1], state[2], state[3]])
