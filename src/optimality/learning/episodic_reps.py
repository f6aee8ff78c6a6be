"""Episodic relative entropy policy search as a learner: each episode tries parameters of a deterministic controller.

    theta ~ N(W' c(s_0), Sigma) at each reset,    a = center + half_width theta' phi(s), clipped

or, where actions are discrete, `a = argmax theta' phi(s)`. The distribution is improved by the
undiscounted returns of whole episodes (`learning.episodic_search`); `c` are features of the first observation, by
default the constant alone.
"""

import dataclasses
from dataclasses import KW_ONLY
from typing import Any, Literal

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, PRNGKeyArray

from optimality.core.numerics import Real, precision, require_range
from optimality.core.result import Result
from optimality.learning.actor import as_features, number_size, size_of
from optimality.learning.episodic_search import SearchDistribution, update
from optimality.policies.features import Constant, Identity, Polynomial
from optimality.policies.kernel_features import RadialBasis, RandomFourier
from optimality.policies.weighted_fit import Structure
from optimality.sampling.learner import AbstractLearner, Metrics, Reward
from optimality.sampling.linear_gaussian_policy import action_scale
from optimality.sampling.policy import AbstractPolicy
from optimality.sampling.transitions import Episodes, Rollout, Spec, action_mask_of, environment_reward

REFERENCE = 256
"""Standard normal observations that features are fitted to before there are real ones."""


class EpisodicPolicy(AbstractPolicy):
    """Draws its parameters at every reset, with `sample=False` takes their mean, and keeps them for the episode."""

    search: SearchDistribution
    features: Any
    context: Any
    center: Any
    """None, with the three below, where actions are discrete."""
    half_width: Any
    low: Any
    high: Any
    sample: bool = eqx.field(static=True)

    def start(self, observation: Any, key: PRNGKeyArray) -> Float[Array, " parameters"]:
        phi = self.context(as_features(observation))
        return self.search.draw(key, phi) if self.sample else jnp.asarray(self.search.mean(phi))

    def act(self, carry: Float[Array, " parameters"], observation: Any, key: PRNGKeyArray) -> tuple[Any, Array, Any]:
        phi = self.features(as_features(observation))
        scores = phi @ carry.reshape(phi.size, -1)
        if self.center is None:
            mask = action_mask_of(observation)
            scores = scores if mask is None else jnp.where(mask, scores, -jnp.inf)
            return carry, jnp.argmax(scores).astype(jnp.int32), {}
        action = self.center + self.half_width * scores.reshape(self.low.shape)
        return carry, jnp.clip(action, self.low, self.high), {}


class Batch(eqx.Module):
    """Episodes, and what drew their parameters."""

    parameters: Float[Array, "*n parameters"]
    context: Float[Array, "*n contexts"]
    start: Float[Array, "*n inputs"]
    returns: Float[Array, "*n"]
    search: SearchDistribution
    filled: Bool[Array, "*b"]


class EpisodicREPSState(eqx.Module):
    search: SearchDistribution
    features: Any
    context: Any
    past: Any
    """Earlier batches, newest first; None for a window of one."""
    center: Any
    half_width: Any
    low: Any
    high: Any
    fitted: Bool[Array, ""]


