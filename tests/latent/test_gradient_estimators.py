"""Means and variances of the estimators' gradients, exact by quadrature over the noise that they are given."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from clauses import against
from gaussian_toy import (
    EXACT_BOUND,
    GRADIENT,
    LOCATION,
    SCALE,
    THETA,
    X,
    noise,
    posterior,
    standard_prior,
    toy_log_joint,
    toy_log_likelihood,
    values_and_gradients,
)
from instances import close
from optimality import evidence_bound
from optimality.core.likelihood_ratio import surrogate
from optimality.distributions.normal import Normal
from optimality.latent.variational_bound import evidence_bound_of_draws, importance_weighted_bound_of_draws

AT = (LOCATION, SCALE, THETA)
FORMS = [
    ("reparameterized", "analytic"),
    ("reparameterized", "sampled"),
    ("score", "analytic"),
    ("score", "sampled"),
    ("sticking_the_landing", "sampled"),
]


def of_toy(implementation, **options):
    def estimate(q, draw, sources, theta):
        return implementation(toy_log_likelihood(theta), q, standard_prior(), draw, sources, **options)

    return estimate


def moments(estimate, at=AT, draws=1, nodes=401):
    """Mean and variance of the value and of the gradient."""
    sources, weights = noise(draws, nodes)
    with jax.enable_x64(True):
        values, gradients = values_and_gradients(estimate, at, sources)
    mean, slope = weights @ values, weights @ gradients
    return mean, weights @ (values - mean) ** 2, slope, weights @ (gradients - slope) ** 2


def sum_of_draws(*arguments, **options):
    return arguments[4].shape[0] * evidence_bound_of_draws(*arguments, **options)


def entropy_twice(*arguments, **options):
    return evidence_bound_of_draws(*arguments, **options) + jnp.sum(arguments[1].entropy())


def no_rate(*arguments, **options):
    return evidence_bound_of_draws(*arguments, **(options | {"beta": 0.0}))


def own_baseline(log_likelihood, q, prior, draw, sources, *, rate, estimator):
    if estimator != "score":
        return evidence_bound_of_draws(log_likelihood, q, prior, draw, sources, rate=rate, estimator=estimator)
    z = jax.lax.stop_gradient(jax.vmap(draw)(sources))
    values = jax.vmap(log_likelihood)(z)
    log_q = jax.vmap(lambda each: jnp.sum(q.log_prob(each)))(z)
    return jnp.mean(surrogate(log_q, values, jnp.mean(values))) - jnp.sum(q.kl(prior))


def held_model(log_likelihood, q, prior, draw, sources, *, rate, estimator):
    """The score form with all that a draw earns held, the model's parameters with it."""
    ours = log_likelihood
    held = lambda z: jax.lax.stop_gradient(ours(z))  # noqa: E731
    log_likelihood = held if estimator == "score" else log_likelihood
    return evidence_bound_of_draws(log_likelihood, q, prior, draw, sources, rate=rate, estimator=estimator)


@pytest.mark.row("S36", "S37.unbiased")
@against(
    evidence_bound_of_draws,
    sum_of_draws=sum_of_draws,
    entropy_twice=entropy_twice,
    no_rate=no_rate,
    own_baseline=own_baseline,
    held_model=held_model,
)
def test_every_estimator_is_unbiased(implementation):
    for estimator, rate in FORMS:
        mean, _, gradient, _ = moments(of_toy(implementation, estimator=estimator, rate=rate), draws=2, nodes=101)
        close(mean, EXACT_BOUND, 1e-9)
        close(gradient, GRADIENT, 1e-10)


def of_log_joint(implementation, estimator):
    """`E_q log p(x, z)` alone: without a rate the bound is the expectation of any reward."""

    def estimate(q, draw, sources, theta):
        log_joint = toy_log_joint(theta)
        return implementation(log_joint, q, standard_prior(), draw, sources, beta=0.0, estimator=estimator)

    return estimate


def by_formula(location, scale):
    """Variances of both estimators of d E log p(x, z) / d (location, scale), from their definitions."""
    epsilon, weights = (array.ravel() for array in noise(1))
    z = location + scale * epsilon
    reward = -0.5 * z**2 - 0.5 * (X - THETA * z) ** 2 - np.log(2 * np.pi)
    slope = -z + THETA * (X - THETA * z)
    score = np.stack([epsilon, epsilon**2 - 1]) / scale * reward
    path = np.stack([slope, slope * epsilon])
    return [((each - each @ weights[:, None]) ** 2) @ weights for each in (score, path)]


