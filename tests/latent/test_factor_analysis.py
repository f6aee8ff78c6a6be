"""Factor analysis against optimizers of the dense likelihood, and its steps against what they are made of."""

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
from optimality.core.numerics import to_numpy
from optimality.core.result import Result, SolverError
from optimality.latent.factor_analysis import FactorAnalysis, em_step, newton_direction, profile_of
from optimality.latent.linear_gaussian import LinearGaussianModel, ProbabilisticPCA, mean_log_evidence
from optimality.policies.weighted_fit import weighted_linear_gaussian
from optimality.problems.dataset import Dataset
from optimality.problems.sample_datasets import digits

DATA = factor_data(400, 4, 1, seed=0)
C = covariance_of(DATA)
START = LinearGaussianModel(np.array([[1.0], [0.5], [-0.5], [1.0]]), DATA.mean(0), np.ones(4))


def dense_evidence(model: LinearGaussianModel, x: np.ndarray) -> float:
    covariance = model.loading @ model.loading.T + np.diag(model.noise_variance)
    return float(scipy.stats.multivariate_normal(model.mean, covariance).logpdf(x).mean())


@functools.cache
def direct_maximum() -> float:
    """By an optimizer of the dense likelihood in all eight parameters."""

    def negative(parameters):
        covariance = jnp.outer(parameters[:4], parameters[:4]) + jnp.diag(jnp.exp(parameters[4:]))
        factor = jnp.linalg.cholesky(covariance)
        return 0.5 * (4 * jnp.log(2 * jnp.pi) + jnp.trace(jnp.linalg.solve(covariance, C))) + jnp.sum(
            jnp.log(jnp.diagonal(factor))
        )

    with jax.enable_x64(True):
        slope = jax.jit(jax.value_and_grad(negative))
        found = scipy.optimize.minimize(
            lambda p: [np.asarray(v, np.float64) for v in slope(p)],
            np.ones(8) * 0.1,
            jac=True,
            method="BFGS",
            options={"gtol": 1e-8},
        )
    return -float(found.fun)


def ascends_the_slope(model: LinearGaussianModel, covariance: np.ndarray) -> LinearGaussianModel:
    """Erratum E1.2 as printed: each q maximizes not its bound but the derivative of its bound, here the one along W,
    `w' D^-1 (x m - w (m^2 + s^2))`, which has its maximum at s = 0 and half of the m that meets x."""
    w = model.loading[:, 0]
    b = w / model.noise_variance / (2 * (w @ (w / model.noise_variance)))
    second = b @ covariance @ b
    new = covariance @ b / second
    noise = np.maximum(np.diag(covariance) - new * (covariance @ b), 1e-3)
    return LinearGaussianModel(new[:, None], model.mean, noise)


@pytest.mark.row("S32.monotone")
@against(em_step, ascends_the_slope=ascends_the_slope)
def test_no_step_lowers_the_likelihood(implementation, x64):
    model, last = START, dense_evidence(START, DATA)
    for _ in range(200):
        model = implementation(model, C)
        value = dense_evidence(model, DATA)
        assert value >= last - 1e-13
        last = value
    assert abs(last - direct_maximum()) < 1e-10


def bound(q_of: LinearGaussianModel, model: LinearGaussianModel, x: np.ndarray) -> float:
    """The mean evidence bound of `model`, each q being the posterior under `q_of`."""
    W, D = q_of.loading, q_of.noise_variance
    S = np.linalg.inv(np.eye(W.shape[1]) + W.T @ (W / D[:, None]))
    m = (x - q_of.mean) / D @ W @ S
    residual = x - model.mean - m @ model.loading.T
    spread = np.trace(model.loading.T @ (model.loading / model.noise_variance[:, None]) @ S)
    log_density = np.sum(np.log(2 * np.pi * model.noise_variance)) + np.mean(residual**2 @ (1 / model.noise_variance))
    rate = 0.5 * (np.trace(S) + np.mean(np.sum(m**2, axis=1)) - len(S) - np.linalg.slogdet(S)[1])
    return -0.5 * (log_density + spread) - rate


@pytest.mark.row("S32.monotone")
@against(em_step, ascends_the_slope=ascends_the_slope)
def test_neither_half_of_a_step_lowers_the_bound(implementation):
    old = START
    for _ in range(50):
        new = implementation(old, C)
        assert abs(bound(old, old, DATA) - dense_evidence(old, DATA)) < 1e-12
        assert bound(old, new, DATA) >= bound(old, old, DATA) - 1e-13
        assert bound(new, new, DATA) >= bound(old, new, DATA) - 1e-13
        old = new


