"""Episodic REPS as a learner."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from clauses import against
from compilations import counted_compilations
from optimality.environments.catalog import make
from optimality.experiments.saved_policy import load_policy, policy_bytes
from optimality.learning.episodic_reps import Batch, EpisodicREPS, EpisodicREPSState, _importance
from optimality.learning.episodic_search import SearchDistribution
from optimality.policies.features import Identity
from optimality.sampling.compiled_runner import CompiledRunner
from optimality.sampling.loop import begin, episode_returns, play, run_chunk, strong


def trained(steps, seed=0, **fields):
    environment = make("DoubleIntegrator-v0")
    learner = strong(EpisodicREPS(**{"action_scale": 1.0, **fields}))
    state, runner = begin(learner, strong(CompiledRunner(environment, learner.environments)), jax.random.key(seed))
    state, runner, metrics = run_chunk(learner, state, runner, jax.random.key(100 + seed), steps)
    return learner, state, runner, metrics


@pytest.mark.slow
def test_the_double_integrator_is_learned():
    """The optimum is -0.960; seeds 0 to 3 reached -1.018, -0.976, -0.981, -0.978."""
    for seed in range(2):
        learner, state, _, metrics = trained(30, seed)
        runner = CompiledRunner(make("DoubleIntegrator-v0"), 64)
        played = play(learner.policy(state, explore=False), runner, jax.random.key(9))
        assert episode_returns(played).mean() > -1.1
        assert metrics["policy_kl"] <= 1.0 + 1e-4


@pytest.mark.parametrize(
    "fields", [{"window": 2, "context": Identity()}, {"baseline": "linear", "warm_up": 64, "covariance": "diagonal"}]
)
def test_options_stay_finite_and_saved_policies_act_alike(fields, tmp_path):
    learner, state, _, metrics = trained(3, environments=16, initial_deviation=0.1, **fields)
    assert metrics["applied"] == 1.0
    again = trained(3, environments=16, initial_deviation=0.1, **fields)[1]
    np.testing.assert_array_equal(state.search.W, again.search.W)
    policy = learner.policy(state, explore=False)
    (tmp_path / "policy.safetensors").write_bytes(policy_bytes(policy))
    seen = jnp.array([0.3, -0.2], jnp.float32)
    key = jax.random.key(0)
    _, action, _ = policy.act(policy.start(seen, key), seen, key)
    np.testing.assert_allclose(load_policy(tmp_path / "policy.safetensors").act(seen), action, rtol=1e-6)


def test_numbers_compile_nothing_and_wrong_choices_are_refused():
    _, state, runner, _ = trained(2, environments=16)
    with counted_compilations() as compilations:
        other = strong(EpisodicREPS(action_scale=1.0, environments=16, epsilon=0.3, initial_deviation=0.2))
        run_chunk(other, state, runner, jax.random.key(5), 2)
    assert compilations.count == 0
    for fields, match in (({}, "no bounds"), ({"window": 0}, "window"), ({"context": Identity()}, "at least 4")):
        scale = {} if match == "no bounds" else {"action_scale": 1.0}
        spec = CompiledRunner(make("DoubleIntegrator-v0"), 2).spec
        with pytest.raises(ValueError, match=match):
            EpisodicREPS(**fields, **scale).init(spec, jax.random.key(0))


MEANS = np.array([[0.5, -0.2], [0.0, 0.0], [-0.4, 0.3]])
FACTORS = np.array([[[0.8, 0.0], [0.2, 0.7]], [[1.0, 0.0], [0.0, 1.0]], [[1.2, 0.0], [-0.3, 0.9]]])
DRAWS = 4000


def window(filled):
    """Three batches, newest first, each drawn from its own search; `filled` of them are there."""
    random = np.random.default_rng(3)
    theta = MEANS[:, None] + np.einsum("bij,bnj->bni", FACTORS, random.normal(size=(3, DRAWS, 2)))
    theta[filled:] = 0.0  # as `init` leaves them
    searches = [SearchDistribution(jnp.asarray(m[None]), jnp.asarray(f)) for m, f in zip(MEANS, FACTORS, strict=True)]
    search = jax.tree.map(lambda *leaves: jnp.stack(leaves).astype(jnp.float32), *searches)
    ones, theta = jnp.ones((3, DRAWS, 1), jnp.float32), jnp.asarray(theta, jnp.float32)
    returns = jnp.zeros((3, DRAWS), jnp.float32)
    return Batch(theta, ones, ones, returns, search, jnp.arange(3) < filled), theta.reshape(-1, 2), ones.reshape(-1, 1)


def densities(theta):
    laws = [scipy.stats.multivariate_normal(m, f @ f.T) for m, f in zip(MEANS, FACTORS, strict=True)]
    return np.stack([law.pdf(theta) for law in laws])


def one_by_one(batches, theta, context):
    """Wrong: over the search that drew the sample, and not over the mixture of all."""
    density, of = densities(theta), np.repeat(np.arange(3), DRAWS)
    used = np.repeat(np.asarray(batches.filled), DRAWS)
    return np.where(used, np.log(density[0]) - np.log(density[of, np.arange(of.size)]), -np.inf)


def unweighted(batches, theta, context):
    return np.where(np.repeat(np.asarray(batches.filled), DRAWS), 0.0, -np.inf)


@pytest.mark.parametrize("filled", [1, 2, 3])
@against(_importance, one_by_one=one_by_one, unweighted=unweighted)
def test_weights_of_the_window_are_the_newest_density_over_the_mixture(implementation, filled):
    """With one batch the three agree, apart from a constant: then a wrong form is asked for two."""
    filled = filled if implementation is _importance else max(filled, 2)
    batches, theta, context = window(filled)
    log_weights = np.asarray(implementation(batches, theta, context), np.float64)
    density = densities(np.asarray(theta))
    expected = density[0] / np.mean(density[:filled], axis=0)
    used = np.repeat(np.arange(3) < filled, DRAWS)
    assert np.all(log_weights[~used] == -np.inf)
    weights = np.exp(log_weights)
    np.testing.assert_allclose(weights[used] / weights[used].sum(), expected[used] / expected[used].sum(), rtol=1e-4)


@pytest.mark.parametrize("filled", [2, 3])
@against(_importance, unweighted=unweighted)
def test_weights_of_the_window_estimate_moments_of_the_newest_search(implementation, filled):
    """`E theta` and `E theta theta'` under the newest search, known in closed form; six deviations."""
    batches, theta, context = window(filled)
    weights = np.exp(np.asarray(implementation(batches, theta, context), np.float64))
    weights, theta = weights / weights.sum(), np.asarray(theta, np.float64)
    second = FACTORS[0] @ FACTORS[0].T + np.outer(MEANS[0], MEANS[0])
    pairs = [(theta[:, 0], MEANS[0, 0]), (theta[:, 1], MEANS[0, 1])]
    pairs += [(theta[:, i] * theta[:, j], second[i, j]) for i in range(2) for j in range(i + 1)]
    for values, exact in pairs:
        estimate = weights @ values
        assert abs(estimate - exact) < 6.0 * np.sqrt(np.sum(weights**2 * (values - estimate) ** 2))


def improved(seed, **fields):
    """The search and the metrics after one update on eight episodes of random returns."""
    random = np.random.default_rng(seed)
    search = SearchDistribution(jnp.zeros((1, 3)), jnp.eye(3))
    state = EpisodicREPSState(search, None, None, None, None, None, None, None, jnp.ones((), bool))
    theta, returns = (jnp.asarray(random.normal(size=shape), jnp.float32) for shape in ((8, 3), (8,)))
    batch = Batch(theta, jnp.ones((8, 1)), jnp.zeros((8, 2)), returns, search, jnp.ones((), bool))
    learner = strong(EpisodicREPS(**fields))
    search, metrics = learner.improved(state, batch)
    assert all(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves((search, metrics)))
    assert metrics["applied"] == 1.0
    return {name: float(value) for name, value in metrics.items()}


def test_without_the_constraint_the_search_leaves_the_bound():
    """Few episodes: the plain fit is nats away from the old search, the weights are not."""
    for seed in range(3):
        bounded, plain = (improved(seed, epsilon=0.5, constrain_search=flag) for flag in (True, False))
        assert bounded["policy_kl"] == pytest.approx(0.5, rel=1e-4)
        assert plain["policy_kl"] > 1.0
        assert bounded["kl"] == pytest.approx(0.5, rel=1e-4)
        assert plain["kl"] == pytest.approx(0.5, rel=1e-4)


@pytest.mark.parametrize("epsilon", [2.08, 3.0])
def test_epsilon_above_log_n_collapses_and_says_so(epsilon):
    """`log 8` is 2.0794."""
    for seed in range(5):
        metrics = improved(seed, epsilon=epsilon)
        assert metrics["collapsed"] == 1.0
        assert metrics["effective_sample_size"] == pytest.approx(1.0)
        assert metrics["kl"] == pytest.approx(np.log(8.0), rel=1e-5)
        assert metrics["policy_kl"] <= epsilon + 1e-4
