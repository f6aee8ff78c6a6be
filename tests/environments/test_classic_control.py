"""Classic control against Gymnasium's own: one step from 10,000 of its states, whole episodes, first states."""

import functools
import importlib
from types import SimpleNamespace
from typing import Any, NamedTuple

import equinox as eqx
import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from clauses import against
from optimality.core.numerics import cast_floats
from optimality.environments.acrobot import Acrobot, rates
from optimality.environments.cartpole import CartPole
from optimality.environments.mountain_car import MountainCar
from optimality.environments.mountain_car_continuous import MountainCarContinuous
from optimality.environments.pendulum import Pendulum

STATES = 10_000


class Twin(NamedTuple):
    ours: Any
    module: str
    theirs: str
    options: dict
    limit: int
    edges: Any
    """Random states near boundaries, from a NumPy generator."""
    parameters: dict = {}  # noqa: RUF012
    """Attributes of Gymnasium's that its constructor does not take."""
    single: float = 1e-5
    """Tolerance in float32."""


def around(centers, spread):
    """Near one of the given values of each coordinate, or anywhere between them."""

    def draw(random, number):
        columns = []
        for values, width in zip(centers, spread, strict=True):
            near = random.choice(values, number) + width * random.normal(size=number)
            anywhere = random.uniform(min(values) - width, max(values) + width, number)
            columns.append(np.where(random.random(number) < 0.7, near, anywhere))
        return np.stack(columns, 1)

    return draw


PATH = "gymnasium.envs.classic_control"
LIMIT = 12 * 2 * np.pi / 360
CART_EDGES = around(((-2.4, 0.0, 2.4), (-3.0, 0.0, 3.0), (-LIMIT, 0.0, LIMIT), (-3.0, 0.0, 3.0)), (0.1, 0.5, 0.05, 0.5))
CAR_EDGES = around(((-1.2, 0.45, 0.5, 0.6), (-0.07, 0.0, 0.07)), (0.05, 0.02))
ARM_EDGES = around(((-np.pi, 0, np.pi), (-np.pi, 0, np.pi), (-2, 0, 2), (-3, 0, 3)), (0.5, 0.5, 1.0, 1.0))
FAST_EDGES = around(
    ((-np.pi, 0, np.pi), (-np.pi, 0, np.pi), (-4 * np.pi, 0, 4 * np.pi), (-9 * np.pi, 0, 9 * np.pi)),
    (0.5, 0.5, 3.0, 3.0),
)


def inside(draw, low, high):
    return lambda random, number: np.clip(draw(random, number), low, high)


CAR = inside(CAR_EDGES, [-1.2, -0.07], [0.6, 0.07])
TOP = np.array([np.pi, np.pi, 4 * np.pi, 9 * np.pi])
ARM, FAST = inside(ARM_EDGES, -TOP, TOP), inside(FAST_EDGES, -TOP, TOP)
PENDULUM = around(((-np.pi, 0.0, np.pi, 3 * np.pi), (-8.0, 0.0, 8.0)), (0.3, 0.5))
TWINS = {
    "CartPole": Twin(CartPole(), f"{PATH}.cartpole", "CartPoleEnv", {}, 500, CART_EDGES),
    "CartPole-options": Twin(
        CartPole(semi_implicit=True, sutton_barto_reward=True, gravity=3.0, half_length=0.8),
        f"{PATH}.cartpole", "CartPoleEnv", {"sutton_barto_reward": True}, 500, CART_EDGES,
        {"kinematics_integrator": "semi-implicit", "gravity": 3.0, "length": 0.8, "polemass_length": 0.08},
    ),
    "Pendulum": Twin(Pendulum(), f"{PATH}.pendulum", "PendulumEnv", {}, 200, PENDULUM),
    "Pendulum-options": Twin(
        Pendulum(gravity=9.0, mass=0.5, length=2.0), f"{PATH}.pendulum", "PendulumEnv", {"g": 9.0}, 200, PENDULUM,
        {"m": 0.5, "l": 2.0},
    ),
    "MountainCar": Twin(MountainCar(), f"{PATH}.mountain_car", "MountainCarEnv", {}, 200, CAR),
    "MountainCarContinuous": Twin(
        MountainCarContinuous(), f"{PATH}.continuous_mountain_car", "Continuous_MountainCarEnv", {}, 999, CAR
    ),
    "MountainCarContinuous-options": Twin(
        MountainCarContinuous(goal_velocity=0.02), f"{PATH}.continuous_mountain_car", "Continuous_MountainCarEnv",
        {"goal_velocity": 0.02}, 999, CAR,
    ),
    "Acrobot": Twin(Acrobot(), f"{PATH}.acrobot", "AcrobotEnv", {}, 500, ARM),
    # At the largest speeds one step of the integrator magnifies the rounding of its own input some hundred times.
    "Acrobot-fast": Twin(Acrobot(), f"{PATH}.acrobot", "AcrobotEnv", {}, 500, FAST, single=2e-2),
    "Acrobot-paper": Twin(Acrobot(book=False), f"{PATH}.acrobot", "AcrobotEnv", {}, 500, ARM, {"book_or_nips": "nips"}),
}  # fmt: skip


