"""Bandit policies: probabilities by quadrature, first pulls and ties, Gittins indices, the information ratio."""

from fractions import Fraction

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.integrate
import scipy.special
import scipy.stats

from clauses import against
from optimality.beliefs import BetaBernoulli, GammaExponential, NormalKnownVariance
from optimality.exploration.bandit_policy import ArmStatistics, draw
from optimality.exploration.bayes_ucb import BayesUCB
from optimality.exploration.gamma_draws import draw_gamma
from optimality.exploration.gittins import Gittins, gittins_index, gittins_table
from optimality.exploration.greedy import EpsilonGreedy, Greedy
from optimality.exploration.information_directed_sampling import (
    InformationDirectedSampling,
    arm_information,
    information_ratio,
    least_ratio,
    normal_arm_information,
)
from optimality.exploration.knowledge_gradient import (
    KnowledgeGradient,
    exponential_look_value,
    look_value,
    normal_look_value,
)
from optimality.exploration.thompson import Thompson
from optimality.exploration.ucb1 import UCB1
from optimality.problems.bandits import BernoulliArms, ExponentialArms, GaussianArms

TWO = BernoulliArms([0.3, 0.6])


def seen(pulls, earned):
    return ArmStatistics(np.asarray(pulls, np.int32), np.asarray(earned))


def wrong_ucb1(change):
    def policy(pulls, ones, time):
        pulls, ones = np.asarray(pulls), np.asarray(ones)
        count = np.maximum(pulls, 1)
        return change(ones / count, count, pulls, time)

    return policy


def ours_ucb1(pulls, ones, time):
    statistics = ArmStatistics(jnp.asarray(pulls), jnp.asarray(ones))
    arm = int(UCB1().select(statistics, time, jnp.zeros(1)))
    chances = np.asarray(UCB1().probabilities(statistics, time))
    assert chances[arm] == 1.0
    assert chances.sum() == 1.0
    return arm


@pytest.mark.row("S82")
@pytest.mark.row("E1.20")
@against(
    ours_ucb1,
    unseen_last=wrong_ucb1(lambda m, n, p, t: np.argmax(np.where(p == 0, -1, m + np.sqrt(2 * np.log(max(t, 1)) / n)))),
    highest_index=wrong_ucb1(
        lambda m, n, p, t: len(m) - 1 - np.argmax(np.where(p == 0, 9, m + np.sqrt(2 * np.log(max(t, 1)) / n))[::-1])
    ),
    horizon_for_time=wrong_ucb1(lambda m, n, p, t: np.argmax(np.where(p == 0, 9, m + np.sqrt(2 * np.log(1000) / n)))),
    no_two=wrong_ucb1(lambda m, n, p, t: np.argmax(np.where(p == 0, 9, m + np.sqrt(np.log(max(t, 1)) / n)))),
    time_after_the_pull=wrong_ucb1(
        lambda m, n, p, t: np.argmax(np.where(p == 0, 9, m + np.sqrt(2 * np.log(t + 1) / n)))
    ),
)
def test_ucb1_by_hand(implementation, x64):
    """Each arm once first, in order; the first of equal bounds; and cases that tell the bonuses apart: the crossing of
    two bounds as pulls go by lies between `time` and `time + 1`."""
    assert [int(implementation([0, 0, 0], [0, 0, 0], 0)), int(implementation([1, 0, 0], [1, 0, 0], 1))] == [0, 1]
    assert int(implementation([2, 2, 2], [1, 1, 1], 6)) == 0
    assert int(implementation([40, 4], [26, 1], 44)) == 1
    pulls, ones = [100, 19], [60, 7]
    # 0.6 + sqrt(2 log T / 100) = 7/19 + sqrt(2 log T / 19) where
    root = (0.6 - 7 / 19) / (np.sqrt(2 / 19) - np.sqrt(2 / 100))
    crossing = np.exp(root**2)
    below, above = int(np.floor(crossing)), int(np.ceil(crossing))
    assert int(implementation(pulls, ones, below)) == 0
    assert int(implementation(pulls, ones, above)) == 1


