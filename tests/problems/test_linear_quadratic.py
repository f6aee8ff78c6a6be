"""Where linear-quadratic problems come from, and what is refused."""

import dataclasses
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.integrate
import scipy.signal

from clauses import against
from linear_instances import open_loop, positive, random_problem
from optimality import AverageReward, Discounted, FiniteHorizon, LinearQuadratic, NoiseChannels, policy_cost, solve
from optimality.problems.sampled_data import from_continuous


def close(actual, expected, tolerance=1e-12):
    np.testing.assert_allclose(np.asarray(actual), np.asarray(expected), rtol=tolerance, atol=tolerance)


def test_stationary_chooses_the_criterion_and_copies_nothing():
    A, B, Q, R = np.eye(2), np.ones((2, 1)), np.eye(2), np.eye(1)
    assert LinearQuadratic.stationary(A, B, Q, R, horizon=7).criterion.horizon == 7
    assert isinstance(LinearQuadratic.stationary(A, B, Q, R).criterion, AverageReward)
    assert LinearQuadratic.stationary(A, B, Q, R, discount=0.9).criterion.discount == 0.9
    views = LinearQuadratic.stationary(A, B, Q, R, horizon=1000).stages()
    assert views.A.shape == (1000, 2, 2)
    assert views.A.base is not None
    assert views.A.strides[0] == 0


def test_tracking_costs_are_distances_to_the_reference():
    random = np.random.default_rng(0)
    A, B, Q, R = 0.3 * random.normal(size=(3, 3)), random.normal(size=(3, 2)), positive(random, 3), positive(random, 2)
    states, controls = random.normal(size=(6, 3)), random.normal(size=(5, 2))
    problem = LinearQuadratic.tracking(A, B, Q, R, states, controls, Qf=2 * Q, initial_mean=random.normal(size=3))
    for t in range(5):
        x, u = random.normal(size=3), random.normal(size=2)
        dx, du = x - states[t], u - controls[t]
        close(problem.stage_cost(x, u, t), 0.5 * dx @ Q @ dx + 0.5 * du @ R @ du)
    close(problem.terminal_cost(x), (x - states[5]) @ Q @ (x - states[5]))
    # what is dynamically possible is followed at no cost
    free = [np.zeros(3)]
    for u in controls:
        free.append(A @ free[-1] + B @ u)
    followed = LinearQuadratic.tracking(A, B, Q, R, np.stack(free), controls)
    found = solve(followed)
    close(found.details.controls, controls, 1e-10)
    assert abs(found.details.objective) < 1e-12
    with pytest.raises(ValueError, match=r"states has shape \(1, 3\)"):
        LinearQuadratic.tracking(A, B, Q, R, states[0])
    with pytest.raises(ValueError, match=r"controls has shape"):
        LinearQuadratic.tracking(A, B, Q, R, states, controls[:-1])


def test_quadratic_forms_and_rewards():
    problem = random_problem(3, 2, 4)
    F = np.concatenate([problem.A, problem.B], axis=1)
    C = np.block([[problem.Q, problem.N], [problem.N.T, problem.R]])
    linear = np.concatenate([problem.q, problem.r])
    ends = {name: getattr(problem, name) for name in ("s", "Qf", "qf", "sf", "initial_mean")}
    formed = LinearQuadratic.from_quadratic_forms(F, problem.c, C, linear, criterion=problem.criterion, **ends)
    rewarded = LinearQuadratic.from_rewards(
        problem.A,
        problem.B,
        criterion=problem.criterion,
        R_xx=-problem.Q,
        R_uu=-problem.R,
        R_xu=-problem.N,
        r_x=-problem.q,
        r_u=-problem.r,
        r_0=-problem.s,
        terminal_xx=-problem.Qf,
        terminal_x=-problem.qf,
        terminal_0=-problem.sf,
        c=problem.c,
        initial_mean=problem.initial_mean,
    )
    cost = open_loop(problem)[2]
    for other in (formed, rewarded):
        assert abs(open_loop(other)[2] - cost) < 1e-12 * abs(cost)
    with pytest.raises(ValueError, match="C must be symmetric"):
        LinearQuadratic.from_quadratic_forms(F, problem.c, C + np.eye(5, k=1), linear, criterion=problem.criterion)


def half_noise(F, G, Q, R, **options):
    return from_continuous(F, G, Q, R, **{**options, "noise": 0.5 * options["noise"]})


def euler(F, G, Q, R, *, time_step, criterion, noise, N, q, r, s, drift):
    h = time_step
    return LinearQuadratic(
        np.eye(len(F)) + h * F,
        h * G,
        h * Q,
        h * R,
        criterion=criterion,
        c=h * drift,
        N=h * N,
        q=h * q,
        r=h * r,
        s=h * s,
        W=h * noise,
    )


