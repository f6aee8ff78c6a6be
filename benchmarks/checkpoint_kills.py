"""SIGKILL at random moments of the checkpoint writer, on a busy machine: does the newest checkpoint always load?

    uv run python benchmarks/checkpoint_kills.py --kills 100    # appends to benchmarks/results/checkpoint_kills.jsonl

A child writes checkpoints of 4 MB one after another into the same folder; the parent kills it after a random time,
loads the newest complete checkpoint and compares every number with what its step must hold. Two more processes keep
both cores busy. `half_written` counts the kills that left a temporary folder behind: they struck in the middle of a
write.
"""

import argparse
import datetime
import json
import os
import platform
import random
import signal
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path

import numpy as np

from optimality.experiments.checkpoints import complete_checkpoints, load_checkpoint, save_checkpoint

RESULTS = Path(__file__).parent / "results" / "checkpoint_kills.jsonl"
SIZE = 1_000_000
BUSY = "while True: pass"


def write_for_ever(folder: Path) -> None:
    newest = complete_checkpoints(folder)
    step = int(newest[-1].name.removeprefix("step-")) if newest else 0
    while True:
        step += 1
        save_checkpoint(folder, step, {"x": np.full(SIZE, step, np.float32)}, {"step": step})


def kill_once(folder: Path, seconds: float) -> int:
    """Starts a writer, kills it, and returns the step of the checkpoint that was loaded, 0 for none."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # JAX warns of forks; nothing of it runs in the child
        child = os.fork()
    if child == 0:
        write_for_ever(folder)
    time.sleep(seconds)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    newest = complete_checkpoints(folder)
    if not newest:
        return 0
    loaded, about = load_checkpoint(newest[-1], {"x": np.zeros(SIZE, np.float32)})
    if not (loaded["x"] == about["step"]).all():
        raise SystemExit(f"{newest[-1]} holds other numbers than it says")
    return about["step"]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--no-result", action="store_true", help="print only")
    arguments = parser.parse_args()
    moments = random.Random(arguments.seed)
    load = [subprocess.Popen([sys.executable, "-c", BUSY]) for _ in range(2)]
    steps, half_written = [], 0
    try:
        with tempfile.TemporaryDirectory() as folder:
            for _ in range(arguments.kills):
                steps.append(kill_once(Path(folder), moments.uniform(0.0, 0.25)))
                half_written += bool(list(Path(folder).glob("step-*.tmp-*")))
    finally:
        for process in load:
            process.kill()
            process.wait()
    if steps != sorted(steps):
        raise SystemExit(f"a checkpoint was lost: {steps}")
    result = {
        "kills": arguments.kills,
        "loaded": sum(step > 0 for step in steps),
        "half_written": half_written,
        "checkpoints": steps[-1],
        "seed": arguments.seed,
        "date": datetime.date.today().isoformat(),
        "commit": subprocess.run(
            ["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True
        ).stdout.strip(),
        "python": platform.python_version(),
        "machine": f"{platform.machine()}, {platform.system()} {platform.release()}",
        "cpus": os.cpu_count(),
    }
    print(json.dumps(result))
    if not arguments.no_result:
        with RESULTS.open("a") as file:
            file.write(json.dumps(result) + "\n")


if __name__ == "__main__":
    main()
