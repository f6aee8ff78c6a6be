"""Gymnasium's own tables, entry by entry."""

import gymnasium
import numpy as np
import pytest
from gymnasium.envs.toy_text.frozen_lake import FrozenLakeEnv
from gymnasium.wrappers import TimeLimit

from optimality import Discounted, FiniteHorizon, TabularMDP, UntilTermination


def outcomes_of(mdp):
    """(state, action) -> {(successor, reward, terminated): probability}"""
    table = {}
    lists = [(mdp.model.going_on, False)] if hasattr(mdp.model, "going_on") else []
    assert lists, "the tables of Gymnasium are sparse"
    if mdp.model.ending is not None:
        lists.append((mdp.model.ending, True))
    for part, over in lists:
        deviation = np.zeros_like(part.probability) if part.deviation is None else part.deviation
        for k, a, s in np.argwhere(part.probability > 0.0):
            reward = round(mdp.reward[s, a] + deviation[k, a, s], 9)
            table.setdefault((s, a), {})[int(part.successor[k, a, s]), reward, over] = part.probability[k, a, s]
    return table


@pytest.mark.parametrize(
    ("name", "shape", "criterion"),
    [
        ("FrozenLake-v1", (16, 4), FiniteHorizon(100)),
        ("CliffWalking-v1", (48, 4), UntilTermination()),
        ("Taxi-v4", (500, 6), FiniteHorizon(200)),
    ],
)
def test_tables(name, shape, criterion):
    mdp = TabularMDP.from_gymnasium(name)
    environment = gymnasium.make(name)
    assert mdp.shape == shape
    assert mdp.name == name
    assert type(mdp.criterion) is type(criterion)
    assert getattr(mdp.criterion, "horizon", None) == getattr(criterion, "horizon", None)
    np.testing.assert_allclose(mdp.initial, environment.unwrapped.initial_state_distrib)
    ours = outcomes_of(mdp)
    for s, row in environment.unwrapped.P.items():
        for a, outcomes in row.items():
            expected = {}
            for p, t, r, over in outcomes:
                if p > 0.0:
                    key = (int(t), round(float(r), 9), bool(over))
                    expected[key] = expected.get(key, 0.0) + p
            assert ours[s, a] == pytest.approx(expected, abs=1e-12)
    environment.close()


def test_options_and_criterion():
    slippery = TabularMDP.from_gymnasium("FrozenLake-v1")
    firm = TabularMDP.from_gymnasium("FrozenLake-v1", is_slippery=False, criterion=Discounted(0.9), initial=3)
    assert slippery.model.going_on.successor.shape[0] == 3
    assert firm.model.going_on.successor.shape[0] == 1
    assert firm.criterion.discount == 0.9
    assert firm.initial.argmax() == 3
    assert slippery.grid.labels[0] == "SFFF"
    large = TabularMDP.from_gymnasium("FrozenLake-v1", map_name="8x8")
    assert large.shape == (64, 4)
    assert large.criterion.horizon == 100


def test_constructed_environments():
    registered = gymnasium.make("FrozenLake-v1", max_episode_steps=30)
    assert TabularMDP.from_gymnasium(registered).criterion.horizon == 30
    assert TabularMDP.from_gymnasium(TimeLimit(registered, 17)).criterion.horizon == 17
    assert TabularMDP.from_gymnasium(TimeLimit(FrozenLakeEnv(), 9)).criterion.horizon == 9
    plain = TabularMDP.from_gymnasium(FrozenLakeEnv())
    assert isinstance(plain.criterion, UntilTermination)
    assert plain.name == "FrozenLakeEnv"
    with pytest.raises(ValueError, match="this environment is made already"):
        TabularMDP.from_gymnasium(registered, is_slippery=False)
    assert registered.reset(seed=0)[0] == 0  # left open: it is the caller's


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("NoSuchLake-v1", {}, "does not know the environment 'NoSuchLake-v1'"),
        ("no_such_module:Lake-v1", {}, "does not know the environment"),
        ("CartPole-v1", {}, "CartPole-v1 has no table of its dynamics"),
        ("FrozenLake-v1", {"no_such_option": 1}, "does not take these options"),
        ("FrozenLake-v1", {"map_name": "7x7"}, "does not take these options: '7x7'"),
    ],
)
def test_what_is_refused(name, options, message):
    with pytest.raises(ValueError, match=message):
        TabularMDP.from_gymnasium(name, **options)
