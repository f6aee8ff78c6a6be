"""Information projection against L-BFGS-B on the same dual: time, certificates, and whose success is one.

    OMP_NUM_THREADS=1 NPROC=1 taskset -c 1 uv run python benchmarks/information_projection.py

Figures are the fewest milliseconds of CPU and of wall over several calls, compile time apart, float64. The samples are
steps of a pendulum under random torques with restarts, the moments changes of its features (3: cosine, sine, speed;
20: their monomials up to degree 3, which are dependent; 50 and 300: radial basis functions), the rewards its costs,
heavy at one end. `raw` is SciPy's L-BFGS-B with its defaults from eta = 1, v = 0, as REPS implementations call it;
`whitened` has standardized rewards, whitened moments, the start of the quadratic approximation and tight tolerances:
its best use, the whitening included in its time. Value and gradient of both are NumPy with a shifted log-sum-exp. `raw`
may evaluate 2e10 / (N k) times, never more than SciPy's 15,000. `floor` is what one triangular factorization and one
covariance an iteration cost by LAPACK and NumPy's dgemm. Memory is XLA's account of arguments, temporaries and outputs.
The random problems are those of the tests (tests/projections.py).
"""

import collections
import importlib
import json
import os
import platform
import subprocess
import sys
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import scipy.linalg
import scipy.optimize
import scipy.special

from optimality.core.information_projection import _compiled as compiled_projection
from optimality.core.information_projection import information_projection
from optimality.core.result import Result

RESULTS = Path(__file__).parent / "results" / "information_projection.jsonl"
EPSILON = 0.5
RANDOM_PROBLEMS = 1000
jax.config.update("jax_enable_x64", True)


def best(function, repeats):
    """Fewest wall and CPU milliseconds of a call."""
    cpus, walls = [], []
    for _ in range(repeats):
        wall, cpu = time.perf_counter(), time.process_time()
        jax.block_until_ready(function())
        cpus.append(time.process_time() - cpu)
        walls.append(time.perf_counter() - wall)
    return 1e3 * min(walls), 1e3 * min(cpus)


