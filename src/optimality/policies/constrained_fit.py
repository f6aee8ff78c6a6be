"""Weighted maximum likelihood within a KL bound of the old policy, over the states that were visited.

    max  sum_i d_i log pi(a_i | s_i)      subject to   sum_i q_i KL(old(. | s_i) || pi(. | s_i)) <= bound

for `pi(a | s) = N(W' phi(s), Sigma)`, d and q each of sum one. As `-KL(old || pi)` is the expected log-likelihood of
actions drawn from the old policy, plus a constant, the Lagrangian is a weighted likelihood once more, of the samples
and, with weight mu, of the old policy at the visited states. Its maximum, with `r_i` the residuals of the old mean,
`G_d = Phi' D Phi`, `G_q = Phi' Q Phi` and `B = Phi' D r`, is

    W = W_old + Delta,      (G_d + mu G_q) Delta = B
    (1 + mu) Sigma = r' D r - B' Delta + mu Sigma_old

(diagonal and spherical structures take the diagonal, or its mean). The divergence falls from that of the plain fit to
zero as mu grows, so mu is the root of one equation. G_d and G_q are made diagonal together (generalized singular
values, from triangular factors, so that no condition number is squared), and the actions are measured in the old
covariance, where what no features explain is diagonal. With k features below m actions an evaluation then takes
`m k^2` operations, without them `m^3`.

The plain fit bounds nothing: with N samples of d actions its divergence exceeds the bound that gave the weights, and is
infinite for N <= d. Bounding it over the *weighted* states alone leaves the policy free where it will go next.
"""

from functools import partial
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.linalg import solve_triangular
from jaxtyping import Array, Float, Int

from optimality.core.numerics import Real, is_traced
from optimality.core.result import Result
from optimality.policies.tall_factor import tall_factor
from optimality.policies.weighted_fit import (
    Actions,
    Features,
    LogWeights,
    Number,
    Structure,
    check_samples,
    in_float64,
    named_result,
    normalized,
)

LARGEST_LOG = 35.0
"""Multipliers are looked for between the exponentials of this and of its negative."""


class ConstrainedFit(eqx.Module):
    """The fit, its multiplier and both divergences.

    `result` is `CONVERGED` where the bound is met with equality; `CONSTRAINT_INACTIVE` where the plain fit is within
    it; `BELOW_MINIMAL_KL` where the structure cannot come as near to the old covariance: then W is the old one and the
    covariance the nearest of that structure; `ITERATION_LIMIT`; `NOT_POSITIVE_DEFINITE` or `NON_FINITE`, with the old
    policy, where the old covariance is not positive definite or a sample with weight is not finite.
    """

    W: Float[Array | np.ndarray, "features actions"]
    """Of the mean `W' phi`; the old one in directions of the features that no weighted sample has."""
    covariance: Float[Array | np.ndarray, "actions actions"]
    multiplier: Number
    """mu, with weights and visits of sum one; 0 where the bound does not bind."""
    kl_old_new: Number
    """`KL(old || new)`, averaged over the visited states: what is bounded."""
    kl_new_old: Number
    """`KL(new || old)`, averaged likewise."""
    effective_sample_size: Number
    """Of the weights."""
    iterations: Int[Array | np.ndarray | np.generic, ""]
    result: Any
    """A `Result`; inside `jit` its integer code."""


