"""The dual of the information projection: its derivatives, its convexity, and what the notes' forms of it get wrong."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize

import projections
from clauses import against
from compilations import counted_compilations
from optimality.core import tilting
from optimality.core.information_projection import information_projection
from optimality.core.result import Result
from optimality.core.tilting import tilt
from projections import divergence, sample

N, K, EPSILON = 60, 3, 0.3
F, MOMENTS = sample(N, K)
POINTS = [(0.37, [0.2, -0.4, 0.1]), (1.0, [0.0, 0.0, 0.0]), (2.5, [-1.0, 0.5, 0.7])]


@pytest.fixture(autouse=True)
def float64():
    with jax.enable_x64(True):
        yield


def at(temperature, v, f=F, moments=MOMENTS):
    f, moments, v = jnp.asarray(f), jnp.asarray(moments), jnp.asarray(v)
    q = jnp.full(f.shape, 1.0 / f.size)
    beta = jnp.asarray(1.0 / temperature)
    return tilt(f, moments, q, beta, v * beta, jnp.zeros(()))


@jax.jit
def value(temperature, v, f, moments):
    return temperature * (EPSILON + at(temperature, v, f, moments).log_partition)


@jax.jit
def in_temperature(temperature, v, f, moments):
    return EPSILON - at(temperature, v, f, moments).kl


@jax.jit
def in_multipliers(temperature, v, f, moments):
    return at(temperature, v, f, moments).mean


reference = jax.jit(lambda t, v: projections.dual(t, v, F, MOMENTS, EPSILON))


def literal_in_temperature(temperature, v, f, moments):
    """Divides the largest error alone by eta."""
    delta = f + moments @ np.asarray(v)
    z = np.exp(delta - delta.max() / temperature)
    return EPSILON + np.log(np.mean(z)) + delta.max() / temperature - np.sum(z * delta) / (temperature * np.sum(z))


@pytest.mark.row("S26.derivative")
@pytest.mark.row("E0.18")
@against(
    in_temperature,
    largest_error_divided_alone=literal_in_temperature,
    no_bound=lambda *a: in_temperature(*a) - EPSILON,
    sign=lambda *a: -in_temperature(*a),
)
def test_derivative_in_the_temperature(implementation):
    for t, v in POINTS:
        np.testing.assert_allclose(
            implementation(t, np.array(v), F, MOMENTS), jax.grad(reference)(t, jnp.array(v)), atol=1e-13
        )


@pytest.mark.row("S26.identity")
@against(
    in_temperature, reverse=lambda t, v, f, m: EPSILON - divergence(np.full(N, 1 / N), np.asarray(at(t, v, f, m).p))
)
def test_the_derivative_is_what_is_left_of_the_bound(implementation):
    for t, v in POINTS:
        delta = (F + MOMENTS @ np.array(v)) / t
        p = np.exp(delta - delta.max())
        np.testing.assert_allclose(
            implementation(t, np.array(v), F, MOMENTS), EPSILON - divergence(p / p.sum()), atol=1e-13
        )


@pytest.mark.row("S27")
@pytest.mark.row("E0.19.gradient")
@against(in_multipliers, factor_eta=lambda t, *a: t * in_multipliers(t, *a), sign=lambda *a: -in_multipliers(*a))
def test_derivative_in_the_multipliers(implementation):
    for t, v in POINTS:
        expected = jax.grad(reference, argnums=1)(t, jnp.array(v))
        np.testing.assert_allclose(implementation(t, np.array(v), F, MOMENTS), expected, atol=1e-14)


@pytest.mark.row("E0.19.consequence")
@against(lambda t: 1.0, factor_eta=lambda t: t)
def test_where_a_quasi_newton_method_ends(implementation):
    """L-BFGS-B on small rewards: with the factor it reports success where the moments do not match (6e-3; 2e-7)."""
    f = 1e-3 * F

    def both(x):
        t, v = x[0], x[1:]
        g_t, g_v = in_temperature(t, v, f, MOMENTS), in_multipliers(t, v, f, MOMENTS)
        return float(value(t, v, f, MOMENTS)), np.r_[float(g_t), implementation(t) * np.asarray(g_v)]

    found = scipy.optimize.minimize(
        both, np.r_[1.0, np.ones(K)], jac=True, method="L-BFGS-B", bounds=[(1e-8, None)] + [(None, None)] * K,
        options={"ftol": 1e-15, "gtol": 1e-5, "maxiter": 5000},
    )  # fmt: skip
    residual = np.abs(in_multipliers(found.x[0], found.x[1:], f, MOMENTS)).max()
    assert residual < 1e-4


@pytest.mark.row("E0.24")
@pytest.mark.parametrize("held", [False, True])
def test_the_largest_error_may_be_held_constant(held):
    def shifted(t, v):
        delta = F + MOMENTS @ v
        top = jax.lax.stop_gradient(delta.max()) if held else delta.max()
        return t * EPSILON + top + t * jnp.log(jnp.mean(jnp.exp((delta - top) / t)))

    derivative = jax.jit(jax.grad(shifted, argnums=(0, 1)))
    for t, v in POINTS:
        got = derivative(t, jnp.array(v))
        np.testing.assert_allclose(got[0], in_temperature(t, jnp.array(v), F, MOMENTS), atol=1e-13)
        np.testing.assert_allclose(got[1], in_multipliers(t, jnp.array(v), F, MOMENTS), atol=1e-14)


def plain(t, v, f, moments):
    with np.errstate(over="ignore"):
        return t * (EPSILON + np.log(np.mean(np.exp((f + moments @ np.asarray(v)) / t))))


@pytest.mark.row("S24.identity")
@against(
    value,
    sum_for_mean=lambda t, *a: value(t, *a) + t * math.log(N),
    no_shift_back=lambda t, v, f, m: value(t, v, f - f.max(), m),
)
def test_value_is_the_plain_one(implementation):
    for t, v in POINTS:
        np.testing.assert_allclose(implementation(t, np.array(v), F, MOMENTS), plain(t, v, F, MOMENTS), rtol=1e-13)


@pytest.mark.row("S24.finite")
@against(value, plain=plain)
def test_value_where_the_plain_one_overflows(implementation):
    """At eta = 1e-3 within `eta log N` of the largest error."""
    v = np.array(POINTS[0][1])
    got = float(implementation(1e-3, v, F, MOMENTS))
    top = np.max(F + MOMENTS @ v) + 1e-3 * EPSILON
    assert top - 1e-3 * math.log(N) <= got <= top


def hessians(change):
    def function(x):
        return projections.dual(change(x[0]), x[1:], F, MOMENTS, EPSILON)

    random = np.random.default_rng(0)
    hessian = jax.jit(jax.hessian(function))
    for _ in range(100):
        x = np.r_[random.uniform(0.2, 3.0), random.normal(size=K)]
        yield np.linalg.eigvalsh(hessian(jnp.asarray(x))).min()


@pytest.mark.row("S25.joint")
@pytest.mark.row("E0.20")
@against(lambda x: x, logarithm=jnp.exp)
def test_convex_in_both_and_not_in_the_logarithm(implementation):
    assert min(hessians(implementation)) >= -1e-12


@pytest.mark.row("S25.value")
@against(1.0, concave=-1.0)
def test_convex_in_the_multipliers(implementation):
    """The derivative of the library's gradient: the covariance of the moments over eta."""
    jacobian = jax.jit(jax.jacfwd(lambda t, v: at(t, v).mean, argnums=1))
    for t, v in POINTS:
        hessian = implementation * np.asarray(jacobian(t, jnp.array(v)))
        p = np.asarray(at(t, v).p)
        np.testing.assert_allclose(hessian, np.cov(MOMENTS.T, aweights=p, bias=True) / t, atol=1e-13)
        assert np.linalg.eigvalsh(hessian).min() >= 0.0


