"""The variational autoencoder.

    maximize  mean_x  E_q(z|x) log p(x | z) - beta KL(q(z|x) || N(0, I)),        q(z|x) = N(m(x), diag e^2(x))

over the networks of decoder and encoder together (Kingma and Welling 2014, equations 7 and 10; Rezende, Mohamed and
Wierstra 2014). Both terms are sums, over features and over latents: a mean over features beside a sum over latents
would be the objective of another decoder, whose variance is that much larger.
"""

from dataclasses import KW_ONLY

import equinox as eqx
from jaxtyping import Array, Float

from optimality.core.numerics import Real, require_range
from optimality.latent.abstract import standard_normal
from optimality.latent.autoencoder import Autoencoder
from optimality.latent.autoencoder_fit import AbstractAutoencoder
from optimality.latent.decoders import Variance
from optimality.latent.variational_bound import Estimator, Rate, evidence_bound_of_draws
from optimality.networks.abstract import AbstractNetwork
from optimality.networks.mlp import MLP


class VariationalAutoencoder(AbstractAutoencoder):
    """A latent-variable model with networks, fitted by the evidence lower bound.

    `value` is the bound in nats, mean over the test points; `details` is an `AutoencoderDetails`.
    """

    _: KW_ONLY
    latents: int = eqx.field(static=True, default=2)
    """Entries of z."""
    variance: Variance = eqx.field(static=True, default="scalar")
    """Deviation of a normal decoder: scalar (one for all), feature (one a feature), head (a function of z) or fixed."""
    fixed_scale: Real = 1.0
    """That deviation for `fixed`, in the data's units."""
    beta: Real = 1.0
    """Factor of the rate; 1 is the bound."""
    rate: Rate = eqx.field(static=True, default="analytic")
    """KL in closed form, or by the same samples."""
    estimator: Estimator = eqx.field(static=True, default="reparameterized")
    """Of the encoder's gradient: reparameterized, score, or sticking_the_landing with a sampled rate."""
    samples: int = eqx.field(static=True, default=1)
    """Of z for each observation of a batch."""
    encoder: MLP | AbstractNetwork = eqx.field(default_factory=lambda: MLP(hidden=(256, 256), activation="gelu"))
    """Recipe of the encoder's network."""
    decoder: MLP | AbstractNetwork = eqx.field(default_factory=lambda: MLP(hidden=(256, 256), activation="gelu"))
    """Recipe of the decoder's network."""
    learning_rate: Real = 1e-3
    """Of Adam."""
    weight_decay: Real = 1e-2
    """Share of its matrices that a step takes away, over the learning rate."""
    batch_size: int = eqx.field(static=True, default=128)
    """Observations of a step."""
    max_steps: int = eqx.field(static=True, default=1500)
    """Largest number of passes over the data."""
    patience: int = eqx.field(static=True, default=100)
    """Passes without a better bound on the validation points after which the fit ends."""
    first_log_scale: Real = -1.0
    """Log of a normal decoder's first deviation over the data's spread; small, lest latents be given up early."""
    least_log_scale: Real = -6.0
    """Least log of its deviation over the data's spread."""
    most_log_scale: Real = 2.0
    """Largest."""
    bound_samples: int = eqx.field(static=True, default=2000)
    """Of z for the importance-weighted bound of a test point."""

    def __check_init__(self):
        require_range(self, 0.0, beta=self.beta)
        if self.estimator == "sticking_the_landing" and self.rate == "analytic":
            raise ValueError("sticking_the_landing needs the rate by samples: rate='sampled'.")

    def objective(
        self, model: Autoencoder, x: Float[Array, " features"], noise: Float[Array, "samples latents"]
    ) -> Float[Array, ""]:
        q = model.posterior(x)
        return evidence_bound_of_draws(
            lambda z: model.log_likelihood(x, z),
            q,
            standard_normal(self.latents),
            lambda e: q.location + q.scale * e,
            noise,
            rate=self.rate,
            beta=self.beta,
            estimator=self.estimator,
        )
