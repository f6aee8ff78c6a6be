"""TRPO: its bound at every step, its gradient, problems with known values, and what stops it."""

from functools import partial

import equinox as eqx
import jax
import jax.numpy as jnp
import pytest

from clauses import against
from optimality.distributions.categorical import Categorical
from optimality.distributions.multivariate_normal import MultivariateNormal
from optimality.environments.catalog import make
from optimality.environments.probes import ActionObservationReward, ActionReward, EndlessReward
from optimality.environments.wrappers import TimeLimit
from optimality.learning.actor import Actor
from optimality.learning.trpo import TRPO, natural_policy_gradient
from optimality.networks.mlp import MLP
from optimality.sampling.collection import collect
from optimality.sampling.compiled_runner import CompiledRunner
from optimality.sampling.loop import begin, episode_returns, play, run_chunk, strong

SMALL = {
    "rollout_steps": 32,
    "environments": 4,
    "network": MLP(hidden=(16,)),
    "minibatches": 4,
    "critic_learning_rate": 5e-3,
}


def started(environment, learner, seed=0):
    learner = strong(learner)
    return learner, *begin(learner, strong(CompiledRunner(environment, learner.environments)), jax.random.key(seed))


def trained(environment, updates, seed=0, **fields):
    learner, state, runner = started(environment, TRPO(**{**SMALL, **fields}), seed)
    state, runner, metrics = run_chunk(learner, state, runner, jax.random.key(100 + seed), updates)
    return learner, state, runner, metrics


@against(partial(TRPO, **SMALL), natural=partial(natural_policy_gradient, **SMALL))
def test_the_measured_divergence_is_within_its_bound_at_every_step(implementation):
    """Of three seeds and 25 steps; the quadratic model alone breaks a bound of this size."""
    learner = implementation(epsilon=0.2, damping=1e-3)
    for seed in range(3):
        learner, state, runner = started(make("CartPole-v1"), learner, seed)
        for step in range(25):
            state, runner, metrics = run_chunk(learner, state, runner, jax.random.key(step), 1)
            assert float(metrics["kl"]) <= float(metrics["kl_bound"])
            assert 0.0 <= float(metrics["step_fraction"]) <= 1.0


@pytest.mark.parametrize("continuous", [False, True])
@pytest.mark.parametrize("probe", [ActionReward, ActionObservationReward])
def test_probes_are_solved(probe, continuous):
    environment = TimeLimit(probe(continuous=continuous), 4)
    learner, state, _, _ = trained(environment, 80, epsilon=0.05)
    played = play(learner.policy(state, explore=False), CompiledRunner(environment, 64), jax.random.key(9))
    best = 0.0 if continuous else 1.0
    assert episode_returns(played).mean() > best - 0.05


def test_time_limit_does_not_cut_the_value():
    environment = TimeLimit(EndlessReward(), 8)
    _, state, runner, metrics = trained(environment, 150, discount=0.9)
    seen = state.normalizer(runner.observation[0].reshape(-1))
    assert float(state.critic(seen)[0]) == pytest.approx(10.0, abs=0.1)
    assert float(metrics["applied"]) == 1.0


def test_divergence_of_actors():
    keys = jax.random.split(jax.random.key(0), 5)
    x = jax.random.normal(keys[0], (3,))
    network = MLP(hidden=(5,))
    one, other = (Actor(network.build(key, 3, 4), None) for key in keys[1:3])
    expected = Categorical(one.network(x)).kl(Categorical(other.network(x)))
    assert float(one.kl(other, x)) == pytest.approx(float(expected), rel=1e-5)
    mask = jnp.array([True, False, True, True])
    masked = [Categorical(jnp.where(mask, actor.network(x), -1e9)) for actor in (one, other)]
    assert float(one.kl(other, x, mask)) == pytest.approx(float(masked[0].kl(masked[1])), rel=1e-5)
    gradient = jax.grad(lambda b: one.kl(eqx.tree_at(lambda a: a.network, other, b), x, mask))(other.network)
    assert all(bool(jnp.all(jnp.isfinite(leaf))) for leaf in jax.tree.leaves(gradient))
    wide = [Actor(network.build(key, 3, 2), jnp.array([0.3, -0.4]) * k) for k, key in enumerate(keys[3:], start=1)]
    laws = [MultivariateNormal(a.network(x), jnp.diag(jnp.exp(jnp.asarray(a.log_deviation)))) for a in wide]
    assert float(wide[0].kl(wide[1], x)) == pytest.approx(float(laws[0].kl(laws[1])), rel=1e-5)


def updated(reward):
    learner, state, runner = started(make("CartPole-v1"), TRPO(**SMALL))
    _, rollout = collect(learner.collection, learner.policy(state, explore=True), runner, jax.random.key(1))
    new, metrics = jax.jit(lambda key: learner.update(state, rollout, key, lambda t: jnp.full((), reward)))(
        jax.random.key(2)
    )
    return state, new, metrics


def test_rewards_that_are_not_finite_change_nothing():
    old, new, metrics = updated(jnp.nan)
    assert float(metrics["applied"]) == 0.0
    assert eqx.tree_equal((old.actor, old.critic), (new.actor, new.critic))


def test_equal_rewards_move_the_policy_within_its_bound():
    """What the critic does not know of them is noise, and the bound holds for noise too."""
    _, _, metrics = updated(1.0)
    assert 0.0 <= float(metrics["kl"]) <= 0.01


@pytest.mark.parametrize(
    ("fields", "match"),
    [
        ({"rollout_steps": 1, "environments": 1, "minibatches": 1}, "at least 2 transitions"),
        ({"minibatches": 7}, "which 7 minibatches do not divide"),
    ],
)
def test_errors(fields, match):
    learner = TRPO(**{**SMALL, **fields})
    with pytest.raises(ValueError, match=match):
        learner.init(CompiledRunner(make("CartPole-v1"), learner.environments).spec, jax.random.key(0))
