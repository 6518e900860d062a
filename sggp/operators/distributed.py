"""K + Σ over named devices."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from sggp import parallel
from sggp.defaults import MEMORY_BUDGET
from sggp.errors import InputError
from sggp.operators.kernel import KernelOperator
from sggp.parallel import current, entered

__all__ = ["DistributedOperator"]


class DistributedOperator(KernelOperator):
    """The `KernelOperator` whose products several workers share: devices of this host, or the ranks of a run.

    Inside `with sggp.distributed()` every `KernelOperator` and `InducingOperator` is shared already, those of
    `GPRegressor` and `condition` among them. This class says so of one operator: it refuses to be made where there is
    only one process, and takes devices without a block.

    Args:
        kernel, x, noise_variance, dtype, memory_budget: as for `KernelOperator`; the budget is that of each worker,
            which keeps its own rows of K where K is kept.
        devices: ["cuda:0", "cuda:1"], a thread for each; None takes the workers of the block.

    Raises:
        InputError: no devices, and no block with several workers; or devices that are not there.

    Cost: of a product n²/R entries on each of R workers; for ranks n·s·(R − 1)/R numbers received by each.

    Example:
        >>> import gpytorch, torch
        >>> from sggp.operators import DistributedOperator
        >>> x = torch.linspace(0, 1, 300, dtype=torch.float64)[:, None]
        >>> operator = DistributedOperator(gpytorch.kernels.RBFKernel().double(), x, 0.1, devices=["cpu", "cpu"])
        >>> operator.matmul(torch.ones(300, 2, dtype=torch.float64)).shape
        torch.Size([300, 2])
    """

    def __init__(
        self,
        kernel: Any,
        x: Tensor,
        noise_variance: float | Tensor,
        *,
        devices: Sequence[str | torch.device] | None = None,
        dtype: torch.dtype | None = None,
        memory_budget: float = MEMORY_BUDGET,
    ) -> None:
        workers = current() if devices is None else parallel.Devices(devices)  # loaded at first use
        if devices is None and workers.size == 1:
            raise InputError(
                "there is one process only: give devices, or make the operator inside `with sggp.distributed()` in a "
                "program that torchrun started. KernelOperator is the operator of one process."
            )
        with entered(workers):
            super().__init__(kernel, x, noise_variance, dtype=dtype, memory_budget=memory_budget)
