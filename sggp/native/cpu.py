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

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from sggp.errors import DtypeError, ShapeError
from sggp.native import library
from sggp.native.cpu_tanimoto import (
    PackedRows,
    bit_matmul,
    bit_similarity,
    pack_bits,
    tanimoto_block,
    tanimoto_matmul,
    thermometer,
)
from sggp.native.library import available, instruction_sets, unavailable_reason

if TYPE_CHECKING:
    from sggp.native.reference import Profile, Source

__all__ = [
    "PackedRows",
    "available",
    "bit_matmul",
    "bit_similarity",
    "instruction_sets",
    "pack_bits",
    "stationary_block",
    "stationary_gradient",
    "stationary_matmul",
    "tanimoto_block",
    "tanimoto_matmul",
    "thermometer",
    "unavailable_reason",
]

_FAMILIES = ("rbf", "matern12", "matern32", "matern52", "rq")
_EXACT_RADIUS = {torch.float32: 3.0, torch.float64: 30.0}  # rows further out are taken from `source`


def stationary_block(
    a: Tensor,
    b: Tensor,
    profile: Profile,
    *,
    dtype: torch.dtype | None = None,
    source: Source | None = None,
    isa: str | None = None,
) -> Tensor:
    """The kernel scale · φ(|a_i − b_j|²) as a dense (n, m) block.

    Args:
        a: (n, d) points divided by their length scales and centred, float32 or float64.
        b: (m, d) likewise.
        profile: the kernel.
        dtype: of the result; None takes that of `a`.
        source: the unscaled rows, used where rounding a and b would cost accuracy.
        isa: one of `instruction_sets()`; None takes the best.

    Cost: O(n·m·d) time, 24 MiB beside the block.
    """
    dtype = a.dtype if dtype is None else dtype
    _check_points(a, b, dtype)
    n, m = a.shape[0], b.shape[0]
    if 0 in (n, m):
        return torch.empty(n, m, dtype=dtype)
    a, b, weights = _rows(a, b, dtype, source)
    out = torch.empty(n, m, dtype=a.dtype)
    _call_stationary(a, b, weights, None, profile, out, library.PACK_BYTES, 0, isa)
    return out.to(dtype)


def stationary_matmul(
    a: Tensor,
    b: Tensor,
    v: Tensor,
    profile: Profile,
    memory_budget: int = 256 * 2**20,
    *,
    source: Source | None = None,
    isa: str | None = None,
) -> Tensor:
    """K(a, b) v without K, (n, s) in the dtype of `v`.

    Args:
        a: (n, d) points divided by their length scales and centred, float32 or float64.
        b: (m, d) likewise.
        v: (m, s) columns; their dtype is the precision of the entries.
        profile: the kernel.
        memory_budget: bytes that packed columns and tiles together may take.
        source: the unscaled rows, used where rounding a and b would cost accuracy.
        isa: one of `instruction_sets()`; None takes the best.

    Raises:
        MemoryBudgetError: not even one tile fits the budget.
    """
    _check_points(a, b, v.dtype)
    library.check_columns(v, b.shape[0], "v")
    n, m, s = a.shape[0], b.shape[0], v.shape[1]
    if 0 in (n, m, s):
        return torch.zeros(n, s, dtype=v.dtype)
    dtype = v.dtype
    a, b, weights = _rows(a, b, dtype, source)
    v = v.detach().to(a.dtype).contiguous()
    pack = library.pack_bytes(memory_budget, a.shape[1], s, a.element_size(), 48)
    out = torch.empty(n, s, dtype=a.dtype)
    _call_stationary(a, b, weights, v, profile, out, pack, memory_budget, isa)
    return out.to(dtype)


