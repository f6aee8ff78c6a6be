"""`optimality solve` on linear-quadratic problems, as a user meets it."""

import contextlib
import io
import json
import re
import tomllib
from pathlib import Path

import numpy as np
import pytest

import optimality
from optimality import FiniteHorizon, cart_pole, solve
from optimality.cli.main import main

QUICK = ["--episodes", "50"]


def output(capsys, *arguments):
    code = main(list(arguments))
    captured = capsys.readouterr()
    return code, captured.out, captured.err


@pytest.fixture(scope="module")
def balanced(tmp_path_factory):
    """`optimality solve cart-pole lqr --horizon 200`: (exit code, run folder, what it printed)."""
    folder, printed = tmp_path_factory.mktemp("cart-pole"), io.StringIO()
    with contextlib.redirect_stdout(printed):
        code = main(["solve", "cart-pole", "lqr", "--horizon", "200", "--out", str(folder)])
    return code, next(folder.iterdir()), printed.getvalue()


def test_the_run(balanced):
    code, run, _ = balanced
    assert code == 0
    record = json.loads((run / "run.json").read_text())
    summary = record["summary"]
    assert record["status"] == "finished"
    assert summary["measured"]["verdict"] == "agrees"
    problem = cart_pole(criterion=FiniteHorizon(200))
    cost = -float(solve(problem).details.objective)
    assert summary["exact"]["expected_cost"] == pytest.approx(cost, rel=1e-9)
    assert summary["exact"]["expected_return"] == pytest.approx(summary["exact"]["optimum"], rel=1e-9)
    assert summary["measured"]["exact_standard_deviation"] > 0.01
    assert "is controllable" in summary["system"]["controllability"]
    assert summary["system"]["open_loop"][0][0] > 1.0 > np.hypot(*summary["system"]["closed_loop"][0])
    for name in ("config.toml", "metrics.jsonl", "events.jsonl", "policy.safetensors", "evaluation/episodes.csv"):
        assert (run / name).stat().st_size > 0
    assert len((run / "evaluation/episodes.csv").read_text().splitlines()) == 1001
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert rows[0]["mean_angle"] == 0.1
    assert sum(row["expected_cost"] for row in rows) == pytest.approx(cost, rel=1e-9)


def test_the_report(balanced):
    _, run, _ = balanced
    page = (run / "report.html").read_text()
    assert page.count("<svg") == 6
    for caption in ("States", "Controls", "Cost", "Gains", "Modes", "Measured returns"):
        assert f"<h2>{caption}</h2>" in page
        assert (run / "plots" / f"{caption.lower().replace(' ', '-')}.svg").exists()
    assert "<script" not in page
    assert not re.search(r"""(src|href)=["'](?!#|data:)""", page)
    assert "terminal_reward" not in page.split("To repeat it")[0]


def test_its_policy_loads_and_acts_on_numpy_states(balanced):
    _, run, _ = balanced
    policy = optimality.load_policy(run)
    exact = solve(cart_pole(criterion=FiniteHorizon(200))).policy
    x = np.array([0.3, -0.05, 0.1, 0.2])
    for time in range(3):
        np.testing.assert_allclose(policy.act(x), exact.mean(x, time), rtol=1e-5)
    for _ in range(196):
        policy.act(x)
    np.testing.assert_allclose(policy.act(x), exact.mean(x, 199), atol=1e-6)
    policy.reset()
    np.testing.assert_allclose(policy.act(x), exact.mean(x, 0), rtol=1e-5)
    with pytest.raises(ValueError, match="not finite"):
        policy.act(np.full(4, np.nan))


def test_its_config_repeats_it(balanced, tmp_path, capsys):
    _, run, _ = balanced
    code, out, _ = output(capsys, "solve", "--config", str(run), "--out", str(tmp_path), "--json")
    again, before = json.loads(out), json.loads((run / "run.json").read_text())["summary"]
    assert code == 0
    assert again["exact"] == before["exact"]
    assert again["measured"] == before["measured"]
    stored = tomllib.loads((Path(again["run"]) / "config.toml").read_text())
    assert stored == tomllib.loads((run / "config.toml").read_text())
    assert stored["method"]["kind"] == "lqr"
    assert stored["criterion"]["horizon"] == 200


def test_what_is_printed(balanced):
    for words in (
        "cart-pole by lqr\n4 states, 1 control, finite-horizon (horizon 200, discount 1.0)\n",
        "exact expected return",
        "minus the expected cost",
        "1.083 without control",
        "agrees",
        "report.html",
    ):
        assert words in balanced[2]


@pytest.mark.parametrize(
    "arguments",
    [
        ["double-integrator", "lqr", "--criterion", "average-reward", "--problem.time-step", "0.2"],
        ["random-linear", "--horizon", "20", "--discount", "0.9", "--problem.controls", "3", "--problem.noise", "0"],
    ],
)
def test_criteria_and_options(arguments, tmp_path, capsys):
    code, out, err = output(capsys, "solve", *arguments, *QUICK, "--out", str(tmp_path), "--json")
    assert code == 0, err
    summary = json.loads(out)
    assert summary["measured"]["verdict"] == "agrees"
    assert summary["exact"]["expected_return"] == pytest.approx(summary["exact"]["optimum"], rel=1e-7)
    page = (Path(summary["run"]) / "report.html").read_text()
    assert ("gain of" in page) == ("gain" in summary["system"]) == ("<h2>Gains</h2>" not in page)