@pytest.mark.row("S82")
def test_random_ties():
    statistics = ArmStatistics(jnp.asarray([2, 2, 3]), jnp.asarray([1, 1, 0]))
    chances = UCB1(ties="random").probabilities(statistics, 7)
    np.testing.assert_allclose(chances, [0.5, 0.5, 0.0])
    uniforms = jnp.asarray([[0.1, 0.49, 0.51, 0.999]])
    many = ArmStatistics(*(jnp.repeat(leaf[:, None], 4, axis=1) for leaf in (statistics.pulls, statistics.earned)))
    np.testing.assert_array_equal(UCB1(ties="random").select(many, 7, uniforms), [0, 0, 1, 1])


def test_draws_never_choose_an_impossible_arm():
    chances = jnp.asarray([0.0, 0.3, 0.7, 0.0])
    np.testing.assert_array_equal([draw(chances, jnp.asarray(u)) for u in (0.0, 0.29, 0.31, 1.0)], [1, 1, 2, 2])


def probability_best(laws):
    """P(arm a is the largest) by adaptive quadrature over its own law."""
    answer = []
    for k, law in enumerate(laws):

        def integrand(p, law=law, k=k):
            x = law.ppf(p)
            return np.prod([other.cdf(x) for j, other in enumerate(laws) if j != k])

        answer.append(scipy.integrate.quad(integrand, 0, 1, epsabs=1e-12, epsrel=1e-12, limit=400)[0])
    return np.array(answer)


def chances_of(policy, arms, statistics):
    return np.asarray(policy.prepare(arms, 100).probabilities(statistics, int(np.sum(statistics.pulls))))


@pytest.mark.row("S84.probability")
@against(
    lambda arms, statistics: chances_of(Thompson(), arms, statistics),
    greedy=lambda arms, statistics: chances_of(Greedy(), arms, statistics),
    even=lambda arms, statistics: np.full(len(statistics.pulls), 1 / len(statistics.pulls)),
    in_proportion_to_means=lambda arms, statistics: (statistics.earned + 1.0) / np.sum(statistics.earned + 1.0, axis=0),
)
def test_thompson_is_the_probability_of_being_best(implementation):
    cases = [
        ([3, 5], [2, 1]),
        ([0, 40], [0, 31]),
        ([2, 9, 30], [1, 6, 12]),
        ([0, 0, 0], [0, 0, 0]),
        ([400, 7], [203, 2]),
    ]
    for pulls, ones in cases:
        laws = [scipy.stats.beta(1 + s, 1 + n - s) for n, s in zip(pulls, ones, strict=True)]
        arms = BernoulliArms(np.linspace(0.2, 0.8, len(pulls)))
        np.testing.assert_allclose(implementation(arms, seen(pulls, ones)), probability_best(laws), 0, 3e-10)


@pytest.mark.row("S84.probability")
def test_thompson_of_other_families():
    arms = GaussianArms([0.0, 1.0, 2.0], 0.5)
    means = np.array([0.1, 0.9, 0.8])
    laws = [scipy.stats.norm(m, 0.5 / np.sqrt(n)) for m, n in zip(means, (4, 9, 1), strict=True)]
    np.testing.assert_allclose(chances_of(Thompson(), arms, seen([4, 9, 1], means)), probability_best(laws), 0, 1e-9)
    prior = NormalKnownVariance(0.3, 2.0, 0.5)
    precision = 1 / 4 + np.array([4, 0, 1]) / 0.25
    location = (0.3 / 4 + np.array([4, 0, 1]) * means / 0.25) / precision
    laws = [scipy.stats.norm(m, p**-0.5) for m, p in zip(location, precision, strict=True)]
    chances = chances_of(Thompson(prior=prior), arms, seen([4, 0, 1], means))
    np.testing.assert_allclose(chances, probability_best(laws), 0, 1e-9)
    arms, prior = ExponentialArms([1.0, 2.0]), GammaExponential(2.0, 1.5)
    laws = [scipy.stats.invgamma(2 + n, scale=1.5 + n * m) for n, m in ((3, 1.2), (6, 0.7))]
    chances = chances_of(Thompson(prior=prior), arms, seen([3, 6], [1.2, 0.7]))
    np.testing.assert_allclose(chances, probability_best(laws), 0, 1e-9)


def test_what_nothing_is_known_of_comes_first():
    for arms in (GaussianArms([0.0, 1.0, 2.0]), ExponentialArms([1.0, 2.0, 3.0])):
        statistics = seen([2, 0, 0], [1.0, 0.0, 0.0])
        np.testing.assert_allclose(chances_of(Thompson(), arms, statistics), [0.0, 0.5, 0.5])
        for policy in (Greedy(), BayesUCB()):
            np.testing.assert_allclose(chances_of(policy, arms, statistics), [0.0, 1.0, 0.0])


