"""Relative entropy policy search on tables, against the primal convex programme, linear programmes, dense algebra."""

import functools

import jax
import numpy as np
import pytest
import scipy.optimize

import optimality as ox
from clauses import against
from instances import close, evaluate
from optimality.core import tilting
from optimality.core.information import kl_divergence
from optimality.core.information_projection import information_projection
from optimality.core.result import Result
from optimality.learning.expected_features import bellman_error, from_model
from optimality.planning.exact_reps import ExactREPS
from optimality.planning.reps_step import reps_step

EPSILON = 0.3


@functools.cache
def dense(seed, states=4, actions=3):
    """Transitions, rewards and a policy at random."""
    random = np.random.default_rng(seed)
    transition = random.dirichlet(np.ones(states), (states, actions))
    policy = random.dirichlet(2.0 * np.ones(actions), states)
    return transition, random.normal(size=(states, actions)), policy


@functools.cache
def problem(seed, states=4, actions=3, discount=None):
    transition, reward, _ = dense(seed, states, actions)
    criterion = ox.AverageReward() if discount is None else ox.Discounted(discount)
    return ox.TabularMDP.from_arrays(transition, reward, criterion=criterion, initial=0, form="dense")


def state_law(transition, policy):
    """Stationary, by least squares."""
    chain = np.einsum("sa,sat->st", policy, transition)
    system = np.vstack([chain.T - np.eye(len(chain)), np.ones(len(chain))])
    return np.linalg.lstsq(system, np.append(np.zeros(len(chain)), 1.0), rcond=None)[0]


@functools.cache
def instance(seed):
    """Transitions, rewards, q, and the change of each state's indicator."""
    transition, reward, policy = dense(seed)
    q = state_law(transition, policy)[:, None] * policy
    change = transition - np.eye(len(transition))[:, None, :]
    return transition, reward, q, change


def kl(p, q):
    return float(np.sum(np.where(p > 0.0, p * np.log(np.where(p > 0.0, p / q, 1.0)), 0.0)))


@functools.cache
def primal(seed, epsilon, sign=1.0):
    """`max <p, r>` (or least) under stationarity and the bound, by sequential quadratic programming on `p / q`."""
    _, reward, q, change = instance(seed)
    base = q.ravel()
    flow = change.reshape(q.size, -1)[:, :-1]
    equalities = base * np.vstack([flow.T, np.ones(q.size)])
    target, slope = np.append(np.zeros(flow.shape[1]), 1.0), -sign * base * reward.ravel()
    found = scipy.optimize.minimize(
        lambda y: slope @ y,
        np.ones(q.size),
        jac=lambda y: slope,
        bounds=[(1e-9, None)] * q.size,
        constraints=[
            {"type": "eq", "fun": lambda y: equalities @ y - target, "jac": lambda y: equalities},
            {
                "type": "ineq",
                "fun": lambda y: epsilon - np.sum(base * y * np.log(y)),
                "jac": lambda y: -base * (np.log(y) + 1.0),
            },
        ],
        method="SLSQP",
        options={"maxiter": 500, "ftol": 1e-13},
    )
    assert found.success
    return (base * found.x).reshape(q.shape)


def step(seed, epsilon=EPSILON, **options):
    policy = ox.TabularPolicy.from_probabilities(dense(seed)[2])
    return reps_step(problem(seed), policy, epsilon=epsilon, **options)


def solution(seed, epsilon=EPSILON):
    return np.exp(step(seed, epsilon).log_p)


def without_value(seed, epsilon=EPSILON):
    """A bound alone, states free: `p ~ q exp(r / eta)`."""
    _, reward, q, _ = instance(seed)
    found = information_projection(reward.ravel(), log_base=np.log(q).ravel(), epsilon=epsilon)
    return np.exp(found.log_p).reshape(q.shape)


def least_reward(seed, epsilon=EPSILON):
    _, reward, q, change = instance(seed)
    moments = change.reshape(q.size, -1)[:, :-1]
    found = information_projection(-reward.ravel(), moments, log_base=np.log(q).ravel(), epsilon=epsilon)
    return np.exp(found.log_p).reshape(q.shape)


def unnormalized(seed, epsilon=EPSILON):
    _, reward, q, change = instance(seed)
    found = step(seed, epsilon)
    full = np.append(found.v, 0.0)
    return q * np.exp((reward + change @ full) / found.projection.temperature)


