"""Max margin: the hull's nearest point, Abbeel and Ng's rounds, Ratliff's program; oracles are clarabel and HiGHS."""

import dataclasses
import functools
import itertools

import clarabel
import jax
import numpy as np
import pytest
import scipy.sparse as sparse
from scipy.optimize import linprog

from clauses import against
from instances import close
from optimality import (
    ApprenticeshipLearning,
    DemonstratedVisits,
    Discounted,
    FiniteHorizon,
    LinearReward,
    MaximumMarginPlanning,
    Result,
    SolverError,
    TabularPolicy,
    ValueIteration,
    infer_reward,
    random_mdp,
    solve,
)
from optimality.inverse.best_response import Planner
from optimality.inverse.feature_map import feature_map, identifiable
from optimality.inverse.largest_margin import largest_margin
from optimality.inverse.maximum_margin_planning import hamming_loss
from optimality.inverse.minimum_norm_point import least_vector, minimum_norm_point
from optimality.inverse.simplex_program import simplex_program
from optimality.sampling.demonstrations import Demonstrations
from optimality.sampling.mixture_policy import MixturePolicy

S, A, K = 5, 3, 4
GAMMA = 0.9


@functools.cache
def mdp(seed=0, criterion=None):
    return random_mdp(S, A, 3, seed=seed, criterion=criterion or Discounted(GAMMA))


def features(seed=0, size=K):
    return np.random.default_rng(100 + seed).normal(size=(S, A, size))


def dense(problem):
    """`[S, A, S]`, by the outcomes one by one."""
    table, outcomes = np.zeros((S, A, S)), problem.outcomes()
    for s, a, t, p in zip(outcomes.state, outcomes.action, outcomes.successor, outcomes.probability, strict=True):
        table[s, a, t] += p
    return table


def occupancy(problem, table):
    """Dense linear algebra, per step; probabilities `[S, A]`."""
    chain = np.einsum("sa,sat->st", table, dense(problem))
    states = np.linalg.solve(np.eye(S) - GAMMA * chain.T, np.asarray(problem.initial)) * (1 - GAMMA)
    return states[:, None] * table


@functools.cache
def every_policy(seed=0):
    """Occupancies per step of all deterministic policies, `[A^S, S, A]`."""
    problem = mdp(seed)
    return np.stack([occupancy(problem, np.eye(A)[list(c)]) for c in itertools.product(range(A), repeat=S)])


def optimal(weights, seed=0):
    reward = features(seed) @ weights
    return every_policy(seed)[np.argmax(np.einsum("nsa,sa->n", every_policy(seed), reward))]


def visits(pairs, problem):
    return DemonstratedVisits(pairs / (1 - GAMMA), np.asarray(problem.initial), 1)


def cone_program(quadratic, linear, rows, heights, cones):
    settings = clarabel.DefaultSettings()
    settings.verbose, settings.tol_gap_abs, settings.tol_gap_rel, settings.tol_feas = False, 1e-12, 1e-12, 1e-12
    solved = clarabel.DefaultSolver(
        sparse.csc_matrix(quadratic), linear, sparse.csc_matrix(rows), heights, cones, settings
    ).solve()
    return np.asarray(solved.x), np.asarray(solved.z), solved


def margin_by_cone_program(differences):
    """`max t: D w >= t, |w| <= 1`, by clarabel."""
    rows, k = differences.shape
    lead = np.hstack([-differences, np.ones((rows, 1))])
    ball = np.vstack([np.zeros((1, k + 1)), np.hstack([-np.eye(k), np.zeros((k, 1))])])
    heights = np.concatenate([np.zeros(rows), [1.0], np.zeros(k)])
    cones = [clarabel.NonnegativeConeT(rows), clarabel.SecondOrderConeT(k + 1)]
    x, z, _ = cone_program(
        np.zeros((k + 1, k + 1)), np.append(np.zeros(k), -1.0), np.vstack([lead, ball]), heights, cones
    )
    return x[-1], x[:-1], z[:rows]


def unnormalized(points):
    found = minimum_norm_point(points)
    return found._replace(point=found.point * 1.01)


def nearest_vertex(points):
    best = int(np.argmin(np.linalg.norm(points, axis=1)))
    return minimum_norm_point(points)._replace(point=points[best], mixture=np.eye(len(points))[best])


