"""Simulated courses of the decision to play or to stop."""

import numpy as np
import pytest

from clauses import against
from optimality.beliefs import GammaExponential, GammaKnownShape
from optimality.experiments import decision_rollouts
from optimality.experiments.decision_rollouts import play_courses
from optimality.exploration.exact_play import PlayPolicy
from optimality.exploration.play_or_not import PlayOrNot
from optimality.problems.criterion import Discounted, FiniteHorizon

REWARDS, TIMES = GammaKnownShape(2.0, 5.0, 4.0), GammaExponential(4.0, 2.0)
WORLDS = 50_000


def courses(criterion, thresholds, rate=1.5, worlds=WORLDS):
    policy = PlayPolicy(np.asarray(thresholds), np.float64(4.0), np.float64(2.0), np.float64(rate), True)
    return play_courses(PlayOrNot(REWARDS, TIMES, rate, criterion), policy, worlds=worlds, shown=3, seed=0)


@against(
    courses,
    of_twice_the_rate=lambda criterion, thresholds: courses(criterion, thresholds, 3.0),
    of_one_game=lambda criterion, thresholds: courses(FiniteHorizon(1), thresholds),
)
def test_playing_on_whatever_happens_earns_the_mean(implementation):
    """Three games, of `E r - K E t = 2 - 1.5 / 1.5` each; within five standard errors (0.1)."""
    found = implementation(FiniteHorizon(3), np.zeros(3))
    error = found.earned.std() / np.sqrt(WORLDS)
    assert error < 0.1
    assert abs(found.earned.mean() - 3.0 * (2.0 * 4.0 / 4.0 - 1.5 * 2.0 / 3.0)) < 5.0 * error
    assert np.all(found.played == 3)
    assert [len(course) for course in found.ratios] == [4, 4, 4]
    assert all(course[0] == 2.0 for course in found.ratios)


def test_chance_of_another_game():
    """The number of games is geometric: mean 1 / (1 - chance), within five standard errors."""
    found = courses(Discounted(0.75), np.zeros(1))
    assert abs(found.played.mean() - 4.0) < 5.0 * np.sqrt(0.75) / 0.25 / np.sqrt(WORLDS)
    assert found.cut == 0


def test_stopping():
    """Never at infinite thresholds; after a first game where what came in is below the line."""
    assert np.all(courses(FiniteHorizon(3), np.full(3, np.inf)).played == 0)
    found = courses(FiniteHorizon(2), [0.0, 1.2])
    for course in found.ratios:
        assert (len(course) == 3) == (course[1] >= 1.2 * 1.5)
    assert 0.0 < np.mean(found.played == 1) < 1.0


@pytest.mark.parametrize("criterion", [Discounted(0.999), FiniteHorizon(10**6)])
def test_long_courses_are_cut_and_said_to_be(criterion, monkeypatch):
    monkeypatch.setattr(decision_rollouts, "LONGEST", 5)
    found = courses(criterion, np.zeros(1), worlds=100)
    assert found.played.max() == 5
    assert found.cut > 90
