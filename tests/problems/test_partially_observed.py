"""What a partially observed problem is, and what it refuses."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from instances import close
from optimality import AverageReward, FiniteHorizon, TabularMDP
from optimality.problems.linear_quadratic import LinearQuadratic
from optimality.problems.partially_observed import LinearObservation, PartiallyObserved, TabularObservation


def mdp(states=3, actions=2):
    transition = np.full((states, actions, states), 1 / states)
    return TabularMDP.from_arrays(transition, np.zeros(states), criterion=FiniteHorizon(4))


def linear(criterion=None):
    criterion = FiniteHorizon(4) if criterion is None else criterion
    return LinearQuadratic(np.eye(2), np.ones((2, 1)), np.eye(2), np.eye(1), criterion=criterion)


def test_the_first_observation_is_like_the_others_unless_they_depend_on_the_action():
    table = np.array([[0.9, 0.1], [0.2, 0.8], [0.5, 0.5]])
    observation = TabularObservation(table)
    close(observation.first, table)
    assert observation.shape == (3, 2)
    assert not observation.depends_on_action
    with jax.enable_x64(True):
        close(observation.likelihood(1, 0), table[:, 1])
    with pytest.raises(ValueError, match=r"first is missing: probability, \(2, 3, 2\), depends on the action"):
        TabularObservation(np.stack([table, table]))
    looking = TabularObservation(np.stack([table, table[::-1]]), table)
    with jax.enable_x64(True):
        close(looking.likelihood(1, 1), table[::-1, 1])
        close(looking.first_likelihood(0), table[:, 0])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([[0.5, 0.5], [0.6, 0.6]],), r"probability at state 1 sums to 1\.2 over observations"),
        (([[[0.5, 0.5]], [[0.3, 0.6]]], [[1.0, 0.0]]), r"probability at action 1, state 0 sums to 0\.9"),
        (([[1.5, -0.5]],), r"probability at \(0, 1\) is -0\.5: probabilities must be finite and not negative"),
        (([[np.nan, 1.0]],), r"probability at \(0, 0\) is nan"),
        (([0.5, 0.5],), r"probability has shape \(2,\), but needs \[S, O\] or \[A, S, O\]"),
        (([[[1.0]]], [[0.5, 0.5]]), r"first has shape \(1, 2\), but needs \(1, 1\)"),
        (([[[1.0, 0.0]]], [[0.5, 0.4]]), r"first at state 0 sums to 0\.9"),
    ],
)
def test_tables_that_are_no_laws(arguments, message):
    with pytest.raises(ValueError, match=message):
        TabularObservation(*arguments)


@pytest.mark.parametrize(
    ("arguments", "fields", "message"),
    [
        (([[1.0, 0.0]], [[0.0]]), {}, "V must be positive definite, but the smallest eigenvalue"),
        ((np.eye(2), [[1.0, 0.5], [0.2, 1.0]]), {}, r"V must be symmetric, but entries \(0, 1\) and \(1, 0\)"),
        ((np.eye(2), np.ones((2, 2))), {}, "V must be positive definite"),
        ((np.eye(2), [[1.0]]), {}, r"V has shape \(1, 1\), but needs \(2, 2\): C has 2 rows"),
        ((np.ones((5, 1, 2)), np.ones((4, 1, 1))), {}, "C and V change in time, but have 5 and 4 entries"),
        (([[np.inf, 0.0]], [[1.0]]), {}, r"C at \(0, 0\) is inf: entries must be finite"),
        (([[1.0, 0.0]], [[1.0]]), {"D": np.ones((2, 1))}, r"D has shape \(2, 1\), but needs \(1, m\)"),
        (([[1.0, 0.0]], [[1.0]]), {"d": [1.0, 2.0]}, r"d has shape \(2,\), but needs \(1,\)"),
        ((np.ones((2, 1, 2)), np.stack([[[1.0]], [[-1.0]]])), {}, "V at time 1 must be positive definite"),
    ],
)
def test_measurements_without_a_density(arguments, fields, message):
    with pytest.raises(ValueError, match=message):
        LinearObservation(*arguments, **fields)


def test_small_and_large_variances_are_positive_definite_together():
    assert LinearObservation(np.eye(2), np.diag([1e-14, 1e6])).V[0, 0] == 1e-14


def test_what_controls_add_to_observations():
    with jax.enable_x64(True):
        observation = LinearObservation(np.eye(2), np.eye(2), D=[[1.0], [2.0]], d=[0.5, 0.0])
        close(observation.offsets(jnp.array([[1.0], [3.0]])), [[0.5, 0.0], [1.5, 2.0], [3.5, 6.0]])
        close(LinearObservation(np.eye(2), np.eye(2)).offsets(jnp.ones((1, 1))), np.zeros((2, 2)))


@pytest.mark.parametrize(
    ("problem", "observation", "message"),
    [
        (mdp(), TabularObservation(np.eye(2)), "rows for 2 states, but the problem has 3"),
        (
            mdp(),
            TabularObservation(np.full((3, 3, 2), 0.5), np.full((3, 2), 0.5)),
            "depends on 3 actions, but the problem has 2",
        ),
        (linear(), LinearObservation(np.eye(3), np.eye(3)), "C measures 3 coordinates, but the problem's state has 2"),
        (linear(), LinearObservation(np.eye(2), np.eye(2), D=np.ones((2, 2))), "D takes 2 controls"),
        (
            linear(),
            LinearObservation(np.ones((4, 1, 2)), [[1.0]]),
            "given for 4 observations, but a horizon of 4 has 5",
        ),
        (linear(AverageReward()), LinearObservation(np.ones((5, 1, 2)), [[1.0]]), "criterion has no end"),
        (mdp(), LinearObservation([[1.0]], [[1.0]]), "a TabularMDP cannot be observed through a LinearObservation"),
        (linear(), TabularObservation(np.eye(2)), "a LinearQuadratic cannot be observed through a TabularObservation"),
    ],
)
def test_an_observation_of_another_problem(problem, observation, message):
    with pytest.raises(ValueError, match=message):
        PartiallyObserved(problem, observation)


def test_traced_tables_are_not_looked_at():
    def total(table):
        return jnp.sum(PartiallyObserved(mdp(), TabularObservation(table)).observation.likelihood(0, 0))

    close(jax.jit(total)(jnp.full((3, 2), 0.7)), 2.1, 1e-6)


def test_the_model_under_one_action():
    rng = np.random.default_rng(0)
    transition = rng.dirichlet(np.ones(4), size=(4, 3))
    ends = rng.random((4, 3, 4)) < 0.3
    with jax.enable_x64(True):
        for form in ("dense", "successors"):
            problem = TabularMDP.from_arrays(
                transition, rng.normal(size=(4, 3, 4)), criterion=FiniteHorizon(2), terminated=ends, form=form
            )
            for action in range(3):
                one = jax.jit(lambda a, model=problem.model: model.under(a))(action)
                assert one.shape == (4, 1)
                close(one.dense()[0], problem.model.dense()[action])
                values = jnp.arange(4.0)
                close(one.expect(values, 0.5)[0], problem.model.expect(values, 0.5)[action])
                close(one.push(jnp.ones((1, 4))), problem.model.dense()[action].sum(axis=0))
