"""Controllability by four routes, Gramians, and what an infinite horizon refuses."""

import warnings

import numpy as np
import pytest
import scipy.linalg

from clauses import against
from instances import close
from optimality.problems.controllability import (
    IllConditionedWarning,
    controllability,
    controllability_gramian,
    observability,
    reachability_matrix,
    require_detectable,
    require_stabilizable,
)


def constructed(n, reached, controls, seed):
    """A pair in which `reached` of `n` dimensions can be reached, mixed by a random orthogonal matrix.

    Modes of both parts are spread over circles of radius 0.95 and 1.05, all different.
    """
    random = np.random.default_rng(seed)
    ring = np.roll(np.eye(reached), 1, axis=0) * 0.95
    a, b = np.zeros((n, n)), np.zeros((n, controls))
    a[:reached, :reached] = ring
    a[:reached, reached:] = random.normal(size=(reached, n - reached)) / np.sqrt(n)
    a[reached:, reached:] = np.roll(np.eye(n - reached), 1, axis=0) * 1.05
    b[:reached] = random.normal(size=(reached, controls)) / np.sqrt(n)
    b[0, 0] += 2.0
    mix = scipy.linalg.qr(random.normal(size=(n, n)))[0]
    return mix @ a @ mix.T, mix @ b


def rank_of_report(A, B):
    return controllability(A, B).rank


def rank_by_counting_modes(A, B):
    return sum(mode.controllable for mode in controllability(A, B).modes)


def rank_by_singular_values(matrix):
    values = np.linalg.svd(matrix, compute_uv=False)
    return int((values > 1e-10 * values[0]).sum())


def rank_of_input(A, B):
    return int(np.linalg.matrix_rank(B))


def all_states(A, B):
    return len(A)


SIZES = [(2, 1, 1), (4, 4, 1), (5, 3, 2), (12, 7, 4), (50, 50, 5), (50, 31, 3)]


@against(rank_of_report, input_only=rank_of_input, everything=all_states)
def test_rank_is_that_of_the_matrix_the_modes_and_the_gramian(implementation):
    for seed, (n, reached, controls) in enumerate(SIZES):
        A, B = constructed(n, reached, controls, seed)
        krylov = np.concatenate([np.linalg.matrix_power(A, k) @ B for k in range(n)], axis=1)
        assert rank_by_singular_values(krylov) == reached
        assert rank_by_counting_modes(A, B) == reached
        assert rank_by_singular_values(controllability_gramian(A, B, steps=n)) == reached
        assert implementation(A, B) == reached


def test_repeated_modes_are_counted_by_dimension_not_by_eigenvalue():
    """Two equal modes on one actuator: it reaches one direction, though by the eigenvalue neither can be moved."""
    report = controllability(2.0 * np.eye(2), [[1.0], [1.0]])
    assert report.rank == 1
    assert not report.controllable
    assert not report.stabilizable
    chain = controllability([[1.0, 1.0], [0.0, 1.0]], [[0.0], [1.0]])
    assert chain.rank == 2
    assert chain.controllable


def random_in_time(steps=7, n=3, m=2):
    random = np.random.default_rng(3)
    return random.normal(size=(steps, n, n)), random.normal(size=(steps, n, m))


def earlier_transition(A, B):
    """The sum with `Phi(T, t)` in place of `Phi(T, t+1)`."""
    R = reachability_matrix(A, np.einsum("tij,tjk->tik", A, B))
    return R @ R.T


def in_reverse(A, B):
    return controllability_gramian(A[::-1], B[::-1])


@against(controllability_gramian, earlier_transition=earlier_transition, in_reverse=in_reverse)
def test_gramian_in_time_is_what_controls_reach(implementation):
    """R by stepping the system with unit controls; then `W = R R'`, and the least energy that reaches x is x'W^-1 x."""
    A, B = random_in_time()
    steps, n, m = B.shape
    columns = []
    for unit in np.eye(steps * m):
        x, controls = np.zeros(n), unit.reshape(steps, m)
        for a, b, u in zip(A, B, controls, strict=True):
            x = a @ x + b @ u
        columns.append(x)
    R = np.stack(columns, axis=1)
    close(reachability_matrix(A, B), R)
    W = implementation(A, B)
    close(W, R @ R.T, 1e-12 * np.abs(R @ R.T).max())
    target = np.array([1.0, -2.0, 0.5])
    controls = np.linalg.lstsq(R, target, rcond=None)[0]  # of all that reach it, the shortest
    close(R @ controls, target)
    close(controls @ controls, target @ np.linalg.solve(W, target))


@against(controllability_gramian, transposed=lambda A, B: controllability_gramian(np.asarray(A).T, B))
def test_infinite_gramian_is_the_limit(implementation):
    A, B = np.array([[0.9, 0.4], [0.0, 0.7]]), np.array([[0.0], [1.0]])
    close(implementation(A, B), controllability_gramian(A, B, steps=600), 1e-11)
    with pytest.raises(ValueError, match=r"mode of size 1\.1, and all must be below 1\. Give a number of steps"):
        controllability_gramian(1.1 * np.eye(2), B)


def sensors_as_controls(A, C):
    return controllability(A, np.asarray(C).T).rank


@against(lambda A, C: observability(A, C).rank, not_transposed=sensors_as_controls)
def test_observability_is_the_dual(implementation):
    A, C = np.array([[1.2, 0.0], [1.0, 0.5]]), np.array([[1.0, 0.0]])  # the second state is not seen
    observed = np.concatenate([C, C @ A])
    assert np.linalg.matrix_rank(observed) == implementation(A, C) == 1
    report = observability(A, C)
    assert report.detectable
    assert not report.observable
    assert "mode 0.5 cannot be seen, and decays without" in report.message
    assert not observability(A, [[0.0, 0.0]]).detectable


