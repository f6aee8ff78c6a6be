"""Every outcome has a sentence that a person can act on."""

import pickle

import jax.numpy as jnp
import numpy as np
import pytest

from optimality.core.result import Result, SolverError


def test_successes():
    assert {r for r in Result if r.is_success} == {Result.CONVERGED, Result.CONSTRAINT_INACTIVE}


def test_sentences_are_all_there_and_differ():
    sentences = [r.sentence for r in Result]
    assert len(set(sentences)) == len(Result)
    assert all(s[0].isupper() and s.endswith((".", ").")) for s in sentences)


@pytest.mark.parametrize("result", list(Result))
def test_of(result):
    for code in (int(result), np.int32(result), np.asarray(result), jnp.asarray(int(result))):
        assert Result.of(code) is result


def test_of_an_unknown_code():
    with pytest.raises(ValueError, match="-1 is not a valid Result"):
        Result.of(-1)


def test_codes_are_stable():
    """They are written into files."""
    assert [r.value for r in Result] == list(range(11))
    assert Result.MULTICHAIN == 10


def test_error_names_method_result_and_remedy():
    error = SolverError("Newton", Result.ITERATION_LIMIT, "what was reached")
    assert str(error) == f"Newton: iteration limit. {Result.ITERATION_LIMIT.sentence}"
    assert error.result is Result.ITERATION_LIMIT
    assert error.solution == "what was reached"
    assert isinstance(error, RuntimeError)
    assert pickle.loads(pickle.dumps(Result.COLLAPSED)) is Result.COLLAPSED  # noqa: S301
