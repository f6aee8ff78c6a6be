"""Surrogates of expectations over choices that depend on the parameters, by likelihood ratios.

    ratio = exp(log p - stop(log p)),        surrogate = ratio (c - b) + b

The ratio is one, and its k-th derivative is that of `p` divided by `p`. At parameters theta' the surrogate's mean over
choices drawn at theta is therefore `E_theta'[c]`, so that value and derivatives of every order are those of the
expectation, derivatives of `c` itself included (Foerster et al. 2018, section 3: there called DiCE). The familiar
`log p stop(c)` has the right first derivative alone.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from optimality.core.numerics import Real

Numbers = Float[Array, "..."] | Float[np.ndarray, "..."]


def likelihood_ratio(log_prob: Numbers) -> Float[Array, "..."]:
    """`exp(log p - stop(log p))`: one, whose derivatives are those of `p` over `p`; NaN where `log p` is infinite."""
    log_prob = jnp.asarray(log_prob)
    return jnp.exp(log_prob - jax.lax.stop_gradient(log_prob))


def surrogate(log_prob: Numbers, coefficient: Numbers, baseline: Numbers | Real = 0.0) -> Float[Array, "..."]:
    """A term whose value is `coefficient`, and whose derivatives are, on average, those of its expectation.

    Args:
        log_prob: log-probability of all the choices that this coefficient depends on, at the parameters they were drawn
            with. For the reward of step t these are the actions up to t, `cumsum(log pi)`; an action's own `log pi`
            with its reward to go is right in the first derivative only.
        coefficient: what the choices earned; it may depend on the parameters itself.
        baseline: must not depend on the choices in `log_prob`; it changes no expectation, and is not differentiated.

    Returns:
        `ratio (coefficient - baseline) + baseline`, in the shape of the arguments, which is not summed.
    """
    coefficient = jnp.asarray(coefficient)
    baseline = jax.lax.stop_gradient(jnp.asarray(baseline, coefficient.dtype))
    # The same as in the docstring, without a rounding in its value.
    return coefficient + (likelihood_ratio(log_prob) - 1.0) * (coefficient - baseline)
