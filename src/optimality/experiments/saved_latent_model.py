"""Latent-variable models on disk: arrays and names, no code, in the format of saved policies.

model = load_model("runs/...")
z = model.encode(x).location
x = model.decode(z)
"""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, PRNGKeyArray

from optimality.core.numerics import at_precision
from optimality.distributions.multivariate_normal import MultivariateNormal
from optimality.experiments.saved_policy import load_module, module_bytes
from optimality.latent.autoencoder_details import AutoencoderDetails
from optimality.latent.linear_gaussian import LinearGaussianModel
from optimality.problems.dataset import Dataset

MODEL_FILE = "model.safetensors"


class LinearModel(eqx.Module):
    """A fitted linear-Gaussian model that takes and gives observations in the data's own units, many at once."""

    model: LinearGaussianModel
    """In units of the noisy data where there are levels: `(x + u) / levels`."""
    levels: int | None = eqx.field(static=True, default=None)

    def encode(self, x: Any) -> MultivariateNormal:
        """The laws of z given each row of x, exact."""
        return self._mapped(_encode, x, self._rows(x))

    def decode(self, z: Any) -> Float[np.ndarray, "..."]:
        """Mean of x for each row of z."""
        mean = self._mapped(_decode, z, np.atleast_2d(np.asarray(z, np.float64)))
        return mean if self.levels is None else mean * self.levels - 0.5

    def sample(self, key: PRNGKeyArray, n: int) -> np.ndarray:
        """`n` new observations, `[n, features]`."""
        x = at_precision(_sample, self.model, jax.random.split(key, n))
        return x if self.levels is None else np.clip(np.floor(x * self.levels), 0, self.levels - 1)

    def log_evidence(self, x: Any) -> Any:
        """`log p(x)` of each row, exact; with levels that of the density at the middle of each level."""
        return self._mapped(_log_evidence, x, self._rows(x))

    def _rows(self, x: Any) -> np.ndarray:
        rows = np.atleast_2d(np.asarray(x, np.float64))
        return rows if self.levels is None else (rows + 0.5) / self.levels

    def _mapped(self, function: Any, x: Any, rows: np.ndarray) -> Any:
        values = at_precision(function, self.model, rows)
        return jax.tree.map(lambda leaf: leaf[0], values) if np.ndim(x) == 1 else values


FittedModel = AutoencoderDetails | LinearModel
"""What `load_model` gives back: both have `encode`, `decode`, `sample` and `log_evidence`."""


def fitted_model(details: Any, problem: Dataset) -> FittedModel:
    """The part of a solution's `details` that encodes and decodes."""
    if isinstance(details, AutoencoderDetails):
        return details
    return LinearModel(details.model, problem.levels)


def save_model(model: Any, path: str | Path) -> Path:
    """Writes `path`, or `model.safetensors` in a folder, and gives the file back.

    Raises `ValueError` for what is no fitted model, or naming a field that cannot be stored: a function, say.
    """
    if not isinstance(model, AutoencoderDetails | LinearModel):
        raise ValueError(f"save_model takes the details of a fit, but a {type(model).__name__} was given.")
    content, path = model_bytes(model), Path(path)
    path = path / MODEL_FILE if path.is_dir() else path
    path.write_bytes(content)
    return path


def model_bytes(model: FittedModel) -> bytes:
    """The file's content."""
    return module_bytes(model, "model")


def load_model(path: str | Path, *, classes: Iterable[type] = ()) -> FittedModel:
    """From a run folder of `optimality solve`, or a `model.safetensors` itself; `classes` are modules of your own that
    it is made of, such as networks. Runs no code from the file.

    Raises `ValueError` naming the file where it is missing, damaged, or no latent-variable model.
    """
    path = Path(path)
    path = path / MODEL_FILE if path.is_dir() else path
    model = load_module(path, "model", classes)
    if not isinstance(model, AutoencoderDetails | LinearModel):
        raise ValueError(f"{path} holds a {type(model).__name__}, not a latent-variable model.")
    return model


@jax.jit
def _encode(model: LinearGaussianModel, rows: Any) -> MultivariateNormal:
    return jax.vmap(model.posterior)(rows)


@jax.jit
def _decode(model: LinearGaussianModel, rows: Any) -> Any:
    return jax.vmap(lambda z: jnp.asarray(model.decode(z).mean()))(rows)


@jax.jit
def _sample(model: LinearGaussianModel, keys: Any) -> Any:
    return jax.vmap(model.sample)(keys)


@jax.jit
def _log_evidence(model: LinearGaussianModel, rows: Any) -> Any:
    return jax.vmap(model.log_evidence)(rows)
