"""The maximum-entropy policy gradient of action values, and what it shares with soft Q-learning.

    pi(a | s) = exp((Q(s, a) - V(s)) / tau),        V(s) = tau log sum_a exp(Q(s, a) / tau)
    G_t = r_t - tau log pi(a_t | s_t) + discount G_{t+1},        A_t = G_t - V(s_t)
    tau grad J = E sum_t discount^t (grad Q - grad V)(s_t, a_t) A_t

The entropy is inside the return, by the samples' own `log pi`, and the soft value V is the baseline: the advantage
`A_t = r_t + discount G_{t+1} - Q(s_t, a_t)` is the error of Q against the soft return. A policy gradient cannot see
what is added to all values of a state, so V has to be fitted beside it. With the gradient of
`value_weight / 2 (G_t - V)^2` the whole is

    -(grad Q - (1 - value_weight) grad V) A_t .

At `value_weight = 1` that is the gradient of `(Q - r - discount G_{t+1})^2 / 2`: soft Q-learning, on the policy's own
returns, is the policy gradient plus the error of the value (Schulman, Chen and Abbeel 2017, section 3).

Values are built as `Q = V + tau log softmax(scores)`, from one network each, so that V is the soft value of Q whatever
the scores. In one network for Q the values of actions that are taken run ahead of those that are not, and the entropy
collapses.

Without a discount the horizon is the episode's; where a time limit cuts an episode the value of its true last
observation goes on.
"""

from dataclasses import KW_ONLY
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float, PRNGKeyArray

from optimality.core.gibbs import gibbs
from optimality.core.numerics import Real, require_range
from optimality.learning.action_values import SoftQPolicy, soft_value
from optimality.learning.actor import as_features, observation_size, on_features
from optimality.learning.natural_gradient import noise_of_sum
from optimality.networks.abstract import AbstractNetwork
from optimality.networks.mlp import MLP
from optimality.networks.optimizer import adam, descend
from optimality.sampling.learner import AbstractLearner, Metrics, Reward
from optimality.sampling.returns import reward_to_go
from optimality.sampling.transitions import Episodes, Rollout, Spec, Transition, action_mask_of, environment_reward


class Dueling(eqx.Module):
    """Action values `V(s) + tau log softmax(scores(s))` of features: their soft value is V."""

    scores: Any
    value: Any
    temperature: Real

    def __call__(self, features: Float[Array, " features"]) -> Float[Array, " actions"]:
        scores = self.scores(features)
        return self.value(features) + jnp.asarray(self.temperature, scores.dtype) * jax.nn.log_softmax(scores)


class MaxEntState(eqx.Module):
    scores: Any
    value: Any
    optimizer: Any


