"""Linear-Gaussian latent-variable models: evidence and posterior in closed form; probabilistic PCA.

    z ~ N(0, I),   x | z ~ N(W z + mean, D),   D diagonal
    log p(x) = log N(x; mean, W W' + D)
    z | x ~ N(S W' D^-1 (x - mean), S),        S = (I + W' D^-1 W)^-1

(Tipping and Bishop 1999.)
"""

from dataclasses import KW_ONLY
from typing import Any

import equinox as eqx
from jaxtyping import Array, Float, PRNGKeyArray

from optimality.core.solve import AbstractDirect, Solution
from optimality.distributions.multivariate_normal import MultivariateNormal
from optimality.distributions.normal import Normal
from optimality.latent.abstract import AbstractLatentModel, Vector
from optimality.problems.dataset import Dataset


class LinearGaussianModel(AbstractLatentModel):
    """`x = W z + mean + noise`."""

    loading: Float[Array, "features latents"]
    """W."""
    mean: Float[Array, " features"]
    noise_variance: Float[Array, " features"]
    """Diagonal of D, positive."""

    @property
    def latents(self) -> int:
        raise NotImplementedError

    @property
    def features(self) -> int:
        raise NotImplementedError

    def log_likelihood(self, x: Vector, z: Vector) -> Float[Array, ""]:
        raise NotImplementedError

    def decode(self, z: Vector) -> Normal:
        raise NotImplementedError

    def posterior(self, x: Vector) -> MultivariateNormal:
        raise NotImplementedError

    def log_evidence(self, x: Vector) -> Float[Array, ""]:
        """`log p(x)`, by the k x k matrix S and not the d x d covariance."""
        raise NotImplementedError


class LinearGaussianDetails(eqx.Module):
    """What a fit of a linear-Gaussian model found."""

    model: LinearGaussianModel
    test_log_evidence: Any
    """Mean over the test points, NaN without any; `value` is that of the points of the fit."""


class ProbabilisticPCA(AbstractDirect[Dataset]):
    """One noise variance for all features, by the eigenvectors of the covariance."""

    _: KW_ONLY
    latents: int = eqx.field(static=True, default=2)

    def compute(self, problem: Dataset, key: PRNGKeyArray | None) -> Solution:
        raise NotImplementedError


def collapse_law(eigenvalues: Any, noise_variance: Any, latents: int) -> Any:
    """How many latents a linear model of fixed noise variance uses, and their rate:
    the eigenvalues of the data's covariance above it, `1/2 sum log(lambda / s2)+` over the k largest."""
    raise NotImplementedError
