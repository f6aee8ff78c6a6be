"""Environments with exact answers: tables, probes, linear-quadratic problems, and the catalog."""

import inspect

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.linalg
import scipy.stats

from clauses import against
from optimality import PolicyEvaluation, SoftValueIteration, TabularPolicy, UnderPolicy, ValueIteration, solve
from optimality.environments import probes
from optimality.environments.catalog import CATALOG, make, make_bare
from optimality.environments.linear_quadratic import LinearQuadraticEnvironment
from optimality.environments.tabular import TabularEnvironment
from optimality.environments.wrappers import TimeLimit
from optimality.problems.criterion import Discounted, FiniteHorizon, UntilTermination
from optimality.problems.generators import deep_sea, random_mdp, river_swim
from optimality.problems.gridworld import gridworld
from optimality.problems.linear_quadratic import LinearQuadratic
from optimality.problems.tabular import TabularMDP

KEY = jax.random.key(0)


@eqx.filter_jit
def episodes(environment, policy, keys, steps):
    """Rewards, `[episode, time]`, 0 after the end, and whether each episode ended by then."""

    def episode(key):
        key, reset_key = jax.random.split(key)
        state, observation = environment.reset(reset_key)

        def body(carry, key):
            state, observation, alive = carry
            state, observation, reward, terminated, truncated = environment.step(key, state, policy(observation))
            return (state, observation, alive & ~(terminated | truncated)), jnp.where(alive, reward, 0.0)

        alive = jnp.ones((), bool)
        (_, _, alive), rewards = jax.lax.scan(body, (state, observation, alive), jax.random.split(key, steps))
        return rewards, ~alive

    return jax.vmap(episode)(keys)


@pytest.mark.parametrize("name", ["gridworld", "deep_sea", "river_swim", "random"])
def test_outcomes_are_the_tables(name):
    """Frequencies of outcomes of every pair, by a chi-square test; rewards and terminations exactly."""
    mdp = {
        "gridworld": gridworld(criterion=UntilTermination()),
        "deep_sea": deep_sea(3),
        "river_swim": river_swim(criterion=UntilTermination()),
        "random": random_mdp(5, 2, 3, termination=0.2, criterion=UntilTermination()),
    }[name]
    environment, draws = TabularEnvironment(mdp), 2_000
    states, actions = mdp.shape
    keys = jax.random.split(KEY, (states, actions, draws))

    def draw(key, state, action):
        first = environment.reset(key)[0]
        start = eqx.tree_at(lambda s: s.state, first, state)
        _, observation, reward, terminated, truncated = environment.step(key, start, action)
        return observation, reward, terminated, truncated

    over_draws = jax.vmap(draw, (0, None, None))
    over_actions = jax.vmap(over_draws, (0, None, 0))
    drawn = jax.jit(jax.vmap(over_actions, (0, 0, None)))(
        keys, jnp.arange(states, dtype=jnp.int32), jnp.arange(actions)
    )
    successor, reward, terminated, truncated = map(np.asarray, drawn)
    assert not truncated.any() or name == "deep_sea"
    outcomes = mdp.outcomes()
    pvalues = []
    for state in range(states):
        for action in range(actions):
            here = (outcomes.state == state) & (outcomes.action == action)
            counts = []
            seen = np.zeros(draws, bool)
            for s, r, t in zip(outcomes.successor[here], outcomes.reward[here], outcomes.terminated[here], strict=True):
                same = (successor[state, action] == s) & (terminated[state, action] == t)
                same &= np.abs(reward[state, action] - r) < 1e-5
                counts.append(same.sum())
                seen |= same
            assert seen.all()
            if len(counts) > 1:
                pvalues.append(scipy.stats.chisquare(counts, draws * outcomes.probability[here]).pvalue)
    assert not pvalues or min(pvalues) > 1e-3 / len(pvalues)


