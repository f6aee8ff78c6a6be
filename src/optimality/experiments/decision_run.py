"""To play again or to stop, from measured rewards and times: solve, and write it down."""

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from optimality.beliefs import GammaExponential, GammaKnownShape
from optimality.core.solve import Solution, solve
from optimality.experiments.configuration import kind_of, to_table
from optimality.experiments.decision_plots import plot_beliefs, plot_decision_rule, plot_rates
from optimality.experiments.report import render
from optimality.experiments.run_folder import RunFolder, require_writable
from optimality.exploration.exact_play import ExactPlayOrNot
from optimality.exploration.play_or_not import Deadline, PlayOrNot
from optimality.problems.criterion import Discounted, FiniteHorizon


class DecisionData(NamedTuple):
    """What the decision is made from: the numbers themselves, so that a configuration repeats it without the files."""

    rate: float
    rewards: list[float]
    times: list[float]
    reward_shape: float = 1.0
    reward_prior: tuple[float, float] = (1.0, 1.0)
    time_prior: tuple[float, float] = (1.0, 1.0)
    horizon: str = "games"
    """`games`, `chance` (of another) or `deadline`."""
    extent: float = 10.0

    def problem(self) -> PlayOrNot:
        """With the beliefs after the data. Raises `ValueError` for numbers out of range."""
        rewards: Any = GammaKnownShape(self.reward_shape, *self.reward_prior)
        times: Any = GammaExponential(*self.time_prior)
        rewards = rewards.update_batch(self.rewards) if self.rewards else rewards
        times = times.update_batch(self.times) if self.times else times
        kinds: dict[str, Any] = {"chance": Discounted, "deadline": Deadline}
        if self.horizon == "games":
            return PlayOrNot(rewards, times, self.rate, FiniteHorizon(int(self.extent)))
        return PlayOrNot(rewards, times, self.rate, kinds[self.horizon](self.extent))


class DecisionRun(NamedTuple):
    """Everything that the report shows."""

    data: DecisionData
    problem: PlayOrNot
    method: ExactPlayOrNot
    solution: Solution

    def summary(self) -> dict[str, Any]:
        """The numbers, for `run.json` and `--json`."""
        problem, details = self.problem, self.solution.details
        return {
            "rate": float(problem.rate),
            "games_measured": {"rewards": len(self.data.rewards), "times": len(self.data.times)},
            "horizon": {"kind": self.data.horizon, "extent": self.data.extent},
            "posterior": {
                "reward_shape": float(problem.rewards.outcome_shape),
                "rewards": [float(problem.rewards.shape), float(problem.rewards.rate)],
                "times": [float(problem.times.shape), float(problem.times.rate)],
            },
            "play": bool(details.play),
            "value": float(self.solution.value),
            "break_even": float(details.break_even),
            "bonus": float(details.bonus),
            "commitment": float(details.commitment),
            "perfect_information": float(details.criteria.perfect_information),
            "criteria": [row._asdict() for row in details.criteria.rows()],
        }


def run_decision(
    data: DecisionData, method: ExactPlayOrNot, *, out: Path | None = None, command: list[str] | None = None
) -> tuple[DecisionRun, Path | None]:
    """Decides and, with `out`, writes the run folder and its report.

    Raises:
        ValueError: bad input, before anything is written.
        SolverError: the method did not succeed.
    """
    problem = data.problem()
    method.check(problem)
    if out is not None:
        require_writable(out)
    folder = None
    if out is not None:
        config = {
            "command": "solve",
            "problem": {"kind": "play-or-not"},
            "method": to_table(method),
            "run": {**data._asdict(), "reward_prior": list(data.reward_prior), "time_prior": list(data.time_prior)},
        }
        kind = kind_of(type(method))
        folder = RunFolder.create(out, method=kind, problem="play-or-not", seed=0, config=config, command=command or [])
    try:
        run = DecisionRun(data, problem, method, solve(problem, method))
        if folder is not None:
            page = render("decision.html.jinja", "Play or not", run.summary(), figures(run), folder)
            folder.write_text("report.html", page)
            folder.finish("finished", summary=run.summary())
    except KeyboardInterrupt:
        if folder is not None:
            folder.finish("interrupted")
        raise
    except Exception as error:
        if folder is not None:
            folder.finish("failed", error=f"{type(error).__name__}: {error}")
        raise
    return run, None if folder is None else folder.path


def figures(run: DecisionRun) -> dict[str, Any]:
    """Caption to figure, in the report's order."""
    details = run.solution.details
    criteria = details.criteria
    rates = {
        "low quantile of the rate": criteria.low_rate,
        "median of the rate": criteria.median_rate,
        "ratio of means (one game)": criteria.ratio_of_means,
        "mean of the rate (long run)": criteria.long_run,
        "high quantile of the rate": criteria.high_rate,
        "growth, exp E log (r / t)": np.exp(criteria.log_growth),
        "break-even, free to quit": details.break_even,
    }
    return {
        "What is believed": plot_beliefs(run.problem, run.data.rewards, run.data.times),
        "Rates": plot_rates({name: float(np.asarray(rate)) for name, rate in rates.items()}, run.data.rate),
        "When to go on": plot_decision_rule(run.problem, run.solution.policy),
    }
