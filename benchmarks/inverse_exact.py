"""Exact maximum-entropy inverse RL: one gradient and a whole fit, against SciPy, a memory floor and `imitation`.

    NPROC=1 taskset -c 1 uv run python benchmarks/inverse_exact.py [--imitation PYTHON_WITH_IMITATION]

The work: random problems of S = 100, 400 and 1,600 states, 4 actions, 4 successors or dense rows, 50 steps, a reward
linear in 20 features of the state, float32; value and gradient of the convex dual, `p_0 . log Z(w) - w . f`. SciPy's
side is a stacked CSR product and an in-place log-sum-exp a step, forward by the transposed product, float64. The dense
floor is the time in which a NumPy matrix-vector product reads the array, twice a step. `imitation` 1.0.1 (its soft
backup, occupancies and one product, float64, dense by design) is run where an interpreter is named, say

    uv venv PLACE && uv pip install --python PLACE imitation==1.0.1 torch

Milliseconds of CPU are the fewest of many calls, compilation apart. The whole fits are of a slippery 32 x 32 grid (20
features) and a 300 x 300 grid by 1,000 episodes, the second of two calls, with the peak memory of a process after
the first.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

HORIZON, ACTIONS, SUCCESSORS, FEATURES = 50, 4, 4, 20
HERE = Path(__file__).parent
RESULTS = HERE / "results" / "inverse_exact.jsonl"


def fewest(function, seconds=4.0):
    """Milliseconds of CPU."""
    best, began = float("inf"), time.perf_counter()
    while time.perf_counter() - began < seconds:
        start = time.process_time()
        function()
        best = min(best, time.process_time() - start)
    return 1e3 * best


def problem_of(states, dense):
    import optimality as ox

    successors = states if dense else SUCCESSORS
    if not dense:
        return ox.random_mdp(states, ACTIONS, successors, seed=0, criterion=ox.FiniteHorizon(HORIZON))
    transition = np.random.default_rng(0).dirichlet(np.ones(states), size=(states, ACTIONS))
    return ox.TabularMDP.from_arrays(
        transition, np.zeros((states, ACTIONS)), initial=0, criterion=ox.FiniteHorizon(HORIZON)
    )


def our_gradient(problem, features, weights):
    """`(function, compile seconds)`: what `MaxEntIRL(objective="matching")` evaluates at each step."""
    import equinox as eqx

    import optimality as ox
    from optimality.inverse.maxent_irl import _Fit
    from optimality.inverse.maxent_objective import Settings, evidence

    expert = ox.TabularPolicy.from_probabilities(np.full(problem.shape, 1.0 / ACTIONS))
    visits = ox.DemonstratedVisits.of_policy(problem, expert)
    method = ox.MaxEntIRL(objective="matching", l2=0.0)
    family = ox.LinearReward(features)
    parameters, rest = eqx.partition(family, family.parameters())
    settings = Settings("matching", False, "none", 200_000)
    data = evidence(problem, visits, None, "matching")
    fit = _Fit(problem, data, parameters, rest, method, settings, np.float32)
    start = time.perf_counter()
    _, gradient = fit.value_and_gradient(weights)
    compile_s = time.perf_counter() - start
    expected = np.asarray(visits.pairs).sum(axis=(0, 2)) @ features
    return lambda: fit.value_and_gradient(weights), compile_s, gradient + expected


def scipy_gradient(problem, features, weights):
    import scipy.sparse

    states, _ = problem.shape
    outcomes = problem.outcomes()
    row = outcomes.action * states + outcomes.state
    matrix = scipy.sparse.csr_array((outcomes.probability, (row, outcomes.successor)), (ACTIONS * states, states))
    transposed = matrix.T.tocsr()
    initial = np.asarray(problem.initial)

    def gradient():
        reward = features @ weights
        values, policies = np.zeros(states), []
        for _ in range(HORIZON):
            q = (matrix @ values).reshape(ACTIONS, states)
            q += reward
            top = q.max(axis=0)
            q -= top
            np.exp(q, out=q)
            total = q.sum(axis=0)
            values = np.log(total) + top
            q /= total
            policies.append(q)
        mass, visits = initial, np.zeros(states)
        for policy in reversed(policies):
            visits += mass
            mass = transposed @ (policy * mass).reshape(-1)
        return features.T @ visits

    return gradient


def dense_floor(states):
    """Reading the array once a step backward and once forward, float32."""
    matrix = np.random.default_rng(0).random((ACTIONS * states, states), dtype=np.float32)
    vector = np.ones(states, np.float32)
    return 2 * HORIZON * fewest(lambda: matrix @ vector, 2.0)


def gradients(imitation):
    for states in (100, 400, 1600):
        for dense in (False, True):
            problem = problem_of(states, dense)
            random = np.random.default_rng(1)
            features, weights = random.normal(size=(states, FEATURES)), 0.1 * random.normal(size=FEATURES)
            ours, compile_s, gradient = our_gradient(problem, features, weights)
            peer = scipy_gradient(problem, features, weights)
            error = float(np.abs(gradient - peer()).max() / np.abs(peer()).max())
            row = {
                "case": f"S = {states}, {'dense' if dense else '4 successors'}",
                "ours_ms": round(fewest(ours), 3),
                "scipy_ms": round(fewest(peer), 3),
                "relative_error": float(f"{error:.2g}"),
                "compile_s": round(compile_s, 2),
            }
            row["scipy_ratio"] = round(row["scipy_ms"] / row["ours_ms"], 2)
            if dense:
                row["floor_ms"] = round(dense_floor(states), 3)
                row["floor_ratio"] = round(row["ours_ms"] / row["floor_ms"], 2)
            if imitation is not None:
                row["imitation_ms"] = round(peer_ms(imitation, problem, features, weights), 2)
                row["imitation_ratio"] = round(row["imitation_ms"] / row["ours_ms"], 1)
            yield row


def peer_ms(python, problem, features, weights):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "problem.npz"
        transition = np.asarray(problem.dense(), np.float64)
        initial = np.asarray(problem.initial)
        np.savez(path, transition=transition, initial=initial, features=features, weights=weights, horizon=HORIZON)
        command = [python, str(HERE / "inverse_exact_imitation.py"), str(path)]
        done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"imitation failed:\n{done.stderr}")
    return json.loads(done.stdout.strip().splitlines()[-1])["ms"]


def grid(size):
    """A slippery grid, its features, and the reward that its expert pursues."""
    import optimality as ox

    walls = "/".join("." * size for _ in range(size))
    problem = ox.gridworld(walls, 0.3, criterion=ox.FiniteHorizon(HORIZON))
    random = np.random.default_rng(2)
    place = np.stack(np.unravel_index(np.arange(size**2), (size, size)), axis=1) / size
    centers = random.random((FEATURES, 2))
    features = np.exp(-8.0 * np.sum((place[:, None] - centers[None]) ** 2, axis=2))
    return problem, features, ox.LinearReward(features, random.normal(size=FEATURES))


def demonstrate(size, path):
    """1,000 episodes of the soft-optimal expert, in a process of its own: planning keeps more than fitting."""
    import jax

    import optimality as ox

    problem, _, wanted = grid(size)
    expert = ox.solve(ox.with_reward(problem, wanted), ox.SoftValueIteration(temperature=1.0)).policy
    ox.Demonstrations.from_policy(problem, expert, 1000, jax.random.key(0)).save(path)


def whole_fit(size, path):
    """A fit of the action likelihood in this process, whose peak memory is reported."""
    import optimality as ox

    problem, features, wanted = grid(size)
    shown = ox.Demonstrations.load(path)
    method = ox.MaxEntIRL(l2=1e-6, tolerance=1e-4, hessian_limit=0)
    times, peaks = [], []
    for _ in range(2):
        start = time.process_time()
        found = ox.infer_reward(problem, shown, method, reward=ox.LinearReward(features), dtype=np.float32)
        times.append(time.process_time() - start)
        peaks.append(peak_memory())
    values = [reward.features @ np.asarray(reward.weights, np.float64) for reward in (found.reward, wanted)]
    return {
        "case": f"{size} x {size} grid, whole fit",
        "cpu_s": round(times[-1], 2),
        "first_call_s": round(times[0], 2),
        "evaluations": int(found.stats["evaluations"]),
        "gradient": float(f"{found.certificates['gradient_norm']:.2g}"),
        "correlation": round(float(np.corrcoef(*values)[0, 1]), 4),
        "peak_mb": round(peaks[0]),
    }


def peak_memory():
    """Megabytes that this process ever held; `ru_maxrss` would begin with its parent's."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(float(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 1024


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--imitation", help="interpreter of an environment with imitation 1.0.1")
    parser.add_argument("--demonstrate", nargs=2, help=argparse.SUPPRESS)
    parser.add_argument("--fit", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.demonstrate:
        return demonstrate(int(arguments.demonstrate[0]), arguments.demonstrate[1])
    if arguments.fit:
        print(json.dumps(whole_fit(int(arguments.fit[0]), arguments.fit[1])))
        return None
    import jax

    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True).stdout.strip()
    machine = f"{platform.machine()}, {platform.system()}, Python {platform.python_version()}, jax {jax.__version__}"
    about = {
        "benchmark": "inverse_exact",
        "commit": commit,
        "machine": machine,
        "nproc": os.environ.get("NPROC", ""),
    }
    with RESULTS.open("a") as file:
        for row in gradients(arguments.imitation):
            show(file, {**about, "kind": "gradient", **row})
        for size in (32, 300):
            with tempfile.TemporaryDirectory() as folder:
                path = str(Path(folder) / "demonstrations.npz")
                own_process("--demonstrate", size, path)
                show(file, {**about, "kind": "fit", **json.loads(own_process("--fit", size, path))})
    return None


def own_process(task, size, path):
    done = subprocess.run([sys.executable, __file__, task, str(size), path], capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{task} failed:\n{done.stderr}")
    return (done.stdout.strip().splitlines() or [""])[-1]


def show(file, row):
    file.write(json.dumps(row) + "\n")
    file.flush()
    left_out = ("benchmark", "commit", "machine", "nproc", "kind")
    print("  ".join(f"{name} {value}" for name, value in row.items() if name not in left_out), flush=True)


if __name__ == "__main__":
    main()
