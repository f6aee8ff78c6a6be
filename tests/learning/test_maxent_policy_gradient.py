"""The maximum-entropy policy gradient of action values against an enumeration of all episodes."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from clauses import against
from optimality.environments.catalog import make
from optimality.environments.probes import ActionObservationReward, EndlessReward
from optimality.environments.wrappers import TimeLimit
from optimality.learning.action_values import soft_value
from optimality.learning.maxent_policy_gradient import Dueling, MaxEntPolicyGradient
from optimality.networks.mlp import MLP
from optimality.sampling.compiled_runner import CompiledRunner
from optimality.sampling.loop import begin, episode_returns, play, run_chunk, strong
from optimality.sampling.transitions import Rollout
from short_episodes import DISCOUNT, EPISODES, SPEC, TEMPERATURE, columns

CASE = {"discount": DISCOUNT, "temperature": TEMPERATURE, "network": MLP(hidden=(3,))}
Q = np.array([[0.3, -0.5], [1.2, 0.4]], np.float32)
"""Action values at the two observations: a network that is a table."""


class AtTwoPoints(eqx.Module):
    values: jax.Array

    def __call__(self, features):
        return jnp.where(features[0] > 0.5, self.values[0], self.values[1])


def table():
    """All episodes; the time limit ends them, so that the objective is that of three steps."""
    stacked = jax.tree.map(lambda *x: np.stack(x), *(columns(path) for path, _ in EPISODES))
    return eqx.tree_at(lambda t: t.truncated, stacked, stacked.truncated & False)


def chances(q):
    log_p = jax.nn.log_softmax(q / TEMPERATURE)
    return jnp.stack([c * jnp.exp(sum(log_p[s, a] for s, a, _ in path)) for path, c in EPISODES])


def soft_returns(q):
    """`sum_t discount^t (r_t - tau log pi(a_t | s_t))` of each episode, differentiable."""
    log_p, t = jax.nn.log_softmax(q / TEMPERATURE), table()
    power = DISCOUNT ** np.arange(3)
    state = (t.observation[..., 0] < 0.5).astype(int)
    gains = t.reward - TEMPERATURE * log_p[state, t.action]
    return jnp.sum(jnp.where(t.valid, power[None].astype(np.float32) * gains, 0.0), axis=1)


def objective(q):
    return jnp.sum(chances(q) * soft_returns(q))


def expected_loss_gradient(implementation, weight):
    """Weighted by the probabilities of the episodes, which are held."""
    learner, t = MaxEntPolicyGradient(**CASE, value_weight=weight), table()
    held = chances(jnp.asarray(Q))

    def loss(q):
        return jnp.sum(
            held * jax.vmap(lambda e: implementation(learner, AtTwoPoints(q), e))(jax.tree.map(jnp.asarray, t))
        )

    return np.asarray(jax.grad(loss)(jnp.asarray(Q)))


def ours(learner, q, episode):
    return learner.loss(q, episode, episode.reward)[0]


def without_the_entropy(learner, q, episode):
    """Rewards alone in the return."""
    tau = jnp.asarray(TEMPERATURE, jnp.float32)
    values = jax.vmap(q)(episode.observation)
    log_p = jnp.take_along_axis(jax.nn.log_softmax(values / tau), episode.action[:, None], axis=1)[:, 0]
    return learner.loss(q, episode, episode.reward + jax.lax.stop_gradient(tau * log_p))[0]


def with_the_value_term_dropped(learner, q, episode):
    """The gradient of Q alone: soft Q-learning taken for a policy gradient (E3.27)."""
    return ours(eqx.tree_at(lambda m: m.value_weight, learner, 1.0), q, episode)


def with_the_sign_of_soft_q_learning(learner, q, episode):
    return -ours(learner, q, episode)


@against(
    ours,
    without_the_entropy=without_the_entropy,
    with_the_value_term_dropped=with_the_value_term_dropped,
    with_the_sign_of_soft_q_learning=with_the_sign_of_soft_q_learning,
)
def test_the_policy_gradient_is_that_of_the_soft_return(implementation):
    found = expected_loss_gradient(implementation, 0.0)
    exact = TEMPERATURE * np.asarray(jax.grad(objective)(jnp.asarray(Q)))
    np.testing.assert_allclose(found, -exact, atol=2e-6)
    assert np.abs(found.sum(axis=1)).max() < 2e-6  # what is added to all values of a state is not seen


def value_error(q, targets_of):
    """`E sum_t discount^t (V(s_t) - G_t)^2 / 2`, law and targets held."""
    t, held = table(), chances(jnp.asarray(Q))
    state = (t.observation[..., 0] < 0.5).astype(int)
    value = soft_value(q, TEMPERATURE)[state]
    power = (DISCOUNT ** np.arange(3)).astype(np.float32)
    error = jnp.where(t.valid, power[None] * (value - targets_of) ** 2, 0.0)
    return 0.5 * jnp.sum(held[:, None] * error)


def soft_targets():
    """`G_t`, by hand, backwards."""
    log_p, t = np.asarray(jax.nn.log_softmax(Q / TEMPERATURE)), table()
    state = (t.observation[..., 0] < 0.5).astype(int)
    gains = np.where(t.valid, t.reward - TEMPERATURE * log_p[state, t.action], 0.0)
    found, following = np.zeros_like(gains), np.zeros(gains.shape[0])
    for step in (2, 1, 0):
        following = gains[:, step] + DISCOUNT * following
        found[:, step] = following
    return found.astype(np.float32)


@pytest.mark.parametrize("weight", [0.3, 1.0])
def test_with_the_error_of_the_value_it_becomes_soft_q_learning(weight):
    found = expected_loss_gradient(ours, weight)
    policy = -TEMPERATURE * np.asarray(jax.grad(objective)(jnp.asarray(Q)))
    value = np.asarray(jax.grad(value_error)(jnp.asarray(Q), soft_targets()))
    np.testing.assert_allclose(found, policy + weight * value, atol=3e-6)


def test_the_soft_value_of_dueling_values_is_the_value():
    keys = jax.random.split(jax.random.key(0), 3)
    scores, value = MLP(hidden=(4,)).build(keys[0], 2, 3), MLP(hidden=(4,)).build(keys[1], 2, 1)
    x = jax.random.normal(keys[2], (2,))
    assert float(soft_value(Dueling(scores, value, 0.3)(x), 0.3)) == pytest.approx(float(value(x)[0]), abs=1e-6)


SMALL = {"environments": 8, "episodes": 2, "network": MLP(hidden=(16,)), "learning_rate": 1e-2}


def trained(environment, steps, **fields):
    learner = strong(MaxEntPolicyGradient(**{**SMALL, **fields}))
    state, runner = begin(learner, strong(CompiledRunner(environment, learner.environments)), jax.random.key(0))
    state, _, metrics = run_chunk(learner, state, runner, jax.random.key(1), steps)
    return learner, state, metrics


def test_a_time_limit_cuts_no_value():
    """Reward 1 and log 2 nats for ever: the soft value is `(1 + tau log 2) / (1 - discount)`, and V goes there."""
    environment = TimeLimit(EndlessReward(), 8)
    actions = CompiledRunner(environment, 1).spec.actions
    assert actions is not None
    _, state, metrics = trained(environment, 600, discount=0.9, temperature=0.5)
    aim = 10.0 * (1.0 + 0.5 * np.log(actions))
    assert float(state.value(jnp.zeros(1))[0]) == pytest.approx(aim, rel=0.02)
    assert float(metrics["entropy"]) == pytest.approx(np.log(actions), abs=0.02)


def test_a_probe_is_solved():
    environment = TimeLimit(ActionObservationReward(), 4)
    learner, state, _ = trained(environment, 150, temperature=0.05)
    played = play(learner.policy(state, explore=False), CompiledRunner(environment, 64), jax.random.key(9))
    assert episode_returns(played).mean() > 0.95


def test_continuous_actions_are_refused():
    with pytest.raises(ValueError, match="needs discrete actions"):
        MaxEntPolicyGradient().init(CompiledRunner(make("Pendulum-v1"), 8).spec, jax.random.key(0))


def test_rewards_that_are_not_finite_change_nothing():
    learner = MaxEntPolicyGradient(**CASE)
    state = learner.init(SPEC, jax.random.key(0))
    batch = jax.tree.map(lambda *x: jnp.stack(x, axis=1), *(columns(path) for path, _ in EPISODES[:2]))
    new, metrics = learner.update(state, Rollout(batch, None), jax.random.key(1), lambda t: jnp.full((), jnp.nan))
    assert float(metrics["applied"]) == 0.0
    assert eqx.tree_equal((state.scores, state.value), (new.scores, new.value))
