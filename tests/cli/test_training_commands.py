"""`train`, `resume`, `evaluate`, `runs` and `report` as a user meets them, with real signals and real kills."""

import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import optimality as ox
from optimality import registry
from optimality.cli.main import COMMANDS, main
from optimality.environments.catalog import CATALOG
from optimality.experiments.checkpoints import complete_checkpoints, load_checkpoint, read_manifest
from optimality.experiments.configuration import from_table, to_table
from optimality.experiments.run_folder import is_held, read_config, read_metrics, read_record
from optimality.experiments.training_plan import learner_named

COMMAND = [sys.executable, "-m", "optimality.cli.main"]
TINY = ["--rollout-steps", "8", "--environments", "2", "--minibatches", "1", "--epochs", "1", "--network.hidden", "4"]
SHORT = ["--steps", "64", "--chunk", "1", "--evaluation-episodes", "2"]


def output(capsys, *arguments):
    code = main([str(argument) for argument in arguments])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """(folder of runs, run folder) of a short run."""
    folder = tmp_path_factory.mktemp("trained")
    assert main(["train", "CartPole-v1", "ppo", *TINY, *SHORT, "--out", str(folder), "--json"]) == 0
    return folder, next(folder.iterdir())


def test_train_says_what_it_does(tmp_path, capsys):
    code, out, err = output(capsys, "train", "CartPole-v1", *TINY, *SHORT, "--out", tmp_path)
    assert code == 0
    lines = err.splitlines()
    assert len(lines) == 4
    assert re.match(r"step +16 of 64  return [\d.]+  [\d,]+ steps/s  compiled in [\d.]+ s", lines[0])
    for words in (
        "CartPole-v1 by ppo: finished",
        "the compiled JAX version",
        "last evaluation, by the mode",
        "report:",
    ):
        assert words in out


def test_config_repeats_the_run_to_the_same_bits(trained, tmp_path, capsys):
    _, run = trained
    code, out, _ = output(capsys, "train", "--config", run, "--out", tmp_path, "--json")
    assert code == 0
    again = Path(json.loads(out)["run"])
    assert read_config(again) == read_config(run)
    assert newest_arrays(again) == newest_arrays(run)


def test_options_override_the_config(trained, tmp_path, capsys):
    _, run = trained
    arguments = ("--config", run, "--seed", 5, "--learning-rate", "0.01", "--steps", 16, "--evaluations", 1)
    code, out, err = output(capsys, "train", *arguments, "--out", tmp_path, "--json")
    assert code == 0, err
    config = read_config(Path(json.loads(out)["run"]))
    assert (config["run"]["seed"], config["run"]["steps"], config["method"]["learning_rate"]) == (5, 16, 0.01)
    assert config["method"]["network"]["hidden"] == [4]


@pytest.mark.slow
def test_seeds_run_in_processes(tmp_path, capsys):
    code, out, err = output(capsys, "train", "CartPole-v1", *TINY, *SHORT, "--seeds", 2, "--out", tmp_path, "--json")
    assert code == 0, err
    study = Path(json.loads(out)["study"])
    assert sorted(row["seed"] for row in json.loads(out)["runs"]) == [0, 1]
    assert (study / "report.html").exists()
    code, out, _ = output(capsys, "runs", tmp_path, "--json")
    assert [row["status"] for row in json.loads(out)] == ["finished", "finished"]


def test_evaluate_and_render(trained, tmp_path, capsys):
    _, run = trained
    gif = tmp_path / "episode.gif"
    code, out, err = output(capsys, "evaluate", run, "--episodes", 12, "--render", gif)
    assert code == 0, err
    assert "CartPole-v1 (jax), 12 episodes" in out
    assert re.search(r"mode +mean return .*\n +sampled +mean return", out)
    assert gif.read_bytes()[:4] == b"GIF8"
    assert len((run / "evaluation" / "last-sampled.csv").read_text().splitlines()) == 13
    code, out, _ = output(capsys, "evaluate", run, "--episodes", 4, "--environment-backend", "gymnasium", "--json")
    assert [(row["backend"], row["actions"]) for row in json.loads(out)] == [
        ("gymnasium", "mode"),
        ("gymnasium", "sampled"),
    ]
    code, again, _ = output(capsys, "evaluate", run, "--episodes", 4, "--environment-backend", "gymnasium", "--json")
    assert again == out


