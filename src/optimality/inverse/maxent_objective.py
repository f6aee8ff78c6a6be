"""What maximum-entropy inverse reinforcement learning minimizes, in nats an episode; `w` are the reward's parameters.

    matching     p_0 . log Z(w) - <visits, r_w> / tau        the convex dual of feature matching, where r is linear
    likelihood   - sum of log pi_w(a_t | s_t) over the demonstrations
    trajectory   the first with the trajectory form of log Z: - log of the trajectories' chance under the posterior

`p_0` is the law of the demonstrations' first states. With exact expectations and the true dynamics the first two agree:
`-E log pi = E sum (V_t(s_t) - E V_{t+1} - r) / tau` telescopes. With few demonstrations of a random world they differ:
the first also fits the luck that the expert happened to have.
"""

from functools import partial
from typing import Any, Literal, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float, Int

from optimality.core.gibbs import soft_maximum
from optimality.inverse.demonstrated import DemonstratedTransitions, DemonstratedVisits
from optimality.planning.log_partition import ListedVisits, Visits, backward_pass, model_visits
from optimality.problems.criterion import FiniteHorizon
from optimality.problems.tabular import Prior, TabularMDP
from optimality.rewards.abstract import AbstractReward
from optimality.rewards.on_tables import with_reward
from optimality.sampling.demonstrations import Demonstrations

Objective = Literal["likelihood", "matching", "trajectory"]


class Settings(NamedTuple):
    """What compilation depends on beside shapes."""

    objective: Objective
    tilt_start: bool
    prior: Prior
    max_steps: int

    @property
    def causal(self) -> bool:
        return self.objective != "trajectory"


class Numbers(NamedTuple):
    """Hyper-parameters that are traced."""

    temperature: Any
    l2: Any
    tolerance: Any


class Evidence(eqx.Module):
    """Demonstrations as the objectives take them."""

    pairs: Float[Array | np.ndarray, "states actions"] | None
    """Discounted visits, summed over time."""
    transitions: DemonstratedTransitions | None
    """What is paid by each transition that was seen, in place of the pairs' expectations."""
    steps: Visits | None
    """Undiscounted visits of each step, for the likelihood."""
    initial: Float[Array | np.ndarray, " states"]
    final: Float[Array | np.ndarray, " states"] | None


def evidence(
    problem: TabularMDP,
    visits: DemonstratedVisits,
    demonstrations: Demonstrations | None,
    objective: Objective,
) -> Evidence:
    """Chooses what an objective needs: realized transitions where no action was recorded or the trajectories' own
    chance counts, expectations otherwise."""
    realized = objective == "trajectory" or visits.pairs is None
    pairs = visits.pairs
    if pairs is not None and pairs.ndim == 3:
        pairs = pairs.sum(axis=0)
    steps = None
    if objective == "likelihood":
        assert visits.pairs is not None
        steps = visits.pairs if visits.pairs.ndim == 3 else visits.pairs[None]
        if demonstrations is not None:
            steps = _steps(problem, demonstrations)
    transitions = _padded(visits.transitions) if realized and visits.transitions is not None else None
    return Evidence(pairs, transitions, steps, visits.initial, visits.final)


def _rounded(size: int) -> int:
    """Up to a power of two, so that other demonstrations seldom compile anew."""
    return 1 << (size - 1).bit_length()


def _padded(seen: DemonstratedTransitions) -> DemonstratedTransitions:
    """With visits of zero."""
    size = seen.visits.size
    extra = _rounded(size) - size
    state, action, successor, over = (np.concatenate([column, column[:1].repeat(extra)]) for column in seen[:4])
    return DemonstratedTransitions(state, action, successor, over, np.concatenate([seen.visits, np.zeros(extra)]))


def _steps(problem: TabularMDP, demonstrations: Demonstrations) -> Visits:
    """Undiscounted, since every action says as much as another; as lists where most places are empty."""
    states, actions = problem.shape
    finite = isinstance(problem.criterion, FiniteHorizon)
    rows = problem.criterion.horizon if isinstance(problem.criterion, FiniteHorizon) else 1
    episode, time = np.nonzero(np.asarray(demonstrations.valid))
    row = time if finite else np.zeros_like(time)
    state = np.asarray(demonstrations.observation)[episode, time].astype(np.int64)
    action = np.asarray(demonstrations.action)[episode, time].astype(np.int64)
    place, where = np.unique((row * states + state) * actions + action, return_inverse=True)
    weight = np.bincount(where.reshape(-1), np.asarray(demonstrations.weights)[episode], place.size)
    row, state, action = place // (states * actions), place // actions % states, place % actions
    rank = np.arange(place.size) - np.searchsorted(row, row)
    width = _rounded(int(rank.max()) + 1)
    if 4 * width > states * actions:
        table = np.zeros((rows, states, actions))
        table[row, state, action] = weight
        return table
    listed = np.zeros((rows, width), np.int32), np.zeros((rows, width), np.int32), np.zeros((rows, width))
    for array, column in zip(listed, (state, action, weight), strict=True):
        array[row, rank] = column
    return ListedVisits(*listed)


