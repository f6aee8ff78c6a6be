"""What an expert did: `Demonstrations`, episodes side by side."""

from typing import Any

import equinox as eqx
import numpy as np
from jaxtyping import Array, Bool, Float


class Demonstrations(eqx.Module):
    """`N` episodes of at most `T` steps, padded to `T`.

    Concrete arrays are NumPy. Make them with `from_arrays`, which validates.
    """

    observation: Any
    """`[N, T + 1, ...]`: what was seen before each step and after the last one; on tables the state's index."""
    action: Any
    """`[N, T, ...]`, or None where only observations were recorded."""
    valid: Bool[Array | np.ndarray, "episodes time"]
    """Which steps were taken; the rest is padding, always at the end."""
    terminated: Bool[Array | np.ndarray, " episodes"]
    """Whether the episode's last step ended it; False where it was cut off."""
    reward: Float[Array | np.ndarray, "episodes time"] | None = None
    log_probability: Float[Array | np.ndarray, "episodes time"] | None = None
    """Of the actions, under whoever took them."""
    log_weight: Float[Array | np.ndarray, " episodes"] | None = None
    """How much each episode counts, relative to the others; all the same by default."""

    @property
    def lengths(self) -> Any:
        """Steps of each episode, `[N]`."""
        return self.valid.sum(axis=1)

    @property
    def weights(self) -> np.ndarray:
        """Of the episodes, summing to one."""
        if self.log_weight is None:
            return np.full(self.valid.shape[0], 1.0 / self.valid.shape[0])
        shifted = np.exp(np.asarray(self.log_weight) - np.max(self.log_weight))
        return shifted / shifted.sum()
