"""Samples with moments for the tests of the information projection, and what is known of them from elsewhere."""

import jax.numpy as jnp
import numpy as np
import scipy.optimize
import scipy.special


def changes(samples, features, seed=0):
    """Feature changes along a closed trajectory: their mean is zero, as in stationary data."""
    psi = np.random.default_rng(seed).normal(size=(samples, features))
    return np.roll(psi, -1, axis=0) - psi


def sample(samples=400, features=6, seed=0, drift=0.05):
    """Rewards and feature changes that do not quite cancel."""
    random = np.random.default_rng([seed, 1])
    f = random.normal(size=samples)
    return f, changes(samples, features, seed) + drift * random.normal(size=features)


def linear_programme(f, moments, target=None):
    """`max <p, f>` over the weights that match the moments, by HiGHS: `(is feasible, weights)`."""
    target = np.zeros(moments.shape[1]) if target is None else target
    unit = np.maximum(np.abs(moments - target).max(axis=0), 1e-300)
    equations = np.vstack([np.ones(len(f)), ((moments - target) / unit).T])
    found = scipy.optimize.linprog(-f, A_eq=equations, b_eq=np.r_[1.0, np.zeros(len(target))], bounds=(0, None))
    assert found.status in (0, 2), found.message
    return found.status == 0, found.x


def divergence(p, base=None):
    """`KL(p || base)`, base uniform by default."""
    base = np.full(len(p), 1.0 / len(p)) if base is None else base
    return float(np.sum(scipy.special.rel_entr(p, base)))


def dual(temperature, multipliers, f, moments, epsilon):
    """The dual under uniform weights, with the library of JAX alone."""
    delta = (f + moments @ multipliers) / temperature
    return temperature * (epsilon + jnp.log(jnp.mean(jnp.exp(delta - delta.max()))) + delta.max())


def moment_errors(projection, moments):
    """Residuals in standard deviations of the moments under uniform weights."""
    p = np.exp(projection.log_p)
    deviations = moments.std(axis=0)
    return np.abs(p @ moments) / np.where(deviations > 0.0, deviations, 1.0)
