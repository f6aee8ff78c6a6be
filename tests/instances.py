"""The oracle's instances as problems of the library, and solutions that several tests share."""

import functools

import numpy as np

from enumeration import Instance
from optimality import FiniteHorizon, PolicyEvaluation, TabularMDP, TabularPolicy, UnderPolicy, solve


@functools.cache
def problem(instance: Instance, form: str = "auto") -> TabularMDP:
    states, actions = instance.shape
    return TabularMDP.from_outcomes(
        list(instance.rows),
        criterion=FiniteHorizon(instance.horizon, instance.discount, instance.terminal),
        initial=instance.initial,
        states=states,
        actions=actions,
        allowed=instance.allowed,
        log_prior=instance.log_prior,
        form=form,
    )


@functools.cache
def solution(instance: Instance, method):
    return solve(problem(instance), method)


def evaluate(mdp, log_policy, **options):
    """What a table of log-probabilities is worth."""
    return solve(UnderPolicy(mdp, TabularPolicy(np.asarray(log_policy))), PolicyEvaluation(**options), throw=False)


def close(actual, expected, tolerance=1e-12):
    """Asserts agreement, absolute and relative; infinite entries must be the same."""
    np.testing.assert_allclose(np.asarray(actual), np.asarray(expected), rtol=tolerance, atol=tolerance)
