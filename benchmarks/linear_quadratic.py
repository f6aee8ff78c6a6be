"""Linear-quadratic solvers against LAPACK loops, SciPy, python-control and dynamax, in one run.

    uv run --with control --with dynamax python benchmarks/linear_quadratic.py

Figures are the fewest milliseconds over many calls, compile time apart, CPU milliseconds beside. The work of
each row is the same on both sides: gains are K, k and P, p of a time-varying problem of 1,000 steps, by a plain NumPy
loop and by one that is tuned to its LAPACK. `scan` is the obvious JAX code, one `dot` a product and LAPACK's Cholesky,
also the reference for gradients. A peer that is not installed is printed as absent. Peers run on the threads they take;
the table was made with one each, OMP_NUM_THREADS=1 and NPROC=1.
"""

import functools
import importlib
import importlib.metadata
import json
import os
import platform
import subprocess
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import scipy.linalg
from scipy.linalg.lapack import dposv as posv

import optimality as ox
from optimality.core.numerics import cast_floats
from optimality.planning.lqr import plan_linear
from optimality.planning.riccati import sweep

RESULTS = Path(__file__).parent / "results" / "linear_quadratic.jsonl"
STEPS = 1000
jax.config.update("jax_enable_x64", True)


def best(function, repeats=25):
    """Fewest wall and CPU milliseconds of a call, and what the first call took longer, in seconds."""
    start = time.perf_counter()
    jax.block_until_ready(function())
    first = time.perf_counter() - start
    cpus, walls = [], []
    for _ in range(repeats):
        wall, cpu = time.perf_counter(), time.process_time()
        jax.block_until_ready(function())
        cpus.append(time.process_time() - cpu)
        walls.append(time.perf_counter() - wall)
    return 1e3 * min(walls), 1e3 * min(cpus), max(first - min(walls), 0.0)


def timed_problem(n, m, seed=0):
    random = np.random.default_rng(seed)
    A = random.normal(size=(n, n))
    A = A * 1.02 / np.abs(np.linalg.eigvals(A)).max() + 0.001 * random.normal(size=(STEPS, n, n))

    def positive(size):
        root = random.normal(size=(size, size))
        return np.broadcast_to(root @ root.T / size + np.eye(size), (STEPS, size, size)).copy()

    return ox.LinearQuadratic(
        A,
        random.normal(size=(STEPS, n, m)) / np.sqrt(n),
        positive(n),
        positive(m),
        criterion=ox.FiniteHorizon(STEPS),
        c=random.normal(size=(STEPS, n)),
        N=0.1 * random.normal(size=(STEPS, n, m)) / np.sqrt(n),
        q=random.normal(size=(STEPS, n)),
        r=random.normal(size=(STEPS, m)),
        Qf=np.eye(n),
        initial_mean=random.normal(size=n),
    )


def numpy_gains(problem):
    """The plain loop."""
    A, B, Q, R, N = (np.asarray(x) for x in (problem.A, problem.B, problem.Q, problem.R, problem.N))
    c, q, r, P, p = problem.c, problem.q, problem.r, problem.Qf, problem.qf
    n = A.shape[-1]
    K, k = np.empty((STEPS, B.shape[-1], n)), np.empty((STEPS, B.shape[-1]))
    for t in range(STEPS - 1, -1, -1):
        PA, v = P @ A[t], P @ c[t] + p
        Q_ux, q_u = N[t].T + B[t].T @ PA, r[t] + B[t].T @ v
        solved = np.linalg.solve(R[t] + B[t].T @ P @ B[t], np.column_stack([Q_ux, q_u]))
        K[t], k[t] = -solved[:, :n], -solved[:, n]
        P, p = Q[t] + A[t].T @ PA + Q_ux.T @ K[t], q[t] + A[t].T @ v + Q_ux.T @ k[t]
        P = (P + P.T) / 2
    return K, k, P, p


