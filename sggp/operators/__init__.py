"""K + Σ as something that multiplies."""

from sggp.operators.base import (
    LeastSquaresOperator,
    LinearOperator,
    NeighbourOperator,
    Operator,
    RowOperator,
    completed,
)
from sggp.operators.centres import select_centres
from sggp.operators.distributed import DistributedOperator
from sggp.operators.inducing import InducingOperator
from sggp.operators.kernel import KernelOperator

__all__ = [
    "DistributedOperator",
    "InducingOperator",
    "KernelOperator",
    "LeastSquaresOperator",
    "LinearOperator",
    "NeighbourOperator",
    "Operator",
    "RowOperator",
    "completed",
    "select_centres",
]
