"""Recovering a reward: read demonstrations, infer, judge by what is known, and write all that down."""

import dataclasses
import math
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

from optimality.core.solve import solve
from optimality.experiments import plots
from optimality.experiments.configuration import kind_of, to_table
from optimality.experiments.inverse_plots import plot_feature_matching, plot_fit, plot_rewards
from optimality.experiments.measured import stopwatch
from optimality.experiments.problem_choice import ProblemChoice
from optimality.experiments.report import render
from optimality.experiments.run_folder import RunFolder, failures_noted, require_writable
from optimality.experiments.saved_policy import FILE, policy_bytes
from optimality.experiments.saved_reward import REWARD_FILE, save_reward
from optimality.inverse.infer_reward import AbstractInverse, RewardSolution, infer_reward
from optimality.inverse.judging import judge, transfer
from optimality.planning.policy_evaluation import PolicyEvaluation, UnderPolicy
from optimality.planning.value_iteration import ValueIteration
from optimality.policies.tabular import TabularPolicy
from optimality.problems.action_noise import with_action_noise
from optimality.problems.criterion import Discounted, FiniteHorizon
from optimality.problems.tabular import TabularMDP
from optimality.rewards.abstract import AbstractReward
from optimality.rewards.linear import LinearReward
from optimality.rewards.on_tables import with_reward
from optimality.sampling.demonstrations import Demonstrations

_LARGEST_CUBE = 4_000_000
"""Numbers `S A S` up to which distances of rewards are taken."""

_NOISE = 0.2
"""Chance of a random action in the changed dynamics that a recovered reward is carried over to."""

CERTIFICATES = {
    "gradient_norm": "largest entry of the objective's gradient where the fit stopped; zero at the answer",
    "feature_residual": "largest mismatch of an expected feature, demonstrations against the recovered policy",
    "duality_gap": "how far the fit can be from the optimum of feature matching, in nats an episode",
    "forward_error": "difference between the gradient by the forward pass and by differentiation",
    "log_likelihood": "of the demonstrated actions, nats a step; minus log of the number of actions is chance",
    "held_out_log_likelihood": "the same for episodes that were not fitted",
    "cut_off": "discounted share of episodes that were cut off, whose later visits are missing",
    "margin": "by how much the expert is still told apart from the policies found; zero when it is not",
    "distance": "of the mixture's feature expectations to the expert's, per step",
    "attainable_distance": "the least that any mixture of policies could have, by the last margin",
    "suboptimality": "by how much the best policy for the recovered reward beats the expert, per step",
    "gap": "upper less lower bound of the objective",
}
"""Numbers that tell how good an answer is without the true reward."""


class Returns(NamedTuple):
    """Expected returns by the problem's own reward."""

    demonstrated: float
    """Of the episodes that were shown."""
    imitated: float
    """Of the recovered policy, the model of the expert."""
    planned: float
    """Of the best policy for the recovered reward."""
    optimum: float


class InverseRun(NamedTuple):
    """Everything that the report shows."""

    choice: ProblemChoice
    problem: TabularMDP
    demonstrations: Demonstrations
    method: AbstractInverse
    solution: RewardSolution
    returns: Returns
    judged: list[tuple[str, float, str]]
    """Measure, figure, and what it does not see."""
    notes: list[str]
    seconds: dict[str, float]

    @property
    def imitating(self) -> Any:
        """The recovered policy as one table; of a mixture, the table that has its visits."""
        return getattr(self.solution.details, "markov", self.solution.policy)

    @property
    def course(self) -> np.ndarray:
        """The gradient's largest entry after each step, or the margin after each round."""
        stats, details = self.solution.stats, self.solution.details
        return np.asarray(stats.get("trace", getattr(details, "margins", ())), np.float64).reshape(-1)

    def summary(self) -> dict[str, Any]:
        """The numbers, for `run.json` and `--json`."""
        stats, certificates = self.solution.stats, self.solution.certificates
        rank = getattr(self.solution.details, "rank", certificates.get("rank"))
        shown = self.demonstrations
        lengths = np.asarray(shown.lengths)
        return {
            "problem": self.problem.name,
            "method": kind_of(type(self.method)),
            "criterion": to_table(self.problem.criterion),
            "result": self.solution.result.name.lower(),
            "objective": stats.get("objective"),
            "steps": int(stats.get("steps", stats.get("rounds", 0))),
            "demonstrations": {
                "episodes": int(lengths.size),
                "steps": int(lengths.sum()),
                "terminated": float(np.mean(np.asarray(shown.terminated))),
                "actions": shown.action is not None,
            },
            "reward": {"kind": kind_of(type(self.solution.reward)), "scope": self.solution.reward.scope},
            "returns": self.returns._asdict(),
            "certificates": {name: float(value) for name, value in certificates.items() if name != "rank"},
            "rank": None if rank is None else int(rank),
            "parameters": int(stats.get("parameters", stats.get("features", 0))),
            "judged": {name: float(figure) for name, figure, _ in self.judged},
            "notes": self.notes,
            "seconds": self.seconds,
        }


