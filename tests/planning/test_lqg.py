"""LQG: separation, its cost in closed form and by simulation, and where certainty equivalence fails."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from clauses import against
from instances import close
from optimality import AverageReward, Discounted, FiniteHorizon, Result, SolverError, solve
from optimality.planning.kalman_filter import kalman_filter
from optimality.planning.lqg import LQG, lqg_cost
from optimality.planning.lqr import LQR
from optimality.policies.affine_gaussian import AffineGaussian
from optimality.problems.linear_quadratic import LinearQuadratic, NoiseChannels
from optimality.problems.partially_observed import LinearObservation, PartiallyObserved

HORIZON = 30


def psd(rng, n):
    root = rng.normal(size=(n, n))
    return root @ root.T / n + 0.1 * np.eye(n)


@functools.cache
def instance(seed=0, *, timed=False, horizon=HORIZON, discount=0.97):
    """Four coordinates, two controls, two measurements; every term that there is."""
    rng = np.random.default_rng(seed)
    time = (horizon,) if timed else ()
    A = rng.normal(size=(*time, 4, 4))
    A = A / np.abs(np.linalg.eigvals(A)).max(axis=-1)[..., None, None]
    process = LinearQuadratic(
        A,
        rng.normal(size=(4, 2)),
        psd(rng, 4),
        psd(rng, 2),
        criterion=FiniteHorizon(horizon, discount),
        c=rng.normal(size=(*time, 4)),
        N=0.1 * rng.normal(size=(4, 2)),
        q=rng.normal(size=4),
        r=rng.normal(size=(*time, 2)),
        s=0.3,
        Qf=psd(rng, 4),
        qf=rng.normal(size=4),
        sf=0.7,
        W=psd(rng, 4),
        initial_mean=rng.normal(size=4),
        initial_covariance=psd(rng, 4),
    )
    seen = LinearObservation(rng.normal(size=(2, 4)), psd(rng, 2), D=rng.normal(size=(2, 2)), d=rng.normal(size=2))
    return PartiallyObserved(process, seen)


INSTANCES = pytest.mark.parametrize("problem", [instance(), instance(1, timed=True, horizon=8)], ids=["long", "timed"])


SOLVED = {}


def solution(problem):
    """Of each problem once; the problem is kept, so that its id stays its own."""
    if id(problem) not in SOLVED:
        SOLVED[id(problem)] = problem, solve(problem, LQG())
    return SOLVED[id(problem)][1]


def gains(problem):
    found = solution(problem)
    return found.policy.controller.K, found.policy.controller.k, found.policy.gains


def predictor_gains(problem):
    """The filter's gains in their other form, `A L`, which belong into the prediction."""
    K, k, L = gains(problem)
    A = problem.problem.A
    return K, k, np.concatenate([(A if A.ndim == 3 else A[None]) @ L[:-1], L[-1:]])


def of_the_noiseless_state(problem):
    """Filter gains for a first state that is known, and control without the linear terms."""
    K, k, L = gains(problem)
    return K, 0 * k, L


def late(problem):
    K, k, L = gains(problem)
    return np.roll(K, 1, axis=0), k, L


@INSTANCES
@pytest.mark.row("S132", "E3.5.linear")
@against(gains, predictor_gains=predictor_gains, no_offset=of_the_noiseless_state, one_step_late=late)
def test_the_cost_is_stationary_in_all_gains_of_control_and_filter(implementation, problem):
    with jax.enable_x64(True):
        K, k, L = (jnp.asarray(a) for a in implementation(problem))
        slopes = jax.grad(lambda K, k, L: lqg_cost(problem, AffineGaussian(K, k), L), argnums=(0, 1, 2))(K, k, L)
        # against what the cost is made of
        scale = float(lqg_cost(problem, AffineGaussian(K, k), L))
        for slope in slopes:
            close(np.asarray(slope) / scale, np.zeros(slope.shape), 1e-13)


def test_other_gains_cost_more():
    problem, rng = instance(), np.random.default_rng(0)
    K, k, L = gains(problem)
    least = solution(problem).details.expected_cost
    for _ in range(5):
        other = [a + 1e-3 * rng.normal(size=a.shape) for a in (K, k, L)]
        assert lqg_cost(problem, AffineGaussian(*other[:2]), other[2]) > least + 1e-8