class EpisodicREPS(AbstractLearner):
    """Episodic relative entropy policy search with a linear controller."""

    _: KW_ONLY
    epsilon: Real = 1.0
    """Bound on the divergence KL(p || q) of the episodes' weights, in nats."""
    constrain_search: bool = eqx.field(static=True, default=True)
    """Bound the fitted distribution too; without, the plain weighted maximum likelihood is taken."""
    search_epsilon: Real | None = None
    """Bound on KL(old || new) of the fitted distribution; epsilon where None."""
    covariance: Structure = eqx.field(static=True, default="full")
    """Form of the parameters' covariance."""
    initial_deviation: Real = 1.0
    """Of the first parameters, in units of half the range of actions."""
    action_scale: Real | None = None
    """Size of a usual action, needed where actions have no bounds."""
    features: Identity | Polynomial | RadialBasis | RandomFourier = Identity(intercept=True)
    """What the controller is linear in."""
    context: Constant | Identity | Polynomial | RadialBasis | RandomFourier = Constant()
    """Features of the first observation that the parameters' mean is linear in, the constant among them."""
    baseline: Literal["none", "linear"] = eqx.field(static=True, default="none")
    """What is subtracted from returns: nothing, or their regression on the first observation."""
    window: int = eqx.field(static=True, default=1)
    """Batches that an update learns from; older ones by importance weights."""
    warm_up: int = eqx.field(static=True, default=0)
    """Transitions by which features are scaled before the first update; without, the scales are one."""
    episodes: int = eqx.field(static=True, default=1)
    """Episodes of each environment between updates."""
    environments: int = eqx.field(static=True, default=64)
    """Environments side by side, where `train` makes them."""

    def __check_init__(self):
        require_range(self, 0.0, above=True, epsilon=self.epsilon, search_epsilon=self.search_epsilon)
        require_range(self, 0.0, above=True, initial_deviation=self.initial_deviation, action_scale=self.action_scale)

    @property
    def collection(self) -> Episodes:  # pyright: ignore[reportIncompatibleVariableOverride]
        return Episodes(self.episodes)

    def init(self, spec: Spec, key: PRNGKeyArray, data: Any = None) -> EpisodicREPSState:
        inputs, number = number_size(spec), self.episodes * spec.environments
        contexts = self.context.size(inputs)
        if self.window < 1:
            raise ValueError(f"window counts batches, the newest included: at least 1, but {self.window} was given.")
        if number < contexts + 1:
            raise ValueError(
                f"{contexts} context features need at least {contexts + 1} episodes an update, but there are {number}: "
                "raise episodes or environments."
            )
        center = half_width = low = high = None
        if spec.actions is None:
            assert spec.low is not None
            assert spec.high is not None
            center, half_width = action_scale(spec.low, spec.high, self.action_scale)
            low, high = jnp.asarray(spec.low), jnp.asarray(spec.high)
        outputs = size_of(spec.action.shape) if spec.actions is None else spec.actions
        size = self.features.size(inputs) * outputs
        W = jnp.zeros((contexts, size))
        search = SearchDistribution(W, jnp.asarray(self.initial_deviation, jnp.float32) * jnp.eye(size))
        reference_key, features_key, context_key = jax.random.split(key, 3)
        example = jax.random.normal(reference_key, (REFERENCE, inputs))
        example = (example - jnp.mean(example, axis=0)[None]) / jnp.std(example, axis=0)[None]
        past = None
        if self.window > 1:
            zeros = lambda *shape: jnp.zeros((number, *shape))  # noqa: E731
            empty = Batch(zeros(size), zeros(contexts), zeros(inputs), zeros(), search, jnp.zeros((), bool))
            past = jax.tree.map(lambda x: jnp.repeat(x[None], self.window - 1, axis=0), empty)
        return EpisodicREPSState(
            search=search,
            features=self.features.fit(example, features_key),
            context=self.context.fit(example, context_key),
            past=past,
            center=center,
            half_width=half_width,
            low=low,
            high=high,
            fitted=jnp.asarray(self.warm_up == 0),
        )

    def policy(self, state: EpisodicREPSState, *, explore: bool) -> EpisodicPolicy:
        scales = state.center, state.half_width, state.low, state.high
        return EpisodicPolicy(state.search, state.features, state.context, *scales, explore)

    def observe(self, state: EpisodicREPSState, rollout: Rollout) -> EpisodicREPSState:
        """Fits the features to the warm-up, and to nothing later: parameters keep their meaning."""
        if self.warm_up == 0:
            return state
        t = rollout.transitions
        seen = jax.vmap(jax.vmap(as_features))(t.observation)
        seen = seen.reshape(-1, seen.shape[-1])
        features_key, context_key = jax.random.split(jax.random.key(0))

        def fit():
            valid = t.valid.reshape(-1)
            return self.features.fit(seen, features_key, valid), self.context.fit(seen, context_key, valid)

        features, context = jax.lax.cond(state.fitted, lambda: (state.features, state.context), fit)
        return dataclasses.replace(state, features=features, context=context, fitted=jnp.ones((), bool))

    def update(
        self, state: EpisodicREPSState, rollout: Rollout, key: PRNGKeyArray, reward: Reward = environment_reward
    ) -> tuple[EpisodicREPSState, Metrics]:
        t = rollout.transitions
        rewards = jnp.where(t.valid, jax.vmap(jax.vmap(reward))(t), 0.0)
        start = jax.vmap(as_features)(jax.tree.map(lambda x: x[0], t.observation))
        now = Batch(
            parameters=rollout.carry,
            context=jax.vmap(state.context)(start),
            start=start,
            returns=jnp.sum(rewards, axis=0),
            search=state.search,
            filled=jnp.ones((), bool),
        )
        search, metrics = self.improved(state, now)
        past = None
        if state.past is not None:
            past = jax.tree.map(lambda new, old: jnp.concatenate([new[None], old[:-1]]), now, state.past)
        steps = jnp.sum(t.valid, dtype=rewards.dtype)
        metrics |= {"return": jnp.mean(now.returns), "length": steps / now.returns.size}
        return dataclasses.replace(state, search=search, past=past), metrics

    def improved(self, state: EpisodicREPSState, now: Batch) -> tuple[SearchDistribution, Metrics]:
        """The search after one update, on all batches of the window, and what happened, computed in float64."""
        batches = jax.tree.map(lambda x: x[None], now)
        if state.past is not None:
            batches = jax.tree.map(lambda new, old: jnp.concatenate([new[None], old]), now, state.past)
        theta, context, start, returns = jax.tree.map(
            lambda x: x.reshape(-1, *x.shape[2:]),
            (batches.parameters, batches.context, batches.start, batches.returns),
        )
        log_weights = _importance(batches, theta, context)
        epsilon = self.epsilon
        bound = epsilon if self.search_epsilon is None else self.search_epsilon
        search, done = update(
            state.search,
            theta,
            returns,
            None if isinstance(self.context, Constant) else context,
            epsilon=epsilon,
            bound=bound if self.constrain_search else False,
            log_weights=log_weights,
            baseline=_regression(returns, start, log_weights) if self.baseline == "linear" else None,
            structure=self.covariance,
        )
        # Rounded to float32 a factor may lose what made it positive.
        sound = done.applied & jnp.all(jnp.diagonal(search.scale_cholesky) > 0.0)
        new = jax.tree.map(lambda new, old: jnp.where(sound, new, old), search, state.search)
        metrics = {
            "temperature": done.temperature,
            "kl": done.kl,
            "kl_bound": jnp.asarray(epsilon, jnp.float32),
            "policy_kl": done.kl_old_new,
            "reverse_policy_kl": done.kl_new_old,
            "effective_sample_size": done.effective_sample_size,
            "promised_return": done.expected_return,
            "inactive": done.result == Result.CONSTRAINT_INACTIVE,
            "collapsed": done.result == Result.COLLAPSED,
            "entropy": new.entropy(),
            "applied": sound,
        }
        return new, {name: jnp.asarray(value).astype(jnp.float32) for name, value in metrics.items()}


