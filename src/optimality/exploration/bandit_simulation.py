"""Many runs of bandit policies at once, with common random numbers and exact regret.

Each run has one standard variable a round, from which the pulled arm's reward is made, whichever policy pulls: what
differs between two policies is then due to them, and paired differences need far fewer runs. Pulls are whole numbers,
rewards 0 and 1 are counted, means of other rewards are updated incrementally (a float32 sum of rewards around 100 is
wrong by a unit after a million pulls), and regret is recomputed from pulls in float64. Records are kept at rounds
spaced evenly on a logarithmic scale.
"""

import functools
from collections.abc import Mapping
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Int

from optimality.exploration.bandit_policy import AbstractBanditPolicy, AbstractHostPolicy, ArmStatistics
from optimality.problems.bandits import AbstractArms, BernoulliArms, regret

BLOCK = 128
"""Rounds whose random numbers are drawn at once."""


class BanditTrace(eqx.Module):
    """What one policy did in all runs."""

    times: Int[np.ndarray, " times"]
    """Numbers of pulls at which there is a record; the last is the horizon."""
    pulls: Int[np.ndarray, "times arms runs"]
    arms: AbstractArms

    @property
    def regret(self) -> np.ndarray:
        """`sum_a gap_a N_a`, `[times, runs]`, float64."""
        return regret(self.arms, self.pulls)


def record_times(horizon: int, count: int = 60) -> Int[np.ndarray, " times"]:
    """Whole numbers from 1 to the horizon, about `count`, spaced evenly in their logarithm."""
    return np.unique(np.round(np.geomspace(1, horizon, count)).astype(np.int64))


def simulate_bandit(
    arms: AbstractArms,
    policies: Mapping[str, AbstractBanditPolicy],
    *,
    horizon: int,
    runs: int,
    seed: int = 0,
    times: Int[np.ndarray, " times"] | None = None,
) -> dict[str, BanditTrace]:
    """Plays every policy in the same runs.

    Args:
        arms: `[arms]`, or `[arms, runs]` for a problem of its own in each run.
        policies: by the names that the answer has too.
        horizon: pulls of each run.
        runs: how many.
        seed: of everything random. Policies draw from streams of their own, rewards from a common one.
        times: numbers of pulls to record at; by default `record_times(horizon)`.

    Raises:
        ValueError: fewer rounds than arms, arms that a policy is not made for, records outside the horizon.
    """
    times = record_times(horizon) if times is None else np.unique(np.append(np.asarray(times), horizon))
    _check(arms, policies, horizon, runs, times)
    arms = jax.tree.map(lambda leaf: np.asarray(leaf, np.float32), arms)
    traces = {}
    for number, (name, policy) in enumerate(policies.items()):
        ready = policy.prepare(arms, horizon)
        with jax.enable_x64(False):
            if isinstance(ready, AbstractHostPolicy):
                pulls = _play_on_host(arms, ready, times, runs, seed, number)
            else:
                pulls = _play_compiled(arms, ready, times, runs, seed, number)
        traces[name] = BanditTrace(times, pulls, arms)
    return traces


def _check(arms: AbstractArms, policies: Mapping[str, Any], horizon: int, runs: int, times: np.ndarray) -> None:
    if not policies:
        raise ValueError("simulate_bandit needs at least one policy, by a name: {'ucb1': UCB1()}.")
    if horizon < arms.size:
        raise ValueError(
            f"a run of {horizon} rounds cannot pull each of {arms.size} arms once: give at least as many rounds."
        )
    if horizon >= 2**31:
        raise ValueError(f"horizon must be below 2^31, where pulls are counted exactly, but {horizon} was given.")
    if runs < 1:
        raise ValueError(f"runs must be at least 1, but {runs} was given.")
    if arms.means.ndim == 2 and arms.means.shape[1] != runs:
        raise ValueError(f"the arms are of {arms.means.shape[1]} runs, but {runs} runs were asked for.")
    if times.min() < 1 or times.max() > horizon:
        raise ValueError(f"times must lie between 1 and the horizon {horizon}, but {times} was given.")
    for policy in policies.values():
        policy.check(arms, horizon)


def _segments(times: np.ndarray):
    """Pieces of rounds `(first, last)` that end at a record or where a block of random numbers ends."""
    ends = np.union1d(times, np.arange(BLOCK, times[-1], BLOCK))
    return zip(np.concatenate([[0], ends[:-1]]), ends, strict=True)


