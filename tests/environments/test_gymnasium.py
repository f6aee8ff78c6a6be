"""Gymnasium both ways: our environments as its own, its environments in all three autoreset modes as ours."""

import subprocess
import sys
import warnings

import gymnasium
import jax.numpy as jnp
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.utils.env_checker import check_env
from gymnasium.vector import AutoresetMode, SyncVectorEnv

from clauses import against
from optimality.environments.cartpole import CartPole
from optimality.environments.catalog import CATALOG, make
from optimality.environments.from_gymnasium import (
    EnvironmentFailure,
    as_vector,
    autoreset_mode,
    is_true_step,
    true_next_observation,
    vector_time_limit,
)
from optimality.environments.gymnasium_environment import GymnasiumEnvironment
from optimality.environments.gymnasium_spaces import (
    action_masks,
    check_action_space,
    flat_observation_space,
    flatten_observations,
    to_gymnasium_actions,
)
from optimality.environments.pendulum import Pendulum
from optimality.environments.tabular import TabularEnvironment
from optimality.environments.to_gymnasium import (
    ExportedVectorEnv,
    register_environments,
    to_gymnasium,
    to_gymnasium_vector,
)
from optimality.environments.wrappers import RescaleAction, TimeLimit
from optimality.problems.criterion import UntilTermination
from optimality.problems.tabular import TabularMDP

MODES = list(AutoresetMode)


@pytest.fixture(autouse=True, scope="module")
def registered():
    register_environments()
    register_environments()


# ------------------------------------------------------------------------------------------------ ours as Gymnasium's


