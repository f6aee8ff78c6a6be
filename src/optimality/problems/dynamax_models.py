"""To and from dynamax, whose linear-Gaussian state space models have other conventions of time.

Here `A_t`, `B_t`, `c_t`, `W_t` and the control `u_t` lead from time t to t + 1, and D feels the control before. dynamax
(1.0) has one entry for each of the T+1 observations, takes entry t + 1 for the step from t to t + 1 and ignores entry 0
in the dynamics; its D feels the input of its own entry. So everything moves by one place, and the first input is zero:

    inputs = [0, u_0, u_1, ..., u_{T-1}]

Without that a filter runs and is wrong. dynamax is no dependency: it is imported when a function here is called.
"""

import importlib
from typing import Any

import numpy as np

from optimality.problems.criterion import AverageReward, Criterion
from optimality.problems.linear_quadratic import LinearQuadratic
from optimality.problems.partially_observed import LinearObservation, PartiallyObserved


def to_dynamax(problem: PartiallyObserved) -> Any:
    """The `ParamsLGSSM` of dynamax, for `lgssm_filter(params, observations, dynamax_inputs(controls))`.

    Raises `ValueError` for a table and for noise channels, `ImportError` where dynamax is not installed.
    """
    process, seen = problem.problem, problem.observation
    if not isinstance(process, LinearQuadratic) or not isinstance(seen, LinearObservation):
        raise ValueError(f"to_dynamax converts linear-Gaussian problems, but a {type(process).__name__} was given.")
    if process.channels is not None:
        raise ValueError("the problem has noise channels, whose size depends on the state: dynamax has no such noise.")
    library = _dynamax()
    (p, _), (_, m) = seen.shape, process.shape

    def later(array: Any, dimensions: int) -> Any:
        return array if array.ndim == dimensions else np.concatenate([array[:1], array])

    return library.ParamsLGSSM(
        initial=library.ParamsLGSSMInitial(mean=process.initial_mean, cov=process.initial_covariance),
        dynamics=library.ParamsLGSSMDynamics(
            weights=later(process.A, 2), bias=later(process.c, 1), input_weights=later(process.B, 2),
            cov=later(process.W, 2),
        ),
        emissions=library.ParamsLGSSMEmissions(
            weights=seen.C, bias=seen.d, input_weights=np.zeros((p, m)) if seen.D is None else seen.D, cov=seen.V
        ),
    )  # fmt: skip


def dynamax_inputs(controls: Any) -> np.ndarray:
    """The inputs `[T+1, m]` of dynamax for controls `[T, m]`: a row of zeros comes first."""
    controls = np.asarray(controls, np.float64)
    if controls.ndim != 2:
        raise ValueError(f"controls have shape {controls.shape}, but need [T, m].")
    return np.concatenate([np.zeros((1, controls.shape[1])), controls])


def from_dynamax(
    params: Any, *, Q: Any = None, R: Any = None, criterion: Criterion | None = None, **fields: Any
) -> PartiallyObserved:
    """The problem with the model of a dynamax `ParamsLGSSM`; its controls are dynamax's inputs without the first.

    Args:
        params: dynamics and emissions constant, or with one entry for each observation.
        Q: cost of states, by default zero: it plays no part in filtering.
        R: cost of controls, by default the identity.
        criterion: by default `AverageReward()`; a model that changes in time needs `FiniteHorizon(T)`.
        fields: other fields of `LinearQuadratic`.

    Raises:
        ValueError: parameters that are functions of time, or what the
            problem's own classes refuse.
    """
    first, moves, sees = params.initial, params.dynamics, params.emissions
    for name, value in (*moves._asdict().items(), *sees._asdict().items()):
        if callable(value):
            raise ValueError(f"{name} is a function of time: list its values, one for each observation.")
    n = np.shape(first.mean)[0]

    def earlier(value: Any, dimensions: int) -> Any:
        value = np.asarray(value, np.float64)
        return value[1:] if value.ndim > dimensions else value

    A, noise = earlier(moves.weights, 2), np.asarray(sees.cov, np.float64)
    C, D = np.asarray(sees.weights, np.float64), np.asarray(sees.input_weights, np.float64)
    B = earlier(moves.input_weights, 2)
    if B.shape[-1] == 0:  # a model without inputs: one control that does nothing
        B, D = np.zeros((n, 1)), np.zeros((C.shape[-2], 1))
    process = LinearQuadratic(
        A,
        B,
        np.zeros((n, n)) if Q is None else Q,
        np.eye(B.shape[-1]) if R is None else R,
        criterion=AverageReward() if criterion is None else criterion,
        c=earlier(moves.bias, 1),
        W=earlier(moves.cov, 2),
        initial_mean=np.asarray(first.mean, np.float64),
        initial_covariance=np.asarray(first.cov, np.float64),
        **fields,
    )
    V = np.diag(noise) if noise.ndim == 1 else noise
    return PartiallyObserved(process, LinearObservation(C, V, D=D, d=np.asarray(sees.bias, np.float64)))


def _dynamax() -> Any:
    try:
        return importlib.import_module("dynamax.linear_gaussian_ssm.inference")
    except ModuleNotFoundError as error:
        raise ImportError("to_dynamax needs the package dynamax: pip install dynamax.") from error
