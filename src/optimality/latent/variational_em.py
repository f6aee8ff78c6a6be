"""Variational EM: the best normal posterior of each observation, then the best model for them, in turn.

    q_i   <- a rise of  L_i(theta, q_i) = E_{q_i} log p(x_i | z) - KL(q_i || N(0, I))      for each i, theta held
    theta <- a rise of  (1 / N) sum_i L_i(theta, q_i)                                      all q_i held

Both halves raise the same number, so that it never falls; it reaches the maximum of the likelihood where the posterior
is a product over latents (one latent, or columns of W that are orthogonal in the metric of the noise), and stays below
it by the mean KL(q_i || p(z | x_i)) elsewhere (Neal and Hinton 1998; Jordan, Ghahramani, Jaakkola and Saul 1999).

For a linear-Gaussian model both halves are in closed form: with Lambda = I + W' D^-1 W the best q_i has the exact mean
and the variances 1 / Lambda_jj, and W, mean and D are a regression on z whose second moments are known,

    (W, mean) = sum x_i (m_i, 1)' [sum (m_i, 1)(m_i, 1)' + diag(sum s_i^2, 0)]^-1
    D         = (1 / N) sum (x_i - W m_i - mean)^2 + (1 / N) sum W^2 s_i^2.
"""

from dataclasses import KW_ONLY
from typing import Any, Literal

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float, PRNGKeyArray

from optimality.core.numerics import Real, require_range
from optimality.core.result import Result
from optimality.core.solve import RUNNING, AbstractIterative, Solution
from optimality.distributions.normal import Normal
from optimality.latent.abstract import AbstractLatentModel
from optimality.latent.linear_gaussian import (
    LinearGaussianModel,
    Rows,
    check_gaussian_data,
    constant_features,
    descending_eigenvectors,
    mean_log_evidence,
    moments,
    safe_root,
)
from optimality.latent.newton_ascent import newton_ascent
from optimality.latent.refinement import NARROW, Refinement, check_expectation, exact_bound, refine_with
from optimality.problems.dataset import Dataset

_Number = Float[Array | np.ndarray | np.generic, ""] | float


class VariationalEMState(eqx.Module):
    model: AbstractLatentModel
    posterior: Normal
    """`[points, latents]`"""
    bound: Float[Array, ""]
    """Mean over the points."""
    residual: Float[Array, ""]
    """Largest change of a number of the model in the last step, relative to the largest number."""
    largest_fall: Float[Array, ""]
    """Of the bound, in any half step so far."""


class VariationalEMDetails(eqx.Module):
    """What variational EM found."""

    model: AbstractLatentModel
    posterior: Normal
    """`[points, latents]`, of the points of the fit."""
    bounds: Float[Array | np.ndarray, " points"]
    """Of each of them; `value` is their mean."""
    log_evidence: _Number
    """Mean of the exact `log p(x)` over them for a linear-Gaussian model, else NaN."""
    test_bound: _Number
    """Mean over the test points, each with a posterior of its own; NaN without any."""


