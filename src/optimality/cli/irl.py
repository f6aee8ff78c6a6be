"""`optimality irl`: parse, infer a reward, print."""

import importlib
import os
from pathlib import Path
from typing import Any

import numpy as np

from optimality import registry
from optimality.cli.answer import answer
from optimality.cli.options import parse, take_flag, take_option
from optimality.cli.problem_arguments import take_problem
from optimality.experiments.configuration import from_table, kind_of, nearest
from optimality.experiments.inverse_run import InverseRun, run_inverse
from optimality.experiments.report import format_number
from optimality.experiments.run_folder import read_config
from optimality.rewards.abstract import AbstractReward
from optimality.rewards.linear import LinearReward
from optimality.rewards.table import TableReward

_SCOPES = ("next-state", "state", "state-action")


def irl_command(arguments: list[str]) -> int:
    """Exit codes: 0, 2 for bad input, 3 where the method failed."""

    def work() -> tuple[bool, InverseRun, Path | None]:
        as_json, options = _parse(arguments)
        return as_json, *run_inverse(**options, command=["optimality", "irl", *arguments])

    return answer(work, _print)


def _parse(arguments: list[str]) -> tuple[bool, dict[str, Any]]:
    config_path, arguments = take_option(arguments, "config")
    config = {} if config_path is None else read_config(Path(config_path))
    if config and config.get("command") != "irl":
        raise ValueError(f"{config_path} was made by `optimality {config.get('command')}`, not by `optimality irl`.")
    stored = config.get("run", {})
    as_json, arguments = take_flag(arguments, "json")
    demonstrations, arguments = take_option(arguments, "demonstrations")
    scope, arguments = take_option(arguments, "reward")
    features, arguments = take_option(arguments, "features")
    out, arguments = take_option(arguments, "out")
    choice, name, arguments = take_problem("irl", arguments, config)
    demonstrations = demonstrations or stored.get("demonstrations")
    method = _method(name, arguments, config)
    if demonstrations is None:
        raise ValueError("irl needs --demonstrations FOLDER, what the expert did; `optimality demonstrate` makes some.")
    scope, features = scope or stored.get("reward"), features or stored.get("features")
    reward = _family(choice, scope, features)
    table = {} if scope is None else {"reward": scope}
    if features is not None:
        table["features"] = str(Path(features).resolve())
    return as_json, {
        "choice": choice,
        "demonstrations": Path(demonstrations),
        "method": method,
        "reward": reward,
        "reward_table": table,
        "out": Path(out or "runs"),
    }


def _method(name: str | None, arguments: list[str], config: dict[str, Any]) -> Any:
    """By its name, or by that of its class, which a configuration stores."""
    stored: dict[str, Any] = config.get("method", {})
    names = {}
    for entry in registry.INVERSE:
        cls = getattr(importlib.import_module(entry.module), entry.attribute)
        names |= {entry.name: (entry, cls), kind_of(cls): (entry, cls)}
    name = str(name or stored.get("kind") or registry.DEFAULT_INVERSE)
    if name not in names:
        known = [entry.name for entry in registry.INVERSE]
        raise ValueError(f"unknown method {name!r}{nearest(name, known)} Methods are {', '.join(known)}.")
    entry, cls = names[name]
    default = from_table(stored, [cls], "method") if stored.get("kind") == kind_of(cls) else cls()
    return parse(default, arguments, prog=f"optimality irl PROBLEM {entry.name}", description=entry.help)


def _family(choice: Any, scope: str | None, features: str | None) -> AbstractReward | None:
    """What the reward may depend on; None for the method's own default."""
    if scope is not None and scope not in _SCOPES:
        raise ValueError(f"--reward is one of {', '.join(_SCOPES)}, but {scope!r} was given.")
    if features is not None:
        table = _read_features(Path(features))
        given = scope or ("state" if table.ndim == 2 else "state-action")
        return LinearReward(table, scope=given)  # pyright: ignore[reportArgumentType]
    if scope is None or choice.kind != "TabularMDP":
        return None
    states, actions = choice.build().shape
    return TableReward(np.zeros((states, actions) if scope == "state-action" else states), scope)  # pyright: ignore[reportArgumentType]


def _read_features(path: Path) -> np.ndarray:
    """Numbers `[S, k]` or `[S, A, k]` from NPY, or `[S, k]` from CSV."""
    try:
        if path.suffix == ".csv":
            return np.loadtxt(path, delimiter=",", ndmin=2)
        return np.asarray(np.load(path, allow_pickle=False), np.float64)
    except (OSError, ValueError, TypeError) as error:
        raise ValueError(f"cannot read the features {path}: {error}. They are numbers in NPY or CSV.") from error


def _print(run: InverseRun, path: Path | None) -> None:
    from rich.console import Console
    from rich.table import Table

    console = Console(no_color="NO_COLOR" in os.environ or None, highlight=False)
    summary, returns, shown = run.summary(), run.returns, run.summary()["demonstrations"]
    objective = "" if summary["objective"] is None else f", {summary['objective']}"
    console.print(f"the reward of [bold]{summary['problem']}[/bold] by {summary['method']}{objective}")
    what = f"{shown['episodes']} episodes, {shown['steps']} steps"
    console.print(f"from {what}; {summary['result'].replace('_', ' ')} after {summary['steps']} steps", style="dim")
    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
    table.add_row("return of the demonstrations", format_number(returns.demonstrated), "by the problem's own reward")
    table.add_row("of the recovered policy", format_number(returns.imitated), "")
    table.add_row(
        "of the best policy for the recovered reward",
        format_number(returns.planned),
        f"the optimum is {format_number(returns.optimum)}",
    )
    for name, value in summary["certificates"].items():
        table.add_row(name.replace("_", " "), format_number(float(value)), "")
    for name, value in summary["judged"].items():
        table.add_row(name.replace("_", " "), format_number(float(value)), "against the problem's own reward")
    console.print(table)
    for note in run.notes:
        console.print(f"note: {note}", style="dim")
    if path is not None:
        console.print(f"report: {path / 'report.html'}", soft_wrap=True)
