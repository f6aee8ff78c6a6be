"""The hard cases of the information projection: where quasi-Newton methods report success at wrong answers.

Each states its slack. Verdicts on feasibility are HiGHS's, the weights of the best face a linear programme's.
"""

import math

import numpy as np
import pytest

import projections
from optimality.core.information_projection import InformationProjection, information_projection
from optimality.core.result import Result
from projections import changes, divergence, linear_programme, sample

SLACKS = pytest.mark.parametrize("slack", [0.0, 1e-4])
F, MOMENTS = sample()
N, K = MOMENTS.shape
EPSILON = 0.5


def check(projection: InformationProjection, f, moments, *, epsilon, slack=0.0, base=None, target=0.0, matched=1e-8):
    """A converged projection by its definition alone, in NumPy, for features of full rank."""
    base = np.full(len(f), 1.0 / len(f)) if base is None else base
    c = moments - target
    p = np.exp(projection.log_p)
    assert projection.result is Result.CONVERGED
    assert math.isclose(p.sum(), 1.0, rel_tol=1e-12)
    assert math.isclose(divergence(p, base), epsilon, rel_tol=1e-8)
    assert math.isclose(projection.kl, epsilon, rel_tol=1e-8)
    assert projection.kl_min <= epsilon
    assert projection.gradient_norm <= 1e-8
    assert math.isclose(projection.effective_sample_size, 1.0 / np.sum(p**2), rel_tol=1e-9)
    np.testing.assert_allclose(projection.value, p @ f, 1e-9 * f.std() + 1e-12 * np.abs(f).max())
    delta = (f + c @ projection.multipliers) / projection.temperature
    log_p = np.log(base) + delta - delta.max()
    log_p -= np.log(np.sum(np.exp(log_p)))
    np.testing.assert_allclose(p, np.exp(log_p), atol=1e-9)
    second = (c * base[:, None]).T @ c
    wanted = -slack * second @ projection.multipliers / np.sqrt(base @ (f - base @ f) ** 2)
    deviations = np.sqrt(np.diag(second))
    assert np.all(np.abs(p @ c - wanted) <= matched * np.where(deviations > 0, deviations, 1.0))
    np.testing.assert_allclose(projection.residual, p @ c, rtol=1e-6, atol=1e-12 * np.abs(c).max(initial=0.0))
    if slack == 0.0:
        assert abs(projection.dual - projection.value) <= 1e-8 * f.std() + 1e-15 * np.abs(f).max()


def face(f, moments):
    """Weights and KL of the best face, which a generic linear programme reaches in one vertex."""
    feasible, weights = linear_programme(f, moments)
    assert feasible
    return weights, divergence(weights)


@SLACKS
@pytest.mark.parametrize("features", [6, 20])
def test_ordinary(slack, features):
    """With slack the residual is the slack times the multipliers, in whitened moments: about the slack itself."""
    f, moments = sample(features=features)
    projection = information_projection(f, moments, epsilon=EPSILON, slack=slack)
    check(projection, f, moments, epsilon=EPSILON, slack=slack)
    assert projection.iterations <= 10
    assert np.all(projections.moment_errors(projection, moments) <= (1e-4 if slack else 1e-8))


@SLACKS
@pytest.mark.parametrize(("scale", "offset"), [(1e-6, 0.0), (1e6, 0.0), (1.0, 1e6), (3.0, -1e4), (1e-6, 1.0)])
def test_units_of_the_rewards(slack, scale, offset):
    """`r -> c r + b`: the temperature and multipliers follow c, the weights stay. An offset costs f the digits that its
    own rounding does: `|b| / sd` rounding units."""
    plain = information_projection(F, MOMENTS, epsilon=EPSILON, slack=slack)
    f = scale * F + offset
    moved = information_projection(f, MOMENTS, epsilon=EPSILON, slack=slack)
    error = 1e-13 + 4e-16 * abs(offset) / scale
    assert moved.result is Result.CONVERGED
    np.testing.assert_allclose(moved.temperature, scale * plain.temperature, rtol=10 * error)
    np.testing.assert_allclose(moved.multipliers, scale * plain.multipliers, rtol=10 * error, atol=100 * error * scale)
    np.testing.assert_allclose(np.exp(moved.log_p), np.exp(plain.log_p), rtol=100 * error)
    np.testing.assert_allclose(moved.kl, EPSILON, rtol=1e-8)


