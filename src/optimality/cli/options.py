"""From arguments to a method object: tyro over the method's own fields, with one rule for numbers.

A field that chooses among modules is given as `--field NAME` with its options as `--field.option VALUE`. tyro would
make a subcommand of it, so one pass over the arguments first puts the named module into the default.
"""

import ast
import dataclasses
import os
import typing
from typing import Any

import numpy as np
import tyro
from tyro.constructors import ConstructorRegistry, PrimitiveConstructorSpec

from optimality.core.numerics import Real
from optimality.experiments.configuration import choices_of, kind_of, nearest

REGISTRY = ConstructorRegistry()


@REGISTRY.primitive_rule
def _real(info: Any) -> PrimitiveConstructorSpec | None:
    have = set(typing.get_args(info.type))
    if not set(typing.get_args(Real)) <= have:
        return None
    optional = type(None) in have
    return PrimitiveConstructorSpec(
        nargs=1,
        metavar="FLOAT|none" if optional else "FLOAT",
        instance_from_str=lambda words: None if optional and words[0] == "none" else float(words[0]),
        is_instance=lambda value: (optional and value is None) or np.ndim(value) == 0,
        str_from_instance=lambda value: ["none" if value is None else repr(float(value))],
    )


def parse(default: Any, arguments: list[str], *, prog: str, description: str = "") -> Any:
    """`default` with the fields that `arguments` name replaced.

    Raises `ValueError` for an unknown choice, `SystemExit(2)` with tyro's box on standard error for a bad option.
    """
    if "NO_COLOR" in os.environ:
        os.environ["TERM"] = "dumb"
    default, rest, choices = _choose(default, arguments, "")
    described = description + "".join(f"\n--{field}: {', '.join(names)}" for field, names in choices.items())
    return tyro.cli(
        type(default),
        default=default,
        args=rest,
        prog=prog,
        description=described or None,
        registry=REGISTRY,
        config=(tyro.conf.AvoidSubcommands,),
    )


def _choose(module: Any, arguments: list[str], prefix: str) -> tuple[Any, list[str], dict[str, list[str]]]:
    """The module with every named choice in place, the arguments left over, and what could be chosen."""
    choices: dict[str, list[str]] = {}
    for field in dataclasses.fields(module):
        classes = {kind_of(cls): cls for cls in choices_of(field.type)}
        if not classes:
            continue
        path = f"{prefix}{field.name}".replace("_", "-")
        choices[path] = list(classes)
        name, arguments = take_option(arguments, path)
        current = getattr(module, field.name)
        if name is not None:
            if name not in classes:
                raise ValueError(
                    f"--{path} {name!r} is unknown{nearest(name, classes)} It is one of {', '.join(classes)}."
                )
            current = current if type(current) is classes[name] else classes[name]()
        if dataclasses.is_dataclass(current):
            current, arguments, below = _choose(current, arguments, f"{path}.")
            choices.update(below)
        module = dataclasses.replace(module, **{field.name: current})
    return module, arguments, choices


def take_option(arguments: list[str], name: str) -> tuple[str | None, list[str]]:
    """The value of `--name VALUE` or `--name=VALUE` (the last one), and the other arguments."""
    value, rest, position = None, [], 0
    spellings = {f"--{name}", f"--{name.replace('-', '_')}"}
    while position < len(arguments):
        word, equals, inline = arguments[position].partition("=")
        if word not in spellings:
            rest.append(arguments[position])
        elif equals:
            value = inline
        elif position + 1 < len(arguments) and not arguments[position + 1].startswith("--"):
            position += 1
            value = arguments[position]
        else:
            raise ValueError(f"{word} needs a value.")
        position += 1
    return value, rest


def take_flag(arguments: list[str], name: str) -> tuple[bool, list[str]]:
    """Whether `--name` is there, and the other arguments."""
    rest = [word for word in arguments if word != f"--{name}"]
    return len(rest) != len(arguments), rest


def take_group(arguments: list[str], name: str) -> tuple[dict[str, str], list[str]]:
    """All of `--name.KEY VALUE`, and the other arguments."""
    found: dict[str, str] = {}
    prefix = f"--{name}."
    while any(word.startswith(prefix) for word in arguments):
        word = next(word for word in arguments if word.startswith(prefix))
        key = word.partition("=")[0][2:]
        value, arguments = take_option(arguments, key)
        found[key.removeprefix(f"{name}.").replace("-", "_")] = str(value)
    return found, arguments


def literals(options: dict[str, str]) -> dict[str, Any]:
    """`3`, `0.5`, `[1, 2]` and `true` as what they say, anything else as text; nothing is evaluated."""
    return {key: _literal(value) for key, value in options.items()}


def _literal(text: str) -> Any:
    words = {"true": True, "false": False, "none": None}
    if text.lower() in words:
        return words[text.lower()]
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text


def whole(name: str, text: str | None, default: Any, least: int) -> Any:
    """The whole number that was given, else the default; `ValueError` where it is less than `least` or no number."""
    if text is None:
        return default
    try:
        number = int(text)
    except ValueError:
        number = least - 1
    if number < least:
        raise ValueError(f"--{name} must be a whole number, at least {least}, but {text!r} was given.")
    return number


def number(name: str, text: str | None, default: Any) -> Any:
    """The number that was given, else the default; `ValueError` where it is none."""
    if text is None:
        return default
    try:
        return float(text)
    except ValueError:
        raise ValueError(f"--{name} must be a number, but {text!r} was given.") from None
