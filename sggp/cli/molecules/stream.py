"""`sggp suggest --stream`: a library in files that are read once, a block at a time."""

from __future__ import annotations

import glob
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from sggp.bayesopt import Pool, Surrogate
from sggp.bayesopt.rules import make_rule
from sggp.bayesopt.streaming import (
    LibrarySearch,
    Streamed,
    StreamProgress,
    stream_seed,
    suggest_from_files,
)
from sggp.bayesopt.streaming.shards import STREAM_RULES
from sggp.checks import one_of
from sggp.cli.console import progress, stderr
from sggp.cli.molecules.tables import Reject
from sggp.errors import DataFileError, InputError
from sggp.molecules import SmilesFingerprinter
from sggp.molecules.encoding.parts import COMBINED
from sggp.random import as_generator, draw_seed

PLACES = ["library_file", "library_line"]


@dataclass(frozen=True)
class Stream:
    """What the command was asked: the state, the files, and how to choose."""

    state: Path
    files: list[Path]
    rule: str
    batch_size: int
    maximize: bool
    columns: tuple[str | None, str | None]
    seed: int

    @property
    def fingerprinter(self) -> SmilesFingerprinter:
        """That of every library."""
        return SmilesFingerprinter(parts=COMBINED)

    def paths_for(self, measured: int) -> int:
        """Sample paths that the rule needs."""
        stand_in = Pool(torch.arange(self.batch_size)[:, None], kind="counts")
        return make_rule(self.rule, stand_in, self.batch_size).paths_for(measured)

    def choose(self, model: Surrogate, measured: list[str]) -> Streamed:
        """The batch, with progress on stderr; what is measured is not proposed."""
        search = LibrarySearch(
            model.posterior,
            self.rule,
            self.batch_size,
            maximize=self.maximize,
            exclude=sorted(set(measured)),
            fingerprinter=self.fingerprinter,
            seed=self.seed,
            columns=self.columns,
        )
        try:
            with progress() as bar:
                task = bar.add_task("reading the library", total=None)

                def tell(now: StreamProgress) -> None:
                    bar.update(
                        task, total=now.bytes_total, completed=now.bytes_done, description=f"bytes: {now}"
                    )

                scaling = (model.offset, model.scale)
                return suggest_from_files(
                    search, self.files, state=self.state, progress=tell, scaling=scaling
                )
        except KeyboardInterrupt:
            stderr().print(f"note: {self.state} says how far it came; the same command goes on from there")
            raise


def stream_files(library: Path | None, rule: str, sheet: str | None, standardise: str) -> list[Path]:
    """The file, those in the folder, or those of the pattern, sorted by name; refuses what needs all rows at once."""
    one_of(rule, "--rule with --stream", STREAM_RULES)
    if sheet is not None:
        raise InputError("--library-sheet is for .xlsx files, which are not read line by line.")
    if standardise != "none":
        raise InputError("--standardise compares all molecules of a library: leave it out with --stream.")
    if library is None:
        raise InputError("--stream is for files of a library: leave it out with --reaction.")
    if library.is_dir():
        found = [path for path in library.iterdir() if path.is_file() and not path.name.startswith(".")]
    else:
        found = [library] if library.exists() else [Path(name) for name in glob.glob(str(library))]
    if not found:
        raise DataFileError(f"{library}: no such file, and no file matches it as a pattern.")
    return sorted(found)


def seed_of(state: Path | None, seed: int | None) -> int:
    """The seed that was asked for, else that of the state, else a new one."""
    begun = stream_seed(state) if seed is None and state is not None else seed
    return draw_seed(as_generator(None)) if begun is None else begun


def unused_rows(answer: Streamed) -> list[Reject]:
    """The first rows of the library that could not be used, and on stderr how many there are for which reason."""
    found = answer.found
    if found.unusable:
        usual = sorted(found.reasons.items(), key=lambda item: -item[1])[:5]
        said = "; ".join(f"{times:,} {reason}" for reason, times in usual)
        stderr().print(f"{found.unusable:,} of {found.rows:,} rows cannot be used: {said}")
        if found.unusable > len(found.examples):
            stderr().print(f"note: the first {len(found.examples):,} of them are listed")
    names = [Path(name).name for name in answer.order]
    return [Reject(names[row.shard], row.line, row.reason, row.content) for row in found.examples]


def with_places(
    header: list[str], listed: list[list[Any]], answer: Streamed
) -> tuple[list[str], list[list[Any]]]:
    """A listing whose last column is the row of the table, with file and line in its place."""
    rows = answer.choice.places.tolist()
    lines = [
        [*line[:-1], Path(answer.files[row]).name, answer.lines[row]]
        for line, row in zip(listed, rows, strict=True)
    ]
    return [*header[:-1], *PLACES], lines
