"""Noise that depends on state and control, other noise laws, and where an expansion misleads."""

import dataclasses

import numpy as np
import pytest
import scipy.optimize

from clauses import against
from linear_instances import random_problem, riccati, simulate
from optimality import AffineGaussian, FiniteHorizon, LinearQuadratic, NoiseChannels, marginals, policy_cost, solve


def relative(actual, expected):
    expected = np.asarray(expected)
    return np.max(np.abs(np.asarray(actual) - expected)) / max(np.max(np.abs(expected)), 1e-300)


def lqr(problem):
    found = solve(problem)
    return found.policy, -found.details.objective


def recursion(**mistake):
    def run(problem):
        found = riccati(problem, **mistake)
        x, P = problem.initial_mean, found["P"][0]
        cost = 0.5 * x @ P @ x + found["p"][0] @ x + found["s"][0] + 0.5 * np.sum(P * problem.initial_covariance)
        return AffineGaussian(found["K"], found["k"]), cost

    return run


@pytest.mark.row("S137.additive")
@against(lqr, noise_in_gains=recursion(noise_in_gains=True), without_half=recursion(without_half=True))
def test_additive_noise_changes_the_cost_and_not_the_gains(implementation):
    problem = random_problem(3, 2, 10, timed=True, noise=0.4, seed=1)
    quiet = dataclasses.replace(problem, W=None)
    (policy, cost), (plain, without) = implementation(problem), lqr(quiet)
    assert relative(policy.K, plain.K) < 1e-13
    assert relative(policy.k, plain.k) < 1e-13
    constant = 0.5 * np.sum(riccati(quiet)["P"][1:] * np.asarray(problem.stages().W))
    assert abs(cost - without - constant) < 1e-11 * abs(cost)
    costs = simulate(problem, policy, episodes=40_000, seed=0)
    assert abs(costs.mean() - cost) < 4 * costs.std() / np.sqrt(costs.size)


def moments_cost(problem, K, k):
    """Expected cost by propagating `E x` and `E x x'`, in NumPy: it shares nothing with the Riccati equation."""
    stages, channels = problem.stages(), problem.stages().channels
    mean = np.array(problem.initial_mean)
    square = problem.initial_covariance + np.outer(mean, mean)
    total, weight = 0.0, 1.0
    for t in range(problem.horizon):
        A, B, c, W, Q, R, N, q, r, s = (np.asarray(part[t]) for part in stages[:10])
        u = K[t] @ mean + k[t]
        xu = square @ K[t].T + np.outer(mean, k[t])
        uu = K[t] @ square @ K[t].T + np.outer(K[t] @ mean, k[t]) + np.outer(k[t], K[t] @ mean) + np.outer(k[t], k[t])
        total += weight * (0.5 * np.sum(Q * square) + 0.5 * np.sum(R * uu) + np.sum(N * xu) + q @ mean + r @ u + s)
        z = np.concatenate([mean, u, [1.0]])
        moment = np.block([[square, xu, z[: len(mean), None]], [xu.T, uu, u[:, None]], [z[None]]])
        F = np.concatenate([A, B, c[:, None]], axis=1)
        square, mean = F @ moment @ F.T + W, F @ z
        for C, D, o in zip(*(np.asarray(getattr(channels, x)[t]) for x in ("state", "control", "offset")), strict=True):
            S = np.concatenate([C, D, o[:, None]], axis=1)
            square = square + S @ moment @ S.T
        weight *= problem.discount
    return total + weight * (0.5 * np.sum(problem.Qf * square) + problem.qf @ mean + problem.sf)


@pytest.mark.parametrize("discount", [1.0, 0.9])
@pytest.mark.row("S137.multiplicative", "S137.nonlinear", "E3.7")
@against(
    lqr,
    forgets_channels=recursion(forgets_channels=True),
    forgets_linear_terms=recursion(forgets_channel_offset=True),
)
def test_noise_of_affine_size_against_moment_propagation(implementation, discount):
    problem = random_problem(2, 1, 5, channels=2, start=0.2, seed=3, criterion=FiniteHorizon(5, discount))
    policy, cost = implementation(problem)
    assert abs(moments_cost(problem, policy.K, policy.k) - cost) < 1e-12 * abs(cost)

    def total(free):
        return moments_cost(problem, free[:10].reshape(5, 1, 2), free[10:].reshape(5, 1))

    start = np.concatenate([np.ravel(policy.K), np.ravel(policy.k)])
    found = scipy.optimize.minimize(total, start + 0.1, method="BFGS", options={"gtol": 1e-9})
    assert abs(found.fun - cost) < 1e-9 * abs(cost)
    exact = marginals(problem, policy)
    assert abs(exact.expected_cost - cost) < 1e-12 * abs(cost)


