"""Features that stand for a kernel: radial bumps and random waves, as wide as the median distance in the data.

    radial    phi_i(s) = exp(-|z - c_i|^2 / (2 bandwidth^2))
    Fourier   phi_i(s) = sin(w_i' z / bandwidth + b_i),    w_i ~ N(0, I),  b_i uniform on a circle

Both approximate the Gaussian kernel `exp(-|z - z'|^2 / (2 bandwidth^2))`: the inner product of Fourier features, times
2 / number, is that kernel on average (Rahimi and Recht 2007, who write `sqrt(2 / number) cos`; a sine with a uniform
phase has the same law, and weights absorb the factor). The sine of amplitude one is what code for non-parametric REPS
uses (van Hoof, Neumann and Peters 2017).
"""

from dataclasses import KW_ONLY
from typing import Any, Literal

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, PRNGKeyArray

from optimality.core.numerics import Real, is_traced
from optimality.policies.features import AbstractFeatures, AbstractRecipe, Valid, Vector, scaling, standardized, vectors

Centers = Literal["k_means", "grid", "random"]

COMPARED = 256
"""Samples whose distances to each other are looked at for the median."""


class RadialBasis(AbstractRecipe):
    """Gaussian bumps on the standardized state."""

    _: KW_ONLY
    number: int = eqx.field(static=True, default=50)
    """Of centers; on a grid, of centers along each coordinate."""
    centers: Centers = eqx.field(static=True, default="k_means")
    """Means of clusters, a grid over the range of the data, or samples."""
    bandwidth: Real = 1.0
    """Deviation of a bump, in median distances of the data."""
    intercept: bool = eqx.field(static=True, default=False)
    """Put a constant feature first."""
    iterations: int = eqx.field(static=True, default=10)
    """Of Lloyd's algorithm for k-means."""

    def __check_init__(self):
        _check(self.number, self.bandwidth)
        if self.centers not in ("k_means", "grid", "random"):
            raise ValueError(f"centers must be k_means, grid or random, but {self.centers!r} was given.")
        if self.iterations < 0:
            raise ValueError(f"iterations must be at least 0, but {self.iterations} was given.")

    def size(self, inputs: int) -> int:
        return (self.number**inputs if self.centers == "grid" else self.number) + self.intercept

    def fit(self, observations: Any, key: PRNGKeyArray | None = None, valid: Valid = None) -> "RadialFeatures":
        """Centers of clusters that lose all samples stay where they were; fewer samples than centers are reused."""
        observations = vectors(observations, valid)
        key_distances, key_centers = jax.random.split(_required(key, "RadialBasis"))
        center, scale = scaling(observations, valid)
        z = (observations - center[None, :]) / scale[None, :]
        if self.centers == "grid":
            centers = _grid(z, valid, self.number)
        else:
            centers = z[_drawn(key_centers, z.shape[0], valid, self.number)]
        if self.centers == "k_means":
            centers = _lloyd(z, valid, centers, self.iterations)
        width = _bandwidth(key_distances, z, valid, self.bandwidth)
        return RadialFeatures(center, scale, centers, width, self.intercept)


class RadialFeatures(AbstractFeatures):
    """`phi_i(s) = exp(-|z - c_i|^2 / (2 bandwidth^2))`."""

    center: Vector
    scale: Vector
    centers: Float[Array | np.ndarray, "number inputs"]
    """Of the bumps, in units of z."""
    bandwidth: Float[Array | np.ndarray, ""]
    intercept: bool = eqx.field(static=True)

    def __call__(self, s: Vector) -> Float[Array, " features"]:
        z = standardized(s, self.center, self.scale)
        gap = (z[None, :] - jnp.asarray(self.centers, z.dtype)) / jnp.asarray(self.bandwidth, z.dtype)
        return _with_intercept(jnp.exp(-0.5 * jnp.sum(gap**2, axis=1)), self.intercept)


class RandomFourier(AbstractRecipe):
    """Sines of random frequency and phase of the standardized state."""

    _: KW_ONLY
    number: int = eqx.field(static=True, default=75)
    """Of waves."""
    bandwidth: Real = 1.0
    """Of the kernel, in median distances of the data."""
    intercept: bool = eqx.field(static=True, default=False)
    """Put a constant feature first."""

    def __check_init__(self):
        _check(self.number, self.bandwidth)

    def size(self, inputs: int) -> int:
        return self.number + self.intercept

    def fit(self, observations: Any, key: PRNGKeyArray | None = None, valid: Valid = None) -> "FourierFeatures":
        observations = vectors(observations, valid)
        key_distances, key_frequencies, key_phases = jax.random.split(_required(key, "RandomFourier"), 3)
        center, scale = scaling(observations, valid)
        z = (observations - center[None, :]) / scale[None, :]
        width = _bandwidth(key_distances, z, valid, self.bandwidth)
        frequencies = jax.random.normal(key_frequencies, (self.number, z.shape[1]), z.dtype) / width
        phases = jax.random.uniform(key_phases, (self.number,), z.dtype, -np.pi, np.pi)
        return FourierFeatures(center, scale, frequencies, phases, self.intercept)


