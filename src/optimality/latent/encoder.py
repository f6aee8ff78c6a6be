"""The amortized posterior: one network for all observations instead of a mean and a scale for each.

    q(z | x) = N(z; m(x), e^2(x)),   in natural form h = m / e^2, J = 1 / e^2

so that what several observations say of one z is a sum (`NaturalNormal`).
"""

from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from optimality.distributions.natural_normal import NaturalNormal
from optimality.latent.abstract import Vector

LOG_SCALE_GAIN = 0.1
"""Of the network's second half: first means say something of x, while first deviations are the prior's for all x."""
LEAST_LOG_SCALE, MOST_LOG_SCALE = -8.0, 4.0
"""Of the posterior, whose prior has log-scale 0."""


class Encoder(eqx.Module):
    """From an observation to the law of its latents."""

    network: Callable[[Array], Array]
    """From the features, in units of their spread, to `2 k` numbers: means and log-scales."""
    center: Float[Array, " features"]
    spread: Float[Array, " features"]
    categories: int | None = eqx.field(static=True, default=None)
    """Of features that are choices: each enters as a unit vector."""

    def __call__(self, x: Vector) -> NaturalNormal:
        mean, log_scale = jnp.split(self.network(self._input(jnp.asarray(x))), 2)
        precision = jnp.exp(-2.0 * jnp.clip(LOG_SCALE_GAIN * log_scale, LEAST_LOG_SCALE, MOST_LOG_SCALE))
        return NaturalNormal(precision * mean, precision)

    def _input(self, x: Float[Array, " features"]) -> Float[Array, " inputs"]:
        if self.categories is None:
            return (x - self.center) / self.spread
        return jax.nn.one_hot(x.astype(jnp.int32), self.categories, dtype=self.center.dtype).reshape(-1)
