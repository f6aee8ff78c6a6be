"""`optimality evaluate`: episodes by the mode and by drawing, and one to look at."""

from pathlib import Path
from typing import Any

from optimality.cli.main import complain
from optimality.cli.options import literals, take_flag, take_group, take_option, whole
from optimality.cli.train import failed
from optimality.environments.from_gymnasium import EnvironmentFailure
from optimality.experiments.evaluation import Evaluation, evaluate, render_episode
from optimality.experiments.report import format_number
from optimality.experiments.run_folder import read_config, to_csv, to_json
from optimality.experiments.saved_policy import load_policy
from optimality.sampling.acting import ActingPolicy


def evaluate_command(arguments: list[str]) -> int:
    """Exit codes: 0, 2 for bad input, 3 where the environment failed."""
    try:
        as_json, arguments = take_flag(arguments, "json")
        which, arguments = take_option(arguments, "which")
        episodes, arguments = take_option(arguments, "episodes")
        seed, arguments = take_option(arguments, "seed")
        backend, arguments = take_option(arguments, "environment-backend")
        options, arguments = take_group(arguments, "environment")
        render, arguments = _render(arguments)
        if not arguments or len(arguments) > 2 or any(word.startswith("-") for word in arguments):
            raise ValueError("evaluate takes a run folder, perhaps an ENVIRONMENT, and the options of --help.")
        path = Path(arguments[0])
        environment = arguments[1] if len(arguments) == 2 else None
        found = evaluate(
            path,
            environment,
            episodes=whole("episodes", episodes, 100, 1),
            seed=whole("seed", seed, 0, 0),
            which=which or "last",
            backend=backend,
            options=literals(options),
        )
        shown = None if render is None else _show(path, environment, which or "last", render, seed, literals(options))
        _write(path, which or "last", found)
    except ValueError as error:
        return complain(str(error))
    except (EnvironmentFailure, OSError) as error:
        return failed(error)
    _print(found, shown, as_json)
    return 0


def _render(arguments: list[str]) -> tuple[str | None, list[str]]:
    """`--render` alone writes a GIF into the run folder; `--render human` opens a window."""
    if "--render" in arguments:
        place = arguments.index("--render")
        following = arguments[place + 1 : place + 2]
        if following == ["human"] or (following and following[0].endswith(".gif")):
            return following[0], arguments[:place] + arguments[place + 2 :]
        return "gif", arguments[:place] + arguments[place + 1 :]
    return None, arguments


def _show(path: Path, environment: str | None, which: str, render: str, seed: str | None, options: Any) -> str:
    policy = load_policy(path, which)
    assert isinstance(policy, ActingPolicy)
    name = environment or read_config(path)["environment"].get("kind")
    if name is None:
        raise ValueError("--render needs an environment by its id.")
    target = {"human": None, "gif": path / "evaluation" / "episode.gif"}.get(render, Path(render))
    steps = render_episode(policy, name, target, seed=whole("seed", seed, 0, 0), options=options)
    return f"{steps} steps shown" if target is None else f"{steps} steps in {target}"


def _write(path: Path, which: str, found: list[Evaluation]) -> None:
    for evaluation in found:
        pairs = zip(evaluation.returns.tolist(), evaluation.lengths.tolist(), strict=True)
        rows = [{"episode": i, "return": r, "length": n} for i, (r, n) in enumerate(pairs)]
        target = path / "evaluation" / f"{which}-{evaluation.actions}.csv"
        target.parent.mkdir(exist_ok=True)
        target.write_text(to_csv(rows))


def _print(found: list[Evaluation], shown: str | None, as_json: bool) -> None:
    if as_json:
        rows = [
            {
                "environment": each.environment,
                "backend": each.backend,
                "actions": each.actions,
                "episodes": each.interval.samples,
                "mean": each.interval.mean,
                "interval_95": [each.interval.low, each.interval.high],
                "standard_deviation": each.interval.standard_deviation,
                "mean_length": float(each.lengths.mean()),
            }
            for each in found
        ]
        print(to_json(rows, indent=2))
        return
    print(f"{found[0].environment} ({found[0].backend}), {found[0].returns.size} episodes")
    for each in found:
        interval = each.interval
        print(
            f"  {each.actions:8} mean return {format_number(interval.mean)}, 95 % interval "
            f"{format_number(interval.low)} to {format_number(interval.high)}, mean length {each.lengths.mean():.1f}"
        )
    if shown is not None:
        print(f"  {shown}")
