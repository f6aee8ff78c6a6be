"""Values, occupancies and gains of a given policy."""

import functools

import equinox as eqx
import jax
import numpy as np
import pytest

from clauses import against
from enumeration import plain_instance, random_instance, trajectories
from instances import close, evaluate, problem
from optimality import (
    AverageReward,
    Discounted,
    PolicyEvaluation,
    Result,
    SolverError,
    TabularMDP,
    TabularPolicy,
    UnderPolicy,
    UntilTermination,
    solve,
)

GAMMA, TAU = 0.9, 0.5
PLAIN, RANDOM = plain_instance(), random_instance()
POLICY = np.log(np.array([[0.3, 0.7], [0.6, 0.4], [0.5, 0.5]]))
CHAIN = np.einsum("sa,sat->st", np.exp(POLICY), PLAIN.going_on())
PER_STEP = (np.exp(POLICY) * PLAIN.mean_rewards()).sum(axis=1)


@functools.cache
def with_criterion(instance, criterion):
    states, actions = instance.shape
    return TabularMDP.from_outcomes(
        list(instance.rows),
        criterion={"average": AverageReward(), "until": UntilTermination()}.get(criterion) or Discounted(criterion),
        initial=instance.initial,
        states=states,
        actions=actions,
        allowed=instance.allowed,
        log_prior=instance.log_prior,
    )


@functools.cache
def evaluated(criterion, temperature=0.0):
    return evaluate(with_criterion(PLAIN, criterion), POLICY, temperature=temperature)


def stationary_law():
    eigenvalues, vectors = np.linalg.eig(CHAIN.T)
    law = np.real(vectors[:, np.argmax(np.real(eigenvalues))])
    return law / law.sum()


@pytest.mark.row("S4.stationary")
@against(
    lambda: evaluated("average").details.gain,
    initial_law=lambda: PLAIN.initial @ PER_STEP,
    uniform_law=lambda: PER_STEP.mean(),
    discounted=lambda: (1 - GAMMA) * evaluated(GAMMA).details.expected_return,
)
def test_gain_is_the_reward_under_the_stationary_law(implementation):
    assert implementation() == pytest.approx(stationary_law() @ PER_STEP, abs=1e-12)
    close(evaluated("average").details.occupancy, stationary_law()[:, None] * np.exp(POLICY))
    relative = evaluated("average").value
    close(relative + evaluated("average").details.gain, PER_STEP + CHAIN @ relative)


def rollouts(mdp, steps, number, seed=0):
    """Rewards `[number, steps]` of the library's own sampling, zero after the end, and where each episode ended."""
    share = mdp.allowed / mdp.allowed.sum(axis=1, keepdims=True)
    policy = TabularPolicy(POLICY) if mdp.model.ending is None else TabularPolicy.from_probabilities(share)

    def step(carry, key):
        state, running = carry
        act, move = jax.random.split(key)
        action = policy.sample(act, state)
        after, reward, over = mdp.sample(move, state, action)
        return (after.astype("int32"), running & ~over), jax.numpy.where(running, reward, 0.0)

    def episode(key):
        begin, go = jax.random.split(key)
        first = jax.random.categorical(begin, jax.numpy.log(mdp.initial.astype("float32"))).astype("int32")
        return jax.lax.scan(step, (first, True), jax.random.split(go, steps))[1]

    return np.asarray(jax.jit(jax.vmap(episode))(jax.random.split(jax.random.key(seed), number)), np.float64)


@pytest.mark.row("S4.rollout")
@against(
    lambda: evaluated("average").details.gain,
    initial_law=lambda: PLAIN.initial @ PER_STEP,
    without_policy=lambda: PLAIN.mean_rewards().mean(),
)
def test_gain_is_what_a_long_rollout_earns(implementation):
    means = rollouts(with_criterion(PLAIN, "average"), 2_000, 64)[:, 100:].mean(axis=1)
    error = means.std(ddof=1) / np.sqrt(len(means))
    assert error < 0.005
    assert abs(means.mean() - implementation()) < 4 * error


def occupancies():
    finite = evaluate(problem(PLAIN), POLICY).details.occupancy
    return finite, (1 - GAMMA) * evaluated(GAMMA).details.occupancy, evaluated("average").details.occupancy


@pytest.mark.row("S7")
@against(
    occupancies,
    summed_over_time=lambda: (occupancies()[0].sum(axis=0, keepdims=True), *occupancies()[1:]),
    unnormalized=lambda: (occupancies()[0], evaluated(GAMMA).details.occupancy, occupancies()[2]),
)
def test_occupancies_sum_to_one(implementation):
    finite, discounted, average = implementation()
    close(finite.sum(axis=(1, 2)), np.ones(len(finite)))
    close(discounted.sum(), 1.0, 1e-11)
    close(average.sum(), 1.0)
    for table in (*finite, discounted, average):
        assert (table >= 0.0).all()


@pytest.mark.parametrize("instance", [RANDOM, random_instance(0.8)], ids=["whole", "discounted"])
def test_finite_horizon_against_enumeration(instance):
    weights = np.random.default_rng(1).dirichlet(np.ones(2), size=(4, 3)) * instance.allowed
    with np.errstate(divide="ignore"):
        table = np.log(weights / weights.sum(axis=-1, keepdims=True))
    world = trajectories(instance)
    found = evaluate(problem(instance), table, temperature=TAU, prior="problem")
    close(found.details.expected_return, world.expected_return(table))
    close(found.details.expected_entropy, world.expected_entropy(table))
    close(found.details.expected_kl, world.expected_kl(table))
    close(instance.initial @ found.value[0], TAU * world.elbo(table, TAU))
    close(found.details.occupancy, world.pairs_under(world.log_law(table)))
    plain = evaluate(problem(instance), table, prior="problem")  # temperature 0: rewards alone
    close(instance.initial @ plain.value[0], world.expected_return(table))


