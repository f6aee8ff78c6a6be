"""A policy for those who only want to act: NumPy in, NumPy out, one compiled call."""

import dataclasses
from typing import Any

import jax
import numpy as np

from optimality.sampling.policy import AbstractPolicy


class ActingPolicy:
    """Acts on one observation at a time. It keeps the memory of the running episode and the state of its randomness.

    policy.reset()                    # at the start of an episode; only policies with memory need it
    action = policy.act(observation)  # the mode; act(observation, sample=True) draws from the policy
    """

    def __init__(self, policy: AbstractPolicy, seed: int = 0):
        self.policy = policy
        self._key = jax.random.key(seed)
        self._carry: Any = None
        self._calls: dict[bool, Any] = {}

    def reset(self, seed: int | None = None) -> None:
        """Forgets the episode so far; with a seed, starts the randomness anew."""
        self._carry = None
        if seed is not None:
            self._key = jax.random.key(seed)

    def act(self, observation: Any, *, sample: bool = False) -> Any:
        """The action: an array, or an integer for discrete actions.

        Raises `ValueError` for an observation that is not finite.
        """
        if isinstance(observation, np.ndarray) and observation.dtype.kind == "f":
            if not np.isfinite(observation).all():
                raise ValueError(f"the observation is not finite: {observation}.")
            observation = observation.astype(np.float32, copy=False)
        call = self._calls.get(sample) or self._compiled(sample)
        if sample:
            action, self._carry, self._key = call(self._carry, observation, self._key)
        else:
            action, self._carry = call(self._carry, observation)
        action = np.asarray(action)
        return int(action) if action.ndim == 0 and action.dtype.kind == "i" else action

    def sampling(self, sample: bool) -> AbstractPolicy:
        """The policy inside, drawing its actions or taking the mode."""
        if not hasattr(self.policy, "sample"):
            return self.policy
        return dataclasses.replace(self.policy, sample=sample)  # pyright: ignore[reportArgumentType]

    def _compiled(self, sample: bool) -> Any:
        # The weights are constants of the program: passing them costs a microsecond or two a leaf at every call.
        policy = self.sampling(sample)

        def start_and_act(carry, observation, start_key, act_key):
            carry = policy.start(observation, start_key) if carry is None else carry
            carry, action, _ = policy.act(carry, observation, act_key)
            return action, carry

        def draw(carry, observation, key):
            key, start_key, act_key = jax.random.split(key, 3)
            return *start_and_act(carry, observation, start_key, act_key), key

        def decide(carry, observation):
            unused = jax.random.key(0)
            return start_and_act(carry, observation, unused, unused)

        call = jax.jit(draw if sample else decide)
        self._calls[sample] = call
        return call
