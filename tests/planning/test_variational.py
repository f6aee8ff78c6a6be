"""The restricted posterior, its bound and the soft-optimal recursion, against enumeration."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from clauses import against
from enumeration import backward, exact_messages, logsumexp, plain_instance, random_instance, trajectories
from instances import close, evaluate, problem, solution
from optimality import (
    ExactInference,
    PolicyEvaluation,
    SoftValueIteration,
    TabularPolicy,
    UnderPolicy,
    VariationalInference,
    optimism,
    solve,
)

TAU = 0.7
WHOLE, ENDING = random_instance(), random_instance(0.8)
INSTANCES = pytest.mark.parametrize("instance", [WHOLE, ENDING], ids=["whole", "discounted"])
EXACT = ExactInference(temperature=TAU, prior="problem")
RESTRICTED = VariationalInference(temperature=TAU, prior="problem")


@functools.cache
def some_policy(instance, seed=0):
    weights = np.random.default_rng(seed).dirichlet(np.ones(2), size=(4, 3)) * instance.allowed
    with np.errstate(divide="ignore"):
        return np.log(weights / weights.sum(axis=-1, keepdims=True))


def objective(instance, log_policy, prior="problem", temperature=TAU):
    """The ELBO by the library: the evaluated policy's first value."""
    value = evaluate(problem(instance), log_policy, temperature=temperature, prior=prior).value
    return float(instance.initial @ value[0]) / temperature


def restricted_policy(instance):
    return solution(instance, RESTRICTED).policy.log_probabilities


@INSTANCES
@pytest.mark.row("S49")
@against(
    lambda instance: evaluate(problem(instance), restricted_policy(instance)).details.occupancy,
    posterior_dynamics=lambda instance: solution(instance, EXACT).details.smoothed_pairs,
    other_policy=lambda instance: evaluate(problem(instance), some_policy(instance)).details.occupancy,
)
def test_restricted_law_is_that_of_running_its_policy(implementation, instance):
    world, log_policy = trajectories(instance), restricted_policy(instance)
    log_law = world.log_law(log_policy)
    close(np.exp(log_law).sum(), 1.0)
    close(implementation(instance), world.pairs_under(log_law))
    # whatever the free action probabilities are, first state and dynamics are the true ones
    close(log_law - world._log_actions(log_policy), world.log_world)


def gradient_of_elbo(instance, log_policy):
    """By the logits of the policy at each step, through `solve`."""
    mdp = problem(instance)
    inside = np.broadcast_to(instance.allowed, log_policy.shape)

    def elbo(logits):
        table = jax.nn.log_softmax(jnp.where(inside, logits, -jnp.inf), axis=-1)
        method = PolicyEvaluation(temperature=TAU, prior="problem")
        return jnp.asarray(instance.initial) @ solve(UnderPolicy(mdp, TabularPolicy(table)), method).value[0]

    with jax.enable_x64(True):
        return np.asarray(jax.jit(jax.grad(elbo))(jnp.asarray(np.where(inside, log_policy, 0.0))))


@pytest.mark.row("S50.stationarity")
@against(
    restricted_policy,
    exact_inference=lambda instance: solution(instance, EXACT).policy.log_probabilities,
    warmer=lambda instance: backward(instance, 2 * TAU, neutral=True)[2],
    prior_forgotten=lambda instance: backward(instance, TAU, "none", neutral=True)[2],
)
def test_gradient_of_the_elbo_vanishes(implementation):
    assert np.abs(gradient_of_elbo(WHOLE, implementation(WHOLE))).max() < 1e-12


@INSTANCES
@pytest.mark.row("S50.elbo")
@against(
    lambda instance: solution(instance, RESTRICTED).details.elbo,
    evidence=lambda instance: solution(instance, EXACT).details.log_evidence,
    in_reward_units=lambda instance: TAU * solution(instance, RESTRICTED).details.elbo,
    return_only=lambda instance: trajectories(instance).expected_return(restricted_policy(instance)) / TAU,
)
def test_elbo_is_the_expected_first_value(implementation, instance):
    elbo = implementation(instance)
    close(elbo, trajectories(instance).elbo(restricted_policy(instance), TAU))
    close(elbo, instance.initial @ solution(instance, RESTRICTED).value[0] / TAU)
    close(solution(instance, RESTRICTED).value, backward(instance, TAU, neutral=True)[0])


def bound_and_evidence(prior, evidence_prior):
    def run(instance):
        restricted = solution(instance, VariationalInference(temperature=TAU, prior=prior))
        exact = solution(instance, ExactInference(temperature=TAU, prior=evidence_prior))
        return restricted.details.elbo, exact.details.log_evidence

    return run


