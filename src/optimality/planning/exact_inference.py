"""Exact inference: what was done, given that all went well.

Give each step an optimality variable with `p(O_t | s, a) = exp(r(s, a) / tau)`. With an action prior `p(a | s)` the
posterior over trajectories is `p(trajectory | O) = p(trajectory) exp(return / tau) / p(O)` (Levine 2018, section 2).

    backward   beta_t(s, a) = E[exp(r / tau) beta_{t+1}(s')],   beta_t(s) = sum_a p(a | s) beta_t(s, a)
    policy     p(a | s, O)  = p(a | s) beta_t(s, a) / beta_t(s)
    forward    alpha_1 = p(s_1),   alpha_{t+1}(s') ~ sum_{s,a} alpha_t(s) p(a | s) exp(r / tau) p(s' | s, a)
    smoothed   p(s_t | O)   ~ alpha_t(s) beta_t(s)
    dynamics   p(s' | s, a, O) ~ p(s' | s, a) exp(r / tau) beta_{t+1}(s')

Values are `tau log beta`, a soft backup whose expectation is the certainty equivalent with risk `1 / tau`: the
posterior bends the dynamics towards luck. An ended episode has `beta = 1`. The discount is a chance of ending, so a
discounted backup is `log(discount E exp(V) + 1 - discount)`, not `discount log E exp(V)`.
"""

from dataclasses import KW_ONLY
from typing import Any, ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from optimality.core.gibbs import gibbs, soft_maximum
from optimality.core.numerics import Real, cast_floats, is_traced, precision
from optimality.core.solve import AbstractDirect, Solution
from optimality.planning.backups import Sweep, occupancies, plan, require_criterion
from optimality.policies.tabular import TabularPolicy
from optimality.problems.criterion import Discounted, FiniteHorizon, UntilTermination, discounted, going_on
from optimality.problems.models import Law
from optimality.problems.tabular import Prior, TabularMDP


class ExactInferenceDetails(eqx.Module):
    """Messages and marginals. Arrays over time have `H` or `H+1` entries for a finite horizon and no time axis
    otherwise.

    `log_evidence` is `log p(O)`, `log_initial` the posterior of the first state; `q` and `value` are `tau log beta`.
    `smoothed_states [H+1, S]` and `smoothed_pairs [H, S, A]` sum to the chance that the episode is still running;
    for an unlimited time `smoothed_pairs [S, A]` holds expected visits and `smoothed_states` their sums.
    `log_forward [H+1, S]` is `log alpha`, normalized among running episodes; finite horizons only.
    """

    log_evidence: Float[Array, ""]
    log_initial: Float[Array, " states"]
    q: Float[Array, "..."]
    log_forward: Float[Array, "..."] | None
    smoothed_states: Float[Array, "..."]
    smoothed_pairs: Float[Array, "..."]


class ExactInference(AbstractDirect[TabularMDP]):
    """The exact posterior over behavior given optimality, dynamics and first state included."""

    _: KW_ONLY
    temperature: Real = 1.0
    """Reward is divided by it before it becomes a log-likelihood."""
    prior: Prior = eqx.field(static=True, default="uniform")
    """`uniform` or `problem`: a law over actions, so that `log_evidence` is one; `none`: the counting measure."""
    tolerance: Real = 1e-12
    """Largest accepted change of a value in the last sweep, where a fixed point is sought."""
    max_steps: int = eqx.field(static=True, default=200_000)
    """Bound on the sweeps, where a fixed point is sought."""

    accepts: ClassVar[tuple[type, ...]] = (FiniteHorizon, Discounted, UntilTermination)

    def __check_init__(self):
        if not is_traced(self.temperature) and not float(jnp.asarray(self.temperature)) > 0.0:
            raise ValueError(
                f"temperature must be positive for inference, but {self.temperature} was given; "
                "hard planning is ValueIteration()."
            )

    def check(self, problem: Any) -> None:
        require_criterion(self, problem, self.accepts)
        problem.require_prior(self.prior)

    def compute(self, problem: TabularMDP, key=None) -> Solution:
        log_base = problem.log_base(self.prior).T
        temperature = jnp.asarray(self.temperature, log_base.dtype)
        risk = 1.0 / temperature
        planned = plan(problem, Sweep(log_base, temperature, risk), self.tolerance, self.max_steps)
        finite = isinstance(problem.criterion, FiniteHorizon)
        log_beta = (planned.value[0] if finite else planned.value) * risk
        log_initial = jnp.log(jnp.asarray(problem.initial))
        log_posterior_initial = gibbs(log_beta, 1.0, log_initial)
        pairs, last, visited = occupancies(
            problem,
            jnp.exp(planned.log_policy),
            jnp.exp(log_posterior_initial),
            values=planned.value,
            risk=risk,
            tolerance=self.tolerance,
            max_steps=self.max_steps,
        )
        states = jnp.sum(pairs, axis=-1)
        details = ExactInferenceDetails(
            log_evidence=soft_maximum(log_beta, 1.0, log_initial),
            log_initial=log_posterior_initial,
            q=planned.q,
            log_forward=forward_messages(problem, log_base, risk) if finite else None,
            smoothed_states=jnp.concatenate([states, last[None]]) if finite else states,
            smoothed_pairs=pairs,
        )
        result = jnp.maximum(planned.result, visited)
        return Solution(planned.value, TabularPolicy(planned.log_policy), result, planned.stats, details)


