"""The Riccati sweep: cost-to-go and gains of a linear-quadratic problem, backward in time, with derivatives.

Over `z = [x; u; 1]` a step is `x' = F z` and costs `1/2 z'C z`; the cost-to-go of the next state is
`1/2 [x; 1]'V'[x; 1]` with `V' = [[P, p], [p', 2 s]]`. With discount d, channels of noise S_i, covariance W, and e the
last unit vector,

    G = C + d ([F; e]'V'[F; e] + sum_i S_i'P S_i + tr(P W) e e')
    [K, k] = -G_uu^-1 [G_ux, G_u1],      L = [I, 0; K, k; 0, 1]
    V = L'G L - temperature log |2 pi temperature G_uu^-1| e e'

(Bertsekas 2017, section 3.1; with temperature Levine 2018, section 3). Under risk the next cost-to-go
is first replaced by its certainty equivalent (`gaussian_risk`).

Derivatives are those of the optimum: as L is optimal, a change of G reaches V through `L'dG L` alone, and one linear
sweep with the gains and factors that are known already carries it to earlier steps.
"""

import functools
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from optimality.core.small_matrices import (
    apply,
    cholesky,
    factor_and_solve,
    log_determinant,
    product,
    solve_cholesky,
    solve_lower,
    solve_lower_transposed,
    symmetric,
    transposed_product,
)
from optimality.planning.gaussian_risk import Ahead, certainty_equivalent, root, tilt
from optimality.planning.quadratic_forms import (
    FORM_AXES,
    STAGE_AXES,
    Forms,
    corner,
    forms,
    homogeneous,
    lift,
    value_form,
    with_time,
)
from optimality.problems.linear_quadratic import LinearQuadratic, Stage

_Tensor = Float[Array, "..."]
_Number = Float[Array, ""]


class Sweep(NamedTuple):
    """Cost-to-go `1/2 x'P x + p'x + s` at T+1 times, and gains and `Q_uu = G_uu` of T steps."""

    P: _Tensor
    p: _Tensor
    s: _Tensor
    K: _Tensor
    k: _Tensor
    Q_uu: _Tensor


def sweep(problem: LinearQuadratic, temperature: _Number | None, risk: _Number | None) -> Sweep:
    """The backward sweep over the horizon of `problem`; without temperature there is no entropy, without risk the next
    state counts by its mean. Where a `Q_uu` is not positive definite, gains and everything earlier are NaN."""
    horizon = problem.horizon
    assert horizon is not None
    ends = value_form(jnp.asarray(problem.Qf), jnp.asarray(problem.qf), jnp.asarray(problem.sf))
    discount = jnp.asarray(problem.discount, ends.dtype)
    return _sweep(horizon, jax.tree.map(jnp.asarray, problem.arrays()), ends, discount, temperature, risk)


_LARGEST_PACKED = 24
"""Rows up to which forms of all steps are laid out before the scan. Of larger ones each step assembles its own and
finishes its gains, while they are in the cache: writing them all to memory takes as long as the computation."""


@functools.partial(jax.custom_jvp, nondiff_argnums=(0,))
def _sweep(horizon: int, stage: Stage, ends, discount, temperature, risk) -> Sweep:
    n, steps = stage.W.shape[-1], forms(stage)
    packed = n <= _LARGEST_PACKED
    roots = None if risk is None else root(steps.W)
    given, tree = jax.tree.flatten((steps if packed else stage, roots))
    axes = (*(FORM_AXES if packed else STAGE_AXES)[: len(given) - (roots is not None)], 2)
    moving = [None if x.ndim == dimensions else x for x, dimensions in zip(given, axes, strict=False)]

    def body(value, here):
        now = [fixed if moved is None else moved for fixed, moved in zip(given, here, strict=True)]
        step, noise_root = jax.tree.unflatten(tree, now)
        ahead = value if risk is None else tilt(value, noise_root, risk)
        new, solved = backward_step(step if packed else forms(step), ahead, discount)
        return new, (new[:, :n], new[:, n], solved, None if packed else solved.gains())

    _, (P, p, solved, finished) = jax.lax.scan(body, ends[:n], moving, length=horizon, reverse=True)
    gains = solved.gains() if finished is None else finished
    P, p = jnp.concatenate([P, ends[None, :n, :n]]), jnp.concatenate([p, ends[None, :n, n]])
    constants = constant_terms(steps, P[1:], p[1:], solved, discount, temperature, risk)

    def accumulate(s, constant):
        s = constant + discount * s
        return s, s

    last = ends[n, n] / 2
    _, s = jax.lax.scan(accumulate, last, constants, reverse=True)
    return Sweep(P, p, jnp.concatenate([s, last[None]]), gains[..., :n], gains[..., n], solved.Q_uu)