@pytest.mark.row("S9", "S5")
@against(solution, without_value=without_value, least_reward=least_reward, half=lambda s, e: solution(s, e / 2))
def test_the_projection_solves_the_primal_programme(implementation):
    for seed in range(4):
        _, reward, q, change = instance(seed)
        for epsilon in (0.05, 0.3):
            p, best = implementation(seed, epsilon), primal(seed, epsilon)
            assert np.sum(p * reward) == pytest.approx(np.sum(best * reward), abs=1e-9)
            close(p, best, 1e-6)
            close(np.einsum("sa,sat->t", p, change), np.zeros(4), 1e-9)
            assert kl(p, q) <= epsilon + 1e-9


@pytest.mark.row("S7")
@against(solution, unnormalized=unnormalized)
def test_occupancies_sum_to_one(implementation):
    for seed in range(4):
        assert implementation(seed, EPSILON).sum() == pytest.approx(1.0, abs=1e-12)
    found = ox.solve(problem(0), ExactREPS(epsilon=EPSILON))
    assert np.exp(found.details.log_p).sum() == pytest.approx(1.0, abs=1e-12)


def no_logarithm(log_p, log_q):
    return np.sum(np.exp(log_p) * np.exp(log_p - log_q), axis=-1)


@pytest.mark.row("S8.sign")
@against(
    lambda p, q: np.asarray(kl_divergence(p, q)),
    no_logarithm=no_logarithm,
    sign=lambda p, q: -np.asarray(kl_divergence(p, q)),
    absolute=lambda p, q: np.sum(np.abs(np.exp(p) - np.exp(q)), axis=-1),
)
def test_information_loss(implementation):
    """Never negative, zero at p = q alone, and quadratic near it."""
    random = np.random.default_rng(0)
    laws = np.log(random.dirichlet(np.ones(12), (2, 1000)))
    assert (implementation(*laws) > 0.0).all()
    close(implementation(laws[0], laws[0]), np.zeros(1000), 1e-6)
    for seed in range(2):
        q = instance(seed)[2]
        p = solution(seed)
        assert implementation(np.log(p.ravel()), np.log(q.ravel())) == pytest.approx(kl(p, q), abs=1e-6)


@pytest.mark.row("S8.active")
@against(solution, half=lambda s, e: solution(s, e / 2), without_bound=lambda s, e: solution(s, 5.0))
def test_the_bound_is_met_where_it_binds(implementation):
    for seed in range(4):
        for epsilon in (1e-4, 0.05, 0.3):
            p, q = implementation(seed, epsilon), instance(seed)[2]
            assert kl(p, q) == pytest.approx(epsilon, rel=1e-7)


def dual(seed, epsilon, eta, v):
    """g by itself, in plain NumPy."""
    _, reward, q, change = instance(seed)
    delta = (reward + change @ np.append(v, 0.0)) / eta
    top = delta.max()
    return eta * epsilon + eta * (top + np.log(np.sum(q * np.exp(delta - top))))


@functools.cache
def least_dual(seed, epsilon):
    """Minimized by SciPy over `(log eta, v)`."""
    found = scipy.optimize.minimize(
        lambda x: dual(seed, epsilon, np.exp(x[0]), x[1:]), np.zeros(4), options={"gtol": 1e-10, "maxiter": 2000}
    )
    return found.fun


@pytest.mark.row("S10", "E0.4")
@against(
    lambda s, e: step(s, e).projection.dual,
    least_reward=lambda s, e: np.sum(least_reward(s, e) * instance(s)[1]),
    without_bound_term=lambda s, e: step(s, e).projection.dual - e * step(s, e).projection.temperature,
    best_of_all=lambda s, e: step(s, 50.0).projection.dual,
)
def test_the_least_dual_is_the_largest_reward(implementation):
    for seed in range(4):
        reward = instance(seed)[1]
        for epsilon in (0.05, 0.3):
            value = implementation(seed, epsilon)
            assert value == pytest.approx(np.sum(primal(seed, epsilon) * reward), abs=1e-9)
            assert value == pytest.approx(least_dual(seed, epsilon), abs=1e-8)
            assert value > np.sum(instance(seed)[2] * reward)
            assert value > np.sum(primal(seed, epsilon, -1.0) * reward)


def closed_form(sign, transform=lambda v: v):
    def p(seed, epsilon):
        _, reward, q, change = instance(seed)
        found = step(seed, epsilon)
        delta = reward + sign * change @ np.append(transform(found.v), 0.0)
        weights = q * np.exp(delta / found.projection.temperature)
        return weights / weights.sum()

    return p


@pytest.mark.row("E0.5")
@against(
    closed_form(1.0),
    sign=closed_form(-1.0),
    other_symbol=closed_form(1.0, lambda v: v[::-1]),
    no_value=closed_form(0.0),
)
def test_closed_form_with_one_symbol(implementation):
    for seed in range(4):
        close(implementation(seed, EPSILON), primal(seed, EPSILON), 1e-6)
        close(implementation(seed, EPSILON), solution(seed), 1e-10)