@SLACKS
def test_scales_of_the_features(slack):
    plain = information_projection(F, MOMENTS, epsilon=EPSILON, slack=slack)
    unit = 10.0 ** np.linspace(-6, 6, K)
    scaled = information_projection(F, MOMENTS * unit, epsilon=EPSILON, slack=slack)
    check(scaled, F, MOMENTS * unit, epsilon=EPSILON, slack=slack)
    np.testing.assert_allclose(scaled.log_p, plain.log_p, atol=1e-12)
    np.testing.assert_allclose(scaled.multipliers * unit, plain.multipliers, rtol=1e-10, atol=1e-12)


@SLACKS
def test_invertible_maps_of_the_features(slack):
    plain = information_projection(F, MOMENTS, epsilon=EPSILON, slack=slack)
    mixing = np.random.default_rng(5).normal(size=(K, K))
    mixed = information_projection(F, MOMENTS @ mixing, epsilon=EPSILON, slack=slack)
    np.testing.assert_allclose(mixed.log_p, plain.log_p, atol=1e-12)
    np.testing.assert_allclose(mixing @ mixed.multipliers, plain.multipliers, rtol=1e-9, atol=1e-11)


def test_target():
    """Moments and target move together."""
    shift = 100.0 * np.arange(1.0, K + 1)
    plain = information_projection(F, MOMENTS, epsilon=EPSILON)
    moved = information_projection(F, MOMENTS + shift, shift, epsilon=EPSILON)
    np.testing.assert_allclose(moved.log_p, plain.log_p, atol=1e-10)
    check(moved, F, MOMENTS + shift, epsilon=EPSILON, target=shift)


@SLACKS
def test_duplicated_and_constant_features(slack):
    """Four different features, one twice, one that never changes: the optimum of the four; the twins share their
    multiplier. With slack each twin counts, so only without it are the weights the same."""
    doubled = np.concatenate([MOMENTS[:, :4], MOMENTS[:, :1], np.zeros((N, 1))], axis=1)
    projection = information_projection(F, doubled, epsilon=EPSILON, slack=slack)
    check(projection, F, doubled, epsilon=EPSILON, slack=slack, matched=1e-8 if slack == 0.0 else 1e-4)
    assert projection.multipliers[5] == 0.0
    np.testing.assert_allclose(projection.multipliers[0], projection.multipliers[4], rtol=1e-9)
    plain = information_projection(F, MOMENTS[:, :4], epsilon=EPSILON, slack=slack)
    np.testing.assert_allclose(
        np.exp(projection.log_p), np.exp(plain.log_p), rtol=1e-10 if slack == 0.0 else 1e-3, atol=1e-13
    )
    # Twice the first column, its twin's multiplier within it.
    np.testing.assert_allclose(projection.multipliers[0] * 2, plain.multipliers[0], rtol=1e-8 if slack == 0.0 else 1e-3)


@SLACKS
@pytest.mark.parametrize("width", [1.0, 3.0])
def test_polynomials_of_degree_nine(slack, width):
    """Condition up to 1e9."""
    x = np.random.default_rng(3).uniform(0.0 if width > 1 else -1.0, width, size=N)
    powers = x[:, None] ** np.arange(1, 10)
    moments = np.roll(powers, -1, axis=0) - powers
    projection = information_projection(F, moments, epsilon=EPSILON, slack=slack)
    assert projection.result is Result.CONVERGED
    np.testing.assert_allclose(divergence(np.exp(projection.log_p)), EPSILON, rtol=1e-8)
    errors = projections.moment_errors(projection, moments)
    assert np.all(errors <= (1e-8 if slack == 0.0 else 1e-4))


@SLACKS
@pytest.mark.parametrize("epsilon", [1e-6, 1e-8])
def test_tiny_bounds(slack, epsilon):
    """Stationary data: `eta sqrt(2 eps) / sd(residual of f on the moments) -> 1`, the natural-gradient limit, and the
    tilt is that residual. With slack it keeps `slack / beta` of f's slope, up to 0.2 in the tilt here."""
    moments = changes(N, K)
    projection = information_projection(F, moments, epsilon=epsilon, slack=slack)
    p = np.exp(projection.log_p)
    assert projection.result is Result.CONVERGED
    ratio = p * N
    np.testing.assert_allclose(np.mean((ratio - 1) - np.log(ratio)), epsilon, rtol=1e-2)  # KL(b || p), about the same
    np.testing.assert_allclose(projection.kl, epsilon, rtol=1e-8)
    assert np.all(projections.moment_errors(projection, moments) <= (1e-12 if slack == 0.0 else 1e-4))
    centered = F - F.mean()
    left = centered - moments @ np.linalg.lstsq(moments, centered, rcond=None)[0]
    limit = left.std() / math.sqrt(2 * epsilon)
    np.testing.assert_allclose(projection.temperature, limit, rtol=5 * math.sqrt(epsilon) + (1e-2 if slack else 1e-6))
    np.testing.assert_allclose(
        (ratio - 1) / math.sqrt(2 * epsilon), left / left.std(), atol=20 * math.sqrt(epsilon) + (0.2 if slack else 1e-6)
    )


