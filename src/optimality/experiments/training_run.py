"""The second verb: `train(environment, method)`. A short Python loop around compiled chunks: evaluate, log, save.

Everything random follows from the seed and the number of the chunk, and the whole state is in the checkpoint, so that a
run on a JAX environment that was stopped goes on to the same bits. A Gymnasium environment cannot be saved: its run
goes on with what was learned, the replay and the counters, from fresh episodes.
"""

import math
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import tomli_w
from matplotlib.figure import Figure

from optimality.experiments.checkpoints import complete_checkpoints, load_checkpoint, save_checkpoint
from optimality.experiments.compile_clock import CompileClock
from optimality.experiments.configuration import kind_of
from optimality.experiments.gradient_angle import gradient_angle
from optimality.experiments.plots import plot_learning_curve
from optimality.experiments.run_folder import RunFolder, read_config, to_csv
from optimality.experiments.saved_policy import BEST, FILE, policy_bytes
from optimality.experiments.stop_signals import StopSignals
from optimality.experiments.training_plan import DEFAULT_STEPS, TrainingPlan, plan_from_config, plan_training
from optimality.experiments.training_report import write_training_report
from optimality.sampling.acting import ActingPolicy
from optimality.sampling.compiled_runner import CompiledRunner
from optimality.sampling.gymnasium_runner import GymnasiumRunner
from optimality.sampling.learner import AbstractLearner
from optimality.sampling.loop import begin, episode_returns, play, run_chunk, run_mapped_chunk, strong
from optimality.sampling.transitions import Steps

_INTERRUPTIONS = {"SIGINT": "interrupted", "SIGTERM": "terminated"}
INTERRUPTIONS = tuple(_INTERRUPTIONS.values())
"""Results of runs that a signal stopped."""


class Progress(NamedTuple):
    """After a chunk: environment steps so far and of how many, the chunk's numbers, and what was learned.

    `state` is donated to the next chunk: copy what is to be kept.
    """

    step: int
    steps: int
    metrics: dict[str, Any]
    learner: AbstractLearner
    state: Any


class Run(NamedTuple):
    """What training gives back.

    `result` is `finished`, `target_reached`, `out_of_time`, `stopped` (by a callback), `interrupted` (SIGINT),
    `terminated` (SIGTERM) or `not_finite`. `metrics` has one dictionary a chunk: `pandas.DataFrame(run.metrics)` is a
    frame of them. `policy.act(observation)` takes and gives NumPy. `state` is the learner's.
    """

    policy: ActingPolicy
    metrics: list[dict[str, Any]]
    config: dict[str, Any]
    result: str
    path: Path | None
    state: Any

    def plot(self) -> Figure:
        """The learning curve."""
        return plot_learning_curve({"this run": [self.metrics]})

    def to_csv(self, path: Path | str) -> Path:
        """Writes the metrics as a table with a header."""
        Path(path).write_text(to_csv(self.metrics))
        return Path(path)


class TrainingFailed(RuntimeError):
    """Learning could not go on; `run` is what there was by then."""

    def __init__(self, message: str, run: Run):
        super().__init__(message)
        self.run = run


