"""Returns, advantages, importance weights, replay and normalizer, each against a plain loop."""

import re

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from clauses import against
from optimality.sampling.normalizers import RunningNormalizer
from optimality.sampling.replay import MixedReplay, Replay
from optimality.sampling.returns import (
    generalized_advantage,
    log_importance_weights,
    n_step_return,
    reward_to_go,
)
from optimality.sampling.transitions import Transition, where

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


def weighted_state_reward(kind):
    """The target's expected reward of the state before the second action, estimated under the behavior: the second
    action is drawn too, and must not matter. Three steps, so that a whole prefix counts."""
    target, behavior = np.array([[0.8, 0.2], [0.1, 0.9], [0.6, 0.4]]), np.array([[0.3, 0.7], [0.5, 0.5], [0.4, 0.6]])
    reward, expected, found, spread = np.array([[1.0, -2.0], [0.5, 3.0]]), 0.0, 0.0, 0.0
    for a, b, c in np.ndindex(2, 2, 2):
        path = np.arange(3), np.array([a, b, c])
        log_weights = log_importance_weights(jnp.log(target[path]), jnp.log(behavior[path]), kind)
        weight, chance = float(jnp.exp(log_weights)[2]), behavior[path].prod()
        expected += target[path].prod() * reward[a, b]
        found += chance * weight * reward[a, b]
        spread += chance * weight**2
    return expected, found, spread


@against("prefix", own_step="step")
def test_prefix_weights_by_enumeration(implementation):
    """Unbiased for what the last action does not touch, and of smaller variance than weights that include it."""
    expected, found, spread = weighted_state_reward(implementation)
    assert abs(found - expected) < 1e-6
    assert spread < weighted_state_reward("per_decision")[2] - 0.1


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


def any_types(number):
    """Rows of every type: NaN with a payload, infinities, negative integers, flags, bytes that do not fill a word."""
    random = np.random.default_rng(3)
    raw = random.integers(0, 2**32, (number, 3), dtype=np.uint32).view(np.float32)
    raw[0] = [np.nan, -np.inf, -0.0]
    extras = {"bytes": random.integers(0, 256, (number, 5), dtype=np.uint8), "half": raw[:, :1].astype(np.float16)}
    flags = random.random((2, number)) < 0.5
    action = random.integers(-(2**31), 2**31, (number, 2), dtype=np.int32)
    row = Transition(raw, action, raw[:, 1], raw[::-1].copy(), *flags, np.ones(number, bool), extras)
    return jax.tree.map(jnp.asarray, row)


def bits(tree):
    return [np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(tree)]


def through_replay(rows):
    return Replay.empty(jax.tree.map(lambda x: x[0], rows), 7).add(rows).rows


def through_floats(rows):
    """As a matrix of numbers instead of words."""
    lossy = lambda x: x.astype(jnp.float32).astype(x.dtype) if x.dtype != bool else x  # noqa: E731
    return jax.tree.map(lossy, rows)


@against(through_replay, converts=through_floats)
@pytest.mark.filterwarnings("ignore:.*(overflow|invalid value) encountered in cast")
def test_a_row_comes_back_bit_for_bit(implementation):
    rows = any_types(7)
    assert bits(implementation(rows)) == bits(rows)


def test_numbers_of_64_bits_come_back(x64):
    if not x64:
        pytest.skip("there are none")
    rows = batch(0, 3)
    rows = eqx.tree_at(lambda t: (t.reward, t.action), rows, (jnp.asarray([0.1, np.nan, 1e300]), jnp.arange(3) - 2**40))
    assert bits(through_replay(rows).reward[:3]) == bits(rows.reward)
    assert through_replay(rows).action[:3].tolist() == rows.action.tolist()


def test_rows_of_another_form_are_refused():
    replay = Replay.empty(jax.tree.map(lambda x: x[0], batch(0, 1)), 5)
    with pytest.raises(ValueError, match="transitions must keep their form"):
        replay.add(eqx.tree_at(lambda t: t.reward, batch(0, 2), jnp.zeros(2, jnp.int32)))