@_sweep.defjvp
def _sweep_jvp(horizon: int, primals, tangents) -> tuple[Sweep, Sweep]:
    stage, ends, discount, temperature, risk = primals
    d_stage, d_ends, d_discount, d_temperature, d_risk = tangents
    swept = _sweep(horizon, *primals)
    steps, d_steps = forms(stage), forms(d_stage)
    factor = cholesky(swept.Q_uu)
    n, m = steps.W.shape[-1], swept.Q_uu.shape[-1]
    F, _, W, S = (with_time(x, d) for x, d in zip(steps, FORM_AXES, strict=True))
    d_F, d_C, d_W, d_S = (with_time(x, d) for x, d in zip(d_steps, FORM_AXES, strict=True))
    F, d_F = homogeneous(F, 1.0), homogeneous(d_F, 0.0)
    d_C, d_W, d_ends = symmetric(d_C), symmetric(d_W), symmetric(d_ends)
    L = lift(jnp.concatenate([swept.K, swept.k[..., None]], axis=-1))
    ahead = Ahead.of(swept.P[1:], swept.p[1:], swept.s[1:], W, risk)

    # G changes at a given cost-to-go of the next state, through everything that is an input
    VF = product(ahead.V, F)
    cross = transposed_product(d_F, VF)
    explicit = transposed_product(F, product(ahead.explicit(d_W, d_risk), F))
    d_G = d_C + discount * (cross + jnp.swapaxes(cross, -1, -2) + explicit)
    mean_ahead = transposed_product(F, VF) + corner(ahead.noise(), VF.shape[-1])
    if S is not None:
        PS = product(ahead.V[:, None, :n, :n], S)
        cross = jnp.sum(transposed_product(d_S, PS), axis=-3)
        d_G = d_G + discount * (cross + jnp.swapaxes(cross, -1, -2))
        mean_ahead = mean_ahead + jnp.sum(transposed_product(S, PS), axis=-3)
    d_G = d_G + d_discount * mean_ahead

    # and through that cost-to-go: the linear sweep
    passed, chance = product(ahead.moved, F), ahead.chance
    closed, channels = product(passed, L), None if S is None else product(S, L[:, None])
    sensitivity, d_constant = chance, jnp.zeros((horizon,), ends.dtype)
    if temperature is not None:
        controls = [passed[..., :n, n : n + m]] + ([] if S is None else [S[..., n : n + m]])
        sensitivity = sensitivity + temperature * _spread(controls, factor)
        inverse = solve_cholesky(factor, jnp.broadcast_to(jnp.eye(m, dtype=ends.dtype), factor.shape))
        d_constant = temperature * jnp.sum(inverse * d_G[..., n : n + m, n : n + m], axis=(-2, -1))
        d_constant = d_constant - d_temperature * (
            m * jnp.log(2.0 * math.pi * temperature) + m - log_determinant(factor)
        )
    H = transposed_product(L, product(d_G, L)) + corner(d_constant, n + 1)

    def body(d_V, here):
        H, closed, channels, sensitivity = here
        new = H + discount * transposed_product(closed, product(d_V, closed))
        d_P = d_V[:n, :n]
        if channels is not None:
            new = new + discount * jnp.sum(transposed_product(channels, product(d_P[None], channels)), axis=0)
        return new + discount * corner(jnp.sum(sensitivity * d_P), n + 1), d_V

    sensitivity = jnp.broadcast_to(sensitivity, (horizon, n, n))
    d_first, d_ahead = jax.lax.scan(body, d_ends, (H, closed, channels, sensitivity), reverse=True)
    d_values = jnp.concatenate([d_first[None], d_ahead])

    d_u = d_G[..., n : n + m, :] + discount * transposed_product(passed[..., n : n + m], product(d_ahead, passed))
    if S is not None:
        PS = product(d_ahead[:, None, :n, :n], S)
        d_u = d_u + discount * jnp.sum(transposed_product(S[..., n : n + m], PS), axis=-3)
    d_gains = -solve_cholesky(factor, product(d_u, L))
    d_P, d_p, d_s = d_values[..., :n, :n], d_values[..., :n, n], d_values[..., n, n] / 2
    return swept, Sweep(d_P, d_p, d_s, d_gains[..., :n], d_gains[..., n], d_u[..., n : n + m])