def test_mean_return_is_the_exact_value():
    mdp = gridworld(criterion=FiniteHorizon(20))
    solution = solve(mdp, ValueIteration())
    table = jnp.asarray(np.argmax(solution.policy.probabilities[0], axis=1))
    environment = TabularEnvironment(mdp)
    log_policy = np.log(np.eye(4)[np.asarray(table)] + 1e-300)
    exact = solve(UnderPolicy(mdp, TabularPolicy(log_policy)), PolicyEvaluation()).value[0] @ mdp.initial
    rewards, over = episodes(environment, lambda state: table[state], jax.random.split(KEY, 4_000), 25)
    returns = np.asarray(rewards.sum(1))
    assert over.all()
    assert environment.time_limit == 20
    assert abs(returns.mean() - exact) < 4 * returns.std() / np.sqrt(len(returns))


class NoTerminal(TabularEnvironment):
    def step(self, key, state, action):
        bare = eqx.tree_at(lambda e: e.problem.criterion.terminal_reward, self, np.zeros(2))
        return TabularEnvironment(bare.problem).step(key, state, action)


class Undiscounted(TabularEnvironment):
    def step(self, key, state, action):
        bare = eqx.tree_at(lambda e: e.problem.criterion.discount, self, 1.0)
        return TabularEnvironment(bare.problem).step(key, state, action)


@against(TabularEnvironment, no_terminal=NoTerminal, undiscounted=Undiscounted)
def test_terminal_reward_makes_returns_those_of_the_problem(implementation):
    """Two states that swap; terminal rewards 5 and 7, discount 0.5, horizon 3: 1 + 0.5 + 0.25 + 0.125 * 7."""
    swap = np.zeros((2, 1, 2))
    swap[0, 0, 1] = swap[1, 0, 0] = 1.0
    mdp = TabularMDP.from_arrays(
        swap, np.ones((2, 1)), criterion=FiniteHorizon(3, 0.5, np.array([5.0, 7.0])), initial=0
    )
    rewards, over = episodes(implementation(mdp), lambda state: 0, jax.random.split(KEY, 1), 5)
    assert over.all()
    exact = solve(mdp, ValueIteration()).value[0][0]
    np.testing.assert_allclose(np.asarray(rewards[0]) @ 0.5 ** np.arange(5), exact, rtol=1e-6)
    np.testing.assert_allclose(exact, 1.75 + 0.125 * 7)


def test_first_states_follow_the_initial_law(x64):
    mdp = gridworld("S.S/..S", criterion=UntilTermination())
    environment = TabularEnvironment(mdp)
    _, observation = jax.vmap(environment.reset)(jax.random.split(KEY, 3_000))
    assert observation.dtype == jnp.int32
    counts = np.bincount(np.asarray(observation), minlength=mdp.shape[0])
    assert not counts[mdp.initial == 0.0].any()
    used = mdp.initial > 0.0
    assert scipy.stats.chisquare(counts[used], 3_000 * mdp.initial[used]).pvalue > 1e-3


def test_actions_that_are_not_offered():
    outcomes = [(0, 0, 1, 1.0, 1.0, False), (1, 0, 0, 1.0, 2.0, False), (1, 1, 1, 1.0, 3.0, True)]
    mdp = TabularMDP.from_outcomes(outcomes, criterion=UntilTermination(), initial=0)
    environment = TabularEnvironment(mdp)
    state, _ = environment.reset(KEY)
    np.testing.assert_array_equal(environment.action_mask(state), [True, False])
    new, _, reward, terminated, _ = environment.step(KEY, state, 1)
    assert np.isnan(reward)
    assert not terminated
    assert new.state == state.state


def test_precision_of_rewards(x64):
    mdp = river_swim(criterion=UntilTermination())
    state, _ = TabularEnvironment(mdp).reset(KEY)
    assert TabularEnvironment(mdp).step(KEY, state, 0)[2].dtype == jnp.float32
    wide = eqx.tree_at(lambda mdp: mdp.reward, mdp, jnp.asarray(mdp.reward))
    expected = jnp.float64 if x64 else jnp.float32
    assert TabularEnvironment(wide).step(KEY, state, 0)[2].dtype == expected


