"""Data of linear latent-variable models."""

import numpy as np

from optimality.problems.dataset import Dataset


def all_points(x: np.ndarray, **options) -> Dataset:
    """Nothing held out."""
    return Dataset(x, validation_share=0.0, test_share=0.0, **options)


def factor_data(points: int, features: int, latents: int, seed: int) -> np.ndarray:
    random = np.random.default_rng(seed)
    W = random.normal(size=(features, latents))
    spread = 0.3 + random.uniform(size=features)
    return random.normal(size=(points, latents)) @ W.T + spread * random.normal(size=(points, features)) + 1.5


def covariance_of(x: np.ndarray) -> np.ndarray:
    return (x - x.mean(0)).T @ (x - x.mean(0)) / len(x)