@pytest.mark.row("E3.7")
def test_an_offset_in_the_noise_moves_the_controls():
    """`sigma = s0 + C x + D u` makes k nonzero although nothing else is linear; leaving k out costs more."""
    channels = NoiseChannels([[[0.4]]], [[[0.5]]], [[0.8]])
    problem = LinearQuadratic(
        0.9, 1.0, 1.0, 0.2, criterion=FiniteHorizon(8), Qf=1.0, channels=channels, initial_mean=[1.0]
    )
    found = solve(problem)
    assert np.all(found.policy.k[:-1] < -0.1)
    without = dataclasses.replace(found.policy, k=np.zeros_like(found.policy.k))
    best, more = (float(policy_cost(problem, policy).expected_cost) for policy in (found.policy, without))
    assert more > 1.04 * best
    # the gains without the noise's quadratic terms do worse still
    plain = solve(dataclasses.replace(problem, channels=None)).policy
    assert policy_cost(problem, plain).expected_cost > more


@pytest.mark.row("S137.rollouts")
def test_noise_aware_gains_against_rollouts():
    problem = random_problem(3, 2, 12, channels=2, noise=0.1, start=0.2, seed=6)
    aware = solve(problem)
    plain = solve(dataclasses.replace(problem, channels=None)).policy
    costs = simulate(problem, aware.policy, episodes=40_000, seed=0)
    assert abs(costs.mean() + aware.details.objective) < 4 * costs.std() / np.sqrt(costs.size)
    other = simulate(problem, plain, episodes=40_000, seed=0)
    gap = other - costs
    assert gap.mean() > 4 * gap.std() / np.sqrt(gap.size)


TIME = 0.05


def swing(x, u, t):
    """A pendulum in semi-implicit steps; the angle is from hanging."""
    import jax.numpy as jnp

    rate = x[1] + TIME * (u[0] - 9.81 * jnp.sin(x[0]))
    return jnp.stack([x[0] + TIME * rate, rate])


def balance(x, u, t):
    import jax.numpy as jnp

    return TIME * (10.0 * (1.0 + jnp.cos(x[0])) + 0.5 * x[1] ** 2 + 0.05 * u[0] ** 2)


def upright(x):
    return balance(x, np.zeros(1), 0) / TIME * 5.0


def real_cost(policy, noise, *, episodes, seed, horizon, start):
    """Of the pendulum itself."""
    random = np.random.default_rng(seed)
    x = np.tile(np.asarray(start, float), (episodes, 1))
    total = np.zeros(episodes)
    for t in range(horizon):
        K, k, _ = policy.at(t)
        u = x @ np.asarray(K).T + k
        total += TIME * (10 * (1 + np.cos(x[:, 0])) + 0.5 * x[:, 1] ** 2 + 0.05 * u[:, 0] ** 2)
        rate = x[:, 1] + TIME * (u[:, 0] - 9.81 * np.sin(x[:, 0]))
        x = np.stack([x[:, 0] + TIME * rate, rate + noise(x, u) * random.normal(size=episodes)], axis=1)
    return total + 5.0 * (10 * (1 + np.cos(x[:, 0])) + 0.5 * x[:, 1] ** 2)


@pytest.mark.row("S129.expansion")
def test_a_bad_expansion_point_misleads_and_costs():
    """Expanded where the pendulum hangs, gravity seems to help and falling over seems to cost nothing."""
    horizon, start = 60, [np.pi - 0.2, 0.0]
    costs = {}
    for name, angle in (("upright", np.pi), ("hanging", 0.0)):
        states = np.tile([angle, 0.0], (horizon + 1, 1))
        problem = LinearQuadratic.from_functions(
            swing, balance, states, np.zeros((horizon, 1)), final_cost=upright, initial_mean=start
        )
        policy = solve(problem).policy
        costs[name] = real_cost(policy, lambda x, u: 0.0, episodes=1, seed=0, horizon=horizon, start=start)[0]
        costs[f"{name}, as believed"] = -solve(problem).details.objective
    assert abs(costs["upright, as believed"] - costs["upright"]) < 0.01 * costs["upright"]
    assert costs["hanging"] > 50 * costs["upright"]
    # and its own forecast does not tell what happens
    assert abs(costs["hanging, as believed"] - costs["hanging"]) > 0.2 * costs["hanging"]


