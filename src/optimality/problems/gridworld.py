"""Gridworlds from a text map."""

import numpy as np

from optimality.problems.criterion import Criterion
from optimality.problems.grid_map import GridMap
from optimality.problems.outcomes import Outcomes
from optimality.problems.tabular import TabularMDP

MOVES = ((0, -1), (1, 0), (0, 1), (-1, 0))
"""Left, down, right, up: (rows down, columns right)."""


def gridworld(
    map: str = "S..G/.#.H/....",
    slip: float = 0.2,
    step_reward: float = -0.04,
    goal_reward: float = 1.0,
    hole_reward: float = -1.0,
    *,
    criterion: Criterion | None = None,
) -> TabularMDP:
    """A walk on a map.

    Args:
        map: rows separated by `/` or line ends. `S` first state (several: uniform over them; none: over the floor),
            `G` goal and `H` hole (entering either ends the episode), `#` wall, `.` or `F` floor.
        slip: probability of going sideways instead, half to each side.
        step_reward: paid for every move.
        goal_reward: paid on entering a goal, on top.
        hole_reward: paid on entering a hole, on top.
        criterion: what is to be maximized.

    Raises:
        ValueError: rows of unequal length, unknown characters, no floor, or a slip outside [0, 1].
    """
    rows = tuple(row for row in map.replace("\n", "/").replace(" ", "").split("/") if row)
    if not rows or len({len(row) for row in rows}) != 1:
        raise ValueError(f"the map's rows must have one length, but they have {[len(row) for row in rows]}.")
    unknown = sorted(set("".join(rows)) - set("SGH#.F"))
    if unknown:
        raise ValueError(f"the map has unknown characters {unknown}: use S, G, H, #, . and F.")
    if not 0.0 <= slip <= 1.0:
        raise ValueError(f"slip must be a probability, but {slip} was given.")
    cells = [(r, c) for r, row in enumerate(rows) for c, label in enumerate(row) if label != "#"]
    state_of = {cell: state for state, cell in enumerate(cells)}
    floor = [state_of[cell] for cell in cells if rows[cell[0]][cell[1]] not in "GH"]
    if not floor:
        raise ValueError("the map has no cell to stand on: every character is a wall, a goal or a hole.")
    starts = [state_of[cell] for cell in cells if rows[cell[0]][cell[1]] == "S"] or floor
    initial = np.zeros(len(cells))
    initial[starts] = 1.0 / len(starts)

    outcomes = []
    for cell, state in state_of.items():
        label = rows[cell[0]][cell[1]]
        for action in range(4):
            if label in "GH":
                outcomes.append((state, action, state, 1.0, 0.0, True))
                continue
            for direction, probability in ((0, 1.0 - slip), (1, slip / 2), (-1, slip / 2)):
                down, right = MOVES[(action + direction) % 4]
                target = (cell[0] + down, cell[1] + right)
                target = target if target in state_of else cell
                entered = rows[target[0]][target[1]]
                bonus = {"G": goal_reward, "H": hole_reward}.get(entered, 0.0)
                outcomes.append((state, action, state_of[target], probability, step_reward + bonus, entered in "GH"))
    states = tuple(tuple(state_of.get((r, c), -1) for c in range(len(rows[0]))) for r in range(len(rows)))
    return TabularMDP.from_outcomes(
        Outcomes.of(outcomes),
        criterion=criterion,
        initial=initial,
        states=len(cells),
        actions=4,
        grid=GridMap(rows, states, MOVES),
        name="gridworld",
    )
