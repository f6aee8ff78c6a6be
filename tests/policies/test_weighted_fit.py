"""Weighted maximum likelihood against least squares, automatic differentiation, dense projections and simulation."""

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from clauses import against
from compilations import counted_compilations
from optimality import Result
from optimality.policies.tall_factor import tall_factor
from optimality.policies.weighted_fit import weighted_linear_gaussian, weighted_log_likelihood, weighted_score

RNG = np.random.default_rng(0)
N, K, M = 25, 3, 2
PHI = np.column_stack([np.ones(N), RNG.normal(size=(N, K - 1))])
A = PHI @ RNG.normal(size=(K, M)) + RNG.normal(size=(N, M)) @ np.array([[1.0, 0.5], [0.0, 0.7]])
LOG_D = RNG.normal(size=N)
D = np.exp(LOG_D)
SIGMA = np.array([[1.3, 0.4], [0.4, 0.6]])
GENERAL, INTERCEPT = "general_correction", "intercept_correction"


def fitted(covariance="maximum_likelihood", **options):
    return lambda Phi, A, log_d: weighted_linear_gaussian(Phi, A, log_d, covariance=covariance, **options)


def unweighted(Phi, A, log_d):
    return weighted_linear_gaussian(Phi, A)


def squared_weights(Phi, A, log_d):
    return weighted_linear_gaussian(Phi, A, 2 * log_d)


def log_likelihood(W, sigma, Phi=PHI, A=A, d=D):
    """Written out with an inverse and a determinant."""
    residuals = jnp.asarray(A) - jnp.asarray(Phi) @ W
    squares = jnp.einsum("ni,ij,nj->n", residuals, jnp.linalg.inv(sigma), residuals)
    return jnp.sum(jnp.asarray(d) * (-0.5 * squares - 0.5 * jnp.linalg.slogdet(2 * np.pi * sigma)[1]))


def gradients(W, sigma, **data):
    with jax.enable_x64(True):
        found = jax.jit(jax.grad(lambda W, sigma: log_likelihood(W, sigma, **data), (0, 1)))(W, sigma)
        return [np.asarray(g) for g in found]


@pytest.mark.row("S20.gradient", "S11.stationary")
@against(fitted(), unweighted=unweighted, squared_weights=squared_weights, ridge=fitted(ridge=1e-3))
def test_the_gradient_in_W_vanishes(implementation):
    fit = implementation(PHI, A, LOG_D)
    by_W, _ = gradients(fit.W, fit.covariance)
    np.testing.assert_allclose(by_W, 0.0, atol=1e-11)


@pytest.mark.row("S20.least_squares")
@against(fitted(), unweighted=unweighted, rows_scaled_by_the_weights=squared_weights)
def test_least_squares(implementation):
    root = np.exp(0.5 * LOG_D)[:, None]
    expected = np.linalg.lstsq(root * PHI, root * A)[0]
    np.testing.assert_allclose(implementation(PHI, A, LOG_D).W, expected, 1e-12)


@pytest.mark.row("E0.15.likelihood", "S11.stationary")
@against(fitted(), notes=fitted(INTERCEPT), general=fitted(GENERAL))
def test_the_gradient_in_the_covariance_vanishes_at_the_sum_of_the_weights(implementation):
    fit = implementation(PHI, A, LOG_D)
    _, by_sigma = gradients(fit.W, fit.covariance)
    np.testing.assert_allclose(by_sigma, 0.0, atol=1e-11)


