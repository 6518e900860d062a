"""What a covariance is: GPyTorch kernels in, fast evaluation and random features out."""

from sggp.kernels.convert import as_covariance
from sggp.kernels.covariance import Covariance, Points
from sggp.kernels.gradient import kernel_gradient
from sggp.kernels.tanimoto import TanimotoDotProduct, TanimotoMinMax

__all__ = ["Covariance", "Points", "TanimotoDotProduct", "TanimotoMinMax", "as_covariance", "kernel_gradient"]