def costs(problem, dtype=np.float64):
    found = solve(problem, LQG(), dtype=dtype).details
    return found.full_information_cost + found.price


def with_price(price):
    def run(problem, dtype=np.float64):
        found = solution(problem).details
        K, discount = solution(problem).policy.controller.K, problem.problem.discount
        weights = 0.5 * discount ** np.arange(len(K))
        return found.full_information_cost + price(weights, np.swapaxes(K, -1, -2) @ found.Q_uu @ K, found)

    return run


@INSTANCES
@pytest.mark.row("S132", "E3.1.cost", "S129.partial_observation")
@against(
    costs,
    full_information=with_price(lambda w, form, found: 0.0),
    predicted_covariance=with_price(
        lambda w, form, found: (w[:, None, None] * form * found.predicted_covariances[:-1]).sum()
    ),
    whole=with_price(lambda w, form, found: (2 * w[:, None, None] * form * found.filtered_covariances[:-1]).sum()),
    not_discounted=with_price(lambda w, form, found: 0.5 * (form * found.filtered_covariances[:-1]).sum()),
)
def test_separation_formula_is_the_cost_of_state_and_estimate_together(implementation, problem):
    K, k, L = gains(problem)
    carried = lqg_cost(problem, AffineGaussian(K, k), L)
    close(implementation(problem, np.float64) / carried, 1.0, 1e-12)
    close(implementation(problem, np.float32) / carried, 1.0, 1e-5)
    found = solution(problem).details
    close(found.expected_cost, found.full_information_cost + found.price)
    assert found.price > 0.0
    close(lqg_cost(problem, AffineGaussian(K, k), L, dtype=np.float32) / carried, 1.0, 1e-5)


def simulate(problem, policy, key, rollouts):
    """Costs of independent rollouts, with the policy as a user would run it."""
    process, seen, horizon = problem.problem, problem.observation, problem.problem.horizon

    def normal(key, covariance):
        root = jnp.linalg.cholesky(jnp.asarray(covariance))
        return root @ jax.random.normal(key, root.shape[:1])

    def one(key):
        first, noise, measuring = jax.random.split(key, 3)
        moves, looks = jax.random.split(noise, horizon), jax.random.split(measuring, horizon + 1)
        x = process.initial_mean + normal(first, process.initial_covariance)
        state = policy.start(seen.C @ x + seen.d + normal(looks[0], seen.V))

        def step(carry, data):
            (x, state, t), (moving, looking) = carry, data
            u = policy.act(state)
            cost = process.discount**t * process.stage_cost(x, u, t)
            x = process.drift(x, u, t) + normal(moving, process.W)
            y = seen.C @ x + seen.D @ u + seen.d + normal(looking, seen.V)
            return (x, policy.update(state, u, y), t + 1), cost

        (x, _, _), paid = jax.lax.scan(step, (x, state._replace(time=jnp.array(0)), 0), (moves, looks[1:]))
        return paid.sum() + process.discount**horizon * process.terminal_cost(x)

    with jax.enable_x64(True):
        return np.asarray(jax.jit(jax.vmap(one))(jax.random.split(key, rollouts)))


@functools.cache
def simulated():
    return simulate(instance(), solution(instance()).policy, jax.random.key(0), 20_000)


@pytest.mark.row("S132")
@against(
    lambda problem: solution(problem).details.expected_cost,
    full_information=lambda problem: solution(problem).details.full_information_cost,
    without_ends=lambda problem: solution(problem).details.expected_cost - problem.problem.sf,
)
def test_simulated_cost(implementation):
    problem, paid = instance(), simulated()
    z = (paid.mean() - implementation(problem)) / (paid.std() / np.sqrt(len(paid)))
    assert abs(z) < 4.0


def test_the_policy_estimates_as_the_filter_does():
    problem, policy = instance(1, timed=True, horizon=8), solution(instance(1, timed=True, horizon=8)).policy
    rng = np.random.default_rng(0)
    observations, controls = rng.normal(size=(9, 2)), rng.normal(size=(8, 2))
    state = policy.start(observations[0])
    means = [state.mean]
    for u, y in zip(controls, observations[1:], strict=True):
        assert isinstance(policy.act(state), np.ndarray)
        state = policy.update(state, u, y)  # of the control that was applied, not of its own
        means.append(state.mean)
    close(np.stack(means), kalman_filter(problem, observations, controls).means)


