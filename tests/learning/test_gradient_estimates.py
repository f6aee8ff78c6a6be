"""Estimates of policy gradients: their means over all batches of one or two episodes are the exact gradient."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import optimality as ox
from clauses import against
from enumeration import Instance, plain_instance, trajectories
from instances import close, problem
from optimality.learning.gradient_estimates import (
    contributions,
    credit,
    estimate,
    leave_one_out,
    optimal_baseline,
    scores_of,
    soft_rewards,
    with_optimal_baseline,
)
from optimality.sampling.returns import generalized_advantage

TAU, DISCOUNT = 0.4, 0.8
LOGITS = np.array([[0.3, -0.5], [0.8, 0.1]])
PLAIN = plain_instance()


def small_instance():
    """2 states, 2 actions, 3 steps: 64 trajectories."""
    random = np.random.default_rng(5)
    rows = [
        (s, a, t, float(p), float(random.normal()), False)
        for s in range(2)
        for a in range(2)
        for t, p in enumerate(random.dirichlet(np.ones(2)))
    ]
    return Instance(tuple(rows), np.eye(2)[0], 3, np.zeros(2), np.log(np.full((2, 2), 0.5)))


SMALL = small_instance()


def log_prob(logits, s, a):
    return jax.nn.log_softmax(logits[s])[a]


@functools.cache
def episodes():
    """Chances, scores, soft rewards, states of all trajectories; float64."""
    world = trajectories(SMALL)
    log_pi = np.asarray(LOGITS - np.log(np.exp(LOGITS).sum(axis=1, keepdims=True)))
    states, actions = world.states[:, :-1].astype(np.int32), world.actions.astype(np.int32)
    with jax.enable_x64(True):
        scores = np.asarray(scores_of(log_prob, jnp.asarray(LOGITS), states, actions, np.ones(actions.shape, bool)))
        rewards = np.asarray(soft_rewards(world.rewards, log_pi[states, actions], TAU))
    return np.exp(world.log_law(log_pi)), scores, rewards, states


@functools.cache
def exact(discount=1.0):
    mdp = problem(SMALL.but(discount=discount))
    return ox.exact_policy_gradient(mdp, LOGITS, temperature=TAU)


def by(kind, baseline=0.0):
    def implementation(discount):
        _, scores, rewards, _ = episodes()
        return contributions(scores, credit(rewards, kind, discount), baseline)

    return implementation


def undiscounted_steps(discount):
    """Each step's return counted from that step: what much code does."""
    _, scores, rewards, _ = episodes()
    power = discount ** np.arange(3)
    return contributions(scores, np.asarray(credit(rewards, "to_go", discount)) / power)


def no_own_entropy(discount):
    _, scores, rewards, states = episodes()
    world = trajectories(SMALL)
    log_pi = np.asarray(jax.nn.log_softmax(LOGITS))[states, world.actions]
    own = TAU * log_pi * discount ** np.arange(3)
    return contributions(scores, np.asarray(credit(rewards, "to_go", discount)) + own)


def looks_at_the_action(discount):
    _, scores, rewards, _ = episodes()
    return contributions(scores, credit(rewards, "to_go", discount), np.asarray(rewards))


@pytest.mark.parametrize("kind", ["to_go", "total"])
@pytest.mark.parametrize("discount", [1.0, DISCOUNT])
def test_mean_is_the_exact_gradient(kind, discount):
    with jax.enable_x64(True):
        for baseline in (0.0, 1.7, np.array([[0.5, -0.2, 3.0]])):
            close(episodes()[0] @ by(kind, baseline)(discount), exact(discount).gradient.ravel())


@against(
    by("to_go"),
    undiscounted_steps=undiscounted_steps,
    no_own_entropy=no_own_entropy,
    looks_at_the_action=looks_at_the_action,
)
def test_what_is_often_written_is_not(implementation):
    with jax.enable_x64(True):
        close(episodes()[0] @ implementation(DISCOUNT), exact(DISCOUNT).gradient.ravel())


