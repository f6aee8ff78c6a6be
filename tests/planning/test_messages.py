"""Exact inference against the enumeration of all trajectories."""

import jax
import numpy as np
import pytest

from clauses import against
from enumeration import (
    backward,
    deterministic_instance,
    exact_messages,
    plain_instance,
    random_instance,
    trajectories,
)
from instances import close, problem, solution
from optimality import ExactInference, FiniteHorizon, SoftValueIteration, TabularMDP, posterior_dynamics, solve
from optimality.core.gibbs import certainty_equivalent, soft_maximum

TAU = 0.7
INSTANCES = pytest.mark.parametrize("instance", [random_instance(), random_instance(0.8)], ids=["whole", "discounted"])
EXACT = ExactInference(temperature=TAU, prior="problem")


def inferred(instance):
    found = solution(instance, EXACT)
    return found.value, np.where(instance.allowed, found.details.q, -np.inf), found.policy.log_probabilities


def mistaken(**mistake):
    return lambda instance: backward(instance, TAU, **mistake)


def test_the_oracle_agrees_with_the_recursion_without_mistakes():
    for instance in (random_instance(), random_instance(0.8), plain_instance()):
        log_states, log_pairs = exact_messages(instance, TAU)
        value, q, _ = backward(instance, TAU)
        close(value, TAU * log_states)
        close(q, TAU * log_pairs)
    plain = trajectories(plain_instance())
    assert len(plain.returns) == 3888
    close(np.exp(plain.log_world + plain.log_base).sum(), 1.0)


@INSTANCES
@pytest.mark.row("S42.messages")
@against(
    inferred,
    forgets_termination=mistaken(forgets_termination=True),
    mean_rewards=mistaken(mean_rewards=True),
    risk_neutral=mistaken(neutral=True),
    no_prior=mistaken(no_prior=True),
)
def test_messages(implementation, instance):
    value, q, _ = implementation(instance)
    log_states, log_pairs = exact_messages(instance, TAU)
    close(value / TAU, log_states)
    close(q / TAU, log_pairs)


@INSTANCES
@pytest.mark.row("S42.evidence")
@against(
    lambda instance: solution(instance, EXACT).details.log_evidence,
    expected_value=lambda instance: instance.initial @ inferred(instance)[0][0] / TAU,
    uniform_start=lambda instance: np.log(np.mean(np.exp(inferred(instance)[0][0] / TAU))),
    in_reward_units=lambda instance: TAU * solution(instance, EXACT).details.log_evidence,
)
def test_evidence(implementation, instance):
    close(implementation(instance), trajectories(instance).log_evidence(TAU))


@INSTANCES
@pytest.mark.row("S43.base_case", "E1.8")
@against(
    inferred,
    no_start=mistaken(no_start=True),
    one_step_late=lambda instance: tuple(np.roll(part, -1, axis=0) for part in inferred(instance)),
)
def test_backward_starts_from_the_last_likelihood(implementation, instance):
    value, q, _ = implementation(instance)
    close(value[-1], instance.terminal)
    last = exact_messages(instance.but(horizon=1), TAU)
    close(q[-1] / TAU, last[1][0])


def one_step(instance, ahead):
    """Q and V from the value of the next step, written out."""
    total = np.zeros(instance.shape)
    for s, a, t, p, r, over in instance.rows:
        later = 1.0 if over else instance.discount * np.exp(ahead[t] / TAU) + 1.0 - instance.discount
        total[s, a] += p * np.exp(r / TAU) * later
    with np.errstate(divide="ignore"):
        return TAU * np.log(total), TAU * np.log((np.exp(instance.log_prior) * total).sum(axis=1))


@INSTANCES
@pytest.mark.row("S43.recursion")
@against(
    inferred,
    forgets_termination=mistaken(forgets_termination=True),
    no_prior=mistaken(no_prior=True),
    maximum=mistaken(hard=True),
)
def test_backward_recursion(implementation, instance):
    value, q, _ = implementation(instance)
    for time in range(instance.horizon):
        expected = one_step(instance, value[time + 1])
        close(q[time], expected[0])
        close(value[time], expected[1])


