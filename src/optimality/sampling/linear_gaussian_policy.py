"""A Gaussian policy with features as one that acts in episodes, on an environment's own scale of actions."""

from typing import Any

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from optimality.core.numerics import Real
from optimality.sampling.policy import AbstractPolicy


class LinearGaussianPolicy(AbstractPolicy):
    """`a = center + half_width x`, `x ~ law(features(s))`, clipped to `[low, high]`; with `sample=False` the mean.

    The unclipped `x` goes into the extras: it is what the law is fitted to.
    """

    law: Any
    """A `LinearGaussian` or another law with `mean` and `sample` of an observation."""
    center: Float[Array, "..."]
    half_width: Float[Array, "..."]
    low: Float[Array, "..."]
    high: Float[Array, "..."]
    sample: bool = eqx.field(static=True)

    def start(self, observation: Any, key: PRNGKeyArray) -> None:
        return None

    def act(
        self, carry: None, observation: Float[Array, "..."], key: PRNGKeyArray
    ) -> tuple[None, Float[Array, "..."], dict[str, Array]]:
        seen = observation.reshape(-1)
        x = self.law.sample(key, seen) if self.sample else self.law.mean(seen)
        action = self.center + self.half_width * x.reshape(self.low.shape)
        return None, jnp.clip(action, self.low, self.high), {"raw_action": x}


def action_scale(low: np.ndarray, high: np.ndarray, given: Real | None) -> tuple[Array, Array]:
    """`(center, half_width)` of a box of actions, `given` in place of the half-width where it is not None.

    Raises `ValueError` for a box without bounds and no scale: nothing says then how large an action is.
    """
    if given is None and not np.all(np.isfinite(low) & np.isfinite(high)):
        raise ValueError(
            "the actions have no bounds, so that nothing says how large one is: give action_scale, the size of a usual "
            "action."
        )
    known = np.isfinite(low) & np.isfinite(high)
    center = jnp.asarray(0.5 * (np.where(known, low, 0.0) + np.where(known, high, 0.0)))
    if given is not None:
        return center, jnp.full(low.shape, jnp.asarray(given, center.dtype))
    return center, jnp.asarray(0.5 * (high - low))
