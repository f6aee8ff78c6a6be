"""The driver: what it gives, what it writes, what stops it, and how it goes on."""

import json
import re
import signal
import subprocess
import sys
import textwrap
import threading
import time

import equinox as eqx
import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from gymnasium import spaces

import optimality as ox
from optimality.environments.abstract import AbstractEnvironment
from optimality.environments.from_gymnasium import EnvironmentFailure
from optimality.environments.wrappers import PartialObservation
from optimality.experiments.checkpoints import complete_checkpoints
from optimality.experiments.compile_clock import CompileClock
from optimality.experiments.run_folder import RunFolder, is_held, read_config, read_metrics, read_record
from optimality.experiments.seeds import train_seeds
from optimality.experiments.stop_signals import StopSignals
from optimality.experiments.training_environment import EnvironmentChoice
from optimality.experiments.training_plan import plan_training
from optimality.experiments.training_run import train_plan
from optimality.networks.mlp import MLP

TINY = ox.PPO(rollout_steps=8, environments=2, minibatches=1, epochs=1, network=MLP(hidden=(4,)))
SHORT = {"steps": 64, "chunk": 1, "evaluation_episodes": 2}


def arrays(path):
    """The newest checkpoint's bytes."""
    return (complete_checkpoints(path / "checkpoints")[-1] / "arrays.safetensors").read_bytes()


def test_run_has_metrics_and_a_policy_that_acts_and_writes_nothing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    seen = []
    run = ox.train("CartPole-v1", TINY, **SHORT, callbacks=[seen.append])
    assert (run.result, run.path, [row["step"] for row in run.metrics]) == ("finished", None, [16, 32, 48, 64])
    assert [progress.step for progress in seen] == [16, 32, 48, 64]
    for row in run.metrics:
        assert 1.0 <= row["evaluation_return"] <= 500.0
        assert row["steps_per_second"] > 0.0
    assert run.metrics[1]["compile_seconds"] == 0.0
    assert run.policy.act(np.zeros(4)) in (0, 1)
    assert len(run.plot().axes) == 1
    table = run.to_csv(tmp_path / "metrics.csv").read_text().splitlines()
    assert len(table) == 5
    assert table[0].startswith("step,evaluation_return,")
    assert [path.name for path in tmp_path.iterdir()] == ["metrics.csv"]


def test_same_seed_same_bits_other_seed_other_bits():
    runs = [ox.train("CartPole-v1", TINY, seed=seed, **SHORT) for seed in (3, 3, 4)]
    assert eqx.tree_equal(runs[0].state, runs[1].state)
    assert runs[0].metrics[-1]["evaluation_return"] == runs[1].metrics[-1]["evaluation_return"]
    assert not eqx.tree_equal(runs[0].state, runs[2].state)


@pytest.mark.parametrize("backend", ["jax", "gymnasium"])
def test_run_folder(backend, tmp_path):
    run = ox.train("CartPole-v1", TINY, backend=backend, **SHORT, out=tmp_path, keep=2)
    record, config = read_record(run.path), read_config(run.path)
    assert (record["status"], record["result"], record["step"]) == ("finished", "finished", 64)
    assert config["environment"] == {"kind": "CartPole-v1", "backend": backend, "options": {}}
    assert len(read_metrics(run.path)) == 4
    assert len(complete_checkpoints(run.path / "checkpoints")) == 2
    page = (run.path / "report.html").read_text()
    assert "<script" not in page
    assert "CartPole-v1 by ppo" in page
    best = max(row["evaluation_return"] for row in run.metrics)
    for which in ("last", "best"):
        assert ox.load_policy(run.path, which).act(np.zeros(4)) in (0, 1)
    events = [json.loads(line) for line in (run.path / "events.jsonl").read_text().splitlines()]
    assert [event for event in events if event["event"] == "best"][-1]["evaluation_return"] == best


