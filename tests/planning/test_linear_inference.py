"""Entropy, risk, inference and the KL step against dense normal laws of the whole trajectory."""

import dataclasses

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from clauses import against
from linear_instances import positive, random_problem, riccati, simulate, stacked
from optimality import (
    LQR,
    AffineGaussian,
    AverageReward,
    Discounted,
    FiniteHorizon,
    KLConstrainedLQR,
    LinearQuadratic,
    LinearQuadraticInference,
    MaximumEntropyLQR,
    NearPolicy,
    NoiseChannels,
    Result,
    RiskSensitiveLQR,
    SolverError,
    marginals,
    policy_cost,
    solve,
)
from optimality.planning.kl_constrained_lqr import path_kl, penalized

TEMPERATURE = 0.6


def relative(actual, expected):
    expected = np.asarray(expected)
    return np.max(np.abs(np.asarray(actual) - expected)) / max(np.max(np.abs(expected)), 1e-300)


def traced(tree):
    return jax.tree.map(jnp.asarray, tree)


def dense(problem, temperature):
    """The law `exp(-cost / temperature)` of everything that is free, noise and first state weighted by their own laws:
    mean and covariance of `[controls, noise, deviation of the first state]`, log normalizer, and states as affine
    functions of it."""
    H, _, constant, X, x = stacked(problem)
    T, (n, m) = problem.horizon, problem.shape
    k = T * m
    first = np.zeros((T + 1, n, n))
    first[0] = np.eye(n)
    stages = problem.stages()
    for t in range(T):
        first[t + 1] = np.asarray(stages.A[t]) @ first[t]
    # the first state's deviation enters like a noise before the first step
    weights = np.concatenate([np.full(k, 0.0), np.zeros(T * n)])
    size = H.shape[0] + n
    whole, slope = np.zeros((size, size)), np.zeros(size)
    states = np.concatenate([X, first], axis=-1)
    lift = np.concatenate([np.eye(k), np.zeros((k, T * n + n))], axis=1)
    for t in range(T):
        _, _, _, _, Q, R, N, q, r = (np.asarray(part[t]) for part in stages[:9])
        u = lift[t * m : (t + 1) * m]
        whole += states[t].T @ Q @ states[t] + u.T @ R @ u + states[t].T @ N @ u + u.T @ N.T @ states[t]
        slope += states[t].T @ (Q @ x[t] + q) + u.T @ (N.T @ x[t] + r)
    whole += states[T].T @ problem.Qf @ states[T]
    slope += states[T].T @ (problem.Qf @ x[T] + problem.qf)
    assert weights.size + n == size
    precision = whole / temperature
    log_prior = 0.0
    for t in range(T):
        block = slice(k + t * n, k + (t + 1) * n)
        W = np.asarray(stages.W[t])
        precision[block, block] += np.linalg.inv(W)
        log_prior -= 0.5 * np.linalg.slogdet(2 * np.pi * W)[1]
    block = slice(size - n, size)
    precision[block, block] += np.linalg.inv(problem.initial_covariance)
    log_prior -= 0.5 * np.linalg.slogdet(2 * np.pi * problem.initial_covariance)[1]
    mean = -np.linalg.solve(precision, slope / temperature)
    log_z = log_prior - constant / temperature + 0.5 * mean @ precision @ mean
    log_z += 0.5 * (size * np.log(2 * np.pi) - np.linalg.slogdet(precision)[1])
    return mean, np.linalg.inv(precision), log_z, states, x


def conditional(mean, covariance, states, x, t, problem):
    """Gain, offset and covariance of the control given the state at t, from the dense law."""
    m = problem.shape[1]
    rows = np.zeros((m, mean.size))
    rows[:, t * m : (t + 1) * m] = np.eye(m)
    of_state = states[t]
    cov_xx = of_state @ covariance @ of_state.T
    gain = np.linalg.solve(cov_xx, of_state @ covariance @ rows.T).T
    offset = rows @ mean - gain @ (of_state @ mean + x[t])
    return gain, offset, rows @ covariance @ rows.T - gain @ cov_xx @ gain.T


def inferred(problem):
    found = solve(problem, LinearQuadraticInference(temperature=TEMPERATURE))
    policy, smoothed = found.policy, found.details.smoothed
    return policy.K, policy.k, policy.covariance, smoothed.mean, smoothed.covariance, found.details.log_evidence


def variational(problem):
    found = solve(problem, MaximumEntropyLQR(temperature=TEMPERATURE))
    reached = marginals(problem, found.policy)
    return *_law(found.policy), reached.mean, reached.covariance, found.details.elbo


