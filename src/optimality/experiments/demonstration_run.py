"""Demonstrations of a run's policy, written down: `demonstrations.npz`, and `demonstrations.json` that says whence."""

import datetime
import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from optimality.environments.linear_quadratic import LinearQuadraticEnvironment
from optimality.experiments.bandit_run import KIND
from optimality.experiments.configuration import from_table, to_table
from optimality.experiments.problem_choice import ProblemChoice
from optimality.experiments.run_folder import read_config, require_writable, to_json, versions
from optimality.experiments.saved_policy import load_policy
from optimality.experiments.statistics import MeanInterval, mean_interval
from optimality.experiments.training_environment import EVALUATION_STEPS, EnvironmentChoice
from optimality.policies.tabular import TabularPolicy
from optimality.problems.criterion import AverageReward, Discounted, FiniteHorizon, UntilTermination
from optimality.problems.linear_quadratic import LinearQuadratic
from optimality.sampling.demonstration_file import FILE, save
from optimality.sampling.demonstrations import Demonstrations
from optimality.sampling.policy_demonstrations import SIDE_BY_SIDE, demonstrate, from_runner

RECORD = "demonstrations.json"
_CRITERIA = [FiniteHorizon, Discounted, AverageReward, UntilTermination]


class DemonstrationRun(NamedTuple):
    """What was recorded; `returns` are discounted where the problem is, with its terminal reward."""

    demonstrations: Demonstrations
    environment: str
    criterion: dict[str, Any] | None
    policy: dict[str, Any]
    returns: np.ndarray
    seed: int
    path: Path | None

    @property
    def interval(self) -> MeanInterval:
        return mean_interval(self.returns)

    def summary(self) -> dict[str, Any]:
        """The numbers, for `demonstrations.json` and `--json`."""
        interval, lengths = self.interval, np.asarray(self.demonstrations.lengths)
        return {
            "environment": self.environment,
            "criterion": self.criterion,
            "policy": self.policy,
            "seed": self.seed,
            "episodes": self.demonstrations.episodes,
            "steps": int(lengths.sum()),
            "returns": {
                "mean": interval.mean,
                "interval_95": [interval.low, interval.high],
                "standard_deviation": interval.standard_deviation,
                "lowest": float(self.returns.min()),
                "highest": float(self.returns.max()),
            },
            "lengths": {"mean": float(lengths.mean()), "shortest": int(lengths.min()), "longest": int(lengths.max())},
            "terminated": float(np.mean(self.demonstrations.terminated)),
        }


def record(
    run: Path,
    environment: str | None = None,
    *,
    episodes: int = 50,
    seed: int = 0,
    steps: int | None = None,
    which: str = "last",
    backend: str | None = None,
    options: dict[str, Any] | None = None,
    out: Path | None = None,
    force: bool = False,
    command: list[str] | None = None,
) -> DemonstrationRun:
    """Plays `episodes` episodes of the policy in `run` and, with `out`, writes them.

    Args:
        run: folder of `optimality solve` or `train`.
        environment: name of a problem or an environment; by default the run's own.
        episodes: how many.
        seed: everything random follows from it.
        steps: where episodes that go on are cut off, as in `sampling.policy_demonstrations.demonstrate`.
        which: of a training run's policies, `last` or `best`.
        backend: of a training run's environment.
        options: of the environment.
        out: the folder that gets the files; nothing is written without it.
        force: replace files that are there.
        command: how this was called, for the record.

    Raises:
        ValueError: no run, a policy that does not fit the environment, files that are there already.
    """
    config = read_config(run)
    kind = config.get("command")
    if kind not in ("solve", "train"):
        raise ValueError(f"{run} is no run of `optimality solve` or `optimality train`.")
    with _target(out, force):
        if "methods" in config or config.get("problem", {}).get("kind") in ("play-or-not", KIND):
            raise ValueError(f"{run} is of a decision, which has no episodes in an environment.")
        policy, key = load_policy(run, which if kind == "train" else "last"), jax.random.key(seed)
        described = {"run": str(run), "command": kind, "method": config["method"]["kind"]}
        if kind == "solve":
            if backend is not None:
                raise ValueError("--environment-backend is for training runs: a solved problem is drawn from itself.")
            played = _in_problem(config, environment, policy, episodes, key, steps, options or {})
        else:
            described["which"] = which
            played = _in_environment(config, environment, policy, episodes, key, steps, backend, options or {})
        demonstrations, name, criterion, returns = played
        done = DemonstrationRun(demonstrations, name, criterion, described, returns, seed, out)
        if out is not None:
            _write(done, out, command or [])
    return done


