"""Episodic relative entropy policy search: a normal distribution of parameters, improved by the returns they had.

    max_p sum_i p_i R_i    subject to   KL(p || q) <= epsilon,    sum_i p_i phi(c_i) = sum_i q_i phi(c_i)
    p_i ~ q_i exp((R_i - V(c_i)) / eta),        V(c) = v' phi(c)
    search <- argmax sum_i p_i log N(theta_i; W' phi(c_i), Sigma)    subject to    E_q KL(old || new) <= bound

where q are the samples, equally weighted or by importance, and phi the features of the context c in which parameters
were tried, a constant among them; without contexts phi is that constant and the moments cancel (Kupcsik, Deisenroth,
Peters and Neumann 2013; Deisenroth, Neumann and Peters 2013, section 2.4.3). The second bound is there because the
divergence of the fitted distribution is not epsilon: with few samples it is far above, and infinite for N <= d.

It needs a simulator only, nothing of environments: sample parameters, measure returns, update.
"""

from functools import partial
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from optimality.core.information_projection import information_projection
from optimality.core.numerics import Real, at_precision, cast_floats, float_dtype, is_traced, precision
from optimality.core.result import Result
from optimality.policies.constrained_fit import kl_constrained_fit
from optimality.policies.weighted_fit import Structure, weighted_linear_gaussian

Matrix = Float[Array | np.ndarray, "..."]  # shapes are checked by `update`, with words
Vector = Float[Array | np.ndarray, " samples"]
Number = Float[Array | np.ndarray | np.generic, ""]


class SearchDistribution(eqx.Module):
    """`theta ~ N(W' phi(c), L L')`."""

    W: Float[Array | np.ndarray, "features parameters"]
    """Of the mean; one row where there are no contexts."""
    scale_cholesky: Float[Array | np.ndarray, "parameters parameters"]
    """L, lower triangular with a positive diagonal."""

    def __check_init__(self):
        d = self.W.shape[-1]
        if self.W.ndim != 2 or self.scale_cholesky.shape != (d, d) or d == 0:
            raise ValueError(
                f"W and scale_cholesky must be [k, d] and [d, d], but {self.W.shape} and {self.scale_cholesky.shape} "
                "were given: without contexts W has one row."
            )

    @classmethod
    def around(cls, mean: Any, deviation: Any, *, features: int = 1) -> "SearchDistribution":
        """Independent parameters with this `mean [d]` in every context and this `deviation`, a number or `[d]`.

        `features` counts the context's, of which the first must be the constant. Raises `ValueError` for a deviation
        that is not positive.
        """
        mean = np.atleast_1d(np.asarray(mean, np.float64))
        deviation = np.broadcast_to(np.asarray(deviation, np.float64), mean.shape)
        if not (np.all(np.isfinite(mean)) and np.all(np.isfinite(deviation)) and np.all(deviation > 0.0)):
            raise ValueError(f"mean must be finite and deviation positive, but {mean} and {deviation} were given.")
        return cls(np.concatenate([mean[None], np.zeros((features - 1, mean.size))]), np.diag(deviation))

    @property
    def covariance(self) -> Float[Array | np.ndarray, "parameters parameters"]:
        return self.scale_cholesky @ self.scale_cholesky.T

    def mean(self, phi: Any = None) -> Float[Array | np.ndarray, " parameters"]:
        """In one context, by its features `[k]`; without contexts they are left out."""
        return self.W[0] if phi is None else phi @ self.W

    def draw(self, key: PRNGKeyArray, phi: Any = None) -> Float[Array, " parameters"]:
        """Parameters for one context."""
        W, factor = jnp.asarray(self.W), jnp.asarray(self.scale_cholesky)
        mean = W[0] if phi is None else jnp.asarray(phi, W.dtype) @ W
        return mean + factor @ jax.random.normal(key, mean.shape, mean.dtype)

    def sample(self, key: PRNGKeyArray, contexts: int | Matrix) -> Float[Array, "samples parameters"]:
        """As many parameters, or one for each row of context features `[N, k]`."""
        if isinstance(contexts, int):
            return jax.vmap(self.draw)(jax.random.split(key, contexts))
        return jax.vmap(self.draw)(jax.random.split(key, contexts.shape[0]), jnp.asarray(contexts))

    def log_prob(self, theta: Any, phi: Any = None) -> Float[Array, ""]:
        """Of one vector of parameters in one context."""
        factor = jnp.asarray(self.scale_cholesky)
        gap = jnp.asarray(theta, factor.dtype) - jnp.asarray(self.mean(phi), factor.dtype)
        z = jax.scipy.linalg.solve_triangular(factor, gap, lower=True)
        log_determinant = jnp.sum(jnp.log(jnp.diagonal(factor)))
        return -0.5 * jnp.sum(z**2) - log_determinant - 0.5 * z.size * float(np.log(2.0 * np.pi))

    def entropy(self) -> Float[Array, ""]:
        factor = jnp.asarray(self.scale_cholesky)
        return jnp.sum(jnp.log(jnp.diagonal(factor))) + 0.5 * factor.shape[0] * float(np.log(2.0 * np.pi * np.e))


