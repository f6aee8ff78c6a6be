"""The stochastic policy that policy-gradient learners share: network scores, or a Gaussian with its own spread; with
action masks where states restrict the actions, and with a memory where observations do not tell enough."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, PRNGKeyArray

from optimality.networks.abstract import AbstractNetwork
from optimality.networks.unit_vectors import UnitVectors
from optimality.sampling.normalizers import RunningNormalizer
from optimality.sampling.policy import AbstractPolicy
from optimality.sampling.transitions import MaskedObservation, Spec, action_mask_of, where


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

    def log_prob(
        self, features: Float[Array, " features"], action: Array, mask: Bool[Array, " actions"] | None = None
    ) -> Float[Array, ""]:
        return self.judge(features, action, mask)[0]

    def entropy(
        self, features: Float[Array, " features"], mask: Bool[Array, " actions"] | None = None
    ) -> Float[Array, ""]:
        """Over the actions that `mask` allows."""
        return self._entropy(self.network(features), mask)

    def kl(
        self, other: "Actor", features: Float[Array, " features"], mask: Bool[Array, " actions"] | None = None
    ) -> Float[Array, ""]:
        """`KL(self(. | s) || other(. | s))`, of unclipped actions where they are continuous."""
        ours, theirs = self.network(features), other.network(features)
        if self.log_deviation is None or other.log_deviation is None:
            log_p, log_q = masked_log_softmax(ours, mask), masked_log_softmax(theirs, mask)
            apart = log_p - log_q if mask is None else jnp.where(mask, log_p, 0.0) - jnp.where(mask, log_q, 0.0)
            return jnp.sum(jnp.exp(log_p) * apart)
        log_ratio = self.log_deviation - other.log_deviation
        gap = (ours - theirs) * jnp.exp(-other.log_deviation)
        return jnp.sum(0.5 * (jnp.exp(2.0 * log_ratio) - 1.0 + gap**2) - log_ratio)

    def judge(
        self, features: Float[Array, " features"], action: Array, mask: Bool[Array, " actions"] | None = None
    ) -> tuple[Float[Array, ""], Float[Array, ""]]:
        """`(log_prob, entropy)` from one pass of the network, whose backward pass would else be run twice."""
        output = self.network(features)
        return self._log_prob(output, action, mask), self._entropy(output, mask)

    def _log_prob(self, output: Array, action: Array, mask: Array | None) -> Float[Array, ""]:
        if self.log_deviation is None:
            return _picked(masked_log_softmax(output, mask), action)
        gap = (action.reshape(-1) - output) * jnp.exp(-self.log_deviation)
        return -jnp.sum(0.5 * gap**2 + self.log_deviation + 0.5 * jnp.log(2.0 * jnp.pi))

    def _entropy(self, output: Array, mask: Array | None) -> Float[Array, ""]:
        if self.log_deviation is None:
            log_p = masked_log_softmax(output, mask)
            if mask is None:
                return -jnp.sum(jnp.exp(log_p) * log_p)
            finite = jnp.where(mask, log_p, 0.0)  # 0 times -inf, and its derivative, are NaN
            return -jnp.sum(jnp.where(mask, jnp.exp(finite) * finite, 0.0))
        return jnp.sum(self.log_deviation + 0.5 * jnp.log(2.0 * jnp.pi * jnp.e))


class ActorPolicy(AbstractPolicy):
    """Acts with an actor on observations: samples, or with `sample=False` takes the mode.

    Forbidden actions are never taken. Continuous actions are clipped to their bounds on the way out; the unclipped
    action goes into the extras, for its density is the one that was sampled. With a `memory` the actor sees its output,
    and the carry is its hidden state.
    """

    actor: Actor
    normalizer: RunningNormalizer | None
    low: Float[Array, "..."] | None
    high: Float[Array, "..."] | None
    sample: bool = eqx.field(static=True)
    memory: Any = None

    def start(self, observation: Any, key: PRNGKeyArray) -> Any:
        return None if self.memory is None else self.memory.start()

    def act(self, carry: Any, observation: Any, key: PRNGKeyArray) -> tuple[Any, Array, dict[str, Array]]:
        features = as_features(observation)
        if self.normalizer is not None:
            features = self.normalizer(features)
        if self.memory is not None:
            carry, features = self.memory(carry, features)
        output = self.actor.network(features)
        if self.actor.log_deviation is None:
            log_p = masked_log_softmax(output, action_mask_of(observation))
            action = jax.random.categorical(key, log_p) if self.sample else jnp.argmax(log_p)
            action = action.astype(jnp.int32)
            return carry, action, {"raw_action": action, "log_prob": _picked(log_p, action)}
        deviation = jnp.exp(self.actor.log_deviation)
        raw = output + deviation * jax.random.normal(key, output.shape) if self.sample else output
        assert self.low is not None
        assert self.high is not None
        bounded = jnp.clip(raw.reshape(self.low.shape), self.low, self.high)
        return carry, bounded, {"raw_action": raw, "log_prob": self.actor._log_prob(output, raw, None)}


def masked_log_softmax(
    scores: Float[Array, " actions"], mask: Bool[Array, " actions"] | None = None
) -> Float[Array, " actions"]:
    """Log-probabilities by scores, of allowed actions only: `-inf` elsewhere, with gradients that stay finite."""
    return jax.nn.log_softmax(scores if mask is None else jnp.where(mask, scores, -jnp.inf))


def _picked(log_p: Float[Array, " actions"], action: Array) -> Float[Array, ""]:
    """`log_p[action]`, whose derivative would be a scatter, which takes longer than all the rest of a small loss."""
    return jnp.sum(jnp.where(jnp.arange(log_p.size) == action, log_p, 0.0))


def remembered(
    memory: Any, carry: Any, features: Float[Array, "time features"], over: Bool[Array, " time"]
) -> tuple[Any, Float[Array, "time units"]]:
    """A memory run over the rollout of one environment: `(hidden states, outputs)` after each step.

    It begins from the `carry` before the first step and anew after each step that is `over`; the hidden states are
    those before that, so that they go on to the true next observation.
    """

    def step(hidden, now):
        x, ends = now
        hidden, output = memory(hidden, x)
        return where(ends, memory.start(), hidden), (hidden, output)

    return jax.lax.scan(step, carry, (features, over))[1]


def as_features(observation: Any) -> Float[Array, " features"]:
    """A box of numbers, flattened, or an index as one number; of a masked observation what was seen."""
    if isinstance(observation, MaskedObservation):
        observation = observation.observation
    features = jnp.asarray(observation).reshape(-1)
    return features if jnp.issubdtype(features.dtype, jnp.floating) else features.astype(jnp.float32)


def observation_size(spec: Spec, *, normalized: bool = False) -> int:
    """Of what `as_features` gives. Raises `ValueError` where indices should be normalized."""
    if spec.observations is not None and normalized:
        raise ValueError(
            f"normalize_observations is for numbers, but observations are indices of {spec.observations} states: leave "
            "it out."
        )
    seen = spec.observation
    return size_of((seen.observation if isinstance(seen, MaskedObservation) else seen).shape)


def number_size(spec: Spec) -> int:
    """`observation_size`, for methods that compute with observations. Raises `ValueError` for indices."""
    if spec.observations is not None:
        raise ValueError(
            "this method needs observations that are numbers (a Box), but they are indices of a finite set: encode "
            "them as vectors, use a method with networks (ppo, trpo, reinforce), or plan in the table itself with "
            "solve()."
        )
    return observation_size(spec)


def on_features(recipe: Any, spec: Spec) -> Any:
    """The recipe of a network (or memory) of an environment's features: indices become unit vectors."""
    return recipe if spec.observations is None else UnitVectors(recipe, spec.observations)


def size_of(shape: tuple[int, ...]) -> int:
    size = 1
    for extent in shape:
        size *= extent
    return size