@pytest.mark.row("S8.sign")
@pytest.mark.row("E0.3")
@against(
    lambda temperature: float(information_projection(F, MOMENTS, temperature=temperature).kl),
    no_logarithm=lambda temperature: (
        N * float(np.sum(np.exp(2 * information_projection(F, MOMENTS, temperature=temperature).log_p)))
    ),
    reverse=lambda temperature: divergence(
        np.full(N, 1 / N), np.exp(information_projection(F, MOMENTS, temperature=temperature).log_p)
    ),
)
def test_information_loss(implementation):
    """Never negative, zero at the data distribution alone; without the logarithm one there, `1 + chi^2`."""
    flat = np.exp(information_projection(np.zeros(N), temperature=1.0).log_p)
    assert divergence(flat) < 1e-14
    for t in (0.3, 1.0, 30.0):
        p = np.exp(information_projection(F, MOMENTS, temperature=t).log_p)
        assert divergence(p) > 0.0
        np.testing.assert_allclose(implementation(t), divergence(p), rtol=1e-8)


@pytest.mark.row("S8.active")
@pytest.mark.row("S18.bound")
@pytest.mark.row("S18.stationary")
@pytest.mark.row("S18.features")
@against(
    lambda epsilon: information_projection(F, MOMENTS, epsilon=epsilon),
    half=lambda epsilon: information_projection(F, MOMENTS, epsilon=epsilon / 2),
    no_moments=lambda epsilon: information_projection(F, np.zeros((N, K)), epsilon=epsilon),
)
def test_stationary_at_the_bound(implementation):
    for epsilon in (0.05, 0.3, 1.0):
        found = implementation(epsilon)
        p = np.exp(found.log_p)
        np.testing.assert_allclose(divergence(p), epsilon, rtol=1e-8)
        assert np.abs(p @ MOMENTS).max() < 1e-9
        function = jax.grad(lambda t, v, e=epsilon: projections.dual(t, v, F, MOMENTS, e), argnums=(0, 1))
        in_t, in_v = function(jnp.asarray(found.temperature), jnp.asarray(found.multipliers))
        assert abs(in_t) < 1e-8
        assert np.abs(in_v).max() < 1e-8


