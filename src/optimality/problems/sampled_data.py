"""Continuous time, sampled and held: the discrete linear-quadratic problem that is exactly the continuous one.

    dx = (F x + G u + drift) dt + dw,      E dw dw' = noise dt
    cost per time   1/2 x'Q x + 1/2 u'R u + x'N u + q'x + r'u + s

with u held over each `time_step` h. With `M = [F, G, drift; 0]` over `z = [x; u; 1]`, a step is `exp(M h)`, its cost
`int_0^h exp(M't) C exp(Mt) dt`, and its noise `int_0^h exp(Ft) noise exp(F't) dt`, each a block of one matrix
exponential (Van Loan 1978). What the noise costs between two samples is a constant, by Gauss's quadrature.
"""

from typing import Any

import numpy as np
import scipy.linalg

from optimality.problems.criterion import Criterion
from optimality.problems.linear_quadratic import LinearQuadratic


def from_continuous(
    F: Any,
    G: Any,
    Q: Any,
    R: Any,
    *,
    time_step: float,
    criterion: Criterion,
    N: Any = None,
    q: Any = None,
    r: Any = None,
    s: float = 0.0,
    drift: Any = None,
    noise: Any = None,
    **fields: Any,
) -> LinearQuadratic:
    """The problem of controls that are held for `time_step`; costs are per unit of time.

    `F` is `[n, n]`, `G` `[n, m]`; `noise` is the intensity of the noise, `[n, n]`. The discount of the criterion is of
    a step. `fields` are those of `LinearQuadratic`, such as the cost of the last state. Raises `ValueError` for a step
    that is not positive, and what `LinearQuadratic` raises.
    """
    if not 0.0 < float(time_step) < np.inf:
        raise ValueError(f"time_step must be positive, but {time_step} was given: how long a control is held.")
    F, G = np.atleast_2d(np.asarray(F, np.float64)), np.atleast_2d(np.asarray(G, np.float64))
    n, m = G.shape
    # refuses wrong shapes, asymmetry and numbers that are not finite in the caller's own terms
    rates = LinearQuadratic(F, G, Q, R, criterion=criterion, N=N, q=q, r=r, s=s, c=drift, W=noise)
    size = n + m + 1
    M = np.zeros((size, size))
    M[:n] = np.concatenate([F, G, np.asarray(rates.c)[:, None]], axis=1)
    C = np.zeros((size, size))
    C[:n, :n], C[n:-1, n:-1], C[:n, n:-1] = rates.Q, rates.R, rates.N
    C[:n, -1], C[n:-1, -1], C[-1, -1] = rates.q, rates.r, 2.0 * rates.s
    C = np.triu(C) + np.triu(C, 1).T
    flow, cost = _integral(M, C, time_step)
    A = flow[:n, :n]
    return LinearQuadratic(
        A,
        flow[:n, n:-1],
        cost[:n, :n],
        cost[n:-1, n:-1],
        criterion=criterion,
        c=flow[:n, -1],
        N=cost[:n, n:-1],
        q=cost[:n, -1],
        r=cost[n:-1, -1],
        s=0.5 * cost[-1, -1] + _noise_cost(F, np.asarray(rates.Q), np.asarray(rates.W), time_step),
        W=_integral(F.T, np.asarray(rates.W), time_step)[1],
        **fields,
    )


def _integral(M: np.ndarray, C: np.ndarray, time: float) -> tuple[np.ndarray, np.ndarray]:
    """`exp(M time)` and `int_0^time exp(M't) C exp(Mt) dt`."""
    size = M.shape[0]
    block = scipy.linalg.expm(time * np.block([[-M.T, C], [np.zeros((size, size)), M]]))
    flow = block[size:, size:]
    integral = flow.T @ block[:size, size:]
    return flow, (integral + integral.T) / 2


def _noise_cost(F: np.ndarray, Q: np.ndarray, noise: np.ndarray, time_step: float) -> float:
    """`1/2 int_0^h tr(Q W(t)) dt`, W(t) the covariance that the noise has made since the sample."""
    if not noise.any():
        return 0.0
    nodes, weights = np.polynomial.legendre.leggauss(16)
    times = 0.5 * time_step * (nodes + 1.0)
    spread = [np.sum(Q * _integral(F.T, noise, time)[1]) for time in times]
    return 0.5 * (0.5 * time_step) * float(weights @ spread)


def from_system(
    system: Any, Q: Any, R: Any, *, criterion: Criterion, time_step: float | None = None, **fields: Any
) -> LinearQuadratic:
    """A linear system of SciPy (`scipy.signal.StateSpace`, `lti`, `dlti`) or of python-control (`StateSpace`).

    A system in discrete time is taken as it is, and Q and R are costs of a step. One in continuous time needs
    `time_step`, and Q and R are costs per unit of time (`from_continuous`). Outputs do not matter: Q is about states.
    """
    if not hasattr(system, "A") and hasattr(system, "to_ss"):
        system = system.to_ss()
    if not (hasattr(system, "A") and hasattr(system, "B") and hasattr(system, "dt")):
        raise ValueError(
            f"system must have A, B and dt, as scipy.signal.StateSpace and control.StateSpace have, but a "
            f"{type(system).__name__} was given; matrices go to LinearQuadratic or from_continuous."
        )
    from_control = type(system).__module__.partition(".")[0] == "control"
    if from_control and system.dt is None:
        raise ValueError("the system's dt is not set: give it dt=0 for continuous time, or its time step.")
    if system.dt is None or (from_control and system.dt == 0):
        if time_step is None:
            raise ValueError("the system is in continuous time: give time_step, for which a control is held.")
        return from_continuous(system.A, system.B, Q, R, time_step=time_step, criterion=criterion, **fields)
    if time_step is not None and system.dt is not True and float(system.dt) != float(time_step):
        raise ValueError(f"the system's own time step is {system.dt}, but {time_step} was given: leave it out.")
    return LinearQuadratic(system.A, system.B, Q, R, criterion=criterion, **fields)
