"""Collection over a runner: pure where the runner is."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PRNGKeyArray

from optimality.sampling.transitions import Collection, Rollout, Steps, assembled


def collect(collection: Collection, policy: Any, runner: Any, key: PRNGKeyArray) -> tuple[Any, Rollout]:
    """`(runner, rollout)`: steps go on from where the runner stands; episodes start afresh and all are kept.

    Raises `ValueError` for episodes where nothing bounds their length.
    """
    if isinstance(collection, Steps):
        after, transitions = runner.run(policy, key, collection.number, restart=True)
        return after, assembled(Rollout, transitions, runner.carry)
    limit = runner.time_limit
    if limit is None:
        raise ValueError(
            "whole episodes are collected, but the environment has no time limit to pad them to: wrap it in "
            "TimeLimit(environment, steps) or use a method that collects steps."
        )
    rounds = []
    for round_key in jax.random.split(key, collection.number):
        reset_key, run_key = jax.random.split(round_key)
        runner = runner.reset(policy, reset_key)
        after, transitions = runner.run(policy, run_key, limit, restart=False)
        rounds.append(Rollout(transitions, runner.carry))
        runner = after
    if len(rounds) == 1:
        return runner, rounds[0]
    transitions = jax.tree.map(_joined(1), *(played.transitions for played in rounds))
    carry = jax.tree.map(_joined(0), *(played.carry for played in rounds))
    return runner, Rollout(transitions, carry)


def _joined(axis: int) -> Any:
    def join(*parts):
        array = np if isinstance(parts[0], np.ndarray) else jnp
        return array.concatenate(parts, axis=axis)

    return join
