"""MushroomRL with the problems of `reps.py`, for the interpreter of an environment of its own."""

import json
import sys
import time
from importlib.metadata import version

import numpy as np

EPISODES, UPDATES = 100, 40
CHECKED = (-0.9, -0.5, 0.0, 0.1)
SIZES = [(100, 10), (1_000, 10), (10_000, 10), (100, 100), (1_000, 100), (10_000, 100)]
EPSILON = 0.5


def bandit(number, size):
    """Parameters of a standard normal search, and their returns, a concave quadratic."""
    random = np.random.default_rng(number + size)
    root = random.normal(size=(size, size))
    theta = random.normal(size=(number, size))
    gap = theta - 1.0
    return theta, -np.sum(gap * (gap @ (root @ root.T / size + np.eye(size))), axis=1)


def divergences(mean, covariance):
    """`KL(old || new)` and `KL(new || old)` where old is standard normal; infinite for a singular covariance."""
    sign, log_determinant = np.linalg.slogdet(covariance)
    if sign <= 0.0:
        return np.inf, np.inf
    inverse = np.linalg.inv(covariance)
    forward = np.trace(inverse) - mean.size + mean @ inverse @ mean + log_determinant
    return 0.5 * forward, 0.5 * (np.trace(covariance) - mean.size + mean @ mean - log_determinant)


def fewest(function, seconds=1.0, least=5, most=200, before=lambda: None):
    """Fewest wall and CPU milliseconds of a call; `before` is not counted."""
    walls, cpus, start = [], [], time.perf_counter()
    while len(walls) < least or (len(walls) < most and time.perf_counter() - start < seconds):
        before()
        wall, cpu = time.perf_counter(), time.process_time()
        function()
        cpus.append(time.process_time() - cpu)
        walls.append(time.perf_counter() - wall)
    return 1e3 * min(walls), 1e3 * min(cpus)


def learned(epsilon, seed):
    """The example `lqr_bbo`: 40 updates of 100 episodes, from N(0, 0.001)."""
    from mushroom_rl.algorithms.policy_search import REPS
    from mushroom_rl.approximators import Regressor
    from mushroom_rl.approximators.parametric import LinearApproximator
    from mushroom_rl.core import Core
    from mushroom_rl.distributions import GaussianCholeskyDistribution
    from mushroom_rl.environments import LQR
    from mushroom_rl.policy import DeterministicPolicy
    from mushroom_rl.utils.dataset import compute_J

    np.random.seed(seed)  # noqa: NPY002 - what the library draws from
    mdp = LQR.generate(dimensions=1)
    shapes = {"input_shape": mdp.info.observation_space.shape, "output_shape": mdp.info.action_space.shape}
    policy = DeterministicPolicy(mu=Regressor(LinearApproximator, **shapes))

    def returns(theta):
        x, total = mdp.reset(), 0.0
        policy.set_weights(np.atleast_1d(theta))
        for t in range(mdp.info.horizon):
            x, reward, _, _ = mdp.step(policy.draw_action(x))
            total += mdp.info.gamma**t * reward
        return float(total)

    checked = [returns(theta) for theta in CHECKED]
    distribution = GaussianCholeskyDistribution(np.zeros(1), 1e-3 * np.eye(1))
    core = Core(REPS(mdp.info, distribution, policy, eps=epsilon), mdp)
    first = np.mean(compute_J(core.evaluate(n_episodes=EPISODES, quiet=True), mdp.info.gamma))
    start = time.process_time()
    core.learn(n_episodes=EPISODES * UPDATES, n_episodes_per_fit=EPISODES, quiet=True)
    seconds = time.process_time() - start
    last = np.mean(compute_J(core.evaluate(n_episodes=EPISODES, quiet=True), mdp.info.gamma))
    mean, factor = distribution.get_parameters()
    return {
        "seed": seed,
        "before": float(first),
        "return": float(last),
        "of_mean": returns(mean),
        "mean": float(mean),
        "deviation": float(factor),
        "cpu_s": seconds,
        "checked": checked,
    }


def updated(number, size, structure):
    from mushroom_rl.algorithms.policy_search import REPS
    from mushroom_rl.distributions import GaussianCholeskyDistribution, GaussianDiagonalDistribution

    theta, returns = bandit(number, size)
    if structure == "full":
        distribution = GaussianCholeskyDistribution(np.zeros(size), np.eye(size))
    else:
        distribution = GaussianDiagonalDistribution(np.zeros(size), np.ones(size))
    start = distribution.get_parameters().copy()
    agent = REPS(None, distribution, None, eps=EPSILON)

    def reset():
        distribution.set_parameters(start.copy())
        agent.copied = returns.copy()  # the update writes into it

    try:
        wall, cpu = fewest(lambda: agent._update(agent.copied, theta), before=reset)
    except np.linalg.LinAlgError as error:
        return {"failed": f"LinAlgError: {error}"}
    mean = distribution._mu
    if structure == "full":
        covariance = distribution._chol_sigma @ distribution._chol_sigma.T
    else:
        covariance = np.diag(distribution._std**2)
    old_new, new_old = divergences(mean, covariance)
    return {"ms": wall, "cpu_ms": cpu, "kl_old_new": old_new, "kl_new_old": new_old}


def main():
    if sys.argv[1] == "version":
        print(json.dumps(f"{version('mushroom-rl')}, numpy {np.__version__}, scipy {version('scipy')}"))
    elif sys.argv[1] == "learn":
        print(json.dumps([learned(float(sys.argv[2]), seed) for seed in range(int(sys.argv[3]))]))
    else:
        cases = [(n, d, structure) for structure in ("diagonal", "full") for n, d in SIZES]
        print(json.dumps({f"{structure} N={n} d={d}": updated(n, d, structure) for n, d, structure in cases}))


if __name__ == "__main__":
    main()
