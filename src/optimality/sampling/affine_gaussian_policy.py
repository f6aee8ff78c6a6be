"""A planned affine Gaussian policy as one that acts in episodes: its carry is the time."""

from typing import Any

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PRNGKeyArray

from optimality.core.numerics import cast_floats
from optimality.policies.affine_gaussian import AffineGaussian
from optimality.sampling.policy import AbstractPolicy


class AffineGaussianPolicy(AbstractPolicy):
    """Acts by `u = K x + k` at each step, plus noise with `sample=True`, in the precision of the observation."""

    law: AffineGaussian
    sample: bool = eqx.field(static=True, default=False)

    def start(self, observation: Any, key: PRNGKeyArray) -> Int[Array, ""]:
        return jnp.zeros((), jnp.int32)

    def act(
        self, carry: Int[Array, ""], observation: Float[Array, " n"], key: PRNGKeyArray
    ) -> tuple[Int[Array, ""], Float[Array, " m"], dict[str, Array]]:
        law = cast_floats(self.law, observation.dtype)
        action = law.sample(key, observation, carry) if self.sample else law.mean(observation, carry)
        return carry + 1, action, {}