@pytest.mark.parametrize(("count", "size"), [(3, 5), (12, 4), (40, 8)])
@against(minimum_norm_point, unnormalized=unnormalized, vertex=nearest_vertex)
def test_the_nearest_point_of_a_hull_is_that_of_a_quadratic_program(implementation, count, size):
    points = np.random.default_rng(count).normal(size=(count, size)) + 0.7
    found = implementation(points)
    rows = np.vstack([np.ones((1, count)), -np.eye(count)])
    cones = [clarabel.ZeroConeT(1), clarabel.NonnegativeConeT(count)]
    x, _, _ = cone_program(np.triu(points @ points.T), np.zeros(count), rows, np.append(1.0, np.zeros(count)), cones)
    close(found.point, x @ points, 1e-7)
    close(found.mixture @ points, found.point)
    assert found.mixture.min() >= 0.0
    assert abs(found.mixture.sum() - 1.0) < 1e-14
    assert abs(found.gap) < 1e-12


def test_a_hull_around_the_origin_has_distance_zero():
    points = np.vstack([np.eye(3), -np.eye(3)])
    assert np.abs(minimum_norm_point(points).point).max() < 1e-15


@pytest.mark.parametrize("l2", [1e-3, 0.1, 10.0])
def test_the_simplex_program_is_clarabels(l2):
    random = np.random.default_rng(0)
    slopes = np.vstack([random.normal(size=(12, 4)), random.normal(size=(3, 4)), np.zeros((1, 4))])
    slopes[13] = slopes[12]  # parallel cuts of different height, where nothing curves
    heights = random.random(16)
    found = simplex_program(slopes, heights, l2)
    rows = np.vstack([np.ones((1, 16)), -np.eye(16)])
    cones = [clarabel.ZeroConeT(1), clarabel.NonnegativeConeT(16)]
    x, _, _ = cone_program(np.triu(slopes @ slopes.T / l2), -heights, rows, np.append(1.0, np.zeros(16)), cones)
    close(found.value, heights @ x - np.sum((x @ slopes) ** 2) / (2 * l2), 1e-8)
    primal = l2 / 2 * found.weights @ found.weights + np.max(slopes @ found.weights + heights)
    assert primal - found.value < 1e-10 * (1.0 + abs(primal))


def test_least_vector_satisfies_its_conditions_or_proves_that_nothing_does():
    random = np.random.default_rng(1)
    directions, heights = random.normal(size=(6, 4)) + 1.0, random.random(6)
    found = least_vector(directions, heights)
    assert (directions @ found.vector - heights).min() > -1e-12
    close(found.multipliers @ directions, found.vector)
    assert np.abs(found.multipliers * (directions @ found.vector - heights)).max() < 1e-12
    against_each_other = least_vector(np.array([[1.0, 0.0], [-2.0, 0.0]]), np.array([1.0, 1.0]))
    assert against_each_other.vector is None
    assert np.abs(against_each_other.multipliers @ np.array([[1.0, 0.0], [-2.0, 0.0]])).max() < 1e-10
    assert abs(against_each_other.multipliers.sum() - 1.0) < 1e-10


@pytest.mark.parametrize("criterion", [Discounted(GAMMA), FiniteHorizon(6, 0.95)], ids=["discounted", "horizon"])
@pytest.mark.parametrize("termination", [0.0, 0.2])
def test_best_responses_are_those_of_value_iteration(criterion, termination):
    problem = random_mdp(12, 3, 4, termination, 1, criterion=criterion)
    planner = Planner(problem)
    for seed in range(3):
        reward = np.random.default_rng(seed).normal(size=(12, 3))
        response = planner.respond(reward)
        exact = solve(
            random_mdp(12, 3, 4, termination, 1, criterion=criterion).__class__(
                problem.model, reward, problem.initial, problem.criterion, problem.allowed
            ),
            ValueIteration(),
        )
        first = exact.value[0] if exact.value.ndim == 2 else exact.value
        close(response.value, first, 1e-10)
        of_policy = DemonstratedVisits.of_policy(problem, response.policy)
        close(response.visits, of_policy.pairs, 1e-10)
        close(np.sum(response.pairs * reward), planner.initial @ first, 1e-10)


