"""Pictures of what a policy does where the state is a line or a plane: its mean action, and the spread of its draws."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import matplotlib
import numpy as np
from gymnasium import spaces
from matplotlib.figure import Figure

from optimality.environments.abstract import AbstractEnvironment
from optimality.environments.pendulum import Pendulum
from optimality.experiments.plots import BLUE, GRAY, STYLE
from optimality.sampling.acting import ActingPolicy
from optimality.sampling.policy import AbstractPolicy

DRAWS = 128
"""Actions that are drawn at each point."""
EPISODES, LONGEST = 16, 200
"""Episodes that show where the policy goes, and the most steps of each."""
POINTS = {1: 121, 2: 41}
"""Of the grid along each axis."""


class Chart(NamedTuple):
    """Coordinates, one or two, that say all about an observation."""

    names: tuple[str, ...]
    low: np.ndarray
    high: np.ndarray
    observation: Callable[[Any], Any]
    """Of coordinates `[d]`."""
    coordinates: Callable[[Any], Any]
    """Of an observation."""


def chart_of(environment: AbstractEnvironment) -> Chart | None:
    """The pendulum's angle and velocity, or the observation itself where it has one or two numbers; else None."""
    space = environment.observation_space
    while hasattr(environment, "environment") and not isinstance(environment, Pendulum):
        environment = environment.environment  # pyright: ignore[reportAttributeAccessIssue]
    if isinstance(environment, Pendulum) and space.shape == (3,):
        high = np.array([np.pi, float(np.asarray(environment.max_speed))])
        return Chart(
            ("angle (rad), 0 is upright", "angular velocity (rad/s)"),
            -high,
            high,
            lambda x: jnp.stack([jnp.cos(x[0]), jnp.sin(x[0]), x[1]]),
            lambda seen: jnp.stack([jnp.arctan2(seen[1], seen[0]), seen[2]]),
        )
    if not isinstance(space, spaces.Box) or int(np.prod(space.shape)) not in (1, 2):
        return None
    shape = space.shape
    names = ("observation",) if int(np.prod(shape)) == 1 else ("first observation", "second observation")
    low, high = (np.asarray(bound, np.float64).reshape(-1) for bound in (space.low, space.high))
    return Chart(names, low, high, lambda x: x.reshape(shape), lambda seen: seen.reshape(-1))


def plot_policy(policy: ActingPolicy, environment: AbstractEnvironment | None, *, seed: int = 0) -> Figure | None:
    """Mean and spread of the action over the chart, on the environment's own scale, and where sampled episodes went.

    The mean is the mode that an evaluation plays; the spread is the standard deviation of drawn and clipped actions, at
    the first step of an episode where a policy has a memory. None where the environment is not compiled, has no chart,
    or has other than one action dimension.
    """
    if environment is None or not isinstance(environment.action_space, spaces.Box):
        return None
    chart = chart_of(environment)
    if chart is None or int(np.prod(environment.action_space.shape)) != 1:
        return None
    drawing, deciding = policy.sampling(True), policy.sampling(False)
    visit_key, draw_key = jax.random.split(jax.random.key(seed))
    visited = _visited(drawing, environment, chart, visit_key)
    low = np.where(np.isfinite(chart.low) & (np.abs(chart.low) < 1e6), chart.low, visited.min(axis=0))
    high = np.where(np.isfinite(chart.high) & (np.abs(chart.high) < 1e6), chart.high, visited.max(axis=0))
    margin = 0.05 * np.maximum(high - low, 1e-6)
    axes_of = [
        np.linspace(a - b, c + b, POINTS[low.size], dtype=np.float32) for a, b, c in zip(low, margin, high, strict=True)
    ]
    grid = np.stack(np.meshgrid(*axes_of, indexing="ij"), axis=-1).reshape(-1, low.size)

    def act(acting, x, key):
        start_key, act_key = jax.random.split(key)
        seen = chart.observation(x)
        return acting.act(acting.start(seen, start_key), seen, act_key)[1].reshape(())

    keys = jax.random.split(draw_key, DRAWS)

    @jax.jit
    @jax.vmap
    def mean_and_spread(x):
        return act(deciding, x, keys[0]), jnp.std(jax.vmap(lambda key: act(drawing, x, key))(keys))

    mean, spread = (np.asarray(values) for values in mean_and_spread(grid))
    return (_line if low.size == 1 else _plane)(chart, axes_of, mean, spread, visited)


def _visited(policy: AbstractPolicy, environment: AbstractEnvironment, chart: Chart, key) -> np.ndarray:
    """Coordinates of sampled episodes, `[n, d]`."""
    steps = min(LONGEST, environment.time_limit or LONGEST)

    def episode(key):
        reset_key, start_key, key = jax.random.split(key, 3)
        state, seen = environment.reset(reset_key)

        def step(carry, key):
            state, seen, memory, over = carry
            act_key, step_key = jax.random.split(key)
            memory, action, _ = policy.act(memory, seen, act_key)
            state, after, _, terminated, truncated = environment.step(step_key, state, action)
            return (state, after, memory, over | terminated | truncated), (chart.coordinates(seen), ~over)

        start = (state, seen, policy.start(seen, start_key), jnp.zeros((), bool))
        return jax.lax.scan(step, start, jax.random.split(key, steps))[1]

    coordinates, shown = jax.jit(jax.vmap(episode))(jax.random.split(key, EPISODES))
    coordinates = np.asarray(coordinates, np.float64)[np.asarray(shown)]
    return coordinates[np.isfinite(coordinates).all(axis=1)]


def _line(chart: Chart, axes_of, mean, spread, visited) -> Figure:
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(6.4, 3.2), layout="constrained")
        axes = figure.subplots()
        axes.fill_between(axes_of[0], mean - 2 * spread, mean + 2 * spread, color=BLUE, alpha=0.2, linewidth=0.0)
        axes.plot(axes_of[0], mean, color=BLUE)
        bottom = np.full(visited.shape[0], axes.get_ylim()[0])
        axes.plot(visited[:, 0], bottom, "|", color=GRAY, alpha=0.3)
        axes.set(xlabel=chart.names[0], ylabel="action", title="mean action, two standard deviations, visited states")
    return figure


def _plane(chart: Chart, axes_of, mean, spread, visited) -> Figure:
    largest = max(float(np.abs(mean).max()), 1e-12)
    panels = (
        ("mean action", mean, {"cmap": "RdBu_r", "vmin": -largest, "vmax": largest}),
        ("standard deviation of the action", spread, {"cmap": "viridis", "vmin": 0.0}),
    )
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(9.6, 3.6), layout="constrained")
        for axes, (title, values, options) in zip(figure.subplots(1, 2, sharey=True), panels, strict=True):
            table = values.reshape(axes_of[0].size, axes_of[1].size).T
            shown = axes.pcolormesh(*axes_of, table, rasterized=True, shading="nearest", **options)
            figure.colorbar(shown, ax=axes)
            axes.plot(*visited.T, ".", color="black", markersize=1.0, alpha=0.35, rasterized=True)
            axes.set(title=title, xlabel=chart.names[0])
            axes.grid(visible=False)
        figure.axes[0].set_ylabel(chart.names[1])
    return figure
