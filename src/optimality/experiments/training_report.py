"""Pages about learning, made from what is on disk: of one run, and of several side by side."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from optimality.core.solve import solve
from optimality.environments.abstract import AbstractEnvironment
from optimality.environments.linear_quadratic import LinearQuadraticEnvironment
from optimality.environments.tabular import TabularEnvironment
from optimality.experiments import plots
from optimality.experiments.policy_pictures import plot_policy
from optimality.experiments.report import render
from optimality.experiments.run_folder import RunFolder, read_config, read_metrics, read_record
from optimality.experiments.saved_policy import FILE, load_policy
from optimality.experiments.statistics import bootstrap_interval
from optimality.experiments.training_environment import EnvironmentChoice
from optimality.planning.lqr import LQR
from optimality.planning.policy_evaluation import PolicyEvaluation, UnderPolicy
from optimality.planning.value_iteration import ValueIteration
from optimality.policies.tabular import TabularPolicy
from optimality.problems.criterion import FiniteHorizon
from optimality.problems.linear_quadratic import LinearQuadratic
from optimality.problems.tabular import TabularMDP
from optimality.sampling.acting import ActingPolicy

_TRACES = (
    "entropy", "kl", "policy_kl", "temperature", "effective_sample_size", "gradient_norm", "gradient_noise",
    "gradient_angle", "policy_loss", "value_loss", "loss", "explained_variance", "epsilon",
)  # fmt: skip
_ABOUT_TIME = ("step", "seconds", "compile_seconds", "evaluation_seconds")
_SUCCESSES = ("finished", "target_reached", "out_of_time", "stopped")

GLOSSARY = {
    "evaluation_return": "mean undiscounted return of whole episodes by the mode of the policy",
    "evaluation_deviation": "standard deviation of those returns",
    "sampled_evaluation_return": "the same with actions drawn from the policy, as a maximum-entropy method learns it",
    "episode_return": "mean return of the episodes that ended while learning, exploration included",
    "episode_length": "mean length of those episodes",
    "episodes": "how many ended",
    "steps_per_second": "environment steps a second, learning included, compilation and evaluation not",
    "policy_loss": "the surrogate that the policy descends; with the entropy bonus in Reinforce and TRPO, not in PPO",
    "gradient_norm": "norm of the gradient of the objective in the policy's parameters",
    "gradient_noise": "norm of its standard error, from the differences between environments or episodes",
    "gradient_angle": "on tables with a time limit: degrees between a fresh batch's estimate and the exact gradient of "
    "discounted reward and entropy; 90 is what chance gives",
    "step_fraction": "what the search left of the natural step, mean over updates; 0 where none served",
    "cg_residual": "what conjugate gradients left of the natural gradient's equation, relative to the gradient",
    "value_loss": "half the mean squared error of the value against its target",
    "return": "mean undiscounted return of the episodes that were learned from",
    "length": "mean length of those episodes",
    "entropy": "mean entropy H(pi(. | s)) of the policy in nats",
    "kl": "PPO: estimate of KL(old || new) over the updates, mean of ratio - 1 - log ratio; TRPO: KL(old || new) of "
    "its step over the visited states; REPS: KL(p || q) of the weights, the bound where it is active",
    "kl_bound": "the bound epsilon on it",
    "kl_min": "the smallest KL at which the value features can be matched; inf where they cannot",
    "policy_kl": "KL(old || new) of the policy after its fit, averaged over the visited states",
    "reverse_policy_kl": "KL(new || old) likewise",
    "temperature": "multiplier eta of the KL bound, in units of reward",
    "effective_sample_size": "(sum w)^2 / sum w^2 of the weights",
    "base_sample_size": "the same before the rewards count: below the number of samples where old ones are reused",
    "feature_residual": "largest mismatch of a value feature under the weights, in its standard deviations",
    "promised_reward": "mean reward under the weights: what the update counts on",
    "promised_return": "mean return of the episodes under the weights: what an update of episodic REPS counts on",
    "infeasible": "fraction of updates whose features could not be matched within the bound",
    "inactive": "fraction of updates without any advantage, which leave the policy as it is",
    "collapsed": "fraction of updates whose bound allowed the best samples alone",
    "clipped": "fraction of probability ratios outside 1 +- clip",
    "explained_variance": "1 - Var(target - V) / Var(target); 1 is perfect, 0 no better than a constant",
    "loss": "mean loss of the temporal-difference error y - Q: half its square, or the Huber loss",
    "q": "mean of Q at the actions taken",
    "td_error": "mean of |y - Q|",
    "epsilon": "chance of a uniformly random action while exploring",
    "applied": "fraction of updates that were finite and applied",
    "bad_updates": "longest row of steps with an update that was not finite and not applied",
}


def write_training_report(folder: RunFolder, result: str | None = None) -> None:
    """Writes `report.html` of a run and its figures, from its files; `result` is by default the recorded one."""
    record, config, metrics = read_record(folder.path), read_config(folder.path), read_metrics(folder.path)
    if not metrics:
        return
    result = str(record.get("result", record["status"])) if result is None else result
    name, method = _environment_name(config), config["method"]["kind"]
    figures = {
        "Learning curve": plots.plot_learning_curve({method: [metrics]}, target=config["run"].get("target")),
        "Traces": plots.plot_metrics([metrics], _TRACES),
    }
    summary = training_summary(record, config, metrics, result)
    environment = _compiled_environment(folder.path, config)
    policy = None if environment is None else _drawable_policy(folder.path)
    exact, picture = _against_the_exact(environment, policy, summary)
    summary["exact"] = exact
    figures["What was learned"] = picture
    if picture is None and isinstance(policy, ActingPolicy):
        figures["The policy"] = plot_policy(policy, environment)
    figures = {caption: figure for caption, figure in figures.items() if figure is not None}
    title = f"{name} by {method}"
    folder.write_text("report.html", render("training.html.jinja", title, summary, figures, folder))


def training_summary(record: dict, config: dict, metrics: Sequence[dict], result: str) -> dict[str, Any]:
    """The numbers of a run's page, and of `--json`."""
    last = metrics[-1]
    scores = _column(metrics, "evaluation_return")
    best = int(np.nanargmax(scores)) if np.isfinite(scores).any() else len(scores) - 1
    learning = float(np.nansum(_column(metrics, "seconds")))
    steps = last["step"]
    backend = config["environment"]["backend"]
    shown = {
        "jax": "the compiled JAX version, which has Gymnasium's name, numbers and time limit",
        "gymnasium": "Gymnasium's own, stepped in Python",
    }
    notes = []
    bad = int(np.nansum(_column(metrics, "bad_updates") > 0))
    if bad:
        notes.append(
            f"In {bad} of {len(metrics)} chunks there were updates that were not finite; they were not applied."
        )
    if record.get("resumed"):
        restored = "to the same bits" if backend == "jax" else "with what was learned, from fresh episodes"
        times = len(record["resumed"])
        notes.append(f"The run was resumed {'once' if times == 1 else f'{times} times'}, {restored}.")
    return {
        "environment": _environment_name(config),
        "backend": shown[backend],
        "method": config["method"]["kind"],
        "seed": config["run"]["seed"],
        "result": result,
        "succeeded": result in _SUCCESSES,
        "steps": steps,
        "chunks": len(metrics),
        "evaluation_episodes": config["run"]["evaluation_episodes"],
        "last": last["evaluation_return"],
        "deviation": last["evaluation_deviation"],
        "sampled": last.get("sampled_evaluation_return"),
        "best": float(scores[best]),
        "best_step": metrics[best]["step"],
        "steps_per_second": steps / learning if learning > 0.0 else math.nan,
        "seconds": {
            "learning": learning,
            "compiling": float(np.nansum(_column(metrics, "compile_seconds"))),
            "evaluating": float(np.nansum(_column(metrics, "evaluation_seconds"))),
        },
        "exact": None,
        "versions": record["versions"],
        "notes": notes,
        "glossary": {name: (GLOSSARY.get(name, ""), value) for name, value in last.items() if name not in _ABOUT_TIME},
    }


