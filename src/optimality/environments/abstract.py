"""What every environment offers: pure functions of a state, unbatched, with spaces of Gymnasium.

    state, observation = environment.reset(key)
    state, observation, reward, terminated, truncated = environment.step(key, state, action)

Physical parameters are leaves, so a batch of tasks is one environment whose leaves have a leading axis, used under
`vmap`. Nothing resets itself: after `terminated` or `truncated` whoever drives the environment calls `reset`, and has
seen the true last observation. `reset` gives float32; `step` computes in the precision of the state it is given, so
`cast_floats(state, jnp.float64)` makes an episode float64 where 64-bit numbers are on.
"""

import abc
from typing import Any

import equinox as eqx
from gymnasium import Space
from jaxtyping import Array, Bool, Float, PRNGKeyArray

Moved = tuple[Any, Any, Float[Array, ""], Bool[Array, ""], Bool[Array, ""]]
"""State, observation, reward, terminated, truncated."""


class AbstractEnvironment(eqx.Module):
    """An environment as a pure function of its state."""

    @abc.abstractmethod
    def reset(self, key: PRNGKeyArray) -> tuple[Any, Any]:
        """A first state and its observation."""

    @abc.abstractmethod
    def step(self, key: PRNGKeyArray, state: Any, action: Any) -> Moved:
        """What `action` leads to. `terminated`: the episode is over, nothing follows. `truncated`: a time limit; what
        follows is merely not shown. After either the state is not to be used again."""

    @property
    @abc.abstractmethod
    def observation_space(self) -> Space:
        """A property and no field: spaces do not hash. It needs concrete parameters."""

    @property
    @abc.abstractmethod
    def action_space(self) -> Space: ...

    @property
    @abc.abstractmethod
    def time_limit(self) -> int | None:
        """Largest number of steps of an episode, after which `truncated` is true, or None."""

    @abc.abstractmethod
    def action_mask(self, state: Any) -> Bool[Array, " actions"] | None:
        """Which actions the state offers, or None where every action is always possible."""
