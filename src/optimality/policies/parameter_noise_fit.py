"""Weighted maximum likelihood of policies with noise on their parameters: `a_j ~ N(W_j' phi, phi' Sigma_j phi)`.

For each action by itself, with `v_i = phi_i' Sigma phi_i` and `r_i` the residuals, in turn

    W       weighted least squares with weights d_i / v_i
    Sigma   the likeliest of: one step of expectation maximization, which takes the noise of each sample as hidden,
                Sigma + Sigma (sum_i d_i (r_i^2 / v_i^2 - 1 / v_i) phi_i phi_i') Sigma,
            and parts of a step of Fisher scoring, the regression of r_i^2 on phi_i phi_i' with weights d_i / v_i^2,
            cut to positive semi-definite.

Neither lowers the likelihood. Expectation maximization alone would need thousands of steps near a singular Sigma.
Where different Sigma give the same variances at all samples, as with one-hot features, one of them is found.
"""

from functools import partial
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from optimality.core.numerics import Real, is_traced
from optimality.core.result import Result
from optimality.policies.weighted_fit import (
    Actions,
    Features,
    LogWeights,
    Number,
    check_samples,
    in_float64,
    named_result,
    normalized,
)

PARTS = (1.0, 0.5, 0.25, 0.1, 0.02)
"""Of the step of Fisher scoring that are tried."""


class ParameterNoiseFit(eqx.Module):
    """`result` is `CONVERGED`, `ITERATION_LIMIT`, or `NON_FINITE` with W zero and identities as covariances."""

    W: Float[Array | np.ndarray, "features actions"]
    parameter_covariance: Float[Array | np.ndarray, "actions features features"]
    log_likelihood: Float[Array | np.ndarray, "actions steps"]
    """Of each action, a weighted mean per sample, after each step; it never falls, and the last is repeated."""
    effective_sample_size: Number
    iterations: Int[Array | np.ndarray | np.generic, ""]
    result: Any
    """A `Result`; inside `jit` its integer code."""


def parameter_noise_fit(
    Phi: Features,
    A: Actions,
    log_weights: LogWeights | None = None,
    *,
    floor: Real = 1e-10,
    tolerance: Real = 1e-10,
    max_steps: int = 200,
) -> ParameterNoiseFit:
    """The likeliest W and Sigma under weights that are known up to a factor.

    Args:
        Phi: features of the states, `[N, k]`.
        A: actions, `[N, m]`.
        log_weights: logarithms of d, `[N]`, `-inf` for padding; equal weights by default.
        floor: smallest variance of an action at a sample, in squared units of the actions: as that of all samples
            tends to zero the likelihood has no maximum.
        tolerance: gain of log-likelihood per sample below which the fit ends.
        max_steps: after which it ends in any case.

    Raises:
        ValueError: for concrete data that do not fit together or are not finite where they have weight.
    """
    log_weights = np.zeros(np.shape(Phi)[:1]) if log_weights is None else log_weights
    check_samples(Phi, A, log_weights)
    for name, value in {"floor": floor, "tolerance": tolerance}.items():
        if not is_traced(value) and not 0.0 < float(np.asarray(value)) < np.inf:
            raise ValueError(f"{name} must be positive and finite, but {value} was given.")
    if max_steps < 1:
        raise ValueError(f"max_steps must be at least 1, but {max_steps} was given.")
    return named_result(in_float64(partial(_fit, max_steps=max_steps), Phi, A, log_weights, floor, tolerance))