def pairs(function):
    """Mean over all pairs of episodes of the mean of their contributions."""
    chances, scores, rewards, _ = episodes()
    with jax.enable_x64(True):
        credits_ = jnp.asarray(credit(rewards))
        scores = jnp.asarray(scores)

        def mean(i, j):
            both = jnp.stack([i, j])
            return jnp.mean(function(scores[both], credits_[both]), axis=0)

        every = jnp.arange(len(chances))
        found = jax.jit(jax.vmap(jax.vmap(mean, (None, 0)), (0, None)))(every, every)
        return np.einsum("i,j,ijd->d", chances, chances, np.asarray(found))


def others_mean(scores, credits_):
    return contributions(scores, credits_, leave_one_out(credits_))


def batch_mean(scores, credits_):
    return contributions(scores, credits_, jnp.mean(credits_, axis=0, keepdims=True))


@against(others_mean, batch_mean=batch_mean)
def test_leave_one_out_is_unbiased(implementation):
    close(pairs(implementation), exact().gradient.ravel())


def test_the_mean_of_the_batch_shrinks_the_gradient():
    """By `1 - 1 / n`: half of it at two episodes."""
    close(pairs(batch_mean), exact().gradient.ravel() / 2)


def test_the_optimal_baseline_is_biased_in_its_own_batch():
    """At two episodes most of the gradient is gone; fitted on the others there is no bias."""
    close(pairs(with_optimal_baseline), exact().gradient.ravel())
    found = pairs(functools.partial(with_optimal_baseline, over="batch"))
    bias = np.linalg.norm(found - exact().gradient.ravel()) / np.linalg.norm(exact().gradient)
    assert 0.4 < bias < 1.2


def test_generalized_advantages_are_unbiased_with_exact_values():
    """With decay 1 for any values of states, with a smaller one for the exact ones only."""
    chances, scores, rewards, states = episodes()
    # Exact values of the entropy objective; the last states are worth nothing.
    steps = np.arange(3)
    over = np.broadcast_to(steps == 2, states.shape)

    def mean(values, decay):
        now = values[steps, states]
        after = np.concatenate([now[:, 1:], np.zeros((len(now), 1))], axis=1)
        with jax.enable_x64(True):
            advantages = jax.vmap(generalized_advantage, (0, 0, 0, 0, 0, None, None))(
                *(jnp.asarray(x) for x in (rewards, now, after, over, over)), 1.0, decay
            )
            return chances @ np.asarray(contributions(scores, advantages))

    value = np.asarray(exact().value)[:3]
    wrong = value + np.array([[1.0, -2.0]])
    expected = exact().gradient.ravel()
    close(mean(value, 0.5), expected)
    close(mean(value, 1.0), expected)
    close(mean(wrong, 1.0), expected)
    assert np.abs(mean(wrong, 0.5) - expected).max() > 0.05


def spread(contributions_):
    chances = episodes()[0]
    mean = chances @ contributions_
    return float(chances @ np.sum((contributions_ - mean) ** 2, axis=1))


def test_exact_variances_fall_in_the_derived_order():
    chances, scores, rewards, states = episodes()
    weighted = scores * np.sqrt(chances)[:, None, None]
    found = {}
    with jax.enable_x64(True):
        for kind in ("total", "to_go"):
            credits_ = np.asarray(credit(rewards, kind))
            found[kind] = spread(np.asarray(contributions(scores, credits_)))
            best = np.asarray(optimal_baseline(weighted, credits_, over="batch"))
            found[f"{kind}_optimal"] = spread(np.asarray(contributions(scores, credits_)) - best * scores.sum(axis=1))
        value = np.asarray(exact().value)[np.arange(3), states]
        found["value"] = spread(np.asarray(contributions(scores, credit(rewards), value)))
    assert found["total"] > found["to_go"] > found["to_go_optimal"]
    assert found["total"] > found["total_optimal"] > found["to_go_optimal"]
    assert found["to_go"] > found["value"]


