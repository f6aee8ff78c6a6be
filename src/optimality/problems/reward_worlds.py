"""Grids whose reward is made of features: the test beds of inverse reinforcement learning.

`objectworld` (Levine, Popovic and Koltun 2011, section 6.1) and `macrocell_gridworld` (Abbeel and Ng 2004, section
5.1), each beside the function that gives the features its reward is made of, or hidden in.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from optimality.problems.criterion import Criterion, Discounted
from optimality.problems.grid_map import GridMap
from optimality.problems.outcomes import Outcomes
from optimality.problems.tabular import TabularMDP

_MOVES = ((0, -1), (1, 0), (0, 1), (-1, 0))


class Objects(NamedTuple):
    """Where colored things lie: cells, and the colors of their inside and rim."""

    cell: Int[np.ndarray, "objects 2"]
    inner: Int[np.ndarray, " objects"]
    outer: Int[np.ndarray, " objects"]


def objectworld(
    size: int = 32,
    objects: int = 50,
    colors: int = 2,
    wind: float = 0.3,
    seed: int = 0,
    *,
    criterion: Criterion | None = None,
) -> TabularMDP:
    """A square grid with things in random cells, each with an inner and an outer color.

    A state is worth 1 within 3 cells of an outer color 0 and within 2 of an outer color 1, -1 within 3 of color 0
    alone, else 0; inner colors only distract. Actions are left, down, right, up and staying; with probability `wind` a
    random one of the five happens. The first state is uniform, the criterion `Discounted(0.9)` unless another is given.
    """
    near = _distances(_place(size, objects, colors, seed), size, colors)[:, colors:]
    first, second = near[:, 0] <= 3.0, near[:, 1] <= 2.0
    paid = np.where(first & second, 1.0, np.where(first, -1.0, 0.0))
    moves = (*_MOVES, None)
    return _windy_grid(size, moves, wind, paid, Discounted(0.9) if criterion is None else criterion, "objectworld")


def objectworld_features(
    size: int = 32, objects: int = 50, colors: int = 2, seed: int = 0, *, continuous: bool = False
) -> Float[np.ndarray, "states features"]:
    """Of the world of the same arguments: the distance to the nearest thing of each inner and each outer color, or,
    unless `continuous`, whether it is less than 1, 2, ..., `size`."""
    distances = _distances(_place(size, objects, colors, seed), size, colors)
    if continuous:
        return distances
    return (distances[:, :, None] < np.arange(1, size + 1)).reshape(size * size, -1).astype(np.float64)


def macrocell_gridworld(
    size: int = 128, macrocell: int = 16, noise: float = 0.3, seed: int = 0, *, criterion: Criterion | None = None
) -> TabularMDP:
    """A square grid in which all cells of a square region are worth the same.

    Each region is worth nothing with probability 0.9, else a uniform random number; together they sum to one. Moves
    left, down, right or up fail with probability `noise`, and then a random one of the four happens. The first state is
    uniform, the criterion `Discounted(0.99)` unless another is given.
    """
    features = macrocell_features(size, macrocell)
    random = np.random.default_rng(seed)
    worth = np.zeros(features.shape[1])
    while not worth.any():
        worth = np.where(random.random(worth.size) < 0.1, random.random(worth.size), 0.0)
    criterion = Discounted(0.99) if criterion is None else criterion
    return _windy_grid(size, _MOVES, noise, features @ (worth / worth.sum()), criterion, "macrocell-gridworld")


def macrocell_features(size: int = 128, macrocell: int = 16) -> Float[np.ndarray, "states regions"]:
    """Which region each cell lies in, as unit vectors."""
    if size < 1 or macrocell < 1 or size % macrocell:
        raise ValueError(f"regions of {macrocell} cells do not tile a grid of {size}: size must be a multiple.")
    row, column = np.divmod(np.arange(size * size), size)
    across = size // macrocell
    return np.eye(across * across)[(row // macrocell) * across + column // macrocell]


def _place(size: int, objects: int, colors: int, seed: int) -> Objects:
    if size < 1 or colors < 2 or not colors <= objects <= size * size:
        raise ValueError(
            f"an object world needs two colors and a thing of each on distinct cells, but {objects} things of {colors} "
            f"colors on {size * size} cells were asked for."
        )
    random = np.random.default_rng(seed)
    cells = np.stack(np.divmod(random.choice(size * size, objects, replace=False), size), axis=1)
    inner, outer = random.integers(0, colors, (2, objects))
    inner[:colors], outer[:colors] = np.arange(colors), np.arange(colors)  # each color occurs
    return Objects(cells, inner, outer)


def _distances(things: Objects, size: int, colors: int) -> Float[np.ndarray, "states colors"]:
    """Euclidean, to the nearest of each inner color and then of each outer one."""
    cells = np.stack(np.divmod(np.arange(size * size), size), axis=1)
    apart = np.linalg.norm(cells[:, None] - things.cell[None], axis=2)
    columns = [apart[:, kind == color].min(axis=1) for kind in (things.inner, things.outer) for color in range(colors)]
    return np.stack(columns, axis=1)


def _windy_grid(size: int, moves, noise: float, paid, criterion: Criterion, name: str) -> TabularMDP:
    if not 0.0 <= noise <= 1.0:
        raise ValueError(f"the probability of a random move must be in [0, 1], but {noise} was given.")
    states, actions = size * size, len(moves)
    row, column = np.divmod(np.arange(states), size)
    ahead = []
    for move in moves:
        down, right = (0, 0) if move is None else move
        ahead.append(np.clip(row + down, 0, size - 1) * size + np.clip(column + right, 0, size - 1))
    state, action, happens = np.meshgrid(np.arange(states), np.arange(actions), np.arange(actions), indexing="ij")
    probability = np.where(action == happens, 1.0 - noise + noise / actions, noise / actions)
    lists = (state, action, np.stack(ahead)[happens, state], probability, paid[state], np.zeros(state.shape, bool))
    outcomes = Outcomes(*(array.reshape(-1) for array in lists))
    grid = GridMap.row_by_row(("." * size,) * size, moves)
    return TabularMDP.from_outcomes(outcomes, criterion=criterion, states=states, actions=actions, grid=grid, name=name)
