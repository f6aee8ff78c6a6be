"""`optimality demonstrate` as a user meets it: files, numbers, errors, interruptions."""

import hashlib
import json
import re
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

import optimality as ox
from optimality.cli.main import main
from optimality.experiments import demonstration_run
from optimality.inverse.demonstration_checks import check_demonstrations

COMMAND = [sys.executable, "-m", "optimality.cli.main"]
TINY = ["--rollout-steps", "8", "--environments", "2", "--minibatches", "1", "--epochs", "1", "--network.hidden", "4"]


def output(capsys, *arguments):
    code = main([str(argument) for argument in arguments])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def solved(folder, *arguments):
    assert main(["solve", *arguments, "--episodes", "10", "--out", str(folder), "--json"]) == 0
    return next(path for path in folder.iterdir() if path.is_dir())


@pytest.fixture(scope="module")
def expert(tmp_path_factory):
    """A soft-optimal policy of FrozenLake at temperature 1."""
    folder = tmp_path_factory.mktemp("expert")
    return solved(folder, "FrozenLake-v1", "soft-value-iteration", "--temperature", "1", "--sweep", "none")


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("trained")
    short = ["--steps", "64", "--chunk", "1", "--evaluation-episodes", "2", "--out", str(folder), "--json"]
    assert main(["train", "CartPole-v1", "ppo", *TINY, *short]) == 0
    return next(folder.iterdir())


def test_a_solved_table(expert, tmp_path, capsys):
    demos = tmp_path / "demos"
    code, out, err = output(capsys, "demonstrate", "FrozenLake-v1", "--policy", expert, "--out", demos)
    assert code == 0, err
    assert out.startswith("FrozenLake-v1 by soft-value-iteration: 50 episodes\n  mean return ")
    assert re.search(r"95 % interval .* to .*\n  \d+ steps, \d+ to \d+ an episode; \d+% terminated, the others", out)
    assert sorted(path.name for path in demos.iterdir()) == ["demonstrations.json", "demonstrations.npz"]
    made = ox.Demonstrations.load(demos)
    record = json.loads((demos / "demonstrations.json").read_text())
    assert record["sha256"] == hashlib.sha256((demos / "demonstrations.npz").read_bytes()).hexdigest()
    assert (record["environment"], record["seed"], record["episodes"]) == ("FrozenLake-v1", 0, 50)
    assert record["policy"]["run"] == str(expert)
    assert record["criterion"]["horizon"] == 100
    assert record["returns"]["mean"] == pytest.approx(made.returns().mean(), rel=1e-12)
    assert record["terminated"] == made.terminated.mean()
    assert record["steps"] == made.lengths.sum()
    assert "jax" in record["versions"]
    check_demonstrations(ox.TabularMDP.from_gymnasium("FrozenLake-v1"), made)
    assert len(np.unique(made.action)) == 4


def test_the_expert_is_the_stochastic_policy(expert, tmp_path, capsys):
    """Mean log-probability of the actions against minus the exact entropy, four standard errors of 2,000 episodes."""
    code, _, err = output(capsys, "demonstrate", "--policy", expert, "--episodes", 2000, "--out", tmp_path / "d")
    assert code == 0, err
    made = ox.Demonstrations.load(tmp_path / "d")
    lake = ox.TabularMDP.from_gymnasium("FrozenLake-v1")
    policy = ox.solve(lake, ox.SoftValueIteration(temperature=1.0)).policy
    exact = float(ox.solve(ox.UnderPolicy(lake, policy)).details.expected_entropy)
    surprise = -np.where(made.valid, made.log_probability, 0.0).sum(axis=1)
    assert abs(surprise.mean() - exact) < 4.0 * surprise.std() / np.sqrt(2000)


def test_the_seed_decides(expert, tmp_path, capsys):
    for folder, seed in (("a", 3), ("b", 3), ("c", 4)):
        arguments = ("--policy", expert, "--episodes", 5, "--seed", seed, "--out", tmp_path / folder)
        assert output(capsys, "demonstrate", *arguments)[0] == 0
    a, b, c = ((tmp_path / folder / "demonstrations.npz").read_bytes() for folder in "abc")
    assert a == b
    assert a != c


def test_files_are_replaced_only_when_asked(expert, tmp_path, capsys):
    demonstrate = ("demonstrate", "--policy", expert, "--out", tmp_path, "--episodes")
    assert output(capsys, *demonstrate, 3)[0] == 0
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    code, _, err = output(capsys, *demonstrate, 4)
    assert code == 2
    assert "is there already: choose another --out, or replace it with --force." in err
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
    code, out, _ = output(capsys, *demonstrate, 4, "--force", "--json")
    assert code == 0
    assert json.loads(out)["episodes"] == 4
    assert ox.Demonstrations.load(tmp_path).episodes == 4