@pytest.mark.row("S10")
@against(
    lambda f, m, e: information_projection(f, m, epsilon=e).dual,
    without_bound=lambda f, m, e: (
        information_projection(f, m, epsilon=e).dual - information_projection(f, m, epsilon=e).temperature * e
    ),
    least=lambda f, m, e: -information_projection(-f, m, epsilon=e).dual,
)
def test_strong_duality(implementation):
    """Against SLSQP on the primal, twelve samples and two moments."""
    f, moments = sample(12, 2, seed=3)
    dual = float(implementation(f, moments, 0.2))
    constraints = [
        {"type": "eq", "fun": lambda p: np.r_[p.sum() - 1, p @ moments]},
        {"type": "ineq", "fun": lambda p: 0.2 - np.sum(p * np.log(np.maximum(p, 1e-12) * 12))},
    ]
    primal = scipy.optimize.minimize(
        lambda p: -p @ f, np.full(12, 1 / 12), method="SLSQP", bounds=[(1e-10, 1)] * 12, constraints=constraints,
        options={"ftol": 1e-13, "maxiter": 500},
    )  # fmt: skip
    assert primal.success
    np.testing.assert_allclose(dual, -primal.fun, atol=1e-7)
    found = information_projection(f, moments, epsilon=0.2)
    np.testing.assert_allclose(found.dual, found.value, atol=1e-10)


def ratios(delta, temperature, log_base):
    """Weights over the base, as the library has them."""
    return np.exp(information_projection(delta, log_base=log_base, temperature=temperature).log_p - log_base)