@pytest.mark.row("S84.probability")
@pytest.mark.parametrize("prior", [None, BetaBernoulli(0.5, 0.5)])
def test_thompson_draws_as_often_as_its_probabilities_say(prior):
    pulls, ones = np.array([3, 5, 0]), np.array([2, 2, 0])
    policy = Thompson(prior=prior).prepare(BernoulliArms([0.1, 0.5, 0.9]), 100)
    chances = np.asarray(policy.probabilities(seen(pulls, ones), 8))
    count = 60_000
    statistics = ArmStatistics(np.repeat(pulls[:, None], count, 1), np.repeat(ones[:, None], count, 1))
    drawn = policy.start_on_host(statistics, np.random.default_rng(4))(8)
    share = np.bincount(drawn, minlength=3) / count
    assert np.all(np.abs(share - chances) < 4.0 * np.sqrt(chances * (1 - chances) / count))


def truncated_normal_draws(shapes, random):
    """The proposal of the method without its rejection."""
    d = shapes - np.float32(1 / 3)
    return d * np.maximum(1 + random.standard_normal(shapes.shape) / (3 * np.sqrt(d)), 0) ** 3


@against(
    draw_gamma,
    without_rejection=truncated_normal_draws,
    normal=lambda shapes, random: shapes + np.sqrt(shapes) * random.standard_normal(shapes.shape),
)
def test_gamma_draws(implementation):
    """Kolmogorov's distance against SciPy: 2.2 / sqrt(n) is passed by chance once in 8,000 draws."""
    random = np.random.Generator(np.random.SFC64(3))
    for shape in (1.0, 1.5, 7.0, 300.0):
        x = implementation(np.full(200_001, shape, np.float32), random).astype(np.float64)
        assert scipy.stats.kstest(x, scipy.stats.gamma(shape).cdf).statistic < 2.2 / np.sqrt(x.size)


def test_bayes_ucb_is_the_quantile():
    policy = BayesUCB().prepare(TWO, 100)
    index = policy.index(seen([3, 5], [2, 1]), 8)
    np.testing.assert_allclose(index, scipy.stats.beta([3, 2], [2, 5]).ppf(1 - 1 / 9), 1e-12)
    policy = BayesUCB(power=5.0).prepare(GaussianArms([0.0, 1.0], 2.0), 100)
    level = 1 - 1 / (9 * np.log(100) ** 5)
    expected = scipy.stats.norm([0.5, 0.2], 2 / np.sqrt([3, 5])).ppf(level)
    np.testing.assert_allclose(policy.index(seen([3, 5], [0.5, 0.2]), 8), expected, 1e-12)
    policy = BayesUCB(prior=GammaExponential(1.0, 1.0)).prepare(ExponentialArms([1.0, 2.0]), 100)
    expected = scipy.stats.invgamma([4, 6], scale=[2.5, 2.0]).ppf(1 - 1 / 9)
    np.testing.assert_allclose(policy.index(seen([3, 5], [0.5, 0.2]), 8), expected, 1e-10)


def worth_of_a_look(a, b):
    """In rationals, by definition."""
    means = [Fraction(p, p + q) for p, q in zip(a, b, strict=True)]
    answer = []
    for k in range(len(a)):
        total = Fraction(0)
        for one in (0, 1):
            after = list(means)
            after[k] = Fraction(a[k] + one, a[k] + b[k] + 1)
            total += (means[k] if one else 1 - means[k]) * max(after)
        answer.append(float(total - max(means)))
    return answer


@against(
    look_value,
    own_mean=lambda a, b: (a / (a + b)) * jnp.maximum((a + 1) / (a + b + 1) - jnp.max(a / (a + b)), 0.0),
    after_a_zero_too=lambda a, b: jnp.maximum((a + 1) / (a + b + 1), jnp.max(a / (a + b))) - jnp.max(a / (a + b)),
)
def test_knowledge_gradient_in_rationals(implementation, x64):
    for a, b in (((2, 3, 1), (1, 2, 1)), ((5, 1), (2, 1)), ((9, 1, 4), (1, 1, 4)), ((3, 3), (1, 1))):
        ours = implementation(jnp.asarray(a, float), jnp.asarray(b, float))
        np.testing.assert_allclose(ours, worth_of_a_look(a, b), 1e-5, 1e-12 if x64 else 1e-7)


