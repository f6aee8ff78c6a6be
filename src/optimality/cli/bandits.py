"""`optimality train bernoulli-bandit` and `optimality solve bernoulli-bandit`."""

import os
import sys
from pathlib import Path
from typing import Any

import numpy as np

from optimality.beliefs import BetaBernoulli
from optimality.cli.main import complain
from optimality.cli.options import number, parse, take_flag, take_option, whole
from optimality.core.result import SolverError
from optimality.core.solve import solve
from optimality.experiments.bandit_run import BanditStudy, run_bandit
from optimality.experiments.report import format_number
from optimality.experiments.run_folder import to_json
from optimality.exploration.bernoulli_bandit import BernoulliBandit, ExactBandit
from optimality.problems.criterion import Discounted, FiniteHorizon
from optimality.registry import BANDIT_POLICIES

TRAIN_HELP = """usage: optimality train bernoulli-bandit POLICY[,POLICY...] --arms P,P[,P...] [options]

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
  --json                   the summary as JSON on standard output, and nothing else there
"""

SOLVE_HELP = """usage: optimality solve bernoulli-bandit (--horizon N | --discount G) [options]

The best way to pull arms of unknown chances: value, Bayes regret and first pulls of the Bayes-optimal policy.

options:
  --horizon N              pulls in all
  --discount G             of rewards; without --horizon: no end
  --arms K                 how many arms, each with the same prior (2)
  --prior A,B              Beta(A, B) belief about every arm; A,B/A,B/... one an arm (1,1)
  --json                   everything as JSON on standard output, and nothing else there
  and the method's own: --most-pulls N, --most-numbers N
"""


def train_bandit_command(arguments: list[str]) -> int:
    """Exit codes: 0, 2 for bad input."""
    if "--help" in arguments or "-h" in arguments:
        lines = "\n".join(f"  {entry.name:20} {entry.help}" for entry in BANDIT_POLICIES)
        print(TRAIN_HELP.format(policies=lines), end="")
        return 0
    command = ["optimality", "train", "bernoulli-bandit", *arguments]
    try:
        as_json, arguments = take_flag(arguments, "json")
        given: dict[str, str | None] = {}
        for name in ("arms", "steps", "runs", "seed", "out"):
            given[name], arguments = take_option(arguments, name)
        if len(arguments) != 1 or arguments[0].startswith("-"):
            raise ValueError("bernoulli-bandit takes its policies, such as ucb1,thompson, and --arms; see --help.")
        if given["arms"] is None:
            raise ValueError("bernoulli-bandit needs --arms, each arm's chance of paying 1: --arms 0.1,0.5,0.9.")
        study, path = run_bandit(
            [number("arms", text, None) for text in given["arms"].split(",")],
            arguments[0],
            steps=whole("steps", given["steps"], 10_000, 1),
            runs=whole("runs", given["runs"], 200, 1),
            seed=whole("seed", given["seed"], 0, 0),
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


def solve_bandit_command(arguments: list[str]) -> int:
    """Exit codes: 0, 2 for bad input, 3 where the method failed."""
    if "--help" in arguments or "-h" in arguments:
        print(SOLVE_HELP, end="")
        return 0
    try:
        as_json, arguments = take_flag(arguments, "json")
        problem, arguments = _problem(arguments)
        method = parse(ExactBandit(), arguments, prog="optimality solve bernoulli-bandit", description="")
        solution = solve(problem, method)
    except ValueError as error:
        return complain(str(error))
    except SolverError as error:
        print(f"optimality: {error}", file=sys.stderr)
        return 3
    summary = _summary(problem, solution)
    if as_json:
        print(to_json(summary, indent=2))
        return 0
    print(f"{problem.arms} arms, value {format_number(summary['value'])} under the belief")
    print(
        f"with known arms {format_number(summary['informed'])}: Bayes regret {format_number(summary['bayes_regret'])}"
    )
    firsts = ", ".join(format_number(value) for value in summary["first"])
    print(f"value by the first arm: {firsts}")
    if summary["after_one"] is not None:
        print(f"after a one of arm 0 pull arm {summary['after_one']}, after a zero arm {summary['after_zero']}")
    return 0


def _problem(arguments: list[str]) -> tuple[BernoulliBandit, list[str]]:
    given: dict[str, str | None] = {}
    for name in ("horizon", "discount", "arms", "prior"):
        given[name], arguments = take_option(arguments, name)
    priors = [text.split(",") for text in (given["prior"] or "1,1").split("/")]
    if any(len(pair) != 2 for pair in priors):
        raise ValueError(f"--prior takes two numbers with a comma, such as 1,1, but {given['prior']!r} was given.")
    arms = whole("arms", given["arms"], max(2, len(priors)), 2)
    if len(priors) not in (1, arms):
        raise ValueError(f"--prior has {len(priors)} pairs for {arms} arms: give one, or one an arm.")
    numbers = [[number("prior", text, None) for text in pair] for pair in priors]
    a, b = np.array(numbers * (arms if len(numbers) == 1 else 1), np.float64).T
    discount = number("discount", given["discount"], 1.0)
    if given["horizon"] is not None:
        criterion: Any = FiniteHorizon(whole("horizon", given["horizon"], None, 1), discount)
    elif given["discount"] is not None:
        criterion = Discounted(discount)
    else:
        raise ValueError("bernoulli-bandit needs --horizon N, or --discount G for rewards without an end.")
    return BernoulliBandit(BetaBernoulli(a, b), criterion), arguments


def _summary(problem: BernoulliBandit, solution: Any) -> dict[str, Any]:
    from optimality.exploration.bandit_policy import ArmStatistics

    pulls = np.zeros(problem.arms, np.int32)
    pulls[0] = 1
    after: list[int | None] = [None, None]
    if np.shape(solution.policy.gains)[0] > 1:
        for outcome in (0, 1):
            gains = solution.policy.probabilities(ArmStatistics(pulls, pulls * outcome), 1)
            after[outcome] = int(np.argmax(np.asarray(gains)))
    return {
        "problem": "bernoulli-bandit",
        "prior": [[float(a), float(b)] for a, b in zip(problem.prior.successes, problem.prior.failures, strict=True)],
        "value": float(solution.value),
        "informed": float(solution.details.informed),
        "bayes_regret": float(solution.details.regret),
        "first": [float(value) for value in solution.details.first],
        "after_zero": after[0],
        "after_one": after[1],
    }


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
