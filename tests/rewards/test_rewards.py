"""Rewards: tables against sums over outcomes, shaping, problems that pay them, files."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from clauses import against
from enumeration import plain_instance, random_instance
from instances import close, problem
from optimality import (
    MLP,
    Discounted,
    FiniteHorizon,
    LinearReward,
    NetworkReward,
    NormalizedReward,
    PotentialShaping,
    SoftValueIteration,
    TableReward,
    ValueIteration,
    load_reward,
    log_partition,
    random_mdp,
    save_reward,
    solve,
    with_reward,
)
from optimality.rewards.on_tables import expected
from optimality.rewards.on_tables import with_reward as on_tables

RANDOM = np.random.default_rng(0)
MDP = problem(random_instance())
PLAIN = problem(plain_instance())
STATES, PAIRS = RANDOM.normal(size=(3, 4)), RANDOM.normal(size=(3, 2, 4))
WEIGHTS = RANDOM.normal(size=4)


def networks(scope, features=None):
    return NetworkReward.build(jax.random.key(0), MDP, network=MLP(hidden=(5,)), scope=scope, features=features)


REWARDS = {
    "linear-state": LinearReward(STATES, WEIGHTS),
    "linear-next": LinearReward(STATES, WEIGHTS, "next-state"),
    "linear-pair": LinearReward(PAIRS, WEIGHTS),
    "table-state": TableReward(STATES[:, 0]),
    "table-next": TableReward(STATES[:, 0], "next-state"),
    "table-pair": TableReward(PAIRS[..., 0]),
    "network-state": networks("state"),
    "network-next": networks("next-state", STATES),
    "network-pair": networks("state-action"),
    "network-transition": networks("transition"),
    "shaped": PotentialShaping.of(MDP, LinearReward(STATES, WEIGHTS), STATES[:, 1]),
    "normalized": NormalizedReward(LinearReward(STATES, WEIGHTS, "next-state"), 2.0, -0.3),
}


def over_outcomes(mdp, reward, *, ends=True):
    """By a plain sum; without `ends`, what terminates counts nothing."""
    outcomes, table = mdp.outcomes(), np.zeros(mdp.shape)
    for s, a, t, p, _, over in zip(*outcomes, strict=True):
        if ends or not over:
            table[s, a] += p * float(reward(int(s), int(a), int(t), bool(over)))
    return table


@pytest.mark.parametrize("name", REWARDS)
@pytest.mark.parametrize("mdp", [MDP, PLAIN], ids=["lists", "dense"])
def test_tables_are_expectations(name, mdp):
    with jax.enable_x64(True):
        reward = REWARDS[name]
        allowed = np.asarray(mdp.allowed)
        tolerance = 1e-6 if name.startswith("network") else 1e-12
        found = np.asarray(jax.jit(lambda r: r.table(mdp))(reward))
        close(found[allowed], over_outcomes(mdp, reward)[allowed], tolerance)
        close(np.asarray(expected(mdp, reward))[allowed], found[allowed], tolerance)


@against(
    lambda reward: reward.table(MDP),
    forgets_endings=lambda reward: over_outcomes(MDP, reward, ends=False),
    of_the_state=lambda reward: np.broadcast_to(np.asarray(reward.values)[:, None], MDP.shape),
)
def test_endings_count_where_they_lead(implementation):
    reward = TableReward(STATES[:, 0], "next-state")
    with jax.enable_x64(True):
        allowed = np.asarray(MDP.allowed)
        close(np.asarray(implementation(reward))[allowed], over_outcomes(MDP, reward)[allowed])


@against(
    lambda plain, potential: PotentialShaping.of(MDP, plain, potential),
    after_endings=lambda plain, potential: _ShapedAfterEndings(plain, potential, 1.0),
)
def test_an_endings_potential_is_zero(implementation):
    plain, potential = TableReward(STATES[:, 0]), STATES[:, 1]
    shaped = implementation(plain, potential)
    with jax.enable_x64(True):
        close(shaped(0, 0, 1, True), plain(0, 0, 1, True) - potential[0])
        close(shaped(0, 0, 1, False), plain(0, 0, 1, False) + potential[1] - potential[0])


class _ShapedAfterEndings(PotentialShaping):
    def __call__(self, observation, action, next_observation, terminated):
        return super().__call__(observation, action, next_observation, False)


@pytest.mark.parametrize("criterion", [FiniteHorizon(5, 0.9), Discounted(0.9)], ids=["finite", "discounted"])
def test_shaping_changes_no_policy(criterion):
    mdp = random_mdp(6, 2, 3, 0.2, 1, criterion=criterion)
    shaped = with_reward(mdp, PotentialShaping.of(mdp, TableReward.of(mdp), RANDOM.normal(size=6)))
    for method in (SoftValueIteration(temperature=0.5), ValueIteration()):
        close(solve(mdp, method).policy.probabilities, solve(shaped, method).policy.probabilities, 1e-9)


def test_a_potential_may_be_a_network():
    network = NetworkReward.build(jax.random.key(1), MDP, network=MLP(hidden=(3,)))
    potential = _Potential(network)
    with jax.enable_x64(True):
        table = np.asarray(jax.vmap(potential)(jnp.arange(3)))
        by_array = PotentialShaping.of(MDP, TableReward(STATES[:, 0]), table.astype(float)).table(MDP)
        close(PotentialShaping.of(MDP, TableReward(STATES[:, 0]), potential).table(MDP), by_array, 1e-6)


class _Potential:
    """A function of an observation, as a leafless callable would be."""

    def __init__(self, reward):
        self.reward = reward

    def __call__(self, observation):
        return self.reward(observation, 0, observation, False).astype(jnp.float64)


def test_problems_that_pay():
    reward = REWARDS["linear-next"]
    made = with_reward(MDP, reward)
    assert isinstance(made.reward, np.ndarray)
    assert made.model.has_deviation
    outcomes = made.outcomes()
    with jax.enable_x64(True):
        by_hand = [float(reward(int(s), int(a), int(t), bool(o))) for s, a, t, _, _, o in zip(*outcomes, strict=True)]
    close(outcomes.reward, by_hand)
    close(made.criterion.terminal_reward, np.zeros(3))
    assert not with_reward(MDP, REWARDS["linear-pair"]).model.has_deviation
    assert not with_reward(MDP, reward, per_outcome=False).model.has_deviation
    close(with_reward(MDP, reward, terminal_reward=2.0).criterion.terminal_reward, np.full(3, 2.0))


def test_risk_sees_the_outcomes(x64):
    """Exact inference under jit and by the concrete problem; dense and lists."""
    for mdp in (MDP, PLAIN):
        reward = TableReward(STATES[:, 0], "next-state")
        concrete = log_partition(with_reward(mdp, reward), causal=False)
        mean = log_partition(with_reward(mdp, reward, per_outcome=False), causal=False)
        traced = jax.jit(lambda r, m=mdp: log_partition(on_tables(m, r), causal=False))(reward)
        assert np.abs(concrete - mean).max() > 1e-3
        close(traced, concrete, 1e-11 if x64 else 1e-5)


def test_derivative_through_planning():
    def worth(weights):
        return log_partition(with_reward(MDP, LinearReward(PAIRS, weights)))[0]

    with jax.enable_x64(True):
        slope = jax.grad(worth)(jnp.asarray(WEIGHTS))
        step = 1e-6 * np.eye(4)
        close(slope, [(worth(WEIGHTS + d) - worth(WEIGHTS - d)) / 2e-6 for d in step], 1e-7)


def test_normalized():
    normalized = NormalizedReward.of(MDP, TableReward(PAIRS[..., 0]))
    with jax.enable_x64(True):
        values = np.asarray(normalized.table(MDP))[MDP.allowed]
    close(values.mean(), 0.0)
    close(values.std(), 1.0)
    with pytest.raises(ValueError, match="no scale"):
        NormalizedReward.of(MDP, TableReward(np.ones(3)))
    with pytest.raises(ValueError, match="finite"):
        NormalizedReward(TableReward(np.ones(3)), np.inf)


@pytest.mark.parametrize("name", REWARDS)
def test_parameters_and_files(name, tmp_path):
    reward = REWARDS[name]
    kept = [
        leaf for leaf, keep in zip(jax.tree.leaves(reward), jax.tree.leaves(reward.parameters()), strict=True) if keep
    ]
    sizes = {"linear": 4, "table-state": 3, "table-next": 3, "table-pair": 6, "shaped": 7, "normalized": 4}
    size = sum(np.size(leaf) for leaf in kept)
    assert size == sizes.get(name, sizes.get(name.split("-")[0], size))
    again = load_reward(save_reward(reward, tmp_path))
    assert type(again) is type(reward)
    assert jax.tree.structure(again) == jax.tree.structure(reward)
    for ours, theirs in zip(jax.tree.leaves(reward), jax.tree.leaves(again), strict=True):
        assert np.array_equal(ours, theirs)


def test_files_that_are_no_rewards(tmp_path):
    with pytest.raises(ValueError, match="cannot load a reward"):
        load_reward(tmp_path / "none.safetensors")
    (tmp_path / "bad.safetensors").write_bytes(save_reward(REWARDS["shaped"], tmp_path).read_bytes()[:-1])
    with pytest.raises(ValueError, match=r"bad\.safetensors"):
        load_reward(tmp_path / "bad.safetensors")


def test_vectors_without_a_table():
    reward = NetworkReward.build(
        jax.random.key(0), network=MLP(hidden=(4,)), scope="transition", observation_size=3, action_size=2
    )
    value = reward(jnp.ones(3), jnp.zeros(2), jnp.ones(3), False)
    assert value.shape == ()
    assert reward(jnp.ones(3), jnp.zeros(2), jnp.ones(3), True) != value


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (lambda: LinearReward(np.ones(3)), "features must be"),
        (lambda: LinearReward(STATES, np.ones(3)), "weights must have shape"),
        (lambda: LinearReward(STATES * np.nan), "nan at"),
        (lambda: LinearReward(PAIRS, scope="state"), "scope of LinearReward"),
        (lambda: TableReward(np.ones((2, 2, 2))), "values must be"),
        (lambda: TableReward([1.0, np.inf]), "inf at"),
        (lambda: TableReward(np.ones(5)).table(MDP), "made for"),
        (lambda: LinearReward(np.ones((3, 3, 2))).table(MDP), "made for"),
        (lambda: PotentialShaping.of(MDP, TableReward(np.ones(3)), np.ones(4)), "potential has shape"),
        (lambda: NetworkReward.build(jax.random.key(0), MDP, features=np.ones((4, 2))), "features must be"),
        (lambda: NetworkReward.build(jax.random.key(0)), "needs observation_size"),
        (lambda: networks("state").table(random_mdp(4, 2, 2, criterion=FiniteHorizon(2))), "made for"),
    ],
)
def test_at_the_door(make, match):
    with pytest.raises(ValueError, match=match):
        make()