def _law(policy):
    return policy.K, policy.k, policy.covariance


def with_other_risk(problem):
    found = riccati(problem, temperature=TEMPERATURE, risk=1.0 / TEMPERATURE, sign_of_risk=-0.2)
    right = inferred(problem)
    return found["K"], found["k"], *right[2:]


@pytest.mark.parametrize("timed", [False, True], ids=["constant", "timed"])
@against(inferred, variational=variational, other_sign_of_risk=with_other_risk)
def test_the_exact_posterior_is_that_of_the_dense_law(implementation, timed):
    """And the variational law is another one: do not make them equal."""
    problem = random_problem(3, 2, 6, timed=timed, noise=0.3, start=0.4, seed=3)
    K, k, covariance, state_mean, state_covariance, log_evidence = implementation(problem)
    mean, cov, log_z, states, x = dense(problem, TEMPERATURE)
    for t in range(problem.horizon):
        gain, offset, noise = conditional(mean, cov, states, x, t, problem)
        assert relative(K[t], gain) < 1e-10
        assert relative(k[t], offset) < 1e-10
        assert relative(covariance[t], noise) < 1e-10
    for t in range(problem.horizon + 1):
        assert relative(state_mean[t], states[t] @ mean + x[t]) < 1e-10
        assert relative(state_covariance[t], states[t] @ cov @ states[t].T) < 1e-10
    assert abs(log_evidence - log_z) < 1e-10


def test_the_posterior_in_single_precision():
    problem = random_problem(3, 2, 6, noise=0.3, start=0.4, seed=3)
    mean, cov, log_z, states, x = dense(problem, TEMPERATURE)
    found = solve(problem, LinearQuadraticInference(temperature=TEMPERATURE), dtype=np.float32)
    assert relative(found.policy.K[0], conditional(mean, cov, states, x, 0, problem)[0]) < 1e-5
    assert abs(found.details.log_evidence - log_z) < 1e-4


def soft(problem, temperature):
    found = solve(problem, MaximumEntropyLQR(temperature=temperature))
    return found.policy, found.details


def half_covariance(problem, temperature):
    policy, details = soft(problem, temperature)
    return dataclasses.replace(policy, covariance=policy.covariance / 2), details


def scaled_gains(problem, temperature):
    policy, details = soft(problem, temperature)
    return dataclasses.replace(policy, K=policy.K * (1 - 0.1 * temperature)), details


def unit_temperature_evidence(problem, temperature):
    policy, details = soft(problem, temperature)
    return policy, eqx.tree_at(lambda d: d.elbo, details, details.elbo * temperature)


@pytest.mark.row("S139.optimal")
@against(soft, half=half_covariance, scaled=scaled_gains, evidence_in_units_of_reward=unit_temperature_evidence)
def test_maximum_entropy_is_conditioning_of_the_dense_law_without_noise(implementation):
    problem = random_problem(3, 2, 8, noise=0.0, seed=1)
    H, g, constant, _, _ = stacked(problem)
    T, m = problem.horizon, problem.shape[1]
    k = T * m
    precision, slope = H[:k, :k] / TEMPERATURE, g[:k] / TEMPERATURE
    mean, covariance = -np.linalg.solve(precision, slope), np.linalg.inv(precision)
    log_z = -constant / TEMPERATURE + 0.5 * mean @ precision @ mean
    log_z += 0.5 * (k * np.log(2 * np.pi) - np.linalg.slogdet(precision)[1])
    policy, details = implementation(problem, TEMPERATURE)
    assert relative(policy.K, solve(problem).policy.K) < 1e-13
    assert abs(details.elbo - log_z) < 1e-11
    x = problem.initial_mean
    for t in range(T):
        past, now = slice(0, t * m), slice(t * m, (t + 1) * m)
        # controls before t fix the state at t
        u = mean[past]
        noise = covariance[now, now] - covariance[now, past] @ np.linalg.solve(
            covariance[past, past], covariance[past, now]
        )
        assert relative(policy.covariance[t], noise) < 1e-10
        assert relative(policy.K[t] @ x + policy.k[t], mean[now]) < 1e-10
        x = problem.drift(x, mean[now], t)
        assert u.size == t * m


