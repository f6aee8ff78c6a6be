"""The amortization gap: encoders of known families against the best posterior of each observation, by scipy."""

import functools

import equinox as eqx
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize
import scipy.special

import optimality as ox
from clauses import against
from optimality.core.result import Result
from optimality.distributions.natural_normal import NaturalNormal
from optimality.distributions.normal import Normal
from optimality.latent.abstract import AbstractLatentModel
from optimality.latent.amortization import amortization_gap
from optimality.latent.linear_gaussian import LinearGaussianModel
from optimality.latent.per_datum_inference import amortized_parameter_count, parameter_count

LOADING = np.array([[0.9, -0.4], [0.3, 1.1], [-0.7, 0.5]])
MEAN = np.array([0.2, -0.1, 0.4])
NOISE = np.array([0.3, 0.5, 0.8])
NODES = np.linspace(-9.0, 9.0, 501)
WEIGHTS = np.exp(-0.5 * NODES**2) / np.sum(np.exp(-0.5 * NODES**2))
DEVIATION = 0.3


class Bent(AbstractLatentModel):
    """`x | z ~ N(tanh 2 z + .4 z, .3^2)`."""

    deviation: float = DEVIATION

    @property
    def latents(self):
        return 1

    @property
    def features(self):
        return 1

    def decode(self, z):
        return Normal(jnp.tanh(2 * z) + 0.4 * z, jnp.full_like(z, self.deviation))

    def log_likelihood(self, x, z):
        return jnp.sum(self.decode(z).log_prob(x))

    def posterior(self, x):
        raise NotImplementedError


class LinearEncoder(eqx.Module):
    """`N(A x + b, e^2)` with one scale for all x."""

    weights: np.ndarray
    bias: np.ndarray
    log_scale: np.ndarray

    def __call__(self, x):
        mean = jnp.asarray(self.weights) @ x + jnp.asarray(self.bias)
        return Normal(mean, jnp.exp(jnp.asarray(self.log_scale)))


class PolynomialEncoder(eqx.Module):
    """Mean and log-scale polynomials in x, lowest power first."""

    mean: np.ndarray
    log_scale: np.ndarray

    def __call__(self, x):
        powers = x ** jnp.arange(len(self.mean), dtype=x.dtype)
        return NaturalNormal.of(
            Normal((powers @ jnp.asarray(self.mean))[None], jnp.exp(powers @ jnp.asarray(self.log_scale))[None])
        )


def best_linear_encoder(x: np.ndarray) -> LinearEncoder:
    """By scipy, on the mean bound of a linear-Gaussian model written out in closed form."""
    d, k = LOADING.shape

    def loss(v):
        A, b, log_e = v[: k * d].reshape(k, d), v[k * d : k * d + k], v[-k:]
        m, e2 = x @ A.T + b, np.exp(2 * log_e)
        residual = x - m @ LOADING.T - MEAN
        fit = -0.5 * np.mean(residual**2 @ (1 / NOISE)) - 0.5 * np.sum(e2 @ (LOADING**2 / NOISE[:, None]).T)
        rate = 0.5 * np.mean(np.sum(m * m, 1)) + 0.5 * np.sum(e2) - np.sum(log_e)
        dm = (residual / NOISE) @ LOADING - m
        de = -e2 * ((LOADING**2 / NOISE[:, None]).sum(0) + 1.0) + 1.0
        return rate - fit, -np.concatenate([(dm.T @ x / len(x)).ravel(), dm.mean(0), de])

    v = scipy.optimize.minimize(loss, np.zeros(k * d + 2 * k), jac=True, method="BFGS", options={"gtol": 1e-9}).x
    return LinearEncoder(v[: k * d].reshape(k, d), v[k * d : k * d + k], v[-k:])


