"""One iteration of relative entropy policy search on a table: project, and read off the policy.

    p = argmax sum p r    with stationary features of states and KL(p || q) <= epsilon,    q(s, a) = mu_pi(s) pi(a | s)
    pi_new(a | s) = p(s, a) / sum_b p(s, b)

`exact_reps` repeats it with a feature for each state; here the features may be coarse, and the temperature given.
"""

from functools import partial
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from optimality.core.information_projection import InformationProjection, information_projection
from optimality.core.numerics import Real, at_precision, is_traced
from optimality.core.result import Result
from optimality.planning.stationary_process import AfterTermination, Process, as_process, stationary_law
from optimality.policies.tabular import TabularPolicy
from optimality.problems.criterion import AverageReward, Discounted
from optimality.problems.tabular import TabularMDP

LOST = 1e-9
"""A state that keeps less than this of its mass keeps its policy: what would be best there was not asked."""


def require_endless(problem: TabularMDP) -> None:
    """Raises `ValueError` for a criterion under which time ends."""
    if not isinstance(problem.criterion, AverageReward | Discounted):
        raise ValueError(
            "REPS on a table needs a process that goes on for ever, but the criterion is "
            f"{type(problem.criterion).__name__}: use AverageReward(), or Discounted(1 - 1 / H) for episodes of about "
            "H steps, after each of which it starts again."
        )


class REPSStep(NamedTuple):
    """One update: the new policy, `log_p [S, A]`, the value weights `v [features]` and the projection with its
    certificate. `upper_bound` is `max (r + E' V - V)`: no policy has more reward per step than this, whatever the
    features."""

    policy: TabularPolicy
    log_p: Float[Array | np.ndarray, "states actions"]
    v: Float[Array | np.ndarray, " features"]
    upper_bound: Float[Array | np.ndarray | np.generic, ""]
    projection: InformationProjection


def reps_step(
    problem: TabularMDP,
    policy: TabularPolicy,
    *,
    epsilon: Real | None = None,
    temperature: Real | None = None,
    features: Float[Array | np.ndarray, "states features"] | None = None,
    after_termination: AfterTermination = "restart",
) -> REPSStep:
    """One iteration of `ExactREPS`, with a bound or at a given temperature.

    With coarse `features` only their averages need be stationary, `sum p (E' psi(s') - psi(s)) = 0`: `p` is then no
    state law of any policy, and the dual value over-estimates what the new policy gets.

    Args:
        problem: average reward or discounted.
        policy: the old policy, the same at every step.
        epsilon: bound on `KL(p || q)`, or
        temperature: its price, in units of reward.
        features: `[S, K]`; by default one for each state but the last, which is exact.
        after_termination: as in `ExactREPS`.

    Raises:
        ValueError: a criterion that ends, shapes that do not agree, both or neither of epsilon and temperature.
    """
    require_endless(problem)
    states, _ = problem.shape
    if policy.log_probabilities.shape != problem.shape:
        raise ValueError(
            f"the policy's table is {policy.log_probabilities.shape}, but the problem has {problem.shape}."
        )
    if features is not None and jnp.shape(features)[:1] != (states,):
        raise ValueError(f"features must be [S, K] with S = {states}, but their shape is {jnp.shape(features)}.")
    bound = {"epsilon": epsilon, "temperature": temperature}
    bound = {name: value for name, value in bound.items() if value is not None}
    if len(bound) != 1:
        raise ValueError(f"give epsilon or temperature, one of the two: {epsilon=}, {temperature=} were given.")
    step = at_precision(partial(_step, after_termination), problem, policy, bound, features)
    if is_traced(step):
        return step
    return eqx.tree_at(lambda step: step.projection.result, step, Result.of(step.projection.result))


@partial(jax.jit, static_argnums=0)
def _step(after_termination, problem, policy, bound, features) -> REPSStep:
    states, _ = problem.shape
    process = as_process(problem, after_termination)
    log_policy = extended(jnp.asarray(policy.log_probabilities), process)
    dtype = process.reward.dtype
    features = (
        jnp.eye(states, dtype=dtype)[:, : process.law.shape[0] - 1] if features is None else jnp.asarray(features)
    )
    waiting = jnp.zeros((process.law.shape[0] - states, features.shape[1]), dtype)
    features = jnp.concatenate([features, waiting])
    possible = ~jnp.isneginf(extended(problem.log_base("uniform"), process))
    projection, log_p, log_policy, bound = project(
        process, log_policy, stationary_mass(process, log_policy), features, possible, **bound
    )
    new = TabularPolicy(log_policy[:states])
    return REPSStep(new, log_p[:states], projection.multipliers, bound, projection)


def extended(log_policy, process: Process):
    """With the state after termination, where the process has one."""
    states, actions = log_policy.shape
    if process.law.shape[0] == states:
        return log_policy
    only = jnp.where(jnp.arange(actions) == 0, 0.0, -jnp.inf).astype(log_policy.dtype)
    return jnp.concatenate([log_policy, only[None]])


def stationary_mass(process: Process, log_policy):
    return stationary_law(jnp.einsum("sa,sat->st", jnp.exp(log_policy), process.law))


def expected_reward(process: Process, log_policy, mass):
    return jnp.sum(mass * jnp.sum(jnp.exp(log_policy) * process.reward, axis=1))


def project(process: Process, log_policy, mass, features, possible, **bound):
    """The projection, `log p [S, A]`, its policy, and the upper bound of the reward per step that its V gives."""
    log_q = jnp.log(mass)[:, None] + log_policy
    moments = process.law @ features - features[:, None, :]
    projection = information_projection(
        process.reward.reshape(-1), moments.reshape(log_q.size, -1), log_base=log_q.reshape(-1), **bound
    )
    log_p = jnp.asarray(projection.log_p).reshape(log_q.shape)
    log_mass = jax.nn.logsumexp(log_p, axis=1, keepdims=True)
    kept = jnp.exp(log_mass) > LOST * mass[:, None]
    new = jnp.where(kept, jnp.minimum(log_p - jnp.where(kept, log_mass, 0.0), 0.0), log_policy)
    delta = process.reward + moments @ projection.multipliers
    return projection, log_p, new, jnp.max(jnp.where(possible, delta, -jnp.inf))
