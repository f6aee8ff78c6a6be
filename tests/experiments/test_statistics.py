"""Means, intervals and the exact law of a return."""

import math

import numpy as np
import pytest
from scipy import stats

import optimality as ox
from clauses import against
from optimality.experiments.statistics import mean_interval, return_moments, z_score

OUTCOMES = [
    (0, 0, 1, 0.5, 1.0, False),
    (0, 0, 1, 0.3, -2.0, False),
    (0, 0, 0, 0.2, 3.0, True),
    (0, 1, 0, 1.0, 0.1, False),
    (1, 0, 0, 0.6, 0.0, False),
    (1, 0, 1, 0.4, 5.0, True),
    (1, 1, 1, 0.7, -1.0, False),
    (1, 1, 0, 0.3, 2.0, False),
]
POLICY = np.array([[0.3, 0.7], [0.6, 0.4]])


def enumerated(rows, horizon, discount, terminal):
    """(probability, return) of every trajectory, one branch at a time."""
    found = []

    def walk(state, time, probability, total):
        if time == horizon:
            found.append((probability, total + discount**time * terminal[state]))
            return
        for s, a, t, p, r, over in rows:
            if s != state:
                continue
            weight, gained = probability * POLICY[s, a] * p, total + discount**time * r
            if over:
                found.append((weight, gained))
            else:
                walk(t, time + 1, weight, gained)

    walk(0, 0, 1.0, 0.0)
    return np.array(found).T


def without_squares_of_rewards(mdp, policy):
    exact = return_moments(mdp, policy)
    return exact._replace(standard_deviation=exact.standard_deviation * 0.9)


def undiscounted(mdp, policy):
    free = ox.FiniteHorizon(mdp.criterion.horizon, 1.0, mdp.criterion.terminal_reward)
    return return_moments(ox.TabularMDP(mdp.model, mdp.reward, mdp.initial, free, mdp.allowed), policy)


@pytest.mark.parametrize("form", ["dense", "successors"])
@against(return_moments, spread_too_small=without_squares_of_rewards, forgets_discount=undiscounted)
def test_moments_by_enumeration(implementation, form):
    rows = OUTCOMES
    if form == "dense":  # one reward for each successor
        rows = [row if row[:5] != (0, 0, 1, 0.3, -2.0) else (0, 0, 0, 0.3, -2.0, False) for row in OUTCOMES]
    terminal = np.array([0.5, -1.5])
    mdp = ox.TabularMDP.from_outcomes(rows, criterion=ox.FiniteHorizon(5, 0.8, terminal), initial=0, form=form)
    probability, total = enumerated(rows, 5, 0.8, terminal)
    mean = probability @ total
    moments = implementation(mdp, ox.TabularPolicy.from_probabilities(POLICY))
    assert abs(probability.sum() - 1.0) < 1e-12
    assert abs(moments.mean - mean) < 1e-12
    assert abs(moments.standard_deviation - math.sqrt(probability @ (total - mean) ** 2)) < 1e-12


def test_moments_agree_with_policy_evaluation_until_termination():
    mdp = ox.random_mdp(12, 3, 3, termination=0.2, seed=3, criterion=ox.UntilTermination())
    policy = ox.solve(mdp, ox.SoftValueIteration(temperature=0.5)).policy
    exact = ox.solve(ox.UnderPolicy(mdp, policy)).details.expected_return
    moments = return_moments(mdp, policy)
    assert moments.converged
    assert moments.mean == pytest.approx(float(exact), abs=1e-9)


def test_moments_say_when_they_do_not_converge():
    mdp = ox.chain(criterion=ox.UntilTermination())
    policy = ox.TabularPolicy.from_probabilities(np.full((5, 2), 0.5))
    assert not return_moments(mdp, policy, max_steps=200).converged


def test_moments_refuse_average_reward():
    mdp = ox.chain(criterion=ox.AverageReward())
    with pytest.raises(ValueError, match="no law under AverageReward"):
        return_moments(mdp, ox.TabularPolicy.from_probabilities(np.full((5, 2), 0.5)))


def test_interval_is_students():
    samples = np.array([1.0, 2.0, 4.0, 8.0])
    low, high = stats.t.interval(0.95, 3, samples.mean(), stats.sem(samples))
    interval = mean_interval(samples)
    assert interval.low == pytest.approx(low, rel=1e-12)
    assert interval.high == pytest.approx(high, rel=1e-12)


def test_interval_at_the_edges():
    one = mean_interval(np.array([3.0]))
    assert (one.mean, one.low, one.high) == (3.0, -math.inf, math.inf)
    with pytest.raises(ValueError, match="at least one sample"):
        mean_interval(np.array([]))
    with pytest.raises(ValueError, match="sample 1 is not finite"):
        mean_interval(np.array([0.0, np.nan]))


@pytest.mark.parametrize(
    ("measured", "exact", "deviation", "count", "expected"),
    [
        (1.1, 1.0, 0.5, 25, 1.0),
        (1.0, 1.0, 0.0, 9, 0.0),
        (-13.0, -13.0 + 1e-12, 0.0, 9, 0.0),
        (0.0, 1.0, 0.0, 9, -math.inf),
    ],
)
def test_z_score(measured, exact, deviation, count, expected):
    assert z_score(measured, exact, deviation, count) == pytest.approx(expected)
