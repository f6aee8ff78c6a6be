"""What an encoder loses against a posterior for each observation by itself.

    log p(x) - L(encoder(x))  =  [log p(x) - L(best q)]  +  [L(best q) - L(encoder(x))]
                                  approximation gap          amortization gap

The best q is of the encoder's own family, a normal law with independent latents: the first part is what the family
cannot do, and only the second is the encoder's fault (Cremer, Li and Duvenaud 2018).
"""

import math
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from optimality.core.numerics import at_precision, is_traced
from optimality.core.result import Result
from optimality.distributions.natural_normal import NaturalNormal
from optimality.distributions.normal import Normal
from optimality.latent.abstract import AbstractLatentModel
from optimality.latent.per_datum_inference import checked_rows, default_dtype, result_of
from optimality.latent.refinement import RefinedPosterior, Refinement, check_expectation, refine_with

_Number = Float[Array | np.ndarray | np.generic, ""] | float


class AmortizationGap(eqx.Module):
    """Means over the observations, in nats each."""

    encoder_bound: _Number
    refined_bound: _Number
    """Of the per-datum posteriors."""
    gap: _Number
    """Refined less encoder's: how much better the encoder could be. Never negative beyond its error, and a lower bound
    where the ascent stopped early."""
    standard_error: _Number
    """Of the gap, over observations and noise; NaN for a single observation."""
    gaps: Float[Array | np.ndarray, " points"]
    """Of each observation."""
    refined: RefinedPosterior
    """Of each observation, with the encoder's posterior as the start."""
    result: Any
    """As of `infer_per_datum`."""


def amortization_gap(
    model: AbstractLatentModel,
    encoder: Callable[[Any], Normal | NaturalNormal],
    observations: Any,
    key: PRNGKeyArray | None = None,
    *,
    dtype: Any = None,
    **options: Any,
) -> AmortizationGap:
    """How much the bound rises when the encoder's posterior of each observation is refined by itself.

    Points that the encoder was not fitted to show what a user meets; points of the fit show how much of the gap is the
    encoder's size. Concrete arguments are computed with in float64 where the expectation is exact, else in float32.

    Args:
        model: `log_likelihood(x, z)` of a standard normal z.
        encoder: from one observation to a `Normal` or a `NaturalNormal` of its latents.
        observations: `[points, features]`; a vector counts as points of one feature.
        key: of the noise; seed 0 without one.
        dtype: of a concrete computation.
        options: fields of `Refinement`; two starts or more may find a mode that the encoder misses.

    Raises:
        ValueError: as `infer_per_datum`; an encoder of another family or width.
    """
    method = Refinement(**options)
    check_expectation(model, method)
    rows = checked_rows(model, observations)
    key = jax.random.key(0) if key is None else key
    refined = at_precision(_refine_encoder, model, encoder, rows, key, method, dtype=dtype or default_dtype(method))
    gaps, points = refined.bound - refined.start_bound, rows.shape[0]
    error = gaps.std(ddof=1) / math.sqrt(points) if points > 1 else math.nan
    result: Result | None = None if is_traced(refined) else result_of(refined)
    return AmortizationGap(refined.start_bound.mean(), refined.bound.mean(), gaps.mean(), error, gaps, refined, result)


@eqx.filter_jit
def _refine_encoder(model, encoder, rows, key, method: Refinement) -> RefinedPosterior:
    def one(x, own):
        posterior = encoder(x)
        posterior = posterior.normal() if isinstance(posterior, NaturalNormal) else posterior
        if not isinstance(posterior, Normal):
            raise ValueError(
                f"encoder must return a Normal or a NaturalNormal of the latents, but it returned a "
                f"{type(posterior).__name__}."
            )
        return refine_with(method, model, x, posterior, own)

    return jax.vmap(one)(rows, jax.random.split(key, rows.shape[0]))
