"""That entropy-regularized Q-learning needs fewer samples and estimates values better: seen on stated examples, and
not on others. benchmarks/sample_efficiency.py has more of them, with intervals."""

import numpy as np
import pytest

import optimality as ox
from optimality.core.numerics import cast_floats
from sampled_learners import ends, needed, policy_gradient, soft_q

STEPS = 50
TAU = 0.3
SEEDS = 20


def method(problem, *, temperature=TAU, uniform=1.0):
    return ox.SoftQLearning(discount=float(problem.discount), temperature=temperature, epsilon_end=uniform)


@pytest.mark.slow
@pytest.mark.row("S160")
def test_soft_q_learning_needs_fewer_samples_here_and_more_there():
    """Transitions to 95 % of the way from the uniform policy to the soft optimum, each policy valued exactly.

    Over 200 other seeds soft Q-learning from uniform actions had median 500 and range 100 to 900, the policy gradient
    at the best of 16 settings median 4,400 and least 1,200; medians of 20 of them had deviation 50, and 3,000 as
    least value. With the actions of its own policy, to which what it has not tried is worth nothing, soft Q-learning
    arrived in none of the 200 within 20,000.
    """
    problem = ox.random_mdp(10, 3, 3, seed=0, criterion=ox.Discounted(0.9))
    uniform, best = ends(problem, TAU)
    threshold = uniform + 0.95 * (best - uniform)
    problem = cast_floats(problem, np.float32)
    every = {"steps": STEPS, "seeds": SEEDS}
    shares = {"uniform": 1.0, "own": 0.0}
    runs = {
        n: soft_q(problem, method(problem, uniform=u), every=STEPS, number=40, **every)[0] for n, u in shares.items()
    }
    tables = {name: needed(run, STEPS, threshold) for name, run in runs.items()}
    reached = policy_gradient(problem, TAU, 4.0, episodes=8, number=25, **every)
    gradient = needed(reached, 8 * STEPS, threshold)
    assert np.median(tables["uniform"]) < 800
    assert np.median(gradient) > 1_800
    assert np.isinf(tables["own"]).all()
    assert np.median(tables["own"]) > np.median(gradient)


def bandit_behind_a_door(means, noise):
    """The first state leads to a second, whose actions are paid `means` plus or minus `noise` and end the episode."""
    rows = [(0, action, 1, 1.0, 0.0, False) for action in range(len(means))]
    for action, (mean, size) in enumerate(zip(means, noise, strict=True)):
        rows += [(1, action, 1, 0.5, mean + sign * size, True) for sign in (-1.0, 1.0)]
    return ox.TabularMDP.from_outcomes(rows, criterion=ox.Discounted(0.5), initial=0)


def error_of_values(problem, temperature):
    """Root of the mean squared error of the first state's learned values, from the same samples at each temperature."""
    exact = ox.solve(problem, ox.SoftValueIteration(temperature=temperature)).details.q[0]
    learner = method(problem, temperature=temperature)
    _, values = soft_q(cast_floats(problem, np.float32), learner, steps=2, every=400, number=1, seeds=100)
    return float(np.sqrt(np.mean((np.asarray(values)[:, 0] - exact[None]) ** 2)))


@pytest.mark.slow
@pytest.mark.row("S160", "E3.28")
def test_learned_soft_values_are_closer_to_theirs_here_and_farther_there():
    """Eight actions alike, of noisy reward: the largest estimate is too large, and a soft maximum averages. One action
    whose reward is certain and far above a noisy one: the largest is exact, and what is soft hears the noise. Errors
    were 0.24 and 0.047, and 0 and 0.015."""
    alike = bandit_behind_a_door(np.zeros(8), np.ones(8))
    hard, soft = error_of_values(alike, 0.0), error_of_values(alike, 1.0)
    apart = bandit_behind_a_door([0.0, -5.0], [0.0, 1.0])
    hard_apart, soft_apart = error_of_values(apart, 0.0), error_of_values(apart, 5.0)
    assert soft < 0.6 * hard
    assert hard_apart < 0.5 * soft_apart
