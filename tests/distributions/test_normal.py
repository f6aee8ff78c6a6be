"""Normal, against SciPy, numpyro and quadrature."""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions
import pytest
import scipy.integrate
import scipy.stats

from clauses import against
from optimality.distributions import Categorical, Normal

LOCATION, SCALE = np.array([0.3, -40.0, 2.0]), np.array([0.5, 12.0, 1e-3])
VALUE = np.array([0.1, -20.0, 2.002])
ORACLE = scipy.stats.norm(LOCATION, SCALE)


def tolerance(x64):
    return 1e-12 if x64 else 2e-3


@against(
    lambda d, x: d.log_prob(x),
    no_log_scale=lambda d, x: d.log_prob(x) + jnp.log(jnp.asarray(d.scale)),
    variance_for_scale=lambda d, x: Normal(d.location, d.scale**2).log_prob(x),
)
def test_log_prob(implementation, x64):
    np.testing.assert_allclose(
        jax.jit(implementation)(Normal(LOCATION, SCALE), VALUE), ORACLE.logpdf(VALUE), tolerance(x64)
    )


@against(
    lambda d: d.entropy(),
    variance_for_scale=lambda d: Normal(d.location, d.scale**2).entropy(),
    without_one_half=lambda d: d.entropy() - 0.5,
)
def test_entropy(implementation, x64):
    np.testing.assert_allclose(jax.jit(implementation)(Normal(LOCATION, SCALE)), ORACLE.entropy(), tolerance(x64))


@against(lambda d: d.variance(), scale=lambda d: d.scale)
def test_moments(implementation, x64):
    d = Normal(LOCATION, SCALE)
    np.testing.assert_allclose(jax.jit(implementation)(d), ORACLE.var(), tolerance(x64))
    np.testing.assert_allclose(d.mean(), LOCATION, 1e-6)
    np.testing.assert_array_equal(d.mode(), d.mean())


KL = {
    "reversed": lambda p, q: q.kl(p),
    "sign": lambda p, q: -p.kl(q),
    "no_location": lambda p, q: p.kl(Normal(p.location, q.scale)),
    "variance_for_scale": lambda p, q: Normal(p.location, p.scale**2).kl(Normal(q.location, q.scale**2)),
}


@against(lambda p, q: p.kl(q), **KL)
def test_kl_by_numpyro(implementation):
    with jax.enable_x64(True):
        other = LOCATION + np.array([0.4, 9.0, -1e-3]), SCALE * np.array([2.0, 0.3, 1.1])
        oracle = numpyro.distributions.kl_divergence(
            numpyro.distributions.Normal(LOCATION, SCALE), numpyro.distributions.Normal(*other)
        )
        np.testing.assert_allclose(jax.jit(implementation)(Normal(LOCATION, SCALE), Normal(*other)), oracle, 1e-11)


@against(lambda p, q: p.kl(q), **KL)
def test_kl_by_quadrature(implementation):
    p, q = scipy.stats.norm(0.2, 0.6), scipy.stats.norm(-0.5, 1.5)
    number, _ = scipy.integrate.quad(lambda x: p.pdf(x) * (p.logpdf(x) - q.logpdf(x)), -8, 8, epsabs=1e-13)
    with jax.enable_x64(True):
        np.testing.assert_allclose(jax.jit(implementation)(Normal(0.2, 0.6), Normal(-0.5, 1.5)), number, 1e-10)


def test_kl_keeps_its_digits(x64):
    """Of near ones it is `relative difference squared`, of far ones finite, and of equal ones zero."""
    with jax.enable_x64(True):
        one = Normal(0.0, 1.0)
        np.testing.assert_allclose(one.kl(Normal(0.0, 1.0 + 1e-5)), 1e-10, 1e-4)
        np.testing.assert_allclose(Normal(0.0, 1e-30).kl(one), -0.5 + 30 * np.log(10), 1e-12)
        assert one.kl(one) == 0.0


