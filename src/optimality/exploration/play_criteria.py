"""Should one play? Every criterion by its name, in closed form or by one quadrature.

What texts get wrong here: "compare `E[reward / time]` with the rate" always says play, since that expectation is
infinite for exponential times under every belief (the density of the time is positive at zero, and `1 / t` is not
integrable there). The risk-neutral rate must be named: that of one game, `E r / E t`, or the mean of the unknown rate
`alpha lambda / beta`, what playing for ever earns. They differ by the factor `theta / (theta - 1)`.

Exponential utility of `reward - rate time` is infinite at every level, since both predictive laws have power tails: a
seeking player always plays, an averse one never does. A dial of risk that turns needs quantiles or CVaR.
"""

from functools import partial
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import digamma
from jaxtyping import Array, Float, PRNGKeyArray

from optimality.beliefs import GammaExponential, GammaKnownShape
from optimality.core.numerics import Real, at_precision, is_traced
from optimality.distributions import BetaPrime
from optimality.distributions.logit_quadrature import logit_rule

_Number = Float[Array | np.ndarray | np.generic, "..."]


class PlayCriteria(eqx.Module):
    """Numbers of every criterion, infinite where a mean does not exist; `rows()` says what each decides."""

    rate: _Number
    """Of the opportunity, K."""
    level: _Number
    """Of quantiles and CVaR."""
    risk: _Number
    """Of exponential utility, per unit of rate."""
    best_case: _Number
    worst_case: _Number
    mean_of_ratio: _Number
    """`E[r / t]`, infinite."""
    seeking: _Number
    """Certainty equivalent of `r - K t` under exponential utility with any positive risk."""
    averse: _Number
    """The same with any negative risk."""
    averse_ratio: _Number
    """Certainty equivalent of `r / t` with risk `-risk`: finite, since `r / t` is bounded below."""
    one_game: _Number
    """`E r - K E t`; minus infinity where neither mean exists."""
    ratio_of_means: _Number
    """`E r / E t`."""
    long_run: _Number
    """`E[alpha lambda / beta]`."""
    low_rate: _Number
    median_rate: _Number
    high_rate: _Number
    chance_of_rate: _Number
    """`P(alpha lambda / beta >= K)`."""
    chance_of_game: _Number
    """`P(r >= K t)`."""
    log_growth: _Number
    """`E log(r / t)`."""
    value_at_risk: _Number
    """The quantile of `r - K t` at the level."""
    cvar: _Number
    """The mean of `r - K t` below that quantile."""
    perfect_information: _Number
    """`E max(alpha lambda / beta - K, 0)`: per unit time, if the rates were told before deciding."""
    information_value: _Number
    """The same less what the better of the two decisions earns without being told."""

    def rows(self) -> "list[CriterionRow]":
        """The table: what each criterion says, and why they differ. Concrete numbers only."""
        return _rows(self)


class CriterionRow(NamedTuple):
    """One line of the table."""

    name: str
    number: float
    threshold: float
    """What the number is compared with."""
    play: bool
    sentence: str


def play_criteria(
    rewards: GammaKnownShape, times: GammaExponential, rate: Real, *, level: Real = 0.05, risk: Real = 0.05
) -> PlayCriteria:
    """All criteria for the next decision, in float64 for concrete beliefs.

    Args:
        rewards: the belief about rewards.
        times: the belief about times.
        rate: what not playing earns per unit time, above 0.
        level: of the low quantile, one minus that of the high one, and of CVaR, in (0, 1).
        risk: absolute risk of exponential utility, above 0.

    Raises:
        ValueError: numbers outside these ranges.
    """
    for name, value, above in (("rate", rate, np.inf), ("level", level, 1.0), ("risk", risk, np.inf)):
        if not is_traced(value) and not 0.0 < float(value) < above:
            bound = "" if above == np.inf else f" and below {above:g}"
            raise ValueError(f"{name} must be above 0{bound}, but {value} was given.")
    return at_precision(_compiled, rewards, times, rate, level, risk)


