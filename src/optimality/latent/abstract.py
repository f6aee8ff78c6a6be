"""What a latent-variable model is: a standard normal z, and a law of x given z."""

import abc
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from optimality.distributions.multivariate_normal import MultivariateNormal
from optimality.distributions.normal import Normal

Vector = Float[Array | np.ndarray, "_"]


class AbstractLatentModel(eqx.Module):
    """`p(x, z) = N(z; 0, I) p(x | z)` with an approximate, or the exact, posterior of z.

    Every method takes one observation or one z; batches go through `jax.vmap`.
    """

    @property
    @abc.abstractmethod
    def latents(self) -> int:
        """Entries of z."""

    @property
    @abc.abstractmethod
    def features(self) -> int:
        """Entries of x."""

    @abc.abstractmethod
    def log_likelihood(self, x: Vector, z: Vector) -> Float[Array, ""]:
        """`log p(x | z)`, summed over features."""

    @abc.abstractmethod
    def decode(self, z: Vector) -> Any:
        """The law of x given z: a distribution, entry by entry."""

    @abc.abstractmethod
    def posterior(self, x: Vector) -> Normal | MultivariateNormal:
        """The law of z given x, exact or an encoder's."""

    def sample(self, key: PRNGKeyArray) -> Float[Array, " features"]:
        """One draw of x."""
        latent_key, observation_key = jax.random.split(key)
        z = standard_normal(self.latents).sample(latent_key)
        return self.decode(z).sample(observation_key)


def standard_normal(latents: int) -> Normal:
    """The prior of z, in JAX's default precision."""
    return Normal(jnp.zeros(latents), jnp.ones(latents))
