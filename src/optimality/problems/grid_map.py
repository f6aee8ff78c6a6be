"""Where the states of a grid problem lie, so that values and policies can be drawn; it changes no number."""

from typing import NamedTuple


class GridMap(NamedTuple):
    """Rows of one-character labels, the state of each cell (-1 for a wall), and each action's step.

    `moves[a]` is (rows down, columns right), or None for an action that is not a step.
    """

    labels: tuple[str, ...]
    states: tuple[tuple[int, ...], ...]
    moves: tuple[tuple[int, int] | None, ...]

    @property
    def shape(self) -> tuple[int, int]:
        return len(self.labels), len(self.labels[0])

    @classmethod
    def row_by_row(cls, labels: tuple[str, ...], moves: tuple[tuple[int, int] | None, ...]) -> "GridMap":
        """Every cell is a state, numbered along the rows."""
        columns = len(labels[0])
        states = tuple(tuple(row * columns + column for column in range(columns)) for row in range(len(labels)))
        return cls(labels, states, moves)