class VariationalEM(AbstractIterative[Dataset, VariationalEMState]):
    """A model fitted with a normal posterior for each observation, by exact expectations.

    The model is linear-Gaussian, or the `guess`: any latent model of few numbers, all of them arrays and free to take
    any value for which its log-likelihood is finite. Larger models are fitted by draws: see `VariationalAutoencoder`.

    `value` is the mean bound of the points of the fit, `details` a `VariationalEMDetails`, `policy` None;
    `stats["largest_fall"]` is 0 up to rounding. Derivatives are not defined and come out as NaN.
    """

    _: KW_ONLY
    latents: int = eqx.field(static=True, default=1)
    """Entries of z, below the number of features; the guess's, where one is given."""
    variance: Literal["feature", "scalar"] = eqx.field(static=True, default="feature")
    """Of a linear-Gaussian model: a noise variance for each feature, or one for all."""
    expectation: Literal["sigma_points", "trapezoid"] = eqx.field(static=True, default="sigma_points")
    """How a guess that is not linear-Gaussian is averaged over q: see `Refinement`."""
    half_steps: int = eqx.field(static=True, default=5)
    """Newton's steps of each half, for such a guess."""
    noise_floor: Real = 1e-6
    """Smallest noise variance of a linear-Gaussian model, as a share of its feature's variance, in (0, 1)."""
    tolerance: Real = 1e-9
    """Largest accepted residual."""
    max_steps: int = eqx.field(static=True, default=10_000)
    """Bound on the steps, of two halves each."""

    def __check_init__(self):
        require_range(self, 0.0, 1.0, above=True, noise_floor=self.noise_floor)
        require_range(self, 0.0, tolerance=self.tolerance)
        if self.variance not in ("feature", "scalar"):
            raise ValueError(f"variance must be 'feature' or 'scalar', but {self.variance!r} was given.")
        if self.expectation not in ("sigma_points", "trapezoid"):
            raise ValueError(f"expectation must be 'sigma_points' or 'trapezoid', but {self.expectation!r} was given.")
        for name in ("latents", "half_steps", "max_steps"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, but {getattr(self, name)} was given.")

    def explain(self, problem: Dataset, solution: Solution) -> str:
        if solution.result is Result.ITERATION_LIMIT:
            return (
                f"A number of the model still changes by {float(solution.stats['residual']):.1e} of the largest; the "
                f"bound never fell by more than {float(solution.stats['largest_fall']):.1e}."
            )
        if constant := constant_features(problem):
            named = ", ".join(problem.feature(column) for column in constant[:8])
            return f"Constant in the points of the fit, so that a noise variance of its own vanishes there: {named}."
        return ""

    def init(self, problem: Dataset, guess: Any, key: PRNGKeyArray | None) -> VariationalEMState:
        rows = problem.parts().train
        model = self._first(problem, rows) if guess is None else guess
        if not isinstance(model, AbstractLatentModel) or model.features != problem.features:
            raise ValueError(
                f"guess must be a latent-variable model of {problem.features} features, such as details.model of an "
                f"earlier solution, but a {type(model).__name__} was given."
            )
        check_expectation(model, Refinement(expectation=self.expectation))
        mean = NARROW * jnp.ones((rows.shape[0], model.latents), rows.dtype)  # not 0, where a decoder may be symmetric
        posterior = Normal(mean, jnp.full_like(mean, NARROW))
        bound = jnp.mean(self.bounds(model, rows, posterior))
        return VariationalEMState(model, posterior, bound, jnp.full_like(bound, jnp.inf), jnp.zeros_like(bound))

    def step(self, problem: Dataset, state: VariationalEMState) -> VariationalEMState:
        rows = problem.parts().train
        posterior = self.improve_posteriors(state.model, rows, state.posterior)
        between = jnp.mean(self.bounds(state.model, rows, posterior))
        model = self.improve_model(state.model, rows, posterior)
        bound = jnp.mean(self.bounds(model, rows, posterior))
        fall = jnp.maximum(jnp.maximum(state.bound - between, between - bound), state.largest_fall)
        old, new = ravel_pytree(state.model)[0], ravel_pytree(model)[0]
        residual = jnp.max(jnp.abs(new - old)) / jnp.max(jnp.abs(new))
        return VariationalEMState(model, posterior, bound, residual, fall)

    def improve_posteriors(self, model: AbstractLatentModel, rows: Rows, posterior: Normal) -> Normal:
        """The first half: of a linear-Gaussian model the best, else a rise from `posterior`, each q_i by itself."""
        if isinstance(model, LinearGaussianModel):
            return jax.vmap(lambda x: best_normal(model, x))(rows)
        method = Refinement(expectation=self.expectation, steps=self.half_steps)
        keys = jax.random.split(jax.random.key(0), rows.shape[0])  # nothing is drawn
        refined = jax.vmap(lambda x, q, own: refine_with(method, model, x, q, own))(rows, posterior, keys)
        return refined.posterior

    def improve_model(self, model: AbstractLatentModel, rows: Rows, posterior: Normal) -> AbstractLatentModel:
        """The second half: of a linear-Gaussian model the best, else a rise from `model`."""
        if isinstance(model, LinearGaussianModel):
            return regression(rows, posterior, variance=self.variance, noise_floor=self.noise_floor)
        numbers, whole = ravel_pytree(model)
        bound = lambda v: jnp.mean(self.bounds(whole(v), rows, posterior))  # noqa: E731
        return whole(newton_ascent(bound, numbers, max_steps=self.half_steps))

    def bounds(self, model: AbstractLatentModel, rows: Rows, posterior: Normal) -> Float[Array, " points"]:
        """Of each observation, exactly."""
        expectation = "sigma_points" if isinstance(model, LinearGaussianModel) else self.expectation
        return jax.vmap(lambda x, q: exact_bound(model, x, q, expectation))(rows, posterior)

    def terminate(self, problem: Dataset, state: VariationalEMState) -> Any:
        code = jnp.where(state.residual <= jnp.asarray(self.tolerance), int(Result.CONVERGED), RUNNING)
        return jnp.where(jnp.isfinite(state.bound), code, int(Result.NON_FINITE))

    def point(self, state: VariationalEMState) -> Float[Array, " numbers"]:
        return ravel_pytree(state.model)[0]

    def condition(self, problem: Dataset, point: Float[Array, " numbers"]) -> Float[Array, " numbers"]:
        """Without a derivative, so that the solution's is NaN: a rotation or a sign of z leaves the bound as it is."""
        return jax.lax.stop_gradient(jnp.zeros_like(point))

    def finish(self, problem: Dataset, state: VariationalEMState, point: Float[Array, " numbers"]) -> Solution:
        parts = problem.parts()
        model = ravel_pytree(state.model)[1](point)
        posterior = self.improve_posteriors(model, parts.train, state.posterior)
        bounds = self.bounds(model, parts.train, posterior)
        evidence = test_bound = jnp.full((), jnp.nan, bounds.dtype)
        if isinstance(model, LinearGaussianModel):
            evidence = jnp.asarray(mean_log_evidence(model, parts.train))
        if parts.test.shape[0] > 0:
            test_bound = jnp.mean(self.bounds(model, parts.test, self._of_new(model, parts.test)))
        details = VariationalEMDetails(model, posterior, bounds, evidence, test_bound)
        stats = {"residual": state.residual, "largest_fall": state.largest_fall}
        return Solution(jnp.mean(bounds), None, jnp.asarray(0, jnp.int32), stats, details)

    def _of_new(self, model: AbstractLatentModel, rows: Rows) -> Normal:
        mean = NARROW * jnp.ones((rows.shape[0], model.latents), rows.dtype)
        start = Normal(mean, jnp.full_like(mean, NARROW))
        to_the_end = VariationalEM(expectation=self.expectation, half_steps=100)
        return to_the_end.improve_posteriors(model, rows, start)

    def _first(self, problem: Dataset, rows: Rows) -> LinearGaussianModel:
        """Probabilistic PCA's, with a share of every direction left to the noise."""
        check_gaussian_data(self, problem)
        mean, covariance = moments(rows)
        eigenvalues, vectors = descending_eigenvectors(covariance)
        rest = jnp.mean(eigenvalues[self.latents :])
        loading = vectors[:, : self.latents] * safe_root(eigenvalues[: self.latents] - rest)[None, :]
        return LinearGaussianModel(loading, mean, jnp.full_like(mean, rest))


def best_normal(model: LinearGaussianModel, x: Any) -> Normal:
    """The normal law with independent latents whose bound is largest: the posterior's mean, and `1 / Lambda_jj` of its
    precision, which is less than the variance of z_j where latents are correlated."""
    posterior = model.posterior(x)
    scaled = jnp.asarray(model.loading) ** 2 / jnp.asarray(model.noise_variance)[:, None]
    return Normal(posterior.mean(), (1.0 + jnp.sum(scaled, axis=0)) ** -0.5)


def regression(
    rows: Rows, posterior: Normal, *, variance: Literal["feature", "scalar"], noise_floor: Real
) -> LinearGaussianModel:
    """The linear-Gaussian model of largest bound for these posteriors, `[points, latents]`."""
    x, mean, spread = jnp.asarray(rows), posterior.mean(), posterior.variance()
    points, latents = mean.shape
    inputs = jnp.concatenate([mean, jnp.ones((points, 1), mean.dtype)], axis=1)
    unsure = jnp.concatenate([jnp.mean(spread, axis=0), jnp.zeros(1, mean.dtype)])
    second = inputs.T @ inputs / points + jnp.diag(unsure)
    weights = jnp.linalg.solve(second, inputs.T @ x / points).T
    noise = jnp.mean((x - inputs @ weights.T) ** 2, axis=0) + weights**2 @ unsure
    floor = jnp.asarray(noise_floor, noise.dtype) * jnp.var(x, axis=0)
    if variance == "scalar":
        noise, floor = jnp.full_like(noise, jnp.mean(noise)), jnp.full_like(floor, jnp.mean(floor))
    return LinearGaussianModel(weights[:, :latents], weights[:, latents], jnp.maximum(noise, floor))
