"""`optimality irl`, as a user runs it: from demonstrations of the tool's own making to a reward and its report."""

import json

import numpy as np
import pytest

import optimality as ox
from optimality.cli.main import main
from optimality.core.result import Result
from optimality.experiments.inverse_run import demonstrated_return, reward_by_state, run_inverse
from optimality.experiments.problem_choice import ProblemChoice

TEMPERATURE = 0.1
LAKE = ["FrozenLake-v1", "--problem.is-slippery", "false", "--horizon", "12"]


@pytest.fixture(scope="module")
def lake():
    return ProblemChoice("FrozenLake-v1", {"is_slippery": False}, ox.FiniteHorizon(12)).build()


@pytest.fixture(scope="module")
def demonstrations(lake, tmp_path_factory):
    import jax

    expert = ox.solve(lake, ox.SoftValueIteration(temperature=TEMPERATURE)).policy
    shown = ox.Demonstrations.from_policy(lake, expert, 100, jax.random.key(0))
    return shown, shown.save(tmp_path_factory.mktemp("demos") / "demonstrations.npz")


def test_the_goal_is_found(demonstrations, tmp_path, capsys):
    _, path = demonstrations
    arguments = [*LAKE, "--demonstrations", str(path.parent), "--temperature", str(TEMPERATURE), "--out", str(tmp_path)]
    assert main(["irl", *arguments, "--json"]) == 0
    summary = json.loads(capsys.readouterr().out)
    assert summary["result"] == "converged"
    assert summary["returns"]["optimum"] == 1.0
    assert summary["returns"]["planned"] == pytest.approx(1.0, abs=1e-9)
    assert summary["demonstrations"]["episodes"] == 100
    reward = ox.load_reward(summary["run"])
    assert int(np.argmax(reward.values)) == 15
    report = (tmp_path / summary["run"].rsplit("/", 1)[-1] / "report.html").read_text()
    for words in ("the problem&#39;s own", "Feature expectations", "gradient norm", "optimality irl --config"):
        assert words.replace("&#39;", "'") in report.replace("&#39;", "'")
    policy = ox.load_policy(summary["run"])
    assert policy.probabilities.shape == (12, 16, 4)


def test_a_run_repeats_from_its_configuration(demonstrations, tmp_path, capsys):
    _, path = demonstrations
    arguments = [*LAKE, "--demonstrations", str(path), "--reward", "state-action", "--solver", "newton", "--l2", "0.1"]
    assert main(["irl", *arguments, "--out", str(tmp_path), "--json"]) == 0
    first = json.loads(capsys.readouterr().out)
    assert first["reward"] == {"kind": "table-reward", "scope": "state-action"}
    assert main(["irl", "--config", first["run"], "--out", str(tmp_path), "--json"]) == 0
    again = json.loads(capsys.readouterr().out)
    assert again["certificates"] == first["certificates"]
    assert again["run"] != first["run"]
    assert main(["irl", "--config", first["run"], "--out", str(tmp_path)]) == 0
    out = capsys.readouterr().out
    assert "return of the demonstrations" in out
    assert "report:" in out


@pytest.mark.parametrize("method", ["apprenticeship", "maximum-margin-planning"])
def test_margins(method, demonstrations, tmp_path, capsys):
    """Of the same demonstrations; a mixture is saved as the one table that has its visits."""
    _, path = demonstrations
    arguments = [*LAKE, "--demonstrations", str(path), "--out", str(tmp_path), "--json"]
    assert main(["irl", LAKE[0], method, *arguments[1:]]) == 0
    summary = json.loads(capsys.readouterr().out)
    assert summary["steps"] > 0
    assert summary["parameters"] == 16
    assert np.isfinite(list(summary["returns"].values())).all()
    assert summary["judged"]["regret"] >= 0.0
    assert 0.0 <= summary["judged"]["return after transfer"] <= 1.0
    assert ox.load_policy(summary["run"]).probabilities.shape[-2:] == (16, 4)
    assert "what it does not see" in (tmp_path / summary["run"].rsplit("/", 1)[-1] / "report.html").read_text()


