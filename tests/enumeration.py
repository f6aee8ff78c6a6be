"""The oracle of planning: every trajectory of a small problem, one by one, in plain NumPy.

It shares no code with the library. A trajectory lists its states, actions and rewards until it ends: by a terminated
outcome, by the chance `1 - discount` after a reward, or at the horizon, where the terminal reward is paid.
"""

import dataclasses
import functools
import itertools

import numpy as np


def logsumexp(x, axis=None):
    x = np.asarray(x, np.float64)
    top = np.max(x, axis=axis, keepdims=True, initial=-np.inf)
    top = np.where(np.isneginf(top), 0.0, top)
    with np.errstate(divide="ignore"):
        total = np.log(np.sum(np.exp(x - top), axis=axis, keepdims=True)) + top
    return total.item() if axis is None else np.squeeze(total, axis)


@dataclasses.dataclass(frozen=True, eq=False)
class Instance:
    """A problem as plain data; rows are (state, action, successor, probability, reward, terminated)."""

    rows: tuple
    initial: np.ndarray
    horizon: int
    terminal: np.ndarray
    log_prior: np.ndarray
    discount: float = 1.0

    @property
    def allowed(self):
        return np.isfinite(self.log_prior)

    @property
    def shape(self):
        return self.log_prior.shape

    def base(self, prior):
        """Log base measure of actions: `none`, `uniform` or `problem`."""
        count = self.allowed.sum(axis=1, keepdims=True)
        uniform = np.broadcast_to(-np.log(count), self.shape)
        base = {"none": np.zeros(self.shape), "uniform": uniform, "problem": self.log_prior}[prior]
        return np.where(self.allowed, base, -np.inf)

    def but(self, **changes):
        return dataclasses.replace(self, **changes)

    def with_rewards(self, change):
        """Each reward replaced by `change(reward, row)`."""
        return self.but(rows=tuple((*row[:4], change(row[4], row), row[5]) for row in self.rows))

    def mean_rewards(self):
        mean = np.zeros(self.shape)
        for s, a, _, p, r, _ in self.rows:
            mean[s, a] += p * r
        return mean

    def going_on(self):
        """`[S, A, S]`, without the discount."""
        table = np.zeros((*self.shape, self.shape[0]))
        for s, a, t, p, _, over in self.rows:
            if not over:
                table[s, a, t] += p
        return table


