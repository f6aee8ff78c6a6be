"""The normal distribution of a vector, by the Cholesky factor of its covariance.

    log p(x) = -|L^-1 (x - location)|^2 / 2 - sum log diag L - d log(2 pi) / 2,        L L' = covariance

and in information form, `log p(x) = -x' precision x / 2 + information' x + constant`, with
`information = precision location` (Barber 2012, section 8.4).
"""

import math
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import scipy.linalg
from jax.scipy.linalg import solve_triangular
from jaxtyping import Array, Float, PRNGKeyArray

from optimality.core.numerics import is_traced
from optimality.distributions.abstract import AbstractDistribution, parameter, refuse_kl

Vector = Float[Array | np.ndarray, " d"]
Matrix = Float[Array | np.ndarray, "d d"]


class MultivariateNormal(AbstractDistribution):
    """A normal vector of `d` entries."""

    location: Float[Array | np.ndarray, "..."] = eqx.field(converter=parameter)
    """The mean, `[d]`."""
    scale_cholesky: Float[Array | np.ndarray, "..."] = eqx.field(converter=parameter)
    """Lower triangular `[d, d]`, positive diagonal; what a traced one has above the diagonal is ignored."""

    def __check_init__(self):
        _check_shapes("location", self.location, "scale_cholesky", self.scale_cholesky)
        if is_traced((self.location, self.scale_cholesky)):
            return
        location, factor = np.asarray(self.location), np.asarray(self.scale_cholesky)
        if not np.all(np.isfinite(location)):
            raise ValueError(f"location must be finite, but {location} was given: look for NaN or overflow.")
        if not np.all(np.isfinite(factor)):
            raise ValueError(f"scale_cholesky must be finite, but {factor} was given: look for NaN or overflow.")
        if np.any(np.triu(factor, 1) != 0.0):
            raise ValueError(
                f"scale_cholesky must be lower triangular, but {factor} was given: for a covariance use "
                f"MultivariateNormal.from_covariance, for a precision matrix from_precision."
            )
        if np.any(np.diagonal(factor) <= 0.0):
            raise ValueError(
                f"scale_cholesky must have a positive diagonal, but {np.diagonal(factor)} was given: "
                f"pass exp or softplus of a free parameter there."
            )

    @classmethod
    def from_covariance(cls, location: Any, covariance: Any) -> "MultivariateNormal":
        """By the mean `[d]` and the covariance `[d, d]`, symmetric and positive definite.

        A traced covariance cannot be refused: if it is not positive definite, every result is NaN.
        """
        location, covariance = parameter(location), parameter(covariance)
        _check_shapes("location", location, "covariance", covariance)
        _check_positive_definite("covariance", covariance)
        return cls(location, _cholesky(covariance))

    @classmethod
    def from_precision(cls, information: Any, precision: Any) -> "MultivariateNormal":
        """By the information form: the vector `precision @ mean`, `[d]`, and the inverse covariance `[d, d]`.

        With `R` reversing the order of rows, `R precision R = M M'` makes `(R M R)^-T` the lower triangular
        factor of the covariance. A traced precision cannot be refused: see `from_covariance`.
        """
        information, precision = parameter(information), parameter(precision)
        _check_shapes("information", information, "precision", precision)
        _check_positive_definite("precision", precision)
        numpy_only = isinstance(precision, np.ndarray) and isinstance(information, np.ndarray)
        upper = _cholesky(precision[::-1, ::-1])[::-1, ::-1]
        xp, solve = (np, scipy.linalg.solve_triangular) if numpy_only else (jnp, solve_triangular)
        factor = xp.tril(solve(upper, xp.eye(upper.shape[-1], dtype=upper.dtype), trans=1, lower=False))
        return cls(factor @ (factor.T @ information), factor)

    def _parameters(self) -> tuple[Float[Array, " d"], Float[Array, "d d"]]:
        return jnp.asarray(self.location), jnp.tril(jnp.asarray(self.scale_cholesky))

    def covariance(self) -> Float[Array, "d d"]:
        _, factor = self._parameters()
        return factor @ factor.T

    def precision(self) -> Float[Array, "d d"]:
        """The inverse of the covariance."""
        _, factor = self._parameters()
        inverse = solve_triangular(factor, jnp.eye(factor.shape[-1], dtype=factor.dtype), lower=True)
        return inverse.T @ inverse

    def information(self) -> Float[Array, " d"]:
        """`precision @ location`, the natural parameter beside `-precision / 2`."""
        location, factor = self._parameters()
        return solve_triangular(factor, solve_triangular(factor, location, lower=True), trans=1, lower=True)

    def sample(self, key: PRNGKeyArray) -> Float[Array, " d"]:
        """`location + L noise`, differentiable in both."""
        location, factor = self._parameters()
        return location + factor @ jax.random.normal(key, location.shape, location.dtype)

    def log_prob(self, value: Vector) -> Float[Array, ""]:
        location, factor = self._parameters()
        z = solve_triangular(factor, jnp.asarray(value, location.dtype) - location, lower=True)
        return -0.5 * jnp.sum(z * z) - _half_log_det(factor) - 0.5 * z.size * math.log(2 * math.pi)

    def sample_and_log_prob(self, key: PRNGKeyArray) -> tuple[Float[Array, " d"], Float[Array, ""]]:
        value = self.sample(key)
        return value, self.log_prob(value)

    def entropy(self) -> Float[Array, ""]:
        """`sum log diag L + d (1 + log(2 pi)) / 2`."""
        location, factor = self._parameters()
        return _half_log_det(factor) + 0.5 * location.size * (1.0 + math.log(2 * math.pi))

    def mean(self) -> Float[Array, " d"]:
        return jnp.asarray(self.location)

    def mode(self) -> Float[Array, " d"]:
        return jnp.asarray(self.location)

    def variance(self) -> Float[Array, " d"]:
        """Of each entry: the diagonal of the covariance."""
        _, factor = self._parameters()
        return jnp.sum(factor * factor, axis=-1)

    def kl(self, other: AbstractDistribution) -> Float[Array, ""]:
        """`(|M^-1 L|^2 - d + |M^-1 (location - other's)|^2) / 2 + log det M - log det L`, M its factor."""
        if not isinstance(other, MultivariateNormal):
            refuse_kl(self, other)
        if np.shape(self.location) != np.shape(other.location):
            raise ValueError(
                f"KL needs two distributions of the same size, but {np.shape(self.location)[-1]} "
                f"and {np.shape(other.location)[-1]} entries were given."
            )
        location, factor = self._parameters()
        other_location, other_factor = other._parameters()
        ratio = solve_triangular(other_factor, factor, lower=True)
        distance = solve_triangular(other_factor, location - other_location, lower=True)
        squares = jnp.sum(ratio * ratio) - location.size + jnp.sum(distance * distance)
        return 0.5 * squares + _half_log_det(other_factor) - _half_log_det(factor)


