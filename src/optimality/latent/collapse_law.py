"""Which latents a linear model of fixed noise variance uses: the law behind posterior collapse.

The best linear-Gaussian model of k latents whose noise variance is held at s2 uses those of the k largest eigenvalues
lambda of the data's covariance that exceed s2, and no other (Tipping and Bishop 1999; Lucas, Tucker, Grosse and Norouzi
2019). Its mean KL divergence from posterior to prior, the rate, is

    1/2 sum_{j <= k} log(lambda_j / s2)+

Weights a of `|x - decoded|^2` and b of the KL divergence act as `s2 = b / (2 a)`: a mean over d features beside a sum
over latents is d / 2, which is above every eigenvalue of data in [0, 1] and uses nothing.
"""

from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from optimality.core.numerics import Real, at_precision, is_traced


class CollapseLaw(NamedTuple):
    """What a linear model of that noise variance does at its best."""

    used: Int[Array | np.ndarray | np.generic, ""]
    """Latents whose posterior depends on the data."""
    rate: Float[Array | np.ndarray | np.generic, ""]
    """Mean of KL(posterior, prior), in nats."""
    rates: Float[Array | np.ndarray, " latents"]
    """The same latent by latent, in the order of the eigenvalues."""


def collapse_law(
    eigenvalues: Float[Array | np.ndarray, "..."] | Sequence[float],
    noise_variance: Real,
    latents: int,
) -> CollapseLaw:
    """How many latents a linear model of fixed noise variance uses, and their rate.

    Args:
        eigenvalues: of the data's covariance, `[features]`, in any order.
        noise_variance: s2, the same for all features.
        latents: how many the model has; beyond the number of features none is used.

    Raises:
        ValueError: no eigenvalues, an eigenvalue that is negative or not finite, a noise variance that is not positive,
            fewer than one latent.
    """
    if not is_traced(eigenvalues):
        eigenvalues = np.asarray(eigenvalues, np.float64)
        least = -1e-12 * np.max(np.abs(eigenvalues), initial=0.0)
        if eigenvalues.ndim == 1 and not np.all(np.isfinite(eigenvalues) & (eigenvalues >= least)):
            raise ValueError(f"eigenvalues of a covariance are finite and at least 0, but {eigenvalues} was given.")
    if len(np.shape(eigenvalues)) != 1 or np.shape(eigenvalues)[0] == 0:
        raise ValueError(f"eigenvalues must be a vector [features], but {np.shape(eigenvalues)} was given.")
    if not is_traced(noise_variance) and not 0.0 < float(np.asarray(noise_variance)) < np.inf:
        raise ValueError(f"noise_variance must be positive and finite, but {noise_variance} was given.")
    if latents < 1:
        raise ValueError(f"latents must be at least 1, but {latents} was given.")
    return at_precision(partial(_law, latents=latents), eigenvalues, noise_variance)


@partial(jax.jit, static_argnames="latents")
def _law(eigenvalues, noise_variance, latents: int) -> CollapseLaw:
    missing = max(0, latents - eigenvalues.shape[0])
    largest = jnp.pad(jnp.sort(eigenvalues)[::-1][:latents], (0, missing))
    used = largest > noise_variance
    rates = 0.5 * jnp.log(jnp.where(used, largest / noise_variance, 1.0))
    return CollapseLaw(jnp.sum(used.astype(jnp.int32)), jnp.sum(rates), rates)
