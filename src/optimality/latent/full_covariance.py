"""The normal law with a full covariance: the largest linear-Gaussian opponent of a latent-variable model."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from optimality.core.numerics import is_traced, precision, to_numpy
from optimality.distributions.multivariate_normal import MultivariateNormal
from optimality.latent.linear_gaussian import constant_features, moments
from optimality.problems.dataset import Dataset

_Number = Float[Array | np.ndarray | np.generic, ""] | float


class FullCovarianceGaussian(eqx.Module):
    """The likeliest normal law of the points of the fit, and what it makes of those it has not seen.

    Each number is a mean over points, NaN without any.
    """

    law: MultivariateNormal
    train_log_likelihood: _Number
    validation_log_likelihood: _Number
    test_log_likelihood: _Number


def full_covariance_gaussian(problem: Dataset) -> FullCovarianceGaussian:
    """Mean and covariance, with denominator N, of the points of the fit; concrete data in float64.

    Raises:
        ValueError: a likelihood that is not gaussian, or points that lie in a hyperplane, so that there is no density.
    """
    if problem.likelihood != "gaussian":
        raise ValueError(
            f"a normal law has a density, but the likelihood of {problem.name} is {problem.likelihood!r}: for integers "
            f"give levels= and the likelihood 'gaussian'."
        )
    if is_traced(problem):
        return _fit(problem)
    with precision(np.float64):
        fit = to_numpy(_fit(problem))
    if not np.isfinite(fit.train_log_likelihood):
        constant = ", ".join(problem.feature(column) for column in constant_features(problem)[:8])
        raise ValueError(
            f"the points of the fit lie in a hyperplane{f' (constant: {constant})' if constant else ''}, so that a "
            f"normal law has no density: take more points than features, leave features out that follow from others, "
            f"set levels= where the data are integers, or add noise."
        )
    return fit


@jax.jit
def _fit(problem: Dataset) -> FullCovarianceGaussian:
    parts = problem.parts()
    mean, covariance = moments(parts.train)
    factor = jnp.linalg.cholesky(covariance)
    pivots = jnp.diagonal(factor) ** 2
    rounding = 10 * mean.size * jnp.finfo(mean.dtype).eps
    sound = jnp.all(pivots > rounding * jnp.diagonal(covariance))
    law = MultivariateNormal(mean, jnp.where(sound, factor, jnp.nan))
    means = (jnp.mean(jax.vmap(law.log_prob)(rows)) if len(rows) else jnp.nan for rows in parts)
    return FullCovarianceGaussian(law, *means)
