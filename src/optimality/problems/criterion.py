"""What is to be maximized over time: one of four criteria, none of them assumed.

A discount below one is a chance of ending: after each reward the episode stops with probability `1 - discount`.
For expected rewards that is the usual discounted sum; under risk it is an outcome of value 0 like any other
termination, and the two readings differ (the absorbing-state construction; Levine 2018, section 2.4 has the
first only).
"""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from optimality.core.gibbs import certainty_equivalent
from optimality.core.numerics import Real, is_traced


class FiniteHorizon(eqx.Module):
    """`E sum_{t<H} discount^t r_t + discount^H terminal_reward(s_H)`: H actions, H rewards, H+1 states.

    The terminal reward, a number or one per state, is paid where the episode has not terminated by then.
    """

    horizon: int = eqx.field(static=True)
    discount: Real = 1.0
    terminal_reward: Real | Float[Array | np.ndarray, " states"] = 0.0

    def __check_init__(self):
        if not isinstance(self.horizon, int | np.integer) or isinstance(self.horizon, bool) or self.horizon < 1:
            raise ValueError(f"horizon must be a whole number of steps, at least 1, but {self.horizon!r} was given.")
        if not is_traced(self.discount) and not 0.0 <= float(self.discount) <= 1.0:
            raise ValueError(f"discount must be in [0, 1] with a finite horizon, but {self.discount} was given.")
        if not is_traced(self.terminal_reward) and not np.all(np.isfinite(self.terminal_reward)):
            raise ValueError("terminal_reward has entries that are not finite; give finite rewards.")


class Discounted(eqx.Module):
    """`E sum_t discount^t r_t` over an unlimited time, with `discount` in [0, 1)."""

    discount: Real

    def __check_init__(self):
        if not is_traced(self.discount) and not 0.0 <= float(self.discount) < 1.0:
            raise ValueError(
                f"discount must be in [0, 1) over an unlimited time, but {self.discount} was given; "
                "without discounting use UntilTermination() or FiniteHorizon(horizon)."
            )


class AverageReward(eqx.Module):
    """`lim (1/T) E sum_{t<T} r_t`, assuming one recurrent class; nothing may terminate."""

    @property
    def discount(self) -> float:
        return 1.0


class UntilTermination(eqx.Module):
    """`E sum_t r_t` until the episode terminates, without discount or time limit."""

    @property
    def discount(self) -> float:
        return 1.0


Criterion = FiniteHorizon | Discounted | AverageReward | UntilTermination


@jax.custom_jvp
def discounted(
    values: Float[Array, " states"], discount: Float[Array, ""], risk: Float[Array, ""]
) -> Float[Array, " states"]:
    """`(1 / risk) log(discount exp(risk V) + 1 - discount)`, at risk 0 `discount V`."""
    outcomes = jnp.stack([values, jnp.zeros_like(values)])
    log_p = jnp.stack([jnp.broadcast_to(jnp.log(discount), values.shape), _log_one_minus(discount, values.shape)])
    return certainty_equivalent(outcomes, log_p, risk, axis=0)


def _log_one_minus(discount, shape):
    return jnp.broadcast_to(jnp.log1p(-discount), shape)


def going_on(
    values: Float[Array, " states"], discount: Float[Array, ""], risk: Float[Array, ""]
) -> Float[Array, " states"]:
    """The chance of not ending as risk sees it: `discount exp(risk V) / (discount exp(risk V) + 1 - discount)`."""
    ahead = risk * values
    return jnp.where(discount >= 1.0, 1.0, jax.nn.sigmoid(ahead + jnp.log(discount) - jnp.log1p(-discount)))


@discounted.defjvp
def _discounted_jvp(primals, tangents):
    values, discount, risk = primals
    values_dot, discount_dot, risk_dot = tangents
    value = discounted(values, discount, risk)
    chance = going_on(values, discount, risk)
    neutral = jnp.abs(risk) * jnp.max(jnp.abs(values)) < jnp.finfo(values.dtype).eps ** (1 / 3)
    safe = jnp.where(neutral, 1.0, risk)
    # (exp(risk V) - 1) / (risk exp(risk value)). At discount 1 it may exceed every float: cut, so that a tangent of
    # zero stays zero.
    by_discount = jnp.where(neutral, values, (jnp.exp(risk * (values - value)) - jnp.exp(-risk * value)) / safe)
    largest = jnp.finfo(values.dtype).max
    by_discount = jnp.clip(by_discount, -largest, largest)
    spread = discount * (1.0 - discount) * values**2
    by_risk = jnp.where(
        neutral, spread / 2 + risk * spread * values * (1 - 2 * discount) / 3, (chance * values - value) / safe
    )
    return value, chance * values_dot + by_discount * discount_dot + by_risk * risk_dot
