"""A gated recurrent unit as a policy's memory."""

from dataclasses import KW_ONLY

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from optimality.networks.abstract import AbstractMemory


class GRUCell(eqx.Module):
    """One step of a gated recurrent unit (Cho et al. 2014, equations 5-8).

        r = sigmoid(W_r x + U_r h + b_r),    z = sigmoid(W_z x + U_z h + b_z)
        n = tanh(W_n x + b_n + r * (U_n h + c_n)),    h' = (1 - z) * n + z * h

    The rows of `input_weight` `[3 units, inputs]` and `hidden_weight` `[3 units, units]` are those of r, z and n.
    """

    input_weight: Float[Array, "_ _"]
    hidden_weight: Float[Array, "_ _"]
    bias: Float[Array, "_"]
    candidate_bias: Float[Array, "_"]

    def start(self) -> Float[Array, " units"]:
        """Nothing remembered."""
        return jnp.zeros(self.hidden_weight.shape[1], self.hidden_weight.dtype)

    def __call__(
        self, carry: Float[Array, " units"], x: Float[Array, " inputs"]
    ) -> tuple[Float[Array, " units"], Float[Array, " units"]]:
        """`(carry, output)`, which are the same here."""
        from_input = jnp.split(self.input_weight @ x + self.bias, 3)
        from_hidden = jnp.split(self.hidden_weight @ carry, 3)
        reset = jax.nn.sigmoid(from_input[0] + from_hidden[0])
        update = jax.nn.sigmoid(from_input[1] + from_hidden[1])
        candidate = jnp.tanh(from_input[2] + reset * (from_hidden[2] + self.candidate_bias))
        carry = (1.0 - update) * candidate + update * carry
        return carry, carry


class GRU(AbstractMemory):
    """A gated recurrent unit; first weights are normal with deviation `1 / sqrt(inputs)`, biases zero."""

    _: KW_ONLY
    units: int = eqx.field(static=True, default=64)
    """Size of the memory."""

    def build(self, key: PRNGKeyArray, inputs: int) -> GRUCell:
        """Raises `ValueError` for sizes below one."""
        if min(inputs, self.units) < 1:
            raise ValueError(f"sizes must be at least 1, but there are {inputs} inputs and {self.units} units.")
        input_key, hidden_key = jax.random.split(key)
        return GRUCell(
            jax.random.normal(input_key, (3 * self.units, inputs)) / inputs**0.5,
            jax.random.normal(hidden_key, (3 * self.units, self.units)) / self.units**0.5,
            jnp.zeros(3 * self.units),
            jnp.zeros(self.units),
        )
