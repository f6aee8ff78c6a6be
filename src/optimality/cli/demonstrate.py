"""`optimality demonstrate`: episodes of a run's policy, recorded."""

from pathlib import Path
from typing import Any

from optimality.cli.main import complain
from optimality.cli.options import literals, take_flag, take_group, take_option, whole
from optimality.cli.train import failed
from optimality.environments.from_gymnasium import EnvironmentFailure
from optimality.experiments.demonstration_run import DemonstrationRun, record
from optimality.experiments.report import format_number
from optimality.experiments.run_folder import to_json
from optimality.sampling.demonstration_file import FILE


def demonstrate_command(arguments: list[str]) -> int:
    """Exit codes: 0, 2 for bad input, 3 where the environment failed."""
    command = ["optimality", "demonstrate", *arguments]
    try:
        as_json, arguments = take_flag(arguments, "json")
        given, environment, run = _parse(arguments)
        done = record(run, environment, **given, command=command)
    except ValueError as error:
        return complain(str(error))
    except (EnvironmentFailure, OSError) as error:
        return failed(error)
    _print(done, as_json)
    return 0


def _parse(arguments: list[str]) -> tuple[dict[str, Any], str | None, Path]:
    force, arguments = take_flag(arguments, "force")
    run, arguments = take_option(arguments, "policy")
    which, arguments = take_option(arguments, "which")
    episodes, arguments = take_option(arguments, "episodes")
    steps, arguments = take_option(arguments, "steps")
    seed, arguments = take_option(arguments, "seed")
    out, arguments = take_option(arguments, "out")
    backend, arguments = take_option(arguments, "environment-backend")
    options, arguments = take_group(arguments, "environment")
    if len(arguments) > 1 or any(word.startswith("-") for word in arguments):
        raise ValueError("demonstrate takes perhaps an ENVIRONMENT, --policy RUN, and the options of --help.")
    if run is None:
        raise ValueError("demonstrate needs --policy RUN, a folder of `optimality solve` or `optimality train`.")
    given = {
        "episodes": whole("episodes", episodes, 50, 1),
        "steps": whole("steps", steps, None, 1),
        "seed": whole("seed", seed, 0, 0),
        "which": which or "last",
        "backend": backend,
        "options": literals(options),
        "out": Path(out or "demos"),
        "force": force,
    }
    return given, arguments[0] if arguments else None, Path(run)


def _print(done: DemonstrationRun, as_json: bool) -> None:
    assert done.path is not None
    summary, interval = done.summary(), done.interval
    if as_json:
        print(to_json({**summary, "file": str(done.path / FILE)}, indent=2))
        return
    lengths = summary["lengths"]
    print(f"{summary['environment']} by {summary['policy']['method']}: {summary['episodes']} episodes")
    print(
        f"  mean return {format_number(interval.mean)}, 95 % interval {format_number(interval.low)} to "
        f"{format_number(interval.high)}"
    )
    print(
        f"  {summary['steps']} steps, {lengths['shortest']} to {lengths['longest']} an episode; "
        f"{summary['terminated']:.0%} terminated, the others were cut off"
    )
    print(f"  {done.path / FILE}")