def kl_constrained_fit(
    old_W: Float[Array | np.ndarray, "features actions"],
    old_covariance: Float[Array | np.ndarray, "actions actions"],
    Phi: Features,
    A: Actions,
    log_weights: LogWeights,
    *,
    bound: Real,
    log_visits: LogWeights | None = None,
    structure: Structure = "full",
    max_steps: int = 100,
) -> ConstrainedFit:
    """The likeliest policy of the weighted samples within `bound` nats of the old one.

    Works for fewer samples than actions or features: the covariance stays positive definite, since it holds a share of
    the old one. The bound is met to 1e-10, relative, and not passed beyond rounding. Computed in float64 always;
    traced float32 arguments give float32, and no derivative.

    Args:
        old_W: `[k, m]`, on the same features.
        old_covariance: `[m, m]`, positive definite.
        Phi: features of the visited states, `[N, k]`.
        A: actions, `[N, m]`; those of weight zero may be anything.
        log_weights: logarithms of d up to a constant, `[N]`, `-inf` for no weight.
        bound: on the mean of KL(old || new), in nats, positive.
        log_visits: logarithms of q up to a constant, `[N]`, uniform by default. Give `-inf` to padding.
        structure: of the new covariance.
        max_steps: of the search for mu.

    Raises:
        ValueError: for concrete data that do not fit together or are not finite where they have weight, and a bound or
            an old covariance that is not positive.
    """
    log_visits = np.zeros(np.shape(Phi)[:1]) if log_visits is None else log_visits
    check_samples(Phi, A, log_weights)
    check_samples(Phi, jnp.zeros(np.shape(A)) if is_traced(A) else np.zeros(np.shape(A)), log_visits, "log_visits")
    k, m = np.shape(Phi)[1], np.shape(A)[1]
    if np.shape(old_W) != (k, m) or np.shape(old_covariance) != (m, m):
        raise ValueError(
            f"old_W and old_covariance must be [k, m] = {(k, m)} and [m, m], but {np.shape(old_W)} and "
            f"{np.shape(old_covariance)} were given: both policies are on the same features."
        )
    if structure not in ("full", "diagonal", "spherical"):
        raise ValueError(f"structure must be full, diagonal or spherical, but {structure!r} was given.")
    if not is_traced(bound) and not 0.0 < float(np.asarray(bound)) < np.inf:
        raise ValueError(f"bound must be positive and finite, but {bound} was given.")
    if not is_traced((old_W, old_covariance)):
        _check_old(np.asarray(old_W), np.asarray(old_covariance))
    arguments = (old_W, old_covariance, Phi, A, log_weights, log_visits, bound)
    return named_result(in_float64(_compiled(structure, max_steps), *arguments))


def _check_old(W: np.ndarray, covariance: np.ndarray) -> None:
    if not (np.all(np.isfinite(W)) and np.all(np.isfinite(covariance))):
        raise ValueError("the old policy is not finite: look for NaN or overflow.")
    symmetric = np.allclose(covariance, covariance.T, rtol=1e-5, atol=1e-7 * np.abs(covariance).max())
    if not symmetric or np.linalg.eigvalsh(covariance).min() <= 0.0:
        raise ValueError("old_covariance must be symmetric and positive definite: every policy is infinitely far else.")


class _Pencil(NamedTuple):
    """Everything the search needs. Features in the basis that makes both Gram matrices diagonal, actions in the one
    that makes the old covariance the identity (full structure) or as they are."""

    unexplained: Array
    """What no features explain, the diagonal of its scatter `[m]`, or the whole `[m, m]`."""
    old: Array
    """Variances of the old policy, `[m]`; the identity's for the full structure."""
    shift: Array
    """`B` in that basis, divided by the root of G_d, `[k, m]`."""
    seen: Array
    """G_d, `[k]`."""
    visited: Array
    """G_q, `[k]`; one less G_d."""


