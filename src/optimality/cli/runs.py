"""`optimality runs` and `optimality report`: what lies in the run folders. Both work without JAX where they can."""

from pathlib import Path
from typing import Any

from optimality.cli.main import complain
from optimality.cli.options import take_flag, take_option
from optimality.experiments.report import format_number
from optimality.experiments.run_folder import RunFolder, find_runs, is_held, read_config, read_metrics, read_record
from optimality.experiments.run_folder import to_json as _to_json
from optimality.experiments.training_report import write_comparison, write_training_report


def runs_command(arguments: list[str]) -> int:
    """Lists the runs below a folder, oldest first."""
    as_json, arguments = take_flag(arguments, "json")
    if len(arguments) > 1 or any(word.startswith("-") for word in arguments):
        return complain("runs takes at most a folder, by default runs/, and --json.")
    folder = Path(arguments[0] if arguments else "runs")
    if not folder.is_dir():
        return complain(f"there is no folder {folder}: a run makes it, or give another.")
    rows = [_describe(path) for path in find_runs(folder)]
    if as_json:
        print(_to_json(rows, indent=2))
        return 0
    if not rows:
        print(f"no runs in {folder}")
        return 0
    _print(rows)
    return 0


def _describe(path: Path) -> dict[str, Any]:
    try:
        record, config = read_record(path), read_config(path)
    except ValueError as error:
        return {"run": str(path), "status": "unreadable", "about": str(error)}
    status = record["status"]
    if status == "running" and not is_held(path):
        status = "killed"
    row = {"run": str(path), "command": config.get("command"), "status": status}
    methods = [config["method"]] if "method" in config else config.get("methods", [])
    row["method"] = ",".join(method["kind"] for method in methods)
    if config.get("command") == "train" and "environment" in config:
        metrics = read_metrics(path)
        row["environment"] = config["environment"].get("kind", config["environment"].get("description"))
        row["seed"] = config["run"]["seed"]
        row["step"] = metrics[-1]["step"] if metrics else 0
        row["return"] = metrics[-1]["evaluation_return"] if metrics else None
    else:
        problem = config.get("problem", {})
        row["environment"] = Path(problem.get("source", problem.get("kind", ""))).name or None
        if "methods" in config:
            row["seed"] = config["run"]["seed"]
        row["return"] = record.get("summary", {}).get("exact", {}).get("expected_return")
    return row


def _print(rows: list[dict[str, Any]]) -> None:
    columns = ("status", "command", "environment", "method", "seed", "step", "return", "run")
    table: list[tuple[str, ...]] = [columns]
    for row in rows:
        shown = {**row, "return": format_number(row.get("return"))}
        table.append(tuple(str(shown.get(name, "")) for name in columns))
    widths = [max(len(line[i]) for line in table) for i in range(len(columns))]
    for line in table:
        print("  ".join(word.ljust(width) for word, width in zip(line, widths, strict=True)).rstrip())
    stopped = ("killed", "interrupted", "terminated", "failed")
    if any(row["status"] in stopped and row.get("command") == "train" and "step" in row for row in rows):
        print("Go on with `optimality resume RUN`.")


def report_command(arguments: list[str]) -> int:
    """Writes a run's page anew, or one that compares several."""
    try:
        out, arguments = take_option(arguments, "out")
        if not arguments or any(word.startswith("-") for word in arguments):
            raise ValueError("report takes run folders, or a folder of them, and --out FILE.html.")
        paths = [path for word in arguments for path in _runs_of(Path(word))]
        if len(paths) == 1 and out is None:
            folder = RunFolder.open(paths[0])
            try:
                config = read_config(folder.path)
                if config.get("command") != "train":
                    raise ValueError(f"{paths[0]} was made by solve: its report is there already.")
                if "environment" not in config:
                    raise ValueError(f"{paths[0]} is a study of bandit policies: its report is there already.")
                if not read_metrics(folder.path):
                    raise ValueError(f"{paths[0]} has no metrics yet.")
                write_training_report(folder)
            finally:
                folder.release()
            target = folder.path / "report.html"
        else:
            target = Path(out or "report.html")
            write_comparison(paths, target)
    except ValueError as error:
        return complain(str(error))
    except OSError as error:
        return complain(f"cannot write the report: {error.strerror or error}.")
    print(f"report: {target}")
    return 0


def _runs_of(path: Path) -> list[Path]:
    if (path / "run.json").exists():
        return [path]
    found = find_runs(path) if path.is_dir() else []
    if not found:
        raise ValueError(f"{path} is no run folder, and there are none in it.")
    return found
