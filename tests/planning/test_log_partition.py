"""The log-partition function against enumeration, and its derivatives against the forward pass and each other."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from clauses import against
from enumeration import backward, deterministic_instance, logsumexp, plain_instance, random_instance, trajectories
from instances import close, problem
from optimality import (
    AverageReward,
    Discounted,
    FiniteHorizon,
    PotentialShaping,
    TableReward,
    UntilTermination,
    log_partition,
    random_mdp,
    with_reward,
)
from optimality.core.gibbs import soft_maximum
from optimality.core.numerics import cast_floats
from optimality.planning.log_partition import model_visits

CRITERIA = [FiniteHorizon(6), FiniteHorizon(6, 0.9), Discounted(0.9), UntilTermination()]


def paid(mdp, reward):
    return eqx.tree_at(lambda m: m.reward, mdp, reward)


def total(mdp, temperature, causal, prior="none"):
    """`tau p_0 . log Z` of a reward."""

    def value(reward):
        log_z = log_partition(paid(mdp, reward), temperature, causal=causal, prior=prior)
        return temperature * jnp.sum(jnp.asarray(mdp.initial) * log_z)

    return value


def by_enumeration(instance, temperature, prior="none"):
    """`log Z(s)` of each first state."""
    starts = np.eye(instance.shape[0])
    return np.array([trajectories(instance.but(initial=s), prior).log_evidence(temperature) for s in starts])


@pytest.mark.row("S62")
@pytest.mark.parametrize(
    "instance", [plain_instance(), random_instance(), random_instance(0.8)], ids=["plain", "ends", "discount"]
)
@against(
    lambda mdp, tau: log_partition(mdp, tau, causal=False),
    causal=lambda mdp, tau: log_partition(mdp, tau),
    with_prior=lambda mdp, tau: log_partition(mdp, tau, causal=False, prior="problem"),
    without_temperature=lambda mdp, tau: log_partition(mdp, 1.0, causal=False),
)
def test_trajectory_form_is_the_sum_over_trajectories(implementation, instance):
    close(implementation(problem(instance), 0.7), by_enumeration(instance, 0.7))


def test_causal_form_is_the_recursion_and_never_larger():
    instance = plain_instance()
    causal = log_partition(problem(instance), 0.7)
    values, _, _ = backward(instance, 0.7, "none", neutral=True)
    close(causal, values[0] / 0.7)
    gap = log_partition(problem(instance), 0.7, causal=False) - causal
    assert gap.min() >= 0.0
    assert gap.max() > 0.01


def test_both_forms_agree_where_nothing_is_random():
    instance = deterministic_instance()
    expected = by_enumeration(instance, 0.7)
    for causal in (True, False):
        close(log_partition(problem(instance), 0.7, causal=causal), expected)


def autodiff_visits(mdp, temperature, causal):
    return jax.grad(total(mdp, temperature, causal))(jnp.asarray(mdp.reward))


def undiscounted_visits(mdp, temperature, causal):
    """imitation 1.0.1's first fault: it plans without the discount."""
    criterion = mdp.criterion
    plain = FiniteHorizon(criterion.horizon) if isinstance(criterion, FiniteHorizon) else Discounted(0.99)
    return autodiff_visits(
        eqx.tree_at(lambda m: m.criterion, mdp, plain, is_leaf=lambda x: x is criterion), temperature, causal
    )


def finite_differences(mdp, temperature, causal):
    value, reward, size = total(mdp, temperature, causal), np.asarray(mdp.reward), 1e-5
    slopes = np.zeros_like(reward)
    for place in np.ndindex(*reward.shape):
        change = np.zeros_like(reward)
        change[place] = size
        slopes[place] = (value(reward + change) - value(reward - change)) / (2 * size)
    return slopes


