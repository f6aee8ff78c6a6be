"""Probes: the smallest environments whose values are known, each for one thing that a learner can get wrong.

| probe | what must work |
| --- | --- |
| `ConstantReward` | the value is fitted at all |
| `ObservationReward` | the value depends on the observation |
| `DelayedReward` | a value is carried back one step, and discounted |
| `EndlessReward` | a time limit is no termination: the value is 1 / (1 - discount), not less |
| `ActionReward` | the policy improves |
| `ActionObservationReward` | the policy depends on the observation |

After Andy Jones, "Debugging RL, without the agonizing pain" (2021); the time limit by us. Observations are one number
each. `continuous=True` gives one action in [-1, 1] instead of discrete ones. `value` is exact, in the entropy form:
`temperature log sum_a exp(Q / temperature)`, the sum an integral over [-1, 1] for continuous actions; at temperature 0
the best return.
"""

import math
from dataclasses import KW_ONLY

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from gymnasium import spaces
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from optimality.core.numerics import Real
from optimality.environments.abstract import AbstractEnvironment

State = Float[Array, "1"]
Action = Int[Array, ""] | Float[Array, "1"] | int
Probed = tuple[State, State, Float[Array, ""], Bool[Array, ""], Bool[Array, ""]]


class ConstantReward(AbstractEnvironment):
    """One step, observation 0, reward 1."""

    _: KW_ONLY
    continuous: bool = eqx.field(static=True, default=False)
    """One action in [-1, 1], which does not matter."""

    def reset(self, key: PRNGKeyArray) -> tuple[State, State]:
        return _zero()

    def step(self, key: PRNGKeyArray, state: State, action: Action) -> Probed:
        return _moved(state, jnp.ones((), state.dtype), True)

    def value(self, *, temperature: float = 0.0) -> float:
        """1; continuous: `+ temperature log 2`, the entropy of the uniform density on [-1, 1]."""
        return 1.0 + _idle_entropy(self.continuous, temperature)

    @property
    def observation_space(self) -> spaces.Box:
        return _observations()

    @property
    def action_space(self) -> spaces.Space:
        return _actions(self.continuous, 1)

    @property
    def time_limit(self) -> int:
        return 1

    def action_mask(self, state: State) -> None:
        return None


class ObservationReward(AbstractEnvironment):
    """One step, observation -1 or 1 with equal chances, the reward is the observation."""

    _: KW_ONLY
    continuous: bool = eqx.field(static=True, default=False)
    """One action in [-1, 1], which does not matter."""

    def reset(self, key: PRNGKeyArray) -> tuple[State, State]:
        return _sign(key)

    def step(self, key: PRNGKeyArray, state: State, action: Action) -> Probed:
        return _moved(state, state[0], True)

    def value(self, observation: float, *, temperature: float = 0.0) -> float:
        """The observation; continuous: `+ temperature log 2`."""
        return float(observation) + _idle_entropy(self.continuous, temperature)

    @property
    def observation_space(self) -> spaces.Box:
        return _observations()

    @property
    def action_space(self) -> spaces.Space:
        return _actions(self.continuous, 1)

    @property
    def time_limit(self) -> int:
        return 1

    def action_mask(self, state: State) -> None:
        return None


class DelayedReward(AbstractEnvironment):
    """Two steps, observation 0 and then 1; reward 0 and then 1."""

    _: KW_ONLY
    continuous: bool = eqx.field(static=True, default=False)
    """One action in [-1, 1], which does not matter."""

    def reset(self, key: PRNGKeyArray) -> tuple[State, State]:
        return _zero()

    def step(self, key: PRNGKeyArray, state: State, action: Action) -> Probed:
        return _moved(jnp.ones_like(state), state[0], state[0] == 1.0)

    def value(self, observation: float, discount: float, *, temperature: float = 0.0) -> float:
        """At observation 1 the reward 1, at observation 0 `discount` times as much, each with the step's entropy."""
        entropy = _idle_entropy(self.continuous, temperature)
        last = 1.0 + entropy
        return last if observation == 1.0 else entropy + discount * last

    @property
    def observation_space(self) -> spaces.Box:
        return _observations()

    @property
    def action_space(self) -> spaces.Space:
        return _actions(self.continuous, 1)

    @property
    def time_limit(self) -> int:
        return 2

    def action_mask(self, state: State) -> None:
        return None


class EndlessReward(AbstractEnvironment):
    """Observation 0 and reward 1 for ever; only shown for as long as a `TimeLimit` around it allows."""

    _: KW_ONLY
    continuous: bool = eqx.field(static=True, default=False)
    """One action in [-1, 1], which does not matter."""

    def reset(self, key: PRNGKeyArray) -> tuple[State, State]:
        return _zero()

    def step(self, key: PRNGKeyArray, state: State, action: Action) -> Probed:
        return _moved(state, jnp.ones((), state.dtype), False)

    def value(self, discount: float, *, temperature: float = 0.0) -> float:
        """`1 / (1 - discount)`, whatever the time limit; with the entropy of every step."""
        return (1.0 + _idle_entropy(self.continuous, temperature)) / (1.0 - discount)

    @property
    def observation_space(self) -> spaces.Box:
        return _observations()

    @property
    def action_space(self) -> spaces.Space:
        return _actions(self.continuous, 1)

    @property
    def time_limit(self) -> None:
        return None

    def action_mask(self, state: State) -> None:
        return None


