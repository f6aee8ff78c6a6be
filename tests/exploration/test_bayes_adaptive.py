"""The Bayes-adaptive MDP: known values, rationals by histories, limits, what learning is worth, refusals."""

from fractions import Fraction

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from clauses import against
from optimality.core.solve import solve
from optimality.exploration.bayes_adaptive import BayesAdaptiveMDP, ExactBayesAdaptive
from optimality.planning.value_iteration import ValueIteration
from optimality.problems.criterion import Discounted, FiniteHorizon
from optimality.problems.tabular import TabularMDP

ARRIVAL = np.zeros((2, 2, 2))
ARRIVAL[:, :, 1] = 1.0
TWO_STATES = TabularMDP.from_arrays(np.full((2, 2, 2), 0.5), np.ones((2, 2)), criterion=FiniteHorizon(1))
VALUES = {1: 0.5, 2: 1.0, 4: 2.11111111, 6: 3.29259259, 8: 4.50973765, 10: 5.74966049}


def uniform(horizon):
    return BayesAdaptiveMDP(np.ones((2, 2, 2)), ARRIVAL, FiniteHorizon(horizon))


def ours(problem):
    return float(solve(problem, ExactBayesAdaptive()).value)


def histories(problem, *, counted=lambda s, a, s2: (s, a, s2), choose=lambda seen, gains: max(gains)):
    """The best expected reward by recursion over histories, in rationals; `counted` is what a transition adds to."""
    counts, (states, actions, _) = np.asarray(problem.counts).tolist(), problem.counts.shape
    reward, criterion = np.asarray(problem.reward).tolist(), problem.criterion
    terminal = np.broadcast_to(criterion.terminal_reward, states).tolist()
    discount = Fraction(criterion.discount)

    def value(seen, s, left):
        if left == 0:
            return Fraction(terminal[s])
        gains = []
        for a in range(actions):
            row = [Fraction(counts[s][a][k]) + sum(one == (s, a, k) for one in seen) for k in range(states)]
            gain = Fraction(0)
            for k, weight in enumerate(row):
                after = value((*seen, counted(s, a, k)), k, left - 1)
                gain += weight / sum(row) * (Fraction(reward[s][a][k]) + discount * after)
            gains.append(gain)
        return choose(seen, gains)

    return value((), problem.start, criterion.horizon)


@against(
    ours,
    nothing_is_counted=lambda problem: float(histories(problem, counted=lambda s, a, k: None)),
    the_other_action_is_counted=lambda problem: float(histories(problem, counted=lambda s, a, k: (s, 1 - a, k))),
    the_successor_is_counted=lambda problem: float(histories(problem, counted=lambda s, a, k: (k, a, k))),
    the_best_of_the_outcomes=lambda problem: problem.criterion.horizon * 1.0,
)
def test_values_of_two_states(implementation):
    """Reference values, to the digits they have."""
    for horizon in (1, 2, 4, 6):
        assert implementation(uniform(horizon)) == pytest.approx(VALUES[horizon], abs=1e-8)


def test_values_of_longer_horizons_grow():
    found = {horizon: ours(uniform(horizon)) for horizon in (1, 2, 3, 8, 9, 10)}
    assert found[8] == pytest.approx(VALUES[8], abs=1e-8)
    assert found[10] == pytest.approx(VALUES[10], abs=1e-8)
    assert 0.5 < found[3] - found[2] < found[9] - found[8] < found[10] - found[9] < 2 / 3


def uneven():
    random = np.random.default_rng(3)
    return BayesAdaptiveMDP(
        random.integers(1, 4, (3, 2, 3)).astype(float) * [[[0.5, 1.0, 0.0]]],
        random.integers(-4, 5, (3, 2, 3)) / 4,
        FiniteHorizon(4, 0.75, np.array([0.0, 0.5, -0.25])),
        start=1,
    )


@against(
    ours,
    nothing_is_counted=lambda problem: float(histories(problem, counted=lambda s, a, k: None)),
    the_other_action_is_counted=lambda problem: float(histories(problem, counted=lambda s, a, k: (s, 1 - a, k))),
    no_terminal_reward=lambda problem: ours(
        BayesAdaptiveMDP(problem.counts, problem.reward, FiniteHorizon(4, 0.75), start=1)
    ),
    another_start=lambda problem: ours(BayesAdaptiveMDP(problem.counts, problem.reward, problem.criterion)),
)
def test_by_histories_in_rationals(implementation):
    """Uneven counts with an impossible outcome, rewards of transitions, a discount, a terminal reward."""
    for problem in (uniform(5), uneven()):
        assert implementation(problem) == pytest.approx(float(histories(problem)), rel=1e-14)


def test_policy_earns_its_value():
    problem = uneven()
    policy = solve(problem).policy

    def follow(seen, gains):
        table = np.zeros((3, 2, 3), int)
        for one in seen:
            table[one] += 1
        return gains[int(policy.action(table))]

    expected = histories(problem)
    assert float(histories(problem, choose=follow)) == pytest.approx(float(expected), rel=1e-14)
    far = np.full((3, 2, 3), 5)
    assert int(policy.action(far)) == -1
    assert np.all(np.isnan(policy.index(far)))