def test_the_value_is_that_of_the_estimate():
    """At time 0, averaged over estimates, it is the expected cost; and it satisfies Bellman's equation."""
    problem, found = instance(), solution(instance())
    process, details = problem.problem, found.details
    H, g, constant = found.value.hessian, found.value.gradient, found.value.constant

    def value(m, t):
        return 0.5 * m @ H[t] @ m + g[t] @ m + constant[t]

    def averaged(mean, time):
        """Over the estimates that the next observation can lead to."""
        spread = (details.predicted_covariances if time else process.initial_covariance[None])[time]
        spread = spread - details.filtered_covariances[time]
        return -value(mean, time) - 0.5 * (H[time] * spread).sum()

    close(averaged(process.initial_mean, 0), details.expected_cost)
    m, t = np.arange(4.0), 5
    u = found.policy.controller.mean(m, t)
    paid = process.stage_cost(m, u, t) + 0.5 * (process.Q * details.filtered_covariances[t]).sum()
    close(-value(m, t), paid + process.discount * averaged(process.drift(m, u, t), t + 1))


def without_end(criterion, **changes):
    base = instance().problem
    names = ("c", "N", "W", "initial_mean", "initial_covariance")
    fields = {**{name: getattr(base, name) for name in names}, **changes}
    return PartiallyObserved(
        LinearQuadratic(base.A, base.B, base.Q, base.R, criterion=criterion, **fields), instance().observation
    )


def test_average_cost_is_that_of_a_long_horizon():
    average = solve(without_end(AverageReward()), LQG())
    steps = 400
    long = [solve(without_end(FiniteHorizon(T)), LQG()).details for T in (steps, steps + 1)]
    for name in ("expected_cost", "full_information_cost", "price"):
        close(getattr(average.details, name), getattr(long[1], name) - getattr(long[0], name), 1e-9)
    close(average.details.predicted_covariances, long[0].predicted_covariances[-1], 1e-10)
    close(average.details.gains, long[0].gains[-1], 1e-10)
    assert average.policy.gains.shape == (4, 2)
    state = average.policy.update(average.policy.start(np.zeros(2)), np.zeros(2), np.zeros(2))
    assert state.time == 1
    assert np.isfinite(average.policy.act(state)).all()


def test_discounted_cost_is_that_of_a_long_horizon():
    discounted = solve(without_end(Discounted(0.9)), LQG())
    long = solve(without_end(FiniteHorizon(400, 0.9)), LQG())
    for name in ("expected_cost", "full_information_cost", "price"):
        close(getattr(discounted.details, name), getattr(long.details, name), 1e-9)
    with pytest.raises(SolverError, match="not settled after 2 steps: raise filter_steps"):
        solve(without_end(Discounted(0.9)), LQG(filter_steps=2))
    early = solve(without_end(Discounted(0.9)), LQG(filter_steps=50))
    close(early.details.expected_cost, discounted.details.expected_cost, 1e-7)


def hidden_mode(criterion, seen):
    """Two modes, 1.2 and 0.9, each with its control; `seen` says which are measured."""
    process = LinearQuadratic(
        np.diag([1.2, 0.9]),
        np.eye(2),
        np.eye(2),
        np.eye(2),
        criterion=criterion,
        W=np.eye(2),
        initial_covariance=np.eye(2),
    )
    return PartiallyObserved(process, LinearObservation(np.eye(2)[seen], np.eye(len(seen))))


@pytest.mark.row("E3.1.detectable")
@against([0, 1], hidden=[1])
def test_without_an_end_unstable_modes_must_be_seen(implementation):
    with jax.enable_x64(True):
        average = hidden_mode(AverageReward(), implementation)
        traced = jax.jit(lambda problem: solve(problem, LQG()))(jax.tree.map(jnp.asarray, average))
    assert traced.result == Result.CONVERGED
    found = solve(average, LQG())
    assert found.details.expected_cost > found.details.full_information_cost


