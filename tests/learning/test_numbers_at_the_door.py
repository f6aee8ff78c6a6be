"""Hyper-parameters outside their range are refused when a learner is made: nothing compiles, nothing is on disk."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import optimality as ox
from optimality.cli.main import main


@pytest.mark.parametrize(
    ("make", "fields", "match"),
    [
        (ox.REPS, {"epsilon": 0.0}, "epsilon of REPS must be above 0 and finite, but 0.0 was given"),
        (ox.REPS, {"policy_epsilon": -1.0}, "policy_epsilon"),
        (ox.REPS, {"discount": 1.1}, "discount of REPS must be at least 0 and at most 1"),
        (ox.REPS, {"slack": -1e-4}, "slack"),
        (ox.REPS, {"action_scale": 0.0}, "action_scale"),
        (ox.EpisodicREPS, {"epsilon": np.nan}, "epsilon"),
        (ox.EpisodicREPS, {"initial_deviation": 0.0}, "initial_deviation"),
        (ox.TRPO, {"epsilon": -0.1}, "epsilon of TRPO"),
        (ox.TRPO, {"damping": -1.0}, "damping"),
        (ox.TRPO, {"trials": 0}, "trials of TRPO must be at least 1"),
        (ox.natural_policy_gradient, {"epsilon": np.inf}, "epsilon of TRPO"),
        (ox.MaxEntPolicyGradient, {"temperature": 0.0}, "temperature of MaxEntPolicyGradient must be above 0"),
        (ox.PPO, {"learning_rate": 0.0}, "learning_rate"),
        (ox.PPO, {"gae_decay": 2.0}, "gae_decay"),
        (ox.Reinforce, {"temperature": -1.0}, "temperature of Reinforce must be at least 0"),
        (ox.SoftQLearning, {"discount": -0.1}, "discount"),
        (ox.dqn, {"learning_rate": np.nan}, "learning_rate"),
    ],
)
def test_numbers_out_of_range(make, fields, match):
    with pytest.raises(ValueError, match=match):
        make(**fields)


def test_traced_numbers_are_not_looked_at():
    made = jax.vmap(lambda rate: ox.PPO(learning_rate=rate).learning_rate)(jnp.array([1.0, -1.0]))
    assert np.asarray(made).tolist() == [1.0, -1.0]


def test_the_command_says_so_and_leaves_nothing(tmp_path, capsys):
    with pytest.raises(SystemExit) as left:
        main(["train", "Pendulum-v1", "reps", "--epsilon", "0", "--out", str(tmp_path / "runs")])
    assert left.value.code == 2
    assert "epsilon of REPS must be above 0" in capsys.readouterr().err
    assert not (tmp_path / "runs").exists()
