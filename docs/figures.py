"""What the pages show and nobody types: figures, tables, and the output of commands. Run by the build."""

import contextlib
import importlib
import io
import json
import os
import re
import shutil
import tempfile
from pathlib import Path
from unittest import mock

import jax
import matplotlib
import numpy as np
from matplotlib.figure import Figure

import optimality as ox
from optimality import registry
from optimality.cli.main import main
from optimality.experiments import plots
from optimality.experiments.decision_plots import plot_break_evens, plot_horizons
from optimality.experiments.decision_run import SHOWN_CRITERIA
from optimality.experiments.report import to_svg
from optimality.experiments.temperature_sweep import TemperatureSweep, temperature_sweep, temperatures_for
from optimality.experiments.training_report import GLOSSARY
from optimality.inverse.judging import IGNORES
from optimality.policies.weighted_fit import weighted_linear_gaussian

SHOWN = (1.0, 0.1, 0.01, 0.003, 0.001)
COMMANDS = {
    "help.txt": ["--help"],
    "solve_help.txt": ["solve", "--help"],
    "list.txt": ["list"],
    "soft_value_iteration_help.txt": ["solve", "FrozenLake-v1", "soft-value-iteration", "--help"],
    "unknown_problem.txt": ["solve", "FrozenLake"],
    "first_plan.txt": ["solve", "FrozenLake-v1"],
    "train_help.txt": ["train", "--help"],
    "ppo_help.txt": ["train", "CartPole-v1", "ppo", "--help"],
    "evaluate_help.txt": ["evaluate", "--help"],
    "demonstrate_help.txt": ["demonstrate", "--help"],
    "irl_help.txt": ["irl", "--help"],
    "play_or_not_help.txt": ["solve", "play-or-not", "--help"],
    "solve_bandit_help.txt": ["solve", "bernoulli-bandit", "--help"],
    "train_bandit_help.txt": ["train", "bernoulli-bandit", "--help"],
    "resume_help.txt": ["resume", "--help"],
    "runs_help.txt": ["runs", "--help"],
    "report_help.txt": ["report", "--help"],
    "unknown_environment.txt": ["train", "CartPol-v1"],
}
RUN = "RUN"
TRAINING = {
    "first_training.txt": ["train", "CartPole-v1", "ppo"],
    "first_evaluation.txt": ["evaluate", RUN],
    "first_runs.txt": ["runs"],
}
"""One after another in one folder; `RUN` stands for the folder of the run that the first of them made."""

DECISION = ["solve", "play-or-not", "--rewards", "games.csv:pay", "--times", "games.csv:hours", "--rate", "2.2"]


def make_all(folder: Path) -> None:
    folder.mkdir(exist_ok=True)
    for name, text in {**pictures_and_tables(), **transcripts()}.items():
        (folder / name).write_text(text, encoding="utf-8")
    make_training(folder)
    make_decision(folder)


def transcripts() -> dict[str, str]:
    """What each command prints, in a folder of its own."""
    out = {}
    for name, arguments in COMMANDS.items():
        with tempfile.TemporaryDirectory() as place:
            out[name] = printed(arguments, place)
    return out


def printed(arguments: list[str], place: str) -> str:
    """What a command prints when it is called in the folder `place`."""
    text = io.StringIO()
    with (
        contextlib.chdir(place),
        mock.patch.dict(os.environ, {"NO_COLOR": "1", "COLUMNS": "88", "TERM": "dumb"}),
        contextlib.redirect_stdout(text),
        contextlib.redirect_stderr(text),
        contextlib.suppress(SystemExit),
    ):
        main(arguments)
    return "\n".join(line.rstrip() for line in text.getvalue().splitlines()) + "\n"


def make_training(folder: Path) -> None:
    """The tutorial's run: what its commands print, its configuration and its learning curve."""
    with tempfile.TemporaryDirectory() as place:
        for name, arguments in TRAINING.items():
            runs = [str(run.relative_to(place)) for run in Path(place).glob("runs/*")]
            (folder / name).write_text(printed([runs[0] if word == RUN else word for word in arguments], place))
        run = next(Path(place).glob("runs/*"))
        shutil.copy(run / "config.toml", folder / "first_training.toml")
        shutil.copy(run / "plots" / "learning-curve.svg", folder / "first_training.svg")


