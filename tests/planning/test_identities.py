"""What must hold between values, policies, occupancies and derivatives, whatever the numbers (M1 to M12)."""

import dataclasses
import functools

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from enumeration import deterministic_instance, exact_messages, plain_instance, random_instance, trajectories
from instances import close, evaluate, problem, solution
from optimality import (
    AverageReward,
    DeterministicPlanning,
    Discounted,
    ExactInference,
    FiniteHorizon,
    PolicyEvaluation,
    PolicyIteration,
    SoftValueIteration,
    SolverError,
    TabularMDP,
    UnderPolicy,
    ValueIteration,
    VariationalInference,
    random_mdp,
    solve,
)
from optimality.core.solve import _run_compiled

TAU = 0.6
SOFT = SoftValueIteration(temperature=TAU)


@functools.cache
def criterion_problem(kind):
    """Finite horizon with discount 1 or 0.9, or discounted."""
    instance = random_instance()
    if kind != "discounted":
        return problem(random_instance(kind))
    return dataclasses.replace(problem(instance), criterion=Discounted(0.9))


def first_value(mdp, method, reward):
    value = solve(eqx.tree_at(lambda m: m.reward, mdp, reward), method).value
    return jnp.asarray(mdp.initial) @ (value[0] if value.ndim == 2 else value)


@functools.cache
def derivatives(kind):
    """Gradient and Hessian of the expected first value by the reward, and central differences."""
    mdp = criterion_problem(kind)
    with jax.enable_x64(True):
        reward = jnp.asarray(mdp.reward)
        value = jax.jit(functools.partial(first_value, mdp, SOFT))
        gradient = jax.grad(value)
        direction = np.random.default_rng(0).normal(size=reward.shape)
        difference = (value(reward + 1e-5 * direction) - value(reward - 1e-5 * direction)) / 2e-5
        hessian = jax.jit(jax.jacrev(gradient))(reward)
        return np.asarray(jax.jit(gradient)(reward)), np.asarray(hessian), float(difference), direction


KINDS = pytest.mark.parametrize("kind", [1.0, 0.9, "discounted"])


@KINDS
def test_gradient_by_the_reward_is_the_occupancy(kind):
    gradient, _, difference, direction = derivatives(kind)
    mdp = criterion_problem(kind)
    found = solve(mdp, SOFT)
    occupancy = evaluate(mdp, found.policy.log_probabilities).details.occupancy
    close(
        gradient, occupancy.sum(axis=0) if occupancy.ndim == 3 else occupancy, 1e-10 if kind == "discounted" else 1e-12
    )
    close(np.sum(gradient * direction), difference, 1e-8)


@KINDS
def test_jacobian_of_the_occupancy_is_symmetric_and_positive(kind):
    _, hessian, _, _ = derivatives(kind)
    matrix = hessian.reshape(6, 6)
    close(matrix, matrix.T, 1e-10)
    assert np.linalg.eigvalsh(matrix).min() > -1e-10
    assert np.abs(matrix).max() > 1e-2


def test_deterministic_causal_value_is_the_log_sum_over_trajectories():
    world = trajectories(deterministic_instance(), "none")
    soft = solution(deterministic_instance(), SoftValueIteration(temperature=1.0))
    exact = solution(deterministic_instance(), ExactInference(temperature=1.0, prior="none"))
    close(soft.value[0, 0], world.log_evidence(1.0))
    close(soft.value, exact.value)


def test_trajectory_likelihood_exceeds_the_causal_value():
    instance = plain_instance()
    exact = solution(instance, ExactInference(temperature=1.0, prior="none")).value
    causal = solution(instance, SoftValueIteration(temperature=1.0)).value
    close(exact, exact_messages(instance, 1.0, "none")[0])
    assert (exact >= causal - 1e-13).all()
    assert (exact[:-1] - causal[:-1]).min() > 1e-3


