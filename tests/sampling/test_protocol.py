"""The learner protocol in small: what unlike methods need of runners, collection and loops."""

import equinox as eqx
import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from gymnasium import spaces

from clauses import against
from compilations import counted_compilations
from optimality.environments.abstract import AbstractEnvironment
from optimality.environments.catalog import make
from optimality.environments.gymnasium_environment import GymnasiumEnvironment
from optimality.sampling.collection import collect
from optimality.sampling.compiled_runner import CompiledRunner
from optimality.sampling.gymnasium_runner import GymnasiumRunner
from optimality.sampling.learner import AbstractLearner
from optimality.sampling.loop import begin, episode_returns, play, run_chunk, strong
from optimality.sampling.policy import AbstractPolicy
from optimality.sampling.replay import Replay, example_transition, flat
from optimality.sampling.transitions import Episodes, Steps, environment_reward


class Counting(AbstractEnvironment):
    """Observation: steps so far. Terminates when the action says so, or after `length` steps; reward is the step."""

    length: int = eqx.field(static=True, default=5)

    def reset(self, key):
        return jnp.zeros(()), jnp.zeros(1)

    def step(self, key, state, action):
        state = state + 1.0
        return state, state[None], state, action == 1, state >= self.length

    @property
    def observation_space(self):
        return spaces.Box(0.0, 100.0, (1,), np.float32)

    @property
    def action_space(self):
        return spaces.Discrete(2)

    @property
    def time_limit(self):
        return self.length

    def action_mask(self, state):
        return None


class Remembering(AbstractPolicy):
    """A recurrent policy: its hidden state is a running sum; it draws a bias at every reset and stops at random."""

    stop: jax.Array

    def start(self, observation, key):
        return {"hidden": jnp.zeros(()), "bias": jax.random.uniform(key)}

    def act(self, carry, observation, key):
        hidden = 0.5 * carry["hidden"] + observation[0] + carry["bias"]
        action = jax.random.bernoulli(key, self.stop).astype(jnp.int32)
        return {"hidden": hidden, "bias": carry["bias"]}, action, {"hidden": hidden, "bias": carry["bias"]}


POLICY = Remembering(jnp.asarray(0.2))


def rollout(runner, collection, seed=0, policy=POLICY):
    runner = runner.reset(policy, jax.random.key(seed))
    return collect(collection, policy, runner, jax.random.key(seed + 1))


def replayed(rollout, *, initial_carry=True):
    """Hidden states recomputed from the stored carry, starting anew after each reset (where the bias is stored)."""
    transitions, hidden = rollout.transitions, []
    carry = np.array(rollout.carry["hidden"]) if initial_carry else np.zeros_like(rollout.carry["hidden"])
    for t in range(len(transitions.reward)):
        carry = 0.5 * carry + np.asarray(transitions.observation)[t, :, 0] + np.asarray(transitions.extras["bias"])[t]
        hidden.append(carry)
        carry = np.where(np.asarray(transitions.done)[t], 0.0, carry)
    return np.stack(hidden)


@against(replayed, without_initial_carry=lambda rollout: replayed(rollout, initial_carry=False))
def test_recurrent_replay_is_exact_over_resets(implementation):
    runner = CompiledRunner(Counting(), 6).reset(POLICY, jax.random.key(0))
    runner, _ = collect(Steps(3), POLICY, runner, jax.random.key(1))
    _, second = collect(Steps(40), POLICY, runner, jax.random.key(2))
    assert np.asarray(second.transitions.done).sum() > 40
    np.testing.assert_allclose(implementation(second), second.transitions.extras["hidden"], rtol=1e-6)


def test_parameters_are_drawn_once_an_episode():
    _, played = rollout(CompiledRunner(Counting(), 4), Steps(60))
    bias, done = np.asarray(played.transitions.extras["bias"]), np.asarray(played.transitions.done)
    for column in range(4):
        starts = np.flatnonzero(np.r_[True, done[:-1, column]])
        for begin_, end in zip(starts, [*starts[1:], 60], strict=True):
            assert np.unique(bias[begin_:end, column]).size == 1
        assert np.unique(bias[starts, column]).size == starts.size


def test_next_observation_is_the_true_one_and_resets_follow():
    _, played = rollout(CompiledRunner(Counting(), 5), Steps(30))
    t = played.transitions
    np.testing.assert_array_equal(t.next_observation, np.asarray(t.observation) + 1.0)
    following = np.asarray(t.observation)[1:, :, 0]
    np.testing.assert_array_equal(following[np.asarray(t.done)[:-1]], 0.0)


