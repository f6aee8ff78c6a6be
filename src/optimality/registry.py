"""Names known before anything heavy is imported: methods, problems, and what `import optimality` offers.

Strings only. A test holds them against the classes.
"""

from typing import NamedTuple


class Entry(NamedTuple):
    """A name of the command line, where its class or function lives, and one line of help; of a method of `solve` also
    the class of problem that it takes."""

    name: str
    target: str
    help: str
    problem: str = "TabularMDP"

    @property
    def module(self) -> str:
        return self.target.partition(":")[0]

    @property
    def attribute(self) -> str:
        return self.target.partition(":")[2]


_PLANNING = "optimality.planning"

METHODS = (
    Entry(
        "soft-value-iteration",
        f"{_PLANNING}.soft_value_iteration:SoftValueIteration",
        "soft-optimal policy: return plus temperature times entropy, or less KL to a prior (default)",
    ),
    Entry("value-iteration", f"{_PLANNING}.value_iteration:ValueIteration", "the best expected reward"),
    Entry("policy-iteration", f"{_PLANNING}.policy_iteration:PolicyIteration", "the same in a few exact steps"),
    Entry(
        "exact-inference",
        f"{_PLANNING}.exact_inference:ExactInference",
        "posterior over behavior given optimality: forward and backward messages, evidence",
    ),
    Entry(
        "variational-inference",
        f"{_PLANNING}.variational_inference:VariationalInference",
        "the closest behavior under the true dynamics, its evidence bound and the gap",
    ),
    Entry(
        "exact-reps",
        f"{_PLANNING}.exact_reps:ExactREPS",
        "relative entropy policy search with a known model: improvement within a KL bound, until nothing improves",
    ),
    Entry(
        "exact-policy-gradient",
        f"{_PLANNING}.exact_policy_gradient:ExactPolicyGradient",
        "ascent along the exact policy gradient, natural or plain, with or without entropy",
    ),
    Entry(
        "deterministic-planning",
        f"{_PLANNING}.deterministic_planning:DeterministicPlanning",
        "the best action sequence where nothing is random",
    ),
    Entry(
        "lqr",
        f"{_PLANNING}.lqr:LQR",
        "the linear-quadratic regulator: least expected cost (default)",
        "LinearQuadratic",
    ),
    Entry(
        "maximum-entropy-lqr",
        f"{_PLANNING}.maximum_entropy_lqr:MaximumEntropyLQR",
        "the same with entropy: normal controls around the regulator's",
        "LinearQuadratic",
    ),
    Entry(
        "risk-sensitive-lqr",
        f"{_PLANNING}.risk_sensitive_lqr:RiskSensitiveLQR",
        "the best certainty equivalent: cautious below risk 0, optimistic above",
        "LinearQuadratic",
    ),
    Entry(
        "linear-quadratic-inference",
        f"{_PLANNING}.linear_quadratic_inference:LinearQuadraticInference",
        "posterior over behavior given optimality, noise included, with its evidence",
        "LinearQuadratic",
    ),
    Entry(
        "exact-play-or-not",
        "optimality.exploration.exact_play:ExactPlayOrNot",
        "play a game again or stop: the Bayes-optimal policy, and every criterion by its name (default)",
        "PlayOrNot",
    ),
    Entry(
        "variational-autoencoder",
        "optimality.latent.variational_autoencoder:VariationalAutoencoder",
        "a latent-variable model with networks, by the evidence lower bound (default)",
        "Dataset",
    ),
    Entry(
        "importance-weighted-autoencoder",
        "optimality.latent.importance_weighted_autoencoder:ImportanceWeightedAutoencoder",
        "the same by the tighter bound of several samples",
        "Dataset",
    ),
    Entry(
        "probabilistic-pca",
        "optimality.latent.linear_gaussian:ProbabilisticPCA",
        "a linear latent-variable model with one noise variance, in closed form",
        "Dataset",
    ),
    Entry(
        "factor-analysis",
        "optimality.latent.factor_analysis:FactorAnalysis",
        "the linear one with a noise variance for each feature: maximum likelihood by expectation maximization",
        "Dataset",
    ),
    Entry(
        "variational-em",
        "optimality.latent.variational_em:VariationalEM",
        "the linear one with a normal posterior for each point, of independent latents: exact bounds, no draws",
        "Dataset",
    ),
    Entry(
        "exact-bandit",
        "optimality.exploration.bernoulli_bandit:ExactBandit",
        "few arms that pay 0 or 1: the Bayes-optimal policy (default)",
        "BernoulliBandit",
    ),
)
"""Methods of `optimality solve`."""

