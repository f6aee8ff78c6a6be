"""Play or not: every criterion against quadrature, simulation and the reference numbers, and what texts get wrong."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.integrate
import scipy.special
import scipy.stats

from clauses import against
from optimality.beliefs import GammaExponential, GammaKnownShape
from optimality.exploration.play_criteria import play_criteria, rate_law, sample_criterion

REWARDS, TIMES, RATE = GammaKnownShape(2.0, 3.0, 4.0), GammaExponential(2.0, 2.0), 3.0
ALPHA, EPSILON, OMEGA, THETA, ETA = 2.0, 3.0, 4.0, 2.0, 2.0
ODD = GammaKnownShape(1.3, 2.4, 1.7), GammaExponential(1.8, 0.9)


@pytest.fixture(scope="module")
def criteria():
    return play_criteria(REWARDS, TIMES, RATE)


def worlds(count, seed=0):
    """Rewards, times and rates drawn with NumPy from the beliefs."""
    rng = np.random.default_rng(seed)
    beta, slow = rng.gamma(EPSILON, 1 / OMEGA, count), rng.gamma(THETA, 1 / ETA, count)
    return rng.gamma(ALPHA, 1 / beta), rng.exponential(1 / slow), ALPHA * slow / beta


def decision(criteria, name):
    return next(row for row in criteria.rows() if row.name == name).play


def test_reference_numbers(criteria):
    """The topic's table at its digits."""
    assert criteria.one_game == pytest.approx(4.0 - 2.0 * RATE, abs=1e-12)
    assert criteria.ratio_of_means == pytest.approx(2.0, abs=1e-12)
    assert criteria.long_run == pytest.approx(4.0, abs=1e-12)
    rates = criteria.low_rate, criteria.median_rate, criteria.high_rate
    np.testing.assert_allclose(rates, [0.433, 2.512, 12.09], atol=5e-4)
    assert criteria.chance_of_rate == pytest.approx(0.4265, abs=5e-5)
    assert criteria.chance_of_game == pytest.approx(0.50595, abs=5e-6)
    assert criteria.log_growth == pytest.approx(1.19315, abs=5e-6)
    assert criteria.perfect_information == pytest.approx(1.86589, abs=5e-6)
    assert criteria.information_value == pytest.approx(0.86589, abs=5e-6)


@pytest.mark.row("S144.best_case", "S145.worst_case")
@against(
    lambda r, t, k: play_criteria(r, t, k),
    exchanged=lambda r, t, k: play_criteria(r, t, k).__class__(
        **{**vars(play_criteria(r, t, k)), "best_case": np.array(-np.inf), "worst_case": np.array(np.inf)}
    ),
)
def test_best_and_worst_case(implementation):
    """Essential supremum and infimum of `r - K t`: the extreme quantiles grow without bound on both sides, so that at
    every rate the one always plays and the other never."""
    for rate in (1e-3, 3.0, 1e6):
        c = implementation(REWARDS, TIMES, rate)
        assert decision(c, "best case")
        assert not decision(c, "worst case")
    reward, time = scipy.stats.betaprime(ALPHA, EPSILON, scale=OMEGA), scipy.stats.lomax(THETA, scale=ETA)
    tails = np.array([1e-2, 1e-5, 1e-8, 1e-11])
    assert np.all(np.diff(reward.isf(tails)) > 1.0)
    assert np.all(np.diff(time.isf(tails)) > 1.0)


@pytest.mark.row("S144.attitudes", "S145.attitudes", "E3.14.quantiles")
@against(
    lambda level: play_criteria(REWARDS, TIMES, 0.3, level=level),
    always_cautious=lambda level: play_criteria(REWARDS, TIMES, 0.3, level=0.01),
    always_bold=lambda level: play_criteria(REWARDS, TIMES, 0.3, level=0.999),
)
def test_attitudes_decide_by_their_number(implementation):
    """CVaR at a small level says no, at a large one yes; so do quantiles of the rate."""
    cautious, bold = implementation(0.02), implementation(0.95)
    assert not decision(cautious, "CVaR")
    assert decision(bold, "CVaR")
    high = play_criteria(REWARDS, TIMES, RATE)
    assert not decision(high, "low quantile of the rate")
    assert decision(high, "high quantile of the rate")
    # A player who seeks, but by quantiles, may decline; one who avoids, but by quantiles, may play.
    assert not decision(play_criteria(REWARDS, TIMES, 20.0), "high quantile of the rate")
    assert decision(play_criteria(REWARDS, TIMES, 0.3), "low quantile of the rate")


