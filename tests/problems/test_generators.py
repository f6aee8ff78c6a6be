"""The generators' models, and what they refuse."""

import numpy as np
import pytest

from instances import close
from optimality import (
    AverageReward,
    Discounted,
    FiniteHorizon,
    PolicyEvaluation,
    TabularPolicy,
    UnderPolicy,
    UntilTermination,
    ValueIteration,
    chain,
    deep_sea,
    double_chain,
    gridworld,
    random_mdp,
    river_swim,
    single_chain,
    solve,
    two_state,
)


def test_gridworld():
    mdp = gridworld("S.G/.#H", slip=0.2, step_reward=-0.1, criterion=UntilTermination())
    assert mdp.shape == (5, 4)
    assert mdp.grid.states == ((0, 1, 2), (3, -1, 4))
    assert mdp.initial.tolist() == [1.0, 0.0, 0.0, 0.0, 0.0]
    dense = np.asarray(mdp.dense())
    close(dense[0, 2], [0.1, 0.8, 0.0, 0.1, 0.0], 1e-6)  # right, or down, or up against the wall
    close(dense[1, 2], [0.0, 0.2, 0.0, 0.0, 0.0], 1e-6)  # the goal ends the episode, walls keep one in place
    close(mdp.reward[1, 2], -0.1 + 0.8)
    close(dense[2], np.zeros((4, 5)))
    close(mdp.reward[2], np.zeros(4))
    several = gridworld("SS/.G\n", criterion=UntilTermination())
    assert several.initial.tolist() == [0.5, 0.5, 0.0, 0.0]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"map": "S./G"}, r"rows must have one length, but they have \[2, 1\]"),
        ({"map": ""}, "one length"),
        ({"map": "SX"}, r"unknown characters \['X'\]"),
        ({"map": "##"}, "every character is a wall"),
        ({"slip": 1.5}, "slip must be a probability, but 1.5"),
        ({"criterion": None}, "criterion is missing"),
    ],
)
def test_gridworld_refuses(options, message):
    with pytest.raises(ValueError, match=message):
        gridworld(**{"criterion": UntilTermination(), **options})


def test_chain():
    mdp = chain(3, slip=0.25, criterion=AverageReward())
    close(mdp.dense()[:, 0], [[0.25, 0.75, 0.0], [0.25, 0.0, 0.75], [0.25, 0.0, 0.75]])
    close(mdp.reward, [[0.05, 0.15], [0.05, 0.15], [0.75 + 0.05, 0.15 + 0.25]])


def test_river_swim():
    mdp = river_swim(4, criterion=Discounted(0.9))
    close(
        mdp.dense()[:, 1],
        [[0.4, 0.6, 0.0, 0.0], [0.05, 0.6, 0.35, 0.0], [0.0, 0.05, 0.6, 0.35], [0.0, 0.0, 0.4, 0.6]],
        1e-6,
    )
    assert mdp.reward[0, 0] == 0.005
    assert mdp.reward[3, 1] == 1.0


def test_milder_river_swim():
    mdp = river_swim(4, ahead=0.9, from_first=0.9, from_last=0.1, reward_for="staying", criterion=AverageReward())
    close(
        mdp.dense()[:, 1],
        [[0.1, 0.9, 0.0, 0.0], [0.05, 0.05, 0.9, 0.0], [0.0, 0.05, 0.05, 0.9], [0.0, 0.0, 0.1, 0.9]],
        1e-6,
    )
    assert mdp.reward[3, 1] == pytest.approx(0.9)


def test_two_state():
    mdp = two_state(criterion=AverageReward())
    close(mdp.dense(), np.tile(np.eye(2), (2, 1, 1)), 0.0)
    close(mdp.reward, [[1.0, 0.0], [0.0, 2.0]], 0.0)
    noisy = two_state(stochastic=True, criterion=AverageReward())
    close(noisy.dense(), [[[1.0, 0.0], [0.0, 1.0]], [[0.5, 0.5], [0.5, 0.5]]], 0.0)
    close(noisy.reward, [[1.0, 6.0], [-3.0, -3.0]], 0.0)


