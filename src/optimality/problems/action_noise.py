"""The same table with a hand that trembles: sometimes another action happens than the one that was chosen."""

import numpy as np

from optimality.problems.outcomes import Outcomes
from optimality.problems.tabular import TabularMDP


def with_action_noise(problem: TabularMDP, probability: float) -> TabularMDP:
    """`p'(. | s, a) = (1 - probability) p(. | s, a) + probability mean_b p(. | s, b)`, over the allowed actions b.

    Outcomes keep their rewards. Raises `ValueError` for a probability outside [0, 1].
    """
    if not 0.0 <= probability <= 1.0:
        raise ValueError(f"probability must be in [0, 1], but {probability} was given.")
    listed, allowed = problem.outcomes(), np.asarray(problem.allowed)
    offered = allowed[listed.state, listed.action]  # a table may list what forbidden actions would do
    own = Outcomes(*(column[offered] for column in listed))
    chosen, happens = np.nonzero(allowed[own.state].T)  # every allowed choice, for every outcome of its state
    share = probability / allowed.sum(axis=1)[own.state[happens]]
    mixed = [np.concatenate([column, column[happens]]) for column in own]
    state, action, successor, chance, reward, terminated = mixed
    size = own.state.size
    chance[:size] *= 1.0 - probability
    chance[size:] *= share
    action[size:] = chosen
    return TabularMDP.from_outcomes(
        Outcomes(state, action, successor, chance, reward, terminated),
        criterion=problem.criterion,
        initial=np.asarray(problem.initial),
        states=problem.shape[0],
        actions=problem.shape[1],
        allowed=allowed,
        log_prior=problem.log_prior,
        grid=problem.grid,
        name=problem.name,
    )
