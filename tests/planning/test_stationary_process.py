"""Stationary laws to the precision of each entry, and problems as processes without end."""

import jax
import numpy as np
import pytest

import optimality as ox
from clauses import against
from instances import close
from optimality.planning.stationary_process import as_process, ended_mass, require_recurrent, stationary_law


def law_of(transition):
    with jax.enable_x64(True):
        return np.asarray(jax.jit(stationary_law)(np.asarray(transition, np.float64)))


def by_dense_solve(transition):
    """As accurate as the largest entry."""
    size = len(transition)
    return np.linalg.solve((np.eye(size) - transition + 1.0 / size).T, np.full(size, 1.0 / size))


@against(law_of, dense_solve=by_dense_solve, uniform=lambda transition: np.full(len(transition), 1.0 / len(transition)))
def test_small_masses_are_as_exact_as_large_ones(implementation):
    """A walk against the current, whose law is geometric, down to 1e-28."""
    size = 30
    walk = 0.1 * np.eye(size, k=1) + 0.9 * np.eye(size, k=-1)
    walk[0, 0], walk[-1, -1] = 0.9, 0.1
    for order in (np.arange(size), np.random.default_rng(0).permutation(size)):
        found = implementation(walk[order][:, order])
        expected = 9.0 ** -np.arange(size)[order]
        np.testing.assert_allclose(found, expected / expected.sum(), rtol=1e-13)


@pytest.mark.parametrize(
    ("transition", "expected"),
    [
        ([[0.0, 1.0, 0.0], [0.0, 0.0, 1.0], [0.0, 0.0, 1.0]], [0.0, 0.0, 1.0]),
        ([[1.0, 0.0, 0.0], [1.0, 0.0, 0.0], [0.5, 0.5, 0.0]], [1.0, 0.0, 0.0]),
        ([[0.0, 1.0], [1.0, 0.0]], [0.5, 0.5]),
        ([[1.0]], [1.0]),
    ],
)
def test_transient_states_and_periods(transition, expected):
    close(law_of(transition), expected, 1e-15)


def test_several_classes_give_the_law_of_one():
    found = law_of(np.eye(3))
    assert sorted(found) == [0.0, 0.0, 1.0]


def test_processes():
    mdp = ox.random_mdp(5, 2, 3, termination=0.25, seed=0, criterion=ox.Discounted(0.8))
    with jax.enable_x64(True):
        restarting, waiting, ended = (
            jax.tree.map(np.asarray, a) for a in (as_process(mdp), as_process(mdp, "wait"), ended_mass(mdp))
        )
        endless = np.asarray(mdp.dense(), np.float64)
    close(ended, np.full((5, 2), 0.25), 1e-12)
    close(restarting.law, 0.8 * endless + (0.8 * 0.25 + 0.2) * mdp.initial, 1e-12)
    close(waiting.law[:5, :, :5], 0.8 * endless + 0.2 * mdp.initial, 1e-12)
    close(waiting.law[:5, :, 5], np.full((5, 2), 0.2), 1e-12)
    close(waiting.law[5], np.append(0.2 * mdp.initial, 0.8)[None].repeat(2, axis=0), 1e-12)
    close(waiting.reward, np.vstack([mdp.reward, np.zeros(2)]), 0.0)
    average = ox.chain(criterion=ox.AverageReward())
    with jax.enable_x64(True):
        close(as_process(average).law, average.dense(), 0.0)


def test_recurrence_is_required_of_the_actions_that_are_taken():
    mdp = ox.single_chain(criterion=ox.AverageReward())
    require_recurrent(mdp, np.ones((5, 2), bool))
    onwards = np.tile([True, False], (5, 1))
    with pytest.raises(ValueError, match=r"leaves 4 of 5 states for good: 0, 1, 2, 3\."):
        require_recurrent(mdp, onwards)
