"""What a covariance is: GPyTorch kernels in, fast evaluation and random features out."""

from sggp.kernels.convert import as_covariance
from sggp.kernels.covariance import Covariance, Points

__all__ = ["Covariance", "Points", "as_covariance"]
