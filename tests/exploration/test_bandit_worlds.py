"""Bandits in simulation and in exact worlds: regret, common luck, float32, bounds, belief MDPs in rationals."""

import functools
from fractions import Fraction

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.integrate
import scipy.stats

from clauses import against
from optimality.beliefs import BetaBernoulli
from optimality.core.solve import solve
from optimality.exploration.bandit_policy import ArmStatistics
from optimality.exploration.bandit_simulation import BLOCK, _keys, after_pull, record_times, simulate_bandit
from optimality.exploration.bayes_regret import bayes_regret
from optimality.exploration.bayes_ucb import BayesUCB
from optimality.exploration.bernoulli_bandit import BernoulliBandit, ExactBandit, best_mean
from optimality.exploration.gittins import Gittins
from optimality.exploration.greedy import EpsilonGreedy, Greedy
from optimality.exploration.thompson import Thompson
from optimality.exploration.ucb1 import UCB1, ucb1_bound
from optimality.problems.bandits import BernoulliArms, ExponentialArms, GaussianArms, lai_robbins, regret
from optimality.problems.criterion import Discounted, FiniteHorizon

TEN = BernoulliArms(np.linspace(0.1, 0.9, 10))
UNIFORM = BetaBernoulli(np.ones(2), np.ones(2))


@pytest.mark.row("S81")
@against(
    regret,
    of_the_mean_arm=lambda arms, pulls: np.sum(pulls * (arms.means.mean() - arms.means)[:, None], axis=-2),
    float32_running_sum=lambda arms, pulls: np.cumsum(
        np.concatenate([np.full(int(n), gap, np.float32) for n, gap in zip(pulls[:, 0], arms.gaps, strict=True)])
    )[-1:],
    of_the_last_arm=lambda arms, pulls: np.sum(pulls * (arms.means[-1] - arms.means)[:, None], axis=-2),
)
def test_regret_is_recomputed_from_pulls(implementation):
    """A million pulls; in float32 a running sum of 0.1 is off by a percent."""
    arms = BernoulliArms([0.4, 0.5, 0.2])
    pulls = np.array([[700_000], [200_000], [100_000]])
    np.testing.assert_allclose(implementation(arms, pulls), 0.1 * 700_000 + 0.3 * 100_000, 1e-12)


@pytest.mark.row("S81")
def test_regret_along_a_run():
    trace = simulate_bandit(TEN, {"ucb1": UCB1()}, horizon=300, runs=7, seed=1)["ucb1"]
    assert trace.times[0] == 1
    assert trace.times[-1] == 300
    np.testing.assert_array_equal(trace.pulls.sum(axis=1), np.broadcast_to(trace.times[:, None], (trace.times.size, 7)))
    earned = np.einsum("tkr,k->tr", trace.pulls, TEN.means)
    np.testing.assert_allclose(trace.regret, 0.9 * trace.times[:, None] - earned, 1e-6, 1e-4)
    assert np.all(np.diff(trace.regret, axis=0) >= 0)
    np.testing.assert_array_equal(trace.pulls[trace.times >= 10].min(axis=(1, 2)) >= 1, True)


def slow_ucb1(luck, means):
    """Plain Python, one run."""
    pulls, ones = np.zeros(len(means), int), np.zeros(len(means), int)
    for time, u in enumerate(luck):
        unseen = np.flatnonzero(pulls == 0)
        arm = unseen[0] if unseen.size else np.argmax(ones / pulls + np.sqrt(2 * np.log(time) / pulls))
        pulls[arm] += 1
        ones[arm] += u < means[arm]
    return pulls


