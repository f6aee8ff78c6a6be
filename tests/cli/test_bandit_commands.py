"""`optimality train bernoulli-bandit` and `optimality solve bernoulli-bandit` as a user meets them."""

import json
import re
import tomllib
from pathlib import Path

import numpy as np
import pytest

import optimality as ox
from optimality.cli.main import main
from optimality.exploration.bandit_policy import ArmStatistics
from optimality.exploration.bayes_regret import bayes_regret


@pytest.fixture(autouse=True)
def elsewhere(tmp_path_factory, monkeypatch):
    monkeypatch.chdir(tmp_path_factory.mktemp("elsewhere"))


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
        ("ucb2", ["--arms", "0.1,0.5"], "did you mean ucb1?"),
        ("ucb1,ucb1", ["--arms", "0.1,0.5"], "named twice"),
        ("ucb1", [], "needs --arms"),
        ("ucb1", ["--arms", "0.1"], "at least two arms"),
        ("ucb1", ["--arms", "0.1,1.5"], "at most 1"),
        ("ucb1", ["--arms", "0.1,x"], "must be a number"),
        ("ucb1", ["--arms", "0.1,0.2,0.3", "--steps", "2"], "at least 3"),
        ("ucb1", ["--arms", "0.1,0.2", "--runs", "0"], "--runs"),
        ("ucb1", ["more", "--arms", "0.1,0.2"], "takes its policies in one word"),
        (
            "ucb1",
            ["--arms", "0.1,0.2", "--ucb1.scal", "2"],
            "no option 'scal'; did you mean scale? It has --ucb1.scale",
        ),
        ("bayes-ucb", ["--arms", "0.1,0.2", "--bayes-ucb.horizon", "5"], "has no option 'horizon'"),
        ("thompson", ["--arms", "0.1,0.2", "--thompson.prior", "beta-bernoulli"], "has no option 'prior'. It has none"),
        ("ucb1", ["--arms", "0.1,0.2", "--ids.grid", "64"], "option of ids, which is not among the policies: ucb1"),
        ("ucb1", ["--arms", "0.1,0.2", "--stepz", "5"], "unknown option --stepz; did you mean --steps"),
        ("ucb1", ["--arms", "0.1,0.2", "--ucb1.scale"], "--ucb1.scale needs a value"),
    ],
)
def test_bad_input(train, tmp_path, policies, arguments, says):
    code, out, err = train(policies, *arguments)
    assert code == 2
    assert out == ""
    assert says in err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("policies", "option"),
    [("epsilon-greedy", "--epsilon-greedy.epsilon=2"), ("greedy", "--greedy.ties=x"), ("ids", "--ids.grid=33")],
)
def test_values_out_of_range(train, tmp_path, policies, option):
    with pytest.raises(SystemExit) as stopped:
        train(policies, "--arms", "0.1,0.5", option)
    assert stopped.value.code == 2
    assert not list(tmp_path.iterdir())


OPTIONS = ("--epsilon-greedy.epsilon", "0.3", "--ucb1.scale=0.5", "--greedy.ties", "random")


def test_options_of_policies(train):
    """They are what plays: the same regret as without the command line, and stored by name."""
    summary = json.loads(train("epsilon-greedy,ucb1,greedy", "--arms", "0.1,0.5", *OPTIONS, "--json")[1])
    policies = {
        "epsilon-greedy": ox.EpsilonGreedy(epsilon=0.3),
        "ucb1": ox.UCB1(scale=0.5),
        "greedy": ox.Greedy(ties="random"),
    }
    traces = ox.simulate_bandit(ox.BernoulliArms([0.1, 0.5]), policies, horizon=60, runs=20, seed=0)
    for row in summary["policies"]:
        assert row["regret"] == float(traces[row["policy"]].regret[-1].mean())
    config = tomllib.loads((Path(summary["run"]) / "config.toml").read_text())
    assert config["methods"] == [
        {"kind": "epsilon-greedy", "epsilon": 0.3, "ties": "lowest"},
        {"kind": "ucb1", "scale": 0.5, "ties": "lowest"},
        {"kind": "greedy", "ties": "random"},
    ]


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """The folder of a run with the options above, and random policies."""
    place = tmp_path_factory.mktemp("study")
    size = ("--arms", "0.1,0.5", "--steps", "20", "--runs", "20", "--out", str(place))
    assert main(["train", "bernoulli-bandit", "thompson,epsilon-greedy,ucb1,greedy", *size, *OPTIONS]) == 0
    return next(place.iterdir())