def fitted(acceleration):
    return lambda: float(ox.solve(all_points(DATA), FactorAnalysis(latents=1, acceleration=acceleration)).value)


@pytest.mark.row("S32.optimum", "S29.fit")
@against(
    fitted("newton"),
    ascends_the_slope=lambda: dense_evidence(
        functools.reduce(lambda model, _: ascends_the_slope(model, C), range(10), START), DATA
    ),
    one_variance_for_all=lambda: float(ox.solve(all_points(DATA), ProbabilisticPCA(latents=1)).value),
)
def test_the_fit_is_the_maximum_of_the_likelihood(implementation):
    assert abs(implementation() - direct_maximum()) < 1e-10


@pytest.mark.row("S32.optimum", "S29.fit")
def test_plain_steps_reach_the_same_maximum():
    assert abs(fitted("none")() - direct_maximum()) < 1e-10


def test_value_and_details_belong_together(x64):
    problem = Dataset(factor_data(120, 6, 2, seed=2), validation_share=0.1, test_share=0.2)
    solution = ox.solve(problem, FactorAnalysis(latents=2))
    with jax.enable_x64(True):
        parts = problem.parts()
    model = solution.details.model
    assert abs(float(solution.value) - dense_evidence(model, np.asarray(parts.train))) < 1e-12
    assert abs(float(solution.details.test_log_evidence) - dense_evidence(model, np.asarray(parts.test))) < 1e-12
    assert abs(float(mean_log_evidence(model, parts.validation)) - float(solution.details.validation_log_evidence)) < (
        1e-12
    )
    assert solution.result is Result.CONVERGED
    assert solution.policy is None
    metric = model.loading.T @ (model.loading / model.noise_variance[:, None])
    np.testing.assert_allclose(metric, np.diag(np.diag(metric)), atol=1e-10)
    still = em_step(model, covariance_of(np.asarray(parts.train)))
    np.testing.assert_allclose(still.loading, model.loading, atol=1e-8)
    np.testing.assert_allclose(still.noise_variance, model.noise_variance, rtol=1e-8)


def test_a_step_is_inference_and_weighted_maximum_likelihood():
    """The posterior as points `m +- sqrt(k) S^1/2 e_j` of equal weight has its first two moments, and the M-step is
    the library's weighted regression of x on them."""
    x = factor_data(30, 5, 2, seed=3)
    model = LinearGaussianModel(np.random.default_rng(0).normal(size=(5, 2)), x.mean(0), np.full(5, 0.7))
    posteriors = [model.posterior(row) for row in x]
    ends = np.sqrt(2.0) * np.concatenate([np.eye(2), -np.eye(2)])
    z = np.concatenate([q.location + ends @ q.scale_cholesky.T for q in posteriors])
    fit = weighted_linear_gaussian(z, np.repeat(x - model.mean, 4, axis=0), structure="diagonal")
    step = em_step(model, covariance_of(x))
    np.testing.assert_allclose(step.loading, fit.W.T, atol=1e-12)
    np.testing.assert_allclose(step.noise_variance, np.diag(fit.covariance), rtol=1e-12)


def profile_slope(log_noise, covariance, latents):
    """Derivative of minus two log evidences a point by automatic differentiation of the eigenvalues."""

    def f(t):
        values = jnp.linalg.eigvalsh(covariance / jnp.exp(0.5 * (t[:, None] + t[None, :])))[::-1]
        return jnp.sum(t) + jnp.sum(jnp.log(values[:latents])) + jnp.sum(values[latents:])

    return jax.jit(jax.grad(f))(log_noise), jax.jit(jax.hessian(f))(log_noise)


def only_others(profile, held):
    values, U, others = profile.eigenvalues, profile.vectors, jnp.where(profile.used, 0.0, 1.0)[None, :]
    hessian = ((U * others) @ U.T) * ((U * others * values[None, :]) @ U.T)
    return -jnp.linalg.solve(hessian, profile.gradient)


@against(newton_direction, without_the_used=only_others, slope_alone=lambda profile, held: -profile.gradient)
def test_newtons_proposal_has_the_second_derivative(implementation):
    x = factor_data(300, 6, 2, seed=4)
    with jax.enable_x64(True):
        model = LinearGaussianModel(np.random.default_rng(0).normal(size=(6, 2)), x.mean(0), np.ones(6))
        for _ in range(100):
            model = em_step(model, covariance_of(x))
        t = jnp.log(jnp.asarray(model.noise_variance)) + 0.05 * jnp.arange(6.0)
        profile = profile_of(covariance_of(x), t, 2)
        slope, hessian = profile_slope(t, covariance_of(x), 2)
        assert np.linalg.eigvalsh(hessian)[0] > 0.0
        np.testing.assert_allclose(profile.gradient, slope, atol=1e-12)
        move = implementation(profile, jnp.zeros(6, bool))
        np.testing.assert_allclose(hessian @ move, -slope, atol=1e-10)


