"""MultivariateNormal, against SciPy, numpyro and dense linear algebra."""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions
import pytest
import scipy.stats

from clauses import against
from optimality.distributions import MultivariateNormal, Normal

LOCATION, VALUE = np.array([0.5, -1.0, 2.0]), np.array([0.0, 0.3, 1.0])
FACTOR = np.array([[1.5, 0.0, 0.0], [-0.4, 0.6, 0.0], [0.3, 0.8, 0.2]])
COVARIANCE = FACTOR @ FACTOR.T
OTHER_LOCATION = np.array([0.0, 0.2, 1.0])
OTHER_COVARIANCE = np.array([[2.0, 0.5, 0.0], [0.5, 1.0, -0.3], [0.0, -0.3, 0.7]])
ORACLE = scipy.stats.multivariate_normal(LOCATION, COVARIANCE)


def tolerance(x64):
    return 1e-12 if x64 else 1e-4


def ours():
    return MultivariateNormal(LOCATION, FACTOR)


def half_log_det(d):
    return jnp.sum(jnp.log(jnp.diagonal(jnp.asarray(d.scale_cholesky))))


@against(
    lambda d, x: d.log_prob(x),
    no_log_det=lambda d, x: d.log_prob(x) + half_log_det(d),
    whole_log_det=lambda d, x: d.log_prob(x) - half_log_det(d),
    transposed=lambda d, x: MultivariateNormal.from_covariance(
        d.location, d.scale_cholesky.T @ d.scale_cholesky
    ).log_prob(x),
    no_dimension=lambda d, x: d.log_prob(x) + float(np.log(2 * np.pi)),
)
def test_log_prob(implementation, x64):
    np.testing.assert_allclose(jax.jit(implementation)(ours(), VALUE), ORACLE.logpdf(VALUE), tolerance(x64))


@against(lambda d: d.entropy(), no_log_det=lambda d: d.entropy() - half_log_det(d))
def test_entropy(implementation, x64):
    np.testing.assert_allclose(jax.jit(implementation)(ours()), ORACLE.entropy(), tolerance(x64))


@against(lambda d: d.variance(), of_the_factor=lambda d: jnp.diagonal(jnp.asarray(d.scale_cholesky)) ** 2)
def test_moments(implementation, x64):
    np.testing.assert_allclose(jax.jit(implementation)(ours()), np.diag(COVARIANCE), tolerance(x64))
    np.testing.assert_allclose(ours().covariance(), COVARIANCE, tolerance(x64))
    np.testing.assert_allclose(ours().mean(), LOCATION, tolerance(x64))
    np.testing.assert_array_equal(ours().mode(), ours().mean())


def test_information_form(x64):
    precision = np.linalg.inv(COVARIANCE)
    np.testing.assert_allclose(ours().precision(), precision, 20 * tolerance(x64))
    np.testing.assert_allclose(ours().information(), precision @ LOCATION, 20 * tolerance(x64))


@against(
    MultivariateNormal.from_covariance,
    factor=lambda location, covariance: MultivariateNormal(location, jnp.tril(jnp.asarray(covariance))),
    precision=MultivariateNormal.from_precision,
)
def test_from_covariance(implementation, x64):
    d = implementation(LOCATION, OTHER_COVARIANCE)
    np.testing.assert_allclose(d.covariance(), OTHER_COVARIANCE, tolerance(x64), atol=tolerance(x64))
    np.testing.assert_allclose(d.mean(), LOCATION, tolerance(x64))
    traced = jax.jit(lambda *a: implementation(*a).covariance())(LOCATION, OTHER_COVARIANCE)
    np.testing.assert_allclose(traced, OTHER_COVARIANCE, tolerance(x64), atol=tolerance(x64))


@against(
    MultivariateNormal.from_precision,
    mean_for_information=lambda h, precision: MultivariateNormal.from_precision(precision @ h, precision),
    covariance=lambda h, precision: MultivariateNormal.from_covariance(h, precision),
    upper=lambda h, precision: MultivariateNormal.from_covariance(
        np.linalg.solve(precision, h),
        np.linalg.inv(np.linalg.cholesky(precision)) @ np.linalg.inv(np.linalg.cholesky(precision)).T,
    ),
)
def test_from_precision(implementation, x64):
    covariance, mean = np.linalg.inv(OTHER_COVARIANCE), np.linalg.solve(OTHER_COVARIANCE, LOCATION)
    d = implementation(LOCATION, OTHER_COVARIANCE)
    np.testing.assert_allclose(d.covariance(), covariance, tolerance(x64), atol=tolerance(x64))
    np.testing.assert_allclose(d.mean(), mean, tolerance(x64))
    assert np.all(np.triu(d.scale_cholesky, 1) == 0.0)
    np.testing.assert_allclose(d.precision(), OTHER_COVARIANCE, tolerance(x64), atol=tolerance(x64))


