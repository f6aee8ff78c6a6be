"""Gamma, Beta, BetaPrime, Lomax and StudentT, against SciPy and quadrature."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.integrate
import scipy.stats

from clauses import against
from optimality.distributions import Beta, BetaPrime, Gamma, Lomax, Normal, StudentT

P = np.array([1e-7, 0.02, 0.31, 0.5, 0.77, 0.999])
LAWS = {
    "gamma": (Gamma(2.3, 0.7), scipy.stats.gamma(2.3, scale=1 / 0.7)),
    "gamma_small": (Gamma(0.2, 3.0), scipy.stats.gamma(0.2, scale=1 / 3.0)),
    "gamma_large": (Gamma(900.0, 3.0), scipy.stats.gamma(900.0, scale=1 / 3.0)),
    "beta": (Beta(2.3, 0.7), scipy.stats.beta(2.3, 0.7)),
    "beta_small": (Beta(0.3, 0.05), scipy.stats.beta(0.3, 0.05)),
    "beta_large": (Beta(400.0, 90.0), scipy.stats.beta(400.0, 90.0)),
    "beta_prime": (BetaPrime(1.7, 3.4, 2.1), scipy.stats.betaprime(1.7, 3.4, scale=2.1)),
    "beta_prime_heavy": (BetaPrime(0.6, 2.2, 0.1), scipy.stats.betaprime(0.6, 2.2, scale=0.1)),
    "lomax": (Lomax(2.6, 3.2), scipy.stats.lomax(2.6, scale=3.2)),
    "lomax_light": (Lomax(40.5, 0.3), scipy.stats.lomax(40.5, scale=0.3)),
    "student": (StudentT(3.4, -0.8, 1.7), scipy.stats.t(3.4, -0.8, 1.7)),
    "student_many": (StudentT(120.0, 5.0, 0.2), scipy.stats.t(120.0, 5.0, 0.2)),
}
each_law = pytest.mark.parametrize("name", LAWS)
ordinary = pytest.mark.parametrize("name", ["gamma", "beta", "beta_prime", "lomax", "student"])
"""Laws far enough from their wrong forms to tell them apart."""


def inverted(law):
    """The law with a scale for its rate, or its parameters exchanged."""
    match law:
        case Gamma():
            return Gamma(law.shape, 1.0 / law.rate)
        case Beta():
            return Beta(law.b, law.a)
        case BetaPrime():
            return BetaPrime(law.a, law.b, 1.0 / law.scale)
        case Lomax():
            return Lomax(law.shape, 1.0 / law.scale)
        case StudentT():
            return StudentT(law.degrees, law.location, law.scale**2)
    raise TypeError(law)


def one_less(law):
    """A shape read as an exponent: one less than it is, or here one more, so that it stays positive."""
    match law:
        case Gamma():
            return Gamma(law.shape + 1.0, law.rate)
        case Beta():
            return Beta(law.a + 1.0, law.b)
        case BetaPrime():
            return BetaPrime(law.a, law.b + 1.0, law.scale)
        case Lomax():
            return Lomax(law.shape + 1.0, law.scale)
        case StudentT():
            return StudentT(law.degrees + 1.0, law.location, law.scale)
    raise TypeError(law)


def wrong(method):
    return {
        "inverted": lambda law, *x: method(inverted(law), *x),
        "exponent_for_shape": lambda law, *x: method(one_less(law), *x),
    }


def tolerance(x64):
    return 2e-12 if x64 else 3e-4


def points(oracle):
    return oracle.ppf(np.array([0.01, 0.3, 0.6, 0.95]))


@ordinary
@against(lambda law, x: law.log_prob(x), **wrong(lambda law, x: law.log_prob(x)))
def test_log_prob(implementation, name, x64):
    law, oracle = LAWS[name]
    x = points(oracle)
    np.testing.assert_allclose(jax.jit(implementation)(law, x), oracle.logpdf(x), tolerance(x64), 100 * tolerance(x64))


@ordinary
@against(lambda law, x: law.cdf(x), **wrong(lambda law, x: law.cdf(x)))
def test_cdf(implementation, name, x64):
    law, oracle = LAWS[name]
    x = points(oracle)
    np.testing.assert_allclose(jax.jit(implementation)(law, x), oracle.cdf(x), 5e-12 if x64 else 3e-4)


@ordinary
@against(lambda law, p: law.quantile(p), **wrong(lambda law, p: law.quantile(p)))
def test_quantile(implementation, name, x64):
    law, oracle = LAWS[name]
    p = P if x64 else P[1:]
    np.testing.assert_allclose(jax.jit(implementation)(law, p), oracle.ppf(p), 1e-10 if x64 else 1e-3)


@each_law
def test_extreme_parameters(name, x64):
    """In float64 to eleven digits; in float32 as far as the rounding of x itself allows."""
    law, oracle = LAWS[name]
    if name == "beta_small" and not x64:
        pytest.skip("its quantiles round to one")
    x = points(oracle)
    log_prob, cdf, quantile = jax.jit(lambda law, x: (law.log_prob(x), law.cdf(x), law.quantile(P[1:])))(law, x)
    np.testing.assert_allclose(log_prob, oracle.logpdf(x), 1e-11 if x64 else 1e-2, 1e-11 if x64 else 1e-2)
    np.testing.assert_allclose(cdf, oracle.cdf(x), 1e-10 if x64 else 2e-2)
    np.testing.assert_allclose(quantile, oracle.ppf(P[1:]), 1e-10 if x64 else 1e-2, 1e-12 if x64 else 1e-6)
    np.testing.assert_allclose(law.mean(), oracle.mean(), 1e-11 if x64 else 1e-4)
    np.testing.assert_allclose(law.variance(), oracle.var(), 1e-11 if x64 else 1e-4)


@each_law
def test_quantile_inverts_the_cdf_and_ends_at_the_support(name):
    law, oracle = LAWS[name]
    with jax.enable_x64(True):
        if name != "beta_small":  # whose upper quantiles round to one
            np.testing.assert_allclose(law.cdf(law.quantile(P)), P, 1e-10)
        np.testing.assert_array_equal(law.quantile(np.array([0.0, 1.0])), oracle.support())
        by_probability = jax.grad(law.quantile)(0.31)
        np.testing.assert_allclose(by_probability, 1.0 / np.exp(law.log_prob(law.quantile(0.31))), 1e-9)


@ordinary
@against(
    lambda law: law.entropy(),
    doubled_scale=lambda law: law.entropy() + jnp.log(2.0).astype(law.entropy().dtype),
    exponent_for_shape=lambda law: one_less(law).entropy(),
)
def test_entropy(implementation, name, x64):
    law, oracle = LAWS[name]
    np.testing.assert_allclose(
        jax.jit(implementation)(law), float(oracle.entropy()), 2e-9 if x64 else 2e-3, 1e-10 if x64 else 1e-4
    )


@ordinary
@against(lambda law: (law.mean(), law.variance()), **wrong(lambda law: (law.mean(), law.variance() * 1.01)))
def test_moments(implementation, name, x64):
    law, oracle = LAWS[name]
    mean, variance = jax.jit(implementation)(law)
    np.testing.assert_allclose(mean, oracle.mean(), tolerance(x64))
    np.testing.assert_allclose(variance, oracle.var(), tolerance(x64))


@each_law
def test_mode_is_the_highest_point(name, x64):
    law, oracle = LAWS[name]
    grid = np.clip(
        np.asarray(law.mode(), float) + np.std(points(oracle)) * np.linspace(-0.1, 0.1, 21), *oracle.support()
    )
    heights = np.asarray(law.log_prob(grid.astype(np.float64)))
    assert np.all(np.asarray(law.log_prob(law.mode())) >= heights - (1e-11 if x64 else 2e-3))


KL = {
    "gamma": (Gamma(2.3, 0.7), Gamma(1.1, 1.9)),
    "beta": (Beta(2.3, 0.7), Beta(1.5, 1.4)),
    "beta_prime": (BetaPrime(1.7, 3.4, 2.1), BetaPrime(0.8, 5.0, 0.7)),
    "lomax": (Lomax(2.6, 3.2), Lomax(1.3, 0.4)),
    "student": (StudentT(3.4, -0.8, 1.7), StudentT(7.0, 0.5, 0.9)),
}


@pytest.mark.parametrize("name", KL)
@against(lambda p, q: p.kl(q), reversed=lambda p, q: q.kl(p), sign=lambda p, q: -p.kl(q))
def test_kl_by_quadrature(implementation, name):
    p, q = KL[name]
    oracle = LAWS[name][1]
    with jax.enable_x64(True):
        ours = jax.jit(implementation)(p, q)
        gap = jax.jit(lambda u: p.log_prob(p.quantile(u)) - q.log_prob(p.quantile(u)))

        def integrand(s):  # in the logit of the probability, where the tails are harmless
            u = 1.0 / (1.0 + np.exp(-s))
            return float(gap(u)) * u * (1.0 - u)

        end = 20.0 if name == "beta" else 30.0  # where quantiles of the beta law round to one
        number, _ = scipy.integrate.quad(integrand, -end, end, epsabs=1e-11, limit=200)
        np.testing.assert_allclose(ours, number, 1e-6 if name == "beta" else 1e-8)
        assert abs(float(jax.jit(implementation)(p, p))) < 1e-12
        assert oracle.support()[0] == p.quantile(0.0)


def test_kl_of_equal_laws_by_two_families():
    """A Lomax law is a beta prime law, and with one scale both have the KL of the beta variables they are made of."""
    with jax.enable_x64(True):
        ours = Lomax(2.6, 3.2).kl(Lomax(1.3, 3.2))
        np.testing.assert_allclose(ours, Beta(1.0, 2.6).kl(Beta(1.0, 1.3)), 1e-12)
        np.testing.assert_allclose(ours, np.log(2.6 / 1.3) - 1.0 + 1.3 / 2.6, 1e-12)


@ordinary
@against(
    lambda law, keys: jax.vmap(law.sample)(keys),
    **wrong(lambda law, keys: jax.vmap(law.sample)(keys)),
)
def test_samples(implementation, name):
    """Kolmogorov-Smirnov, refused below a p-value of 0.001 at a fixed seed."""
    law, oracle = LAWS[name]
    samples = np.asarray(jax.jit(implementation)(law, jax.random.split(jax.random.key(3), 40_000)))
    assert scipy.stats.kstest(samples, oracle.cdf).pvalue > 1e-3


def test_means_that_do_not_exist_are_infinite(x64):
    for law in (Lomax(1.0, 2.0), Lomax(0.4, 2.0), BetaPrime(2.0, 1.0, 3.0), BetaPrime(2.0, 0.7, 3.0)):
        assert law.mean() == np.inf
        assert law.variance() == np.inf
        assert law.mean_excess(1.0) == np.inf
    assert Lomax(2.0, 1.0).variance() == np.inf
    assert Lomax(2.0, 1.0).mean() == 1.0
    assert BetaPrime(2.0, 2.0, 1.0).variance() == np.inf
    assert not StudentT(1.0, 0.0, 1.0).mean_exists()
    assert StudentT(1.1, 0.0, 1.0).mean_exists()
    assert StudentT(2.0, 0.0, 1.0).variance() == np.inf
    gradient = jax.grad(lambda shape: Lomax(shape, jnp.asarray(2.0)).mean())(jnp.asarray(0.5))
    assert np.isfinite(gradient)


@pytest.mark.parametrize("name", ["beta_prime", "lomax"])
@against(
    lambda law, threshold: law.mean_excess(threshold),
    not_tilted=lambda law, threshold: law.survival(threshold) * (law.mean() - threshold),
    survival_only=lambda law, threshold: law.survival(threshold),
)
def test_mean_excess(implementation, name):
    law, oracle = LAWS[name]
    with jax.enable_x64(True):
        for threshold in (0.0, 0.3, 4.0):
            number, _ = scipy.integrate.quad(oracle.sf, threshold, np.inf, epsabs=1e-13, epsrel=1e-12)
            np.testing.assert_allclose(implementation(law, threshold), number, 1e-9)


def test_outside_the_support(x64):
    for law in (Gamma(2.0, 1.0), BetaPrime(2.0, 1.5, 1.0), Lomax(2.0, 1.0), Beta(2.0, 2.0)):
        assert law.log_prob(-0.5) == -np.inf
        assert law.cdf(-0.5) == 0.0
    assert Beta(2.0, 2.0).log_prob(1.5) == -np.inf
    assert BetaPrime(1.0, 2.0, 1.0).log_prob(0.0) == pytest.approx(np.log(2.0), rel=1e-6)


def test_vmap_equals_loop_and_batches_entry_by_entry():
    a, b, c = np.array([0.7, 2.0]), np.array([1.3, 4.0]), np.array([0.1, 1.0])

    def summary(a, b, c):
        laws = (Gamma(a, c), BetaPrime(a, b, c), StudentT(b, a, c))
        others = (Gamma(b, c), BetaPrime(b, a, c), StudentT(a, b, c))
        return [
            (p.log_prob(0.3), p.cdf(0.3), p.quantile(0.3), p.entropy(), p.mean(), p.kl(q))
            for p, q in zip(laws, others, strict=True)
        ]

    mapped, entries = jax.jit(jax.vmap(summary))(a, b, c), jax.jit(summary)(a, b, c)
    for i in range(2):
        one = jax.jit(summary)(a[i], b[i], c[i])
        for ours, batch, single in zip(*map(jax.tree.leaves, (mapped, entries, one)), strict=True):
            np.testing.assert_allclose(ours[i], single, 1e-4, 1e-5)
            np.testing.assert_allclose(batch[i], single, 1e-4, 1e-5)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Gamma(0.0, 1.0), "shape of Gamma must be above 0 and finite, but 0.0 was given"),
        (lambda: Gamma(1.0, np.inf), "rate of Gamma must be above 0 and finite"),
        (lambda: Gamma(np.ones(2), 1.0), r"same shape, but \(2,\) and \(\) were given"),
        (lambda: Beta(1.0, -1.0), "b of Beta must be above 0"),
        (lambda: Lomax(np.nan, 1.0), "shape of Lomax must be above 0"),
        (lambda: BetaPrime(1.0, 1.0, 0.0), "scale of BetaPrime must be above 0"),
        (lambda: StudentT(1.0, np.nan, 1.0), "location of StudentT must be at least -inf and finite"),
        (lambda: Gamma(1.0, 1.0).quantile(1.5), r"probabilities in \[0, 1\], but 1.5 was given"),
    ],
)
def test_refusals(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize("law", [Gamma(1.0, 1.0), Beta(1.0, 1.0), BetaPrime(1.0, 1.0, 1.0), Lomax(1.0, 1.0)])
def test_kl_of_another_family(law):
    with pytest.raises(TypeError, match="has no rule"):
        law.kl(Normal(0.0, 1.0))
