"""MaxEntIRL: what is recovered, exactly; optimality conditions; causal against trajectory form."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from clauses import against
from compilations import counted_compilations
from demonstrated_episodes import linear_expert, sample_episodes
from enumeration import deterministic_instance, plain_instance, trajectories
from instances import close, evaluate, problem
from optimality import (
    DemonstratedVisits,
    Discounted,
    FiniteHorizon,
    LinearReward,
    MaxEntIRL,
    Result,
    SoftValueIteration,
    SolverError,
    TableReward,
    TabularPolicy,
    UntilTermination,
    infer_reward,
    random_mdp,
    solve,
    with_reward,
)
from optimality.inverse.maxent_objective import Numbers, Settings, evidence, hessian, value_and_gradient
from optimality.sampling.demonstrations import Demonstrations

CRITERIA = [FiniteHorizon(20), FiniteHorizon(20, 0.9), Discounted(0.9)]
NAMES = ["finite", "discount", "discounted"]
EXACT = {"l2": 0.0, "tolerance": 1e-11}
PLAIN = {"hessian_limit": 0}  # which takes seconds to compile
WEIGHTS = np.array([1.0, -0.7, 0.5])


def features_of(mdp, policy, features):
    """By policy evaluation, which shares nothing with the fit but the model."""
    occupancy = evaluate(mdp, policy.log_probabilities).details.occupancy
    occupancy = occupancy.sum(axis=0) if occupancy.ndim == 3 else occupancy
    return np.einsum("sa,sak->k", occupancy, features)


def fit(mdp, demonstrations, features, **options):
    return infer_reward(mdp, demonstrations, MaxEntIRL(**options), reward=LinearReward(features), throw=False)


@pytest.mark.row("S57", "S59")
@pytest.mark.parametrize("criterion", CRITERIA, ids=NAMES)
@against(
    lambda *arguments: fit(*arguments, objective="matching", **EXACT),
    early=lambda *arguments: fit(*arguments, objective="matching", l2=0.0, max_steps=2),
    penalized=lambda *arguments: fit(*arguments, objective="matching", l2=0.1),
)
def test_round_trip(implementation, criterion):
    """Reward, exact demonstrations, reward, and the same policy; features by the policy that is handed out."""
    mdp, features, weights, policy = linear_expert(criterion)
    found = implementation(mdp, DemonstratedVisits.of_policy(mdp, policy), features)
    close(features_of(mdp, found.policy, features), features_of(mdp, policy, features), 1e-9)
    close(found.policy.probabilities, policy.probabilities, 1e-8)
    close(found.reward.weights, weights, 1e-8)
    assert found.result is Result.CONVERGED
    assert found.details.rank == 3


@pytest.mark.row("S58")
@against(
    LinearReward,
    swapped=lambda features, weights: LinearReward(features[:, ::-1], weights),
    averaged=lambda features, weights: LinearReward(features / features.shape[-1], weights),
)
def test_linear_reward(implementation):
    mdp, features, weights, _ = linear_expert()
    reward = implementation(features, weights)
    expected = [[sum(features[s, a, i] * weights[i] for i in range(3)) for a in range(3)] for s in range(12)]
    with jax.enable_x64(True):
        close(reward.table(mdp), expected)
        close(reward(4, 1, 0, False), expected[4][1])


def _problem_of(mdp, features, demonstrations, objective, *, tilt_start=False):
    visits = demonstrations
    data = evidence(mdp, visits, None, objective)
    settings = Settings(objective, tilt_start, "none", 100_000)
    reward = LinearReward(features)
    parameters = jax.tree.map(lambda leaf, keep: jnp.asarray(leaf) if keep else None, reward, reward.parameters())
    rest = jax.tree.map(lambda leaf, keep: None if keep else jnp.asarray(leaf), reward, reward.parameters())

    def at(weights, function=value_and_gradient):
        given = jax.tree.map(lambda _: jnp.asarray(weights), parameters)
        return function(given, rest, mdp, data, Numbers(1.0, 0.0, 1e-13), None, settings)

    return at


@pytest.mark.parametrize("criterion", CRITERIA[:2], ids=NAMES[:2])
@against("likelihood", trajectory="trajectory")
def test_dual_and_likelihood_of_exact_expectations_are_one(implementation, criterion):
    """The two objectives and their gradients, at any weights (they differ by no constant even)."""
    mdp, features, _, policy = linear_expert(criterion)
    visits = DemonstratedVisits.of_policy(mdp, policy)
    with jax.enable_x64(True):
        dual, other = (_problem_of(mdp, features, visits, name) for name in ("matching", implementation))
        for seed in range(3):
            weights = np.random.default_rng(seed).normal(size=3)
            (value, _), slope = dual(weights)
            (value_too, _), slope_too = other(weights)
            close(value, value_too, 1e-11)
            close(slope.weights, slope_too.weights, 1e-10)
            assert np.linalg.eigvalsh(np.asarray(dual(weights, hessian))).min() > -1e-10


def path_features(world, features):
    """Summed along each trajectory, `[N, k]`."""
    acted = world.actions >= 0
    return np.where(acted[..., None], features[world.states[:, :-1], world.actions], 0.0).sum(axis=1)


def small_world(instance, *, prior="none"):
    """An instance paid by features, its enumeration, path features and problem."""
    features = np.random.default_rng(5).normal(size=(*instance.shape, 3))
    paying = instance.with_rewards(lambda _, row: float(features[row[0], row[1]] @ WEIGHTS))
    return problem(paying), trajectories(paying, prior), features


def test_curvature_is_the_covariance_of_path_features():
    """Where nothing is random, for each first state."""
    instance = deterministic_instance().but(initial=np.array([0.2, 0.5, 0.3]))
    mdp, world, features = small_world(instance)
    paths, law = path_features(world, features), np.exp(world.log_posterior(1.0))
    expected = np.zeros((3, 3))
    for start, chance in enumerate(instance.initial):
        here = world.states[:, 0] == start
        p = law[here] / law[here].sum()
        centered = paths[here] - p @ paths[here]
        expected += chance * (centered.T * p) @ centered
    policy = solve(mdp, SoftValueIteration(temperature=1.0)).policy
    with jax.enable_x64(True):
        found = _problem_of(mdp, features, DemonstratedVisits.of_policy(mdp, policy), "matching")(WEIGHTS, hessian)
    close(found, expected, 1e-11)


@pytest.mark.parametrize(("l1", "l2"), [(0.0, 0.1), (0.2, 0.0), (0.2, 0.05)])
@pytest.mark.parametrize("solver", ["lbfgs", "newton"])
@pytest.mark.parametrize("objective", ["matching", "likelihood"])
def test_optimality_conditions(objective, solver, l1, l2):
    """`|f_E - f_w - l2 w| = l1` on the support, at most `l1` elsewhere."""
    mdp, features, _, policy = linear_expert()
    found = fit(
        mdp,
        DemonstratedVisits.of_policy(mdp, policy),
        features,
        objective=objective,
        solver=solver,
        l1=l1,
        l2=l2,
        tolerance=1e-11,
    )
    weights = found.reward.weights
    rest = features_of(mdp, policy, features) - features_of(mdp, found.policy, features) - l2 * weights
    support = weights != 0.0
    assert found.result is Result.CONVERGED
    close(rest[support], l1 * np.sign(weights[support]), 1e-8)
    assert np.all(np.abs(rest) <= l1 + 1e-8)
    if objective == "matching":
        assert abs(found.certificates["duality_gap"]) < 1e-8
        assert found.certificates["forward_error"] < 1e-12


def test_a_strong_1_norm_removes_features():
    mdp, features, _, policy = linear_expert()
    visits = DemonstratedVisits.of_policy(mdp, policy)
    sizes = [np.count_nonzero(fit(mdp, visits, features, l1=l1, l2=0.0).reward.weights) for l1 in (0.01, 4.0, 100.0)]
    assert sizes[0] == 3
    assert 0 < sizes[1] < 3
    assert sizes[2] == 0


def posterior_visits(instance, world):
    """Exact demonstrations of the trajectory form's own expert, the start given: it chooses its luck, not its start."""
    law = np.exp(world.log_posterior(1.0))
    first = world.states[:, 0]
    share = np.bincount(first, law, instance.shape[0])
    given = law * (instance.initial / share)[first]
    return DemonstratedVisits(world.pairs_under(np.log(given)), instance.initial, instance.horizon)


