"""Products and factors of small matrices for the bodies of scans.

Inside a compiled scan on a CPU each `dot` and each LAPACK call costs about a microsecond before it computes anything.
Up to a dozen rows a product written as a sum of products, and a Cholesky factor written out entry by entry, fuse into
the loop around them and are several times faster; above, the library calls are. The choice is made from shapes, so each
function is one line of mathematics to its caller. Leading axes are batches.
"""

import jax.numpy as jnp
from jax.scipy.linalg import solve_triangular
from jaxtyping import Array, Float

LARGEST_PRODUCT = 13
"""Rows up to which a sum of products is faster than `dot` in a scan; with 14 to 16 rows the two are about equal."""
LARGEST_FACTOR = 8
"""Rows up to which a factor is written out, as its code grows with their cube."""


def product(a: Float[Array, "... i j"], b: Float[Array, "... j k"]) -> Float[Array, "... i k"]:
    """`a b`."""
    if a.shape[-1] > LARGEST_PRODUCT:
        return a @ b
    return jnp.sum(a[..., :, :, None] * b[..., None, :, :], axis=-2)


def transposed_product(a: Float[Array, "... j i"], b: Float[Array, "... j k"]) -> Float[Array, "... i k"]:
    """`a' b`."""
    if a.shape[-2] > LARGEST_PRODUCT:
        return jnp.swapaxes(a, -1, -2) @ b
    return jnp.sum(a[..., :, :, None] * b[..., :, None, :], axis=-3)


def apply(a: Float[Array, "... i j"], x: Float[Array, "... j"]) -> Float[Array, "... i"]:
    """`a x`."""
    if a.shape[-1] > LARGEST_PRODUCT:
        return (a @ x[..., None])[..., 0]
    return jnp.sum(a * x[..., None, :], axis=-1)


def symmetric(a: Float[Array, "... i i"]) -> Float[Array, "... i i"]:
    """`(a + a') / 2`."""
    return (a + jnp.swapaxes(a, -1, -2)) / 2


def cholesky(a: Float[Array, "... i i"]) -> Float[Array, "... i i"]:
    """Lower triangular `L` with `L L' = a` for a symmetric `a`; NaN where it is not positive definite."""
    if a.shape[-1] > LARGEST_FACTOR:
        return jnp.linalg.cholesky(a, symmetrize_input=False)
    return jnp.tril(jnp.swapaxes(_eliminate(a), -1, -2))


def factor_and_solve(
    a: Float[Array, "... i i"], b: Float[Array, "... i k"]
) -> tuple[Float[Array, "... i i"], Float[Array, "... i k"]]:
    """The Cholesky factor `L` of `a`, and `L^-1 b`: one elimination."""
    size = a.shape[-1]
    if size > LARGEST_FACTOR:
        factor = cholesky(a)
        return factor, solve_lower(factor, b)
    rows = _eliminate(jnp.concatenate([a, b], axis=-1))
    return jnp.tril(jnp.swapaxes(rows[..., :size], -1, -2)), rows[..., size:]


def _eliminate(rows: Float[Array, "... i k"]) -> Float[Array, "... i k"]:
    """`L^-1 rows`, where `L L'` are the first columns of the rows; below the diagonal only rounding is left."""
    done: list[Array] = []
    for i in range(rows.shape[-2]):
        rest = rows[..., i, :]
        for above in done:
            rest = rest - above[..., i, None] * above
        done.append(rest / jnp.sqrt(rest[..., i, None]))
    return jnp.stack(done, axis=-2)


def solve_lower(factor: Float[Array, "... i i"], b: Float[Array, "... i k"]) -> Float[Array, "... i k"]:
    """`L^-1 b` for a lower triangular `L`."""
    size = factor.shape[-1]
    if size > LARGEST_FACTOR:
        return solve_triangular(factor, b, lower=True)
    rows: list[Array] = []
    for i in range(size):
        rest = b[..., i, :]
        for k in range(i):
            rest = rest - factor[..., i, k, None] * rows[k]
        rows.append(rest / factor[..., i, i, None])
    return jnp.stack(rows, axis=-2)


def solve_lower_transposed(factor: Float[Array, "... i i"], b: Float[Array, "... i k"]) -> Float[Array, "... i k"]:
    """`L'^-1 b` for a lower triangular `L`."""
    size = factor.shape[-1]
    if size > LARGEST_FACTOR:
        return solve_triangular(factor, b, lower=True, trans=1)
    rows: dict[int, Array] = {}
    for i in reversed(range(size)):
        rest = b[..., i, :]
        for k in range(i + 1, size):
            rest = rest - factor[..., k, i, None] * rows[k]
        rows[i] = rest / factor[..., i, i, None]
    return jnp.stack([rows[i] for i in range(size)], axis=-2)


def solve_cholesky(factor: Float[Array, "... i i"], b: Float[Array, "... i k"]) -> Float[Array, "... i k"]:
    """`(L L')^-1 b`."""
    return solve_lower_transposed(factor, solve_lower(factor, b))


def log_determinant(factor: Float[Array, "... i i"]) -> Float[Array, "..."]:
    """`log |L L'|`."""
    return 2.0 * jnp.sum(jnp.log(jnp.diagonal(factor, axis1=-2, axis2=-1)), axis=-1)
