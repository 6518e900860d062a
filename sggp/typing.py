"""Type names shared by the rooms of the package."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, TypeAlias

import torch
from torch import Tensor

__all__ = ["Device", "Dtype", "FailurePolicy", "ResidualKind", "Rows", "Seed", "Tensor"]

Device: TypeAlias = torch.device | str
Dtype: TypeAlias = torch.dtype
Rows: TypeAlias = Tensor | Sequence[int] | slice
Seed: TypeAlias = int | torch.Generator | None
FailurePolicy: TypeAlias = Literal["warn", "raise", "return"]
ResidualKind: TypeAlias = Literal["true", "recursive", "estimated"]