def again(capsys, *arguments):
    code, out, err = output(capsys, "train", *arguments, "--json")
    assert code == 0, err
    return json.loads(out)


@pytest.mark.parametrize("named", [True, False])
def test_a_study_repeats_from_its_configuration(study, capsys, tmp_path, named):
    """The same bits, with the problem's name or without, from the folder or the file."""
    path = str(study if named else study / "config.toml")
    repeated = again(capsys, *(["bernoulli-bandit"] if named else []), "--config", path, "--out", str(tmp_path / "x"))
    run = Path(repeated.pop("run"))
    assert repeated == json.loads((study / "run.json").read_text())["summary"]
    for name in ("config.toml", "metrics.jsonl"):
        assert (study / name).read_text() == (run / name).read_text()


def test_options_override_a_stored_study(study, capsys, tmp_path):
    base = ["bernoulli-bandit", "--config", str(study), "--out", str(tmp_path / "x")]
    changed = again(capsys, *base, "--arms", "0.2,0.3,0.7,0.9", "--steps", "30", "--greedy.ties", "lowest")
    assert changed["arms"] == [0.2, 0.3, 0.7, 0.9]
    assert (changed["steps"], changed["runs"]) == (30, 20)
    tables = tomllib.loads((Path(changed["run"]) / "config.toml").read_text())["methods"]
    assert {table["kind"]: table for table in tables}["greedy"]["ties"] == "lowest"
    chosen = again(capsys, "bernoulli-bandit", "epsilon-greedy,greedy", *base[1:])
    assert [row["policy"] for row in chosen["policies"]] == ["epsilon-greedy", "greedy"]
    tables = tomllib.loads((Path(chosen["run"]) / "config.toml").read_text())["methods"]
    assert tables[0]["epsilon"] == 0.3


STORED = 'schema = 1\ncommand = "train"\n'
BANDIT = '[problem]\nkind = "bernoulli-bandit"\narms = [0.1, 0.5]\n'


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (STORED + '[problem]\nkind = "FrozenLake-v1"\n', "is not of a study of bandit policies"),
        (STORED + BANDIT, "lacks the arms or the methods"),
        (STORED + 'methods = [{kind = "ucb2"}]\n' + BANDIT, "did you mean ucb1"),
        (STORED + 'methods = [{kind = "ucb1", scal = 1.0}]\n' + BANDIT, "no field 'scal'; did you mean scale?"),
        (STORED + 'methods = [{kind = "ucb1"}]\n' + BANDIT + '[run]\nsteps = "x"\n', "--steps must be a whole number"),
        (STORED + "methods = [3]\n" + BANDIT, "lacks the arms or the methods"),
        (STORED + "methods = []\n" + BANDIT, "no policy was named"),
    ],
)
def test_damaged_studies_are_refused(capsys, tmp_path, text, says):
    (tmp_path / "config.toml").write_text(text)
    code, out, err = output(capsys, "train", "bernoulli-bandit", "--config", str(tmp_path))
    assert code == 2
    assert out == ""
    assert says in err
    assert not Path("runs").exists()


def test_where_a_study_does_not_belong(study, capsys):
    """One line each, and no traceback: it has no environment, no policy file, no checkpoint."""
    run = str(study)
    for arguments in (
        ["train", "CartPole-v1", "--config", run],
        ["solve", "bernoulli-bandit", "--config", run],
        ["resume", run],
        ["evaluate", run],
        ["demonstrate", "--policy", run],
        ["report", run],
        ["report", run, run],
    ):
        code, _, err = output(capsys, *arguments)
        assert code == 2, arguments
        assert len(err.splitlines()) == 1


