"""Trust region policy optimization (Schulman et al. 2015, equation 14) and, without its search, natural gradients.

    maximize  E [ratio A] + temperature H(pi)     subject to   E_s KL(pi_old(. | s) || pi(. | s)) <= epsilon
    ratio = pi(a | s) / pi_old(a | s)

One step an update: the natural gradient, as long as its quadratic model says that the divergence is epsilon, then
shrunk until the measured divergence is within the bound and the objective has improved. Advantages are generalized
(GAE); a time limit cuts their sum but never the bootstrap. The critic is fitted afterwards, by Adam.
"""

from collections.abc import Callable
from dataclasses import KW_ONLY
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float, PRNGKeyArray

from optimality.core.numerics import Real, require_range
from optimality.learning.actor import Actor, ActorPolicy, as_features, observation_size, on_features
from optimality.learning.natural_gradient import (
    natural_direction,
    noise_of_sum,
    step_of_divergence,
    trust_region_search,
)
from optimality.networks.abstract import AbstractNetwork
from optimality.networks.mlp import MLP
from optimality.networks.optimizer import adam, descend
from optimality.sampling.learner import AbstractLearner, Metrics, Reward
from optimality.sampling.normalizers import RunningNormalizer
from optimality.sampling.replay import flat
from optimality.sampling.returns import generalized_advantage
from optimality.sampling.transitions import Rollout, Spec, Steps, action_mask_of, environment_reward


class TRPOState(eqx.Module):
    actor: Actor
    critic: Any
    optimizer: Any
    normalizer: RunningNormalizer
    low: Any
    high: Any


