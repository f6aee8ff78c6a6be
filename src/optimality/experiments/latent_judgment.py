"""Is a latent-variable model with networks worth it? Its bounds beside linear models, on the same held-out points."""

import dataclasses
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PRNGKeyArray

from optimality.core.numerics import at_precision, cast_floats, precision
from optimality.core.result import Result, SolverError
from optimality.core.solve import solve
from optimality.latent.autoencoder_details import MOST_POINTS, AutoencoderDetails
from optimality.latent.factor_analysis import FactorAnalysis
from optimality.latent.full_covariance import full_covariance_gaussian
from optimality.latent.linear_gaussian import LinearGaussianModel, ProbabilisticPCA
from optimality.problems.dataset import Dataset, Parts

FEW_SAMPLES = (10, 100)
"""Of the smaller importance-weighted bounds."""
MOST_FEATURES = 1000
"""Of data for which the linear models are fitted: their time grows with the cube."""
SIGNIFICANT = 2.0
"""Standard errors from which on a margin is told from none."""
NOTHING = 1e-3
"""Nats a point that are no difference to anybody."""
FULL = "full-covariance normal law"


class Bar(NamedTuple):
    """A mean over the points, in nats."""

    name: str
    mean: float
    standard_error: float
    kind: str
    """`bound`, of the model, or `linear`, exact."""


class Margin(NamedTuple):
    """The largest bound minus a linear model's log evidence, point by point; nats."""

    over: str
    mean: float
    standard_error: float
    like_for_like: bool
    """Whether it has the same number of latents and the same structure of variances."""

    @property
    def verdict(self) -> str:
        if not abs(self.mean) > max(SIGNIFICANT * self.standard_error, NOTHING):
            return "undecided"
        return "worth it" if self.mean > 0.0 else "not worth it"

    @property
    def sentence(self) -> str:
        words = {
            "worth it": "Worth it over",
            "not worth it": "Not worth it over",
            "undecided": "No clear difference to",
        }
        return f"{words[self.verdict]} {self._opponent}: {self._number}."

    @property
    def plain_sentence(self) -> str:
        """Without a verdict: of a model that is linear itself."""
        return f"Against {self._opponent}: {self._number}."

    @property
    def _opponent(self) -> str:
        return f"the {self.over}" if self.over == FULL else self.over

    @property
    def _number(self) -> str:
        error = f" (s.e. {self.standard_error:.2g})" if math.isfinite(self.standard_error) else ""
        return f"{self.mean:+.3g} nats a point{error}"


class LatentJudgment(NamedTuple):
    """What is compared."""

    points: int
    judged_on: str
    bars: list[Bar]
    margins: list[Margin]
    notes: list[str]
    """Why an opponent is missing."""


def judge_against_linear(
    problem: Dataset, method: Any, details: AutoencoderDetails, *, key: PRNGKeyArray
) -> LatentJudgment:
    """Bounds of the fitted autoencoder, and of linear models with as many latents and the same structure of variances:
    probabilistic PCA for one variance, factor analysis for one a feature, and both factor analysis and the
    full-covariance normal law for variances that depend on the latents. None for data that have no density.

    `method` is the autoencoder's recipe.
    """
    rows = judged_rows(problem, details)
    judged = details.judged
    values = {"bound (ELBO)": np.asarray(judged.bounds, np.float64)[: len(rows)]}
    inside = dataclasses.replace(details, levels=None)
    keys = jax.random.split(key, len(FEW_SAMPLES))
    for samples, own_key in zip(FEW_SAMPLES, keys, strict=True):
        if samples < details.bound_samples:
            found = inside.log_evidence(rows, samples, own_key)
            values[f"bound of {samples} samples"] = np.asarray(found.value, np.float64)
    last = f"bound of {details.bound_samples:,} samples"
    values[last] = np.asarray(judged.importance_bounds, np.float64)
    linear, notes = _linear_models(problem, method)
    evidences = {name: log_evidences(model, rows) for name, model in linear.items()}
    bars = [_bar(name, numbers, "bound") for name, numbers in values.items()]
    bars += [_bar(name, numbers, "linear") for name, numbers in evidences.items()]
    margins = []
    for name, numbers in evidences.items():
        difference = _bar(name, values[last] - numbers, "linear")
        margins.append(Margin(name, difference.mean, difference.standard_error, name != FULL))
    return LatentJudgment(len(rows), details.judged_on, bars, margins, notes)


