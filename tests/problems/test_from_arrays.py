"""The doors of `TabularMDP`: what comes in, and what is refused with which words."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.sparse
from jax.experimental import sparse

from enumeration import random_instance
from instances import close, problem
from optimality import AverageReward, Discounted, FiniteHorizon, TabularMDP, UntilTermination
from optimality.problems.models import DenseModel, SuccessorModel

RANDOM = np.random.default_rng(0)
TRANSITION = RANDOM.dirichlet(np.ones(3), size=(3, 2))
TRANSITION[0, 1] = 0.0, 0.4, 0.6
REWARD = RANDOM.normal(size=(3, 2, 3))
HORIZON = FiniteHorizon(3)


def make(transition=TRANSITION, reward=REWARD, criterion=HORIZON, **options):
    return TabularMDP.from_arrays(transition, reward, criterion=criterion, **options)


def law(mdp, state, action):
    """(successor, terminated) -> (probability, reward)"""
    with jax.enable_x64(True):
        found = mdp.model.law(state, action)
        table = {}
        for t, p, deviation, over in zip(*map(np.asarray, found), strict=True):
            if p > 0.0:
                table[int(t), bool(over)] = float(p), float(mdp.reward[state, action] + deviation)
    return table


@pytest.mark.parametrize(
    "transition",
    [
        TRANSITION,
        jnp.asarray(TRANSITION, jnp.float32),
        [scipy.sparse.csr_matrix(TRANSITION[:, a]) for a in range(2)],
        [scipy.sparse.coo_array(TRANSITION[:, a]) for a in range(2)],
        sparse.BCOO.fromdense(jnp.asarray(TRANSITION, jnp.float32), nse=30),
    ],
    ids=["numpy", "jax", "csr", "coo", "bcoo"],
)
def test_transitions(transition):
    is_jax = not isinstance(transition, np.ndarray | list)
    if is_jax:  # rounded to float32, so that rows are off by more than the tolerance
        with pytest.raises(ValueError, match="sum to"):
            make(transition, REWARD)
        halves = jnp.asarray([[[0.5, 0.5], [0.0, 1.0]], [[1.0, 0.0], [0.25, 0.75]]])
        mdp = make(sparse.BCOO.fromdense(halves, nse=8) if isinstance(transition, sparse.BCOO) else halves, np.ones(2))
        close(mdp.dense(), halves)
        return
    mdp = make(transition, REWARD)
    close(mdp.dense(), TRANSITION, 1e-6)
    close(mdp.reward, (TRANSITION * REWARD).sum(axis=-1))
    for s, a in np.ndindex(3, 2):
        for (t, over), (p, r) in law(mdp, s, a).items():
            assert not over
            close([p, r], [TRANSITION[s, a, t], REWARD[s, a, t]])


@pytest.mark.parametrize("shape", [(3,), (3, 2), (3, 2, 3)])
def test_reward_shapes(shape):
    reward = np.random.default_rng(1).normal(size=shape)
    mdp = make(reward=reward)
    full = np.broadcast_to(reward.reshape((*shape, *[1] * (3 - len(shape)))), (3, 2, 3))
    close(mdp.reward, (TRANSITION * full).sum(axis=-1))
    assert mdp.model.has_deviation == (len(shape) == 3)


@pytest.mark.parametrize(
    "terminated",
    [np.array([False, True, False]), np.array([[False, True], [True, False], [False, False]]), REWARD > 0.3],
    ids=["entering", "pair", "outcome"],
)
@pytest.mark.parametrize("form", ["dense", "successors"])
def test_terminated_shapes(terminated, form):
    mdp = make(terminated=terminated, form=form)
    over = terminated[None, None, :] if terminated.ndim == 1 else terminated.reshape((3, 2, -1))
    over = np.broadcast_to(over, (3, 2, 3))
    close(mdp.dense(), np.where(over, 0.0, TRANSITION), 1e-6)
    for s, a in np.ndindex(3, 2):
        expected = {(t, bool(over[s, a, t])) for t in range(3) if TRANSITION[s, a, t] > 0.0}
        assert set(law(mdp, s, a)) == expected


def test_rows_of_terminal_states_may_be_left_zero():
    transition = np.array([[[0.0, 1.0]], [[0.0, 0.0]]])
    mdp = make(transition, np.array([[1.0], [7.0]]), UntilTermination(), terminated=np.array([False, True]))
    close(mdp.dense(), np.zeros((2, 1, 2)))
    assert law(mdp, 1, 0) == {(1, True): (1.0, 0.0)}


def changed(array, place, value):
    array = array.copy()
    array[place] = value
    return array


UNEVEN = changed(TRANSITION, (1, 0, 2), TRANSITION[1, 0, 2] + 0.25)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"transition": UNEVEN}, r"state 1, action 0 sum to 1.25, off by \+0.25: continuing and terminated"),
        ({"transition": TRANSITION * 0.5}, r"state 0, action 0 sum to 0.5, off by -0.5 \(6 pairs in all\)"),
        ({"transition": changed(TRANSITION, (2, 1, 0), -0.1)}, "probability -0.1 at state 2, action 1, successor 0"),
        ({"transition": changed(TRANSITION, (2, 1, 0), np.nan)}, "probability nan at state 2, action 1, successor 0"),
        ({"transition": TRANSITION[:, :, :2]}, r"transition has shape \(3, 2, 2\)"),
        ({"transition": np.eye(3)}, r"needs \[S, A, S\], or one sparse"),
        ({"transition": [scipy.sparse.eye(3).tocsr(), scipy.sparse.eye(2).tocsr()]}, r"must all be \[S, S\] of one"),
        ({"reward": changed(REWARD, (0, 0, 1), np.nan)}, "reward nan at state 0, action 0, successor 1"),
        ({"reward": np.full((3, 2), -np.inf)}, "to forbid an action use `allowed`"),
        ({"reward": np.zeros((2, 3))}, r"reward has shape \(2, 3\), but needs \(3,\), \(3, 2\) or \(3, 2, 3\)"),
        ({"reward": np.float64(1.0)}, r"reward has shape \(\)"),
        ({"terminated": np.zeros((2, 3), bool)}, r"terminated has shape \(2, 3\)"),
        ({"criterion": None}, "criterion is missing"),
        ({"criterion": FiniteHorizon(3, 1.0, np.zeros(2))}, r"terminal_reward has shape \(2,\)"),
        ({"criterion": AverageReward(), "terminated": np.array([True, False, False])}, "never ends, but some outcomes"),
        ({"initial": np.array([0.5, 0.4, 0.0])}, "initial must be a probability distribution, but it sums to 0.9"),
        ({"initial": np.array([1.5, -0.5, 0.0])}, "smallest entry -0.5"),
        ({"initial": np.array([0.5, 0.5])}, r"initial has shape \(2,\)"),
        ({"initial": 3}, r"initial state 3 is outside 0\.\.2"),
        ({"allowed": np.ones((2, 3), bool)}, r"allowed has shape \(2, 3\)"),
        ({"allowed": np.array([[1, 1], [0, 0], [1, 1]], bool)}, "state 1 allows no action"),
        ({"log_prior": np.log(np.full((3, 2), 0.4))}, "log_prior at state 0 sums to 0.8 over the allowed actions"),
        ({"log_prior": np.zeros(3)}, r"log_prior"),
    ],
)
def test_what_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        make(**options)


def test_criteria_out_of_range():
    for discount in (1.0, -0.1, np.nan):
        with pytest.raises(ValueError, match=r"discount must be in \[0, 1\) over an unlimited time"):
            Discounted(discount)
    for discount in (1.1, -0.1, np.nan):
        with pytest.raises(ValueError, match=r"discount must be in \[0, 1\] with a finite horizon"):
            FiniteHorizon(3, discount)
    for horizon in (0, -2):
        with pytest.raises(ValueError, match="horizon must be a whole number of steps, at least 1"):
            FiniteHorizon(horizon)
    with pytest.raises(ValueError, match="terminal_reward has entries that are not finite"):
        FiniteHorizon(3, 1.0, np.array([0.0, np.inf]))


def test_traced_arrays_are_refused():
    with pytest.raises(ValueError, match="from_arrays takes concrete arrays"):
        jax.jit(lambda r: make(reward=r).reward)(jnp.zeros((3, 2)))


def test_rows_of_outcomes():
    with pytest.raises(ValueError, match="there are no outcomes"):
        TabularMDP.from_outcomes([], criterion=HORIZON)
    with pytest.raises(ValueError, match=r"successor 4 is outside 0\.\.2"):
        TabularMDP.from_outcomes([(0, 0, 4, 1.0, 0.0, False)], criterion=HORIZON, states=3)
    with pytest.raises(ValueError, match=r"state -1 is outside"):
        TabularMDP.from_outcomes([(-1, 0, 0, 1.0, 0.0, False)], criterion=HORIZON, states=3)
    twice = [(0, 0, 0, 0.5, 1.0, False), (0, 0, 0, 0.5, 2.0, False)]
    with pytest.raises(ValueError, match="form='dense' cannot hold this problem"):
        TabularMDP.from_outcomes(twice, criterion=HORIZON, form="dense")
    mdp = TabularMDP.from_outcomes(twice, criterion=HORIZON)
    assert isinstance(mdp.model, SuccessorModel)
    assert mdp.reward.tolist() == [[1.5]]


def test_equal_outcomes_are_merged_and_the_cheapest_form_is_taken():
    rows = [(0, 0, 1, 0.25, 1.0, False), (0, 0, 1, 0.25, 1.0, False), (0, 0, 0, 0.5, 1.0, False)]
    rows += [(1, 0, 1, 1.0, 0.0, False)]
    mdp = TabularMDP.from_outcomes(rows, criterion=HORIZON, form="successors")
    assert mdp.model.going_on.successor.shape == (2, 1, 2)
    assert not mdp.model.has_deviation
    assert isinstance(make().model, DenseModel)
    ring = np.roll(np.eye(40), 1, axis=1)[:, None]
    assert isinstance(make(ring, np.zeros(40)).model, SuccessorModel)


def test_concrete_arrays_stay_numpy_float64():
    mdp = make(reward=jnp.zeros((3, 2), jnp.float32))
    for array in (mdp.reward, mdp.initial, mdp.model.probability):
        assert isinstance(array, np.ndarray)
        assert array.dtype == np.float64


def test_unreachable_states():
    transition = np.eye(4)[[[0, 1], [1, 1], [2, 3], [3, 3]]]
    assert make(transition, np.zeros(4), initial=0).unreachable().tolist() == [2, 3]
    assert make(transition, np.zeros(4)).unreachable().tolist() == []
    allowed = np.array([[True, False]] + [[True, True]] * 3)
    assert make(transition, np.zeros(4), initial=0, allowed=allowed).unreachable().tolist() == [1, 2, 3]


@pytest.mark.parametrize("pair", [(0, 1), (1, 0)])
def test_sample_follows_the_law(pair):
    """Chi-square with a fixed key; the pair reaches one successor with two rewards, and ending too."""
    instance = random_instance()
    mdp, number = problem(instance), 20_000
    keys = jax.random.split(jax.random.key(3), number)
    drawn = jax.jit(jax.vmap(lambda key: mdp.sample(key, *pair)))(keys)
    outcomes = [row[2:] for row in instance.rows if row[:2] == pair]
    statistic, matched = 0.0, 0
    for successor, p, reward, over in outcomes:
        same = (np.asarray(drawn[0]) == successor) & (np.asarray(drawn[2]) == over)
        count = int(np.sum(same & (np.abs(np.asarray(drawn[1]) - reward) < 1e-5)))
        matched += count
        statistic += (count - number * p) ** 2 / (number * p)
    assert matched == number
    assert statistic < 20.5  # 0.9999 quantile for four degrees of freedom is 23.5, for two 18.4
