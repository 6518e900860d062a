"""Near points met one by one: fused in C++, or by blocks in torch."""

from __future__ import annotations

import torch
from torch import Tensor

from sggp.native import library, reference
from sggp.native.families import Profile
from sggp.native.far.lists import Near

__all__ = ["near_products", "near_products_in_torch", "products_near"]


def near_products(
    a: Tensor, b: Tensor, v: Tensor, profile: Profile, near: Near, *, isa: str | None = None
) -> Tensor:
    """Rows of K(a, b) v with what `near` leaves out taken as zero, in C++.

    Args:
        a: (n, d) float64 scaled targets, in the order of their tree. b: (m, d) sources likewise.
        v: (m, s), float32 or float64: the precision of entries, made of differences that are taken in float64.
        near: which.
        isa: one of `sggp.native.instruction_sets()`; None takes the best.

    Returns:
        (n, s) in the dtype of v.

    Cost: the entries of `near`, each made once; for every thread 256·(2·d + 2·s) numbers and the rows of one leaf.
    """
    out = torch.zeros(len(a), v.shape[1], dtype=v.dtype)
    if out.numel() and len(near.runs):
        name = f"near_{library.SUFFIX[v.dtype]}"
        points = (*profile.numbers, a, len(a), b, len(b), a.shape[1], v, v.shape[1])
        groups = (near.groups, near.offsets, len(near.groups), near.runs)
        library.run(name, *points, *groups, out, isa=isa, refusal="near: ranges outside the points.")
    return out


def near_products_in_torch(a: Tensor, b: Tensor, v: Tensor, profile: Profile, near: Near) -> Tensor:
    """The same by one dense block a leaf."""
    out = torch.zeros(len(a), v.shape[1], dtype=v.dtype)
    offsets = near.offsets.tolist()
    for g, (first, last) in enumerate(near.groups.tolist()):
        for start, stop in near.runs[offsets[g] : offsets[g + 1]].tolist():
            block = reference.stationary_block(a[first:last], b[start:stop], profile, dtype=v.dtype)
            out[first:last] += block @ v[start:stop]
    return out


def products_near(a: Tensor, b: Tensor, v: Tensor, profile: Profile, near: Near) -> Tensor:
    """The same by whichever is here."""
    return (near_products if library.available() else near_products_in_torch)(a, b, v, profile, near)