def test_runs_list_bandits(study, capsys):
    code, out, _ = output(capsys, "runs", str(study.parent), "--json")
    assert code == 0
    (row,) = json.loads(out)
    assert (row["method"], row["environment"], row["seed"]) == (
        "thompson,epsilon-greedy,ucb1,greedy",
        "bernoulli-bandit",
        0,
    )


def solve(capsys, *arguments):
    return output(capsys, "solve", "bernoulli-bandit", *arguments)


@pytest.fixture(scope="module")
def solved(tmp_path_factory):
    """`optimality solve bernoulli-bandit --horizon 10`: the run folder."""
    place = tmp_path_factory.mktemp("solved")
    assert main(["solve", "bernoulli-bandit", "--horizon", "10", "--out", str(place)]) == 0
    return next(place.iterdir())


def test_the_best_way_to_pull(solved, capsys):
    summary = json.loads((solved / "run.json").read_text())["summary"]
    assert summary["value"] == pytest.approx(16861 / 2800, rel=1e-14)
    assert (summary["after_one"], summary["after_zero"]) == (0, 1)
    code, out, _ = solve(capsys, "--horizon", "20")
    assert code == 0
    for words in ("value 12.43", "Bayes regret 0.9021", "Thompson", "report: "):
        assert words in out


def test_the_report_of_the_best_way(solved):
    """Curves are those of `bayes_regret`; the best of each horizon is below all of them, and equal at the end."""
    summary = json.loads((solved / "run.json").read_text())["summary"]
    rows = [json.loads(line) for line in (solved / "metrics.jsonl").read_text().splitlines()]
    curves = {name: [r["bayes_regret"] for r in rows if r["policy"] == name] for name in summary["regret"]}
    prior = ox.BetaBernoulli([1.0, 1.0], [1.0, 1.0])
    np.testing.assert_allclose(curves["Thompson"], bayes_regret(ox.Thompson(), prior, 10).regret, rtol=1e-12)
    np.testing.assert_allclose(curves["greedy"], bayes_regret(ox.Greedy(), prior, 10).regret, rtol=1e-12)
    assert curves["Bayes-optimal"][-1] == pytest.approx(summary["bayes_regret"], rel=1e-12)
    best = {int(h): regret for h, regret in summary["best_by_horizon"].items()}
    assert list(best) == [2, 5, 10]
    for horizon, least in best.items():
        assert all(curve[horizon - 1] >= least - 1e-12 for curve in curves.values())
    page = (solved / "report.html").read_text()
    assert page.count("<svg") == 2
    assert "<script" not in page
    assert "http" not in page.replace("http://www.w3.org", "").replace("http://purl.org", "")
    for words in ("with known arms", "The first pull", "Against other policies", "--config"):
        assert words in page


def test_a_solved_bandit_repeats_from_its_configuration(solved, capsys, tmp_path):
    first = json.loads((solved / "run.json").read_text())["summary"]
    assert main(["solve", "--config", str(solved), "--out", str(tmp_path), "--json"]) == 0
    summary = json.loads(capsys.readouterr().out)
    run = Path(summary.pop("run"))
    assert {**summary, "seconds": 0} == {**first, "seconds": 0}
    for name in ("config.toml", "metrics.jsonl"):
        assert (run / name).read_bytes() == (solved / name).read_bytes()
    np.testing.assert_array_equal(ox.load_policy(run).gains, ox.load_policy(solved).gains)
    changed = json.loads(solve(capsys, "--config", str(solved), "--horizon", "3", "--prior", "2,1", "--json")[1])
    assert changed["prior"] == [[2.0, 1.0], [2.0, 1.0]]
    assert changed["criterion"]["horizon"] == 3


