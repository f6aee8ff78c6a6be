"""Optimality as an observed event: what the posterior over trajectories is, and what the model is good for."""

import itertools

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from clauses import against
from enumeration import deterministic_instance, logsumexp, plain_instance, random_instance, trajectories
from instances import close, problem, solution
from optimality import (
    DeterministicPlanning,
    ExactInference,
    FiniteHorizon,
    TabularMDP,
    ValueIteration,
    VariationalInference,
    posterior_dynamics,
    solve,
)

TAU = 1.0
EXACT = ExactInference(temperature=TAU, prior="problem")


def log_posterior(instance, *, true_dynamics=False, prior_start=False):
    """Of every enumerated trajectory, multiplied out of the solution's first state, policy and dynamics."""
    found, world = solution(instance, EXACT), trajectories(instance)
    start = np.log(instance.initial) if prior_start else found.details.log_initial
    total = start[world.states[:, 0]]
    for time in range(instance.horizon):
        s, a, t = world.states[:, time], world.actions[:, time], world.states[:, time + 1]
        believed = posterior_dynamics(problem(instance), found.value[time + 1], TAU)
        dynamics = instance.going_on() if true_dynamics else believed
        total = total + found.policy.log_probabilities[time, s, a] + np.log(dynamics[s, a, t])
    return total


@pytest.mark.row("S41.posterior")
@against(
    log_posterior,
    true_dynamics=lambda instance: log_posterior(instance, true_dynamics=True),
    prior_start=lambda instance: log_posterior(instance, prior_start=True),
)
def test_posterior_is_prior_times_exponentiated_return(implementation):
    world = trajectories(plain_instance())
    log_joint = world.log_world + world.log_base + world.returns / TAU
    close(implementation(plain_instance()), log_joint - logsumexp(log_joint))


def shifted(instance, constant, where=None):
    found = solution(instance.with_rewards(lambda r, row: r + (constant if where in (None, row[1]) else 0.0)), EXACT)
    return found.policy.probabilities, found.details.smoothed_pairs, found.details.log_evidence


@pytest.mark.row("S41.shift", "E1.5")
@against(
    lambda constant: shifted(plain_instance(), constant),
    where_episodes_terminate=lambda constant: shifted(random_instance(), constant),
    with_a_discount=lambda constant: shifted(plain_instance(0.9), constant),
    one_action_only=lambda constant: shifted(plain_instance(), constant, where=0),
)
def test_shift_of_the_reward_leaves_the_posterior(implementation):
    before, after = implementation(0.0), implementation(0.3)
    close(before[0], after[0])
    close(before[1], after[1])
    close(after[2] - before[2], 4 * 0.3 / TAU)


@pytest.mark.row("E1.5")
def test_exponentiated_reward_is_a_probability_only_for_rewards_of_at_most_zero():
    assert np.exp(0.3) == pytest.approx(1.35, abs=5e-4)
    highest = max(row[4] for row in plain_instance().rows)
    assert highest > 0.0
    assert shifted(plain_instance(), -highest)[2] < 0.0  # a probability
    assert shifted(plain_instance(), highest)[2] > 0.0  # a factor only


@pytest.mark.row("S41.suboptimal_behaviour")
@against(
    lambda temperature: (
        solution(deterministic_instance(), ExactInference(temperature=temperature)).policy.probabilities
    ),
    hard_planning=lambda temperature: solution(deterministic_instance(), ValueIteration()).policy.probabilities,
)
def test_imperfect_behavior_has_a_graded_probability(implementation):
    """A plan that earns less by g is exp(-g / tau) times as likely, and never impossible."""
    world = trajectories(deterministic_instance(), "uniform")
    for temperature in (1.0, 0.5):
        probability = implementation(temperature)
        steps = np.arange(4)
        plans = probability[steps, world.states[:, :-1], world.actions].prod(axis=1)
        best = np.argmax(world.returns)
        close(plans / plans[best], np.exp((world.returns - world.returns[best]) / temperature))


def generic_sum_product(instance, temperature=TAU):
    """Variable elimination over the factor graph of states, actions and optimality; it knows nothing of control."""
    transition = np.zeros((3, 2, 3))
    for s, a, t, p, r, _ in instance.rows:
        transition[s, a, t] += p * np.exp(r / temperature)
    prior, operands, letters = np.exp(instance.log_prior), [instance.initial, [0]], itertools.count(1)
    state = 0
    for time in range(4):
        action, after = next(letters), next(letters)
        operands += [prior, [state, action], transition, [state, action, after]]
        if time == 0:
            wanted = [state, action]
        state = after
    joint = np.einsum(*operands, wanted, optimize="greedy")
    return joint / joint.sum(axis=1, keepdims=True)


@pytest.mark.row("S41.inference_algorithms")
@against(
    lambda instance: solution(instance, EXACT).policy.probabilities[0],
    variational=lambda instance: solution(
        instance, VariationalInference(temperature=TAU, prior="problem")
    ).policy.probabilities[0],
    hard_planning=lambda instance: solution(instance, ValueIteration()).policy.probabilities[0],
)
def test_inference_algorithms_are_planners(implementation):
    """Sum-product and likelihood weighting, as for any graphical model, find the policy of the planner."""
    instance = plain_instance()
    policy = implementation(instance)
    close(policy, generic_sum_product(instance))
    world = trajectories(instance)
    chosen = np.random.default_rng(0).choice(
        len(world.returns), 20_000, p=(p := np.exp(world.log_world + world.log_base)) / p.sum()
    )
    weight = np.exp(world.returns[chosen] / TAU) * (world.states[chosen, 0] == 0)
    first = world.actions[chosen, 0] == 0
    estimate = weight[first].sum() / weight.sum()
    error = np.sqrt(np.sum((weight * (first - estimate)) ** 2)) / weight.sum()
    assert abs(estimate - policy[0, 0]) < 4 * error < 0.1