def bounded(implementation, instance):
    elbo, evidence = implementation(instance)
    assert elbo < evidence - 1e-3
    close(evidence - elbo, trajectories(instance).gap(restricted_policy(instance), TAU))
    policies = [some_policy(instance, seed) for seed in range(5)]
    assert max(objective(instance, table) for table in policies) < evidence


@pytest.mark.row("S50.bound")
@against(bound_and_evidence("problem", "problem"), entropy_elbo=bound_and_evidence("none", "problem"))
def test_bound_kl_form(implementation):
    bounded(implementation, WHOLE)


@pytest.mark.row("S50.bound")
@against(bound_and_evidence("none", "none"), kl_evidence=bound_and_evidence("none", "uniform"))
def test_bound_entropy_form(implementation):
    elbo, evidence = implementation(plain_instance())
    assert elbo < evidence - 1e-3
    close(evidence, trajectories(plain_instance(), "none").log_evidence(TAU))


@INSTANCES
@pytest.mark.row("S56.bound")
@against(
    objective,
    entropy_form=lambda instance, table: objective(instance, table, "none"),
    half_the_temperature=lambda instance, table: objective(instance, table, temperature=TAU / 2),
)
def test_control_elbo_is_a_bound_for_every_policy(implementation, instance):
    for seed in range(3):
        table = some_policy(instance, seed)
        found = implementation(instance, table)
        assert found <= trajectories(instance).log_evidence(TAU)
        close(found, trajectories(instance).elbo(table, TAU))


@INSTANCES
@pytest.mark.row("S56.gap")
@against(
    lambda instance, table: solution(instance, EXACT).details.log_evidence - objective(instance, table),
    entropy_form=lambda instance, table: (
        solution(instance, EXACT).details.log_evidence - objective(instance, table, "none")
    ),
    zero=lambda instance, table: 0.0,
)
def test_gap_is_the_kl_to_the_posterior(implementation, instance):
    for seed in range(3):
        close(
            implementation(instance, some_policy(instance, seed)),
            trajectories(instance).gap(some_policy(instance, seed), TAU),
        )


@INSTANCES
def test_gap_of_the_solution(instance):
    details = solution(instance, RESTRICTED).details
    close(details.gap, trajectories(instance).gap(restricted_policy(instance), TAU))
    close(details.log_evidence, trajectories(instance).log_evidence(TAU))
    close(details.gap, details.log_evidence - details.elbo)


@INSTANCES
@pytest.mark.row("S147")
@against(
    objective,
    entropy_form=lambda instance, table: objective(instance, table, "none"),
    added_kl=lambda instance, table: (
        trajectories(instance).expected_return(table) / TAU + trajectories(instance).expected_kl(table)
    ),
)
def test_control_elbo_in_its_second_derivation(implementation, instance):
    """`E_q log p(O | trajectory) - KL(q(trajectory) || p(trajectory))`, first states and outcomes included."""
    world, table = trajectories(instance), some_policy(instance)
    log_law, log_prior = world.log_law(table), world.log_world + world.log_base
    inside = np.isfinite(log_law)
    law = np.exp(log_law[inside])
    second = law @ world.returns[inside] / TAU - law @ (log_law - log_prior)[inside]
    close(implementation(instance, table), second)


def last_step(prior="none", **mistakes):
    def run(instance):
        if mistakes:
            value, _, log_policy = backward(instance, 1.0, prior, **mistakes)
            return value[-2], np.exp(log_policy[-1])
        found = solution(instance, SoftValueIteration(temperature=1.0, prior=prior))
        return found.value[-2], found.policy.probabilities[-1]

    return run


@pytest.mark.row("S148.last_step")
@against(
    last_step(),
    maximum=last_step(neutral=True, hard=True),
    first_step=lambda instance: (
        None,
        solution(instance, SoftValueIteration(temperature=1.0)).policy.probabilities[0],
    ),
    with_prior=last_step("problem"),
)
def test_best_last_step(implementation):
    reward = plain_instance().mean_rewards()
    close(implementation(plain_instance())[1], np.exp(reward) / np.exp(reward).sum(axis=1, keepdims=True))


@pytest.mark.row("S148.value")
@against(last_step(), maximum=last_step(neutral=True, hard=True), kl_form=last_step("uniform"))
def test_value_of_the_last_step(implementation):
    close(implementation(plain_instance())[0], logsumexp(plain_instance().mean_rewards(), axis=1))


def last_objective(instance, log_q):
    """Of q at the last step, from each state: `E[r - log q]`."""
    return evaluate(problem(instance.but(horizon=1)), log_q[None], temperature=1.0).value[0]


