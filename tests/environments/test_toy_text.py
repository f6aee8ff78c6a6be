"""Gymnasium's tables compile under their own names, and mean the same."""

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import optimality as ox
from optimality.environments.catalog import CATALOG, make
from optimality.sampling.compiled_runner import CompiledRunner

NAMES = ("FrozenLake-v1", "FrozenLake8x8-v1", "CliffWalking-v1", "Taxi-v4")


@pytest.mark.parametrize("name", NAMES)
def test_the_table_the_limit_and_the_threshold_are_gymnasiums(name):
    ours, theirs, spec = make(name).problem, ox.TabularMDP.from_gymnasium(name), gymnasium.spec(name)
    for one, other in zip(ours.outcomes(), theirs.outcomes(), strict=True):
        np.testing.assert_array_equal(one, other)
    np.testing.assert_array_equal(ours.initial, theirs.initial)
    assert ours.criterion == theirs.criterion
    assert CATALOG[name].time_limit == spec.max_episode_steps
    assert CATALOG[name].reward_threshold == spec.reward_threshold


def test_options_reach_gymnasium():
    dry = make("FrozenLake-v1", is_slippery=False).problem
    assert dry.outcomes().probability.max() == 1.0
    with pytest.raises(ValueError, match="FrozenLake-v1 has no parameter 'slippery'"):
        make("FrozenLake-v1", slippery=False)
    with pytest.raises(ValueError, match="does not take these options"):
        make("FrozenLake-v1", map_name="7x7")


def test_an_episode_of_the_lake_pays_at_the_goal_only():
    """Down, down, right, right, down, right on firm ice."""
    environment = make("FrozenLake-v1", is_slippery=False)
    state, observation = environment.reset(jax.random.key(0))
    path, total = [int(observation)], 0.0
    for action in (1, 1, 2, 2, 1, 2):
        state, observation, reward, terminated, _ = environment.step(jax.random.key(0), state, jnp.asarray(action))
        path.append(int(observation))
        total += float(reward)
    assert path == [0, 4, 8, 9, 10, 14, 15]
    assert total == 1.0
    assert bool(terminated)


def test_the_lake_is_compiled_by_default():
    run = ox.train("FrozenLake-v1", ox.SoftQLearning(temperature=0.1, warm_up=0), steps=64, chunk=32)
    assert run.config["environment"]["backend"] == "jax"
    assert CompiledRunner(make("FrozenLake-v1"), 1).spec.observations == 16
