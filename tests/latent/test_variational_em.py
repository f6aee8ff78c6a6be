"""Variational EM: never a fall, and maximum likelihood where the posterior is a product."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import optimality as ox
from clauses import against
from optimality.core.result import Result
from optimality.distributions.normal import Normal
from optimality.latent.abstract import AbstractLatentModel
from optimality.latent.factor_analysis import FactorAnalysis
from optimality.latent.linear_gaussian import LinearGaussianModel, ProbabilisticPCA
from optimality.latent.refinement import exact_bound
from optimality.latent.variational_em import VariationalEM, best_normal, regression
from optimality.problems.dataset import Dataset


def all_points(x: np.ndarray) -> Dataset:
    return Dataset(x, validation_share=0.0, test_share=0.0)


def factor_data(points: int, features: int, latents: int, seed: int = 0) -> np.ndarray:
    random = np.random.default_rng(seed)
    W = random.normal(size=(features, latents))
    spread = 0.3 + random.uniform(size=features)
    return random.normal(size=(points, latents)) @ W.T + spread * random.normal(size=(points, features)) + 1.5


class Bent(AbstractLatentModel):
    """`x | z ~ N(tanh(slope z) + shift, e^2)`, all three to be learned."""

    slope: jax.Array
    shift: jax.Array
    log_deviation: jax.Array

    @property
    def latents(self):
        return 1

    @property
    def features(self):
        return 1

    def decode(self, z):
        return Normal(jnp.tanh(self.slope * z) + self.shift, jnp.exp(self.log_deviation) * jnp.ones_like(z))

    def log_likelihood(self, x, z):
        return jnp.sum(self.decode(z).log_prob(x))

    def posterior(self, x):
        raise NotImplementedError


class Slope(Bent):
    """`x | z ~ N(slope z, 1)`, whose best slope is known."""

    def decode(self, z):
        return Normal(self.slope * z, jnp.ones_like(z))


def bound(model: LinearGaussianModel, x: np.ndarray, mean: np.ndarray, scale: np.ndarray) -> float:
    """The mean bound in NumPy, from the definition."""
    W, D = np.asarray(model.loading), np.asarray(model.noise_variance)
    residual = (x - mean @ W.T - np.asarray(model.mean)) ** 2 + scale**2 @ (W**2).T
    fit = -0.5 * np.sum(residual / D + np.log(2 * np.pi * D), axis=1)
    return np.mean(fit - 0.5 * np.sum(mean**2 + scale**2 - 1 - 2 * np.log(scale), axis=1))


def halves(model, x, posterior, *, scale_of_q=None, scale_seen=None):
    """Both halves, in float64; the options make wrong ones of them."""
    with jax.enable_x64(True):
        best = jax.vmap(lambda row: best_normal(model, row))(jnp.asarray(x))
        q = best if scale_of_q is None else Normal(best.location, jnp.full_like(best.scale, scale_of_q))
        seen = q if scale_seen is None else Normal(q.location, jnp.full_like(q.scale, scale_seen))
        return q, regression(x, seen, variance="feature", noise_floor=1e-6)


# E1.2: q maximizes the gradient of the bound in the model, which drives every scale to zero.
collapsed = functools.partial(halves, scale_of_q=1e-6)
# The M-step forgets that z is uncertain.
point_estimates = functools.partial(halves, scale_seen=1e-9)


@pytest.mark.row("S32.monotone")
@against(halves, gradient_of_the_bound=collapsed, point_estimates=point_estimates)
def test_no_half_step_lowers_the_bound(implementation):
    x = factor_data(120, 5, 2)
    model = ox.solve(all_points(x), ProbabilisticPCA(latents=2)).details.model
    # not far from the best, where wrong steps lead away; bounded by its own posteriors
    model = LinearGaussianModel(model.loading + 0.1, model.mean + 0.1, 0.8 * model.noise_variance)
    posterior, _ = halves(model, x, None)
    last = bound(model, x, np.asarray(posterior.location), np.asarray(posterior.scale)) - 1e-12
    for _ in range(15):
        posterior, new = implementation(model, x, posterior)
        mean, scale = np.asarray(posterior.location), np.asarray(posterior.scale)
        after_q = bound(model, x, mean, scale)
        after_model = bound(new, x, mean, scale)
        assert last < after_q
        assert after_q < after_model
        model, last = new, after_model


@pytest.mark.row("S32.monotone")
def test_the_whole_run_never_falls():
    x = factor_data(120, 5, 2)
    start = LinearGaussianModel(np.random.default_rng(1).normal(size=(5, 2)), np.zeros(5), np.ones(5))
    solution = ox.solve(all_points(x), VariationalEM(latents=2, max_steps=300), guess=start, throw=False)
    assert solution.stats["largest_fall"] < 1e-13
    with jax.enable_x64(True):
        one = exact_bound(solution.details.model, x[0], best_normal(solution.details.model, x[0]), "sigma_points")
    np.testing.assert_allclose(solution.details.bounds[0], one, rtol=1e-12)
    np.testing.assert_allclose(np.mean(solution.details.bounds), solution.value, rtol=1e-12)


@pytest.mark.row("S32.optimum")
@pytest.mark.parametrize(("variance", "exact"), [("feature", FactorAnalysis), ("scalar", ProbabilisticPCA)])
@pytest.mark.parametrize("latents", [1, 2])
def test_maximum_likelihood_where_q_can_be_exact(variance, exact, latents):
    """With one latent; and with two, since among the rotations of W the bound prefers orthogonal columns."""
    x = factor_data(300, 6, latents)
    start = None if variance == "feature" else LinearGaussianModel(x[:latents].T - 1.5, np.zeros(6), np.ones(6))
    data = all_points(x)
    solution = ox.solve(data, VariationalEM(latents=latents, variance=variance), guess=start)
    assert solution.result is Result.CONVERGED
    np.testing.assert_allclose(solution.value, ox.solve(data, exact(latents=latents)).value, atol=1e-12)
    np.testing.assert_allclose(solution.value, solution.details.log_evidence, atol=1e-12)
    W = solution.details.model.loading
    metric = W.T @ (W / solution.details.model.noise_variance[:, None])
    np.testing.assert_allclose(metric, np.diag(np.diag(metric)), atol=1e-5)


@pytest.mark.row("S32.optimum")
def test_a_model_of_ones_own_reaches_maximum_likelihood():
    """`x ~ N(0, slope^2 + 1)`, best at `slope^2 = mean x^2 - 1`; the other two numbers are idle."""
    x = np.array([1.3, -1.3, 1.3, -1.3])
    guess = Slope(*(jnp.asarray(v, jnp.float32) for v in (0.3, 0.0, 0.0)))
    solution = ox.solve(all_points(x), VariationalEM(expectation="sigma_points"), guess=guess)
    np.testing.assert_allclose(abs(solution.details.model.slope), np.sqrt(0.69), atol=1e-8)
    np.testing.assert_allclose(solution.value, -0.5 * (np.log(2 * np.pi * 1.69) + 1), atol=1e-12)


@pytest.mark.row("S32.monotone")
def test_a_bent_decoder_never_falls():
    random = np.random.default_rng(0)
    x = np.tanh(2.0 * random.normal(size=25)) + 0.5 + 0.3 * random.normal(size=25)
    guess = Bent(*(jnp.asarray(v, jnp.float32) for v in (0.5, 0.0, 0.0)))
    method = VariationalEM(expectation="trapezoid", half_steps=2, max_steps=12)
    solution = ox.solve(Dataset(x, validation_share=0.0, test_share=0.2), method, guess=guess, throw=False)
    assert solution.stats["largest_fall"] < 1e-12
    start = jax.vmap(lambda row: exact_bound(guess, row, Normal(jnp.zeros(1), jnp.ones(1)), "trapezoid"))
    assert solution.value > np.mean(start(jnp.asarray(x[:, None], jnp.float32))) + 0.2
    assert np.isfinite(solution.details.test_bound)
    assert np.isnan(solution.details.log_evidence)


def test_what_cannot_be_fitted_is_said():
    x = factor_data(20, 3, 1)
    with pytest.raises(ValueError, match="latents must be below the number of features"):
        ox.solve(all_points(x), VariationalEM(latents=3))
    with pytest.raises(ValueError, match="guess must be a latent-variable model of 3 features"):
        ox.solve(all_points(x), VariationalEM(), guess=LinearGaussianModel(np.ones((2, 1)), np.zeros(2), np.ones(2)))
    with pytest.raises(ValueError, match="for one latent"):
        ox.solve(
            all_points(x),
            VariationalEM(expectation="trapezoid"),
            guess=LinearGaussianModel(np.ones((3, 2)), np.zeros(3), np.ones(3)),
        )
    with pytest.raises(ValueError, match="half_steps must be at least 1"):
        VariationalEM(half_steps=0)


def test_failures_are_results():
    x = factor_data(40, 3, 1)
    short = ox.solve(all_points(x), VariationalEM(), max_steps=2, throw=False)
    assert short.result is Result.ITERATION_LIMIT
    constant = np.concatenate([x, np.ones((40, 1))], axis=1)
    with pytest.raises(ox.SolverError, match="feature 3"):
        ox.solve(all_points(constant), VariationalEM())
