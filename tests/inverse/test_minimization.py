"""The minimizers against closed forms, SciPy, and functions that make them fail."""

import numpy as np
import pytest
import scipy.optimize

from clauses import against
from instances import close
from optimality import Result
from optimality.inverse.minimization import newton, quasi_newton, subgradient

RANDOM = np.random.default_rng(0)
TURN = np.linalg.qr(RANDOM.normal(size=(10, 10)))[0]
MATRIX = (TURN * 10.0 ** np.linspace(-2, 2, 10)) @ TURN.T  # condition 1e4
TARGET = RANDOM.normal(size=10)


def quadratic(x):
    return 0.5 * x @ MATRIX @ x - TARGET @ x, MATRIX @ x - TARGET


def rosenbrock(x):
    return scipy.optimize.rosen(x), scipy.optimize.rosen_der(x)


@pytest.mark.parametrize("method", ["lbfgs", "newton"])
def test_ill_conditioned_quadratic_to_the_last_digits(method):
    options = {"tolerance": 1e-10, "max_steps": 500}
    if method == "newton":
        found = newton(quadratic, lambda x: MATRIX, np.zeros(10), **options)
        assert found.steps <= 3
    else:
        found = quasi_newton(quadratic, np.zeros(10), **options)
    assert found.code is Result.CONVERGED
    close(found.x, np.linalg.solve(MATRIX, TARGET), 1e-8)


def test_a_curved_valley():
    found = quasi_newton(rosenbrock, np.full(6, -1.0), tolerance=1e-10, max_steps=500)
    close(found.x, np.ones(6), 1e-8)
    again = newton(rosenbrock, scipy.optimize.rosen_hess, np.full(6, 0.5), tolerance=1e-10, max_steps=100)
    assert np.abs(rosenbrock(again.x)[1]).max() <= 1e-10


def by_scipy(l1):
    """In twice the variables, `x = u - v`."""

    def split(z):
        value, gradient = quadratic(z[:10] - z[10:])
        return value + l1 * z.sum(), np.concatenate([gradient + l1, -gradient + l1])

    options = {"maxiter": 50_000, "maxfun": 100_000, "ftol": 0.0, "gtol": 1e-11}
    found = scipy.optimize.minimize(
        split, np.zeros(20), jac=True, bounds=[(0, None)] * 20, method="L-BFGS-B", options=options
    )
    return found.x[:10] - found.x[10:]


@against(
    lambda x, l1: subgradient(x, quadratic(x)[1], l1),
    no_threshold=lambda x, l1: quadratic(x)[1] + l1 * np.sign(x),
    forgets=lambda x, l1: quadratic(x)[1],
)
def test_subgradient_is_zero_at_the_optimum_only(implementation):
    found = newton(quadratic, lambda x: MATRIX, np.zeros(10), l1=0.5, tolerance=1e-10, max_steps=5000)
    assert 0 < np.count_nonzero(found.x) < 10
    close(implementation(found.x, 0.5), np.zeros(10), 1e-9)
    assert np.abs(implementation(found.x + 0.1, 0.5)).max() > 1e-3


@pytest.mark.parametrize("l1", [0.1, 0.5])
@pytest.mark.parametrize("method", ["lbfgs", "newton"])
def test_with_a_1_norm(method, l1):
    options = {"l1": l1, "tolerance": 1e-10, "max_steps": 5000}
    if method == "newton":
        found = newton(quadratic, lambda x: MATRIX, np.zeros(10), **options)
    else:
        options["tolerance"] = 1e-5  # within one orthant at a time it nears an ill-conditioned optimum slowly
        found = quasi_newton(quadratic, np.zeros(10), **options)
    assert found.code is Result.CONVERGED
    expected, value = by_scipy(l1), quadratic(found.x)[0] + l1 * np.abs(found.x).sum()
    assert value <= quadratic(expected)[0] + l1 * np.abs(expected).sum() + 1e-7


def test_values_that_are_infinite_are_steps_too_long():
    def barrier(x):
        with np.errstate(invalid="ignore", divide="ignore"):
            return float(np.sum(x - np.log(x))), 1.0 - 1.0 / x

    found = quasi_newton(barrier, np.full(3, 0.01), tolerance=1e-10, max_steps=100)
    close(found.x, np.ones(3), 1e-9)
    assert quasi_newton(barrier, np.full(3, -1.0), tolerance=1e-10, max_steps=100).code is Result.NON_FINITE


def test_limits_and_wrong_gradients():
    assert quasi_newton(rosenbrock, np.zeros(6), tolerance=1e-10, max_steps=3).code is Result.ITERATION_LIMIT
    uphill = quasi_newton(lambda x: (x @ x, -x), np.ones(3), tolerance=1e-10, max_steps=100)
    assert uphill.code is Result.LINE_SEARCH_FAILED
