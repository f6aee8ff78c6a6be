"""Demonstrations on disk: an NPZ file of plain arrays. Loading runs no code.

The arrays are those of `Demonstrations.from_arrays`, padded, with `lengths`; what was not recorded is missing. Ours
have a header beside them, JSON text. A file that someone else wrote with `np.savez` needs none.
"""

import json
import os
import zipfile
from pathlib import Path
from typing import Any

import numpy as np

from optimality.sampling.demonstration_arrays import from_arrays
from optimality.sampling.demonstrations import Demonstrations

FILE = "demonstrations.npz"
_FORMAT, _VERSION = "optimality demonstrations", 1
_ARRAYS = ("observation", "action", "lengths", "terminated", "reward", "log_probability", "log_weight")


def save(demonstrations: Demonstrations, path: Path) -> Path:
    """Writes under another name first and then renames, so that there is never half a file."""
    arrays = {name: getattr(demonstrations, name) for name in _ARRAYS}
    arrays: dict[str, Any] = {name: np.asarray(array) for name, array in arrays.items() if array is not None}
    header = {
        "format": _FORMAT,
        "version": _VERSION,
        "observations": _kind(arrays["observation"]),
        "actions": _kind(arrays["action"]) if "action" in arrays else None,
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.tmp-{os.getpid()}")
    try:
        with partial.open("wb") as file:
            np.savez_compressed(file, header=np.array(json.dumps(header)), **arrays)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
    return path


def load(path: Path) -> Demonstrations:
    """Reads and validates a file, or `demonstrations.npz` in a folder.

    Raises `ValueError` naming the file where it is missing, damaged, of another version, or holds no demonstrations.
    """
    path = path / FILE if path.is_dir() else path
    try:
        with path.open("rb") as opened:
            file = np.load(opened, allow_pickle=False)
            if isinstance(file, np.ndarray):
                raise ValueError("it is a single array, not an NPZ file of several")
            arrays = {name: file[name] for name in file.files}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise ValueError(f"cannot load demonstrations from {path}: {error}.") from error
    header = arrays.pop("header", None)
    if header is not None:
        _check_header(header, path)
    unknown = [name for name in arrays if name not in _ARRAYS]
    if unknown or "observation" not in arrays:
        problem = f"has an array {unknown[0]!r}" if unknown else "has no array 'observation'"
        raise ValueError(f"{path} {problem}: demonstrations are arrays named {', '.join(_ARRAYS)}.")
    try:
        return from_arrays(arrays.pop("observation"), arrays.pop("action", None), **arrays)
    except ValueError as error:
        raise ValueError(f"{path} holds no demonstrations: {error}") from error


def _check_header(header: np.ndarray, path: Path) -> None:
    try:
        found = json.loads(str(header))
        kind, version = found["format"], found["version"]
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path} has a header that cannot be read: {error!r}.") from error
    if (kind, version) != (_FORMAT, _VERSION):
        raise ValueError(f"{path} holds {kind!r} of version {version!r}, but this reads version {_VERSION} only.")


def _kind(array: np.ndarray) -> str:
    return "indices" if array.ndim == 2 and array.dtype.kind == "i" else "numbers"