def test_against_a_plain_loop():
    """The same luck gives the same pulls, up to a bound or two that float32 ties otherwise."""
    key, _ = _keys(5, 0)
    blocks = [jax.random.uniform(jax.random.fold_in(key, b), (BLOCK, 20), jnp.float32) for b in range(3)]
    luck = np.concatenate([np.asarray(block) for block in blocks])[:300]
    trace = simulate_bandit(TEN, {"ucb1": UCB1()}, horizon=300, runs=20, seed=5)["ucb1"]
    means = np.asarray(TEN.means, np.float32)
    slow = np.stack([slow_ucb1(luck[:, run], means) for run in range(20)], axis=1)
    assert np.mean(np.all(trace.pulls[-1] == slow, axis=0)) >= 0.9


def test_methods_share_their_luck_and_seeds_repeat():
    policies = {"first": UCB1(), "again": UCB1(), "thompson": Thompson()}
    traces = simulate_bandit(TEN, policies, horizon=200, runs=30, seed=3)
    np.testing.assert_array_equal(traces["first"].pulls, traces["again"].pulls)
    repeated = simulate_bandit(TEN, policies, horizon=200, runs=30, seed=3)
    for name, trace in traces.items():
        np.testing.assert_array_equal(trace.pulls, repeated[name].pulls)
    other = simulate_bandit(TEN, {"first": UCB1()}, horizon=200, runs=30, seed=4)["first"]
    assert np.any(other.pulls != traces["first"].pulls)


def test_records_do_not_change_a_run():
    few = simulate_bandit(TEN, {"a": EpsilonGreedy()}, horizon=333, runs=5, times=np.array([7]))["a"]
    many = simulate_bandit(TEN, {"a": EpsilonGreedy()}, horizon=333, runs=5)["a"]
    np.testing.assert_array_equal(few.times, [7, 333])
    np.testing.assert_array_equal(few.pulls[-1], many.pulls[-1])
    assert record_times(10**6).size <= 60


def incremental_mean(rewards):
    def body(statistics, reward):
        return after_pull(statistics, jnp.asarray([True, False]), reward), None

    start = ArmStatistics(jnp.zeros(2, jnp.int32), jnp.zeros(2, jnp.float32))
    return jax.lax.scan(body, start, jnp.asarray(rewards))[0].earned[0]


@against(
    incremental_mean,
    raw_float32_sum=lambda rewards: np.add.accumulate(rewards)[-1] / np.float32(rewards.size),
)
def test_mean_of_offset_rewards(implementation):
    """In float32 a sum of a million rewards around 100 is off by 0.1 to 0.2 in the mean, an incremental mean by 0.001:
    arms that differ by 0.1 are told apart by one of them."""
    rewards = (100.5 + np.random.default_rng(0).standard_normal(1_000_000)).astype(np.float32)
    assert abs(float(implementation(rewards)) - rewards.astype(np.float64).mean()) < 0.01


@pytest.mark.row("S83.bound")
@pytest.mark.row("E1.20")
@against(
    UCB1,
    no_bonus=lambda: Greedy(prior=BetaBernoulli(1e-3, 1e-3)),
    bonus_never_shrinks=lambda: UCB1(scale=30.0),
)
def test_ucb1_stays_below_its_bound(implementation):
    """Two arms at 0.6 and 0.4 for 20,000 rounds: the bound is about 400, ours about 160, a tenth of playing evenly."""
    arms = BernoulliArms([0.6, 0.4])
    trace = simulate_bandit(arms, {"a": implementation()}, horizon=20_000, runs=100, seed=2)["a"]
    assert ucb1_bound(arms, 20_000) == pytest.approx(8 * np.log(20_000) / 0.2 + (1 + np.pi**2 / 3) * 0.2)
    assert trace.regret[-1].mean() < ucb1_bound(arms, 20_000)


@pytest.mark.row("S83.slope")
@against(
    UCB1,
    greedy=lambda: Greedy(),
    a_constant_share_at_random=lambda: EpsilonGreedy(epsilon=0.05),
)
def test_slope_is_logarithmic(implementation):
    """From 2,000 to 20,000 pulls regret grows by a factor: linear 10, logarithmic 1.3, measured 1.5 to 1.7."""
    times = np.array([2_000, 20_000])
    trace = simulate_bandit(TEN, {"a": implementation()}, horizon=20_000, runs=100, seed=2, times=times)["a"]
    first, last = trace.regret.mean(axis=1)
    assert last < 2.5 * first


