"""What is believed of each arm's mean, from the statistics of its rewards.

| arms | mean is | posterior | default prior |
| --- | --- | --- | --- |
| Bernoulli | a probability | Beta(a + ones, b + zeros) | uniform |
| normal, known noise | a location | Normal, precisions add | flat: each arm once first |
| exponential | one over a rate | rate ~ Gamma(shape + n, rate + sum) | 1 / rate: each arm once first |

Numbers are functions of `ArmStatistics`, `[arms, ...]`. Draws and quantiles are NumPy's and SciPy's: on a CPU
`jax.random.beta` takes 9 to 19 times as long.
"""

import abc
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax.numpy as jnp
import numpy as np
import scipy.special
from jaxtyping import Array, Float

from optimality.beliefs import BetaBernoulli, GammaExponential, NormalKnownVariance
from optimality.core.numerics import is_traced
from optimality.exploration.bandit_policy import ArmStatistics, Numbers
from optimality.exploration.gamma_draws import draw_gamma
from optimality.problems.bandits import AbstractArms, BernoulliArms, ExponentialArms, GaussianArms

Prior = BetaBernoulli | NormalKnownVariance | GammaExponential
_Parameter = Float[Array | np.ndarray | np.generic, "*arms"]


class AbstractArmBelief(eqx.Module):
    """Posteriors of all arms."""

    @abc.abstractmethod
    def parameters(self, statistics: ArmStatistics) -> tuple[Any, Any]:
        """The two numbers of each posterior."""

    @abc.abstractmethod
    def mean(self, statistics: ArmStatistics) -> Numbers:
        """Of the mean reward; infinite where it does not exist or nothing is known."""

    @abc.abstractmethod
    def start_drawing(self, statistics: ArmStatistics, random: np.random.Generator) -> Callable[[], np.ndarray]:
        """A function that draws a number for each arm, increasing in a draw of its mean, from what `statistics` then
        say."""

    @abc.abstractmethod
    def quantile(self, statistics: ArmStatistics, probability: float) -> np.ndarray:
        """Of the mean reward, float64."""

    def unknown(self, first: np.ndarray, second: np.ndarray) -> np.ndarray:
        """Where the posterior of an arm is not proper yet."""
        return np.zeros(first.shape, bool)

    @abc.abstractmethod
    def coordinate(self, first: np.ndarray, second: np.ndarray) -> "tuple[np.ndarray, np.ndarray, np.ndarray]":
        """Of posteriors with these parameters, in an unbounded increasing function of the mean: where all but 1e-17 of
        each tail lies, and a standard deviation."""

    @abc.abstractmethod
    def density_and_cdf(self, first: np.ndarray, second: np.ndarray, z: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """In that coordinate."""


class BetaArms(AbstractArmBelief):
    a: _Parameter
    b: _Parameter

    def parameters(self, statistics: ArmStatistics) -> tuple[Any, Any]:
        earned, pulls = statistics.earned, statistics.pulls
        dtype = statistics.precision
        a, b = _along(self.a, pulls, dtype), _along(self.b, pulls, dtype)
        return a + earned.astype(dtype), b + (pulls - earned).astype(dtype)

    def mean(self, statistics: ArmStatistics) -> Numbers:
        a, b = self.parameters(statistics)
        return a / (a + b)

    def start_drawing(self, statistics: ArmStatistics, random: np.random.Generator) -> Callable[[], np.ndarray]:
        """Odds, by two gamma variables."""
        pulls, ones = np.asarray(statistics.pulls), np.asarray(statistics.earned)
        a, b = _along_host(self.a, pulls), _along_host(self.b, pulls)
        proper = min(np.min(a), np.min(b)) >= 1.0
        shapes = np.empty((2, *pulls.shape), np.float32)

        def draw() -> np.ndarray:
            np.add(ones, a, out=shapes[0], casting="unsafe")
            np.subtract(pulls, ones, out=shapes[1], casting="unsafe")
            np.add(shapes[1], b, out=shapes[1])
            if not proper:
                return random.beta(shapes[0], shapes[1])
            gammas = draw_gamma(shapes, random)
            return np.divide(gammas[0], gammas[1], out=gammas[0])

        return draw

    def quantile(self, statistics: ArmStatistics, probability: float) -> np.ndarray:
        a, b = self.parameters(statistics)
        (a, b), where = distinct(a, b)
        return scipy.special.betaincinv(a, b, probability)[where]

    def coordinate(self, first, second):
        low = scipy.special.logit(np.maximum(scipy.special.betaincinv(first, second, 1e-17), 1e-300))
        high = -scipy.special.logit(np.maximum(scipy.special.betaincinv(second, first, 1e-17), 1e-300))
        return low, high, np.sqrt(scipy.special.polygamma(1, first) + scipy.special.polygamma(1, second))

    def density_and_cdf(self, first, second, z):
        x, y = scipy.special.expit(z), scipy.special.expit(-z)
        log_density = first * np.log(x) + second * np.log(y) - scipy.special.betaln(first, second)
        below = scipy.special.betainc(first, second, x)
        return np.exp(log_density), np.where(x < 0.5, below, 1.0 - scipy.special.betainc(second, first, y))


class NormalArms(AbstractArmBelief):
    location: _Parameter
    precision: _Parameter
    noise: _Parameter

    def parameters(self, statistics: ArmStatistics) -> tuple[Any, Any]:
        xp, dtype = statistics.space, statistics.precision
        location, precision = (_along(p, statistics.pulls, dtype) for p in (self.location, self.precision))
        data = statistics.pulls.astype(dtype) / _along(self.noise, statistics.pulls, dtype) ** 2
        total = precision + data
        known = total > 0.0
        safe = xp.where(known, total, 1.0)
        scale = xp.where(known, 1.0 / xp.sqrt(safe), xp.inf)
        return location + data / safe * (statistics.mean.astype(dtype) - location), scale

    def next_deviation(self, statistics: ArmStatistics) -> Numbers:
        """Standard deviation of the posterior mean after one more pull, `s^2 / sqrt(s^2 + noise^2)`."""
        _, scale = self.parameters(statistics)
        xp = statistics.space
        noise = _along(self.noise, statistics.pulls, statistics.precision)
        return scale / xp.sqrt(1.0 + (noise / scale) ** 2)

    def mean(self, statistics: ArmStatistics) -> Numbers:
        location, scale = self.parameters(statistics)
        xp = statistics.space
        return xp.where(xp.isinf(scale), xp.inf, location)

    def start_drawing(self, statistics: ArmStatistics, random: np.random.Generator) -> Callable[[], np.ndarray]:
        parameters = self.parameters

        def draw() -> np.ndarray:
            location, scale = parameters(statistics)
            unknown = np.isinf(scale)
            drawn = location + np.where(unknown, 0.0, scale) * random.standard_normal(location.shape)
            return np.where(unknown, np.inf, drawn)

        return draw

    def quantile(self, statistics: ArmStatistics, probability: float) -> np.ndarray:
        location, scale = (np.asarray(p, np.float64) for p in self.parameters(statistics))
        unknown = np.isinf(scale)
        return np.where(unknown, np.inf, location + np.where(unknown, 0.0, scale) * scipy.special.ndtri(probability))

    def unknown(self, first, second):
        return np.isinf(second)

    def coordinate(self, first, second):
        return first - 9.0 * second, first + 9.0 * second, second

    def density_and_cdf(self, first, second, z):
        standard = (z - first) / second
        return np.exp(-0.5 * standard**2) / (second * np.sqrt(2.0 * np.pi)), scipy.special.ndtr(standard)


class InverseGammaArms(AbstractArmBelief):
    shape: _Parameter
    rate: _Parameter

    def parameters(self, statistics: ArmStatistics) -> tuple[Any, Any]:
        dtype = statistics.precision
        pulls = statistics.pulls.astype(dtype)
        shape, rate = (_along(p, statistics.pulls, dtype) for p in (self.shape, self.rate))
        return shape + pulls, rate + pulls * statistics.mean.astype(dtype)

    def mean(self, statistics: ArmStatistics) -> Numbers:
        shape, rate = self.parameters(statistics)
        xp, exists = statistics.space, shape > 1.0
        return xp.where(exists, rate / xp.where(exists, shape - 1.0, 1.0), xp.inf)

    def start_drawing(self, statistics: ArmStatistics, random: np.random.Generator) -> Callable[[], np.ndarray]:
        parameters = self.parameters

        def draw() -> np.ndarray:
            shape, rate = parameters(statistics)
            known = shape > 0.0
            return np.where(known, rate / random.standard_gamma(np.where(known, shape, 1.0)), np.inf)

        return draw

    def quantile(self, statistics: ArmStatistics, probability: float) -> np.ndarray:
        shape, rate = (np.asarray(p, np.float64) for p in self.parameters(statistics))
        known = shape > 0.0
        return np.where(known, rate / scipy.special.gammainccinv(np.where(known, shape, 1.0), probability), np.inf)

    def unknown(self, first, second):
        return first <= 0.0

    def coordinate(self, first, second):
        low = np.log(second) - np.log(scipy.special.gammainccinv(first, 1e-17))
        smallest = np.log(np.maximum(scipy.special.gammaincinv(first, 1e-17), 1e-300))
        return low, np.log(second) - smallest, np.sqrt(scipy.special.polygamma(1, first))

    def density_and_cdf(self, first, second, z):
        x = second * np.exp(-z)
        log_density = first * (np.log(second) - z) - x - scipy.special.gammaln(first)
        return np.exp(log_density), scipy.special.gammaincc(first, x)


def arm_belief(prior: Prior | None, arms: AbstractArms) -> AbstractArmBelief:
    """The belief about these arms; `ValueError` for a prior of another family or number of arms."""
    families = (
        (BernoulliArms, BetaBernoulli, "BetaBernoulli"),
        (GaussianArms, NormalKnownVariance, "NormalKnownVariance"),
        (ExponentialArms, GammaExponential, "GammaExponential"),
    )
    for kind, family, name in families:
        if isinstance(arms, kind) and prior is not None and not isinstance(prior, family):
            raise ValueError(f"{kind.__name__} need a prior of class {name}, but {type(prior).__name__} was given.")
    if isinstance(prior, BetaBernoulli):
        return BetaArms(*_fit(arms, prior.successes, prior.failures))
    if isinstance(prior, NormalKnownVariance):
        location, scale, noise = _fit(arms, prior.location, prior.scale, prior.noise_scale)
        return NormalArms(location, 1.0 / scale**2, noise)
    if isinstance(prior, GammaExponential):
        return InverseGammaArms(*_fit(arms, prior.shape, prior.rate))
    if isinstance(arms, BernoulliArms):
        return BetaArms(*_fit(arms, 1.0, 1.0))
    if isinstance(arms, GaussianArms):
        return NormalArms(*_fit(arms, 0.0, 0.0, arms.scale))
    return InverseGammaArms(*_fit(arms, 0.0, 0.0))


def prepared(belief: AbstractArmBelief | None) -> AbstractArmBelief:
    """The belief; `ValueError` before `prepare`."""
    if belief is None:
        raise ValueError("this policy needs its belief: call prepare(arms, horizon) first, as simulate_bandit does.")
    return belief


def with_belief(policy: Any, belief: AbstractArmBelief) -> Any:
    return eqx.tree_at(lambda p: p.belief, policy, belief, is_leaf=lambda leaf: leaf is None)


def _fit(arms: AbstractArms, *parameters: Any) -> tuple[Any, ...]:
    for value in parameters:
        if np.shape(value) not in ((), (arms.size,)):
            raise ValueError(
                f"a prior has one number for all arms, or one for each of {arms.size} arms, but shape "
                f"{np.shape(value)} was given."
            )
    return tuple(value if is_traced(value) else np.asarray(value, np.float64) for value in parameters)


def distinct(first: Any, second: Any) -> tuple[tuple[np.ndarray, np.ndarray], np.ndarray]:
    """Pairs of numbers without repetition, and where each of the given ones is among them."""
    pairs = np.asarray(first, np.float64) + 1j * np.asarray(second, np.float64)
    unique, where = np.unique(pairs, return_inverse=True)
    return (unique.real, unique.imag), where.reshape(pairs.shape)


def _along(parameter: Any, pulls: Any, dtype: Any) -> Any:
    """A parameter, one number or one an arm, against arrays `[arms, ...]`, of NumPy where these are."""
    value = np.asarray(parameter, dtype) if isinstance(pulls, np.ndarray) else jnp.asarray(parameter, dtype)
    return value if value.ndim == 0 else value.reshape(-1, *[1] * (pulls.ndim - 1))


def _along_host(parameter: Any, pulls: np.ndarray) -> np.ndarray:
    value = np.asarray(parameter, np.float32)
    return value if value.ndim == 0 else value.reshape(-1, *[1] * (pulls.ndim - 1))
