"""All episodes of a problem with two states, two actions and three steps, as learners see them, with probabilities."""

import jax
import jax.numpy as jnp
import numpy as np

from optimality.sampling.transitions import Spec, Transition

HORIZON, DISCOUNT, TEMPERATURE = 3, 0.8, 0.6
MOVES = np.array([[[0.7, 0.3], [0.2, 0.8]], [[0.4, 0.6], [0.5, 0.5]]])  # [state, action, next]
REWARDS = np.array([[1.0, -0.5], [0.3, 2.0]])
FEATURES = np.array([[1.0, 0.2], [-0.4, 1.0]], np.float32)
BOX = jax.ShapeDtypeStruct((2,), np.float32)
SPEC = Spec(BOX, jax.ShapeDtypeStruct((), np.int32), 2, None, None, 2, HORIZON)


def episodes():
    """All of them, `(path of (state, action, next), probability of the moves)`; action 1 in state 1 ends an episode."""
    found, open_ = [], [([], 0, 1.0)]
    while open_:
        path, state, chance = open_.pop()
        for action, after in np.ndindex(2, 2):
            new, terminated = [*path, (state, action, after)], (state, action) == (1, 1)
            chances = chance * MOVES[state, action, after]
            if terminated or len(new) == HORIZON:
                found.append((new, chances))
            else:
                open_.append((new, after, chances))
    return found


EPISODES = episodes()


def columns(path):
    """An episode as arrays `[time]`, padded."""
    state, action, after = (np.array([*(step[i] for step in path), *[0] * (HORIZON - len(path))]) for i in range(3))
    valid = np.arange(HORIZON) < len(path)
    terminated = valid & (state == 1) & (action == 1)
    truncated = valid & ~terminated & (np.arange(HORIZON) == HORIZON - 1)
    flags = terminated, truncated, valid
    action = action.astype(np.int32)
    reward = np.where(valid, REWARDS[state, action], 0.0).astype(np.float32)
    return Transition(FEATURES[state], action, reward, FEATURES[after], *flags, {"raw_action": action})


def exact_gradient(actor, temperature):
    """Of `J`, an explicit sum over all episodes."""

    def objective(actor):
        log_p = jnp.stack([jax.nn.log_softmax(actor.network(jnp.asarray(x))) for x in FEATURES])
        entropy, total = -jnp.sum(jnp.exp(log_p) * log_p, axis=1), 0.0
        for path, chance in EPISODES:
            log_chance = sum(log_p[state, action] for state, action, _ in path)
            gain = sum(
                DISCOUNT**t * (REWARDS[state, action] + temperature * entropy[state])
                for t, (state, action, _) in enumerate(path)
            )
            total += chance * jnp.exp(log_chance) * gain
        return total

    return jax.grad(objective)(actor)
