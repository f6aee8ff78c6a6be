"""Finite Markov decision problems: `TabularMDP`."""

from typing import Any, Literal

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental.sparse import BCOO
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from optimality.core.numerics import Real, is_traced
from optimality.problems.criterion import AverageReward, Criterion, FiniteHorizon, discounted, going_on
from optimality.problems.grid_map import GridMap
from optimality.problems.models import AbstractModel
from optimality.problems.outcomes import (
    Outcomes,
    build_model,
    check_indices,
    check_outcomes,
    flatten,
    mean_reward,
)

Prior = Literal["none", "uniform", "problem"]


class TabularMDP(eqx.Module):
    """A Markov decision problem with `S` states and `A` actions.

    An outcome of a pair is (successor, probability, reward, terminated); what terminated is over, with no further
    action or entropy. Make one with `from_outcomes`, `from_arrays`, `from_gymnasium` or a generator such as
    `gridworld`; all of them validate. Concrete arrays are NumPy float64.
    """

    model: AbstractModel
    reward: Float[Array | np.ndarray, "states actions"]
    """Mean reward of each pair; deviations of single outcomes are in the model."""
    initial: Float[Array | np.ndarray, " states"]
    """Law of the first state."""
    criterion: Criterion
    allowed: Bool[Array | np.ndarray, "states actions"]
    """Which actions each state offers."""
    log_prior: Float[Array | np.ndarray, "states actions"] | None = None
    """Log-probabilities of actions before any optimality is observed, for `prior="problem"`."""
    grid: GridMap | None = eqx.field(static=True, default=None)
    name: str = eqx.field(static=True, default="TabularMDP")

    def __check_init__(self):
        states, actions = self.shape
        _check_fields(
            self.criterion,
            reward=(self.reward, (states, actions)),
            initial=(self.initial, (states,)),
            allowed=(self.allowed, (states, actions)),
            log_prior=(self.log_prior, (states, actions)),
        )
        if isinstance(self.criterion, FiniteHorizon):
            given = np.shape(self.criterion.terminal_reward)
            if given not in ((), (states,)):
                raise ValueError(f"terminal_reward has shape {given}, but needs () or ({states},).")
        if isinstance(self.criterion, AverageReward) and self.model.ending is not None:
            raise ValueError(
                "AverageReward() needs a process that never ends, but some outcomes terminate: use FiniteHorizon, "
                "Discounted or UntilTermination, or let terminating outcomes lead back to a first state."
            )
        if not is_traced((self.reward, self.initial, self.allowed, self.log_prior)):
            self._check_numbers()

    def _check_numbers(self):
        initial, allowed = np.asarray(self.initial), np.asarray(self.allowed)
        if not np.all(np.isfinite(self.reward)):
            s, a = np.argwhere(~np.isfinite(self.reward))[0]
            raise ValueError(f"reward at state {s}, action {a} is {self.reward[s, a]}: rewards must be finite.")
        if not np.all(np.isfinite(initial)) or np.any(initial < 0.0) or abs(initial.sum() - 1.0) > 1e-6:
            raise ValueError(
                f"initial must be a probability distribution, but it sums to {initial.sum():.10g} with smallest "
                f"entry {initial.min():.3g}."
            )
        if not allowed.any(axis=1).all():
            state = int(np.flatnonzero(~allowed.any(axis=1))[0])
            raise ValueError(f"state {state} allows no action: every state needs at least one.")
        if self.log_prior is not None:
            mass = np.where(allowed, np.exp(np.asarray(self.log_prior)), 0.0).sum(axis=1)
            wrong = np.flatnonzero(~(np.abs(mass - 1.0) <= 1e-6))
            if wrong.size:
                raise ValueError(
                    f"log_prior at state {wrong[0]} sums to {mass[wrong[0]]:.10g} over the allowed actions, not to 1."
                )

    @classmethod
    def from_outcomes(
        cls,
        outcomes: Outcomes | list[tuple[int, int, int, float, float, bool]],
        *,
        criterion: Criterion | None,
        initial: Any = None,
        states: int | None = None,
        actions: int | None = None,
        allowed: Any = None,
        log_prior: Any = None,
        grid: GridMap | None = None,
        name: str = "TabularMDP",
        form: Literal["auto", "dense", "successors"] = "auto",
    ) -> "TabularMDP":
        """From rows `(state, action, successor, probability, reward, terminated)`.

        `initial` is a state or a distribution, by default uniform; `allowed` a boolean `[S, A]`, by default the pairs
        that have outcomes. Raises `ValueError` for anything that is not a problem, saying where and by how much.
        """
        outcomes = outcomes if isinstance(outcomes, Outcomes) else Outcomes.of(list(outcomes))
        if states is None:
            states = int(max(outcomes.state.max(), outcomes.successor.max())) + 1
        actions = int(outcomes.action.max()) + 1 if actions is None else actions
        check_indices(outcomes, states, actions)
        if allowed is None:
            count = np.bincount(outcomes.state * actions + outcomes.action, minlength=states * actions)
            allowed = count.reshape(states, actions) > 0
        allowed, initial = np.asarray(allowed, bool), _distribution(initial, states)
        log_prior = None if log_prior is None else np.asarray(log_prior, np.float64)
        pairs = states, actions
        _check_fields(criterion, initial=(initial, (states,)), allowed=(allowed, pairs), log_prior=(log_prior, pairs))
        check_outcomes(outcomes, states, actions, allowed)
        reward, deviation = mean_reward(outcomes, states, actions)
        return cls(
            build_model(outcomes, deviation, states, actions, form),
            reward,
            initial,
            criterion,  # pyright: ignore[reportArgumentType]  (None was refused, with the way out)
            allowed,
            log_prior,
            grid,
            name,
        )

    @classmethod
    def from_arrays(
        cls,
        transition: Any,
        reward: Any,
        *,
        criterion: Criterion | None,
        terminated: Any = None,
        initial: Any = None,
        allowed: Any = None,
        log_prior: Any = None,
        grid: GridMap | None = None,
        name: str = "TabularMDP",
        form: Literal["auto", "dense", "successors"] = "auto",
    ) -> "TabularMDP":
        """From arrays.

        Args:
            transition: `[S, A, S]`, dense or a JAX BCOO array; or one SciPy sparse `[S, S]` matrix per action.
            reward: `[S]`, `[S, A]` or `[S, A, S]` (then risk sees it).
            criterion: what is to be maximized.
            terminated: booleans, `[S]` (entering the state ends the episode), `[S, A]` or `[S, A, S]`. Rows of
                states that are only ever entered at the end may be left zero.
            initial: first state or distribution over states; uniform by default.
            allowed: boolean `[S, A]`; all by default.
            log_prior: `[S, A]`, for `prior="problem"`.
            grid: where the states lie, for drawing.
            name: for reports.
            form: how the model is stored; `"auto"` takes the cheapest exact form.

        Raises:
            ValueError: shapes, sums, signs or numbers are wrong; the message says where and by how much.
        """
        if is_traced((transition, reward)):
            raise ValueError(
                "from_arrays takes concrete arrays: build the problem outside jit, vmap or grad, and replace its "
                "reward inside, eqx.tree_at(lambda mdp: mdp.reward, mdp, reward)."
            )
        (state, action, successor, probability), states, actions = _coordinates(transition)
        rewards = _per_outcome("reward", np.asarray(reward, np.float64), state, action, successor, (states, actions))
        over = np.zeros(state.size, bool)
        if terminated is not None:
            over = np.asarray(terminated, bool)
            if over.ndim == 1:
                over = _broadcast_successor(over, (states, actions))
            over = _per_outcome("terminated", over, state, action, successor, (states, actions)).astype(bool)
        outcomes = Outcomes(state, action, successor, probability, rewards, over)
        if terminated is not None and np.ndim(terminated) == 1:
            outcomes = _close_empty_rows(outcomes, np.asarray(terminated, bool), states, actions)
        allowed = np.ones((states, actions), bool) if allowed is None else allowed
        return cls.from_outcomes(
            outcomes,
            criterion=criterion,
            initial=initial,
            states=states,
            actions=actions,
            allowed=allowed,
            log_prior=log_prior,
            grid=grid,
            name=name,
            form=form,
        )

    @classmethod
    def from_gymnasium(cls, environment: Any, *, criterion: Criterion | None = None, **options: Any) -> "TabularMDP":
        """The table that a Gymnasium environment exposes as `P`; see `problems.gymnasium_table.read_table`."""
        from optimality.problems.gymnasium_table import read_table

        return read_table(environment, criterion=criterion, **options)

    @property
    def shape(self) -> tuple[int, int]:
        """Numbers of states and actions."""
        return self.model.shape

    @property
    def discount(self) -> Real:
        return self.criterion.discount

    def expect(self, values: Float[Array | np.ndarray, " states"], risk: Real = 0.0) -> Float[Array, "states actions"]:
        """Worth of what follows each pair, `Q - reward`: at risk 0 `discount E V(s')`, otherwise
        `(1 / risk) log E[exp(risk (r - reward)) (discount exp(risk V) + 1 - discount)]`, with the first factor
        alone where the outcome terminated. The discount is a chance of ending, an outcome of value 0."""
        return self.expect_action_first(values, risk).T

    def push(
        self,
        mass: Float[Array | np.ndarray, "states actions"],
        values: Float[Array | np.ndarray, " states"] | None = None,
        risk: Real = 0.0,
    ) -> Float[Array, " states"]:
        """Mass that goes on into each state, the transpose of `expect`; with values and risk, under the tilted
        dynamics. What terminates or meets the chance of ending leaves; nothing is renormalized."""
        return self.push_action_first(jnp.asarray(mass).T, values, risk)

    def expect_action_first(self, values, risk: Real = 0.0) -> Float[Array, "actions states"]:
        """`expect` in the order of the kernels."""
        values = jnp.asarray(values)
        discount = jnp.asarray(self.discount, values.dtype)
        if isinstance(risk, int | float) and risk == 0:
            return self.model.expect(discount * values)
        return self.model.expect(discounted(values, discount, jnp.asarray(risk, values.dtype)), risk)

    def push_action_first(self, mass, values=None, risk: Real = 0.0) -> Float[Array, " states"]:
        """`push` in the order of the kernels."""
        mass = jnp.asarray(mass)
        discount = jnp.asarray(self.discount, mass.dtype)
        if values is None or (isinstance(risk, int | float) and risk == 0):
            return discount * self.model.push(mass)
        values, risk = jnp.asarray(values), jnp.asarray(risk, mass.dtype)
        arriving = self.model.push(mass, discounted(values, discount, risk), risk)
        return going_on(values, discount, risk) * arriving

    def sample(
        self, key: PRNGKeyArray, state: int | Int[Array, ""], action: int | Int[Array, ""]
    ) -> tuple[Int[Array, ""], Float[Array, ""], Bool[Array, ""]]:
        """One outcome: next state, reward, terminated. The discount is not sampled."""
        law = self.model.law(state, action)
        cumulative = jnp.cumsum(law.probability)
        draw = jax.random.uniform(key, dtype=cumulative.dtype) * cumulative[-1]
        outcome = jnp.minimum(jnp.sum(draw >= cumulative), law.probability.size - 1)
        reward = jnp.asarray(self.reward)[state, action] + law.deviation[outcome]
        return law.successor[outcome], reward, law.terminated[outcome]

    def dense(self) -> Float[Array, "states actions successors"]:
        """Probabilities of going on into each state, `[S, A, S]`, without the discount."""
        return jnp.moveaxis(self.model.dense(), 0, 1)

    def require_prior(self, prior: str) -> None:
        """Raises `ValueError` for a prior that this problem does not have."""
        if prior not in ("none", "uniform", "problem"):
            raise ValueError(f"prior must be 'none', 'uniform' or 'problem', but {prior!r} was given.")
        if prior == "problem" and self.log_prior is None:
            raise ValueError('prior="problem" needs a problem with log_prior, but this one has none.')

    def outcomes(self) -> Outcomes:
        """Everything that can happen, one entry each, with its reward; NumPy, concrete problems only."""
        return flatten(self.model, np.asarray(self.reward))

    def log_base(self, prior: Prior) -> Float[Array, "states actions"]:
        """The base measure over actions: counting (`"none"`), uniform, or the problem's own; `-inf` where an action
        is not allowed."""
        self.require_prior(prior)
        allowed = jnp.asarray(self.allowed)
        if prior == "none":
            base = jnp.zeros(allowed.shape, jnp.asarray(self.reward).dtype)
        elif prior == "uniform":
            count = jnp.sum(allowed, axis=1, keepdims=True).astype(jnp.asarray(self.reward).dtype)
            base = jnp.broadcast_to(-jnp.log(count), allowed.shape)
        else:
            base = jnp.asarray(self.log_prior)
        return jnp.where(allowed, base, -jnp.inf)

    def unreachable(self) -> np.ndarray:
        """States that no policy can enter; legal, but worth a note. Concrete problems only."""
        outcomes = self.outcomes()
        offered = np.asarray(self.allowed)[outcomes.state, outcomes.action]
        acting, grown = np.asarray(self.initial) > 0.0, True
        while grown:
            entered = outcomes.successor[offered & ~outcomes.terminated & acting[outcomes.state]]
            grown = not acting[entered].all()
            acting[entered] = True
        ended = outcomes.successor[offered & outcomes.terminated & acting[outcomes.state]]
        acting[ended] = True
        return np.flatnonzero(~acting)


