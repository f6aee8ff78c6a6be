"""Random linear-quadratic problems, and their answers by dense algebra that shares nothing with the library."""

import numpy as np
import scipy.linalg

from optimality.problems.criterion import FiniteHorizon
from optimality.problems.linear_quadratic import LinearQuadratic, NoiseChannels


def positive(random, size, lead=(), least=0.5):
    root = random.normal(size=(*lead, size, size))
    return root @ np.swapaxes(root, -1, -2) / size + least * np.eye(size)


def random_problem(
    n, m, horizon=None, *, seed=0, radius=1.02, timed=False, noise=0.1, channels=0, start=0.0, criterion=None, **changes
):
    """Every term is there: affine, cross, terminal; each step has its own with `timed`."""
    random = np.random.default_rng(seed)
    lead = (horizon,) if timed else ()
    A = random.normal(size=(n, n))
    A = A * radius / np.abs(np.linalg.eigvals(A)).max() + (0.05 * random.normal(size=(*lead, n, n)) if timed else 0.0)
    fields = {
        "A": A,
        "B": random.normal(size=(*lead, n, m)) / np.sqrt(n),
        "Q": positive(random, n, lead),
        "R": positive(random, m, lead),
        "c": 0.3 * random.normal(size=(*lead, n)),
        "N": 0.2 / np.sqrt(n) * random.normal(size=(*lead, n, m)),
        "q": random.normal(size=(*lead, n)),
        "r": random.normal(size=(*lead, m)),
        "s": random.normal(size=lead),
        "W": noise * positive(random, n, lead, 0.1),
        "initial_mean": random.normal(size=n),
        "initial_covariance": start * positive(random, n),
        "criterion": FiniteHorizon(horizon) if criterion is None else criterion,
    }
    if criterion is None or isinstance(criterion, FiniteHorizon):
        fields |= {"Qf": 2.0 * positive(random, n), "qf": random.normal(size=n), "sf": 0.7}
    if channels:
        fields["channels"] = NoiseChannels(
            0.2 * random.normal(size=(*lead, channels, n, n)),
            0.2 * random.normal(size=(*lead, channels, n, m)),
            0.3 * random.normal(size=(*lead, channels, n)),
        )
    return LinearQuadratic(**{**fields, **changes})


def stacked(problem):
    """The total cost as a form over everything that is free: `1/2 v'H v + g'v + constant`, v = all controls, then all
    noise, with the first state its mean; and the states as affine functions of v, `states = X v + x`."""
    stages, T = problem.stages(), problem.horizon
    n, m = problem.shape
    size = T * (m + n)
    X, x = np.zeros((T + 1, n, size)), np.zeros((T + 1, n))
    U = np.zeros((T, m, size))
    x[0] = problem.initial_mean
    H, g, constant, weight = np.zeros((size, size)), np.zeros(size), 0.0, 1.0
    for t in range(T):
        U[t, :, t * m : (t + 1) * m] = np.eye(m)
        A, B, c, _, Q, R, N, q, r, s, _ = (None if part is None else np.asarray(part[t]) for part in _without(stages))
        H += weight * (X[t].T @ Q @ X[t] + U[t].T @ R @ U[t] + X[t].T @ N @ U[t] + U[t].T @ N.T @ X[t])
        g += weight * (X[t].T @ (Q @ x[t] + q) + U[t].T @ (N.T @ x[t] + r))
        constant += weight * (0.5 * x[t] @ Q @ x[t] + q @ x[t] + s)
        X[t + 1], x[t + 1] = A @ X[t] + B @ U[t], A @ x[t] + c
        start = T * m + t * n
        X[t + 1, :, start : start + n] += np.eye(n)
        weight *= problem.discount
    H += weight * X[T].T @ problem.Qf @ X[T]
    g += weight * X[T].T @ (problem.Qf @ x[T] + problem.qf)
    constant += weight * (0.5 * x[T] @ problem.Qf @ x[T] + problem.qf @ x[T] + problem.sf)
    return H, g, constant, X, x


def _without(stages):
    return (*stages[:-1], None)


def open_loop(problem):
    """Controls of least cost without noise, by one dense solve: `(controls [T, m], states, cost)`."""
    H, g, constant, X, x = stacked(problem)
    T, m = problem.horizon, problem.shape[1]
    k = T * m
    v = np.linalg.solve(H[:k, :k], -g[:k])
    cost = 0.5 * v @ H[:k, :k] @ v + g[:k] @ v + constant
    return v.reshape(T, m), X[..., :k] @ v + x, cost


def kkt(problem):
    """States, controls and multipliers of the dynamics from the whole KKT system; discount 1."""
    stages, T = problem.stages(), problem.horizon
    n, m = problem.shape
    size = (T + 1) * n + T * m
    H, g = np.zeros((size, size)), np.zeros(size)
    E, e = np.zeros(((T + 1) * n, size)), np.zeros((T + 1) * n)

    def state(t):
        return slice(t * n, (t + 1) * n)

    def control(t):
        return slice((T + 1) * n + t * m, (T + 1) * n + (t + 1) * m)

    E[state(0), state(0)], e[state(0)] = np.eye(n), problem.initial_mean
    for t in range(T):
        A, B, c, _, Q, R, N, q, r = (np.asarray(part[t]) for part in stages[:9])
        H[state(t), state(t)], H[control(t), control(t)] = Q, R
        H[state(t), control(t)], H[control(t), state(t)] = N, N.T
        g[state(t)], g[control(t)] = q, r
        E[state(t + 1), state(t + 1)], E[state(t + 1), state(t)], E[state(t + 1), control(t)] = np.eye(n), -A, -B
        e[state(t + 1)] = c
    H[state(T), state(T)], g[state(T)] = problem.Qf, problem.qf
    system = np.block([[H, E.T], [E, np.zeros((E.shape[0], E.shape[0]))]])
    solved = np.linalg.solve(system, np.concatenate([-g, e]))
    states = solved[: (T + 1) * n].reshape(T + 1, n)
    controls = solved[(T + 1) * n : size].reshape(T, m)
    return states, controls, -solved[size:].reshape(T + 1, n)


