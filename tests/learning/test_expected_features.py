"""Expected next features and Bellman errors: against hand sums, empirical tables, and what REPS makes of them."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import optimality as ox
from clauses import against
from instances import close
from optimality.core.information_projection import information_projection
from optimality.learning.expected_features import (
    bellman_error,
    from_model,
    pair_average,
    pair_index,
    ridge,
    single_sample,
    with_resets,
)
from optimality.planning.reps_step import reps_step
from optimality.planning.stationary_process import as_process

STATES, ACTIONS = 4, 3
V = np.array([0.7, -1.2, 0.4, 2.0])


@functools.cache
def problem(criterion="average", termination=0.0):
    random = np.random.default_rng(3)
    transition = (1.0 - termination) * random.dirichlet(np.ones(STATES), (STATES, ACTIONS))
    rows = [
        (s, a, t, float(transition[s, a, t]), float(s - a + 0.1 * s * a), False)
        for s in range(STATES)
        for a in range(ACTIONS)
        for t in range(STATES)
    ]
    if termination:
        rows += [
            (s, a, s, termination, float(s - a + 0.1 * s * a), True) for s in range(STATES) for a in range(ACTIONS)
        ]
    return ox.TabularMDP.from_outcomes(
        rows,
        criterion=ox.AverageReward() if criterion == "average" else ox.Discounted(0.9),
        initial=np.array([0.5, 0.0, 0.3, 0.2]),
    )


@functools.cache
def samples(number, seed=0):
    """States and actions alike often, next states by the model."""
    random = np.random.default_rng(seed)
    state, action = random.integers(STATES, size=number), random.integers(ACTIONS, size=number)
    cumulative = np.asarray(problem().dense(), np.float64)[state, action].cumsum(axis=1)
    following = (random.random((number, 1)) > cumulative).sum(axis=1).clip(max=STATES - 1)
    return state, action, following


ALL_STATES, ALL_ACTIONS = np.divmod(np.arange(STATES * ACTIONS), ACTIONS)


def errors_of_model(v, subtract=True):
    mdp, eye = problem(), np.eye(STATES)
    expected = from_model(mdp, eye, ALL_STATES, ALL_ACTIONS)
    here = eye[ALL_STATES] if subtract else np.zeros_like(expected)
    return bellman_error(mdp.reward.ravel(), here, expected, v)


@pytest.mark.row("S16.exact")
@against(
    errors_of_model,
    sign=lambda v: errors_of_model(-v),
    without_this_state=lambda v: errors_of_model(v, subtract=False),
    same_state=lambda v: problem().reward.ravel(),
)
def test_bellman_error_is_the_hand_sum(implementation):
    mdp = problem()
    dense = np.asarray(mdp.dense(), np.float64)
    found = implementation(V)
    for index, (s, a) in enumerate(zip(ALL_STATES, ALL_ACTIONS, strict=True)):
        by_hand = mdp.reward[s, a] - V[s]
        for t in range(STATES):
            by_hand += dense[s, a, t] * V[t]
        assert found[index] == pytest.approx(by_hand, abs=1e-6)  # the table's transitions were read in single precision


def sampled_errors(number, estimator=single_sample, bend=lambda x: x):
    state, action, following = samples(number)
    eye = np.eye(STATES)
    return bend(bellman_error(problem().reward[state, action], eye[state], estimator(eye[following]), V))


@pytest.mark.row("S16.unbiased")
@against(
    sampled_errors,
    shrunk=lambda number: 0.5 * sampled_errors(number),
    optimistic=lambda number: np.log(np.exp(sampled_errors(number))) + 0.1,
    this_state=lambda number: bellman_error(
        problem().reward[samples(number)[0], samples(number)[1]],
        np.eye(STATES)[samples(number)[0]],
        np.eye(STATES)[samples(number)[0]],
        V,
    ),
)
def test_sampled_errors_average_to_the_exact_ones(implementation):
    """Five standard errors, in each of twelve pairs: a false alarm in 1 of 100,000 seeds."""
    state, action, _ = samples(60_000)
    found, exact = implementation(60_000), errors_of_model(V).reshape(STATES, ACTIONS)
    for s, a in np.ndindex(STATES, ACTIONS):
        mine = found[(state == s) & (action == a)]
        assert abs(mine.mean() - exact[s, a]) < 5.0 * mine.std() / np.sqrt(mine.size)


def averaged(number):
    state, action, following = samples(number)
    eye, pair = np.eye(STATES), state * ACTIONS + action
    expected = pair_average(eye[following], pair, STATES * ACTIONS)
    return bellman_error(problem().reward[state, action], eye[state], expected, V)


def literal(number):
    """As printed: each sample's own error divided by the number of samples of its pair, the sum forgotten."""
    state, action, _ = samples(number)
    count = np.bincount(state * ACTIONS + action, minlength=STATES * ACTIONS)
    return sampled_errors(number) / count[state * ACTIONS + action]


