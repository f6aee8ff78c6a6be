"""Weighted maximum likelihood of normal policies with a mean linear in features.

    maximize  sum_i d_i log N(a_i; W' phi_i, Sigma)
    W = (Phi' D Phi)^-1 Phi' D A,        Sigma = sum_i d_i r_i r_i' / Z,        r_i = a_i - W' phi_i

The maximum has `Z = sum d` (`maximum_likelihood`). Its expectation falls short of Sigma, since W has been fitted to the
same samples. For weights that do not depend on the actions the unbiased denominator is

    Z = sum d - tr[(Phi' D Phi)^-1 Phi' D^2 Phi]      (`general_correction`),

N - k for equal weights, and `sum d - sum d^2 / sum d` where the only feature is a constant (`intercept_correction`,
which Deisenroth, Neumann and Peters 2013 print for any features). Weights of policy search do depend on the actions.
"""

from functools import partial
from typing import Any, Literal

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from optimality.core.numerics import Real, at_precision, cast_floats, float_dtype, is_traced, precision
from optimality.core.result import Result
from optimality.policies.tall_factor import tall_factor

Structure = Literal["full", "diagonal", "spherical"]
Covariance = Literal["maximum_likelihood", "intercept_correction", "general_correction"]
Features = Float[Array | np.ndarray, "samples features"]
Actions = Float[Array | np.ndarray, "samples actions"]
LogWeights = Float[Array | np.ndarray, " samples"]
Number = Float[Array | np.ndarray | np.generic, ""]

LEAST_FREEDOM = 0.5
"""Smallest corrected denominator, in effective samples."""


class WeightedFit(eqx.Module):
    """The fit and what it rests on.

    `result` is `CONVERGED`; `COLLAPSED` where a corrected denominator had to be held, as the effective sample size
    nears the number of features; or `NON_FINITE` with W zero and the identity as covariance, where a weighted sample is
    not finite or no weight is left.
    """

    W: Float[Array | np.ndarray, "features actions"]
    """Of the mean `W' phi`; in directions of the features that no weighted sample has, zero."""
    covariance: Float[Array | np.ndarray, "actions actions"]
    denominator: Number
    """Z as a share of `sum d`: 1 for maximum likelihood, `(N - k) / N` for the general one with equal weights."""
    effective_sample_size: Number
    """`(sum d)^2 / sum d^2`."""
    rank: Int[Array | np.ndarray | np.generic, ""]
    """Number of independent features among the weighted samples."""
    guarded: Bool[Array | np.ndarray | np.generic, ""]
    """Whether the corrected denominator was below half an effective sample, and was held there."""
    floored: Bool[Array | np.ndarray | np.generic, ""]
    """Whether eigenvalues of the covariance were raised to the floor."""
    result: Any
    """A `Result`; inside `jit` its integer code."""


def weighted_linear_gaussian(
    Phi: Features,
    A: Actions,
    log_weights: LogWeights | None = None,
    *,
    structure: Structure = "full",
    covariance: Covariance = "maximum_likelihood",
    ridge: Real = 0.0,
    floor: Real = 1e-10,
) -> WeightedFit:
    """The likeliest `a ~ N(W' phi, Sigma)` under weights that are known up to a factor.

    The mean is found by a triangular factorization of the weighted features, each in units of its root mean square, so
    that its error grows with their condition number and not with its square. Dependent features are no error: of the
    coefficients that fit equally well those of least norm, in these units, are taken.

    Args:
        Phi: features of the states, `[N, k]`.
        A: actions, `[N, m]`.
        log_weights: logarithms of d, `[N]`, `-inf` for padding; equal weights by default.
        structure: of the covariance; `diagonal` and `spherical` (a multiple of the identity) share its entries.
        covariance: which denominator.
        ridge: added to `Phi' D Phi`, with weights that sum to one and features in units of their root mean square.
        floor: smallest eigenvalue of the covariance, in squared units of the actions; never below what rounding of
            the largest one leaves.

    Raises:
        ValueError: for concrete data that do not fit together or are not finite where they have weight.
    """
    log_weights = _equal(Phi) if log_weights is None else log_weights
    check_samples(Phi, A, log_weights)
    _check_choices(structure, covariance)
    for name, value in {"ridge": ridge, "floor": floor}.items():
        if not is_traced(value) and not 0.0 <= float(np.asarray(value)) < np.inf:
            raise ValueError(f"{name} must be finite and at least 0, but {value} was given.")
    return named_result(in_float64(_FITS[structure, covariance], Phi, A, log_weights, ridge, floor))


def weighted_log_likelihood(
    W: Float[Array | np.ndarray, "features actions"],
    covariance: Float[Array | np.ndarray, "actions actions"],
    Phi: Features,
    A: Actions,
    log_weights: LogWeights,
) -> Number:
    """`sum_i d_i log N(a_i; W' phi_i, covariance)`, with d the exponentials as they are given."""
    check_samples(Phi, A, log_weights)
    return at_precision(_log_likelihood, W, covariance, Phi, A, log_weights)