_LEARNING = "optimality.learning"

LEARNERS = (
    Entry("ppo", f"{_LEARNING}.ppo:PPO", "clipped policy gradients with generalized advantages (default)"),
    Entry("trpo", f"{_LEARNING}.trpo:TRPO", "natural gradients within a measured bound on the divergence"),
    Entry(
        "natural-policy-gradient",
        f"{_LEARNING}.trpo:natural_policy_gradient",
        "the same without its line search: the bound is the quadratic model's",
    ),
    Entry("reinforce", f"{_LEARNING}.reinforce:Reinforce", "Monte Carlo policy gradients of whole episodes"),
    Entry(
        "max-ent-policy-gradient",
        f"{_LEARNING}.maxent_policy_gradient:MaxEntPolicyGradient",
        "policy gradients of reward plus entropy by action values, up to soft Q-learning",
    ),
    Entry(
        "soft-q-learning",
        f"{_LEARNING}.soft_q_learning:SoftQLearning",
        "maximum-entropy action values from a replay, or a table of them",
    ),
    Entry(
        "reps", f"{_LEARNING}.reps:REPS", "relative entropy policy search: Gaussian policies, bounded information loss"
    ),
    Entry(
        "episodic-reps",
        f"{_LEARNING}.episodic_reps:EpisodicREPS",
        "the same for whole episodes: a normal distribution of a controller's parameters",
    ),
    Entry("dqn", f"{_LEARNING}.soft_q_learning:dqn", "the deep Q-network: temperature 0, epsilon-greedy"),
)
"""Methods of `optimality train`: classes, or presets that make one."""

DEFAULT_LEARNER = "ppo"

INVERSE = (
    Entry(
        "maxent",
        "optimality.inverse.maxent_irl:MaxEntIRL",
        "maximum-entropy inverse RL: the reward whose soft-optimal policy explains the demonstrations (default)",
    ),
    Entry(
        "apprenticeship",
        "optimality.inverse.apprenticeship:ApprenticeshipLearning",
        "policies whose mixture has the expert's feature expectations, by max margin or projection",
    ),
    Entry(
        "maximum-margin-planning",
        "optimality.inverse.maximum_margin_planning:MaximumMarginPlanning",
        "the smallest reward under which the expert leads other policies by how much they differ",
    ),
)
"""Methods of `optimality irl`: classes, or presets that make one."""

DEFAULT_INVERSE = "maxent"