def _keys(seed: int, number: int):
    rewards, policies = jax.random.split(jax.random.key(seed))
    return rewards, jax.random.fold_in(policies, number)


@functools.partial(jax.jit, static_argnums=(3,))
def _luck(arms: AbstractArms, key: Any, block: Any, runs: int) -> Any:
    return arms.draw(jax.random.fold_in(key, block), (BLOCK, runs))


@functools.partial(jax.jit, static_argnums=(2, 3))
def _uniforms(key: Any, block: Any, count: int, runs: int) -> Any:
    return jax.random.uniform(jax.random.fold_in(key, block), (BLOCK, count, runs), jnp.float32)


def _play_compiled(
    arms: AbstractArms, policy: AbstractBanditPolicy, times: np.ndarray, runs: int, seed: int, number: int
) -> np.ndarray:
    reward_key, policy_key = _keys(seed, number)
    statistics = _nothing_seen(arms, runs)
    luck, uniforms, block, records = None, None, -1, []
    wanted = set(times.tolist())
    for first, last in _segments(times):
        if first // BLOCK != block:
            block = first // BLOCK
            luck = _luck(arms, reward_key, block, runs)
            uniforms = _uniforms(policy_key, block, policy.uniforms, runs)
        statistics = _advance(arms, policy, statistics, luck, uniforms, np.int32(first), np.int32(last))
        if int(last) in wanted:
            records.append(np.asarray(statistics.pulls))
    return np.stack(records)


def _nothing_seen(arms: AbstractArms, runs: int) -> ArmStatistics:
    shape = (arms.size, runs)
    kind = np.int32 if isinstance(arms, BernoulliArms) else np.float32
    return ArmStatistics(np.zeros(shape, np.int32), np.zeros(shape, kind))


@functools.partial(jax.jit, donate_argnums=(2,))
def _advance(arms, policy, statistics, luck, uniforms, first, last):
    means = jnp.asarray(arms.means)
    means = jnp.broadcast_to(means if means.ndim == 2 else means[:, None], statistics.pulls.shape)
    numbers = jnp.arange(means.shape[0], dtype=jnp.int32)[:, None]

    def round_(time, statistics):
        arm = policy.select(statistics, time, uniforms[time % BLOCK])
        pulled = numbers == arm[None]
        return after_pull(statistics, pulled, arms.reward(means, luck[time % BLOCK][None]))

    return jax.lax.fori_loop(first, last, round_, statistics)


def after_pull(statistics: ArmStatistics, pulled: Any, reward: Any) -> ArmStatistics:
    """Statistics after `reward` of the arm that is True in `pulled`, `[arms, ...]`."""
    pulls = statistics.pulls + pulled.astype(statistics.pulls.dtype)
    if jnp.issubdtype(statistics.earned.dtype, jnp.integer):
        return ArmStatistics(pulls, statistics.earned + jnp.where(pulled, reward, 0))
    step = (reward - statistics.earned) / jnp.maximum(pulls, 1).astype(statistics.earned.dtype)
    return ArmStatistics(pulls, statistics.earned + jnp.where(pulled, step, 0.0))


def _play_on_host(
    arms: AbstractArms, policy: AbstractHostPolicy, times: np.ndarray, runs: int, seed: int, number: int
) -> np.ndarray:
    reward_key, policy_key = _keys(seed, number)
    random = np.random.Generator(np.random.SFC64(np.asarray(jax.random.key_data(policy_key))))
    statistics = _nothing_seen(arms, runs)
    pulls, earned = statistics.pulls, statistics.earned
    means, lanes = np.asarray(arms.means), np.arange(runs)
    counted = np.issubdtype(earned.dtype, np.integer)
    luck, block, records, wanted = np.empty(0), -1, [], set(times.tolist())
    select, pay = policy.start_on_host(statistics, random), arms.reward
    for first, last in _segments(times):
        if first // BLOCK != block:
            block = first // BLOCK
            luck = np.asarray(_luck(arms, reward_key, block, runs))
        for time in range(first, last):
            arm = select(time)
            mean = means[arm] if means.ndim == 1 else means[arm, lanes]
            reward = pay(mean, luck[time % BLOCK])
            pulls[arm, lanes] += 1
            before = earned[arm, lanes]
            earned[arm, lanes] = before + (reward if counted else (reward - before) / pulls[arm, lanes])
        if int(last) in wanted:
            records.append(pulls.copy())
    return np.stack(records)
