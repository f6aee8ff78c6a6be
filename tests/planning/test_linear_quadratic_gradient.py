"""The closed-form gradient of a linear-quadratic cost against automatic differentiation, descent and samples."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from clauses import against
from linear_instances import positive, random_problem
from optimality import AffineGaussian, AverageReward, Discounted, FiniteHorizon, LinearQuadratic, policy_cost, solve
from optimality.learning.gradient_estimates import contributions, credit, estimate, leave_one_out
from optimality.planning.linear_quadratic_gradient import linear_quadratic_gradient

FINITE = FiniteHorizon(6, 0.9)
PROBLEMS = {
    "horizon": random_problem(3, 2, 6, timed=True, start=0.4, seed=2, criterion=FINITE),
    "channels": random_problem(3, 2, 6, channels=2, start=0.4, seed=3, criterion=FINITE),
    "endless": random_problem(3, 2, radius=0.9, start=0.4, seed=4, criterion=Discounted(0.9)),
    "endless_channels": random_problem(3, 2, radius=0.8, channels=2, start=0.4, seed=5, criterion=Discounted(0.9)),
}


SHARED = [("endless", True), ("endless_channels", True)]


def a_policy(problem, *, shared=True, seed=0, noise=True):
    random, (n, m) = np.random.default_rng(seed), problem.shape
    lead = () if shared else (problem.horizon,)
    covariance = 0.1 * positive(random, m, lead) if noise else None
    return AffineGaussian(0.1 * random.normal(size=(*lead, m, n)), random.normal(size=(*lead, m)), covariance)


def changed(change):
    def run(problem, policy):
        found = linear_quadratic_gradient(problem, policy)
        return dataclasses.replace(found, **change(found))

    return run


@pytest.mark.parametrize(
    ("name", "shared"),
    [*((name, shared) for name in ("horizon", "channels") for shared in (False, True)), *SHARED],
)
@against(
    linear_quadratic_gradient,
    without_the_moments=changed(lambda found: {"K": found.natural_K, "k": found.natural_k}),
    without_the_half=changed(lambda found: {"K": 2.0 * found.K, "k": 2.0 * found.k}),
    doubled_noise=changed(lambda found: {"covariance": 2.0 * found.covariance}),
)
def test_gradient_is_that_of_the_expected_cost(implementation, name, shared):
    problem = PROBLEMS[name]
    policy = a_policy(problem, shared=shared)
    with jax.enable_x64(True):
        expected = jax.grad(lambda p: policy_cost(problem, p).expected_cost)(jax.tree.map(jnp.asarray, policy))
    found = implementation(problem, policy)
    for field in ("K", "k", "covariance"):
        exact = np.asarray(getattr(expected, field))
        assert np.abs(getattr(found, field) - exact).max() < 1e-10 * np.abs(exact).max(), field
    assert found.expected_cost == pytest.approx(float(policy_cost(problem, policy).expected_cost), rel=1e-12)


def moved(policy, K, k, length):
    return dataclasses.replace(policy, K=policy.K - length * K, k=policy.k - length * k)


def gap(policy, best):
    return max(np.abs(policy.K - best.K).max(), np.abs(policy.k - best.k).max())


@pytest.mark.parametrize("name", PROBLEMS)
def test_gauss_newton_is_policy_iteration_and_ends_at_the_riccati_gain(name):
    problem = PROBLEMS[name]
    best = solve(problem).policy
    policy = a_policy(problem, shared=problem.horizon is None, noise=False)
    for _ in range(problem.horizon or 12):
        found = linear_quadratic_gradient(problem, policy)
        policy = moved(policy, found.gauss_newton_K, found.gauss_newton_k, 1.0)
    assert gap(policy, best) < 1e-8
    at_best = linear_quadratic_gradient(problem, best)
    assert max(np.abs(at_best.K).max(), np.abs(at_best.k).max()) < 1e-8


@pytest.mark.parametrize(("kind", "length", "steps"), [("plain", 0.05, 1_500), ("natural", 0.2, 150)])
def test_descent_ends_at_the_riccati_gain(kind, length, steps):
    """By a fixed step, from a gain that stabilizes: the cost falls at every step."""
    problem = LinearQuadratic(
        [[0.9, 0.3], [0.0, 0.8]],
        [[0.0], [1.0]],
        np.eye(2),
        0.5,
        q=[0.3, -0.2],
        W=0.1 * np.eye(2),
        initial_mean=[0.5, -0.5],
        initial_covariance=np.eye(2),
        criterion=Discounted(0.8),
    )
    best = solve(problem).policy
    start = AffineGaussian(jnp.zeros((1, 2)), jnp.zeros(1))

    def step(policy, _):
        found = linear_quadratic_gradient(problem, policy)
        K, k = (found.K, found.k) if kind == "plain" else (found.natural_K, found.natural_k)
        return moved(policy, K, k, length), found.expected_cost

    with jax.enable_x64(True):
        start = jax.tree.map(lambda x: x.astype(jnp.float64), start)
        descend = jax.jit(lambda policy: jax.lax.scan(step, policy, length=steps))
        policy, costs = jax.tree.map(np.asarray, descend(start))
    assert gap(policy, best) < 1e-6
    assert np.all(np.diff(costs) < 1e-12)
    assert costs[0] > costs[-1] + 0.1


def episodes(problem, policy, number, seed):
    """States `[N, T, n]`, controls and costs `[N, T + 1]`, drawn in NumPy; no channels."""
    random, stages = np.random.default_rng(seed), problem.stages()

    def normal(covariance):
        return random.multivariate_normal(np.zeros(len(covariance)), covariance, size=number)

    x = problem.initial_mean + normal(problem.initial_covariance)
    states, controls, costs = [], [], []
    for t in range(problem.horizon):
        A, B, c, W, Q, R, N, q, r, s = (np.asarray(part[t]) for part in stages[:10])
        u = x @ policy.K.T + policy.k + normal(policy.covariance)
        half = np.einsum("ei,ij,ej->e", x, Q, x) + np.einsum("ei,ij,ej->e", u, R, u)
        states.append(x)
        controls.append(u)
        costs.append(0.5 * half + np.einsum("ei,ij,ej->e", x, N, u) + x @ q + u @ r + s)
        x = x @ A.T + u @ B.T + c + normal(W)
    costs.append(0.5 * np.einsum("ei,ij,ej->e", x, problem.Qf, x) + x @ problem.qf + problem.sf)
    return (np.stack(each, axis=1) for each in (states, controls, costs))


def test_estimates_from_samples_agree():
    """40,000 episodes, with a baseline and without: every coordinate of K, k and Sigma within 4.5 standard errors."""
    problem = random_problem(2, 2, 5, timed=True, start=0.3, seed=7, criterion=FiniteHorizon(5, 0.9))
    policy = a_policy(problem)
    x, u, costs = episodes(problem, policy, 40_000, 0)
    precision = np.linalg.inv(policy.covariance)
    drawn = (u - x @ policy.K.T - policy.k) @ precision
    of_covariance = 0.5 * (drawn[..., :, None] * drawn[..., None, :] - precision)
    scores = [drawn[..., :, None] * x[..., None, :], drawn[..., :, None], of_covariance]
    scores = np.concatenate([each.reshape(*each.shape[:2], -1) for each in scores], axis=-1)
    exact = linear_quadratic_gradient(problem, policy)
    expected = np.concatenate([np.ravel(each) for each in (exact.K, exact.k, exact.covariance)])
    with jax.enable_x64(True):
        to_go = credit(costs, discount=0.9)[:, :-1]
        plain, less = (
            estimate(contributions(scores, to_go)),
            estimate(contributions(scores, to_go, leave_one_out(to_go))),
        )
        for found in (plain, less):
            z = (np.asarray(found.mean) - expected) / np.asarray(found.standard_error)
            assert np.abs(z).max() < 4.5
            assert np.abs((found.mean - 2.0 * expected) / found.standard_error).max() > 10.0
    assert np.linalg.norm(less.standard_error) < np.linalg.norm(plain.standard_error)


def test_what_has_no_gradient_is_said():
    problem = LinearQuadratic(0.9, 1.0, 1.0, 1.0, criterion=AverageReward())
    with pytest.raises(ValueError, match="FiniteHorizon and Discounted, but the problem has AverageReward"):
        linear_quadratic_gradient(problem, AffineGaussian(np.zeros((1, 1)), np.zeros(1)))
    with pytest.raises(ValueError, match="the policy is for 2 states"):
        linear_quadratic_gradient(problem, AffineGaussian(np.zeros((1, 2)), np.zeros(1)))
