"""Conjugate beliefs: posteriors, predictive laws and information against quadrature, SciPy and enumeration."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.integrate
import scipy.special
import scipy.stats

from clauses import against
from optimality.beliefs import (
    BayesianLinear,
    BetaBernoulli,
    DirichletCategorical,
    GammaExponential,
    GammaKnownShape,
    NormalKnownVariance,
    NormalUnknownVariance,
)

RNG = np.random.default_rng(0)
SCALAR = {
    "beta": (BetaBernoulli(0.7, 2.2), np.array([1.0, 0.0, 1.0, 1.0]), (0.0, 1.0)),
    "exponential": (GammaExponential(1.6, 0.9), np.array([0.3, 2.1, 0.0, 0.8]), (0.0, np.inf)),
    "gamma": (GammaKnownShape(1.7, 1.3, 0.8), np.array([0.9, 0.2, 3.1, 1.4]), (0.0, np.inf)),
    "normal": (NormalKnownVariance(0.3, 0.8, 0.5), np.array([1.2, -0.4, 0.9, 0.1]), (-np.inf, np.inf)),
}
ALL = {
    **{name: (belief, data) for name, (belief, data, _) in SCALAR.items()},
    "normal_unknown": (NormalUnknownVariance(0.3, 1.2, 1.7, 0.8), np.array([1.2, -0.4, 0.9, 0.1])),
    "dirichlet": (DirichletCategorical([0.5, 1.2, 2.0]), np.array([0, 2, 1, 2])),
    "linear": (BayesianLinear.isotropic(2, scale=1.3, noise_scale=0.6), (RNG.normal(size=(4, 2)), RNG.normal(size=4))),
}
each = pytest.mark.parametrize("name", ALL)


def parts(data, i):
    return jax.tree.map(lambda a: a[i], data)


def leaves_close(ours, other, rtol, atol=0.0):
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(other), strict=True):
        np.testing.assert_allclose(a, b, rtol, atol)


def exponent_for_shape(belief, data):
    """E3.9: the posterior's shape grows by the exponent, one less than the outcome's shape."""
    right = belief.update_batch(data)
    return GammaKnownShape(right.outcome_shape, right.shape - len(data), right.rate)


def posterior_against_quadrature(update, name, count, x64):
    belief, data, support = SCALAR[name]
    data = data[:count]
    with jax.enable_x64(True):
        likelihood = jax.jit(lambda p: sum(belief.likelihood(p).log_prob(x) for x in data) + belief.log_prob(p))
        low, high = (np.asarray(belief.quantile(p)) for p in (1e-13, 1.0 - 1e-13))
        if np.isfinite(support[0]):  # in the logarithm or logit, where poles at the ends are harmless
            to = (lambda s: 1 / (1 + np.exp(-s))) if np.isfinite(support[1]) else np.exp
            slope = (lambda s: to(s) * (1 - to(s))) if np.isfinite(support[1]) else np.exp
            low, high = -60.0, 30.0 if np.isfinite(support[1]) else 5.0
        else:
            to, slope = (lambda s: s), (lambda s: 1.0)
            low, high = -12.0, 12.0
        mass, _ = scipy.integrate.quad(
            lambda s: np.exp(float(likelihood(to(s)))) * slope(s), low, high, epsabs=1e-16, epsrel=1e-12, limit=500
        )
        posterior = update(belief, data)
        points = np.asarray(posterior.quantile(np.linspace(0.02, 0.98, 20)))
        exact = np.exp(np.asarray(jax.vmap(likelihood)(points))) / mass
        np.testing.assert_allclose(np.exp(np.asarray(jax.vmap(posterior.log_prob)(points))), exact, 1e-10)
        return mass


def updated(belief, data):
    return belief.update_batch(data)


def forgets_the_data(belief, data):
    return belief


@pytest.mark.row("S141")
@pytest.mark.parametrize("count", [1, 4])
@against(updated, exponent_for_shape=exponent_for_shape, forgets_the_data=forgets_the_data)
def test_gamma_posterior_by_quadrature(implementation, count):
    posterior_against_quadrature(implementation, "gamma", count, True)


@pytest.mark.row("S142")
@pytest.mark.parametrize("count", [1, 4])
@against(
    updated,
    no_time=lambda b, t: GammaExponential(b.shape + len(t), b.rate),
    mean_time=lambda b, t: GammaExponential(b.shape + len(t), b.rate + np.mean(t) / 2),
    two_each=lambda b, t: GammaExponential(b.shape + 2 * len(t), b.rate + np.sum(t)),
)
def test_exponential_posterior_by_quadrature(implementation, count):
    posterior_against_quadrature(implementation, "exponential", count, True)


@pytest.mark.parametrize("name", ["beta", "normal"])
@against(updated, forgets_the_data=forgets_the_data)
def test_posterior_by_quadrature(implementation, name):
    posterior_against_quadrature(implementation, name, 4, True)


@pytest.mark.parametrize("name", SCALAR)
@against(
    lambda belief, data: belief.log_evidence(data),
    reversed=lambda belief, data: -belief.log_evidence(data),
    independent=lambda belief, data: sum(belief.predictive().log_prob(x) for x in data),
)
def test_evidence_by_quadrature(implementation, name):
    mass = posterior_against_quadrature(updated, name, 4, True)
    with jax.enable_x64(True):
        np.testing.assert_allclose(np.exp(implementation(*SCALAR[name][:2])), mass, 1e-10)


@each
def test_evidence_is_the_chain_of_predictions(name):
    belief, data = ALL[name]
    with jax.enable_x64(True):
        total, now = 0.0, belief
        for i in range(4):
            x = parts(data, i)
            predictive = now.at(x[0]).predictive() if name == "linear" else now.predictive()
            total += float(predictive.log_prob(x[1] if name == "linear" else x))
            now = now.update(x)
        np.testing.assert_allclose(belief.log_evidence(data), total, 1e-12)


@each
@against(
    lambda belief, data, weight: belief.update_batch(data, weight),
    ignores_weights=lambda belief, data, weight: belief.update_batch(data),
    normalizes_weights=lambda belief, data, weight: belief.update_batch(data, weight / np.sum(weight)),
)
def test_batch_is_sequence_with_weights(implementation, name, x64):
    belief, data = ALL[name]
    weight = np.array([1.0, 0.0, 0.4, 2.0])
    now = belief
    for i in (3, 0, 2, 1):  # the order does not matter
        now = now.update(parts(data, i), weight[i])
    leaves_close(implementation(belief, data, weight), now, 1e-13 if x64 else 1e-5, 1e-13 if x64 else 1e-6)


@each
def test_weights_of_nothing(name, x64):
    belief, data = ALL[name]
    leaves_close(belief.update(parts(data, 0), 0.0), belief, 1e-7)
    leaves_close(belief.update_batch(data, 0.0), belief, 1e-7)
    empty = jax.tree.map(lambda a: a[:0], data)
    leaves_close(belief.update_batch(empty), belief, 1e-7)
    assert abs(float(belief.log_evidence(empty))) < 1e-6


@each
def test_traced_mapped_and_in_float32(name):
    """A batch of beliefs is one object; every number comes out in the precision of the computation."""
    belief, data = ALL[name]

    def everything(belief, x, key):
        new = belief.update(x)
        return new, new.entropy(), new.kl(belief), new.sample(key), new.quantile(0.3), new.mean(), new.variance()

    with jax.enable_x64(False):
        batch = jax.tree.map(lambda leaf: jnp.stack([jnp.asarray(leaf)] * 4), belief)
        keys = jax.random.split(jax.random.key(0), 4)
        mapped = jax.jit(jax.vmap(everything))(batch, data, keys)
        for leaf in jax.tree.leaves(mapped):
            assert leaf.dtype == jnp.float32
        for i in (0, 3):
            one = everything(belief, parts(data, i), keys[i])
            leaves_close(parts(mapped, i), one, 1e-3, 1e-4)


@each
def test_realized_information_is_not_the_entropy_drop(name):
    belief, data = ALL[name]
    x = parts(data, 0)
    with jax.enable_x64(True):
        np.testing.assert_allclose(belief.realized_information(x), belief.update(x).kl(belief), 1e-13)
        drop = belief.entropy() - belief.update(x).entropy()
        np.testing.assert_allclose(belief.realized_entropy_drop(x), drop, 1e-13, 1e-15)
        assert belief.realized_information(x) > 0.0


@pytest.mark.row("S143.density")
@against(
    lambda belief: belief.predictive(),
    prior_shape=lambda belief: GammaExponential(belief.shape - 1.0, belief.rate).predictive(),
    factorial=lambda belief: GammaExponential(np.floor(belief.shape), belief.rate).predictive(),
)
def test_lomax_by_quadrature(implementation):
    """E3.11: at shapes that are not whole, where integration by parts does not end."""
    with jax.enable_x64(True):
        belief = GammaExponential(1.6, 1.1).update(0.9)
        shape, rate = 2.6, 2.0
        for t in np.linspace(0.0, 20.0, 12):
            # integral of l^shape exp(-(rate + t) l) over l, by substitution of the exponent
            number, _ = scipy.integrate.quad(
                lambda y: np.exp((shape + 1) * y - np.exp(y)), -30, 6, epsabs=1e-14, epsrel=1e-13, limit=300
            )
            density = rate**shape / scipy.special.gamma(shape) * number / (rate + t) ** (shape + 1)
            np.testing.assert_allclose(np.exp(implementation(belief).log_prob(t)), density, 1e-10)


@pytest.mark.row("S143.cdf", "S143.sampler", "S143.mean", "E3.13")
@against(
    lambda belief: belief.predictive(),
    prior_shape=lambda belief: GammaExponential(belief.shape - 1.0, belief.rate).predictive(),
    scale_for_rate=lambda belief: GammaExponential(belief.shape, 1.0 / belief.rate).predictive(),
)
def test_lomax_by_scipy(implementation):
    """The sampler within 1.95 / sqrt(n) of the law, the 0.1 percent point of Kolmogorov's statistic."""
    n = 100_000
    prior = GammaExponential(1.6, 1.1)
    oracle = scipy.stats.lomax(2.6, scale=2.0)
    with jax.enable_x64(True):
        law = implementation(prior.update(0.9))
        t = np.array([0.0, 0.4, 3.0, 50.0])
        np.testing.assert_allclose(law.cdf(t), oracle.cdf(t), 1e-12)
        np.testing.assert_allclose(law.mean(), (1.1 + 0.9) / 1.6, 1e-14)
        np.testing.assert_allclose(law.variance(), oracle.var(), 1e-12)
        samples = np.asarray(jax.vmap(law.sample)(jax.random.split(jax.random.key(5), n)))
        assert scipy.stats.kstest(samples, oracle.cdf).statistic < 1.95 / np.sqrt(n)
    # After one time the mean always exists, the variance only if the posterior's shape is above two.
    after = implementation(GammaExponential(0.3, 1.1).update(0.9))
    assert np.isfinite(after.mean())
    assert after.variance() == np.inf


