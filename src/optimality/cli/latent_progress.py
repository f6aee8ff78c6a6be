"""What a person sees while a model is fitted to data."""

import math
import os
import sys
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from optimality.experiments.latent_fit import Pass
from optimality.experiments.report import format_number

LINES = 20
"""Plain lines of a fit that takes all its passes."""


class FitPrinter:
    """A bar in a terminal; about twenty plain lines anywhere else; nothing where quiet."""

    def __init__(self, *, quiet: bool = False):
        self.quiet = quiet
        self._console = Console(stderr=True, no_color="NO_COLOR" in os.environ or None, highlight=False)
        self._bar: Progress | None = None
        self._task: Any = None
        self._last: Pass | None = None
        self._printed = 0

    def __enter__(self) -> "FitPrinter":
        return self

    def __exit__(self, *exception: Any) -> None:
        if self._bar is not None:
            self._bar.stop()
        elif self._last is not None and self._last.step != self._printed:
            self._line(self._last)

    def show(self, seen: Pass) -> None:
        """A callback of `run_latent`."""
        self._last = seen
        if self.quiet:
            self._printed = seen.step
            return
        if self._console.is_terminal:
            self._show_bar(seen)
        elif seen.step == 1 or seen.step % max(1, seen.max_steps // LINES) == 0:
            self._line(seen)

    def _line(self, seen: Pass) -> None:
        self._printed = seen.step
        compiled = f"  compiled in {seen.compile_seconds:.1f} s" if seen.step == 1 else ""
        words = f"pass {seen.step:>6,} of {seen.max_steps:,}  {_described(seen)}{compiled}"
        print(words, file=sys.stderr, flush=True)

    def _show_bar(self, seen: Pass) -> None:
        if self._bar is None:
            columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
            self._bar = Progress(*columns, console=self._console)
            self._bar.start()
            self._console.print(f"compiled in {seen.compile_seconds:.1f} s", style="dim")
            self._task = self._bar.add_task("", total=seen.max_steps)
        self._bar.update(self._task, completed=seen.step, description=_described(seen))
        self._printed = seen.step


def _described(seen: Pass) -> str:
    held_out = f"  held out {format_number(seen.held_out_bound)}" if math.isfinite(seen.held_out_bound) else ""
    return (
        f"bound {format_number(seen.train_bound)} nats{held_out}  {seen.bits:.3f} bits/dim  best pass {seen.best_step}"
    )
