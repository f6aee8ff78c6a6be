"""The report of a latent-variable model: its figures and its page."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import scipy.special
from matplotlib.figure import Figure

from optimality.core.numerics import at_precision
from optimality.experiments.latent_fit import LatentRun
from optimality.experiments.latent_judgment import parts_of
from optimality.experiments.latent_pictures import (
    plot_density,
    plot_loading,
    plot_reconstructions,
    plot_samples,
    plot_walk,
)
from optimality.experiments.latent_plots import (
    plot_bounds,
    plot_collapse,
    plot_deviations,
    plot_effective_samples,
    plot_history,
    plot_rates,
)
from optimality.experiments.latent_sentences import model_eigenvalues, own_deviation
from optimality.experiments.report import render
from optimality.experiments.run_folder import RunFolder
from optimality.latent.autoencoder_details import AutoencoderDetails

SAMPLES = 2000
"""New observations that are drawn for the figures."""
DENSITY_DRAWS = 20_000
"""Of the prior, for a density in the plane."""
_GRID_AT_ONCE = 200


def write_latent_report(run: LatentRun, folder: RunFolder) -> None:
    """Writes `report.html`, and each figure under `plots/`."""
    summary = run.summary()
    title = f"{summary['problem']} by {summary['method']}"
    folder.write_text("report.html", render("latent.html.jinja", title, summary, latent_figures(run), folder))


def latent_figures(run: LatentRun) -> dict[str, Figure]:
    """Caption to figure, in the report's order."""
    figures = {"Bounds": plot_bounds(run.judgment.bars)}
    figures |= _of_linear(run) if run.is_linear else _of_numbers(run)
    return figures | _of_data(run)


def _of_linear(run: LatentRun) -> dict[str, Figure]:
    problem, details = run.read.problem, run.solution.details
    units = problem.levels or 1
    noise = np.sqrt(np.asarray(details.model.noise_variance)) * units
    return {
        "Loadings": plot_loading(np.asarray(details.model.loading) * units, run.read.picture, problem.names),
        "Noise": plot_deviations(noise, problem.names, problem.image_shape),
    }


def _of_numbers(run: LatentRun) -> dict[str, Figure]:
    problem, details = run.read.problem, run.solution.details
    judged = details.judged
    figures = {"Rate of each latent": plot_rates(np.asarray(judged.rates))}
    eigenvalues, own = model_eigenvalues(run), own_deviation(run)
    if eigenvalues is not None and own is not None:
        figures["Collapse"] = plot_collapse(eigenvalues, run.method.latents, own)
    if details.bound_samples > 1:
        figures["Effective samples"] = plot_effective_samples(judged.effective_sample_sizes, details.bound_samples)
    history = np.asarray([[row["train_bound"], row["validation_bound"]] for row in run.passes])
    nats_a_bit = problem.features * np.log(2.0)
    axis = (
        lambda nats: (problem.log_levels - nats) / nats_a_bit,
        lambda bits: problem.log_levels - bits * nats_a_bit,
    )
    figures["The fit"] = plot_history(history, int(np.asarray(details.best_step)), run.bound, bits=axis)
    if judged.deviations is not None and run.method.variance not in ("scalar", "fixed"):
        deviations = np.asarray(judged.deviations) * (problem.levels or 1)
        figures["Deviations of the decoder"] = plot_deviations(deviations, problem.names, problem.image_shape)
    return figures


def _of_data(run: LatentRun) -> dict[str, Figure]:
    """Pictures in the data's own units."""
    problem, model, shape = run.read.problem, run.model, run.read.picture
    parts = parts_of(problem)
    rows = np.asarray(parts.test if run.judgment.judged_on == "test" else parts.train, np.float64)[:2000]
    if problem.levels is not None:
        rows = np.floor(rows * problem.levels)
    samples = np.asarray(model.sample(jax.random.key(run.seed), SAMPLES), np.float64)
    figures = {}
    density = _density_of(run)
    if density is not None:
        figures["Density"] = plot_density(density, rows, samples, problem.names)
    else:
        figures["Samples"] = plot_samples(rows, samples, shape, problem.names)
    decoded = _means(model.decode(np.asarray(model.encode(rows).location)))
    caption = "Reconstructions" if shape is not None else "Reconstruction of each feature"
    figures[caption] = plot_reconstructions(rows, decoded, shape, problem.names)
    if not run.is_linear:
        rates = np.asarray(run.solution.details.rates)
        decode = lambda z: _means(model.decode(z))  # noqa: E731
        figures["A walk through the latents"] = plot_walk(decode, run.method.latents, rates, shape, rows, problem.names)
    return figures


def _means(decoded: np.ndarray) -> np.ndarray:
    """Of choices, the mean category."""
    decoded = np.asarray(decoded, np.float64)
    return decoded if decoded.ndim == 2 else decoded @ np.arange(decoded.shape[-1], dtype=np.float64)


def _density_of(run: LatentRun) -> Any:
    """From points in the plane to log densities, by draws of the prior; None where there is no plane."""
    problem = run.read.problem
    if problem.features != 2 or problem.likelihood != "gaussian" or problem.levels is not None:
        return None
    if not isinstance(run.model, AutoencoderDetails):
        return run.model.log_evidence
    z = jax.random.normal(jax.random.key(run.seed), (DENSITY_DRAWS, run.method.latents))
    location, scale = at_precision(_laws, run.model.model, z, dtype=np.float32)

    def log_density(grid: np.ndarray) -> np.ndarray:
        chunks = [grid[start : start + _GRID_AT_ONCE] for start in range(0, len(grid), _GRID_AT_ONCE)]
        return np.concatenate([_log_mean(chunk.astype(np.float32), location, scale) for chunk in chunks])

    return log_density


@jax.jit
def _laws(model: Any, z: Any) -> Any:
    laws = jax.vmap(model.decode)(z)
    return laws.location, laws.scale * jnp.ones_like(laws.location)


def _log_mean(x: np.ndarray, location: np.ndarray, scale: np.ndarray) -> np.ndarray:
    terms = np.zeros((len(x), len(location)), np.float32)
    for feature in range(2):
        error = (x[:, None, feature] - location[None, :, feature]) / scale[None, :, feature]
        terms -= 0.5 * error * error + np.log(scale[None, :, feature]) + np.float32(0.5 * np.log(2.0 * np.pi))
    return scipy.special.logsumexp(terms, axis=1) - np.log(len(location))
