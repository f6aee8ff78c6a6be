"""The second verb: `train(environment, method)`. A short Python loop around compiled chunks: evaluate, log, save.

Everything random follows from the seed and the number of the chunk, so that a run that was stopped goes on to the same
bits: on JAX environments the whole state is in the checkpoint. A Gymnasium environment cannot be saved; its run goes on
from fresh episodes, which the record says.
"""

import math
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from optimality.experiments.checkpoints import complete_checkpoints, load_checkpoint, save_checkpoint
from optimality.experiments.configuration import kind_of, to_table
from optimality.experiments.run_folder import RunFolder
from optimality.experiments.training_environment import EnvironmentChoice
from optimality.sampling.compiled_runner import CompiledRunner
from optimality.sampling.learner import AbstractLearner
from optimality.sampling.loop import begin, episode_returns, play, run_chunk, strong
from optimality.sampling.transitions import Steps

EVALUATION_EPISODES = 20


class Progress(NamedTuple):
    """One chunk: environment steps so far, seconds of the chunk, and its numbers."""

    step: int
    seconds: float
    metrics: dict[str, float]


class Run(NamedTuple):
    """What training gives back. `result` is `finished`, `target reached`, `out of time`, `interrupted` or
    `not finite`; `metrics` has one dictionary a chunk; `policy` acts without exploring."""

    policy: Any
    metrics: list[dict[str, float]]
    config: dict[str, Any]
    result: str
    path: Path | None
    state: Any


def train(
    environment: Any,
    method: AbstractLearner,
    *,
    steps: int,
    seed: int = 0,
    environments: int | None = None,
    backend: str = "auto",
    evaluations: int = 20,
    target: float | None = None,
    seconds: float | None = None,
    out: Path | str | None = None,
    on_progress: Callable[[Progress], None] | None = None,
    resume: RunFolder | None = None,
    command: list[str] | None = None,
) -> Run:
    """Learns for `steps` steps of the environment in all.

    Args:
        environment: a Gymnasium id, one of our environments, or a factory of Gymnasium environments.
        method: the learner; its fields are its hyper-parameters.
        steps: environment steps, over all environments together; rounded up to whole chunks.
        seed: everything random follows from it.
        environments: how many side by side; by default the method's own number.
        backend: `jax`, `gymnasium`, or `auto`: compiled where the id has a JAX twin.
        evaluations: chunks, each followed by an evaluation of 20 episodes.
        target: stop when the evaluation's mean return reaches it.
        seconds: stop after this much time.
        out: parent of the run folder; nothing is written without it.
        on_progress: called after each chunk.
        resume: a run folder to go on with.
        command: how this was called, for the record.

    Raises:
        ValueError: bad input, before anything is written.
    """
    if steps < 1 or evaluations < 1:
        raise ValueError(f"steps and evaluations must be at least 1, but {steps} and {evaluations} were given.")
    choice = EnvironmentChoice(environment, backend)
    number = method.environments if environments is None else environments
    runner, evaluation = choice.runner(number), choice.runner(EVALUATION_EPISODES)
    per_step = _steps_of(method, runner)
    chunk = max(1, math.ceil(steps / (evaluations * per_step)))
    chunks = math.ceil(steps / (chunk * per_step))
    config = {
        "command": "train",
        "environment": choice.to_table(),
        "method": to_table(method),
        "run": {"steps": steps, "seed": seed, "environments": number, "evaluations": evaluations},
    }
    if target is not None:
        config["run"]["target"] = target
    if seconds is not None:
        config["run"]["seconds"] = seconds
    begin_key, chunk_key, evaluation_key = jax.random.split(jax.random.key(seed), 3)
    learner = strong(method)
    started = time.monotonic()
    state, runner = begin(learner, strong(runner) if isinstance(runner, CompiledRunner) else runner, begin_key)
    folder = resume
    if folder is None and out is not None:
        folder = RunFolder(
            Path(out), method=kind_of(type(method)), problem=choice.name, seed=seed, config=config, command=command or []
        )
    metrics: list[dict[str, float]] = []
    first = 0
    about = {"method": kind_of(type(method)), "environment": choice.name, "chunk_steps": chunk, "environments": number}
    if resume is not None:
        state, runner, first, metrics = _restore(resume, state, runner, about)
    result = "finished"
    with _Signals() as signals:
        for index in range(first, chunks):
            before, counts = time.monotonic(), _finished(runner)
            state, runner, numbers = run_chunk(learner, state, runner, jax.random.fold_in(chunk_key, index), chunk)
            numbers = {name: float(value) for name, value in numbers.items()}
            spent = time.monotonic() - before
            step = (index + 1) * chunk * per_step
            record = {"step": step, "seconds": spent, "steps_per_second": chunk * per_step / spent, **numbers}
            record.update(_episode_means(_finished(runner) - counts))
            key = jax.random.fold_in(evaluation_key, index)
            returns = episode_returns(play(learner.policy(state, explore=False), evaluation, key))
            record.update(evaluation_return=float(returns.mean()), evaluation_deviation=float(returns.std()))
            metrics.append(record)
            if folder is not None:
                folder.metrics([record])
                _save(folder, state, runner, index + 1, about)
            if on_progress is not None:
                on_progress(Progress(step, spent, record))
            if numbers.get("applied", 1.0) < 1.0:
                result = "not finite"
            elif target is not None and record["evaluation_return"] >= target:
                result = "target reached"
            elif seconds is not None and time.monotonic() - started >= seconds:
                result = "out of time"
            elif signals.received is not None:
                result = "interrupted"
            if result != "finished":
                break
    policy = learner.policy(state, explore=False)
    if folder is not None:
        folder.finish({"interrupted": "interrupted", "not finite": "failed"}.get(result, "finished"), result=result)
    return Run(policy, metrics, config, result, None if folder is None else folder.path, state)


