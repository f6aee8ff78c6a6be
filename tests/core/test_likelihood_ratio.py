"""The surrogate's value and derivatives against enumeration: one choice, and all episodes of two steps."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from clauses import against
from instances import close
from optimality.core.likelihood_ratio import likelihood_ratio, surrogate

WEIGHTS = np.array([0.4, -0.3, 0.9])
FEATURES = np.array([[1.0, 0.2, -0.5], [0.3, -1.0, 0.8], [-0.6, 0.5, 0.1], [0.2, 0.9, 1.1]])
REWARDS = np.array([1.5, -0.7, 0.4, 2.0])


def one_choice(weights):
    """`[4]` log-probabilities, and what each choice earns, which depends on the weights too."""
    return jax.nn.log_softmax(jnp.asarray(FEATURES) @ weights), jnp.asarray(REWARDS) * jnp.sin(weights[0] + 1.0)


def expectation(weights):
    log_p, coefficient = one_choice(weights)
    return jnp.sum(jnp.exp(log_p) * coefficient)


def score_function(log_prob, coefficient, baseline=0.0):
    return log_prob * jax.lax.stop_gradient(coefficient - baseline) + coefficient


def constant_coefficient(log_prob, coefficient, baseline=0.0):
    return surrogate(log_prob, jax.lax.stop_gradient(coefficient), baseline)


def forgets_the_baseline(log_prob, coefficient, baseline=0.0):
    return likelihood_ratio(log_prob) * (coefficient - baseline)


def never_stopped(log_prob, coefficient, baseline=0.0):
    return jnp.exp(log_prob) * (coefficient - baseline) + baseline


@against(
    surrogate,
    score_function=score_function,
    constant_coefficient=constant_coefficient,
    forgets_the_baseline=forgets_the_baseline,
    never_stopped=never_stopped,
)
def test_value_and_derivatives_of_one_choice(implementation):
    with jax.enable_x64(True):
        at = jnp.asarray(WEIGHTS)
        chances = jnp.exp(one_choice(at)[0])
        for baseline in (0.0, 0.8):

            def mean(weights, baseline=baseline):
                return jnp.sum(chances * implementation(*one_choice(weights), baseline))

            close(mean(at), expectation(at))
            close(jax.grad(mean)(at), jax.grad(expectation)(at))
            close(jax.hessian(mean)(at), jax.hessian(expectation)(at))
            close(jax.jacfwd(jax.hessian(mean))(at), jax.jacfwd(jax.hessian(expectation))(at))


MOVES = np.array([[[0.7, 0.3], [0.2, 0.8]], [[0.4, 0.6], [0.5, 0.5]]])  # [state, action, next]
EPISODES = list(itertools.product(range(2), repeat=4))  # first action, state, second action, state


def episodes(weights):
    """All of them from state 0: chance of the moves, log-probabilities and rewards `[16, 2]`."""
    log_pi = jax.nn.log_softmax((jnp.asarray(FEATURES) @ weights).reshape(2, 2))
    moves, log_probs, rewards = [], [], []
    for first, middle, second, last in EPISODES:
        moves.append(MOVES[0, first, middle] * MOVES[middle, second, last])
        log_probs.append(jnp.stack([log_pi[0, first], log_pi[middle, second]]))
        rewards.append([REWARDS[first], REWARDS[2 * middle + second]])
    return jnp.asarray(moves), jnp.stack(log_probs), jnp.asarray(rewards)


def expected_return(weights):
    moves, log_probs, rewards = episodes(weights)
    return jnp.sum(moves * jnp.exp(log_probs.sum(axis=1)) * rewards.sum(axis=1))


def by_rewards(log_probs, rewards):
    """Each reward with the actions before it, less a baseline."""
    return surrogate(jnp.cumsum(log_probs, axis=1), rewards, jnp.asarray([[0.3, -0.2]])).sum(axis=1)


def reward_to_go(log_probs, rewards):
    """Each action with the rewards after it: of the right value and first derivative."""
    to_go = jnp.cumsum(rewards[:, ::-1], axis=1)[:, ::-1]
    return rewards.sum(axis=1) + surrogate(log_probs, to_go).sum(axis=1) - to_go.sum(axis=1)


@against(by_rewards, reward_to_go=reward_to_go)
def test_second_derivative_of_a_return(implementation):
    with jax.enable_x64(True):
        at = jnp.asarray(WEIGHTS)
        moves, log_probs, _ = episodes(at)
        chances = moves * jnp.exp(log_probs.sum(axis=1))

        def mean(weights):
            return jnp.sum(chances * implementation(*episodes(weights)[1:]))

        close(mean(at), expected_return(at))
        close(jax.grad(mean)(at), jax.grad(expected_return)(at))
        close(jax.hessian(mean)(at), jax.hessian(expected_return)(at))


def test_the_value_is_not_rounded(x64):
    coefficient = np.array([1e-8, 3.0, 1e8], np.float32)
    found = surrogate(np.array([-2.0, -30.0, -0.1], np.float32), coefficient, 12345.678)
    np.testing.assert_array_equal(found, coefficient)


@pytest.mark.parametrize("log_prob", [-np.inf, np.nan])
def test_an_impossible_choice_is_not_hidden(log_prob):
    assert np.isnan(likelihood_ratio(np.array([log_prob], np.float32))[0])