PROBES = [kind for _, kind in inspect.getmembers(probes, inspect.isclass) if kind.__module__ == probes.__name__]


def as_table(probe, discount):
    """A discrete probe written down as a table by stepping through it; observations -1, 0, 1 are states 0, 1, 2."""
    actions = int(probe.action_space.n)
    rows, step = [], jax.jit(probe.step)
    for observation in (-1.0, 0.0, 1.0):
        for action in range(actions):
            _, new, reward, terminated, _ = step(KEY, np.full(1, observation, np.float32), action)
            rows.append((int(observation) + 1, action, int(new[0]) + 1, 1.0, float(reward), bool(terminated)))
    return TabularMDP.from_outcomes(rows, criterion=Discounted(discount))


@pytest.mark.parametrize("kind", PROBES)
@pytest.mark.parametrize("temperature", [0.0, 0.7])
def test_values_of_discrete_probes_are_exact(kind, temperature):
    probe, discount = kind(), 0.9
    method = SoftValueIteration(temperature=temperature) if temperature else ValueIteration()
    value = solve(as_table(probe, discount), method).value
    names = inspect.signature(kind.value).parameters
    _, observations = jax.jit(jax.vmap(probe.reset))(jax.random.split(KEY, 20))
    reached = {float(o) for o in observations[:, 0]} | ({1.0} if kind is probes.DelayedReward else set())
    for observation in reached:
        given = {"observation": observation, "discount": discount}
        documented = probe.value(**{n: given[n] for n in names if n in given}, temperature=temperature)
        np.testing.assert_allclose(documented, value[int(observation) + 1], rtol=1e-8)
    assert probe.observation_space.contains(np.asarray(observations[0]))


@pytest.mark.parametrize("kind", PROBES)
@pytest.mark.parametrize("temperature", [0.0, 0.7])
def test_values_of_continuous_probes_are_exact(kind, temperature):
    """One step by quadrature over actions in [-1, 1], the value of what follows taken as documented."""
    probe, discount = kind(continuous=True), 0.9
    names = inspect.signature(kind.value).parameters

    def documented(observation):
        given = {"observation": observation, "discount": discount}
        return probe.value(**{n: given[n] for n in names if n in given}, temperature=temperature)

    def q(action, observation):
        state, action = np.full(1, observation, np.float32), np.full(1, action, np.float32)
        _, new, reward, terminated, _ = step(KEY, state, action)
        return float(reward) + (0.0 if terminated else discount * documented(float(new[0])))

    step = jax.jit(probe.step)
    _, observations = jax.jit(jax.vmap(probe.reset))(jax.random.split(KEY, 20))
    reached = {float(o) for o in observations[:, 0]} | ({1.0} if kind is probes.DelayedReward else set())
    nodes, weights = np.polynomial.legendre.leggauss(20)
    for observation in reached:
        values = np.array([q(node, observation) for node in nodes])
        if temperature:
            expected = temperature * np.log(weights @ np.exp(values / temperature))
        else:
            expected = max(q(a, observation) for a in np.linspace(-1.0, 1.0, 9))
        np.testing.assert_allclose(documented(observation), expected, rtol=1e-5, atol=1e-6)


def test_the_time_limit_does_not_change_the_value():
    """Reward 1 for ever, limit 8, discount 0.9: 10 where truncation is no termination, else 5.7."""
    probe = make("EndlessReward-v0")
    assert isinstance(probe, TimeLimit)
    assert probe.time_limit == 8
    np.testing.assert_allclose(probes.EndlessReward().value(0.9), 10.0)


PROBLEM = {
    "A": np.array([[1.0, 0.1], [-0.2, 0.95]]),
    "B": np.array([[0.0], [0.5]]),
    "Q": np.array([[1.0, 0.2], [0.2, 0.5]]),
    "R": np.array([[0.3]]),
    "initial_mean": np.array([1.0, -2.0]),
}


