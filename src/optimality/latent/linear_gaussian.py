"""Linear-Gaussian latent-variable models: evidence and posterior in closed form; probabilistic PCA.

    z ~ N(0, I),   x | z ~ N(W z + mean, D),   D diagonal
    log p(x) = log N(x; mean, W W' + D)
    z | x ~ N(S W' D^-1 (x - mean), S),        S = (I + W' D^-1 W)^-1

With `y = D^-1/2 (x - mean)` and `V = D^-1/2 W` the evidence takes no matrix larger than S,

    det(W W' + D) = det(D) / det(S),       (x - mean)' (W W' + D)^-1 (x - mean) = |y|^2 - (V' y)' S (V' y)

(Tipping and Bishop 1999; Bishop 2006, section 12.2).
"""

import math
from dataclasses import KW_ONLY
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, PRNGKeyArray

from optimality.core.numerics import at_precision, cast_floats, float_dtype, is_traced, precision
from optimality.core.result import Result
from optimality.core.solve import AbstractDirect, Solution
from optimality.distributions.abstract import parameter
from optimality.distributions.multivariate_normal import MultivariateNormal
from optimality.distributions.normal import Normal
from optimality.latent.abstract import AbstractLatentModel, Vector
from optimality.problems.dataset import Dataset, Parts

Rows = Float[Array | np.ndarray, "points features"]
Square = Float[Array | np.ndarray, "features features"]
_Number = Float[Array | np.ndarray | np.generic, ""] | float


class LinearGaussianModel(AbstractLatentModel):
    """`x = W z + mean + noise`.

    Concrete arguments are computed with in float64, traced ones in the precision they have.

    Raises:
        ValueError: shapes that do not fit together, entries that are not finite, a noise variance that is not positive.
    """

    loading: Float[Array | np.ndarray, "..."] = eqx.field(converter=parameter)
    """W, `[features, latents]`."""
    mean: Float[Array | np.ndarray, "..."] = eqx.field(converter=parameter)
    """`[features]`."""
    noise_variance: Float[Array | np.ndarray, "..."] = eqx.field(converter=parameter)
    """Diagonal of D, `[features]`, positive."""

    def __check_init__(self):
        shape = np.shape(self.loading)
        if len(shape) != 2 or 0 in shape or not np.shape(self.mean) == np.shape(self.noise_variance) == shape[:1]:
            raise ValueError(
                f"loading must be [features, latents], mean and noise_variance [features], none of them empty, but "
                f"{shape}, {np.shape(self.mean)} and {np.shape(self.noise_variance)} were given: repeat one variance "
                f"for every feature."
            )
        for name in ("loading", "mean", "noise_variance"):
            value = getattr(self, name)
            if not is_traced(value) and not np.all(np.isfinite(np.asarray(value))):
                raise ValueError(f"{name} must be finite, but {value} was given: look for NaN or overflow.")
        if not is_traced(self.noise_variance) and np.any(np.asarray(self.noise_variance) <= 0.0):
            worst = int(np.argmin(np.asarray(self.noise_variance)))
            raise ValueError(
                f"noise_variance must be positive, but it is {np.asarray(self.noise_variance)[worst]:g} for feature "
                f"{worst}: without noise there is no density; give it a floor."
            )

    @property
    def latents(self) -> int:
        return np.shape(self.loading)[1]

    @property
    def features(self) -> int:
        return np.shape(self.loading)[0]

    def log_likelihood(self, x: Vector, z: Vector) -> Float[Array, ""]:
        self._check_size("x", x, self.features)
        return jnp.sum(self.decode(z).log_prob(x))

    def decode(self, z: Vector) -> Normal:
        """`N(W z + mean, D)`, entry by entry."""
        self._check_size("z", z, self.latents)
        model, z = _aligned(self, z)
        return Normal(model.loading @ z + model.mean, model.noise_variance**0.5)

    def posterior(self, x: Vector) -> MultivariateNormal:
        """`N(S W' D^-1 (x - mean), S)`."""
        self._check_size("x", x, self.features)
        model, x = _aligned(self, x)
        deviation = model.noise_variance**0.5
        scaled = model.loading / deviation[:, None]
        inner = scaled.T @ scaled + np.eye(self.latents, dtype=scaled.dtype)
        return MultivariateNormal.from_precision(scaled.T @ ((x - model.mean) / deviation), inner)

    def log_evidence(self, x: Vector) -> Float[Array | np.ndarray | np.generic, ""]:
        """`log p(x)`, by the k x k matrix S and not the d x d covariance."""
        self._check_size("x", x, self.features)
        return at_precision(_log_evidence, self, x)

    def covariance(self) -> Float[Array | np.ndarray, "features features"]:
        """Of x: `W W' + D`."""
        xp = np if all(isinstance(leaf, np.ndarray) for leaf in jax.tree.leaves(self)) else jnp
        return self.loading @ self.loading.T + xp.diag(self.noise_variance)

    def _check_size(self, name: str, value: Any, size: int) -> None:
        if np.shape(value) != (size,):
            raise ValueError(
                f"{name} must have shape ({size},), but {np.shape(value)} was given: batches go through jax.vmap."
            )