class SearchUpdate(eqx.Module):
    """What an update did.

    `result` is that of the projection: `CONVERGED`; `CONSTRAINT_INACTIVE` where no sample is better than another, also
    with one sample; `COLLAPSED` where epsilon allows the best samples alone, as it does at `epsilon >= log N`; and
    `NON_FINITE`. The search stays as it was after the second and the last, and where the fit was not positive definite.
    """

    temperature: Number
    """eta, in units of the returns."""
    multipliers: Float[Array | np.ndarray, " features"]
    """v, of the context's value; empty without contexts."""
    log_weights: Vector
    """log p, of sum one."""
    kl: Number
    """`KL(p || q)` of the weights."""
    kl_old_new: Number
    """`KL(old || new)` of the distribution, averaged over the contexts: what `bound` bounds."""
    kl_new_old: Number
    effective_sample_size: Number
    """`1 / sum p^2`."""
    entropy_before: Number
    entropy_after: Number
    mean_return: Number
    """Under q."""
    expected_return: Number
    """Under p: what the update counts on."""
    applied: Any
    """Whether the update was finite."""
    result: Any
    """A `Result`; inside `jit` its code."""


def update(
    search: SearchDistribution,
    parameters: Matrix,
    returns: Matrix,
    contexts: Matrix | None = None,
    *,
    epsilon: Real,
    bound: Real | bool | None = None,
    log_weights: Matrix | None = None,
    baseline: Matrix | None = None,
    structure: Structure = "full",
) -> tuple[SearchDistribution, SearchUpdate]:
    """One step of the search. Float64 always; traced float32 arguments give float32.

    Args:
        search: what the parameters were drawn from.
        parameters: `[N, d]`.
        returns: `[N]`, in any unit.
        contexts: features of each sample's context, `[N, k]`, a constant among them.
        epsilon: bound on the divergence of the weights, in nats.
        bound: on the divergence of the distribution; epsilon by default, False or infinity for the plain fit.
        log_weights: of importance, `[N]`: `log search(theta) - log of what drew it`; `-inf` leaves a sample out.
        baseline: `[N]`, what is subtracted from the returns: anything that does not depend on the parameters.
        structure: of the covariance.

    Raises:
        ValueError: shapes that do not agree, fewer than `k + 1` samples in contexts, values that are not finite, bounds
            that are not positive. Inside `jit` values cannot be refused: see `SearchUpdate`.
    """
    if np.ndim(parameters) != 2 or np.shape(parameters)[0] == 0:
        raise ValueError(f"parameters must be [N, d] with N >= 1, but their shape is {np.shape(parameters)}.")
    number, k = np.shape(parameters)[0], 1 if contexts is None else np.shape(contexts)[-1]
    if np.shape(search.W) != (k, np.shape(parameters)[1]):
        raise ValueError(
            f"the search has W {np.shape(search.W)}, but {k} context features and {np.shape(parameters)[1]} parameters "
            "were given: W must be [k, d], with k = 1 without contexts."
        )
    if contexts is not None and number < k + 1:
        raise ValueError(f"{k} context features need at least {k + 1} samples, but {number} were given.")
    phi = np.ones((number, 1)) if contexts is None else contexts
    base = np.zeros(number) if log_weights is None else log_weights
    baseline = np.zeros(number) if baseline is None else baseline
    for name, value, shape in (
        ("returns", returns, (number,)),
        ("contexts", phi, (number, k)),
        ("log_weights", base, (number,)),
        ("baseline", baseline, (number,)),
    ):
        if np.shape(value) != shape:
            raise ValueError(f"{name} must have shape {shape}, but it has {np.shape(value)}.")
    if bound is True:
        raise ValueError("bound must be a number of nats, None for epsilon, or False for the plain fit, but is True.")
    plain = bound is False or (not is_traced(bound) and bound is not None and float(np.asarray(bound)) == np.inf)
    bound = epsilon if bound is None or plain else bound
    arguments = (search, parameters, returns, phi, base, baseline, epsilon, bound)
    kernel = partial(_compiled, contextual=contexts is not None, plain=plain, structure=structure)
    if not is_traced(arguments):
        _check(parameters, returns, phi, base, baseline, epsilon, bound)
        new, done = at_precision(kernel, *arguments)
        return new, eqx.tree_at(lambda d: (d.result, d.applied), done, (Result.of(done.result), bool(done.applied)))
    dtype = float_dtype(arguments)
    arguments = cast_floats(arguments, dtype)
    if dtype == jnp.float64:
        return kernel(*arguments)
    with precision(np.float64):
        return cast_floats(kernel(*jax.lax.stop_gradient(cast_floats(arguments, jnp.float64))), dtype)