SAVED = {
    "tabular-policy": "optimality.policies.tabular:TabularPolicy",
    "affine-gaussian": "optimality.policies.affine_gaussian:AffineGaussian",
    "linear-gaussian": "optimality.policies.linear_gaussian:LinearGaussian",
    "parameter-noise-gaussian": "optimality.policies.parameter_noise_gaussian:ParameterNoiseGaussian",
    "constant-features": "optimality.policies.features:ConstantFeatures",
    "identity-features": "optimality.policies.features:IdentityFeatures",
    "polynomial-features": "optimality.policies.features:PolynomialFeatures",
    "one-hot-features": "optimality.policies.features:OneHotFeatures",
    "radial-features": "optimality.policies.kernel_features:RadialFeatures",
    "fourier-features": "optimality.policies.kernel_features:FourierFeatures",
    "affine-gaussian-policy": "optimality.sampling.affine_gaussian_policy:AffineGaussianPolicy",
    "linear-gaussian-policy": "optimality.sampling.linear_gaussian_policy:LinearGaussianPolicy",
    "episodic-policy": f"{_LEARNING}.episodic_reps:EpisodicPolicy",
    "search-distribution": f"{_LEARNING}.episodic_search:SearchDistribution",
    "actor-policy": f"{_LEARNING}.actor:ActorPolicy",
    "actor": f"{_LEARNING}.actor:Actor",
    "soft-q-policy": f"{_LEARNING}.action_values:SoftQPolicy",
    "dueling": f"{_LEARNING}.maxent_policy_gradient:Dueling",
    "table": f"{_LEARNING}.action_values:Table",
    "perceptron": "optimality.networks.mlp:Perceptron",
    "of-index": "optimality.networks.unit_vectors:OfIndex",
    "gru-cell": "optimality.networks.gru:GRUCell",
    "running-normalizer": "optimality.sampling.normalizers:RunningNormalizer",
    "linear-reward": "optimality.rewards.linear:LinearReward",
    "table-reward": "optimality.rewards.table:TableReward",
    "network-reward": "optimality.rewards.network:NetworkReward",
    "play-policy": "optimality.exploration.exact_play:PlayPolicy",
    "deadline-policy": "optimality.exploration.exact_play:DeadlinePolicy",
    "belief-policy": "optimality.exploration.bernoulli_bandit:BeliefPolicy",
    "potential-shaping": "optimality.rewards.shaping:PotentialShaping",
    "normalized-reward": "optimality.rewards.normalized:NormalizedReward",
    "autoencoder-details": "optimality.latent.autoencoder_details:AutoencoderDetails",
    "judged": "optimality.latent.autoencoder_details:Judged",
    "autoencoder": "optimality.latent.autoencoder:Autoencoder",
    "encoder": "optimality.latent.encoder:Encoder",
    "normal-decoder": "optimality.latent.decoders:NormalDecoder",
    "bernoulli-decoder": "optimality.latent.decoders:BernoulliDecoder",
    "categorical-decoder": "optimality.latent.decoders:CategoricalDecoder",
    "linear-gaussian-model": "optimality.latent.linear_gaussian:LinearGaussianModel",
    "linear-model": "optimality.experiments.saved_latent_model:LinearModel",
}
"""Modules that a saved policy, reward or model may be made of: how a file names them, and where they are."""

EVALUATION = (
    Entry("policy-evaluation", f"{_PLANNING}.policy_evaluation:PolicyEvaluation", "what a given policy is worth"),
    Entry(
        "kl-constrained-lqr",
        f"{_PLANNING}.kl_constrained_lqr:KLConstrainedLQR",
        "linear-quadratic: the cheapest policy near an old one",
        "NearPolicy",
    ),
    Entry(
        "lqg",
        f"{_PLANNING}.lqg:LQG",
        "linear-quadratic: control of a state that is seen through a noisy observation",
        "PartiallyObserved",
    ),
    Entry(
        "exact-bayes-adaptive",
        "optimality.exploration.bayes_adaptive:ExactBayesAdaptive",
        "a small MDP with unknown transitions: the Bayes-optimal policy",
        "BayesAdaptiveMDP",
    ),
)
"""Methods for problems that the command line does not make."""

_EXPLORATION = "optimality.exploration"

BANDIT_POLICIES = (
    Entry("ucb1", f"{_EXPLORATION}.ucb1:UCB1", "upper confidence bounds by Hoeffding's inequality"),
    Entry("thompson", f"{_EXPLORATION}.thompson:Thompson", "each arm as often as one believes it to be the best"),
    Entry("bayes-ucb", f"{_EXPLORATION}.bayes_ucb:BayesUCB", "an upper quantile of the belief about each arm"),
    Entry(
        "ids",
        f"{_EXPLORATION}.information_directed_sampling:InformationDirectedSampling",
        "least squared regret per bit about which arm is best; rewards 0 and 1, or normal",
    ),
    Entry(
        "knowledge-gradient",
        f"{_EXPLORATION}.knowledge_gradient:KnowledgeGradient",
        "the best mean plus what one more look is worth",
    ),
    Entry("gittins", f"{_EXPLORATION}.gittins:Gittins", "optimal for discounted rewards; rewards 0 and 1, or normal"),
    Entry("greedy", f"{_EXPLORATION}.greedy:Greedy", "the arm with the largest posterior mean"),
    Entry("epsilon-greedy", f"{_EXPLORATION}.greedy:EpsilonGreedy", "greedy with a constant share of random pulls"),
)
"""Policies of bandits."""

