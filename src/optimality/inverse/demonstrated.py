"""Demonstrations counted on a table.

    visits(t, s, a) = discount^t sum_episodes weight 1[s_t = s, a_t = a]

With the discount and horizon of the problem, so that they compare with the occupancies of a policy there. Where the
expert's policy is known instead of its episodes, `DemonstratedVisits.of_policy` gives the exact expectations.
"""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int

from optimality.core.numerics import at_precision
from optimality.core.result import Result
from optimality.inverse.demonstration_checks import check_demonstrations
from optimality.planning.backups import occupancies
from optimality.policies.tabular import TabularPolicy
from optimality.problems.criterion import AverageReward, FiniteHorizon
from optimality.problems.tabular import TabularMDP
from optimality.sampling.demonstrations import Demonstrations


class DemonstratedTransitions(NamedTuple):
    """Which transitions were seen, each once, with its expected discounted number; action -1 where none was
    recorded."""

    state: Int[np.ndarray, " transitions"]
    action: Int[np.ndarray, " transitions"]
    successor: Int[np.ndarray, " transitions"]
    terminated: np.ndarray
    visits: Float[np.ndarray, " transitions"]


class DemonstratedVisits(NamedTuple):
    """Expected discounted visits in the demonstrations, or of a known expert."""

    pairs: Float[np.ndarray, "..."] | None
    """`[H, S, A]` with a finite horizon, each step discounted; otherwise `[S, A]`, summed over time. None where no
    actions were recorded."""
    initial: Float[np.ndarray, " states"]
    """Law of the first state in the demonstrations."""
    horizon: int
    """Steps of the longest episode."""
    transitions: DemonstratedTransitions | None = None
    """What followed each pair; None where visits are exact expectations, which the model completes."""
    final: Float[np.ndarray, " states"] | None = None
    """Discounted share of episodes that reach the end of a finite horizon in each state."""
    cut_off: float = 0.0
    """Discounted share of episodes that were cut off before they ended: what visits may lack."""
    episodes: float = 1.0
    """How many equally weighted episodes have so much to say, `1 / sum weight^2`."""

    @property
    def total(self) -> float:
        """Expected discounted steps."""
        if self.pairs is not None:
            return float(self.pairs.sum())
        assert self.transitions is not None
        return float(self.transitions.visits.sum())

    @classmethod
    def of_policy(
        cls, problem: TabularMDP, policy: TabularPolicy, *, tolerance: float = 1e-12, max_steps: int = 1_000_000
    ) -> "DemonstratedVisits":
        """The exact expectations of an expert who follows `policy` in `problem`: infinitely many demonstrations.

        Raises `ValueError` for average reward, a policy of another shape, or one whose visits are infinite.
        """
        if isinstance(problem.criterion, AverageReward):
            raise ValueError("AverageReward has no expected visits from a first state: use another criterion.")
        finite = isinstance(problem.criterion, FiniteHorizon)
        table = np.asarray(policy.probabilities, np.float64)
        steps = problem.criterion.horizon if isinstance(problem.criterion, FiniteHorizon) else None
        if table.shape[-2:] != problem.shape or (table.ndim == 3 and table.shape[0] != steps):
            raise ValueError(f"the policy has shape {table.shape}, but the problem {problem.shape} and {steps} steps.")
        visits, last, code = at_precision(
            partial(_visits, max_steps=max_steps), problem, table, problem.initial, tolerance
        )
        if not Result.of(code).is_success:
            raise ValueError(f"the expert's visits did not converge: {Result.of(code).sentence}")
        horizon = visits.shape[0] if finite else 0
        return cls(visits, np.asarray(problem.initial, np.float64), horizon, None, last if finite else None)


@partial(jax.jit, static_argnames="max_steps")
def _visits(problem, table, initial, tolerance, *, max_steps):
    return occupancies(problem, table, jnp.asarray(initial), tolerance=tolerance, max_steps=max_steps)


def checked_visits(
    problem: TabularMDP, demonstrations: Demonstrations | DemonstratedVisits, *, allow_unmodelled: bool = False
) -> DemonstratedVisits | None:
    """Raises `ValueError` for what the problem cannot have made (`demonstration_checks`). Gives visits back, and None
    for episodes."""
    if isinstance(demonstrations, DemonstratedVisits):
        return _checked(problem, demonstrations)
    check_demonstrations(problem, demonstrations, allow_unmodelled=allow_unmodelled)
    return None


