"""What a person should know of a fitted latent-variable model, in sentences."""

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from optimality.core.result import Result
from optimality.experiments.latent_judgment import parts_of
from optimality.experiments.report import format_number
from optimality.latent.collapse_law import collapse_law
from optimality.latent.linear_gaussian import constant_features

if TYPE_CHECKING:
    from optimality.experiments.latent_fit import LatentRun

FEW_POINTS = 50
"""Below which a mean over points says little."""
FEW_EFFECTIVE = 10.0
_OFTEN = 0.5
"""Share of the points at which a deviation stands at its floor, from which on it is said."""


def warnings_of(run: "LatentRun") -> list[str]:
    """What makes its numbers doubtful, and what to do."""
    said = [*_of_data(run), *(_of_linear(run) if run.is_linear else _of_autoencoder(run))]
    points = run.judgment.points
    if run.judgment.judged_on == "train":
        said.append(
            "It is judged on the points that it was fitted to, which flatters it: give --test-share, such as 0.2."
        )
    elif points < FEW_POINTS:
        said.append(f"Only {points} points judge it: the means are rough; give more data, or a larger --test-share.")
    return said


def _of_data(run: "LatentRun") -> list[str]:
    problem = run.read.problem
    constant = constant_features(problem)
    fixed = getattr(run.method, "variance", "") == "fixed"
    if not constant or problem.likelihood != "gaussian" or fixed:
        return []
    return [
        f"Without variation among the points of the fit: {_listed(problem, constant)}. With a learned variance nothing "
        f"but its floor bounds the likelihood there, so that bounds mean little: leave such features out"
        f"{', or give --levels where the data are integers' if problem.levels is None else ''}."
    ]


def _of_autoencoder(run: "LatentRun") -> list[str]:
    details, problem, said = run.solution.details, run.read.problem, []
    steps, best = len(run.passes), int(np.asarray(details.best_step))
    if Result.of(run.solution.result) is Result.ITERATION_LIMIT:
        said.append(
            f"The fit used all of its {steps} passes and was still improving (best pass {best}): raise --max-steps."
            if steps - best < max(2, steps // 10)
            else f"The fit used all of its {steps} passes; the best was {best}. More may help: raise --max-steps."
        )
    if not math.isfinite(run.passes[-1]["validation_bound"]):
        said.append(
            "Without validation points the last pass is kept, however far it overfits: give --validation-share."
        )
    if details.judged.at_floor is not None:
        stands = np.flatnonzero(np.asarray(details.judged.at_floor) > _OFTEN).tolist()
        stands = [column for column in stands if column not in constant_features(problem)]
        if stands:
            said.append(
                f"The decoder's deviation stands at its floor for {_listed(problem, stands)}: the bound would grow "
                f"with a lower floor; round numbers or copies in the data do that. Add noise, give --levels for "
                f"integers, or raise --least-log-scale."
            )
    sizes = np.asarray(details.judged.effective_sample_sizes)
    few = float(np.mean(sizes < FEW_EFFECTIVE))
    if few > 0.0 and details.bound_samples > FEW_EFFECTIVE:
        said.append(
            f"At {100.0 * few:.3g} % of the points the bound of {details.bound_samples:,} samples rests on fewer than "
            f"{FEW_EFFECTIVE:.0f} effective ones (median over all {format_number(float(np.median(sizes)))}): it lies "
            f"below the log evidence by an unknown amount. More --bound-samples or an importance-weighted autoencoder "
            f"come closer."
        )
    return said


def _of_linear(run: "LatentRun") -> list[str]:
    details, problem = run.solution.details, run.read.problem
    at_floor = getattr(details, "at_floor", None)
    held = [] if at_floor is None else np.flatnonzero(np.asarray(at_floor)).tolist()
    held = [column for column in held if column not in constant_features(problem)]
    if not held:
        return []
    return [
        f"The noise variance stands at its floor for {_listed(problem, held)}: the latents explain it entirely, and "
        f"the likelihood has no maximum (a Heywood case). Take fewer latents, or leave copies out."
    ]


def collapse_rows(run: "LatentRun") -> list[dict[str, Any]] | None:
    """What a linear model of as many latents would use at its best with fixed deviations, in the model's units."""
    eigenvalues = model_eigenvalues(run)
    own = own_deviation(run)
    if eigenvalues is None or own is None:
        return None
    features, latents = run.read.problem.features, run.method.latents
    cases = [
        ("squared error plus KL", 1.0),
        ("mean squared error over features plus KL", math.sqrt(features / 2.0)),
        ("this decoder", own),
    ]
    rows = []
    for name, deviation in cases:
        law = collapse_law(eigenvalues, deviation**2, latents)
        rows.append({"name": name, "deviation": deviation, "used": int(law.used), "rate": float(law.rate)})
    return rows


def collapse_sentence(run: "LatentRun") -> str | None:
    """The same in words."""
    rows = collapse_rows(run)
    if rows is None:
        return None
    plain, mean, own = rows
    word = format_number
    levels = run.read.problem.levels
    scaled = "" if levels is None else ", with the data scaled to [0, 1],"
    return (
        f"By the collapse law a linear model whose noise deviation were fixed at 1 (squared error plus KL){scaled} "
        f"would use {plain['used']} of {run.method.latents} latents, with a mean over features instead of a sum "
        f"{mean['used']}; "
        f"at this decoder's own {word(own['deviation'])} it would use {own['used']}, with a rate of "
        f"{word(own['rate'])} nats. This model uses {run.solution.details.in_use}, with "
        f"{word(float(np.sum(run.solution.details.rates)))} nats."
    )


def model_eigenvalues(run: "LatentRun") -> np.ndarray | None:
    """Of the covariance of the points of the fit, in the model's units; None where the likelihood is not gaussian."""
    problem = run.read.problem
    if problem.likelihood != "gaussian" or problem.features > 1000:
        return None
    covariance = np.cov(parts_of(problem, np.float64).train, rowvar=False, bias=True)
    return np.maximum(np.linalg.eigvalsh(np.atleast_2d(covariance)), 0.0)


def own_deviation(run: "LatentRun") -> float | None:
    """Root mean square of the decoder's deviations, in the model's units."""
    deviations = run.solution.details.judged.deviations
    return None if deviations is None else float(np.sqrt(np.mean(np.square(deviations, dtype=np.float64))))


def _listed(problem: Any, columns: list[int]) -> str:
    shown = ", ".join(problem.feature(column) for column in columns[:6])
    rest = len(columns) - 6
    return f"{shown} and {rest} more" if rest > 0 else shown