DEFAULT_METHODS = {
    "TabularMDP": "soft-value-iteration",
    "UnderPolicy": "policy-evaluation",
    "LinearQuadratic": "lqr",
    "NearPolicy": "kl-constrained-lqr",
    "PartiallyObserved": "lqg",
    "PlayOrNot": "exact-play-or-not",
    "BernoulliBandit": "exact-bandit",
    "Dataset": "variational-autoencoder",
    "BayesAdaptiveMDP": "exact-bayes-adaptive",
}
"""Class of problem to the method that `solve` takes when none is given."""

_SYSTEMS = "optimality.problems.linear_systems"
_WORLDS = "optimality.problems.reward_worlds"

PROBLEMS = (
    Entry("gridworld", "optimality.problems.gridworld:gridworld", "a text map with walls, goals and holes"),
    Entry("chain", "optimality.problems.generators:chain", "a corridor with a small and a large reward at its ends"),
    Entry("river-swim", "optimality.problems.generators:river_swim", "swim up a river against the current"),
    Entry("deep-sea", "optimality.problems.generators:deep_sea", "one action sequence in 2^size leads to the treasure"),
    Entry("two-state", "optimality.problems.generators:two_state", "the smallest choice between now and later"),
    Entry("single-chain", "optimality.problems.generators:single_chain", "a corridor without noise, paid at its end"),
    Entry("double-chain", "optimality.problems.generators:double_chain", "two corridors, one paid better at its end"),
    Entry("objectworld", f"{_WORLDS}:objectworld", "a grid with colored things that hide its reward"),
    Entry("macrocell-gridworld", f"{_WORLDS}:macrocell_gridworld", "a grid whose reward is one number a region"),
    Entry("random", "optimality.problems.generators:random_mdp", "random transitions and rewards"),
    Entry("cart-pole", f"{_SYSTEMS}:cart_pole", "linear-quadratic: keep a pole upright on a cart"),
    Entry("double-integrator", f"{_SYSTEMS}:double_integrator", "linear-quadratic: push a mass to rest"),
    Entry("random-linear", f"{_SYSTEMS}:random_linear_quadratic", "linear-quadratic: random matrices"),
    Entry(
        "play-or-not",
        "optimality.exploration.play_or_not:PlayOrNot",
        "a decision from your own data, with options of its own: solve play-or-not --help",
    ),
    Entry("digits", "optimality.problems.sample_datasets:digits", "data: 1,797 handwritten digits of 8 x 8 pixels"),
    Entry("ring", "optimality.problems.sample_datasets:ring", "data: eight normal laws on a circle in the plane"),
    Entry(
        "bernoulli-bandit",
        "optimality.exploration.bernoulli_bandit:BernoulliBandit",
        "arms of unknown chances, with options of its own: solve|train bernoulli-bandit --help",
    ),
)

CRITERIA = (
    Entry("finite-horizon", "optimality.problems.criterion:FiniteHorizon", "a fixed number of steps"),
    Entry("discounted", "optimality.problems.criterion:Discounted", "discounted rewards without a time limit"),
    Entry("average-reward", "optimality.problems.criterion:AverageReward", "reward per step in the long run"),
    Entry("until-termination", "optimality.problems.criterion:UntilTermination", "undiscounted, until it ends"),
)