@pytest.mark.row("E1.20")
@against(
    lambda: UCB1(scale=20.0),
    rewards_taken_for_those_in_the_unit_interval=lambda: UCB1(scale=1.0),
)
def test_rewards_of_a_larger_scale_need_a_larger_bonus(implementation):
    """Normal rewards with deviation 10, means 0 and 5: a bonus for [0, 1] locks on to the worse arm in some runs, and
    then for good: 15 % of runs pull it more than half of the time. The right bonus never does."""
    arms = GaussianArms([0.0, 5.0], 10.0)
    trace = simulate_bandit(arms, {"a": implementation()}, horizon=10_000, runs=300, seed=0)["a"]
    assert np.mean(trace.pulls[-1, 0] > 5_000) < 0.02


CONSTANTS = [
    ([0.1, *[0.05] * 3, *[0.02] * 3, *[0.01] * 3], 17.4452),
    ([0.9, 0.8], 2.2521),
    ([0.5, *[0.4] * 9], 44.697),
    ([0.5, *[0.4] * 99], 491.669),
    ([0.5, *[0.48] * 9], 224.940),
]


@against(
    lambda p: lai_robbins(BernoulliArms(p)),
    divergence_reversed=lambda p: sum(
        (max(p) - q) / scipy.stats.entropy([max(p), 1 - max(p)], [q, 1 - q]) for q in p if q < max(p)
    ),
    pinsker=lambda p: sum(1 / (2 * (max(p) - q)) for q in p if q < max(p)),
)
def test_lai_robbins_constants(implementation):
    for probabilities, constant in CONSTANTS:
        assert float(implementation(probabilities)) == pytest.approx(constant, rel=3e-5)


def test_lai_robbins_of_other_laws():
    def divergence(p, q):
        low, high = max(p.ppf(1e-16), q.ppf(1e-16)), p.isf(1e-16)
        return scipy.integrate.quad(lambda x: p.pdf(x) * (p.logpdf(x) - q.logpdf(x)), low, high, limit=200)[0]

    expected = 1.5 / divergence(scipy.stats.norm(0.5, 0.7), scipy.stats.norm(2.0, 0.7))
    assert lai_robbins(GaussianArms([0.5, 2.0], 0.7)) == pytest.approx(expected, rel=1e-8)
    expected = 1.5 / divergence(scipy.stats.expon(scale=0.5), scipy.stats.expon(scale=2.0))
    assert lai_robbins(ExponentialArms([0.5, 2.0])) == pytest.approx(expected, rel=1e-6)
    assert lai_robbins(BernoulliArms([1.0, 0.3])) == 0.0
    assert np.shape(lai_robbins(BernoulliArms(np.full((3, 4), 0.5)))) == (4,)


RATIONALS = {
    1: Fraction(1, 2),
    2: Fraction(13, 12),
    3: Fraction(5, 3),
    4: Fraction(41, 18),
    5: Fraction(26, 9),
    6: Fraction(421, 120),
    8: Fraction(1999, 420),
    10: Fraction(16861, 2800),
}


def in_rationals(horizon, prior=((1, 1), (1, 1)), choose=max):
    """The belief MDP by recursion over histories, in rationals."""

    @functools.cache
    def value(counts, left):
        if left == 0:
            return Fraction(0)
        gains = []
        for k, (a, b) in enumerate(counts):
            m = Fraction(a, a + b)
            after = [(*counts[:k], (a + one, b + 1 - one), *counts[k + 1 :]) for one in (0, 1)]
            gains.append(m * (1 + value(after[1], left - 1)) + (1 - m) * value(after[0], left - 1))
        return choose(gains)

    return value(tuple(prior), horizon)


