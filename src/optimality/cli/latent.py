"""`optimality solve DATA [METHOD]`: latent-variable models of a sample data set or the user's own files."""

import csv
import importlib
import os
from pathlib import Path
from typing import Any

from optimality import registry
from optimality.cli.answer import answer
from optimality.cli.latent_progress import FitPrinter
from optimality.cli.options import number, parse, take_flag, take_option, whole
from optimality.experiments.configuration import from_table, kind_of, nearest
from optimality.experiments.latent_data import SAMPLES, LatentData, latent_methods
from optimality.experiments.latent_fit import LatentRun
from optimality.experiments.latent_run import run_latent
from optimality.experiments.observations import is_source
from optimality.experiments.report import format_number
from optimality.experiments.run_folder import read_config

_DATA_OPTIONS = ("likelihood", "levels", "test-share", "validation-share", "split-seed", "columns")


def is_latent(arguments: list[str]) -> bool:
    """Whether a model of data is asked for: by the data, by the method, or by the configuration to be repeated."""
    words = [word for word in arguments[:2] if not word.startswith("-")] if _starts_with_name(arguments) else []
    if words and words[0] not in latent_methods():  # a method alone: of a configuration's data
        known = registry.find((*registry.PROBLEMS, *registry.ENVIRONMENTS), words[0])
        if words[0] in SAMPLES:
            return True
        return known is None and (is_source(words[0]) or (len(words) > 1 and words[1] in latent_methods()))
    try:
        path, _ = take_option(arguments, "config")
        return path is not None and read_config(Path(path)).get("problem", {}).get("kind") == "dataset"
    except ValueError:
        return False  # said by the parser


def _starts_with_name(arguments: list[str]) -> bool:
    return bool(arguments) and not arguments[0].startswith("-")


def latent_command(arguments: list[str]) -> int:
    """Exit codes: 0, 2 for bad input, 3 where the method failed."""

    def work() -> tuple[bool, LatentRun, Path | None]:
        as_json, options = _parse(arguments)
        with FitPrinter(quiet=as_json) as printer:
            command = ["optimality", "solve", *arguments]
            return as_json, *run_latent(**options, command=command, callback=printer.show)

    return answer(work, _print)


def _parse(arguments: list[str]) -> tuple[bool, dict[str, Any]]:
    path, arguments = take_option(arguments, "config")
    config = {} if path is None else read_config(Path(path))
    if config and config.get("problem", {}).get("kind") != "dataset":
        raise ValueError(f"{path} is not of a model of data.")
    as_json, arguments = take_flag(arguments, "json")
    seed, arguments = take_option(arguments, "seed")
    out, arguments = take_option(arguments, "out")
    given: dict[str, str | None] = {}
    for option in _DATA_OPTIONS:
        given[option], arguments = take_option(arguments, option)
    names: list[str | None] = []
    while _starts_with_name(arguments) and len(names) < 2:
        names.append(arguments.pop(0))
    if len(names) == 1 and config and names[0] in latent_methods():
        names = [None, names[0]]  # the data of the configuration by another method
    data = _data(names[0] if names else None, given, config.get("problem", {}))
    method = _method(names[1] if len(names) > 1 else None, arguments, config)
    return as_json, {
        "data": data,
        "method": method,
        "seed": whole("seed", seed, config.get("run", {}).get("seed", 0), 0),
        "out": Path(out or "runs"),
    }


def _data(source: str | None, given: dict[str, str | None], stored: dict[str, Any]) -> LatentData:
    if source is None:
        data = LatentData.from_table(stored)
    elif stored:
        data = LatentData.from_table(stored)._replace(source=source, fingerprint=None)
    else:
        data = LatentData(source)
    changes: dict[str, Any] = {}
    if given["likelihood"] is not None:
        changes["likelihood"] = given["likelihood"]
    if given["levels"] is not None:
        changes["levels"] = 0 if given["levels"] == "none" else whole("levels", given["levels"], None, 2)
    for option in ("test-share", "validation-share"):
        if given[option] is not None:
            changes[option.replace("-", "_")] = number(option, given[option], None)
    if given["split-seed"] is not None:
        changes["split_seed"] = whole("split-seed", given["split-seed"], None, 0)
    if given["columns"] is not None:
        columns = next(csv.reader([given["columns"]]))
        changes["columns"] = tuple(column.strip() for column in columns)
        changes["fingerprint"] = None
    return data._replace(**changes)


def _method(name: str | None, arguments: list[str], config: dict[str, Any]) -> Any:
    """By its name; of a configuration that one unless another is named."""
    stored: dict[str, Any] = config.get("method", {})
    methods = latent_methods()
    name = str(name or stored.get("kind") or registry.DEFAULT_METHODS["Dataset"])
    if name not in methods:
        other = registry.find(registry.METHODS, name)
        why = f"{name} is no method for data" if other is not None else f"unknown method {name!r}"
        raise ValueError(f"{why}{nearest(name, methods)} Methods for data are {', '.join(methods)}.")
    entry = methods[name]
    cls = getattr(importlib.import_module(entry.module), entry.attribute)
    default = cls()
    if stored.get("kind") == kind_of(cls):
        default = from_table(stored, [cls], "method")
    return parse(default, arguments, prog=f"optimality solve DATA {name}", description=entry.help)


def _print(run: LatentRun, folder: Path | None) -> None:
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    console = Console(no_color="NO_COLOR" in os.environ or None, highlight=False)
    summary = run.summary()
    points = summary["points"]
    console.print(f"[bold]{escape(summary['problem'])}[/bold] by {summary['method']}: {_result(summary)}")
    console.print(
        f"{points['fit']} points to fit, {points['validation']} to stop by, {points['test']} to judge; "
        f"{summary['features']} features, {summary['likelihood']}",
        style="dim",
        soft_wrap=True,
    )
    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
    table.add_column(no_wrap=True)
    for bar in summary["bars"]:
        error = f"s.e. {bar['standard_error']:.2g}" if bar["standard_error"] == bar["standard_error"] else ""
        bits = f"{format_number(run.bits(bar['mean']))} bits/dim"
        table.add_row(bar["name"], f"{format_number(bar['mean'])} nats", error, bits)
    console.print(table)
    if not run.is_linear:
        rates = ", ".join(format_number(round(rate, 3)) for rate in sorted(summary["rates"], reverse=True)[:12])
        console.print(f"latents in use: {summary['in_use']} of {summary['latents']}; rates {rates} nats")
    colors = {"worth it": "green", "not worth it": "yellow"}
    verdicts = [margin.verdict for margin in run.judgment.margins] or [""]
    for verdict, sentence in zip(verdicts, summary["verdict"], strict=False):
        color = "default" if run.is_linear else colors.get(verdict, "default")
        console.print(f"[{color}]{escape(sentence)}[/{color}]", soft_wrap=True)
    for sentence in summary["warnings"]:
        console.print(f"[yellow]warning[/yellow]: {escape(sentence)}", soft_wrap=True)
    for note in summary["notes"]:
        console.print(f"note: {escape(note)}", style="dim", soft_wrap=True)
    seconds = summary["seconds"]
    console.print(f"fitted in {seconds['fit']:.1f} s; {seconds['compiling']:.1f} s of all was compiling", style="dim")
    if folder is not None:
        console.print(f"model:  {folder / 'model.safetensors'}", soft_wrap=True)
        console.print(f"report: {folder / 'report.html'}", soft_wrap=True)


def _result(summary: dict[str, Any]) -> str:
    words = summary["result"].replace("_", " ")
    if "best_pass" in summary:
        return f"{words}, {summary['passes']} passes, pass {summary['best_pass']} kept"
    return words