@pytest.mark.parametrize(
    ("arguments", "numbers"),
    [
        (["maximum-entropy-lqr", "--temperature", "0.2"], {"expected_entropy", "elbo"}),
        (["risk-sensitive-lqr", "--risk=-1"], {"breakdown"}),
        (["linear-quadratic-inference", "--temperature", "0.2"], {"log_evidence", "elbo", "gap"}),
    ],
)
def test_the_other_methods_cost_more_and_have_their_own_numbers(arguments, numbers, tmp_path, capsys):
    code, out, err = output(
        capsys, "solve", "cart-pole", *arguments, "--horizon", "200", *QUICK, "--out", str(tmp_path), "--json"
    )
    assert code == 0, err
    summary = json.loads(out)
    exact = summary["exact"]
    assert set(exact) == {"expected_return", "expected_cost", "value", "optimum"} | numbers
    assert exact["expected_return"] < exact["optimum"]
    assert summary["measured"]["verdict"] == "agrees"
    page = (Path(summary["run"]) / "report.html").read_text()
    assert ("believed" in page) == ("log_evidence" in numbers)
    policy = optimality.load_policy(summary["run"])
    x = np.array([0.1, 0.1, 0.0, 0.0])
    noisy = "temperature" in " ".join(arguments)
    assert (policy.act(x, sample=True) != policy.policy.law.mean(x, 0)).all() or not noisy


def test_beyond_the_breakdown_is_exit_3(tmp_path, capsys):
    code, _, err = output(
        capsys, "solve", "cart-pole", "risk-sensitive-lqr", "--risk=-9", "--horizon", "200", "--out", str(tmp_path)
    )
    assert code == 3
    assert "breakdown point" in err
    assert json.loads((next(tmp_path.iterdir()) / "run.json").read_text())["status"] == "failed"


@pytest.mark.parametrize(
    ("arguments", "criterion"),
    [
        (["--horizon", "9"], {"kind": "finite-horizon", "horizon": 9, "discount": 1.0}),
        (["--horizon", "9", "--discount", "0.5"], {"kind": "finite-horizon", "horizon": 9, "discount": 0.5}),
        (["--discount", "0.5"], {"kind": "discounted", "discount": 0.5}),
        (["--criterion", "finite-horizon", "--horizon=9"], {"kind": "finite-horizon", "horizon": 9, "discount": 1.0}),
    ],
)
def test_short_forms_of_the_criterion_are_for_tables_too(arguments, criterion, tmp_path, capsys):
    code, out, err = output(
        capsys,
        "solve",
        "chain",
        "value-iteration",
        *arguments,
        *QUICK,
        "--sweep",
        "none",
        "--out",
        str(tmp_path),
        "--json",
    )
    assert code == 0, err
    assert {**json.loads(out)["criterion"], "terminal_reward": 0.0} == {**criterion, "terminal_reward": 0.0}
    if "--horizon" in arguments:
        run = json.loads(out)["run"]
        _, out, _ = output(capsys, "solve", "--config", run, "--discount", "0.7", "--out", str(tmp_path), "--json")
        assert json.loads(out)["criterion"]["horizon"] == 9
        assert json.loads(out)["criterion"]["discount"] == 0.7


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["cart-pole"], "cart-pole needs a criterion: add --horizon 50, --discount 0.95, --criterion average-reward."),
        (["cart-pole", "--horizon", "0"], "--horizon must be a whole number, at least 1, but '0' was given"),
        (["cart-pole", "--horizon", "two"], "--horizon must be a whole number, at least 1, but 'two'"),
        (["cart-pole", "--horizon", "5", "--discount", "1.5"], "discount must be in [0, 1]"),
        (["cart-pole", "--horizon", "5", "--criterion", "average-reward"], "--horizon is short for --criterion finite"),
        (["cart-pole", "--discount", "0.9", "--criterion", "average-reward"], "--discount is for a finite horizon or"),
        (
            ["cart-pole", "value-iteration", "--horizon", "5"],
            "value-iteration is a method for a table, but cart-pole is",
        ),
        (["FrozenLake-v1", "lqr"], "lqr is a method for a linear-quadratic problem, but FrozenLake-v1 is a table: its"),
        (["cart-pole", "--horizon", "5", "--sweep", "temperature"], "--sweep temperature is for tables"),
        (["cart-pole", "--horizon", "5", "--problem.cart-mass", "0"], "cart_mass must be positive, but 0"),
        (["cart-pole", "--horizon", "5", "--problem.wheels", "4"], "cart-pole has no option 'wheels'"),
        (["cart-pole", "--criterion", "until-termination"], "FiniteHorizon"),
        (
            ["cart-pole", "--criterion", "average-reward", "--problem.position-cost", "0"],
            "(A, Q) is not detectable: mode 1 (|lambda| >= 1) has PBH margin",
        ),
    ],
)
def test_bad_input_is_one_line_exit_2_and_nothing_on_disk(arguments, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    code, _, err = output(capsys, "solve", *arguments)
    assert code == 2
    assert message in err
    assert len(err.splitlines()) == 1
    assert not list(tmp_path.glob("runs/*"))


def test_an_unknown_option_exits_with_2(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as exit_:
        main(["solve", "cart-pole", "lqr", "--horizon", "5", "--gains", "3"])
    assert exit_.value.code == 2
    assert "gains" in capsys.readouterr().err
    assert not list(tmp_path.glob("runs/*"))
