"""Options of the bandit policies that play together: `--epsilon-greedy.epsilon 0.05` sets a field of one of them."""

import ast
import dataclasses
import inspect
import textwrap
import typing
import warnings
from typing import Any

from optimality import registry
from optimality.cli.options import parse, take_group
from optimality.core.numerics import Real
from optimality.experiments.bandit_run import policy_from_table
from optimality.experiments.configuration import nearest
from optimality.exploration.bandit_policy import AbstractBanditPolicy


def take_policies(
    names: str | None, stored: list[dict[str, Any]], arguments: list[str]
) -> tuple[dict[str, AbstractBanditPolicy], list[str]]:
    """`ucb1,thompson` as policies with the options that name them, and the other arguments.

    A policy that is `stored`, as a table with its name as `kind`, starts from there; without names all of those play.

    Raises:
        ValueError: an unknown name or option, with the nearest ones, or a name twice.
    """
    tables = {str(table.get("kind")): table for table in stored}
    policies: dict[str, AbstractBanditPolicy] = {}
    for name in list(tables) if names is None else names.split(","):
        if name in policies:
            raise ValueError(f"policy {name} is named twice.")
        default = policy_from_table(tables.get(name, {"kind": name}))
        given, arguments = take_group(arguments, name)
        known = {field.replace("_", "-"): field for field in settable(default)}
        for option in given:
            option = option.replace("_", "-")
            if option not in known:
                has = "it has " + ", ".join(f"--{name}.{each}" for each in known) if known else "it has none"
                raise ValueError(f"{name} has no option {option!r}{nearest(option, known)} {has[0].upper()}{has[1:]}.")
        words = [f"--{option.replace('_', '-')}={value}" for option, value in given.items()]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # tyro's, about the arrays of a prior, which is not read
            policies[name] = parse(default, words, prog=f"optimality train bernoulli-bandit {name}")
    return policies, arguments


def require_nothing_left(arguments: list[str], policies: dict[str, Any], options: tuple[str, ...]) -> None:
    """Raises `ValueError` for arguments that nobody took, with the nearest options."""
    if not arguments:
        return
    word = arguments[0].partition("=")[0]
    if not word.startswith("--"):
        raise ValueError(
            f"bernoulli-bandit takes its policies in one word, such as ucb1,thompson, but {word!r} was given too."
        )
    policy, dot, _ = word[2:].partition(".")
    if dot and registry.find(registry.BANDIT_POLICIES, policy) is not None:
        raise ValueError(f"{word} is an option of {policy}, which is not among the policies: {', '.join(policies)}.")
    known = [f"--{name}" for name in options]
    fields = [f"--{name}.{f.replace('_', '-')}" for name, each in policies.items() for f in settable(each)]
    raise ValueError(f"unknown option {word}{nearest(word, [*known, *fields])} It is one of {', '.join(known)}.")


def settable(policy: AbstractBanditPolicy) -> dict[str, Any]:
    """Fields that a word or a number sets, and their values: neither priors nor what `prepare` fills in."""
    found = {}
    for field in dataclasses.fields(policy):
        value = getattr(policy, field.name)
        optional_number = set(typing.get_args(Real)) <= set(typing.get_args(field.type))
        if optional_number or isinstance(value, bool | int | float | str):
            found[field.name] = value
    return found


def describe_options(names: list[str]) -> str:
    """One line for each option of the policies with these names."""
    lines = []
    for name in names:
        policy = policy_from_table({"kind": name})
        said, text = _docstrings(type(policy)), ""
        for field, value in settable(policy).items():
            option = f"--{name}.{field.replace('_', '-')}"
            below = " ".join(said.get(field, "").split()).removesuffix(".")
            text = text if below == "Likewise" else below
            choices = typing.get_args(next(f.type for f in dataclasses.fields(policy) if f.name == field))
            words = f"; {' | '.join(choices)}" if choices and all(isinstance(c, str) for c in choices) else ""
            lines.append(
                textwrap.fill(
                    f"{text}{words} ({'none' if value is None else value})",
                    width=118,
                    initial_indent=f"  {option:28} ",
                    subsequent_indent=" " * 31,
                )
            )
    return "\n".join(lines)


def _docstrings(cls: type) -> dict[str, str]:
    """The text below each field of a class."""
    (tree,) = ast.parse(textwrap.dedent(inspect.getsource(cls))).body
    assert isinstance(tree, ast.ClassDef)
    found = {}
    for field, text in zip(tree.body, tree.body[1:], strict=False):
        if not isinstance(field, ast.AnnAssign) or not isinstance(field.target, ast.Name):
            continue
        if isinstance(text, ast.Expr) and isinstance(text.value, ast.Constant):
            found[field.target.id] = str(text.value.value)
    return found
