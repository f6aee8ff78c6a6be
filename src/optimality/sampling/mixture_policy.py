"""Several tables as one policy: one of them is drawn at the start of each episode and kept until its end."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, PRNGKeyArray

from optimality.policies.tabular import TabularPolicy
from optimality.sampling.policy import AbstractPolicy


class MixturePolicy(AbstractPolicy):
    """Its expectations are the mixture of its components' expectations."""

    log_weights: Float[Array | np.ndarray, " components"]
    log_probabilities: (
        Float[Array | np.ndarray, "components states actions"]
        | Float[Array | np.ndarray, "components time states actions"]
    )

    def __check_init__(self):
        weights, tables = self.log_weights, self.log_probabilities
        if weights.shape[0] != tables.shape[0]:
            raise ValueError(f"there are {weights.shape[0]} weights for {tables.shape[0]} policies.")
        if isinstance(weights, np.ndarray) and abs(np.exp(weights).sum() - 1.0) > 1e-6:
            raise ValueError(f"the weights of a mixture must sum to one, but sum to {np.exp(weights).sum():.6g}.")

    def component(self, index: int) -> TabularPolicy:
        """One of the policies."""
        return TabularPolicy(self.log_probabilities[index])

    def start(self, observation: Any, key: PRNGKeyArray) -> tuple[Int[Array, ""], Int[Array, ""]]:
        index = jax.random.categorical(key, jnp.asarray(self.log_weights))
        return index.astype(jnp.int32), jnp.zeros((), jnp.int32)

    def act(
        self, carry: tuple[Int[Array, ""], Int[Array, ""]], observation: Int[Array, ""], key: PRNGKeyArray
    ) -> tuple[tuple[Int[Array, ""], Int[Array, ""]], Int[Array, ""], dict[str, Array]]:
        index, time = carry
        table = jnp.asarray(self.log_probabilities)[index]
        table = table if table.ndim == 2 else table[jnp.minimum(time, table.shape[0] - 1)]
        action = jax.random.categorical(key, table[observation])
        return (index, time + 1), action.astype(jnp.int32), {"log_prob": table[observation, action]}
