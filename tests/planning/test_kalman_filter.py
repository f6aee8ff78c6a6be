"""The Kalman filter and smoother against conditioning of the dense joint normal law of all states and observations."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from clauses import against
from instances import close
from optimality import FiniteHorizon, TabularMDP
from optimality.planning.kalman_filter import kalman_filter, kalman_smoother
from optimality.problems.linear_quadratic import LinearQuadratic, NoiseChannels
from optimality.problems.partially_observed import LinearObservation, PartiallyObserved, TabularObservation


@dataclasses.dataclass(frozen=True, eq=False)
class Instance:
    """A linear-Gaussian chain as plain arrays with an axis of time, and what was done and seen."""

    A: np.ndarray
    B: np.ndarray
    c: np.ndarray
    W: np.ndarray
    C: np.ndarray
    V: np.ndarray
    D: np.ndarray
    d: np.ndarray
    mean: np.ndarray
    covariance: np.ndarray
    controls: np.ndarray
    observations: np.ndarray
    timed: bool

    @property
    def problem(self):
        n, m = self.B.shape[1:]
        take = (lambda a: a) if self.timed else (lambda a: a[0])
        process = LinearQuadratic(
            take(self.A),
            take(self.B),
            np.eye(n),
            np.eye(m),
            criterion=FiniteHorizon(len(self.controls)),
            c=take(self.c),
            W=take(self.W),
            initial_mean=self.mean,
            initial_covariance=self.covariance,
        )
        return PartiallyObserved(process, LinearObservation(take(self.C), take(self.V), D=self.D, d=self.d))

    def but(self, **changes):
        return dataclasses.replace(self, **changes)


def psd(rng, n, rank=None):
    root = rng.normal(size=(n, rank or n))
    return root @ root.T / n + (0.0 if rank else 0.1) * np.eye(n)


def instance(seed=0, n=3, p=2, m=2, T=6, *, timed=True, singular=False):
    rng = np.random.default_rng(seed)
    count = T if timed else 1
    repeat = 1 if timed else T

    def each(draw, more=0):
        drawn = np.stack([draw() for _ in range(count + (more if timed else 0))])
        return drawn if timed else np.repeat(drawn, repeat + more, axis=0)

    return Instance(
        each(lambda: np.eye(n) + 0.4 * rng.normal(size=(n, n))),
        each(lambda: rng.normal(size=(n, m))),
        each(lambda: rng.normal(size=n)),
        each(lambda: psd(rng, n, 1 if singular else None)),
        each(lambda: rng.normal(size=(p, n)), 1),
        each(lambda: psd(rng, p), 1),
        rng.normal(size=(p, m)),
        rng.normal(size=p),
        rng.normal(size=n),
        np.zeros((n, n)) if singular else psd(rng, n),
        rng.normal(size=(T, m)),
        3.0 * rng.normal(size=(T + 1, p)),
        timed,
    )


def joint(z: Instance):
    """Mean and covariance of `[x_0 .. x_T]` and of `[y_0 .. y_T]`, and their covariance: sums over all noise."""
    T, (n, p) = len(z.controls), (z.mean.size, z.d.size)
    means, rows = [z.mean], [np.hstack([np.eye(n), np.zeros((n, n * T))])]
    for t in range(T):
        row = z.A[t] @ rows[-1]
        row[:, n * (t + 1) : n * (t + 2)] += np.eye(n)
        rows.append(row)
        means.append(z.A[t] @ means[-1] + z.B[t] @ z.controls[t] + z.c[t])
    noise = np.zeros((n * (T + 1), n * (T + 1)))
    noise[:n, :n] = z.covariance
    for t in range(T):
        noise[n * (t + 1) : n * (t + 2), n * (t + 1) : n * (t + 2)] = z.W[t]
    paths = np.vstack(rows)
    states = paths @ noise @ paths.T
    seeing, measuring = np.zeros((p * (T + 1), n * (T + 1))), np.zeros((p * (T + 1), p * (T + 1)))
    expected = []
    for t in range(T + 1):
        seeing[p * t : p * (t + 1), n * t : n * (t + 1)] = z.C[t]
        measuring[p * t : p * (t + 1), p * t : p * (t + 1)] = z.V[t]
        expected.append(z.C[t] @ means[t] + z.d + (z.D @ z.controls[t - 1] if t else 0.0))
    return (
        np.concatenate(means),
        states,
        np.concatenate(expected),
        seeing @ states @ seeing.T + measuring,
        states @ seeing.T,
    )


def given(z: Instance, count: int):
    """Means `[T+1, n]` and the whole covariance of all states given the first `count` observations; log evidence."""
    mean, states, expected, seen, both = joint(z)
    p, n = z.d.size, z.mean.size
    use = slice(0, p * count)
    surprise = z.observations.reshape(-1)[use] - expected[use]
    gain = np.linalg.solve(seen[use, use], both[:, use].T).T
    _, logdet = np.linalg.slogdet(2 * np.pi * seen[use, use])
    evidence = -0.5 * (surprise @ np.linalg.solve(seen[use, use], surprise) + logdet)
    return (mean + gain @ surprise).reshape(-1, n), states - gain @ both[:, use].T, evidence


@functools.cache
def dense_filter(z: Instance):
    n, T = z.mean.size, len(z.controls)
    found = [given(z, t + 1) for t in range(T + 1)]
    means = np.stack([mean[t] for t, (mean, _, _) in enumerate(found)])
    covariances = np.stack([P[n * t : n * (t + 1), n * t : n * (t + 1)] for t, (_, P, _) in enumerate(found)])
    return means, covariances, found[-1][2]


def ours(z: Instance, dtype=np.float64):
    found = kalman_filter(z.problem, z.observations, z.controls, dtype=dtype)
    return found.means, found.covariances, found.log_evidence


def on(change):
    """Our filter of a problem that was changed: what a filter that forgets something does."""
    return lambda z, dtype=np.float64: ours(change(z), dtype)


def shifted(z: Instance):
    """The controls of dynamax's convention, entry t + 1 for the step from t, taken for ours."""
    return z.but(controls=np.concatenate([np.zeros((1, z.controls.shape[1])), z.controls[:-1]]))


