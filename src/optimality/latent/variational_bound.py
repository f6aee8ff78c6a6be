"""Bounds on the log evidence of one observation, with gradients by name.

    L   = E_q log p(x | z) - beta KL(q || prior),                           log p(x) = L + KL(q || p(z | x)) at beta = 1
    L_K = E log (1/K) sum_k w_k,    w_k = p(x | z_k) p(z_k) / q(z_k),       L = L_1 <= L_2 <= ... <= log p(x)

(Kingma and Welling 2014; Burda, Grosse and Salakhutdinov 2016, theorem 1.) Both estimates are unbiased for their bound,
and so are their gradients, in the parameters of q and in whatever the log-likelihood closes over:

`reparameterized` differentiates through the draws, `z = location + scale noise`.
`score` holds the draws and weights the score of q, `E (c - b) d log q(z)`: no derivative in z, so the log-likelihood
may jump. It is the surrogate of `core.likelihood_ratio`, as in a policy gradient.
`sticking_the_landing` leaves the score of q out of the path, whose mean is zero: without noise where q is the posterior
(Roeder, Wu and Duvenaud 2017).
`doubly_reparameterized` is the same for K draws: the path has weights `w^2 / (sum w)^2`, and its signal does not fade
as K grows (Tucker et al. 2019, equation 8).
"""

from collections.abc import Callable
from typing import Any, Literal, get_args

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from optimality.core.information import effective_sample_size
from optimality.core.likelihood_ratio import surrogate
from optimality.core.numerics import Real, is_traced
from optimality.distributions.multivariate_normal import MultivariateNormal
from optimality.distributions.normal import Normal

Gaussian = Normal | MultivariateNormal
LogLikelihood = Callable[[Float[Array, " latents"]], Float[Array, ""]]
"""`z -> log p(x | z)` of one observation."""
Draw = Callable[[Any], Float[Array, " latents"]]
"""A source of randomness, a key or a noise vector, to z: differentiable in the parameters of the posterior."""
Rate = Literal["analytic", "sampled"]
Estimator = Literal["reparameterized", "score", "sticking_the_landing"]
ImportanceEstimator = Literal["reparameterized", "score", "doubly_reparameterized"]

_stop = jax.lax.stop_gradient


def evidence_bound(
    log_likelihood: LogLikelihood,
    posterior: Gaussian,
    prior: Gaussian,
    key: PRNGKeyArray,
    *,
    samples: int = 1,
    rate: Rate = "analytic",
    beta: Real = 1.0,
    estimator: Estimator = "reparameterized",
) -> Float[Array, ""]:
    """An unbiased estimate of `E_q log p(x | z) - beta KL(q || prior)`, whose gradient is the named estimator's.

    Args:
        log_likelihood: `z -> log p(x | z)` of one observation, summed over features; batches go through `jax.vmap`.
        posterior: q, by its parameters, which are differentiated.
        prior: of z; its parameters are differentiated too.
        key: of the draws.
        samples: draws of z, whose mean is taken.
        rate: the KL in closed form (`analytic`), or by the same draws (`sampled`), which has less variance where q is
            near the posterior, and none at it.
        beta: weight of the KL, not negative.
        estimator: `reparameterized`, `score` or `sticking_the_landing`. `score` takes the mean of the other draws as
            its baseline, and none with one draw. `sticking_the_landing` needs the sampled rate.

    Raises:
        ValueError: for fewer than one draw, an unknown name, a negative `beta`, and `sticking_the_landing` with the
            analytic rate.
    """
    _require_count("samples", samples)
    sources = jax.random.split(key, samples)
    return evidence_bound_of_draws(
        log_likelihood, posterior, prior, posterior.sample, sources, rate=rate, beta=beta, estimator=estimator
    )