def test_a_failure_leaves_nothing(expert, tmp_path, capsys, monkeypatch):
    def interrupted(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(demonstration_run, "_in_problem", interrupted)
    code, _, err = output(capsys, "demonstrate", "--policy", expert, "--out", tmp_path / "demos")
    assert (code, err) == (130, "interrupted\n")
    assert not (tmp_path / "demos").exists()


def test_interrupted_in_the_middle_leaves_nothing(expert, tmp_path):
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    arguments = ["--policy", str(expert), "--episodes", "5000000", "--out", "demos"]
    process = subprocess.Popen(
        [*COMMAND, "demonstrate", *arguments],
        cwd=tmp_path,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    signal.signal(signal.SIGINT, before)
    deadline = time.monotonic() + 60
    while not (tmp_path / "demos").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    time.sleep(0.5)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert err.strip().endswith("interrupted")
    assert not (tmp_path / "demos").exists()


def test_a_training_run(trained, tmp_path, capsys):
    demonstrate = ("demonstrate", "--policy", trained, "--episodes", 12)
    code, out, err = output(capsys, *demonstrate, "--out", tmp_path / "a")
    assert code == 0, err
    assert out.startswith("CartPole-v1 by ppo: 12 episodes")
    made = ox.Demonstrations.load(tmp_path / "a")
    assert made.observation.shape == (12, made.valid.shape[1] + 1, 4)
    np.testing.assert_array_equal(made.returns(), made.lengths)
    assert np.all(made.log_probability[made.valid] < 0.0)
    assert made.terminated.all()
    code, _, err = output(capsys, *demonstrate, "--steps", 5, "--out", tmp_path / "b")
    assert code == 0, err
    cut = ox.Demonstrations.load(tmp_path / "b")
    assert cut.lengths.max() == 5
    assert not cut.terminated.any()
    np.testing.assert_array_equal(cut.observation, made.observation[:, :6])
    arguments = ("--environment-backend", "gymnasium", "--which", "best", "--out", tmp_path / "c")
    code, _, err = output(capsys, "demonstrate", "CartPole-v1", *demonstrate[1:], *arguments)
    assert code == 0, err


def test_a_terminal_reward_and_a_discount_count(tmp_path, capsys):
    arguments = ["chain", "--criterion", "finite-horizon", "--criterion.horizon", "3", "--criterion.discount", "0.5"]
    run = solved(tmp_path / "run", *arguments, "--criterion.terminal-reward", "8", "--sweep", "none")
    capsys.readouterr()
    code, out, err = output(capsys, "demonstrate", "--policy", run, "--out", tmp_path / "demos", "--json")
    assert code == 0, err
    made = ox.Demonstrations.load(tmp_path / "demos")
    total = 0.0
    for episode in range(50):
        length = int(made.lengths[episode])
        total += sum(0.5**t * made.reward[episode, t] for t in range(length))
        total += 0.0 if made.terminated[episode] else 0.5**3 * 8.0
    assert json.loads(out)["returns"]["mean"] == pytest.approx(total / 50, rel=1e-12)


def test_a_regulator(tmp_path, capsys):
    run = solved(tmp_path / "run", "double-integrator", "maximum-entropy-lqr", "--horizon", "20")
    code, _, err = output(capsys, "demonstrate", "--policy", run, "--out", tmp_path / "demos", "--episodes", 4)
    assert code == 0, err
    made = ox.Demonstrations.load(tmp_path / "demos")
    assert made.observation.shape[:2] == (4, 21)
    assert np.isfinite(made.returns()).all()


def test_bad_input(expert, trained, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for arguments, message in (
        (["--policy", "nowhere"], "cannot read the configuration nowhere"),
        ([], "demonstrate needs --policy RUN"),
        (["a", "b", "--policy", expert], "demonstrate takes perhaps an ENVIRONMENT"),
        (["--policy", expert, "--epsiodes", "3"], "demonstrate takes perhaps an ENVIRONMENT"),
        (["--policy", expert, "--episodes", "0"], "--episodes must be a whole number, at least 1"),
        (["--policy", expert, "--steps", "0"], "--steps must be a whole number, at least 1"),
        (["CliffWalking-v1", "--policy", expert], "the policy is for 16 states and 4 actions, but CliffWalking-v1 has"),
        (["FrozenLak-v1", "--policy", expert], "Did you mean FrozenLake-v1"),
        (["double-integrator", "--policy", expert], "does not fit double-integrator"),
        (["CartPole-v1", "--policy", expert], "CartPole-v1 has no table of its dynamics"),
        (["--policy", expert, "--environment-backend", "jax"], "--environment-backend is for training runs"),
        (["--policy", expert, "--out", "/dev/null/demos"], "cannot write to the folder /dev/null/demos"),
        (["--policy", trained, "--steps", "501"], "--steps 501 is longer than the 500 steps"),
        (["--policy", trained, "--which", "worst"], "which must be 'last' or 'best'"),
        (["Pendulum-v1", "--policy", trained], "the policy does not fit Pendulum-v1"),
    ):
        code, _, err = output(capsys, "demonstrate", *arguments)
        assert (code, message in err, "Traceback" in err) == (2, True, False), err
        assert not (tmp_path / "demos").exists()
