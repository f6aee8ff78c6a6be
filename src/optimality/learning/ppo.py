"""Proximal policy optimization (Schulman et al. 2017, equations 7 and 9), with the entropy bonus as a temperature.

    ratio_t = pi(a_t | s_t) / pi_old(a_t | s_t)
    maximize  E min(ratio A, clip(ratio, 1 - eps, 1 + eps) A) + temperature H(pi) - value_weight (V - G)^2 / 2

Advantages are generalized (GAE); a time limit cuts their sum but never the bootstrap.
"""

from dataclasses import KW_ONLY
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from optimality.core.numerics import Real
from optimality.learning.actor import Actor, ActorPolicy, as_features, observation_size
from optimality.networks.abstract import AbstractNetwork
from optimality.networks.mlp import MLP
from optimality.networks.optimizer import adam, descend
from optimality.sampling.learner import AbstractLearner, Metrics, Reward
from optimality.sampling.normalizers import RunningNormalizer
from optimality.sampling.replay import flat
from optimality.sampling.returns import generalized_advantage
from optimality.sampling.transitions import Rollout, Spec, Steps, environment_reward


class PPOParameters(eqx.Module):
    actor: Actor
    critic: Any


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
    """Parts of each pass."""
    network: MLP | AbstractNetwork = MLP()
    """How actor and critic are built, each its own."""
    normalize_observations: bool = eqx.field(static=True, default=False)
    """Divide observations by their running deviation."""
    rollout_steps: int = eqx.field(static=True, default=128)
    """Steps of each environment between updates."""
    environments: int = eqx.field(static=True, default=8)
    """Environments side by side, where `train` makes them."""

    warm_up = 0

    @property
    def collection(self) -> Steps:  # pyright: ignore[reportIncompatibleVariableOverride]
        return Steps(self.rollout_steps)

    def init(self, spec: Spec, key: PRNGKeyArray, data: Any = None) -> PPOState:
        size = observation_size(spec)
        batch = self.rollout_steps * spec.environments
        if batch % self.minibatches:
            raise ValueError(
                f"a rollout of {self.rollout_steps} steps of {spec.environments} environments has {batch} transitions, "
                f"which {self.minibatches} minibatches do not divide: choose another rollout_steps or minibatches."
            )
        actor_key, critic_key = jax.random.split(key)
        parameters = PPOParameters(
            Actor.build(actor_key, spec, self.network, size),
            self.network.build(critic_key, size, 1),
        )
        low = None if spec.low is None else jnp.asarray(spec.low)
        high = None if spec.high is None else jnp.asarray(spec.high)
        return PPOState(
            parameters,
            self._optimizer().init(parameters),  # pyright: ignore[reportArgumentType]
            RunningNormalizer.empty((size,)),
            low,
            high,
            jnp.zeros((), jnp.int32),
        )

    def policy(self, state: PPOState, *, explore: bool) -> ActorPolicy:
        return ActorPolicy(state.parameters.actor, state.normalizer, state.low, state.high, explore)

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
        normalize = lambda x: state.normalizer(as_features(x))  # noqa: E731
        features = jax.vmap(jax.vmap(normalize))(transitions.observation)
        after = jax.vmap(jax.vmap(normalize))(transitions.next_observation)
        value_of = jax.vmap(jax.vmap(lambda x: state.parameters.critic(x)[0]))
        rewards = jax.vmap(jax.vmap(reward))(transitions)
        value, next_value = value_of(features), value_of(after)
        advantage = jax.vmap(generalized_advantage, in_axes=(1, 1, 1, 1, 1, None, None), out_axes=1)(
            rewards, value, next_value, transitions.terminated, transitions.done, self.discount, self.gae_decay
        )
        batch = {
            "features": features,
            "action": transitions.extras["raw_action"],
            "log_prob": transitions.extras["log_prob"],
            "advantage": advantage,
            "target": advantage + value,
        }
        batch = jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), batch)
        size = batch["advantage"].shape[0] // self.minibatches
        orders = jax.vmap(lambda k: jax.random.permutation(k, size * self.minibatches))(
            jax.random.split(key, self.epochs)
        )
        indices = orders.reshape(self.epochs * self.minibatches, size)
        optimizer = self._optimizer()

        def improve(carry, index):
            parameters, optimizer_state = carry
            part = jax.tree.map(lambda x: x[index], batch)
            gradient, metrics = jax.grad(self._loss, has_aux=True)(parameters, part)
            parameters, optimizer_state, applied = descend(optimizer, gradient, optimizer_state, parameters)
            return (parameters, optimizer_state), {**metrics, "applied": applied.astype(jnp.float32)}

        (parameters, optimizer_state), metrics = jax.lax.scan(improve, (state.parameters, state.optimizer), indices)
        metrics = jax.tree.map(jnp.mean, metrics)
        metrics["explained_variance"] = 1.0 - jnp.var(batch["target"] - value.reshape(-1)) / (
            jnp.var(batch["target"]) + 1e-8
        )
        return PPOState(
            parameters, optimizer_state, state.normalizer, state.low, state.high, state.updates + 1
        ), metrics

    def _optimizer(self):
        return adam(self.learning_rate, self.max_gradient_norm, epsilon=1e-5)

    def _loss(self, parameters: PPOParameters, batch: dict[str, Array]) -> tuple[Float[Array, ""], Metrics]:
        log_prob = jax.vmap(parameters.actor.log_prob)(batch["features"], batch["action"])
        entropy = jnp.mean(jax.vmap(parameters.actor.entropy)(batch["features"]))
        value = jax.vmap(lambda x: parameters.critic(x)[0])(batch["features"])
        advantage = batch["advantage"]
        advantage = (advantage - jnp.mean(advantage)) / (jnp.std(advantage) + 1e-8)
        log_ratio = log_prob - batch["log_prob"]
        ratio = jnp.exp(log_ratio)
        clip, temperature, value_weight = (
            jnp.asarray(number, ratio.dtype) for number in (self.clip, self.temperature, self.value_weight)
        )
        clipped = jnp.clip(ratio, 1.0 - clip, 1.0 + clip)
        policy_loss = -jnp.mean(jnp.minimum(ratio * advantage, clipped * advantage))
        value_loss = 0.5 * jnp.mean((value - batch["target"]) ** 2)
        loss = policy_loss - temperature * entropy + value_weight * value_loss
        metrics = {
            "policy_loss": policy_loss,
            "value_loss": value_loss,
            "entropy": entropy,
            "kl": jnp.mean(ratio - 1.0 - log_ratio),
            "clipped": jnp.mean((jnp.abs(ratio - 1.0) > clip).astype(jnp.float32)),
        }
        return loss, metrics
