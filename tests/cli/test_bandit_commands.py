"""`optimality train bernoulli-bandit` and `optimality solve bernoulli-bandit` as a user meets them."""

import json
from pathlib import Path

import pytest

from optimality.cli.main import main


def output(capsys, *arguments):
    code = main(list(arguments))
    captured = capsys.readouterr()
    return code, captured.out, captured.err


@pytest.fixture
def train(capsys, tmp_path):
    def run(policies, *arguments):
        options = ("--steps", "60", "--runs", "20", "--out", str(tmp_path))
        return output(capsys, "train", "bernoulli-bandit", policies, *options, *arguments)

    return run


def test_a_study(train):
    code, out, _ = train("ucb1,thompson", "--arms", "0.1,0.5,0.9", "--json")
    summary = json.loads(out)
    assert code == 0
    assert [row["policy"] for row in summary["policies"]] == ["ucb1", "thompson"]
    # 0.8 / KL(0.1, 0.9) + 0.4 / KL(0.5, 0.9)
    assert summary["lai_robbins"] == pytest.approx(0.8 / 1.7577796618689758 + 0.4 / 0.5108256237659907, rel=1e-5)
    for row in summary["policies"]:
        assert sum(row["pulls"]) == pytest.approx(60)
        assert row["low"] < row["regret"] < row["high"]
        assert row["bayes_horizon"] == 8
    folder = Path(summary["run"])
    page = (folder / "report.html").read_text()
    assert page.count("<figure") == 4
    assert len((folder / "metrics.jsonl").read_text().splitlines()) > 20
    assert json.loads((folder / "run.json").read_text())["status"] == "finished"


def test_the_same_seed_gives_the_same_regret(train):
    first, again, other = (
        json.loads(train("thompson", "--arms", "0.2,0.3,0.4,0.5", "--seed", seed, "--json")[1]) for seed in "001"
    )
    assert first["policies"] == again["policies"]
    assert first["policies"] != other["policies"]


def test_what_is_printed(train, monkeypatch):
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "200")
    code, out, _ = train("greedy", "--arms", "0.2,0.4,0.5,0.6")
    assert code == 0
    for words in ("20 runs of 60 pulls", "greedy", "Lai and Robbins", "report: "):
        assert words in out


@pytest.mark.parametrize(
    ("policies", "arguments", "says"),
    [
        ("ucb2", ["--arms", "0.1,0.5"], "Did you mean ucb1?"),
        ("ucb1,ucb1", ["--arms", "0.1,0.5"], "named twice"),
        ("ucb1", [], "needs --arms"),
        ("ucb1", ["--arms", "0.1"], "at least two arms"),
        ("ucb1", ["--arms", "0.1,1.5"], "at most 1"),
        ("ucb1", ["--arms", "0.1,x"], "must be a number"),
        ("ucb1", ["--arms", "0.1,0.2,0.3", "--steps", "2"], "at least 3"),
        ("ucb1", ["--arms", "0.1,0.2", "--runs", "0"], "--runs"),
        ("ucb1", ["more", "--arms", "0.1,0.2"], "takes its policies"),
    ],
)
def test_bad_input(train, tmp_path, policies, arguments, says):
    code, out, err = train(policies, *arguments)
    assert code == 2
    assert out == ""
    assert says in err
    assert not list(tmp_path.iterdir())


def solve(capsys, *arguments):
    return output(capsys, "solve", "bernoulli-bandit", *arguments)


def test_the_best_way_to_pull(capsys):
    code, out, _ = solve(capsys, "--horizon", "10", "--json")
    summary = json.loads(out)
    assert code == 0
    assert summary["value"] == pytest.approx(16861 / 2800, rel=1e-14)
    assert (summary["after_one"], summary["after_zero"]) == (0, 1)
    code, out, _ = solve(capsys, "--horizon", "20")
    assert "value 12.43" in out
    assert "Bayes regret 0.9021" in out


def test_other_priors_and_no_end(capsys):
    summary = json.loads(solve(capsys, "--horizon", "1", "--prior", "3,1/1,2", "--json")[1])
    assert summary["first"] == pytest.approx([3 / 4, 1 / 3])
    assert summary["after_one"] is None
    summary = json.loads(solve(capsys, "--discount", "0.9", "--most-pulls", "30", "--json")[1])
    assert summary["value"] == pytest.approx(6.0964, abs=1e-3)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ([], "needs --horizon N, or --discount G"),
        (["--horizon", "0"], "at least 1"),
        (["--horizon", "400"], "give at most"),
        (["--horizon", "3", "--prior", "1"], "two numbers"),
        (["--horizon", "3", "--prior", "0,1"], "above 0"),
        (["--horizon", "3", "--arms", "3", "--prior", "1,1/1,2"], "2 pairs for 3 arms"),
        (["--discount", "1.0"], r"[0, 1)"),
    ],
)
def test_bad_problems(capsys, arguments, says):
    code, _, err = solve(capsys, *arguments)
    assert code == 2
    assert says in err


def test_help(capsys):
    for command in ("train", "solve"):
        code, out, _ = output(capsys, command, "bernoulli-bandit", "--help")
        assert code == 0
        assert out.startswith(f"usage: optimality {command} bernoulli-bandit")


def test_an_interrupted_study_says_so(tmp_path, monkeypatch):
    from optimality.experiments import bandit_run

    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(bandit_run, "simulate_bandit", interrupted)
    arguments = ["train", "bernoulli-bandit", "ucb1", "--arms", "0.2,0.5", "--steps", "20", "--out", str(tmp_path)]
    assert main(arguments) == 130
    assert json.loads(next(tmp_path.glob("*/run.json")).read_text())["status"] == "interrupted"
