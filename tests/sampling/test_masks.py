"""Action masks: through runners, replay and learners; forbidden actions have probability 0 and no part in gradients."""

import equinox as eqx
import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from gymnasium import spaces

from clauses import against
from optimality.core.solve import solve
from optimality.environments.abstract import AbstractEnvironment
from optimality.environments.catalog import make
from optimality.environments.from_gymnasium import EnvironmentFailure
from optimality.environments.gymnasium_environment import GymnasiumEnvironment
from optimality.environments.tabular import TabularEnvironment
from optimality.environments.to_gymnasium import to_gymnasium_vector
from optimality.environments.wrappers import TimeLimit
from optimality.learning.actor import Actor, as_features
from optimality.learning.ppo import PPO
from optimality.learning.soft_q_learning import SoftQLearning
from optimality.networks.mlp import MLP
from optimality.planning.soft_value_iteration import SoftValueIteration
from optimality.problems.criterion import Discounted, UntilTermination
from optimality.problems.generators import chain, random_mdp
from optimality.sampling.collection import collect
from optimality.sampling.compiled_runner import CompiledRunner
from optimality.sampling.gymnasium_runner import GymnasiumRunner
from optimality.sampling.loop import begin, episode_returns, play, run_chunk, strong
from optimality.sampling.replay import Replay, example_transition, flat
from optimality.sampling.transitions import MaskedObservation, Steps, action_mask_of

OFFERED = np.array([[1, 1, 0, 0], [0, 1, 1, 0], [0, 0, 1, 1]], bool)
REWARD = np.array([[0, 1, 9, 9], [9, 1, 0, 9], [9, 9, 0, 1]], np.float32)  # 9: only where it is forbidden


class Offers(AbstractEnvironment):
    """Three places in a circle, each offering two of four actions; an episode is one round from a random place."""

    def reset(self, key):
        place = jax.random.randint(key, (), 0, 3)
        return place, jax.nn.one_hot(place, 3)

    def step(self, key, state, action):
        following = (state + 1) % 3
        never = jnp.zeros((), bool)
        return following, jax.nn.one_hot(following, 3), jnp.asarray(REWARD)[state, action], never, never

    @property
    def observation_space(self):
        return spaces.Box(0.0, 1.0, (3,), np.float32)

    @property
    def action_space(self):
        return spaces.Discrete(4)

    @property
    def time_limit(self):
        return None

    def action_mask(self, state):
        return jnp.asarray(OFFERED)[state]


class HostOffers(gymnasium.Env):
    """The same for Gymnasium, terminating after a round, with a last state that offers nothing."""

    observation_space = spaces.Box(0.0, 1.0, (3,), np.float32)
    action_space = spaces.Discrete(4)

    def __init__(self, empty_at=3, first_mask=True):
        self.empty_at, self.first_mask = empty_at, first_mask

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.place, self.time = int(self.np_random.integers(3)), 0
        return self._observation, self._info if self.first_mask else {}

    def step(self, action):
        assert OFFERED[self.place, action]
        reward = float(REWARD[self.place, action])
        self.place, self.time = (self.place + 1) % 3, self.time + 1
        return self._observation, reward, self.time == 3, False, self._info

    @property
    def _observation(self):
        return np.eye(3, dtype=np.float32)[self.place]

    @property
    def _info(self):
        return {"action_mask": OFFERED[self.place] & (self.time < self.empty_at)}


SMALL = PPO(rollout_steps=32, environments=4, network=MLP(hidden=(16,)), learning_rate=1e-2)


def runners():
    modes = gymnasium.vector.AutoresetMode
    return {
        "compiled": lambda: strong(CompiledRunner(TimeLimit(Offers(), 3), 4)),
        "gymnasium": lambda: GymnasiumRunner(GymnasiumEnvironment(HostOffers, 4)),
        "next-step": lambda: GymnasiumRunner(GymnasiumEnvironment(to_gymnasium_vector(TimeLimit(Offers(), 3), 4))),
        "same-step": lambda: GymnasiumRunner(
            GymnasiumEnvironment(to_gymnasium_vector(TimeLimit(Offers(), 3), 4, modes.SAME_STEP))
        ),
    }


