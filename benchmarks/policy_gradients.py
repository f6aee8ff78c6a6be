"""Policy gradients: one estimate against its bare arithmetic, and TRPO against SB3-contrib's.

    NPROC=1 uv run python benchmarks/policy_gradients.py
    NPROC=1 uv run python benchmarks/policy_gradients.py --learn --sb3 PYTHON_WITH_SB3_CONTRIB

The first is the gradient of `Reinforce`'s loss (rewards to go, leave-one-out baseline, padding, entropy) of 1e3 to 1e5
steps of CartPole's size, beside the least that such a gradient takes: the derivative of `sum advantage log pi`,
advantages given; `with_noise` is what an update computes, the same with its standard error from eight parts of the
episodes. Milliseconds of CPU are the fewest of many calls, compilation apart. The second is the learning: for
five seeds the steps and seconds until 20 episodes by the mode have mean return 475 on CartPole-v1 and -200 on
Pendulum-v1, looked at every 5,120 steps, evaluations and compilation apart. `--sb3` names an interpreter, say

    uv venv PLACE && uv pip install --python PLACE "sb3-contrib==2.9.*" torch --torch-backend cpu

Both sides have 8 environments of 128 steps, networks of 64 and 64 units, epsilon 0.01, damping 0.1, 15 conjugate
gradients, 10 passes of the critic; ours steps compiled environments, theirs Gymnasium's. On Pendulum-v1 the discount is
0.9. A peer that is not given is left out.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from pathlib import Path

HERE = Path(__file__).parent
RESULTS = HERE / "results" / "policy_gradients.jsonl"
TASKS = {"CartPole-v1": (475.0, 0.99, 200_000), "Pendulum-v1": (-200.0, 0.9, 400_000)}


def estimate(steps):
    """Times and temporary memory of one gradient from episodes of 100 steps."""
    import jax
    import jax.numpy as jnp
    import numpy as np

    from optimality.environments.catalog import make
    from optimality.learning.reinforce import Reinforce
    from optimality.networks.mlp import MLP
    from optimality.sampling.compiled_runner import CompiledRunner
    from optimality.sampling.transitions import Rollout, Transition

    shape = 100, steps // 100
    learner = Reinforce(network=MLP(hidden=(64, 64)))
    state = learner.init(CompiledRunner(make("CartPole-v1"), 8).spec, jax.random.key(0))
    random = np.random.default_rng(0)
    seen = jnp.asarray(random.normal(size=(2, *shape, 4)), jnp.float32)
    action = jnp.asarray(random.integers(2, size=shape), jnp.int32)
    advantage = jnp.asarray(random.normal(size=shape), jnp.float32)
    rewards, flags = jnp.ones(shape, jnp.float32), jnp.zeros(shape, bool)
    batch = Transition(seen[0], action, rewards, seen[1], flags.at[-1].set(True), flags, ~flags, {"raw_action": action})

    def ours(parameters, batch, rewards):
        return jax.grad(learner.loss, has_aux=True)(parameters, state.normalizer, Rollout(batch, None), rewards)[0]

    def noisy(parameters, batch, rewards):
        return learner.gradient(parameters, state.normalizer, Rollout(batch, None), rewards)[:2]

    def floor(network, seen, action, advantage):
        def objective(network):
            log_p = jax.nn.log_softmax(jax.vmap(network)(seen.reshape(-1, 4)))
            taken = jnp.where(jnp.arange(2)[None] == action.reshape(-1, 1), log_p, 0.0)
            return jnp.sum(advantage.reshape(-1) * jnp.sum(taken, axis=1))

        return jax.grad(objective)(network)

    calls = {
        "ours": (ours, (state.parameters, batch, rewards)),
        "with_noise": (noisy, (state.parameters, batch, rewards)),
        "floor": (floor, (state.parameters.actor.network, seen[0], action, advantage)),
    }
    compiled = {side: (jax.jit(f).lower(*arguments).compile(), arguments) for side, (f, arguments) in calls.items()}
    times = fewest(compiled, max(20, 400_000 // steps))
    memory = {side: f.memory_analysis().temp_size_in_bytes / 1e6 for side, (f, _) in compiled.items()}
    return {
        "case": f"{steps} steps",
        **{f"{side}_ms": round(value, 4) for side, value in times.items()},
        "ratio": round(times["ours"] / times["floor"], 3),
        "ratio_with_noise": round(times["with_noise"] / times["floor"], 3),
        **{f"{side}_mb": round(value, 2) for side, value in memory.items()},
    }


def fewest(sides, repeats):
    """Milliseconds of CPU, the sides in turn."""
    import jax

    found = dict.fromkeys(sides, float("inf"))
    for _ in range(repeats):
        for side, (function, arguments) in sides.items():
            start = time.process_time()
            jax.block_until_ready(function(*arguments))
            found[side] = min(found[side], 1e3 * (time.process_time() - start))
    return found


def learned(name, seed):
    import optimality as ox

    target, discount, limit = TASKS[name]
    learner = ox.TRPO(discount=discount, network=ox.MLP(hidden=(64, 64)))
    run = ox.train(name, learner, steps=limit, chunk=5, target=target, seed=seed, evaluation_episodes=20)
    reached = run.result == "target_reached"
    return {
        "seed": seed,
        "steps": run.metrics[-1]["step"] if reached else None,
        "seconds": round(sum(row["seconds"] for row in run.metrics), 2) if reached else None,
        "best": max(row["evaluation_return"] for row in run.metrics),
    }


def peer(python, name, seed):
    target, discount, limit = TASKS[name]
    command = [python, str(HERE / "policy_gradients_sb3.py"), name, str(target), str(discount), str(seed), str(limit)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"SB3-contrib failed:\n{done.stderr}")
    return json.loads(done.stdout.strip().splitlines()[-1])


def learning(python):
    for name in TASKS:
        for side in ("ours", "sb3-contrib"):
            if side != "ours" and python is None:
                continue
            seeds = [learned(name, seed) if side == "ours" else peer(python, name, seed) for seed in range(5)]
            reached = [row for row in seeds if row["steps"] is not None]
            yield {
                "case": f"{name}, {side}",
                "reached": f"{len(reached)} of 5",
                "median_steps": statistics.median(row["steps"] for row in reached) if reached else None,
                "median_seconds": statistics.median(row["seconds"] for row in reached) if reached else None,
                "seeds": seeds,
            }


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--learn", action="store_true", help="steps and seconds to the targets, by TRPO")
    parser.add_argument("--sb3", help="interpreter of an environment with SB3-contrib")
    arguments = parser.parse_args()
    import jax

    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True).stdout.strip()
    machine = f"{platform.machine()}, {platform.system()}, Python {platform.python_version()}, jax {jax.__version__}"
    about = {
        "benchmark": "policy_gradients",
        "commit": commit,
        "machine": machine,
        "nproc": os.environ.get("NPROC", ""),
    }
    kind = "learning" if arguments.learn else "estimate"
    for record in learning(arguments.sb3) if arguments.learn else map(estimate, (1_000, 10_000, 100_000)):
        shown = {key: value for key, value in record.items() if key != "seeds"}
        print("  ".join(f"{key} {value}" for key, value in shown.items()), flush=True)
        with RESULTS.open("a") as file:
            file.write(json.dumps({**about, "kind": kind, **record}) + "\n")


if __name__ == "__main__":
    main()
