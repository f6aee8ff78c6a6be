"""Maximum-entropy inverse reinforcement learning: the reward whose soft-optimal policy explains the demonstrations.

    pi_w = b exp((Q_w - V_w) / tau),      gradient = (E_expert - E_pi_w)[dr / dw] / tau        (matching)

Causal (Ziebart, Bagnell and Dey 2010): the expert chooses actions, not their outcomes. The trajectory form (Ziebart et
al. 2008), in which it chooses both, is there by name: right where nothing is random, elsewhere it misfits a real
expert. The rewards are determined up to what changes no policy: constants, where all episodes have one length, and
potential differences (Ng, Harada and Russell 1999); `details.rank` counts the directions that the demonstrations speak
about, and the small default `l2` picks the smallest reward among equals.

The action likelihood, the default, needs far fewer demonstrations than feature matching where the world is random. It
is convex only where nothing is random; started from the given reward it never failed to converge in the tests. The dual
of feature matching is convex for rewards that are linear in their parameters, and carries a duality gap.
"""

from dataclasses import KW_ONLY
from typing import Any, Literal

import equinox as eqx
import jax
import jax.flatten_util
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from optimality.core.numerics import Real, cast_floats, precision, require_range, to_numpy
from optimality.core.result import Result
from optimality.inverse.demonstrated import DemonstratedVisits, checked_visits, demonstrated_visits
from optimality.inverse.infer_reward import AbstractInverse, RewardSolution
from optimality.inverse.maxent_certificates import certificates, posterior
from optimality.inverse.maxent_objective import (
    Evidence,
    Numbers,
    Objective,
    Settings,
    evidence,
    hessian,
    under_model,
    value_and_gradient,
)
from optimality.inverse.minimization import Minimum, newton, quasi_newton
from optimality.planning.log_partition import require_partition
from optimality.policies.tabular import TabularPolicy
from optimality.problems.criterion import FiniteHorizon, UntilTermination
from optimality.problems.tabular import Prior, TabularMDP
from optimality.rewards.abstract import AbstractReward
from optimality.rewards.table import TableReward
from optimality.sampling.demonstrations import Demonstrations


class MaxEntDetails(eqx.Module):
    """What was found on the way; parameters are in the order of `jax.flatten_util.ravel_pytree`."""

    objective: str
    value: Float[np.ndarray, "..."]
    """Soft values, `[H+1, S]` or `[S]`; over the temperature, the log-partition."""
    visits: Float[np.ndarray, "..."]
    """Of the model, `[H, S, A]` or `[S, A]`, by the forward pass, from the demonstrations' first states."""
    expert_features: Float[np.ndarray, " parameters"]
    """Expected derivative of the reward in its parameters under the demonstrations: with a linear reward, features."""
    model_features: Float[np.ndarray, " parameters"]
    """The same under the model."""
    hessian: Float[np.ndarray, "parameters parameters"] | None
    """Of the unpenalized objective, an episode; None above `hessian_limit` parameters."""
    rank: int | None
    """Directions of the parameters that the demonstrations determine."""
    covariance: Float[np.ndarray, "parameters parameters"] | None
    """Of the parameters, by Laplace's approximation, zero in directions that are not determined (without `l2`). None
    for feature matching, whose errors it does not describe, and with `l1`."""


