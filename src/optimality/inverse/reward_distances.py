"""How far two rewards are apart once what no behavior can show is taken out.

    C(R)(s, a, s') = R(s, a, s') + E[discount R(s', A, S') - R(s, A, S') - discount R(S, A, S')]
    distance = sqrt((1 - Pearson correlation of both canonical rewards) / 2)

Potential shaping and positive scale do not change them. EPIC (Gleave et al. 2021) draws `S, S'` and `A` from fixed
laws, whatever the dynamics. DARD (Wulfe et al. 2022) draws `S' ~ T(s, A)`, and `S'' ~ T(s', A)`
where EPIC's `S'` follows s' or S, and compares transitions that can happen.
"""

from typing import Any

import numpy as np
from jaxtyping import Float

from optimality.problems.tabular import TabularMDP

Reward = Float[np.ndarray, "..."]


def canonical_reward(
    reward: Reward, discount: float, state_law: Any = None, action_law: Any = None
) -> Float[np.ndarray, "states actions states"]:
    """EPIC's canonical form of a reward `[S, A]` or `[S, A, S]`; uniform laws by default."""
    cube, states = _cube(reward), _law("state_law", state_law, reward.shape[0])
    actions = _law("action_law", action_law, reward.shape[1])
    mean = np.einsum("sat,a,t->s", cube, actions, states)
    return cube + discount * mean[None, None, :] - mean[:, None, None] - discount * (states @ mean)


def dynamics_canonical_reward(
    reward: Reward, transition: Float[np.ndarray, "states actions states"], discount: float, action_law: Any = None
) -> Float[np.ndarray, "states actions states"]:
    """DARD's canonical form; `transition` is `[S, A, S]`, with rows that sum to one."""
    cube, actions = _cube(reward), _law("action_law", action_law, reward.shape[1])
    _check_transition(transition, cube.shape)
    mean = np.einsum("a,sat,sat->s", actions, transition, cube)
    ahead = np.einsum("a,sat->st", actions, transition)
    elsewhere = np.einsum("a,tau,xau->xt", actions, transition, cube)  # R(S', A, S'') with S'' ~ T(s', A)
    return cube + discount * mean[None, None, :] - mean[:, None, None] - discount * (ahead @ elsewhere)[:, None, :]


def pearson_correlation(first: Reward, second: Reward, weights: Reward | None = None) -> float:
    """Of two tables under a law of their entries, uniform by default. Two constants agree entirely, a constant and
    anything else not at all."""
    law = np.ones(first.shape) if weights is None else np.broadcast_to(weights, first.shape)
    law = law / law.sum()
    a, b = first - np.sum(law * first), second - np.sum(law * second)
    sizes = [float(np.sqrt(np.sum(law * x**2))) for x in (a, b)]
    small = [size <= 1e-12 * max(1.0, float(np.abs(x).max())) for size, x in zip(sizes, (first, second), strict=True)]
    if any(small):
        return 1.0 if all(small) else 0.0
    return float(np.clip(np.sum(law * (a / sizes[0]) * (b / sizes[1])), -1.0, 1.0))


def pearson_distance(first: Reward, second: Reward, weights: Reward | None = None) -> float:
    """`sqrt((1 - correlation) / 2)`, computed without cancellation where both agree."""
    law = np.ones(first.shape) if weights is None else np.broadcast_to(weights, first.shape)
    correlation = pearson_correlation(first, second, law)
    if correlation < 0.5:
        return float(np.sqrt((1.0 - correlation) / 2.0))
    law = law / law.sum()
    standard = []
    for table in (first, second):
        centered = table - np.sum(law * table)
        size = np.sqrt(np.sum(law * centered**2))
        standard.append(centered / size if size > 0.0 else centered)
    return float(np.sqrt(np.sum(law * (standard[0] - standard[1]) ** 2)) / 2.0)


def epic_distance(
    first: Reward, second: Reward, discount: float, *, state_law: Any = None, action_law: Any = None
) -> float:
    """In [0, 1]: 0 for rewards that differ by shaping and positive scale, 1 for opposite ones.

    Rewards are `[S, A]` or `[S, A, S]`; the laws weigh states (and next states) and actions, uniform by default, for
    canonical form and correlation alike. Two tables `[S, A]` need no `[S, A, S]`.

    Raises `ValueError` for shapes that do not agree, numbers that are not finite, or laws that are none.
    """
    _check_pair(first, second)
    states = _law("state_law", state_law, first.shape[0])
    actions = _law("action_law", action_law, first.shape[1])
    if first.ndim == second.ndim == 2:
        forms = [_split(table, discount, states, actions) for table in (first, second)]
        # Here and there are independent under the coverage law: correlate one long table of both parts.
        weights = np.concatenate([np.outer(states, actions).reshape(-1), states]) / 2.0
        long = [np.concatenate([here.reshape(-1), there]) for here, there in forms]
        return pearson_distance(long[0], long[1], weights)
    coverage = states[:, None, None] * actions[None, :, None] * states[None, None, :]
    canonical = [canonical_reward(table, discount, states, actions) for table in (first, second)]
    return pearson_distance(canonical[0], canonical[1], coverage)


