"""Exact maximum-entropy inverse RL: its gradient and a whole fit, against SciPy and against the memory floor.

    NPROC=1 taskset -c 1 uv run python benchmarks/inverse_exact.py    # appends to results/inverse_exact.jsonl

The work: the gradient of the log-partition in 20 weights of a linear reward, horizon 50, 4 actions, 4 random successors
a pair or a dense array, float32. The peer is what a careful NumPy user writes: one SciPy CSR product a step, log-domain
values, then the visits by the transposed matrix, in float32 too and, as it is usually written, in float64; its reward
is of the state alone. The floor of the dense form is the time to read its array once a step and direction. Beside the
gradient, which is autodiff, stands the forward pass written out, with its backward pass and all visits kept. CPU
milliseconds, the least of several bursts; compilation is apart.
"""

import json
import platform
import subprocess
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import scipy.sparse

import optimality as ox
from optimality.core.numerics import cast_floats
from optimality.inverse.maxent_objective import Evidence, Numbers, Settings, value_and_gradient
from optimality.planning.log_partition import model_visits
from optimality.problems.outcomes import Outcomes

HORIZON, ACTIONS, SUCCESSORS, FEATURES = 50, 4, 4, 20
RESULTS = Path(__file__).parent / "results" / "inverse_exact.jsonl"


def best(function, bursts=6, seconds=0.15):
    """Least CPU milliseconds a call over bursts."""
    function()
    start = time.process_time()
    function()
    calls = max(1, int(seconds / max(time.process_time() - start, 1e-5)))
    times = []
    for _ in range(bursts):
        start = time.process_time()
        for _ in range(calls):
            function()
        times.append((time.process_time() - start) / calls)
    return 1e3 * min(times)


def made(states, form):
    random = np.random.default_rng(0)
    pairs = states * ACTIONS
    state, action = np.repeat(np.arange(states), ACTIONS), np.tile(np.arange(ACTIONS), states)
    columns = [np.repeat(state, SUCCESSORS), np.repeat(action, SUCCESSORS)]
    successor = random.integers(0, states, pairs * SUCCESSORS)
    chance = random.dirichlet(np.ones(SUCCESSORS), pairs).reshape(-1)
    nothing = np.zeros(pairs * SUCCESSORS)
    outcomes = Outcomes(*columns, successor, chance, nothing, nothing.astype(bool))
    mdp = ox.TabularMDP.from_outcomes(
        outcomes, criterion=ox.FiniteHorizon(HORIZON), states=states, actions=ACTIONS, form=form
    )
    features, weights = random.normal(size=(states, FEATURES)), random.normal(size=FEATURES)
    matrix = scipy.sparse.csr_matrix((chance, (columns[1] * states + columns[0], successor)), (pairs, states))
    return mdp, features, weights, matrix.astype(np.float32)


def scipy_gradient(matrix, transposed, features, weights, initial, expert):
    states = features.shape[0]
    reward = features @ weights
    values, policies = np.zeros(states, initial.dtype), np.empty((HORIZON, ACTIONS, states), initial.dtype)
    for step in range(HORIZON - 1, -1, -1):
        q = (matrix @ values).reshape(ACTIONS, states)
        top = q.max(axis=0)
        p = policies[step]
        np.subtract(q, top, out=p)
        np.exp(p, out=p)
        total = p.sum(axis=0)
        p /= total
        values = np.log(total) + top + reward
    mass, visits = initial, np.zeros(states, initial.dtype)
    for step in range(HORIZON):
        visits += mass
        mass = transposed @ (policies[step] * mass).reshape(-1)
    return initial @ values, visits @ features - expert


