"""Demonstrations: every door, round trips, and the sampler against exact occupancies."""

import json
import re
import sys
from types import SimpleNamespace

import equinox as eqx
import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

import optimality as ox
from clauses import against
from optimality.environments.tabular import TabularEnvironment
from optimality.problems.gridworld import gridworld
from optimality.sampling import policy_demonstrations
from optimality.sampling.acting import ActingPolicy
from optimality.sampling.demonstrations import Demonstrations
from optimality.sampling.policy import AbstractPolicy

SEEN, TAKEN = [[0, 1, 2], [3, 1]], [[1, 0], [2]]
SMALL = {"observation": SEEN, "action": TAKEN, "terminated": [True, False]}


def whole(**changes):
    given = {"reward": [[0.5, 1.0], [2.0]], "log_probability": [[-1.0, 0.0], [-2.0]], "log_weight": [0.0, -1.0]}
    given = {**SMALL, **given, **changes}
    return Demonstrations.from_arrays(given.pop("observation"), given.pop("action"), **given)


def same(left, right):
    np.testing.assert_equal(jax.tree.leaves(left), jax.tree.leaves(right))
    assert jax.tree.structure(left) == jax.tree.structure(right)
    assert [x.dtype for x in jax.tree.leaves(left)] == [x.dtype for x in jax.tree.leaves(right)]


def test_a_list_of_episodes_is_padded():
    made = whole()
    np.testing.assert_array_equal(made.observation, [[0, 1, 2], [3, 1, 0]])
    np.testing.assert_array_equal(made.action, [[1, 0], [2, 0]])
    np.testing.assert_array_equal(made.valid, [[True, True], [True, False]])
    assert (made.observation.dtype, made.action.dtype, made.reward.dtype) == (np.int32, np.int32, np.float64)
    np.testing.assert_array_equal(made.lengths, [2, 1])
    np.testing.assert_allclose(made.weights, np.exp([0.0, -1.0]) / np.exp([0.0, -1.0]).sum(), rtol=1e-15)
    np.testing.assert_array_equal(made.returns(0.5), [1.0, 2.0])


def test_padded_arrays_are_the_same():
    padded = Demonstrations.from_arrays(
        np.array([[0, 1, 2], [3, 1, 99]]),
        np.array([[1, 0], [2, -7]]),
        lengths=[2, 1],
        terminated=np.array([1, 0]),
        reward=np.array([[0.5, 1.0], [2.0, np.nan]]),
        log_probability=np.array([[-1.0, 0.0], [-2.0, np.nan]]),
        log_weight=[0.0, -1.0],
    )
    same(padded, whole())


