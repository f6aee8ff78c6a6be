"""How good a policy is: whole episodes by its mode and, where it draws its actions, by drawing them."""

import os
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

import gymnasium
import jax
import numpy as np

from optimality.environments.catalog import CATALOG, PREFIX
from optimality.experiments.run_folder import read_config
from optimality.experiments.saved_policy import load_policy
from optimality.experiments.statistics import MeanInterval, mean_interval
from optimality.experiments.training_environment import EnvironmentChoice
from optimality.experiments.training_run import Run
from optimality.sampling.acting import ActingPolicy
from optimality.sampling.compiled_runner import CompiledRunner
from optimality.sampling.loop import episode_returns, play

SIDE_BY_SIDE = 100
"""Most environments that an evaluation runs at once."""


class Evaluation(NamedTuple):
    """Undiscounted return and length of each episode; `actions` is `mode` or `sampled`."""

    environment: str
    backend: str
    actions: str
    returns: np.ndarray
    lengths: np.ndarray

    @property
    def interval(self) -> MeanInterval:
        return mean_interval(self.returns)


def evaluate(
    policy: Run | ActingPolicy | Path | str,
    environment: Any = None,
    *,
    episodes: int = 100,
    seed: int = 0,
    which: str = "last",
    backend: str | None = None,
    options: dict[str, Any] | None = None,
) -> list[Evaluation]:
    """Plays whole episodes, all that are started.

    Args:
        policy: a run, its folder, or a policy that acts.
        environment: any source that `train` takes; by default the one of the run.
        episodes: at least so many.
        seed: of the episodes.
        which: of a folder's policies, `last` or `best`.
        backend: `jax`, `gymnasium` or `auto`; by default what the run used.
        options: of an id.

    Returns:
        One evaluation by the mode and, for a policy that draws its actions, one by drawing. Maximum-entropy methods
        learn the drawing policy; its mode usually earns more.

    Raises:
        ValueError: no policy, no environment, or fewer than one episode.
    """
    if episodes < 1:
        raise ValueError(f"episodes must be at least 1, but {episodes} was given.")
    config = None
    if isinstance(policy, Run):
        policy, config = policy.policy, policy.config
    elif isinstance(policy, Path | str):
        config = read_config(Path(policy))
        if config.get("command") != "train":
            raise ValueError(f"{policy} is no training run; `optimality solve` has evaluated its policy already.")
        if "environment" not in config:
            raise ValueError(f"{policy} is a study of bandit policies, whose report has their regret.")
        loaded = load_policy(policy, which)
        assert isinstance(loaded, ActingPolicy)
        policy = loaded
    choice = _choice(environment, config, backend, options)
    number = min(episodes, SIDE_BY_SIDE)
    runner, rounds = choice.evaluation_runner(number)
    rounds = max(rounds, -(-episodes // runner.environments))
    found = []
    try:
        for salt, actions in enumerate(("mode", "sampled")):
            acting = policy.sampling(actions == "sampled")
            if actions == "sampled" and not hasattr(acting, "sample"):
                continue
            if not isinstance(runner, CompiledRunner):
                runner.is_seeded = False
            played = play(acting, runner, jax.random.fold_in(jax.random.key(seed), salt), rounds)
            lengths = np.asarray(played.valid).sum(axis=0)
            found.append(Evaluation(choice.name, choice.backend, actions, episode_returns(played), lengths))
    finally:
        choice.close(runner)
    return found


def _choice(environment: Any, config: Any, backend: str | None, options: Any) -> EnvironmentChoice:
    if environment is not None:
        return EnvironmentChoice(environment, backend or "auto", options)
    if config is None:
        raise ValueError("evaluate needs an environment: the policy does not say where it learned.")
    stored = dict(config["environment"])
    if backend is not None:
        stored["backend"] = backend
    if options:
        stored["options"] = {**stored.get("options", {}), **options}
    return EnvironmentChoice.from_table(stored)


def render_episode(
    policy: ActingPolicy, environment: str, target: Path | None, *, seed: int = 0, options: dict[str, Any] | None = None
) -> int:
    """Plays one episode by the mode and shows it: an animated GIF at `target`, or a window where that is None.

    Returns the number of steps. Pictures are Gymnasium's, so the id must be one of its own that can draw itself; its
    JAX twin has the same dynamics.

    Raises `ValueError` where it cannot be drawn.
    """
    if environment.removeprefix(PREFIX) in CATALOG and environment not in gymnasium.registry:
        raise ValueError(f"{environment} has no pictures: only environments of Gymnasium's own draw themselves.")
    mode = "human" if target is None else "rgb_array"
    if target is not None:
        os.environ.setdefault("SDL_VIDEODRIVER", "dummy")  # pygame draws into memory and needs no display
        os.environ.setdefault("XDG_RUNTIME_DIR", tempfile.gettempdir())
    try:
        drawn = gymnasium.make(environment, render_mode=mode, **(options or {}))
        observation, _ = drawn.reset(seed=seed)
        policy.reset()
        frames, over, steps = [drawn.render()], False, 0
        while not over:
            observation, _, terminated, truncated, _ = drawn.step(policy.act(observation))
            over, steps = terminated or truncated, steps + 1
            if target is not None:
                frames.append(drawn.render())
    except (gymnasium.error.Error, TypeError, ImportError) as error:
        raise ValueError(f"{environment} cannot be drawn: {error}") from error
    fps = drawn.metadata.get("render_fps") or 30
    drawn.close()
    if target is not None:
        from PIL import Image

        target.parent.mkdir(parents=True, exist_ok=True)
        pictures: list[Any] = [Image.fromarray(np.asarray(frame)).convert("P") for frame in frames if frame is not None]
        pictures[0].save(target, save_all=True, append_images=pictures[1:], duration=max(20, 1000 // fps), loop=0)
    return steps