def make_decision(folder: Path) -> None:
    """The decision of how_to/your_own_decision.md, from the table that the page shows: transcript and figures."""
    page = (Path(__file__).parent / "how_to" / "your_own_decision.md").read_text()
    table = re.findall(r"^```text\n(.*?)^```", page, re.DOTALL | re.MULTILINE)[0]
    with tempfile.TemporaryDirectory() as place:
        (Path(place) / "games.csv").write_text(table)
        (folder / "own_decision.txt").write_text(printed(DECISION, place))
        run = next(Path(place).glob("runs/*"))
        for name in ("break-even-rates", "more-games-to-come", "when-to-go-on"):
            shutil.copy(run / "plots" / f"{name}.svg", folder / f"own_{name.replace('-', '_')}.svg")


def play_or_not() -> dict[str, Figure]:
    """What the code of explanation/play_or_not.md finds."""
    names = names_of("explanation/play_or_not.md")
    rates = {SHOWN_CRITERIA.get(name, name): rate for name, rate in names["rates"].items()}
    details = names["solution"].details
    rates = {name: rate for name, rate in rates.items() if name}
    rates["Bayes-optimal, of at most 20 games"] = float(details.break_even)
    return {
        "play_break_evens": plot_break_evens(rates, 3.0),
        "play_horizons": plot_horizons(names["horizons"], 3.0, float(details.myopic_break_even), (20, 3.0)),
    }


def pictures_and_tables() -> dict[str, str]:
    lake = ox.TabularMDP.from_gymnasium("FrozenLake-v1")
    soft = ox.solve(lake, ox.SoftValueIteration())
    optimum = float(lake.initial @ ox.solve(lake, ox.ValueIteration()).value[0])
    sweep = temperature_sweep(lake, np.sort(np.append(temperatures_for(lake), SHOWN)))
    figures = {
        "covariance_denominators": covariance_denominators(),
        "gradient_noise": gradient_noise(),
        "own_simulator": own_simulator(),
        "single_sample": single_sample(),
        **play_or_not(),
        "linear_quadratic_posteriors": linear_quadratic_posteriors(),
        "lake_map": plots.plot_map(lake, soft.value, soft.policy),
        "lake_time": plots.plot_value_in_time(soft.value, lake.initial),
        "lake_sweep": plots.plot_temperature_sweep(sweep, optimum=optimum, temperature=0.003),
        "lake_optimism": plots.plot_optimism(lake, ox.optimism(lake, 0.1)),
    }
    drawn = {f"{name}.svg": to_svg(figure, f"{name}-") for name, figure in figures.items() if figure is not None}
    return {
        **drawn,
        "forms.md": forms(sweep),
        "exports.md": exports(),
        "criteria.md": criteria(),
        "results.md": results(),
        "metrics.md": metrics(),
        "speeds.md": speeds(),
        "linear_quadratic_speeds.md": linear_quadratic_speeds(),
        "information_projection_speeds.md": information_projection_speeds(),
        "policy_gradient_speeds.md": policy_gradient_speeds(),
        "policy_search_peers.md": policy_search_peers(),
        "sample_efficiency.md": sample_efficiency(),
        "what_judges_ignore.md": what_judges_ignore(),
        "inverse_speeds.md": inverse_speeds(),
        "bandit_regrets.md": bandit_regrets(),
        "objectworld.md": objectworld_differences(),
        "autoencoders.md": autoencoders(),
    }


