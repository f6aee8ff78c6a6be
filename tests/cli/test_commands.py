"""The command line as a user meets it: output, exit codes, errors, files."""

import json
import os
import re
import resource
import signal
import subprocess
import sys
import time
import tomllib
from importlib import import_module
from pathlib import Path
from typing import get_args

import pytest

import optimality
from optimality import registry
from optimality.cli.main import main
from optimality.experiments.configuration import kind_of

COMMAND = [sys.executable, "-m", "optimality.cli.main"]
QUICK = ["--episodes", "20", "--sweep", "none"]


def output(capsys, *arguments):
    code = main(list(arguments))
    captured = capsys.readouterr()
    return code, captured.out, captured.err


@pytest.fixture(scope="module")
def frozen_lake(tmp_path_factory):
    """One full run of the main job in a process of its own: (process, run folder)."""
    folder = tmp_path_factory.mktemp("main-job")
    done = subprocess.run(
        [*COMMAND, "solve", "FrozenLake-v1"],
        cwd=folder,
        capture_output=True,
        text=True,
        env={**os.environ, "NO_COLOR": "1"},
    )
    return done, next((folder / "runs").iterdir())


def test_main_job(frozen_lake):
    done, run = frozen_lake
    assert done.returncode == 0, done.stderr
    assert "\x1b[" not in done.stdout
    for words in ("exact expected return  0.7374", "optimum                0.7442", "agrees", "report.html"):
        assert words in done.stdout
    record = json.loads((run / "run.json").read_text())
    assert record["status"] == "finished"
    assert record["summary"]["measured"]["verdict"] == "agrees"
    assert run.name.split("-", 1)[1].startswith("soft-value-iteration-FrozenLake-v1-s0-")
    for name in ("config.toml", "metrics.jsonl", "events.jsonl", "policy.safetensors", "evaluation/episodes.csv"):
        assert (run / name).stat().st_size > 0
    assert len((run / "evaluation/episodes.csv").read_text().splitlines()) == 1001


def test_report_is_one_file_without_network_or_scripts(frozen_lake):
    _, run = frozen_lake
    page = (run / "report.html").read_text()
    assert page.count("<svg") == 4
    assert "<script" not in page
    assert not re.search(r"""(src|href)=["'](?!#|data:)""", page)


def test_policy_of_a_run_loads_and_acts(frozen_lake):
    _, run = frozen_lake
    policy = optimality.load_policy(run)
    assert policy.probabilities.shape == (100, 16, 4)
    assert int(policy.mode(14, 0)) == 1


def test_config_repeats_the_run_to_the_same_numbers(frozen_lake, tmp_path, capsys):
    _, run = frozen_lake
    code, out, _ = output(capsys, "solve", "--config", str(run), "--sweep", "none", "--out", str(tmp_path), "--json")
    again, before = json.loads(out), json.loads((run / "run.json").read_text())["summary"]
    assert code == 0
    assert again["exact"] == before["exact"]
    assert again["measured"] == before["measured"]
    stored = tomllib.loads((Path(again["run"]) / "config.toml").read_text())
    original = tomllib.loads((run / "config.toml").read_text())
    assert {**stored, "run": None} == {**original, "run": None}


