"""The posterior of one observation by ascent of its bound, in a mean and a scale for each latent.

    L(m, s) = E log p(x | m + s e) - KL(N(m, s^2) || N(0, I)),        e ~ N(0, I)
    (m, log s) <- (m, log s) + step * dL / d(m, log s)

(Kim, Wiseman, Miller, Sontag and Rush 2018). What is ascended is the bound, not its gradient in the model.

Where the expectation is exact the ascent is Newton's, each step a rise; with draws it is Adam's, and both what is kept
and what is reported are judged on noise that the ascent has not seen.

A normal q sits on one mode of a posterior with several, where its bound may lack as much as the logarithm of their
number. Further starts look for the others: a disagreement is a fact, agreement proves nothing.
"""

import math
from collections.abc import Callable
from dataclasses import KW_ONLY
from typing import Any, Literal, get_args

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Bool, Float, PRNGKeyArray

from optimality.core.numerics import Real, cast_floats, float_dtype, require_range
from optimality.distributions.normal import Normal
from optimality.latent.abstract import AbstractLatentModel, Vector
from optimality.latent.newton_ascent import newton_ascent
from optimality.latent.variational_bound import evidence_bound
from optimality.networks.optimizer import adam, descend

Expectation = Literal["sampled", "sigma_points", "trapezoid"]
NARROW = 0.2
"""Scale of a start that nobody gave. A wide one averages over several modes and may end between them."""
APART = 3.0
"""Two normal laws are of different modes where a mean differs by more than so many of the wider deviation."""
COMPARABLE = 3.0
"""Nats by which the bound at another mode may be lower and still be reported."""


