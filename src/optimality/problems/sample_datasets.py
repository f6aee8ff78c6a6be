"""Data sets to try a latent-variable model on, small or made on the spot."""

from pathlib import Path

import numpy as np

from optimality.problems.dataset import Dataset


def digits(*, test_share: float = 1 / 6, validation_share: float = 1 / 12, split_seed: int = 0) -> Dataset:
    """1,797 handwritten digits of 8 x 8 pixels with 17 levels of gray (Alpaydin and Kaynak 1998, UCI repository)."""
    with np.load(Path(__file__).with_name("digits.npz"), allow_pickle=False) as file:
        pixels = file["pixels"]
    return Dataset(
        pixels,
        levels=17,
        image_shape=(8, 8),
        test_share=test_share,
        validation_share=validation_share,
        split_seed=split_seed,
        name="digits",
    )


def ring(*, points: int = 6000, modes: int = 8, radius: float = 2.0, deviation: float = 0.15, seed: int = 0) -> Dataset:
    """Equal normal laws on a circle in the plane; a third of the points is kept for the test.

    Raises `ValueError` for no modes or a deviation that is not positive.
    """
    if modes < 1 or deviation <= 0.0:
        raise ValueError(f"a ring needs a mode and a positive deviation, but {modes} and {deviation:g} were given.")
    random = np.random.default_rng(seed)
    place = ring_centers(modes=modes, radius=radius)[random.integers(modes, size=points)]
    x = place + deviation * random.normal(size=(points, 2))
    return Dataset(x, test_share=1 / 3, validation_share=1 / 15, split_seed=seed, names=("x", "y"), name="ring")


def ring_centers(*, modes: int = 8, radius: float = 2.0) -> np.ndarray:
    """Of the normal laws of `ring`, `[modes, 2]`."""
    angle = 2.0 * np.pi * np.arange(modes) / modes
    return radius * np.stack([np.cos(angle), np.sin(angle)], axis=1)
