"""Evidence without sampling, for one and two latents, and the exact importance-weighted bound of every K.

    log p(x) = log sum_i h^d exp(log p(x, z_i)),                                     z_i on an equally spaced grid
    L_K      = int_0^inf (exp(-t) - M(t)^K) / t dt - log K,                          M(t) = E_q exp(-t p(x, z) / q(z))

The first is the trapezoid rule in logs, whose error falls faster than any power of the step where the joint density is
smooth and vanishes at the borders (Trefethen and Weideman 2014, theorem 5.1). Gauss-Hermite rules are not used: with a
decoder that bends inside the prior's width, 180 nodes are right to two digits, and identities such as Fisher's hold on
a wrong grid just as well.
The second is `E log S = int_0^inf (exp(-t) - E exp(-t S)) / t dt` for the sum S of K independent weights, by the same
rule in `log t`.
"""

import warnings
from collections.abc import Callable
from functools import partial
from types import CellType, FunctionType, MethodType
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import logsumexp
from jaxtyping import Array, Float

from optimality.core.numerics import at_precision, cast_floats, float_dtype, is_traced
from optimality.distributions.multivariate_normal import MultivariateNormal
from optimality.distributions.normal import Normal

LogJoint = Callable[[Float[Array, " latents"]], Float[Array, ""]]
"""`z -> log p(x, z)` of one observation."""

WIDER, COARSER = 1.25, 1.1
"""The second grid, which judges the first: a quarter wider, with steps a tenth longer."""
ACCEPTED = 1e-6
"""Largest difference in log evidence between the two that is not warned about."""
_REACH = 12.0  # standard deviations of q; beyond it K q is below 1e-25 for a million draws
_SPREAD = 10.0  # of `log t = spread sinh v`: even steps around the transitions, long ones where weights are tiny
_LANES = 4096


class QuadratureWarning(UserWarning):
    """Two grids disagree, so that neither is to be trusted."""


class QuadratureEvidence(eqx.Module):
    """Of one observation, NumPy float64 unless traced."""

    log_evidence: Float[Array | np.ndarray, ""]
    mean: Float[Array | np.ndarray, " latents"]
    """Of the posterior."""
    covariance: Float[Array | np.ndarray, "latents latents"]
    error: Float[Array | np.ndarray, ""]
    """By how much the log evidence of a wider and coarser grid differs: an upper estimate of the error."""


def quadrature_evidence(
    log_joint: LogJoint, latents: int, *, center: Any = 0.0, half_width: Any = 12.0, nodes: int = 1001
) -> QuadratureEvidence:
    """Log evidence, and mean and covariance of the posterior, by the trapezoid rule.

    Args:
        log_joint: `z [latents] -> log p(x, z)`, built of JAX operations; -inf where the density is zero. As a
            `jax.tree_util.Partial(function, x)`, or a method of a module, it is compiled once for all x.
        latents: 1 or 2.
        center: middle of the grid, a number or one for each latent.
        half_width: from the middle to the border. The default holds a standard normal prior to 1e-31.
        nodes: along each latent, at least 3; two latents take their square.

    Raises:
        ValueError: for more than two latents, fewer than three nodes, a half-width that is not positive, a log joint
            that is NaN or +inf somewhere on the grid, or -inf everywhere.

    Warns:
        QuadratureWarning: where a second grid disagrees by more than 1e-6: more nodes or another width are needed.
    """
    if latents not in (1, 2):
        raise ValueError(
            f"quadrature_evidence takes 1 or 2 latents, but {latents} were given: a grid of more is too large, use "
            f"importance_weighted_bound, or LinearGaussianModel.log_evidence of a linear model."
        )
    if nodes < 3:
        raise ValueError(f"nodes must be at least 3, but {nodes} was given.")
    center, half_width = _each(center, latents, "center"), _each(half_width, latents, "half_width")
    if not is_traced((center, half_width)) and not (
        np.all(np.isfinite(np.asarray(center)))
        and np.all(np.isfinite(np.asarray(half_width)) & (np.asarray(half_width) > 0.0))
    ):
        raise ValueError(
            f"center must be finite and half_width positive and finite, but {center} and {half_width} were given."
        )
    kernels = partial(_evidence, nodes=nodes), partial(_compiled_evidence, nodes=nodes)
    found, worst, where = _in_float64(*kernels, log_joint, center, half_width)
    if not is_traced(found):
        _judge(found, worst, where)
    return found


