"""`optimality solve DATA` as a user meets it: fits, reports, saved models, repeated and refused runs."""

import json
from pathlib import Path

import jax
import matplotlib.image
import numpy as np
import pytest
import scipy.stats

from optimality import load_model, solve
from optimality.cli.main import main
from optimality.experiments.run_folder import read_config
from optimality.experiments.saved_latent_model import LinearModel
from optimality.latent.autoencoder_details import AutoencoderDetails
from optimality.latent.factor_analysis import FactorAnalysis
from optimality.latent.variational_autoencoder import VariationalAutoencoder
from optimality.networks.mlp import MLP
from optimality.problems.dataset import Dataset

SMALL = ["--encoder.hidden", "8", "--decoder.hidden", "8", "--max-steps", "3", "--bound-samples", "20"]
DATA = ["--test-share", "0.2", "--validation-share", "0.1", "--split-seed", "4"]


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "200")


def points():
    random = np.random.default_rng(1)
    z = random.normal(size=(300, 1))
    return z @ np.array([[1.0, 0.5, -0.5]]) + 0.4 * random.normal(size=(300, 3))


def output(capsys, *arguments):
    code = main(["solve", *map(str, arguments)])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def table(path, rows, header="length,width,height"):
    lines = [",".join(repr(float(number)) for number in row) for row in rows]
    path.write_text("\n".join([header, *lines]) + "\n")
    return path


@pytest.fixture(scope="module")
def fitted(tmp_path_factory):
    """A small autoencoder of a CSV file: (file, run folder, summary)."""
    place = tmp_path_factory.mktemp("fitted")
    file = table(place / "things.csv", points())
    method = ["variational-autoencoder", "--latents", "1", "--variance", "feature", *SMALL]
    assert main(["solve", str(file), *method, *DATA, "--seed", "3", "--out", str(place / "runs")]) == 0
    folder = next((place / "runs").iterdir())
    return file, folder, json.loads((folder / "run.json").read_text())["summary"]


def test_a_fit_is_that_of_python(fitted):
    """The same numbers as `solve` gives for the same data, method and key."""
    _, folder, summary = fitted
    problem = Dataset(points(), test_share=0.2, validation_share=0.1, split_seed=4)
    network = MLP(hidden=(8,), activation="gelu")
    method = VariationalAutoencoder(
        latents=1, variance="feature", encoder=network, decoder=network, max_steps=3, bound_samples=20
    )
    solution = solve(problem, method, key=jax.random.split(jax.random.key(3), 3)[0])
    assert summary["bound"] == pytest.approx(float(solution.value), rel=1e-6)
    assert summary["points"] == {"fit": 210, "validation": 30, "test": 60}
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    history = np.asarray(solution.details.history)
    assert [[row["train_bound"], row["validation_bound"]] for row in rows] == pytest.approx(history, rel=1e-5)
    assert summary["bits"] == pytest.approx(-summary["bound"] / (3 * np.log(2.0)))


def test_the_linear_opponent_stands_on_the_same_points(fitted):
    """Of factor analysis, by the normal density of its covariance at the test points."""
    _, _, summary = fitted
    problem = Dataset(points(), test_share=0.2, validation_share=0.1, split_seed=4)
    model = solve(problem, FactorAnalysis(latents=1)).details.model
    order = np.random.default_rng(4).permutation(300)
    rows = points()[np.sort(order[240:])]
    evidence = scipy.stats.multivariate_normal(model.mean, model.covariance()).logpdf(rows)
    bar = next(bar for bar in summary["bars"] if bar["kind"] == "linear")
    assert bar["name"] == "factor analysis with 1 latent"
    assert bar["mean"] == pytest.approx(float(np.mean(evidence)), rel=1e-5)
    assert bar["standard_error"] == pytest.approx(float(np.std(evidence, ddof=1) / np.sqrt(60)), rel=1e-4)
    bound = next(bar for bar in summary["bars"] if bar["name"] == "bound of 20 samples")
    assert summary["margins"][0]["mean"] == pytest.approx(bound["mean"] - bar["mean"], rel=1e-4)
    assert summary["margins"][0]["verdict"] == "not worth it"  # after three passes
    assert summary["verdict"][0].startswith("So far, with the fit not at its end: not worth it over factor analysis")