@pytest.mark.row("E3.14.reward_less_cost")
@against(
    lambda c: (float(c.seeking), float(c.averse)),
    finite=lambda c: (float(c.long_run), float(c.one_game)),
    one_sign=lambda c: (float(c.seeking), float(c.seeking)),
)
def test_exponential_utility_is_infinite_at_every_level(implementation, criteria):
    """Cut at 10^2, 10^3, 10^4 the exponential moment of the reward at risk 0.05 has no limit, nor that of the time."""
    seeking, averse = implementation(criteria)
    for law, sign, level in (
        (scipy.stats.betaprime(ALPHA, EPSILON, scale=OMEGA), 1.0, seeking),
        (scipy.stats.lomax(THETA, scale=ETA), -1.0, averse),
    ):
        # logarithm of the integrand at the cut: it rises, and so the integral does
        exponent = [0.05 * cut + law.logpdf(cut) for cut in (1e2, 1e3, 1e4)]
        assert exponent[0] < exponent[1] < exponent[2]
        assert level == sign * np.inf


@pytest.mark.row("E3.14.ratio")
@against(
    lambda risk: float(play_criteria(*ODD, RATE, risk=risk).averse_ratio),
    minus_infinity=lambda risk: -np.inf,
    mean=lambda risk: float(play_criteria(*ODD, RATE, risk=risk).long_run),
)
def test_averse_utility_of_the_ratio_is_finite(implementation):
    """By nested quadrature, falling with the risk from above K to below it."""
    reward, time = scipy.stats.betaprime(1.3, 2.4, scale=1.7), scipy.stats.lomax(1.8, scale=0.9)
    u, weights = np.polynomial.legendre.leggauss(300)
    s = 25.0 * u
    p = 1 / (1 + np.exp(-s))
    weights = 25.0 * weights * p * (1 - p)
    ratio = reward.ppf(p)[:, None] / time.ppf(p)[None, :]
    found = []
    for risk in (0.05, 0.5, 5.0):
        moment = weights @ np.exp(-risk * ratio) @ weights
        ours = implementation(risk)
        np.testing.assert_allclose(ours, -np.log(moment) / risk, 1e-4)
        found.append(ours)
    assert found[0] > found[1] > found[2]
    assert found[2] < RATE < found[0]


@pytest.mark.row("S146.diverges", "E3.15")
@against(
    lambda c: float(c.mean_of_ratio),
    by_samples=lambda c: float(np.mean(worlds(100_000)[0] / worlds(100_000)[1])),
    product_of_means=lambda c: float(c.long_run),
)
def test_mean_of_the_ratio_is_infinite(implementation, criteria):
    """`int_delta exp(-l t) / t dt + log(delta l)` tends to minus Euler's constant: the integral has no limit. For the
    Lomax law every tenfold smaller cut adds the density at zero times log 10."""
    for delta in (1e-2, 1e-4, 1e-6):
        assert abs(scipy.special.exp1(delta) + np.log(delta) + np.euler_gamma) < 2 * delta
    law = scipy.stats.lomax(THETA, scale=ETA)
    cut = [
        scipy.integrate.quad(lambda y: law.pdf(np.exp(y)), np.log(delta), 30, epsabs=1e-12, limit=300)[0]
        for delta in (1e-4, 1e-6, 1e-8)
    ]
    np.testing.assert_allclose(np.diff(cut), law.pdf(0.0) * np.log(100.0), 1e-3)
    assert implementation(criteria) == np.inf


@pytest.mark.parametrize("name", ["mean_of_ratio", "seeking", "averse", "best_case", "worst_case"])
def test_infinite_criteria_are_not_sampled(name):
    with pytest.raises(ValueError, match=f"{name} is not estimated by samples: .*infini"):
        sample_criterion(name, REWARDS, TIMES, RATE, key=jax.random.key(0))


def test_means_that_do_not_exist_are_not_sampled():
    heavy = GammaKnownShape(2.0, 0.8, 4.0)
    with pytest.raises(ValueError, match=r"needs shapes above 1, but 0\.8 and 2 were given"):
        sample_criterion("one_game", heavy, TIMES, RATE, key=jax.random.key(0))
    with pytest.raises(ValueError, match="mean rate is infinite"):
        sample_criterion("long_run", heavy, TIMES, RATE, key=jax.random.key(0))
    with pytest.raises(ValueError, match="unknown criterion 'mean'"):
        sample_criterion("mean", REWARDS, TIMES, RATE, key=jax.random.key(0))