def test_chains():
    mdp = single_chain(3, criterion=AverageReward())
    close(mdp.dense(), [[[0, 1, 0], [1, 0, 0]], [[0, 0, 1], [1, 0, 0]], [[0, 0, 1], [1, 0, 0]]], 0.0)
    close(mdp.reward, [[0.0, 2.0], [0.0, 2.0], [6.0, 2.0]], 0.0)
    mdp = double_chain(3, criterion=AverageReward())
    successors = np.asarray(mdp.dense()).argmax(axis=2)
    assert successors.tolist() == [[1, 3], [2, 0], [2, 0], [4, 0], [4, 0]]
    close(mdp.reward, [[0.0, 2.0], [0.0, 2.0], [6.0, 2.0], [0.0, 2.0], [3.0, 2.0]], 0.0)


@pytest.mark.parametrize(
    ("generate", "uniform", "optimum"),
    [
        (two_state, 0.75, 2.0),
        (lambda criterion: two_state(True, criterion=criterion), 0.25, 1.0),
        (single_chain, 1.3125, 10.0),
        (double_chain, 1.3125, 10.0),
        (
            lambda criterion: river_swim(
                ahead=0.9, from_first=0.9, from_last=0.1, reward_for="staying", criterion=criterion
            ),
            0.047879,
            0.805263,
        ),
    ],
)
def test_average_rewards_that_the_literature_has(generate, uniform, optimum):
    """Of the uniform policy, and the optimum, which a linear programme gave."""
    mdp = generate(criterion=AverageReward())
    policy = TabularPolicy.from_probabilities(np.full(mdp.shape, 0.5))
    assert solve(UnderPolicy(mdp, policy), PolicyEvaluation()).details.gain == pytest.approx(uniform, abs=5e-7)
    assert solve(mdp, ValueIteration()).details.gain == pytest.approx(optimum, abs=5e-7)


def test_deep_sea():
    mdp = deep_sea(6)
    assert mdp.criterion.horizon == 6
    assert mdp.shape == (36, 2)
    found = solve(mdp, ValueIteration())
    assert found.value[0, 0] == pytest.approx(0.99)  # the treasure less the whole cost of moving
    path = [6 * depth + depth for depth in range(6)]
    assert [int(found.policy.mode(state, time)) for time, state in enumerate(path)] == [1] * 6


def test_random_mdp():
    mdp = random_mdp(7, 3, 2, termination=0.1, seed=5, criterion=FiniteHorizon(3))
    dense = np.asarray(mdp.dense())
    close(dense.sum(axis=-1), np.full((7, 3), 0.9), 1e-6)
    assert ((dense > 0.0).sum(axis=-1) == 2).all()
    again = random_mdp(7, 3, 2, termination=0.1, seed=5, criterion=FiniteHorizon(3))
    np.testing.assert_array_equal(mdp.reward, again.reward)
    assert (random_mdp(7, 3, 2, seed=6, criterion=FiniteHorizon(3)).reward != mdp.reward).all()
    assert not np.asarray(random_mdp(2, 1, 1, termination=1.0, criterion=UntilTermination()).dense()).any()


@pytest.mark.parametrize(
    ("generate", "message"),
    [
        (lambda: random_mdp(3, 2, 4, criterion=Discounted(0.9)), r"successors \(4\) cannot exceed states \(3\)"),
        (lambda: random_mdp(termination=1.5, criterion=Discounted(0.9)), "termination must be a probability"),
        (lambda: random_mdp(0, criterion=Discounted(0.9)), "states must be a whole number, at least 1"),
        (lambda: random_mdp(termination=0.1, criterion=AverageReward()), "never ends"),
        (lambda: chain(1, criterion=AverageReward()), "length must be a whole number, at least 2"),
        (lambda: chain(slip=1.5, criterion=AverageReward()), "probabilities must be finite and not negative"),
        (lambda: river_swim(0, criterion=AverageReward()), "length must be a whole number, at least 2"),
        (lambda: river_swim(reward_for="all", criterion=AverageReward()), "must be 'swimming' or 'staying'"),
        (lambda: river_swim(ahead=0.99, criterion=AverageReward()), "probabilities must be finite and not negative"),
        (lambda: single_chain(1, criterion=AverageReward()), "length must be a whole number, at least 2"),
        (lambda: double_chain(2, criterion=AverageReward()), "length must be a whole number, at least 3"),
        (lambda: deep_sea(0), "size must be a whole number, at least 1"),
        (lambda: random_mdp(), "criterion is missing"),
    ],
)
def test_what_is_refused(generate, message):
    with pytest.raises(ValueError, match=message):
        generate()
