"""Gamma variables in bulk, for shapes of at least 1, by Marsaglia and Tsang's method (2000), in NumPy.

With d = shape - 1/3 and x standard normal, `d v`, `v = (1 + x / (3 sqrt d))^3`, is accepted where

    v > 0  and  -E < x^2 / 2 + d (1 - v + log v),       E standard exponential

which happens in 95 % of cases or more; what was rejected is drawn again by itself. Exact, in float32. Normal variables
are Box and Muller's pairs and exponential ones logarithms: vectorized transformations of raw bits take less than half
the time of NumPy's own loops.
"""

import numpy as np
from jaxtyping import Float

_CHUNK = 10_000
"""Variables at once: what they need fits a core's cache, and is not given back to the system in between."""
_TURN = np.float32(2.0 * np.pi / 2**24)


def draw_gamma(shapes: Float[np.ndarray, "..."], random: np.random.Generator) -> Float[np.ndarray, "..."]:
    """One variable of rate 1 for each shape, float32."""
    flat = np.ascontiguousarray(shapes, np.float32).reshape(-1)
    drawn, left = np.empty_like(flat), []
    for start in range(0, flat.size, _CHUNK):
        piece = slice(start, start + _CHUNK)
        drawn[piece], rejected = _propose(flat[piece], random)
        left.append(rejected + start)
    rejected = np.concatenate(left) if left else np.empty(0, np.intp)
    while rejected.size:
        again, still = _propose(flat[rejected], random)
        drawn[rejected] = again
        rejected = rejected[still]
    return drawn.reshape(np.shape(shapes))


def _propose(shapes: np.ndarray, random: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    x, exponential = _normal_and_exponential(shapes.size, random)
    d = shapes - np.float32(1 / 3)
    v = np.sqrt(d)
    np.divide(x, v, out=v)
    v *= np.float32(1 / 3)
    v += np.float32(1.0)
    cube = v * v
    cube *= v
    np.maximum(cube, np.float32(1e-30), out=cube)  # a proposal below zero, whose bound is then far below any -E
    bound = np.log(cube)
    bound -= cube
    bound += np.float32(1.0)
    bound *= d
    x *= x
    x *= np.float32(0.5)
    bound += x
    bound += exponential
    cube *= d
    return cube, np.flatnonzero((bound <= 0.0) | (v <= 0.0))


def _normal_and_exponential(size: int, random: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    half = (size + 1) // 2
    words = random.integers(0, 2**64, size=2 * half, dtype=np.uint64).view(np.uint32)
    words >>= np.uint32(8)
    numbers = words.view(np.int32).astype(np.float32)  # signed: only these convert in bulk
    negative_log = numbers[: half + size] + np.float32(0.5)
    negative_log *= np.float32(2.0**-24)
    np.log(negative_log, out=negative_log)
    np.negative(negative_log, out=negative_log)
    radius = negative_log[:half]
    radius *= np.float32(2.0)
    np.sqrt(radius, out=radius)
    angle = numbers[-half:] * _TURN
    normal = np.empty(2 * half, np.float32)
    np.multiply(radius, np.cos(angle), out=normal[:half])
    np.multiply(radius, np.sin(angle), out=normal[half:])
    return normal[:size], negative_log[half:]
