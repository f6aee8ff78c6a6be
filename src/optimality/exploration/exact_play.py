"""The Bayes-optimal decision to play on or to stop, exactly: an index for every number of games played.

Play on after n games iff `omega_n / eta_n >= K rho_n`, where `omega_n` and `eta_n` are the rates of the two beliefs
(what was earned and how long it took, with the prior's shares) and `rho_n` a table of constants: `play_index` has the
equations. With a deadline the constants depend on the share of the time that is left: `play_deadline`.
"""

from dataclasses import KW_ONLY
from typing import Any, NamedTuple

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from optimality.beliefs import GammaExponential, GammaKnownShape
from optimality.core.numerics import Real, is_traced, require_range
from optimality.core.result import Result
from optimality.core.solve import AbstractDirect, Solution
from optimality.exploration.play_criteria import PlayCriteria, play_criteria, ratio_of_means
from optimality.exploration.play_deadline import games_needed, plan_deadline
from optimality.exploration.play_index import GRID, PlayIndex, Posterior, interpolate, play_index
from optimality.exploration.play_or_not import Deadline, PlayOrNot
from optimality.problems.criterion import Discounted, FiniteHorizon

_Numbers = Float[Array | np.ndarray | np.generic, "..."]


class PlayPolicy(eqx.Module):
    """Plays on while `omega / (K eta)` is at least the threshold of the number of games played."""

    thresholds: _Numbers
    """Of rho after 0, 1, ... games; infinite where playing never pays, zero where it always does."""
    omega: _Numbers
    eta: _Numbers
    rate: _Numbers
    endless: bool = eqx.field(static=True, default=False)
    """Whether there are games beyond the table; the last threshold then goes on."""

    def plays(self, games: Any, total_reward: Any, total_time: Any) -> Bool[Array, "..."]:
        """Whether to play once more after `games` that earned and took so much together."""
        return jnp.asarray(self.rate) <= self.break_even(games, total_reward, total_time)

    def break_even(self, games: Any, total_reward: Any, total_time: Any) -> Float[Array, "..."]:
        """The rate of an opportunity that is worth as much as playing on."""
        thresholds = jnp.asarray(self.thresholds)
        count = jnp.asarray(games)
        threshold = thresholds[jnp.minimum(count, thresholds.shape[0] - 1)]
        if not self.endless:
            threshold = jnp.where(count < thresholds.shape[0], threshold, jnp.inf)
        earned = jnp.asarray(self.omega) + jnp.asarray(total_reward, thresholds.dtype)
        return earned / (jnp.asarray(self.eta) + jnp.asarray(total_time, thresholds.dtype)) / threshold


class DeadlinePolicy(eqx.Module):
    """The same with a deadline: the threshold depends on the time that is left as well."""

    thresholds: _Numbers
    """Of `log(omega / (K end))` after 0, 1, ... games at the nodes of `times`, `[games, times]`."""
    times: _Numbers
    """Nodes of `log(end / eta)`, from 0 at the deadline."""
    omega: _Numbers
    eta: _Numbers
    rate: _Numbers
    end: _Numbers
    """`eta` and the duration."""

    def plays(self, games: Any, total_reward: Any, total_time: Any) -> Bool[Array, "..."]:
        """Whether to play once more after `games` that earned and took so much together; never after the deadline."""
        return jnp.asarray(self.rate) <= self.break_even(games, total_reward, total_time)

    def break_even(self, games: Any, total_reward: Any, total_time: Any) -> Float[Array, "..."]:
        """The rate of an opportunity that is worth as much as playing on, 0 after the deadline."""
        thresholds, times, end = jnp.asarray(self.thresholds), jnp.asarray(self.times), jnp.asarray(self.end)
        left = jnp.log(end / (jnp.asarray(self.eta) + jnp.asarray(total_time, end.dtype)))
        place = jnp.clip(left / (times[1] - times[0]), 0.0, times.shape[0] - 1.0)
        node = jnp.minimum(jnp.floor(place).astype(jnp.int32), times.shape[0] - 2)
        share = place - node.astype(place.dtype)
        row = jnp.minimum(jnp.asarray(games), thresholds.shape[0] - 1)
        threshold = (1.0 - share) * thresholds[row, node] + share * thresholds[row, node + 1]
        earned = jnp.asarray(self.omega) + jnp.asarray(total_reward, end.dtype)
        return jnp.where(left > 0.0, earned / end * jnp.exp(-threshold), 0.0)


