"""What an expert did: `Demonstrations`, episodes side by side."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import numpy as np
from jaxtyping import Array, Bool, Float, PRNGKeyArray

from optimality.core.numerics import is_traced
from optimality.sampling.transitions import Transition


class Demonstrations(eqx.Module):
    """`N` episodes of at most `T` steps, padded to `T`.

    Concrete arrays are NumPy. Make them with `from_arrays`, `from_policy`, `from_minari` or `from_trajectories`, or
    `load` them; all of these validate.
    """

    observation: Any
    """`[N, T + 1, ...]`: what was seen before each step and after the last one; on tables the state's index."""
    action: Any
    """`[N, T, ...]`, or None where only observations were recorded."""
    valid: Bool[Array | np.ndarray, "episodes time"]
    """Which steps were taken; the rest is padding, always at the end."""
    terminated: Bool[Array | np.ndarray, " episodes"]
    """Whether the episode's last step ended it; False where it was cut off."""
    reward: Float[Array | np.ndarray, "episodes time"] | None = None
    log_probability: Float[Array | np.ndarray, "episodes time"] | None = None
    """Of the actions, under whoever took them."""
    log_weight: Float[Array | np.ndarray, " episodes"] | None = None
    """How much each episode counts, relative to the others; all the same by default."""

    def __check_init__(self):
        if is_traced(self.valid) or np.ndim(self.valid) != 2:
            return
        valid = np.asarray(self.valid)
        wrong = np.flatnonzero((valid[:, 1:] & ~valid[:, :-1]).any(axis=1) | ~valid.any(axis=1))
        if wrong.size:
            raise ValueError(
                f"valid of episode {wrong[0]} is {valid[wrong[0]].astype(int).tolist()}: an episode has at least one "
                "step, its steps come first, and padding is at the end."
            )

    @classmethod
    def from_arrays(
        cls,
        observation: Any,
        action: Any = None,
        *,
        terminated: Any = None,
        lengths: Any = None,
        reward: Any = None,
        log_probability: Any = None,
        log_weight: Any = None,
    ) -> "Demonstrations":
        """From a list with one array for each episode, or from arrays that are padded already.

        Args:
            observation: for each episode `[T + 1, ...]`, one more than steps: the last is what was seen after the last
                step. Padded: one array `[N, T + 1, ...]`. Integers without further axes are indices of states.
            action: for each episode `[T, ...]`; None where actions were not recorded.
            terminated: for each episode, whether its last step ended it (True) or it was cut off (False); one value
                for all, if they all ended alike. There is no default: what follows an episode depends on it.
            lengths: steps of each episode, for padded arrays; by default all are whole.
            reward: for each episode `[T]`.
            log_probability: for each episode `[T]`, of the actions under whoever took them.
            log_weight: one number for each episode, how much it counts relative to the others; `-inf` leaves it out.

        Raises:
            ValueError: what does not fit together or is not finite, by the number of the episode and its step.
        """
        from optimality.sampling.demonstration_arrays import from_arrays

        return from_arrays(
            observation,
            action,
            terminated=terminated,
            lengths=lengths,
            reward=reward,
            log_probability=log_probability,
            log_weight=log_weight,
        )

    @classmethod
    def from_policy(
        cls, problem_or_environment: Any, policy: Any, episodes: int, key: PRNGKeyArray, *, steps: int | None = None
    ) -> "Demonstrations":
        """Episodes of a policy: see `sampling.policy_demonstrations.demonstrate`."""
        from optimality.sampling.policy_demonstrations import demonstrate

        return demonstrate(problem_or_environment, policy, episodes, key, steps=steps)

    @classmethod
    def from_minari(cls, dataset: Any) -> "Demonstrations":
        """A Minari data set by id or as an object: see `sampling.minari_demonstrations.from_minari`."""
        from optimality.sampling.minari_demonstrations import from_minari

        return from_minari(dataset)

    @classmethod
    def from_trajectories(cls, trajectories: Any) -> "Demonstrations":
        """Objects like those of `imitation`: see `sampling.trajectory_demonstrations.from_trajectories`."""
        from optimality.sampling.trajectory_demonstrations import from_trajectories

        return from_trajectories(trajectories)

    @classmethod
    def load(cls, path: str | Path) -> "Demonstrations":
        """From an NPZ file or the folder of `optimality demonstrate`: see `sampling.demonstration_file.load`."""
        from optimality.sampling.demonstration_file import load

        return load(Path(path))

    def save(self, path: str | Path) -> Path:
        """As an NPZ file, whole or not at all; an older file is replaced. Returns its path."""
        from optimality.sampling.demonstration_file import save

        return save(self, Path(path))

    @property
    def episodes(self) -> int:
        """How many episodes there are."""
        return self.valid.shape[0]

    @property
    def lengths(self) -> Any:
        """Steps of each episode, `[N]`."""
        return self.valid.sum(axis=1)

    @property
    def weights(self) -> np.ndarray:
        """Of the episodes, summing to one."""
        if self.log_weight is None:
            return np.full(self.valid.shape[0], 1.0 / self.valid.shape[0])
        shifted = np.exp(np.asarray(self.log_weight) - np.max(self.log_weight))
        return shifted / shifted.sum()

    def returns(self, discount: float = 1.0) -> np.ndarray:
        """`sum_t discount^t reward_t` of each episode, `[N]`; `ValueError` where rewards were not recorded."""
        if self.reward is None:
            raise ValueError("these demonstrations have no rewards, so that their returns are not known.")
        reward = np.where(np.asarray(self.valid), np.asarray(self.reward, np.float64), 0.0)
        return reward @ (float(discount) ** np.arange(reward.shape[1]))

    def select(self, which: Any) -> "Demonstrations":
        """The episodes of these indices, or where a mask is true; padding that nobody needs any more is cut.

        Raises `ValueError` for none, or for an episode that there is not.
        """
        which = np.asarray(which)
        if which.dtype == bool:
            if which.shape != (self.episodes,):
                raise ValueError(f"the mask has shape {which.shape}, but there are {self.episodes} episodes.")
            which = np.flatnonzero(which)
        which = np.atleast_1d(which)
        if which.size == 0:
            raise ValueError("no episode was selected; demonstrations need at least one.")
        outside = which[(which < -self.episodes) | (which >= self.episodes)]
        if outside.size:
            raise ValueError(f"there is no episode {outside[0]}: there are {self.episodes}, counted from 0.")
        chosen = jax.tree.map(lambda leaf: np.asarray(leaf)[which], self)
        return chosen._padded_to(int(chosen.lengths.max()))

    def cut(self, steps: int) -> "Demonstrations":
        """At most the first `steps` steps of each episode; what goes on after them counts as cut off."""
        if steps < 1:
            raise ValueError(f"steps must be at least 1, but {steps} was given.")
        goes_on = np.asarray(self.lengths) > steps
        shorter = self._padded_to(min(steps, self.valid.shape[1]))
        return eqx.tree_at(lambda d: d.terminated, shorter, np.asarray(self.terminated) & ~goes_on)

    def split(self, fraction: float, key: PRNGKeyArray) -> "tuple[Demonstrations, Demonstrations]":
        """`(kept, held_out)`: `fraction` of the episodes, rounded and at least one on each side, is held out at random.

        Raises `ValueError` for a fraction outside (0, 1), or fewer than two episodes.
        """
        if not 0.0 < fraction < 1.0:
            raise ValueError(f"fraction must be between 0 and 1, but {fraction} was given.")
        if self.episodes < 2:
            raise ValueError("one episode cannot be split: episodes are held out whole; demonstrate at least two.")
        out = min(max(round(fraction * self.episodes), 1), self.episodes - 1)
        order = np.asarray(jax.random.permutation(key, self.episodes))
        return self.select(np.sort(order[out:])), self.select(np.sort(order[:out]))

    @classmethod
    def concatenate(cls, parts: "Sequence[Demonstrations]") -> "Demonstrations":
        """All episodes of several demonstrations, one after the other. Log-weights stay as they are, 0 where a part
        has none.

        Raises `ValueError` for no part, or where one has actions, rewards, log-probabilities or shapes that another
        has not.
        """
        parts = list(parts)
        if not parts:
            raise ValueError("there is nothing to concatenate: give at least one part.")
        if any(part.log_weight is not None for part in parts):
            parts = [part._weighted() for part in parts]
        shapes = [jax.tree.map(lambda leaf: np.shape(leaf)[2:] if np.ndim(leaf) > 1 else (), part) for part in parts]
        for number, shape in enumerate(shapes):
            if jax.tree.structure(shape, is_leaf=_is_shape) != jax.tree.structure(shapes[0], is_leaf=_is_shape):
                raise ValueError(
                    f"part {number} has {_recorded(parts[number])}, but part 0 has {_recorded(parts[0])}: leave out "
                    "what only some have."
                )
            if jax.tree.leaves(shape, is_leaf=_is_shape) != jax.tree.leaves(shapes[0], is_leaf=_is_shape):
                raise ValueError(f"part {number} has observations or actions of another shape than part 0.")
        longest = max(part.valid.shape[1] for part in parts)
        padded = [part._padded_to(longest) for part in parts]
        return jax.tree.map(lambda *leaves: np.concatenate([np.asarray(leaf) for leaf in leaves]), *padded)

    def transitions(self) -> Transition:
        """All steps in a row, `[steps, ...]`, episode after episode and without padding.

        `truncated` marks the last step of an episode that was cut off; `extras` holds `log_prob` where it is known,
        and `log_weight`, that of the episode.
        """
        valid = np.asarray(self.valid)
        episode, time = np.nonzero(valid)
        last = time == valid.sum(axis=1)[episode] - 1
        ended = np.asarray(self.terminated)[episode]
        take = lambda array: None if array is None else np.asarray(array)[episode, time]  # noqa: E731
        extras = {} if self.log_probability is None else {"log_prob": take(self.log_probability)}
        if self.log_weight is not None:
            extras["log_weight"] = np.asarray(self.log_weight)[episode]
        return Transition(
            observation=take(self.observation),
            action=take(self.action),
            reward=take(self.reward),
            next_observation=np.asarray(self.observation)[episode, time + 1],
            terminated=last & ended,
            truncated=last & ~ended,
            valid=np.ones(episode.size, bool),
            extras=extras,
        )

    def _weighted(self) -> "Demonstrations":
        log_weight = np.zeros(self.episodes) if self.log_weight is None else self.log_weight
        given = (self.observation, self.action, self.valid, self.terminated, self.reward, self.log_probability)
        return Demonstrations(*given, log_weight)

    def _padded_to(self, steps: int) -> "Demonstrations":
        now = self.valid.shape[1]

        def fit(leaf):
            leaf = np.asarray(leaf)
            if leaf.ndim < 2:
                return leaf
            length = steps + leaf.shape[1] - now
            missing = max(length - leaf.shape[1], 0)
            return np.pad(leaf, [(0, 0), (0, missing)] + [(0, 0)] * (leaf.ndim - 2))[:, :length]

        return jax.tree.map(fit, self)


def _is_shape(value: Any) -> bool:
    return isinstance(value, tuple)


def _recorded(part: Demonstrations) -> str:
    names = ("action", "reward", "log_probability")
    return ", ".join(["observation", *(name for name in names if getattr(part, name) is not None)])
