"""Factor analysis: a linear-Gaussian model with a noise variance for each feature, by expectation maximization.

With the covariance C of the data about the mean and `B = S W' D^-1` the posterior's gain, one step is

    E:  E z z' = S + B C B',     E x z' = C B'
    M:  W = C B' (S + B C B')^-1,     D = diag(C - W B C)

which never lowers the likelihood (Rubin and Thayer 1982). For given D the best W is known,

    W = D^1/2 U_k (Lambda_k - I)+^1/2,     U Lambda U' = D^-1/2 C D^-1/2,

(Lawley 1940), which leaves the noise variances. In their logarithms t minus two log evidences a point are

    f(t)      = d log 2 pi + sum t + sum_used (log lambda + 1) + sum_others lambda
    df / dt_i = sum_others (1 - lambda_m) u_im^2

and a step of EM from the best W is `D <- D (1 - df / dt)`. The second derivative is known too (Clarke 1970), so that
each step may take Newton's proposal where that is at least as likely as EM's: still monotone, and quadratic at the end.
"""

import math
from dataclasses import KW_ONLY
from typing import Any, Literal, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from optimality.core.numerics import Real, at_precision, is_traced, require_range
from optimality.core.result import Result
from optimality.core.solve import RUNNING, AbstractIterative, Solution
from optimality.latent.linear_gaussian import (
    LinearGaussianModel,
    Square,
    check_gaussian_data,
    constant_features,
    descending_eigenvectors,
    details_of,
    moments,
    safe_root,
    with_signs,
)
from optimality.problems.dataset import Dataset

_LONGEST = 2.0
"""Of Newton's proposal: largest change of the logarithm of a noise variance."""


class Profile(NamedTuple):
    """A model whose W is the best for its noise variances."""

    log_evidence: Float[Array, ""]
    """Mean over the points."""
    loading: Float[Array, "features latents"]
    eigenvalues: Float[Array, " features"]
    """Of `D^-1/2 C D^-1/2`, the largest first."""
    vectors: Float[Array, "features features"]
    used: Bool[Array, " features"]
    """Eigenvalues that a latent stands for."""
    gradient: Float[Array, " features"]
    """`df / dt`."""


class FactorAnalysisState(eqx.Module):
    mean: Float[Array, " features"]
    covariance: Float[Array, "features features"]
    least: Float[Array, " features"]
    """Floor of the noise variances."""
    loading: Float[Array, "features latents"]
    log_noise: Float[Array, " features"]
    log_evidence: Float[Array, ""]
    residual: Float[Array, ""]
    """Largest change that a step of EM would make, or made, relative to the noise variance or the feature's spread."""


