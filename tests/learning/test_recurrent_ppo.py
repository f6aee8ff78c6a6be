"""PPO with a memory: its replay is exact over resets, values go on to the true next observation, and it remembers."""

from functools import cache, partial

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
from optimality.environments.to_gymnasium import to_gymnasium_vector
from optimality.environments.wrappers import PartialObservation
from optimality.experiments.checkpoints import load_checkpoint, save_checkpoint
from optimality.learning.ppo import PPO
from optimality.networks.gru import GRU
from optimality.networks.mlp import MLP
from optimality.sampling.collection import collect
from optimality.sampling.compiled_runner import CompiledRunner
from optimality.sampling.gymnasium_runner import GymnasiumRunner
from optimality.sampling.loop import begin, episode_returns, play, run_chunk, strong
from optimality.sampling.transitions import Rollout


class CueRecall(AbstractEnvironment):
    """A cue of -1 or 1 is shown at the first of `length` steps; at the last one, marked, the action must name it.

    Reward 1 or -1 at the end, 0 before. Without a memory the last observation is always the same: the return is 0 on
    average whatever the policy, and 1 with one.
    """

    length: int = eqx.field(static=True, default=5)

    def reset(self, key):
        cue = jax.random.rademacher(key, (), jnp.float32)
        return (cue, jnp.zeros((), jnp.int32)), jnp.stack([cue, jnp.zeros(())])

    def step(self, key, state, action):
        cue, time = state
        last = time == self.length - 1
        reward = jnp.where(last, cue * (2.0 * jnp.asarray(action, jnp.float32) - 1.0), 0.0)
        marked = (time + 1 == self.length - 1).astype(jnp.float32)
        return (cue, time + 1), jnp.stack([jnp.zeros(()), marked]), reward, last, jnp.zeros((), bool)

    @property
    def observation_space(self):
        return spaces.Box(-1.0, 1.0, (2,), np.float32)

    @property
    def action_space(self):
        return spaces.Discrete(2)

    @property
    def time_limit(self):
        return self.length

    def action_mask(self, state):
        return None


RECALL = PPO(
    rollout_steps=20, environments=16, network=MLP(hidden=(16,)), memory=GRU(units=16), learning_rate=5e-3, discount=0.9
)
ONE_STEP = PPO(
    rollout_steps=37, environments=4, network=MLP(hidden=(16,)), memory=GRU(units=8), epochs=1, minibatches=1
)


def louder(state):
    """First policies are near uniform whatever they remember; this one is not."""
    parameters = state.parameters
    weights = parameters.actor.network.weights
    return eqx.tree_at(lambda s: s.parameters.actor.network.weights, state, (weights[0], 200.0 * weights[1]))


@jax.jit
def updated(learner, state, rollout):
    return learner.update(state, rollout, jax.random.key(5))


@cache
def collected(mode="compiled", rollouts=3):
    """The state and the last of a few rollouts, which begins within an episode."""
    learner, runner = strong(ONE_STEP), CompiledRunner(CueRecall(), 4)
    if mode != "compiled":
        vector = to_gymnasium_vector(CueRecall(), 4, gymnasium.vector.AutoresetMode[mode])
        runner = GymnasiumRunner(GymnasiumEnvironment(vector))
    state, runner = begin(learner, runner, jax.random.key(0))
    state = louder(state)
    for number in range(rollouts):
        policy = learner.policy(state, explore=True)
        runner, rollout = collect(learner.collection, policy, runner, jax.random.key(number))
    return learner, state, rollout


def without_initial_carry(rollout):
    return Rollout(rollout.transitions, jax.tree.map(jnp.zeros_like, rollout.carry))


def without_resets(rollout):
    never = jnp.zeros_like(rollout.transitions.done)
    edited = eqx.tree_at(lambda t: (t.terminated, t.truncated), rollout.transitions, (never, never))
    return Rollout(edited, rollout.carry)


@against(lambda rollout: rollout, without_initial_carry=without_initial_carry, without_resets=without_resets)
def test_log_ratio_is_zero_before_the_first_step(implementation):
    """The loss sees the policy that acted: exactly, over dozens of resets and from within an episode."""
    learner, state, rollout = collected()
    assert np.asarray(rollout.transitions.done).sum() > 25
    assert not np.allclose(rollout.carry, 0.0)
    _, metrics = updated(learner, state, implementation(rollout))
    assert float(metrics["kl"]) < 1e-10
    assert float(metrics["clipped"]) == 0.0
    assert float(jnp.std(rollout.transitions.extras["log_prob"])) > 0.1


@pytest.mark.parametrize("mode", ["DISABLED", "NEXT_STEP", "SAME_STEP"])
def test_log_ratio_on_gymnasium_whatever_the_autoreset_mode(mode):
    learner, state, rollout = collected(mode)
    assert rollout.transitions.valid.all() != (mode == "NEXT_STEP")
    _, metrics = updated(learner, state, rollout)
    assert float(metrics["kl"]) < 1e-10


def values(learner, state, rollout):
    seen = rollout.transitions
    return learner._values(state.parameters, rollout, seen.observation, seen.next_observation)[1]