def mismatch(seed, eta, v):
    _, reward, q, change = instance(seed)
    moments = change.reshape(q.size, -1)[:, :-1]
    with jax.enable_x64(True):
        found = jax.jit(tilting.tilt)(
            reward.ravel(), moments, q.ravel(), np.float64(1.0 / eta), v / eta, np.float64(0.0)
        )
        return np.asarray(found.mean)


@pytest.mark.row("S6")
@against(
    mismatch,
    times_eta=lambda s, eta, v: eta * mismatch(s, eta, v),
    sign=lambda s, eta, v: -mismatch(s, eta, v),
    of_q=lambda s, eta, v: mismatch(s, 1e12, v),
)
def test_feature_mismatch_is_the_gradient_of_the_dual(implementation):
    random = np.random.default_rng(0)
    for seed in range(3):
        eta, v = random.uniform(0.2, 2.0), random.normal(size=3)
        steps = 1e-5 * np.eye(3)
        by_differences = [(dual(seed, 0.1, eta, v + e) - dual(seed, 0.1, eta, v - e)) / 2e-5 for e in steps]
        close(implementation(seed, eta, v), by_differences, 1e-8)
    assert abs(step(0).projection.residual).max() < 1e-9


def aggregated(p, old):
    """Weighted maximum likelihood of a policy that tells only the first two states from the last two."""
    groups = p.reshape(2, 2, -1).sum(axis=1)
    return np.repeat(groups / groups.sum(axis=1, keepdims=True), 2, axis=0)


def state_averaged(p, old):
    conditional = p / p.sum(axis=1, keepdims=True)
    return np.repeat(conditional.reshape(2, 2, -1).mean(axis=1), 2, axis=0)


@pytest.mark.row("S11.decomposition")
@against(
    aggregated,
    unweighted=state_averaged,
    unchanged=lambda p, old: old,
    mean_with_old=lambda p, old: (aggregated(p, old) + old) / 2,
)
def test_the_bound_splits_over_states_fit_and_policy(implementation):
    """`KL(p || q) = KL of states + misfit of the class + E KL(new || old)`: a fitted policy stays within the bound."""
    for seed in range(4):
        transition, _, policy = dense(seed)
        old = np.repeat(policy[::2], 2, axis=0)
        mass = state_law(transition, old)
        q = mass[:, None] * old
        found = reps_step(problem(seed), ox.TabularPolicy.from_probabilities(old), epsilon=EPSILON)
        p = np.exp(found.log_p)
        new = implementation(p, old)
        weight = p.sum(axis=1, keepdims=True)
        of_states = kl(weight[:, 0], mass)
        of_fit, of_policy = kl(p, weight * new), kl(weight * new, weight * old)
        assert of_states + of_fit + of_policy == pytest.approx(kl(p, q), abs=1e-9)
        assert kl(p, q) == pytest.approx(EPSILON, rel=1e-7)
        assert of_policy <= EPSILON
        assert min(of_states, of_fit, of_policy) > 1e-4


def weights(seed, with_value=True, sign=1.0, eta=None):
    """`exp(delta / eta)` from the errors of the library's estimator."""
    mdp, found = problem(seed), step(seed)
    states, actions = mdp.shape
    state, action = np.divmod(np.arange(states * actions), actions)
    features = np.eye(states)[:, :-1]
    v = found.v if with_value else np.zeros_like(found.v)
    errors = bellman_error(mdp.reward[state, action], features[state], from_model(mdp, features, state, action), v)
    eta = found.projection.temperature if eta is None else eta
    return np.exp(sign * errors / eta).reshape(states, actions)


@pytest.mark.row("S12.proportional")
@against(
    weights,
    no_temperature=lambda seed: weights(seed, eta=1.0),
    sign=lambda seed: weights(seed, sign=-1.0),
    rewards=lambda seed: weights(seed, with_value=False),
)
def test_importance_weights_are_proportional_to_the_ratio(implementation):
    for seed in range(4):
        ratio = implementation(seed) / (primal(seed, EPSILON) / instance(seed)[2])
        close(ratio / ratio.mean(), np.ones_like(ratio), 1e-5)
        exact = implementation(seed) / (solution(seed) / instance(seed)[2])
        close(exact / exact.mean(), np.ones_like(exact), 1e-10)


POSITIONS = np.linspace(-1.0, 1.0, 4)
POLYNOMIALS = np.stack([np.ones(4), POSITIONS, POSITIONS**2], axis=1)


