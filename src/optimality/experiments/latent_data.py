"""Data of a latent-variable model, as the command line and a configuration name them."""

import math
from typing import Any, NamedTuple

import numpy as np

from optimality import registry
from optimality.experiments.observations import Observations, fingerprint, read_observations, split_source
from optimality.problems.dataset import Dataset
from optimality.problems.sample_datasets import digits, ring

SAMPLES = {"digits": digits, "ring": ring}
"""Data sets by name."""


class LatentData(NamedTuple):
    """Where the observations come from, and what they are; None is for what the source itself says."""

    source: str
    """`digits`, `ring`, or the path of a file or a folder of images."""
    likelihood: str | None = None
    levels: int | None = None
    """0: none, where the source has some."""
    test_share: float | None = None
    validation_share: float | None = None
    split_seed: int | None = None
    columns: tuple[str, ...] | None = None
    fingerprint: str | None = None
    """Of the observations that a configuration was made with."""

    @property
    def is_sample(self) -> bool:
        return self.source in SAMPLES

    def read(self) -> "ReadData":
        """The data set, and the shape of its pictures.

        Raises `ValueError` for what cannot be read, is outside of the likelihood's support, or has changed.
        """
        found = self._observations()
        mark = fingerprint(found.rows)
        if self.fingerprint is not None and mark != self.fingerprint:
            raise ValueError(
                f"{self.source} is not what it was when the configuration was written: its numbers have changed. To "
                f"fit what it holds now, name it: optimality solve {self.source} --config ..."
            )
        likelihood = self.likelihood or "gaussian"
        if likelihood not in ("gaussian", "bernoulli", "categorical"):
            raise ValueError(f"--likelihood is gaussian, bernoulli or categorical, but {likelihood!r} was given.")
        levels = categories = None
        if likelihood == "gaussian":
            levels = (found.levels if self.levels is None else self.levels) or None
        elif likelihood == "categorical":
            categories = self.levels or found.levels or max(2, math.floor(float(np.max(found.rows))) + 1)
        elif self.levels:
            raise ValueError("--levels is for a gaussian or categorical likelihood: bernoulli features are 0 or 1.")
        default = SAMPLES[self.source]() if self.is_sample else Dataset(np.zeros((4, 1)))

        def given(name: str) -> Any:
            own = getattr(self, name)
            return getattr(default, name) if own is None else own

        problem = Dataset(
            found.rows,
            likelihood=likelihood,
            levels=levels,
            categories=categories,
            validation_share=given("validation_share"),
            test_share=given("test_share"),
            split_seed=given("split_seed"),
            image_shape=found.picture if found.picture is not None and len(found.picture) == 2 else None,
            names=found.names,
            name=self.name,
        )
        return ReadData(self._replace(fingerprint=mark), problem, found.picture)

    @property
    def name(self) -> str:
        """In titles and names of folders."""
        if self.is_sample:
            return self.source
        path, name = split_source(self.source)
        path = path.resolve() if path.name in ("", ".", "..") else path
        return path.stem if name is None else f"{path.stem}-{name}"

    def to_table(self) -> dict[str, Any]:
        """For `config.toml`: what was given, with the file's full path."""
        table = {name: value for name, value in self._asdict().items() if value is not None}
        if not self.is_sample:
            path, name = split_source(self.source)
            table["source"] = str(path.resolve()) + ("" if name is None else f":{name}")
        if self.columns is not None:
            table["columns"] = list(self.columns)
        return {"kind": "dataset", **table}

    @classmethod
    def from_table(cls, table: dict[str, Any]) -> "LatentData":
        """Raises `ValueError` for a table that was not made by `to_table`."""
        fields = {name: value for name, value in table.items() if name != "kind"}
        unknown = set(fields) - set(cls._fields)
        if unknown or "source" not in fields:
            raise ValueError(f"problem: a data set has the fields {', '.join(cls._fields)}; not {sorted(unknown)}.")
        if "columns" in fields:
            fields["columns"] = tuple(fields["columns"])
        return cls(**fields)

    def _observations(self) -> Observations:
        if not self.is_sample:
            return read_observations(self.source, None if self.columns is None else list(self.columns))
        if self.columns is not None:
            raise ValueError(f"--columns is for tables in CSV files, but {self.source} is none.")
        sample = SAMPLES[self.source]()
        return Observations(np.asarray(sample.observations), sample.names, sample.image_shape, sample.levels)


class ReadData(NamedTuple):
    """What a run works with."""

    data: LatentData
    """With its fingerprint."""
    problem: Dataset
    picture: tuple[int, ...] | None
    """Rows, columns, and perhaps colors of a point."""


def latent_methods() -> dict[str, registry.Entry]:
    """Methods for data sets, by name."""
    return {entry.name: entry for entry in registry.METHODS if entry.problem == "Dataset"}