@pytest.mark.row("S139.soft_maximum")
def test_the_soft_value_is_the_soft_maximum_of_a_quadratic():
    """`temperature log int exp(Q(x, u) / temperature) du` by quadrature over one control."""
    problem = random_problem(2, 1, 1, noise=0.2, seed=2)
    found = solve(problem, MaximumEntropyLQR(temperature=TEMPERATURE))
    x = np.array([0.3, -0.7])
    center = found.policy.mean(x, 0)[0]
    u = center + np.linspace(-12.0, 12.0, 401)

    def worth(u):
        new = problem.drift(x, np.array([u]))
        after = problem.terminal_cost(new) + 0.5 * np.trace(problem.Qf @ problem.W)
        return -(problem.stage_cost(x, np.array([u])) + after)

    q = np.array([worth(each) for each in u]) / TEMPERATURE
    integral = np.log(np.sum(np.exp(q - q.max())) * (u[1] - u[0])) + q.max()
    assert abs(found.value(x, 0) - TEMPERATURE * integral) < 1e-10


def test_entropy_is_added_and_gains_are_lqrs_whatever_the_noise():
    problem = random_problem(3, 2, 7, noise=0.5, start=0.3, channels=1, criterion=FiniteHorizon(7, 0.9))
    plain, found = solve(problem), solve(problem, MaximumEntropyLQR(temperature=2.0))
    assert relative(found.policy.K, plain.policy.K) < 1e-13
    details = found.details
    entropies = 0.9 ** np.arange(7) @ np.asarray(found.policy.entropy())
    assert abs(details.expected_entropy - entropies) < 1e-5
    assert abs(details.control.objective - (2.0 * details.expected_entropy - details.expected_cost)) < 1e-10
    with jax.enable_x64(True):

        def soft_objective(policy):
            weights = 0.9 ** jnp.arange(7.0)
            return policy_cost(problem, policy).expected_cost - 2.0 * jnp.sum(weights * policy.entropy())

        gradient = jax.jit(jax.grad(soft_objective))(traced(found.policy))
    for part in (gradient.K, gradient.k, gradient.covariance):
        assert np.max(np.abs(part)) < 1e-10


@pytest.mark.parametrize("criterion", [AverageReward(), Discounted(0.9)], ids=["average", "discounted"])
def test_entropy_without_an_end(criterion):
    problem = random_problem(3, 2, seed=6, radius=0.9, criterion=criterion, start=0.2)
    found = solve(problem, MaximumEntropyLQR(temperature=0.5))
    weight = 1.0 if isinstance(criterion, AverageReward) else 1.0 / (1.0 - 0.9)
    assert relative(found.details.expected_entropy, weight * float(found.policy.entropy())) < 1e-5
    assert relative(found.details.elbo, found.details.control.objective / 0.5) < 1e-13


def test_the_posterior_nears_lqr_linearly_in_the_noise():
    problem = random_problem(3, 2, 8, noise=1.0, seed=5)
    gains = solve(problem).policy.K
    errors = []
    for size in (1e-2, 1e-4, 1e-6, 1e-8):
        quiet = dataclasses.replace(problem, W=size * problem.W)
        errors.append(relative(solve(quiet, LinearQuadraticInference(temperature=1.0)).policy.K, gains))
    slopes = np.diff(np.log10(errors)) / -2.0
    assert np.all((slopes > 0.95) & (slopes < 1.05)), errors
    loud = solve(problem, LinearQuadraticInference(temperature=1.0))
    assert relative(loud.policy.K, gains) > 0.05
    assert loud.details.gap > 0.1


def test_evidence_bound_and_gap():
    problem = random_problem(3, 1, 6, noise=0.3, start=0.2, seed=8)
    details = solve(problem, LinearQuadraticInference(temperature=TEMPERATURE)).details
    assert details.gap > 0.0
    assert abs(details.log_evidence - details.elbo - details.gap) < 1e-12
    quiet = dataclasses.replace(problem, W=None, initial_covariance=None)
    assert abs(solve(quiet, LinearQuadraticInference(temperature=TEMPERATURE)).details.gap) < 1e-11
    # the same bound by the policy's own expectations
    policy = solve(problem, MaximumEntropyLQR(temperature=TEMPERATURE)).policy
    own = -policy_cost(problem, policy).expected_cost / TEMPERATURE + np.asarray(policy.entropy(), np.float64).sum()
    assert abs(own - details.elbo) < 1e-5


def rated(problem, risk):
    found = solve(problem, RiskSensitiveLQR(risk=risk))
    return found.policy, found.details.control.objective