def weighted_score(
    W: Float[Array | np.ndarray, "features actions"],
    covariance: Float[Array | np.ndarray, "actions actions"],
    Phi: Features,
    A: Actions,
    log_weights: LogWeights,
) -> tuple[Float[Array | np.ndarray, "features actions"], Float[Array | np.ndarray, "actions actions"]]:
    """Its derivatives, entries of the covariance taken as independent:

    `Phi' D (A - Phi W) Sigma^-1`    and    `sum_i d_i (Sigma^-1 r_i r_i' Sigma^-1 - Sigma^-1) / 2`.
    """
    check_samples(Phi, A, log_weights)
    return at_precision(_score, W, covariance, Phi, A, log_weights)


def check_samples(Phi: Any, A: Any, log_weights: Any, name: str = "log_weights") -> None:
    """Raises `ValueError` for samples that do not fit together or are not finite where they have weight."""
    shapes = np.shape(Phi), np.shape(A), np.shape(log_weights)
    fitting = len(shapes[0]) == len(shapes[1]) == 2 and shapes[0][0] == shapes[1][0] and shapes[2] == shapes[0][:1]
    if not fitting or 0 in (*shapes[0], *shapes[1]):
        raise ValueError(
            f"Phi, A and {name} must be [N, k], [N, m] and [N], none of them empty, but {shapes[0]}, {shapes[1]} and "
            f"{shapes[2]} were given."
        )
    if is_traced((Phi, A, log_weights)):
        return
    weights = np.asarray(log_weights)
    if np.any(np.isnan(weights) | np.isposinf(weights)) or np.all(np.isneginf(weights)):
        raise ValueError(f"{name} must be finite or -inf, and one of them finite: give a sample some weight.")
    used = ~np.isneginf(weights)
    for label, array in {"Phi": Phi, "A": A}.items():
        if not np.all(np.isfinite(np.asarray(array)[used])):
            raise ValueError(f"{label} is not finite at a sample that has weight: give it the log weight -inf.")


def named_result(fit: Any) -> Any:
    """`fit` with a `Result` in place of its code, where it is concrete."""
    if is_traced(fit.result):
        return fit
    return eqx.tree_at(lambda f: f.result, fit, Result.of(fit.result))


def normalized(log_weights: LogWeights) -> Float[Array, " samples"]:
    """Weights that sum to one; NaN where there are none."""
    log_weights = jnp.asarray(log_weights)
    weights = jnp.exp(log_weights - jnp.max(log_weights))
    return weights / jnp.sum(weights)


def in_float64(kernel: Any, *arguments: Any) -> Any:
    """`kernel(*arguments, rounding=...)` in float64: concrete arguments give NumPy arrays, traced ones of float32 give
    float32 and have no derivative. `rounding` is that of the answer."""
    if not is_traced(arguments):
        return at_precision(partial(kernel, rounding=float(np.finfo(np.float64).eps)), *arguments)
    dtype = float_dtype(arguments)
    if dtype == jnp.float64:
        return kernel(*cast_floats(arguments, dtype), rounding=float(np.finfo(np.float64).eps))
    arguments = jax.lax.stop_gradient(cast_floats(arguments, dtype))
    with precision(np.float64):
        exact = kernel(*cast_floats(arguments, np.float64), rounding=float(np.finfo(dtype).eps))
        return cast_floats(exact, dtype)


def _equal(Phi: Any) -> np.ndarray:
    return np.zeros(np.shape(Phi)[:1])


def _check_choices(structure: str, covariance: str) -> None:
    if structure not in ("full", "diagonal", "spherical"):
        raise ValueError(f"structure must be full, diagonal or spherical, but {structure!r} was given.")
    if covariance not in ("maximum_likelihood", "intercept_correction", "general_correction"):
        raise ValueError(
            f"covariance must be maximum_likelihood, intercept_correction or general_correction, but {covariance!r} "
            "was given."
        )


@jax.jit
def _log_likelihood(W, covariance, Phi, A, log_weights):
    weights, factor = jnp.exp(log_weights), jnp.linalg.cholesky(covariance)
    residuals = jnp.where(weights[:, None] > 0.0, A - Phi @ W, 0.0)
    z = jax.scipy.linalg.solve_triangular(factor, residuals.T, lower=True)
    constant = jnp.sum(jnp.log(jnp.diagonal(factor))) + 0.5 * A.shape[1] * float(np.log(2.0 * np.pi))
    return -0.5 * jnp.sum(weights * jnp.sum(z**2, axis=0)) - jnp.sum(weights) * constant