@against(from_continuous, half_noise=half_noise, euler=euler)
def test_sampled_continuous_time_against_integration(implementation):
    random = np.random.default_rng(4)
    n, m, h = 3, 2, 0.3
    F, G = random.normal(size=(n, n)), random.normal(size=(n, m))
    C = positive(random, n + m)
    noise, drift = positive(random, n), random.normal(size=n)
    q, r, s = random.normal(size=n), random.normal(size=m), 0.4
    parts = {"Q": C[:n, :n], "R": C[n:, n:], "N": C[:n, n:], "q": q, "r": r, "s": s, "drift": drift, "noise": noise}
    held = implementation(F, G, time_step=h, criterion=FiniteHorizon(5), **parts)
    x, u = random.normal(size=n), random.normal(size=m)

    def flow(_, state):
        y, W = state[:n], state[n : n + n * n].reshape(n, n)
        z = np.concatenate([y, u])
        cost = 0.5 * z @ C @ z + q @ y + r @ u + s + 0.5 * np.sum(C[:n, :n] * W)
        return np.concatenate([F @ y + G @ u + drift, (F @ W + W @ F.T + noise).ravel(), [cost]])

    start = np.concatenate([x, np.zeros(n * n + 1)])
    end = scipy.integrate.solve_ivp(flow, (0.0, h), start, method="DOP853", rtol=1e-12, atol=1e-13).y[:, -1]
    close(held.drift(x, u), end[:n], 1e-10)
    close(held.W, end[n:-1].reshape(n, n), 1e-10)
    close(held.stage_cost(x, u), end[-1], 1e-10)


def test_systems_of_other_libraries():
    F, G = np.array([[0.0, 1.0], [-2.0, -0.3]]), np.array([[0.0], [1.0]])
    C, D = np.eye(2), np.zeros((2, 1))
    Q, R = np.eye(2), np.eye(1)
    continuous = scipy.signal.StateSpace(F, G, C, D)
    held = LinearQuadratic.from_system(continuous, Q, R, time_step=0.1, criterion=AverageReward())
    discrete = continuous.to_discrete(0.1)
    close(held.A, discrete.A)
    close(held.B, discrete.B)
    stepped = LinearQuadratic.from_system(discrete, Q, R, criterion=AverageReward())
    close(stepped.A, discrete.A)
    close(stepped.Q, Q)
    transfer = scipy.signal.TransferFunction([1.0], [1.0, 0.3, 2.0])
    assert LinearQuadratic.from_system(transfer, Q, R, time_step=0.1, criterion=AverageReward()).shape == (2, 1)
    foreign = type("StateSpace", (), {"__module__": "control.statesp", "A": F, "B": G, "dt": 0})
    close(LinearQuadratic.from_system(foreign(), Q, R, time_step=0.1, criterion=AverageReward()).A, discrete.A)
    with pytest.raises(ValueError, match="in continuous time: give time_step"):
        LinearQuadratic.from_system(continuous, Q, R, criterion=AverageReward())
    with pytest.raises(ValueError, match=r"own time step is 0\.1, but 0\.2"):
        LinearQuadratic.from_system(discrete, Q, R, time_step=0.2, criterion=AverageReward())
    foreign.dt = None
    with pytest.raises(ValueError, match="dt is not set"):
        LinearQuadratic.from_system(foreign(), Q, R, criterion=AverageReward())
    with pytest.raises(ValueError, match="must have A, B and dt"):
        LinearQuadratic.from_system(types.SimpleNamespace(A=F), Q, R, criterion=AverageReward())
    with pytest.raises(ValueError, match="time_step must be positive"):
        LinearQuadratic.from_continuous(F, G, Q, R, time_step=0.0, criterion=AverageReward())


def test_drakes_and_python_controls_double_integrator():
    """`K = [0.917, 1.6821]` at a step of 0.1, in all four libraries that were asked."""
    problem = LinearQuadratic([[1.0, 0.1], [0.0, 1.0]], [[0.0], [0.1]], np.eye(2), 1.0, criterion=AverageReward())
    policy = solve(problem).policy
    close(policy.gain_matlab, [[0.917, 1.6821]], 5e-5)


def test_expansion_of_what_is_linear_quadratic_is_exact():
    problem = random_problem(3, 2, 5, channels=2, seed=8)
    stages = jax.tree.map(jnp.asarray, problem.stages())
    random = np.random.default_rng(0)

    def dynamics(x, u, t):
        return stages.A[t] @ x + stages.B[t] @ u + stages.c[t]

    def cost(x, u, t):
        quadratic = 0.5 * x @ stages.Q[t] @ x + 0.5 * u @ stages.R[t] @ u + x @ stages.N[t] @ u
        return quadratic + stages.q[t] @ x + stages.r[t] @ u + stages.s[t]

    def noise(x, u, t):
        parts = stages.channels
        return (parts.offset[t] + parts.state[t] @ x + parts.control[t] @ u).T

    with jax.enable_x64(True):
        stages = jax.tree.map(jnp.asarray, problem.stages())
        found = LinearQuadratic.from_functions(
            dynamics,
            cost,
            random.normal(size=(6, 3)),
            random.normal(size=(5, 2)),
            final_cost=problem.terminal_cost,
            noise=noise,
            convex=False,
            W=problem.W,
            initial_mean=problem.initial_mean,
        )
    for name in ("A", "B", "c", "Q", "R", "N", "q", "r", "s"):
        close(getattr(found, name), getattr(problem.stages(), name), 1e-10)
    for name in ("Qf", "qf", "sf"):
        close(getattr(found, name), getattr(problem, name), 1e-10)
    close(solve(found).policy.k, solve(problem).policy.k, 1e-10)