@pytest.mark.parametrize("discount", [1.0, 0.8])
def test_potential_shaping(discount):
    """A potential changes no policy, and shifts the value; what terminated has potential zero."""
    instance = random_instance(discount)
    potential = np.array([0.7, -1.2, 0.4])
    shaped = instance.with_rewards(
        lambda r, row: float(r + discount * (0.0 if row[5] else potential[row[2]]) - potential[row[0]])
    ).but(terminal=instance.terminal - potential)
    before, after = solution(instance, SOFT), solution(shaped, SOFT)
    close(after.policy.probabilities, before.policy.probabilities)
    close(after.value, before.value - potential)


def test_scale_shift_and_limit_of_the_temperature():
    instance = plain_instance()
    found = solution(instance, SOFT)
    scaled = solution(instance.with_rewards(lambda r, row: r / TAU), SoftValueIteration(temperature=1.0))
    close(found.value, TAU * scaled.value)
    shifted = solution(instance.with_rewards(lambda r, row: r + 2.5), SOFT)
    close(shifted.policy.probabilities, found.policy.probabilities)
    hard, cold = solution(instance, ValueIteration()), solution(instance, SoftValueIteration(temperature=1e-6))
    close(cold.value, hard.value, 1e-5)
    close(cold.policy.probabilities, hard.policy.probabilities)


def test_large_rewards_and_long_horizons_stay_finite():
    mdp = random_mdp(100, 2, 3, termination=0.01, criterion=FiniteHorizon(500))
    mdp = dataclasses.replace(mdp, reward=np.where(mdp.reward > 0.5, 50.0, -50.0))
    for method in (SoftValueIteration(temperature=1.0), ExactInference(), VariationalInference(), ValueIteration()):
        found = solve(mdp, method)
        assert np.isfinite(found.value).all()
        assert not np.isnan(found.policy.log_probabilities).any()
        close(found.policy.probabilities.sum(axis=-1), np.ones((500, 100)), 1e-9)
    for array in jax.tree.leaves(solve(mdp, ExactInference()).details):
        assert not np.isnan(array).any()
    with jax.enable_x64(True):
        gradient = jax.jit(jax.grad(functools.partial(first_value, mdp, ExactInference())))(jnp.asarray(mdp.reward))
        assert np.isfinite(gradient).all()
    discounted = dataclasses.replace(mdp, criterion=Discounted(0.99))
    with pytest.raises(SolverError, match="grows without bound"):  # E exp(50) outweighs the discount
        solve(discounted, ExactInference())
    for method in (SoftValueIteration(temperature=1.0), ValueIteration(), PolicyIteration()):
        assert np.isfinite(solve(discounted, method).value).all()


# The two forms of a model.


def reward_per_successor(form, discount=0.9):
    """Dense enough for both forms; some outcomes terminate."""
    random = np.random.default_rng(3)
    transition = random.dirichlet(np.ones(3), size=(3, 2))
    over = random.random((3, 2, 3)) < 0.3
    reward = random.normal(size=(3, 2, 3))
    criterion = FiniteHorizon(4, discount, random.normal(size=3))
    mdp = TabularMDP.from_arrays(transition, reward, criterion=criterion, terminated=over, form=form)
    return mdp, (transition, over, reward)


@pytest.mark.parametrize("method", [SOFT, ExactInference(temperature=TAU)], ids=["soft", "exact"])
def test_both_forms_agree(method):
    found = {}
    for form in ("dense", "successors"):
        mdp, _ = reward_per_successor(form)
        assert type(mdp.model).__name__ == {"dense": "DenseModel", "successors": "SuccessorModel"}[form]
        solved = solve(mdp, method)
        occupancy = evaluate(mdp, solved.policy.log_probabilities).details.occupancy
        with jax.enable_x64(True):
            gradient = jax.jit(jax.grad(functools.partial(first_value, mdp, method)))(jnp.asarray(mdp.reward))
        found[form] = solved.value, solved.policy.log_probabilities, occupancy, gradient, solved.details
    for one, other in zip(jax.tree.leaves(found["dense"]), jax.tree.leaves(found["successors"]), strict=True):
        close(one, other)


