"""Where an affine Gaussian policy leads, exactly: means and covariances of states and controls, and its expected cost.

    u = K x + k + noise,   E x' = (A + B K) E x + B k + c
    cov x' = (A + B K) cov x (A + B K)' + B Sigma B' + W + sum_i E[(o_i + C_i x + D_i u)(o_i + C_i x + D_i u)']

With noise that depends on state and control the laws are not normal, but these moments, and so the expected cost of any
quadratic, are exact all the same.
"""

import functools
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from optimality.core.numerics import at_precision
from optimality.core.small_matrices import apply, product, symmetric, transposed_product
from optimality.planning.quadratic_forms import FORM_AXES, forms, homogeneous, lift, value_form, with_time
from optimality.planning.quadratic_value import QuadraticValue
from optimality.planning.stationary_riccati import lyapunov
from optimality.policies.affine_gaussian import AffineGaussian
from optimality.problems.criterion import AverageReward
from optimality.problems.linear_quadratic import LinearQuadratic

_Tensor = Float[Array, "..."]
_Stored = Float[Array | np.ndarray, "..."]


class Marginals(eqx.Module):
    """Moments over time; `cost_per_step` holds the expected cost of each step and of the last state, not discounted,
    and `expected_cost` their discounted sum."""

    mean: _Stored
    """Of the state, `[T+1, n]`."""
    covariance: _Stored
    """Of the state, `[T+1, n, n]`."""
    action_mean: _Stored
    """Of the control, `[T, m]`."""
    action_covariance: _Stored
    """Of the control, `[T, m, m]`."""
    cost_per_step: _Stored
    """`[T+1]`."""
    expected_cost: _Stored


class Law(NamedTuple):
    """An affine Gaussian law of controls over time, `[T, m, n + 1]` gains and `[T, m, m]` covariances."""

    gains: _Tensor
    covariance: _Tensor


def marginals(problem: LinearQuadratic, policy: AffineGaussian, *, steps: int | None = None) -> Marginals:
    """The moments under `policy`, from the first state's law, over the horizon or over `steps`.

    Concrete arguments are computed in float64. Differentiable in everything.

    Raises:
        ValueError: sizes that do not fit, or neither a horizon nor `steps`.
    """
    require_fitting(problem, policy)
    horizon = problem.horizon if steps is None else steps
    if horizon is None or (problem.horizon is not None and horizon != problem.horizon) or horizon < 1:
        raise ValueError(
            f"steps is {steps} and the criterion {problem.criterion}: moments are listed over the horizon, or over "
            "steps >= 1 where there is none."
        )
    return at_precision(_compiled(horizon), problem, policy)


@functools.cache
def _compiled(horizon: int) -> Any:
    return jax.jit(functools.partial(_marginals, horizon=horizon))


def require_fitting(problem: LinearQuadratic, policy: AffineGaussian) -> None:
    """Raises `ValueError` where the policy is for another problem."""
    if policy.shape != problem.shape:
        raise ValueError(
            f"the policy is for {policy.shape[0]} states and {policy.shape[1]} controls, but the problem has "
            f"{problem.shape[0]} and {problem.shape[1]}."
        )
    if policy.depends_on_time and problem.horizon != policy.K.shape[0]:
        raise ValueError(
            f"the policy has gains for each of {policy.K.shape[0]} steps, but the problem's criterion is "
            f"{problem.criterion}."
        )


def law(policy: AffineGaussian, dtype: Any) -> Law:
    """Arrays with an axis of time, of length 1 where the policy does not depend on it."""
    gains = jnp.concatenate([jnp.asarray(policy.K), jnp.asarray(policy.k)[..., None]], axis=-1).astype(dtype)
    m = gains.shape[-2]
    covariance = jnp.zeros((m, m), dtype) if policy.covariance is None else jnp.asarray(policy.covariance, dtype)
    return Law(with_time(gains, 2), with_time(covariance, 2))


