"""A counter-based pseudo-random function on whole tensors of 32-bit integers, for hashed features.

``table(elements, keys)[e, m]`` is a fixed 32-bit value for every (64-bit element, 64-bit feature key):
nothing is stored, any element can be asked for, and the value does not depend on what else is asked. Integer
arithmetic only, so all devices agree bit for bit. Elements go through the 64-bit finaliser of splitmix64
(Steele, Lea & Flood 2014), and each entry through two keyed rounds of Wellons' 32-bit mixer "lowbias32"
(hash-prospector, 2018).
"""

from __future__ import annotations

import torch
from torch import Tensor

_BLOCK = 2**16
"""Entries hashed at a time on a CPU: 256 KiB of int32, which stays in the second-level cache."""


def _signed(value: int, bits: int) -> int:
    return value - (1 << bits) if value >= 1 << (bits - 1) else value


_MIX_A, _MIX_B = _signed(0x7FEB352D, 32), _signed(0x846CA68B, 32)
_SPLIT_A, _SPLIT_B = _signed(0xBF58476D1CE4E5B9, 64), _signed(0x94D049BB133111EB, 64)


def _right(value: Tensor, by: int, bits: int) -> Tensor:
    """Logical shift to the right; torch's own is arithmetic."""
    return (value >> by).bitwise_and_((1 << (bits - by)) - 1)


def element_codes(column: Tensor, cell: Tensor | int, arrival: int = 0, purpose: int = 0) -> Tensor:
    """One scrambled int64 per (column, cell < 2^11, arrival < 2^10, purpose < 4): distinct inputs, distinct codes."""
    code = ((column.to(torch.int64) + 1) << 23) + arrival * 4 + purpose
    code = code + ((cell.to(torch.int64) << 12) if isinstance(cell, Tensor) else (cell << 12))
    code = (code ^ _right(code, 30, 64)) * _SPLIT_A
    code = (code ^ _right(code, 27, 64)) * _SPLIT_B
    return code ^ _right(code, 31, 64)


def _mix_(value: Tensor) -> Tensor:
    value ^= _right(value, 16, 32)
    value *= _MIX_A
    value ^= _right(value, 15, 32)
    value *= _MIX_B
    value ^= _right(value, 16, 32)
    return value


def table(elements: Tensor, keys: Tensor) -> Tensor:
    """Values of the function for every element and feature.

    Args:
        elements: (u,) int64 codes.
        keys: (2, m) int32, two random words per feature.

    Returns:
        (u, m) int32, uniform over all 2^32 values.
    """
    out = torch.empty(len(elements), keys.shape[1], dtype=torch.int32, device=elements.device)
    block = _BLOCK if elements.device.type == "cpu" else 2**24
    step = max(1, block // max(1, keys.shape[1]))
    for start in range(0, len(elements), step):
        out[start : start + step] = entries(elements[start : start + step, None], keys)
    return out


def entries(elements: Tensor, keys: Tensor) -> Tensor:
    """Single values instead of a table: element e with key e, (u,) and (2, u) -> (u,) int32; shapes broadcast."""
    part = _mix_(elements.to(torch.int32) ^ keys[0])
    part ^= (elements >> 32).to(torch.int32)
    part += keys[1]
    return _mix_(part)


def uniform(value: Tensor) -> Tensor:
    """Values of the function as float64 in (0, 1), increasing in the signed 32-bit value."""
    return (value.to(torch.float64) + (2.0**31 + 0.5)) * 2.0**-32


def sign(value: Tensor) -> Tensor:
    """±1 (int8) by the lowest bit."""
    return (value & 1).to(torch.int8).mul_(2).sub_(1)


def draw_keys(num_features: int, generator: torch.Generator) -> Tensor:
    """(2, m) int32 keys from `generator`."""
    keys = torch.randint(-(2**31), 2**31, (2, num_features), generator=generator, dtype=torch.int64)
    return keys.to(torch.int32)
