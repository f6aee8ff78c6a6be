"""`optimality train bernoulli-bandit`: several policies with the same luck, one report."""

import os
from pathlib import Path
from typing import Any

from optimality.cli.main import complain
from optimality.cli.options import number, take_flag, take_option, whole
from optimality.cli.policy_options import describe_options, require_nothing_left, take_policies
from optimality.experiments.bandit_run import KIND, BanditStudy, run_bandit
from optimality.experiments.report import format_number
from optimality.experiments.run_folder import read_config, to_json
from optimality.registry import BANDIT_POLICIES

HELP = """usage: optimality train bernoulli-bandit POLICY[,POLICY...] --arms P,P[,P...] [options]

Plays several policies with the same luck, and writes one report: regret over a logarithmic time with intervals and Lai
and Robbins' slope, pulls of each arm, regret at the end of each run; with two or three arms also exact Bayes regret.

POLICY:
{policies}

options:
  --arms P,P,...           each arm's chance of paying 1
  --steps N                pulls of each run (10000)
  --runs N                 runs of each policy (200)
  --seed N                 everything random follows from it (0)
  --out FOLDER             where run folders go (runs/)
  --config FILE            repeat a study from its config.toml (or its folder); other options override it
  --json                   the summary as JSON on standard output, and nothing else there

options of a policy begin with its name:
{options}

exit codes: 0 done; 2 bad input; 130 interrupted
"""

_OPTIONS = ("arms", "steps", "runs", "seed", "out", "config")


def train_bandit_command(arguments: list[str]) -> int:
    """Exit codes: 0, 2 for bad input."""
    command = ["optimality", "train", KIND, *arguments]
    if "--help" in arguments or "-h" in arguments:
        return _help()
    try:
        as_json, arguments = take_flag(arguments, "json")
        given: dict[str, str | None] = {}
        for name in _OPTIONS:
            given[name], arguments = take_option(arguments, name)
        config = _stored(given["config"])
        names = arguments.pop(0) if arguments and not arguments[0].startswith("-") else None
        if names is None and not config:
            raise ValueError("bernoulli-bandit takes its policies, such as ucb1,thompson, and --arms; see --help.")
        policies, arguments = take_policies(names, config.get("methods", []), arguments)
        require_nothing_left(arguments, policies, (*_OPTIONS, "json"))
        run = config.get("run", {})
        study, path = run_bandit(
            _arms(given["arms"], config),
            policies,
            steps=whole("steps", given["steps"] or str(run.get("steps", 10_000)), None, 1),
            runs=whole("runs", given["runs"] or str(run.get("runs", 200)), None, 1),
            seed=whole("seed", given["seed"] or str(run.get("seed", 0)), None, 0),
            out=Path(given["out"] or "runs"),
            command=command,
        )
    except ValueError as error:
        return complain(str(error))
    if as_json:
        print(to_json({**study.summary(), "run": str(path)}, indent=2))
    else:
        _print_study(study, path)
    return 0


def _help() -> int:
    lines = "\n".join(f"  {entry.name:24} {entry.help}" for entry in BANDIT_POLICIES)
    options = describe_options([entry.name for entry in BANDIT_POLICIES])
    print(HELP.format(policies=lines, options=options), end="")
    return 0


def _stored(path: str | None) -> dict[str, Any]:
    if path is None:
        return {}
    config = read_config(Path(path))
    if config.get("problem", {}).get("kind") != KIND or config.get("command") != "train":
        raise ValueError(f"{path} is not of a study of bandit policies.")
    arms, methods = config["problem"].get("arms"), config.get("methods")
    if not isinstance(arms, list) or not isinstance(methods, list) or not all(isinstance(m, dict) for m in methods):
        raise ValueError(f"{path} lacks the arms or the methods of a study of bandit policies.")
    return config


def _arms(text: str | None, config: dict[str, Any]) -> list[float]:
    if text is not None:
        return [number("arms", word, None) for word in text.split(",")]
    if not config:
        raise ValueError("bernoulli-bandit needs --arms, each arm's chance of paying 1: --arms 0.1,0.5,0.9.")
    return [number("arms", str(p), None) for p in config["problem"]["arms"]]


def _print_study(study: BanditStudy, path: Path | None) -> None:
    from rich.console import Console
    from rich.table import Table

    console = Console(no_color="NO_COLOR" in os.environ or None, highlight=False)
    summary = study.summary()
    table = Table(box=None, padding=(0, 2, 0, 0))
    for title in ("policy", "mean regret", "95 % interval", "median", "95 % quantile"):
        table.add_column(title)
    for row in summary["policies"]:
        interval = f"{format_number(row['low'])} to {format_number(row['high'])}"
        table.add_row(
            row["policy"], format_number(row["regret"]), interval, *map(format_number, (row["median"], row["q95"]))
        )
    console.print(
        f"[bold]bernoulli-bandit[/bold], {summary['runs']} runs of {summary['steps']} pulls, the same luck for all"
    )
    console.print(table)
    console.print(
        f"Lai and Robbins: {format_number(summary['lai_robbins'])} log T, here "
        f"{format_number(summary['lai_robbins_regret'])}",
        style="dim",
    )
    if path is not None:
        console.print(f"report: {path / 'report.html'}", soft_wrap=True)