def exact_importance_weighted_bound(
    log_joint: LogJoint, posterior: Normal | MultivariateNormal, samples: Any, *, nodes: int = 4001, steps: int = 3001
) -> Float[Array | np.ndarray, "..."]:
    """`E log (1/K) sum_k p(x, z_k) / q(z_k)` for each K, by a one-dimensional integral for each; one latent.

    Args:
        log_joint: `z [1] -> log p(x, z)`.
        posterior: q, of one latent.
        samples: K, a number or an array, at least 1 and at most a million.
        nodes: of the grid in z, 12 standard deviations of q to each side.
        steps: of the grid in `log t`.

    Returns:
        The bounds in the shape of `samples`. K = 1 is the evidence bound.

    Raises:
        ValueError: for a posterior of more than one latent, a K outside its range, a log joint that is NaN or +inf.

    Warns:
        QuadratureWarning: where every other node, or every other step, gives a bound that differs by more than 1e-6.
    """
    if np.shape(posterior.location) != (1,):
        raise ValueError(
            f"exact_importance_weighted_bound takes a posterior of one latent, with a location of shape (1,), but "
            f"{np.shape(posterior.location)} was given: for more latents use importance_weighted_bound."
        )
    counts = np.asarray(samples, np.float64)
    if not np.all((counts >= 1.0) & (counts <= 1e6)):
        raise ValueError(f"samples must be between 1 and a million, but {samples} was given.")
    if nodes < 5 or steps < 5:
        raise ValueError(f"nodes and steps must be at least 5, but {nodes} and {steps} were given.")
    odd = {"nodes": nodes | 1, "steps": steps | 1}
    kernels = partial(_bounds, **odd), partial(_compiled_bounds, **odd)
    bounds, error, worst, where = _in_float64(*kernels, log_joint, posterior, counts.ravel())
    if not is_traced(bounds):
        _refuse_non_finite(worst, where)
        if not np.max(error, initial=0.0) <= ACCEPTED:
            warnings.warn(
                f"Two grids give importance-weighted bounds that differ by {np.max(error):.1g}: raise nodes or steps.",
                QuadratureWarning,
                stacklevel=2,
            )
    return bounds.reshape(counts.shape)


def _each(value: Any, latents: int, name: str) -> Any:
    value = value if is_traced(value) else np.asarray(value, np.float64)
    if value.shape not in ((), (1,), (latents,)):
        raise ValueError(f"{name} must be a number or one for each of {latents} latents, but {value} was given.")
    return value + (jnp if is_traced(value) else np).zeros(latents, value.dtype)


def _in_float64(kernel: Callable[..., Any], compiled: Callable[..., Any], log_joint: LogJoint, *arguments: Any) -> Any:
    """`compiled(log_joint, *arguments)` in float64 and back as NumPy, or `kernel` as it is where something is traced:
    the arguments, or what the log joint holds or closes over."""
    captured = _captured(log_joint, set())
    if is_traced((arguments, captured)):
        return kernel(*cast_floats((log_joint, *arguments), float_dtype((arguments, captured))))
    return at_precision(compiled, log_joint, *arguments)


def _captured(thing: Any, seen: set[int]) -> list[Any]:
    """The leaves of a function or module and of all that it closes over.

    Read from its cells and not by tracing it: JAX cannot trace in float64 what closes over a NumPy matrix and was
    traced in float32 before.
    """
    if id(thing) in seen:
        return []
    seen.add(id(thing))
    parts: list[Any] = []
    if isinstance(thing, partial):
        parts += [thing.func, thing.args, thing.keywords]
    elif isinstance(thing, FunctionType):
        parts += [cell.cell_contents for cell in thing.__closure__ or () if _is_filled(cell)]
        parts += [thing.__defaults__, thing.__kwdefaults__]
    elif isinstance(thing, MethodType):
        parts += [thing.__func__, thing.__self__]
    else:
        leaves = jax.tree.leaves(thing)
        inner = [leaf for leaf in leaves if isinstance(leaf, partial | FunctionType | MethodType)]
        return leaves + [each for leaf in inner for each in _captured(leaf, seen)]
    return [each for part in parts for each in _captured(part, seen)]


def _is_filled(cell: CellType) -> bool:
    try:
        cell.cell_contents  # noqa: B018
    except ValueError:
        return False
    return True


def _judge(found: QuadratureEvidence, worst: Any, where: Any) -> None:
    _refuse_non_finite(worst, where)
    if np.isneginf(found.log_evidence):
        raise ValueError("log_joint is -inf at every node: move center, or widen half_width, to where z has density.")
    if not found.error <= ACCEPTED:
        warnings.warn(
            f"Two grids give log evidences that differ by {found.error:.1g}: raise nodes if the posterior is narrower "
            f"than a few steps, or half_width if it reaches the border.",
            QuadratureWarning,
            stacklevel=3,
        )


def _refuse_non_finite(worst: Any, where: Any) -> None:
    if not worst < np.inf:
        raise ValueError(
            f"log_joint must be finite, or -inf where the density is zero, but it is {worst} at z = {where}: look for "
            f"overflow, or choose a narrower grid."
        )


