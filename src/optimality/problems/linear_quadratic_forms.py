"""Linear-quadratic problems from a reference to follow, from forms over states and controls, and from rewards."""

from typing import Any

import numpy as np

from optimality.core.numerics import Real, is_traced
from optimality.problems.criterion import Criterion, FiniteHorizon
from optimality.problems.linear_quadratic import LinearQuadratic, check, stored


def tracking(
    A: Any,
    B: Any,
    Q: Any,
    R: Any,
    states: Any,
    controls: Any = None,
    *,
    Qf: Any = None,
    discount: Real = 1.0,
    **fields: Any,
) -> LinearQuadratic:
    """To follow a reference: `1/2 (x - states_t)'Q (x - states_t) + 1/2 (u - controls_t)'R (u - controls_t)`.

    `states` is `[T+1, n]` and sets the horizon, `controls` `[T, m]`, zero by default; the last state costs
    `Qf`, by default Q.
    """
    states = stored(2)(states)
    B, Q, R = stored(2)(B), stored(2)(Q), stored(2)(R)
    if states.ndim != 2 or states.shape[0] < 2 or states.shape[1] != B.shape[-2]:
        raise ValueError(
            f"states has shape {states.shape}, but a reference needs [T+1, {B.shape[-2]}]: one state for each of "
            "T >= 1 steps and the last."
        )
    horizon = states.shape[0] - 1
    controls = np.zeros((horizon, B.shape[-1])) if controls is None else stored(2)(controls)
    if controls.shape != (horizon, B.shape[-1]):
        raise ValueError(
            f"controls has shape {controls.shape}, but needs {(horizon, B.shape[-1])}: one a step of the reference."
        )
    Qf = (Q[-1] if Q.ndim == 3 else Q) if Qf is None else stored(2)(Qf)
    weighted, effort = (Q @ states[:-1, :, None])[..., 0], (R @ controls[:, :, None])[..., 0]
    last = Qf @ states[-1]
    return LinearQuadratic(
        A,
        B,
        Q,
        R,
        criterion=FiniteHorizon(horizon, discount),
        q=-weighted,
        r=-effort,
        s=0.5 * ((weighted * states[:-1]).sum(-1) + (effort * controls).sum(-1)),
        Qf=Qf,
        qf=-last,
        sf=0.5 * (last * states[-1]).sum(-1),
        **fields,
    )


def from_quadratic_forms(F: Any, f: Any, C: Any, c: Any, *, criterion: Criterion, **fields: Any) -> LinearQuadratic:
    """From forms over `tau = [x; u]`: `x' = F tau + f`, cost `1/2 tau'C tau + c'tau` (Levine and Abbeel 2014)."""
    F, f, C, c = stored(2)(F), stored(1)(f), stored(2)(C), stored(1)(c)
    n, both = F.shape[-2:]
    if both <= n or C.shape[-2:] != (both, both) or c.shape[-1] != both or f.shape[-1] != n:
        raise ValueError(
            f"F, f, C, c have shapes {F.shape}, {f.shape}, {C.shape}, {c.shape}, but need [n, n + m], [n], "
            "[n + m, n + m] and [n + m], with m >= 1, over [x; u]."
        )
    if not is_traced(C):
        check("C", C)
    return LinearQuadratic(
        F[..., :n],
        F[..., n:],
        C[..., :n, :n],
        C[..., n:, n:],
        criterion=criterion,
        c=f,
        N=C[..., :n, n:],
        q=c[..., :n],
        r=c[..., n:],
        **fields,
    )


def from_rewards(
    A: Any,
    B: Any,
    *,
    criterion: Criterion,
    R_xx: Any,
    R_uu: Any,
    R_xu: Any = None,
    r_x: Any = None,
    r_u: Any = None,
    r_0: Any = None,
    terminal_xx: Any = None,
    terminal_x: Any = None,
    terminal_0: Any = None,
    **fields: Any,
) -> LinearQuadratic:
    """From the reward `1/2 x'R_xx x + 1/2 u'R_uu u + x'R_xu u + r_x'x + r_u'u + r_0` and that of the last state.

    The sign changes here and nowhere else: `Q = -R_xx`, and so on.
    """

    def minus(value):
        return None if value is None else -(value if is_traced(value) else np.asarray(value, np.float64))

    return LinearQuadratic(
        A,
        B,
        minus(R_xx),
        minus(R_uu),
        criterion=criterion,
        N=minus(R_xu),
        q=minus(r_x),
        r=minus(r_u),
        s=minus(r_0),
        Qf=minus(terminal_xx),
        qf=minus(terminal_x),
        sf=minus(terminal_0),
        **fields,
    )
