"""`optimality train` and `optimality resume`: parse, learn, print."""

import sys
from pathlib import Path
from typing import Any

from optimality.cli.main import complain
from optimality.cli.options import literals, number, parse, take_flag, take_group, take_option, whole
from optimality.cli.problem_arguments import problem_asked
from optimality.cli.progress import ProgressPrinter, print_run
from optimality.environments.from_gymnasium import EnvironmentFailure
from optimality.experiments.run_folder import read_config, read_record, to_json
from optimality.experiments.seeds import Study, train_seeds
from optimality.experiments.training_environment import EnvironmentChoice
from optimality.experiments.training_plan import (
    DEFAULT_STEPS,
    TrainingPlan,
    learner_from_table,
    learner_named,
    plan_training,
)
from optimality.experiments.training_report import training_summary
from optimality.experiments.training_run import Run, TrainingFailed, resume, train_plan
from optimality.registry import DEFAULT_LEARNER, LEARNERS

EXIT_CODES = {"interrupted": 130, "terminated": 143}
_WHOLE = {
    "steps": 1,
    "seed": 0,
    "evaluations": 1,
    "evaluation-episodes": 1,
    "chunk": 1,
    "max-bad-updates": 1,
    "keep": 1,
}
_NUMBERS = ("target", "seconds")
_DEFAULTS = {"steps": DEFAULT_STEPS, "seed": 0, "evaluation_episodes": 20}


def train_command(arguments: list[str]) -> int:
    """Exit codes: 0, 2 for bad input, 3 where learning failed, 130 and 143 where a signal stopped it."""
    if problem_asked(arguments) == "bernoulli-bandit":
        from optimality.cli.train_bandit import train_bandit_command

        return train_bandit_command(arguments[1:] if arguments[0] == "bernoulli-bandit" else arguments)
    command = ["optimality", "train", *arguments]
    try:
        plan, seeds, executor, out, as_json = _parse(arguments)
        if seeds > 1:
            first = plan.seed
            study = train_seeds(plan, range(first, first + seeds), out=out, executor=executor, command=command)
            return _print_study(study, as_json)
        printer = ProgressPrinter(plan.steps, quiet=as_json)
        with printer:
            run = train_plan(plan, out=out, callbacks=[printer.show], command=command)
    except ValueError as error:
        return complain(str(error))
    except (TrainingFailed, EnvironmentFailure, RuntimeError, OSError) as error:
        return failed(error)
    return _finish(run, as_json)


def resume_command(arguments: list[str]) -> int:
    """The same exit codes as `train`."""
    command = ["optimality", "resume", *arguments]
    try:
        as_json, arguments = take_flag(arguments, "json")
        steps, arguments = take_option(arguments, "steps")
        if len(arguments) != 1 or arguments[0].startswith("-"):
            raise ValueError("resume takes a run folder, and --steps N or --json.")
        path = Path(arguments[0])
        config = read_config(path)
        total = whole("steps", steps, config.get("run", {}).get("steps"), 1)
        printer = ProgressPrinter(total or 0, quiet=as_json)
        with printer:
            run = resume(path, steps=None if steps is None else total, callbacks=[printer.show], command=command)
    except ValueError as error:
        return complain(str(error))
    except (TrainingFailed, EnvironmentFailure, OSError) as error:
        return failed(error)
    return _finish(run, as_json)


def _parse(arguments: list[str]) -> tuple[TrainingPlan, int, str, Path, bool]:
    config_path, arguments = take_option(arguments, "config")
    config = {} if config_path is None else read_config(Path(config_path))
    if config.get("command", "train") != "train":
        raise ValueError(f"{config_path} is of `optimality {config['command']}`, not of train.")
    if "methods" in config:
        raise ValueError(f"{config_path} is of a study of bandit policies: optimality train bernoulli-bandit --config.")
    as_json, arguments = take_flag(arguments, "json")
    out, arguments = take_option(arguments, "out")
    backend, arguments = take_option(arguments, "environment-backend")
    options, arguments = take_group(arguments, "environment")
    seeds, arguments = take_option(arguments, "seeds")
    executor, arguments = take_option(arguments, "executor")
    stored = config.get("run", {})
    values: dict[str, Any] = {**_DEFAULTS, **stored}
    for name, least in _WHOLE.items():
        text, arguments = take_option(arguments, name)
        key = name.replace("-", "_")
        if text is not None:
            values[key] = whole(name, text, None, least)
            if key in ("steps", "evaluations"):
                values.pop("chunk", None)
    for name in _NUMBERS:
        text, arguments = take_option(arguments, name)
        if text is not None:
            values[name] = number(name, text, None)
    names = []
    while arguments and not arguments[0].startswith("-") and len(names) < 2:
        names.append(arguments.pop(0))
    environment = config.get("environment", {})
    if not names and "kind" not in environment:
        raise ValueError("train needs an ENVIRONMENT, for example CartPole-v1; `optimality list` has names.")
    name = names[0] if names else environment["kind"]
    same = name == environment.get("kind")
    kept = environment.get("options", {}) if same else {}
    choice = EnvironmentChoice(
        name,
        backend or (environment.get("backend", "auto") if same else "auto"),
        {**kept, **literals(options)},
    )
    method = _method(names[1] if len(names) > 1 else None, arguments, config.get("method"))
    plan = plan_training(choice, method, **values)
    count = whole("seeds", seeds, 1, 1)
    return plan, count, executor or "auto", Path(out or "runs"), as_json


def _method(name: str | None, arguments: list[str], stored: dict[str, Any] | None) -> Any:
    if stored is not None and name is None:
        default, shown = learner_from_table(stored), stored["kind"]
    else:
        shown = DEFAULT_LEARNER if name is None else name
        default = learner_named(shown)
    described = next((entry.help for entry in LEARNERS if entry.name == shown), "")
    return parse(default, arguments, prog=f"optimality train ENVIRONMENT {shown}", description=described)


def failed(error: Exception) -> int:
    """One line on standard error, and the exit code of something that went wrong on the way."""
    print(f"optimality: {error}", file=sys.stderr)
    return 3


def _finish(run: Run, as_json: bool) -> int:
    assert run.path is not None
    record = read_record(run.path)
    summary = training_summary(record, run.config, run.metrics, run.result)
    summary.pop("glossary")
    if as_json:
        print(to_json({**summary, "run": str(run.path)}, indent=2))
    else:
        print_run(summary, run.path)
    if run.result in EXIT_CODES:
        print(f"{run.result}: saved; go on with `optimality resume {run.path}`", file=sys.stderr)
    return EXIT_CODES.get(run.result, 0)


def _print_study(study: Study, as_json: bool) -> int:
    code = EXIT_CODES.get(study.result, 0)
    if as_json:
        print(to_json({**study.summary, "study": str(study.path)}, indent=2))
        return code
    for row in study.summary["groups"]:
        print(
            f"{row['label']}, {row['runs']} seeds: interquartile mean {row['mean']:.4g}, "
            f"95 % interval {row['low']:.4g} to {row['high']:.4g}, lowest {row['lowest']:.4g}"
        )
    print(f"report: {study.path / 'report.html'}" if study.path is not None else "")
    return code