def _check_fields(criterion: Any, **fields: tuple[Any, tuple[int, ...]]) -> None:
    """Raises `ValueError` for a missing criterion or an array of another shape than the one beside it."""
    if not isinstance(criterion, Criterion):
        raise ValueError(
            f"criterion is missing ({criterion!r} was given): say what is to be maximized, one of "
            "FiniteHorizon(horizon), Discounted(discount), AverageReward(), UntilTermination()."
        )
    for name, (array, shape) in fields.items():
        if array is not None and array.shape != shape:
            raise ValueError(f"{name} has shape {array.shape}, but the model needs {shape}.")


def _distribution(initial: Any, states: int) -> np.ndarray:
    if initial is None:
        return np.full(states, 1.0 / states)
    if np.ndim(initial) == 0:
        if not 0 <= int(initial) < states:
            raise ValueError(f"initial state {initial} is outside 0..{states - 1}.")
        return np.eye(states)[int(initial)]
    return np.asarray(initial, np.float64)


def _coordinates(transition: Any):
    """(state, action, successor, probability), and the numbers of states and actions."""
    if isinstance(transition, list | tuple) and hasattr(transition[0], "tocoo"):
        sizes = {matrix.shape for matrix in transition}
        states = transition[0].shape[0]
        if sizes != {(states, states)}:
            raise ValueError(
                f"transition matrices must all be [S, S] of one size, but their shapes are {sorted(sizes)}."
            )
        parts = [matrix.tocoo() for matrix in transition]
        state = np.concatenate([part.row for part in parts]).astype(np.int64)
        successor = np.concatenate([part.col for part in parts]).astype(np.int64)
        action = np.repeat(np.arange(len(parts)), [part.nnz for part in parts])
        data = np.concatenate([part.data for part in parts]).astype(np.float64)
        return (state, action, successor, data), states, len(parts)
    if isinstance(transition, BCOO):
        _check_cube(transition.shape)
        state, action, successor = np.asarray(transition.indices).astype(np.int64).T
        inside = state < transition.shape[0]  # a BCOO array pads with indices beyond the end
        data = np.asarray(transition.data, np.float64)
        columns = tuple(column[inside] for column in (state, action, successor, data))
        return columns, transition.shape[0], transition.shape[1]
    array = np.asarray(transition, np.float64)
    _check_cube(array.shape)
    state, action, successor = np.nonzero(array)
    return (state, action, successor, array[state, action, successor]), array.shape[0], array.shape[1]


