"""How many bytes torch held at the worst moment of a call."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch


def peak_bytes(call: Callable[[], Any]) -> int:
    """The peak of torch's CPU allocations made during `call`, in bytes above what was held before.

    Every allocation and release of torch's own allocator is seen, inside operators too (through the profiler's memory
    events). What a native extension takes from the system by itself is not.
    """
    # torch.profiler.profile would also make a Python object of each operation
    with torch.autograd.profiler.profile(use_kineto=True, profile_memory=True) as profile:
        call()
    events = [e for e in profile.kineto_results.events() if e.name() == "[memory]"]
    held = peak = 0
    for event in sorted(events, key=lambda e: e.start_ns()):
        held += event.nbytes()
        peak = max(peak, held)
    return peak