def test_systems_too_wide_for_factors_are_iterated():
    planner = Planner(mdp())
    reward = features()[..., 0]
    direct = planner.respond(reward)
    planner.direct = False
    iterated = planner.respond(reward)
    close(iterated.value, direct.value, 1e-11)
    close(iterated.visits, direct.visits, 1e-11)


# --- S58, S60: rewards linear in features, the largest margin -------------------------------------------------------


@pytest.mark.row("S58")
@against(
    lambda reward, problem: reward.table(problem),
    transposed=lambda reward, problem: reward.features[..., ::-1] @ reward.weights,
    unweighted=lambda reward, problem: reward.features.sum(axis=-1),
)
def test_a_linear_reward_is_the_inner_product(implementation):
    weights = np.arange(1.0, K + 1.0)
    table = np.asarray(implementation(LinearReward(features(), weights), mdp()), np.float64)
    by_hand = [[sum(features()[s, a, i] * weights[i] for i in range(K)) for a in range(A)] for s in range(S)]
    close(table, np.array(by_hand), 1e-6)


def rivals_and_expert(excluded=True, seed=0):
    weights = np.array([1.0, -0.5, 0.3, 0.8])
    expert = optimal(weights, seed)
    others = [d for d in every_policy(seed) if not excluded or np.abs(d - expert).max() > 1e-12]
    mu = np.einsum("nsa,sak->nk", np.stack(others), features(seed))
    return np.einsum("sa,sak->k", expert, features(seed)), mu


def without_bound(expert, rivals):
    found = largest_margin(expert, rivals)
    return found._replace(margin=2 * found.margin, weights=2 * found.weights)


def mean_margin(expert, rivals):
    difference = expert - rivals.mean(axis=0)
    return largest_margin(expert, rivals)._replace(
        margin=float(np.linalg.norm(difference)), weights=difference / np.linalg.norm(difference)
    )


@pytest.mark.row("S60.program", "S60.expert_excluded")
@against(largest_margin, unbounded=without_bound, mean=mean_margin)
def test_the_largest_margin_solves_its_program(implementation):
    expert, rivals = rivals_and_expert()
    found = implementation(expert, rivals)
    margin, weights, _ = margin_by_cone_program(expert - rivals)
    assert margin > 1e-3
    close(found.margin, margin, 1e-8)
    close(found.weights, weights, 1e-6)
    close(found.margin, np.linalg.norm(expert - found.mixture @ rivals), 1e-12)
    assert np.linalg.norm(found.weights) <= 1.0 + 1e-12
    lead = (expert - rivals) @ found.weights
    assert np.abs(found.mixture * (lead - found.margin)).max() < 1e-10
    assert lead.min() >= found.margin - 1e-10


@pytest.mark.row("S60.program", "S60.norm", "S60.expert_excluded")
@pytest.mark.parametrize("norm", ["1", "inf"])
def test_other_norms_are_linear_programs_with_dual_distances(norm):
    expert, rivals = rivals_and_expert()
    found = largest_margin(expert, rivals, norm)
    assert np.linalg.norm(found.weights, ord=1 if norm == "1" else np.inf) <= 1.0 + 1e-9
    close(((expert - rivals) @ found.weights).min(), found.margin, 1e-9)
    distance = np.linalg.norm(expert - found.mixture @ rivals, ord=np.inf if norm == "1" else 1)
    close(distance, found.margin, 1e-9)


@pytest.mark.row("S60.norm")
def test_without_a_bound_the_margin_has_none():
    expert, rivals = rivals_and_expert()
    lead = np.hstack([rivals - expert, np.ones((len(rivals), 1))])
    free = [(None, None)] * (K + 1)
    assert linprog(np.append(np.zeros(K), -1.0), lead, np.zeros(len(rivals)), bounds=free).status == 3
    bounded = [(-1.0, 1.0)] * K + [(None, None)]
    boxed = linprog(np.append(np.zeros(K), -1.0), lead, np.zeros(len(rivals)), bounds=bounded)
    close(-boxed.fun, largest_margin(expert, rivals, "inf").margin, 1e-9)
    with pytest.raises(ValueError, match="margin is unbounded"):
        largest_margin(expert, rivals, "none")