def entropy_form(instance):
    found = solution(instance, ExactInference(temperature=1.0, prior="none"))
    return found.value, np.where(instance.allowed, found.details.q, -np.inf)


@pytest.mark.row("S44.backup")
@against(
    entropy_form,
    maximum=lambda instance: backward(instance, 1.0, "none", hard=True)[:2],
    risk_neutral=lambda instance: backward(instance, 1.0, "none", neutral=True)[:2],
    uniform_prior=lambda instance: backward(instance, 1.0, "uniform")[:2],
)
def test_log_form_of_the_backup(implementation):
    instance = plain_instance().with_rewards(lambda r, row: float(row[0] - row[1]))  # one reward for each pair
    value, q = implementation(instance)
    for time in range(instance.horizon):
        close(q[time], instance.mean_rewards() + np.log(instance.going_on() @ np.exp(value[time + 1])))
        close(value[time], np.log(np.exp(q[time]).sum(axis=-1)))


def values_and_q(prior, temperature=TAU):
    def run(instance):
        found = solution(instance, SoftValueIteration(temperature=temperature, prior=prior))
        return found.value[:-1], np.where(instance.allowed, found.details.q, -np.inf)

    return run


@pytest.mark.row("S44.entropy_bounds")
@against(values_and_q("none"), kl_form=values_and_q("uniform"))
def test_bounds_of_the_entropy_form(implementation):
    value, q = implementation(random_instance())
    excess = value - q.max(axis=-1)
    assert (excess >= -1e-14).all()
    assert (excess <= TAU * np.log(random_instance().allowed.sum(axis=1)) + 1e-14).all()
    assert excess.max() > 0.1


@pytest.mark.row("S44.kl_bounds")
@against(values_and_q("uniform"), entropy_form=values_and_q("none"))
def test_bounds_of_the_kl_form(implementation):
    value, q = implementation(random_instance())
    excess = value - q.max(axis=-1)
    assert (excess <= 1e-14).all()
    assert (excess >= -TAU * np.log(random_instance().allowed.sum(axis=1)) - 1e-14).all()
    assert excess.min() < -0.1


def excess_when(change):
    def run(c):
        value, q = values_and_q("none", 1.0)(plain_instance().with_rewards(lambda r, row: change(r, c)))
        return np.abs(value - q.max(axis=-1)).max()

    return run


@pytest.mark.row("S44.limit")
@against(excess_when(lambda r, c: c * r), shifted=excess_when(lambda r, c: r + c))
def test_value_nears_the_maximum_as_gaps_grow(implementation):
    excess = [implementation(c) for c in (1.0, 10.0, 100.0, 1000.0)]
    assert excess[0] > 0.3
    assert excess[1] < excess[0]
    assert excess[2] < 1e-3
    assert excess[3] < 1e-12


@INSTANCES
@pytest.mark.row("S45")
@against(
    lambda instance: inferred(instance)[2],
    ratio_without_prior=lambda instance: inferred(instance)[2] - instance.log_prior,
    risk_neutral=lambda instance: mistaken(neutral=True)(instance)[2],
    forgets_termination=lambda instance: mistaken(forgets_termination=True)(instance)[2],
    uniform_prior=lambda instance: backward(instance, TAU, "uniform")[2],
)
def test_posterior_policy(implementation, instance):
    with np.errstate(invalid="ignore"):
        log_policy = implementation(instance)
    close(np.exp(log_policy), trajectories(instance).posterior_policy(TAU))
    value, q, _ = inferred(instance)
    close(log_policy, instance.log_prior + (q - value[:-1, :, None]) / TAU)


def forward(instance):
    return np.exp(solution(instance, EXACT).details.log_forward)