class TRPO(AbstractLearner):
    """One natural-gradient step for each rollout, within a measured bound on the divergence."""

    _: KW_ONLY
    epsilon: Real = 0.01
    """Bound on the mean of KL(old || new) over the visited states, in nats."""
    line_search: bool = eqx.field(static=True, default=True)
    """Shrink the step until the bound holds and the objective improves; without, it is the natural gradient's."""
    shrink: Real = 0.8
    """By which the search shortens a step that does not serve."""
    trials: int = eqx.field(static=True, default=10)
    """Step lengths that the search tries; where none serves, the policy stays as it is."""
    damping: Real = 0.1
    """Added to the diagonal of the Fisher information."""
    conjugate_gradients: int = eqx.field(static=True, default=15)
    """Most iterations for the natural gradient."""
    discount: Real = 0.99
    """Of future rewards; a chance of ending, not a time limit."""
    gae_decay: Real = 0.95
    """Lambda of the generalized advantage: 1 Monte Carlo, 0 one step."""
    temperature: Real = 0.0
    """What a nat of entropy is worth in the objective."""
    critic_learning_rate: Real = 1e-3
    """Adam's step size for the critic."""
    critic_epochs: int = eqx.field(static=True, default=10)
    """Passes over each rollout for the critic."""
    minibatches: int = eqx.field(static=True, default=8)
    """Parts of each of those passes."""
    network: MLP | AbstractNetwork = MLP()
    """How actor and critic are built, each its own."""
    normalize_observations: bool = eqx.field(static=True, default=False)
    """Divide observations by their running deviation."""
    rollout_steps: int = eqx.field(static=True, default=128)
    """Steps of each environment between updates."""
    environments: int = eqx.field(static=True, default=8)
    """Environments side by side, where `train` makes them."""

    warm_up = 0

    def __check_init__(self):
        require_range(self, 0.0, above=True, epsilon=self.epsilon, critic_learning_rate=self.critic_learning_rate)
        require_range(self, 0.0, damping=self.damping, temperature=self.temperature)
        require_range(self, 0.0, 1.0, discount=self.discount, gae_decay=self.gae_decay, shrink=self.shrink)
        require_range(self, 1.0, trials=self.trials, conjugate_gradients=self.conjugate_gradients)

    @property
    def collection(self) -> Steps:  # pyright: ignore[reportIncompatibleVariableOverride]
        return Steps(self.rollout_steps)

    def init(self, spec: Spec, key: PRNGKeyArray, data: Any = None) -> TRPOState:
        size = observation_size(spec, normalized=self.normalize_observations)
        network = on_features(self.network, spec)
        batch = self.rollout_steps * spec.environments
        if batch < 2:
            raise ValueError("an advantage is relative to others: a rollout needs at least 2 transitions, but has 1.")
        if batch % self.minibatches:
            raise ValueError(
                f"a rollout of {self.rollout_steps} steps of {spec.environments} environments has {batch} transitions, "
                f"which {self.minibatches} minibatches do not divide: choose another rollout_steps or minibatches."
            )
        actor_key, critic_key = jax.random.split(key)
        critic = network.build(critic_key, size, 1)
        return TRPOState(
            Actor.build(actor_key, spec, network, size),
            critic,
            self._optimizer().init(ravel_pytree(critic)[0]),
            RunningNormalizer.empty((size,)),
            None if spec.low is None else jnp.asarray(spec.low),
            None if spec.high is None else jnp.asarray(spec.high),
        )

    def policy(self, state: TRPOState, *, explore: bool) -> ActorPolicy:
        normalizer = state.normalizer if self.normalize_observations else None
        return ActorPolicy(state.actor, normalizer, state.low, state.high, explore)

    def observe(self, state: TRPOState, rollout: Rollout) -> TRPOState:
        if not self.normalize_observations:
            return state
        seen = flat(rollout.transitions)
        features = jax.vmap(as_features)(seen.observation)
        return eqx.tree_at(lambda s: s.normalizer, state, state.normalizer.updated(features, seen.valid))

    def update(
        self, state: TRPOState, rollout: Rollout, key: PRNGKeyArray, reward: Reward = environment_reward
    ) -> tuple[TRPOState, Metrics]:
        features, target, advantage, batch = self._judged(state, rollout, reward)
        actor, metrics = self._improved(state.actor, batch)
        critic, optimizer, value_loss, finite = self._fitted(state, features, target, batch["weight"], key)
        metrics |= {
            "value_loss": value_loss,
            "explained_variance": 1.0 - jnp.var(advantage) / (jnp.var(target) + 1e-8),
            "applied": metrics["applied"] * finite.astype(jnp.float32),
        }
        return TRPOState(actor, critic, optimizer, state.normalizer, state.low, state.high), metrics

    def score_gradient(self, state: TRPOState, rollout: Rollout, key: PRNGKeyArray) -> tuple[Any, Any]:
        """The actor's network, and the estimate of the gradient of the advantage's mean in its leaves; all steps count
        the same, and the critic's error is in it."""
        *_, batch = self._judged(state, rollout, environment_reward)
        point, unravel = ravel_pytree(state.actor)
        by_environment, gain = self._gains(state.actor, batch)
        gradient = jax.grad(lambda vector: jnp.sum(jax.vmap(lambda part: gain(vector, part))(by_environment)))(point)
        return state.actor.network, unravel(gradient).network

    def _judged(self, state: TRPOState, rollout: Rollout, reward: Reward) -> tuple[Array, Array, Array, dict[str, Any]]:
        """Features, the critic's targets, advantages, and what the actor's step is made of."""
        transitions = rollout.transitions
        rewards = jax.vmap(jax.vmap(reward))(transitions)
        features, after = (
            jax.vmap(jax.vmap(lambda x: self._features(state, x)))(seen)
            for seen in (transitions.observation, transitions.next_observation)
        )
        value_of = jax.vmap(jax.vmap(lambda x: state.critic(x)[0]))
        value, next_value = value_of(features), value_of(after)
        over = transitions.done | ~transitions.valid
        advantage = jax.vmap(generalized_advantage, in_axes=(1, 1, 1, 1, 1, None, None), out_axes=1)(
            rewards, value, next_value, transitions.terminated, over, self.discount, self.gae_decay
        )
        weight = transitions.valid.astype(value.dtype)
        weight = weight / jnp.maximum(jnp.sum(weight), 1.0)
        target = advantage + value
        spread = advantage - jnp.sum(weight * advantage)
        batch = {
            "features": features,
            "action": transitions.extras["raw_action"],
            "mask": action_mask_of(transitions.observation),
            "advantage": spread / (jnp.sqrt(jnp.sum(weight * spread**2)) + 1e-8),
            "weight": weight,
        }
        return features, target, advantage, batch

    def _gains(self, actor: Actor, batch: dict[str, Any]) -> tuple[dict[str, Any], Callable[[Array, Any], Array]]:
        """The batch by environment, with the actor's log-probabilities, and `gain(vector, part)` of one of them."""
        _, unravel = ravel_pytree(actor)
        batch = jax.tree.map(lambda x: jnp.swapaxes(x, 0, 1), batch)
        batch["log_prob"] = jax.vmap(jax.vmap(actor.log_prob))(batch["features"], batch["action"], batch["mask"])
        temperature = jnp.asarray(self.temperature, batch["weight"].dtype)

        def gain(vector, part):
            """Of one environment, with the weights of its transitions."""
            log_prob, entropy = jax.vmap(unravel(vector).judge)(part["features"], part["action"], part["mask"])
            ratio = jnp.exp(log_prob - part["log_prob"])
            return jnp.sum(part["weight"] * (ratio * part["advantage"] + temperature * entropy))

        return batch, gain

    def _improved(self, actor: Actor, batch: dict[str, Any]) -> tuple[Actor, Metrics]:
        """One step of the actor. `batch` is `[time, environments]`; its weights sum to one."""
        point, unravel = ravel_pytree(actor)
        batch, gain = self._gains(actor, batch)
        weight = batch["weight"]

        def objective(vector):
            return jnp.sum(jax.vmap(lambda part: gain(vector, part))(batch))

        def divergence(vector):
            new = unravel(vector)
            each = jax.vmap(jax.vmap(lambda x, mask: actor.kl(new, x, mask)))
            return jnp.sum(weight * each(batch["features"], batch["mask"]))

        gradients = jax.vmap(jax.grad(gain), in_axes=(None, 0))(point, batch)
        gradient, noise = jnp.sum(gradients, axis=0), noise_of_sum(gradients)
        direction = natural_direction(
            divergence, gradient, point, damping=self.damping, iterations=self.conjugate_gradients
        )
        step = step_of_divergence(direction, self.epsilon)
        if self.line_search:
            found = trust_region_search(
                objective,
                divergence,
                point,
                step,
                epsilon=self.epsilon,
                shrink=self.shrink,
                trials=self.trials,
            )
            new, fraction = found.point, found.fraction
        else:
            new, fraction = point + step, jnp.ones((), point.dtype)
        finite = jnp.all(jnp.isfinite(gradient)) & jnp.all(jnp.isfinite(new))
        new = jnp.where(finite, new, point)
        entropy = jax.vmap(jax.vmap(unravel(new).entropy))(batch["features"], batch["mask"])
        return unravel(new), {
            "policy_loss": -objective(new),
            "entropy": jnp.sum(weight * entropy),
            "kl": divergence(new),
            "kl_bound": jnp.asarray(self.epsilon, jnp.float32),
            "gradient_norm": jnp.linalg.norm(gradient),
            "gradient_noise": noise,
            "step_fraction": fraction,
            "cg_residual": direction.residual,
            "applied": finite.astype(jnp.float32),
        }

    def _fitted(
        self, state: TRPOState, features: Array, target: Array, weight: Array, key: PRNGKeyArray
    ) -> tuple[Any, Any, Float[Array, ""], Array]:
        """Critic after `critic_epochs` passes, its optimizer, its mean loss, and whether all steps were finite."""
        batch = jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), (features, target, weight * weight.size))
        number = batch[1].shape[0]
        orders = jax.vmap(lambda k: jax.random.permutation(k, number))(jax.random.split(key, self.critic_epochs))
        first, unravel = ravel_pytree(state.critic)

        def loss(vector, part):
            x, aim, weight = part
            error = jax.vmap(lambda x: unravel(vector)(x)[0])(x) - aim
            return 0.5 * jnp.mean(weight * error**2)

        def improve(carry, index):
            vector, optimizer = carry
            part = jax.tree.map(lambda x: x[index], batch)
            value, gradient = jax.value_and_grad(loss)(vector, part)
            vector, optimizer, applied = descend(self._optimizer(), gradient, optimizer, vector)
            return (vector, optimizer), (value, applied)

        indices = orders.reshape(self.critic_epochs * self.minibatches, number // self.minibatches)
        (vector, optimizer), (losses, applied) = jax.lax.scan(improve, (first, state.optimizer), indices)
        return unravel(vector), optimizer, jnp.mean(losses), jnp.all(applied)

    def _features(self, state: TRPOState, observation: Any) -> Float[Array, " features"]:
        features = as_features(observation)
        return state.normalizer(features) if self.normalize_observations else features

    def _optimizer(self):
        return adam(self.critic_learning_rate)


def natural_policy_gradient(**fields: Any) -> TRPO:
    """The natural policy gradient (Kakade 2001): `TRPO` without its search, so that `epsilon` bounds only the quadratic
    model of the divergence, not the divergence."""
    return TRPO(**{"line_search": False, **fields})
