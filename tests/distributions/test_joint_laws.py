"""Dirichlet, NormalInverseGamma and Bernoulli, against SciPy and quadrature."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.integrate
import scipy.stats

from clauses import against
from optimality.distributions import Bernoulli, Beta, Categorical, Dirichlet, Normal, NormalInverseGamma

C, D = np.array([0.6, 2.3, 4.1]), np.array([1.4, 0.9, 3.0])
X = np.array([0.2, 0.3, 0.5])


@against(
    lambda d, x: d.log_prob(x),
    exponents_for_concentrations=lambda d, x: Dirichlet(d.concentration + 1.0).log_prob(x),
    unnormalized=lambda d, x: jnp.sum((d.concentration - 1.0) * jnp.log(x)),
)
def test_dirichlet_log_prob(implementation):
    with jax.enable_x64(True):
        np.testing.assert_allclose(implementation(Dirichlet(C), X), scipy.stats.dirichlet(C).logpdf(X), 1e-12)


def test_dirichlet_moments_and_entropy(x64):
    d, oracle = Dirichlet(C), scipy.stats.dirichlet(C)
    np.testing.assert_allclose(d.mean(), oracle.mean(), 1e-6)
    np.testing.assert_allclose(d.variance(), oracle.var(), 1e-6)
    np.testing.assert_allclose(d.entropy(), oracle.entropy(), 1e-12 if x64 else 1e-5)
    np.testing.assert_allclose(Dirichlet([2.0, 3.0]).mode(), [1 / 3, 2 / 3], 1e-6)
    assert d.log_prob([-0.1, 0.6, 0.5]) == -np.inf


@against(lambda p, q: p.kl(q), reversed=lambda p, q: q.kl(p), sign=lambda p, q: -p.kl(q))
def test_dirichlet_kl_splits_into_betas(implementation):
    """By the chain rule: of the first probability, then of the second among the rest."""
    with jax.enable_x64(True):
        chain = Beta(C[0], C[1] + C[2]).kl(Beta(D[0], D[1] + D[2])) + Beta(C[1], C[2]).kl(Beta(D[1], D[2]))
        np.testing.assert_allclose(implementation(Dirichlet(C), Dirichlet(D)), chain, 1e-12)


def test_dirichlet_samples():
    """Marginals are beta: Kolmogorov-Smirnov, refused below a p-value of 0.001 at a fixed seed."""
    samples = np.asarray(jax.vmap(Dirichlet(C).sample)(jax.random.split(jax.random.key(0), 20_000)))
    np.testing.assert_allclose(samples.sum(axis=1), 1.0, 1e-5)
    assert scipy.stats.kstest(samples[:, 1], scipy.stats.beta(C[1], C[0] + C[2]).cdf).pvalue > 1e-3


NIG = (0.4, 2.0, 3.3, 1.7)


def oracle_log_prob(x, location=0.4, count=2.0, shape=3.3, rate=1.7):
    normal = scipy.stats.norm(location, np.sqrt(x[..., 1] / count)).logpdf(x[..., 0])
    return normal + scipy.stats.invgamma(shape, scale=rate).logpdf(x[..., 1])


@against(
    lambda d, x: d.log_prob(x),
    of_the_precision=lambda d, x: d.log_prob(x) + 2.0 * jnp.log(x[1]),
    scale_for_rate=lambda d, x: NormalInverseGamma(d.location, d.count, d.shape, 1.0 / d.rate).log_prob(x),
)
def test_normal_inverse_gamma_log_prob(implementation):
    x = np.array([0.1, 0.6])
    with jax.enable_x64(True):
        np.testing.assert_allclose(implementation(NormalInverseGamma(*NIG), x), oracle_log_prob(x), 1e-12)


@against(
    lambda p, q: (p.entropy(), p.kl(q)),
    reversed=lambda p, q: (p.entropy(), q.kl(p)),
    of_the_precision=lambda p, q: (p.entropy() - 2.0 * p.precision().mean_log() * -1.0, p.kl(q)),
)
def test_normal_inverse_gamma_by_quadrature(implementation):
    other = (0.1, 1.2, 2.0, 2.5)
    with jax.enable_x64(True):
        entropy, kl = implementation(NormalInverseGamma(*NIG), NormalInverseGamma(*other))
    nodes, weights = np.polynomial.hermite_e.hermegauss(12)
    weights = weights / weights.sum()

    def over_variance(function):
        def integrand(log_variance):
            variance = np.exp(log_variance)
            x = np.stack([0.4 + np.sqrt(variance / 2.0) * nodes, np.full(12, variance)], axis=-1)
            return weights @ function(x) * scipy.stats.invgamma(3.3, scale=1.7).pdf(variance) * variance

        return scipy.integrate.quad(integrand, -6, 12, epsabs=1e-12, limit=200)[0]

    np.testing.assert_allclose(entropy, over_variance(lambda x: -oracle_log_prob(x)), 1e-8)
    np.testing.assert_allclose(kl, over_variance(lambda x: oracle_log_prob(x) - oracle_log_prob(x, *other)), 1e-8)


def test_normal_inverse_gamma_marginals(x64):
    d = NormalInverseGamma(*NIG)
    mean, variance = scipy.stats.t(6.6, 0.4, np.sqrt(1.7 / 3.3 / 2.0)), scipy.stats.invgamma(3.3, scale=1.7)
    np.testing.assert_allclose(d.quantile(0.2), [mean.ppf(0.2), variance.ppf(0.2)], 1e-9 if x64 else 1e-4)
    np.testing.assert_allclose(d.mean(), [mean.mean(), variance.mean()], 1e-5)
    np.testing.assert_allclose(d.variance(), [mean.var(), variance.var()], 1e-5)
    samples = np.asarray(jax.jit(jax.vmap(d.sample))(jax.random.split(jax.random.key(1), 20_000)))
    assert scipy.stats.kstest(samples[:, 0], mean.cdf).pvalue > 1e-3
    assert scipy.stats.kstest(samples[:, 1], variance.cdf).pvalue > 1e-3
    heavy = NormalInverseGamma(0.0, 1.0, 0.9, 1.0)
    assert heavy.mean()[1] == np.inf
    np.testing.assert_array_equal(heavy.variance(), np.inf)
    gradient = jax.grad(lambda x: -d.log_prob(x))(jnp.asarray(d.mode()))
    np.testing.assert_allclose(gradient, 0.0, atol=1e-12 if x64 else 1e-4)


@against(
    lambda p, q: (p.entropy(), p.kl(q), p.log_prob(jnp.arange(2)), p.variance()),
    exchanged=lambda p, q: (p.entropy(), p.kl(q), p.log_prob(1 - jnp.arange(2)), p.variance()),
    reversed=lambda p, q: (p.entropy(), q.kl(p), p.log_prob(jnp.arange(2)), p.variance()),
)
def test_bernoulli_is_a_categorical(implementation, x64):
    p, q = np.array([0.7, 0.3]), np.array([0.4, 0.6])
    a, b = Categorical(np.log(p)), Categorical(np.log(q))
    entropy, kl, log_prob, variance = implementation(Bernoulli(0.3), Bernoulli(0.6))
    np.testing.assert_allclose(entropy, a.entropy(), 1e-6)
    np.testing.assert_allclose(kl, a.kl(b), 1e-5)
    np.testing.assert_allclose(log_prob, np.log(p), 1e-6)
    np.testing.assert_allclose(variance, 0.21, 1e-6)


def test_bernoulli_edges(x64):
    sure, fair = Bernoulli(1.0), Bernoulli(0.5)
    assert sure.entropy() == 0.0
    assert fair.kl(sure) == np.inf
    assert float(sure.kl(fair)) == pytest.approx(np.log(2.0), rel=1e-6)
    assert sure.log_prob(0) == -np.inf
    assert fair.log_prob(0.4) == -np.inf
    assert sure.sample(jax.random.key(0)) == 1
    assert fair.mode() == 0
    draws = jax.vmap(Bernoulli(0.3).sample)(jax.random.split(jax.random.key(0), 20_000))
    assert abs(float(jnp.mean(draws)) - 0.3) < 4 * np.sqrt(0.21 / 20_000)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Dirichlet(np.ones((2, 2))), r"shape \[n\], but \(2, 2\)"),
        (lambda: Dirichlet([1.0, 0.0]), "concentration of Dirichlet must be above 0"),
        (lambda: Dirichlet([1.0, 1.0]).kl(Dirichlet([1.0])), "same number of outcomes, but 2 and 1"),
        (lambda: Bernoulli(1.2), "probability of Bernoulli must be at least 0 and at most 1, but 1.2"),
        (lambda: NormalInverseGamma(0.0, 1.0, 0.0, 1.0), "shape of NormalInverseGamma must be above 0"),
    ],
)
def test_refusals(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize("law", [Dirichlet([1.0]), Bernoulli(0.5), NormalInverseGamma(*NIG)])
def test_kl_of_another_family(law):
    with pytest.raises(TypeError, match="has no rule"):
        law.kl(Normal(0.0, 1.0))