def test_derivatives(x64):
    def objective(location, scale):
        d = Normal(location, scale)
        total = d.log_prob(VALUE) + d.entropy() + d.variance() + d.kl(Normal(VALUE, 2.0 * SCALE))
        return jnp.sum(total)

    if not x64:
        gradients = jax.grad(objective, (0, 1))(jnp.asarray(LOCATION), jnp.asarray(SCALE))
        assert all(g.dtype == jnp.float32 and np.all(np.isfinite(g)) for g in gradients)
        return
    by_location, by_scale = jax.grad(objective, (0, 1))(LOCATION, SCALE)
    for i in range(3):
        step = 1e-5 * SCALE * (np.arange(3) == i)
        by_numbers = objective(LOCATION + step, SCALE) - objective(LOCATION - step, SCALE)
        np.testing.assert_allclose(by_location[i], by_numbers / (2 * step[i]), 1e-6)
        by_numbers = objective(LOCATION, SCALE + step) - objective(LOCATION, SCALE - step)
        np.testing.assert_allclose(by_scale[i], by_numbers / (2 * step[i]), 1e-6)


@against(
    lambda d, keys: jax.vmap(d.sample)(keys),
    variance_for_scale=lambda d, keys: jax.vmap(Normal(d.location, d.scale**2).sample)(keys),
    shifted=lambda d, keys: jax.vmap(d.sample)(keys) + 0.05,
)
def test_samples(implementation, x64):
    """Kolmogorov-Smirnov, refused below a p-value of 0.001 at a fixed seed."""
    samples = jax.jit(implementation)(Normal(0.4, 0.7), jax.random.split(jax.random.key(0), 20_000))
    assert scipy.stats.kstest(np.asarray(samples), scipy.stats.norm(0.4, 0.7).cdf).pvalue > 1e-3


def test_entries_are_independent(x64):
    samples = jax.vmap(Normal(np.zeros(2), np.ones(2)).sample)(jax.random.split(jax.random.key(2), 20_000))
    assert abs(np.corrcoef(samples.T)[0, 1]) < 4 / np.sqrt(20_000)


def test_sample_is_differentiable(x64):
    key = jax.random.key(3)
    by_scale = jax.jacobian(lambda scale: Normal(LOCATION.astype(scale.dtype), scale).sample(key))(jnp.ones(3))
    noise = Normal(jnp.zeros(3), jnp.ones(3)).sample(key)
    np.testing.assert_allclose(by_scale, np.diag(noise), rtol=1e-6)


def test_sample_and_log_prob(x64):
    d = Normal(LOCATION, SCALE)
    value, log_prob = jax.jit(lambda key: d.sample_and_log_prob(key))(jax.random.key(1))
    np.testing.assert_allclose(log_prob, d.log_prob(value), rtol=tolerance(x64))
    np.testing.assert_allclose(value, d.sample(jax.random.key(1)), rtol=1e-6)


def test_vmap_equals_loop(x64):
    def summary(location, scale, value):
        d = Normal(location, scale)
        return d.log_prob(value), d.entropy(), d.variance(), d.kl(Normal(0.0, 3.0)), d.sample(jax.random.key(0))

    mapped = jax.jit(jax.vmap(summary))(LOCATION, SCALE, VALUE)
    for i in range(3):
        for ours, one in zip(mapped, summary(LOCATION[i], SCALE[i], VALUE[i]), strict=True):
            np.testing.assert_allclose(ours[i], one, rtol=tolerance(x64))


def test_precision_is_that_of_the_computation():
    made_outside = Normal(0.1, 1)
    with jax.enable_x64(True):
        assert made_outside.entropy().dtype == jnp.float64
        assert float(made_outside.mean()) == 0.1
    with jax.enable_x64(False):
        assert made_outside.sample(jax.random.key(0)).dtype == jnp.float32


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Normal(0.0, 0.0), "scale must be positive and finite, but 0.0 was given: pass standard dev"),
        (lambda: Normal(0.0, -1.0), "scale must be positive and finite"),
        (lambda: Normal(np.zeros(2), [1.0, np.inf]), "scale must be positive and finite"),
        (lambda: Normal(np.nan, 1.0), "location must be finite, but nan was given"),
        (lambda: Normal(np.zeros(2), 1.0), r"same shape, but \(2,\) and \(\) were given: broadcast"),
        (lambda: jax.jit(lambda x: Normal(x, 1.0).mean())(np.zeros(2)), "same shape"),
    ],
)
def test_refusals(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_traced_values_are_not_refused(x64):
    assert np.isnan(jax.jit(lambda scale: Normal(0.0, scale).entropy())(-1.0))


def test_kl_of_another_family():
    with pytest.raises(TypeError, match=r"Normal\.kl needs another Normal"):
        Normal(0.0, 1.0).kl(Categorical([0.0]))