@SLACKS
@pytest.mark.parametrize("share", [0.5, 0.9, 0.99, 0.999, 0.9999])
def test_bounds_just_below_the_best_face(slack, share):
    _, most = face(F, MOMENTS)
    epsilon = share * most
    projection = information_projection(F, MOMENTS, epsilon=epsilon, slack=slack)
    check(projection, F, MOMENTS, epsilon=epsilon, slack=slack)


@pytest.mark.row("E0.23.features")
@SLACKS
@pytest.mark.parametrize("share", [1.0001, 1.01, 1.1, 1.5, 3.0])
def test_the_best_face_with_moments(slack, share):
    """Bounds above its KL: the weights are the linear programme's, up to the slack."""
    weights, most = face(F, MOMENTS)
    projection = information_projection(F, MOMENTS, epsilon=share * most, slack=slack)
    assert projection.result is Result.COLLAPSED
    np.testing.assert_allclose(np.exp(projection.log_p), weights, atol=1e-6 if slack == 0.0 else 1e-3)
    np.testing.assert_allclose(projection.kl, most, atol=1e-5 if slack == 0.0 else 1e-3)
    np.testing.assert_allclose(projection.value, weights @ F, atol=1e-6 if slack == 0.0 else 1e-3)


@pytest.mark.row("E0.23.samples")
@SLACKS
@pytest.mark.parametrize("best", [1, 3])
def test_the_best_samples_without_moments(slack, best):
    """The limit is `log(N / number of best)`: exact."""
    f = F.copy()
    f[10 : 10 + best] = f.max() + 1.0
    most = math.log(N / best)
    for epsilon in (most, 1.5 * most):
        projection = information_projection(f, epsilon=epsilon, slack=slack)
        assert projection.result is Result.COLLAPSED
        wanted = np.zeros(N)
        wanted[10 : 10 + best] = 1.0 / best
        np.testing.assert_allclose(np.exp(projection.log_p), wanted, atol=1e-15)
        np.testing.assert_allclose(projection.kl, most, rtol=1e-14)
        assert projection.temperature == 0.0
        assert math.isclose(projection.effective_sample_size, best, rel_tol=1e-12)
    below = information_projection(f, epsilon=0.99 * most, slack=slack)
    assert below.result is Result.CONVERGED
    np.testing.assert_allclose(divergence(np.exp(below.log_p)), 0.99 * most, rtol=1e-8)


