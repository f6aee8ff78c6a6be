"""The stochastic policy that policy-gradient learners share: network scores, or a Gaussian with its own spread."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from optimality.networks.abstract import AbstractNetwork
from optimality.sampling.normalizers import RunningNormalizer
from optimality.sampling.policy import AbstractPolicy
from optimality.sampling.transitions import Spec


class Actor(eqx.Module):
    """`scores` for discrete actions; mean and `log_deviation` for continuous ones (None where discrete)."""

    network: Any
    log_deviation: Float[Array, " size"] | None

    @classmethod
    def build(cls, key: PRNGKeyArray, spec: Spec, network: AbstractNetwork, inputs: int) -> "Actor":
        """The last layer starts small, so that the first policy is near uniform or centered."""
        outputs = spec.actions if spec.actions is not None else size_of(spec.action.shape)
        built = network.build(key, inputs, outputs, output_gain=0.01)
        return cls(built, None if spec.actions is not None else jnp.zeros(outputs))

    def log_prob(self, features: Float[Array, " features"], action: Array) -> Float[Array, ""]:
        output = self.network(features)
        if self.log_deviation is None:
            return jax.nn.log_softmax(output)[action]
        gap = (action.reshape(-1) - output) * jnp.exp(-self.log_deviation)
        return -jnp.sum(0.5 * gap**2 + self.log_deviation + 0.5 * jnp.log(2.0 * jnp.pi))

    def entropy(self, features: Float[Array, " features"]) -> Float[Array, ""]:
        if self.log_deviation is None:
            log_p = jax.nn.log_softmax(self.network(features))
            return -jnp.sum(jnp.exp(log_p) * log_p)
        return jnp.sum(self.log_deviation + 0.5 * jnp.log(2.0 * jnp.pi * jnp.e))


class ActorPolicy(AbstractPolicy):
    """Acts with an actor on normalized observations: samples, or with `sample=False` takes the mode.

    Continuous actions are clipped to their bounds on the way out; the unclipped action goes into the extras, for its
    density is the one that was sampled.
    """

    actor: Actor
    normalizer: RunningNormalizer
    low: Float[Array, " size"] | None
    high: Float[Array, " size"] | None
    sample: bool = eqx.field(static=True)

    def start(self, observation: Array, key: PRNGKeyArray) -> None:
        return None

    def act(self, carry: None, observation: Array, key: PRNGKeyArray) -> tuple[None, Array, dict[str, Array]]:
        features = self.normalizer(as_features(observation))
        output = self.actor.network(features)
        if self.actor.log_deviation is None:
            log_p = jax.nn.log_softmax(output)
            action = jax.random.categorical(key, log_p) if self.sample else jnp.argmax(log_p)
            action = action.astype(jnp.int32)
            return None, action, {"raw_action": action, "log_prob": log_p[action]}
        deviation = jnp.exp(self.actor.log_deviation)
        raw = output + deviation * jax.random.normal(key, output.shape) if self.sample else output
        assert self.low is not None
        assert self.high is not None
        bounded = jnp.clip(raw.reshape(self.low.shape), self.low, self.high)
        return None, bounded, {"raw_action": raw, "log_prob": self.actor.log_prob(features, raw)}


def as_features(observation: Array) -> Float[Array, " features"]:
    """A box of numbers, flattened."""
    return observation.reshape(-1)


def observation_size(spec: Spec) -> int:
    """Raises `ValueError` for observations that are indices: networks need numbers."""
    if not jnp.issubdtype(spec.observation.dtype, jnp.floating):
        raise ValueError(
            "this method's networks need observations that are numbers (a Box), but they are indices of a finite set: "
            "encode them as vectors, or plan in the table itself with solve()."
        )
    return size_of(spec.observation.shape)


def size_of(shape: tuple[int, ...]) -> int:
    size = 1
    for extent in shape:
        size *= extent
    return size