def test_vectors_pictures_and_missing_actions_keep_their_kind():
    vectors = Demonstrations.from_arrays([np.zeros((3, 4), np.float32)], [np.ones((2, 2))], terminated=False)
    assert (vectors.observation.dtype, vectors.action.dtype) == (np.float32, np.float64)
    pictures = Demonstrations.from_arrays([np.zeros((3, 2, 2, 3), np.uint8)], terminated=False)
    assert pictures.observation.dtype == np.uint8
    assert pictures.action is None
    assert pictures.transitions().action is None


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"terminated": None}, "terminal flags are unknown: say for each episode"),
        ({"terminated": [True, None]}, "terminal flags are unknown"),
        ({"terminated": [True]}, "terminated has shape (1,), but there are 2 episodes"),
        ({"terminated": [True, np.nan]}, "terminal flag of episode 1 is nan"),
        ({"observation": []}, "there are no episodes"),
        ({"observation": [0, 1, 2]}, "observation of episode 0 is a single value"),
        ({"observation": [[0, 1, 2], [3]]}, "episode 1 has 1 observation(s)"),
        ({"observation": [[0, 1], [3, 1]]}, "episode 0 has 2 observations and as many entries of action"),
        ({"action": [[1, 0, 0, 0], [2]]}, "episode 0 has 4 entries of action, but 2 steps"),
        ({"action": [[1, 0]]}, "action has 1 episodes, but observation has 2"),
        ({"observation": [[[0.0], [1.0], [2.0]], [0.0, 1.0]]}, "observation of episode 1 has shape () at each step"),
        ({"observation": [["a", "b", "c"], ["d", "e"]]}, "must hold numbers"),
        ({"observation": [[{"x": 1}] * 3, [{"x": 1}] * 2]}, "dictionaries are to be flattened"),
        ({"observation": [[0, 1, 2**40], [3, 1]]}, "whole numbers beyond 32 bits"),
        ({"observation": [[0.0, np.nan, 1.0], [0.0, 1.0]]}, "observation of episode 0, step 1 is not finite: nan"),
        ({"action": [[0.0, 1.0], [np.inf]]}, "action of episode 1, step 0 is not finite: inf"),
        ({"reward": [[0.5, np.nan], [2.0]]}, "reward of episode 0, step 1 is not finite"),
        ({"reward": [np.zeros((2, 2)), np.zeros((1, 2))]}, "reward must be one number for each step"),
        ({"log_probability": [[-np.inf, 0.0], [0.0]]}, "log_probability of episode 0, step 0 is not finite"),
        ({"log_weight": [0.0, np.nan]}, "log-weight of episode 1 is nan"),
        ({"log_weight": [np.inf, 0.0]}, "log-weight of episode 0 is inf"),
        ({"log_weight": [-np.inf, -np.inf]}, "at least one must count"),
        ({"log_weight": [0.0]}, "log_weight has shape (1,)"),
        ({"lengths": [2, 1]}, "lengths are for padded arrays"),
    ],
)
def test_what_lists_are_refused(changes, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        whole(**changes)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"observation": np.zeros(3)}, "padded arrays need [episodes, steps + 1, ...]"),
        ({"observation": np.zeros((0, 3))}, "at least one of each"),
        ({"observation": np.zeros((2, 3)), "action": np.zeros((2, 3))}, "there is one observation more than steps"),
        ({"observation": np.zeros((2, 3)), "lengths": [2, 0]}, "episode 1 has 0 steps"),
        ({"observation": np.zeros((2, 3)), "lengths": [3, 1]}, "episode 0 has 3 steps"),
        ({"observation": np.zeros((2, 3)), "lengths": [1.0, 2.0]}, "lengths must be 2 whole numbers"),
    ],
)
def test_what_padded_arrays_are_refused(given, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        Demonstrations.from_arrays(given.pop("observation"), given.pop("action", None), terminated=False, **given)


@pytest.mark.parametrize("valid", [[[True, False, True]], [[False, True, True]], [[False, False, False]]])
def test_padding_is_at_the_end(valid):
    with pytest.raises(ValueError, match="its steps come first"):
        Demonstrations(np.zeros((1, 4), np.int32), None, np.array(valid), np.array([False]))


@pytest.mark.parametrize("without", [(), ("action", "log_probability"), ("reward", "log_weight")])
def test_a_file_gives_back_the_same(without, tmp_path):
    made = whole(**dict.fromkeys(without))
    path = made.save(tmp_path / "deep" / "demonstrations.npz")
    same(Demonstrations.load(path), made)
    same(Demonstrations.load(path.parent), made)
    assert [file.name for file in path.parent.iterdir()] == ["demonstrations.npz"]


def test_a_file_of_someone_else(tmp_path):
    path = tmp_path / "mine.npz"
    np.savez(path, observation=np.array([[0, 1, 2], [3, 1, 0]]), lengths=[2, 1], terminated=[True, False])
    same(Demonstrations.load(path), Demonstrations.from_arrays(SEEN, terminated=[True, False]))


class Bomb:
    def __reduce__(self):
        return print, ("code ran",)


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"observation": np.zeros((1, 2), int)}, "terminal flags are unknown"),
        ({"actions": np.zeros((1, 1), int)}, "has an array 'actions'"),
        ({"terminated": [True]}, "has no array 'observation'"),
        ({"observation": np.array([Bomb()], dtype=object), "terminated": [True]}, "cannot load demonstrations"),
        ({"observation": [[0, 1]], "terminated": [True], "header": "{"}, "header that cannot be read"),
        (
            {"observation": [[0, 1]], "terminated": [True], "header": json.dumps({"format": "x", "version": 9})},
            "holds 'x' of version 9",
        ),
    ],
)
def test_files_that_hold_something_else(arrays, message, tmp_path, capsys):
    np.savez(tmp_path / "file.npz", **arrays)
    with pytest.raises(ValueError, match=re.escape(message)):
        Demonstrations.load(tmp_path / "file.npz")
    assert "code ran" not in capsys.readouterr().out


def test_files_that_are_none(tmp_path):
    with pytest.raises(ValueError, match=r"cannot load demonstrations from .*nowhere"):
        Demonstrations.load(tmp_path / "nowhere.npz")
    path = whole().save(tmp_path / "file.npz")
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(ValueError, match="cannot load demonstrations from"):
        Demonstrations.load(path)
    np.save(tmp_path / "one.npy", np.zeros(3))
    with pytest.raises(ValueError, match="a single array"):
        Demonstrations.load(tmp_path / "one.npy")


