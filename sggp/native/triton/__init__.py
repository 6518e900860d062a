"""The CUDA engine in Triton: the functions of `sggp.native.reference`, fused.

A program of the GPU owns a block of rows of K and a span of its columns. It makes entries tile by tile in registers,
from differences of coordinates (stationary kernels) or common bits of packed rows (Tanimoto), and multiplies them by
the columns at once; no part of K larger than a tile exists. Matrix products inside are IEEE float32 and float64, never
TF32. Sums over spans are added in float64 and the spans do not depend on the number of rows, so a row of a product does
not depend on the rows computed with it.

Entries are within 5e-7 (float32) or 1e-14 (float64) of the scale for rows exact as given. With `source` they are that
for the unscaled rows, however far these are from the origin.

State: every function has been run through Triton's interpreter (TRITON_INTERPRET=1, on the CPU) and every kernel
compiles for compute capability 8.0 and 9.0. None has run on a GPU yet: block sizes are estimates and there are no
timings. So it is opt-in: `sggp.native.engine` takes it where the environment says SGGP_TRITON=1. Triton is imported at
the first call, and is needed only then.
"""

from __future__ import annotations

from sggp.native.triton.host import available, unavailable_reason
from sggp.native.triton.stationary import stationary_block, stationary_gradient, stationary_matmul
from sggp.native.triton.tanimoto import tanimoto_block, tanimoto_matmul

__all__ = [
    "available",
    "stationary_block",
    "stationary_gradient",
    "stationary_matmul",
    "tanimoto_block",
    "tanimoto_matmul",
    "unavailable_reason",
]