@pytest.mark.row("S143b", "E3.10")
@against(
    lambda belief: belief.predictive(),
    exponent_for_shape=lambda b: GammaKnownShape(b.outcome_shape, b.shape - 1.0, b.rate).predictive(),
    scale_for_rate=lambda b: GammaKnownShape(b.outcome_shape, b.shape, 1.0 / b.rate).predictive(),
)
def test_compound_gamma(implementation):
    shape, rate = 3.0, 1.9
    with jax.enable_x64(True):
        belief = GammaKnownShape(1.7, 1.3, 0.8).update(1.1)
        law = implementation(belief)
        for r in (0.05, 0.7, 4.0, 60.0):
            number, _ = scipy.integrate.quad(
                lambda y, r=r: np.exp(
                    scipy.stats.gamma(1.7, scale=np.exp(-y)).logpdf(r)
                    + scipy.stats.gamma(shape, scale=1 / rate).logpdf(np.exp(y))
                    + y
                ),
                -30,
                5,
                epsabs=1e-15,
                epsrel=1e-12,
                limit=300,
            )
            np.testing.assert_allclose(np.exp(law.log_prob(r)), number, 1e-10)
            np.testing.assert_allclose(number, scipy.stats.betaprime(1.7, shape).pdf(r / rate) / rate, 1e-10)
        np.testing.assert_allclose(law.mean(), 1.7 * rate / (shape - 1.0), 1e-13)


