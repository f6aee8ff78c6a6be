"""Checkpoints: exact, atomic under SIGKILL, and outspoken about damage."""

import json
import subprocess
import sys
from pathlib import Path

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from optimality.environments.catalog import make
from optimality.experiments.checkpoints import complete_checkpoints, load_checkpoint, save_checkpoint
from optimality.learning.ppo import PPO
from optimality.networks.mlp import MLP
from optimality.sampling.compiled_runner import CompiledRunner
from optimality.sampling.loop import begin, run_chunk, strong


def tree(seed=0):
    return {
        "key": jax.random.key(seed),
        "weights": (jnp.arange(3.0) + seed, jnp.zeros((2, 2), jnp.int32)),
        "count": np.asarray(seed),
        "nothing": None,
    }


def test_comes_back_to_the_bit(tmp_path):
    path = save_checkpoint(tmp_path, 3, tree(5), {"method": "ppo"})
    loaded, about = load_checkpoint(path, tree(0), {"method": "ppo"})
    assert about == {"method": "ppo"}
    assert (jax.random.key_data(loaded["key"]) == jax.random.key_data(jax.random.key(5))).all()
    assert loaded["weights"][0].tolist() == [5.0, 6.0, 7.0]
    assert int(loaded["count"]) == 5


def test_keeps_the_newest(tmp_path):
    for step in range(6):
        save_checkpoint(tmp_path, step, tree(step), {}, keep=2)
    assert [path.name for path in complete_checkpoints(tmp_path)] == ["step-000000000004", "step-000000000005"]


def damaged(path, how):
    arrays, manifest = path / "arrays.safetensors", path / "manifest.json"
    data = arrays.read_bytes()
    if how == "flipped":
        arrays.write_bytes(data[:-3] + bytes([data[-3] ^ 1]) + data[-2:])
    elif how == "truncated":
        arrays.write_bytes(data[:-8])
    elif how == "missing":
        arrays.unlink()
    elif how == "manifest":
        manifest.write_text("{")
    elif how == "schema":
        manifest.write_text(json.dumps({**json.loads(manifest.read_text()), "schema": 99}))


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("flipped", r"arrays.safetensors is damaged"),
        ("truncated", r"arrays.safetensors is damaged"),
        ("missing", r"cannot read .*arrays.safetensors"),
        ("manifest", r"cannot read .*manifest.json"),
        ("schema", r"has schema 99, but this version reads schema 1"),
    ],
)
def test_damage_is_named(how, message, tmp_path):
    path = save_checkpoint(tmp_path, 1, tree(), {})
    damaged(path, how)
    with pytest.raises(ValueError, match=message):
        load_checkpoint(path, tree())


@pytest.mark.parametrize(
    ("like", "about", "message"),
    [
        ({"other": jnp.zeros(1)}, {}, "does not fit: it lacks"),
        ({**tree(), "weights": (jnp.zeros(4), jnp.zeros((2, 2), jnp.int32))}, {}, r"float32\[3\], but float32\[4\]"),
        (tree(), {"method": "sac"}, "is of method 'ppo', but 'sac' was asked for"),
    ],
)
def test_other_trees_are_refused(like, about, message, tmp_path):
    path = save_checkpoint(tmp_path, 1, tree(), {"method": "ppo"})
    with pytest.raises(ValueError, match=message):
        load_checkpoint(path, like, about)


def test_a_failed_write_leaves_what_was_there(tmp_path, monkeypatch):
    save_checkpoint(tmp_path, 1, tree(1), {})
    monkeypatch.setattr("os.replace", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    with pytest.raises(OSError, match="No space left"):
        save_checkpoint(tmp_path, 2, tree(2), {})
    assert [path.name for path in tmp_path.iterdir()] == ["step-000000000001"]


def test_killed_at_any_moment_the_newest_complete_one_loads():
    """Twenty kills on a busy machine; benchmarks/results/checkpoint_kills.jsonl has a hundred. Some strike a write."""
    script = Path(__file__).parents[2] / "benchmarks" / "checkpoint_kills.py"
    done = subprocess.run(
        [sys.executable, script, "--kills", "20", "--no-result"], capture_output=True, text=True, check=True
    )
    result = json.loads(done.stdout)
    assert result["loaded"] >= 15  # the first kills may come before the first checkpoint
    assert result["half_written"] >= 1


def test_training_goes_on_to_the_same_bits(tmp_path):
    """Two chunks in a row, and two with a save and a load between them."""
    learner = strong(PPO(rollout_steps=16, environments=4, network=MLP(hidden=(8,))))
    fresh = begin(learner, strong(CompiledRunner(make("CartPole-v1"), 4)), jax.random.key(0))
    state, runner, _ = run_chunk(learner, *fresh, jax.random.key(1), 3)
    path = save_checkpoint(tmp_path, 1, {"state": state, "runner": runner}, {})
    state, runner, _ = run_chunk(learner, state, runner, jax.random.key(2), 3)
    like = begin(learner, strong(CompiledRunner(make("CartPole-v1"), 4)), jax.random.key(7))
    loaded, _ = load_checkpoint(path, {"state": like[0], "runner": like[1]})
    resumed = run_chunk(learner, loaded["state"], loaded["runner"], jax.random.key(2), 3)
    assert eqx.tree_equal(resumed[0], state)
    assert eqx.tree_equal(resumed[1], runner)