class PlayDetails(eqx.Module):
    """What `ExactPlayOrNot` found beside value and policy."""

    play: Bool[Array | np.ndarray | np.generic, ""]
    """The decision now."""
    break_even: _Numbers
    """The largest rate of the opportunity at which one plays now, K*."""
    myopic_break_even: _Numbers
    """The same for a single game, `E r / E t`."""
    bonus: _Numbers
    """Their ratio: by how much the opportunity may beat a single game, and playing to learn is still right."""
    commitment: _Numbers
    """What playing all games whatever happens is worth: against the opportunity, or with a deadline by itself."""
    games: Int[Array | np.ndarray | np.generic, ""]
    """How many were planned exactly."""
    problem: PlayOrNot
    level: _Numbers
    risk: _Numbers

    @property
    def criteria(self) -> PlayCriteria:
        """Every criterion, computed on demand: they depend on no horizon, and the policy not on them."""
        problem = self.problem
        return play_criteria(problem.rewards, problem.times, problem.rate, level=self.level, risk=self.risk)


class Opening(NamedTuple):
    """What a table of thresholds says before the first game."""

    value: Float[Array, ""]
    threshold: Float[Array, ""]
    break_even: Float[Array, ""]
    commitment: Float[Array, ""]


def existing(rewards: GammaKnownShape, times: GammaExponential) -> tuple[Posterior, Bool[Array, ""], Bool[Array, ""]]:
    """The shapes, with another number where a mean does not exist, and whether that of rewards and of times is so."""
    alpha, epsilon, theta = (jnp.asarray(p) for p in (rewards.outcome_shape, rewards.shape, times.shape))
    endless_reward, endless_time = epsilon <= 1.0, theta <= 1.0
    shapes = Posterior(alpha, jnp.where(endless_reward, 2.0, epsilon), jnp.where(endless_time, 2.0, theta))
    return shapes, endless_reward, endless_time


def opening(problem: PlayOrNot, index: PlayIndex) -> Opening:
    """Value and decision now, infinite or zero where a mean does not exist."""
    shapes, endless_reward, endless_time = existing(problem.rewards, problem.times)
    omega, eta, rate = (jnp.asarray(p) for p in (problem.rewards.rate, problem.times.rate, problem.rate))
    a, b = shapes.alpha / (shapes.epsilon - 1.0), 1.0 / (shapes.theta - 1.0)
    rho = omega / (rate * eta)
    commitment = rate * eta * index.total * (a * rho - b)
    value = jnp.maximum(0.0, commitment + rate * eta * b * interpolate(index.nodes, index.option, jnp.log(rho)))
    first = jnp.where(endless_time, jnp.inf, jnp.where(endless_reward, 0.0, index.thresholds[0]))
    return Opening(
        value=jnp.where(endless_time, 0.0, jnp.where(endless_reward, jnp.inf, value)),
        threshold=first,
        break_even=omega / eta / first,
        commitment=jnp.where(endless_time, -jnp.inf, jnp.where(endless_reward, jnp.inf, commitment)),
    )