class FactorAnalysis(AbstractIterative[Dataset, FactorAnalysisState]):
    """Maximum likelihood of a linear-Gaussian model with one noise variance a feature, from probabilistic PCA's.

    `value` is the mean log evidence of the points of the fit, which no step lowers; `details` is a
    `LinearGaussianDetails`, in which W is the best for the noise variances, its columns orthogonal in the metric D^-1,
    the largest entry of each positive. Where the likelihood falls to a vanishing noise variance (a Heywood case) the
    floor holds it, and `details.at_floor` says so. The likelihood may have several maxima (at eight latents
    the 8x8 digits have three within 0.03 nats of each other); a `guess`, a `LinearGaussianModel`, says where to start.

    Derivatives are of the stationary noise variances, which exist where these are unique: `(d - k)^2 >= d + k`.
    """

    _: KW_ONLY
    latents: int = eqx.field(static=True, default=2)
    """Entries of z, below the number of features."""
    acceleration: Literal["newton", "none"] = eqx.field(static=True, default="newton")
    """`none` takes the plain steps of EM, which may need thousands where a noise variance is small."""
    noise_floor: Real = 1e-6
    """Smallest noise variance, as a share of its feature's variance, in (0, 1); never below the root of the rounding
    error, 3e-4 in float32."""
    tolerance: Real = 1e-9
    """Largest accepted relative change of a noise variance by one more step of EM."""
    max_steps: int = eqx.field(static=True, default=10_000)
    """Bound on the steps."""

    def __check_init__(self):
        require_range(self, 0.0, 1.0, above=True, noise_floor=self.noise_floor)
        require_range(self, 0.0, tolerance=self.tolerance)
        if self.acceleration not in ("newton", "none"):
            raise ValueError(f"acceleration must be 'newton' or 'none', but {self.acceleration!r} was given.")
        if self.max_steps < 1:
            raise ValueError(f"max_steps must be at least 1, but {self.max_steps} was given.")

    def check(self, problem: Dataset) -> None:
        check_gaussian_data(self, problem)
        if constant := constant_features(problem):
            named = ", ".join(problem.feature(column) for column in constant[:8])
            raise ValueError(
                f"constant in the points of the fit: {named}. A noise variance of its own would vanish there and the "
                f"likelihood has no maximum: leave such features out, set levels= where the data are integers, add "
                f"noise, or take ProbabilisticPCA, which has one variance for all."
            )

    def init(self, problem: Dataset, guess: Any, key: PRNGKeyArray | None) -> FactorAnalysisState:
        mean, covariance = moments(problem.parts().train)
        least = self._least(covariance)
        if guess is None:
            rest = jnp.mean(descending_eigenvectors(covariance)[0][self.latents :])
            noise = jnp.maximum(jnp.full_like(mean, rest), least)
            return self._at(mean, covariance, least, jnp.log(noise))
        if not isinstance(guess, LinearGaussianModel) or guess.loading.shape != (mean.size, self.latents):
            raise ValueError(
                f"guess must be a LinearGaussianModel of {mean.size} features and {self.latents} latents: "
                f"details.model of an earlier solution, for example."
            )
        log_noise = jnp.log(jnp.maximum(jnp.asarray(guess.noise_variance), least))
        state = self._at(mean, covariance, least, log_noise)
        if self.acceleration == "newton":
            return state
        return eqx.tree_at(lambda s: s.loading, state, jnp.asarray(guess.loading))

    def step(self, problem: Dataset, state: FactorAnalysisState) -> FactorAnalysisState:
        if self.acceleration == "none":
            return self._plain_step(state)
        profile = profile_of(state.covariance, state.log_noise, self.latents)
        log_least = jnp.log(state.least)
        by_em = jnp.log(jnp.maximum(jnp.exp(state.log_noise) * (1.0 - profile.gradient), state.least))
        move = newton_direction(profile, _held(profile, state.log_noise, log_least))
        proposals = jnp.stack(
            [by_em, *(jnp.maximum(state.log_noise + length * move, log_least) for length in (1.0, 0.25))]
        )
        evidence = jax.lax.map(lambda t: profile_of(state.covariance, t, self.latents).log_evidence, proposals)
        evidence = jnp.where(jnp.isfinite(evidence), evidence, -jnp.inf)
        rounding = 4 * jnp.finfo(evidence.dtype).eps * (jnp.abs(evidence[0]) + state.mean.size)
        # Near the maximum all are equal up to rounding, and Newton's goes on where EM's hardly moves.
        best = jnp.where(evidence[1] >= jnp.max(evidence) - rounding, 1, jnp.argmax(evidence))
        return self._at(state.mean, state.covariance, state.least, proposals[best])

    def terminate(self, problem: Dataset, state: FactorAnalysisState) -> Int[Array, ""]:
        eps = jnp.finfo(state.residual.dtype).eps
        ratio = jnp.max(jnp.diagonal(state.covariance) / jnp.exp(state.log_noise))
        done = state.residual <= jnp.maximum(jnp.asarray(self.tolerance), 8 * eps * ratio)
        code = jnp.where(done, int(Result.CONVERGED), RUNNING)
        return jnp.where(jnp.isfinite(state.residual), code, int(Result.NON_FINITE)).astype(jnp.int32)

    def point(self, state: FactorAnalysisState) -> Float[Array, " features"]:
        return state.log_noise

    def condition(self, problem: Dataset, point: Float[Array, " features"]) -> Float[Array, " features"]:
        """The relative change by a step of EM from the best W; the distance from the floor where that holds."""
        _, covariance = moments(problem.parts().train)
        log_least = jnp.log(self._least(covariance))
        profile = profile_of(covariance, point, self.latents)
        return jnp.where(_held(profile, point, log_least), point - log_least, profile.gradient)

    def finish(self, problem: Dataset, state: FactorAnalysisState, point: Float[Array, " features"]) -> Solution:
        parts = problem.parts()
        mean, covariance = moments(parts.train)
        profile = profile_of(covariance, point, self.latents)
        model = LinearGaussianModel(profile.loading, mean, jnp.exp(point))
        held = _held(profile, state.log_noise, jnp.log(state.least))
        details = details_of(model, parts, held)
        return Solution(profile.log_evidence, None, Result.CONVERGED, {"residual": state.residual}, details)

    def explain(self, problem: Dataset, solution: Solution) -> str:
        if solution.result is not Result.ITERATION_LIMIT:
            return ""
        cure = "" if self.acceleration == "newton" else ", or take acceleration='newton'"
        return (
            f"After {int(solution.stats['steps'])} steps one more step of EM would still change a noise variance by "
            f"{float(solution.stats['residual']):.1e} of itself; the log evidence never fell. Raise max_steps{cure}."
        )

    def _least(self, covariance) -> Float[Array, " features"]:
        return jnp.maximum(jnp.asarray(self.noise_floor), jnp.finfo(covariance.dtype).eps ** 0.5) * jnp.diagonal(
            covariance
        )

    def _at(self, mean, covariance, least, log_noise) -> FactorAnalysisState:
        profile = profile_of(covariance, log_noise, self.latents)
        residual = jnp.max(jnp.where(_held(profile, log_noise, jnp.log(least)), 0.0, jnp.abs(profile.gradient)))
        return FactorAnalysisState(mean, covariance, least, profile.loading, log_noise, profile.log_evidence, residual)

    def _plain_step(self, state: FactorAnalysisState) -> FactorAnalysisState:
        noise = jnp.exp(state.log_noise)
        loading, new = _em(state.loading, noise, state.covariance, state.least)
        spread = jnp.sqrt(jnp.diagonal(state.covariance))
        changes = jnp.max(jnp.abs(new / noise - 1.0)), jnp.max(jnp.abs(loading - state.loading) / spread[:, None])
        evidence = _evidence_of_covariance(loading, new, state.covariance)
        return FactorAnalysisState(
            state.mean, state.covariance, state.least, loading, jnp.log(new), evidence, jnp.maximum(*changes)
        )


