"""Normal laws in natural form."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from clauses import against
from optimality.distributions.natural_normal import NaturalNormal
from optimality.distributions.normal import Normal


def test_there_and_back(x64):
    normal = Normal(np.array([0.3, -2.0]), np.array([0.5, 4.0]))
    back = NaturalNormal.of(normal).normal()
    tolerance = 1e-14 if x64 else 1e-6
    np.testing.assert_allclose(back.location, normal.location, rtol=tolerance)
    np.testing.assert_allclose(back.scale, normal.scale, rtol=tolerance)


def product(first, second):
    return first * second


@against(
    product,
    mean_of_means=lambda a, b: NaturalNormal.of(
        Normal((a.normal().location + b.normal().location) / 2, (a * b).normal().scale)
    ),
    sum_of_scales=lambda a, b: NaturalNormal.of(
        Normal((a * b).normal().location, jnp.sqrt(a.normal().scale ** 2 + b.normal().scale ** 2))
    ),
)
def test_a_product_is_proportional_to_the_product_of_densities(implementation, x64):
    a, b = NaturalNormal(np.array([1.0]), np.array([2.0])), NaturalNormal(np.array([-3.0]), np.array([0.5]))
    x = np.linspace(-3.0, 3.0, 7)[:, None]
    joint = jax.vmap(implementation(a, b).normal().log_prob)(x)
    apart = jax.vmap(a.normal().log_prob)(x) + jax.vmap(b.normal().log_prob)(x)
    np.testing.assert_allclose(np.diff(joint - apart, axis=0), 0.0, atol=1e-13 if x64 else 3e-5)


def test_precision_zero_is_the_unit():
    a = NaturalNormal(np.array([1.0, 2.0]), np.array([2.0, 3.0]))
    same = a * NaturalNormal(np.zeros(2), np.zeros(2))
    np.testing.assert_array_equal(same.information, a.information)
    np.testing.assert_array_equal(same.precision, a.precision)


def test_shapes_must_agree():
    with pytest.raises(ValueError, match="same shape"):
        NaturalNormal(np.zeros(2), np.ones(3))