def test_a_failure_while_writing_leaves_the_old_file(tmp_path, monkeypatch):
    path = whole().save(tmp_path / "file.npz")
    before = path.read_bytes()

    def interrupted(file, **arrays):
        file.write(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(np, "savez_compressed", interrupted)
    with pytest.raises(KeyboardInterrupt):
        whole().save(path)
    assert path.read_bytes() == before
    assert len(list(tmp_path.iterdir())) == 1


def test_transitions_are_the_steps_without_padding():
    moved = whole().transitions()
    np.testing.assert_array_equal(moved.observation, [0, 1, 3])
    np.testing.assert_array_equal(moved.next_observation, [1, 2, 1])
    np.testing.assert_array_equal(moved.action, [1, 0, 2])
    np.testing.assert_array_equal(moved.terminated, [False, True, False])
    np.testing.assert_array_equal(moved.truncated, [False, False, True])
    np.testing.assert_array_equal(moved.extras["log_prob"], [-1.0, 0.0, -2.0])
    np.testing.assert_array_equal(moved.extras["log_weight"], [0.0, 0.0, -1.0])


def test_selecting_cutting_and_joining():
    made = whole()
    same(made.select([1]), whole(**{n: v[1:] for n, v in {**SMALL, "reward": [[0.5, 1.0], [2.0]],
        "log_probability": [[-1.0, 0.0], [-2.0]], "log_weight": [0.0, -1.0]}.items()}))  # fmt: skip
    same(made.select(np.array([True, True])), made)
    same(Demonstrations.concatenate([made.select([0]), made.select([1])]), made)
    short = made.cut(1)
    np.testing.assert_array_equal(short.observation, [[0, 1], [3, 1]])
    np.testing.assert_array_equal(short.terminated, [False, False])
    same(made.cut(5), made)
    plain = whole(log_weight=None)
    np.testing.assert_array_equal(Demonstrations.concatenate([plain, made]).log_weight, [0.0, 0.0, 0.0, -1.0])
    assert Demonstrations.concatenate([plain, plain]).log_weight is None


def test_what_cannot_be_selected_cut_split_or_joined():
    made = whole()
    for which, message in (([], "no episode was selected"), ([2], "no episode 2"), (np.array([True]), "mask has")):
        with pytest.raises(ValueError, match=message):
            made.select(which)
    with pytest.raises(ValueError, match="part 1 has observation, reward, log_probability, but part 0 has"):
        Demonstrations.concatenate([made, whole(action=None)])
    with pytest.raises(ValueError, match="another shape"):
        Demonstrations.concatenate([made, whole(observation=[np.zeros((3, 2)), np.zeros((2, 2))])])
    with pytest.raises(ValueError, match="nothing to concatenate"):
        Demonstrations.concatenate([])
    with pytest.raises(ValueError, match="steps must be at least 1"):
        made.cut(0)
    for fraction in (0.0, 1.0, float("nan")):
        with pytest.raises(ValueError, match="fraction must be between"):
            made.split(fraction, jax.random.key(0))
    with pytest.raises(ValueError, match="one episode cannot be split"):
        made.select([0]).split(0.5, jax.random.key(0))
    with pytest.raises(ValueError, match="no rewards"):
        whole(reward=None).returns()


def test_a_split_holds_out_whole_episodes():
    made = Demonstrations.from_arrays([[i, i + 1] for i in range(20)], terminated=False)
    kept, out = made.split(0.25, jax.random.key(3))
    assert (kept.episodes, out.episodes) == (15, 5)
    assert sorted([*kept.observation[:, 0], *out.observation[:, 0]]) == list(range(20))
    same(made.split(0.25, jax.random.key(3))[1], out)
    assert whole().split(0.01, jax.random.key(0))[1].episodes == 1


def trajectory(**changes):
    given = {"obs": np.array(SEEN[0]), "acts": np.array(TAKEN[0]), "terminal": True, "rews": np.array([0.5, 1.0])}
    return SimpleNamespace(**{**given, **changes})


def test_trajectories_as_imitation_has_them():
    other = trajectory(obs=np.array(SEEN[1]), acts=np.array(TAKEN[1]), terminal=False, rews=np.array([2.0]))
    same(Demonstrations.from_trajectories([trajectory(), other]), whole(log_probability=None, log_weight=None))
    del other.rews
    assert Demonstrations.from_trajectories([trajectory(), other]).reward is None
    with pytest.raises(ValueError, match="trajectory 0 is SimpleNamespace without 'terminal'"):
        Demonstrations.from_trajectories([SimpleNamespace(obs=[0, 1], acts=[0])])
    with pytest.raises(ValueError, match="terminal flags are unknown"):
        Demonstrations.from_trajectories([trajectory(terminal=None)])


def episode(observations, actions, terminations, rewards=None):
    """Like `minari.EpisodeData`."""
    rewards = np.zeros(len(actions)) if rewards is None else rewards
    truncations = ~np.asarray(terminations)
    return SimpleNamespace(
        observations=observations, actions=actions, terminations=terminations, truncations=truncations, rewards=rewards
    )


def minari_like(episodes, space, actions):
    return SimpleNamespace(observation_space=space, action_space=actions, iterate_episodes=lambda: iter(episodes))


def test_minari_episodes():
    spaces = gymnasium.spaces
    rows = [
        episode(np.array([1, 2, 3]), np.array([1, 2]), np.array([False, True]), np.array([0.0, 1.0])),
        episode(np.array([3, 1]), np.array([1]), np.array([False])),
    ]
    made = Demonstrations.from_minari(minari_like(rows, spaces.Discrete(4, start=1), spaces.Discrete(3, start=1)))
    np.testing.assert_array_equal(made.observation, [[0, 1, 2], [2, 0, 0]])
    np.testing.assert_array_equal(made.action, [[0, 1], [0, 0]])
    np.testing.assert_array_equal(made.terminated, [True, False])
    np.testing.assert_array_equal(made.returns(), [1.0, 0.0])
    nested = {"a": np.ones((3, 2)), "b": np.array([0, 1, 1])}
    space = spaces.Dict({"a": spaces.Box(-1.0, 1.0, (2,)), "b": spaces.Discrete(2)})
    row = episode(nested, np.zeros((2, 1), np.float32), np.array([False, False]))
    made = Demonstrations.from_minari(minari_like([row], space, spaces.Box(-1.0, 1.0, (1,))))
    np.testing.assert_array_equal(made.observation[0], [[1, 1, 1, 0], [1, 1, 0, 1], [1, 1, 0, 1]])
    with pytest.raises(ValueError, match="a dict, which can be flattened only"):
        Demonstrations.from_minari([row])
    with pytest.raises(ValueError, match="terminates at step 0 of 2 and goes on"):
        Demonstrations.from_minari([episode(np.zeros(3), np.zeros(2), np.array([True, False]))])
    with pytest.raises(ValueError, match="episode 0 has no step"):
        Demonstrations.from_minari([episode(np.zeros(1), np.zeros(0), np.array([], bool))])


def test_minari_missing_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "minari", None)
    with pytest.raises(ValueError, match=r"uv pip install 'optimality\[offline\]'"):
        Demonstrations.from_minari("made/here-v0")