@pytest.mark.row("S12.proportional")
@against(
    ratios, no_temperature=lambda d, t, b: ratios(d, 1.0, b), base_twice=lambda d, t, b: ratios(d, t, b) * np.exp(b)
)
def test_weights_are_proportional_to_the_ratio(implementation):
    random = np.random.default_rng(0)
    q, delta = random.dirichlet(np.ones(8)), random.normal(size=8)
    ratio = implementation(delta, 0.4, np.log(q)) / np.exp(delta / 0.4)
    np.testing.assert_allclose(ratio / ratio[0], 1.0, rtol=1e-12)


@pytest.mark.row("S12.shift")
@against(ratios, not_normalized=lambda d, t, b: np.exp(d / t))
def test_weights_do_not_change_with_a_shift(implementation):
    b = np.full(N, -math.log(N))
    np.testing.assert_allclose(implementation(F + 5.0, 0.4, b), implementation(F, 0.4, b), rtol=1e-12)


@pytest.mark.row("S12.sample_size")
@against(
    lambda p: p.effective_sample_size,
    perplexity=lambda p: math.exp(-np.sum(np.exp(p.log_p) * p.log_p)),
    number=lambda p: N,
)
def test_effective_sample_size(implementation):
    found = information_projection(F, MOMENTS, epsilon=EPSILON)
    np.testing.assert_allclose(implementation(found), 1 / np.sum(np.exp(found.log_p) ** 2), rtol=1e-12)


@pytest.mark.parametrize("slack", [0.0, 1e-2])
def test_implicit_derivatives(slack):
    """Of a random function of everything, in each argument, against central differences; with slack in the bound
    alone, because the units in which it is measured count as constants."""
    random = np.random.default_rng(8)
    arguments = (F, MOMENTS, 0.02 * np.ones(K), 0.1 * random.normal(size=N), np.asarray(EPSILON))
    weights = random.normal(size=N)

    @jax.jit
    def function(f, moments, target, log_base, epsilon):
        found = information_projection(f, moments, target, log_base=log_base, epsilon=epsilon, slack=slack)
        return jnp.sum(weights * found.log_p) / N + found.temperature + jnp.sum(found.multipliers) + found.value

    gradient = jax.jit(jax.grad(function, argnums=tuple(range(5))))(*map(jnp.asarray, arguments))
    for i in range(4 if slack else 0, 5):
        direction = random.normal(size=np.shape(arguments[i]))
        ends = []
        for sign in (1, -1):
            moved = list(arguments)
            moved[i] = moved[i] + sign * 1e-5 * direction
            ends.append(float(function(*map(jnp.asarray, moved))))
        np.testing.assert_allclose(np.sum(gradient[i] * direction), (ends[0] - ends[1]) / 2e-5, rtol=1e-6, atol=1e-8)


def test_float32():
    """Traced it is solved in float64 all the same; a derivative is refused."""
    exact = information_projection(F, MOMENTS, epsilon=EPSILON)
    with jax.enable_x64(False):
        single = jax.jit(lambda f, c: information_projection(f, c, epsilon=EPSILON, slack=0.0))
        rounded = single(F.astype(np.float32), MOMENTS.astype(np.float32))
        assert rounded.log_p.dtype == jnp.float32
        np.testing.assert_allclose(rounded.log_p, exact.log_p, atol=1e-4)
        np.testing.assert_allclose(rounded.temperature, exact.temperature, rtol=1e-4)
        np.testing.assert_allclose(rounded.multipliers, exact.multipliers, atol=1e-4)
        with pytest.raises(TypeError, match="float64 only"):
            jax.grad(lambda f: information_projection(f, epsilon=EPSILON).value)(jnp.asarray(F, jnp.float32))


