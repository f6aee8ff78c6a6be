"""Observations whose law is to be learned: `Dataset`.

Integers between 0 and `levels - 1` are made continuous by uniform noise, `y = (x + u) / levels`, since a density has no
maximum on points that repeat. For every density p of y

    E log p(y) - features log levels <= log P(x),

so that bounds of the two differ by a constant, `log_levels` (Theis, van den Oord and Bethge 2016, section 3.1).
"""

import math
from dataclasses import KW_ONLY
from typing import Any, Literal, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from optimality.core.numerics import is_traced

Likelihood = Literal["gaussian", "bernoulli", "categorical"]
Rows = Float[Array | np.ndarray, "points features"]


class Parts(NamedTuple):
    """What a model is fitted to, stopped by, and judged on; each `[points, features]`, the last two perhaps empty."""

    train: Any
    validation: Any
    test: Any


class Dataset(eqx.Module):
    """Points that are independent draws of an unknown law.

    `parts` divides them at random into points to fit, to stop by and to judge on, the same for every method; shares of
    zero leave all of them to the fit.

    Raises:
        ValueError: fewer than two points to fit, no features, numbers that are not finite or outside the likelihood's
            support, or shares that leave too little.
    """

    observations: Rows = eqx.field(converter=lambda value: _rows(value))
    """`[points, features]`; a vector counts as points of one feature."""
    _: KW_ONLY
    likelihood: Likelihood = eqx.field(static=True, default="gaussian")
    """What a feature is: a real number, 0 or 1, or one of `categories`."""
    levels: int | None = eqx.field(static=True, default=None)
    """Of integers between 0 and `levels - 1` that are made continuous by noise."""
    categories: int | None = eqx.field(static=True, default=None)
    """How many values a categorical feature may take; needed there."""
    validation_share: float = eqx.field(static=True, default=1 / 12)
    """Share of the points by which a fit is stopped."""
    test_share: float = eqx.field(static=True, default=1 / 6)
    """Share that no fit sees."""
    split_seed: int = eqx.field(static=True, default=0)
    """Of the division."""
    image_shape: tuple[int, int] | None = eqx.field(static=True, default=None)
    """Rows and columns, where a point is a picture."""
    names: tuple[str, ...] | None = eqx.field(static=True, default=None)
    """Of the features."""
    name: str = eqx.field(static=True, default="Dataset")

    def __check_init__(self):
        shape = np.shape(self.observations)
        if len(shape) != 2 or shape[1] == 0:
            raise ValueError(f"observations must be [points, features], but {shape} was given: one row a point.")
        shares = self.validation_share, self.test_share
        if not (min(shares) >= 0.0 and sum(shares) < 1.0):
            raise ValueError(
                f"validation_share and test_share must be at least 0 and below 1 together, but {shares[0]:g} and "
                f"{shares[1]:g} were given."
            )
        if self._sizes()[0] < 2:
            raise ValueError(
                f"a fit needs two points or more, but {self._sizes()[0]} of {shape[0]} are left for it: give more "
                f"data, or smaller validation_share and test_share."
            )
        if self.likelihood not in ("gaussian", "bernoulli", "categorical"):
            raise ValueError(
                f"likelihood must be 'gaussian', 'bernoulli' or 'categorical', but {self.likelihood!r} was given."
            )
        if self.likelihood == "categorical" and (self.categories is None or self.categories < 2):
            raise ValueError(f"categorical features need categories, 2 or more, but {self.categories} was given.")
        if self.levels is not None and (self.likelihood != "gaussian" or self.levels < 2):
            raise ValueError("levels is for integers that a gaussian likelihood sees with noise, 2 of them or more.")
        if self.image_shape is not None and math.prod(self.image_shape) != shape[1]:
            raise ValueError(f"pictures of {self.image_shape} pixels have not the {shape[1]} features of a point.")
        if self.names is not None and len(self.names) != shape[1]:
            raise ValueError(f"{len(self.names)} names were given for {shape[1]} features.")
        if not is_traced(self.observations):
            self._check_support(np.asarray(self.observations))

    def _check_support(self, x: np.ndarray) -> None:
        if not np.all(np.isfinite(x)):
            row, column = np.argwhere(~np.isfinite(x))[0].tolist()
            raise ValueError(
                f"observations must be finite, but point {row} has {x[row, column]} in {self.feature(column)}: drop "
                f"the point or fill the gap."
            )
        allowed = {"bernoulli": 2, "categorical": self.categories, "gaussian": self.levels}
        most = allowed[self.likelihood]
        if most is None:
            return
        outside = (x != np.round(x)) | (x < 0) | (x >= most)
        if np.any(outside):
            row, column = np.argwhere(outside)[0].tolist()
            raise ValueError(
                f"this data needs integers between 0 and {most - 1}, but point {row} has {x[row, column]:g} in "
                f"{self.feature(column)}: rescale it, or choose another likelihood."
            )

    def feature(self, column: int) -> str:
        """How an error names it."""
        return f"feature {column}" if self.names is None else f"{self.names[column]!r}"

    @property
    def features(self) -> int:
        return np.shape(self.observations)[1]

    @property
    def log_levels(self) -> float:
        """What is to be subtracted from a bound on the noisy data for one on the integers; 0 without levels."""
        return self.features * math.log(self.levels) if self.levels is not None else 0.0

    def parts(self, key: PRNGKeyArray | None = None) -> Parts:
        """The three parts, with noise where there are levels: drawn by `key`, by default always the same."""
        rows = jnp.asarray(self.observations)
        if self.levels is not None:
            rows = self.dequantized(rows, jax.random.key(self.split_seed) if key is None else key)
        train, validation, _ = self._sizes()
        order = np.random.default_rng(self.split_seed).permutation(rows.shape[0])
        cut = (order[:train], order[train : train + validation], order[train + validation :])
        return Parts(*(rows[np.sort(part)] for part in cut))

    def dequantized(self, rows: Any, key: PRNGKeyArray) -> Float[Array, "points features"]:
        """`(x + u) / levels`; the rows as they are where there are no levels."""
        if self.levels is None:
            return rows
        noise = jax.random.uniform(key, rows.shape, jnp.float32)  # the same numbers in either precision
        return (rows + noise.astype(rows.dtype)) / self.levels

    def _sizes(self) -> tuple[int, int, int]:
        points = np.shape(self.observations)[0]
        validation, test = round(points * self.validation_share), round(points * self.test_share)
        return points - validation - test, validation, test


def _rows(value: Any) -> Any:
    if is_traced(value):
        return value
    if not isinstance(value, jax.Array):
        value = np.asarray(value)
        if value.dtype.kind not in "fiub":
            raise ValueError(f"observations must be numbers, but an array of {value.dtype} was given.")
        value = value.astype(np.float64)
    return value[:, None] if value.ndim == 1 else value