def compute_criteria(rewards: GammaKnownShape, times: GammaExponential, rate, level, risk) -> PlayCriteria:
    """`play_criteria` of arrays, in their own precision."""
    reward, time = rewards.predictive(), times.predictive()
    alpha, epsilon, omega = (jnp.asarray(p) for p in (reward.a, reward.b, reward.scale))
    theta, eta = jnp.asarray(time.shape), jnp.asarray(time.scale)
    mean_reward, mean_time = reward.mean(), time.mean()
    long_rate = rate_law(rewards, times)
    long_run = long_rate.mean()
    rates = jax.vmap(long_rate.quantile)(jnp.stack([level, jnp.full_like(level, 0.5), 1.0 - level]))
    told_nothing = jnp.maximum(jnp.where(jnp.isinf(long_run), 0.0, long_run) - rate, 0.0)
    perfect = long_rate.mean_excess(rate)
    infinity = jnp.full_like(alpha, jnp.inf)
    no_means = jnp.isinf(mean_reward) & jnp.isinf(mean_time)
    lost = jnp.isinf(mean_time)
    finite_time = jnp.where(lost, 1.0, mean_time)
    u, weights = logit_rule(alpha, epsilon)
    value_at_risk, cvar = _tail(rewards, times, rate, level)
    return PlayCriteria(
        rate=rate,
        level=level,
        risk=risk,
        best_case=infinity,
        worst_case=-infinity,
        mean_of_ratio=infinity,
        seeking=infinity,
        averse=-infinity,
        averse_ratio=_averse_ratio(rewards, times, risk),
        one_game=jnp.where(no_means | lost, -jnp.inf, mean_reward - rate * finite_time),
        ratio_of_means=ratio_of_means(rewards, times),
        long_run=long_run,
        low_rate=rates[0],
        median_rate=rates[1],
        high_rate=rates[2],
        chance_of_rate=long_rate.survival(rate),
        chance_of_game=jnp.sum(weights * -jnp.expm1(-theta * jnp.logaddexp(0.0, u + jnp.log(omega / (rate * eta))))),
        log_growth=digamma(alpha)
        - digamma(epsilon)
        + jnp.log(omega)
        - digamma(1.0 + 0.0 * theta)
        + digamma(theta)
        - jnp.log(eta),
        value_at_risk=value_at_risk,
        cvar=cvar,
        perfect_information=perfect,
        information_value=jnp.where(jnp.isinf(perfect), jnp.inf, perfect - told_nothing),
    )


_compiled = jax.jit(compute_criteria)


def ratio_of_means(rewards: GammaKnownShape, times: GammaExponential) -> Float[Array, ""]:
    """`E r / E t` of the next game: 0 where the mean time is infinite, else infinite where the mean reward is."""
    mean_reward, mean_time = rewards.predictive().mean(), times.predictive().mean()
    lost = jnp.isinf(mean_time)
    return jnp.where(lost, 0.0, mean_reward / jnp.where(lost, 1.0, mean_time))


def rate_law(rewards: GammaKnownShape, times: GammaExponential) -> BetaPrime:
    """The law of the unknown rate `alpha lambda / beta` of playing for ever: beta prime with shapes theta and epsilon,
    `alpha (theta / eta) (omega / epsilon)` times an F variable."""
    scale = jnp.asarray(rewards.outcome_shape) * jnp.asarray(rewards.rate) / jnp.asarray(times.rate)
    return BetaPrime(jnp.asarray(times.shape), jnp.asarray(rewards.shape), scale)


def _averse_ratio(rewards, times, risk):
    z, weights = logit_rule(jnp.asarray(rewards.outcome_shape), jnp.asarray(rewards.shape))
    theta = jnp.asarray(times.shape)
    y, time_weights = logit_rule(jnp.ones_like(theta), theta)
    log_ratio = z[:, None] - y[None, :] + jnp.log(jnp.asarray(rewards.rate) / jnp.asarray(times.rate))
    loss = weights @ (-jnp.expm1(-risk * jnp.exp(log_ratio))) @ time_weights
    return -jnp.log1p(-loss) / risk