@pytest.mark.row("E0.9", "S14")
@against(
    lambda seed: from_model_changes(seed, POLYNOMIALS),
    next_state_alone=lambda seed: from_model_changes(seed, POLYNOMIALS, subtract=False),
    discounted=lambda seed: from_model_changes(seed, POLYNOMIALS, discount=0.9),
)
def test_the_constant_feature_cancels(implementation):
    """The error's derivative in v is `E psi' - psi`, without a constant's weight, whose row of the Hessian is zero."""
    for seed in range(3):
        transition, _, q, _ = instance(seed)
        change = implementation(seed)
        close(change, transition @ POLYNOMIALS - POLYNOMIALS[:, None, :], 1e-12)
        close(change[..., 0], np.zeros((4, 3)), 1e-14)
        centered = change - np.einsum("sa,sak->k", q, change)
        hessian = np.einsum("sa,sak,sal->kl", q, centered, centered)
        close(hessian[0], np.zeros(3), 1e-14)
        assert np.linalg.matrix_rank(hessian) == 2
        whole, dropped = (step(seed, features=features) for features in (POLYNOMIALS, POLYNOMIALS[:, 1:]))
        close(whole.log_p, dropped.log_p, 1e-9)
        assert whole.projection.result is dropped.projection.result is Result.CONVERGED


def from_model_changes(seed, features, subtract=True, discount=1.0):
    """Derivative of the Bellman errors in v."""
    mdp = problem(seed)
    states, actions = mdp.shape
    state, action = np.divmod(np.arange(states * actions), actions)
    expected = discount * from_model(mdp, features, state, action)
    here = features[state] if subtract else np.zeros_like(features[state])
    zero = np.zeros(states * actions)
    columns = [bellman_error(zero, here, expected, v) for v in np.eye(features.shape[1])]
    return np.stack(columns, axis=-1).reshape(states, actions, -1)


def promised_and_got(seed, features):
    found = step(seed, 0.5, features=features)
    transition, reward, _ = dense(seed)
    policy = found.policy.probabilities
    got = state_law(transition, policy) @ np.sum(policy * reward, axis=1)
    p = np.exp(found.log_p)
    left = np.abs(np.einsum("sa,sat->t", p, transition) - p.sum(axis=1)).sum() / 2
    return found.projection.dual, got, left


@pytest.mark.row("E0.6")
@against(
    lambda seed: promised_and_got(seed, POLYNOMIALS[:, :2]),
    tabular=lambda seed: promised_and_got(seed, np.eye(4)),
    reward_of_q=lambda seed: (np.sum(instance(seed)[1] * instance(seed)[2]), *promised_and_got(seed, np.eye(4))[1:]),
)
def test_coarse_features_promise_too_much(implementation):
    for seed in range(6):
        promised, got, left = implementation(seed)
        assert promised > got + 1e-4
        assert left > 1e-3  # p is no state law of any policy
        exact, truly, residual = promised_and_got(seed, None)
        assert exact == pytest.approx(truly, abs=1e-9)
        assert residual < 1e-9
        assert promised > exact


def one_sample(seed):
    """Infinitely many samples `(s, a, s')`, each with its own next state inside the exponential."""
    transition, reward, q, _ = instance(seed)
    base = np.log(q[..., None] * transition).ravel()
    f = np.repeat(reward.ravel(), 4)
    indicator = np.eye(4)[:, :-1]
    change = (indicator[None, None] - indicator[:, None, None]) * np.ones((4, 3, 4, 1))
    found = information_projection(f, change.reshape(base.size, -1), log_base=base, epsilon=EPSILON)
    p = np.exp(found.log_p).reshape(4, 3, 4)
    policy = p.sum(axis=2) / p.sum(axis=(1, 2), keepdims=True)[..., 0]
    bent = p / p.sum(axis=2, keepdims=True)
    got = state_law(transition, policy) @ np.sum(policy * reward, axis=1)
    return found.value, got, np.abs(bent - transition).max(), found


def expected_inside(seed):
    found = step(seed)
    transition, reward, _ = dense(seed)
    policy = found.policy.probabilities
    got = state_law(transition, policy) @ np.sum(policy * reward, axis=1)
    return found.projection.value, got, 0.0, found.projection


@pytest.mark.row("E0.7")
@against(one_sample, expectation_inside=expected_inside)
def test_one_sample_promises_more_than_can_be_had(implementation):
    for seed in range(4):
        promised, got, bent, found = implementation(seed)
        best = np.sum(primal(seed, EPSILON) * instance(seed)[1])
        assert promised > best + 1e-3
        assert got < promised - 1e-3
        assert bent > 0.01
        # Its dual is that of the certainty equivalent at risk 1 / eta.
        _, reward, q, _ = instance(seed)
        eta, v = found.temperature, np.append(found.multipliers, 0.0)
        with jax.enable_x64(True):
            certain = np.asarray(problem(seed).expect(v, risk=1.0 / eta))
        value = eta * EPSILON + eta * np.log(np.sum(q * np.exp((reward + certain - v[:, None]) / eta)))
        assert value == pytest.approx(found.dual, abs=1e-10)


