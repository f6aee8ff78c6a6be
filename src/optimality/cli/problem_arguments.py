"""The problem among a command's arguments: its name and options, and the criterion in its long and short forms."""

import importlib
from pathlib import Path
from typing import Any

from optimality import registry
from optimality.cli.options import literals, number, take_group, take_option, whole
from optimality.experiments.configuration import from_table
from optimality.experiments.problem_choice import ProblemChoice
from optimality.experiments.run_folder import read_config


def problem_asked(arguments: list[str]) -> str | None:
    """The problem's name: the first argument, or what the configuration says that is to be repeated."""
    if arguments and not arguments[0].startswith("-"):
        return arguments[0]
    try:
        path, _ = take_option(arguments, "config")
        return None if path is None else read_config(Path(path)).get("problem", {}).get("kind")
    except ValueError:
        return None  # said by the parser


def take_problem(
    command: str, arguments: list[str], config: dict[str, Any]
) -> tuple[ProblemChoice, str | None, list[str]]:
    """The problem that `PROBLEM [METHOD] --problem.OPTION ... --criterion ...` names or else the configuration, the
    method's name, and the other arguments. `ValueError` where no problem is named."""
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
        raise ValueError(f"{command} needs a PROBLEM, for example FrozenLake-v1; `optimality list` has the names.")
    name = names[0] if names else stored["kind"]
    same_problem = name == stored.get("kind")
    options = {**(stored.get("options", {}) if same_problem else {}), **literals(given)}
    stored_criterion = config.get("criterion") if same_problem else None
    criterion_name, criterion_options = _spelled_out(
        criterion_name, criterion_options, horizon, discount, stored_criterion
    )
    criterion = _criterion(criterion_name, criterion_options, stored_criterion)
    return ProblemChoice(name, options, criterion), names[1] if len(names) > 1 else None, arguments


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
