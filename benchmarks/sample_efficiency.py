"""Transitions that soft Q-learning and the policy gradient need on tables, where each policy can be valued exactly.

    NPROC=1 uv run python benchmarks/sample_efficiency.py    # prints, and appends to benchmarks/results/

Both begin at the uniform policy and count every transition. A learner has arrived when `J`, the exact expected return
with entropy of its present policy, is 95 % of the way from that of the uniform policy to the largest one; it is looked
at after every episode of soft Q-learning and every step of the gradient. Medians over 30 seeds with intervals of 95.7 %
from order statistics, for any law: the 10th and the 21st. "Never" is not within 20,000 transitions.

Soft Q-learning has its defaults, in three behaviours: its own policy, that mixed with 30 % of uniform actions, and
uniform actions, which only a method that learns from whatever was done can use. The policy gradient (rewards to go with
entropy, less the mean of the other episodes) has the best of 16 settings, of 2, 4, 8 and 16 episodes a step and rates
1/4, 1, 4 and 16, chosen by the median over 20 other seeds; what that choice cost is not counted.
"""

import json
import platform
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np

import optimality as ox
from optimality.core.numerics import cast_floats

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent / "tests"))
from sampled_learners import corridors, ends, needed, policy_gradient, soft_q  # noqa: E402

RESULTS = HERE / "results" / "sample_efficiency.jsonl"
LIMIT = 20_000
SEEDS, TUNING_SEEDS = 30, 20
EPISODES, RATES = (2, 4, 8, 16), (0.25, 1.0, 4.0, 16.0)
BEHAVIOURS = {"own actions": 0.0, "30 % uniform actions": 0.3, "uniform actions": 1.0}
CASES = {
    "chain of 5, slips": (ox.chain(5, criterion=ox.Discounted(0.9)), 0.1, 50),
    "random, 10 states": (ox.random_mdp(10, 3, 3, seed=0, criterion=ox.Discounted(0.9)), 0.3, 50),
    "deep sea of 4 rows": (ox.deep_sea(4, criterion=ox.Discounted(0.95)), 0.05, 4),
    "two corridors of 10": (corridors(10, ox.Discounted(0.99)), 0.05, 11),
    "two corridors of 40": (corridors(40, ox.Discounted(0.99)), 0.01, 41),
}
"""Problem, temperature, and length of an episode."""


def run_gradient(problem, temperature, steps, threshold, episodes, rate, seeds, seed):
    per_step = steps * episodes
    reached = policy_gradient(
        problem,
        temperature,
        rate,
        steps=steps,
        episodes=episodes,
        number=LIMIT // per_step,
        seeds=seeds,
        seed=seed,
    )
    return needed(reached, per_step, threshold)


def learned(problem, temperature, steps):
    """Transitions needed by each learner, `[seeds]`, and the gradient's setting."""
    uniform, best = ends(problem, temperature)
    threshold = uniform + 0.95 * (best - uniform)
    problem = cast_floats(problem, np.float32)
    found = {}
    for name, share in BEHAVIOURS.items():
        method = ox.SoftQLearning(discount=float(problem.discount), temperature=temperature, epsilon_end=share)
        reached, _ = soft_q(problem, method, steps=steps, every=steps, number=LIMIT // steps, seeds=SEEDS, seed=1)
        found[f"soft Q, {name}"] = needed(reached, steps, threshold), {}
    given = problem, temperature, steps, threshold
    tried = {(e, r): run_gradient(*given, e, r, TUNING_SEEDS, 0) for e in EPISODES for r in RATES}
    setting = min(tried, key=lambda pair: (np.sort(tried[pair])[TUNING_SEEDS // 2], -np.isfinite(tried[pair]).sum()))
    fresh = run_gradient(*given, *setting, SEEDS, 1)
    found["policy gradient"] = fresh, {"episodes": setting[0], "rate": setting[1]}
    return found


def number_of(value):
    return int(value) if np.isfinite(value) else None


def main():
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True).stdout.strip()
    versions = f"Python {platform.python_version()}, jax {jax.__version__}, numpy {np.__version__}"
    about = {"benchmark": "sample_efficiency", "commit": commit, "machine": f"{platform.machine()}, {versions}"}
    RESULTS.parent.mkdir(exist_ok=True)
    for case, (problem, temperature, steps) in CASES.items():
        for learner, (transitions, setting) in learned(problem, temperature, steps).items():
            ordered = np.sort(transitions)
            middle = 0.5 * sum(ordered[SEEDS // 2 - 1 : SEEDS // 2 + 1])
            row = {
                "case": case,
                "temperature": temperature,
                "learner": learner,
                "median": number_of(middle),
                "low": number_of(ordered[9]),
                "high": number_of(ordered[20]),
                "arrived": int(np.isfinite(ordered).sum()),
                "seeds": SEEDS,
                **setting,
            }
            print(json.dumps(row), flush=True)
            with RESULTS.open("a") as file:
                file.write(json.dumps({**about, **row, "transitions": [number_of(x) for x in transitions]}) + "\n")


if __name__ == "__main__":
    main()