@jax.jit
def _score(W, covariance, Phi, A, log_weights):
    weights, factor = jnp.exp(log_weights)[:, None], jnp.linalg.cholesky(covariance)
    residuals = jnp.where(weights > 0.0, A - Phi @ W, 0.0)
    scaled = jax.scipy.linalg.cho_solve((factor, True), residuals.T).T
    precision = jax.scipy.linalg.cho_solve((factor, True), jnp.eye(A.shape[1], dtype=A.dtype))
    by_W = jnp.where(weights > 0.0, weights * Phi, 0.0).T @ scaled
    return by_W, 0.5 * ((weights * scaled).T @ scaled - jnp.sum(weights) * precision)


def _fit(Phi, A, log_weights, ridge, floor, *, rounding: float, structure: str, covariance: str) -> WeightedFit:
    m, dtype = A.shape[1], A.dtype
    weights = normalized(log_weights)
    effective = 1.0 / jnp.sum(weights**2)
    used = weights[:, None] > 0.0
    Phi, A = jnp.where(used, Phi, 0.0), jnp.where(used, A, 0.0)
    sound = jnp.isfinite(jnp.sum(weights)) & jnp.all(jnp.isfinite(Phi)) & jnp.all(jnp.isfinite(A))
    weights = jnp.where(sound, weights, 1.0 / weights.size)
    Phi, A = jnp.where(sound, Phi, 0.0), jnp.where(sound, A, 0.0)

    size = jnp.sqrt(weights @ Phi**2)
    size = jnp.where(size > 0.0, size, 1.0)
    root = jnp.sqrt(weights)[:, None]
    rows = root * Phi / size[None, :]
    Q, R = tall_factor(rows)
    P, s, Vt = jnp.linalg.svd(R, full_matrices=False)
    kept = s > jnp.finfo(dtype).eps * max(rows.shape) * s[0]
    shrink = jnp.where(kept, s / jnp.where(kept, s**2 + ridge, 1.0), 0.0)
    W = Vt.T @ (shrink[:, None] * (P.T @ ((root * Q).T @ A))) / size[:, None]

    residuals = root * (A - Phi @ W)
    P = jnp.where(kept[None, :], P, 0.0)
    share = _denominator(weights, Q, P, covariance)
    held = LEAST_FREEDOM / effective
    guarded = share < held
    share = jnp.where(guarded, held, share)
    sigma, floored = _floored(_scatter(residuals, structure) / share, floor, rounding, structure)
    code = jnp.where(guarded, int(Result.COLLAPSED), int(Result.CONVERGED))
    code = jnp.where(sound, code, int(Result.NON_FINITE)).astype(jnp.int32)
    sigma = jnp.where(sound, sigma, jnp.eye(m, dtype=dtype))
    effective = jnp.where(sound, effective, 0.0)
    return WeightedFit(W, sigma, share, effective, jnp.sum(kept), guarded, floored, code)


def _denominator(weights, Q, P, covariance: str):
    if covariance == "general_correction":
        # d_i times the leverage of sample i, summed
        return 1.0 - jnp.sum(P * ((Q.T @ (weights[:, None] * Q)) @ P))
    if covariance == "intercept_correction":
        return 1.0 - jnp.sum(weights**2)
    return jnp.ones((), weights.dtype)


def _scatter(residuals, structure: str):
    if structure == "full":
        return residuals.T @ residuals
    squares = jnp.sum(residuals**2, axis=0)
    return jnp.diag(squares if structure == "diagonal" else jnp.full_like(squares, jnp.mean(squares)))


def _floored(sigma, floor, rounding: float, structure: str):
    rounding = 10.0 * sigma.shape[0] * rounding
    if structure != "full":
        variances = jnp.diagonal(sigma)
        least = jnp.maximum(jnp.maximum(floor, rounding * jnp.max(variances)), jnp.finfo(sigma.dtype).tiny)
        return jnp.diag(jnp.maximum(variances, least)), jnp.any(variances < least)
    least = jnp.maximum(jnp.maximum(floor, rounding * jnp.trace(sigma)), jnp.finfo(sigma.dtype).tiny)

    def raised(sigma):
        values, vectors = jnp.linalg.eigh(sigma)
        return sigma + (vectors * jnp.maximum(least - values, 0.0)[None, :]) @ vectors.T

    shifted = sigma - least * jnp.eye(sigma.shape[0], dtype=sigma.dtype)
    low = jnp.any(jnp.isnan(jnp.linalg.cholesky(shifted)))
    return jax.lax.cond(low, raised, lambda sigma: sigma, sigma), low


_FITS = {
    (structure, covariance): jax.jit(
        partial(_fit, structure=structure, covariance=covariance), static_argnames="rounding"
    )
    for structure in ("full", "diagonal", "spherical")
    for covariance in ("maximum_likelihood", "intercept_correction", "general_correction")
}
