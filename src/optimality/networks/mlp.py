"""Multilayer perceptrons. Activations are static: a function as a leaf is refused by plain `jax.jit`."""

from dataclasses import KW_ONLY
from typing import Literal

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from optimality.networks.abstract import AbstractNetwork

Activation = Literal["tanh", "relu", "gelu"]

_ACTIVATIONS = {"tanh": jnp.tanh, "relu": jax.nn.relu, "gelu": jax.nn.gelu}


class Perceptron(eqx.Module):
    """`x -> W_L s(n(... s(n(W_1 x + b_1)) ...)) + b_L` on one vector, `n` the layer norm where there is one."""

    weights: tuple[Float[Array, "_ _"], ...]
    biases: tuple[Float[Array, "_"], ...]
    scales: tuple[Float[Array, "_"], ...]
    """Of the layer norms; empty without them. Their shifts are the biases."""
    activation: Activation = eqx.field(static=True)

    def __call__(self, x: Float[Array, " inputs"]) -> Float[Array, " outputs"]:
        act = _ACTIVATIONS[self.activation]
        for layer, (weight, bias) in enumerate(zip(self.weights[:-1], self.biases[:-1], strict=True)):
            x = x @ weight.T  # in this order a batch keeps its layout: a tenth faster than `weight @ x`
            x = act(_normalized(x) * self.scales[layer] + bias if self.scales else x + bias)
        return x @ self.weights[-1].T + self.biases[-1]


class MLP(AbstractNetwork):
    """A multilayer perceptron.

    First weights are normal with deviation `gain / sqrt(inputs)`, the gain sqrt(2) below the output (He et al. 2015);
    biases are zero. With `layer_norm` the sum of a hidden layer has mean 0 and variance 1 before scale and bias (Ba et
    al. 2016).
    """

    _: KW_ONLY
    hidden: tuple[int, ...] = eqx.field(static=True, default=(64, 64))
    """Sizes of the layers between input and output."""
    activation: Activation = eqx.field(static=True, default="tanh")
    """Of the hidden layers."""
    layer_norm: bool = eqx.field(static=True, default=False)
    """Normalize the sums of each hidden layer."""

    def build(self, key: PRNGKeyArray, inputs: int, outputs: int, *, output_gain: float = 1.0) -> Perceptron:
        """Raises `ValueError` for sizes below one or an unknown activation."""
        sizes = (inputs, *self.hidden, outputs)
        if min(sizes) < 1:
            raise ValueError(f"layer sizes must be at least 1, but they are {sizes}.")
        if self.activation not in _ACTIVATIONS:
            raise ValueError(f"activation must be 'tanh', 'relu' or 'gelu', but {self.activation!r} was given.")
        keys = jax.random.split(key, len(sizes) - 1)
        gains = [2.0**0.5] * len(self.hidden) + [output_gain]
        weights = tuple(
            gain / n_in**0.5 * jax.random.normal(layer_key, (n_out, n_in))
            for layer_key, gain, n_in, n_out in zip(keys, gains, sizes[:-1], sizes[1:], strict=True)
        )
        scales = tuple(jnp.ones(size) for size in self.hidden) if self.layer_norm else ()
        return Perceptron(weights, tuple(jnp.zeros(size) for size in sizes[1:]), scales, self.activation)


def _normalized(x: Float[Array, " n"]) -> Float[Array, " n"]:
    centered = x - jnp.mean(x)
    return centered * jax.lax.rsqrt(jnp.mean(centered**2) + 1e-6)
