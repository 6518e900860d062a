"""Rows with their earlier neighbours, found from time to time, the small covariances among them, and conditionals."""

from __future__ import annotations

import torch
from gpytorch.kernels import Kernel
from torch import Tensor

from sggp.errors import InputError
from sggp.hyperparameters.gram import frozen_base, gram_function, stationary_parts, total_scale
from sggp.hyperparameters.nearest_neighbour.conditionals import fused_conditionals, log_conditionals
from sggp.kernels import as_covariance
from sggp.neighbours import earlier_by_similarity, earlier_rows

_POOL = 2048  # rows whose neighbourhoods are used where searching is dear and repeated
_POOL_FROZEN = 4096  # where neighbourhoods are found once
_COUNT, _COUNT_FROZEN = 30, 40  # neighbours per row; more where their covariances are evaluated once only
_LANDMARKS = 64  # rows that every row is conditioned on beside its neighbours, where these are found once
_CHUNK = 256  # neighbourhoods evaluated at once where the base kernel is frozen


def _with_landmarks(near: Tensor, rows: Tensor, count: int) -> Tensor:  # (r, k) -> (r, count + k)
    """The first rows of the order, which are a random sample, in front of the near ones; each row once."""
    first = torch.arange(count).expand(len(rows), count)
    return torch.cat(
        [first.masked_fill(first >= rows[:, None], -1), near.masked_fill(near < count, -1)], dim=1
    )


class Neighbourhoods:
    """Earlier neighbours of the rows that are open: those of the coming minibatches.

    Args:
        kernel: the private kernel whose raw parameters are being learnt.
        x: (n, d) rows in their order.
        count: neighbours per row; default 30, or 40 where nothing but scales is learnt and there is no
            metric.
    """

    def __init__(self, kernel: Kernel, x: Tensor, count: int | None = None) -> None:
        self.kernel, self.x = kernel, x
        self.frozen = frozen_base(kernel)
        self.metric = x.is_floating_point() and stationary_parts(kernel) is not None
        if x.is_floating_point() and not self.metric and self.frozen is None:
            self.metric = as_covariance(kernel).embedding(x[:2]) is not None
        default = _COUNT_FROZEN if self.frozen is not None and not self.metric else _COUNT
        self.count = count = min(default if count is None else count, len(x) - 1)
        self.landmarks = min(_LANDMARKS, len(x) - 1) if self.fixed else 0
        width = count + self.landmarks
        self._gram = gram_function(kernel)
        self._fused = fused_conditionals(kernel, x)
        self._index = torch.zeros(0, 1, dtype=torch.long)
        self._base: Tensor | None = None
        self._place = torch.full((len(x),), -1)  # of each row among those that are known
        self._known_index = torch.zeros(0, width + 1, dtype=torch.long)
        self._known_base: Tensor | None = None

    @property
    def fixed(self) -> bool:
        """Whether neighbours and their covariances up to scales never change: they are found once."""
        return self.frozen is not None and not self.metric

    def pool(self, generator: torch.Generator) -> Tensor:
        """Positions that minibatches are drawn from: all rows, or a random few where searching is dear."""
        n, most = len(self.x), _POOL if self.frozen is None else _POOL_FROZEN
        if self.metric or n <= most:
            return torch.arange(n)
        return torch.randperm(n, generator=generator)[:most].sort().values

    def open(self, rows: Tensor) -> None:
        """Find the neighbours of `rows` (ascending positions) with the kernel's present values."""
        if self.fixed:
            self._open_frozen(rows)
            return
        self._index = self._search(rows)

    def _search(self, rows: Tensor) -> Tensor:  # (r, count + 1), -1 where missing, the row itself last
        if self.count == 0:
            return rows[:, None]
        points = as_covariance(self.kernel).embedding(self.x) if self.metric else None
        if points is not None:
            near = earlier_rows(points, rows, self.count)
        else:
            base = self.kernel if self.frozen is None else self.frozen[1]
            near = earlier_by_similarity(as_covariance(base), self.x, rows, self.count)
            if self.fixed:
                near = _with_landmarks(near, rows, self.landmarks)
        return torch.cat([near, rows[:, None]], dim=1)

    def _open_frozen(self, rows: Tensor) -> None:
        """Search and evaluate each row once; from then on only look it up."""
        fresh = rows[self._place[rows] < 0]
        if len(fresh):
            index = self._search(fresh)
            blocks = self._base_blocks(index)
            self._place[fresh] = torch.arange(len(fresh)) + len(self._known_index)
            self._known_index = torch.cat([self._known_index, index])
            self._known_base = blocks if self._known_base is None else torch.cat([self._known_base, blocks])
        if self._known_base is None:
            raise InputError("there are no rows to open.")
        places = self._place[rows]
        self._index, self._base = self._known_index[places], self._known_base[places]

    def _base_blocks(self, index: Tensor) -> Tensor:
        if self.frozen is None:
            raise InputError("this kernel has parameters below its scale: its blocks change with them.")
        covariance = as_covariance(self.frozen[1])
        own = torch.where(index < 0, index[:, -1:], index)
        parts = [covariance.small_blocks(self.x[part.to(self.x.device)]) for part in own.split(_CHUNK)]
        return torch.cat(parts).to(torch.float64)

    def members(self, selection: Tensor) -> tuple[Tensor, Tensor]:  # (b,) -> (b, k), (b, k)
        """Positions of [neighbours, row] for some open rows, and which of them exist."""
        index = self._index[selection]
        valid = index >= 0
        own = torch.where(valid, index, index[:, -1:])
        return own.to(self.x.device), valid.to(self.x.device)

    def base(self, selection: Tensor) -> Tensor:  # (b,) -> (b, k, k)
        """Covariances below the scales among [neighbours, row], where these are `fixed`."""
        if self._base is None:
            raise InputError("there is nothing fixed: open rows of a kernel in which only scales are learnt.")
        return self._base[selection].to(self.x.device)

    def gram(self, selection: Tensor) -> Tensor:  # (b,) -> (b, k, k)
        """Covariances without noise among [neighbours, row], differentiable in the kernel's parameters."""
        if self._base is not None and self.frozen is not None:
            return self.base(selection) * total_scale(self.frozen[0], self.x)
        own, _ = self.members(selection)
        return self._gram(self.x[own]).to(torch.float64)

    def log_conditionals(self, selection: Tensor, residuals: Tensor, noise: Tensor) -> Tensor:  # (b,)
        """Log densities of some open rows given their neighbours; see `conditionals.log_conditionals`.

        Args:
            selection: (b,) positions among the open rows.
            residuals: (b, k, t) targets less the mean of their `members`. noise: a scalar, or (b, k).
        """
        if self._fused is not None:
            return self._fused(self._index[selection], residuals, noise)
        _, valid = self.members(selection)
        return log_conditionals(self.gram(selection), residuals, noise, valid)