def demonstrated_visits(
    problem: TabularMDP,
    demonstrations: Demonstrations | DemonstratedVisits,
    *,
    allow_unmodelled: bool = False,
    check: bool = True,
) -> DemonstratedVisits:
    """Counts of state and action, and of what followed; visits are handed through.

    Raises `ValueError` for episodes that the problem cannot have made (`demonstration_checks`), unless transitions that
    the model gives no chance are allowed, or all was checked before.
    """
    if check:
        checked_visits(problem, demonstrations, allow_unmodelled=allow_unmodelled)
    if isinstance(demonstrations, DemonstratedVisits):
        return demonstrations
    states, actions = problem.shape
    observation, valid = np.asarray(demonstrations.observation), np.asarray(demonstrations.valid, bool)
    episode, time = np.nonzero(valid)
    finite = isinstance(problem.criterion, FiniteHorizon)
    horizon = problem.criterion.horizon if isinstance(problem.criterion, FiniteHorizon) else valid.shape[1]
    weights, lengths = np.asarray(demonstrations.weights, np.float64), valid.sum(axis=1)
    discount = float(np.asarray(problem.discount)) ** np.arange(horizon + 1)
    worth = weights[episode] * discount[time]
    taken = None if demonstrations.action is None else np.asarray(demonstrations.action)[episode, time]
    pairs = None
    if taken is not None:
        pairs = np.zeros((horizon if finite else 1, states, actions))
        place = (time if finite else np.zeros_like(time), observation[episode, time], taken)
        np.add.at(pairs, place, worth)
        pairs = pairs if finite else pairs[0]
    terminated = np.asarray(demonstrations.terminated, bool)
    over = terminated[episode] & (time == lengths[episode] - 1)
    columns = (
        observation[episode, time],
        np.full(time.size, -1) if taken is None else taken,
        observation[episode, time + 1],
        over,
    )
    places, where = np.unique(np.stack([np.asarray(c, np.int64) for c in columns]), axis=1, return_inverse=True)
    counted = np.bincount(where.reshape(-1), worth, places.shape[1])
    transitions = DemonstratedTransitions(places[0], places[1], places[2], places[3].astype(bool), counted)
    ends = observation[np.arange(valid.shape[0]), lengths]
    whole = ~terminated & (lengths == horizon) if finite else np.zeros(lengths.size, bool)
    share = weights * discount[lengths]
    return DemonstratedVisits(
        pairs=pairs,
        initial=np.bincount(observation[:, 0], weights, states),
        horizon=int(lengths.max()),
        transitions=transitions,
        final=np.bincount(ends[whole], share[whole], states).astype(np.float64) if finite else None,
        cut_off=float(share[~terminated & ~whole].sum()),
        episodes=float(1.0 / np.sum(weights**2)),
    )


def _checked(problem: TabularMDP, visits: DemonstratedVisits) -> DemonstratedVisits:
    states, actions = problem.shape
    shape = (states, actions)
    if isinstance(problem.criterion, FiniteHorizon):
        shape = (problem.criterion.horizon, *shape)
    arrays: dict[str, tuple[Any, tuple[int, ...]]] = {"initial": (visits.initial, (states,))}
    if visits.pairs is not None:
        arrays["pairs"] = (visits.pairs, shape)
    elif visits.transitions is None:
        raise ValueError("the visits have neither pairs nor transitions: nothing is known of what was done.")
    for name, (array, wanted) in arrays.items():
        if np.shape(array) != wanted:
            raise ValueError(f"{name} of the visits must have shape {wanted}, but they have {np.shape(array)}.")
        if not np.all(np.isfinite(array)) or np.any(np.asarray(array) < 0.0):
            raise ValueError(f"{name} of the visits must be finite and not negative.")
    forbidden = None if visits.pairs is None else (np.asarray(visits.pairs) > 0.0) & ~np.asarray(problem.allowed)
    if forbidden is not None and forbidden.any():
        *_, state, action = (int(i) for i in np.argwhere(forbidden)[0])
        raise ValueError(f"the visits take action {action} in state {state}, where it is not allowed.")
    if not abs(float(np.sum(visits.initial)) - 1.0) < 1e-6:
        raise ValueError(f"initial of the visits must sum to one, but sums to {float(np.sum(visits.initial)):.6g}.")
    return visits
