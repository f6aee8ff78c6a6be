"""Demonstrations from objects like the trajectories of `imitation`, which need not be installed."""

from collections.abc import Iterable
from typing import Any

import numpy as np

from optimality.sampling.demonstration_arrays import from_arrays
from optimality.sampling.demonstrations import Demonstrations


def from_trajectories(trajectories: Iterable[Any]) -> Demonstrations:
    """From objects with `obs` `[T + 1, ...]`, `acts` `[T, ...]`, `terminal` and, where all have them, `rews` `[T]`.

    Raises `ValueError` for a missing attribute, and for whatever `Demonstrations.from_arrays` refuses.
    """
    trajectories = list(trajectories)
    for number, trajectory in enumerate(trajectories):
        missing = [name for name in ("obs", "acts", "terminal") if not hasattr(trajectory, name)]
        if missing:
            raise ValueError(
                f"trajectory {number} is {type(trajectory).__name__} without {missing[0]!r}: a trajectory has obs, "
                "acts, terminal and perhaps rews; for plain arrays use Demonstrations.from_arrays."
            )
    rewards = [getattr(trajectory, "rews", None) for trajectory in trajectories]
    known = all(reward is not None for reward in rewards)
    return from_arrays(
        [np.asarray(trajectory.obs) for trajectory in trajectories],
        [np.asarray(trajectory.acts) for trajectory in trajectories],
        terminated=[trajectory.terminal for trajectory in trajectories],
        reward=[np.asarray(reward, np.float64) for reward in rewards] if known else None,
    )