def test_the_saved_policy_is_the_one_of_the_run(tmp_path):
    run = ox.train("Pendulum-v1", TINY, **SHORT, out=tmp_path)
    loaded = ox.load_policy(run.path)
    for seed in range(5):
        observation = np.asarray(jax.random.normal(jax.random.key(seed), (3,)))
        np.testing.assert_array_equal(loaded.act(observation), run.policy.act(observation))


def test_goes_on_to_the_same_bits_and_for_longer(tmp_path):
    whole = ox.train("CartPole-v1", TINY, **SHORT, out=tmp_path)
    half = ox.train("CartPole-v1", TINY, **{**SHORT, "steps": 32}, out=tmp_path)
    resumed = ox.resume(half.path, steps=64)
    assert arrays(whole.path) == arrays(half.path)
    assert [row["evaluation_return"] for row in resumed.metrics] == [row["evaluation_return"] for row in whole.metrics]
    assert read_config(half.path)["run"]["steps"] == 64
    assert len(read_record(half.path)["resumed"]) == 1


def test_gymnasium_runs_go_on_with_what_was_learned(tmp_path):
    half = ox.train("CartPole-v1", TINY, backend="gymnasium", **{**SHORT, "steps": 32}, out=tmp_path)
    resumed = ox.resume(half.path, steps=64)
    assert int(resumed.state.updates) == 4
    assert [row["step"] for row in resumed.metrics] == [16, 32, 48, 64]
    assert '"restored"' in (half.path / "events.jsonl").read_text()


def test_fewer_steps_than_were_learned_are_refused(tmp_path):
    run = ox.train("CartPole-v1", TINY, **{**SHORT, "steps": 32}, out=tmp_path)
    with pytest.raises(ValueError, match="has learned for 32 steps already; 16 in all are less"):
        ox.resume(run.path, steps=16)
    assert read_config(run.path)["run"]["steps"] == 32


def test_wrapped_environments_and_a_memory(tmp_path):
    environment = PartialObservation(ox.make("CartPole-v1"), (1, 3))
    memory = ox.PPO(rollout_steps=8, environments=2, minibatches=1, epochs=1, memory=ox.GRU(units=3))
    run = ox.train(environment, memory, **SHORT, out=tmp_path)
    loaded = ox.load_policy(run.path)
    for policy in (run.policy, loaded):  # the memory is that of an episode, and is forgotten by reset
        first = [policy.act(np.array([0.02, -0.01])) for _ in range(3)]
        policy.reset()
        assert [policy.act(np.array([0.02, -0.01])) for _ in range(3)] == first


def test_before_the_first_checkpoint_it_starts_anew(tmp_path):
    run = ox.train("CartPole-v1", TINY, **{**SHORT, "steps": 16}, out=tmp_path)
    for path in complete_checkpoints(run.path / "checkpoints"):
        path.rename(path.with_name(f"{path.name}.tmp-1"))
    again = ox.resume(run.path)
    assert len(read_metrics(run.path)) == 1
    assert eqx.tree_equal(again.state, run.state)