def steps_of(method: FactorAnalysis, x: np.ndarray, count: int):
    with jax.enable_x64(True):
        problem = all_points(jnp.asarray(x))
        state = jax.jit(method.init)(problem, None, None)
        step = jax.jit(method.step)
        states = [state]
        for _ in range(count):
            states.append(step(problem, states[-1]))
    return to_numpy(states)


@pytest.mark.row("S32.monotone")
@pytest.mark.parametrize("acceleration", ["newton", "none"])
def test_no_step_of_the_method_lowers_the_likelihood(acceleration):
    x = factor_data(40, 10, 3, seed=5)  # four factors to ten features and forty points: noise variances that vanish
    states = steps_of(FactorAnalysis(latents=4, acceleration=acceleration), x, 60)
    values = np.asarray([state.log_evidence for state in states])
    assert np.all(np.diff(values) >= -1e-12)
    for state in states[::20]:
        model = LinearGaussianModel(state.loading, state.mean, np.exp(state.log_noise))
        assert abs(float(state.log_evidence) - dense_evidence(model, x)) < 1e-9


def test_noise_that_vanishes_stands_at_the_floor():
    """A Heywood case: the maximum within the bounds, by an optimizer with the same bounds."""
    x = factor_data(25, 5, 1, seed=8)
    K = covariance_of(x)
    method = FactorAnalysis(latents=2, noise_floor=1e-3)
    solution = ox.solve(all_points(x), method)
    model = solution.details.model
    assert solution.result is Result.CONVERGED
    assert np.any(solution.details.at_floor)
    assert not np.all(solution.details.at_floor)
    np.testing.assert_allclose(
        model.noise_variance[solution.details.at_floor], 1e-3 * np.diag(K)[solution.details.at_floor], rtol=1e-12
    )

    def negative(parameters):
        W, t = parameters[:10].reshape(5, 2), parameters[10:]
        covariance = W @ W.T + jnp.diag(jnp.exp(t))
        _, log_det = jnp.linalg.slogdet(covariance)
        return 0.5 * (5 * jnp.log(2 * jnp.pi) + log_det + jnp.trace(jnp.linalg.solve(covariance, K)))

    with jax.enable_x64(True):
        slope = jax.jit(jax.value_and_grad(negative))
        start = np.concatenate([model.loading.ravel(), np.log(model.noise_variance)])
        start += 0.1 * np.random.default_rng(0).normal(size=15)
        bounds = [(None, None)] * 10 + [(np.log(1e-3 * v), None) for v in np.diag(K)]
        found = scipy.optimize.minimize(
            lambda p: [np.asarray(v, np.float64) for v in slope(p)],
            np.clip(start, [-np.inf if b[0] is None else b[0] for b in bounds], np.inf),
            jac=True,
            method="L-BFGS-B",
            bounds=bounds,
            options={"maxiter": 10_000, "maxfun": 10_000, "ftol": 1e-16, "gtol": 1e-9, "maxcor": 30},
        )
    assert abs(float(solution.value) + found.fun) < 1e-9


def test_units_of_a_feature_do_not_matter():
    units = np.array([1e-3, 1.0, 50.0, 1e4])
    one = ox.solve(all_points(DATA), FactorAnalysis(latents=1))
    other = ox.solve(all_points(DATA * units), FactorAnalysis(latents=1))
    assert abs(float(one.value - other.value) - np.log(units).sum()) < 1e-10
    np.testing.assert_allclose(other.details.model.loading[:, 0] / units, one.details.model.loading[:, 0], rtol=1e-6)


@pytest.mark.parametrize("start", ["plain", "newton"])
def test_a_guess_at_the_maximum_stays(start):
    acceleration = "none" if start == "plain" else "newton"
    best = ox.solve(all_points(DATA), FactorAnalysis(latents=1)).details.model
    solution = ox.solve(all_points(DATA), FactorAnalysis(latents=1, acceleration=acceleration), guess=best)
    assert int(solution.stats["steps"]) <= 2
    np.testing.assert_allclose(solution.details.model.noise_variance, best.noise_variance, rtol=1e-7)