def test_from_precision_traced(x64):
    covariance, mean = np.linalg.inv(OTHER_COVARIANCE), np.linalg.solve(OTHER_COVARIANCE, LOCATION)
    traced = jax.jit(MultivariateNormal.from_precision)(LOCATION, OTHER_COVARIANCE)
    np.testing.assert_allclose(traced.covariance(), covariance, tolerance(x64), atol=tolerance(x64))
    np.testing.assert_allclose(traced.mean(), mean, 10 * tolerance(x64))


KL = {
    "reversed": lambda p, q: q.kl(p),
    "sign": lambda p, q: -p.kl(q),
    "no_log_det": lambda p, q: p.kl(q) - half_log_det(q) + half_log_det(p),
    "no_dimension": lambda p, q: p.kl(q) + 1.5,
    "no_location": lambda p, q: p.kl(MultivariateNormal(p.location, q.scale_cholesky)),
}


@against(lambda p, q: p.kl(q), **KL)
def test_kl_dense(implementation, x64):
    distance = OTHER_LOCATION - LOCATION
    dense = 0.5 * (
        np.trace(np.linalg.solve(OTHER_COVARIANCE, COVARIANCE))
        - 3
        + distance @ np.linalg.solve(OTHER_COVARIANCE, distance)
        + np.linalg.slogdet(OTHER_COVARIANCE)[1]
        - np.linalg.slogdet(COVARIANCE)[1]
    )
    other = MultivariateNormal.from_covariance(OTHER_LOCATION, OTHER_COVARIANCE)
    np.testing.assert_allclose(jax.jit(implementation)(ours(), other), dense, tolerance(x64))


@against(lambda p, q: p.kl(q), **KL)
def test_kl_by_numpyro(implementation):
    with jax.enable_x64(True), jax.numpy_rank_promotion("allow"):
        oracle = numpyro.distributions.kl_divergence(
            numpyro.distributions.MultivariateNormal(LOCATION, COVARIANCE),
            numpyro.distributions.MultivariateNormal(OTHER_LOCATION, OTHER_COVARIANCE),
        )
    with jax.enable_x64(True):
        other = MultivariateNormal.from_covariance(OTHER_LOCATION, OTHER_COVARIANCE)
        np.testing.assert_allclose(jax.jit(implementation)(ours(), other), oracle, 1e-11)


def test_one_dimension_is_normal(x64):
    vector, number = MultivariateNormal([0.3], [[0.5]]), Normal(0.3, 0.5)
    np.testing.assert_allclose(vector.log_prob(np.array([0.9])), number.log_prob(0.9), rtol=1e-6)
    np.testing.assert_allclose(vector.entropy(), number.entropy(), rtol=1e-6)
    np.testing.assert_allclose(vector.kl(MultivariateNormal([0.0], [[2.0]])), number.kl(Normal(0.0, 2.0)), rtol=1e-6)


def test_derivatives(x64):
    def objective(location, factor):
        d = MultivariateNormal(location, factor)
        other = MultivariateNormal.from_covariance(OTHER_LOCATION, OTHER_COVARIANCE)
        return d.log_prob(VALUE) + d.entropy() + jnp.sum(d.variance()) + d.kl(other)

    value = jax.jit(objective)
    by_location, by_factor = jax.jit(jax.grad(objective, (0, 1)))(jnp.asarray(LOCATION), jnp.asarray(FACTOR))
    assert np.all(np.isfinite(by_factor))
    assert np.all(np.triu(by_factor, 1) == 0.0)
    if x64:
        for i in range(3):
            step = 1e-6 * (np.arange(3) == i)
            numbers = value(LOCATION + step, FACTOR) - value(LOCATION - step, FACTOR)
            np.testing.assert_allclose(by_location[i], numbers / 2e-6, rtol=1e-6)
        for i, j in zip(*np.tril_indices(3), strict=True):
            step = np.zeros((3, 3))
            step[i, j] = 1e-6
            numbers = value(LOCATION, FACTOR + step) - value(LOCATION, FACTOR - step)
            np.testing.assert_allclose(by_factor[i, j], numbers / 2e-6, rtol=1e-6)


def test_derivative_through_the_precision():
    with jax.enable_x64(True):

        def objective(precision):
            return MultivariateNormal.from_precision(LOCATION, precision).entropy()

        gradient = jax.grad(objective)(OTHER_COVARIANCE)
        np.testing.assert_allclose(gradient, -0.5 * np.linalg.inv(OTHER_COVARIANCE), rtol=1e-11)