def curved(x, u, t):
    return jnp.cos(x[0]) + 3.0 * x[0] * u[0] + u[0] ** 2 + 0.1 * x[1] ** 2


def projected(problem):
    return problem


def only_Q(problem):
    """What raising the eigenvalues of Q alone would give."""
    (values, vectors) = np.linalg.eigh([[-1.0, 0.0], [0.0, 0.2]])
    Q = (vectors * np.maximum(values, 0.0)) @ vectors.T
    return dataclasses.replace(problem, Q=np.tile(Q, (4, 1, 1)))


@against(projected, only_Q=only_Q)
def test_projection_makes_the_whole_cost_convex(implementation):
    found = LinearQuadratic.from_functions(
        lambda x, u, t: x + u[0], curved, np.zeros((5, 2)), np.zeros((4, 1)), final_cost=lambda x: -jnp.sum(x**2)
    )
    problem = implementation(found)
    for t in range(4):
        whole = np.block([[problem.Q[t], problem.N[t]], [problem.N[t].T, problem.R[t]]])
        assert np.linalg.eigvalsh(whole)[0] > -1e-10
    assert np.linalg.eigvalsh(problem.Qf)[0] > -1e-12
    close(problem.stage_cost(np.zeros(2), np.zeros(1), 1), 1.0)


def test_expansions_that_fail_say_where():
    states, controls = np.zeros((5, 2)), np.zeros((4, 1))
    with pytest.raises(ValueError, match=r"not finite: .* at step 0"):
        LinearQuadratic.from_functions(lambda x, u, t: x / x[0], curved, states, controls)
    with pytest.raises(ValueError, match="states and controls have shapes"):
        LinearQuadratic.from_functions(lambda x, u, t: x, curved, states, np.zeros((5, 1)))
    with pytest.raises(ValueError, match="dynamics returned shape"):
        LinearQuadratic.from_functions(lambda x, u, t: x[:1], curved, states, controls)
    with pytest.raises(ValueError, match="cost must return a number"):
        LinearQuadratic.from_functions(lambda x, u, t: x, lambda x, u, t: x, states, controls)


FIELDS = {"A": np.eye(2), "B": np.ones((2, 1)), "Q": np.eye(2), "R": np.eye(1), "criterion": FiniteHorizon(4)}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"A": np.zeros((3, 2, 2))}, r"A has shape \(3, 2, 2\), but needs \(2, 2\), or \(4, 2, 2\) for one a step"),
        ({"q": np.zeros(3)}, r"q has shape \(3,\)"),
        ({"Qf": np.zeros((4, 2, 2))}, r"Qf has shape"),
        ({"R": np.full((4, 1, 1), np.nan)}, r"R at \(0, 0, 0\) is nan"),
        ({"Q": np.tile([[1.0, 0.3], [0.1, 1.0]], (4, 1, 1))}, r"Q must be symmetric, but at step 0"),
        ({"channels": NoiseChannels()}, "NoiseChannels has no arrays"),
        ({"channels": NoiseChannels(np.zeros((2, 3, 3)))}, r"channels\.state has shape"),
        ({"criterion": Discounted(0.9), "Qf": np.eye(2)}, "Qf is the cost of the last state"),
        ({"criterion": Discounted(0.9), "A": np.zeros((4, 2, 2))}, r"A has shape \(4, 2, 2\), but needs \(2, 2\)"),
        ({"state_names": ("one",)}, "state_names needs 2 names"),
        ({"W": np.tile(np.diag([1.0, -1.0]), (4, 1, 1))}, "W must be positive semidefinite"),
    ],
)
def test_what_is_wrong_is_said(change, message):
    with pytest.raises(ValueError, match=message):
        LinearQuadratic(**{**FIELDS, **change})


def test_a_policy_of_another_size_is_refused():
    problem = LinearQuadratic(**FIELDS)
    policy = solve(dataclasses.replace(problem, criterion=FiniteHorizon(3))).policy
    with pytest.raises(ValueError, match="gains for each of 3 steps"):
        policy_cost(problem, policy)
    with pytest.raises(ValueError, match="2 states and 1 controls, but the problem has 3"):
        policy_cost(random_problem(3, 1, 3), policy)
