"""What a fitted autoencoder is worth: bounds of held-out points, rates of the latents, deviations of the decoder."""

from typing import Any, Literal

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Key, PRNGKeyArray

from optimality.core.numerics import at_precision
from optimality.distributions.bernoulli import Bernoulli
from optimality.distributions.normal import Normal
from optimality.latent.abstract import standard_normal
from optimality.latent.autoencoder import Autoencoder
from optimality.latent.decoders import NormalDecoder
from optimality.latent.variational_bound import (
    ImportanceWeightedBound,
    evidence_bound_of_draws,
    importance_weighted_bound_of_draws,
)

IN_USE = 0.01
"""Rate of a latent, in nats, from which on it counts as used."""
SAMPLES = 100
"""Of z for the evidence lower bound of a point."""
MOST_POINTS = 500
"""Of the importance-weighted bound."""
MOST_DRAWS = 8192
"""Of z at once."""

Numbers = Float[Array | np.ndarray, "..."]


class Judged(eqx.Module):
    """On points."""

    bounds: Numbers
    """Evidence lower bound of each, nats."""
    rates: Numbers
    """KL of each latent from the prior, mean over points, nats; `[latents]`."""
    importance_bounds: Numbers
    """Of the first 500 points, nats."""
    effective_sample_sizes: Numbers
    """Of their weights, out of `bound_samples`."""
    largest_weights: Numbers
    deviations: Numbers | None
    """Of a normal decoder, root mean square over points; `[features]`."""
    at_floor: Numbers | None
    """Share of points at which each feature's deviation stands at its least; `[features]`."""


class AutoencoderDetails(eqx.Module):
    """What a fit found. The methods take and give observations in the data's own units."""

    model: Autoencoder
    """In units of the noisy data where there are levels: `(x + u) / levels`."""
    judged: Judged
    """On the test points, without any on those of the fit."""
    judged_on: Literal["test", "train"] = eqx.field(static=True)
    history: Numbers
    """Bound of each pass on its batches, and on the validation points; `[passes, 2]`."""
    best_step: Int[Array | np.ndarray | np.generic, ""]
    """The pass whose parameters are kept."""
    bound_samples: int = eqx.field(static=True)
    levels: int | None = eqx.field(static=True, default=None)

    @property
    def rates(self) -> Numbers:
        """KL of each latent from the prior, nats."""
        return self.judged.rates

    @property
    def in_use(self) -> int:
        """Latents whose rate is above 0.01 nats."""
        return int(np.sum(np.asarray(self.judged.rates) > IN_USE))

    def encode(self, x: Any) -> Normal:
        """The laws of z given each row of x, `[latents]` or `[points, latents]`."""
        return self._mapped(_encode, x, self._observations(x))

    def decode(self, z: Any) -> Float[np.ndarray, "..."]:
        """Mean of x for each row of z; of choices, the chances `[..., features, categories]`."""
        mean = self._mapped(_decode, z, self._rows(z, self.model.latents, "latents"))
        return mean if self.levels is None else mean * self.levels - 0.5

    def sample(self, key: PRNGKeyArray, n: int) -> np.ndarray:
        """`n` new observations, `[n, features]`."""
        x = at_precision(_sample, self.model, jax.random.split(key, n), dtype=self._dtype)
        return x if self.levels is None else np.clip(np.floor(x * self.levels), 0, self.levels - 1)

    def log_evidence(self, x: Any, samples: int = 2000, key: PRNGKeyArray | None = None) -> ImportanceWeightedBound:
        """A lower bound of `log p(x)` of each row, by `samples` draws from the encoder, with its effective sample size.

        It is tight only where that is large, and even then not where the encoder misses a mode of the posterior.
        """
        if samples < 1:
            raise ValueError(f"samples must be at least 1, but {samples} was given.")
        rows = self._observations(x)
        keys = jax.random.split(jax.random.key(0) if key is None else key, rows.shape[0])
        bound = at_precision(
            _log_evidence, self.model, rows, keys, jnp.zeros((samples, 0), self._dtype), dtype=self._dtype
        )
        return jax.tree.map(lambda leaf: leaf[0], bound) if np.ndim(x) == 1 else bound

    @property
    def _dtype(self) -> Any:
        return np.asarray(self.model.encoder.center).dtype

    def _observations(self, x: Any) -> np.ndarray:
        rows = self._rows(x, self.model.features, "features")
        return rows if self.levels is None else (rows + 0.5) / self.levels

    def _rows(self, x: Any, width: int, what: str) -> np.ndarray:
        rows = np.asarray(x, self._dtype)
        if rows.ndim not in (1, 2) or rows.shape[-1] != width:
            raise ValueError(f"this model has {width} {what}: give [{width}] or [points, {width}], not {rows.shape}.")
        return rows[None] if rows.ndim == 1 else rows

    def _mapped(self, function: Any, x: Any, rows: np.ndarray) -> Any:
        values = at_precision(function, self.model, rows, dtype=self._dtype)
        return jax.tree.map(lambda leaf: leaf[0], values) if np.ndim(x) == 1 else values


