"""Bandit simulation against vectorized NumPy, float32 at a million pulls, and the published Bernoulli table.

    taskset -c 1 uv run python benchmarks/bandits.py     # prints, writes benchmarks/results/bandits.jsonl

Speed: CPU nanoseconds a round of one run, with 10 arms at 0.1, ..., 0.9 and 1,000 runs at once, least of several
bursts; the peer is what a careful NumPy user writes, over all runs at once, timed between our bursts. The published
means are of Russo and Van Roy (2014), table 1: 10 arms with uniform chances, 1,000 pulls.
"""

import json
import platform
import subprocess
import time
from pathlib import Path

import jax
import numpy as np

import optimality as ox
from optimality.exploration.bandit_simulation import simulate_bandit

RESULTS = Path(__file__).parent / "results" / "bandits.jsonl"
ARMS = np.linspace(0.1, 0.9, 10)
RUNS, LONG, SHORT, BURSTS = 1_000, 10_000, 2_000, 4
PUBLISHED = {
    "UCB1": (ox.UCB1(), 10_000, 130.7),
    "Thompson": (ox.Thompson(), 10_000, 28.1),
    "KnowledgeGradient": (ox.KnowledgeGradient(), 10_000, 51.0),
    "BayesUCB": (ox.BayesUCB(), 2_000, 22.8),
    "InformationDirectedSampling": (ox.InformationDirectedSampling(), 1_000, 18.0),
}


def ucb1_peer(horizon):
    random, lanes = np.random.default_rng(0), np.arange(RUNS)
    pulls, ones = np.zeros((10, RUNS)), np.zeros((10, RUNS))
    for t in range(horizon):
        arm = np.full(RUNS, t) if t < 10 else (ones / pulls + np.sqrt(2 * np.log(t) / pulls)).argmax(0)
        pulls[arm, lanes] += 1
        ones[arm, lanes] += random.random(RUNS) < ARMS[arm]
    return pulls


def thompson_peer(horizon):
    random, lanes = np.random.default_rng(0), np.arange(RUNS)
    pulls, ones = np.zeros((10, RUNS)), np.zeros((10, RUNS))
    for _ in range(horizon):
        arm = random.beta(1 + ones, 1 + pulls - ones).argmax(0)
        pulls[arm, lanes] += 1
        ones[arm, lanes] += random.random(RUNS) < ARMS[arm]
    return pulls


def cpu(function):
    start = time.process_time()
    answer = function()
    return time.process_time() - start, answer


def speed(name, policy, peer, horizon):
    arms, ours, theirs = ox.BernoulliArms(ARMS), [], []
    compile_s, _ = cpu(lambda: simulate_bandit(arms, {name: policy}, horizon=horizon, runs=RUNS))
    regret = 0.0
    for burst in range(BURSTS):
        seconds, traces = cpu(lambda: simulate_bandit(arms, {name: policy}, horizon=horizon, runs=RUNS, seed=burst))  # noqa: B023
        regret += traces[name].regret[-1].mean() / BURSTS
        ours.append(seconds)
        seconds, pulls = cpu(lambda: peer(horizon))
        theirs.append(seconds)
    scale = 1e9 / horizon / RUNS
    return {
        "measurement": "speed",
        "policy": name,
        "horizon": horizon,
        "runs": RUNS,
        "cpu_ns_a_round": round(min(ours) * scale, 1),
        "numpy_cpu_ns_a_round": round(min(theirs) * scale, 1),
        "times_faster_than_numpy": round(min(theirs) / min(ours), 2),
        "compile_s": round(compile_s - min(ours), 2),
        "regret": round(float(regret), 1),
        "numpy_regret": round(float(((0.9 - ARMS) @ pulls).mean()), 1),
    }


def interval(regret):
    half = 1.96 * regret.std(ddof=1) / np.sqrt(regret.size)
    return {"regret": round(float(regret.mean()), 2), "half_width_95": round(float(half), 2)}


def offset():
    """Normal rewards around 100 in float32; with raw sums regret would be 43,328."""
    arms = ox.GaussianArms(100.0 + np.linspace(0.0, 0.9, 10), 1.0)
    seconds, traces = cpu(lambda: simulate_bandit(arms, {"a": ox.UCB1(scale=1.0)}, horizon=1_000_000, runs=16))
    return {
        "measurement": "float32 at a million pulls",
        "policy": "UCB1",
        "runs": 16,
        **interval(traces["a"].regret[-1]),
        "reference_float64": 740.13,
        "reference_raw_float32_sums": 43_327.91,
        "cpu_s": round(seconds, 1),
    }


def published(name):
    policy, runs, mean = PUBLISHED[name]
    arms = ox.BernoulliArms(np.random.default_rng(0).random((10, runs)))
    seconds, traces = cpu(lambda: simulate_bandit(arms, {name: policy}, horizon=1_000, runs=runs, seed=1))
    regret = traces[name].regret[-1]
    quantiles = np.quantile(regret, [0.1, 0.25, 0.5, 0.75, 0.9, 0.95])
    return {
        "measurement": "published table",
        "policy": name,
        "runs": runs,
        **interval(regret),
        "published": mean,
        "quantiles": [round(float(q), 1) for q in quantiles],
        "cpu_s": round(seconds, 1),
    }


def main():
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True).stdout.strip()
    machine = f"{platform.machine()}, {platform.system()}, Python {platform.python_version()}, jax {jax.__version__}"
    RESULTS.parent.mkdir(exist_ok=True)
    work = [
        lambda: speed("UCB1", ox.UCB1(), ucb1_peer, LONG),
        lambda: speed("Thompson", ox.Thompson(), thompson_peer, SHORT),
        *(lambda name=name: published(name) for name in PUBLISHED),
        offset,
    ]
    with RESULTS.open("w") as file:
        for measure in work:
            record = measure()
            print("  ".join(f"{name} {value}" for name, value in record.items()), flush=True)
            file.write(json.dumps({"benchmark": "bandits", "commit": commit, "machine": machine, **record}) + "\n")
            file.flush()


if __name__ == "__main__":
    main()