def forward_by_hand(instance, *, prior=True, likelihood=True, start=None):
    rows = [instance.initial if start is None else start]
    for _ in range(instance.horizon):
        mass = np.zeros(instance.shape[0])
        for s, a, t, p, r, over in instance.rows:
            weight = np.exp(instance.log_prior[s, a]) if prior else 1.0
            mass[t] += 0.0 if over else rows[-1][s] * weight * p * (np.exp(r / TAU) if likelihood else 1.0)
        rows.append(mass / mass.sum())
    return np.stack(rows)


@INSTANCES
@pytest.mark.row("S46.recursion")
@against(
    forward,
    prior_omitted=lambda instance: forward_by_hand(instance, prior=False),
    likelihood_omitted=lambda instance: forward_by_hand(instance, likelihood=False),
    one_step_late=lambda instance: np.concatenate([forward(instance)[:1], forward(instance)[:-1]]),
)
def test_forward_messages(implementation, instance):
    close(implementation(instance), trajectories(instance).forward(TAU))
    close(forward_by_hand(instance), trajectories(instance).forward(TAU))


@INSTANCES
@pytest.mark.row("S46.base_case", "E1.8")
@against(
    forward,
    uniform_start=lambda instance: forward_by_hand(instance, start=np.full(3, 1 / 3)),
    posterior_start=lambda instance: forward_by_hand(
        instance, start=np.exp(solution(instance, EXACT).details.log_initial)
    ),
)
def test_forward_starts_at_the_initial_law(implementation, instance):
    close(implementation(instance)[0], instance.initial)


def smoothed(instance):
    return solution(instance, EXACT).details.smoothed_states


@INSTANCES
@pytest.mark.row("S47")
@against(
    smoothed,
    forward_only=forward,
    backward_only=lambda instance: np.exp(inferred(instance)[0] / TAU),
    true_dynamics=lambda instance: trajectories(instance).states_under(
        trajectories(instance).log_law(inferred(instance)[2])
    ),
)
def test_smoothed_states(implementation, instance):
    found = implementation(instance)
    world = trajectories(instance)
    close(found, world.states_under(world.log_posterior(TAU)))
    product = forward(instance) * np.exp(inferred(instance)[0] / TAU)
    close(found / found.sum(axis=1, keepdims=True), product / product.sum(axis=1, keepdims=True))


@INSTANCES
def test_other_marginals(instance):
    world, details = trajectories(instance), solution(instance, EXACT).details
    close(details.smoothed_pairs, world.pairs_under(world.log_posterior(TAU)))
    close(np.exp(details.log_initial), world.states_under(world.log_posterior(TAU))[0])


def believed(instance, time):
    return np.asarray(posterior_dynamics(problem(instance), inferred(instance)[0][time + 1], TAU))


def tilted_by_values_only(instance, time):
    """Forgets that the outcome's own reward attracts as well."""
    plain = instance.with_rewards(lambda r, row: instance.mean_rewards()[row[0], row[1]])
    return np.asarray(posterior_dynamics(problem(plain), inferred(instance)[0][time + 1], TAU))


@INSTANCES
@pytest.mark.row("S48.posterior_dynamics")
@against(
    believed,
    true_dynamics=lambda instance, time: instance.discount * instance.going_on(),
    without_own_reward=tilted_by_values_only,
    one_step_late=lambda instance, time: believed(instance, time - 1),
)
def test_posterior_dynamics(implementation, instance):
    with jax.enable_x64(True):
        for time in (1, 2):
            expected = trajectories(instance).posterior_dynamics(TAU, time)
            close(implementation(instance, time)[instance.allowed], expected[instance.allowed])


def worth(mdp, values, risk):
    with jax.enable_x64(True):
        return np.asarray(mdp.expect(values, risk))