class ActionReward(AbstractEnvironment):
    """One step, observation 0. Discrete: reward -1 for action 0 and 1 for action 1. Continuous:
    `-(action - target)^2`."""

    _: KW_ONLY
    continuous: bool = eqx.field(static=True, default=False)
    """One action in [-1, 1] instead of two."""
    target: Real = 0.5
    """Best continuous action, in [-1, 1]."""

    def reset(self, key: PRNGKeyArray) -> tuple[State, State]:
        return _zero()

    def step(self, key: PRNGKeyArray, state: State, action: Action) -> Probed:
        if self.continuous:
            return _moved(state, _miss(state, action, jnp.asarray(self.target, state.dtype)), True)
        return _moved(state, 2.0 * jnp.asarray(action, state.dtype) - 1.0, True)

    def value(self, *, temperature: float = 0.0) -> float:
        """Discrete: 1, softly `temperature log(2 cosh(1 / temperature))`. Continuous: 0, softly `_quadratic`."""
        if self.continuous:
            return _quadratic(float(self.target), temperature)
        return _soft_sign(temperature)

    @property
    def observation_space(self) -> spaces.Box:
        return _observations()

    @property
    def action_space(self) -> spaces.Space:
        return _actions(self.continuous, 2)

    @property
    def time_limit(self) -> int:
        return 1

    def action_mask(self, state: State) -> None:
        return None


class ActionObservationReward(AbstractEnvironment):
    """One step, observation -1 or 1 with equal chances. Discrete: reward 1 where action 1 meets 1 or action 0 meets -1,
    else -1. Continuous: `-(action - scale observation)^2`."""

    _: KW_ONLY
    continuous: bool = eqx.field(static=True, default=False)
    """One action in [-1, 1] instead of two."""
    scale: Real = 0.5
    """Best continuous action where the observation is 1, in [-1, 1]."""

    def reset(self, key: PRNGKeyArray) -> tuple[State, State]:
        return _sign(key)

    def step(self, key: PRNGKeyArray, state: State, action: Action) -> Probed:
        if self.continuous:
            return _moved(state, _miss(state, action, jnp.asarray(self.scale, state.dtype) * state[0]), True)
        return _moved(state, (2.0 * jnp.asarray(action, state.dtype) - 1.0) * state[0], True)

    def value(self, observation: float, *, temperature: float = 0.0) -> float:
        """As of `ActionReward`, at either observation."""
        if self.continuous:
            return _quadratic(float(self.scale) * float(observation), temperature)
        return _soft_sign(temperature)

    @property
    def observation_space(self) -> spaces.Box:
        return _observations()

    @property
    def action_space(self) -> spaces.Space:
        return _actions(self.continuous, 2)

    @property
    def time_limit(self) -> int:
        return 1

    def action_mask(self, state: State) -> None:
        return None


def _zero() -> tuple[State, State]:
    return jnp.zeros(1, jnp.float32), jnp.zeros(1, jnp.float32)


def _sign(key: PRNGKeyArray) -> tuple[State, State]:
    state = jax.random.rademacher(key, (1,), jnp.float32)
    return state, state


def _moved(state: State, reward: Float[Array, ""], terminated: bool | Bool[Array, ""]) -> Probed:
    return state, state, reward, jnp.asarray(terminated), jnp.zeros((), bool)


def _miss(state: State, action: Action, target: Float[Array, ""]) -> Float[Array, ""]:
    return -((jnp.asarray(action, state.dtype)[0] - target) ** 2)


def _observations() -> spaces.Box:
    return spaces.Box(-1.0, 1.0, (1,), np.float32)


def _actions(continuous: bool, number: int) -> spaces.Space:
    return spaces.Box(-1.0, 1.0, (1,), np.float32) if continuous else spaces.Discrete(number)


def _idle_entropy(continuous: bool, temperature: float) -> float:
    return temperature * math.log(2.0) if continuous else 0.0


def _soft_sign(temperature: float) -> float:
    """`temperature log(exp(1 / temperature) + exp(-1 / temperature))`, without overflow."""
    return 1.0 if temperature == 0.0 else 1.0 + temperature * math.log1p(math.exp(-2.0 / temperature))


def _quadratic(target: float, temperature: float) -> float:
    """`temperature log int_{-1}^{1} exp(-(a - target)^2 / temperature) da`, a difference of error functions."""
    if temperature == 0.0:
        return 0.0
    width = math.sqrt(temperature)
    mass = math.erf((1.0 - target) / width) + math.erf((1.0 + target) / width)
    return temperature * math.log(math.sqrt(math.pi) * width / 2.0 * mass)
