"""Training on CartPole, learning included: ours against bare loops of the same arithmetic and against SB3.

    uv run python benchmarks/driver.py                     # all, prints and appends to benchmarks/results/driver.jsonl
    uv run python benchmarks/driver.py dqn-ours-compiled   # some, by name or prefix
    uv run python benchmarks/driver.py --small --sb3 /path/to/python
    uv run python benchmarks/driver.py --learn --sb3 /path/to/python     # steps and seconds to a mean return of 475

Each measurement is a process of its own: seconds until the first result (imports of the library included), compile
seconds (the first call less a later one of the same length), the median and the best steps a second of several chunks,
and peak memory. `--sb3` names
the interpreter of an environment that has Stable-Baselines3, for example

    uv venv /tmp/sb3 && uv pip install --python /tmp/sb3 "stable-baselines3==2.9.*" torch --torch-backend cpu

`--learn` is the learning check beside every speed: for five seeds the steps until 20 episodes by the mode have mean
return 475, looked at every 5,120 steps (PPO) or 1,000 (DQN), and the seconds of learning until then, evaluations and
compilation apart.

Small networks run faster on one thread of XLA: set NPROC=1 before, for all sides alike.
"""

import argparse
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path

HERE = Path(__file__).parent
RESULTS = HERE / "results" / "driver.jsonl"
CASES = [
    f"{method}-{side}"
    for method in ("dqn", "dqn-1m", "ppo")
    for side in ("floor-compiled", "ours-compiled", "floor-gymnasium", "ours-gymnasium", "sb3")
    if (method, side) != ("dqn-1m", "floor-gymnasium")
]


LIMIT = {"dqn": 60_000, "ppo": 300_000}


def prepared(name):
    """`(carry, run, environment steps of one unit, units of a chunk)`."""
    import floors
    import jax

    from optimality.environments.catalog import make
    from optimality.environments.gymnasium_environment import GymnasiumEnvironment
    from optimality.learning.ppo import PPO
    from optimality.learning.soft_q_learning import dqn
    from optimality.networks.mlp import MLP
    from optimality.sampling.compiled_runner import CompiledRunner
    from optimality.sampling.gymnasium_runner import GymnasiumRunner
    from optimality.sampling.loop import begin, run_chunk, strong

    method, capacity = name.split("-")[0], 1_000_000 if "-1m" in name else 20_000
    host, q = name.endswith("gymnasium"), method == "dqn"
    unit, chunk = (1, 1_000 if host else 10_000) if q else (1_024, 3 if host else 50)
    if "floor" in name:
        if q:
            carry, run = (floors.dqn_host if host else floors.dqn_compiled)(capacity)
        else:
            carry, run = (floors.ppo_host if host else floors.ppo_compiled)()
        return carry, run, unit, chunk
    network = MLP(hidden=(64, 64), activation="relu" if q else "tanh")
    learner = strong(
        dqn(capacity=capacity, epsilon_start=0.05, double=False, network=network) if q else PPO(network=network)
    )
    if host:
        runner = GymnasiumRunner(GymnasiumEnvironment("CartPole-v1", learner.environments))
    else:
        runner = strong(CompiledRunner(make("CartPole-v1"), learner.environments))
    carry = begin(learner, runner, jax.random.key(0))
    return carry, lambda carry, key, number: run_chunk(learner, *carry, key, number)[:2], unit, chunk


def learned(name, seed):
    """Steps and seconds to the threshold, None where it was not reached."""
    import optimality as ox

    q = name.startswith("dqn")
    backend = "gymnasium" if name.endswith("gymnasium") else "jax"
    method, chunk = (ox.dqn(), 1_000) if q else (ox.PPO(), 5)
    run = ox.train(
        "CartPole-v1", method, steps=LIMIT["dqn" if q else "ppo"], chunk=chunk, target=475.0, seed=seed, backend=backend
    )
    best = max(row["evaluation_return"] for row in run.metrics)
    reached = run.result == "target_reached"
    seconds = sum(row["seconds"] for row in run.metrics)
    steps = run.metrics[-1]["step"] if reached else None
    return {"seed": seed, "steps": steps, "seconds": round(seconds, 2) if reached else None, "best": round(best, 1)}


