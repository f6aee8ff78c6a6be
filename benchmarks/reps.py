"""Relative entropy policy search against MushroomRL: what is reached in its example, and the time of an update.

    uv run python benchmarks/reps.py --mushroom /path/to/python             # times of an update
    uv run python benchmarks/reps.py --learn --mushroom /path/to/python     # its example `lqr_bbo`, ten seeds
    uv run python benchmarks/reps.py --pendulum                             # step-based REPS on Pendulum-v1, ten seeds

Each prints a table and appends to benchmarks/results/reps.jsonl. `--mushroom` names the interpreter of an environment
that has MushroomRL, which needs an older NumPy than JAX does, for example

    uv venv mushroom && uv pip install --python mushroom "mushroom-rl==1.10.2" "numpy<1.25"

Without it the columns of the peer are absent. The figures of an update are the fewest wall and CPU milliseconds over
many calls, compile time apart: `plain` is the weighted maximum likelihood that MushroomRL takes too (it divides by
another number), `bounded` the fit within the bound, `call` the public function from NumPy to NumPy with that fit. The
`floor` is what no update of this kind can do without: the weights' exponential, and the weighted scatter by BLAS with
LAPACK's Cholesky, or the weighted squares. The problem is the same on both sides, a concave quadratic of parameters
drawn from N(0, I), and so are the episodes of `--learn`: the returns of some parameters are compared.

Figures were made on one core with one thread, `OMP_NUM_THREADS=1 NPROC=1 taskset -c 1`.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import scipy
from reps_mushroom import CHECKED, EPISODES, EPSILON, SIZES, UPDATES, bandit, divergences, fewest

import optimality as ox
from optimality.environments.catalog import make
from optimality.learning.episodic_search import SearchDistribution, update
from optimality.learning.reps import REPS
from optimality.sampling.compiled_runner import CompiledRunner
from optimality.sampling.loop import episode_returns, play

HERE = Path(__file__).parent
RESULTS = HERE / "results" / "reps.jsonl"
SEEDS = 10
T95 = 2.262
"""Of Student's distribution with nine degrees of freedom."""


def episode(theta):
    """Discounted return of `u = theta x` in MushroomRL's LQR: `x' = x + u`, reward `-(0.9 x^2 + 0.1 u^2)`."""

    def step(carry, _):
        x, scale = carry
        u = theta[0] * x
        return (x + u, 0.9 * scale), -scale * (0.9 * x**2 + 0.1 * u**2)

    return jnp.sum(jax.lax.scan(step, (10.0, 1.0), None, 50)[1])


@partial(jax.jit, static_argnames="plain")
def searched(key, search, epsilon, bound, plain):
    """The search after all updates, and the returns of as many episodes drawn from it."""

    def one(search, key):
        theta = search.sample(key, EPISODES)
        return update(search, theta, jax.vmap(episode)(theta), epsilon=epsilon, bound=False if plain else bound)

    last, key = jax.random.split(key)
    search, done = jax.lax.scan(one, search, jax.random.split(key, UPDATES))
    played = jax.vmap(episode)(search.sample(last, EPISODES))
    return search, jnp.mean(played), episode(search.mean()), jnp.max(done.kl_old_new)


def interval(values):
    values = np.asarray(values)
    return float(values.mean()), float(T95 * values.std(ddof=1) / np.sqrt(values.size))


def learn(record, peer):
    with jax.enable_x64(True):
        start = jax.tree.map(jnp.asarray, SearchDistribution.around([0.0], np.sqrt(1e-3)))
        expected = [float(episode(jnp.array([theta]))) for theta in CHECKED]
        for epsilon in (0.5, 1.0):
            for name, bound in (("plain", None), ("bounded", epsilon), ("bounded by half", 0.5 * epsilon)):
                seeds = []
                for seed in range(SEEDS):
                    cpu = time.process_time()
                    numbers = jnp.asarray(epsilon), jnp.asarray(epsilon if bound is None else bound)
                    found = searched(jax.random.key(seed), start, *numbers, bound is None)
                    search, reached, of_mean, farthest = jax.block_until_ready(found)
                    seeds.append(
                        {
                            "seed": seed,
                            "return": float(reached),
                            "of_mean": float(of_mean),
                            "mean": float(search.W[0, 0]),
                            "deviation": float(search.scale_cholesky[0, 0]),
                            "largest_kl_old_new": float(farthest),
                            "cpu_s": time.process_time() - cpu,
                        }
                    )
                report(record, f"ours, {name}", epsilon, seeds)
            if peer is not None:
                seeds = peer("learn", epsilon, SEEDS)
                for row in seeds:
                    np.testing.assert_allclose(row.pop("checked"), expected, rtol=1e-9)
                report(record, "MushroomRL", epsilon, seeds)


def report(record, case, epsilon, seeds):
    (mean, half), (of_mean, _) = interval([s["return"] for s in seeds]), interval([s["of_mean"] for s in seeds])
    cpu = min(row["cpu_s"] for row in seeds)
    figures = {"return": mean, "interval": half, "of_mean": of_mean, "cpu_s": cpu}
    record("learning", case, {"epsilon": epsilon, **figures}, {"seeds": seeds})


