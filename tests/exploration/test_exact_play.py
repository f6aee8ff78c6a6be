"""The Bayes-adaptive play-or-not policy against a quadrature of its own, simulation, limits and the reference table."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special

from clauses import against
from optimality.beliefs import GammaExponential, GammaKnownShape
from optimality.core.result import Result
from optimality.core.solve import solve
from optimality.exploration.exact_play import ExactPlayOrNot
from optimality.exploration.play_or_not import PlayOrNot
from optimality.problems.criterion import Discounted, FiniteHorizon

REWARDS, TIMES = GammaKnownShape(2.0, 3.0, 4.0), GammaExponential(2.0, 2.0)
FAST = ExactPlayOrNot(grid=2**12)


def play(games, rate=3.0, rewards=REWARDS, times=TIMES, method=FAST, discount=1.0):
    return solve(PlayOrNot(rewards, times, rate, FiniteHorizon(games, discount)), method)


TABLE = {1: (2.0000, 0.0), 2: (2.4491, 0.0), 3: (2.8005, 0.0), 5: (3.3568, 1.2297), 10: (4.3615, 6.3469)}


@pytest.mark.parametrize("games", TABLE)
@against(
    lambda games: play(games),
    one_game_less=lambda games: play(max(games - 1, 1) if games > 1 else 2),
    no_discount_of_time=lambda games: play(games, times=GammaExponential(3.0, 2.0)),
    myopic=lambda games: play(1) if games > 1 else play(2),
)
def test_reference_table(implementation, games):
    """Break-even rates and values at K = 3; the reference grid is right to 1e-4 of K* and 3e-3 of the value."""
    solution = implementation(games)
    break_even, value = TABLE[games]
    np.testing.assert_allclose(solution.details.break_even, break_even, 1e-4)
    np.testing.assert_allclose(solution.value, value, 1e-12, 5e-3)


@pytest.fixture(scope="module")
def twenty():
    return play(20)


def test_twenty_games(twenty):
    """The extrapolated reference, 17.6240, and the thresholds' reference."""
    solution = twenty
    assert solution.value == pytest.approx(17.6240, abs=1e-4)
    assert solution.policy.thresholds[0] == pytest.approx(0.348821, abs=1e-4)
    assert solution.policy.thresholds[10] == pytest.approx(0.87913, abs=1e-4)
    assert solution.details.bonus == pytest.approx(2.8671, abs=1e-3)
    assert solution.result is Result.CONVERGED


def test_the_grid_converges():
    """To the fourth order: each halving of the step leaves about a sixteenth of the error."""
    coarse, fine = (float(play(10, method=ExactPlayOrNot(grid=2**k)).value) for k in (11, 12))
    converged = 6.345929965  # at 2^13 to 2^16 nodes
    assert abs(fine - converged) < 1e-6
    assert abs(fine - converged) < abs(coarse - converged) / 5 < 1e-5


def by_quadrature(games, z, nodes=96, shapes=(2.0, 3.0, 2.0), discount=1.0):
    """W_0 at log rho = z, by Gauss-Jacobi and Gauss-Laguerre rules over the next reward and time and splines in z.

    Nothing is shared with the convolution: the value itself is interpolated, not the option's.
    """
    from scipy.interpolate import CubicSpline

    alpha, epsilon, theta = shapes
    grid = np.linspace(-9.0, 14.0, 1200)
    values = np.zeros_like(grid)
    y, time_weights = np.polynomial.laguerre.laggauss(nodes)
    for n in range(games - 1, -1, -1):
        e, d = epsilon + n * alpha, theta + n
        x, weights = scipy.special.roots_jacobi(nodes, alpha - 1, e - 1)
        x, weights = 0.5 * (x + 1), weights / weights.sum()
        time = y / (d - 1)  # under the law tilted by 1 + v
        to = (grid[:, None, None] - np.log(x)[None, :, None] - time[None, None, :]).clip(grid[0], grid[-1])
        ahead = CubicSpline(grid, values * np.exp(-grid))(to) * np.exp(to)
        mean = np.einsum("gij,i,j->g", ahead, weights, time_weights) * d / (d - 1)
        values = np.maximum(0.0, alpha * np.exp(grid) / (e - 1) - 1 / (d - 1) + discount * mean)
    return float(CubicSpline(grid, values)(z))


@pytest.mark.parametrize("discount", [1.0, 0.7])
@against(
    lambda games, discount: play(games, 1.5, discount=discount).value,
    time_tilted_twice=lambda games, discount: (
        play(games, 1.5, times=GammaExponential(3.0, 4.0), discount=discount).value
    ),
    one_game_more=lambda games, discount: play(games + 1, 1.5, discount=discount).value,
    undiscounted=lambda games, discount: play(games, 1.5, discount=0.95 * discount).value,
)
def test_value_by_quadrature(implementation, discount):
    """Three games at K = 1.5; the spline's kinks leave the reference right to about 1e-4."""
    reference = 1.5 * 2.0 * by_quadrature(3, np.log(4.0 / 1.5 / 2.0), discount=discount)
    np.testing.assert_allclose(implementation(3, discount), reference, 2e-4)


