"""Policies on disk: arrays and a name, no code. `load_policy(run)` gives back one that acts."""

from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from optimality.policies.tabular import TabularPolicy

FILE = "policy.safetensors"
_KIND = "tabular-policy"


def policy_bytes(policy: TabularPolicy) -> bytes:
    """The file's content: log-probabilities in float64."""
    table = np.ascontiguousarray(np.asarray(policy.log_probabilities, np.float64))
    return save({"log_probabilities": table}, metadata={"kind": _KIND, "schema": "1"})


def load_policy(path: str | Path) -> TabularPolicy:
    """From a run folder, or a `policy.safetensors` itself.

    Raises `ValueError` naming the file where it is missing, damaged, or holds something else.
    """
    path = Path(path)
    path = path / FILE if path.is_dir() else path
    try:
        with safe_open(path, "numpy") as file:
            kind = (file.metadata() or {}).get("kind")
            if kind != _KIND:
                raise ValueError(f"{path} holds {kind!r}, not a {_KIND}.")
            return TabularPolicy(file.get_tensor("log_probabilities"))
    except (OSError, SafetensorError) as error:
        raise ValueError(f"cannot load a policy from {path}: {error}.") from error