@pytest.mark.row("S48.jensen")
@against(
    lambda mdp, v: worth(mdp, v, 1 / TAU),
    cautious=lambda mdp, v: worth(mdp, v, -1 / TAU),
    mean=lambda mdp, v: worth(mdp, v, 0.0),
)
def test_exact_inference_is_optimistic(implementation):
    mdp, value = problem(random_instance()), inferred(random_instance())[0][1]
    excess = (implementation(mdp, value) - worth(mdp, value, 0.0))[mdp.allowed]
    assert (excess >= 0.0).all()
    assert excess.min() > 1e-3


def both(prior, instance):
    exact = solution(instance, ExactInference(temperature=TAU, prior=prior))
    return exact.value, solution(instance, SoftValueIteration(temperature=TAU, prior="problem")).value


@pytest.mark.row("S48.deterministic")
@against(
    lambda instance: both("problem", instance),
    other_form=lambda instance: both("none", instance),
    stochastic=lambda instance: both("problem", plain_instance()),
)
def test_the_backups_agree_under_deterministic_dynamics(implementation):
    exact, restricted = implementation(deterministic_instance())
    close(exact, restricted)
    world = trajectories(deterministic_instance())
    close(exact[0, 0] / TAU, world.log_evidence(TAU))


def difference_of_forms(entropy, kl):
    def run(instance):
        methods = [SoftValueIteration(temperature=TAU, prior=entropy), ExactInference(temperature=TAU, prior=kl)]
        if entropy == "none":
            methods[0] = ExactInference(temperature=TAU, prior="none")
        return solution(instance, methods[0]).value - solution(instance, methods[1]).value

    return run


@pytest.mark.row("E1.9.offset")
@against(difference_of_forms("none", "uniform"), same_form=difference_of_forms("uniform", "uniform"))
def test_forms_differ_by_log_of_the_number_of_actions_each_step(implementation):
    steps_left = np.arange(plain_instance().horizon, -1, -1.0)
    close(implementation(plain_instance()), np.outer(TAU * np.log(2.0) * steps_left, np.ones(3)))


def unequal_sets(prior):
    """Two states, one action more in the first, nothing to choose between: all messages are equal."""
    mdp = TabularMDP.from_arrays(
        np.full((2, 2, 2), 0.5),
        np.array([[0.0, 0.0], [0.0, 0.0]]),
        criterion=FiniteHorizon(2),
        allowed=np.array([[True, True], [True, False]]),
    )
    found = solve(mdp, ExactInference(prior=prior))
    return found.value[1], found


@pytest.mark.row("E1.9.unequal_sets")
@against(unequal_sets, uniform_for_both=lambda prior: unequal_sets("uniform"))
def test_forms_differ_where_action_sets_do(implementation):
    close(implementation("uniform")[0], [0.0, 0.0])
    close(implementation("none")[0], [np.log(2.0), 0.0])
    random = random_instance()
    forms = [
        solution(random, ExactInference(temperature=TAU, prior=p)).policy.probabilities for p in ("none", "uniform")
    ]
    assert np.abs(forms[0] - forms[1])[0].max() > 1e-2
    # equal sets, equal policies
    plain = plain_instance()
    forms = [
        solution(plain, ExactInference(temperature=TAU, prior=p)).policy.probabilities for p in ("none", "uniform")
    ]
    close(*forms)


def ratio(instance):
    found = solution(instance, ExactInference(temperature=TAU, prior="uniform"))
    return np.exp((found.details.q - found.value[:-1, :, None]) / TAU)


@pytest.mark.row("E1.9.ratio_sum")
@against(
    lambda instance: solution(instance, ExactInference(temperature=TAU, prior="uniform")).policy.probabilities,
    as_printed=ratio,
)
def test_ratio_of_messages_needs_the_prior(implementation):
    close(ratio(plain_instance()).sum(axis=-1), np.full((4, 3), 2.0))
    close(implementation(plain_instance()).sum(axis=-1), np.ones((4, 3)))


def soft_excess(values, temperature=1.0):
    q = np.asarray(values, np.float64)
    with jax.enable_x64(True):
        return float(soft_maximum(q, temperature)) - q.max()


