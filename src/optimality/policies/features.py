"""Features of states: a recipe with sizes, fitted to data, gives a function `phi(s)`.

A recipe is a hyper-parameter. `recipe.fit(observations, key, valid)` looks at data and returns a module whose arrays
(center and scale of the data, centers, frequencies) are saved with whatever it is part of. Shapes depend on sizes only,
so `fit` may be compiled on padded data. Vectors are standardized, `z = (s - center) / scale`, per coordinate; a
coordinate that does not vary keeps the scale 1.
"""

import abc
from dataclasses import KW_ONLY
from itertools import combinations_with_replacement
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from optimality.core.numerics import is_traced

Vector = Float[Array | np.ndarray, " inputs"]
Observations = Float[Array | np.ndarray, "samples inputs"] | Int[Array | np.ndarray, " samples"]
Valid = Bool[Array | np.ndarray, " samples"] | None


class AbstractFeatures(eqx.Module):
    """Fitted features: a function of one state, batched by `vmap`."""

    @abc.abstractmethod
    def __call__(self, s: Any) -> Float[Array, " features"]: ...


class AbstractRecipe(eqx.Module):
    """What is chosen before there is data."""

    @abc.abstractmethod
    def size(self, inputs: int) -> int:
        """The number of features of a state with that many coordinates."""

    @abc.abstractmethod
    def fit(self, observations: Any, key: PRNGKeyArray | None = None, valid: Valid = None) -> AbstractFeatures:
        """Features for such data, `[N, inputs]`; samples where `valid [N]` is false are padding.

        Raises `ValueError` for data of the wrong shape or type, not finite, or empty.
        """


class Constant(AbstractRecipe):
    """The feature 1, for a law that does not look at the state."""

    def size(self, inputs: int) -> int:
        return 1

    def fit(self, observations: Any, key: PRNGKeyArray | None = None, valid: Valid = None) -> "ConstantFeatures":
        return ConstantFeatures()


class ConstantFeatures(AbstractFeatures):
    """`phi(s) = [1]`."""

    def __call__(self, s: Any) -> Float[Array, " 1"]:
        s = jnp.asarray(s)
        return jnp.ones(1, s.dtype if jnp.issubdtype(s.dtype, jnp.floating) else jnp.result_type(float))


class Identity(AbstractRecipe):
    """The state itself, `[1, z]`, or without intercept `s / scale`, where zero stays zero.

    A mean without intercept is forced through the origin: it cannot say "5 everywhere".
    """

    _: KW_ONLY
    intercept: bool = eqx.field(static=True, default=True)
    """Put a constant feature first."""
    standardize: bool = eqx.field(static=True, default=True)
    """Measure in units of the data; else features are the raw coordinates."""

    def size(self, inputs: int) -> int:
        return inputs + self.intercept

    def fit(self, observations: Any, key: PRNGKeyArray | None = None, valid: Valid = None) -> "IdentityFeatures":
        observations = vectors(observations, valid)
        center, scale = scaling(observations, valid, self.standardize, centered=self.intercept)
        return IdentityFeatures(center, scale, self.intercept)


class IdentityFeatures(AbstractFeatures):
    """`phi(s) = [1, (s - center) / scale]`, or without the 1."""

    center: Vector
    scale: Vector
    intercept: bool = eqx.field(static=True)

    def __call__(self, s: Vector) -> Float[Array, " features"]:
        z = standardized(s, self.center, self.scale)
        return jnp.concatenate([jnp.ones(1, z.dtype), z]) if self.intercept else z


class Polynomial(AbstractRecipe):
    """All monomials of `z` up to a degree, lower degrees first: 1, z1, z2, z1^2, z1 z2, z2^2, ..."""

    _: KW_ONLY
    degree: int = eqx.field(static=True, default=2)
    """Largest sum of exponents."""
    constant: bool = eqx.field(static=True, default=True)
    """Keep the monomial 1; for values of average-reward problems it cancels and is left out."""
    standardize: bool = eqx.field(static=True, default=True)
    """Measure in units of the data; else monomials are of the raw coordinates."""

    def __check_init__(self):
        if self.degree < 1:
            raise ValueError(f"degree must be at least 1, but {self.degree} was given: for a constant take Constant().")

    def size(self, inputs: int) -> int:
        return len(_monomials(inputs, self.degree, self.constant))

    def fit(self, observations: Any, key: PRNGKeyArray | None = None, valid: Valid = None) -> "PolynomialFeatures":
        observations = vectors(observations, valid)
        center, scale = scaling(observations, valid, self.standardize)
        return PolynomialFeatures(center, scale, self.degree, self.constant)


class PolynomialFeatures(AbstractFeatures):
    """`phi(s) = prod z_i`, over all choices of up to `degree` coordinates with repetition."""

    center: Vector
    scale: Vector
    degree: int = eqx.field(static=True)
    constant: bool = eqx.field(static=True)

    def __call__(self, s: Vector) -> Float[Array, " features"]:
        z = standardized(s, self.center, self.scale)
        factors = jnp.concatenate([jnp.ones(1, z.dtype), z])
        return jnp.prod(factors[_monomials(z.size, self.degree, self.constant)], axis=1)