class Enumeration:
    """All trajectories: `states [N, H+1]` and `actions [N, H]` (-1 once ended), `rewards [N, H]`, `returns [N]`;
    `log_world` is the log-probability of first state, outcomes and chances of ending, `log_base` that of actions."""

    def __init__(self, instance: Instance, prior: str = "problem"):
        self.instance, self.base = instance, instance.base(prior)
        horizon, discount = instance.horizon, instance.discount
        following = {}
        for s, a, t, p, r, over in instance.rows:
            if p > 0.0 and instance.allowed[s, a]:
                following.setdefault(s, []).append((a, t, p, r, over))
        finished = []
        running = [((s,), (), (), p, 0.0) for s, p in enumerate(instance.initial) if p > 0.0]
        for _ in range(horizon):
            longer = []
            for states, actions, rewards, chance, _ in running:
                for a, t, p, r, over in following[states[-1]]:
                    head = (*actions, a), (*rewards, r)
                    if over:
                        finished.append((states, *head, chance * p, 0.0))
                        continue
                    if discount < 1.0:
                        finished.append((states, *head, chance * p * (1.0 - discount), 0.0))
                    if discount > 0.0:
                        longer.append(((*states, t), *head, chance * p * discount, 0.0))
            running = longer
        finished += [(s, a, r, chance, instance.terminal[s[-1]]) for s, a, r, chance, _ in running]
        self.states = self._padded(finished, 0, horizon + 1, -1)
        self.actions = self._padded(finished, 1, horizon, -1)
        self.rewards = self._padded(finished, 2, horizon, 0.0)
        self.log_world = np.log([chance for *_, chance, _ in finished])
        self.returns = self.rewards.sum(axis=1) + np.array([last for *_, last in finished])
        self.log_base = self._log_actions(self.base)

    @staticmethod
    def _padded(finished, column, length, filler):
        return np.array([[*way[column], *[filler] * (length - len(way[column]))] for way in finished])

    def _log_actions(self, log_policy):
        """Log-probability of the actions of each trajectory under a table `[S, A]` or `[H, S, A]`."""
        horizon = self.actions.shape[1]
        table = np.broadcast_to(log_policy, (horizon, *self.instance.shape))
        terms = table[np.arange(horizon), self.states[:, :-1], self.actions]
        return np.where(self.actions >= 0, terms, 0.0).sum(axis=1)

    # The posterior given that every step was optimal.

    def log_joint(self, temperature):
        return self.log_world + self.log_base + self.returns / temperature

    def log_evidence(self, temperature):
        return logsumexp(self.log_joint(temperature))

    def log_posterior(self, temperature):
        return self.log_joint(temperature) - self.log_evidence(temperature)

    def states_under(self, log_law):
        """`[H+1, S]`: chance of being in each state at each time and still running."""
        return self._count(self.states, np.exp(log_law))

    def pairs_under(self, log_law):
        """`[H, S, A]`"""
        states, actions = self.instance.shape
        pair = np.where(self.actions >= 0, self.states[:, :-1] * actions + self.actions, -1)
        return self._count(pair, np.exp(log_law), states * actions).reshape(-1, states, actions)

    def _count(self, index, weight, size=None):
        size = self.instance.shape[0] if size is None else size
        return np.stack([np.bincount(column + 1, weight, size + 1)[1:] for column in index.T])

    def posterior_policy(self, temperature):
        """`p(a_t | s_t, O)`; NaN at states that cannot be reached."""
        pairs = self.pairs_under(self.log_posterior(temperature))
        with np.errstate(invalid="ignore"):
            return pairs / pairs.sum(axis=-1, keepdims=True)

    def posterior_dynamics(self, temperature, time):
        """`p(s_{t+1}, running | s_t, a_t, O)`, `[S, A, S]`."""
        states, actions = self.instance.shape
        weight = np.exp(self.log_posterior(temperature))
        s, a, t = self.states[:, time], self.actions[:, time], self.states[:, time + 1]
        acted = a >= 0
        total = np.bincount((s * actions + a)[acted], weight[acted], states * actions)
        on = acted & (t >= 0)
        joint = np.bincount(((s * actions + a) * states + t)[on], weight[on], states * actions * states)
        with np.errstate(invalid="ignore"):
            return joint.reshape(states, actions, states) / total.reshape(states, actions, 1)

    def forward(self, temperature):
        """`p(s_t | O_1 .. O_{t-1}, running)` for t = 1 .. H+1; the prior must be a law."""
        so_far = np.concatenate([np.zeros((len(self.rewards), 1)), np.cumsum(self.rewards, axis=1)], axis=1)
        rows = []
        for time in range(self.states.shape[1]):
            weight = np.exp(self.log_world + self.log_base + so_far[:, time] / temperature)
            mass = self._count(self.states[:, time : time + 1], weight)[0]
            rows.append(mass / mass.sum())
        return np.stack(rows)

    # A given policy under the true dynamics.

    def log_law(self, log_policy):
        return self.log_world + self._log_actions(log_policy)

    def expected_return(self, log_policy):
        return float(np.exp(self.log_law(log_policy)) @ self.returns)

    def expected_entropy(self, log_policy):
        log_actions = self._log_actions(log_policy)
        return float(-_expect(self.log_law(log_policy), log_actions))

    def expected_kl(self, log_policy):
        return float(_expect(self.log_law(log_policy), self._log_actions(log_policy) - self.log_base))

    def elbo(self, log_policy, temperature):
        return self.expected_return(log_policy) / temperature - self.expected_kl(log_policy)

    def gap(self, log_policy, temperature):
        """`KL(q(trajectory) || p(trajectory | O))`"""
        log_law = self.log_law(log_policy)
        return float(_expect(log_law, log_law - self.log_posterior(temperature)))

    def best_return(self):
        """The best expected return of all deterministic policies, which may depend on time."""
        horizon, allowed = self.instance.horizon, self.instance.allowed
        tables = list(itertools.product(*(np.flatnonzero(row) for row in allowed)))
        best = -np.inf
        for choices in itertools.product(tables, repeat=horizon):
            probability = np.eye(allowed.shape[1])[np.array(choices)]
            with np.errstate(divide="ignore"):
                best = max(best, self.expected_return(np.log(probability)))
        return best


def _expect(log_law, f):
    inside = np.isfinite(log_law)
    return np.sum(np.exp(log_law[inside]) * f[inside])


def messages(instance, temperature, prior="problem"):
    """`log p(all later optimality | s_t)` `[H+1, S]` and `| s_t, a_t` `[H, S, A]`, each by its own enumeration."""
    states, actions = instance.shape
    log_states = np.empty((instance.horizon + 1, states))
    log_pairs = np.full((instance.horizon, states, actions), -np.inf)
    log_states[-1] = instance.terminal / temperature
    for time, state in itertools.product(range(instance.horizon), range(states)):
        later = instance.but(initial=np.eye(states)[state], horizon=instance.horizon - time)
        world = Enumeration(later, prior)
        log_joint = world.log_joint(temperature)
        log_states[time, state] = logsumexp(log_joint)
        for action in np.flatnonzero(instance.allowed[state]):
            first = world.actions[:, 0] == action
            log_pairs[time, state, action] = logsumexp(log_joint[first]) - world.base[state, action]
    return log_states, log_pairs


