"""How a finite model is stored: a dense array, or lists of successors. Both hide behind `expect` and `push`.

Arrays lie action-first, `[A, S]`, and lists outcome-first, `[K, A, S]`, because inside a compiled sweep over actions
that order is several times faster; `TabularMDP` has the public order `[S, A]`.

Each pair's mean reward belongs to the problem. A model keeps only what is left of an outcome's reward, its deviation
from that mean, and only where outcomes differ: at risk 0 deviations cancel, so that `expect` is linear in the values
and `push` its transpose; at any other risk they count.
"""

import abc
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from optimality.core.gibbs import certainty_equivalent, tilted
from optimality.core.numerics import Real

Values = Float[Array, " states"] | Float[np.ndarray, " states"]
PerPair = Float[Array, "actions states"] | Float[np.ndarray, "actions states"]


class OutcomeLists(eqx.Module):
    """Outcomes of each pair, padded with probability 0: successor, probability, deviation of the reward."""

    successor: Int[Array | np.ndarray, "outcomes actions states"]
    probability: Float[Array | np.ndarray, "outcomes actions states"]
    deviation: Float[Array | np.ndarray, "outcomes actions states"] | None


class AbstractModel(eqx.Module):
    """Continuing transitions in some form, and `ending`: the outcomes after which the episode is over."""

    ending: eqx.AbstractVar[OutcomeLists | None]

    def expect(self, values: Values, risk: Real = 0.0) -> Float[Array, "actions states"]:
        """`(1 / risk) log E exp(risk (deviation + V(s')))`, with `V = 0` after an ending; at risk 0 `E V(s')`."""
        values = jnp.asarray(values)
        if isinstance(risk, int | float) and risk == 0:
            return self.expect_linear(values)
        risk = jnp.asarray(risk, values.dtype)
        return jax.lax.switch(
            self._regime(values, risk), (_neutral_expect, _near_expect, _far_expect), self, values, risk
        )

    def push(self, mass: PerPair, values: Values | None = None, risk: Real = 0.0) -> Float[Array, " states"]:
        """The mass that arrives in each state, `sum_{s,a} mass(s, a) p(s' | s, a)`, the transpose of `expect`.

        With values, under the tilted dynamics `p exp(risk (deviation + V)) / Z` of the same certainty equivalent.
        Mass that ends leaves; nothing is renormalized.
        """
        mass = jnp.asarray(mass)
        if values is None or (isinstance(risk, int | float) and risk == 0):
            return self.push_linear(mass)
        values, risk = jnp.asarray(values), jnp.asarray(risk, mass.dtype)
        branches = (_neutral_push, _near_push, _far_push)
        return jax.lax.switch(self._regime(values, risk), branches, self, mass, values, risk)

    def _regime(self, values, risk) -> Int[Array, ""]:
        """0: no risk. 1: exponents of this span neither overflow nor cancel, so that one exponential a state and a
        linear pass do. 2: one exponential an outcome."""
        span = jnp.abs(risk) * (jnp.maximum(jnp.max(values), 0.0) - jnp.minimum(jnp.min(values), 0.0))
        limits = jnp.finfo(values.dtype)
        near = (span < 0.8 * jnp.log(limits.max)) & (span > limits.eps ** (1 / 3))
        far_or_near = jnp.where(near & (not self.has_deviation), 1, 2)
        return jnp.where(risk == 0.0, 0, far_or_near).astype(jnp.int32)

    @abc.abstractmethod
    def expect_linear(self, values: Float[Array, " states"]) -> Float[Array, "actions states"]:
        """`sum_{s'} p(s' | s, a) V(s')` over what goes on."""

    @abc.abstractmethod
    def push_linear(self, mass: Float[Array, "actions states"]) -> Float[Array, " states"]:
        """`sum_{s,a} mass(s, a) p(s' | s, a)` over what goes on."""

    @abc.abstractmethod
    def outcomes(self, values: Float[Array, " states"]) -> tuple[Array, Array, int]:
        """Worth and log-probability of everything that can happen, and the axis of outcomes; endings come last."""

    @abc.abstractmethod
    def push_law(self, mass: Float[Array, "actions states"], law: Array) -> Float[Array, " states"]:
        """`push_linear` with other probabilities, in the order of `outcomes`."""

    @abc.abstractmethod
    def push_log(self, log_mass: PerPair, risk: Real = 0.0) -> Float[Array, " states"]:
        """`log sum_{s,a} exp(log_mass + risk deviation) p(s' | s, a)`: a forward message, in logarithms."""

    @abc.abstractmethod
    def dense(self) -> Float[Array, "actions states successors"]:
        """Continuing probabilities as one array; for a look at small problems."""

    @abc.abstractmethod
    def law(self, state: int | Int[Array, ""], action: int | Int[Array, ""]) -> "Law":
        """All outcomes of one pair, for sampling."""

    @abc.abstractmethod
    def under(self, action: int | Int[Array, ""]) -> "AbstractModel":
        """The model with that action alone, which may be traced: for filters, where the actions are known."""

    @property
    @abc.abstractmethod
    def shape(self) -> tuple[int, int]:
        """Numbers of states and of actions."""

    @property
    @abc.abstractmethod
    def has_deviation(self) -> bool:
        """Whether rewards differ between the outcomes of some pair."""


