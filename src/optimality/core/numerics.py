"""The number type of hyper-parameters, and the door between a user's precision and float64.

Importing the library changes no flag of JAX. Concrete arrays of a problem are kept as NumPy float64; a solver that is
called with them computes inside `precision(dtype)` and hands NumPy arrays back, so that nothing is rounded unnoticed on
the way out. Under a user's own `jit`, `vmap` or `grad` the arguments are traced and keep the precision they have.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.core
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PyTree

Real = float | int | Float[Array | np.ndarray | np.generic, ""]
"""A hyper-parameter that is a number: a leaf of its module, so that `vmap` can run over it."""


def precision(dtype: Any) -> Any:
    """A context in which JAX computes in `dtype`, float64 or float32; local to the thread, undone at its end."""
    name = np.dtype(dtype).name
    if name not in ("float64", "float32"):
        raise ValueError(f"dtype must be float64 or float32, but {name} was given.")
    return jax.enable_x64(name == "float64")


def float_dtype(tree: PyTree) -> Any:
    """The widest precision among the traced real leaves of `tree`."""
    leaves = [leaf for leaf in jax.tree.leaves(tree) if isinstance(leaf, jax.core.Tracer)]
    kinds = [leaf.dtype for leaf in leaves if jnp.issubdtype(leaf.dtype, jnp.floating)]
    return max(kinds, key=lambda kind: kind.itemsize) if kinds else jnp.result_type(float)


def is_traced(tree: PyTree) -> bool:
    """Whether any leaf is an abstract value inside a transformation."""
    return any(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves(tree))


def require_range(owner: Any, low: float, high: float = np.inf, *, above: bool = False, **numbers: Any) -> None:
    """Raises `ValueError` for a number, or an entry of an array, that is not finite or outside `[low, high]`, with
    `above` `(low, high]`.

    Numbers that are traced, or None, are left alone: there is nothing to see, or nothing was asked for.
    """
    for name, number in numbers.items():
        if number is None or is_traced(number):
            continue
        value = np.asarray(number, np.float64)
        if not np.all(np.isfinite(value) & ((value > low) if above else (value >= low)) & (value <= high)):
            bound = f"{'above' if above else 'at least'} {low:g}"
            bound += f" and at most {high:g}" if high < np.inf else " and finite"
            raise ValueError(f"{name} of {type(owner).__name__} must be {bound}, but {number} was given.")


def cast_floats(tree: PyTree, dtype: Any) -> PyTree:
    """Every real leaf, Python numbers too, as a strongly typed array of `dtype`; integers and booleans as they are.

    Python integers count as numbers here because a hyper-parameter may be written `1`; sizes are static fields.
    """

    def cast(leaf: Any) -> Any:
        if isinstance(leaf, bool):
            return leaf
        if isinstance(leaf, int | float) or jnp.issubdtype(getattr(leaf, "dtype", np.void), jnp.floating):
            return jnp.asarray(leaf, dtype)
        return leaf

    return jax.tree.map(cast, tree)


def to_numpy(tree: PyTree) -> PyTree:
    """Every JAX array as a NumPy array of the same precision; typed random keys stay as they are."""

    def convert(leaf: Any) -> Any:
        if isinstance(leaf, jax.Array) and not jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            return np.asarray(leaf)
        return leaf

    return jax.tree.map(convert, tree)


def at_precision(compiled: Callable[..., Any], *arguments: PyTree, dtype: Any = np.float64) -> Any:
    """`compiled(*arguments)` of a function under `jax.jit`: concrete arguments in `dtype` and with NumPy arrays as the
    answer, traced ones in the widest precision they have."""
    if is_traced(arguments):
        return compiled(*cast_floats(arguments, float_dtype(arguments)))
    with precision(dtype):
        return to_numpy(compiled(*cast_floats(arguments, dtype)))
