"""What a person sees while a run learns, and after it."""

import os
import sys
import time
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from optimality.experiments.report import format_number
from optimality.experiments.training_run import Progress as Chunk


class ProgressPrinter:
    """A bar in a terminal; one plain line a chunk anywhere else; nothing where quiet."""

    def __init__(self, steps: int, *, quiet: bool = False):
        self.steps, self.quiet = steps, quiet
        self._console = Console(stderr=True, no_color="NO_COLOR" in os.environ or None, highlight=False)
        self._started = time.monotonic()
        self._first: int | None = None
        self._bar: Progress | None = None
        self._task: Any = None

    def __enter__(self) -> "ProgressPrinter":
        if not self.quiet and self._console.is_terminal:
            self._bar = Progress(
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TimeRemainingColumn(),
                console=self._console,
            )
            self._bar.start()
            self._task = self._bar.add_task("compiling", total=self.steps)
        return self

    def __exit__(self, *exception: Any) -> None:
        if self._bar is not None:
            self._bar.stop()

    def show(self, chunk: Chunk) -> None:
        """A callback of `train`."""
        row = chunk.metrics
        speed = f"{row['steps_per_second']:,.0f} steps/s"
        score = f"return {format_number(row['evaluation_return'])}"
        if self._bar is not None:
            self._bar.update(self._task, completed=min(chunk.step, self.steps), description=f"{score}  {speed}")
        elif not self.quiet:
            compiled = f"  compiled in {row['compile_seconds']:.1f} s" if row["compile_seconds"] > 0.05 else ""
            print(
                f"step {chunk.step:>9,} of {chunk.steps:,}  {score}  {speed}{self._remaining(chunk)}{compiled}",
                file=sys.stderr,
                flush=True,
            )

    def _remaining(self, chunk: Chunk) -> str:
        now = time.monotonic()
        if self._first is None:  # the first chunk compiles: its time says nothing of the others
            self._first, self._started = chunk.step, now
            return ""
        left = (chunk.steps - chunk.step) * (now - self._started) / max(chunk.step - self._first, 1)
        return f"  {left:.0f} s left" if left >= 0.5 else ""


def print_run(summary: dict[str, Any], path: Path) -> None:
    """The end of a run in a few lines."""
    console = Console(no_color="NO_COLOR" in os.environ or None, highlight=False)
    console.print(
        f"[bold]{summary['environment']}[/bold] by {summary['method']}: {summary['result'].replace('_', ' ')}"
    )
    console.print(f"in {summary['backend']}", style="dim")
    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
    deviation = f"standard deviation {format_number(summary['deviation'])}, {summary['evaluation_episodes']} episodes"
    table.add_row("last evaluation, by the mode", format_number(summary["last"]), deviation)
    if summary["sampled"] is not None:
        table.add_row("drawing its actions", format_number(summary["sampled"]), "")
    table.add_row("best evaluation", format_number(summary["best"]), f"at step {summary['best_step']}")
    seconds = summary["seconds"]
    speed = f"{summary['steps_per_second']:,.0f} steps/s, compiling {seconds['compiling']:.1f} s apart"
    table.add_row("steps", str(summary["steps"]), speed)
    console.print(table)
    for note in summary["notes"]:
        console.print(f"note: {note}", style="dim")
    console.print(f"report: {path / 'report.html'}", soft_wrap=True)