def train(
    environment: Any,
    method: AbstractLearner | str | None = None,
    *,
    steps: int = DEFAULT_STEPS,
    seed: int = 0,
    backend: str = "auto",
    options: dict[str, Any] | None = None,
    evaluations: int = 20,
    evaluation_episodes: int = 20,
    chunk: int | None = None,
    target: float | None = None,
    seconds: float | None = None,
    max_bad_updates: int = 10,
    keep: int = 3,
    data: Any = None,
    out: Path | str | None = None,
    callbacks: Sequence[Callable[[Progress], Any]] = (),
    command: Sequence[str] = (),
) -> Run:
    """Learns in an environment that is only sampled.

    Args:
        environment: a Gymnasium id, one of our environments or its name, a constructed `gymnasium.Env`, a function that
            constructs one, or a vector environment.
        method: a learner, whose fields are its hyper-parameters, or its name; by default `ppo`.
        steps: of all environments together, warm-up included; rounded up to whole chunks.
        seed: everything random follows from it.
        backend: `auto` compiles where the id has a JAX version; `jax` or `gymnasium` force one.
        options: of an id, for example `{"length": 1.0}`.
        evaluations: how many; the steps between two are a chunk.
        evaluation_episodes: whole episodes each.
        chunk: learner steps between evaluations, instead of `evaluations`.
        target: stop when the mean return of an evaluation reaches it.
        seconds: stop after this time.
        max_bad_updates: stop after so many steps in a row whose update was not finite, and therefore not applied.
        keep: how many checkpoints.
        data: demonstrations or an initial policy, for learners that take them.
        out: parent of the run folder; nothing is written without it.
        callbacks: called after each chunk with a `Progress`; one that returns True stops the run.
        command: how this was called, for the record.

    Raises:
        ValueError: bad input, before anything is written or compiled.
        TrainingFailed: the updates were not finite; what there was is saved.
        EnvironmentFailure: a Gymnasium environment raised, gave NaN or changed its shape.
        OSError: a checkpoint could not be written; the one before is untouched.
    """
    plan = plan_training(
        environment,
        method,
        steps=steps,
        seed=seed,
        backend=backend,
        options=options,
        evaluations=evaluations,
        evaluation_episodes=evaluation_episodes,
        chunk=chunk,
        target=target,
        seconds=seconds,
        max_bad_updates=max_bad_updates,
        keep=keep,
    )
    return train_plan(plan, data=data, out=out, callbacks=callbacks, command=command)


def train_plan(
    plan: TrainingPlan,
    *,
    data: Any = None,
    out: Path | str | None = None,
    callbacks: Sequence[Callable[[Progress], Any]] = (),
    command: Sequence[str] = (),
) -> Run:
    """`train` with a plan that was made before; the arguments are those of `train`."""
    session = _Session(plan, data)
    if out is not None:
        session.create_folder(Path(out), command)
    return session.run(callbacks)


def train_mapped(plans: Sequence[TrainingPlan], out: Path, command: Sequence[str] = ()) -> list[Run]:
    """Plans that differ in their seeds only, on one JAX environment, mapped in one program.

    Every run has its folder and its checkpoints, but each of them goes on by itself when it is resumed. Targets and
    time limits are not looked at; one run whose updates are not finite does not stop the others.
    """
    sessions = [_Session(plan, None) for plan in plans]
    for session in sessions:
        session.create_folder(out, command)
        session.begin()
    learner, chunk = sessions[0].learner, plans[0].chunk
    stacked = lambda trees: jax.tree.map(lambda *leaves: jax.numpy.stack(leaves), *trees)  # noqa: E731
    result = "finished"
    with StopSignals() as signals, CompileClock() as clock:
        while sessions[0].step < plans[0].steps and signals.received is None:
            before, compiled = time.monotonic(), clock.seconds
            finished = [session.finished_episodes() for session in sessions]
            states, runners, numbers = run_mapped_chunk(
                learner,
                stacked([session.state for session in sessions]),
                stacked([session.runner for session in sessions]),
                stacked([session.next_key() for session in sessions]),
                chunk,
            )
            compiling = clock.seconds - compiled
            spent = (time.monotonic() - before - compiling) / len(sessions)
            for i, session in enumerate(sessions):
                session.state, session.runner, own = jax.tree.map(lambda leaf, i=i: leaf[i], (states, runners, numbers))
                session.record(own, finished[i], spent, compiling / len(sessions))
    if signals.received is not None:
        result = _INTERRUPTIONS[signals.received.name]
    return [session.finish(result) for session in sessions]


