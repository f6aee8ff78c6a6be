"""To play again or to stop, from measured rewards and times: solve, and write it down."""

from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from optimality.beliefs import GammaExponential, GammaKnownShape
from optimality.core.solve import Solution, solve
from optimality.experiments.configuration import kind_of, to_table
from optimality.experiments.decision_plots import (
    plot_break_evens,
    plot_decision_rule,
    plot_horizons,
    plot_predictions,
    plot_unknowns,
)
from optimality.experiments.decision_rollouts import LONGEST, Courses, play_courses
from optimality.experiments.measured import stopwatch
from optimality.experiments.report import format_number, render
from optimality.experiments.run_folder import RunFolder, failures_noted, require_writable
from optimality.experiments.saved_policy import FILE, policy_bytes
from optimality.exploration.break_even_rates import break_even_rates
from optimality.exploration.exact_play import ExactPlayOrNot, PlayPolicy
from optimality.exploration.play_criteria import PlayCriteria
from optimality.exploration.play_horizons import PlayHorizons, play_horizons
from optimality.exploration.play_or_not import Deadline, PlayOrNot
from optimality.problems.criterion import Discounted, FiniteHorizon

HORIZONS = (1, 2, 3, 4, 5, 7, 10, 14, 20, 30, 50, 70, 100)
"""Numbers of games in the report."""
WORLDS, SHOWN = 20_000, 8
"""Courses that are simulated, and drawn."""
MOST_ROWS = 200
"""Of the rule."""
SHOWN_CRITERIA = {
    "one game": "",
    "chance that the rate beats K": "",
    "ratio of means": "one game: ratio of means",
    "mean of the ratio": "mean of the ratio r / t",
    "median rate": "median of the rate",
    "chance that one game pays": "even chance that one game pays",
    "exponential utility, seeking": "exponential utility, seeking",
    "CVaR": "worst cases of a game (CVaR)",
    "long run": "long run: mean of the rate",
    "log growth": "growth: exp E log (r / t)",
}
"""Names in the figure; those without one are the same as another."""


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
        before = self.before()
        rewards: Any = before.rewards.update_batch(self.rewards) if self.rewards else before.rewards
        times: Any = before.times.update_batch(self.times) if self.times else before.times
        return PlayOrNot(rewards, times, self.rate, before.criterion)

    def before(self) -> PlayOrNot:
        """With the beliefs before the data."""
        kinds: dict[str, Any] = {"games": FiniteHorizon, "chance": Discounted, "deadline": Deadline}
        extent = int(self.extent) if self.horizon == "games" else self.extent
        return PlayOrNot(
            GammaKnownShape(self.reward_shape, *self.reward_prior),
            GammaExponential(*self.time_prior),
            self.rate,
            kinds[self.horizon](extent),
        )