def linear_quadratic_posteriors() -> Figure:
    """The exact and the restricted posterior of the example in explanation/lqr_as_inference.md: states, objectives
    against the noise, and the distance of their gains."""

    def posteriors(noise):
        problem = ox.LinearQuadratic(
            1.0, 1.0, 1.0, 1.0, criterion=ox.FiniteHorizon(8), Qf=1.0, W=noise, initial_mean=[2.0]
        )
        methods = ox.LinearQuadraticInference(temperature=1.0), ox.MaximumEntropyLQR(temperature=1.0)
        return problem, *(ox.solve(problem, method) for method in methods)

    noises, small = np.linspace(0.0, 1.0, 11), np.logspace(-6.0, 0.0, 13)
    objectives, gaps = [], []
    for noise in noises:
        problem, exact, soft = posteriors(noise)
        truth = np.sum(exact.policy.entropy()) - ox.policy_cost(problem, exact.policy).expected_cost
        objectives.append((float(exact.details.log_evidence), float(soft.details.elbo), float(truth)))
    for noise in small:
        _, exact, soft = posteriors(noise)
        gaps.append(float(exact.policy.K[0, 0, 0] - soft.policy.K[0, 0, 0]))
    problem, exact, soft = posteriors(0.5)
    kept, real = (ox.marginals(problem, found.policy) for found in (soft, exact))
    believed = exact.details.smoothed

    with matplotlib.rc_context(plots.STYLE):
        figure = Figure(figsize=(10.5, 3.4), layout="constrained")
        left, middle, right = figure.subplots(1, 3)
        for law, color, label in ((kept, plots.BLUE, "dynamics kept"), (believed, plots.ORANGE, "exact, as believed")):
            mean, deviation = law.mean[:, 0], np.sqrt(law.covariance[:, 0, 0])
            left.plot(mean, color=color, label=label)
            left.fill_between(np.arange(9), mean - 2 * deviation, mean + 2 * deviation, color=color, alpha=0.18, lw=0)
        for sign, label in ((-2.0, None), (2.0, "exact, in truth")):
            edge = real.mean[:, 0] + sign * np.sqrt(real.covariance[:, 0, 0])
            left.plot(edge, color=plots.ORANGE, linestyle="--", linewidth=1.0, label=label)
        left.set(title="state, mean and 2 deviations", xlabel="step", ylim=(-5.0, 3.5))
        promised, best, truth = np.array(objectives).T
        middle.plot(noises, promised, color=plots.ORANGE, label="exact, as believed")
        middle.plot(noises, best, color=plots.BLUE, label="dynamics kept: the best there is")
        middle.plot(noises, truth, color=plots.ORANGE, linestyle="--", label="exact, in truth")
        middle.set(title="objective", xlabel="noise W", ylim=(-11.0, 1.0))
        right.loglog(small, gaps, color=plots.ORANGE, marker="o", markersize=2.5, linewidth=1.2, label="exact")
        right.loglog(small, small * gaps[0] / small[0], color=plots.GRAY, linestyle=":", label="slope 1")
        right.set(title="first gain less the regulator's", xlabel="noise W")
        for axes, place in ((left, "lower left"), (middle, "lower left"), (right, "upper left")):
            axes.legend(fontsize=7.5, loc=place)
    return figure


def names_of(page: str, blocks: int | None = None) -> dict:
    """What the first code blocks of a page define."""
    text = (Path(__file__).parent / page).read_text()
    names: dict = {}
    with contextlib.redirect_stdout(io.StringIO()):
        for block in re.findall(r"^```python\n(.*?)^```", text, re.DOTALL | re.MULTILINE)[:blocks]:
            exec(block, names)
    return names


def gradient_noise() -> Figure:
    """What the code of explanation/policy_gradients.md measures."""
    names = names_of("explanation/policy_gradients.md", 2)
    noise = names["noise_of"]
    with matplotlib.rc_context(plots.STYLE):
        figure = Figure(figsize=(6.4, 2.4), layout="constrained")
        axes = figure.subplots()
        axes.barh(list(noise), list(noise.values()), color=plots.BLUE, height=0.6)
        size = float(np.linalg.norm(names["exact"].gradient))
        axes.axvline(size, color=plots.ORANGE, linestyle="--", label="norm of the gradient")
        axes.invert_yaxis()
        axes.set(title="standard deviation of the gradient of one episode")
        axes.legend(fontsize=7.5)
    return figure


def single_sample() -> Figure:
    """What the code of explanation/relative_entropy_policy_search.md reaches with few next states."""
    reached = names_of("explanation/relative_entropy_policy_search.md")["reached"]
    with matplotlib.rc_context(plots.STYLE):
        figure = Figure(figsize=(5.6, 2.6), layout="constrained")
        axes = figure.subplots()
        for place, rewards in enumerate(reached.values()):
            axes.plot(np.full(len(rewards), place), rewards, "o", color=plots.BLUE, alpha=0.5, markersize=4.0)
        axes.plot([np.mean(rewards) for rewards in reached.values()], color=plots.BLUE)
        axes.set_xticks(range(len(reached)), ["expectation" if draws is None else str(draws) for draws in reached])
        axes.set(xlabel="next states averaged", title="average reward after ten updates, five seeds")
    return figure