def em_step(model: LinearGaussianModel, covariance: Square, least: Any = 0.0) -> LinearGaussianModel:
    """One step of EM (Rubin and Thayer 1982): no data of that covariance are less likely after it.

    It maximizes the evidence bound over W and D with the posterior held at that of `model`; W does not depend on D, so
    that a floor of D keeps the maximum over what is allowed.

    Args:
        model: where to start; its mean stays.
        covariance: of the data about `model.mean`, with denominator N, `[features, features]`.
        least: floor of the noise variances, a number or `[features]`.

    Raises:
        ValueError: a covariance that does not fit the model, is not finite or not symmetric.
    """
    size = model.features
    if np.shape(covariance) != (size, size):
        raise ValueError(f"covariance must be [{size}, {size}] as the model, but {np.shape(covariance)} was given.")
    if not is_traced(covariance):
        C = np.asarray(covariance)
        if not np.all(np.isfinite(C)) or np.any(np.abs(C - C.T) > 1e-9 * np.max(np.abs(C))):
            raise ValueError(f"covariance must be finite and symmetric, but {C} was given.")
    loading, noise = at_precision(_em, model.loading, model.noise_variance, covariance, least)
    return LinearGaussianModel(loading, model.mean, noise)


@jax.jit
def _em(loading, noise, covariance, least):
    weighted = loading / noise[:, None]
    inner = jnp.eye(loading.shape[1], dtype=loading.dtype) + loading.T @ weighted
    factor = jax.scipy.linalg.cho_factor(inner, lower=True)
    gain = jax.scipy.linalg.cho_solve(factor, weighted.T)
    cross = covariance @ gain.T
    second = jax.scipy.linalg.cho_solve(factor, jnp.eye(inner.shape[0], dtype=inner.dtype)) + gain @ cross
    new = jnp.linalg.solve(second, cross.T).T
    return new, jnp.maximum(jnp.diagonal(covariance) - jnp.sum(new * cross, axis=1), least)