@pytest.mark.row("S19.optimal")
@against(fitted(), unweighted=unweighted, corrected=fitted(GENERAL), ridge=fitted(ridge=0.1))
def test_no_other_parameters_are_likelier(implementation):
    """Steps of 1e-4 to 1 in 400 random directions; the likelihood is concave in `(Sigma^-1 W', Sigma^-1)`, so that
    what no small step improves is the maximum."""
    fit = implementation(PHI, A, LOG_D)
    rng = np.random.default_rng(1)
    best = weighted_log_likelihood(fit.W, fit.covariance, PHI, A, LOG_D)
    factor = np.linalg.cholesky(fit.covariance)
    for scale in np.repeat([1e-4, 1e-3, 1e-2, 1.0], 100):
        W = fit.W + scale * rng.normal(size=fit.W.shape)
        other = factor @ (np.eye(M) + scale * np.tril(rng.normal(size=(M, M))))
        assert weighted_log_likelihood(W, other @ other.T, PHI, A, LOG_D) <= best


def not_homogeneous(Phi, A, log_d):
    """The notes' denominator with one sum too few."""
    fit, d = weighted_linear_gaussian(Phi, A, log_d), np.exp(log_d)
    return dataclasses.replace(fit, covariance=fit.covariance * d.sum() / (d.sum() - (d**2).sum()))


@pytest.mark.row("S19.scale", "E0.11")
@pytest.mark.parametrize("covariance", ["maximum_likelihood", INTERCEPT, GENERAL])
@against(
    lambda covariance: fitted(covariance),
    unshifted=lambda covariance: lambda Phi, A, log_d: weighted_linear_gaussian(Phi, A, np.log1p(np.exp(log_d))),
    not_homogeneous=lambda covariance: not_homogeneous,
)
def test_scaling_all_weights_changes_nothing(implementation, covariance):
    fit = implementation(covariance)
    plain = fit(PHI, A, LOG_D - 3.0)
    for shift in (-3.0 + np.log(1e-6), 0.0, 5.0):
        other = fit(PHI, A, LOG_D + shift)
        np.testing.assert_allclose(other.W, plain.W, 1e-11, atol=1e-13)
        np.testing.assert_allclose(other.covariance, plain.covariance, 1e-11)


def test_exponents_may_be_far_from_zero():
    for shift in (-1e4, 1e4):
        np.testing.assert_allclose(fitted()(PHI, A, LOG_D + shift).W, fitted()(PHI, A, LOG_D).W, 1e-9)


@pytest.mark.row("S22")
@against(
    lambda *at: weighted_score(*at)[0],
    no_precision=lambda W, sigma, *data: weighted_score(W, sigma, *data)[0] @ sigma,
    unweighted=lambda W, sigma, Phi, A, log_d: weighted_score(W, sigma, Phi, A, 0 * log_d)[0],
)
def test_gradient_in_W(implementation):
    W = np.arange(6.0).reshape(K, M) / 3.0
    np.testing.assert_allclose(implementation(W, SIGMA, PHI, A, LOG_D), gradients(W, SIGMA)[0], 1e-11)


@pytest.mark.row("E0.13")
@against(lambda form: form.T, as_the_gradient_in_W=lambda form: form)
def test_the_other_form_is_the_transposed_gradient(implementation):
    """`sum d Sigma^-1 (a - W' phi) phi'`, on two features and two actions, where either shape fits."""
    Phi, W = PHI[:, :2], np.array([[0.3, -1.0], [2.0, 0.5]])
    form = sum(d * np.outer(np.linalg.solve(SIGMA, a - W.T @ phi), phi) for d, a, phi in zip(D, A, Phi, strict=True))
    np.testing.assert_allclose(weighted_score(W, SIGMA, Phi, A, LOG_D)[0], form.T, 1e-11)
    np.testing.assert_allclose(implementation(form), gradients(W, SIGMA, Phi=Phi)[0], 1e-11)


@pytest.mark.row("S23.likelihood")
@against(
    lambda *at: weighted_score(*at)[1],
    no_half=lambda *at: 2 * weighted_score(*at)[1],
    no_determinant=lambda W, sigma, *data: weighted_score(W, sigma, *data)[1] + 0.5 * D.sum() * np.linalg.inv(sigma),
    unweighted_determinant=lambda W, sigma, *data: (
        weighted_score(W, sigma, *data)[1] + 0.5 * (D.sum() - N) * np.linalg.inv(sigma)
    ),
)
def test_gradient_in_the_covariance(implementation):
    W = np.arange(6.0).reshape(K, M) / 3.0
    np.testing.assert_allclose(implementation(W, SIGMA, PHI, A, LOG_D), gradients(W, SIGMA)[1], 1e-11)


