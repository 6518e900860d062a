"""One pass over the files of a library, kept on disk as it goes, and the batch at its end."""

from __future__ import annotations

import os
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Executor, wait
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from sggp.bayesopt.rules import Choice
from sggp.bayesopt.spaces.pool import Pool
from sggp.bayesopt.streaming.shards import LINES, Found, LibrarySearch, Step
from sggp.bayesopt.streaming.state import Shard, State, read_state, write_state
from sggp.checks import as_path
from sggp.errors import InputError, MoleculeWarning
from sggp.files import check_target
from sggp.molecules import FingerprintTable
from sggp.parallel import Workers, current

_SHARE = 20
"""At most one part in so many of the time goes into writing the state."""


@dataclass(frozen=True)
class StreamProgress:
    """How far a stream is: rows and unusable rows, bytes of the files done and in all, and this call's speed.

    `seconds` and `rows_now` are those of this call, `bytes_before` is what earlier calls had done.
    """

    rows: int
    unusable: int
    bytes_done: int
    bytes_total: int
    bytes_before: int = 0
    rows_now: int = 0
    seconds: float = 0.0

    @property
    def rows_per_second(self) -> float:
        return self.rows_now / self.seconds if self.seconds > 0 else 0.0

    @property
    def seconds_left(self) -> float:
        """By the bytes that are left; infinite before the first of this call are done."""
        now = self.bytes_done - self.bytes_before
        left = self.bytes_total - self.bytes_done
        return self.seconds * left / now if now > 0 else float("inf")

    def __str__(self) -> str:
        share = 100 * self.bytes_done / max(self.bytes_total, 1)
        left = self.seconds_left
        rest = "" if left == float("inf") else f", {left / 60:.0f} min left"
        return f"{self.rows:,} rows, {self.rows_per_second:,.0f} per second, {share:.1f} %{rest}"


@dataclass(frozen=True)
class Streamed:
    """A batch out of files.

    Attributes:
        choice: the rows of `table` that the rule chose, in its order, with values and reasons.
        table: the molecules that were kept, with SMILES, canonical SMILES and ids as in the files.
        files, lines: where each row of `table` stands (1-based lines).
        order: all files that were read, in the order of their numbers in `found`.
        found: what was read and what could not be used.
    """

    choice: Choice
    table: FingerprintTable
    files: list[str]
    lines: list[int]
    order: tuple[str, ...]
    found: Found

    @property
    def smiles(self) -> list[str]:
        """The molecules chosen, as they are written in the files."""
        names: Any = self.table.smiles
        return [names[row] for row in self.choice.places.tolist()]


def suggest_from_files(
    search: LibrarySearch,
    files: Sequence[str | os.PathLike[str]],
    *,
    state: str | os.PathLike[str] | None = None,
    executor: Executor | None = None,
    progress: Callable[[StreamProgress], Any] | None = None,
    scaling: tuple[float, float] = (0.0, 1.0),
) -> Streamed:
    """The next batch from molecules in files, however many, read once.

    Each file (.smi, .csv, .tsv; gzip, bzip2, xz; a row is a line) is read, fingerprinted and valued in blocks; only
    the rows that may yet be chosen are kept. At the end the rule chooses among these, so reasons, twins and exclusions
    are those of a `Pool`. See `LibrarySearch` for how exact that is.

    Args:
        search: the model, the rule and the settings.
        files: paths, in an order that decides between equal rows.
        state: file that says how far it has come, written after blocks and files and on Ctrl-C. The same call goes on
            from there and gives the same answer; files that are new are read as well. A file that was being read and
            has changed is read again from its start.
        executor: runs `search.shard` for whole files elsewhere, any `concurrent.futures.Executor`; the state is then
            written after each file. None reads here, and fingerprints in `n_jobs` processes; the ranks of a
            `with sggp.distributed()` then share the files, and all have the answer.
        progress: called after every block, or file, with a `StreamProgress`.
        scaling: offset and scale that turn the posterior's values into the user's, for the reasons.

    Raises:
        DataFileError: a file cannot be read line by line, has no column of SMILES or is damaged; the state keeps what
            was read before.
        InputError: the state belongs to another search or to files that have changed; fewer molecules than asked for.

    Cost: fingerprints, 0.2 ms (Morgan counts) to 1.1 ms (five parts) per molecule and core, and one evaluation of the
        posterior each; memory of a block and of the rows kept, whatever the number of molecules.
    """
    if isinstance(files, str | os.PathLike) or not isinstance(files, Iterable):
        raise InputError(f"files must be a list of paths, got {files!r:.60}.")
    paths = [as_path(file, "a file") for file in files]
    if not paths:
        raise InputError("there are no files to read: give at least one.")
    target = None if state is None else check_target(state)
    workers = current()

    def begin() -> tuple[State, list[Shard]]:
        begun = State(seed=search.seed) if target is None else read_state(target, search)
        return begun.with_files(paths)

    begun, left = workers.shared(begin)
    first = workers.first
    meter, keeper = (
        _Meter(begun, left, progress if first else None),
        _Keeper(target if first else None, search),
    )
    if executor is not None:
        done = keeper.elsewhere(begun, left, meter, executor)
    elif workers.ranks > 1:
        done = keeper.among_ranks(begun, left, meter, workers)
    else:
        done = keeper.here(begun, left, meter)
    return _chosen(search, done, scaling)