@pytest.mark.row("S65")
@against("trajectory", causal="matching", likelihood="likelihood")
def test_trajectory_form_recovers_its_own_expert(implementation):
    instance = plain_instance()
    mdp, world, features = small_world(instance)
    found = fit(mdp, posterior_visits(instance, world), features, objective=implementation, **EXACT, **PLAIN)
    close(found.reward.weights, WEIGHTS, 1e-8)


def test_with_its_start_tilted_too():
    instance = plain_instance()
    mdp, world, features = small_world(instance)
    pairs = world.pairs_under(world.log_posterior(1.0))
    visits = DemonstratedVisits(pairs, pairs[0].sum(axis=1), instance.horizon)
    found = fit(mdp, visits, features, objective="trajectory", tilt_start=True, **EXACT, **PLAIN)
    close(found.reward.weights, WEIGHTS, 1e-8)
    wrong = fit(mdp, visits._replace(initial=instance.initial), features, objective="trajectory", **EXACT, **PLAIN)
    assert np.abs(wrong.reward.weights - WEIGHTS).max() > 1e-3


@pytest.mark.row("S63")
@against(
    {"objective": "trajectory", "tilt_start": True},
    start_given={"objective": "trajectory"},
    causal={"objective": "matching"},
)
def test_likelihood_gradient(implementation):
    """`E_expert[f] - E_p(trajectory | O)[f]`, of the mean log-likelihood, by enumeration."""
    mdp, _, features = small_world(plain_instance())
    weights = np.array([0.3, 0.2, -0.4])
    model = plain_instance().with_rewards(lambda _, row: float(features[row[0], row[1]] @ weights))
    world = trajectories(model, "none")
    expected = np.exp(world.log_posterior(1.0)) @ path_features(world, features)
    policy = TabularPolicy.from_probabilities(np.full((3, 2), 0.5))
    visits = DemonstratedVisits.of_policy(mdp, policy)
    expert = np.einsum("tsa,sak->k", visits.pairs, features)
    with jax.enable_x64(True):
        at = _problem_of(mdp, features, visits, implementation["objective"], tilt_start="tilt_start" in implementation)
        (value, _), slope = at(weights)
    close(-slope.weights, expert - expected, 1e-11)
    close(value, world.log_evidence(1.0) - expert @ weights, 1e-11)


