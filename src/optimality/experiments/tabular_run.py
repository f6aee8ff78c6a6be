"""The main job: plan in a table, evaluate the plan exactly, and hold it against the real environment."""

import math
import time
from pathlib import Path
from typing import Any, NamedTuple

import equinox as eqx
import numpy as np

from optimality.core.result import Result
from optimality.core.solve import AbstractDirect, AbstractIterative, Solution, solve
from optimality.experiments import plots
from optimality.experiments.configuration import kind_of, to_table
from optimality.experiments.problem_choice import ProblemChoice
from optimality.experiments.report import write_report
from optimality.experiments.rollouts import Rollouts, in_environment, in_model
from optimality.experiments.run_folder import RunFolder, require_writable
from optimality.experiments.saved_policy import FILE, policy_bytes
from optimality.experiments.statistics import DISAGREEMENT, MeanInterval, mean_interval, return_moments, z_score
from optimality.experiments.temperature_sweep import TemperatureSweep, is_small, temperature_sweep
from optimality.planning.policy_evaluation import PolicyEvaluation, UnderPolicy
from optimality.planning.value_iteration import ValueIteration
from optimality.problems.criterion import AverageReward, FiniteHorizon
from optimality.problems.tabular import TabularMDP

Method = AbstractDirect | AbstractIterative


class Measured(NamedTuple):
    """A check against episodes: `verdict` is `agrees`, `disagrees` or `not comparable`, with the reason."""

    where: str
    rollouts: Rollouts
    interval: MeanInterval
    exact: float
    exact_deviation: float
    z: float
    verdict: str
    reason: str


class PlanningRun(NamedTuple):
    """Everything that the report shows."""

    choice: ProblemChoice
    mdp: TabularMDP
    method: Method
    solution: Solution
    expected_return: float
    expected_entropy: float
    optimum: float
    measured: Measured
    sweep: TemperatureSweep | None
    notes: list[str]
    seconds: dict[str, float]
    seed: int

    @property
    def temperature(self) -> float | None:
        temperature = getattr(self.method, "temperature", None)
        return None if temperature is None else float(np.asarray(temperature))

    def summary(self) -> dict[str, Any]:
        """The numbers, for `run.json` and `--json`."""
        measured, details = self.measured, self.solution.details
        inference = {
            name: float(getattr(details, name)) for name in ("log_evidence", "elbo", "gap") if hasattr(details, name)
        }
        return {
            "problem": self.mdp.name,
            "method": kind_of(type(self.method)),
            "criterion": to_table(self.mdp.criterion),
            "result": self.solution.result.name.lower(),
            "steps": int(self.solution.stats["steps"]),
            "exact": {
                "expected_return": self.expected_return,
                "expected_entropy": self.expected_entropy,
                "value": start_value(self.mdp, self.solution),
                "optimum": self.optimum,
                **inference,
            },
            "measured": {
                "where": measured.where,
                "episodes": measured.interval.samples,
                "mean": measured.interval.mean,
                "interval_95": [measured.interval.low, measured.interval.high],
                "mean_length": float(measured.rollouts.lengths.mean()),
                "exact_standard_deviation": measured.exact_deviation,
                "z": measured.z,
                "verdict": measured.verdict,
                "reason": measured.reason,
            },
            "notes": self.notes,
            "seconds": self.seconds,
            "seed": self.seed,
        }


def run_planning(
    choice: ProblemChoice,
    method: Method,
    *,
    episodes: int = 1000,
    seed: int = 0,
    sweep: bool | None = None,
    out: Path | None = None,
    command: list[str] | None = None,
) -> tuple[PlanningRun, Path | None]:
    """Solves, evaluates, measures and, with `out`, writes the run folder and its report.

    Args:
        choice: the problem by name.
        method: how to plan.
        episodes: episodes of the check.
        seed: of the check's randomness; planning has none.
        sweep: draw return, entropy and evidence against temperature; by default where the problem is small.
        out: parent of the run folder; nothing is written without it.
        command: how this was called, for the record.

    Raises:
        ValueError: bad input, before anything is written.
        SolverError: the method did not succeed.
    """
    if episodes < 1:
        raise ValueError(f"episodes must be at least 1, but {episodes} was given.")
    if out is not None:
        require_writable(out)
    mdp = choice.build()
    method.check(mdp)
    folder = None
    if out is not None:
        config = {
            "command": "solve",
            "problem": choice.to_table(),
            "criterion": to_table(mdp.criterion),
            "method": to_table(method),
            "run": {"episodes": episodes, "seed": seed, "sweep": "auto" if sweep is None else sweep},
        }
        folder = RunFolder.create(
            out, method=kind_of(type(method)), problem=mdp.name, seed=seed, config=config, command=command or []
        )
    try:
        run = _compute(choice, mdp, method, episodes, seed, sweep)
        if folder is not None:
            _write(run, folder)
    except KeyboardInterrupt:
        if folder is not None:
            folder.finish("interrupted")
        raise
    except Exception as error:
        if folder is not None:
            folder.finish("failed", error=f"{type(error).__name__}: {error}")
        raise
    return run, None if folder is None else folder.path


