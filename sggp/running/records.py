"""The steps of a long computation as JSON lines."""

from __future__ import annotations

import json
import math
import os
import sys
import time
import warnings
from contextlib import ExitStack
from typing import Any, Self

from sggp.checks import as_path
from sggp.errors import DataFileError, SggpWarning
from sggp.running.scope import Step, listening

__all__ = ["JsonLines", "resident_bytes"]


class JsonLines:
    """Append every step told in a `with` block to a file, one JSON object a line, each on disk before the next step.

    The keys are `time` (seconds since 1970), `seconds` (since the block was entered), `phase`, `done`, `of` (null where
    nobody knows), `memory` (bytes of this process), and by phase the `values` of `Step`: `epochs`, `residual`,
    `tolerance` and `open_columns` of a solve, `value` and `gradient_norm` of the learning; `note` where something was
    said. Numbers that are not finite are null.

    Args:
        path: the file; lines are added to what it holds.

    Raises:
        DataFileError: the file cannot be opened for writing.

    Warns:
        SggpWarning: once, where a line cannot be written: a full disk costs the line, not the run.

    Example:
        >>> import json, tempfile, torch, gpytorch
        >>> from pathlib import Path
        >>> from sggp import condition
        >>> from sggp.running import JsonLines
        >>> from sggp.solvers import ConjugateGradients
        >>> x = torch.linspace(0, 1, 50, dtype=torch.float64)[:, None]
        >>> kernel = gpytorch.kernels.MaternKernel(nu=1.5).double()
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     with JsonLines(Path(folder) / "run.jsonl"):
        ...         _ = condition(kernel, x, x[:, 0], noise_variance=0.1, solver=ConjugateGradients(), num_samples=0)
        ...     lines = (Path(folder) / "run.jsonl").read_text().splitlines()
        >>> " ".join(sorted(json.loads(lines[-1])))
        'done epochs memory of open_columns phase residual seconds time tolerance'
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = as_path(path, "path")
        self._stack, self._warned = ExitStack(), False

    def __enter__(self) -> Self:
        try:
            self._file = self._stack.enter_context(open(self.path, "ab+", buffering=0))
            if _is_cut(self._file):
                self._file.write(b"\n")
        except (OSError, ValueError) as error:
            self._stack.close()
            words = getattr(error, "strerror", None) or error
            raise DataFileError(f"cannot write {self.path}: {words}. Choose another folder.") from error
        self._begin = time.perf_counter()
        self._stack.enter_context(listening(self))
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def __call__(self, step: Step) -> None:
        """Write one line."""
        line = {
            "time": time.time(),
            "seconds": time.perf_counter() - self._begin,
            "phase": step.phase,
            "done": step.done,
            "of": step.of,
            "memory": resident_bytes(),
            **step.values,
        } | ({"note": step.note} if step.note else {})
        text = json.dumps({key: _finite(value) for key, value in line.items()}) + "\n"
        try:
            self._file.write(text.encode())
        except OSError as error:
            if not self._warned:
                told = f"cannot write {self.path}: {error.strerror or error}. The run goes on without these lines."
                warnings.warn(told, SggpWarning, stacklevel=2)
            self._warned = True


def _is_cut(file: Any) -> bool:
    """Whether the last line of a file has no end, as after a disk was full: the next one begins on its own."""
    if not file.seekable() or not file.seek(0, os.SEEK_END):
        return False
    file.seek(-1, os.SEEK_END)
    return bool(file.read(1) != b"\n")


def _finite(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value


def resident_bytes() -> int:
    """Memory of this process now, in bytes; its peak where the system tells only that, 0 where it tells nothing."""
    try:
        with open("/proc/self/statm", encoding="ascii") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return _peak_bytes()


def _peak_bytes() -> int:
    try:
        import resource
    except ImportError:  # not on Windows
        return 0
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return int(peak if sys.platform == "darwin" else 1024 * peak)