def test_the_report(fitted):
    _, folder, summary = fitted
    report = (folder / "report.html").read_text()
    for words in (
        "not worth it over factor analysis",
        "amortization gap",
        "By the collapse law",
        "load_model",
        "in use",
    ):
        assert words in report
    assert "was still improving (best pass 3): raise --max-steps." in " ".join(summary["warnings"])
    assert "<script" not in report
    assert "http" not in report.replace("http://www.w3.org", "").replace("http://purl.org", "")
    assert {path.stem for path in (folder / "plots").iterdir()} == {
        "bounds",
        "rate-of-each-latent",
        "collapse",
        "effective-samples",
        "the-fit",
        "deviations-of-the-decoder",
        "samples",
        "reconstruction-of-each-feature",
        "a-walk-through-the-latents",
    }


def test_a_run_repeats_from_its_configuration(fitted, capsys, tmp_path):
    """To the same numbers, and quietly: nothing but JSON on standard output."""
    _, folder, first = fitted
    code, out, err = output(capsys, "--config", folder, "--out", tmp_path, "--json")
    again = json.loads(out)
    assert code == 0
    assert err == ""
    timed = ("run", "seconds")
    assert {k: v for k, v in again.items() if k not in timed and k != "source"} == {
        k: v for k, v in first.items() if k not in timed and k != "source"
    }


def test_options_override_a_configuration(fitted, capsys, tmp_path):
    """The method of another name for the same data, from which a column is left out."""
    _, folder, _ = fitted
    arguments = ["probabilistic-pca", "--config", folder, "--columns", "width,length", "--latents", "1"]
    code, out, _ = output(capsys, *arguments, "--out", tmp_path, "--json")
    summary = json.loads(out)
    assert code == 0
    assert summary["method"] == "probabilistic-pca"
    assert summary["features"] == 2
    assert summary["points"] == {"fit": 210, "validation": 30, "test": 60}


def test_changed_data_are_not_repeated(fitted, capsys, tmp_path):
    file, folder, _ = fitted
    config = (folder / "config.toml").read_text().replace(str(file), str(tmp_path / "things.csv"))
    table(tmp_path / "things.csv", points() + 1.0)
    (tmp_path / "config.toml").write_text(config)
    code, _, err = output(capsys, "--config", tmp_path / "config.toml")
    assert code == 2
    assert "its numbers have changed" in err
    assert not (tmp_path / "runs").exists()


def test_a_saved_model_is_the_fitted_one(fitted):
    """To the same bits."""
    _, folder, _ = fitted
    problem = Dataset(points(), test_share=0.2, validation_share=0.1, split_seed=4)
    config = read_config(folder)["method"]
    network = MLP(hidden=tuple(config["encoder"]["hidden"]), activation="gelu")
    method = VariationalAutoencoder(
        latents=1, variance="feature", encoder=network, decoder=network, max_steps=3, bound_samples=20
    )
    fresh = solve(problem, method, key=jax.random.split(jax.random.key(3), 3)[0]).details
    model = load_model(folder)
    assert isinstance(model, AutoencoderDetails)
    x, key = points()[:7], jax.random.key(0)
    z = fresh.encode(x).location
    np.testing.assert_array_equal(model.encode(x).location, z)
    np.testing.assert_array_equal(model.encode(x).scale, fresh.encode(x).scale)
    np.testing.assert_array_equal(model.decode(z), fresh.decode(z))
    np.testing.assert_array_equal(model.sample(key, 5), fresh.sample(key, 5))
    np.testing.assert_array_equal(model.log_evidence(x, 20).value, fresh.log_evidence(x, 20).value)


def test_progress_is_a_few_plain_lines(fitted, capsys, tmp_path):
    file, _, _ = fitted
    method = ["--latents", "1", "--variance", "feature", *SMALL, "--max-steps", "45"]
    code, out, err = output(capsys, file, *method, *DATA, "--out", tmp_path)
    lines = err.splitlines()
    assert code == 0
    assert 20 <= len(lines) <= 25
    assert lines[0].startswith("pass      1 of 45  bound ")
    assert "compiled in" in lines[0]
    assert lines[-1].startswith("pass     45 of 45")
    for words in ("held out", "bits/dim", "best pass"):
        assert words in lines[-1]
    for words in ("factor analysis with 1 latent", "latents in use: ", "nats a point (s.e.", "model:", "report:"):
        assert words in out