def test_a_line_that_a_kill_cut_short_is_dropped(tmp_path):
    run = ox.train("CartPole-v1", TINY, **{**SHORT, "steps": 32}, out=tmp_path)
    with (run.path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 48, "evaluation_ret')
    assert len(read_metrics(run.path)) == 2
    ox.resume(run.path, steps=48)
    assert [row["step"] for row in read_metrics(run.path)] == [16, 32, 48]


def test_stops_at_a_target_in_time_and_by_a_callback():
    assert ox.train("CartPole-v1", TINY, **SHORT, target=1.0).result == "target_reached"
    assert ox.train("CartPole-v1", TINY, **SHORT, seconds=1e-6).result == "out_of_time"
    run = ox.train("CartPole-v1", TINY, **SHORT, callbacks=[lambda progress: progress.step >= 32])
    assert (run.result, len(run.metrics)) == ("stopped", 2)


class Poisoned(AbstractEnvironment):
    """Its reward is NaN from the fifth step of an episode on."""

    def reset(self, key):
        return jnp.zeros(()), jnp.zeros(1)

    def step(self, key, state, action):
        state = state + 1.0
        reward = jnp.where(state > 4.0, jnp.nan, 1.0)
        return state, state[None] / 10.0, reward, jnp.zeros((), bool), state >= 10.0

    @property
    def observation_space(self):
        return spaces.Box(0.0, 1.0, (1,), np.float32)

    @property
    def action_space(self):
        return spaces.Discrete(2)

    @property
    def time_limit(self):
        return 10

    def action_mask(self, state):
        return None


def test_updates_that_are_not_finite_stop_the_run_with_a_post_mortem(tmp_path):
    with pytest.raises(
        ox.TrainingFailed, match=r"Poisoned: the (return of a|sum of the returns of)[a-z ]* is nan"
    ) as info:
        ox.train(Poisoned(), TINY, steps=160, chunk=5, max_bad_updates=3, evaluation_episodes=2, out=tmp_path)
    run = info.value.run
    assert run.result == "not_finite"
    for leaf in jax.tree.leaves(run.state):
        assert np.isfinite(np.asarray(leaf)).all()
    assert len(complete_checkpoints(run.path / "post-mortem")) == 1
    assert read_record(run.path)["status"] == "failed"
    assert "post-mortem" in str(info.value)
    assert json.loads((run.path / "metrics.jsonl").read_text().splitlines()[0])["evaluation_return"] is None


class Faulty(gymnasium.Env):
    """Raises, or gives NaN, or another shape, at the twentieth step."""

    observation_space = spaces.Box(-1.0, 1.0, (2,), np.float32)
    action_space = spaces.Discrete(2)

    def __init__(self, fault):
        self.fault, self.time = fault, 0

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return np.zeros(2, np.float32), {}

    def step(self, action):
        self.time += 1
        if self.time == 20 and self.fault == "raises":
            raise ZeroDivisionError("in the physics")
        observation = np.full(2, np.nan if self.time == 20 and self.fault == "nan" else 0.5, np.float32)
        return observation[: 1 if self.time == 20 and self.fault == "shape" else 2], 1.0, self.time % 5 == 0, False, {}


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("raises", r"Faulty, copy 0: episode 3, step 5: raised ZeroDivisionError for action . *: in the physics"),
        ("nan", r"Faulty, copy 0: episode 3, step 5: the observation is \[nan nan\]"),
        ("shape", r"the observation has shape \(1,\), but the space has \(2,\)"),
    ],
)
def test_environments_that_fail_are_named_and_nothing_is_lost(fault, message, tmp_path):
    with pytest.raises(EnvironmentFailure, match=message):
        ox.train(lambda: Faulty(fault), TINY, steps=64, chunk=1, evaluation_episodes=2, out=tmp_path)
    path = next(tmp_path.iterdir())
    assert read_record(path)["status"] == "failed"
    assert "Faulty" in read_record(path)["error"]
    assert len(complete_checkpoints(path / "checkpoints")) == 2


