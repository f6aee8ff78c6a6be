"""The identities behind policy gradients, by enumeration of every trajectory, in plain NumPy.

The policy is softmax in features that states share, `pi = exp(phi' theta) / sum`, so that no identity holds by the
luck of a table; tables are looked at where a row speaks of them. `Q = tau phi' theta` and its soft maximum
`V = tau log sum exp(Q / tau)` are then a soft Q-function of this very policy.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from clauses import against
from enumeration import Instance, backward, logsumexp, plain_instance, random_instance, trajectories
from instances import close

TAU = 0.6
INSTANCES = {"plain": plain_instance(), "ends": random_instance()}
PHI = np.random.default_rng(2).normal(size=(3, 2, 4))
THETA = np.array([0.5, -0.8, 0.3, 1.1])
TABLE = np.eye(6).reshape(3, 2, 6)
FEATURES = {
    "shared": (PHI, THETA),
    "table": (TABLE, np.linspace(-1.0, 1.0, 6)),
    "few": (PHI[..., :2], THETA[:2]),
}
NONE = np.zeros(3)
both = pytest.mark.parametrize("name", INSTANCES)


class World(NamedTuple):
    """Arrays over trajectories `[N]`, their steps `[N, H]`, parameters `[d]`; zero after an end."""

    chance: np.ndarray
    rewards: np.ndarray  # with the terminal reward in the last step
    log_pi: np.ndarray
    scores: np.ndarray
    grad_q: np.ndarray  # of Q / tau
    grad_v: np.ndarray  # of V / tau
    q: np.ndarray
    v: np.ndarray
    value: np.ndarray  # exact soft value of the policy at each step's state
    states: np.ndarray
    acted: np.ndarray

    def mean(self, per_step):
        """`E sum_t` of arrays `[N, H, ...]`."""
        return np.einsum("n,nt...->...", self.chance, per_step)

    def to_go(self, per_step):
        return np.cumsum(per_step[:, ::-1], axis=1)[:, ::-1]

    @property
    def soft_rewards(self):
        """`r - tau log pi`."""
        return self.rewards - TAU * self.log_pi


def log_policy(instance: Instance, phi, theta):
    scores = np.where(instance.allowed, phi @ theta, -np.inf)
    return scores - logsumexp(scores, axis=1)[:, None]


def soft_values(instance: Instance, log_pi):
    """`[H + 1, S]`, of this policy, by the recursion."""
    pi, values = np.exp(log_pi), [instance.terminal]
    entropy = -np.sum(pi * np.where(pi > 0.0, log_pi, 0.0), axis=1)
    for _ in range(instance.horizon):
        q = instance.mean_rewards() + instance.going_on() @ values[-1]
        values.append(np.sum(pi * q, axis=1) + TAU * entropy)
    return np.array(values[::-1])


@functools.cache
def world(name, features="shared") -> World:
    instance, (phi, theta) = INSTANCES[name], FEATURES[features]
    found, log_pi = trajectories(instance, "none"), log_policy(instance, phi, theta)
    acted = found.actions >= 0
    s, a = np.where(acted, found.states[:, :-1], 0), np.where(acted, found.actions, 0)
    pi = np.exp(log_pi)
    grad_v = np.einsum("sa,sad->sd", pi, phi)
    last = found.states[:, -1]
    rewards = found.rewards.copy()
    rewards[:, -1] += np.where(last >= 0, instance.terminal[last], 0.0)
    inside = lambda x: np.where(acted[..., None] if x.ndim == 3 else acted, x, 0.0)  # noqa: E731
    v = TAU * logsumexp(np.where(instance.allowed, phi @ theta, -np.inf), axis=1)
    values = soft_values(instance, log_pi)
    return World(
        np.exp(found.log_law(log_pi)),
        rewards,
        inside(log_pi[s, a]),
        inside(phi[s, a] - grad_v[s]),
        inside(phi[s, a]),
        inside(grad_v[s]),
        inside(TAU * (phi @ theta)[s, a]),
        inside(v[s]),
        inside(values[np.arange(instance.horizon), s]),
        s,
        acted,
    )


def objective(instance, phi, temperature, rewards=1.0):
    """`J(theta)` by dense recursion, which knows nothing of trajectories."""
    mean, going_on = instance.mean_rewards(), instance.going_on()

    def value(theta):
        scores = jnp.where(instance.allowed, jnp.asarray(phi) @ theta, -jnp.inf)
        pi = jax.nn.softmax(scores)
        log_pi = jnp.where(instance.allowed, jax.nn.log_softmax(scores), 0.0)
        values = rewards * jnp.asarray(instance.terminal)
        for _ in range(instance.horizon):
            values = jnp.sum(pi * (rewards * mean + going_on @ values - temperature * log_pi), axis=1)
        return instance.initial @ values

    return value


@functools.cache
def exact(name, temperature=TAU, features="shared", rewards=1.0):
    phi, theta = FEATURES[features]
    with jax.enable_x64(True):
        return np.asarray(jax.grad(objective(INSTANCES[name], phi, temperature, rewards))(jnp.asarray(theta)))


def total(x):
    return x.sum(axis=1, keepdims=True)


def likelihood_ratio(w):
    return w.mean(w.scores * total(w.rewards)[..., None])


@both
@pytest.mark.row("S151")
@against(
    likelihood_ratio,
    first_score=lambda w: w.mean(w.scores[:, :1] * total(w.rewards)[..., None]),
    own_reward=lambda w: w.mean(w.scores * w.rewards[..., None]),
    product_of_scores=lambda w: w.chance @ (np.prod(w.scores, axis=1) * total(w.rewards)),
)
def test_likelihood_ratio(implementation, name):
    close(implementation(world(name)), exact(name, 0.0), 1e-13)


def entropy_part(w):
    """`-E score(trajectory) (log pi(trajectory) + 1)`."""
    return -w.mean(w.scores * (total(w.log_pi) + 1.0)[..., None])


def without_parentheses(w):
    return -(w.mean(w.scores * total(w.log_pi)[..., None]) + 1.0)


@both
@pytest.mark.row("S152", "E3.21", "E3.22")
@against(
    entropy_part,
    without_parentheses=without_parentheses,
    sum_over_coordinates=lambda w: np.full(4, entropy_part(w).sum()),
    last_step_only=lambda w: -w.mean(w.scores * (w.log_pi[:, -1:] + 1.0)[..., None]),
    derivative_of_the_logarithm_only=lambda w: -w.mean(w.scores),
)
def test_entropy_part(implementation, name):
    close(implementation(world(name)), exact(name, 1.0, rewards=0.0), 1e-13)


def causal(w, constant=-TAU):
    return w.mean(w.scores * (w.to_go(w.soft_rewards) + constant)[..., None])


def own_entropy_dropped(w):
    return w.mean(w.scores * (w.to_go(w.soft_rewards) + TAU * w.log_pi)[..., None])


def literal(w):
    """The constant outside of what the score multiplies."""
    return w.mean(w.scores * w.to_go(w.soft_rewards)[..., None]) - TAU


@both
@pytest.mark.row("S153")
@against(
    causal,
    own_entropy_dropped=own_entropy_dropped,
    literal=literal,
    later_rewards_only=lambda w: w.mean(w.scores * (w.to_go(w.soft_rewards) - w.soft_rewards)[..., None]),
    sign=lambda w: w.mean(w.scores * w.to_go(w.rewards + TAU * w.log_pi)[..., None]),
)
def test_causality(implementation, name):
    close(implementation(world(name)), exact(name), 1e-13)


@both
@pytest.mark.row("E3.23.exact")
@against(
    lambda w, c: causal(w, c),
    looks_at_the_action=lambda w, c: causal(w, c) + c * w.mean(w.scores * w.log_pi[..., None]),
)
def test_any_constant_does(implementation, name):
    for constant in (-1.0, 0.0, 3.0):
        close(implementation(world(name), constant), exact(name), 1e-13)


def variance(w, per_trajectory):
    """Sum over the coordinates, of one trajectory."""
    mean = w.chance @ per_trajectory
    return w.chance @ np.sum((per_trajectory - mean) ** 2, axis=1)


def with_credit(w, credit):
    return np.sum(w.scores * credit[..., None], axis=1)


def optimal_constant(w, credit):
    """The constant of each coordinate that has the least variance."""
    score = w.scores.sum(axis=1)
    best = (w.chance @ (score * with_credit(w, credit))) / (w.chance @ score**2)
    return with_credit(w, credit) - score * best


@both
@pytest.mark.row("E3.23.variance")
def test_variances_fall_in_the_derived_order(name):
    """Total return, then reward to go, then the best constant of each coordinate; the minus one of the entropy is no
    such constant. A value may beat it, and may not."""
    w = world(name)
    go, everything = w.to_go(w.soft_rewards), np.broadcast_to(total(w.soft_rewards), w.rewards.shape)
    estimators = {
        "total": with_credit(w, everything),
        "to_go": with_credit(w, go),
        "minus_one": with_credit(w, go - TAU),
        "total_best": optimal_constant(w, everything),
        "to_go_best": optimal_constant(w, go),
        "value": with_credit(w, go - w.value),
    }
    for estimator in estimators.values():
        close(w.chance @ estimator, exact(name), 1e-12)
    spread = {key: variance(w, estimator) for key, estimator in estimators.items()}
    assert spread["total"] > spread["to_go"] > spread["to_go_best"]
    assert spread["total"] > spread["total_best"] > spread["to_go_best"]
    assert spread["minus_one"] > spread["to_go_best"]
    assert (spread["value"] < spread["to_go_best"]) == (name == "plain")  # episodes that end early are no use to it
    shifted = optimal_constant(w, go) + 0.1 * w.scores.sum(axis=1)
    assert variance(w, shifted) > spread["to_go_best"]


@both
@pytest.mark.row("E3.24")
def test_causality_holds_on_average_only(name):
    w = world(name)
    go, everything = (
        with_credit(w, credit)
        for credit in (w.to_go(w.soft_rewards), np.broadcast_to(total(w.soft_rewards), w.rewards.shape))
    )
    close(w.chance @ go, w.chance @ everything, 1e-12)
    likely = w.chance > 1e-6
    assert np.abs(go - everything)[likely].max() > 0.1


def estimated(w, rows):
    """Gradients of the drawn trajectories."""
    return with_credit(w, w.to_go(w.soft_rewards) - TAU)[rows]


@both
@pytest.mark.row("S154")
@against(
    estimated,
    own_entropy_dropped=lambda w, rows: with_credit(w, w.to_go(w.soft_rewards) + TAU * w.log_pi)[rows],
    discounts_the_future=lambda w, rows: with_credit(w, w.soft_rewards)[rows],
)
def test_sample_estimator(implementation, name):
    """40,000 trajectories: every coordinate within four of its standard errors."""
    w = world(name)
    rows = np.random.default_rng(0).choice(w.chance.size, 40_000, p=w.chance / w.chance.sum())
    drawn = implementation(w, rows)
    z = (drawn.mean(axis=0) - exact(name)) / (drawn.std(axis=0, ddof=1) / len(rows) ** 0.5)
    assert np.abs(z).max() < 4.0


def as_q_less_v(w):
    """Score and entropy both by `log pi = (Q - V) / tau`."""
    return w.mean((w.grad_q - w.grad_v) * w.to_go(w.rewards - (w.q - w.v))[..., None])


@both
@pytest.mark.row("S155.gradient")
@against(
    as_q_less_v,
    no_grad_v=lambda w: w.mean(w.grad_q * w.to_go(w.rewards - (w.q - w.v))[..., None]),
    no_v=lambda w: w.mean((w.grad_q - w.grad_v) * w.to_go(w.rewards - w.q)[..., None]),
)
def test_gradient_by_q_less_v(implementation, name):
    close(implementation(world(name)), exact(name), 1e-13)


def mean_gradient_of_q(instance):
    return np.einsum("sa,sad->sd", np.exp(log_policy(instance, PHI, THETA)), PHI)


@both
@pytest.mark.row("S155.value_gradient")
@against(
    mean_gradient_of_q,
    uniform=lambda i: np.mean(PHI, axis=1),
    greedy=lambda i: PHI[np.arange(3), np.argmax(log_policy(i, PHI, THETA), axis=1)],
)
def test_gradient_of_v_is_the_mean_gradient_of_q(implementation, name):
    instance = INSTANCES[name]

    def values(theta):
        scores = jnp.where(instance.allowed, jnp.asarray(PHI) @ theta, -jnp.inf)
        return jax.scipy.special.logsumexp(scores, axis=1)

    with jax.enable_x64(True):
        close(implementation(instance), jax.jacobian(values)(jnp.asarray(THETA)), 1e-13)


def advantage(w):
    """An estimate of it: what follows less the exact value."""
    return w.to_go(w.soft_rewards) - w.value


def maxent_gradient(w, estimate=advantage):
    return w.mean((w.grad_q - w.grad_v) * estimate(w)[..., None])


@both
@pytest.mark.row("S156")
@against(
    maxent_gradient,
    no_grad_v=lambda w: w.mean(w.grad_q * (advantage(w) + w.v)[..., None]),
    of_rewards_alone=lambda w: maxent_gradient(w, lambda x: x.to_go(x.rewards) - x.value),
    value_that_sees_the_action=lambda w: maxent_gradient(w, lambda x: advantage(x) - x.q),
)
def test_gradient_by_advantages(implementation, name):
    close(implementation(world(name)), exact(name), 1e-13)


def target(w):
    """What Q is regressed on: the reward and all that follows, later entropies included."""
    return w.to_go(w.soft_rewards) + TAU * w.log_pi


def loss_gradient(w):
    """Of `1/2 E sum_t (Q - y)^2`, states, actions and targets held where they are."""
    return TAU * w.mean(w.grad_q * (w.q - target(w))[..., None])


def decomposed(w, name):
    return -TAU * exact(name) + TAU * w.mean(w.grad_v * (w.v - w.value)[..., None])


@both
@pytest.mark.row("S157", "E3.27")
@against(
    decomposed,
    policy_gradient_itself=lambda w, name: exact(name),
    its_negative_alone=lambda w, name: -TAU * exact(name),
    no_temperature=lambda w, name: decomposed(w, name) - (1 - TAU) * exact(name),
    value_error_reversed=lambda w, name: -TAU * exact(name) - TAU * w.mean(w.grad_v * (w.v - w.value)[..., None]),
)
def test_soft_q_learning_is_policy_gradient_plus_value_error(implementation, name):
    w = world(name)
    close(implementation(w, name), loss_gradient(w), 1e-13)
    assert np.abs(loss_gradient(w)).max() > 0.01


OFFSETS = np.array([1.5, -2.0, 0.7])


@both
@pytest.mark.row("S158.offset")
@against(
    lambda i, q: q + OFFSETS[:, None],
    of_the_action=lambda i, q: q + np.array([0.5, -0.5]),
    factor=lambda i, q: q * (1.0 + OFFSETS[:, None] ** 2),
)
def test_offsets_leave_the_policy(implementation, name):
    instance, q = INSTANCES[name], PHI @ THETA
    law = lambda x: np.exp(log_policy(instance, x[..., None], np.ones(1)))  # noqa: E731
    close(law(implementation(instance, q)), law(q), 1e-14)


@both
@pytest.mark.row("S158.orthogonal")
@against(
    lambda w, name: exact(name, features="table").reshape(3, 2),
    soft_q_learning=lambda w, name: loss_gradient(w).reshape(3, 2),
    no_grad_v=lambda w, name: w.mean(w.grad_q * w.to_go(w.soft_rewards)[..., None]).reshape(3, 2),
)
def test_the_gradient_is_orthogonal_to_offsets(implementation, name):
    found = implementation(world(name, "table"), name)
    assert np.abs(found @ np.ones(2) * OFFSETS).max() < 1e-13


def only_grad_q(w, offsets=NONE):
    """The gradient without its term in the gradient of V, by an advantage with an offset of the state."""
    return w.mean(w.grad_q * np.where(w.acted, advantage(w) + offsets[w.states], 0.0)[..., None])


@both
@pytest.mark.parametrize("features", FEATURES)
@pytest.mark.row("S159.sufficient")
@against(
    only_grad_q,
    offset=lambda w: only_grad_q(w, OFFSETS),
    no_value=lambda w: only_grad_q(w._replace(value=0.0 * w.value)),
)
def test_the_term_vanishes_for_centered_advantages(implementation, name, features):
    close(implementation(world(name, features)), exact(name, features=features), 1e-13)


def visits(w):
    return np.bincount(w.states[w.acted], (w.chance[:, None] * w.acted)[w.acted], 3)


@both
@pytest.mark.row("S159.tabular", "E3.26")
def test_for_tables_nothing_else_will_do(name):
    """The gap of a table is `visits * pi * offset`, from which every offset can be read; with features that states
    share there are offsets that leave none, and others that leave a large one."""
    w, instance = world(name, "table"), INSTANCES[name]
    gap = (only_grad_q(w, OFFSETS) - exact(name, features="table")).reshape(3, 2)
    close(gap, (visits(w) * OFFSETS)[:, None] * np.exp(log_policy(instance, *FEATURES["table"])), 1e-12)
    close(gap.sum(axis=1) / visits(w), OFFSETS, 1e-12)
    few = world(name, "few")
    mean_features = np.einsum("sa,sad->sd", np.exp(log_policy(instance, *FEATURES["few"])), FEATURES["few"][0])
    hidden = np.linalg.svd(mean_features.T)[2][-1] / visits(few)
    assert np.abs(hidden).min() > 1e-3
    close(only_grad_q(few, hidden), exact(name, features="few"), 1e-12)
    assert np.abs(only_grad_q(few, OFFSETS) - exact(name, features="few")).max() > 0.1


def at_the_solution(instance):
    """`(Q [H, S, A], V [H + 1, S])` of the soft Bellman equation."""
    values, q, _ = backward(instance, TAU, "none", neutral=True)
    return q, values


def at_other_values(instance):
    """`Q` and its own soft value, from features."""
    q = np.broadcast_to(np.where(instance.allowed, TAU * PHI @ THETA, -np.inf), (instance.horizon, *instance.shape))
    return q, np.append(TAU * logsumexp(q / TAU, axis=-1), instance.terminal[None], axis=0)


@both
@pytest.mark.row("E3.25")
@against(at_the_solution, other_values=at_other_values)
def test_the_bracket_vanishes_at_a_solution_only(implementation, name):
    instance = INSTANCES[name]
    q, values = implementation(instance)
    after = np.stack([instance.going_on() @ v for v in values[1:]])
    bracket = (instance.mean_rewards() - q + after)[:, instance.allowed]
    close(bracket, np.zeros_like(bracket), 1e-13)
    close((instance.mean_rewards() - q)[:, instance.allowed], -after[:, instance.allowed], 1e-13)


def last_integrand(rewards, log_q):
    return np.log(np.exp(rewards)) - log_q


@pytest.mark.row("E3.19")
@against(last_integrand, of_a_difference=lambda rewards, log_q: np.log(np.abs(np.exp(rewards) - log_q)))
def test_the_last_step_is_a_difference_of_logarithms(implementation):
    """Its mean under `q = exp r / Z` is `log Z`, and less under any other."""
    rewards = np.array([0.4, -1.0, 0.9])
    best = rewards - logsumexp(rewards)
    assert np.exp(best) @ implementation(rewards, best) == pytest.approx(logsumexp(rewards), abs=1e-12)
    other = np.log([0.2, 0.3, 0.5])
    assert np.exp(other) @ implementation(rewards, other) < logsumexp(rewards)


def squared_error(estimates, truth, temperature):
    """Mean over equally likely estimates `[N, A]`, of the (soft) maximum against that of the truth."""
    top = lambda q: np.max(q, axis=-1) if temperature == 0 else temperature * logsumexp(q / temperature, axis=-1)  # noqa: E731
    return np.mean((top(estimates) - top(truth)) ** 2)


@pytest.mark.row("E3.28")
def test_entropy_regularized_values_are_estimated_better_here_and_worse_there():
    """Ties of noisy estimates, which a maximum picks from: better. One exact action far above a noisy one: worse."""
    signs = np.array([[a, b] for a in (-1.0, 1.0) for b in (-1.0, 1.0)])
    tied = squared_error(signs, np.zeros(2), 0.0), squared_error(signs, np.zeros(2), 2.0)
    assert tied[1] < 0.9 * tied[0]
    apart = np.array([0.0, -5.0])
    noisy = apart + np.array([[0.0, -1.0], [0.0, 1.0]])
    assert squared_error(noisy, apart, 0.0) == 0.0
    assert squared_error(noisy, apart, 5.0) > 0.05
