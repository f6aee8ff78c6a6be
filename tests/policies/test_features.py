"""Features: shapes, values written out, scaling, degenerate data, compiled fits, files and configuration."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from clauses import against
from compilations import counted_compilations
from keys import check_keys
from optimality.cli.options import parse
from optimality.experiments.configuration import from_table, to_table
from optimality.experiments.saved_policy import load_policy, policy_bytes
from optimality.policies.features import Constant, Identity, OneHot, Polynomial
from optimality.policies.kernel_features import RadialBasis, RandomFourier
from optimality.policies.linear_gaussian import LinearGaussian
from optimality.policies.parameter_noise_gaussian import ParameterNoiseGaussian
from optimality.sampling.policy import AbstractPolicy

RECIPES = (
    Constant(),
    Identity(),
    Identity(intercept=False),
    Polynomial(),
    Polynomial(degree=3, constant=False),
    RadialBasis(number=3, centers="grid"),
    RadialBasis(number=7, centers="k_means", intercept=True),
    RadialBasis(number=7, centers="random", bandwidth=0.5),
    RandomFourier(number=9),
    RandomFourier(number=9, intercept=True, bandwidth=2.0),
)
DATA = np.random.default_rng(0).normal(size=(40, 2)).astype(np.float32) * [2.0, 0.1] + [5.0, -1.0]
DATA = DATA.astype(np.float32)
KEY = jax.random.key(0)


def name(recipe):
    return "-".join(str(value) for value in (type(recipe).__name__, *dataclasses.astuple(recipe)))


every_recipe = pytest.mark.parametrize("recipe", RECIPES, ids=name)


@every_recipe
def test_sizes_and_degenerate_data(recipe):
    """One sample, identical samples, a coordinate that does not vary: finite features of the stated number."""
    flat = DATA.copy()
    flat[:, 1] = 1000.1
    for data in (DATA, DATA[:1], np.repeat(DATA[:1], 5, axis=0), flat):
        features = recipe.fit(data, KEY)
        values = np.asarray(jax.vmap(features)(data))
        assert values.shape == (data.shape[0], recipe.size(2))
        assert np.all(np.isfinite(values))
        assert np.abs(values).max() < 1e3


@every_recipe
def test_padding_changes_nothing_and_fits_compile_once(recipe):
    fit = jax.jit(lambda data, key, valid: recipe.fit(data, key, valid))
    valid, other = np.arange(60) < 40, jax.random.key(3)
    first = fit(np.concatenate([DATA, np.full((20, 2), np.nan, np.float32)]), KEY, valid)
    with counted_compilations() as compiled:
        second = fit(np.concatenate([DATA, np.full((20, 2), 1e6, np.float32)]), KEY, valid)
        fit(np.zeros((60, 2), np.float32), other, np.arange(60) < 2)
    assert compiled.count == 0
    for a, b in zip(jax.tree.leaves(first), jax.tree.leaves(second), strict=True):
        np.testing.assert_array_equal(a, b)
    assert np.all(np.isfinite(jax.vmap(first)(DATA)))
    check_keys(recipe.fit, DATA, jax.random.key(0))


def test_scaling():
    features = Identity().fit(DATA)
    np.testing.assert_allclose(features.center, DATA.mean(axis=0), 1e-5)
    np.testing.assert_allclose(features.scale, DATA.std(axis=0), 1e-5)
    np.testing.assert_allclose(features(DATA[0]), [1.0, *((DATA[0] - DATA.mean(0)) / DATA.std(0))], 1e-4)
    root = np.sqrt(np.mean(DATA.astype(np.float64) ** 2, axis=0))
    np.testing.assert_allclose(Identity(intercept=False).fit(DATA)(DATA[0]), DATA[0] / root, 1e-5)
    np.testing.assert_array_equal(Identity(standardize=False).fit(DATA)(DATA[0]), [1.0, *DATA[0]])
    constant = Identity().fit(np.full((9, 1), 0.1, np.float32))
    np.testing.assert_allclose(constant.scale, 1.0)


@against(
    lambda s: Polynomial(degree=3, standardize=False).fit(DATA)(s),
    unordered=lambda s: Polynomial(degree=3, standardize=False).fit(DATA)(s[::-1]),
    no_cross_terms=lambda s: jnp.asarray([1, s[0], s[1], s[0] ** 2, 0, s[1] ** 2, s[0] ** 3, 0, 0, s[1] ** 3]),
)
def test_monomials(implementation):
    a, b = 2.0, -3.0
    expected = [1, a, b, a * a, a * b, b * b, a**3, a * a * b, a * b * b, b**3]
    np.testing.assert_array_equal(implementation(np.array([a, b], np.float32)), expected)


def test_numbers_of_monomials():
    """`(n + d)! / (n! d!)`, each of them once."""
    for inputs, degree, number in [(1, 4, 5), (2, 3, 10), (4, 2, 15), (5, 3, 56)]:
        assert (
            Polynomial(degree=degree).size(inputs)
            == number
            == Polynomial(degree=degree, constant=False).size(inputs) + 1
        )
        s = np.sqrt(np.array([2.0, 3.0, 5.0, 7.0, 11.0])[:inputs])
        with jax.enable_x64(True):
            values = np.asarray(Polynomial(degree=degree, standardize=False).fit(s[None])(s))
        assert np.unique(np.round(values, 9)).size == number


def distances(data):
    z = (data - data.mean(axis=0)) / data.std(axis=0)
    return z, [np.linalg.norm(a - b) for i, a in enumerate(z) for b in z[:i]]


def test_radial_features():
    features = RadialBasis(number=7, bandwidth=0.5).fit(DATA, KEY)
    z, apart = distances(DATA.astype(np.float64))
    np.testing.assert_allclose(features.bandwidth, 0.5 * np.median(apart), 1e-3)
    expected = np.exp(-0.5 * np.sum((z[0] - np.asarray(features.centers)) ** 2, axis=1) / features.bandwidth**2)
    np.testing.assert_allclose(features(DATA[0]), expected, 1e-3)


def test_centers():
    grid = RadialBasis(number=3, centers="grid").fit(DATA, KEY).centers
    z, _ = distances(DATA.astype(np.float64))
    np.testing.assert_allclose(
        np.unique(np.round(grid[:, 0], 4)), np.linspace(z[:, 0].min(), z[:, 0].max(), 3), atol=1e-3
    )
    drawn = np.asarray(RadialBasis(number=40, centers="random").fit(DATA, KEY).centers)
    np.testing.assert_allclose(np.sort(drawn, axis=0), np.sort(z, axis=0), atol=1e-3)
    means = np.asarray(RadialBasis(number=3, iterations=50).fit(DATA, KEY).centers)
    owner = np.argmin(np.linalg.norm(z[:, None] - means[None], axis=2), axis=1)
    np.testing.assert_allclose(means, [z[owner == i].mean(axis=0) for i in range(3)], atol=1e-4)


def test_fourier_features_approximate_the_gaussian_kernel():
    """Twice the mean of 20,000 products, within five standard errors of at most `sqrt(2 / 20000)`."""
    features = RandomFourier(number=20_000).fit(DATA, KEY)
    z, apart = distances(DATA.astype(np.float64))
    phi = np.asarray(jax.vmap(features)(DATA[:6]), np.float64)
    kernel = np.exp(-0.5 * np.sum((z[:6, None] - z[None, :6]) ** 2, axis=2) / np.median(apart) ** 2)
    np.testing.assert_allclose(2 * phi @ phi.T / 20_000, kernel, atol=5 * (2 / 20_000) ** 0.5)


def test_one_hot():
    features = OneHot(number=3).fit(np.array([0, 2, 1]))
    np.testing.assert_array_equal(jax.vmap(features)(jnp.arange(3)), np.eye(3))
    with pytest.raises(ValueError, match="integer states"):
        OneHot(number=3).fit(np.array([0.0, 1.0]))
    with pytest.raises(ValueError, match="must be in"):
        OneHot(number=3).fit(np.array([0, 3]))
    with pytest.raises(ValueError, match="one integer state"):
        features(np.array(1.0))


def test_same_key_same_features():
    for recipe in (RadialBasis(), RandomFourier()):
        one, other = recipe.fit(DATA, KEY), recipe.fit(DATA, KEY)
        assert all((a == b).all() for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True))
        moved = recipe.fit(DATA, jax.random.key(1))
        assert not all((a == b).all() for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(moved), strict=True))


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (lambda: Polynomial(degree=0), "degree"),
        (lambda: RadialBasis(number=0), "number"),
        (lambda: RadialBasis(bandwidth=0.0), "bandwidth"),
        (lambda: RadialBasis(centers="lattice"), "centers"),
        (lambda: RadialBasis(iterations=-1), "iterations"),
        (lambda: RandomFourier(number=0), "number"),
        (lambda: RandomFourier(bandwidth=float("nan")), "bandwidth"),
        (lambda: OneHot(number=0), "number"),
        (lambda: RandomFourier().fit(DATA), "key"),
        (lambda: Identity().fit(DATA[0]), r"\[N, inputs\]"),
        (lambda: Identity().fit(np.arange(6).reshape(3, 2)), "real vectors"),
        (lambda: Identity().fit(DATA, valid=np.zeros(40, bool)), "valid observation"),
        (lambda: Identity().fit(np.full((2, 2), np.nan)), "not finite"),
        (lambda: Identity().fit(DATA)(DATA[0, :1]), "one state"),
    ],
)
def test_the_door(bad, message):
    with pytest.raises(Exception, match=message) as refused:
        bad()
    assert isinstance(refused.value, ValueError) or "lattice" in str(refused.value)


class Acting(AbstractPolicy):
    """A policy of the protocol around the module under test."""

    inner: LinearGaussian | ParameterNoiseGaussian

    def start(self, observation, key):
        return ()

    def act(self, carry, observation, key):
        return carry, self.inner.mean(observation), {}


@every_recipe
def test_saved_and_loaded(recipe, tmp_path):
    """Scaling, centers and frequencies come back to the same bits."""
    features, k = recipe.fit(DATA, KEY), recipe.size(2)
    W = jnp.linspace(-1.0, 1.0, 2 * k).reshape(k, 2)
    noise = jnp.broadcast_to(jnp.eye(k), (2, k, k))
    for policy in (LinearGaussian(features, W, 0.5 * jnp.eye(2)), ParameterNoiseGaussian(features, W, noise)):
        path = tmp_path / "policy.safetensors"
        path.write_bytes(policy_bytes(Acting(policy)))
        loaded = load_policy(path, classes=[Acting]).policy
        assert jax.tree.structure(loaded) == jax.tree.structure(Acting(policy))
        for a, b in zip(jax.tree.leaves(loaded), jax.tree.leaves(Acting(policy)), strict=True):
            np.testing.assert_array_equal(a, b)
        np.testing.assert_array_equal(loaded.inner.mean(DATA[3]), policy.mean(DATA[3]))


@every_recipe
def test_recipes_are_configuration(recipe):
    classes = (Constant, Identity, Polynomial, RadialBasis, RandomFourier, OneHot)
    assert from_table(to_table(recipe), classes) == recipe


def test_recipes_on_the_command_line():
    recipe = parse(RadialBasis(), ["--number", "9", "--centers", "grid", "--bandwidth", "0.5"], prog="x")
    assert recipe == RadialBasis(number=9, centers="grid", bandwidth=0.5)
    assert parse(Polynomial(), ["--degree", "3", "--no-constant"], prog="x") == Polynomial(degree=3, constant=False)
    assert len(jax.tree.leaves(RandomFourier())) == 1  # the bandwidth, so that vmap runs over it