class LinearGaussianDetails(eqx.Module):
    """What a fit of a linear-Gaussian model found."""

    model: LinearGaussianModel
    test_log_evidence: _Number
    """Mean over the test points, NaN without any; `value` is that of the points of the fit."""
    validation_log_evidence: _Number
    """Mean over the validation points, NaN without any."""
    at_floor: Bool[Array | np.ndarray, " features"]
    """Which noise variances would be smaller without a floor."""


class ProbabilisticPCA(AbstractDirect[Dataset]):
    """One noise variance for all features, by the eigenvectors of the covariance.

        W = U_k (Lambda_k - s2 I)^1/2,      s2 = mean of the eigenvalues that are left

    of the covariance with denominator N, which is what the likelihood has its maximum at (with N - 1, as in
    scikit-learn's `PCA.score`, it has not). Columns of W are ordered by length, the largest entry of each is positive.
    `value` is the mean log evidence of the points of the fit, `details` a `LinearGaussianDetails`, `policy` None.
    (Tipping and Bishop 1999, equations 7 and 8.)
    """

    _: KW_ONLY
    latents: int = eqx.field(static=True, default=2)
    """Entries of z, below the number of features."""

    def check(self, problem: Dataset) -> None:
        check_gaussian_data(self, problem)

    def compute(self, problem: Dataset, key: PRNGKeyArray | None) -> Solution:
        parts = problem.parts()
        mean, covariance = moments(parts.train)
        eigenvalues, vectors = descending_eigenvectors(covariance)
        rest = jnp.mean(eigenvalues[self.latents :])
        rounding = 10 * eigenvalues.size * jnp.finfo(rest.dtype).eps * eigenvalues[0]
        degenerate = rest <= rounding
        variance = jnp.maximum(rest, jnp.maximum(rounding, jnp.finfo(rest.dtype).tiny))
        loading = with_signs(vectors[:, : self.latents] * safe_root(eigenvalues[: self.latents] - variance)[None, :])
        model = LinearGaussianModel(loading, mean, jnp.full_like(mean, variance))
        code = jnp.where(degenerate, int(Result.NOT_POSITIVE_DEFINITE), int(Result.CONVERGED))
        value = mean_log_evidence(model, parts.train)
        code = jnp.where(jnp.isfinite(value), code, int(Result.NON_FINITE)).astype(jnp.int32)
        stats = {"eigenvalues": eigenvalues}
        return Solution(value, None, code, stats, details_of(model, parts, jnp.full(mean.shape, degenerate)))

    def explain(self, problem: Dataset, solution: Solution) -> str:
        if solution.result is not Result.NOT_POSITIVE_DEFINITE:
            return ""
        return (
            f"The points of the fit lie, up to rounding, in a space of {self.latents} dimensions or fewer, so that no "
            f"variance is left to the noise and the likelihood has no maximum: take fewer latents or more points, "
            f"set levels= where the data are integers, or add noise.{_constant_sentence(problem)}"
        )


def mean_log_evidence(model: LinearGaussianModel, rows: Rows) -> Any:
    """Mean of `log p(x)` over the rows; NaN without any."""
    if np.shape(rows)[0] == 0:
        return np.nan
    return at_precision(_mean_log_evidence, model, rows)


def moments(rows: Any) -> tuple[Float[Array, " features"], Float[Array, "features features"]]:
    """Mean and covariance, with denominator N."""
    mean = jnp.mean(rows, axis=0)
    centered = rows - mean[None, :]
    return mean, centered.T @ centered / rows.shape[0]