@pytest.mark.parametrize("kind", runners())
def test_masks_belong_to_their_observations_and_forbidden_actions_are_never_taken(kind):
    learner = strong(SMALL)
    state, runner = begin(learner, runners()[kind](), jax.random.key(0))
    _, rollout = collect(Steps(40), learner.policy(state, explore=True), runner, jax.random.key(1))
    t = jax.tree.map(np.asarray, rollout.transitions)
    assert isinstance(t.observation, MaskedObservation)
    place = t.observation.observation.argmax(axis=-1)
    np.testing.assert_array_equal(t.observation.mask[t.valid], OFFERED[place][t.valid])
    assert OFFERED[place, t.action][t.valid].all()
    assert 10 < t.done.sum() < 60
    following = OFFERED[t.next_observation.observation.argmax(axis=-1)]
    if kind in ("gymnasium", "same-step"):  # the last mask offers nothing, or is not known: then everything
        following = following | t.done[..., None]
    np.testing.assert_array_equal(t.next_observation.mask[t.valid], following[t.valid])
    first = np.exp(t.extras["log_prob"][t.valid])
    np.testing.assert_allclose(first, 0.5, atol=0.02)  # uniform over what is offered


@pytest.mark.parametrize("kind", ["compiled", "gymnasium"])
def test_a_masked_problem_is_learned(kind):
    """The best allowed return is 3, a uniform policy gets 1.5; an unmasked one would go for the forbidden nines."""
    learner = strong(SMALL)
    state, runner = begin(learner, runners()[kind](), jax.random.key(0))
    state, _, _ = run_chunk(learner, state, runner, jax.random.key(1), 30)
    policy = learner.policy(state, explore=False)
    assert episode_returns(play(policy, runners()["compiled"](), jax.random.key(2))).tolist() == [3.0] * 4


SOFT = SoftQLearning(
    temperature=0.0,
    epsilon_start=0.2,
    epsilon_end=0.2,
    warm_up=40,
    capacity=500,
    environments=4,
    network=MLP(hidden=(16,)),
)


@pytest.mark.parametrize("kind", ["compiled", "gymnasium"])
def test_action_values_keep_to_masks(kind):
    """The same problem by Q-learning: uniform exploration and greedy targets know what is offered."""
    learner = strong(SOFT)
    state, runner = begin(learner, runners()[kind](), jax.random.key(0))
    runner, rollout = collect(Steps(40), learner.policy(state, explore=True), runner, jax.random.key(1))
    t = jax.tree.map(np.asarray, rollout.transitions)
    assert OFFERED[t.observation.observation.argmax(axis=-1), t.action].all()
    assert set(np.round(np.exp(t.extras["log_prob"]), 3).ravel()) == {np.float32(0.9), np.float32(0.1)}
    state, _, _ = run_chunk(learner, state, runner, jax.random.key(1), 300)
    policy = learner.policy(state, explore=False)
    assert episode_returns(play(policy, runners()["compiled"](), jax.random.key(2))).tolist() == [3.0] * 4


def test_a_table_of_action_values_keeps_to_masks():
    """Against soft value iteration in a problem where some states offer one action only; a table that took the soft
    maximum over forbidden ones, whose values stay 0, would be off by more than the tolerance."""
    free = random_mdp(4, 3, 3, seed=1, criterion=Discounted(0.8))
    problem = eqx.tree_at(lambda t: t.allowed, free, np.array([[1, 0, 0], [1, 1, 1], [0, 1, 1], [0, 0, 1]], bool))
    exact = solve(problem, SoftValueIteration(temperature=0.5)).details.q
    numbers = {"discount": 0.8, "temperature": 0.5, "epsilon_start": 0.3, "epsilon_end": 0.3}
    learner = strong(SoftQLearning(**numbers, warm_up=0, rollout_steps=64, environments=16))
    runner = strong(CompiledRunner(TabularEnvironment(problem), 16))
    state, runner = begin(learner, runner, jax.random.key(0))
    table = run_chunk(learner, state, runner, jax.random.key(1), 100)[0].values
    allowed = np.asarray(problem.allowed)
    assert (np.asarray(table.visits)[~allowed] == 0).all()
    assert np.abs(np.asarray(table.values) - exact)[allowed].max() < 0.05  # 0.018; forbidden pairs are 0.6 to 1.3 off


