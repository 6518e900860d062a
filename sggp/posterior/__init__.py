"""The posterior and its samples."""

from sggp.posterior.conditioning import condition
from sggp.posterior.paths import PathwiseSamples
from sggp.posterior.posterior import Posterior

__all__ = ["PathwiseSamples", "Posterior", "condition"]
