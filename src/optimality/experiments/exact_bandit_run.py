"""The Bayes-optimal way to pull arms of unknown chances: solve, compare, and write it down."""

from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from optimality.core.solve import Solution, solve
from optimality.experiments.bandit_run import KIND
from optimality.experiments.configuration import kind_of, to_table
from optimality.experiments.exact_bandit_plots import plot_horizon_regret, plot_optimal_pulls
from optimality.experiments.measured import stopwatch
from optimality.experiments.report import render
from optimality.experiments.run_folder import RunFolder, failures_noted, require_writable
from optimality.experiments.saved_policy import FILE, policy_bytes
from optimality.exploration.bandit_policy import ArmStatistics
from optimality.exploration.bayes_regret import bayes_regret
from optimality.exploration.bernoulli_bandit import BernoulliBandit, ExactBandit
from optimality.exploration.greedy import Greedy
from optimality.exploration.thompson import Thompson
from optimality.problems.criterion import FiniteHorizon

LONGEST = {2: 80, 3: 14, 4: 8}
"""Pulls up to which policies are compared, by the number of arms; of more arms, as many as of four."""
LONGEST_THOMPSON = {2: 40, 3: 12, 4: 6}
"""Likewise of Thompson sampling, whose chances are integrals."""
HORIZONS = (2, 5, 10, 20, 40)
"""Whose best policies are compared, if shorter than the problem's."""
MOST_BYTES = 50_000_000
"""Of a policy that is saved."""


class ExactBanditRun(NamedTuple):
    """Everything that the report shows."""

    problem: BernoulliBandit
    method: ExactBandit
    solution: Solution
    regret: dict[str, np.ndarray]
    """Exact Bayes regret of each policy after 1, 2, ... pulls."""
    best: dict[int, float]
    """Least Bayes regret by the horizon; empty without one."""
    seconds: dict[str, float]

    @property
    def saves(self) -> bool:
        """Whether the policy is small enough to be saved."""
        return np.asarray(self.solution.policy.gains).nbytes <= MOST_BYTES

    def summary(self) -> dict[str, Any]:
        """The numbers, for `run.json` and `--json`."""
        prior, details = self.problem.prior, self.solution.details
        after = [_after_first(self, outcome) for outcome in (0, 1)]
        return {
            "problem": KIND,
            "method": kind_of(type(self.method)),
            "prior": [[float(a), float(b)] for a, b in zip(prior.successes, prior.failures, strict=True)],
            "criterion": to_table(self.problem.criterion),
            "planned": int(np.shape(self.solution.policy.gains)[0]),
            "value": float(self.solution.value),
            "informed": float(details.informed),
            "bayes_regret": float(details.regret),
            "first": [float(value) for value in details.first],
            "after_zero": after[0],
            "after_one": after[1],
            "regret": {name: {"pulls": r.size, "bayes_regret": float(r[-1])} for name, r in self.regret.items()},
            "best_by_horizon": {str(horizon): regret for horizon, regret in self.best.items()},
            "saved": self.saves,
            "seconds": self.seconds,
        }

    def figures(self) -> dict[str, Any]:
        """Caption to figure, in the report's order."""
        discounted = float(np.asarray(self.problem.criterion.discount)) < 1.0
        figures = {"Bayes regret and the horizon": plot_horizon_regret(self.regret, self.best, discounted=discounted)}
        if self.problem.arms == 2 and np.shape(self.solution.policy.gains)[0] > 2:
            figures["Which arm to pull"] = plot_optimal_pulls(self.solution.policy, self.problem.prior)
        return figures