class FourierFeatures(AbstractFeatures):
    """`phi_i(s) = sin(frequency_i' z + phase_i)`."""

    center: Vector
    scale: Vector
    frequencies: Float[Array | np.ndarray, "number inputs"]
    phases: Float[Array | np.ndarray, " number"]
    intercept: bool = eqx.field(static=True)

    def __call__(self, s: Vector) -> Float[Array, " features"]:
        z = standardized(s, self.center, self.scale)
        waves = jnp.sin(jnp.asarray(self.frequencies, z.dtype) @ z + jnp.asarray(self.phases, z.dtype))
        return _with_intercept(waves, self.intercept)


def _check(number: int, bandwidth: Any) -> None:
    if number < 1:
        raise ValueError(f"number of features must be at least 1, but {number} was given.")
    if not is_traced(bandwidth) and not np.all(np.isfinite(bandwidth) & (np.asarray(bandwidth) > 0.0)):
        raise ValueError(f"bandwidth must be positive and finite, but {bandwidth} was given.")


def _required(key: PRNGKeyArray | None, name: str) -> PRNGKeyArray:
    if key is None:
        raise ValueError(f"{name}.fit draws samples of the data: give it a key, for example jax.random.key(0).")
    return key


def _with_intercept(features: Float[Array, " number"], intercept: bool) -> Float[Array, " features"]:
    return jnp.concatenate([jnp.ones(1, features.dtype), features]) if intercept else features


def _mass(samples: int, valid: Valid) -> Array:
    return jnp.ones(samples, bool) if valid is None else jnp.asarray(valid)


def _drawn(key: PRNGKeyArray, samples: int, valid: Valid, number: int) -> Int[Array, " number"]:
    """Indices of distinct valid samples, from the first again where there are not so many."""
    mass = _mass(samples, valid)
    order = jnp.argsort(jnp.where(mass, jax.random.uniform(key, (samples,)), 2.0))
    return order[jnp.arange(number) % jnp.maximum(jnp.sum(mass), 1)]


def _bandwidth(key: PRNGKeyArray, z: Float[Array, "samples inputs"], valid: Valid, factor: Any) -> Float[Array, ""]:
    """`factor` times the median distance of two samples; 1 in its place where more than half of them coincide."""
    number = min(COMPARED, z.shape[0])
    chosen = z[_drawn(key, z.shape[0], valid, number)]
    distances = jnp.sqrt(_squared_distances(chosen, chosen))
    rank = jnp.arange(number)
    pairs = (rank[:, None] < rank[None, :]) & (rank[None, :] < jnp.sum(_mass(z.shape[0], valid)))
    ordered, count = jnp.sort(jnp.where(pairs, distances, jnp.inf).ravel()), jnp.sum(pairs)
    median = 0.5 * (ordered[jnp.maximum(count - 1, 0) // 2] + ordered[count // 2])
    usable = jnp.isfinite(median) & (median > 1e3 * jnp.finfo(z.dtype).eps)
    return jnp.asarray(factor, z.dtype) * jnp.where(usable, median, 1.0)


def _squared_distances(a: Float[Array, "n inputs"], b: Float[Array, "k inputs"]) -> Float[Array, "n k"]:
    cross = jnp.sum(a**2, axis=1)[:, None] + jnp.sum(b**2, axis=1)[None, :] - 2.0 * a @ b.T
    return jnp.maximum(cross, 0.0)


def _grid(z: Float[Array, "samples inputs"], valid: Valid, number: int) -> Float[Array, "centers inputs"]:
    mass = _mass(z.shape[0], valid)[:, None]
    low = jnp.min(jnp.where(mass, z, jnp.inf), axis=0)
    high = jnp.max(jnp.where(mass, z, -jnp.inf), axis=0)
    steps = jnp.linspace(0.0, 1.0, number, dtype=z.dtype) if number > 1 else jnp.full(1, 0.5, z.dtype)
    lines = low[:, None] + (high - low)[:, None] * steps[None, :]
    return jnp.stack([axis.ravel() for axis in jnp.meshgrid(*lines, indexing="ij")], axis=1)


def _lloyd(
    z: Float[Array, "samples inputs"], valid: Valid, centers: Float[Array, "number inputs"], iterations: int
) -> Float[Array, "number inputs"]:
    mass = _mass(z.shape[0], valid).astype(z.dtype)

    def improve(_, centers):
        owner = jnp.argmin(_squared_distances(z, centers), axis=1)
        count = jax.ops.segment_sum(mass, owner, centers.shape[0])
        total = jax.ops.segment_sum(mass[:, None] * z, owner, centers.shape[0])
        return jnp.where(count[:, None] > 0.0, total / jnp.maximum(count, 1.0)[:, None], centers)

    return jax.lax.fori_loop(0, iterations, improve, centers)