@pytest.mark.parametrize("name", ["one_game", "chance_of_rate", "log_growth", "perfect_information"])
def test_samples_agree(name, criteria):
    """Within four standard errors; the draws are JAX's, the numbers closed forms or quadrature."""
    mean, error = sample_criterion(name, REWARDS, TIMES, RATE, key=jax.random.key(1), samples=100_000)
    assert abs(mean - float(getattr(criteria, name))) < 4 * error


@pytest.mark.row("S146.one_game", "E3.17")
@against(
    lambda r, t, k: play_criteria(r, t, k).one_game,
    under_the_prior=lambda r, t, k: (
        play_criteria(GammaKnownShape(2.0, 1.5, 3.0), GammaExponential(1.5, 1.0), k).one_game
    ),
    mean_of_reward_by_rate=lambda r, t, k: np.asarray(r.outcome_shape * r.rate / r.shape - k * t.rate / t.shape),
)
def test_one_game_under_the_posterior(implementation):
    rewards = GammaKnownShape(2.0, 1.5, 3.0).update_batch([1.0, 2.5])
    times = GammaExponential(1.5, 1.0).update_batch([0.4, 1.1])
    reward = scipy.integrate.quad(scipy.stats.betaprime(2.0, 5.5, scale=6.5).sf, 0, np.inf)[0]
    time = scipy.integrate.quad(scipy.stats.lomax(3.5, scale=2.5).sf, 0, np.inf)[0]
    np.testing.assert_allclose(implementation(rewards, times, 0.7), reward - 0.7 * time, 1e-8)


def test_means_that_do_not_exist_are_said_to_be_infinite():
    no_reward, no_time = GammaKnownShape(2.0, 0.8, 4.0), GammaExponential(1.0, 2.0)
    heavy = play_criteria(no_reward, TIMES, RATE)
    assert heavy.one_game == np.inf
    assert heavy.ratio_of_means == heavy.long_run == np.inf
    slow = play_criteria(REWARDS, no_time, RATE)
    assert slow.one_game == -np.inf
    assert slow.ratio_of_means == 0.0
    assert slow.long_run == pytest.approx(2.0)
    assert slow.cvar == -np.inf
    for c in (heavy, slow, play_criteria(no_reward, no_time, RATE)):
        assert not any(np.isnan(row.number) for row in c.rows())


@pytest.mark.row("S146.long_run", "E3.18.two_rates")
@against(
    lambda c: (c.ratio_of_means, c.long_run),
    one_rate=lambda c: (c.long_run, c.long_run),
    exchanged=lambda c: (c.long_run, c.ratio_of_means),
)
def test_two_rates(implementation):
    """By quadrature over the unknown rate; their ratio is `theta / (theta - 1)`."""
    with jax.enable_x64(True):
        c = play_criteria(*ODD, RATE)
    one, long = (float(x) for x in implementation(c))
    beta = scipy.integrate.quad(lambda b: 1.3 / b * scipy.stats.gamma(2.4, scale=1 / 1.7).pdf(b), 0, np.inf)[0]
    slow = scipy.stats.gamma(1.8, scale=1 / 0.9)
    time = scipy.integrate.quad(lambda x: slow.pdf(x) / x, 0, np.inf)[0]
    np.testing.assert_allclose(one, beta / time, 1e-6)
    np.testing.assert_allclose(long, beta * slow.mean(), 1e-6)
    np.testing.assert_allclose(long / one, 1.8 / 0.8, 1e-12)


@pytest.mark.row("E3.16")
@against(
    lambda mean_reward, times: mean_reward / np.mean(times),
    times_the_inverse=lambda mean_reward, times: mean_reward * np.mean(1 / times),
    by_the_inverse=lambda mean_reward, times: mean_reward / np.mean(1 / times),
)
def test_renewal_rate(implementation):
    """Known beta and lambda: 200,000 games, whose reward per time has a standard error of 0.003; within five."""
    rng = np.random.default_rng(2)
    rewards, times = rng.gamma(2.0, 1 / 2.5, 200_000), rng.exponential(1.0, 200_000)
    np.testing.assert_allclose(implementation(0.8, times), rewards.sum() / times.sum(), atol=0.015)


