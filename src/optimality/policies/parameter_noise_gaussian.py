"""Normal policies whose covariance depends on the state: noise on the parameters of a linear mean.

    a_j = (W_j + E_j)' phi(s),   E_j ~ N(0, Sigma_j) independent      <=>      a_j ~ N(W_j' phi, phi' Sigma_j phi)

One Sigma `[k, k]` for each of the actions; texts with a single one mean the same for all of them, `(phi' Sigma phi) I`.
Exploration is wide where features are large. Where all features vanish there is no noise, and no density.
"""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from optimality.core.numerics import is_traced
from optimality.distributions.multivariate_normal import MultivariateNormal
from optimality.distributions.normal import Normal
from optimality.policies.features import AbstractFeatures
from optimality.policies.linear_gaussian import Action, averaged


class ParameterNoiseGaussian(eqx.Module):
    """`a_j ~ N(W_j' phi(s), phi(s)' Sigma_j phi(s))`; one state at a time, batches go through `vmap`."""

    features: AbstractFeatures
    """`s -> phi [k]`."""
    W: Float[Array | np.ndarray, "features actions"]
    """`[k, m]`."""
    parameter_covariance: Float[Array | np.ndarray, "actions features features"]
    """`[m, k, k]`, each symmetric and positive semi-definite."""

    def __check_init__(self):
        if np.ndim(self.W) != 2 or np.shape(self.parameter_covariance) != (
            *np.shape(self.W)[::-1],
            np.shape(self.W)[0],
        ):
            raise ValueError(
                f"W and parameter_covariance must be [k, m] and [m, k, k], but {np.shape(self.W)} and "
                f"{np.shape(self.parameter_covariance)} were given."
            )
        if is_traced((self.W, self.parameter_covariance)):
            return
        W, covariance = np.asarray(self.W), np.asarray(self.parameter_covariance)
        if not (np.all(np.isfinite(W)) and np.all(np.isfinite(covariance))):
            raise ValueError("W and parameter_covariance must be finite: the policy cannot act.")
        scale = np.abs(covariance).max()
        asymmetry = np.abs(covariance - np.swapaxes(covariance, 1, 2)).max()
        if asymmetry > 1e-5 * scale or np.linalg.eigvalsh(covariance).min() < -1e-5 * scale:
            raise ValueError("parameter_covariance must be symmetric and positive semi-definite for each action.")

    def phi(self, s: Any) -> Float[Array, " features"]:
        """Features of the state, in the precision of W."""
        return jnp.asarray(self.features(s), jnp.asarray(self.W).dtype)

    def mean(self, s: Any) -> Float[Array, " actions"]:
        """`W' phi(s)`."""
        return self.phi(s) @ jnp.asarray(self.W)

    def mode(self, s: Any) -> Float[Array, " actions"]:
        """The likeliest action, which is the mean."""
        return self.mean(s)

    def variance(self, s: Any) -> Float[Array, " actions"]:
        """`phi' Sigma_j phi` for each action."""
        phi = self.phi(s)
        return (jnp.asarray(self.parameter_covariance) @ phi) @ phi

    def covariance(self, s: Any) -> Float[Array, "actions actions"]:
        """Diagonal, as the actions have noise of their own."""
        return jnp.diag(self.variance(s))

    def distribution(self, s: Any) -> MultivariateNormal:
        """The law of the action."""
        return MultivariateNormal(self.mean(s), jnp.diag(jnp.sqrt(self.variance(s))))

    def _marginals(self, s: Any) -> Normal:
        return Normal(self.mean(s), jnp.sqrt(self.variance(s)))

    def sample(self, key: PRNGKeyArray, s: Any) -> Float[Array, " actions"]:
        """Drawn from the law of the action; parameters are not kept from one call to the next."""
        return self._marginals(s).sample(key)

    def log_prob(self, s: Any, a: Action) -> Float[Array, ""]:
        """Log density of action `a` in state `s`, relative to Lebesgue measure."""
        return jnp.sum(self._marginals(s).log_prob(a))

    def score(
        self, s: Any, a: Action
    ) -> tuple[Float[Array, "features actions"], Float[Array, "actions features features"]]:
        """Derivatives of `log_prob` in W and in each Sigma: `phi r / v` and `(r^2 / v^2 - 1 / v) phi phi' / 2`."""
        phi, v = self.phi(s), self.variance(s)
        residual = jnp.asarray(a, phi.dtype) - self.mean(s)
        slope = 0.5 * ((residual / v) ** 2 - 1.0 / v)
        outer = phi[:, None] * phi[None, :]
        return phi[:, None] * (residual / v)[None, :], slope[:, None, None] * outer[None, :, :]

    def entropy(self, s: Any) -> Float[Array, ""]:
        """In nats, in state `s`."""
        return jnp.sum(self._marginals(s).entropy())

    def kl(self, other: Any, s: Any) -> Float[Array, ""]:
        """`KL(self(. | s) || other(. | s))`, also to a policy with one covariance."""
        return self.distribution(s).kl(other.distribution(s))

    def mean_kl(self, other: Any, states: Any, log_weights: Any = None) -> Float[Array, ""]:
        """Averaged over states `[N, ...]`, with weights up to a factor, uniform by default."""
        return averaged(jax.vmap(self.kl, (None, 0))(other, states), log_weights)