@pytest.mark.row("S23.determinant")
@against(
    lambda sigma: -weighted_score(np.zeros((K, M)), sigma, PHI, 0 * A, LOG_D)[1] / D.sum(),
    no_half=lambda sigma: np.linalg.inv(sigma),
    not_inverted=lambda sigma: 0.5 * sigma,
)
def test_gradient_of_the_root_of_the_determinant(implementation):
    """Without residuals only `-sum d log |Sigma|^(1/2)` is left of the likelihood."""
    with jax.enable_x64(True):
        expected = jax.grad(lambda s: 0.5 * jnp.log(jnp.linalg.det(s)))(jnp.asarray(SIGMA))
    np.testing.assert_allclose(implementation(SIGMA), expected, 1e-12)


def exponential_kept(W, sigma, Phi, A, log_d):
    r = A - Phi @ W
    exponents = -0.5 * np.einsum("ni,ij,nj->n", r, np.linalg.inv(sigma), r)
    return np.sum(np.exp(log_d) * (-0.5 * np.linalg.slogdet(2 * np.pi * sigma)[1] + np.exp(exponents)))


@pytest.mark.row("E0.14")
@against(weighted_log_likelihood, exponential_kept=exponential_kept)
def test_log_likelihood(implementation):
    W = np.arange(6.0).reshape(K, M) / 3.0
    expected = sum(
        d * scipy.stats.multivariate_normal(phi @ W, SIGMA).logpdf(a) for d, phi, a in zip(D, PHI, A, strict=True)
    )
    np.testing.assert_allclose(implementation(W, SIGMA, PHI, A, LOG_D), expected, 1e-12)


def share_left(Phi, d):
    """`E[r' D r] / sum d` for noise of variance one, with `r = (I - H) noise`, by dense matrices."""
    projection = np.eye(d.size) - Phi @ np.linalg.inv(Phi.T @ np.diag(d) @ Phi) @ Phi.T @ np.diag(d)
    return np.trace(projection.T @ np.diag(d) @ projection) / d.sum()


@pytest.mark.row("S21.general")
@against(fitted(GENERAL), notes=fitted(INTERCEPT), likelihood=fitted())
@pytest.mark.parametrize("columns", [[0, 1, 2], [1]], ids=["three", "one_not_constant"])
def test_general_denominator(implementation, columns):
    fit = implementation(PHI[:, columns], A, LOG_D)
    np.testing.assert_allclose(fit.denominator, share_left(PHI[:, columns], D), 1e-12)


@pytest.mark.row("S21.intercept")
@against(fitted(INTERCEPT), likelihood=fitted(), count=lambda Phi, A, log_d: unweighted_general(Phi, A))
def test_intercept_denominator(implementation):
    fit = implementation(PHI[:, :1], A, LOG_D)
    np.testing.assert_allclose(fit.denominator, share_left(PHI[:, :1], D), 1e-12)
    np.testing.assert_allclose(fit.denominator, 1.0 - 1.0 / fit.effective_sample_size, 1e-12)
    np.testing.assert_allclose(fit.covariance, np.cov(A.T, aweights=D), 1e-11)


def unweighted_general(Phi, A):
    return weighted_linear_gaussian(Phi, A, covariance=GENERAL)


@pytest.mark.row("S21.unit_weights")
@against(fitted(GENERAL), notes=fitted(INTERCEPT), likelihood=fitted())
def test_unit_weights_leave_samples_less_features(implementation):
    fit = implementation(PHI, A, np.zeros(N))
    np.testing.assert_allclose(fit.denominator * N, N - K, 1e-12)
    residuals = A - PHI @ np.linalg.lstsq(PHI, A)[0]
    np.testing.assert_allclose(fit.covariance, residuals.T @ residuals / (N - K), 1e-11)