def test_replay_keeps_masks():
    learner = strong(SMALL)
    state, runner = begin(learner, runners()["compiled"](), jax.random.key(0))
    policy = learner.policy(state, explore=True)
    _, rollout = collect(Steps(5), policy, runner, jax.random.key(1))
    replay = Replay.empty(example_transition(runner.spec, policy), 32).add(flat(rollout.transitions))
    drawn = replay.sample(jax.random.key(2), 16)
    place = np.asarray(drawn.observation.observation).argmax(axis=-1)
    np.testing.assert_array_equal(drawn.observation.mask, OFFERED[place])
    np.testing.assert_array_equal(drawn.next_observation.mask, OFFERED[(place + 1) % 3])


def test_masks_are_carried_only_where_something_is_forbidden():
    table = chain(criterion=UntilTermination())
    assert not CompiledRunner(TimeLimit(TabularEnvironment(table), 5), 2).masked
    assert not CompiledRunner(make("CartPole-v1"), 2).masked
    restricted = eqx.tree_at(lambda t: t.allowed, table, np.arange(2) == np.zeros((table.shape[0], 1)))
    runner = CompiledRunner(TimeLimit(TabularEnvironment(restricted), 5), 2)
    assert runner.masked
    assert runner.spec.observation.mask.shape == (2,)
    assert not GymnasiumRunner(GymnasiumEnvironment("CartPole-v1", 2)).environment.masked


ACTOR = Actor.build(jax.random.key(3), CompiledRunner(Offers(), 1).spec, MLP(hidden=(8,)), 3)
FEATURES, MASK = jnp.asarray([0.3, -1.0, 2.0]), jnp.asarray([True, False, True, False])


def by_penalty(features, mask):
    """A large penalty on the score is not a mask."""
    scores = jax.nn.log_softmax(ACTOR.network(features) - 10.0 * (1.0 - mask.astype(jnp.float32)))
    return jnp.exp(scores), -jnp.sum(jnp.exp(scores) * scores)


def by_zeroing(features, mask):
    """Probabilities that are cut out and not normalized again."""
    scores = jax.nn.log_softmax(ACTOR.network(features))
    return jnp.where(mask, jnp.exp(scores), 0.0), -jnp.sum(jnp.where(mask, jnp.exp(scores) * scores, 0.0))


def ours(features, mask):
    log_p = jax.vmap(lambda action: ACTOR.log_prob(features, action, mask))(jnp.arange(4))
    return jnp.exp(log_p), ACTOR.entropy(features, mask)


@against(ours, penalty=by_penalty, zeroed=by_zeroing)
def test_forbidden_actions_have_no_probability(implementation):
    scores = np.asarray(ACTOR.network(FEATURES), np.float64)[[0, 2]]
    expected = np.exp(scores) / np.exp(scores).sum()
    p, entropy = implementation(FEATURES, MASK)
    assert p[jnp.asarray([1, 3])].tolist() == [0.0, 0.0]
    np.testing.assert_allclose(p[jnp.asarray([0, 2])], expected, rtol=1e-6)
    np.testing.assert_allclose(entropy, -(expected * np.log(expected)).sum(), rtol=1e-6)


def test_gradients_stay_finite():
    def loss(actor, mask):
        log_prob, entropy = actor.judge(FEATURES, jnp.asarray(2), mask)
        return log_prob + entropy

    for mask in (MASK, jnp.asarray([False, False, True, False])):  # with one action left nothing can be learned
        gradient = jax.grad(loss)(ACTOR, mask)
        assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradient))
    assert all((leaf == 0.0).all() for leaf in jax.tree.leaves(gradient))


def test_features_are_what_was_seen():
    seen = MaskedObservation(jnp.ones((2, 2)), MASK)
    assert as_features(seen).shape == (4,)
    assert action_mask_of(seen) is MASK
    assert action_mask_of(jnp.ones(3)) is None


def test_offering_nothing_and_masks_that_come_late_are_named():
    learner = strong(SMALL)
    state, runner = begin(learner, GymnasiumRunner(GymnasiumEnvironment(lambda: HostOffers(2), 4)), jax.random.key(0))
    with pytest.raises(EnvironmentFailure, match=r"HostOffers: step 2: the action_mask of environment 0 offers no"):
        run_chunk(learner, state, runner, jax.random.key(1), 1)
    environment = GymnasiumEnvironment(lambda: HostOffers(first_mask=False), 1)
    observation, _ = environment.reset(seed=0)
    with pytest.raises(EnvironmentFailure, match="step 1 gave an action_mask, but the first reset gave none"):
        environment.step([int(OFFERED[observation[0].argmax()].argmax())])
