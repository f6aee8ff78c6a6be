"""Linear-quadratic problems by name: a cart with a pole, a mass that is pushed, and random ones.

The first two are physical: continuous in time, with forces that are held for a step and white noise on the force,
sampled exactly (`sampled_data`). Weights of the cost are per second: a finer step does not change what is asked.
"""

import math

import numpy as np

from optimality.problems.criterion import Criterion
from optimality.problems.linear_quadratic import LinearQuadratic
from optimality.problems.sampled_data import from_continuous


def cart_pole(
    gravity: float = 9.8,
    cart_mass: float = 1.0,
    pole_mass: float = 0.1,
    half_length: float = 0.5,
    time_step: float = 0.02,
    push: float = 0.1,
    start_position: float = -0.5,
    start_angle: float = 0.1,
    position_cost: float = 100.0,
    angle_cost: float = 1000.0,
    rate_cost: float = 10.0,
    force_cost: float = 1.0,
    *,
    criterion: Criterion | None = None,
) -> LinearQuadratic:
    """A pole to be balanced on a cart (Barto, Sutton and Anderson 1983), linearized about upright, without friction.

        angle''    = (gravity angle - force / M) / (l (4/3 - m / M)),    M = cart and pole together, m = pole
        position'' = (force - m l angle'') / M

    States are position (m), angle (rad), velocity and rate; the control is a force (N). It is the system that
    `CartPole-v1` is near upright. It starts off balance, a little uncertain in position and angle. Angles beyond about
    0.3 rad are outside of what the linear system means.

    Args:
        gravity: in m/s^2.
        cart_mass: in kg.
        pole_mass: in kg.
        half_length: half of the pole's, in m.
        time_step: seconds for which a force is held.
        push: size of the random force, in N per root second.
        start_position: mean of the first position.
        start_angle: mean of the first angle.
        position_cost: weight of the squared position, per second.
        angle_cost: weight of the squared angle, per second.
        rate_cost: weight of the squared velocity and rate, per second.
        force_cost: weight of the squared force, per second.
        criterion: what is minimized over time.
    """
    _positive(gravity=gravity, cart_mass=cart_mass, pole_mass=pole_mass, half_length=half_length, time_step=time_step)
    _positive(force_cost=force_cost)
    _at_least_zero(push=push, position_cost=position_cost, angle_cost=angle_cost, rate_cost=rate_cost)
    total = cart_mass + pole_mass
    lever = half_length * (4.0 / 3.0 - pole_mass / total)
    fall, kick = gravity / lever, -1.0 / (total * lever)
    coupling = pole_mass * half_length / total
    F = np.zeros((4, 4))
    F[0, 2] = F[1, 3] = 1.0
    F[2, 1], F[3, 1] = -coupling * fall, fall
    G = np.array([[0.0], [0.0], [1.0 / total - coupling * kick], [kick]])
    return from_continuous(
        F,
        G,
        np.diag([position_cost, angle_cost, rate_cost, rate_cost]),
        np.array([[force_cost]]),
        time_step=time_step,
        criterion=_required(criterion),
        noise=push**2 * G @ G.T,
        initial_mean=np.array([start_position, start_angle, 0.0, 0.0]),
        initial_covariance=np.diag([0.05, 0.02, 0.0, 0.0]) ** 2,
        name="cart-pole",
        state_names=("position", "angle", "velocity", "rate"),
        control_names=("force",),
    )


def double_integrator(
    mass: float = 1.0,
    time_step: float = 0.1,
    push: float = 0.1,
    start_position: float = 1.0,
    position_cost: float = 1.0,
    velocity_cost: float = 1.0,
    force_cost: float = 1.0,
    *,
    criterion: Criterion | None = None,
) -> LinearQuadratic:
    """A mass on a line, pushed by a force: `mass position'' = force`; the options are those of `cart_pole`."""
    _positive(mass=mass, time_step=time_step, force_cost=force_cost)
    _at_least_zero(push=push, position_cost=position_cost, velocity_cost=velocity_cost)
    G = np.array([[0.0], [1.0 / mass]])
    return from_continuous(
        np.array([[0.0, 1.0], [0.0, 0.0]]),
        G,
        np.diag([position_cost, velocity_cost]),
        np.array([[force_cost]]),
        time_step=time_step,
        criterion=_required(criterion),
        noise=push**2 * G @ G.T,
        initial_mean=np.array([start_position, 0.0]),
        initial_covariance=np.diag([0.1, 0.0]) ** 2,
        name="double-integrator",
        state_names=("position", "velocity"),
        control_names=("force",),
    )


def random_linear_quadratic(
    states: int = 4,
    controls: int = 2,
    spectral_radius: float = 1.02,
    noise: float = 0.1,
    seed: int = 0,
    *,
    criterion: Criterion | None = None,
) -> LinearQuadratic:
    """Normal entries everywhere: A scaled to its `spectral_radius`, costs `M M' / n`, noise of one deviation."""
    for name, value in (("states", states), ("controls", controls)):
        if not isinstance(value, int | np.integer) or value < 1:
            raise ValueError(f"{name} must be a whole number, at least 1, but {value!r} was given.")
    _at_least_zero(spectral_radius=spectral_radius, noise=noise)
    random = np.random.default_rng(seed)
    A = random.normal(size=(states, states))
    A *= spectral_radius / np.abs(np.linalg.eigvals(A)).max()
    B = random.normal(size=(states, controls)) / math.sqrt(states)
    root, effort = random.normal(size=(states, states)), random.normal(size=(controls, controls))
    return LinearQuadratic(
        A,
        B,
        root @ root.T / states,
        effort @ effort.T / controls + 0.1 * np.eye(controls),
        criterion=_required(criterion),
        W=noise**2 * np.eye(states),
        initial_mean=random.normal(size=states),
        initial_covariance=noise**2 * np.eye(states),
        name="random-linear",
    )


def _required(criterion: Criterion | None) -> Criterion:
    if criterion is None:
        raise ValueError(
            "criterion is missing: FiniteHorizon(horizon) sums costs over a fixed number of steps, "
            "Discounted(discount) discounts them without an end, AverageReward() is the cost of a step in the long run."
        )
    return criterion


def _positive(**numbers: float) -> None:
    for name, value in numbers.items():
        if not 0.0 < value < math.inf:
            raise ValueError(f"{name} must be positive, but {value} was given.")


def _at_least_zero(**numbers: float) -> None:
    for name, value in numbers.items():
        if not 0.0 <= value < math.inf:
            raise ValueError(f"{name} must be at least 0, but {value} was given.")