SEQUENCES = {
    "two_state": {
        0.1: (0.75, 1.1293, 1.4976, 1.7932, 1.9682, 2.0),
        0.5: (0.75, 1.5885, 2.0),
        1.0: (0.75, 1.8814, 2.0),
    },
    "two_state_stochastic": {
        0.1: (0.25, 0.4567, 0.6786, 0.8713, 0.9897, 1.0),
        0.5: (0.25, 0.7269, 1.0),
        1.0: (0.25, 0.9144, 1.0),
    },
    "single_chain": {
        0.1: (1.3125, 2.2759, 3.8239, 5.7356, 7.6666, 9.2250, 10.0),
        0.5: (1.3125, 3.9308, 8.2333, 10.0),
        1.0: (1.3125, 5.4095, 10.0),
    },
    "double_chain": {
        0.1: (1.3125, 2.1805, 3.6126, 5.4326, 7.3309, 8.9415, 9.9066),
        0.5: (1.3125, 3.6937, 7.8524, 10.0),
        1.0: (1.3125, 5.0647, 10.0),
    },
    "river_swim": {
        0.1: (0.0479, 0.1598, 0.3260, 0.5135, 0.6806, 0.7897, 0.8053),
        0.5: (0.0479, 0.3432, 0.7379, 0.8053),
        1.0: (0.0479, 0.4997, 0.8053),
    },
}
OPTIMA = {"two_state": 2.0, "two_state_stochastic": 1.0, "single_chain": 10.0, "double_chain": 10.0}


@functools.cache
def literature(name):
    average = ox.AverageReward()
    makers = {
        "two_state": lambda: ox.two_state(criterion=average),
        "two_state_stochastic": lambda: ox.two_state(True, criterion=average),
        "single_chain": lambda: ox.single_chain(criterion=average),
        "double_chain": lambda: ox.double_chain(criterion=average),
        "river_swim": lambda: ox.river_swim(
            ahead=0.9, from_first=0.9, from_last=0.1, reward_for="staying", criterion=average
        ),
    }
    return makers[name]()


@functools.cache
def searched(name, epsilon):
    return ox.solve(literature(name), ExactREPS(epsilon=epsilon))


@pytest.mark.parametrize("name", SEQUENCES)
@pytest.mark.parametrize("epsilon", [0.1, 0.5, 1.0])
def test_exact_sequences(name, epsilon):
    """Reward per step from the uniform policy on, known to four decimals, up to the optimum."""
    found = searched(name, epsilon)
    expected, details = SEQUENCES[name][epsilon], found.details
    close(details.expected_reward[: len(expected)], expected, 5.1e-5)
    optimum = OPTIMA.get(name, 0.9 * 17 / 19)
    assert details.gain == pytest.approx(optimum, abs=3e-6)
    assert details.upper_bound == pytest.approx(optimum, abs=3e-6)
    steps = found.stats["steps"]
    close(details.kl[: steps - 2], np.full(steps - 2, epsilon), 1e-7) if steps > 2 else None
    assert np.isnan(details.expected_reward[steps + 1 :]).all()
    assert np.isnan(details.kl[steps:]).all()


def course(seed):
    found = ox.solve(problem(seed), ExactREPS(epsilon=0.05))
    return found.details.expected_reward[: found.stats["steps"] + 1]


def greedy_course(seed):
    """Without the bound on states: each iteration tilts by the reward alone."""
    transition, reward, _ = dense(seed)
    policy, rewards = np.full((4, 3), 1 / 3), []
    for _ in range(8):
        mass = state_law(transition, policy)
        rewards.append(mass @ np.sum(policy * reward, axis=1))
        q = mass[:, None] * policy
        found = information_projection(reward.ravel(), log_base=np.log(q).ravel(), epsilon=0.3)
        p = np.exp(found.log_p).reshape(q.shape)
        policy = p / p.sum(axis=1, keepdims=True)
    return np.array(rewards)


@pytest.mark.row("S28.monotone")
@against(course, rewards_alone=greedy_course)
def test_the_reward_never_falls(implementation):
    for seed in range(8):
        rewards = implementation(seed)
        assert np.diff(rewards).min() > -1e-12
        assert rewards[-1] == pytest.approx(linear_programme(*dense(seed)[:2])[1], abs=1e-9)


