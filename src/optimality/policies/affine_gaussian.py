"""Policies that are affine in the state with normal noise: `u ~ N(K x + k, covariance)`."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, PRNGKeyArray

from optimality.core.numerics import is_traced
from optimality.distributions.multivariate_normal import MultivariateNormal

State = Float[Array | np.ndarray, " n"]
Control = Float[Array | np.ndarray, " m"]
Time = int | Int[Array, ""]


class AffineGaussian(eqx.Module):
    """`u = K x + k`, plus normal noise where there is a covariance.

    Control texts that write `u = -K x` have minus this K, `gain_matlab`. Arrays are the same at every step or have a
    leading axis of time; after the last of its steps a policy keeps its last law.
    """

    K: Float[Array | np.ndarray, "... m n"]
    """Gain, `[m, n]` or `[T, m, n]`."""
    k: Float[Array | np.ndarray, "... m"]
    """Offset, `[m]` or `[T, m]`."""
    covariance: Float[Array | np.ndarray, "... m m"] | None = None
    """Of the noise, `[m, m]` or `[T, m, m]`, positive definite; None for a policy without noise."""

    def __check_init__(self):
        m = self.K.shape[-2]
        time = self.K.shape[:-2]
        shapes = {"k": (self.k, (*time, m))}
        if self.covariance is not None:
            shapes["covariance"] = (self.covariance, (*time, m, m))
        for name, (array, shape) in shapes.items():
            if array.shape != shape or len(time) > 1:
                raise ValueError(
                    f"{name} has shape {array.shape}, but K is {self.K.shape}: they need [m, n], [m] and [m, m], each "
                    "with the same axis of time or none."
                )
        for name in ("K", "k", "covariance"):
            array = getattr(self, name)
            if isinstance(array, np.ndarray) and not np.all(np.isfinite(array)):
                raise ValueError(f"{name} has entries that are not finite: the policy cannot act.")

    @property
    def depends_on_time(self) -> bool:
        return self.K.ndim == 3

    @property
    def shape(self) -> tuple[int, int]:
        """Numbers of state coordinates and of controls."""
        return self.K.shape[-1], self.K.shape[-2]

    @property
    def gain_matlab(self) -> Float[Array | np.ndarray, "... m n"]:
        """The gain of `u = -K x`, as MATLAB, python-control and SciPy's users write it."""
        return -self.K

    def at(self, time: Time = 0) -> tuple[Array | np.ndarray, Array | np.ndarray, Array | np.ndarray | None]:
        """`K`, `k` and covariance of one step."""
        if not self.depends_on_time:
            return self.K, self.k, self.covariance
        last = self.K.shape[0] - 1
        if isinstance(time, int):
            time = min(time, last)
            return self.K[time], self.k[time], None if self.covariance is None else self.covariance[time]
        time = jnp.minimum(time, last)
        covariance = None if self.covariance is None else jnp.asarray(self.covariance)[time]
        return jnp.asarray(self.K)[time], jnp.asarray(self.k)[time], covariance

    def mean(self, x: State, time: Time = 0) -> Control:
        """The control without noise."""
        K, k, _ = self.at(time)
        return K @ x + k

    def mode(self, x: State, time: Time = 0) -> Control:
        """The likeliest control, which is the mean."""
        return self.mean(x, time)

    def distribution(self, x: State, time: Time = 0) -> MultivariateNormal:
        """The law of the control. Raises `ValueError` for a policy without noise."""
        covariance = self.at(time)[2]
        if covariance is None:
            raise ValueError("a policy without noise has no density: take mean, or a policy with a covariance.")
        mean = self.mean(x, time)
        if is_traced((mean, covariance)) or isinstance(mean, jax.Array) or isinstance(covariance, jax.Array):
            return MultivariateNormal(mean, jnp.linalg.cholesky(jnp.asarray(covariance)))
        return MultivariateNormal.from_covariance(mean, covariance)

    def sample(self, key: PRNGKeyArray, x: State, time: Time = 0) -> Control:
        """A control drawn in state `x`; the mean where there is no noise."""
        if self.covariance is None:
            return self.mean(x, time)
        return self.distribution(x, time).sample(key)

    def log_prob(self, x: State, u: Control, time: Time = 0) -> Float[Array, ""]:
        """Log density of control `u` in state `x`, relative to Lebesgue measure."""
        return self.distribution(x, time).log_prob(u)

    def entropy(self) -> Float[Array, "..."]:
        """Differential entropy in nats, `1/2 log |2 pi e covariance|`, one number or one a step; minus infinity without
        noise."""
        if self.covariance is None:
            return jnp.full(self.K.shape[:-2], -jnp.inf)
        m = self.K.shape[-2]
        _, log_determinant = jnp.linalg.slogdet(jnp.asarray(self.covariance))
        return 0.5 * (m * (1.0 + float(np.log(2 * np.pi))) + log_determinant)
