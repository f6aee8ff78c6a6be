"""Demonstrations counted on a table: against plain loops, and everything that cannot have happened there."""

import itertools
import re

import jax
import numpy as np
import pytest

import optimality as ox
from clauses import against
from optimality.inverse.demonstrated import (
    check_demonstrations,
    demonstrated_states,
    demonstrated_visits,
)

# state 0: stay or go; state 1: only action 0, which ends in 2 or goes back; state 2 is only ever entered at the end
ROWS = [
    (0, 0, 0, 1.0, 0.0, False),
    (0, 1, 1, 0.7, 0.0, False),
    (0, 1, 0, 0.3, 0.0, False),
    (1, 0, 2, 0.5, 1.0, True),
    (1, 0, 0, 0.5, 0.0, False),
    (2, 0, 2, 1.0, 0.0, True),
]


def problem(criterion=None, form="auto"):
    criterion = ox.FiniteHorizon(4, 0.9) if criterion is None else criterion
    return ox.TabularMDP.from_outcomes(
        ROWS, criterion=criterion, initial=0, states=3, actions=2, form=form, name="trio"
    )


def made(observation=((0, 1, 2), (0, 0, 1, 0)), action=((1, 0), (0, 1, 0)), terminated=(True, False), **options):
    seen = [np.array(part) for part in observation]
    taken = None if action is None else [np.array(part) for part in action]
    return ox.Demonstrations.from_arrays(seen, taken, terminated=list(terminated), **options)


def forgets_the_discount(mdp, demos):
    return demonstrated_visits(problem(ox.FiniteHorizon(4)), demos)


def forgets_weights(mdp, demos):
    return demonstrated_visits(mdp, ox.Demonstrations(demos.observation, demos.action, demos.valid, demos.terminated))


def counts_padding(mdp, demos):
    found = demonstrated_visits(mdp, demos)
    return found._replace(pairs=found.pairs + np.eye(4)[2][:, None, None] * np.eye(3)[0][:, None] * np.eye(2)[0])


@pytest.mark.parametrize("criterion", [ox.FiniteHorizon(4, 0.9), ox.Discounted(0.9)], ids=["horizon", "discounted"])
@against(
    demonstrated_visits,
    forgets_the_discount=forgets_the_discount,
    forgets_weights=forgets_weights,
    counts_padding=counts_padding,
)
def test_visits(implementation, criterion):
    demos = made(log_weight=np.log([3.0, 1.0]))
    expected = np.zeros((4, 3, 2))
    for weight, states, actions in ((0.75, (0, 1), (1, 0)), (0.25, (0, 0, 1), (0, 1, 0))):
        for time, (state, action) in enumerate(zip(states, actions, strict=True)):
            expected[time, state, action] += weight * 0.9**time
    finite = isinstance(criterion, ox.FiniteHorizon)
    found = implementation(problem(criterion), demos)
    pairs = np.asarray(found.pairs)
    assert pairs.shape == ((4, 3, 2) if finite else (3, 2)) or not finite
    np.testing.assert_allclose(pairs.sum(axis=0) if pairs.ndim == 3 else pairs, expected.sum(axis=0), rtol=1e-14)
    if finite:
        np.testing.assert_allclose(pairs, expected, rtol=1e-14)
    np.testing.assert_allclose(found.initial, [1.0, 0.0, 0.0])
    assert found.horizon == 3


def test_states_before_and_after():
    found = demonstrated_states(problem(), made(action=None))
    before, after = np.zeros((4, 3)), np.zeros((4, 3))
    for states in ((0, 1, 2), (0, 0, 1, 0)):
        for time, (state, successor) in enumerate(itertools.pairwise(states)):
            before[time, state] += 0.5 * 0.9**time
            after[time, successor] += 0.5 * 0.9**time
    np.testing.assert_allclose(found.states, before, rtol=1e-14)
    np.testing.assert_allclose(found.next_states, after, rtol=1e-14)
    discounted = demonstrated_states(problem(ox.Discounted(0.9)), made(action=None))
    np.testing.assert_allclose(discounted.next_states, after.sum(axis=0), rtol=1e-14)
    with_actions = demonstrated_visits(problem(), made())
    np.testing.assert_allclose(found.states, with_actions.pairs.sum(axis=-1), rtol=1e-14)


