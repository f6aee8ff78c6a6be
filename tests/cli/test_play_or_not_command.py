"""`optimality solve play-or-not` as a user meets it, and the CSV files it reads."""

import contextlib
import io
import json
from pathlib import Path

import jax
import numpy as np
import pytest

from optimality.beliefs import GammaExponential, GammaKnownShape
from optimality.cli.main import main
from optimality.core.solve import solve
from optimality.experiments.measurements import read_numbers
from optimality.experiments.saved_policy import FILE, load_policy, module_bytes, policy_bytes
from optimality.exploration.exact_play import ExactPlayOrNot
from optimality.exploration.play_or_not import Deadline, PlayOrNot
from optimality.problems.criterion import FiniteHorizon
from optimality.rewards.table import TableReward

QUICK = ["--games", "2", "--grid", "1024"]


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def output(capsys, *arguments):
    code = main(["solve", "play-or-not", *arguments])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


@pytest.fixture
def files(tmp_path):
    (tmp_path / "rewards.csv").write_text("reward\n2.0\n\n1.0\n0.5\n")
    (tmp_path / "times.csv").write_text("game,duration\n1,0.5\n2,1.5\n")
    return str(tmp_path / "rewards.csv"), str(tmp_path / "times.csv") + ":duration"


def test_the_decision_from_data(capsys, files, monkeypatch):
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "200")
    code, out, _ = output(capsys, "--rewards", files[0], "--times", files[1], "--rate", "3", *QUICK)
    assert code == 0
    for words in ("Gamma(4, 4.5)", "Gamma(3, 3)", "ratio of means", "E[r / t] is infinite", "Bayes-optimal now: stop"):
        assert words in out


def test_json(capsys, files):
    code, out, _ = output(
        capsys, "--rewards", files[0], "--times", files[1], "--rate", "1.05", "--reward-shape", "2", *QUICK, "--json"
    )
    summary = json.loads(out)
    assert code == 0
    assert summary["posterior"] == {"reward_shape": 2.0, "rewards": [7.0, 4.5], "times": [3.0, 3.0]}
    decisions = {row["name"]: row["play"] for row in summary["criteria"]}
    assert decisions["best case"]
    assert not decisions["worst case"]
    assert summary["play"] == (summary["break_even"] >= 1.05)
    one_game = next(row for row in summary["criteria"] if row["name"] == "one game")
    assert one_game["number"] == pytest.approx(2.0 * 4.5 / 6.0 - 1.05 * 3.0 / 2.0)


@pytest.fixture(scope="module")
def decided(tmp_path_factory):
    """`optimality solve play-or-not` from three rewards and two times: (exit code, run folder)."""
    place = tmp_path_factory.mktemp("decided")
    (place / "rewards.csv").write_text("reward\n2.0\n\n1.0\n0.5\n")
    (place / "times.csv").write_text("game,duration\n1,0.5\n2,1.5\n")
    data = ["--rewards", str(place / "rewards.csv"), "--times", f"{place / 'times.csv'}:duration"]
    with contextlib.redirect_stdout(io.StringIO()):
        code = main(["solve", "play-or-not", *data, "--rate", "0.8", *QUICK, "--out", str(place / "runs")])
    return code, next((place / "runs").iterdir())


CAPTIONS = ("what-is-believed", "the-next-game", "break-even-rates", "more-games-to-come", "when-to-go-on")


def test_the_report(decided):
    code, folder = decided
    assert code == 0
    report = (folder / "report.html").read_text()
    for words in (
        "Every criterion, and why they differ",
        "3 rewards, 2 times",
        "free to quit",
        "The rule",
        "20000 worlds",
    ):
        assert words in report
    assert report.count("<svg") == 5
    assert "<script" not in report
    assert "http" not in report.replace("http://www.w3.org", "").replace("http://purl.org", "")
    assert {path.stem for path in (folder / "plots").iterdir()} == set(CAPTIONS)
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert [row["games_played"] for row in rows] == [0, 1]


def test_the_summary(decided):
    """The rule and the sentences are of the same numbers as the solution in Python."""
    _, folder = decided
    record = json.loads((folder / "run.json").read_text())
    summary = record["summary"]
    assert record["status"] == "finished"
    rewards, times = GammaKnownShape(1.0, 4.0, 4.5), GammaExponential(3.0, 3.0)
    solution = solve(PlayOrNot(rewards, times, 0.8, FiniteHorizon(2)), ExactPlayOrNot(grid=1024))
    assert summary["value"] == pytest.approx(float(solution.value), rel=1e-12)
    thresholds = [row["go_on_above"] for row in summary["rule"]]
    assert thresholds == pytest.approx(list(0.8 * solution.policy.thresholds), rel=1e-12)
    for row in summary["criteria"]:
        assert row["play"] == (row["break_even"] is None or row["break_even"] >= 0.8)
    one = next(row for row in summary["criteria"] if row["name"] == "ratio of means")
    assert one["break_even"] == pytest.approx(4.5 / 3.0 / (3.0 / 2.0))
    assert any("1.5 times that" in sentence for sentence in summary["why"])  # theta / (theta - 1)
    simulated = summary["simulated"]
    assert abs(simulated["earned"] - summary["value"]) < 5.0 * simulated["standard_error"]
    assert 0.0 < simulated["games_played"] <= 2.0


