"""`optimality solve`: parse, run, print."""

import importlib
import os
import sys
from pathlib import Path
from typing import Any

from optimality import registry
from optimality.cli.main import complain
from optimality.cli.options import literals, number, parse, take_flag, take_group, take_option, whole
from optimality.core.result import SolverError
from optimality.experiments.configuration import from_table, nearest
from optimality.experiments.planning_run import PlanningRun, run_planning
from optimality.experiments.problem_choice import ProblemChoice
from optimality.experiments.report import format_number
from optimality.experiments.run_folder import read_config, to_json

_DEFAULT_RUN = {"episodes": 1000, "seed": 0, "sweep": "auto"}


def solve_command(arguments: list[str]) -> int:
    """Exit codes: 0, 1 for a disagreement, 2 for bad input, 3 where the method failed."""
    if arguments[:1] == ["play-or-not"]:
        from optimality.cli.play_or_not import play_or_not_command

        return play_or_not_command(arguments[1:])
    if arguments[:1] == ["bernoulli-bandit"]:
        from optimality.cli.bandits import solve_bandit_command

        return solve_bandit_command(arguments[1:])
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
    horizon, arguments = take_option(arguments, "horizon")
    discount, arguments = take_option(arguments, "discount")
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
    stored_criterion = config.get("criterion") if same_problem else None
    criterion_name, criterion_options = _spelled_out(
        criterion_name, criterion_options, horizon, discount, stored_criterion
    )
    criterion = _criterion(criterion_name, criterion_options, stored_criterion)
    choice = ProblemChoice(name, problem_options, criterion)
    method = _method(names[1] if len(names) > 1 else None, arguments, config, choice.kind)
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


def _spelled_out(
    name: str | None,
    options: dict[str, str],
    horizon: str | None,
    discount: str | None,
    stored: dict[str, Any] | None,
) -> tuple[str | None, dict[str, str]]:
    """`--horizon` and `--discount` as the `--criterion` that they are short for."""
    if horizon is not None:
        whole("horizon", horizon, None, 1)
        if name not in (None, "finite-horizon"):
            raise ValueError(f"--horizon is short for --criterion finite-horizon, but --criterion {name} was given.")
        name, options = "finite-horizon", {**options, "horizon": horizon}
    if discount is not None:
        number("discount", discount, None)
        with_discount = ("finite-horizon", "discounted")
        if name not in (None, *with_discount):
            raise ValueError(f"--discount is for a finite horizon or none, but --criterion {name} was given.")
        kept = None if stored is None or stored["kind"] not in with_discount else stored["kind"]
        name, options = name or kept or "discounted", {**options, "discount": discount}
    return name, options


def _criterion(name: str | None, options: dict[str, str], stored: dict[str, Any] | None) -> Any:
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