def averaged_over_all(number):
    state, action, following = samples(number)
    eye = np.eye(STATES)
    return bellman_error(
        problem().reward[state, action], eye[state], np.tile(eye[following].mean(axis=0), (number, 1)), V
    )


@pytest.mark.row("S17.empirical")
@against(averaged, literal=literal, raw=sampled_errors, over_all=averaged_over_all)
def test_pair_averages_are_errors_of_the_empirical_model(implementation):
    state, action, following = samples(300)
    count = np.zeros((STATES, ACTIONS, STATES))
    np.add.at(count, (state, action, following), 1.0)
    empirical = count / count.sum(axis=2, keepdims=True)
    exact = problem().reward + empirical @ V - V[:, None]
    close(implementation(300), exact[state, action], 1e-12)


@pytest.mark.row("S17.consistent", "E0.8")
@against(averaged, literal=literal, raw=sampled_errors, over_all=averaged_over_all)
def test_pair_averages_tend_to_the_exact_errors(implementation):
    """Root mean squares of the errors' errors fall like one over the root of the samples; raw samples keep their
    noise, and divided errors tend to zero, which is as wrong as errors are large."""
    wrong = []
    for number in (300, 3_000, 30_000):
        state, action, _ = samples(number)
        exact = errors_of_model(V).reshape(STATES, ACTIONS)[state, action]
        wrong.append(np.sqrt(np.mean((implementation(number) - exact) ** 2)))
    assert wrong[0] < 0.4
    assert wrong[1] / wrong[0] == pytest.approx(0.32, abs=0.15)
    assert wrong[2] / wrong[1] == pytest.approx(0.32, abs=0.15)


def test_pair_index_groups_equal_pairs():
    random = np.random.default_rng(0)
    states, actions = random.integers(0, 3, (50, 2)) / 3.0, random.integers(0, 2, 50)
    _, expected = np.unique(np.column_stack([states, actions]), axis=0, return_inverse=True)
    found = pair_index(states, actions)
    same = found[:, None] == found[None, :]
    np.testing.assert_array_equal(same, expected[:, None] == expected[None, :])
    assert found.max() == expected.max()
    np.testing.assert_array_equal(jax.jit(pair_index)(states.astype(np.float32), actions), found)
    averages = pair_average(states, found, 50)
    close(averages, states, 1e-12)
    np.testing.assert_array_equal(pair_index(np.zeros(1), np.zeros((1, 3))), [0])


def test_padding_counts_for_nothing():
    random = np.random.default_rng(0)
    data, pair = random.normal(size=(20, 2)), random.integers(0, 4, 20)
    valid = np.arange(20) < 15
    spoiled = np.where(valid[:, None], data, np.nan)
    close(pair_average(spoiled, pair, 4, valid=valid)[:15], pair_average(data[:15], pair[:15], 4), 1e-12)
    inputs = random.normal(size=(20, 3))
    spoiled_inputs = np.where(valid[:, None], inputs, np.nan)
    found = ridge(spoiled, spoiled_inputs, penalty=0.1, valid=valid)
    close(found[:15], ridge(data[:15], inputs[:15], penalty=0.1), 1e-12)


def by_normal_equations(y, x, penalty):
    """Centered and scaled inputs, an intercept without penalty."""
    z = (x - x.mean(axis=0)) / x.std(axis=0)
    gram = z.T @ z / len(z) + penalty * np.eye(z.shape[1])
    return y.mean(axis=0) + z @ np.linalg.solve(gram, z.T @ (y - y.mean(axis=0)) / len(z))


@pytest.mark.parametrize("penalty", [0.0, 0.01, 10.0])
def test_ridge_is_the_penalized_fit(penalty):
    random = np.random.default_rng(0)
    x = random.normal(size=(40, 3)) * [1.0, 100.0, 0.01] + [0.0, 5.0, 1.0]
    y = random.normal(size=(40, 2)) + x[:, :1]
    close(ridge(y, x, penalty=penalty), by_normal_equations(y, x, penalty), 1e-9)
    dependent = np.column_stack([x, x[:, 0] + x[:, 1], np.ones(40)])
    assert np.isfinite(ridge(y, dependent, penalty=penalty)).all()
    if penalty == 0.0:
        close(ridge(y, dependent, penalty=penalty), ridge(y, x, penalty=penalty), 1e-9)
        close(ridge(y[:3], np.column_stack([x, x**2])[:3], penalty=0.0), y[:3], 1e-8)  # more inputs than samples


