"""Soft backward pass on random problems, against SciPy and against the memory floor, in one run.

    uv run python benchmarks/planning.py            # prints the table, appends to benchmarks/results/planning.jsonl

The work: the values of every step, `V_t = log sum_a exp(r + E V_{t+1})`, 50 steps, 4 actions, float64. The peer is
what a careful NumPy user writes: one stacked SciPy CSR product a step and an in-place log-sum-exp. The floor of the
dense form is the time to read its array from memory once a step (a NumPy matrix-vector product). Each side runs on
whatever threads it takes; CPU seconds stand beside wall seconds. Compile time is apart; memory is the model's size.
"""

import json
import platform
import subprocess
import time
from pathlib import Path

import jax
import numpy as np
import scipy.sparse

import optimality as ox
from optimality.core.gibbs import soft_maximum
from optimality.core.numerics import cast_floats, precision
from optimality.planning.backups import Sweep, action_values, terminal_values

HORIZON, ACTIONS, SUCCESSORS = 50, 4, 4
RESULTS = Path(__file__).parent / "results" / "planning.jsonl"


@jax.jit
def ours(mdp):
    sweep = Sweep(mdp.log_base("none").T, 1.0, 0.0)

    def step(values, _):
        values = soft_maximum(action_values(mdp, values, 0.0), sweep.temperature, sweep.log_base, axis=0)
        return values, values

    return jax.lax.scan(step, terminal_values(mdp), length=HORIZON, xs=None)[1]


def scipy_peer(stacked, reward):
    actions, states = reward.shape
    values, kept = np.zeros(states), []
    for _ in range(HORIZON):
        q = (stacked @ values).reshape(actions, states)
        q += reward
        top = q.max(axis=0)
        q -= top
        np.exp(q, out=q)
        values = np.log(q.sum(axis=0)) + top
        kept.append(values)
    return np.stack(kept)


def best(function, repeats):
    """Fewest wall and CPU seconds of several calls."""
    walls, cpus = [], []
    for _ in range(repeats):
        wall, cpu = time.perf_counter(), time.process_time()
        jax.block_until_ready(function())
        walls.append(time.perf_counter() - wall)
        cpus.append(time.process_time() - cpu)
    return min(walls), min(cpus)


def random_problem(states):
    random = np.random.default_rng(0)
    pairs = states * ACTIONS
    state, action = np.repeat(np.arange(states), ACTIONS), np.tile(np.arange(ACTIONS), states)
    columns = [np.repeat(state, SUCCESSORS), np.repeat(action, SUCCESSORS)]
    successor = random.integers(0, states, pairs * SUCCESSORS)
    probability = random.dirichlet(np.ones(SUCCESSORS), pairs).reshape(-1)
    reward = np.repeat(random.normal(size=pairs), SUCCESSORS)
    from optimality.problems.outcomes import Outcomes

    return Outcomes(*columns, successor, probability, reward, np.zeros(pairs * SUCCESSORS, bool))


def measure(states, form):
    outcomes = random_problem(states)
    mdp = ox.TabularMDP.from_outcomes(outcomes, criterion=ox.FiniteHorizon(HORIZON), states=states, form=form)
    rows = outcomes.action * states + outcomes.state
    stacked = scipy.sparse.csr_matrix(
        (outcomes.probability, (rows, outcomes.successor)), shape=(ACTIONS * states, states)
    )
    reward = np.ascontiguousarray(np.asarray(mdp.reward).T)
    repeats = 5 if states > 5_000 or form == "dense" else 20
    with precision(np.float64):
        problem = cast_floats(mdp, np.float64)
        start = time.perf_counter()
        values = np.asarray(ours(problem))
        first = time.perf_counter() - start
        wall, cpu = best(lambda: ours(problem), repeats)
    peer_wall, peer_cpu = best(lambda: scipy_peer(stacked, reward), repeats)
    error = float(np.abs(values - scipy_peer(stacked, reward)).max())
    assert error < 1e-9, error
    record = {
        "form": form,
        "states": states,
        "ms": round(1e3 * wall, 3),
        "cpu_ms": round(1e3 * cpu, 3),
        "scipy_csr_ms": round(1e3 * peer_wall, 3),
        "scipy_csr_cpu_ms": round(1e3 * peer_cpu, 3),
        "times_faster_than_scipy": round(peer_wall / wall, 2),
        "compile_s": round(first - wall, 2),
        "model_mb": round(sum(leaf.nbytes for leaf in jax.tree.leaves(mdp.model)) / 1e6, 2),
    }
    if form == "dense":
        matrix = np.asarray(mdp.model.probability).reshape(ACTIONS * states, states)
        floor, _ = best(lambda: [matrix @ values[0] for _ in range(HORIZON)], repeats)
        record.update(read_floor_ms=round(1e3 * floor, 3), times_the_floor=round(wall / floor, 2))
    return record


def main():
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True).stdout.strip()
    machine = f"{platform.machine()}, {platform.system()}, Python {platform.python_version()}, jax {jax.__version__}"
    RESULTS.parent.mkdir(exist_ok=True)
    cases = [(100, "successors"), (400, "successors"), (1_600, "successors"), (10_000, "successors"), (1_600, "dense")]
    with RESULTS.open("w") as file:
        for states, form in cases:
            record = measure(states, form)
            print("  ".join(f"{name} {value}" for name, value in record.items()), flush=True)
            file.write(json.dumps({"benchmark": "planning", "commit": commit, "machine": machine, **record}) + "\n")


if __name__ == "__main__":
    main()
