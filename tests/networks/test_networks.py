"""The perceptron against NumPy, its first weights, and the optimizer's door."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from clauses import against
from optimality.networks.gru import GRU
from optimality.networks.mlp import MLP
from optimality.networks.optimizer import adam, descend


@pytest.mark.parametrize(("activation", "function"), [("tanh", np.tanh), ("relu", lambda x: np.maximum(x, 0.0))])
def test_forward(activation, function):
    network = MLP(hidden=(5, 4), activation=activation).build(jax.random.key(0), 3, 2)
    x = np.array([0.5, -1.0, 2.0], np.float32)
    expected = x
    for i, (weight, bias) in enumerate(zip(network.weights, network.biases, strict=True)):
        expected = np.asarray(weight) @ expected + np.asarray(bias)
        expected = function(expected) if i < 2 else expected
    np.testing.assert_allclose(network(jnp.asarray(x)), expected, rtol=1e-5)


def test_layer_norm():
    """Against equinox's own layer norm."""
    network = MLP(hidden=(7, 5), activation="relu", layer_norm=True).build(jax.random.key(0), 3, 2)
    network = eqx.tree_at(lambda n: n.scales[0], network, jnp.linspace(0.5, 2.0, 7))
    x = jnp.asarray([0.5, -1.0, 2.0])
    expected = x
    for weight, bias, scale in zip(network.weights[:-1], network.biases[:-1], network.scales, strict=True):
        norm = eqx.nn.LayerNorm(bias.size, eps=1e-6)
        norm = eqx.tree_at(lambda n: (n.weight, n.bias), norm, (scale, bias))
        expected = jax.nn.relu(norm(weight @ expected))
    np.testing.assert_allclose(network(x), network.weights[-1] @ expected + network.biases[-1], rtol=1e-5)


def gated(cell, hidden, x):
    return cell(hidden, x)[0]


def forgets_the_reset(cell, hidden, x):
    """The candidate without its gate."""
    full = eqx.tree_at(lambda c: (c.bias,), cell, (cell.bias.at[:4].set(100.0),))
    return full(hidden, x)[0]


@against(gated, ungated_candidate=forgets_the_reset)
def test_gated_unit_is_equinox_own(implementation):
    cell = GRU(units=4).build(jax.random.key(0), 3)
    cell = eqx.tree_at(lambda c: (c.bias, c.candidate_bias), cell, (jnp.arange(12.0) / 9.0, jnp.arange(4.0) / 3.0))
    theirs = eqx.nn.GRUCell(3, 4, key=jax.random.key(1))
    theirs = eqx.tree_at(
        lambda c: (c.weight_ih, c.weight_hh, c.bias, c.bias_n),
        theirs,
        (cell.input_weight, cell.hidden_weight, cell.bias, cell.candidate_bias),
    )
    hidden, x = jnp.asarray([0.1, -0.5, 0.3, 0.9]), jnp.asarray([1.0, -2.0, 0.5])
    np.testing.assert_allclose(implementation(cell, hidden, x), theirs(x, hidden), rtol=1e-5)
    assert cell.start().tolist() == [0.0] * 4


def test_first_weights():
    network = MLP(hidden=(300,)).build(jax.random.key(1), 400, 200, output_gain=0.01)
    assert float(network.weights[0].std()) == pytest.approx((2 / 400) ** 0.5, rel=0.01)
    assert float(network.weights[1].std()) == pytest.approx(0.01 / 300**0.5, rel=0.02)
    assert all((bias == 0.0).all() for bias in network.biases)


def test_sizes_are_checked():
    with pytest.raises(ValueError, match="at least 1"):
        MLP(hidden=(0,)).build(jax.random.key(0), 2, 1)
    with pytest.raises(ValueError, match="at least 1"):
        GRU(units=0).build(jax.random.key(0), 2)


def test_adam_is_optax_adam_after_a_clip():
    parameters, gradient = {"w": jnp.asarray([1.0, -2.0])}, {"w": jnp.asarray([3.0, 4.0])}
    ours = adam(0.1, 1.0)
    theirs = optax.chain(optax.clip_by_global_norm(1.0), optax.adam(0.1))
    state, reference, compared = ours.init(parameters), theirs.init(parameters), parameters
    for _ in range(3):
        parameters, state, applied = descend(ours, gradient, state, parameters)
        with jax.numpy_dtype_promotion("standard"):
            updates, reference = theirs.update(gradient, reference, compared)
            compared = optax.apply_updates(compared, updates)
    assert bool(applied)
    np.testing.assert_allclose(parameters["w"], compared["w"], rtol=1e-6)


def test_a_gradient_that_is_not_finite_changes_nothing():
    parameters = {"w": jnp.asarray([1.0, -2.0])}
    optimizer = adam(0.1)
    state = optimizer.init(parameters)
    after, new_state, applied = descend(optimizer, {"w": jnp.asarray([1.0, jnp.nan])}, state, parameters)
    assert not bool(applied)
    np.testing.assert_array_equal(after["w"], parameters["w"])
    assert all((a == b).all() for a, b in zip(jax.tree.leaves(new_state), jax.tree.leaves(state), strict=True))