def test_discounted_against_a_linear_solve():
    resolvent = np.linalg.inv(np.eye(3) - GAMMA * CHAIN)
    entropy = -(np.exp(POLICY) * POLICY).sum(axis=1)
    close(evaluated(GAMMA).value, resolvent @ PER_STEP, 1e-11)
    close(evaluated(GAMMA, TAU).value, resolvent @ (PER_STEP + TAU * entropy), 1e-11)
    visits = PLAIN.initial @ resolvent
    close(evaluated(GAMMA).details.occupancy, visits[:, None] * np.exp(POLICY), 1e-11)
    close(evaluated(GAMMA).details.expected_entropy, visits @ entropy, 1e-11)
    close(evaluated(GAMMA).details.q, PLAIN.mean_rewards() + GAMMA * PLAIN.going_on() @ (resolvent @ PER_STEP), 1e-11)


def test_until_termination_against_a_linear_solve_and_rollouts():
    mdp = with_criterion(RANDOM, "until")
    policy = RANDOM.allowed / RANDOM.allowed.sum(axis=1, keepdims=True)
    with np.errstate(divide="ignore"):
        found = evaluate(mdp, np.log(policy))
    chain = np.einsum("sa,sat->st", policy, RANDOM.going_on())
    value = np.linalg.solve(np.eye(3) - chain, (policy * RANDOM.mean_rewards()).sum(axis=1))
    close(found.value, value, 1e-10)
    returns = rollouts(mdp, 200, 20_000, seed=1).sum(axis=1)
    error = returns.std() / np.sqrt(len(returns))
    assert abs(returns.mean() - found.details.expected_return) < 4 * error < 0.2


def test_multichain_average_reward():
    mdp = TabularMDP.from_arrays(np.eye(2)[:, None], np.array([1.0, 2.0]), criterion=AverageReward())
    with pytest.raises(SolverError, match="more than one recurrent class"):
        solve(UnderPolicy(mdp, TabularPolicy(np.zeros((2, 1)))), PolicyEvaluation())


def test_a_policy_that_never_ends_has_no_finite_occupancy():
    """Its value is zero, but it visits its states for ever."""
    rows = [(0, 0, 0, 1.0, 0.0, False), (0, 1, 0, 1.0, 1.0, True)]
    mdp = TabularMDP.from_outcomes(rows, criterion=UntilTermination())
    stays, leaves = TabularPolicy.from_probabilities(np.eye(2)[:1]), TabularPolicy.from_probabilities(np.eye(2)[1:])
    assert solve(UnderPolicy(mdp, stays), PolicyEvaluation(), throw=False).result is Result.NOT_CONVERGED
    assert solve(UnderPolicy(mdp, leaves), PolicyEvaluation()).details.occupancy.tolist() == [[0.0, 1.0]]


def test_policies_that_do_not_fit():
    mdp = problem(RANDOM)
    with pytest.raises(ValueError, match="takes action 0 in state 2, where it is not allowed"):
        UnderPolicy(mdp, TabularPolicy(POLICY))
    with pytest.raises(ValueError, match=r"table is \(2, 2\), but the problem has \(3, 2\)"):
        UnderPolicy(mdp, TabularPolicy(np.log(np.full((2, 2), 0.5))))
    with pytest.raises(ValueError, match="a table for each of 3 steps"):
        UnderPolicy(problem(PLAIN), TabularPolicy(np.broadcast_to(POLICY, (3, 3, 2))))
    with pytest.raises(ValueError, match=r"must sum to one, but at \(1,\) they sum to 0.9"):
        TabularPolicy(np.log(np.array([[0.5, 0.5], [0.5, 0.4]])))
    with pytest.raises(ValueError, match="solves UnderPolicy"):
        solve(mdp, PolicyEvaluation())


def test_infinite_kl_counts_nothing_at_temperature_zero():
    with np.errstate(divide="ignore"):
        never = np.log(np.array([[1.0, 0.0], [0.5, 0.5], [0.5, 0.5]]))
    mdp = eqx.tree_at(lambda m: m.log_prior, problem(PLAIN), never)
    found = evaluate(mdp, POLICY, prior="problem")
    assert np.isfinite(found.value).all()
    assert found.details.expected_kl == np.inf


def test_tabular_policy():
    policy = TabularPolicy(np.stack([POLICY, POLICY[::-1]]))
    assert policy.depends_on_time
    close(policy.at(0), POLICY)
    close(policy.at(7), POLICY[::-1])  # the last table stays
    assert [int(policy.mode(s)) for s in range(3)] == [1, 0, 0]
    close(policy.entropy()[0], -(np.exp(POLICY) * POLICY).sum(axis=1), 1e-6)
    keys = jax.random.split(jax.random.key(0), 4_000)
    share = np.mean(np.asarray(jax.vmap(lambda key: policy.sample(key, 0))(keys)))
    assert abs(share - 0.7) < 4 * np.sqrt(0.21 / 4_000)