def solved(horizon, prior=UNIFORM, **options):
    return solve(BernoulliBandit(prior, FiniteHorizon(horizon)), ExactBandit(**options))


@pytest.mark.row("S84.value")
@against(
    lambda horizon: float(solved(horizon).value),
    greedy=lambda horizon: bayes_regret(Greedy(ties="random"), UNIFORM, horizon).reward[-1],
    thompson=lambda horizon: bayes_regret(Thompson(), UNIFORM, horizon).reward[-1],
    clairvoyant=lambda horizon: 2 / 3 * horizon,
)
def test_two_arms_in_rationals(implementation):
    for horizon, rational in RATIONALS.items():
        assert float(implementation(horizon)) == pytest.approx(float(rational), rel=1e-14)


@pytest.mark.row("S84.value")
def test_rationals_by_recursion_and_uneven_priors():
    for horizon in (1, 2, 3, 6, 10):
        assert in_rationals(horizon) == RATIONALS[horizon]
    uneven = ((3, 1), (1, 2), (2, 2))
    prior = BetaBernoulli(*np.array(uneven, float).T)
    solution = solved(5, prior)
    assert float(solution.value) == pytest.approx(float(in_rationals(5, uneven)), rel=1e-14)
    np.testing.assert_allclose(bayes_regret(solution.policy, prior, 5).reward[-1], solution.value, 1e-13)


@pytest.mark.row("S84.value")
@against(
    lambda policy, horizon: bayes_regret(policy, UNIFORM, horizon).regret[-1],
    of_the_better_mean=lambda policy, horizon: horizon / 2 - bayes_regret(policy, UNIFORM, horizon).reward[-1],
    one_pull_less=lambda policy, horizon: bayes_regret(policy, UNIFORM, horizon - 1).regret[-1],
)
def test_exact_bayes_regret(implementation):
    """The reference values; a forward pass over states must also agree with the backward one."""
    table = {10: (0.64488, 0.96212, 0.66086), 20: (0.90207, 1.40154, 0.96798)}
    for horizon, (optimal, thompson, greedy) in table.items():
        solution = solved(horizon)
        assert implementation(solution.policy, horizon) == pytest.approx(optimal, abs=6e-6)
        assert implementation(solution.policy, horizon) == pytest.approx(float(solution.details.regret), rel=1e-10)
        assert implementation(Thompson(), horizon) == pytest.approx(thompson, abs=6e-6)
        assert implementation(Greedy(ties="random"), horizon) == pytest.approx(greedy, abs=6e-6)


@pytest.mark.row("S84.value")
def test_values_of_ten_pulls():
    """Posterior sampling 5.7045, greedy 5.9902 or by ties 6.0058, Bayes-optimal 6.0218."""
    assert bayes_regret(Thompson(), UNIFORM, 10).reward[-1] == pytest.approx(5.7045, abs=6e-5)
    assert float(solved(10).value) == pytest.approx(6.0218, abs=6e-5)
    assert float(solved(20).value) == pytest.approx(12.431265, abs=1e-6)


@pytest.mark.parametrize(
    "policy", [UCB1(), EpsilonGreedy(), BayesUCB(), Thompson(), Gittins()], ids=lambda p: type(p).__name__
)
def test_simulation_agrees_with_exact_regret(policy):
    """4,000 worlds drawn from the prior; 4 standard errors are passed by chance once in 16,000 times."""
    random, runs, horizon = np.random.default_rng(8), 4_000, 15
    arms = BernoulliArms(random.random((2, runs)))
    measured = simulate_bandit(arms, {"a": policy}, horizon=horizon, runs=runs, seed=1)["a"].regret[-1]
    exact = bayes_regret(policy, UNIFORM, horizon)
    assert abs(measured.mean() - exact.regret[-1]) < 4.0 * measured.std() / np.sqrt(runs)
    np.testing.assert_allclose(exact.pulls.sum(), horizon, 1e-12)


