"""Exact planning for one reward after another on the same dynamics: the best policy and how often it visits what.

    V = (I - discount P_pi)^-1 r_pi,        d = (I - discount P_pi)^-T initial

Without a time limit it is policy iteration (Howard 1960) from the last policy, preceded by cheap partial evaluations;
one sparse factorization a step gives values and visits to rounding. On the host: methods that plan dozens of times
compile nothing. Where factors would fill in, both systems are iterated.
"""

from typing import Any, NamedTuple

import numpy as np
import scipy.sparse as sparse
from jaxtyping import Float, Int
from scipy.sparse.csgraph import reverse_cuthill_mckee
from scipy.sparse.linalg import splu

from optimality.policies.tabular import TabularPolicy
from optimality.problems.criterion import Discounted, FiniteHorizon
from optimality.problems.tabular import TabularMDP

_DIRECT_WORK = 2e10
_TIE = 1e-11
_ROUGH, _PARTIAL = 40, 40


class Response(NamedTuple):
    """A policy, its visits and its worth."""

    probabilities: Float[np.ndarray, "..."]
    """`[S, A]`, or `[H, S, A]` with a finite horizon."""
    visits: Float[np.ndarray, "..."]
    """Expected discounted visits of pairs, in the same shape."""
    value: Float[np.ndarray, " states"]
    """Under the reward it was planned for, from the first step."""
    choice: Int[np.ndarray, "..."] | None = None

    @property
    def pairs(self) -> Float[np.ndarray, "states actions"]:
        """Visits summed over time."""
        return self.visits.sum(axis=0) if self.visits.ndim == 3 else self.visits

    @property
    def policy(self) -> TabularPolicy:
        return TabularPolicy.from_probabilities(self.probabilities)