@pytest.mark.row("S60.expert_excluded")
@pytest.mark.parametrize("norm", ["2", "1", "inf"])
def test_with_the_expert_among_its_rivals_the_margin_is_zero(norm):
    expert, rivals = rivals_and_expert(excluded=False)
    assert largest_margin(expert, rivals, norm).margin < 1e-9


# --- S59, F1: apprenticeship ----------------------------------------------------------------------------------------


def stochastic_expert(seed=0):
    return np.random.default_rng(seed).dirichlet(np.ones(A), S)


@functools.cache
def learned(variant="max-margin", norm="2", tolerance=1e-10, seed=0, steps=300):
    problem = mdp(seed)
    expert = DemonstratedVisits.of_policy(problem, TabularPolicy.from_probabilities(stochastic_expert(seed)))
    method = ApprenticeshipLearning(variant=variant, norm=norm, tolerance=tolerance, max_steps=steps)
    return infer_reward(problem, expert, method, reward=LinearReward(features(seed)), throw=False)


@pytest.mark.row("S59")
@pytest.mark.parametrize("norm", ["2", "1", "inf"])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_mixture_and_its_one_table_have_the_experts_features(norm, seed):
    solution = learned(norm=norm, seed=seed)
    assert solution.result == Result.CONVERGED
    expert = np.einsum("sa,sak->k", occupancy(mdp(seed), stochastic_expert(seed)), features(seed))
    close(solution.details.expert, expert, 1e-10)
    close(solution.details.mixture @ solution.details.expectations, expert, 1e-8)
    table = occupancy(mdp(seed), np.asarray(solution.details.markov.probabilities))
    close(np.einsum("sa,sak->k", table, features(seed)), expert, 1e-8)
    mixed = sum(
        weight * occupancy(mdp(seed), np.exp(component))
        for weight, component in zip(
            np.exp(solution.policy.log_weights), solution.policy.log_probabilities, strict=True
        )
    )
    close(mixed, table, 1e-10)


def test_margins_fall_and_equal_distances_and_bound_every_return():
    details = learned().details
    assert np.all(np.diff(details.margins) <= 1e-12)
    for i, margin in enumerate(details.margins[:-1]):
        seen = details.expectations[: i + 1]
        by_cone, weights, _ = margin_by_cone_program(details.expert - seen)
        if margin > 1e-4:
            close(margin, by_cone, 1e-8)
            close(details.weights[i], weights, 1e-5)
    rough = learned(tolerance=0.05)
    mixture = rough.details.mixture @ rough.details.expectations
    directions = np.random.default_rng(0).normal(size=(200, K))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    assert np.abs(directions @ (rough.details.expert - mixture)).max() <= rough.certificates["margin"] + 1e-12


def whole_step(before, newest, expert):
    return float(np.linalg.norm(expert - newest))


def to_the_segment(before, newest, expert):
    line = newest - before
    step = np.clip(line @ (expert - before) / (line @ line), 0.0, 1.0)
    return float(np.linalg.norm(expert - before - step * line))


@against(to_the_segment, whole_step=whole_step)
def test_projection_moves_to_the_nearest_point_of_the_segment(implementation):
    details = learned("projection", steps=60, tolerance=1e-3).details
    point = details.expectations[0]
    for i, margin in enumerate(details.margins[1:]):
        newest = details.expectations[i + 1]
        close(implementation(point, newest, details.expert), margin, 1e-10)
        step = np.clip((newest - point) @ (details.expert - point) / np.sum((newest - point) ** 2), 0.0, 1.0)
        point = point + step * (newest - point)
        assert margin >= largest_margin(details.expert, details.expectations[: i + 2]).margin - 1e-10


def test_an_expert_out_of_reach_is_told_by_its_certificate():
    problem = mdp()
    pairs = np.zeros((S, A))
    pairs[0, 0] = 1.0
    solution = infer_reward(
        problem, visits(pairs, problem), ApprenticeshipLearning(tolerance=1e-6), reward=LinearReward(features())
    )
    hull = np.einsum("nsa,sak->nk", every_policy(), features())
    distance = largest_margin(np.einsum("sa,sak->k", pairs, features()), hull).margin
    assert distance > 0.01
    close(solution.certificates["margin"], distance, 1e-8)
    close(solution.certificates["attainable_distance"], distance, 1e-8)