def _neutral_expect(model, values, risk):
    return model.expect_linear(values)


def _near_expect(model, values, risk):
    extreme, ended = _extreme(model, values, risk), _ended(model, values.dtype)
    exponents = risk * (values - extreme)
    fraction = model.expect_linear(jnp.expm1(exponents)) + ended * jnp.expm1(-risk * extreme)
    small = fraction > -0.5
    total = model.expect_linear(jnp.exp(exponents)) + ended * jnp.exp(-risk * extreme)
    log_sum = jnp.where(small, jnp.log1p(jnp.where(small, fraction, 0.0)), jnp.log(jnp.where(small, 1.0, total)))
    return extreme + log_sum / risk


def _far_expect(model, values, risk):
    worth, log_p, axis = model.outcomes(values)
    return certainty_equivalent(worth, log_p, risk, axis=axis)


def _neutral_push(model, mass, values, risk):
    return model.push_linear(mass)


def _near_push(model, mass, values, risk):
    extreme = _extreme(model, values, risk)
    weight = jnp.exp(risk * (values - extreme))
    total = model.expect_linear(weight) + _ended(model, values.dtype) * jnp.exp(-risk * extreme)
    return weight * model.push_linear(mass / jnp.where(total > 0.0, total, 1.0))


def _far_push(model, mass, values, risk):
    worth, log_p, axis = model.outcomes(values)
    return model.push_law(mass, jnp.exp(tilted(worth, log_p, risk, axis=axis)))


def _extreme(model, values, risk):
    """The value with the largest exponent, 0 included where episodes can end."""
    largest, smallest = jnp.max(values), jnp.min(values)
    if model.ending is not None:
        largest, smallest = jnp.maximum(largest, 0.0), jnp.minimum(smallest, 0.0)
    return jax.lax.stop_gradient(jnp.where(risk > 0.0, largest, smallest))


def _ended(model, dtype):
    """Probability of each pair to end."""
    if model.ending is None:
        return jnp.zeros((), dtype)
    return jnp.sum(jnp.asarray(model.ending.probability), axis=0)


class Law(NamedTuple):
    successor: Int[Array, " outcomes"]
    probability: Float[Array, " outcomes"]
    deviation: Float[Array, " outcomes"]
    terminated: Array


class DenseModel(AbstractModel):
    """`probability[a, s, s']` of going on, as one array."""

    probability: Float[Array | np.ndarray, "actions states successors"]
    deviation: Float[Array | np.ndarray, "actions states successors"] | None
    ending: OutcomeLists | None

    def expect_linear(self, values):
        return jnp.asarray(self.probability) @ values

    def push_linear(self, mass):
        return jnp.einsum("as,ast->t", mass, jnp.asarray(self.probability))

    def push_law(self, mass, law):
        return jnp.einsum("as,ast->t", mass, law[..., : law.shape[1]])

    def push_log(self, log_mass, risk=0.0):
        log_joint = jnp.asarray(log_mass)[..., None] + _log(self.probability)
        if self.deviation is not None:
            log_joint += jnp.asarray(risk, log_joint.dtype) * jnp.asarray(self.deviation)
        return jax.nn.logsumexp(log_joint, axis=(0, 1))

    def dense(self):
        return jnp.asarray(self.probability)

    def law(self, state, action):
        probability = jnp.asarray(self.probability)[action, state]
        no_deviation = jnp.zeros_like(probability)
        deviation = no_deviation if self.deviation is None else jnp.asarray(self.deviation)[action, state]
        return _with_ending(
            jnp.arange(probability.size, dtype=jnp.int32), probability, deviation, self.ending, state, action
        )

    def under(self, action):
        probability, deviation = jax.tree.map(
            lambda a: jnp.asarray(a)[action][None], (self.probability, self.deviation)
        )
        return DenseModel(probability, deviation, _of_action(self.ending, action))

    @property
    def shape(self):
        actions, states, _ = self.probability.shape
        return states, actions

    @property
    def has_deviation(self):
        return self.deviation is not None or (self.ending is not None and self.ending.deviation is not None)

    def outcomes(self, values):
        log_p = _log(self.probability)
        worth = jnp.broadcast_to(values[None, None, :], log_p.shape)
        worth = worth if self.deviation is None else worth + jnp.asarray(self.deviation)
        if self.ending is not None:
            end_log_p, end_worth = _ending_outcomes(self.ending)
            log_p = jnp.concatenate([log_p, jnp.moveaxis(end_log_p, 0, -1)], axis=-1)
            worth = jnp.concatenate([worth, jnp.moveaxis(end_worth, 0, -1)], axis=-1)
        return worth, log_p, -1


