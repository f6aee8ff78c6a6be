"""The perceptron against NumPy, its first weights, and the optimizer's door."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from optimality.networks.mlp import MLP
from optimality.networks.optimizer import adam, descend


@pytest.mark.parametrize(("activation", "function"), [("tanh", np.tanh), ("relu", lambda x: np.maximum(x, 0.0))])
def test_forward(activation, function):
    network = MLP.build(jax.random.key(0), 3, (5, 4), 2, activation)
    x = np.array([0.5, -1.0, 2.0], np.float32)
    expected = x
    for i, (weight, bias) in enumerate(zip(network.weights, network.biases, strict=True)):
        expected = np.asarray(weight) @ expected + np.asarray(bias)
        expected = function(expected) if i < 2 else expected
    np.testing.assert_allclose(network(jnp.asarray(x)), expected, rtol=1e-5)


def test_first_weights():
    network = MLP.build(jax.random.key(1), 400, (300,), 200, output_gain=0.01)
    assert float(network.weights[0].std()) == pytest.approx((2 / 400) ** 0.5, rel=0.01)
    assert float(network.weights[1].std()) == pytest.approx(0.01 / 300**0.5, rel=0.02)
    assert all((bias == 0.0).all() for bias in network.biases)


def test_sizes_are_checked():
    with pytest.raises(ValueError, match="at least 1"):
        MLP.build(jax.random.key(0), 2, (0,), 1)


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
