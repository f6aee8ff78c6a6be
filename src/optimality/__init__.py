"""Reinforcement learning as probabilistic inference, with an exact method beside each approximate one.

Names are loaded when they are first used, so that `import optimality` is free of JAX, Gymnasium and matplotlib.
"""

import importlib
from typing import TYPE_CHECKING, Any

from optimality.registry import EXPORTS

__version__ = "0.1.0"

if TYPE_CHECKING:
    from optimality.beliefs.bayesian_linear import BayesianLinear as BayesianLinear
    from optimality.beliefs.beta_bernoulli import BetaBernoulli as BetaBernoulli
    from optimality.beliefs.dirichlet_categorical import DirichletCategorical as DirichletCategorical
    from optimality.beliefs.gamma_exponential import GammaExponential as GammaExponential
    from optimality.beliefs.gamma_known_shape import GammaKnownShape as GammaKnownShape
    from optimality.beliefs.normal_known_variance import NormalKnownVariance as NormalKnownVariance
    from optimality.beliefs.normal_unknown_variance import NormalUnknownVariance as NormalUnknownVariance
    from optimality.core.information_projection import InformationProjection as InformationProjection
    from optimality.core.information_projection import information_projection as information_projection
    from optimality.core.result import Result as Result
    from optimality.core.result import SolverError as SolverError
    from optimality.core.solve import Solution as Solution
    from optimality.core.solve import solve as solve
    from optimality.distributions.natural_normal import NaturalNormal as NaturalNormal
    from optimality.environments.catalog import make as make
    from optimality.environments.from_gymnasium import EnvironmentFailure as EnvironmentFailure
    from optimality.environments.wrappers import TimeLimit as TimeLimit
    from optimality.experiments.evaluation import evaluate as evaluate
    from optimality.experiments.saved_latent_model import load_model as load_model
    from optimality.experiments.saved_latent_model import save_model as save_model
    from optimality.experiments.saved_policy import load_policy as load_policy
    from optimality.experiments.saved_reward import load_reward as load_reward
    from optimality.experiments.saved_reward import save_reward as save_reward
    from optimality.experiments.seeds import train_seeds as train_seeds
    from optimality.experiments.training_plan import plan_training as plan_training
    from optimality.experiments.training_run import Progress as Progress
    from optimality.experiments.training_run import Run as Run
    from optimality.experiments.training_run import TrainingFailed as TrainingFailed
    from optimality.experiments.training_run import resume as resume
    from optimality.experiments.training_run import train as train
    from optimality.exploration.bandit_simulation import simulate_bandit as simulate_bandit
    from optimality.exploration.bayes_adaptive import BayesAdaptiveMDP as BayesAdaptiveMDP
    from optimality.exploration.bayes_adaptive import ExactBayesAdaptive as ExactBayesAdaptive
    from optimality.exploration.bayes_regret import bayes_regret as bayes_regret
    from optimality.exploration.bayes_ucb import BayesUCB as BayesUCB
    from optimality.exploration.bernoulli_bandit import BernoulliBandit as BernoulliBandit
    from optimality.exploration.bernoulli_bandit import ExactBandit as ExactBandit
    from optimality.exploration.break_even_rates import break_even_rates as break_even_rates
    from optimality.exploration.exact_play import ExactPlayOrNot as ExactPlayOrNot
    from optimality.exploration.gittins import Gittins as Gittins
    from optimality.exploration.gittins import gittins_index as gittins_index
    from optimality.exploration.gittins import gittins_table as gittins_table
    from optimality.exploration.greedy import EpsilonGreedy as EpsilonGreedy
    from optimality.exploration.greedy import Greedy as Greedy
    from optimality.exploration.information_directed_sampling import (
        InformationDirectedSampling as InformationDirectedSampling,
    )
    from optimality.exploration.knowledge_gradient import KnowledgeGradient as KnowledgeGradient
    from optimality.exploration.normal_gittins import normal_gittins_index as normal_gittins_index
    from optimality.exploration.normal_gittins import normal_gittins_table as normal_gittins_table
    from optimality.exploration.play_criteria import play_criteria as play_criteria
    from optimality.exploration.play_criteria import sample_criterion as sample_criterion
    from optimality.exploration.play_horizons import play_horizons as play_horizons
    from optimality.exploration.play_or_not import Deadline as Deadline
    from optimality.exploration.play_or_not import PlayOrNot as PlayOrNot
    from optimality.exploration.thompson import Thompson as Thompson
    from optimality.exploration.ucb1 import UCB1 as UCB1
    from optimality.inverse.apprenticeship import ApprenticeshipLearning as ApprenticeshipLearning
    from optimality.inverse.demonstrated import DemonstratedVisits as DemonstratedVisits
    from optimality.inverse.infer_reward import RewardSolution as RewardSolution
    from optimality.inverse.infer_reward import infer_reward as infer_reward
    from optimality.inverse.judging import judge as judge
    from optimality.inverse.largest_margin import largest_margin as largest_margin
    from optimality.inverse.maxent_irl import MaxEntIRL as MaxEntIRL
    from optimality.inverse.maximum_margin_planning import MaximumMarginPlanning as MaximumMarginPlanning
    from optimality.inverse.reward_distances import dard_distance as dard_distance
    from optimality.inverse.reward_distances import epic_distance as epic_distance
    from optimality.latent.amortization import amortization_gap as amortization_gap
    from optimality.latent.autoencoder_details import AutoencoderDetails as AutoencoderDetails
    from optimality.latent.collapse_law import collapse_law as collapse_law
    from optimality.latent.evidence import exact_importance_weighted_bound as exact_importance_weighted_bound
    from optimality.latent.evidence import quadrature_evidence as quadrature_evidence
    from optimality.latent.factor_analysis import FactorAnalysis as FactorAnalysis
    from optimality.latent.full_covariance import full_covariance_gaussian as full_covariance_gaussian
    from optimality.latent.importance_weighted_autoencoder import (
        ImportanceWeightedAutoencoder as ImportanceWeightedAutoencoder,
    )
    from optimality.latent.linear_gaussian import LinearGaussianModel as LinearGaussianModel
    from optimality.latent.linear_gaussian import ProbabilisticPCA as ProbabilisticPCA
    from optimality.latent.per_datum_inference import infer_per_datum as infer_per_datum
    from optimality.latent.variational_autoencoder import VariationalAutoencoder as VariationalAutoencoder
    from optimality.latent.variational_bound import evidence_bound as evidence_bound
    from optimality.latent.variational_bound import importance_weighted_bound as importance_weighted_bound
    from optimality.latent.variational_em import VariationalEM as VariationalEM
    from optimality.learning.maxent_policy_gradient import MaxEntPolicyGradient as MaxEntPolicyGradient
    from optimality.learning.ppo import PPO as PPO
    from optimality.learning.reinforce import Reinforce as Reinforce
    from optimality.learning.reps import REPS as REPS
    from optimality.learning.soft_q_learning import SoftQLearning as SoftQLearning
    from optimality.learning.soft_q_learning import dqn as dqn
    from optimality.learning.trpo import TRPO as TRPO
    from optimality.learning.trpo import natural_policy_gradient as natural_policy_gradient
    from optimality.networks.gru import GRU as GRU
    from optimality.networks.mlp import MLP as MLP
    from optimality.planning.deterministic_planning import DeterministicPlanning as DeterministicPlanning
    from optimality.planning.exact_inference import ExactInference as ExactInference
    from optimality.planning.exact_inference import posterior_dynamics as posterior_dynamics
    from optimality.planning.exact_policy_gradient import ExactPolicyGradient as ExactPolicyGradient
    from optimality.planning.exact_reps import ExactREPS as ExactREPS
    from optimality.planning.extended_kalman_filter import extended_kalman_filter as extended_kalman_filter
    from optimality.planning.hmm_filter import belief_update as belief_update
    from optimality.planning.hmm_filter import hmm_filter as hmm_filter
    from optimality.planning.hmm_filter import hmm_smoother as hmm_smoother
    from optimality.planning.kalman_filter import kalman_filter as kalman_filter
    from optimality.planning.kalman_filter import kalman_smoother as kalman_smoother
    from optimality.planning.kl_constrained_lqr import KLConstrainedLQR as KLConstrainedLQR
    from optimality.planning.kl_constrained_lqr import NearPolicy as NearPolicy
    from optimality.planning.linear_quadratic_inference import LinearQuadraticInference as LinearQuadraticInference
    from optimality.planning.log_partition import log_partition as log_partition
    from optimality.planning.lqg import LQG as LQG
    from optimality.planning.lqg import lqg_cost as lqg_cost
    from optimality.planning.lqr import LQR as LQR
    from optimality.planning.marginals import marginals as marginals
    from optimality.planning.marginals import policy_cost as policy_cost
    from optimality.planning.maximum_entropy_lqr import MaximumEntropyLQR as MaximumEntropyLQR
    from optimality.planning.optimism import optimism as optimism
    from optimality.planning.policy_evaluation import PolicyEvaluation as PolicyEvaluation
    from optimality.planning.policy_evaluation import UnderPolicy as UnderPolicy
    from optimality.planning.policy_iteration import PolicyIteration as PolicyIteration
    from optimality.planning.quadratic_value import QuadraticValue as QuadraticValue
    from optimality.planning.risk_sensitive_lqr import RiskSensitiveLQR as RiskSensitiveLQR
    from optimality.planning.soft_value_iteration import SoftValueIteration as SoftValueIteration
    from optimality.planning.softmax_gradient import exact_policy_gradient as exact_policy_gradient
    from optimality.planning.value_iteration import ValueIteration as ValueIteration
    from optimality.planning.variational_filter import variational_filter as variational_filter
    from optimality.planning.variational_inference import VariationalInference as VariationalInference
    from optimality.policies.affine_gaussian import AffineGaussian as AffineGaussian
    from optimality.policies.lqg_policy import LQGPolicy as LQGPolicy
    from optimality.policies.tabular import TabularPolicy as TabularPolicy
    from optimality.problems.bandits import BernoulliArms as BernoulliArms
    from optimality.problems.bandits import ExponentialArms as ExponentialArms
    from optimality.problems.bandits import GaussianArms as GaussianArms
    from optimality.problems.bandits import lai_robbins as lai_robbins
    from optimality.problems.controllability import controllability as controllability
    from optimality.problems.controllability import observability as observability
    from optimality.problems.criterion import AverageReward as AverageReward
    from optimality.problems.criterion import Discounted as Discounted
    from optimality.problems.criterion import FiniteHorizon as FiniteHorizon
    from optimality.problems.criterion import UntilTermination as UntilTermination
    from optimality.problems.dataset import Dataset as Dataset
    from optimality.problems.dynamax_models import from_dynamax as from_dynamax
    from optimality.problems.dynamax_models import to_dynamax as to_dynamax
    from optimality.problems.generators import chain as chain
    from optimality.problems.generators import deep_sea as deep_sea
    from optimality.problems.generators import double_chain as double_chain
    from optimality.problems.generators import random_mdp as random_mdp
    from optimality.problems.generators import river_swim as river_swim
    from optimality.problems.generators import single_chain as single_chain
    from optimality.problems.generators import two_state as two_state
    from optimality.problems.gridworld import gridworld as gridworld
    from optimality.problems.linear_quadratic import LinearQuadratic as LinearQuadratic
    from optimality.problems.linear_quadratic import NoiseChannels as NoiseChannels
    from optimality.problems.linear_systems import cart_pole as cart_pole
    from optimality.problems.linear_systems import double_integrator as double_integrator
    from optimality.problems.linear_systems import random_linear_quadratic as random_linear_quadratic
    from optimality.problems.partially_observed import LinearObservation as LinearObservation
    from optimality.problems.partially_observed import PartiallyObserved as PartiallyObserved
    from optimality.problems.partially_observed import TabularObservation as TabularObservation
    from optimality.problems.reward_worlds import macrocell_features as macrocell_features
    from optimality.problems.reward_worlds import macrocell_gridworld as macrocell_gridworld
    from optimality.problems.reward_worlds import objectworld as objectworld
    from optimality.problems.reward_worlds import objectworld_features as objectworld_features
    from optimality.problems.sample_datasets import digits as digits
    from optimality.problems.sample_datasets import ring as ring
    from optimality.problems.tabular import TabularMDP as TabularMDP
    from optimality.rewards.linear import LinearReward as LinearReward
    from optimality.rewards.network import NetworkReward as NetworkReward
    from optimality.rewards.normalized import NormalizedReward as NormalizedReward
    from optimality.rewards.on_tables import with_reward as with_reward
    from optimality.rewards.shaping import PotentialShaping as PotentialShaping
    from optimality.rewards.table import TableReward as TableReward
    from optimality.sampling.demonstrations import Demonstrations as Demonstrations
    from optimality.sampling.mixture_policy import MixturePolicy as MixturePolicy

__all__ = [*EXPORTS, "__version__"]  # pyright: ignore[reportUnsupportedDunderAll]


def __getattr__(name: str) -> Any:
    if name not in EXPORTS:
        raise AttributeError(f"module 'optimality' has no attribute {name!r}")
    return getattr(importlib.import_module(EXPORTS[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
