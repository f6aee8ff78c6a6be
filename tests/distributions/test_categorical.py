"""Categorical, against SciPy and dense sums."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from clauses import against
from optimality.distributions import Categorical, Normal

LOGITS = np.array([0.3, -1.2, 2.0, -np.inf, 0.7])
OTHER = np.array([-0.5, 0.4, 0.1, 1.0, 0.0])
P = np.exp(LOGITS) / np.exp(LOGITS).sum()
Q = np.exp(OTHER) / np.exp(OTHER).sum()
INDEX = np.arange(5)


def tolerance(x64):
    return 1e-12 if x64 else 2e-6


@against(
    lambda d, value: d.log_prob(value),
    unnormalized=lambda d, value: jnp.asarray(d.logits)[value],
    zero_is_small=lambda d, value: jnp.maximum(d.log_prob(value), -1e3),
)
def test_log_prob(implementation, x64):
    ours = jax.jit(implementation)(Categorical(LOGITS + 3.0), INDEX)
    with np.errstate(divide="ignore"):
        np.testing.assert_allclose(ours, scipy.stats.rv_discrete(values=(INDEX, P)).logpmf(INDEX), tolerance(x64))


@against(lambda d: d.entropy(), bits=lambda d: d.entropy() / jnp.log(2.0).astype(d.entropy().dtype))
def test_entropy(implementation, x64):
    np.testing.assert_allclose(jax.jit(implementation)(Categorical(LOGITS)), scipy.stats.entropy(P), tolerance(x64))


@against(
    lambda d: (d.mean(), d.variance()),
    second_moment=lambda d: (d.mean(), d.variance() + d.mean() ** 2),
    from_one=lambda d: (d.mean() + 1.0, d.variance()),
)
def test_moments(implementation, x64):
    oracle = scipy.stats.rv_discrete(values=(INDEX, P))
    mean, variance = jax.jit(implementation)(Categorical(LOGITS))
    np.testing.assert_allclose(mean, oracle.mean(), tolerance(x64))
    np.testing.assert_allclose(variance, oracle.var(), tolerance(x64))


@against(
    lambda p, q: p.kl(q),
    reversed=lambda p, q: q.kl(p),
    sign=lambda p, q: -p.kl(q),
    cross_entropy=lambda p, q: p.kl(q) + p.entropy(),
)
def test_kl(implementation, x64):
    inside = P > 0
    dense = np.sum(P[inside] * np.log(P[inside] / Q[inside]))
    np.testing.assert_allclose(jax.jit(implementation)(Categorical(LOGITS), Categorical(OTHER)), dense, tolerance(x64))


def test_kl_limits(x64):
    ours, other = Categorical(LOGITS), Categorical(OTHER)
    assert other.kl(ours) == np.inf
    assert ours.kl(ours) == 0.0
    assert ours.kl(Categorical(LOGITS + 7.0)) == pytest.approx(0.0, abs=1e-6)


@against(lambda d: d.mode(), last=lambda d: d.logits.size - 1 - jnp.argmax(jnp.asarray(d.logits)[::-1]))
def test_mode_ties_to_the_lowest(implementation, x64):
    assert int(jax.jit(implementation)(Categorical([0.0, 2.0, 2.0, -np.inf]))) == 1


def test_outcomes_that_do_not_exist_have_no_probability(x64):
    np.testing.assert_array_equal(Categorical([0.0, 0.0]).log_prob(np.array([-1, 2, 9])), -np.inf)


def test_derivatives_at_zero_probability(x64):
    def objective(logits):
        d = Categorical(logits)
        return d.log_prob(0) + d.entropy() + d.mean() + d.variance() + d.kl(Categorical(OTHER))

    logits = jnp.asarray(LOGITS)
    gradient, hessian = jax.jit(jax.grad(objective))(logits), jax.jit(jax.hessian(objective))(logits)
    assert gradient[3] == 0.0
    assert np.all(np.isfinite(gradient))
    assert np.all(np.isfinite(hessian))
    np.testing.assert_array_equal(jax.grad(lambda x: Categorical(x).log_prob(3))(logits), 0.0)
    if x64:
        step = 1e-6 * np.eye(5)
        value = jax.jit(objective)
        numbers = [(value(LOGITS + e) - value(LOGITS - e)) / 2e-6 for e in step]
        np.testing.assert_allclose(gradient, numbers, rtol=1e-7, atol=1e-8)


@against(
    lambda d, keys: jax.vmap(d.sample)(keys),
    uniform=lambda d, keys: jax.vmap(lambda key: jax.random.randint(key, (), 0, 5))(keys),
    colder=lambda d, keys: jax.vmap(Categorical(1.2 * d.logits).sample)(keys),
)
def test_samples(implementation, x64):
    """Chi-square, refused below a p-value of 0.001 at a fixed seed."""
    keys = jax.random.split(jax.random.key(0), 20_000)
    counts = np.bincount(jax.jit(implementation)(Categorical(LOGITS), keys), minlength=5)
    assert counts[3] == 0
    assert scipy.stats.chisquare(counts[P > 0], 20_000 * P[P > 0]).pvalue > 1e-3


def test_sample_and_log_prob(x64):
    d = Categorical(LOGITS)
    keys = jax.random.split(jax.random.key(1), 64)
    values, log_probs = jax.jit(jax.vmap(d.sample_and_log_prob))(keys)
    np.testing.assert_allclose(log_probs, d.log_prob(values), rtol=tolerance(x64))
    np.testing.assert_array_equal(values, jax.vmap(d.sample)(keys))


@against(
    Categorical.masked,
    inverted=lambda logits, where: Categorical.masked(logits, ~where),
    not_renormalized=lambda logits, where: Categorical(logits),
)
def test_masked(implementation, x64):
    where = np.array([True, False, True, True, False])
    allowed = np.where(where, P, 0.0)
    np.testing.assert_allclose(
        implementation(LOGITS, where).probabilities(), allowed / allowed.sum(), tolerance(x64), atol=1e-30
    )
    traced = jax.jit(lambda logits, where: implementation(logits, where).probabilities())(LOGITS, where)
    np.testing.assert_allclose(traced, allowed / allowed.sum(), tolerance(x64), atol=1e-30)


def test_vmap_equals_loop(x64):
    batch = np.stack([LOGITS, OTHER, LOGITS - OTHER])

    def summary(logits, value):
        d = Categorical(logits)
        return d.log_prob(value), d.entropy(), d.mean(), d.variance(), d.mode(), d.kl(Categorical(OTHER))

    values = np.array([0, 3, 4])
    mapped = jax.jit(jax.vmap(summary))(batch, values)
    for i in range(3):
        for ours, one in zip(mapped, summary(batch[i], values[i]), strict=True):
            np.testing.assert_allclose(ours[i], one, rtol=1e-5, atol=1e-6)


def test_batch_is_one_object(x64):
    batch = jax.vmap(Categorical)(jnp.stack([jnp.asarray(OTHER), jnp.zeros(5)]))
    np.testing.assert_allclose(jax.vmap(lambda d: d.entropy())(batch)[1], np.log(5), rtol=1e-6)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Categorical([0.0, np.nan]), "logits must be finite or -inf"),
        (lambda: Categorical([0.0, np.inf]), "logits must be finite or -inf"),
        (lambda: Categorical([-np.inf, -np.inf]), "all 2 are -inf: allow an outcome"),
        (lambda: Categorical(np.zeros((2, 3))), r"shape \[n\], but \(2, 3\) was given.*jax.vmap"),
        (lambda: Categorical.masked([0.0, 1.0], [False, False]), "allow an outcome"),
        (lambda: Categorical.masked([0.0, 1.0], [True]), r"shape of the logits, \(2,\), but \(1,\)"),
        (lambda: Categorical([0.0, 1.0]).kl(Categorical([0.0])), "same outcomes, but 2 and 1"),
    ],
)
def test_refusals(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_kl_of_another_family():
    with pytest.raises(TypeError, match=r"KL\(Categorical \|\| Normal\) has no rule"):
        Categorical([0.0, 1.0]).kl(Normal(0.0, 1.0))
