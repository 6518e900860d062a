"""From SMILES to sparse counts, over several processes.

RDKit holds Python's lock while it parses, so threads do not speed parsing up (measured: 1.0x with two threads, 2.1x
with two processes); parsing is two thirds of the work. Hence chunks of SMILES go to worker processes, which send
back packed sparse arrays of about 130 bytes per molecule, 1.3 kB where several fingerprints stand side by side.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from joblib import Parallel, delayed, effective_n_jobs  # type: ignore[import-untyped]

from sggp.checks import whole_number
from sggp.errors import InputError
from sggp.molecules.encoding.parts import FingerprintSettings

if TYPE_CHECKING:
    from sggp.molecules._rdkit import Encoded

_CHUNK = 2000
_SERIAL_CHUNK = 250  # without processes to pay for, few molecules are in memory at a time
_SERIAL_BELOW = 8000
_IDLE = 15  # seconds after which an idle worker ends and gives its memory back


def processes(n_jobs: int | None, n: int) -> int:
    """How many processes to use for n molecules.

    None means one per core from 8,000 molecules on and none besides this one below; -1 means one per core.
    """
    if n_jobs is not None and whole_number(n_jobs, "n_jobs", least=None) == 0:
        raise InputError("n_jobs must be None or a non-zero integer, got 0.")
    if n <= _CHUNK or (n_jobs is None and n < _SERIAL_BELOW):
        return 1
    return int(effective_n_jobs(-1 if n_jobs is None else n_jobs))


def encode_all(
    smiles: Sequence[object],
    settings: FingerprintSettings,
    *,
    canonical: bool,
    n_jobs: int | None = None,
    progress: bool = False,
) -> Encoded:
    """Fingerprints of all SMILES, in order.

    Args:
        smiles: n entries; anything that is not usable SMILES ends up in `invalid`.
        settings: the fingerprint.
        canonical: also compute canonical SMILES (0.05 s more per 1,000).
        n_jobs: processes, see `processes`.
        progress: show a bar if tqdm is installed.

    Returns:
        `Encoded` with n rows.

    Raises:
        MissingExtra: RDKit is not installed.
        InputError: n_jobs is 0.

    Cost: see `SmilesFingerprinter`; memory three bytes per entry beside the SMILES.
    """
    from sggp.molecules._rdkit import Encoded  # RDKit is an extra

    workers = processes(n_jobs, len(smiles))
    size = _CHUNK if workers > 1 else _SERIAL_CHUNK
    chunks = [smiles[start : start + size] for start in range(0, len(smiles), size)]
    running = _run(chunks, settings, canonical, workers)
    pieces = list(progress_bar(running, len(smiles), progress))
    offsets = np.cumsum([0] + [len(piece.sizes) for piece in pieces])
    names = [name for piece in pieces for name in piece.canonical or ()] if canonical else None
    return Encoded(
        sizes=_join([piece.sizes for piece in pieces], np.int64),
        columns=_join(
            [piece.columns for piece in pieces], np.uint16 if settings.width <= 2**16 else np.uint32
        ),
        counts=_join([piece.counts for piece in pieces], np.uint8),
        canonical=names,
        invalid=[(i + int(o), t, r) for o, p in zip(offsets, pieces, strict=False) for i, t, r in p.invalid],
        saturated=[i + int(o) for o, piece in zip(offsets, pieces, strict=False) for i in piece.saturated],
    )


def _run(
    chunks: list[Sequence[object]], settings: FingerprintSettings, canonical: bool, workers: int
) -> Iterator[Encoded]:
    from sggp.molecules._rdkit import encode

    if workers == 1:
        return (encode(chunk, settings, canonical=canonical) for chunk in chunks)
    options = {"backend": "loky", "return_as": "generator", "idle_worker_timeout": _IDLE}
    parallel = Parallel(n_jobs=workers, pre_dispatch=3 * workers, **options)
    job: Callable[..., Any] = delayed(encode)
    return iter(parallel(job(list(chunk), settings, canonical=canonical) for chunk in chunks))


def progress_bar(pieces: Iterable[Encoded], total: int, enabled: bool) -> Iterator[Encoded]:
    """Pass the pieces on, showing how many molecules are done; silent without tqdm."""
    if not enabled:
        yield from pieces
        return
    try:
        from tqdm.auto import tqdm  # optional
    except ImportError:
        yield from pieces
        return
    with tqdm(total=total, desc="fingerprints", unit="mol") as bar:
        for piece in pieces:
            bar.update(len(piece.sizes))
            yield piece


def _join(arrays: list[np.ndarray], dtype: Any) -> np.ndarray:
    return np.concatenate(arrays) if arrays else np.zeros(0, dtype=dtype)