def measure(name, small):
    import jax

    start = time.perf_counter()
    carry, run, unit, chunk = prepared(name)
    chunk = max(1, chunk // 20) if small else chunk
    walls, cpus = [], []
    for repeat in range(3 if small else 8):
        wall, cpu = time.perf_counter(), time.process_time()
        carry = run(carry, jax.random.key(repeat), chunk)
        jax.block_until_ready([leaf for leaf in jax.tree.leaves(carry) if isinstance(leaf, jax.Array)])
        walls.append(time.perf_counter() - wall)
        cpus.append(time.process_time() - cpu)
        if not repeat:
            first = time.perf_counter() - start
    wall = statistics.median(walls[1:])
    return {
        "steps_per_s": round(unit * chunk / wall),
        "best_steps_per_s": round(unit * chunk / min(walls[1:])),
        "cpu_us_per_step": round(1e6 * statistics.median(cpus[1:]) / (unit * chunk), 1),
        "first_s": round(first, 2),
        "compile_s": round(walls[0] - wall, 2),
        "peak_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024),
    }


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("names", nargs="*", help=f"of {', '.join(CASES)}, or their beginnings")
    parser.add_argument("--small", action="store_true", help="a twentieth of the steps: does it run?")
    parser.add_argument("--sb3", help="interpreter of an environment with Stable-Baselines3")
    parser.add_argument("--learn", action="store_true", help="steps and seconds to a mean return of 475")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    parser.add_argument("--seed", type=int, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.seed is not None:
        print(json.dumps(learned(arguments.one, arguments.seed)))
        return
    if arguments.one:
        print(json.dumps(measure(arguments.one, arguments.small)))
        return
    import jax

    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True).stdout.strip()
    machine = f"{platform.machine()}, {platform.system()}, Python {platform.python_version()}, jax {jax.__version__}"
    RESULTS.parent.mkdir(exist_ok=True)
    chosen = [c for c in CASES if not arguments.names or any(c.startswith(name) for name in arguments.names)]
    about = {"benchmark": "driver", "commit": commit, "machine": machine, "nproc": os.environ.get("NPROC", "")}
    for name in chosen:
        if name.endswith("sb3") and arguments.sb3 is None:
            continue
        if arguments.learn:
            if "floor" in name or "-1m" in name:
                continue
            seeds = [call(name, arguments.sb3, seed=seed) for seed in range(5)]
            reached = [row for row in seeds if row["steps"] is not None]
            record = {
                "reached": f"{len(reached)} of 5",
                "median_steps": statistics.median(row["steps"] for row in reached) if reached else None,
                "median_seconds": statistics.median(row["seconds"] for row in reached) if reached else None,
            }
            detail = {"seeds": seeds}
        else:
            record, detail = call(name, arguments.sb3, small=arguments.small), {}
        print(f"{name:22}", "  ".join(f"{key} {value}" for key, value in record.items()), flush=True)
        if not arguments.small:
            kind = "learning" if arguments.learn else "speed"
            with RESULTS.open("a") as file:
                file.write(json.dumps({**about, "case": name, "kind": kind, **record, **detail}) + "\n")


def call(name, sb3, *, small=False, seed=None):
    """One measurement in a process of its own."""
    if name.endswith("sb3"):
        command = [sb3, str(HERE / "driver_sb3.py"), name.removesuffix("-sb3")]
        if seed is not None:
            command += ["--learn", str(seed), str(LIMIT[name.split("-")[0]])]
    else:
        command = [sys.executable, __file__, "--one", name]
        if seed is not None:
            command += ["--seed", str(seed)]
    command += ["--small"] if small else []
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{name} failed:\n{done.stderr}")
    return json.loads(done.stdout.strip().splitlines()[-1])


if __name__ == "__main__":
    main()