def _monomials(inputs: int, degree: int, constant: bool) -> Int[np.ndarray, "monomials degree"]:
    """Which of `[1, z1, ..., zn]` are multiplied: each multiset of `degree` of them is one monomial."""
    chosen = np.asarray(list(combinations_with_replacement(range(inputs + 1), degree)))
    chosen = chosen[np.argsort(np.count_nonzero(chosen, axis=1), kind="stable")]
    return chosen if constant else chosen[1:]


class OneHot(AbstractRecipe):
    """One feature a state, for states that are integers from 0."""

    number: int = eqx.field(static=True, default=2)
    """Of states."""

    def __check_init__(self):
        if self.number < 1:
            raise ValueError(f"number of states must be at least 1, but {self.number} was given.")

    def size(self, inputs: int = 1) -> int:
        return self.number

    def fit(self, observations: Any, key: PRNGKeyArray | None = None, valid: Valid = None) -> "OneHotFeatures":
        dtype = jnp.asarray(observations).dtype
        if np.ndim(observations) != 1 or not jnp.issubdtype(dtype, jnp.integer):
            raise ValueError(
                f"OneHot needs integer states [N], but an array {np.shape(observations)} of {dtype} was given: "
                "for vectors take Identity, Polynomial, RadialBasis or RandomFourier."
            )
        if not is_traced((observations, valid)):
            states = np.asarray(observations)
            states = states if valid is None else states[np.asarray(valid)]
            if states.size and not 0 <= states.min() <= states.max() < self.number:
                raise ValueError(f"states must be in [0, {self.number}), but {states.min()} to {states.max()} are.")
        return OneHotFeatures(self.number)


class OneHotFeatures(AbstractFeatures):
    """`phi_i(s) = 1[s = i]`; all zero for a state that does not exist."""

    number: int = eqx.field(static=True)

    def __call__(self, s: Any) -> Float[Array, " features"]:
        s = jnp.asarray(s)
        if s.ndim or not jnp.issubdtype(s.dtype, jnp.integer):
            raise ValueError(f"OneHot features need one integer state, but an array {s.shape} of {s.dtype} was given.")
        return jax.nn.one_hot(s, self.number, dtype=jnp.result_type(float))


def vectors(observations: Any, valid: Valid = None) -> Float[Array, "samples inputs"]:
    """The data as a real matrix, padding as zeros. Raises `ValueError` for what cannot be fitted to."""
    array = jnp.asarray(observations)
    if array.ndim != 2 or 0 in array.shape or not jnp.issubdtype(array.dtype, jnp.floating):
        raise ValueError(
            f"observations must be real vectors [N, inputs], N at least 1, but an array {array.shape} of {array.dtype} "
            "was given: numbers need an axis of size 1, integer states OneHot."
        )
    if valid is not None and np.shape(valid) != array.shape[:1]:
        raise ValueError(f"valid must be [N] = {array.shape[:1]}, but {np.shape(valid)} was given.")
    if not is_traced((observations, valid)):
        seen = np.asarray(array) if valid is None else np.asarray(array)[np.asarray(valid)]
        if not seen.size:
            raise ValueError("features need at least one valid observation, but every one is padding.")
        if not np.all(np.isfinite(seen)):
            raise ValueError("an observation is not finite: look for NaN or overflow in the data.")
    return array if valid is None else jnp.where(jnp.asarray(valid)[:, None], array, 0.0)


def scaling(
    observations: Float[Array, "samples inputs"], valid: Valid, wanted: bool = True, *, centered: bool = True
) -> tuple[Float[Array, " inputs"], Float[Array, " inputs"]]:
    """Mean and deviation of each coordinate; deviation from zero where data are not centered, 1 where it vanishes."""
    dtype, inputs = observations.dtype, observations.shape[1]
    if not wanted:
        return jnp.zeros(inputs, dtype), jnp.ones(inputs, dtype)
    mass = jnp.ones(observations.shape[0], dtype) if valid is None else jnp.asarray(valid).astype(dtype)
    mass = mass / jnp.maximum(jnp.sum(mass), 1.0)
    center = mass @ observations if centered else jnp.zeros(inputs, dtype)
    spread = jnp.sqrt(mass @ (observations - center[None, :]) ** 2)
    rounding = 10.0 * jnp.finfo(dtype).eps * jnp.max(jnp.abs(observations), axis=0)
    return center, jnp.where(spread > rounding, spread, 1.0)


def standardized(s: Any, center: Any, scale: Any) -> Float[Array, " inputs"]:
    """`(s - center) / scale` in the wider of the precisions."""
    s, center, scale = jnp.asarray(s), jnp.asarray(center), jnp.asarray(scale)
    if s.shape != center.shape:
        raise ValueError(
            f"a state {center.shape} was fitted, but {s.shape} was given: features take one state, batches go through "
            "jax.vmap."
        )
    dtype = s.dtype if s.dtype.itemsize > center.dtype.itemsize else center.dtype
    return (s.astype(dtype) - center.astype(dtype)) / scale.astype(dtype)
