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


def random_problem(seed):
    """`(f, moments, log_base, epsilon)` of 5 to 2,000 samples and up to 20 moments in units from 1e-6 to 1e6: closed
    or drifting changes, heavy tails, dependent polynomials, one-signed moments; f that is heavy at one end, linear in
    the moments, or constant."""
    random = np.random.default_rng([seed, 77])
    samples = int(np.exp(random.uniform(np.log(5), np.log(2000))))
    features = int(random.integers(0, min(20, samples) + 1)) if random.uniform() < 0.9 else int(random.integers(0, 21))
    kind = random.choice(["closed", "drifting", "heavy", "polynomials", "one sign"], p=[0.25, 0.35, 0.15, 0.2, 0.05])
    if kind == "polynomials":
        x = random.normal(size=(samples + 1, 1)) ** np.arange(1, features + 1)
        moments = x[1:] - x[:-1]
    elif kind == "heavy":
        psi = random.standard_t(2.0, size=(samples + 1, features))
        moments = psi[1:] - psi[:-1]
    else:
        moments = changes(samples, features, seed)
    if kind == "drifting":
        moments = moments + random.choice([0.01, 0.1, 0.5]) * random.normal(size=features)
    if kind == "one sign":
        moments = np.abs(moments) + 0.1
    moments = moments * 10.0 ** random.uniform(-6, 6, size=features)
    f = random.normal(size=samples) if random.uniform() < 0.5 else -(random.exponential(size=samples) ** 2)
    unusual = random.uniform()
    if unusual < 0.05:
        f = np.full(samples, 1.0)
    elif unusual < 0.1 and features:
        f = moments[:, 0] / np.abs(moments[:, 0]).max()
    f = 10.0 ** random.uniform(-6, 6) * (f + random.choice([0.0, 10.0]))
    log_base = random.choice([0.0, 1.0]) * random.normal(size=samples)
    return f, moments, log_base, float(np.exp(random.uniform(np.log(0.01), np.log(3.0))))


def padded(problem, samples, features):
    """The same with samples of no weight and moments that are zero, so that few shapes compile."""
    f, moments, log_base, epsilon = problem
    more = samples - len(f)
    moments = np.pad(moments, ((0, more), (0, features - moments.shape[1])))
    return np.pad(f, (0, more)), moments, np.pad(log_base, (0, more), constant_values=-np.inf), epsilon
