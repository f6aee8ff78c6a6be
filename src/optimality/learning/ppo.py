"""Proximal policy optimization (Schulman et al. 2017, equations 7 and 9), with the entropy bonus as a temperature.

    ratio_t = pi(a_t | s_t) / pi_old(a_t | s_t)
    maximize  E min(ratio A, clip(ratio, 1 - eps, 1 + eps) A) + temperature H(pi) - value_weight (V - G)^2 / 2

Advantages are generalized (GAE); a time limit cuts their sum but never the bootstrap. With a memory, a recurrent core
in front of actor and critic is run again over each rollout, from the hidden state in which it began.
"""

from dataclasses import KW_ONLY
from functools import partial
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float, PRNGKeyArray

from optimality.core.numerics import Real, require_range
from optimality.learning.actor import Actor, ActorPolicy, as_features, observation_size, on_features, remembered
from optimality.networks.abstract import AbstractMemory, AbstractNetwork
from optimality.networks.gru import GRU
from optimality.networks.mlp import MLP
from optimality.networks.optimizer import adam, descend
from optimality.sampling.learner import AbstractLearner, Metrics, Reward
from optimality.sampling.normalizers import RunningNormalizer
from optimality.sampling.replay import flat
from optimality.sampling.returns import generalized_advantage
from optimality.sampling.transitions import Rollout, Spec, Steps, action_mask_of, environment_reward


class PPOParameters(eqx.Module):
    actor: Actor
    critic: Any
    memory: Any = None
    """In front of both, where there is one."""


class PPOState(eqx.Module):
    parameters: PPOParameters
    optimizer: Any
    normalizer: RunningNormalizer
    low: Any
    high: Any
    updates: Array