def run_exact_bandit(
    problem: BernoulliBandit, method: ExactBandit, *, out: Path | None = None, command: list[str] | None = None
) -> tuple[ExactBanditRun, Path | None]:
    """Solves, compares with Thompson sampling and greedy pulls and, with `out`, writes the run folder and its report.

    Raises:
        ValueError: bad input, before anything is written.
        SolverError: the method did not succeed.
    """
    method.check(problem)
    folder = None
    if out is not None:
        require_writable(out)
        prior = np.stack([np.asarray(problem.prior.successes), np.asarray(problem.prior.failures)], axis=1)
        config = {
            "command": "solve",
            "problem": {"kind": KIND, "prior": prior.tolist()},
            "criterion": to_table(problem.criterion),
            "method": to_table(method),
        }
        kind = kind_of(type(method))
        folder = RunFolder.create(out, method=kind, problem=KIND, seed=0, config=config, command=command or [])
    with failures_noted(folder):
        run = _solve(problem, method)
        if folder is not None:
            title = f"{KIND} by {kind_of(type(method))}"
            folder.write_text(
                "report.html", render("exact_bandit.html.jinja", title, run.summary(), run.figures(), folder)
            )
            folder.metrics(_rows(run))
            if run.saves:
                folder.write_bytes(FILE, policy_bytes(run.solution.policy))
            folder.finish("finished", summary=run.summary())
    return run, None if folder is None else folder.path


def _solve(problem: BernoulliBandit, method: ExactBandit) -> ExactBanditRun:
    seconds: dict[str, float] = {}
    timed = partial(stopwatch, seconds)
    solution = timed("solve", lambda: solve(problem, method))
    planned, prior, few = np.shape(solution.policy.gains)[0], problem.prior, min(problem.arms, 4)
    policies: dict[str, tuple[Any, int]] = {
        "Bayes-optimal": (solution.policy, LONGEST[few]),
        "Thompson": (Thompson(prior=prior), LONGEST_THOMPSON[few]),
        "greedy": (Greedy(prior=prior), LONGEST[few]),
    }
    regret = {}
    for name, (policy, longest) in policies.items():
        pulls = min(planned, longest)
        regret[name] = timed(f"regret of {name}", lambda p=policy, n=pulls: _discounted_regret(problem, p, n))
    best = timed("best by horizon", lambda: _best_by_horizon(problem, method, solution))
    return ExactBanditRun(problem, method, solution, regret, best, seconds)


def _discounted_regret(problem: BernoulliBandit, policy: Any, pulls: int) -> np.ndarray:
    lost = np.diff(bayes_regret(policy, problem.prior, pulls).regret, prepend=0.0)
    return np.cumsum(lost * float(np.asarray(problem.criterion.discount)) ** np.arange(pulls))


def _best_by_horizon(problem: BernoulliBandit, method: ExactBandit, solution: Solution) -> dict[int, float]:
    criterion = problem.criterion
    if not isinstance(criterion, FiniteHorizon):
        return {}
    shorter = [horizon for horizon in HORIZONS if horizon < criterion.horizon]
    problems = {h: BernoulliBandit(problem.prior, FiniteHorizon(h, criterion.discount)) for h in shorter}
    best = {horizon: float(solve(each, method).details.regret) for horizon, each in problems.items()}
    return {**best, criterion.horizon: float(solution.details.regret)}


def _after_first(run: ExactBanditRun, outcome: int) -> int | None:
    """The second pull, where the first was of arm 0 and paid `outcome`."""
    policy, pulls = run.solution.policy, np.zeros(run.problem.arms, np.int32)
    if np.shape(policy.gains)[0] < 2:
        return None
    pulls[0] = 1
    return int(np.argmax(np.asarray(policy.probabilities(ArmStatistics(pulls, pulls * outcome), 1))))


def _rows(run: ExactBanditRun) -> list[dict[str, Any]]:
    """Of `metrics.jsonl`."""
    curves = [
        {"policy": name, "step": step, "bayes_regret": float(regret)}
        for name, values in run.regret.items()
        for step, regret in enumerate(values, 1)
    ]
    best = [{"policy": "best for this horizon", "step": h, "bayes_regret": regret} for h, regret in run.best.items()]
    return [*curves, *best]
