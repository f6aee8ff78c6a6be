"""What every distribution offers.

Parameters are leaves, so a batch of distributions is one object whose leaves have a leading axis, used under
`vmap`. Concrete parameters are checked at construction; of traced ones only the shapes can be. Numbers and
lists become NumPy float64 and take the precision of the computation that uses them; arrays keep their own.
"""

import abc
from typing import Any, NoReturn

import equinox as eqx
import jax
import numpy as np
from jaxtyping import Array, PRNGKeyArray

from optimality.core.numerics import is_traced


class AbstractDistribution(eqx.Module):
    """A probability distribution; logarithms are natural."""

    @abc.abstractmethod
    def sample(self, key: PRNGKeyArray) -> Array:
        """One draw."""

    @abc.abstractmethod
    def log_prob(self, value: Any) -> Array:
        """Logarithm of the probability, or of the density, of `value`."""

    @abc.abstractmethod
    def sample_and_log_prob(self, key: PRNGKeyArray) -> tuple[Array, Array]:
        """One draw and its own `log_prob`, at no loss where the draw alone has been rounded."""

    @abc.abstractmethod
    def entropy(self) -> Array:
        """`-E log p`; for densities relative to the Lebesgue measure, so it may be negative."""

    @abc.abstractmethod
    def mean(self) -> Array: ...

    @abc.abstractmethod
    def mode(self) -> Array: ...

    @abc.abstractmethod
    def variance(self) -> Array: ...

    @abc.abstractmethod
    def kl(self, other: "AbstractDistribution") -> Array:
        """`KL(self || other) = E_self (log self - log other)`; `TypeError` for another family."""


def parameter(value: Any) -> Any:
    """An array parameter as it is; a number, a list or integers as NumPy float64."""
    if isinstance(value, jax.Array) and jax.numpy.issubdtype(value.dtype, jax.numpy.floating):
        return value
    if isinstance(value, jax.Array):
        return value.astype(jax.numpy.result_type(float))
    value = np.asarray(value)
    return value if np.issubdtype(value.dtype, np.floating) else value.astype(np.float64)


def require_equal_shapes(owner: Any, **parameters: Any) -> None:
    """Raises `ValueError` where parameters that go together entry by entry differ in shape; traced ones too."""
    shapes = {name: np.shape(value) for name, value in parameters.items()}
    if len(set(shapes.values())) > 1:
        raise ValueError(
            f"{' and '.join(shapes)} of {type(owner).__name__} must have the same shape, but "
            f"{' and '.join(map(str, shapes.values()))} were given: broadcast one to the other."
        )


def require_probability(value: Any) -> None:
    """Raises `ValueError` for a concrete probability outside [0, 1]."""
    if not is_traced(value) and not np.all((np.asarray(value) >= 0.0) & (np.asarray(value) <= 1.0)):
        raise ValueError(f"a quantile needs probabilities in [0, 1], but {value} was given.")


def refuse_kl(ours: AbstractDistribution, other: Any) -> NoReturn:
    name, other_name = type(ours).__name__, type(other).__name__
    raise TypeError(
        f"KL({name} || {other_name}) has no rule: {name}.kl needs another {name}. "
        f"Estimate it from samples, as the mean of log_prob differences."
    )
