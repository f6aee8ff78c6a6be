"""The third verb: `infer_reward(problem, demonstrations, method)`, for problems whose reward is unknown."""

import abc
from typing import Any

import equinox as eqx
import numpy as np
from jaxtyping import PRNGKeyArray

from optimality.core.result import Result, SolverError
from optimality.inverse.demonstrated import DemonstratedVisits
from optimality.problems.tabular import TabularMDP
from optimality.rewards.abstract import AbstractReward
from optimality.sampling.demonstrations import Demonstrations


class RewardSolution(eqx.Module):
    """What every inverse method returns.

    `reward` is the recovered reward, `policy` what the method's model of the expert does under it, `result` says how
    the computation ended, `stats` holds counts and traces, `certificates` numbers that tell how good the answer is
    without knowing the true reward, and `details` is the method's own typed record.
    """

    reward: AbstractReward
    policy: Any
    result: Result
    stats: dict[str, Any]
    certificates: dict[str, float]
    details: Any


class AbstractInverse(eqx.Module):
    """A method that explains demonstrations by a reward. It runs on the host and compiles its own parts."""

    @abc.abstractmethod
    def check(
        self, problem: TabularMDP, demonstrations: Demonstrations | DemonstratedVisits, reward: AbstractReward | None
    ) -> None:
        """Raises `ValueError` for what the method cannot take, before anything compiles."""

    @abc.abstractmethod
    def infer(
        self,
        problem: TabularMDP,
        demonstrations: Demonstrations | DemonstratedVisits,
        reward: AbstractReward | None,
        key: PRNGKeyArray | None,
        dtype: Any,
    ) -> RewardSolution: ...

    def explain(self, problem: TabularMDP, solution: RewardSolution) -> str:
        """What a person should know of a failure beyond the result's sentence."""
        return ""


def infer_reward(
    problem: TabularMDP,
    demonstrations: Demonstrations | DemonstratedVisits,
    method: AbstractInverse,
    *,
    reward: AbstractReward | None = None,
    key: PRNGKeyArray | None = None,
    throw: bool = True,
    dtype: Any = np.float64,
) -> RewardSolution:
    """Finds a reward under which the demonstrations make sense.

    Args:
        problem: the dynamics, first states, criterion; its own reward is not looked at.
        demonstrations: what the expert did; or the exact expectations of it, `DemonstratedVisits.of_policy`.
        method: a method object; its fields are its hyper-parameters.
        reward: the family to search and where to start in it: a reward whose leaves are the parameters; by default one
            number for each state that is entered.
        key: randomness, for methods that use it.
        throw: raise `SolverError` when the result is not a success.
        dtype: precision, float64 or float32.

    Raises:
        ValueError: the method cannot take these arguments.
        SolverError: the computation did not succeed; `error.solution` holds what was reached.
    """
    method.check(problem, demonstrations, reward)
    solution = method.infer(problem, demonstrations, reward, key, dtype)
    if throw and not solution.result.is_success:
        raise SolverError(type(method).__name__, solution.result, solution, method.explain(problem, solution))
    return solution