def test_one_infeasible_element_of_a_batch():
    batch = jnp.stack([jnp.asarray(MOMENTS), jnp.abs(MOMENTS) + 0.1])
    both = jax.jit(jax.vmap(lambda c: information_projection(jnp.asarray(F), c, epsilon=EPSILON)))(batch)
    alone = information_projection(F, MOMENTS, epsilon=EPSILON)
    assert [Result.of(code) for code in both.result] == [Result.CONVERGED, Result.INFEASIBLE]
    np.testing.assert_allclose(np.exp(both.log_p[0]), np.exp(alone.log_p), atol=2e-15)
    assert np.all(np.isfinite(both.log_p[1]))


def test_numbers_change_and_nothing_recompiles():
    information_projection(F, MOMENTS, epsilon=EPSILON)
    with counted_compilations() as compiled:
        information_projection(2 * F, 3 * MOMENTS, np.ones(K) * 0.01, log_base=F, epsilon=0.5, slack=1e-4)
    assert compiled.count == 0


SHAPES = (64, 512, 2048)


@functools.cache
def solver_of_padded():
    return jax.jit(
        jax.vmap(lambda f, c, log_base, epsilon: information_projection(f, c, log_base=log_base, epsilon=epsilon))
    )


def solved_at_random(seeds, rows, features=20):
    """Problems of at most `rows` samples in one batch: what was solved, and the problems."""
    problems = [projections.padded(projections.random_problem(seed), rows, features) for seed in seeds]
    return solver_of_padded()(*(jnp.asarray(np.stack(column)) for column in zip(*problems, strict=True))), problems


def check_certificates(found, problems):
    """Of each that says it converged, from its weights alone; the others keep the bound where they claim to."""
    kinds = []
    for i, (_, moments, log_base, epsilon) in enumerate(problems):
        result = Result.of(found.result[i])
        kinds.append(result)
        p, q = np.exp(found.log_p[i]), np.exp(log_base)
        q = q / q.sum()
        np.testing.assert_allclose(p.sum(), 1.0, rtol=1e-12)
        if result in (Result.CONVERGED, Result.COLLAPSED, Result.INFEASIBLE, Result.BELOW_MINIMAL_KL):
            assert divergence(p, q) <= epsilon * (1 + 1e-8)
        if result is Result.CONVERGED:
            assert found.gradient_norm[i] <= 1e-8
            np.testing.assert_allclose(divergence(p, q), epsilon, rtol=1e-8)
            size = np.sqrt(q @ moments**2)
            assert np.all(np.abs(p @ moments) <= 1e-8 * np.where(size > 0.0, size, 1.0))
    return kinds


def seeds_of_at_most(rows, seeds, above=0):
    return [seed for seed in seeds if above < len(projections.random_problem(seed)[0]) <= rows]


@pytest.mark.row("S18.stationary")
def test_random_problems():
    """A hundred and more of up to 64 samples and 20 moments, in one batch."""
    seeds = seeds_of_at_most(64, range(300))[:120]
    kinds = check_certificates(*solved_at_random(seeds, 64))
    assert kinds.count(Result.CONVERGED) >= 40
    assert {Result.INFEASIBLE, Result.BELOW_MINIMAL_KL, Result.CONSTRAINT_INACTIVE, Result.COLLAPSED} <= set(kinds)


@pytest.mark.slow
def test_a_thousand_random_problems():
    kinds = []
    for above, rows in zip((0, *SHAPES), SHAPES, strict=False):
        seeds = seeds_of_at_most(rows, range(1000), above)
        for start in range(0, len(seeds), 50):
            kinds += check_certificates(*solved_at_random(seeds[start : start + 50], rows))
    assert len(kinds) == 1000
    assert kinds.count(Result.CONVERGED) >= 500
    assert kinds.count(Result.ITERATION_LIMIT) <= 10


