"""Quadrature against closed forms, finite differences on other grids, and expectations over two and three draws."""

import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.tree_util import Partial

from clauses import against
from gaussian_toy import THETA, X, log_evidence, noise, posterior, toy_log_joint
from instances import close
from optimality import exact_importance_weighted_bound, quadrature_evidence
from optimality.distributions.multivariate_normal import MultivariateNormal
from optimality.distributions.normal import Normal
from optimality.latent.evidence import QuadratureEvidence, QuadratureWarning

LOADING = np.array([[1.2, -0.4], [0.3, 0.9], [-0.7, 0.5]])
NOISE, OBSERVED = np.array([0.3, 0.5, 0.4]), np.array([0.9, -0.6, 0.4])


def linear_log_joint(z):
    residual = OBSERVED - LOADING @ z
    constant = -0.5 * (3 + 2) * np.log(2 * np.pi) - 0.5 * np.sum(np.log(NOISE))
    return -0.5 * jnp.sum(residual**2 / NOISE) - 0.5 * jnp.sum(z * z) + constant


def tanh_log_joint(bend, z, x=0.6):
    """Of `x | z ~ N(tanh(bend z) + .4 z, .3^2)`."""
    z = z[0]
    return -0.5 * z * z - 0.5 * ((x - jnp.tanh(bend * z) - 0.4 * z) / 0.3) ** 2 - np.log(0.3 * 2 * np.pi)


def two_modes(z):
    """Of `x | z ~ N(z^2, .2^2)` at 1.5."""
    z = z[0]
    return -0.5 * z * z - 0.5 * ((1.5 - z * z) / 0.2) ** 2 - np.log(0.2 * 2 * np.pi)


def of_moments(log_joint, latents, log_of_sum, center=0.0, half_width=12.0, nodes=401):
    """A rule written once more, with `log_of_sum(log values, log of the cell)` to be wrong in."""
    axes = [np.linspace(-half_width, half_width, nodes) + center] * latents
    z = np.stack([axis.ravel() for axis in np.meshgrid(*axes)], axis=1)
    with jax.enable_x64(True):
        values = np.asarray(jax.vmap(log_joint)(jnp.asarray(z)))
    total = log_of_sum(values, latents * np.log(axes[0][1] - axes[0][0]))
    weights = np.exp(values - np.max(values))
    mean = weights @ z / weights.sum()
    covariance = ((z - mean) * weights[:, None]).T @ (z - mean) / weights.sum()
    return QuadratureEvidence(np.asarray(total), mean, covariance, np.asarray(0.0))


def without_cells(log_joint, latents, **options):
    return of_moments(log_joint, latents, lambda values, cell: np.log(np.sum(np.exp(values))), **options)


def mean_of_nodes(log_joint, latents, **options):
    return of_moments(log_joint, latents, lambda values, cell: np.log(np.mean(np.exp(values))), **options)


def cell_of_one_latent(log_joint, latents, **options):
    return of_moments(log_joint, latents, lambda v, cell: np.log(np.sum(np.exp(v))) + cell / latents, **options)


@pytest.mark.row("S29.marginal")
@against(
    quadrature_evidence,
    without_cells=without_cells,
    mean_of_nodes=mean_of_nodes,
    cell_of_one_latent=cell_of_one_latent,
)
def test_two_latents(implementation):
    found = implementation(linear_log_joint, 2, nodes=401)
    covariance = LOADING @ LOADING.T + np.diag(NOISE)
    gain = LOADING.T @ np.linalg.inv(covariance)
    log_p = -0.5 * (OBSERVED @ np.linalg.solve(covariance, OBSERVED) + np.linalg.slogdet(2 * np.pi * covariance)[1])
    close(found.log_evidence, log_p)
    close(found.mean, gain @ OBSERVED)
    close(found.covariance, np.eye(2) - gain @ LOADING)
    assert found.error < 1e-12


def hermite(nodes):
    points, weights = np.polynomial.hermite_e.hermegauss(nodes)

    def evidence(log_joint, latents):
        with jax.enable_x64(True):
            values = np.asarray(jax.vmap(log_joint)(jnp.asarray(points[:, None])))
        ratio = np.exp(values + 0.5 * points**2) / np.sqrt(2 * np.pi)
        both = weights * ratio * np.sqrt(2 * np.pi)
        mean = np.atleast_1d(both @ points / both.sum())
        return QuadratureEvidence(np.asarray(np.log(both.sum())), mean, np.eye(1), np.asarray(0.0))

    return evidence