def run_inverse(
    choice: ProblemChoice,
    demonstrations: Demonstrations | Path,
    method: AbstractInverse,
    *,
    reward: AbstractReward | None = None,
    reward_table: dict[str, Any] | None = None,
    out: Path | None = None,
    command: list[str] | None = None,
) -> tuple[InverseRun, Path | None]:
    """Infers a reward, judges it, and, with `out`, writes the run folder and its report.

    Args:
        choice: the problem by name.
        demonstrations: what the expert did, or the file or folder that holds it.
        method: how to explain it.
        reward: the family and where to start in it.
        reward_table: how the family was named, for the record.
        out: parent of the run folder; nothing is written without it.
        command: how this was called, for the record.

    Raises:
        ValueError: bad input, before anything is written.
        SolverError: the method did not succeed.
    """
    if out is not None:
        require_writable(out)
    if choice.kind != "TabularMDP":
        raise ValueError(f"{choice.name} is no table: exact inverse RL needs one with states and actions to count.")
    problem = choice.build()
    assert isinstance(problem, TabularMDP)
    shown = demonstrations if isinstance(demonstrations, Demonstrations) else Demonstrations.load(demonstrations)
    method.check(problem, shown, reward)
    folder = None
    if out is not None:
        config = {
            "command": "irl",
            "problem": choice.to_table(),
            "criterion": to_table(problem.criterion),
            "method": to_table(method),
            "run": {
                **(
                    {}
                    if isinstance(demonstrations, Demonstrations)
                    else {"demonstrations": str(demonstrations.resolve())}
                ),
                **(reward_table or {}),
            },
        }
        folder = RunFolder.create(
            out, method=kind_of(type(method)), problem=problem.name, seed=0, config=config, command=command or []
        )
    with failures_noted(folder):
        run = _infer(choice, problem, shown, method, reward)
        if folder is not None:
            write_inverse_run(run, folder)
            folder.finish("finished", summary=run.summary())
    return run, None if folder is None else folder.path


def _infer(choice, problem, demonstrations, method, reward) -> InverseRun:
    seconds: dict[str, float] = {}
    timed = partial(stopwatch, seconds)
    solution = timed("infer", lambda: infer_reward(problem, demonstrations, method, reward=reward))
    returns = timed("returns", lambda: returns_of(problem, demonstrations, solution))
    return InverseRun(
        choice,
        problem,
        demonstrations,
        method,
        solution,
        returns,
        timed("judge", lambda: judged(problem, demonstrations, solution)),
        _notes(problem, demonstrations, solution),
        seconds,
    )


def returns_of(problem: TabularMDP, demonstrations: Demonstrations, solution: RewardSolution) -> Returns:
    """By the problem's own reward, which the inference did not see; NaN where the criterion does not converge."""
    best = solve(problem, ValueIteration(), throw=False)
    planned = solve(with_reward(problem, solution.reward), ValueIteration(), throw=False)
    return Returns(
        demonstrated_return(problem, demonstrations),
        _worth(problem, getattr(solution.details, "markov", solution.policy)),
        _worth(problem, planned.policy) if planned.result.is_success else math.nan,
        _worth(problem, best.policy) if best.result.is_success else math.nan,
    )


def judged(
    problem: TabularMDP, demonstrations: Demonstrations, solution: RewardSolution
) -> list[tuple[str, float, str]]:
    """Every measure of the recovered reward that the problem allows, against the problem's own."""
    states, actions = problem.shape
    if not isinstance(problem.criterion, FiniteHorizon | Discounted):
        return []
    learned = np.asarray(solution.reward.table(problem), np.float64)
    policy, reward = getattr(solution.details, "markov", solution.policy), solution.reward
    features = None
    if isinstance(reward, LinearReward) and reward.scope != "next-state":
        features = np.asarray(reward.features)
    judgment = judge(
        problem,
        np.asarray(problem.reward),
        learned,
        policy=policy,
        features=features,
        distances=states * states * actions <= _LARGEST_CUBE,
    )
    rows = [(name, float(figure), blind) for name, figure, blind in judgment.rows()]
    changed = with_action_noise(problem, _NOISE)
    moved = transfer(changed, np.asarray(changed.reward), np.asarray(reward.table(changed), np.float64), policy)
    tried = f"with {_NOISE:.0%} random actions the best earns {moved.expert:.4g}, the recovered policy"
    copied = "–" if moved.copied is None else f"{moved.copied:.4g}"
    return [*rows, ("return after transfer", moved.transferred, f"all but what was tried: {tried} {copied}")]