@pytest.mark.parametrize("criterion", CRITERIA[1:3], ids=["finite", "discounted"])
@against(autodiff_visits, without_discount=undiscounted_visits)
def test_derivative_is_the_policys_visits(implementation, criterion):
    mdp = random_mdp(6, 2, 3, 0.1, 1, criterion=criterion)
    with jax.enable_x64(True):
        _, pairs, _, _ = model_visits(mdp, 0.8, jnp.asarray(mdp.initial), True, "none", 1e-14, 100_000)
        pairs = pairs.sum(axis=0) if pairs.ndim == 3 else pairs
        close(implementation(mdp, 0.8, True), pairs, 1e-11)


@pytest.mark.parametrize("causal", [True, False], ids=["causal", "trajectory"])
@pytest.mark.parametrize("criterion", CRITERIA, ids=["finite", "discount", "discounted", "until"])
def test_derivatives_by_autodiff_forward_pass_and_differences(criterion, causal):
    if isinstance(criterion, Discounted) and not causal:
        criterion = Discounted(0.2)  # a chance of ending below which evidence grows for ever
    mdp = random_mdp(6, 2, 3, 0.7 if isinstance(criterion, UntilTermination) else 0.1, 1, criterion=criterion)
    with jax.enable_x64(True):
        gradient = autodiff_visits(mdp, 0.8, causal)
        _, pairs, _, code = model_visits(mdp, 0.8, jnp.asarray(mdp.initial), causal, "none", 1e-13, 100_000)
        differences = finite_differences(mdp, 0.8, causal)
    pairs = np.asarray(pairs)
    assert int(code) == 0
    close(gradient, pairs.sum(axis=0) if pairs.ndim == 3 else pairs, 1e-10)
    close(gradient, differences, 1e-8)


@pytest.mark.parametrize("criterion", CRITERIA[:3], ids=["finite", "discount", "discounted"])
def test_visits_have_a_symmetric_derivative(criterion):
    mdp = random_mdp(6, 2, 3, 0.1, 1, criterion=criterion)
    with jax.enable_x64(True):
        curvature = np.asarray(jax.hessian(total(mdp, 0.8, True))(jnp.asarray(mdp.reward))).reshape(12, 12)
    close(curvature, curvature.T, 1e-12)  # imitation 1.0.1: asymmetric by 7 %
    assert np.linalg.eigvalsh(curvature).min() > -1e-12


@pytest.mark.row("E1.16", "S64")
@against("problem", without_prior="none", uniform_prior="uniform")
def test_smoothed_pairs_have_the_prior(implementation):
    instance, tau = plain_instance(), 0.7
    world = trajectories(instance)
    expected = world.pairs_under(world.log_posterior(tau))
    mdp = problem(instance)
    start = world.states_under(world.log_posterior(tau))[0]
    with jax.enable_x64(True):
        _, pairs, _, _ = model_visits(mdp, tau, jnp.asarray(start), False, implementation, 1e-12, 1)

        def tilted(reward):
            log_z = log_partition(paid(mdp, reward), tau, causal=False, prior=implementation)
            return soft_maximum(log_z, 1.0, jnp.log(jnp.asarray(mdp.initial)))

        gradient = tau * jax.grad(tilted)(jnp.asarray(mdp.reward))
    close(pairs, expected)
    close(gradient, expected.sum(axis=0))


@pytest.mark.parametrize("criterion", CRITERIA[:3], ids=["finite", "discount", "discounted"])
def test_visits_are_conserved(criterion):
    mdp = random_mdp(6, 2, 3, 0.0, 1, criterion=criterion)
    with jax.enable_x64(True):
        _, pairs, _, _ = model_visits(mdp, 1.0, jnp.asarray(mdp.initial), True, "none", 1e-15, 100_000)
    pairs = np.asarray(pairs)
    discount = float(criterion.discount)
    if pairs.ndim == 3:
        close(pairs.sum(axis=(1, 2)), discount ** np.arange(6))
        for time in range(5):
            close(pairs[time + 1].sum(axis=1), mdp.push(pairs[time]), 1e-6)
    else:
        close(pairs.sum(), 1.0 / (1.0 - discount), 1e-10)


