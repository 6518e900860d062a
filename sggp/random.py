"""Generators: one named stream per purpose, no default seed."""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
import torch

from sggp.errors import DtypeError, InputError
from sggp.parallel import current
from sggp.typing import Seed

_SEED_BITS = 62


def as_generator(seed: Seed = None) -> torch.Generator:
    """Turn a seed, a generator or nothing into a CPU `torch.Generator`.

    Args:
        seed: an int (reproducible), a CPU generator (returned as it is), or None (fresh entropy, on
            the ranks of a distributed run that of rank 0).

    Raises:
        DtypeError: `seed` is none of these, or a generator of another device.
        InputError: an int of more than 64 bits.
    """
    if seed is None:
        return torch.Generator().manual_seed(current().agreed(torch.Generator().seed() >> 1))
    if isinstance(seed, torch.Generator):
        if seed.device.type != "cpu":
            raise DtypeError(
                f"generator lives on {seed.device}; sggp draws on the CPU so that results do not depend on the "
                "device: pass torch.Generator() or an int."
            )
        return seed
    if isinstance(seed, bool) or not hasattr(seed, "__index__"):
        raise DtypeError(f"expected an int, a torch.Generator or None as a seed, got {type(seed).__name__}.")
    number = int(seed.__index__())
    if not -(2**63) <= number < 2**64:
        raise InputError(f"a seed must fit 64 bits, got {number}.")
    return torch.Generator().manual_seed(number)


def draw_seed(generator: torch.Generator) -> int:
    """One integer in [0, 2^62) from `generator`, for libraries that take integer seeds.

    Raises:
        InputError: torch makes tensors on another device than the CPU by default.
    """
    default = torch.get_default_device()
    if default.type != "cpu":
        raise InputError(
            f"torch's default device is {default}, and sggp draws on the CPU and computes where its arguments are: "
            "call it within `with torch.device('cpu'):`, and say by device= or by the tensors given where to compute."
        )
    return int(torch.randint(2**_SEED_BITS, (), generator=generator, dtype=torch.int64))


def streams(generator: torch.Generator, *names: str) -> tuple[torch.Generator, ...]:
    """Independent generators, one per purpose, all determined by the state of `generator`.

    One number is drawn from `generator`; each stream is seeded by a hash of that number and its name, so adding a
    stream never changes the numbers of another.
    """
    root = draw_seed(generator)
    out = []
    for name in names:
        digest = hashlib.blake2b(f"{root}:{name}".encode(), digest_size=8).digest()
        out.append(torch.Generator().manual_seed(int.from_bytes(digest, "little") >> 2))
    return tuple(out)


def numpy_state(seed: Any) -> np.random.RandomState:
    """What scikit-learn calls a random state: of a seed, itself, or NumPy's own one for None.

    Raises:
        InputError: anything else, as scikit-learn has it.
    """
    from sklearn.utils import check_random_state

    try:
        return check_random_state(seed)
    except ValueError as error:
        raise InputError(
            f"random_state must be an integer from 0 to 2**32 - 1, a numpy.random.RandomState or None, got {seed!r}."
        ) from error