def draws_not_held(log_likelihood, q, prior, draw, sources, *, beta, estimator):
    log_q = jax.vmap(lambda source: jnp.sum(q.log_prob(draw(source))))(sources)
    values = jax.vmap(lambda source: log_likelihood(draw(source)))(sources)
    return jnp.mean(surrogate(log_q, values) if estimator == "score" else values)


def names_exchanged(*arguments, beta, estimator):
    other = {"score": "reparameterized", "reparameterized": "score"}[estimator]
    return evidence_bound_of_draws(*arguments, beta=beta, estimator=other)


@pytest.mark.row("S37.variance")
@against(evidence_bound_of_draws, draws_not_held=draws_not_held, names_exchanged=names_exchanged)
def test_variance_of_score_and_path(implementation):
    for scale, ratio in ((SCALE, (33.94, 42.12)), (0.1, None), (0.01, None)):
        score, path = (
            moments(of_log_joint(implementation, estimator), (LOCATION, scale, THETA))[3][:2]
            for estimator in ("score", "reparameterized")
        )
        score_by_formula, path_by_formula = by_formula(LOCATION, scale)
        close(score, score_by_formula, 1e-9)
        close(path, path_by_formula, 1e-10)
        if scale == SCALE:
            close(score, [32.861, 94.211], 2e-5)
            close(path, [0.968256, 2.236816], 1e-10)
            close(score / path, ratio, 1e-3)
        assert np.all(score > 30 * path)
    assert score[0] / path[0] > 1e8  # at scale .01


@pytest.mark.row("S37.variance")
@against(evidence_bound_of_draws, draws_not_held=draws_not_held, names_exchanged=names_exchanged)
def test_the_order_reverses_for_a_wiggly_reward(implementation):
    """r = cos(10 z) under N(.3, 1)."""
    found = []
    for estimator in ("score", "reparameterized"):

        def estimate(q, draw, sources, theta, estimator=estimator):
            reward = lambda z: jnp.cos(10.0 * jnp.sum(z))  # noqa: E731
            return implementation(reward, q, standard_prior(), draw, sources, beta=0.0, estimator=estimator)

        found.append(moments(estimate, (0.3, 1.0, THETA))[3][0])
    close(found, [0.5, 50.0], 1e-8)


@pytest.mark.row("S37.variance")
def test_variance_falls_with_the_number_of_draws():
    one, two = (
        moments(of_log_joint(evidence_bound_of_draws, "reparameterized"), draws=m, nodes=101)[3] for m in (1, 2)
    )
    close(two, one / 2, 1e-12)


def score_of_q_kept(*arguments, **options):
    return evidence_bound_of_draws(*arguments, **(options | {"estimator": "reparameterized"}))


@against(evidence_bound_of_draws, score_of_q_kept=score_of_q_kept)
def test_sticking_the_landing(implementation):
    estimate = of_toy(implementation, rate="sampled", estimator="sticking_the_landing")
    close(moments(estimate)[3][:2], [0.466, 1.232], 1e-3)
    close(moments(estimate, (*posterior(THETA), THETA))[3][:2], [0.0, 0.0], 1e-12)


def test_the_others_are_a_good_baseline():
    """With two draws the variance is that of (r1 - r2) (s1 - s2) / 2, near that of the best constant, 2.053 / 2."""
    estimate = of_log_joint(evidence_bound_of_draws, "score")
    variance = moments(estimate, draws=2, nodes=101)[3][:2]
    epsilon, weights = noise(2, 101)
    z = LOCATION + SCALE * epsilon[..., 0]
    reward = -0.5 * z**2 - 0.5 * (X - THETA * z) ** 2
    scores = np.stack([epsilon[..., 0], epsilon[..., 0] ** 2 - 1]) / SCALE
    terms = 0.5 * (reward[:, 0] - reward[:, 1]) * (scores[..., 0] - scores[..., 1])
    close(variance, ((terms - (terms @ weights)[:, None]) ** 2) @ weights, 1e-10)
    assert variance[0] < 0.15 * 32.861 / 2


@pytest.mark.row("S39.unbiased")
@against(evidence_bound_of_draws, entropy_twice=entropy_twice, no_rate=no_rate)
def test_objectives_of_one_draw(implementation):
    """Both are unbiased for the bound; which varies less depends on q."""
    analytic, sampled = (of_toy(implementation, rate=rate) for rate in ("analytic", "sampled"))
    at_posterior, at_prior = (*posterior(THETA), THETA), (0.0, 1.0, THETA)
    for estimate in (analytic, sampled):
        close(moments(estimate)[0], EXACT_BOUND, 1e-9)
    close([moments(analytic)[1], moments(sampled)[1]], [0.2854, 0.1920], 3e-4)
    close([moments(analytic, at_posterior)[1], moments(sampled, at_posterior)[1]], [0.3214, 0.0], 2e-4)
    close(moments(analytic, at_prior)[1], 1.2864, 1e-4)
    close(moments(sampled, at_prior)[1], moments(analytic, at_prior)[1], 1e-12)