def floor(theta, returns, structure):
    """The least arithmetic, in BLAS and LAPACK, at a temperature that is known."""
    weights = np.exp((returns - returns.max()) / returns.std())
    weights /= weights.sum()
    if structure == "diagonal":
        return weights @ theta, weights @ theta**2
    rows = np.sqrt(weights)[:, None] * theta
    return weights @ theta, np.linalg.cholesky(scipy.linalg.blas.dsyrk(1.0, rows, trans=1, lower=1))


def updates(record, peer):
    theirs = None if peer is None else peer("update")
    for structure in ("diagonal", "full"):
        for number, size in SIZES:
            theta, returns = bandit(number, size)
            search = SearchDistribution.around(np.zeros(size), 1.0)
            figures, detail = {}, {}
            with jax.enable_x64(True):
                arguments = jax.tree.map(jnp.asarray, (search, theta, returns))
                for name, bound in (("plain", False), ("bounded", None)):
                    kernel = jax.jit(partial(update, epsilon=EPSILON, bound=bound, structure=structure))
                    start = time.perf_counter()
                    new, _ = jax.block_until_ready(kernel(*arguments))
                    first = time.perf_counter() - start
                    call = lambda kernel=kernel, arguments=arguments: jax.block_until_ready(kernel(*arguments))  # noqa: E731
                    figures[f"{name}_ms"], figures[f"{name}_cpu_ms"] = fewest(call)
                    detail[f"{name}_compile_s"] = first - 1e-3 * figures[f"{name}_ms"]
                    law = np.asarray(new.mean()), np.asarray(new.covariance)
                    detail[f"{name}_kl_old_new"], detail[f"{name}_kl_new_old"] = divergences(*law)
            public = partial(update, search, theta, returns, epsilon=EPSILON, structure=structure)
            public()
            figures["call_ms"], figures["call_cpu_ms"] = fewest(public)
            figures["floor_ms"], figures["floor_cpu_ms"] = fewest(partial(floor, theta, returns, structure))
            case = f"{structure} N={number} d={size}"
            if theirs is not None and "failed" not in theirs[case]:
                other = {f"mushroom_{name}": value for name, value in theirs[case].items()}
                figures |= {name: other.pop(name) for name in ("mushroom_ms", "mushroom_cpu_ms")}
                for name in ("plain", "bounded"):
                    figures[f"times_{name}"] = figures["mushroom_cpu_ms"] / figures[f"{name}_cpu_ms"]
                detail |= other
            elif theirs is not None:
                detail["mushroom_failed"] = theirs[case]["failed"]
            record("update", case, figures, detail)


def pendulum(record):
    """`optimality train Pendulum-v1 reps --epsilon 0.5 --steps 75000`, and a hundred episodes by the mode."""
    seeds = []
    for seed in range(SEEDS):
        learner = REPS(epsilon=0.5)
        run = ox.train("Pendulum-v1", learner, steps=75_000, seed=seed)
        runner = CompiledRunner(make("Pendulum-v1"), 100)
        played = play(learner.policy(run.state, explore=False), runner, jax.random.key(1_000 + seed))
        seconds = sum(row["seconds"] for row in run.metrics)
        seeds.append({"seed": seed, "reward": float(episode_returns(played).mean()) / 200, "seconds": seconds})
        print(seeds[-1], flush=True)
    rewards = [row["reward"] for row in seeds]
    good = sum(reward > -1.1 for reward in rewards)
    mean, half = interval(rewards)
    figures = {"reward": mean, "interval": half, "worst": min(rewards), "better_than_-1.1": good}
    record("pendulum", "Pendulum-v1 reps", figures, {"seeds": seeds})


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--mushroom", help="interpreter of an environment with MushroomRL 1.10.2")
    parser.add_argument("--learn", action="store_true", help="what is reached in MushroomRL's LQR, not the times")
    parser.add_argument("--pendulum", action="store_true", help="what step-based REPS reaches on Pendulum-v1 instead")
    chosen = parser.parse_args()
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True).stdout.strip()
    versions = f"jax {jax.__version__}, numpy {np.__version__}, scipy {scipy.__version__}"
    about = {
        "benchmark": "reps",
        "commit": commit,
        "machine": f"{platform.machine()}, {platform.system()}, Python {platform.python_version()}, {versions}",
        "threads": os.environ.get("OMP_NUM_THREADS", "all"),
    }

    def peer(*arguments):
        command = [chosen.mushroom, str(HERE / "reps_mushroom.py"), *map(str, arguments)]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            sys.exit(f"{' '.join(command)} failed:\n{done.stderr}")
        return json.loads(done.stdout.strip().splitlines()[-1])

    if chosen.mushroom is None:
        peer = None
        if not chosen.pendulum:
            print("MushroomRL: absent, its columns are left out (--mushroom PYTHON)")
    else:
        about["mushroom"] = peer("version")

    def record(kind, case, figures, detail):
        rounded = {name: float(f"{value:.4g}") for name, value in figures.items()}
        print(f"{case:24}", *(f"{name} {value}" for name, value in rounded.items()), sep="  ", flush=True)
        RESULTS.parent.mkdir(exist_ok=True)
        with RESULTS.open("a") as file:
            file.write(json.dumps({**about, "kind": kind, "case": case, **rounded, **detail}) + "\n")

    if chosen.pendulum:
        pendulum(record)
    elif chosen.learn:
        learn(record, peer)
    else:
        updates(record, peer)


if __name__ == "__main__":
    main()
