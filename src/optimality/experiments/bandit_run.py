"""A study of bandit policies: the same luck for all, one report."""

import difflib
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
from optimality.experiments.report import render
from optimality.experiments.run_folder import RunFolder, failures_noted
from optimality.experiments.statistics import mean_interval
from optimality.exploration.bandit_policy import AbstractBanditPolicy
from optimality.exploration.bandit_simulation import BanditTrace, simulate_bandit
from optimality.exploration.bayes_regret import bayes_regret
from optimality.problems.bandits import BernoulliArms, lai_robbins

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
            "problem": "bernoulli-bandit",
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


def policies_named(text: str) -> dict[str, AbstractBanditPolicy]:
    """`ucb1,thompson` as policies; `ValueError` for an unknown name, with the nearest one."""
    policies = {}
    names = [entry.name for entry in registry.BANDIT_POLICIES]
    for name in text.split(","):
        entry = registry.find(registry.BANDIT_POLICIES, name)
        if entry is None:
            close = difflib.get_close_matches(name, names, n=1, cutoff=0.4)
            hint = f" Did you mean {close[0]}?" if close else ""
            raise ValueError(f"unknown bandit policy {name!r}.{hint} Policies are {', '.join(names)}.")
        if name in policies:
            raise ValueError(f"policy {name} is named twice.")
        policies[name] = getattr(importlib.import_module(entry.module), entry.attribute)()
    return policies


def run_bandit(
    probabilities: list[float], names: str, *, steps: int, runs: int, seed: int, out: Path | None, command: list[str]
) -> tuple[BanditStudy, Path | None]:
    """Plays, computes what is exact, and writes a run folder with its report."""
    policies = policies_named(names)
    arms = BernoulliArms(probabilities)
    for policy in policies.values():
        policy.check(arms, steps)
    if steps < arms.size:
        raise ValueError(f"--steps {steps} cannot pull each of {arms.size} arms once: give at least {arms.size}.")
    folder = None
    if out is not None:
        config = {
            "command": "train",
            "problem": {"kind": "bernoulli-bandit", "arms": list(probabilities)},
            "policies": list(policies),
            "run": {"steps": steps, "runs": runs, "seed": seed},
        }
        method = "-".join(policies)
        folder = RunFolder.create(
            out, method=method, problem="bernoulli-bandit", seed=seed, config=config, command=command
        )
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
            title = f"bernoulli-bandit by {', '.join(policies)}"
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