@pytest.mark.parametrize("criterion", CRITERIA, ids=["finite", "discount", "discounted", "until"])
@against(
    PotentialShaping.of,
    wrong_discount=lambda mdp, reward, potential: PotentialShaping(reward, potential, 0.5),
    sign=lambda mdp, reward, potential: PotentialShaping.of(mdp, reward, -potential),
)
def test_shaping_moves_the_value_by_the_potential(implementation, criterion):
    mdp = random_mdp(6, 2, 3, 0.6, 1, criterion=criterion)
    potential = np.random.default_rng(0).normal(size=6)
    shaped = with_reward(mdp, implementation(mdp, TableReward.of(mdp), potential))
    close(log_partition(shaped, 0.8), log_partition(mdp, 0.8) - potential / 0.8, 1e-10)
    if isinstance(criterion, FiniteHorizon) and criterion.discount == 1.0:
        shaped_luck = log_partition(shaped, 0.8, causal=False)
        close(shaped_luck, log_partition(mdp, 0.8, causal=False) - potential / 0.8, 1e-10)


def test_scale_and_shift():
    mdp = random_mdp(6, 2, 3, 0.0, 1, criterion=FiniteHorizon(5))
    close(log_partition(mdp, 0.5), log_partition(paid(mdp, mdp.reward / 0.5), 1.0))
    close(log_partition(paid(mdp, mdp.reward + 2.0), 0.5), log_partition(mdp, 0.5) + 5 * 2.0 / 0.5)


def test_small_temperatures_give_the_best_return():
    instance = deterministic_instance()
    close(0.001 * log_partition(problem(instance), 0.001)[0], trajectories(instance).best_return(), 5e-3)


@pytest.mark.parametrize("causal", [True, False], ids=["causal", "trajectory"])
def test_large_rewards_and_long_horizons_stay_finite(causal, x64):
    mdp = random_mdp(100, 4, 4, 0.0, 1, criterion=FiniteHorizon(500))
    dtype = np.float64 if x64 else np.float32
    reward = np.random.default_rng(0).uniform(-50.0, 50.0, (100, 4)).astype(dtype)
    value, slopes = jax.value_and_grad(total(cast_floats(mdp, dtype), 1.0, causal))(jnp.asarray(reward))
    assert np.isfinite(value)
    close(slopes.sum(), 500.0, 1e-9 if x64 else 1e-3)


def test_forms_of_the_model_agree():
    instance = random_instance()
    plain = plain_instance()
    for causal in (True, False):
        dense, lists = (log_partition(problem(plain, form), causal=causal) for form in ("dense", "successors"))
        close(dense, lists)
    with pytest.raises(ValueError, match="dense"):
        problem(instance, "dense")


def test_temperature_derivative():
    mdp = random_mdp(6, 2, 3, 0.1, 1, criterion=FiniteHorizon(5))
    with jax.enable_x64(True):
        slope = jax.grad(lambda tau: log_partition(mdp, tau)[0])(0.8)
    close(slope, (log_partition(mdp, 0.8 + 1e-5)[0] - log_partition(mdp, 0.8 - 1e-5)[0]) / 2e-5, 1e-7)


def test_divergence_is_infinite_and_errors_come_first():
    mdp = random_mdp(4, 2, 2, 0.1, 1, criterion=UntilTermination())
    assert np.isinf(log_partition(mdp, causal=False)).any()
    endless = random_mdp(4, 2, 2, 0.0, 1, criterion=AverageReward())
    with pytest.raises(ValueError, match="AverageReward"):
        log_partition(endless)
    with pytest.raises(ValueError, match="temperature must be positive"):
        log_partition(mdp, -1.0)
    with pytest.raises(ValueError, match="log_prior"):
        log_partition(mdp, prior="problem")


def test_logsumexp_of_the_oracle():
    assert logsumexp([0.0, 0.0]) == pytest.approx(np.log(2.0))