def dare(problem):
    scale = np.sqrt(problem.discount)
    return scipy.linalg.solve_discrete_are(scale * problem.A, scale * problem.B, problem.Q, problem.R, s=problem.N)


def simulate(problem, policy, *, episodes, seed):
    """Costs of episodes of a finite horizon, drawn in NumPy."""
    random = np.random.default_rng(seed)
    stages, T = problem.stages(), problem.horizon

    def normal(covariance):
        values, vectors = np.linalg.eigh(covariance)
        return random.normal(size=(episodes, len(values))) @ (vectors * np.sqrt(np.maximum(values, 0.0))).T

    x = problem.initial_mean + normal(problem.initial_covariance)
    total, weight = np.zeros(episodes), 1.0
    for t in range(T):
        A, B, c, W, Q, R, N, q, r, s = (np.asarray(part[t]) for part in stages[:10])
        K, k, covariance = policy.at(t)
        u = x @ np.asarray(K).T + k + (0.0 if covariance is None else normal(np.asarray(covariance)))
        total += weight * (
            0.5 * np.einsum("ei,ij,ej->e", x, Q, x)
            + 0.5 * np.einsum("ei,ij,ej->e", u, R, u)
            + np.einsum("ei,ij,ej->e", x, N, u)
            + x @ q
            + u @ r
            + s
        )
        new = x @ A.T + u @ B.T + c + normal(W)
        if stages.channels is not None:
            C, D, o = (
                np.asarray(part[t]) for part in (stages.channels.state, stages.channels.control, stages.channels.offset)
            )
            size = o[None] + np.einsum("lij,ej->eli", C, x) + np.einsum("lij,ej->eli", D, u)
            new += np.einsum("eli,el->ei", size, random.normal(size=(episodes, o.shape[0])))
        x = new
        weight *= problem.discount
    return total + weight * (0.5 * np.einsum("ei,ij,ej->e", x, problem.Qf, x) + x @ problem.qf + problem.sf)


def riccati(
    problem,
    *,
    temperature=None,
    risk=None,
    without_half=False,
    forgets_cross=False,
    forgets_drift=False,
    forgets_channels=False,
    forgets_channel_offset=False,
    sign_of_risk=1.0,
    noise_in_gains=False,
    undiscounted=False,
):
    """The recursion in plain NumPy, and its mistakes: a dictionary of P, p, s, K, k, Q_uu over time."""
    stages, T = problem.stages(), problem.horizon
    n, m = problem.shape
    half = 1.0 if without_half else 0.5
    d = 1.0 if undiscounted else float(problem.discount)
    P, p, s = problem.Qf * 2 * half, problem.qf, float(problem.sf)
    rows = [(P, p, s, None, None, None)]
    for t in reversed(range(T)):
        A, B, c, W, Q, R, N, q, r, s0 = (np.asarray(part[t]) for part in stages[:10])
        N, c = (0.0 if forgets_cross else 1.0) * N, (0.0 if forgets_drift else 1.0) * c
        Pn, pn, sn = P, p, s
        if risk is not None:
            theta = sign_of_risk * risk
            M = np.eye(n) + theta * P @ W
            Pn, pn = np.linalg.solve(M, P), np.linalg.solve(M, p)
            sn = s - theta / 2 * p @ W @ pn + np.linalg.slogdet(M)[1] / (2 * theta)
        else:
            sn = s + 0.5 * np.trace(P @ W)
        effective = Pn + (W if noise_in_gains else 0.0)
        Q_xx, Q_ux, Q_uu = Q + d * A.T @ Pn @ A, N.T + d * B.T @ effective @ A, R + d * B.T @ effective @ B
        q_x, q_u = q + d * A.T @ (Pn @ c + pn), r + d * B.T @ (Pn @ c + pn)
        q_0 = s0 + d * (0.5 * c @ Pn @ c + pn @ c + sn)
        if stages.channels is not None and not forgets_channels:
            C, D, o = (
                np.asarray(x[t]) for x in (stages.channels.state, stages.channels.control, stages.channels.offset)
            )
            for Ci, Di, oi in zip(C, D, o, strict=True):
                Q_xx, Q_ux, Q_uu = Q_xx + d * Ci.T @ P @ Ci, Q_ux + d * Di.T @ P @ Ci, Q_uu + d * Di.T @ P @ Di
                if not forgets_channel_offset:
                    q_x, q_u = q_x + d * Ci.T @ P @ oi, q_u + d * Di.T @ P @ oi
                q_0 = q_0 + 0.5 * d * oi @ P @ oi
        K, k = -np.linalg.solve(Q_uu, Q_ux), -np.linalg.solve(Q_uu, q_u)
        P, p, s = Q_xx + Q_ux.T @ K, q_x + Q_ux.T @ k, q_0 + 0.5 * q_u @ k
        if temperature is not None:
            s -= 0.5 * temperature * (m * np.log(2 * np.pi * temperature) - np.linalg.slogdet(Q_uu)[1])
        rows.append((P, p, s, K, k, Q_uu))
    rows.reverse()
    names = ("P", "p", "s", "K", "k", "Q_uu")
    columns = {name: [row[i] for row in rows if row[i] is not None] for i, name in enumerate(names)}
    return {name: np.stack([np.asarray(x) for x in column]) for name, column in columns.items()}