@pytest.mark.parametrize(
    ("criterion", "tolerance"),
    [(ox.FiniteHorizon(30, 0.95), 0.11), (ox.Discounted(0.8), 0.042)],
    ids=["horizon", "discounted"],
)
def test_visits_approach_the_occupancy_of_the_policy(criterion, tolerance):
    """Over 5,000 episodes ten seeds were off by at most 0.056 and 0.021, of totals 15.7 and 5; twice that fails."""
    mdp = ox.random_mdp(6, 3, 3, seed=4, criterion=criterion)
    solved = ox.solve(mdp, ox.SoftValueIteration(temperature=1.0))
    demos = ox.Demonstrations.from_policy(mdp, solved.policy, 5_000, jax.random.key(0))
    exact = np.asarray(ox.solve(ox.UnderPolicy(mdp, solved.policy)).details.occupancy)
    exact = exact.sum(axis=0) if exact.ndim == 3 else exact
    found = np.asarray(demonstrated_visits(mdp, demos).pairs)
    found = found.sum(axis=0) if found.ndim == 3 else found
    np.testing.assert_allclose(found, exact, atol=tolerance)


FLOATS = ox.Demonstrations.from_arrays([[0.0, 1.0]], [[0]], terminated=False)


@pytest.mark.parametrize("form", ["dense", "successors"])
@pytest.mark.parametrize(
    ("demos", "message"),
    [
        (
            made(action=((1, 1), (0, 1, 0))),
            "episode 0, step 1: state 1, action 1: the model does not offer",
        ),
        (made(action=((0, 0), (0, 1, 0))), "episode 0, step 0: state 0, action 0, next state 1: this transition has"),
        (made(((0, 2, 2), (0, 0, 1, 0))), "episode 0, step 0: state 0, action 1, next state 2: this transition has"),
        (made(terminated=(False, False)), "next state 2: in trio this ends the episode, but terminated is False"),
        (made(terminated=(True, True)), "episode 1, step 2: state 1, action 0, next state 0: the episode terminated"),
        (
            made(((0, 1, 2, 2), (0, 0)), ((1, 0, 0), (0,))),
            "episode 0, step 1: state 1, action 0, next state 2: in trio this ends the episode, but the episode has",
        ),
        (made(((0, 1, 3), (0, 0)), ((1, 0), (0,))), "episode 0, step 2: state 3 is outside 0..2 of the model"),
        (made(((0, 1, 2), (-1, 0)), ((1, 0), (0,))), "episode 1, step 0: state -1 is outside 0..2"),
        (made(action=((1, 2), (0, 1, 0))), "episode 0, step 1: action 2 is outside 0..1"),
        (made(((0,) * 6,), ((0,) * 5,), (False,)), "episode 0 has 5 steps, but the horizon of trio is 4"),
        (FLOATS, "observations of the demonstrations have type float64"),
        (
            made(action=(((0.5,), (0.5,)), ((0.5,),) * 3)),
            "actions of the demonstrations have type float64 and shape",
        ),
        (made(action=None), "have no actions, but these are needed"),
    ],
)
def test_what_cannot_have_happened(demos, message, form):
    with pytest.raises(ValueError, match=re.escape(message)):
        demonstrated_visits(problem(form=form), demos)


@pytest.mark.parametrize("form", ["dense", "successors"])
def test_states_alone_are_checked_over_all_offered_actions(form):
    check_demonstrations(problem(form=form), made(action=None))
    with pytest.raises(ValueError, match="state 0, next state 2: this transition has probability 0"):
        check_demonstrations(problem(form=form), made(((0, 2, 2), (0, 0)), None))


def test_padding_may_hold_anything():
    clean = made()
    noisy = ox.Demonstrations(
        np.where(np.arange(4) <= clean.lengths[:, None], clean.observation, 77),
        np.where(clean.valid, clean.action, -9),
        clean.valid,
        clean.terminated,
    )
    np.testing.assert_array_equal(
        demonstrated_visits(problem(), noisy).pairs, demonstrated_visits(problem(), clean).pairs
    )


def test_empty():
    nobody = ox.Demonstrations(np.zeros((0, 3), int), np.zeros((0, 2), int), np.zeros((0, 2), bool), np.zeros(0, bool))
    with pytest.raises(ValueError, match="the demonstrations are empty"):
        demonstrated_visits(problem(), nobody)
