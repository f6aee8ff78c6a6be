"""No key is used twice, by learners, runners and loops; add a learner to `LEARNERS` to have it checked."""

import equinox as eqx
import jax
import jax.numpy as jnp
import pytest

from clauses import against
from keys import check_keys
from optimality.environments.catalog import make
from optimality.learning.episodic_reps import EpisodicREPS
from optimality.learning.maxent_policy_gradient import MaxEntPolicyGradient
from optimality.learning.ppo import PPO
from optimality.learning.reinforce import Reinforce
from optimality.learning.reps import REPS
from optimality.learning.soft_q_learning import SoftQLearning
from optimality.learning.trpo import TRPO
from optimality.networks.gru import GRU
from optimality.networks.mlp import MLP
from optimality.policies.kernel_features import RandomFourier
from optimality.sampling.compiled_runner import CompiledRunner
from optimality.sampling.learner import AbstractLearner
from optimality.sampling.loop import begin, play, run_chunk, strong
from optimality.sampling.policy import AbstractPolicy
from optimality.sampling.transitions import Steps, environment_reward

SMALL = {"rollout_steps": 8, "environments": 4, "network": MLP(hidden=(4,)), "minibatches": 2}
FEW = {"warm_up": 8, "batch_size": 4, "capacity": 64}
WAVES = {"policy_features": RandomFourier(number=4), "value_features": RandomFourier(number=3)}
LEARNERS = {
    "ppo": lambda: (PPO(**SMALL), make("CartPole-v1")),
    "ppo-continuous": lambda: (PPO(**SMALL, normalize_observations=True), make("Pendulum-v1", time_limit=6)),
    "ppo-memory": lambda: (PPO(**SMALL, memory=GRU(units=3)), make("CartPole-v1", time_limit=6)),
    "trpo": lambda: (TRPO(**SMALL), make("CartPole-v1")),
    "maxent": lambda: (MaxEntPolicyGradient(network=MLP(hidden=(4,)), episodes=1), make("CartPole-v1", time_limit=6)),
    "reinforce": lambda: (Reinforce(network=MLP(hidden=(4,)), episodes=1), make("CartPole-v1", time_limit=6)),
    "reps": lambda: (REPS(rollout_steps=6, window=2, **WAVES), make("Pendulum-v1", time_limit=6)),
    "episodic-reps": lambda: (EpisodicREPS(window=2, warm_up=8), make("Pendulum-v1", time_limit=6)),
    "soft-q-network": lambda: (SoftQLearning(**FEW, network=MLP(hidden=(4,))), make("CartPole-v1", time_limit=6)),
    "soft-q-table": lambda: (SoftQLearning(**FEW), make("DeepSea-v0", time_limit=6)),
}


@pytest.mark.parametrize("name", LEARNERS)
def test_learners_use_each_key_once(name):
    learner, environment = LEARNERS[name]()
    learner, runner = strong(learner), strong(CompiledRunner(environment, 4))
    check_keys(lambda key: begin(learner, runner, key), jax.random.key(0))
    state, runner = begin(learner, runner, jax.random.key(0))
    check_keys(lambda state, runner, key: run_chunk(learner, state, runner, key, 2), state, runner, jax.random.key(1))
    if runner.time_limit is not None:
        policy = learner.policy(learner.init(runner.spec, jax.random.key(2)), explore=True)
        check_keys(lambda runner, key: play(policy, runner, key, 2), runner, jax.random.key(3))


class Coin(AbstractPolicy):
    """Draws a bias at every reset and flips a coin at every step."""

    twice: bool = eqx.field(static=True)

    def start(self, observation, key):
        return jax.random.uniform(key)

    def act(self, carry, observation, key):
        flip_key, weight_key = (key, key) if self.twice else jax.random.split(key)
        action = jax.random.bernoulli(flip_key, carry).astype(jnp.int32)
        return carry, action, {"weight": jax.random.uniform(weight_key)}


class Drawing(AbstractLearner):
    """Draws two numbers in each update, with one key or with two; so does its policy."""

    fault: str = eqx.field(static=True, default="none")
    collection: Steps = eqx.field(static=True, default=Steps(3))
    warm_up: int = eqx.field(static=True, default=4)
    environments: int = eqx.field(static=True, default=2)

    def init(self, spec, key, data=None):
        return jax.random.normal(key)

    def policy(self, state, *, explore):
        return Coin(self.fault == "policy")

    def observe(self, state, rollout):
        return state

    def update(self, state, rollout, key, reward=environment_reward):
        first, second = (key, key) if self.fault == "update" else jax.random.split(key)

        def walk(total, number):
            return total + (jax.random.normal(second) if self.fault == "scan" else number), None

        total, _ = jax.lax.scan(walk, jax.random.normal(first), jax.random.normal(second, (3,)))
        return state + total, {"total": total}


@against(Drawing(), **{fault: Drawing(fault) for fault in ("update", "policy", "scan")})
def test_two_draws_from_one_key_are_noticed(implementation):
    learner = strong(implementation)
    runner = strong(CompiledRunner(make("CartPole-v1"), 2))
    state, runner = begin(learner, runner, jax.random.key(0))
    check_keys(lambda state, runner, key: learner.step(state, runner, key), state, runner, jax.random.key(1))
