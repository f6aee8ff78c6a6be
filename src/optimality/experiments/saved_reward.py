"""Rewards on disk: arrays and names, no code, in the format of saved policies."""

from collections.abc import Iterable
from pathlib import Path

from optimality.experiments.saved_policy import load_module, module_bytes
from optimality.rewards.abstract import AbstractReward

REWARD_FILE = "reward.safetensors"


def save_reward(reward: AbstractReward, path: str | Path) -> Path:
    """Writes `path`, or `reward.safetensors` in a folder, and gives the file back.

    Raises `ValueError` for what is no reward, or naming a field that cannot be stored: a function, say.
    """
    if not isinstance(reward, AbstractReward):
        raise ValueError(f"save_reward takes a reward, but a {type(reward).__name__} was given.")
    content, path = module_bytes(reward, "reward"), Path(path)
    path = path / REWARD_FILE if path.is_dir() else path
    path.write_bytes(content)
    return path


def load_reward(path: str | Path, *, classes: Iterable[type] = ()) -> AbstractReward:
    """From the file, or from a folder that has `reward.safetensors`; `classes` are modules of your own that it is made
    of. Runs no code from the file.

    Raises `ValueError` naming the file where it is missing, damaged, or no reward.
    """
    path = Path(path)
    path = path / REWARD_FILE if path.is_dir() else path
    reward = load_module(path, "reward", classes)
    if not isinstance(reward, AbstractReward):
        raise ValueError(f"{path} holds a {type(reward).__name__}, not a reward.")
    return reward
