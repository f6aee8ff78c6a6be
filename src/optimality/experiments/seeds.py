"""The same training from several seeds: by processes, one core each, or mapped in one program, or one after another."""

import datetime
import json
import os
import secrets
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import jax
import tomli_w
from matplotlib.figure import Figure

from optimality.experiments.configuration import kind_of
from optimality.experiments.plots import plot_learning_curve
from optimality.experiments.run_folder import SCHEMA, read_metrics, require_writable
from optimality.experiments.training_plan import TrainingPlan
from optimality.experiments.training_report import write_comparison
from optimality.experiments.training_run import INTERRUPTIONS, Run, train_mapped, train_plan

EXECUTORS = ("auto", "processes", "vmap", "sequential")


class Study(NamedTuple):
    """Several runs: the metrics of each, and where they are (None where nothing was written).

    `result` is `finished`, or `interrupted` or `terminated` where a signal stopped the last of them; the seeds after it
    were not begun.
    """

    metrics: list[list[dict[str, Any]]]
    runs: list[Path]
    path: Path | None
    summary: dict[str, Any]
    result: str

    def plot(self) -> Figure:
        """Learning curves as interquartile mean and interval over seeds."""
        return plot_learning_curve({"all seeds": self.metrics})


def train_seeds(
    plan: TrainingPlan,
    seeds: Sequence[int],
    *,
    out: Path | str | None = None,
    executor: str = "auto",
    workers: int | None = None,
    command: Sequence[str] = (),
) -> Study:
    """Runs a plan once for each seed, each with its own run folder inside one folder with a common `report.html`.

    Args:
        plan: what to do, from `plan_training`; its own seed is not used.
        seeds: which.
        out: parent of the study's folder; without it everything is written to a temporary one and removed.
        executor: `processes` need an environment by its id and a learner of ours; `vmap` a JAX environment (its bits
            differ from a single run's); `sequential` always works. `auto`: processes on CPU, `vmap` on an accelerator.
        workers: how many processes at once; by default one a core.
        command: how this was called, for the record.

    Raises:
        ValueError: no or repeated seeds, or an executor that cannot run this plan.
        RuntimeError: a process failed; the message has the end of what it said.
    """
    seeds = [int(seed) for seed in seeds]
    if not seeds or len(set(seeds)) != len(seeds):
        raise ValueError(f"seeds must be different numbers, at least one, but {seeds} were given.")
    chosen = _executor(plan, executor)
    if out is None:
        with tempfile.TemporaryDirectory() as folder:
            study = _run(plan, seeds, Path(folder), chosen, workers, command)
            return study._replace(runs=[], path=None)
    require_writable(Path(out))
    time = datetime.datetime.now(datetime.UTC)
    safe = "".join(c if c.isalnum() or c in "-._" else "_" for c in plan.choice.name)
    name = f"{time:%Y%m%dT%H%M%SZ}-{kind_of(type(plan.method))}-{safe}-{len(seeds)}seeds-{secrets.token_hex(3)}"
    path = Path(out) / name
    path.mkdir()
    return _run(plan, seeds, path, chosen, workers, command)


def _executor(plan: TrainingPlan, wish: str) -> str:
    if wish not in EXECUTORS:
        raise ValueError(f"executor must be one of {', '.join(EXECUTORS)}, but {wish!r} was given.")
    storable = "kind" in plan.choice.to_table() and type(plan.method).__module__.startswith("optimality.")
    if wish == "processes" and not storable:
        raise ValueError("processes need an environment by its id and a learner of ours; use executor='sequential'.")
    if wish == "vmap" and plan.choice.backend != "jax":
        raise ValueError(f"{plan.choice.name} is not compiled and cannot be mapped; use executor='processes'.")
    if wish != "auto":
        return wish
    if plan.choice.backend == "jax" and jax.default_backend() != "cpu":
        return "vmap"
    return "processes" if storable else "sequential"


def _run(
    plan: TrainingPlan, seeds: list[int], folder: Path, executor: str, workers: int | None, command: Sequence[str]
) -> Study:
    plans = [plan._replace(seed=seed) for seed in seeds]
    result = "finished"
    if executor == "processes":
        found = _in_processes(plans, folder, workers)
    else:
        runs = train_mapped(plans, folder, command) if executor == "vmap" else _in_turn(plans, folder, command)
        found = [run.path for run in runs if run.path is not None]
        result = runs[-1].result if runs[-1].result in INTERRUPTIONS else result
    summary = write_comparison(found, folder / "report.html")
    return Study([read_metrics(path) for path in found], found, folder, summary, result)


def _in_turn(plans: list[TrainingPlan], folder: Path, command: Sequence[str]) -> list[Run]:
    runs: list[Run] = []
    for plan in plans:
        runs.append(train_plan(plan, out=folder, command=command))
        if runs[-1].result in INTERRUPTIONS:
            break
    return runs


def _in_processes(plans: list[TrainingPlan], folder: Path, workers: int | None) -> list[Path]:
    with ThreadPoolExecutor(workers or os.cpu_count() or 1) as pool:
        return list(pool.map(lambda plan: _in_process(plan, folder), plans))


def _in_process(plan: TrainingPlan, folder: Path) -> Path:
    config = folder / f"seed-{plan.seed}.toml"
    config.write_text(tomli_w.dumps({"schema": SCHEMA, **plan.to_config()}))
    # Small networks are faster on one XLA thread, and as many processes as cores are at work.
    environment = {**os.environ, "NPROC": "1", "NO_COLOR": "1"}
    call = [sys.executable, "-m", "optimality.cli.main", "train", "--config", str(config), "--out", str(folder)]
    done = subprocess.run([*call, "--json"], capture_output=True, text=True, env=environment)
    config.unlink()
    if done.returncode:
        raise RuntimeError(f"seed {plan.seed} failed with exit code {done.returncode}: {done.stderr.strip()[-2000:]}")
    return Path(json.loads(done.stdout)["run"])
