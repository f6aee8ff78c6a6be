"""Variational inference of hidden states: exact for normal chains, below by its divergence for the mean field."""

import dataclasses
import itertools

import jax
import numpy as np
import pytest

from clauses import against
from instances import close
from optimality import FiniteHorizon, Result, TabularMDP
from optimality.planning.hmm_filter import hmm_filter, hmm_smoother
from optimality.planning.kalman_filter import kalman_filter, kalman_smoother
from optimality.planning.variational_filter import variational_filter
from optimality.problems.linear_quadratic import LinearQuadratic
from optimality.problems.partially_observed import LinearObservation, PartiallyObserved, TabularObservation

STEPS = 5


def psd(rng, n):
    root = rng.normal(size=(n, n))
    return root @ root.T / n + 0.2 * np.eye(n)


def chain(seed, timed):
    """A linear-Gaussian chain with controls and drift, and what was done and seen."""
    rng = np.random.default_rng(seed)
    time = (STEPS,) if timed else ()
    process = LinearQuadratic(
        np.eye(3) + 0.4 * rng.normal(size=(*time, 3, 3)),
        rng.normal(size=(3, 2)),
        np.eye(3),
        np.eye(2),
        criterion=FiniteHorizon(STEPS),
        c=rng.normal(size=(*time, 3)),
        W=np.stack([psd(rng, 3) for _ in range(STEPS)]) if timed else psd(rng, 3),
        initial_mean=rng.normal(size=3),
        initial_covariance=psd(rng, 3),
    )
    observation = LinearObservation(rng.normal(size=(2, 3)), psd(rng, 2), D=rng.normal(size=(2, 2)), d=[1.0, -1.0])
    return PartiallyObserved(process, observation), 2 * rng.normal(size=(STEPS + 1, 2)), rng.normal(size=(STEPS, 2))


CHAINS = [chain(0, False), chain(1, True)]


def normal(data, **options):
    found = variational_filter(*data, **options)
    return found.q.means, found.q.covariances, found.q.cross_covariances, found.elbo


def uncoupled(data):
    """Keeps the laws of single times and forgets how neighbors go together."""
    means, covariances, cross, elbo = normal(data)
    return means, covariances, 0.0 * cross, elbo


def kalman(data, which):
    smoothed = kalman_smoother(*data)
    filtered = smoothed.filtered
    laws = filtered if which == "filtered" else smoothed
    return laws.means, laws.covariances, smoothed.cross_covariances, filtered.log_evidence


@pytest.mark.row("S131.gaussian")
@against(normal, filtered=lambda data: kalman(data, "filtered"), uncoupled=uncoupled)
def test_the_best_normal_law_of_the_path_is_the_kalman_smoother(implementation):
    for data in CHAINS:
        for ours, theirs in zip(implementation(data), kalman(data, "smoothed"), strict=True):
            close(ours, theirs, 1e-11)


def test_one_step_is_enough_for_a_quadratic_log_joint():
    found = variational_filter(*CHAINS[0])
    assert found.result is Result.CONVERGED
    assert found.steps == 2  # the second sees that nothing changes
    assert found.elbos[0] < found.elbos[1] - 1.0
    close(found.gap, 0.0, 1e-11)
    close(variational_filter(*CHAINS[0], dtype=np.float32).elbo, found.elbo, 1e-5)


@pytest.mark.row("S131.gaussian")
@against(
    lambda data, q: bound(data, *q),
    without_entropy=lambda data, q: bound(data, *q, entropy=False),
    of_the_filter=lambda data, q: kalman_filter(*data).log_evidence,
)
def test_every_other_normal_law_has_a_smaller_bound(implementation):
    """The bound, written out in NumPy, is largest at the answer, where it is the evidence; and stationary."""
    data = CHAINS[0]
    best = variational_filter(*data).q
    q = best.means, best.covariances, best.cross_covariances
    evidence = kalman_filter(*data).log_evidence
    close(implementation(data, q), evidence, 1e-11)
    rng = np.random.default_rng(0)
    for _ in range(5):
        shift = 1e-2 * rng.normal(size=best.means.shape)
        moved = implementation(data, (best.means + shift, *q[1:]))
        assert evidence - 1.0 < moved < evidence - 1e-6
    wider = implementation(data, (best.means, best.covariances * 1.1, best.cross_covariances * 1.1))
    assert wider < evidence - 1e-3


def bound(data, means, covariances, cross, *, entropy=True):
    """`E_q log p(x, y) + entropy(q)` of a normal q, from its moments of neighbors."""
    (_, observations, controls), p = data, problem_arrays(data[0])

    def expected(deviation, spread, noise):
        inverse = np.linalg.inv(noise)
        size = deviation @ inverse @ deviation + np.trace(inverse @ spread)
        return -0.5 * (size + np.linalg.slogdet(2 * np.pi * noise)[1])

    total = expected(means[0] - p["mean"], covariances[0], p["covariance"])
    for t, y in enumerate(observations):
        feed = p["D"] @ controls[t - 1] if t else 0.0
        total += expected(y - p["C"] @ means[t] - p["d"] - feed, p["C"] @ covariances[t] @ p["C"].T, p["V"])
    joint = [covariances[0]]
    for t in range(STEPS):
        A = p["A"]
        deviation = means[t + 1] - A @ means[t] - p["B"] @ controls[t] - p["c"]
        spread = covariances[t + 1] - A @ cross[t] - (A @ cross[t]).T + A @ covariances[t] @ A.T
        total += expected(deviation, spread, p["W"])
        joint.append(covariances[t + 1] - cross[t].T @ np.linalg.inv(covariances[t]) @ cross[t])
    entropies = [0.5 * np.linalg.slogdet(2 * np.pi * np.e * S)[1] for S in joint]
    return total + (sum(entropies) if entropy else 0.0)