@pytest.mark.parametrize("source", ["constructed", "vector", "factory"])
def test_environments_as_objects(source, tmp_path):
    make = lambda: gymnasium.wrappers.TimeLimit(gymnasium.make("CartPole-v1").unwrapped, 30)  # noqa: E731
    environment = {
        "constructed": make,
        "factory": lambda: make,
        "vector": lambda: gymnasium.vector.SyncVectorEnv([make, make, make]),
    }[source]()
    run = ox.train(environment, TINY, steps=48, chunk=1, evaluation_episodes=4, out=tmp_path)
    assert run.metrics[0]["step"] == {"constructed": 8, "factory": 16, "vector": 24}[source]
    assert all(row["evaluation_return"] <= 30.0 for row in run.metrics)
    with pytest.raises(ValueError, match=r"an object that a file cannot hold: go on from Python"):
        ox.resume(run.path, steps=96)
    resumed = ox.resume(run.path, steps=96, environment=environment)
    assert resumed.metrics[-1]["step"] == 96


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"environment": "CartPol-v1"}, "unknown environment 'CartPol-v1'. Did you mean CartPole"),
        ({"environment": "Blackjack-v1", "backend": "jax"}, "Blackjack-v1 has no JAX version"),
        ({"backend": "torch"}, "backend must be one of auto, jax, gymnasium"),
        ({"options": {"mass": 3.0}}, "CartPole-v1 has no parameter 'mass'"),
        ({"method": "pppo"}, "unknown method 'pppo'; did you mean ppo"),
        ({"steps": 0}, "steps must be a whole number, at least 1"),
        ({"evaluations": 0}, "evaluations must be a whole number"),
        ({"seconds": 0.0}, "seconds must be above 0"),
        ({"environment": "DeepSea-v0", "method": "reps"}, "indices of a finite set"),
        ({"method": ox.PPO(rollout_steps=7, environments=3)}, "which 4 minibatches do not divide"),
    ],
)
def test_bad_input_is_refused_before_anything_is_written(arguments, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        ox.train(**{"environment": "CartPole-v1", **arguments}, out=tmp_path)
    assert not list(tmp_path.iterdir())


def damaged(path, how):
    newest = complete_checkpoints(path / "checkpoints")[-1] / "arrays.safetensors"
    data = newest.read_bytes()
    if how == "flipped":
        newest.write_bytes(data[:-9] + bytes([data[-9] ^ 16]) + data[-8:])
    elif how == "truncated":
        newest.write_bytes(data[: len(data) // 2])
    else:
        config = path / "config.toml"
        old, new = {"method": ("hidden = [\n    4,\n]", "hidden = [5]"), "chunk": ("chunk = 1", "chunk = 2")}[how]
        assert old in config.read_text()
        config.write_text(config.read_text().replace(old, new))
    return {file: file.read_bytes() for file in (path / "checkpoints").rglob("*") if file.is_file()}


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("flipped", r"step-000000000002/arrays.safetensors is damaged"),
        ("truncated", r"step-000000000002/arrays.safetensors is damaged"),
        ("method", r"step-000000000002 does not fit: .*float32\[4"),
        ("chunk", r"step-000000000002 is of chunk 1, but 2 was asked for"),
    ],
)
def test_a_damaged_or_foreign_checkpoint_is_named_and_left_alone(how, message, tmp_path):
    run = ox.train("CartPole-v1", TINY, **{**SHORT, "steps": 32}, out=tmp_path)
    before = damaged(run.path, how)
    with pytest.raises(ValueError, match=message):
        ox.resume(run.path, steps=64)
    assert all(file.read_bytes() == content for file, content in before.items())


def test_two_processes_do_not_work_in_one_folder(tmp_path):
    run = ox.train("CartPole-v1", TINY, **{**SHORT, "steps": 16}, out=tmp_path)
    assert not is_held(run.path)
    folder = RunFolder.open(run.path)
    assert is_held(run.path)
    with pytest.raises(ValueError, match="another process works in"):
        ox.resume(run.path)
    folder.finish("finished")
    assert not is_held(run.path)


LIMITED = """
    import resource, sys
    import optimality as ox
    from optimality.networks.mlp import MLP
    network = MLP(hidden=(64, 64))
    def limit(progress):
        if progress.step >= 32:
            resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
    ox.train("CartPole-v1", ox.PPO(rollout_steps=8, environments=2, minibatches=1, epochs=1, network=network),
             steps=64, chunk=1, evaluation_episodes=2, out=sys.argv[1], callbacks=[limit])
"""


@pytest.mark.slow
def test_a_disk_that_takes_no_more(tmp_path):
    """A limit on the size of files makes the kernel refuse the third checkpoint: the second one is still there."""
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(LIMITED), str(tmp_path)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert re.search(r"File too large: '.*step-000000000003.*arrays.safetensors'", done.stderr)
    path = next(tmp_path.iterdir())
    assert read_record(path)["status"] == "failed"
    assert complete_checkpoints(path / "checkpoints")[-1].name == "step-000000000002"
    assert ox.resume(path).metrics[-1]["step"] == 64


def test_the_compile_clock_counts_nested_work_once():
    outer = jax.jit(lambda x: jax.jit(lambda y: jnp.sin(y) * 3.7)(x) + 1.0)
    with CompileClock() as clock:
        before = time.monotonic()
        outer(jnp.ones(3)).block_until_ready()
        spent = time.monotonic() - before
        first = clock.seconds
        outer(jnp.ones(3)).block_until_ready()
    assert 0.0 < first <= spent + 0.05  # JAX's clock is not this one
    assert clock.seconds == first


def test_the_first_signal_is_noted_and_the_second_interrupts():
    before = signal.getsignal(signal.SIGINT)
    with StopSignals() as signals:
        signal.raise_signal(signal.SIGTERM)
        assert signals.received is signal.SIGTERM
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is before
    thread = threading.Thread(target=lambda: StopSignals().__enter__())
    thread.start()
    thread.join()


def test_a_signal_finishes_the_chunk_and_saves(tmp_path):
    def interrupt(progress):
        signal.raise_signal(signal.SIGINT)

    run = ox.train("CartPole-v1", TINY, **SHORT, out=tmp_path, callbacks=[interrupt])
    assert (run.result, len(run.metrics), read_record(run.path)["status"]) == ("interrupted", 1, "interrupted")
    whole = ox.train("CartPole-v1", TINY, **SHORT, out=tmp_path)
    ox.resume(run.path)
    assert arrays(run.path) == arrays(whole.path)


@pytest.mark.parametrize("executor", ["vmap", "sequential"])
def test_several_seeds(executor, tmp_path):
    plan = plan_training("CartPole-v1", TINY, **SHORT, seed=0)
    study = train_seeds(plan, [5, 6, 7], out=tmp_path, executor=executor)
    assert [read_config(path)["run"]["seed"] for path in study.runs] == [5, 6, 7]
    assert [len(rows) for rows in study.metrics] == [4, 4, 4]
    assert (study.path / "report.html").exists()
    row = study.summary["groups"][0]
    assert row["runs"] == 3
    assert row["low"] <= row["mean"] <= row["high"]
    single = ox.train("CartPole-v1", TINY, **{**SHORT, "steps": 16}, seed=6)
    assert study.metrics[1][0]["episodes"] == single.metrics[0]["episodes"]
    if executor == "sequential":
        assert study.metrics[1][0]["evaluation_return"] == single.metrics[0]["evaluation_return"]
    resumed = ox.resume(study.runs[0], steps=80)
    assert resumed.metrics[-1]["step"] == 80


def test_a_signal_stops_all_seeds_and_not_only_the_first(tmp_path, monkeypatch):
    plan = plan_training("CartPole-v1", TINY, **SHORT, seed=0)

    def interrupted(plan, **arguments):
        stop = [lambda progress: signal.raise_signal(signal.SIGTERM)]
        return train_plan(plan, callbacks=stop, **arguments)

    monkeypatch.setattr("optimality.experiments.seeds.train_plan", interrupted)
    study = train_seeds(plan, [5, 6, 7], out=tmp_path, executor="sequential")
    assert (study.result, len(study.runs), len(study.metrics[0])) == ("terminated", 1, 1)


def test_seeds_that_cannot_be_run_are_refused(tmp_path):
    plan = plan_training(lambda: gymnasium.make("CartPole-v1"), TINY, **SHORT, seed=0)
    for executor, message in (("processes", "by its id"), ("vmap", "is not compiled"), ("slurm", "executor must be")):
        with pytest.raises(ValueError, match=message):
            train_seeds(plan, [0, 1], out=tmp_path, executor=executor)
    with pytest.raises(ValueError, match="different numbers"):
        train_seeds(plan, [1, 1], out=tmp_path)


def test_an_environment_without_a_limit_is_evaluated_up_to_one():
    choice = EnvironmentChoice(ox.make("CartPole-v1").environment)
    runner, rounds = choice.evaluation_runner(3)
    assert (runner.time_limit, rounds) == (1000, 1)
