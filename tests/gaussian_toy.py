"""A scalar model with a closed form, x | z ~ N(theta z, 1) with z ~ N(0, 1), and expectations over noise by a rule."""

import jax
import jax.numpy as jnp
import numpy as np

from optimality.distributions.normal import Normal

X, THETA, LOCATION, SCALE = 1.3, 0.8, 0.3, 0.6
EXACT_BOUND = -1.831764157  # of q = N(.3, .6^2)
GRADIENT = np.array(
    [0.548, 1 / SCALE - 0.984, X * LOCATION - THETA * (LOCATION**2 + SCALE**2)]
)  # location, scale, theta

_line = np.linspace(-12.0, 12.0, 401)
_mass = np.exp(-0.5 * _line**2) / np.sqrt(2 * np.pi) * (_line[1] - _line[0])


def noise(draws, nodes=401):
    """Nodes `[n, draws, 1]` and weights `[n]` of the trapezoid rule for that many standard normal numbers."""
    every = 400 // (nodes - 1)
    line, mass = _line[::every], _mass[::every] * every
    grids = np.meshgrid(*[line] * draws, indexing="ij")
    masses = np.meshgrid(*[mass] * draws, indexing="ij")
    return np.stack([grid.ravel() for grid in grids], axis=1)[..., None], np.prod([m.ravel() for m in masses], axis=0)


def toy_log_likelihood(theta, x=X):
    return lambda z: jnp.sum(-0.5 * (x - theta * z) ** 2) - 0.5 * np.log(2 * np.pi)


def toy_log_joint(theta, x=X):
    return lambda z: toy_log_likelihood(theta, x)(z) + jnp.sum(-0.5 * z * z) - 0.5 * np.log(2 * np.pi)


def log_evidence(theta, x=X):
    return -0.5 * np.log(2 * np.pi * (1 + theta**2)) - 0.5 * x**2 / (1 + theta**2)


def posterior(theta, x=X):
    """Location and scale."""
    return x * theta / (1 + theta**2), (1 + theta**2) ** -0.5


def standard_prior():
    return Normal(jnp.zeros(1), jnp.ones(1))


def values_and_gradients(estimate, at, sources):
    """`estimate(q, draw, sources, theta)` and its gradient in location, scale and theta, at each row of sources."""

    def one(parameters, row):
        location, scale, theta = parameters
        q = Normal(location[None], scale[None])
        return estimate(q, lambda epsilon: location + scale * epsilon, row, theta)

    both = jax.jit(jax.vmap(jax.value_and_grad(one), in_axes=(None, 0)))
    values, gradients = both(tuple(jnp.asarray(p) for p in at), jnp.asarray(sources))
    return np.asarray(values), np.stack([np.asarray(g) for g in gradients], axis=1)
