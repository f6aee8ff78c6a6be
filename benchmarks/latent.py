"""Autoencoders: milliseconds a pass against numpyro and PyTorch, and nats over the exact linear models.

    NPROC=1 taskset -c 1 uv run python benchmarks/latent.py --torch PYTHON_WITH_TORCH
    NPROC=1 taskset -c 1 uv run python benchmarks/latent.py --quality

prints, and writes its part of benchmarks/results/latent.jsonl. `--torch` names an interpreter, say that of

    uv venv PLACE && uv pip install --python PLACE numpy torch --torch-backend cpu

Speed: CPU milliseconds of one core for a pass of 10 updates, 64-256-256-8 and back, batches of 128, one variance, least
of several bursts, compilation apart, ours and the peers' one after the other. The floor is the same arithmetic written
out, with plain arrays and optax.

Quality: on points that no fit saw. Digits: nats an image above the exact linear model with as many latents and the same
structure of variances, three seeds of the fit. Ring: eight normal laws in the plane, three seeds; the truth's own mean
log density is -1.114.
"""

import argparse
import json
import platform
import subprocess
import tempfile
import time
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import optax
from numpyro.infer import SVI, TraceMeanField_ELBO

import optimality as ox
from optimality.core.numerics import cast_floats
from optimality.core.solve import _init_fit, _step_fit
from optimality.problems.sample_datasets import digits, ring, ring_centers

HERE = Path(__file__).parent
RESULTS = HERE / "results" / "latent.jsonl"
BURSTS, PASSES, POINTS, LATENTS = 8, 30, 1280, 8
SEEDS = (0, 1, 2)


def cpu(function):
    start = time.process_time()
    answer = jax.block_until_ready(function())
    return time.process_time() - start, answer


def layers(sizes):
    """An initializer and a function, as numpyro wants a network."""

    def init(key, input_shape):
        keys = jax.random.split(key, len(sizes) - 1)
        pairs = zip(keys, sizes[:-1], sizes[1:], strict=True)
        return sizes[-1:], [(jax.random.normal(k, (a, b)) * (2 / a) ** 0.5, jnp.zeros(b)) for k, a, b in pairs]

    def apply(parameters, x):
        for weight, bias in parameters[:-1]:
            x = jax.nn.gelu(x @ weight + bias)
        weight, bias = parameters[-1]
        return x @ weight + bias

    return init, apply


def floor(x):
    """A compiled pass of the bare arithmetic, and its first state."""
    _, encoder = layers((64, 256, 256, 2 * LATENTS))[0](jax.random.key(0), (64,))
    _, decoder = layers((LATENTS, 256, 256, 64))[0](jax.random.key(1), (LATENTS,))
    apply = layers(())[1]
    optimizer = optax.adamw(1e-3, weight_decay=1e-2)

    def loss(parameters, batch, noise):
        mean, log_deviation = jnp.split(apply(parameters[0], batch), 2, axis=-1)
        error = (batch - apply(parameters[1], mean + jnp.exp(log_deviation) * noise)) * jnp.exp(-parameters[2])
        rate = 0.5 * (mean**2 + jnp.exp(2 * log_deviation) - 1) - log_deviation
        return jnp.mean(rate.sum(1) + (0.5 * error**2 + parameters[2]).sum(1))

    @partial(jax.jit, donate_argnums=0)
    def one_pass(state, key):
        order_key, noise_key = jax.random.split(key)
        order = jax.random.permutation(order_key, POINTS).reshape(-1, 128)
        noise = jax.random.normal(noise_key, (*order.shape, LATENTS))

        def update(carry, inputs):
            parameters, moments = carry
            value, gradient = jax.value_and_grad(loss)(parameters, x[inputs[0]], inputs[1])
            updates, moments = optimizer.update(gradient, moments, parameters)
            return (optax.apply_updates(parameters, updates), moments), value

        return jax.lax.scan(update, state, (order, noise))

    parameters = encoder, decoder, jnp.zeros(())
    return one_pass, (parameters, optimizer.init(parameters))


def numpyro_model(x):
    decoder = numpyro.module("decoder", layers((LATENTS, 256, 256, 64)), (LATENTS,))
    log_scale = numpyro.param("log_scale", jnp.zeros(()))
    with numpyro.plate("batch", x.shape[0]):
        z = numpyro.sample("z", dist.Normal(jnp.zeros(LATENTS), 1.0).to_event(1))
        numpyro.sample("x", dist.Normal(decoder(z), jnp.exp(log_scale)).to_event(1), obs=x)