@pytest.mark.parametrize("form", ["dense", "successors"])
def test_push_is_the_transpose_of_expect(form, x64):
    mdp, (transition, over, _) = reward_per_successor(form)
    random = np.random.default_rng(4)
    values, mass = random.normal(size=3), random.random((3, 2))
    tolerance = 1e-12 if x64 else 1e-5
    dense = 0.9 * np.where(over, 0.0, transition)
    close(mdp.dense(), np.where(over, 0.0, transition), tolerance)
    close(mdp.expect(values), dense @ values, tolerance)
    close(mdp.push(mass), np.einsum("sa,sat->t", mass, dense), tolerance)
    close(np.sum(mass * mdp.expect(values)), np.sum(mdp.push(mass) * values), tolerance)


@pytest.mark.parametrize("form", ["dense", "successors"])
def test_push_and_expect_under_risk(form):
    """Mass moves under the dynamics that the certainty equivalent pretends; it is the derivative of `expect`."""
    mdp, (transition, over, reward) = reward_per_successor(form)
    values, mass = np.array([0.3, -1.0, 2.0]), np.random.default_rng(5).random((3, 2))

    @jax.jit
    def run(risk):
        worth, transpose = jax.vjp(lambda v: mdp.expect(v, risk), jnp.asarray(values))
        return worth, transpose(jnp.asarray(mass))[0], mdp.push(jnp.asarray(mass), jnp.asarray(values), risk)

    with jax.enable_x64(True):
        for risk in (2.0, -1.5):
            worth, derivative, pushed = run(risk)
            tilt = transition * np.exp(risk * reward)
            on = 0.9 * np.exp(risk * values)
            total = (tilt * np.where(over, 1.0, on + 0.1)).sum(axis=-1)
            close(worth + mdp.reward, np.log(total) / risk)
            close(pushed, np.einsum("sa,sat->t", mass / total, np.where(over, 0.0, tilt * on)))
            close(derivative, pushed)
        for almost, neutral in zip(run(1e-12), run(0.0), strict=True):
            close(almost, neutral, 1e-10)


@pytest.mark.parametrize("discount", [1.0, 0.8])
def test_occupancies_flow(discount):
    plain, policy = plain_instance(discount), np.log(np.full((3, 2), 0.5))
    occupancy = evaluate(problem(plain), policy).details.occupancy
    close(occupancy.sum(axis=(1, 2)), discount ** np.arange(4))
    close(occupancy[0].sum(axis=-1), plain.initial)
    for time in range(3):
        arriving = discount * np.einsum("sa,sat->t", occupancy[time], plain.going_on())
        close(occupancy[time + 1].sum(axis=-1), arriving)
    endless = dataclasses.replace(problem(plain), criterion=Discounted(0.9))
    visits = evaluate(endless, policy).details.occupancy
    close(visits.sum(), 10.0, 1e-10)
    close(visits.sum(axis=-1), plain.initial + 0.9 * np.einsum("sa,sat->t", visits, plain.going_on()), 1e-10)


# Inference over an unlimited time.