def own_simulator() -> Figure:
    """What the code of how_to/your_own_simulator.md learns: that very code is run."""
    names = names_of("how_to/your_own_simulator.md")
    targets = np.linspace(2.0, 8.0, 61)
    means = np.array([names["search"].mean(names["features"](target)) for target in targets])
    deviations = np.sqrt(np.diag(names["search"].covariance))
    with matplotlib.rc_context(plots.STYLE):
        figure = Figure(figsize=(9.6, 3.0), layout="constrained")
        learning, *laws = figure.subplots(1, 3)
        learning.plot(names["returns_of_updates"], color=plots.BLUE, label="one target")
        learning.plot(names["returns_of_contextual_updates"], color=plots.ORANGE, label="changing targets")
        learning.set(title="mean return of 50 throws", xlabel="update")
        learning.legend(fontsize=7.5)
        for axes, mean, deviation, title in zip(laws, means.T, deviations, ("angle (rad)", "speed (m/s)"), strict=True):
            band = mean - 2 * deviation, mean + 2 * deviation
            axes.fill_between(targets, *band, color=plots.ORANGE, alpha=0.25, linewidth=0.0)
            axes.plot(targets, mean, color=plots.ORANGE)
            axes.set(title=title, xlabel="target (m)")
    return figure


def covariance_denominators() -> Figure:
    """Means of the fitted variance, which is 1, over 2,000 batches of 20 samples: for each denominator and number of
    features with weights that were fixed before, and for weights of the actions against the width of the weighted law.
    """
    names = {
        "maximum_likelihood": ("maximum likelihood", plots.BLUE),
        "intercept_correction": ("intercept correction", plots.ORANGE),
        "general_correction": ("general correction", plots.GREEN),
    }
    rng = np.random.default_rng(0)
    log_weights, states = rng.normal(size=20), rng.normal(size=(20, 7))
    batches = rng.normal(size=(20, 2000))
    sizes, temperatures = (1, 3, 8), np.logspace(0.5, -1.5, 9)

    with matplotlib.rc_context(plots.STYLE):
        figure = Figure(figsize=(9.0, 3.4), layout="constrained")
        left, right = figure.subplots(1, 2)
        for place, (name, (label, color)) in enumerate(names.items()):
            # each batch is one column of actions: they share features and weights
            variances = [
                np.diagonal(
                    weighted_linear_gaussian(
                        np.column_stack([np.ones(20), states])[:, :k],
                        batches,
                        log_weights,
                        structure="diagonal",
                        covariance=name,
                    ).covariance
                )
                for k in sizes
            ]
            at = np.arange(3) + 0.27 * (place - 1)
            errors = [2 * v.std() / v.size**0.5 for v in variances]
            left.bar(at, [v.mean() for v in variances], 0.25, color=color, label=label, yerr=errors)
        left.axhline(1.0, color=plots.GRAY, linestyle=":")
        left.set(title="weights fixed before: mean fitted variance", xlabel="features", ylim=(0.0, 1.6))
        left.set_xticks(range(3), [str(k) for k in sizes])
        for name in ("maximum_likelihood", "intercept_correction"):
            fit = jax.vmap(
                lambda a, tau, name=name: weighted_linear_gaussian(
                    np.ones((20, 1)), a[:, None], -(a**2) / (2 * tau), covariance=name
                ).covariance[0, 0],
                in_axes=(1, None),
            )
            ratios = [np.mean(fit(batches, tau)) * (1 + 1 / tau) for tau in temperatures]
            right.semilogx(temperatures, ratios, color=names[name][1], marker="o", markersize=3, label=names[name][0])
        right.axhline(1.0, color=plots.GRAY, linestyle=":")
        right.set(title="weights of the actions: fitted over true variance", xlabel="temperature", ylim=(0.6, 1.6))
        for axes in (left, right):
            axes.legend(fontsize=7.5, loc="upper left" if axes is left else "upper right")
    return figure


def forms(sweep: TemperatureSweep) -> str:
    """Return and entropy of both forms on FrozenLake at a few temperatures."""
    rows = [
        "| temperature | return, entropy form | entropy, nats | return, KL form | entropy, nats |",
        "| ---: | ---: | ---: | ---: | ---: |",
    ]
    for temperature in SHOWN:
        at = int(np.argmin(np.abs(sweep.temperature - temperature)))
        entropy_form = f"{sweep.entropy_form_return[at]:.3f} | {sweep.entropy_form_entropy[at]:.2f}"
        kl_form = f"{sweep.kl_form_return[at]:.3f} | {sweep.kl_form_entropy[at]:.2f}"
        rows.append(f"| {temperature:g} | {entropy_form} | {kl_form} |")
    return "\n".join(rows) + "\n"


def exports() -> str:
    """What `import optimality as ox` offers, by page."""
    rows = ["| name | where it is described |", "| --- | --- |"]
    for name, module in registry.EXPORTS.items():
        folder = module.split(".")[1]
        rows.append(f"| `ox.{name}` | [{module}]({folder}.md) |")
    return "\n".join(rows) + "\n"