@partial(jax.jit, static_argnames=("rounding", "max_steps"))
def _fit(Phi, A, log_weights, floor, tolerance, *, rounding: float, max_steps: int) -> ParameterNoiseFit:
    weights = normalized(log_weights)
    used = weights[:, None] > 0.0
    Phi, A = jnp.where(used, Phi, 0.0), jnp.where(used, A, 0.0)
    sound = jnp.isfinite(jnp.sum(weights)) & jnp.all(jnp.isfinite(Phi)) & jnp.all(jnp.isfinite(A))
    d = jnp.where(sound, weights, 1.0 / weights.size)
    Phi, A = jnp.where(sound, Phi, 0.0), jnp.where(sound, A, 0.0)
    k = Phi.shape[1]
    size = jnp.sqrt(d @ Phi**2)
    size = jnp.where(size > 0.0, size, 1.0)
    X = Phi / size[None, :]

    W, sigma, trace, steps, done = jax.vmap(partial(_one, X, d, floor, tolerance, max_steps))(A.T)
    W, sigma = W / size[None, :], sigma / (size[:, None] * size[None, :])[None]
    code = jnp.where(jnp.all(done), int(Result.CONVERGED), int(Result.ITERATION_LIMIT))
    return ParameterNoiseFit(
        W=jnp.where(sound, W.T, 0.0),
        parameter_covariance=jnp.where(sound, sigma, jnp.eye(k, dtype=sigma.dtype)[None]),
        log_likelihood=jnp.where(sound, trace, -jnp.inf),
        effective_sample_size=jnp.where(sound, 1.0 / jnp.sum(weights**2), 0.0),
        iterations=jnp.max(steps),
        result=jnp.where(sound, code, int(Result.NON_FINITE)).astype(jnp.int32),
    )


def _one(X, d, floor, tolerance, max_steps: int, a):
    """For one action, from a plain fit and one variance for all samples."""
    k, dtype = X.shape[1], X.dtype
    W = _mean(X, d, a)
    squares = jnp.sum(X**2, axis=1)
    variance = jnp.maximum(jnp.sum(d * (a - X @ W) ** 2) / jnp.maximum(jnp.sum(d * squares), 1e-300), floor)
    sigma = variance * jnp.eye(k, dtype=dtype)
    outer = (X[:, :, None] * X[:, None, :]).reshape(X.shape[0], k * k)

    def variances(sigma):
        return jnp.maximum(jnp.sum((X @ sigma) * X, axis=1), floor)

    def likelihood(W, sigma):
        v = variances(sigma)
        return -0.5 * jnp.sum(d * ((a - X @ W) ** 2 / v + jnp.log(v) + float(np.log(2.0 * np.pi))))

    def step(state):
        W, sigma, trace, last, count, _ = state
        W = _mean(X, d / variances(sigma), a)
        v, square = variances(sigma), (a - X @ W) ** 2
        slope = ((d * (square / v - 1.0) / v) @ outer).reshape(k, k)
        hidden = sigma + sigma @ slope @ sigma
        weight = d / v**2
        curvature = outer.T @ (weight[:, None] * outer)
        change = _solved(curvature, outer.T @ (weight * (square - v))).reshape(k, k)
        tried = [_positive(sigma + part * change) for part in PARTS]
        tried = jnp.stack([*tried, _positive(hidden), sigma])
        found = jax.vmap(likelihood, (None, 0))(W, tried)
        found = jnp.where(jnp.isfinite(found), found, -jnp.inf)
        value = jnp.max(found)
        chosen = tried[-1]
        for i in reversed(range(len(PARTS) + 1)):  # an argmax, lowered outside of the context, would be of float32
            chosen = jnp.where(found[i] == value, tried[i], chosen)
        return W, chosen, trace.at[count].set(value), value, count + 1, value - last <= tolerance

    start = likelihood(W, sigma)
    trace = jnp.full(max_steps, jnp.nan, dtype)
    state = (W, sigma, trace, start, jnp.zeros((), jnp.int32), jnp.asarray(False))
    W, sigma, trace, last, count, done = jax.lax.while_loop(lambda s: ~s[5] & (s[4] < max_steps), step, state)
    return W, sigma, jnp.where(jnp.arange(max_steps, dtype=count.dtype) < count, trace, last), count, done


def _mean(X, weights, a):
    scaled = weights[:, None] * X
    return _solved(X.T @ scaled, scaled.T @ a)


def _solved(matrix, b):
    """The solution of least norm for a symmetric positive semi-definite matrix."""
    values, vectors = jnp.linalg.eigh(matrix)
    kept = values > 10.0 * values.size * jnp.finfo(matrix.dtype).eps * values[-1]
    return vectors @ (jnp.where(kept, 1.0 / jnp.where(kept, values, 1.0), 0.0) * (vectors.T @ b))


def _positive(sigma):
    values, vectors = jnp.linalg.eigh(0.5 * (sigma + sigma.T))
    return (vectors * jnp.maximum(values, 0.0)[None, :]) @ vectors.T
