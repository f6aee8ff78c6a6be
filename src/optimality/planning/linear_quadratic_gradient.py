"""The gradient of an affine Gaussian policy's expected cost in a linear-quadratic problem, in closed form.

    u = K x + k + noise,  noise ~ N(0, Sigma),       J = E sum_t d^t cost_t
    E_t = Q_ux + Q_uu K,   e_t = q_u + Q_uu k        Q_xx, Q_ux, Q_uu, q_u: the cost-to-go of (x, u) under the policy
    dJ/dK = d^t (E_t M_t + e_t mu_t'),   dJ/dk = d^t (E_t mu_t + e_t),   dJ/dSigma = d^t Q_uu / 2

`mu_t` and `M_t = E x x'` are the state's moments under the policy; a policy that is the same at every step has the sum
over steps, without a horizon that of a linear equation. In [K, k] it is one product, `[E, e] E [x; 1][x; 1]'`, and the
natural gradient divides it by the moments: `[E, e]`, which is zero at the Riccati gain only (Fazel et al. 2018, lemma 1
and section 3, whose costs have no half and `u = -K x`, so that theirs is `-2` times this). A Gauss-Newton step is
`-Q_uu^-1 [E, e]`, and of length one it is policy iteration.
"""

from functools import partial
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from optimality.core.numerics import at_precision
from optimality.core.small_matrices import product, symmetric, transposed_product
from optimality.planning.marginals import (
    Law,
    closed_loop,
    control_noise,
    law,
    policy_cost,
    propagate,
    require_fitting,
)
from optimality.planning.quadratic_forms import FORM_AXES, forms, homogeneous, value_form, with_time
from optimality.planning.quadratic_value import QuadraticValue
from optimality.policies.affine_gaussian import AffineGaussian
from optimality.problems.criterion import Discounted, FiniteHorizon
from optimality.problems.linear_quadratic import LinearQuadratic

_Tensor = Float[Array, "..."]
_Stored = Float[Array | np.ndarray, "..."]


class LinearQuadraticGradient(eqx.Module):
    """Derivatives of `expected_cost`, in the shape of the policy's own arrays. Costs are minimized: descend."""

    K: _Stored
    k: _Stored
    covariance: _Stored
    """In the entries of Sigma, symmetric; also where the policy has no noise."""
    natural_K: _Stored
    """`[K, k]`'s gradient over the second moments of `[x; 1]`, discounted and summed over the steps that share a gain;
    of least norm where these are singular."""
    natural_k: _Stored
    gauss_newton_K: _Stored
    """The natural gradient over `Q_uu`, over its discounted mean where a horizon's steps share a gain; subtracted
    whole it is elsewhere a step of policy iteration."""
    gauss_newton_k: _Stored
    expected_cost: _Stored


def linear_quadratic_gradient(problem: LinearQuadratic, policy: AffineGaussian) -> LinearQuadraticGradient:
    """The exact gradient of the policy's expected cost from the first state's law.

    Concrete arguments are computed in float64. Without a horizon it is not finite, or without meaning, where the closed
    loop does not decay.

    Raises:
        ValueError: sizes that do not fit, or a criterion other than `FiniteHorizon` and `Discounted`.
    """
    require_fitting(problem, policy)
    if not isinstance(problem.criterion, FiniteHorizon | Discounted):
        raise ValueError(
            "linear_quadratic_gradient takes the criteria FiniteHorizon and Discounted, but the problem has "
            f"{type(problem.criterion).__name__}."
        )
    return at_precision(_compiled, problem, policy)


