"""Stable-Baselines3 with the numbers of `driver.py`, for the interpreter of an environment of its own."""

import itertools
import json
import resource
import statistics
import sys
import time

import torch
from stable_baselines3 import DQN, PPO
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.env_util import make_vec_env


class Clock(BaseCallback):
    """Wall and CPU seconds at each multiple of `every` steps, from the first update on."""

    def __init__(self, every):
        super().__init__()
        self.every, self.times = every, []

    def _on_step(self):
        if self.num_timesteps % self.every == 0:
            self.times.append((time.perf_counter(), time.process_time()))
        return True


def main():
    name, small = sys.argv[1], "--small" in sys.argv
    torch.set_num_threads(1)
    network = {"net_arch": [64, 64], "activation_fn": torch.nn.ReLU if name.startswith("dqn") else torch.nn.Tanh}
    start = time.perf_counter()
    if name.startswith("dqn"):
        model = DQN(
            "MlpPolicy", make_vec_env("CartPole-v1", 1), learning_rate=5e-4, batch_size=64,
            train_freq=1, gradient_steps=1,
            buffer_size=1_000_000 if "1m" in name else 20_000, tau=0.005, target_update_interval=1, learning_starts=100,
            exploration_initial_eps=0.05, exploration_final_eps=0.05, policy_kwargs=network, device="cpu",
        )  # fmt: skip
        chunk, chunks = (100, 3) if small else (500, 6)
    else:
        model = PPO(
            "MlpPolicy", make_vec_env("CartPole-v1", 8), learning_rate=1e-3, n_steps=128, batch_size=256, n_epochs=4,
            ent_coef=0.0, policy_kwargs=network, device="cpu",
        )  # fmt: skip
        chunk, chunks = (1_024, 3) if small else (5_120, 6)
    clock = Clock(chunk)
    model.learn(chunk * (chunks + 2), callback=clock)
    walls = [b[0] - a[0] for a, b in itertools.pairwise(clock.times[1:])]
    cpus = [b[1] - a[1] for a, b in itertools.pairwise(clock.times[1:])]
    record = {
        "steps_per_s": round(chunk / statistics.median(walls)),
        "best_steps_per_s": round(chunk / min(walls)),
        "cpu_us_per_step": round(1e6 * statistics.median(cpus) / chunk, 1),
        "first_s": round(clock.times[0][0] - start, 2),
        "compile_s": 0.0,
        "peak_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024),
    }
    print(json.dumps(record))


if __name__ == "__main__":
    main()
