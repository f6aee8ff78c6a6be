"""Estimates of a policy gradient from whole episodes, one contribution an episode, so that its noise is known too.

    g_i = sum_t score_it (credit_it - b_it),            score_it = grad log pi(a_it | s_it)
    grad J ~ (1/n) sum_i g_i,                           standard error = deviation of g_i / sqrt(n)

With credit `total`, all rewards of the episode, this is REINFORCE (Williams 1992); with `to_go`, the rewards from the
step on, G(PO)MDP (Baxter and Bartlett 2001). Rewards come as `r - tau log pi` where entropy counts (`soft_rewards`). A
baseline that does not look at the action changes the mean of no contribution; what it does to the noise is another
matter. Everything here is a function of arrays `[episodes, time]`, in which padding has score and reward zero.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Bool, Float

from optimality.core.numerics import Real, is_traced

Table = Float[Array | np.ndarray, "episodes time"]
Baseline = Float[Array | np.ndarray, "#episodes time"]
Scores = Float[Array | np.ndarray, "episodes time parameters"]
Contributions = Float[Array | np.ndarray, "episodes parameters"]


class GradientEstimate(NamedTuple):
    """`mean` and its `standard_error` in each coordinate, and the episodes' own contributions."""

    mean: Float[Array, " parameters"]
    standard_error: Float[Array, " parameters"]
    contributions: Float[Array, "episodes parameters"]


def estimate(contributions: Contributions) -> GradientEstimate:
    """Mean and standard error over independent episodes. Raises `ValueError` for fewer than two."""
    contributions = jnp.asarray(contributions)
    number = contributions.shape[0]
    if number < 2:
        raise ValueError(f"an estimate and its noise need at least 2 episodes, but {number} were given.")
    deviation = jnp.std(contributions, axis=0, ddof=1)
    return GradientEstimate(jnp.mean(contributions, axis=0), deviation / number**0.5, contributions)


def scores_of(
    log_prob: Callable[[Any, Any, Any], Float[Array, ""]],
    parameters: Any,
    observations: Any,
    actions: Any,
    valid: Bool[Array | np.ndarray, "episodes time"],
) -> Scores:
    """Derivatives of `log_prob(parameters, observation, action)` in the parameters, laid end to end.

    Raises `ValueError` where a log-probability is not finite, with the step (concrete arguments only).
    """
    each = lambda function: jax.vmap(jax.vmap(function))(observations, actions)  # noqa: E731
    values = each(lambda s, a: log_prob(parameters, s, a))
    if not is_traced(values):
        wrong = np.argwhere(np.asarray(valid) & ~np.isfinite(np.asarray(values)))
        if wrong.size:
            episode, step = wrong[0]
            at = lambda tree: jax.tree.map(lambda x: np.asarray(x)[episode, step].tolist(), tree)  # noqa: E731
            raise ValueError(
                f"the policy's log-probability is {float(np.asarray(values)[episode, step])} at step {step} of episode "
                f"{episode}, for action {at(actions)} at observation {at(observations)}: it cannot have acted so."
            )
    scores = each(lambda s, a: ravel_pytree(jax.grad(log_prob)(parameters, s, a))[0])
    return jnp.where(jnp.asarray(valid)[..., None], scores, 0.0)


def soft_rewards(rewards: Table, log_prob: Table, temperature: Real) -> Table:
    """`r - temperature log pi`, whose expected sum is the return with entropy. Each action is credited with its own
    `-temperature log pi` too: without it the gradient is that of another objective."""
    return jnp.asarray(rewards) - jnp.asarray(temperature, jnp.result_type(rewards)) * jnp.asarray(log_prob)