def _worth(problem: TabularMDP, policy: Any) -> float:
    if not isinstance(policy, TabularPolicy):
        return math.nan
    found = solve(UnderPolicy(problem, policy), PolicyEvaluation(), throw=False)
    return float(found.details.expected_return) if found.result.is_success else math.nan


def demonstrated_return(problem: TabularMDP, demonstrations: Demonstrations) -> float:
    """Mean discounted return of the episodes, of recorded rewards or else of the pairs' mean rewards."""
    if demonstrations.reward is None:
        if demonstrations.action is None:
            return math.nan
        valid = np.asarray(demonstrations.valid, bool)
        place = np.asarray(demonstrations.observation)[:, :-1], np.asarray(demonstrations.action)
        state, action = (np.where(valid, index, 0) for index in place)
        demonstrations = dataclasses.replace(demonstrations, reward=np.asarray(problem.reward)[state, action])
    return float(demonstrations.weights @ demonstrations.returns(float(np.asarray(problem.discount))))


def _notes(problem: TabularMDP, demonstrations: Demonstrations, solution: RewardSolution) -> list[str]:
    notes = []
    rank, parameters = getattr(solution.details, "rank", None), solution.stats.get("parameters", 0)
    if rank is not None and rank < parameters:
        notes.append(
            f"The demonstrations determine {rank} of the {parameters} directions of the reward; in the others, such as "
            "constants and the worth of states that are never near, its size is the penalty's choice."
        )
    seen = np.unique(np.asarray(demonstrations.observation)[:, :-1][np.asarray(demonstrations.valid, bool)])
    if seen.size < problem.shape[0]:
        notes.append(f"No action was shown in {problem.shape[0] - seen.size} of {problem.shape[0]} states.")
    return notes


def reward_by_state(
    problem: TabularMDP, reward: AbstractReward | None = None, *, entered: bool
) -> Float[np.ndarray, " states"]:
    """A reward as one number a state, for drawing: the mean of what pays on entering it, over all ways into it, or of
    what its actions pay. Without `reward` the problem's own. NaN where no way leads."""
    paid = problem if reward is None else with_reward(problem, reward, per_outcome=entered)
    if not entered:
        allowed = np.asarray(paid.allowed)
        return np.where(allowed, np.asarray(paid.reward), 0.0).sum(axis=1) / allowed.sum(axis=1)
    outcomes = paid.outcomes()
    acting = np.asarray(problem.initial) > 0.0
    acting[outcomes.successor[~outcomes.terminated]] = True  # a table may list what ended states do for ever
    chance = np.where(acting[outcomes.state], outcomes.probability, 0.0)
    weight = np.bincount(outcomes.successor, chance, problem.shape[0])
    total = np.bincount(outcomes.successor, chance * outcomes.reward, problem.shape[0])
    return np.where(weight > 0.0, total / np.where(weight > 0.0, weight, 1.0), np.nan)


def write_inverse_run(run: InverseRun, folder: RunFolder) -> None:
    """The course of the fit, reward, policy and report."""
    folder.metrics([{"step": step, "residual": float(size)} for step, size in enumerate(run.course)])
    save_reward(run.solution.reward, folder.path / REWARD_FILE)
    if isinstance(run.imitating, TabularPolicy):
        folder.write_bytes(FILE, policy_bytes(run.imitating))
    summary = {**run.summary(), "certificate_words": CERTIFICATES, "judged": run.judged}
    title = f"The reward of {summary['problem']} by {summary['method']}"
    page = render("inverse.html.jinja", title, summary, figures(run), folder)
    folder.write_text("report.html", page)


def figures(run: InverseRun) -> dict[str, Any]:
    """Caption to figure, in the report's order; those that cannot be drawn are left out."""
    solution, details = run.solution, run.solution.details
    entered = solution.reward.scope in ("next-state", "transition")
    drawn = {
        "Rewards": plot_rewards(
            run.problem,
            {
                "the problem's own": reward_by_state(run.problem, entered=entered),
                "recovered": reward_by_state(run.problem, solution.reward, entered=entered),
            },
            entered=entered,
        )
    }
    if isinstance(run.imitating, TabularPolicy):
        value = getattr(details, "value", None)
        if value is None:
            value = solve(UnderPolicy(with_reward(run.problem, solution.reward), run.imitating), throw=False).value
        drawn["The recovered policy"] = plots.plot_map(run.problem, np.asarray(value), run.imitating)
    if hasattr(details, "expert_features"):
        drawn["Feature expectations"] = plot_feature_matching(details.expert_features, details.model_features)
    if run.course.size > 1:
        tolerance = solution.stats.get("tolerance", getattr(run.method, "tolerance", None))
        drawn["Convergence of the fit"] = plot_fit(run.course, tolerance)
    return {caption: figure for caption, figure in drawn.items() if figure is not None}
