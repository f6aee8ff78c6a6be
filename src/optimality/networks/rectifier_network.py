"""A network of one hidden layer with its gradients written out, for a softmax or for the mean of a normal law.

    z = W1 x + b1,     h = max(z, 0),     logits = W2 h + b2,     y^ = softmax(logits)
    J = -(1/n) sum_i y_i' log y^_i                              cross-entropy, minus the mean log-likelihood
    J =  (1/n) sum_i |y_i - logits_i|^2 / 2                     squared error, the same for N(logits, I) but a constant

Both losses have the same chain, from the output to the input,

    dJ/dlogits = (y^ - y) / n                                   with `logits` in place of `y^` for the squared error
    dJ/dW2 = (dJ/dlogits)' h,          dJ/db2 = sum_i dJ/dlogits,          dJ/dh = dJ/dlogits W2
    dJ/dz = dJ/dh * 1[z > 0]
    dJ/dW1 = (dJ/dz)' x,               dJ/db1 = sum_i dJ/dz,               dJ/dx = dJ/dz W1

(Rumelhart, Hinton and Williams 1986). The derivative of the rectifier at zero is zero, by convention. For learning by
automatic differentiation take `MLP`; this is the case in which every derivative can be read and checked.
"""

from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from optimality.core.numerics import Real

Inputs = Float[Array | np.ndarray, "samples inputs"]
Targets = Float[Array | np.ndarray, "samples outputs"]


class RectifierNetwork(eqx.Module):
    """Weights and biases of both layers, each its own."""

    W1: Float[Array | np.ndarray, "hidden inputs"]
    b1: Float[Array | np.ndarray, " hidden"]
    W2: Float[Array | np.ndarray, "outputs hidden"]
    b2: Float[Array | np.ndarray, " outputs"]

    @classmethod
    def initial(
        cls, key: PRNGKeyArray, inputs: int, hidden: int, outputs: int, *, gain: Real = 2.0**0.5
    ) -> "RectifierNetwork":
        """Weights from `N(0, gain^2 / inputs of the layer)`, biases zero; `sqrt(2)` keeps the mean square of a signal
        through a rectifier (He et al. 2015, section 2.2). Raises `ValueError` for sizes below one."""
        if min(inputs, hidden, outputs) < 1:
            raise ValueError(f"layer sizes must be at least 1, but they are {(inputs, hidden, outputs)}.")
        first, second = jax.random.split(key)
        W1, W2 = jax.random.normal(first, (hidden, inputs)), jax.random.normal(second, (outputs, hidden))
        gain = jnp.asarray(gain, W1.dtype)
        return cls(gain / inputs**0.5 * W1, jnp.zeros(hidden), gain / hidden**0.5 * W2, jnp.zeros(outputs))

    def __call__(self, x: Float[Array | np.ndarray, " inputs"]) -> Float[Array, " outputs"]:
        """The logits, or the mean, of one input."""
        return forward(self, jnp.asarray(x)[None]).logits[0]


class Forward(NamedTuple):
    """What each layer gives to a batch, one row a sample."""

    z: Float[Array, "samples hidden"]
    h: Float[Array, "samples hidden"]
    logits: Float[Array, "samples outputs"]


class Gradients(NamedTuple):
    """Of a loss, in everything that it is a function of."""

    logits: Float[Array, "samples outputs"]
    W2: Float[Array, "outputs hidden"]
    b2: Float[Array, " outputs"]
    h: Float[Array, "samples hidden"]
    z: Float[Array, "samples hidden"]
    W1: Float[Array, "hidden inputs"]
    b1: Float[Array, " hidden"]
    x: Float[Array, "samples inputs"]


def forward(network: RectifierNetwork, x: Inputs) -> Forward:
    """`z`, `h` and `logits` of a batch."""
    W1, b1, W2, b2 = (jnp.asarray(leaf) for leaf in (network.W1, network.b1, network.W2, network.b2))
    z = jnp.asarray(x) @ W1.T + b1[None]
    h = jax.nn.relu(z)
    return Forward(z, h, h @ W2.T + b2[None])


def cross_entropy(network: RectifierNetwork, x: Inputs, y: Targets) -> Float[Array, ""]:
    """`-(1/n) sum y' log y^`; the rows of `y` are probabilities, of one action for a label."""
    log_y = jax.nn.log_softmax(forward(network, x).logits)
    return -jnp.mean(jnp.sum(jnp.asarray(y) * log_y, axis=1))


def squared_error(network: RectifierNetwork, x: Inputs, y: Targets) -> Float[Array, ""]:
    """`(1/n) sum |y - logits|^2 / 2`: sigma^2 times minus the mean log-likelihood of `y` under `N(logits, sigma^2)`,
    but for a constant."""
    return jnp.mean(jnp.sum((jnp.asarray(y) - forward(network, x).logits) ** 2, axis=1)) / 2


def cross_entropy_gradients(network: RectifierNetwork, x: Inputs, y: Targets) -> Gradients:
    """Of `cross_entropy`, by the chain of the module's first lines."""
    at = forward(network, x)
    return _backward(network, x, at, (jax.nn.softmax(at.logits) - jnp.asarray(y)) / at.logits.shape[0])


def squared_error_gradients(network: RectifierNetwork, x: Inputs, y: Targets) -> Gradients:
    """Of `squared_error`: the same chain with another first link."""
    at = forward(network, x)
    return _backward(network, x, at, (at.logits - jnp.asarray(y)) / at.logits.shape[0])


def _backward(network: RectifierNetwork, x: Inputs, at: Forward, by_logits: Float[Array, "samples outputs"]):
    by_h = by_logits @ jnp.asarray(network.W2)
    by_z = jnp.where(at.z > 0.0, by_h, 0.0)
    return Gradients(
        logits=by_logits,
        W2=by_logits.T @ at.h,
        b2=jnp.sum(by_logits, axis=0),
        h=by_h,
        z=by_z,
        W1=by_z.T @ jnp.asarray(x),
        b1=jnp.sum(by_z, axis=0),
        x=by_z @ jnp.asarray(network.W1),
    )


def updated(network: RectifierNetwork, gradients: Gradients, learning_rate: Real) -> RectifierNetwork:
    """`w - learning_rate dJ/dw` of every weight and bias."""
    return RectifierNetwork(
        *(
            jnp.asarray(leaf) - jnp.asarray(learning_rate, slope.dtype) * slope
            for leaf, slope in (
                (network.W1, gradients.W1),
                (network.b1, gradients.b1),
                (network.W2, gradients.W2),
                (network.b2, gradients.b2),
            )
        )
    )
