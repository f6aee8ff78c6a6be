"""The configuration rule: a frozen module is the Python object, the command line and the file."""

from dataclasses import KW_ONLY
from typing import Literal

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from optimality.cli.options import parse, take_group, take_option
from optimality.core.numerics import Real
from optimality.experiments.configuration import from_table, kind_of, to_table


class Constant(eqx.Module):
    """A fixed step size."""

    _: KW_ONLY
    size: Real = 0.1
    """How far to step."""


class Decaying(eqx.Module):
    """A step size that falls."""

    _: KW_ONLY
    start: Real = 1.0
    """First size."""
    half_life: int = eqx.field(static=True, default=10)
    """Steps until half is left."""


class Toy(eqx.Module):
    """A method with each kind of field."""

    _: KW_ONLY
    temperature: Real = 1.0
    """Worth of a nat."""
    bound: Real | None = None
    """Optional number."""
    steps: int = eqx.field(static=True, default=3)
    """A size."""
    form: Literal["none", "uniform"] = eqx.field(static=True, default="none")
    """A word."""
    clip: bool = eqx.field(static=True, default=False)
    """A switch."""
    layers: tuple[int, ...] = eqx.field(static=True, default=(64, 64))
    """Sizes."""
    schedule: Constant | Decaying = eqx.field(default_factory=Constant)
    """How step sizes change."""


def as_parsed(*arguments):
    return parse(Toy(), list(arguments), prog="toy")


def test_nothing_given_is_the_default():
    assert eqx.tree_equal(as_parsed(), Toy())


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--temperature", "2"], Toy(temperature=2.0)),
        (["--temperature", "1e-3"], Toy(temperature=1e-3)),
        (["--bound", "0.5"], Toy(bound=0.5)),
        (["--bound", "none"], Toy()),
        (["--steps", "7", "--form", "uniform"], Toy(steps=7, form="uniform")),
        (["--clip"], Toy(clip=True)),
        (["--layers", "8", "16", "4"], Toy(layers=(8, 16, 4))),
        (["--schedule.size", "0.5"], Toy(schedule=Constant(size=0.5))),
        (["--schedule", "decaying"], Toy(schedule=Decaying())),
        (["--schedule=decaying", "--schedule.half-life", "3"], Toy(schedule=Decaying(half_life=3))),
        (["--schedule.start", "4", "--schedule", "decaying"], Toy(schedule=Decaying(start=4.0))),
    ],
)
def test_options_replace_fields(arguments, expected):
    assert eqx.tree_equal(as_parsed(*arguments), expected)


def test_unknown_choice_names_the_nearest():
    with pytest.raises(ValueError, match=r"--schedule 'decayin' is unknown; did you mean decaying\?"):
        as_parsed("--schedule", "decayin")


@pytest.mark.parametrize("arguments", [["--temperatur", "1"], ["--steps", "many"], ["--form", "kl"]])
def test_bad_options_exit_with_2(arguments, capsys):
    with pytest.raises(SystemExit) as exit_:
        as_parsed(*arguments)
    assert exit_.value.code == 2
    assert capsys.readouterr().err


def test_help_lists_the_choices_and_the_lines_of_the_fields(capsys):
    with pytest.raises(SystemExit) as exit_:
        as_parsed("--help")
    text = capsys.readouterr().out
    assert exit_.value.code == 0
    for words in ("Worth of a nat", "--schedule: constant, decaying", "FLOAT|none", "--schedule.size"):
        assert words in text


@pytest.mark.parametrize(
    "toy",
    [Toy(), Toy(temperature=0.25, bound=2.0, steps=9, clip=True, layers=(3,), schedule=Decaying(start=7.0))],
)
def test_round_trip_through_toml(toy):
    import tomllib

    import tomli_w

    text = tomli_w.dumps(to_table(toy))
    assert eqx.tree_equal(from_table(tomllib.loads(text), [Toy]), toy)


def test_numbers_of_numpy_and_jax_are_written_as_numbers():
    assert to_table(Constant(size=jnp.asarray(0.5)))["size"] == 0.5
    assert to_table(Constant(size=np.float64(0.5)))["size"] == 0.5


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({"kind": "toi"}, "unknown kind 'toi'; did you mean toy"),
        ({"kind": "toy", "temprature": 1.0}, "no field 'temprature'; did you mean temperature"),
        ({"kind": "toy", "form": "kl"}, "form is 'kl', but must be one of none, uniform"),
        ({"kind": "toy", "schedule": {"kind": "cosine"}}, "schedule: unknown kind 'cosine'"),
    ],
)
def test_bad_tables(table, message):
    with pytest.raises(ValueError, match=message):
        from_table(table, [Toy])


def test_numbers_are_leaves_and_everything_else_is_static():
    assert len(jax.tree.leaves(Toy())) == 2
    curve = jax.vmap(lambda temperature: Toy(temperature=temperature).temperature * 2.0)(jnp.arange(3.0))
    np.testing.assert_array_equal(curve, [0.0, 2.0, 4.0])


@pytest.mark.parametrize(
    ("name", "kind"),
    [("SoftValueIteration", "soft-value-iteration"), ("PPO", "ppo"), ("MaxEntIRL", "max-ent-irl"), ("LQR", "lqr")],
)
def test_kind_is_the_name_in_the_command_lines_spelling(name, kind):
    assert kind_of(type(name, (), {})) == kind


def test_take_option_and_group():
    assert take_option(["--a", "1", "b", "--a=2"], "a") == ("2", ["b"])
    assert take_group(["--p.x-y", "1", "--q", "--p.z=3"], "p") == ({"x_y": "1", "z": "3"}, ["--q"])
    with pytest.raises(ValueError, match="--a needs a value"):
        take_option(["--a", "--b"], "a")