def look_by_quadrature(means, laws):
    """`E max(mean after, largest other) - max` from the law of each arm's mean after a pull."""
    answer = []
    for k, law in enumerate(laws):
        other = max(m for j, m in enumerate(means) if j != k)
        excess = scipy.integrate.quad(law.sf, other, np.inf, epsabs=1e-13, epsrel=1e-12, limit=400)[0]
        answer.append(other + excess - max(means))
    return answer


@against(
    normal_look_value,
    own_mean_among_the_others=lambda m, s: s * jax.scipy.stats.norm.pdf((m - jnp.max(m)) / s),
    posterior_deviation_for_the_change=lambda m, s: normal_look_value(m, 1.5 * s),
    sign_of_z=lambda m, s: normal_look_value(-m, s),
)
def test_knowledge_gradient_of_normal_arms(implementation):
    with jax.enable_x64(True):
        for m, s in (([0.1, 0.4, 0.3], [0.5, 0.3, 0.2]), ([1.0, 1.0], [0.2, 0.9]), ([0.0, 2.0, -1.0], [0.7, 0.1, 3.0])):
            laws = [scipy.stats.norm(*p) for p in zip(m, s, strict=True)]
            ours = implementation(jnp.asarray(m), jnp.asarray(s))
            np.testing.assert_allclose(ours, look_by_quadrature(m, laws), 1e-9, 1e-12)


@against(
    exponential_look_value,
    normal_of_the_same_moments=lambda a, b: normal_look_value(b / (a - 1), b / (a - 1) / jnp.sqrt(a * (a - 2))),
    mean_before_for_after=lambda a, b: exponential_look_value(a - 1.0, b),
    known_rate=lambda a, b: b / (a - 1) * jnp.exp(-jnp.max(b / (a - 1)) * (a - 1) / b),
    best_arm_like_the_others=lambda a, b: b / (a - 1) / a * jnp.exp(-(a - 1) * jnp.log(jnp.max(b / (a - 1)) * a / b)),
)
def test_knowledge_gradient_of_exponential_arms(implementation):
    with jax.enable_x64(True):
        for a, b in (([2.5, 4.0, 3.0], [2.0, 5.0, 3.5]), ([3.0, 3.0], [2.0, 2.0]), ([9.0, 2.2, 6.0], [40.0, 1.0, 3.0])):
            means = [q / (p - 1) for p, q in zip(a, b, strict=True)]
            laws = [scipy.stats.pareto(p, scale=q / p) for p, q in zip(a, b, strict=True)]  # of (b + reward) / a
            ours = implementation(jnp.asarray(a), jnp.asarray(b))
            np.testing.assert_allclose(ours, look_by_quadrature(means, laws), 1e-9, 1e-12)


def test_knowledge_gradient_follows_the_beliefs(x64):
    """Deviations of the next mean by the law of total variance; and the pulls that come before means are finite."""
    arms, prior = GaussianArms([0.0, 1.0, 2.0], 0.5), NormalKnownVariance(0.3, 2.0, 0.5)
    pulls, means = np.array([4, 0, 1]), np.array([0.1, 0.0, 0.8])
    variance = 1 / (1 / 4 + pulls / 0.25)
    after = 1 / (1 / 4 + (pulls + 1) / 0.25)
    location = variance * (0.3 / 4 + pulls * means / 0.25)
    policy = KnowledgeGradient(prior=prior).prepare(arms, 100)
    expected = location + 94 * normal_look_value(jnp.asarray(location), jnp.asarray(np.sqrt(variance - after)))
    np.testing.assert_allclose(policy.index(seen(pulls, means), 5), expected, 1e-12 if x64 else 1e-4)
    first = KnowledgeGradient().prepare(arms, 100).index(seen([2, 0, 0], [1.0, 0.0, 0.0]), 2)
    np.testing.assert_array_equal(np.isinf(first), [False, True, True])
    assert not np.any(np.isnan(first))
    policy = KnowledgeGradient().prepare(ExponentialArms([1.0, 2.0, 3.0]), 100)
    index = policy.index(seen([3, 1, 2], [1.2, 0.5, 0.9]), 6)
    np.testing.assert_array_equal(np.isinf(index), [False, True, False])
    assert not np.any(np.isnan(index))
    index = policy.index(seen([3, 4, 2], [1.2, 0.5, 0.9]), 9)
    expected = exponential_look_value(jnp.asarray([3.0, 4.0, 2.0]), jnp.asarray([3.6, 2.0, 1.8]))
    np.testing.assert_allclose(index, jnp.asarray([1.8, 2 / 3, 1.8]) + 90.0 * expected, 1e-12 if x64 else 1e-5)


