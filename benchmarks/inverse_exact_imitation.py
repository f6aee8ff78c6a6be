"""`imitation`'s tabular MCE-IRL on the problems of `inverse_exact.py`, for an interpreter of its own environment.

    python inverse_exact_imitation.py PROBLEM.npz

The file has `transition [S, A, S]`, `initial`, `features [S, k]`, `weights [k]` and `horizon`. Prints the fewest
milliseconds of CPU of one gradient of a reward that is linear in features: soft backup, occupancies, product.
"""

import json
import sys
import time

import numpy as np
from imitation.algorithms.mce_irl import mce_occupancy_measures, mce_partition_fh
from seals.base_envs import TabularModelMDP


def main():
    data = np.load(sys.argv[1])
    features, reward = data["features"], data["features"] @ data["weights"]
    env = TabularModelMDP(
        transition_matrix=data["transition"],
        reward_matrix=reward,
        horizon=int(data["horizon"]),
        initial_state_dist=data["initial"],
    )
    best, began = float("inf"), time.perf_counter()
    while time.perf_counter() - began < 6.0:
        start = time.process_time()
        _, _, pi = mce_partition_fh(env, reward=reward)
        _, occupancy = mce_occupancy_measures(env, reward=reward, pi=pi)
        gradient = features.T @ occupancy
        best = min(best, time.process_time() - start)
    print(json.dumps({"ms": 1e3 * best, "gradient": gradient.tolist()}))


if __name__ == "__main__":
    main()