def simulated(policy, games, rate, count=100_000, seed=0):
    """Mean and standard error of what a policy earns over worlds drawn from the belief."""
    rng = np.random.default_rng(seed)
    beta, slow = rng.gamma(3.0, 1 / 4.0, count), rng.gamma(2.0, 1 / 2.0, count)
    reward, time = np.zeros(count), np.zeros(count)
    going, earned = np.ones(count, bool), np.zeros(count)
    for n in range(games):
        going &= policy(n, reward, time)
        r, t = rng.gamma(2.0, 1 / beta), rng.exponential(1 / slow)
        earned += np.where(going, r - rate * t, 0.0)
        reward += np.where(going, r, 0.0)
        time += np.where(going, t, 0.0)
    return earned.mean(), earned.std() / np.sqrt(count)


@against(
    lambda solution: lambda n, r, t: np.asarray(solution.policy.plays(n, r, t)),
    myopic=lambda solution: lambda n, r, t: (4.0 + r) * 2.0 * (1.0 + n) >= 3.0 * (2.0 + t) * (2.0 + 2.0 * n),
    always=lambda solution: lambda n, r, t: np.ones(np.shape(r), bool),
    one_game_late=lambda solution: lambda n, r, t: np.asarray(solution.policy.plays(n + 12, r, t)),
)
def test_value_by_simulation(implementation, twenty):
    """Within four standard errors (0.25 each, of 17.62) of what the policy earns in 100,000 worlds; others are not."""
    solution = twenty
    mean, error = simulated(implementation(solution), 20, 3.0)
    assert error < 0.3
    assert abs(mean - float(solution.value)) < 4 * error


def test_between_the_myopic_player_and_the_clairvoyant(twenty):
    """The clairvoyant knows both rates: 20 games of `E max(alpha / beta - K / lambda, 0)`, by quadrature."""
    solution = twenty
    nodes, weights = np.polynomial.legendre.leggauss(600)
    p = 1 / (1 + np.exp(-30.0 * nodes))
    weights = 30.0 * weights * p * (1 - p)
    reward = 2.0 / scipy.special.gammaincinv(3.0, p) * 4.0
    cost = 3.0 / scipy.special.gammaincinv(2.0, p) * 2.0
    clairvoyant = 20 * weights @ np.maximum(reward[:, None] - cost[None, :], 0.0) @ weights
    assert max(0.0, float(solution.details.commitment)) < float(solution.value) < clairvoyant
    np.testing.assert_allclose(clairvoyant, 26.19, atol=0.4)
    np.testing.assert_allclose(solution.details.commitment, -40.0, 1e-10)


def test_one_game_is_the_myopic_decision():
    for rate in (1.999999, 2.000001):
        solution = play(1, rate)
        assert bool(solution.details.play) == (rate < 2.0)
        np.testing.assert_allclose(solution.value, max(0.0, 4.0 - 2.0 * rate), atol=1e-9)


@against(
    lambda games, discount: play(games, discount=discount).details.bonus,
    inverse=lambda games, discount: 1.0 / play(games, discount=discount).details.bonus,
)
def test_bonus_grows(implementation):
    bonuses = [float(implementation(n, 1.0)) for n in (1, 3, 5, 10)]
    assert bonuses[0] == pytest.approx(1.0, abs=1e-9)
    assert np.all(np.diff(bonuses) > 0.0)
    by_chance = [float(implementation(5, discount)) for discount in (0.0, 0.5, 0.9, 1.0)]
    assert by_chance[0] == pytest.approx(1.0, abs=1e-9)
    assert np.all(np.diff(by_chance) > 0.0)


def test_thresholds_end_at_the_myopic_one():
    thresholds = np.asarray(play(5).policy.thresholds)
    n = np.arange(5)
    myopic = (3.0 + 2.0 * n - 1.0) / 2.0 / (2.0 + n - 1.0)
    assert np.all(thresholds <= myopic + 1e-7)
    np.testing.assert_allclose(thresholds[-1], myopic[-1], 1e-7)


@pytest.mark.parametrize(("c", "d"), [(3.0, 1.0), (1.0, 0.25), (1e-3, 50.0)])
def test_scale_invariance(c, d):
    """Rewards in other units and times in other units: the same thresholds, and the value in units of reward."""
    ours = play(5)
    scaled = play(5, 3.0 * c / d, GammaKnownShape(2.0, 3.0, 4.0 * c), GammaExponential(2.0, 2.0 * d))
    np.testing.assert_allclose(scaled.policy.thresholds, ours.policy.thresholds, 1e-11)
    np.testing.assert_allclose(scaled.value, c * ours.value, 1e-8)
    np.testing.assert_allclose(scaled.details.break_even, ours.details.break_even * c / d, 1e-11)


def test_cheap_and_dear_opportunities():
    cheap, dear = play(5, 1e-6), play(5, 1e6)
    np.testing.assert_allclose(cheap.value, 5 * 4.0, 1e-5)
    assert cheap.details.play
    assert dear.value == 0.0
    assert not dear.details.play


