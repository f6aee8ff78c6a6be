"""`optimality solve play-or-not` as a user meets it, and the CSV files it reads."""

import json
from pathlib import Path

import pytest

from optimality.cli.main import main
from optimality.experiments.measurements import read_numbers

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


def test_the_report_and_its_repetition(capsys, files, tmp_path):
    arguments = ["--rewards", files[0], "--times", files[1], "--rate", "0.8", *QUICK, "--out", str(tmp_path / "runs")]
    assert output(capsys, *arguments)[0] == 0
    folder = next((tmp_path / "runs").iterdir())
    report = (folder / "report.html").read_text()
    for words in ("Every criterion, and why they differ", "When to go on", "3 rewards, 2 times", "free to quit"):
        assert words in report
    first = json.loads((folder / "run.json").read_text())["summary"]
    again = json.loads(output(capsys, "--config", str(folder), "--out", str(tmp_path / "again"), "--json")[1])
    assert {**again, "run": None} == {**first, "run": None}
    changed = json.loads(output(capsys, "--config", str(folder), "--rate", "9", "--out", str(tmp_path), "--json")[1])
    assert not changed["play"]


def test_an_interruption_is_recorded(capsys, files, tmp_path, monkeypatch):
    from optimality.experiments import decision_run

    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(decision_run, "solve", interrupted)
    code, _, _ = output(capsys, "--rewards", files[0], "--times", files[1], "--rate", "1", "--out", str(tmp_path / "x"))
    assert code == 130
    assert json.loads(next((tmp_path / "x").glob("*/run.json")).read_text())["status"] == "interrupted"


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
