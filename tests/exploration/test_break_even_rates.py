"""Criteria as rates, and decisions by the number of games."""

import dataclasses

import jax
import numpy as np
import pytest

from clauses import against
from optimality.beliefs import GammaExponential, GammaKnownShape
from optimality.core.solve import solve
from optimality.exploration.break_even_rates import break_even_rates
from optimality.exploration.exact_play import ExactPlayOrNot
from optimality.exploration.play_criteria import play_criteria
from optimality.exploration.play_horizons import play_horizons
from optimality.exploration.play_or_not import PlayOrNot
from optimality.problems.criterion import FiniteHorizon

REWARDS, TIMES = GammaKnownShape(2.0, 3.0, 4.0), GammaExponential(2.0, 2.0)
ODD = GammaKnownShape(1.3, 2.4, 1.7), GammaExponential(1.8, 0.9)
PROBLEM = PlayOrNot(REWARDS, TIMES, 3.0, FiniteHorizon(1))


@pytest.mark.row("S144.attitudes", "S145.attitudes", "S146.threshold")
@pytest.mark.parametrize("beliefs", [(REWARDS, TIMES), ODD])
@against(
    break_even_rates,
    means_for_medians=lambda r, t: {**break_even_rates(r, t), "median rate": break_even_rates(r, t)["long run"]},
    without_exponential=lambda r, t: {**break_even_rates(r, t), "log growth": float(play_criteria(r, t, 1).log_growth)},
    of_another_level=lambda r, t: break_even_rates(r, t, level=0.06),
    of_another_shape=lambda r, t: break_even_rates(dataclasses.replace(r, outcome_shape=1.01 * r.outcome_shape), t),
)
def test_every_criterion_flips_at_its_rate(implementation, beliefs):
    """Play just below, stop just above; those that ignore the rate have none."""
    found = implementation(*beliefs)
    names = [row.name for row in play_criteria(*beliefs, 1.0).rows()]
    assert list(found) == names
    for name, rate in found.items():
        below, above = (rate * (1.0 - 1e-6), rate * (1.0 + 1e-6)) if 0.0 < rate < np.inf else (1e-9, 1e9)
        decisions = [
            next(row.play for row in play_criteria(*beliefs, at).rows() if row.name == name) for at in (below, above)
        ]
        expected = [True, False] if 0.0 < rate < np.inf else [rate > 0.0] * 2
        assert decisions == expected, name


def test_rates_scale_with_units():
    """Rewards in other units and times in other units: all rates change as reward over time does, but that of
    exponential utility of `r / t`, whose risk has a unit."""
    c, d = 3.0, 0.25
    ours = break_even_rates(REWARDS, TIMES)
    scaled = break_even_rates(GammaKnownShape(2.0, 3.0, 4.0 * c), GammaExponential(2.0, 2.0 * d), risk=0.05 * d / c)
    for name in ours:
        np.testing.assert_allclose(scaled[name], ours[name] * c / d, 1e-7)


def test_where_means_do_not_exist():
    slow = break_even_rates(REWARDS, GammaExponential(0.9, 2.0))
    assert slow["ratio of means"] == slow["CVaR"] == 0.0
    assert 0.0 < slow["chance that one game pays"] < slow["long run"] < np.inf
    heavy = break_even_rates(GammaKnownShape(2.0, 0.9, 4.0), TIMES)
    assert heavy["ratio of means"] == heavy["long run"] == np.inf
    assert 0.0 < heavy["CVaR"] < heavy["median rate"] < np.inf


def test_extreme_levels_end():
    """A level of 1e-6 asks for a rate far below all others; it is found, or said to be 0."""
    rate = break_even_rates(REWARDS, TIMES, level=1e-6)["CVaR"]
    assert 0.0 <= rate < 1e-4


NUMBERS = (1, 2, 3, 5, 10)


@against(
    play_horizons,
    one_game_less=lambda problem, games: play_horizons(problem, [max(n - 1, 1) for n in games]),
    of_times_squared=lambda problem, games: play_horizons(
        dataclasses.replace(problem, times=GammaExponential(3.0, 2.0)), games
    ),
    bound=lambda problem, games: play_horizons(problem, games)._replace(
        break_even=np.asarray(play_horizons(problem, games).break_even) * np.arange(1, 6) ** 0.01
    ),
)
def test_reference_table_by_number_of_games(implementation):
    """K* and the values at K = 3; the reference grid is right to 1e-4 of K* and 3e-3 of the value."""
    found = implementation(PROBLEM, NUMBERS)
    np.testing.assert_allclose(found.break_even, [2.0000, 2.4491, 2.8005, 3.3568, 4.3615], 1e-4)
    np.testing.assert_allclose(found.value, [0.0, 0.0, 0.0, 1.2297, 6.3469], 1e-12, 5e-3)
    np.testing.assert_allclose(found.commitment, np.array(NUMBERS) * (4.0 - 3.0 * 2.0), 1e-12)


def test_horizons_are_those_of_solve():
    """The same recursion in a longer table and on the same grid: to the last digits."""
    found = play_horizons(PROBLEM, NUMBERS, grid=4096)
    solution = solve(PlayOrNot(REWARDS, TIMES, 3.0, FiniteHorizon(10)), ExactPlayOrNot(grid=4096))
    np.testing.assert_allclose(found.value[-1], solution.value, 1e-6)
    np.testing.assert_allclose(found.break_even[-1], solution.details.break_even, 1e-8)
    assert isinstance(found.value, np.ndarray)
    assert found.value.dtype == np.float64


def test_criteria_of_a_solution_are_those_of_the_beliefs():
    solution = solve(PlayOrNot(REWARDS, TIMES, 3.0, FiniteHorizon(10)), ExactPlayOrNot(grid=4096, level=0.1, risk=0.2))
    expected = play_criteria(REWARDS, TIMES, 3.0, level=0.1, risk=0.2)
    for ours, theirs in zip(jax.tree.leaves(solution.details.criteria), jax.tree.leaves(expected), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    np.testing.assert_allclose(solution.details.myopic_break_even, float(expected.ratio_of_means), 1e-15)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: play_horizons(PROBLEM, []), "games must be whole numbers, each at least 1"),
        (lambda: play_horizons(PROBLEM, [3, 0]), r"each at least 1, but \[3, 0\]"),
        (lambda: play_horizons(PROBLEM, [3], grid=100), "grid must be at least 256, but 100"),
        (lambda: break_even_rates(REWARDS, TIMES, level=0.0), "level must be above 0 and below 1"),
        (lambda: break_even_rates(REWARDS, TIMES, risk=-1.0), "risk must be above 0"),
    ],
)
def test_refusals(make, message):
    with pytest.raises(ValueError, match=message):
        make()
