"""Fit a latent-variable model to data, and judge it on points that it has not seen."""

import math
import re
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import PRNGKeyArray

from optimality.core.result import Result
from optimality.core.solve import AbstractFit, FitProgress, Solution, solve
from optimality.experiments.compile_clock import CompileClock
from optimality.experiments.configuration import kind_of
from optimality.experiments.latent_data import ReadData
from optimality.experiments.latent_judgment import (
    LatentJudgment,
    judge_against_linear,
    judge_linear,
    judged_rows,
    log_evidences,
    parts_of,
)
from optimality.experiments.latent_sentences import collapse_rows, collapse_sentence, warnings_of
from optimality.experiments.measured import stopwatch
from optimality.experiments.run_folder import RunFolder
from optimality.experiments.saved_latent_model import FittedModel, fitted_model
from optimality.latent.amortization import amortization_gap
from optimality.latent.autoencoder_details import AutoencoderDetails

GAP_POINTS = 100
"""Held-out points whose posteriors are refined one by one."""
_ROWS_AT_ONCE = 20
"""Passes after which their metrics are written."""


class Pass(NamedTuple):
    """A pass of a fit, as a callback sees it."""

    step: int
    max_steps: int
    train_bound: float
    held_out_bound: float
    """NaN without validation points."""
    best_step: int
    bits: float
    """A dimension, of the held-out bound; of the other without it."""
    compile_seconds: float


class Gap(NamedTuple):
    """What the encoder loses against a posterior fitted to each point by itself, in nats a point."""

    mean: float
    standard_error: float
    points: int
    encoder_bound: float


class LatentRun(NamedTuple):
    """Everything that the report shows."""

    read: ReadData
    method: Any
    seed: int
    solution: Solution
    model: FittedModel
    judgment: LatentJudgment
    passes: list[dict[str, float]]
    gap: Gap | None
    """None of exact posteriors."""
    seconds: dict[str, float]

    @property
    def is_linear(self) -> bool:
        return not isinstance(self.solution.details, AutoencoderDetails)

    @property
    def bound(self) -> float:
        """Nats a point, on the points that it is judged on; of a linear model its log evidence."""
        return self.judgment.bars[0].mean if self.is_linear else float(np.asarray(self.solution.value))

    def bits(self, nats: float) -> float:
        return bits_a_dimension(self.read, nats)

    def verdict(self) -> list[str]:
        """Over each linear model, in a sentence; why there is none."""
        margins = self.judgment.margins
        if not margins:
            return self.judgment.notes[:1]
        if self.is_linear:
            return [margin.plain_sentence for margin in margins]
        sentences = [margin.sentence for margin in margins]
        if Result.of(self.solution.result) is not Result.ITERATION_LIMIT:
            return sentences
        return [f"So far, with the fit not at its end: {sentence[0].lower()}{sentence[1:]}" for sentence in sentences]

    def summary(self) -> dict[str, Any]:
        """The numbers, for `run.json` and `--json`."""
        problem, judgment = self.read.problem, self.judgment
        train, validation, test = (int(np.shape(part)[0]) for part in parts_of(problem))
        about = {
            "problem": self.read.data.name,
            "source": self.read.data.source,
            "method": kind_of(type(self.method)),
            "result": Result.of(self.solution.result).name.lower(),
            "seed": self.seed,
            "points": {"fit": train, "validation": validation, "test": test},
            "features": problem.features,
            "likelihood": problem.likelihood,
            "levels": problem.levels,
            "latents": self.method.latents,
            "judged_on": judgment.judged_on,
            "bound": self.bound,
            "bits": self.bits(self.bound),
            "log_levels": problem.log_levels,
            "bars": [bar._asdict() for bar in judgment.bars],
            "compared_points": judgment.points,
            "margins": [{**margin._asdict(), "verdict": margin.verdict} for margin in judgment.margins],
            "verdict": self.verdict(),
            "amortization_gap": None,
            "collapse_sentence": None,
            "warnings": warnings_of(self),
            "notes": judgment.notes if judgment.margins else judgment.notes[1:],
            "seconds": self.seconds,
        }
        return {**about, **(self._of_linear() if self.is_linear else self._of_autoencoder())}

    def _of_linear(self) -> dict[str, Any]:
        model: Any = self.solution.details.model
        noise = np.sqrt(np.asarray(model.noise_variance)) * (self.read.problem.levels or 1)
        parts = parts_of(self.read.problem, np.float64)._asdict()
        return {
            "evidence": {
                name: float(np.mean(log_evidences(model, rows))) if len(rows) else None for name, rows in parts.items()
            },
            "steps": int(np.asarray(self.solution.stats.get("steps", 0))),
            "deviation": _spread(noise),
        }

    def _of_autoencoder(self) -> dict[str, Any]:
        details, problem = self.solution.details, self.read.problem
        judged = details.judged
        sizes = np.asarray(judged.effective_sample_sizes)
        own = None if judged.deviations is None else np.asarray(judged.deviations) * (problem.levels or 1)
        return {
            "variance": self.method.variance if problem.likelihood == "gaussian" else None,
            "passes": len(self.passes),
            "best_pass": int(np.asarray(details.best_step)),
            "rates": np.asarray(judged.rates, np.float64).tolist(),
            "rate": float(np.sum(judged.rates)),
            "in_use": details.in_use,
            "bound_samples": details.bound_samples,
            "effective_samples": {
                "median": float(np.median(sizes)),
                "least": float(np.min(sizes)),
                "below_10": float(np.mean(sizes < 10.0)),
                "largest_weight": float(np.max(judged.largest_weights)),
            },
            "deviation": None if own is None else _spread(own),
            "collapse": collapse_rows(self),
            "collapse_sentence": collapse_sentence(self),
            "amortization_gap": None if self.gap is None else self.gap._asdict(),
        }