def evidence_bound_of_draws(
    log_likelihood: LogLikelihood,
    posterior: Gaussian,
    prior: Gaussian,
    draw: Draw,
    sources: Any,
    *,
    rate: Rate = "analytic",
    beta: Real = 1.0,
    estimator: Estimator = "reparameterized",
) -> Float[Array, ""]:
    """`evidence_bound` at the draws `draw(source)` of each source along the first axis: for noise drawn elsewhere,
    as one block for a whole batch or at the nodes of a quadrature rule."""
    _require_name("rate", rate, Rate)
    _require_name("estimator", estimator, Estimator)
    if estimator == "sticking_the_landing" and rate == "analytic":
        raise ValueError(
            "estimator='sticking_the_landing' leaves the score out of a sampled log q, but rate='analytic' was given, "
            "which samples none: pass rate='sampled'."
        )
    if not is_traced(beta) and not 0.0 <= float(beta) < np.inf:
        raise ValueError(f"beta must be finite and not negative, but {beta} was given: 1 is the evidence bound.")

    held = _stop(posterior) if estimator == "sticking_the_landing" else posterior

    def earned(source: Any) -> tuple[Float[Array, ""], Float[Array, ""]]:
        """What a draw adds to the bound, and its log q."""
        z = draw(source)
        z = _stop(z) if estimator == "score" else z
        value, log_q = log_likelihood(z), _log_prob(posterior, z)
        if rate == "sampled":
            weight = jnp.asarray(beta, value.dtype)
            value = value - weight * (_log_prob(held, z) - _log_prob(prior, z))
        return value, log_q

    values, log_q = jax.vmap(earned)(sources)
    if estimator == "score":
        # The score inside a sampled rate, of weight -beta and mean zero, stays for the sake of higher derivatives; in
        # the first one this baseline takes it out.
        inner = jnp.asarray(beta if rate == "sampled" else 0.0, values.dtype)
        values = surrogate(log_q, values, _mean_of_others(values) - inner)
    bound = jnp.mean(values)
    if rate == "analytic":
        bound = bound - jnp.asarray(beta, bound.dtype) * analytic_rate(posterior, prior)
    return bound


class ImportanceWeightedBound(eqx.Module):
    """Of one observation."""

    value: Float[Array, ""]
    """`log (1/K) sum_k w_k`, whose gradient is the named estimator's."""
    effective_sample_size: Float[Array, ""]
    """`(sum w)^2 / sum w^2`, between 1 and K."""
    largest_weight: Float[Array, ""]
    """As a share of the sum."""


def importance_weighted_bound(
    log_likelihood: LogLikelihood,
    posterior: Gaussian,
    prior: Gaussian,
    key: PRNGKeyArray,
    *,
    samples: int,
    chunk: int | None = None,
    estimator: ImportanceEstimator = "reparameterized",
) -> ImportanceWeightedBound:
    """An estimate of the bound of K = `samples` (Burda, Grosse and Salakhutdinov 2016, equation 8).

    It tells the evidence only where q covers the posterior: with q on one of two equal modes it approaches
    `log p(x) - log 2` first, and the effective sample size does not show it.

    Args:
        log_likelihood: `z -> log p(x | z)` of one observation.
        posterior: q.
        prior: of z.
        key: of the draws; the same draws for every `chunk`.
        samples: K.
        chunk: draws that are held at a time, forwards and backwards, where only the K log-weights are kept; it need
            not divide K. None holds all.
        estimator: `reparameterized`, `score` or `doubly_reparameterized`, which evaluates the log-likelihood twice.
            `score` gives each draw a baseline from the others, the bound with its log-weight replaced by the mean of
            theirs (Mnih and Rezende 2016, equation 9), and none with one draw.

    Raises:
        ValueError: for fewer than one draw, a chunk below one, and an unknown name.
    """
    _require_count("samples", samples)
    sources = jax.random.split(key, samples)
    return importance_weighted_bound_of_draws(
        log_likelihood, posterior, prior, posterior.sample, sources, chunk=chunk, estimator=estimator
    )


