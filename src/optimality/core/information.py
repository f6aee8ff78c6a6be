"""Entropy, divergences and effective sample size of distributions on finite sets, with zero probabilities.

Everything takes logarithms of probabilities; `0 log 0 = 0`, and derivatives are finite at zeros.
"""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

LogProbabilities = Float[Array, "..."] | Float[np.ndarray, "..."]


def entropy(log_p: LogProbabilities, axis: int = -1) -> Float[Array, "..."]:
    """`H(p) = -sum p log p` in nats, over `axis`."""
    log_p = jnp.asarray(log_p)
    inside = ~jnp.isneginf(log_p)
    safe = jnp.where(inside, log_p, 0.0)
    return -jnp.sum(jnp.where(inside, jnp.exp(safe) * safe, 0.0), axis=axis)


def kl_divergence(log_p: LogProbabilities, log_q: LogProbabilities, axis: int = -1) -> Float[Array, "..."]:
    """`KL(p || q) = sum p (log p - log q)` in nats; `inf` where p has mass that q has not."""
    log_p, log_q = jnp.broadcast_arrays(jnp.asarray(log_p), jnp.asarray(log_q))
    inside = ~jnp.isneginf(log_p)
    outside_q = jnp.any(inside & jnp.isneginf(log_q), axis=axis)
    both = inside & ~jnp.isneginf(log_q)
    safe_p, safe_q = jnp.where(both, log_p, 0.0), jnp.where(both, log_q, 0.0)
    finite = jnp.sum(jnp.where(both, jnp.exp(safe_p) * (safe_p - safe_q), 0.0), axis=axis)
    return jnp.where(outside_q, jnp.inf, finite)


def total_variation(log_p: LogProbabilities, log_q: LogProbabilities, axis: int = -1) -> Float[Array, "..."]:
    """`sum |p - q| / 2`, in [0, 1]."""
    return 0.5 * jnp.sum(jnp.abs(jnp.exp(jnp.asarray(log_p)) - jnp.exp(jnp.asarray(log_q))), axis=axis)


def effective_sample_size(log_weights: LogProbabilities, axis: int = -1) -> Float[Array, "..."]:
    """`(sum w)^2 / sum w^2`, between one and the number of weights; 0 where every weight is zero.

    Weights come as logarithms and need not be normalized (Kong 1992).
    """
    log_weights = jnp.asarray(log_weights)
    top = jnp.max(log_weights, axis=axis, keepdims=True)
    weights = jnp.exp(log_weights - jnp.where(jnp.isneginf(top), 0.0, top))
    total, squares = jnp.sum(weights, axis=axis), jnp.sum(weights * weights, axis=axis)
    return jnp.where(squares > 0.0, total * total / jnp.where(squares > 0.0, squares, 1.0), 0.0)