def riccati_return(problem, half=0.5, sign=-1.0):
    """`half x0' P x0` of the discounted problem, with the discount in the system: sqrt(g) A, sqrt(g) B."""
    root = np.sqrt(problem.discount)
    p = scipy.linalg.solve_discrete_are(root * problem.A, root * problem.B, problem.Q, problem.R)
    gain = -np.linalg.solve(
        problem.R + problem.discount * problem.B.T @ p @ problem.B, problem.discount * problem.B.T @ p @ problem.A
    )
    return gain, sign * half * problem.initial_mean @ p @ problem.initial_mean, p


class WithoutHalf(LinearQuadraticEnvironment):
    def step(self, key, state, action):
        state, x, reward, *flags = super().step(key, state, action)
        return (state, x, 2.0 * reward, *flags)


class CostForReward(LinearQuadraticEnvironment):
    def step(self, key, state, action):
        state, x, reward, *flags = super().step(key, state, action)
        return (state, x, -reward, *flags)


class CostOfNextState(LinearQuadraticEnvironment):
    def step(self, key, state, action):
        new, x, _, *flags = super().step(key, state, action)
        return (new, x, super().step(key, new, action)[2], *flags)


@against(
    LinearQuadraticEnvironment, without_half=WithoutHalf, cost_for_reward=CostForReward, next_state=CostOfNextState
)
def test_return_of_the_riccati_gain(implementation):
    problem = LinearQuadratic(**PROBLEM, criterion=Discounted(0.95))
    gain, optimum, _ = riccati_return(problem)
    with jax.enable_x64(True):
        k = jnp.asarray(gain)
        environment = implementation(problem)
        state, _ = environment.reset(KEY)
        state = eqx.tree_at(lambda s: s.x, state, jnp.asarray(problem.initial_mean))

        def body(state, key):
            state, _, reward, terminated, truncated = environment.step(key, state, k @ state.x)
            return state, (reward, terminated | truncated)

        _, (rewards, done) = jax.jit(lambda state: jax.lax.scan(body, state, jax.random.split(KEY, 400)))(state)
    assert not done.any()
    np.testing.assert_allclose(0.95 ** np.arange(400) @ np.asarray(rewards), optimum, rtol=1e-7)


def test_noise_adds_its_trace():
    """Discounted: the noise costs `g / (1 - g) tr(P W) / 2`, the first covariance `tr(P S) / 2`."""
    noise, start = np.array([[0.04, 0.02], [0.02, 0.01]]), np.diag([0.3, 0.0])
    problem = LinearQuadratic(**PROBLEM, criterion=Discounted(0.9), W=noise, initial_covariance=start)
    gain, optimum, p = riccati_return(problem)
    exact = optimum - 0.5 * np.trace(p @ start) - 0.9 / 0.1 * 0.5 * np.trace(p @ noise)
    k = jnp.asarray(gain, jnp.float32)
    keys = jax.random.split(KEY, 4_000)
    rewards, _ = episodes(LinearQuadraticEnvironment(problem), lambda x: k @ x, keys, 150)
    returns = np.asarray(rewards) @ 0.9 ** np.arange(150)
    assert abs(returns.mean() - exact) < 4 * returns.std() / np.sqrt(len(returns))
    assert returns.std() > 0.1


