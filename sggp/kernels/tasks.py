"""A kernel over tasks that are named by whole numbers: the task part of intrinsic coregionalisation."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, cast

import torch
from gpytorch.kernels import IndexKernel
from torch import Tensor
from torch.nn.functional import one_hot

from sggp.checks import as_numbers, whole_number
from sggp.errors import InputError

__all__ = ["TaskKernel"]

_CORRELATION = 0.5  # of every two tasks, where learning starts
_OWN = 0.05  # share of a task's variance in the diagonal there


class _UnknownTask(InputError, IndexError):
    """A number that names no task."""


class TaskKernel(IndexKernel):
    """k(s, t) = (B Bᵀ + diag v)_st for tasks s, t named by whole numbers, (n, 1).

    GPyTorch's `IndexKernel`, whose indices are 0 … T − 1, for any numbers: the tasks 0, 2 and 7 are three tasks.
    Multiply it with a kernel of the other columns for intrinsic coregionalisation: k((x, s), (z, t)) = k(x, z) k(s, t).
    It starts from unit variances with correlations of one half, at every call the same.

    Args:
        tasks: the numbers; repeats count once.
        rank: columns of B, from 1 to T; None is T, any covariance matrix.
        **options: further arguments of `IndexKernel`, such as `active_dims`.

    Raises:
        InputError: no tasks, a rank out of range; on a call, a number that is not whole or names no task.

    Cost: a look-up for every entry.

    Example:
        >>> import torch
        >>> from sggp.kernels import TaskKernel
        >>> kernel = TaskKernel([0, 2, 7])
        >>> kernel(torch.tensor([[2.0]]), torch.tensor([[2.0], [7.0]])).to_dense().round(decimals=2).tolist()
        [[1.0, 0.5]]
    """

    tasks: Tensor

    def __init__(self, tasks: Iterable[int], rank: int | None = None, **options: Any) -> None:
        expected, given = "a list of whole numbers", cast(Any, tasks)
        if isinstance(given, Iterable) and not isinstance(given, str):
            given = list(given)
        numbers = as_numbers(given, "tasks", expected)
        if numbers.ndim != 1:
            raise InputError(f"tasks must be {expected}; got {given!r:.60}.")
        names = _whole(numbers).unique()
        count = len(names)
        if count == 0:
            raise InputError("tasks is empty: name at least one task by a whole number.")
        if rank is not None and whole_number(rank, "rank", least=None) not in range(1, count + 1):
            raise InputError(f"rank must be from 1 to the number of tasks, {count}; got {rank}.")
        with torch.random.fork_rng(devices=[]):  # GPyTorch draws a start, which is replaced
            super().__init__(num_tasks=count, rank=rank or count, **options)
        self.register_buffer("tasks", names)
        start = torch.full((count, count), _CORRELATION).fill_diagonal_(1.0 - _OWN)
        factor = torch.linalg.cholesky(start)[:, : rank or count]
        factor = factor * (1.0 - _OWN) ** 0.5 / factor.norm(dim=1, keepdim=True)
        shape = self.batch_shape
        self.initialize(
            covar_factor=factor.expand(*shape, *factor.shape).clone(), var=torch.full((*shape, count), _OWN)
        )

    @property
    def rank(self) -> int:
        """Columns of B."""
        return int(self.covar_factor.shape[-1])

    def codes(self, numbers: Tensor) -> Tensor:
        """The positions of tasks in `tasks`, of the same shape.

        Raises:
            InputError: a number is not whole or names no task.
        """
        return codes_of(numbers, self.tasks)

    def forward(self, i1: Tensor, i2: Tensor, diag: bool = False, **params: Any) -> Tensor:
        """The covariances of tasks (…, n, 1) and (…, m, 1): (…, n, m), or (…, n) with `diag`."""
        matrix = self._eval_covar_matrix()
        left, right = (one_hot(self.codes(i[..., 0]), len(self.tasks)).to(matrix) for i in (i1, i2))
        left = (
            left @ matrix
        )  # products with ones and zeros: nothing is rounded, and the gradient is two products
        return (left * right).sum(-1) if diag else left @ right.mT


def codes_of(numbers: Tensor, tasks: Tensor) -> Tensor:
    """Positions of numbers in the sorted `tasks`, of the shape of `numbers`.

    Raises:
        InputError: a number is not whole or is none of the tasks.
    """
    whole = _whole(numbers)
    known = tasks.to(whole.device)
    codes = torch.searchsorted(known, whole.contiguous()).clamp_(max=len(known) - 1)
    strange = whole[known[codes] != whole]
    if len(strange):
        raise _UnknownTask(
            f"task {int(strange[0])} is not among the known ones, {_listed(known)}: use one of these, or name it where "
            "the kernel or model is made (all_tasks=[...] of a PathwiseMultiTaskGP)."
        )
    return codes


def _whole(numbers: Tensor) -> Tensor:
    """The numbers as int64."""
    flat = numbers.detach()
    whole = flat.long()
    bad = flat[whole != flat] if flat.is_floating_point() else flat[:0]
    if len(bad):
        raise _UnknownTask(
            f"tasks are named by whole numbers, got {float(bad[0]):g}: see that task_feature (active_dims of a kernel) "
            "is the column of tasks, and that no input transform changes it."
        )
    return whole


def _listed(tasks: Tensor) -> str:
    shown = ", ".join(str(int(task)) for task in tasks[:20])
    return f"[{shown}{', ...' if len(tasks) > 20 else ''}]"
