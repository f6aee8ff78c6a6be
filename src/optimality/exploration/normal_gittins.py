"""Gittins indices of arms with normal rewards of known noise.

After n pulls, what the prior is worth among them, the belief about the mean is N(m, noise^2 / n), and the index is

    m + noise bonus(n),       bonus(n) = -m*(n),    with noise 1:
    V_n(m) = max(0, C_n(m)),  C_n(m) = (1 - discount) m + discount E V_{n+1}(m + Z / sqrt(n (n + 1))),   C_n(m*) = 0

for the index moves with the mean and scales with the noise (Gittins 1979; Gittins, Glazebrook and Weber 2011, section
7.3): one backward pass over m gives the bonus at every n. It starts `truncation` pulls ahead, where one commits to the
arm or not. The option `V - max(0, m)` is linear between nodes and its expectation exact; nodes are as wide apart as a
fixed share of the belief's deviation, so that going back in n only leaves out every other one; what that share costs,
its square, is removed by doing all with half of it too.
"""

from typing import Any

import numpy as np
import scipy.signal
import scipy.special
from jaxtyping import Float

from optimality.core.numerics import is_traced

_REACH = 7.0
"""Deviations of the belief beyond which an option is worth nothing."""
_STEP = 0.02
"""Between nodes, of the belief's deviation, at most; then half of it."""
_NEWTON = 30
_FEW = 200
"""Of so few weights a plain convolution is faster."""


def normal_gittins_index(
    location: Any, scale: Any, noise: Any, discount: float, *, truncation: int | None = None
) -> Float[np.ndarray, "..."]:
    """The index of normal beliefs about the mean, float64, to about 1e-6 of the noise.

    Args:
        location: of each belief.
        scale: its standard deviation, above 0.
        noise: standard deviation of a reward.
        discount: in [0, 1).
        truncation: pulls that are planned; by default as many as make the discount small.
    """
    location, scale, noise = np.broadcast_arrays(*(np.asarray(p, np.float64) for p in (location, scale, noise)))
    if not np.all((scale > 0.0) & (noise > 0.0) & np.isfinite(location + scale + noise)):
        raise ValueError("scale and noise must be above 0 and finite, and location finite.")
    count, where = np.unique((noise / scale) ** 2, return_inverse=True)
    bonus = [normal_gittins_table(discount, 0, prior_pulls=n, truncation=truncation)[0] for n in count]
    return np.asarray(location + noise * np.asarray(bonus)[where].reshape(location.shape))


def normal_gittins_table(
    discount: float, pulls: int, *, prior_pulls: float = 0.0, truncation: int | None = None
) -> Float[np.ndarray, " counts"]:
    """The index less the mean, over the noise, after 0, 1, ..., `pulls` pulls.

    Args:
        discount: in [0, 1).
        pulls: how many the table covers.
        prior_pulls: what the prior is worth, `(noise / scale)^2`; 0 is a flat one, whose first bonus is infinite.
        truncation: pulls that are planned beyond; by default as many as make the discount small.
    """
    if is_traced((discount, prior_pulls)):
        raise ValueError("Gittins indices are computed on the host: discount and prior must be concrete numbers.")
    if not 0.0 <= discount < 1.0:
        raise ValueError(f"discount of a Gittins index must be in [0, 1), but {discount} was given.")
    if truncation is not None and truncation < 1:
        raise ValueError(f"truncation must be at least 1, but {truncation} was given.")
    if not (prior_pulls >= 0.0 and np.isfinite(prior_pulls)) or pulls < 0:
        raise ValueError(
            f"prior_pulls and pulls must be at least 0 and finite, but {prior_pulls} and {pulls} were given."
        )
    if truncation is None:
        truncation = 1 if discount == 0.0 else int(np.ceil(np.log(1e-8) / np.log(discount)))
    coarse, fine = (_bonuses(discount, pulls, prior_pulls, pulls + truncation, step) for step in (_STEP, 0.5 * _STEP))
    return np.where(np.isinf(fine), np.inf, fine + (fine - np.where(np.isinf(fine), 0.0, coarse)) / 3.0)