def null_space_of(rows):
    _, sizes, directions = np.linalg.svd(rows, full_matrices=True)
    return directions[np.sum(sizes > 1e-10 * sizes[0]) :]


def spread(instance, fitted_features, *, relative):
    """The largest first-order rise of the entropy, less `relative` the KL to the dynamics, among laws over trajectories
    with equal features and first states, at the law of the weights fitted to a uniform expert; and a rise at a
    distance."""
    mdp, _, features = small_world(instance)
    expert = TabularPolicy.from_probabilities(np.full((3, 2), 0.5))
    found = fit(mdp, DemonstratedVisits.of_policy(mdp, expert), features, objective="trajectory", **EXACT, **PLAIN)
    weights = found.reward.weights + fitted_features
    model = instance.with_rewards(lambda _, row: float(features[row[0], row[1]] @ weights))
    world = trajectories(model, "none")
    dynamics = world.log_world - np.log(instance.initial[world.states[:, 0]])
    score = dynamics + world.log_joint(1.0) - world.log_world
    p = np.zeros_like(score)
    for start in np.flatnonzero(instance.initial):
        here = world.states[:, 0] == start
        p[here] = instance.initial[start] * np.exp(score[here] - np.logaddexp.reduce(score[here]))
    gradient = -np.log(p) - 1.0 + (dynamics if relative else 0.0)
    starts = np.eye(3)[world.states[:, 0]].T
    free = null_space_of(np.concatenate([path_features(world, features).T, starts]))
    rise = free @ gradient
    uniform = np.exp(world.log_law(np.log(np.full((3, 2), 0.5))))
    return np.abs(rise).max(), p @ path_features(world, features) - uniform @ path_features(world, features)


