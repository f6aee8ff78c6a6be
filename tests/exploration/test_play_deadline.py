"""Play or not with a deadline: against simulation, closed forms and limits."""

import jax
import numpy as np
import pytest
import scipy.stats

from clauses import against
from optimality.beliefs import GammaExponential, GammaKnownShape
from optimality.core.result import Result
from optimality.core.solve import solve
from optimality.exploration.exact_play import ExactPlayOrNot
from optimality.exploration.play_deadline import games_needed
from optimality.exploration.play_or_not import Deadline, PlayOrNot

REWARDS, TIMES = GammaKnownShape(2.0, 3.0, 4.0), GammaExponential(2.0, 2.0)
METHOD = ExactPlayOrNot(grid=2**12, most_games=200)


def play(duration, rate=3.0, rewards=REWARDS, times=TIMES, method=METHOD):
    return solve(PlayOrNot(rewards, times, rate, Deadline(duration)), method)


@pytest.fixture(scope="module")
def five():
    return play(5.0)


def simulated(plays, duration, count=200_000, seed=1):
    rng = np.random.default_rng(seed)
    beta, slow = rng.gamma(3.0, 1 / 4.0, count), rng.gamma(2.0, 1 / 2.0, count)
    reward, time = np.zeros(count), np.zeros(count)
    going = np.ones(count, bool)
    for n in range(60):
        going = going & plays(n, reward, time)
        r, t = rng.gamma(2.0, 1 / beta), rng.exponential(1 / slow)
        in_time = going & (time + t <= duration)
        reward += np.where(in_time, r, 0.0)
        time = np.where(in_time, time + t, np.where(going, duration, time))
        going = in_time
    value = reward + 3.0 * (duration - time)
    return value.mean(), value.std() / np.sqrt(count)


@against(
    lambda solution: lambda n, r, t: np.asarray(solution.policy.plays(n, r, t)),
    always=lambda solution: lambda n, r, t: np.ones(np.shape(r), bool),
    mean_rate=lambda solution: lambda n, r, t: 2.0 * (4.0 + r) * (2.0 + n) >= 3.0 * (2.0 + t) * (2.0 + 2.0 * n) * 2.0,
    ten_games_late=lambda solution: lambda n, r, t: np.asarray(solution.policy.plays(n + 10, r, t)),
)
def test_value_by_simulation(implementation, five):
    """Within three standard errors (0.07 each, of 20.81) of what its policy earns in 200,000 worlds; the published
    simulation says 20.90 with an error of 0.05."""
    mean, error = simulated(implementation(five), 5.0)
    assert error < 0.08
    assert abs(mean - float(five.value)) < 3 * error
    assert abs(float(five.value) - 20.90) < 3 * 0.05
    assert five.result is Result.CONVERGED


def test_playing_to_the_end_earns_the_mean_rate(five):
    np.testing.assert_allclose(five.details.commitment, 4.0 * 5.0, 1e-12)
    assert max(15.0, 20.0) < float(five.value) < 5.0 * (3.0 + float(five.details.criteria.perfect_information))


def test_the_grid_converges(five):
    finer = play(5.0, method=ExactPlayOrNot(grid=2**13, most_games=200))
    np.testing.assert_allclose(five.value, finer.value, 1e-6)


def test_a_dear_opportunity_and_a_cheap_one():
    dear, cheap = play(5.0, 100.0), play(5.0, 1e-3)
    assert not dear.details.play
    np.testing.assert_allclose(dear.value, 500.0, 1e-12)
    assert cheap.details.play
    np.testing.assert_allclose(cheap.value, 20.0, 1e-3)


@against(
    lambda solution: float(solution.details.break_even),
    of_the_rate=lambda solution: float(solution.policy.rate),
    of_one_game=lambda solution: float(solution.details.myopic_break_even),
)
def test_break_even_is_indifference(implementation, five):
    """At K* playing is worth what stopping is, just below it more."""
    rate = implementation(five)
    for factor, plays in ((0.999, True), (1.001, False)):
        solution = play(5.0, factor * rate)
        assert bool(solution.details.play) == plays
        assert (float(solution.value) > 5.0 * factor * rate * (1 + 1e-9)) == plays
    np.testing.assert_allclose(five.policy.break_even(0, 0.0, 0.0), rate, 1e-6)


def test_short_deadlines_leave_one_game():
    """A deadline so near that a second game is unlikely: play iff `E r (1 - (1 + D / eta)^-theta) >= K D` and little
    more, the break-even rate then being the mean rate 4."""
    np.testing.assert_allclose(play(1e-3).details.break_even, 4.0, 2e-3)


def test_scale_invariance(five):
    scaled = play(10.0, 4.5, GammaKnownShape(2.0, 3.0, 12.0), GammaExponential(2.0, 4.0))
    np.testing.assert_allclose(scaled.value, 3.0 * five.value, 1e-10)
    np.testing.assert_allclose(scaled.policy.thresholds, five.policy.thresholds, 1e-8, 1e-8)


def test_means_that_do_not_exist():
    """A mean time need not exist where there is a deadline; without a mean reward one always plays."""
    slow = play(5.0, times=GammaExponential(0.8, 2.0))
    assert np.isfinite(slow.value)
    assert float(slow.value) >= 15.0
    heavy = play(5.0, rewards=GammaKnownShape(2.0, 0.9, 4.0))
    assert heavy.value == np.inf
    assert heavy.details.play
    for solution in (slow, heavy):
        assert not any(np.any(np.isnan(leaf)) for leaf in jax.tree.leaves((solution.details, solution.policy)))


@against(
    lambda *a: games_needed(*a),
    one_less=lambda *a: games_needed(*a) - 1,
    poisson=lambda theta, y, chance, most: scipy.stats.poisson(theta * np.expm1(y)).isf(chance),
)
def test_number_of_games_is_negative_binomial(implementation):
    with jax.enable_x64(True):
        theta, y = np.float64(2.0), np.log(3.5)
        n = int(implementation(jax.numpy.asarray(theta), jax.numpy.asarray(y), jax.numpy.asarray(1e-4), 200))
        law = scipy.stats.nbinom(2.0, 1 / 3.5)
        assert law.sf(n) <= 1e-4 < law.sf(n - 1)


def test_nothing_is_played_after_the_deadline(five):
    assert not five.policy.plays(1, 1e9, 5.0)
    assert five.policy.plays(1, 1e9, 4.9)


def test_refusals():
    with pytest.raises(ValueError, match="duration of Deadline must be above 0"):
        Deadline(0.0)
