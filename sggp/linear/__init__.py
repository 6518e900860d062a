"""Bayesian linear models by samples, on any features, and the linearised Laplace approximation of a network.

`BayesianLinearModel` needs products with rows of Φ and of its transpose (`Features`); `BlockFeatures` offers them for
numbers, `JacobianFeatures` for a network.
"""

from sggp.linear.expectation import Step
from sggp.linear.features import BlockFeatures, Features
from sggp.linear.jacobian import JacobianFeatures
from sggp.linear.laplace import LaplacePosterior, LinearisedLaplace
from sggp.linear.model import BayesianLinearModel
from sggp.linear.operator import NormalEquation
from sggp.linear.posterior import LinearPosterior

__all__ = [
    "BayesianLinearModel",
    "BlockFeatures",
    "Features",
    "JacobianFeatures",
    "LaplacePosterior",
    "LinearPosterior",
    "LinearisedLaplace",
    "NormalEquation",
    "Step",
]
