"""Runs of linear-quadratic problems: measured against exact costs, saved policies, and figures."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from clauses import against
from optimality import AverageReward, Discounted, FiniteHorizon, cart_pole, double_integrator, load_policy
from optimality.experiments import control_plots
from optimality.experiments.control_rollouts import play
from optimality.experiments.measured import compare
from optimality.experiments.rollouts import Rollouts
from optimality.experiments.saved_policy import policy_bytes
from optimality.policies.affine_gaussian import AffineGaussian
from optimality.problems.linear_quadratic import LinearQuadratic
from optimality.sampling.affine_gaussian_policy import AffineGaussianPolicy

POLICY = AffineGaussian(np.array([[-1.0]]), np.array([0.5]), np.array([[0.25]]))


def scalar(criterion):
    """`x' = 1.5 x + u + w`, cost `1/2 (x^2 + u^2)`, from 2; under the policy `x' = x / 2 + 1/2` and noise."""
    return LinearQuadratic(1.5, 1.0, 1.0, 1.0, criterion=criterion, W=0.5, initial_mean=2.0)


def scalar_costs(steps):
    """Expected cost of each step, by hand."""
    mean, variance, costs = 2.0, 0.0, []
    for _ in range(steps):
        u_mean, u_variance = -mean + 0.5, variance + 0.25
        costs.append(0.5 * (mean**2 + variance + u_mean**2 + u_variance))
        mean, variance = 0.5 * mean + 0.5, 0.25 * variance + 0.75
    return np.array(costs)


EXACT = [
    (FiniteHorizon(6, 0.9), -(0.9 ** np.arange(6)) @ scalar_costs(6)),
    (Discounted(0.8), -(0.8 ** np.arange(300)) @ scalar_costs(300)),
    (AverageReward(), -scalar_costs(300)[-1]),
]


def returns_of(problem, **options):
    return play(problem, POLICY, **options)[0].returns


def without_its_noise(problem, **options):
    return play(problem, AffineGaussian(POLICY.K, POLICY.k), **options)[0].returns


def undiscounted(problem, **options):
    returns = play(problem, POLICY, **options)[0].returns
    return returns / float(np.asarray(problem.discount)) ** 2 if problem.discount != 1.0 else returns + 1.0


@against(returns_of, without_its_noise=without_its_noise, undiscounted=undiscounted)
def test_episodes_have_the_exact_mean(implementation):
    for criterion, exact in EXACT:
        returns = implementation(scalar(criterion), episodes=3_000, seed=0, radius=0.5, shown=1, steps=3)
        assert abs(returns.mean() - exact) < 4 * returns.std() / np.sqrt(returns.size)


def test_episodes_are_the_same_for_the_same_seed_and_shown_from_the_start():
    problem = cart_pole(criterion=FiniteHorizon(5))
    policy = AffineGaussian(np.zeros((1, 4)), np.zeros(1))
    first, paths = play(problem, policy, episodes=4, seed=1, radius=1.1, shown=2, steps=5)
    again, _ = play(problem, policy, episodes=4, seed=1, radius=1.1, shown=2, steps=5)
    other, _ = play(problem, policy, episodes=4, seed=2, radius=1.1, shown=2, steps=5)
    np.testing.assert_array_equal(first.returns, again.returns)
    assert (first.returns != other.returns).all()
    assert paths.states.shape == (2, 6, 4)
    cost = sum(problem.stage_cost(paths.states[0, t], paths.controls[0, t], t) for t in range(5))
    assert first.returns[0] == pytest.approx(-cost, rel=1e-12)
    assert first.lengths.tolist() == [5] * 4
    with pytest.raises(ValueError, match="episodes must be at least 1"):
        play(problem, policy, episodes=0, seed=1, radius=1.1, shown=2, steps=5)


def test_episodes_that_do_not_forget_are_cut():
    problem = double_integrator(criterion=Discounted(0.9999))
    policy = AffineGaussian(np.zeros((1, 2)), np.zeros(1))
    played, _ = play(problem, policy, episodes=2, seed=0, radius=1.0, shown=1, steps=2)
    assert played.cut == 2
    assert compare("here", played, 0.0).verdict == "not comparable"


def test_verdicts():
    episodes = Rollouts(np.array([1.0, 2.0, 3.0, 2.0]), np.full(4, 3), 0)
    assert compare("here", episodes, 2.0).verdict == "agrees"
    assert compare("here", episodes, 9.0).verdict == "disagrees"
    assert compare("here", episodes, 9.0, 100.0).verdict == "agrees"
    assert compare("here", episodes, 2.0, known=False).reason == "the exact return did not converge"
    assert compare("here", Rollouts(np.ones(1), np.ones(1), 0), 1.0).reason == "one episode has no spread"


def test_a_saved_affine_policy_acts(tmp_path, x64):
    K = np.arange(6.0).reshape(3, 1, 2)
    law = AffineGaussian(K, np.ones((3, 1)), np.full((3, 1, 1), 0.04))
    (tmp_path / "policy.safetensors").write_bytes(policy_bytes(AffineGaussianPolicy(law)))
    loaded = load_policy(tmp_path)
    np.testing.assert_array_equal(loaded.policy.law.K, K)
    assert loaded.policy.law.K.dtype == np.float64
    x = np.array([1.0, 2.0])
    for time in (0, 1, 2, 2):  # it keeps its last gain
        np.testing.assert_allclose(loaded.act(x), K[time] @ x + 1.0, rtol=1e-6)
    loaded.reset(seed=3)
    drawn = []
    for _ in range(200):
        loaded.reset()
        drawn.append(loaded.act(x, sample=True)[0])
    assert abs(np.mean(drawn) - 3.0) < 4 * 0.2 / np.sqrt(200)
    assert 0.1 < np.std(drawn) < 0.3


def test_figures():
    mean, covariance = np.zeros((4, 3)), np.broadcast_to(np.eye(3), (4, 3, 3))
    figure = control_plots.plot_trajectories(mean, covariance, ("a", "b", "c"), np.zeros((2, 4, 3)), held=True)
    assert [axes.get_title() for axes in figure.axes] == ["a", "b", "c", ""]
    assert len(figure.axes[0].lines) == 4  # two samples, the mean, zero
    assert control_plots.plot_gains(np.zeros((2, 3)), ("a", "b", "c"), ("u", "v")) is None
    gains = control_plots.plot_gains(np.zeros((5, 2, 3)), ("a", "b", "c"), ("u", "v"))
    assert gains is not None
    assert [axes.get_title() for axes in gains.axes] == ["u per unit of", "v per unit of"]
    assert len(control_plots.plot_costs(np.ones(4), np.ones(5)).axes) == 2
    assert len(control_plots.plot_modes(np.ones(3), np.ones(3) + 1j).axes) == 1


def test_an_acting_law_keeps_the_precision_of_its_observation(x64):
    policy = AffineGaussianPolicy(AffineGaussian(np.ones((1, 2)), np.zeros(1)))
    carry = policy.start(jnp.zeros(2, jnp.float32), jax.random.key(0))
    carry, action, _ = policy.act(carry, jnp.ones(2, jnp.float32), jax.random.key(0))
    assert action.dtype == jnp.float32
    assert int(carry) == 1
