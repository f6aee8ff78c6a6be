"""`optimality solve bernoulli-bandit`: the Bayes-optimal way to pull arms of unknown chances."""

import os
from pathlib import Path
from typing import Any

import numpy as np

from optimality.beliefs import BetaBernoulli
from optimality.cli.answer import answer
from optimality.cli.options import number, parse, take_flag, take_option, whole
from optimality.experiments.bandit_run import KIND
from optimality.experiments.configuration import from_table
from optimality.experiments.exact_bandit_run import ExactBanditRun, run_exact_bandit
from optimality.experiments.report import format_number
from optimality.experiments.run_folder import read_config
from optimality.exploration.bernoulli_bandit import BernoulliBandit, ExactBandit
from optimality.problems.criterion import Discounted, FiniteHorizon
from optimality.registry import DEFAULT_METHODS

HELP = """usage: optimality solve bernoulli-bandit (--horizon N | --discount G) [options]

The best way to pull arms of unknown chances: value, first pulls and Bayes regret of the Bayes-optimal policy, beside
Thompson sampling and greedy pulls. Everything is exact.

options:
  --horizon N              pulls in all
  --discount G             of rewards; without --horizon: no end
  --arms K                 how many arms, each with the same prior (2)
  --prior A,B              Beta(A, B) belief about every arm; A,B/A,B/... one an arm (1,1)
  --out FOLDER             where run folders go (runs/)
  --config FILE            repeat a run from its config.toml (or its folder); other options override it
  --json                   everything as JSON on standard output, and nothing else there
  and the method's own: --most-pulls N, --most-numbers N

exit codes: 0 done; 2 bad input; 3 the method did not succeed; 130 interrupted
"""


def solve_bandit_command(arguments: list[str]) -> int:
    """Exit codes: 0, 2 for bad input, 3 where the method failed."""
    if "--help" in arguments or "-h" in arguments:
        print(HELP, end="")
        return 0
    command = ["optimality", "solve", KIND, *arguments]

    def work() -> tuple[bool, ExactBanditRun, Path | None]:
        as_json, rest = take_flag(arguments, "json")
        out, rest = take_option(rest, "out")
        path, rest = take_option(rest, "config")
        config = {} if path is None else read_config(Path(path))
        if config and (config.get("problem", {}).get("kind") != KIND or config.get("command") != "solve"):
            raise ValueError(f"{path} is not of a solved bandit.")
        rest = _without_method(rest)
        problem, rest = _problem(rest, config)
        default = from_table(config["method"], [ExactBandit], "method") if "method" in config else ExactBandit()
        method = parse(default, rest, prog="optimality solve bernoulli-bandit")
        return as_json, *run_exact_bandit(problem, method, out=Path(out or "runs"), command=command)

    return answer(work, _print)


def _without_method(arguments: list[str]) -> list[str]:
    """The arguments after the name of the one method there is, which may be left out."""
    if not arguments or arguments[0].startswith("-"):
        return arguments
    if arguments[0] != DEFAULT_METHODS["BernoulliBandit"]:
        raise ValueError(
            f"the method of bernoulli-bandit is {DEFAULT_METHODS['BernoulliBandit']}, but {arguments[0]!r} was given."
        )
    return arguments[1:]


def _problem(arguments: list[str], config: dict[str, Any]) -> tuple[BernoulliBandit, list[str]]:
    given: dict[str, str | None] = {}
    for name in ("horizon", "discount", "arms", "prior"):
        given[name], arguments = take_option(arguments, name)
    a, b = _prior(given["prior"], given["arms"], config.get("problem", {}).get("prior")).T
    return BernoulliBandit(BetaBernoulli(a, b), _criterion(given, config.get("criterion"))), arguments


def _prior(text: str | None, count: str | None, stored: list[list[float]] | None) -> np.ndarray:
    """Pseudo-counts of ones and zeros, `[arms, 2]`."""
    if text is None and stored is not None:
        if not isinstance(stored, list) or not stored:
            raise ValueError(f"the stored prior must be a list with a pair of numbers an arm, but it is {stored!r}.")
        words = [[str(x) for x in pair] if isinstance(pair, list) else [str(pair)] for pair in stored]
        words = words[:1] if all(pair == words[0] for pair in words) else words
        text, arms = "/".join(",".join(pair) for pair in words), len(stored)
    else:
        words = [word.split(",") for word in (text or "1,1").split("/")]
        arms = max(2 if stored is None else len(stored), len(words)) if len(words) == 1 else len(words)
    if any(len(pair) != 2 for pair in words):
        raise ValueError(f"--prior takes two numbers with a comma, such as 1,1, but {text!r} was given.")
    arms = whole("arms", count, arms, 2)
    if len(words) not in (1, arms):
        raise ValueError(f"--prior has {len(words)} pairs for {arms} arms: give one, or one an arm.")
    numbers = [[number("prior", word, None) for word in pair] for pair in words]
    return np.array(numbers * (arms if len(numbers) == 1 else 1), np.float64)


def _criterion(given: dict[str, str | None], stored: dict[str, Any] | None) -> FiniteHorizon | Discounted:
    """`--horizon` and `--discount`; where one of them was stored, the other overrides or joins it."""
    kept = None if stored is None else from_table(stored, [FiniteHorizon, Discounted], "criterion")
    discount = number("discount", given["discount"], 1.0)
    if given["horizon"] is not None:
        if given["discount"] is None and isinstance(kept, FiniteHorizon):
            discount = kept.discount
        return FiniteHorizon(whole("horizon", given["horizon"], None, 1), discount)
    if given["discount"] is not None:
        return FiniteHorizon(kept.horizon, discount) if isinstance(kept, FiniteHorizon) else Discounted(discount)
    if kept is None:
        raise ValueError("bernoulli-bandit needs --horizon N, or --discount G for rewards without an end.")
    return kept


def _print(run: ExactBanditRun, folder: Path | None) -> None:
    from rich.console import Console
    from rich.table import Table

    console = Console(no_color="NO_COLOR" in os.environ or None, highlight=False)
    summary = run.summary()
    console.print(f"{run.problem.arms} arms, value {format_number(summary['value'])} under the belief")
    console.print(
        f"with known arms {format_number(summary['informed'])}: Bayes regret {format_number(summary['bayes_regret'])}"
    )
    firsts = ", ".join(format_number(value) for value in summary["first"])
    console.print(f"value by the first arm: {firsts}")
    if summary["after_one"] is not None:
        console.print(f"after a one of arm 0 pull arm {summary['after_one']}, after a zero arm {summary['after_zero']}")
    table = Table(box=None, padding=(0, 2, 0, 0))
    for title in ("policy", "pulls", "Bayes regret"):
        table.add_column(title)
    for name, row in summary["regret"].items():
        table.add_row(name, str(row["pulls"]), format_number(row["bayes_regret"]))
    console.print(table)
    if folder is not None:
        console.print(f"report: {folder / 'report.html'}", soft_wrap=True)
