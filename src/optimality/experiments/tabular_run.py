"""Planning in a table: solve, evaluate the plan exactly, and hold it against the real environment."""

import math
from functools import partial
from typing import Any, NamedTuple

import equinox as eqx
import numpy as np

from optimality.core.result import Result
from optimality.core.solve import Method, Solution, solve
from optimality.experiments import plots
from optimality.experiments.configuration import kind_of, to_table
from optimality.experiments.measured import Measured, compare, stopwatch
from optimality.experiments.policy_search_plots import plot_policy_gradient, plot_policy_search
from optimality.experiments.problem_choice import ProblemChoice
from optimality.experiments.report import format_number, write_report
from optimality.experiments.rollouts import in_environment, in_model
from optimality.experiments.run_folder import RunFolder
from optimality.experiments.saved_policy import FILE, policy_bytes
from optimality.experiments.statistics import return_moments
from optimality.experiments.temperature_sweep import TemperatureSweep, is_small, temperature_sweep
from optimality.planning.exact_policy_gradient import ExactPolicyGradient, ExactPolicyGradientDetails
from optimality.planning.exact_reps import ExactREPS, ExactREPSDetails
from optimality.planning.policy_evaluation import PolicyEvaluation, UnderPolicy
from optimality.planning.policy_iteration import PolicyIteration
from optimality.planning.value_iteration import ValueIteration
from optimality.problems.criterion import AverageReward, FiniteHorizon
from optimality.problems.tabular import TabularMDP

_IMPROVE_POLICIES = (ExactPolicyGradient, ExactREPS, PolicyIteration)


class TabularRun(NamedTuple):
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
        details = self.solution.details
        extra = ("log_evidence", "elbo", "gap", "upper_bound", "optimality_gap")
        inference = {name: float(getattr(details, name)) for name in extra if hasattr(details, name)}
        return {
            "problem": self.mdp.name,
            "method": kind_of(type(self.method)),
            "criterion": to_table(self.mdp.criterion),
            "result": self.solution.result.name.lower(),
            "steps": int(self.solution.stats["steps"]),
            "counted": "iterations" if isinstance(self.method, _IMPROVE_POLICIES) else "sweeps",
            "exact": {
                "expected_return": self.expected_return,
                "expected_entropy": self.expected_entropy,
                "value": start_value(self.mdp, self.solution),
                "optimum": self.optimum,
                **inference,
            },
            "measured": self.measured.summary(),
            "notes": self.notes,
            "seconds": self.seconds,
            "seed": self.seed,
        }

    def heading(self) -> tuple[str, str]:
        """What was solved how, for the command line, and how large it is."""
        temperature = "" if self.temperature is None else f", temperature {self.temperature:g}"
        prior = getattr(self.method, "prior", None)
        form = {None: "", "none": ", entropy form"}.get(prior, f", KL form with {prior} prior")
        if isinstance(self.method, ExactREPS):
            form = f", KL bound {float(np.asarray(self.method.epsilon)):g} an iteration, from the {prior} prior"
        if isinstance(self.method, ExactPolicyGradient):
            form += f", {self.method.step} steps"
        states, actions = self.mdp.shape
        return f"{kind_of(type(self.method))}{temperature}{form}", f"{states} states, {actions} actions"

    def rows(self) -> list[tuple[str, str, str]]:
        """Label, number and remark of each exact result, for the command line."""
        exact = self.summary()["exact"]
        per = "a step" if isinstance(self.mdp.criterion, AverageReward) else "an episode"
        rows = [
            ("exact expected return", format_number(exact["expected_return"]), ""),
            ("optimum", format_number(exact["optimum"]), ""),
            ("expected entropy", format_number(exact["expected_entropy"]), f"nats {per}"),
        ]
        if "log_evidence" in exact:
            rows.append(("log evidence", format_number(exact["log_evidence"]), "nats"))
        if "elbo" in exact:
            rows.append(("evidence bound", format_number(exact["elbo"]), f"gap {format_number(exact['gap'])} nats"))
        if isinstance(self.solution.details, ExactREPSDetails):
            reached, bound = float(self.solution.details.gain), exact["upper_bound"]
            rows.append(("reward per step", format_number(reached), f"at most {format_number(bound)} by its value"))
        if isinstance(self.solution.details, ExactPolicyGradientDetails):
            last, gap = iterations(self.solution)[-1], exact["optimality_gap"]
            remark = f"of the objective, to which at most {format_number(gap)} can be added"
            rows.append(("gradient norm", format_number(last["gradient_norm"]), remark))
        return rows


