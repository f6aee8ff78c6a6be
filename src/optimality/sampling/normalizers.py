"""Running mean and variance of observations, kept in a learner's state."""

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float


class RunningNormalizer(eqx.Module):
    """Welford's moments in batches (Chan et al. 1979); the identity until something was observed."""

    mean: Float[Array, "..."]
    variance: Float[Array, "..."]
    count: Float[Array, ""]

    @classmethod
    def empty(cls, shape: tuple[int, ...]) -> "RunningNormalizer":
        return cls(jnp.zeros(shape), jnp.ones(shape), jnp.zeros(()))

    def updated(self, batch: Float[Array, "..."], valid: Array) -> "RunningNormalizer":
        """With observations `[n, ...]`, of which those with `valid = False` do not count."""
        weight = valid.astype(batch.dtype).reshape((-1,) + (1,) * (batch.ndim - 1))
        number = jnp.sum(weight)
        safe = jnp.maximum(number, 1.0)
        mean = jnp.sum(weight * batch, axis=0) / safe
        variance = jnp.sum(weight * (batch - mean[None]) ** 2, axis=0) / safe
        total = jnp.maximum(self.count + number, 1.0)
        shift = mean - self.mean
        new_mean = self.mean + shift * number / total
        spread = self.variance * self.count + variance * number + shift**2 * self.count * number / total
        return RunningNormalizer(
            jnp.where(number > 0.0, new_mean, self.mean),
            jnp.where(number > 0.0, spread / total, self.variance),
            self.count + number,
        )

    def __call__(self, observation: Float[Array | np.ndarray, "..."]) -> Float[Array, "..."]:
        """`(x - mean) / sqrt(variance + 1e-8)`, cut to +-10."""
        return jnp.clip((observation - self.mean) / jnp.sqrt(self.variance + 1e-8), -10.0, 10.0)
