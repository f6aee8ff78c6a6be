"""Normal policies with a mean linear in features and one covariance for all states.

    a ~ N(W' phi(s), L L')
    d log pi / dW = phi r' Sigma^-1,      d log pi / dSigma = (Sigma^-1 r r' Sigma^-1 - Sigma^-1) / 2,    r = a - W' phi

(Deisenroth, Neumann and Peters 2013, section 2.1). With the constant feature alone, it does not look at the state.
"""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.linalg import cho_solve
from jaxtyping import Array, Float, PRNGKeyArray

from optimality.core.numerics import Real, is_traced
from optimality.distributions.multivariate_normal import MultivariateNormal
from optimality.policies.features import AbstractFeatures, ConstantFeatures

Action = Float[Array | np.ndarray, " actions"]


class LinearGaussian(eqx.Module):
    """`a ~ N(W' phi(s), scale_cholesky scale_cholesky')`; one state at a time, batches go through `vmap`."""

    features: AbstractFeatures
    """`s -> phi [k]`."""
    W: Float[Array | np.ndarray, "features actions"]
    """`[k, m]`."""
    scale_cholesky: Float[Array | np.ndarray, "actions actions"]
    """Lower triangular `[m, m]`, positive diagonal."""

    def __check_init__(self):
        m = np.shape(self.W)[-1]
        if np.ndim(self.W) != 2 or np.shape(self.scale_cholesky) != (m, m):
            raise ValueError(
                f"W and scale_cholesky must be [k, m] and [m, m], but {np.shape(self.W)} and "
                f"{np.shape(self.scale_cholesky)} were given."
            )
        if is_traced((self.W, self.scale_cholesky)):
            return
        if not np.all(np.isfinite(np.asarray(self.W))):
            raise ValueError("W has entries that are not finite: the policy cannot act.")
        factor = np.asarray(self.scale_cholesky)
        if not np.all(np.isfinite(factor)) or np.any(np.triu(factor, 1)) or np.any(np.diagonal(factor) <= 0.0):
            raise ValueError("scale_cholesky must be finite, lower triangular and of positive diagonal.")

    @classmethod
    def from_covariance(cls, features: AbstractFeatures, W: Any, covariance: Any) -> "LinearGaussian":
        """By the covariance `[m, m]`, positive definite."""
        concrete = isinstance(covariance, np.ndarray)
        return cls(features, W, (np if concrete else jnp).linalg.cholesky(covariance))

    @classmethod
    def constant(cls, mean: Any, covariance: Any) -> "LinearGaussian":
        """`a ~ N(mean, covariance)` in every state, or as a law of parameters."""
        law = MultivariateNormal.from_covariance(mean, covariance)
        return cls(ConstantFeatures(), law.location[None, :], law.scale_cholesky)

    @classmethod
    def initial(cls, features: AbstractFeatures, size: int, actions: int, *, scale: Real = 1.0) -> "LinearGaussian":
        """Mean zero, deviation `scale` in each of the actions: a first policy on `size` features."""
        if min(size, actions) < 1:
            raise ValueError(f"size and actions must be at least 1, but {size} and {actions} were given.")
        if not is_traced(scale) and not 0.0 < float(np.asarray(scale)) < np.inf:
            raise ValueError(f"scale must be positive and finite, but {scale} was given.")
        scale = jnp.asarray(scale, jnp.result_type(float))
        return cls(features, jnp.zeros((size, actions), scale.dtype), scale * jnp.eye(actions, dtype=scale.dtype))

    def phi(self, s: Any) -> Float[Array, " features"]:
        """Features of the state, in the precision of W."""
        return jnp.asarray(self.features(s), jnp.asarray(self.W).dtype)

    @property
    def covariance(self) -> Float[Array, "actions actions"]:
        factor = jnp.asarray(self.scale_cholesky)
        return factor @ factor.T

    def mean(self, s: Any) -> Float[Array, " actions"]:
        """`W' phi(s)`."""
        return self.phi(s) @ jnp.asarray(self.W)

    def mode(self, s: Any) -> Float[Array, " actions"]:
        """The likeliest action, which is the mean."""
        return self.mean(s)

    def distribution(self, s: Any) -> MultivariateNormal:
        """The law of the action."""
        return MultivariateNormal(self.mean(s), jnp.asarray(self.scale_cholesky))

    def sample(self, key: PRNGKeyArray, s: Any) -> Float[Array, " actions"]:
        return self.distribution(s).sample(key)

    def log_prob(self, s: Any, a: Action) -> Float[Array, ""]:
        """Log density of action `a` in state `s`, relative to Lebesgue measure."""
        return self.distribution(s).log_prob(a)

    def score(self, s: Any, a: Action) -> tuple[Float[Array, "features actions"], Float[Array, "actions actions"]]:
        """Derivatives of `log_prob` in W and in the covariance, whose entries count as independent."""
        factor = jnp.asarray(self.scale_cholesky)
        identity = jnp.eye(factor.shape[0], dtype=factor.dtype)
        scaled = cho_solve((factor, True), jnp.asarray(a, factor.dtype) - self.mean(s))
        by_covariance = 0.5 * (scaled[:, None] * scaled[None, :] - cho_solve((factor, True), identity))
        return self.phi(s)[:, None] * scaled[None, :], by_covariance

    def entropy(self) -> Float[Array, ""]:
        """In nats, the same in every state."""
        factor = jnp.asarray(self.scale_cholesky)
        return MultivariateNormal(jnp.zeros(factor.shape[0], factor.dtype), factor).entropy()

    def kl(self, other: "LinearGaussian", s: Any) -> Float[Array, ""]:
        """`KL(self(. | s) || other(. | s))`, for features of either kind."""
        return self.distribution(s).kl(other.distribution(s))

    def mean_kl(self, other: "LinearGaussian", states: Any, log_weights: Any = None) -> Float[Array, ""]:
        """`sum_i w_i KL(self(. | s_i) || other(. | s_i))` over states `[N, ...]`, weights up to a factor, uniform by
        default."""
        return averaged(jax.vmap(self.kl, (None, 0))(other, states), log_weights)


def averaged(values: Float[Array, " samples"], log_weights: Any) -> Float[Array, ""]:
    """The mean under weights that are known up to a factor; what has no weight may be anything."""
    if log_weights is None:
        return jnp.mean(values)
    weights = jax.nn.softmax(jnp.asarray(log_weights, values.dtype))
    return jnp.sum(jnp.where(weights > 0.0, weights * values, 0.0))
