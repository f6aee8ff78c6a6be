"""What sampled demonstrations leave open: the rate, the likelihood's advantage, the posterior's coverage."""

import numpy as np
import pytest
import scipy.stats

from clauses import against
from demonstrated_episodes import linear_expert, sample_episodes
from optimality import LinearReward, MaxEntIRL, SolverError, infer_reward

H = 20


def fits(objective, number, datasets):
    mdp, features, weights, policy = linear_expert()
    method = MaxEntIRL(objective=objective, l2=0.0)
    for seed in range(datasets):
        episodes = sample_episodes(mdp, policy.probabilities, number, H, seed)
        found = infer_reward(mdp, episodes, method, reward=LinearReward(features))
        yield found.reward.weights - weights, found.details.covariance


def median_error(objective, number):
    return np.median([np.linalg.norm(error) for error, _ in fits(objective, number, 30)])


def test_error_falls_as_the_root_and_faster_by_likelihood():
    """Measured: slopes -.53 and -.56; the likelihood's errors are .115, .073 and .026, matching's 1.2 to 1.7 times."""
    numbers = [30, 120, 480]
    likelihood = [median_error("likelihood", number) for number in numbers]
    matching = [median_error("matching", number) for number in numbers]
    for errors in (likelihood, matching):
        slope = np.polyfit(np.log(numbers), np.log(errors), 1)[0]
        assert -0.7 < slope < -0.4
    assert all(ours < theirs for ours, theirs in zip(likelihood, matching, strict=True))


@against(
    lambda covariance: covariance,
    per_episode=lambda covariance: 50 * covariance,
    half=lambda covariance: 0.5 * covariance,
)
def test_posterior_covers_the_true_weights(implementation):
    """In 200 datasets of 50 episodes, .955 of them; a binomial share of .95 leaves [.9, .99] once in 500 times."""
    within = [
        error @ np.linalg.solve(implementation(covariance), error) < scipy.stats.chi2.ppf(0.95, 3)
        for error, covariance in fits("likelihood", 50, 200)
    ]
    assert 0.9 <= np.mean(within) <= 0.99


def test_feature_matching_has_no_laplace_posterior():
    _, covariance = next(fits("matching", 50, 1))
    assert covariance is None


def test_luck_that_no_policy_has():
    """Three episodes whose features lie outside of what policies reach: the likelihood has an answer, matching none
    without a penalty."""
    mdp, features, _, policy = linear_expert()
    family = LinearReward(features)
    lucky = [sample_episodes(mdp, policy.probabilities, 3, H, seed) for seed in range(8)]
    for episodes in lucky:
        assert np.isfinite(infer_reward(mdp, episodes, MaxEntIRL(l2=0.0), reward=family).reward.weights).all()
        assert infer_reward(mdp, episodes, MaxEntIRL(objective="matching"), reward=family).result.is_success
    method = MaxEntIRL(objective="matching", l2=0.0, max_steps=100)
    ends = [infer_reward(mdp, episodes, method, reward=family, throw=False).result.is_success for episodes in lucky]
    assert False in ends
    with pytest.raises(SolverError, match="that no policy has"):
        infer_reward(mdp, lucky[ends.index(False)], method, reward=family)