# The sampler -----------------------------------------------------------------------------------------------------

EPISODES = 20_000


def random_problem(criterion):
    made = ox.random_mdp(5, 3, 3, termination=0.1, seed=2, criterion=criterion)
    return eqx.tree_at(lambda m: m.initial, made, np.array([0.1, 0.3, 0.2, 0.1, 0.3]))


def stochastic(problem, horizon=None):
    size = problem.shape if horizon is None else (horizon, *problem.shape)
    return ox.TabularPolicy.from_probabilities(np.random.default_rng(1).dirichlet(np.ones(size[-1]), size[:-1]))


def chances(problem, policy, horizon):
    """P(s_t = s, a_t = a, still going), and P(terminated by then), by propagation of a dense table."""
    law, table = np.asarray(problem.initial), np.asarray(problem.dense())
    found = []
    for time in range(horizon):
        pairs = law[:, None] * np.exp(np.asarray(policy.at(time)))
        found.append(pairs)
        law = np.einsum("sa,sat->t", pairs, table)
    return np.array(found), 1.0 - law.sum()


def forgets_time(problem, policy, episodes, key):
    first = ox.TabularPolicy(np.asarray(policy.log_probabilities)[0])
    return Demonstrations.from_policy(problem, first, episodes, key)


def never_ends(problem, policy, episodes, key):
    made = Demonstrations.from_policy(problem, policy, episodes, key)
    return Demonstrations(made.observation, made.action, np.ones_like(made.valid), made.terminated)


