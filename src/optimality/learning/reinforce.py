"""REINFORCE: the gradient of the expected return by likelihood ratios of whole episodes (Williams 1992).

    grad J = E sum_t discount^t grad log pi(a_t | s_t) (G_t - b_t),      G_t = r_t + discount G_{t+1}
    J      = E sum_t discount^t (r_t + temperature H(pi(. | s_t)))

With a temperature later entropies count in `G`, and each step's own is differentiated as it is. `discount^t` belongs to
the gradient of the discounted return; much code drops it (Nota and Thomas 2020).

Episodes are cut by the environment's time limit, and `G` is the return of what was shown: without a critic the
objective is that of the finite episode. With `baseline="value"` a truncated episode is continued by the critic's value
of its true last observation, so that a time limit cuts nothing; a terminated one is not.
"""

from dataclasses import KW_ONLY
from typing import Any, Literal

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Bool, Float, PRNGKeyArray

from optimality.core.likelihood_ratio import likelihood_ratio
from optimality.core.numerics import Real, require_range
from optimality.learning.actor import Actor, ActorPolicy, as_features, observation_size, on_features
from optimality.learning.natural_gradient import noise_of_sum
from optimality.networks.abstract import AbstractNetwork
from optimality.networks.mlp import MLP
from optimality.networks.optimizer import adam, descend
from optimality.sampling.learner import AbstractLearner, Metrics, Reward
from optimality.sampling.normalizers import RunningNormalizer
from optimality.sampling.replay import flat
from optimality.sampling.returns import reward_to_go
from optimality.sampling.transitions import Episodes, Rollout, Spec, action_mask_of, environment_reward

Table = Float[Array, "time episodes"]
Flags = Bool[Array, "time episodes"]


class ReinforceParameters(eqx.Module):
    actor: Actor
    critic: Any
    """None unless the baseline is its value."""


class ReinforceState(eqx.Module):
    parameters: ReinforceParameters
    optimizer: Any
    normalizer: RunningNormalizer
    low: Any
    high: Any