@pytest.mark.parametrize("named", [True, False])
def test_a_run_repeats_from_its_configuration(decided, capsys, tmp_path, named):
    """With the problem's name or without, and without the CSV files, whose numbers the configuration holds."""
    _, folder = decided
    first = json.loads((folder / "run.json").read_text())["summary"]
    name = ["play-or-not"] if named else []
    assert main(["solve", *name, "--config", str(folder), "--out", str(tmp_path), "--json"]) == 0
    again = json.loads(capsys.readouterr().out)
    assert {k: v for k, v in again.items() if k not in ("run", "seconds")} == {
        k: v for k, v in first.items() if k != "seconds"
    }


def test_the_policy_is_saved(decided):
    """To the bit: the same decisions and break-even rates as the solution's."""
    _, folder = decided
    problem = PlayOrNot(GammaKnownShape(1.0, 4.0, 4.5), GammaExponential(3.0, 3.0), 0.8, FiniteHorizon(2))
    exact = solve(problem, ExactPlayOrNot(grid=1024)).policy
    loaded = load_policy(folder)
    _assert_same(loaded, exact)
    assert not bool(loaded.plays(2, 100.0, 0.1))  # no third game


def test_a_policy_with_a_deadline_comes_back(tmp_path):
    problem = PlayOrNot(GammaKnownShape(1.0, 4.0, 4.5), GammaExponential(3.0, 3.0), 0.8, Deadline(2.0))
    exact = solve(problem, ExactPlayOrNot(grid=1024, most_games=20)).policy
    (tmp_path / FILE).write_bytes(policy_bytes(exact))
    _assert_same(load_policy(tmp_path), exact)


def _assert_same(loaded, exact):
    assert type(loaded) is type(exact)
    for one, other in zip(jax.tree.leaves(loaded), jax.tree.leaves(exact), strict=True):
        assert one.dtype == other.dtype
        np.testing.assert_array_equal(one, other)
    for games, earned, took in ((0, 0.0, 0.0), (1, 0.1, 2.0), (1, 3.0, 0.5), (2, 5.0, 1.5)):
        assert bool(loaded.plays(games, earned, took)) == bool(exact.plays(games, earned, took))
        assert float(loaded.break_even(games, earned, took)) == float(exact.break_even(games, earned, took))


@pytest.mark.parametrize("damage", ["missing", "truncated", "changed", "unknown", "reward"])
def test_a_damaged_policy_is_refused(decided, tmp_path, damage):
    _, folder = decided
    data, path = (folder / FILE).read_bytes(), tmp_path / FILE
    if damage == "truncated":
        path.write_bytes(data[:-5])
    if damage == "changed":
        path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    if damage == "unknown":
        path.write_bytes(data.replace(b"play-policy", b"play-polizy"))
    if damage == "reward":
        path.write_bytes(module_bytes(TableReward(np.zeros(3)), "policy"))
    with pytest.raises(ValueError, match=FILE):
        load_policy(path)


