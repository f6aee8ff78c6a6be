"""A finite MDP whose transitions are unknown, solved exactly: the Bayes-adaptive MDP.

    V_t(n, s) = max_a sum_s' p(s') (r(s, a, s') + discount V_{t+1}(n + e_{s a s'}, s')),
    p(s') = n_{s a s'} / sum_k n_{s a k},      V_H(n, s) = terminal(s)

where every row (s, a) of the transitions has an independent `DirichletCategorical` belief with counts `n_{s a .}`: a
hyperstate is what has been counted, and an action is worth what it pays and what it teaches (Martin 1967; Duff 2002).
Hyperstates within the horizon are counted out: few states, few actions, short horizons. What has been seen since the
start says where one is, so that counts alone are the hyperstate.
"""

import functools
import math
from dataclasses import KW_ONLY
from typing import Any, NamedTuple

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from optimality.core.numerics import is_traced, require_range
from optimality.core.result import Result
from optimality.core.solve import AbstractDirect, Solution
from optimality.problems.criterion import Criterion, FiniteHorizon

_TIE = 1e-12


def _floats(value: Any) -> Any:
    return value if is_traced(value) else np.asarray(value, np.float64)


class BayesAdaptiveMDP(eqx.Module):
    """States, actions and rewards are known, where an action leads is not.

    A count of zero is an outcome that is known to be impossible; large counts are known transitions.
    """

    counts: Float[Array | np.ndarray, "states actions successors"] = eqx.field(converter=_floats)
    """Of the Dirichlet belief about each row of the transitions; ones are uniform."""
    reward: Float[Array | np.ndarray, "..."] = eqx.field(converter=_floats)
    """`[states]`, `[states, actions]` or `[states, actions, successors]`."""
    criterion: Criterion
    start: int = eqx.field(static=True, default=0)
    """The first state."""

    name = "bayes-adaptive-mdp"

    def __check_init__(self):
        shape = np.shape(self.counts)
        if len(shape) != 3 or shape[0] != shape[2] or min(shape) < 1:
            raise ValueError(
                f"counts must have shape [states, actions, states], but {shape} was given: for a uniform belief "
                f"np.ones((states, actions, states))."
            )
        if np.shape(self.reward) not in (shape[:1], shape[:2], shape):
            raise ValueError(
                f"reward must have shape {shape[:1]}, {shape[:2]} or {shape}, but {np.shape(self.reward)} was given."
            )
        require_range(self, 0.0, counts=self.counts)
        require_range(self, -np.inf, reward=self.reward)
        if not is_traced(self.counts) and np.any(np.sum(self.counts, axis=2) <= 0.0):
            s, a = np.argwhere(np.sum(self.counts, axis=2) <= 0.0)[0]
            raise ValueError(f"all counts of state {s}, action {a} are zero: where it leads needs a positive one.")
        if not isinstance(self.criterion, FiniteHorizon):
            raise ValueError(
                f"the criterion of a BayesAdaptiveMDP is FiniteHorizon(horizon), but {self.criterion} was given."
            )
        if np.shape(self.criterion.terminal_reward) not in ((), shape[:1]):
            raise ValueError(
                f"terminal_reward is a number or one for each of {shape[0]} states, but shape "
                f"{np.shape(self.criterion.terminal_reward)} was given."
            )
        if not 0 <= self.start < shape[0]:
            raise ValueError(f"start must be a state, 0 to {shape[0] - 1}, but {self.start} was given.")


class BayesAdaptivePolicy(eqx.Module):
    """The best action for every hyperstate within the horizon."""

    gains: Float[Array | np.ndarray, "hyperstates actions"]
    """Value of each action and going on optimally."""
    seen: Int[Array | np.ndarray, "hyperstates states actions successors"]
    """How often each transition was seen since the start."""

    def index(self, seen: Int[Array | np.ndarray, "states actions successors"]) -> Float[Array, " actions"]:
        """Values of the actions after these transitions; NaN where they cannot be, or the horizon has passed."""
        same = jnp.all(jnp.asarray(self.seen) == jnp.asarray(seen)[None], axis=(1, 2, 3))
        return jnp.where(jnp.any(same), jnp.asarray(self.gains)[jnp.argmax(same)], jnp.nan)

    def action(self, seen: Int[Array | np.ndarray, "states actions successors"]) -> Int[Array, ""]:
        """The best one, the first of equally good ones, -1 where `index` is NaN."""
        index = self.index(seen)
        return jnp.where(jnp.isnan(index[0]), -1, _first_best(index))


class BayesAdaptiveDetails(eqx.Module):
    """What `ExactBayesAdaptive` found beside value and policy."""

    first: Float[Array | np.ndarray, " actions"]
    """Value of each action as the first one."""
    certainty_equivalent: Float[Array | np.ndarray | np.generic, ""]
    """Expected under the belief, of the plan that is best for the mean transitions, followed whatever is seen."""
    learning: Float[Array | np.ndarray | np.generic, ""]
    """What more is had by learning: the difference of the value and that."""