@pytest.mark.row("E3.9")
@against(
    lambda alpha, shape: shape + alpha,
    exponent=lambda alpha, shape: shape + alpha - 1.0,
    two_shapes=lambda alpha, shape: shape,
)
def test_the_posterior_density_integrates_to_one_with_the_whole_shape(implementation):
    """The normalizer belongs to the shape alpha + epsilon; the exponent of beta is one less. With the exponent in its
    place the integral is one over it."""
    alpha, epsilon, rate = 2.0, 1.3, 1.9
    exponent = alpha + epsilon - 1.0
    shape = implementation(alpha, epsilon)
    mass, _ = scipy.integrate.quad(
        lambda b: rate**shape / scipy.special.gamma(shape) * b**exponent * np.exp(-rate * b), 0, 60, epsabs=1e-13
    )
    np.testing.assert_allclose(mass, 1.0, 1e-10)
    with jax.enable_x64(True):
        assert float(GammaKnownShape(alpha, epsilon, rate - 1.1).update(1.1).shape) == alpha + epsilon


@pytest.mark.row("E3.11")
@against(
    lambda shape: np.exp(scipy.special.gammaln(shape + 1)),
    factorial_of_shape_less_one=lambda shape: scipy.special.gamma(shape),
    whole_numbers=lambda shape: float(scipy.special.factorial(np.floor(shape))),
)
def test_the_gamma_integral_at_any_shape(implementation):
    """`int l^d exp(-c l) = Gamma(d + 1) / c^(d + 1)` for every real d, as the normalizer of the belief has it."""
    for shape, c in ((2.6, 1.3), (3.4, 2.0), (0.7, 0.4)):
        number, _ = scipy.integrate.quad(lambda y, d=shape, c=c: np.exp((d + 1) * y - c * np.exp(y)), -60, 8, limit=300)
        np.testing.assert_allclose(implementation(shape) / c ** (shape + 1), number, 1e-9)
        with jax.enable_x64(True):
            log_mean = float(GammaExponential(shape, c).log_evidence(np.zeros(1)))  # E rate = shape / c
        np.testing.assert_allclose(np.exp(log_mean), shape / c, 1e-12)