CHANCE = {0.5: (2.4869, 0.0), 0.8: (3.4150, 1.4419), 0.9: (4.4216, 6.6548)}


@pytest.mark.parametrize("chance", CHANCE)
def test_chance_of_another_game(chance):
    """The reference's grid is right to 2e-4 of each."""
    solution = solve(PlayOrNot(REWARDS, TIMES, 3.0, Discounted(chance)), FAST)
    break_even, value = CHANCE[chance]
    np.testing.assert_allclose(solution.details.break_even, break_even, 1e-4)
    np.testing.assert_allclose(solution.value, value, 5e-4, 1e-9)
    assert solution.stats["truncated"] <= 1e-8
    beyond = solution.policy.break_even(10**6, 0.0, 0.0)
    assert beyond == solution.policy.break_even(1999, 0.0, 0.0)


def test_chance_of_another_game_is_the_limit_of_many():
    endless = solve(PlayOrNot(REWARDS, TIMES, 3.0, Discounted(0.8)), FAST)
    many = play(60, discount=0.8)
    np.testing.assert_allclose(endless.value, many.value, 1e-5)
    np.testing.assert_allclose(endless.policy.thresholds[:3], many.policy.thresholds[:3], 1e-5)


def test_means_that_do_not_exist():
    never = play(5, times=GammaExponential(1.0, 2.0))
    assert never.value == 0.0
    assert not never.details.play
    assert never.details.break_even == 0.0
    always = play(5, rewards=GammaKnownShape(2.0, 0.9, 4.0))
    assert always.value == np.inf
    assert always.details.play
    for solution in (never, always):
        assert not any(np.any(np.isnan(leaf)) for leaf in jax.tree.leaves((solution.details, solution.policy)))
    # Learning may bring the mean back: after one game both exist, and thresholds are finite.
    assert np.all(np.isfinite(never.policy.thresholds[1:]))


@pytest.mark.parametrize("theta", [1.02, 1.3])
def test_slow_tails(theta):
    """Times whose mean barely exists: the value with two games, by quadrature of the second's."""
    rewards, times = GammaKnownShape(1.5, 2.5, 1.0), GammaExponential(theta, 1.0)
    rate = 0.5 * (theta - 1.0)
    solution = play(2, rate, rewards, times)
    reward = rewards.predictive()
    u, weights = np.polynomial.legendre.leggauss(500)
    s = 30.0 * u
    p = 1 / (1 + np.exp(-s))
    weights = 30.0 * weights * p * (1 - p)
    with jax.enable_x64(True):
        r = np.asarray(reward.quantile(p))
        t = np.expm1(np.logaddexp(0.0, s) / theta)
        # second game: E max(0, 1.5 (1 + r) / 3 - K (1 + t) / theta), of the first the means in closed form
        second = np.maximum(0.0, 1.5 * (1.0 + r)[:, None] / 3.0 - rate * (1.0 + t)[None, :] / theta)
        first = 1.5 / 1.5 - rate / (theta - 1.0)
        value = max(0.0, first + weights @ second @ weights)
    np.testing.assert_allclose(solution.value, value, 1e-4)


def test_policy_beyond_its_games():
    policy = play(3).policy
    assert not policy.plays(3, 1e9, 0.0)
    assert policy.plays(2, 1e9, 0.0)


def test_traced_over_rates():
    with jax.enable_x64(True):
        values = jax.jit(jax.vmap(lambda rate: solve(PlayOrNot(REWARDS, TIMES, rate, FiniteHorizon(3)), FAST).value))(
            jnp.asarray([1.0, 2.0, 3.0])
        )
    np.testing.assert_allclose(values, [float(play(3, rate).value) for rate in (1.0, 2.0, 3.0)], 1e-9, 1e-9)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: PlayOrNot(REWARDS, TIMES, 0.0, FiniteHorizon(1)), "rate of PlayOrNot must be above 0"),
        (lambda: PlayOrNot(REWARDS, TIMES, 1.0, FiniteHorizon(1, 1.0, 5.0)), "no terminal reward"),
        (
            lambda: PlayOrNot(GammaKnownShape(*np.ones((3, 2))), TIMES, 1.0, FiniteHorizon(1)),
            r"one belief about rewards .* \(2,\) and \(\)",
        ),
        (
            lambda: play(2, rewards=GammaKnownShape(2.0, 0.5, 1.0), times=GammaExponential(0.7, 1.0)),
            "neither a mean reward nor a mean time exists .* 0.5 and 0.7",
        ),
        (lambda: play(2, method=ExactPlayOrNot(grid=100)), "grid of ExactPlayOrNot must be at least 256"),
        (lambda: play(2, method=ExactPlayOrNot(level=1.5)), "level of ExactPlayOrNot must be"),
        (lambda: solve(REWARDS, ExactPlayOrNot()), "solves PlayOrNot problems, but GammaKnownShape"),
    ],
)
def test_refusals(make, message):
    with pytest.raises(ValueError, match=message):
        make()
