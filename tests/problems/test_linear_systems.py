"""The named linear systems: what they linearize, how they are stepped, and what they refuse."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.integrate
import scipy.linalg
import scipy.signal

from clauses import against
from instances import close
from optimality import AverageReward, Discounted, FiniteHorizon
from optimality.environments.cartpole import CartPole
from optimality.problems.controllability import controllability
from optimality.problems.linear_systems import cart_pole, double_integrator, random_linear_quadratic


def continuous_cart_pole(**parameters):
    """Derivatives of the accelerations of CartPole-v1 at rest upright, in our order of states."""
    environment = CartPole(**parameters)
    with jax.enable_x64(True):

        def rates(x, force):
            pushing = eqx.tree_at(lambda e: e.force, environment, force)
            position, angle, velocity, rate = x
            state = jnp.stack([position, velocity, angle, rate])
            new = pushing.step(jax.random.key(0), state, 1)[0]
            return ((new - state) / environment.time_step)[jnp.array([0, 2, 1, 3])]

        point = (jnp.zeros(4), jnp.zeros(()))
        F, G = jax.jacobian(rates, argnums=(0, 1))(*point)
    return np.asarray(F), np.asarray(G)[:, None]


def point_mass_pole(**options):
    """A pole whose mass is at its end has 1 in place of 4/3."""
    problem = cart_pole(**options)
    return eqx.tree_at(lambda p: p.A, problem, cart_pole(**{**options, "gravity": 9.8 * 1.45}).A)


@against(
    cart_pole,
    point_mass=point_mass_pole,
    euler=lambda criterion: eqx.tree_at(
        lambda p: p.A, cart_pole(criterion=criterion), np.eye(4) + 0.02 * continuous_cart_pole()[0]
    ),
)
def test_cart_pole_is_the_environment_linearized_and_held(implementation):
    problem = implementation(criterion=FiniteHorizon(10))
    A, B, *_ = scipy.signal.cont2discrete((*continuous_cart_pole(), np.eye(4), np.zeros((4, 1))), 0.02)
    close(problem.A, A, 1e-10)
    close(problem.B, B, 1e-10)
    assert controllability(problem.A, problem.B).controllable


def test_noise_is_the_integral_and_costs_are_per_second():
    options = {"pole_mass": 0.3, "push": 0.7, "criterion": AverageReward()}
    coarse, fine = cart_pole(time_step=0.1, **options), cart_pole(time_step=0.05, **options)
    F, G = continuous_cart_pole(pole_mass=0.3)

    def density(s):
        spread = scipy.linalg.expm(F * s) @ G
        return (0.7**2 * spread @ spread.T).ravel()

    W, _ = scipy.integrate.quad_vec(density, 0.0, 0.1, epsabs=1e-14)
    close(coarse.W, W.reshape(4, 4), 1e-11)
    close(coarse.A, fine.A @ fine.A)
    close(coarse.W, fine.A @ fine.W @ fine.A.T + fine.W)
    close(coarse.Q, fine.Q + fine.A.T @ fine.Q @ fine.A, 1e-10)  # without control, a long step costs two short ones
    assert 0.1 < coarse.R[0, 0] < 0.12  # a tenth of a second of the force's cost, and what it does to the state
    assert np.abs(cart_pole(push=0.0, criterion=AverageReward()).W).max() == 0.0


@against(double_integrator, impulse=lambda **o: eqx.tree_at(lambda p: p.B, double_integrator(**o), [[0.0], [0.1]]))
def test_double_integrator(implementation):
    problem = implementation(criterion=AverageReward())
    close(problem.A, [[1.0, 0.1], [0.0, 1.0]])
    close(np.asarray(problem.B), [[0.005], [0.1]])
    close(double_integrator(mass=2.0, criterion=AverageReward()).B, [[0.0025], [0.05]])


def test_random_problems():
    problem = random_linear_quadratic(6, 3, seed=4, criterion=Discounted(0.9))
    assert problem.shape == (6, 3)
    assert np.abs(np.linalg.eigvals(problem.A)).max() == pytest.approx(1.02)
    assert np.linalg.eigvalsh(problem.R)[0] >= 0.1
    again = random_linear_quadratic(6, 3, seed=4, criterion=Discounted(0.9))
    np.testing.assert_array_equal(problem.A, again.A)
    assert (random_linear_quadratic(6, 3, seed=5, criterion=Discounted(0.9)).A != problem.A).all()


@pytest.mark.parametrize(
    ("generate", "message"),
    [
        (lambda: cart_pole(), "criterion is missing"),
        (lambda: double_integrator(), "criterion is missing"),
        (lambda: random_linear_quadratic(), "criterion is missing"),
        (lambda: cart_pole(time_step=0.0, criterion=AverageReward()), r"time_step must be positive, but 0\.0"),
        (lambda: cart_pole(push=-1.0, criterion=AverageReward()), r"push must be at least 0, but -1\.0"),
        (lambda: double_integrator(mass=np.nan, criterion=AverageReward()), "mass must be positive, but nan"),
        (lambda: random_linear_quadratic(0, criterion=AverageReward()), "states must be a whole number, at least 1"),
        (lambda: random_linear_quadratic(noise=-0.1, criterion=AverageReward()), "noise must be at least 0"),
    ],
)
def test_what_is_refused(generate, message):
    with pytest.raises(ValueError, match=message):
        generate()
