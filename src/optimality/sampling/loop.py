"""The pure half of training: begin, and run a chunk of steps."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PRNGKeyArray

from optimality.sampling.collection import collect
from optimality.sampling.compiled_runner import CompiledRunner
from optimality.sampling.learner import AbstractLearner, Metrics, split
from optimality.sampling.transitions import Episodes, Spec, Steps, Transition

KEYS_AT_ONCE = 32
"""Host loops split this many keys in one compiled call, whose compilation takes time in proportion to their number."""


def strong(tree: Any) -> Any:
    """Python numbers and weakly typed arrays as arrays of one definite type; otherwise a chunk compiles twice."""
    return jax.tree.map(lambda x: jnp.asarray(x, jnp.asarray(x).dtype), tree)


def begin(learner: AbstractLearner, runner: Any, key: PRNGKeyArray, data: Any = None) -> tuple[Any, Any]:
    """`(state, runner)` after the reset and the warm-up: on a compiled runner one compiled call."""
    spec, compiled = runner.spec, isinstance(runner, CompiledRunner)
    if compiled and data is None:
        return _begin_compiled(learner, runner, key, _Fixed(spec))
    if compiled:
        return jax.jit(lambda learner, runner, key: _begin(learner, runner, key, spec, data))(learner, runner, key)
    return _begin(learner, runner, key, spec, data)


def _begin(learner, runner, key, spec, data):
    init_key, reset_key, warm_key = split(key, 3)
    state = jax.jit(lambda key: strong(learner.init(spec, key, data)))(init_key)
    policy = learner.policy(state, explore=True)
    runner = runner.reset(policy, reset_key)
    if learner.warm_up:
        number = -(-learner.warm_up // runner.environments)
        runner, rollout = collect(Steps(number), policy, runner, warm_key)
        state = jax.jit(lambda state, rollout: learner.observe(state, rollout))(state, rollout)
    return state, runner


class _Fixed:
    """A spec as a static argument: its bounds are arrays, which do not hash."""

    def __init__(self, spec: Spec):
        self.spec = spec
        self.content = tuple(part.tobytes() if isinstance(part, np.ndarray) else part for part in spec)

    def __hash__(self) -> int:
        return hash(self.content)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Fixed) and self.content == other.content


@partial(jax.jit, static_argnums=3)
def _begin_compiled(learner, runner, key, fixed):
    return _begin(learner, runner, key, fixed.spec, None)


def run_chunk(
    learner: AbstractLearner, state: Any, runner: Any, key: PRNGKeyArray, number: int
) -> tuple[Any, Any, Metrics]:
    """`number` learner steps. The state's memory is taken over.

    Metrics are means over the chunk; `bad_updates` is the longest row of steps with an update that was not applied.
    """
    if isinstance(runner, CompiledRunner):
        return _scan_chunk(learner, state, runner, key, number)
    collected, step = [], type(learner).step  # through the class, as in `AbstractLearner.step`
    while len(collected) < number:
        key, *step_keys = split(key, KEYS_AT_ONCE + 1)
        for step_key in step_keys[: number - len(collected)]:
            state, runner, metrics = step(learner, state, runner, step_key)
            collected.append(metrics)
    values = jax.device_get([list(metrics.values()) for metrics in collected])
    rows = dict(zip(collected[0], np.array(values, float).T, strict=True))
    bad = longest = 0
    for applied in rows.get("applied", ()):
        bad = bad + 1 if applied < 1.0 else 0
        longest = max(longest, bad)
    return state, runner, {**{name: _mean(column) for name, column in rows.items()}, "bad_updates": longest}


def _mean(values: np.ndarray) -> float:
    """Without steps that had nothing to measure: in one autoreset mode a step may hold no transition."""
    known = values[~np.isnan(values)]
    return float(known.mean()) if known.size else np.nan


@partial(jax.jit, static_argnums=4, donate_argnums=1)
def _scan_chunk(learner, state, runner, key, number):
    def body(carry, step_key):
        state, runner, bad = carry
        state, runner, metrics = learner.step(state, runner, step_key)
        bad = jnp.where(metrics.get("applied", jnp.ones(())) < 1.0, bad + 1, 0)
        return (state, runner, bad), (metrics, bad)

    start = (state, runner, jnp.zeros((), jnp.int32))
    (state, runner, _), (metrics, bad) = jax.lax.scan(body, start, jax.random.split(key, number))
    return state, runner, {**jax.tree.map(jnp.mean, metrics), "bad_updates": jnp.max(bad)}


@partial(jax.jit, static_argnums=4)
def run_mapped_chunk(
    learner: AbstractLearner, states: Any, runners: Any, keys: Any, number: int
) -> tuple[Any, Any, Metrics]:
    """`run_chunk` of several seeds in one program: everything but the learner has a leading axis of seeds.

    Rounding differs from that of single runs, and with it, sooner or later, what is learned.
    """
    one = lambda state, runner, key: _scan_chunk(learner, state, runner, key, number)  # noqa: E731
    return jax.vmap(one)(states, runners, keys)


def play(policy: Any, runner: Any, key: PRNGKeyArray, rounds: int = 1) -> Transition:
    """Whole episodes, `rounds` of each environment, padded to the time limit: evaluation."""
    if isinstance(runner, CompiledRunner):
        return _play_compiled(policy, runner, key, rounds)
    return collect(Episodes(rounds), policy, runner, key)[1].transitions


@partial(jax.jit, static_argnums=3)
def _play_compiled(policy, runner, key, rounds):
    return collect(Episodes(rounds), policy, runner, key)[1].transitions


def episode_returns(transitions: Transition) -> np.ndarray:
    """Undiscounted return of each episode `[environment]`."""
    return np.where(np.asarray(transitions.valid), np.asarray(transitions.reward), 0.0).sum(axis=0)
