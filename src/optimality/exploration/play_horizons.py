"""How the decision to play changes with the number of games that may follow.

With one game left the break-even rate is that of a single game; each further one adds to what is learned by playing
now, so that values and break-even rates grow with the number. One compilation serves all numbers.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int

from optimality.core.numerics import at_precision
from optimality.exploration.exact_play import existing, opening
from optimality.exploration.play_index import play_index
from optimality.exploration.play_or_not import PlayOrNot
from optimality.problems.criterion import FiniteHorizon

GRID = 2**12
_ANY = FiniteHorizon(1)


class PlayHorizons(NamedTuple):
    """By number of games."""

    games: Int[np.ndarray, " numbers"]
    value: Float[np.ndarray, " numbers"]
    """Of the Bayes-optimal policy, free to stop after any game."""
    break_even: Float[np.ndarray, " numbers"]
    """The largest rate of the opportunity at which one plays now."""
    commitment: Float[np.ndarray, " numbers"]
    """Of playing all games whatever happens."""


def play_horizons(problem: PlayOrNot, games: Sequence[int], *, grid: int = GRID) -> PlayHorizons:
    """Value and break-even rate now for each number of games; the problem's own criterion is not looked at.

    Args:
        problem: beliefs and the rate of the opportunity.
        games: numbers of games, each at least 1.
        grid: nodes in the logarithm of rho, a power of two, at least 256; at 4,096 values are right to about seven
            digits.

    Raises:
        ValueError: no number of games, one below 1, or too few nodes.
    """
    numbers = np.asarray(games)
    if numbers.size == 0 or numbers.min() < 1:
        raise ValueError(f"games must be whole numbers, each at least 1, but {list(games)} was given.")
    if grid < 256:
        raise ValueError(f"grid must be at least 256, but {grid} was given.")
    rounded = 1 << (int(numbers.max()) - 1).bit_length()  # so that few lengths of the table are compiled
    compute = partial(_compiled, most_games=rounded, grid=grid)
    beliefs = problem.rewards, problem.times, problem.rate
    found = at_precision(lambda *p: compute(*p, numbers), *beliefs)
    return PlayHorizons(numbers, *found)


@partial(jax.jit, static_argnames=("most_games", "grid"))
def _compiled(rewards: Any, times: Any, rate: Any, games: Any, *, most_games: int, grid: int) -> tuple[Any, ...]:
    problem = PlayOrNot(rewards, times, rate, _ANY)
    shapes, _, _ = existing(rewards, times)

    def one(number):
        index = play_index(shapes, jnp.ones_like(rate), number, most_games=most_games, endless=False, grid=grid)
        start = opening(problem, index)
        return start.value, start.break_even, start.commitment

    return jax.lax.map(one, games)
