"""Products with a covariance that the workers of a distributed run share."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import fields, is_dataclass
from typing import Any

import torch
from torch import Tensor

from sggp.kernels.points import Points
from sggp.parallel import Part, current
from sggp.parallel.checksum import checksum

__all__ = ["identity_of", "numbers_in", "shared_product", "worth_sharing"]

LEAST_ENTRIES = 2**16
"""A product of fewer entries takes less time than telling the others of it."""
Product = Callable[[Points, Points, Tensor, int], Tensor]
_ROWS = 32
"""Rows for each worker from which on rows are shared out; below, the terms of the sum are."""


def worth_sharing(entries: int) -> bool:
    """Whether a product of so many entries of K is shared, by the workers that this thread is among."""
    return current().size > 1 and entries >= LEAST_ENTRIES


def numbers_in(value: Any) -> Iterator[Tensor]:
    """The numbers of a value: a tensor, a number, a module's state, and those of sequences, data classes, covariances.

    Of a covariance those of its public attributes, and of a kernel that it keeps.
    """
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, int | float):
        yield torch.tensor(value, dtype=torch.float64)
    elif isinstance(value, torch.nn.Module):
        yield from value.state_dict().values()
    elif isinstance(value, tuple | list):
        for item in value:
            yield from numbers_in(item)
    elif is_dataclass(value):
        for field in fields(value):
            yield from numbers_in(getattr(value, field.name))
    elif hasattr(type(value), "identity"):  # a covariance
        for name, part in vars(value).items():
            if not name.startswith("_") or isinstance(part, torch.nn.Module):
                yield from numbers_in(part)


def identity_of(covariance: Any) -> Tensor:
    """A number that tells covariances apart, for ranks to compare."""
    return torch.tensor(checksum(numbers_in(covariance)))


def shared_product(
    product: Product, x: Points, z: Points, v: Tensor, memory_budget: int, identity: Callable[[], Tensor]
) -> Tensor:
    """K(x, z) v, (n, s), by the workers that this thread is among, who must have the same identity of K.

    Each computes some rows of the result, which are put together; where there are few rows, some of the terms, which
    are added up. Fewer than 65,536 entries are computed by everybody.
    """
    workers, (n, m) = current(), (len(x), len(z))
    if not worth_sharing(n * m) or not v.shape[1]:
        return product(x, z, v, memory_budget)

    def some_rows(part: Part) -> Tensor:
        own, columns = part.here(x[part.rows]), part.here(v)
        if x is not z:
            return product(own, part.here(z), columns, memory_budget)
        # of the diagonal block, engines compute one half
        out = product(own, own, columns[part.rows], memory_budget)
        for others in (slice(0, part.rows.start), slice(part.rows.stop, n)):
            out += product(own, part.here(z[others]), columns[others], memory_budget)
        return out

    def some_terms(part: Part) -> Tensor:
        return product(part.here(x), part.here(z[part.rows]), part.here(v[part.rows]), memory_budget)

    if n >= min(m, _ROWS * workers.size):
        return workers.gather(n, some_rows, (x.raw, z.raw, v, identity()))
    return workers.total(m, some_terms, (x.raw, z.raw, v, identity()))
