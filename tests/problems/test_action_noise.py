"""Mixed outcomes against the mixed arrays."""

import equinox as eqx
import numpy as np
import pytest

import optimality as ox
from clauses import against
from optimality.problems.action_noise import with_action_noise


def table():
    allowed = np.ones((4, 3), bool)
    allowed[1, 2] = False
    random = np.random.default_rng(0)
    transition = random.dirichlet(np.ones(4), size=(4, 3))
    over = random.random((4, 3, 4)) < 0.2
    return ox.TabularMDP.from_arrays(
        transition,
        random.normal(size=(4, 3, 4)),
        terminated=over,
        allowed=allowed,
        criterion=ox.FiniteHorizon(3),
        form="successors",
    )


def chances(problem):
    """`[S, A, S, 2]`, of going on and of ending there, in float64."""
    own = problem.outcomes()
    array = np.zeros((4, 3, 4, 2))
    np.add.at(array, (own.state, own.action, own.successor, own.terminated.astype(int)), own.probability)
    return array


def over_all_actions(problem, probability):
    """As if the forbidden action, whose outcomes the table lists, could happen."""
    every = eqx.tree_at(lambda mdp: mdp.allowed, problem, np.ones(problem.shape, bool))
    return eqx.tree_at(lambda mdp: mdp.allowed, with_action_noise(every, probability), problem.allowed)


@against(with_action_noise, all_actions=over_all_actions, none=lambda problem, _: problem)
def test_chances_and_rewards_are_mixed(implementation):
    problem = table()
    found = implementation(problem, 0.3)
    P, r, mixed = chances(problem), np.asarray(problem.reward), chances(found)
    for s, allows in enumerate(np.asarray(problem.allowed)):
        for a in np.flatnonzero(allows):
            np.testing.assert_allclose(mixed[s, a], 0.7 * P[s, a] + 0.3 * P[s, allows].mean(axis=0), atol=1e-12)
            assert found.reward[s, a] == pytest.approx(0.7 * r[s, a] + 0.3 * r[s, allows].mean(), abs=1e-12)
    assert not found.allowed[1, 2]


def test_no_noise_is_the_problem_itself_and_what_is_no_chance_is_refused():
    problem = table()
    allowed = np.asarray(problem.allowed)
    still = with_action_noise(problem, 0.0)
    np.testing.assert_allclose(chances(still)[allowed], chances(problem)[allowed], atol=1e-12)
    np.testing.assert_allclose(still.reward[allowed], problem.reward[allowed], atol=1e-12)
    with pytest.raises(ValueError, match="probability must be in"):
        with_action_noise(problem, 1.5)
