"""The bounds against the evidence, at a general q by quadrature over noise, by samples, and at the door."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize

from clauses import against
from gaussian_toy import X, log_evidence, noise, posterior, standard_prior, toy_log_likelihood, values_and_gradients
from instances import close
from optimality import evidence_bound, exact_importance_weighted_bound, importance_weighted_bound
from optimality.distributions.multivariate_normal import MultivariateNormal
from optimality.distributions.normal import Normal
from optimality.latent.variational_bound import (
    analytic_rate,
    evidence_bound_of_draws,
    few_effective_samples,
    importance_weighted_bound_of_draws,
)

LOADING = np.array([[1.2, -0.4], [0.3, 0.9], [-0.7, 0.5]])
NOISE, OBSERVED = np.array([0.3, 0.5, 0.4]), np.array([0.9, -0.6, 0.4])
COVARIANCE = LOADING @ LOADING.T + np.diag(NOISE)
LOG_EVIDENCE = -0.5 * (OBSERVED @ np.linalg.solve(COVARIANCE, OBSERVED) + np.linalg.slogdet(2 * np.pi * COVARIANCE)[1])
POSTERIOR = (
    LOADING.T @ np.linalg.solve(COVARIANCE, OBSERVED),
    np.eye(2) - LOADING.T @ np.linalg.solve(COVARIANCE, LOADING),
)


def log_likelihood(z):
    residual = jnp.asarray(OBSERVED) - jnp.asarray(LOADING) @ z
    return -0.5 * jnp.sum(residual**2 / NOISE) - 0.5 * np.sum(np.log(2 * np.pi * NOISE))


def divergence(mean, covariance, other_mean, other_covariance):
    """KL of two normal laws, from its definition."""
    precision, gap = np.linalg.inv(other_covariance), other_mean - mean
    logs = np.linalg.slogdet(other_covariance)[1] - np.linalg.slogdet(covariance)[1]
    return 0.5 * (np.trace(precision @ covariance) + gap @ precision @ gap - len(mean) + logs)


def laws():
    """Mean and covariance of the prior, the posterior, and three laws drawn at random."""
    random = np.random.default_rng(3)
    yield np.zeros(2), np.eye(2)
    yield POSTERIOR
    for _ in range(3):
        factor = np.tril(random.normal(size=(2, 2))) + np.eye(2)
        yield random.normal(size=2), factor @ factor.T


def expected_bound(implementation, mean, covariance, prior=None, **options):
    """The mean of one-draw estimates over the noise: exact for an exponent of second degree."""
    sources, weights = noise(2, 101)
    factor = np.linalg.cholesky(covariance)
    with jax.enable_x64(True):
        prior = MultivariateNormal(jnp.zeros(2), jnp.eye(2)) if prior is None else prior
        q = MultivariateNormal(jnp.asarray(mean), jnp.asarray(factor))

        def one(row):
            def draw(epsilon):
                return jnp.asarray(mean) + jnp.asarray(factor) @ epsilon

            return implementation(log_likelihood, q, prior, draw, row[None], **options)

        return weights @ np.asarray(jax.jit(jax.vmap(one))(jnp.asarray(sources[..., 0])))


def exchanged_divergence(log_likelihood, q, prior, draw, sources, *, rate):
    values = jax.vmap(lambda source: log_likelihood(draw(source)))(sources)
    return jnp.mean(values) - prior.kl(q)


def rate_added(log_likelihood, q, prior, draw, sources, *, rate):
    values = jax.vmap(lambda source: log_likelihood(draw(source)))(sources)
    return jnp.mean(values) + q.kl(prior)


def no_rate(*arguments, rate):
    return evidence_bound_of_draws(*arguments, rate=rate, beta=0.0)


@pytest.mark.row("S31.identity")
@against(evidence_bound_of_draws, exchanged_divergence=exchanged_divergence, rate_added=rate_added, no_rate=no_rate)
def test_log_evidence_is_bound_plus_divergence(implementation):
    for mean, covariance in laws():
        for rate in ("analytic", "sampled"):
            bound = expected_bound(implementation, mean, covariance, rate=rate)
            close(bound + divergence(mean, covariance, *POSTERIOR), LOG_EVIDENCE)


@pytest.mark.row("S31.bound")
@against(evidence_bound_of_draws, rate_added=rate_added, no_rate=no_rate)
def test_never_above_the_log_evidence(implementation):
    for mean, covariance in laws():
        assert expected_bound(implementation, mean, covariance, rate="analytic") <= LOG_EVIDENCE + 1e-12
    close(expected_bound(implementation, *POSTERIOR, rate="sampled"), LOG_EVIDENCE)


def test_no_noise_at_the_exact_posterior():
    """All weights are the evidence; the path without the score has gradient zero at every draw."""
    with jax.enable_x64(True):
        prior, mean = Normal(jnp.zeros(2), jnp.ones(2)), jnp.asarray(POSTERIOR[0])
        factor = jnp.asarray(np.linalg.cholesky(POSTERIOR[1]))

        def one(mean, factor):
            q = MultivariateNormal(mean, factor)
            return evidence_bound(
                log_likelihood, q, prior, jax.random.key(4), samples=3, rate="sampled", estimator="sticking_the_landing"
            )

        def many(mean, factor):
            q = MultivariateNormal(mean, factor)
            found = importance_weighted_bound(
                log_likelihood, q, prior, jax.random.key(4), samples=5, chunk=2, estimator="doubly_reparameterized"
            )
            return found.value, found

        value, gradient = jax.jit(jax.value_and_grad(one, argnums=(0, 1)))(mean, factor)
        close(value, LOG_EVIDENCE, 1e-11)
        close(np.concatenate([gradient[0], gradient[1].ravel()]), np.zeros(6), 1e-11)
        (value, found), gradient = jax.jit(jax.value_and_grad(many, argnums=(0, 1), has_aux=True))(mean, factor)
        close([value, found.effective_sample_size, found.largest_weight], [LOG_EVIDENCE, 5.0, 0.2], 1e-11)
        close(np.concatenate([gradient[0], gradient[1].ravel()]), np.zeros(6), 1e-11)


def test_families_mix_and_beta_weighs():
    """A prior entry by entry beside a joint posterior; the bound is linear in beta."""
    mean, covariance = list(laws())[3]
    rate = divergence(mean, covariance, np.zeros(2), np.eye(2))
    with jax.enable_x64(True):
        prior = Normal(jnp.zeros(2), jnp.ones(2))
        q = MultivariateNormal.from_covariance(mean, covariance)
        close(analytic_rate(q, prior), rate)
        close(analytic_rate(prior, prior), 0.0)
    plain = expected_bound(evidence_bound_of_draws, mean, covariance, prior)
    for form in ("analytic", "sampled"):
        found = expected_bound(evidence_bound_of_draws, mean, covariance, prior, rate=form, beta=2.5)
        close(found, plain - 1.5 * rate)


def toy_bound(implementation, location, scale, theta):
    """Mean over noise of the estimate, and its gradient in location, scale and theta."""
    sources, weights = noise(1)

    def estimate(q, draw, row, theta):
        return implementation(toy_log_likelihood(theta), q, standard_prior(), draw, row)

    with jax.enable_x64(True):
        values, gradients = values_and_gradients(estimate, (location, scale, theta), sources)
    return weights @ values, weights @ gradients


def without_entropy(log_likelihood, q, prior, draw, sources):
    log_joint = lambda z: log_likelihood(z) + jnp.sum(prior.log_prob(z))  # noqa: E731
    return evidence_bound_of_draws(log_joint, q, prior, draw, sources, beta=0.0)


def evidence_itself(log_likelihood, q, prior, draw, sources):
    """No bound at all: a value that q does not change."""
    return evidence_bound_of_draws(log_likelihood, prior, prior, lambda source: source, sources)


def model_step(location, scale):
    """The theta that is best for q: the bound is a parabola in theta."""
    return X * location / (location**2 + scale**2)


@pytest.mark.row("S38.both_parts")
@against(evidence_bound_of_draws, without_entropy=without_entropy, evidence_itself=evidence_itself)
def test_a_better_model_alone_may_widen_the_gap(implementation):
    """First from the exact posterior, where the gap is zero; then from a bad q, where the evidence falls."""
    q = posterior(0.3)
    theta = model_step(*q)
    before, after = toy_bound(implementation, *q, 0.3)[0], toy_bound(implementation, *q, theta)[0]
    close(toy_bound(implementation, *q, theta)[1][2], 0.0)
    close([theta, before, after], [0.44492, -1.737257, -1.726279], 3e-6)
    close([log_evidence(0.3) - before, log_evidence(theta) - after], [0.0, 0.011663], 1e-6)

    bad = (0.2, 0.3)
    theta = model_step(*bad)
    close(theta, 2.0)
    before, after = toy_bound(implementation, *bad, 0.8)[0], toy_bound(implementation, *bad, theta)[0]
    close([before, after], [-2.3665, -2.2729], 3e-5)
    close([log_evidence(0.8), log_evidence(theta)], [-1.6815, -1.8927], 3e-5)


def both_parts(location, scale, theta):
    return toy_bound(evidence_bound_of_draws, location, scale, theta)


def model_alone(location, scale, theta):
    value, gradient = both_parts(location, scale, theta)
    return value, gradient * np.array([0.0, 0.0, 1.0])


@pytest.mark.row("S38.both_parts")
@against(both_parts, model_alone=model_alone)
def test_both_parts_reach_maximum_likelihood(implementation):
    """Ascent of q and theta together, from the posterior at .3: sqrt(x^2 - 1)."""

    def descend(parameters):
        value, gradient = implementation(parameters[0], np.exp(parameters[1]), parameters[2])
        return -value, -gradient * np.array([1.0, np.exp(parameters[1]), 1.0])

    location, scale = posterior(0.3)
    start = np.array([location, np.log(scale), 0.3])
    found = scipy.optimize.minimize(descend, start, jac=True, method="BFGS", options={"gtol": 1e-9})
    close(found.x[2], np.sqrt(X**2 - 1), 1e-6)
    close(-found.fun, log_evidence(np.sqrt(X**2 - 1)), 1e-10)


def log_weights_of(log_likelihood, q, prior, draw, sources):
    def one(source):
        z = draw(source)
        return log_likelihood(z) + jnp.sum(prior.log_prob(z)) - jnp.sum(q.log_prob(z))

    return jax.vmap(one)(sources)


def by_keys(reduce):
    def implementation(log_likelihood, q, prior, key, *, samples, chunk=None):
        keys = jax.random.split(key, samples)
        return reduce(log_weights_of(log_likelihood, q, prior, q.sample, keys))

    return implementation


def tanh_log_likelihood(z):
    return jnp.sum(-0.5 * ((0.6 - jnp.tanh(2.0 * z) - 0.4 * z) / 0.3) ** 2) - np.log(0.3) - 0.5 * np.log(2 * np.pi)


def tanh_log_joint(z):
    return tanh_log_likelihood(z) - jnp.sum(0.5 * z * z) - 0.5 * np.log(2 * np.pi)


@against(
    lambda *arguments, **options: importance_weighted_bound(*arguments, **options).value,
    mean_of_logs=by_keys(jnp.mean),
    best_of_all=by_keys(jnp.max),
    sum_of_weights=by_keys(jax.nn.logsumexp),
)
def test_importance_weighted_bound_by_samples(implementation):
    """Ten thousand estimates within four standard errors of the exact bound, about .0015 each."""
    q = Normal(jnp.full(1, 0.32192), jnp.full(1, 0.17349))
    for samples in (5, 10):
        keys = jax.random.split(jax.random.key(7), 10_000)

        def one(key, samples=samples):
            return implementation(tanh_log_likelihood, q, standard_prior(), key, samples=samples)

        found = np.asarray(jax.jit(jax.vmap(one))(keys), np.float64)
        exact = exact_importance_weighted_bound(tanh_log_joint, q, samples)
        assert abs(found.mean() - exact) < 4 * found.std() / np.sqrt(found.size)


def unit_weights(implementation, log_weights):
    """The weights themselves as draws: q is the prior, and the log-likelihood is z."""
    sources = jnp.asarray(log_weights)[:, None]
    return implementation(jnp.sum, standard_prior(), standard_prior(), lambda z: z, sources)


def weights_outside_logs(*arguments):
    log_w = log_weights_of(*arguments)
    return float(jnp.log(jnp.mean(jnp.exp(log_w))))


@against(lambda *arguments: importance_weighted_bound_of_draws(*arguments).value, outside_logs=weights_outside_logs)
def test_small_weights(implementation):
    with jax.enable_x64(True):
        found = unit_weights(implementation, [-800.0, -801.0, -805.0])
        close(found, -800.0 + np.log((1 + np.exp(-1) + np.exp(-5)) / 3))
        close(found, -800.78043686, 1e-11)


@against(
    lambda *arguments: importance_weighted_bound_of_draws(*arguments).effective_sample_size,
    of_squares=lambda *arguments: 1.0 / jnp.sum(jnp.exp(2 * log_weights_of(*arguments))),
    count=lambda *arguments: 3.0,
)
def test_effective_sample_size(implementation):
    with jax.enable_x64(True):
        w = np.exp([0.0, -1.0, -5.0])
        close(unit_weights(implementation, [-800.0, -801.0, -805.0]), w.sum() ** 2 / (w**2).sum(), 1e-10)
        found = unit_weights(importance_weighted_bound_of_draws, [-800.0, -801.0, -805.0])
        close(found.largest_weight, w[0] / w.sum())


@pytest.mark.parametrize("estimator", ["reparameterized", "score", "doubly_reparameterized"])
def test_chunks_change_nothing(estimator, x64):
    """Neither values nor gradients, also of chunks that do not divide K, under jit and vmap."""

    def bound(parameters, key, chunk):
        q = Normal(parameters[:2], jnp.exp(parameters[2:4]))
        decode = lambda z: jnp.sum(-0.5 * (0.7 - jnp.tanh(parameters[4:] * z)) ** 2)  # noqa: E731
        prior = Normal(jnp.zeros(2), jnp.ones(2))
        found = importance_weighted_bound(decode, q, prior, key, samples=23, chunk=chunk, estimator=estimator)
        return found.value, found

    parameters = jnp.asarray([0.3, -0.2, -0.5, 0.1, 0.8, 1.2], jnp.float64 if x64 else jnp.float32)
    keys = jax.random.split(jax.random.key(1), 3)
    results = []
    for chunk in (None, 5):
        grad = jax.value_and_grad(lambda p, key, chunk=chunk: bound(p, key, chunk), has_aux=True)
        results.append(jax.jit(jax.vmap(grad, in_axes=(None, 0)))(parameters, keys))
    for ours, other in zip(*map(jax.tree.leaves, results), strict=True):
        assert ours.dtype == parameters.dtype
        close(ours, other, 1e-12 if x64 else 1e-5)


def test_chunks_bound_the_memory():
    """Backwards through a wide decoder: the temporary memory of a chunk, not of all draws."""
    weights = jnp.ones((1, 512)) / 512

    def bound(location, chunk):
        q = Normal(location, jnp.ones(1))
        decode = lambda z: jnp.sum(jnp.tanh(z @ weights) ** 2)  # noqa: E731
        found = importance_weighted_bound(decode, q, standard_prior(), jax.random.key(0), samples=4096, chunk=chunk)
        return found.value

    def temporary(chunk):
        compiled = jax.jit(jax.grad(lambda location: bound(location, chunk))).lower(jnp.zeros(1)).compile()
        return compiled.memory_analysis().temp_size_in_bytes

    assert temporary(64) < 0.1 * temporary(None)


def test_a_heavy_weight_leaves_the_others_a_baseline():
    """In float32, beside a weight of e^60: a difference of sums would be log 0."""

    def bound(location, log_weights):
        q = Normal(location, jnp.ones(1))
        sources = jnp.arange(3.0)[:, None]
        weigh = lambda z: jnp.interp(z[0], jnp.arange(3.0), log_weights) + jnp.sum(q.log_prob(z))  # noqa: E731
        wide = Normal(jnp.zeros(1), jnp.ones(1))
        return importance_weighted_bound_of_draws(
            weigh, q, wide, lambda z: z, sources, estimator="score"
        ).value  # fmt: skip

    gradient = jax.grad(bound)(jnp.zeros(1), jnp.asarray([60.0, 0.0, -1.0]))
    assert np.all(np.isfinite(gradient))


def test_numpy_parameters(x64):
    """Numbers and lists as parameters take the precision of the computation."""
    key = jax.random.key(0)
    q, prior = Normal([0.3], [0.6]), Normal([0.0], [1.0])
    for estimator in ("reparameterized", "score", "sticking_the_landing"):
        value = evidence_bound(jnp.sum, q, prior, key, samples=3, rate="sampled", estimator=estimator)
        assert value.dtype == (jnp.float64 if x64 else jnp.float32)
    for estimator in ("reparameterized", "score", "doubly_reparameterized"):
        found = importance_weighted_bound(jnp.sum, q, prior, key, samples=3, chunk=2, estimator=estimator)
        assert found.value.dtype == (jnp.float64 if x64 else jnp.float32)


def test_impossible_and_undefined_draws():
    """Zero weights count as zero; all zero is -inf; NaN is not hidden."""
    found = unit_weights(importance_weighted_bound_of_draws, [0.0, 0.0, 1.0])
    assert np.isfinite(found.value)

    def of(values):
        weigh = lambda z: jnp.asarray(values)[z[0].astype(int)]  # noqa: E731
        sources = jnp.arange(3.0)[:, None]
        return importance_weighted_bound_of_draws(weigh, standard_prior(), standard_prior(), lambda z: z, sources)

    close(of([-np.inf, 0.0, 0.0]).value, np.log(2 / 3), 1e-6)
    close(of([-np.inf, 0.0, 0.0]).effective_sample_size, 2.0, 1e-6)
    assert np.isneginf(of([-np.inf] * 3).value)
    assert np.isnan(of([np.nan, 0.0, 0.0]).value)


def test_few_effective_samples():
    assert few_effective_samples(np.array([30.0, 50.0, 2.0]), 100) is None
    sentence = few_effective_samples(np.array([3.04, 2.0, 40.0]), 100)
    assert "bound of 100 draws rests on 3.0 effective draws, fewer than 10" in sentence


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"samples": 0}, "samples must be a whole number, at least 1, but 0"),
        ({"estimator": "sticking_the_landing"}, "pass rate='sampled'"),
        ({"beta": -1.0}, "beta must be finite and not negative"),
        ({"beta": np.nan}, "beta must be finite and not negative"),
    ],
)
def test_errors_of_the_evidence_bound(options, match):
    with pytest.raises(ValueError, match=match):
        evidence_bound(jnp.sum, standard_prior(), standard_prior(), jax.random.key(0), **options)


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"samples": 0}, "samples must be a whole number, at least 1, but 0"),
        ({"samples": 4, "chunk": 0}, "chunk must be a whole number"),
    ],
)
def test_errors_of_the_importance_weighted_bound(options, match):
    with pytest.raises(ValueError, match=match):
        importance_weighted_bound(jnp.sum, standard_prior(), standard_prior(), jax.random.key(0), **options)