@pytest.mark.parametrize("name", CATALOG)
def test_passes_gymnasiums_checker(name):
    """Without warnings, except the one that Gymnasium's own Pendulum gets too, for actions in [-2, 2], and those about
    controls without bounds."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        check_env(gymnasium.make(f"optimality/{name}").unwrapped)
    texts = [str(warning.message) for warning in caught]
    if name == "Pendulum-v1":
        assert len(texts) == 1
        assert "symmetric and normalized" in texts[0]
    elif name in ("DoubleIntegrator-v0", "LinearCartPole-v0"):
        assert len(texts) == 3
        assert all(words in text for words, text in zip(("-infinity", "infinity", "symmetric"), texts, strict=True))
    else:
        assert not texts


def test_rescaled_pendulum_passes_without_warning():
    check_env(to_gymnasium(RescaleAction(make("Pendulum-v1"))), skip_render_check=True)


@pytest.mark.parametrize("name", ["CartPole-v1", "Pendulum-v1", "MountainCarContinuous-v0"])
def test_registered_twin_runs_as_gymnasiums(name):
    theirs, ours = gymnasium.make(name), gymnasium.make(f"optimality/{name}")
    assert ours.spec.max_episode_steps == theirs.spec.max_episode_steps
    assert ours.spec.reward_threshold == theirs.spec.reward_threshold
    theirs.reset(seed=1)
    ours.reset(seed=1)
    theirs.unwrapped.state = np.asarray(ours.unwrapped._state, np.float64)
    ours.action_space.seed(3)
    for _ in range(20):
        action = ours.action_space.sample()
        mine, other = ours.step(action), theirs.step(action)
        np.testing.assert_allclose(mine[0], other[0], rtol=1e-4, atol=1e-4)
        np.testing.assert_allclose(mine[1], other[1], rtol=1e-4, atol=1e-4)
        assert mine[2:4] == other[2:4]
        assert mine[0].dtype == other[0].dtype
        if mine[2]:
            break


def test_time_limit_of_gymnasium_truncates():
    environment = gymnasium.make("optimality/Pendulum-v1", max_episode_steps=3, gravity=5.0)
    assert environment.unwrapped.environment.gravity == 5.0
    environment.reset(seed=0)
    flags = [environment.step(np.zeros(1, np.float32))[2:4] for _ in range(3)]
    assert flags == [(False, False), (False, False), (False, True)]


def test_exported_refusals():
    environment = to_gymnasium(CartPole())
    with pytest.raises(gymnasium.error.ResetNeeded):
        environment.step(0)
    environment.reset(seed=0)
    with pytest.raises(ValueError, match="action 2 is not in"):
        environment.step(2)


def swap_table():
    """Two states that swap; the second offers one action only."""
    outcomes = [(0, 0, 1, 1.0, 1.0, False), (0, 1, 1, 1.0, 2.0, False), (1, 0, 0, 1.0, 3.0, False)]
    return TabularMDP.from_outcomes(outcomes, criterion=UntilTermination(), initial=0)


def test_masks_are_in_info():
    environment = to_gymnasium(TabularEnvironment(swap_table()))
    observation, info = environment.reset(seed=0)
    assert observation == 0
    np.testing.assert_array_equal(info["action_mask"], [True, True])
    np.testing.assert_array_equal(environment.step(1)[4]["action_mask"], [True, False])


@pytest.mark.parametrize("name", CATALOG)
def test_make_vec_has_a_vector_entry_point(name):
    vector = gymnasium.make_vec(f"optimality/{name}", num_envs=3, vectorization_mode="vector_entry_point")
    assert isinstance(vector, ExportedVectorEnv)
    assert vector.metadata["autoreset_mode"] is AutoresetMode.NEXT_STEP
    observation, _ = vector.reset(seed=0)
    assert vector.observation_space.contains(observation)
    vector.action_space.seed(0)
    observation, reward, terminated, truncated, _ = vector.step(vector.action_space.sample())
    assert vector.observation_space.contains(observation)
    assert reward.shape == terminated.shape == truncated.shape == (3,)
    vector.close()


def counting(limit):
    """An exported environment whose observation counts its steps by swapping states: 0, 1, 0, ..."""
    return TimeLimit(TabularEnvironment(swap_table()), limit)


@pytest.mark.parametrize("mode", MODES)
def test_exported_vector_equals_gymnasiums_synchronous_one(mode):
    """A deterministic environment, so that both show the same numbers step by step, fakes and final ones included."""
    ours = to_gymnasium_vector(counting(3), 2, mode)
    theirs = SyncVectorEnv([lambda: to_gymnasium(counting(3))] * 2, autoreset_mode=mode)
    assert ours.metadata["autoreset_mode"] is mode
    np.testing.assert_array_equal(ours.reset(seed=0)[0], theirs.reset(seed=0)[0])
    for time in range(9):
        actions = np.zeros(2, np.int64)
        mine, other = ours.step(actions), theirs.step(actions)
        for a, b in zip(mine[:4], other[:4], strict=True):
            np.testing.assert_array_equal(a, b)
            assert a.dtype == b.dtype
        assert mine[4].keys() - {"final_info", "_final_info"} == other[4].keys() - {"final_info", "_final_info"}
        for key in ("action_mask", "final_obs", "_final_obs"):
            np.testing.assert_array_equal(mine[4].get(key), other[4].get(key))
        done = mine[2] | mine[3]
        if mode is AutoresetMode.DISABLED and done.any():
            with pytest.raises(gymnasium.error.ResetNeeded, match="0, 1"):
                ours.step(actions)
            mask = np.array([True, True])
            first = ours.reset(options={"reset_mask": mask})[0]
            np.testing.assert_array_equal(first, theirs.reset(options={"reset_mask": mask})[0])
        assert time < 2 or mode is not AutoresetMode.SAME_STEP or "final_obs" in mine[4] or not done.any()


def test_partial_reset_of_an_exported_vector():
    vector = to_gymnasium_vector(Pendulum(), 3, AutoresetMode.DISABLED)
    before, _ = vector.reset(seed=0)
    assert len(np.unique(before[:, 0])) == 3
    after, _ = vector.reset(options={"reset_mask": np.array([False, True, False])})
    np.testing.assert_array_equal(after[[0, 2]], before[[0, 2]])
    assert not np.allclose(after[1], before[1])
    np.testing.assert_array_equal(vector.reset(seed=0)[0].shape, (3, 3))
    with pytest.raises(ValueError, match="3 booleans"):
        vector.reset(options={"reset_mask": np.array([True])})


def test_seeds_repeat():
    vector = to_gymnasium_vector(Pendulum(), 2)

    def play():
        shown = [vector.reset(seed=5)[0]]
        return np.stack(shown + [vector.step(np.ones((2, 1), np.float32))[0] for _ in range(4)])

    np.testing.assert_array_equal(play(), play())
    first, second = vector.reset(seed=5)[0], vector.reset()[0]
    assert not np.allclose(first, second)


def test_importing_the_library_does_not_import_gymnasium():
    code = "import sys, optimality; assert 'gymnasium' not in sys.modules and 'jax' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


# ------------------------------------------------------------------------------------------------ Gymnasium's as ours


class Counter(gymnasium.Env):
    """Observes `10 episode + step` and ends after `length` steps, so that no two observations are alike."""

    observation_space = spaces.Box(0.0, 1e4, (1,), np.float32)
    action_space = spaces.Discrete(2)

    def __init__(self, length=3, nested=False):
        self.length, self.nested, self.episode = length, nested, -1
        if nested:
            box = spaces.Box(0.0, 1e4, (1,), np.float32)
            self.observation_space = spaces.Dict({"count": box, "pair": spaces.Tuple((box, spaces.Discrete(3)))})

    def _observe(self):
        value = np.array([10 * self.episode + self.time], np.float32)
        return {"count": value, "pair": (value + 0.5, np.int64(self.time % 3))} if self.nested else value

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.episode, self.time = self.episode + 1, 0
        return self._observe(), {}

    def step(self, action):
        self.time += 1
        return self._observe(), float(self.time), self.time == self.length, False, {}


def naive(observation, done, info, mode):
    return observation


def every_row(observation, done, info, mode):
    if "final_obs" not in info:
        return observation
    return np.stack([observation[0] if row is None else row for row in info["final_obs"]])


@against(true_next_observation, naive=naive, every_row=every_row)
def test_true_next_observations_in_every_mode(implementation):
    """Two counters of lengths 2 and 3: whatever the mode, true transitions go from n to n + 1 within an episode."""
    for mode in MODES:
        vector = SyncVectorEnv([lambda: Counter(2), lambda: Counter(3)], autoreset_mode=mode)
        observation, _ = vector.reset(seed=0)
        previous, fakes, ends = np.zeros(2, bool), 0, 0
        for _ in range(12):
            following, reward, terminated, truncated, info = vector.step(np.zeros(2, np.int64))
            done, valid = terminated | truncated, is_true_step(previous, mode)
            final = implementation(following, done, info, mode)
            np.testing.assert_array_equal(final[valid], observation[valid] + 1)
            np.testing.assert_array_equal(reward[valid], final[valid, 0] % 10)
            fakes, ends, previous, observation = fakes + (~valid).sum(), ends + done.sum(), done, following
            if mode is AutoresetMode.DISABLED and done.any():
                observation, _ = vector.reset(options={"reset_mask": done})
        assert ends >= 6
        assert (fakes > 0) == (mode is AutoresetMode.NEXT_STEP)


def test_nested_final_observations():
    for mode in MODES:
        vector = SyncVectorEnv([lambda: Counter(1, True), lambda: Counter(3, True)], autoreset_mode=mode)
        vector.reset(seed=0)
        following, _, terminated, _, info = vector.step(np.zeros(2, np.int64))
        final = true_next_observation(following, terminated, info, mode)
        np.testing.assert_array_equal(final["count"], [[1.0], [1.0]])
        np.testing.assert_array_equal(final["pair"][0], [[1.5], [1.5]])
        np.testing.assert_array_equal(final["pair"][1], [1, 1])


def test_a_missing_final_observation_is_an_error():
    with pytest.raises(EnvironmentFailure, match="final_obs"):
        true_next_observation(np.zeros((1, 1)), np.array([True]), {"final_observation": 1}, AutoresetMode.SAME_STEP)


SOURCES = {
    "factory": lambda: lambda: Counter(3),
    "NextStep": lambda: SyncVectorEnv([lambda: Counter(3)] * 2, autoreset_mode="NextStep"),
    "SameStep": lambda: SyncVectorEnv([lambda: Counter(3)] * 2, autoreset_mode="SameStep"),
    "Disabled": lambda: SyncVectorEnv([lambda: Counter(3)] * 2, autoreset_mode="Disabled"),
}


@pytest.mark.parametrize("source", SOURCES)
def test_host_environment_shows_true_transitions(source):
    environment = GymnasiumEnvironment(SOURCES[source](), 2)
    observation, mask = environment.reset(seed=0)
    assert mask is None
    ends = 0
    for _ in range(13):
        moved = environment.step(np.zeros(2, np.int32))
        valid = moved.valid
        np.testing.assert_array_equal(moved.next_observation[valid], observation[valid] + 1)
        assert moved.reward.dtype == moved.next_observation.dtype == np.float32
        ends += (moved.done & valid).sum()
        observation, _ = environment.restart()
    assert ends == (6 if source == "NextStep" else 8)
    environment.close()


def test_host_environment_of_every_kind():
    made = gymnasium.wrappers.TransformReward(gymnasium.make("CartPole-v1"), lambda reward: 2 * reward)
    assert GymnasiumEnvironment("CartPole-v1", 3).number == 3
    assert GymnasiumEnvironment("CartPole-v1", 3, sutton_barto_reward=True).name == "CartPole-v1"
    wrapped = GymnasiumEnvironment(made)
    wrapped.reset(seed=0)
    assert wrapped.step(np.zeros(1, np.int32)).reward == 2.0
    assert wrapped.time_limit == 500
    own = GymnasiumEnvironment(make("Pendulum-v1"), 4)
    assert own.mode is AutoresetMode.DISABLED
    assert own.time_limit == 200
    observation, _ = own.reset(seed=0)
    assert own.step(np.zeros((4, 1), np.float32)).next_observation.shape == observation.shape == (4, 3)
    native = gymnasium.make_vec("CartPole-v1", num_envs=2)
    assert as_vector(native, 2) is native
    assert autoreset_mode(native) is AutoresetMode.NEXT_STEP
    assert vector_time_limit(native) == 500
    assert GymnasiumEnvironment(lambda: Counter(3)).time_limit is None


def test_seeds_of_copies_differ_and_repeat():
    def first():
        return GymnasiumEnvironment("CartPole-v1", 2).reset(seed=4)[0]

    np.testing.assert_array_equal(first(), first())
    assert not np.allclose(first()[0], first()[1])
    np.testing.assert_array_equal(first()[1], gymnasium.make("CartPole-v1").reset(seed=5)[0])


class NoMode(gymnasium.vector.VectorEnv):
    num_envs = 1
    single_observation_space = observation_space = spaces.Box(0, 1, (1,), np.float32)
    single_action_space = action_space = spaces.Discrete(2)


@pytest.mark.parametrize(
    ("source", "number", "options", "error", "message"),
    [
        ("NoSuch-v0", 1, {}, ValueError, "NoSuch-v0"),
        (Counter(), 2, {}, ValueError, "cannot become 2"),
        (lambda: Counter(), 1, {"g": 1}, ValueError, "options"),
        (lambda: 3, 1, {}, TypeError, "returned int"),
        (3, 1, {}, TypeError, "int is no environment"),
        ("CartPole-v1", 0, {}, ValueError, "at least 1"),
        (SyncVectorEnv([Counter] * 2), 3, {}, ValueError, "has 2 environments"),
        (NoMode(), None, {}, ValueError, "autoreset_mode"),
    ],
)
def test_source_refusals(source, number, options, error, message):
    with pytest.raises(error, match=message):
        as_vector(source, number, **options)


def test_a_factory_must_make_new_ones():
    one = Counter()
    with pytest.raises(ValueError, match="same environment twice"):
        as_vector(lambda: one, 2)


# ------------------------------------------------------------------------------------------------ spaces

PARTS = [
    spaces.Box(-1.0, 2.0, (2, 2), np.float32),
    spaces.Box(0, 255, (3,), np.uint8),
    spaces.Discrete(4, start=2),
    spaces.MultiDiscrete([2, 3]),
    spaces.MultiBinary(3),
    spaces.Dict({"b": spaces.Discrete(2), "a": spaces.Tuple((spaces.Box(0.0, 1.0, (1,)), spaces.MultiBinary((2, 2))))}),
    spaces.Tuple((spaces.Discrete(3), spaces.Dict({"x": spaces.Box(-np.inf, np.inf, (2,), np.float64)}))),
]


def unsorted(space, batch):
    flat = flatten_observations(space, batch)
    return flat[:, ::-1] if isinstance(space, spaces.Dict) else flat


def from_zero(space, batch):
    flat = flatten_observations(space, batch)
    return flat if not isinstance(space, spaces.MultiDiscrete) else 1 - flat


@against(flatten_observations, unsorted=unsorted, from_zero=from_zero)
def test_flattening_is_gymnasiums(implementation):
    for space in [part for part in PARTS if isinstance(part, spaces.Dict | spaces.Tuple | spaces.MultiDiscrete)]:
        space.seed(0)
        rows = [space.sample() for _ in range(5)]
        vector_space = gymnasium.vector.utils.batch_space(space, 5)
        batch = gymnasium.vector.utils.concatenate(space, rows, gymnasium.vector.utils.create_empty_array(space, 5))
        assert vector_space.contains(batch)
        flat = implementation(space, batch)
        expected = np.stack([spaces.flatten(space, row) for row in rows]).astype(np.float32)
        np.testing.assert_array_equal(flat, expected)
        assert flat.dtype == np.float32
        theirs = spaces.flatten_space(space)
        ours = flat_observation_space(space)
        np.testing.assert_array_equal(ours.low, theirs.low.astype(np.float32))
        np.testing.assert_array_equal(ours.high, theirs.high.astype(np.float32))


def test_plain_observations_keep_their_form():
    pixels = np.zeros((2, 3), np.uint8)
    assert flatten_observations(PARTS[1], pixels).dtype == np.uint8
    np.testing.assert_array_equal(flatten_observations(PARTS[2], np.array([2, 5])), [0, 3])
    assert flat_observation_space(PARTS[2]) == spaces.Discrete(4)
    wide = spaces.Box(-1.0, 1.0, (2,), np.float64)
    batch = np.zeros((3, 2))
    assert flatten_observations(wide, batch).dtype == np.float32
    narrow = np.zeros((3, 2), np.float32)
    assert not np.shares_memory(flatten_observations(PARTS[0], narrow), narrow)
    assert flat_observation_space(PARTS[0]).shape == (2, 2)


@pytest.mark.parametrize(
    "space", [spaces.Text(3), spaces.Dict({"a": spaces.Sequence(spaces.Discrete(2))}), spaces.Dict({})]
)
def test_observation_spaces_without_a_size_are_refused(space):
    with pytest.raises(TypeError, match=r"fixed size|no parts"):
        flat_observation_space(space)


@pytest.mark.parametrize(
    "space",
    [spaces.Dict({"a": spaces.Discrete(2)}), spaces.MultiBinary(2), spaces.Box(0, 3, (2,), np.int32), spaces.Text(2)],
)
def test_action_spaces_that_are_not_supported(space):
    with pytest.raises(TypeError, match="supported are"):
        check_action_space(space)


def test_actions_are_converted():
    shifted = to_gymnasium_actions(spaces.Discrete(3, start=5), np.array([0, 2], np.int32))
    assert shifted.dtype == np.int64
    np.testing.assert_array_equal(shifted, [5, 7])
    many = spaces.MultiDiscrete([2, 3], start=[1, 0])
    np.testing.assert_array_equal(to_gymnasium_actions(many, np.array([[0, 2]], np.int32)), [[1, 2]])
    box = spaces.Box(-2.0, 2.0, (1,), np.float64)
    converted = to_gymnasium_actions(box, jnp.array([[3.0]]))
    assert converted.dtype == np.float64
    assert converted[0, 0] == 3.0


class Digits(gymnasium.Env):
    """MultiDiscrete actions counted from 1, a Dict observation, masks that offer one action fewer after each step."""

    observation_space = spaces.Dict({"position": spaces.Discrete(3), "last": spaces.MultiDiscrete([2, 3])})

    def __init__(self, discrete=False):
        self.action_space = spaces.Discrete(3, start=1) if discrete else spaces.MultiDiscrete([2, 3], start=[1, 1])
        self.discrete = discrete

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.time = 0
        return self._observe(np.zeros(2, np.int64)), self._info()

    def _observe(self, last):
        return {"position": np.int64(self.time), "last": last}

    def _info(self):
        mask = np.arange(3) >= self.time
        return {"action_mask": mask if self.discrete else (np.ones(2, bool), mask)}

    def step(self, action):
        assert self.action_space.contains(action)
        self.time += 1
        last = np.zeros(2, np.int64) if self.discrete else np.asarray(action) - 1
        return self._observe(last), 0.0, self.time == 2, False, self._info()


@pytest.mark.parametrize("discrete", [True, False])
def test_masks_and_digits_through_the_whole(discrete):
    environment = GymnasiumEnvironment(lambda: Digits(discrete), 2)
    observation, mask = environment.reset(seed=0)
    ones = [] if discrete else [True, True]
    np.testing.assert_array_equal(mask, [[*ones, True, True, True]] * 2)
    action = np.array([2, 2]) if discrete else np.array([[1, 2], [0, 1]])
    moved = environment.step(action)
    np.testing.assert_array_equal(moved.next_observation[:, -3:], [[0, 1, 0]] * 2)
    observation, mask = environment.restart()
    np.testing.assert_array_equal(mask, [[*ones, False, True, True]] * 2)
    moved = environment.step(action)
    assert moved.terminated.all()
    _, mask = environment.restart()
    np.testing.assert_array_equal(mask, [[*ones, True, True, True]] * 2)
    assert observation.shape == (2, 8)


def test_masks_of_environments_that_gave_none_offer_everything():
    info = {"action_mask": np.array([[True, False], [False, False]]), "_action_mask": np.array([True, False])}
    np.testing.assert_array_equal(action_masks(info, spaces.Discrete(2), 2), [[True, False], [True, True]])
    assert action_masks({}, spaces.Discrete(2), 2) is None
    with pytest.raises(ValueError, match="offers no action"):
        action_masks({"action_mask": np.zeros((1, 2), bool)}, spaces.Discrete(2), 1)
    with pytest.raises(ValueError, match="3 entries for 2 actions"):
        action_masks({"action_mask": np.ones((1, 3), bool)}, spaces.Discrete(2), 1)
    with pytest.raises(TypeError, match="masks are for discrete"):
        action_masks({"action_mask": np.ones((1, 3), bool)}, spaces.Box(0.0, 1.0, (3,)), 1)


def test_a_mask_survives_the_restart_of_another_environment():
    lengths = iter([1, 3])

    class Masked(Counter):
        def reset(self, **options):
            observation, _ = super().reset(**options)
            return observation, {"action_mask": np.array([True, True])}

        def step(self, action):
            *moved, _ = super().step(action)
            return (*moved, {"action_mask": np.array([True, False])})

    environment = GymnasiumEnvironment(lambda: Masked(next(lengths)), 2)
    environment.reset(seed=0)
    environment.step(np.zeros(2, np.int32))
    _, mask = environment.restart()
    np.testing.assert_array_equal(mask, [[True, True], [True, False]])


# ------------------------------------------------------------------------------------------------ failures


class Broken(Counter):
    def __init__(self, how, at=2):
        super().__init__(length=10)
        self.how, self.at = how, at

    def step(self, action):
        observation, reward, terminated, truncated, info = super().step(action)
        if self.time == self.at:
            if self.how == "raises":
                raise KeyError("lost the key")
            if self.how == "shape":
                observation = np.zeros(2, np.float32)
            if self.how == "nan":
                observation = np.array([np.nan], np.float32)
            if self.how == "reward":
                reward = np.nan
        return observation, reward, terminated, truncated, info


FAILURES = {
    "raises": "raised KeyError for action 1: 'lost the key'",
    "shape": r"the observation has shape \(2,\), but the space has \(1,\): \[0. 0.\]",
    "nan": r"the observation is \[nan\]",
    "reward": "the reward is nan",
}


@pytest.mark.parametrize("how", FAILURES)
def test_failures_name_environment_step_and_value(how):
    sources = iter([Counter(10), Broken(how)])
    environment = GymnasiumEnvironment(lambda: next(sources), 2)
    environment.reset(seed=0)
    environment.step(np.ones(2, np.int32))
    with pytest.raises(EnvironmentFailure, match=rf"Broken, copy 1: episode 0, step 2: {FAILURES[how]}"):
        environment.step(np.ones(2, np.int32))


@pytest.mark.parametrize("how", ["raises", "shape", "nan", "reward"])
def test_failures_of_vector_environments(how):
    environment = GymnasiumEnvironment(SyncVectorEnv([lambda: Counter(10), lambda: Broken(how)]))
    environment.reset(seed=0)
    environment.step(np.ones(2, np.int32))
    copy = ", copy 1" if how in ("nan", "reward") else ""
    with pytest.raises(EnvironmentFailure, match=rf"Counter{copy}: step 2"):
        environment.step(np.ones(2, np.int32))


class ShortVector(ExportedVectorEnv):
    def step(self, actions):
        observation, *rest = super().step(actions)
        return observation[:, :2], *rest


def test_vector_environments_that_change_shape():
    environment = GymnasiumEnvironment(ShortVector(Pendulum(), 2))
    environment.reset(seed=0)
    with pytest.raises(
        EnvironmentFailure, match=r"step 1: observations have shape \(2, 2\), but the space has \(2, 3\)"
    ):
        environment.step(np.zeros((2, 1), np.float32))


def test_the_same_numbers_from_the_twin():
    """The host environment around Gymnasium's CartPole and around ours, from the same states, by the same actions."""
    theirs, ours = GymnasiumEnvironment("CartPole-v1", 2), GymnasiumEnvironment(make("CartPole-v1"), 2)
    theirs.reset(seed=0)
    observation, _ = ours.reset(seed=0)
    for plain, row in zip(theirs.vector.envs, observation, strict=True):
        plain.unwrapped.state = row.astype(np.float64)
    for time in range(40):
        action = np.array([time % 2, (time // 2) % 2], np.int32)
        a, b = ours.step(action), theirs.step(action)
        np.testing.assert_allclose(a.next_observation, b.next_observation, rtol=1e-3, atol=1e-4)
        np.testing.assert_array_equal(a.reward, b.reward)
        np.testing.assert_array_equal(a.done, b.done)
        if a.done.any():
            break
