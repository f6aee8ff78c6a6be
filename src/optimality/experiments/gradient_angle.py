"""The angle between a learner's estimate of its policy gradient and the exact one, where the environment is a table."""

from collections.abc import Callable
from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, PRNGKeyArray

from optimality.core.numerics import Real
from optimality.environments.abstract import AbstractEnvironment
from optimality.environments.tabular import TabularEnvironment
from optimality.learning.actor import as_features
from optimality.planning.softmax_gradient import exact_policy_gradient
from optimality.problems.criterion import FiniteHorizon
from optimality.problems.tabular import TabularMDP
from optimality.sampling.collection import collect
from optimality.sampling.compiled_runner import CompiledRunner
from optimality.sampling.transitions import Rollout

MOST_PAIRS = 4096
"""State-action pairs of the largest table whose exact gradient is taken at every evaluation."""


@runtime_checkable
class EstimatesGradient(Protocol):
    """A learner whose policy is the softmax of a network's scores."""

    discount: Real
    temperature: Real
    collection: Any

    def policy(self, state: Any, *, explore: bool) -> Any: ...

    def score_gradient(self, state: Any, rollout: Rollout, key: PRNGKeyArray) -> tuple[Any, Any]:
        """The network of the scores, and the estimate of the objective's gradient in its leaves."""
        ...


def table_of(environment: AbstractEnvironment | None, discount: Real) -> TabularMDP | None:
    """The problem that whole episodes of the environment pose to a learner with that discount; None where it is no
    table, a large one, or has no time limit."""
    if not isinstance(environment, TabularEnvironment) or environment.time_limit is None:
        return None
    problem = environment.problem
    criterion = problem.criterion
    assert isinstance(criterion, FiniteHorizon)
    if np.prod(problem.shape) > MOST_PAIRS or float(np.asarray(criterion.discount)) != 1.0:
        return None
    horizon = FiniteHorizon(criterion.horizon, float(np.asarray(discount)), criterion.terminal_reward)
    return TabularMDP(problem.model, problem.reward, problem.initial, horizon, problem.allowed)


def gradient_angle(learner: Any, environment: AbstractEnvironment | None, number: int) -> Callable[..., float] | None:
    """`(state, key) -> degrees` between the estimate from one fresh batch of `number` environments and

        d/dtheta E sum_t discount^t (r_t + temperature H(pi(. | s_t))),       pi = softmax(scores_theta(s))

    over whole episodes, exactly. None where the learner or the environment does not allow it. 90 degrees is what a
    random direction has.
    """
    if not isinstance(learner, EstimatesGradient):
        return None
    problem = table_of(environment, learner.discount)
    if problem is None:
        return None
    runner, states = CompiledRunner(environment, number), jnp.arange(problem.shape[0])

    def angle(state: Any, key: PRNGKeyArray) -> float:
        network, estimate = _estimated(learner, state, runner, key)
        scores = np.asarray(_scores(network, states))
        exact = exact_policy_gradient(problem, scores, temperature=learner.temperature)
        truth = _pulled_back(network, states, jnp.asarray(exact.gradient, jnp.float32))
        return _degrees(ravel_pytree(estimate)[0], ravel_pytree(truth)[0])

    return angle


@jax.jit
def _estimated(learner, state, runner, key):
    policy = learner.policy(state, explore=True)
    reset_key, collect_key, estimate_key = jax.random.split(key, 3)
    _, rollout = collect(learner.collection, policy, runner.reset(policy, reset_key), collect_key)
    return learner.score_gradient(state, rollout, estimate_key)


@jax.jit
def _scores(network, states):
    return jax.vmap(lambda state: network(as_features(state)))(states)


@jax.jit
def _pulled_back(network, states, cotangent):
    return jax.vjp(lambda moved: _scores(moved, states), network)[1](cotangent)[0]


def _degrees(a: Array, b: Array) -> float:
    x, y = np.asarray(a, np.float64), np.asarray(b, np.float64)
    size = np.linalg.norm(x) * np.linalg.norm(y)
    if not size > 0.0:
        return float("nan")
    return float(np.degrees(np.arccos(np.clip(x @ y / size, -1.0, 1.0))))