def bound_of_bent(m, log_s, x):
    """Bounds `[n]` and their derivatives in the mean and the log-scale."""
    s = np.exp(log_s)[:, None]
    z = m[:, None] + s * NODES
    bent = np.tanh(2 * z)
    residual = (x[:, None] - bent - 0.4 * z) / DEVIATION
    slope = residual / DEVIATION * (2 * (1 - bent**2) + 0.4)
    value = (-0.5 * residual**2 - np.log(DEVIATION) - 0.5 * np.log(2 * np.pi)) @ WEIGHTS
    rate = 0.5 * (m**2 + s[:, 0] ** 2 - 1) - log_s
    return value - rate, slope @ WEIGHTS - m, (slope * NODES) @ WEIGHTS * s[:, 0] - s[:, 0] ** 2 + 1


def quantiles_of_bent() -> np.ndarray:
    """At (i - 1/2) / 41."""
    mean = np.tanh(2 * NODES) + 0.4 * NODES
    over = lambda x, p: WEIGHTS @ scipy.special.ndtr((x - mean) / DEVIATION) - p  # noqa: E731
    places = (np.arange(41) + 0.5) / 41
    return np.array([scipy.optimize.brentq(over, -8, 8, args=(p,), xtol=1e-13) for p in places])


def log_evidence_of_bent(x: np.ndarray) -> np.ndarray:
    residual = (x[:, None] - np.tanh(2 * NODES) - 0.4 * NODES) / DEVIATION
    return np.log(np.exp(-0.5 * residual**2) @ WEIGHTS / (DEVIATION * np.sqrt(2 * np.pi)))


def best_polynomial_encoder(x: np.ndarray, degree: int) -> PolynomialEncoder:
    widest = np.abs(x).max()
    powers = np.vander(x / widest, degree + 1, increasing=True)

    def loss(v):
        a, b = np.split(v, 2)
        value, dm, ds = bound_of_bent(powers @ a, powers @ b, x)
        return -value.mean(), -np.concatenate([powers.T @ dm, powers.T @ ds]) / len(x)

    start = np.zeros(2 * degree + 2)
    start[degree + 1] = -1.0
    start[1 : degree + 1] = np.eye(1, degree)[0] if degree else 0.0
    v = scipy.optimize.minimize(loss, start, jac=True, method="BFGS", options={"gtol": 1e-9, "maxiter": 5000}).x
    a, b = np.split(v, 2)
    powers = np.arange(degree + 1)
    # padded to one degree, so that all encoders are one program
    return PolynomialEncoder(*(np.pad(c / widest**powers, (0, 5 - degree)) for c in (a, b)))


@functools.cache
def measured() -> tuple[np.ndarray, np.ndarray, dict[int, PolynomialEncoder]]:
    """Observations, the best bound of each, and the best encoders."""
    x = quantiles_of_bent()

    def best(one):
        def loss(v):
            value, dm, ds = bound_of_bent(v[:1], v[1:], one[None])
            return -value[0], -np.array([dm[0], ds[0]])

        runs = (
            scipy.optimize.minimize(loss, [m, -1.0], jac=True, method="BFGS", options={"gtol": 1e-9})
            for m in (0.0, one, one / 1.4)
        )
        return max(-run.fun for run in runs)

    encoders = {degree: best_polynomial_encoder(x, degree) for degree in (0, 1, 3, 5)}
    return x, np.array([best(one) for one in x]), encoders


def gap(model, encoder, x, **options) -> float:
    found = amortization_gap(model, encoder, x, **options)
    assert found.result is Result.CONVERGED
    return float(found.gap)


def gap_to_the_evidence(model, encoder, x, **options) -> float:
    """Counts what the family cannot do as the encoder's fault."""
    found = amortization_gap(model, encoder, x, **options)
    exact = log_evidence_of_bent(x) if x.ndim == 1 else [model.log_evidence(one) for one in x]
    return float(np.mean(exact) - found.encoder_bound)