def test_linear_quadratic_episode(x64):
    problem = LinearQuadratic(**PROBLEM, criterion=FiniteHorizon(3))
    environment = LinearQuadraticEnvironment(problem, action_limit=0.5)
    state, x = environment.reset(KEY)
    np.testing.assert_allclose(x, [1.0, -2.0])
    state, x, reward, terminated, truncated = environment.step(KEY, state, jnp.array([4.0], jnp.float32))
    start = PROBLEM["initial_mean"]
    np.testing.assert_allclose(x, PROBLEM["A"] @ start + 0.25 * np.array([0.0, 1.0]), rtol=1e-6)
    np.testing.assert_allclose(reward, -0.5 * (start @ PROBLEM["Q"] @ start + 0.3 * 0.25), rtol=1e-6)
    assert x.dtype == reward.dtype == jnp.float32
    assert not terminated
    flags = []
    for _ in range(2):
        state, *_, truncated = environment.step(KEY, state, jnp.zeros(1, jnp.float32))
        flags.append(bool(truncated))
    assert flags == [False, True]
    assert environment.time_limit == 3 == problem.horizon
    assert environment.action_space.high == 0.5
    assert problem.shape == (2, 1)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"A": np.zeros((2, 3))}, r"A has shape \(2, 3\)"),
        ({"B": np.zeros((3, 1))}, r"B has shape \(3, 1\)"),
        ({"R": np.eye(2)}, r"R has shape \(2, 2\)"),
        ({"Q": np.array([[1.0, 0.5], [0.2, 1.0]])}, r"Q must be symmetric, but entries \(0, 1\) and \(1, 0\)"),
        ({"A": np.array([[np.nan, 0.0], [0.0, 1.0]])}, r"A at \(0, 0\) is nan"),
        ({"W": np.diag([1.0, -1.0])}, "W must be positive semidefinite"),
        ({"initial_mean": np.zeros(3)}, "initial_mean has shape"),
        ({"criterion": FiniteHorizon(3, 1.0, 1.0)}, "terminal_reward"),
    ],
)
def test_linear_quadratic_is_validated(change, message):
    with pytest.raises(ValueError, match=message):
        LinearQuadratic(**{**PROBLEM, "criterion": Discounted(0.9), **change})


def test_numbers_are_one_by_one_problems():
    problem = LinearQuadratic(1.0, 1.0, 1.0, 1.0, criterion=Discounted(0.9))
    assert problem.shape == (1, 1)
    assert problem.A.dtype == np.float64


def test_a_batch_of_linear_quadratic_problems():
    def cost(scale):
        problem = LinearQuadratic(
            scale * jnp.eye(2), jnp.ones((2, 1)), jnp.eye(2), jnp.eye(1), criterion=FiniteHorizon(2), W=jnp.eye(2)
        )
        environment = LinearQuadraticEnvironment(problem)
        state, _ = environment.reset(KEY)
        state = environment.step(KEY, state, jnp.ones(1))[0]
        return environment.step(KEY, state, jnp.ones(1))[0].x

    together = jax.vmap(cost)(jnp.array([0.5, 1.0]))
    np.testing.assert_allclose(together[1], cost(jnp.asarray(1.0)), rtol=1e-6)
    assert not np.allclose(together[0], together[1])


@pytest.mark.parametrize("name", CATALOG)
def test_catalog(name):
    environment = make(name)
    expected = CATALOG[name].time_limit
    assert environment.time_limit is not None or (CATALOG[name].problem and expected is None)
    assert expected is None or environment.time_limit == expected
    state, observation = environment.reset(KEY)
    space = environment.action_space
    space.seed(0)
    _, new, reward, terminated, truncated = environment.step(KEY, state, jnp.asarray(space.sample()))
    for shown in (observation, new):
        shown = np.asarray(shown)
        assert environment.observation_space.contains(shown[()] if shown.ndim == 0 else shown)
    assert reward.shape == terminated.shape == truncated.shape == ()
    assert not truncated
    if expected is not None:
        assert make(name, time_limit=3).time_limit == 3
        assert make_bare(name).time_limit is None


def test_catalog_parameters_and_refusals():
    assert make("Pendulum-v1", gravity=3.7).environment.gravity == 3.7
    assert make("optimality/CartPole-v1").time_limit == 500
    assert make("DeepSea-v0", size=4).observation_space.n == 16
    with pytest.raises(ValueError, match=r"no JAX environment 'Cartpole-v0'.*CartPole-v1"):
        make("Cartpole-v0")
    with pytest.raises(ValueError, match=r"no parameter 'gravty'.*gravity"):
        make("Pendulum-v1", gravty=1.0)
    with pytest.raises(ValueError, match=r"no parameter 'sizes'.*size"):
        make("DeepSea-v0", sizes=1)