def resume(
    path: Path | str,
    *,
    steps: int | None = None,
    environment: Any = None,
    method: AbstractLearner | None = None,
    data: Any = None,
    callbacks: Sequence[Callable[[Progress], Any]] = (),
    command: Sequence[str] = (),
) -> Run:
    """Goes on with a run from its newest complete checkpoint, or from the start where it has none.

    Args:
        path: the run folder.
        steps: how many in all, where it shall learn for longer than it was asked to.
        environment: where the run learned in an object rather than an id.
        method: where the learner is not one of ours.
        data: as for `train`.
        callbacks: as for `train`.
        command: as for `train`.

    Raises:
        ValueError: no run folder, one that another process works in, or a checkpoint that is damaged or does not fit.
    """
    folder = RunFolder.open(Path(path))
    try:
        config = read_config(folder.path)
        if config.get("command") != "train":
            raise ValueError(f"{path} is not a training run: it was made by `optimality {config.get('command')}`.")
        if "environment" not in config:
            raise ValueError(f"{path} is a study of bandit policies, which is not resumed: repeat it with --config.")
        plan = plan_from_config(config, environment=environment, method=method, steps=steps)
        session = _Session(plan, data)
        session.folder = folder
        session.restore()
        if steps is not None and steps < session.step:
            raise ValueError(f"{path} has learned for {session.step} steps already; {steps} in all are less.")
        if steps is not None:
            config["run"]["steps"] = steps
            folder.write_text("config.toml", tomli_w.dumps(config))
        folder.resumed(list(command))
    except BaseException:
        folder.release()
        raise
    return session.run(callbacks)