@pytest.mark.row("S29.marginal")
@against(quadrature_evidence, hermite_20=hermite(20), hermite_180=hermite(180))
def test_a_decoder_that_bends(implementation):
    """Gauss-Hermite rules of 20 and 180 nodes give -1.144 and -1.523."""
    found = implementation(Partial(tanh_log_joint, 2.0), 1)
    close(found.log_evidence, -1.520007234103)
    close(implementation(Partial(tanh_log_joint, 2.0), 1).log_evidence, found.log_evidence)


def moving_posterior(bend):
    """E_{p(z | x)} log p(x, z) with the posterior at the same parameter: E1.1's objective."""
    points = np.linspace(-12, 12, 3001)
    with jax.enable_x64(True):
        values = np.asarray(jax.vmap(lambda z: tanh_log_joint(bend, z[None]))(jnp.asarray(points)))
    weights = np.exp(values - values.max())
    return float(weights @ values / weights.sum())


def of_tanh(bend):
    return float(quadrature_evidence(Partial(tanh_log_joint, bend), 1, nodes=1501).log_evidence)


@pytest.mark.row("S30.gradient")
@against(of_tanh, moving_posterior=moving_posterior)
def test_fisher_identity(implementation):
    """Differences of log p on one grid, the posterior's mean of d log p(x, z) on another, one of them shifted."""
    step = 1e-3
    values = [implementation(2.0 + k * step) for k in (-2, -1, 1, 2)]
    slope = (values[0] - 8 * values[1] + 8 * values[2] - values[3]) / (12 * step)
    points = np.linspace(-13, 12.5, 4001)
    with jax.enable_x64(True):
        joint = jax.vmap(jax.value_and_grad(lambda bend, z: tanh_log_joint(bend, z[None])), in_axes=(None, 0))
        logs, slopes = (np.asarray(each) for each in joint(jnp.asarray(2.0), jnp.asarray(points)))
    weights = np.exp(logs - logs.max())
    close(slope, weights @ slopes / weights.sum(), 1e-9)


def test_derivatives_pass_through(x64):
    """By autodiff through the rule, with the parameter closed over: traced, it keeps its precision."""

    def evidence(theta):
        return quadrature_evidence(toy_log_joint(theta), 1, nodes=401).log_evidence

    theta = jnp.asarray(THETA)
    value, slope = jax.jit(jax.value_and_grad(evidence))(theta)
    assert value.dtype == theta.dtype
    tolerance = 1e-10 if x64 else 1e-5
    close(value, log_evidence(THETA), tolerance)
    close(slope, 0.01487209995, tolerance)


def held(theta, at):
    """E_{p(z | x, at)} log p(x | z, theta): what the M-step raises."""
    mean, deviation = posterior(at)
    return -0.5 * np.log(2 * np.pi) - 0.5 * (X**2 - 2 * X * theta * mean + theta**2 * (mean**2 + deviation**2))


def joint_at(theta, z):
    return toy_log_joint(theta)(z)


def toy_evidence(theta):
    return float(quadrature_evidence(Partial(joint_at, theta), 1, nodes=401).log_evidence)


@pytest.mark.row("S30.objective")
@against(toy_evidence, moving_posterior=lambda theta: held(theta, theta))
def test_the_two_objectives_differ(implementation):
    """E1.1: equal gradients with the posterior held, yet another value, and another maximum if it moves."""
    close(implementation(THETA), -1.68153056, 1e-8)
    close(held(THETA, THETA), -1.42823, 1e-5)
    close((held(THETA + 1e-4, THETA) - held(THETA - 1e-4, THETA)) / 2e-4, 0.01487209995, 1e-8)
    grid = np.arange(0.6, 1.8, 0.02)
    best = grid[np.argmax([implementation(theta) for theta in grid])]
    assert abs(best - np.sqrt(X**2 - 1)) <= 0.01 + 1e-9
    assert abs(grid[np.argmax([held(theta, theta) for theta in grid])] - 1.54) <= 0.01 + 1e-9