def problem_arrays(problem):
    process, seen = problem.problem, problem.observation
    return {
        **{name: getattr(process, name) for name in ("A", "B", "c", "W")},
        **{name: getattr(seen, name) for name in ("C", "V", "D", "d")},
        "mean": process.initial_mean,
        "covariance": process.initial_covariance,
    }


def test_without_density_there_is_no_bound():
    problem, observations, controls = CHAINS[0]
    certain = dataclasses.replace(problem.problem, initial_covariance=np.zeros((3, 3)))
    with pytest.raises(ValueError, match="initial_covariance has an eigenvalue of 0: a path then has no density"):
        variational_filter(PartiallyObserved(certain, problem.observation), observations, controls)


def table(seed, zeros=False):
    """Three states, two actions, two observations, endings; with `zeros` some transitions are impossible."""
    rng = np.random.default_rng(seed)
    going_on = 0.95 * rng.dirichlet(np.full(3, 0.6), size=(2, 3))
    if zeros:
        going_on[0] = 0.95 * np.array([[0.5, 0.5, 0.0], [0.0, 0.3, 0.7], [0.9, 0.0, 0.1]])
    rows = [(s, a, t, p, 0.0, False) for (a, s, t), p in np.ndenumerate(going_on) if p > 0.0]
    rows += [(s, a, 0, 0.05, 0.0, True) for s, a in itertools.product(range(3), range(2))]
    initial = rng.dirichlet(np.ones(3))
    mdp = TabularMDP.from_outcomes(rows, criterion=FiniteHorizon(STEPS), initial=initial, states=3, actions=2)
    seeing, first = rng.dirichlet(np.ones(2), size=(2, 3)), rng.dirichlet(np.ones(2), size=3)
    problem = PartiallyObserved(mdp, TabularObservation(seeing, first))
    actions, observations = rng.integers(0, 2, STEPS), rng.integers(0, 2, STEPS + 1)

    def log_joint(path):
        p = initial[path[0]] * first[path[0], observations[0]]
        for a, s, t, o in zip(actions, path, path[1:], observations[1:], strict=False):
            p *= going_on[a, s, t] * seeing[a, t, o]
        return np.log(p) if p > 0.0 else -np.inf

    joint = np.array([log_joint(path) for path in itertools.product(range(3), repeat=STEPS + 1)])
    return (problem, observations, actions), joint


TABLES = [table(0), table(1), table(2, zeros=True)]


def product_law(q):
    return np.array([np.prod(q[np.arange(STEPS + 1), path]) for path in itertools.product(range(3), repeat=STEPS + 1)])


def divergence(law, joint):
    posterior = joint - np.log(np.exp(joint).sum())
    used = law > 0.0
    return (law[used] * (np.log(law[used]) - posterior[used])).sum()


def mean_field(data):
    found = variational_filter(*data)
    return found.q, found.gap


def of_marginals(data):
    """The product of the exact marginals, which is not the closest product, with the gap of the closest."""
    return hmm_smoother(*data).beliefs, variational_filter(*data).gap


@pytest.mark.row("S131.mean_field")
@against(mean_field, exact_marginals=of_marginals, other_way_round=lambda data: (mean_field(data)[0], reverse_kl(data)))
def test_the_gap_of_the_mean_field_is_its_divergence(implementation):
    for data, joint in TABLES:
        q, gap = implementation(data)
        close(gap, divergence(product_law(q), joint), 1e-11)
        assert gap > 1e-3


def reverse_kl(data):
    """`KL(posterior || q)`."""
    joint = next(joint for other, joint in TABLES if other is data)
    posterior, law = np.exp(joint) / np.exp(joint).sum(), product_law(mean_field(data)[0])
    used = (posterior > 0.0) & (law > 0.0)
    return (posterior[used] * np.log(posterior[used] / law[used])).sum()


@pytest.mark.row("S131.mean_field")
def test_each_sweep_raises_the_bound_and_none_exceeds_the_evidence():
    for data, joint in TABLES:
        found = variational_filter(*data)
        assert found.result is Result.CONVERGED
        close(found.log_evidence, np.log(np.exp(joint).sum()))
        assert (np.diff(found.elbos) >= -1e-13).all()
        assert found.elbos[0] == pytest.approx(joint.max(), abs=1e-12)  # the likeliest path
        assert found.elbo < found.log_evidence
        close(found.q.sum(axis=1), np.ones(STEPS + 1))


def test_no_single_time_can_be_improved():
    for data, joint in TABLES:
        q = variational_filter(*data).q
        rng = np.random.default_rng(0)
        least = divergence(product_law(q), joint)
        for _ in range(20):
            t, other = rng.integers(STEPS + 1), q.copy()
            other[t] = 0.99 * q[t] + 0.01 * rng.dirichlet(np.ones(3)) * (q[t] > 0) / 1.0
            other[t] /= other[t].sum()
            assert divergence(product_law(other), joint) >= least - 1e-12


def test_limits_and_tracing(x64):
    data, _ = TABLES[0]
    assert variational_filter(*data, max_steps=1).result is Result.ITERATION_LIMIT
    traced = jax.jit(lambda o: variational_filter(data[0], o, data[2]))(data[1])
    close(traced.elbo, variational_filter(*data).elbo, 1e-12 if x64 else 1e-5)
    assert traced.result == Result.CONVERGED
    one = variational_filter(data[0], data[1][:1], [])
    close(one.q, hmm_filter(data[0], data[1][:1], []).beliefs)
    close(one.gap, 0.0)
