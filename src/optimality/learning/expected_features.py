"""Expected next features `E[psi(s') | s, a]` from data or from a model, for Bellman errors with a linear value.

    delta(s, a) = r + E[V(s') | s, a] - V(s) = r + (E[psi(s') | s, a] - psi(s))' v,        V(s) = v' psi(s)

REPS puts the error inside an exponential, where the expectation over next states must stand too (Peters, Muelling and
Altun 2010, section 2.3). With one sampled next state in its place the method does not become exact as the data grow:
it maximizes the certainty equivalent `eta log E exp(V(s') / eta)`, counts on luck, and where next states are random
may end near the worst policy. So the expectation is an input with estimators:

    single_sample     the sampled next state: exact where nothing is random, biased elsewhere at every number of samples
    pair_average      the mean over all samples of the same (s, a): consistent where pairs repeat
    ridge             regression on features of (s, a): consistent where E[psi(s')] is linear in them
    from_model        the truth, on a table

Restarts are part of the expectation (`with_resets`), and go in before an estimator.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from optimality.core.numerics import Real, at_precision, is_traced
from optimality.planning.stationary_process import ended_mass
from optimality.problems.tabular import TabularMDP

Features = Float[Array | np.ndarray, "samples features"]
Numbers = Float[Array | np.ndarray, " samples"]
Indices = Int[Array | np.ndarray, " samples"]
Mask = Bool[Array | np.ndarray, " samples"]


def with_resets(
    next_features: Features,
    start_features: Float[Array | np.ndarray, "starts features"],
    *,
    terminated: Mask | None = None,
    discount: Real = 1.0,
) -> Features:
    """`discount psi(s') + (1 - discount) mean psi(s0)`, with `mean psi(s0)` for `psi(s')` where the transition
    terminated.

    This is the next state of a process that starts again: after a termination at once, otherwise with probability
    `1 - discount`. For the average reward of an environment with a time limit give `discount = 1 - 1 / limit`. A
    truncated transition has a next state like any other, so that truncation is not asked for.

    Args:
        next_features: `[N, K]`, of the true next states.
        start_features: `[M, K]`, of some first states.
        terminated: `[N]`; none by default.
        discount: probability of going on, in [0, 1].

    Raises:
        ValueError: shapes that do not agree, or a discount outside [0, 1].
    """
    _same("start_features", jnp.shape(start_features)[1:], jnp.shape(next_features)[1:], "features of next_features")
    if jnp.shape(start_features)[0] == 0:
        raise ValueError("start_features has no rows: restarts need the features of at least one first state.")
    if not is_traced(discount) and not 0.0 <= float(discount) <= 1.0:
        raise ValueError(f"discount is the probability of going on, in [0, 1], but {discount} was given.")
    if terminated is not None:
        _same("terminated", jnp.shape(terminated), jnp.shape(next_features)[:1], "samples of next_features")
    return at_precision(_with_resets, next_features, start_features, terminated, discount)


@jax.jit
def _with_resets(next_features, start_features, terminated, discount):
    start = jnp.mean(start_features, axis=0, keepdims=True)
    if terminated is not None:
        next_features = jnp.where(terminated[:, None], start, next_features)
    discount = jnp.asarray(discount, next_features.dtype)
    return discount * next_features + (1.0 - discount) * start


def single_sample(next_features: Features) -> Features:
    """The features of the sampled next states, as they are.

    Unbiased for the Bellman error itself, biased inside an exponential: `log E exp` takes the noise of `V(s')` for an
    advantage. Right only where one next state follows each pair.
    """
    return next_features


def pair_index(states: Array | np.ndarray, actions: Array | np.ndarray) -> Indices:
    """A number for each sample's pair, the same where state and action are exactly equal, `[N]` in `0 .. N-1`.

    Args:
        states: `[N]` or `[N, ...]`.
        actions: likewise.
    """
    number = jnp.shape(states)[0]
    _same("actions", jnp.shape(actions)[:1], (number,), "samples of states")
    index = _pair_index(states, actions)
    return index if is_traced((states, actions)) else np.asarray(index)


@jax.jit
def _pair_index(states, actions):
    columns = [jnp.asarray(a).reshape(a.shape[0], -1).T for a in (states, actions)]
    columns = [column for block in columns for column in block]
    order = jnp.lexsort(columns)
    changes = [column[order][1:] != column[order][:-1] for column in columns]
    changed = jnp.any(jnp.stack(changes), axis=0)
    rank = jnp.concatenate([jnp.zeros(1, jnp.int32), jnp.cumsum(changed.astype(jnp.int32), dtype=jnp.int32)])
    return jnp.zeros(order.shape, jnp.int32).at[order].set(rank)


def pair_average(next_features: Features, pair: Indices, number: int, *, valid: Mask | None = None) -> Features:
    """The mean of `next_features` over the samples of the same pair: the expectation under the empirical dynamics.

    The Bellman errors with it are those of the empirical model; rewards that are random are averaged by the same
    function. A pair seen once keeps its own sample, and with it the bias of `single_sample`.

    Args:
        next_features: `[N, K]`.
        pair: `[N]` in `0 .. number-1`, for example `state * actions + action`, or `pair_index`.
        number: how many pairs there may be; static.
        valid: `[N]`, false where a sample is padding.

    Raises:
        ValueError: shapes that do not agree, or an index outside of the range.
    """
    samples = jnp.shape(next_features)[:1]
    _same("pair", jnp.shape(pair), samples, "samples of next_features")
    if not is_traced(pair) and np.size(pair) and not 0 <= np.min(pair) <= np.max(pair) < number:
        raise ValueError(f"pair must be in 0 .. {number - 1}, but it reaches from {np.min(pair)} to {np.max(pair)}.")
    if valid is not None:
        _same("valid", jnp.shape(valid), samples, "samples of next_features")
    return at_precision(partial(_pair_average, number), next_features, pair, valid)


@partial(jax.jit, static_argnums=0)
def _pair_average(number, next_features, pair, valid):
    weight = jnp.ones(pair.shape, next_features.dtype) if valid is None else valid.astype(next_features.dtype)
    kept = jnp.where(weight[:, None] > 0.0, next_features, 0.0)
    total = jax.ops.segment_sum(kept, pair, number)
    count = jax.ops.segment_sum(weight, pair, number)
    return (total / jnp.maximum(count, 1.0)[:, None])[pair]


def ridge(next_features: Features, inputs: Features, *, penalty: Real = 1e-6, valid: Mask | None = None) -> Features:
    """Fitted values of a ridge regression of `next_features` on `inputs`, features of state and action.

    Inputs are centered and scaled to unit deviation, and the intercept is not penalized: `penalty` is in units of the
    inputs' variance, and where it is large the fit is the mean. Directions without variance count for nothing, so that
    dependent or constant inputs do no harm.

    Args:
        next_features: `[N, K]`.
        inputs: `[N, M]`.
        penalty: at least 0.
        valid: `[N]`, false where a sample is padding.

    Raises:
        ValueError: shapes that do not agree, or a negative penalty.
    """
    samples = jnp.shape(next_features)[:1]
    _same("inputs", jnp.shape(inputs)[:1], samples, "samples of next_features")
    if valid is not None:
        _same("valid", jnp.shape(valid), samples, "samples of next_features")
    if not is_traced(penalty) and not float(penalty) >= 0.0:
        raise ValueError(f"penalty must be at least 0, but {penalty} was given.")
    return at_precision(_ridge, next_features, inputs, penalty, valid)


@jax.jit
def _ridge(next_features, inputs, penalty, valid):
    dtype = next_features.dtype
    weight = jnp.ones(inputs.shape[:1], dtype) if valid is None else valid.astype(dtype)
    count = jnp.maximum(jnp.sum(weight), 1.0)

    def centered(values):
        kept = jnp.where(weight[:, None] > 0.0, values, 0.0)
        mean = jnp.sum(kept, axis=0, keepdims=True) / count
        return jnp.where(weight[:, None] > 0.0, values - mean, 0.0), mean

    x, _ = centered(inputs)
    y, mean = centered(next_features)
    deviation = jnp.sqrt(jnp.sum(x * x, axis=0, keepdims=True) / count)
    rounding = 64 * jnp.finfo(dtype).eps * jnp.max(jnp.abs(inputs), axis=0, keepdims=True, initial=0.0)
    x = jnp.where(deviation > rounding, x / jnp.where(deviation > 0.0, deviation, 1.0), 0.0)
    q, triangle = jnp.linalg.qr(x / jnp.sqrt(count))
    left, sizes, _ = jnp.linalg.svd(triangle, full_matrices=False)
    cut = max(inputs.shape) * jnp.finfo(dtype).eps * jnp.max(sizes, initial=0.0)
    squares = jnp.where(sizes > cut, sizes, 0.0) ** 2
    shares = squares / jnp.where(squares > 0.0, squares + jnp.asarray(penalty, dtype), 1.0)
    basis = q @ left
    return mean + (basis * shares[None, :]) @ (basis.T @ y)


def from_model(
    problem: TabularMDP, features: Float[Array | np.ndarray, "states features"], state: Indices, action: Indices
) -> Features:
    """`E[psi(s') | s, a]` of a known table, with the mean of `psi` under the initial law where the transition
    terminates.

    The discount is not in it; `with_resets(..., discount=)` puts it there, and the result is then what `ExactREPS`
    uses.

    Args:
        problem: any criterion.
        features: `[S, K]`, one row a state.
        state: `[N]`.
        action: `[N]`.

    Raises:
        ValueError: shapes that do not agree, or an index outside of the table.
    """
    states, actions = problem.shape
    _same("features", jnp.shape(features)[:1], (states,), "states of the problem")
    _same("action", jnp.shape(action), jnp.shape(state), "samples of state")
    for name, index, size in (("state", state, states), ("action", action, actions)):
        if not is_traced(index) and np.size(index) and not 0 <= np.min(index) <= np.max(index) < size:
            raise ValueError(f"{name} must be in 0 .. {size - 1}, but it reaches to {np.max(index)}.")
    return at_precision(_from_model, problem, features, state, action)


@jax.jit
def _from_model(problem, features, state, action):
    features = jnp.asarray(features)
    start = jnp.asarray(problem.initial, features.dtype)[None, :] @ features
    going_on = jax.vmap(problem.model.expect_linear, in_axes=1, out_axes=2)(features)
    ended = jnp.asarray(ended_mass(problem), features.dtype)[state, action]
    return going_on[action, state] + ended[:, None] * start


def bellman_error(
    reward: Numbers, features: Features, expected_next: Features, v: Float[Array | np.ndarray, " features"]
) -> Numbers:
    """`delta = r + (E psi(s') - psi(s))' v`, `[N]`.

    Args:
        reward: `[N]`.
        features: `[N, K]`, of the states.
        expected_next: `[N, K]`, by one of the estimators.
        v: `[K]`.

    Raises:
        ValueError: shapes that do not agree.
    """
    _same("expected_next", jnp.shape(expected_next), jnp.shape(features), "features")
    _same("reward", jnp.shape(reward), jnp.shape(features)[:1], "samples of features")
    _same("v", jnp.shape(v), jnp.shape(features)[1:], "features of a state")
    return at_precision(_bellman_error, reward, features, expected_next, v)


@jax.jit
def _bellman_error(reward, features, expected_next, v):
    return reward + (expected_next - features) @ v


def _same(name: str, given: tuple[int, ...], wanted: tuple[int, ...], what: str) -> None:
    if given != wanted:
        raise ValueError(f"{name} has shape {given}, but the {what} are {wanted}.")
