"""What a quadratic cost-to-go is worth before normal noise, `w ~ N(0, W)`, is added to the state; and how that changes.

    -(1 / risk) log E exp(-risk [1/2 (x + w)'P (x + w) + p'(x + w) + s]) = 1/2 x'P~ x + p~'x + s~
    P~ = (I + risk P W)^-1 P,   p~ = (I + risk P W)^-1 p,   s~ = s - risk/2 p'W p~ + 1/(2 risk) log |I + risk P W|

(Whittle 1981; Jacobson 1973. Costs are minus rewards, so positive risk is optimism.) At risk 0 it is the mean, P, p and
`s + 1/2 tr(P W)`. It is infinite where `I + risk W^1/2 P W^1/2` is not positive definite.
"""

from typing import Any, NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from optimality.core.small_matrices import apply, product, symmetric, transposed_product
from optimality.planning.quadratic_forms import corner, homogeneous, value_form

_Tensor = Float[Array, "..."]
_Number = Float[Array, ""]


def root(W: _Tensor) -> _Tensor:
    """A square matrix whose product with its transpose is the covariance `W`, which may be singular. Not to be
    differentiated."""
    values, vectors = jnp.linalg.eigh(W)
    return vectors * jnp.sqrt(jnp.maximum(values, 0.0))[..., None, :]


def tilt(value: Float[Array, "n n1"], noise_root: Float[Array, "n n"], risk: _Number) -> Float[Array, "n n1"]:
    """`[P~, p~]` from `[P, p]`; NaN where the certainty equivalent is infinite. Not to be differentiated."""
    P = value[:, :-1]
    spread, directions = jnp.linalg.eigh(symmetric(transposed_product(noise_root, product(P, noise_root))))
    odds = 1.0 + risk * spread
    reach = transposed_product(product(noise_root, directions), value)
    scaled = reach / jnp.where(odds > 0.0, odds, jnp.nan)[:, None]
    return value - risk * transposed_product(reach[:, :-1], scaled)


def certainty_equivalent(P: _Tensor, p: _Tensor, W: _Tensor, risk: _Number) -> tuple[_Tensor, _Tensor, _Tensor]:
    """`P~`, `p~` and `s~ - s`, smooth in all that is given."""
    size = P.shape[-1]
    X = product(P, W)
    M = jnp.eye(size, dtype=P.dtype) + risk * X if X.ndim == 2 else jnp.eye(size, dtype=P.dtype)[None] + risk * X
    tilted = jnp.linalg.solve(M, jnp.concatenate([P, p[..., None]], axis=-1))
    P_tilted, p_tilted = symmetric(tilted[..., :size]), tilted[..., size]
    small, traces = _powers(X, risk, 1 / 4)
    safe = jnp.where(small, 1.0, risk)
    series = sum((-risk) ** k * trace / (k + 1.0) for k, trace in enumerate(traces))
    width = jnp.where(small, series, jnp.linalg.slogdet(M)[1] / safe)
    return P_tilted, p_tilted, 0.5 * width - 0.5 * risk * jnp.sum(p * apply(W, p_tilted), axis=-1)


def _powers(X: _Tensor, risk: _Number, order: float) -> tuple[Bool[Array, "..."], list[_Tensor]]:
    """Whether `risk X` is so small that a series is better than a logarithm, and traces of the powers of X."""
    powers = [X]
    for _ in range(4):
        powers.append(product(powers[-1], X))
    traces = [jnp.trace(power, axis1=-2, axis2=-1) for power in powers]
    return jnp.abs(risk) * jnp.abs(traces[0]) < jnp.finfo(X.dtype).eps ** order, traces


class Ahead(NamedTuple):
    """The certainty equivalent of the next cost-to-go as a form, `V`, and how it follows from it: a change `dV` passes
    as `moved' dV moved` and adds `tr(chance dP)` to the corner. Without risk nothing moves, and `chance` is W."""

    V: _Tensor
    moved: _Tensor
    chance: _Tensor
    W: _Tensor
    P: _Tensor
    risk: _Number | None

    @classmethod
    def of(cls, P: _Tensor, p: _Tensor, s: _Tensor, W: _Tensor, risk: _Number | None) -> "Ahead":
        """Arrays with an axis of time."""
        size = p.shape[-1]
        identity = jnp.eye(size, size + 1, dtype=p.dtype)[None]
        if risk is None:
            return cls(value_form(P, p, s), homogeneous(identity, 1.0), W, W, P, None)
        P_tilted, p_tilted, added = certainty_equivalent(P, p, W, risk)
        chance = W - risk * product(W, product(P_tilted, W))
        moved = identity - risk * product(chance, jnp.concatenate([P, p[..., None]], axis=-1))
        return cls(value_form(P_tilted, p_tilted, s + added), homogeneous(moved, 1.0), chance, W, P, risk)

    def noise(self) -> _Tensor:
        """`tr(P W)`, which stands beside V without risk, and is inside it with."""
        if self.risk is not None:
            return jnp.zeros(self.V.shape[:1], self.V.dtype)
        return jnp.sum(self.P * self.W, axis=(-2, -1))

    def explicit(self, d_W: _Tensor, d_risk: Any) -> _Tensor:
        """Change of V with the noise and the risk."""
        size = self.V.shape[-1]
        by_noise = corner(jnp.sum(self.V[..., :-1, :-1] * d_W, axis=(-2, -1)), size)
        if self.risk is None:
            return by_noise
        rows = self.V[..., :-1, :]
        X = product(self.P, self.W)
        small, traces = _powers(X, self.risk, 1 / 6)
        safe = jnp.where(small, 1.0, self.risk)
        series = sum(-((-self.risk) ** (k - 1)) * trace * k / (k + 1.0) for k, trace in enumerate(traces) if k > 0)
        log_det = jnp.linalg.slogdet(jnp.eye(size - 1, dtype=X.dtype)[None] + self.risk * X)[1]
        tilted_trace = jnp.sum(self.V[..., :-1, :-1] * self.W, axis=(-2, -1))
        slope = jnp.where(small, series, (tilted_trace - log_det / safe) / safe)
        by_risk = corner(slope, size) - transposed_product(rows, product(self.W, rows))
        return by_noise - self.risk * transposed_product(rows, product(d_W, rows)) + d_risk * by_risk
