"""Relative entropy policy search from samples of steps (Peters, Muelling and Altun 2010; van Hoof, Neumann and Peters
2017).

    max_p E_p r    subject to   E_p[E psi(s') - psi(s)] = 0,    KL(p || q) <= epsilon,        q the samples
    p_i ~ q_i exp(delta_i / eta),      delta = r + E V(s') - V(s),      V(s) = v' psi(s)
    policy <- argmax sum_i p_i log pi(a_i | s_i)    subject to    E_q KL(old(. | s) || pi(. | s)) <= bound

with the temperature eta and the value's weights v from the dual (`core.information_projection`). The policy is normal
with a mean linear in features. The second bound is there because the fitted policy's divergence is not epsilon: with
few samples it is far above.

The expectation over next states stands inside the exponential. `next_features="single_sample"` puts the sampled one
there, which is right where the dynamics are deterministic and biased where they are not, at any number of samples.

Restarts are part of the process. A terminated transition goes on to a first state, a truncated one to its true next
state, and every state besides starts again with a probability: `1 - discount` by default, where the objective is the
mean reward of the normalized discounted occupancy, or one over the time limit. The next features are mixed accordingly.
"""

import dataclasses
from dataclasses import KW_ONLY
from typing import Any, Literal

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, PRNGKeyArray

from optimality.core.information import effective_sample_size
from optimality.core.information_projection import information_projection
from optimality.core.numerics import Real, cast_floats, precision, require_range
from optimality.core.result import Result
from optimality.learning.actor import as_features, number_size, size_of
from optimality.learning.expected_features import ridge, with_resets
from optimality.planning.reps_step import feature_changes
from optimality.policies.constrained_fit import kl_constrained_fit
from optimality.policies.features import Identity, Polynomial
from optimality.policies.kernel_features import RadialBasis, RandomFourier
from optimality.policies.linear_gaussian import LinearGaussian
from optimality.policies.weighted_fit import Structure
from optimality.sampling.learner import AbstractLearner, Metrics, Reward
from optimality.sampling.linear_gaussian_policy import LinearGaussianPolicy, action_scale
from optimality.sampling.replay import flat
from optimality.sampling.transitions import Rollout, Spec, Steps, environment_reward

STARTS = 256
"""First observations that are kept, the newest."""


class Samples(eqx.Module):
    """What an update needs of transitions, `[N, ...]`."""

    observation: Float[Array, "*n inputs"]
    action: Float[Array, "*n actions"]
    """As the policy's law drew it, before scale and bounds."""
    reward: Float[Array, "*n"]
    next_observation: Float[Array, "*n inputs"]
    terminated: Bool[Array, "*n"]
    valid: Bool[Array, "*n"]


class Past(eqx.Module):
    """Earlier batches, newest first, and the parameters of the policies that drew them."""

    samples: Samples
    W: Float[Array, "*batches features actions"]
    scale_cholesky: Float[Array, "*batches actions actions"]
    filled: Bool[Array, "*batches"]


class REPSState(eqx.Module):
    law: LinearGaussian
    value_features: Any
    starts: Float[Array, "starts inputs"]
    known: Bool[Array, " starts"]
    fresh: Bool[Array, " environments"]
    """Whether the next observation of each environment is a first one."""
    past: Past | None
    center: Float[Array, "..."]
    half_width: Float[Array, "..."]
    low: Float[Array, "..."]
    high: Float[Array, "..."]
    going_on: Float[Array, ""]
    """Probability that the process does not start again after a step."""
    updates: Array


