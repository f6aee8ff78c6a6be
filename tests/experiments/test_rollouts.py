"""Episodes in the real environment and in the model against exact laws. Bounds: |z| < 4 with fixed seeds."""

import gymnasium
import numpy as np
import pytest
from scipy import stats

import optimality as ox
from optimality.experiments import rollouts
from optimality.experiments.rollouts import in_environment, in_model, step_limit
from optimality.experiments.statistics import return_moments, z_score


def half(mdp):
    return ox.TabularPolicy.from_probabilities(np.full(mdp.shape, 1.0 / mdp.shape[1]))


@pytest.mark.parametrize("criterion", [None, ox.FiniteHorizon(20), ox.FiniteHorizon(20, 0.9), ox.Discounted(0.9)])
def test_returns_in_frozen_lake(criterion):
    mdp = ox.TabularMDP.from_gymnasium("FrozenLake-v1", criterion=criterion)
    policy = ox.solve(mdp, ox.ValueIteration()).policy
    environment = gymnasium.make("FrozenLake-v1", **({} if criterion is None else {"max_episode_steps": -1}))
    played = in_environment(environment, mdp, policy, episodes=1500, seed=1)
    exact = return_moments(mdp, policy)
    assert abs(z_score(played.returns.mean(), exact.mean, exact.standard_deviation, 1500)) < 4.0
    assert played.lengths.max() <= step_limit(mdp)
    assert played.cut == 0


@pytest.mark.parametrize(
    "mdp",
    [
        ox.random_mdp(8, 3, 3, termination=0.1, seed=2, criterion=ox.FiniteHorizon(12, 0.9, np.arange(8.0))),
        ox.random_mdp(8, 3, 3, termination=0.1, seed=2, criterion=ox.Discounted(0.8)),
        ox.random_mdp(8, 3, 3, termination=0.2, seed=2, criterion=ox.UntilTermination()),
        ox.gridworld(criterion=ox.FiniteHorizon(15)),
    ],
    ids=["finite", "discounted", "until-termination", "gridworld"],
)
def test_returns_in_the_model(mdp):
    policy = half(mdp)
    played = in_model(mdp, policy, episodes=20_000, seed=5)
    exact = return_moments(mdp, policy)
    assert abs(z_score(played.returns.mean(), exact.mean, exact.standard_deviation, 20_000)) < 4.0
    # The spread, too: chi-square bounds of a 4 sigma test under a kurtosis of up to 9.
    assert played.returns.std() == pytest.approx(exact.standard_deviation, rel=4.0 * np.sqrt(2.0 / 20_000))


def test_average_reward_in_the_model():
    mdp = ox.river_swim(criterion=ox.AverageReward())
    evaluated = ox.solve(ox.UnderPolicy(mdp, half(mdp)))
    stationary = ox.TabularMDP(
        mdp.model, mdp.reward, evaluated.details.occupancy.sum(axis=1), mdp.criterion, mdp.allowed
    )
    played = in_model(stationary, half(mdp), episodes=400, seed=0)
    assert abs(stats.ttest_1samp(played.returns, float(evaluated.details.gain)).statistic) < 4.0


def test_same_seed_same_episodes():
    mdp = ox.TabularMDP.from_gymnasium("FrozenLake-v1")
    once, again, other = (
        in_environment(gymnasium.make("FrozenLake-v1"), mdp, half(mdp), episodes=50, seed=seed) for seed in (3, 3, 4)
    )
    np.testing.assert_array_equal(once.lengths, again.lengths)
    assert not np.array_equal(once.lengths, other.lengths)


def test_endless_episodes_are_cut_and_counted(monkeypatch):
    monkeypatch.setattr(rollouts, "STEP_CAP", 50)
    mdp = ox.chain(criterion=ox.UntilTermination())
    played = in_model(mdp, half(mdp), episodes=7, seed=0)
    assert played.cut == 7
    assert (played.lengths == 50).all()


class Broken(gymnasium.Env):
    """Two states; what `step` returns is up to the test."""

    observation_space = gymnasium.spaces.Discrete(2)
    action_space = gymnasium.spaces.Discrete(2)

    def __init__(self, observation, reward):
        self.outcome = (observation, reward)

    def reset(self, *, seed=None, options=None):
        return 0, {}

    def step(self, action):
        return *self.outcome, False, False, {}


@pytest.mark.parametrize(
    ("observation", "reward", "message"),
    [(5, 0.0, "observation 5 in episode 0, step 1"), (1, np.nan, "reward nan in episode 0, step 1")],
)
def test_broken_environments_are_named(observation, reward, message):
    mdp = ox.chain(2, criterion=ox.FiniteHorizon(4))
    with pytest.raises(ValueError, match=message):
        in_environment(Broken(observation, reward), mdp, half(mdp), episodes=1, seed=0)


def test_no_episodes():
    mdp = ox.chain(criterion=ox.FiniteHorizon(4))
    with pytest.raises(ValueError, match="at least 1"):
        in_model(mdp, half(mdp), episodes=0, seed=0)