def forward_messages(
    problem: TabularMDP, log_base: Float[Array, "actions states"], risk: Float[Array, ""]
) -> Float[Array, "time states"]:
    """`log alpha_t(s) = log p(s_t = s | O_1 .. O_{t-1}, still running)` for `t = 1 .. H+1`."""
    reward = jnp.asarray(problem.reward).T

    def step(log_alpha, _):
        log_pairs = log_alpha[None, :] + log_base + risk * reward
        ahead = problem.model.push_log(log_pairs, risk)
        total = jax.nn.logsumexp(ahead)
        ahead = ahead - jnp.where(jnp.isneginf(total), 0.0, total)
        return ahead, ahead

    assert isinstance(problem.criterion, FiniteHorizon)
    first = jnp.log(jnp.asarray(problem.initial))
    _, rest = jax.lax.scan(step, first, length=problem.criterion.horizon, xs=None)
    return jnp.concatenate([first[None], rest])


def posterior_dynamics(
    problem: TabularMDP, values: Float[Array | np.ndarray, " states"], temperature: Real
) -> Float[Array | np.ndarray, "states actions successors"]:
    """`p(s' and still running | s, a, O)`, with `values` those of the next step, `tau log beta_{t+1}`.

    What is missing from one in a row is the posterior chance of having ended. Concrete arguments are computed in
    float64, whatever JAX's flag says.
    """
    if is_traced((problem, values, temperature)):
        return _posterior_dynamics(problem, values, temperature)
    with precision(np.float64):
        return np.asarray(_posterior_dynamics_compiled(*cast_floats((problem, values, temperature), np.float64)))


def _posterior_dynamics(problem, values, temperature):
    def row(law: Law, running, ended):
        return jnp.zeros(problem.shape[0], running.dtype).at[law.successor].add(running)

    return _for_each_pair(row, problem, values, temperature)


def luck(problem: TabularMDP, values: Float[Array, " states"], temperature: Real) -> Float[Array, "states actions"]:
    """Total variation between the posterior and the true law of each pair's outcomes, endings told apart by where and
    for what reward they end; `values` are those of the next step."""

    def distance(law: Law, running, ended):
        discount = jnp.asarray(problem.discount, running.dtype)
        true_running = jnp.where(law.terminated, 0.0, discount * law.probability)
        gap = jnp.abs(running - true_running) + jnp.abs(ended - (law.probability - true_running))
        return 0.5 * jnp.sum(gap)

    return _for_each_pair(distance, problem, values, temperature)


def _for_each_pair(function, problem, values, temperature):
    """`function(law, running, ended)` of every pair: its outcomes, and the posterior probabilities that each happens
    and the episode goes on, or is over."""
    values = jnp.asarray(values)
    risk = 1.0 / jnp.asarray(temperature, values.dtype)
    discount = jnp.asarray(problem.discount, values.dtype)
    ahead, chance = discounted(values, discount, risk), going_on(values, discount, risk)
    states, actions = problem.shape

    def pair(state, action):
        law: Law = problem.model.law(state, action)
        worth = law.deviation + jnp.where(law.terminated, 0.0, ahead[law.successor])
        posterior = jnp.exp(gibbs(risk * worth, 1.0, jnp.log(law.probability)))
        running = jnp.where(law.terminated, 0.0, posterior * chance[law.successor])
        return function(law, running, posterior - running)

    return jax.vmap(lambda s: jax.vmap(lambda a: pair(s, a))(jnp.arange(actions)))(jnp.arange(states))


_posterior_dynamics_compiled = jax.jit(_posterior_dynamics)
