"""The play-or-not decision as a stopping problem in one variable, solved by Fourier transforms.

After n games the posterior's shapes are `eps_n = eps + n alpha` and `theta_n = theta + n`, whatever was seen, and by
homogeneity the value of going on is a function of `rho = omega / (K eta)` alone. With z = log rho,

    W_n(z) = max(0, a_n e^z - b_n + discount E[(1 + v) W_{n+1}(z + A - L)]),    a_n = alpha / (eps_n - 1),
    e^-A ~ Beta(eps_n, alpha),   L = log(1 + v) ~ Exp(theta_n),                 b_n = 1 / (theta_n - 1)

Playing on whatever happens is worth `S_n (a_n e^z - b_n)`, `S_n = sum discount^k`. What the right to stop adds is
bounded, `R_n = W_n - S_n (a_n e^z - b_n) = b_n r_n`, and the factor `1 + v` turns L into `Exp(theta_n - 1)`:

    r_n(z) = max(S_n (1 - a_n e^z / b_n), discount E r_{n+1}(z + A - L))

a convolution with a law whose characteristic function is known. Each r has one kink, at the threshold; the samples
beside it are corrected so that the trapezoidal sums behind the transform are exact to the fourth order.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import gammaln
from jaxtyping import Array, Bool, Float, Int

GRID = 2**13
"""Nodes, with a spacing of about 0.01 in log rho."""
_REACH = 36.0
"""How many e-foldings of every tail the grid holds."""
_TRUSTED = 18.0
"""How far left of all thresholds transformed values are taken; beyond, an expansion is more exact."""
_CUBIC = (
    (0.0, 1.0, 0.0, 0.0),
    (-1 / 3, -1 / 2, 1.0, -1 / 6),
    (1 / 2, -1.0, 1 / 2, 0.0),
    (-1 / 6, 1 / 2, -1 / 2, 1 / 6),
)
"""Coefficients of the cubic through values at -1, 0, 1, 2."""


class Posterior(NamedTuple):
    """The shapes that decide: of rewards `alpha`, of the beliefs `epsilon` and `theta`, both above one."""

    alpha: Float[Array, ""]
    epsilon: Float[Array, ""]
    theta: Float[Array, ""]


class PlayIndex(NamedTuple):
    """Thresholds of rho after 0, 1, ... games, and the option value r_0 at nodes of log rho, uncut by the maximum."""

    thresholds: Float[Array, " games"]
    nodes: Float[Array, " grid"]
    option: Float[Array, " grid"]
    total: Float[Array, ""]
    """S_0."""


class _Grid(NamedTuple):
    nodes: Float[Array, " grid"]
    step: Float[Array, ""]
    frequencies: Float[Array, " half"]
    tilt: Float[Array, ""]
    weights: Float[Array, " grid"]
    """`exp(tilt (z - center))`."""


def play_index(
    shapes: Posterior, discount: Float[Array, ""], games: Int[Array, ""], *, most_games: int, endless: bool, grid: int
) -> PlayIndex:
    """Thresholds and the option value of the first game.

    Args:
        shapes: the current belief's.
        discount: chance that there is another game after each.
        games: how many games there may be, at most `most_games`; where `endless`, after so many the decision to play on
            is taken once and for all.
        most_games: length of the table of thresholds; after `games` they are the myopic ones.
        endless: whether games go on beyond `games`.
        grid: number of nodes.
    """
    last_total = 1.0 / (1.0 - discount) if endless else jnp.zeros_like(discount)
    count = games.astype(discount.dtype)
    bound = jnp.where(
        discount < 1.0,
        (1.0 - discount**count) / jnp.where(discount < 1.0, 1.0 - discount, 1.0),
        count,
    )
    bound = jnp.maximum(bound, last_total)
    grid_ = _make_grid(shapes, bound, most_games, grid)
    myopic = jnp.exp(_log_myopic(shapes, jnp.arange(most_games, dtype=discount.dtype)))
    r = jnp.zeros_like(grid_.nodes)
    if endless:
        r, _ = _choose(grid_, shapes, games, last_total, r)

    def body(i, carry):
        r, log_gamma, total, thresholds = carry
        n = games - 1 - i
        before = log_gamma_line(_epsilon(shapes, n) + grid_.tilt, grid_.frequencies)
        theta = shapes.theta + n.astype(discount.dtype)
        spectrum = _rewards(shapes, n, grid_, before, log_gamma) * _times(theta - 1.0, grid_)
        total = 1.0 + discount * total
        r, threshold = _choose(grid_, shapes, n, total, discount * _convolve(grid_, r, spectrum))
        return r, before, total, thresholds.at[n].set(threshold)

    log_gamma = log_gamma_line(_epsilon(shapes, games) + grid_.tilt, grid_.frequencies)
    carry = (r, log_gamma, last_total, myopic)
    r, log_gamma, total, thresholds = jax.lax.fori_loop(0, games - 1, body, carry)
    total = 1.0 + discount * total
    zero = jnp.zeros((), games.dtype)
    before = log_gamma_line(shapes.epsilon + grid_.tilt, grid_.frequencies)
    by_rewards = _convolve(grid_, r, _rewards(shapes, zero, grid_, before, log_gamma))
    option = discount * _after_time(grid_, shapes, by_rewards, (total - 1.0) / jnp.where(discount > 0.0, discount, 1.0))
    _, threshold = _choose(grid_, shapes, zero, total, option)
    return PlayIndex(thresholds.at[0].set(threshold), grid_.nodes, option, total)


def interpolate(nodes: Float[Array, " grid"], values: Float[Array, " grid"], z: Float[Array, ""]) -> Float[Array, ""]:
    """By the cubic through four nodes; at the ends the last value."""
    step = nodes[1] - nodes[0]
    place = jnp.clip((z - nodes[0]) / step, 0.0, nodes.shape[0] - 1.0)
    first = jnp.clip(jnp.floor(place).astype(jnp.int32) - 1, 0, nodes.shape[0] - 4)
    c0, c1, c2, c3 = cubic(jax.lax.dynamic_slice(values, (first,), (4,)))
    x = place - first.astype(place.dtype)
    return c0 + x * (c1 + x * (c2 + x * c3))


def cubic(y: Float[Array, "4"]) -> tuple[Float[Array, ""], ...]:
    """Coefficients of the cubic through four values at 0, 1, 2, 3."""
    d1, d2 = y[1] - y[0], y[2] - 2.0 * y[1] + y[0]
    d3 = y[3] - 3.0 * y[2] + 3.0 * y[1] - y[0]
    return y[0], d1 - d2 / 2.0 + d3 / 3.0, (d2 - d3) / 2.0, d3 / 6.0


def _epsilon(shapes: Posterior, n: Int[Array, ""]) -> Float[Array, ""]:
    return shapes.epsilon + n.astype(shapes.alpha.dtype) * shapes.alpha


def _log_myopic(shapes: Posterior, n: Float[Array, "..."]) -> Float[Array, "..."]:
    """`log(b_n / a_n)`, where one game is worth nothing."""
    return jnp.log((shapes.epsilon + n * shapes.alpha - 1.0) / shapes.alpha / (shapes.theta + n - 1.0))


def _make_grid(shapes: Posterior, bound: Float[Array, ""], most_games: int, size: int) -> _Grid:
    """Thresholds lie between the myopic one divided by S_n and the myopic one."""
    n = jnp.arange(most_games, dtype=bound.dtype)
    myopic = _log_myopic(shapes, n)
    low, high = jnp.min(myopic) - jnp.log(bound), jnp.max(myopic)
    tilt = jnp.minimum(0.5 * shapes.theta, 1.0)
    first, last = low - _REACH / tilt, high + _REACH / tilt
    step = (last - first) / size
    nodes = first + step * jnp.arange(size, dtype=step.dtype)
    frequencies = 2.0 * jnp.pi / (size * step) * jnp.arange(size // 2 + 1, dtype=step.dtype)
    return _Grid(nodes, step, frequencies, tilt, jnp.exp(tilt * (nodes - high)))


def log_gamma_line(real: Float[Array, ""], frequencies: Float[Array, " half"]) -> Array:
    """`log Gamma(real - i frequency)` up to multiples of 2 pi i, for real parts above one: Stirling's series at a
    distance of seven."""
    z = jax.lax.complex(jnp.broadcast_to(real, frequencies.shape), -frequencies)
    product = z
    for k in range(1, 7):
        product = product * (z + float(k))
    z = z + 7.0
    y = 1.0 / (z * z)
    series = 1 / 12 - y * (1 / 360 - y * (1 / 1260 - y * (1 / 1680 - y * (1 / 1188 - y * (691 / 360360)))))
    return (z - 0.5) * jnp.log(z) - z + series / z + 0.9189385332046727 - jnp.log(product)


def _rewards(shapes: Posterior, n, grid: _Grid, before: Array, after: Array) -> Array:
    """`E exp(-(tilt - i frequency) A)`."""
    epsilon = _epsilon(shapes, n)
    return jnp.exp(before - after) * _complex(jnp.exp(gammaln(epsilon + shapes.alpha) - gammaln(epsilon)))


def _times(rate: Float[Array, ""], grid: _Grid) -> Array:
    """`E exp((tilt - i frequency) L)` for the tilted law, exponential with `rate = theta_n - 1` above the tilt."""
    return _complex(rate) / jax.lax.complex(
        jnp.broadcast_to(rate - grid.tilt, grid.frequencies.shape), grid.frequencies
    )


def _complex(x: Float[Array, ""]) -> Array:
    return jax.lax.complex(x, jnp.zeros_like(x))


def _convolve(grid: _Grid, r: Float[Array, " grid"], spectrum: Array) -> Float[Array, " grid"]:
    return jnp.fft.irfft(jnp.fft.rfft(r * grid.weights) * spectrum, n=r.shape[0]) / grid.weights


def _after_time(grid: _Grid, shapes: Posterior, x: Float[Array, " grid"], total: Float[Array, ""]):
    """`E x(z - L)` with L exponential of rate `theta - 1`, which may be as small as it likes: the equation
    `y' = rate (x - y)` integrated exactly for the cubic through four nodes, from the left where x is known."""
    one = jnp.ones((), jnp.int32)
    epsilon = _epsilon(shapes, 0 * one)
    growth = (epsilon + shapes.alpha - 1.0) / (epsilon - 1.0)
    known = total * (1.0 - growth * jnp.exp(grid.nodes - _log_myopic(shapes, jnp.ones_like(shapes.alpha))))
    lowest = grid.nodes[0] + _REACH / grid.tilt
    x = jnp.where(grid.nodes < lowest - _TRUSTED, known, x)
    q = (shapes.theta - 1.0) * grid.step
    points, masses = legendre(x.dtype)
    kernel = masses * q * jnp.exp(-q * (1.0 - points))
    moments = jnp.stack([jnp.sum(kernel * points**p) for p in range(4)])
    weights = moments @ jnp.asarray(_CUBIC, x.dtype)
    ahead = jnp.concatenate([x[2:], x[-1:]])
    gains = (
        weights[0] * jnp.concatenate([x[:1], x[:-2]]) + weights[1] * x[:-1] + weights[2] * x[1:] + weights[3] * ahead
    )
    decay = jnp.exp(-q)

    def advance(y, gain):
        new = decay * y + gain
        return new, new

    return jnp.concatenate([x[:1], jax.lax.scan(advance, x[0], gains, unroll=8)[1]])


def legendre(dtype) -> tuple[Float[Array, "8"], Float[Array, "8"]]:

    points, masses = np.polynomial.legendre.leggauss(8)
    return jnp.asarray(0.5 * (points + 1.0), dtype), jnp.asarray(0.5 * masses, dtype)


def _choose(grid: _Grid, shapes: Posterior, n, total, going_on: Float[Array, " grid"]):
    """The maximum of stopping and going on with the kink's samples corrected, and the threshold."""
    z, h = grid.nodes, grid.step
    log_myopic = _log_myopic(shapes, n.astype(h.dtype))
    stopping = total * (1.0 - jnp.exp(jnp.minimum(z - log_myopic, 50.0)))
    gap = going_on - stopping
    possible = z > log_myopic - jnp.log(total) - 2.0 * h
    certain = z > log_myopic + h
    r, place = best_of(going_on, stopping, possible & ((gap > 0.0) | certain), h)
    return r, jnp.exp(z[0] + place * h)


