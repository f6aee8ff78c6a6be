"""Play or not with a deadline, by the same transforms in two variables.

The time that has passed is in the belief already: with `end = eta + duration` and `y = log(end / eta_n)` the time
left is `end (1 - e^-y)`, and a game that is not over by then pays nothing. With `x = log(omega_n / (K end))`, values in
units of `K end`, and `a_n = alpha / (eps_n - 1)`,

    V_n(x, y) = max(1 - e^-y, e^x a_n (1 - e^(-theta_n y)) + E[V_{n+1}(x + A, y - L); L <= y])

with `e^-A ~ Beta(eps_n, alpha)` and `L ~ Exp(theta_n)`. Playing on whatever happens is worth
`P_n = e^x a_n theta_n (e^y - 1)`; what the right to stop adds lies between 0 and `1 - e^-y`, and is found from the last
game backwards: a Fourier transform in x, an integration in y. One plays for sure where `P_n` is above stopping, and
stops for sure where not even what stopping later may bring makes up for it.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.scipy.special import betainc, gammaln
from jaxtyping import Array, Float, Int

from optimality.exploration.play_index import Posterior, best_of, cubic, interpolate, legendre, log_gamma_line

TIMES = 192
"""Nodes in y."""
_TILT = 2.0
_REACH = 36.0


class DeadlinePlan(NamedTuple):
    """Values in units of `K end` and the thresholds of x, `[games, times]`, at nodes of y."""

    value: Float[Array, ""]
    commitment: Float[Array, ""]
    thresholds: Float[Array, "games times"]
    times: Float[Array, " times"]


class _Grid(NamedTuple):
    x: Float[Array, " grid"]
    step: Float[Array, ""]
    frequencies: Float[Array, " half"]
    weights: Float[Array, " grid"]
    y: Float[Array, " times"]
    stopping: Float[Array, " times"]
    """`1 - e^-y`."""


def games_needed(theta: Float[Array, ""], y: Float[Array, ""], chance: Float[Array, ""], most: int) -> Int[Array, ""]:
    """The least number of games that more than are over in time with at most `chance`, if all are played: their number
    is negative binomial."""
    n = jnp.arange(1, most + 1).astype(theta.dtype)
    tail = betainc(n + 1.0, theta, -jnp.expm1(-y))
    return jnp.where(jnp.any(tail <= chance), jnp.argmax(tail <= chance) + 1, most)


def plan_deadline(
    shapes: Posterior, x0: Float[Array, ""], y0: Float[Array, ""], games: Int[Array, ""], *, most_games: int, grid: int
) -> DeadlinePlan:
    """Plans `games` exactly, of at most `most_games`; after them one commits or stops. Later rows of thresholds repeat
    the last one's bound."""
    made = _make_grid(shapes, y0, most_games, grid)
    n_last = games.astype(y0.dtype)
    committed = _always(shapes, n_last, made)
    r = jnp.maximum(made.stopping[:, None] - committed, 0.0)
    thresholds = jax.vmap(lambda n: _certain(shapes, n, made.y))(jnp.arange(most_games).astype(y0.dtype))

    def body(i, carry):
        r, after, thresholds = carry
        n = games - 1 - i
        count = n.astype(y0.dtype)
        epsilon = shapes.epsilon + count * shapes.alpha
        before = log_gamma_line(epsilon + _TILT, made.frequencies)
        gain = jnp.exp(gammaln(epsilon + shapes.alpha) - gammaln(epsilon))
        spectrum = jnp.exp(before - after) * jax.lax.complex(gain, jnp.zeros_like(gain))
        weights = made.weights[None, :]
        moved = jnp.fft.irfft(jnp.fft.rfft(r * weights) * spectrum[None, :], n=r.shape[1]) / weights
        going_on = _after_time(moved, (shapes.theta + count) * (made.y[1] - made.y[0]))
        latest = _after_time(made.stopping[:, None], (shapes.theta + count) * (made.y[1] - made.y[0]))
        always = _always(shapes, count, made)
        stopping = made.stopping[:, None] - always
        certain = made.x[None, :] >= _certain(shapes, count, made.y)[:, None] + made.step
        plays = (stopping < latest) & ((going_on > stopping) | certain)
        r, place = jax.vmap(best_of, (0, 0, 0, None))(going_on, stopping, plays, made.step)
        r = r.at[0].set(0.0)
        threshold = made.x[0] + place * made.step
        # At the deadline itself nothing is left to be decided; the row beside it continues to it.
        threshold = threshold.at[0].set(threshold[1])
        return r, before, thresholds.at[n].set(threshold)

    after = log_gamma_line(shapes.epsilon + n_last * shapes.alpha + _TILT, made.frequencies)
    r, _, thresholds = jax.lax.fori_loop(0, games, body, (r, after, thresholds))
    zero = jnp.zeros_like(y0)
    a = shapes.alpha / (shapes.epsilon - 1.0)
    commitment = jnp.exp(x0) * a * shapes.theta * jnp.expm1(y0)
    option = jnp.where(x0 > made.x[-1], zero, interpolate(made.x, r[-1], x0))
    stop = -jnp.expm1(-y0)
    value = jnp.where(x0 < thresholds[0, -1], stop, jnp.maximum(stop, commitment + option))
    return DeadlinePlan(value, commitment, thresholds, made.y)