def mean_variances(log_d, Phi, actions, *forms):
    """Mean over draws of the fitted variance, and its standard error, for each form of the denominator."""
    actions, log_d = np.asarray(actions), np.array(log_d)
    with jax.enable_x64(True):
        # One after another: thousands of factorizations in one batch can lock up the threads of XLA on a CPU.
        fits = [
            jax.jit(partial(jax.lax.map, lambda x, c=c: weighted_linear_gaussian(Phi, *x, covariance=c).covariance))
            for c in forms
        ]
        values = [np.asarray(fit((actions, log_d)))[:, 0, 0] for fit in fits]
    return [v.mean() for v in values], [v.std() / v.size**0.5 for v in values]


@pytest.mark.row("E0.15.unbiased", "S21.general")
def test_bias_for_fixed_weights():
    """20,000 draws of 20 samples: the general form within five standard errors of 1, the others as predicted."""
    rng = np.random.default_rng(2)
    s, log_d = rng.normal(size=20), rng.normal(size=20)
    actions = rng.normal(size=(20_000, 20, 1))
    for Phi in (np.ones((20, 1)), np.column_stack([np.ones(20), s]), np.column_stack([np.ones(20), s, s**2])):
        weights = np.broadcast_to(log_d, (20_000, 20))
        means, errors = mean_variances(weights, Phi, actions, "maximum_likelihood", INTERCEPT, GENERAL)
        left, d = share_left(Phi, np.exp(log_d)), np.exp(log_d)
        predicted = [left, left / (1 - np.sum(d**2) / np.sum(d) ** 2), 1.0]
        assert np.all(np.abs(np.subtract(means, predicted)) < 5 * np.array(errors)), (means, predicted)
        assert (abs(means[1] - 1.0) < 5 * errors[1]) == (Phi.shape[1] == 1)


@pytest.mark.row("E0.16")
@pytest.mark.parametrize(("temperature", "target"), [(1.0, 0.5), (0.3, 0.2308), (0.1, 0.0909)])
def test_corrections_are_too_wide_for_weights_of_the_actions(temperature, target):
    """Standard normal actions weighted by `exp(-a^2 / (2 temperature))`, 20 at a time, 20,000 times."""
    assert 1 / (1 + 1 / temperature) == pytest.approx(target, abs=1e-4)
    actions = np.random.default_rng(3).normal(size=(20_000, 20, 1))
    log_d = -(actions[:, :, 0] ** 2) / (2 * temperature)
    (likely, corrected), errors = mean_variances(log_d, np.ones((20, 1)), actions, "maximum_likelihood", INTERCEPT)
    assert corrected > target + 5 * errors[1]
    assert abs(likely - target) < 0.8 * abs(corrected - target)


def unguarded(Phi, A, log_d):
    fit, d = weighted_linear_gaussian(Phi, A, log_d, floor=0.0), np.exp(log_d)
    with np.errstate(invalid="ignore", divide="ignore"):
        share = 1 - np.sum(d**2) / np.sum(d) ** 2
        return dataclasses.replace(
            fit,
            covariance=fit.covariance / share,
            denominator=share,
            guarded=np.bool_(True),
            result=Result.COLLAPSED,
        )


@pytest.mark.row("E0.17")
@pytest.mark.parametrize("covariance", [INTERCEPT, GENERAL])
@against(lambda c: fitted(c), unguarded=lambda c: unguarded)
def test_denominators_are_held(implementation, covariance):
    """One sample, where the form is 0 / 0, and two of which one has all but 1e-8 of the weight."""
    fit = implementation(covariance)
    for log_d in (np.zeros(1), np.array([0.0, np.log(1e-8)])):
        found = fit(np.ones((log_d.size, 1)), np.array([[1.0], [2.0]])[: log_d.size], log_d)
        assert found.result is Result.COLLAPSED
        assert bool(found.guarded)
        assert np.all(np.isfinite(found.covariance))
        assert np.all(found.covariance > 0.0)
        np.testing.assert_allclose(found.denominator, 0.5 / found.effective_sample_size)
        assert found.covariance[0, 0] < 1e-7  # without the guard 0.5, from weights of which one is all