def credit(rewards: Table, kind: str = "to_go", discount: Real = 1.0) -> Table:
    """What each action is credited with: `sum_{k >= t} discount^k r_k` (`to_go`), or the whole sum (`total`).

    Counted from the first step of the episode, so that later steps weigh as little as they do in the return. Raises
    `ValueError` for an empty batch, for rewards that are not finite (concrete arguments only), or another kind.
    """
    if np.ndim(rewards) != 2 or 0 in np.shape(rewards):
        raise ValueError(f"rewards must be [episodes, time], at least one of each, but are {np.shape(rewards)}.")
    if not is_traced(rewards) and not np.all(np.isfinite(np.asarray(rewards))):
        episode, step = np.argwhere(~np.isfinite(np.asarray(rewards)))[0]
        raise ValueError(f"the reward at step {step} of episode {episode} is {np.asarray(rewards)[episode, step]}.")
    rewards = jnp.asarray(rewards)
    power = jnp.asarray(discount, rewards.dtype) ** jnp.arange(rewards.shape[1], dtype=rewards.dtype)
    counted = power[None] * rewards
    if kind == "total":
        return jnp.broadcast_to(jnp.sum(counted, axis=1, keepdims=True), rewards.shape)
    if kind == "to_go":
        return jnp.cumsum(counted[:, ::-1], axis=1)[:, ::-1]
    raise ValueError(f"kind must be 'to_go' or 'total', but {kind!r} was given.")


def contributions(scores: Scores, credit: Table, baseline: Baseline | Real = 0.0) -> Contributions:
    """`sum_t score_t (credit_t - baseline_t)` of each episode.

    The baseline may be a number, one number a step `[1, time]`, or a table, of a critic's values or of `leave_one_out`;
    it must not depend on the action at its step nor on what the action led to.
    """
    credit = jnp.asarray(credit)
    return jnp.einsum("itd,it->id", jnp.asarray(scores), credit - jnp.asarray(baseline, credit.dtype))


def leave_one_out(credit: Table, valid: Bool[Array | np.ndarray, "episodes time"] | None = None) -> Table:
    """The mean credit of the other episodes at each step, of those that still run: a baseline of no bias.

    Raises `ValueError` for a single episode, which has no others; a step that no other episode reaches gets zero.
    """
    credit = jnp.asarray(credit)
    if credit.shape[0] < 2:
        raise ValueError("leave_one_out needs at least 2 episodes: with one there are no others.")
    running = jnp.ones(credit.shape, bool) if valid is None else jnp.asarray(valid)
    known = jnp.where(running, credit, 0.0)
    others = jnp.sum(running, axis=0, keepdims=True, dtype=credit.dtype) - running.astype(credit.dtype)
    return (jnp.sum(known, axis=0, keepdims=True) - known) / jnp.maximum(others, 1.0)


def optimal_baseline(scores: Scores, credit: Table, *, over: str = "others") -> Float[Array, "episodes parameters"]:
    """The constant of each coordinate that gives the least variance, `E[S C] / E[S^2]` (Greensmith et al. 2004).

    `S` is the episode's score and `C` its contribution without a baseline; `with_optimal_baseline` subtracts `b S`.
    Fitted on the `batch` it depends on the very actions that it is subtracted for: the gradient is then biased, by a
    relative error of order `1 / episodes`, 0.72 at two episodes of a small problem. Fitted on the `others` it is not.
    """
    scores = jnp.asarray(scores)
    total, plain = jnp.sum(scores, axis=1), contributions(scores, credit)
    products, squares = total * plain, total**2
    top, bottom = jnp.sum(products, axis=0, keepdims=True), jnp.sum(squares, axis=0, keepdims=True)
    if over == "others":
        if scores.shape[0] < 2:
            raise ValueError("a baseline fitted on the others needs at least 2 episodes.")
        top, bottom = top - products, bottom - squares
    elif over != "batch":
        raise ValueError(f"over must be 'batch' or 'others', but {over!r} was given.")
    fitted = jnp.where(bottom > 0.0, top / jnp.where(bottom > 0.0, bottom, 1.0), 0.0)
    return jnp.broadcast_to(fitted, total.shape)


def with_optimal_baseline(scores: Scores, credit: Table, *, over: str = "others") -> Contributions:
    """Contributions less `optimal_baseline` times the episode's score."""
    total = jnp.sum(jnp.asarray(scores), axis=1)
    return contributions(scores, credit) - optimal_baseline(scores, credit, over=over) * total
