"""REINFORCE: its gradient against the enumeration of all batches of two episodes; time limits; CartPole over seeds."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

from clauses import against
from compilations import counted_compilations
from optimality.environments.catalog import make
from optimality.environments.probes import ActionObservationReward, EndlessReward
from optimality.environments.wrappers import TimeLimit
from optimality.learning.reinforce import Reinforce
from optimality.networks.mlp import MLP
from optimality.sampling.collection import collect
from optimality.sampling.compiled_runner import CompiledRunner
from optimality.sampling.loop import begin, episode_returns, play, run_chunk, strong
from optimality.sampling.transitions import Rollout
from short_episodes import DISCOUNT, EPISODES, FEATURES, HORIZON, SPEC, TEMPERATURE, columns, exact_gradient


def ours(learner, parameters, normalizer, rollout, rewards):
    return learner.loss(parameters, normalizer, rollout, rewards)[0]


def counts_padding(learner, parameters, normalizer, rollout, rewards):
    everything = eqx.tree_at(lambda r: r.transitions.valid, rollout, jnp.ones_like(rollout.transitions.valid))
    return ours(learner, parameters, normalizer, everything, rewards)


def shrinking_baseline(learner, *arguments):
    return ours(Reinforce(**{**CASE, "credit": learner.credit, "baseline": "mean"}), *arguments)


def drops_the_state_discount(learner, parameters, normalizer, rollout, rewards):
    """Later steps count as much as the first: what much code does."""
    t, g = rollout.transitions, learner.returns(rewards, rollout.transitions.done)
    log_prob = jax.vmap(jax.vmap(parameters.actor.log_prob))(t.observation, t.action)
    return -jnp.mean(jnp.sum(jnp.where(t.valid, log_prob * g, 0.0), axis=0))


def credits_what_follows_only(learner, parameters, normalizer, rollout, rewards):
    """An action's own reward left out."""
    later = jnp.concatenate([jnp.zeros((1, 2)), rewards[1:]])
    return ours(learner, parameters, normalizer, rollout, later)


def forgets_later_entropies(learner, parameters, normalizer, rollout, rewards):
    """An entropy bonus beside the gradient, as PPO has it."""
    hard = eqx.tree_at(lambda m: m.temperature, learner, 0.0)
    t, power = rollout.transitions, DISCOUNT ** np.arange(HORIZON, dtype=np.float32)[:, None]
    entropy = jax.vmap(jax.vmap(parameters.actor.entropy))(t.observation)
    bonus = jnp.mean(jnp.sum(jnp.where(t.valid, power * entropy, 0.0), axis=0))
    return ours(hard, parameters, normalizer, rollout, rewards) - TEMPERATURE * bonus


CASE = {"discount": DISCOUNT, "temperature": TEMPERATURE, "network": MLP(hidden=(3,))}


@pytest.mark.parametrize(
    ("credit", "baseline"),
    [("to_go", "none"), ("to_go", "leave_one_out"), ("to_go", "value"), ("total", "none"), ("total", "leave_one_out")],
)
@against(
    ours,
    counts_padding=counts_padding,
    shrinking_baseline=shrinking_baseline,
    drops_the_state_discount=drops_the_state_discount,
    credits_what_follows_only=credits_what_follows_only,
    forgets_later_entropies=forgets_later_entropies,
)
def test_gradient_is_unbiased(implementation, credit, baseline):
    """Weighted by their probabilities, the gradients of all pairs of episodes sum to that of the objective."""
    learner = Reinforce(**CASE, credit=credit, baseline=baseline)
    state = learner.init(SPEC, jax.random.key(2))
    parameters = eqx.tree_at(lambda p: p.actor.network.weights, state.parameters, tuple(
        w * (1.0 if i == 0 else 60.0) for i, w in enumerate(state.parameters.actor.network.weights)
    ))  # fmt: skip
    if baseline == "value":  # a critic continues what the limit cut, which no other form does: nothing is cut here
        parameters = eqx.tree_at(lambda p: p.critic.biases[-1], parameters, jnp.asarray([0.7]))
    table = jax.tree.map(lambda *x: np.stack(x), *(columns(path) for path, _ in EPISODES))
    if baseline == "value":
        table = eqx.tree_at(lambda t: t.truncated, table, table.truncated & False)
    log_p = np.asarray(jax.vmap(lambda x: jax.nn.log_softmax(parameters.actor.network(x)))(jnp.asarray(FEATURES)))
    chances = np.array([c * np.exp(sum(log_p[s, a] for s, a, _ in path)) for path, c in EPISODES])
    assert chances.sum() == pytest.approx(1.0, abs=1e-6)
    first, second = (x.reshape(-1) for x in np.indices((len(EPISODES), len(EPISODES))))

    def weighted(actor):
        def pair(i, j):
            batch = jax.tree.map(lambda x: jnp.stack([jnp.asarray(x)[i], jnp.asarray(x)[j]], axis=1), table)
            moved = eqx.tree_at(lambda p: p.actor, parameters, actor)
            return implementation(learner, moved, state.normalizer, Rollout(batch, None), batch.reward)

        losses = jax.vmap(pair)(jnp.asarray(first), jnp.asarray(second))
        return jnp.sum(jnp.asarray(chances[first] * chances[second], jnp.float32) * losses)

    found = jax.jit(jax.grad(weighted))(parameters.actor)
    expected = exact_gradient(parameters.actor, TEMPERATURE)
    for ours_, exact in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(ours_, -exact, rtol=2e-3, atol=2e-4)


