"""The ranks of a process group of `torch.distributed`: collectives that check themselves."""

from __future__ import annotations

import logging
import math
import pickle
import struct
import zlib
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any, NamedTuple, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from sggp.errors import InputError, RankLost, RanksDiverged
from sggp.parallel.checksum import checksum
from sggp.parallel.roll_call import RollCall
from sggp.parallel.workers import Compute, Part, Workers, entered, share

__all__ = ["Ranks"]

T = TypeVar("T")

_log = logging.getLogger(__name__)

_STEPS = ("gather", "sum", "agree", "share", "map", "compare", "leave the block")


class _Header(NamedTuple):
    """What the ranks compare before each collective: all but the last number have to be equal."""

    turn: int
    step: int
    what: int
    rows: int
    values: int
    told: int


class Ranks(Workers):
    """The ranks of a process group: each holds all inputs and vectors and computes its rows of a product.

    Before every collective the ranks compare, in 48 bytes each, what they are about to do and a checksum of what they
    do it with. So ranks that hold different data, seeds or settings end with `RanksDiverged` at once, not with a wrong
    answer or in a deadlock.

    Args:
        group: a process group; tensors need a backend for their device, the numbers compared one for the CPU or,
            where all is NCCL, for CUDA.
        roll: finds out who is lost when a collective fails.

    Attributes:
        bytes_received: by this rank, of the parts of products since the start.
        collectives: how many products were put together.
    """

    def __init__(self, group: Any, roll: RollCall) -> None:
        self.group, self._roll = group, roll
        self.rank, self.size = dist.get_rank(group), dist.get_world_size(group)
        self.ranks = self.size
        only_cuda = str(dist.get_backend(group)) == "nccl"
        self._home = torch.device("cuda", torch.cuda.current_device()) if only_cuda else torch.device("cpu")
        self._only_cuda, self._open, self._count = only_cuda, True, 0
        self.bytes_received = self.collectives = 0

    def __repr__(self) -> str:
        return f"Ranks(rank {self.rank} of {self.size})"

    # what workers offer ---------------------------------------------------------------------------------------------

    def gather(self, n: int, compute: Compute, alike: Iterable[Tensor] = ()) -> Tensor:
        """One all-gather of the n rows."""
        own = compute(self._part(n)).contiguous()
        self._meet("gather", f"{tuple(own.shape[1:])} {own.dtype}", n, checksum(alike))
        length, device = -(-n // self.size), own.device
        padded = own if len(own) == length else torch.cat([own, own.new_zeros(1, *own.shape[1:])])
        padded = self._sendable(padded)
        out = padded.new_empty(self.size * length, *own.shape[1:])
        self._guarded(lambda: dist.all_gather(list(out.chunk(self.size)), padded, group=self.group))
        self._received(out, (self.size - 1) / self.size)
        if n == len(out):
            return out.to(device)
        parts = [share(n, rank, self.size) for rank in range(self.size)]
        rows = [out[i * length : i * length + part.stop - part.start] for i, part in enumerate(parts)]
        return torch.cat(rows).to(device)

    def total(self, n: int, compute: Compute, alike: Iterable[Tensor] = ()) -> Tensor:
        """One all-reduce of the sum."""
        own = compute(self._part(n)).contiguous()
        self._meet("sum", f"{tuple(own.shape)} {own.dtype}", n, checksum(alike))
        device, out = own.device, self._sendable(own)
        self._guarded(lambda: dist.all_reduce(out, group=self.group))
        self._received(out, 2 * (self.size - 1) / self.size)
        return out.to(device)

    def agreed(self, number: Any) -> Any:
        kind, form = type(number), "<d" if isinstance(number, float) else "<q"
        (bits,) = struct.unpack("<q", struct.pack(form, number))
        told = self._meet("agree", kind.__name__, told=bits)[0].told
        return kind(*struct.unpack(form, struct.pack("<q", told)))

    def shared(self, make: Callable[[], T]) -> T:
        made: list[Any] = [None]
        if self.first:
            made = [_tried(make)]
        self._meet("share")
        self._guarded(lambda: dist.broadcast_object_list(made, src=0, group=self.group))
        return _value(made[0])

    def same(self, what: str, *tensors: Tensor) -> None:
        self._meet("compare", what, values=checksum(tensors))

    def map(self, function: Callable[..., T], *items: Iterable[Any]) -> list[T]:
        everything = list(zip(*items, strict=True))
        with entered(Workers()):
            own = [_tried(partial(function, *arguments)) for arguments in everything[self.rank :: self.size]]
        self._meet("map", rows=len(everything))
        parts: list[Any] = [None] * self.size
        self._guarded(lambda: dist.all_gather_object(parts, own, group=self.group))
        return [_value(parts[i % self.size][i // self.size]) for i in range(len(everything))]

    def leave(self) -> None:
        """Wait for all at the end, so that nobody is missed in a product."""
        self._meet("leave the block")

    def close(self, error: BaseException | None) -> None:
        """No more products; the others are told why if it was for an error."""
        if error is not None and not isinstance(error, RankLost | RanksDiverged):
            self._roll.report(error)
        # a group that is still alive when the interpreter ends aborts it
        self._open, self.group, self._roll.store = False, None, None

    def require_open(self) -> None:
        if not self._open:
            raise InputError(
                "the `with sggp.distributed()` that this operator was made in has ended: use it inside, or make it "
                "again."
            )

    # how ------------------------------------------------------------------------------------------------------------

    def _part(self, n: int) -> Part:
        self.require_open()
        return Part(self.rank, share(n, self.rank, self.size))

    def _sendable(self, value: Tensor) -> Tensor:
        return value.to(self._home) if self._only_cuda else value

    def _received(self, out: Tensor, share_of_others: float) -> None:
        self.bytes_received += math.ceil(out.numel() * out.element_size() * share_of_others)
        self.collectives += 1

    def _guarded(self, collective: Callable[[], Any]) -> None:
        try:
            collective()
        except RuntimeError as error:  # of torch.distributed's own kinds, or of gloo itself
            self._open = False
            _log.error("rank %d of %d: a collective failed; asking who is lost.", self.rank, self.size)
            raise RankLost(self._roll.describe(error)) from error

    def _meet(
        self, step: str, what: str = "", rows: int = 0, values: int = 0, told: int = 0
    ) -> list[_Header]:
        """The headers of all ranks, compared."""
        self.require_open()
        self._count += 1
        own = _Header(self._count, _STEPS.index(step), zlib.crc32(what.encode()), rows, values, told)
        sent = torch.tensor(own, dtype=torch.int64, device=self._home)
        table = sent.new_empty(self.size * len(own))
        self._guarded(lambda: dist.all_gather(list(table.chunk(self.size)), sent, group=self.group))
        headers = [_Header(*line) for line in table.reshape(self.size, -1).tolist()]
        for rank, header in enumerate(headers):
            if header[:-1] != headers[0][:-1]:
                self._open = False
                raise RanksDiverged(_difference(step, what, rank, header, headers[0]))
        return headers


def _difference(step: str, what: str, rank: int, header: _Header, first: _Header) -> str:
    there = f"at collective number {first.turn}"
    if header[:2] != first[:2]:
        said = (
            f"rank 0 is about to {_STEPS[first.step]} and rank {rank} to {_STEPS[header.step]} "
            f"(its number {header.turn})"
        )
    elif header[:4] != first[:4]:
        said = f"ranks 0 and {rank} {step} something of another kind or size ({first.rows} and {header.rows} rows)"
    else:
        said = f"ranks 0 and {rank} hold different numbers ({what or step})"
    return (
        f"the ranks have diverged {there}: {said}. Every rank has to run the same program on the same data: read the "
        "same inputs, in the same order, pass a seed as generator= or random_state=, do what only one rank is to do "
        "after the block, and run on machines of one kind, with as many threads each."
    )


def _tried(make: Callable[[], Any]) -> bytes:
    """Whether it went well, and the value or the exception, pickled: one that cannot be is no reason to miss a rank."""
    try:
        value = make()
    except Exception as error:  # noqa: BLE001 (raised again, on every rank)
        try:
            pickle.loads(sent := pickle.dumps((False, error)))
        except Exception:  # noqa: BLE001 (an exception may have a constructor of its own)
            sent = pickle.dumps((False, RuntimeError(f"{type(error).__qualname__}: {error}")))
        return sent
    try:
        return pickle.dumps((True, value))
    except Exception as error:  # noqa: BLE001 (raised again, on every rank)
        kind = type(value).__name__
        said = f"a result ({kind}) cannot be pickled for the other ranks: {error}. Return numbers or arrays."
        return pickle.dumps((False, InputError(said)))


def _value(sent: bytes) -> Any:
    well, value = pickle.loads(sent)
    if well:
        return value
    raise value