def judge(model: Autoencoder, rows: Float[Array, "points features"], samples: int, key: PRNGKeyArray) -> Judged:
    """Bounds and rates on `rows`."""
    bound_key, importance_key = jax.random.split(key)
    prior = standard_normal(model.latents)

    def bound(x, own_key):
        q = model.posterior(x)
        noise = jax.random.normal(own_key, (SAMPLES, model.latents))
        return evidence_bound_of_draws(
            lambda z: model.log_likelihood(x, z), q, prior, lambda e: q.location + q.scale * e, noise
        )

    some = rows[:MOST_POINTS]
    weighted = importance_bounds(model, some, jax.random.split(importance_key, some.shape[0]), samples)
    rates = jnp.mean(jax.vmap(lambda x: model.posterior(x).kl(prior))(rows), axis=0)
    deviations, at_floor = _deviations(model, rows)
    return Judged(
        _by_batches(bound, rows, jax.random.split(bound_key, rows.shape[0]), MOST_DRAWS // SAMPLES),
        rates,
        weighted.value,
        weighted.effective_sample_size,
        weighted.largest_weight,
        deviations,
        at_floor,
    )


def importance_bounds(
    model: Autoencoder, rows: Float[Array, "points features"], keys: Key[Array, " points"], samples: int
) -> ImportanceWeightedBound:
    """The K-sample bound of each row."""
    prior = standard_normal(model.latents)

    def bound(x, own_key):
        q = model.posterior(x)
        noise = jax.random.normal(own_key, (samples, model.latents))
        return importance_weighted_bound_of_draws(
            lambda z: model.log_likelihood(x, z),
            q,
            prior,
            lambda e: q.location + q.scale * e,
            noise,
            chunk=MOST_DRAWS if samples > MOST_DRAWS else None,
        )

    return _by_batches(bound, rows, keys, max(1, MOST_DRAWS // samples))


def _by_batches(function: Any, rows: Float[Array, "points features"], keys: Key[Array, " points"], size: int) -> Any:
    """`function(row, key)` of every row, `size` of them at once; the last batch is filled up, so that there is one
    program."""
    count = rows.shape[0]
    size = min(size, count)
    batches = -(-count // size)
    places = jnp.resize(jnp.arange(count), (batches, size))
    found = jax.lax.map(lambda own: jax.vmap(function)(rows[own], keys[own]), places)
    return jax.tree.map(lambda leaf: leaf.reshape(-1)[:count], found)


def _deviations(model: Autoencoder, rows: Any) -> tuple[Numbers | None, Bool[Array, "..."] | Numbers | None]:
    decoder = model.decoder
    if not isinstance(decoder, NormalDecoder):
        return None, None
    scales = jax.vmap(lambda x: decoder.law(model.posterior(x).location).scale)(rows)
    floor = jnp.exp(jnp.asarray(decoder.least)) * decoder.spread
    stands = scales <= floor[None] * 1.001
    if decoder.variance == "fixed":
        stands = jnp.zeros_like(stands)
    return jnp.sqrt(jnp.mean(scales**2, axis=0)), jnp.mean(stands.astype(scales.dtype), axis=0)


@jax.jit
def _encode(model: Autoencoder, rows: Any) -> Normal:
    return jax.vmap(model.posterior)(rows)


@jax.jit
def _decode(model: Autoencoder, rows: Any) -> Array:
    def mean(z):
        law = model.decode(z)
        return law.mean() if isinstance(law, Normal | Bernoulli) else jax.nn.softmax(law.logits, axis=-1)

    return jax.vmap(mean)(rows)


@jax.jit
def _sample(model: Autoencoder, keys: Any) -> Array:
    return jax.vmap(model.sample)(keys)


@jax.jit
def _log_evidence(model: Autoencoder, rows: Any, keys: Any, samples: Any) -> ImportanceWeightedBound:
    return importance_bounds(model, rows, keys, samples.shape[0])