def _split(table, discount, states, actions):
    """The canonical form as a table of the pair plus one of the next state, both of mean zero."""
    mean = table @ actions
    here, there = table - mean[:, None], discount * (mean - states @ mean)
    return here, there


def dard_distance(
    first: Reward,
    second: Reward,
    transition: Float[np.ndarray, "states actions states"],
    discount: float,
    *,
    state_law: Any = None,
    action_law: Any = None,
) -> float:
    """As EPIC, over transitions of the model; with next states drawn from EPIC's law everywhere it is EPIC."""
    _check_pair(first, second)
    states = _law("state_law", state_law, first.shape[0])
    actions = _law("action_law", action_law, first.shape[1])
    coverage = states[:, None, None] * actions[None, :, None] * transition
    canonical = [dynamics_canonical_reward(table, transition, discount, actions) for table in (first, second)]
    return pearson_distance(canonical[0], canonical[1], coverage)


def sampled_epic_distance(
    first: Reward, second: Reward, discount: float, *, samples: int, canonical_samples: int, seed: int = 0
) -> float:
    """EPIC from `samples` random transitions and `canonical_samples` random pairs `(A, S')` for the canonical form, as
    one has to where states cannot be listed; uniform laws. The error falls as the root of both."""
    _check_pair(first, second)
    random = np.random.default_rng(seed)
    states, actions = first.shape[:2]
    s, a, t = (random.integers(0, n, samples) for n in (states, actions, states))
    drawn_a, drawn_t = (random.integers(0, n, canonical_samples) for n in (actions, states))
    canonical = []
    for cube in (_cube(first), _cube(second)):
        mean = cube[:, drawn_a, drawn_t].mean(axis=1)  # of each state, over the same draws
        canonical.append(cube[s, a, t] + discount * mean[t] - mean[s] - discount * mean[drawn_t].mean())
    return pearson_distance(canonical[0], canonical[1])


def transitions_of(problem: TabularMDP) -> Float[np.ndarray, "states actions states"]:
    """Next-state probabilities of a problem, with the states that ending outcomes enter: rows sum to one."""
    outcomes = problem.outcomes()
    table = np.zeros((*problem.shape, problem.shape[0]))
    np.add.at(table, (outcomes.state, outcomes.action, outcomes.successor), outcomes.probability)
    return table


def _cube(reward: Reward) -> Float[np.ndarray, "states actions states"]:
    reward = np.asarray(reward, np.float64)
    if reward.ndim == 2:
        return np.repeat(reward[:, :, None], reward.shape[0], axis=2)
    return reward


def _check_pair(first: Reward, second: Reward) -> None:
    for table in (first, second):
        if table.ndim not in (2, 3) or table.shape[:2] != first.shape[:2]:
            raise ValueError(f"rewards must be [S, A] or [S, A, S] of one size: {first.shape} and {second.shape}.")
        if table.ndim == 3 and table.shape[2] != table.shape[0]:
            raise ValueError(f"a reward of transitions must be [S, A, S], but has shape {table.shape}.")
        if not np.isfinite(table).all():
            raise ValueError("rewards must be finite, but some entries are not.")


def _check_transition(transition, shape) -> None:
    if transition.shape != shape or np.abs(transition.sum(axis=2) - 1.0).max() > 1e-6:
        raise ValueError(
            f"transition must be {shape} with rows that sum to one, but is {transition.shape}: "
            "`transitions_of(problem)` makes one that counts endings."
        )


def _law(name: str, law: Any, size: int) -> Float[np.ndarray, " size"]:
    if law is None:
        return np.full(size, 1.0 / size)
    law = np.asarray(law, np.float64)
    if law.shape != (size,) or (law < 0.0).any() or not abs(law.sum() - 1.0) < 1e-6:
        raise ValueError(f"{name} must be {size} probabilities, but has shape {law.shape} and sum {law.sum():.6g}.")
    return law
