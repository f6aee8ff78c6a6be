"""A finite problem as a process that never ends, and the stationary law of a chain.

    average reward    P'(s' | s, a) = P(s' | s, a)
    discounted        P'(s' | s, a) = discount P(s' | s, a) + (1 - discount) mu0(s')

The discount is a chance of starting again from the initial law `mu0`; the stationary law of `P'` is then the discounted
occupancy times `1 - discount` (Puterman 1994, section 6.9; van Hoof, Neumann and Peters 2017, section 2). What
terminated either starts again at once (`restart`), or waits without reward for that chance in one state more
(`wait`). Only the second has the discounted sum of rewards as its objective: the first is that sum over the expected
discounted length of an episode.
"""

from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float
from scipy.sparse.csgraph import connected_components

from optimality.problems.criterion import AverageReward
from optimality.problems.tabular import TabularMDP

AfterTermination = Literal["restart", "wait"]


class Process(NamedTuple):
    """Rows of `law` sum to one; with `wait` the last state is the one after termination, in which action 0 is taken."""

    law: Float[Array, "states actions successors"]
    reward: Float[Array, "states actions"]


def as_process(problem: TabularMDP, after_termination: AfterTermination = "restart") -> Process:
    """The process of an average-reward or a discounted problem."""
    law, reward = problem.dense(), jnp.asarray(problem.reward)
    if isinstance(problem.criterion, AverageReward):
        return Process(law, reward)
    discount = jnp.asarray(problem.discount, law.dtype)
    start = jnp.broadcast_to(jnp.asarray(problem.initial, law.dtype), law.shape)
    ended = ended_mass(problem)[..., None]
    going_on = discount * law + (1.0 - discount) * start
    if after_termination == "restart" or problem.model.ending is None:
        return Process(going_on + discount * ended * start, reward)
    _, actions = problem.shape
    rows = jnp.concatenate([going_on, discount * ended], axis=2)
    waiting = jnp.concatenate([(1.0 - discount) * start[:1], jnp.broadcast_to(discount, (1, actions, 1))], axis=2)
    return Process(jnp.concatenate([rows, waiting]), jnp.concatenate([reward, jnp.zeros_like(reward[:1])]))


def ended_mass(problem: TabularMDP) -> Float[Array, "states actions"]:
    """The probability that a pair's transition terminates."""
    ending = problem.model.ending
    dtype = jnp.asarray(problem.reward).dtype
    if ending is None:
        return jnp.zeros(problem.shape, dtype)
    return jnp.sum(jnp.asarray(ending.probability, dtype), axis=0).T


def stationary_law(transition: Float[Array, "states successors"]) -> Float[Array, " states"]:
    """The stationary law of a chain with one recurrent class, each entry to its own relative precision.

    By elimination of states without subtractions (Grassmann, Taksar and Heyman 1985), in the order of a dense solve,
    so that a transient state never stays behind; states of mass 1e-30 are as exact as the others. With several
    recurrent classes it is the law of one of them.
    """
    states = transition.shape[0]
    identity = jnp.eye(states, dtype=transition.dtype)
    uniform = jnp.full((states, states), 1.0 / states, transition.dtype)
    rough = jnp.linalg.solve((identity - transition + uniform).T, uniform[0])
    order = jnp.argsort(-rough)
    matrix = transition[order][:, order]
    index = jnp.arange(states, dtype=jnp.int32)

    def eliminate(step, matrix):
        last = states - 1 - step
        kept = index < last
        row = jnp.where(kept, matrix[last], 0.0)
        leaving = jnp.sum(row)
        column = jnp.where(kept, matrix[:, last], 0.0) / jnp.where(leaving > 0.0, leaving, jnp.inf)
        matrix = matrix.at[:, last].set(jnp.where(kept, column, matrix[:, last]))
        return matrix + column[:, None] * row[None, :]

    def collect(state, mass):
        arriving = jnp.sum(jnp.where(index < state, mass * matrix[:, state], 0.0))
        return mass.at[state].set(arriving)

    matrix = jax.lax.fori_loop(0, states - 1, eliminate, matrix)
    mass = jax.lax.fori_loop(1, states, collect, jnp.zeros(states, transition.dtype).at[0].set(1.0))
    return jnp.zeros_like(mass).at[order].set(mass / jnp.sum(mass))


def require_recurrent(problem: TabularMDP, taken: Bool[np.ndarray, "states actions"]) -> None:
    """Raises `ValueError` where a policy that takes these actions does not come back to some state. Concrete
    problems."""
    outcomes = problem.outcomes()
    taken = taken[outcomes.state, outcomes.action] & (outcomes.probability > 0.0)
    moves = np.zeros((problem.shape[0],) * 2, bool)
    moves[outcomes.state[taken], outcomes.successor[taken]] = True
    number, label = connected_components(moves, directed=True, connection="strong")
    if number == 1:
        return
    leaves = np.unique(label[np.nonzero(moves & (label[:, None] != label[None, :]))[0]])
    closed = np.setdiff1d(np.arange(number), leaves)
    if closed.size > 1:
        names = " and ".join(f"state {int(np.flatnonzero(label == one)[0])}" for one in closed[:2])
        raise ValueError(
            f"the first policy has {closed.size} recurrent classes (of {names}, for example), between which it never "
            "moves: average reward assumes one. Use Discounted(discount), or solve each class by itself."
        )
    transient = np.flatnonzero(label != closed[0])
    shown = ", ".join(str(state) for state in transient[:8]) + (", ..." if transient.size > 8 else "")
    raise ValueError(
        f"REPS improves a policy where it goes, and the first one leaves {transient.size} of {problem.shape[0]} states "
        f"for good: {shown}. Use Discounted(discount) with an initial law over them, leave them out of the problem, or "
        "give a first policy that comes back to them (log_prior and prior='problem')."
    )