def _trapezoid(log_joint: LogJoint, center: Any, half_width: Any, nodes: int) -> tuple[Any, Any, Any]:
    """Nodes `[n, latents]`, the log joint there, and it with the log weights of the rule."""
    line = jnp.linspace(-1.0, 1.0, nodes, dtype=center.dtype)
    ends = jnp.full(nodes, 0.0, center.dtype).at[jnp.array([0, nodes - 1])].set(-np.log(2.0))
    axes = [c + h * line for c, h in zip(center, half_width, strict=True)]
    z = jnp.stack([axis.ravel() for axis in jnp.meshgrid(*axes, indexing="ij")], axis=1)
    log_weights = sum(each.ravel() for each in jnp.meshgrid(*([ends] * len(axes)), indexing="ij"))
    log_step = jnp.sum(jnp.log(2.0 * half_width / (nodes - 1)))
    values = jax.lax.map(log_joint, z, batch_size=min(_LANES, z.shape[0]))
    if values.shape != z.shape[:1]:
        raise ValueError(
            f"log_joint must return a number for z of shape {z.shape[1:]}, but it returns an array of shape "
            f"{values.shape[1:]}: sum over features and latents."
        )
    return z, values, values + log_weights + log_step


def _evidence(log_joint: LogJoint, center: Any, half_width: Any, *, nodes: int) -> tuple[QuadratureEvidence, Any, Any]:
    z, values, terms = _trapezoid(log_joint, center, half_width, nodes)
    log_evidence = logsumexp(terms)
    weights = jnp.exp(terms - log_evidence)
    mean = weights @ z
    centered = z - mean[None]
    covariance = (weights[:, None] * centered).T @ centered
    others = int(np.ceil((nodes - 1) * WIDER / COARSER)) + 1
    _, _, other = _trapezoid(log_joint, center, WIDER * half_width, others)
    error = jnp.abs(logsumexp(other) - log_evidence)
    worst = jnp.argmax(jnp.where(jnp.isnan(values), jnp.inf, values))
    return QuadratureEvidence(log_evidence, mean, covariance, error), values[worst], z[worst]


def _bounds(log_joint: LogJoint, posterior: Any, samples: Any, *, nodes: int, steps: int) -> tuple[Any, Any, Any, Any]:
    scale = jnp.sqrt(posterior.variance())
    z, values, terms = _trapezoid(log_joint, posterior.mean(), _REACH * scale, nodes)
    step = 2.0 * _REACH * scale[0] / (nodes - 1)
    log_q = jax.vmap(lambda each: jnp.sum(posterior.log_prob(each)))(z)
    log_w, log_mass = values - log_q, log_q + jnp.log(step)
    center = logsumexp(terms)  # E_q w is one in these units
    log_w = log_w - center
    # Weights below what K draws can meet do not delay the integral's end.
    floor = jnp.min(jnp.where(log_mass > -60.0, log_w, jnp.inf))
    reach = jnp.arcsinh(jnp.stack([jnp.asarray(60.0, floor.dtype), jnp.clip(-floor, 0.0, 1e8) + 10.0]) / _SPREAD)
    v = jnp.linspace(-reach[0], reach[1], steps)
    u, slope = _SPREAD * jnp.sinh(v), _SPREAD * jnp.cosh(v)
    widths = jnp.full(steps, v[1] - v[0]).at[jnp.array([0, steps - 1])].multiply(0.5)

    mass = jnp.exp(log_mass)
    masses = jnp.stack([mass, jnp.where(jnp.arange(nodes) % 2 == 0, 2.0 * mass, 0.0)])

    def log_moments(each: Any) -> Any:
        """`log E_q exp(-t w)` on all nodes and on every other: by its distance from one, or, if large, itself."""
        tw = jnp.exp(jnp.minimum(each + log_w, 700.0))
        deficit = masses @ jnp.expm1(-tw)
        direct = jnp.log(masses @ jnp.exp(-tw))  # -inf where it underflows: its power is zero
        return jnp.where(deficit > -0.5, jnp.log1p(jnp.maximum(deficit, -0.5)), direct)

    logs = jax.lax.map(log_moments, u, batch_size=64)
    one = jnp.exp(-jnp.exp(jnp.minimum(u, 700.0)))

    def bounds(which: int, every: int) -> Any:
        integrand = (one[None] - jnp.exp(samples[:, None] * logs[None, :, which])) * (slope * widths)[None]
        total = every * jnp.sum(integrand[:, ::every], axis=1) - jnp.log(samples)
        total = jnp.where(samples == 1.0, masses[which] @ log_w, total)
        return jnp.where(jnp.any(jnp.isneginf(log_w)), -jnp.inf, total + center)

    found = bounds(0, 1)
    others = jnp.stack([bounds(0, 2), bounds(1, 1)])
    error = jnp.max(jnp.where(others == found[None], 0.0, jnp.abs(others - found[None])), axis=0)
    worst = jnp.argmax(jnp.where(jnp.isnan(values), jnp.inf, values))
    return found, error, values[worst], z[worst]


_compiled_evidence, _compiled_bounds = eqx.filter_jit(_evidence), eqx.filter_jit(_bounds)