def linear_programme(transition, reward, allowed=None):
    """The best stationary law and its reward per step."""
    states, actions = reward.shape
    flow = (transition - np.eye(states)[:, None, :]).reshape(-1, states)
    found = scipy.optimize.linprog(
        -reward.ravel(), A_eq=np.vstack([flow.T, np.ones(states * actions)]), b_eq=np.append(np.zeros(states), 1.0)
    )
    return found.x.reshape(states, actions), -found.fun


def test_without_a_bound_it_is_the_linear_programme():
    for seed in range(6):
        transition, reward, _ = dense(seed)
        law, best = linear_programme(transition, reward)
        found = ox.solve(problem(seed), ExactREPS(epsilon=50.0))
        assert found.details.gain == pytest.approx(best, abs=1e-9)
        close(np.exp(found.details.log_p), law, 1e-6)  # as near as the moments are matched at so low a temperature
        assert found.details.upper_bound >= best - 1e-12
        assert found.stats["steps"] <= 3


def test_small_bounds_follow_the_natural_gradient():
    """`(p / q - 1) / sqrt(2 eps)` tends to the standardized residual of the reward after its regression on the changes
    of features, with error of the order of `sqrt(eps)`; the temperature to the deviation over `sqrt(2 eps)`."""
    for seed in range(3):
        _, reward, q, change = instance(seed)
        moments = np.concatenate([np.ones((q.size, 1)), change.reshape(q.size, -1)[:, :-1]], axis=1)
        root = np.sqrt(q.ravel())[:, None]
        fit = np.linalg.lstsq(root * moments, root[:, 0] * reward.ravel(), rcond=None)[0]
        residual = reward.ravel() - moments @ fit
        deviation = np.sqrt(q.ravel() @ residual**2)
        errors, temperatures = [], []
        for epsilon in (1e-2, 1e-4, 1e-6):
            found = step(seed, epsilon)
            ratio = np.exp(found.log_p).ravel() / q.ravel() - 1.0
            errors.append(np.abs(ratio / np.sqrt(2.0 * epsilon) - residual / deviation).max())
            temperatures.append(found.projection.temperature * np.sqrt(2.0 * epsilon) / deviation)
        assert 8.0 < errors[0] / errors[1] < 12.5
        assert 8.0 < errors[1] / errors[2] < 12.5
        assert (np.abs(np.array(temperatures) - 1.0) < [0.2, 0.02, 0.002]).all()


def occupancy(transition, start, policy, discount):
    chain = np.einsum("sa,sat->st", policy, transition)
    visits = np.linalg.solve(np.eye(len(chain)) - discount * chain.T, start)
    return (1.0 - discount) * visits


def discounted_step(seed, discount=0.9, sign=1.0, factor=None):
    """The library's update, and its dual with the start's value written out."""
    found = reps_step(
        problem(seed, discount=discount), ox.TabularPolicy.from_probabilities(dense(seed)[2]), epsilon=EPSILON
    )
    transition, reward, policy = dense(seed)
    q = occupancy(transition, np.eye(4)[0], policy, discount)[:, None] * policy
    eta, v = found.projection.temperature, np.append(found.v, 0.0)
    delta = reward + discount * transition @ v - v[:, None]
    factor = (1.0 - discount) if factor is None else factor
    value = eta * EPSILON + eta * np.log(np.sum(q * np.exp(delta / eta))) + sign * factor * v[0]
    return found, value, q


@pytest.mark.row("E0.2")
@against(
    discounted_step,
    average_reward=lambda seed: (step(seed), step(seed).projection.dual, instance(seed)[2]),
    start_counted_whole=lambda seed: discounted_step(seed, factor=1.0),
    start_left_out=lambda seed: discounted_step(seed, factor=0.0),
)
def test_the_discounted_dual_gains_the_value_of_the_start(implementation):
    """The value of the projection is `(1 - discount)` times the discounted return of its own policy."""
    discount = 0.9
    for seed in range(4):
        found, value, q = implementation(seed)
        transition, reward, _ = dense(seed)
        policy = found.policy.probabilities
        law = occupancy(transition, np.eye(4)[0], policy, discount)[:, None] * policy
        close(np.exp(found.log_p), law, 1e-8)
        assert value == pytest.approx(np.sum(law * reward), abs=1e-8)
        assert kl(np.exp(found.log_p), q) == pytest.approx(EPSILON, rel=1e-6)
        mdp = problem(seed, discount=discount)
        returned = evaluate(mdp, np.log(policy)).details.expected_return
        assert (1.0 - discount) * returned == pytest.approx(value, abs=1e-8)


