"""`optimality solve`: parse, run, print."""

import importlib
import os
import sys
from pathlib import Path
from typing import Any

from optimality import registry
from optimality.cli.main import complain
from optimality.cli.options import parse, take_flag, take_option, whole
from optimality.cli.problem_arguments import problem_asked, take_problem
from optimality.core.result import SolverError
from optimality.experiments.configuration import from_table, nearest
from optimality.experiments.planning_run import PlanningRun, run_planning
from optimality.experiments.report import format_number
from optimality.experiments.run_folder import read_config, to_json

_DEFAULT_RUN = {"episodes": 1000, "seed": 0, "sweep": "auto"}


def solve_command(arguments: list[str]) -> int:
    """Exit codes: 0, 1 for a disagreement, 2 for bad input, 3 where the method failed."""
    asked = problem_asked(arguments)
    rest = arguments[1:] if arguments[:1] == [asked] else arguments
    if asked == "play-or-not":
        from optimality.cli.play_or_not import play_or_not_command

        return play_or_not_command(rest)
    if asked == "bernoulli-bandit":
        from optimality.cli.solve_bandit import solve_bandit_command

        return solve_bandit_command(rest)
    try:
        options = _parse(arguments)
        run, path = run_planning(**options["run"], command=["optimality", "solve", *arguments])
    except ValueError as error:
        return complain(str(error))
    except SolverError as error:
        print(f"optimality: {error}", file=sys.stderr)
        return 3
    if options["json"]:
        print(to_json({**run.summary(), "run": None if path is None else str(path)}, indent=2))
    else:
        _print(run, path)
    return 1 if run.measured.verdict == "disagrees" else 0


def _parse(arguments: list[str]) -> dict[str, Any]:
    config_path, arguments = take_option(arguments, "config")
    config = {} if config_path is None else read_config(Path(config_path))
    as_json, arguments = take_flag(arguments, "json")
    episodes, arguments = take_option(arguments, "episodes")
    seed, arguments = take_option(arguments, "seed")
    out, arguments = take_option(arguments, "out")
    sweep, arguments = take_option(arguments, "sweep")
    choice, name, arguments = take_problem("solve", arguments, config)
    method = _method(name, arguments, config, choice.kind)
    run = {**_DEFAULT_RUN, **config.get("run", {})}
    wish = sweep if sweep is not None else run["sweep"]
    sweeps = {"temperature": True, "none": False, "auto": None, True: True, False: False}
    if wish not in sweeps:
        raise ValueError(f"--sweep is temperature or none, but {wish!r} was given.")
    return {
        "json": as_json,
        "run": {
            "choice": choice,
            "method": method,
            "episodes": whole("episodes", episodes, run["episodes"], 1),
            "seed": whole("seed", seed, run["seed"], 0),
            "sweep": sweeps[wish],
            "out": Path(out or "runs"),
        },
    }


def _method(name: str | None, arguments: list[str], config: dict[str, Any], kind: str) -> Any:
    stored = config.get("method")
    if name is None and stored is not None:
        name = stored["kind"]
    name = registry.DEFAULT_METHODS[kind] if name is None else name
    entry = registry.find(registry.METHODS, name)
    if entry is None:
        names = [entry.name for entry in registry.METHODS]
        raise ValueError(f"unknown method {name!r}{nearest(name, names)} Methods are {', '.join(names)}.")
    cls = getattr(importlib.import_module(entry.module), entry.attribute)
    default = from_table(stored, [cls], "method") if stored is not None and stored["kind"] == name else cls()
    return parse(default, arguments, prog=f"optimality solve PROBLEM {name}", description=entry.help)


def _print(run: PlanningRun, path: Path | None) -> None:
    from rich.console import Console
    from rich.table import Table

    console = Console(no_color="NO_COLOR" in os.environ or None, highlight=False)
    summary, measured = run.summary(), run.measured
    how, size = run.heading()
    console.print(f"[bold]{summary['problem']}[/bold] by {how}")
    console.print(f"{size}, {_describe(summary['criterion'])}", style="dim", soft_wrap=True)
    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
    for row in run.rows():
        table.add_row(*row)
    interval = f"95 % interval {format_number(measured.interval.low)} to {format_number(measured.interval.high)}"
    table.add_row("measured mean return", format_number(measured.interval.mean), interval)
    console.print(table)
    color = {"agrees": "green", "disagrees": "red"}.get(measured.verdict, "yellow")
    console.print(
        f"[{color}]{measured.verdict}[/{color}]: {measured.reason}, over {measured.interval.samples} episodes"
    )
    console.print(f"in {measured.where}", style="dim")
    for note in run.notes:
        console.print(f"note: {note}", style="dim")
    if path is not None:
        console.print(f"report: {path / 'report.html'}", soft_wrap=True)


def _describe(criterion: dict[str, Any]) -> str:
    plain = (("kind", criterion["kind"]), ("terminal_reward", 0.0))
    options = ", ".join(f"{name} {value}" for name, value in criterion.items() if (name, value) not in plain)
    return criterion["kind"] + (f" ({options})" if options else "")