def criteria() -> str:
    """Which criteria each method takes, from the classes."""
    names = [entry.attribute for entry in registry.CRITERIA]
    rows = ["| method | " + " | ".join(f"`{name}`" for name in names) + " |", "| --- |" + " :---: |" * len(names)]
    for entry in (*registry.METHODS, *registry.EVALUATION):
        method = getattr(importlib.import_module(entry.module), entry.attribute)
        if not hasattr(method, "accepts"):
            continue
        accepts = {kind.__name__ for kind in method.accepts}
        rows.append(f"| `{entry.attribute}` | " + " | ".join("yes" if n in accepts else "" for n in names) + " |")
    return "\n".join(rows) + "\n"


def results() -> str:
    """Every way in which a computation can end, with its sentence."""
    rows = ["| result | sentence |", "| --- | --- |"]
    rows += [f"| `{result.name}` | {result.sentence} |" for result in ox.Result]
    return "\n".join(rows) + "\n"


def speeds() -> str:
    """The newest measurement of each case of benchmarks/driver.py, floors and peers beside it."""
    lines = (Path(__file__).parents[1] / "benchmarks" / "results" / "driver.jsonl").read_text().splitlines()
    newest = {(row["kind"], row["case"]): row for row in map(json.loads, lines) if row["nproc"] == "1"}
    names = {"ppo": "PPO", "dqn": "DQN", "dqn-1m": "DQN, replay of 10^6"}
    table = ["| | steps/s | of its floor | times SB3 | compile s | peak MB | to a return of 475 |"]
    table.append("| --- | --- | --- | --- | --- | --- | --- |")
    for method, name in names.items():
        peer = newest["speed", f"{method}-sb3"]
        for side, where in (("compiled", "compiled"), ("gymnasium", "Gymnasium")):
            row = newest["speed", f"{method}-ours-{side}"]
            floor = newest.get(("speed", f"{method}-floor-{side}"))
            share = (
                f"{row['best_steps_per_s'] / floor['best_steps_per_s']:.2f} of {floor['best_steps_per_s']:,}"
                if floor
                else ""
            )
            times = f"{row['best_steps_per_s'] / peer['best_steps_per_s']:.1f}"
            cells = [f"{row['best_steps_per_s']:,}", share, times, f"{row['compile_s']:.1f}", str(row["peak_mb"])]
            table.append(f"| {name}, {where} | {' | '.join(cells)} | {reached(newest, f'{method}-ours-{side}')} |")
        cells = [f"{peer['best_steps_per_s']:,}", "", "1", "", str(peer["peak_mb"])]
        table.append(f"| {name}, SB3 2.9 | {' | '.join(cells)} | {reached(newest, f'{method}-sb3')} |")
    row = newest["speed", "ppo-ours-compiled"]
    return "\n".join(table) + f"\n\nCommit {row['commit']}; {row['machine']}; two cores, one thread of XLA and torch.\n"


def linear_quadratic_speeds() -> str:
    """The last run of benchmarks/linear_quadratic.py, ours beside the peers that did the same work."""
    path = Path(__file__).parents[1] / "benchmarks" / "results" / "linear_quadratic.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    peers = {
        "numpy_ms": "NumPy",
        "lapack_ms": "NumPy tuned to LAPACK",
        "scan_ms": "`scan` with `dot`",
        "autodiff_ms": "autodiff through the scan",
        "dynamax_ms": "dynamax",
        "scipy_ms": "SciPy",
        "control_ms": "python-control",
    }
    table = ["| milliseconds | ours | by `solve` | first call, s | others | times faster |"]
    table.append("| --- | --- | --- | --- | --- | --- |")
    for row in rows:
        others = {name: row[key] for key, name in peers.items() if row.get(key) is not None}
        listed = ", ".join(f"{name} {value:.3g}" for name, value in others.items())
        times = ", ".join(f"{value / row['ms']:.2g}" for value in others.values())
        by_solve = f"{row['solve_ms']:.3g}" if "solve_ms" in row else ""
        table.append(f"| {row['case']} | {row['ms']:.3g} | {by_solve} | {row['compile_s']:.1f} | {listed} | {times} |")
    row = rows[0]
    return "\n".join(table) + f"\n\nCommit {row['commit']}; {row['machine']}; one thread each.\n"


