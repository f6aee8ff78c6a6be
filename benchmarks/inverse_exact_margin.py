"""Apprenticeship learning on the gridworld of Abbeel and Ng at its original size, 128x128 cells in 64 regions.

    taskset -c 1 uv run python benchmarks/inverse_exact_margin.py    # appends to results/inverse_exact_margin.jsonl

Exact feature expectations of the optimal expert, discount .99, moves that fail with probability .3. Margins are per
discounted step; CPU seconds of one pinned core, the least of several bursts; everything is planned exactly.
"""

import json
import platform
import subprocess
import time
from pathlib import Path

import numpy as np

from optimality import ApprenticeshipLearning, DemonstratedVisits, LinearReward, infer_reward
from optimality.inverse.best_response import Planner
from optimality.problems.reward_worlds import macrocell_features, macrocell_gridworld

RESULTS = Path(__file__).parent / "results" / "inverse_exact_margin.jsonl"
BURSTS = 3


def measure(seed, variant):
    problem, features = macrocell_gridworld(seed=seed), macrocell_features()
    reward, planner = np.asarray(problem.reward), Planner(problem)
    expert = planner.respond(reward)
    seen = DemonstratedVisits(expert.visits, np.asarray(problem.initial), 1)
    method = ApprenticeshipLearning(variant=variant, tolerance=2e-3, max_steps=40)
    seconds = []
    for _ in range(BURSTS):
        start = time.process_time()
        solution = infer_reward(problem, seen, method, reward=LinearReward(features), throw=False)
        seconds.append(time.process_time() - start)
    best = np.sum(expert.pairs * reward)

    def share(policy):
        return float(np.sum(planner.evaluate(policy.probabilities, reward).pairs * reward) / best)

    return {
        "variant": variant,
        "seed": seed,
        "rounds": solution.stats["rounds"],
        "result": solution.result.name.lower(),
        "cpu_s": round(min(seconds), 2),
        "margins_every_third": [float(f"{margin:.2g}") for margin in solution.details.margins[::3]],
        "margin": float(f"{solution.details.margins[-1]:.3g}"),
        "single_policy_share": round(share(solution.details.single), 4),
        "mixture_share": round(share(solution.details.markov), 4),
    }


def main():
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True).stdout.strip()
    machine = f"{platform.machine()}, {platform.system()}, Python {platform.python_version()}"
    for variant in ("max-margin", "projection"):
        for seed in (0, 1, 2):
            line = {"benchmark": "inverse_exact_margin", "commit": commit, "machine": machine, **measure(seed, variant)}
            print(json.dumps(line))
            with RESULTS.open("a", encoding="utf-8") as file:
                file.write(json.dumps(line) + "\n")


if __name__ == "__main__":
    main()