def test_runs_and_report(trained, tmp_path, capsys):
    folder, run = trained
    code, out, _ = output(capsys, "runs", folder)
    assert code == 0
    assert re.search(rf"finished +train +CartPole-v1 +ppo +0 +64 .*{run.name}", out)
    (run / "report.html").unlink()
    assert output(capsys, "report", run)[0] == 0
    assert (run / "report.html").exists()
    target = tmp_path / "page.html"
    assert output(capsys, "report", run, run, "--out", target)[0] == 0
    page = target.read_text()
    assert "CartPole-v1 by ppo" in page
    assert "<script" not in page
    assert not re.search(r"""(src|href)=["'](?!#|data:)""", page)


def test_a_table_is_held_against_its_exact_answer(tmp_path, capsys):
    arguments = ("soft-q-learning", "--steps", 3000, "--evaluations", 2, "--warm-up", 500, "--temperature", 0.05)
    code, out, err = output(capsys, "train", "GridWorld-v0", *arguments, "--out", tmp_path, "--json")
    assert code == 0, err
    run = Path(json.loads(out)["run"])
    page = (run / "report.html").read_text()
    assert "the optimum is 0.8116" in page
    assert "what the mode is worth" in page
    assert json.loads(out)["sampled"] is not None


def test_a_linear_quadratic_environment_is_held_against_the_regulator(tmp_path, capsys):
    code, out, err = output(capsys, "train", "DoubleIntegrator-v0", "--steps", 3000, "--out", tmp_path, "--json")
    assert code == 0, err
    page = (Path(json.loads(out)["run"]) / "report.html").read_text()
    assert "in the last evaluation, the optimum is -0.9595" in page


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train"], ""),
        (["train", "CartPol-v1"], "unknown environment 'CartPol-v1'. Did you mean CartPole"),
        (["train", "CartPole-v1", "pp"], "unknown method 'pp'; did you mean ppo"),
        (["train", "CartPole-v1", "--steps", "many"], "--steps must be a whole number"),
        (["train", "CartPole-v1", "--seeds", "0"], "--seeds must be a whole number, at least 1"),
        (["train", "CartPole-v1", "--target", "high"], "--target must be a number"),
        (["train", "CartPole-v1", "--environment.gravitas", "3"], "CartPole-v1 has no parameter 'gravitas'"),
        (["train", "CartPole-v1", "--environment-backend", "torch"], "backend must be one of"),
        (["train", "CartPole-v1", "--network", "transformer"], "--network 'transformer' is unknown"),
        (["train", "CartPole-v1", "--out", "/dev/null/runs"], "cannot write to the folder /dev/null/runs"),
        (["train", "Pendulum-v1", "dqn"], "needs discrete actions"),
        (["train", "DeepSea-v0", "reps"], "indices of a finite set"),
        (["train", "CartPole-v1", "--seeds", "2", "--executor", "slurm"], "executor must be one of"),
        (["train", "--config", "nowhere.toml"], "cannot read the configuration nowhere.toml"),
        (["resume", "nowhere"], "cannot read the configuration nowhere"),
        (["resume"], "resume takes a run folder"),
        (["evaluate", "nowhere"], "cannot read the configuration nowhere"),
        (["evaluate"], "evaluate takes a run folder"),
        (["runs", "nowhere"], "there is no folder nowhere"),
        (["report", "nowhere"], "nowhere is no run folder"),
        (["report"], "report takes run folders"),
        (["trian"], "Did you mean train"),
    ],
)
def test_bad_input(arguments, message, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, _, err = output(capsys, *arguments)
    assert code == 2
    assert message in err
    assert "Traceback" not in err
    assert not list(tmp_path.rglob("run.json"))


def test_solve_runs_are_not_training_runs(tmp_path, capsys):
    main(["solve", "river-swim", "--criterion", "discounted", "--criterion.discount", "0.9", "--episodes", "10",
          "--sweep", "none", "--out", str(tmp_path), "--json"])  # fmt: skip
    run = next(tmp_path.iterdir())
    capsys.readouterr()
    for command, message in (
        (("resume", run), "not a training run"),
        (("evaluate", run), "no training run"),
        (("report", run), "made by solve"),
        (("train", "--config", run), "not of train"),
    ):
        code, _, err = output(capsys, *command)
        assert (code, message in err) == (2, True), err
    assert "finished" in output(capsys, "runs", tmp_path)[1]


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help(command, capsys):
    code, out, _ = output(capsys, command, "--help")
    assert code == 0
    assert out.startswith(f"usage: optimality {command}")


def test_help_of_a_learner_shows_its_fields(capsys):
    with pytest.raises(SystemExit) as info:
        main(["train", "CartPole-v1", "ppo", "--help"])
    assert info.value.code == 0
    out = capsys.readouterr().out
    for words in ("--learning-rate", "--network.hidden", "--memory"):
        assert words in out


@pytest.mark.parametrize("entry", registry.LEARNERS, ids=lambda e: e.name)
def test_learners_are_their_configuration(entry):
    learner = learner_named(entry.name)
    table = to_table(learner)
    assert to_table(from_table(table, [type(learner)])) == table


def test_the_catalog_and_the_registry_agree():
    assert {entry.name: entry.target for entry in registry.ENVIRONMENTS} == {
        name: entry.target for name, entry in CATALOG.items()
    }


def newest_arrays(path):
    return (complete_checkpoints(path / "checkpoints")[-1] / "arrays.safetensors").read_bytes()


SMALL = {
    "ppo": TINY,
    "trpo": ["--environments", "2", "--rollout-steps", "8", "--minibatches", "2", "--network.hidden", "4"],
    "natural-policy-gradient": ["--environments", "2", "--rollout-steps", "8", "--minibatches", "2"],
    "max-ent-policy-gradient": ["--environments", "2", "--episodes", "1", "--network.hidden", "4"],
    "reinforce": ["--environments", "2", "--episodes", "1", "--network.hidden", "4"],
    "soft-q-learning": ["--network.hidden", "4", "--warm-up", "8", "--batch-size", "4", "--capacity", "64"],
    "dqn": ["--network.hidden", "4", "--warm-up", "8", "--batch-size", "4", "--capacity", "64"],
    "episodic-reps": ["--environments", "2", "--episodes", "2", "--warm-up", "0"],
    "reps": [
        "--environments",
        "2",
        "--rollout-steps",
        "8",
        "--policy-features.number",
        "4",
        "--value-features.number",
        "4",
    ],
}
CONTINUOUS = ("reps",)
WHOLE = {"episodic-reps": "600"}
"""Steps of the longer run; a chunk of whole episodes may take more than 150."""


@pytest.mark.slow
@pytest.mark.parametrize("method", [entry.name for entry in registry.LEARNERS])
def test_n_and_n_steps_through_a_new_process_are_2n_to_the_bit(method, tmp_path):
    short = ["--chunk", "3", "--evaluation-episodes", "2", "--out", str(tmp_path), "--json"]
    steps = WHOLE.get(method, "150")
    train = ["train", "Pendulum-v1" if method in CONTINUOUS else "CartPole-v1", method, *SMALL[method]]
    assert main([*train, "--steps", "40", *short]) == 0
    half = next(tmp_path.iterdir())
    done = subprocess.run([*COMMAND, "resume", str(half), "--steps", steps, "--json"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert main([*train, "--steps", steps, *short]) == 0
    whole = next(path for path in tmp_path.iterdir() if path != half)
    assert newest_arrays(half) == newest_arrays(whole)
    loaded = ox.load_policy(half)
    seen = [0.0, 0.1, 0.0, -0.1][: 3 if method in CONTINUOUS else 4]
    assert loaded.act(seen) == ox.load_policy(whole).act(seen)


LONG = ["train", "CartPole-v1", "ppo", *TINY, "--steps", "100000000", "--chunk", "40", "--evaluation-episodes", "2"]


def started(folder):
    """A long run in a process of its own, after its first checkpoint: (process, run folder)."""
    process = subprocess.Popen(
        [*COMMAND, *LONG, "--out", str(folder)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        found = [path for path in folder.iterdir() if complete_checkpoints(path / "checkpoints")]
        if found:
            return process, found[0]
        assert process.poll() is None, process.communicate()[1]
        time.sleep(0.05)
    process.kill()
    raise AssertionError("no checkpoint in two minutes")


@pytest.mark.parametrize(
    ("number", "code", "status"), [(signal.SIGINT, 130, "interrupted"), (signal.SIGTERM, 143, "terminated")]
)
def test_signals_finish_the_chunk_and_save(number, code, status, tmp_path):
    process, run = started(tmp_path)
    process.send_signal(number)
    _, err = process.communicate(timeout=60)
    assert process.returncode == code, err
    assert f"go on with `optimality resume {run}`" in err
    assert read_record(run)["status"] == status
    rows = len(read_metrics(run))
    assert read_manifest(complete_checkpoints(run / "checkpoints")[-1])["step"] == rows
    assert (run / "report.html").exists()


@pytest.mark.slow
def test_a_killed_run_is_whole_and_goes_on_to_the_same_bits(tmp_path, capsys):
    """Two runs killed at random moments: the newest checkpoint of each loads, and resuming gives what one run gives."""
    moments = random.Random(3)
    for kill in range(2):
        process, run = started(tmp_path / str(kill) if (tmp_path / str(kill)).mkdir() is None else tmp_path)
        assert is_held(run)
        time.sleep(moments.uniform(0.0, 0.7))
        process.send_signal(signal.SIGKILL)
        process.communicate()
        assert not is_held(run)
        code, out, _ = output(capsys, "runs", run.parent)
        assert "killed" in out
        assert "optimality resume RUN" in out
        newest = complete_checkpoints(run / "checkpoints")[-1]
        done = read_manifest(newest)["step"]
        total = (done + 2) * 40 * 16
        ox.resume(run, steps=total)
        assert len(read_metrics(run)) == done + 2
        whole = tmp_path / f"whole-{kill}"
        code, out, err = output(capsys, *LONG, "--steps", total, "--out", whole, "--chunk", 40, "--json")
        assert code == 0, err
        assert newest_arrays(Path(json.loads(out)["run"])) == newest_arrays(run)


def test_an_older_checkpoint_helps_where_the_newest_is_damaged(trained, tmp_path, capsys):
    code, out, _ = output(capsys, "train", "CartPole-v1", *TINY, *SHORT, "--out", tmp_path, "--json")
    run = Path(json.loads(out)["run"])
    newest = complete_checkpoints(run / "checkpoints")[-1]
    (newest / "arrays.safetensors").write_bytes(b"\0" * 100)
    code, _, err = output(capsys, "resume", run)
    assert code == 2
    assert f"{newest / 'arrays.safetensors'} is damaged" in err
    assert "Move its folder away to use an older one" in err
    newest.rename(run / "damaged")
    assert output(capsys, "resume", run, "--json")[0] == 0
    assert len(read_metrics(run)) == 4


def test_no_color_and_no_traceback_when_the_pipe_closes(trained):
    _, run = trained
    done = subprocess.run(
        f"{' '.join(COMMAND)} runs {run.parent} | head -n 1",
        shell=True, capture_output=True, text=True, env={**os.environ, "NO_COLOR": "1"},
    )  # fmt: skip
    assert done.stdout.startswith("status")
    assert "Traceback" not in done.stderr


def test_checkpoints_of_a_run_load_by_hand(trained):
    _, run = trained
    newest = complete_checkpoints(run / "checkpoints")[-1]
    with pytest.raises(ValueError, match="is of method 'ppo', but 'dqn' was asked for"):
        load_checkpoint(newest, {}, {"method": "dqn"})