def test_knowledge_gradient_ties():
    """Arms of which the same is known have the same index, to the bit: the first is pulled."""
    policy = KnowledgeGradient().prepare(BernoulliArms([0.2, 0.5, 0.7]), 1000)
    for pulls, ones in (([0, 0, 0], [0, 0, 0]), ([3, 3, 3], [2, 2, 2]), ([4, 9, 9], [0, 5, 5])):
        index = np.asarray(policy.index(seen(pulls, ones), sum(pulls)))
        assert index[1] == index[2]
    np.testing.assert_array_equal(policy.probabilities(seen([0, 0, 0], [0, 0, 0]), 0), [1.0, 0.0, 0.0])


def test_knowledge_gradient_is_greedy_at_the_last_pull():
    statistics = seen([3, 4], [1, 3])
    policy = KnowledgeGradient().prepare(TWO, 8)
    np.testing.assert_allclose(policy.index(statistics, 7), [2 / 5, 4 / 6], 1e-6)


PUBLISHED = [  # Gittins, Glazebrook and Weber's tables to four digits, and the R package's tests
    (0.9, 1, 1, 0.7029, 5e-5),
    (0.9, 2, 2, 0.6346, 5e-5),
    (0.9, 3, 3, 0.6010, 5e-5),
    (0.9, 10, 2, 0.8695, 5e-5),
    (0.99, 1, 1, 0.8699, 5e-5),
    (0.5, 2, 1, 0.70600586, 5e-4),
    (0.5, 2, 2, 0.53586272, 5e-4),
    (0.5, 3, 1, 0.77735112, 5e-4),
    (0.8, 3, 2, 0.67143994, 1e-4),
    (0.5, 1, 1, 0.559019, 1e-6),
    (0.9, 2, 1, 0.800056, 1e-6),
    (0.9, 1, 2, 0.500129, 1e-6),
    (0.95, 1, 1, 0.761434, 1e-6),
    (0.95, 2, 1, 0.838141, 1e-6),
    (0.99, 2, 1, 0.910177, 1e-6),
    (0.99, 2, 2, 0.784359, 1e-6),
]


@against(
    gittins_index,
    mean=lambda a, b, g: a / (a + b),
    one_pull_ahead=lambda a, b, g: gittins_index(a, b, g, truncation=1),
    a_discount_nearby=lambda a, b, g: gittins_index(a, b, g - 0.001),
    arms_swapped=lambda a, b, g: gittins_index(b, a, g),
)
def test_published_gittins_indices(implementation):
    for discount, a, b, published, tolerance in PUBLISHED:
        assert float(implementation(float(a), float(b), discount)) == pytest.approx(published, abs=tolerance)


def test_gittins_indices_by_bisection():
    """The definition itself, in plain Python, at a discount where twenty-five pulls are enough."""

    def gain(a, b, rate, discount, depth=25):
        values = [max(rate, (a + i) / (a + b + depth)) for i in range(depth + 1)]
        for level in range(depth - 1, -1, -1):
            ahead = []
            for i in range(level + 1):
                m = (a + i) / (a + b + level)
                going = (1 - discount) * m + discount * (m * values[i + 1] + (1 - m) * values[i])
                ahead.append(going if level == 0 else max(rate, going))
            values = ahead
        return values[0] - rate

    for a, b in ((1.0, 1.0), (0.5, 2.5), (4.0, 1.5)):
        low, high = a / (a + b), 1.0
        for _ in range(50):
            middle = 0.5 * (low + high)
            low, high = (middle, high) if gain(a, b, middle, 0.3) > 0 else (low, middle)
        np.testing.assert_allclose(gittins_index(a, b, 0.3, truncation=25), low, 1e-12)


