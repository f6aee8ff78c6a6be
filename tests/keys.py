"""Fails where one random key is used twice, by JAX's own checker over the whole traced program.

It follows keys through scans, conds, maps and slices, also where the second use is in another function.
"""

from collections.abc import Callable
from typing import Any

import jax
from jax.errors import KeyReuseError


def check_keys(function: Callable[..., Any], *arguments: Any) -> None:
    """Traces `function` afresh; `AssertionError` with the place where a key is used for the second time."""
    # A new function for each check: what was traced before is not looked at again.
    fresh = jax.jit(lambda *given: function(*given))
    with jax.debug_key_reuse(True):
        try:
            fresh(*arguments)
        except KeyReuseError as error:
            raise AssertionError(str(error)) from error