def _in_problem(config, environment, policy, episodes, key, steps, options):
    stored = config["problem"]
    name = environment or stored["kind"]
    kept = stored.get("options", {}) if name == stored["kind"] else {}
    criterion = from_table(config["criterion"], _CRITERIA, "criterion")
    problem = ProblemChoice(name, {**kept, **options}, criterion).build()
    if isinstance(problem, LinearQuadratic) == isinstance(policy, TabularPolicy):
        raise ValueError(
            f"the policy is that of {stored['kind']} and does not fit {name}: one is a table, the other is not."
        )
    if isinstance(problem, LinearQuadratic):
        played = demonstrate(LinearQuadraticEnvironment(problem), policy, episodes, key, steps=steps)
        return played, problem.name, to_table(problem.criterion), played.returns()
    played = demonstrate(problem, policy, episodes, key, steps=steps)
    discount = float(np.asarray(problem.discount))
    returns = played.returns(discount)
    if isinstance(problem.criterion, FiniteHorizon):
        rewards = np.broadcast_to(np.asarray(problem.criterion.terminal_reward, np.float64), (problem.shape[0],))
        lengths = np.asarray(played.lengths)
        last = np.asarray(played.observation)[np.arange(lengths.size), lengths]
        whole = ~np.asarray(played.terminated) & (lengths == problem.criterion.horizon)
        returns = returns + np.where(whole, discount**problem.criterion.horizon * rewards[last], 0.0)
    return played, problem.name, to_table(problem.criterion), returns


def _in_environment(config, environment, policy, episodes, key, steps, backend, options):
    stored = dict(config["environment"])
    if environment is not None and environment != stored.get("kind"):
        stored = {"kind": environment}
    stored = {**stored, "options": {**stored.get("options", {}), **options}}
    if backend is not None:
        stored["backend"] = backend
    choice = EnvironmentChoice.from_table(stored)
    runner, _ = choice.evaluation_runner(min(episodes, SIDE_BY_SIDE))
    if steps is not None:
        limit = runner.time_limit or EVALUATION_STEPS
        if steps > limit:
            raise ValueError(f"--steps {steps} is longer than the {limit} steps after which {choice.name} ends itself.")
    try:
        played = _play(runner, policy, episodes, key, choice.name)
    finally:
        choice.close(runner)
    played = played if steps is None else played.cut(steps)
    return played, choice.name, None, played.returns()


def _play(runner, policy, episodes, key, name):
    try:
        return from_runner(runner, policy.sampling(True), episodes, key)
    except TypeError as error:
        raise ValueError(f"the policy does not fit {name}: {error}") from error


@contextmanager
def _target(out: Path | None, force: bool) -> Iterator[None]:
    """Whether the files can be written, before anything is computed; an empty folder does not outlive a failure."""
    if out is None:
        yield
        return
    there = [name for name in (FILE, RECORD) if (out / name).exists()]
    if there and not force:
        raise ValueError(f"{out / there[0]} is there already: choose another --out, or replace it with --force.")
    is_new = not out.exists()
    require_writable(out)
    try:
        yield
    except BaseException:
        if is_new and not any(out.iterdir()):
            out.rmdir()
        raise


def _write(run: DemonstrationRun, out: Path, command: list[str]) -> None:
    """The record goes first and comes last, so that it never describes another file than the one beside it."""
    (out / RECORD).unlink(missing_ok=True)
    data = save(run.demonstrations, out / FILE)
    record = {
        "schema": 1,
        "command": command,
        "made": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        **run.summary(),
        "sha256": hashlib.sha256(data.read_bytes()).hexdigest(),
        "versions": versions(),
    }
    partial = out / f"{RECORD}.tmp-{os.getpid()}"
    try:
        partial.write_text(to_json(record, indent=2) + "\n")
        partial.replace(out / RECORD)
    finally:
        partial.unlink(missing_ok=True)
