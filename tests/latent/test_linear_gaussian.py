"""Linear-Gaussian models against quadrature, dense linear algebra and optimizers that know no closed form."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize
import scipy.stats

import optimality as ox
from clauses import against
from factor_data import all_points, covariance_of, factor_data
from optimality.core.result import Result, SolverError
from optimality.distributions.multivariate_normal import MultivariateNormal
from optimality.latent.collapse_law import collapse_law
from optimality.latent.full_covariance import full_covariance_gaussian
from optimality.latent.linear_gaussian import LinearGaussianModel, ProbabilisticPCA, mean_log_evidence, moments
from optimality.problems.dataset import Dataset
from optimality.problems.sample_datasets import digits

LOADING = np.array([[0.9, -0.4], [0.3, 1.1], [-0.7, 0.5]])
MEAN = np.array([0.2, -0.1, 0.4])
NOISE = np.array([0.3, 0.5, 0.8])
X = np.array([1.1, 0.3, -0.6])


def model() -> LinearGaussianModel:
    return LinearGaussianModel(LOADING, MEAN, NOISE)


def ours(x):
    posterior = model().posterior(x)
    return model().log_evidence(x), posterior.location, posterior.scale_cholesky @ posterior.scale_cholesky.T


def noise_not_inverted(x):
    S = np.linalg.inv(np.eye(2) + LOADING.T @ np.diag(NOISE) @ LOADING)
    log_det = np.sum(np.log(NOISE)) - np.linalg.slogdet(S)[1]
    y = (x - MEAN) / np.sqrt(NOISE)
    b = LOADING.T @ ((x - MEAN) / NOISE)
    return -0.5 * (y @ y - b @ S @ b + log_det + 3 * np.log(2 * np.pi)), S @ b, S


@pytest.mark.row("S29.marginal")
@against(ours, noise_not_inverted=noise_not_inverted)
def test_evidence_and_posterior_by_quadrature(implementation, x64):
    nodes, weights = np.polynomial.hermite_e.hermegauss(80)
    z = np.stack(np.meshgrid(nodes, nodes, indexing="ij"), -1).reshape(-1, 2)
    w = np.outer(weights, weights).ravel() / (2 * np.pi)
    joint = w * np.exp(np.sum(scipy.stats.norm.logpdf(X, z @ LOADING.T + MEAN, np.sqrt(NOISE)), axis=1))
    share = joint / joint.sum()
    mean = share @ z
    value, location, covariance = implementation(X)
    assert abs(float(value) - np.log(joint.sum())) < 1e-12
    np.testing.assert_allclose(location, mean, atol=1e-12)
    np.testing.assert_allclose(covariance, (z - mean).T @ (share[:, None] * (z - mean)), atol=1e-12)


def test_evidence_is_the_dense_normal_law(x64):
    dense = scipy.stats.multivariate_normal(MEAN, LOADING @ LOADING.T + np.diag(NOISE))
    assert abs(float(model().log_evidence(X)) - dense.logpdf(X)) < 1e-13
    np.testing.assert_allclose(model().covariance(), dense.cov, rtol=1e-15)


def bound(q_mean, q_covariance) -> float:
    """The evidence bound of X in closed form."""
    residual = X - MEAN - LOADING @ q_mean
    spread = np.trace(LOADING.T @ np.diag(1 / NOISE) @ LOADING @ q_covariance)
    reconstruction = -0.5 * (3 * np.log(2 * np.pi) + np.log(NOISE).sum() + residual**2 @ (1 / NOISE) + spread)
    _, log_det = np.linalg.slogdet(q_covariance)
    return reconstruction - 0.5 * (np.trace(q_covariance) + q_mean @ q_mean - 2 - log_det)


@pytest.mark.row("S31.identity", "S31.bound")
@against(lambda q, posterior: q.kl(posterior), reversed=lambda q, posterior: posterior.kl(q))
@pytest.mark.parametrize("kind", ["all"])
def test_evidence_is_bound_plus_divergence(implementation, kind):
    with jax.enable_x64(True):
        posterior, evidence = model().posterior(X), float(model().log_evidence(X))
        arbitrary = MultivariateNormal.from_covariance(np.array([0.3, -0.8]), np.array([[0.5, 0.2], [0.2, 0.4]]))
        prior = MultivariateNormal.from_covariance(np.zeros(2), np.eye(2))
        for q in (prior, arbitrary, posterior):
            elbo = bound(np.asarray(q.mean()), np.asarray(q.covariance()))
            assert abs(evidence - elbo - float(implementation(q, posterior))) < 1e-12
            assert elbo <= evidence + 1e-14
        assert abs(bound(np.asarray(posterior.mean()), np.asarray(posterior.covariance())) - evidence) < 1e-12


def test_likelihood_and_prior_make_posterior_and_evidence():
    z = np.array([0.4, -1.2])
    with jax.enable_x64(True):
        joint = model().log_likelihood(X, z) + np.sum(scipy.stats.norm.logpdf(z))
        assert abs(float(joint - model().log_evidence(X) - model().posterior(X).log_prob(z))) < 1e-12


def test_samples_have_the_stated_moments():
    draws = np.asarray(jax.vmap(model().sample)(jax.random.split(jax.random.key(0), 20_000)))
    # Four standard errors of a mean and of an entry of the covariance.
    C = LOADING @ LOADING.T + np.diag(NOISE)
    assert np.all(np.abs(draws.mean(0) - MEAN) < 4 * np.sqrt(np.diag(C) / 20_000))
    assert np.all(np.abs(np.cov(draws.T) - C) < 4 * np.sqrt((np.outer(np.diag(C), np.diag(C)) + C**2) / 20_000))


def test_traced_arguments_keep_their_precision(x64):
    dtype = np.float64 if x64 else np.float32
    rows = jnp.asarray(np.stack([X, -X]), jnp.float32)
    each = jax.vmap(model().log_evidence)(rows)
    assert each.dtype == np.float32
    np.testing.assert_allclose(each, [model().log_evidence(np.asarray(row)) for row in rows], rtol=1e-5)
    rows = rows.astype(dtype)
    assert jax.vmap(lambda x: model().posterior(x).mean())(rows).dtype == dtype
    assert jax.vmap(lambda x: model().decode(model().posterior(x).mean()).mean())(rows).dtype == dtype
    slope = jax.grad(model().log_evidence)(rows[0])
    by_hand = -np.linalg.solve(LOADING @ LOADING.T + np.diag(NOISE), np.asarray(rows[0], np.float64) - MEAN)
    np.testing.assert_allclose(slope, by_hand, rtol=1e-12 if x64 else 1e-5)


def test_small_noise_keeps_the_digits():
    tight = LinearGaussianModel(LOADING, MEAN, np.full(3, 1e-8))
    on_plane = MEAN + LOADING @ np.array([0.5, 0.2])
    dense = scipy.stats.multivariate_normal(MEAN, tight.covariance(), allow_singular=True)
    assert abs(float(tight.log_evidence(on_plane)) - dense.logpdf(on_plane)) < 1e-6
    np.testing.assert_allclose(tight.posterior(on_plane).location, [0.5, 0.2], atol=1e-7)


@pytest.mark.parametrize(
    ("parameters", "sentence"),
    [
        ((LOADING, MEAN[:2], NOISE), r"loading must be \[features, latents\]"),
        ((LOADING[:, 0], MEAN, NOISE), r"loading must be \[features, latents\]"),
        ((LOADING, MEAN, 0.3), "repeat one variance"),
        ((LOADING, MEAN, np.array([0.1, 0.0, 1.0])), "must be positive, but it is 0 for feature 1"),
        ((LOADING, MEAN * np.nan, NOISE), "mean must be finite"),
        ((np.full((3, 2), np.inf), MEAN, NOISE), "loading must be finite"),
    ],
)
def test_parameters_that_make_no_model(parameters, sentence):
    with pytest.raises(ValueError, match=sentence):
        LinearGaussianModel(*parameters)


@pytest.mark.parametrize("call", ["posterior", "log_evidence"])
def test_an_observation_of_another_size(call):
    with pytest.raises(ValueError, match=r"x must have shape \(3,\), but \(4,\) was given"):
        getattr(model(), call)(np.zeros(4))
    with pytest.raises(ValueError, match=r"z must have shape \(2,\)"):
        model().decode(np.zeros(3))


DATA = factor_data(200, 5, 2, seed=1)


def pca(x: np.ndarray, latents: int) -> float:
    return float(ox.solve(all_points(x), ProbabilisticPCA(latents=latents)).value)


def pca_by(covariance: np.ndarray, x: np.ndarray, variance: float | None = None, latents: int = 2) -> float:
    """Dense log likelihood of the rows under the closed form for some covariance."""
    values, vectors = np.linalg.eigh(covariance)
    s2 = values[:-latents].mean() if variance is None else variance
    W = vectors[:, -latents:] * np.sqrt(np.maximum(values[-latents:] - s2, 0.0))
    law = scipy.stats.multivariate_normal(x.mean(0), W @ W.T + s2 * np.eye(x.shape[1]))
    return float(law.logpdf(x).mean())


@pytest.mark.row("S39.linear", "S29.fit")
@against(
    pca,
    unbiased_covariance=lambda x, latents: pca_by(np.cov(x.T), x),
    decoder_variance_one=lambda x, latents: pca_by(covariance_of(x), x, 1.0),
    mean_over_features=lambda x, latents: pca_by(covariance_of(x), x, x.shape[1] / 2.0),
)
def test_probabilistic_pca_is_the_best_linear_autoencoder(implementation):
    """The optimizer knows the bound of a linear encoder with a diagonal posterior, and no eigenvector."""
    d, k, C = 5, 2, covariance_of(DATA)

    def negative_bound(parameters):
        W, V = parameters[: d * k].reshape(d, k), parameters[d * k : 2 * d * k].reshape(k, d)
        log_s, log_v = parameters[-k - 1], parameters[-k:]
        error = jnp.trace(C) - 2 * jnp.trace(W @ V @ C) + jnp.trace(W.T @ W @ (V @ C @ V.T + jnp.diag(jnp.exp(log_v))))
        rate = 0.5 * (jnp.trace(V @ C @ V.T) + jnp.sum(jnp.exp(log_v) - log_v) - k)
        return 0.5 * (d * jnp.log(2 * jnp.pi) + d * log_s + error * jnp.exp(-log_s)) + rate

    with jax.enable_x64(True):
        slope = jax.jit(jax.value_and_grad(negative_bound))
        start = np.random.default_rng(0).normal(size=2 * d * k + 1 + k) * 0.3
        found = scipy.optimize.minimize(
            lambda p: [np.asarray(v, np.float64) for v in slope(p)],
            start,
            jac=True,
            method="L-BFGS-B",
            options={"maxiter": 20_000, "maxfun": 20_000, "ftol": 1e-16, "gtol": 1e-9},
        )
    assert abs(implementation(DATA, k) + found.fun) < 1e-8


@pytest.mark.row("S39.linear")
def test_probabilistic_pca_has_the_closed_form_and_its_own_evidence(x64):
    solution = ox.solve(all_points(DATA), ProbabilisticPCA(latents=2))
    values = np.linalg.eigvalsh(covariance_of(DATA))[::-1]
    s2 = values[2:].mean()
    closed = -0.5 * (5 * np.log(2 * np.pi) + np.log(values[:2]).sum() + 3 * np.log(s2) + 5)
    fitted = solution.details.model
    assert abs(float(solution.value) - closed) < 1e-12
    assert abs(float(mean_log_evidence(fitted, DATA)) - closed) < 1e-12
    np.testing.assert_allclose(fitted.noise_variance, s2, rtol=1e-12)
    np.testing.assert_allclose(fitted.loading.T @ fitted.loading, np.diag(values[:2] - s2), atol=1e-12)
    assert np.all(fitted.loading[np.argmax(np.abs(fitted.loading), axis=0), [0, 1]] > 0.0)
    assert solution.policy is None
    assert np.isnan(solution.details.test_log_evidence)
    assert not np.any(solution.details.at_floor)


def test_held_out_points_are_judged_and_not_fitted():
    problem = Dataset(DATA, validation_share=0.1, test_share=0.3)
    with jax.enable_x64(True):
        parts = problem.parts()
    solution = ox.solve(problem, ProbabilisticPCA(latents=2))
    alone = ox.solve(all_points(np.asarray(parts.train)), ProbabilisticPCA(latents=2))
    np.testing.assert_allclose(solution.value, alone.value, rtol=1e-13)
    C = solution.details.model.covariance()
    for name, rows in {"test_log_evidence": parts.test, "validation_log_evidence": parts.validation}.items():
        dense = scipy.stats.multivariate_normal(solution.details.model.mean, C).logpdf(np.asarray(rows)).mean()
        assert abs(float(getattr(solution.details, name)) - dense) < 1e-12


def test_derivative_of_the_value_holds_the_model_fixed():
    """At a maximum the derivative through the model vanishes (the envelope theorem)."""
    fitted = ox.solve(all_points(DATA), ProbabilisticPCA(latents=2)).details.model
    with jax.enable_x64(True):
        through = jax.grad(lambda x: ox.solve(all_points(x), ProbabilisticPCA(latents=2)).value)(jnp.asarray(DATA))
    precision = np.linalg.inv(LinearGaussianModel.covariance(fitted))
    np.testing.assert_allclose(through, -(DATA - fitted.mean) @ precision / len(DATA), atol=1e-14)


def test_probabilistic_pca_maps_over_data_sets():
    batch = jnp.stack([jnp.asarray(factor_data(50, 4, 1, seed), jnp.float32) for seed in (0, 1)])
    values = jax.vmap(lambda x: ox.solve(all_points(x), ProbabilisticPCA(latents=1)).value)(batch)
    np.testing.assert_allclose(values, [pca(np.asarray(x), 1) for x in batch], rtol=1e-5)


def test_fewer_points_than_features():
    x = factor_data(6, 10, 2, seed=0)
    solution = ox.solve(all_points(x), ProbabilisticPCA(latents=2))
    assert solution.result is Result.CONVERGED
    law = scipy.stats.multivariate_normal(solution.details.model.mean, solution.details.model.covariance())
    assert abs(float(solution.value) - law.logpdf(x).mean()) < 1e-10


def test_points_in_a_plane_leave_no_noise():
    x = np.random.default_rng(0).normal(size=(50, 2)) @ np.random.default_rng(1).normal(size=(2, 5))
    x[:, 3] = 7.0
    problem = all_points(x, names=("a", "b", "c", "d", "e"))
    with pytest.raises(SolverError, match=r"no variance is left to the noise.*Constant: 'd'") as caught:
        ox.solve(problem, ProbabilisticPCA(latents=2))
    assert caught.value.result is Result.NOT_POSITIVE_DEFINITE
    assert np.isfinite(caught.value.solution.value)
    assert ox.solve(problem, ProbabilisticPCA(latents=1)).result is Result.CONVERGED


def test_equal_points_leave_no_noise():
    with pytest.raises(SolverError, match="no variance is left"):
        ox.solve(all_points(np.ones((5, 3))), ProbabilisticPCA(latents=1))


def test_numbers_too_large_to_square():
    with pytest.raises(SolverError) as caught:
        ox.solve(all_points(DATA * 1e200), ProbabilisticPCA(latents=1))
    assert caught.value.result is Result.NON_FINITE


@pytest.mark.parametrize(
    ("problem", "latents", "sentence"),
    [
        (all_points(DATA), 5, "latents must be below the number of features, 5, and at least 1, but 5 was given"),
        (all_points(DATA), 0, "but 0 was given"),
        (all_points(DATA[:4]), 3, "3 latents pass through all of 4 points"),
        (all_points(DATA > 1.0, likelihood="bernoulli"), 1, "likelihood of Dataset is 'bernoulli'"),
    ],
)
def test_data_that_a_linear_model_cannot_take(problem, latents, sentence):
    with pytest.raises(ValueError, match=sentence):
        ox.solve(problem, ProbabilisticPCA(latents=latents))


@functools.cache
def digit_spectrum() -> np.ndarray:
    """Of the covariance of the pixels in [0, 1]."""
    return np.linalg.eigvalsh(covariance_of(np.asarray(digits().observations) / 16.0))[::-1]


@functools.cache
def rates_by_optimizer(s2: float) -> np.ndarray:
    """Rates of six latents at the best bound of a linear autoencoder, found by an optimizer that sees a covariance with
    the ten largest eigenvalues of the digits in a frame of its own; the bound does not depend on the frame."""
    d, k = 10, 6
    frame, _ = np.linalg.qr(np.random.default_rng(1).normal(size=(d, d)))
    C = (frame * digit_spectrum()[:d]) @ frame.T

    def negative_bound(parameters):
        W, V, log_v = parameters[: d * k].reshape(d, k), parameters[d * k : -k].reshape(k, d), parameters[-k:]
        second = V @ C @ V.T + jnp.diag(jnp.exp(log_v))
        error = jnp.trace(C) - 2 * jnp.sum(V @ C * W.T) + jnp.sum((W.T @ W) * second)
        return error / (2 * s2) + 0.5 * (jnp.trace(second) - jnp.sum(log_v) - k)

    with jax.enable_x64(True):
        slope = jax.jit(jax.value_and_grad(negative_bound))
        found = scipy.optimize.minimize(
            lambda p: [np.asarray(v, np.float64) for v in slope(p)],
            np.random.default_rng(0).normal(size=(2 * d + 1) * k) * 0.1,
            jac=True,
            method="L-BFGS-B",
            options={"maxiter": 5_000, "maxfun": 5_000, "ftol": 1e-15, "gtol": 1e-8, "maxcor": 30},
        )
    V, log_v = found.x[d * k : -k].reshape(k, d), found.x[-k:]
    return 0.5 * (np.diag(V @ C @ V.T) + np.exp(log_v) - log_v - 1.0)


@pytest.mark.row("S39.linear")
@against(
    lambda values, s2, k: (int(collapse_law(values, s2, k).used), float(collapse_law(values, s2, k).rate)),
    twice_the_variance=lambda values, s2, k: (
        int(np.sum(values[:k] > 2 * s2)),
        0.5 * np.log(np.maximum(values[:k] / (2 * s2), 1.0)).sum(),
    ),
    no_half=lambda values, s2, k: (int(np.sum(values[:k] > s2)), np.log(np.maximum(values[:k] / s2, 1.0)).sum()),
)
@pytest.mark.parametrize(("s2", "used", "rate"), [(0.5, 3, 0.34105), (0.3, 4, 1.2445)])
def test_collapse_law_of_the_digits(implementation, s2, used, rate):
    law = implementation(digit_spectrum(), s2, 6)
    assert law[0] == used
    assert abs(law[1] - rate) < 1e-4
    found = rates_by_optimizer(s2)
    assert np.sum(found > 0.01) == used
    assert abs(found.sum() - law[1]) < 1e-4


def test_digits_use_no_latent_at_unit_variance():
    law = collapse_law(digit_spectrum(), 1.0, 8)
    assert abs(digit_spectrum()[0] - 0.699) < 1e-3
    assert int(law.used) == 0
    assert float(law.rate) == 0.0
    assert abs(rates_by_optimizer(1.0).sum()) < 1e-8


def test_collapse_law_at_its_edges(x64):
    law = collapse_law([0.5, 2.0, 1.0], 1.0, 5)
    assert int(law.used) == 1
    np.testing.assert_allclose(law.rates, [0.5 * np.log(2.0), 0, 0, 0, 0], atol=1e-15)
    mapped = jax.vmap(lambda s2: collapse_law(jnp.asarray([0.5, 2.0, 1.0]), s2, 2).used)(jnp.asarray([3.0, 0.7, 0.1]))
    np.testing.assert_array_equal(mapped, [0, 2, 2])
    slope = jax.grad(lambda s2: collapse_law(jnp.asarray([0.5, 2.0]), s2, 2).rate)(jnp.asarray(1.0))
    assert abs(float(slope) + 0.5) < 1e-6


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (([1.0, -0.5], 1.0, 1), "at least 0"),
        (([1.0, np.nan], 1.0, 1), "finite"),
        ((np.eye(2), 1.0, 1), r"must be a vector \[features\]"),
        (([], 1.0, 1), r"must be a vector"),
        (([1.0], 0.0, 1), "noise_variance must be positive"),
        (([1.0], 1.0, 0), "latents must be at least 1"),
    ],
)
def test_no_collapse_law(arguments, sentence):
    with pytest.raises(ValueError, match=sentence):
        collapse_law(*arguments)


def test_full_covariance_is_the_likeliest_normal_law():
    problem = Dataset(DATA, validation_share=0.0, test_share=0.3)
    fit = full_covariance_gaussian(problem)
    with jax.enable_x64(True):
        parts = problem.parts()
    train, test = np.asarray(parts.train), np.asarray(parts.test)
    law = scipy.stats.multivariate_normal(train.mean(0), covariance_of(train))
    assert abs(float(fit.train_log_likelihood) - law.logpdf(train).mean()) < 1e-12
    assert abs(float(fit.test_log_likelihood) - law.logpdf(test).mean()) < 1e-12
    assert np.isnan(fit.validation_log_likelihood)
    assert fit.train_log_likelihood > ox.solve(problem, ProbabilisticPCA(latents=4)).value - 1e-12
    traced = jax.jit(lambda x: full_covariance_gaussian(all_points(x)).train_log_likelihood)(jnp.asarray(train))
    assert abs(float(traced) - float(fit.train_log_likelihood)) < 1e-4


def test_no_full_covariance():
    with pytest.raises(ValueError, match=r"lie in a hyperplane \(constant: feature 2\)"):
        full_covariance_gaussian(all_points(np.concatenate([DATA[:, :2], np.ones((200, 1))], axis=1)))
    with pytest.raises(ValueError, match="lie in a hyperplane, so"):
        full_covariance_gaussian(all_points(DATA[:4]))
    with pytest.raises(ValueError, match="likelihood of Dataset is 'bernoulli'"):
        full_covariance_gaussian(all_points(DATA > 1.0, likelihood="bernoulli"))


def test_moments_keep_their_digits_far_from_zero(x64):
    if x64:
        mean, covariance = moments(jnp.asarray(DATA + 1e6))
        np.testing.assert_allclose(mean, DATA.mean(0) + 1e6, rtol=1e-14)
        np.testing.assert_allclose(covariance, covariance_of(DATA), rtol=1e-8)