class _Session:
    """The mutable side of a run: where it stands, and what it has written."""

    def __init__(self, plan: TrainingPlan, data: Any):
        self.plan = plan
        self.folder: RunFolder | None = None
        self.learner = strong(plan.method)
        self.begin_key, self.chunk_key, self.evaluation_key = jax.random.split(jax.random.key(plan.seed), 3)
        self.about = {
            "method": kind_of(type(plan.method)),
            "environment": plan.choice.name,
            "backend": plan.choice.backend,
            "environments": plan.environments,
            "chunk": plan.chunk,
        }
        self.data = data
        self.runner: Any = plan.choice.runner(plan.environments)
        self.evaluation, self.rounds = plan.choice.evaluation_runner(plan.evaluation_episodes)
        self.state: Any = None
        self.chunks, self.step = 0, 0
        self.metrics: list[dict[str, Any]] = []
        self.gradient_angle = gradient_angle(self.learner, plan.choice.environment, plan.environments)
        self.best = -math.inf
        # Shapes first: bad sizes and spaces are found before a folder exists or anything is compiled.
        runner = self.runner
        if plan.choice.backend == "jax":
            self.shapes = jax.eval_shape(lambda key: begin(self.learner, runner, key, data), self.begin_key)
        else:
            self.shapes = jax.eval_shape(lambda key: strong(self.learner.init(runner.spec, key, data)), self.begin_key)

    @property
    def is_compiled(self) -> bool:
        return isinstance(self.runner, CompiledRunner)

    def restore(self) -> None:
        assert self.folder is not None
        folder = self.folder.path / "checkpoints"
        checkpoints = complete_checkpoints(folder)
        if not checkpoints:
            self.folder.keep_metrics(0)
            return
        counters = {name: np.zeros((), np.int64) for name in ("chunks", "step")}
        like = {"state": self.shapes[0], "runner": self.shapes[1]} if self.is_compiled else {"state": self.shapes}
        tree, _ = load_checkpoint(checkpoints[-1], {**like, **counters}, self.about)
        self.chunks, self.step = int(tree["chunks"]), int(tree["step"])
        self.state = tree["state"]
        self.metrics = self.folder.keep_metrics(self.chunks)
        scores = [row["evaluation_return"] for row in self.metrics]
        self.best = max((score for score in scores if score is not None), default=-math.inf)
        if self.is_compiled:
            self.runner = tree["runner"]
        else:
            policy = self.learner.policy(self.state, explore=True)
            self.runner = self.runner.reset(policy, jax.random.fold_in(self.begin_key, self.chunks))
            self.folder.event("restored", note="what was learned and the counters; the environments start new episodes")

    def create_folder(self, out: Path, command: Sequence[str]) -> None:
        plan = self.plan
        kind, name = kind_of(type(plan.method)), plan.choice.name
        self.folder = RunFolder.create(
            out, method=kind, problem=name, seed=plan.seed, config=plan.to_config(), command=list(command)
        )

    def run(self, callbacks: Sequence[Callable[[Progress], Any]]) -> Run:
        try:
            with StopSignals() as signals:
                result = self._learn(callbacks, signals)
            return self.finish(result)
        except TrainingFailed:
            raise
        except KeyboardInterrupt:
            self._note("interrupted", result="interrupted")
            raise
        except Exception as error:
            self._note("failed", error=f"{type(error).__name__}: {error}")
            raise
        finally:
            self.plan.choice.close(self.runner, self.evaluation)

    def finish(self, result: str) -> Run:
        policy = ActingPolicy(self.learner.policy(self.state, explore=False), self.plan.seed)
        path = None if self.folder is None else self.folder.path
        run = Run(policy, self.metrics, self.plan.to_config(), result, path, self.state)
        if self.folder is not None:
            write_training_report(self.folder, result)
        if result == "not_finite":
            where = "" if path is None else f" What there was by then is in {path / 'post-mortem'}."
            message = (
                f"updates were not finite for {self.plan.max_bad_updates} steps in a row or more, and were not "
                f"applied. {self._suspect()}{where}"
            )
            self._note("failed", result=result, error=message)
            raise TrainingFailed(message, run)
        self._note(result if result in INTERRUPTIONS else "finished", result=result)
        return run

    def _note(self, status: str, **values: Any) -> None:
        if self.folder is None:
            return
        try:
            self.folder.finish(status, step=self.step, **values)
        except OSError:
            if status != "failed":  # a full disk is being reported already
                raise

    def begin(self) -> None:
        self.state, self.runner = begin(self.learner, self.runner, self.begin_key, self.data)
        self.step = -(-self.plan.method.warm_up // self.plan.environments) * self.plan.environments

    def next_key(self) -> Any:
        return jax.random.fold_in(self.chunk_key, self.chunks)

    def _learn(self, callbacks: Sequence[Callable[[Progress], Any]], signals: StopSignals) -> str:
        started = time.monotonic()
        plan = self.plan
        with CompileClock() as clock:
            if self.state is None:
                self.begin()
            compiled, bad = 0.0, 0
            while self.step < plan.steps:
                before, finished = time.monotonic(), self.finished_episodes()
                earlier = clock.seconds
                self.state, self.runner, numbers = run_chunk(
                    self.learner, self.state, self.runner, self.next_key(), plan.chunk
                )
                numbers = {name: float(value) for name, value in numbers.items()}
                compiling = clock.seconds - earlier
                spent = time.monotonic() - before - compiling
                row = self.record(numbers, finished, spent, clock.seconds - compiled)
                compiled = clock.seconds
                progress = Progress(self.step, plan.steps, row, self.learner, self.state)
                stops = [callback(progress) is True for callback in callbacks]
                whole = row["bad_updates"] >= plan.chunk
                bad = bad + plan.chunk if whole else int(row["bad_updates"])
                if bad >= plan.max_bad_updates:
                    self._post_mortem()
                    return "not_finite"
                if signals.received is not None:
                    return _INTERRUPTIONS[signals.received.name]
                if plan.target is not None and row["evaluation_return"] >= plan.target:
                    return "target_reached"
                if any(stops):
                    return "stopped"
                if plan.seconds is not None and time.monotonic() - started >= plan.seconds:
                    return "out_of_time"
        return "finished"

    def record(self, numbers: Any, finished: np.ndarray, seconds: float, compile_seconds: float) -> dict[str, Any]:
        """Counts a chunk that was run, evaluates, and saves."""
        finished = self.finished_episodes() - finished
        if isinstance(self.plan.method.collection, Steps):
            steps = self.plan.chunk * self.plan.method.collection.number * self.plan.environments
        else:
            steps = int(finished[1])
        self.chunks, self.step = self.chunks + 1, self.step + steps
        before = time.monotonic()
        row: dict[str, Any] = {"step": self.step, **self._evaluate(), **_episode_means(finished)}
        row.update(
            steps_per_second=steps / max(seconds, 1e-9),
            seconds=seconds,
            compile_seconds=compile_seconds,
            evaluation_seconds=time.monotonic() - before,
            **{name: float(value) for name, value in numbers.items()},
        )
        self.metrics.append(row)
        if self.folder is not None:
            self._save(row)
        return row

    def _evaluate(self) -> dict[str, float]:
        key = jax.random.fold_in(self.evaluation_key, self.chunks)
        policy = self.learner.policy(self.state, explore=False)
        returns = self._play(policy, key)
        row = {"evaluation_return": float(returns.mean()), "evaluation_deviation": float(returns.std())}
        if float(getattr(self.plan.method, "temperature", 0.0)) > 0.0 and hasattr(policy, "sample"):
            sampled = ActingPolicy(policy).sampling(True)
            row["sampled_evaluation_return"] = float(self._play(sampled, jax.random.fold_in(key, 1)).mean())
        if self.gradient_angle is not None:
            row["gradient_angle"] = self.gradient_angle(self.state, jax.random.fold_in(key, 2))
        return row

    def _play(self, policy: Any, key: Any) -> np.ndarray:
        if isinstance(self.evaluation, GymnasiumRunner):
            self.evaluation.is_seeded = False  # each evaluation by its own seed, so that it can be repeated
        return episode_returns(play(policy, self.evaluation, key, self.rounds))

    def finished_episodes(self) -> np.ndarray:
        return np.array(self.runner.statistics.finished if self.is_compiled else self.runner.finished, np.float64)

    def _tree(self) -> dict[str, Any]:
        tree = {"state": self.state, "chunks": np.asarray(self.chunks), "step": np.asarray(self.step)}
        return {**tree, "runner": self.runner} if self.is_compiled else tree

    def _save(self, row: dict[str, Any]) -> None:
        assert self.folder is not None
        policy = policy_bytes(self.learner.policy(self.state, explore=False))
        self.folder.metrics([row])
        save_checkpoint(self.folder.path / "checkpoints", self.chunks, self._tree(), self.about, keep=self.plan.keep)
        self.folder.write_bytes(FILE, policy)
        if row["evaluation_return"] > self.best:
            self.best = row["evaluation_return"]
            self.folder.write_bytes(f"{BEST}/{FILE}", policy)
            self.folder.event("best", step=self.step, evaluation_return=self.best)

    def _post_mortem(self) -> None:
        if self.folder is not None:
            save_checkpoint(self.folder.path / "post-mortem", self.chunks, self._tree(), self.about, keep=1)

    def _suspect(self) -> str:
        """The first thing in sight that is not finite."""
        seen = [("an observation", self.runner.observation)]
        if self.is_compiled:
            seen.append(("the return of a running episode", self.runner.statistics.running_return))
            seen.append(("the sum of the returns of all episodes", self.runner.statistics.finished[0]))
        for what, leaf in seen:
            for values in map(np.asarray, jax.tree.leaves(leaf)):
                wrong = values[~np.isfinite(values)] if values.dtype.kind == "f" else values[:0]
                if wrong.size:
                    return f"{self.plan.choice.name}: {what} is {wrong[0]}."
        return "The environment's numbers are finite: a smaller learning rate may help."


def _episode_means(finished: np.ndarray) -> dict[str, float]:
    returns, lengths, number = (float(x) for x in finished)
    if number == 0.0:
        return {"episodes": 0.0}
    return {"episodes": number, "episode_return": returns / number, "episode_length": lengths / number}
