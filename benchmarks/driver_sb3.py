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
from stable_baselines3.common.evaluation import evaluate_policy


class Clock(BaseCallback):
    """Wall and CPU seconds at each multiple of `every` steps, from the first update on."""

    def __init__(self, every):
        super().__init__()
        self.every, self.times = every, []

    def _on_step(self):
        if self.num_timesteps % self.every == 0:
            self.times.append((time.perf_counter(), time.process_time()))
        return True


class Threshold(BaseCallback):
    """Stops when 20 episodes by the mode have mean return 475; the seconds of evaluations do not count."""

    def __init__(self, every):
        super().__init__()
        self.every, self.reached, self.idle, self.best = every, None, 0.0, 0.0
        self.environment = make_vec_env("CartPole-v1", 1, seed=1000)
        self.start = time.perf_counter()

    def _on_step(self):
        if self.num_timesteps % self.every:
            return True
        before = time.perf_counter()
        score = evaluate_policy(self.model, self.environment, n_eval_episodes=20, deterministic=True)[0]
        self.idle += time.perf_counter() - before
        self.best = max(self.best, score)
        if score >= 475.0:
            self.reached = self.num_timesteps, before - self.start - self.idle + time.perf_counter() - before
        return self.reached is None


def learn(name, seed, limit):
    """Steps and seconds to the threshold, None where it was not reached within `limit` steps."""
    threshold = Threshold(1_000 if name.startswith("dqn") else 5_120)
    model_of(name, seed).learn(limit, callback=threshold)
    steps, seconds = threshold.reached or (None, None)
    return {"seed": seed, "steps": steps, "seconds": seconds and round(seconds, 2), "best": float(threshold.best)}


def main():
    torch.set_num_threads(1)
    if "--learn" in sys.argv:
        print(json.dumps(learn(sys.argv[1], int(sys.argv[3]), int(sys.argv[4]))))
    else:
        print(json.dumps(speed(sys.argv[1], "--small" in sys.argv)))


def model_of(name, seed=None):
    network = {"net_arch": [64, 64], "activation_fn": torch.nn.ReLU if name.startswith("dqn") else torch.nn.Tanh}
    if name.startswith("dqn"):
        return DQN(
            "MlpPolicy", make_vec_env("CartPole-v1", 1), learning_rate=1e-3, batch_size=64,
            train_freq=1, gradient_steps=1,
            buffer_size=1_000_000 if "1m" in name else 20_000, tau=0.02, target_update_interval=1, learning_starts=100,
            exploration_initial_eps=0.05 if seed is None else 1.0, exploration_fraction=5_000 / 60_000,
            exploration_final_eps=0.05, policy_kwargs=network, device="cpu", seed=seed,
        )  # fmt: skip
    return PPO(
        "MlpPolicy", make_vec_env("CartPole-v1", 8), learning_rate=1e-3, n_steps=128, batch_size=256, n_epochs=4,
        ent_coef=0.0, policy_kwargs=network, device="cpu", seed=seed,
    )  # fmt: skip


def speed(name, small):
    start = time.perf_counter()
    model = model_of(name)
    chunk, chunks = (100 if small else 500, 6) if name.startswith("dqn") else (1_024 if small else 5_120, 6)
    clock = Clock(chunk)
    model.learn(chunk * (chunks + 2), callback=clock)
    walls = [b[0] - a[0] for a, b in itertools.pairwise(clock.times[1:])]
    cpus = [b[1] - a[1] for a, b in itertools.pairwise(clock.times[1:])]
    return {
        "steps_per_s": round(chunk / statistics.median(walls)),
        "best_steps_per_s": round(chunk / min(walls)),
        "cpu_us_per_step": round(1e6 * statistics.median(cpus) / chunk, 1),
        "first_s": round(clock.times[0][0] - start, 2),
        "compile_s": 0.0,
        "peak_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024),
    }


if __name__ == "__main__":
    main()
