"""The rows that `sggp predict` writes: all at once for small tables, block by block for large ones."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from sggp.cli.console import csv_text, say
from sggp.cli.inputs import Unused, read_cells, used_lines
from sggp.cli.model_files import SavedModel
from sggp.cli.molecules.tables import Reject, check_columns
from sggp.errors import DataFileError, InputError
from sggp.files import whole_file, write_whole
from sggp.molecules.files import read_table
from sggp.molecules.files.numeric import NumberFile, open_numbers
from sggp.molecules.files.write import csv_rows


@dataclass(frozen=True)
class Predictor:
    """A model, and what of its predictions is written.

    Attributes:
        saved: the model. data: the table. include_noise: of the standard deviation. interval: probability, or None.
        conformal: the ends are `predict_interval`'s conformal ones.
    """

    saved: SavedModel
    data: Path
    include_noise: bool
    interval: float | None
    conformal: bool = False

    @property
    def header(self) -> list[str]:
        """Names of the columns that are written."""
        return ["line", "mean", "std"] + ["low", "high"] * (self.interval is not None)

    def rows(self, cells: np.ndarray, lines: Sequence[int]) -> list[list[float]]:
        """What is written for some rows (m, d) in these lines.

        Raises:
            InputError: float64 does not hold a prediction.
        """
        model = self.saved.model
        with np.errstate(over="ignore", invalid="ignore"):
            found = [*model.predict(cells, return_std=True, include_noise=self.include_noise)]
            if self.interval is not None:
                found += model.predict_interval(cells, self.interval, conformal=self.conformal)
        values = np.stack(found, axis=1)
        if not np.isfinite(values).all():
            first = lines[int(np.argmin(np.isfinite(values).all(axis=1)))]
            raise InputError(
                f"the prediction for line {first} of {self.data} is beyond what float64 holds: measure "
                f"{self.saved.target!r} in a larger unit, and fit the model again."
            )
        return [[line, *row] for line, row in zip(lines, values.tolist(), strict=True)]

    def write(
        self, out: Path, rejected: Path, *, sheet: str | None, decimal: str | None
    ) -> tuple[int, Unused]:
        """Write the predictions of all usable rows to `out`, and list the others in `rejected`: how many, and which.

        Raises:
            DataFileError, InputError: as `read_table` and `read_cells`; nothing is written to `out` then.
        """
        names, encoder = self.saved.features, self.saved.model.columns_
        levels = {} if encoder is None else {n: c.levels for n, c in zip(names, encoder.columns, strict=True)}
        categories = {name: known for name, known in levels.items() if known is not None}
        file = open_numbers(self.data, decimal=decimal) if sheet is None and not categories else None
        if file is not None:
            check_columns(file.head, names)
            if {*names} <= {*file.numbers}:
                return self._write_blocks(file, out, rejected)
        table = read_table(self.data, sheet=sheet, decimal=decimal)
        say(self.data.name, table.notes)
        cells, rejects, _ = read_cells(table, names, categories, rejected)
        lines = used_lines(table, rejects)
        write_whole(out, csv_text(self.header, self.rows(cells, lines)))
        return len(lines), Unused().add(rejects)

    def _write_blocks(self, file: NumberFile, out: Path, rejected: Path) -> tuple[int, Unused]:
        """A block of rows at a time is read, predicted for and written: memory does not grow with their number."""
        used, unused = 0, Unused()
        told = set[tuple[str, str]]()
        say(self.data.name, file.head.notes)
        with whole_file(out) as stream:
            stream.write(csv_text(self.header, []).encode())
            with whole_file(rejected) as left:
                left.write(csv_text(Reject._fields, []).encode())
                for block in file.blocks(self.saved.features):
                    if len(block.lines):
                        rows = self.rows(block.values, block.lines.tolist())
                        stream.write(csv_rows(rows).encode())
                    bad = [Reject(self.data.name, row.line, row.reason, row.content) for row in block.bad]
                    left.write(csv_rows(bad).encode())
                    used, unused = used + len(block.lines), unused.add(bad)
                    for name, line, words in block.notes:
                        if (name, words) not in told:
                            say(self.data.name, [f"column {name!r}, line {line}: {words}"])
                        told.add((name, words))
            if not used:
                raise DataFileError(f"{self.data}: no row is complete; {unused.listed(rejected)}.")
        return used, unused