def _bonuses(discount: float, pulls: int, prior_pulls: float, last: int, step: float) -> np.ndarray:
    half = int(np.ceil(2.0 * _REACH / step))
    numbers = np.arange(-half, half + 1)
    table = np.full(pulls + 1, np.inf)
    exponent = _exponent(prior_pulls + last, step)
    option = np.zeros(2 * half + 1)
    for k in range(last - 1, -1, -1):
        n = prior_pulls + k
        if n == 0.0:
            break
        deviation = 1.0 / np.sqrt(n * (n + 1.0))
        if k <= pulls:
            table[k] = -_threshold(option, 2.0**exponent, deviation, discount)
        if k == 0:
            break
        while exponent < _exponent(n, step):
            option, exponent = _every_other(option, half), exponent + 1
        mean = 2.0**exponent * numbers
        ahead = _positive_part(mean, deviation) + _expectations(option, 2.0**exponent, deviation)
        option = np.maximum((1.0 - discount) * mean + discount * ahead, 0.0) - np.maximum(mean, 0.0)
    return table


def _exponent(n: float, step: float) -> int:
    """Of the largest power of two that is at most `step` deviations of the belief."""
    return int(np.floor(np.log2(step / np.sqrt(n))))


def _every_other(option: np.ndarray, half: int) -> np.ndarray:
    kept = option[half % 2 :: 2]
    margin = half - kept.size // 2
    return np.pad(kept, (margin, margin))


def _positive_part(mean: Any, deviation: float) -> Any:
    """`E max(0, mean + deviation Z)`."""
    return np.maximum(mean, 0.0) + _shortfall(np.abs(mean), deviation)


def _shortfall(distance: Any, deviation: float) -> Any:
    """`E max(0, deviation Z - distance)`, of distances of at least 0: `phi` and `Phi` do not cancel in this form."""
    z = distance / deviation
    scaled = 1.0 / np.sqrt(2.0 * np.pi) - 0.5 * z * scipy.special.erfcx(z / np.sqrt(2.0))
    return deviation * np.exp(-0.5 * z**2) * np.maximum(scaled, 0.0)


def _reach(width: float, deviation: float) -> int:
    """Nodes to each side that a step may lead to."""
    return int(np.ceil(9.0 * deviation / width)) + 1


def _hats(first: float, count: int, width: float, deviation: float) -> np.ndarray:
    """`E` of hats of this half-width, with tops at `first`, `first + width`, ... from a normal variable's mean."""
    distance = np.abs(first + width * np.arange(-1, count + 1))
    corner = np.maximum(1.0 - distance[1:-1] / width, 0.0)  # second difference of |distance| / 2
    return corner + np.diff(_shortfall(distance, deviation), 2) / width


def _expectations(option: np.ndarray, width: float, deviation: float) -> np.ndarray:
    """Of the option after a step from every node."""
    reach = min(_reach(width, deviation), option.size // 2)
    kernel = _hats(-reach * width, 2 * reach + 1, width, deviation)
    convolve = np.convolve if kernel.size < _FEW else scipy.signal.oaconvolve
    return convolve(option, kernel, mode="same")


def _threshold(option: np.ndarray, width: float, deviation: float, discount: float) -> float:
    """The root of `C`, an increasing convex function, by Newton's iteration from 0, where it is positive."""
    mean, step = 0.0, 1e-6 * deviation
    for _ in range(_NEWTON):
        gain, beyond = (_going_on(option, width, deviation, discount, m) for m in (mean, mean + step))
        change = gain * step / (beyond - gain)
        mean -= change
        if abs(change) <= 1e-10 * deviation:
            break
    return mean


def _going_on(option: np.ndarray, width: float, deviation: float, discount: float, mean: float) -> float:
    half, reach = option.size // 2, _reach(width, deviation)
    near = round(mean / width) + half
    first, last = max(near - reach, 0), min(near + reach, 2 * half) + 1
    hats = _hats((first - half) * width - mean, last - first, width, deviation)
    ahead = float(_positive_part(mean, deviation)) + float(option[first:last] @ hats)
    return (1.0 - discount) * mean + discount * ahead