def test_the_guard_rests_where_there_is_freedom():
    """Equal weights and one sample more than features leave one degree of freedom, which is an unbiased estimate."""
    fit = weighted_linear_gaussian(PHI[: K + 1], A[: K + 1], covariance=GENERAL)
    assert not fit.guarded
    assert fit.result is Result.CONVERGED
    np.testing.assert_allclose(fit.denominator * (K + 1), 1.0, 1e-9)
    fit = weighted_linear_gaussian(PHI[:K], A[:K], covariance=GENERAL)
    assert fit.guarded
    assert fit.floored
    assert np.linalg.eigvalsh(fit.covariance).min() > 0.0


def test_dependent_features():
    """A repeated, a zero and a constant-times-constant feature: the same predictions, of least norm."""
    Phi = np.column_stack([PHI, PHI[:, 1], np.zeros(N), 1e6 * np.ones(N)])
    fit, plain = weighted_linear_gaussian(Phi, A, LOG_D), weighted_linear_gaussian(PHI, A, LOG_D)
    assert fit.rank == K == plain.rank
    np.testing.assert_allclose(Phi @ fit.W, PHI @ plain.W, 1e-9, atol=1e-10)
    np.testing.assert_allclose(fit.W[1], fit.W[3], 1e-9)
    np.testing.assert_allclose(fit.W[4], 0.0, atol=1e-12)
    np.testing.assert_allclose(fit.covariance, plain.covariance, 1e-9)
    general = weighted_linear_gaussian(Phi, A, LOG_D, covariance=GENERAL)
    np.testing.assert_allclose(general.denominator, share_left(PHI, D), 1e-9)


def test_fewer_samples_than_features():
    fit = weighted_linear_gaussian(PHI[:2], A[:2])
    np.testing.assert_allclose(PHI[:2] @ fit.W, A[:2], 1e-10)
    assert fit.rank == 2
    assert fit.floored
    assert np.all(np.isfinite(np.linalg.cholesky(fit.covariance)))


def test_features_of_large_condition_number():
    """A polynomial of degree 9 on [1, 2], condition number above 1e10: residuals as small as SciPy's."""
    s = np.linspace(1.0, 2.0, 200)
    Phi = s[:, None] ** np.arange(10)
    targets = np.sin(5 * s)[:, None]
    fit = weighted_linear_gaussian(Phi, targets)
    expected = np.linalg.lstsq(Phi, targets)[1][0]
    np.testing.assert_allclose(np.sum((targets - Phi @ fit.W) ** 2), expected, 1e-5)


@pytest.mark.parametrize("shape", [(50, 1), (50, 20), (50, 30), (5, 8)])
def test_tall_factor(shape, x64):
    rows = jnp.asarray(np.random.default_rng(0).normal(size=shape), jnp.float64 if x64 else jnp.float32)
    for columns in (rows, jnp.concatenate([rows, rows], axis=1)):
        Q, R = jax.jit(tall_factor)(columns)
        np.testing.assert_allclose(Q @ R, columns, atol=1e-13 if x64 else 1e-5)
        np.testing.assert_allclose(Q.T @ Q, np.eye(Q.shape[1]), atol=1e-13 if x64 else 1e-5)
        np.testing.assert_array_equal(np.tril(R, -1), 0.0)


def test_structures():
    full = weighted_linear_gaussian(PHI, A, LOG_D)
    diagonal = weighted_linear_gaussian(PHI, A, LOG_D, structure="diagonal")
    spherical = weighted_linear_gaussian(PHI, A, LOG_D, structure="spherical")
    np.testing.assert_allclose(diagonal.covariance, np.diag(np.diag(full.covariance)), 1e-12)
    np.testing.assert_allclose(spherical.covariance, np.trace(full.covariance) / M * np.eye(M), 1e-12)
    np.testing.assert_array_equal(diagonal.W, full.W)