def test_derivatives_are_those_of_the_maximum():
    x, moved = DATA, np.random.default_rng(7).normal(size=DATA.shape)
    method = FactorAnalysis(latents=1, tolerance=1e-13)

    def numbers(step):
        solution = ox.solve(all_points(x + step * moved), method)
        return np.append(solution.details.model.noise_variance, solution.value)

    def traced(step):
        solution = ox.solve(all_points(jnp.asarray(x) + step * jnp.asarray(moved)), method)
        return jnp.append(solution.details.model.noise_variance, solution.value)

    with jax.enable_x64(True):
        slope = jax.jit(jax.jacrev(traced))(jnp.asarray(0.0))
    h = 1e-3
    by_differences = (8 * (numbers(h) - numbers(-h)) - (numbers(2 * h) - numbers(-2 * h))) / (12 * h)
    np.testing.assert_allclose(slope, by_differences, atol=1e-8)


def test_it_maps_over_data_sets():
    batch = jnp.stack([jnp.asarray(DATA, jnp.float32), jnp.asarray(2 * DATA, jnp.float32)])
    values = jax.vmap(lambda x: ox.solve(all_points(x), FactorAnalysis(latents=1, tolerance=1e-4)).value)(batch)
    best = direct_maximum()
    np.testing.assert_allclose(values, [best, best - 4 * np.log(2.0)], rtol=1e-5)


def test_stopping_short_is_said():
    method = FactorAnalysis(latents=1, acceleration="none", max_steps=3)
    with pytest.raises(SolverError, match="After 3 steps one more step of EM would still change") as caught:
        ox.solve(all_points(DATA), method)
    assert caught.value.result is Result.ITERATION_LIMIT
    assert "acceleration='newton'" in str(caught.value)
    reached = ox.solve(all_points(DATA), method, throw=False)
    assert int(reached.stats["steps"]) == 3
    assert float(reached.value) < direct_maximum()
    assert abs(float(reached.value) - dense_evidence(reached.details.model, DATA)) < 1e-12


def test_numbers_too_large_to_square():
    with pytest.raises(SolverError) as caught:
        ox.solve(all_points(DATA * 1e200), FactorAnalysis(latents=1))
    assert caught.value.result is Result.NON_FINITE


CONSTANT = np.concatenate([DATA, np.full((400, 1), 3.0)], axis=1)


@pytest.mark.parametrize(
    ("problem", "latents", "sentence"),
    [
        (all_points(DATA), 4, "latents must be below the number of features, 4, and at least 1, but 4 was given"),
        (all_points(DATA[:3]), 2, "2 latents pass through all of 3 points"),
        (all_points(DATA > 1.0, likelihood="bernoulli"), 1, "FactorAnalysis has normal noise"),
        (all_points(CONSTANT), 1, "constant in the points of the fit: feature 4"),
        (all_points(CONSTANT, names=tuple("abcde")), 1, "constant in the points of the fit: 'e'.*set levels="),
    ],
)
def test_data_that_factor_analysis_cannot_take(problem, latents, sentence):
    with pytest.raises(ValueError, match=sentence):
        ox.solve(problem, FactorAnalysis(latents=latents))


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"noise_floor": 0.0}, "noise_floor of FactorAnalysis must be above 0"),
        ({"noise_floor": 1.5}, "noise_floor"),
        ({"tolerance": -1.0}, "tolerance of FactorAnalysis must be at least 0"),
        ({"max_steps": 0}, "max_steps must be at least 1"),
    ],
)
def test_hyper_parameters_out_of_range(options, sentence):
    with pytest.raises(ValueError, match=sentence):
        FactorAnalysis(**options)


def test_guesses_and_covariances_of_another_shape():
    with pytest.raises(ValueError, match="guess must be a LinearGaussianModel of 4 features and 2 latents"):
        ox.solve(all_points(DATA), FactorAnalysis(latents=2), guess=START)
    with pytest.raises(ValueError, match=r"covariance must be \[4, 4\] as the model, but \(3, 3\) was given"):
        em_step(START, np.eye(3))
    with pytest.raises(ValueError, match="finite and symmetric"):
        em_step(START, np.triu(np.ones((4, 4))))


def test_the_order_of_the_linear_opponents_on_digits():
    """Held-out nats an image at eight latents: 17.0 and 43.9 in another division of the same images."""
    pca, factors = (ox.solve(digits(), method(latents=8)) for method in (ProbabilisticPCA, FactorAnalysis))
    assert abs(float(pca.details.test_log_evidence) - 17.0) < 2.0
    assert abs(float(factors.details.test_log_evidence) - 43.9) < 2.0
    assert int(factors.stats["steps"]) < 40
