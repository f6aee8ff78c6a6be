"""The normal law of a path whose precision couples neighbors only: means, covariances and entropy in one pass each way.

    S_0 = J_00,   S_{t+1} = J_{t+1,t+1} - J_{t+1,t} S_t^-1 J_{t,t+1}            log |J| = sum log |S_t|
    P_TT = S_T^-1,   P_{t,t+1} = -S_t^-1 J_{t,t+1} P_{t+1,t+1},   P_tt = S_t^-1 - P_{t,t+1} J_{t+1,t} S_t^-1

The block form of Cholesky's factor, and the entries of the inverse that lie on it (Rue and Held 2005, section 2.4).
"""

import math

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from optimality.core.small_matrices import apply, cholesky, log_determinant, product, solve_cholesky, symmetric

_Tensor = Float[Array | np.ndarray, "..."]


class NormalChain(eqx.Module):
    """`means [T+1, n]`, `covariances [T+1, n, n]`, `cross_covariances [T, n, n]` of each time with the next, and the
    entropy of the whole path in nats."""

    means: _Tensor
    covariances: _Tensor
    cross_covariances: _Tensor
    entropy: _Tensor


def normal_chain(
    around: Float[Array, "time_and_end n"],
    slope: Float[Array, "time_and_end n"],
    own: Float[Array, "time_and_end n n"],
    across: Float[Array, "time n n"],
) -> NormalChain:
    """The law with precision blocks `own[t] = J_tt` and `across[t] = J_{t+1,t}`, and mean `around + J^-1 slope`.

    That is Newton's step on a log density with that slope and curvature `-J` at `around`.
    """

    def eliminate(carry, data):
        factor, reduced = carry
        own, across, slope = data
        schur = own - product(across, solve_cholesky(factor, across.T))
        reduced = slope - apply(across, solve_cholesky(factor, reduced[:, None])[:, 0])
        factor = cholesky(symmetric(schur))
        return (factor, reduced), (factor, reduced)

    first = cholesky(own[0]), slope[0]
    _, rest = jax.lax.scan(eliminate, first, (own[1:], across, slope[1:]))
    factors, reduced = jax.tree.map(lambda a, b: jnp.concatenate([a[None], b]), first, rest)
    unit = jnp.eye(own.shape[-1], dtype=own.dtype)

    def back(carry, data):
        covariance, shift = carry
        factor, across, reduced = data
        gain = solve_cholesky(factor, across.T)
        cross = -product(gain, covariance)
        own = symmetric(solve_cholesky(factor, unit) - product(cross, gain.T))
        shift = solve_cholesky(factor, reduced[:, None])[:, 0] - apply(gain, shift)
        return (own, shift), (own, shift, cross)

    last = solve_cholesky(factors[-1], unit), solve_cholesky(factors[-1], reduced[-1][:, None])[:, 0]
    _, (covariances, shifts, cross) = jax.lax.scan(back, last, (factors[:-1], across, reduced[:-1]), reverse=True)
    entropy = 0.5 * (own.shape[0] * own.shape[1] * (1.0 + math.log(2 * math.pi)) - jnp.sum(log_determinant(factors)))
    return NormalChain(
        around + jnp.concatenate([shifts, last[1][None]]), jnp.concatenate([covariances, last[0][None]]), cross, entropy
    )
