"""Distributions that a policy, a belief or a model is made of: unbatched modules, batched by `vmap`."""

from optimality.distributions.abstract import AbstractDistribution
from optimality.distributions.categorical import Categorical
from optimality.distributions.multivariate_normal import MultivariateNormal
from optimality.distributions.normal import Normal

__all__ = ["AbstractDistribution", "Categorical", "MultivariateNormal", "Normal"]
