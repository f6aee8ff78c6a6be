"""To and from dynamax, whose filter is written out here: the package brings nightly builds and a web server."""

import sys
import types
from typing import Any, NamedTuple

import numpy as np
import pytest

from clauses import against
from instances import close
from optimality import FiniteHorizon, TabularMDP
from optimality.planning.kalman_filter import kalman_filter
from optimality.problems.dynamax_models import dynamax_inputs, from_dynamax, to_dynamax
from optimality.problems.linear_quadratic import LinearQuadratic, NoiseChannels
from optimality.problems.partially_observed import LinearObservation, PartiallyObserved, TabularObservation


class ParamsLGSSMInitial(NamedTuple):
    mean: Any
    cov: Any


class ParamsLGSSMDynamics(NamedTuple):
    weights: Any
    bias: Any
    input_weights: Any
    cov: Any


class ParamsLGSSMEmissions(NamedTuple):
    weights: Any
    bias: Any
    input_weights: Any
    cov: Any


class ParamsLGSSM(NamedTuple):
    initial: ParamsLGSSMInitial
    dynamics: ParamsLGSSMDynamics
    emissions: ParamsLGSSMEmissions


@pytest.fixture
def dynamax(monkeypatch):
    """Its records under the name by which they are imported."""
    module = types.ModuleType("dynamax.linear_gaussian_ssm.inference")
    for record in (ParamsLGSSMInitial, ParamsLGSSMDynamics, ParamsLGSSMEmissions, ParamsLGSSM):
        setattr(module, record.__name__, record)
    for name in ("dynamax", "dynamax.linear_gaussian_ssm"):
        monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
    monkeypatch.setitem(sys.modules, module.__name__, module)


def lgssm_filter(params, emissions, inputs):
    """The recursion of dynamax 1.0.3: entry t + 1 of dynamics and inputs for the step from t."""

    def at(array, dimensions, t):
        return array[t] if array.ndim > dimensions else array

    mean, covariance, evidence, means, covariances = *params.initial, 0.0, [], []
    for t, (y, u) in enumerate(zip(emissions, inputs, strict=True)):
        H, d, D, R = (at(a, k, t) for a, k in zip(params.emissions, (2, 1, 2, 2), strict=True))
        S, error = H @ covariance @ H.T + R, y - H @ mean - D @ u - d
        evidence -= 0.5 * (error @ np.linalg.solve(S, error) + np.linalg.slogdet(2 * np.pi * S)[1])
        gain = np.linalg.solve(S, H @ covariance).T
        mean, covariance = mean + gain @ error, covariance - gain @ S @ gain.T
        means.append(mean)
        covariances.append(covariance)
        if t + 1 < len(emissions):
            F, b, B, Q = (at(a, k, t + 1) for a, k in zip(params.dynamics, (2, 1, 2, 2), strict=True))
            mean, covariance = F @ mean + B @ inputs[t + 1] + b, F @ covariance @ F.T + Q
    return np.stack(means), np.stack(covariances), evidence


def instance(timed, T=6):
    rng = np.random.default_rng(int(timed))
    time, looks = ((T,), (T + 1,)) if timed else ((), ())
    W = rng.normal(size=(*time, 3, 3))
    process = LinearQuadratic(
        0.5 * rng.normal(size=(*time, 3, 3)),
        rng.normal(size=(*time, 3, 2)),
        np.eye(3),
        np.eye(2),
        criterion=FiniteHorizon(T),
        c=rng.normal(size=(*time, 3)),
        W=W @ np.swapaxes(W, -1, -2),
        initial_mean=rng.normal(size=3),
        initial_covariance=np.eye(3),
    )
    V = np.broadcast_to(np.diag([0.3, 0.5]), (*looks, 2, 2))
    seen = LinearObservation(rng.normal(size=(*looks, 2, 3)), V, D=rng.normal(size=(2, 2)), d=rng.normal(size=2))
    return PartiallyObserved(process, seen), rng.normal(size=(T + 1, 2)), rng.normal(size=(T, 2))


@pytest.mark.parametrize("timed", [False, True], ids=["constant", "timed"])
@against(
    dynamax_inputs,
    not_shifted=lambda controls: np.concatenate([controls, np.zeros((1, 2))]),
    repeated=lambda controls: np.concatenate([controls[:1], controls]),
)
def test_the_filters_agree(implementation, timed, dynamax):
    problem, observations, controls = instance(timed)
    found = kalman_filter(problem, observations, controls)
    means, covariances, evidence = lgssm_filter(to_dynamax(problem), observations, implementation(controls))
    close(found.means, means, 1e-11)
    close(found.covariances, covariances, 1e-11)
    close(found.log_evidence, evidence, 1e-11)


@pytest.mark.parametrize("timed", [False, True], ids=["constant", "timed"])
def test_there_and_back(timed, dynamax):
    problem, _, _ = instance(timed)
    back = from_dynamax(to_dynamax(problem), criterion=FiniteHorizon(6))
    for name in ("A", "B", "c", "W", "initial_mean", "initial_covariance"):
        close(getattr(back.problem, name), getattr(problem.problem, name))
    for name in ("C", "V", "D", "d"):
        close(getattr(back.observation, name), getattr(problem.observation, name))


def test_models_without_inputs_and_with_a_diagonal():
    params = ParamsLGSSM(
        ParamsLGSSMInitial(np.zeros(2), np.eye(2)),
        ParamsLGSSMDynamics(np.eye(2), np.zeros(2), np.zeros((2, 0)), np.eye(2)),
        ParamsLGSSMEmissions(np.eye(2), np.zeros(2), np.zeros((2, 0)), np.array([1.0, 2.0])),
    )
    problem = from_dynamax(params)
    assert problem.problem.shape == (2, 1)
    close(problem.observation.V, np.diag([1.0, 2.0]))
    moving = params._replace(dynamics=params.dynamics._replace(weights=lambda t: np.eye(2)))
    with pytest.raises(ValueError, match="weights is a function of time: list its values"):
        from_dynamax(moving)


def test_refusals(dynamax):
    mdp = TabularMDP.from_arrays(np.ones((1, 1, 1)), np.zeros(1), criterion=FiniteHorizon(1))
    with pytest.raises(ValueError, match="but a TabularMDP was given"):
        to_dynamax(PartiallyObserved(mdp, TabularObservation(np.ones((1, 1)))))
    channels = NoiseChannels(offset=np.ones((1, 1)))
    noisy = LinearQuadratic(1.0, 1.0, 1.0, 1.0, criterion=FiniteHorizon(1), channels=channels)
    with pytest.raises(ValueError, match="dynamax has no such noise"):
        to_dynamax(PartiallyObserved(noisy, LinearObservation(1.0, 1.0)))
    with pytest.raises(ValueError, match=r"controls have shape \(3,\)"):
        dynamax_inputs(np.zeros(3))


def test_a_missing_package_is_named():
    problem, _, _ = instance(False)
    with pytest.raises(ImportError, match="to_dynamax needs the package dynamax: pip install dynamax"):
        to_dynamax(problem)
