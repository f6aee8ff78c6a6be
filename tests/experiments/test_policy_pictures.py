"""Pictures of policies: the numbers drawn are those of the law, on the environment's own scale."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import optimality as ox
from optimality.environments.cartpole import CartPole
from optimality.environments.linear_quadratic import LinearQuadraticEnvironment
from optimality.environments.mountain_car_continuous import MountainCarContinuous
from optimality.environments.pendulum import Pendulum
from optimality.environments.wrappers import TimeLimit
from optimality.experiments.policy_pictures import chart_of, plot_policy
from optimality.networks.mlp import MLP
from optimality.problems.linear_quadratic import LinearQuadratic
from optimality.sampling.acting import ActingPolicy
from optimality.sampling.policy import AbstractPolicy


class Linear(AbstractPolicy):
    """`N(weights . observation, 0.5^2)`, clipped to [-2, 2]."""

    weights: jax.Array
    sample: bool = eqx.field(static=True, default=True)

    def start(self, observation, key):
        return None

    def act(self, carry, observation, key):
        noise = 0.5 * jax.random.normal(key) if self.sample else 0.0
        return None, jnp.clip(self.weights @ observation + noise, -2.0, 2.0)[None], {}


def linear(*weights):
    return ActingPolicy(Linear(jnp.array(weights)))


def test_a_line_has_the_law():
    problem = LinearQuadratic(0.9, 1.0, 1.0, 1.0, criterion=ox.FiniteHorizon(20), initial_covariance=1.0)
    figure = plot_policy(linear(-0.1), LinearQuadraticEnvironment(problem))
    assert figure is not None
    curve = figure.axes[0].lines[0]
    np.testing.assert_allclose(curve.get_ydata(), -0.1 * curve.get_xdata(), atol=1e-6)
    band = figure.axes[0].collections[0].get_paths()[0].get_extents()
    reach = np.abs(curve.get_ydata()).max()
    assert band.y1 == pytest.approx(reach + 1.0, rel=0.25)  # 128 draws: the largest of 121 deviations is 15 % above


def test_the_pendulum_is_a_plane_of_angle_and_velocity():
    environment = TimeLimit(Pendulum(), 200)
    chart = chart_of(environment)
    assert chart is not None
    x = jnp.array([-2.0, 3.0])
    np.testing.assert_allclose(chart.observation(x), [np.cos(-2.0), np.sin(-2.0), 3.0], rtol=1e-6)
    np.testing.assert_allclose(chart.coordinates(chart.observation(x)), x, rtol=1e-6)
    figure = plot_policy(linear(0.0, 1.5, 0.0), environment)
    assert figure is not None
    mean, spread = (np.asarray(axes.collections[0].get_array()) for axes in figure.axes[:2])
    angles = np.linspace(-1.1 * np.pi, 1.1 * np.pi, 41)
    np.testing.assert_allclose(mean, np.broadcast_to(1.5 * np.sin(angles), (41, 41)), atol=1e-5)
    assert np.median(spread[:, np.abs(np.sin(angles)) < 0.3]) == pytest.approx(0.5, rel=0.05)
    assert "angular velocity" in figure.axes[0].get_ylabel()


def test_two_numbers_are_a_plane():
    figure = plot_policy(linear(1.0, 0.0), TimeLimit(MountainCarContinuous(), 20))
    assert figure is not None
    assert figure.axes[0].get_xlim()[0] < -1.2


@pytest.mark.parametrize("environment", [None, CartPole()])
def test_where_there_is_no_picture(environment):
    assert plot_policy(linear(1.0), environment) is None


def test_more_numbers_have_no_chart():
    assert chart_of(CartPole()) is None
    problem = LinearQuadratic(0.9 * np.eye(3), np.ones((3, 1)), np.eye(3), 1.0, criterion=ox.FiniteHorizon(5))
    assert plot_policy(linear(1.0, 1.0, 1.0), LinearQuadraticEnvironment(problem)) is None


def test_the_report_of_a_run_shows_it(tmp_path):
    learner = ox.PPO(rollout_steps=8, environments=2, minibatches=1, epochs=1, network=MLP(hidden=(4,)))
    run = ox.train("Pendulum-v1", learner, steps=16, chunk=1, evaluation_episodes=2, out=tmp_path)
    assert run.path is not None
    assert (run.path / "plots" / "the-policy.svg").exists()
    assert "where episodes of drawn actions went" in (run.path / "report.html").read_text()