def test_pictures_of_categories(capsys, tmp_path):
    """Of an NPZ file that holds two arrays: no linear model stands beside them, and the report says so."""
    x = np.random.default_rng(0).integers(0, 3, size=(60, 2, 3))
    np.savez(tmp_path / "many.npz", x=x, labels=np.zeros(60))
    method = ["importance-weighted-autoencoder", "--latents", "1", *SMALL]
    code, out, _ = output(capsys, "many.npz:x", *method, "--likelihood", "categorical", "--out", "runs", "--json")
    summary = json.loads(out)
    report = (Path(summary["run"]) / "report.html").read_text()
    assert code == 0
    assert summary["margins"] == []
    assert "categorical features have no density" in summary["verdict"][0]
    assert "categorical features have no density" in report
    assert any("10 points judge it" in warning for warning in summary["warnings"])
    assert load_model(summary["run"]).decode(np.zeros((2, 1))).shape == (2, 6, 3)
    assert summary["bound"] < 0.0


@pytest.mark.parametrize("name", ["probabilistic-pca", "factor-analysis"])
def test_linear_methods_of_the_digits(capsys, tmp_path, name):
    """Evidence as of the specification (17 and 44 nats with 8 latents), loadings as pictures, an exact model saved."""
    code, out, _ = output(capsys, "digits", name, "--latents", "8", "--out", tmp_path, "--json")
    summary = json.loads(out)
    folder = Path(summary["run"])
    assert code == 0
    expected = {"probabilistic-pca": 17.0, "factor-analysis": 43.9}[name]
    assert abs(summary["evidence"]["test"] - expected) < 2.0  # other noise
    assert summary["bits"] == pytest.approx(-(summary["bound"] - 64 * np.log(17)) / (64 * np.log(2)))
    assert {path.stem for path in (folder / "plots").iterdir()} == {
        "bounds", "loadings", "noise", "samples", "reconstructions",
    }  # fmt: skip
    model = load_model(folder)
    assert isinstance(model, LinearModel)
    x = model.sample(jax.random.key(1), 4)
    assert np.all((x >= 0) & (x <= 16) & (x == np.round(x)))
    z = model.encode(x).location
    assert z.shape == (4, 8)
    assert model.decode(z).shape == (4, 64)
    assert np.mean((model.decode(z) - x) ** 2) < np.mean((x.mean(axis=0) - x) ** 2)
    assert model.log_evidence(x).shape == (4,)


def test_images_from_a_folder(capsys, tmp_path):
    """Gray PNG files of 256 levels; those of another size are named."""
    (tmp_path / "faces").mkdir()
    random = np.random.default_rng(0)
    for number in range(20):
        picture = random.integers(0, 256, size=(4, 3), dtype=np.uint8)
        matplotlib.image.imsave(tmp_path / "faces" / f"{number:02}.png", np.repeat(picture[..., None], 3, axis=2))
    code, out, _ = output(capsys, "faces", "probabilistic-pca", "--latents", "1", "--out", "runs", "--json")
    summary = json.loads(out)
    assert code == 0
    assert (summary["features"], summary["levels"]) == (12, 256)
    matplotlib.image.imsave(tmp_path / "faces" / "99.png", np.zeros((4, 4, 3), np.uint8))
    code, _, err = output(capsys, "faces", "probabilistic-pca")
    assert code == 2
    assert "00.png has 4 x 3 pixels and 99.png 4 x 4" in err


def test_constant_features_are_warned_of(capsys, tmp_path):
    rows = np.concatenate([points(), np.full((300, 1), 2.0)], axis=1)
    file = table(tmp_path / "flat.csv", rows, "a,b,c,flat")
    code, out, _ = output(capsys, file, "--latents", "1", "--variance", "feature", *SMALL, *DATA, "--out", "runs")
    assert code == 0
    assert "warning: Without variation among the points of the fit: 'flat'." in out