def test_finite_horizons_and_entered_states_are_matched_too():
    problem = random_mdp(S, A, 3, 0.1, criterion=FiniteHorizon(5))
    table = TabularPolicy.from_probabilities(np.random.default_rng(0).dirichlet(np.ones(A), (5, S)))
    expert = DemonstratedVisits.of_policy(problem, table)
    solution = infer_reward(problem, expert, ApprenticeshipLearning(tolerance=1e-9))
    assert solution.certificates["distance"] < 1e-9
    again = DemonstratedVisits.of_policy(problem, solution.details.markov)
    known = feature_map(problem, solution.reward)
    close(known.total(again.pairs.sum(axis=0)), known.total(expert.pairs.sum(axis=0)), 1e-8)


# --- S61, F2, F3: maximum margin planning ---------------------------------------------------------------------------


def full_program(problem, known, expert, loss, l2):
    """The whole quadratic program with Bellman variables, by clarabel: `w, V, slack`, per step."""
    move, initial = dense(problem), np.asarray(problem.initial)
    size = K + S + 1
    quadratic = np.zeros((size, size))
    quadratic[:K, :K] = l2 * np.eye(K)
    linear = np.append(np.zeros(K + S), 1.0)
    rows, heights = [], []
    for s in range(S):
        for a in range(A):
            row = np.zeros(size)
            row[:K] = known[s, a]
            row[K : K + S] = GAMMA * move[s, a]
            row[K + s] -= 1.0
            rows.append(row)
            heights.append(-loss[s, a])
    rows.append(np.concatenate([-expert, (1 - GAMMA) * initial, [-1.0]]))  # (1 - gamma) V(initial) - w mu_E <= slack
    rows.append(-np.eye(size)[-1])
    heights += [0.0, 0.0]
    x, _, solved = cone_program(
        quadratic, linear, np.array(rows), np.array(heights), [clarabel.NonnegativeConeT(len(rows))]
    )
    return x[:K], x[-1], solved.obj_val


def cutting_planes(seen, l2, problem):
    solution = infer_reward(
        problem, seen, MaximumMarginPlanning(l2=l2, tolerance=1e-10), reward=LinearReward(features())
    )
    return solution


def without_loss(seen, l2, problem):
    method = MaximumMarginPlanning(l2=l2, tolerance=1e-10, loss="none")
    return infer_reward(problem, seen, method, reward=LinearReward(features()))


def doubled_penalty(seen, l2, problem):
    return cutting_planes(seen, 2 * l2, problem)


@pytest.mark.row("S61.optimality", "S61.slack")
@pytest.mark.parametrize("kind", ["optimal", "stochastic"])
@pytest.mark.parametrize("l2", [1e-2, 0.3])
@against(cutting_planes, no_loss=without_loss, doubled=doubled_penalty)
def test_cutting_planes_solve_the_full_program(implementation, kind, l2):
    problem = mdp()
    pairs = optimal(np.array([1.0, -0.5, 0.3, 0.8])) if kind == "optimal" else occupancy(problem, stochastic_expert())
    if kind == "stochastic":
        pairs[pairs < 0.02] = 0.0  # leaves pairs that the expert never takes
    seen = visits(pairs, problem)
    solution = implementation(seen, l2, problem)
    expert = np.einsum("sa,sak->k", pairs, features())
    weights, slack, value = full_program(problem, features(), expert, hamming_loss(seen), l2)
    close(solution.details.objective, value, 1e-7)
    close(solution.reward.weights, weights, 1e-5)
    close(solution.details.slack, slack, 1e-6)
    assert solution.details.slack >= 0.0
    assert solution.certificates["gap"] <= 1e-9
    for condition in ("stationarity", "complementarity", "infeasibility", "negative_multiplier", "multiplier_sum"):
        assert solution.certificates[condition] < 1e-6, condition