def laid_out(problem):
    """Forms over `[x; u; 1]` for the next loop, outside of what is timed."""
    A, B, Q, R, N = (np.asarray(x) for x in (problem.A, problem.B, problem.Q, problem.R, problem.N))
    q, r = problem.q[..., None], problem.r[..., None]
    F = np.concatenate([A, B, problem.c[..., None]], axis=2)
    C = np.concatenate([np.concatenate([Q, N, q], axis=2), np.concatenate([N.swapaxes(1, 2), R, r], axis=2)], axis=1)
    return F, C, problem.Qf, problem.qf


def lapack_gains(F, C, P, p):
    """Two products and one `posv` a step; keeps the last P and p only, ours those of all times. The floor."""
    n, z = F.shape[1:]
    gains = np.empty((STEPS, z - n - 1, n + 1))
    columns = [*range(n), z - 1]
    for t in range(STEPS - 1, -1, -1):
        M = P @ F[t]
        M[:, -1] += p
        G = C[t] + F[t, :, :-1].T @ M
        half = G[n:, columns]
        gains[t] = -posv(G[n:, n:-1], half)[1]
        new = G[:n, columns] + half[:, :n].T @ gains[t]
        P, p = (new[:, :n] + new[:, :n].T) / 2, new[:, n]
    return gains[..., :n], gains[..., n], P, p


def scan_gains(problem):
    """The obvious JAX code."""

    def body(carry, here):
        P, p = carry
        A, B, c, Q, R, N, q, r = here
        v = P @ c + p
        Q_ux, q_u = N.T + B.T @ P @ A, r + B.T @ v
        factor = jax.scipy.linalg.cho_factor(R + B.T @ P @ B)
        K, k = -jax.scipy.linalg.cho_solve(factor, Q_ux), -jax.scipy.linalg.cho_solve(factor, q_u)
        new = Q + A.T @ P @ A + Q_ux.T @ K
        return ((new + new.T) / 2, q + A.T @ v + Q_ux.T @ k), (K, k)

    names = ("A", "B", "c", "Q", "R", "N", "q", "r")
    (P, p), (K, k) = jax.lax.scan(
        body, (problem.Qf, problem.qf), tuple(getattr(problem, name) for name in names), reverse=True
    )
    return K, k, P, p


def scan_trajectory(problem):
    K, k, _, _ = scan_gains(problem)

    def body(x, here):
        A, B, c, K, k = here
        u = K @ x + k
        return A @ x + B @ u + c, (x, u)

    last, (states, controls) = jax.lax.scan(body, problem.initial_mean, (problem.A, problem.B, problem.c, K, k))
    return jnp.concatenate([states, last[None]]), controls


def our_gains(problem):
    swept = sweep(problem, None, None)
    return swept.K, swept.k, swept.P[0], swept.p[0]


def our_trajectory(problem):
    details = plan_linear(problem).details
    return details.states, details.controls


def agree(ours, theirs, tolerance):
    for mine, other in zip(ours, theirs, strict=True):
        error = np.max(np.abs(np.asarray(mine) - other)) / max(np.max(np.abs(other)), 1e-300)
        assert error < tolerance, error


def gains(record):
    for n, m in ((4, 1), (12, 4), (50, 20)):
        host = timed_problem(n, m)
        forms = laid_out(host)
        numpy_loop, _, _ = best(lambda host=host: numpy_gains(host), 5)
        lapack, _, _ = best(lambda forms=forms: lapack_gains(*forms), 8)
        reference = lapack_gains(*forms)
        agree(numpy_gains(host), reference, 1e-9)
        for dtype in (np.float64, np.float32):
            problem = cast_floats(host, dtype)
            kernel, scan = jax.jit(our_gains), jax.jit(scan_gains)
            ours, cpu, compile_s = best(lambda kernel=kernel, problem=problem: kernel(problem))
            plain, _, plain_compile_s = best(lambda scan=scan, problem=problem: scan(problem))
            agree(kernel(problem), reference, 1e-9 if dtype is np.float64 else 1e-3)
            public, _, _ = best(lambda host=host, dtype=dtype: ox.solve(host, ox.LQR(), dtype=dtype), 8)
            record(
                f"gains n={n} m={m} {np.dtype(dtype).name}",
                ms=ours,
                cpu_ms=cpu,
                compile_s=compile_s,
                numpy_ms=numpy_loop,
                lapack_ms=lapack,
                scan_ms=plain,
                scan_compile_s=plain_compile_s,
                solve_ms=public,
                times_numpy=numpy_loop / ours,
                times_lapack=lapack / ours,
                times_scan=plain / ours,
                result_mb=sum(x.nbytes for x in jax.tree.leaves(kernel(problem))) / 1e6,
            )


