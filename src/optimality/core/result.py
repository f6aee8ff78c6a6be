"""How a computation ended: one enumeration for the whole library, each member with a sentence to act on.

Inside `jit` a result is an integer array (its `code`), so that it can be batched; on the host it is a `Result`.
"""

import enum
from typing import Any

import numpy as np


class Result(enum.IntEnum):
    """The outcome of a solver. `Result.CONVERGED` and `Result.CONSTRAINT_INACTIVE` are successes."""

    CONVERGED = 0
    CONSTRAINT_INACTIVE = 1
    ITERATION_LIMIT = 2
    NOT_CONVERGED = 3
    NON_FINITE = 4
    INFEASIBLE = 5
    BELOW_MINIMAL_KL = 6
    COLLAPSED = 7
    LINE_SEARCH_FAILED = 8
    NOT_POSITIVE_DEFINITE = 9
    MULTICHAIN = 10

    @property
    def is_success(self) -> bool:
        return self in (Result.CONVERGED, Result.CONSTRAINT_INACTIVE)

    @property
    def sentence(self) -> str:
        return _SENTENCES[self]

    @classmethod
    def of(cls, code: Any) -> "Result":
        """The member for a concrete code."""
        return cls(int(np.asarray(code)))


_SENTENCES = {
    Result.CONVERGED: "Converged.",
    Result.CONSTRAINT_INACTIVE: "Converged; the constraint does not bind, so its multiplier is zero.",
    Result.ITERATION_LIMIT: ("Stopped at the iteration limit while still improving: raise max_steps or the tolerance."),
    Result.NOT_CONVERGED: (
        "The iteration does not approach a fixed point: the value grows without bound or oscillates. "
        "Use a smaller discount or a finite horizon. The entropy form pays for staying alive: lower its temperature or "
        "take prior='uniform'. Exact inference has no evidence where rewards outweigh the chance of ending: raise its "
        "temperature."
    ),
    Result.NON_FINITE: "A value became infinite or NaN: look for rewards or probabilities of extreme size.",
    Result.INFEASIBLE: "No solution satisfies the constraints: loosen a bound or allow slack.",
    Result.BELOW_MINIMAL_KL: (
        "The KL bound is below the smallest that the other constraints allow: raise it or allow slack."
    ),
    Result.COLLAPSED: "The weights collapsed onto one sample: raise the temperature or the KL bound, or add data.",
    Result.LINE_SEARCH_FAILED: "The line search found no improvement: rescale the problem or loosen the tolerance.",
    Result.NOT_POSITIVE_DEFINITE: "A matrix that must be positive definite is not: check the quadratic terms.",
    Result.MULTICHAIN: (
        "The gain depends on the first state: more than one recurrent class. "
        "Average reward assumes one; use a discount, or solve each class by itself."
    ),
}


class SolverError(RuntimeError):
    """Raised by `solve(..., throw=True)`; `solution` holds what was reached."""

    def __init__(self, method: str, result: Result, solution: Any, explanation: str = ""):
        text = f"{method}: {result.name.lower().replace('_', ' ')}. {result.sentence}"
        super().__init__(f"{text} {explanation}" if explanation else text)
        self.result = result
        self.solution = solution