class MaxEntIRL(AbstractInverse):
    """Maximum-entropy inverse reinforcement learning on a table, exact."""

    _: KW_ONLY
    objective: Literal["auto", "likelihood", "matching", "trajectory"] = eqx.field(static=True, default="auto")
    """`likelihood` of the actions; `matching` of feature expectations; `trajectory`, the likelihood of a law that tilts
    the dynamics too. `auto`: the first, or the second for exact expectations and where no actions were recorded."""
    tilt_start: bool = eqx.field(static=True, default=False)
    """For `trajectory`: the expert also chooses its first state."""
    temperature: Real = 1.0
    """What a nat of the expert's entropy is worth: fixes the scale of the reward."""
    prior: Prior = eqx.field(static=True, default="none")
    """The base measure of the expert's actions."""
    l1: Real = 0.0
    """Penalty on the sum of the parameters' absolute values, against nats an episode."""
    l2: Real = 1e-3
    """Penalty on half the sum of their squares, against nats an episode; 0 matches features exactly, but has no finite
    answer for an expert who never errs."""
    solver: Literal["lbfgs", "newton"] = eqx.field(static=True, default="lbfgs")
    """Limited-memory quasi-Newton, or Newton's method for few parameters."""
    tolerance: Real = 1e-8
    """Largest accepted entry of the gradient, per expected step of an episode if that is more than one."""
    max_steps: int = eqx.field(static=True, default=1000)
    """Bound on the steps of the solver."""
    held_out: float = eqx.field(static=True, default=0.0)
    """Share of the episodes that are not fitted, to tell the likelihood of new ones."""
    hessian_limit: int = eqx.field(static=True, default=128)
    """Parameters up to which the Hessian is computed: posterior, rank, and the last digits of the solution."""
    allow_unmodelled: bool = eqx.field(static=True, default=False)
    """Accept transitions that the model gives no chance."""

    def __check_init__(self):
        require_range(self, 0.0, above=True, temperature=self.temperature, tolerance=self.tolerance)
        require_range(self, 0.0, l1=self.l1, l2=self.l2)
        if self.objective not in ("auto", "likelihood", "matching", "trajectory"):
            raise ValueError(
                f"objective must be auto, likelihood, matching or trajectory, but {self.objective!r} was given."
            )
        if self.solver not in ("lbfgs", "newton"):
            raise ValueError(f"solver must be 'lbfgs' or 'newton', but {self.solver!r} was given.")
        if not isinstance(self.max_steps, int) or self.max_steps < 1:
            raise ValueError(f"max_steps must be a whole number, at least 1, but {self.max_steps!r} was given.")
        if not 0.0 <= self.held_out < 1.0:
            raise ValueError(f"held_out must be a share in [0, 1), but {self.held_out} was given.")
        if self.tilt_start and self.objective != "trajectory":
            raise ValueError("tilt_start belongs to objective='trajectory': the others never tilt the first state.")

    def check(self, problem, demonstrations, reward) -> None:
        require_partition(problem, self.temperature, self.prior)
        objective = self._objective(demonstrations)
        visits = checked_visits(problem, demonstrations, allow_unmodelled=self.allow_unmodelled)
        if isinstance(demonstrations, Demonstrations):
            with_actions, episodes = demonstrations.action is not None, demonstrations.valid.shape[0]
            if self.held_out and not 1 <= _held(self.held_out, episodes).sum() < episodes:
                raise ValueError(f"held_out={self.held_out} of {episodes} episodes leaves none to one side.")
            if objective != "likelihood":
                _require_whole(problem, demonstrations)
        else:
            with_actions = demonstrations.pairs is not None
            if self.held_out:
                raise ValueError("held_out needs episodes, but exact visits were given.")
        if objective == "likelihood" and not with_actions:
            raise ValueError("the likelihood needs actions, but none were recorded: use objective='matching'.")
        family = default_reward(problem) if reward is None else reward
        if not isinstance(family, AbstractReward):
            raise ValueError(f"reward must be a reward such as LinearReward(features), but {family!r} was given.")
        jax.eval_shape(family.table, problem)  # raises for another problem's shape
        if not jax.tree.leaves(eqx.filter(family, family.parameters())):
            raise ValueError(f"{type(family).__name__} has no parameters to fit.")
        if not with_actions and family.scope not in ("state", "next-state"):
            raise ValueError(
                f"no actions were recorded, so that a reward of {family.scope} cannot be told: use scope 'state' or "
                "'next-state'."
            )
        if objective == "trajectory":
            if float(np.asarray(problem.discount)) != 1.0:
                raise ValueError(
                    "objective='trajectory' needs discount 1: there a discount is a chance of ending, which the expert "
                    "would choose too."
                )
            if visits is not None and visits.transitions is None and family.scope in ("next-state", "transition"):
                raise ValueError(
                    "objective='trajectory' needs the visits' transitions for a reward of what follows an action: the "
                    "model's own chances are not the expert's there."
                )

    def infer(self, problem, demonstrations, reward, key, dtype) -> RewardSolution:
        objective = self._objective(demonstrations)
        fitted, others = demonstrations, None
        if self.held_out and isinstance(demonstrations, Demonstrations):
            held = _held(self.held_out, demonstrations.valid.shape[0])
            fitted, others = (jax.tree.map(lambda a, k=k: np.asarray(a)[k], demonstrations) for k in (~held, held))
        visits = demonstrated_visits(problem, fitted, check=False)
        episodes = fitted if isinstance(fitted, Demonstrations) else None
        data = evidence(problem, visits, episodes, objective)
        family = default_reward(problem) if reward is None else reward
        parameters, rest = eqx.partition(family, family.parameters())
        settings = Settings(objective, self.tilt_start, self.prior, 200_000)
        with precision(dtype):
            fit = _Fit(problem, data, parameters, rest, self, settings, dtype)
            tolerance = fit.tolerance(self.tolerance, visits.total)
            minimum = self._minimize(fit, tolerance)
            parameters = fit.tree(minimum.x)
            value, log_policy, pairs, code, model, expert = to_numpy(
                under_model(parameters, fit.rest, fit.problem, fit.data, fit.numbers, settings)
            )
            curvature = fit.hessian(minimum.x) if minimum.x.size <= self.hessian_limit else None
        result = minimum.code if minimum.code != Result.NON_FINITE else fit.failure()
        if result.is_success and not Result.of(code).is_success:
            result = Result.of(code)
        l2, l1 = float(self.l2), float(self.l1)
        if curvature is not None:
            curvature = curvature - l2 * np.eye(minimum.x.size)
        rank, covariance = posterior(
            curvature, l2, visits.episodes if l1 == 0.0 and objective != "matching" else None, dtype
        )
        policy = TabularPolicy(log_policy)
        linear = family.table_is_linear
        return RewardSolution(
            reward=to_numpy(eqx.combine(parameters, rest)),
            policy=policy,
            result=result,
            stats={
                "steps": minimum.steps,
                "evaluations": minimum.evaluations,
                "trace": minimum.course,
                "parameters": minimum.x.size,
                "objective": objective,
                "value": minimum.value,
                "tolerance": tolerance,
            },
            certificates=certificates(
                minimum,
                expert,
                model,
                temperature=float(self.temperature),
                l1=l1,
                l2=l2,
                objective=objective,
                linear=linear,
                visits=visits,
                policy=policy,
                fitted=episodes,
                others=others,
            ),
            details=MaxEntDetails(objective, value, pairs, expert, model, curvature, rank, covariance),
        )

    def explain(self, problem, solution) -> str:
        stats = solution.stats
        text = f"After {stats['steps']} steps the largest entry of the gradient is {stats['trace'][-1]:.3g}."
        if solution.result in (Result.NOT_CONVERGED, Result.NON_FINITE) and isinstance(
            problem.criterion, UntilTermination
        ):
            text += (
                " Without a horizon the first reward must end episodes: start from a lower one, "
                "reward=TableReward(np.full(states, -3.0), 'next-state'), or take prior='uniform'."
            )
        if stats["objective"] == "matching" and float(self.l2) == 0.0:
            text += (
                " Few demonstrations may have feature expectations that no policy has, by luck: then only l2 or l1 "
                "above zero, or objective='likelihood', has a finite answer."
            )
        elif solution.result == Result.ITERATION_LIMIT:
            text += " An expert who never errs is fitted by ever larger rewards: raise l2, max_steps or tolerance."
        return text

    def _objective(self, demonstrations) -> Objective:
        if self.objective != "auto":
            return self.objective
        if isinstance(demonstrations, DemonstratedVisits) or getattr(demonstrations, "action", None) is None:
            return "matching"
        return "likelihood"

    def _minimize(self, fit: "_Fit", tolerance: float) -> Minimum:
        options = {
            "l1": float(self.l1),
            "tolerance": tolerance,
            "max_steps": self.max_steps,
            "noise": fit.noise(tolerance),
        }
        if self.solver == "newton":
            return newton(fit.value_and_gradient, fit.hessian, fit.start, **options)
        minimum = quasi_newton(fit.value_and_gradient, fit.start, **options)
        unfinished = minimum.code in (Result.LINE_SEARCH_FAILED, Result.ITERATION_LIMIT)
        if unfinished and minimum.x.size <= self.hessian_limit:
            last = newton(fit.value_and_gradient, fit.hessian, minimum.x, **options)
            counts = minimum.steps + last.steps, minimum.evaluations + last.evaluations
            course = np.concatenate([minimum.course, last.course[1:]])
            return last._replace(steps=counts[0], evaluations=counts[1], course=course)
        return minimum


