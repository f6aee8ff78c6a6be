"""Natural gradients against dense linear algebra and closed forms."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import softmax

from clauses import against
from optimality.learning.natural_gradient import (
    NaturalDirection,
    fisher_product,
    natural_direction,
    noise_of_sum,
    step_of_divergence,
    trust_region_search,
)

random = np.random.default_rng(0)
STATES, ACTIONS = 3, 4
LOGITS, WEIGHT = random.normal(size=(STATES, ACTIONS)), np.array([0.2, 0.5, 0.3])
ADVANTAGE = random.normal(size=(STATES, ACTIONS))
ADVANTAGE -= np.sum(softmax(LOGITS, axis=1) * ADVANTAGE, axis=1, keepdims=True)


def divergence_from(logits):
    """`sum_s weight KL(pi_old || pi)` of tabular softmax policies, as a function of one vector."""
    log_old = jax.nn.log_softmax(jnp.asarray(logits))

    def divergence(vector):
        log_new = jax.nn.log_softmax(vector.reshape(STATES, ACTIONS))
        return jnp.sum(jnp.asarray(WEIGHT)[:, None] * jnp.exp(log_old) * (log_old - log_new))

    return divergence


def dense_fisher(logits):
    """`sum_s weight E[score score']`."""
    F = np.zeros((STATES * ACTIONS, STATES * ACTIONS))
    for s in range(STATES):
        pi, block = softmax(logits[s]), slice(s * ACTIONS, (s + 1) * ACTIONS)
        scores = np.eye(ACTIONS) - pi[None]
        F[block, block] = WEIGHT[s] * np.einsum("a,ai,aj->ij", pi, scores, scores)
    return F


def gradient_of(logits):
    """Of `sum_s weight E_pi advantage`, the advantage held."""
    pi = softmax(logits, axis=1)
    mean = np.sum(pi * ADVANTAGE, axis=1, keepdims=True)
    return (WEIGHT[:, None] * pi * (ADVANTAGE - mean)).ravel()


def test_products_are_those_of_the_scores(x64):
    point = jnp.asarray(LOGITS.ravel())
    product = jax.vmap(lambda v: fisher_product(divergence_from(LOGITS), point, v))(jnp.eye(point.size))
    np.testing.assert_allclose(product, dense_fisher(LOGITS), atol=1e-15 if x64 else 1e-7)


def plain_gradient(divergence, g, point, **_):
    return NaturalDirection(g, g @ g, g @ g, 0.0 * g[0])


@against(natural_direction, plain_gradient=plain_gradient)
def test_closed_form_of_a_tabular_softmax(implementation, x64):
    """`F^+ g` is the advantage: a natural step adds a multiple of it to the logits, whatever the states' weights."""
    point = jnp.asarray(LOGITS.ravel())
    found = implementation(divergence_from(LOGITS), jnp.asarray(gradient_of(LOGITS)), point, damping=0.0, iterations=30)
    centered = ADVANTAGE - ADVANTAGE.mean(axis=1, keepdims=True)  # a softmax does not see what is common to a state
    np.testing.assert_allclose(found.direction.reshape(STATES, ACTIONS), centered, atol=1e-9 if x64 else 1e-4)
    assert float(found.residual) < 1e-5


def test_damped_solution(x64):
    point, g = jnp.asarray(LOGITS.ravel()), gradient_of(LOGITS)
    found = natural_direction(divergence_from(LOGITS), jnp.asarray(g), point, damping=0.1, iterations=30)
    F = dense_fisher(LOGITS)
    x = np.linalg.solve(F + 0.1 * np.eye(g.size), g)
    np.testing.assert_allclose(found.direction, x, atol=1e-8 if x64 else 1e-5)
    np.testing.assert_allclose([found.curvature, found.slope], [x @ F @ x, x @ g], atol=1e-8 if x64 else 1e-6)