def test_the_subgradient_is_that_of_finite_differences():
    problem, l2 = mdp(), 0.1
    seen = visits(optimal(np.array([1.0, -0.5, 0.3, 0.8])), problem)
    loss = hamming_loss(seen)
    expert = np.einsum("sa,sak->k", seen.pairs * (1 - GAMMA), features())

    def leads(w):
        return np.einsum("nsa,sa->n", every_policy(), features() @ w + loss) - expert @ w

    weights = np.random.default_rng(3).normal(size=K)
    planner = Planner(problem)
    response = planner.respond(features() @ weights + loss)
    slope = l2 * weights + np.einsum("sa,sak->k", response.pairs / planner.steps, features()) - expert
    step = 1e-6
    for i, direction in enumerate(np.eye(K)):
        ahead, behind = (
            l2 / 2 * np.sum((weights + sign * step * direction) ** 2) + leads(weights + sign * step * direction).max()
            for sign in (1, -1)
        )
        close((ahead - behind) / (2 * step), slope[i], 1e-8)


@pytest.mark.row("S57", "S61.expert")
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_an_optimal_expert_is_best_under_the_learned_weights(seed):
    problem = mdp(seed)
    true = np.random.default_rng(seed).normal(size=K)
    pairs = optimal(true, seed)
    hinges = []
    for l2 in (1e-1, 1e-3, 1e-6):
        solution = infer_reward(
            problem, visits(pairs, problem), MaximumMarginPlanning(l2=l2), reward=LinearReward(features(seed))
        )
        hinges.append(solution.details.slack)
    assert hinges[-1] < 1e-6
    returns = np.einsum("nsa,sa->n", every_policy(seed), features(seed) @ solution.reward.weights)
    expert = np.sum(pairs * (features(seed) @ solution.reward.weights))
    assert returns.max() <= expert + 1e-9
    hard = infer_reward(
        problem, visits(pairs, problem), MaximumMarginPlanning(slack=False), reward=LinearReward(features(seed))
    )
    lead = np.sum(pairs * (features(seed) @ hard.reward.weights)) - np.einsum(
        "nsa,sa->n", every_policy(seed), features(seed) @ hard.reward.weights
    )
    margin = np.einsum("nsa,sa->n", every_policy(seed), hamming_loss(visits(pairs, problem)))
    assert (lead - margin).min() > -1e-7
    close(occupancy(problem, np.asarray(hard.policy.probabilities)), pairs, 1e-10)
    assert np.abs(hard.details.multipliers @ hard.details.slopes + 1e-2 * hard.reward.weights).max() < 1e-8


@pytest.mark.row("S61.infeasible")
def test_a_stochastic_expert_needs_slack():
    problem = mdp()
    first, second = optimal(np.array([1.0, -0.5, 0.3, 0.8])), optimal(np.array([-1.0, 0.5, 0.3, 0.1]))
    seen = visits((first + second) / 2, problem)
    loss = 0.1 * np.ones((S, A))  # some loss at every step: then no policy may equal the expert
    expert = np.einsum("sa,sak->k", (first + second) / 2, features())
    rivals = np.einsum("nsa,sak->nk", every_policy(), features())
    assert linprog(np.zeros(K), rivals - expert, -0.1 * np.ones(len(rivals)), bounds=[(None, None)] * K).status == 2
    hard = MaximumMarginPlanning(slack=False).infer_with_loss(problem, seen, LinearReward(features()), loss)
    assert hard.result == Result.INFEASIBLE
    multipliers = hard.details.multipliers
    assert multipliers.min() >= 0.0
    assert np.abs(multipliers @ hard.details.slopes).max() < 1e-8
    soft = MaximumMarginPlanning().infer_with_loss(problem, seen, LinearReward(features()), loss)
    assert soft.result == Result.CONVERGED
    assert soft.details.slack >= 0.1 - 1e-8


