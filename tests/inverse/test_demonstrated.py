"""Demonstrations counted on a table, and refused where the table cannot have made them."""

import dataclasses

import numpy as np
import pytest

from clauses import against
from demonstrated_episodes import linear_expert, sample_episodes
from instances import close, evaluate
from optimality import (
    AverageReward,
    DemonstratedVisits,
    Discounted,
    FiniteHorizon,
    MaxEntIRL,
    TabularMDP,
    TabularPolicy,
    UntilTermination,
    infer_reward,
    random_mdp,
)
from optimality.inverse.demonstrated import demonstrated_visits
from optimality.sampling.demonstrations import Demonstrations

CRITERIA = [FiniteHorizon(6), FiniteHorizon(6, 0.9), Discounted(0.9), UntilTermination()]


def corridor(criterion=FiniteHorizon(3), allowed=None):  # noqa: B008
    """0 -> 1 -> 2 by action 0, where it ends; action 1 stays."""
    rows = [(0, 0, 1, 1.0, 0.0, False), (1, 0, 2, 1.0, 0.0, True), (2, 0, 2, 1.0, 0.0, False)]
    rows += [(s, 1, s, 1.0, 0.0, False) for s in range(3)]
    return TabularMDP.from_outcomes(rows, criterion=criterion, initial=0, allowed=allowed)


GOOD = Demonstrations(
    np.array([[0, 1, 2, 0], [0, 0, 1, 1]]),
    np.array([[0, 0, 9], [1, 0, 1]]),
    np.array([[True, True, False], [True, True, True]]),
    np.array([True, False]),
)


@against(
    demonstrated_visits,
    padding_counted=lambda mdp, seen: demonstrated_visits(
        mdp, dataclasses.replace(seen, valid=np.ones((2, 3), bool), action=np.minimum(seen.action, 1)), check=False
    ),
    weights_forgotten=lambda mdp, seen: demonstrated_visits(mdp, dataclasses.replace(seen, log_weight=None)),
)
def test_by_hand(implementation):
    seen = dataclasses.replace(GOOD, log_weight=np.log([3.0, 1.0]))
    visits = implementation(corridor(FiniteHorizon(3, 0.5)), seen)
    expected = np.zeros((3, 3, 2))
    expected[0, 0, 0], expected[0, 0, 1] = 0.75, 0.25
    expected[1, 1, 0], expected[1, 0, 0] = 0.5 * 0.75, 0.5 * 0.25
    expected[2, 1, 1] = 0.25 * 0.25
    close(visits.pairs, expected)
    close(visits.final, [0.0, 0.125 * 0.25, 0.0])
    assert visits.cut_off == 0.0
    close(visits.transitions.visits.sum(), expected.sum())
    assert visits.transitions.terminated.sum() == 1
    close(visits.episodes, 1.0 / (0.75**2 + 0.25**2))


@pytest.mark.parametrize("criterion", CRITERIA, ids=["finite", "discount", "discounted", "until"])
def test_exact_and_sampled_visits(criterion):
    mdp = random_mdp(4, 2, 3, 0.3, 1, criterion=criterion)
    policy = TabularPolicy.from_probabilities(np.random.default_rng(0).dirichlet(np.ones(2), 4))
    exact = DemonstratedVisits.of_policy(mdp, policy)
    close(exact.pairs, evaluate(mdp, policy.log_probabilities).details.occupancy, 1e-11)
    length = 6 if isinstance(criterion, FiniteHorizon) else 60
    sampled = demonstrated_visits(mdp, sample_episodes(mdp, policy.probabilities, 20_000, length, 0))
    assert np.abs(sampled.pairs - exact.pairs).max() < 0.03  # four deviations of the largest entry
    if isinstance(criterion, FiniteHorizon):
        assert np.abs(sampled.final - exact.final).max() < 0.02


def but(**changes):
    return dataclasses.replace(GOOD, **changes)


def at(array, place, value):
    array = np.array(array)
    array[place] = value
    return array


@pytest.mark.parametrize(
    ("seen", "match"),
    [
        (but(action=at(GOOD.action, (1, 0), 2)), "episode 1, step 0: action 2 is outside 0..1"),
        (but(observation=at(GOOD.observation, (1, 1), 7)), "episode 1, step 1: state 7 is outside 0..2"),
        (but(observation=at(GOOD.observation, (1, 1), -1)), "episode 1, step 1: state -1"),
        (but(observation=at(GOOD.observation, (1, 1), 2)), "episode 1, step 0: from state 0 by action 1 to state 2"),
        (
            but(terminated=np.array([False, False])),
            "episode 0, step 1: from state 1 by action 0 to state 2, as the episode goes on",
        ),
        (
            but(terminated=np.array([True, True])),
            "episode 1, step 2: from state 1 by action 1 to state 1, as the episode ends",
        ),
        (but(observation=GOOD.observation.astype(float)), "observation must hold whole numbers"),
        (but(observation=GOOD.observation[:, :3]), r"observation must have shape \(2, 4\)"),
        (but(log_weight=np.array([np.nan, 0.0])), "log_weight must be finite"),
        (but(action=None, observation=at(GOOD.observation, (1, 1), 2)), "episode 1, step 0: from state 0 to state 2"),
    ],
)
def test_impossible_demonstrations(seen, match):
    with pytest.raises(ValueError, match=match):
        infer_reward(corridor(), seen, MaxEntIRL())


def test_more_impossible_demonstrations():
    nothing = Demonstrations(np.zeros((0, 4), int), np.zeros((0, 3), int), np.zeros((0, 3), bool), np.zeros(0, bool))
    with pytest.raises(ValueError, match="there are none"):
        infer_reward(corridor(), nothing, MaxEntIRL())
    with pytest.raises(ValueError, match="episode 1 has 3 steps, but the problem's horizon is 2"):
        infer_reward(corridor(FiniteHorizon(2)), GOOD, MaxEntIRL())
    allowed = np.ones((3, 2), bool)
    allowed[0, 1] = False
    with pytest.raises(ValueError, match="episode 1, step 0: action 1 is taken in state 0"):
        infer_reward(corridor(allowed=allowed), GOOD, MaxEntIRL())
    teleported = but(observation=at(GOOD.observation, (1, 1), 2))
    found = infer_reward(corridor(), teleported, MaxEntIRL(allow_unmodelled=True))
    assert np.isfinite(found.reward.values).all()


def test_impossible_visits():
    mdp, _, _, policy = linear_expert()
    visits = DemonstratedVisits.of_policy(mdp, policy)
    for changed, match in (
        (visits._replace(pairs=visits.pairs[0]), "pairs of the visits must have shape"),
        (visits._replace(pairs=np.full_like(visits.pairs, np.nan)), "finite and not negative"),
        (visits._replace(initial=visits.initial * 2.0), "must sum to one"),
        (visits._replace(pairs=None), "neither pairs nor transitions"),
    ):
        with pytest.raises(ValueError, match=match):
            infer_reward(mdp, changed, MaxEntIRL())
    endless = random_mdp(4, 2, 2, criterion=AverageReward())
    uniform = TabularPolicy.from_probabilities(np.full((4, 2), 0.5))
    with pytest.raises(ValueError, match="AverageReward"):
        DemonstratedVisits.of_policy(endless, uniform)
    with pytest.raises(ValueError, match="did not converge"):
        DemonstratedVisits.of_policy(random_mdp(4, 2, 2, criterion=UntilTermination()), uniform, max_steps=5000)
    with pytest.raises(ValueError, match="the policy has shape"):
        DemonstratedVisits.of_policy(mdp, uniform)
