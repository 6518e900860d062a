"""Variances of a posterior from its samples."""

from sggp.posterior.variance.local import (
    CONTROL_ROWS,
    combine,
    combined_error,
    local_control,
    local_posteriors,
    nearest_rows,
    shared_control,
)
from sggp.posterior.variance.sampled import SampledVariance

__all__ = [
    "CONTROL_ROWS",
    "SampledVariance",
    "combine",
    "combined_error",
    "local_control",
    "local_posteriors",
    "nearest_rows",
    "shared_control",
]