def minus_kl(instance, log_q):
    reward = instance.mean_rewards()
    log_gibbs = reward - logsumexp(reward, axis=1)[:, None]
    return -(np.exp(log_q) * (log_q - log_gibbs)).sum(axis=1)


@pytest.mark.row("E3.20")
@against(last_objective, without_log_z=minus_kl)
def test_last_objective_is_minus_kl_plus_log_z(implementation):
    instance = plain_instance()
    value = logsumexp(instance.mean_rewards(), axis=1)
    for seed in range(3):
        log_q = some_policy(instance, seed)[0]
        close(implementation(instance, log_q), minus_kl(instance, log_q) + value)
    best = instance.mean_rewards() - value[:, None]
    close(implementation(instance, best), value)  # and the best q is the same in both
    close(minus_kl(instance, best), np.zeros(3))


def soft_recursion(instance):
    found = solution(instance, SoftValueIteration(temperature=TAU))
    return found.value, found.details.q, found.policy.log_probabilities


@pytest.mark.row("S149.recursion")
@against(
    soft_recursion,
    exact_inference=lambda instance: backward(instance, TAU, "none"),
    maximum=lambda instance: backward(instance, TAU, "none", neutral=True, hard=True),
    kl_form=lambda instance: backward(instance, TAU, "uniform", neutral=True),
)
def test_recursion_of_earlier_steps(implementation):
    instance = plain_instance()
    value, q, _ = implementation(instance)
    for time in range(instance.horizon):
        close(q[time], instance.mean_rewards() + instance.going_on() @ value[time + 1])
        close(value[time], TAU * logsumexp(q[time] / TAU, axis=1))


@pytest.mark.row("S149.policy")
@against(
    soft_recursion,
    without_temperature=lambda instance: (*soft_recursion(instance)[:2], soft_recursion(instance)[2] * TAU),
    one_step_late=lambda instance: (*soft_recursion(instance)[:2], np.roll(soft_recursion(instance)[2], 1, axis=0)),
)
def test_policy_is_the_exponential_of_the_advantage(implementation):
    value, q, log_policy = implementation(plain_instance())
    close(log_policy, (q - value[:-1, :, None]) / TAU)
    close(np.exp(log_policy).sum(axis=-1), np.ones((4, 3)))


def joint_law(instance):
    return evaluate(problem(instance), some_policy(instance)).details.occupancy


@pytest.mark.row("S150.factorisation")
@against(
    joint_law,
    posterior=lambda instance: solution(instance, EXACT).details.smoothed_pairs,
    one_step_late=lambda instance: np.roll(joint_law(instance), 1, axis=0),
)
def test_joint_law_is_states_times_policy(implementation):
    world, table = trajectories(WHOLE), some_policy(WHOLE)
    states = world.states_under(world.log_law(table))[:-1]
    close(implementation(WHOLE), states[:, :, None] * np.exp(table))


def written_with_occupancies(instance, pairs):
    """`sum d r - tau sum d log pi`, with `log pi = log d(s, a) - log sum_a d(s, a)`."""
    log_policy = np.log(pairs) - np.log(pairs.sum(axis=-1, keepdims=True))
    return np.sum(pairs * instance.mean_rewards()) - TAU * np.sum(pairs * log_policy)


def by_value(instance, pairs):
    """The library's value of the policy that belongs to the occupancies."""
    log_policy = np.log(pairs) - np.log(pairs.sum(axis=-1, keepdims=True))
    return float(instance.initial @ evaluate(problem(instance), log_policy, temperature=TAU).value[0])


def entropy_of_the_joint(instance, pairs):
    return np.sum(pairs * instance.mean_rewards()) - TAU * np.sum(pairs * np.log(pairs))


@pytest.mark.row("S150.objective")
@against(
    by_value,
    entropy_of_the_joint=entropy_of_the_joint,
    no_entropy=lambda instance, pairs: np.sum(pairs * instance.mean_rewards()),
)
def test_objective_over_joint_laws(implementation):
    instance = plain_instance()
    world = trajectories(instance)
    tables = [some_policy(instance, seed) for seed in range(2)]
    laws = [world.pairs_under(world.log_law(table)) for table in tables]
    for table, law in zip(tables, laws, strict=True):
        expected = world.expected_return(table) + TAU * world.expected_entropy(table)
        close(implementation(instance, law), expected)
        close(written_with_occupancies(instance, law), expected)
    middle = implementation(instance, 0.5 * (laws[0] + laws[1]))
    assert middle > 0.5 * (implementation(instance, laws[0]) + implementation(instance, laws[1])) + 1e-6
    best = solution(instance, SoftValueIteration(temperature=TAU))
    optimum = instance.initial @ best.value[0]
    close(implementation(instance, world.pairs_under(world.log_law(best.policy.log_probabilities))), optimum)
    assert implementation(instance, laws[0]) < optimum


