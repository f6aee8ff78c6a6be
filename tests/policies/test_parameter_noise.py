"""Policies with noise on their parameters, against the law of that noise, quadrature and their own samples."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.linalg
import scipy.optimize

from clauses import against
from compilations import counted_compilations
from optimality import Result
from optimality.distributions import MultivariateNormal
from optimality.policies.features import IdentityFeatures
from optimality.policies.parameter_noise_fit import parameter_noise_fit
from optimality.policies.parameter_noise_gaussian import ParameterNoiseGaussian

RAW = IdentityFeatures(np.zeros(1), np.ones(1), True)
W = np.array([[0.5, -1.0], [1.0, 0.3]])
SIGMA = np.array([[[0.5, 0.2], [0.2, 0.3]], [[0.8, -0.3], [-0.3, 0.4]]])
POLICY = ParameterNoiseGaussian(RAW, W, SIGMA)
STATE, OTHER_STATE, ACTION = np.array([1.7]), np.array([-0.4]), np.array([0.6, -1.1])


def other_state(policy, s):
    left, right = policy.phi(s), policy.phi(OTHER_STATE)
    return jnp.diag((jnp.asarray(policy.parameter_covariance) @ left) @ right)


@pytest.mark.row("E0.1", "S3.parameter_noise")
@against(
    lambda policy, s: policy.covariance(s),
    two_states=other_state,
    one_sigma=lambda policy, s: jnp.eye(2) * policy.variance(s)[0],
    correlated=lambda policy, s: jnp.sqrt(policy.variance(s)[:, None] * policy.variance(s)[None, :]),
    squared=lambda policy, s: jnp.diag(policy.variance(s) ** 2),
)
def test_covariance_is_that_of_noise_on_the_parameters(implementation, x64):
    """`(W + E)' phi` is linear in the stacked columns of E, whose covariance is block diagonal."""
    stacked = np.kron(np.eye(2), np.array([1.0, 1.7])[:, None])
    expected = stacked.T @ scipy.linalg.block_diag(*SIGMA) @ stacked
    np.testing.assert_allclose(jax.jit(implementation)(POLICY, STATE), expected, 1e-12 if x64 else 1e-5)


@pytest.mark.row("S3.covariance", "S3.parameter_noise")
def test_samples(x64):
    """Means and covariances of 40,000 actions and of 40,000 `(W + E)' phi`, within five standard errors."""
    number = 40_000
    action_key, noise_key = jax.random.split(jax.random.key(0))
    drawn = jax.jit(jax.vmap(POLICY.sample, (0, None)))(jax.random.split(action_key, number), STATE)
    noise = jnp.einsum("jkl,njl->nkj", np.linalg.cholesky(SIGMA), jax.random.normal(noise_key, (number, 2, 2)))
    parametric = jnp.einsum("nkj,k->nj", W[None] + noise, POLICY.phi(STATE))
    expected = np.asarray(POLICY.covariance(STATE))
    deviation = np.sqrt(np.diag(expected))
    error = np.sqrt((expected**2 + np.outer(deviation, deviation) ** 2) / number)
    for actions in (np.asarray(drawn), np.asarray(parametric)):
        assert np.all(np.abs(actions.mean(axis=0) - POLICY.mean(STATE)) < 5 * deviation / number**0.5)
        assert np.all(np.abs(np.cov(actions.T) - expected) < 5 * error)


@pytest.mark.row("S3.normalized")
@against(
    lambda policy, s, a: policy.log_prob(s, a),
    deviation=lambda policy, s, a: MultivariateNormal(policy.mean(s), policy.covariance(s)).log_prob(a) * 1.1,
    no_determinant=lambda policy, s, a: policy.log_prob(s, a) + 0.5 * jnp.sum(jnp.log(policy.variance(s))),
)
def test_normalized(implementation, x64):
    line = np.linspace(-14.0, 14.0, 401)
    grid = np.stack(np.meshgrid(line, line), axis=-1).reshape(-1, 2)
    density = jnp.exp(jax.jit(jax.vmap(implementation, (None, None, 0)))(POLICY, STATE, jnp.asarray(grid)))
    assert float(jnp.sum(density) * (line[1] - line[0]) ** 2) == pytest.approx(1.0, rel=1e-9 if x64 else 1e-4)


@against(
    lambda policy, s, a: policy.score(s, a),
    no_half=lambda policy, s, a: (policy.score(s, a)[0], 2 * policy.score(s, a)[1]),
    no_variance=lambda policy, s, a: (policy.score(s, a)[0] * policy.variance(s)[None], policy.score(s, a)[1]),
)
def test_score(implementation, x64):
    def log_prob(W, sigma):
        phi = POLICY.phi(STATE)
        v, r = jnp.einsum("k,jkl,l->j", phi, sigma, phi), jnp.asarray(ACTION) - phi @ W
        return -0.5 * jnp.sum(r**2 / v + jnp.log(2 * np.pi * v))

    expected = jax.jit(jax.grad(log_prob, (0, 1)))(jnp.asarray(W), jnp.asarray(SIGMA))
    for a, b in zip(jax.jit(implementation)(POLICY, STATE, ACTION), expected, strict=True):
        np.testing.assert_allclose(a, b, 1e-11 if x64 else 1e-4)


def test_entropy_and_divergence(x64):
    law = POLICY.distribution(STATE)
    np.testing.assert_allclose(POLICY.entropy(STATE), law.entropy(), 1e-5)
    np.testing.assert_allclose(POLICY.log_prob(STATE, ACTION), law.log_prob(ACTION), 1e-5)
    other = ParameterNoiseGaussian(RAW, W + 0.1, 2 * SIGMA)
    expected = law.kl(other.distribution(STATE))
    states = np.array([STATE, OTHER_STATE])
    weighted = POLICY.mean_kl(other, states, np.array([0.0, -np.inf]))
    np.testing.assert_allclose(weighted, expected, 1e-5)
    halves = 0.5 * (expected + POLICY.kl(other, OTHER_STATE))
    np.testing.assert_allclose(POLICY.mean_kl(other, states), halves, 1e-5)


def samples(number, seed=0):
    rng = np.random.default_rng(seed)
    Phi = np.column_stack([np.ones(number), rng.normal(size=number)])
    noise = np.einsum("jkl,njl->nkj", np.linalg.cholesky(SIGMA), rng.normal(size=(number, 2, 2)))
    return Phi, np.einsum("nkj,nk->nj", W + noise, Phi)


def without_weights(Phi, A, log_weights):
    return parameter_noise_fit(Phi, A)


def standard_errors(Phi):
    """Of W and Sigma, by the information matrix at the truth."""
    v = np.einsum("nk,jkl,nl->nj", Phi, SIGMA, Phi)
    outer = np.column_stack([Phi[:, 0] ** 2, 2 * Phi[:, 0] * Phi[:, 1], Phi[:, 1] ** 2])
    of_W = [np.sqrt(np.diag(np.linalg.inv(Phi.T @ (Phi / v[:, [j]])))) for j in range(2)]
    of_sigma = [np.sqrt(np.diag(np.linalg.inv(outer.T @ (outer / (2 * v[:, [j]] ** 2))))) for j in range(2)]
    return np.transpose(of_W), np.array([[[a, b], [b, c]] for a, b, c in of_sigma])


@pytest.mark.row("S3.fit")
@against(parameter_noise_fit, unweighted=without_weights)
def test_fit_recovers_its_own_samples(implementation):
    """20,000 samples and as many of another law, which have the weight `exp(-20)`: within five standard errors."""
    Phi, A = samples(20_000)
    others = np.concatenate([A, 5.0 - 2.0 * A])
    log_weights = np.concatenate([np.zeros(20_000), np.full(20_000, -20.0)])
    fit = implementation(np.concatenate([Phi, Phi]), others, log_weights)
    assert fit.result is Result.CONVERGED
    of_W, of_sigma = standard_errors(Phi)
    assert np.all(np.abs(fit.W - W) < 5 * of_W)
    assert np.all(np.abs(fit.parameter_covariance - SIGMA) < 5 * of_sigma)


@pytest.mark.row("S3.fit")
@against(parameter_noise_fit, unweighted=without_weights)
def test_fit_is_the_maximum(implementation):
    """Against SciPy's search over W and a factor of Sigma, from the truth."""
    Phi, A = samples(200, seed=1)
    log_weights = np.random.default_rng(2).normal(size=200)
    d = np.exp(log_weights) / np.exp(log_weights).sum()
    fit = implementation(Phi, A, log_weights)
    assert np.all(np.diff(fit.log_likelihood, axis=1) >= 0.0)
    for j in range(2):

        def negative(x, j=j):
            factor = np.array([[x[2], 0.0], [x[3], x[4]]])
            v = np.sum((Phi @ factor) ** 2, axis=1)
            return 0.5 * np.sum(d * ((A[:, j] - Phi @ x[:2]) ** 2 / v + np.log(2 * np.pi * v)))

        start = np.concatenate([W[:, j], np.linalg.cholesky(SIGMA[j])[np.tril_indices(2)]])
        best = scipy.optimize.minimize(negative, start, method="BFGS", options={"gtol": 1e-7})
        np.testing.assert_allclose(fit.log_likelihood[j, -1], -best.fun, atol=1e-8)
        np.testing.assert_allclose(fit.W[:, j], best.x[:2], atol=2e-4)
        factor = np.array([[best.x[2], 0.0], [best.x[3], best.x[4]]])
        np.testing.assert_allclose(fit.parameter_covariance[j], factor @ factor.T, atol=5e-4)


