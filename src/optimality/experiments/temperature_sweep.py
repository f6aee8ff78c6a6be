"""Return, entropy and evidence of soft-optimal policies against temperature, in both forms."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from optimality.core.numerics import cast_floats, precision
from optimality.core.result import Result
from optimality.core.solve import solve
from optimality.planning.exact_inference import ExactInference
from optimality.planning.policy_evaluation import PolicyEvaluation, UnderPolicy
from optimality.planning.soft_value_iteration import SoftValueIteration
from optimality.problems.criterion import AverageReward, FiniteHorizon
from optimality.problems.tabular import TabularMDP

SMALL = 100_000
"""States times actions times steps up to which a sweep is drawn unasked."""
_MAX_STEPS = 20_000


class TemperatureSweep(NamedTuple):
    """Per temperature: expected return and entropy of the policy in each form (NaN where the soft value is infinite),
    and the evidence in nats with its variational bound (None for average reward)."""

    temperature: np.ndarray
    entropy_form_return: np.ndarray
    entropy_form_entropy: np.ndarray
    kl_form_return: np.ndarray
    kl_form_entropy: np.ndarray
    log_evidence: np.ndarray | None
    elbo: np.ndarray | None


def is_small(mdp: TabularMDP) -> bool:
    steps = mdp.criterion.horizon if isinstance(mdp.criterion, FiniteHorizon) else 200
    return mdp.shape[0] * mdp.shape[1] * steps <= SMALL


def temperatures_for(mdp: TabularMDP, count: int = 25) -> np.ndarray:
    """From a thousandth of the largest reward's size to ten times it, evenly in the logarithm."""
    largest = float(np.max(np.abs(mdp.outcomes().reward)))
    return (largest if largest > 0.0 else 1.0) * np.logspace(-3.0, 1.0, count)


def temperature_sweep(mdp: TabularMDP, temperatures: np.ndarray | None = None) -> TemperatureSweep:
    """Solves the problem at each temperature in one compiled loop, in float64."""
    temperatures = temperatures_for(mdp) if temperatures is None else np.asarray(temperatures, np.float64)
    with precision(np.float64):
        columns = _sweep(cast_floats(mdp, np.float64), jnp.asarray(temperatures))
    columns = {name: np.asarray(column) for name, column in columns.items()}
    return TemperatureSweep(
        temperatures,
        columns["none_return"],
        columns["none_entropy"],
        columns["uniform_return"],
        columns["uniform_entropy"],
        columns.get("log_evidence"),
        columns.get("elbo"),
    )


@jax.jit
def _sweep(mdp: TabularMDP, temperatures):
    finite = isinstance(mdp.criterion, FiniteHorizon)
    initial = jnp.asarray(mdp.initial)

    def at(temperature):
        columns = {}
        for prior in ("none", "uniform"):
            method = SoftValueIteration(temperature=temperature, prior=prior, max_steps=_MAX_STEPS)
            soft = solve(mdp, method)
            evaluated = solve(UnderPolicy(mdp, soft.policy), PolicyEvaluation(max_steps=_MAX_STEPS))
            usable = (soft.result == Result.CONVERGED) & (evaluated.result == Result.CONVERGED)
            details = evaluated.details
            gain = details.gain if isinstance(mdp.criterion, AverageReward) else details.expected_return
            columns[f"{prior}_return"] = jnp.where(usable, gain, jnp.nan)
            columns[f"{prior}_entropy"] = jnp.where(usable, details.expected_entropy, jnp.nan)
            if prior == "uniform" and not isinstance(mdp.criterion, AverageReward):
                first = soft.value[0] if finite else soft.value
                columns["elbo"] = jnp.where(usable, jnp.sum(initial * first) / temperature, jnp.nan)
        if not isinstance(mdp.criterion, AverageReward):
            exact = solve(mdp, ExactInference(temperature=temperature, max_steps=_MAX_STEPS))
            usable = exact.result == Result.CONVERGED
            columns["log_evidence"] = jnp.where(usable, exact.details.log_evidence, jnp.nan)
        return columns

    return jax.lax.map(at, temperatures)