def rated_by(**mistake):
    def run(problem, risk):
        found = riccati(problem, risk=risk, **mistake)
        policy = AffineGaussian(found["K"], found["k"])
        x = problem.initial_mean
        return policy, -(0.5 * x @ found["P"][0] @ x + found["p"][0] @ x + found["s"][0])

    return run


@pytest.mark.parametrize("risk", [-0.05, 0.3, 1e-6])
@against(rated, sign=rated_by(sign_of_risk=-1.0), no_half=rated_by(without_half=True))
def test_risk_is_the_certainty_equivalent_of_the_cost(implementation, risk):
    """Whatever the policy, `(1 / risk) log E exp(-risk cost)` is a dense normal integral, and ours is its maximum."""
    problem = random_problem(2, 1, 4, noise=0.3, seed=4)
    policy, objective = implementation(problem, risk)

    def certainty(K, k):
        return _certainty_equivalent(problem, K, k, risk)

    tolerance = 1e-9 if abs(risk) > 1e-3 else 1e-6
    assert abs(certainty(policy.K, policy.k) - objective) < tolerance * abs(objective)
    if abs(risk) < 1e-3:
        return
    for seed in range(4):
        random = np.random.default_rng(seed)
        K, k = (
            policy.K + 0.05 * random.normal(size=policy.K.shape),
            policy.k + 0.05 * random.normal(size=policy.k.shape),
        )
        assert certainty(K, k) < objective


def _certainty_equivalent(problem, K, k, risk):
    """Of a linear policy: states and controls are affine in the noise, so the cost is a form of it."""
    stages, T = problem.stages(), problem.horizon
    n, _ = problem.shape
    X, x = np.zeros((n, T * n)), np.array(problem.initial_mean)
    H, g, constant = np.zeros((T * n, T * n)), np.zeros(T * n), 0.0
    noise = np.zeros((T * n, T * n))
    for t in range(T):
        A, B, c, W, Q, R, N, q, r, s = (np.asarray(part[t]) for part in stages[:10])
        U, u = K[t] @ X, K[t] @ x + k[t]
        H += X.T @ Q @ X + U.T @ R @ U + X.T @ N @ U + U.T @ N.T @ X
        g += X.T @ (Q @ x + N @ u + q) + U.T @ (R @ u + N.T @ x + r)
        constant += 0.5 * x @ Q @ x + 0.5 * u @ R @ u + x @ N @ u + q @ x + r @ u + s
        X, x = A @ X + B @ U, A @ x + B @ u + c
        block = slice(t * n, (t + 1) * n)
        X[:, block] += np.eye(n)
        noise[block, block] = W
    H += X.T @ problem.Qf @ X
    g += X.T @ (problem.Qf @ x + problem.qf)
    constant += 0.5 * x @ problem.Qf @ x + problem.qf @ x + problem.sf
    M = np.eye(T * n) + risk * H @ noise
    return -(constant - risk / 2 * g @ noise @ np.linalg.solve(M, g) + np.linalg.slogdet(M)[1] / (2 * risk))


def test_risk_zero_is_lqr_and_risk_one_over_temperature_is_inference():
    problem = random_problem(3, 2, 6, noise=0.3, start=0.2)
    neutral = solve(problem, RiskSensitiveLQR(risk=0.0))
    assert relative(neutral.policy.K, solve(problem).policy.K) < 1e-13
    assert relative(neutral.details.control.objective, solve(problem).details.objective) < 1e-13
    posterior = solve(problem, LinearQuadraticInference(temperature=TEMPERATURE))
    optimist = solve(problem, RiskSensitiveLQR(risk=1.0 / TEMPERATURE))
    assert relative(optimist.policy.K, posterior.policy.K) < 1e-13


def test_the_breakdown_point():
    problem = random_problem(3, 2, 6, noise=0.3, start=0.2)
    found = solve(problem, RiskSensitiveLQR(risk=-0.01))
    breakdown = float(found.details.breakdown)
    assert breakdown < -0.01
    assert solve(problem, RiskSensitiveLQR(risk=breakdown * (1 - 1e-9))).result.is_success
    with pytest.raises(SolverError, match="breakdown point is at risk") as caught:
        solve(problem, RiskSensitiveLQR(risk=breakdown * 1.001))
    assert caught.value.result == Result.NOT_POSITIVE_DEFINITE
    quiet = dataclasses.replace(problem, W=None, initial_covariance=None)
    assert solve(quiet, RiskSensitiveLQR(risk=-1e3)).details.breakdown == -np.inf
    # by hand: one step, x' = u + w, cost x'^2 / 2, so that 1 + risk W > 0
    by_hand = LinearQuadratic(0.0, 1.0, 0.0, 1.0, criterion=FiniteHorizon(1), Qf=1.0, W=0.25)
    assert abs(solve(by_hand, RiskSensitiveLQR(risk=-0.1)).details.breakdown + 4.0) < 1e-9