class ExactBayesAdaptive(AbstractDirect[BayesAdaptiveMDP]):
    """The Bayes-optimal policy of a small MDP with unknown transitions."""

    _: KW_ONLY
    most_numbers: int = eqx.field(static=True, default=4_000_000)
    """Largest table of counts that is computed, in numbers: hyperstates times states^2 actions."""

    def check(self, problem: Any) -> None:
        if not isinstance(problem, BayesAdaptiveMDP):
            raise ValueError(
                f"ExactBayesAdaptive solves BayesAdaptiveMDP problems, but {type(problem).__name__} was given."
            )
        assert isinstance(problem.criterion, FiniteHorizon)
        states, actions, _ = problem.counts.shape
        horizon, most = problem.criterion.horizon, self.most_numbers // (states * actions * states)
        levels = _hyperstates(states, actions, horizon, problem.start, most)
        if len(levels) < horizon:
            bound = math.comb(horizon - 1 + states * actions * states, states * actions * states)
            raise ValueError(
                f"{states} states, {actions} actions and {horizon} steps have more than {most} hyperstates (up to "
                f"{bound:.2g}), which is what most_numbers={self.most_numbers} leaves room for: give "
                f"{f'at most {len(levels)} steps' if levels else 'fewer states'} or a larger most_numbers."
            )

    def compute(self, problem: BayesAdaptiveMDP, key=None) -> Solution:
        counts, criterion = jnp.asarray(problem.counts), problem.criterion
        assert isinstance(criterion, FiniteHorizon)
        states, actions, _ = counts.shape
        dtype, horizon = counts.dtype, criterion.horizon
        reward = jnp.asarray(problem.reward)
        reward = jnp.broadcast_to(reward.reshape(reward.shape + (1,) * (3 - reward.ndim)), counts.shape)
        discount = jnp.asarray(criterion.discount, dtype)
        terminal = jnp.broadcast_to(jnp.asarray(criterion.terminal_reward, dtype), (states,))
        levels = _hyperstates(states, actions, horizon, problem.start, self.most_numbers // (states * actions * states))
        plan = _plan(counts / jnp.sum(counts, axis=2, keepdims=True), reward, terminal, discount, horizon)

        value = fixed = terminal
        gains = []
        for time in range(horizon - 1, -1, -1):
            level = levels[time]
            row = counts[level.state] + level.row.astype(dtype)
            chance = row / jnp.sum(row, axis=2, keepdims=True)
            paid = jnp.sum(chance * reward[level.state], axis=2)
            ahead = level.successor if time < horizon - 1 else np.arange(states)[None, None]
            gain = paid + discount * jnp.sum(chance * value[ahead], axis=2)
            kept = paid + discount * jnp.sum(chance * fixed[ahead], axis=2)
            value = jnp.max(gain, axis=1)
            fixed = jnp.take_along_axis(kept, plan[time][level.state][:, None], axis=1)[:, 0]
            gains.append(gain)

        seen = np.concatenate([level.seen for level in levels[:horizon]])
        policy = BayesAdaptivePolicy(
            jnp.concatenate(gains[::-1]), jnp.asarray(seen.reshape(-1, states, actions, states), jnp.int32)
        )
        details = BayesAdaptiveDetails(gains[-1][0], fixed[0], value[0] - fixed[0])
        finite = jnp.isfinite(value[0])
        result = jnp.where(finite, Result.CONVERGED, Result.NON_FINITE).astype(jnp.int32)
        return Solution(value[0], policy, result, {"hyperstates": seen.shape[0]}, details)


class _Level(NamedTuple):
    """Hyperstates after some number of steps."""

    seen: np.ndarray
    """Of every transition, `[hyperstates, states * actions * states]`."""
    state: np.ndarray
    """Where one is."""
    row: np.ndarray
    """What was seen from there, `[hyperstates, actions, successors]`."""
    successor: np.ndarray
    """Hyperstates of the next level, in the same order."""


@functools.lru_cache(maxsize=4)
def _hyperstates(states: int, actions: int, horizon: int, start: int, most: int) -> tuple[_Level, ...]:
    """Levels 0, ..., horizon - 1, or fewer where there would be more than `most` hyperstates in all."""
    width = states * actions * states
    seen, state = np.zeros((1, width), np.uint8 if horizon < 256 else np.uint16), np.array([start])
    levels, total = [], 0
    while len(levels) < horizon and total + state.size <= most:
        total += state.size
        here = np.arange(state.size)
        row = seen.reshape(-1, states, actions, states)[here, state]
        if len(levels) == horizon - 1 or total >= most:
            levels.append(_Level(seen, state, row, np.empty(0, np.int32)))
            break
        ahead = np.repeat(seen, actions * states, axis=0)
        moves = (state[:, None] * actions * states + np.arange(actions * states)).reshape(-1)
        ahead[np.arange(moves.size), moves] += 1
        _, first, where = np.unique(
            ahead.view(np.dtype((np.void, ahead.dtype.itemsize * width)))[:, 0], return_index=True, return_inverse=True
        )
        levels.append(_Level(seen, state, row, where.reshape(-1, actions, states).astype(np.int32)))
        seen, state = ahead[first], moves[first] % states
    return tuple(levels)


def _plan(transition: Array, reward: Array, terminal: Array, discount: Array, horizon: int) -> list[Array]:
    """The best actions for known transitions, at every time and state."""
    value, actions = terminal, []
    for _ in range(horizon):
        gain = jnp.sum(transition * (reward + discount * value[None, None]), axis=2)
        value = jnp.max(gain, axis=1)
        actions.append(_first_best(gain))
    return actions[::-1]


def _first_best(gain: Float[Array, "*batch actions"]) -> Int[Array, "*batch"]:
    """Of each row; what is equal up to rounding counts as equal."""
    best = jnp.max(gain, axis=-1, keepdims=True)
    tolerance = max(_TIE, 8.0 * float(jnp.finfo(gain.dtype).eps))
    return jnp.argmax(gain >= best - tolerance * jnp.abs(best), axis=-1)