def folded(instance, change):
    """The prior as a part of the reward."""
    return instance.with_rewards(lambda r, row: float(r + change * instance.log_prior[row[0], row[1]]))


METHODS = pytest.mark.parametrize("method", [SoftValueIteration, ExactInference])
FOLDED = {"ours": TAU, "without_temperature": 1.0, "subtracted": -TAU, "prior_forgotten": 0.0}
FOLDINGS = [functools.partial(folded, change=change) for change in FOLDED.values()]


@METHODS
@pytest.mark.row("S55.policy")
@against(FOLDINGS[0], without_temperature=FOLDINGS[1], subtracted=FOLDINGS[2], prior_forgotten=FOLDINGS[3])
def test_prior_folds_into_the_reward_policy(implementation, method):
    with_prior = solution(WHOLE, method(temperature=TAU, prior="problem"))
    within = solution(implementation(WHOLE), method(temperature=TAU, prior="none"))
    close(within.policy.probabilities, with_prior.policy.probabilities)


@METHODS
@pytest.mark.row("S55.value")
@against(FOLDINGS[0], without_temperature=FOLDINGS[1], subtracted=FOLDINGS[2], prior_forgotten=FOLDINGS[3])
def test_prior_folds_into_the_reward_value(implementation, method):
    with_prior = solution(WHOLE, method(temperature=TAU, prior="problem"))
    within = solution(implementation(WHOLE), method(temperature=TAU, prior="none"))
    close(within.value, with_prior.value)


def luck_of_outcomes(instance, beta):
    """Total variation over the rows of each pair, each split by its chance of ending; `beta` is the next message."""
    gaps, totals = np.zeros((2, *instance.shape)), np.zeros(instance.shape)
    parts = []
    for s, a, t, p, r, over in instance.rows:
        going = 0.0 if over else instance.discount
        weights = p * np.exp(r / TAU) * np.array([going * beta[t], 1.0 - going])
        totals[s, a] += weights.sum()
        parts.append((s, a, weights, p * np.array([going, 1.0 - going])))
    for s, a, weights, true in parts:
        gaps[:, s, a] += np.abs(weights / totals[s, a] - true)
    return 0.5 * gaps.sum(axis=0)


@INSTANCES
def test_optimism(instance):
    found, world = optimism(problem(instance), TAU, "problem"), trajectories(instance)
    believed = np.exp(world.log_posterior(TAU))
    close(found.exact.believed_return, believed @ world.returns, 1e-10)
    close(found.exact.believed_objective, TAU * world.log_evidence(TAU))
    exact_policy = solution(instance, EXACT).policy.log_probabilities
    close(found.exact.true_return, world.expected_return(exact_policy))
    close(found.exact.true_objective, TAU * world.elbo(exact_policy, TAU))
    close(found.restricted.true_return, world.expected_return(restricted_policy(instance)))
    close(found.restricted.believed_objective, found.restricted.true_objective)
    assert found.exact.believed_objective > found.restricted.true_objective > found.exact.true_objective
    dynamics = world.posterior_dynamics(TAU, 0)
    true = instance.discount * instance.going_on()
    close(found.believed_dynamics[instance.allowed], dynamics[instance.allowed])
    close(found.true_dynamics[instance.allowed], true[instance.allowed])
    close(found.distance, luck_of_outcomes(instance, np.exp(found.exact.solution.value[1] / TAU)))


@INSTANCES
@pytest.mark.parametrize("risk", [1.3, -0.9])
def test_risk_is_the_certainty_equivalent_of_the_return(instance, risk):
    """Without a temperature and with a fixed policy the risk value is `(1 / risk) log E exp(risk return)`; the
    single-action problem has that policy only."""
    rows = tuple(row for row in instance.rows if row[:2] in ((0, 1), (1, 0), (2, 1)))
    only = np.array([[-np.inf, 0.0], [0.0, -np.inf], [-np.inf, 0.0]])
    single = instance.but(rows=rows, log_prior=only)
    value = solution(single, SoftValueIteration(temperature=0.5, risk=risk)).value
    world = trajectories(single)
    expected = logsumexp(world.log_world + risk * world.returns) / risk
    close(logsumexp(np.log(single.initial) + risk * value[0]) / risk, expected)
    close(value, exact_messages(single, 1.0 / risk)[0] / risk)