@pytest.mark.slow
def test_many_samples_with_many_moments():
    """1e5 samples of 300 random Fourier features along one trajectory: the largest that a batch of REPS has."""
    random = np.random.default_rng(0)
    samples, size = 100_000, 300
    states = random.normal(size=(samples + 1, 3))
    for t in range(samples):
        states[t + 1] = 0.95 * states[t] + 0.3 * states[t + 1]
    phi = np.sin(states @ random.normal(size=(3, size)) + random.uniform(-np.pi, np.pi, size=size))
    f, moments = -np.sum(states[:-1] ** 2, axis=1), phi[1:] - phi[:-1]
    found = information_projection(f, moments, epsilon=0.5)
    p = np.exp(found.log_p)
    assert found.result is Result.CONVERGED
    np.testing.assert_allclose(divergence(p), 0.5, rtol=1e-8)
    assert np.all(projections.moment_errors(found, moments) <= 1e-8)
    assert found.value > f.mean()


BASE = 0.5 * np.random.default_rng(6).normal(size=N)


def test_order_of_the_samples():
    plain = information_projection(F, MOMENTS, log_base=BASE, epsilon=EPSILON)
    order = np.random.default_rng(7).permutation(N)
    moved = information_projection(F[order], MOMENTS[order], log_base=BASE[order], epsilon=EPSILON)
    np.testing.assert_allclose(moved.log_p, plain.log_p[order], atol=1e-11)
    np.testing.assert_allclose(moved.multipliers, plain.multipliers, rtol=1e-9)
    np.testing.assert_allclose(moved.temperature, plain.temperature, rtol=1e-11)


def test_duplicates_and_samples_without_weight():
    """Each sample twice at half its weight changes nothing, nor do others at weight zero, however wild."""
    count = N // 3
    f, moments = sample(count, K, seed=5)
    base = BASE[:count]
    none, half = np.full(count, -np.inf), base - math.log(2.0)
    wild_f, wild = np.full(count, np.nan), np.where(np.arange(count)[:, None] > 3, 1e300, -np.inf) * np.ones(K)

    def solved(others_f, others, log_base):
        return information_projection(
            np.r_[f, others_f, f], np.r_[moments, others, moments], log_base=log_base, epsilon=EPSILON
        )

    plain = solved(0 * f, 0 * moments, np.r_[base, none, none])
    p, q = np.exp(plain.log_p[:count]), np.exp(base) / np.exp(base).sum()
    assert plain.result is Result.CONVERGED
    np.testing.assert_allclose(divergence(p, q), EPSILON, rtol=1e-8)
    assert np.abs(p @ moments).max() < 1e-8
    tilt_of_f = np.log(p / q) - (f + moments @ plain.multipliers) / plain.temperature
    np.testing.assert_allclose(tilt_of_f, tilt_of_f[0], atol=1e-10)
    for log_base, share in ((np.r_[base, none, none], 0.0), (np.r_[half, none, half], math.log(0.5))):
        found = solved(wild_f, wild, log_base)
        np.testing.assert_allclose(found.log_p[:count], plain.log_p[:count] + share, atol=1e-11)
        np.testing.assert_allclose(found.log_p[count : 2 * count], none)
        np.testing.assert_allclose(found.log_p[2 * count :], plain.log_p[:count] + share if share else none, atol=1e-11)
        np.testing.assert_allclose([found.kl, found.kl_min], [plain.kl, plain.kl_min], rtol=1e-10)
        np.testing.assert_allclose([found.value, found.temperature], [plain.value, plain.temperature], rtol=1e-10)
        np.testing.assert_allclose(found.multipliers, plain.multipliers, rtol=1e-9)


def test_units_of_everything():
    """`f -> c f + b` and `C -> C A + d` with its target: the weights stay, the temperature follows c, and the
    multipliers c and the inverse of A."""
    plain = information_projection(F, MOMENTS, log_base=BASE, epsilon=EPSILON)
    mixing, shift = np.array([[1e3, 0.0, 0.2], [0.0, 1e-3, 0.0], [5.0, 1e-3, 1.0]]), np.array([30.0, 0.01, -2.0])
    for scale, offset in ((1e-5, 0.0), (2e4, 7.0)):
        found = information_projection(
            scale * F + offset, MOMENTS @ mixing + shift, shift, log_base=BASE + 3.0, epsilon=EPSILON
        )
        np.testing.assert_allclose(found.log_p, plain.log_p, atol=1e-10)
        np.testing.assert_allclose(found.temperature, scale * plain.temperature, rtol=1e-10)
        np.testing.assert_allclose(mixing @ found.multipliers, scale * plain.multipliers, rtol=1e-8)
        np.testing.assert_allclose(found.residual, 0.0, atol=1e-8 * np.abs(mixing).max())
        np.testing.assert_allclose(found.value, scale * plain.value + offset, rtol=1e-10)