class _Fit:
    """The compiled functions as functions of one NumPy vector; big arrays are on the device once."""

    def __init__(self, problem, data: Evidence, parameters, rest, method: MaxEntIRL, settings: Settings, dtype):
        numbers = Numbers(method.temperature, method.l2, 1e-12)
        moved = cast_floats((problem, data, parameters, rest, numbers), dtype)
        self.problem, self.data, parameters, self.rest, self.numbers = jax.tree.map(jnp.asarray, moved)
        self.settings, self.dtype, self.code = settings, np.dtype(dtype), Result.CONVERGED
        flat, self.unravel = jax.flatten_util.ravel_pytree(parameters)
        self.start = np.asarray(flat, np.float64)
        horizonless = not isinstance(problem.criterion, FiniteHorizon)
        self.steps = problem.criterion.horizon if isinstance(problem.criterion, FiniteHorizon) else 0
        self.guess = jnp.zeros(problem.shape[0], dtype) if horizonless else None

    def tree(self, x: np.ndarray) -> Any:
        return self.unravel(jnp.asarray(x, self.dtype))

    def value_and_gradient(self, x: np.ndarray) -> tuple[float, np.ndarray]:
        (value, (first, code)), gradient = value_and_gradient(
            self.tree(x), self.rest, self.problem, self.data, self.numbers, self.guess, self.settings
        )
        self.code = Result.of(code)
        if self.guess is not None and self.code.is_success:
            self.guess = first
        leaves = [np.asarray(leaf, np.float64).reshape(-1) for leaf in jax.tree.leaves(gradient)]
        return float(value), np.concatenate(leaves)

    def hessian(self, x: np.ndarray) -> np.ndarray:
        found = hessian(self.tree(x), self.rest, self.problem, self.data, self.numbers, self.guess, self.settings)
        matrix = np.asarray(found, np.float64)
        return 0.5 * (matrix + matrix.T)

    def tolerance(self, wanted: Real, steps: float) -> float:
        return max(float(np.asarray(wanted)), 64 * float(np.finfo(self.dtype).eps)) * max(1.0, steps)

    def noise(self, tolerance: float) -> float:
        """Of values: a sum's rounding, or what the fixed point's tolerance leaves."""
        if self.guess is None:
            return 32 * float(np.finfo(self.dtype).eps) * self.steps
        return max(1e-10, 1e-2 * tolerance)

    def failure(self) -> Result:
        return Result.NON_FINITE if self.code.is_success else self.code