@pytest.mark.parametrize("arguments", [["evaluate"], ["demonstrate", "--policy"], ["resume"], ["report"]])
def test_a_decision_is_played_in_no_environment(decided, capsys, arguments):
    _, folder = decided
    assert main([*arguments, str(folder)]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_options_override_a_configuration(decided, capsys, tmp_path):
    _, folder = decided
    changed = json.loads(output(capsys, "--config", str(folder), "--rate", "9", "--out", str(tmp_path), "--json")[1])
    assert not changed["play"]
    assert changed["posterior"]["rewards"] == [4.0, 4.5]


def test_a_configuration_of_another_problem_is_refused(capsys, tmp_path):
    (tmp_path / "config.toml").write_text('schema = 1\n[problem]\nkind = "FrozenLake-v1"\n')
    code, _, err = output(capsys, "--config", str(tmp_path / "config.toml"))
    assert code == 2
    assert "is not of a decision to play or not" in err


@pytest.mark.parametrize(
    ("horizon", "words"), [(["--deadline", "2"], "until the time 2"), (["--chance", "0.5"], "another game with chance")]
)
def test_other_horizons(decided, capsys, tmp_path, horizon, words):
    _, folder = decided
    quick = ["--most-games", "20", "--grid", "1024"]
    code, out, _ = output(capsys, "--config", str(folder), *horizon, *quick, "--out", str(tmp_path), "--json")
    summary = json.loads(out)
    assert code == 0
    assert words in (Path(summary["run"]) / "report.html").read_text()
    assert (summary["simulated"] is None) == (horizon[0] == "--deadline")
    assert summary["play"] == (summary["break_even"] >= 0.8)


def test_means_that_do_not_exist_are_said(capsys, tmp_path):
    """From times alone: the mean reward is infinite, so one plays, and nothing in the report is NaN."""
    (tmp_path / "times.csv").write_text("1.0\n2.0\n")
    code, out, _ = output(capsys, "--times", str(tmp_path / "times.csv"), "--rate", "1", *QUICK, "--json")
    summary = json.loads(out)
    assert code == 0
    assert summary["play"]
    assert "mean reward is infinite" in summary["notes"][0]
    assert "NaN" not in (Path(summary["run"]) / "report.html").read_text()
    assert "nan" not in (Path(summary["run"]) / "report.html").read_text().split("<svg")[0]


def test_an_interruption_is_recorded(capsys, files, tmp_path, monkeypatch):
    from optimality.experiments import decision_run

    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(decision_run, "solve", interrupted)
    code, _, _ = output(capsys, "--rewards", files[0], "--times", files[1], "--rate", "1", "--out", str(tmp_path / "x"))
    assert code == 130
    assert json.loads(next((tmp_path / "x").glob("*/run.json")).read_text())["status"] == "interrupted"


def test_a_failure_is_recorded(capsys, files, tmp_path, monkeypatch):
    """Of the method: exit code 3, and the record says what failed."""
    from optimality.core.result import Result, SolverError
    from optimality.experiments import decision_run

    def failing(*_):
        raise SolverError("ExactPlayOrNot", Result.NON_FINITE, None, "")

    monkeypatch.setattr(decision_run, "solve", failing)
    code, _, err = output(
        capsys, "--rewards", files[0], "--times", files[1], "--rate", "1", "--out", str(tmp_path / "x")
    )
    assert code == 3
    assert "ExactPlayOrNot" in err
    record = json.loads(next((tmp_path / "x").glob("*/run.json")).read_text())
    assert record["status"] == "failed"
    assert "SolverError" in record["error"]


def test_it_is_among_problems_and_methods(capsys):
    assert main(["list", "--json"]) == 0
    names = json.loads(capsys.readouterr().out)
    assert "play-or-not" in names["problems"]
    assert "exact-play-or-not" in names["methods"]
    assert main(["solve", "--help"]) == 0
    assert "exact-play-or-not" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["solve", "FrozenLake-v1", "exact-play-or-not"], "is a method for a decision to play or not"),
        (["irl", "play-or-not", "--demonstrations", "x"], "play-or-not is no table"),
        (["solve", "play-or-no"], "Did you mean play-or-not"),
    ],
)
def test_where_it_does_not_belong(capsys, arguments, message):
    assert main(arguments) == 2
    assert message in capsys.readouterr().err


def test_help(capsys):
    code, out, _ = output(capsys, "--help")
    assert code == 0
    assert out.startswith("usage: optimality solve play-or-not")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "needs --rate K"),
        (["--rate", "x"], "--rate must be a number, but 'x'"),
        (["--rate", "0"], "rate of PlayOrNot must be above 0"),
        (["--rate", "1", "--games", "2", "--chance", "0.5"], "--games and --chance exclude each other"),
        (["--rate", "1", "--time-prior", "3"], "two numbers with a comma between them, such as 2,1.5, but '3'"),
        (["--rate", "1", "--rewards", "nowhere.csv"], "nowhere.csv cannot be read"),
        (["lqr", "--rate", "1"], "the method of play-or-not is exact-play-or-not, but 'lqr' was given"),
        (["--rate", "1", "--chance", "1.5"], "discount"),
        (["--rate", "1", "--deadline", "0"], "duration of Deadline must be above 0"),
        (["--rate", "1", "--games", "0"], "--games must be a whole number, at least 1"),
        (["--rate", "1"], "neither a mean reward nor a mean time exists"),
    ],
)
def test_bad_input(capsys, arguments, message):
    code, _, err = output(capsys, *arguments)
    assert code == 2
    assert message in err
    assert not list(Path.cwd().glob("runs"))


@pytest.mark.parametrize(
    ("text", "options", "message"),
    [
        ("", {}, "is empty"),
        ("reward\n", {}, "a header and no numbers"),
        ("reward\n1\nx\n", {}, r"line 3, column 1: 'x' is not a finite number"),
        ("1\nnan\n", {}, r"line 2, column 1: 'nan' is not a finite number"),
        ("a,b\n1,2\n3\n", {"column": "b"}, r"line 3: 1 columns, but column 2 is needed"),
        ("a,b\n1,2\n", {"column": "c"}, r"line 1: no column 'c'; the header has a, b"),
        ("1\n\n0\n", {"above": 0.0}, r"line 3, column 1: numbers must be above 0, not 0"),
        ("-1\n", {"above": 0.0, "exclusive": False}, r"line 1, column 1: numbers must be at least 0, not -1"),
    ],
)
def test_malformed_files(tmp_path, text, options, message):
    path = tmp_path / "numbers.csv"
    path.write_text(text)
    with pytest.raises(ValueError, match=message):
        read_numbers(path, **options)


def test_well_formed_files(tmp_path):
    path = tmp_path / "numbers.csv"
    path.write_text("\ufeff1.5, x\r\n 2e1 ,y\r\n", encoding="utf-8")
    assert read_numbers(path) == [1.5, 20.0]
    path.write_text('game,"pay, net"\na,1\nb,0\n')
    assert read_numbers(path, column="pay, net") == [1.0, 0.0]