@against(
    lambda divergence, g, point: natural_direction(divergence, g, point, damping=0.0, iterations=60),
    plain_gradient=plain_gradient,
    damped=lambda divergence, g, point: natural_direction(divergence, g, point, damping=0.1, iterations=60),
)
def test_invariant_to_a_linear_change_of_parameters(implementation, x64):
    """With parameters `theta = M phi` the step in theta is that of theta itself."""
    M = random.normal(size=(12, 12)) + 4.0 * np.eye(12)
    divergence, theta = divergence_from(LOGITS), LOGITS.ravel()
    g = gradient_of(LOGITS)
    step = step_of_divergence(implementation(divergence, jnp.asarray(g), jnp.asarray(theta)), 0.01)
    changed = step_of_divergence(
        implementation(
            lambda phi: divergence(jnp.asarray(M) @ phi), jnp.asarray(M.T @ g), jnp.asarray(np.linalg.solve(M, theta))
        ),
        0.01,
    )
    pi = lambda x: softmax((theta + np.asarray(x)).reshape(STATES, ACTIONS), axis=1)  # noqa: E731
    np.testing.assert_allclose(pi(M @ np.asarray(changed)), pi(step), atol=1e-7 if x64 else 1e-4)


def test_length_of_the_step_is_epsilon_to_second_order(x64):
    point, g = jnp.asarray(LOGITS.ravel()), jnp.asarray(gradient_of(LOGITS))
    found = natural_direction(divergence_from(LOGITS), g, point, damping=0.0, iterations=30)
    for epsilon in (1e-2, 1e-4, 1e-6) if x64 else (1e-2,):
        measured = float(divergence_from(LOGITS)(point + step_of_divergence(found, epsilon)))
        assert measured == pytest.approx(epsilon, rel=2.0 * epsilon**0.5)


@pytest.mark.parametrize(("curvature", "slope"), [(0.0, 1.0), (1.0, 0.0), (1.0, -1.0), (np.nan, 1.0)])
def test_no_step_where_there_is_no_direction(curvature, slope):
    direction = NaturalDirection(jnp.ones(2), jnp.float32(curvature), jnp.float32(slope), jnp.float32(0.0))
    assert np.all(np.asarray(step_of_divergence(direction, 0.01)) == 0.0)


@pytest.mark.parametrize(
    ("size", "fraction"),
    [(0.5, 1.0), (1.9, 0.5), (7.0, 0.125)],  # divergence x^2 within 1; the objective x - x^2 / 4 improves up to 4
)
def test_search_takes_the_longest_step_that_serves(size, fraction):
    found = trust_region_search(
        lambda x: x[0] - 0.25 * x[0] ** 2,
        lambda x: x[0] ** 2,
        jnp.zeros(1),
        jnp.full(1, size),
        epsilon=1.0,
        shrink=0.5,
        trials=10,
    )
    assert bool(found.accepted)
    assert float(found.fraction) == fraction
    assert float(found.point[0]) == pytest.approx(fraction * size)
    assert float(found.divergence) == pytest.approx((fraction * size) ** 2)
    assert int(found.trials) == 1 - np.log2(fraction)


@pytest.mark.parametrize("objective", [lambda x: -x[0], lambda x: x[0] * jnp.nan, lambda x: 0.0 * x[0]])
def test_search_stays_where_nothing_serves(objective):
    found = trust_region_search(
        objective, lambda x: x[0] ** 2, jnp.ones(1), jnp.ones(1), epsilon=9.0, shrink=0.5, trials=4
    )
    assert not bool(found.accepted)
    assert int(found.trials) == 4
    assert [float(found.point[0]), float(found.fraction), float(found.divergence)] == [1.0, 0.0, 0.0]


@against(
    noise_of_sum,
    of_the_mean=lambda g: jnp.linalg.norm(jnp.std(g, axis=0, ddof=1)) / g.shape[0] ** 0.5,
    population=lambda g: g.shape[0] ** 0.5 * jnp.linalg.norm(jnp.std(g, axis=0)),
)
def test_noise_is_the_standard_error_of_the_sum(implementation):
    """Against the spread of many sums of 5 gradients each."""
    sums = random.normal(size=(20_000, 5, 3)) * np.array([1.0, 2.0, 0.5])
    truth = np.linalg.norm(sums.sum(axis=1).std(axis=0))
    found = jax.vmap(lambda g: implementation(g) ** 2)(jnp.asarray(sums, jnp.float32))
    assert float(jnp.mean(found)) ** 0.5 == pytest.approx(truth, rel=0.02)
    assert np.isnan(float(noise_of_sum(jnp.ones((1, 3)))))