def bits_a_dimension(read: ReadData, nats: float) -> float:
    """Of a bound in nats a point: `-(bound - log levels) / (features log 2)`."""
    return -(nats - read.problem.log_levels) / (read.problem.features * math.log(2.0))


def fit_and_judge(
    read: ReadData, method: Any, seed: int, folder: RunFolder | None, callback: Callable[[Pass], None] | None
) -> LatentRun:
    """Everything but the writing; metrics of the passes go into the folder, if there is one, as they are made."""
    seconds: dict[str, float] = {}
    latents: int = method.latents
    fit_key, judge_key, gap_key = jax.random.split(jax.random.key(seed), 3)
    passes = _Passes(read, folder, callback)
    with passes.clock:
        if isinstance(method, AbstractFit):
            try:
                solution = stopwatch(
                    seconds, "fit", lambda: solve(read.problem, method, key=fit_key, callback=passes.add)
                )
            finally:
                passes.flush()
        else:
            solution = stopwatch(seconds, "fit", lambda: solve(read.problem, method))
        fitted = isinstance(solution.details, AutoencoderDetails)
        judgment: LatentJudgment = stopwatch(
            seconds,
            "judge",
            lambda: (
                judge_against_linear(read.problem, method, solution.details, key=judge_key)
                if fitted
                else judge_linear(read.problem, _named(method), latents, solution.details.model)
            ),
        )
        gap = None
        if fitted:
            gap = stopwatch(seconds, "amortization gap", lambda: _amortization(read, solution.details, gap_key))
    seconds["compiling"] = round(passes.clock.seconds, 3)
    model = fitted_model(solution.details, read.problem)
    return LatentRun(read, method, seed, solution, model, judgment, passes.rows, gap, seconds)


class _Passes:
    """Gathers what each pass says, writes it down now and then, and hands it on."""

    def __init__(self, read: ReadData, folder: RunFolder | None, callback: Callable[[Pass], None] | None):
        self.rows: list[dict[str, float]] = []
        self.clock = CompileClock()
        self._read, self._folder, self._callback, self._written = read, folder, callback, 0

    def add(self, progress: FitProgress) -> None:
        """A callback of `solve`."""
        numbers = progress.numbers
        train, held_out = numbers["train_bound"], numbers["validation_bound"]
        bits = bits_a_dimension(self._read, held_out if math.isfinite(held_out) else train)
        best = int(numbers["best_step"])
        self.rows.append(
            {
                "pass": progress.step,
                "train_bound": train,
                "validation_bound": held_out,
                "bits": bits,
                "best_pass": best,
            }
        )
        if len(self.rows) - self._written >= _ROWS_AT_ONCE:
            self.flush()
        if self._callback is not None:
            seen = Pass(progress.step, progress.max_steps, train, held_out, best, bits, self.clock.seconds)
            self._callback(seen)

    def flush(self) -> None:
        if self._folder is not None and self.rows[self._written :]:
            self._folder.metrics(self.rows[self._written :])
            self._written = len(self.rows)


def _spread(deviations: np.ndarray) -> dict[str, float]:
    return {
        "mean": float(np.sqrt(np.mean(np.square(deviations, dtype=np.float64)))),
        "least": float(np.min(deviations)),
        "most": float(np.max(deviations)),
    }


def _named(method: Any) -> str:
    """`ProbabilisticPCA` is `probabilistic PCA`."""
    words = re.findall(r"[A-Z]{2,}|[A-Z][a-z]+", type(method).__name__)
    return " ".join(word if word.isupper() else word.lower() for word in words)


def _amortization(read: ReadData, details: AutoencoderDetails, key: PRNGKeyArray) -> Gap:
    rows = judged_rows(read.problem, details)[:GAP_POINTS]
    found = amortization_gap(details.model, details.model.encode, rows, key)
    return Gap(float(found.gap), float(found.standard_error), len(rows), float(found.encoder_bound))