def _environment_name(config: dict[str, Any]) -> str:
    stored = config["environment"]
    return stored.get("kind", stored.get("description", "environment"))


def _compiled_environment(path: Path, config: dict[str, Any]) -> AbstractEnvironment | None:
    """What a policy on disk can be held against; None where there is no policy, or the environment ran in Python."""
    if "kind" not in config["environment"] or not (path / FILE).exists():
        return None
    return EnvironmentChoice.from_table(config["environment"]).environment


def _drawable_policy(path: Path) -> TabularPolicy | ActingPolicy | None:
    """None for a policy made of classes of the caller's own, which a report has no way to name."""
    try:
        policy = load_policy(path)
    except ValueError:
        return None
    return policy if isinstance(policy, TabularPolicy | ActingPolicy) else None


def _against_the_exact(
    environment: AbstractEnvironment | None, policy: TabularPolicy | ActingPolicy | None, summary: dict
) -> tuple[dict[str, Any] | None, Any]:
    """Where the environment's problem can be solved: the optimum, and of a table what the learned mode is worth
    exactly, with a picture."""
    if isinstance(environment, LinearQuadraticEnvironment) and environment.problem.horizon is not None:
        return _against_the_regulator(environment.problem, summary), None
    if not isinstance(environment, TabularEnvironment) or not isinstance(policy, ActingPolicy):
        return None, None
    mdp = environment.problem
    return exact_comparison(mdp, table_of_modes(policy, mdp))


