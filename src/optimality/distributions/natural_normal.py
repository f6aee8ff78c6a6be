"""Independent normal numbers in natural form, where a product of densities is a sum of parameters.

    log p(x) = h x - J x^2 / 2 - h^2 / (2 J) + log(J) / 2 - log(2 pi) / 2,        h = J location, J = 1 / scale^2

so that `prod_i N(x; h_i, J_i)` is proportional to `N(x; sum h_i, sum J_i)`: what several observations say of one
unknown adds up in any order.
"""

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from optimality.distributions.abstract import parameter, require_equal_shapes
from optimality.distributions.normal import Normal


class NaturalNormal(eqx.Module):
    """`exp(h x - J x^2 / 2)` up to a factor, entry by entry.

    Precision of zero says nothing: it is the unit of the product, and no law by itself.
    """

    information: Float[Array | np.ndarray, "..."] = eqx.field(converter=parameter)
    """h, precision times location."""
    precision: Float[Array | np.ndarray, "..."] = eqx.field(converter=parameter)
    """J, one over the variance; at least 0."""

    def __check_init__(self):
        require_equal_shapes(self, information=self.information, precision=self.precision)

    @classmethod
    def of(cls, normal: Normal) -> "NaturalNormal":
        """The same law as `normal`."""
        precision = jnp.asarray(normal.scale) ** -2
        return cls(precision * jnp.asarray(normal.location), precision)

    def normal(self) -> Normal:
        """By location and scale."""
        precision = jnp.asarray(self.precision)
        return Normal(jnp.asarray(self.information) / precision, 1.0 / jnp.sqrt(precision))

    def __mul__(self, other: "NaturalNormal") -> "NaturalNormal":
        """The product of the two densities, without its factor."""
        return NaturalNormal(
            jnp.asarray(self.information) + jnp.asarray(other.information),
            jnp.asarray(self.precision) + jnp.asarray(other.precision),
        )
