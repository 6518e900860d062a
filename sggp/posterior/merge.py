"""Exact repeats of an input become one row: the same posterior from a smaller system."""

from __future__ import annotations

from dataclasses import dataclass
from hashlib import blake2b

import numpy as np
import torch
from torch import Tensor

_LONG = 64  # bytes


@dataclass(frozen=True)
class Groups:
    """Which rows share an input.

    Attributes:
        first: (g,) the first row of each group, in order of appearance.
        member: (n,) the group of each row.
    """

    first: Tensor
    member: Tensor

    @property
    def trivial(self) -> bool:
        """Whether no input repeats."""
        return len(self.first) == len(self.member)

    def noise(self, noise_variance: Tensor) -> Tensor:  # (n,) -> (g,)
        """The noise variance of each group: 1/Σ 1/σ²; with equal noise, σ²/r for r repeats.

        Noise-free rows (σ² = 0) make their group noise-free.
        """
        if self.trivial:
            return noise_variance
        return self._sum(noise_variance.reciprocal()[:, None])[:, 0].reciprocal()

    def mean(self, values: Tensor, noise_variance: Tensor) -> Tensor:  # (n, s), (n,) -> (g, s)
        """The precision-weighted mean of each group's rows."""
        if self.trivial:
            return values
        weight = noise_variance.reciprocal()[:, None]
        # rows without noise outweigh all others; among themselves they count equally
        exact = torch.isinf(weight)
        has_exact = self._sum(exact.to(values)) > 0
        weight = torch.where(has_exact[self.member], exact.to(weight), weight).to(values)
        return self._sum(weight * values) / self._sum(weight)

    def _sum(self, values: Tensor) -> Tensor:
        out = values.new_zeros(len(self.first), values.shape[1])
        return out.index_add_(0, self.member, values)


def group_rows(x: Tensor) -> Groups:
    """Group equal rows of x, (n, d), by their bytes (−0 counts as 0), long ones by a digest of 512 bits.

    Cost: O(n·d + n log n).
    """
    n = len(x)
    plain = (x.detach() + 0 if x.is_floating_point() else x.detach()).cpu().contiguous().numpy()
    if plain.shape[1] == 0:
        keys: np.ndarray = np.zeros(n, dtype=np.int64)
    else:
        rows = np.ascontiguousarray(plain).view(np.uint8).reshape(n, -1)
        if rows.shape[1] > _LONG:
            rows = np.frombuffer(
                b"".join(blake2b(row.data, digest_size=_LONG).digest() for row in rows), np.uint8
            )
            rows = rows.reshape(n, _LONG)
        keys = rows.view(np.dtype((np.void, rows.shape[1]))).ravel()
    _, first, member = np.unique(keys, return_index=True, return_inverse=True)
    rank = np.empty(len(first), dtype=np.int64)
    by_appearance = np.argsort(first, kind="stable")
    rank[by_appearance] = np.arange(len(first))
    return Groups(
        first=torch.from_numpy(first[by_appearance].astype(np.int64)).to(x.device),
        member=torch.from_numpy(rank[member.ravel()]).to(x.device),
    )