class REPS(AbstractLearner):
    """Step-based relative entropy policy search with a Gaussian policy."""

    _: KW_ONLY
    epsilon: Real = 0.5
    """Bound on the information loss KL(p || q) of the state-action weights, in nats."""
    constrain_policy: bool = eqx.field(static=True, default=True)
    """Bound the fitted policy too; without, the plain weighted maximum likelihood is taken."""
    policy_epsilon: Real | None = None
    """Bound on KL(old || new) of the fitted policy, averaged over the visited states; epsilon where None."""
    criterion: Literal["discounted", "time_limit", "average_reward"] = eqx.field(static=True, default="discounted")
    """Discounted: restarts with probability `1 - discount`. Time limit: one over the environment's limit. Average
    reward: none, for environments that never start again."""
    discount: Real = 0.98
    """Probability of going on, for the criterion `discounted`: nearer to one the value has to look farther ahead, for
    which features must be finer."""
    slack: Real = 1e-4
    """How softly the features are matched; 0 exactly."""
    next_features: Literal["single_sample", "ridge"] = eqx.field(static=True, default="single_sample")
    """How the expected next features are estimated; ridge regresses them on features of state and action."""
    ridge_penalty: Real = 1e-3
    """Of that regression, in units of its inputs' variance."""
    policy_features: RandomFourier | RadialBasis | Polynomial | Identity = RandomFourier()
    """What the policy's mean is linear in."""
    value_features: RandomFourier | RadialBasis | Polynomial | Identity = RandomFourier()
    """What the value is linear in."""
    covariance: Structure = eqx.field(static=True, default="full")
    """Form of the policy's covariance."""
    initial_deviation: Real = 1.0
    """Of the first policy, in units of half the range of actions."""
    action_scale: Real | None = None
    """Size of a usual action, needed where actions have no bounds."""
    window: int = eqx.field(static=True, default=1)
    """Batches that an update learns from; older ones by importance weights."""
    rollout_steps: int = eqx.field(static=True, default=625)
    """Steps of each environment between updates."""
    environments: int = eqx.field(static=True, default=8)
    """Environments side by side, where `train` makes them."""

    warm_up = 0

    def __check_init__(self):
        require_range(self, 0.0, above=True, epsilon=self.epsilon, policy_epsilon=self.policy_epsilon)
        require_range(self, 0.0, above=True, initial_deviation=self.initial_deviation, action_scale=self.action_scale)
        require_range(self, 0.0, slack=self.slack, ridge_penalty=self.ridge_penalty)
        require_range(self, 0.0, 1.0, discount=self.discount)

    @property
    def collection(self) -> Steps:  # pyright: ignore[reportIncompatibleVariableOverride]
        return Steps(self.rollout_steps)

    def init(self, spec: Spec, key: PRNGKeyArray, data: Any = None) -> REPSState:
        inputs = number_size(spec)
        if spec.actions is not None:
            raise ValueError(
                "REPS has a Gaussian policy, but the actions are discrete: use episodic-reps or ppo, or plan in the "
                "table with solve(mdp, ExactREPS())."
            )
        if self.criterion == "average_reward" and spec.time_limit is not None:
            raise ValueError(
                f'criterion="average_reward" is for environments that never start again, but this one does after '
                f'{spec.time_limit} steps: use criterion="time_limit", which counts the restarts in.'
            )
        if self.criterion == "time_limit" and spec.time_limit is None:
            raise ValueError(
                'criterion="time_limit" needs an environment with a limit: use "average_reward" or "discounted".'
            )
        if self.window < 1:
            raise ValueError(f"window counts batches, the newest included: at least 1, but {self.window} was given.")
        number = self.rollout_steps * spec.environments
        for name, features in (("policy_features", self.policy_features), ("value_features", self.value_features)):
            if features.size(inputs) > number:
                raise ValueError(
                    f"{name} are {features.size(inputs)} numbers, more than the {number} samples of an update: raise "
                    "rollout_steps or take fewer features."
                )
        assert spec.low is not None
        assert spec.high is not None
        center, half_width = action_scale(spec.low, spec.high, self.action_scale)
        actions = size_of(spec.action.shape)
        example_key, policy_key, value_key = jax.random.split(key, 3)
        example = jax.random.normal(example_key, (STARTS, inputs))
        features = self.policy_features.fit(example, policy_key)
        deviation = jnp.asarray(self.initial_deviation, jnp.float32)
        W = jnp.zeros((self.policy_features.size(inputs), actions))
        law = LinearGaussian(features, W, deviation * jnp.eye(actions))
        past = None
        if self.window > 1:
            empty = (self.window - 1, number)
            zeros, nothing = jnp.zeros((*empty, inputs)), jnp.zeros(empty, bool)
            samples = Samples(zeros, jnp.zeros((*empty, actions)), jnp.zeros(empty), zeros, nothing, nothing)
            repeated = lambda x: jnp.repeat(x[None], self.window - 1, axis=0)  # noqa: E731
            past = Past(
                samples, repeated(W), repeated(jnp.asarray(law.scale_cholesky)), jnp.zeros(self.window - 1, bool)
            )
        return REPSState(
            law=law,
            value_features=self.value_features.fit(example, value_key),
            starts=jnp.zeros((STARTS, inputs)),
            known=jnp.zeros(STARTS, bool),
            fresh=jnp.ones(spec.environments, bool),
            past=past,
            center=center,
            half_width=half_width,
            low=jnp.asarray(spec.low),
            high=jnp.asarray(spec.high),
            going_on=self.going_on(spec),
            updates=jnp.zeros((), jnp.int32),
        )

    def going_on(self, spec: Spec) -> Float[Array, ""]:
        if self.criterion == "discounted":
            return jnp.asarray(self.discount, jnp.float32)
        return jnp.asarray(1.0 - (0.0 if spec.time_limit is None else 1.0 / spec.time_limit), jnp.float32)

    def policy(self, state: REPSState, *, explore: bool) -> LinearGaussianPolicy:
        return LinearGaussianPolicy(state.law, state.center, state.half_width, state.low, state.high, explore)

    def observe(self, state: REPSState, rollout: Rollout) -> REPSState:
        """Keeps the first observations of episodes."""
        t = rollout.transitions
        seen = jax.vmap(jax.vmap(as_features))(t.observation)
        first = jnp.concatenate([state.fresh[None], t.done[:-1]]) & t.valid
        newest = seen[::-1].reshape(-1, seen.shape[-1])
        starts = jnp.concatenate([newest, state.starts])
        known = jnp.concatenate([first[::-1].reshape(-1), state.known])
        kept = jnp.argsort(~known, stable=True)[:STARTS]
        return dataclasses.replace(state, starts=starts[kept], known=known[kept], fresh=t.done[-1])

    def update(
        self, state: REPSState, rollout: Rollout, key: PRNGKeyArray, reward: Reward = environment_reward
    ) -> tuple[REPSState, Metrics]:
        now = self.samples(rollout, reward)
        state = self.fitted(state, now, key)
        samples, log_base = self.reweighted(state, now)
        law, metrics = self.improved(state, samples, log_base)
        applied = metrics["applied"] > 0.0
        new = jax.tree.map(lambda new, old: jnp.where(applied, new, old), law, state.law)
        past = self.remembered(state, now)
        metrics["entropy"] = new.entropy()
        metrics["return"] = jnp.sum(jnp.where(now.valid, now.reward, 0.0)) / jnp.sum(now.valid, dtype=jnp.float32)
        return dataclasses.replace(state, law=new, past=past, updates=state.updates + 1), metrics

    def samples(self, rollout: Rollout, reward: Reward) -> Samples:
        t = flat(rollout.transitions)
        return Samples(
            observation=jax.vmap(as_features)(t.observation),
            action=t.extras["raw_action"],
            reward=jnp.where(t.valid, jax.vmap(reward)(t), 0.0),
            next_observation=jax.vmap(as_features)(t.next_observation),
            terminated=t.terminated,
            valid=t.valid,
        )

    def fitted(self, state: REPSState, now: Samples, key: PRNGKeyArray) -> REPSState:
        """Features scaled and placed by the first batch. The first policy's mean is zero, in whatever features."""
        policy_key, value_key = jax.random.split(key)

        def fit():
            return (
                self.policy_features.fit(now.observation, policy_key, now.valid),
                self.value_features.fit(now.observation, value_key, now.valid),
            )

        before = (state.law.features, state.value_features)
        after = jax.lax.cond(state.updates == 0, fit, lambda: before)
        law = LinearGaussian(after[0], state.law.W, state.law.scale_cholesky)
        return dataclasses.replace(state, law=law, value_features=after[1])

    def reweighted(self, state: REPSState, now: Samples) -> tuple[Samples, Float[Array, " n"]]:
        """All batches of the window, and the logarithm of `pi_now(a | s)` over the mixture of the policies that drew
        them (Sutton and Barto 2018, section 5.5, with the mixture of Veach and Guibas 1995)."""
        if state.past is None:
            return now, jnp.where(now.valid, 0.0, -jnp.inf)
        past = state.past
        rows = lambda new, old: jnp.concatenate([new[None], old]).reshape(-1, *new.shape[1:])  # noqa: E731
        samples = jax.tree.map(rows, now, past.samples)
        phi = jax.vmap(state.law.features)(samples.observation)
        W = jnp.concatenate([state.law.W[None], past.W])
        factor = jnp.concatenate([state.law.scale_cholesky[None], past.scale_cholesky])
        log_prob = jax.vmap(_log_density, (None, None, 0, 0))(phi, samples.action, W, factor)
        filled = jnp.concatenate([jnp.ones(1, bool), past.filled])
        mixture = jax.nn.logsumexp(jnp.where(filled[:, None], log_prob, -jnp.inf), axis=0)
        used = samples.valid & jnp.repeat(filled, now.valid.shape[0])
        return samples, jnp.where(used, log_prob[0] - mixture, -jnp.inf)

    def improved(
        self, state: REPSState, samples: Samples, log_base: Float[Array, " n"]
    ) -> tuple[LinearGaussian, Metrics]:
        """The projection, then the fit, both in float64."""
        each = jax.vmap
        phi, psi = each(state.law.features)(samples.observation), each(state.value_features)(samples.observation)
        after = each(state.value_features)(samples.next_observation)
        first = each(state.value_features)(state.starts)
        with precision(np.float64):
            arrays = (phi, psi, after, first, samples.action, samples.reward, log_base, state.law)
            phi, psi, after, first, action, reward, log_base, law = cast_floats(arrays, jnp.float64)
            moments = feature_changes(psi, self.expected(state, samples, phi, psi, after, first, action))
            projection = information_projection(
                reward,
                moments,
                log_base=log_base,
                epsilon=jnp.asarray(self.epsilon, jnp.float64),
                slack=jnp.asarray(self.slack, jnp.float64),
            )
            bound = self.epsilon if self.policy_epsilon is None else self.policy_epsilon
            bound = jnp.asarray(bound if self.constrain_policy else jnp.inf, jnp.float64)
            covariance = law.scale_cholesky @ law.scale_cholesky.T
            fit = kl_constrained_fit(
                law.W,
                covariance,
                phi,
                action,
                projection.log_p,
                bound=bound,
                log_visits=log_base,
                structure=self.covariance,
            )
            factor = jnp.linalg.cholesky(fit.covariance)
            base_size = effective_sample_size(log_base)
            code = projection.result
            idle = (code == Result.CONSTRAINT_INACTIVE) | (code == Result.NON_FINITE)
            finite = jnp.all(jnp.isfinite(fit.W)) & jnp.all(jnp.isfinite(factor)) & (code != Result.NON_FINITE)
            # Without an advantage anywhere nothing is to be learned: the policy stays.
            W, factor = jnp.where(idle, law.W, fit.W), jnp.where(idle, law.scale_cholesky, factor)
            metrics = {
                "temperature": projection.temperature,
                "kl": projection.kl,
                "kl_bound": jnp.asarray(self.epsilon, jnp.float64),
                "kl_min": projection.kl_min,
                "policy_kl": fit.kl_old_new,
                "reverse_policy_kl": fit.kl_new_old,
                "effective_sample_size": projection.effective_sample_size,
                "base_sample_size": base_size,
                "feature_residual": _relative(projection.residual, moments, log_base),
                "promised_reward": projection.value,
                "infeasible": (code == Result.INFEASIBLE) | (code == Result.BELOW_MINIMAL_KL),
                "inactive": idle,
                "collapsed": code == Result.COLLAPSED,
                "applied": finite,
            }
            metrics = {name: jnp.asarray(value).astype(jnp.float32) for name, value in metrics.items()}
            for name in ("policy_kl", "reverse_policy_kl"):
                metrics[name] = jnp.where(idle, jnp.float32(0.0), metrics[name])
            W, factor = jnp.asarray(W).astype(jnp.float32), factor.astype(jnp.float32)
        return LinearGaussian(state.law.features, W, factor), metrics

    def remembered(self, state: REPSState, now: Samples) -> Past | None:
        """The window with this batch, and the policy that drew it, in place of the oldest."""
        if state.past is None:
            return None
        newest = Past(now, jnp.asarray(state.law.W), jnp.asarray(state.law.scale_cholesky), jnp.ones((), bool))
        return jax.tree.map(lambda new, old: jnp.concatenate([new[None], old[:-1]]), newest, state.past)

    def expected(self, state, samples, phi, psi, after, first, action) -> Array:
        """`E psi(s')` of the process with its restarts."""
        first = jnp.where(state.known[:, None], first, 0.0)
        number = jnp.maximum(jnp.sum(state.known, dtype=first.dtype), 1.0)
        start = jnp.sum(first, axis=0, keepdims=True) / number
        after = with_resets(after, start, terminated=samples.terminated, discount=state.going_on.astype(after.dtype))
        if self.next_features == "single_sample":
            return jnp.asarray(after)
        seen = jnp.concatenate([psi, phi], axis=1)
        pairs = seen[:, :, None] * action[:, None, :]  # what an action does depends on the state
        inputs = jnp.concatenate([seen, action, action**2, pairs.reshape(seen.shape[0], -1)], axis=1)
        penalty = jnp.asarray(self.ridge_penalty, after.dtype)
        return jnp.asarray(ridge(after, inputs, penalty=penalty, valid=samples.valid))


def _log_density(phi, action, W, factor):
    z = jax.scipy.linalg.solve_triangular(factor, (action - phi @ W).T, lower=True)
    return -0.5 * jnp.sum(z**2, axis=0) - jnp.sum(jnp.log(jnp.diagonal(factor)))


def _relative(residual, moments, log_base):
    """The largest mismatch of a feature, in its standard deviations."""
    q = jnp.exp(log_base - jax.nn.logsumexp(log_base))
    mean = q @ moments
    deviation = jnp.sqrt(q @ (moments - mean[None, :]) ** 2)
    return jnp.max(jnp.abs(residual) / jnp.where(deviation > 0.0, deviation, 1.0), initial=0.0)
