"""The filter and smoother of a finite hidden state against the enumeration of all paths."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from clauses import against
from instances import close
from optimality import FiniteHorizon, TabularMDP
from optimality.planning.hmm_filter import belief_update, hmm_filter, hmm_smoother
from optimality.problems.partially_observed import PartiallyObserved, TabularObservation

LENGTH = 5
PRECISIONS = ((np.float64, 1e-13), (np.float32, 1e-5))


class Model:
    """Three states, two actions, three observations; plain arrays, and the problem made of them."""

    def __init__(self, seed, *, ends=False, zeros=False, form="dense"):
        rng = np.random.default_rng(seed)
        # probabilities `going_on[a, s, s']` and `ending[a, s]`
        rows = rng.dirichlet(np.full(4, 0.7), size=(2, 3))
        if zeros:
            rows[0, :, :3] = np.eye(3)[[1, 2, 0]] * rows[0, :, :3].sum(axis=1, keepdims=True)
        if not ends:
            rows = np.concatenate([rows[..., :3] / rows[..., :3].sum(axis=-1, keepdims=True), 0 * rows[..., 3:]], -1)
        self.going_on, self.ending = rows[..., :3], rows[..., 3]
        self.initial = rng.dirichlet(np.ones(3))
        self.observing = rng.dirichlet(np.ones(3), size=(2, 3))
        self.first = rng.dirichlet(np.ones(3), size=3)
        self.actions = rng.integers(0, 2, LENGTH)
        self.observations = rng.integers(0, 3, LENGTH + 1)
        outcomes = [(s, a, t, p, 0.0, False) for (a, s, t), p in np.ndenumerate(self.going_on) if p > 0.0] + [
            (s, a, 0, p, 0.0, True) for (a, s), p in np.ndenumerate(self.ending) if p > 0.0
        ]
        mdp = TabularMDP.from_outcomes(
            outcomes, criterion=FiniteHorizon(LENGTH, 0.9), initial=self.initial, states=3, actions=2, form=form
        )
        self.problem = PartiallyObserved(mdp, TabularObservation(self.observing, self.first))

    def paths(self):
        """Every state path with its joint probability with the observations, still running."""
        for path in itertools.product(range(3), repeat=LENGTH + 1):
            p = self.initial[path[0]] * self.first[path[0], self.observations[0]]
            yield (
                path,
                [p]
                + [
                    self.going_on[a, s, t] * self.observing[a, t, o]
                    for a, s, t, o in zip(self.actions, path, path[1:], self.observations[1:], strict=False)
                ],
            )


MODELS = [Model(0), Model(1), Model(2, ends=True), Model(3, form="successors"), Model(4, ends=True, form="successors")]
EACH = pytest.mark.parametrize("model", MODELS, ids=["dense", "dense-2", "ending", "lists", "lists-ending"])


@functools.cache
def enumerated(model):
    """Filtered beliefs of each time, evidence, smoothed beliefs and pairs."""
    joint = np.zeros((LENGTH + 1, 3))
    smoothed, pairs, evidence = np.zeros((LENGTH + 1, 3)), np.zeros((LENGTH, 3, 3)), 0.0
    for path, factors in model.paths():
        whole = np.prod(factors)
        evidence += whole
        for t, state in enumerate(path):
            # what comes after the time is summed out: each prefix is met 3^(LENGTH - t) times
            joint[t, state] += np.prod(factors[: t + 1]) / 3 ** (LENGTH - t)
            smoothed[t, state] += whole
        for t in range(LENGTH):
            pairs[t, path[t], path[t + 1]] += whole
    return joint / joint.sum(axis=1, keepdims=True), np.log(evidence), smoothed / evidence, pairs / evidence


def ours(model, dtype=np.float64):
    found = hmm_filter(model.problem, model.observations, model.actions, dtype=dtype)
    return found.beliefs, found.log_evidence


def recursion(model, *, action_ignored=False, normalized=True, sees_action=True, ends=True, first=True, late=False):
    """The filter written out, with one mistake."""
    belief = model.initial * (model.first[:, model.observations[0]] if first else 1.0)
    evidence, beliefs = belief.sum(), [belief]
    for action, observation in zip(
        model.actions, model.observations[:-1] if late else model.observations[1:], strict=True
    ):
        transition = model.going_on.mean(axis=0) if action_ignored else model.going_on[action]
        transition = transition if ends else transition / transition.sum(axis=1, keepdims=True)
        seen = model.observing[action] if sees_action else model.observing[0]
        beliefs.append((beliefs[-1] @ transition) * seen[:, observation])
        evidence = beliefs[-1].sum()
    beliefs = np.stack(beliefs)
    return beliefs / beliefs.sum(axis=1, keepdims=True) if normalized else beliefs, np.log(evidence)


def mistaken(**mistake):
    return lambda model, dtype=np.float64: recursion(model, **mistake)


def test_the_recursion_without_a_mistake_is_right():
    for model in MODELS:
        close(recursion(model)[0], enumerated(model)[0])


@EACH
@pytest.mark.row("S130", "E3.4.normalized", "E3.4.actions")
@against(
    ours,
    action_ignored=mistaken(action_ignored=True),
    not_normalized=mistaken(normalized=False),
    same_observation_for_all_actions=mistaken(sees_action=False),
    first_observation_ignored=mistaken(first=False),
    one_step_late=mistaken(late=True),
)
def test_filter_is_enumeration_of_paths(implementation, model):
    expected, log_expected, _, _ = enumerated(model)
    for dtype, tolerance in PRECISIONS:
        beliefs, log_evidence = implementation(model, dtype)
        close(beliefs, expected, tolerance)
        close(log_evidence, log_expected, tolerance)


@pytest.mark.row("S130")
@against(lambda model: ours(model)[1], forgets_endings=lambda model: recursion(model, ends=False)[1])
def test_running_on_is_evidence(implementation):
    for model in (MODELS[2], MODELS[4]):
        close(implementation(model), enumerated(model)[1], 1e-13)


@pytest.mark.row("E3.4.normalized")
@against(lambda model: recursion(model, normalized=False)[0], as_a_law=lambda model: recursion(model)[0])
def test_what_is_printed_with_an_equal_sign_sums_to_the_evidence(implementation):
    model = MODELS[0]
    close(
        implementation(model)[-1].sum(),
        np.exp(hmm_filter(model.problem, model.observations, model.actions).log_evidence),
    )


def smoothed(model, dtype=np.float64):
    found = hmm_smoother(model.problem, model.observations, model.actions, dtype=dtype)
    return found.beliefs, found.pairs


def independent_pairs(model, dtype=np.float64):
    beliefs, _ = smoothed(model)
    return beliefs, beliefs[:-1, :, None] * beliefs[1:, None, :]


def filtered_pairs(model, dtype=np.float64):
    beliefs, _ = ours(model)
    return beliefs, beliefs[:-1, :, None] * model.going_on[model.actions]


@EACH
@against(smoothed, independent=independent_pairs, filtered=filtered_pairs)
def test_smoother_is_enumeration_of_paths(implementation, model):
    _, _, expected, expected_pairs = enumerated(model)
    for dtype, tolerance in PRECISIONS:
        beliefs, pairs = implementation(model, dtype)
        close(beliefs, expected, tolerance)
        close(pairs, expected_pairs, tolerance)
        close(pairs.sum(axis=(1, 2)), np.ones(LENGTH), tolerance)


@EACH
def test_updates_one_by_one_are_the_filter(model):
    whole = hmm_filter(model.problem, model.observations, model.actions)
    belief = whole.beliefs[0]
    for t in range(LENGTH):
        belief, log_probability = belief_update(model.problem, belief, model.actions[t], model.observations[t + 1])
        close(belief, whole.beliefs[t + 1])
        close(log_probability, whole.log_probabilities[t + 1])
    close(whole.log_probabilities.sum(), whole.log_evidence)
    close(whole.predicted.sum(axis=1), np.ones(LENGTH + 1))


def test_a_filter_traces_and_maps(x64):
    model = MODELS[2]
    many = np.random.default_rng(5).integers(0, 3, (4, LENGTH + 1))
    traced = jax.jit(jax.vmap(lambda o: hmm_filter(model.problem, o, model.actions).log_evidence))(many)
    one_by_one = [hmm_filter(model.problem, row, model.actions).log_evidence for row in many]
    close(traced, one_by_one, 1e-13 if x64 else 1e-5)


def test_derivative_of_the_evidence():
    with jax.enable_x64(True):
        model = MODELS[0]

        def evidence(logits):
            table = jax.nn.softmax(logits)
            observed = PartiallyObserved(model.problem.problem, TabularObservation(table, model.first))
            return hmm_filter(observed, model.observations, model.actions).log_evidence

        logits, direction = jnp.log(model.observing), np.random.default_rng(1).normal(size=(2, 3, 3))
        slope = (evidence(logits + 1e-5 * direction) - evidence(logits - 1e-5 * direction)) / 2e-5
        close(jnp.sum(jax.grad(evidence)(logits) * direction), slope, 1e-8)


def blinking():
    """State 0 is followed by state 1 and back; each is seen for sure."""
    transition = np.array([[[0.0, 1.0]], [[1.0, 0.0]]])
    mdp = TabularMDP.from_arrays(transition, np.zeros(2), criterion=FiniteHorizon(3), initial=0)
    return PartiallyObserved(mdp, TabularObservation(np.eye(2)))


def test_an_impossible_observation_names_its_time():
    problem = blinking()
    close(hmm_filter(problem, [0, 1, 0], [0, 0]).log_evidence, 0.0)
    with pytest.raises(ValueError, match=r"observation 1 at time 2 is impossible after action 0"):
        hmm_filter(problem, [0, 1, 1, 0], [0, 0, 0])
    with pytest.raises(ValueError, match=r"observation 1 at time 0 is impossible: no state"):
        hmm_smoother(problem, [1, 0], [0])
    found = hmm_filter(problem, [0, 1, 1, 0], [0, 0, 0], throw=False)
    assert found.log_evidence == -np.inf
    close(found.beliefs, [[1, 0], [0, 1], [0, 0], [0, 0]])
    traced = jax.jit(lambda o: hmm_smoother(problem, o, jnp.zeros(3, int)))(jnp.array([0, 1, 1, 0]))
    assert traced.filtered.log_evidence == -jnp.inf
    assert not np.isnan(traced.beliefs).any()
    belief, log_probability = belief_update(problem, [1.0, 0.0], 0, 0)
    assert log_probability == -np.inf
    close(belief, [0.0, 0.0])


def test_tiny_likelihoods_do_not_underflow():
    table = np.array([[1e-30, 1.0 - 1e-30], [2e-30, 1.0 - 2e-30]])
    mdp = TabularMDP.from_arrays(np.full((2, 1, 2), 0.5), np.zeros(2), criterion=FiniteHorizon(3))
    problem = PartiallyObserved(mdp, TabularObservation(table))
    found = hmm_filter(problem, np.zeros(201, int), np.zeros(200, int), dtype=np.float32)
    close(found.beliefs, np.broadcast_to([1 / 3, 2 / 3], (201, 2)), 1e-6)
    close(found.log_evidence, 201 * np.log(1.5e-30), 1e-6)


@pytest.mark.parametrize(
    ("observations", "actions", "message"),
    [
        ([0, 1], [0, 0], r"observations have shape \(2,\) and actions \(2,\), but T actions need"),
        ([0, 3], [0], r"observations at time 1 is 3, but the problem's are 0 to 2"),
        ([0, 1, 1], [0, -1], r"actions at time 1 is -1, but the problem's are 0 to 1"),
        ([0.5, 1.0], [0], r"observations must be whole numbers, but float64 was given"),
    ],
)
def test_refusals(observations, actions, message):
    with pytest.raises(ValueError, match=message):
        hmm_filter(MODELS[0].problem, observations, actions)


def test_one_observation_and_no_action():
    model = MODELS[0]
    found = hmm_filter(model.problem, model.observations[:1], [])
    joint = model.initial * model.first[:, model.observations[0]]
    close(found.beliefs, [joint / joint.sum()])
    close(found.log_evidence, np.log(joint.sum()))
    assert hmm_smoother(model.problem, model.observations[:1], []).pairs.shape == (0, 3, 3)
