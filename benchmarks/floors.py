"""Bare loops of the same arithmetic as our learners, on CartPole: what a careful user would write by hand, once.

Nothing here is shared with the library, so that a ratio to a floor is the price of its abstractions. Numbers are
those of `learning.dqn` and `learning.ppo.PPO` with their default sizes. `dqn_compiled` and `ppo_compiled` are one
compiled loop with the environment inside, `dqn_host` and `ppo_host` a Python loop around Gymnasium.
"""

import functools
import math

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

DISCOUNT = 0.99


def build(key, sizes, gain=1.0):
    keys = jax.random.split(key, len(sizes) - 1)
    gains = [2.0**0.5] * (len(sizes) - 2) + [gain]
    return [
        (g / n_in**0.5 * jax.random.normal(k, (n_in, n_out)), jnp.zeros(n_out))
        for k, g, n_in, n_out in zip(keys, gains, sizes[:-1], sizes[1:], strict=True)
    ]


def forward(layers, x, act):
    for weight, bias in layers[:-1]:
        x = act(x @ weight + bias)
    return x @ layers[-1][0] + layers[-1][1]


def adam(gradient, parameters, moments, rate, norm, epsilon):
    count, first, second = moments
    gradient = gradient * jnp.minimum(1.0, norm / jnp.maximum(jnp.sqrt(jnp.sum(gradient**2)), 1e-12))
    count, first, second = count + 1.0, 0.9 * first + 0.1 * gradient, 0.999 * second + 0.001 * gradient**2
    step = first / (1 - 0.9**count) / (jnp.sqrt(second / (1 - 0.999**count)) + epsilon)
    return parameters - rate * step, (count, first, second)


def cartpole(state, action):
    x, v, angle, spin = state
    push, cos, sin = jnp.where(action == 1, 10.0, -10.0), jnp.cos(angle), jnp.sin(angle)
    temp = (push + 0.05 * spin**2 * sin) / 1.1
    turn = (9.8 * sin - cos * temp) / (0.5 * (4.0 / 3.0 - 0.1 * cos**2 / 1.1))
    new = jnp.stack([x + 0.02 * v, v + 0.02 * (temp - 0.05 * turn * cos / 1.1), angle + 0.02 * spin, spin + 0.02 * turn])
    return new, (jnp.abs(new[0]) > 2.4) | (jnp.abs(new[2]) > 12 * 2 * math.pi / 360)


# --- DQN: one environment, one update of 64 rows a step ---------------------------------------------------------


class DQN:
    """Replay as one matrix of floats, parameters and moments as flat vectors."""

    batch, rate, target_rate, epsilon = 64, 5e-4, 0.01, 0.05

    def __init__(self, capacity):
        self.capacity = capacity
        self.unravel = ravel_pytree(build(jax.random.key(0), (4, 64, 64, 2)))[1]

    def q(self, flat, x):
        return forward(self.unravel(flat), x, jax.nn.relu)

    def init(self, key):
        flat = ravel_pytree(build(key, (4, 64, 64, 2)))[0]
        moments = jnp.zeros(()), jnp.zeros_like(flat), jnp.zeros_like(flat)
        return flat, flat + 0.0, moments, jnp.zeros((self.capacity, 11)), jnp.zeros((), jnp.int32)

    def act(self, flat, observation, key):
        coin, pick = jax.random.uniform(key, (2,))
        greedy = jnp.argmax(self.q(flat, observation)).astype(jnp.int32)
        return jnp.where(coin < self.epsilon, (pick * 2).astype(jnp.int32), greedy)

    def learn(self, state, row, key):
        flat, target, moments, replay, count = state
        replay = jax.lax.dynamic_update_slice(replay, row[None], (count % self.capacity, 0))
        count = count + 1
        index = jax.random.randint(key, (self.batch,), 0, jnp.minimum(count, self.capacity))
        rows = replay.at[index].get(mode="promise_in_bounds")
        y = rows[:, 9] + DISCOUNT * (1.0 - rows[:, 10]) * jnp.max(self.q(target, rows[:, 4:8]), axis=1)
        action = rows[:, 8].astype(jnp.int32)

        def loss(flat):
            gap = jnp.take_along_axis(self.q(flat, rows[:, :4]), action[:, None], 1)[:, 0] - y
            return jnp.mean(jnp.where(jnp.abs(gap) < 1.0, 0.5 * gap**2, jnp.abs(gap) - 0.5))

        flat, moments = adam(jax.grad(loss)(flat), flat, moments, self.rate, 10.0, 1e-8)
        return flat, target + self.target_rate * (flat - target), moments, replay, count


@functools.partial(jax.jit, static_argnums=0, donate_argnums=1)
def dqn_chunk(floor, carry, key, steps):
    def body(_, loop):
        state, (observation, time), key = loop
        key, act_key, learn_key, reset_key = jax.random.split(key, 4)
        action = floor.act(state[0], observation, act_key)
        after, fallen = cartpole(observation, action)
        row = jnp.concatenate([observation, after, jnp.stack([action.astype(jnp.float32), 1.0, fallen * 1.0])])
        state = floor.learn(state, row, learn_key)
        over = fallen | (time >= 499)
        fresh = jax.lax.cond(over, lambda: jax.random.uniform(reset_key, (4,), minval=-0.05, maxval=0.05), lambda: after)
        return state, (fresh, jnp.where(over, 0, time + 1)), key

    return jax.lax.fori_loop(0, steps, body, (*carry, key))[:2]


def dqn_compiled(capacity):
    """`(carry, run)`; `run(carry, key, steps)` gives the next carry."""
    floor = DQN(capacity)
    carry = jax.jit(lambda key: (floor.init(key), (jnp.zeros(4), jnp.zeros((), jnp.int32))))(jax.random.key(1))
    return carry, functools.partial(dqn_chunk, floor)