class Planner:
    """Plans on the dynamics of `problem`; its rewards, terminal rewards too, are not looked at."""

    def __init__(self, problem: TabularMDP, initial: Float[np.ndarray, " states"] | None = None):
        if not isinstance(problem.criterion, Discounted | FiniteHorizon):
            raise ValueError(
                f"planning for many rewards takes the criteria Discounted and FiniteHorizon, but the problem has "
                f"{type(problem.criterion).__name__}: without either, some reward has no best policy of finite worth."
            )
        self.shape = problem.shape
        self.discount = float(np.asarray(problem.discount))
        self.horizon = problem.criterion.horizon if isinstance(problem.criterion, FiniteHorizon) else None
        self.allowed = np.asarray(problem.allowed)
        self.initial = np.asarray(problem.initial if initial is None else initial, np.float64)
        states, actions = self.shape
        outcomes = problem.outcomes()
        going = ~outcomes.terminated
        place = (outcomes.state * actions + outcomes.action)[going], outcomes.successor[going]
        self.transition = sparse.csr_matrix((outcomes.probability[going], place), (states * actions, states))
        self.direct = self.horizon is None and self._fits()
        self._last: np.ndarray | None = None

    @property
    def steps(self) -> float:
        """Discounted steps of an episode that never terminates: what turns sums into averages."""
        if self.horizon is None:
            return 1.0 / (1.0 - self.discount)
        return float(np.sum(self.discount ** np.arange(self.horizon)))

    def respond(self, reward: Float[np.ndarray, "states actions"]) -> Response:
        """The best policy for `reward`, ties to the action of lowest index or of the last answer."""
        reward = np.where(self.allowed, reward, -np.inf)
        return self._backward(reward) if self.horizon is not None else self._iterate(reward)

    def evaluate(self, probabilities: Any, reward: Float[np.ndarray, "states actions"]) -> Response:
        """What a given policy visits and is worth; probabilities are `[S, A]` or `[H, S, A]`."""
        probabilities = np.asarray(probabilities, np.float64)
        if self.horizon is None:
            solve = self._solver(self._chain(probabilities))
            value = solve(np.sum(probabilities * reward, axis=1), False)
            return Response(probabilities, solve(self.initial, True)[:, None] * probabilities, value)
        per_step = np.broadcast_to(probabilities, (self.horizon, *self.shape))
        value = np.zeros(self.shape[0])
        for t in range(self.horizon - 1, -1, -1):
            value = np.sum(per_step[t] * self._q(reward, value), axis=1)
        return Response(per_step, self._forward(per_step), value)

    def values_of(
        self, probabilities: Float[np.ndarray, "states actions"], rewards: Float[np.ndarray, "states actions k"]
    ) -> Float[np.ndarray, "states k"]:
        """Values of one policy under many rewards, without a time limit."""
        solve = self._solver(self._chain(probabilities))
        paid = np.einsum("sa,sak->sk", probabilities, rewards)
        return solve(paid, False) if self.direct else np.stack([solve(b, False) for b in paid.T], axis=1)

    def uniform(self) -> Float[np.ndarray, "states actions"]:
        """Every allowed action alike."""
        return self.allowed / self.allowed.sum(axis=1, keepdims=True)

    def action_values(self, reward, value: Float[np.ndarray, " states"]) -> Float[np.ndarray, "states actions"]:
        """`r + discount E V`."""
        return self._q(np.asarray(reward, np.float64), value)

    def _q(self, reward, value):
        return reward + self.discount * (self.transition @ value).reshape(self.shape)

    def _backward(self, reward) -> Response:
        assert self.horizon is not None
        states, actions = self.shape
        choice, value = np.zeros((self.horizon, states), np.int64), np.zeros(states)
        for t in range(self.horizon - 1, -1, -1):
            q = self._q(reward, value)
            value = q.max(axis=1)
            tie = _TIE * max(1.0, float(np.abs(value).max()))
            choice[t] = np.argmax(q >= value[:, None] - tie, axis=1)
        probabilities = np.eye(actions)[choice]
        return Response(probabilities, self._forward(probabilities), value, choice)

    def _forward(self, per_step):
        mass, visits = self.initial, np.zeros(per_step.shape)
        for t in range(len(per_step)):
            visits[t] = mass[:, None] * per_step[t]
            mass = self.discount * (self.transition.T @ visits[t].reshape(-1))
        return visits

    def _iterate(self, reward) -> Response:
        states, actions = self.shape
        rows = np.arange(states)
        first = np.argmax(self.allowed, axis=1)
        choice = first if self._last is None else self._last
        value = np.zeros(states)
        for _ in range(_ROUGH):
            chain = self.transition[rows * actions + choice]
            paid = reward[rows, choice]
            for _ in range(_PARTIAL):
                value = paid + self.discount * (chain @ value)
            before, choice = choice, np.argmax(self._q(reward, value), axis=1)
            if (choice == before).all():
                break
        while True:  # ends because values rise and there are finitely many policies
            solve = self._solver(self.transition[rows * actions + choice])
            value = solve(reward[rows, choice], False)
            q = self._q(reward, value)
            best = q.max(axis=1)
            better = best > value + _TIE * max(1.0, float(np.abs(value).max())) * self.steps
            if not better.any():
                break
            choice = np.where(better, np.argmax(q, axis=1), choice)
        self._last = choice
        visits = np.zeros(self.shape)
        visits[rows, choice] = solve(self.initial, True)
        return Response(np.eye(actions)[choice], visits, value, choice)

    def _chain(self, probabilities):
        states, actions = self.shape
        rows = np.repeat(np.arange(states), actions)
        weigh = sparse.csr_matrix((probabilities.reshape(-1), (rows, np.arange(rows.size))), (states, rows.size))
        return weigh @ self.transition

    def _solver(self, chain):
        """`(right-hand side, transposed) -> solution` of `(I - discount P) x = b`."""
        if self.direct:
            factors = splu((sparse.eye(chain.shape[0]) - self.discount * chain).tocsc(), permc_spec="MMD_AT_PLUS_A")
            return lambda b, transposed: factors.solve(b, trans="T" if transposed else "N")

        def iterate(b, transposed):
            matrix, x = (chain.T.tocsr() if transposed else chain), b
            norm = (lambda v: np.abs(v).sum()) if transposed else (lambda v: np.abs(v).max())
            while True:
                new = b + self.discount * (matrix @ x)
                if norm(new - x) <= 1e-13 * norm(new) * self.steps:
                    return new
                x = new

        return iterate

    def _fits(self) -> bool:
        """Whether factors stay small: work of a banded factorization in the order of Cuthill and McKee."""
        states = self.shape[0]
        pattern = self._chain(np.ones(self.shape))
        pattern = sparse.csr_matrix(pattern + pattern.T)
        order = np.empty(states, np.int64)
        order[reverse_cuthill_mckee(pattern, symmetric_mode=True)] = np.arange(states)
        edges = pattern.tocoo()
        band = int(np.abs(order[edges.row] - order[edges.col]).max(initial=0)) + 1
        return float(states) * band**2 <= _DIRECT_WORK
