"""LQR against dense algebra: KKT systems, open loops, SciPy's Riccati equation, derivatives by autodiff."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from clauses import against
from compilations import counted_compilations
from linear_instances import dare, kkt, open_loop, positive, random_problem, riccati, simulate
from optimality import (
    LQR,
    AverageReward,
    Discounted,
    FiniteHorizon,
    LinearQuadratic,
    NoiseChannels,
    Result,
    SolverError,
    UntilTermination,
    ValueIteration,
    marginals,
    policy_cost,
    solve,
)
from optimality.planning.quadratic_forms import forms, value_form
from optimality.planning.riccati import sweep
from optimality.problems.controllability import IllConditionedWarning

SIZES = pytest.mark.parametrize(("n", "m", "horizon"), [(4, 2, 20), (12, 4, 50), (16, 9, 12)])


def traced(tree):
    """With JAX arrays, in whatever precision is on."""
    return jax.tree.map(jnp.asarray, tree)


def relative(actual, expected):
    expected = np.asarray(expected)
    return np.max(np.abs(np.asarray(actual) - expected)) / max(np.max(np.abs(expected)), 1e-300)


def ours(problem):
    """States, controls, costates and cost of the mean trajectory."""
    found = solve(dataclasses.replace(problem, W=None))
    details = found.details
    return details.states, details.controls, details.costates, -found.value(problem.initial_mean, 0)


def wrong(**mistake):
    def rolled(problem):
        found = riccati(dataclasses.replace(problem, W=np.zeros_like(problem.W)), **mistake)
        x, states, controls = problem.initial_mean, [problem.initial_mean], []
        for t in range(problem.horizon):
            controls.append(found["K"][t] @ x + found["k"][t])
            x = problem.drift(x, controls[-1], t)
            states.append(x)
        states = np.stack(states)
        costates = np.einsum("tij,tj->ti", found["P"], states) + found["p"]
        x = states[0]
        return states, np.stack(controls), costates, 0.5 * x @ found["P"][0] @ x + found["p"][0] @ x + found["s"][0]

    return rolled


@SIZES
@pytest.mark.parametrize("timed", [False, True], ids=["constant", "timed"])
@pytest.mark.row("S129.riccati")
@against(
    ours,
    without_half=wrong(without_half=True),
    forgets_cross=wrong(forgets_cross=True),
    forgets_drift=wrong(forgets_drift=True),
)
def test_trajectory_and_costates_solve_the_kkt_system(implementation, n, m, horizon, timed):
    problem = random_problem(n, m, horizon, seed=n, timed=timed)
    states, controls, multipliers = kkt(problem)
    found = implementation(problem)
    assert relative(found[0], states) < 1e-12
    assert relative(found[1], controls) < 1e-12
    assert relative(found[2], multipliers) < 1e-12


@pytest.mark.parametrize("timed", [False, True], ids=["constant", "timed"])
@pytest.mark.parametrize("n", [4, 28])
def test_the_reference_without_mistakes_agrees(n, timed):
    """The larger one is above the size from which each step assembles its own forms."""
    problem = random_problem(n, 2, 12, timed=timed, channels=2, criterion=FiniteHorizon(12, 0.9))
    found, reference = solve(problem), riccati(problem)
    for name in ("P", "p", "s", "Q_uu"):
        assert relative(getattr(found.details, name), reference[name]) < 1e-13
    assert relative(found.policy.K, reference["K"]) < 1e-13
    assert relative(found.policy.k, reference["k"]) < 1e-13
    assert relative(found.value.hessian, -reference["P"]) < 1e-13


@pytest.mark.parametrize("horizon", [1, 2, 3, 5, 20, 100])
@pytest.mark.row("S129.riccati", "S129.short_horizon", "E3.2")
@against(ours, undiscounted=wrong(undiscounted=True), without_half=wrong(without_half=True))
def test_no_open_loop_is_cheaper_at_any_horizon(implementation, horizon):
    for discount in (1.0, 0.93):
        problem = random_problem(3, 2, horizon, seed=horizon, criterion=FiniteHorizon(horizon, discount))
        controls, _, cost = open_loop(problem)
        found = implementation(problem)
        assert relative(found[1], controls) < 1e-9
        assert abs(found[3] - cost) < 1e-11 * abs(cost)


@pytest.mark.row("E3.2")
def test_only_the_stationary_gain_is_not_optimal_over_a_short_horizon():
    A, B, Q, R = np.array([[1.1, 0.4], [0.0, 0.9]]), np.array([[0.0], [1.0]]), np.eye(2), np.eye(1)
    endless = solve(LinearQuadratic(A, B, Q, R, criterion=AverageReward()))
    ratios = []
    for horizon in (1, 5, 100):
        problem = LinearQuadratic(A, B, Q, R, criterion=FiniteHorizon(horizon), initial_mean=[1.0, 1.0])
        best = -solve(problem).details.objective
        ratios.append(float(policy_cost(problem, endless.policy).expected_cost / best))
    assert ratios[0] > 1.3
    assert np.all(np.diff(ratios) <= 1e-9)
    assert ratios[-1] - 1.0 < 1e-6


@pytest.mark.parametrize("radius", [0.9, 1.02, 1.3])
@pytest.mark.parametrize(("n", "m"), [(4, 2), (12, 4), (50, 20)])
@pytest.mark.row("S129.limit")
def test_a_long_horizon_approaches_the_riccati_equation_of_scipy(n, m, radius):
    endless = random_problem(n, m, seed=n, radius=radius, criterion=AverageReward())
    expected = dare(endless)
    long = dataclasses.replace(endless, criterion=FiniteHorizon(2000))
    assert relative(solve(long).details.P[0], expected) < 1e-10
    doubled = solve(endless)
    assert relative(doubled.details.P, expected) < 1e-10
    assert doubled.details.spectral_radius < 1.0
    closed = endless.A + endless.B @ doubled.policy.K
    assert abs(np.abs(np.linalg.eigvals(closed)).max() - doubled.details.spectral_radius) < 1e-6
    single = solve(endless, dtype=np.float32)
    assert single.details.P.dtype == np.float32
    assert relative(single.details.P, expected) < 1e-4


def test_discounted_and_average_equations_in_every_term():
    discounted = random_problem(5, 2, seed=3, criterion=Discounted(0.9), start=0.3)
    found = solve(discounted)
    assert relative(found.details.P, dare(discounted)) < 1e-12
    long = dataclasses.replace(discounted, criterion=FiniteHorizon(600, 0.9))
    horizon = solve(long)
    assert relative(found.policy.k, horizon.policy.k[0]) < 1e-11
    assert relative(found.details.objective, horizon.details.objective) < 1e-11
    assert relative(policy_cost(discounted, found.policy).expected_cost, -horizon.details.objective) < 1e-11
    average = dataclasses.replace(discounted, criterion=AverageReward())
    found = solve(average)
    longer, shorter = (solve(dataclasses.replace(average, criterion=FiniteHorizon(T))) for T in (500, 400))
    assert relative(found.details.average_cost, (shorter.details.objective - longer.details.objective) / 100) < 1e-10
    assert relative(policy_cost(average, found.policy).expected_cost, found.details.average_cost) < 1e-11
    assert found.value(np.zeros(5)) == 0.0


def test_noise_channels_without_an_end():
    endless = random_problem(3, 2, seed=5, channels=2, radius=0.8, criterion=Discounted(0.95))
    found = solve(endless)
    long = solve(dataclasses.replace(endless, criterion=FiniteHorizon(800, 0.95)))
    assert relative(found.details.P, long.details.P[0]) < 1e-11
    assert relative(found.policy.k, long.policy.k[0]) < 1e-11
    assert relative(found.details.s, long.details.s[0]) < 1e-11
    loud = dataclasses.replace(endless, criterion=AverageReward(), channels=NoiseChannels(2.0 * np.eye(3)[None]))
    with pytest.raises(SolverError, match=r"spectral radius is .* in mean square"):
        solve(loud)


PARTS = ("A", "B", "c", "Q", "R", "N", "q", "r", "s", "Qf", "qf", "sf", "W", "initial_mean", "initial_covariance")


def outputs(problem):
    """Everything a user may differentiate, by the rule."""
    found = solve(problem, LQR())
    details = found.details
    return (
        found.policy.K,
        found.policy.k,
        details.P,
        details.p,
        details.s,
        details.Q_uu,
        details.objective,
        details.states,
        details.controls,
        details.costates,
    )


def unrolled(problem):
    """The same, written in JAX step by step, for autodiff."""
    steps = forms(problem.arrays())
    ends = value_form(*traced((problem.Qf, problem.qf, problem.sf)))
    n, z = steps.F.shape[-2:]
    T = problem.horizon
    keep = jnp.array([*range(n), z - 1])
    V, values, gains, curvature = ends, [ends], [], []
    for t in reversed(range(T)):
        F, C, W = (x[t] if x.ndim == 3 else x for x in (steps.F, steps.C, steps.W))
        whole = jnp.concatenate([F, jnp.eye(z)[-1:]])
        noise = jnp.zeros((n + 1, n + 1)).at[-1, -1].set(jnp.sum(V[:n, :n] * W))
        G = C + problem.discount * whole.T @ (V + noise) @ whole
        if steps.S is not None:
            S = steps.S[t] if steps.S.ndim == 4 else steps.S
            G = G + problem.discount * jnp.einsum("lia,ij,ljb->ab", S, V[:n, :n], S)
        Q_uu = G[n:-1, n:-1]
        gain = -jnp.linalg.solve(Q_uu, G[n:-1][:, keep])
        V = G[keep][:, keep] + G[keep][:, n:-1] @ gain
        V = (V + V.T) / 2
        values.append(V)
        gains.append(gain)
        curvature.append(Q_uu)
    V, gain, Q_uu = (jnp.stack(parts[::-1]) for parts in (values, gains, curvature))
    x, states, controls = problem.initial_mean, [problem.initial_mean], []
    for t in range(T):
        controls.append(gain[t, :, :n] @ x + gain[t, :, n])
        x = problem.drift(x, controls[-1], t)
        states.append(x)
    states, controls = jnp.stack(states), jnp.stack(controls)
    P, p, s = V[:, :n, :n], V[:, :n, n], V[:, n, n] / 2
    start = problem.initial_mean
    objective = -(0.5 * start @ P[0] @ start + p[0] @ start + s[0] + 0.5 * jnp.sum(P[0] * problem.initial_covariance))
    costates = jnp.einsum("tij,tj->ti", P, states) + p
    return gain[..., :n], gain[..., n], P, p, s, Q_uu, objective, states, controls, costates


def pulled_back(function, problem, seed):
    """Derivatives of a random linear function of the outputs, symmetrized where only that matters."""
    weights = [np.random.default_rng(seed).normal(size=np.shape(x)) for x in jax.eval_shape(function, problem)]

    def total(problem):
        return sum(jnp.sum(jnp.asarray(w) * x) for w, x in zip(weights, function(problem), strict=True))

    gradient = jax.jit(jax.grad(total))(problem)
    parts = {name: getattr(gradient, name) for name in PARTS}
    if problem.channels is not None:
        parts |= {name: getattr(gradient.channels, name) for name in ("state", "control", "offset")}
    parts["discount"] = gradient.criterion.discount
    for name in ("Q", "R", "Qf", "W", "initial_covariance"):
        parts[name] = (parts[name] + jnp.swapaxes(parts[name], -1, -2)) / 2
    return parts


@pytest.mark.parametrize(
    ("timed", "channels"), [(False, 0), (True, 0), (True, 2)], ids=["constant", "timed", "timed-channels"]
)
def test_the_derivative_rule_equals_autodiff_in_every_input(timed, channels):
    problem = random_problem(4, 2, 4, timed=timed, channels=channels, start=0.2, criterion=FiniteHorizon(4, 0.96))
    with jax.enable_x64(True):
        problem = traced(problem)
        by_rule, by_autodiff = pulled_back(outputs, problem, 0), pulled_back(unrolled, problem, 0)
        for name, expected in by_autodiff.items():
            assert np.any(np.asarray(expected) != 0.0), name
            assert relative(by_rule[name], expected) < 1e-11, name
        single = jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), problem)
    with jax.enable_x64(False):
        for name, value in pulled_back(outputs, single, 0).items():
            assert value.dtype == jnp.float32
            assert relative(value, by_autodiff[name]) < 1e-4, name


def test_second_derivatives_and_forward_mode():
    problem = random_problem(3, 1, 3, start=0.1)

    def objective(A):
        return solve(dataclasses.replace(problem, A=A), LQR()).details.objective

    def plain(A):
        return unrolled(dataclasses.replace(traced(problem), A=A))[6]

    with jax.enable_x64(True):
        A = jnp.asarray(problem.A)
        assert relative(jax.jit(jax.jacfwd(objective))(A), jax.jit(jax.grad(plain))(A)) < 1e-12
        assert relative(jax.jit(jax.hessian(objective))(A), jax.jit(jax.hessian(plain))(A)) < 1e-11


def test_second_derivatives_of_the_trajectory():
    """Its rule takes the gains for constant, so theirs must come in where the rule is differentiated."""
    problem = random_problem(3, 1, 3, criterion=FiniteHorizon(3, 0.9))

    def total(states, controls):
        return jnp.sum(jnp.sin(states)) + jnp.sum(jnp.cos(controls))

    def ours(A, R):
        details = solve(dataclasses.replace(problem, A=A, R=R), LQR()).details
        return total(details.states, details.controls)

    def plain(A, R):
        return total(*unrolled(dataclasses.replace(traced(problem), A=A, R=R))[7:9])

    with jax.enable_x64(True):
        at = jnp.asarray(problem.A), jnp.asarray(problem.R)
        first, second = (jax.jit(jax.jacfwd(f, argnums=(0, 1)))(*at) for f in (ours, plain))
        assert max(map(relative, first, second)) < 1e-12
        first, second = (jax.tree.leaves(jax.jit(jax.hessian(f, argnums=(0, 1)))(*at)) for f in (ours, plain))
        assert max(map(relative, first, second)) < 1e-11


cost_slope = jax.jit(jax.grad(lambda problem: -solve(problem, LQR()).details.objective))


def test_envelope_theorem():
    problem = random_problem(4, 2, 15, seed=2)
    found = solve(problem).details
    with jax.enable_x64(True):
        gradient = cost_slope(traced(problem))
    x, u, costate = found.states, found.controls, found.costates
    assert relative(gradient.initial_mean, found.P[0] @ x[0] + found.p[0]) < 1e-12
    # the mean's part; noise adds covariances, so it is switched off
    quiet = dataclasses.replace(problem, W=None)
    with jax.enable_x64(True):
        gradient = cost_slope(traced(quiet))
    assert relative(gradient.A, np.einsum("ti,tj->ij", costate[1:], x[:-1])) < 1e-12
    assert relative(gradient.B, np.einsum("ti,tj->ij", costate[1:], u)) < 1e-12
    assert relative(gradient.c, costate[1:].sum(0)) < 1e-12
    assert relative(gradient.Q, 0.5 * np.einsum("ti,tj->ij", x[:-1], x[:-1])) < 1e-12
    assert relative(gradient.N, np.einsum("ti,tj->ij", x[:-1], u)) < 1e-12
    assert relative(gradient.Qf, 0.5 * np.outer(x[-1], x[-1])) < 1e-12
    assert relative(gradient.r, u.sum(0)) < 1e-12


@pytest.mark.parametrize("channels", [0, 1])
@pytest.mark.parametrize("criterion", [AverageReward(), Discounted(0.9)], ids=["average", "discounted"])
def test_derivatives_of_the_endless_solution_equal_finite_differences(criterion, channels):
    problem = random_problem(3, 2, seed=1, radius=0.9, channels=channels, criterion=criterion)
    random = np.random.default_rng(0)

    def value(problem):
        found = solve(problem, LQR())
        details = found.details
        return (details.P, details.p, details.s, details.objective, found.policy.K, found.policy.k)

    weights = [random.normal(size=np.shape(x)) for x in value(problem)]

    def total(problem):
        return sum(
            (jnp if isinstance(x, jax.Array) else np).sum(w * x) for w, x in zip(weights, value(problem), strict=True)
        )

    with jax.enable_x64(True):
        gradient = jax.jit(jax.grad(total))(traced(problem))
    for name in ("A", "B", "c", "Q", "R", "N", "q", "r", "s", "W"):
        at = getattr(problem, name)
        step = random.normal(size=np.shape(at))
        if name in ("Q", "R", "W"):
            step = step @ step.T
        ahead, behind = (total(dataclasses.replace(problem, **{name: at + h * step})) for h in (1e-5, -1e-5))
        slope = float(np.sum(np.asarray(getattr(gradient, name)) * step))
        assert abs(slope - (ahead - behind) / 2e-5) < 1e-6 * (1.0 + abs(slope)), name


def test_float32_conditioning_stays_symmetric_and_positive():
    time, n = 0.005, 4
    A = np.eye(n) + time * np.eye(n, k=2)
    B = time * np.eye(n)[:, 2:]
    problem = LinearQuadratic(A, B, np.eye(n), 1e-6 * np.eye(2), criterion=FiniteHorizon(400), Qf=1e6 * np.eye(n))
    double, single = solve(problem).details.P, solve(problem, dtype=np.float32).details.P
    assert relative(single[0], double[0]) < 1e-4
    assert np.array_equal(single, np.swapaxes(single, -1, -2))
    assert np.linalg.eigvalsh(np.asarray(single, np.float64)).min() > 0.0


def test_units_and_shaping():
    problem = random_problem(4, 2, 10, seed=4)
    found = solve(problem)
    scaled = {name: 3.0 * getattr(problem, name) for name in ("Q", "R", "N", "q", "r", "s", "Qf", "qf", "sf")}
    more = solve(dataclasses.replace(problem, **scaled))
    assert relative(more.policy.K, found.policy.K) < 1e-13
    assert relative(more.details.P, 3.0 * found.details.P) < 1e-13
    potential = positive(np.random.default_rng(0), 4)
    A, B = problem.A, problem.B
    shaped = dataclasses.replace(
        problem,
        Q=problem.Q + A.T @ potential @ A - potential,
        R=problem.R + B.T @ potential @ B,
        N=problem.N + A.T @ potential @ B,
        q=problem.q + A.T @ potential @ problem.c,
        r=problem.r + B.T @ potential @ problem.c,
        Qf=problem.Qf - potential,
    )
    assert relative(solve(shaped).policy.K, found.policy.K) < 1e-12
    assert relative(solve(shaped).policy.k, found.policy.k) < 1e-12


def test_batches_are_loops_and_never_raise():
    scales = np.array([0.5, 1.0, -40.0])
    problem = random_problem(3, 1, 6, start=0.1)
    with jax.enable_x64(True):
        found = jax.vmap(lambda scale: solve(dataclasses.replace(problem, R=scale * jnp.asarray(problem.R)), LQR()))(
            scales
        )
    for i in (0, 1):
        alone = solve(dataclasses.replace(problem, R=scales[i] * problem.R))
        assert relative(found.policy.K[i], alone.policy.K) < 1e-14
        assert found.result[i] == Result.CONVERGED
    assert found.result[2] == Result.NOT_POSITIVE_DEFINITE
    assert found.stats["indefinite_step"][2] == 5


def test_numbers_compile_nothing():
    solve(random_problem(4, 2, 9, seed=0))
    with counted_compilations() as compilations:
        solve(random_problem(4, 2, 9, seed=1))
    assert compilations.count == 0


def test_constant_arrays_and_one_a_step_are_the_same():
    problem = random_problem(3, 2, 5, start=0.1)
    stages = problem.stages()
    assert stages.A.strides[0] == 0
    names = ("A", "B", "c", "W", "Q", "R", "N", "q", "r", "s")
    timed = dataclasses.replace(problem, **{name: np.array(getattr(stages, name)) for name in names})
    assert timed.depends_on_time
    assert not problem.depends_on_time
    assert relative(solve(timed).policy.K, solve(problem).policy.K) < 1e-14


@pytest.mark.row("E3.3.definite")
def test_an_indefinite_step_is_named():
    R = np.ones((6, 1, 1))
    R[2] = -5.0
    problem = LinearQuadratic(0.5, 1.0, 1.0, R, criterion=FiniteHorizon(6))
    with pytest.raises(SolverError, match=r"Q_uu = R \+ B'PB has the eigenvalue -3.* at step 2") as caught:
        solve(problem)
    assert caught.value.result == Result.NOT_POSITIVE_DEFINITE
    found = solve(problem, throw=False)
    assert np.all(np.isfinite(found.policy.K[3:]))
    assert np.all(np.isnan(found.policy.K[:3]))
    # a concave cost of the control is no harm where the future makes up for it
    assert solve(LinearQuadratic(0.5, 1.0, 1.0, -0.5, criterion=FiniteHorizon(1), Qf=1.0)).result.is_success


@pytest.mark.row("E3.3.finite")
def test_a_finite_horizon_needs_no_stabilizability():
    costs = []
    for horizon in (2, 5, 20):
        problem = LinearQuadratic(
            np.diag([1.2, 0.5]),
            [[0.0], [1.0]],
            np.eye(2),
            1.0,
            criterion=FiniteHorizon(horizon),
            initial_mean=[1.0, 1.0],
        )
        controls, _, cost = open_loop(problem)
        found = solve(problem)
        assert relative(found.details.controls, controls) < 1e-9
        costs.append(cost)
    assert costs[2] > 100 * costs[0]
    with pytest.raises(ValueError, match=r"mode 1\.2.*finite horizon"):
        solve(dataclasses.replace(problem, criterion=AverageReward()))


@pytest.mark.row("S129.stabilizable", "E3.3.stabilizable")
def test_stabilizable_is_enough_without_an_end():
    problem = LinearQuadratic(np.diag([1.2, 0.5]), [[1.0], [0.0]], np.eye(2), 1.0, criterion=AverageReward())
    found = solve(problem)
    assert relative(found.details.P, dare(problem)) < 1e-12
    assert found.details.residual < 1e-14
    with pytest.warns(IllConditionedWarning, match="margin"):
        solve(
            LinearQuadratic(np.diag([1.5, 0.5]), [[1e-9], [1.0]], np.eye(2), 1.0, criterion=AverageReward()),
            throw=False,
        )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"R": np.zeros((1, 1))}, "R must be positive definite without a horizon"),
        ({"R": np.array([[-1.0]])}, "smallest eigenvalue is -1"),
        ({"Q": np.diag([1.0, -0.1])}, "cost must be convex without a horizon"),
        ({"Q": np.zeros((2, 2)), "A": np.diag([1.5, 0.5])}, "1.5"),
        ({"criterion": UntilTermination()}, "takes the criteria FiniteHorizon, Discounted, AverageReward"),
    ],
)
def test_what_has_no_answer_is_refused_before_anything_compiles(change, message):
    fields = {"A": np.eye(2), "B": np.ones((2, 1)), "Q": np.eye(2), "R": np.eye(1), "criterion": Discounted(0.9)}
    with counted_compilations() as compilations, pytest.raises(ValueError, match=message):
        solve(LinearQuadratic(**{**fields, **change}), LQR())
    assert compilations.count == 0


def test_wrong_pairs_of_problem_and_method():
    problem = random_problem(2, 1, 3)
    with pytest.raises(ValueError, match="solves a TabularMDP, but a LinearQuadratic"):
        solve(problem, ValueIteration())
    with pytest.raises(ValueError, match="horizon must be a whole number"):
        LinearQuadratic(1.0, 1.0, 1.0, 1.0, criterion=FiniteHorizon(0))


@pytest.mark.parametrize("channels", [0, 2])
def test_marginals_and_cost_of_any_policy_against_episodes(channels):
    problem = random_problem(3, 2, 8, timed=True, channels=channels, start=0.3, criterion=FiniteHorizon(8, 0.9))
    found = solve(problem)
    K = found.policy.K + 0.1 * np.random.default_rng(1).normal(size=found.policy.K.shape)
    policy = dataclasses.replace(found.policy, K=K, covariance=0.2 * np.tile(np.eye(2), (8, 1, 1)))
    costs = simulate(problem, policy, episodes=200_000, seed=0)
    exact = marginals(problem, policy)
    assert abs(costs.mean() - exact.expected_cost) < 4 * costs.std() / np.sqrt(costs.size)
    assert relative(policy_cost(problem, policy).expected_cost, exact.expected_cost) < 1e-12
    assert exact.expected_cost > -found.details.objective
    best = marginals(problem, found.policy)
    assert relative(best.expected_cost, -found.details.objective) < 1e-12
    if not channels:
        quiet = marginals(dataclasses.replace(problem, W=None, initial_covariance=None), found.policy)
        assert relative(quiet.mean, found.details.states) < 1e-12


def test_the_gradient_of_the_exact_cost_is_zero_at_the_optimum():
    problem = random_problem(3, 2, 6, channels=1, start=0.5)
    policy = solve(problem).policy
    with jax.enable_x64(True):
        for cost in (policy_cost, marginals):
            slope = jax.jit(jax.grad(lambda policy, cost=cost: cost(problem, policy).expected_cost))
            gradient = slope(traced(policy))
            assert np.max(np.abs(gradient.K)) < 1e-11
            assert np.max(np.abs(gradient.k)) < 1e-11


@pytest.mark.parametrize("size", [3, 14])
def test_small_and_large_matrices_take_the_same_steps(size):
    """Both sides of the choice in `small_matrices`, in single precision too."""
    problem = random_problem(size, 2, 30, seed=7)
    found = solve(problem, dtype=np.float32)
    assert relative(found.policy.K, riccati(problem)["K"]) < 1e-5
    with jax.enable_x64(True):
        swept = jax.jit(lambda problem: sweep(problem, None, None))(traced(problem))
    assert relative(swept.K, riccati(problem)["K"]) < 1e-12
