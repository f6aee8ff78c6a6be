"""Multilayer perceptrons. Activations are static: a function as a leaf is refused by plain `jax.jit`."""

from typing import Literal

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

Activation = Literal["tanh", "relu"]


class MLP(eqx.Module):
    """`x -> W_L s(... s(W_1 x + b_1) ...) + b_L` on one vector; batch by `vmap`.

    Weights are normal with deviation `gain / sqrt(inputs)`, the gain sqrt(2) below the output (He et al. 2015); biases
    are zero.
    """

    weights: tuple[Float[Array, "_ _"], ...]
    biases: tuple[Float[Array, "_"], ...]
    activation: Activation = eqx.field(static=True)

    @classmethod
    def build(
        cls,
        key: PRNGKeyArray,
        inputs: int,
        hidden: tuple[int, ...],
        outputs: int,
        activation: Activation = "tanh",
        output_gain: float = 1.0,
    ) -> "MLP":
        """Layers of the sizes `hidden` between `inputs` and `outputs`."""
        sizes = (inputs, *hidden, outputs)
        if min(sizes) < 1:
            raise ValueError(f"layer sizes must be at least 1, but they are {sizes}.")
        if activation not in ("tanh", "relu"):
            raise ValueError(f"activation must be 'tanh' or 'relu', but {activation!r} was given.")
        keys = jax.random.split(key, len(sizes) - 1)
        gains = [2.0**0.5] * len(hidden) + [output_gain]
        weights = tuple(
            gain / n_in**0.5 * jax.random.normal(layer_key, (n_out, n_in))
            for layer_key, gain, n_in, n_out in zip(keys, gains, sizes[:-1], sizes[1:], strict=True)
        )
        return cls(weights, tuple(jnp.zeros(size) for size in sizes[1:]), activation)

    def __call__(self, x: Float[Array, " inputs"]) -> Float[Array, " outputs"]:
        act = jnp.tanh if self.activation == "tanh" else jax.nn.relu
        for weight, bias in zip(self.weights[:-1], self.biases[:-1], strict=True):
            x = act(weight @ x + bias)
        return self.weights[-1] @ x + self.biases[-1]