@pytest.mark.row("E3.12")
@against(
    lambda d, c: (lambda boundary, rest: boundary + rest, 1.0),
    sign=lambda d, c: (lambda boundary, rest: boundary - rest, 1.0),
    vanishing_boundary=lambda d, c: (lambda boundary, rest: boundary + rest, 0.0),
)
def test_integration_by_parts(implementation):
    """With `u = l^d` and `v = exp(-c l)`: `int u v = [-u v / c] + (d / c) int l^(d-1) v`, and the last integral is
    `1 / c` because its boundary term is one, not zero."""
    for d, c in ((1, 2.0), (3, 2.0), (4, 0.7)):
        combine, last_boundary = implementation(d, c)
        value = last_boundary / c
        for k in range(1, d + 1):
            value = combine(0.0, k / c * value)
        number, _ = scipy.integrate.quad(lambda x, d=d, c=c: x**d * np.exp(-c * x), 0, np.inf)
        np.testing.assert_allclose(value, number, 1e-8)


def information_of_coins(a, b):
    """Mutual information of the next outcome and the probability, by quadrature over the probability."""

    def integrand(s):
        x = 1 / (1 + np.exp(-s))
        entropy = -(scipy.special.xlogy(x, x) + scipy.special.xlogy(1 - x, 1 - x))
        return scipy.stats.beta(a, b).pdf(x) * entropy * x * (1 - x)

    mean = a / (a + b)
    known, _ = scipy.integrate.quad(integrand, -36, 36, epsabs=1e-13, limit=300)
    return -(mean * np.log(mean) + (1 - mean) * np.log(1 - mean)) - known