class Refinement(eqx.Module):
    """How the bound of one observation is improved: the options of `refine`, `infer_per_datum`, `amortization_gap`.

    Raises:
        ValueError: an unknown expectation, sizes below 1, a learning rate that is not positive.
    """

    _: KW_ONLY
    expectation: Expectation = eqx.field(static=True, default="sampled")
    """By draws; by 2 k + 1 sigma points, exact where `log p(x | z)` is quadratic in z (a linear decoder with normal
    noise); or, for one latent, by the trapezoid rule on 501 points, exact for every smooth decoder."""
    steps: int = eqx.field(static=True, default=600)
    """Of Adam; the most of Newton's, where the expectation is exact."""
    learning_rate: Real = 0.03
    """First of Adam, in units of the prior; it falls to 0 as half a cosine. Not used where the expectation is exact."""
    samples: int = eqx.field(static=True, default=8)
    """Draws a step."""
    evaluation_samples: int = eqx.field(static=True, default=512)
    """Draws of each of the two judgments, of what to keep and of what to report."""
    starts: int = eqx.field(static=True, default=1)
    """1: the given one; 2: also the reflection of where that ends; more: also narrow laws around draws of the prior."""

    def __check_init__(self):
        if self.expectation not in get_args(Expectation):
            raise ValueError(
                f"expectation must be 'sampled', 'sigma_points' or 'trapezoid', but {self.expectation!r} was given."
            )
        for name in ("steps", "samples", "evaluation_samples", "starts"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, but {getattr(self, name)} was given.")
        require_range(self, 0.0, above=True, learning_rate=self.learning_rate)

    @property
    def exact(self) -> bool:
        """Whether no noise enters."""
        return self.expectation != "sampled"


class RefinedPosterior(eqx.Module):
    """Of one observation, or of all with a leading axis of points."""

    posterior: Normal
    """The best of the start and of the ends, `[latents]`."""
    bound: Float[Array | np.ndarray | np.generic, "..."]
    """Its bound; with draws, on noise that neither the ascent nor the choice has seen."""
    start_bound: Float[Array | np.ndarray | np.generic, "..."]
    """That of the start, on the same noise."""
    standard_error: Float[Array | np.ndarray | np.generic, "..."]
    """Of `bound - start_bound`; 0 where the expectation is exact, NaN for a single block of draws."""
    gradient_norm: Float[Array | np.ndarray | np.generic, "..."]
    """Largest entry of the bound's gradient at the posterior where the expectation is exact, else NaN."""
    modes_disagree: Bool[Array | np.ndarray | np.generic, "..."]
    """Another start ended elsewhere with a bound that is not much lower: the posterior has several modes, and the bound
    is that of one of them. Always false for a single start."""
    ends: Normal
    """Of each start, `[starts, latents]`."""
    end_bounds: Float[Array | np.ndarray, "..."]
    """`[starts]`, on the noise of `bound`."""


def refine(
    model: AbstractLatentModel, x: Vector, posterior: Normal, key: PRNGKeyArray, **options: Any
) -> RefinedPosterior:
    """The best normal posterior of `x` with independent latents, from `posterior`; pure, for `jax.vmap`.

    The result is never worse than the start beyond `standard_error`: the start is kept where no end is better.

    Args:
        model: `log_likelihood(x, z)` of a standard normal z.
        x: one observation, `[features]`.
        posterior: the start, `[latents]`: an encoder's, for example.
        key: of the noise; not used with an exact expectation and fewer than three starts.
        options: fields of `Refinement`.

    Raises:
        ValueError: as `Refinement`; widths that are not the model's; `trapezoid` with more than one latent.
    """
    return refine_with(Refinement(**options), model, x, posterior, key)


def exact_bound(
    model: AbstractLatentModel, x: Vector, posterior: Normal, expectation: Literal["sigma_points", "trapezoid"]
) -> Float[Array, ""]:
    """The bound of one observation without noise: see `Refinement.expectation`."""
    location, scale = jnp.asarray(posterior.location), jnp.asarray(posterior.scale)
    nodes, weights = _rule(expectation, location.size)
    nodes, weights = jnp.asarray(nodes, location.dtype), jnp.asarray(weights, location.dtype)
    values = jax.vmap(lambda e: model.log_likelihood(x, location + scale * e))(nodes)
    return weights @ values - jnp.sum(posterior.kl(_prior(location)))


def refine_with(
    method: Refinement, model: AbstractLatentModel, x: Vector, start: Normal, key: PRNGKeyArray
) -> RefinedPosterior:
    """`refine` by its options as one object."""
    check_expectation(model, method)
    for name, value, size in (("x", x, model.features), ("posterior", start.location, model.latents)):
        if np.shape(value) != (size,):
            raise ValueError(
                f"{name} must have shape ({size},), but {np.shape(value)} was given: batches go through jax.vmap."
            )
    model, x, start = cast_floats((model, x, start), float_dtype((model, x, start)))
    ascent_key, choice_key, report_key, prior_key = jax.random.split(key, 4)
    ascend = _newton(model, x, method) if method.exact else _adam(model, x, method)
    first = _parameters(start)
    ends = _from_all_starts(ascend, first, method.starts, ascent_key, prior_key)
    candidates = jnp.concatenate([first[None], ends])
    judge = _judge(model, x, method)
    chosen = jnp.argmax(_lowest_if_nan(jnp.mean(judge(candidates, choice_key), axis=1)))
    values = judge(candidates, report_key)
    bounds = jnp.mean(values, axis=1)
    difference = values[chosen] - values[0]
    blocks = difference.size
    error = jnp.zeros(()) if method.exact else jnp.std(difference, ddof=1) / math.sqrt(blocks) if blocks > 1 else np.nan
    best = candidates[chosen]
    if method.exact:
        gradient_norm = jnp.max(jnp.abs(jax.grad(_exact(model, x, method))(best)))
    else:
        gradient_norm = jnp.full((), jnp.nan)
    found = _normal(candidates[1:])
    return RefinedPosterior(
        posterior=_normal(best),
        bound=bounds[chosen],
        start_bound=bounds[0],
        standard_error=jnp.asarray(error, first.dtype),
        gradient_norm=gradient_norm.astype(first.dtype),
        modes_disagree=_modes_disagree(_normal(best), bounds[chosen], found, bounds[1:]),
        ends=found,
        end_bounds=bounds[1:],
    )


def _from_all_starts(
    ascend: "Ascend", first: Float[Array, " numbers"], count: int, ascent_key, prior_key
) -> Float[Array, "count numbers"]:
    """Where the ascents end: from the given start, the reflection of its end (if that is another place), then draws of
    the prior."""
    latents = first.size // 2
    means = jax.random.normal(prior_key, (count, latents), first.dtype)
    starts = jnp.concatenate([means, jnp.full_like(means, math.log(NARROW))], axis=1).at[0].set(first)
    signs = jnp.repeat(jnp.asarray([-1.0, 1.0], first.dtype), latents)

    def step(last, start):
        number, given, key = start
        aside = jnp.any(jnp.abs(last[:latents]) > jnp.exp(last[latents:]))
        end = ascend(jnp.where((number == 1) & aside, signs * last, given), key)
        return end, end

    return jax.lax.scan(step, first, (jnp.arange(count), starts, jax.random.split(ascent_key, count)))[1]


def _modes_disagree(best: Normal, bound, ends: Normal, end_bounds) -> Bool[Array, ""]:
    wider = jnp.maximum(ends.scale, best.scale[None])
    apart = jnp.any(jnp.abs(ends.location - best.location[None]) > APART * wider, axis=1)
    return jnp.any(apart & (end_bounds > bound - COMPARABLE))


Ascend = Callable[[Float[Array, " numbers"], PRNGKeyArray], Float[Array, " numbers"]]


def _exact(model, x, method: Refinement) -> Callable[[Float[Array, " numbers"]], Float[Array, ""]]:
    return lambda numbers: exact_bound(model, x, _normal(numbers), method.expectation)  # pyright: ignore


def _newton(model, x, method: Refinement) -> Ascend:
    bound = _exact(model, x, method)
    return lambda start, _: newton_ascent(bound, start, max_steps=method.steps)


def _adam(model, x, method: Refinement) -> Ascend:
    decay = optax.scale_by_schedule(optax.cosine_decay_schedule(1.0, method.steps))
    optimizer = optax.chain(adam(method.learning_rate), decay)

    def loss(numbers, key):
        return -_sampled(model, x, numbers, key, method.samples)

    def ascend(start, key):
        def step(carry, own):
            numbers, state = carry
            numbers, state, _ = descend(optimizer, jax.grad(loss)(numbers, own), state, numbers)
            return (numbers, state), None

        keys = jax.random.split(key, method.steps)
        return jax.lax.scan(step, (start, optimizer.init(start)), keys)[0][0]

    return ascend


def _judge(model, x, method: Refinement) -> Callable[[Any, PRNGKeyArray], Float[Array, "candidates blocks"]]:
    """Bounds of the candidates, on the same noise; by blocks, whose memory is that of a step."""
    if method.exact:
        return lambda candidates, _: jax.vmap(_exact(model, x, method))(candidates)[:, None]

    def judge(candidates, key):
        keys = jax.random.split(key, -(-method.evaluation_samples // method.samples))
        block = lambda own: jax.vmap(lambda c: _sampled(model, x, c, own, method.samples))(candidates)  # noqa: E731
        return jax.lax.map(block, keys).T

    return judge


def _sampled(model, x, numbers, key, samples: int) -> Float[Array, ""]:
    """Without noise, in value and gradient, where q is the posterior."""
    posterior = _normal(numbers)
    return evidence_bound(
        lambda z: model.log_likelihood(x, z),
        posterior,
        _prior(posterior.mean()),
        key,
        samples=samples,
        rate="sampled",
        estimator="sticking_the_landing",
    )


def _parameters(posterior: Normal) -> Float[Array, " numbers"]:
    return jnp.concatenate([posterior.location, jnp.log(posterior.scale)])


def _normal(numbers: Float[Array, "*batch numbers"]) -> Normal:
    location, log_scale = jnp.split(numbers, 2, axis=-1)
    return Normal(location, jnp.exp(log_scale))


def _prior(like: Float[Array, " latents"]) -> Normal:
    return Normal(jnp.zeros_like(like), jnp.ones_like(like))


def _lowest_if_nan(values: Float[Array, " n"]) -> Float[Array, " n"]:
    return jnp.where(jnp.isnan(values), -jnp.inf, values)


def _rule(expectation: str, latents: int) -> tuple[np.ndarray, np.ndarray]:
    """Points `[n, latents]` and weights of the mean over a standard normal vector."""
    if expectation == "trapezoid":
        nodes = np.linspace(-9.0, 9.0, 501)
        weights = np.exp(-0.5 * nodes * nodes)
        return nodes[:, None], weights / np.sum(weights)
    square = max(latents, 3)  # 3 makes the fourth moments exact too, as long as no weight is negative
    reach = math.sqrt(square) * np.eye(latents)
    weights = np.concatenate([[1.0 - latents / square], np.full(2 * latents, 0.5 / square)])
    return np.concatenate([np.zeros((1, latents)), reach, -reach]), weights


def check_expectation(model: AbstractLatentModel, method: Refinement) -> None:
    if method.expectation == "trapezoid" and model.latents != 1:
        raise ValueError(
            f"expectation='trapezoid' is for one latent, but the model has {model.latents}: use 'sampled', or "
            f"'sigma_points' where the decoder is linear with normal noise."
        )