def _tail(rewards, times, rate, level):
    """Quantile and lower CVaR of `r - K t`: `q - E max(q - r + K t, 0) / level` at `P(r - K t <= q) = level`.

    Below zero the expectation over the reward is smooth, above zero that over the time.
    """
    reward, time = rewards.predictive(), times.predictive()
    z, reward_weights = logit_rule(jnp.asarray(reward.a), jnp.asarray(reward.b))
    r = jnp.asarray(reward.scale) * jnp.exp(z)
    theta = jnp.asarray(time.shape)
    y, time_weights = logit_rule(jnp.ones_like(theta), theta)
    t = jnp.asarray(time.scale) * jnp.exp(y)
    heavier = BetaPrime(jnp.asarray(reward.a) + 1.0, jnp.maximum(jnp.asarray(reward.b) - 1.0, 0.5), reward.scale)
    has_mean = jnp.asarray(reward.b) > 1.0
    by_time = jax.vmap(time.survival), jax.vmap(time.mean_excess)

    def chance(q):
        below = jnp.sum(reward_weights * by_time[0](jnp.maximum(r - q, 0.0) / rate))
        above = jnp.sum(time_weights * jax.vmap(reward.cdf)(jnp.maximum(q + rate * t, 0.0)))
        return jnp.where(q <= 0.0, below, above)

    unit = rate * jnp.asarray(time.scale) + jnp.asarray(reward.scale)

    def halve(_, bracket):
        low, high = bracket
        middle = 0.5 * (low + high)
        enough = chance(unit * jnp.sinh(middle)) < level
        return jnp.where(enough, middle, low), jnp.where(enough, high, middle)

    widest = jnp.asarray(300.0 if unit.dtype == jnp.float64 else 40.0, unit.dtype)
    low, high = jax.lax.fori_loop(0, 64, halve, (-widest, widest))
    q = unit * jnp.sinh(0.5 * (low + high))
    below = rate * jnp.sum(reward_weights * by_time[1](jnp.maximum(r - q, 0.0) / rate))
    k = jnp.maximum(q + rate * t, 0.0)
    mean = jnp.where(has_mean, reward.mean(), 0.0)
    # Without a mean of r the part below q still has one, by the quadrature over r.
    above = jnp.sum(time_weights * (k * jax.vmap(reward.cdf)(k) - mean * jax.vmap(heavier.cdf)(k)))
    general = rate * jnp.sum(reward_weights * by_time[1]((r - q) / rate))
    shortfall = jnp.where(q <= 0.0, below, jnp.where(has_mean, above, general))
    return q, jnp.where(jnp.isinf(time.mean()), -jnp.inf, q - shortfall / level)


_SENTENCES = {
    "best case": "Rewards have no upper bound: who looks only at the best case always plays.",
    "worst case": "Times have no upper bound: who looks only at the worst case never plays.",
    "mean of the ratio": "E[r / t] is infinite for every belief (1 / t is not integrable at zero): no criterion.",
    "exponential utility, seeking": "Infinite at every positive risk: rewards have a power tail.",
    "exponential utility, averse": "Minus infinity at every negative risk: times have a power tail.",
    "exponential utility of r / t, averse": "Finite, since r / t is bounded below: this averse player may play.",
    "one game": "Mean reward less the mean cost of its time: right for a single game, after which one stops.",
    "ratio of means": "What many games with fresh unknowns earn per time; above K exactly when one game pays.",
    "long run": "Mean of the unknown rate: right for playing a long time without looking back; slow worlds weigh less.",
    "low quantile of the rate": "The rate is above this except with the chance of the level.",
    "median rate": "The rate is as likely above as below; it ignores by how much.",
    "high quantile of the rate": "Optimism: the rate may be as high as this with the chance of the level.",
    "chance that the rate beats K": "Above one half is the same decision as the median.",
    "chance that one game pays": "P(r >= K t) above one half; it ignores by how much.",
    "log growth": "Mean of log(r / t), which is finite; compared with log K.",
    "CVaR": "Mean of r - K t in the worst share of cases given by the level: cautious, and finite.",
}


