"""A study of bandit policies: the same luck for all, one report."""

import importlib
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from optimality import registry
from optimality.beliefs import BetaBernoulli
from optimality.experiments.bandit_plots import (
    plot_bayes_regret,
    plot_last_regret,
    plot_pulls,
    plot_regret,
)
from optimality.experiments.configuration import from_table, kind_of, nearest, to_table
from optimality.experiments.report import render
from optimality.experiments.run_folder import RunFolder, failures_noted
from optimality.experiments.statistics import mean_interval
from optimality.exploration.bandit_policy import AbstractBanditPolicy
from optimality.exploration.bandit_simulation import BanditTrace, simulate_bandit
from optimality.exploration.bayes_regret import bayes_regret
from optimality.problems.bandits import BernoulliArms, lai_robbins

KIND = "bernoulli-bandit"
EXACT_HORIZON = {2: 30, 3: 8}
"""Pulls up to which Bayes regret is computed exactly, by the number of arms."""


class BanditStudy(NamedTuple):
    arms: BernoulliArms
    steps: int
    runs: int
    seed: int
    traces: dict[str, BanditTrace]
    bayes: dict[str, np.ndarray]
    """Exact Bayes regret after 1, 2, ... pulls under uniform priors."""

    def summary(self) -> dict[str, Any]:
        constant = float(lai_robbins(self.arms))
        rows = []
        for name, trace in self.traces.items():
            last = trace.regret[-1]
            interval = mean_interval(last)
            row = {"policy": name, "regret": interval.mean, "low": interval.low, "high": interval.high}
            row.update(median=float(np.median(last)), q95=float(np.quantile(last, 0.95)))
            row["pulls"] = [float(n) for n in trace.pulls[-1].mean(axis=1)]
            if name in self.bayes:
                row["bayes_regret"], row["bayes_horizon"] = float(self.bayes[name][-1]), int(self.bayes[name].size)
            rows.append(row)
        return {
            "problem": KIND,
            "arms": [float(p) for p in self.arms.probabilities],
            "steps": self.steps,
            "runs": self.runs,
            "seed": self.seed,
            "lai_robbins": constant,
            "lai_robbins_regret": constant * float(np.log(self.steps)),
            "policies": rows,
        }

    def figures(self) -> dict[str, Any]:
        figures = {
            "Regret": plot_regret(self.traces, lai_robbins(self.arms)),
            "Pulls of each arm": plot_pulls(self.traces),
            "Regret at the end": plot_last_regret(self.traces),
        }
        if self.bayes:
            figures["Exact Bayes regret"] = plot_bayes_regret(self.bayes)
        return figures


def policy_from_table(table: dict[str, Any]) -> AbstractBanditPolicy:
    """`{"kind": "epsilon-greedy", "epsilon": 0.05}` as a policy; `kind` is its name in the registry.

    Raises `ValueError` for an unknown name or field, with the nearest ones.
    """
    names, name = [entry.name for entry in registry.BANDIT_POLICIES], str(table.get("kind"))
    entry = registry.find(registry.BANDIT_POLICIES, name)
    if entry is None:
        raise ValueError(f"unknown bandit policy {name!r}{nearest(name, names)} Policies are {', '.join(names)}.")
    cls = getattr(importlib.import_module(entry.module), entry.attribute)
    return from_table({**table, "kind": kind_of(cls)}, [cls], name)


def run_bandit(
    probabilities: list[float],
    policies: dict[str, AbstractBanditPolicy],
    *,
    steps: int,
    runs: int,
    seed: int,
    out: Path | None,
    command: list[str] | None = None,
) -> tuple[BanditStudy, Path | None]:
    """Plays, computes what is exact, and with `out` writes a run folder with its report.

    Args:
        probabilities: each arm's chance of paying 1.
        policies: by their names in the registry.
        steps: pulls of each run.
        runs: of each policy.
        seed: everything random follows from it.
        out: where run folders go.
        command: how this was called, for the record.

    Raises:
        ValueError: bad input, before anything is written.
    """
    arms = BernoulliArms(probabilities)
    if not policies:
        raise ValueError("no policy was named: give at least one, such as thompson.")
    for policy in policies.values():
        policy.check(arms, steps)
    if steps < arms.size:
        raise ValueError(f"--steps {steps} cannot pull each of {arms.size} arms once: give at least {arms.size}.")
    folder = None
    if out is not None:
        config = {
            "command": "train",
            "problem": {"kind": KIND, "arms": list(probabilities)},
            "methods": [{**to_table(policy), "kind": name} for name, policy in policies.items()],
            "run": {"steps": steps, "runs": runs, "seed": seed},
        }
        method = "-".join(policies)
        folder = RunFolder.create(out, method=method, problem=KIND, seed=seed, config=config, command=command or [])
    with failures_noted(folder):
        traces = simulate_bandit(arms, policies, horizon=steps, runs=runs, seed=seed)
        horizon = min(steps, EXACT_HORIZON.get(arms.size, 0))
        prior = BetaBernoulli(np.ones(arms.size), np.ones(arms.size))
        bayes = {}
        if horizon:
            bayes = {name: bayes_regret(policy, prior, horizon).regret for name, policy in policies.items()}
        study = BanditStudy(arms, steps, runs, seed, traces, bayes)
        if folder is not None:
            folder.metrics(_rows(study))
            title = f"{KIND} by {', '.join(policies)}"
            page = render("bandit.html.jinja", title, study.summary(), study.figures(), folder)
            folder.write_text("report.html", page)
            folder.finish("finished", summary=study.summary())
    return study, None if folder is None else folder.path


def _rows(study: BanditStudy) -> list[dict[str, Any]]:
    rows = []
    for name, trace in study.traces.items():
        for time, regret, pulls in zip(trace.times, trace.regret, trace.pulls, strict=True):
            interval = mean_interval(regret)
            row = {"policy": name, "step": int(time), "regret": interval.mean}
            if study.runs > 1:
                row.update(low=interval.low, high=interval.high)
            rows.append({**row, "pulls": [float(n) for n in pulls.mean(axis=1)]})
    return rows
