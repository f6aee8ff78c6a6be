"""What acts: the policy half of the learner protocol."""

import abc
from typing import Any

import equinox as eqx
from jaxtyping import PRNGKeyArray


class AbstractPolicy(eqx.Module):
    """Acts on one unbatched observation; runners map it over environments. Its leaves are arrays, and few."""

    @abc.abstractmethod
    def start(self, observation: Any, key: PRNGKeyArray) -> Any:
        """The carry at every reset: hidden state, time, an episode's own parameters; None without memory."""

    @abc.abstractmethod
    def act(self, carry: Any, observation: Any, key: PRNGKeyArray) -> tuple[Any, Any, Any]:
        """`(carry, action, extras)`."""