@pytest.mark.row("S66.maximal", "S66.relative")
@pytest.mark.parametrize("kind", ["maximal", "relative"])
@against(np.zeros(3), other_weights=np.array([0.1, 0.0, 0.0]))
def test_fit_has_the_largest_entropy(implementation, kind):
    if kind == "maximal":
        instance, relative = deterministic_instance(), False
    else:  # fewer steps: the null space of all trajectories is dense
        instance, relative = plain_instance().but(horizon=2, terminal=np.zeros(3)), True
    rise, features = spread(instance, implementation, relative=relative)
    assert rise < 1e-7  # no feasible direction raises it
    assert np.abs(features).max() < 1e-8


def test_entropy_itself_is_not_largest_in_a_random_world():
    instance = plain_instance().but(horizon=2, terminal=np.zeros(3))
    rise, _ = spread(instance, np.zeros(3), relative=False)
    assert rise > 0.1


@pytest.mark.row("E1.15.causal", "E1.15.trajectory")
@against("matching", trajectory="trajectory")
def test_a_real_expert_in_a_random_world(implementation):
    """The expert is the soft-optimal policy; the trajectory likelihood misfits it, by more than a tenth."""
    mdp, _, features = small_world(plain_instance())
    visits = DemonstratedVisits.of_policy(mdp, solve(mdp, SoftValueIteration(temperature=1.0)).policy)
    found = fit(mdp, visits, features, objective=implementation, **EXACT, **PLAIN)
    close(found.reward.weights, WEIGHTS, 0.1)
    close(found.reward.weights, WEIGHTS, 1e-8)


@pytest.mark.row("E1.15.trajectory")
@pytest.mark.parametrize("objective", ["matching", "trajectory"])
def test_both_forms_are_right_where_nothing_is_random(objective):
    mdp, _, features = small_world(deterministic_instance())
    policy = solve(mdp, SoftValueIteration(temperature=1.0)).policy
    visits = DemonstratedVisits.of_policy(mdp, policy)
    found = fit(mdp, visits, features, objective=objective, **EXACT)
    close(
        found.policy.probabilities[visits.pairs.sum(axis=2) > 0.0],
        policy.probabilities[visits.pairs.sum(axis=2) > 0.0],
        1e-7,
    )


def test_changing_numbers_compiles_nothing():
    mdp, features, _, policy = linear_expert()
    visits = DemonstratedVisits.of_policy(mdp, policy)
    fit(mdp, visits, features, l2=0.1)
    with counted_compilations() as compilations:
        for l2, l1, temperature in itertools.product((0.01, 0.2), (0.0, 0.1), (0.7, 1.3)):
            fit(mdp, visits, features, l2=l2, l1=l1, temperature=temperature)
    assert compilations.count == 0


def test_temperature_is_the_scale_of_the_reward():
    mdp, features, weights, policy = linear_expert()
    found = fit(mdp, DemonstratedVisits.of_policy(mdp, policy), features, temperature=0.5, **EXACT)
    close(found.reward.weights, 0.5 * weights, 1e-8)


def test_default_family_and_likelihood_from_episodes():
    mdp, _, _, policy = linear_expert()
    episodes = sample_episodes(mdp, policy.probabilities, 200, 20, 0)
    found = infer_reward(mdp, episodes, MaxEntIRL(held_out=0.2))
    assert found.stats["objective"] == "likelihood"
    assert isinstance(found.reward, TableReward)
    assert found.reward.scope == "next-state"
    assert found.certificates["gradient_norm"] < 1e-8 * 20
    assert found.certificates["held_out_log_likelihood"] > -np.log(3.0)
    assert found.details.rank == 11  # a constant changes nothing
    again = solve(with_reward(mdp, found.reward), SoftValueIteration(temperature=1.0)).policy
    close(found.policy.probabilities, again.probabilities, 1e-10)


def test_without_actions():
    mdp, _, weights, _ = linear_expert()
    features = np.random.default_rng(3).normal(size=(12, 3))
    paying = with_reward(mdp, LinearReward(features, weights, "next-state"))
    policy = solve(paying, SoftValueIteration(temperature=1.0)).policy
    seen = sample_episodes(mdp, policy.probabilities, 4000, 20, 0)
    seen = Demonstrations(seen.observation, None, seen.valid, seen.terminated)
    found = infer_reward(mdp, seen, MaxEntIRL(l2=0.0), reward=LinearReward(features, scope="next-state"))
    assert found.stats["objective"] == "matching"
    assert found.certificates["feature_residual"] < 1e-6
    close(found.reward.weights, weights, 0.15)  # 4000 episodes leave about 0.05
    with pytest.raises(ValueError, match="cannot be told"):
        infer_reward(mdp, seen, MaxEntIRL(), reward=LinearReward(np.ones((12, 3, 2))))
    with pytest.raises(ValueError, match="needs actions"):
        infer_reward(mdp, seen, MaxEntIRL(objective="likelihood"))