class _Meter:
    """Tells the progress."""

    def __init__(self, begun: State, left: list[Shard], tell: Callable[[StreamProgress], Any] | None) -> None:
        self.tell, self.start = tell, time.monotonic()
        self.total = sum(shard.size for shard in (*begun.done, *left))
        self.rows, self.bytes = _counts(begun)[0], _counts(begun)[2]

    def __call__(self, state: State) -> None:
        if self.tell is not None:
            rows, unusable, done = _counts(state)
            seconds = time.monotonic() - self.start
            self.tell(StreamProgress(rows, unusable, done, self.total, self.bytes, rows - self.rows, seconds))


def _counts(state: State) -> tuple[int, int, int]:
    """Rows, unusable rows and bytes."""
    part = Step(Found(), 0, 0) if state.part is None else state.part[1]
    rows = state.whole.rows + part.found.rows
    size = sum(shard.size for shard in state.done) + part.position
    return rows, state.whole.unusable + part.found.unusable, size


class _Keeper:
    """Reads shards, and writes the state as it goes."""

    def __init__(self, target: Path | None, search: LibrarySearch) -> None:
        self.target, self.search = target, search
        self.next = 0.0

    def here(self, state: State, left: list[Shard], meter: _Meter) -> State:
        """Shard by shard in this process."""
        try:
            for shard in left:
                for step in self._steps(state, shard):
                    state = replace(state, part=(shard, step))
                    self._write(state)
                    meter(state)
                begun = state.step_in(shard)
                state = state.finished(self.search, shard, Found() if begun is None else begun.found)
                self._write(state)
        except BaseException:  # Ctrl-C too: no block is lost
            self._write(state, now=True)
            raise
        self._write(state, now=True)
        meter(state)
        return state

    def among_ranks(self, state: State, left: list[Shard], meter: _Meter, workers: Workers) -> State:
        """Whole shards, one for each rank at a time."""
        for start in range(0, len(left), workers.ranks):
            shards = left[start : start + workers.ranks]
            paths, numbers = ([getattr(shard, name) for shard in shards] for name in ("path", "number"))
            for shard, found in zip(shards, workers.map(self.search.shard, paths, numbers), strict=True):
                state = state.finished(self.search, shard, found)
            self._write(state)
            meter(state)
        self._write(state, now=True)
        return state

    def elsewhere(self, state: State, left: list[Shard], meter: _Meter, executor: Executor) -> State:
        """Whole shards on the executor."""
        running = {executor.submit(self.search.shard, shard.path, shard.number): shard for shard in left}
        try:
            while running:
                done, _ = wait(running, return_when=FIRST_COMPLETED)
                for future in sorted(done, key=lambda one: one.exception() is not None):  # errors last
                    state = state.finished(self.search, running.pop(future), future.result())
                    self._write(state)
                    meter(state)
        finally:
            for future in running:
                future.cancel()
            self._write(state, now=True)
        return state

    def _steps(self, state: State, shard: Shard) -> Iterator[Step]:
        return self.search.steps(Path(shard.path), shard.number, state.step_in(shard))

    def _write(self, state: State, *, now: bool = False) -> None:
        start = time.monotonic()
        if self.target is None or (start < self.next and not now):
            return
        write_state(self.target, self.search, state)
        end = time.monotonic()
        self.next = end + _SHARE * (end - start)


def _chosen(search: LibrarySearch, state: State, scaling: tuple[float, float]) -> Streamed:
    """What the rule chooses among the rows that were kept."""
    found = state.whole
    kept = found.shortlist.molecules
    rows = sorted(kept)
    known: Any = search.exclude
    free = sum(kept[row].canonical not in known for row in rows)
    if free < search.batch_size:
        raise InputError(
            f"{search.batch_size} molecules are asked for but the files hold only {free} that may be proposed "
            f"({found.rows} rows, {found.unusable} of them unusable)."
        )
    own: Any = search.fingerprinter
    ids = [kept[row].id for row in rows]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", MoleculeWarning)  # of counts above 255
        table = FingerprintTable.from_smiles(
            [kept[row].smiles for row in rows], own, ids=ids if any(ids) else None
        )
    closed = [place for place, row in enumerate(rows) if kept[row].canonical in known]
    choice = search.on(Pool(table)).choose(
        search.posterior,
        exclude=torch.tensor(closed, dtype=torch.long),
        generator=search.seed,
        scaling=scaling,
    )
    files = [state.files[row // LINES] for row in rows]
    return Streamed(choice, table, files, [row % LINES for row in rows], state.files, found)