@pytest.mark.row("S35.gap_zero")
@against(gap, gap_to_the_evidence=gap_to_the_evidence)
def test_a_linear_encoder_loses_nothing_on_a_linear_model(implementation):
    x = np.random.default_rng(0).normal(size=(40, 3))
    fresh = np.random.default_rng(1).normal(size=(10, 3))
    model = LinearGaussianModel(LOADING, MEAN, NOISE)
    assert abs(implementation(model, best_linear_encoder(x), fresh, expectation="sigma_points")) < 1e-10


@pytest.mark.row("S35.measured_gap")
@against(gap, gap_to_the_evidence=gap_to_the_evidence)
def test_polynomial_encoders_lose_less_and_less(implementation):
    """Measured by scipy: 8.327295, .163193, .016428, .001226 nats with 2, 4, 8, 12 numbers, where 41 posteriors of
    their own hold 82; what the family cannot do is .056193 of them all."""
    x, best, encoders = measured()
    powers = x[:, None] ** np.arange(6)
    np.testing.assert_allclose(np.mean(log_evidence_of_bent(x)), -1.452402964856, atol=1e-10)
    np.testing.assert_allclose(np.mean(log_evidence_of_bent(x) - best), 0.056192546, atol=1e-8)
    for degree, printed in ((0, 8.327295283), (1, 0.163193282), (3, 0.016428166), (5, 0.001226209)):
        encoder = encoders[degree]
        bounds, *_ = bound_of_bent(powers @ encoder.mean, powers @ encoder.log_scale, x)
        np.testing.assert_allclose(np.mean(best - bounds), printed, atol=1e-7)
        found = implementation(Bent(), encoder, x, expectation="trapezoid", starts=2)
        np.testing.assert_allclose(found, printed, atol=1e-7)


@pytest.mark.row("S35.count")
@against(
    lambda model, encoder, points: amortized_parameter_count(model, encoder),
    per_datum=lambda model, encoder, points: parameter_count(model, points),
)
def test_an_encoder_does_not_grow_with_the_data(implementation):
    for degree, numbers in ((0, 2), (1, 4), (3, 8), (5, 12)):
        encoder = PolynomialEncoder(np.zeros(degree + 1), np.zeros(degree + 1))
        for points in (1, 41, 1000):
            assert implementation(Bent(), encoder, points) == 1 + numbers
    assert parameter_count(Bent(), 41) == 1 + 82


def test_a_gap_by_draws_comes_with_its_error():
    x = np.random.default_rng(1).normal(size=(12, 3))
    model = LinearGaussianModel(LOADING, MEAN, NOISE)
    best = best_linear_encoder(x)
    bad = eqx.tree_at(lambda e: e.bias, best, best.bias + 0.5)
    precision = np.eye(2) + LOADING.T @ np.diag(1 / NOISE) @ LOADING
    found = amortization_gap(model, bad, x, steps=300)
    assert abs(found.gap - 0.5 * np.sum(precision) * 0.25) < 3 * found.standard_error
    assert found.standard_error < 0.1
    np.testing.assert_allclose(found.gap, np.mean(found.gaps), rtol=1e-6)
    np.testing.assert_allclose(found.refined_bound - found.encoder_bound, found.gap, rtol=1e-5)


def test_an_encoder_of_another_family_is_refused():
    model = LinearGaussianModel(LOADING, MEAN, NOISE)
    with pytest.raises(ValueError, match=r"must return a Normal or a NaturalNormal .* a MultivariateNormal"):
        amortization_gap(model, model.posterior, np.zeros((2, 3)))
    with pytest.raises(ValueError, match=r"posterior must have shape \(2,\)"):
        amortization_gap(model, lambda x: Normal(x, jnp.ones_like(x)), np.zeros((2, 3)))
    with pytest.raises(ValueError, match="a point or more"):
        amortization_gap(model, best_linear_encoder(np.ones((2, 3))), np.zeros((0, 3)))


def test_public_name():
    assert ox.amortization_gap is amortization_gap