def test_ridge_is_consistent_where_the_expectation_is_linear(x64):
    """A linear system with noise: the fit tends to the true mean of the next state, in either precision."""
    random = np.random.default_rng(0)
    dtype = np.float64 if x64 else np.float32
    inputs = random.normal(size=(4_000, 3)).astype(dtype)
    mean = inputs @ random.normal(size=(3, 2)).astype(dtype)
    following = mean + random.normal(size=mean.shape).astype(dtype)
    fitted = jax.jit(ridge)(jnp.asarray(following), jnp.asarray(inputs))
    assert fitted.dtype == dtype
    assert np.sqrt(np.mean((np.asarray(fitted) - mean) ** 2)) < 0.06  # sqrt(4 / 4000) = 0.032
    assert np.sqrt(np.mean((following - mean) ** 2)) > 0.9


def test_restarts():
    """What terminated leads to the mean first state, everything with probability `1 - discount`."""
    following = np.arange(8.0).reshape(4, 2)
    starts = np.array([[1.0, 3.0], [3.0, 5.0]])
    terminated = np.array([False, True, False, False])
    found = with_resets(following, starts, terminated=terminated, discount=0.75)
    by_hand = 0.75 * np.where(terminated[:, None], [2.0, 4.0], following) + 0.25 * np.array([2.0, 4.0])
    close(found, by_hand, 1e-14)
    close(with_resets(following, starts), following, 0.0)
    single = jax.jit(lambda f: with_resets(f, starts.astype(np.float32), discount=0.75))(following.astype(np.float32))
    assert single.dtype == np.float32


@pytest.mark.parametrize("termination", [0.0, 0.3])
def test_the_model_with_restarts_is_what_exact_search_uses(termination):
    mdp = problem("discounted", termination)
    features = np.random.default_rng(0).normal(size=(STATES, 2))
    expected = from_model(mdp, features, ALL_STATES, ALL_ACTIONS)
    start = (mdp.initial @ features)[None]
    with jax.enable_x64(True):
        law = np.asarray(as_process(mdp).law)
    close(law.sum(axis=2), np.ones((STATES, ACTIONS)), 1e-12)
    found = with_resets(expected, start, discount=0.9)
    close(found, (law @ features).reshape(-1, 2), 1e-12)


@functools.cache
def two_state():
    return ox.two_state(True, criterion=ox.AverageReward())


UNIFORM = np.full((2, 2), 0.5)
LAW = np.array([[[1.0, 0.0], [0.0, 1.0]], [[0.5, 0.5], [0.5, 0.5]]])


def walk(random, policy, steps, draws=1):
    """States and actions along one chain from state 0, and `draws` next states of each."""
    coin, act = random.random(steps), random.random(steps)
    state, states, actions = 0, np.zeros(steps, int), np.zeros(steps, int)
    for time in range(steps):
        action = int(act[time] > policy[state, 0])
        states[time], actions[time] = state, action
        state = int(coin[time] > LAW[state, action, 0])
    following = random.random((steps, draws)) > LAW[states, actions, 0][:, None]
    return states, actions, following.astype(int)


def improved(states, actions, following, old, **bound):
    """REPS from samples with a table of values: projection, then the frequencies of its weights."""
    reward = two_state().reward[states, actions]
    found = information_projection(reward, following - (states == 0.0)[:, None], **bound)
    weight = np.zeros((2, 2))
    np.add.at(weight, (states, actions), np.exp(found.log_p))
    total = weight.sum(axis=1, keepdims=True)
    return np.where(total > 0.0, weight / np.where(total > 0.0, total, 1.0), old)


def estimated(kind, states, actions, following):
    """Expected indicator of state 0 next."""
    arrived = (following == 0).astype(float)
    if kind == "single":
        return single_sample(arrived)
    if kind == "pair":
        return pair_average(arrived, 2 * states + actions, 4)
    return from_model(two_state(), np.array([[1.0], [0.0]]), states, actions)


@functools.cache
def distance(kind, number):
    """To the exact policy after one iteration from the uniform one at epsilon 0.5, mean over five data sets."""
    exact = reps_step(two_state(), ox.TabularPolicy.from_probabilities(UNIFORM), epsilon=0.5).policy.probabilities
    distances = []
    for seed in range(5):
        data = walk(np.random.default_rng(seed), UNIFORM, number)
        policy = improved(*data[:2], estimated(kind, *data), UNIFORM, epsilon=0.5)
        distances.append(np.abs(policy - exact)[0].max())
    return np.mean(distances)