def test_discounted_search_reaches_the_optimum():
    for seed in range(4):
        mdp = problem(seed, discount=0.9)
        found, best = ox.solve(mdp, ExactREPS(epsilon=EPSILON)), ox.solve(mdp, ox.PolicyIteration())
        close(found.value, best.value, 1e-6)
        assert found.details.gain == pytest.approx(0.1 * best.value[0], abs=1e-8)
        assert np.diff(found.details.expected_reward[: found.stats["steps"] + 1]).min() > -1e-12


@pytest.mark.row("S4.rollout")
@against(
    lambda found: found.details.gain,
    discounted=lambda found: found.value.mean(),
    first=lambda found: found.details.expected_reward[0],
)
def test_the_reward_per_step_is_that_of_a_long_rollout(implementation):
    """Ten thousand episodes of a hundred steps after a hundred of burning in; five standard errors."""
    mdp = problem(0)
    found = ox.solve(mdp, ExactREPS(epsilon=0.1, iterations=1), throw=False)
    random = np.random.default_rng(0)
    policy, transition = found.policy.probabilities.cumsum(axis=1), dense(0)[0].cumsum(axis=2)
    state, total = np.zeros(10_000, int), np.zeros(10_000)
    for time in range(200):
        action = (random.random((10_000, 1)) > policy[state]).sum(axis=1).clip(max=2)
        total += (time >= 100) * dense(0)[1][state, action] / 100
        state = (random.random((10_000, 1)) > transition[state, action]).sum(axis=1).clip(max=3)
    assert abs(implementation(found) - total.mean()) < 5.0 * total.std() / 100.0


def test_values_are_the_policys_own():
    mdp = literature("river_swim")
    found = searched("river_swim", 0.5)
    evaluated = evaluate(mdp, found.policy.log_probabilities)
    close(found.value, evaluated.value, 1e-12)
    close(found.details.q, evaluated.details.q, 1e-12)
    assert found.details.gain == pytest.approx(evaluated.details.gain, abs=1e-12)
    assert found.details.v.shape == (6,)
    assert found.details.v[-1] == 0.0


def terminating(criterion):
    return ox.random_mdp(6, 3, 3, termination=0.2, seed=1, criterion=criterion)


def test_what_terminates_waits_or_starts_again():
    """Waiting, the search finds the best discounted return; restarting, the best reward per step of endless restarts,
    which is the return over the expected discounted length."""
    mdp = ox.gridworld("S.H/..G", slip=0.1, step_reward=-0.05, criterion=ox.Discounted(0.95))
    best = ox.solve(mdp, ox.ValueIteration())
    waiting = ox.solve(mdp, ExactREPS())
    close(mdp.initial @ waiting.value, mdp.initial @ best.value, 1e-8)
    assert waiting.details.gain == pytest.approx(0.05 * (mdp.initial @ best.value), abs=1e-8)
    restarting = ox.solve(mdp, ExactREPS(after_termination="restart"))
    for found, rate in ((restarting, True), (waiting, False)):
        policy = found.policy.probabilities
        chain = np.einsum("sa,sat->st", policy, np.asarray(mdp.dense(), np.float64))
        visits = np.linalg.solve(np.eye(len(chain)) - 0.95 * chain.T, mdp.initial)
        total = visits @ np.sum(policy * mdp.reward, axis=1)
        assert found.details.gain == pytest.approx(total / visits.sum() if rate else 0.05 * total, abs=1e-6)


def test_states_that_lose_their_mass_keep_a_way_back():
    """The optimum of the chain is one absorbing state; elsewhere the policy must still lead there."""
    found = searched("single_chain", 0.5)
    assert found.result is Result.CONVERGED
    assert evaluate(literature("single_chain"), found.policy.log_probabilities).result is Result.CONVERGED
    assert found.policy.probabilities[-1, 0] > 1.0 - 1e-6
    long = ox.solve(ox.single_chain(30, criterion=ox.AverageReward()), ExactREPS())  # a first mass of 2^-30 at the end
    assert long.details.gain == pytest.approx(60.0, abs=1e-5)


def test_limits_are_said():
    mdp = literature("river_swim")
    found = ox.solve(mdp, ExactREPS(epsilon=0.1, iterations=2), throw=False)
    assert found.result is Result.ITERATION_LIMIT
    close(found.details.expected_reward, SEQUENCES["river_swim"][0.1][:3], 5.1e-5)
    with pytest.raises(
        ox.SolverError, match=r"After 2 iterations the reward per step is 0\.326\d*, and at most 0\.\d+"
    ):
        ox.solve(mdp, ExactREPS(epsilon=0.1, iterations=2))