def original(twin):
    """Gymnasium's environment with its roundings to float32 taken out, so that arithmetic is what is compared."""
    module = importlib.import_module(twin.module)
    numpy = SimpleNamespace(**vars(np))
    numpy.float32 = np.float64
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "np", numpy)
        environment = getattr(module, twin.theirs)(**twin.options)
    for name, value in twin.parameters.items():
        setattr(environment, name, value)
    return environment, module, numpy


def draw_action(space, random):
    if isinstance(space, gymnasium.spaces.Discrete):
        return int(random.integers(space.n))
    return random.uniform(1.5 * space.low, 1.5 * space.high).astype(np.float32).astype(np.float64)


class Steps(NamedTuple):
    state: np.ndarray
    action: np.ndarray
    new: np.ndarray
    observation: np.ndarray
    reward: np.ndarray
    terminated: np.ndarray


@functools.cache
def recorded(name):
    """Steps of Gymnasium in float64, half from random play and half from random states near boundaries; every state
    and action is a float32 number, so that both precisions begin at the same point."""
    twin = TWINS[name]
    environment, module, numpy = original(twin)
    random, rows = np.random.default_rng(7), []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "np", numpy)
        environment.reset(seed=0)
        played, held = [], draw_action(environment.action_space, random)
        for time in range(STATES // 2):
            played.append(np.asarray(environment.state))
            if random.random() < 0.5:  # actions that last, so that play gets somewhere
                held = draw_action(environment.action_space, random)
            *_, terminated, _, _ = environment.step(held)
            if terminated or time % twin.limit == twin.limit - 1:
                environment.reset()
        states = np.concatenate([played, twin.edges(random, STATES - len(played))])
        for state in states.astype(np.float32).astype(np.float64):
            environment.state = state
            if hasattr(environment, "steps_beyond_terminated"):
                fallen = abs(state[0]) > 2.4 or abs(state[2]) > LIMIT
                environment.steps_beyond_terminated = 1 if fallen else None
            action = draw_action(environment.action_space, random)
            observation, reward, terminated, _, _ = environment.step(action)
            rows.append((state, action, np.asarray(environment.state), observation, reward, terminated))
    return Steps(*(np.asarray(column) for column in zip(*rows, strict=True)))


@eqx.filter_jit
def moved(environment, state, action):
    return jax.vmap(environment.step, (None, 0, 0))(jax.random.key(0), state, action)


@pytest.mark.parametrize("name", TWINS)
def test_one_step_equals_gymnasium(name, x64):
    steps = recorded(name)
    dtype, tolerance = (np.float64, 1e-10) if x64 else (np.float32, TWINS[name].single)
    action = steps.action if steps.action.ndim == 1 else steps.action.astype(dtype)
    state, observation, reward, terminated, truncated = moved(TWINS[name].ours, steps.state.astype(dtype), action)
    assert state.dtype == observation.dtype == reward.dtype == dtype
    assert terminated.dtype == truncated.dtype == bool
    # A half turn may be reached from either side: angles of the acrobot are compared on the circle, by observations.
    compared = [2, 3] if name.startswith("Acrobot") else slice(None)
    pairs = ((state[:, compared], steps.new[:, compared]), (observation, steps.observation), (reward, steps.reward))
    for ours, theirs in pairs:
        np.testing.assert_allclose(ours, theirs, rtol=tolerance, atol=tolerance)
    np.testing.assert_array_equal(terminated, steps.terminated)
    assert not truncated.any()
    if not name.startswith("Pendulum"):
        assert 100 < steps.terminated.sum() < STATES - 100


class NoWall(MountainCar):
    def step(self, key, state, action):
        free = eqx.tree_at(lambda car: car.min_position, MountainCar(), -np.inf)
        new, *_ = free.step(key, state, action)
        new = jnp.stack([jnp.maximum(new[0], jnp.asarray(-1.2, new.dtype)), new[1]])
        return (new, new, *MountainCar().step(key, state, action)[2:])


class NewAngle(Pendulum):
    def step(self, key, state, action):
        new, observation, _, *flags = Pendulum().step(key, state, action)
        return (new, observation, Pendulum().step(key, new, action)[2], *flags)


class ClippedCost(MountainCarContinuous):
    def step(self, key, state, action):
        return MountainCarContinuous().step(key, state, jnp.clip(action, -1.0, 1.0))


class PaidAfterwards(CartPole):
    def step(self, key, state, action):
        new, observation, reward, *flags = CartPole().step(key, state, action)
        return (new, observation, jnp.ones_like(reward), *flags)


class UnpaidAtEnd(CartPole):
    def step(self, key, state, action):
        new, observation, reward, terminated, truncated = CartPole().step(key, state, action)
        return new, observation, jnp.where(terminated, 0.0, reward), terminated, truncated


class EulerRule(Acrobot):
    def step(self, key, state, action):
        new = state + 0.2 * rates(self, state, jnp.asarray(action - 1, state.dtype))
        return Acrobot(time_step=0.0).step(key, new, action)


def check_one_step(name):
    def check(implementation):
        steps = recorded(name)
        with jax.enable_x64(True):
            _, observation, reward, terminated, _ = moved(implementation, steps.state, steps.action)
        np.testing.assert_allclose(observation, steps.observation, rtol=1e-10, atol=1e-10)
        np.testing.assert_allclose(reward, steps.reward, rtol=1e-10, atol=1e-10)
        np.testing.assert_array_equal(terminated, steps.terminated)

    return check


test_mountain_car_wall = against(MountainCar(), no_wall=NoWall(), other_goal=MountainCar(goal_position=0.45))(
    check_one_step("MountainCar")
)
test_pendulum_reward = against(Pendulum(), new_angle=NewAngle(), unclipped=Pendulum(max_torque=np.inf))(
    check_one_step("Pendulum")
)
test_continuous_reward = against(MountainCarContinuous(), clipped_cost=ClippedCost())(
    check_one_step("MountainCarContinuous")
)
test_cartpole_reward = against(
    CartPole(), paid_afterwards=PaidAfterwards(), unpaid_at_end=UnpaidAtEnd(), integrator=CartPole(semi_implicit=True)
)(check_one_step("CartPole"))
test_acrobot_integrator = against(Acrobot(), euler=EulerRule(), paper=Acrobot(book=False))(check_one_step("Acrobot"))


@pytest.mark.parametrize("name", TWINS)
def test_free_running_episodes_equal_gymnasium(name):
    twin = TWINS[name]
    environment, module, numpy = original(twin)
    random = np.random.default_rng(3)
    with pytest.MonkeyPatch.context() as patch, jax.enable_x64(True):
        patch.setattr(module, "np", numpy)
        for episode in range(3):
            environment.reset(seed=episode)
            first = np.asarray(environment.state, np.float64)
            rows = []
            for _ in range(twin.limit):
                action = draw_action(environment.action_space, random)
                observation, reward, terminated, _, _ = environment.step(action)
                rows.append((action, observation, reward, terminated))
                if terminated:
                    break
            actions, observations, rewards, terminations = map(np.asarray, zip(*rows, strict=True))
            ours = run(twin.ours, first, actions)
            np.testing.assert_allclose(ours[0], observations, rtol=1e-8, atol=1e-8)
            np.testing.assert_allclose(ours[1], rewards, rtol=1e-8, atol=1e-8)
            np.testing.assert_array_equal(ours[2], terminations)


@eqx.filter_jit
def run(environment, state, actions):
    def body(state, action):
        state, observation, reward, terminated, _ = environment.step(jax.random.key(0), state, action)
        return state, (observation, reward, terminated)

    return jax.lax.scan(body, jnp.asarray(state), actions)[1]


RESETS = {
    "CartPole": (CartPole(), [(-0.05, 0.05)] * 4),
    "Pendulum": (Pendulum(), [(-np.pi, np.pi), (-1.0, 1.0)]),
    "MountainCar": (MountainCar(), [(-0.6, -0.4), (0.0, 0.0)]),
    "MountainCarContinuous": (MountainCarContinuous(), [(-0.6, -0.4), (0.0, 0.0)]),
    "Acrobot": (Acrobot(), [(-0.1, 0.1)] * 4),
}


@pytest.mark.parametrize("name", RESETS)
def test_first_states_are_uniform(name, x64):
    environment, ranges = RESETS[name]
    state, observation = jax.jit(jax.vmap(environment.reset))(jax.random.split(jax.random.key(5), 2_000))
    assert state.dtype == observation.dtype == jnp.float32
    space = environment.observation_space
    assert all(space.contains(row) for row in np.asarray(observation)[:50])
    for column, (low, high) in zip(np.asarray(state, np.float64).T, ranges, strict=True):
        assert low - 1e-7 <= column.min() <= column.max() <= high + 1e-7
        if high > low:
            assert scipy.stats.kstest(column, scipy.stats.uniform(low, high - low).cdf).pvalue > 1e-3
        else:
            assert not column.any()


@pytest.mark.parametrize("name", RESETS)
def test_spaces_are_gymnasiums(name):
    twin = TWINS[name]
    theirs = getattr(importlib.import_module(twin.module), twin.theirs)()
    assert twin.ours.observation_space == theirs.observation_space
    assert twin.ours.action_space == theirs.action_space


def test_torque_noise_is_uniform_around_the_torque(x64):
    """Linear in the torque for a short step: compare the spread of accelerations with that of the torque."""
    quiet, noisy = Acrobot(time_step=1e-3), Acrobot(time_step=1e-3, torque_noise_max=0.5)
    state = jnp.asarray([0.3, -0.2, 0.1, 0.2], jnp.float64 if x64 else jnp.float32)
    keys = jax.random.split(jax.random.key(1), 2_000)
    step = eqx.filter_jit(jax.vmap(Acrobot.step, (None, 0, None, None)))
    speeds = step(noisy, keys, state, jnp.asarray(2))[0][:, 3]
    slow, fast = (step(quiet, keys[:1], state, jnp.asarray(action))[0][0, 3] for action in (1, 2))
    noise = np.asarray((speeds - fast) / (fast - slow), np.float64)
    assert scipy.stats.kstest(noise, scipy.stats.uniform(-0.5, 1.0).cdf).pvalue > 1e-3


@pytest.mark.parametrize("name", RESETS)
def test_a_batch_of_tasks_is_a_batched_environment(name):
    """Parameters are leaves: `vmap` over environments gives what each gives alone."""
    environment = TWINS[name].ours
    factors = jnp.linspace(0.9, 1.2, 3)
    tasks = jax.tree.map(lambda leaf: leaf * factors, cast_floats(environment, jnp.float32))
    key = jax.random.key(2)
    state, _ = jax.vmap(lambda task: task.reset(key))(tasks)
    space = environment.action_space
    action = jnp.ones((), int) if isinstance(space, gymnasium.spaces.Discrete) else jnp.ones(1)
    compiled = jax.jit(lambda task, state: task.step(key, state, action))
    together = jax.jit(jax.vmap(lambda task, state: task.step(key, state, action)))(tasks, state)
    for index in range(3):
        task = jax.tree.map(lambda leaf, index=index: leaf[index], tasks)
        alone = compiled(task, state[index])
        for ours, theirs in zip(together, alone, strict=True):
            np.testing.assert_allclose(ours[index], theirs, rtol=1e-5, atol=1e-6)
    assert not np.allclose(together[0][0], together[0][2])


def test_changing_a_number_does_not_compile_again():
    compiled = jax.jit(lambda environment, key: environment.reset(key))
    for gravity in (9.0, 9.8, 11.0):
        compiled(CartPole(gravity=gravity), jax.random.key(0))
    assert compiled._cache_size() == 1


def test_step_is_differentiable_in_parameters():
    def final_angle(length):
        environment = Pendulum(length=length)
        state = jnp.asarray([1.0, 0.0])
        for _ in range(3):
            state = environment.step(jax.random.key(0), state, jnp.zeros(1))[0]
        return state[0]

    compiled = jax.jit(final_angle)
    slope = jax.jit(jax.grad(final_angle))(1.0)
    numerical = (compiled(1.01) - compiled(0.99)) / 0.02
    np.testing.assert_allclose(slope, numerical, rtol=1e-2)
