"""The C++ engine on the CPU: the functions of `sggp.native.reference`, fused, vectorised and threaded.

Kernel entries are made in registers from differences of coordinates and multiplied by the columns at once; no part of
K larger than a tile exists. The library is compiled once per instruction set and the best one is chosen at run time.
It uses as many threads as torch does in the calling thread. Without the library, or away from its dtypes, use the
reference engine: `sggp.native.engine` chooses.

Entries are within 5e-7 (float32) or 1e-14 (float64) of the scale for rows exact as given. With `source` they are that
for the unscaled rows, however far these are from the origin.

A row of a product does not depend on the rows computed with it, nor on the number of threads; but K(x, x) v with equal
sides and a budget for it (the packed rows and one float64 output per thread) makes each entry of K once and uses it
twice, which moves results by a unit in the last place and depends on the number of threads by less.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from sggp.native import library
from sggp.native.checks import check_columns, check_cpu, check_pair, check_points
from sggp.native.cpu_tanimoto import PackedRows, tanimoto_block, tanimoto_matmul, thermometer
from sggp.native.families import Profile
from sggp.native.library import available, instruction_sets, unavailable_reason
from sggp.native.reference import BUDGET, Given, resolved

__all__ = [
    "PackedRows",
    "available",
    "instruction_sets",
    "stationary_block",
    "stationary_gradient",
    "stationary_matmul",
    "tanimoto_block",
    "tanimoto_matmul",
    "thermometer",
    "unavailable_reason",
]


class _Rows(NamedTuple):
    """Both sides, contiguous, with weights for their differences where they come from `source`."""

    a: Tensor
    b: Tensor
    weights: Tensor | None


def stationary_block(
    a: Tensor,
    b: Tensor,
    profile: Profile,
    *,
    dtype: torch.dtype | None = None,
    source: Given = None,
    isa: str | None = None,
) -> Tensor:
    """The kernel as a dense block: see `reference.stationary_block`.

    Args:
        isa: one of `instruction_sets()`; None takes the best.

    Cost: O(n·m·d) time, 24 MiB beside the block.
    """
    dtype = a.dtype if dtype is None else dtype
    check_points(a, b, dtype)
    if 0 in (len(a), len(b)):
        return torch.empty(len(a), len(b), dtype=dtype)
    rows = _rows(a, b, dtype, source)
    out = torch.empty(len(a), len(b), dtype=rows.a.dtype)
    return _stationary(rows, None, profile, out, library.PACK_BYTES, 0, isa).to(dtype)


def stationary_matmul(
    a: Tensor,
    b: Tensor,
    v: Tensor,
    profile: Profile,
    memory_budget: int = BUDGET,
    *,
    source: Given = None,
    isa: str | None = None,
) -> Tensor:
    """K(a, b) v without K: see `reference.stationary_matmul`.

    Args:
        memory_budget: bytes that packed columns and tiles together may take.
        isa: one of `instruction_sets()`; None takes the best.

    Raises:
        MemoryBudgetError: not even one tile fits the budget.
    """
    check_points(a, b, v.dtype)
    check_columns(v, b.shape[0], "v")
    n, s = a.shape[0], v.shape[1]
    if 0 in (n, *v.shape):
        return torch.zeros(n, s, dtype=v.dtype)
    rows = _rows(a, b, v.dtype, source)
    columns = v.detach().to(rows.a.dtype)
    pack = library.pack_bytes(memory_budget, a.shape[1], s, rows.a.element_size(), 48)
    out = torch.empty(n, s, dtype=rows.a.dtype)
    return _stationary(rows, columns, profile, out, pack, memory_budget, isa).to(v.dtype)


def stationary_gradient(
    a: Tensor,
    b: Tensor,
    left: Tensor,
    right: Tensor,
    profile: Profile,
    *,
    memory_budget: int = BUDGET,
    isa: str | None = None,
) -> tuple[Tensor, Tensor]:
    """The gradient of a bilinear form: see `reference.stationary_gradient`; from differences in every term.

    Args:
        memory_budget: bytes that packed columns and tiles together may take.
        isa: one of `instruction_sets()`; None takes the best.
    """
    check_pair(a, b, left, right)
    n, d = a.shape
    m, s = right.shape
    gradient = torch.zeros(d + 1, dtype=torch.float64)
    if 0 not in (n, m, s):
        a, b, _ = _rows(a, b, a.dtype, None)
        left, right = left.to(a.dtype), right.to(a.dtype)
        pack, name = library.pack_bytes(memory_budget, d, s, a.element_size(), 48), library.SUFFIX[a.dtype]
        numbers = (*profile.numbers, a, n, b, m, d, left, right, s, gradient, pack)
        library.run(f"gradient_{name}", *numbers, isa=isa)
    return gradient[:d].clone(), gradient[d].clone()


def _stationary(
    rows: _Rows,
    v: Tensor | None,
    profile: Profile,
    out: Tensor,
    pack_bytes: int,
    square_budget: int,
    isa: str | None,
) -> Tensor:
    """The block (v None) or the product, in `out`."""
    (n, d), columns = rows.a.shape, 0 if v is None else v.shape[1]
    points = (*profile.numbers, rows.a, n, rows.b, len(rows.b), d, rows.weights)
    name = f"stationary_{library.SUFFIX[out.dtype]}"
    library.run(name, *points, v, columns, out, pack_bytes, square_budget, isa=isa)
    return out


def _rows(a: Tensor, b: Tensor, dtype: torch.dtype, source: Given) -> _Rows:
    """Contiguous rows of both sides, by `reference.resolved` where there is a `source`.

    Equal sides come back as one tensor: their product needs half of K.
    """
    check_cpu(a, b)
    weights = None
    if source is not None:
        a, b, weights, dtype = resolved(a, b, dtype, source)
    a, b = a.detach().to(dtype).contiguous(), b.detach().to(dtype).contiguous()
    weights = None if weights is None else weights.to(dtype)
    return _Rows(a, a if a.shape == b.shape and torch.equal(a, b) else b, weights)