class ExactPlayOrNot(AbstractDirect[PlayOrNot]):
    """The best policy of playing and stopping under the belief, with every criterion beside it."""

    _: KW_ONLY
    grid: int = eqx.field(static=True, default=GRID)
    """Nodes in the logarithm of rho, a power of two; at 8,192 values are right to about nine digits."""
    most_games: int = eqx.field(static=True, default=2000)
    """Without a number of games, how many are planned exactly at most; then one commits or stops."""
    truncation: Real = 1e-8
    """Without a number of games, the chance of one that is not planned exactly."""
    level: Real = 0.05
    """Of quantiles and CVaR among the criteria."""
    risk: Real = 0.05
    """Of exponential utility among the criteria, per unit of rate."""

    def check(self, problem: Any) -> None:
        if not isinstance(problem, PlayOrNot):
            raise ValueError(f"ExactPlayOrNot solves PlayOrNot problems, but {type(problem).__name__} was given.")
        if self.grid < 256:
            raise ValueError(f"grid of ExactPlayOrNot must be at least 256, but {self.grid} was given.")
        if self.most_games < 1:
            raise ValueError(f"most_games of ExactPlayOrNot must be at least 1, but {self.most_games} was given.")
        require_range(self, 0.0, 1.0, above=True, truncation=self.truncation)
        require_range(self, 0.0, above=True, level=self.level, risk=self.risk)
        require_range(self, 0.0, 1.0 - 1e-9, level=self.level)
        shapes = problem.rewards.shape, problem.times.shape
        by_games = not isinstance(problem.criterion, Deadline)
        if by_games and not is_traced(shapes) and max(float(np.asarray(s)) for s in shapes) <= 1.0:
            raise ValueError(
                f"neither a mean reward nor a mean time exists under these beliefs (shapes {shapes[0]} and "
                f"{shapes[1]}, both at most 1), so that reward less cost has no mean: observe a game first, or use a "
                f"larger prior."
            )

    def compute(self, problem: PlayOrNot, key=None) -> Solution:
        omega, eta, rate = (jnp.asarray(p) for p in (problem.rewards.rate, problem.times.rate, problem.rate))
        shapes, endless_reward, endless_time = existing(problem.rewards, problem.times)
        if isinstance(problem.criterion, Deadline):
            return self._until(problem, shapes, endless_reward)
        discount, games, most, endless = self._horizon(problem.criterion, rate.dtype)
        index = play_index(shapes, discount, games, most_games=most, endless=endless, grid=self.grid)
        start = opening(problem, index)
        policy = PlayPolicy(index.thresholds.at[0].set(start.threshold), omega, eta, rate, endless)
        myopic = ratio_of_means(problem.rewards, problem.times)
        exists = ~(endless_time | endless_reward)
        details = PlayDetails(
            play=rate <= start.break_even,
            break_even=start.break_even,
            myopic_break_even=myopic,
            bonus=jnp.where(exists, start.break_even / jnp.where(exists, myopic, 1.0), 1.0),
            commitment=start.commitment,
            games=games,
            problem=problem,
            level=jnp.asarray(self.level),
            risk=jnp.asarray(self.risk),
        )
        value = start.value
        finite = jnp.isfinite(value) | endless_reward
        result = jnp.where(finite, Result.CONVERGED, Result.NON_FINITE).astype(jnp.int32)
        left_out = discount ** games.astype(rate.dtype) if endless else jnp.zeros_like(rate)
        stats = {"grid_step": index.nodes[1] - index.nodes[0], "truncated": left_out}
        return Solution(value, policy, result, stats, details)

    def _until(self, problem: PlayOrNot, shapes: Posterior, endless_reward) -> Solution:
        omega, eta, rate = (jnp.asarray(p) for p in (problem.rewards.rate, problem.times.rate, problem.rate))
        assert isinstance(problem.criterion, Deadline)
        end = eta + jnp.asarray(problem.criterion.duration)
        shapes = shapes._replace(theta=jnp.asarray(problem.times.shape))
        y = jnp.log(end) - jnp.log(eta)
        games = games_needed(shapes.theta, y, jnp.asarray(self.truncation), self.most_games)
        x = jnp.log(omega / (rate * end))
        plan = plan_deadline(shapes, x, y, games, most_games=self.most_games, grid=max(256, self.grid // 8))
        thresholds = jnp.where(endless_reward, plan.thresholds.at[0].set(-jnp.inf), plan.thresholds)
        break_even = jnp.where(endless_reward, jnp.inf, omega / end * jnp.exp(-plan.thresholds[0, -1]))
        value = jnp.where(endless_reward, jnp.inf, rate * end * plan.value)
        myopic = ratio_of_means(problem.rewards, problem.times)
        details = PlayDetails(
            play=rate <= break_even,
            break_even=break_even,
            myopic_break_even=myopic,
            bonus=jnp.where(endless_reward, 1.0, break_even / jnp.where(myopic > 0.0, myopic, 1.0)),
            commitment=jnp.where(endless_reward, jnp.inf, rate * end * plan.commitment),
            games=games,
            problem=problem,
            level=jnp.asarray(self.level),
            risk=jnp.asarray(self.risk),
        )
        policy = DeadlinePolicy(thresholds, plan.times, omega, eta, rate, end)
        finite = jnp.isfinite(value) | endless_reward
        result = jnp.where(finite, Result.CONVERGED, Result.NON_FINITE).astype(jnp.int32)
        return Solution(value, policy, result, {"truncated": jnp.asarray(self.truncation)}, details)

    def _horizon(self, criterion: Any, dtype: Any) -> tuple[Float[Array, ""], Int[Array, ""], int, bool]:
        discount = jnp.asarray(criterion.discount, dtype)
        if isinstance(criterion, FiniteHorizon):
            return discount, jnp.asarray(criterion.horizon), criterion.horizon, False
        assert isinstance(criterion, Discounted)
        safe = jnp.clip(discount, jnp.finfo(dtype).tiny, 1.0 - jnp.finfo(dtype).eps)
        needed = jnp.ceil(jnp.log(jnp.asarray(self.truncation, dtype)) / jnp.log(safe))
        return discount, jnp.clip(needed, 1, self.most_games).astype(int), self.most_games, True