def predicted(z: Instance, dtype=np.float64):
    found = kalman_filter(z.problem, z.observations, z.controls, dtype=dtype)
    return found.predicted_means, found.predicted_covariances, found.log_evidence


INSTANCES = {
    "timed": instance(),
    "constant": instance(1, timed=False),
    "singular": instance(2, singular=True),
    "one_step": instance(3, T=1),
    "wide": instance(4, n=2, p=3, m=1, T=4),
    "large": instance(5, n=18, p=17, m=2, T=2),
}
EACH = pytest.mark.parametrize("z", INSTANCES.values(), ids=INSTANCES.keys())
PRECISIONS = ((np.float64, 1e-11), (np.float32, 2e-4))


def near(actual, expected, tolerance):
    """By the largest entry: covariances have small entries with the rounding of large ones."""
    scale = np.abs(expected).max()
    close(np.asarray(actual) / scale, np.asarray(expected) / scale, tolerance)


@EACH
@against(
    ours,
    predicted=predicted,
    no_controls=on(lambda z: z.but(controls=0 * z.controls)),
    shifted_controls=on(shifted),
    no_drift=on(lambda z: z.but(c=0 * z.c)),
    no_feedthrough=on(lambda z: z.but(D=0 * z.D)),
    no_offset=on(lambda z: z.but(d=0 * z.d)),
)
def test_filter_is_dense_conditioning(implementation, z):
    expected, expected_covariances, log_evidence = dense_filter(z)
    for dtype, tolerance in PRECISIONS:
        means, covariances, evidence = implementation(z, dtype)
        near(means, expected, tolerance)
        near(covariances, expected_covariances, tolerance)
        near(evidence, log_evidence, tolerance)


