"""Two learners of a soft policy from the samples of a table: soft Q-learning, and ascent along a policy gradient.

Both act from the first transition on with their own soft policy, begin at the uniform one, in episodes of
`steps` transitions, and are valued exactly: `J = E sum discount^t (r - tau log pi)`. How far they are is the share of
the way from the uniform policy's `J` to the largest one.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

import optimality as ox
from optimality.core.gibbs import gibbs
from optimality.learning.action_values import behavior
from optimality.learning.gradient_estimates import contributions, credit, leave_one_out, soft_rewards
from optimality.planning.softmax_gradient import exact_policy_gradient


def ends(problem, temperature):
    """`(J of the uniform policy, J of the best one)`."""
    best = ox.solve(problem, ox.SoftValueIteration(temperature=temperature)).value @ problem.initial
    return float(exact_policy_gradient(problem, np.zeros(problem.shape), temperature=temperature).objective), best


def first(problem, key):
    return jax.random.categorical(key, jnp.log(jnp.asarray(problem.initial))).astype(jnp.int32)


@partial(jax.jit, static_argnames=("steps", "every", "number", "seeds"))
def soft_q(problem, method, *, steps, every, number, seeds, seed=0):
    """`J` after every `every` transitions, `number` times: `[seeds, number]`, and the tables `[seeds, S, A]`."""
    reset = jnp.arange(every * number) % steps == steps - 1

    def step(carry, now):
        values, visits, state = carry
        key, over = now
        act, move, begin = jax.random.split(key, 3)
        action = jax.random.categorical(act, behavior(values[state], method.temperature, method.epsilon_end))
        after, reward, terminated = problem.sample(move, state, action)
        following = values[after]
        error = method.target(reward.astype(values.dtype), terminated, following, following) - values[state, action]
        values = values.at[state, action].add(method.step_size(visits[state, action]).astype(values.dtype) * error)
        visits = visits.at[state, action].add(1)
        return (values, visits, jnp.where(over | terminated, first(problem, begin), after).astype(jnp.int32)), None

    def learn(key):
        begin, run = jax.random.split(key)
        dtype = jnp.result_type(problem.reward)
        carry = jnp.zeros(problem.shape, dtype), jnp.zeros(problem.shape, jnp.int32), first(problem, begin)
        keys = jax.random.split(run, (number, every))

        def chunk(carry, now):
            carry, _ = jax.lax.scan(step, carry, now)
            logits = gibbs(carry[0], method.temperature)
            return carry, exact_policy_gradient(problem, logits, temperature=method.temperature).objective

        carry, reached = jax.lax.scan(chunk, carry, (keys, reset.reshape(number, every)))
        return reached, carry[0]

    return jax.vmap(learn)(jax.random.split(jax.random.key(seed), seeds))


@partial(jax.jit, static_argnames=("steps", "episodes", "number", "seeds"))
def policy_gradient(problem, temperature, rate, *, steps, episodes, number, seeds, seed=0):
    """`J` after each of `number` steps of length `rate` along the estimate from `episodes` episodes, `[seeds, number]`:
    rewards to go with entropy, less the mean of the other episodes."""
    states, actions = problem.shape
    dtype = jnp.result_type(problem.reward)

    def episode(log_policy, key):
        begin, run = jax.random.split(key)

        def step(carry, key):
            state, running = carry
            act, move = jax.random.split(key)
            action = jax.random.categorical(act, log_policy[state])
            after, reward, terminated = problem.sample(move, state, action)
            return (after.astype(jnp.int32), running & ~terminated), (state, action, reward, running)

        return jax.lax.scan(step, (first(problem, begin), jnp.array(True)), jax.random.split(run, steps))[1]

    def improve(logits, key):
        log_policy = jax.nn.log_softmax(logits)
        s, a, rewards, valid = jax.vmap(partial(episode, log_policy))(jax.random.split(key, episodes))
        soft = jnp.where(valid, soft_rewards(rewards, log_policy[s, a], temperature), 0.0)
        to_go = credit(soft, discount=problem.discount)
        of_action = jax.nn.one_hot(a, actions, dtype=dtype) - jnp.exp(log_policy)[s]
        scores = jax.nn.one_hot(s, states, dtype=dtype)[..., None] * of_action[..., None, :]
        scores = jnp.where(valid[..., None], scores.reshape(*s.shape, states * actions), 0.0)
        gradient = jnp.mean(contributions(scores, to_go, leave_one_out(to_go, valid)), axis=0)
        logits = logits + rate * gradient.reshape(states, actions)
        return logits, exact_policy_gradient(problem, logits, temperature=temperature).objective

    def learn(key):
        return jax.lax.scan(improve, jnp.zeros((states, actions), dtype), jax.random.split(key, number))[1]

    return jax.vmap(learn)(jax.random.split(jax.random.key(seed), seeds))


def needed(reached, per_column, threshold):
    """Transitions until the threshold is first reached, `[seeds]`; infinite where it never is."""
    over = np.asarray(reached) >= threshold
    return np.where(over.any(axis=1), (over.argmax(axis=1) + 1.0) * per_column, np.inf)


def corridors(length, criterion):
    """The first action decides which of two corridors is walked, whose actions all lead on, and only the last step is
    paid: 1 in the first corridor. Then it is over."""
    rows = []
    for side in (0, 1):
        rows.append((0, side, 1 + side * length, 1.0, 0.0, False))
        for place in range(length):
            state, last = 1 + side * length + place, place == length - 1
            paid = float(last and side == 0)
            rows += [(state, action, state if last else state + 1, 1.0, paid, last) for action in (0, 1)]
    return ox.TabularMDP.from_outcomes(rows, criterion=criterion, initial=0, name="corridors")