def test_newton_equations_without_a_covariance():
    """By conjugate gradients, as above `LARGEST_DIRECT` moments."""
    now = at(0.37, POINTS[0][1])
    right = jnp.stack([now.mean, now.with_f], axis=1)
    direct, iterated = (tilting._solve(jnp.asarray(MOMENTS), now, jnp.asarray(1e-3), right, x) for x in (True, False))
    covariance = np.cov(MOMENTS.T, aweights=np.asarray(now.p), bias=True) + 1e-3 * np.eye(K)
    np.testing.assert_allclose(direct, np.linalg.solve(covariance, right), rtol=1e-10)
    np.testing.assert_allclose(iterated, direct, rtol=1e-3)


@functools.partial(jax.jit, static_argnames="bounded")
def traced(f, moments, log_base, bounded=True):
    return information_projection(f, moments, log_base=log_base, epsilon=EPSILON)


@pytest.mark.parametrize("bad", [np.nan, -np.inf, np.inf])
def test_values_that_are_not_finite(bad):
    """Refused by name; inside a program the base, and no NaN."""
    f = np.where(np.arange(N) == 4, bad, F)
    with pytest.raises(ValueError, match="first in sample 4"):
        information_projection(f, MOMENTS, epsilon=EPSILON)
    found = traced(jnp.asarray(f), jnp.asarray(MOMENTS), jnp.zeros(N))
    assert found.result == Result.NON_FINITE
    np.testing.assert_allclose(np.exp(found.log_p), 1 / N, rtol=1e-14)
    left_out = np.where(np.arange(N) == 4, -np.inf, 0.0)
    assert information_projection(f, MOMENTS, log_base=left_out, epsilon=EPSILON).result is Result.CONVERGED


@pytest.mark.parametrize(
    ("arguments", "settings", "message"),
    [
        ((F,), {}, "either epsilon"),
        ((F,), {"epsilon": 1.0, "temperature": 1.0}, "either epsilon"),
        ((F[:0],), {"epsilon": 1.0}, "one number a sample"),
        ((MOMENTS,), {"epsilon": 1.0}, "one number a sample"),
        ((F, MOMENTS[:5]), {"epsilon": 1.0}, "samples of f"),
        ((F, MOMENTS, np.zeros(K + 1)), {"epsilon": 1.0}, "target must have shape"),
        ((F, MOMENTS), {"epsilon": 1.0, "log_base": np.zeros(3)}, "log_base must have shape"),
        ((F,), {"epsilon": 1.0, "log_base": np.full(N, -np.inf)}, "log_base must be finite"),
        ((F,), {"epsilon": 1.0, "log_base": np.full(N, np.nan)}, "log_base must be finite"),
        ((F, MOMENTS, np.full(K, np.nan)), {"epsilon": 1.0}, "target must be finite"),
        ((F, np.full((N, K), np.nan)), {"epsilon": 1.0}, "moments is not finite"),
        ((F,), {"epsilon": 0.0}, "epsilon must be positive"),
        ((F,), {"epsilon": np.inf}, "epsilon must be positive"),
        ((F,), {"temperature": -1.0}, "temperature must be positive"),
        ((F,), {"epsilon": 1.0, "slack": -1.0}, "slack must be"),
    ],
)
def test_arguments(arguments, settings, message):
    with pytest.raises(ValueError, match=message):
        information_projection(*arguments, **settings)