def smoothed(z: Instance, dtype=np.float64):
    found = kalman_smoother(z.problem, z.observations, z.controls, dtype=dtype)
    return found.means, found.covariances, found.cross_covariances


def smoothed_wrongly(z: Instance, dtype=np.float64):
    """Carries back the smoothed cross-covariance as if the gain were that of the next step."""
    means, covariances, cross = smoothed(z, dtype)
    return means, covariances, np.swapaxes(cross, -1, -2)


@EACH
@against(smoothed, filtered=lambda z, dtype: (*ours(z, dtype)[:2], smoothed(z, dtype)[2]), transposed=smoothed_wrongly)
def test_smoother_is_dense_conditioning(implementation, z):
    n, T = z.mean.size, len(z.controls)
    expected, everything, _ = given(z, T + 1)
    blocks = everything.reshape(T + 1, n, T + 1, n)
    for dtype, tolerance in PRECISIONS:
        means, covariances, cross = implementation(z, dtype)
        near(means, expected, 10 * tolerance)
        near(covariances, np.stack([blocks[t, :, t] for t in range(T + 1)]), 10 * tolerance)
        near(cross, np.stack([blocks[t, :, t + 1] for t in range(T)]), 10 * tolerance)


def riccati(A, B, Q, R, Qf, steps):
    """The regulator's recursion, the last time first."""
    P = [Qf]
    for _ in range(steps):
        gain = np.linalg.solve(R + B.T @ P[-1] @ B, B.T @ P[-1] @ A)
        P.append(Q + A.T @ P[-1] @ (A - B @ gain))
    return np.stack(P)


def constant(seed=7, n=4, p=2, T=40):
    z = instance(seed, n=n, p=p, T=T, timed=False)
    A = z.A[0] / np.abs(np.linalg.eigvals(z.A[0])).max()
    return z.but(A=np.broadcast_to(A, z.A.shape))


@against(
    lambda z, dtype: predicted(z, dtype)[1],
    filtered=lambda z, dtype: ours(z, dtype)[1],
    transposed=lambda z, dtype: predicted(z.but(A=np.swapaxes(z.A, -1, -2)), dtype)[1],
)
def test_the_dual_of_the_filter_is_the_regulator(implementation):
    z = constant()
    expected = riccati(z.A[0].T, z.C[0].T, z.W[0], z.V[0], z.covariance, len(z.controls))
    near(implementation(z, np.float64), expected, 1e-13)
    near(implementation(z, np.float32), expected, 1e-5)


def test_observations_without_controls():
    z = constant().but(D=np.zeros((2, 2)))
    still = z.but(controls=0 * z.controls)
    close(kalman_filter(z.problem, z.observations).means, ours(still)[0])
    one = kalman_filter(z.problem, z.observations[:1])
    close(one.means, ours(still)[0][:1])
    assert kalman_smoother(z.problem, z.observations[:1]).cross_covariances.shape == (0, 4, 4)


def test_covariances_are_computed_once_for_many_sequences():
    with jax.enable_x64(True):
        z = constant()
        many = np.random.default_rng(0).normal(size=(3, 41, 2))
        run = jax.vmap(lambda y: kalman_filter(z.problem, y, z.controls))
        found = jax.jit(run)(many)
        for i in range(3):
            close(found.means[i], kalman_filter(z.problem, many[i], z.controls).means)
        shapes = [v.aval.shape for scan in scans(run, many) for v in scan.outvars]
        assert (3, 4) in shapes  # means are carried for each sequence
        assert (4, 4) in shapes  # covariances for all of them
        assert not [shape for shape in shapes if shape[-2:] == (4, 4) and 3 in shape[:-2]]


def scans(function, *arguments):
    """The scans of a traced function, at any depth."""
    todo, found = [jax.make_jaxpr(function)(*arguments).jaxpr], []
    while todo:
        for equation in todo.pop().eqns:
            found += [equation] * (equation.primitive.name == "scan")
            todo += [
                part.jaxpr for part in jax.tree.leaves(list(equation.params.values()), is_leaf=_closed) if _closed(part)
            ]
    return found