def _check(parameters, returns, phi, base, baseline, epsilon, bound) -> None:
    base = np.asarray(base, np.float64)
    if np.any(np.isnan(base)) or np.any(base == np.inf) or not np.any(np.isfinite(base)):
        raise ValueError("log_weights must be finite, or -inf for samples to be left out, and not -inf everywhere.")
    used = np.isfinite(base)
    named = {"parameters": parameters, "returns": returns, "contexts": phi, "baseline": baseline}
    for name, value in named.items():
        bad = used & ~np.isfinite(np.asarray(value, np.float64)).reshape(used.size, -1).all(axis=1)
        if bad.any():
            raise ValueError(
                f"{name} are not finite in {int(bad.sum())} of {int(used.sum())} samples, first in sample "
                f"{int(np.argmax(bad))}: give them a bad but finite return, or leave them out by log_weights = -inf."
            )
    for name, value in (("epsilon", epsilon), ("bound", bound)):
        if not (np.isfinite(float(value)) and float(value) > 0.0):
            raise ValueError(f"{name} must be positive and finite, but {value} was given.")


def _update(
    search,
    parameters,
    returns,
    phi,
    base,
    baseline,
    epsilon,
    bound,
    *,
    contextual: bool,
    plain: bool,
    structure: Structure,
):
    used = ~jnp.isneginf(base)
    log_q = jnp.where(used, base - jax.nn.logsumexp(base), -jnp.inf)
    q = jnp.exp(log_q)
    row = used[:, None]
    finite = jnp.all(jnp.where(row, jnp.isfinite(parameters) & jnp.all(jnp.isfinite(phi), axis=1)[:, None], True))
    phi = jnp.where(row & finite, phi, 1.0)
    f = jnp.where(used, returns - baseline, 0.0)
    if contextual:
        projection = information_projection(f, phi, q @ phi, log_base=log_q, epsilon=epsilon)
    else:
        projection = information_projection(f, log_base=log_q, epsilon=epsilon)
    log_p = projection.log_p
    divergences = None
    if plain:
        fit = weighted_linear_gaussian(phi, parameters, log_p, structure=structure)
    else:
        fit = kl_constrained_fit(
            search.W, search.covariance, phi, parameters, log_p, bound=bound, log_visits=log_q, structure=structure
        )
        divergences = jnp.asarray(fit.kl_old_new), jnp.asarray(fit.kl_new_old)
    factor = _factor(fit.covariance, structure)
    sound = finite & (projection.result != Result.NON_FINITE)
    applied = sound & jnp.all(jnp.isfinite(fit.W)) & jnp.all(jnp.isfinite(factor))
    moved = applied & (projection.result != Result.CONSTRAINT_INACTIVE)
    new = SearchDistribution(
        jnp.where(moved, fit.W, search.W),
        jnp.where(moved, factor, search.scale_cholesky),
    )
    if divergences is None:
        moments = phi.T @ (q[:, None] * phi)
        divergences = _divergence(search, new, moments), _divergence(new, search, moments)
    old_new, new_old = divergences
    total = jnp.where(used, returns, 0.0)
    return new, SearchUpdate(
        temperature=projection.temperature,
        multipliers=projection.multipliers,
        log_weights=log_p,
        kl=projection.kl,
        kl_old_new=jnp.where(moved, old_new, 0.0),
        kl_new_old=jnp.where(moved, new_old, 0.0),
        effective_sample_size=projection.effective_sample_size,
        entropy_before=search.entropy(),
        entropy_after=new.entropy(),
        mean_return=jnp.sum(q * total),
        expected_return=jnp.sum(jnp.exp(log_p) * total),
        applied=applied,
        result=jnp.where(finite, projection.result, int(Result.NON_FINITE)),
    )


def _factor(covariance, structure: Structure):
    if structure == "full":
        return jnp.linalg.cholesky(covariance)
    variances = jnp.diagonal(covariance)
    return jnp.diag(jnp.sqrt(jnp.where(variances > 0.0, variances, jnp.nan)))


def _divergence(one: SearchDistribution, other: SearchDistribution, moments):
    """`E_q KL(one || other)`, where `moments` are `E_q phi phi'`."""
    solve = partial(jax.scipy.linalg.solve_triangular, jnp.asarray(other.scale_cholesky), lower=True)
    ratio, gap = solve(one.scale_cholesky), solve((one.W - other.W).T)
    log_ratio = jnp.log(jnp.diagonal(other.scale_cholesky)) - jnp.log(jnp.diagonal(one.scale_cholesky))
    return 0.5 * (jnp.sum(ratio**2) - ratio.shape[0] + jnp.sum(gap * (gap @ moments))) + jnp.sum(log_ratio)


_compiled = jax.jit(_update, static_argnames=("contextual", "plain", "structure"))
