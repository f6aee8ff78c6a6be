"""`optimality solve play-or-not`: from measured rewards and times to a decision."""

import os
from pathlib import Path
from typing import Any

from optimality.cli.answer import answer
from optimality.cli.options import number, parse, take_flag, take_option, whole
from optimality.experiments.configuration import from_table
from optimality.experiments.decision_run import DecisionData, DecisionRun, run_decision
from optimality.experiments.measurements import read_numbers
from optimality.experiments.report import format_number
from optimality.experiments.run_folder import read_config
from optimality.exploration.exact_play import ExactPlayOrNot
from optimality.registry import DEFAULT_METHODS

HELP = """usage: optimality solve play-or-not --rate K [--rewards FILE.csv] [--times FILE.csv] [options]

Play a game again, or stop and earn K per unit time: the posterior from your own data, every criterion with the decision
it gives, and the Bayes-optimal policy.

options:
  --rate K               what not playing earns per unit time
  --rewards FILE.csv     rewards of past games, one a line, above 0; FILE.csv:NAME reads the column of that name
  --times FILE.csv       how long past games took, one a line, at or above 0
  --reward-shape A       known shape of the gamma law of rewards; 1, the exponential one, unless given
  --reward-prior E,W     Gamma(E, W) belief about its rate before the data (1,1)
  --time-prior T,H       Gamma(T, H) belief about the rate of the exponential times before the data (1,1)
  --games N              plan at most N further games (10)
  --chance G             instead: after each game there is another with this chance
  --deadline D           instead: play until the time D
  --out FOLDER           where run folders go (runs/)
  --config FILE          repeat a run from its config.toml (or its folder); other options override it
  --json                 everything as JSON on standard output, and nothing else there
  and the method's own: --grid N, --most-games N, --truncation X, --level X, --risk X

exit codes: 0 done; 2 bad input; 3 the method did not succeed; 130 interrupted
"""

_WIDE = 120
"""Columns from which on each criterion has its sentence in the table; the report has them always."""


def play_or_not_command(arguments: list[str]) -> int:
    """Exit codes: 0, 2 for bad input, 3 where the method failed."""
    if "--help" in arguments or "-h" in arguments:
        print(HELP, end="")
        return 0
    command = ["optimality", "solve", "play-or-not", *arguments]

    def work() -> tuple[bool, DecisionRun, Path | None]:
        as_json, rest = take_flag(arguments, "json")
        out, rest = take_option(rest, "out")
        path, rest = take_option(rest, "config")
        config = {} if path is None else read_config(Path(path))
        if config and config.get("problem", {}).get("kind") != "play-or-not":
            raise ValueError(f"{path} is not of a decision to play or not.")
        rest = _without_method(rest)
        data, rest = _data(rest, config.get("run", {}))
        default = from_table(config["method"], [ExactPlayOrNot], "method") if config else ExactPlayOrNot()
        method = parse(default, rest, prog="optimality solve play-or-not", description="")
        return as_json, *run_decision(data, method, out=Path(out or "runs"), command=command)

    return answer(work, _print)


def _without_method(arguments: list[str]) -> list[str]:
    """The arguments after the name of the one method there is, which may be left out."""
    if not arguments or arguments[0].startswith("-"):
        return arguments
    if arguments[0] != DEFAULT_METHODS["PlayOrNot"]:
        raise ValueError(
            f"the method of play-or-not is {DEFAULT_METHODS['PlayOrNot']}, but {arguments[0]!r} was given."
        )
    return arguments[1:]


def _data(arguments: list[str], stored: dict[str, Any]) -> tuple[DecisionData, list[str]]:
    given: dict[str, str | None] = {}
    names = ("rate", "rewards", "times", "reward-shape", "reward-prior", "time-prior", "games", "chance", "deadline")
    for name in names:
        given[name], arguments = take_option(arguments, name)
    if given["rate"] is None and not stored:
        raise ValueError("play-or-not needs --rate K, what not playing earns per unit time.")
    horizons = [name for name in ("games", "chance", "deadline") if given[name] is not None]
    if len(horizons) > 1:
        raise ValueError(f"--{' and --'.join(horizons)} exclude each other: give one of them.")
    fields: dict[str, Any] = {**stored}
    for name in ("reward_prior", "time_prior"):
        if name in fields:
            fields[name] = tuple(fields[name])
    fields["rate"] = number("rate", given["rate"], stored.get("rate"))
    fields["rewards"], fields["times"] = list(stored.get("rewards", [])), list(stored.get("times", []))
    if given["rewards"] is not None:
        fields["rewards"] = _read(given["rewards"], exclusive=True)
    if given["times"] is not None:
        fields["times"] = _read(given["times"], exclusive=False)
    if given["reward-shape"] is not None:
        fields["reward_shape"] = number("reward-shape", given["reward-shape"], None)
    for name in ("reward-prior", "time-prior"):
        if given[name] is not None:
            fields[name.replace("-", "_")] = _pair(name, given[name])
    if horizons:
        kind = horizons[0]
        read = whole(kind, given[kind], None, 1) if kind == "games" else number(kind, given[kind], None)
        fields["horizon"], fields["extent"] = kind, float(read)
    return DecisionData(**fields), arguments


def _pair(name: str, text: str | None) -> tuple[float, float]:
    words = ["1", "1"] if text is None else text.split(",")
    if len(words) != 2:
        raise ValueError(
            f"--{name} takes two numbers with a comma between them, such as 2,1.5, but {text!r} was given."
        )
    return number(name, words[0], None), number(name, words[1], None)


def _read(text: str, *, exclusive: bool) -> list[float]:
    file, colon, column = text.rpartition(":")
    if colon and file.lower().endswith(".csv"):
        return read_numbers(Path(file), column=column, above=0.0, exclusive=exclusive)
    return read_numbers(Path(text), above=0.0, exclusive=exclusive)


def _print(run: DecisionRun, folder: Path | None) -> None:
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    console = Console(no_color="NO_COLOR" in os.environ or None, highlight=False)
    summary = run.summary()
    posterior = summary["posterior"]
    console.print(f"[bold]play or not[/bold] against {format_number(summary['rate'])} per unit time")
    for name, (shape, rate) in (("rewards", posterior["rewards"]), ("times", posterior["times"])):
        console.print(
            f"belief about the rate of {name}: Gamma({format_number(shape)}, {format_number(rate)})", style="dim"
        )
    table = Table(box=None, padding=(0, 2, 0, 0))
    wide = console.width >= _WIDE
    for title in ("criterion", "number", "against", "decision", "plays up to", *([""] if wide else [])):
        table.add_column(title)
    for row in summary["criteria"]:
        decision = "[green]play[/green]" if row["play"] else "stop"
        numbers = format_number(row["number"]), format_number(row["threshold"])
        why = [escape(row["sentence"])] if wide else []
        table.add_row(row["name"], *numbers, decision, format_number(row["break_even"]), *why)
    console.print(table)
    for sentence in summary["why"]:
        console.print(f"- {sentence}", style="dim")
    verdict = "[green]play[/green]" if summary["play"] else "[bold]stop[/bold]"
    console.print(f"Bayes-optimal now: {verdict}, worth {format_number(summary['value'])}")
    console.print(
        f"break-even rate {format_number(summary['break_even'])}, {format_number(summary['bonus'])} times that of a "
        f"single game; playing on whatever happens is worth {format_number(summary['commitment'])}"
    )
    for note in summary["notes"]:
        console.print(f"note: {note}", style="dim")
    if folder is not None:
        console.print(f"report: {folder / 'report.html'}", soft_wrap=True)
