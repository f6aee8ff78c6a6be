"""Soft Q-learning for discrete actions; at temperature 0 Q-learning and the deep Q-network.

    y      = r + discount (1 - terminated) V'(s'),        V(s) = tau log sum_a b(a | s) exp(Q(s, a) / tau)
    pi     = b exp((Q - V) / tau)
    table:   Q(s, a) <- Q(s, a) + step (y - Q(s, a))
    network: minimize E (Q(s, a) - y)^2 / 2 over batches of a replay, V' by a slowly following copy

(Levine 2018, section 4.3; Haarnoja et al. 2017, equation 6; Watkins and Dayan 1992; Mnih et al. 2015.) With `b = 1` it
is the entropy form, with a uniform `b` the KL form. Over what is sampled `y` averages to the backup of
`SoftValueIteration`. A time limit never cuts the bootstrap: a truncated transition counts like any other.
"""

from dataclasses import KW_ONLY
from typing import Any, Literal

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from optimality.core.gibbs import gibbs
from optimality.core.information import entropy
from optimality.core.numerics import Real, require_range
from optimality.learning.action_values import (
    Mask,
    Prior,
    SoftQPolicy,
    Table,
    Values,
    action_values,
    double_value,
    soft_value,
    state_of,
)
from optimality.learning.actor import as_features, observation_size
from optimality.networks.abstract import AbstractNetwork
from optimality.networks.flat import FlatNetwork
from optimality.networks.mlp import MLP
from optimality.networks.optimizer import adam, descend
from optimality.sampling.learner import AbstractLearner, Metrics, Reward
from optimality.sampling.replay import Replay, example_transition, flat
from optimality.sampling.transitions import (
    Rollout,
    Spec,
    Steps,
    Transition,
    action_mask_of,
    assembled,
    environment_reward,
)

NO_EPSILON = np.zeros((), np.float32)


class Networks(eqx.Module):
    """Action values as a function of features: what acts, what it is compared with, and how it moves."""

    online: FlatNetwork
    target: Float[Array, " parameters"]
    optimizer: Any
    replay: Replay


class SoftQState(eqx.Module):
    """`values` is a `Table` for observations that are indices, else `Networks`."""

    values: Any
    epsilon: Float[Array, ""]
    seen: Int[Array, ""]
    """Transitions so far."""