def numpyro_guide(x):
    encoder = numpyro.module("encoder", layers((64, 256, 256, 2 * LATENTS)), (64,))
    mean, log_scale = jnp.split(encoder(x), 2, axis=-1)
    with numpyro.plate("batch", x.shape[0]):
        numpyro.sample("z", dist.Normal(mean, jnp.exp(log_scale)).to_event(1))


def speed(python):
    x = np.asarray(digits(test_share=0.0, validation_share=0.0).parts().train, np.float32)[:POINTS]
    x = np.random.default_rng(0).permutation(x)
    problem = ox.Dataset(x, validation_share=0.0, test_share=0.0)
    method = ox.VariationalAutoencoder(latents=LATENTS, max_steps=2000)
    problem, method = cast_floats((problem, method), np.float32)
    start = time.perf_counter()
    state = _init_fit(problem, method, None, jax.random.key(0))
    state, _, _ = jax.block_until_ready(_step_fit(problem, method, state))
    first_call = time.perf_counter() - start

    def ours(state):
        for _ in range(PASSES):
            state, code, _ = _step_fit(problem, method, state)
            int(code)
        return state

    svi = SVI(numpyro_model, numpyro_guide, optax.adamw(1e-3, weight_decay=1e-2), TraceMeanField_ELBO())
    data = jnp.asarray(x)

    @partial(jax.jit, donate_argnums=0)
    def one_pass(svi_state, key):
        order = jax.random.permutation(key, POINTS).reshape(-1, 128)
        return jax.lax.scan(lambda s, rows: svi.update(s, data[rows]), svi_state, order)

    def passes(one_pass, state):
        for key in jax.random.split(jax.random.key(1), PASSES):
            state, loss = one_pass(state, key)
            jax.block_until_ready(loss)
        return state

    svi_state = passes(one_pass, svi.init(jax.random.key(0), data[:128]))
    bare_pass, bare_state = floor(data)
    start = time.perf_counter()
    bare_state, _ = jax.block_until_ready(bare_pass(bare_state, jax.random.key(0)))
    bare_first = time.perf_counter() - start
    own_s, peer_s, bare_s = [], [], []
    for _ in range(BURSTS):
        seconds, state = cpu(partial(ours, state))
        own_s.append(seconds)
        seconds, svi_state = cpu(partial(passes, one_pass, svi_state))
        peer_s.append(seconds)
        seconds, bare_state = cpu(partial(passes, bare_pass, bare_state))
        bare_s.append(seconds)
    record = {
        "measurement": "speed",
        "cpu_ms_a_pass": round(1e3 * min(own_s) / PASSES, 2),
        "numpyro_cpu_ms": round(1e3 * min(peer_s) / PASSES, 2),
        "floor_cpu_ms": round(1e3 * min(bare_s) / PASSES, 2),
        "first_call_s": round(first_call, 2),
        "first_call_of_the_floor_s": round(bare_first, 2),
        "bound_after": round(float(state.bounds[0]), 2),
    }
    record["times_floor"] = round(record["cpu_ms_a_pass"] / record["floor_cpu_ms"], 2)
    record["times_numpyro"] = round(record["numpyro_cpu_ms"] / record["cpu_ms_a_pass"], 2)
    if python:
        with tempfile.NamedTemporaryFile(suffix=".npy") as file:
            np.save(file.name, x)
            command = [python, str(HERE / "latent_torch.py"), file.name, str(BURSTS), str(PASSES)]
            done = subprocess.run(command, capture_output=True, text=True, check=True)
        record["torch_cpu_ms"] = round(float(done.stdout), 2)
        record["times_torch"] = round(record["torch_cpu_ms"] / record["cpu_ms_a_pass"], 2)
    yield record


def interval(values):
    """Mean and half a 95 % interval over seeds, by Student's law."""
    half = {2: 12.706, 3: 4.303, 4: 3.182, 5: 2.776}[len(values)] * np.std(values, ddof=1) / len(values) ** 0.5
    return round(float(np.mean(values)), 2), round(float(half), 2)


