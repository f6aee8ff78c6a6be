"""Policies of finite problems as a table of log-probabilities."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, PRNGKeyArray

from optimality.core.information import entropy
from optimality.core.numerics import is_traced


class TabularPolicy(eqx.Module):
    """`log pi(a | s)`, the same at every step `[S, A]` or one table a step `[H, S, A]`.

    After the last of its steps a policy that depends on time keeps its last table.
    """

    log_probabilities: Float[Array | np.ndarray, "states actions"] | Float[Array | np.ndarray, "time states actions"]

    def __check_init__(self):
        if is_traced(self.log_probabilities) or isinstance(self.log_probabilities, jax.Array):
            return
        mass = np.exp(self.log_probabilities).sum(axis=-1)
        if not np.all(np.abs(mass - 1.0) <= 1e-4):
            where = tuple(int(i) for i in np.argwhere(~(np.abs(mass - 1.0) <= 1e-4))[0])
            raise ValueError(f"a policy's probabilities must sum to one, but at {where} they sum to {mass[where]:.6g}.")

    @classmethod
    def from_probabilities(cls, probabilities: Float[np.ndarray, "..."]) -> "TabularPolicy":
        """From probabilities, zeros allowed."""
        with np.errstate(divide="ignore"):
            return cls(np.log(np.asarray(probabilities, np.float64)))

    @property
    def depends_on_time(self) -> bool:
        return self.log_probabilities.ndim == 3

    @property
    def probabilities(self) -> Float[Array | np.ndarray, "..."]:
        """`pi(a | s)`, `[S, A]` or `[H, S, A]`."""
        exp = np.exp if isinstance(self.log_probabilities, np.ndarray) else jnp.exp
        return exp(self.log_probabilities)

    def at(self, time: int | Int[Array, ""]) -> Float[Array | np.ndarray, "states actions"]:
        """Log-probabilities at step `time`, counted from 0."""
        if not self.depends_on_time:
            return self.log_probabilities
        last = self.log_probabilities.shape[0] - 1
        if isinstance(time, int):
            return self.log_probabilities[min(time, last)]
        return jnp.asarray(self.log_probabilities)[jnp.minimum(time, last)]

    def sample(self, key: PRNGKeyArray, state: int | Int[Array, ""], time: int | Int[Array, ""] = 0) -> Int[Array, ""]:
        """An action drawn in `state`."""
        return jax.random.categorical(key, jnp.asarray(self.at(time))[state])

    def mode(self, state: int | Int[Array, ""], time: int | Int[Array, ""] = 0) -> Int[Array, ""]:
        """The likeliest action in `state`; ties go to the lowest index."""
        return jnp.argmax(jnp.asarray(self.at(time))[state])

    def entropy(self) -> Float[Array, "..."]:
        """`H(pi(. | s))` in nats, `[S]` or `[H, S]`."""
        return entropy(self.log_probabilities)