def run_in_table(
    choice: ProblemChoice, mdp: TabularMDP, method: Method, *, episodes: int, seed: int, sweep: bool | None
) -> TabularRun:
    """Solves, evaluates, measures. Raises `SolverError` where the method does not succeed."""
    seconds: dict[str, float] = {}
    timed = partial(stopwatch, seconds)
    notes = _notes(mdp, method)
    solution = timed("solve", lambda: solve(mdp, method))
    evaluated = timed("evaluate", lambda: solve(UnderPolicy(mdp, solution.policy), PolicyEvaluation(), throw=False))
    if not evaluated.result.is_success:
        notes.append(f"evaluation of the policy: {evaluated.result.sentence}")
    best = timed("optimum", lambda: solve(mdp, ValueIteration(), throw=False))
    optimum = start_value(mdp, best) if best.result.is_success else math.nan
    if not best.result.is_success:
        notes.append(f"optimum: {best.result.sentence}")
    reached = float(evaluated.details.expected_return)
    if _on_plateau(method, reached, optimum):
        notes.append(
            f"The gradient vanished {format_number(optimum - reached)} below the optimum, on a plateau: where a policy "
            "is almost deterministic its gradient is near zero, whatever it does. --step natural leaves such plateaus."
        )
    measured = timed("episodes", lambda: _measure(choice, mdp, solution, evaluated, episodes, seed))
    swept = None
    if sweep or (sweep is None and is_small(mdp)):
        swept = timed("sweep", lambda: temperature_sweep(mdp))
    return TabularRun(
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


def _on_plateau(method: Method, reached: float, optimum: float) -> bool:
    if not isinstance(method, ExactPolicyGradient) or float(np.asarray(method.temperature)) > 0.0:
        return False
    return optimum - reached > 1e-3 * max(abs(optimum), abs(reached))


def start_value(mdp: TabularMDP, solution: Solution) -> float:
    """Value expected over the first state; for average reward the gain."""
    if isinstance(mdp.criterion, AverageReward):
        return float(solution.details.gain)
    value = np.asarray(solution.value)
    first = value[0] if isinstance(mdp.criterion, FiniteHorizon) else value
    return float(np.asarray(mdp.initial) @ first)


def _notes(mdp: TabularMDP, method: Method) -> list[str]:
    notes, unreachable = [], mdp.unreachable()
    if unreachable.size:
        shown = ", ".join(str(state) for state in unreachable[:8]) + (", ..." if unreachable.size > 8 else "")
        notes.append(f"{unreachable.size} of {mdp.shape[0]} states cannot be entered, whatever is done: {shown}.")
    restarts = isinstance(method, ExactREPS) and method.after_termination == "restart"
    if restarts and mdp.model.ending is not None:
        notes.append(
            "What terminates starts again at once, so that the reward per step of endless restarts was maximized, not "
            "the discounted return: --after-termination wait maximizes that."
        )
    return notes


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
    converged = evaluated.result == Result.CONVERGED
    if isinstance(mdp.criterion, AverageReward):
        return compare(where, rollouts, float(evaluated.details.gain), known=converged)
    exact, deviation, known = return_moments(mdp, solution.policy)
    return compare(where, rollouts, exact, deviation, known=known and converged)


def iterations(solution: Solution) -> list[dict[str, Any]]:
    """The course of `ExactREPS`, each policy's reward per step and the projection that led to it, or of
    `ExactPolicyGradient`: each policy's objective, gradient and entropy, and the step that led to it."""
    details, steps = solution.details, int(solution.stats["steps"])
    if isinstance(details, ExactPolicyGradientDetails):
        policies, moves = ("objective", "gradient_norm", "expected_entropy"), ("kl", "step_size")
        return [
            {
                "step": k,
                **{name: float(getattr(details, name)[k]) for name in policies},
                **{name: float(getattr(details, name)[k - 1]) for name in moves if k > 0},
            }
            for k in range(steps + 1)
        ]
    first = {"step": 0, "expected_reward": float(details.expected_reward[0])}
    return [first] + [
        {
            "step": k + 1,
            "expected_reward": float(details.expected_reward[k + 1]),
            **{name: float(getattr(details, name)[k]) for name in ("kl", "temperature", "dual")},
        }
        for k in range(steps)
    ]


def write_tabular_run(run: TabularRun, folder: RunFolder) -> None:
    """The course of the computation, the policy and the report."""
    trace = run.solution.stats.get("trace")
    if trace is not None:
        pairs = zip(np.asarray(trace.step), np.asarray(trace.residual), strict=True)
        folder.metrics([{"step": int(step), "residual": float(size)} for step, size in pairs if step > 0])
    elif isinstance(run.solution.details, ExactREPSDetails | ExactPolicyGradientDetails):
        folder.metrics(iterations(run.solution))
    else:
        values = np.asarray(run.solution.value) @ np.asarray(run.mdp.initial)
        folder.metrics([{"steps_to_go": k, "value": float(v)} for k, v in enumerate(values[::-1])])
    folder.write_bytes(FILE, policy_bytes(run.solution.policy))
    write_report(run.summary(), figures(run), folder)


def figures(run: TabularRun) -> dict[str, Any]:
    """Caption to figure, in the report's order; those that cannot be drawn are left out."""
    values, stats = np.asarray(run.solution.value), run.solution.stats
    drawn: dict[str, Any] = {"Value and policy at the first step": plots.plot_map(run.mdp, values, run.solution.policy)}
    if isinstance(run.method, ExactREPS):
        epsilon, bound = float(np.asarray(run.method.epsilon)), float(run.solution.details.upper_bound)
        drawn["Iterations"] = plot_policy_search(iterations(run.solution), epsilon=epsilon, upper_bound=bound)
    if isinstance(run.method, ExactPolicyGradient):
        hard = run.temperature == 0.0 and math.isfinite(run.optimum)
        drawn["Ascent"] = plot_policy_gradient(iterations(run.solution), optimum=run.optimum if hard else None)
    drawn["Measured returns"] = plots.plot_returns(
        run.measured.rollouts.returns, run.measured.interval, run.measured.exact
    )
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