def test_refusals_explain_themselves():
    problem = mdp()
    uniform = DemonstratedVisits.of_policy(problem, TabularPolicy.from_probabilities(np.full((S, A), 1 / A)))
    with pytest.raises(ValueError, match="norm must be one of"):
        largest_margin(np.zeros(2), np.zeros((1, 2)), "3")
    with pytest.raises(ValueError, match="projection is Euclidean"):
        ApprenticeshipLearning(variant="projection", norm="1")
    with pytest.raises(ValueError, match="l2 of MaximumMarginPlanning must be above 0"):
        MaximumMarginPlanning(l2=0.0)
    with pytest.raises(ValueError, match="same feature expectations"):
        infer_reward(problem, uniform, ApprenticeshipLearning(), reward=LinearReward(np.ones((S, 2))))
    with pytest.raises(ValueError, match="same feature expectations"):
        infer_reward(problem, uniform, MaximumMarginPlanning(), reward=LinearReward(np.ones((S, 2))))
    with pytest.raises(ValueError, match="finite"):
        infer_reward(problem, uniform._replace(pairs=np.nan * uniform.pairs), ApprenticeshipLearning())
    with pytest.raises(ValueError, match="for this problem"):
        infer_reward(problem, uniform, ApprenticeshipLearning(), reward=LinearReward(np.ones((S + 1, 2))))
    with pytest.raises(ValueError, match="finite"):
        minimum_norm_point(np.array([[np.nan]]))
    with pytest.raises(SolverError, match="iteration limit"):
        infer_reward(
            problem, uniform, ApprenticeshipLearning(tolerance=1e-12, max_steps=1), reward=LinearReward(features())
        )


def test_rank_counts_what_behavior_can_show():
    problem = mdp()
    base = features(size=2)
    potential = np.random.default_rng(5).normal(size=S)
    shaping = GAMMA * dense(problem) @ potential - potential[:, None]
    hidden = np.stack([base[..., 0], base[..., 1], shaping, np.ones((S, A))], axis=-1)
    found = identifiable(Planner(problem), feature_map(problem, LinearReward(hidden)))
    assert found.rank == 2
    assert np.abs(found.hidden[:, :2]).max() < 1e-9
    assert np.linalg.matrix_rank(found.hidden) == 2


def test_demonstrations_are_counted_with_or_without_actions():
    problem = mdp()
    outcomes = problem.outcomes()
    pair = [int(np.flatnonzero((outcomes.state == s) & (outcomes.action == 0))[0]) for s in range(S)]
    path = [0]
    for _ in range(4):
        path.append(int(outcomes.successor[pair[path[-1]]]))
    seen = Demonstrations(np.array([path]), np.zeros((1, 4), int), np.ones((1, 4), bool), np.array([False]))
    reward = LinearReward(np.random.default_rng(0).normal(size=(S, 2)))
    blind = dataclasses.replace(seen, action=None)
    both = [infer_reward(problem, data, ApprenticeshipLearning(), reward=reward) for data in (seen, blind)]
    by_hand = sum(GAMMA**t * reward.features[s] for t, s in enumerate(path[:-1])) * (1 - GAMMA)
    for solution in both:
        close(solution.details.expert, by_hand)
    close(both[0].stats["cut_off"], GAMMA**4)
    with pytest.raises(ValueError, match="need demonstrations with actions"):
        infer_reward(problem, blind, ApprenticeshipLearning(), reward=LinearReward(features()))
    with pytest.raises(ValueError, match="loss='none'"):
        infer_reward(problem, blind, MaximumMarginPlanning(), reward=reward)
    empty = Demonstrations(np.zeros((0, 1), int), np.zeros((0, 0), int), np.zeros((0, 0), bool), np.zeros(0, bool))
    with pytest.raises(ValueError, match="at least one episode"):
        infer_reward(problem, empty, ApprenticeshipLearning())


def test_a_mixture_keeps_the_policy_it_drew():
    tables = np.log(np.array([[[0.999, 0.001]], [[0.001, 0.999]]]))
    mixture = MixturePolicy(np.log(np.array([0.25, 0.75])), tables)
    drawn = []
    for seed in range(200):
        carry = mixture.start(0, jax.random.key(seed))
        first = int(carry[0])
        for step in range(3):
            carry, _, extras = mixture.act(carry, jax.numpy.asarray(0), jax.random.key(step))
            assert int(carry[0]) == first
            assert extras["log_prob"].shape == ()
        drawn.append(first)
    assert abs(np.mean(drawn) - 0.75) < 4 * np.sqrt(0.25 * 0.75 / 200)
    with pytest.raises(ValueError, match="sum to one"):
        MixturePolicy(np.log(np.array([0.25, 0.25])), tables)
