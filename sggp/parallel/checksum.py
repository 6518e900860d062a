"""A number that tells tensors apart: of the bits, so that ranks compare what they hold without sending it."""

from __future__ import annotations

import zlib
from collections.abc import Iterable

import torch
from torch import Tensor

__all__ = ["checksum"]

_PIECES = 64
_BITS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


def checksum(tensors: Iterable[Tensor]) -> int:
    """A checksum of shapes, types and bits; rows in another order give another one, but for moves within a 64th.

    Cost: one pass over the numbers.
    """
    crc = 0
    for tensor in tensors:
        crc = zlib.crc32(f"{tuple(tensor.shape)} {tensor.dtype}".encode(), crc)
        if tensor.numel():
            bits = tensor.detach().contiguous().view(_BITS[tensor.element_size()]).reshape(-1)
            length = -(-len(bits) // _PIECES)
            whole = len(bits) // length * length
            for part in (bits[:whole].view(-1, length), bits[None, whole:]):
                crc = zlib.crc32(part.sum(1, dtype=torch.int64).cpu().numpy().tobytes(), crc)
    return crc