def packed(example, capacity):
    return Replay.empty(example, capacity)


class LeafByLeaf(eqx.Module):
    """The replay as arrays of each leaf, read by an ordinary gather: what was measured to be copied."""

    rows: Transition
    size: jax.Array

    def add(self, batch):
        index = (self.size + jnp.arange(batch.reward.shape[0])) % self.rows.reward.shape[0]
        return LeafByLeaf(jax.tree.map(lambda r, x: r.at[index].set(x), self.rows, batch), self.size + 1)

    def sample(self, key, number):
        mixed = jax.random.permutation(key, self.rows.reward.shape[0])[:number]  # without replacement: O(capacity)
        return jax.tree.map(lambda r: r[mixed], self.rows)


def leaf_by_leaf(example, capacity):
    return LeafByLeaf(
        jax.tree.map(lambda x: jnp.zeros((capacity, *x.shape), x.dtype), example), jnp.zeros((), jnp.int32)
    )


@against(packed, without_replacement=leaf_by_leaf)
def test_a_chunk_touches_the_batch_and_not_the_replay(implementation):
    """Compiled text of a donated loop over a replay of a million rows: nothing of that size is made but the carry."""
    capacity, example = 1_000_000, jax.tree.map(lambda x: x[0], batch(0, 1))

    def chunk(replay, key):
        def body(carry, step_key):
            replay, total = carry
            replay = replay.add(batch(0, 2))
            return (replay, total + jnp.sum(replay.sample(step_key, 8).reward)), None

        return jax.lax.scan(body, (replay, jnp.zeros(())), jax.random.split(key, 10))[0]

    replay = jax.eval_shape(lambda: implementation(example, capacity))
    key = jax.eval_shape(lambda: jax.random.key(0))
    compiled = jax.jit(chunk, donate_argnums=0).lower(replay, key).compile()
    copies = [line for line in compiled.as_text().splitlines() if re.search(rf"= \w+\[{capacity}\S* copy", line)]
    assert not copies
    assert compiled.memory_analysis().temp_size_in_bytes < 100_000


def mixed(own, demonstrations, key, number, fraction):
    return MixedReplay(own, demonstrations, fraction).sample(key, number)


def by_a_coin(own, demonstrations, key, number, fraction):
    coin = jax.random.bernoulli(key, fraction, (number,))
    return where(coin, demonstrations.sample(key, number), own.sample(key, number))


@against(mixed, by_a_coin=by_a_coin, other_way=lambda o, d, k, n, f: MixedReplay(d, o, f).sample(k, n))
def test_mixed_batches_hold_their_share(implementation):
    example = jax.tree.map(lambda x: x[0], batch(0, 1))
    own, shown = Replay.empty(example, 50).add(batch(0, 40)), Replay.empty(example, 10).add(batch(100, 10))
    for seed in range(5):
        rewards = np.asarray(implementation(own, shown, jax.random.key(seed), 64, 0.25).reward)
        assert (rewards >= 100).sum() == 16
        assert set(rewards) <= {*range(40), *range(100, 110)}
    with pytest.raises(ValueError, match=r"in \[0, 1\]"):
        MixedReplay(own, shown, 1.5)
    with pytest.raises(ValueError, match="same observations"):
        MixedReplay(own, Replay.empty(jax.tree.map(lambda x: x[0], any_types(2)), 3), 0.5)


def test_a_mixed_replay_is_written_on_its_own_side_only():
    example = jax.tree.map(lambda x: x[0], batch(0, 1))
    replay = MixedReplay(Replay.empty(example, 5), Replay.empty(example, 5).add(batch(100, 2)), 0.5).add(batch(0, 3))
    assert (int(replay.own.size), int(replay.demonstrations.size)) == (3, 2)


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