@against(
    lambda d, keys: jax.vmap(d.sample)(keys),
    transposed=lambda d, keys: jax.vmap(
        MultivariateNormal.from_covariance(d.location, d.scale_cholesky.T @ d.scale_cholesky).sample
    )(keys),
    covariance_for_factor=lambda d, keys: jax.vmap(
        MultivariateNormal(d.location, jnp.tril(d.scale_cholesky @ d.scale_cholesky.T)).sample
    )(keys),
)
def test_samples(implementation, x64):
    """Squared Mahalanobis distances and whitened entries by Kolmogorov-Smirnov, refused below a p-value of 0.001."""
    samples = np.asarray(jax.jit(implementation)(ours(), jax.random.split(jax.random.key(0), 20_000)), np.float64)
    white = np.linalg.solve(FACTOR, (samples - LOCATION).T)
    assert scipy.stats.kstest(np.sum(white**2, axis=0), scipy.stats.chi2(3).cdf).pvalue > 1e-3
    for entry in white:
        assert scipy.stats.kstest(entry, scipy.stats.norm.cdf).pvalue > 1e-3


def test_sample_and_log_prob(x64):
    value, log_prob = jax.jit(lambda key: ours().sample_and_log_prob(key))(jax.random.key(1))
    np.testing.assert_allclose(log_prob, ours().log_prob(value), rtol=tolerance(x64))
    np.testing.assert_allclose(value, ours().sample(jax.random.key(1)), rtol=1e-5)


def test_vmap_equals_loop(x64):
    locations, factors = np.stack([LOCATION, OTHER_LOCATION]), np.stack([FACTOR, np.eye(3)])

    def summary(location, factor):
        d = MultivariateNormal(location, factor)
        return d.log_prob(VALUE), d.entropy(), d.variance(), d.precision(), d.kl(ours()), d.information()

    mapped = jax.jit(jax.vmap(summary))(locations, factors)
    for i in range(2):
        for one, other in zip(mapped, summary(locations[i], factors[i]), strict=True):
            np.testing.assert_allclose(one[i], other, rtol=tolerance(x64), atol=tolerance(x64))


def test_traced_factor_is_used_below_its_diagonal_only(x64):
    filled = FACTOR + np.triu(np.ones((3, 3)), 1)
    samples = jax.jit(lambda factor: MultivariateNormal(LOCATION, factor).sample(jax.random.key(0)))(filled)
    np.testing.assert_allclose(samples, ours().sample(jax.random.key(0)), rtol=1e-5)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: MultivariateNormal([0.0, 0.0], np.eye(3)),
            r"\[d\] and scale_cholesky \[d, d\], but \(2,\) and \(3, 3\)",
        ),
        (lambda: MultivariateNormal([0.0, 0.0], np.ones((2, 2))), "lower triangular.*from_covariance"),
        (lambda: MultivariateNormal([0.0, 0.0], np.diag([1.0, -1.0])), "positive diagonal"),
        (lambda: MultivariateNormal([0.0, np.nan], np.eye(2)), "location must be finite"),
        (lambda: MultivariateNormal([0.0, 0.0], np.diag([1.0, np.inf])), "scale_cholesky must be finite"),
        (
            lambda: MultivariateNormal.from_covariance([0.0, 0.0], [[1.0, 2.0], [0.0, 1.0]]),
            "covariance must be symmetric",
        ),
        (
            lambda: MultivariateNormal.from_covariance([0.0, 0.0], [[1.0, 2.0], [2.0, 1.0]]),
            "covariance must be positive definite.*eigenvalue of -1: add a multiple of the identity",
        ),
        (lambda: MultivariateNormal.from_precision([0.0, 0.0], np.zeros((2, 2))), "precision must be positive def"),
        (lambda: MultivariateNormal.from_precision([0.0], [[np.nan]]), "precision must be finite"),
        (lambda: ours().kl(MultivariateNormal([0.0], [[1.0]])), "same size, but 3 and 1"),
    ],
)
def test_refusals(make, message):
    with pytest.raises(ValueError, match=f"(?s){message}"):
        make()


def test_traced_covariance_is_not_refused(x64):
    bad = np.array([[1.0, 2.0], [2.0, 1.0]])
    entropy = jax.jit(lambda c: MultivariateNormal.from_covariance(np.zeros(2), c).entropy())(bad)
    assert np.isnan(entropy)


def test_kl_of_another_family():
    with pytest.raises(TypeError, match=r"KL\(MultivariateNormal \|\| Normal\)"):
        ours().kl(Normal(0.0, 1.0))