def _marginals(problem: LinearQuadratic, policy: AffineGaussian, *, horizon: int) -> Marginals:
    steps = forms(problem.arrays())
    n = steps.W.shape[-1]
    acting = law(policy, steps.F.dtype)
    F, C, W, S = (with_time(x, dimensions) for x, dimensions in zip(steps, FORM_AXES, strict=True))
    noise = W + control_noise(F[..., n:-1], acting.covariance)
    mean, covariance = propagate(
        closed_loop(F, acting.gains), noise, S, acting, problem.initial_mean, problem.initial_covariance, horizon
    )
    action_mean, action_covariance = controls_of(acting, mean[:-1], covariance[:-1])
    moments = second_moments(acting, mean[:-1], covariance[:-1])
    last = jnp.concatenate([mean[-1], jnp.ones((1,), mean.dtype)])
    ends = value_form(jnp.asarray(problem.Qf), jnp.asarray(problem.qf), jnp.asarray(problem.sf))
    terminal = 0.5 * (last @ (ends @ last) + jnp.sum(ends[:n, :n] * covariance[-1]))
    costs = jnp.concatenate([0.5 * jnp.sum(C * moments, axis=(-2, -1)), terminal[None]])
    weights = jnp.asarray(problem.discount, costs.dtype) ** jnp.arange(horizon + 1, dtype=costs.dtype)
    return Marginals(mean, covariance, action_mean, action_covariance, costs, jnp.sum(weights * costs))


def closed_loop(F: _Tensor, gains: _Tensor) -> _Tensor:
    """`[A + B K, B k + c]` of forms and gains with an axis of time."""
    n = F.shape[-2]
    affine = jnp.concatenate([F[..., :n], F[..., -1:]], axis=-1)
    return affine + product(F[..., n:-1], gains)


def control_noise(B: _Tensor, covariance: _Tensor) -> _Tensor:
    """`B Sigma B'`."""
    return product(product(B, covariance), jnp.swapaxes(B, -1, -2))


def propagate(
    closed: _Tensor, noise: _Tensor, S: _Tensor | None, acting: Law, mean: Any, covariance: Any, horizon: int
) -> tuple[_Tensor, _Tensor]:
    """Means `[T+1, n]` and covariances `[T+1, n, n]` of `x' = closed [x; 1] + noise`, channels over `[x; u; 1]`."""
    mean, covariance = jnp.asarray(mean), jnp.asarray(covariance)
    n = mean.shape[0]

    def over_time(x):
        return None if x is None else jnp.broadcast_to(x, (horizon, *x.shape[1:]))

    def body(state, here):
        mean, covariance = state
        closed, noise, S, acting = here
        new = symmetric(product(product(closed[:, :n], covariance), closed[:, :n].T)) + noise
        if S is not None:
            moment = second_moments(Law(*(x[None] for x in acting)), mean[None], covariance[None])
            new = new + symmetric(jnp.sum(product(product(S, moment), jnp.swapaxes(S, -1, -2)), axis=0))
        return (apply(closed[:, :n], mean) + closed[:, n], new), state

    moving = jax.tree.map(over_time, (closed, noise, S, acting if S is not None else None))
    last, states = jax.lax.scan(body, (mean, covariance), moving, length=horizon)
    means, covariances = jax.tree.map(lambda all, end: jnp.concatenate([all, end[None]]), states, last)
    return means, covariances


def controls_of(acting: Law, mean: _Tensor, covariance: _Tensor) -> tuple[_Tensor, _Tensor]:
    """Mean and covariance of the controls where the state has these."""
    n = mean.shape[-1]
    K = acting.gains[..., :n]
    spread = product(product(K, covariance), jnp.swapaxes(K, -1, -2))
    return apply(K, mean) + acting.gains[..., n], symmetric(spread) + acting.covariance


def second_moments(acting: Law, mean: _Tensor, covariance: _Tensor) -> _Tensor:
    """`E z z'` of `z = [x; u; 1]`, `[T, z, z]`."""
    n, m = mean.shape[-1], acting.covariance.shape[-1]
    time = mean.shape[0]
    ones = jnp.ones((time, 1), mean.dtype)
    moment = value_form(covariance + mean[:, :, None] * mean[:, None, :], mean, 0.5 * ones[:, 0])
    z_of_x = lift(jnp.broadcast_to(acting.gains, (time, m, n + 1)))
    noise = jnp.broadcast_to(acting.covariance, (time, m, m))
    return product(z_of_x, product(moment, jnp.swapaxes(z_of_x, -1, -2))) + jnp.pad(noise, ((0, 0), (n, 1), (n, 1)))


class PolicyCost(eqx.Module):
    """What a policy is worth: `value` from each state in reward units, `expected_cost` from the first state's law.

    Over a horizon there are T+1 values. On average the value is relative, zero constant, and the cost is of a step.
    """

    value: QuadraticValue
    expected_cost: _Stored


