"""Saved latent-variable models, the readers of data, and the verdict over a linear model."""

import jax
import matplotlib.image
import numpy as np
import pytest

from optimality import LinearGaussianModel, load_model, save_model
from optimality.experiments.latent_data import LatentData
from optimality.experiments.latent_judgment import Margin
from optimality.experiments.observations import read_observations, read_table
from optimality.experiments.saved_latent_model import LinearModel

LINEAR = LinearGaussianModel(np.array([[1.0], [0.5], [-1.0]]), np.array([0.5, 0.4, 0.6]), np.array([0.1, 0.2, 0.3]))


@pytest.mark.parametrize("levels", [None, 4])
def test_a_linear_model_is_saved_to_the_same_bits(tmp_path, levels):
    fitted = LinearModel(LINEAR, levels)
    loaded = load_model(save_model(fitted, tmp_path))
    x, key = np.array([[0.0, 1.0, 2.0], [1.0, 1.0, 0.0]]), jax.random.key(0)
    np.testing.assert_array_equal(loaded.encode(x).location, fitted.encode(x).location)
    np.testing.assert_array_equal(loaded.sample(key, 4), fitted.sample(key, 4))
    assert isinstance(loaded, LinearModel)
    np.testing.assert_array_equal(loaded.log_evidence(x), fitted.log_evidence(x))


def test_a_linear_model_takes_and_gives_the_data_in_their_units():
    """With levels x stands for the middle of its level; one point alone loses the first axis."""
    fitted = LinearModel(LINEAR, 4)
    x = np.array([0.0, 1.0, 2.0])
    inside = (x + 0.5) / 4
    np.testing.assert_allclose(
        np.asarray(fitted.encode(x).location), np.asarray(LINEAR.posterior(inside).location), rtol=1e-12
    )
    np.testing.assert_allclose(fitted.log_evidence(x), np.asarray(LINEAR.log_evidence(inside)), rtol=1e-12)
    z = np.array([0.3])
    np.testing.assert_allclose(
        fitted.decode(z), (np.array([1.0, 0.5, -1.0]) * 0.3 + [0.5, 0.4, 0.6]) * 4 - 0.5, rtol=1e-12
    )


def test_what_is_no_model_is_refused(tmp_path):
    file = save_model(LinearModel(LINEAR), tmp_path)
    content = bytearray(file.read_bytes())
    content[-3] ^= 1
    file.write_bytes(bytes(content))
    with pytest.raises(ValueError, match="is damaged"):
        load_model(file)
    file.write_bytes(bytes(content[:50]))
    with pytest.raises(ValueError, match="cannot load a model"):
        load_model(tmp_path)
    with pytest.raises(ValueError, match="cannot load a model"):
        load_model(tmp_path / "nowhere")
    with pytest.raises(ValueError, match="save_model takes the details of a fit"):
        save_model(LINEAR, tmp_path)


@pytest.mark.parametrize(
    ("text", "columns", "names", "rows"),
    [
        ("1,2\n\n3,4\n", None, None, [[1, 2], [3, 4]]),
        ("1,2\n3,4\n", ["2"], None, [[2], [4]]),
        ("\ufeffa, b\r\n1, 2e1\r\n", None, ("a", "b"), [[1, 20]]),
        (',"x, y",z\n0,1,2\n1,3,4\n', ["z", "x, y"], ("z", "x, y"), [[2, 1], [4, 3]]),
        ("a,note\n1,old\n", ["a"], ("a",), [[1]]),
    ],
)
def test_tables(tmp_path, text, columns, names, rows):
    path = tmp_path / "table.csv"
    path.write_text(text, encoding="utf-8")
    found, numbers = read_table(path, columns)
    assert found == names
    assert numbers.tolist() == rows


@pytest.mark.parametrize(
    ("text", "columns", "message"),
    [
        ("", None, "is empty"),
        ("a,b\n", None, "a header and no numbers"),
        ("1,2\n3\n", None, "line 2: 1 cells, but the first line has 2"),
        ("1,2\n3,\n", None, "line 2, column 2: the cell is empty"),
        ("a,b\n1,inf\n", None, r"line 2, column 2 \(b\): 'inf' is not a finite number"),
        ("nan,2\n", None, "line 1, column 1: 'nan' is not a finite number"),
        ("1,2\n", ["3"], "its columns are numbers from 1 to 2"),
    ],
)
def test_malformed_tables(tmp_path, text, columns, message):
    path = tmp_path / "table.csv"
    path.write_text(text)
    with pytest.raises(ValueError, match=message):
        read_table(path, columns)


def test_colored_images(tmp_path):
    """Three numbers a pixel, in the order of the files' names."""
    pictures = np.random.default_rng(0).integers(0, 256, size=(2, 3, 4, 3), dtype=np.uint8)
    for name, picture in zip("ba", pictures, strict=True):
        matplotlib.image.imsave(tmp_path / f"{name}.png", picture)
    found = read_observations(str(tmp_path))
    assert found.picture == (3, 4, 3)
    assert found.levels == 256
    np.testing.assert_array_equal(found.rows, pictures[::-1].reshape(2, -1))


def test_images_that_cannot_be_read(tmp_path):
    with pytest.raises(ValueError, match="has no images in it"):
        read_observations(str(tmp_path))
    (tmp_path / "a.png").write_bytes(b"not a picture")
    with pytest.raises(ValueError, match=r"a\.png is no image that can be read"):
        read_observations(str(tmp_path))


def test_arrays(tmp_path):
    np.save(tmp_path / "x.npy", np.arange(6.0))
    assert read_observations(str(tmp_path / "x.npy")).rows.shape == (6, 1)
    np.save(tmp_path / "x.npy", np.arange(24).reshape(4, 2, 3))
    assert read_observations(str(tmp_path / "x.npy")).picture == (2, 3)
    (tmp_path / "x.npy").write_bytes(b"")
    with pytest.raises(ValueError, match="is no array that can be read"):
        read_observations(str(tmp_path / "x.npy"))
    (tmp_path / "x.npz").write_bytes(b"PK junk")
    with pytest.raises(ValueError, match=r"x\.npz"):
        read_observations(str(tmp_path / "x.npz"))


def test_data_of_a_configuration(tmp_path):
    """To a table and back; digits keep their levels unless others are given."""
    data = LatentData("digits", likelihood="categorical", test_share=0.5)
    read = data.read()
    assert read.problem.categories == 17
    assert read.problem.levels is None
    assert LatentData.from_table(read.data.to_table()) == read.data
    assert LatentData("digits").read().problem.levels == 17
    assert LatentData("digits", levels=0).read().problem.levels is None
    with pytest.raises(ValueError, match="a data set has the fields"):
        LatentData.from_table({"kind": "dataset", "sources": "digits"})


@pytest.mark.parametrize(
    ("mean", "error", "verdict", "words"),
    [
        (3.0, 1.0, "worth it", "Worth it over factor analysis: +3 nats a point (s.e. 1)."),
        (-3.0, 1.0, "not worth it", "Not worth it over factor analysis: -3 nats a point (s.e. 1)."),
        (1.5, 1.0, "undecided", "No clear difference to factor analysis: +1.5 nats a point (s.e. 1)."),
        (1e-12, 1e-15, "undecided", "No clear difference"),
        (1.0, float("nan"), "undecided", "No clear difference to factor analysis: +1 nats a point."),
    ],
)
def test_verdicts(mean, error, verdict, words):
    margin = Margin("factor analysis", mean, error, True)
    assert margin.verdict == verdict
    assert margin.sentence.startswith(words)