class DecisionRun(NamedTuple):
    """Everything that the report shows."""

    data: DecisionData
    problem: PlayOrNot
    method: ExactPlayOrNot
    solution: Solution
    criteria: PlayCriteria
    break_evens: dict[str, float]
    """Of each criterion, by its name."""
    horizons: PlayHorizons | None
    """By number of games; None where a mean does not exist."""
    courses: Courses | None
    """Of the policy in worlds drawn from the belief; None with a deadline."""
    seconds: dict[str, float]

    def summary(self) -> dict[str, Any]:
        """The numbers, for `run.json` and `--json`."""
        problem, details = self.problem, self.solution.details
        rows = [{**row._asdict(), "break_even": self.break_evens[row.name]} for row in self.criteria.rows()]
        return {
            "problem": problem.name,
            "method": kind_of(type(self.method)),
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
            "perfect_information": float(self.criteria.perfect_information),
            "criteria": rows,
            "why": why(self),
            "rule": rule(self),
            "simulated": simulated(self),
            "notes": notes(problem),
            "seconds": self.seconds,
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
    with failures_noted(folder):
        run = _decide(data, problem, method)
        if folder is not None:
            page = render("decision.html.jinja", "Play or not", run.summary(), figures(run), folder)
            folder.write_text("report.html", page)
            folder.metrics(rule(run))
            folder.write_bytes(FILE, policy_bytes(run.solution.policy))
            folder.finish("finished", summary=run.summary())
    return run, None if folder is None else folder.path


def _decide(data: DecisionData, problem: PlayOrNot, method: ExactPlayOrNot) -> DecisionRun:
    seconds: dict[str, float] = {}
    timed = partial(stopwatch, seconds)
    solution = timed("solve", lambda: solve(problem, method))
    criteria = timed("criteria", lambda: solution.details.criteria)
    rates = timed(
        "break-even rates",
        lambda: break_even_rates(problem.rewards, problem.times, level=method.level, risk=method.risk),
    )
    exist = min(float(problem.rewards.shape), float(problem.times.shape)) > 1.0
    listed = data.horizon == "games" and data.extent <= LONGEST
    numbers = {*HORIZONS, int(data.extent)} if listed else {*HORIZONS}
    horizons = courses = None
    if exist:
        horizons = timed("horizons", lambda: play_horizons(problem, sorted(numbers), grid=min(method.grid, 4096)))
    if isinstance(solution.policy, PlayPolicy):
        courses = timed("courses", lambda: play_courses(problem, solution.policy, worlds=WORLDS, shown=SHOWN, seed=0))
    return DecisionRun(data, problem, method, solution, criteria, rates, horizons, courses, seconds)


def why(run: DecisionRun) -> list[str]:
    """What makes the criteria differ, with this decision's numbers."""
    c, details, word = run.criteria, run.solution.details, format_number
    rewards, times = run.problem.rewards.predictive(), run.problem.times.predictive()
    mean_reward, mean_time = float(rewards.mean()), float(times.mean())
    said = []
    if np.isfinite(mean_reward) and np.isfinite(mean_time):
        theta = float(run.problem.times.shape)
        said.append(
            f"A game is expected to pay {word(mean_reward)} and to take {word(mean_time)}. One game, and many with "
            f"fresh unknowns, earn the ratio of these means, {word(float(c.ratio_of_means))} per unit time."
        )
        said.append(
            f"The mean of the unknown rate, {word(float(c.long_run))}, is {word(theta / (theta - 1.0))} times that: "
            f"who plays for ever spends as much time in a slow world as in a fast one, who plays a number of games "
            f"spends more in the slow one."
        )
    low, high, level = float(c.low_rate), float(c.high_rate), 100.0 * float(c.level)
    said.append(
        f"The data leave the rate between {word(low)} and {word(high)}, {word(100.0 - 2.0 * level)} % of the belief. "
        f"Quantiles, chances and CVaR decide by where in it they look."
    )
    said.append(
        "Means of r / t and of exponentials of r - K t are infinite under every belief of this kind, since times near "
        "zero and long tails are too likely: such a player always plays or never does, whatever the data."
    )
    if np.isfinite(float(details.break_even)) and float(details.bonus) > 1.0 + 1e-9:
        said.append(
            f"Who may quit after any game risks one game, and has all the others to gain. So playing is right up to a "
            f"rate of {word(float(details.break_even))}, {word(float(details.bonus))} times that of a single game."
        )
    return said


def rule(run: DecisionRun) -> list[dict[str, Any]]:
    """After how many games what was earned per unit time, the prior's shares included, must be above what."""
    policy = run.solution.policy
    if not isinstance(policy, PlayPolicy):
        return []
    needed = float(np.asarray(policy.rate)) * np.asarray(policy.thresholds, np.float64)[:MOST_ROWS]
    return [{"games_played": n, "go_on_above": float(number)} for n, number in enumerate(needed)]


def simulated(run: DecisionRun) -> dict[str, Any] | None:
    """How the policy's courses went. The mean of what they earned has a standard error only where variances exist."""
    if run.courses is None:
        return None
    played, earned = run.courses.played, run.courses.earned
    spread = min(float(run.problem.rewards.shape), float(run.problem.times.shape)) > 2.0
    return {
        "worlds": int(played.size),
        "games_played": float(played.mean()),
        "earned": float(earned.mean()),
        "standard_error": float(earned.std(ddof=1) / np.sqrt(earned.size)) if spread else np.nan,
        "lost": float(np.mean(earned < 0.0)),
        "cut": run.courses.cut,
    }


def notes(problem: PlayOrNot) -> list[str]:
    """What does not exist under these beliefs, and what to do."""
    said = []
    epsilon, theta = float(problem.rewards.shape), float(problem.times.shape)
    if epsilon <= 1.0:
        said.append(
            f"The mean reward is infinite: the belief's shape is {format_number(epsilon)}, and a mean needs more than "
            f"1. Observe a reward, or use a larger --reward-prior."
        )
    if theta <= 1.0:
        said.append(
            f"The mean time is infinite: the belief's shape is {format_number(theta)}, and a mean needs more than 1. "
            f"Observe a time, or use a larger --time-prior."
        )
    if min(epsilon, theta) > 1.0 and min(epsilon, theta) <= 2.0:
        said.append("A variance is infinite: means of simulated courses are right, but come slowly.")
    return said


def figures(run: DecisionRun) -> dict[str, Any]:
    """Caption to figure, in the report's order; those that cannot be drawn are left out."""
    data, details = run.data, run.solution.details
    kind = {"games": f"of at most {data.extent:g} games", "chance": f"with chance {data.extent:g} of another"}
    named = {SHOWN_CRITERIA.get(name, name): rate for name, rate in run.break_evens.items()}
    named = {name: rate for name, rate in named.items() if name}
    named[f"Bayes-optimal, {kind.get(data.horizon, f'until {data.extent:g}')}"] = float(details.break_even)
    listed = data.horizon == "games" and data.extent <= LONGEST
    now = (int(data.extent), data.rate) if listed else None
    drawn = {
        "What is believed": plot_unknowns(run.problem, data.before(), data.rewards, data.times, data.rate),
        "The next game": plot_predictions(run.problem, data.rewards, data.times),
        "Break-even rates": plot_break_evens(named, data.rate),
    }
    if run.horizons is not None:
        one_game = float(details.myopic_break_even)
        drawn["More games to come"] = plot_horizons(run.horizons, data.rate, one_game, now)
    paths = [] if run.courses is None else run.courses.ratios
    drawn["When to go on"] = plot_decision_rule(run.solution.policy, paths)
    return drawn
