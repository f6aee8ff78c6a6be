"""A belief about the weights of a linear model with known noise.

    y given x ~ N(weights' x, noise_scale^2),      weights ~ N(precision^-1 information, precision^-1)

    after (x, y):  precision + x x' / noise_scale^2,  information + x y / noise_scale^2

natural parameters add (Bishop 2006, section 3.3). At an input the model is a belief about one number: `at(x)`.
"""

import math
from typing import Any

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import ndtri
from jaxtyping import Array, Float

from optimality.beliefs.abstract import AbstractBelief, Number, batch_weights, like, observations, require_weight
from optimality.beliefs.normal_known_variance import NormalKnownVariance, require_numbers
from optimality.core.numerics import require_range
from optimality.distributions import MultivariateNormal
from optimality.distributions.abstract import parameter, require_probability


class BayesianLinear(AbstractBelief):
    """The `d` weights of a linear model. An observation is the pair of an input `[d]` and a number; a batch is the pair
    of inputs `[n, d]` and numbers `[n]`."""

    information: Float[Array | np.ndarray, "..."] = eqx.field(converter=parameter)
    """`precision @ mean`, `[d]`."""
    precision: Float[Array | np.ndarray, "..."] = eqx.field(converter=parameter)
    """Inverse covariance, symmetric and positive definite, `[d, d]`."""
    noise_scale: Float[Array | np.ndarray, ""] = eqx.field(converter=parameter)
    """Standard deviation of an observation, known."""

    def __check_init__(self):
        require_range(self, 0.0, above=True, noise_scale=self.noise_scale)
        MultivariateNormal.from_precision(self.information, self.precision)

    @classmethod
    def isotropic(cls, size: int, *, scale: Any = 1.0, noise_scale: Any = 1.0) -> "BayesianLinear":
        """`size` independent weights around zero with standard deviation `scale`."""
        scale = parameter(scale)
        return cls(np.zeros(size, scale.dtype), np.eye(size, dtype=scale.dtype) / scale**2, noise_scale)

    def law(self) -> MultivariateNormal:
        return MultivariateNormal.from_precision(self.information, self.precision)

    def at(self, features: Any) -> NormalKnownVariance:
        """The belief about the mean observation at an input `[d]`, with its predictive law and mutual information.

        Its `update` is about that one mean; the weights are updated here.
        """
        law = self.law()
        x = like(features, self.information)
        self._require_features(x)
        deviation = jnp.linalg.norm(x @ jnp.asarray(law.scale_cholesky))
        noise = jnp.asarray(self.noise_scale, deviation.dtype)
        return NormalKnownVariance(x @ jnp.asarray(law.location), deviation, noise)

    def update(self, data: tuple[Any, Any], weight: Number = 1.0) -> "BayesianLinear":
        features, target = data
        require_numbers(target)
        require_numbers(features)
        require_weight(weight)
        x = like(features, self.information)
        self._require_features(x)
        return self._plus(x[None], like(target, x)[None], like(weight, x)[None])

    def update_batch(self, data: tuple[Any, Any], weight: Number | None = None) -> "BayesianLinear":
        features, targets = observations(data[0], 2), observations(data[1])
        require_numbers(features)
        require_numbers(targets)
        x, y = like(features, self.information), like(targets, self.information)
        self._require_features(x[0] if x.shape[0] else x.sum(axis=0))
        if y.shape != x.shape[:1]:
            raise ValueError(f"a batch pairs inputs [n, d] with numbers [n], but {x.shape} and {y.shape} were given.")
        return self._plus(x, y, batch_weights(weight, x.shape[0], x))

    def _plus(self, x: Float[Array, "n d"], y: Float[Array, " n"], weight: Float[Array, " n"]) -> "BayesianLinear":
        scaled = x * (weight / jnp.asarray(self.noise_scale, x.dtype) ** 2)[:, None]
        gram = x.T @ scaled
        precision = jnp.asarray(self.precision) + 0.5 * (gram + gram.T)
        return BayesianLinear(jnp.asarray(self.information) + scaled.T @ y, precision, self.noise_scale)

    def log_evidence(self, data: tuple[Any, Any]) -> Float[Array, ""]:
        x, y = like(observations(data[0], 2), self.information), like(observations(data[1]), self.information)
        before, after = self.law(), self.update_batch(data).law()
        noise = jnp.asarray(self.noise_scale, x.dtype)
        start, end = jnp.asarray(before.location), jnp.asarray(after.location)
        residual = jnp.sum((y - x @ end) ** 2) / noise**2
        shift = (end - start) @ (jnp.asarray(self.precision) @ (end - start))
        volume = _half_log_det(after) - _half_log_det(before)
        return volume - 0.5 * (residual + shift) - y.shape[0] * (jnp.log(noise) + 0.5 * math.log(2.0 * math.pi))

    def quantile(self, probability: Number) -> Float[Array, " d"]:
        """Of each weight by itself."""
        require_probability(probability)
        law = self.law()
        return law.mean() + jnp.sqrt(law.variance()) * ndtri(like(probability, self.information))

    def _require_features(self, x: Array) -> None:
        if x.shape != np.shape(self.information):
            raise ValueError(f"an input has shape {np.shape(self.information)}, but {x.shape} was given.")


def _half_log_det(law: MultivariateNormal) -> Float[Array, ""]:
    return jnp.sum(jnp.log(jnp.diagonal(jnp.asarray(law.scale_cholesky))))
