"""What an observation is given its latents: normal, 0 or 1, or one of several, feature by feature.

A normal decoder's deviation is one number (`scalar`), one a feature (`feature`), a function of z (`head`), or given
(`fixed`). Where it is learned it stays within `exp(least)` and `exp(most)` of the data's own spread: the likelihood has
no maximum if a feature can be told exactly.
"""

import abc
from collections.abc import Callable
from typing import Any, Literal

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PRNGKeyArray

from optimality.core.numerics import Real
from optimality.distributions.bernoulli import Bernoulli
from optimality.distributions.categorical import Categorical
from optimality.distributions.normal import Normal
from optimality.latent.abstract import Vector

HEAD_GAIN = 0.3
"""Of a head's log-scales: deviations that follow as fast as means explain the data before the latents do."""
Variance = Literal["scalar", "feature", "head", "fixed"]

_LOG_TWO_PI = 1.8378770664093453


class AbstractDecoder(eqx.Module):
    """A network with a likelihood behind it."""

    network: eqx.AbstractVar[Callable[[Array], Array]]

    @abc.abstractmethod
    def log_prob(self, x: Vector, z: Vector) -> Float[Array, ""]:
        """`log p(x | z)`, summed over features."""

    @abc.abstractmethod
    def law(self, z: Vector) -> Any:
        """Of x given z: a distribution, entry by entry."""

    @abc.abstractmethod
    def draw(self, key: PRNGKeyArray, z: Vector) -> Float[Array, " features"] | Int[Array, " features"]:
        """One x."""


class NormalDecoder(AbstractDecoder):
    """`x_i ~ N(c_i + b_i f_i(z), s_i^2)`, `c` and `b` the data's mean and spread."""

    network: Callable[[Array], Array]
    """Gives f, and with `variance="head"` the log-scales, in units of the spread, behind it."""
    log_scale: Float[Array, "..."]
    """Log of s over the spread: `[features]` of `feature`, otherwise `[]`, to which a `head` adds."""
    center: Float[Array, " features"]
    spread: Float[Array, " features"]
    """b; of `scalar` and `fixed` the same for all features."""
    variance: Variance = eqx.field(static=True)
    least: Real
    """Of log-scales."""
    most: Real

    def _parameters(self, z: Vector) -> tuple[Float[Array, " features"], Float[Array, " features"]]:
        """Mean, and log of the deviation."""
        outputs = self.network(jnp.asarray(z))
        if self.variance == "head":
            outputs, log_scale = jnp.split(outputs, 2)
            log_scale = self.log_scale + HEAD_GAIN * log_scale
        else:
            log_scale = jnp.broadcast_to(self.log_scale, outputs.shape)
        if self.variance == "fixed":
            log_scale = jax.lax.stop_gradient(log_scale)
        else:
            log_scale = jnp.clip(log_scale, jnp.asarray(self.least), jnp.asarray(self.most))
        return self.center + self.spread * outputs, log_scale + jnp.log(self.spread)

    def log_prob(self, x: Vector, z: Vector) -> Float[Array, ""]:
        mean, log_scale = self._parameters(z)
        error = (jnp.asarray(x) - mean) * jnp.exp(-log_scale)
        return -0.5 * jnp.sum(error * error) - jnp.sum(log_scale) - 0.5 * _LOG_TWO_PI * mean.size

    def law(self, z: Vector) -> Normal:
        mean, log_scale = self._parameters(z)
        return Normal(mean, jnp.exp(log_scale))

    def draw(self, key: PRNGKeyArray, z: Vector) -> Float[Array, " features"]:
        return self.law(z).sample(key)


class BernoulliDecoder(AbstractDecoder):
    """`x_i` is 1 with probability `1 / (1 + exp(-f_i(z)))`."""

    network: Callable[[Array], Array]

    def log_prob(self, x: Vector, z: Vector) -> Float[Array, ""]:
        logits = self.network(jnp.asarray(z))
        return jnp.sum(jnp.asarray(x, logits.dtype) * logits - jax.nn.softplus(logits))

    def law(self, z: Vector) -> Bernoulli:
        return Bernoulli(jax.nn.sigmoid(self.network(jnp.asarray(z))))

    def draw(self, key: PRNGKeyArray, z: Vector) -> Int[Array, " features"]:
        return self.law(z).sample(key)


class CategoricalDecoder(AbstractDecoder):
    """`x_i` is j with probability proportional to `exp f_ij(z)`."""

    network: Callable[[Array], Array]
    categories: int = eqx.field(static=True)

    def _logits(self, z: Vector) -> Float[Array, "features categories"]:
        return self.network(jnp.asarray(z)).reshape(-1, self.categories)

    def log_prob(self, x: Vector, z: Vector) -> Float[Array, ""]:
        log_p = jax.nn.log_softmax(self._logits(z), axis=-1)
        return jnp.sum(jnp.take_along_axis(log_p, jnp.asarray(x).astype(jnp.int32)[:, None], axis=-1))

    def law(self, z: Vector) -> Categorical:
        """One law a feature, as `jax.vmap` makes them."""
        return jax.vmap(Categorical)(self._logits(z))

    def draw(self, key: PRNGKeyArray, z: Vector) -> Int[Array, " features"]:
        return jax.random.categorical(key, self._logits(z))
