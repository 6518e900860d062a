"""Rows of input as a covariance sees them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from sggp.typing import Rows

__all__ = ["Points"]


@dataclass(frozen=True)
class Points:
    """Rows of input together with what a covariance precomputed for them.

    Args:
        raw: (n, d) the rows as given.
        dtype: working precision: that of float rows, the covariance's choice for integer rows.
        centre: (d,) float64, subtracted from the rows before scaling; None where the covariance does not centre.
        parts: tensors with one row per point, private to the covariance that made them.
        children: the same rows prepared for the terms of a sum or product.
        owner: the covariance that made them.
    """

    raw: Tensor
    dtype: torch.dtype
    centre: Tensor | None = None
    parts: Mapping[str, Tensor] = field(default_factory=dict)
    children: tuple[Points, ...] = ()
    owner: Any = None

    def __len__(self) -> int:
        return self.raw.shape[0]

    @property
    def shape(self) -> torch.Size:
        return self.raw.shape

    @property
    def device(self) -> torch.device:
        return self.raw.device

    @property
    def requires_grad(self) -> bool:
        """True when the rows take part in differentiation."""
        return self.raw.requires_grad

    def __getitem__(self, rows: Rows) -> Points:
        """The points at `rows` (a LongTensor, a list of positions or a slice), nothing computed again."""
        if not isinstance(rows, slice | Tensor):
            rows = torch.as_tensor(rows, dtype=torch.long, device=self.raw.device)
        return Points(
            self.raw[rows],
            self.dtype,
            self.centre,
            {name: part[rows] for name, part in self.parts.items()},
            tuple(child[rows] for child in self.children),
            self.owner,
        )

    def astype(self, dtype: torch.dtype) -> Points:
        """The same points with another working precision."""
        if dtype == self.dtype:
            return self
        children = tuple(child.astype(dtype) for child in self.children)
        return replace(self, dtype=dtype, children=children)

    def to(self, device: torch.device | str) -> Points:
        """The same points on another device."""
        return Points(
            self.raw.to(device),
            self.dtype,
            None if self.centre is None else self.centre.to(device),
            {name: part.to(device) for name, part in self.parts.items()},
            tuple(child.to(device) for child in self.children),
            self.owner,
        )
