"""A problem chosen by name: a Gymnasium id or one of ours, with options and perhaps a criterion."""

import difflib
import importlib
import inspect
from typing import Any, NamedTuple

import gymnasium
import numpy as np

from optimality import registry
from optimality.problems.criterion import Criterion, FiniteHorizon
from optimality.problems.gymnasium_table import make, read_table
from optimality.problems.linear_quadratic import LinearQuadratic
from optimality.problems.tabular import TabularMDP


class ProblemChoice(NamedTuple):
    """`options` are the generator's arguments, or those of `gymnasium.make`."""

    name: str
    options: dict[str, Any]
    criterion: Criterion | None = None

    @property
    def generator(self) -> Any:
        """Our function of that name, or None for a Gymnasium id."""
        entry = registry.find(registry.PROBLEMS, self.name)
        return None if entry is None else getattr(importlib.import_module(entry.module), entry.attribute)

    @property
    def kind(self) -> str:
        """The class of the problem, one of `KINDS`, before it is made."""
        generator = self.generator
        if isinstance(generator, type):
            return generator.__name__
        return "TabularMDP" if generator is None else inspect.signature(generator).return_annotation.__name__

    def build(self) -> TabularMDP | LinearQuadratic:
        """Raises `ValueError` for an unknown name (with the nearest ones), a bad option, no table, no criterion."""
        generator = self.generator
        if generator is None:
            self._require_known()
            return read_table(self.name, criterion=self.criterion, **self.options)
        if isinstance(generator, type):
            raise ValueError(f"{self.name} is made from data: optimality solve {self.name} --help.")
        options = dict(self.options)
        known = {k: v for k, v in inspect.signature(generator).parameters.items() if k != "criterion"}
        for option, value in self.options.items():
            if option not in known:
                raise ValueError(f"{self.name} has no option {option!r}; it has {', '.join(known)}.")
            kind = known[option].annotation
            fits = (int, float) if kind is float else (kind,)
            if not isinstance(value, fits) or (isinstance(value, bool) and kind is not bool):
                raise ValueError(f"{self.name}: {option} takes {_TYPES[kind]}, but {value!r} was given.")
            options[option] = kind(value)
        try:
            return generator(**options, criterion=self.criterion)
        except ValueError as error:
            if str(error).startswith("criterion is missing"):
                raise ValueError(
                    f"{self.name} needs a criterion: add --horizon 50, --discount 0.95, --criterion average-reward"
                    f"{' or --criterion until-termination' if self.kind == 'TabularMDP' else ''}."
                ) from None
            raise

    def environment(self, mdp: TabularMDP) -> gymnasium.Env | None:
        """The real environment, with its own time limit only where that is the criterion; None for ours."""
        if self.generator is not None:
            return None
        limit = gymnasium.spec(self.name).max_episode_steps
        own = isinstance(mdp.criterion, FiniteHorizon) and mdp.criterion.horizon == limit
        options = {**self.options, **({} if own else {"max_episode_steps": -1})}
        return make(self.name, disable_env_checker=True, **options)

    def to_table(self) -> dict[str, Any]:
        return {"kind": self.name, "options": {key: _toml(value) for key, value in self.options.items()}}

    def _require_known(self) -> None:
        _, _, plain = self.name.rpartition(":")
        if plain in gymnasium.registry or ":" in self.name:
            return
        ours = [entry.name for entry in registry.PROBLEMS]
        names = [*ours, *gymnasium.registry]
        lower = {name.lower(): name for name in names}
        close = difflib.get_close_matches(self.name.lower(), lower, n=3, cutoff=0.5)
        hint = f" Did you mean {' or '.join(lower[name] for name in close)}?" if close else ""
        raise ValueError(
            f"unknown problem {self.name!r}.{hint} A problem is a Gymnasium id or one of {', '.join(ours)}."
        )


KINDS = {
    "TabularMDP": "a table",
    "LinearQuadratic": "a linear-quadratic problem",
    "PlayOrNot": "a decision to play or not",
    "BernoulliBandit": "a bandit",
}
"""Classes of problems that the command line makes, in words."""
_TYPES = {int: "a whole number", float: "a number", str: "text", bool: "true or false"}


def _toml(value: Any) -> Any:
    return value.tolist() if isinstance(value, np.generic | np.ndarray) else value
