"""Marginal likelihoods and the hyperparameters that maximise them.

`learn_hyperparameters` chooses between the exact likelihood (small n) and the stochastic nearest-neighbour
likelihood.
"""

from sggp.hyperparameters.auto import choose_optimizer, learn_hyperparameters
from sggp.hyperparameters.defaults import named_kernel
from sggp.hyperparameters.exact import exact_log_marginal_likelihood, fit_exact
from sggp.hyperparameters.nearest_neighbour import fit_nearest_neighbour
from sggp.hyperparameters.result import FitResult

__all__ = [
    "FitResult",
    "choose_optimizer",
    "exact_log_marginal_likelihood",
    "fit_exact",
    "fit_nearest_neighbour",
    "learn_hyperparameters",
    "named_kernel",
]