@pytest.mark.parametrize("status", ["interrupted", "failed"])
def test_what_stops_a_fit_is_recorded(fitted, capsys, tmp_path, monkeypatch, status):
    from optimality.cli import latent_progress

    errors = {"interrupted": KeyboardInterrupt(), "failed": RuntimeError("no more")}

    def stop(self, seen):
        if seen.step == 2:
            raise errors[status]

    monkeypatch.setattr(latent_progress.FitPrinter, "show", stop)
    _, folder, _ = fitted
    arguments = ["solve", "--config", str(folder), "--out", str(tmp_path / "runs")]
    if status == "interrupted":
        assert main(arguments) == 130
    else:
        with pytest.raises(RuntimeError, match="no more"):
            main(arguments)
    stopped = next((tmp_path / "runs").iterdir())
    assert json.loads((stopped / "run.json").read_text())["status"] == status
    assert len((stopped / "metrics.jsonl").read_text().splitlines()) == 2


def test_a_fit_that_is_not_finite(fitted, capsys, tmp_path):
    _, folder, _ = fitted
    code, _, err = output(capsys, "--config", folder, "--learning-rate", "1e30", "--max-steps", "20", "--out", "runs")
    assert code == 3
    assert "non finite" in err
    record = json.loads((next((tmp_path / "runs").iterdir()) / "run.json").read_text())
    assert record["status"] == "failed"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere.csv"], "nowhere.csv cannot be read"),
        (["nowhere", "factor-analysis"], "there is no nowhere"),
        (["bad.csv"], "bad.csv, line 3, column 2 (b): 'x' is not a finite number"),
        (["few.csv", "--columns", "a,q"], "has no column 'q'; its columns are a, b"),
        (["few.csv", "lqr"], "lqr is no method for data"),
        (["few.csv", "factor-analisys"], "did you mean factor-analysis"),
        (["few.csv", "--likelihood", "poisson"], "--likelihood is gaussian, bernoulli or categorical"),
        (["few.csv", "--likelihood", "bernoulli"], "needs integers between 0 and 1, but point 0 has 3 in 'b'"),
        (["few.csv", "--levels", "3"], "needs integers between 0 and 2, but point 0 has 3 in 'b'"),
        (["few.csv", "--levels", "1"], "--levels must be a whole number, at least 2"),
        (["few.csv", "--test-share", "0.9"], "a fit needs two points or more, but 0 of 20 are left"),
        (["few.csv", "--latents", "3"], "3 latents for 2 features"),
        (["few.csv", "factor-analysis", "--latents", "2"], "latents must be below the number of features"),
        (["cube.npy"], "shape (2, 2, 2, 2), but observations are"),
        (["nan.npy"], "observations must be finite, but point 1 has nan"),
        (["objects.npy"], "holds Python objects"),
        (["two.npz"], "holds several arrays, a, b: say which, two.npz:a"),
        (["two.npz:c"], "has no array 'c'; it has a, b"),
        (["ring", "--columns", "x"], "--columns is for tables"),
        (["ring", "lqr"], "lqr is no method for data"),
    ],
)
def test_bad_input(capsys, tmp_path, arguments, message):
    """Answered before anything is written."""
    (tmp_path / "bad.csv").write_text("a,b\n1,2\n3,x\n")
    (tmp_path / "few.csv").write_text("a,b\n" + "1,3\n0,1\n2,2\n1,1\n" * 5)
    np.save(tmp_path / "cube.npy", np.zeros((2, 2, 2, 2)))
    np.save(tmp_path / "nan.npy", np.array([[1.0, 2.0], [np.nan, 1.0], [1.0, 1.0], [2.0, 2.0]]))
    np.save(tmp_path / "objects.npy", np.array([{}, {}]), allow_pickle=True)
    np.savez(tmp_path / "two.npz", a=np.zeros((3, 2)), b=np.zeros(3))
    code, _, err = output(capsys, *arguments)
    assert code == 2
    assert message in err
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["solve", "gridworld", "variational-autoencoder"], "is a method for data, but gridworld is a table"),
        (["irl", "digits", "--demonstrations", "x"], "digits is no table"),
        (["solve", "digit"], "Did you mean digits"),
    ],
)
def test_where_it_does_not_belong(capsys, arguments, message):
    assert main(arguments) == 2
    assert message in capsys.readouterr().err


def test_help_and_list(capsys):
    assert main(["solve", "--help"]) == 0
    text = capsys.readouterr().out
    for words in ("digits", "ring", "variational-autoencoder", "factor-analysis", "--likelihood", "--columns A,B"):
        assert words in text
    assert main(["list"]) == 0
    assert "importance-weighted-autoencoder" in capsys.readouterr().out