def test_features_from_a_file(demonstrations, tmp_path, capsys):
    _, path = demonstrations
    features = np.eye(16)[:, [5, 7, 11, 12, 15]]
    np.save(tmp_path / "features.npy", features)
    np.savetxt(tmp_path / "features.csv", features, delimiter=",")
    found = []
    for name in ("features.npy", "features.csv"):
        arguments = [*LAKE, "--demonstrations", str(path), "--features", str(tmp_path / name), "--reward", "next-state"]
        assert main(["irl", *arguments, "--out", str(tmp_path), "--json"]) == 0
        found.append(ox.load_reward(json.loads(capsys.readouterr().out)["run"]).weights)
    np.testing.assert_allclose(found[0], found[1], atol=1e-12)
    assert int(np.argmax(found[0])) == 4


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["FrozenLake-v1"], "irl needs --demonstrations FOLDER"),
        ([], ""),
        (["--demonstrations", "DEMOS"], "irl needs a PROBLEM"),
        (["FrozenLake-v1", "maxen", "--demonstrations", "DEMOS"], "unknown method 'maxen'; did you mean maxent"),
        (["cart-pole", "--horizon", "4", "--demonstrations", "DEMOS"], "cart-pole is no table"),
        (["FrozenLake-v1", "--demonstrations", "/nowhere"], "cannot load demonstrations from /nowhere"),
        (["FrozenLake-v1", "--demonstrations", "DEMOS", "--reward", "action"], "--reward is one of next-state, state"),
        (["FrozenLake-v1", "--demonstrations", "DEMOS", "--features", "no.npy"], "cannot read the features no.npy"),
        (["FrozenLake-v1", "--horizon", "5", "--demonstrations", "DEMOS"], "but the problem's horizon is 5"),
        (["CliffWalking-v1", "--horizon", "20", "--demonstrations", "DEMOS"], "has no probability in the model"),
        (["--config", "nowhere"], "cannot read the configuration nowhere"),
    ],
)
def test_bad_input(arguments, message, demonstrations, tmp_path, capsys):
    arguments = [str(demonstrations[1]) if word == "DEMOS" else word for word in arguments]
    out = [] if not arguments else ["--out", str(tmp_path / "runs")]
    assert main(["irl", *arguments, *out]) == 2
    assert message in capsys.readouterr().err
    assert not list(tmp_path.glob("runs/*"))


def test_a_failure_says_what_to_do_and_is_recorded(demonstrations, tmp_path, capsys):
    arguments = [*LAKE, "--demonstrations", str(demonstrations[1]), "--max-steps", "2", "--out", str(tmp_path)]
    assert main(["irl", *arguments]) == 3
    assert "raise l2, max_steps or tolerance" in capsys.readouterr().err
    record = json.loads(next(tmp_path.glob("*/run.json")).read_text())
    assert record["status"] == "failed"


def test_numbers_out_of_range_are_refused(demonstrations, tmp_path, capsys):
    with pytest.raises(SystemExit) as exit_:
        main(["irl", *LAKE, "--demonstrations", str(demonstrations[1]), "--l2", "-1", "--out", str(tmp_path / "runs")])
    assert exit_.value.code == 2
    assert "l2 of MaxEntIRL must be at least 0" in capsys.readouterr().err
    assert not (tmp_path / "runs").exists()


def test_help(capsys):
    assert main(["irl", "--help"]) == 0
    assert "--demonstrations FOLDER" in capsys.readouterr().out


def test_an_interruption_leaves_a_folder_that_says_so(demonstrations, lake, tmp_path, monkeypatch):
    from optimality.experiments import inverse_run

    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(inverse_run, "infer_reward", interrupted)
    choice = ProblemChoice("FrozenLake-v1", {"is_slippery": False}, lake.criterion)
    with pytest.raises(KeyboardInterrupt):
        run_inverse(choice, demonstrations[0], ox.MaxEntIRL(), out=tmp_path)
    assert json.loads(next(tmp_path.glob("*/run.json")).read_text())["status"] == "interrupted"


def test_in_python_nothing_is_written(demonstrations, lake):
    choice = ProblemChoice("FrozenLake-v1", {"is_slippery": False}, lake.criterion)
    run, path = run_inverse(choice, demonstrations[0], ox.MaxEntIRL(temperature=TEMPERATURE))
    assert path is None
    assert run.solution.result == Result.CONVERGED


def test_returns_of_demonstrations_with_and_without_recorded_rewards(demonstrations, lake):
    import equinox as eqx

    shown, _ = demonstrations
    recorded = demonstrated_return(lake, shown)
    assert recorded == pytest.approx(np.mean(shown.returns()), abs=1e-12)
    silent = eqx.tree_at(lambda d: d.reward, shown, None, is_leaf=lambda x: x is None)
    assert demonstrated_return(lake, silent) == pytest.approx(recorded, abs=1e-12)
    assert np.isnan(demonstrated_return(lake, eqx.tree_at(lambda d: d.action, silent, None)))


def test_what_a_state_pays(lake):
    """Only the goal pays, on entering it; what Gymnasium's table lists for ended states does not dilute it."""
    paid = reward_by_state(lake, entered=True)
    assert paid[15] == 1.0
    assert np.nansum(np.abs(paid)) == 1.0
    by_action = reward_by_state(lake, entered=False)
    assert by_action[14] == pytest.approx(0.25)
    own = ox.TableReward(np.arange(16.0), "next-state")
    np.testing.assert_allclose(reward_by_state(lake, own, entered=True), np.arange(16.0), atol=1e-12)
