"""`GPRegressor`: Gaussian process regression as a scikit-learn estimator."""

from sggp.estimator.regressor import GPRegressor

__all__ = ["GPRegressor"]