def another_start(problem, policy, episodes, key):
    made = Demonstrations.from_policy(problem, policy, 2 * episodes, key)
    return made.select(np.flatnonzero(made.observation[:, 0] < 4)[:episodes])


@against(Demonstrations.from_policy, forgets_time=forgets_time, never_ends=never_ends, another_start=another_start)
def test_frequencies_are_the_exact_occupancies(implementation):
    """Chi-square over all pairs and the end at each of six steps: a p-value below 1e-4 fails, with a fixed seed. The
    wrong ones have p-values below 1e-30."""
    problem = random_problem(ox.FiniteHorizon(6))
    policy = stochastic(problem, 6)
    made = implementation(problem, policy, EPISODES, jax.random.key(0))
    exact, _ = chances(problem, policy, 6)
    for time in range(6):
        law = np.append(exact[time].ravel(), 1.0 - exact[time].sum())
        here = np.where(made.valid[:, time], made.observation[:, time] * 3 + made.action[:, time], 15)
        count = np.bincount(here, minlength=16)
        some = law > 1e-9
        assert count[~some].sum() == 0
        assert stats.chisquare(count[some], EPISODES * law[some] / law[some].sum()).pvalue > 1e-4


def test_outcomes_rewards_and_ends_are_those_of_the_table():
    problem = random_problem(ox.FiniteHorizon(6))
    policy = stochastic(problem, 6)
    made = Demonstrations.from_policy(problem, policy, EPISODES, jax.random.key(1))
    moved = made.transitions()
    rows = problem.outcomes()
    keys = [tuple(row) for row in zip(rows.state, rows.action, rows.successor, rows.terminated, strict=True)]
    reward = dict(zip(keys, rows.reward, strict=True))
    seen = list(zip(moved.observation, moved.action, moved.next_observation, moved.terminated, strict=True))
    np.testing.assert_allclose([reward[row] for row in seen], moved.reward, rtol=1e-15)
    time = np.concatenate([np.arange(n) for n in made.lengths])
    log_p = np.asarray(policy.log_probabilities)[time, moved.observation, moved.action]
    np.testing.assert_array_equal(moved.extras["log_prob"], log_p)
    _, ended = chances(problem, policy, 6)
    # Binomial, four standard errors.
    assert abs(made.terminated.mean() - ended) < 4.0 * np.sqrt(ended * (1.0 - ended) / EPISODES)
    for state, action in ((0, 0), (3, 2)):
        mine = [(t, e) for s, a, t, e in seen if (s, a) == (state, action)]
        laws = [(t, e, p) for s, a, t, e, p in zip(rows.state, rows.action, rows.successor, rows.terminated,
            rows.probability, strict=True) if (s, a) == (state, action)]  # fmt: skip
        count = [sum(m == (t, e) for m in mine) for t, e, _ in laws]
        assert stats.chisquare(count, len(mine) * np.array([p for *_, p in laws])).pvalue > 1e-4


def test_one_key_one_set_of_demonstrations():
    problem = random_problem(ox.FiniteHorizon(6))
    policy = stochastic(problem)
    made = [Demonstrations.from_policy(problem, policy, 50, jax.random.key(seed)) for seed in (0, 0, 1)]
    same(made[0], made[1])
    assert not np.array_equal(made[0].observation[:, 0], made[2].observation[:, 0])


@pytest.mark.parametrize(
    ("criterion", "steps", "longest"),
    [
        (ox.FiniteHorizon(6), None, 6),
        (ox.FiniteHorizon(6), 4, 4),
        (ox.FiniteHorizon(6), 9, 6),
        (ox.Discounted(0.5), None, 10),
        (ox.Discounted(0.5), 3, 3),
        (ox.Discounted(0.0), None, 1),
    ],
)
def test_where_episodes_are_cut_off(criterion, steps, longest):
    problem = random_problem(criterion)
    made = Demonstrations.from_policy(problem, stochastic(problem), 200, jax.random.key(0), steps=steps)
    assert made.lengths.max() == longest
    assert not made.terminated.all()
    assert made.terminated[made.lengths < longest].all()


def test_episodes_end_by_themselves(monkeypatch):
    problem = random_problem(ox.UntilTermination())
    assert Demonstrations.from_policy(problem, stochastic(problem), 200, jax.random.key(0)).terminated.all()
    monkeypatch.setattr(policy_demonstrations, "STEP_CAP", 2)
    assert Demonstrations.from_policy(problem, stochastic(problem), 200, jax.random.key(0)).lengths.max() == 2