@against(
    lambda: Gittins(discount=0.9),
    greedy=lambda: Greedy(),
    another_discount=lambda: Gittins(discount=0.5),
)
def test_gittins_theorem(implementation):
    """Two arms, discount 0.9: for 40 pulls the index policy's arms are worth as much as the best ones, up to what a
    horizon changes: 0.9^40 times a bonus. Each first pull is compared with the optimum's value of it."""
    discounted = solve(BernoulliBandit(UNIFORM, Discounted(0.9)), ExactBandit(most_pulls=40))
    policy = implementation().prepare(BernoulliArms([0.5, 0.5]), 40)
    for time in range(11):
        states = [
            (n, time - n, one, two) for n in range(time + 1) for one in range(n + 1) for two in range(time - n + 1)
        ]
        columns = np.array(states).T
        statistics = ArmStatistics(columns[:2], columns[2:])
        gains = np.asarray(discounted.policy.index(statistics, time))
        chances = np.asarray(policy.probabilities(statistics, time))
        assert np.all(gains.max(axis=0) - np.sum(chances * gains, axis=0) < 2e-4)


def test_discounted_value():
    """100 pulls and then one arm for ever: 6.09641072 (the index policy earns 6.09641068, greedy 6.05732)."""
    solution = solve(BernoulliBandit(UNIFORM, Discounted(0.9)), ExactBandit(most_pulls=60))
    assert float(solution.value) == pytest.approx(6.09641072, abs=2e-5)
    assert float(solution.details.informed) == pytest.approx(20 / 3, rel=1e-12)


def test_best_mean_by_quadrature():
    a, b = np.array([1.0, 2.5, 0.7]), np.array([1.0, 3.0, 1.4])
    laws = [scipy.stats.beta(p, q) for p, q in zip(a, b, strict=True)]
    expected = scipy.integrate.quad(lambda x: 1 - np.prod([law.cdf(x) for law in laws]), 0, 1, epsabs=1e-13)[0]
    assert float(best_mean(jnp.asarray(a), jnp.asarray(b))) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: BernoulliArms([0.5]), "at least two arms"),
        (lambda: BernoulliArms([0.5, 1.5]), "at most 1"),
        (lambda: BernoulliArms([0.5, np.nan]), "nan"),
        (lambda: GaussianArms([0.0, 1.0], 0.0), "above 0"),
        (lambda: ExponentialArms([0.0, 1.0]), "above 0"),
        (lambda: simulate_bandit(TEN, {"a": UCB1()}, horizon=9, runs=1), "at least as many rounds"),
        (lambda: simulate_bandit(TEN, {}, horizon=10, runs=1), "at least one policy"),
        (lambda: simulate_bandit(TEN, {"a": UCB1()}, horizon=10, runs=0), "runs"),
        (lambda: simulate_bandit(BernoulliArms(np.full((2, 3), 0.5)), {"a": UCB1()}, horizon=9, runs=4), "3 runs"),
        (lambda: simulate_bandit(TEN, {"a": UCB1()}, horizon=10, runs=1, times=np.array([20])), "between 1"),
        (lambda: BernoulliBandit(BetaBernoulli(), FiniteHorizon(3)), "at least two arms"),
        (lambda: BernoulliBandit(UNIFORM, FiniteHorizon(3, 1.0, 1.0)), "terminal_reward"),
        (lambda: solved(200), "give at most 69 pulls"),
        (lambda: bayes_regret(UCB1(), UNIFORM, 0), "at least 1"),
        (lambda: bayes_regret(UCB1(), BetaBernoulli(), 3), "at least two arms"),
        (lambda: regret(TEN, np.zeros((3, 4), int)), "has 3 arms"),
    ],
)
def test_errors(make, says):
    with pytest.raises(ValueError, match=says):
        make()