class SoftQLearning(AbstractLearner):
    """Learns action values from single transitions, whoever chose the actions: a table for observations that are
    indices, a network for numbers.

    A table is updated by each observed transition, in order, with a step of its own for each pair,
    `(1 + (1 - discount) n)^-step_decay` after n updates. The sum of these diverges and that of their squares converges
    where `1/2 < step_decay <= 1` (Robbins and Monro 1951), so that values converge where every pair is met for ever; at
    1 their error falls as fast as any (Wainwright 2019). It uses neither replay, network nor optimizer.
    """

    _: KW_ONLY
    learning_rate: Real = 1e-3
    """Adam's step size."""
    discount: Real = 0.99
    """Of future rewards; a chance of ending, not a time limit."""
    temperature: Real = 0.01
    """What a nat of entropy, or of KL to the prior, is worth in units of reward; 0 is Q-learning."""
    prior: Prior = eqx.field(static=True, default="none")
    """`none`: entropy form. `uniform`: KL form, against the uniform law of the actions."""
    step_decay: Real = 1.0
    """Of a table's step sizes, in (1/2, 1]."""
    target_rate: Real = 0.01
    """Share of the way that the target network goes to the network after each update; 1 is no target network."""
    double: bool = eqx.field(static=True, default=False)
    """Bootstrap from the network's own policy, valued by the target network."""
    loss: Literal["squared", "huber"] = eqx.field(static=True, default="squared")
    """Of the error; `huber` grows linearly beyond 1, in units of reward."""
    max_gradient_norm: Real = 1_000.0
    """Longer gradients are shortened to this norm."""
    batch_size: int = eqx.field(static=True, default=64)
    """Transitions of each update."""
    updates_per_step: float = eqx.field(static=True, default=1.0)
    """Updates of the network for each collected transition."""
    capacity: int = eqx.field(static=True, default=100_000)
    """Of the replay, in transitions."""
    epsilon_start: Real = 0.0
    """Share of uniform actions after the warm-up, in which all are."""
    epsilon_end: Real = 0.0
    """Share of uniform actions in the end."""
    epsilon_steps: Real = 10_000
    """Transitions from the one to the other, linearly."""
    network: MLP | AbstractNetwork = MLP(activation="relu")
    """How the network is built."""
    warm_up: int = eqx.field(static=True, default=1_000)
    """Transitions of uniform actions before the first update; a table does not learn from them."""
    rollout_steps: int = eqx.field(static=True, default=1)
    """Steps of each environment between updates."""
    environments: int = eqx.field(static=True, default=1)
    """Environments side by side, where `train` makes them."""

    def __check_init__(self):
        require_range(self, 0.0, above=True, learning_rate=self.learning_rate)
        require_range(self, 0.0, temperature=self.temperature)
        require_range(self, 0.0, 1.0, discount=self.discount)

    @property
    def collection(self) -> Steps:  # pyright: ignore[reportIncompatibleVariableOverride]
        return Steps(self.rollout_steps)

    def init(self, spec: Spec, key: PRNGKeyArray, data: Any = None) -> SoftQState:
        actions = spec.actions
        if actions is None:
            raise ValueError("soft Q-learning needs discrete actions, but they are continuous: use a policy gradient.")
        self._updates(self.rollout_steps * spec.environments)
        first = jnp.asarray(1.0 if self.warm_up else self.epsilon_start, jnp.float32)
        if spec.observations is not None:
            shape = spec.observations, actions
            table = Table(jnp.zeros(shape), jnp.zeros(shape, jnp.int32))
            return SoftQState(table, first, jnp.zeros((), jnp.int32))
        online = FlatNetwork.of(self.network.build(key, observation_size(spec), actions, output_gain=0.01))
        policy = SoftQPolicy(online, self.temperature, first, True)
        replay = Replay.empty(example_transition(spec, policy), self.capacity)
        networks = Networks(online, online.vector, self._optimizer().init(online.vector), replay)
        return SoftQState(networks, first, jnp.zeros((), jnp.int32))

    def policy(self, state: SoftQState, *, explore: bool) -> SoftQPolicy:
        q = state.values if isinstance(state.values, Table) else state.values.online
        return assembled(SoftQPolicy, q, self.temperature, state.epsilon if explore else NO_EPSILON, explore)

    def observe(self, state: SoftQState, rollout: Rollout) -> SoftQState:
        transitions, values = flat(rollout.transitions), state.values
        if isinstance(values, Networks):
            values = Networks(values.online, values.target, values.optimizer, values.replay.add(transitions))
        seen = state.seen + jnp.sum(transitions.valid, dtype=jnp.int32)
        return SoftQState(values, self._epsilon(seen), seen)

    def update(
        self, state: SoftQState, rollout: Rollout, key: PRNGKeyArray, reward: Reward = environment_reward
    ) -> tuple[SoftQState, Metrics]:
        transitions = flat(rollout.transitions)
        if isinstance(state.values, Table):
            values, metrics = self._visit(state.values, transitions, jax.vmap(reward)(transitions))
        else:
            values, metrics = self._fit(state.values, transitions.reward.shape[0], key, reward)
        return SoftQState(values, state.epsilon, state.seen), {**metrics, "epsilon": state.epsilon}

    def _visit(self, table: Table, transitions: Transition, rewards: Float[Array, " n"]) -> tuple[Table, Metrics]:
        """One update for each transition, in order; what is not valid changes nothing."""

        def visit(table, now):
            transition, reward = now
            pair = state_of(transition.observation), transition.action
            after = transition.next_observation
            following, mask = action_values(table, after), action_mask_of(after)
            error = self.target(reward, transition.terminated, following, following, mask) - table.values[pair]
            applied = transition.valid & jnp.isfinite(error)
            step = jnp.where(applied, self.step_size(table.visits[pair]), 0.0)
            values = table.values.at[pair].add(step * jnp.where(applied, error, 0.0))
            log_p = gibbs(table.values[pair[0]], self.temperature, where=action_mask_of(transition.observation))
            metrics = {
                "loss": 0.5 * error**2,
                "q": table.values[pair],
                "td_error": jnp.abs(error),
                "entropy": entropy(log_p),
                "applied": applied.astype(error.dtype),
            }
            return Table(values, table.visits.at[pair].add(applied.astype(jnp.int32))), metrics

        table, metrics = jax.lax.scan(visit, table, (transitions, rewards))
        return table, jax.tree.map(lambda x: jnp.mean(x, where=transitions.valid), metrics)

    def _fit(self, networks: Networks, collected: int, key: PRNGKeyArray, reward: Reward) -> tuple[Networks, Metrics]:
        """Batches for all updates are read at once, so that no inner loop carries the replay."""
        number = self._updates(collected)
        sampled = networks.replay.sample(key, number * self.batch_size)
        batches = jax.tree.map(
            lambda x: x.reshape(number, self.batch_size, *x.shape[1:]), (sampled, jax.vmap(reward)(sampled))
        )
        optimizer, target_rate = self._optimizer(), jnp.asarray(self.target_rate, jnp.float32)

        def improve(carry, batch):
            vector, target, optimizer_state = carry
            gradient, metrics = jax.grad(self._loss, has_aux=True)(vector, target, networks.online, *batch)
            vector, optimizer_state, applied = descend(optimizer, gradient, optimizer_state, vector)
            target = target + target_rate * (vector - target)
            return (vector, target, optimizer_state), {**metrics, "applied": applied.astype(jnp.float32)}

        carry = networks.online.vector, networks.target, networks.optimizer
        (vector, target, optimizer_state), metrics = jax.lax.scan(improve, carry, batches)
        networks = Networks(networks.online.with_vector(vector), target, optimizer_state, networks.replay)
        return networks, jax.tree.map(jnp.mean, metrics)

    def _loss(
        self, vector: Array, target: Array, online: FlatNetwork, batch: Transition, rewards: Float[Array, " batch"]
    ) -> tuple[Float[Array, ""], Metrics]:
        def values(vector, observations):
            return jax.vmap(online.with_vector(vector).network)(jax.vmap(as_features)(observations))

        following = values(target, batch.next_observation)
        own = values(jax.lax.stop_gradient(vector), batch.next_observation) if self.double else following
        y = self.target(rewards, batch.terminated, own, following, action_mask_of(batch.next_observation))
        q = values(vector, batch.observation)
        chosen = jnp.take_along_axis(q, batch.action[:, None], axis=1)[:, 0]
        error = chosen - y
        size = jnp.abs(error)
        each = 0.5 * error**2 if self.loss == "squared" else jnp.where(size < 1.0, 0.5 * error**2, size - 0.5)
        metrics = {
            "loss": jnp.mean(each),
            "q": jnp.mean(chosen),
            "td_error": jnp.mean(size),
            "entropy": jnp.mean(entropy(gibbs(q, self.temperature, where=action_mask_of(batch.observation)))),
        }
        return metrics["loss"], metrics

    def target(
        self,
        reward: Float[Array, "*batch"],
        terminated: Bool[Array, "*batch"],
        online: Values,
        target: Values,
        mask: Mask | None = None,
    ) -> Float[Array, "*batch"]:
        """`y`, given both networks' values of the next observation's actions, and which of these it offers."""
        if self.double:
            value = double_value(online, target, self.temperature, self.prior, mask)
        else:
            value = soft_value(target, self.temperature, self.prior, mask)
        return reward + jnp.asarray(self.discount, reward.dtype) * jnp.where(terminated, 0.0, value)

    def step_size(self, visits: Int[Array, "*batch"]) -> Float[Array, "*batch"]:
        """Of a table, for a pair updated `visits` times before."""
        discount, decay = jnp.asarray(self.discount, jnp.float32), jnp.asarray(self.step_decay, jnp.float32)
        return (1.0 + (1.0 - discount) * visits.astype(jnp.float32)) ** -decay

    def _epsilon(self, seen: Int[Array, ""]) -> Float[Array, ""]:
        start, end, steps = (
            jnp.asarray(number, jnp.float32) for number in (self.epsilon_start, self.epsilon_end, self.epsilon_steps)
        )
        learned = (seen - self.warm_up).astype(jnp.float32)
        share = jnp.clip(learned / jnp.maximum(steps, 1.0), 0.0, 1.0)
        return jnp.where(learned < 0.0, 1.0, start + share * (end - start))

    def _updates(self, collected: int) -> int:
        number = self.updates_per_step * collected
        if number < 1.0 or number != round(number):
            raise ValueError(
                f"{self.updates_per_step} updates for each of {collected} collected transitions are {number:g}: "
                "choose updates_per_step or rollout_steps so that this is a whole number, at least 1."
            )
        return round(number)

    def _optimizer(self):
        return adam(self.learning_rate, self.max_gradient_norm)


def dqn(**fields: Any) -> SoftQLearning:
    """The deep Q-network (Mnih et al. 2015): soft Q-learning at temperature 0, with uniform actions for exploration.

    With the double estimator (van Hasselt et al. 2016) and the squared loss; fields of `SoftQLearning` other than these
    defaults go in by name. Eight seeds of eight reached a return of 475 on CartPole within 26,000 steps; with
    `loss="huber"` or
    gradients cut to a norm of 10, as is common, values crept up too slowly or went too far, and most runs did not in
    40,000.
    """
    defaults = {
        "temperature": 0.0,
        "learning_rate": 1e-3,
        "target_rate": 0.02,
        "double": True,
        "capacity": 20_000,
        "epsilon_start": 1.0,
        "epsilon_end": 0.05,
        "epsilon_steps": 5_000,
    }
    return SoftQLearning(**{**defaults, **fields})