@pytest.mark.row("E1.10.gaps")
@against(soft_excess, mean=lambda q, temperature=1.0: np.mean(q) - np.max(q), maximum=lambda q, temperature=1.0: 0.0)
def test_shift_of_q_does_nothing_and_gaps_do(implementation):
    assert implementation([1, 2, 3]) == pytest.approx(0.40761, abs=5e-6)
    assert implementation([101, 102, 103]) == pytest.approx(implementation([1, 2, 3]), abs=1e-12)
    assert implementation([10, 20, 30]) == pytest.approx(4.5e-5, abs=5e-7)
    assert implementation([1, 2, 3], 0.1) == pytest.approx(0.1 * implementation([10, 20, 30]), abs=1e-12)


@pytest.mark.row("E1.10.ties")
@against(soft_excess, maximum=lambda q, temperature=1.0: 0.0)
def test_ties_leave_the_log_of_their_number(implementation):
    assert implementation([5, 5]) == pytest.approx(0.6931, abs=5e-5)
    assert implementation([500, 500, 500, 0]) == pytest.approx(np.log(3.0), abs=1e-12)


def choice_of_two(discount):
    """One action, two successors that will be worth 1 and 3."""
    transition = np.array([[[0.0, 0.5, 0.5]], [[0.0, 1.0, 0.0]], [[0.0, 0.0, 1.0]]])
    criterion = FiniteHorizon(1, discount, np.array([0.0, 1.0, 3.0]))
    return TabularMDP.from_arrays(transition, np.zeros((3, 1)), criterion=criterion, initial=0)


def discounted_inference(mdp):
    return solve(mdp, ExactInference()).value[0, 0]


def discount_outside(mdp):
    with jax.enable_x64(True):
        return 0.9 * float(certainty_equivalent(np.array([1.0, 3.0]), np.log([0.5, 0.5]), 1.0))


@pytest.mark.row("E1.12.inference")
@against(discounted_inference, outside=discount_outside, soft=lambda mdp: solve(mdp, SoftValueIteration()).value[0, 0])
def test_discount_in_exact_inference_is_a_chance_of_ending(implementation):
    mdp = choice_of_two(0.9)
    assert implementation(mdp) == pytest.approx(2.338, abs=5e-4)
    assert discount_outside(mdp) == pytest.approx(2.190, abs=5e-4)
    assert solve(mdp, SoftValueIteration()).value[0, 0] == pytest.approx(1.8, abs=1e-12)


@pytest.mark.row("E1.12.inference")
@against(inferred, outside=mistaken(discount_outside=True))
def test_discount_against_enumerated_endings(implementation):
    instance = random_instance(0.8)
    close(implementation(instance)[0], TAU * exact_messages(instance, TAU)[0])


def with_endings(instance):
    """The discount spelled out: each continuing outcome ends with the probability `1 - discount` instead."""
    rows = []
    for s, a, t, p, r, over in instance.rows:
        if over:
            rows.append((s, a, t, p, r, over))
        else:
            rows += [(s, a, t, p * instance.discount, r, False), (s, a, t, p * (1 - instance.discount), r, True)]
    return instance.but(rows=tuple(rows), discount=1.0)


@pytest.mark.row("E1.12.soft")
@against(
    lambda instance: solution(instance, SoftValueIteration(temperature=TAU, prior="problem")).value,
    undiscounted=lambda instance: solution(instance.but(discount=1.0), SoftValueIteration(temperature=TAU)).value,
    exact_inference=lambda instance: solution(instance, EXACT).value,
)
def test_discount_in_the_soft_backup_is_a_chance_of_ending(implementation):
    instance = random_instance(0.8)
    spelled_out = solution(with_endings(instance), SoftValueIteration(temperature=TAU, prior="problem"))
    close(implementation(instance), spelled_out.value)
    close(implementation(instance), backward(instance, TAU, neutral=True)[0])
