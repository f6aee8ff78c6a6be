"""Episodes of an affine Gaussian policy in a linear-quadratic problem, in float64 and all side by side."""

import math
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from optimality.core.numerics import cast_floats, precision
from optimality.environments.linear_quadratic import LinearQuadraticEnvironment
from optimality.experiments.rollouts import Rollouts
from optimality.policies.affine_gaussian import AffineGaussian
from optimality.problems.criterion import AverageReward
from optimality.problems.linear_quadratic import LinearQuadratic

AVERAGED = 1_000
"""Steps over which an episode's cost is averaged where there is no discount and no horizon."""
LONGEST = 50_000
"""Longest episode where there is no horizon."""
_REST = 1e-7


class Trajectories(NamedTuple):
    """A few episodes in full: states `[E, T+1, n]` and controls `[E, T, m]`."""

    states: np.ndarray
    controls: np.ndarray


def play(
    problem: LinearQuadratic, policy: AffineGaussian, *, episodes: int, seed: int, radius: float, shown: int, steps: int
) -> tuple[Rollouts, Trajectories]:
    """Discounted returns in `LinearQuadraticEnvironment`; the first episodes also step by step.

    A discounted episode is played until the rest of it is 1e-7 of the whole. For average reward the return is the mean
    reward of 1,000 steps, after as many as the first state needs to be forgotten.

    Args:
        problem: what is played.
        policy: who plays.
        episodes: how many.
        seed: of the noise.
        radius: largest modulus of the closed loop, which says how fast a first state is forgotten.
        shown: how many episodes are returned in full, `steps` of them.
        steps: length of those, at most what is played.
    """
    if episodes < 1:
        raise ValueError(f"episodes must be at least 1, but {episodes} was given.")
    average = isinstance(problem.criterion, AverageReward)
    discount = float(np.asarray(problem.discount))
    forgotten = _steps_until(_REST, radius if average else discount * max(1.0, radius**2))
    skipped = min(forgotten, LONGEST) if average else 0
    length = min(forgotten, LONGEST) if problem.horizon is None else problem.horizon
    length += AVERAGED if average else 0
    cut = episodes if problem.horizon is None and forgotten > LONGEST else 0
    environment = LinearQuadraticEnvironment(problem)
    keys = jax.random.split(jax.random.key(seed), episodes)
    with precision(np.float64):
        environment, policy = cast_floats((environment, policy), np.float64)
        played = _play(environment, policy, keys, length, skipped, min(shown, episodes))
        returns, states, controls = (np.array(array) for array in played)
    if average:
        returns = returns / (length - skipped)
    lengths = np.full(episodes, length - skipped, np.int64)
    return Rollouts(returns, lengths, cut), Trajectories(states[:, : steps + 1], controls[:, :steps])


def _steps_until(share: float, factor: float) -> int:
    """Steps after which a geometric sum of that factor has all but `share` of itself."""
    if factor <= 0.0:
        return 1
    return LONGEST + 1 if factor >= 1.0 else math.ceil(math.log(share) / math.log(factor)) + 1


@partial(jax.jit, static_argnames=("length", "skipped", "shown"))
def _play(environment, policy, keys, length: int, skipped: int, shown: int):
    """Discounted returns after the steps skipped, and states and controls of the first episodes."""
    discount = environment.problem.discount

    def start(key):
        state, _ = environment.reset(key)  # which rounds to float32
        normal = jax.random.normal(key, state.x.shape, jnp.float64)
        return state._replace(x=environment.problem.initial_mean + environment.initial_root @ normal)

    def step(key, state, time):
        act_key, step_key = jax.random.split(jax.random.fold_in(key, time))
        u = policy.sample(act_key, state.x, time)
        new, _, reward, _, _ = environment.step(step_key, state, u)
        return new, u, reward

    def body(carry, time):
        states, weight, totals = carry
        new, u, reward = jax.vmap(step, (0, 0, None))(keys, states, time)
        totals = totals + jnp.where(time >= skipped, weight * reward, 0.0)
        return (new, weight * discount, totals), (states.x[:shown], u[:shown])

    start_carry = (jax.vmap(start)(keys), jnp.ones((), jnp.float64), jnp.zeros(keys.shape[0], jnp.float64))
    (last, _, totals), (x, u) = jax.lax.scan(body, start_carry, jnp.arange(length))
    states = jnp.concatenate([x, last.x[None, :shown]])
    return totals, jnp.swapaxes(states, 0, 1), jnp.swapaxes(u, 0, 1)
