"""To play a game again, or to stop and earn at a known rate: the problem.

    reward given beta ~ Gamma(alpha, beta),    beta ~ Gamma(epsilon, omega)       `rewards`
    time given lambda ~ Exp(lambda),           lambda ~ Gamma(theta, eta)         `times`

Not playing earns `rate` per unit time. A game pays its reward, takes its time, and teaches about both. Stopping is
final, which loses nothing: no information comes while nothing is played.
"""

import equinox as eqx
import numpy as np

from optimality.beliefs import GammaExponential, GammaKnownShape
from optimality.core.numerics import Real, is_traced, require_range
from optimality.problems.criterion import Discounted, FiniteHorizon


class Deadline(eqx.Module):
    """Games are played until a time is over; one that is not finished by then pays nothing."""

    duration: Real

    def __check_init__(self):
        require_range(self, 0.0, above=True, duration=self.duration)


PlayCriterion = FiniteHorizon | Discounted | Deadline


class PlayOrNot(eqx.Module):
    """A game of unknown reward and unknown duration against an opportunity of known rate.

    The criterion is a number of games, `FiniteHorizon(games)` (its discount the chance that there is a next game);
    a chance of another game after each, `Discounted(chance)`; or a time, `Deadline(duration)`. The first two count
    `sum (reward - rate time)` over the games that are played, the last the rewards of games that end in time plus
    `rate` times the time left when one stops.
    """

    rewards: GammaKnownShape
    """The current belief about rewards."""
    times: GammaExponential
    """The current belief about times."""
    rate: Real
    """What not playing earns per unit time, above 0."""
    criterion: PlayCriterion

    name = "play-or-not"

    def __check_init__(self):
        require_range(self, 0.0, above=True, rate=self.rate)
        if np.shape(self.rewards.shape) != () or np.shape(self.times.shape) != ():
            raise ValueError(
                f"play or not takes one belief about rewards and one about times, but shapes "
                f"{np.shape(self.rewards.shape)} and {np.shape(self.times.shape)} were given: map over them with "
                f"jax.vmap."
            )
        if not isinstance(self.criterion, FiniteHorizon | Discounted | Deadline):
            raise ValueError(
                f"the criterion of play or not is FiniteHorizon(games), Discounted(chance of another game) or "
                f"Deadline(duration), but {self.criterion} was given."
            )
        if isinstance(self.criterion, FiniteHorizon):
            terminal = self.criterion.terminal_reward
            if is_traced(terminal) or np.any(np.asarray(terminal) != 0.0):
                raise ValueError(
                    "play or not has no terminal reward: the opportunity's rate is already counted for all time."
                )
