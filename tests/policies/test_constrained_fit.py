"""The fit within a KL bound against its Lagrangian, SciPy's constrained search, and the plain fit."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize

from clauses import against
from compilations import counted_compilations
from optimality import Result
from optimality.policies.constrained_fit import kl_constrained_fit
from optimality.policies.weighted_fit import weighted_linear_gaussian

STRUCTURES = ("full", "diagonal", "spherical")


def instance(samples, k, m, seed=0, structure="full"):
    """An old policy, data from it, weights that depend on the actions, and visits that are neither."""
    rng = np.random.default_rng(seed)
    Phi = np.column_stack([np.ones(samples), rng.normal(size=(samples, k - 1))])
    W = rng.normal(size=(k, m))
    factor = np.eye(m) + 0.3 * np.tril(rng.normal(size=(m, m)), -1)
    A = Phi @ W + rng.normal(size=(samples, m)) @ factor.T
    log_d = A @ (-1.0) ** np.arange(m)
    return W, structured(factor @ factor.T, structure), Phi, A, log_d, rng.normal(size=samples)


def structured(covariance, structure):
    if structure == "full":
        return covariance
    variances = np.diag(covariance)
    return np.diag(variances if structure == "diagonal" else np.full_like(variances, variances.mean()))


def shares(log_weights):
    return np.exp(log_weights - np.logaddexp.reduce(log_weights))


def mean_kl(of, to, Phi, q):
    """Dense, between `(W, covariance)` and another."""
    precision, gaps = np.linalg.inv(to[1]), Phi @ (of[0] - to[0])
    logs = np.linalg.slogdet(to[1])[1] - np.linalg.slogdet(of[1])[1]
    distance = np.sum(q * np.einsum("ni,ij,nj->n", gaps, precision, gaps))
    return 0.5 * (np.trace(precision @ of[1]) - of[1].shape[0] + distance + logs)


def constrained(*data, bound, structure="full"):
    W, covariance, Phi, A, log_d, log_q = data
    return kl_constrained_fit(W, covariance, Phi, A, log_d, bound=bound, log_visits=log_q, structure=structure)


def over_weighted_states(*data, bound, structure="full"):
    *first, log_d, _ = data
    return constrained(*first, log_d, log_d, bound=bound, structure=structure)


def plain(*data, bound, structure="full"):
    return weighted_linear_gaussian(*data[2:5], structure=structure)


CASES = {
    "ordinary": (60, 3, 2),
    "constant": (60, 1, 3),
    "many_actions": (40, 2, 5),
    "many_features": (60, 6, 2),
    "fewer_samples_than_actions": (8, 2, 10),
    "fewer_samples_than_features": (5, 8, 2),
    "one_sample": (1, 2, 3),
}


@pytest.mark.row("S11.sampled")
@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("structure", STRUCTURES)
@against(constrained, plain=plain)
def test_the_bound_holds_with_equality(implementation, structure, case):
    """To 1e-9, relative; both divergences are what dense algebra says. Old covariances are of the structure."""
    W, covariance, *data = instance(*CASES[case], structure=structure)
    bound, q = 0.05, shares(data[3])
    fit = implementation(W, covariance, *data, bound=bound, structure=structure)
    old, new = (W, covariance), (fit.W, fit.covariance)
    np.testing.assert_allclose(mean_kl(old, new, data[0], q), bound, 1e-9)
    assert fit.result is Result.CONVERGED
    np.testing.assert_allclose(fit.kl_old_new, mean_kl(old, new, data[0], q), 1e-9)
    np.testing.assert_allclose(fit.kl_new_old, mean_kl(new, old, data[0], q), 1e-9)
    assert np.linalg.eigvalsh(fit.covariance).min() > 0.0


@pytest.mark.row("S11.sampled")
@against(constrained, over_weighted_states=over_weighted_states)
def test_the_bound_is_over_the_visited_states(implementation):
    """Weights on the states of small features say little of what the policy does where it goes."""
    W, covariance, Phi, A, _, _ = instance(80, 2, 1)
    log_d = A[:, 0] - 4.0 * Phi[:, 1] ** 2
    fit = implementation(W, covariance, Phi, A, log_d, np.zeros(80), bound=0.05)
    np.testing.assert_allclose(mean_kl((W, covariance), (fit.W, fit.covariance), Phi, np.full(80, 1 / 80)), 0.05, 1e-9)


def lagrangian_slope(fit, data, log_q):
    """Derivatives in W and a factor of the covariance of `sum d log pi - mu sum q KL(old || pi)`."""
    W, covariance, Phi, A, log_d, _ = data
    d, q = shares(log_d), shares(log_q)

    def value(new_W, factor):
        sigma = factor @ factor.T
        precision, log_determinant = jnp.linalg.inv(sigma), jnp.linalg.slogdet(sigma)[1]
        r, gaps = A - Phi @ new_W, Phi @ (new_W - W)
        likelihood = -0.5 * jnp.sum(d * jnp.einsum("ni,ij,nj->n", r, precision, r)) - 0.5 * log_determinant
        kl = 0.5 * (
            jnp.trace(precision @ covariance)
            + log_determinant
            + jnp.sum(q * jnp.einsum("ni,ij,nj->n", gaps, precision, gaps))
        )
        return likelihood - fit.multiplier * kl

    with jax.enable_x64(True):
        return jax.jit(jax.grad(value, (0, 1)))(fit.W, np.linalg.cholesky(fit.covariance))


@pytest.mark.row("S11.stationary")
@pytest.mark.parametrize("structure", STRUCTURES)
@pytest.mark.parametrize("size", [(60, 3, 2), (40, 2, 5)], ids=["k_above_m", "k_below_m"])
@against(constrained, over_weighted_states=over_weighted_states, plain=plain)
def test_the_lagrangian_is_stationary(implementation, size, structure):
    """In W, and in a factor of the covariance: all of it, its diagonal, or the common scale."""
    data = instance(*size, structure=structure)
    bound = 0.1
    fit = implementation(*data, bound=bound, structure=structure)
    if implementation is plain:
        multiplier = constrained(*data, bound=bound, structure=structure).multiplier
        fit = type("Plain", (), {"W": fit.W, "covariance": fit.covariance, "multiplier": multiplier})
    by_W, by_factor = lagrangian_slope(fit, data, data[5])
    np.testing.assert_allclose(by_W, 0.0, atol=1e-9)
    slope = np.tril(by_factor) if structure == "full" else np.diag(by_factor)
    np.testing.assert_allclose(np.sum(slope) if structure == "spherical" else slope, 0.0, atol=1e-9)


@pytest.mark.parametrize("size", [(30, 2, 1), (30, 1, 2)], ids=["features", "actions"])
def test_no_policy_within_the_bound_is_likelier(size):
    """Against sequential quadratic programming over W and a factor, from the old policy."""
    W, covariance, Phi, A, log_d, log_q = data = instance(*size, seed=3)
    (k, m), bound, d, q = W.shape, 0.2, shares(log_d), shares(log_q)
    rows = np.tril_indices(m)

    def unpack(x):
        factor = np.zeros((m, m))
        factor[rows] = x[k * m :]
        return x[: k * m].reshape(k, m), factor @ factor.T

    def negative(x):
        new, sigma = unpack(x)
        r = A - Phi @ new
        return (
            0.5 * np.sum(d * np.einsum("ni,ij,nj->n", r, np.linalg.inv(sigma), r)) + 0.5 * np.linalg.slogdet(sigma)[1]
        )

    start = np.concatenate([W.ravel(), np.linalg.cholesky(covariance)[rows]])
    slack = {"type": "ineq", "fun": lambda x: bound - mean_kl((W, covariance), unpack(x), Phi, q)}
    best = scipy.optimize.minimize(negative, start, constraints=[slack], method="SLSQP", options={"ftol": 1e-13})
    fit = constrained(*data, bound=bound)
    ours = negative(np.concatenate([fit.W.ravel(), np.linalg.cholesky(fit.covariance)[rows]]))
    assert ours <= best.fun + 1e-8
    np.testing.assert_allclose(fit.W, unpack(best.x)[0], atol=1e-4)
    np.testing.assert_allclose(fit.covariance, unpack(best.x)[1], atol=1e-4)


@pytest.mark.parametrize("structure", STRUCTURES)
@pytest.mark.parametrize("size", [(60, 3, 2), (60, 2, 5)], ids=["k_above_m", "k_below_m"])
def test_a_wide_bound_gives_the_plain_fit(size, structure):
    data = instance(*size)
    fit, expected = constrained(*data, bound=1e4, structure=structure), plain(*data, bound=0.0, structure=structure)
    assert fit.result is Result.CONSTRAINT_INACTIVE
    assert fit.multiplier == 0.0
    np.testing.assert_allclose(fit.W, expected.W, 1e-9, atol=1e-11)
    np.testing.assert_allclose(fit.covariance, expected.covariance, 1e-9, atol=1e-11)


@pytest.mark.parametrize("size", [(60, 3, 2), (60, 2, 5), (3, 2, 8)], ids=["k_above_m", "k_below_m", "few"])
def test_a_narrow_bound_gives_the_old_policy(size):
    """The divergence is met to 1e-6 at 1e-10 nats; the distance is of the order of its root."""
    data = instance(*size)
    fit = constrained(*data, bound=1e-10)
    np.testing.assert_allclose(fit.W, data[0], atol=2e-4)
    np.testing.assert_allclose(fit.covariance, data[1], atol=2e-4)
    np.testing.assert_allclose(fit.kl_old_new, 1e-10, 1e-4)
    assert fit.multiplier > 1e3


def test_every_multiplier_is_smaller_for_a_wider_bound():
    data = instance(40, 3, 4)
    multipliers = [float(constrained(*data, bound=bound).multiplier) for bound in (1e-6, 1e-3, 0.1, 0.3, 1.0)]
    assert np.all(np.diff(multipliers) < 0.0)


def reps_weights(rewards, epsilon):
    """Of the exponential tilt whose divergence from uniform is epsilon, by bisection of its inverse temperature."""
    low, high = 0.0, 1e3
    for _ in range(80):
        middle = 0.5 * (low + high)
        p = shares(middle * rewards)
        kl = np.sum(p * np.log(np.maximum(p * p.size, 1e-300)))
        low, high = (middle, high) if kl < epsilon else (low, middle)
    return low * rewards


@pytest.mark.row("S11.sampled")
def test_with_few_samples_the_plain_fit_breaks_the_bound_of_the_weights():
    """Standard normal parameters of 5 entries, a quadratic reward, weights of 0.5 nats: over 200 batches the plain
    fit moves 1.2 nats at N = 20 and 0.6 at N = 100 (KL(new || old)), and more the other way; the constrained 0.5."""
    rng = np.random.default_rng(0)
    target, curvature = rng.normal(size=5), np.diag(np.linspace(0.5, 2.0, 5))
    old, means = (np.zeros((1, 5)), np.eye(5)), {}
    for number in (20, 100):
        new_old, old_new, bounded = [], [], []
        for _ in range(200):
            A = rng.normal(size=(number, 5))
            log_d = reps_weights(-np.einsum("ni,ij,nj->n", A - target, curvature, A - target), 0.5)
            Phi, q = np.ones((number, 1)), np.full(number, 1 / number)
            fit = weighted_linear_gaussian(Phi, A, log_d)
            new_old.append(mean_kl((fit.W, fit.covariance), old, Phi, q))
            old_new.append(mean_kl(old, (fit.W, fit.covariance), Phi, q))
            held = kl_constrained_fit(*old, Phi, A, log_d, bound=0.5)
            bounded.append(mean_kl(old, (held.W, held.covariance), Phi, q))
        means[number] = np.mean(new_old)
        assert np.mean(old_new) > np.mean(new_old)
        assert np.max(bounded) <= 0.5 * (1 + 1e-9)
    assert means[20] == pytest.approx(1.15, abs=0.15)
    assert means[100] == pytest.approx(0.61, abs=0.06)


def test_an_old_covariance_outside_of_the_structure():
    """Correlated at 0.9, its nearest diagonal one is 0.83 nats away."""
    covariance, Phi = np.array([[1.0, 0.9], [0.9, 1.0]]), np.ones((30, 1))
    A = np.random.default_rng(0).normal(size=(30, 2))
    least = -0.5 * np.log(1 - 0.81)
    below = kl_constrained_fit(np.zeros((1, 2)), covariance, Phi, A, A[:, 0], bound=0.5 * least, structure="diagonal")
    assert below.result is Result.BELOW_MINIMAL_KL
    np.testing.assert_array_equal(below.W, np.zeros((1, 2)))
    np.testing.assert_allclose(below.covariance, np.eye(2), atol=1e-12)
    np.testing.assert_allclose(below.kl_old_new, least, 1e-12)
    above = kl_constrained_fit(
        np.zeros((1, 2)), covariance, Phi, A, 3 * A[:, 0], bound=least + 0.1, structure="diagonal"
    )
    assert above.result is Result.CONVERGED
    np.testing.assert_allclose(above.kl_old_new, least + 0.1, 1e-9)


def test_dependent_and_unvisited_features():
    """A repeated feature changes no prediction; one that no weighted sample has keeps its weights."""
    W, covariance, Phi, A, log_d, log_q = instance(60, 3, 2)
    expected = kl_constrained_fit(W, covariance, Phi, A, log_d, bound=0.1, log_visits=log_q)
    more = np.column_stack([Phi, Phi[:, 1], np.where(np.isneginf(log_d), 1.0, 0.0)])
    old = np.vstack([W, np.zeros((1, 2)), [[3.0, 4.0]]])
    fit = kl_constrained_fit(old, covariance, more, A, log_d, bound=0.1, log_visits=log_q)
    np.testing.assert_allclose(more @ fit.W, Phi @ expected.W, 1e-8, atol=1e-9)
    np.testing.assert_allclose(fit.W[4], [3.0, 4.0])
    np.testing.assert_allclose(fit.covariance, expected.covariance, 1e-8)


def test_weights_may_be_zero_and_padding_is_neither_weighted_nor_visited():
    W, covariance, Phi, A, log_d, log_q = instance(40, 3, 2)
    log_d[:5] = -np.inf  # visited, and of no weight
    expected = kl_constrained_fit(W, covariance, Phi, A, log_d, bound=0.1, log_visits=log_q)
    nothing = np.full(3, -np.inf)
    fit = kl_constrained_fit(
        W,
        covariance,
        np.concatenate([Phi, np.full((3, 3), np.nan)]),
        np.concatenate([A, np.full((3, 2), np.inf)]),
        np.concatenate([log_d, nothing]),
        bound=0.1,
        log_visits=np.concatenate([log_q, nothing]),
    )
    np.testing.assert_allclose(fit.W, expected.W, 1e-9)
    np.testing.assert_allclose(fit.covariance, expected.covariance, 1e-9)


def test_inside_jit():
    """float32 in and out; what cannot be done keeps the old policy and has a name; mapped over bounds."""
    W, covariance, Phi, A, log_d, _ = (x.astype(np.float32) for x in instance(50, 3, 2))

    @jax.jit
    def fit(covariance, A, log_d, bound):
        return kl_constrained_fit(W, covariance, Phi, A, log_d, bound=bound)

    bound = jnp.asarray(0.1)
    good = fit(covariance, A, log_d, bound)
    assert good.W.dtype == jnp.float32
    assert Result.of(good.result) is Result.CONVERGED
    np.testing.assert_allclose(good.kl_old_new, 0.1, 1e-4)
    exact = kl_constrained_fit(*(x.astype(np.float64) for x in (W, covariance, Phi, A, log_d)), bound=0.1)
    np.testing.assert_allclose(good.covariance, exact.covariance, 1e-4, atol=1e-5)
    for change, named in [
        ((covariance, jnp.full_like(A, jnp.nan), log_d), Result.NON_FINITE),
        ((covariance, A, jnp.full_like(log_d, -jnp.inf)), Result.NON_FINITE),
        ((-covariance, A, log_d), Result.NOT_POSITIVE_DEFINITE),
    ]:
        bad = fit(*change, bound)
        assert Result.of(bad.result) is named
        np.testing.assert_array_equal(bad.W, W)
        np.testing.assert_array_equal(bad.covariance, change[0])
    with jax.enable_x64(True):
        mapped = jax.jit(jax.vmap(lambda b: kl_constrained_fit(W, covariance, Phi, A, log_d, bound=b).kl_old_new))
        bounds = np.array([0.01, 0.1, 0.2])
        np.testing.assert_allclose(mapped(bounds), bounds, 1e-9)


def test_other_numbers_compile_nothing():
    W, covariance, Phi, A, log_d, _ = instance(50, 3, 2)
    kl_constrained_fit(W, covariance, Phi, A, log_d, bound=0.1)
    with counted_compilations() as compiled:
        for bound in (1e-3, 0.5, 1e3):
            kl_constrained_fit(W + 1, 2 * covariance, Phi, A, 0.5 * log_d, bound=bound)
    assert compiled.count == 0


def test_the_search_is_short():
    """Newton's steps on logarithms: at most 25 over nine orders of magnitude of the bound."""
    for size in [(60, 3, 2), (60, 2, 5), (6, 1, 8)]:
        for bound in np.logspace(-6, 2, 9):
            assert constrained(*instance(*size), bound=bound).iterations <= 25


def test_the_door():
    W, covariance, Phi, A, log_d, _ = instance(20, 3, 2)
    for change, message in [
        ({"bound": 0.0}, "bound"),
        ({"bound": np.inf}, "bound"),
        ({"old_covariance": -covariance}, "positive definite"),
        ({"old_covariance": np.array([[1.0, 0.5], [0.0, 1.0]])}, "symmetric"),
        ({"old_W": np.full_like(W, np.nan)}, "not finite"),
        ({"log_visits": np.full(20, -np.inf)}, "log_visits"),
        ({"A": np.full_like(A, np.nan)}, "A is not finite"),
    ]:
        arguments = {"old_W": W, "old_covariance": covariance, "Phi": Phi, "A": A, "log_weights": log_d, "bound": 0.1}
        with pytest.raises(ValueError, match=message):
            kl_constrained_fit(**{**arguments, **change})