def expanded(scale):
    """The pendulum with noise of nonlinear size, expanded about the upright trajectory from a small angle."""
    horizon, start = 40, np.array([np.pi - 0.1, 0.0])

    def noise(x, u, t):
        import jax.numpy as jnp

        size = scale * (0.5 + 0.8 * jnp.sin(x[0] - np.pi) + 0.1 * jnp.tanh(u[0]))
        return jnp.stack([jnp.zeros_like(size), size])[:, None]

    def size(x, u):
        return scale * (0.5 + 0.8 * np.sin(x[:, 0] - np.pi) + 0.1 * np.tanh(u[:, 0]))

    states, controls = np.tile([np.pi, 0.0], (horizon + 1, 1)), np.zeros((horizon, 1))
    states[0] = start
    for _ in range(3):  # expand about the optimum of the last expansion
        problem = LinearQuadratic.from_functions(
            swing, balance, states, controls, final_cost=upright, noise=noise, initial_mean=start
        )
        found = solve(problem)
        controls = np.asarray(found.details.controls)
        states = [start]
        for u in controls:
            states.append(np.asarray(swing(states[-1], u, 0), np.float64))
        states = np.stack(states)
    return found, size, horizon, start


@pytest.mark.row("S137.nonlinear", "S137.rollouts")
def test_nonlinear_mean_and_deviation_expanded_about_a_trajectory():
    """The forecast of the expansion against rollouts of the true system; its error falls with the noise."""
    errors = []
    for scale in (0.4, 0.1):
        found, size, horizon, start = expanded(scale)
        costs = real_cost(found.policy, size, episodes=10_000, seed=1, horizon=horizon, start=start)
        errors.append(abs(costs.mean() + found.details.objective) / costs.mean())
        assert 4 * costs.std() / np.sqrt(costs.size) < 0.02 * costs.mean()
    assert errors[0] < 0.25
    assert errors[1] < 0.02


@pytest.mark.row("S138")
def test_other_laws_by_closing_moments_and_by_sampling():
    """Costs of a linear system see two moments of the noise and no more, so a law with those moments may stand for any
    other: Laplace noise of affine size. Where the size is not affine the closure is an approximation, and sampling
    finds the better gain."""
    problem = random_problem(2, 1, 6, channels=1, noise=0.0, start=0.0, seed=2)
    found = solve(problem)
    random = np.random.default_rng(0)
    episodes = 200_000
    stages = problem.stages()
    x, total = np.tile(problem.initial_mean, (episodes, 1)), np.zeros(episodes)
    for t in range(problem.horizon):
        A, B, c, _, Q, R, N, q, r, s = (np.asarray(part[t]) for part in stages[:10])
        u = x @ found.policy.K[t].T + found.policy.k[t]
        total += (
            0.5 * np.sum((x @ Q) * x, 1) + 0.5 * np.sum((u @ R) * u, 1) + np.sum((x @ N) * u, 1) + x @ q + u @ r + s
        )
        C, D, o = (np.asarray(getattr(stages.channels, part)[t, 0]) for part in ("state", "control", "offset"))
        heavy = random.laplace(scale=np.sqrt(0.5), size=(episodes, 1))
        x = x @ A.T + u @ B.T + c + (o + x @ C.T + u @ D.T) * heavy
    total += 0.5 * np.sum((x @ problem.Qf) * x, 1) + x @ problem.qf + problem.sf
    assert abs(total.mean() + found.details.objective) < 4 * total.std() / np.sqrt(episodes)

    # size 2 u^2 / (1 + u^2), times an exponential law: an expansion at u = 0 sees no noise at all
    def size(u):
        return 2.0 * u**2 / (1.0 + u**2)

    def sampled(gain, seed):
        draws = np.random.default_rng(seed).exponential(size=(8, 20_000)) - 1.0
        x, cost = np.full(20_000, 2.0), 0.0
        for noise in draws:
            u = gain * x
            cost = cost + 0.5 * x**2 + 0.05 * u**2
            x = x + u + size(u) * noise
        return cost + 0.5 * x**2

    blind = solve(LinearQuadratic(1.0, 1.0, 1.0, 0.1, criterion=FiniteHorizon(8), Qf=1.0)).policy.K[0, 0, 0]
    best = scipy.optimize.minimize_scalar(lambda gain: sampled(gain, 1).mean(), bounds=(-1.0, 0.0), method="bounded")
    assert best.x > blind + 0.2
    gap = sampled(blind, 2) - sampled(best.x, 2)
    assert gap.mean() > 4 * gap.std() / np.sqrt(gap.size)