def profile_of(covariance: Square, log_noise: Float[Array, " features"], latents: int) -> Profile:
    """The best W for the noise variances, the mean log evidence there, and its derivative."""
    deviation = jnp.exp(0.5 * log_noise)
    values, vectors = descending_eigenvectors(covariance / (deviation[:, None] * deviation[None, :]))
    used = (jnp.arange(values.size) < latents) & (values > 1.0)
    log_values = jnp.log(jnp.where(used, values, 1.0))
    f = values.size * math.log(2 * math.pi) + jnp.sum(log_noise) + jnp.sum(jnp.where(used, log_values + 1.0, values))
    root = safe_root(jnp.where(used, values - 1.0, 0.0)[:latents])
    loading = with_signs(deviation[:, None] * vectors[:, :latents] * root[None, :])
    gradient = vectors**2 @ jnp.where(used, 0.0, 1.0 - values)
    return Profile(-0.5 * f, loading, values, vectors, used, gradient)


def newton_direction(profile: Profile, held: Bool[Array, " features"]) -> Float[Array, " features"]:
    """Newton's move of the logarithms of the noise variances that are not held, with negative curvatures reversed.

    d2f / dt_i dt_j = sum_{m, n others} (l_m + l_n) / 2 u_im u_in u_jm u_jn
                    + sum_{m other, n used} (l_m - 1) (l_m + l_n) / (l_m - l_n) u_im u_in u_jm u_jn,  l = lambda
    """
    values, U, used = profile.eigenvalues, profile.vectors, profile.used
    latents = profile.loading.shape[1]
    others = jnp.where(used, 0.0, 1.0)
    hessian = ((U * others[None, :]) @ U.T) * ((U * (others * values)[None, :]) @ U.T)
    first = values[:latents]
    gap = jnp.where(used[None, :latents] & ~used[:, None], values[:, None] - first[None, :], -jnp.inf)
    between = (values[:, None] - 1.0) * (values[:, None] + first[None, :]) / gap
    for n in range(latents):
        hessian += jnp.outer(U[:, n], U[:, n]) * ((U * between[:, n][None, :]) @ U.T)
    free = ~held
    hessian = jnp.where(free[:, None] & free[None, :], hessian, jnp.eye(values.size, dtype=values.dtype))
    curvatures, axes = jnp.linalg.eigh(hessian)
    curvatures = jnp.maximum(jnp.abs(curvatures), 1e-8 * jnp.max(jnp.abs(curvatures)))
    move = -(axes @ ((axes.T @ jnp.where(free, profile.gradient, 0.0)) / curvatures))
    return jnp.where(free, move, 0.0) * jnp.minimum(1.0, _LONGEST / jnp.max(jnp.abs(move)))


def _held(profile: Profile, log_noise, log_least) -> Bool[Array, " features"]:
    """Which noise variances stand at their floor, with the likelihood falling above it."""
    rounding = 8 * jnp.finfo(log_noise.dtype).eps * (1.0 + jnp.abs(log_least))
    return (log_noise <= log_least + rounding) & (profile.gradient > 0.0)


def _evidence_of_covariance(loading, noise, covariance) -> Float[Array, ""]:
    """Mean log evidence of data with that covariance about the mean."""
    scaled = loading / jnp.sqrt(noise)[:, None]
    factor = jnp.linalg.cholesky(scaled.T @ scaled + jnp.eye(scaled.shape[1], dtype=scaled.dtype))
    half = jax.scipy.linalg.solve_triangular(factor, (loading / noise[:, None]).T, lower=True)
    trace = jnp.sum(jnp.diagonal(covariance) / noise) - jnp.sum((half @ covariance) * half)
    log_det = jnp.sum(jnp.log(noise)) + 2.0 * jnp.sum(jnp.log(jnp.diagonal(factor)))
    return -0.5 * (noise.size * math.log(2 * math.pi) + log_det + trace)
