"""Beliefs about unknown numbers that data update in closed form."""

from optimality.beliefs.abstract import AbstractBelief, AbstractPredictiveBelief
from optimality.beliefs.bayesian_linear import BayesianLinear
from optimality.beliefs.beta_bernoulli import BetaBernoulli
from optimality.beliefs.dirichlet_categorical import DirichletCategorical
from optimality.beliefs.gamma_exponential import GammaExponential
from optimality.beliefs.gamma_known_shape import GammaKnownShape
from optimality.beliefs.normal_known_variance import NormalKnownVariance
from optimality.beliefs.normal_unknown_variance import NormalUnknownVariance

__all__ = [
    "AbstractBelief",
    "AbstractPredictiveBelief",
    "BayesianLinear",
    "BetaBernoulli",
    "DirichletCategorical",
    "GammaExponential",
    "GammaKnownShape",
    "NormalKnownVariance",
    "NormalUnknownVariance",
]