def _make_grid(shapes: Posterior, y0: Float[Array, ""], most_games: int, size: int) -> _Grid:
    n = jnp.arange(most_games).astype(y0.dtype)
    edges = jax.vmap(lambda n: _certain(shapes, n, jnp.stack([0.0 * y0, y0])))(n)
    # Stopping later brings at most what it brings now, so that x is above the certain threshold less its logarithm.
    low = jnp.min(edges) - y0 - 3.0 - jnp.log1p(shapes.theta)
    high = jnp.max(edges) + 0.5
    first = low - _REACH / _TILT
    step = (high - first) / size
    x = first + step * jnp.arange(size).astype(step.dtype)
    frequencies = 2.0 * jnp.pi / (size * step) * jnp.arange(size // 2 + 1).astype(step.dtype)
    y = jnp.linspace(0.0, 1.0, TIMES, dtype=y0.dtype) * y0
    return _Grid(x, step, frequencies, jnp.exp(_TILT * (x - high)), y, -jnp.expm1(-y))


def _certain(shapes: Posterior, n: Float[Array, ""], y: Float[Array, " times"]) -> Float[Array, " times"]:
    """`log x` from which on playing till the end beats stopping now."""
    a = shapes.alpha / (shapes.epsilon + n * shapes.alpha - 1.0)
    return -y - jnp.log(a * (shapes.theta + n))


def _always(shapes: Posterior, n: Float[Array, ""], grid: _Grid) -> Float[Array, "times grid"]:
    a = shapes.alpha / (shapes.epsilon + n * shapes.alpha - 1.0)
    return (a * (shapes.theta + n) * jnp.expm1(grid.y))[:, None] * jnp.exp(grid.x)[None, :]


def _after_time(values: Float[Array, "times grid"], q: Float[Array, ""]) -> Float[Array, "times grid"]:
    """`E[values(y - L); L <= y]` by `g' = theta (values - g)`, g(0) = 0, exactly for cubics through four rows; `q` is
    theta times the step of y."""
    points, masses = legendre(values.dtype)
    rows = []
    for offset in (0.0, 1.0, 2.0):
        basis = jax.vmap(lambda unit, at=offset: _evaluate(cubic(unit), at + points))(jnp.eye(4, dtype=values.dtype))
        rows.append(basis @ (masses * q * jnp.exp(-q * (1.0 - points))))
    first, inner, last = rows
    start = first @ values[:4]
    middle = inner[0] * values[:-3] + inner[1] * values[1:-2] + inner[2] * values[2:-1] + inner[3] * values[3:]
    gains = jnp.concatenate([start[None], middle, (last @ values[-4:])[None]])

    def advance(g, gain):
        new = jnp.exp(-q) * g + gain
        return new, new

    return jnp.concatenate([jnp.zeros_like(values[:1]), jax.lax.scan(advance, jnp.zeros_like(start), gains)[1]])


def _evaluate(coefficients, x):
    c0, c1, c2, c3 = coefficients
    return c0 + x * (c1 + x * (c2 + x * c3))