def _compute(choice, mdp, method, episodes, seed, sweep) -> PlanningRun:
    seconds: dict[str, float] = {}

    def timed(name, function):
        start = time.perf_counter()
        result = function()
        seconds[name] = round(time.perf_counter() - start, 3)
        return result

    notes = _notes(mdp)
    solution = timed("solve", lambda: solve(mdp, method))
    evaluated = timed("evaluate", lambda: solve(UnderPolicy(mdp, solution.policy), PolicyEvaluation(), throw=False))
    if not evaluated.result.is_success:
        notes.append(f"evaluation of the policy: {evaluated.result.sentence}")
    best = timed("optimum", lambda: solve(mdp, ValueIteration(), throw=False))
    optimum = start_value(mdp, best) if best.result.is_success else math.nan
    if not best.result.is_success:
        notes.append(f"optimum: {best.result.sentence}")
    measured = timed("episodes", lambda: _measure(choice, mdp, solution, evaluated, episodes, seed))
    swept = None
    if sweep or (sweep is None and is_small(mdp)):
        swept = timed("sweep", lambda: temperature_sweep(mdp))
    return PlanningRun(
        choice,
        mdp,
        method,
        solution,
        float(evaluated.details.expected_return),
        float(evaluated.details.expected_entropy),
        optimum,
        measured,
        swept,
        notes,
        seconds,
        seed,
    )


def start_value(mdp: TabularMDP, solution: Solution) -> float:
    """Value expected over the first state; for average reward the gain."""
    if isinstance(mdp.criterion, AverageReward):
        return float(solution.details.gain)
    value = np.asarray(solution.value)
    first = value[0] if isinstance(mdp.criterion, FiniteHorizon) else value
    return float(np.asarray(mdp.initial) @ first)


def _notes(mdp: TabularMDP) -> list[str]:
    unreachable = mdp.unreachable()
    if not unreachable.size:
        return []
    shown = ", ".join(str(state) for state in unreachable[:8]) + (", ..." if unreachable.size > 8 else "")
    return [f"{unreachable.size} of {mdp.shape[0]} states cannot be entered, whatever is done: {shown}."]


def _measure(choice, mdp, solution, evaluated, episodes, seed) -> Measured:
    environment = choice.environment(mdp)
    if environment is not None:
        where = f"the Gymnasium environment {mdp.name}"
        try:
            rollouts = in_environment(environment, mdp, solution.policy, episodes=episodes, seed=seed)
        finally:
            environment.close()
    else:
        where = "episodes drawn from the problem itself"
        start = mdp
        if isinstance(mdp.criterion, AverageReward):
            stationary = np.asarray(evaluated.details.occupancy).sum(axis=-1)
            start = eqx.tree_at(lambda m: m.initial, mdp, stationary)
        rollouts = in_model(start, solution.policy, episodes=episodes, seed=seed)
    interval = mean_interval(rollouts.returns)
    if isinstance(mdp.criterion, AverageReward):
        exact, deviation, known = float(evaluated.details.gain), interval.standard_deviation, episodes > 1
    else:
        exact, deviation, known = return_moments(mdp, solution.policy)
    if rollouts.cut:
        reason = f"{rollouts.cut} of {episodes} episodes were cut before they ended"
        return Measured(where, rollouts, interval, exact, deviation, math.nan, "not comparable", reason)
    if not known or evaluated.result != Result.CONVERGED:
        reason = "the exact return did not converge" if episodes > 1 else "one episode has no spread"
        return Measured(where, rollouts, interval, exact, deviation, math.nan, "not comparable", reason)
    z = z_score(interval.mean, exact, deviation, episodes)
    verdict = "agrees" if abs(z) < DISAGREEMENT else "disagrees"
    reason = f"the measured mean is {z:+.2f} standard errors from the exact one"
    return Measured(where, rollouts, interval, exact, deviation, z, verdict, reason)


def _write(run: PlanningRun, folder: RunFolder) -> None:
    trace = run.solution.stats.get("trace")
    if trace is not None:
        pairs = zip(np.asarray(trace.step), np.asarray(trace.residual), strict=True)
        folder.metrics([{"step": int(step), "residual": float(size)} for step, size in pairs if step > 0])
    else:
        values = np.asarray(run.solution.value) @ np.asarray(run.mdp.initial)
        folder.metrics([{"steps_to_go": k, "value": float(v)} for k, v in enumerate(values[::-1])])
    folder.write_bytes(FILE, policy_bytes(run.solution.policy))
    returns = "episode,return,length\n" + "".join(
        f"{i},{r!r},{n}\n"
        for i, (r, n) in enumerate(
            zip(run.measured.rollouts.returns.tolist(), run.measured.rollouts.lengths.tolist(), strict=True)
        )
    )
    folder.write_text("evaluation/episodes.csv", returns)
    write_report(run.summary(), figures(run), folder)
    disagrees = run.measured.verdict == "disagrees"
    folder.finish("disagreed" if disagrees else "finished", summary=run.summary())


def figures(run: PlanningRun) -> dict[str, Any]:
    """Caption to figure, in the report's order; those that cannot be drawn are left out."""
    values, stats = np.asarray(run.solution.value), run.solution.stats
    drawn = {
        "Value and policy at the first step": plots.plot_map(run.mdp, values, run.solution.policy),
        "Measured returns": plots.plot_returns(
            run.measured.rollouts.returns, run.measured.interval, run.measured.exact
        ),
    }
    if run.sweep is not None:
        optimum = run.optimum if math.isfinite(run.optimum) else None
        drawn["Return, entropy and evidence against temperature"] = plots.plot_temperature_sweep(
            run.sweep, optimum=optimum, temperature=run.temperature
        )
    if "trace" in stats:
        tolerance = getattr(run.method, "tolerance", None)
        drawn["Convergence"] = plots.plot_convergence(stats["trace"], None if tolerance is None else float(tolerance))
    elif values.ndim == 2:
        drawn["The backward pass"] = plots.plot_value_in_time(values, np.asarray(run.mdp.initial))
    return {caption: figure for caption, figure in drawn.items() if figure is not None}
