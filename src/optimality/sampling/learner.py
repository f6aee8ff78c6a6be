"""The learner protocol: one learner, run on a compiled environment or on a Gymnasium one.

policy  = learner.policy(state, explore=True)
rollout = collect(learner.collection, policy, runner, key)
state   = learner.update(learner.observe(state, rollout), rollout, key, reward)
"""

import abc
from collections.abc import Callable
from functools import partial
from typing import Any

import equinox as eqx
import jax
from jaxtyping import Array, PRNGKeyArray

from optimality.sampling.collection import collect
from optimality.sampling.transitions import Collection, Rollout, Spec, Transition, environment_reward

Metrics = dict[str, Any]
"""Names to scalars: arrays inside a compiled chunk, numbers outside."""

Reward = Callable[[Transition], Array]


class AbstractLearner(eqx.Module):
    """A method that learns from samples. Its fields are its hyper-parameters; everything it learns is in its state.

    `collection` says what one step collects, `warm_up` how many transitions are observed before the first update, and
    `environments` how many environments `train` makes where it is given an id.
    """

    collection: eqx.AbstractVar[Collection]
    warm_up: eqx.AbstractVar[int]
    environments: eqx.AbstractVar[int]

    @abc.abstractmethod
    def init(self, spec: Spec, key: PRNGKeyArray, data: Any = None) -> Any:
        """The first state; shapes depend on `spec` and sizes only. `data`: demonstrations or an initial policy."""

    @abc.abstractmethod
    def policy(self, state: Any, *, explore: bool) -> Any:
        """The policy of a state; `explore=False` for evaluation and export. Selects leaves, computes nothing."""

    @abc.abstractmethod
    def observe(self, state: Any, rollout: Rollout) -> Any:
        """Takes in a rollout without learning from it: replay, normalizers, counts."""

    @abc.abstractmethod
    def update(
        self, state: Any, rollout: Rollout, key: PRNGKeyArray, reward: Reward = environment_reward
    ) -> tuple[Any, Metrics]:
        """Learns. `reward` maps one transition to a scalar and is applied to each batch just before its use."""

    def step(self, state: Any, runner: Any, key: PRNGKeyArray) -> tuple[Any, Any, Metrics]:
        """Collect, observe, update. Meta-learners override this, nobody else."""
        collect_key, update_key = split(key)
        # Through the class: a method taken from a module is a module itself, whose construction a host loop would feel.
        policy = type(self).policy(self, state, explore=True)
        runner, rollout = collect(self.collection, policy, runner, collect_key)
        state, metrics = learn(self, state, rollout, update_key)
        return state, runner, metrics


@partial(jax.jit, donate_argnums=1)
def learn(learner: AbstractLearner, state: Any, rollout: Rollout, key: PRNGKeyArray) -> tuple[Any, Metrics]:
    """Observe and update in one compiled call that takes over the state's memory; inlined under an outer `jit`."""
    return learner.update(learner.observe(state, rollout), rollout, key)


@partial(jax.jit, static_argnums=1)
def split(key: PRNGKeyArray, number: int = 2) -> tuple[PRNGKeyArray, ...]:
    """Keys as a tuple; compiled, because splitting eagerly costs as much as a step of a small environment."""
    return tuple(jax.random.split(key, number))
