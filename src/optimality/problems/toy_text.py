"""The tables that Gymnasium ships, by name: FrozenLake, CliffWalking, Taxi; they compile where a table is an
environment."""

from optimality.problems.criterion import Criterion
from optimality.problems.gymnasium_table import read_table
from optimality.problems.tabular import TabularMDP


def frozen_lake(
    map_name: str = "4x4",
    is_slippery: bool = True,
    success_rate: float = 1.0 / 3.0,
    *,
    criterion: Criterion | None = None,
) -> TabularMDP:
    """Gymnasium's FrozenLake: cross the ice to the goal, which pays 1, without a hole.

    Args:
        map_name: `4x4` or `8x8`.
        is_slippery: whether a move may go sideways.
        success_rate: probability of the move that was meant, where it is slippery.
        criterion: what is to be maximized; by default Gymnasium's time limit.

    Raises:
        ValueError: another map, or what Gymnasium refuses.
    """
    return read_table(
        "FrozenLake8x8-v1" if map_name == "8x8" else "FrozenLake-v1",
        criterion=criterion,
        map_name=map_name,
        is_slippery=is_slippery,
        success_rate=success_rate,
    )


def frozen_lake_8x8(
    is_slippery: bool = True, success_rate: float = 1.0 / 3.0, *, criterion: Criterion | None = None
) -> TabularMDP:
    """`frozen_lake` on its larger map."""
    return frozen_lake("8x8", is_slippery, success_rate, criterion=criterion)


def cliff_walking(is_slippery: bool = False, *, criterion: Criterion | None = None) -> TabularMDP:
    """Gymnasium's CliffWalking: along a cliff, -1 a step and -100 for falling, which leads back to the start."""
    return read_table("CliffWalking-v1", criterion=criterion, is_slippery=is_slippery)


def taxi(is_rainy: bool = False, fickle_passenger: bool = False, *, criterion: Criterion | None = None) -> TabularMDP:
    """Gymnasium's Taxi: fetch a passenger, -1 a step, 20 for delivering, -10 for a wrong attempt."""
    return read_table("Taxi-v4", criterion=criterion, is_rainy=is_rainy, fickle_passenger=fickle_passenger)
