"""Environments by name: strings and lazy classes. Names that Gymnasium has too mean the same, time limit included."""

import difflib
import importlib
from typing import Any, NamedTuple

from optimality.environments.abstract import AbstractEnvironment
from optimality.environments.linear_quadratic import LinearQuadraticEnvironment
from optimality.environments.tabular import TabularEnvironment
from optimality.environments.wrappers import TimeLimit
from optimality.problems.criterion import AverageReward, FiniteHorizon, UntilTermination
from optimality.problems.linear_quadratic import LinearQuadratic

PREFIX = "optimality/"
"""Before a name where it is registered with Gymnasium."""


class CatalogEntry(NamedTuple):
    """Where the class is, or the function that makes a problem; its time limit, None where it always ends by itself;
    the return that counts as solved, where there is one."""

    target: str
    time_limit: int | None
    reward_threshold: float | None = None
    problem: bool = False


_HERE = "optimality.environments"
_PROBLEMS = "optimality.problems"

CATALOG = {
    "Acrobot-v1": CatalogEntry(f"{_HERE}.acrobot:Acrobot", 500, -100.0),
    "CartPole-v1": CatalogEntry(f"{_HERE}.cartpole:CartPole", 500, 475.0),
    "MountainCar-v0": CatalogEntry(f"{_HERE}.mountain_car:MountainCar", 200, -110.0),
    "MountainCarContinuous-v0": CatalogEntry(f"{_HERE}.mountain_car_continuous:MountainCarContinuous", 999, 90.0),
    "Pendulum-v1": CatalogEntry(f"{_HERE}.pendulum:Pendulum", 200),
    "FrozenLake-v1": CatalogEntry(f"{_PROBLEMS}.toy_text:frozen_lake", 100, 0.7, problem=True),
    "FrozenLake8x8-v1": CatalogEntry(f"{_PROBLEMS}.toy_text:frozen_lake_8x8", 200, 0.85, problem=True),
    "CliffWalking-v1": CatalogEntry(f"{_PROBLEMS}.toy_text:cliff_walking", None, problem=True),
    "Taxi-v4": CatalogEntry(f"{_PROBLEMS}.toy_text:taxi", 200, 8.0, problem=True),
    "Chain-v0": CatalogEntry(f"{_PROBLEMS}.generators:chain", 100, problem=True),
    "DeepSea-v0": CatalogEntry(f"{_PROBLEMS}.generators:deep_sea", 1000, problem=True),
    "GridWorld-v0": CatalogEntry(f"{_PROBLEMS}.gridworld:gridworld", 100, problem=True),
    "DoubleIntegrator-v0": CatalogEntry(f"{_PROBLEMS}.linear_systems:double_integrator", 100, problem=True),
    "LinearCartPole-v0": CatalogEntry(f"{_PROBLEMS}.linear_systems:cart_pole", 200, problem=True),
    "RiverSwim-v0": CatalogEntry(f"{_PROBLEMS}.generators:river_swim", 100, problem=True),
    "ActionObservationReward-v0": CatalogEntry(f"{_HERE}.probes:ActionObservationReward", None),
    "ActionReward-v0": CatalogEntry(f"{_HERE}.probes:ActionReward", None),
    "ConstantReward-v0": CatalogEntry(f"{_HERE}.probes:ConstantReward", None),
    "DelayedReward-v0": CatalogEntry(f"{_HERE}.probes:DelayedReward", None),
    "EndlessReward-v0": CatalogEntry(f"{_HERE}.probes:EndlessReward", 8),
    "ObservationReward-v0": CatalogEntry(f"{_HERE}.probes:ObservationReward", None),
}


def make(name: str, *, time_limit: int | None = None, **parameters: Any) -> AbstractEnvironment:
    """Our environment of that name, with its time limit; a problem has it as criterion, `FiniteHorizon(time_limit)`.

    Args:
        name: one of `CATALOG`, with or without `optimality/` before it.
        time_limit: steps after which an episode is truncated; by default the catalog's.
        parameters: fields of the environment, or arguments of the problem, for example `gravity=3.7`.

    Raises:
        ValueError: an unknown name or parameter; the message has the nearest ones.
    """
    entry = find(name)
    limit = entry.time_limit if time_limit is None else time_limit
    environment = _build(name, entry, limit, parameters)
    return environment if limit is None or entry.problem else TimeLimit(environment, limit)


def make_bare(name: str, **parameters: Any) -> AbstractEnvironment:
    """The same without a time limit, for those who bring their own."""
    return _build(name, find(name), None, parameters)


def find(name: str) -> CatalogEntry:
    """The entry of that name; `ValueError` with the nearest names where there is none."""
    entry = CATALOG.get(name.removeprefix(PREFIX))
    if entry is None:
        raise ValueError(f"there is no JAX environment {name!r}: {_nearest(name.removeprefix(PREFIX), list(CATALOG))}.")
    return entry


def _build(name: str, entry: CatalogEntry, limit: int | None, parameters: dict[str, Any]) -> AbstractEnvironment:
    module, _, attribute = entry.target.partition(":")
    target = getattr(importlib.import_module(module), attribute)
    known = list(target.__annotations__ if entry.problem else target.__dataclass_fields__)
    known = [parameter for parameter in known if parameter not in ("_", "return", "criterion")]
    for parameter in parameters:
        if parameter not in known:
            raise ValueError(f"{name} has no parameter {parameter!r}: {_nearest(parameter, known)}.")
    if entry.problem:
        linear = target.__annotations__["return"] is LinearQuadratic
        endless = AverageReward() if linear else UntilTermination()
        problem = target(criterion=endless if limit is None else FiniteHorizon(limit), **parameters)
        return LinearQuadraticEnvironment(problem) if linear else TabularEnvironment(problem)
    return target(**parameters)


def _nearest(name: str, names: list[str]) -> str:
    lower = {known.lower(): known for known in names}
    near = [lower[close] for close in difflib.get_close_matches(name.lower(), list(lower), 3, 0.5)]
    return f"the nearest names are {', '.join(near)}" if near else f"there are {', '.join(names)}"