def test_discounted_inference_is_a_linear_problem():
    """`z = exp(V / tau)` solves `z = G (discount P z + 1 - discount)` for the prior's own dynamics."""
    instance = plain_instance()
    gamma, tau = 0.7, 2.0
    rows = [(*row[:4], float(-abs(row[4])), row[5]) for row in instance.rows]
    mdp = TabularMDP.from_outcomes(
        rows, criterion=Discounted(gamma), initial=instance.initial, log_prior=instance.log_prior
    )
    weighted, alone = np.zeros((3, 3)), np.zeros(3)
    for s, a, t, p, r, _ in rows:
        weight = np.exp(instance.log_prior[s, a]) * p * np.exp(r / tau)
        weighted[s, t] += gamma * weight
        alone[s] += (1 - gamma) * weight
    z = np.linalg.solve(np.eye(3) - weighted, alone)
    found = solve(mdp, ExactInference(temperature=tau, prior="problem"))
    close(found.value, tau * np.log(z), 1e-11)
    close(found.details.log_evidence, np.log(instance.initial @ z), 1e-11)
    # the same, as the limit of a long finite horizon
    long = dataclasses.replace(mdp, criterion=FiniteHorizon(200, gamma, np.zeros(3)))
    finite = solve(long, ExactInference(temperature=tau, prior="problem"))
    close(finite.value[0], found.value, 1e-11)
    close(finite.details.smoothed_pairs.sum(axis=0), found.details.smoothed_pairs, 1e-10)
    close(finite.details.log_initial, found.details.log_initial, 1e-11)
    restricted = solve(mdp, VariationalInference(temperature=tau, prior="problem"))
    assert 0.0 < restricted.details.gap < 1.0


# How `solve` treats its arguments.


def test_other_numbers_compile_nothing():
    mdp = problem(plain_instance())
    solve(mdp, SoftValueIteration(temperature=0.31))
    before = _run_compiled._cache_size()
    other = eqx.tree_at(lambda m: m.reward, mdp, mdp.reward + 1.0)
    solve(other, SoftValueIteration(temperature=0.77))
    solve(other, SoftValueIteration(temperature=1))
    assert _run_compiled._cache_size() == before


def test_vmap_over_temperatures_is_the_loop():
    mdp = problem(random_instance())
    temperatures = np.array([0.0, 0.1, 1.0])
    with jax.enable_x64(True):
        run = jax.jit(jax.vmap(lambda t: solve(mdp, SoftValueIteration(temperature=t)).value))
        mapped = run(jnp.asarray(temperatures))
    for temperature, value in zip(temperatures, mapped, strict=True):
        close(value, solve(mdp, SoftValueIteration(temperature=float(temperature))).value)


def test_precision_and_untouched_inputs(x64):
    mdp = problem(random_instance())
    before = jax.tree.map(np.copy, eqx.filter(mdp, eqx.is_array))
    found = solve(mdp, SOFT)
    assert isinstance(found.value, np.ndarray)
    assert found.value.dtype == np.float64
    single = solve(mdp, SOFT, dtype=np.float32)
    assert single.value.dtype == np.float32
    close(single.value, found.value, 1e-5)
    traced = jax.jit(lambda r: solve(eqx.tree_at(lambda m: m.reward, mdp, r), SOFT).value)(jnp.asarray(mdp.reward))
    assert traced.dtype == (jnp.float64 if x64 else jnp.float32)
    close(traced, found.value, 1e-12 if x64 else 1e-5)
    jax.tree.map(np.testing.assert_array_equal, eqx.filter(mdp, eqx.is_array), before)


def test_arguments_of_solve():
    mdp = problem(plain_instance())
    with pytest.raises(ValueError, match="takes the criteria FiniteHorizon, Discounted, UntilTermination"):
        solve(dataclasses.replace(mdp, criterion=AverageReward()), ExactInference())
    for method in (ExactInference, VariationalInference):
        with pytest.raises(ValueError, match="temperature must be positive for inference"):
            method(temperature=0.0)
    with pytest.raises(ValueError, match="starts from nothing"):
        solve(mdp, SOFT, guess=np.zeros(3))
    with pytest.raises(ValueError, match="does not iterate"):
        solve(mdp, DeterministicPlanning(), max_steps=3)
    assert solve(UnderPolicy(mdp, solution(plain_instance(), SOFT).policy)).details.q.shape == (4, 3, 2)
    assert PolicyEvaluation().prior == "none"