def _fit(old_W, old_covariance, Phi, A, log_weights, log_visits, bound, *, rounding, structure, max_steps):
    dtype, m = A.dtype, A.shape[1]
    weights, visits = normalized(log_weights), normalized(log_visits)
    used, needed = (weights > 0.0)[:, None], ((weights > 0.0) | (visits > 0.0))[:, None]
    effective = 1.0 / jnp.sum(weights**2)
    Phi, A = jnp.where(needed, Phi, 0.0), jnp.where(used, A, 0.0)
    total = jnp.sum(weights) + jnp.sum(visits)
    sound = jnp.isfinite(total) & jnp.all(jnp.isfinite(Phi)) & jnp.all(jnp.isfinite(A))
    old_factor = jnp.linalg.cholesky(old_covariance)
    positive = jnp.all(jnp.isfinite(old_factor)) & jnp.all(jnp.isfinite(old_W))
    usable = sound & positive
    even = jnp.full_like(weights, 1.0 / weights.size)
    weights, visits = jnp.where(sound, weights, even), jnp.where(sound, visits, even)
    Phi, A = jnp.where(sound, Phi, 0.0), jnp.where(sound, A, 0.0)
    old_factor = jnp.where(usable, old_factor, jnp.eye(m, dtype=dtype))
    W_start = jnp.where(usable, old_W, 0.0)

    basis, pencil, back, R_q = _pencil(W_start, old_factor, Phi, A, weights, visits, structure)
    surplus = 2.0 * jnp.sum(jnp.log(jnp.diagonal(old_factor)))

    def divergence(log_mu):
        return _divergence(pencil, _shares(log_mu), structure, surplus)

    tolerance = max(1e-10, 100.0 * rounding)
    found, steps, at_limit = _search(divergence, bound, tolerance, max_steps)
    nothing, everything = jnp.asarray(-jnp.inf, dtype), jnp.asarray(LARGEST_LOG, dtype)
    inactive = divergence(nothing) <= bound
    below = ~(divergence(everything) <= bound)
    log_mu = jnp.where(inactive, nothing, found)

    data, old = jnp.where(below, 0.0, _shares(log_mu)[0]), jnp.where(below, 1.0, _shares(log_mu)[1])
    change = basis @ (_moved(pencil, (data, old))[:, None] * pencil.shift)
    sigma = _covariance(pencil, (data, old), structure)
    if back is not None:
        change, sigma = change @ back.T, back @ sigma @ back.T
        sigma = 0.5 * (sigma + sigma.T)
    W = W_start + jnp.where(below, 0.0, change)
    kl_old_new, kl_new_old = _divergences(old_factor, sigma, R_q @ (W - W_start), structure)

    code = jnp.where(at_limit, int(Result.ITERATION_LIMIT), int(Result.CONVERGED))
    code = jnp.where(below, int(Result.BELOW_MINIMAL_KL), code)
    code = jnp.where(inactive, int(Result.CONSTRAINT_INACTIVE), code)
    code = jnp.where(positive, code, int(Result.NOT_POSITIVE_DEFINITE))
    code = jnp.where(sound, code, int(Result.NON_FINITE)).astype(jnp.int32)
    return ConstrainedFit(
        W=jnp.where(usable, W, old_W),
        covariance=jnp.where(usable, sigma, old_covariance),
        multiplier=jnp.where(below | ~usable, jnp.inf, jnp.exp(log_mu)),
        kl_old_new=jnp.where(usable, kl_old_new, 0.0),
        kl_new_old=jnp.where(usable, kl_new_old, 0.0),
        effective_sample_size=jnp.where(sound, effective, 0.0),
        iterations=jnp.where(inactive, 0, steps),
        result=code,
    )


def _pencil(old_W, old_factor, Phi, A, weights, visits, structure: str):
    """The basis of the features, the pencil, the map from its actions back to the user's (None where they are the
    same), and a root of G_q."""
    dtype, (samples, k), m = Phi.dtype, Phi.shape, A.shape[1]
    size = jnp.sqrt((weights + visits) @ Phi**2)
    size = jnp.where(size > 0.0, size, 1.0)
    rounding = jnp.finfo(dtype).eps * max(samples, k)

    Q, R_d = tall_factor(jnp.sqrt(weights)[:, None] * (Phi / size[None, :]))
    _, R_q = tall_factor(jnp.sqrt(visits)[:, None] * (Phi / size[None, :]))
    residuals = jnp.sqrt(weights)[:, None] * (A - Phi @ old_W)
    U, s, Vt = jnp.linalg.svd(jnp.concatenate([R_d, R_q]), full_matrices=False)
    kept = s > rounding * s[0]
    U = jnp.where(kept[None, :], U, 0.0)
    P, c, Zt = jnp.linalg.svd(U[: R_d.shape[0]], full_matrices=False)
    known = c > rounding
    visited = jnp.sum((U[R_d.shape[0] :] @ Zt.T) ** 2, axis=0)
    basis = (Vt.T * jnp.where(kept, 1.0 / jnp.where(kept, s, 1.0), 0.0)[None, :]) @ Zt.T / size[:, None]
    explained = jnp.where(known[:, None], (Q @ P).T @ residuals, 0.0)
    rest = residuals - (Q @ P) @ explained

    if structure == "full":
        explained = solve_triangular(old_factor, explained.T, lower=True).T
        half = solve_triangular(old_factor, rest.T @ rest, lower=True)
        scatter, back, old = solve_triangular(old_factor, half.T, lower=True), old_factor, jnp.ones(m, dtype)
        if k < m:
            values, vectors = jnp.linalg.eigh(scatter)
            scatter, back, explained = jnp.maximum(values, 0.0), old_factor @ vectors, explained @ vectors
    else:
        scatter, back = jnp.sum(rest**2, axis=0), None
        old = jnp.sum(old_factor**2, axis=1)
    pencil = _Pencil(scatter, old, explained, jnp.where(known, c**2, 0.0), visited)
    return basis, pencil, back, R_q * size[None, :]