ENVIRONMENTS = (
    Entry("CartPole-v1", "optimality.environments.cartpole:CartPole", "balance a pole on a cart"),
    Entry("Pendulum-v1", "optimality.environments.pendulum:Pendulum", "swing a pendulum up; continuous actions"),
    Entry("MountainCar-v0", "optimality.environments.mountain_car:MountainCar", "out of a valley with a weak motor"),
    Entry(
        "MountainCarContinuous-v0",
        "optimality.environments.mountain_car_continuous:MountainCarContinuous",
        "the same with continuous actions",
    ),
    Entry("Acrobot-v1", "optimality.environments.acrobot:Acrobot", "swing up two links by the joint between them"),
    Entry("FrozenLake-v1", "optimality.problems.toy_text:frozen_lake", "Gymnasium's slippery ice with holes"),
    Entry("FrozenLake8x8-v1", "optimality.problems.toy_text:frozen_lake_8x8", "the same, larger"),
    Entry("CliffWalking-v1", "optimality.problems.toy_text:cliff_walking", "Gymnasium's walk along a cliff"),
    Entry("Taxi-v4", "optimality.problems.toy_text:taxi", "Gymnasium's taxi and its passenger"),
    Entry("GridWorld-v0", "optimality.problems.gridworld:gridworld", "a text map with walls, goals and holes"),
    Entry("Chain-v0", "optimality.problems.generators:chain", "a corridor with a small and a large reward"),
    Entry("RiverSwim-v0", "optimality.problems.generators:river_swim", "swim up a river against the current"),
    Entry("DeepSea-v0", "optimality.problems.generators:deep_sea", "one action sequence leads to the treasure"),
    Entry("DoubleIntegrator-v0", f"{_SYSTEMS}:double_integrator", "push a mass to rest; its optimum is known"),
    Entry("LinearCartPole-v0", f"{_SYSTEMS}:cart_pole", "a linearized cart-pole; its optimum is known"),
    Entry("ConstantReward-v0", "optimality.environments.probes:ConstantReward", "a probe: is a value learned?"),
    Entry("ObservationReward-v0", "optimality.environments.probes:ObservationReward", "a probe: of observations?"),
    Entry("DelayedReward-v0", "optimality.environments.probes:DelayedReward", "a probe: is the future discounted?"),
    Entry("EndlessReward-v0", "optimality.environments.probes:EndlessReward", "a probe: do time limits cut values?"),
    Entry("ActionReward-v0", "optimality.environments.probes:ActionReward", "a probe: is an action learned?"),
    Entry(
        "ActionObservationReward-v0",
        "optimality.environments.probes:ActionObservationReward",
        "a probe: does the action follow the observation?",
    ),
)
"""Environments that compile; any Gymnasium id is one too."""


def find(entries: tuple[Entry, ...], name: str) -> Entry | None:
    """The entry of that name, or None."""
    return next((entry for entry in entries if entry.name == name), None)


