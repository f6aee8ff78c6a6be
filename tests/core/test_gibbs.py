"""Gibbs maps and the certainty equivalent, against their variational identity, dense sums and differences."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special

from clauses import against
from optimality.core import gibbs as core
from optimality.core.information import kl_divergence

# Compiled as a whole: eagerly each test would compile the functions operation by operation.
soft_maximum = jax.jit(core.soft_maximum, static_argnames="axis")
gibbs = jax.jit(core.gibbs, static_argnames="axis")
certainty_equivalent = jax.jit(core.certainty_equivalent, static_argnames="axis")
tilted = jax.jit(core.tilted, static_argnames="axis")

F = np.array([1.0, -0.5, 2.0, 0.3])
BASE = np.array([0.1, 0.4, 0.3, 0.2])
LOG_BASE = np.log(BASE)
TEMPERATURE = 0.7


def tolerance(x64):
    return 1e-12 if x64 else 1e-5


def differences(function, at, step=1e-5):
    at = np.asarray(at, np.float64)
    steps = step * np.eye(at.size).reshape(at.size, *at.shape)
    return np.stack([(function(at + e) - function(at - e)) / (2 * step) for e in steps])


def objective(p, f, temperature, log_base):
    inside = p > 0
    logs = np.where(inside, np.log(np.where(inside, p, 1.0)) - log_base, 0.0)
    return np.sum(p * f, axis=-1) - temperature * np.sum(p * logs, axis=-1)


VALUES = {
    "sign": lambda f, t, b: -soft_maximum(-f, t, b),
    "no_base": lambda f, t, b: soft_maximum(f, t),
    "inverse_temperature": lambda f, t, b: soft_maximum(f, 1.0 / t, b),
    "maximum": lambda f, t, b: soft_maximum(f, 0.0, b),
}


@against(soft_maximum, **VALUES)
def test_value_is_the_best_over_the_simplex(implementation, x64):
    """`max <p, f> - tau KL(p || b)`: reached at the Gibbs law, and by no law of a fine grid or at random exceeded."""
    value = implementation(F, TEMPERATURE, LOG_BASE)
    best = objective(np.exp(gibbs(F, TEMPERATURE, LOG_BASE)), F, TEMPERATURE, LOG_BASE)
    np.testing.assert_allclose(value, best, tolerance(x64))
    others = np.random.default_rng(0).dirichlet(np.ones(4), 20_000)
    grid = np.stack(np.meshgrid(*[np.arange(41)] * 3, indexing="ij"), -1).reshape(-1, 3)
    grid = np.concatenate([grid, 40 - grid.sum(-1, keepdims=True)], -1)
    grid = grid[grid[:, -1] >= 0] / 40
    for laws in (others, grid):
        most = objective(laws, F, TEMPERATURE, LOG_BASE).max()
        assert most <= float(value) + 1e-6
        assert most > float(value) - 0.02


@against(soft_maximum, **VALUES)
def test_value_by_scipy(implementation, x64):
    for temperature in (1e-3, 0.7, 30.0):
        expected = temperature * scipy.special.logsumexp(F / temperature, b=BASE)
        np.testing.assert_allclose(implementation(F, temperature, LOG_BASE), expected, tolerance(x64))


@against(lambda f, t, n: soft_maximum(f, t, -math.log(n)), entropy_form=lambda f, t, n: soft_maximum(f, t))
def test_entropy_and_kl_form_differ_by_tau_log_n(implementation, x64):
    expected = soft_maximum(F, TEMPERATURE) - TEMPERATURE * math.log(4)
    np.testing.assert_allclose(implementation(F, TEMPERATURE, 4), expected, tolerance(x64))


@against(gibbs, no_base=lambda f, t, b: gibbs(f, t), unnormalized=lambda f, t, b: jnp.asarray(f / t + b))
def test_gibbs(implementation, x64):
    weights = BASE * np.exp(F / TEMPERATURE)
    np.testing.assert_allclose(
        np.exp(implementation(F, TEMPERATURE, LOG_BASE)), weights / weights.sum(), tolerance(x64)
    )


@against(
    gibbs,
    uniform=lambda f, t, b: gibbs(f, t),
    first=lambda f, t, b: jnp.log(jax.nn.one_hot(jnp.argmax(jnp.asarray(f)), 4)),
)
def test_temperature_zero(implementation, x64):
    ties = np.array([2.0, 1.0, 2.0, -1.0])
    np.testing.assert_allclose(np.exp(implementation(ties, 0.0, LOG_BASE)), [0.25, 0, 0.75, 0], tolerance(x64))
    np.testing.assert_allclose(np.exp(implementation(ties, 0.0, 0.0 * LOG_BASE)), [0.5, 0, 0.5, 0], tolerance(x64))
    assert soft_maximum(ties, 0.0, LOG_BASE) == 2.0
    gradient = jax.grad(lambda f: soft_maximum(f, 0.0))(jnp.asarray(ties))
    np.testing.assert_allclose(gradient, [0.5, 0, 0.5, 0], tolerance(x64))


def test_infinite_temperature(x64):
    np.testing.assert_allclose(soft_maximum(F, np.inf, LOG_BASE), BASE @ F, tolerance(x64))
    np.testing.assert_allclose(np.exp(gibbs(F, np.inf, LOG_BASE)), BASE, tolerance(x64))
    assert soft_maximum(F, np.inf) == np.inf
    gradient = jax.grad(soft_maximum)(jnp.asarray(F), np.inf, LOG_BASE)
    np.testing.assert_allclose(gradient, BASE, tolerance(x64))


@pytest.mark.parametrize("temperature", [1e-3, 1e-12, 1e-25, 1e-37])
def test_tiny_temperatures(temperature, x64):
    f = jnp.asarray([1.0, 2.0, -jnp.inf, 2.0])
    value = jax.jit(lambda f: soft_maximum(f, temperature))
    np.testing.assert_allclose(value(f), 2.0 + temperature * math.log(2), tolerance(x64))
    np.testing.assert_allclose(jax.jit(jax.grad(value))(f), [0, 0.5, 0, 0.5], atol=1e-12)
    hessian = jax.jit(jax.hessian(value))(f)
    assert np.all(np.isfinite(hessian))
    assert np.all(hessian[jnp.asarray([0, 2])] == 0.0)


def test_axis_and_mask(x64):
    f = np.stack([F, 2 * F, -F])
    np.testing.assert_allclose(soft_maximum(f.T, 0.5, axis=0), soft_maximum(f, 0.5), tolerance(x64))
    np.testing.assert_allclose(gibbs(f.T, 0.5, axis=0).T, gibbs(f, 0.5), tolerance(x64))
    where = np.array([[True, False, True, True], [True] * 4, [False] * 4])
    np.testing.assert_allclose(
        soft_maximum(f, 0.5, where=where), soft_maximum(np.where(where, f, -np.inf), 0.5), tolerance(x64)
    )
    assert soft_maximum(f, 0.5, where=where)[2] == -np.inf
    np.testing.assert_array_equal(gibbs(f, 0.5, where=where)[2], -np.inf)
    np.testing.assert_array_equal(jax.grad(lambda f: soft_maximum(f, 0.5, where=where).sum())(jnp.asarray(f))[2], 0.0)


@pytest.mark.parametrize("temperature", [0.0, 0.7, np.inf])
def test_nothing_left(temperature, x64):
    f = np.full(3, -np.inf)
    assert soft_maximum(f, temperature) == -np.inf
    assert np.all(np.isfinite(jax.grad(soft_maximum)(jnp.asarray(f), temperature)))


@pytest.mark.parametrize("hessian", [jax.hessian, lambda g: jax.jacrev(jax.jacrev(g))], ids=["forward", "reverse"])
def test_derivatives_beside_an_infinite_entry(hessian, x64):
    f = jnp.asarray([1.0, -jnp.inf, 2.0])
    value = lambda x: soft_maximum(jnp.where(jnp.isneginf(f), f, x[:3]), x[3])  # noqa: E731
    at = jnp.asarray([1.0, 0.0, 2.0, TEMPERATURE])
    p = np.exp([1.0 / TEMPERATURE, -np.inf, 2.0 / TEMPERATURE])
    p /= p.sum()
    by_f = (np.diag(p) - np.outer(p, p)) / TEMPERATURE
    second = jax.jit(hessian(value))(at)
    np.testing.assert_allclose(second[:3, :3], by_f, rtol=tolerance(x64) * 10, atol=1e-12)
    spread = p[2] * (1 - p[2])
    np.testing.assert_allclose(second[3, 3], spread / TEMPERATURE**3, rtol=tolerance(x64) * 10)
    assert np.all(np.isfinite(second))


@against(
    lambda t: jax.grad(soft_maximum, 1)(jnp.asarray(F), t, LOG_BASE),
    plus_kl=lambda t: -jax.grad(soft_maximum, 1)(jnp.asarray(F), t, LOG_BASE),
    entropy=lambda t: jax.grad(soft_maximum, 1)(jnp.asarray(F), t),
)
def test_derivative_by_temperature(implementation):
    with jax.enable_x64(True):
        for t in (0.2, 0.7, 5.0):
            numbers = (soft_maximum(F, t + 1e-5, LOG_BASE) - soft_maximum(F, t - 1e-5, LOG_BASE)) / 2e-5
            np.testing.assert_allclose(implementation(t), numbers, rtol=1e-8)
            kl = kl_divergence(gibbs(F, t, LOG_BASE), LOG_BASE)
            np.testing.assert_allclose(implementation(t), -kl, rtol=1e-12)


def test_derivatives_of_gibbs():
    with jax.enable_x64(True):
        law = jax.jit(lambda x: jnp.exp(gibbs(x[:4], x[8], x[4:8])))
        at = np.concatenate([F, LOG_BASE, [TEMPERATURE]])
        np.testing.assert_allclose(jax.jacrev(law)(at).T, differences(law, at), rtol=1e-7, atol=1e-9)


def test_huge_values(x64):
    """Rewards of +-50 over 500 steps at a temperature of 0.001."""
    f = np.array([25_000.0, -25_000.0, 24_999.0, -np.inf])
    value, gradient = jax.value_and_grad(soft_maximum)(jnp.asarray(f), 1e-3)
    np.testing.assert_allclose(value, 25_000.0, rtol=1e-6)
    np.testing.assert_array_equal(gradient, [1, 0, 0, 0])
    for risk in (1e3, -1e3):
        x = f[:3]
        value = certainty_equivalent(x, np.log(np.full(3, 1 / 3)), risk)
        np.testing.assert_allclose(value, 25_000.0 if risk > 0 else -25_000.0, rtol=1e-6)


def test_vmap_over_the_temperature(x64):
    temperatures = np.array([0.0, 1e-3, 0.7, np.inf])
    mapped = jax.jit(jax.vmap(lambda t: soft_maximum(F, t, LOG_BASE)))(temperatures)
    loop = [soft_maximum(F, t, LOG_BASE) for t in temperatures]
    np.testing.assert_allclose(mapped, loop, tolerance(x64))
    by_temperature = jax.jit(jax.vmap(jax.grad(lambda t: soft_maximum(F, t, LOG_BASE))))(temperatures)
    assert np.all(np.isfinite(by_temperature))


def dense_certainty_equivalent(x, p, risk):
    terms = [math.log(a) + risk * b for a, b in zip(p, x, strict=True)]
    top = max(terms)
    return (top + math.log(math.fsum(math.exp(t - top) for t in terms))) / risk


CERTAIN = {
    "sign_of_risk": lambda x, log_p, risk: certainty_equivalent(x, log_p, -risk),
    "mean": lambda x, log_p, risk: certainty_equivalent(x, log_p, 0.0),
    "temperature_for_risk": lambda x, log_p, risk: certainty_equivalent(x, log_p, 1.0 / risk),
    "not_divided": lambda x, log_p, risk: risk * certainty_equivalent(x, log_p, risk),
}


@against(certainty_equivalent, **CERTAIN)
def test_certainty_equivalent(implementation, x64):
    for risk in (-20.0, -0.3, 0.4, 3.0):
        expected = dense_certainty_equivalent(F, BASE, risk)
        np.testing.assert_allclose(implementation(F, LOG_BASE, risk), expected, tolerance(x64) * 10)


def test_certainty_equivalent_at_its_limits(x64):
    mean, variance = BASE @ F, BASE @ (F - BASE @ F) ** 2
    np.testing.assert_allclose(certainty_equivalent(F, LOG_BASE), mean, tolerance(x64))
    for risk in (1e-30, -1e-12, 1e-7):
        expected = mean + risk * variance / 2
        np.testing.assert_allclose(certainty_equivalent(F, LOG_BASE, risk), expected, 1e-12 if x64 else 1e-6)
    assert certainty_equivalent(F, LOG_BASE, np.inf) == F.max()
    assert certainty_equivalent(F, LOG_BASE, -np.inf) == F.min()
    impossible = np.where(F.max() == F, -np.inf, np.log(BASE / (1 - BASE[2])))
    assert certainty_equivalent(F, impossible, np.inf) == 1.0


def test_certainty_equivalent_rises_with_risk(x64):
    risks = np.array([-np.inf, -50.0, -1.0, -1e-2, 0.0, 1e-2, 1.0, 50.0, np.inf])
    values = jax.jit(jax.vmap(lambda risk: certainty_equivalent(F, LOG_BASE, risk)))(risks)
    assert np.all(np.diff(values) > 0)


@against(
    lambda risk: jax.grad(certainty_equivalent, 2)(jnp.asarray(F), LOG_BASE, risk),
    without_one_half=lambda risk: 2.0 * jax.grad(certainty_equivalent, 2)(jnp.asarray(F), LOG_BASE, risk),
    sign=lambda risk: -jax.grad(certainty_equivalent, 2)(jnp.asarray(F), LOG_BASE, risk),
)
def test_derivative_by_risk(implementation):
    with jax.enable_x64(True):
        variance = BASE @ (F - BASE @ F) ** 2
        np.testing.assert_allclose(implementation(0.0), variance / 2, rtol=1e-12)
        np.testing.assert_allclose(implementation(1e-200), variance / 2, rtol=1e-12)
        for risk in (-2.0, -1e-3, 3e-5, 0.5, 4.0):
            value = lambda r: dense_certainty_equivalent(F, BASE, r)  # noqa: E731
            numbers = (value(risk + 1e-4) - value(risk - 1e-4)) / 2e-4
            np.testing.assert_allclose(implementation(risk), numbers, rtol=1e-6)


def test_second_derivative_by_risk():
    """A third of the third cumulant at zero, tiny risks too."""
    with jax.enable_x64(True):
        second = jax.jit(jax.grad(jax.grad(lambda risk: certainty_equivalent(F, LOG_BASE, risk))))
        third = BASE @ (F - BASE @ F) ** 3
        for risk in (0.0, 1e-300, 1e-200, 1e-9):
            np.testing.assert_allclose(second(risk), third / 3, rtol=1e-7)


@pytest.mark.parametrize("risk", [0.0, 1e-12, -1e-9, 1e-4, 2.0, -2.0])
def test_derivatives_along_the_simplex(risk, x64):
    """By the logits of the outcomes; at small risk the limit is `p (x - mean)`, with no digit lost to 1 / risk."""
    function = lambda logits: certainty_equivalent(F, jax.nn.log_softmax(logits), risk)  # noqa: E731
    logits = jnp.asarray(LOG_BASE)
    gradient = jax.jit(jax.grad(function))(logits)
    weights = BASE * np.exp(risk * F)
    posterior = weights / weights.sum()
    small = BASE * (F - BASE @ F)
    expected = small if abs(risk) < 1e-8 else (posterior - BASE) / risk
    np.testing.assert_allclose(gradient, expected, rtol=1e-6 if x64 else 2e-3, atol=1e-9 if x64 else 1e-6)
    assert np.all(np.isfinite(jax.jit(jax.hessian(function))(logits)))


@against(
    tilted,
    untilted=lambda x, log_p, risk: jnp.asarray(log_p),
    sign=lambda x, log_p, risk: tilted(x, log_p, -risk),
    gibbs=lambda x, log_p, risk: gibbs(x, risk, log_p),
)
def test_tilted_is_the_gradient(implementation, x64):
    for risk in (-3.0, 0.25, 2.0):
        law = np.exp(implementation(F, LOG_BASE, risk))
        gradient = jax.grad(certainty_equivalent)(jnp.asarray(F), LOG_BASE, risk)
        np.testing.assert_allclose(law.sum(), 1.0, tolerance(x64))
        np.testing.assert_allclose(law, gradient, tolerance(x64))
        weights = BASE * np.exp(risk * F)
        np.testing.assert_allclose(law, weights / weights.sum(), tolerance(x64))


def test_derivatives_of_tilted():
    with jax.enable_x64(True):
        law = jax.jit(lambda x: jnp.exp(tilted(x[:4], x[4:8], x[8])))
        at = np.concatenate([F, LOG_BASE, [0.6]])
        np.testing.assert_allclose(jax.jacrev(law)(at).T, differences(law, at), rtol=1e-7, atol=1e-9)


@against(
    certainty_equivalent,
    dropped=lambda x, log_p, risk: certainty_equivalent(np.maximum(x, -1e2), log_p, risk),
    ignored=lambda x, log_p, risk: certainty_equivalent(x[x > -np.inf], log_p[x > -np.inf], risk),
)
def test_an_outcome_of_minus_infinity(implementation, x64):
    x = np.array([1.0, -np.inf, 2.0, 0.3])
    seeking = math.log(BASE[0] * math.exp(0.5) + BASE[2] * math.e + BASE[3] * math.exp(0.15)) / 0.5
    np.testing.assert_allclose(implementation(x, LOG_BASE, 0.5), seeking, tolerance(x64))
    for risk in (0.0, -1.0, -np.inf):
        assert implementation(x, LOG_BASE, risk) == -np.inf
    assert implementation(x, LOG_BASE, np.inf) == 2.0


def test_derivatives_beside_an_outcome_of_minus_infinity(x64):
    x = jnp.asarray([1.0, -jnp.inf, 2.0, 0.3])
    gradients = jax.jit(jax.grad(certainty_equivalent, (0, 1, 2)))
    for risk in (-np.inf, -1.0, 0.0, 0.5, np.inf):
        assert all(np.all(np.isfinite(g)) for g in gradients(x, LOG_BASE, risk))
    p = BASE[[0, 2, 3]] * np.exp(0.5 * np.array([1.0, 2.0, 0.3]))
    np.testing.assert_allclose(gradients(x, LOG_BASE, 0.5)[1][jnp.asarray([0, 2, 3])], 2 * p / p.sum(), tolerance(x64))


def test_impossible_outcomes_do_not_matter(x64):
    x, log_p = np.array([1.0, -np.inf, 9e9, 2.0]), np.log([0.4, 1.0, 1.0, 0.6])
    log_p[[1, 2]] = -np.inf
    for risk in (-1.0, 0.0, 2.0, np.inf):
        expected = certainty_equivalent(x[[0, 3]], log_p[[0, 3]], risk)
        np.testing.assert_allclose(certainty_equivalent(x, log_p, risk), expected, tolerance(x64))
        gradients = jax.grad(certainty_equivalent, (0, 1, 2))(jnp.asarray(x), log_p, risk)
        assert all(np.all(np.isfinite(g)) for g in gradients)


def large_temperature(f, temperature, log_base):
    """What one would write: a rounding of the logarithm, multiplied by the temperature."""
    return temperature * jnp.log(jnp.sum(jnp.exp(jnp.asarray(log_base) + jnp.asarray(f) / temperature)))


@pytest.mark.parametrize("temperature", [1e5, 1e6, 1e12])
@against(soft_maximum, multiplied_rounding=large_temperature)
def test_large_temperatures_do_not_multiply_roundings(implementation, temperature):
    f, base = np.array([0.3, -0.7, 1.1]), np.array([0.2, 0.5, 0.3])
    mean = base @ f
    variance, third = base @ (f - mean) ** 2, base @ (f - mean) ** 3
    series = mean + variance / (2 * temperature) + third / (6 * temperature**2)
    with jax.enable_x64(True):
        value = float(implementation(f, temperature, np.log(base)))
    assert abs(value - series) < 1e-15
