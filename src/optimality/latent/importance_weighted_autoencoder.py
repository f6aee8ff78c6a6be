"""The importance-weighted autoencoder: the same model by a tighter bound.

    maximize  mean_x  E log (1/K) sum_k w_k,      w_k = p(x, z_k) / q(z_k | x),   z_k ~ q(z | x)

(Burda, Grosse and Salakhutdinov 2016, equation 8). The plain gradient's signal-to-noise for the encoder falls with K;
the doubly reparameterized one's does not (Tucker et al. 2019).
"""

from dataclasses import KW_ONLY

import equinox as eqx
from jaxtyping import Array, Float

from optimality.core.numerics import Real
from optimality.latent.abstract import standard_normal
from optimality.latent.autoencoder import Autoencoder
from optimality.latent.autoencoder_fit import AbstractAutoencoder
from optimality.latent.decoders import Variance
from optimality.latent.variational_bound import ImportanceEstimator, importance_weighted_bound_of_draws
from optimality.networks.abstract import AbstractNetwork
from optimality.networks.mlp import MLP


class ImportanceWeightedAutoencoder(AbstractAutoencoder):
    """An autoencoder fitted by the bound of K samples.

    `value` is the evidence lower bound, as of a variational one, so that the two compare; the K-sample bound is in
    `details`.
    """

    _: KW_ONLY
    latents: int = eqx.field(static=True, default=2)
    """Entries of z."""
    samples: int = eqx.field(static=True, default=10)
    """K of the objective."""
    estimator: ImportanceEstimator = eqx.field(static=True, default="doubly_reparameterized")
    """Of the encoder's gradient: doubly_reparameterized, reparameterized or score."""
    variance: Variance = eqx.field(static=True, default="scalar")
    """Deviation of a normal decoder: scalar (one for all), feature (one a feature), head (a function of z) or fixed."""
    fixed_scale: Real = 1.0
    """That deviation for `fixed`, in the data's units."""
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

    def objective(
        self, model: Autoencoder, x: Float[Array, " features"], noise: Float[Array, "samples latents"]
    ) -> Float[Array, ""]:
        q = model.posterior(x)
        return importance_weighted_bound_of_draws(
            lambda z: model.log_likelihood(x, z),
            q,
            standard_normal(self.latents),
            lambda e: q.location + q.scale * e,
            noise,
            estimator=self.estimator,
        ).value
