"""Wrappers against Gymnasium's own, against hand-made episodes, and nested."""

import equinox as eqx
import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from clauses import against
from optimality.environments.cartpole import CartPole
from optimality.environments.pendulum import Pendulum
from optimality.environments.probes import EndlessReward
from optimality.environments.tabular import TabularEnvironment
from optimality.environments.to_gymnasium import to_gymnasium
from optimality.environments.wrappers import (
    EpisodeStatistics,
    FrameStack,
    PartialObservation,
    RescaleAction,
    TimeLimit,
)
from optimality.problems.criterion import UntilTermination
from optimality.problems.generators import chain

KEY = jax.random.key(0)


def play(environment, actions, key=KEY):
    """All that an episode shows, first observation apart, without resets."""

    @eqx.filter_jit
    def episode(environment, actions):
        state, first = environment.reset(key)

        def body(state, row):
            state, *shown = environment.step(row[0], state, row[1])
            return state, shown

        state, shown = jax.lax.scan(body, state, (jax.random.split(key, len(actions)), actions))
        return state, first, shown

    return episode(environment, jnp.asarray(actions))


class NeverLater(TimeLimit):
    """Forgets that the limit was passed, and counts from one."""

    def step(self, key, state, action):
        inner, observation, reward, terminated, _ = self.environment.step(key, state.inner, action)
        time = state.time + 1
        return type(state)(inner, time), observation, reward, terminated, time > self.limit


class AsTermination(TimeLimit):
    def step(self, key, state, action):
        state, observation, reward, terminated, truncated = super().step(key, state, action)
        return state, observation, reward, terminated | truncated, truncated


@against(TimeLimit, off_by_one=NeverLater, as_termination=AsTermination)
def test_time_limit(implementation, x64):
    environment = implementation(EndlessReward(), 3)
    _, _, (_, reward, terminated, truncated) = play(environment, np.zeros(4, np.int32))
    np.testing.assert_array_equal(truncated, [False, False, True, True])
    assert not terminated.any()
    np.testing.assert_array_equal(reward, 1.0)
    assert environment.time_limit == 3


def test_the_tightest_time_limit_counts():
    nested = TimeLimit(TimeLimit(CartPole(), 7), 9)
    assert nested.time_limit == 7
    assert TimeLimit(TimeLimit(CartPole(), 9), 7).time_limit == 7
    _, _, shown = play(TimeLimit(TimeLimit(EndlessReward(), 7), 9), np.zeros(8, np.int32))
    assert shown[3].tolist() == [False] * 6 + [True] * 2


@against(RescaleAction, identity=lambda environment: environment)
def test_rescaled_actions(implementation, x64):
    actions = np.linspace(-1.0, 1.0, 5, dtype=np.float32)[:, None]
    ours = play(implementation(Pendulum()), actions)
    theirs = play(Pendulum(), 2.0 * actions)
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-6)


def test_rescaling_of_bounds_that_are_not_symmetric():
    environment = RescaleAction(Pendulum())
    environment = eqx.tree_at(lambda e: (e.low, e.high), environment, (np.array([-1.0]), np.array([2.0])))
    torque = play(Pendulum(), np.array([[0.5]], np.float32))
    scaled = play(environment, np.array([[0.0]], np.float32))
    np.testing.assert_allclose(scaled[2][0], torque[2][0], rtol=1e-6)
    assert environment.action_space == gymnasium.spaces.Box(-1.0, 1.0, (1,), np.float32)


@pytest.mark.parametrize("number", [1, 3])
def test_frames_equal_gymnasiums(number):
    theirs = gymnasium.wrappers.FrameStackObservation(to_gymnasium(CartPole()), number)
    ours = to_gymnasium(FrameStack(CartPole(), number))
    np.testing.assert_array_equal(ours.reset(seed=3)[0], theirs.reset(seed=3)[0])
    for action in (0, 1, 1, 0, 0):
        np.testing.assert_array_equal(ours.step(action)[0], theirs.step(action)[0])
    assert ours.observation_space == theirs.observation_space


def test_partial_observation():
    environment = PartialObservation(CartPole(), (1, 3))
    full = play(CartPole(), np.array([0, 1, 1]))
    part = play(environment, np.array([0, 1, 1]))
    np.testing.assert_array_equal(part[1], full[1][jnp.array([0, 2])])
    np.testing.assert_array_equal(part[2][0], full[2][0][:, jnp.array([0, 2])])
    np.testing.assert_array_equal(part[2][1], full[2][1])
    assert environment.observation_space.contains(np.asarray(part[1]))


def test_episode_statistics_are_complete_on_the_last_step():
    actions = np.full(30, 1)
    state, _, (_, reward, terminated, _) = play(EpisodeStatistics(CartPole()), actions[:5])
    assert float(state.episode_return) == 5.0 == float(reward.sum())
    assert int(state.length) == 5
    assert not terminated.any()


def test_wrappers_nest_and_map():
    environment = EpisodeStatistics(TimeLimit(FrameStack(PartialObservation(RescaleAction(Pendulum()), (2,)), 2), 4))
    keys = jax.random.split(KEY, 3)
    state, observation = jax.vmap(environment.reset)(keys)
    assert observation.shape == (3, 2, 2)
    for _ in range(4):
        state, observation, reward, _, truncated = jax.vmap(environment.step)(keys, state, jnp.zeros((3, 1)))
    assert truncated.all()
    assert reward.shape == (3,)
    assert environment.observation_space.shape == (2, 2)
    assert environment.time_limit == 4
    assert environment.action_mask(jax.tree.map(lambda leaf: leaf[0], state)) is None


def test_masks_go_through_wrappers():
    table = chain(criterion=UntilTermination())
    environment = EpisodeStatistics(TimeLimit(TabularEnvironment(table), 5))
    state, _ = environment.reset(KEY)
    assert environment.action_mask(state) is None  # everything is allowed everywhere
    table = eqx.tree_at(lambda t: t.allowed, table, np.arange(2) == np.zeros((table.shape[0], 1)))
    environment = EpisodeStatistics(TimeLimit(TabularEnvironment(table), 5))
    np.testing.assert_array_equal(environment.action_mask(state), [True, False])


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: TimeLimit(CartPole(), 0), ValueError, "at least 1"),
        (lambda: FrameStack(CartPole(), 0), ValueError, "at least 1"),
        (lambda: RescaleAction(CartPole()), TypeError, "CartPole"),
        (lambda: RescaleAction(Pendulum(max_torque=np.inf)), ValueError, "finite bounds"),
        (lambda: PartialObservation(CartPole(), (4,)), ValueError, r"0\.\.3"),
        (lambda: PartialObservation(Pendulum(), (0, 1, 2)), ValueError, "every coordinate"),
        (lambda: FrameStack(TabularEnvironment(chain(criterion=UntilTermination())), 2), TypeError, "Discrete"),
    ],
)
def test_refusals(make, error, message):
    with pytest.raises(error, match=message):
        make()
