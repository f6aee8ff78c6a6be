"""How an autoencoder is fitted: passes over the data in random batches, stopped by the bound on held-out points.

Each pass draws its own noise for data with levels, and its own order. The bound on the validation points is computed
after every pass with the same noise each time, so that passes are compared by nothing but their parameters; what is
kept are the parameters of the best one.
"""

import abc
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PRNGKeyArray, PyTree

from optimality.core.numerics import Real, is_traced, require_range
from optimality.core.result import Result
from optimality.core.solve import RUNNING, AbstractFit, Solution
from optimality.latent.autoencoder import Autoencoder, build_autoencoder
from optimality.latent.autoencoder_details import AutoencoderDetails, judge
from optimality.latent.decoders import NormalDecoder, Variance
from optimality.networks.abstract import AbstractNetwork
from optimality.networks.optimizer import adam, descend
from optimality.problems.dataset import Dataset

VALIDATION_SAMPLES = 8
"""Of z for the bound on a validation point."""


class FitState(eqx.Module):
    """Between passes."""

    learned: PyTree
    """What is trained of the model."""
    model: Autoencoder
    """With its first parameters; what is not trained stays."""
    optimizer: Any
    best: PyTree
    """`learned` at the best pass."""
    best_bound: Float[Array, ""]
    best_step: Int[Array, ""]
    step: Int[Array, ""]
    bounds: Float[Array, "2"]
    """Of the last pass: on the batches while they were learned from, and on the validation points."""
    history: Float[Array, "max_steps 2"]
    """The same of every pass, NaN after the last one."""
    key: PRNGKeyArray


