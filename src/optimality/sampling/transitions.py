"""What is collected, and how much of it at a time."""

from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array


class Steps(NamedTuple):
    """Collect `number` steps of each environment; episodes go on over the border of a rollout."""

    number: int


class Episodes(NamedTuple):
    """Collect `number` whole episodes of each environment, padded to the time limit (`valid = False`).

    As many are started as are kept, so that short episodes are not favored; an environment without a time limit
    is refused. Evaluation is the same thing.
    """

    number: int = 1


Collection = Steps | Episodes


class MaskedObservation(NamedTuple):
    """What is seen where states restrict the actions: the observation, and which actions are offered `[actions]`.

    Runners give it for `observation` and `next_observation` of such environments, so that masks travel through rollouts
    and replay unseen by whoever does not ask for them.
    """

    observation: Any
    mask: Any


def action_mask_of(observation: Any) -> Any:
    """Which actions an observation offers, or None where every action always is."""
    return observation.mask if isinstance(observation, MaskedObservation) else None


class Transition(eqx.Module):
    """One step; in a rollout every leaf has leading axes `[time, environment]`.

    `next_observation` is the true next one, also where a reset follows. `valid = False` marks padding. `extras` is what
    the policy's `act` gave beside the action (a log-probability, say): small, for it enters the replay.
    """

    observation: Any
    action: Any
    reward: Any
    next_observation: Any
    terminated: Any
    truncated: Any
    valid: Any
    extras: Any

    @property
    def done(self) -> Any:
        """Whether an episode is over after this step, for either reason."""
        return self.terminated | self.truncated


def assembled(cls: type, *values: Any) -> Any:
    """A module from the values of its fields, in a tenth of the time of its constructor: for host loops."""
    module = object.__new__(cls)
    for name, value in zip(cls.__dataclass_fields__, values, strict=True):
        object.__setattr__(module, name, value)
    return module


class Rollout(eqx.Module):
    """Transitions, and the policy's carry `[environment, ...]` before the first of them.

    Without that carry recurrent policies cannot be replayed, and parameters that an episode draws once would have to be
    stored at every step.
    """

    transitions: Transition
    carry: Any


class Spec(NamedTuple):
    """What a learner needs to know of its environments: shapes and sizes, nothing that depends on numbers' values.

    `actions` counts discrete actions, None where actions are continuous; then `low` and `high` bound them. Where states
    restrict the actions, `observation` is a `MaskedObservation` of shapes. `observations` counts observations that are
    indices, None where they are numbers.
    """

    observation: jax.ShapeDtypeStruct | MaskedObservation
    action: jax.ShapeDtypeStruct
    actions: int | None
    low: np.ndarray | None
    high: np.ndarray | None
    environments: int
    time_limit: int | None
    observations: int | None = None


def environment_reward(transition: Transition) -> Array:
    """The reward as it came."""
    return transition.reward


def where(mask: Array, yes: Any, no: Any) -> Any:
    """`jnp.where` over trees, with `mask` over the leading axes."""

    def choose(a, b):
        return jnp.where(mask.reshape(mask.shape + (1,) * (jnp.ndim(a) - mask.ndim)), a, b)

    return jax.tree.map(choose, yes, no)
