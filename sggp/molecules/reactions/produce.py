"""Products by RDKit, in chunks, over several processes."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
from joblib import Parallel, delayed, effective_n_jobs  # type: ignore[import-untyped]

from sggp.molecules.encoding.parts import FingerprintSettings
from sggp.molecules.reactions.filters import ProductFilter
from sggp.molecules.reactions.store import Kept

if TYPE_CHECKING:
    from sggp.molecules.reactions._reactor import Made

Input = tuple[str, tuple[str, ...], int]
"""What a product is made of: reaction SMARTS, reagents, and which of several products."""
_CHUNK = 250
_SERIAL_BELOW = 750
_IDLE = 60  # seconds after which an idle worker ends and gives its memory back


def produce(
    inputs: Sequence[Input],
    places: Sequence[int],
    fingerprint: FingerprintSettings,
    keep: ProductFilter,
    n_jobs: int | None,
) -> Iterator[tuple[list[int], list[Kept]]]:
    """The products of some of the inputs, a chunk at a time: their places and what came of them.

    Args:
        inputs: what products are made of.
        places: which of them are to be made.
        fingerprint: of what.
        keep: which products are let through.
        n_jobs: processes; None is one per core from 750 products on; -1 is one per core always.
    """
    from sggp.molecules.reactions._reactor import make  # RDKit is an extra

    chunks = []
    for smarts in dict.fromkeys(inputs[place][0] for place in places):
        own = [place for place in places if inputs[place][0] == smarts]
        chunks += [(smarts, own[start : start + _CHUNK]) for start in range(0, len(own), _CHUNK)]
    jobs = [
        (smarts, [inputs[i][1] for i in own], [inputs[i][2] for i in own], fingerprint, keep)
        for smarts, own in chunks
    ]
    few = n_jobs is None and len(places) < _SERIAL_BELOW
    workers = 1 if few or len(jobs) < 2 else int(effective_n_jobs(-1 if n_jobs is None else n_jobs))
    made: Any = (make(*job) for job in jobs)
    if workers > 1:
        options = {"backend": "loky", "return_as": "generator", "idle_worker_timeout": _IDLE}
        with _without_interrupts():
            made = Parallel(n_jobs=workers, pre_dispatch=3 * workers, **options)(
                delayed(make)(*job) for job in jobs
            )
    for (_, own), one in zip(chunks, made, strict=True):
        yield own, _kept(one)


@contextmanager
def _without_interrupts() -> Iterator[None]:
    """Processes that begin here never see Ctrl-C: it is for this process, which ends them."""
    if threading.current_thread() is not threading.main_thread():
        yield  # only the main thread may say what becomes of signals
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN) or signal.SIG_DFL  # inherited, unlike a handler
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _kept(made: Made) -> list[Kept]:
    ends = np.cumsum(made.encoded.sizes)
    columns, counts = made.encoded.columns, made.encoded.counts
    return [
        Kept(name, reason, columns[end - size : end].tobytes(), counts[end - size : end].tobytes())
        for name, reason, size, end in zip(
            made.canonical, made.reasons, made.encoded.sizes, ends, strict=True
        )
    ]