def mean_plan_value(problem):
    """Of the plan that is best for mean transitions, under the belief, in rationals."""
    counts, reward = problem.counts, problem.reward
    mean, value, plan = counts / counts.sum(2, keepdims=True), np.broadcast_to(problem.criterion.terminal_reward, 3), []
    for _ in range(problem.criterion.horizon):
        gain = np.sum(mean * (reward + problem.criterion.discount * value), axis=2)
        value = gain.max(1)
        plan.append(gain.argmax(1))
    plan = plan[::-1]
    return float(
        histories(
            problem,
            choose=lambda seen, gains: gains[int(plan[len(seen)][seen[-1][2] if seen else problem.start])],
        )
    )


def test_what_learning_is_worth():
    details = solve(uneven()).details
    assert float(details.certainty_equivalent) == pytest.approx(mean_plan_value(uneven()), rel=1e-13)
    for horizon in (1, 2, 8):
        solution = solve(uniform(horizon))
        assert float(solution.details.certainty_equivalent) <= float(solution.value) + 1e-12
        assert float(solution.details.learning) >= -1e-12
    assert float(solution.details.learning) > 0.5
    np.testing.assert_allclose(solution.details.first, solution.value, 1e-12)  # nothing tells the actions apart


def clairvoyants(horizon, worlds):
    """Values at the start of worlds drawn from the belief, for someone who knows them."""
    transition = np.random.default_rng(5).dirichlet(np.ones(2), (worlds, 2, 2))
    value = np.zeros((worlds, 2))
    for _ in range(horizon):
        value = np.max(np.sum(transition * (ARRIVAL + value[:, None, None, :]), axis=3), axis=2)
    return value[:, 0]


@against(ours, clairvoyant=lambda problem: clairvoyants(problem.criterion.horizon, 20_000).mean())
def test_below_the_clairvoyant(implementation):
    """5.320 at eight steps, with 20,000 worlds known to 0.01."""
    known = clairvoyants(8, 20_000)
    assert known.mean() == pytest.approx(5.320, abs=4 * known.std() / np.sqrt(known.size))
    assert implementation(uniform(8)) < known.mean() - 0.5


def test_known_transitions_are_the_limit():
    random = np.random.default_rng(1)
    transition = random.dirichlet(np.ones(3), (3, 2))
    transition[1, 0] = [0.0, 1.0, 0.0]
    reward, criterion = random.standard_normal((3, 2)), FiniteHorizon(5, 0.9)
    planned = solve(TabularMDP.from_arrays(transition, reward, criterion=criterion), ValueIteration()).value[0]
    for start in range(3):
        found = ours(BayesAdaptiveMDP(1e10 * transition, reward, criterion, start=start))
        assert found == pytest.approx(planned[start], abs=1e-8)
        loose = ours(BayesAdaptiveMDP(1.0 * transition, reward, criterion, start=start))
        assert abs(loose - planned[start]) > 1e-4


def test_mapped_and_traced(x64):
    """Over rewards and counts at once, inside `vmap`."""

    def value(counts, reward):
        return solve(BayesAdaptiveMDP(counts, reward, FiniteHorizon(3))).value

    counts = jnp.asarray([np.ones((2, 2, 2)), 1.0 + np.arange(8.0).reshape(2, 2, 2)], float)
    rewards = jnp.asarray([ARRIVAL, 2.0 * ARRIVAL], float)
    mapped = jax.jit(jax.vmap(value))(counts, rewards)
    alone = [ours(BayesAdaptiveMDP(c, r, FiniteHorizon(3))) for c, r in zip(counts, rewards, strict=True)]
    np.testing.assert_allclose(mapped, alone, 1e-13 if x64 else 1e-6)
    slope = jax.grad(value, argnums=1)(counts[0], rewards[0])
    np.testing.assert_allclose(jnp.sum(slope * rewards[0]), mapped[0], 1e-12 if x64 else 1e-5)  # of degree one


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: BayesAdaptiveMDP(np.ones((2, 2)), ARRIVAL, FiniteHorizon(2)), r"\[states, actions, states\]"),
        (lambda: BayesAdaptiveMDP(np.ones((2, 2, 2)), np.ones(3), FiniteHorizon(2)), "reward must have shape"),
        (lambda: BayesAdaptiveMDP(-np.ones((2, 2, 2)), ARRIVAL, FiniteHorizon(2)), "at least 0"),
        (lambda: BayesAdaptiveMDP(np.ones((2, 2, 2)), ARRIVAL * np.nan, FiniteHorizon(2)), "finite"),
        (lambda: BayesAdaptiveMDP(np.zeros((2, 2, 2)), ARRIVAL, FiniteHorizon(2)), "state 0, action 0 are zero"),
        (lambda: BayesAdaptiveMDP(np.ones((2, 2, 2)), ARRIVAL, Discounted(0.9)), "FiniteHorizon"),
        (lambda: BayesAdaptiveMDP(np.ones((2, 2, 2)), ARRIVAL, FiniteHorizon(2, 1.0, np.ones(3))), "terminal_reward"),
        (lambda: BayesAdaptiveMDP(np.ones((2, 2, 2)), ARRIVAL, FiniteHorizon(2), start=2), "0 to 1"),
        (lambda: solve(uniform(300), ExactBayesAdaptive(most_numbers=10_000)), r"1250 hyper.*1.8e.15.*at most 7 steps"),
        (lambda: solve(uniform(3), ExactBayesAdaptive(most_numbers=4)), "fewer states"),
        (lambda: solve(TWO_STATES, ExactBayesAdaptive()),
         "solves BayesAdaptiveMDP"),
    ],
)  # fmt: skip
def test_refusals(make, says):
    with pytest.raises(ValueError, match=says):
        make()
