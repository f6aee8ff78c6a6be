"""The tabular softmax and its score against automatic differentiation, its limits, and the fixed-deviation Gaussian's
score."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from clauses import against
from instances import close
from optimality.policies.features import IdentityFeatures
from optimality.policies.linear_gaussian import LinearGaussian
from optimality.policies.softmax import TabularSoftmax

WEIGHTS = np.array([[1.2, -0.4, 0.7], [0.1, 2.0, -1.5]])
ALLOWED = np.array([[True, True, True], [True, False, True]])


def table(policy):
    return policy.log_probabilities


def no_temperature(policy):
    return jax.nn.log_softmax(jnp.asarray(policy.weights))


def over_all_states(policy):
    scaled = jnp.asarray(policy.weights) / policy.temperature
    return scaled - jax.scipy.special.logsumexp(scaled)


@pytest.mark.row("S114.normalized", "E2.1")
@against(table, over_all_states=over_all_states, unnormalized=lambda p: jnp.asarray(p.weights) / p.temperature)
def test_sums_to_one(implementation, x64):
    for temperature in (0.01, 1.0, 100.0):
        mass = jnp.exp(implementation(TabularSoftmax(WEIGHTS, temperature))).sum(axis=1)
        close(mass, np.ones(2), 1e-12 if x64 else 1e-6)


@pytest.mark.row("S114.limits")
@against(table, no_temperature=no_temperature, inverse=lambda p: table(TabularSoftmax(p.weights, 1 / p.temperature)))
def test_limits(implementation):
    """Greedy as the temperature goes to zero, uniform as it grows."""
    greedy = np.eye(3)[WEIGHTS.argmax(axis=1)]
    close(jnp.exp(implementation(TabularSoftmax(WEIGHTS, 1e-3))), greedy, 1e-6)
    close(jnp.exp(implementation(TabularSoftmax(WEIGHTS, 1e6))), np.full((2, 3), 1 / 3), 1e-5)


def autodiff(policy, s, a):
    with jax.enable_x64(True):
        return np.asarray(
            jax.grad(lambda w: TabularSoftmax(w, policy.temperature).log_prob(s, a))(jnp.asarray(policy.weights))
        )


def score(policy, s, a):
    with jax.enable_x64(True):
        return np.asarray(policy.score(s, a))


def cases_swapped(policy, s, a):
    """The case of the taken action under the condition of the others."""
    right, number = score(policy, s, a), policy.weights.shape[1]
    others = right.copy()
    others[s] = np.where(np.arange(number) == a, -np.exp(table(policy))[s], (1 - np.exp(table(policy))[s]))
    return others / np.where(np.arange(2)[:, None] == s, policy.temperature, 1.0)


def every_state(policy, s, a):
    """The other states as if they were this one."""
    return np.broadcast_to(score(policy, s, a)[s], policy.weights.shape)


def without_factor(policy, s, a):
    return score(policy, s, a) * policy.temperature


@pytest.mark.row("S115", "S116", "S117", "E2.2", "E2.4")
@against(
    score,
    cases_swapped=cases_swapped,
    every_state=every_state,
    without_factor=without_factor,
    sign=lambda p, s, a: -score(p, s, a),
    unfinished=lambda p, s, a: np.where(np.arange(3) == a, score(p, s, a), 0.0),
)
def test_score(implementation):
    """`(1 - pi) / tau` for the action taken, `-pi / tau` for others of the state, zero in other states."""
    for temperature in (0.05, 0.5, 1.0, 3.0):
        policy = TabularSoftmax(WEIGHTS, temperature)
        for s, a in np.ndindex(WEIGHTS.shape):
            found, probability = implementation(policy, s, a), np.exp(np.asarray(table(policy), np.float64))
            close(found, autodiff(policy, s, a), 1e-13)
            assert found[s, a] == pytest.approx((1 - probability[s, a]) / temperature, abs=1e-5)
            others = np.arange(3) != a
            close(found[s, others], -probability[s, others] / temperature, 1e-5)
            np.testing.assert_array_equal(found[1 - s], np.zeros(3))


def own_score(weights, temperature, action):
    return score(TabularSoftmax(weights, temperature), 0, action)[0, action]


def notes_limit(weights, temperature, action):
    """`(1 - exp(w / tau)) / sum exp(w / tau)`, said to hold at small temperatures."""
    scaled = np.exp(weights[0] / temperature)
    return (1 - scaled[action]) / scaled.sum()


def regrouped(weights, temperature, action):
    """`1 - pi`, the factor still lost."""
    return temperature * own_score(weights, temperature, action)


@pytest.mark.row("S118", "E2.3")
@against(own_score, notes_limit=notes_limit, regrouped=regrouped)
def test_the_factor_stays_at_small_temperatures(implementation):
    """Two actions 0.222 apart: at temperatures 1, 0.1 and 0.01 the other action's score is 0.555, 9.02 and 100, and the
    likeliest's 0.445, 0.980 and 0. Without the factor both would be at most one."""
    weights = np.array([[0.111, 0.333]])
    expected = {1.0: (0.5553, 0.4447), 0.1: (9.0202, 0.9798), 0.01: (100.0, 2.3e-8)}
    for temperature, values in expected.items():
        for action, value in enumerate(values):
            found = implementation(weights, temperature, action)
            exact = autodiff(TabularSoftmax(weights, temperature), 0, action)[0, action]
            assert found == pytest.approx(exact, rel=1e-9)
            assert found == pytest.approx(value, rel=1e-2)


