"""Demonstrations from a Minari data set: the extra `offline`, imported only when a data set is named by its id."""

from collections.abc import Iterable
from typing import Any

import numpy as np
from gymnasium import spaces

from optimality.environments.gymnasium_spaces import flatten_observations
from optimality.sampling.demonstration_arrays import from_arrays
from optimality.sampling.demonstrations import Demonstrations


def from_minari(dataset: Any) -> Demonstrations:
    """All episodes of a data set.

    Args:
        dataset: the id of one on this machine (nothing is downloaded), a `minari.MinariDataset`, or any iterable of
            episodes with `observations` `[T + 1, ...]`, `actions` `[T, ...]`, `rewards`, `terminations` and
            `truncations` `[T]`.

    Returns:
        Observations flattened as runners do it, by the data set's `observation_space`: indices counted from 0,
        dictionaries as one vector.

    Raises:
        ValueError: Minari is not installed, there is no such data set, or an episode is not one.
    """
    source: Any = _load(dataset) if isinstance(dataset, str) else dataset
    space = getattr(source, "observation_space", None)
    acted = getattr(source, "action_space", None)
    episodes: Iterable[Any] = source.iterate_episodes() if hasattr(source, "iterate_episodes") else source
    seen, taken, ended, rewards = [], [], [], []
    for number, episode in enumerate(episodes):
        flags = np.asarray(episode.terminations, bool)
        if flags[:-1].any():
            raise ValueError(
                f"episode {number} terminates at step {int(np.argmax(flags))} of {flags.size} and goes on: split it."
            )
        if flags.size == 0:
            raise ValueError(f"episode {number} has no step; leave it out, with dataset.filter_episodes.")
        seen.append(_observations(space, episode.observations, number))
        taken.append(_actions(acted, episode.actions))
        ended.append(bool(flags[-1]))
        rewards.append(np.asarray(episode.rewards, np.float64))
    return from_arrays(seen, taken, terminated=ended, reward=rewards)


def _load(name: str) -> Any:
    try:
        import minari  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise ValueError(
            f"reading the data set {name!r} needs Minari, which is not installed ({error}): "
            "uv pip install 'optimality[offline]'."
        ) from error
    try:
        return minari.load_dataset(name)
    except (FileNotFoundError, ValueError, KeyError, OSError) as error:
        raise ValueError(
            f"there is no Minari data set {name!r} on this machine ({error}). It looks in the folder "
            "MINARI_DATASETS_PATH; `minari download` fetches one, DataCollector.create_dataset makes one."
        ) from error


def _observations(space: spaces.Space | None, observations: Any, number: int) -> np.ndarray:
    if space is not None:
        return flatten_observations(space, observations)
    if isinstance(observations, dict | tuple):
        raise ValueError(
            f"the observations of episode {number} are a {type(observations).__name__}, which can be flattened only "
            "with their observation_space: pass the data set itself."
        )
    return np.asarray(observations)


def _actions(space: spaces.Space | None, actions: Any) -> np.ndarray:
    start = int(space.start) if isinstance(space, spaces.Discrete) else 0
    return np.asarray(actions) - start if start else np.asarray(actions)