def backward(
    instance,
    temperature,
    prior="problem",
    *,
    neutral=False,
    hard=False,
    forgets_termination=False,
    mean_rewards=False,
    discount_outside=False,
    no_prior=False,
    no_start=False,
):
    """The backward recursion with switches for the usual mistakes; values, q and log-policy in reward units.

    Without a switch it is exact inference, with `neutral` alone the restricted posterior.
    """
    base = np.where(instance.allowed, 0.0, -np.inf) if no_prior else instance.base(prior)
    means, tau, gamma = instance.mean_rewards(), temperature, instance.discount
    values = [np.zeros_like(instance.terminal) if no_start else np.asarray(instance.terminal, np.float64)]
    qs, policies = [], []
    for _ in range(instance.horizon):
        ahead = values[-1]
        q = np.zeros(instance.shape)
        log_q = np.full(instance.shape, -np.inf)
        for s, a, t, p, r, over in instance.rows:
            ends = over and not forgets_termination
            after = 0.0 if ends else ahead[t]
            if neutral:
                q[s, a] += p * (r + gamma * after)
                continue
            r = means[s, a] if mean_rewards else r
            if ends or discount_outside or gamma == 1.0:
                later = after / tau
            else:
                later = np.logaddexp(np.log(gamma) + after / tau, np.log1p(-gamma))
            reward = 0.0 if discount_outside else r / tau
            log_q[s, a] = np.logaddexp(log_q[s, a], np.log(p) + reward + later)
        if discount_outside and not neutral:
            q = means + gamma * tau * log_q
        elif not neutral:
            q = tau * log_q
        q = np.where(instance.allowed, q, -np.inf)
        value = np.max(q, axis=1) if hard else tau * logsumexp(base + q / tau, axis=1)
        policies.append(base + (q - value[:, None]) / tau)
        values.append(value)
        qs.append(q)
    return np.array(values[::-1]), np.array(qs[::-1]), np.array(policies[::-1])


@functools.cache
def random_instance(discount=1.0):
    """3 states, 2 actions, 4 steps; state 2 has one action; some outcomes terminate; state 0, action 1 reaches
    state 1 with two rewards, and ending too."""
    random = np.random.default_rng(7)
    rows = []
    for s, a in ((0, 0), (0, 1), (1, 0), (1, 1), (2, 1)):
        ways = [(t, False) for t in range(3)]
        if (s, a) == (0, 1):
            ways += [(1, False), (1, True)]
        if (s, a) in ((1, 0), (2, 1)):
            ways = [(0, False), (2, False), (1, True)]
        for (t, over), p in zip(ways, random.dirichlet(np.ones(len(ways))), strict=True):
            rows.append((s, a, t, float(p), float(random.normal()), over))
    prior = random.dirichlet(np.ones(2), size=3)
    prior[2] = 0.0, 1.0
    with np.errstate(divide="ignore"):
        log_prior = np.log(prior)
    return Instance(tuple(rows), random.dirichlet(np.ones(3)), 4, random.normal(size=3), log_prior, discount)


@functools.cache
def plain_instance(discount=1.0):
    """3 states, 2 actions, 4 steps, nothing terminates, rewards per successor: 3,888 trajectories."""
    random = np.random.default_rng(11)
    rows = []
    for s, a in itertools.product(range(3), range(2)):
        for t, p in enumerate(random.dirichlet(np.ones(3))):
            rows.append((s, a, t, float(p), float(random.normal()), False))
    log_prior = np.log(random.dirichlet(np.ones(2), size=3))
    return Instance(tuple(rows), random.dirichlet(np.ones(3)), 4, np.zeros(3), log_prior, discount)


@functools.cache
def deterministic_instance():
    """The plain one with each pair's likeliest outcome made certain, and one first state."""
    plain = plain_instance()
    rows = []
    for s, a in itertools.product(range(3), range(2)):
        likeliest = max((row for row in plain.rows if row[:2] == (s, a)), key=lambda row: row[3])
        rows.append((*likeliest[:3], 1.0, *likeliest[4:]))
    return plain.but(rows=tuple(rows), initial=np.eye(3)[0])


@functools.cache
def trajectories(instance, prior="problem"):
    """`Enumeration`, made once."""
    return Enumeration(instance, prior)


@functools.cache
def exact_messages(instance, temperature, prior="problem"):
    """`messages`, made once."""
    return messages(instance, temperature, prior)
