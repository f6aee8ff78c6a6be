"""Checkpoints that survive a kill at any moment, and say so when they were damaged.

A checkpoint is a folder `step-000000123/` with `arrays.safetensors` and `manifest.json` (names, shapes, types, the
file's SHA-256, what made it). It is written under a temporary name, flushed to disk, and renamed at the end, so that a
folder of that name is complete. Loading runs no code: it fills the arrays of a tree that the caller made.
"""

import hashlib
import json
import os
import shutil
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jaxtyping import PyTree
from safetensors import SafetensorError
from safetensors.numpy import load, save

SCHEMA = 1
_ARRAYS, _MANIFEST = "arrays.safetensors", "manifest.json"
_ADVICE = "Move its folder away to use an older one."


def save_checkpoint(folder: Path, step: int, tree: PyTree, about: dict[str, Any], *, keep: int = 3) -> Path:
    """Writes `folder/step-<step>` and removes all but the newest `keep`.

    Raises `OSError` where the disk refuses; what was there before is untouched.
    """
    folder.mkdir(parents=True, exist_ok=True)
    _sweep(folder)
    final = folder / f"step-{step:012d}"
    partial = folder / f"{final.name}.tmp-{os.getpid()}"
    partial.mkdir()
    try:
        arrays, kinds = _to_arrays(tree)
        data = save(arrays)
        _write(partial / _ARRAYS, data)
        manifest = {
            "schema": SCHEMA,
            "step": step,
            "about": about,
            "sha256": hashlib.sha256(data).hexdigest(),
            "leaves": {
                name: {"shape": list(array.shape), "dtype": str(array.dtype), "kind": kinds[name]}
                for name, array in arrays.items()
            },
        }
        _write(partial / _MANIFEST, json.dumps(manifest, indent=1).encode())
        _flush_folder(partial)
        if final.exists():
            shutil.rmtree(final)
        os.replace(partial, final)
        _flush_folder(folder)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    for old in complete_checkpoints(folder)[:-keep]:
        shutil.rmtree(old, ignore_errors=True)
    return final


def complete_checkpoints(folder: Path) -> list[Path]:
    """Oldest first; temporary folders do not count."""
    return sorted(path for path in folder.glob("step-*") if ".tmp-" not in path.name and path.is_dir())


def load_checkpoint(path: Path, like: PyTree, about: dict[str, Any] | None = None) -> tuple[PyTree, dict[str, Any]]:
    """`(tree, about)` with the structure of `like`, whose leaves are arrays or their shapes.

    Raises `ValueError` naming the file: missing, truncated or altered data, another schema, arrays of other names or
    shapes, or an `about` that differs from the one given in any of its entries.
    """
    manifest = read_manifest(path)
    for name, wanted in (about or {}).items():
        if manifest["about"].get(name) != wanted:
            raise ValueError(f"{path} is of {name} {manifest['about'].get(name)!r}, but {wanted!r} was asked for.")
    try:
        data = (path / _ARRAYS).read_bytes()
    except OSError as error:
        raise ValueError(f"cannot read {path / _ARRAYS}: {error.strerror or error}. {_ADVICE}") from error
    if hashlib.sha256(data).hexdigest() != manifest["sha256"]:
        raise ValueError(f"{path / _ARRAYS} is damaged: its checksum is not the manifest's. {_ADVICE}")
    try:
        arrays = load(data)
    except SafetensorError as error:
        raise ValueError(f"{path / _ARRAYS} is damaged: {error}. {_ADVICE}") from error
    return _from_arrays(arrays, like, path), manifest["about"]


def read_manifest(path: Path) -> dict[str, Any]:
    """Raises `ValueError` where it is missing, no JSON, or of another schema."""
    try:
        manifest = json.loads((path / _MANIFEST).read_text())
    except (OSError, ValueError) as error:
        raise ValueError(f"cannot read {path / _MANIFEST}: {error}. {_ADVICE}") from error
    if not isinstance(manifest, dict) or manifest.get("schema") != SCHEMA:
        found = manifest.get("schema") if isinstance(manifest, dict) else None
        raise ValueError(f"{path / _MANIFEST} has schema {found!r}, but this version reads schema {SCHEMA}.")
    return manifest


def _to_arrays(tree: PyTree) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    arrays, kinds = {}, {}
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        name = jax.tree_util.keystr(path)
        is_key = isinstance(leaf, jax.Array) and jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key)  # pyright: ignore
        kinds[name] = "key" if is_key else "array"
        arrays[name] = np.array(jax.random.key_data(leaf) if is_key else leaf, order="C")
    return arrays, kinds


def _from_arrays(arrays: dict[str, np.ndarray], like: PyTree, path: Path) -> PyTree:
    leaves, structure = jax.tree_util.tree_flatten_with_path(like)
    wanted = {jax.tree_util.keystr(leaf_path): leaf for leaf_path, leaf in leaves}
    missing, extra = wanted.keys() - arrays.keys(), arrays.keys() - wanted.keys()
    if missing or extra:
        raise ValueError(
            f"{path} does not fit: it lacks {sorted(missing)[:3]} and has {sorted(extra)[:3]} beside what is needed; "
            "it is of another method, version or size."
        )
    filled = []
    for name, leaf in wanted.items():
        on_device = isinstance(leaf, jax.Array | jax.ShapeDtypeStruct)
        is_key = on_device and jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key)  # pyright: ignore
        expected = jax.eval_shape(jax.random.key_data, leaf) if is_key else leaf if on_device else np.asarray(leaf)
        array = arrays[name]
        if array.shape != expected.shape or array.dtype != expected.dtype:
            raise ValueError(
                f"{path} does not fit: {name} is {array.dtype}{list(array.shape)}, but "
                f"{expected.dtype}{list(expected.shape)} is needed."
            )
        if is_key:
            filled.append(jax.random.wrap_key_data(jax.numpy.asarray(array)))
        else:
            filled.append(jax.numpy.asarray(array) if on_device else array)
    return jax.tree_util.tree_unflatten(structure, filled)


def _write(path: Path, data: bytes) -> None:
    try:
        with path.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:  # a refused write does not say of which file
        raise OSError(error.errno, error.strerror, str(path)) from error


def _flush_folder(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _sweep(folder: Path) -> None:
    """Removes what killed writers left behind."""
    for path in folder.glob("step-*.tmp-*"):
        shutil.rmtree(path, ignore_errors=True)
