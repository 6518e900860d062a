"""How far a stream has come, in one file: whole or not at all, and refused for another search."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from sggp.bayesopt.streaming.shards import Found, LibrarySearch, Step, Unused
from sggp.bayesopt.streaming.shortlist import Molecule, Shortlist
from sggp.checks import as_path
from sggp.errors import DataFileError, InputError
from sggp.persistence import read_content, rebuilding, write_content

_KIND = "library stream"
_PROBES = 64
_CLOSE = 1e-5
_CELL = "\x1f"  # a control character, of which `decode` leaves none in a text
_AGAIN = "begin again with another state"


@dataclass(frozen=True)
class Shard:
    """A file as it was when it was read: its number in the order of the files, size (bytes) and time of change (ns)."""

    path: str
    number: int
    size: int
    changed: int

    @staticmethod
    def of(path: Path, number: int) -> Shard:
        """The file as it is now.

        Raises:
            DataFileError: there is no such file.
        """
        try:
            stat = path.stat()
        except OSError as error:
            raise DataFileError(f"cannot read {path}: {error.strerror or error}.") from error
        return Shard(str(path.resolve()), number, stat.st_size, stat.st_mtime_ns)


@dataclass(frozen=True)
class State:
    """What is done.

    Attributes:
        files: the paths, in order.
        whole: what was found in the shards that are done.
        done: these shards.
        part: the shard that is being read, and how far.
        seed: that of the search, or of whoever trained its model.
    """

    files: tuple[str, ...] = ()
    whole: Found = field(default_factory=Found)
    done: tuple[Shard, ...] = ()
    part: tuple[Shard, Step] | None = None
    seed: int = 0

    def step_in(self, shard: Shard) -> Step | None:
        """How far a shard was read; None where it is not the one that is being read."""
        return None if self.part is None or self.part[0] != shard else self.part[1]

    def finished(self, search: LibrarySearch, shard: Shard, found: Found) -> State:
        """With one more shard done."""
        return replace(self, whole=search.reduce(self.whole, found), done=(*self.done, shard), part=None)

    def with_files(self, paths: Sequence[Path]) -> tuple[State, list[Shard]]:
        """For these files, new ones behind the others, and the shards that are not done, in order.

        Raises:
            InputError: a file that was read is not among them, or has changed since.
        """
        now = {str(path.resolve()): path for path in paths}
        files = (*self.files, *(name for name in now if name not in self.files))
        for shard in self.done:
            if shard.path not in now:
                raise InputError(
                    f"{shard.path} was read for this state and is not among the files: give it too, or {_AGAIN}."
                )
            if Shard.of(now[shard.path], shard.number) != shard:
                raise InputError(f"{shard.path} has changed since it was read for this state: {_AGAIN}.")
        read = {shard.path for shard in self.done}
        left = [Shard.of(now[name], i) for i, name in enumerate(files) if name in now and name not in read]
        if self.part is not None and self.part[0] not in left:  # changed or left out: not a row of it is kept
            return replace(self, files=files, part=None), left
        return replace(self, files=files), left


def stream_seed(path: str | os.PathLike[str]) -> int | None:
    """The seed that a state was begun with; None where there is no such file yet.

    Raises:
        DataFileError: the file is damaged, or no state of a stream.
    """
    if not as_path(path, "state").exists():
        return None
    content = read_content(path, _KIND, again=_AGAIN)
    with rebuilding(path, _KIND, _AGAIN):
        return int(content["seed"])


def read_state(path: Path, search: LibrarySearch) -> State:
    """The state in a file, an empty one where there is none.

    Raises:
        DataFileError: damaged, or no such state. InputError: it belongs to another search, with what differs.
    """
    if not path.exists():
        return State(seed=search.seed)
    content = read_content(path, _KIND, again=_AGAIN)
    with rebuilding(path, _KIND, _AGAIN):
        kept, probes = dict(content["settings"]), content["probes"]
        state = State(
            tuple(content["files"]),
            _found(content["whole"]),
            tuple(Shard(*entry) for entry in content["done"]),
            _part(content["part"]),
            int(content["seed"]),
        )
    for name, own in _settings(search).items():
        if kept.get(name) != own:
            raise InputError(f"{path} was begun with {name} {kept.get(name)!r} and not {own!r}: {_AGAIN}.")
    mine = _probes(search)
    if mine.shape != probes.shape or not np.allclose(
        mine, probes, rtol=_CLOSE, atol=_CLOSE * np.abs(probes).max()
    ):
        raise InputError(f"{path} was begun with another model (measurements or seed): {_AGAIN}.")
    return state


def write_state(path: Path, search: LibrarySearch, state: State) -> None:
    """Replace the file, whole or not at all."""
    part = state.part
    content = {
        "settings": _settings(search),
        "probes": _probes(search),
        "files": list(state.files),
        "whole": _plain(state.whole),
        "done": [[s.path, s.number, s.size, s.changed] for s in state.done],
        "part": None
        if part is None
        else [list(vars(part[0]).values()), _plain(part[1].found), part[1].line, part[1].position],
        "seed": state.seed,
    }
    write_content(path, _KIND, content)


def _settings(search: LibrarySearch) -> dict[str, Any]:
    """What the rows kept depend on beside the model."""
    fingerprinter: Any = search.fingerprinter
    names: Any = search.exclude
    digest = hashlib.sha256("\n".join(sorted(names)).encode()).hexdigest()[:16]
    return {
        "rule": search.rule,
        "batch size": search.batch_size,
        "maximize": search.maximize,
        "molecules not to propose": f"{len(names)} ({digest})",
        "fingerprint": repr(fingerprinter.settings.plain()),
        "columns": list(search.columns),
    }


def _probes(search: LibrarySearch) -> np.ndarray:
    """What the search says of some of the measured molecules: the same for the same model, up to rounding."""
    x = search.posterior.x
    rows = torch.linspace(0, len(x) - 1, min(_PROBES, len(x)), dtype=torch.float64).round().long()
    return search.values(x[rows])


def _plain(found: Found) -> dict[str, Any]:
    short = found.shortlist
    lines = [_CELL.join(entry) for entry in short.molecules.values()]
    return {
        "lists": short.lists,
        "rows": short.rows,
        "values": short.values,
        "keys": np.fromiter(short.molecules, dtype=np.int64, count=len(lines)),
        "molecules": np.frombuffer("\n".join(lines).encode(), dtype=np.uint8),
        "counts": [found.rows, found.unusable],
        "reasons": dict(found.reasons),
        "examples": [list(entry) for entry in found.examples],
    }


def _found(kept: dict[str, Any]) -> Found:
    text = bytes(kept["molecules"]).decode()
    entries = [Molecule(*line.split(_CELL)) for line in text.split("\n")] if text else []
    molecules = dict(zip(kept["keys"].tolist(), entries, strict=True))
    rows, unusable = kept["counts"]
    examples = tuple(Unused(*entry) for entry in kept["examples"])
    short = Shortlist(kept["lists"], kept["rows"], kept["values"], molecules)
    return Found(short, rows, unusable, dict(kept["reasons"]), examples)


def _part(kept: list[Any] | None) -> tuple[Shard, Step] | None:
    if kept is None:
        return None
    shard, found, line, position = kept
    return Shard(*shard), Step(_found(found), line, position)