def judge_linear(problem: Dataset, name: str, latents: int, model: LinearGaussianModel) -> LatentJudgment:
    """Exact log evidences of a linear model, and of the full-covariance normal law, which no linear model exceeds on
    the points of the fit, but well may on others."""
    parts = parts_of(problem, np.float64)
    tested = len(parts.test) > 0
    rows = parts.test if tested else parts.train
    own = log_evidences(model, rows)
    bars, margins, notes = [_bar(_titled(name, latents), own, "bound")], [], []
    if problem.features > MOST_FEATURES:
        notes.append(f"There is no {FULL} beside it: {problem.features:,} features are more than {MOST_FEATURES:,}.")
        return LatentJudgment(len(rows), "test" if tested else "train", bars, margins, notes)
    try:
        full = log_evidences(_fitted(FULL, problem, latents), rows)
        bars.append(_bar(FULL, full, "linear"))
        difference = _bar(FULL, np.round(own - full, 9), "linear")
        margins.append(Margin(FULL, difference.mean, difference.standard_error, False))
    except ValueError as error:
        notes.append(f"There is no {FULL} to compare with: {error}")
    return LatentJudgment(len(rows), "test" if tested else "train", bars, margins, notes)


def parts_of(problem: Dataset, dtype: Any = np.float32) -> Parts:
    """The parts as a fit in that precision sees them: noise differs between precisions."""
    with precision(dtype):
        return Parts(*(np.asarray(part) for part in cast_floats(problem, dtype).parts()))


def judged_rows(problem: Dataset, details: AutoencoderDetails) -> np.ndarray:
    """The points of the importance-weighted bounds, in units of the model."""
    parts = parts_of(problem, np.asarray(details.model.encoder.center).dtype)
    return (parts.test if details.judged_on == "test" else parts.train)[:MOST_POINTS]


def _bar(name: str, numbers: np.ndarray, kind: str) -> Bar:
    count = numbers.size
    error = float(np.std(numbers, ddof=1) / math.sqrt(count)) if count > 1 else math.nan
    return Bar(name, float(np.mean(numbers)), error, kind)


def _linear_models(problem: Dataset, method: Any) -> tuple[dict[str, Any], list[str]]:
    """By name; and why one is missing."""
    if problem.likelihood != "gaussian":
        return {}, [
            f"No linear model stands beside this one: {problem.likelihood} features have no density that a normal law "
            f"could be compared in."
        ]
    if problem.features > MOST_FEATURES:
        return {}, [f"No linear model was fitted: {problem.features:,} features are more than {MOST_FEATURES:,}."]
    latents = method.latents
    wanted: list[str] = []
    if latents < problem.features:
        wanted.append("probabilistic PCA" if method.variance in ("scalar", "fixed") else "factor analysis")
    if latents >= problem.features or method.variance == "head":
        wanted.append(FULL)
    found, notes = {}, []
    for name in wanted:
        title = FULL if name == FULL else _titled(name, latents)
        try:
            found[title] = _fitted(name, problem, latents)
        except (ValueError, SolverError) as error:
            notes.append(f"There is no {title} to compare with: {error}")
    if method.variance == "fixed" and found:
        notes.append("Probabilistic PCA fits its variance, which is fixed here: the comparison favors it.")
    if latents >= problem.features:
        notes.append(
            f"A linear model of {latents} latents for {problem.features} features is the full-covariance normal law."
        )
    return found, notes


def _titled(name: str, latents: int) -> str:
    return f"{name} with {latents} latent{'s' if latents > 1 else ''}"


def _fitted(name: str, problem: Dataset, latents: int) -> Any:
    if name == FULL:
        return full_covariance_gaussian(problem).law
    method = ProbabilisticPCA(latents=latents) if name == "probabilistic PCA" else FactorAnalysis(latents=latents)
    try:
        return solve(problem, method).details.model
    except SolverError as error:
        if error.result is Result.ITERATION_LIMIT:
            return error.solution.details.model
        raise


def log_evidences(model: Any, rows: np.ndarray) -> np.ndarray:
    """Of each row, by a linear-Gaussian model or a normal law; float64."""
    return np.asarray(at_precision(_mapped_log_evidence, model, np.asarray(rows, np.float64)))


@jax.jit
def _mapped_log_evidence(model: Any, rows: Any) -> Any:
    one = model.log_evidence if isinstance(model, LinearGaussianModel) else lambda x: jnp.asarray(model.log_prob(x))
    return jax.vmap(one)(rows)