@pytest.mark.parametrize("number", [1, 3])
def test_episodes_are_whole_all_kept_and_padded(number):
    runner, played = rollout(CompiledRunner(Counting(), 7), Episodes(number))
    t = played.transitions
    assert t.reward.shape == (5, 7 * number)
    valid, done = np.asarray(t.valid), np.asarray(t.done)
    assert valid[0].all()
    lengths = valid.sum(axis=0)
    assert (done & valid).sum(axis=0).tolist() == [1] * (7 * number)
    assert done[lengths - 1, np.arange(7 * number)].all()
    np.testing.assert_allclose(episode_returns(t), lengths * (lengths + 1) / 2)
    assert runner.statistics.finished.tolist() == [episode_returns(t).sum(), lengths.sum(), 7 * number]


def test_episodes_without_a_time_limit_are_refused():
    with pytest.raises(ValueError, match="no time limit to pad them to"):
        rollout(CompiledRunner(make("CartPole-v1").environment, 2), Episodes())


class Echo(AbstractPolicy):
    """Always pushes right: what it does depends on nothing."""

    dummy: jax.Array

    def start(self, observation, key):
        return None

    def act(self, carry, observation, key):
        return None, jnp.asarray(1, jnp.int32), {}


@pytest.mark.parametrize("mode", ["disabled", "next-step", "same-step"])
def test_gymnasium_and_compiled_runner_give_the_same_numbers_on_the_twin(mode):
    modes = gymnasium.vector.AutoresetMode
    chosen = {"disabled": modes.DISABLED, "next-step": modes.NEXT_STEP, "same-step": modes.SAME_STEP}[mode]
    vector = gymnasium.vector.SyncVectorEnv([lambda: gymnasium.make("CartPole-v1")] * 3, autoreset_mode=chosen)
    policy = Echo(jnp.zeros(()))
    _, host = rollout(GymnasiumRunner(GymnasiumEnvironment(vector)), Steps(60), policy=policy)
    t = host.transitions
    step = jax.jit(jax.vmap(jax.vmap(lambda o, a: make("CartPole-v1").environment.step(jax.random.key(0), o, a))))
    _, observation, reward, terminated, _ = step(t.observation, t.action)
    valid = t.valid
    assert valid.mean() == 1.0 if mode != "next-step" else 0.8 < valid.mean() < 1.0
    np.testing.assert_allclose(np.asarray(observation)[valid], t.next_observation[valid], atol=1e-5)
    np.testing.assert_array_equal(np.asarray(reward)[valid], t.reward[valid])
    np.testing.assert_array_equal(np.asarray(terminated)[valid], t.terminated[valid])
    first = np.abs(t.observation[1:][t.done[:-1] & t.valid[:-1] & t.valid[1:]])
    assert (first <= 0.05).all()


def test_gymnasium_episodes_are_padded_too():
    runner = GymnasiumRunner(GymnasiumEnvironment("CartPole-v1", 3))
    after, played = rollout(runner, Episodes(2), policy=Echo(jnp.zeros(())))
    t = played.transitions
    assert t.reward.shape == (500, 6)
    assert (t.valid.sum(axis=0) < 15).all()
    assert ((t.done & t.valid).sum(axis=0) == 1).all()
    assert after.finished[2] == 6


class Average(AbstractLearner):
    """Learns the mean reward by a running sum: the smallest learner."""

    collection: Steps = eqx.field(static=True, default=Steps(4))
    warm_up: int = eqx.field(static=True, default=0)
    environments: int = eqx.field(static=True, default=2)
    scale: float = 1.0

    def init(self, spec, key, data=None):
        return {"sum": jnp.zeros(()), "count": jnp.zeros(()), "seen": jnp.zeros(())}

    def policy(self, state, *, explore):
        return POLICY

    def observe(self, state, rollout):
        return {**state, "seen": state["seen"] + jnp.sum(rollout.transitions.valid.astype(jnp.float32))}

    def update(self, state, rollout, key, reward=environment_reward):
        rewards = jax.vmap(jax.vmap(reward))(rollout.transitions)
        total, count = state["sum"] + self.scale * jnp.sum(rewards), state["count"] + rewards.size
        return {**state, "sum": total, "count": count}, {"mean": total / count}


