"""Checkpoints of a solve: enough on disk, often enough, to end where an unbroken solve ends.

A file holds the bookkeeping of the solve and the plain fields (tensors, numbers, strings, tuples and lists of them)
of the solver's state. What is not plain, a preconditioner for instance, is made again by `setup` and `start` with the
random draws of the first time; so a solver takes part without a line of its own if all that its `step` changes is
plain, or a cache whose loss changes no number.
"""

from __future__ import annotations

import os
import time
import warnings
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from sggp.errors import CheckpointError, DataFileError, SggpWarning
from sggp.files import check_target
from sggp.persistence import read_content, write_content
from sggp.solvers.core.run import Run
from sggp.solvers.core.solution import Record, Status

if TYPE_CHECKING:
    from sggp.solvers.core.problem import System

__all__ = ["Checkpoint", "is_plain"]

_KIND = "checkpoint"
_INTERVAL = 1.0
"""Least seconds between two writes."""
_WORK_PER_WRITE = 20.0
"""Seconds of work for each second of writing: at most a twentieth of the time goes into checkpoints."""
_PROBE_ROWS = 32
_PROBE_COLUMNS = 1024  # of these rows at once
_SIGNS = 4
_ROUNDING = {"operator's rows": 1e-5}
"""Of sums of numbers that are in float32 perhaps; else 1e-6, and 1e-7 of the largest."""
_RUN_TENSORS = ("x", "remainder", "residual", "measured", "rejections", "error", "whole")
_RUN_PLAIN = ("wide", "both", "iterations", "last_step", "step_epochs", "step_seconds")


def is_plain(value: Any) -> bool:
    """Whether a value goes into a checkpoint: tensors, numbers, strings, None, and tuples and lists of them."""
    if type(value) in (tuple, list):
        return all(is_plain(item) for item in value)
    return value is None or type(value) in (bool, int, float, str, Tensor)


