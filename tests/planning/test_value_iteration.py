"""Hard and soft value iteration and policy iteration, for every criterion."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize

from clauses import against
from enumeration import logsumexp, plain_instance, random_instance, trajectories
from instances import close, evaluate, problem, solution
from optimality import (
    AverageReward,
    Discounted,
    PolicyIteration,
    Result,
    SoftValueIteration,
    SolverError,
    TabularMDP,
    UntilTermination,
    ValueIteration,
    gridworld,
    random_mdp,
    solve,
)
from optimality.planning.backups import Sweep, backup

GAMMA, TAU = 0.9, 0.5


@functools.cache
def infinite(criterion):
    """The plain instance without a horizon; `criterion` is a discount, or None for the average reward."""
    kind = AverageReward() if criterion is None else Discounted(criterion)
    rows = [(*row[:4], float(plain_instance().mean_rewards()[row[:2]]), row[5]) for row in plain_instance().rows]
    return TabularMDP.from_outcomes(rows, criterion=kind, initial=plain_instance().initial)


@functools.cache
def solved(criterion, method):
    return solve(infinite(criterion), method)


MEANS, GOING_ON = plain_instance().mean_rewards(), plain_instance().going_on()
DETERMINISTIC = [np.array(choice) for choice in itertools.product(range(2), repeat=3)]


def soft_backup(values, discount=GAMMA):
    return TAU * logsumexp((MEANS + discount * GOING_ON @ values) / TAU, axis=1)


def by_library(values):
    mdp = infinite(GAMMA)
    with jax.enable_x64(True):
        sweep = Sweep(jnp.asarray(mdp.log_base("none").T), TAU, 0.0)
        return np.asarray(backup(mdp, jnp.asarray(values), sweep))


@pytest.mark.row("S51.contraction")
@against(
    by_library,
    without_discount=lambda values: soft_backup(values, 1.0),
    discount_squared=lambda values: soft_backup(values, GAMMA**2),
)
def test_soft_backup_is_a_contraction(implementation):
    random = np.random.default_rng(0)
    for _ in range(5):
        one, other = random.normal(size=(2, 3)) * 5
        apart = np.abs(implementation(one) - implementation(other)).max()
        assert apart <= GAMMA * np.abs(one - other).max() + 1e-13
    close(implementation(one + 2.0), implementation(one) + GAMMA * 2.0)  # the modulus is reached by a shift
    close(implementation(one), soft_backup(one))


@pytest.mark.row("S51.fixed_point")
@against(
    lambda: solved(GAMMA, SoftValueIteration(temperature=TAU)).value,
    hard=lambda: solved(GAMMA, ValueIteration()).value,
    too_few_sweeps=lambda: functools.reduce(lambda v, _: soft_backup(v), range(20), np.zeros(3)),
)
def test_soft_value_iteration_ends_at_the_fixed_point(implementation):
    value = implementation()
    close(soft_backup(value), value, 1e-11)


@pytest.mark.row("S51.hard_limit")
@against(
    lambda temperature: solved(GAMMA, SoftValueIteration(temperature=temperature)).value,
    temperature_ignored=lambda temperature: solved(GAMMA, SoftValueIteration(temperature=TAU)).value,
)
def test_hard_limit(implementation):
    hard = solved(GAMMA, ValueIteration()).value
    for temperature in (0.1, 0.01, 0.001):
        excess = implementation(temperature) - hard
        assert (excess >= -1e-12).all()
        assert (excess <= temperature * np.log(2.0) / (1.0 - GAMMA) + 1e-12).all()
    close(implementation(0.0), hard, 1e-11)


def test_discounted_values_solve_the_linear_program():
    lhs = np.concatenate([GAMMA * GOING_ON[:, a] - np.eye(3) for a in range(2)])
    rhs = -np.concatenate([MEANS[:, a] for a in range(2)])
    program = scipy.optimize.linprog(np.ones(3), lhs, rhs, bounds=[(None, None)] * 3)
    close(solved(GAMMA, ValueIteration()).value, program.x, 1e-8)
    close(solved(GAMMA, PolicyIteration()).value, solved(GAMMA, ValueIteration()).value, 1e-10)
    close(solved(GAMMA, PolicyIteration()).policy.probabilities, solved(GAMMA, ValueIteration()).policy.probabilities)
    assert solved(GAMMA, PolicyIteration()).stats["steps"] <= 5


@pytest.mark.parametrize("instance", [random_instance(), random_instance(0.8)], ids=["whole", "discounted"])
def test_finite_horizon_is_the_best_of_all_deterministic_policies(instance):
    found = solution(instance, ValueIteration())
    best = trajectories(instance).best_return()
    close(instance.initial @ found.value[0], best)
    close(trajectories(instance).expected_return(found.policy.log_probabilities), best)


def chain_gain(choice):
    transition = GOING_ON[np.arange(3), choice]
    stationary = np.linalg.solve(np.vstack([(transition.T - np.eye(3))[:2], np.ones(3)]), [0.0, 0.0, 1.0])
    return stationary @ MEANS[np.arange(3), choice]


def test_average_reward_is_the_best_of_all_deterministic_policies():
    found = solved(None, ValueIteration())
    assert found.details.gain == pytest.approx(max(map(chain_gain, DETERMINISTIC)), abs=1e-11)
    assert found.value[0] == 0.0
    close(found.value + found.details.gain, (MEANS + GOING_ON @ found.value).max(axis=1), 1e-11)


def test_soft_average_reward_is_reward_and_entropy_of_its_policy():
    found = solved(None, SoftValueIteration(temperature=TAU))
    evaluated = evaluate(infinite(None), found.policy.log_probabilities)
    gain = evaluated.details.gain + TAU * evaluated.details.expected_entropy
    assert found.details.gain == pytest.approx(gain, abs=1e-11)
    kl = solved(None, SoftValueIteration(temperature=TAU, prior="uniform"))
    assert found.details.gain - kl.details.gain == pytest.approx(TAU * np.log(2.0), abs=1e-11)


def cycle(rewards, stay=False):
    """States in a ring that are left for sure, or a state each to stay in for ever."""
    size = len(rewards)
    transition = np.eye(size)[:, None] if stay else np.roll(np.eye(size), 1, axis=1)[:, None]
    return TabularMDP.from_arrays(transition, np.array(rewards)[:, None], criterion=AverageReward())


def test_periodic_chain_converges():
    found = solve(cycle([1.0, 2.0, 6.0]), SoftValueIteration())
    assert found.details.gain == pytest.approx(3.0, abs=1e-11)


@pytest.mark.parametrize("method", [ValueIteration(), SoftValueIteration(temperature=0.1)])
def test_multichain(method):
    with pytest.raises(SolverError, match="more than one recurrent class") as caught:
        solve(cycle([1.0, 2.0, 6.0], stay=True), method)
    assert caught.value.result is Result.MULTICHAIN
    assert caught.value.solution.result is Result.MULTICHAIN


def frozen_lake(**options):
    return TabularMDP.from_gymnasium("FrozenLake-v1", **options)


def test_frozen_lake_in_a_hundred_steps():
    mdp = frozen_lake()
    assert mdp.criterion.horizon == 100
    assert solve(mdp, ValueIteration()).value[0, 0] == pytest.approx(0.7442, abs=5e-5)
    expected = {"none": (0.231, 0.657, 0.737), "uniform": (0.030, 0.590, 0.741)}
    for prior, returns in expected.items():
        for temperature, expected_return in zip((0.1, 0.01, 0.003), returns, strict=True):
            found = solve(mdp, SoftValueIteration(temperature=temperature, prior=prior))
            evaluated = evaluate(mdp, found.policy.log_probabilities)
            assert evaluated.details.expected_return == pytest.approx(expected_return, abs=5e-4)


def test_frozen_lake_until_termination():
    """The entropy form pays for staying alive: its values grow like the logarithm of the sweeps, for ever."""
    mdp = frozen_lake(criterion=UntilTermination())
    with pytest.raises(
        SolverError, match="pays for staying alive: lower its temperature or take prior='uniform'"
    ) as caught:
        solve(mdp, SoftValueIteration(temperature=0.1))
    assert caught.value.result is Result.NOT_CONVERGED
    kl = solve(mdp, SoftValueIteration(temperature=0.003, prior="uniform"))
    assert kl.result is Result.CONVERGED
    optimum = solve(mdp, ValueIteration()).value[0]
    assert optimum == pytest.approx(0.8235, abs=5e-5)  # 14 / 17
    assert kl.value[0] < optimum
    assert solve(mdp, SoftValueIteration(temperature=0.0, prior="uniform")).value[0] == pytest.approx(optimum, abs=1e-9)


def test_slow_convergence_is_an_iteration_limit():
    mdp = random_mdp(3, 2, 2, criterion=Discounted(0.9999))
    with pytest.raises(SolverError, match="raise max_steps") as caught:
        solve(mdp, SoftValueIteration(temperature=0.1), max_steps=9_000)
    assert caught.value.result is Result.ITERATION_LIMIT


@pytest.mark.parametrize(("ties", "expected"), [("lowest", [1.0, 0.0, 0.0]), ("uniform", [0.5, 0.5, 0.0])])
def test_ties(ties, expected):
    reward = np.array([[1.0, 1.0 + 1e-13, 0.0]])
    mdp = TabularMDP.from_arrays(np.ones((1, 3, 1)), reward, criterion=Discounted(0.5))
    for method in (ValueIteration(ties=ties), PolicyIteration(ties=ties)):
        close(solve(mdp, method).policy.probabilities[0], expected)
    close(solve(mdp, SoftValueIteration(temperature=0.0)).value, [2.0], 1e-11)


def best_chance(mdp):
    """Cautious, neutral and seeking values of the hard problem, and the limits of both."""
    return [solve(mdp, ValueIteration(risk=r)).value[0] for r in (-np.inf, -400.0, 0.0, 1e-9, 400.0, np.inf)]


def test_risk_limits():
    instance = random_instance(0.8)
    worst, cautious, neutral, almost, seeking, best = best_chance(problem(instance))
    close(neutral, almost, 1e-7)
    assert (worst < neutral).all()
    assert (neutral < best).all()
    close(cautious, worst, 5e-2)
    close(seeking, best, 5e-2)
    value_best, value_worst = instance.terminal, instance.terminal
    for _ in range(instance.horizon):  # the luckiest and the unluckiest outcome, the discount's ending among them
        q = {"best": np.full((3, 2), -np.inf), "worst": np.full((3, 2), np.inf)}
        for s, a, t, _, r, over in instance.rows:
            lucky, unlucky = (0.0, 0.0) if over else (max(value_best[t], 0.0), min(value_worst[t], 0.0))
            q["best"][s, a] = max(q["best"][s, a], r + lucky)
            q["worst"][s, a] = min(q["worst"][s, a], r + unlucky)
        value_best = np.where(instance.allowed, q["best"], -np.inf).max(axis=1)
        value_worst = np.where(instance.allowed, q["worst"], -np.inf).max(axis=1)
    close(best, value_best)
    close(worst, value_worst)


def test_derivative_of_policy_iteration():
    mdp = infinite(GAMMA)

    def start_value(shift, method):
        reward = jnp.asarray(mdp.reward) + shift * jnp.asarray([[1.0, 0.2], [0.5, -1.0], [0.0, 0.7]])
        changed = TabularMDP(mdp.model, reward, mdp.initial, Discounted(GAMMA), mdp.allowed)
        return jnp.asarray(mdp.initial) @ solve(changed, method).value

    with jax.enable_x64(True):
        exact = jax.jit(jax.grad(lambda x: start_value(x, PolicyIteration())))(0.0)
        run = jax.jit(lambda x: start_value(x, PolicyIteration()))
        close(exact, (run(1e-4) - run(-1e-4)) / 2e-4, 1e-8)
        close(exact, jax.jit(jax.grad(lambda x: start_value(x, ValueIteration())))(0.0), 1e-9)


def test_policy_iteration_takes_the_discounted_criterion_only():
    with pytest.raises(ValueError, match="PolicyIteration takes the criteria Discounted"):
        solve(infinite(None), PolicyIteration())
    guessed = solve(infinite(GAMMA), PolicyIteration(), guess=solved(GAMMA, ValueIteration()).value)
    assert guessed.stats["steps"] == 1


def test_default_method_and_bad_hyper_parameters():
    close(solve(infinite(GAMMA)).value, solved(GAMMA, SoftValueIteration(temperature=0.003)).value)
    with pytest.raises(ValueError, match="temperature must be at least 0"):
        SoftValueIteration(temperature=-1.0)
    with pytest.raises(ValueError, match='prior="problem" needs a problem with log_prior'):
        solve(infinite(GAMMA), SoftValueIteration(prior="problem"))
    with pytest.raises(ValueError, match="solves a TabularMDP"):
        solve(3, ValueIteration())


def test_gridworld_until_termination():
    found = solve(gridworld("S.G", slip=0.0, step_reward=-0.1, criterion=UntilTermination()), ValueIteration())
    close(found.value, [0.8, 0.9, 0.0])
