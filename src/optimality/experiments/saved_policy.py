"""Policies on disk: arrays and names, no code. `load_policy(run)` gives back one that acts.

A file holds arrays in safetensors and, in its metadata, how they go together: names of modules that this library offers
(`registry.SAVED`), or that the caller names, with their fields. Loading builds those modules and nothing else.
"""

import dataclasses
import hashlib
import importlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from optimality import registry
from optimality.experiments.configuration import kind_of
from optimality.exploration.bernoulli_bandit import BeliefPolicy
from optimality.exploration.exact_play import DeadlinePolicy, PlayPolicy
from optimality.networks.flat import FlatNetwork
from optimality.policies.tabular import TabularPolicy
from optimality.sampling.acting import ActingPolicy
from optimality.sampling.policy import AbstractPolicy

FILE = "policy.safetensors"
BEST = "checkpoints/best"
"""Folder of the policy with the best evaluation so far."""
_SCHEMA = "2"

DecisionPolicy = PlayPolicy | DeadlinePolicy | BeliefPolicy
"""Policies that are asked with what was seen so far, and have no observations."""


def policy_bytes(policy: TabularPolicy | AbstractPolicy | DecisionPolicy) -> bytes:
    """The file's content. A table's log-probabilities are float64.

    Raises `ValueError` naming the field that cannot be stored: a function, say.
    """
    if isinstance(policy, TabularPolicy):
        policy = TabularPolicy(np.asarray(policy.log_probabilities, np.float64))
    return module_bytes(policy, "policy")


def module_bytes(module: Any, name: str) -> bytes:
    """A file of any module that is made of arrays, numbers and modules; `name` begins the arrays' names."""
    arrays: dict[str, np.ndarray] = {}
    structure = _describe(module, name, arrays)
    metadata = {"schema": _SCHEMA, "structure": json.dumps(structure)}
    return save(arrays, metadata={**metadata, "sha256": _digest(arrays, metadata["structure"])})


def load_policy(
    path: str | Path, which: str = "last", *, classes: Iterable[type] = (), seed: int = 0
) -> TabularPolicy | ActingPolicy | DecisionPolicy:
    """From a run folder, or a `policy.safetensors` itself.

    Args:
        path: the folder or the file.
        which: `last`, or `best` for the one with the best evaluation of a training run.
        classes: modules of your own that the policy is made of.
        seed: of the actions that are drawn.

    Returns:
        A table where a model was planned with; of a decision the solution's policy, with `plays` and `break_even`, or
        with `probabilities` and `index` of arms; else a policy with `act(observation)`, NumPy in and out.

    Raises:
        ValueError: naming the file where it is missing, damaged, or made of something unknown.
    """
    if which not in ("last", "best"):
        raise ValueError(f"which must be 'last' or 'best', but {which!r} was given.")
    path = Path(path)
    if path.is_dir():
        path = path / FILE if which == "last" or path.name == "best" else path / BEST / FILE
    policy = load_module(path, "policy", classes)
    if isinstance(policy, TabularPolicy | DecisionPolicy):
        return policy
    if not isinstance(policy, AbstractPolicy):
        raise ValueError(f"{path} holds a {type(policy).__name__}, not a policy.")
    return ActingPolicy(policy, seed)


def load_module(path: Path, name: str, classes: Iterable[type] = ()) -> Any:
    """What `module_bytes` wrote. Raises `ValueError` naming the file where it is missing, damaged, or made of something
    unknown."""
    try:
        with safe_open(path, "numpy") as file:
            metadata = file.metadata() or {}
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        raise ValueError(f"cannot load a {name} from {path}: {error}.") from error
    if metadata.get("schema") != _SCHEMA:
        raise ValueError(
            f"{path} holds a {name} of schema {metadata.get('schema')!r}, but this version reads {_SCHEMA}."
        )
    if metadata.get("sha256") != _digest(arrays, metadata.get("structure", "")):
        raise ValueError(f"{path} is damaged: its checksum is not that of its content.")
    known = {kind_of(cls): cls for cls in classes}
    try:
        return _build(json.loads(metadata["structure"]), arrays, known)
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path} does not describe a {name}: {error}.") from error


def _describe(value: Any, name: str, arrays: dict[str, np.ndarray]) -> Any:
    value = value.network if isinstance(value, FlatNetwork) else value  # its leaves have names, and no function
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {f.name: _describe(getattr(value, f.name), f"{name}.{f.name}", arrays) for f in _fields(value)}
        return {"kind": kind_of(type(value)), "fields": fields}
    if value is None or isinstance(value, bool | int | float | str):
        return {"plain": value}
    if isinstance(value, tuple | list):
        return {"tuple": [_describe(item, f"{name}.{i}", arrays) for i, item in enumerate(value)]}
    if isinstance(value, dict):
        return {"dict": {key: _describe(item, f"{name}.{key}", arrays) for key, item in value.items()}}
    if isinstance(value, np.ndarray | np.generic | jax.Array):
        arrays[name] = np.array(value, order="C")
        return {"array": name}
    raise ValueError(f"{name} is {type(value).__name__}, which a file cannot hold: make it an array or a module.")


def _build(structure: dict[str, Any], arrays: dict[str, np.ndarray], known: dict[str, type]) -> Any:
    if "kind" in structure:
        fields = {name: _build(part, arrays, known) for name, part in structure["fields"].items()}
        return _class_of(structure["kind"], known)(**fields)
    if "tuple" in structure:
        return tuple(_build(part, arrays, known) for part in structure["tuple"])
    if "dict" in structure:
        return {key: _build(part, arrays, known) for key, part in structure["dict"].items()}
    if "array" not in structure:
        return structure["plain"]
    array = arrays[structure["array"]]
    return array if array.dtype == np.float64 else jnp.asarray(array)  # JAX would round float64


def _class_of(kind: str, known: dict[str, type]) -> type:
    if kind in known:
        return known[kind]
    if kind not in registry.SAVED:
        raise ValueError(f"{kind!r} is unknown; give its class: classes=[...]")
    module, _, attribute = registry.SAVED[kind].partition(":")
    return getattr(importlib.import_module(module), attribute)


def _digest(arrays: dict[str, np.ndarray], structure: str) -> str:
    digest = hashlib.sha256(structure.encode())
    for name in sorted(arrays):
        digest.update(name.encode() + arrays[name].tobytes())
    return digest.hexdigest()


def _fields(value: Any) -> list[Any]:
    return [field for field in dataclasses.fields(value) if field.init]