@jax.jit
def _compiled(problem: LinearQuadratic, policy: AffineGaussian) -> LinearQuadraticGradient:
    steps = forms(problem.arrays())
    n, _ = problem.shape
    acting = law(policy, steps.F.dtype)
    found = policy_cost(problem, policy)
    discount = jnp.asarray(problem.discount, steps.F.dtype)
    F, C, W, S = (with_time(x, dimensions) for x, dimensions in zip(steps, FORM_AXES, strict=True))
    q = _action_form(found.value, F, C, S, discount, endless=problem.horizon is None)
    residual = product(q[..., n:-1, n:-1], acting.gains) + jnp.concatenate([q[..., n:-1, :n], q[..., n:-1, -1:]], -1)
    curvature = q[..., n:-1, n:-1]
    moments, weights = _visits(problem, acting, F, W, S, discount)
    gradient = product(residual, moments)
    of_noise = 0.5 * weights[:, None, None] * curvature
    curvature = weights[:, None, None] * jnp.broadcast_to(curvature, of_noise.shape)
    if not policy.depends_on_time:
        total = partial(jnp.sum, axis=0)
        gradient, of_noise, curvature, moments = (total(x) for x in (gradient, of_noise, curvature, moments))
        weights = total(weights)
    natural = product(gradient, jnp.linalg.pinv(moments, hermitian=True))
    newton = jnp.linalg.solve(curvature, natural * weights[..., None, None])
    parts = [(x[..., :n], x[..., n]) for x in (gradient, natural, newton)]
    (K, k), (natural_K, natural_k), (newton_K, newton_k) = parts
    return LinearQuadraticGradient(
        K, k, symmetric(of_noise), natural_K, natural_k, newton_K, newton_k, found.expected_cost
    )


def _action_form(value: QuadraticValue, F, C, S, discount: Any, *, endless: bool) -> _Tensor:
    """Twice the cost-to-go as a form over `[x; u; 1]`, up to its constant, `[T, z, z]`."""
    following = value_form(*(-jnp.asarray(x) for x in (value.hessian, value.gradient, value.constant)))
    following = following[None] if endless else following[1:]
    n = F.shape[-2]
    after = homogeneous(F, 1.0)
    form = transposed_product(after, product(following, after))
    if S is not None:
        form = form + jnp.sum(transposed_product(S, product(following[:, None, :n, :n], S)), axis=1)
    return symmetric(C + discount * form)


def _visits(problem: LinearQuadratic, acting: Law, F, W, S, discount: Any) -> tuple[_Tensor, _Tensor]:
    """Discounted second moments of `[x; 1]` at each step, `[T, n + 1, n + 1]`, and the discount's powers, `[T]`;
    without a horizon a single sum of all."""
    n = F.shape[-2]
    noise = W + control_noise(F[..., n:-1], acting.covariance)
    mean, covariance = jnp.asarray(problem.initial_mean, F.dtype), jnp.asarray(problem.initial_covariance, F.dtype)
    closed = closed_loop(F, acting.gains)
    if problem.horizon is None:
        start = _moments(mean, covariance)
        return _endless_visits(start, closed[0], noise[0], S, acting, discount)[None], (1.0 / (1.0 - discount))[None]
    means, covariances = propagate(closed, noise, S, acting, mean, covariance, problem.horizon)
    weights = discount ** jnp.arange(problem.horizon, dtype=F.dtype)
    return weights[:, None, None] * _moments(means[:-1], covariances[:-1]), weights


def _moments(mean: _Tensor, covariance: _Tensor) -> _Tensor:
    second = covariance + mean[..., :, None] * mean[..., None, :]
    return value_form(second, mean, jnp.full(mean.shape[:-1], 0.5, mean.dtype))


def _endless_visits(start: _Tensor, closed: _Tensor, noise: _Tensor, S, acting: Law, discount: Any) -> _Tensor:
    """`M = start + discount (one step from M)`, linear in M; the noise enters with the visits, `M[-1, -1]`."""
    n = closed.shape[0]
    size = n + 1
    whole = homogeneous(closed, 1.0)

    def ahead(M):
        new = product(whole, product(M, whole.T)).at[:n, :n].add(M[-1, -1] * noise)
        if S is None:
            return new
        z = jnp.concatenate([jnp.eye(size, dtype=M.dtype)[:n], acting.gains[0], jnp.eye(size, dtype=M.dtype)[n:]])
        of_noise = jnp.zeros((z.shape[0],) * 2, M.dtype).at[n:-1, n:-1].set(M[-1, -1] * acting.covariance[0])
        moment = product(z, product(M, z.T)) + of_noise
        return new.at[:n, :n].add(jnp.einsum("lij,jk,lmk->im", S[0], moment, S[0]))

    units = jnp.eye(size * size, dtype=start.dtype).reshape(-1, size, size)
    steps = jax.vmap(ahead)(units).reshape(size * size, size * size).T
    system = jnp.eye(size * size, dtype=start.dtype) - discount * steps
    return symmetric(jnp.linalg.solve(system, start.reshape(-1)).reshape(size, size))