def test_the_policy_of_a_solved_bandit(solved):
    policy = ox.load_policy(solved)
    exact = ox.solve(ox.BernoulliBandit(ox.BetaBernoulli([1.0, 1.0], [1.0, 1.0]), ox.FiniteHorizon(10))).policy
    np.testing.assert_array_equal(policy.gains, exact.gains)
    seen = ArmStatistics(np.array([3, 1]), np.array([2, 0]))
    np.testing.assert_array_equal(policy.probabilities(seen, 4), [1.0, 0.0])


def test_other_priors_and_no_end(capsys):
    summary = json.loads(solve(capsys, "--horizon", "1", "--prior", "3,1/1,2", "--json")[1])
    assert summary["first"] == pytest.approx([3 / 4, 1 / 3])
    assert summary["after_one"] is None
    summary = json.loads(solve(capsys, "--discount", "0.9", "--most-pulls", "30", "--json")[1])
    assert summary["value"] == pytest.approx(6.0964, abs=1e-3)
    assert summary["best_by_horizon"] == {}
    # regret of the pulls that are planned, discounted; the rest weighs 0.9^30
    assert summary["regret"]["Bayes-optimal"]["bayes_regret"] == pytest.approx(summary["bayes_regret"], abs=0.05)
    assert summary["regret"]["Bayes-optimal"]["bayes_regret"] < summary["regret"]["greedy"]["bayes_regret"]


def test_three_arms(capsys):
    summary = json.loads(solve(capsys, "--horizon", "4", "--arms", "3", "--json")[1])
    page = (Path(summary["run"]) / "report.html").read_text()
    assert page.count("<svg") == 1
    assert summary["regret"]["Thompson"]["pulls"] == 4


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
        (["lqr", "--horizon", "3"], "the method of bernoulli-bandit is exact-bandit, but 'lqr' was given"),
        (["--config", "nowhere"], "cannot read the configuration"),
    ],
)
def test_bad_problems(capsys, arguments, says):
    code, out, err = solve(capsys, *arguments)
    assert code == 2
    assert out == ""
    assert says in err
    assert not Path("runs").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["solve", "FrozenLake-v1", "exact-bandit"], "is a method for a bandit"),
        (["irl", "bernoulli-bandit", "--demonstrations", "x"], "bernoulli-bandit is no table"),
        (["solve", "bernoulli-bandi"], "Did you mean bernoulli-bandit"),
    ],
)
def test_where_it_does_not_belong(capsys, arguments, message):
    assert main(arguments) == 2
    assert message in capsys.readouterr().err


def test_bandits_are_listed(capsys):
    names = json.loads(output(capsys, "list", "--json")[1])
    assert "bernoulli-bandit" in names["problems"]
    assert "exact-bandit" in names["methods"]
    assert {"ucb1", "ids", "thompson"} <= set(names["bandit_policies"])
    for command, words in (("solve", "exact-bandit"), ("train", "knowledge-gradient"), ("list", "epsilon-greedy")):
        assert words in output(capsys, command, *(["--help"] if command != "list" else []))[1]


def test_help_lists_the_options_of_policies(capsys):
    code, out, _ = output(capsys, "train", "bernoulli-bandit", "--help")
    assert code == 0
    assert re.search(r"--epsilon-greedy\.epsilon +Probability of a pull at random, in \[0, 1\] \(0\.1\)", out)
    assert "--ucb1.scale" in out
    assert "bayes-ucb.horizon" not in out
    assert all(len(line) <= 120 for line in out.splitlines())


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


def test_an_interrupted_solution_says_so(tmp_path, monkeypatch):
    from optimality.experiments import exact_bandit_run

    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(exact_bandit_run, "solve", interrupted)
    assert main(["solve", "bernoulli-bandit", "--horizon", "2", "--out", str(tmp_path)]) == 130
    assert json.loads(next(tmp_path.glob("*/run.json")).read_text())["status"] == "interrupted"
