"""SB3-contrib's TRPO with the numbers of `policy_gradients.py`, for the interpreter of an environment of its own."""

import json
import sys
import time

import torch
from sb3_contrib import TRPO
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.evaluation import evaluate_policy


class Threshold(BaseCallback):
    """Stops when 20 episodes by the mode have the target as mean return; the seconds of evaluations do not count."""

    def __init__(self, name, target, every):
        super().__init__()
        self.target, self.every, self.reached, self.idle, self.best = target, every, None, 0.0, -float("inf")
        self.environment = make_vec_env(name, 1, seed=1000)
        self.start = time.perf_counter()

    def _on_step(self):
        if self.num_timesteps % self.every:
            return True
        before = time.perf_counter()
        score = float(evaluate_policy(self.model, self.environment, n_eval_episodes=20, deterministic=True)[0])
        after = time.perf_counter()
        self.best = max(self.best, score)
        if score >= self.target:
            self.reached = self.num_timesteps, before - self.start - self.idle
        self.idle += after - before
        return self.reached is None


def main():
    name, target, discount, seed, limit = sys.argv[1], *map(float, sys.argv[2:4]), *map(int, sys.argv[4:6])
    torch.set_num_threads(1)
    threshold = Threshold(name, target, 5_120)
    TRPO(
        "MlpPolicy", make_vec_env(name, 8), learning_rate=1e-3, n_steps=128, batch_size=128, gamma=discount,
        n_critic_updates=10, policy_kwargs={"net_arch": [64, 64], "activation_fn": torch.nn.Tanh}, device="cpu",
        seed=seed,
    ).learn(limit, callback=threshold)  # fmt: skip
    steps, seconds = threshold.reached or (None, None)
    print(json.dumps({"seed": seed, "steps": steps, "seconds": seconds and round(seconds, 2), "best": threshold.best}))


if __name__ == "__main__":
    main()