def test_risk_on_average():
    problem = random_problem(2, 1, seed=9, radius=0.8, noise=0.2, criterion=AverageReward())
    found = solve(problem, RiskSensitiveLQR(risk=-0.02))
    long = [
        solve(dataclasses.replace(problem, criterion=FiniteHorizon(T)), RiskSensitiveLQR(risk=-0.02))
        for T in (200, 300)
    ]
    rate = (long[1].details.control.objective - long[0].details.control.objective) / 100
    assert relative(found.details.control.objective, rate) < 1e-10
    assert relative(found.policy.K, long[1].policy.K[0]) < 1e-10


@pytest.mark.parametrize("method", [RiskSensitiveLQR(), LinearQuadraticInference()])
def test_risk_refuses_what_is_not_linear_quadratic(method):
    fields = {"A": 0.5, "B": 1.0, "Q": 1.0, "R": 1.0}
    for criterion in (Discounted(0.9), FiniteHorizon(3, 0.9)):
        with pytest.raises(ValueError, match="needs discount 1"):
            solve(LinearQuadratic(**fields, criterion=criterion), method)
    loud = LinearQuadratic(**fields, criterion=FiniteHorizon(3), channels=NoiseChannels(np.ones((1, 1, 1))))
    with pytest.raises(ValueError, match="additive noise W only"):
        solve(loud, method)


@pytest.mark.parametrize("risk", [None, 0.4], ids=["soft", "posterior"])
def test_derivatives_under_entropy_and_risk_equal_finite_differences(risk):
    problem = random_problem(3, 1, 5, noise=0.3, start=0.2, seed=11)
    method = MaximumEntropyLQR(temperature=0.7) if risk is None else LinearQuadraticInference(temperature=0.7)
    random = np.random.default_rng(0)
    weight = random.normal(size=(5, 1, 3))

    def total(problem, temperature):
        found = solve(problem, dataclasses.replace(method, temperature=temperature))
        extra = found.details.elbo if risk is None else found.details.log_evidence + found.details.smoothed.mean.sum()
        return (weight * found.policy.K).sum() + found.policy.covariance.sum() + extra

    with jax.enable_x64(True):
        gradient, slope = jax.jit(jax.grad(total, argnums=(0, 1)))(traced(problem), jnp.asarray(0.7))
    assert abs(slope - (total(problem, 0.7 + 1e-5) - total(problem, 0.7 - 1e-5)) / 2e-5) < 1e-6 * (1 + abs(slope))
    for name in ("A", "B", "c", "Q", "R", "N", "q", "r", "s", "Qf", "qf", "W", "initial_mean", "initial_covariance"):
        at = getattr(problem, name)
        step = (
            positive(random, at.shape[0])
            if name in ("Q", "R", "Qf", "W", "initial_covariance")
            else random.normal(size=at.shape)
        )
        ahead, behind = (total(dataclasses.replace(problem, **{name: at + h * step}), 0.7) for h in (1e-5, -1e-5))
        slope = float(np.sum(np.asarray(getattr(gradient, name)) * step))
        assert abs(slope - (ahead - behind) / 2e-5) < 1e-6 * (1.0 + abs(slope)), name


def near(epsilon):
    problem = random_problem(3, 2, 6, noise=0.2, start=0.3, channels=1, seed=12)
    old = solve(problem, MaximumEntropyLQR(temperature=3.0)).policy
    old = dataclasses.replace(old, K=old.K + 0.2)
    return problem, old, solve(NearPolicy(problem, old), KLConstrainedLQR(kl=epsilon, temperature=0.1))


def _episodes_kl(problem, new, old):
    """The divergence by its definition, from the moments of the states, in NumPy."""
    reached, total = marginals(problem, new), 0.0
    for t in range(problem.horizon):
        precision = np.linalg.inv(old.covariance[t])
        gap, offset = new.K[t] - old.K[t], new.k[t] - old.k[t]
        square = reached.covariance[t] + np.outer(reached.mean[t], reached.mean[t])
        mean = np.trace(precision @ gap @ square @ gap.T) + 2 * offset @ precision @ gap @ reached.mean[t]
        ratio = np.linalg.slogdet(old.covariance[t])[1] - np.linalg.slogdet(new.covariance[t])[1]
        trace = np.trace(precision @ new.covariance[t]) - len(offset)
        total += 0.5 * (mean + offset @ precision @ offset + trace + ratio)
    return total


