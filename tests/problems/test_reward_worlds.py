"""Worlds whose reward is made of features: the reward is what the features say, and moves what the page says."""

import numpy as np
import pytest

from instances import close
from optimality import macrocell_features, macrocell_gridworld, objectworld, objectworld_features


def test_an_objectworlds_reward_is_a_rule_of_its_distances():
    problem = objectworld(12, 8, seed=3)
    distances = objectworld_features(12, 8, seed=3, continuous=True)
    first, second = distances[:, 2] <= 3, distances[:, 3] <= 2
    expected = np.where(first & second, 1.0, np.where(first, -1.0, 0.0))
    close(problem.reward, np.repeat(expected[:, None], 5, axis=1))
    assert {-1.0, 0.0, 1.0} == set(np.unique(problem.reward))
    binary = objectworld_features(12, 8, seed=3)
    assert binary.shape == (144, 4 * 12)
    close(binary.reshape(144, 4, 12)[:, 2, 5], distances[:, 2] < 6)
    assert problem.discount == 0.9


def test_moves_fail_as_often_as_they_say():
    problem = objectworld(6, 4, wind=0.3)
    inside = 2 * 6 + 2
    law = np.asarray(problem.dense())[inside, 2]
    close(law[inside + 1], 0.7 + 0.06, 1e-6)
    close(law[[inside, inside - 1, inside + 6, inside - 6]], 0.06, 1e-6)
    corner = np.asarray(macrocell_gridworld(8, 4).dense())[0, 0]
    close(corner[0], 0.7 + 0.075 + 0.075, 1e-6)


def test_a_macrocells_cells_are_worth_the_same():
    problem, features = macrocell_gridworld(8, 4, seed=2), macrocell_features(8, 4)
    close(features.sum(axis=1), 1.0)
    close(features.sum(axis=0), 16.0)
    worth = np.linalg.lstsq(features, np.asarray(problem.reward)[:, 0])[0]
    close(features @ worth, np.asarray(problem.reward)[:, 0])
    close(worth.sum(), 1.0)


def test_sizes_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="do not tile"):
        macrocell_gridworld(10, 4)
    with pytest.raises(ValueError, match="two colors"):
        objectworld(4, 1)
    with pytest.raises(ValueError, match="random move"):
        objectworld(6, 4, wind=1.5)