# The best normal law for the tanh model at .6, and for the two modes, by Nelder-Mead on the exact bound.
TANH_Q, MODES_Q = (0.32191971, np.exp(-1.75160664)), (1.20807459, np.exp(-2.49161294))


def log_weights(log_joint, location, scale, nodes):
    epsilon, mass = (array.ravel() for array in noise(1, nodes))
    with jax.enable_x64(True):
        joint = np.asarray(jax.vmap(log_joint)(jnp.asarray(location + scale * epsilon)[:, None]))
    return joint + 0.5 * epsilon**2 + np.log(scale) + 0.5 * np.log(2 * np.pi), mass


def from_definition(log_joint, location, scale):
    """L_1, L_2 and L_3 by a rule over one, two and three draws."""
    log_w, mass = log_weights(log_joint, location, scale, 201)
    two = np.logaddexp(log_w[:, None], log_w[None])
    three = np.logaddexp(two[:, :, None], log_w)
    return [mass @ log_w, mass @ two @ mass - np.log(2), mass @ (mass @ (three @ mass)) - np.log(3)]


def of_mean_weight(log_joint, q, samples):
    """The mean of logs for every K."""
    values, mass = log_weights(log_joint, q.location[0], q.scale[0], 401)
    return np.full(np.shape(samples), mass @ values)


def best_of(log_joint, q, samples):
    """E log of the largest of K weights, by their law."""
    values, mass = log_weights(log_joint, q.location[0], q.scale[0], 401)
    order = np.argsort(values)
    below = np.cumsum(mass[order])
    return np.array([values[order] @ np.diff(below**k, prepend=0.0) for k in np.atleast_1d(samples)])


def without_log_k(log_joint, q, samples):
    return exact_importance_weighted_bound(log_joint, q, samples) + np.log(samples)


@against(exact_importance_weighted_bound, of_mean_weight=of_mean_weight, best_of=best_of, without_log_k=without_log_k)
def test_exact_importance_weighted_bound(implementation):
    log_joint = Partial(tanh_log_joint, 2.0)
    location, scale = TANH_Q
    q = Normal([location], [scale])
    found = implementation(log_joint, q, [1, 2, 3, 5, 10, 100])
    close(found[:3], from_definition(log_joint, location, scale), 1e-11)
    close(found[0], -1.567958166801, 1e-11)
    close(found[[1, 3, 4, 5]], [-1.553004064704, -1.542278180, -1.537058183, -1.527709526], 1e-8)
    assert np.all(np.diff(found) > 0.0)
    assert found[-1] < -1.520007234103


@against(exact_importance_weighted_bound, of_mean_weight=of_mean_weight, best_of=best_of, without_log_k=without_log_k)
def test_one_of_two_modes(implementation):
    """A bound of a hundred thousand draws is log 2 short, to seven digits."""
    log_p = quadrature_evidence(two_modes, 1).log_evidence
    found = implementation(two_modes, Normal([MODES_Q[0]], [MODES_Q[1]]), [1, 10, 1000, 100_000])
    np.testing.assert_allclose(log_p - found - np.log(2), [3.6475e-3, 4.6333e-4, 6.0586e-6, 8.4412e-8], rtol=1e-4)


def test_many_draws_of_a_broad_proposal():
    """Under the prior the weights have a variance, and the gap comes to Var(w) / (2 K p^2)."""
    log_p = quadrature_evidence(two_modes, 1).log_evidence
    q = MultivariateNormal([0.0], [[1.0]])
    found = exact_importance_weighted_bound(two_modes, q, [10, 1000, 100_000])
    log_w, mass = log_weights(two_modes, 0.0, 1.0, 401)
    assert mass @ log_w < found[0]
    assert np.all(np.diff(found) > 0.0)
    variance = mass @ np.expm1(log_w - log_p) ** 2
    np.testing.assert_allclose(2 * 100_000 * (log_p - found[-1]), variance, rtol=1e-3)


