"""Returns, advantages, importance weights, replay and normalizer, each against a plain loop."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from clauses import against
from optimality.sampling.normalizers import RunningNormalizer
from optimality.sampling.replay import Replay
from optimality.sampling.returns import (
    generalized_advantage,
    log_importance_weights,
    n_step_return,
    reward_to_go,
)
from optimality.sampling.transitions import Transition

RANDOM = np.random.default_rng(0)
TIME, DISCOUNT, DECAY = 12, 0.9, 0.8
REWARD, VALUE, NEXT = (RANDOM.normal(size=TIME).astype(np.float32) for _ in range(3))
TERMINATED = np.isin(np.arange(TIME), [3])
DONE = np.isin(np.arange(TIME), [3, 7])


def advantage_by_definition():
    """`sum_k (discount decay)^k delta_{t+k}` until the episode is over."""
    delta = REWARD + DISCOUNT * np.where(TERMINATED, 0.0, NEXT) - VALUE
    out = np.zeros(TIME)
    for t in range(TIME):
        for k in range(t, TIME):
            out[t] += (DISCOUNT * DECAY) ** (k - t) * delta[k]
            if DONE[k]:
                break
    return out


def cuts_the_bootstrap(reward, value, following, terminated, done, discount, decay):
    return generalized_advantage(reward, value, following, done, done, discount, decay)


def runs_over_the_end(reward, value, following, terminated, done, discount, decay):
    return generalized_advantage(reward, value, following, terminated, terminated, discount, decay)


@against(generalized_advantage, truncation_cuts_bootstrap=cuts_the_bootstrap, leaks_over_truncation=runs_over_the_end)
def test_generalized_advantage(implementation):
    ours = implementation(*map(jnp.asarray, (REWARD, VALUE, NEXT, TERMINATED, DONE)), DISCOUNT, DECAY)
    np.testing.assert_allclose(ours, advantage_by_definition(), rtol=1e-5, atol=1e-6)


def test_time_limits_are_worth_the_whole_future():
    """Reward 1 for ever, cut every 8 steps: with the value 10 of that future every advantage is 0."""
    done = jnp.arange(16) % 8 == 7
    never = jnp.zeros(16, bool)
    tens, ones = jnp.full(16, 10.0), jnp.ones(16)
    np.testing.assert_allclose(generalized_advantage(ones, tens, tens, never, done, 0.9, 0.95), 0.0, atol=1e-5)


@against(
    reward_to_go,
    forgets_discount=lambda r, g, d: reward_to_go(r, 1.0, d),
    leaks=lambda r, g, d: reward_to_go(r, g),
)
def test_reward_to_go(implementation):
    expected, total = np.zeros(TIME), 0.0
    for t in reversed(range(TIME)):
        total = REWARD[t] + DISCOUNT * (0.0 if DONE[t] else total)
        expected[t] = total
    np.testing.assert_allclose(implementation(jnp.asarray(REWARD), DISCOUNT, jnp.asarray(DONE)), expected, rtol=1e-5)


@pytest.mark.parametrize("steps", [1, 3, 20])
@against(
    n_step_return,
    bootstraps_the_terminated=lambda r, v, term, done, g, n: n_step_return(r, v, term & False, done, g, n),
    one_step_more=lambda r, v, term, done, g, n: n_step_return(r, v, term, done, g, n + 1) if n < 12 else r,
)
def test_n_step_return(implementation, steps):
    expected = np.zeros(TIME)
    for t in range(TIME):
        for k in range(steps):
            expected[t] += DISCOUNT**k * REWARD[t + k]
            if DONE[t + k] or t + k == TIME - 1 or k == steps - 1:
                expected[t] += DISCOUNT ** (k + 1) * (0.0 if TERMINATED[t + k] else NEXT[t + k])
                break
    arrays = map(jnp.asarray, (REWARD, NEXT, TERMINATED, DONE))
    np.testing.assert_allclose(implementation(*arrays, DISCOUNT, steps), expected, rtol=1e-5, atol=1e-6)


def test_importance_weights_by_enumeration():
    """Two steps, two actions: per-decision and trajectory weights give the target's expected reward, single-step ones
    do not where the reward depends on the action before."""
    target, behavior = np.array([0.8, 0.2]), np.array([0.3, 0.7])
    reward = np.array([[1.0, -2.0], [0.5, 3.0]])  # of the second step, by both actions
    expected = target @ reward @ target
    for kind, holds in (("per_decision", True), ("trajectory", True), ("step", False)):
        found = 0.0
        for first in range(2):
            for second in range(2):
                log_target, log_behavior = (np.log(law[[first, second]]) for law in (target, behavior))
                weights = np.exp(log_importance_weights(jnp.asarray(log_target), jnp.asarray(log_behavior), kind))
                found += behavior[first] * behavior[second] * weights[1] * reward[first, second]
        assert bool(abs(found - expected) < 1e-6) is holds
    with pytest.raises(ValueError, match="kind must be"):
        log_importance_weights(jnp.zeros(2), jnp.zeros(2), "all")


def batch(start, number, valid=None):
    numbers = jnp.arange(start, start + number, dtype=jnp.float32)
    flags = jnp.zeros(number, bool)
    valid = jnp.ones(number, bool) if valid is None else jnp.asarray(valid)
    return Transition(numbers[:, None], numbers, numbers, numbers[:, None], flags, flags, valid, {})


def test_replay_is_a_ring_without_padding():
    replay = Replay.empty(jax.tree.map(lambda x: x[0], batch(0, 1)), 5)
    replay = replay.add(batch(0, 3)).add(batch(10, 4, [True, False, True, True]))
    assert (int(replay.size), int(replay.position)) == (5, 1)
    assert replay.rows.reward.tolist() == [13.0, 1.0, 2.0, 10.0, 12.0]
    with pytest.raises(ValueError, match="does not fit"):
        replay.add(batch(0, 6))
    with pytest.raises(ValueError, match="at least 1"):
        Replay.empty(batch(0, 1), 0)


def test_replay_samples_uniformly_what_it_holds():
    replay = Replay.empty(jax.tree.map(lambda x: x[0], batch(0, 1)), 100).add(batch(0, 10))
    rewards = np.asarray(replay.sample(jax.random.key(0), 20_000).reward)
    counts = np.bincount(rewards.astype(int), minlength=10)
    assert counts.size == 10
    assert ((counts - 2000) ** 2 / 2000).sum() < 33.7  # the 0.9999 quantile of chi-square with 9 degrees of freedom


def test_normalizer_has_the_moments_of_all_that_was_valid():
    data = RANDOM.normal(3.0, 2.0, size=(40, 3)).astype(np.float32)
    valid = RANDOM.random(40) < 0.7
    normalizer = RunningNormalizer.empty((3,))
    np.testing.assert_array_equal(normalizer(data[0]), np.clip(data[0], -10, 10))
    for part in np.split(np.arange(40), 4):
        normalizer = normalizer.updated(jnp.asarray(data[part]), jnp.asarray(valid[part]))
    np.testing.assert_allclose(normalizer.mean, data[valid].mean(axis=0), rtol=1e-5)
    np.testing.assert_allclose(normalizer.variance, data[valid].var(axis=0), rtol=1e-4)
    same = normalizer.updated(jnp.full((2, 3), jnp.nan_to_num(1e9)), jnp.zeros(2, bool))
    np.testing.assert_array_equal(same.mean, normalizer.mean)
