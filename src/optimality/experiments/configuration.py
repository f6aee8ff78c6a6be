"""Methods and criteria as TOML: the object that runs, and nothing beside it, is the configuration.

A module becomes a table of its fields with `kind`, the name of its class in the command line's spelling; nested
modules become nested tables. Only classes that the caller offers can be named, so reading a file runs no code.
"""

import dataclasses
import difflib
import inspect
import re
from collections.abc import Iterable
from typing import Any, Literal, get_args, get_origin

import numpy as np


def kind_of(cls: type) -> str:
    """`SoftValueIteration` is `soft-value-iteration`, `PPO` is `ppo`."""
    words = re.findall(r"[A-Z]+(?=[A-Z][a-z]|$|\d)|[A-Z][a-z]*|\d+|[a-z]+", cls.__name__)
    return "-".join(word.lower() for word in words)


def nearest(name: str, names: Iterable[str]) -> str:
    """`; did you mean ...?`, or a full stop where no name is near."""
    close = difflib.get_close_matches(name, list(names), n=3, cutoff=0.5)
    return f"; did you mean {' or '.join(close)}?" if close else "."


def to_table(module: Any) -> dict[str, Any]:
    """A module's fields as TOML values, with its `kind`. Absent values (None) are left out."""
    table: dict[str, Any] = {"kind": kind_of(type(module))}
    for field in dataclasses.fields(module):
        value = getattr(module, field.name)
        if value is not None:
            table[field.name] = _to_toml(value, f"{type(module).__name__}.{field.name}")
    return table


def _to_toml(value: Any, where: str) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return to_table(value)
    if isinstance(value, bool | str | int | float):
        return value
    if isinstance(value, list | tuple):
        return [_to_toml(item, where) for item in value]
    if hasattr(value, "dtype") and np.ndim(value) <= 1:  # pyright: ignore[reportArgumentType]
        return np.asarray(value).tolist()
    raise ValueError(
        f"{where} is {type(value).__name__}, which a configuration cannot hold; it belongs to the problem."
    )


def from_table(table: dict[str, Any], classes: Iterable[type], where: str = "configuration") -> Any:
    """The module that a table describes, one of `classes` by its `kind`.

    Raises `ValueError` for an unknown kind or field, with the nearest names.
    """
    by_kind = {kind_of(cls): cls for cls in classes}
    kind = table.get("kind")
    if kind not in by_kind:
        raise ValueError(f"{where}: unknown kind {kind!r}{nearest(str(kind), by_kind)} Known: {', '.join(by_kind)}.")
    cls = by_kind[kind]
    fields = {field.name: field for field in dataclasses.fields(cls)}
    arguments = {}
    for name, value in table.items():
        if name == "kind":
            continue
        if name not in fields:
            raise ValueError(f"{where}: {kind} has no field {name!r}{nearest(name, fields)}")
        words = get_args(fields[name].type) if get_origin(fields[name].type) is Literal else ()
        if words and value not in words:
            raise ValueError(f"{where}.{name} is {value!r}, but must be one of {', '.join(map(str, words))}.")
        arguments[name] = _from_toml(value, choices_of(fields[name].type), f"{where}.{name}")
    try:
        return cls(**arguments)
    except TypeError as error:
        raise ValueError(f"{where}: {kind} cannot be made from {sorted(arguments)}: {error}") from error


def _from_toml(value: Any, choices: tuple[type, ...], where: str) -> Any:
    if isinstance(value, dict):
        return from_table(value, choices, where)
    if isinstance(value, list):
        items = tuple(_from_toml(item, choices, where) for item in value)
        return np.asarray(items, np.float64) if items and all(isinstance(item, float) for item in items) else items
    return value


def choices_of(annotation: Any) -> tuple[type, ...]:
    """The module classes among which a field chooses: those of a union, or the one class."""
    candidates = get_args(annotation) or (annotation,)
    return tuple(
        c for c in candidates if isinstance(c, type) and dataclasses.is_dataclass(c) and not inspect.isabstract(c)
    )