def default_reward(problem: TabularMDP) -> TableReward:
    """One number for each state that is entered, zero to begin with."""
    return TableReward(np.zeros(problem.shape[0]), "next-state")


def _held(share: float, episodes: int) -> np.ndarray:
    """Evenly spread over the episodes, so that the choice is the same each time."""
    count = round(share * episodes)
    held = np.zeros(episodes, bool)
    held[np.floor((np.arange(count) + 0.5) * episodes / max(count, 1)).astype(int)] = True
    return held


def _require_whole(problem: TabularMDP, demonstrations: Demonstrations) -> None:
    """Feature expectations of episodes that were cut short are not the expert's."""
    finite = isinstance(problem.criterion, FiniteHorizon)
    if not finite and not isinstance(problem.criterion, UntilTermination):
        return
    lengths, terminated = np.asarray(demonstrations.lengths), np.asarray(demonstrations.terminated, bool)
    horizon = problem.criterion.horizon if isinstance(problem.criterion, FiniteHorizon) else np.inf
    short = np.flatnonzero(~terminated & (lengths < horizon))
    if short.size:
        raise ValueError(
            f"episode {short[0]} was cut off after {lengths[short[0]]} steps, before the problem's "
            f"{'horizon of ' + str(horizon) if finite else 'end'} ({short.size} such episodes in all): feature "
            "expectations need whole episodes. Use objective='likelihood', or a problem with the episodes' horizon."
        )