def _steps_of(method: AbstractLearner, runner: Any) -> int:
    """Environment steps of one learner step; whole episodes count as their time limit."""
    if isinstance(method.collection, Steps):
        return method.collection.number * runner.environments
    limit = runner.spec.time_limit
    if limit is None:
        raise ValueError(
            f"{type(method).__name__} collects whole episodes, but the environment has no time limit: wrap it in "
            "TimeLimit(environment, steps)."
        )
    return method.collection.number * runner.environments * limit


def _finished(runner: Any) -> np.ndarray:
    return np.array(runner.statistics.finished if isinstance(runner, CompiledRunner) else runner.finished)


def _episode_means(finished: np.ndarray) -> dict[str, float]:
    returns, lengths, number = (float(x) for x in finished)
    if number == 0.0:
        return {"episodes": 0.0}
    return {"episodes": number, "episode_return": returns / number, "episode_length": lengths / number}


def _saved(state: Any, runner: Any, done: int) -> dict[str, Any]:
    saved = {"state": state, "chunks": np.asarray(done)}
    if isinstance(runner, CompiledRunner):
        saved["runner"] = runner
    return saved


def _save(folder: RunFolder, state: Any, runner: Any, done: int, about: dict[str, Any]) -> None:
    save_checkpoint(folder.path / "checkpoints", done, _saved(state, runner, done), about)


def _restore(folder: RunFolder, state: Any, runner: Any, about: dict[str, Any]):
    """The newest complete checkpoint, or the beginning where none was reached."""
    checkpoints = complete_checkpoints(folder.path / "checkpoints")
    metrics = folder.read_metrics()
    if not checkpoints:
        return state, runner, 0, []
    tree, _ = load_checkpoint(checkpoints[-1], _saved(state, runner, 0), about)
    done = int(tree["chunks"])
    folder.keep_metrics(done)
    return tree["state"], tree.get("runner", runner), done, metrics[:done]


class _Signals:
    """SIGINT and SIGTERM ask for a stop after the chunk; a second one stops at once."""

    def __init__(self):
        self.received: int | None = None

    def __enter__(self) -> "_Signals":
        self._previous = {}
        try:
            for number in (signal.SIGINT, signal.SIGTERM):
                self._previous[number] = signal.signal(number, self._handle)
        except ValueError:
            pass  # not in the main thread: whoever owns it handles signals
        return self

    def __exit__(self, *exception: Any) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _handle(self, number: int, frame: Any) -> None:
        if self.received is not None:
            raise KeyboardInterrupt
        self.received = number