def loss(
    parameters: Any,
    rest: Any,
    problem: TabularMDP,
    data: Evidence,
    numbers: Numbers,
    guess: Float[Array, " states"] | None,
    settings: Settings,
) -> tuple[Float[Array, ""], tuple[Float[Array, " states"], Int[Array, ""]]]:
    """The objective and its square penalty; beside it the first values, and how they were found."""
    reward: AbstractReward = eqx.combine(parameters, rest)
    paying = _paying(problem, reward, settings)
    found = backward_pass(
        paying,
        numbers.temperature,
        settings.causal,
        settings.prior,
        numbers.tolerance,
        settings.max_steps,
        visits=data.steps,
        guess=guess,
    )
    if settings.objective == "likelihood":
        objective = -found.log_likelihood
    else:
        initial = jnp.asarray(data.initial)
        if settings.tilt_start:
            log_z = soft_maximum(found.log_partition, 1.0, jnp.log(jnp.asarray(problem.initial)))
        else:  # an infinite value where nobody starts does not count
            log_z = jnp.sum(jnp.where(initial > 0.0, initial * found.log_partition, 0.0))
        objective = log_z - paid(reward, paying, data) / numbers.temperature
    squares = jnp.sum(jnp.stack([jnp.sum(leaf**2) for leaf in jax.tree.leaves(parameters)]))
    return objective + 0.5 * numbers.l2 * squares, (jax.lax.stop_gradient(found.value), found.code)


def _paying(problem: TabularMDP, reward: AbstractReward, settings: Settings) -> TabularMDP:
    return with_reward(problem, reward, per_outcome=False if settings.causal else None)


def paid(reward: AbstractReward, paying: TabularMDP, data: Evidence) -> Float[Array, ""]:
    """What the demonstrations earn: `sum visits r`, and what is paid at the horizon."""
    if data.transitions is not None:
        seen = data.transitions
        rewards = jax.vmap(reward)(seen.state, seen.action, seen.successor, seen.terminated)
        total = jnp.sum(jnp.asarray(seen.visits) * rewards)
    else:
        total = jnp.sum(jnp.asarray(data.pairs) * paying.reward)
    if data.final is not None and isinstance(paying.criterion, FiniteHorizon):
        total += jnp.sum(jnp.asarray(data.final) * jnp.asarray(paying.criterion.terminal_reward))
    return total


value_and_gradient = jax.jit(jax.value_and_grad(loss, has_aux=True), static_argnames="settings")


@partial(jax.jit, static_argnames="settings")
def hessian(parameters, rest, problem, data, numbers, guess, settings):
    """Of the loss, in the order of `ravel_pytree`."""
    flat, unravel = ravel_pytree(parameters)

    def gradient(x):
        return jax.grad(lambda v: loss(unravel(v), rest, problem, data, numbers, guess, settings)[0])(x)

    return jax.jacfwd(gradient)(flat)


@partial(jax.jit, static_argnames="settings")
def under_model(parameters, rest, problem, data, numbers, settings):
    """The forward pass written out: values, log-policy, visits, how it ended, and by them the expected derivative of
    the reward in its parameters, for the model and for the demonstrations: with a linear reward, both feature
    expectations."""
    paying = _paying(problem, eqx.combine(parameters, rest), settings)
    initial = jnp.asarray(data.initial)
    if settings.tilt_start:
        found = backward_pass(paying, numbers.temperature, False, settings.prior, numbers.tolerance, settings.max_steps)
        log_start = found.log_partition + jnp.log(jnp.asarray(problem.initial))
        initial = jax.nn.softmax(log_start)
    planned, pairs, last, code = model_visits(
        paying, numbers.temperature, initial, settings.causal, settings.prior, numbers.tolerance, settings.max_steps
    )
    summed = jnp.sum(pairs, axis=0) if pairs.ndim == 3 else pairs
    model = Evidence(summed, None, None, initial, None if data.final is None else last)

    def earned(weights, by: Evidence):
        reward = eqx.combine(weights, rest)
        return paid(reward, _paying(problem, reward, settings), by)

    derivatives = [ravel_pytree(jax.grad(earned)(parameters, by))[0] for by in (model, data)]
    return planned.value, planned.log_policy, pairs, code, *derivatives