def _importance(batches: Batch, theta: Array, context: Array) -> Float[Array, " samples"]:
    """`log` of the newest search over the mixture of those that drew the samples, `-inf` for batches not there yet."""
    if batches.filled.shape[0] == 1:
        return jnp.zeros(theta.shape[0], theta.dtype)
    by_sample = jax.vmap(SearchDistribution.log_prob, (None, 0, 0))
    log_prob = jax.vmap(by_sample, (0, None, None))(batches.search, theta, context)
    mixture = jax.nn.logsumexp(jnp.where(batches.filled[:, None], log_prob, -jnp.inf), axis=0)
    used = jnp.repeat(batches.filled, theta.shape[0] // batches.filled.shape[0])
    return jnp.where(used, log_prob[0] - mixture, -jnp.inf)


def _regression(returns: Array, start: Array, log_weights: Array) -> Float[Array, " samples"]:
    """Weighted least squares of the returns on `[1, first observation]`; columns that do not vary drop out."""
    with precision(np.float64):
        y, x, log_q = (jnp.asarray(a, jnp.float64) for a in (returns, start, log_weights))
        q = jnp.exp(log_q - jax.nn.logsumexp(log_q))
        x = x - (q @ x)[None]
        center = q @ y
        root = jnp.sqrt(q)
        slope = jnp.linalg.lstsq(root[:, None] * x, root * (y - center), rcond=1e-6)[0]
        return (center + x @ slope).astype(returns.dtype)