@pytest.mark.row("S146.threshold", "E3.18.decisions")
@against(
    lambda rate: play_criteria(*ODD, rate),
    twice_the_rate=lambda rate: play_criteria(*ODD, 2.0 * rate),
    one_for_the_other=lambda rate: play_criteria(ODD[0], GammaExponential(2.8, 0.9), rate),
)
def test_decisions_flip_at_the_rate(implementation):
    named = play_criteria(*ODD, 1.0)
    one_game, long_run = float(named.ratio_of_means), float(named.long_run)
    for rate, expected in (
        (one_game * (1 - 1e-9), (True, True)),
        (one_game * (1 + 1e-9), (False, True)),
        (long_run * (1 - 1e-9), (False, True)),
        (long_run * (1 + 1e-9), (False, False)),
    ):
        c = implementation(rate)
        assert (decision(c, "one game"), decision(c, "long run")) == expected
        assert decision(c, "ratio of means") == expected[0]


@pytest.mark.row("E3.18.chance")
@against(
    rate_law,
    degrees_exchanged=lambda r, t: rate_law(
        GammaKnownShape(r.outcome_shape, t.shape, r.rate), GammaExponential(r.shape, t.rate)
    ),
    without_alpha=lambda r, t: rate_law(GammaKnownShape(1.0, r.shape, r.rate), t),
)
def test_rate_law_is_an_f_law(implementation):
    """Against SciPy's F, and 200,000 NumPy draws within 1.95 / sqrt(n) by Kolmogorov and Smirnov."""
    with jax.enable_x64(True):
        law = implementation(REWARDS, TIMES)
        scale = ALPHA * (THETA / ETA) * (OMEGA / EPSILON)
        f = scipy.stats.f(2 * THETA, 2 * EPSILON, scale=scale)
        np.testing.assert_allclose(law.survival(RATE), f.sf(RATE), 1e-12)
        np.testing.assert_allclose(law.quantile(np.array([0.05, 0.5, 0.95])), f.ppf([0.05, 0.5, 0.95]), 1e-10)
        np.testing.assert_allclose(law.mean(), f.mean(), 1e-12)
        rates = worlds(200_000)[2]
        statistic = scipy.stats.kstest(rates, lambda x: np.asarray(law.cdf(x))).statistic
        assert statistic < 1.95 / np.sqrt(200_000)


@pytest.mark.parametrize(("rate", "level"), [(3.0, 0.05), (0.3, 0.05), (0.3, 0.5), (0.3, 0.99)])
def test_cvar_by_simulation_and_by_its_variational_form(rate, level):
    """Within five standard errors of 400,000 worlds, whose tail is heavy but has a mean; and no other q does better in
    `max_q q - E max(q - x, 0) / level`, the expectation by quadrature over both laws."""
    c = play_criteria(GammaKnownShape(2.0, 5.0, 4.0), GammaExponential(4.0, 2.0), rate, level=level)
    rng = np.random.default_rng(5)
    n = 400_000
    reward = rng.gamma(2.0, 1 / rng.gamma(5.0, 1 / 4.0, n))
    x = reward - rate * rng.exponential(1 / rng.gamma(4.0, 1 / 2.0, n))
    worst = np.sort(x)[: int(level * n)]
    assert abs(c.cvar - worst.mean()) < 5 * (worst.std() + abs(worst[-1] - worst.mean())) / np.sqrt(len(worst))
    chance = np.mean(x <= float(c.value_at_risk))
    assert abs(chance - level) < 5 * np.sqrt(level * (1 - level) / n)
    for q in float(c.value_at_risk) + np.array([-0.3, 0.3]):
        assert q - np.maximum(q - x, 0.0).mean() / level < float(c.cvar) + 0.01


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"rate": 0.0}, "rate must be above 0, but 0.0 was given"),
        ({"rate": np.nan}, "rate must be above 0"),
        ({"level": 1.0}, "level must be above 0 and below 1, but 1.0"),
        ({"risk": -1.0}, "risk must be above 0, but -1.0"),
    ],
)
def test_refusals(arguments, message):
    with pytest.raises(ValueError, match=message):
        play_criteria(REWARDS, TIMES, **{"rate": RATE, **arguments})


def test_traced():
    with jax.enable_x64(False):
        rates = jnp.asarray([1.0, 3.0, 5.0])
        mapped = jax.jit(jax.vmap(lambda rate: play_criteria(REWARDS, TIMES, rate).one_game))(rates)
        assert mapped.dtype == jnp.float32
        np.testing.assert_allclose(mapped, 4.0 - 2.0 * rates, 1e-5, 1e-5)