def of_the_new_episode(learner, state, rollout):
    """The value of what is acted on next, which after an end is another episode's."""
    seen = rollout.transitions
    now = learner._values(state.parameters, rollout, seen.observation, seen.next_observation)[0]
    return jnp.concatenate([now[1:], values(learner, state, rollout)[-1:]])


def from_a_fresh_memory(learner, state, rollout):
    parameters = state.parameters
    fresh = lambda x: parameters.critic(parameters.memory(parameters.memory.start(), x)[1])[0]  # noqa: E731
    return jax.vmap(jax.vmap(fresh))(rollout.transitions.next_observation)


@against(values, new_episode=of_the_new_episode, fresh_memory=from_a_fresh_memory)
def test_values_go_on_to_the_true_next_observation(implementation):
    learner, state, rollout = collected()
    cell, critic, seen = state.parameters.memory, state.parameters.critic, rollout.transitions
    cell = jax.jit(partial(lambda module, *given: module(*given), cell))
    found = np.asarray(implementation(learner, state, rollout))
    for column in range(2):
        hidden = rollout.carry[column]
        for time in range(12):
            hidden, _ = cell(hidden, seen.observation[time, column])
            _, output = cell(hidden, seen.next_observation[time, column])
            assert found[time, column] == pytest.approx(float(critic(output)[0]), abs=1e-5)
            if seen.done[time, column]:
                hidden = jnp.zeros_like(hidden)


@pytest.mark.parametrize("memory", [GRU(units=16), None])
def test_only_a_memory_recalls_the_cue(memory):
    """The return with one is 1. Without, it is 0 on average for every policy: 512 episodes have deviation 0.044."""
    learner = strong(eqx.tree_at(lambda ppo: ppo.memory, RECALL, memory, is_leaf=lambda x: x is None))
    runner = strong(CompiledRunner(CueRecall(), 16))
    state, runner = begin(learner, runner, jax.random.key(0))
    state, runner, _ = run_chunk(learner, state, runner, jax.random.key(1), 60)
    played = play(learner.policy(state, explore=False), CompiledRunner(CueRecall(), 512), jax.random.key(2))
    score = episode_returns(played).mean()
    assert score > 0.95 if memory is not None else abs(score) < 0.2


def test_a_chunk_compiles_once():
    learner, runner = strong(RECALL), strong(CompiledRunner(CueRecall(), 16))
    state, runner = begin(learner, runner, jax.random.key(0))
    state, runner, _ = run_chunk(learner, state, runner, jax.random.key(1), 2)
    with counted_compilations() as compilations:
        run_chunk(learner, state, runner, jax.random.key(2), 2)
    assert compilations.count == 0


def test_it_runs_on_gymnasium_and_minibatches_are_environments():
    learner = strong(RECALL)
    runner = GymnasiumRunner(GymnasiumEnvironment(CueRecall(), 16))
    state, runner = begin(learner, runner, jax.random.key(0))
    state, runner, metrics = run_chunk(learner, state, runner, jax.random.key(1), 2)
    assert runner.carry.shape == (16, 16)
    assert np.isfinite(metrics["value_loss"])
    with pytest.raises(ValueError, match="4 minibatches do not divide 6 environments"):
        PPO(memory=GRU()).init(CompiledRunner(CueRecall(), 6).spec, jax.random.key(0))
    partial = PartialObservation(make("CartPole-v1"), (1, 3))
    assert PPO(memory=GRU()).init(CompiledRunner(partial, 8).spec, jax.random.key(0)).normalizer.mean.shape == (2,)


def test_padding_takes_no_part():
    """What stands in rows that are no transitions changes nothing."""
    learner, state, rollout = collected("NEXT_STEP")
    seen = rollout.transitions
    noise = np.where(seen.valid, seen.reward, 1e3).astype(np.float32)
    assert (noise != seen.reward).any()
    other = Rollout(eqx.tree_at(lambda t: t.reward, seen, noise), rollout.carry)
    one, two = (updated(learner, state, given)[0].parameters for given in (rollout, other))
    assert eqx.tree_equal(one, two)


def test_saved_and_loaded_it_goes_on_to_the_same_bits(tmp_path):
    """Two chunks, and a chunk, a checkpoint, a load and a chunk: hidden states within episodes are in the runner."""
    learner, runner = strong(RECALL), strong(CompiledRunner(CueRecall(length=7), 16))
    state, runner = begin(learner, runner, jax.random.key(0))
    fresh = jax.tree.map(jnp.copy, {"state": state, "runner": runner})
    state, runner, _ = run_chunk(learner, state, runner, jax.random.key(1), 2)
    assert not np.allclose(runner.carry, 0.0)
    path = save_checkpoint(tmp_path, 2, {"state": state, "runner": runner}, {})
    straight = run_chunk(learner, state, runner, jax.random.key(2), 2)[:2]
    loaded, _ = load_checkpoint(path, fresh, {})
    resumed = run_chunk(learner, loaded["state"], loaded["runner"], jax.random.key(2), 2)[:2]
    assert eqx.tree_equal(straight, resumed)