@pytest.mark.row("S38.value")
@against(
    lambda scale: Normal(jnp.zeros(1), scale[None]).entropy()[0],
    without_e=lambda scale: 0.5 * jnp.log(2 * np.pi * scale**2),
    scale_for_variance=lambda scale: 0.5 * jnp.log(2 * np.pi * np.e * scale),
)
def test_entropy(implementation):
    with jax.enable_x64(True):
        scale = jnp.asarray(SCALE)
        epsilon, weights = (array.ravel() for array in noise(1))
        by_rule = weights @ (0.5 * epsilon**2 + np.log(SCALE) + 0.5 * np.log(2 * np.pi))
        close(implementation(scale), by_rule)
        close(implementation(scale), 0.5 * np.log(2 * np.pi * np.e * SCALE**2))


def without_entropy(log_likelihood, q, prior, draw, sources, *, rate):
    """The rate as minus the expected log prior."""
    log_joint = lambda z: log_likelihood(z) + jnp.sum(prior.log_prob(z))  # noqa: E731
    return evidence_bound_of_draws(log_joint, q, prior, draw, sources, rate=rate, beta=0.0)


@pytest.mark.row("S38.gradient")
@against(evidence_bound_of_draws, entropy_twice=entropy_twice, without_entropy=without_entropy)
def test_the_entropy_adds_one_over_scale(implementation):
    of_bound = moments(of_toy(implementation, rate="analytic"))[2]
    of_joint = moments(of_log_joint(evidence_bound_of_draws, "reparameterized"))[2]
    close(of_joint[:2], [0.548, -0.984], 1e-12)
    close(of_bound - of_joint, [0.0, 1 / SCALE, 0.0], 1e-12)


def of_weights(implementation, **options):
    def estimate(q, draw, sources, theta):
        return implementation(toy_log_likelihood(theta), q, standard_prior(), draw, sources, **options).value

    return estimate


def exact_two_draw_bound(location, scale, theta):
    """L_2 from its definition, on 401^2 nodes."""
    epsilon, weights = (array.ravel() for array in noise(1))
    z = location + scale * epsilon
    log_w = -0.5 * z**2 - 0.5 * (X - theta * z) ** 2 + 0.5 * epsilon**2 + np.log(scale) - 0.5 * np.log(2 * np.pi)
    return weights @ (np.logaddexp(log_w[:, None], log_w[None]) - np.log(2)) @ weights


def five_point_gradient(function, at, step=1e-3):
    slopes = []
    for i in range(len(at)):
        ahead = [function(*(np.asarray(at) + k * step * np.eye(len(at))[i])) for k in (-2, -1, 1, 2)]
        slopes.append((ahead[0] - 8 * ahead[1] + 8 * ahead[2] - ahead[3]) / (12 * step))
    return np.array(slopes)


class Bound:
    def __init__(self, value):
        self.value = value


def log_weights_of(log_likelihood, q, prior, draw, sources, stop=lambda q: q):
    def one(source):
        z = draw(source)
        return log_likelihood(z) + jnp.sum(prior.log_prob(z)) - jnp.sum(stop(q).log_prob(z))

    return jax.vmap(one)(sources)


def weights_not_detached(*arguments, estimator):
    log_w = log_weights_of(*arguments, stop=jax.lax.stop_gradient)
    shares, value = jax.nn.softmax(log_w), jax.nn.logsumexp(log_w) - np.log(log_w.shape[0])
    terms = jnp.sum(shares**2 * log_w)
    return Bound(jax.lax.stop_gradient(value - terms) + terms)


def single_weights_on_the_path(*arguments, estimator):
    log_w = log_weights_of(*arguments, stop=jax.lax.stop_gradient)
    return Bound(jax.nn.logsumexp(log_w) - np.log(log_w.shape[0]))


def mean_of_logs(*arguments, estimator):
    return Bound(jnp.mean(log_weights_of(*arguments)))


def best_of_all(*arguments, estimator):
    return Bound(jnp.max(log_weights_of(*arguments)))


@against(
    importance_weighted_bound_of_draws,
    weights_not_detached=weights_not_detached,
    single_weights_on_the_path=single_weights_on_the_path,
    mean_of_logs=mean_of_logs,
    best_of_all=best_of_all,
)
def test_two_importance_weights(implementation):
    expected, slope = exact_two_draw_bound(*AT), five_point_gradient(exact_two_draw_bound, AT)
    for estimator in ("reparameterized", "score", "doubly_reparameterized"):
        mean, _, gradient, _ = moments(of_weights(implementation, estimator=estimator), draws=2, nodes=201)
        close(mean, expected, 1e-11)
        close(gradient, slope, 1e-9)