class PPO(AbstractLearner):
    """Clipped policy gradients on rollouts of fixed length, for discrete and continuous actions."""

    _: KW_ONLY
    learning_rate: Real = 1e-3
    """Adam's step size."""
    discount: Real = 0.99
    """Of future rewards; a chance of ending, not a time limit."""
    gae_decay: Real = 0.95
    """Lambda of the generalized advantage: 1 Monte Carlo, 0 one step."""
    clip: Real = 0.2
    """How far the probability ratio may leave one before its gradient stops."""
    temperature: Real = 0.0
    """What a nat of entropy is worth in the objective."""
    value_weight: Real = 0.5
    """Weight of the value loss."""
    max_gradient_norm: Real = 0.5
    """Longer gradients are shortened to this norm."""
    epochs: int = eqx.field(static=True, default=4)
    """Passes over each rollout."""
    minibatches: int = eqx.field(static=True, default=4)
    """Parts of each pass; with a memory, of the environments."""
    network: MLP | AbstractNetwork = MLP()
    """How actor and critic are built, each its own."""
    memory: GRU | AbstractMemory | None = None
    """A recurrent core in front of both, for observations that do not tell enough."""
    normalize_observations: bool = eqx.field(static=True, default=False)
    """Divide observations by their running deviation."""
    rollout_steps: int = eqx.field(static=True, default=128)
    """Steps of each environment between updates."""
    environments: int = eqx.field(static=True, default=8)
    """Environments side by side, where `train` makes them."""

    warm_up = 0

    def __check_init__(self):
        require_range(self, 0.0, above=True, learning_rate=self.learning_rate, clip=self.clip)
        require_range(self, 0.0, temperature=self.temperature, value_weight=self.value_weight)
        require_range(self, 0.0, 1.0, discount=self.discount, gae_decay=self.gae_decay)

    @property
    def collection(self) -> Steps:  # pyright: ignore[reportIncompatibleVariableOverride]
        return Steps(self.rollout_steps)

    def init(self, spec: Spec, key: PRNGKeyArray, data: Any = None) -> PPOState:
        size = observation_size(spec, normalized=self.normalize_observations)
        batch = self.rollout_steps * spec.environments
        if batch % self.minibatches:
            raise ValueError(
                f"a rollout of {self.rollout_steps} steps of {spec.environments} environments has {batch} transitions, "
                f"which {self.minibatches} minibatches do not divide: choose another rollout_steps or minibatches."
            )
        if self.memory is not None and spec.environments % self.minibatches:
            raise ValueError(
                f"with a memory minibatches are made of whole environments, but {self.minibatches} minibatches do not "
                f"divide {spec.environments} environments: choose another number of either."
            )
        actor_key, critic_key, memory_key = jax.random.split(key, 3)
        memory, inputs, network = None, size, on_features(self.network, spec)
        if self.memory is not None:
            memory = on_features(self.memory, spec).build(memory_key, size)
            inputs, network = self.memory.units, self.network
        parameters = PPOParameters(
            Actor.build(actor_key, spec, network, inputs),
            network.build(critic_key, inputs, 1),
            memory,
        )
        low = None if spec.low is None else jnp.asarray(spec.low)
        high = None if spec.high is None else jnp.asarray(spec.high)
        return PPOState(
            parameters,
            self._optimizer().init(ravel_pytree(parameters)[0]),
            RunningNormalizer.empty((size,)),
            low,
            high,
            jnp.zeros((), jnp.int32),
        )

    def policy(self, state: PPOState, *, explore: bool) -> ActorPolicy:
        normalizer = state.normalizer if self.normalize_observations else None
        parameters = state.parameters
        return ActorPolicy(parameters.actor, normalizer, state.low, state.high, explore, parameters.memory)

    def observe(self, state: PPOState, rollout: Rollout) -> PPOState:
        if not self.normalize_observations:
            return state
        seen = flat(rollout.transitions)
        features = jax.vmap(as_features)(seen.observation)
        return eqx.tree_at(lambda s: s.normalizer, state, state.normalizer.updated(features, seen.valid))

    def update(
        self, state: PPOState, rollout: Rollout, key: PRNGKeyArray, reward: Reward = environment_reward
    ) -> tuple[PPOState, Metrics]:
        transitions = rollout.transitions
        rewards = jax.vmap(jax.vmap(reward))(transitions)
        features, after = (
            jax.vmap(jax.vmap(partial(self._features, state)))(seen)
            for seen in (transitions.observation, transitions.next_observation)
        )
        value, next_value = self._values(state.parameters, rollout, features, after)
        over = transitions.done | ~transitions.valid
        advantage = jax.vmap(generalized_advantage, in_axes=(1, 1, 1, 1, 1, None, None), out_axes=1)(
            rewards, value, next_value, transitions.terminated, over, self.discount, self.gae_decay
        )
        batch = {
            "features": features,
            "mask": action_mask_of(transitions.observation),
            "action": transitions.extras["raw_action"],
            "log_prob": transitions.extras["log_prob"],
            "advantage": advantage,
            "target": advantage + value,
            "valid": transitions.valid,
        }
        # What is drawn for minibatches: transitions; with a memory whole environments, which come first then.
        if self.memory is None:
            batch = jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), batch)
        else:
            batch = jax.tree.map(lambda x: jnp.swapaxes(x, 0, 1), {**batch, "over": over})
            batch["carry"] = rollout.carry
        number = batch["advantage"].shape[0]
        orders = jax.vmap(lambda k: jax.random.permutation(k, number))(jax.random.split(key, self.epochs))
        indices = orders.reshape(self.epochs * self.minibatches, number // self.minibatches)
        # One vector through the descent: on networks of this size an optimizer costs more per leaf than per number.
        first, unravel = ravel_pytree(state.parameters)
        optimizer = self._optimizer()

        def improve(carry, index):
            vector, optimizer_state = carry
            part = jax.tree.map(lambda x: x[index], batch)
            gradient, metrics = jax.grad(self._loss, has_aux=True)(unravel(vector), part)
            vector, optimizer_state, applied = descend(optimizer, ravel_pytree(gradient)[0], optimizer_state, vector)
            return (vector, optimizer_state), {**metrics, "applied": applied.astype(jnp.float32)}

        (vector, optimizer_state), metrics = jax.lax.scan(improve, (first, state.optimizer), indices)
        metrics = jax.tree.map(jnp.mean, metrics)
        target = advantage + value
        metrics["explained_variance"] = 1.0 - jnp.var(advantage) / (jnp.var(target) + 1e-8)
        return PPOState(
            unravel(vector), optimizer_state, state.normalizer, state.low, state.high, state.updates + 1
        ), metrics

    def _features(self, state: PPOState, observation: Any) -> Float[Array, " features"]:
        features = as_features(observation)
        return state.normalizer(features) if self.normalize_observations else features

    def _values(
        self, parameters: PPOParameters, rollout: Rollout, features: Any, after: Any
    ) -> tuple[Float[Array, "time environments"], Float[Array, "time environments"]]:
        """Of each observation and of the true next one, which a memory sees after all that came before it."""
        if parameters.memory is not None:
            over = rollout.transitions.done | ~rollout.transitions.valid
            unroll = jax.vmap(partial(remembered, parameters.memory), in_axes=(0, 1, 1), out_axes=1)
            hidden, features = unroll(rollout.carry, features, over)
            _, after = jax.vmap(jax.vmap(parameters.memory))(hidden, after)
        value_of = jax.vmap(jax.vmap(lambda x: parameters.critic(x)[0]))
        return value_of(features), value_of(after)

    def _optimizer(self):
        return adam(self.learning_rate, self.max_gradient_norm, epsilon=1e-5)

    def _loss(self, parameters: PPOParameters, batch: dict[str, Array]) -> tuple[Float[Array, ""], Metrics]:
        batch = dict(batch)
        if parameters.memory is not None:
            carry, over = batch.pop("carry"), batch.pop("over")
            _, batch["features"] = jax.vmap(partial(remembered, parameters.memory))(carry, batch["features"], over)
            batch = jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), batch)
        log_prob, entropy = jax.vmap(parameters.actor.judge)(batch["features"], batch["action"], batch["mask"])
        value = jax.vmap(lambda x: parameters.critic(x)[0])(batch["features"])
        weight = batch["valid"].astype(value.dtype)
        weight = weight / jnp.maximum(jnp.sum(weight), 1.0)
        mean = lambda x: jnp.sum(weight * x)  # noqa: E731
        advantage = batch["advantage"] - mean(batch["advantage"])
        advantage = advantage / (jnp.sqrt(mean(advantage**2)) + 1e-8)
        log_ratio = log_prob - batch["log_prob"]
        ratio = jnp.exp(log_ratio)
        clip, temperature, value_weight = (
            jnp.asarray(number, ratio.dtype) for number in (self.clip, self.temperature, self.value_weight)
        )
        clipped = jnp.clip(ratio, 1.0 - clip, 1.0 + clip)
        policy_loss = -mean(jnp.minimum(ratio * advantage, clipped * advantage))
        value_loss = 0.5 * mean((value - batch["target"]) ** 2)
        entropy = mean(entropy)
        loss = policy_loss - temperature * entropy + value_weight * value_loss
        metrics = {
            "policy_loss": policy_loss,
            "value_loss": value_loss,
            "entropy": entropy,
            "kl": mean(ratio - 1.0 - log_ratio),
            "clipped": mean((jnp.abs(ratio - 1.0) > clip).astype(value.dtype)),
        }
        return loss, metrics
