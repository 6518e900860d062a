"""Marginal likelihoods and the hyperparameters that maximise them.

`learn_hyperparameters` chooses between the exact likelihood (small n) and the stochastic nearest-neighbour
likelihood.
"""

from sggp.hyperparameters.auto import choose_optimizer, learn_hyperparameters
from sggp.hyperparameters.defaults import named_kernel
from sggp.hyperparameters.exact.fit import exact_log_marginal_likelihood, fit_exact
from sggp.hyperparameters.exact.subset import fit_subset
from sggp.hyperparameters.iterative.em import fit_em
from sggp.hyperparameters.iterative.fit import fit_iterative
from sggp.hyperparameters.iterative.lanczos import LogMarginalLikelihood, log_marginal_likelihood
from sggp.hyperparameters.nearest_neighbour.fit import fit_nearest_neighbour
from sggp.hyperparameters.result import FitResult
from sggp.hyperparameters.sampling.mixture import MixturePosterior, condition_mixture
from sggp.hyperparameters.sampling.sample import HyperparameterSamples, sample_hyperparameters

__all__ = [
    "FitResult",
    "HyperparameterSamples",
    "LogMarginalLikelihood",
    "MixturePosterior",
    "choose_optimizer",
    "condition_mixture",
    "exact_log_marginal_likelihood",
    "fit_em",
    "fit_exact",
    "fit_iterative",
    "fit_nearest_neighbour",
    "fit_subset",
    "learn_hyperparameters",
    "log_marginal_likelihood",
    "named_kernel",
    "sample_hyperparameters",
]