SMALL = {"environments": 8, "episodes": 2, "network": MLP(hidden=(16,)), "learning_rate": 1e-2}


def trained(environment, steps, seed=0, **fields):
    learner = strong(Reinforce(**{**SMALL, **fields}))
    state, runner = begin(learner, strong(CompiledRunner(environment, learner.environments)), jax.random.key(seed))
    state, runner, metrics = run_chunk(learner, state, runner, jax.random.key(100 + seed), steps)
    return learner, state, runner, metrics


def test_a_critic_goes_on_after_the_time_limit():
    """Reward 1 for ever, a limit of 8 steps, discount 0.9: the value is 10; without the critic's tail the return of the
    first step is 5.7, and the critic's mean over the steps 3.6."""
    _, state, _, _ = trained(TimeLimit(EndlessReward(), 8), 400, discount=0.9, baseline="value")
    assert float(state.parameters.critic(jnp.zeros(1))[0]) == pytest.approx(10.0, abs=0.1)


@pytest.mark.parametrize("continuous", [False, True])
def test_probes_are_solved(continuous):
    environment = TimeLimit(ActionObservationReward(continuous=continuous), 4)
    learner, state, _, _ = trained(environment, 300, max_gradient_norm=1.0)
    played = play(learner.policy(state, explore=False), CompiledRunner(environment, 64), jax.random.key(9))
    assert episode_returns(played).mean() > (0.0 if continuous else 1.0) - 0.05


def test_numbers_compile_nothing_and_wrong_choices_are_refused():
    environment = TimeLimit(EndlessReward(), 8)
    _, state, runner, _ = trained(environment, 3)
    with counted_compilations() as compilations:
        other = strong(Reinforce(**{**SMALL, "learning_rate": 1e-4, "temperature": 0.3, "discount": 0.5}))
        run_chunk(other, state, runner, jax.random.key(5), 3)
    assert compilations.count == 0
    with pytest.raises(ValueError, match="at least 2 episodes"):
        Reinforce(episodes=1).init(CompiledRunner(environment, 1).spec, jax.random.key(0))
    with pytest.raises(ValueError, match="what follows a step"):
        Reinforce(baseline="value", credit="total").init(CompiledRunner(environment, 1).spec, jax.random.key(0))


def test_cartpole_is_learned():
    """60 updates from 8 episodes each: over seeds 0 to 7 the evaluation had mean 499 and smallest value 490; untrained
    policies get about 20."""
    scores = []
    for seed in range(2):
        learner, state, _, _ = trained(
            make("CartPole-v1"), 60, seed, episodes=1, learning_rate=5e-3, network=MLP(hidden=(64, 64))
        )
        played = play(learner.policy(state, explore=False), CompiledRunner(make("CartPole-v1"), 20), jax.random.key(7))
        scores.append(episode_returns(played).mean())
    assert np.mean(scores) > 400


def test_the_noise_is_that_of_the_parts_and_their_sum_the_gradient():
    """Twelve episodes make six parts of two. Without a baseline the parts know nothing of one another."""
    learner = Reinforce(network=MLP(hidden=(4,)), baseline="none", episodes=1)
    runner = CompiledRunner(make("CartPole-v1", time_limit=20), 12)
    state, runner = begin(strong(learner), runner, jax.random.key(0), None)
    policy = learner.policy(state, explore=True)
    rollout = collect(learner.collection, policy, runner, jax.random.key(1))[1]
    rewards = jnp.where(rollout.transitions.valid, rollout.transitions.reward, 0.0)
    found, noise, _ = learner.gradient(state.parameters, state.normalizer, rollout, rewards)

    def flat_gradient(rollout, rewards):
        whole = jax.grad(lambda p: learner.loss(p, state.normalizer, rollout, rewards)[0])(state.parameters)
        return np.asarray(ravel_pytree(whole.actor)[0], np.float64)

    np.testing.assert_allclose(ravel_pytree(found.actor)[0], flat_gradient(rollout, rewards), rtol=1e-4, atol=1e-4)
    parts = [
        flat_gradient(jax.tree.map(lambda x, i=i: x[:, 2 * i : 2 * i + 2], rollout), rewards[:, 2 * i : 2 * i + 2])
        for i in range(6)
    ]
    standard_error = np.sqrt(np.sum(np.var(parts, axis=0, ddof=1)) / 6)
    assert float(noise) == pytest.approx(standard_error, rel=1e-4)
    assert float(noise) != pytest.approx(np.sqrt(np.sum(np.var(parts, axis=0)) / 6), rel=1e-2)


def test_observations_are_not_cut_where_they_are_not_normalized():
    """A normalizer that has seen nothing would cut them to 10."""
    learner = Reinforce(network=MLP(hidden=(4,)))
    runner = CompiledRunner(make("Pendulum-v1"), 2)
    state = learner.init(runner.spec, jax.random.key(0))
    assert learner.policy(state, explore=True).normalizer is None