def policy_gradient_speeds() -> str:
    """The newest figures of benchmarks/policy_gradients.py: one estimate beside its floor, and TRPO beside a peer."""
    lines = (Path(__file__).parents[1] / "benchmarks" / "results" / "policy_gradients.jsonl").read_text().splitlines()
    newest = {(row["kind"], row["case"]): row for row in map(json.loads, lines)}
    table = ["| one gradient from | ours, ms of CPU | floor | ratio | with its noise | memory, MB |"]
    table.append("| --- | --- | --- | --- | --- | --- |")
    for (kind, case), row in newest.items():
        if kind == "estimate":
            memory = f"{digits(row['ours_mb'])}, {digits(row['floor_mb'])}"
            times = f"{digits(row['ours_ms'])} | {digits(row['floor_ms'])}"
            table.append(f"| {case} | {times} | {row['ratio']:.2f} | {row['ratio_with_noise']:.2f} | {memory} |")
    table += ["", "| TRPO | seeds that reach it | median steps | median seconds |", "| --- | --- | --- | --- |"]
    for (kind, case), row in newest.items():
        if kind == "learning":
            none = row["median_steps"] is None
            steps = "" if none else f"{row['median_steps']:,.0f} | {digits(row['median_seconds'])}"
            table.append(f"| {case} | {row['reached']} | {steps or '— | —'} |")
    last = next(reversed(newest.values()))
    return "\n".join(table) + f"\n\nCommit {last['commit']}; {last['machine']}; one thread.\n"


def digits(number: float) -> str:
    """Three of them, without an exponent."""
    return f"{number:,.0f}" if number >= 100.0 else f"{number:.3g}"


def what_judges_ignore() -> str:
    """Measures of a recovered reward, and what each does not see."""
    rows = [f"| `{name}` | {blind} |" for name, blind in IGNORES.items()]
    return "\n".join(["| measure | what it does not see |", "| --- | --- |", *rows]) + "\n"


def objectworld_differences() -> str:
    """The newest figures of benchmarks/objectworld.py: a linear reward beside a network."""
    lines = (Path(__file__).parents[1] / "benchmarks" / "results" / "objectworld.jsonl").read_text().splitlines()
    newest = {(row["features"], row["demonstrations"], row["reward"]): row for row in map(json.loads, lines)}
    table = ["| features | demonstrations | linear | network |", "| --- | --- | --- | --- |"]
    for features, number in dict.fromkeys(key[:2] for key in newest):
        rows = [newest[features, number, kind] for kind in ("linear", "network")]
        cells = " | ".join(f"{row['difference']:.3f} ± {row['standard_error']:.3f}" for row in rows)
        table.append(f"| {features} | {number} | {cells} |")
    last = next(reversed(newest.values()))
    return "\n".join(table) + f"\n\nMean and standard error of {last['worlds']} worlds. Commit {last['commit']}.\n"


def bandit_regrets() -> str:
    """The newest figures of benchmarks/bandits.py: regret beside the published means, and seconds."""
    lines = (Path(__file__).parents[1] / "benchmarks" / "results" / "bandits.jsonl").read_text().splitlines()
    newest = {(row["measurement"], row["policy"]): row for row in map(json.loads, lines)}
    table = ["| policy | regret after 1,000 pulls | published | 10 % to 95 % of runs | runs | seconds of CPU |"]
    table.append("| --- | --- | --- | --- | --- | --- |")
    for (measurement, policy), row in newest.items():
        if measurement == "published table":
            mean = f"{row['regret']:.1f} ± {row['half_width_95']:.1f}"
            spread = f"{row['quantiles'][0]:.0f} to {row['quantiles'][-1]:.0f}"
            table.append(
                f"| `{policy}` | {mean} | {row['published']} | {spread} | {row['runs']:,} | {row['cpu_s']:.1f} |"
            )
    speeds = ", ".join(
        f"`{policy}` {row['cpu_ns_a_round']:.0f} ns ({row['numpy_cpu_ns_a_round']:.0f} ns by vectorized NumPy)"
        for (measurement, policy), row in newest.items()
        if measurement == "speed"
    )
    last = next(reversed(newest.values()))
    text = f"A round of a run takes, in CPU time: {speeds}. Commit {last['commit']}; {last['machine']}."
    return "\n".join(table) + f"\n\n{text}\n"


