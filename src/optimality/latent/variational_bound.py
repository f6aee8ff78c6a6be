"""Bounds on a log evidence, with gradients by name."""

from collections.abc import Callable
from typing import Literal

import equinox as eqx
from jaxtyping import Array, Float, PRNGKeyArray

from optimality.core.numerics import Real
from optimality.distributions.multivariate_normal import MultivariateNormal
from optimality.distributions.normal import Normal

Gaussian = Normal | MultivariateNormal
LogLikelihood = Callable[[Float[Array, " latents"]], Float[Array, ""]]
"""`z -> log p(x | z)` of one observation."""
Rate = Literal["analytic", "sampled"]
Estimator = Literal["reparameterized", "score", "sticking_the_landing"]
ImportanceEstimator = Literal["reparameterized", "score", "doubly_reparameterized"]


def evidence_bound(
    log_likelihood: LogLikelihood,
    posterior: Gaussian,
    prior: Gaussian,
    key: PRNGKeyArray,
    *,
    samples: int = 1,
    rate: Rate = "analytic",
    beta: Real = 1.0,
    estimator: Estimator = "reparameterized",
) -> Float[Array, ""]:
    """An unbiased estimate of `E_q log p(x | z) - beta KL(q || prior)`, whose gradient is the named estimator's."""
    raise NotImplementedError


class ImportanceWeightedBound(eqx.Module):
    """Of one observation."""

    value: Float[Array, ""]
    """`log (1/K) sum_k w_k`, whose gradient is the named estimator's."""
    effective_sample_size: Float[Array, ""]
    largest_weight: Float[Array, ""]
    """As a share of the sum."""


def importance_weighted_bound(
    log_likelihood: LogLikelihood,
    posterior: Gaussian,
    prior: Gaussian,
    key: PRNGKeyArray,
    *,
    samples: int,
    chunk: int | None = None,
    estimator: ImportanceEstimator = "reparameterized",
) -> ImportanceWeightedBound:
    """An estimate of the bound of K = `samples` (Burda, Grosse and Salakhutdinov 2016, equation 8)."""
    raise NotImplementedError
