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
    new = jnp.stack(
        [x + 0.02 * v, v + 0.02 * (temp - 0.05 * turn * cos / 1.1), angle + 0.02 * spin, spin + 0.02 * turn]
    )
    return new, (jnp.abs(new[0]) > 2.4) | (jnp.abs(new[2]) > 12 * 2 * math.pi / 360)


# --- DQN: one environment, one update of 64 rows a step ---------------------------------------------------------


class DQN:
    """Replay as one matrix of floats, parameters and moments as flat vectors."""

    batch, rate, target_rate, epsilon = 64, 1e-3, 0.02, 0.05

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
            return 0.5 * jnp.mean(gap**2)

        flat, moments = adam(jax.grad(loss)(flat), flat, moments, self.rate, 1000.0, 1e-8)
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
        fresh = jax.lax.cond(
            over, lambda: jax.random.uniform(reset_key, (4,), minval=-0.05, maxval=0.05), lambda: after
        )
        return state, (fresh, jnp.where(over, 0, time + 1)), key

    return jax.lax.fori_loop(0, steps, body, (*carry, key))[:2]


def dqn_compiled(capacity):
    """`(carry, run)`; `run(carry, key, steps)` gives the next carry."""
    floor = DQN(capacity)
    carry = jax.jit(lambda key: (floor.init(key), (jnp.zeros(4), jnp.zeros((), jnp.int32))))(jax.random.key(1))
    return carry, functools.partial(dqn_chunk, floor)


# --- PPO: 8 environments, 128 steps, 4 passes over 4 parts of 256 ------------------------------------------------


class PPO:
    """Actor and critic of 64-64 tanh units in one flat vector."""

    environments, steps, epochs, parts, rate = 8, 128, 4, 4, 1e-3

    def __init__(self):
        self.unravel = ravel_pytree(self.networks(jax.random.key(0)))[1]

    def networks(self, key):
        one, two = jax.random.split(key)
        return build(one, (4, 64, 64, 2), 0.01), build(two, (4, 64, 64, 1))

    def init(self, key):
        flat = ravel_pytree(self.networks(key))[0]
        return flat, (jnp.zeros(()), jnp.zeros_like(flat), jnp.zeros_like(flat))

    def logits(self, flat, x):
        return jax.nn.log_softmax(forward(self.unravel(flat)[0], x, jnp.tanh))

    def value(self, flat, x):
        return forward(self.unravel(flat)[1], x, jnp.tanh)[..., 0]

    def act(self, flat, observation, key):
        log_p = self.logits(flat, observation)
        action = jax.random.categorical(key, log_p)
        return action, jnp.take_along_axis(log_p, action[:, None], 1)[:, 0]

    def learn(self, state, rows, key):
        """`rows`: observation, action, log probability, reward, next observation, fallen, over."""
        (flat, moments), (x, action, log_prob, reward, after, fallen, over) = state, rows
        value = self.value(flat, x)
        delta = reward + DISCOUNT * (1.0 - fallen) * self.value(flat, after) - value

        def back(following, now):
            advantage = now[0] + DISCOUNT * 0.95 * (1.0 - now[1]) * following
            return advantage, advantage

        advantage = jax.lax.scan(back, jnp.zeros(x.shape[1]), (delta, over), reverse=True)[1]
        batch = jax.tree.map(lambda a: a.reshape(-1, *a.shape[2:]), (x, action, log_prob, advantage, advantage + value))
        size = batch[1].shape[0]
        orders = jax.vmap(lambda k: jax.random.permutation(k, size))(jax.random.split(key, self.epochs))

        def loss(flat, x, action, old, advantage, target):
            log_p = self.logits(flat, x)
            entropy = -jnp.mean(jnp.sum(jnp.exp(log_p) * log_p, axis=1))
            ratio = jnp.exp(jnp.take_along_axis(log_p, action[:, None], 1)[:, 0] - old)
            advantage = (advantage - advantage.mean()) / (advantage.std() + 1e-8)
            gain = jnp.mean(jnp.minimum(ratio * advantage, jnp.clip(ratio, 0.8, 1.2) * advantage))
            return -gain - 0.0 * entropy + 0.25 * jnp.mean((self.value(flat, x) - target) ** 2)

        def improve(carry, index):
            flat, moments = carry
            gradient = jax.grad(loss)(flat, *(a[index] for a in batch))
            return adam(gradient, flat, moments, self.rate, 0.5, 1e-5), None

        return jax.lax.scan(improve, (flat, moments), orders.reshape(self.epochs * self.parts, -1))[0]


