"""The main job: plan in a known model, evaluate the plan exactly, hold it against episodes, and write all that down."""

from pathlib import Path
from typing import Any

from optimality import registry
from optimality.experiments.configuration import kind_of, to_table
from optimality.experiments.linear_quadratic_run import (
    LinearQuadraticRun,
    run_linear_quadratic,
    write_linear_quadratic_run,
)
from optimality.experiments.measured import Measured
from optimality.experiments.problem_choice import KINDS, ProblemChoice
from optimality.experiments.run_folder import RunFolder, failures_noted, require_writable
from optimality.experiments.tabular_run import Method, TabularRun, run_in_table, write_tabular_run
from optimality.problems.linear_quadratic import LinearQuadratic

PlanningRun = TabularRun | LinearQuadraticRun
"""Everything that a report shows."""


def run_planning(
    choice: ProblemChoice,
    method: Method,
    *,
    episodes: int = 1000,
    seed: int = 0,
    sweep: bool | None = None,
    out: Path | None = None,
    command: list[str] | None = None,
) -> tuple[PlanningRun, Path | None]:
    """Solves, evaluates, measures and, with `out`, writes the run folder and its report.

    Args:
        choice: the problem by name.
        method: how to plan.
        episodes: episodes of the check.
        seed: of the check's randomness; planning has none.
        sweep: draw return, entropy and evidence against temperature; by default where a table is small.
        out: parent of the run folder; nothing is written without it.
        command: how this was called, for the record.

    Raises:
        ValueError: bad input, before anything is written.
        SolverError: the method did not succeed.
    """
    if episodes < 1:
        raise ValueError(f"episodes must be at least 1, but {episodes} was given.")
    if out is not None:
        require_writable(out)
    _require_fitting(choice, method)
    problem = choice.build()
    linear = isinstance(problem, LinearQuadratic)
    if linear and sweep:
        raise ValueError(f"--sweep temperature is for tables, but {choice.name} is {KINDS[choice.kind]}: leave it out.")
    method.check(problem)
    folder = None
    if out is not None:
        config = {
            "command": "solve",
            "problem": choice.to_table(),
            "criterion": to_table(problem.criterion),
            "method": to_table(method),
            "run": {"episodes": episodes, "seed": seed, "sweep": "auto" if sweep is None else sweep},
        }
        folder = RunFolder.create(
            out, method=kind_of(type(method)), problem=problem.name, seed=seed, config=config, command=command or []
        )
    with failures_noted(folder):
        if linear:
            run = run_linear_quadratic(choice, problem, method, episodes=episodes, seed=seed)
        else:
            run = run_in_table(choice, problem, method, episodes=episodes, seed=seed, sweep=sweep)
        if folder is not None:
            _write(run, folder)
    return run, None if folder is None else folder.path


def _require_fitting(choice: ProblemChoice, method: Any) -> None:
    """Raises `ValueError` naming the methods that fit the problem where this one does not."""
    entry = registry.find(registry.METHODS, kind_of(type(method)))
    if entry is not None and entry.problem != choice.kind:
        fitting = [entry.name for entry in registry.METHODS if entry.problem == choice.kind]
        raise ValueError(
            f"{entry.name} is a method for {KINDS[entry.problem]}, but {choice.name} is {KINDS[choice.kind]}: its "
            f"methods are {', '.join(fitting)}."
        )


def _write(run: PlanningRun, folder: RunFolder) -> None:
    _write_episodes(run.measured, folder)
    if isinstance(run, LinearQuadraticRun):
        write_linear_quadratic_run(run, folder)
    else:
        write_tabular_run(run, folder)
    disagrees = run.measured.verdict == "disagrees"
    folder.finish("disagreed" if disagrees else "finished", summary=run.summary())


def _write_episodes(measured: Measured, folder: RunFolder) -> None:
    pairs = zip(measured.rollouts.returns.tolist(), measured.rollouts.lengths.tolist(), strict=True)
    rows = "".join(f"{i},{r!r},{n}\n" for i, (r, n) in enumerate(pairs))
    folder.write_text("evaluation/episodes.csv", "episode,return,length\n" + rows)