def sampled(number, seed):
    """Episodes of the plain problem, drawn by the library."""
    mdp = problem(PLAIN)
    policy = np.array([[0.3, 0.7], [0.6, 0.4], [0.5, 0.5]])
    table = jnp.log(jnp.asarray(policy))

    def step(state, key):
        act, move = jax.random.split(key)
        action = jax.random.categorical(act, table[state])
        after, reward, _ = mdp.sample(move, state, action)
        return after.astype(jnp.int32), (state, action.astype(jnp.int32), reward)

    def episode(key):
        begin, go = jax.random.split(key)
        first = jax.random.categorical(begin, jnp.log(jnp.asarray(mdp.initial))).astype(jnp.int32)
        return jax.lax.scan(step, first, jax.random.split(go, PLAIN.horizon))[1]

    with jax.enable_x64(True):
        drawn = jax.jit(jax.vmap(episode))(jax.random.split(jax.random.key(seed), number))
        return policy, *(np.asarray(x) for x in drawn)


@pytest.mark.row("S154")
def test_samples_of_the_environment():
    """20,000 episodes, three estimators: every coordinate within four standard errors of the exact gradient."""
    policy, states, actions, rewards = sampled(20_000, 1)
    logits = np.log(policy)
    expected = ox.exact_policy_gradient(problem(PLAIN), logits, temperature=TAU).gradient.ravel()
    with jax.enable_x64(True):
        scores = scores_of(log_prob, jnp.asarray(logits), states, actions, np.ones(states.shape, bool))
        credits_ = credit(soft_rewards(rewards, logits[states, actions], TAU))
        for found in (
            estimate(contributions(scores, credits_)),
            estimate(contributions(scores, credits_, leave_one_out(credits_))),
            estimate(with_optimal_baseline(scores, credits_)),
        ):
            z = (np.asarray(found.mean) - expected) / np.asarray(found.standard_error)
            assert np.abs(z).max() < 4.0
            assert np.abs(z).max() > 0.1


def test_padding_counts_for_nothing():
    valid = np.array([[True, True, False], [True, False, False], [True, True, True]])
    rewards = np.where(valid, np.array([[1.0, 2.0, 0.0], [5.0, 0.0, 0.0], [-1.0, 0.5, 2.0]]), 0.0)
    close(credit(rewards), [[3.0, 2.0, 0.0], [5.0, 0.0, 0.0], [1.5, 2.5, 2.0]], 1e-6)
    close(leave_one_out(credit(rewards), valid), [[3.25, 2.5, 2.0], [2.25, 2.25, 2.0], [4.0, 2.0, 0.0]], 1e-6)
    states, actions = np.zeros((3, 3), np.int32), np.ones((3, 3), np.int32)
    found = scores_of(log_prob, jnp.asarray(LOGITS, jnp.float32), states, actions, valid)
    assert not np.any(np.asarray(found)[~valid])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: credit(np.zeros((0, 3))), r"at least one of each, but are \(0, 3\)"),
        (lambda: credit(np.array([[0.0, np.nan]])), "the reward at step 1 of episode 0 is nan"),
        (lambda: credit(np.zeros((2, 2)), "all"), "kind must be"),
        (lambda: leave_one_out(np.zeros((1, 3))), "at least 2 episodes"),
        (lambda: estimate(np.zeros((1, 3))), "at least 2 episodes"),
        (lambda: optimal_baseline(np.zeros((1, 3, 2)), np.zeros((1, 3))), "at least 2 episodes"),
        (lambda: optimal_baseline(np.zeros((2, 3, 2)), np.zeros((2, 3)), over="all"), "over must be"),
    ],
)
def test_wrong_arguments_are_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_an_impossible_action_is_named():
    logits = jnp.asarray([[0.0, -jnp.inf], [0.0, 0.0]])
    states, actions = np.zeros((1, 2), np.int32), np.array([[0, 1]], np.int32)
    with pytest.raises(ValueError, match="is -inf at step 1 of episode 0, for action 1 at observation 0"):
        scores_of(log_prob, logits, states, actions, np.ones((1, 2), bool))