def autoencoders() -> str:
    """The newest figures of benchmarks/latent.py: nats over the exact linear laws, and milliseconds a pass."""
    lines = (Path(__file__).parents[1] / "benchmarks" / "results" / "latent.jsonl").read_text().splitlines()
    rows = [json.loads(line) for line in lines]
    table = ["| data | deviation | bound, nats | bound of 2,000 samples | over the linear law | seconds of CPU |"]
    table.append("| --- | --- | --- | --- | --- | --- |")

    def mean(pair):
        return f"{pair[0]:.2f} ± {pair[1]:.2f}"

    for row in (row for row in rows if row["measurement"] in ("digits", "ring")):
        margins = row["margin"] if isinstance(row["margin"], dict) else {"full_covariance": row["margin"]}
        over = "; ".join(f"{name.replace('_', ' ')} {mean(pair)}" for name, pair in margins.items())
        bounds = f"{mean(row['elbo'])} | {mean(row['importance_weighted_2000'])}"
        table.append(f"| {row['measurement']} | {row['variance']} | {bounds} | {over} | {row['cpu_s_a_fit']:.0f} |")
    speed = next(row for row in rows if row["measurement"] == "speed")
    text = (
        f"Held-out nats a point, mean and half a 95 % interval of three seeds. A pass of ten updates (64-256-256-8, "
        f"batches of 128) takes {speed['cpu_ms_a_pass']} ms of CPU; the bare arithmetic {speed['floor_cpu_ms']}, "
        f"numpyro {speed['numpyro_cpu_ms']}, a bare PyTorch loop {speed['torch_cpu_ms']}; the first call "
        f"{speed['first_call_s']} s. Commit {speed['commit']}; {speed['machine']}; one core."
    )
    return "\n".join(table) + f"\n\n{text}\n"


def inverse_speeds() -> str:
    """The newest figures of benchmarks/inverse_exact.py."""
    lines = (Path(__file__).parents[1] / "benchmarks" / "results" / "inverse_exact.jsonl").read_text().splitlines()
    newest = {row["case"]: row for row in map(json.loads, lines)}
    table = ["| one gradient, ms of CPU | ours | SciPy CSR | memory floor | imitation 1.0.1 | compile, s |"]
    table.append("| --- | --- | --- | --- | --- | --- |")
    for case, row in newest.items():
        if row["kind"] == "gradient":
            floor = digits(row["floor_ms"]) if "floor_ms" in row else "—"
            peer = (
                f"{digits(row['imitation_ms'])} ({row['imitation_ratio']:.0f} times)" if "imitation_ms" in row else "—"
            )
            scipy = f"{digits(row['scipy_ms'])} ({row['scipy_ratio']:.1f} times)"
            table.append(f"| {case} | {digits(row['ours_ms'])} | {scipy} | {floor} | {peer} | {row['compile_s']:.1f} |")
    table += ["", "| whole fit | seconds of CPU | first call | evaluations | correlation | memory, MB |"]
    table.append("| --- | --- | --- | --- | --- | --- |")
    for case, row in newest.items():
        if row["kind"] == "fit":
            numbers = f"{row['cpu_s']} | {row['first_call_s']} | {row['evaluations']} | {row['correlation']}"
            table.append(f"| {case} | {numbers} | {row['peak_mb']:,} |")
    last = next(reversed(newest.values()))
    return "\n".join(table) + f"\n\nCommit {last['commit']}; {last['machine']}; one thread.\n"


def information_projection_speeds() -> str:
    """The last run of each case of benchmarks/information_projection.py, and what it counted on random problems."""
    path = Path(__file__).parents[1] / "benchmarks" / "results" / "information_projection.jsonl"
    newest = {row["case"]: row for row in map(json.loads, path.read_text().splitlines())}
    table = [
        "| milliseconds of CPU | ours | floor | L-BFGS-B, whitened | L-BFGS-B, defaults | residuals | compile, s |"
    ]
    table.append("| --- | --- | --- | --- | --- | --- | --- |")
    counted = next(row for case, row in newest.items() if "random" in case)
    for case, row in newest.items():
        if row is counted:
            continue
        names = ("", "whitened_", "raw_")
        ours, whitened, raw, floor = (digits(row[name]) for name in (*(f"{n}cpu_ms" for n in names), "floor_ms"))
        raw += "" if row["raw_success"] else " (stopped)"
        residuals = ", ".join(f"{row[f'{name}residual_sd']:.0e}" for name in names)
        table.append(f"| {case} | {ours} | {floor} | {whitened} | {raw} | {residuals} | {row['compile_s']:.0f} |")
    kinds = ("converged", "constraint_inactive", "collapsed", "infeasible", "below_minimal_kl", "iteration_limit")
    listed = ", ".join(f"{counted[kind]} `{kind.upper()}`" for kind in kinds if counted.get(kind))
    solvable, successes = counted["raw_successes_solvable"], counted["raw_successes"]
    verdict = (
        f"{counted['case']}: {listed}; the largest gradient of those that converged is "
        f"{counted['largest_gradient']:.0e}. On them L-BFGS-B with its defaults reports {solvable} successes, "
        f"{counted['raw_wrong_solvable']} of them wrong (residual above 1e-3 deviations or divergence off by more than "
        f"1 %); whitened {counted['whitened_successes_solvable']}, {counted['whitened_wrong_solvable']} wrong. On the "
        f"others, which end elsewhere, it still reports {successes - solvable} and "
        f"{counted['whitened_successes'] - counted['whitened_successes_solvable']}."
    )
    source = f"Commit {counted['commit']}; {counted['machine']}; one thread."
    return "\n".join(table) + f"\n\n{verdict}\n\n{source}\n"


