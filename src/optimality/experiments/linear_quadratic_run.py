"""Planning in a linear-quadratic problem: solve, evaluate exactly, and hold it against episodes with noise."""

import math
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from optimality.core.solve import Method, Solution, solve
from optimality.experiments import control_plots, plots
from optimality.experiments.configuration import kind_of, to_table
from optimality.experiments.control_rollouts import Trajectories, play
from optimality.experiments.measured import Measured, compare, stopwatch
from optimality.experiments.problem_choice import ProblemChoice
from optimality.experiments.report import format_number, write_report
from optimality.experiments.run_folder import RunFolder
from optimality.experiments.saved_policy import FILE, policy_bytes
from optimality.planning.lqr import LQR
from optimality.planning.marginals import Marginals, marginals, policy_cost
from optimality.problems.controllability import controllability
from optimality.problems.criterion import AverageReward
from optimality.problems.linear_quadratic import LinearQuadratic
from optimality.sampling.affine_gaussian_policy import AffineGaussianPolicy

SHOWN_EPISODES = 5
"""Sampled trajectories in the figures."""
LONGEST_PICTURE = 1_000
"""Steps that are drawn where the horizon is longer, or there is none."""
_OWN_NUMBERS = {
    "expected_entropy": ("expected entropy", "nats, relative to Lebesgue measure"),
    "log_evidence": ("log evidence", "nats, relative to Lebesgue measure"),
    "elbo": ("evidence bound", "nats, under the true dynamics"),
    "gap": ("gap", "nats, between them"),
    "breakdown": ("breakdown", "the risk at which the certainty equivalent is infinite"),
}
"""Numbers that some methods have, with their label and remark."""


class LinearQuadraticRun(NamedTuple):
    """Everything that the report shows. Costs are minus returns; for average reward both are per step."""

    choice: ProblemChoice
    problem: LinearQuadratic
    method: Method
    solution: Solution
    expected_cost: float
    optimal_cost: float
    marginals: Marginals
    trajectories: Trajectories
    open_loop: np.ndarray
    closed_loop: np.ndarray
    controllability: str
    measured: Measured
    notes: list[str]
    seconds: dict[str, float]
    seed: int

    @property
    def temperature(self) -> float | None:
        temperature = getattr(self.method, "temperature", None)
        return None if temperature is None else float(np.asarray(temperature))

    def summary(self) -> dict[str, Any]:
        """The numbers, for `run.json` and `--json`. Eigenvalues are pairs of real and imaginary part."""
        details = self.solution.details
        own = {name: getattr(details, name, None) for name in _OWN_NUMBERS}
        objective = getattr(details, "control", details).objective
        stationary = not self.solution.policy.depends_on_time
        gains = {"gain": np.asarray(self.solution.policy.K).tolist()} if stationary else {}
        return {
            "problem": self.problem.name,
            "method": kind_of(type(self.method)),
            "criterion": to_table(self.problem.criterion),
            "result": self.solution.result.name.lower(),
            "steps": int(self.solution.stats.get("steps", 1)),
            "exact": {
                "expected_return": -self.expected_cost,
                "expected_cost": self.expected_cost,
                "value": float(np.asarray(objective)),
                "optimum": -self.optimal_cost,
                **{name: float(np.asarray(number)) for name, number in own.items() if number is not None},
            },
            "system": {
                "states": list(self.problem.state_names),
                "controls": list(self.problem.control_names),
                "open_loop": [[value.real, value.imag] for value in self.open_loop.tolist()],
                "closed_loop": [[value.real, value.imag] for value in self.closed_loop.tolist()],
                "controllability": self.controllability,
                **gains,
            },
            "measured": self.measured.summary(),
            "notes": self.notes,
            "seconds": self.seconds,
            "seed": self.seed,
        }

    def heading(self) -> tuple[str, str]:
        """What was solved how, for the command line, and how large it is."""
        temperature = "" if self.temperature is None else f", temperature {self.temperature:g}"
        risk = getattr(self.method, "risk", None)
        risk = "" if risk is None else f", risk {float(np.asarray(risk)):g}"
        states, controls = self.problem.shape
        return (
            f"{kind_of(type(self.method))}{temperature}{risk}",
            f"{_count(states, 'state')}, {_count(controls, 'control')}",
        )

    def rows(self) -> list[tuple[str, str, str]]:
        """Label, number and remark of each exact result, for the command line."""
        exact = self.summary()["exact"]
        step = " a step" if isinstance(self.problem.criterion, AverageReward) else ""
        rows = [
            ("exact expected return", format_number(exact["expected_return"]), f"minus the expected cost{step}"),
            ("optimum", format_number(exact["optimum"]), "of the linear-quadratic regulator"),
        ]
        for name, (label, remark) in _OWN_NUMBERS.items():
            if name in exact:
                rows.append((label, format_number(exact[name]), remark))
        largest = [format_number(float(np.abs(modes).max())) for modes in (self.open_loop, self.closed_loop)]
        rows.append(("largest mode", largest[1], f"{largest[0]} without control"))
        return rows