class SuccessorModel(AbstractModel):
    """Lists of the states that can follow each pair: sparse, exact with repeated successors."""

    going_on: OutcomeLists
    ending: OutcomeLists | None

    def expect_linear(self, values):
        lists = self.going_on
        expected = jnp.zeros(lists.successor.shape[1:], values.dtype)
        for k in range(lists.successor.shape[0]):  # unrolled: indexing three dimensions at once is several times slower
            expected += jnp.asarray(lists.probability[k]) * values[jnp.asarray(lists.successor[k])]
        return expected

    def push_linear(self, mass):
        return self.push_law(mass, jnp.asarray(self.going_on.probability))

    def push_law(self, mass, law):
        arriving = jnp.zeros(self.shape[0], mass.dtype)
        for k in range(self.going_on.successor.shape[0]):
            arriving = arriving.at[jnp.asarray(self.going_on.successor[k])].add(mass * law[k])
        return arriving

    def push_log(self, log_mass, risk=0.0):
        lists, (states, _) = self.going_on, self.shape
        successor = jnp.asarray(lists.successor)
        log_joint = jnp.asarray(log_mass)[None] + _log(lists.probability)
        if lists.deviation is not None:
            log_joint += jnp.asarray(risk, log_joint.dtype) * jnp.asarray(lists.deviation)
        top = jnp.full(states, -jnp.inf, log_joint.dtype).at[successor].max(log_joint)
        top = jax.lax.stop_gradient(jnp.where(jnp.isneginf(top), 0.0, top))
        total = jnp.zeros(states, log_joint.dtype).at[successor].add(jnp.exp(log_joint - top[successor]))
        return top + jnp.log(total)

    def dense(self):
        states, actions = self.shape
        lists = self.going_on
        action, state = jnp.meshgrid(jnp.arange(actions), jnp.arange(states), indexing="ij")
        array = jnp.zeros((actions, states, states), jnp.asarray(lists.probability).dtype)
        for k in range(lists.successor.shape[0]):
            array = array.at[action, state, jnp.asarray(lists.successor[k])].add(jnp.asarray(lists.probability[k]))
        return array

    def law(self, state, action):
        lists = self.going_on
        probability = jnp.asarray(lists.probability)[:, action, state]
        no_deviation = jnp.zeros_like(probability)
        deviation = no_deviation if lists.deviation is None else jnp.asarray(lists.deviation)[:, action, state]
        successor = jnp.asarray(lists.successor)[:, action, state]
        return _with_ending(successor, probability, deviation, self.ending, state, action)

    def under(self, action):
        return SuccessorModel(_of_action(self.going_on, action), _of_action(self.ending, action))

    @property
    def shape(self):
        _, actions, states = self.going_on.successor.shape
        return states, actions

    @property
    def has_deviation(self):
        ending = self.ending is not None and self.ending.deviation is not None
        return self.going_on.deviation is not None or ending

    def outcomes(self, values):
        lists = self.going_on
        log_p = _log(lists.probability)
        worth = values[jnp.asarray(lists.successor)]
        worth = worth if lists.deviation is None else worth + jnp.asarray(lists.deviation)
        if self.ending is not None:
            end_log_p, end_worth = _ending_outcomes(self.ending)
            log_p, worth = jnp.concatenate([log_p, end_log_p]), jnp.concatenate([worth, end_worth])
        return worth, log_p, 0


def _of_action(lists: Any, action) -> Any:
    return jax.tree.map(lambda leaf: jnp.asarray(leaf)[:, action][:, None], lists)


def _log(probability) -> Array:
    """`-inf` at 0, with derivative 0 there instead of infinity times nothing."""
    probability = jnp.asarray(probability)
    possible = probability > 0.0
    return jnp.where(possible, jnp.log(jnp.where(possible, probability, 1.0)), -jnp.inf)


def _ending_outcomes(ending: OutcomeLists):
    log_p = _log(ending.probability)
    return log_p, jnp.zeros_like(log_p) if ending.deviation is None else jnp.asarray(ending.deviation)


def _with_ending(successor, probability, deviation, ending, state, action) -> Law:
    terminated = jnp.zeros(successor.shape, bool)
    if ending is None:
        return Law(successor, probability, deviation, terminated)
    end_probability = jnp.asarray(ending.probability)[:, action, state]
    no_deviation = jnp.zeros_like(end_probability)
    end_deviation = no_deviation if ending.deviation is None else jnp.asarray(ending.deviation)[:, action, state]
    return Law(
        jnp.concatenate([successor, jnp.asarray(ending.successor)[:, action, state]]),
        jnp.concatenate([probability, end_probability]),
        jnp.concatenate([deviation, end_deviation]),
        jnp.concatenate([terminated, jnp.ones(end_probability.shape, bool)]),
    )
