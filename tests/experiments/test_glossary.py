"""Reports explain every number that they show."""

import jax
import pytest

from optimality import registry
from optimality.environments.catalog import make
from optimality.experiments.training_plan import learner_named
from optimality.experiments.training_report import GLOSSARY
from optimality.sampling.compiled_runner import CompiledRunner
from optimality.sampling.loop import begin, run_chunk, strong

NAMES = [entry.name for entry in registry.LEARNERS]


@pytest.mark.parametrize(
    ("name", "environment"),
    [
        *((name, "Pendulum-v1" if name == "reps" else "CartPole-v1") for name in NAMES),
        ("soft-q-learning", "Chain-v0"),
    ],  # of a network, of a table
)
def test_every_metric_of_a_learner_is_explained(name, environment):
    learner = strong(learner_named(name))
    runner = strong(CompiledRunner(make(environment), learner.environments))

    def chunk(key):
        return run_chunk(learner, *begin(learner, runner, key), key, 1)[2]

    assert set(jax.eval_shape(chunk, jax.random.key(0))) <= set(GLOSSARY)
