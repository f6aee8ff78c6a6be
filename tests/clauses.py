"""The harness for exact clauses: a check must pass on our implementation and fail on each wrong one.

@pytest.mark.row("S44.entropy_bounds")
@against(soft_maximum, wrong_sign=lambda q: -soft_maximum(-q))
def test_bounds(implementation, x64): ...
"""

import functools
import inspect
from collections.abc import Callable
from typing import Any, NamedTuple

import pytest


class _Case(NamedTuple):
    implementation: Any
    wrong: str | None


def against(ours: Any, **wrong: Any) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Run a check on `ours`, where it must pass, and on each of `wrong`, where it must raise AssertionError.

    The check takes the implementation as its first argument, named `implementation`; fixtures and other
    parameters follow it. Any other error on a wrong implementation fails the test as it is: a wrong form that
    crashes has not been told apart from ours by the claim.
    """
    if not wrong:
        raise TypeError(
            "against() needs at least one wrong implementation: a check that nothing fails shows nothing"
        )

    def decorate(check: Callable[..., None]) -> Callable[..., None]:
        if next(iter(inspect.signature(check).parameters), None) != "implementation":
            raise TypeError(f"the first argument of {check.__name__} must be named 'implementation'")

        @functools.wraps(check)
        def run(implementation: _Case, **others: Any) -> None:
            if implementation.wrong is None:
                check(implementation.implementation, **others)
                return
            try:
                check(implementation.implementation, **others)
            except AssertionError:
                return
            pytest.fail(f"the check does not notice the wrong implementation '{implementation.wrong}'")

        cases = [pytest.param(_Case(ours, None), id="ours")]
        cases += [pytest.param(_Case(form, name), id=f"wrong-{name}") for name, form in wrong.items()]
        return pytest.mark.parametrize("implementation", cases)(run)

    return decorate
