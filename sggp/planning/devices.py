"""What bounds a machine: measured here in a second or two, or stated for machines that are not here."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch

from sggp.checks import finite_number, one_of, whole_number
from sggp.errors import InputError
from sggp.native import ceilings, engine
from sggp.native.conditionals import Rows
from sggp.native.families import Profile

__all__ = ["NAMED", "Device", "device_named", "this_machine"]

_SMALL = 0.15  # of the usual work of a ceiling: a tenth of a second
_ROUNDS = 3
_SYSTEM = 31  # rows of the small systems that likelihoods and factors are made of
_SYSTEMS = 512
_LEAST = 1e-3
"""Of any rate: what takes longer than all time is a slip."""


@dataclass(frozen=True)
class Device:
    """Rates of one device, and how several of them are joined.

    Raises:
        InputError: a rate that is no positive number, another kind, or no device.

    Attributes:
        name: as it is asked for.
        evaluation: kernel entries a second, of one coordinate, in float32.
        flops: of a matrix product in float32, a second. flops64: in float64.
        systems: small systems of 31 rows a second, factored in float64 with their gradients.
        memory: bytes for kernel tiles and blocks of columns on one device.
        reached: the share of these ceilings that the engine reaches in a product; 1 where the rates are its own.
        count: devices. link: bytes a second that each of them sends to the others while it receives as many.
        source: where the numbers are from. kind: "cpu" or "cuda", by which `Auto` chooses.
    """

    name: str
    evaluation: float
    flops: float
    flops64: float
    systems: float
    memory: float
    reached: float = 1.0
    count: int = 1
    link: float = 1e9
    source: str = ""
    kind: str = "cpu"

    def __post_init__(self) -> None:
        whole_number(self.count, "the number of devices")
        one_of(self.kind, "kind", ("cpu", "cuda"))
        for name in ("evaluation", "flops", "flops64", "systems", "memory", "reached", "link"):
            if not finite_number(getattr(self, name), name, infinite=name == "memory") >= _LEAST:
                raise InputError(f"{name} of a device must be positive, got {getattr(self, name)!r}.")


_SHEET = "data sheet of the maker; the share reached is an assumption"
NAMED = {
    # evaluation: two special functions an entry, of sixteen a clock and multiprocessor
    "h200": Device("h200", 1.8e12, 6.7e13, 3.4e13, 5e6, 130e9, 0.35, 1, 4.5e11, _SHEET, "cuda"),
    "h100": Device("h100", 1.8e12, 6.7e13, 3.4e13, 5e6, 72e9, 0.35, 1, 4.5e11, _SHEET, "cuda"),
    "a100": Device("a100", 1.2e12, 1.95e13, 9.7e12, 2.5e6, 72e9, 0.35, 1, 3e11, _SHEET, "cuda"),
    "laptop": Device(
        "laptop", 1.6e10, 4e11, 2e11, 1.2e6, 12e9, 0.9, 1, 1e9, "eight cores with AVX2 at 3 GHz, an assumption"
    ),
}  # fmt: skip
"""Machines that can be planned for without being here. Links: NVLink within a host; see `device_named` for others."""


def device_named(text: str) -> Device:
    """The device of a name: "h200:4" is four of them, "h200:4@5e10" with 5e10 bytes a second between them.

    Args:
        text: a name of `NAMED` or "here", which is this machine, measured; after a colon how many, after @ the link.

    Raises:
        InputError: an unknown name, a number of devices that is none, or a link that is no positive number.
    """
    most, _, link = text.partition("@")
    name, _, number = most.partition(":")
    if name != "here" and name not in NAMED:
        raise InputError(
            f"device must be here, {', '.join(NAMED)}, or several of one as in h200:4; got {text!r}."
        )
    if number and not number.isdecimal():
        raise InputError(f"device {text!r}: what follows the colon must be how many there are, as in h200:4.")
    found = this_machine() if name == "here" else NAMED[name]
    found = replace(found, count=whole_number(int(number or 1), "the number of devices"))
    if "@" not in text:
        return found
    try:
        speed = float(link)
    except ValueError:
        speed = math.nan
    if not _LEAST <= speed < math.inf:
        raise InputError(f"device {text!r}: what follows @ must be bytes a second, as in h200:4@5e10.")
    return replace(found, link=speed)


def this_machine(clock: Callable[[], float] = time.perf_counter) -> Device:
    """The CPU here with torch's present number of threads, measured in a second or two.

    Args:
        clock: what is measured in; `time.process_time` where other work shares the machine.
    """
    found = ceilings.works(torch.float32, size=_SMALL)
    names: list[str] = ["tile product", "tile evaluation", "matrix product", "exp"]
    wanted = [name for name in names if name in found]
    rates = {name: found[name].amount / _seconds(found[name].call, clock) for name in wanted}
    double = ceilings.works(torch.float64, size=_SMALL)
    wide = {name: double[name].amount / _seconds(double[name].call, clock) for name in wanted[:1]}
    return Device(
        "here",
        evaluation=rates.get("tile evaluation") or rates["exp"],
        flops=ceilings.multiply_adds(rates),
        flops64=max(wide.values()),
        systems=_SYSTEMS / _seconds(_small_systems(), clock),
        memory=_memory(),
        reached=0.93,
        source=f"measured, {torch.get_num_threads()} threads",
    )


def _memory() -> float:
    """Bytes of this machine, of which a tenth is left to the rest; infinite where the system does not say."""
    try:
        return 0.9 * os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return math.inf


def _seconds(call: Callable[[], object], clock: Callable[[], float]) -> float:
    """The least of a few, after one that is not timed."""
    call()
    taken = []
    for _ in range(_ROUNDS):
        begin = clock()
        call()
        taken.append(clock() - begin)
    return max(min(taken), 1e-9)


def _small_systems() -> Callable[[], object]:
    """A minibatch of small systems with gradients, as learning makes them; torch's factors without the engine."""
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(8 * _SYSTEMS, 3, generator=generator, dtype=torch.float64)
    members = torch.stack([torch.randperm(len(x), generator=generator)[:_SYSTEM] for _ in range(_SYSTEMS)])
    residuals = torch.randn(_SYSTEMS, _SYSTEM, 1, generator=generator, dtype=torch.float64)
    conditionals = engine(x.device, x.dtype).log_conditionals
    if conditionals is None:
        blocks = torch.eye(_SYSTEM, dtype=x.dtype).expand(_SYSTEMS, -1, -1)
        return lambda: [torch.linalg.cholesky_ex(blocks) for _ in range(4)]
    rows = Rows(members, residuals, torch.tensor(0.1, dtype=x.dtype))
    ones = torch.ones(3, dtype=x.dtype)
    return lambda: conditionals(x, ones, Profile("matern32"), rows, wanted=(True,) * 4)