@pytest.mark.row("E3.1.detectable")
def test_over_a_finite_horizon_the_variance_grows_and_the_regulator_is_optimal():
    problem = hidden_mode(FiniteHorizon(60), [1])
    found = solve(problem, LQG())
    variance = found.details.filtered_covariances[:, 0, 0]
    close(variance[60], 1.44**60 + (1.44**60 - 1) / 0.44, 1e-12)
    assert 1e10 < variance[60] < 2e10
    with jax.enable_x64(True):
        K, k, L = (jnp.asarray(a) for a in gains(problem))
        slopes = jax.grad(lambda K, L: lqg_cost(problem, AffineGaussian(K, k), L), argnums=(0, 1))(K, L)
        for slope in slopes:
            close(np.asarray(slope) / found.details.expected_cost, np.zeros(slope.shape), 1e-13)
    with pytest.raises(ValueError, match=r"\(A, C\) is not detectable: mode 1\.2 .* no sensor sees it"):
        solve(hidden_mode(AverageReward(), [1]), LQG())


EFFORT, STEPS = 0.01, 4


def cost_to_go(gain, steps):
    """The factor of x^2 in the least cost of `sum x^2 + effort u^2`, the first x included, where `x' = x + gain u`."""
    P = 1.0
    for _ in range(steps):
        P = 1.0 + P - (P * gain) ** 2 / (EFFORT + gain**2 * P)
    return P


def unknown_sign(first):
    """Expected cost of `sum_{t=1..4} x_t^2 + effort u^2` from x = 1, where `x' = x + b u` and b is 1 or -1, each with
    probability one half. After the first control both know b if it moved anything; then the regulator is optimal."""
    if first == 0.0:
        return float(STEPS)  # nothing moved: the estimate of b is still 0, and the regulator's control for b = 0 is 0
    worth = cost_to_go(1.0, STEPS - 1)
    return EFFORT * first**2 + np.mean([worth * (1.0 + b * first) ** 2 for b in (1.0, -1.0)])


def regulator_of(gain):
    """The first control at x = 1 of a regulator that takes the gain for known."""
    states = np.concatenate([[0.0], np.full(STEPS - 1, 2.0)])[:, None, None]
    fields = {"criterion": FiniteHorizon(STEPS), "Qf": 2.0, "initial_mean": 1.0}
    found = solve(LinearQuadratic(1.0, gain, states, 2 * EFFORT, **fields), LQR())
    close(-found.details.objective, cost_to_go(gain, STEPS) - 1.0)
    return float(found.policy.mean(np.ones(1), 0)[0])


@pytest.mark.row("E3.5.probing")
@against(
    lambda: unknown_sign(0.2),
    certainty_equivalence=lambda: unknown_sign(regulator_of(0.0)),
    all_or_nothing=lambda: unknown_sign(regulator_of(1.0)),
)
def test_certainty_equivalence_never_learns_a_gain_of_unknown_sign(implementation):
    assert implementation() == pytest.approx(1.0507, abs=1e-4)
    assert unknown_sign(regulator_of(0.0)) == 4.0
    # the less the better, but not nothing: the limit of small probes is the cost with b known one step late
    assert cost_to_go(1.0, STEPS - 1) < unknown_sign(0.1) < unknown_sign(0.2) < 4.0


def test_refusals():
    problem = instance()
    process = dataclasses.replace(problem.problem, channels=NoiseChannels(offset=np.ones((1, 4))))
    with pytest.raises(ValueError, match="noise channels, whose size depends on the state"):
        solve(PartiallyObserved(process, problem.observation), LQG())
    with pytest.raises(ValueError, match="but a LinearQuadratic was given; a problem whose state is seen has LQR"):
        solve(problem.problem, LQG())
    K, k, L = gains(problem)
    with pytest.raises(ValueError, match=r"gains have shape \(30, 4, 2\), but need \(31, 4, 2\) or \(4, 2\)"):
        lqg_cost(problem, AffineGaussian(K, k), L[:-1])
    with pytest.raises(ValueError, match="leave covariance out"):
        lqg_cost(problem, AffineGaussian(K[0], k[0], np.eye(2)), L)
    with pytest.raises(ValueError, match="adds the costs of a finite horizon"):
        lqg_cost(without_end(AverageReward()), AffineGaussian(K[0], k[0]), L[0])
    convex = dataclasses.replace(problem.problem, R=-10 * np.eye(2))
    with pytest.raises(SolverError, match="so the cost has no minimum over the controls"):
        solve(PartiallyObserved(convex, problem.observation), LQG())
