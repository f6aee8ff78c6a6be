"""Linear-quadratic steps as forms: dynamics `x' = F z` and cost `1/2 z'C z` over `z = [x; u; 1]`."""

from typing import Any, NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float

from optimality.problems.linear_quadratic import Stage

_Tensor = Float[Array, "..."]


class Forms(NamedTuple):
    """Steps as forms over `z = [x; u; 1]`, each constant or with a leading axis of time."""

    F: _Tensor
    """Dynamics `[n, z]`."""
    C: _Tensor
    """Cost `[z, z]`."""
    W: _Tensor
    """Covariance of the noise `[n, n]`."""
    S: _Tensor | None
    """Channels of noise `[L, n, z]`."""


FORM_AXES = (2, 2, 2, 3)
"""Axes of each form without time."""
STAGE_AXES = (2, 2, 1, 2, 2, 2, 2, 1, 1, 0, 3, 3, 2)
"""Axes of each array of a stage without time, in the order of its leaves; channels, which may be absent, are last."""


def forms(stage: Stage) -> Forms:
    """The forms of a stage; they have an axis of time where one of their parts has."""
    channels = stage.channels
    F = _join(-1, 2, stage.A, stage.B, stage.c[..., None])
    C = _join(
        -2,
        2,
        _join(-1, 2, stage.Q, stage.N, stage.q[..., None]),
        _join(-1, 2, jnp.swapaxes(stage.N, -1, -2), stage.R, stage.r[..., None]),
        _join(-1, 2, stage.q[..., None, :], stage.r[..., None, :], 2.0 * jnp.asarray(stage.s)[..., None, None]),
    )
    S = None if channels is None else _join(-1, 3, channels.state, channels.control, channels.offset[..., None])
    return Forms(F, C, jnp.asarray(stage.W), S)


def _join(axis: int, dimensions: int, *blocks) -> Array:
    time = max((block.shape[: block.ndim - dimensions] for block in blocks), key=len)
    whole = [jnp.broadcast_to(block, (*time, *block.shape[block.ndim - dimensions :])) for block in blocks]
    return jnp.concatenate(whole, axis=axis)


def with_time(x: Any, dimensions: int) -> Any:
    """With an axis of time, of length 1 where it is constant."""
    return x if x is None or x.ndim > dimensions else x[None]


def lift(gains: _Tensor) -> _Tensor:
    """`[I, 0; K, k; 0, 1]`, which makes `[x; u; 1]` of `[x; 1]`, from `[K, k]`."""
    size = gains.shape[-1]
    identity = jnp.eye(size, dtype=gains.dtype)
    time = gains.shape[:-2]
    top, bottom = (jnp.broadcast_to(rows, (*time, *rows.shape)) for rows in (identity[:-1], identity[-1:]))
    return jnp.concatenate([top, gains, bottom], axis=-2)


def value_form(P: _Tensor, p: _Tensor, s: _Tensor) -> _Tensor:
    """`[[P, p], [p', 2 s]]`."""
    top = jnp.concatenate([P, p[..., None]], axis=-1)
    return jnp.concatenate([top, jnp.concatenate([p, 2.0 * s[..., None]], axis=-1)[..., None, :]], axis=-2)


def homogeneous(F: _Tensor, one: float) -> _Tensor:
    """With a row below that keeps the constant: `[F; 0 ... 0 one]`."""
    row = jnp.zeros(F.shape[-1], F.dtype).at[-1].set(one)
    return jnp.concatenate([F, jnp.broadcast_to(row, (*F.shape[:-2], 1, F.shape[-1]))], axis=-2)


def corner(x: _Tensor, size: int) -> _Tensor:
    """A matrix with `x` at its last entry."""
    return jnp.zeros((*x.shape, size, size), x.dtype).at[..., -1, -1].set(x)