@pytest.mark.row("E0.7")
@against(
    lambda number: distance("single", number),
    model=lambda number: distance("model", number),
    pair=lambda number: distance("pair", number),
)
def test_single_samples_stay_wrong(implementation):
    """At every number of samples; the distance to the exact policy does not shrink."""
    assert implementation(100) > 0.25
    assert implementation(10_000) > 0.25
    assert implementation(10_000) == pytest.approx(implementation(1_000), abs=0.05)


def test_samples_with_expected_features_tend_to_exact_search():
    """Like one over the root of their number, by the model and by pair averages."""
    for kind, first in (("model", 0.1), ("pair", 0.3)):
        few, many = distance(kind, 100), distance(kind, 10_000)
        assert few < first
        assert many < 0.03
        assert 3.0 < few / many < 30.0


@functools.cache
def reached(draws, seeds=10):
    """Reward per step after ten iterations of 200 steps at temperature 1, with the mean of some next states, or the
    truth."""
    rewards = []
    for seed in range(seeds):
        random, policy = np.random.default_rng(seed), UNIFORM
        for _ in range(10):
            states, actions, following = walk(random, policy, 200, draws or 1)
            if draws:
                copies = np.repeat(np.arange(200), draws)
                arrived = (following == 0).astype(float).reshape(-1, 1)
                expected = pair_average(arrived, copies, 200)[::draws]
            else:
                expected = estimated("model", states, actions, following)
            policy = improved(states, actions, expected, policy, temperature=1.0)
        leave = policy[0, 1]
        mass = np.array([0.5, leave]) / (0.5 + leave)
        rewards.append(mass @ np.sum(policy * two_state().reward, axis=1))
    return np.array(rewards)


@pytest.mark.parametrize(
    ("draws", "published", "low", "high"),
    [(1, 0.0032, -0.005, 0.01), (2, 0.0418, 0.015, 0.08), (5, 0.8011, 0.65, 0.97), (10, 0.9993, 0.97, 1.0)],
)
def test_published_figures_of_sampled_next_states(draws, published, low, high):
    """The stochastic two-state problem of Bas-Serrano et al. 2021 with the mean of 1, 2, 5 and 10 next states: their
    stored results of one seed, and ours over ten, an interval of two standard errors of which lies in the bounds. The
    truth is 1."""
    rewards = reached(draws)
    margin = 2.0 * rewards.std(ddof=1) / np.sqrt(rewards.size)
    assert low < rewards.mean() - margin
    assert rewards.mean() + margin < high + 1e-3
    assert rewards.min() - 0.1 * rewards.max() <= published <= rewards.max() + 0.03


def test_the_truth_reaches_the_optimum():
    close(reached(None), np.ones(10), 1e-6)


SHAPES = (np.zeros((4, 2)), np.zeros((4, 2)))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: with_resets(np.zeros((4, 2)), np.zeros((1, 3))), r"start_features has shape \(3,\)"),
        (lambda: with_resets(np.zeros((4, 2)), np.zeros((0, 2))), "start_features has no rows"),
        (lambda: with_resets(*SHAPES, discount=1.5), r"in \[0, 1\], but 1\.5 was given"),
        (lambda: with_resets(*SHAPES, terminated=np.zeros(3, bool)), r"terminated has shape \(3,\)"),
        (lambda: pair_index(np.zeros(3), np.zeros(4)), r"actions has shape \(4,\)"),
        (lambda: pair_average(np.zeros((4, 2)), np.arange(3), 4), r"pair has shape \(3,\)"),
        (lambda: pair_average(np.zeros((4, 2)), np.arange(4), 3), r"in 0 \.\. 2, but it reaches from 0 to 3"),
        (lambda: ridge(np.zeros((4, 2)), np.zeros((3, 2))), r"inputs has shape \(3,\)"),
        (lambda: ridge(*SHAPES, penalty=-1.0), "penalty must be at least 0"),
        (lambda: from_model(problem(), np.zeros((3, 1)), np.arange(2), np.arange(2)), r"features has shape \(3,\)"),
        (lambda: from_model(problem(), np.eye(4), np.arange(5), np.zeros(5, int)), r"state must be in 0 \.\. 3"),
        (lambda: bellman_error(np.zeros(4), *SHAPES, np.zeros(3)), r"v has shape \(3,\)"),
        (lambda: bellman_error(np.zeros(3), *SHAPES, np.zeros(2)), r"reward has shape \(3,\)"),
    ],
)
def test_what_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