def best_of(
    going_on: Float[Array, " grid"], stopping: Float[Array, " grid"], plays: Bool[Array, " grid"], h: Float[Array, ""]
) -> tuple[Float[Array, " grid"], Float[Array, ""]]:
    """Going on where `plays`, which turns true once, and the place of the crossing in steps `h`.

    The two samples beside the crossing are changed so that trapezoidal sums of the kinked function against smooth ones
    are right to the fourth order (the Euler-Maclaurin formula with a jump of the first two derivatives inside a cell).
    """
    gap = going_on - stopping
    j = jnp.clip(jnp.argmax(plays) - 1, 1, gap.shape[0] - 3)  # the last node at which stopping is better
    c0, c1, c2, c3 = cubic(jax.lax.dynamic_slice(gap, (j - 1,), (4,)))
    x = 1.0 + gap[j] / (gap[j] - gap[j + 1])
    for _ in range(6):
        x = x - (c0 + x * (c1 + x * (c2 + x * c3))) / (c1 + x * (2.0 * c2 + 3.0 * x * c3))
    x = jnp.clip(x, 1.0, 2.0)
    theta = x - 1.0
    bend = (c1 + x * (2.0 * c2 + 3.0 * x * c3)) / h
    change = (2.0 * c2 + 6.0 * x * c3) / h**2
    b2 = theta * theta - theta + 1 / 6
    b3 = theta * (theta * (theta - 1.5) + 0.5)
    mass = h * b2 / 2.0 * bend - h * h * b3 / 6.0 * change
    moment = -h * b3 / 3.0 * bend
    right = moment + theta * mass
    r = jnp.where(plays, going_on, stopping)
    r = jax.lax.dynamic_update_slice(r, jax.lax.dynamic_slice(r, (j,), (2,)) + jnp.stack([mass - right, right]), (j,))
    return r, j.astype(h.dtype) + theta
