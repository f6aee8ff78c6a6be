"""Distributions that a policy, a belief or a model is made of: unbatched modules, batched by `vmap`."""

from optimality.distributions.abstract import AbstractDistribution
from optimality.distributions.bernoulli import Bernoulli
from optimality.distributions.beta import Beta
from optimality.distributions.beta_prime import BetaPrime
from optimality.distributions.categorical import Categorical
from optimality.distributions.dirichlet import Dirichlet
from optimality.distributions.gamma import Gamma
from optimality.distributions.lomax import Lomax
from optimality.distributions.multivariate_normal import MultivariateNormal
from optimality.distributions.normal import Normal
from optimality.distributions.normal_inverse_gamma import NormalInverseGamma
from optimality.distributions.student_t import StudentT

__all__ = [
    "AbstractDistribution",
    "Bernoulli",
    "Beta",
    "BetaPrime",
    "Categorical",
    "Dirichlet",
    "Gamma",
    "Lomax",
    "MultivariateNormal",
    "Normal",
    "NormalInverseGamma",
    "StudentT",
]