class AbstractAutoencoder(AbstractFit[Dataset, FitState]):
    """What the two autoencoders share: everything but their objective."""

    latents: eqx.AbstractVar[int]
    samples: eqx.AbstractVar[int]
    variance: eqx.AbstractVar[Variance]
    fixed_scale: eqx.AbstractVar[Real]
    encoder: eqx.AbstractVar[AbstractNetwork]
    decoder: eqx.AbstractVar[AbstractNetwork]
    learning_rate: eqx.AbstractVar[Real]
    weight_decay: eqx.AbstractVar[Real]
    batch_size: eqx.AbstractVar[int]
    max_steps: eqx.AbstractVar[int]
    patience: eqx.AbstractVar[int]
    first_log_scale: eqx.AbstractVar[Real]
    least_log_scale: eqx.AbstractVar[Real]
    most_log_scale: eqx.AbstractVar[Real]
    bound_samples: eqx.AbstractVar[int]

    @abc.abstractmethod
    def objective(
        self, model: Autoencoder, x: Float[Array, " features"], noise: Float[Array, "samples latents"]
    ) -> Float[Array, ""]:
        """What is maximized, of one observation, at `z = m(x) + e(x) noise`."""

    def __check_init__(self):
        sizes = {
            "latents": self.latents,
            "samples": self.samples,
            "batch_size": self.batch_size,
            "max_steps": self.max_steps,
        }
        for name, size in {**sizes, "patience": self.patience, "bound_samples": self.bound_samples}.items():
            if size < 1:
                raise ValueError(f"{name} of {type(self).__name__} must be at least 1, but {size} was given.")
        require_range(self, 0.0, above=True, learning_rate=self.learning_rate, fixed_scale=self.fixed_scale)
        require_range(self, 0.0, weight_decay=self.weight_decay)
        least, first, most = self.least_log_scale, self.first_log_scale, self.most_log_scale
        if not is_traced((least, first, most)) and not float(least) <= float(first) <= float(most):
            raise ValueError(
                f"first_log_scale must lie between least_log_scale and most_log_scale, but {first}, {least} and {most} "
                f"were given."
            )
        if self.variance not in ("scalar", "feature", "head", "fixed"):
            raise ValueError(
                f"variance must be 'scalar', 'feature', 'head' or 'fixed', but {self.variance!r} was given."
            )

    def check(self, problem: Any) -> None:
        if not isinstance(problem, Dataset):
            raise ValueError(f"{type(self).__name__} is for a Dataset, but {type(problem).__name__} was given.")
        if self.latents > problem.features:
            raise ValueError(
                f"{self.latents} latents for {problem.features} features: more than the data has. Use at most "
                f"{problem.features}."
            )

    def init(self, problem: Dataset, guess: Autoencoder | None, key: PRNGKeyArray) -> FitState:
        model_key, loop_key = jax.random.split(key)
        model = guess
        if model is None:
            model = build_autoencoder(
                problem,
                model_key,
                latents=self.latents,
                encoder=self.encoder,
                decoder=self.decoder,
                variance=self.variance,
                fixed_scale=self.fixed_scale,
                log_scales=(self.first_log_scale, self.least_log_scale, self.most_log_scale),
            )
        learned = learned_of(model)
        dtype = jnp.result_type(float)
        return FitState(
            learned=learned,
            model=model,
            optimizer=self._optimizer().init(learned),
            best=jax.tree.map(jnp.copy, learned),
            best_bound=jnp.asarray(-jnp.inf, dtype),
            best_step=jnp.asarray(0, jnp.int32),
            step=jnp.asarray(0, jnp.int32),
            bounds=jnp.full(2, jnp.nan, dtype),
            history=jnp.full((self.max_steps, 2), jnp.nan, dtype),
            key=loop_key,
        )

    def step(self, problem: Dataset, state: FitState) -> FitState:
        key, noise_key, order_key, batch_key = jax.random.split(state.key, 4)
        rows = problem.parts(noise_key).train
        count = rows.shape[0]
        size = min(self.batch_size, count)
        batches = -(-count // size)
        # a short last batch is filled up from the front, so that every batch has one size
        order = jnp.resize(jnp.argsort(jax.random.uniform(order_key, (count,))), (batches, size))
        optimizer = self._optimizer()

        def update(carry, inputs):
            learned, optimizer_state = carry
            indices, noise = inputs
            batch = rows[indices]

            def loss(parameters):
                model = with_learned(state.model, parameters)
                return -jnp.mean(jax.vmap(lambda x, e: self.objective(model, x, e))(batch, noise))

            value, gradient = jax.value_and_grad(loss)(learned)
            learned, optimizer_state, _ = descend(optimizer, gradient, optimizer_state, learned)
            return (learned, optimizer_state), -value

        # one block: a scan that splits keys inside is slow
        noise = jax.random.normal(batch_key, (batches, size, self.samples, self.latents))
        (learned, optimizer_state), values = jax.lax.scan(update, (state.learned, state.optimizer), (order, noise))
        step = state.step + 1
        validation = problem.parts().validation
        held_out = self._held_out(with_learned(state.model, learned), validation)
        bounds = jnp.stack([jnp.mean(values), held_out])
        judged = held_out if validation.shape[0] else step.astype(held_out.dtype)
        better = judged > state.best_bound
        return FitState(
            learned=learned,
            model=state.model,
            optimizer=optimizer_state,
            best=jax.tree.map(lambda new, old: jnp.where(better, new, old), learned, state.best),
            best_bound=jnp.where(better, judged, state.best_bound),
            best_step=jnp.where(better, step, state.best_step),
            step=step,
            bounds=bounds,
            history=state.history.at[state.step].set(bounds),
            key=key,
        )

    def terminate(self, problem: Dataset, state: FitState) -> Int[Array, ""]:
        stale = state.step - state.best_step >= self.patience
        # without a best pass no bound on the validation points was a number
        finite = jnp.isfinite(state.bounds[0]) & ~(stale & (state.best_step == 0))
        code = jnp.where(stale, Result.CONVERGED, RUNNING)
        return jnp.where(finite, code, Result.NON_FINITE).astype(jnp.int32)

    def progress(self, problem: Dataset, state: FitState) -> dict[str, Array]:
        return {"train_bound": state.bounds[0], "validation_bound": state.bounds[1], "best_step": state.best_step}

    def _held_out(self, model: Autoencoder, rows: Float[Array, "points features"]) -> Float[Array, ""]:
        """The objective's mean over the rows, with the same noise at every call; NaN without any."""
        noise = jax.random.normal(jax.random.key(1), (rows.shape[0], VALIDATION_SAMPLES, self.samples, self.latents))
        return jnp.mean(jax.vmap(lambda x, own: jax.vmap(lambda e: self.objective(model, x, e))(own))(rows, noise))

    def _optimizer(self):
        return adam(self.learning_rate, weight_decay=self.weight_decay)

    def finish(self, problem: Dataset, state: FitState) -> Solution:
        model = with_learned(state.model, state.best)
        parts = problem.parts()
        tested = parts.test.shape[0] > 0
        found = judge(model, parts.test if tested else parts.train, self.bound_samples, state.key)
        details = AutoencoderDetails(
            model,
            found,
            "test" if tested else "train",
            state.history,
            state.best_step,
            self.bound_samples,
            problem.levels,
        )
        return Solution(jnp.mean(found.bounds), None, 0, {}, details)


def learned_of(model: Autoencoder) -> PyTree:
    """What is trained: both networks, and the deviation of a normal decoder."""
    decoder = model.decoder
    return model.encoder.network, decoder.network, decoder.log_scale if isinstance(decoder, NormalDecoder) else None


def with_learned(model: Autoencoder, learned: PyTree) -> Autoencoder:
    """The model with these parameters."""

    def where(m: Autoencoder):
        both = m.encoder.network, m.decoder.network
        return (*both, m.decoder.log_scale) if isinstance(m.decoder, NormalDecoder) else both

    return eqx.tree_at(where, model, learned if learned[2] is not None else learned[:2])
