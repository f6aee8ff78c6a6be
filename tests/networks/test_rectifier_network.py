"""The network with gradients by hand: passes against NumPy, gradients against automatic differentiation, and the forms
that are often written instead."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from clauses import against
from instances import close
from optimality.networks.rectifier_network import (
    Gradients,
    RectifierNetwork,
    cross_entropy,
    cross_entropy_gradients,
    forward,
    squared_error,
    squared_error_gradients,
    updated,
)

RANDOM = np.random.default_rng(4)
N, INPUTS, HIDDEN, OUTPUTS = 7, 3, 5, 4
NETWORK = RectifierNetwork(
    RANDOM.normal(size=(HIDDEN, INPUTS)),
    np.append(RANDOM.normal(size=HIDDEN - 1), 0.0),
    RANDOM.normal(size=(OUTPUTS, HIDDEN)),
    RANDOM.normal(size=OUTPUTS),
)
X = RANDOM.normal(size=(N, INPUTS))
X[2] = 0.0  # the last hidden unit stands at its corner
Y = np.eye(OUTPUTS)[RANDOM.integers(OUTPUTS, size=N)]
VALUES = RANDOM.normal(size=(N, OUTPUTS))
LOSSES = {"cross_entropy": (cross_entropy, Y), "squared_error": (squared_error, VALUES)}


def by_hand(network, x):
    z = np.array([network.W1 @ row + network.b1 for row in x])
    h = np.maximum(z, 0.0)
    return z, h, np.array([network.W2 @ row + network.b2 for row in h])


def probabilities():
    logits = by_hand(NETWORK, X)[2]
    return np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)


ERROR = probabilities() - Y
Z, H, LOGITS = by_hand(NETWORK, X)


def logits_of(network, x):
    with jax.enable_x64(True):
        return np.asarray(forward(network, x).logits)


@pytest.mark.row("S121.forward", "S121.weights", "E2.6")
@against(
    logits_of,
    no_rectifier=lambda n, x: (x @ n.W1.T + n.b1) @ n.W2.T + n.b2,
    rectified_twice=lambda n, x: np.maximum(logits_of(n, x), 0.0),
    one_matrix=lambda n, x: (np.maximum(x @ n.W1.T + n.b1, 0.0)[:, :INPUTS] @ n.W1.T)[:, :OUTPUTS],
)
def test_forward(implementation):
    close(implementation(NETWORK, X), LOGITS)
    assert NETWORK.W1.shape != NETWORK.W2.shape
    with jax.enable_x64(True):
        close(NETWORK(X[0]), LOGITS[0])


def loss(network, x, y):
    with jax.enable_x64(True):
        return float(cross_entropy(network, x, y))


@pytest.mark.row("S122.loss", "S122.likelihood", "E2.7.loss", "E2.7.likelihood")
@against(
    loss,
    mean_squared_error=lambda n, x, y: np.mean(np.sum((probabilities() - y) ** 2, axis=1)),
    logits_themselves=lambda n, x, y: -np.mean(np.sum(y * LOGITS, axis=1)),
    likelihood=lambda n, x, y: -loss(n, x, y),
    sum_instead_of_mean=lambda n, x, y: N * loss(n, x, y),
)
def test_loss_is_minus_the_mean_log_likelihood(implementation):
    likely = [scipy.stats.multinomial(1, p).logpmf(y) for p, y in zip(probabilities(), Y, strict=True)]
    assert implementation(NETWORK, X, Y) == pytest.approx(-np.mean(likely), abs=1e-13)


@functools.cache
def autodiff(kind) -> Gradients:
    """Of weights, biases and inputs directly; of what lies between by adding a zero there."""
    function, y = LOSSES[kind]

    def from_middle(dz, dh, dlogits):
        z = X @ NETWORK.W1.T + NETWORK.b1[None] + dz
        logits = (jax.nn.relu(z) + dh) @ NETWORK.W2.T + NETWORK.b2[None] + dlogits
        if kind == "cross_entropy":
            return -jnp.mean(jnp.sum(y * jax.nn.log_softmax(logits), axis=1))
        return jnp.mean(jnp.sum((y - logits) ** 2, axis=1)) / 2

    with jax.enable_x64(True):
        network = jax.tree.map(jnp.asarray, NETWORK)
        of_network, x = jax.grad(function, (0, 1))(network, jnp.asarray(X), y)
        z, h, logits = jax.grad(from_middle, (0, 1, 2))(jnp.zeros((N, HIDDEN)), jnp.zeros((N, HIDDEN)), 0.0 * LOGITS)
        return jax.tree.map(
            np.asarray, Gradients(logits, of_network.W2, of_network.b2, h, z, of_network.W1, of_network.b1, x)
        )


@functools.cache
def ours(kind="cross_entropy") -> Gradients:
    function = {"cross_entropy": cross_entropy_gradients, "squared_error": squared_error_gradients}[kind]
    with jax.enable_x64(True):
        return jax.tree.map(np.asarray, function(NETWORK, X, LOSSES[kind][1]))


def part(name):
    return lambda: getattr(ours(), name)


def check(found, name):
    expected = getattr(autodiff("cross_entropy"), name)
    assert found.shape == expected.shape
    close(found, expected, 1e-13)


WH = H @ NETWORK.W2.T


@pytest.mark.row("S124", "E2.8", "E2.9")
@against(
    part("logits"),
    notes_quotient=lambda: (Y - probabilities()) / WH,
    sign=lambda: -ERROR / N,
    no_mean=lambda: ERROR,
    derivative_in_the_inputs=lambda: np.resize(ours().x, ERROR.shape),
)
def test_gradient_in_the_logits(implementation):
    check(implementation(), "logits")
    close(implementation(), ERROR / N, 1e-13)


@pytest.mark.row("S125", "E2.10")
@against(
    part("W2"),
    ascent=lambda: (Y - probabilities()).T @ H,
    ascent_of_the_mean=lambda: (Y - probabilities()).T @ H / N,
    no_mean=lambda: ERROR.T @ H,
    before_the_rectifier=lambda: ERROR.T @ Z / N,
)
def test_gradient_in_the_output_weights(implementation):
    check(implementation(), "W2")


MASK = (Z > 0.0).astype(float)


@pytest.mark.row("S126", "E2.11")
@against(
    part("z"),
    rectifier_twice_and_no_error=lambda: MASK * np.sign(H),
    no_mask=lambda: ERROR @ NETWORK.W2 / N,
    no_weights=lambda: MASK * ERROR.sum(axis=1, keepdims=True) / N + MASK / N,
    half_at_the_corner=lambda: np.where(Z == 0.0, 0.5, MASK) * (ERROR @ NETWORK.W2) / N,
)
def test_gradient_in_the_hidden_inputs(implementation):
    check(implementation(), "z")


@pytest.mark.row("S127", "E2.12")
@against(
    part("W1"),
    sign_of_the_weights=lambda: np.sign(np.maximum(NETWORK.W1, 0.0)) * ((Y - probabilities()) / WH).sum(),
    masked_by_the_weights=lambda: (NETWORK.W1 > 0.0) * ((ERROR @ NETWORK.W2).T @ X) / N,
    without_inputs=lambda: np.repeat(ours().z.sum(axis=0)[:, None], INPUTS, axis=1),
    ascent=lambda: -ours().W1,
)
def test_gradient_in_the_first_weights(implementation):
    check(implementation(), "W1")


@pytest.mark.row("S128.inputs", "E2.8")
@against(
    part("x"),
    as_the_logits=lambda: np.resize(ERROR / N, X.shape),
    skips_the_mask=lambda: (ERROR @ NETWORK.W2 / N) @ NETWORK.W1,
)
def test_gradient_in_the_inputs(implementation):
    check(implementation(), "x")


def test_biases_and_hidden_units():
    for name in ("b1", "b2", "h"):
        check(getattr(ours(), name), name)


def rectifier_slope(z):
    at = jnp.asarray([[z]], jnp.float32)
    one = jnp.ones((1, 1), jnp.float32)
    network = RectifierNetwork(one, jnp.zeros(1), one, jnp.zeros(1))
    # Of a loss whose derivative in the output is one.
    return float(squared_error_gradients(network, at, forward(network, at).logits - 1.0).z[0, 0])


@pytest.mark.row("S123", "E2.13")
@against(
    rectifier_slope,
    maximum=lambda z: float(jax.grad(lambda x: jnp.maximum(x, 0.0))(z)),
    closed=lambda z: float(z >= 0.0),
    leaky=lambda z: 1.0 if z > 0.0 else 0.01,
)
def test_slope_of_the_rectifier(implementation):
    for z in (-2.0, -1e-6, 0.0, 1e-6, 3.0):
        assert implementation(z) == float(z > 0.0)
        assert implementation(z) == np.sign(max(z, 0.0))
        assert implementation(z) == float(jax.grad(jax.nn.relu)(z))


@pytest.mark.row("S128.gaussian", "E2.7.loss")
@against(
    lambda: (float(np.mean(np.sum((VALUES - LOGITS) ** 2, axis=1)) / 2), ours("squared_error")),
    no_half=lambda: (float(np.mean(np.sum((VALUES - LOGITS) ** 2, axis=1))), ours("squared_error")),
    mean_of_a_softmax=lambda: (float(np.mean(np.sum((VALUES - LOGITS) ** 2, axis=1)) / 2), ours("cross_entropy")),
)
def test_squared_error_is_minus_a_normal_log_likelihood(implementation):
    """Up to the factor `sigma^2` and a constant, which the deviation of fixed size has; gradients alike."""
    value, gradients = implementation()
    for sigma in (0.5, 2.0):
        law = scipy.stats.norm(LOGITS, sigma)
        constant = OUTPUTS * 0.5 * np.log(2 * np.pi * sigma**2)
        minus_log_likelihood = -np.mean(law.logpdf(VALUES).sum(axis=1))
        assert value == pytest.approx(sigma**2 * (minus_log_likelihood - constant), abs=1e-12)
    for found, expected in zip(gradients, autodiff("squared_error"), strict=True):
        close(found, expected, 1e-13)
    with jax.enable_x64(True):
        assert float(squared_error(NETWORK, X, VALUES)) == pytest.approx(value, abs=1e-12)


def first(inputs, hidden, outputs):
    return RectifierNetwork.initial(jax.random.key(3), inputs, hidden, outputs)


def scaled(factor):
    def make(*sizes):
        network = first(*sizes)
        return RectifierNetwork(factor * network.W1, network.b1, factor * network.W2, network.b2)

    return make


def unit(inputs, hidden, outputs):
    return RectifierNetwork.initial(jax.random.key(3), inputs, hidden, outputs, gain=inputs**0.5)


@pytest.mark.row("S128.initialization", "E2.14")
@against(first, without_scale=unit, half_the_variance=scaled(0.5**0.5), nothing=scaled(0.0))
def test_first_weights_are_normal_and_keep_a_signal(implementation):
    network = implementation(200, 300, 250)
    for weight, inputs in ((network.W1, 200), (network.W2, 300)):
        flat = np.asarray(weight, np.float64).ravel() / (2.0 / inputs) ** 0.5
        assert scipy.stats.kstest(flat, "norm").pvalue > 1e-3
    assert not np.any(network.b1)
    assert not np.any(network.b2)
    x = np.random.default_rng(0).normal(size=(50, 200)).astype(np.float32)
    assert np.mean(forward(network, x).h ** 2) == pytest.approx(np.mean(x**2), rel=0.1)


def steps(rate, sign=1.0):
    network = NETWORK
    losses = [loss(network, X, Y)]
    with jax.enable_x64(True):
        for _ in range(3):
            network = updated(network, cross_entropy_gradients(network, X, Y), sign * rate)
            losses.append(loss(network, X, Y))
    return network, losses


@pytest.mark.row("S128.update")
@against(steps, ascent=lambda rate: steps(rate, -1.0), twice=lambda rate: steps(2 * rate), none=lambda rate: steps(0.0))
def test_update(implementation):
    network, losses = implementation(0.05)
    assert losses == sorted(losses, reverse=True)
    expected = NETWORK
    with jax.enable_x64(True):
        for _ in range(3):
            gradient = jax.grad(cross_entropy)(jax.tree.map(jnp.asarray, expected), X, Y)
            expected = jax.tree.map(lambda w, g: w - 0.05 * g, expected, gradient)
    for found, wanted in zip(jax.tree.leaves(network), jax.tree.leaves(expected), strict=True):
        close(found, wanted, 1e-12)


def test_sizes_below_one_are_refused():
    with pytest.raises(ValueError, match="layer sizes must be at least 1"):
        RectifierNetwork.initial(jax.random.key(0), 3, 0, 2)


def test_single_precision():
    network = first(INPUTS, HIDDEN, OUTPUTS)
    x, y = X.astype(np.float32), Y.astype(np.float32)
    found = jax.jit(cross_entropy_gradients)(network, x, y)
    assert found.W1.dtype == jnp.float32
    close(found.W1, jax.grad(cross_entropy)(network, x, y).W1, 1e-5)
