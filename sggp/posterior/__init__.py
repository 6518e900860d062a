"""The posterior and its samples."""

from sggp.posterior.conditioning import condition
from sggp.posterior.paths import PathwiseSamples
from sggp.posterior.posterior import Posterior
from sggp.posterior.together import Solving, condition_together

__all__ = ["PathwiseSamples", "Posterior", "Solving", "condition", "condition_together"]