@SLACKS
@pytest.mark.parametrize("f", [np.full(N, 3.0), np.zeros(N), MOMENTS @ np.arange(1.0, K + 1) + 2.0])
def test_nothing_to_gain_in_data_that_is_not_stationary(slack, f):
    """Constant rewards, and rewards linear in the moments (no advantage): the I-projection, by Newton's method of the
    test on its own dual, whatever the bound."""
    v = np.zeros(K)
    for _ in range(20):
        weights = np.exp(MOMENTS @ v)
        weights /= weights.sum()
        mean = weights @ MOMENTS
        v -= np.linalg.solve((MOMENTS * weights[:, None]).T @ MOMENTS - np.outer(mean, mean), mean)
    projection = information_projection(f, MOMENTS, epsilon=EPSILON, slack=slack)
    assert projection.result is Result.CONSTRAINT_INACTIVE
    np.testing.assert_allclose(np.exp(projection.log_p), weights, rtol=1e-9)
    np.testing.assert_allclose(projection.kl, divergence(weights), rtol=1e-9)
    np.testing.assert_allclose(projection.kl_min, divergence(weights), rtol=1e-9)
    np.testing.assert_allclose(projection.value, weights @ f, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(projection.dual, weights @ f, rtol=1e-9, atol=1e-12)
    assert projection.temperature == 0.0
    np.testing.assert_allclose(np.ptp(f + MOMENTS @ projection.multipliers), 0.0, atol=1e-9)


@SLACKS
def test_nothing_to_gain_in_stationary_data(slack):
    """Uniform weights: no noise is fitted."""
    projection = information_projection(np.full(N, 3.0), changes(N, K), epsilon=EPSILON, slack=slack)
    assert projection.result is Result.CONSTRAINT_INACTIVE
    np.testing.assert_allclose(np.exp(projection.log_p), 1.0 / N, rtol=1e-14)
    assert projection.kl == 0.0
    assert projection.kl_min == 0.0


def test_smallest_divergence_is_that_of_the_projection():
    """`kl_min` with the target moved: it is met where epsilon is just above, and named where it is below."""
    target = np.full(K, 0.3)
    reference = information_projection(np.zeros(N), MOMENTS, target, epsilon=10.0)
    least = float(reference.kl)
    assert linear_programme(F, MOMENTS, target)[0]
    for epsilon, result in ((0.999 * least, Result.BELOW_MINIMAL_KL), (1.001 * least, Result.CONVERGED)):
        for slack in (0.0, 1e-4):
            projection = information_projection(F, MOMENTS, target, epsilon=epsilon, slack=slack)
            assert projection.result is result
            np.testing.assert_allclose(projection.kl_min, least, rtol=1e-9)
            np.testing.assert_allclose(divergence(np.exp(projection.log_p)), epsilon, rtol=1e-8)
            if result is Result.CONVERGED and slack == 0.0:
                check(projection, F, MOMENTS, epsilon=epsilon, target=target)


def episodes(restart):
    """Feature changes of twenty episodes of twenty steps: constant, time and its square, and four of the state."""
    random = np.random.default_rng(11)
    rows = []
    for _ in range(20):
        first = None
        state = random.normal(size=3)
        for t in range(20):
            after = 0.9 * state + 0.3 * random.normal(size=3)
            here, following = ([1.0, 0.1 * t, 0.01 * t * t, *s] for s, t in ((state, t), (after, t + 1)))
            first = here if first is None else first
            last = t == 19
            rows.append(np.subtract((first if restart else np.zeros(6)) if last else following, here))
            state = after
    return np.array(rows)


@pytest.mark.row("E0.10.direction")
@pytest.mark.row("S18.infeasible")
@SLACKS
@pytest.mark.parametrize(
    "moments", [np.abs(MOMENTS) + 0.1, episodes(False), MOMENTS + 4.0], ids=["signs", "zero", "far"]
)
def test_outside_the_convex_hull(slack, moments):
    """Feature changes of one sign; constant and time features that are zero after the last step (as garage has them):
    no weights match, HiGHS agrees. The weights still keep the bound."""
    assert not linear_programme(F, moments)[0]
    projection = information_projection(F, moments, epsilon=EPSILON, slack=slack)
    assert projection.result is Result.INFEASIBLE
    assert projection.kl_min == np.inf
    assert projection.dual == -np.inf
    p = np.exp(projection.log_p)
    np.testing.assert_allclose(p.sum(), 1.0, rtol=1e-12)
    assert divergence(p) <= EPSILON * (1 + 1e-8)
    np.testing.assert_allclose(projection.kl, divergence(p), rtol=1e-8, atol=1e-13)
    np.testing.assert_allclose(projection.residual, p @ moments, rtol=1e-9, atol=1e-12)
    # Of the whitened moments' mean, in whose norm it is small: without slack nothing else is asked.
    second = moments.T @ moments / N
    size = [math.sqrt(mean @ np.linalg.solve(second, mean)) for mean in (p @ moments, moments.mean(axis=0))]
    assert size[0] <= size[1] * (1 + 1e-6)


@SLACKS
def test_the_same_episodes_with_restarts(slack):
    """The last step leads to a first state: feasible, and HiGHS agrees."""
    moments = episodes(True)
    assert linear_programme(F, moments)[0]
    projection = information_projection(F, moments, epsilon=EPSILON, slack=slack)
    assert projection.result is Result.CONVERGED
    np.testing.assert_allclose(projection.kl, EPSILON, rtol=1e-8)


@pytest.mark.row("E0.10.bound")
def test_one_sample_in_fifty_moves_back():
    """The least divergence gives it half the weight, and the others share the rest; for a bound below, the dual falls
    along a ray in (eta, v) without end."""
    moments = np.ones((50, 1))
    moments[7] = -1.0
    f = np.random.default_rng(2).normal(size=50)
    least = 0.5 * math.log(0.5 * 50) + 0.5 * math.log(0.5 * 50 / 49)  # half the weight moves back
    low, high = (information_projection(f, moments, epsilon=factor * least) for factor in (0.08, 1.1))
    assert low.result is Result.BELOW_MINIMAL_KL
    assert high.result is Result.CONVERGED
    np.testing.assert_allclose([low.kl_min, high.kl_min], least, rtol=1e-9)
    np.testing.assert_allclose(least, 1.273, atol=1e-3)
    falling = [float(projections.dual(v / 1.6, -v * np.ones(1), f, moments, 0.1)) for v in (10.0, 100.0, 1000.0)]
    assert falling[0] > falling[1] > falling[2]
    assert falling[2] < -400.0


@SLACKS
def test_one_and_two_samples(slack):
    one = information_projection(np.ones(1), np.zeros((1, 2)), epsilon=EPSILON, slack=slack)
    assert one.result is Result.CONSTRAINT_INACTIVE
    assert one.log_p[0] == 0.0
    assert one.value == 1.0
    away = information_projection(np.ones(1), np.ones((1, 2)), epsilon=EPSILON, slack=slack)
    assert away.result is Result.INFEASIBLE
    assert away.log_p[0] == 0.0
    two = information_projection(np.array([0.0, 1.0]), epsilon=0.1, slack=slack)
    check(two, np.array([0.0, 1.0]), np.zeros((2, 0)), epsilon=0.1)
    greedy = information_projection(np.array([0.0, 1.0]), epsilon=1.0, slack=slack)
    assert greedy.result is Result.COLLAPSED
    np.testing.assert_allclose(np.exp(greedy.log_p), [0.0, 1.0])
    np.testing.assert_allclose(greedy.kl, math.log(2), rtol=1e-15)
    # One point matches the moment: p = (1/4, 3/4), at KL log 4 - h; nothing is left to choose.
    least = 0.25 * math.log(0.5) + 0.75 * math.log(1.5)
    moment = np.array([[3.0], [-1.0]])
    for epsilon, result in ((0.1, Result.BELOW_MINIMAL_KL), (0.2, Result.CONSTRAINT_INACTIVE)):
        pinned = information_projection(np.array([0.0, 1.0]), moment, epsilon=epsilon, slack=slack)
        assert pinned.result is result
        np.testing.assert_allclose(pinned.kl_min, least, rtol=1e-9)
        np.testing.assert_allclose(divergence(np.exp(pinned.log_p)), min(epsilon, least), rtol=1e-8)


@SLACKS
def test_one_enormous_reward(slack):
    f = np.where(np.arange(N) == 7, 1e8, F)
    projection = information_projection(f, MOMENTS, epsilon=EPSILON, slack=slack)
    check(projection, f, MOMENTS, epsilon=EPSILON, slack=slack)


@SLACKS
@pytest.mark.parametrize("degrees", [3.0, 1.2])
def test_heavy_tails(slack, degrees):
    random = np.random.default_rng(4)
    psi, f = random.standard_t(degrees, size=(N, K)), random.standard_t(degrees, size=N)
    moments = np.roll(psi, -1, axis=0) - psi
    projection = information_projection(f, moments, epsilon=EPSILON, slack=slack)
    check(projection, f, moments, epsilon=EPSILON, slack=slack)


@SLACKS
def test_batches_of_a_diverging_regulator(slack):
    """Ten batches from a linear system that a bad gain makes unstable, quadratic features: the verdict is HiGHS's in
    each, and all weights keep the bound."""
    verdicts = set()
    for seed in range(10):
        random = np.random.default_rng([seed, 9])
        growth = (0.97, 1.0, 1.03, 1.06, 1.1)[seed // 2]
        rows, f = [], []
        for _ in range(10):
            x = random.normal(size=2)
            for _ in range(40):
                y = growth * np.array([[1.0, 0.1], [0.0, 1.0]]) @ x + 0.1 * random.normal(size=2)
                rows.append([*(y - x), *(y**2 - x**2), y[0] * y[1] - x[0] * x[1], y[0] ** 3 - x[0] ** 3])
                f.append(-x @ x)
                x = y
        moments, f = np.array(rows), np.array(f)
        projection = information_projection(f, moments, epsilon=EPSILON, slack=slack)
        assert (projection.result is not Result.INFEASIBLE) == linear_programme(f, moments)[0]
        assert (projection.result is Result.BELOW_MINIMAL_KL) == (EPSILON < projection.kl_min < np.inf)
        assert divergence(np.exp(projection.log_p)) <= EPSILON * (1 + 1e-8)
        verdicts.add(projection.result)
    assert {Result.CONVERGED, Result.BELOW_MINIMAL_KL} <= verdicts