def two_ways_around(method):
    """Left or right around an obstacle, equally long, and a detour that costs one more."""
    reward = np.array([[-1.0, -1.0, -2.0]])
    mdp = TabularMDP.from_arrays(np.ones((1, 3, 1)), reward, criterion=FiniteHorizon(1))
    return solve(mdp, method).policy.probabilities[0, 0]


@pytest.mark.row("S41.stochastic_behaviour")
@against(lambda: two_ways_around(ExactInference()), hard_planning=lambda: two_ways_around(ValueIteration()))
def test_random_behavior_is_explained(implementation):
    probability = implementation()
    close(probability[0], probability[1])
    close(probability[2], probability[0] * np.exp(-1.0))
    close(probability.sum(), 1.0)


# Deterministic planning.


def tied_instance():
    """Four plans earn 7; who takes the best next reward ends with 4."""
    ways = [(0, 0, 1, 0.0), (0, 1, 2, 1.0), (1, 0, 2, 3.0), (1, 1, 1, 1.0), (2, 0, 0, 1.0), (2, 1, 2, 1.0)]
    rows = tuple((s, a, t, 1.0, r, False) for s, a, t, r in ways)
    return deterministic_instance().but(rows=rows, terminal=np.array([0.0, 0.0, 2.0]))


def planned(instance):
    found = solution(instance, DeterministicPlanning())
    return found.value[0, 0], found.details.optimal_plans


def greedy_one_step(instance):
    state, total, following = 0, 0.0, {row[:2]: row for row in instance.rows}
    for _ in range(instance.horizon):
        row = max((following[state, a] for a in range(2)), key=lambda row: row[4])
        state, total = row[2], total + row[4]
    return total + instance.terminal[state], 1


@pytest.mark.row("S40")
@against(
    planned,
    greedy=greedy_one_step,
    one_step_short=lambda instance: planned(instance.but(horizon=3)),
    without_terminal_reward=lambda instance: planned(instance.but(terminal=np.zeros(3))),
)
def test_deterministic_planning_finds_the_best_sum(implementation):
    for instance in (deterministic_instance(), tied_instance()):
        assert implementation(instance)[0] == pytest.approx(trajectories(instance).returns.max(), abs=1e-12)


@pytest.mark.row("E1.13")
@against(planned, one_plan=lambda instance: (planned(instance)[0], 1))
def test_one_best_value_many_plans(implementation):
    instance = tied_instance()
    value, plans = implementation(instance)
    world = trajectories(instance)
    best = np.isclose(world.returns, world.returns.max())
    assert value == pytest.approx(world.returns.max())
    assert plans == best.sum() > 1
    details = solution(instance, DeterministicPlanning()).details
    place = np.flatnonzero((world.actions == details.actions).all(axis=1))
    assert best[place]
    assert (world.states[place[0]] == details.states).all()
    close(details.rewards, world.rewards[place[0]])
    assert tuple(details.actions) == min(map(tuple, world.actions[best]))  # lowest actions first


def test_deterministic_planning_stops_at_a_termination():
    rows = [
        (0, 0, 1, 1.0, 1.0, False),
        (0, 1, 0, 1.0, 0.0, False),
        (1, 0, 1, 1.0, 5.0, True),
        (1, 1, 0, 1.0, 0.0, False),
    ]
    mdp = TabularMDP.from_outcomes(rows, criterion=FiniteHorizon(4), initial=0)
    found = solve(mdp, DeterministicPlanning())
    assert found.value[0, 0] == 7.0  # one, back, one, and the ending of five
    assert found.details.rewards.tolist() == [1.0, 0.0, 1.0, 5.0]
    assert found.details.running.tolist() == [True] * 4
    short = solve(TabularMDP.from_outcomes(rows, criterion=FiniteHorizon(3), initial=0), DeterministicPlanning())
    assert short.value[0, 0] == 6.0
    assert short.details.optimal_plans == 2  # end at once, or after one step of waiting
    assert short.details.running.tolist() == [True, True, False]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"rows": plain_instance().rows}, "one outcome for each pair, but state 0, action 0"),
        ({"discount": 0.9}, "needs discount 1"),
        ({"initial": np.full(3, 1 / 3)}, "one first state"),
    ],
)
def test_deterministic_planning_refuses_randomness(change, message):
    with pytest.raises(ValueError, match=message):
        solve(problem(deterministic_instance().but(**change)), DeterministicPlanning())


def test_kernels_under_a_users_transformation(x64):
    """Traced inputs keep the precision they have."""
    mdp = problem(plain_instance())

    @jax.jit
    def evidence(initial):
        return solve(eqx.tree_at(lambda m: m.initial, mdp, initial), EXACT).details.log_evidence

    found = evidence(jnp.asarray(mdp.initial))
    assert found.dtype == (jnp.float64 if x64 else jnp.float32)
    np.testing.assert_allclose(found, trajectories(plain_instance()).log_evidence(TAU), rtol=1e-12 if x64 else 1e-5)
