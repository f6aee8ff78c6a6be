"""The optimism problem: an agent that infers its actions exactly also believes in luck.

Conditioned on success, the posterior `p(s' | s, a, O)` favors fortunate outcomes, so its policy gambles, and its
evidence promises what the world will not keep. The variational posterior keeps the true dynamics (Levine 2018,
section 3.3). `optimism` puts the two side by side.
"""

import equinox as eqx
import jax
import numpy as np
from jaxtyping import Array, Float

from optimality.core.numerics import Real, cast_floats, precision
from optimality.core.solve import Solution, solve
from optimality.planning.exact_inference import ExactInference, luck, posterior_dynamics
from optimality.planning.policy_evaluation import PolicyEvaluation, UnderPolicy
from optimality.planning.variational_inference import VariationalInference
from optimality.problems.criterion import FiniteHorizon
from optimality.problems.tabular import Prior, TabularMDP


class Belief(eqx.Module):
    """One posterior: its solution, what it believes and what is true of its policy.

    Objectives are return less `temperature` times KL to the prior, in reward units: `believed_objective` is
    `temperature * log p(O)` or `temperature * ELBO`, `true_objective` the policy's own under the true dynamics.
    Returns are of rewards alone: expected under the posterior, and under the true dynamics.
    """

    solution: Solution
    believed_objective: float
    true_objective: float
    believed_return: float
    true_return: float


class Optimism(eqx.Module):
    """Both posteriors, and how far the exact one bends the dynamics of the first step."""

    exact: Belief
    restricted: Belief
    believed_dynamics: Float[Array | np.ndarray, "states actions successors"]
    """`p(s', running | s, a, O)` at the first step."""
    true_dynamics: Float[Array | np.ndarray, "states actions successors"]
    distance: Float[Array | np.ndarray, "states actions"]
    """Total variation between believed and true outcomes of each pair, 0 for pairs that are not allowed."""


def optimism(problem: TabularMDP, temperature: Real = 1.0, prior: Prior = "uniform") -> Optimism:
    """Solves `problem` both ways and compares promise with truth.

    Raises `ValueError` for criteria that inference does not take (average reward).
    """
    exact = solve(problem, ExactInference(temperature=temperature, prior=prior))
    restricted = solve(problem, VariationalInference(temperature=temperature, prior=prior))
    ahead = exact.value[1] if isinstance(problem.criterion, FiniteHorizon) else exact.value
    with precision(np.float64):
        believed = posterior_dynamics(problem, ahead, temperature)
        true = np.asarray(problem.dense()) * float(problem.discount)
        distance = np.asarray(_luck(*cast_floats((problem, ahead, temperature), np.float64)))
    beliefs = []
    for solution, evidence in ((exact, exact.details.log_evidence), (restricted, restricted.details.elbo)):
        evaluated = solve(UnderPolicy(problem, solution.policy), PolicyEvaluation(temperature=temperature, prior=prior))
        first = evaluated.value[0] if isinstance(problem.criterion, FiniteHorizon) else evaluated.value
        true_objective = float(np.sum(np.asarray(problem.initial) * first))
        true_return = float(evaluated.details.expected_return)
        believed_return = posterior_return(problem, temperature, prior) if solution is exact else true_return
        objective = float(evidence) * float(temperature)
        beliefs.append(Belief(solution, objective, true_objective, believed_return, true_return))
    distance = np.where(np.asarray(problem.allowed), distance, 0.0)
    return Optimism(beliefs[0], beliefs[1], believed, true, distance)


def posterior_return(problem: TabularMDP, temperature: Real = 1.0, prior: Prior = "uniform") -> float:
    """`E[return | O]`, the derivative of `log E exp(return / tau)` by `1 / tau`."""
    with precision(np.float64):
        return float(_derivative(*cast_floats((problem, 1.0 / float(np.asarray(temperature))), np.float64), prior))


def _log_evidence(problem, inverse, prior):
    return ExactInference(temperature=1.0 / inverse, prior=prior).compute(problem).details.log_evidence


_luck = jax.jit(luck)
_derivative = jax.jit(jax.grad(_log_evidence, argnums=1), static_argnums=2)
