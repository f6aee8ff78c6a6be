"""Action values of discrete actions, what they are worth together, and the policy that acts on them.

Every function takes a mask of the actions that are offered (None: all of them); the others have no weight anywhere.
"""

from typing import Any, Literal

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from optimality.core.gibbs import gibbs, soft_maximum
from optimality.core.numerics import Real
from optimality.learning.actor import as_features
from optimality.sampling.policy import AbstractPolicy
from optimality.sampling.transitions import MaskedObservation, action_mask_of

Prior = Literal["none", "uniform"]
Values = Float[Array, "*batch actions"]
Mask = Bool[Array, "*batch actions"]


def soft_value(q: Values, temperature: Real, prior: Prior = "none", mask: Mask | None = None) -> Float[Array, "*batch"]:
    """`tau log sum_a b(a) exp(q(a) / tau)` over the allowed actions; the largest of them at temperature 0."""
    return soft_maximum(q, temperature, log_base(q, prior, mask), where=mask)


def double_value(
    online: Values, target: Values, temperature: Real, prior: Prior = "none", mask: Mask | None = None
) -> Float[Array, "*batch"]:
    """`sum_a pi(a) (target(a) - tau log(pi(a) / b(a)))`, `pi` the soft policy of `online`.

    At temperature 0 the target of the online maximizer (van Hasselt et al. 2016, equation 4, where one of several ties
    is taken); with `online = target` it is `soft_value`.
    """
    base = log_base(online, prior, mask)
    log_p = gibbs(online, temperature, base, where=mask)
    inside = ~jnp.isneginf(log_p)
    excess = jnp.where(inside, log_p - base, 0.0)
    worth = jnp.where(inside, target, 0.0) - jnp.asarray(temperature, target.dtype) * excess
    return jnp.sum(jnp.exp(log_p) * worth, axis=-1)


def log_base(q: Values, prior: Prior, mask: Mask | None) -> Float[Array, "*batch #actions"]:
    """Logarithm of the base measure over actions: 0, or minus the logarithm of the number of allowed ones."""
    if prior == "none":
        return jnp.zeros((*q.shape[:-1], 1), q.dtype)
    allowed = jnp.ones_like(q) if mask is None else mask.astype(q.dtype)
    return -jnp.log(jnp.sum(allowed, axis=-1, keepdims=True))


def behavior(q: Values, temperature: Real, epsilon: Real, mask: Mask | None = None) -> Values:
    """`log((1 - epsilon) pi(a) + epsilon / n)`: the soft policy, mixed with the uniform one of the allowed actions."""
    epsilon = jnp.asarray(epsilon, q.dtype)
    uniform = jnp.exp(log_base(q, "uniform", mask))
    uniform = jnp.broadcast_to(uniform, q.shape) if mask is None else jnp.where(mask, uniform, 0.0)
    return jnp.log((1.0 - epsilon) * jnp.exp(gibbs(q, temperature, where=mask)) + epsilon * uniform)


class Table(eqx.Module):
    """Action values of finitely many states, and how often each was updated."""

    values: Float[Array, "states actions"]
    visits: Int[Array, "states actions"]


def action_values(q: Any, observation: Any) -> Values:
    """Of a `Table`, or of a network of features; masks do not change values."""
    return q.values[state_of(observation)] if isinstance(q, Table) else q(as_features(observation))


def state_of(observation: Any) -> Any:
    """The index in an observation of a finite set, with a mask or without."""
    return observation.observation if isinstance(observation, MaskedObservation) else observation


class SoftQPolicy(AbstractPolicy):
    """Draws from the soft policy of action values, mixed with the uniform one; with `sample=False` the best action."""

    q: Any
    """From an observation to the values of its actions: a `Table` or a network."""
    temperature: Real
    epsilon: Real
    sample: bool = eqx.field(static=True)

    def start(self, observation: Any, key: PRNGKeyArray) -> None:
        return None

    def act(self, carry: None, observation: Any, key: PRNGKeyArray) -> tuple[None, Array, dict[str, Array]]:
        """The extras hold the logarithm of the probability with which the action was drawn."""
        q, mask = action_values(self.q, observation), action_mask_of(observation)
        if not self.sample:
            best = jnp.argmax(q if mask is None else jnp.where(mask, q, -jnp.inf))
            return None, best.astype(jnp.int32), {"log_prob": jnp.zeros((), q.dtype)}
        log_p = behavior(q, self.temperature, self.epsilon, mask)
        action = jax.random.categorical(key, log_p).astype(jnp.int32)
        return None, action, {"log_prob": log_p[action]}