def ours(mdp, features, weights):
    mdp = jax.tree.map(jnp.asarray, cast_floats(mdp, np.float32))
    reward = cast_floats(ox.LinearReward(features, weights), np.float32)
    keep = reward.parameters()
    parameters = jax.tree.map(lambda leaf, kept: leaf if kept else None, reward, keep)
    rest = jax.tree.map(lambda leaf, kept: None if kept else leaf, reward, keep)
    data = Evidence(jnp.zeros(mdp.shape, np.float32), None, None, jnp.asarray(mdp.initial), None)
    numbers = cast_floats(Numbers(1.0, 0.0, 1e-12), np.float32)
    settings = Settings("matching", False, "none", 1000)
    explicit = jax.jit(lambda m: model_visits(m, 1.0, m.initial, True, "none", 1e-12, 1000)[1].sum(axis=0))
    paying = ox.with_reward(ox.with_reward(mdp, ox.LinearReward(features, weights)), ox.LinearReward(features, weights))
    paying = jax.tree.map(jnp.asarray, cast_floats(paying, np.float32))
    start = time.process_time()
    call = lambda: jax.block_until_ready(value_and_gradient(parameters, rest, mdp, data, numbers, None, settings))  # noqa: E731
    call()
    compilation = time.process_time() - start
    return call, (lambda: jax.block_until_ready(explicit(paying))), compilation


def measure(states, form):
    mdp, features, weights, matrix = made(states, form)
    call, explicit, compilation = ours(mdp, features, weights)
    f32 = [np.asarray(a, np.float32) for a in (features, weights, mdp.initial)]
    transposed = matrix.T.tocsr()
    peer = lambda: scipy_gradient(matrix, transposed, *f32, np.zeros(FEATURES, np.float32))  # noqa: E731
    (value, _), gradient = call()
    expected = peer()
    np.testing.assert_allclose(gradient.weights, expected[1], rtol=2e-3, atol=2e-3)
    np.testing.assert_allclose(value, expected[0], rtol=1e-4)
    row = {
        "states": states,
        "form": form,
        "dtype": "float32",
        "ours_ms": best(call),
        "explicit_pass_ms": best(explicit),
    }
    row |= {"scipy_ms": best(peer), "compile_s": round(compilation, 2)}
    doubles = [a.astype(np.float64) for a in f32]
    wide, back = matrix.astype(np.float64), transposed.astype(np.float64)
    row["scipy_float64_ms"] = best(lambda: scipy_gradient(wide, back, *doubles, np.zeros(FEATURES)))
    if form == "dense":
        array = np.asarray(mdp.model.probability, np.float32).reshape(-1, states)
        vector = np.ones(states, np.float32)
        row["floor_ms"] = 2 * HORIZON * best(lambda: array @ vector)
    return row


def whole_fit(size=32):
    """A grid of size x size, features one a state block of 2 x 2, demonstrated exactly."""
    mdp = ox.gridworld(
        "/".join(["S" + "." * (size - 1)] + ["." * size] * (size - 1)), criterion=ox.FiniteHorizon(HORIZON)
    )
    blocks = np.add.outer(np.arange(size) // 4 * (size // 4), np.arange(size) // 4).reshape(-1)
    features = np.eye(blocks.max() + 1)[blocks]
    weights = np.random.default_rng(0).normal(size=features.shape[1])
    true = ox.with_reward(mdp, ox.LinearReward(features, weights))
    policy = ox.solve(true, ox.SoftValueIteration(temperature=1.0)).policy
    visits = ox.DemonstratedVisits.of_policy(mdp, policy)
    method = ox.MaxEntIRL(objective="matching", hessian_limit=0, tolerance=1e-5)

    def run():
        return ox.infer_reward(mdp, visits, method, reward=ox.LinearReward(features), dtype=np.float32)

    run()
    start = time.process_time()
    found = run()
    return {
        "fit": f"{size}x{size}",
        "cpu_s": round(time.process_time() - start, 3),
        "evaluations": found.stats["evaluations"],
        "feature_residual": found.certificates["feature_residual"],
    }


def main():
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=True).stdout
    about = {"commit": commit.strip(), "jax": jax.__version__, "numpy": np.__version__, "cpu": platform.machine()}
    work = [lambda s=s, f=f: measure(s, f) for f in ("successors", "dense") for s in (100, 400, 1600)]
    with RESULTS.open("a", encoding="utf-8") as file:
        for row in (each() for each in (whole_fit, *work)):
            rounded = {k: round(v, 4) if isinstance(v, float) else v for k, v in row.items()}
            print(rounded, flush=True)
            file.write(json.dumps({**about, **rounded}) + "\n")


if __name__ == "__main__":
    main()
