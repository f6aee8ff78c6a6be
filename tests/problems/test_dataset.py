"""Data sets: their division, their noise, and what they refuse."""

import jax
import numpy as np
import pytest

from optimality.problems.dataset import Dataset
from optimality.problems.sample_datasets import digits, ring, ring_centers


def test_every_point_is_in_one_part():
    data = Dataset(np.arange(100.0), validation_share=0.1, test_share=0.25)
    parts = [np.asarray(part)[:, 0] for part in data.parts()]
    assert [len(part) for part in parts] == [65, 10, 25]
    np.testing.assert_array_equal(np.sort(np.concatenate(parts)), np.arange(100.0))


def test_the_division_follows_from_its_seed():
    first, again = (Dataset(np.arange(50.0)).parts().test for _ in range(2))
    other = Dataset(np.arange(50.0), split_seed=1).parts().test
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)


def test_shares_of_zero_leave_all_points_to_the_fit():
    parts = Dataset(np.arange(9.0), validation_share=0.0, test_share=0.0).parts()
    assert [part.shape for part in parts] == [(9, 1), (0, 1), (0, 1)]


def test_noise_stays_in_its_cell_and_is_the_same_without_a_key():
    data = Dataset(np.tile(np.arange(4), (50, 1)), levels=4, test_share=0.0, validation_share=0.0)
    first, again = data.parts().train, data.parts().train
    other = data.parts(jax.random.key(5)).train
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)
    np.testing.assert_array_equal(np.floor(np.asarray(other) * 4), data.observations)


def test_a_bound_on_noisy_data_is_one_on_the_integers(x64):
    """Uniform over 4 integers: the density of y on [0, 1] is 1, its log 0, and log P = 0 - log 4."""
    assert Dataset(np.arange(4), levels=4).log_levels == pytest.approx(np.log(4.0))
    assert digits().log_levels == pytest.approx(64 * np.log(17.0))
    assert ring().log_levels == 0.0


def test_digits_are_those_of_the_repository():
    data = digits()
    assert np.shape(data.observations) == (1797, 64)
    assert data.observations.max() == 16.0
    assert data.observations.sum() == 561718.0
    covariance = np.cov(data.observations / 16.0, rowvar=False, bias=True)
    assert np.linalg.eigvalsh(covariance)[-1] == pytest.approx(0.699, abs=5e-4)
    assert [part.shape[0] for part in data.parts()] == [1347, 150, 300]


def test_the_ring_has_its_modes():
    data = ring(points=4000)
    nearest = np.linalg.norm(data.observations[:, None] - ring_centers(), axis=-1)
    assert np.all(np.bincount(nearest.argmin(1), minlength=8) > 400)
    assert np.sqrt(np.mean(nearest.min(1) ** 2) / 2) == pytest.approx(0.15, abs=0.01)


@pytest.mark.parametrize(
    ("arguments", "options", "words"),
    [
        (np.zeros((3, 2, 2)), {}, "one row a point"),
        (np.zeros((3, 0)), {}, "one row a point"),
        (np.zeros((1, 2)), {}, "two points or more"),
        (np.array([[1.0, np.nan]] * 5), {"names": ("a", "b")}, "point 0 has nan in 'b'"),
        (np.array([[1.0], [0.5], [0.0]]), {"likelihood": "bernoulli"}, "integers between 0 and 1.*point 1 has 0.5"),
        (np.array([[1.0], [3.0]]), {"likelihood": "categorical", "categories": 3}, "between 0 and 2"),
        (np.array([[1.0], [1.0]]), {"likelihood": "categorical"}, "need categories"),
        (np.array([[1.0], [17.0]]), {"levels": 17}, "between 0 and 16.*point 1 has 17"),
        (np.zeros((9, 2)), {"levels": 1}, "2 of them or more"),
        (np.zeros((9, 2)), {"likelihood": "bernoulli", "levels": 4}, "gaussian likelihood"),
        (np.zeros((9, 2)), {"test_share": 0.7, "validation_share": 0.4}, "below 1 together"),
        (np.zeros((9, 2)), {"test_share": -0.1}, "at least 0"),
        (np.zeros((9, 3)), {"image_shape": (2, 2)}, "pictures"),
        (np.zeros((9, 3)), {"names": ("a",)}, "1 names were given for 3 features"),
        (np.array([["a"], ["b"]]), {}, "must be numbers"),
    ],
)
def test_refusals(arguments, options, words):
    with pytest.raises(ValueError, match=words):
        Dataset(arguments, **options)


def test_a_ring_needs_a_mode():
    with pytest.raises(ValueError, match="needs a mode"):
        ring(modes=0)