BOTH = np.diag([1.5, 0.5])


def controllable_demanded(A, B, discount=1.0):
    """The stronger demand that texts make (E3.3)."""
    if not controllability(A, B).controllable:
        raise AssertionError("not controllable")


def strict_inside(A, B, discount=1.0):
    """Forgets modes on the boundary."""
    report = controllability(A, B)
    if any(not mode.controllable and abs(mode.eigenvalue) > 1.0 for mode in report.modes):
        require_stabilizable(A, B, discount)


def discount_forgotten(A, B, discount=1.0):
    try:
        require_stabilizable(A, B)
    except ValueError as error:
        raise AssertionError(str(error)) if discount < 1.0 else error from None


@against(
    require_stabilizable,
    controllable_demanded=controllable_demanded,
    strict_inside=strict_inside,
    discount_forgotten=discount_forgotten,
)
def test_what_an_infinite_horizon_demands(implementation):
    implementation(BOTH, [[1.0], [0.0]])  # an uncontrollable mode that decays is fine
    implementation(BOTH, [[0.0], [1.0]], 0.44)  # and one that grows more slowly than the discount forgets
    for A, B in ((BOTH, [[0.0], [1.0]]), (np.diag([1.0, 0.5]), [[0.0], [1.0]]), (-np.eye(1), [[0.0]])):
        try:
            implementation(np.asarray(A), B)
        except ValueError:
            continue
        raise AssertionError(f"accepted {A}")


def test_the_message_names_mode_margin_and_ways_out():
    mix = np.array([[1.0, 2.0], [-1.0, 1.0]])
    A, B = mix @ BOTH @ np.linalg.inv(mix), mix @ [[0.0], [1.0]]
    with pytest.raises(
        ValueError, match=r"\(A, B\) is not stabilizable: mode 1.5 \(\|lambda\| >= 1\) has PBH margin"
    ) as e:
        require_stabilizable(A, B)
    for words in ("no feedback can move it", "finite horizon", "discount < 1/|lambda|^2 = 0.444", "another actuator"):
        assert words in str(e.value)
    report = controllability(A, B)
    assert str(e.value) == report.message
    assert report.modes[0].pbh_margin < 1e-15
    assert not report.stabilizable
    with pytest.raises(ValueError, match=r"\|lambda\| >= 1.054 = 1 / sqrt\(discount\)\)"):
        require_stabilizable(A, B, discount=0.9)
    assert controllability(A, B, discount=0.4).stabilizable
    spiral = [[1.0, -1.0, 0.0], [1.0, 1.0, 0.0], [0.0, 0.0, 0.3]]
    with pytest.raises(ValueError, match=r"mode 1\+1i .* \(the largest of 2 such modes\)"):
        require_stabilizable(spiral, [[0.0], [0.0], [1.0]])
    assert "is controllable: the smallest PBH margin is" in controllability(BOTH, [[1.0], [1.0]]).message
    assert "not controllable but stabilizable" in controllability(BOTH, [[1.0], [0.0]]).message


@against(require_stabilizable, silent=lambda A, B: None)
def test_a_nearly_uncontrollable_mode_warns(implementation):
    """SciPy and slycot return gains 1,000 times apart here."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        implementation([[1.5]], [[1e-9]])
    assert [warning.category for warning in caught] == [IllConditionedWarning]
    assert "mode 1.5 has PBH margin 7e-10, below 1e-06" in str(caught[0].message)
    require_stabilizable([[0.5]], [[1e-9]])  # decays by itself: no reason to warn
    require_stabilizable([[1.5]], [[1e-5]])


@against(require_detectable, root_of_the_cost=lambda A, Q: require_detectable(A, np.sqrt(np.abs(Q))))
def test_an_unseen_mode_that_grows_is_refused(implementation):
    with pytest.raises(ValueError, match=r"\(A, Q\) is not detectable: mode 1.5 .* costs nothing .* a cost on it in Q"):
        require_detectable(BOTH, np.zeros((2, 2)))
    require_detectable(BOTH, np.diag([1.0, 0.0]))
    require_detectable(BOTH, np.zeros((2, 2)), 0.4)
    rounding = np.diag([1e-16, 1.0])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            implementation(BOTH, rounding)
        except ValueError:
            return
    raise AssertionError("rounding was taken for a cost")


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: controllability(np.zeros((2, 3)), np.zeros((2, 1))), r"A has shape \(2, 3\), but needs \[n, n\]"),
        (lambda: controllability(np.zeros((5, 2, 2)), np.zeros((2, 1))), "changes in time use controllability_gramian"),
        (lambda: controllability(np.eye(2), np.zeros((3, 1))), r"B has shape \(3, 1\), but needs \[2, m\]"),
        (lambda: observability(np.eye(2), np.zeros((1, 3))), r"C has shape \(1, 3\), but needs \[p, 2\]"),
        (lambda: controllability([[np.nan]], [[1.0]]), "A has entries that are not finite"),
        (lambda: require_stabilizable([[1.0]], [[1.0]], 1.2), r"discount must be in \(0, 1\], but 1.2"),
        (lambda: controllability_gramian(np.zeros((3, 2, 2)), np.zeros((4, 2, 1))), "do not fit"),
        (lambda: reachability_matrix(np.eye(2), np.ones((2, 1)), steps=0), "do not fit"),
    ],
)
def test_what_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_gramian_condition():
    assert controllability(BOTH, [[1.0], [0.0]]).gramian_condition == np.inf
    W = controllability_gramian(BOTH, [[1.0], [1.0]], steps=2)
    assert controllability(BOTH, [[1.0], [1.0]]).gramian_condition == pytest.approx(np.linalg.cond(W), rel=1e-10)
