"""K + Σ as something that multiplies."""

from sggp.operators.base import LinearOperator, NeighbourOperator, RowOperator
from sggp.operators.kernel import KernelOperator

__all__ = ["KernelOperator", "LinearOperator", "NeighbourOperator", "RowOperator"]