def run_linear_quadratic(
    choice: ProblemChoice, problem: LinearQuadratic, method: Method, *, episodes: int, seed: int
) -> LinearQuadraticRun:
    """Solves, evaluates, measures. Raises `SolverError` where the method does not succeed."""
    seconds: dict[str, float] = {}
    timed = partial(stopwatch, seconds)
    notes: list[str] = []
    solution = timed("solve", lambda: solve(problem, method))
    policy = solution.policy
    stage = problem.stage(0)
    K = np.asarray(policy.at(0)[0])
    open_loop, closed_loop = (_sorted_eigenvalues(matrix) for matrix in (stage.A, stage.A + stage.B @ K))
    radius = float(np.abs(closed_loop).max())
    best = solution if isinstance(method, LQR) else timed("optimum", lambda: solve(problem, LQR(), throw=False))
    optimal_cost = float(policy_cost(problem, best.policy).expected_cost) if best.result.is_success else math.nan
    if not best.result.is_success:
        notes.append(f"optimum: {best.result.sentence}")
    exact = timed("evaluate", lambda: float(policy_cost(problem, policy).expected_cost))
    drawn = timed("marginals", lambda: marginals(problem, policy, steps=_steps_to_show(problem, radius)))
    steps = min(len(drawn.action_mean), LONGEST_PICTURE)
    if problem.horizon is not None and steps < problem.horizon:
        notes.append(f"the figures show the first {steps} of {problem.horizon} steps.")
    rollouts, trajectories = timed(
        "episodes",
        lambda: play(
            problem,
            policy,
            episodes=episodes,
            seed=seed,
            radius=radius,
            shown=SHOWN_EPISODES,
            steps=steps,
        ),
    )
    measured = compare("episodes with noise, drawn from the problem itself", rollouts, -exact)
    return LinearQuadraticRun(
        choice,
        problem,
        method,
        solution,
        exact,
        optimal_cost,
        drawn,
        trajectories,
        open_loop,
        closed_loop,
        controllability(stage.A, stage.B, discount=float(np.asarray(problem.discount))).message,
        measured,
        notes,
        seconds,
        seed,
    )


def _count(number: int, thing: str) -> str:
    return f"{number} {thing}{'' if number == 1 else 's'}"


def _sorted_eigenvalues(matrix: Any) -> np.ndarray:
    values = sorted(np.linalg.eigvals(np.asarray(matrix)).tolist(), key=lambda v: (-abs(v), v.real, v.imag))
    return np.asarray(values, complex)


def _steps_to_show(problem: LinearQuadratic, radius: float) -> int | None:
    """None over a horizon; without an end, until the first state is all but forgotten."""
    if problem.horizon is not None:
        return None
    return int(np.clip(math.log(1e-3) / math.log(radius), 20, LONGEST_PICTURE)) if 0.0 < radius < 1.0 else 200


def write_linear_quadratic_run(run: LinearQuadraticRun, folder: RunFolder) -> None:
    """The course of state and cost, the policy and the report."""
    means, costs = np.asarray(run.marginals.mean), _step_costs(run)
    names = [f"mean_{name}" for name in run.problem.state_names]
    folder.metrics(
        [
            {"step": time, "expected_cost": float(cost), **dict(zip(names, mean.tolist(), strict=True))}
            for time, (mean, cost) in enumerate(zip(means, costs, strict=False))
        ]
    )
    folder.write_bytes(FILE, policy_bytes(AffineGaussianPolicy(run.solution.policy)))
    write_report(run.summary(), figures(run), folder, template="linear_quadratic.html.jinja")


def figures(run: LinearQuadraticRun) -> dict[str, Any]:
    """Caption to figure, in the report's order; those that cannot be drawn are left out."""
    problem, paths = run.problem, run.trajectories
    drawn: Any = run.marginals
    steps = paths.controls.shape[1]
    believed: Any = getattr(run.solution.details, "smoothed", None)
    drawn_figures = {
        "States": control_plots.plot_trajectories(
            drawn.mean[: steps + 1],
            drawn.covariance[: steps + 1],
            problem.state_names,
            paths.states,
            None if believed is None else believed.mean[: steps + 1],
        ),
        "Controls": control_plots.plot_trajectories(
            drawn.action_mean[:steps],
            drawn.action_covariance[:steps],
            problem.control_names,
            paths.controls,
            None if believed is None else believed.action_mean[:steps],
            held=True,
        ),
        "Cost": control_plots.plot_costs(_step_costs(run)[: steps + 1], _cost_to_go(run, steps)),
        "Gains": control_plots.plot_gains(run.solution.policy.K, problem.state_names, problem.control_names),
        "Modes": control_plots.plot_modes(run.open_loop, run.closed_loop),
        "Measured returns": plots.plot_returns(
            run.measured.rollouts.returns, run.measured.interval, run.measured.exact
        ),
    }
    return {caption: figure for caption, figure in drawn_figures.items() if figure is not None}


def _step_costs(run: LinearQuadraticRun) -> np.ndarray:
    """Expected cost of each step, and that of the last state where there is one."""
    costs = np.asarray(run.marginals.cost_per_step)
    return costs[:-1] if run.problem.horizon is None else costs


def _cost_to_go(run: LinearQuadraticRun, steps: int) -> np.ndarray:
    """What is expected still to come at each step, by the method's own value."""
    value, drawn = run.solution.value, run.marginals
    last = steps + 1 if np.ndim(value.constant) == 0 else min(steps + 1, len(value.constant))
    return np.array([-float(value.expect(drawn.mean[time], drawn.covariance[time], time)) for time in range(last)])