def _check_cube(shape: tuple[int, ...]) -> None:
    if len(shape) != 3 or shape[0] != shape[2]:
        raise ValueError(f"transition has shape {shape}, but needs [S, A, S], or one sparse [S, S] matrix per action.")


def _broadcast_successor(entering: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    return np.broadcast_to(entering[None, None, :], (*size, entering.size))


def _per_outcome(name, array, state, action, successor, size):
    states, actions = size
    shapes = {1: (states,), 2: (states, actions), 3: (states, actions, states)}
    if array.shape != shapes.get(array.ndim):
        raise ValueError(
            f"{name} has shape {array.shape}, but needs {shapes[1]}, {shapes[2]} or {shapes[3]} (states, actions)."
        )
    return array[(state, action, successor)[: array.ndim]]


def _close_empty_rows(outcomes: Outcomes, terminal: np.ndarray, states: int, actions: int) -> Outcomes:
    """A terminal state's own row is never used; where it was left zero it ends at once, so that rows sum to one."""
    total = np.bincount(outcomes.state * actions + outcomes.action, outcomes.probability, states * actions)
    empty = (total.reshape(states, actions) == 0.0) & terminal[:, None]
    state, action = np.nonzero(empty)
    extra = Outcomes(state, action, state, np.ones(state.size), np.zeros(state.size), np.ones(state.size, bool))
    return Outcomes(*(np.concatenate([a, b]) for a, b in zip(outcomes, extra, strict=True)))