def test_options_override_the_config(frozen_lake, tmp_path, capsys):
    _, run = frozen_lake
    code, out, _ = output(
        capsys, "solve", "--config", str(run / "config.toml"), "--temperature", "0.1", "--prior", "uniform",
        *QUICK, "--out", str(tmp_path), "--json",
    )  # fmt: skip
    assert code == 0
    assert json.loads(out)["exact"]["expected_return"] == pytest.approx(0.030, abs=5e-4)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["CliffWalking-v1", "value-iteration"], {"expected_return": -13.0, "optimum": -13.0}),
        (["Taxi-v4", "value-iteration"], {"expected_return": 7.93}),
        (["deep-sea", "deterministic-planning", "--problem.size", "6"], {"expected_return": 0.99}),
        (["FrozenLake-v1", "exact-inference", "--temperature", "0.1"], {"log_evidence": 5.7302}),
        (["FrozenLake-v1", "variational-inference", "--problem.is-slippery", "false"], {"optimum": 1.0}),
        (
            ["FrozenLake-v1", "--problem.map-name", "8x8", "--criterion", "discounted", "--criterion.discount", "0.9"],
            {},
        ),
        (["river-swim", "--criterion", "average-reward", "--temperature", "0.01"], {"optimum": 0.42862}),
        (["chain", "policy-iteration", "--criterion", "discounted", "--criterion.discount", "0.9"], {}),
        (["river-swim", "exact-reps", "--criterion", "average-reward", "--epsilon", "0.5"], {"upper_bound": 0.42862}),
        (
            ["two-state", "exact-reps", "--problem.stochastic", "true", "--criterion", "average-reward"],
            {"expected_return": 1.0, "optimum": 1.0},
        ),
        (
            ["FrozenLake-v1", "exact-reps", "--discount", "0.99", "--after-termination", "wait"],
            {"expected_return": 0.54203, "optimum": 0.54203},
        ),
        (["FrozenLake-v1", "exact-policy-gradient"], {"expected_return": 0.74419, "optimum": 0.74419}),
        (["chain", "exact-policy-gradient", "--discount", "0.9", "--step", "gradient"], {}),
        (["gridworld", "--problem.map", "S.G/.H.", "--criterion", "finite-horizon", "--criterion.horizon", "9"], {}),
        (["random", "--problem.termination", "0.1", "--criterion", "until-termination", "--temperature", "0.1"], {}),
    ],
)
def test_problems_and_methods(arguments, expected, tmp_path, capsys):
    code, out, err = output(capsys, "solve", *arguments, *QUICK, "--out", str(tmp_path), "--json")
    assert code == 0, err
    exact = json.loads(out)["exact"]
    for name, number in expected.items():
        assert exact[name] == pytest.approx(number, rel=1e-3)
    assert (Path(json.loads(out)["run"]) / "report.html").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["FrozenLak-v1"], "unknown problem 'FrozenLak-v1'. Did you mean FrozenLake-v1"),
        (["gridword"], "Did you mean gridworld"),
        (["FrozenLake-v1", "value-iteratio"], "unknown method 'value-iteratio'; did you mean value-iteration"),
        (["CartPole-v1"], "CartPole-v1 has no table of its dynamics"),
        (["chain"], "chain needs a criterion: add --horizon 50, --discount 0.95, --criterion average-reward or"),
        (["chain", "--criterion", "discounted"], "criterion: discounted cannot be made"),
        (["chain", "--criterion", "discountd"], "did you mean discounted"),
        (["chain", "--criterion", "discounted", "--criterion.discount", "1.5"], "discount must be in [0, 1)"),
        (["chain", "--criterion.discount", "0.9"], "needs --criterion NAME"),
        (["chain", "exact-inference", "--criterion", "average-reward"], "ExactInference takes the criteria"),
        (["deep-sea", "--problem.depth", "3"], "deep-sea has no option 'depth'; it has size, move_cost"),
        (["deep-sea", "--problem.size", "big"], "deep-sea: size takes a whole number"),
        (["two-state", "--problem.stochastic", "2", "--horizon", "5"], "two-state: stochastic takes true or false"),
        (["chain", "exact-reps", "--horizon", "5"], "needs a process that goes on for ever"),
        (["FrozenLake-v1", "--problem.colour", "red"], "does not take these options"),
        (["FrozenLake-v1", "--prior", "problem"], 'prior="problem" needs a problem with log_prior'),
        (["FrozenLake-v1", "exact-inference", "--prior", "problem"], 'prior="problem" needs a problem with log_prior'),
        (["FrozenLake-v1", "--episodes", "0"], "--episodes must be a whole number, at least 1"),
        (["FrozenLake-v1", "--seed", "x"], "--seed must be a whole number"),
        (["FrozenLake-v1", "--sweep", "everything"], "--sweep is temperature or none"),
        (["FrozenLake-v1", "--out", "/dev/null/runs"], "cannot write to the folder /dev/null/runs"),
        (["--config", "nowhere.toml"], "cannot read the configuration nowhere.toml"),
        ([], ""),
    ],
)
def test_bad_input_is_one_line_exit_2_and_nothing_on_disk(arguments, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    code, _, err = output(capsys, "solve", *arguments)
    assert code == 2
    assert message in err
    assert len(err.splitlines()) <= 1
    assert not list(tmp_path.glob("runs/*"))


@pytest.mark.parametrize("option", [["--temprature", "1"], ["--temperature", "-1"]])
def test_bad_hyper_parameter_exits_with_2(option, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as exit_:
        main(["solve", "FrozenLake-v1", *option])
    assert exit_.value.code == 2
    assert "temperature" in capsys.readouterr().err
    assert not list(tmp_path.glob("runs/*"))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("schema = 7\n", "has schema 7, but this version reads schema 1"),
        ("schema = ", "is not TOML"),
        ('schema = 1\n[problem]\nkind = "chain"\n[method]\nkind = "magic"\n', "unknown method 'magic'"),
        ('schema = 1\n[problem]\nkind = "chain"\n[criterion]\nkind = "eternal"\n', "unknown kind 'eternal'"),
    ],
)
def test_bad_config(text, message, tmp_path, capsys):
    (tmp_path / "config.toml").write_text(text)
    code, _, err = output(capsys, "solve", "--config", str(tmp_path), "--out", str(tmp_path / "runs"))
    assert code == 2
    assert message in err


def test_failure_of_the_method_is_exit_3_and_recorded(tmp_path, capsys):
    code, _, err = output(capsys, "solve", "FrozenLake-v1", "--criterion=until-termination", f"--out={tmp_path}")
    assert code == 3
    assert "does not approach a fixed point" in err
    record = json.loads((next(tmp_path.iterdir()) / "run.json").read_text())
    assert record["status"] == "failed"