class Shaped(AbstractLearner):
    """A learner around a learner: it composes the reward of whatever is inside."""

    inner: Average
    collection: Steps = eqx.field(static=True, default=Steps(4))
    warm_up: int = eqx.field(static=True, default=0)
    environments: int = eqx.field(static=True, default=2)

    def init(self, spec, key, data=None):
        return {"inner": self.inner.init(spec, key, data), "bonus": jnp.asarray(3.0)}

    def policy(self, state, *, explore):
        return self.inner.policy(state["inner"], explore=explore)

    def observe(self, state, rollout):
        return {**state, "inner": self.inner.observe(state["inner"], rollout)}

    def update(self, state, rollout, key, reward=environment_reward):
        inner, metrics = self.inner.update(
            state["inner"], rollout, key, lambda transition: 2.0 * reward(transition) + state["bonus"]
        )
        return {**state, "inner": inner}, metrics


def chunked(learner, steps=5, seed=0):
    state, runner = begin(learner, CompiledRunner(Counting(), 2), jax.random.key(seed))
    return run_chunk(learner, state, runner, jax.random.key(seed + 1), steps)


def test_composed_rewards_reach_the_inner_learner():
    plain, shaped = chunked(strong(Average()))[0], chunked(strong(Shaped(Average())))[0]["inner"]
    np.testing.assert_allclose(shaped["sum"], 2.0 * plain["sum"] + 3.0 * plain["count"], rtol=1e-6)


class Recalling(Average):
    """Off-policy: sums rewards of a replay, which are made when they are drawn and not when they are stored."""

    def init(self, spec, key, data=None):
        empty = Replay.empty(example_transition(spec, POLICY), 64)
        return {**Average.init(self, spec, key, data), "replay": empty}

    def observe(self, state, rollout):
        return {**Average.observe(self, state, rollout), "replay": state["replay"].add(flat(rollout.transitions))}

    def update(self, state, rollout, key, reward=environment_reward):
        rewards = jax.vmap(reward)(state["replay"].sample(key, 16))
        total, count = state["sum"] + jnp.sum(rewards), state["count"] + rewards.size
        return {**state, "sum": total, "count": count}, {"mean": total / count}


def keeps_the_stored_reward(learner):
    """The inner learner as it is: what it draws has the reward with which it was stored."""
    return learner


@against(Shaped, stored_reward=keeps_the_stored_reward)
def test_composed_rewards_reach_what_an_inner_learner_draws_from_its_replay(implementation):
    plain = chunked(strong(Recalling()))[0]
    shaped = chunked(strong(implementation(Recalling())))[0]
    shaped = shaped.get("inner", shaped)
    assert float(plain["count"]) == 80.0
    np.testing.assert_allclose(shaped["sum"], 2.0 * plain["sum"] + 3.0 * plain["count"], rtol=1e-6)


def test_warm_up_is_observed_and_not_learned_from():
    state, _ = begin(strong(Average(warm_up=10)), CompiledRunner(Counting(), 4), jax.random.key(0))
    assert (float(state["seen"]), float(state["count"])) == (12.0, 0.0)


def test_a_chunk_compiles_once_and_numbers_compile_nothing():
    learner = strong(Average())
    state, runner, _ = chunked(learner)
    with counted_compilations() as compilations:
        other = strong(Average(scale=3.0))
        state, runner, _ = run_chunk(other, state, runner, jax.random.key(5), 5)
        run_chunk(learner, state, runner, jax.random.key(6), 5)
    assert compilations.count == 0


def test_same_seed_same_bits_and_vmap_over_seeds():
    learner = strong(Average())
    one, again = chunked(learner), chunked(learner)
    assert eqx.tree_equal(one[0], again[0])

    def whole(seed):
        state, runner = learner.init(None, jax.random.key(0)), CompiledRunner(Counting(), 2)
        runner = runner.reset(POLICY, jax.random.key(seed))
        return learner.step(state, runner, jax.random.key(seed))[0]["sum"]

    mapped = jax.jit(jax.vmap(whole))(jnp.arange(3))
    np.testing.assert_allclose(mapped, [whole(seed) for seed in range(3)], rtol=1e-6)


def test_learners_run_on_gymnasium_with_the_same_code():
    learner = strong(Average())
    runner = GymnasiumRunner(GymnasiumEnvironment("CartPole-v1", 2))
    state, runner = begin(learner, runner, jax.random.key(0))
    state, runner, metrics = run_chunk(learner, state, runner, jax.random.key(1), 6)
    assert metrics["mean"] == 1.0
    assert float(state["seen"]) == 48.0


def test_play_is_compiled_once():
    runner = CompiledRunner(Counting(), 3)
    play(POLICY, runner, jax.random.key(0))
    with counted_compilations() as compilations:
        play(Remembering(jnp.asarray(0.9)), runner, jax.random.key(1))
    assert compilations.count == 0
