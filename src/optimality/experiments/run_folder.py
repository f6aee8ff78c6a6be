"""The folder of a run: what was asked (`config.toml`), what came of it (`run.json`), and files beside them.

Every file is written under another name first and then renamed, so that a reader never sees half of one.
"""

import datetime
import importlib.metadata
import json
import math
import os
import platform
import secrets
import tomllib
from pathlib import Path
from typing import Any

import numpy as np
import tomli_w

SCHEMA = 1


class RunFolder:
    """Creates `<out>/<time>-<method>-<problem>-s<seed>-<id>/` and keeps its `run.json` true."""

    def __init__(self, out: Path, *, method: str, problem: str, seed: int, config: dict[str, Any], command: list[str]):
        require_writable(out)
        time = datetime.datetime.now(datetime.UTC)
        safe = "".join(c if c.isalnum() or c in "-._" else "_" for c in problem)
        name = f"{time:%Y%m%dT%H%M%SZ}-{method}-{safe}-s{seed}-{secrets.token_hex(3)}"
        self.path = out / name
        self.path.mkdir(parents=True)
        self._record: dict[str, Any] = {
            "schema": SCHEMA,
            "status": "running",
            "command": command,
            "started": time.isoformat(timespec="seconds"),
            "versions": versions(),
        }
        self.write_text("config.toml", tomli_w.dumps({"schema": SCHEMA, **config}))
        self._save()
        self.event("started")

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
        with (self.path / "metrics.jsonl").open("a") as file:
            file.writelines(to_json(row) + "\n" for row in rows)

    def finish(self, status: str, **values: Any) -> None:
        """`finished`, `disagreed`, `failed` or `interrupted`, with what there is to say."""
        ended = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
        self._record.update(status=status, ended=ended, **values)
        self._save()
        self.event(status)

    def _save(self) -> None:
        self.write_text("run.json", to_json(self._record, indent=2) + "\n")


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