def _closed(part):
    return hasattr(part, "jaxpr")


def test_a_filter_traces_in_the_precision_of_its_data(x64):
    z = INSTANCES["timed"]
    found = jax.jit(lambda y: kalman_filter(z.problem, y, z.controls).log_evidence)(z.observations)
    assert found.dtype == (np.float64 if x64 else np.float32)
    close(found, dense_filter(z)[2], 1e-11 if x64 else 1e-4)


def test_derivative_of_the_evidence():
    with jax.enable_x64(True):
        z = INSTANCES["constant"]
        direction = np.random.default_rng(3).normal(size=z.A[0].shape)

        def evidence(x):
            A = jnp.asarray(z.A[0]) + x * direction
            moved = dataclasses.replace(z.problem.problem, A=A)
            observed = PartiallyObserved(moved, z.problem.observation)
            return kalman_smoother(observed, z.observations, z.controls).filtered.log_evidence

        slope = (evidence(1e-5) - evidence(-1e-5)) / 2e-5
        close(jax.grad(evidence)(0.0), slope, 1e-7)


def exact_measurements(noise):
    """A double integrator at short intervals whose position is measured with twelve orders less than its first law."""
    z = instance(0, n=2, p=1, m=1, T=400, timed=False)
    arrays = {"A": [[1.0, 0.005], [0.0, 1.0]], "C": [[1.0, 0.0]], "V": [[1e-6]], "W": [[0.0, 0.0], [0.0, noise]]}
    arrays = {name: np.broadcast_to(value, getattr(z, name).shape) for name, value in arrays.items()}
    return z.but(covariance=1e6 * np.eye(2), **arrays)


def short_form(z, dtype=np.float32):
    """`P - G F G'`, in float32."""
    A, C, W, V, P = (np.asarray(a, dtype) for a in (z.A[0], z.C[0], z.W[0], z.V[0], z.covariance))
    found = []
    for _ in range(len(z.observations)):
        F = C @ P @ C.T + V
        P = P - P @ C.T @ np.linalg.inv(F) @ C @ P
        P = (P + P.T) / 2
        found.append(P)
        P = A @ P @ A.T + W
    return np.stack(found)


@against(lambda z: ours(z, np.float32)[1], short_form=short_form)
def test_covariances_stay_positive_in_float32(implementation):
    for noise in (1e-6, 1e-3):
        found = np.asarray(implementation(exact_measurements(noise)), np.float64)
        assert (np.linalg.eigvalsh(found) >= 0.0).all()
        near(found, ours(exact_measurements(noise))[1], 1e-6)


def test_refusals():
    z = INSTANCES["timed"]
    broken = z.observations.copy()
    broken[4, 1] = np.nan
    with pytest.raises(ValueError, match="observations at time 4, entry 1 are nan"):
        kalman_filter(z.problem, broken, z.controls)
    with pytest.raises(ValueError, match=r"observations have shape \(6, 2\) and controls \(6, 2\), but T controls"):
        kalman_smoother(z.problem, z.observations[1:], z.controls)
    more = np.zeros((8, 2))
    with pytest.raises(ValueError, match="given for 6 steps, but 7 controls"):
        kalman_filter(z.problem, more, more[1:])
    process = dataclasses.replace(z.problem.problem, channels=NoiseChannels(state=np.ones((1, 3, 3))))
    with pytest.raises(ValueError, match="noise channels, whose size depends on the state"):
        kalman_filter(PartiallyObserved(process, z.problem.observation), z.observations, z.controls)
    mdp = TabularMDP.from_arrays(np.ones((1, 1, 1)), np.zeros(1), criterion=FiniteHorizon(6))
    with pytest.raises(ValueError, match="tables have hmm_filter"):
        kalman_filter(PartiallyObserved(mdp, TabularObservation(np.ones((1, 1)))), z.observations, z.controls)
