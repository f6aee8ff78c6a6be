"""A decoder with its encoder: the model that an autoencoder fits."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from optimality.core.numerics import Real
from optimality.distributions.natural_normal import NaturalNormal
from optimality.distributions.normal import Normal
from optimality.latent.abstract import AbstractLatentModel, Vector
from optimality.latent.decoders import AbstractDecoder, BernoulliDecoder, CategoricalDecoder, NormalDecoder, Variance
from optimality.latent.encoder import Encoder
from optimality.networks.abstract import AbstractNetwork
from optimality.problems.dataset import Dataset


class Autoencoder(AbstractLatentModel):
    """`p(x | z)` by the decoder, `q(z | x)` by the encoder."""

    encoder: Encoder
    decoder: AbstractDecoder
    sizes: tuple[int, int] = eqx.field(static=True)
    """Features and latents."""

    @property
    def latents(self) -> int:
        return self.sizes[1]

    @property
    def features(self) -> int:
        return self.sizes[0]

    def log_likelihood(self, x: Vector, z: Vector) -> Float[Array, ""]:
        return self.decoder.log_prob(x, z)

    def decode(self, z: Vector) -> Any:
        return self.decoder.law(z)

    def encode(self, x: Vector) -> NaturalNormal:
        """What x says of z, in natural form."""
        return self.encoder(x)

    def posterior(self, x: Vector) -> Normal:
        return self.encoder(x).normal()

    def sample(self, key: PRNGKeyArray) -> Any:
        latent_key, observation_key = jax.random.split(key)
        return self.decoder.draw(observation_key, jax.random.normal(latent_key, (self.latents,)))


def build_autoencoder(
    problem: Dataset,
    key: PRNGKeyArray,
    *,
    latents: int,
    encoder: AbstractNetwork,
    decoder: AbstractNetwork,
    variance: Variance,
    fixed_scale: Real,
    log_scales: tuple[Real, Real, Real],
) -> Autoencoder:
    """Networks at their first weights, in units of the data's spread.

    `log_scales`: first, least and largest of a normal decoder's deviation over the spread.
    """
    first, least, most = (jnp.asarray(number) for number in log_scales)
    encoder_key, decoder_key = jax.random.split(key)
    rows = problem.parts().train
    center, spread = jnp.mean(rows, axis=0), jnp.std(rows, axis=0)
    overall = jnp.sqrt(jnp.mean(spread**2))
    overall = jnp.where(overall > 0.0, overall, 1.0)
    spread = jnp.where(spread > 1e-6 * overall, spread, overall)
    choices = problem.categories or 1
    inputs = problem.features * choices
    network = encoder.build(encoder_key, inputs, 2 * latents)
    own = Encoder(network, center, spread, problem.categories)
    outputs = problem.features * (2 if variance == "head" and problem.likelihood == "gaussian" else choices)
    network = decoder.build(decoder_key, latents, outputs)
    if problem.likelihood == "bernoulli":
        return Autoencoder(own, BernoulliDecoder(network), (problem.features, latents))
    if problem.likelihood == "categorical":
        assert problem.categories is not None
        return Autoencoder(own, CategoricalDecoder(network, problem.categories), (problem.features, latents))
    if variance in ("scalar", "fixed"):
        spread = jnp.full_like(spread, overall)
    log_scale = jnp.full(problem.features if variance == "feature" else (), first)
    if variance == "fixed":
        log_scale = jnp.log(jnp.asarray(fixed_scale) / overall)
    law = NormalDecoder(network, log_scale, center, spread, variance, least, most)
    return Autoencoder(own, law, (problem.features, latents))