def test_floor_and_ridge():
    line = np.column_stack([A[:, 0], A[:, 0]])
    fit = weighted_linear_gaussian(PHI, line, floor=0.01)
    np.testing.assert_allclose(np.linalg.eigvalsh(fit.covariance)[0], 0.01, 1e-9)
    assert fit.floored
    assert not weighted_linear_gaussian(PHI, A, floor=0.01).floored
    size = np.sqrt(D @ PHI**2 / D.sum())
    expected = np.linalg.solve(PHI.T @ np.diag(D / D.sum()) @ PHI + 0.1 * np.diag(size**2), PHI.T @ (D[:, None] * A))
    np.testing.assert_allclose(weighted_linear_gaussian(PHI, A, LOG_D, ridge=0.1).W, expected / D.sum(), 1e-11)


def test_padding_and_float32():
    """Samples without weight may hold anything; traced float32 arguments are computed with in float64."""
    Phi, actions, log_d = np.full((N + 5, K), np.nan), np.full((N + 5, M), np.inf), np.full(N + 5, -np.inf)
    Phi[:N], actions[:N], log_d[:N] = PHI, A, LOG_D
    plain = weighted_linear_gaussian(PHI, A, LOG_D)
    padded = weighted_linear_gaussian(Phi, actions, log_d)
    np.testing.assert_allclose(padded.W, plain.W, 1e-11)
    np.testing.assert_allclose(padded.covariance, plain.covariance, 1e-11)
    np.testing.assert_allclose(padded.effective_sample_size, plain.effective_sample_size, 1e-12)
    single = [x.astype(np.float32) for x in (PHI, A, LOG_D)]
    traced = jax.jit(lambda *data: weighted_linear_gaussian(*data, covariance=GENERAL))(*single)
    exact = weighted_linear_gaussian(*[x.astype(np.float64) for x in single], covariance=GENERAL)
    assert traced.W.dtype == traced.covariance.dtype == jnp.float32
    np.testing.assert_allclose(traced.covariance, exact.covariance, 1e-6)
    assert Result.of(traced.result) is Result.CONVERGED
    thin = jax.jit(weighted_linear_gaussian)(single[0][:3], single[1][:3])
    assert np.all(np.isfinite(jnp.linalg.cholesky(thin.covariance)))


def test_inside_jit_what_is_not_finite_has_a_name():
    for Phi, actions, log_d in [
        (PHI, A, np.full(N, -np.inf)),
        (PHI, np.full_like(A, np.nan), LOG_D),
        (np.full_like(PHI, np.inf), A, LOG_D),
        (PHI, A, np.full(N, np.nan)),
    ]:
        fit = jax.jit(weighted_linear_gaussian)(Phi, actions, log_d)
        assert Result.of(fit.result) is Result.NON_FINITE
        np.testing.assert_array_equal(fit.W, np.zeros((K, M)))
        np.testing.assert_array_equal(fit.covariance, np.eye(M))


def test_the_door():
    for change, message in [
        ({"log_weights": np.full(N, -np.inf)}, "one of them finite"),
        ({"A": np.full_like(A, np.nan)}, "A is not finite"),
        ({"ridge": -1.0}, "ridge"),
        ({"floor": np.inf}, "floor"),
    ]:
        with pytest.raises(ValueError, match=message):
            weighted_linear_gaussian(**{"Phi": PHI, "A": A, "log_weights": LOG_D, **change})


def test_compiles_once():
    weighted_linear_gaussian(PHI, A, LOG_D)
    with counted_compilations() as compiled:
        weighted_linear_gaussian(2 * PHI, A + 1, LOG_D - 2, ridge=0.1, floor=1e-3)
    assert compiled.count == 0
