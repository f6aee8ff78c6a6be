"""A value that is quadratic in the state, in reward units."""

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int


class QuadraticValue(eqx.Module):
    """`V(x) = 1/2 x'hessian x + gradient'x + constant`: minus the cost-to-go `1/2 x'P x + p'x + s`.

    Arrays are `[n, n]`, `[n]` and `[]`, or have a leading axis of `T + 1` steps, the last for the terminal reward.
    """

    hessian: Float[Array | np.ndarray, "... n n"]
    gradient: Float[Array | np.ndarray, "... n"]
    constant: Float[Array | np.ndarray, "..."]

    def __call__(
        self, x: Float[Array | np.ndarray, " n"], time: int | Int[Array, ""] = 0
    ) -> Array | np.ndarray | np.floating:
        """The value of state `x` at step `time`, in reward units."""
        value = self if self.hessian.ndim == 2 else self.at(time)
        return 0.5 * (x @ (value.hessian @ x)) + value.gradient @ x + value.constant

    def at(self, time: int | Int[Array, ""]) -> "QuadraticValue":
        """That of one step."""
        if self.hessian.ndim == 2:
            return self
        take = (lambda a: a[time, ...]) if isinstance(time, int) else (lambda a: jnp.asarray(a)[time])
        return QuadraticValue(take(self.hessian), take(self.gradient), take(self.constant))

    def cost_to_go(
        self, x: Float[Array | np.ndarray, " n"], time: int | Int[Array, ""] = 0
    ) -> Array | np.ndarray | np.floating:
        """Minus the value."""
        return -self(x, time)

    def expect(
        self,
        mean: Float[Array | np.ndarray, " n"],
        covariance: Float[Array | np.ndarray, "n n"],
        time: int | Int[Array, ""] = 0,
    ) -> Array | np.ndarray | np.floating:
        """`E V(x)` for a state of that mean and covariance: `V(mean) + 1/2 tr(hessian covariance)`."""
        value = self.at(time)
        return value(mean) + 0.5 * (value.hessian * covariance).sum()