@pytest.mark.parametrize("epsilon", [0.1, 1.0, 10.0])
def test_the_kl_step_reaches_its_bound_at_a_stationary_point(epsilon):
    problem, old, found = near(epsilon)
    assert abs(_episodes_kl(problem, found.policy, old) - epsilon) < 1e-9 * epsilon
    multiplier = float(found.details.multiplier)
    assert multiplier > 0.0
    with jax.enable_x64(True):

        def lagrangian(policy):
            cost = policy_cost(problem, policy).expected_cost - 0.1 * jnp.sum(policy.entropy())
            return cost + multiplier * path_kl(NearPolicy(problem, old), policy)

        gradient = jax.jit(jax.grad(lagrangian))(traced(found.policy))
    scale = multiplier + abs(float(found.details.expected_cost))
    for part in (gradient.K, gradient.k, gradient.covariance + np.swapaxes(gradient.covariance, -1, -2)):
        assert np.max(np.abs(part)) < 1e-10 * scale
    assert found.details.expected_cost < policy_cost(problem, old).expected_cost


def test_the_limits_of_the_kl_step():
    problem, old, _ = near(1.0)
    free = solve(NearPolicy(problem, old), KLConstrainedLQR(kl=1e6, temperature=0.1))
    assert free.result == Result.CONSTRAINT_INACTIVE
    assert relative(free.policy.K, solve(problem).policy.K) < 1e-10
    with jax.enable_x64(True):
        stuck = jax.jit(penalized)(traced(NearPolicy(problem, old)), jnp.asarray(1e9), jnp.asarray(0.0))[0]
    assert relative(stuck.K, old.K) < 1e-6
    # where the cost alone has no minimum, staying near makes it convex
    concave = dataclasses.replace(problem, R=-0.5 * np.eye(2), Qf=np.zeros((3, 3)), channels=None)
    assert not solve(concave, throw=False).result.is_success
    assert solve(NearPolicy(concave, old), KLConstrainedLQR(kl=0.5)).result == Result.CONVERGED
    with pytest.raises(ValueError, match="no noise"):
        NearPolicy(problem, solve(problem).policy)
    with pytest.raises(ValueError, match="kl must be positive"):
        KLConstrainedLQR(kl=0.0)
    with pytest.raises(ValueError, match=r"NearPolicy\(problem, old_policy\)"):
        solve(problem, KLConstrainedLQR())


def test_the_kl_step_is_differentiated_through_its_multiplier():
    problem, old, _ = near(1.0)

    def cost(scale):
        changed = dataclasses.replace(problem, Q=scale * problem.Q)
        return solve(NearPolicy(changed, old), KLConstrainedLQR(kl=1.0, temperature=0.1)).details.multiplier

    with jax.enable_x64(True):
        slope = float(jax.jit(jax.grad(cost))(jnp.asarray(1.0)))
    assert abs(slope - (cost(1.0 + 1e-4) - cost(1.0 - 1e-4)) / 2e-4) < 1e-5 * abs(slope)


@pytest.mark.parametrize("temperature", [0.0, -1.0, np.nan, np.inf])
@pytest.mark.parametrize("method", [MaximumEntropyLQR, LinearQuadraticInference])
def test_temperatures_must_be_positive(method, temperature):
    with pytest.raises(ValueError, match="temperature must be positive"):
        method(temperature=temperature)


def test_samples_of_a_policy_with_noise_cost_what_is_expected():
    problem = random_problem(2, 1, 5, noise=0.2, start=0.2)
    found = solve(problem, MaximumEntropyLQR(temperature=0.5))
    costs = simulate(problem, found.policy, episodes=40_000, seed=0)
    assert abs(costs.mean() - found.details.expected_cost) < 4 * costs.std() / np.sqrt(costs.size)
    x = np.array([0.2, -0.1])
    keys = jax.random.split(jax.random.key(0), 2000)
    drawn = jax.vmap(lambda key: found.policy.sample(key, x, 0))(keys)
    assert abs(np.mean(drawn) - found.policy.mean(x, 0)[0]) < 4 * np.std(drawn) / np.sqrt(2000)
    with pytest.raises(ValueError, match="policy without noise"):
        solve(problem, LQR()).policy.log_prob(x, np.zeros(1))