def test_gittins_table_and_its_properties():
    table = gittins_table(0.9, 20)
    ones, zeros = np.meshgrid(np.arange(11), np.arange(11))
    index = gittins_index(ones + 1, zeros + 1, 0.9)
    np.testing.assert_allclose(table[ones, zeros], index, 0, 1e-4)
    assert np.all(np.diff(index, axis=1) > 0)  # in ones
    assert np.all(np.diff(index, axis=0) < 0)  # in zeros
    mean = (ones + 1) / (ones + zeros + 2)
    assert np.all((index > mean) & (index < 1))
    np.testing.assert_allclose(gittins_index(ones + 1, zeros + 1, 0.0), mean, 1e-15)
    assert np.isnan(table[15, 15])


def test_gittins_beyond_its_table():
    policy = Gittins(discount=0.9, most=50).prepare(TWO, 1000)
    inside, outside = policy.index(seen([50, 40], [30, 20]), 90), policy.index(seen([500, 40], [300, 20]), 540)
    assert 300 / 500 < outside[0] < inside[0]
    np.testing.assert_allclose(outside[1], inside[1])


def by_enumeration(a, b, nodes=4000):
    """P(A*), E[mu_b | A*] and the mutual information of the best arm and a reward, from one sum over both arms."""
    x = (np.arange(nodes) + 0.5) / nodes
    law = np.outer(*(scipy.stats.beta(p, q).pdf(x) / nodes for p, q in zip(a, b, strict=True)))
    # cells on the diagonal count half to each arm
    first = (x[:, None] > x[None]) + 0.5 * (x[:, None] == x[None])
    joint = np.stack([law * first, law * (1 - first)])
    chance = joint.sum((1, 2))
    chance /= chance.sum()
    conditional = np.stack([(joint * x[:, None]).sum((1, 2)), (joint * x[None]).sum((1, 2))], 1)
    conditional /= joint.sum((1, 2))[:, None]
    mean = chance @ conditional
    entropy = lambda p: scipy.special.entr(p) + scipy.special.entr(1 - p)  # noqa: E731
    return chance, entropy(mean) - chance @ entropy(conditional)


@pytest.mark.row("S85")
@pytest.mark.row("E1.22")
@against(
    lambda a, b: arm_information(a, b, 4096).information,
    about_the_mean=lambda a, b: BetaBernoulli(a, b).mutual_information(),
    not_of_the_action=lambda a, b: jnp.full(2, jnp.sum(arm_information(a, b, 4096).information)),
)
def test_information_about_the_best_arm(implementation):
    with jax.enable_x64(True):
        for a, b in (((1.0, 1.0), (1.0, 1.0)), ((3.0, 2.0), (2.0, 4.0)), ((9.0, 1.5), (4.0, 1.2))):
            _, information = by_enumeration(a, b)
            np.testing.assert_allclose(implementation(jnp.asarray(a), jnp.asarray(b)), information, 2e-3)


def two_normal_arms(location, scale):
    """P(first is best), both regrets, and the variance of each mean that is explained, in closed form."""
    spread = np.hypot(*scale)
    alpha = (location[0] - location[1]) / spread
    first, density = scipy.stats.norm.cdf(alpha), scipy.stats.norm.pdf(alpha)
    best = location[1] + spread * (alpha * first + density)
    explained = (scale**2 / spread * density) ** 2 / (first * (1 - first))
    return first, best - location, explained


NORMAL_PAIRS = [
    ([0.3, 0.0], [0.5, 1.0]),
    ([0.0, 0.0], [1.0, 1.0]),
    ([1.0, 0.2], [0.02, 0.6]),
    ([1.8, 0.0], [0.03, 0.4]),
]


@against(
    lambda m, s, grid: normal_arm_information(m, s, grid),
    posterior_variance=lambda m, s, grid: normal_arm_information(m, s, grid)._replace(information=s**2),
    information_of_the_other_arm=lambda m, s, grid: normal_arm_information(m, s[::-1], grid),
    deviation=lambda m, s, grid: normal_arm_information(m, s, grid)._replace(
        information=jnp.sqrt(normal_arm_information(m, s, grid).information)
    ),
    too_few_cells=lambda m, s, grid: normal_arm_information(m, s, 32),
)
def test_variance_explained_by_which_of_two_arms_is_best(implementation):
    with jax.enable_x64(True):
        for pair in NORMAL_PAIRS:
            m, s = np.array(pair)
            first, regret, explained = two_normal_arms(m, s)
            ours = implementation(jnp.asarray(m), jnp.asarray(s), 4096)
            np.testing.assert_allclose(ours.best, [first, 1 - first], 1e-4)
            np.testing.assert_allclose(ours.regret, regret, 1e-4, 1e-9)
            np.testing.assert_allclose(ours.information, explained, 1e-4)


