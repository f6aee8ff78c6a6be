"""How a finite model is stored: a dense array, or lists of successors. Both hide behind `expect` and `push`.

Arrays lie action-first, `[A, S]`, and lists outcome-first, `[K, A, S]`, because inside a compiled sweep over actions
that order is several times faster; `TabularMDP` has the public order `[S, A]`.

Each pair's mean reward belongs to the problem. A model keeps only what is left of an outcome's reward, its deviation
from that mean, and only where outcomes differ: at risk 0 deviations cancel, so that `expect` is linear in the values
and `push` its transpose; at any other risk they count.
"""

import abc
from typing import NamedTuple

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

    @abc.abstractmethod
    def expect(self, values: Values, risk: Real = 0.0) -> Float[Array, "actions states"]:
        """`(1 / risk) log E exp(risk (deviation + V(s')))`, with `V = 0` after an ending; at risk 0 `E V(s')`."""

    @abc.abstractmethod
    def push(self, mass: PerPair, values: Values | None = None, risk: Real = 0.0) -> Float[Array, " states"]:
        """The mass that arrives in each state, `sum_{s,a} mass(s, a) p(s' | s, a)`, the transpose of `expect`.

        With values, under the tilted dynamics `p exp(risk (deviation + V)) / Z` of the same certainty equivalent.
        Mass that ends leaves; nothing is renormalized.
        """

    @abc.abstractmethod
    def push_log(self, log_mass: PerPair, risk: Real = 0.0) -> Float[Array, " states"]:
        """`log sum_{s,a} exp(log_mass + risk deviation) p(s' | s, a)`: a forward message, in logarithms."""

    @abc.abstractmethod
    def dense(self) -> Float[Array, "actions states successors"]:
        """Continuing probabilities as one array; for a look at small problems."""

    @abc.abstractmethod
    def law(self, state: int | Int[Array, ""], action: int | Int[Array, ""]) -> "Law":
        """All outcomes of one pair, for sampling."""

    @property
    @abc.abstractmethod
    def shape(self) -> tuple[int, int]:
        """Numbers of states and of actions."""

    @property
    @abc.abstractmethod
    def has_deviation(self) -> bool:
        """Whether rewards differ between the outcomes of some pair."""


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

    def expect(self, values, risk=0.0):
        values = jnp.asarray(values)

        def neutral(values, risk):
            return jnp.asarray(self.probability) @ values

        return _by_risk(neutral, lambda v, r: certainty_equivalent(*self._outcomes(v), r), values, risk)

    def push(self, mass, values=None, risk=0.0):
        mass, probability = jnp.asarray(mass), jnp.asarray(self.probability)

        def neutral(values, risk):
            return jnp.einsum("as,ast->t", mass, probability)

        def attracted(values, risk):
            law = jnp.exp(tilted(*self._outcomes(values), risk))
            return jnp.einsum("as,ast->t", mass, law[..., : probability.shape[-1]])

        return neutral(None, None) if values is None else _by_risk(neutral, attracted, jnp.asarray(values), risk)

    def push_log(self, log_mass, risk=0.0):
        log_joint = jnp.asarray(log_mass)[..., None] + jnp.log(jnp.asarray(self.probability))
        if self.deviation is not None:
            log_joint += risk * jnp.asarray(self.deviation)
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

    @property
    def shape(self):
        actions, states, _ = self.probability.shape
        return states, actions

    @property
    def has_deviation(self):
        return self.deviation is not None or (self.ending is not None and self.ending.deviation is not None)

    def _outcomes(self, values):
        """Values and log-probabilities `[A, S, S' + endings]` of everything that can happen."""
        log_p = jnp.log(jnp.asarray(self.probability))
        worth = jnp.broadcast_to(values[None, None, :], log_p.shape)
        worth = worth if self.deviation is None else worth + jnp.asarray(self.deviation)
        if self.ending is not None:
            end_log_p, end_worth = _ending_outcomes(self.ending)
            log_p = jnp.concatenate([log_p, jnp.moveaxis(end_log_p, 0, -1)], axis=-1)
            worth = jnp.concatenate([worth, jnp.moveaxis(end_worth, 0, -1)], axis=-1)
        return worth, log_p


class SuccessorModel(AbstractModel):
    """Lists of the states that can follow each pair: sparse, exact with repeated successors."""

    going_on: OutcomeLists
    ending: OutcomeLists | None

    def expect(self, values, risk=0.0):
        values = jnp.asarray(values)

        def neutral(values, risk):
            terms = (p * values[successor] for successor, p in self._slices())
            return sum(terms, start=jnp.zeros(self.going_on.successor.shape[1:], values.dtype))

        def attracted(values, risk):
            return certainty_equivalent(*self._outcomes(values), risk, axis=0)

        return _by_risk(neutral, attracted, values, risk)

    def push(self, mass, values=None, risk=0.0):
        mass = jnp.asarray(mass)
        lists, (states, _) = self.going_on, self.shape

        def scatter(law):
            arriving = jnp.zeros(states, mass.dtype)
            for k in range(lists.successor.shape[0]):
                arriving = arriving.at[jnp.asarray(lists.successor[k])].add(mass * law[k])
            return arriving

        def neutral(values, risk):
            return scatter(jnp.asarray(lists.probability))

        def attracted(values, risk):
            law = jnp.exp(tilted(*self._outcomes(values), risk, axis=0))
            return scatter(law[: lists.successor.shape[0]])

        return neutral(None, None) if values is None else _by_risk(neutral, attracted, jnp.asarray(values), risk)

    def push_log(self, log_mass, risk=0.0):
        lists, (states, _) = self.going_on, self.shape
        successor = jnp.asarray(lists.successor)
        log_joint = jnp.asarray(log_mass)[None] + jnp.log(jnp.asarray(lists.probability))
        if lists.deviation is not None:
            log_joint += risk * jnp.asarray(lists.deviation)
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

    @property
    def shape(self):
        _, actions, states = self.going_on.successor.shape
        return states, actions

    @property
    def has_deviation(self):
        ending = self.ending is not None and self.ending.deviation is not None
        return self.going_on.deviation is not None or ending

    def _slices(self):
        """Unrolled over outcomes: indexing one three-dimensional array at once is several times slower."""
        lists = self.going_on
        for k in range(lists.successor.shape[0]):
            yield jnp.asarray(lists.successor[k]), jnp.asarray(lists.probability[k])

    def _outcomes(self, values):
        lists = self.going_on
        log_p = jnp.log(jnp.asarray(lists.probability))
        worth = values[jnp.asarray(lists.successor)]
        worth = worth if lists.deviation is None else worth + jnp.asarray(lists.deviation)
        if self.ending is not None:
            end_log_p, end_worth = _ending_outcomes(self.ending)
            log_p, worth = jnp.concatenate([log_p, end_log_p]), jnp.concatenate([worth, end_worth])
        return worth, log_p


def _by_risk(neutral, attracted, values, risk):
    """The linear form at risk 0 (the common case, and much cheaper), the certainty equivalent otherwise."""
    if isinstance(risk, int | float) and risk == 0:
        return neutral(values, risk)
    risk = jnp.asarray(risk, values.dtype)
    return jax.lax.cond(risk == 0.0, neutral, attracted, values, risk)


def _ending_outcomes(ending: OutcomeLists):
    log_p = jnp.log(jnp.asarray(ending.probability))
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
