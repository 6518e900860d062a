"""What a covariance is: GPyTorch kernels in, fast evaluation and random features out."""

from sggp.kernels.convert import as_covariance
from sggp.kernels.covariance import Covariance
from sggp.kernels.features import FeatureMap, draw_features
from sggp.kernels.gradient import kernel_gradient
from sggp.kernels.lookup import TableKernel
from sggp.kernels.points import Points
from sggp.kernels.tanimoto import TanimotoDotProduct, TanimotoMinMax
from sggp.kernels.tasks import TaskKernel

__all__ = [
    "Covariance",
    "FeatureMap",
    "Points",
    "TableKernel",
    "TanimotoDotProduct",
    "TanimotoMinMax",
    "TaskKernel",
    "as_covariance",
    "draw_features",
    "kernel_gradient",
]
