"""A linear-quadratic problem as an environment: returns are minus the objective, to the last term."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from clauses import against
from optimality import Discounted, FiniteHorizon
from optimality.environments.linear_quadratic import LinearQuadraticEnvironment
from optimality.problems.linear_quadratic import LinearQuadratic, NoiseChannels
from optimality.problems.linear_systems import double_integrator

HORIZON, N, M = 4, 2, 1


def full_problem():
    """Every term there is, nearly all of them different at each step."""
    random = np.random.default_rng(1)

    def psd(*shape):
        root = random.normal(size=shape)
        return root @ np.swapaxes(root, -1, -2) / 2

    def normal(*shape):
        return random.normal(size=shape)

    channels = NoiseChannels(
        0.4 * normal(HORIZON, 2, N, N), control=0.5 * normal(2, N, M), offset=0.5 * normal(HORIZON, 2, N)
    )
    return LinearQuadratic(
        0.6 * normal(HORIZON, N, N), normal(HORIZON, N, M), psd(HORIZON, N, N), psd(HORIZON, M, M),
        criterion=FiniteHorizon(HORIZON, 0.7), c=normal(HORIZON, N), N=normal(HORIZON, N, M), q=normal(HORIZON, N),
        r=normal(HORIZON, M), s=normal(HORIZON), Qf=3.0 * psd(N, N), qf=normal(N), sf=20.0, W=0.3 * psd(HORIZON, N, N),
        channels=channels, initial_mean=normal(N), initial_covariance=0.5 * psd(N, N),
    )  # fmt: skip


def expected_cost(problem, gains, offsets):
    """By second moments of `z = [x; 1]` in NumPy: nothing shared with the library."""
    one = np.append(np.zeros(N), 1.0)
    mean = np.append(problem.initial_mean, 1.0)
    moment = np.outer(mean, mean)
    moment[:N, :N] += problem.initial_covariance
    total = 0.0

    def cost(hessian, gradient, constant):
        return (0.5 * hessian * moment).sum() + gradient @ moment[:, -1] + constant

    for time in range(problem.horizon):
        stage, discount = problem.stage(time), problem.discount**time
        u = np.column_stack([gains[time], offsets[time]])
        x = np.eye(N, N + 1)
        cross = x.T @ stage.N @ u
        hessian = x.T @ stage.Q @ x + u.T @ stage.R @ u + cross + cross.T
        total += discount * cost(hessian, x.T @ stage.q + u.T @ stage.r, stage.s)
        step = stage.A @ x + stage.B @ u + np.outer(stage.c, one)
        spread = stage.W.copy()
        for i in range(stage.channels.offset.shape[0]):
            channel = stage.channels.state[i] @ x + stage.channels.control[i] @ u
            channel = channel + np.outer(stage.channels.offset[i], one)
            spread = spread + channel @ moment @ channel.T
        mean = step @ moment[:, -1]
        new = np.zeros_like(moment)
        new[:N, :N] = step @ moment @ step.T + spread
        new[:N, -1] = new[-1, :N] = mean
        new[-1, -1] = 1.0
        moment = new
    last = np.zeros((N + 1, N + 1))
    last[:N, :N] = problem.Qf
    return total + problem.discount**problem.horizon * cost(last, np.append(problem.qf, 0.0), problem.sf)


@eqx.filter_jit
def rewards_of(environment, gains, offsets, keys, steps):
    """Rewards, `[episode, time]`, 0 after the end, and whether the episodes were over by then."""

    def episode(key):
        reset_key, key = jax.random.split(key)
        state, x = environment.reset(reset_key)

        def body(carry, inputs):
            state, x, alive = carry
            key, gain, offset = inputs
            state, x, reward, terminated, truncated = environment.step(key, state, gain @ x + offset)
            return (state, x, alive & ~(terminated | truncated)), jnp.where(alive, reward, 0.0)

        start = (state, x, jnp.ones((), bool))
        (*_, alive), rewards = jax.lax.scan(body, start, (jax.random.split(key, steps), gains, offsets))
        return rewards, ~alive

    return jax.vmap(episode)(keys)


def without(name):
    def build(problem):
        return LinearQuadraticEnvironment(eqx.tree_at(lambda p: getattr(p, name), problem, replace_fn=np.zeros_like))

    return build


def steady(problem):
    """Every step by the arrays of the first."""
    first = problem.stage(0)
    names = ("A", "B", "c", "W", "Q", "R", "N", "q", "r", "s", "channels")
    return LinearQuadraticEnvironment(
        eqx.tree_at(lambda p: [getattr(p, n) for n in names], problem, [getattr(first, n) for n in names])
    )


def one_scalar_a_coordinate(problem):
    """Channels as if each coordinate had its own random number: as much noise, uncorrelated."""
    channels, units = problem.channels, np.eye(problem.shape[0])
    state = np.concatenate([channels.state * unit[:, None] for unit in units], axis=-3)
    control = np.concatenate([channels.control * unit[:, None] for unit in units], axis=-3)
    apart = (state, control, np.concatenate([channels.offset * unit for unit in units], axis=-2))
    return LinearQuadraticEnvironment(eqx.tree_at(lambda p: p.channels, problem, NoiseChannels(*apart)))


class LastCostUndiscounted(LinearQuadraticEnvironment):
    def step(self, key, state, action):
        new, x, reward, terminated, truncated = super().step(key, state, action)
        extra = (1.0 - self.problem.discount) * jnp.asarray(self.problem.terminal_cost(x), reward.dtype)
        return new, x, reward - jnp.where(truncated, extra, 0.0), terminated, truncated


@against(
    LinearQuadraticEnvironment,
    no_cross_term=without("N"),
    no_drift=without("c"),
    no_noise=without("W"),
    no_last_cost=without("Qf"),
    no_constant_at_the_end=without("sf"),
    steady=steady,
    last_cost_undiscounted=LastCostUndiscounted,
)
def test_discounted_returns_are_minus_the_objective(implementation):
    problem = full_problem()
    random = np.random.default_rng(2)
    gains, offsets = 0.5 * random.normal(size=(HORIZON, M, N)), random.normal(size=(HORIZON, M))
    exact = -expected_cost(problem, gains, offsets)
    keys = jax.random.split(jax.random.key(3), 60_000)
    rewards, over = rewards_of(
        implementation(problem), jnp.asarray(gains, jnp.float32), jnp.asarray(offsets, jnp.float32), keys, HORIZON
    )
    assert over.all()
    returns = np.asarray(rewards, np.float64) @ 0.7 ** np.arange(HORIZON)
    assert abs(returns.mean() - exact) < 4 * returns.std() / np.sqrt(returns.size)


@against(LinearQuadraticEnvironment, channels_apart=one_scalar_a_coordinate)
def test_a_channel_is_a_vector_times_one_scalar(implementation):
    problem, x, u, time = full_problem(), np.array([2.0, -1.0]), np.array([1.5]), 2
    environment = implementation(problem)
    state = environment.reset(jax.random.key(0))[0]._replace(
        x=jnp.asarray(x, jnp.float32), time=jnp.asarray(time, jnp.int32)
    )
    step = jax.jit(jax.vmap(lambda key: environment.step(key, state, jnp.asarray(u, jnp.float32))[1]))
    noise = np.asarray(step(jax.random.split(jax.random.key(4), 20_000)), np.float64) - problem.drift(x, u, time)
    stage = problem.stage(time)
    channels = stage.channels.offset + stage.channels.state @ x + stage.channels.control @ u
    exact = stage.W + channels.T @ channels
    products = noise[:, :, None] * noise[:, None, :]
    z = (products.mean(axis=0) - exact) / (products.std(axis=0) / np.sqrt(len(noise)))
    assert np.abs(z).max() < 4


class NeverEnds(LinearQuadraticEnvironment):
    def __init__(self, problem, *, ending):
        super().__init__(problem)


class EndsBeforeItsReward(LinearQuadraticEnvironment):
    def step(self, key, state, action):
        new, x, reward, terminated, truncated = super().step(key, state, action)
        return new, x, jnp.where(terminated, 0.0, reward), terminated, truncated


@against(LinearQuadraticEnvironment, never_ends=NeverEnds, ends_before_its_reward=EndsBeforeItsReward)
def test_a_discount_as_a_chance_of_ending(implementation):
    """Undiscounted returns then have the discounted objective as their mean: cost 1/2 x^2 + 1, x' = x / 2 from 2."""
    problem = LinearQuadratic(0.5, 1.0, 1.0, 1.0, criterion=Discounted(0.8), s=1.0, initial_mean=2.0)
    exact = -(0.5 * 4.0 / (1.0 - 0.8 / 4.0) + 1.0 / 0.2)
    keys = jax.random.split(jax.random.key(0), 20_000)
    zeros = jnp.zeros((120, 1), jnp.float32)
    rewards, over = rewards_of(implementation(problem, ending=True), zeros[..., None], zeros, keys, 120)
    returns = np.asarray(rewards, np.float64).sum(axis=1)
    assert over.all()
    assert abs(returns.mean() - exact) < 4 * returns.std() / np.sqrt(returns.size)


def test_limits_spaces_and_refusals(x64):
    problem = double_integrator(criterion=FiniteHorizon(3))
    environment = LinearQuadraticEnvironment(problem, action_limit=np.array([0.5]))
    np.testing.assert_array_equal(environment.action_space.high, [0.5])
    free = LinearQuadraticEnvironment(problem)
    assert free.problem is problem
    assert not free.action_space.is_bounded()
    state, x = free.reset(jax.random.key(0))
    _, far, *_ = free.step(jax.random.key(1), state, jnp.array([9.0], jnp.float32))
    _, near, *_ = environment.step(jax.random.key(1), state, jnp.array([9.0], jnp.float32))
    np.testing.assert_allclose(far - near, 8.5 * problem.B[:, 0], rtol=1e-5)
    assert far.dtype == x.dtype == jnp.float32
    with pytest.raises(ValueError, match=r"ending=True is for Discounted\(discount\)"):
        LinearQuadraticEnvironment(problem, ending=True)