def test_both_rules_under_transformations(x64):
    """Of a batch of observations that the log joint closes over."""
    observed = jnp.asarray([1.3, 0.4])
    q = Normal(jnp.full(1, 0.3), jnp.full(1, 0.6))

    def both(x):
        log_joint = toy_log_joint(THETA, x)
        center = x * THETA / (1 + THETA**2)
        bounds = exact_importance_weighted_bound(log_joint, q, np.array([1, 2, 10]), nodes=801, steps=801)
        return quadrature_evidence(log_joint, 1, nodes=401, center=center).log_evidence, bounds

    evidence, bounds = jax.jit(jax.vmap(both))(observed)
    assert evidence.dtype == bounds.dtype == observed.dtype
    tolerance = 1e-9 if x64 else 5e-5
    close(evidence, [log_evidence(THETA, 1.3), log_evidence(THETA, 0.4)], tolerance)
    close(bounds[0], exact_importance_weighted_bound(toy_log_joint(THETA), q, [1, 2, 10]), tolerance)


def test_one_program_for_all_observations():
    """A log joint that carries its arrays is not compiled again."""
    log_joint = Partial(lambda x, z: toy_log_joint(THETA, x)(z), np.asarray(X))
    found = quadrature_evidence(log_joint, 1)
    for x in (0.4, -2.0):
        other = quadrature_evidence(Partial(log_joint.func, np.asarray(x)), 1)
        close(other.log_evidence, log_evidence(THETA, x))
        close(other.mean, [posterior(THETA, x)[0]])
    close(found.log_evidence, log_evidence(THETA))
    assert isinstance(found.log_evidence, np.ndarray)


def test_density_zero_in_places():
    """z^6 exp(-z) of a positive z: evidence 6!; under a q that also draws negative z, no bound is finite."""

    def log_joint(z):
        return jnp.where(z[0] > 0.0, 6.0 * jnp.log(jnp.maximum(z[0], 1e-300)) - z[0], -jnp.inf)

    found = quadrature_evidence(log_joint, 1, center=25.0, half_width=25.0)
    close(found.log_evidence, np.log(720.0), 1e-9)
    close(found.mean, [7.0], 1e-8)
    assert np.all(np.isneginf(exact_importance_weighted_bound(log_joint, Normal([0.3], [0.6]), [1, 5])))


@pytest.mark.parametrize(
    "options",
    [{"nodes": 21}, {"half_width": 0.8}, {"center": 12.0, "half_width": 11.2}],
    ids=["coarse", "narrow", "off-center"],
)
def test_a_grid_that_misses_is_told(options):
    sharp = Partial(lambda x, z: -0.5 * ((x - jnp.sum(z)) / 0.05) ** 2 - 0.5 * jnp.sum(z * z), np.asarray(0.83))
    with pytest.warns(QuadratureWarning, match="Two grids give log evidences"):
        quadrature_evidence(sharp, 1, **options)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        quadrature_evidence(sharp, 1)


def test_a_coarse_integral_is_told():
    with pytest.warns(QuadratureWarning, match="Two grids give importance-weighted"):
        exact_importance_weighted_bound(two_modes, Normal([0.0], [1.5]), 2, nodes=41)


@pytest.mark.parametrize(
    ("call", "match"),
    [
        (lambda: quadrature_evidence(linear_log_joint, 3), "takes 1 or 2 latents"),
        (lambda: quadrature_evidence(linear_log_joint, 2, nodes=2), "nodes must be at least 3"),
        (lambda: quadrature_evidence(linear_log_joint, 2, half_width=0.0), "half_width positive"),
        (lambda: quadrature_evidence(linear_log_joint, 2, center=[1.0, 2.0, 3.0]), "center must be a number or one"),
        (lambda: quadrature_evidence(lambda z: jnp.log(z[0]), 1), "log_joint must be finite"),
        (lambda: quadrature_evidence(lambda z: z[0] - jnp.inf, 1), "-inf at every node"),
        (lambda: quadrature_evidence(lambda z: -z * z, 1), "must return a number"),
        (lambda: exact_importance_weighted_bound(two_modes, Normal([0.0, 0.0], [1.0, 1.0]), 2), "posterior of one"),
        (lambda: exact_importance_weighted_bound(two_modes, Normal([0.0], [1.0]), [1, 0]), "between 1 and a million"),
        (lambda: exact_importance_weighted_bound(two_modes, Normal([0.0], [1.0]), 2, steps=3), "at least 5"),
        (lambda: exact_importance_weighted_bound(lambda z: jnp.log(z[0]), Normal([0.0], [1.0]), 2), "must be finite"),
    ],
)
def test_errors_at_the_door(call, match):
    with pytest.raises(ValueError, match=match):
        call()
