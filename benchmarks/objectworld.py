"""Objectworld: how much of the optimal value a recovered reward yields, against the number of demonstrations.

    uv run python benchmarks/objectworld.py      # appends to benchmarks/results/objectworld.jsonl, some minutes

Five worlds of 32 x 32 cells (Levine, Popovic and Koltun 2011): 8-step episodes of the optimal policy, `MaxEntIRL` by
the action likelihood, a reward linear in the features against a network of them with two layers of 32. The reward is a
conjunction, which is not linear in the features. Figures are the expected value difference over all states divided by
the mean optimal value: mean and standard error over worlds.
"""

import json
import platform
import subprocess
import time
from pathlib import Path

import jax
import numpy as np

import optimality as ox

RESULTS = Path(__file__).parent / "results" / "objectworld.jsonl"
WORLDS, STEPS = 5, 8


def learned(problem, features, kind, shown, seed):
    if kind == "linear":
        family = ox.LinearReward(features)
    else:
        recipe = ox.MLP(hidden=(32, 32), activation="relu")
        family = ox.NetworkReward.build(jax.random.key(seed), problem, network=recipe, features=features)
    method = ox.MaxEntIRL(l2=1e-4, max_steps=300, tolerance=1e-4, hessian_limit=0)
    return ox.infer_reward(problem, shown, method, reward=family, dtype=np.float32, throw=False).reward


def difference(problem, reward, optimal):
    """`(mean V* - mean V) / mean V*`, of the best policy for the learned reward."""
    policy = ox.solve(ox.with_reward(problem, reward), ox.ValueIteration(tolerance=1e-9)).policy
    value = ox.solve(ox.UnderPolicy(problem, policy), ox.PolicyEvaluation()).value
    return float((optimal.mean() - np.mean(value)) / optimal.mean())


def main():
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True).stdout.strip()
    machine = f"{platform.machine()}, {platform.system()}, Python {platform.python_version()}, jax {jax.__version__}"
    about = {"benchmark": "objectworld", "commit": commit, "machine": machine, "worlds": WORLDS}
    worlds = [(ox.objectworld(seed=seed), seed) for seed in range(WORLDS)]
    experts = [ox.solve(problem, ox.ValueIteration()) for problem, _ in worlds]
    with RESULTS.open("a") as file:
        for continuous in (False, True):
            for number in (8, 32, 128):
                for kind in ("linear", "network"):
                    found, began = [], time.process_time()
                    for (problem, seed), expert in zip(worlds, experts, strict=True):
                        features = ox.objectworld_features(seed=seed, continuous=continuous)
                        features = features / (features.max() if continuous else 1.0)
                        key = jax.random.key(1000 + seed)
                        shown = ox.Demonstrations.from_policy(problem, expert.policy, number, key, steps=STEPS)
                        reward = learned(problem, features, kind, shown, seed)
                        found.append(difference(problem, reward, np.asarray(expert.value)))
                    row = {
                        **about,
                        "features": "continuous" if continuous else "binary",
                        "demonstrations": number,
                        "reward": kind,
                        "difference": round(float(np.mean(found)), 4),
                        "standard_error": round(float(np.std(found, ddof=1) / WORLDS**0.5), 4),
                        "cpu_s_a_world": round((time.process_time() - began) / WORLDS, 1),
                    }
                    file.write(json.dumps(row) + "\n")
                    file.flush()
                    print(row["features"], number, kind, row["difference"], "+-", row["standard_error"], flush=True)


if __name__ == "__main__":
    main()