@pytest.mark.parametrize(
    ("ours", "single"), [("reparameterized",) * 2, ("score",) * 2, ("doubly_reparameterized", "sticking_the_landing")]
)
def test_one_importance_weight_is_the_evidence_bound(ours, single):
    many = moments(of_weights(importance_weighted_bound_of_draws, estimator=ours))
    one = moments(of_toy(evidence_bound_of_draws, rate="sampled", estimator=single))
    for found, expected in zip(many, one, strict=True):
        close(found, expected, 1e-11)


def signal_to_noise(implementation, estimator, draws, repetitions):
    """Mean over standard deviation of the derivative in q's location."""
    with jax.enable_x64(False):
        key = jax.random.key(5)

        def some(key):
            sources = jax.random.normal(key, (100, draws, 1))
            estimate = of_weights(implementation, estimator=estimator)

            def one(location, row):
                q = Normal(location[None], jnp.full(1, SCALE))
                return estimate(q, lambda epsilon: location + SCALE * epsilon, row, THETA)

            return jax.vmap(jax.grad(one), in_axes=(None, 0))(jnp.asarray(LOCATION), sources)

        found = jax.jit(lambda keys: jax.lax.map(some, keys))(jax.random.split(key, repetitions // 100))
    found = np.asarray(found, np.float64)
    return found.mean() / found.std()


@against(
    importance_weighted_bound_of_draws,
    weights_not_detached=weights_not_detached,
    single_weights_on_the_path=single_weights_on_the_path,
)
def test_signal_to_noise(implementation):
    """Figures of 400,000 repetitions, and four standard deviations of those of 4,000, measured on a hundred batches.

    The weights have heavy tails: of a thousand draws the doubly reparameterized figure is .27 from 80,000 repetitions,
    and between .2 and .44 from 4,000.
    """
    expected = {
        "reparameterized": {1: (0.558, 0.018), 10: (0.307, 0.019), 100: (0.124, 0.018)},
        "doubly_reparameterized": {1: (0.802, 0.018), 10: (0.849, 0.035), 100: (0.477, 0.060)},
    }
    for estimator, figures in expected.items():
        for draws, (figure, deviation) in figures.items():
            assert abs(signal_to_noise(implementation, estimator, draws, 4_000) - figure) < 4 * deviation


def test_second_derivatives_of_the_score_form():
    """The surrogate's mean over draws at q, at other parameters, is the bound there: to every order."""
    sources, weights = noise(1)
    with jax.enable_x64(True):
        held = jnp.asarray(LOCATION + SCALE * sources)

        def mean(parameters):
            q = Normal(parameters[:1], parameters[1:2])

            def one(row):
                return evidence_bound_of_draws(
                    toy_log_likelihood(parameters[2]), q, standard_prior(), lambda z: z, row,
                    rate="sampled", estimator="score",
                )  # fmt: skip

            return jnp.asarray(weights) @ jax.vmap(one)(held)

        def exact(parameters):
            location, scale, theta = parameters
            square = location**2 + scale**2
            expected = -0.5 * (X**2 - 2 * X * theta * location + theta**2 * square) - 0.5 * square
            return expected + jnp.log(scale) - 0.5 * np.log(2 * np.pi) + 0.5

        at = jnp.asarray(AT)
        close(mean(at), exact(at), 1e-12)
        close(jax.jit(jax.hessian(mean))(at), jax.hessian(exact)(at), 1e-10)


def test_the_public_form_agrees(x64):
    """Through keys: twenty thousand draws, within four standard errors."""
    dtype = jnp.float64 if x64 else jnp.float32

    def estimate(parameters, estimator, rate):
        q = Normal(parameters[:1], parameters[1:2])
        log_likelihood = toy_log_likelihood(parameters[2])
        return evidence_bound(
            log_likelihood, q, standard_prior(), jax.random.key(2), samples=20_000, rate=rate, estimator=estimator
        )

    at = jnp.asarray(AT, dtype)
    for estimator, rate in FORMS[2:]:
        value, gradient = jax.jit(jax.value_and_grad(lambda p, e=estimator, r=rate: estimate(p, e, r)))(at)
        assert value.dtype == dtype
        variance = moments(of_toy(evidence_bound_of_draws, estimator=estimator, rate=rate))
        assert abs(value - EXACT_BOUND) < 4 * np.sqrt(variance[1] / 20_000) + 1e-5
        assert np.all(np.abs(gradient - GRADIENT) < 4 * np.sqrt(variance[3] / 20_000) + 1e-5)
