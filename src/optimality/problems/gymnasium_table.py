"""The table that a Gymnasium environment exposes: `P[state][action] = [(probability, next, reward, terminated)]`."""

from typing import Any

import gymnasium
import numpy as np

from optimality.problems.criterion import Criterion, FiniteHorizon, UntilTermination
from optimality.problems.grid_map import GridMap
from optimality.problems.gridworld import MOVES
from optimality.problems.outcomes import Outcomes
from optimality.problems.tabular import TabularMDP


def read_table(
    environment: str | gymnasium.Env,
    *,
    criterion: Criterion | None = None,
    initial: Any = None,
    **options: Any,
) -> TabularMDP:
    """Reads the model of a Gymnasium environment that has `P` (FrozenLake, CliffWalking, Taxi and their like).

    The table is the innermost environment's: wrappers that change rewards or observations do not change it.

    Args:
        environment: an id for `gymnasium.make`, or a constructed environment.
        criterion: what is to be maximized; by default the time limit, registered or put around it (`TimeLimit`), as
            `FiniteHorizon(max_episode_steps)`, or `UntilTermination()` where there is none.
        initial: law of the first state; by default the environment's `initial_state_distrib`.
        options: arguments for `gymnasium.make`.

    Raises:
        ValueError: unknown id, no table, or a table that is no model.
    """
    if isinstance(environment, str):
        environment = make(environment, **options)
        made_here = True
    elif options:
        raise ValueError(f"options {sorted(options)} are for an id; this environment is made already.")
    else:
        made_here = False
    try:
        return _read(environment, criterion, initial)
    finally:
        if made_here:
            environment.close()


def make(environment: str, **options: Any) -> gymnasium.Env:
    """`gymnasium.make` with errors that name the way out."""
    try:
        return gymnasium.make(environment, **options)
    except (gymnasium.error.Error, ModuleNotFoundError) as error:
        raise ValueError(f"Gymnasium does not know the environment {environment!r}: {error}") from error
    except (TypeError, KeyError) as error:
        raise ValueError(f"{environment} does not take these options: {error}") from error


def _read(environment: gymnasium.Env, criterion: Criterion | None, initial: Any) -> TabularMDP:
    plain = environment.unwrapped
    name = environment.spec.id if environment.spec is not None else type(plain).__name__
    table = getattr(plain, "P", None)
    if not isinstance(table, dict):
        raise ValueError(
            f"{name} has no table of its dynamics (no attribute `P`): exact planning needs the model. "
            "Environments with one are FrozenLake-v1, CliffWalking-v1 and Taxi-v4; "
            "for your own numbers use TabularMDP.from_arrays."
        )
    if initial is None:
        initial = getattr(plain, "initial_state_distrib", None)
        if initial is None:
            raise ValueError(f"{name} does not say where episodes begin (`initial_state_distrib`): pass initial=...")
        initial = np.asarray(initial, np.float64)
    if criterion is None:
        limit = time_limit(environment)
        criterion = UntilTermination() if limit is None else FiniteHorizon(limit)
    rows = [
        (int(state), int(action), int(successor), float(probability), float(reward), bool(terminated))
        for state, actions in table.items()
        for action, outcomes in actions.items()
        for probability, successor, reward, terminated in outcomes
    ]
    return TabularMDP.from_outcomes(
        Outcomes.of(rows),
        criterion=criterion,
        initial=initial,
        states=len(table),
        actions=max(len(actions) for actions in table.values()),
        grid=_grid(plain, len(table)),
        name=name,
    )


def time_limit(environment: gymnasium.Env) -> int | None:
    """The smallest limit among the wrappers and the registration; an environment never registered has no spec."""
    limits = [] if environment.spec is None else [environment.spec.max_episode_steps]
    while isinstance(environment, gymnasium.Wrapper):
        if isinstance(environment, gymnasium.wrappers.TimeLimit):
            limits.append(environment._max_episode_steps)
        environment = environment.env
    return min((limit for limit in limits if limit is not None and limit > 0), default=None)


def _grid(plain: Any, states: int) -> GridMap | None:
    """The two grids that Gymnasium ships; anything else is drawn as a table."""
    if hasattr(plain, "desc") and np.size(plain.desc) == states:
        rows = tuple("".join(cell.decode() for cell in row) for row in np.asarray(plain.desc))
        return GridMap.row_by_row(rows, MOVES)
    if hasattr(plain, "_cliff"):
        cliff = np.asarray(plain._cliff)
        labels = np.where(cliff, "H", ".")
        labels[-1, 0], labels[-1, -1] = "S", "G"
        rows = tuple("".join(row) for row in labels)
        return GridMap.row_by_row(rows, ((-1, 0), (0, 1), (1, 0), (0, -1)))
    return None