def test_actions_that_are_not_allowed():
    policy = TabularSoftmax(WEIGHTS, 0.5, ALLOWED)
    assert np.exp(policy.log_probabilities)[1, 1] == 0.0
    found = np.asarray(policy.score(1, 2))
    assert found[1, 1] == 0.0
    close(found, jax.grad(lambda w: TabularSoftmax(w, 0.5, ALLOWED).log_prob(1, 2))(jnp.asarray(WEIGHTS)), 1e-5)
    draws = jax.jit(jax.vmap(policy.sample, (0, None)))(jax.random.split(jax.random.key(0), 4000), 1)
    share = np.bincount(draws, minlength=3) / 4000
    close(share, np.exp(policy.log_probabilities)[1], 0.03)
    assert (policy.mode(0), policy.mode(1)) == (0, 0)
    assert policy.as_table().log_probabilities.shape == (2, 3)
    close(policy.entropy()[0], scipy.stats.entropy(np.exp(policy.log_probabilities)[0]), 1e-5)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"temperature": 0.0}, "temperature must be positive"),
        ({"allowed": np.ones((2, 2), bool)}, r"weights are \(2, 3\), but allowed is \(2, 2\)"),
        ({"weights": np.where(WEIGHTS > 1.9, np.nan, WEIGHTS)}, "the weight of state 1, action 1 is nan"),
    ],
)
def test_wrong_fields_are_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        TabularSoftmax(**{"weights": WEIGHTS, **fields})


# Linear-Gaussian policies of one action with a fixed deviation: a ~ N(theta' s, sigma^2).

THETA, STATE, SIGMA = np.array([0.5, -1.0, 0.2]), np.array([1.4, 1.04, 0.605]), 0.5
GAUSSIAN = LinearGaussian(IdentityFeatures(np.zeros(3), np.ones(3), False), THETA[:, None], np.array([[SIGMA]]))


@pytest.mark.row("S119.log_prob")
@against(
    lambda p, a: p.log_prob(STATE, np.array([a])),
    deviation_for_variance=lambda p, a: eqx.tree_at(lambda q: q.scale_cholesky, p, np.sqrt(p.scale_cholesky)).log_prob(
        STATE, np.array([a])
    ),
    no_mean=lambda p, a: eqx.tree_at(lambda q: q.W, p, 0 * p.W).log_prob(STATE, np.array([a])),
)
def test_gaussian_log_prob_and_samples(implementation, x64):
    law = scipy.stats.norm(STATE @ THETA, SIGMA)
    for action in (-1.0, 0.3, 0.9):
        assert implementation(GAUSSIAN, action) == pytest.approx(law.logpdf(action), rel=1e-12 if x64 else 1e-4)
    keys = jax.random.split(jax.random.key(3), 20_000)
    draws = np.asarray(jax.jit(jax.vmap(GAUSSIAN.sample, (0, None)))(keys, STATE), np.float64)[:, 0]
    assert abs(draws.mean() - law.mean()) < 5 * SIGMA / 20_000**0.5
    assert abs(draws.var() - SIGMA**2) < 5 * SIGMA**2 * (2 / 20_000) ** 0.5


def gaussian_score(action):
    with jax.enable_x64(True):
        return np.asarray(GAUSSIAN.score(STATE, np.array([action]))[0])[:, 0]


@pytest.mark.row("S119.gradient", "S120", "E2.5")
@against(
    gaussian_score,
    sign=lambda a: -(a - STATE @ THETA) * STATE / SIGMA**2,
    no_variance=lambda a: (a - STATE @ THETA) * STATE,
    deviation_for_variance=lambda a: (a - STATE @ THETA) * STATE / SIGMA,
)
def test_gaussian_score(implementation):
    for action in (-1.0, 0.3, 0.9):
        with jax.enable_x64(True):
            by_autodiff = jax.grad(
                lambda theta, a=action: eqx.tree_at(lambda p: p.W, GAUSSIAN, theta[:, None]).log_prob(
                    STATE, np.array([a])
                )
            )(jnp.asarray(THETA))
        close(implementation(action), by_autodiff, 1e-13)
        close(implementation(action), (action - THETA @ STATE) * STATE / SIGMA**2, 1e-13)