def test_variance_explained_by_monte_carlo():
    """Three normal arms and three of rewards 0 and 1; a million draws, 5 standard errors of conditional means."""
    random, count = np.random.default_rng(7), 1_000_000
    m, s = np.array([0.2, 0.0, -0.5]), np.array([0.3, 0.8, 1.2])
    a, b = np.array([3.0, 2.0, 6.0]), np.array([2.0, 2.0, 4.0])
    with jax.enable_x64(True):
        normal = normal_arm_information(jnp.asarray(m), jnp.asarray(s), 1024)
        beta = arm_information(jnp.asarray(a), jnp.asarray(b), 1024, "variance")
    for draws, ours in ((m + s * random.standard_normal((count, 3)), normal), (random.beta(a, b, (count, 3)), beta)):
        best = np.argmax(draws, axis=1)
        chance = np.bincount(best) / count
        conditional = np.stack([draws[best == k].mean(axis=0) for k in range(3)])
        explained = chance @ (conditional - draws.mean(axis=0)) ** 2
        np.testing.assert_allclose(ours.best, chance, 0, 2.5e-3)
        np.testing.assert_allclose(ours.regret, draws.max(axis=1).mean() - draws.mean(axis=0), 0, 6e-3)
        np.testing.assert_allclose(ours.information, explained, 2e-2)


def total_variance(a, b):
    return a * b / ((a + b) ** 2 * (a + b + 1))


@against(
    lambda a, b: arm_information(a, b, 1024, "variance").information,
    all_of_the_variance=total_variance,
    not_halved=lambda a, b: 2.5 * arm_information(a, b, 1024, "variance").information,
)
def test_information_is_at_least_twice_the_variance(implementation):
    """Pinsker's inequality in every conditional law."""
    random = np.random.default_rng(2)
    with jax.enable_x64(True):
        a, b = jnp.asarray(1 + 20 * random.random((2, 40, 3)))
        entropy = jax.vmap(lambda p, q: arm_information(p, q, 1024).information)(a, b)
        variance = jax.vmap(implementation)(a, b)
        assert np.all(np.asarray(entropy) >= 2.0 * np.asarray(variance))
        assert np.all(np.asarray(variance) >= 0.0)


def test_variance_ratio_is_at_most_the_number_of_arms():
    random = np.random.default_rng(3)
    with jax.enable_x64(True):
        for arms in (2, 5):
            m, s = jnp.asarray(random.standard_normal((16, arms))), jnp.asarray(random.exponential(1.0, (16, arms)))
            information = jax.vmap(lambda p, q: normal_arm_information(p, q, 256))(m, s)
            least = np.asarray(jax.vmap(information_ratio)(information, jax.vmap(least_ratio)(information)))
            thompson = np.asarray(jax.vmap(information_ratio)(information, information.best))
            assert np.all(least <= thompson * (1 + 1e-9))
            assert np.all(thompson <= arms)


def test_information_directed_sampling_of_normal_arms():
    """By chances of the closed form on a fine grid; and what nothing is known of comes first."""
    arms, prior = GaussianArms([0.0, 1.0], 0.5), NormalKnownVariance(0.3, 2.0, 0.5)
    policy = InformationDirectedSampling(information="variance", prior=prior)
    pulls, means = np.array([4, 1]), np.array([0.9, 0.6])
    variance = 1 / (1 / 4 + pulls / 0.25)
    _, regret, explained = two_normal_arms(variance * (0.3 / 4 + pulls * means / 0.25), np.sqrt(variance))
    share = np.linspace(0, 1, 100_001)
    ratio = (share * regret[0] + (1 - share) * regret[1]) ** 2 / (share * explained[0] + (1 - share) * explained[1])
    best = share[np.argmin(ratio)]
    assert 0.1 < best < 0.95
    np.testing.assert_allclose(chances_of(policy, arms, seen(pulls, means)), [best, 1 - best], 0, 1e-3)
    flat = InformationDirectedSampling(information="variance")
    arms = GaussianArms([0.0, 1.0, 2.0])
    np.testing.assert_allclose(chances_of(flat, arms, seen([2, 0, 0], [1.0, 0.0, 0.0])), [0.0, 0.5, 0.5])