EXPORTS = {
    "AutoencoderDetails": "optimality.latent.autoencoder_details",
    "ImportanceWeightedAutoencoder": "optimality.latent.importance_weighted_autoencoder",
    "VariationalAutoencoder": "optimality.latent.variational_autoencoder",
    "NaturalNormal": "optimality.distributions.natural_normal",
    "ApprenticeshipLearning": "optimality.inverse.apprenticeship",
    "MaximumMarginPlanning": "optimality.inverse.maximum_margin_planning",
    "MixturePolicy": "optimality.sampling.mixture_policy",
    "judge": "optimality.inverse.judging",
    "evidence_bound": "optimality.latent.variational_bound",
    "VariationalEM": "optimality.latent.variational_em",
    "amortization_gap": "optimality.latent.amortization",
    "infer_per_datum": "optimality.latent.per_datum_inference",
    "importance_weighted_bound": "optimality.latent.variational_bound",
    "quadrature_evidence": "optimality.latent.evidence",
    "exact_importance_weighted_bound": "optimality.latent.evidence",
    "epic_distance": "optimality.inverse.reward_distances",
    "dard_distance": "optimality.inverse.reward_distances",
    "largest_margin": "optimality.inverse.largest_margin",
    "objectworld": "optimality.problems.reward_worlds",
    "objectworld_features": "optimality.problems.reward_worlds",
    "macrocell_gridworld": "optimality.problems.reward_worlds",
    "macrocell_features": "optimality.problems.reward_worlds",
    "infer_reward": "optimality.inverse.infer_reward",
    "RewardSolution": "optimality.inverse.infer_reward",
    "LinearReward": "optimality.rewards.linear",
    "DemonstratedVisits": "optimality.inverse.demonstrated",
    "train_seeds": "optimality.experiments.seeds",
    "MaxEntIRL": "optimality.inverse.maxent_irl",
    "NetworkReward": "optimality.rewards.network",
    "NormalizedReward": "optimality.rewards.normalized",
    "PotentialShaping": "optimality.rewards.shaping",
    "TableReward": "optimality.rewards.table",
    "load_reward": "optimality.experiments.saved_reward",
    "load_model": "optimality.experiments.saved_latent_model",
    "save_model": "optimality.experiments.saved_latent_model",
    "log_partition": "optimality.planning.log_partition",
    "save_reward": "optimality.experiments.saved_reward",
    "with_reward": "optimality.rewards.on_tables",
    "plan_training": "optimality.experiments.training_plan",
    "TimeLimit": "optimality.environments.wrappers",
    "Progress": "optimality.experiments.training_run",
    "MLP": "optimality.networks.mlp",
    "GRU": "optimality.networks.gru",
    "EnvironmentFailure": "optimality.environments.from_gymnasium",
    "AverageReward": "optimality.problems.criterion",
    "DeterministicPlanning": "optimality.planning.deterministic_planning",
    "Discounted": "optimality.problems.criterion",
    "EpisodicREPS": "optimality.learning.episodic_reps",
    "ExactREPS": "optimality.planning.exact_reps",
    "ExactPolicyGradient": "optimality.planning.exact_policy_gradient",
    "exact_policy_gradient": "optimality.planning.softmax_gradient",
    "ExactInference": "optimality.planning.exact_inference",
    "FiniteHorizon": "optimality.problems.criterion",
    "PolicyEvaluation": "optimality.planning.policy_evaluation",
    "PolicyIteration": "optimality.planning.policy_iteration",
    "InformationProjection": "optimality.core.information_projection",
    "information_projection": "optimality.core.information_projection",
    "Result": "optimality.core.result",
    "SoftQLearning": "optimality.learning.soft_q_learning",
    "SoftValueIteration": "optimality.planning.soft_value_iteration",
    "Solution": "optimality.core.solve",
    "SolverError": "optimality.core.result",
    "TabularMDP": "optimality.problems.tabular",
    "TabularPolicy": "optimality.policies.tabular",
    "PPO": "optimality.learning.ppo",
    "REPS": "optimality.learning.reps",
    "Reinforce": "optimality.learning.reinforce",
    "Run": "optimality.experiments.training_run",
    "TrainingFailed": "optimality.experiments.training_run",
    "Demonstrations": "optimality.sampling.demonstrations",
    "evaluate": "optimality.experiments.evaluation",
    "make": "optimality.environments.catalog",
    "resume": "optimality.experiments.training_run",
    "train": "optimality.experiments.training_run",
    "two_state": "optimality.problems.generators",
    "UnderPolicy": "optimality.planning.policy_evaluation",
    "UntilTermination": "optimality.problems.criterion",
    "ValueIteration": "optimality.planning.value_iteration",
    "VariationalInference": "optimality.planning.variational_inference",
    "cart_pole": "optimality.problems.linear_systems",
    "chain": "optimality.problems.generators",
    "controllability": "optimality.problems.controllability",
    "deep_sea": "optimality.problems.generators",
    "double_chain": "optimality.problems.generators",
    "double_integrator": "optimality.problems.linear_systems",
    "dqn": "optimality.learning.soft_q_learning",
    "natural_policy_gradient": "optimality.learning.trpo",
    "MaxEntPolicyGradient": "optimality.learning.maxent_policy_gradient",
    "TRPO": "optimality.learning.trpo",
    "load_policy": "optimality.experiments.saved_policy",
    "gridworld": "optimality.problems.gridworld",
    "observability": "optimality.problems.controllability",
    "optimism": "optimality.planning.optimism",
    "posterior_dynamics": "optimality.planning.exact_inference",
    "random_linear_quadratic": "optimality.problems.linear_systems",
    "random_mdp": "optimality.problems.generators",
    "river_swim": "optimality.problems.generators",
    "single_chain": "optimality.problems.generators",
    "solve": "optimality.core.solve",
    "AffineGaussian": "optimality.policies.affine_gaussian",
    "KLConstrainedLQR": "optimality.planning.kl_constrained_lqr",
    "LQR": "optimality.planning.lqr",
    "LinearQuadratic": "optimality.problems.linear_quadratic",
    "LinearQuadraticInference": "optimality.planning.linear_quadratic_inference",
    "MaximumEntropyLQR": "optimality.planning.maximum_entropy_lqr",
    "NearPolicy": "optimality.planning.kl_constrained_lqr",
    "NoiseChannels": "optimality.problems.linear_quadratic",
    "RiskSensitiveLQR": "optimality.planning.risk_sensitive_lqr",
    "marginals": "optimality.planning.marginals",
    "policy_cost": "optimality.planning.marginals",
    "PartiallyObserved": "optimality.problems.partially_observed",
    "TabularObservation": "optimality.problems.partially_observed",
    "LinearObservation": "optimality.problems.partially_observed",
    "hmm_filter": "optimality.planning.hmm_filter",
    "hmm_smoother": "optimality.planning.hmm_filter",
    "belief_update": "optimality.planning.hmm_filter",
    "kalman_filter": "optimality.planning.kalman_filter",
    "kalman_smoother": "optimality.planning.kalman_filter",
    "extended_kalman_filter": "optimality.planning.extended_kalman_filter",
    "variational_filter": "optimality.planning.variational_filter",
    "LQG": "optimality.planning.lqg",
    "lqg_cost": "optimality.planning.lqg",
    "LQGPolicy": "optimality.policies.lqg_policy",
    "to_dynamax": "optimality.problems.dynamax_models",
    "from_dynamax": "optimality.problems.dynamax_models",
    "QuadraticValue": "optimality.planning.quadratic_value",
    "BayesianLinear": "optimality.beliefs.bayesian_linear",
    "BetaBernoulli": "optimality.beliefs.beta_bernoulli",
    "DirichletCategorical": "optimality.beliefs.dirichlet_categorical",
    "GammaExponential": "optimality.beliefs.gamma_exponential",
    "GammaKnownShape": "optimality.beliefs.gamma_known_shape",
    "NormalKnownVariance": "optimality.beliefs.normal_known_variance",
    "NormalUnknownVariance": "optimality.beliefs.normal_unknown_variance",
    "ExactPlayOrNot": "optimality.exploration.exact_play",
    "PlayOrNot": "optimality.exploration.play_or_not",
    "Deadline": "optimality.exploration.play_or_not",
    "break_even_rates": "optimality.exploration.break_even_rates",
    "play_criteria": "optimality.exploration.play_criteria",
    "play_horizons": "optimality.exploration.play_horizons",
    "sample_criterion": "optimality.exploration.play_criteria",
    "BernoulliArms": "optimality.problems.bandits",
    "GaussianArms": "optimality.problems.bandits",
    "ExponentialArms": "optimality.problems.bandits",
    "lai_robbins": "optimality.problems.bandits",
    "UCB1": "optimality.exploration.ucb1",
    "Thompson": "optimality.exploration.thompson",
    "BayesUCB": "optimality.exploration.bayes_ucb",
    "InformationDirectedSampling": "optimality.exploration.information_directed_sampling",
    "KnowledgeGradient": "optimality.exploration.knowledge_gradient",
    "Gittins": "optimality.exploration.gittins",
    "gittins_index": "optimality.exploration.gittins",
    "gittins_table": "optimality.exploration.gittins",
    "normal_gittins_index": "optimality.exploration.normal_gittins",
    "normal_gittins_table": "optimality.exploration.normal_gittins",
    "Greedy": "optimality.exploration.greedy",
    "EpsilonGreedy": "optimality.exploration.greedy",
    "simulate_bandit": "optimality.exploration.bandit_simulation",
    "BernoulliBandit": "optimality.exploration.bernoulli_bandit",
    "ExactBandit": "optimality.exploration.bernoulli_bandit",
    "BayesAdaptiveMDP": "optimality.exploration.bayes_adaptive",
    "ExactBayesAdaptive": "optimality.exploration.bayes_adaptive",
    "bayes_regret": "optimality.exploration.bayes_regret",
    "Dataset": "optimality.problems.dataset",
    "digits": "optimality.problems.sample_datasets",
    "ring": "optimality.problems.sample_datasets",
    "LinearGaussianModel": "optimality.latent.linear_gaussian",
    "ProbabilisticPCA": "optimality.latent.linear_gaussian",
    "FactorAnalysis": "optimality.latent.factor_analysis",
    "collapse_law": "optimality.latent.collapse_law",
    "full_covariance_gaussian": "optimality.latent.full_covariance",
}
"""What `import optimality` offers, and where it is."""
