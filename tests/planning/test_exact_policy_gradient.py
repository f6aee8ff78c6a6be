"""The exact gradient of softmax policies against enumeration, dense linear algebra and autodiff; the ascent against
value iteration."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import optimality as ox
from clauses import against
from enumeration import plain_instance, random_instance, trajectories
from instances import close, evaluate, problem
from optimality.core.information import kl_divergence
from optimality.planning.exact_policy_gradient import ExactPolicyGradient, _gain
from optimality.planning.softmax_gradient import Evaluated
from optimality.planning.softmax_gradient import evaluate as evaluated_at

TAU = 0.6
INSTANCES = {"plain": plain_instance(), "ends": random_instance(), "discounted": random_instance(0.9)}
RANDOM = np.random.default_rng(3)
STATIONARY, IN_TIME = RANDOM.normal(size=(3, 2)), RANDOM.normal(size=(4, 3, 2))


def enumerated(instance, prior, temperature):
    """`J(logits)` as an explicit sum over all trajectories."""
    world = trajectories(instance, prior)
    acted, steps = world.actions >= 0, np.arange(instance.horizon)
    base = instance.base(prior)

    def objective(logits):
        masked = jnp.where(instance.allowed, jnp.asarray(logits), -jnp.inf)
        log_pi = jnp.broadcast_to(jax.nn.log_softmax(masked), (instance.horizon, *instance.shape))
        taken = jnp.where(acted, log_pi[steps, world.states[:, :-1], world.actions], 0.0)
        log_base = np.where(acted, base[world.states[:, :-1], world.actions], 0.0)
        returns = world.returns - temperature * (taken - log_base).sum(axis=1)
        return jnp.sum(jnp.exp(world.log_world + taken.sum(axis=1)) * returns)

    return objective


def ours(mdp, logits, temperature, prior):
    return ox.exact_policy_gradient(mdp, logits, temperature=temperature, prior=prior).gradient


def by_hand(change):
    """`d pi A` with one of its factors changed."""

    def wrong(mdp, logits, temperature, prior):
        found = ox.exact_policy_gradient(mdp, logits, temperature=temperature, prior=prior)
        masked = np.where(np.asarray(mdp.allowed), logits, -np.inf)
        policy = np.asarray(jax.nn.softmax(masked))
        visits, advantage = change(found, policy)
        by_step = visits[..., None] * policy * advantage
        return by_step.sum(axis=0) if np.ndim(logits) == 2 else by_step

    return wrong


NO_CENTER = by_hand(lambda g, pi: (g.visits, np.where(pi > 0.0, g.q, 0.0)))
NO_OWN_ENTROPY = by_hand(
    lambda g, pi: (g.visits, np.where(pi > 0.0, g.q - np.sum(pi * g.q, axis=-1, keepdims=True), 0.0))
)
NO_VISITS = by_hand(lambda g, pi: (np.ones_like(g.visits), g.advantage))


@pytest.mark.parametrize("logits", [STATIONARY, IN_TIME], ids=["stationary", "in_time"])
@pytest.mark.parametrize("name", INSTANCES)
@against(ours, no_center=NO_CENTER, no_own_entropy=NO_OWN_ENTROPY, no_visits=NO_VISITS)
def test_gradient_is_that_of_the_enumerated_objective(implementation, name, logits):
    instance = INSTANCES[name]
    with jax.enable_x64(True):
        for prior in ("none", "problem"):
            exact = jax.grad(enumerated(instance, prior, TAU))(jnp.asarray(logits))
            close(implementation(problem(instance), logits, TAU, prior), np.where(instance.allowed, exact, 0.0))


def test_objective_and_the_hard_gradient():
    for instance in INSTANCES.values():
        with jax.enable_x64(True):
            objective, exact = jax.value_and_grad(enumerated(instance, "none", 0.0))(jnp.asarray(IN_TIME))
        found = ox.exact_policy_gradient(problem(instance), IN_TIME)
        close(found.objective, objective)
        close(found.gradient, np.where(instance.allowed, exact, 0.0))
        assert found.gradient.dtype == np.float64


@functools.cache
def discounted(seed, gamma=0.9, states=5, actions=3):
    random = np.random.default_rng(seed)
    transition, reward = random.dirichlet(np.ones(states), (states, actions)), random.normal(size=(states, actions))
    over = random.random((states, actions, states)) < 0.1
    mdp = ox.TabularMDP.from_arrays(
        transition, reward, terminated=over, criterion=ox.Discounted(gamma), initial=random.dirichlet(np.ones(states))
    )
    return mdp, transition * ~over, random.normal(size=(states, actions))


def dense_objective(mdp, going_on, temperature):
    def objective(logits):
        log_pi = jax.nn.log_softmax(logits)
        chain = jnp.einsum("sa,sat->st", jnp.exp(log_pi), going_on)
        per_step = jnp.sum(jnp.exp(log_pi) * (mdp.reward - temperature * log_pi), axis=1)
        return mdp.initial @ jnp.linalg.solve(jnp.eye(len(chain)) - float(mdp.discount) * chain, per_step)

    return objective


@against(ours, no_center=NO_CENTER, no_own_entropy=NO_OWN_ENTROPY, no_visits=NO_VISITS)
def test_discounted_gradient_is_that_of_dense_evaluation(implementation):
    with jax.enable_x64(True):
        for seed in range(3):
            mdp, going_on, logits = discounted(seed)
            exact = jax.grad(dense_objective(mdp, going_on, TAU))(jnp.asarray(logits))
            close(implementation(mdp, logits, TAU, "none"), exact)


def natural(mdp, logits):
    return ox.exact_policy_gradient(mdp, logits, temperature=TAU).natural_gradient


def fisher(visits, policy):
    """`[S A, S A]`, of trajectories."""
    states, actions = policy.shape
    matrix = np.zeros((states * actions,) * 2)
    for s in range(states):
        block = slice(s * actions, (s + 1) * actions)
        matrix[block, block] = visits[s] * (np.diag(policy[s]) - np.outer(policy[s], policy[s]))
    return matrix


@against(
    natural,
    plain=lambda mdp, logits: ox.exact_policy_gradient(mdp, logits, temperature=TAU).gradient,
    over_visits=lambda mdp, logits: (
        natural(mdp, logits) / ox.exact_policy_gradient(mdp, logits).visits.sum(axis=0)[:, None]
        if np.ndim(ox.exact_policy_gradient(mdp, logits).visits) == 2
        else natural(mdp, logits) / ox.exact_policy_gradient(mdp, logits).visits[:, None]
    ),
)
def test_natural_gradient_solves_the_fisher_system(implementation):
    """Up to what the policy does not see: the least solution has mean zero over the actions of each state."""
    for mdp, logits in ((discounted(0)[0], discounted(0)[2]), (problem(INSTANCES["plain"]), STATIONARY)):
        found = ox.exact_policy_gradient(mdp, logits, temperature=TAU)
        visits = found.visits.sum(axis=0) if found.visits.ndim == 2 else found.visits
        matrix = fisher(visits, np.asarray(jax.nn.softmax(jnp.asarray(logits)), np.float64))
        expected = (np.linalg.pinv(matrix, 1e-6) @ found.gradient.ravel()).reshape(logits.shape)
        direction = implementation(mdp, logits)
        close(direction - direction.mean(axis=1, keepdims=True), expected, 1e-5)
        np.testing.assert_allclose(matrix @ direction.ravel(), found.gradient.ravel(), atol=1e-6)


def test_natural_gradient_does_not_depend_on_the_parameters():
    """`theta = M w`: the plain gradient moves the policy elsewhere, the natural one moves it as before."""
    mdp, _, logits = discounted(1)
    found = ox.exact_policy_gradient(mdp, logits, temperature=TAU)
    matrix = fisher(found.visits, np.asarray(jax.nn.softmax(jnp.asarray(logits)), np.float64))
    change = np.random.default_rng(0).normal(size=matrix.shape)
    back = np.linalg.inv(change)
    step = np.linalg.lstsq(back.T @ matrix @ back, back.T @ found.gradient.ravel(), rcond=1e-10)[0]
    moved = (back @ step).reshape(logits.shape)
    moved -= np.sum(np.exp(np.asarray(jax.nn.log_softmax(logits))) * moved, axis=1, keepdims=True)
    close(moved, found.natural_gradient, 1e-4)


def test_the_fisher_matrix_is_the_second_moment_of_trajectory_scores():
    instance, world = INSTANCES["plain"], trajectories(INSTANCES["plain"], "none")
    policy = np.exp(STATIONARY) / np.exp(STATIONARY).sum(axis=1, keepdims=True)
    one = np.eye(6).reshape(3, 2, 3, 2) - np.einsum("st,tb->stb", np.eye(3), policy)[:, None]
    scores = one[world.states[:, :-1], world.actions].sum(axis=1).reshape(-1, 6)
    chances = np.exp(world.log_law(np.log(policy)))
    visits = ox.exact_policy_gradient(problem(instance), STATIONARY).visits.sum(axis=0)
    close((scores * chances[:, None]).T @ scores, fisher(visits, policy))


PROBLEMS = {name: problem(instance) for name, instance in INSTANCES.items()} | {
    "endless": discounted(0)[0],
    "grid": ox.gridworld("S.H/..G", criterion=ox.Discounted(0.95)),
    "river": ox.river_swim(criterion=ox.FiniteHorizon(20)),
}


@pytest.mark.parametrize("name", PROBLEMS)
def test_ascent_ends_at_the_optimum(name):
    mdp = PROBLEMS[name]
    for temperature in (0.0, 0.3):
        best = (
            ox.solve(mdp, ox.SoftValueIteration(temperature=temperature, tolerance=1e-13))
            if temperature
            else ox.solve(mdp, ox.ValueIteration(tolerance=1e-13))
        )
        optimum = mdp.initial @ (best.value[0] if best.value.ndim == 2 else best.value)
        found = ox.solve(mdp, ExactPolicyGradient(temperature=temperature))
        steps, details = int(found.stats["steps"]), found.details
        assert found.result is ox.Result.CONVERGED
        assert steps < 60
        course = details.objective[: steps + 1]
        assert course[-1] == pytest.approx(optimum, abs=1e-7)
        assert np.all(np.diff(course) > -1e-12)
        assert np.isnan(details.objective[steps + 1 :]).all()
        assert optimum - course[-1] <= details.optimality_gap + 1e-9
        assert optimum - course[0] <= _gap_at_the_start(mdp, temperature) + 1e-9


def _gap_at_the_start(mdp, temperature):
    one = ox.solve(mdp, ExactPolicyGradient(temperature=temperature, iterations=1), throw=False)
    return float(one.details.optimality_gap) + one.details.objective[1] - one.details.objective[0]


@pytest.mark.parametrize("prior", ["uniform", "problem"])
def test_ascent_to_a_prior(prior):
    mdp = PROBLEMS["ends"]
    best = ox.solve(mdp, ox.SoftValueIteration(temperature=0.3, prior=prior))
    found = ox.solve(mdp, ExactPolicyGradient(temperature=0.3, prior=prior))
    close(found.value, best.value, 1e-8)
    start = np.exp(found.policy.log_probabilities)
    close(start, np.exp(best.policy.log_probabilities), 1e-5)
    steps = int(found.stats["steps"])
    exact = evaluate(mdp, found.policy.log_probabilities, temperature=0.3, prior=prior)
    close(found.details.objective[steps], mdp.initial @ exact.value[0])
    assert found.details.expected_entropy[steps] == pytest.approx(float(exact.details.expected_entropy), abs=1e-12)


def test_plain_steps_end_at_the_optimum_too():
    mdp = PROBLEMS["ends"]
    for temperature in (0.0, 1.0):
        natural_, plain = (
            ox.solve(mdp, ExactPolicyGradient(temperature=temperature, step=step)) for step in ("natural", "gradient")
        )
        ends = [s.details.objective[int(s.stats["steps"])] for s in (natural_, plain)]
        assert ends[0] == pytest.approx(ends[1], abs=1e-7)
        assert int(plain.stats["steps"]) > int(natural_.stats["steps"])
        norms = plain.details.gradient_norm[: int(plain.stats["steps"]) + 1]
        assert norms[-1] <= 1e-8
        assert norms[-1] == pytest.approx(np.linalg.norm(plain.details.gradient), abs=1e-14)


def test_a_natural_step_of_one_over_the_temperature_is_soft_policy_iteration():
    mdp = PROBLEMS["endless"]
    one = ox.solve(mdp, ExactPolicyGradient(temperature=2.0, iterations=1), throw=False)
    assert one.details.step_size[0] == pytest.approx(0.5)
    first = ox.exact_policy_gradient(mdp, np.zeros(mdp.shape), temperature=2.0)
    with jax.enable_x64(True):
        close(one.policy.log_probabilities, jax.nn.log_softmax(jnp.asarray(first.q) / 2.0))


def test_a_plateau_is_told_apart_by_its_gap():
    """Plain ascent without entropy on the cliff: almost deterministic, 88 below the optimum, no gradient."""
    mdp = ox.TabularMDP.from_gymnasium("CliffWalking-v1", criterion=ox.Discounted(0.99))
    plain = ox.solve(mdp, ExactPolicyGradient(step="gradient"))
    assert mdp.initial @ plain.value == pytest.approx(-100.0, abs=1e-4)
    assert plain.details.optimality_gap > 80.0
    best = ox.solve(mdp, ExactPolicyGradient())
    assert mdp.initial @ best.value == pytest.approx(-12.2478977, abs=1e-5)
    assert best.details.optimality_gap < 1e-3


def gained(old, new):
    return _gain(old, new, TAU)[0]


def no_kl(old, new):
    difference = jnp.exp(new.log_policy) - jnp.exp(old.log_policy)
    return jnp.sum(new.visits * jnp.sum(difference * old.advantage, axis=-1))


def old_visits(old, new):
    return gained(old, new._replace(visits=old.visits))


@against(gained, no_kl=no_kl, old_visits=old_visits)
def test_gain_is_the_difference_of_objectives(implementation):
    """Of far steps by the difference itself, of near ones by the slope, to which the difference is blind."""
    with jax.enable_x64(True):
        mdp, _, logits = discounted(2)
        direction = np.random.default_rng(5).normal(size=logits.shape)

        def at(size) -> Evaluated:
            return evaluated_at(
                mdp, jax.nn.log_softmax(jnp.asarray(logits + size * direction)), mdp.log_base("none"), jnp.asarray(TAU)
            )

        old = at(0.0)
        slope = np.sum(ox.exact_policy_gradient(mdp, logits, temperature=TAU).gradient * direction)
        for size in (5.0, 0.3, 1e-2):
            new = at(size)
            assert implementation(old, new) == pytest.approx(float(new.objective - old.objective), abs=1e-11)
            kl = np.asarray(kl_divergence(new.log_policy, old.log_policy))
            assert _gain(old, new, TAU)[1] == pytest.approx(np.average(kl, weights=new.visits), rel=1e-9)
        assert implementation(old, at(1e-9)) == pytest.approx(1e-9 * slope, rel=1e-6)


def test_traced_and_single_precision():
    mdp = PROBLEMS["endless"]
    single = ox.exact_policy_gradient(mdp, np.zeros(mdp.shape), temperature=TAU, dtype=np.float32)
    double = ox.exact_policy_gradient(mdp, np.zeros(mdp.shape), temperature=TAU)
    assert single.gradient.dtype == np.float32
    close(single.gradient, double.gradient, 1e-4)
    logits = jnp.zeros((2, *mdp.shape))
    many = jax.jit(jax.vmap(lambda x: ox.exact_policy_gradient(mdp, x, temperature=TAU).gradient))(logits)
    close(many[1], double.gradient, 1e-4)
    found = ox.solve(mdp, ExactPolicyGradient(temperature=TAU), dtype=np.float32)
    assert found.result is ox.Result.CONVERGED

    @jax.jit
    def values(temperatures):
        return jax.vmap(lambda t: ox.solve(mdp, ExactPolicyGradient(temperature=t, iterations=200)).value)(temperatures)

    close(values(jnp.asarray([TAU, 0.3]))[0], found.value, 1e-3)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: ox.exact_policy_gradient(PROBLEMS["plain"], np.zeros((2, 3))), "but the problem needs"),
        (lambda: ox.exact_policy_gradient(discounted(0)[0], np.zeros((4, 5, 3))), r"but the problem needs \(5, 3\)"),
        (lambda: ox.exact_policy_gradient(ox.chain(criterion=ox.AverageReward()), 0.0), "has AverageReward"),
        (lambda: ox.solve(ox.chain(criterion=ox.AverageReward()), ExactPolicyGradient()), "takes the criteria"),
        (lambda: ox.solve(PROBLEMS["endless"], ExactPolicyGradient(prior="problem")), "needs a problem with log_prior"),
        (lambda: ExactPolicyGradient(temperature=-1.0), "temperature must be at least 0"),
        (lambda: ExactPolicyGradient(iterations=0), "iterations must be a whole number"),
    ],
)
def test_wrong_arguments_are_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_the_limit_of_iterations_says_what_is_left():
    with pytest.raises(ox.SolverError, match=r"After 1 steps the objective is .* can be gained"):
        ox.solve(PROBLEMS["endless"], ExactPolicyGradient(iterations=1))