def batches(record):
    count, (n, m) = 256, (12, 4)
    host = [timed_problem(n, m, seed) for seed in range(4)]
    lapack = np.mean([best(functools.partial(lapack_gains, *laid_out(one)), 2)[0] for one in host]) * count
    for dtype in (np.float64, np.float32):
        stacked = cast_floats(jax.tree.map(lambda *x: np.concatenate([np.stack(x)] * (count // 4)), *host), dtype)
        for name, over in (("vmap", jax.vmap(our_gains)), ("map", lambda batch: jax.lax.map(our_gains, batch))):
            run = jax.jit(over)
            wall, cpu, compile_s = best(lambda run=run, stacked=stacked: run(stacked), 2)
            record(
                f"256 problems n={n} m={m} {np.dtype(dtype).name}, {name}",
                ms=wall,
                cpu_ms=cpu,
                compile_s=compile_s,
                lapack_ms=lapack,
                times_lapack=lapack / wall,
                input_mb=sum(x.nbytes for x in jax.tree.leaves(stacked)) / 1e6,
            )


def endless(record, control):
    for n, m in ((12, 4), (50, 20)):
        random = np.random.default_rng(n)
        A = random.normal(size=(n, n))
        A *= 1.02 / np.abs(np.linalg.eigvals(A)).max()
        B, Q, R = random.normal(size=(n, m)), np.eye(n), np.eye(m)
        problem = ox.LinearQuadratic(A, B, Q, R, criterion=ox.AverageReward())
        expected = scipy.linalg.solve_discrete_are(A, B, Q, R)
        solved = ox.solve(problem, ox.LQR()).details.P
        traced = cast_floats(problem, np.float64)
        kernel = jax.jit(lambda problem: plan_linear(problem).details.P)
        ours, cpu, compile_s = best(lambda kernel=kernel, traced=traced: kernel(traced))
        public, _, _ = best(lambda problem=problem: ox.solve(problem, ox.LQR()))
        theirs, their_cpu, _ = best(lambda A=A, B=B, Q=Q, R=R: scipy.linalg.solve_discrete_are(A, B, Q, R))
        peer = None if control is None else best(lambda A=A, B=B, Q=Q, R=R: control.dlqr(A, B, Q, R))[0]
        record(
            f"endless n={n} m={m} float64",
            ms=ours,
            cpu_ms=cpu,
            compile_s=compile_s,
            solve_ms=public,
            scipy_ms=theirs,
            scipy_cpu_ms=their_cpu,
            control_ms=peer,
            times_scipy=theirs / ours,
            error=float(np.abs(solved - expected).max() / np.abs(expected).max()),
        )


def filters(record, dynamax):
    for n, p in ((4, 2), (12, 6)):
        random = np.random.default_rng(n)
        A = random.normal(size=(n, n))
        A *= 0.95 / np.abs(np.linalg.eigvals(A)).max()
        C = random.normal(size=(p, n))
        process = ox.LinearQuadratic(
            A,
            np.ones((n, 1)),
            np.eye(n),
            1.0,
            criterion=ox.FiniteHorizon(STEPS - 1),
            W=0.1 * np.eye(n),
            initial_covariance=np.eye(n),
        )
        problem = ox.PartiallyObserved(process, ox.LinearObservation(C, 0.5 * np.eye(p)))
        observations, controls = random.normal(size=(STEPS, p)), np.zeros((STEPS - 1, 1))
        traced = cast_floats((problem, observations, controls), np.float64)
        kernel = jax.jit(lambda problem, y, u: ox.kalman_filter(problem, y, u))
        ours, _, compile_s = best(lambda kernel=kernel, traced=traced: kernel(*traced))
        peer = None
        if dynamax is not None:
            parameters = ox.to_dynamax(problem)
            inference = importlib.import_module("dynamax.linear_gaussian_ssm.inference")
            parameters = jax.tree.map(jnp.asarray, parameters)
            run = jax.jit(inference.lgssm_filter)
            inputs = jnp.zeros((STEPS, 1))
            emissions = jnp.asarray(observations)
            peer, _, _ = best(lambda run=run, x=parameters, y=emissions, u=inputs: run(x, y, u))
            gap = abs(float(run(parameters, emissions, inputs).marginal_loglik) - float(kernel(*traced).log_evidence))
            assert gap < 1e-4, gap
        record(
            f"kalman n={n} p={p} float64",
            ms=ours,
            compile_s=compile_s,
            dynamax_ms=peer,
            times_dynamax=None if peer is None else peer / ours,
        )


def pulled_back(trajectory, states, controls):
    """Derivatives of a linear function of the trajectory in everything that the problem holds."""

    def total(problem):
        x, u = trajectory(problem)
        return jnp.sum(x * states) + jnp.sum(u * controls)

    return jax.jit(jax.grad(total))


def gradients(record):
    for n, m in ((4, 1), (12, 4)):
        problem = cast_floats(timed_problem(n, m), np.float64)
        random = np.random.default_rng(0)
        states, controls = random.normal(size=(STEPS + 1, n)), random.normal(size=(STEPS, m))

        rule, autodiff = (pulled_back(function, states, controls) for function in (our_trajectory, scan_trajectory))
        ours, _, compile_s = best(lambda rule=rule, problem=problem: rule(problem))
        plain, _, plain_compile_s = best(lambda autodiff=autodiff, problem=problem: autodiff(problem))
        mine, other = rule(problem), autodiff(problem)
        names = ("A", "B", "c", "N", "q", "r", "qf", "initial_mean")
        agree([getattr(mine, x) for x in names], [getattr(other, x) for x in names], 1e-8)
        record(
            f"gradient n={n} m={m} float64",
            ms=ours,
            compile_s=compile_s,
            autodiff_ms=plain,
            autodiff_compile_s=plain_compile_s,
            times_autodiff=plain / ours,
        )


def optional(name):
    try:
        module = importlib.import_module(name)
    except ImportError:
        print(f"{name}: absent, its column is empty (uv run --with {name} ...)")
        return None
    print(f"{name} {importlib.metadata.version(name)}")
    return module


def main():
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True).stdout.strip()
    versions = f"jax {jax.__version__}, numpy {np.__version__}, scipy {scipy.__version__}"
    machine = f"{platform.machine()}, {platform.system()}, Python {platform.python_version()}, {versions}"
    control, dynamax = optional("control"), optional("dynamax")
    found = {"control": control, "dynamax": dynamax}
    peers = {name: importlib.metadata.version(name) for name, module in found.items() if module is not None}
    rows = []

    def record(case, **figures):
        figures = {name: value if value is None else float(f"{value:.4g}") for name, value in figures.items()}
        print(case, *(f"{name} {value}" for name, value in figures.items()), sep="  ", flush=True)
        threads = os.environ.get("OMP_NUM_THREADS", "all")
        row = {"benchmark": "linear_quadratic", "commit": commit, "machine": machine, "threads": threads, **peers}
        rows.append({**row, "case": case, **figures})

    gains(record)
    gradients(record)
    filters(record, dynamax)
    endless(record, control)
    batches(record)
    RESULTS.write_text("".join(json.dumps(row) + "\n" for row in rows))


if __name__ == "__main__":
    main()
