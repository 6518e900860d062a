"""What a model is worth and what drives it: calibration, importance of columns, Sobol indices.

Everything here takes arrays, predictive distributions and callables, so that it judges any model.
"""

from sggp.analysis.calibration import CalibrationReport, IntervalCheck
from sggp.analysis.importance import FeatureImportance, LeaveOneOut, permutation_importance, prior_importance
from sggp.analysis.sobol import SobolIndices, sobol_indices

__all__ = [
    "CalibrationReport",
    "FeatureImportance",
    "IntervalCheck",
    "LeaveOneOut",
    "SobolIndices",
    "permutation_importance",
    "prior_importance",
    "sobol_indices",
]