@pytest.mark.row("S85")
@against(
    lambda belief: belief.mutual_information(),
    outcome_entropy=lambda belief: belief.predictive().entropy(),
    likely_outcome=lambda belief: belief.realized_information(1),
    bits=lambda belief: belief.mutual_information() / np.log(2.0),
)
def test_information_of_a_coin(implementation):
    """By quadrature, as expected KL and as expected entropy drop, and the values in closed form."""
    published = {(1.0, 1.0): np.log(2) - 0.5, (2.0, 5.0): 0.0649362553, (0.5, 0.5): 0.3068528194}
    with jax.enable_x64(True):
        for (a, b), number in published.items():
            belief = BetaBernoulli(a, b)
            ours = float(implementation(belief))
            p = a / (a + b)
            by_kl = p * belief.realized_information(1) + (1 - p) * belief.realized_information(0)
            by_entropy = p * belief.realized_entropy_drop(1) + (1 - p) * belief.realized_entropy_drop(0)
            np.testing.assert_allclose(ours, number, 2e-9)
            np.testing.assert_allclose([by_kl, by_entropy], ours, 2e-13)
            np.testing.assert_allclose(ours, information_of_coins(a, b), 1e-9)


@pytest.mark.row("E1.21")
@against(
    lambda belief, x: (belief.realized_information(x), belief.realized_entropy_drop(x)),
    taken_for_the_same=lambda belief, x: (belief.realized_information(x),) * 2,
    drop_for_kl=lambda belief, x: (belief.realized_entropy_drop(x),) * 2,
)
def test_equal_in_expectation_only(implementation):
    """A surprise against Beta(9, 1): it teaches 0.374 nats and leaves the belief 0.426 nats less sure."""
    with jax.enable_x64(True):
        kl, drop = implementation(BetaBernoulli(9.0, 1.0), 0)
        np.testing.assert_allclose([kl, drop], [0.374, -0.426], atol=5e-4)
        kl_1, drop_1 = implementation(BetaBernoulli(9.0, 1.0), 1)
        np.testing.assert_allclose(0.9 * kl_1 + 0.1 * kl, 0.9 * drop_1 + 0.1 * drop, 1e-12)


@pytest.mark.row("E1.22")
@against(
    lambda arms, action: arms[action].mutual_information(),
    not_conditioned=lambda arms, action: sum(arm.mutual_information() for arm in arms) / len(arms),
    of_another_action=lambda arms, action: arms[1 - action].mutual_information(),
)
def test_information_depends_on_the_action(implementation):
    """Two arms with independent beliefs: what is learned is about the arm that is pulled. The joint unknown is
    enumerated on a grid of both probabilities."""
    grid = (np.arange(400) + 0.5) / 400
    pairs = ((2.0, 2.0), (30.0, 10.0))
    laws = [scipy.stats.beta(a, b).pdf(grid) / scipy.stats.beta(a, b).pdf(grid).sum() for a, b in pairs]
    joint = laws[0][:, None] * laws[1][None, :]
    with jax.enable_x64(True):
        arms = [BetaBernoulli(a, b) for a, b in pairs]
        for action in (0, 1):
            success = np.broadcast_to(grid[:, None] if action == 0 else grid[None, :], joint.shape)
            information = 0.0
            for likelihood in (success, 1 - success):
                posterior = joint * likelihood
                information += np.sum(posterior * np.log(likelihood / posterior.sum()))
            np.testing.assert_allclose(implementation(arms, action), information, 1e-4)


