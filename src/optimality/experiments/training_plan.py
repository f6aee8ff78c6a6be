"""What a training run is asked to do, checked before anything is compiled or written."""

import importlib
import math
from typing import Any, NamedTuple

from optimality import registry
from optimality.experiments.configuration import from_table, nearest, to_table
from optimality.experiments.training_environment import EnvironmentChoice
from optimality.sampling.learner import AbstractLearner
from optimality.sampling.transitions import Steps

DEFAULT_STEPS = 100_000


class TrainingPlan(NamedTuple):
    """What a run is asked to do: `config.toml` holds this and nothing else.

    `environments` is the method's number, or how many the source has. `chunk` is the number of learner steps between
    evaluations; the bits of a run depend on it.
    """

    choice: EnvironmentChoice
    method: AbstractLearner
    environments: int
    steps: int
    seed: int
    evaluation_episodes: int
    chunk: int
    target: float | None
    seconds: float | None
    max_bad_updates: int
    keep: int

    def to_config(self) -> dict[str, Any]:
        numbers = {name: getattr(self, name) for name in self._fields[3:]}
        return {
            "command": "train",
            "environment": self.choice.to_table(),
            "method": to_table(self.method),
            "run": {name: number for name, number in numbers.items() if number is not None},
        }


def learner_named(name: str) -> AbstractLearner:
    """The learner of that name with its defaults; `ValueError` with the nearest names where there is none."""
    entry = registry.find(registry.LEARNERS, name)
    if entry is None:
        names = [entry.name for entry in registry.LEARNERS]
        raise ValueError(f"unknown method {name!r}{nearest(name, names)} Methods are {', '.join(names)}.")
    return getattr(importlib.import_module(entry.module), entry.attribute)()


def learner_from_table(table: dict[str, Any]) -> AbstractLearner:
    """The learner that a configuration describes."""
    classes = dict.fromkeys(type(learner_named(entry.name)) for entry in registry.LEARNERS)
    return from_table(table, classes, "method")


def plan_training(
    environment: Any,
    method: AbstractLearner | str | None = None,
    *,
    steps: int = DEFAULT_STEPS,
    seed: int = 0,
    evaluation_episodes: int = 20,
    backend: str = "auto",
    options: dict[str, Any] | None = None,
    evaluations: int = 20,
    chunk: int | None = None,
    target: float | None = None,
    seconds: float | None = None,
    max_bad_updates: int = 10,
    keep: int = 3,
) -> TrainingPlan:
    """The arguments of `train` that say what to do, checked; `ValueError` or `TypeError` names the one at fault."""
    for name, value in (("steps", steps), ("evaluations", evaluations), ("evaluation_episodes", evaluation_episodes),
                        ("chunk", chunk), ("max_bad_updates", max_bad_updates),
                        ("keep", keep)):  # fmt: skip
        if value is not None and (isinstance(value, bool) or int(value) != value or value < 1):
            raise ValueError(f"{name} must be a whole number, at least 1, but {value!r} was given.")
    if seconds is not None and not seconds > 0.0:
        raise ValueError(f"seconds must be above 0, but {seconds!r} was given.")
    if method is None or isinstance(method, str):
        method = learner_named(registry.DEFAULT_LEARNER if method is None else method)
    if not isinstance(method, AbstractLearner):
        raise TypeError(f"method must be a learner or the name of one, but {type(method).__name__} was given.")
    choice = environment if isinstance(environment, EnvironmentChoice) else None
    choice = EnvironmentChoice(environment, backend, options) if choice is None else choice
    number = choice.default_number or method.environments
    if chunk is None:
        learning = max(1, steps - method.warm_up)
        chunk = max(1, math.ceil(learning / (evaluations * _steps_of(method, choice, number))))
    return TrainingPlan(
        choice=choice,
        method=method,
        environments=number,
        steps=int(steps),
        seed=int(seed),
        evaluation_episodes=evaluation_episodes,
        chunk=chunk,
        target=target,
        seconds=seconds,
        max_bad_updates=max_bad_updates,
        keep=keep,
    )


def plan_from_config(config: dict[str, Any], *, environment: Any = None, method: Any = None, **changes: Any):
    """The plan that a `config.toml` of `train` holds, with some arguments changed; None leaves one as it was."""
    numbers = {**config["run"], **{name: value for name, value in changes.items() if value is not None}}
    stored = config["environment"]
    if environment is None:
        choice = EnvironmentChoice.from_table(stored)
    else:
        choice = EnvironmentChoice(environment, stored.get("backend", "auto"))
    return plan_training(choice, learner_from_table(config["method"]) if method is None else method, **numbers)


def _steps_of(method: AbstractLearner, choice: EnvironmentChoice, environments: int) -> int:
    """Environment steps of one learner step; whole episodes count as their time limit."""
    if isinstance(method.collection, Steps):
        return method.collection.number * environments
    limit = choice.runner(1).time_limit
    if limit is None:
        raise ValueError(
            f"{type(method).__name__} collects whole episodes, but {choice.name} has no time limit: wrap it in "
            "TimeLimit(environment, steps)."
        )
    return method.collection.number * environments * limit