def policy_cost(problem: LinearQuadratic, policy: AffineGaussian) -> PolicyCost:
    """Minus the expected cost that follows each state under `policy`, by one linear sweep, or by a Lyapunov equation
    without a horizon; not finite there where the closed loop does not decay.

    Concrete arguments are computed in float64. Differentiable in everything. Raises `ValueError` for sizes that do not
    fit.
    """
    require_fitting(problem, policy)
    return at_precision(_policy_cost, problem, policy)


@jax.jit
def _policy_cost(problem: LinearQuadratic, policy: AffineGaussian) -> PolicyCost:
    steps = forms(problem.arrays())
    n = steps.W.shape[-1]
    acting = law(policy, steps.F.dtype)
    discount = jnp.asarray(problem.discount, steps.F.dtype)
    F, C, W, S = (with_time(x, dimensions) for x, dimensions in zip(steps, FORM_AXES, strict=True))
    z_of_x = lift(acting.gains)
    closed = homogeneous(closed_loop(F, acting.gains), 1.0)
    cost = transposed_product(z_of_x, product(C, z_of_x))
    noisy = W + control_noise(F[..., n:-1], acting.covariance)
    own = jnp.sum(C[..., n:-1, n:-1] * acting.covariance, axis=(-2, -1))
    channels = None if S is None else product(S, z_of_x[:, None])
    if S is not None:
        noisy = noisy + jnp.sum(control_noise(S[..., n:-1], acting.covariance[:, None]), axis=1)
    cost = cost.at[..., -1, -1].add(own)
    if problem.horizon is None:
        inner = None if channels is None else channels[0]
        return _endless_value(closed[0], cost[0], noisy[0], inner, problem, discount)
    ends = value_form(jnp.asarray(problem.Qf), jnp.asarray(problem.qf), jnp.asarray(problem.sf))

    def over_time(x):
        return None if x is None else jnp.broadcast_to(x, (problem.horizon, *x.shape[1:]))

    def body(V, here):
        closed, cost, noisy, channels = here
        new = transposed_product(closed, product(V, closed))
        new = new.at[-1, -1].add(jnp.sum(V[:n, :n] * noisy))
        if channels is not None:
            new = new + jnp.sum(transposed_product(channels, product(V[None, :n, :n], channels)), axis=0)
        return symmetric(cost + discount * new), V

    moving = jax.tree.map(over_time, (closed, cost, noisy, channels))
    first, rest = jax.lax.scan(body, ends, moving, reverse=True)
    V = jnp.concatenate([first[None], rest])
    value = QuadraticValue(-V[..., :n, :n], -V[..., :n, n], -V[..., n, n] / 2)
    return PolicyCost(value, -_expected(value.at(0), problem))


def _expected(value: QuadraticValue, problem: LinearQuadratic) -> Any:
    return value.expect(jnp.asarray(problem.initial_mean), jnp.asarray(problem.initial_covariance))


def _endless_value(closed, cost, noisy, channels, problem: LinearQuadratic, discount) -> PolicyCost:
    n = noisy.shape[-1]
    inner = None if channels is None else channels[..., :n]
    P = lyapunov(symmetric(cost[:n, :n]), closed[:n, :n], inner, discount)
    offset = cost[:n, n] + discount * closed[:n, :n].T @ P @ closed[:n, n]
    if channels is not None:
        offset = offset + discount * jnp.einsum("lij,ik,lk->j", channels[..., :n], P, channels[..., n])
    p = jnp.linalg.solve(jnp.eye(n, dtype=P.dtype) - discount * closed[:n, :n].T, offset)
    drift = closed[:n, n]
    constant = 0.5 * cost[n, n] + discount * (0.5 * drift @ P @ drift + p @ drift + 0.5 * jnp.sum(P * noisy))
    if channels is not None:
        constant = constant + 0.5 * discount * jnp.einsum("li,ij,lj->", channels[..., n], P, channels[..., n])
    if isinstance(problem.criterion, AverageReward):
        return PolicyCost(QuadraticValue(-P, -p, jnp.zeros_like(constant)), constant)
    value = QuadraticValue(-P, -p, -constant / (1.0 - discount))
    return PolicyCost(value, -_expected(value, problem))