def test_features_that_do_not_identify_the_reward():
    mdp, features, weights, policy = linear_expert()
    doubled = np.concatenate([features, features[..., :1]], axis=-1)
    found = fit(mdp, DemonstratedVisits.of_policy(mdp, policy), doubled, objective="likelihood", **EXACT)
    assert found.result is Result.CONVERGED
    assert found.details.rank == 3
    assert found.reward.weights.size == 4
    close(found.reward.weights, [0.5 * weights[0], *weights[1:], 0.5 * weights[0]], 1e-7)  # the smallest of all
    close(found.details.covariance @ [1.0, 0.0, 0.0, -1.0], np.zeros(4), 1e-10)


def test_float32():
    mdp, features, weights, policy = linear_expert()
    visits = DemonstratedVisits.of_policy(mdp, policy)
    found = infer_reward(mdp, visits, MaxEntIRL(l2=0.0), reward=LinearReward(features), dtype=np.float32)
    assert found.reward.weights.dtype == np.float32
    close(found.reward.weights, weights, 1e-3)


def test_an_expert_who_never_errs_and_a_limit():
    mdp = linear_expert()[0]
    best = TabularPolicy.from_probabilities(np.eye(3)[np.zeros(12, int)])
    visits = DemonstratedVisits.of_policy(mdp, best)
    family = TableReward(np.zeros((12, 3)))
    with pytest.raises(SolverError, match="finite answer"):
        infer_reward(mdp, visits, MaxEntIRL(l2=0.0, max_steps=5), reward=family)
    found = infer_reward(mdp, visits, MaxEntIRL(), reward=family)
    assert np.all(found.policy.probabilities.argmax(axis=2)[visits.pairs.sum(axis=2) > 0.1] == 0)


def test_until_termination_from_a_start_that_ends():
    mdp = random_mdp(5, 2, 3, 0.3, 1, criterion=UntilTermination())
    policy = solve(mdp, SoftValueIteration(temperature=1.0)).policy
    visits = DemonstratedVisits.of_policy(mdp, policy)
    found = infer_reward(mdp, visits, MaxEntIRL(objective="likelihood", l2=0.0), reward=TableReward(np.zeros((5, 2))))
    close(found.policy.probabilities, policy.probabilities, 1e-6)


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"temperature": -1.0}, "temperature"),
        ({"temperature": np.nan}, "temperature"),
        ({"l2": -1.0}, "l2"),
        ({"objective": "other"}, "objective"),
        ({"solver": "adam"}, "solver"),
        ({"held_out": 1.0}, "held_out"),
        ({"max_steps": 0}, "max_steps"),
        ({"tilt_start": True}, "tilt_start"),
    ],
)
def test_hyper_parameters_at_the_door(options, match):
    with pytest.raises((ValueError, TypeError), match=match):  # jaxtyping sees names first in tests
        MaxEntIRL(**options)


def test_more_at_the_door():
    mdp, features, _, policy = linear_expert(FiniteHorizon(20, 0.9))
    visits = DemonstratedVisits.of_policy(mdp, policy)
    with pytest.raises(ValueError, match="discount 1"):
        fit(mdp, visits, features, objective="trajectory")
    with pytest.raises(ValueError, match="made for"):
        infer_reward(mdp, visits, MaxEntIRL(), reward=LinearReward(features[:5]))
    with pytest.raises(ValueError, match="held_out needs episodes"):
        fit(mdp, visits, features, held_out=0.5)
    episodes = sample_episodes(mdp, policy.probabilities[:12], 10, 12, 0)
    with pytest.raises(ValueError, match="cut off after 12 steps"):
        fit(mdp, episodes, features, objective="matching")
    assert fit(mdp, episodes, features).result is Result.CONVERGED