@pytest.mark.parametrize("name", ["exponential", "gamma", "normal", "normal_unknown", "dirichlet", "linear"])
@against(
    lambda belief: belief.mutual_information(),
    double=lambda belief: 2.0 * belief.mutual_information(),
    outcome_entropy=lambda belief: belief.predictive().entropy(),
)
def test_mutual_information_is_the_expected_kl_and_entropy_drop(implementation, name):
    belief = ALL[name][0]
    with jax.enable_x64(True):
        if name == "linear":
            belief = belief.at(np.array([0.4, -1.1]))
        ours = float(implementation(belief))
        if name == "dirichlet":
            p = np.asarray(belief.predictive().probabilities())
            outcomes, weights = np.arange(3), p
        else:
            u, weights = np.polynomial.legendre.leggauss(400)
            s = 18.0 * u  # logit of the probability: tails of both kinds are exponential there
            u = 1 / (1 + np.exp(-s))
            weights = 18.0 * weights * u * (1 - u)
            predictive = belief.predictive()
            outcomes = (
                np.asarray(predictive.location + predictive.scale * scipy.stats.norm.ppf(u))
                if (name in ("normal", "linear"))
                else np.asarray(jax.jit(lambda u: predictive.quantile(u))(u))
            )
        kl = jax.jit(jax.vmap(belief.realized_information))(outcomes)
        drop = jax.jit(jax.vmap(belief.realized_entropy_drop))(outcomes)
        np.testing.assert_allclose(weights @ np.asarray(kl), ours, 2e-5 if name == "gamma" else 3e-6)
        np.testing.assert_allclose(weights @ np.asarray(drop), ours, 2e-5)


def test_information_keeps_its_digits():
    """Where a million outcomes were seen the information is half of one over that, in float32 too."""
    for enabled, tolerance in ((True, 1e-12), (False, 1e-5)):
        with jax.enable_x64(enabled):
            many = 1e6
            np.testing.assert_allclose(
                BetaBernoulli(0.5 * many, 0.5 * many).mutual_information(), 0.5 / many, 3e-6 + tolerance
            )
            np.testing.assert_allclose(GammaExponential(many, 1.0).mutual_information(), 0.5 / many, 2e-6 + tolerance)
            np.testing.assert_allclose(
                GammaKnownShape(2.0, many, 1.0).mutual_information(), 0.5 * np.log1p(2.0 / many), 2e-6 + 4 * tolerance
            )
    with jax.enable_x64(True):
        for x in (9.999999, 10.000001):
            direct = scipy.special.digamma(x + 1) - np.log(x)
            np.testing.assert_allclose(GammaExponential(x, 1.0).mutual_information(), direct, 1e-12)


def test_linear_model_against_dense_algebra(x64):
    x, y = ALL["linear"][1]
    belief = ALL["linear"][0].update_batch((x, y))
    precision = np.eye(2) / 1.3**2 + x.T @ x / 0.6**2
    mean = np.linalg.solve(precision, x.T @ y / 0.6**2)
    covariance = np.linalg.inv(precision)
    tolerance = 1e-11 if x64 else 1e-4
    np.testing.assert_allclose(belief.mean(), mean, tolerance)
    at = np.array([0.4, -1.1])
    predictive = belief.at(at).predictive()
    np.testing.assert_allclose(predictive.mean(), mean @ at, tolerance)
    np.testing.assert_allclose(predictive.variance(), at @ covariance @ at + 0.36, tolerance)
    np.testing.assert_allclose(
        belief.at(at).mutual_information(), 0.5 * np.log1p(at @ covariance @ at / 0.36), tolerance
    )
    oracle = scipy.stats.multivariate_normal(np.zeros(4), 1.3**2 * x @ x.T + 0.36 * np.eye(4))
    np.testing.assert_allclose(ALL["linear"][0].log_evidence((x, y)), oracle.logpdf(y), tolerance)
    np.testing.assert_allclose(
        belief.quantile(0.9), mean + np.sqrt(np.diag(covariance)) * 1.2815515655446004, tolerance
    )