def importance_weighted_bound_of_draws(
    log_likelihood: LogLikelihood,
    posterior: Gaussian,
    prior: Gaussian,
    draw: Draw,
    sources: Any,
    *,
    chunk: int | None = None,
    estimator: ImportanceEstimator = "reparameterized",
) -> ImportanceWeightedBound:
    """`importance_weighted_bound` at the draws `draw(source)` of each source along the first axis."""
    _require_name("estimator", estimator, ImportanceEstimator)
    if chunk is not None:
        _require_count("chunk", chunk)
    samples = jax.tree.leaves(sources)[0].shape[0]

    def log_weight(q: Gaussian, z: Float[Array, " latents"]) -> Float[Array, ""]:
        return log_likelihood(z) + _log_prob(prior, z) - _log_prob(q, z)

    def along(function: Callable[..., Any], *arguments: Any) -> Any:
        """`function` at every source, a chunk at a time; what is inside it is computed again for derivatives."""
        if chunk is None or chunk >= samples:
            return jax.vmap(function)(sources, *arguments)
        again = jax.checkpoint(lambda each: function(*each))
        return jax.lax.map(again, (sources, *arguments), batch_size=chunk)

    def at_draw(source: Any) -> Float[Array, ""]:
        return log_weight(posterior, draw(source))

    def at_held_draw(source: Any) -> tuple[Float[Array, ""], Float[Array, ""]]:
        z = _stop(draw(source))
        return log_weight(posterior, z), _log_prob(posterior, z)

    def at_weighted_draw(source: Any, share: Float[Array, ""]) -> Float[Array, ""]:
        z = draw(source)
        held = _stop(z)
        return log_weight(_stop(posterior), held + share * (z - held))

    if estimator == "score":
        log_weights, log_q = along(at_held_draw)
        value = _log_mean(log_weights)
        # Each draw's own share of the score inside the log-weights is 1/K on average, which the baseline takes out.
        baseline = _log_mean_without(log_weights) - 1.0 / samples
        every = surrogate(jnp.sum(log_q), value)
        value = every + jnp.sum(surrogate(log_q, jnp.zeros_like(log_q), baseline))
    elif estimator == "doubly_reparameterized":
        log_weights = _stop(along(at_draw))
        shares = jax.nn.softmax(log_weights)
        paths = along(at_weighted_draw, shares)
        value = _log_mean(log_weights) + jnp.sum(shares * (paths - _stop(paths)))
    else:
        log_weights = along(at_draw)
        value = _log_mean(log_weights)
    log_weights = _stop(log_weights)
    return ImportanceWeightedBound(value, effective_sample_size(log_weights), jnp.max(jax.nn.softmax(log_weights)))


def analytic_rate(posterior: Gaussian, prior: Gaussian) -> Float[Array, ""]:
    """`KL(posterior || prior)` in closed form, summed over latents; the two may differ in family."""
    if type(posterior) is not type(prior):
        posterior, prior = _joint(posterior), _joint(prior)
    return jnp.sum(posterior.kl(prior))


def few_effective_samples(effective: Any, samples: int, *, least: float = 10.0) -> str | None:
    """A sentence where the median of effective sample sizes, of one or of many observations, is below `least`."""
    median = float(np.median(np.asarray(effective)))
    if median >= least:
        return None
    return (
        f"The importance-weighted bound of {samples} draws rests on {median:.1f} effective draws, fewer than "
        f"{least:g}: its distance from the log evidence is not known. Take more draws, or fit the posterior better."
    )


def _log_prob(law: Gaussian, z: Float[Array, " latents"]) -> Float[Array, ""]:
    return jnp.sum(law.log_prob(z))


def _joint(law: Gaussian) -> MultivariateNormal:
    if isinstance(law, MultivariateNormal):
        return law
    return MultivariateNormal(law.location, jnp.diag(jnp.asarray(law.scale)))


def _mean_of_others(values: Float[Array, " samples"]) -> Float[Array, " samples"]:
    if values.shape[0] == 1:
        return jnp.zeros_like(values)
    return (jnp.sum(values) - values) / (values.shape[0] - 1)


def _log_mean(log_weights: Float[Array, " samples"]) -> Float[Array, ""]:
    return jax.nn.logsumexp(log_weights) - np.log(log_weights.shape[0])


def _log_mean_without(log_weights: Float[Array, " samples"]) -> Float[Array, " samples"]:
    """The log-mean weight with one log-weight replaced by the mean of the others; zero for a single one.

    By sums from both ends: a difference of sums would lose the small weights beside a large one.
    """
    samples = log_weights.shape[0]
    if samples == 1:
        return jnp.zeros_like(log_weights)
    nothing = jnp.full((1,), -jnp.inf, log_weights.dtype)
    before = jnp.concatenate([nothing, jax.lax.cumlogsumexp(log_weights)[:-1]])
    after = jnp.concatenate([jax.lax.cumlogsumexp(log_weights, reverse=True)[1:], nothing])
    others = jnp.logaddexp(jnp.logaddexp(before, after), _mean_of_others(log_weights))
    return others - np.log(samples)


def _require_count(name: str, count: int) -> None:
    if isinstance(count, bool) or not isinstance(count, int | np.integer) or count < 1:
        raise ValueError(f"{name} must be a whole number, at least 1, but {count!r} was given.")


def _require_name(what: str, name: str, names: Any) -> None:
    if name not in get_args(names):
        raise ValueError(f"{what} must be one of {', '.join(get_args(names))}, but {name!r} was given.")
