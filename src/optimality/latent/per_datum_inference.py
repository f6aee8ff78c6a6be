"""A posterior for each observation by itself, in place of an encoder for all.

    q_i(z) = N(z; m_i, s_i^2),        m_i, s_i in R^k,        i = 1, ..., N

hold 2 k N numbers beside the model's, where an encoder's number does not grow with N; each is the best of its family
for its observation (Hoffman, Blei, Wang and Paisley 2013). How one is found is in `refinement`.
"""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PRNGKeyArray

from optimality.core.numerics import at_precision, is_traced
from optimality.core.result import Result
from optimality.distributions.normal import Normal
from optimality.latent.abstract import AbstractLatentModel
from optimality.latent.refinement import NARROW, RefinedPosterior, Refinement, check_expectation, refine_with


class PerDatumPosterior(eqx.Module):
    """One normal posterior for each observation."""

    refined: RefinedPosterior
    """With a leading axis of points."""
    parameter_count: int = eqx.field(static=True)
    """Of the model and of all posteriors."""
    result: Any
    """`ITERATION_LIMIT` where some observation's ascent by Newton's steps has not ended, `NON_FINITE` where a bound is
    not a number."""

    @property
    def posterior(self) -> Normal:
        """`[points, latents]`."""
        return self.refined.posterior

    @property
    def bound(self) -> Any:
        """`[points]`; a bound on the log evidence of each."""
        return self.refined.bound

    @property
    def modes_disagree(self) -> Any:
        """`[points]`."""
        return self.refined.modes_disagree


def infer_per_datum(
    model: AbstractLatentModel,
    observations: Any,
    key: PRNGKeyArray | None = None,
    *,
    guess: Normal | None = None,
    dtype: Any = None,
    **options: Any,
) -> PerDatumPosterior:
    """A posterior for each row of `observations`, `[points, features]`.

    Concrete arguments are computed with in float64 where the expectation is exact, else in float32.

    Args:
        model: `log_likelihood(x, z)` of a standard normal z.
        observations: one row a point; a vector counts as points of one feature.
        key: of the noise; seed 0 without one.
        guess: starts, `[points, latents]`; by default narrow, with drawn means of half the prior's width,
            so that none lies on a saddle between two modes.
        dtype: of a concrete computation.
        options: fields of `Refinement`.

    Raises:
        ValueError: as `refine`; no points, points of another width or that are not finite.
    """
    method = Refinement(**options)
    check_expectation(model, method)
    rows = checked_rows(model, observations)
    points, latents = rows.shape[0], model.latents
    if guess is not None and np.shape(guess.location) != (points, latents):
        raise ValueError(
            f"guess must hold a mean and a scale for each of {points} points and {latents} latents, but "
            f"{np.shape(guess.location)} was given."
        )
    key = jax.random.key(0) if key is None else key
    refined = at_precision(_refine_all, model, rows, guess, key, method, dtype=dtype or default_dtype(method))
    count = parameter_count(model, points)
    return PerDatumPosterior(refined, count, None if is_traced(refined) else result_of(refined))


def parameter_count(model: Any, points: int) -> int:
    """Numbers that per-datum inference holds: the model's, and a mean and a scale for each latent of each point.

    An autoencoder's own encoder is not counted: nothing needs it here.
    """
    return _numbers(_without_encoder(model)) + 2 * model.latents * points


def amortized_parameter_count(model: Any, encoder: Any) -> int:
    """Numbers that the model and its encoder hold, whatever the number of points."""
    return _numbers(_without_encoder(model)) + _numbers(encoder)


def checked_rows(model: AbstractLatentModel, observations: Any) -> Any:
    """`[points, features]`, concrete ones in float64.

    Raises `ValueError` for none, for another width, and for entries that are not finite.
    """
    rows = observations if is_traced(observations) else np.asarray(observations)
    if rows.dtype.kind in "biu":
        rows = rows.astype(np.float64)
    rows = rows[:, None] if rows.ndim == 1 else rows
    if rows.ndim != 2 or rows.shape[0] == 0 or rows.shape[1] != model.features:
        raise ValueError(
            f"observations must be [points, {model.features}] with a point or more, but {np.shape(observations)} was "
            f"given."
        )
    if not is_traced(rows) and not np.all(np.isfinite(rows)):
        point, feature = np.argwhere(~np.isfinite(rows))[0]
        raise ValueError(
            f"observations must be finite, but point {point} has {rows[point, feature]} in feature {feature}: drop the "
            f"point or fill the gap."
        )
    return rows


def default_dtype(method: Refinement) -> Any:
    """float64 where the expectation is exact."""
    return np.float64 if method.exact else np.float32


def result_of(refined: RefinedPosterior) -> Result:
    """How the ascent of all points ended."""
    if not np.all(np.isfinite(refined.bound) & np.isfinite(refined.start_bound)):
        return Result.NON_FINITE
    enough = np.sqrt(np.finfo(np.asarray(refined.bound).dtype).eps) * (1.0 + np.abs(refined.bound))
    return Result.ITERATION_LIMIT if np.any(refined.gradient_norm > enough) else Result.CONVERGED


@eqx.filter_jit
def _refine_all(model, rows, guess, key, method: Refinement) -> RefinedPosterior:
    start_key, key = jax.random.split(key)
    if guess is None:
        mean = 0.5 * jax.random.normal(start_key, (rows.shape[0], model.latents), rows.dtype)
        guess = Normal(mean, jnp.full_like(mean, NARROW))
    keys = jax.random.split(key, rows.shape[0])
    return jax.vmap(lambda x, start, own: refine_with(method, model, x, start, own))(rows, guess, keys)


def _without_encoder(model: Any) -> Any:
    return eqx.tree_at(lambda m: m.encoder, model, None) if getattr(model, "encoder", None) is not None else model


def _numbers(tree: Any) -> int:
    leaves = (leaf for leaf in jax.tree.leaves(tree) if isinstance(leaf, float) or eqx.is_inexact_array_like(leaf))
    return sum(int(np.size(leaf)) for leaf in leaves)