def _shares(log_mu):
    """Weights of the data and of the old policy, `1 / (1 + mu)` and `mu / (1 + mu)`."""
    return jax.nn.sigmoid(-log_mu), jax.nn.sigmoid(log_mu)


def _weighted(pencil: _Pencil, shares):
    """`(G_d + mu G_q) / (1 + mu)`, one in directions without data, in which nothing moves."""
    data, old = shares
    both = data * pencil.seen + old * pencil.visited
    return jnp.where(pencil.seen > 0.0, both, 1.0)


def _moved(pencil: _Pencil, shares):
    """`Delta` in the basis, as a multiple of `shift`."""
    return shares[0] * jnp.sqrt(pencil.seen) / _weighted(pencil, shares)


def _left(pencil: _Pencil, shares):
    """Share of what features explain that the fit leaves in the covariance, `1 - seen / (seen + mu visited)`."""
    return jnp.where(pencil.seen > 0.0, shares[1] * pencil.visited / _weighted(pencil, shares), 0.0)


def _variances(pencil: _Pencil, shares, structure: str):
    """Of the new policy, for the diagonal and spherical structures."""
    data, old = shares
    scatter = pencil.unexplained + jnp.sum(_left(pencil, shares)[:, None] * pencil.shift**2, axis=0)
    variances = data * scatter + old * pencil.old
    return jnp.full_like(variances, jnp.mean(variances)) if structure == "spherical" else variances


def _covariance(pencil: _Pencil, shares, structure: str):
    if structure != "full":
        return jnp.diag(_variances(pencil, shares, structure))
    data, old = shares
    scatter = jnp.diag(pencil.unexplained) if pencil.unexplained.ndim == 1 else pencil.unexplained
    explained = (pencil.shift.T * _left(pencil, shares)[None, :]) @ pencil.shift
    return data * (scatter + explained) + old * jnp.diag(pencil.old)


def _divergence(pencil: _Pencil, shares, structure: str, old_log_determinant):
    """`sum_i q_i KL(old || new)`; infinite for a covariance that is singular."""
    step = jnp.sqrt(pencil.visited) * _moved(pencil, shares)
    moved = step[:, None] * pencil.shift
    if structure != "full":
        variances = _variances(pencil, shares, structure)
        ratio = (pencil.old + jnp.sum(moved**2, axis=0)) / variances
        kl = jnp.sum(ratio - 1.0 + jnp.log(variances)) - old_log_determinant
    elif pencil.unexplained.ndim == 1:
        kl = _low_rank(pencil, shares, moved)
    else:
        factor = jnp.linalg.cholesky(_covariance(pencil, shares, structure))
        inverse = solve_triangular(factor, jnp.eye(factor.shape[0], dtype=factor.dtype), lower=True)
        drift = solve_triangular(factor, moved.T, lower=True)
        kl = jnp.sum(inverse**2) - factor.shape[0] + jnp.sum(drift**2) + 2.0 * jnp.sum(jnp.log(jnp.diagonal(factor)))
    kl = jnp.maximum(0.5 * kl, 0.0)
    return jnp.where(jnp.isnan(kl), jnp.inf, kl)