def _half_log_det(factor: Float[Array, "d d"]) -> Float[Array, ""]:
    return jnp.sum(jnp.log(jnp.diagonal(factor)))


def _cholesky(matrix: Matrix) -> Matrix:
    """Of a NumPy matrix as NumPy, so that its precision does not depend on JAX's flag."""
    if isinstance(matrix, np.ndarray):
        return np.linalg.cholesky(matrix)
    return jnp.linalg.cholesky(matrix)


def _check_shapes(vector_name: str, vector: Any, matrix_name: str, matrix: Any) -> None:
    shape, matrix_shape = np.shape(vector), np.shape(matrix)
    if len(shape) != 1 or matrix_shape != shape * 2:
        raise ValueError(
            f"{vector_name} must have shape [d] and {matrix_name} [d, d], but {shape} and {matrix_shape} "
            f"were given: batches go through jax.vmap."
        )


def _check_positive_definite(name: str, matrix: Any) -> None:
    if is_traced(matrix):
        return
    matrix = np.asarray(matrix)
    if not np.all(np.isfinite(matrix)):
        raise ValueError(f"{name} must be finite, but {matrix} was given: look for NaN or overflow.")
    rounding = 64 * np.finfo(matrix.dtype).eps * np.max(np.abs(matrix))
    if np.any(np.abs(matrix - matrix.T) > rounding):
        raise ValueError(f"{name} must be symmetric, but {matrix} was given: use (m + m.T) / 2 if that is meant.")
    try:
        np.linalg.cholesky(matrix)
    except np.linalg.LinAlgError:
        smallest = np.linalg.eigvalsh(matrix)[0]
        raise ValueError(
            f"{name} must be positive definite, but {matrix} was given, with an eigenvalue of "
            f"{smallest:.3g}: add a multiple of the identity."
        ) from None