def stationary_gradient(
    a: Tensor,
    b: Tensor,
    left: Tensor,
    right: Tensor,
    profile: Profile,
    *,
    memory_budget: int = 256 * 2**20,
    isa: str | None = None,
) -> tuple[Tensor, Tensor]:
    """The gradient of Σ_j left_jᵀ K(a, b) right_j in the logarithms of the length scales and in the scale.

    ∂/∂log ℓ_k = −2 scale Σ_ij (left rightᵀ)_ij φ'(r²_ij) (a_ik − b_jk)², from differences in every term.

    Args:
        a: (n, d) points divided by their length scales and centred; their dtype is the working precision.
        b: (m, d) likewise.
        left: (n, s) columns.
        right: (m, s) columns.
        profile: the kernel.
        memory_budget: bytes that packed columns and tiles together may take.
        isa: one of `instruction_sets()`; None takes the best.

    Returns:
        (d,) derivatives in log ℓ_k and the () derivative in the scale, float64.
    """
    _check_points(a, b, a.dtype)
    library.check_columns(left, a.shape[0], "left")
    library.check_columns(right, b.shape[0], "right")
    if left.shape[1] != right.shape[1]:
        raise ShapeError(
            f"left has {left.shape[1]} columns and right has {right.shape[1]}; expected as many."
        )
    n, d = a.shape
    m, s = right.shape
    gradient = torch.zeros(d + 1, dtype=torch.float64)
    if 0 not in (n, m, s):
        a, b, _ = _rows(a, b, a.dtype, None)
        left, right = (x.detach().to(a.dtype).contiguous() for x in (left, right))
        pack = library.pack_bytes(memory_budget, d, s, a.element_size(), 48)
        function = getattr(library.library(), f"sggp_gradient_{library.SUFFIX[a.dtype]}")
        code = function(
            library.isa_index(isa),
            torch.get_num_threads(),
            *_profile(profile),
            library.pointer(a),
            n,
            library.pointer(b),
            m,
            d,
            library.pointer(left),
            library.pointer(right),
            s,
            library.pointer(gradient),
            pack,
        )
        library.checked(code, "stationary_gradient")
    return gradient[:d].clone(), gradient[d].clone()


def _profile(profile: Profile) -> tuple[int, float, float]:
    return _FAMILIES.index(profile.family), float(profile.scale), float(profile.alpha or 1.0)


def _call_stationary(
    a: Tensor,
    b: Tensor,
    weights: Tensor | None,
    v: Tensor | None,
    profile: Profile,
    out: Tensor,
    pack_bytes: int,
    square_budget: int,
    isa: str | None,
) -> None:
    function = getattr(library.library(), f"sggp_stationary_{library.SUFFIX[out.dtype]}")
    n, d = a.shape
    columns = 0 if v is None else v.shape[1]
    code = function(
        library.isa_index(isa),
        torch.get_num_threads(),
        *_profile(profile),
        library.pointer(a),
        n,
        library.pointer(b),
        b.shape[0],
        d,
        library.pointer(weights),
        library.pointer(v),
        columns,
        library.pointer(out),
        pack_bytes,
        square_budget,
    )
    library.checked(code, "stationary_block" if v is None else "stationary_matmul")


def _rows(
    a: Tensor, b: Tensor, dtype: torch.dtype, source: Source | None
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Contiguous rows of both sides, with weights for their differences where they come from `source`.

    Rounding a row at distance R moves it by up to ε·R. Where rows of `b` lie beyond a small R, the unscaled rows are
    used if they are exact in the working precision; if not, the call is made in float64. (A row of `a` further out
    than all of `b` is near none of them.) Equal sides come back as one tensor: their product needs half of K.
    """
    a, b = a.detach(), b.detach()
    weights = None
    if source is not None and float(b.square().sum(1).max()) > _EXACT_RADIUS[dtype] ** 2:
        x, z = source.x.detach(), source.z.detach()
        exact = {torch.float32, dtype} if x.is_floating_point() and z.is_floating_point() else set()
        if {x.dtype, z.dtype} <= exact:
            a, b = x, z
            weights = source.weights.detach().expand(a.shape[1]).to(dtype).contiguous()
        elif dtype == torch.float32:
            dtype = torch.float64
    a, b = a.to(dtype).contiguous(), b.to(dtype).contiguous()
    return a, a if a.shape == b.shape and torch.equal(a, b) else b, weights


def _check_points(a: Tensor, b: Tensor, dtype: torch.dtype) -> None:
    if a.ndim != 2 or b.ndim != 2 or a.shape[1] != b.shape[1]:
        raise ShapeError(
            f"points of shapes {tuple(a.shape)} and {tuple(b.shape)}; expected (n, d) and (m, d)."
        )
    for x in (a.dtype, b.dtype, dtype):
        if x not in library.SUFFIX:
            raise DtypeError(f"the C++ engine computes in float32 and float64; got {x}. Convert the tensors.")
    library.check_cpu(a, b)