class Reinforce(AbstractLearner):
    """Monte Carlo policy gradients, one step for each batch of whole episodes."""

    _: KW_ONLY
    learning_rate: Real = 3e-3
    """Adam's step size."""
    discount: Real = 1.0
    """Of future rewards."""
    temperature: Real = 0.0
    """What a nat of entropy is worth in units of reward."""
    credit: Literal["to_go", "total"] = eqx.field(static=True, default="to_go")
    """Which rewards an action is credited with: those from its step on, or all of its episode's, which is noisier."""
    baseline: Literal["none", "mean", "leave_one_out", "value"] = eqx.field(static=True, default="leave_one_out")
    """What is subtracted: the batch's mean at each step (shrinks the gradient by 1/n), the mean of the other episodes,
    or a critic's value."""
    value_weight: Real = 0.5
    """Weight of the critic's loss."""
    max_gradient_norm: Real = 10.0
    """Longer gradients are shortened to this norm."""
    network: MLP | AbstractNetwork = MLP()
    """How actor and critic are built, each its own."""
    normalize_observations: bool = eqx.field(static=True, default=False)
    """Divide observations by their running deviation."""
    episodes: int = eqx.field(static=True, default=2)
    """Episodes of each environment between updates."""
    environments: int = eqx.field(static=True, default=8)
    """Environments side by side, where `train` makes them."""

    warm_up = 0

    def __check_init__(self):
        require_range(self, 0.0, above=True, learning_rate=self.learning_rate)
        require_range(self, 0.0, temperature=self.temperature, value_weight=self.value_weight)
        require_range(self, 0.0, 1.0, discount=self.discount)

    @property
    def collection(self) -> Episodes:  # pyright: ignore[reportIncompatibleVariableOverride]
        return Episodes(self.episodes)

    def init(self, spec: Spec, key: PRNGKeyArray, data: Any = None) -> ReinforceState:
        size = observation_size(spec, normalized=self.normalize_observations)
        network = on_features(self.network, spec)
        if self.baseline == "leave_one_out" and self.episodes * spec.environments < 2:
            raise ValueError('baseline="leave_one_out" needs at least 2 episodes a batch: raise episodes.')
        if self.baseline == "value" and self.credit == "total":
            raise ValueError('baseline="value" is the worth of what follows a step: use credit="to_go" with it.')
        actor_key, critic_key = jax.random.split(key)
        critic = network.build(critic_key, size, 1) if self.baseline == "value" else None
        parameters = ReinforceParameters(Actor.build(actor_key, spec, network, size), critic)
        low = None if spec.low is None else jnp.asarray(spec.low)
        high = None if spec.high is None else jnp.asarray(spec.high)
        optimizer = self._optimizer().init(parameters)  # pyright: ignore[reportArgumentType]
        return ReinforceState(parameters, optimizer, RunningNormalizer.empty((size,)), low, high)

    def policy(self, state: ReinforceState, *, explore: bool) -> ActorPolicy:
        normalizer = state.normalizer if self.normalize_observations else None
        return ActorPolicy(state.parameters.actor, normalizer, state.low, state.high, explore)

    def observe(self, state: ReinforceState, rollout: Rollout) -> ReinforceState:
        if not self.normalize_observations:
            return state
        seen = flat(rollout.transitions)
        features = jax.vmap(as_features)(seen.observation)
        return eqx.tree_at(lambda s: s.normalizer, state, state.normalizer.updated(features, seen.valid))

    def update(
        self, state: ReinforceState, rollout: Rollout, key: PRNGKeyArray, reward: Reward = environment_reward
    ) -> tuple[ReinforceState, Metrics]:
        rewards = jax.vmap(jax.vmap(reward))(rollout.transitions)
        rewards = jnp.where(rollout.transitions.valid, rewards, 0.0)
        gradient, noise, metrics = self.gradient(state.parameters, state.normalizer, rollout, rewards)
        parameters, optimizer, applied = descend(self._optimizer(), gradient, state.optimizer, state.parameters)
        metrics |= {
            "gradient_norm": jnp.linalg.norm(ravel_pytree(gradient.actor)[0]),
            "gradient_noise": noise,
            "applied": applied.astype(jnp.float32),
        }
        return ReinforceState(parameters, optimizer, state.normalizer, state.low, state.high), metrics

    def score_gradient(self, state: ReinforceState, rollout: Rollout, key: PRNGKeyArray) -> tuple[Any, Any]:
        """The actor's network, and the estimate of the gradient of `J` in its leaves."""
        rewards = jnp.where(rollout.transitions.valid, rollout.transitions.reward, 0.0)
        gradient, _, _ = self.gradient(state.parameters, state.normalizer, rollout, rewards)
        return state.parameters.actor.network, jax.tree.map(jnp.negative, gradient.actor.network)

    def gradient(
        self, parameters: ReinforceParameters, normalizer: RunningNormalizer, rollout: Rollout, rewards: Table
    ) -> tuple[ReinforceParameters, Float[Array, ""], Metrics]:
        """`loss`'s, the norm of the standard error of the actor's, and metrics.

        Each of a few parts of the episodes is given a copy of the actor, so that one backward pass tells the parts'
        gradients apart.
        """
        parts = _parts(rewards.shape[1])
        copies = jax.tree.map(lambda x: jnp.broadcast_to(x, (parts, *x.shape)), parameters.actor)
        several = ReinforceParameters(copies, parameters.critic)
        by_part, metrics = jax.grad(self._loss, has_aux=True)(several, normalizer, rollout, rewards, _judge_parts)
        noise = noise_of_sum(jax.vmap(lambda one: ravel_pytree(one)[0])(by_part.actor))
        whole = jax.tree.map(lambda x: jnp.sum(x, axis=0), by_part.actor)
        return ReinforceParameters(whole, by_part.critic), noise, metrics

    def loss(
        self, parameters: ReinforceParameters, normalizer: RunningNormalizer, rollout: Rollout, rewards: Table
    ) -> tuple[Float[Array, ""], Metrics]:
        """Its gradient is minus that of `J`, plus `value_weight` times that of the critic's squared error."""
        judge = lambda actor, *tables: _each(actor.judge, *tables)  # noqa: E731
        return self._loss(parameters, normalizer, rollout, rewards, judge)

    def _loss(
        self, parameters: ReinforceParameters, normalizer: RunningNormalizer, rollout: Rollout, rewards: Table, judge
    ) -> tuple[Float[Array, ""], Metrics]:
        t = rollout.transitions
        encode = lambda x: normalizer(as_features(x)) if self.normalize_observations else as_features(x)  # noqa: E731
        features = _each(encode, t.observation)
        log_prob, entropy = judge(parameters.actor, features, t.extras["raw_action"], action_mask_of(t.observation))
        entropy = jnp.where(t.valid, entropy, 0.0)
        discount, temperature = (jnp.asarray(x, rewards.dtype) for x in (self.discount, self.temperature))
        value, tail = jnp.zeros_like(rewards), jnp.zeros_like(rewards)
        if parameters.critic is not None:
            value = _each(lambda x: parameters.critic(x)[0], features)
            after = _each(lambda x: parameters.critic(encode(x))[0], t.next_observation)
            tail = jnp.where(t.valid & t.truncated & ~t.terminated, discount * jax.lax.stop_gradient(after), 0.0)
        # Credit of an action excludes the entropy of its own step, which it had no part in.
        own = temperature * jax.lax.stop_gradient(entropy)
        returns = self.returns(rewards + tail + own, t.done)
        power = discount ** jnp.arange(rewards.shape[0], dtype=rewards.dtype)[:, None]
        if self.credit == "total":
            credit = jnp.broadcast_to(returns[:1], returns.shape) - jnp.cumsum(power * own, axis=0)
            weight = jnp.ones_like(power)
        else:
            credit, weight = returns - own, power
        advantage = jax.lax.stop_gradient(credit - self.baseline_of(credit, value - own, t.valid))
        gain = jnp.where(t.valid, weight * likelihood_ratio(log_prob) * advantage + power * temperature * entropy, 0.0)
        error = jnp.where(t.valid, value - jax.lax.stop_gradient(returns), 0.0)
        steps, episodes = jnp.sum(t.valid, dtype=rewards.dtype), rewards.shape[1]
        policy_loss, value_loss = -jnp.sum(gain) / episodes, 0.5 * jnp.sum(error**2) / steps
        metrics = {
            "policy_loss": policy_loss,
            "value_loss": value_loss,
            "entropy": jnp.sum(entropy) / steps,
            "return": jnp.sum(rewards) / episodes,
            "length": steps / episodes,
        }
        return policy_loss + jnp.asarray(self.value_weight, rewards.dtype) * value_loss, metrics

    def returns(self, rewards: Table, done: Flags) -> Table:
        """`G_t` of each episode."""
        return jax.vmap(reward_to_go, in_axes=(1, None, 1), out_axes=1)(rewards, self.discount, done)

    def baseline_of(self, credit: Table, value: Table, valid: Flags) -> Table:
        """Of each step; means are over the episodes that are still running at that step."""
        if self.baseline in ("none", "value"):
            return value if self.baseline == "value" else jnp.zeros_like(credit)
        running = jnp.ones_like(valid) if self.credit == "total" else valid
        known = jnp.where(running, credit, 0.0)
        total = jnp.sum(known, axis=1, keepdims=True)
        number = jnp.sum(running, axis=1, keepdims=True, dtype=credit.dtype)
        if self.baseline == "mean":
            return jnp.broadcast_to(total / jnp.maximum(number, 1.0), credit.shape)
        return (total - known) / jnp.maximum(number - 1.0, 1.0)

    def _optimizer(self):
        return adam(self.learning_rate, self.max_gradient_norm, epsilon=1e-5)


def _parts(episodes: int) -> int:
    """As many as divide the episodes, up to eight, or their number where that is prime."""
    few = max(n for n in range(1, 9) if episodes % n == 0)
    return few if few > 1 or episodes > 64 else episodes


def _judge_parts(actors: Actor, *tables: Any) -> tuple[Table, Table]:
    """Log-probabilities and entropies of each step, by the copy of the actor that its episode has."""
    parts = jax.tree.leaves(actors)[0].shape[0]
    cut = lambda x: x.reshape(x.shape[0], parts, x.shape[1] // parts, *x.shape[2:])  # noqa: E731
    judged = jax.vmap(lambda actor, own: _each(actor.judge, *own), in_axes=(0, 1), out_axes=1)
    log_prob, entropy = judged(actors, jax.tree.map(cut, tables))
    return log_prob.reshape(log_prob.shape[0], -1), entropy.reshape(entropy.shape[0], -1)


def _each(function: Any, *tables: Any) -> Any:
    """Of each step of each episode, by one axis: a network's products over two take half as long again."""
    shape = jax.tree.leaves(tables[0])[0].shape[:2]
    found = jax.vmap(function)(*jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), tables))
    return jax.tree.map(lambda x: x.reshape(*shape, *x.shape[1:]), found)