def test_disagreement_with_the_environment_is_exit_1(tmp_path, monkeypatch, capsys):
    import gymnasium
    from gymnasium.envs.toy_text.frozen_lake import FrozenLakeEnv

    class Lying(FrozenLakeEnv):
        """Its table promises solid ground under every action; its steps slip as ever."""

        def step(self, action):
            table, self.P = self.P, self.slippery
            try:
                return super().step(action)
            finally:
                self.P = table

        def __init__(self, **options):
            super().__init__(**options)
            self.slippery, self.P = self.P, FrozenLakeEnv(is_slippery=False).P

    gymnasium.register(id="LyingLake-v0", entry_point=Lying, max_episode_steps=100)
    try:
        code, out, _ = output(
            capsys, "solve", "LyingLake-v0", "--out", str(tmp_path), "--episodes", "200", "--sweep", "none"
        )
    finally:
        del gymnasium.registry["LyingLake-v0"]
    assert code == 1
    assert "disagrees" in out
    assert json.loads((next(tmp_path.iterdir()) / "run.json").read_text())["status"] == "disagreed"


def test_interrupted_run_says_so(tmp_path):
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it
    process = subprocess.Popen(
        [*COMMAND, "solve", "Taxi-v4", "--episodes", "1000000"],
        cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    signal.signal(signal.SIGINT, before)
    deadline = time.monotonic() + 60
    while not list(tmp_path.glob("runs/*/events.jsonl")) and time.monotonic() < deadline:
        time.sleep(0.1)
    time.sleep(1.0)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert err.strip().endswith("interrupted")
    assert json.loads(next(tmp_path.glob("runs/*/run.json")).read_text())["status"] == "interrupted"


@pytest.mark.parametrize("arguments", [["--help"], ["solve", "--help"], ["train", "--help"], ["list"], ["--version"]])
def test_help_is_quick(arguments):
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run([*COMMAND, *arguments], capture_output=True, text=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert done.returncode == 0
    assert done.stdout
    spent = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    assert spent < 0.35, f"{spent:.2f} s of CPU"


def test_importing_the_library_imports_nothing_heavy():
    code = "import optimality, sys; print([m for m in ('jax', 'matplotlib', 'gymnasium', 'numpy') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_importing_the_library_changes_no_flag_of_jax():
    code = (
        "import jax; before = dict(jax.config.values); import optimality as o; [getattr(o, n) for n in dir(o)];"
        "print(before == dict(jax.config.values))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "True"


def test_list_and_doctor(capsys):
    code, out, _ = output(capsys, "list")
    assert code == 0
    assert all(entry.name in out for entry in (*registry.METHODS, *registry.PROBLEMS, *registry.CRITERIA))
    code, out, _ = output(capsys, "list", "--json")
    assert set(json.loads(out)) == {
        "methods",
        "learners",
        "bandit_policies",
        "environments",
        "problems",
        "criteria",
    }
    code, out, _ = output(capsys, "doctor", "--json")
    assert code == 0
    assert json.loads(out)["self_test"] == "ok"


@pytest.mark.parametrize("arguments", [["sovle"], ["list", "x"], ["doctor", "x"]])
def test_unknown_commands(arguments, capsys):
    code, _, err = output(capsys, *arguments)
    assert code == 2
    assert err.startswith("optimality: ")


def test_help_of_a_method_names_its_hyper_parameters(capsys):
    with pytest.raises(SystemExit) as exit_:
        main(["solve", "FrozenLake-v1", "soft-value-iteration", "--help"])
    assert exit_.value.code == 0
    text = capsys.readouterr().out
    assert "--temperature" in text
    assert "--prior" in text


@pytest.mark.parametrize("entry", [*registry.METHODS, *registry.EVALUATION, *registry.CRITERIA], ids=lambda e: e.name)
def test_registry_of_classes_matches_the_classes(entry):
    cls = getattr(import_module(entry.module), entry.attribute)
    assert kind_of(cls) == entry.name


@pytest.mark.parametrize("entry", registry.METHODS, ids=lambda e: e.name)
def test_registry_knows_which_problem_a_method_takes(entry):
    cls = getattr(import_module(entry.module), entry.attribute)
    assert get_args(cls.__orig_bases__[0])[0].__name__ == entry.problem


@pytest.mark.parametrize("entry", registry.PROBLEMS, ids=lambda e: e.name)
def test_registry_of_problems_matches_the_functions(entry):
    assert callable(getattr(import_module(entry.module), entry.attribute))


@pytest.mark.parametrize("name", sorted(registry.EXPORTS))
def test_exports_are_there(name):
    assert getattr(optimality, name).__name__ == name


def test_unknown_export():
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        optimality.nothing  # noqa: B018