def opponents(problem, variance):
    """Exact log likelihood of each linear law on the test points, mean."""
    test = np.asarray(problem.parts().test)
    if variance == "scalar":
        model = ox.solve(problem, ox.ProbabilisticPCA(latents=min(LATENTS, problem.features - 1))).details.model
        return {"probabilistic_pca": float(np.mean(jax.vmap(model.log_evidence)(test)))}
    model = ox.solve(problem, ox.FactorAnalysis(latents=min(LATENTS, problem.features - 1))).details.model
    found = {"factor_analysis": float(np.mean(jax.vmap(model.log_evidence)(test)))}
    if variance == "head":
        found["full_covariance"] = float(ox.full_covariance_gaussian(problem).test_log_likelihood)
    return found


def fitted(problem, method, seed):
    seconds, solution = cpu(lambda: ox.solve(problem, method, key=jax.random.key(seed)))
    return seconds, solution


def images():
    problem = digits()
    for variance in ("scalar", "feature", "head"):
        method = ox.VariationalAutoencoder(latents=LATENTS, variance=variance)
        runs = [fitted(problem, method, seed) for seed in SEEDS]
        bounds = [float(solution.value) for _, solution in runs]
        judged = [solution.details.judged for _, solution in runs]
        linear = opponents(problem, variance)
        margins = {name: interval([bound - number for bound in bounds]) for name, number in linear.items()}
        yield {
            "measurement": "digits",
            "variance": variance,
            "seeds": len(SEEDS),
            "elbo": interval(bounds),
            "importance_weighted_2000": interval([float(np.mean(j.importance_bounds)) for j in judged]),
            "median_effective_sample_size": round(
                float(np.median([np.median(j.effective_sample_sizes) for j in judged])), 1
            ),
            "latents_in_use": [solution.details.in_use for _, solution in runs],
            "best_pass": [int(solution.details.best_step) for _, solution in runs],
            "linear": {name: round(number, 2) for name, number in linear.items()},
            "margin": margins,
            "cpu_s_a_fit": round(float(np.mean([seconds for seconds, _ in runs])), 1),
        }


def plane():
    problem, centers = ring(), ring_centers()
    network = ox.MLP(hidden=(128, 128), activation="gelu")
    full = float(ox.full_covariance_gaussian(problem).test_log_likelihood)
    for variance in ("scalar", "head"):
        method = ox.VariationalAutoencoder(latents=2, variance=variance, encoder=network, decoder=network)
        bounds, importance, masses, near, seconds = [], [], [], [], []
        for seed in SEEDS:
            spent, solution = fitted(problem, method, seed)
            samples = solution.details.sample(jax.random.key(seed), 20_000)
            distance = np.linalg.norm(samples[:, None] - centers, axis=-1)
            masses.append(np.bincount(distance.argmin(1), minlength=8) / len(samples))
            near.append(float(np.mean(distance.min(1) < 3 * 0.15)))
            bounds.append(float(solution.value))
            importance.append(float(np.mean(solution.details.judged.importance_bounds)))
            seconds.append(spent)
        yield {
            "measurement": "ring",
            "variance": variance,
            "seeds": len(SEEDS),
            "elbo": interval(bounds),
            "importance_weighted_2000": interval(importance),
            "full_covariance": round(full, 3),
            "margin": interval([bound - full for bound in bounds]),
            "truth": -1.114,
            "least_and_largest_mode_mass": [round(float(np.min(masses)), 3), round(float(np.max(masses)), 3)],
            "share_within_3_deviations": [round(share, 3) for share in near],
            "cpu_s_a_fit": round(float(np.mean(seconds)), 1),
        }


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--torch", help="interpreter of an environment with PyTorch")
    parser.add_argument("--quality", action="store_true", help="instead of the speed")
    arguments = parser.parse_args()
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True).stdout.strip()
    machine = f"{platform.machine()}, {platform.system()}, Python {platform.python_version()}, jax {jax.__version__}"
    kinds = {"digits", "ring"} if arguments.quality else {"speed"}
    kept = [json.loads(line) for line in RESULTS.read_text().splitlines()] if RESULTS.exists() else []
    kept = [record for record in kept if record["measurement"] not in kinds]
    work = (*images(), *plane()) if arguments.quality else speed(arguments.torch)
    for record in work:
        print("  ".join(f"{name} {value}" for name, value in record.items()), flush=True)
        kept.append({"benchmark": "latent", "commit": commit, "machine": machine, **record})
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text("".join(json.dumps(record) + "\n" for record in kept))


if __name__ == "__main__":
    main()
