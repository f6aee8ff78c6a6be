"""Optax behind one door: it promotes integer counts to floats, which strict dtype promotion forbids."""

from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, PyTree

from optimality.core.numerics import Real


def adam(
    learning_rate: Real,
    max_gradient_norm: Real | None = None,
    epsilon: float = 1e-8,
    weight_decay: Real | None = None,
) -> optax.GradientTransformation:
    """Adam (Kingma and Ba 2015), after a clip of the gradient's global norm where one is given.

    `weight_decay` times the learning rate is the share that every matrix loses at a step; vectors and numbers lose
    nothing (Loshchilov and Hutter 2019: AdamW).
    """
    steps = [] if max_gradient_norm is None else [optax.clip_by_global_norm(max_gradient_norm)]  # pyright: ignore
    decay = [] if weight_decay is None else [_add_parameters(weight_decay)]
    return optax.chain(*steps, optax.scale_by_adam(eps=epsilon), *decay, optax.scale(-1.0), _scale_by(learning_rate))


def _add_parameters(factor: Real) -> optax.GradientTransformation:
    def update(updates, state, params=None):
        def add(u, p):
            return u + p * jnp.asarray(factor, u.dtype) if p.ndim >= 2 else u

        return jax.tree.map(add, updates, params), state

    return optax.GradientTransformation(lambda params: optax.EmptyState(), update)


def _scale_by(factor: Real) -> optax.GradientTransformation:
    def update(updates, state, params=None):
        return jax.tree.map(lambda u: u * jnp.asarray(factor, u.dtype), updates), state

    return optax.GradientTransformation(lambda params: optax.EmptyState(), update)


def descend(
    optimizer: optax.GradientTransformation, gradient: PyTree, optimizer_state: Any, parameters: PyTree
) -> tuple[PyTree, Any, Bool[Array, ""]]:
    """One step, `(parameters, optimizer state, applied)`; a gradient whose norm is not finite is not applied."""
    with jax.numpy_dtype_promotion("standard"):
        finite = jnp.isfinite(optax.tree.norm(gradient))  # a clip computes it too, so that it costs nothing
        updates, new_state = optimizer.update(gradient, optimizer_state, parameters)
        new_parameters = optax.apply_updates(parameters, updates)
    keep = lambda new, old: jnp.where(finite, new, old)  # noqa: E731
    return (
        jax.tree.map(keep, new_parameters, parameters),
        jax.tree.map(keep, new_state, optimizer_state),
        finite,
    )
