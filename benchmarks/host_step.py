"""What the host pays for one step: `act` of a saved policy, and the parts of a DQN step on Gymnasium's CartPole.

    NPROC=1 uv run python benchmarks/host_step.py    # prints, and appends to benchmarks/results/host_step.jsonl

Microseconds of the fastest of five rounds of 1,000 calls. `learn_idle` is a compiled call that takes and gives what
`learn` does and computes nothing: what a call costs at this number of arrays.
"""

import json
import os
import platform
import subprocess
import time
from pathlib import Path

import jax
import numpy as np

import optimality as ox
from optimality.environments.gymnasium_environment import GymnasiumEnvironment
from optimality.sampling.acting import ActingPolicy
from optimality.sampling.collection import collect
from optimality.sampling.gymnasium_runner import GymnasiumRunner
from optimality.sampling.learner import learn
from optimality.sampling.loop import begin, run_chunk, strong

RESULTS = Path(__file__).parent / "results" / "host_step.jsonl"


def microseconds(call):
    call()
    rounds = []
    for _ in range(5):
        start = time.perf_counter()
        for _ in range(1_000):
            call()
        rounds.append((time.perf_counter() - start) / 1_000)
    return round(1e6 * min(rounds), 1)


def acting():
    policy = ActingPolicy(ox.train("CartPole-v1", ox.PPO(), steps=1_024, chunk=1, evaluation_episodes=1).policy.policy)
    observation = np.array([0.01, 0.02, 0.03, 0.04])
    return {
        "act_mode": microseconds(lambda: policy.act(observation)),
        "act_sampled": microseconds(lambda: policy.act(observation, sample=True)),
    }


def host_step():
    learner = strong(ox.dqn(double=False))
    runner = GymnasiumRunner(GymnasiumEnvironment("CartPole-v1", 1))
    state, runner = begin(learner, runner, jax.random.key(0))
    state, runner, _ = run_chunk(learner, state, runner, jax.random.key(1), 100)
    policy, key = learner.policy(state, explore=True), jax.random.key(2)
    rollout = collect(learner.collection, policy, runner, key)[1]
    host = runner.environment
    found = {
        "environment": microseconds(lambda: (host.step(np.array([1])), host.restart())),
        "collect": microseconds(lambda: collect(learner.collection, policy, runner, key)),
    }
    idle = jax.jit(lambda learner, state, rollout, key: (state, key), donate_argnums=1)
    for name, call in (("learn", learn), ("learn_idle", idle)):

        def once(call=call):
            nonlocal state
            state = jax.block_until_ready(call(learner, state, rollout, key)[0])

        found[name] = microseconds(once)
    return found


def main():
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True).stdout.strip()
    machine = f"{platform.machine()}, {platform.system()}, Python {platform.python_version()}, jax {jax.__version__}"
    row = {"commit": commit, "machine": machine, "nproc": os.environ.get("NPROC", ""), **acting(), **host_step()}
    print(json.dumps(row, indent=1))
    with RESULTS.open("a") as file:
        file.write(json.dumps(row) + "\n")


if __name__ == "__main__":
    main()