def details_of(model: LinearGaussianModel, parts: Parts, at_floor: Any) -> LinearGaussianDetails:
    """The record of a fit, with the evidence of the points that it has not seen."""
    test, validation = (jnp.asarray(mean_log_evidence(model, rows)) for rows in (parts.test, parts.validation))
    return LinearGaussianDetails(model, test, validation, at_floor)


def check_gaussian_data(method: Any, problem: Dataset) -> None:
    """Raises `ValueError` where a linear-Gaussian model with that many latents has no fit to such data."""
    name, latents = type(method).__name__, method.latents
    if problem.likelihood != "gaussian":
        raise ValueError(
            f"{name} has normal noise, but the likelihood of {problem.name} is {problem.likelihood!r}: fit a "
            f"VariationalAutoencoder, or for integers give levels= and the likelihood 'gaussian'."
        )
    if not 1 <= latents < problem.features:
        raise ValueError(
            f"latents must be below the number of features, {problem.features}, and at least 1, but {latents} was "
            f"given."
        )
    points = train_rows(problem).shape[0]
    if latents > points - 2:
        raise ValueError(
            f"{latents} latents pass through all of {points} points, so that the noise vanishes and the likelihood has "
            f"no maximum: take at most {max(points - 2, 0)} latents, or more points."
        )


def constant_features(problem: Dataset) -> list[int]:
    """Columns with a single value among the points of the fit; none is known of traced data."""
    if is_traced(problem):
        return []
    rows = train_rows(problem)
    return [int(column) for column in np.flatnonzero(np.all(rows == rows[:1], axis=0))]


def train_rows(problem: Dataset) -> Any:
    """The points of the fit: of concrete data in float64, as a NumPy array."""
    if is_traced(problem):
        return problem.parts().train
    with precision(np.float64):
        return np.asarray(problem.parts().train)


def descending_eigenvectors(matrix: Square) -> tuple[Float[Array, " features"], Float[Array, "features features"]]:
    """Eigenvalues of a symmetric matrix, the largest first, and their vectors as columns."""
    values, vectors = jnp.linalg.eigh(matrix)
    return values[::-1], vectors[:, ::-1]


def with_signs(loading: Float[Array, "features latents"]) -> Float[Array, "features latents"]:
    """The same columns, the entry of largest size in each positive: eigenvectors have no sign."""
    largest = jnp.take_along_axis(loading, jnp.argmax(jnp.abs(loading), axis=0)[None, :], axis=0)
    return loading * jnp.where(largest < 0.0, -1.0, 1.0).astype(loading.dtype)


def safe_root(squares: Float[Array, " n"]) -> Float[Array, " n"]:
    """The square root, zero with derivative zero where there is none."""
    positive = squares > 0.0
    return jnp.where(positive, jnp.sqrt(jnp.where(positive, squares, 1.0)), 0.0)


def _constant_sentence(problem: Dataset) -> str:
    constant = constant_features(problem)
    if not constant:
        return ""
    return f" Constant: {', '.join(problem.feature(column) for column in constant[:8])}."


def _aligned(model: LinearGaussianModel, value: Any) -> tuple[LinearGaussianModel, Any]:
    """Both in one precision: that of what is traced, or NumPy float64."""
    if is_traced((model, value)):
        return cast_floats((model, value), float_dtype((model, value)))
    return jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), (model, value))


@jax.jit
def _log_evidence(model: LinearGaussianModel, x: Any) -> Float[Array, ""]:
    deviation = jnp.sqrt(model.noise_variance)
    scaled = model.loading / deviation[:, None]
    factor = jnp.linalg.cholesky(scaled.T @ scaled + jnp.eye(scaled.shape[1], dtype=scaled.dtype))
    y = (x - model.mean) / deviation
    explained = jax.scipy.linalg.solve_triangular(factor, scaled.T @ y, lower=True)
    half_log_det = jnp.sum(jnp.log(deviation)) + jnp.sum(jnp.log(jnp.diagonal(factor)))
    return -0.5 * (y @ y - explained @ explained + y.size * math.log(2 * math.pi)) - half_log_det


@jax.jit
def _mean_log_evidence(model: LinearGaussianModel, rows: Any) -> Float[Array, ""]:
    return jnp.mean(jax.vmap(_log_evidence, in_axes=(None, 0))(model, rows))