class Checkpoint:
    """One file for one solve.

    It is whole at any time (`sggp.persistence`). Writing takes at
    most a twentieth of the time: the next write waits for 20 times what the last one took, and at least a second. The
    time counts as the solve's own.

    Args:
        path: the file; its directory must exist.
        solver: described in the file by its repr.
        system: what is solved; compared with what the file was written for.
        seed: the generator argument of the solve.

    Raises:
        CheckpointError: the directory is missing or cannot be written to.

    Cost:
        A file holds about as many (n, s) float64 blocks as the solver's state, plus two.
    """

    def __init__(self, path: str | os.PathLike[str], solver: Any, system: System, seed: Any) -> None:
        self.path = Path(path)
        self._seed = seed
        self._start = system.generator.get_state()
        self._fingerprint = _fingerprint(solver, system)
        self._writes = system.operator.workers.first
        self._device = system.rhs.device
        self._last, self._took = time.perf_counter(), 0.0
        self._warned = False
        try:
            if self._writes:
                check_target(self.path)
        except DataFileError as error:
            raise CheckpointError(f"checkpoint={self.path} cannot be used: {error}") from error

    # writing --------------------------------------------------------------------------------------------------------

    def due(self) -> bool:
        """Whether it is time for the next write."""
        waited = time.perf_counter() - self._last
        return self._writes and waited >= max(_INTERVAL, _WORK_PER_WRITE * self._took)

    def write(self, run: Run, state: Any = None, columns: dict[str, Any] | None = None) -> None:
        """Save the run, and the running state unless the solve has ended; of several ranks, the first writes.

        Args:
            run: the bookkeeping.
            state: the solver's state; None where the solve has ended.
            columns: those that the state was started with, "active", those of them that are still open, "kept", and
                how many the solver was set up for, "columns".
        """
        if not self._writes:
            return
        begin = time.perf_counter()
        content = {
            "fingerprint": self._fingerprint,
            "seed": self._start,
            "generator": run.system.generator.get_state(),
            "run": _pack(run),
            "state": None,
        }
        if state is not None:
            values = {f.name: getattr(state, f.name) for f in fields(state) if f.name != "problem"}
            plain = {name: value for name, value in values.items() if is_plain(value)}
            content["state"] = {**(columns or {}), "fields": plain}
        try:
            write_content(self.path, _KIND, content)
        except DataFileError as error:
            # a full disk must not cost the work already done: the solve goes on, and says what it lacks
            if not self._warned:
                run.notes.append(f"{error} The solve goes on without a checkpoint.")
                warnings.warn(run.notes[-1], SggpWarning, stacklevel=2)
            self._warned = True
        self._last = time.perf_counter()
        self._took = self._last - begin

    # reading --------------------------------------------------------------------------------------------------------

    def load(self) -> dict[str, Any] | None:
        """The content of the file, or None where there is none yet.

        Raises:
            CheckpointError: the file is damaged, or belongs to another problem, solver or seed.
        """
        if not self.path.exists():
            return None
        try:
            content = read_content(self.path, _KIND, again="start again without it")
        except DataFileError as error:
            raise CheckpointError(f"checkpoint={self.path} cannot be used: {error}") from error
        theirs, ours = content["fingerprint"], self._fingerprint
        different = [name for name in ours if name in theirs and not _same(name, ours[name], theirs[name])]
        if isinstance(self._seed, int) and not torch.equal(self._start, content["seed"]):
            different.append("generator")
        if different:
            how = ", ".join(_explain(name, ours.get(name), theirs.get(name)) for name in different)
            raise CheckpointError(
                f"checkpoint={self.path} was written for another solve: {how}. "
                "Repeat the arguments of the first call, give another path, or delete the file."
            )
        return content

    def restore(self, system: System, content: dict[str, Any], clock: float) -> Run:
        """The run as it was saved; `clock` is when this solve began."""
        saved = content["run"]
        run = Run(
            system=system,
            **{name: saved[name] for name in (*_RUN_TENSORS, *_RUN_PLAIN)},
            status=[None if value is None else Status(value) for value in saved["status"]],
            entries0=system.operator.entries_evaluated - saved["entries"],
            clock=clock - saved["seconds"],
            notes=list(saved["notes"]),
        )
        lines = saved["history"]
        run.history = [
            Record(epochs, seconds, residual, kind)
            for (epochs, seconds, kind), residual in zip(lines["lines"], lines["residual"], strict=True)
        ]
        system.generator.set_state(content["generator"])
        return run

    def resume(
        self,
        run: Run,
        content: dict[str, Any],
        start: Callable[[Tensor], Any],
        keep: Callable[[Any, Tensor], None],
    ) -> Any:
        """The solver's state as it was saved.

        `start` is called with the generator where it was at the first start, which makes what a file does not hold;
        then every plain field takes its saved value.
        """
        saved, system = content["state"], run.system
        entries, active, kept = run.entries, saved["active"], saved["kept"]
        system.generator.set_state(content["seed"])
        state = start(active)
        if len(kept) < len(active):
            keep(state, torch.isin(active, kept).nonzero()[:, 0])
        for name, value in saved["fields"].items():
            setattr(state, name, value)
        system.generator.set_state(content["generator"])
        # what was made again was paid for before: epochs go on as if unbroken
        run.entries0 = system.operator.entries_evaluated - entries
        run.notes.append(f"resumed from {self.path.name} at iteration {run.iterations}.")
        self._last = time.perf_counter()
        return state


def _pack(run: Run) -> dict[str, Any]:
    packed = {name: getattr(run, name) for name in (*_RUN_TENSORS, *_RUN_PLAIN)}
    residuals = [record.residual for record in run.history]
    return packed | {
        "status": [None if value is None else str(value) for value in run.status],
        "notes": list(run.notes),
        "entries": run.entries,
        "seconds": run.seconds,
        "history": {
            "lines": [(record.epochs, record.seconds, record.kind) for record in run.history],
            "residual": torch.stack(residuals) if residuals else torch.zeros(0, len(run.residual)),
        },
    }