def test_large_offsets_in_float32():
    """Means near 100 with a spread of 0.1: what sums of squares would lose in float32 stays."""
    with jax.enable_x64(False):
        data = (100.0 + 0.1 * np.random.default_rng(3).normal(size=2000)).astype(np.float32)
        belief = NormalUnknownVariance(100.0, 1.0, 1.0, 0.01).update_batch(data)
        np.testing.assert_allclose(belief.mean()[0], data.astype(float).mean(), 1e-6)
        np.testing.assert_allclose(belief.mean()[1], data.astype(float).var(), 2e-2)
        known = NormalKnownVariance(0.0, 1000.0, 0.1)
        step = jax.jit(lambda b, x: (b.update(x), None))
        last, _ = jax.lax.scan(step, jax.tree.map(jnp.asarray, known), jnp.asarray(data))
        np.testing.assert_allclose(last.mean(), data.astype(float).mean(), 1e-5)


@pytest.mark.parametrize("name", ["beta", "exponential", "gamma", "normal", "normal_unknown"])
def test_outcome_mean_quantile(name):
    """Of the mean of an observation, by samples of the parameter: within five standard errors of the frequency."""
    belief = ALL[name][0]
    keys = jax.random.split(jax.random.key(7), 40_000)
    means = np.asarray(jax.jit(jax.vmap(lambda key: belief.likelihood(belief.sample(key)).mean()))(keys))
    for p in (0.1, 0.5, 0.9):
        share = np.mean(means <= float(belief.outcome_mean_quantile(p)))
        assert abs(share - p) < 5 * np.sqrt(p * (1 - p) / 40_000)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: BetaBernoulli(1.0, 0.0), "failures of BetaBernoulli must be above 0"),
        (lambda: BetaBernoulli().update(0.5), "outcomes are 0 or 1, but 0.5 was given"),
        (lambda: BetaBernoulli().update_batch([0, 2]), "outcomes are 0 or 1, but 2 was given"),
        (lambda: BetaBernoulli().update_batch(1), "observations along the leading axis"),
        (lambda: BetaBernoulli().update(1, -1.0), "weight must be at least 0 and finite, but -1.0"),
        (lambda: BetaBernoulli().update_batch([1, 0], np.ones(1)), r"shape \(2,\), but \(1,\)"),
        (lambda: DirichletCategorical([1.0, 1.0]).update(2), "indices 0 to 1, but 2 was given"),
        (lambda: DirichletCategorical([1.0, 1.0]).update(0.5), "whole numbers, but 0.5 was given"),
        (lambda: GammaExponential(1.0, 1.0).update(-0.1), "times are numbers at or above 0, but -0.1"),
        (lambda: GammaExponential(1.0, 1.0).update(np.nan), "times are numbers at or above 0, but nan"),
        (lambda: GammaKnownShape(1.0, 1.0, 1.0).update(0.0), "gamma numbers lie above 0, but 0.0"),
        (lambda: GammaKnownShape(0.0, 1.0, 1.0), "outcome_shape of GammaKnownShape must be above 0"),
        (lambda: NormalKnownVariance(0.0, 1.0, 1.0).update(np.inf), "finite numbers, but inf was given"),
        (lambda: NormalUnknownVariance(0.0, 1.0, -1.0, 1.0), "must be above 0"),
        (lambda: BayesianLinear(np.zeros(2), -np.eye(2), 1.0), "precision must be positive definite"),
        (lambda: BayesianLinear.isotropic(2).update((np.zeros(3), 0.0)), r"shape \(2,\), but \(3,\)"),
        (lambda: BayesianLinear.isotropic(2).update_batch((np.zeros((3, 2)), np.zeros(2))), r"pairs inputs \[n, d\]"),
    ],
)
def test_refusals(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_kl_of_another_family():
    with pytest.raises(TypeError, match="has no rule"):
        BetaBernoulli().kl(GammaExponential(1.0, 1.0))