class MaxEntPolicyGradient(AbstractLearner):
    """Monte Carlo gradients of reward plus entropy for a policy made of action values; discrete actions."""

    _: KW_ONLY
    learning_rate: Real = 3e-3
    """Adam's step size."""
    discount: Real = 0.99
    """Of future rewards and entropies; a chance of ending, not a time limit."""
    temperature: Real = 0.1
    """What a nat of entropy is worth in units of reward; positive, for at zero no policy is made of values."""
    value_weight: Real = 0.5
    """Of the error of the soft value: 0 the bare policy gradient, which leaves V adrift, 1 soft Q-learning."""
    max_gradient_norm: Real = 10.0
    """Longer gradients are shortened to this norm."""
    network: MLP | AbstractNetwork = MLP()
    """How scores and value are built, each its own."""
    episodes: int = eqx.field(static=True, default=2)
    """Episodes of each environment between updates."""
    environments: int = eqx.field(static=True, default=8)
    """Environments side by side, where `train` makes them."""

    warm_up = 0

    def __check_init__(self):
        require_range(self, 0.0, above=True, temperature=self.temperature, learning_rate=self.learning_rate)
        require_range(self, 0.0, value_weight=self.value_weight)
        require_range(self, 0.0, 1.0, discount=self.discount)

    @property
    def collection(self) -> Episodes:  # pyright: ignore[reportIncompatibleVariableOverride]
        return Episodes(self.episodes)

    def init(self, spec: Spec, key: PRNGKeyArray, data: Any = None) -> MaxEntState:
        if spec.actions is None:
            raise ValueError(
                "MaxEntPolicyGradient needs discrete actions, for it sums over them, but they are continuous: use "
                "Reinforce or PPO with a temperature."
            )
        size, network = observation_size(spec), on_features(self.network, spec)
        scores_key, value_key = jax.random.split(key)
        scores = network.build(scores_key, size, spec.actions, output_gain=0.01)
        value = network.build(value_key, size, 1)
        return MaxEntState(scores, value, self._optimizer().init(ravel_pytree((scores, value))[0]))

    def policy(self, state: MaxEntState, *, explore: bool) -> SoftQPolicy:
        return SoftQPolicy(Dueling(state.scores, state.value, self.temperature), self.temperature, 0.0, explore)

    def observe(self, state: MaxEntState, rollout: Rollout) -> MaxEntState:
        return state

    def update(
        self, state: MaxEntState, rollout: Rollout, key: PRNGKeyArray, reward: Reward = environment_reward
    ) -> tuple[MaxEntState, Metrics]:
        transitions = rollout.transitions
        rewards = jnp.where(transitions.valid, jax.vmap(jax.vmap(reward))(transitions), 0.0)
        point, unravel = ravel_pytree((state.scores, state.value))

        def loss(vector, episode, rewards):
            scores, value = unravel(vector)
            return self.loss(Dueling(scores, value, self.temperature), episode, rewards)

        gradients, metrics = jax.vmap(jax.grad(loss, has_aux=True), in_axes=(None, 1, 1))(point, transitions, rewards)
        number = rewards.shape[1]
        gradient = jnp.mean(gradients, axis=0)
        vector, optimizer, applied = descend(self._optimizer(), gradient, state.optimizer, point)
        steps = jnp.sum(transitions.valid, dtype=rewards.dtype)
        totals = jax.tree.map(jnp.sum, metrics)
        scores, value = unravel(vector)
        return MaxEntState(scores, value, optimizer), {
            "value_loss": totals["value_loss"] / steps,
            "td_error": totals["td_error"] / steps,
            "q": totals["q"] / steps,
            "entropy": totals["entropy"] / steps,
            "return": jnp.sum(rewards) / number,
            "length": steps / number,
            "gradient_norm": jnp.linalg.norm(gradient),
            "gradient_noise": noise_of_sum(gradients) / number,
            "applied": applied.astype(jnp.float32),
        }

    def score_gradient(self, state: MaxEntState, rollout: Rollout, key: PRNGKeyArray) -> tuple[Any, Any]:
        """The network of the scores, and the estimate of the gradient of reward and entropy in its leaves."""
        transitions = rollout.transitions
        rewards = jnp.where(transitions.valid, transitions.reward, 0.0)

        def objective(scores):
            q = Dueling(scores, state.value, self.temperature)
            losses, _ = jax.vmap(lambda t, r: self.loss(q, t, r), in_axes=1)(transitions, rewards)
            return -jnp.mean(losses) / jnp.asarray(self.temperature, rewards.dtype)

        return state.scores, jax.grad(objective)(state.scores)

    def loss(
        self, q: Any, episode: Transition, rewards: Float[Array, " time"]
    ) -> tuple[Float[Array, ""], dict[str, Array]]:
        """Of one episode: a number whose gradient is that of the module's docstring, and sums over its steps."""
        discount, tau, weight = (
            jnp.asarray(x, rewards.dtype) for x in (self.discount, self.temperature, self.value_weight)
        )
        values = jax.vmap(lambda x: q(as_features(x)))(episode.observation)
        mask, valid = action_mask_of(episode.observation), episode.valid
        value = soft_value(values, tau, mask=mask)
        taken = jnp.arange(values.shape[1])[None] == episode.action[:, None]
        q_taken = jnp.sum(jnp.where(taken, values, 0.0), axis=1)
        surprise = jax.lax.stop_gradient(q_taken - value)  # tau log pi
        after = jax.vmap(lambda x: q(as_features(x)))(episode.next_observation)
        following = soft_value(after, tau, mask=action_mask_of(episode.next_observation))
        cut = valid & episode.truncated & ~episode.terminated
        tail = jnp.where(cut, discount * jax.lax.stop_gradient(following), 0.0)
        gains = jnp.where(valid, rewards + tail - surprise, 0.0)
        advantage = jax.lax.stop_gradient(reward_to_go(gains, discount, episode.done) - value)
        power = discount ** jnp.arange(rewards.size, dtype=rewards.dtype)
        loss = -jnp.sum(jnp.where(valid, power * advantage * (q_taken - (1.0 - weight) * value), 0.0))
        log_p = gibbs(values, tau, where=mask)
        p_log_p = jnp.where(jnp.isneginf(log_p), 0.0, jnp.exp(log_p) * log_p)
        total = lambda x: jnp.sum(jnp.where(valid, x, 0.0))  # noqa: E731
        return loss, {
            "value_loss": total(0.5 * advantage**2),
            "td_error": total(jnp.abs(advantage)),
            "q": total(q_taken),
            "entropy": total(-jnp.sum(p_log_p, axis=1)),
        }

    def _optimizer(self):
        return adam(self.learning_rate, self.max_gradient_norm, epsilon=1e-5)