@functools.partial(jax.jit, static_argnums=(0, 3), donate_argnums=1)
def ppo_chunk(floor, carry, key, updates):
    def move(loop, key):
        flat, observation, time = loop
        act_key, reset_key = jax.random.split(key)
        action, log_prob = floor.act(flat, observation, act_key)
        after, fallen = jax.vmap(cartpole)(observation, action)
        over = fallen | (time >= 499)
        row = observation, action, log_prob, jnp.ones(len(time)), after, fallen * 1.0, over * 1.0
        start = lambda: jax.random.uniform(reset_key, (len(time), 4), minval=-0.05, maxval=0.05)  # noqa: E731
        fresh = jax.lax.cond(over.any(), lambda: jnp.where(over[:, None], start(), after), lambda: after)
        return (flat, fresh, jnp.where(over, 0, time + 1)), row

    def body(carry, key):
        (state, (observation, time)), (move_key, learn_key) = carry, jax.random.split(key)
        loop = state[0], observation, time
        (_, observation, time), rows = jax.lax.scan(move, loop, jax.random.split(move_key, floor.steps))
        return (floor.learn(state, rows, learn_key), (observation, time)), None

    return jax.lax.scan(body, carry, jax.random.split(key, updates))[0]


def ppo_compiled():
    """`(carry, run)`; `run(carry, key, updates)` gives the next carry."""
    floor = PPO()
    n = floor.environments
    carry = jax.jit(lambda key: (floor.init(key), (jnp.zeros((n, 4)), jnp.zeros(n, jnp.int32))))(jax.random.key(1))
    return carry, functools.partial(ppo_chunk, floor)


# --- the same around Gymnasium, in Python --------------------------------------------------------------------------


def vector_environment(number):
    mode = gymnasium.vector.AutoresetMode.DISABLED
    return gymnasium.vector.SyncVectorEnv([lambda: gymnasium.make("CartPole-v1")] * number, autoreset_mode=mode)


def restarted(environments, observation, over):
    return environments.reset(options={"reset_mask": over})[0] if over.any() else observation


def dqn_host(capacity):
    floor, environments = DQN(capacity), vector_environment(1)
    act = jax.jit(lambda flat, x, key, t: floor.act(flat, x, jax.random.fold_in(key, t))[None])
    learn = jax.jit(lambda s, r, key, t: floor.learn(s, r, jax.random.fold_in(key, t)), donate_argnums=0)
    carry = jax.jit(floor.init)(jax.random.key(1)), environments.reset(seed=0)[0]

    def run(carry, key, steps):
        state, observation = carry
        for step in range(steps):
            action = np.asarray(act(state[0], observation[0], key, np.int32(2 * step)))
            after, reward, fallen, cut, _ = environments.step(action)
            row = np.concatenate([observation[0], after[0], [action[0], reward[0], fallen[0]]]).astype(np.float32)
            state = learn(state, row, key, np.int32(2 * step + 1))
            observation = restarted(environments, after, fallen | cut)
        return state, observation

    return carry, run


def ppo_host():
    floor = PPO()
    environments = vector_environment(floor.environments)
    act = jax.jit(lambda flat, x, key, t: floor.act(flat, x, jax.random.fold_in(key, t)))
    learn = jax.jit(floor.learn, donate_argnums=0)
    carry = jax.jit(floor.init)(jax.random.key(1)), environments.reset(seed=0)[0]

    def run(carry, key, updates):
        state, observation = carry
        for update_key in jax.random.split(key, updates):
            rows = []
            for step in range(floor.steps):
                action, log_prob = act(state[0], observation, update_key, np.int32(step))
                action = np.asarray(action)
                after, reward, fallen, cut, _ = environments.step(action)
                over = fallen | cut
                row = observation, action, log_prob, reward, after, fallen, over
                rows.append([np.asarray(a, np.float32) if i != 1 else action for i, a in enumerate(row)])
                observation = restarted(environments, after, over)
            state = learn(state, [np.stack(column) for column in zip(*rows, strict=True)], update_key)
        return state, observation

    return carry, run