def policy_search_peers() -> str:
    """The newest figures of benchmarks/reps.py: returns in MushroomRL's example, and the time of an update."""
    lines = (Path(__file__).parents[1] / "benchmarks" / "results" / "reps.jsonl").read_text().splitlines()
    newest = {(row["kind"], row["case"], row.get("epsilon")): row for row in map(json.loads, lines)}
    learned = [row for (kind, *_), row in newest.items() if kind == "learning"]
    table = ["| bound | fit | return, mean of 10 seeds with 95 % interval |", "| --- | --- | --- |"]
    for row in sorted(learned, key=lambda row: row["epsilon"]):
        table.append(f"| {row['epsilon']} | {row['case']} | {row['return']:.1f} ± {row['interval']:.1f} |")
    table += ["", "| CPU milliseconds | plain fit | bounded fit | MushroomRL | times faster | floor |"]
    table.append("| --- | --- | --- | --- | --- | --- |")
    for (kind, case, _), row in newest.items():
        if kind == "update":
            ours = f"{row['plain_cpu_ms']:.3g} | {row['bounded_cpu_ms']:.3g}"
            theirs, times = "LinAlgError", ""
            if "mushroom_cpu_ms" in row:
                theirs = f"{row['mushroom_cpu_ms']:.3g}"
                times = f"{row['times_plain']:.2g}, {row['times_bounded']:.2g}"
            table.append(f"| {case} | {ours} | {theirs} | {times} | {row['floor_cpu_ms']:.2g} |")
    row = next(row for row in newest.values() if "mushroom" in row)
    return (
        "\n".join(table)
        + f"\n\nCommit {row['commit']}; {row['machine']}; MushroomRL {row['mushroom']}; one thread each.\n"
    )


def sample_efficiency() -> str:
    """The newest figures of benchmarks/sample_efficiency.py: transitions needed, and by how many of the seeds."""
    lines = (Path(__file__).parents[1] / "benchmarks" / "results" / "sample_efficiency.jsonl").read_text().splitlines()
    newest = {(row["case"], row["learner"]): row for row in map(json.loads, lines)}
    learners = list(dict.fromkeys(learner for _, learner in newest))
    table = [f"| transitions needed | {' | '.join(learners)} |", "| --- |" + " --- |" * len(learners)]
    for case in dict.fromkeys(case for case, _ in newest):
        cells = []
        for row in (newest[case, learner] for learner in learners):
            median, low, high = ("never" if row[x] is None else f"{row[x]:,}" for x in ("median", "low", "high"))
            missing = "" if row["arrived"] == row["seeds"] else f"; {row['arrived']} of {row['seeds']} seeds"
            cells.append(f"{median} ({low} to {high}){missing}" if row["arrived"] else "never")
        table.append(f"| {case} | {' | '.join(cells)} |")
    row = next(iter(newest.values()))
    return "\n".join(table) + f"\n\nCommit {row['commit']}; {row['machine']}.\n"


def reached(newest: dict, case: str) -> str:
    row = newest.get(("learning", case))
    if row is None or row["median_steps"] is None:
        return "" if row is None else row["reached"]
    return f"{row['reached']}; median {row['median_steps']:,.0f} steps, {row['median_seconds']:.1f} s"


def metrics() -> str:
    """What each column of `metrics.jsonl` means, as the reports say it."""
    bar = "\\|"  # one alone would end the cell
    rows = ["| metric | meaning |", "| --- | --- |"]
    rows += [f"| `{name}` | {meaning.replace('|', bar)} |" for name, meaning in GLOSSARY.items()]
    return "\n".join(rows) + "\n"


if __name__ == "__main__":
    make_all(Path(__file__).parent / "_generated")
