"""What a run of exact policy search leaves behind: its iterations in metrics, summary and page."""

import json

import pytest

import optimality as ox
from optimality.experiments.planning_run import run_planning
from optimality.experiments.policy_search_plots import plot_policy_gradient, plot_policy_search
from optimality.experiments.problem_choice import ProblemChoice


def test_iterations_are_written_and_drawn(tmp_path):
    choice = ProblemChoice("two-state", {}, ox.AverageReward())
    run, path = run_planning(choice, ox.ExactREPS(epsilon=0.1), episodes=20, sweep=False, out=tmp_path)
    rows = [json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == list(range(len(rows)))
    rewards = [row["expected_reward"] for row in rows]
    assert rewards[:6] == pytest.approx([0.75, 1.1293, 1.4976, 1.7932, 1.9682, 2.0], abs=5.1e-5)
    assert [row["kl"] for row in rows[1:5]] == pytest.approx([0.1] * 4, abs=1e-8)
    assert all(row["temperature"] >= 0.0 for row in rows[1:])
    page = (path / "report.html").read_text()
    assert f"converged after {len(rows) - 1} iterations" in page
    assert "reward per step, at most" in page
    assert "information lost (nats)" in page
    assert run.heading()[0] == "exact-reps, KL bound 0.1 an iteration, from the uniform prior"
    assert ("reward per step", "2", "at most 2 by its value") in run.rows()


def test_restarts_are_noted():
    choice = ProblemChoice("gridworld", {"map": "S.H/..G"}, ox.Discounted(0.9))
    run, _ = run_planning(choice, ox.ExactREPS(after_termination="restart"), episodes=20, sweep=False)
    assert any("starts again at once" in note for note in run.notes)
    run, _ = run_planning(choice, ox.ExactREPS(), episodes=20, sweep=False)
    assert not any("starts again at once" in note for note in run.notes)
    assert run.expected_return == pytest.approx(run.optimum, abs=1e-8)


def test_the_figure_needs_no_bounds():
    figure = plot_policy_search([{"step": 0, "expected_reward": 1.0}])
    assert len(figure.axes) == 3


def test_an_ascent_is_written_and_drawn(tmp_path):
    choice = ProblemChoice("gridworld", {"map": "S.H/..G"}, ox.Discounted(0.9))
    method = ox.ExactPolicyGradient(temperature=0.1)
    run, path = run_planning(choice, method, episodes=20, sweep=False, out=tmp_path)
    rows = [json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == list(range(len(rows)))
    assert set(rows[0]) == {"step", "objective", "gradient_norm", "expected_entropy"}
    assert set(rows[1]) == {*rows[0], "kl", "step_size"}
    assert rows[-1]["gradient_norm"] < 1e-9 < rows[0]["gradient_norm"]
    page = (path / "report.html").read_text()
    assert f"converged after {len(rows) - 1} iterations" in page
    assert "still to gain, at most" in page
    assert "norm of the gradient" in page
    assert run.heading()[0] == "exact-policy-gradient, temperature 0.1, entropy form, natural steps"
    assert "gradient norm" in [row[0] for row in run.rows()]


def test_a_plateau_is_noted():
    """Plain ascent walks back and forth away from the cliff, almost deterministic."""
    choice = ProblemChoice("CliffWalking-v1", {}, ox.Discounted(0.99))
    run, _ = run_planning(choice, ox.ExactPolicyGradient(step="gradient"), episodes=2, sweep=False)
    assert any("The gradient vanished 87.75 below the optimum" in note for note in run.notes)


def test_the_figure_of_an_ascent_needs_no_steps():
    figure = plot_policy_gradient([{"step": 0, "objective": 1.0, "gradient_norm": 0.0, "expected_entropy": 0.0}])
    assert len(figure.axes) == 4
