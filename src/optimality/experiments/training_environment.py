"""Where a run learns: an id, an environment, a factory or a vector environment, compiled or on the host."""

import copy
import difflib
from typing import Any

import gymnasium
from gymnasium.vector import VectorEnv

from optimality.environments.abstract import AbstractEnvironment
from optimality.environments.catalog import CATALOG, PREFIX, make
from optimality.environments.from_gymnasium import environment_name
from optimality.environments.gymnasium_environment import GymnasiumEnvironment
from optimality.environments.to_gymnasium import register_environments
from optimality.environments.wrappers import TimeLimit
from optimality.sampling.compiled_runner import CompiledRunner
from optimality.sampling.gymnasium_runner import GymnasiumRunner
from optimality.sampling.loop import strong

BACKENDS = ("auto", "jax", "gymnasium")
EVALUATION_STEPS = 1000
"""Longest episode of an evaluation where the environment itself has no limit."""


class EnvironmentChoice:
    """Makes runners of one environment: `backend` is what it became, `jax` or `gymnasium`.

    An id that both have runs compiled, unless `backend="gymnasium"` forces the other.
    """

    def __init__(self, source: Any, backend: str = "auto", options: dict[str, Any] | None = None):
        """Raises `ValueError` for an unknown id, backend or option, with the nearest names."""
        if backend not in BACKENDS:
            raise ValueError(f"backend must be one of {', '.join(BACKENDS)}, but {backend!r} was given.")
        self._source, self._options, self._wish = source, dict(options or {}), backend
        ours = isinstance(source, AbstractEnvironment)
        if isinstance(source, str):
            ours = source.removeprefix(PREFIX) in CATALOG
            if not ours:
                _require_known(source)
        elif self._options:
            raise ValueError(f"options {sorted(self._options)} are for an id; this environment is made already.")
        if backend == "jax" and not ours:
            raise ValueError(
                f"{_name(source)} has no JAX version: use backend='gymnasium', or one of {', '.join(CATALOG)}."
            )
        self.backend = "jax" if ours and backend != "gymnasium" else "gymnasium"
        self.name = _name(source)
        self._compiled: Any = None
        if self.backend == "jax":
            self._compiled = make(source, **self._options) if isinstance(source, str) else source

    @classmethod
    def from_table(cls, table: dict[str, Any]) -> "EnvironmentChoice":
        """The choice that `to_table` stored; `ValueError` where it was an object, which a file cannot hold."""
        if "kind" not in table:
            raise ValueError(
                f"the run learned in {table.get('description')}, an object that a file cannot hold: go on from Python, "
                "with resume(path, environment=...)."
            )
        return cls(table["kind"], table.get("backend", "auto"), table.get("options"))

    def to_table(self) -> dict[str, Any]:
        """For `config.toml`."""
        if isinstance(self._source, str):
            return {"kind": self._source, "backend": self.backend, "options": self._options}
        return {"description": self.name, "backend": self.backend}

    @property
    def environment(self) -> AbstractEnvironment | None:
        """The compiled environment, None on the host."""
        return self._compiled

    @property
    def default_number(self) -> int | None:
        """How many environments there can be, None where any number."""
        if self.backend == "gymnasium" and isinstance(self._source, VectorEnv):
            return self._source.num_envs
        return 1 if self.backend == "gymnasium" and isinstance(self._source, gymnasium.Env) else None

    def runner(self, number: int) -> CompiledRunner | GymnasiumRunner:
        """`number` environments to learn in."""
        if self.backend == "jax":
            return strong(CompiledRunner(self._compiled, number))
        return GymnasiumRunner(self._host(self._source, number))

    def evaluation_runner(self, episodes: int) -> tuple[CompiledRunner | GymnasiumRunner, int]:
        """Other environments than those of `runner`, and how many rounds of them make at least `episodes` episodes.

        Raises `ValueError` where a constructed environment cannot be copied.
        """
        if self.backend == "jax":
            bounded = self._compiled
            bounded = TimeLimit(bounded, EVALUATION_STEPS) if bounded.time_limit is None else bounded
            return strong(CompiledRunner(bounded, episodes)), 1
        number = self.default_number
        source = self._source
        if number is not None:
            try:
                source = copy.deepcopy(source)
            except Exception as error:
                raise ValueError(
                    f"{self.name} cannot be copied for evaluation ({error}): pass a function that makes it instead."
                ) from error
        runner = GymnasiumRunner(self._host(source, episodes if number is None else number))
        if runner.time_limit is None:
            runner.time_limit = EVALUATION_STEPS
        return runner, 1 if number is None else -(-episodes // number)

    def close(self, *runners: Any) -> None:
        """Closes the host environments that were made here; one that was handed in is left to its owner."""
        if self.backend == "gymnasium" and (isinstance(self._source, str) or callable(self._source)):
            for runner in runners:
                runner.environment.close()

    def _host(self, source: Any, number: int) -> GymnasiumEnvironment:
        if isinstance(source, str) and source.removeprefix(PREFIX) in CATALOG:
            register_environments()
            source = source if source in gymnasium.registry else PREFIX + source
        return GymnasiumEnvironment(source, number, **self._options)


def _name(source: Any) -> str:
    if isinstance(source, str):
        return source
    if isinstance(source, gymnasium.Env | VectorEnv):
        return environment_name(source)
    if isinstance(source, AbstractEnvironment):
        while hasattr(source, "environment"):
            source = source.environment  # pyright: ignore[reportAttributeAccessIssue]
        return type(source).__name__
    return getattr(source, "__name__", type(source).__name__).replace("<lambda>", "environment")


def _require_known(name: str) -> None:
    _, module, plain = name.rpartition(":")
    if plain in gymnasium.registry or module:
        return
    lower = {known.lower(): known for known in [*CATALOG, *gymnasium.registry]}
    close = difflib.get_close_matches(name.lower(), lower, n=3, cutoff=0.5)
    hint = f" Did you mean {' or '.join(lower[near] for near in close)}?" if close else ""
    raise ValueError(
        f"unknown environment {name!r}.{hint} It is a Gymnasium id or one of ours; `optimality list` has them."
    )