def test_information_ratio_is_at_most_half_the_arms():
    """For information-directed and for Thompson sampling (Russo and Van Roy 2016), on random beliefs."""
    random = np.random.default_rng(2)
    with jax.enable_x64(True):
        for arms in (2, 3, 5):
            a, b = jnp.asarray(1 + 20 * random.random((2, 40, arms)))
            information = jax.vmap(lambda p, q: arm_information(p, q, 1024))(a, b)
            chances = jax.vmap(least_ratio)(information)
            least = np.asarray(jax.vmap(information_ratio)(information, chances))
            thompson = np.asarray(jax.vmap(information_ratio)(information, information.best))
            assert np.all(np.asarray(information.information) >= 0.0)
            assert np.all(least <= thompson + 1e-12)
            assert np.all(thompson <= arms / 2)


@against(
    least_ratio,
    thompson=lambda information: information.best,
    greedy=lambda information: jax.nn.one_hot(jnp.argmin(information.regret), information.regret.shape[0]),
)
def test_least_ratio_by_search(implementation):
    """No distribution on a fine grid of the simplex has a smaller ratio."""
    with jax.enable_x64(True):
        for a, b in (
            ((1.0, 2.0, 6.0), (1.0, 2.0, 5.0)),
            ((2.0, 6.0, 3.0), (3.0, 5.0, 3.0)),
            ((1.0, 8.0, 3.0), (2.0, 4.0, 3.0)),
        ):
            information = arm_information(jnp.asarray(a), jnp.asarray(b), 1024)
            steps = np.linspace(0, 1, 101)
            grid = np.array([(p, q, 1 - p - q) for p in steps for q in steps if p + q <= 1 + 1e-12])
            ratios = (grid @ information.regret) ** 2 / (grid @ information.information)
            ours = float(information_ratio(information, implementation(information)))
            assert ours <= ratios.min() + 1e-12
            assert ours > 0.99 * ratios.min()


def test_epsilon_greedy():
    policy = EpsilonGreedy(epsilon=0.3).prepare(TWO, 10)
    np.testing.assert_allclose(policy.probabilities(seen([3, 3], [1, 2]), 6), [0.15, 0.85], 1e-6)


@pytest.mark.parametrize(
    ("policy", "arms", "says"),
    [
        (UCB1(), GaussianArms([0.0, 1.0]), "scale=2"),
        (UCB1(scale=1.0), ExponentialArms([1.0, 2.0]), "thompson or bayes-ucb"),
        (KnowledgeGradient(prior=GammaExponential(1.0, 1.0)), ExponentialArms([1.0, 2.0]), "shape above 1"),
        (InformationDirectedSampling(), ExponentialArms([1.0, 2.0]), "thompson or bayes-ucb"),
        (InformationDirectedSampling(), GaussianArms([0.0, 1.0]), 'give information="variance"'),
        (InformationDirectedSampling(grid=32, information="variance"), GaussianArms(np.zeros(32)), "larger than"),
        (Thompson(prior=BetaBernoulli()), GaussianArms([0.0, 1.0]), "NormalKnownVariance"),
        (Greedy(prior=BetaBernoulli(np.ones(3), np.ones(3))), TWO, "one for each of 2 arms"),
    ],
)
def test_policies_refuse_rewards_outside_their_support(policy, arms, says):
    with pytest.raises(ValueError, match=says):
        policy.check(arms, 100)


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: UCB1(scale=0.0), "above 0"),
        (lambda: EpsilonGreedy(epsilon=1.5), "at most 1"),
        (lambda: Gittins(discount=1.0), "at most"),
        (lambda: InformationDirectedSampling(grid=100), "multiple of 32"),
        (lambda: gittins_index(0.0, 1.0, 0.9), "above 0"),
        (lambda: gittins_index(1.0, 1.0, 1.0), r"\[0, 1\)"),
        (lambda: Thompson().probabilities(seen([1, 1], [0, 1]), 2), "prepare"),
    ],
)
def test_bad_numbers(make, says):
    with pytest.raises(ValueError, match=says):
        make()
