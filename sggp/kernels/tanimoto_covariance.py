"""The covariances of the two Tanimoto kernels: exact for counts, tile by tile."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from sggp.arrays import all_finite
from sggp.errors import InputError
from sggp.kernels.covariance import Covariance
from sggp.kernels.points import Points
from sggp.kernels.tanimoto import EXACT, as_counts, check_counts, dot_similarity, minmax_similarity
from sggp.native import Engine, engine
from sggp.native.engines import TORCH
from sggp.native.thermometer import code_bytes
from sggp.native.tiling import tile_shape

__all__ = ["DotProductCovariance", "MinMaxCovariance"]

_REAL_BYTES = 80  # live bytes per entry of a tile of real vectors, gradients included


class _TanimotoCovariance(Covariance):
    """Counts are kept as uint8, with their squared norms for products, other vectors as float64; T(x, x) = 1."""

    counts = True
    _signed = False
    _products = False

    @property
    def scale(self) -> float:
        """One: T(x, x) = 1."""
        return 1.0

    def _parts(self, raw: Tensor, centre: Tensor | None) -> Mapping[str, Tensor]:
        differentiable = torch.is_grad_enabled() and raw.requires_grad
        norms = raw.new_empty(len(raw), dtype=torch.float64) if self._products else None
        counts = None if differentiable else as_counts(raw, norms)
        if counts is not None:
            return {"counts": counts} if norms is None else {"counts": counts, "norms": norms}
        check_counts(raw, self.name, signed=self._signed)
        if raw.dtype.is_floating_point and not all_finite(raw):
            raise InputError(f"{self.name} got rows with NaN or infinite values; clean them first.")
        return {"real": raw.double()}

    def diagonal(self, x: Tensor | Points) -> Tensor:
        """Ones."""
        x = self.prepare(x)
        return torch.ones(len(x), dtype=x.dtype, device=x.device)

    def plain_rows(self, x: Points) -> Tensor:
        return x.parts["counts"] if "counts" in x.parts else super().plain_rows(x)

    def _small_blocks(self, x: Tensor) -> Tensor:
        counts = as_counts(x)
        if counts is None:
            return super()._small_blocks(x)
        blocks = engine(x.device, torch.float64).small_tanimoto(counts, products=self._products)
        return super()._small_blocks(x) if blocks is None else blocks

    def _tile_shape(self, x: Points, z: Points, v: Tensor, memory_budget: int) -> tuple[int, int]:
        per_row = 48 * x.shape[1] + 8 * v.shape[1]
        if "counts" in x.parts and "counts" in z.parts:
            per_row += code_bytes(x.parts["counts"], z.parts["counts"])
        return tile_shape(len(x), len(z), memory_budget, per_entry=_REAL_BYTES, per_row=per_row)


def _engine(a: Tensor, b: Tensor, dtype: torch.dtype) -> Engine:
    """The engine for these counts; torch where no position is used on both sides and a code has no columns."""
    if 0 in a.shape or 0 in b.shape or not bool(torch.minimum(a.amax(0), b.amax(0)).any()):
        return TORCH
    return engine(a.device, dtype)


def _real(x: Points) -> Tensor:
    return x.parts["real"] if "real" in x.parts else x.parts["counts"].double()


class MinMaxCovariance(_TanimotoCovariance):
    """T_MM: counts by an exact product of thermometer codes, other vectors by L1 distances in float64."""

    def _block(self, x: Points, z: Points) -> Tensor:
        a, b = x.parts.get("counts"), z.parts.get("counts")
        if a is None or b is None:
            return minmax_similarity(_real(x), _real(z)).to(x.dtype)
        return _engine(a, b, x.dtype).tanimoto_block(a, b, dtype=x.dtype)

    def _matmul(self, x: Points, z: Points, v: Tensor, memory_budget: int) -> Tensor:
        a, b = x.parts.get("counts"), z.parts.get("counts")
        if a is None or b is None:
            return super()._matmul(x, z, v, memory_budget)
        return _engine(a, b, v.dtype).tanimoto_matmul(a, b, v, memory_budget)


class DotProductCovariance(_TanimotoCovariance):
    """T_DP: counts by a float32 product where that is exact, everything else in float64."""

    _signed = True
    _products = True

    def _block(self, x: Points, z: Points) -> Tensor:
        if "norms" not in x.parts or "norms" not in z.parts:
            return dot_similarity(_real(x), _real(z)).to(x.dtype)
        norms_x, norms_z = x.parts["norms"], z.parts["norms"]
        largest = max((float(n.max()) for n in (norms_x, norms_z) if n.numel()), default=0.0)
        working = torch.float32 if largest < EXACT // 2 else torch.float64
        dot = x.parts["counts"].to(working) @ z.parts["counts"].to(working).T
        union = (norms_x.to(working)[:, None] + norms_z.to(working)).sub_(dot)
        empty = union == 0
        return dot.to(x.dtype).div_(union.to(x.dtype)).masked_fill_(empty, 1.0)