def _low_rank(pencil: _Pencil, shares, moved):
    """Twice the divergence for `diag(a) + U' U`, U of k rows below m, by the identity of Woodbury."""
    data, old = shares
    excess = data * (pencil.unexplained - 1.0)
    a = data * pencil.unexplained + old
    U = jnp.sqrt(data * _left(pencil, shares))[:, None] * pencil.shift
    inner = jnp.linalg.cholesky(jnp.eye(U.shape[0], dtype=U.dtype) + (U / a[None, :]) @ U.T)
    over = solve_triangular(inner, U / a[None, :], lower=True)
    across = solve_triangular(inner, (U / a[None, :]) @ moved.T, lower=True)
    drift = jnp.sum(moved**2 / a[None, :]) - jnp.sum(across**2)
    determinant = 2.0 * jnp.sum(jnp.log(jnp.diagonal(inner)))
    return jnp.sum(jnp.log1p(excess) - excess / a) + (determinant - jnp.sum(over**2)) + drift


def _search(divergence, bound, tolerance: float, max_steps: int):
    """The logarithm of mu at which the divergence is the bound or a rounding below it.

    Newton's method on logarithms, where the divergence is nearly a line at both ends, inside a bracket that is halved
    where a step leaves it or gains too little.
    """
    dtype = bound.dtype
    aim = jnp.log(bound) - 0.5 * tolerance

    def excess(log_mu):
        return jnp.log(jnp.maximum(divergence(log_mu), jnp.finfo(dtype).tiny)) - aim

    def body(state):
        x, low, high, last, steps, _ = state
        gap, slope = jax.jvp(excess, (x,), (jnp.ones_like(x),))
        low, high = jnp.where(gap > 0.0, x, low), jnp.where(gap > 0.0, high, x)
        newton = x - gap / slope
        good = (newton > low) & (newton < high) & (jnp.abs(gap) < 0.5 * last)
        done = (jnp.abs(gap) <= 0.5 * tolerance) | (high - low <= 4.0 * jnp.finfo(dtype).eps * LARGEST_LOG)
        x = jnp.where(
            done, jnp.where(jnp.abs(gap) <= 0.5 * tolerance, x, high), jnp.where(good, newton, 0.5 * (low + high))
        )
        return x, low, high, jnp.abs(gap), steps + 1, done

    edge = jnp.asarray(LARGEST_LOG, dtype)
    start = (
        jnp.zeros((), dtype),
        -edge,
        edge,
        jnp.asarray(jnp.inf, dtype),
        jnp.zeros((), jnp.int32),
        jnp.asarray(False),
    )
    x, _, high, _, steps, done = jax.lax.while_loop(lambda s: ~s[5] & (s[4] < max_steps), body, start)
    return jnp.where(done, x, high), steps, ~done


def _divergences(old_factor, sigma, moved, structure: str):
    """Both mean divergences between normal laws whose means differ by rows of `moved`, in total square."""

    def mean_kl(of, to):
        ratio = solve_triangular(to, of, lower=True)
        distance = jnp.sum(solve_triangular(to, moved.T, lower=True) ** 2)
        logs = jnp.sum(jnp.log(jnp.diagonal(to))) - jnp.sum(jnp.log(jnp.diagonal(of)))
        return 0.5 * (jnp.sum(ratio**2) - of.shape[0] + distance) + logs

    if structure == "full":
        new_factor = jnp.linalg.cholesky(sigma)
        return mean_kl(old_factor, new_factor), mean_kl(new_factor, old_factor)
    variances = jnp.diagonal(sigma)
    spread = (jnp.sum(old_factor**2, axis=1) + jnp.sum(moved**2, axis=0)) / variances
    logs = 0.5 * jnp.sum(jnp.log(variances)) - jnp.sum(jnp.log(jnp.diagonal(old_factor)))
    return 0.5 * jnp.sum(spread - 1.0) + logs, mean_kl(jnp.diag(jnp.sqrt(variances)), old_factor)


def _compiled(structure: str, max_steps: int) -> Any:
    key = structure, max_steps
    if key not in _FITS:
        _FITS[key] = jax.jit(partial(_fit, structure=structure, max_steps=max_steps), static_argnames="rounding")
    return _FITS[key]


_FITS: dict[tuple[str, int], Any] = {}