def _against_the_regulator(problem: LinearQuadratic, summary: dict) -> dict[str, Any] | None:
    """The return of LQR beside the last evaluation, which is measured; None where a discount tells them apart."""
    best = solve(problem, LQR(), throw=False)
    if not best.result.is_success or float(np.asarray(problem.discount)) != 1.0:
        return None
    optimum, error = float(best.details.objective), summary["deviation"] / math.sqrt(summary["evaluation_episodes"])
    share = f"{optimum - summary['last']:.4g} is lacking, give or take {error:.2g}"
    return {"value": None, "measured": summary["last"], "optimum": optimum, "share": share}


def table_of_modes(policy: ActingPolicy, mdp: TabularMDP) -> TabularPolicy:
    """The action that a policy without memory takes in each state, as a table."""
    acting, key = policy.sampling(False), jax.random.key(0)
    act = jax.jit(jax.vmap(lambda state: acting.act(acting.start(state, key), state, key)[1]))
    actions = np.asarray(act(jnp.arange(mdp.shape[0], dtype=jnp.int32)))
    return TabularPolicy.from_probabilities(np.eye(mdp.shape[1])[actions])


def exact_comparison(mdp: TabularMDP, policy: TabularPolicy) -> tuple[dict[str, Any], Any]:
    """What a policy and the optimum are worth from the first state, what is lacking, and a map."""
    evaluated = solve(UnderPolicy(mdp, policy), PolicyEvaluation(), throw=False)
    best = solve(mdp, ValueIteration(), throw=False)
    initial = np.asarray(mdp.initial)
    first = np.asarray(best.value)
    first = first[0] if isinstance(mdp.criterion, FiniteHorizon) else first
    value, optimum = float(evaluated.details.expected_return), float(initial @ first)
    gap = optimum - value
    share = "they are equal" if abs(gap) <= 1e-9 * max(1.0, abs(optimum)) else f"{gap:.4g} is lacking"
    picture = plots.plot_map(mdp, np.asarray(evaluated.value), policy, title="what the mode is worth")
    return {"value": value, "optimum": optimum, "share": share}, picture


def write_comparison(paths: Sequence[Path], target: Path) -> dict[str, Any]:
    """A page about several runs, grouped by environment and method; returns its numbers.

    Raises `ValueError` for a folder that is no training run, or has no metrics yet.
    """
    groups: dict[str, list[Any]] = {}
    rows = []
    for path in paths:
        record, config, metrics = read_record(path), read_config(path), read_metrics(path)
        if config.get("command") != "train" or "environment" not in config:
            raise ValueError(f"{path} is no training run, and cannot be compared.")
        if not metrics:
            raise ValueError(f"{path} has no metrics yet.")
        where = " (Gymnasium)" if config["environment"]["backend"] == "gymnasium" else ""
        label = f"{_environment_name(config)}{where} by {config['method']['kind']}"
        groups.setdefault(label, []).append(metrics)
        last = metrics[-1]["evaluation_return"]
        rows.append(
            {"name": path.name, "label": label, "seed": config["run"]["seed"], "last": last,
             "result": str(record.get("result", record["status"])).replace("_", " ")}
        )  # fmt: skip
    table = []
    for label, runs in groups.items():
        scores = np.array([math.nan if run[-1]["evaluation_return"] is None else run[-1]["evaluation_return"]
                           for run in runs])  # fmt: skip
        mean, low, high = bootstrap_interval([scores])
        low, high = (low, high) if len(runs) > 1 else (math.nan, math.nan)
        table.append(
            {"label": label, "runs": len(runs), "mean": mean, "low": low, "high": high, "lowest": float(scores.min()),
             "highest": float(scores.max()), "steps": runs[0][-1]["step"]}
        )  # fmt: skip
    summary = {"groups": table, "runs": rows}
    figures: dict[str, Any] = {"Learning curve": plots.plot_learning_curve(groups)}
    for label, runs in groups.items():
        traces = plots.plot_metrics(runs, _TRACES)
        if traces is not None:
            figures[f"Traces of {label}"] = traces
    title = next(iter(groups)) if len(groups) == 1 else f"{len(paths)} runs"
    target.write_text(render("comparison.html.jinja", title, summary, figures, None))
    return summary


def _column(rows: Sequence[dict], name: str) -> np.ndarray:
    return np.array([math.nan if row.get(name) is None else row[name] for row in rows], np.float64)
