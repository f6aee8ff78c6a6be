"""Normal policies against SciPy, automatic differentiation, quadrature and dense linear algebra."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.integrate
import scipy.stats

from clauses import against
from optimality.distributions import MultivariateNormal
from optimality.policies.features import Constant, Identity, IdentityFeatures, Polynomial
from optimality.policies.linear_gaussian import LinearGaussian
from optimality.policies.weighted_fit import weighted_linear_gaussian

RAW = IdentityFeatures(np.zeros(2), np.ones(2), True)
W = np.array([[0.5, -1.0, 0.2], [1.0, 0.3, -0.4], [-0.7, 0.8, 0.1]])
FACTOR = np.array([[1.5, 0.0, 0.0], [-0.4, 0.6, 0.0], [0.3, 0.8, 0.4]])
COVARIANCE = FACTOR @ FACTOR.T
STATE, ACTION = np.array([0.7, -1.2]), np.array([0.2, 1.0, -0.5])
PHI = np.array([1.0, 0.7, -1.2])
POLICIES = {"constant": LinearGaussian.constant(W[0], COVARIANCE), "linear": LinearGaussian(RAW, W, FACTOR)}
MEANS = {"constant": W[0], "linear": PHI @ W}
OTHER = LinearGaussian(RAW, W + 0.3, np.diag([1.0, 0.5, 2.0]))


def of(name, clause):
    return pytest.param(name, marks=pytest.mark.row(f"{'S1' if name == 'constant' else 'S2'}.{clause}"), id=name)


def tolerance(x64):
    return 1e-12 if x64 else 1e-4


@pytest.mark.parametrize("name", [of(name, "log_prob") for name in POLICIES])
@against(
    lambda p, s, a: p.log_prob(s, a),
    squared_factor=lambda p, s, a: MultivariateNormal(p.mean(s), jnp.linalg.cholesky(p.covariance) ** 2).log_prob(a),
    no_features=lambda p, s, a: MultivariateNormal(p.W[0] + 0.1, p.scale_cholesky).log_prob(a),
)
def test_log_prob(implementation, name, x64):
    expected = scipy.stats.multivariate_normal(MEANS[name], COVARIANCE).logpdf(ACTION)
    np.testing.assert_allclose(jax.jit(implementation)(POLICIES[name], STATE, ACTION), expected, tolerance(x64))


def by_autodiff(policy, s, a):
    def log_prob(W, covariance):
        residual = jnp.asarray(a) - policy.phi(s) @ W
        half = 0.5 * jnp.linalg.slogdet(2 * np.pi * covariance)[1]
        return -0.5 * residual @ jnp.linalg.inv(covariance) @ residual - half

    return jax.jit(jax.grad(log_prob, (0, 1)))(jnp.asarray(policy.W), jnp.asarray(policy.covariance))


def scaled_score(by_W, by_covariance):
    def wrong(policy, s, a):
        W, covariance = policy.score(s, a)
        return by_W * W, by_covariance * covariance

    return wrong


@pytest.mark.parametrize("name", [of(name, "score") for name in POLICIES])
@against(
    lambda p, s, a: p.score(s, a),
    no_half=scaled_score(1.0, 2.0),
    sign=scaled_score(-1.0, 1.0),
    no_determinant=lambda p, s, a: (p.score(s, a)[0], p.score(s, a)[1] + 0.5 * jnp.linalg.inv(p.covariance)),
)
def test_score(implementation, name, x64):
    ours, expected = jax.jit(implementation)(POLICIES[name], STATE, ACTION), by_autodiff(POLICIES[name], STATE, ACTION)
    for a, b in zip(ours, expected, strict=True):
        np.testing.assert_allclose(a, b, 100 * tolerance(x64), atol=10 * tolerance(x64))


@pytest.mark.parametrize("name", [of(name, "moments") for name in POLICIES])
def test_moments(name):
    """40,000 draws, each moment within five of its standard errors."""
    number = 40_000
    keys = jax.random.split(jax.random.key(1), number)
    actions = np.asarray(jax.jit(jax.vmap(POLICIES[name].sample, (0, None)))(keys, STATE), np.float64)
    deviation = np.sqrt(np.diag(COVARIANCE))
    assert np.all(np.abs(actions.mean(axis=0) - MEANS[name]) < 5 * deviation / number**0.5)
    error = np.sqrt((COVARIANCE**2 + np.outer(deviation, deviation) ** 2) / number)
    assert np.all(np.abs(np.cov(actions.T) - COVARIANCE) < 5 * error)


@pytest.mark.parametrize("name", [of(name, "fit") for name in POLICIES])
@against(
    weighted_linear_gaussian,
    unweighted=lambda Phi, A, log_weights: weighted_linear_gaussian(Phi, A),
    squared=lambda Phi, A, log_weights: weighted_linear_gaussian(Phi, A, 2 * log_weights),
    corrected=lambda *data: weighted_linear_gaussian(*data, covariance="general_correction"),
)
def test_fit(implementation, name):
    """The weighted mean and covariance of the actions; with features those of the residuals of normal equations."""
    rng = np.random.default_rng(0)
    A, log_weights = rng.normal(size=(30, 3)) @ FACTOR.T, rng.normal(size=30)
    Phi = np.ones((30, 1)) if name == "constant" else np.column_stack([np.ones(30), rng.normal(size=(30, 2))])
    d = np.exp(log_weights)
    fit = implementation(Phi, A, log_weights)
    if name == "constant":
        mean = np.average(A, axis=0, weights=d)[None]
        covariance = np.cov(A.T, aweights=d, ddof=0)
    else:
        mean = np.linalg.inv(Phi.T @ np.diag(d) @ Phi) @ Phi.T @ np.diag(d) @ A
        covariance = sum(w * np.outer(r, r) for w, r in zip(d, A - Phi @ mean, strict=True)) / d.sum()
    np.testing.assert_allclose(fit.W, mean, 1e-10, atol=1e-12)
    np.testing.assert_allclose(fit.covariance, covariance, 1e-10, atol=1e-12)


def test_entropy_and_mode():
    for policy in POLICIES.values():
        np.testing.assert_allclose(policy.entropy(), scipy.stats.multivariate_normal(None, COVARIANCE).entropy(), 1e-5)
        np.testing.assert_array_equal(policy.mode(STATE), policy.mean(STATE))


def dense_kl(mean, covariance, other_mean, other_covariance):
    precision, gap = np.linalg.inv(other_covariance), other_mean - mean
    logs = np.linalg.slogdet(other_covariance)[1] - np.linalg.slogdet(covariance)[1]
    return 0.5 * (np.trace(precision @ covariance) - mean.size + gap @ precision @ gap + logs)


@against(
    lambda p, q, states, log_weights: p.mean_kl(q, states, log_weights),
    other_direction=lambda p, q, states, log_weights: q.mean_kl(p, states, log_weights),
    unweighted=lambda p, q, states, log_weights: p.mean_kl(q, states),
    at_the_mean_state=lambda p, q, states, log_weights: p.kl(q, jax.nn.softmax(log_weights) @ states),
)
def test_mean_kl(implementation, x64):
    states, log_weights = np.array([[0.7, -1.2], [0.1, 2.0], [9.0, 9.0]]), np.array([0.0, 1.5, -np.inf])
    expected = [
        dense_kl(np.append(1.0, s) @ W, COVARIANCE, np.append(1.0, s) @ OTHER.W, OTHER.scale_cholesky**2)
        for s in states[:2]
    ]
    expected = np.average(expected, weights=[1.0, np.exp(1.5)])
    ours = jax.jit(implementation)(POLICIES["linear"], OTHER, jnp.asarray(states), jnp.asarray(log_weights))
    np.testing.assert_allclose(ours, expected, tolerance(x64))
    expected = dense_kl(PHI @ W, COVARIANCE, W[0], COVARIANCE)
    np.testing.assert_allclose(POLICIES["linear"].kl(POLICIES["constant"], STATE), expected, tolerance(x64))


@pytest.mark.row("E0.12")
@against(
    lambda policy, s, a: jnp.exp(policy.log_prob(s, a[None])),
    variance_as_deviation=lambda policy, s, a: (
        jnp.exp(-0.5 * (a - policy.mean(s)[0]) ** 2 / policy.covariance[0, 0])
        / (policy.covariance[0, 0] * np.sqrt(2 * np.pi))
    ),
)
def test_the_density_integrates_to_one(implementation, x64):
    """The other form, divided by `Sigma sqrt(2 pi)`, integrates to 2 for a variance of 0.25."""
    policy = LinearGaussian.constant(np.array([0.3]), np.array([[0.25]]))
    density = jax.jit(implementation)
    points = np.linspace(-6.0, 6.0, 2001)
    values = jax.vmap(density, (None, None, 0))(policy, np.zeros(2), jnp.asarray(points))
    np.testing.assert_allclose(scipy.integrate.trapezoid(np.asarray(values), points), 1.0, 1e-8 if x64 else 1e-5)


@pytest.mark.row("S13")
@pytest.mark.parametrize("intercept", [True, False])
def test_initial_policy(intercept):
    recipe = Identity(intercept=intercept)
    policy = LinearGaussian.initial(recipe.fit(np.array([[1.0], [3.0]])), recipe.size(1), 2, scale=0.5)
    k = 2 if intercept else 1
    assert policy.W.shape == (k, 2)
    assert policy.phi(np.array([4.0])).shape == (k,)
    assert (policy.phi(np.array([4.0]))[0] == 1.0) == intercept
    assert policy.sample(jax.random.key(0), np.array([4.0])).shape == (2,)
    np.testing.assert_array_equal(policy.mean(np.array([4.0])), np.zeros(2))
    np.testing.assert_array_equal(policy.covariance, 0.25 * np.eye(2))
    assert Identity().intercept


@pytest.mark.row("E0.22")
@against(lambda: Identity(), no_intercept=lambda: Identity(intercept=False))
def test_a_constant_action_needs_an_intercept(implementation):
    """5 is best everywhere: without intercept the fit says 3.9 at s = 2 and 5.9 at s = 3."""
    states = np.linspace(2.0, 3.0, 11)[:, None]
    features = implementation().fit(states)
    fit = weighted_linear_gaussian(np.asarray(jax.vmap(features)(states)), np.full((11, 1), 5.0))
    policy = LinearGaussian(features, fit.W, np.eye(1))
    for s in (2.0, 3.0):
        np.testing.assert_allclose(policy.mean(np.array([s])), 5.0, 1e-5)


def test_without_intercept_the_error_is_the_stated_one():
    states = np.linspace(2.0, 3.0, 11)[:, None]
    slope = weighted_linear_gaussian(states, np.full((11, 1), 5.0)).W[0, 0]
    np.testing.assert_allclose([2 * slope, 3 * slope], [3.94, 5.91], atol=0.01)


def test_the_door():
    for bad, message in [
        (lambda: LinearGaussian(RAW, np.full((3, 3), np.nan), np.eye(3)), "not finite"),
        (lambda: LinearGaussian(RAW, np.zeros((3, 3)), -np.eye(3)), "positive diagonal"),
        (lambda: LinearGaussian.initial(RAW, 3, 0), "at least 1"),
        (lambda: LinearGaussian.initial(RAW, 3, 1, scale=0.0), "scale"),
        (lambda: LinearGaussian.constant(np.zeros(2), -np.eye(2)), "positive definite"),
    ]:
        with pytest.raises(ValueError, match=message):
            bad()


def test_constant_law_ignores_the_state():
    policy = POLICIES["constant"]
    np.testing.assert_array_equal(policy.mean(STATE), policy.mean(3))
    assert Constant().size(7) == 1
    assert Polynomial(degree=1).size(7) == 8
