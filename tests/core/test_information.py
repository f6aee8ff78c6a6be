"""Entropy, divergences and effective sample size, against SciPy, with zeros."""

import jax
import jax.numpy as jnp
import numpy as np
import scipy.stats

from clauses import against
from optimality.core.information import effective_sample_size, entropy, kl_divergence, total_variation

P = np.array([[0.2, 0.0, 0.5, 0.3], [0.25, 0.25, 0.25, 0.25], [0.0, 1.0, 0.0, 0.0]])
Q = np.array([[0.1, 0.2, 0.3, 0.4], [0.7, 0.1, 0.1, 0.1], [0.3, 0.4, 0.2, 0.1]])
with np.errstate(divide="ignore"):
    LOG_P, LOG_Q = np.log(P), np.log(Q)


def tolerance(x64):
    return 1e-12 if x64 else 1e-5


@against(
    entropy,
    sign=lambda log_p: -entropy(log_p),
    bits=lambda log_p: entropy(log_p) * 1.4426950408889634,
    zero_is_nan=lambda log_p: -jnp.sum(jnp.exp(jnp.asarray(log_p)) * jnp.asarray(log_p), axis=-1),
)
def test_entropy(implementation, x64):
    np.testing.assert_allclose(implementation(LOG_P), scipy.stats.entropy(P, axis=-1), tolerance(x64), atol=1e-30)


@against(
    kl_divergence,
    reversed=lambda log_p, log_q: kl_divergence(log_q, log_p),
    cross_entropy=lambda log_p, log_q: kl_divergence(log_p, log_q) + entropy(log_p),
)
def test_kl(implementation, x64):
    np.testing.assert_allclose(implementation(LOG_P, LOG_Q), scipy.stats.entropy(P, Q, axis=-1), tolerance(x64))


@against(kl_divergence, finite=lambda log_p, log_q: kl_divergence(log_p, jnp.maximum(jnp.asarray(log_q), -50.0)))
def test_kl_is_infinite_off_the_support(implementation, x64):
    np.testing.assert_array_equal(np.isinf(implementation(LOG_Q, LOG_P)), [True, False, True])
    np.testing.assert_array_equal(implementation(LOG_P, LOG_P), 0.0)


@against(total_variation, without_one_half=lambda log_p, log_q: 2.0 * total_variation(log_p, log_q))
def test_total_variation(implementation, x64):
    np.testing.assert_allclose(implementation(LOG_P, LOG_Q), np.abs(P - Q).sum(-1) / 2, tolerance(x64))


def test_axis(x64):
    np.testing.assert_allclose(entropy(LOG_P.T, axis=0), entropy(LOG_P), tolerance(x64), atol=1e-30)
    np.testing.assert_allclose(kl_divergence(LOG_P.T, LOG_Q.T, axis=0), kl_divergence(LOG_P, LOG_Q), tolerance(x64))


def test_derivatives_are_finite_at_zeros(x64):
    log_p, log_q = jnp.asarray(LOG_P[0]), jnp.asarray(LOG_Q[0])
    p = P[0]
    safe = np.where(p > 0, LOG_P[0], 0.0)
    np.testing.assert_allclose(jax.grad(entropy)(log_p), -p * (safe + 1), rtol=tolerance(x64), atol=1e-30)
    by_p, by_q = jax.grad(kl_divergence, (0, 1))(log_p, log_q)
    np.testing.assert_allclose(by_p, np.where(p > 0, p * (safe - LOG_Q[0] + 1), 0), rtol=tolerance(x64), atol=1e-30)
    np.testing.assert_allclose(by_q, -p, rtol=tolerance(x64))
    assert np.all(np.isfinite(jax.hessian(entropy)(log_p)))


@against(
    effective_sample_size,
    inverse_of_squares=lambda log_w: 1.0 / jnp.sum(jnp.exp(2.0 * jnp.asarray(log_w)), axis=-1),
    exponential_of_entropy=lambda log_w: jnp.exp(entropy(jax.nn.log_softmax(jnp.asarray(log_w)))),
)
def test_effective_sample_size(implementation, x64):
    weights = np.array([0.5, 2.0, 1.0, 7.0])
    expected = weights.sum() ** 2 / (weights**2).sum()
    np.testing.assert_allclose(implementation(np.log(weights)), expected, tolerance(x64))
    np.testing.assert_allclose(implementation(np.log(weights) + 900.0), expected, rtol=1e-4)
    np.testing.assert_allclose(implementation(np.log(weights) - 900.0), expected, rtol=1e-4)


def test_effective_sample_size_limits(x64):
    assert effective_sample_size(np.full(8, -3.0)) == 8.0
    assert effective_sample_size(np.array([0.0, -np.inf, -np.inf])) == 1.0
    assert effective_sample_size(np.full(3, -np.inf)) == 0.0
    np.testing.assert_array_equal(effective_sample_size(np.log([[1.0, 1.0], [2.0, 2.0]]).T, axis=0), [2.0, 2.0])