def _spread(controls: list[_Tensor], factor: _Tensor) -> _Tensor:
    """`sum B Q_uu^-1 B'` over matrices B: `[T, n, m]`, or `[T, L, n, m]` for channels."""
    total = jnp.zeros((1, 1, 1), factor.dtype)
    for B in controls:
        each = factor if B.ndim == 3 else factor[:, None]
        time = jnp.broadcast_shapes(B.shape[:-2], each.shape[:-2])
        rows = jnp.broadcast_to(jnp.swapaxes(B, -1, -2), (*time, B.shape[-1], B.shape[-2]))
        half = solve_lower(jnp.broadcast_to(each, (*time, *each.shape[-2:])), rows)
        outer = transposed_product(half, half)
        total = total + (outer if B.ndim == 3 else jnp.sum(outer, axis=1))
    return total


class Solved(NamedTuple):
    """Of one step: `Q_uu`, its Cholesky factor, and the factor's solution of `[Q_ux, q_u]`."""

    Q_uu: _Tensor
    factor: _Tensor
    half: _Tensor

    def gains(self) -> _Tensor:
        """`[K, k]`."""
        return -solve_lower_transposed(self.factor, self.half)


def backward_step(step: Forms, ahead: Float[Array, "n n1"], discount: _Number) -> tuple[Float[Array, "n n1"], Solved]:
    """`[P, p]` from that of the next state, `ahead`, without constants. W and temperature do not matter here."""
    F, C, _, S = step
    n, z = F.shape
    P, p = ahead[:, :n], ahead[:, n:]
    M = discount * (product(P, F) + jnp.pad(p, ((0, 0), (z - 1, 0))))
    G = C[:-1] + transposed_product(F[:, :-1], M)
    if S is not None:
        G = G + discount * jnp.sum(transposed_product(S[..., :-1], product(P[None], S)), axis=0)
    Q_uu = G[n:, n:-1]
    factor, half = factor_and_solve(Q_uu, jnp.concatenate([G[n:, :n], G[n:, -1:]], axis=1))
    new = jnp.concatenate([G[:n, :n], G[:n, -1:]], axis=1) - transposed_product(half[:, :n], half)
    return jnp.concatenate([symmetric(new[:, :n]), new[:, n:]], axis=1), Solved(Q_uu, factor, half)


def constant_terms(
    steps: Forms, P: _Tensor, p: _Tensor, solved: Solved, discount: _Number, temperature: Any, risk: Any
) -> Float[Array, " time"]:
    """What each step adds to the constant `s`, all at once, as nothing else depends on them. `P` and `p` are those of
    the next states."""
    W, c = with_time(steps.W, 2), jnp.broadcast_to(steps.F[..., -1], p.shape)
    if risk is None:
        tilted_P, tilted_p, noise = P, p, 0.5 * jnp.sum(P * W, axis=(-2, -1))
    else:
        tilted_P, tilted_p, noise = certainty_equivalent(P, p, W, risk)
    ahead = noise + jnp.sum(c * (0.5 * apply(tilted_P, c) + tilted_p), axis=-1)
    if steps.S is not None:
        offset = with_time(steps.S[..., -1], 2)
        ahead = ahead + 0.5 * jnp.sum(offset * apply(P[..., None, :, :], offset), axis=(-2, -1))
    terms = 0.5 * steps.C[..., -1, -1] + discount * ahead - 0.5 * jnp.sum(solved.half[..., -1] ** 2, axis=-1)
    if temperature is None:
        return terms
    m = solved.Q_uu.shape[-1]
    return terms - 0.5 * temperature * (m * jnp.log(2.0 * math.pi * temperature) - log_determinant(solved.factor))
