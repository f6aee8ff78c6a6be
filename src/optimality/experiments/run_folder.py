"""The folder of a run: what was asked (`config.toml`), what came of it (`run.json`), and files beside them.

Every file is written under another name first and then renamed, so that a reader never sees half of one.
"""

import contextlib
import csv
import datetime
import fcntl
import importlib.metadata
import io
import json
import math
import os
import platform
import secrets
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import tomli_w

SCHEMA = 1
_LOCK = ".lock"


class RunFolder:
    """One run's folder; keeps its `run.json` true. `held` is the lock of whoever works in it."""

    def __init__(self, path: Path, record: dict[str, Any]):
        self.path, self._record = path, record
        self._lock: int | None = None

    @classmethod
    def create(
        cls, out: Path, *, method: str, problem: str, seed: int, config: dict[str, Any], command: list[str]
    ) -> "RunFolder":
        """Makes `<out>/<time>-<method>-<problem>-s<seed>-<id>/`; `ValueError` where nothing can be written."""
        require_writable(out)
        time = datetime.datetime.now(datetime.UTC)
        safe = "".join(c if c.isalnum() or c in "-._" else "_" for c in problem)
        name = f"{time:%Y%m%dT%H%M%SZ}-{method}-{safe}-s{seed}-{secrets.token_hex(3)}"
        path = out / name
        path.mkdir(parents=True)
        record = {
            "schema": SCHEMA,
            "status": "running",
            "command": command,
            "started": time.isoformat(timespec="seconds"),
            "versions": versions(),
        }
        folder = cls(path, record)
        folder.hold()
        folder.write_text("config.toml", tomli_w.dumps({"schema": SCHEMA, **config}))
        folder._save()
        folder.event("started")
        return folder

    @classmethod
    def open(cls, path: Path) -> "RunFolder":
        """An existing one, to go on in. `ValueError` where it is none, cannot be written, or is being worked in."""
        record = read_record(path)
        require_writable(path)
        folder = cls(path, record)
        folder.hold()
        return folder

    def hold(self) -> None:
        """Takes the folder for this process until it ends; `ValueError` where another has it."""
        lock = os.open(self.path / _LOCK, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(lock)
            raise ValueError(f"another process works in {self.path}; wait for it or stop it.") from error
        self._lock = lock

    def release(self) -> None:
        """Lets others work in the folder."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def resumed(self, command: list[str]) -> None:
        """Notes that the run goes on."""
        self._record.update(status="running", resumed=[*self._record.get("resumed", []), command])
        self._record.pop("error", None)
        self._save()
        self.event("resumed")

    def write_text(self, name: str, text: str) -> Path:
        return self.write_bytes(name, text.encode())

    def write_bytes(self, name: str, data: bytes) -> Path:
        target = self.path / name
        target.parent.mkdir(parents=True, exist_ok=True)
        partial = target.with_name(f"{target.name}.tmp-{os.getpid()}")
        partial.write_bytes(data)
        partial.replace(target)
        return target

    def event(self, kind: str, **values: Any) -> None:
        """Appends a line to `events.jsonl`."""
        line = {"time": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"), "event": kind, **values}
        with (self.path / "events.jsonl").open("a") as file:
            file.write(to_json(line) + "\n")

    def metrics(self, rows: list[dict[str, Any]]) -> None:
        """Appends one line a row to `metrics.jsonl`."""
        path = self.path / "metrics.jsonl"
        try:
            with path.open("a") as file:
                file.writelines(to_json(row) + "\n" for row in rows)
        except OSError as error:
            raise OSError(error.errno, error.strerror, str(path)) from error

    def keep_metrics(self, number: int) -> list[dict[str, Any]]:
        """Cuts `metrics.jsonl` to its first `number` rows, and returns them."""
        rows = read_metrics(self.path)[:number]
        self.write_text("metrics.jsonl", "".join(to_json(row) + "\n" for row in rows))
        return rows

    def finish(self, status: str, **values: Any) -> None:
        """`finished`, `disagreed`, `failed` or `interrupted`, with what there is to say."""
        ended = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
        self._record.update(status=status, ended=ended, **values)
        self._save()
        self.event(status)
        self.release()

    def _save(self) -> None:
        self.write_text("run.json", to_json(self._record, indent=2) + "\n")


@contextlib.contextmanager
def failures_noted(folder: RunFolder | None) -> Iterator[None]:
    """An interruption or an error inside is noted in the folder, if there is one, and goes on its way."""
    try:
        yield
    except KeyboardInterrupt:
        if folder is not None:
            folder.finish("interrupted")
        raise
    except Exception as error:
        if folder is not None:
            folder.finish("failed", error=f"{type(error).__name__}: {error}")
        raise


def read_record(path: Path) -> dict[str, Any]:
    """The `run.json` of a run folder; `ValueError` naming it where it is missing or no record."""
    try:
        record = json.loads((path / "run.json").read_text())
    except (OSError, ValueError) as error:
        raise ValueError(f"{path} is no run folder: cannot read {path / 'run.json'}: {error}.") from error
    if not isinstance(record, dict) or record.get("schema") != SCHEMA:
        raise ValueError(f"{path / 'run.json'} is not a record of schema {SCHEMA}.")
    return record


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """Rows of `metrics.jsonl`, a last line that a kill cut short left out; none where there is no such file."""
    file = path / "metrics.jsonl" if path.is_dir() else path
    rows = []
    for line in file.read_text().splitlines() if file.exists() else []:
        try:
            rows.append(json.loads(line))
        except ValueError:
            break
    return rows


def find_runs(folder: Path) -> list[Path]:
    """Run folders below `folder`, those of studies too, in the order of their names."""
    found = [*folder.glob("*/run.json"), *folder.glob("*/*/run.json")]
    return sorted((path.parent for path in found), key=lambda path: path.name)


def is_held(path: Path) -> bool:
    """Whether a process works in the folder now."""
    lock = path / _LOCK
    if not lock.exists():
        return False
    with lock.open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return True
    return False


def require_writable(out: Path) -> None:
    """Raises `ValueError` before anything is computed where nothing could be written afterwards."""
    try:
        out.mkdir(parents=True, exist_ok=True)
        probe = out / f".write-test-{os.getpid()}"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise ValueError(
            f"cannot write to the folder {out}: {error.strerror or error}. Choose another with --out."
        ) from error


def read_config(path: Path) -> dict[str, Any]:
    """A `config.toml`, or that of a run folder. Raises `ValueError` naming the file and the fault."""
    path = path / "config.toml" if path.is_dir() else path
    try:
        config = tomllib.loads(path.read_text())
    except OSError as error:
        raise ValueError(f"cannot read the configuration {path}: {error.strerror or error}.") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not TOML: {error}.") from error
    if config.get("schema") != SCHEMA:
        raise ValueError(f"{path} has schema {config.get('schema')!r}, but this version reads schema {SCHEMA}.")
    return config


def versions() -> dict[str, str]:
    names = ("optimality", "jax", "jaxlib", "numpy", "scipy", "equinox", "gymnasium")
    found = {"python": platform.python_version()}
    for name in names:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = "not installed"
    return found


def to_json(value: Any, indent: int | None = None) -> str:
    """Strict JSON: numbers that are not finite become null."""
    return json.dumps(_plain(value), indent=indent, allow_nan=False)


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, np.ndarray | np.generic) or hasattr(value, "__array__"):
        return _plain(np.asarray(value).tolist())
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def to_csv(rows: list[dict[str, Any]]) -> str:
    """A table of rows, columns in the order in which they first appear; what a row lacks stays empty."""
    columns = list(dict.fromkeys(name for row in rows for name in row))
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return buffer.getvalue()