class Uniform(AbstractPolicy):
    """Actions drawn evenly; remembers nothing."""

    actions: int = eqx.field(static=True)

    def start(self, observation, key):
        return None

    def act(self, carry, observation, key):
        action = jax.random.randint(key, (), 0, self.actions)
        return None, action, {"log_prob": -jnp.log(jnp.float32(self.actions))}


def test_environments_give_what_their_tables_give():
    """The compiled runner against the same occupancies, chi-square at the last step."""
    problem = random_problem(ox.FiniteHorizon(4))
    made = Demonstrations.from_policy(problem, Uniform(3), 2000, jax.random.key(0))
    assert (made.episodes, made.valid.shape[1]) == (2000, 4)
    np.testing.assert_allclose(made.log_probability[made.valid], -np.log(3.0), rtol=1e-6)
    exact, _ = chances(problem, ox.TabularPolicy.from_probabilities(np.full(problem.shape, 1 / 3)), 4)
    law = np.append(exact[3].ravel(), 1.0 - exact[3].sum())
    here = np.where(made.valid[:, 3], made.observation[:, 3] * 3 + made.action[:, 3], 15)
    some = law > 1e-9
    assert stats.chisquare(np.bincount(here, minlength=16)[some], 2000 * law[some]).pvalue > 1e-4
    rows = problem.outcomes()
    possible = set(zip(rows.state, rows.action, rows.successor, rows.terminated, strict=True))
    moved = made.transitions()
    assert set(zip(moved.observation, moved.action, moved.next_observation, moved.terminated, strict=True)) <= possible


@pytest.mark.parametrize("source", ["FrozenLake-v1", lambda: gymnasium.make("FrozenLake-v1"), "one"])
def test_gymnasium_environments(source):
    source = gymnasium.make("FrozenLake-v1") if source == "one" else source
    made = [Demonstrations.from_policy(source, Uniform(4), 7, jax.random.key(0), steps=8) for _ in range(2)]
    same(*made)
    assert made[0].episodes == 7
    assert made[0].lengths.max() <= 8
    assert np.all(made[0].observation[:, 0] == 0)


def test_policies_that_load_and_act():
    environment = ox.make("CartPole-v1", time_limit=20)
    made = Demonstrations.from_policy(environment, ActingPolicy(Uniform(2)), 3, jax.random.key(0))
    assert made.observation.shape == (3, made.valid.shape[1] + 1, 4)
    assert np.all(made.returns() == made.lengths)
    open_ended = ox.make("GridWorld-v0").problem
    open_ended = gridworld(criterion=ox.UntilTermination()) if open_ended is None else open_ended
    same(
        Demonstrations.from_policy(TabularEnvironment(open_ended), stochastic(open_ended), 5, jax.random.key(0)),
        Demonstrations.from_policy(open_ended, stochastic(open_ended), 5, jax.random.key(0)),
    )


def test_what_policies_cannot_demonstrate():
    problem, key = random_problem(ox.FiniteHorizon(6)), jax.random.key(0)
    policy = stochastic(problem)
    average = ox.river_swim(criterion=ox.AverageReward())
    restricted = ox.TabularMDP.from_outcomes(
        [(0, 0, 0, 1.0, 0.0, False), (1, 0, 0, 1.0, 0.0, False), (1, 1, 1, 1.0, 0.0, False)],
        criterion=ox.FiniteHorizon(2),
        initial=0,
    )
    half = ox.TabularPolicy.from_probabilities(np.full((2, 2), 0.5))
    endless = TabularEnvironment(random_problem(ox.UntilTermination()))
    for arguments, options, message in (
        ((problem, policy, 0, key), {}, "episodes must be at least 1"),
        ((problem, policy, 5, key), {"steps": 0}, "steps must be at least 1"),
        ((ox.two_state(criterion=ox.FiniteHorizon(3)), policy, 5, key), {}, "the policy is for 5 states and 3"),
        ((average, stochastic(average), 5, key), {}, "average-reward problem have no end: give steps"),
        ((restricted, half, 5, key), {}, "takes action 1 in state 0, which does not offer it"),
        (("FrozenLake-v1", policy, 5, key), {}, "a TabularPolicy demonstrates in a TabularMDP"),
        ((problem, "ppo", 5, key), {}, "str is no policy"),
        ((endless, Uniform(3), 5, key), {}, "nothing bounds the episodes here: give steps"),
    ):
        with pytest.raises(ValueError, match=re.escape(message)):
            Demonstrations.from_policy(*arguments, **options)
