"""Several devices of one host, each with a thread."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch
from torch import Tensor

from sggp.errors import InputError
from sggp.parallel.workers import Compute, Part, Workers, share

__all__ = ["Devices"]


class Devices(Workers):
    """The devices of one host: rows of a product are split over them, and its result is put together where v lives.

    Args:
        devices: such as ["cuda:0", "cuda:1"]; one name twice is two threads on that device.

    Raises:
        InputError: no device, or one that is not there.

    Cost:
        Inputs and vectors are copied to every device for each product: n·(d + s) numbers beside n²·(d + s) flops. One
        thread per device; results do not depend on which one ends first.
    """

    def __init__(self, devices: Sequence[str | torch.device]) -> None:
        if isinstance(devices, str | torch.device) or not devices:
            raise InputError(f'devices must be a list such as ["cuda:0", "cuda:1"], got {devices!r}.')
        try:
            self.devices = [torch.device(device) for device in devices]
            for device in self.devices:
                torch.empty(0, device=device)
        except (RuntimeError, AssertionError, TypeError) as error:
            raise InputError(f"devices={list(devices)!r} are not all there: {error}") from error
        self.size = len(self.devices)
        self._threads = ThreadPoolExecutor(self.size, thread_name_prefix="sggp-device")

    def __repr__(self) -> str:
        return f"Devices({[str(device) for device in self.devices]})"

    def gather(self, n: int, compute: Compute, alike: Iterable[Tensor] = ()) -> Tensor:
        return torch.cat(self._parts(n, compute, alike))

    def total(self, n: int, compute: Compute, alike: Iterable[Tensor] = ()) -> Tensor:
        first, *others = self._parts(n, compute, alike)
        for other in others:  # in their order: the sum is the same whoever ends first
            first = first + other
        return first

    def _parts(self, n: int, compute: Compute, alike: Iterable[Tensor]) -> list[Tensor]:
        homes = {value.device for value in alike}
        home = homes.pop() if homes else None
        parts = [Part(i, share(n, i, self.size), device) for i, device in enumerate(self.devices)]
        found = list(self._threads.map(self._quietly(compute), parts))
        return found if home is None else [value.to(home) for value in found]

    @staticmethod
    def _quietly(compute: Compute) -> Any:
        def run(part: Part) -> Tensor:
            with torch.no_grad():  # which is a thread's own setting
                return compute(part)

        return run
