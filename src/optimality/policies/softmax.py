"""Tabular softmax policies, whose parameters are one weight for each state and action.

    pi(a | s) = exp(w(s, a) / tau) / sum_a' exp(w(s, a') / tau)
    d log pi(a | s) / d w(s', b) = 1[s' = s] (1[b = a] - pi(b | s)) / tau

(Sutton and Barto 2018, section 13.1.) The factor `1 / tau` stays at every temperature: as `tau` goes to zero the score
of the likeliest action vanishes, because its probability goes to one, and that of any other grows as `1 / tau`.
"""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from optimality.core.gibbs import gibbs
from optimality.core.information import entropy
from optimality.core.numerics import Real, is_traced
from optimality.policies.tabular import TabularPolicy

Index = int | Int[Array, ""]


class TabularSoftmax(eqx.Module):
    """`pi(a | s)` proportional to `exp(w(s, a) / temperature)` over the allowed actions."""

    weights: Float[Array | np.ndarray, "states actions"]
    temperature: Real = 1.0
    """Scale of the weights, positive; it has nothing to do with the price of entropy in an objective."""
    allowed: Bool[Array | np.ndarray, "_ _"] | None = None
    """Which actions each state offers; all by default."""

    def __check_init__(self):
        shape = np.shape(self.weights)
        if self.allowed is not None and np.shape(self.allowed) != shape:
            raise ValueError(f"weights are {shape}, but allowed is {np.shape(self.allowed)}.")
        if not is_traced(self.temperature) and not 0.0 < float(np.asarray(self.temperature)) < np.inf:
            raise ValueError(
                f"temperature must be positive and finite, but {self.temperature} was given: for the greedy policy "
                "take TabularPolicy."
            )
        if not is_traced((self.weights, self.allowed)):
            allowed = np.ones(shape, bool) if self.allowed is None else np.asarray(self.allowed)
            wrong = np.argwhere(allowed & ~np.isfinite(np.asarray(self.weights)))
            if wrong.size:
                state, action = wrong[0]
                raise ValueError(
                    f"the weight of state {state}, action {action} is {np.asarray(self.weights)[state, action]}: "
                    "weights must be finite; leave an action out by allowed."
                )

    @property
    def log_probabilities(self) -> Float[Array, "states actions"]:
        """`log pi(a | s)`, `-inf` where an action is not allowed."""
        return gibbs(jnp.asarray(self.weights), self.temperature, where=self.allowed)

    def as_table(self) -> TabularPolicy:
        """The same policy without its parameters."""
        return TabularPolicy(self.log_probabilities)

    def log_prob(self, s: Index, a: Index) -> Float[Array, ""]:
        """`log pi(a | s)`."""
        return self.log_probabilities[s, a]

    def score(self, s: Index, a: Index) -> Float[Array, "states actions"]:
        """Derivative of `log_prob(s, a)` in every weight: zero in other states and for actions not allowed."""
        states, actions = np.shape(self.weights)
        probability = jnp.exp(self.log_probabilities[s])
        taken = (jnp.arange(actions) == a).astype(probability.dtype)
        of_state = (taken - probability) / jnp.asarray(self.temperature, probability.dtype)
        return jnp.where((jnp.arange(states) == s)[:, None], of_state[None, :], 0.0)

    def sample(self, key: PRNGKeyArray, s: Index) -> Int[Array, ""]:
        """An action drawn in state `s`."""
        return jax.random.categorical(key, self.log_probabilities[s])

    def mode(self, s: Index) -> Int[Array, ""]:
        """The likeliest action; ties go to the lowest index."""
        return jnp.argmax(self.log_probabilities[s])

    def entropy(self) -> Float[Array, " states"]:
        """`H(pi(. | s))` in nats."""
        return entropy(self.log_probabilities)
