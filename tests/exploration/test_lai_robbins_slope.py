"""How fast regret grows with the logarithm of time, against the least that Lai and Robbins allow."""

import numpy as np
import pytest

from clauses import against
from optimality.exploration.bandit_simulation import simulate_bandit
from optimality.exploration.greedy import EpsilonGreedy, Greedy
from optimality.exploration.thompson import Thompson
from optimality.exploration.ucb1 import UCB1
from optimality.problems.bandits import BernoulliArms, lai_robbins

ARMS = BernoulliArms([0.9, 0.8])
FROM, TO = 30_000, 100_000


def slope(policy, runs):
    """Mean of d regret / d log T between the two times, over the constant 2.2521."""
    trace = simulate_bandit(ARMS, {"a": policy}, horizon=TO, runs=runs, seed=0, times=np.array([FROM, TO]))["a"]
    growth = np.diff(trace.regret, axis=0)[0] / np.log(TO / FROM)
    return float(growth.mean() / lai_robbins(ARMS))


@pytest.mark.slow
@pytest.mark.row("S83.slope")
@against(
    lambda: slope(Thompson(), 2_000),
    ucb1=lambda: slope(UCB1(), 200),
    greedy=lambda: slope(Greedy(), 200),
    a_constant_share_at_random=lambda: slope(EpsilonGreedy(), 200),
)
def test_thompson_approaches_the_least_slope_from_below(implementation):
    """Three seeds of 1,000 runs gave 0.844, 0.795 and 0.798 of the constant, with standard errors of 0.03; before it is
    0.68 from 1,000 to 10,000 pulls and 0.75 from 10,000 to 30,000. Two thousand runs, 0.82, are known to 0.022."""
    assert 0.75 < implementation() < 1.0


@pytest.mark.row("S83.slope")
def test_ucb1_pays_a_multiple():
    """Three seeds of 1,000 runs gave 16.5 times the constant, with standard errors of 0.18; 200 runs are known to 0.4.
    Its bound allows 8 / gap = 80, that is 35 times."""
    assert 14.5 < slope(UCB1(), 200) < 18.5
