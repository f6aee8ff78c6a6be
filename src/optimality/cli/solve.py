"""`optimality solve`: parse, run, print."""

import importlib
import os
import sys
from pathlib import Path
from typing import Any

from optimality import registry
from optimality.cli.main import complain
from optimality.cli.options import literals, parse, take_flag, take_group, take_option, whole
from optimality.core.result import SolverError
from optimality.experiments.configuration import from_table, nearest
from optimality.experiments.planning_run import PlanningRun, run_planning
from optimality.experiments.problem_choice import ProblemChoice
from optimality.experiments.report import format_number
from optimality.experiments.run_folder import read_config, to_json

_DEFAULT_RUN = {"episodes": 1000, "seed": 0, "sweep": "auto"}


def solve_command(arguments: list[str]) -> int:
    """Exit codes: 0, 1 for a disagreement, 2 for bad input, 3 where the method failed."""
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
    given, arguments = take_group(arguments, "problem")
    criterion_name, arguments = take_option(arguments, "criterion")
    criterion_options, arguments = take_group(arguments, "criterion")
    names = []
    while arguments and not arguments[0].startswith("-") and len(names) < 2:
        names.append(arguments.pop(0))
    stored = config.get("problem", {})
    if not names and not stored:
        raise ValueError("solve needs a PROBLEM, for example FrozenLake-v1; `optimality list` has the names.")
    name = names[0] if names else stored["kind"]
    same_problem = name == stored.get("kind")
    problem_options = {**(stored.get("options", {}) if same_problem else {}), **literals(given)}
    criterion = _criterion(criterion_name, criterion_options, config if same_problem else {})
    choice = ProblemChoice(name, problem_options, criterion)
    method = _method(names[1] if len(names) > 1 else None, arguments, config)
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


def _method(name: str | None, arguments: list[str], config: dict[str, Any]) -> Any:
    stored = config.get("method")
    if name is None and stored is not None:
        name = stored["kind"]
    name = registry.DEFAULT_METHODS["TabularMDP"] if name is None else name
    entry = registry.find(registry.METHODS, name)
    if entry is None:
        names = [entry.name for entry in registry.METHODS]
        raise ValueError(f"unknown method {name!r}{nearest(name, names)} Methods are {', '.join(names)}.")
    cls = getattr(importlib.import_module(entry.module), entry.attribute)
    default = from_table(stored, [cls], "method") if stored is not None and stored["kind"] == name else cls()
    return parse(default, arguments, prog=f"optimality solve PROBLEM {name}", description=entry.help)


def _criterion(name: str | None, options: dict[str, str], config: dict[str, Any]) -> Any:
    stored = config.get("criterion")
    if name is None and not options:
        table = stored
    else:
        kept = stored if stored is not None and (name is None or name == stored["kind"]) else {}
        table = {**kept, **({} if name is None else {"kind": name}), **literals(options)}
    if table is None:
        return None
    classes = [getattr(importlib.import_module(entry.module), entry.attribute) for entry in registry.CRITERIA]
    if "kind" not in table:
        raise ValueError("--criterion.OPTION needs --criterion NAME: " + ", ".join(e.name for e in registry.CRITERIA))
    return from_table(table, classes, "criterion")


def _print(run: PlanningRun, path: Path | None) -> None:
    from rich.console import Console
    from rich.table import Table

    console = Console(no_color="NO_COLOR" in os.environ or None, highlight=False)
    summary, measured = run.summary(), run.measured
    exact = summary["exact"]
    temperature = "" if run.temperature is None else f", temperature {run.temperature:g}"
    prior = getattr(run.method, "prior", None)
    form = {None: "", "none": ", entropy form"}.get(prior, f", KL form with {prior} prior")
    console.print(f"[bold]{summary['problem']}[/bold] by {summary['method']}{temperature}{form}")
    states, actions = run.mdp.shape
    console.print(f"{states} states, {actions} actions, {_describe(summary['criterion'])}", style="dim")
    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
    table.add_row("exact expected return", format_number(exact["expected_return"]), "")
    table.add_row("optimum", format_number(exact["optimum"]), "")
    table.add_row("expected entropy", format_number(exact["expected_entropy"]), "nats an episode")
    if "log_evidence" in exact:
        table.add_row("log evidence", format_number(exact["log_evidence"]), "nats")
    if "elbo" in exact:
        table.add_row("evidence bound", format_number(exact["elbo"]), f"gap {format_number(exact['gap'])} nats")
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
    options = ", ".join(f"{name} {value}" for name, value in criterion.items() if name != "kind")
    return criterion["kind"] + (f" ({options})" if options else "")
