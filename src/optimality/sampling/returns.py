"""Returns and advantages on arrays `[time]` of one environment; batch by `vmap`.

`terminated` ends the future, `done` (terminated or truncated) ends the recursion: a truncation cuts the sum but never
the bootstrap, because the episode would have gone on (Pardo et al. 2018).
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from optimality.core.numerics import Real

Times = Float[Array, " time"]
Flags = Bool[Array, " time"]


def reward_to_go(reward: Times, discount: Real = 1.0, done: Flags | None = None) -> Times:
    """`G_t = r_t + discount G_{t+1}`, starting anew after `done`."""
    discount = jnp.asarray(discount, reward.dtype)
    going = jnp.ones_like(reward) if done is None else 1.0 - done.astype(reward.dtype)

    def step(following, now):
        r, goes_on = now
        total = r + discount * goes_on * following
        return total, total

    return jax.lax.scan(step, jnp.zeros((), reward.dtype), (reward, going), reverse=True)[1]


def generalized_advantage(
    reward: Times,
    value: Times,
    next_value: Times,
    terminated: Flags,
    done: Flags,
    discount: Real,
    decay: Real,
) -> Times:
    """`A_t = delta_t + discount decay (1 - done_t) A_{t+1}`, `delta_t = r_t + discount (1 - terminated_t) V' - V`.

    `next_value` is that of the true next observation (Schulman et al. 2016, equation 16).
    """
    discount, decay = jnp.asarray(discount, reward.dtype), jnp.asarray(decay, reward.dtype)
    delta = reward + discount * jnp.where(terminated, 0.0, next_value) - value
    weight = discount * decay * (1.0 - done.astype(reward.dtype))

    def step(following, now):
        d, w = now
        advantage = d + w * following
        return advantage, advantage

    return jax.lax.scan(step, jnp.zeros((), reward.dtype), (delta, weight), reverse=True)[1]


def n_step_return(
    reward: Times, next_value: Times, terminated: Flags, done: Flags, discount: Real, steps: int
) -> Times:
    """`sum_{k<n} discount^k r_{t+k} + discount^n V(next)`, shortened where an episode or the data end."""
    discount = jnp.asarray(discount, reward.dtype)
    total, alive, weight = jnp.zeros_like(reward), jnp.ones_like(reward), jnp.ones_like(reward)
    time = jnp.arange(reward.shape[0])
    for k in range(steps):
        at = jnp.minimum(time + k, reward.shape[0] - 1)
        inside = alive * (time + k < reward.shape[0]).astype(reward.dtype)
        total += inside * weight * reward[at]
        last = done[at] | (time + k >= reward.shape[0] - 1) | (k == steps - 1)
        bootstrap = jnp.where(terminated[at], 0.0, next_value[at])
        total += jnp.where(last, inside * weight * discount * bootstrap, 0.0)
        alive = inside * (1.0 - last.astype(reward.dtype))
        weight = weight * discount
    return total


def log_importance_weights(log_policy: Times, log_behavior: Times, kind: str = "per_decision") -> Times:
    """Logarithms of importance weights of one episode.

    `per_decision`: `sum_{k<=t} log pi / b`, for the reward at t (Precup et al. 2000). `prefix`: `sum_{k<t}`, for
    what depends on the state at t but not on its action. `trajectory`: the whole episode's at every step. `step`: each
    step's own.
    """
    ratio = log_policy - log_behavior
    if kind == "per_decision":
        return jnp.cumsum(ratio)
    if kind == "prefix":
        return jnp.concatenate([jnp.zeros(1, ratio.dtype), jnp.cumsum(ratio[:-1])])
    if kind == "trajectory":
        return jnp.broadcast_to(jnp.sum(ratio), ratio.shape)
    if kind == "step":
        return ratio
    raise ValueError(f"kind must be 'per_decision', 'prefix', 'trajectory' or 'step', but {kind!r} was given.")