# what the file was written for --------------------------------------------------------------------------------------


def _fingerprint(solver: Any, system: System) -> dict[str, Any]:
    """What two solves of the same system share, up to rounding: thread counts must not tell them apart."""
    operator, n = system.operator, system.operator.shape[0]
    signs = _signs(n).to(system.rhs.device)
    parts = [signs.T @ system.rhs.take(column) for column in torch.arange(len(system.columns)).split(1)]
    sides = [torch.cat(parts, 1).cpu()] if parts else []
    found = {
        "solver": repr(solver),
        "n": n,
        "s": len(system.scale),
        "dtype": f"{operator.dtype}, right-hand side {system.dtype}, {operator.device.type}",
        "tolerance": system.all_tolerances,
        "columns": system.columns,
        "right-hand side": torch.cat([system.norms[None], *sides], 0),
        "its scale": system.scale[system.columns],
        "x0": None if system.x0 is None else (signs.T @ system.x0).cpu(),
        "operator's diagonal": operator.diagonal().double().cpu(),
    }
    if hasattr(operator, "block"):
        rows = torch.linspace(0, n - 1, min(n, _PROBE_ROWS)).long().unique().to(system.rhs.device)
        found["operator's entries"] = operator.block(rows, rows).double().cpu()
        columns = torch.arange(n, device=rows.device).split(
            int(min(_PROBE_COLUMNS, max(1, operator.memory_budget / (8 * _PROBE_ROWS))))
        )
        found["operator's rows"] = sum(
            (operator.block(rows, part).double() @ signs[part]).cpu() for part in columns
        )
    elif not isinstance(getattr(operator, "x", None), Tensor):
        found["operator's rows"] = (operator.matmul(signs.to(operator.dtype)).double() / n**0.5).cpu()
    for name in ("x", "z"):  # rows of input, which a few rows of the matrix do not show
        if isinstance(points := getattr(operator, name, None), Tensor):
            found[f"operator's {name}"] = _sums(points)
    return found


def _signs(n: int) -> Tensor:  # -> (n, 4)
    return torch.randint(0, 2, (n, _SIGNS), generator=torch.Generator().manual_seed(0)).double() * 2 - 1


def _sums(points: Tensor) -> Tensor:  # (n, d) -> (5, d)
    """The unit of each column, as its logarithm, and sums of the column in it with random signs.

    A change of some rows moves a sum by about as much, of all rows, as it moves the residual of what was solved.
    """
    sums, unit = torch.zeros(_SIGNS, points.shape[1], dtype=torch.float64), (points[:1].double() * 0).cpu()
    signs, rows = _signs(len(points)), max(1, 2**20 // max(1, points.shape[1]))
    for part, weights in zip(points.split(rows), signs.split(rows), strict=True):
        moved = (part.double() - points[:1].double()).cpu()
        sums += weights.T @ moved
        unit = torch.maximum(unit, moved.abs().amax(0, keepdim=True))
    unit[unit == 0] = 1.0
    return torch.cat([unit.log(), sums / unit])


def _same(name: str, ours: Any, theirs: Any) -> bool:
    if not (isinstance(ours, Tensor) and isinstance(theirs, Tensor)):
        return type(ours) is type(theirs) and bool(ours == theirs)
    if ours.shape != theirs.shape:
        return False
    if not ours.is_floating_point():
        return torch.equal(ours, theirs)
    scale = float(ours.abs().max()) if ours.numel() else 0.0
    relative, least = _ROUNDING.get(name, 1e-6), _ROUNDING.get(name, 1e-7)
    return bool(torch.allclose(ours, theirs, rtol=relative, atol=least * scale))


def _explain(name: str, ours: Any, theirs: Any) -> str:
    if name == "generator":
        return "generator is another seed"
    if isinstance(ours, Tensor) or isinstance(theirs, Tensor):
        return f"{name} differs"
    return f"{name} is {ours}, the file has {theirs}"