def test_constant_rewards_leave_the_policy_alone():
    transition, reward, _ = dense(0)
    mdp = ox.TabularMDP.from_arrays(transition, np.ones_like(reward), criterion=ox.AverageReward())
    found = ox.solve(mdp, ExactREPS())
    close(found.policy.probabilities, np.full((4, 3), 1 / 3), 1e-9)
    assert found.details.gain == pytest.approx(1.0, abs=1e-12)


def test_prior_and_allowed_actions():
    transition, reward, policy = dense(1)
    allowed = np.ones((4, 3), bool)
    allowed[0, 2] = allowed[2, 0] = False
    prior = np.where(allowed, policy, 0.0)
    prior /= prior.sum(axis=1, keepdims=True)
    with np.errstate(divide="ignore"):
        mdp = ox.TabularMDP.from_arrays(
            transition, reward, criterion=ox.AverageReward(), allowed=allowed, log_prior=np.log(prior)
        )
    found = ox.solve(mdp, ExactREPS(prior="problem"))
    first = state_law(transition, prior) @ np.sum(prior * reward, axis=1)
    assert found.details.expected_reward[0] == pytest.approx(first, abs=1e-12)
    assert (found.policy.probabilities[~allowed] == 0.0).all()
    assert found.details.gain == pytest.approx(ox.solve(mdp, ox.ValueIteration()).details.gain, abs=1e-9)


def test_under_transformations(x64):
    """Inside a caller's `jit`, in either precision, and mapped over bounds: the numbers from outside."""
    mdp = literature("two_state_stochastic")

    def gains(epsilon):
        return ox.solve(mdp, ExactREPS(epsilon=epsilon, iterations=2)).details.expected_reward

    tolerance = 5.1e-5 if x64 else 2e-4
    for bound in (0.1, 0.5):
        close(jax.jit(gains)(bound), SEQUENCES["two_state_stochastic"][bound][:3], tolerance)
    if x64:
        bounds = np.array([0.1, 0.5])
        expected = [SEQUENCES["two_state_stochastic"][bound][:3] for bound in bounds]
        close(jax.jit(jax.vmap(gains))(bounds), expected, tolerance)


def transient():
    rows = [(0, 0, 1, 1.0, 0.0, False), (1, 0, 1, 0.5, 1.0, False), (1, 0, 2, 0.5, 1.0, False)]
    rows += [(2, 0, 1, 1.0, 0.0, False), (3, 0, 0, 1.0, 0.0, False)]
    return ox.TabularMDP.from_outcomes(rows, criterion=ox.AverageReward(), initial=0)


def two_classes():
    return ox.TabularMDP.from_arrays(np.eye(2)[:, None, :], np.zeros((2, 1)), criterion=ox.AverageReward())


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: ox.solve(ox.chain(criterion=ox.FiniteHorizon(5)), ExactREPS()), r"FiniteHorizon: use AverageReward"),
        (lambda: ox.solve(ox.chain(criterion=ox.UntilTermination()), ExactREPS()), r"or Discounted\(1 - 1 / H\)"),
        (lambda: ox.solve(transient(), ExactREPS()), r"leaves 2 of 4 states for good: 0, 3\. Use Discounted"),
        (lambda: ox.solve(two_classes(), ExactREPS()), r"2 recurrent classes \(of state 0 and state 1"),
        (lambda: ox.solve(problem(0), ExactREPS(prior="problem")), "needs a problem with log_prior"),
        (lambda: ExactREPS(epsilon=0.0), r"epsilon must be positive and finite, but 0\.0 was given"),
        (lambda: ExactREPS(epsilon=np.inf), "epsilon must be positive and finite"),
        (lambda: ExactREPS(iterations=0), "iterations must be a whole number, at least 1"),
        (lambda: ox.solve(ox.double_integrator(criterion=ox.AverageReward()), ExactREPS()), "solves a TabularMDP"),
        (lambda: step(0, None), "give epsilon or temperature"),
        (lambda: step(0, temperature=1.0), "give epsilon or temperature"),
        (lambda: step(0, features=np.ones((3, 2))), r"features must be \[S, K\] with S = 4"),
        (
            lambda: reps_step(problem(0), ox.TabularPolicy.from_probabilities(np.full((2, 3), 1 / 3)), epsilon=1.0),
            r"the policy's table is \(2, 3\)",
        ),
        (
            lambda: reps_step(
                ox.chain(criterion=ox.FiniteHorizon(5)),
                ox.TabularPolicy.from_probabilities(np.full((5, 2), 0.5)),
                epsilon=1.0,
            ),
            "needs a process that goes on for ever",
        ),
    ],
)
def test_what_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
