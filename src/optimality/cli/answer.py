"""How a command that makes a run ends: the run shown, or as JSON, or one line on what was wrong, and the exit code."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from optimality.cli.main import complain
from optimality.core.result import SolverError
from optimality.experiments.run_folder import to_json


def answer(work: Callable[[], tuple[bool, Any, Path | None]], show: Callable[[Any, Path | None], None]) -> int:
    """Runs `work`, which says whether JSON is asked for and gives the run and its folder; 2 for bad input, 3 where the
    method failed."""
    try:
        as_json, run, folder = work()
    except ValueError as error:
        return complain(str(error))
    except SolverError as error:
        print(f"optimality: {error}", file=sys.stderr)
        return 3
    if as_json:
        print(to_json({**run.summary(), "run": None if folder is None else str(folder)}, indent=2))
    else:
        show(run, folder)
    return 0