def _rows(c: PlayCriteria) -> list[CriterionRow]:
    k = float(c.rate)
    compared = (
        ("best case", c.best_case, 0.0),
        ("worst case", c.worst_case, 0.0),
        ("mean of the ratio", c.mean_of_ratio, k),
        ("exponential utility, seeking", c.seeking, 0.0),
        ("exponential utility, averse", c.averse, 0.0),
        ("exponential utility of r / t, averse", c.averse_ratio, k),
        ("one game", c.one_game, 0.0),
        ("ratio of means", c.ratio_of_means, k),
        ("long run", c.long_run, k),
        ("low quantile of the rate", c.low_rate, k),
        ("median rate", c.median_rate, k),
        ("high quantile of the rate", c.high_rate, k),
        ("chance that the rate beats K", c.chance_of_rate, 0.5),
        ("chance that one game pays", c.chance_of_game, 0.5),
        ("log growth", c.log_growth, float(np.log(k))),
        ("CVaR", c.cvar, 0.0),
    )
    return [
        CriterionRow(name, float(number), threshold, bool(float(number) >= threshold), _SENTENCES[name])
        for name, number, threshold in compared
    ]


_SAMPLED = ("one_game", "long_run", "chance_of_rate", "chance_of_game", "log_growth", "perfect_information")


def sample_criterion(
    name: str,
    rewards: GammaKnownShape,
    times: GammaExponential,
    rate: Real,
    *,
    key: PRNGKeyArray,
    samples: int = 10_000,
) -> tuple[float, float]:
    """Mean and standard error of a criterion over worlds drawn from the beliefs.

    Raises:
        ValueError: the criterion is infinite, so that any sample mean would be finite and wrong: `mean_of_ratio`,
            exponential utility, and those whose mean does not exist under these beliefs.
    """
    epsilon, theta = float(np.asarray(rewards.shape)), float(np.asarray(times.shape))
    infinite = {
        "mean_of_ratio": "E[r / t] is infinite for every belief: the running mean of n samples grows like "
        "E[r] E[lambda] log n and is never near its limit",
        "seeking": "exponential utility of r - K t is infinite at every level: rewards have a power tail",
        "averse": "exponential utility of r - K t is infinite at every level: times have a power tail",
        "best_case": "the best case is infinite: the largest of n samples grows with n",
        "worst_case": "the worst case is minus infinity: the smallest of n samples falls with n",
    }
    if name == "one_game" and min(epsilon, theta) <= 1.0:
        infinite[name] = f"a mean does not exist: it needs shapes above 1, but {epsilon:g} and {theta:g} were given"
    if name in ("long_run", "perfect_information") and epsilon <= 1.0:
        infinite[name] = f"the mean rate is infinite: it needs a shape of rewards above 1, but {epsilon:g} was given"
    if name in infinite:
        raise ValueError(f"{name} is not estimated by samples: {infinite[name]}. See play_criteria for what it is.")
    if name not in _SAMPLED:
        raise ValueError(f"unknown criterion {name!r}: those with samples are {', '.join(_SAMPLED)}.")
    reward, time, long_rate = at_precision(partial(_draw, samples=samples), rewards, times, key)
    rate = float(np.asarray(rate))
    values = {
        "one_game": lambda: reward - rate * time,
        "long_run": lambda: long_rate,
        "chance_of_rate": lambda: 1.0 * (long_rate >= rate),
        "chance_of_game": lambda: 1.0 * (reward >= rate * time),
        "log_growth": lambda: np.log(reward) - np.log(time),
        "perfect_information": lambda: np.maximum(long_rate - rate, 0.0),
    }[name]()
    return float(values.mean()), float(values.std(ddof=1) / np.sqrt(samples))


@partial(jax.jit, static_argnames="samples")
def _draw(rewards: GammaKnownShape, times: GammaExponential, key: PRNGKeyArray, *, samples: int) -> tuple[Any, ...]:
    """Rewards, times and rates of playing for ever, each in a world of its own."""
    key_beta, key_lambda, key_reward, key_time = jax.random.split(key, 4)
    dtype = jnp.asarray(rewards.shape).dtype
    beta = jax.random.gamma(key_beta, rewards.shape, (samples,), dtype) / rewards.rate
    slowness = jax.random.gamma(key_lambda, times.shape, (samples,), dtype) / times.rate
    r = jax.random.gamma(key_reward, rewards.outcome_shape, (samples,), dtype) / beta
    t = jax.random.exponential(key_time, (samples,), dtype) / slowness
    return r, t, rewards.outcome_shape * slowness / beta
