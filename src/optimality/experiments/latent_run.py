"""A latent-variable model from a user's data to a folder: fitted, judged, saved and reported."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from optimality.experiments.configuration import kind_of, to_table
from optimality.experiments.latent_data import LatentData
from optimality.experiments.latent_fit import LatentRun, Pass, fit_and_judge
from optimality.experiments.latent_report import write_latent_report
from optimality.experiments.run_folder import RunFolder, failures_noted, require_writable
from optimality.experiments.saved_latent_model import MODEL_FILE, model_bytes


def run_latent(
    data: LatentData,
    method: Any,
    *,
    seed: int = 0,
    out: Path | None = None,
    command: list[str] | None = None,
    callback: Callable[[Pass], None] | None = None,
) -> tuple[LatentRun, Path | None]:
    """Fits and judges and, with `out`, writes the run folder, the model and the report.

    Raises:
        ValueError: bad input, before anything is written.
        SolverError: the method did not succeed.
    """
    read = data.read()
    method.check(read.problem)
    folder = None
    if out is not None:
        require_writable(out)
        config = {
            "command": "solve",
            "problem": read.data.to_table(),
            "method": to_table(method),
            "run": {"seed": seed},
        }
        kind = kind_of(type(method))
        folder = RunFolder.create(out, method=kind, problem=data.name, seed=seed, config=config, command=command or [])
    with failures_noted(folder):
        run = fit_and_judge(read, method, seed, folder, callback)
        if folder is not None:
            folder.write_bytes(MODEL_FILE, model_bytes(run.model))
            write_latent_report(run, folder)
            folder.finish("finished", summary=run.summary())
    return run, None if folder is None else folder.path