def pendulum(samples, length=200):
    """States, next states and rewards, `length` steps an episode; the last step of each leads to a new start."""
    random = np.random.default_rng(0)
    episodes = -(-samples // length)

    def starts():
        return np.stack([random.uniform(-np.pi, np.pi, episodes), random.uniform(-1.0, 1.0, episodes)], axis=1)

    states, rewards = [starts()], []
    for _ in range(length):
        angle, speed = states[-1].T
        torque = random.uniform(-2.0, 2.0, episodes)
        wrapped = (angle + np.pi) % (2 * np.pi) - np.pi
        rewards.append(-(wrapped**2 + 0.1 * speed**2 + 0.001 * torque**2))
        speed = np.clip(speed + 0.05 * (15.0 * np.sin(angle) + 3.0 * torque), -8.0, 8.0)
        states.append(np.stack([angle + 0.05 * speed, speed], axis=1))
    here, after = np.stack(states[:-1], axis=1), np.stack([*states[1:-1], starts()], axis=1)
    flat = [x.reshape(-1, 2)[:samples] for x in (here, after)]
    return *flat, np.stack(rewards, axis=1).reshape(-1)[:samples]


def features(states, size):
    base = np.stack([np.cos(states[:, 0]), np.sin(states[:, 0]), states[:, 1] / 8.0], axis=1)
    if size == 3:
        return base
    if size == 20:
        x = np.concatenate([np.ones((len(base), 1)), base], axis=1)
        triples = [(i, j, k) for i in range(4) for j in range(i, 4) for k in range(j, 4)]
        return np.stack([x[:, i] * x[:, j] * x[:, k] for i, j, k in triples], axis=1)
    random = np.random.default_rng(1)
    angle, speed = random.uniform(-np.pi, np.pi, size), random.uniform(-1.0, 1.0, size)
    centers = np.stack([np.cos(angle), np.sin(angle), speed], axis=1)
    squares = np.sum(base**2, axis=1)[:, None] + np.sum(centers**2, axis=1) - 2.0 * base @ centers.T
    return np.exp(-squares / (2.0 * (0.5 if size <= 50 else 0.3) ** 2))


def pendulum_problem(samples, size):
    here, after, rewards = pendulum(samples)
    return rewards, features(after, size) - features(here, size)


def value_and_gradient(x, f, moments, q, epsilon):
    delta = f + moments @ x[1:]
    top = delta.max()
    weights = q * np.exp((delta - top) / x[0])
    total = weights.sum()
    p = weights / total
    bound = epsilon + np.log(total)
    return x[0] * bound + top, np.r_[bound + (top - p @ delta) / x[0], p @ moments]


def raw(f, moments, q, epsilon, evaluations=15_000):
    """`(result, eta, v)`."""
    found = scipy.optimize.minimize(
        value_and_gradient,
        np.r_[1.0, np.zeros(moments.shape[1])],
        args=(f, moments, q, epsilon),
        jac=True,
        method="L-BFGS-B",
        bounds=[(1e-8, None)] + [(None, None)] * moments.shape[1],
        options={"maxfun": evaluations},
    )
    return found, found.x[0], found.x[1:]


def whitened(f, moments, q, epsilon):
    mean = q @ f
    deviation = max(np.sqrt(q @ (f - mean) ** 2), 1e-300)
    g = (f - mean) / deviation
    size = np.sqrt(q @ moments**2)
    size = np.where(size > 0.0, size, 1.0)
    rotation = np.zeros((moments.shape[1], 0))
    if moments.shape[1]:
        triangle = scipy.linalg.qr(moments / size * np.sqrt(q)[:, None], mode="r")[0][: moments.shape[1]]
        _, sizes, directions = np.linalg.svd(triangle, full_matrices=False)
        kept = sizes > 1e-12 * max(sizes[0], 1e-300)
        rotation = directions[kept].T / sizes[kept] / size[:, None]
    z = moments @ rotation
    slope = -(z.T @ (q * g))
    left = g + z @ slope
    eta = max(np.sqrt(q @ (left - q @ left) ** 2), 1e-6) / np.sqrt(2.0 * epsilon)
    found = scipy.optimize.minimize(
        value_and_gradient,
        np.r_[eta, slope - eta * (q @ z)],
        args=(g, z, q, epsilon),
        jac=True,
        method="L-BFGS-B",
        bounds=[(1e-10, None)] + [(None, None)] * z.shape[1],
        options={"ftol": 1e-15, "gtol": 1e-10, "maxiter": 2000, "maxcor": 20},
    )
    return found, found.x[0] * deviation, rotation @ found.x[1:] * deviation


def judged(eta, v, f, moments, q, epsilon):
    """Dual, `|KL / epsilon - 1|` and the largest residual in deviations, all by NumPy."""
    delta = (f + moments @ v) / eta
    weights = q * np.exp(delta - delta.max())
    p = weights / weights.sum()
    kl = np.sum(p * (delta - p @ delta)) - np.log(q @ np.exp(delta - p @ delta)) if np.ptp(delta) < 0.5 else None
    kl = scipy.special.rel_entr(p, q).sum() if kl is None else kl
    deviations = np.sqrt(np.maximum(q @ moments**2 - (q @ moments) ** 2, 0.0))
    errors = np.abs(p @ moments)[deviations > 0.0] / deviations[deviations > 0.0]
    dual = value_and_gradient(np.r_[eta, v], f, moments, q, epsilon)[0]
    return dual, abs(kl / epsilon - 1.0), errors.max(initial=0.0)


def speeds(record):
    for samples in (1000, 10_000, 100_000):
        for size in (3, 20, 50, 300):
            f, moments = pendulum_problem(samples, size)
            q = np.full(samples, 1.0 / samples)
            arguments = tuple(map(jnp.asarray, (f, moments, np.zeros(size), np.zeros(samples), EPSILON, 0.0)))
            start = time.perf_counter()
            kernel = compiled_projection.lower(*arguments, True, 1e-9, 200).compile()
            compile_s = time.perf_counter() - start
            repeats = int(np.clip(2e8 / (samples * size * (1 + size / 30)), 2, 25))
            ours = kernel(*arguments)
            ms, cpu_ms = best(lambda kernel=kernel, arguments=arguments: kernel(*arguments), repeats)
            account = kernel.memory_analysis()
            memory = account.argument_size_in_bytes + account.temp_size_in_bytes + account.output_size_in_bytes
            problem = (f, moments, q, EPSILON)
            dual, kl_error, residual = judged(float(ours.temperature), np.asarray(ours.multipliers), *problem)
            _, gram_ms = best(lambda moments=moments: moments.T @ moments, repeats)
            columns = np.asfortranarray(moments)
            _, factor_ms = best(lambda columns=columns: scipy.linalg.qr(columns, mode="r"), min(repeats, 5))
            figures = {
                "ms": ms,
                "cpu_ms": cpu_ms,
                "compile_s": compile_s,
                "iterations": int(ours.iterations),
                "kl_error": kl_error,
                "residual_sd": residual,
                "gradient_norm": float(ours.gradient_norm),
                "memory_mb": memory / 1e6,
                "gram_ms": gram_ms,
                "factor_ms": factor_ms,
                "floor_ms": factor_ms + gram_ms * int(ours.iterations),
            }
            evaluations = int(min(15_000, 2e10 / (samples * size)))
            for name, run in (
                ("raw", lambda problem=problem, evaluations=evaluations: raw(*problem, evaluations)),
                ("whitened", lambda problem=problem: whitened(*problem)),
            ):
                wall, cpu = time.perf_counter(), time.process_time()
                found, eta, v = run()
                cpu, wall = 1e3 * (time.process_time() - cpu), 1e3 * (time.perf_counter() - wall)
                if cpu < 1000.0:
                    wall, cpu = best(run, max(min(repeats, int(2000.0 / cpu)), 1))
                their_dual, their_kl, their_residual = judged(eta, v, *problem)
                figures |= {
                    f"{name}_ms": wall,
                    f"{name}_cpu_ms": cpu,
                    f"{name}_iterations": found.nit,
                    f"{name}_success": bool(found.success),
                    f"{name}_kl_error": their_kl,
                    f"{name}_residual_sd": their_residual,
                    f"{name}_dual_above": their_dual - dual,
                    f"times_{name}": cpu / cpu_ms,
                }
            record(f"N={samples} k={size}", result=Result.of(ours.result).name, **figures)


def random_problems(record):
    sys.path.append(str(Path(__file__).parents[1] / "tests"))
    projections = importlib.import_module("projections")
    results, certificates, wrong, tried = collections.Counter(), [], collections.Counter(), collections.Counter()
    converged = collections.Counter()
    for seed in range(RANDOM_PROBLEMS):
        problem = projections.random_problem(seed)
        f, moments, log_base, epsilon = problem
        rows = next(size for size in (64, 512, 2048) if size >= len(f))
        f_all, moments_all, log_base_all, _ = projections.padded(problem, rows, 20)
        ours = information_projection(f_all, moments_all, log_base=log_base_all, epsilon=epsilon)
        results[ours.result.name] += 1
        if ours.result is Result.CONVERGED:
            certificates.append(float(ours.gradient_norm))
        q = np.exp(log_base - log_base.max())
        q /= q.sum()
        for name, solver in (("raw", raw), ("whitened", whitened)):
            with np.errstate(all="ignore"):
                found, eta, v = solver(f, moments, q, epsilon)
                _, kl_error, residual = judged(eta, v, f, moments, q, epsilon)
            if found.success:
                bad = not (kl_error <= 0.01 and residual <= 1e-3)
                tried[name] += 1
                wrong[name] += bad
                # Elsewhere there is no right answer with KL = epsilon, so that no success can be one.
                if ours.result is Result.CONVERGED:
                    converged[name] += 1
                    wrong[f"{name}_converged"] += bad
    figures = {f"{name}_successes": tried[name] for name in ("raw", "whitened")}
    figures |= {f"{name}_wrong": wrong[name] for name in ("raw", "whitened")}
    figures |= {f"{name}_successes_solvable": converged[name] for name in ("raw", "whitened")}
    figures |= {f"{name}_wrong_solvable": wrong[f"{name}_converged"] for name in ("raw", "whitened")}
    counts = {name.lower(): count for name, count in sorted(results.items())}
    record(f"{RANDOM_PROBLEMS} random problems", largest_gradient=max(certificates), **counts, **figures)


def processor():
    path = Path("/proc/cpuinfo")
    lines = path.read_text().splitlines() if path.exists() else []
    return next((line.split(": ")[1] for line in lines if line.startswith("model name")), platform.processor())


def main():
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True).stdout.strip()
    versions = f"jax {jax.__version__}, numpy {np.__version__}, scipy {scipy.__version__}"
    machine = f"{processor()}, {platform.system()}, Python {platform.python_version()}, {versions}"
    threads = os.environ.get("OMP_NUM_THREADS", "all")

    def record(case, **figures):
        figures = {name: float(f"{x:.4g}") if isinstance(x, float) else x for name, x in figures.items()}
        print(case, *(f"{name} {value}" for name, value in figures.items()), sep="  ", flush=True)
        row = {"benchmark": "information_projection", "commit": commit, "machine": machine, "threads": threads}
        with RESULTS.open("a", encoding="utf-8") as file:
            file.write(json.dumps({**row, "case": case, **figures}) + "\n")

    random_problems(record)
    speeds(record)


if __name__ == "__main__":
    main()
