"""Run folders, saved policies, sweeps and plots."""

import json

import numpy as np
import pytest
from matplotlib.figure import Figure

import optimality as ox
from optimality.experiments import plots
from optimality.experiments.report import format_number, to_svg
from optimality.experiments.run_folder import RunFolder, failures_noted, read_config, require_writable, to_json
from optimality.experiments.saved_policy import FILE, load_policy, policy_bytes
from optimality.experiments.statistics import mean_interval
from optimality.experiments.temperature_sweep import is_small, temperature_sweep


def test_life_of_a_folder(tmp_path):
    folder = RunFolder.create(
        tmp_path, method="m", problem="module:Env/v1", seed=3, config={"problem": {"kind": "chain"}}, command=["x"]
    )
    assert folder.path.name.split("-", 1)[1].startswith("m-module_Env_v1-s3-")
    assert json.loads((folder.path / "run.json").read_text())["status"] == "running"
    folder.finish("finished", summary={"z": float("inf")})
    record = json.loads((folder.path / "run.json").read_text())
    assert (record["status"], record["summary"]) == ("finished", {"z": None})
    assert [json.loads(line)["event"] for line in (folder.path / "events.jsonl").read_text().splitlines()] == [
        "started",
        "finished",
    ]
    assert read_config(folder.path)["problem"] == {"kind": "chain"}
    assert not list(folder.path.glob("*.tmp-*"))


@pytest.mark.parametrize(
    ("error", "status", "said"),
    [(KeyboardInterrupt(), "interrupted", None), (ValueError("too far"), "failed", "ValueError: too far")],
)
def test_what_goes_wrong_is_noted_and_raised(error, status, said, tmp_path):
    folder = RunFolder.create(tmp_path, method="m", problem="p", seed=0, config={}, command=[])
    with pytest.raises(type(error)), failures_noted(folder):
        raise error
    record = json.loads((folder.path / "run.json").read_text())
    assert (record["status"], record.get("error")) == (status, said)
    with pytest.raises(type(error)), failures_noted(None):
        raise error


def test_unwritable_folders(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="cannot write to the folder"):
        require_writable(tmp_path / "file" / "runs")


def test_json_is_strict():
    assert json.loads(to_json({"a": np.array([1.0, np.nan]), "b": np.int64(3), "c": (True, None)})) == {
        "a": [1.0, None],
        "b": 3,
        "c": [True, None],
    }


@pytest.mark.parametrize("shape", [(3, 2), (4, 3, 2)])
def test_policies_come_back_to_the_bit(shape, tmp_path):
    random = np.random.default_rng(0)
    probabilities = random.dirichlet(np.ones(shape[-1]), shape[:-1])
    probabilities[..., 0, :] = [0.0, 1.0]
    policy = ox.TabularPolicy.from_probabilities(probabilities)
    (tmp_path / FILE).write_bytes(policy_bytes(policy))
    np.testing.assert_array_equal(load_policy(tmp_path).log_probabilities, policy.log_probabilities)


@pytest.mark.parametrize("damage", ["missing", "truncated", "other"])
def test_damaged_policies_are_named(damage, tmp_path):
    data = policy_bytes(ox.TabularPolicy.from_probabilities(np.full((2, 2), 0.5)))
    path = tmp_path / FILE
    if damage == "truncated":
        path.write_bytes(data[:-5])
    if damage == "other":
        from safetensors.numpy import save

        path.write_bytes(save({"log_probabilities": np.zeros((1, 1))}, metadata={"kind": "network"}))
    with pytest.raises(ValueError, match=FILE):
        load_policy(path)


def test_sweep_equals_single_solves():
    mdp = ox.TabularMDP.from_gymnasium("FrozenLake-v1")
    sweep = temperature_sweep(mdp, np.array([0.003, 0.1]))
    for i, temperature in enumerate((0.003, 0.1)):
        for prior, returns in (("none", sweep.entropy_form_return), ("uniform", sweep.kl_form_return)):
            policy = ox.solve(mdp, ox.SoftValueIteration(temperature=temperature, prior=prior)).policy
            exact = ox.solve(ox.UnderPolicy(mdp, policy)).details.expected_return
            assert returns[i] == pytest.approx(float(exact), abs=1e-12)
        inferred = ox.solve(mdp, ox.VariationalInference(temperature=temperature)).details
        assert sweep.elbo[i] == pytest.approx(float(inferred.elbo), rel=1e-12)
        assert sweep.log_evidence[i] == pytest.approx(float(inferred.log_evidence), rel=1e-12)
    np.testing.assert_allclose(sweep.entropy_form_return, [0.737, 0.231], atol=5e-4)


def test_sweep_leaves_gaps_where_the_soft_value_is_infinite():
    sweep = temperature_sweep(ox.TabularMDP.from_gymnasium("CliffWalking-v1"), np.array([0.1, 5.0]))
    assert np.isfinite(sweep.entropy_form_return[0])
    assert np.isnan(sweep.entropy_form_return[1])
    assert np.isfinite(sweep.kl_form_return).all()


def test_what_is_small():
    assert is_small(ox.chain(criterion=ox.FiniteHorizon(10)))
    assert not is_small(ox.TabularMDP.from_gymnasium("Taxi-v4"))


def test_every_plot_draws():
    grid = ox.gridworld(criterion=ox.FiniteHorizon(12))
    table = ox.random_mdp(6, 2, 2, criterion=ox.Discounted(0.9))
    in_time, fixed = ox.solve(grid), ox.solve(table, ox.SoftValueIteration(temperature=0.1))
    returns = np.array([0.0, 1.0, 1.0])
    figures = [
        plots.plot_map(grid, in_time.value, in_time.policy),
        plots.plot_map(table, fixed.value, fixed.policy),
        plots.plot_map(ox.deep_sea(4), ox.solve(ox.deep_sea(4)).value),
        plots.plot_value_in_time(in_time.value, grid.initial),
        plots.plot_convergence(fixed.stats["trace"], 1e-12),
        plots.plot_returns(returns, mean_interval(returns), 0.7),
        plots.plot_temperature_sweep(temperature_sweep(table, np.array([0.1, 1.0])), optimum=1.0, temperature=0.3),
        plots.plot_optimism(grid, ox.optimism(grid, 0.3)),
    ]
    for figure in figures:
        assert isinstance(figure, Figure)
        assert to_svg(figure).count("<svg") == 1
    assert plots.plot_map(ox.random_mdp(70, 2, 2, criterion=ox.Discounted(0.9)), np.zeros(70)) is None


def test_svg_is_the_same_to_the_byte():
    values = np.linspace(0.0, 1.0, 5)
    svg = [to_svg(plots.plot_map(ox.chain(criterion=ox.FiniteHorizon(3)), values), prefix="f-") for _ in range(2)]
    assert svg[0] == svg[1]
    assert 'id="f-' in svg[0]


@pytest.mark.parametrize(("value", "text"), [(None, "–"), (float("nan"), "–"), (0.73736, "0.7374"), (3, "3")])
def test_format_number(value, text):
    assert format_number(value) == text
