"""`GPRegressor`: Gaussian process regression as a scikit-learn estimator; `TanimotoKernel` for scikit-learn's own."""

from sggp.estimator.regressor import GPRegressor
from sggp.estimator.tanimoto import TanimotoKernel

__all__ = ["GPRegressor", "TanimotoKernel"]