def test_fit_at_the_edges():
    Phi, A = samples(50)
    one = parameter_noise_fit(Phi[:1], A[:1])
    assert np.all(np.isfinite(one.W))
    assert np.all(np.isfinite(one.parameter_covariance))
    padded = parameter_noise_fit(
        np.concatenate([Phi, np.full((3, 2), np.nan)]),
        np.concatenate([A, np.full((3, 2), np.nan)]),
        np.concatenate([np.zeros(50), np.full(3, -np.inf)]),
    )
    plain = parameter_noise_fit(Phi, A)
    np.testing.assert_allclose(padded.W, plain.W, 1e-6)
    assert parameter_noise_fit(Phi, A, max_steps=1).result is Result.ITERATION_LIMIT
    one_hot = np.eye(3)[np.arange(60) % 3]
    values = np.random.default_rng(0).normal(size=(60, 1)) * np.array([1.0, 2.0, 3.0])[np.arange(60) % 3][:, None]
    groups = parameter_noise_fit(one_hot, values)
    expected = [np.var(values[i::3]) for i in range(3)]
    np.testing.assert_allclose(np.diag(groups.parameter_covariance[0]), expected, 1e-4)
    with pytest.raises(ValueError, match="floor"):
        parameter_noise_fit(Phi, A, floor=0.0)
    with pytest.raises(ValueError, match="max_steps"):
        parameter_noise_fit(Phi, A, max_steps=0)
    with pytest.raises(ValueError, match="semi-definite"):
        ParameterNoiseGaussian(RAW, W, -SIGMA)


def test_fit_compiles_once():
    Phi, A = samples(40)
    parameter_noise_fit(Phi, A)
    with counted_compilations() as compiled:
        parameter_noise_fit(2.0 * Phi, A + 1.0, np.arange(40.0), tolerance=1e-5)
    assert compiled.count == 0


def test_fit_inside_jit():
    """float32 in and out, float64 between."""
    Phi, A = (x.astype(np.float32) for x in samples(200))
    traced = jax.jit(lambda Phi, A: parameter_noise_fit(Phi, A))(Phi, A)
    assert traced.W.dtype == jnp.float32
    exact = parameter_noise_fit(Phi.astype(np.float64), A.astype(np.float64))
    np.testing.assert_allclose(traced.parameter_covariance, exact.parameter_covariance, atol=1e-5)
    bad = jax.jit(lambda Phi, A: parameter_noise_fit(Phi, A))(Phi, np.full_like(A, np.nan))
    assert Result.of(bad.result) is Result.NON_FINITE
    np.testing.assert_array_equal(bad.W, np.zeros((2, 2)))
